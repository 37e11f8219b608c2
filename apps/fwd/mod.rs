//! `nty fwd`: frames from one device to another, as a wire, as a mirror, or as a router.
//!
//! - `--mode l2` wires ports in pairs. With `--mac-swap` every frame goes back where it came from, its stations exchanged.
//! - `--mode l3` routes IPv4.
//!
//! Frames move in bursts. One that goes back through the port that it came from is changed and sent in its place; one that leaves
//! through another port is copied once, into that device's memory.

mod acl;
mod forward;
mod port;
mod router;
mod run;
#[cfg(test)]
mod tests;

pub use run::run;

use crate::device::station;
use crate::values::{Cidr, Mac, Span};
use acl::{Acl, Rule};
use forward::{Mode, PortConfig, Rewrite};
use ntytcp::device::spec::DeviceSpec;
use ntytcp::rng::Rng;
use ntytcp::stack::route::{InterfaceAddr, Prefix, Route, RouteTable};
use ntytcp::wire::MacAddr;
use router::Router;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// How frames find their way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Layer {
    L2,
    L3,
}

/// What `nty fwd` is asked to do.
#[derive(Clone, PartialEq, Eq, Debug, clap::Args)]
pub struct Options {
    /// A port: tap:NAME, packet:IFACE, xdp:IFACE; repeat for more. A PORT is named by its number, from 0, or by what follows the colon
    #[arg(long, value_name = "DEVICE", required = true)]
    device: Vec<DeviceSpec>,
    /// l2: ports 0 and 1, 2 and 3, ... are wired to each other; l3: IPv4 is routed
    #[arg(long, value_name = "MODE", default_value = "l2")]
    mode: Layer,
    /// Send each frame back where it came from, its stations exchanged (l2)
    #[arg(long)]
    mac_swap: bool,
    /// Frames that leave through PORT go to this station (l2)
    #[arg(long, value_name = "PORT=MAC")]
    to_mac: Vec<OfPort<Mac>>,
    /// Frames that leave through PORT come from this station (l2)
    #[arg(long, value_name = "PORT=MAC")]
    from_mac: Vec<OfPort<Mac>>,
    /// Our station at PORT [default: derived from the device, locally administered]
    #[arg(long, value_name = "PORT=MAC")]
    mac: Vec<OfPort<Mac>>,
    /// Our address at PORT and its network, as 0=10.0.0.1/24 (l3)
    #[arg(long, value_name = "PORT=ADDRESS/PREFIX")]
    addr: Vec<OfPort<Cidr>>,
    /// Packets to PREFIX leave through PORT, to their destination or to a next hop: 10.1.0.0/16=1, 0.0.0.0/0=1,via 10.0.1.254, or via a MAC (l3)
    #[arg(long, value_name = "PREFIX=PORT[,via HOP]")]
    route: Vec<RouteSpec>,
    /// PORT is on this VLAN: its frames have the tag, others are not for us (l3)
    #[arg(long, value_name = "PORT=ID")]
    vlan: Vec<OfPort<u16>>,
    /// Rule for packets, as 'deny udp from 10.0.0.0/8 to any port 53'; repeat for more, the first that fits decides
    #[arg(long, value_name = "RULE")]
    acl: Vec<Rule>,
    /// Rules from a file, one a line, behind those of --acl
    #[arg(long, value_name = "FILE")]
    acl_file: Option<PathBuf>,
    /// End after this time [default: at Ctrl-C]
    #[arg(long, value_name = "TIME")]
    seconds: Option<Span>,
    /// Never sleep: poll the devices all the time, for the least delay
    #[arg(long)]
    busy_poll: bool,
}

/// A value of one port.
#[derive(Clone, PartialEq, Eq, Debug)]
struct OfPort<T> {
    port: String,
    value: T,
}

impl<T: FromStr> FromStr for OfPort<T>
where
    T::Err: std::fmt::Display,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, value) = text.split_once('=').ok_or("no \"=\": give PORT=VALUE, as 0=...")?;
        let value = value.parse().map_err(|error: T::Err| error.to_string())?;
        Ok(Self { port: port.to_owned(), value })
    }
}

/// Who packets are handed to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hop {
    /// Their destination, which is on the link.
    Destination,
    Router(IpAddr),
    Station(MacAddr),
}

/// A route as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
struct RouteSpec {
    prefix: Prefix,
    port: String,
    hop: Hop,
}

impl FromStr for RouteSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (prefix, way) = text.split_once('=').ok_or("no \"=\": give PREFIX=PORT, as 10.1.0.0/16=1")?;
        let prefix: Prefix = prefix.trim().parse().map_err(|error| format!("{error}"))?;
        if prefix.addr().is_ipv6() {
            return Err(format!("{prefix}: only IPv4 is routed so far: give a prefix of that"));
        }
        let (port, hop) = match way.split_once(',') {
            None => (way, Hop::Destination),
            Some((port, via)) => {
                let hop = via.trim().strip_prefix("via").map(str::trim).unwrap_or_default();
                let addr = hop.parse().map(Hop::Router);
                let hop = addr.or_else(|_| hop.parse().map(Hop::Station));
                (port, hop.map_err(|_| format!("{via:?} is no next hop: give via ADDRESS or via MAC"))?)
            }
        };
        Ok(Self { prefix, port: port.trim().to_owned(), hop })
    }
}

impl Options {
    /// The ports, as far as they can be known before the devices are open.
    ///
    /// # Errors
    /// What contradicts each other, with the remedy.
    fn ports(&self) -> Result<Vec<PortConfig>, String> {
        self.check()?;
        self.check_repeats()?;
        let fresh = |spec: &DeviceSpec| PortConfig {
            name: spec.to_string(),
            mac: station(&spec.to_string(), []),
            addrs: Vec::new(),
            vlan: None,
            rewrite: Rewrite::default(),
        };
        let mut ports: Vec<_> = self.device.iter().map(fresh).collect();
        for OfPort { port, value } in &self.mac {
            self.port_mut(&mut ports, port)?.mac = MacAddr(value.0);
        }
        for OfPort { port, value } in &self.to_mac {
            self.port_mut(&mut ports, port)?.rewrite.to = Some(*value);
        }
        for OfPort { port, value } in &self.from_mac {
            self.port_mut(&mut ports, port)?.rewrite.from = Some(*value);
        }
        for OfPort { port, value } in &self.vlan {
            if !(1..4_095).contains(value) {
                return Err(format!("VLAN {value} of port {port}: give 1 to 4094"));
            }
            self.port_mut(&mut ports, port)?.vlan = Some(*value);
        }
        for OfPort { port, value } in &self.addr {
            if value.addr.is_ipv6() {
                return Err(format!("{value}: only IPv4 is routed so far: give an address of that"));
            }
            let addr = InterfaceAddr::new(value.addr, value.prefix).map_err(|error| error.to_string())?;
            let index = self.index(port)?;
            let of_others = ports.iter().enumerate().filter(|(number, _)| *number != index);
            let network = addr.network();
            if let Some((other, _)) =
                of_others.into_iter().find(|(_, port)| port.addrs.iter().any(|a| a.network() == network))
            {
                return Err(format!(
                    "{network} is at ports {other} and {index}, so a packet to it could leave through either: give each port a network of \
                     its own"
                ));
            }
            self.port_mut(&mut ports, port)?.addrs.push(addr);
        }
        Ok(ports)
    }

    /// What a port has one of is given once.
    fn check_repeats(&self) -> Result<(), String> {
        for (at, device) in self.device.iter().enumerate() {
            let is_same =
                |other: &DeviceSpec| !device.argument().is_empty() && other.argument() == device.argument();
            if self.device.iter().take(at).any(is_same) {
                return Err(format!("--device {device} is a port already: give each interface once"));
            }
        }
        self.check_once("--mac", &self.mac)?;
        self.check_once("--to-mac", &self.to_mac)?;
        self.check_once("--from-mac", &self.from_mac)?;
        self.check_once("--vlan", &self.vlan)?;
        for (at, route) in self.route.iter().enumerate() {
            if self.route.iter().take(at).any(|other| other.prefix == route.prefix) {
                return Err(format!("--route {} is given twice: give one way", route.prefix));
            }
        }
        Ok(())
    }

    fn check_once<T>(&self, flag: &str, values: &[OfPort<T>]) -> Result<(), String> {
        let mut seen = HashSet::new();
        for OfPort { port, .. } in values {
            if !seen.insert(self.index(port)?) {
                return Err(format!("{flag} is given twice for port {port}: give it once"));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let routed = [!self.addr.is_empty(), !self.route.is_empty(), !self.vlan.is_empty()];
        let bridged = [self.mac_swap, !self.to_mac.is_empty(), !self.from_mac.is_empty()];
        match self.mode {
            Layer::L2 if routed.contains(&true) => {
                Err("--addr, --route and --vlan are for routing: give --mode l3 too".to_owned())
            }
            Layer::L3 if bridged.contains(&true) => {
                Err("--mac-swap, --to-mac and --from-mac are for --mode l2: leave them out".to_owned())
            }
            Layer::L2 if !self.mac_swap && !self.device.len().is_multiple_of(2) => {
                Err("ports are wired in pairs: give another --device, or --mac-swap".to_owned())
            }
            Layer::L3 if self.addr.is_empty() && self.route.is_empty() => {
                Err("a router without a way: give --addr PORT=ADDRESS/PREFIX for its networks".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Which port is meant.
    fn index(&self, name: &str) -> Result<usize, String> {
        let found = match name.parse::<usize>() {
            Ok(number) => Some(number).filter(|&number| number < self.device.len()),
            Err(_) => self.device.iter().position(|spec| spec.argument() == name),
        };
        found.ok_or_else(|| {
            format!(
                "{name:?} is no port: give 0 to {}, or a name behind a --device's colon",
                self.device.len() - 1
            )
        })
    }

    fn port_mut<'a>(&self, ports: &'a mut [PortConfig], name: &str) -> Result<&'a mut PortConfig, String> {
        let index = self.index(name)?;
        ports.get_mut(index).ok_or_else(|| format!("{name:?} is no port"))
    }

    /// How frames find their way between these ports.
    fn mode(&self, ports: &[PortConfig], rng: &mut Rng) -> Result<Mode, String> {
        if self.mode == Layer::L2 {
            return Ok(if self.mac_swap { Mode::MacSwap } else { Mode::Pairs });
        }
        let (mut routes, mut stations) = (RouteTable::new(), HashMap::new());
        for (number, port) in ports.iter().enumerate() {
            for addr in &port.addrs {
                let interface = number as u16;
                let (own, source) = (Prefix::host(addr.addr()), Some(addr.addr()));
                let host = Route { prefix: own, interface, gateway: None, source, metric: 0 };
                routes
                    .add(host)
                    .and_then(|()| routes.connect(*addr, interface))
                    .map_err(|error| error.to_string())?;
            }
        }
        for RouteSpec { prefix, port, hop } in &self.route {
            let interface = self.index(port)? as u16;
            let gateway = match hop {
                Hop::Router(addr) => Some(*addr),
                Hop::Destination => None,
                Hop::Station(mac) if mac.is_unicast() => {
                    stations.insert(*prefix, *mac);
                    None
                }
                Hop::Station(mac) => {
                    return Err(format!(
                        "route to {prefix}: {mac} is no station: give the next hop's own address"
                    ));
                }
            };
            let route = Route { prefix: *prefix, interface, gateway, source: None, metric: 0 };
            routes.add(route).map_err(|error| format!("route to {prefix}: {error}"))?;
        }
        Ok(Mode::Router(Box::new(Router::new(routes, stations, rng))))
    }

    /// The rules of the flags and those of the file.
    fn acl(&self) -> Result<Acl, String> {
        let file = self.acl_file.as_deref().map(acl::read).transpose()?.unwrap_or_default();
        Ok(Acl::new(self.acl.iter().cloned().chain(file)))
    }
}
