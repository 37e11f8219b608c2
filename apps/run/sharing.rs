//! What the stack shares with the kernel: an interface, its addresses, and who takes which packets.
//!
//! ```text
//!   xdp:IFACE --own ...                        the program in front of the queue leaves the rest to the kernel
//!   other device --own ... --exception tap:T   the rest goes through T to the kernel, which has our addresses there
//! ```
//!
//! In both the kernel answers ARP unless that is claimed, and the stack asks it for neighbors. Of several shards each leaves the rest of what
//! its queue brings to the kernel, by a queue of T, and asks for its own neighbors; the first one follows the kernel's configuration and tells
//! the others.

use super::RunError;
use crate::cli::StackConfig;
use ntytcp::device::DeviceError;
use ntytcp::device::exception::{Exception, ExceptionConfig, Limits};
use ntytcp::device::neighbors::KernelNeighbors;
use ntytcp::device::netdev::facts;
use ntytcp::device::spec::{BoxedDevice, DeviceSpec};
use ntytcp::device::tap::{TapConfig, TapDevice};
use ntytcp::mirror::{KernelConfig, Mirror, set_carrier};
use ntytcp::owned::{Claim, OWN_PORTS, Ownership, SharedOwnership};
use ntytcp::stack::ports::PortRange;
use ntytcp::wire::MacAddr;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use tracing::{info, warn};

/// Where the kernel has the rest.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Kernel {
    /// Nowhere: everything is the stack's.
    Nowhere,
    /// On the device itself.
    OnDevice(String),
    /// On this TAP.
    OnTap(String),
}

/// What is shared, and what is followed of it. See the module documentation.
pub(super) struct Sharing {
    kernel: Kernel,
    owned: Option<Arc<SharedOwnership>>,
    owns_arp: bool,
    /// The addresses that packets are ours at, if not all.
    only: Vec<IpAddr>,
    /// The Ethernet address that the kernel's interface has.
    pub(super) station: Option<MacAddr>,
    mirror: Option<Mirror>,
    is_mirrored: bool,
    /// The kernel's interface that is the wire, where the rest of it goes through a TAP.
    wire_name: Option<String>,
    /// What the kernel says of that.
    wire: Option<Mirror>,
}

/// The ports that connections are made from, if not the stack's default.
pub(super) fn source_ports(config: &StackConfig) -> Option<PortRange> {
    let shared = (!config.own.is_empty()).then_some(OWN_PORTS);
    config.source_ports.map(|ports| ports.0).or(shared)
}

/// All that is the stack's: what is claimed, and the answers to its own connections.
pub(crate) fn owned_claims(config: &StackConfig) -> Vec<Claim> {
    let ours = config.own.iter().map(|claim| claim.0);
    ours.chain(source_ports(config).into_iter().flat_map(|ports| [Claim::Tcp(ports), Claim::Udp(ports)]))
        .collect()
}

impl Sharing {
    /// What is to be shared, before anything is opened.
    ///
    /// # Errors
    /// What the kernel's configuration does not allow, with the remedy.
    pub(super) fn plan(spec: &DeviceSpec, config: &StackConfig) -> Result<Self, RunError> {
        let shares = !config.own.is_empty();
        let kernel = match &config.exception {
            Some(tap) => Kernel::OnTap(tap.trim_start_matches("tap:").to_owned()),
            None if shares || config.mirror_kernel => Kernel::OnDevice(spec.argument().to_owned()),
            None => Kernel::Nowhere,
        };
        let only = config.own_addrs.clone();
        let addrs = config.addrs.iter().map(|a| a.addr).filter(|addr| only.is_empty() || only.contains(addr));
        let owned =
            shares.then(|| Arc::new(SharedOwnership::new(Ownership::new(&owned_claims(config), addrs))));
        let wire_name = beside_kernel(spec).filter(|_| matches!(kernel, Kernel::OnTap(_)));
        let sharing = Self {
            wire_name: wire_name.map(str::to_owned),
            station: match &kernel {
                Kernel::OnDevice(name) => {
                    Some(facts(name).map_err(|e| failed(name, "find the interface", e))?.station)
                }
                Kernel::OnTap(_) | Kernel::Nowhere => None,
            },
            kernel,
            owned,
            owns_arp: config.own.iter().any(|claim| claim.0 == Claim::Arp),
            only,
            mirror: None,
            is_mirrored: config.mirror_kernel,
            wire: None,
        };
        if shares {
            sharing.check_addrs(config)?;
            check_arp(spec, config)?;
            check_ports(config);
        }
        Ok(sharing)
    }

    /// On a shared interface the addresses are the kernel's too, unless the stack answers ARP for them.
    fn check_addrs(&self, config: &StackConfig) -> Result<(), RunError> {
        let Kernel::OnDevice(name) = &self.kernel else { return Ok(()) };
        let interfaces = pnet::datalink::interfaces();
        let kernels =
            |ip: IpAddr| interfaces.iter().any(|i| i.name == *name && i.ips.iter().any(|n| n.ip() == ip));
        for addr in &config.addrs {
            match (kernels(addr.addr), self.owns_arp) {
                (true, true) => {
                    let what =
                        "is the kernel's too, which would get no answers to its ARP: leave arp out of own";
                    return Err(RunError::Usage(format!("addr {} {what}", addr.addr)));
                }
                (false, false) => {
                    return Err(RunError::Usage(format!(
                        "addr {} is not the kernel's on {name}, and nobody would answer ARP for it: `ip addr add {addr} dev {name}`, or add arp to own",
                        addr.addr
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the kernel speaks ARP for the stack.
    pub(super) fn kernel_speaks_arp(&self) -> bool {
        self.owned.is_some() && !self.owns_arp
    }

    /// What the device itself has to leave to the kernel.
    pub(super) fn on_device(&self) -> Option<Arc<SharedOwnership>> {
        self.owned.clone().filter(|_| matches!(self.kernel, Kernel::OnDevice(_)))
    }

    /// Has the rest of what comes by the queues of a device go to the kernel, and makes the TAP for that, if there is to be one.
    ///
    /// # Errors
    /// The TAP cannot be made.
    pub(super) fn except(
        &self,
        queues: Vec<BoxedDevice>,
        mac: MacAddr,
        config: &StackConfig,
    ) -> Result<Vec<BoxedDevice>, RunError> {
        let (Some(owned), Kernel::OnTap(name)) = (&self.owned, &self.kernel) else { return Ok(queues) };
        let Some(&caps) = queues.first().map(|queue| queue.caps()) else { return Ok(queues) };
        let mut tap = TapConfig::new(name.as_str());
        tap.create = true;
        tap.mtu = caps.mtu;
        tap.station = Some(mac);
        tap.host_addrs = config.addrs.iter().map(|a| (a.addr, a.prefix)).collect();
        // What the wire cannot finish, the kernel is to finish.
        tap.offload = caps.tx_checksum && caps.tso_max > 0;
        let mut limits = ExceptionConfig::default();
        if let Some(rate) = config.exception_rate {
            limits.rate = rate.get();
            limits.burst = limits.burst.min(rate.get());
        }
        owned.set_station(Some(mac));
        let taps = TapDevice::open_unsteered(&tap, queues.len())?;
        info!(target: "nty", tap = %name, rate = limits.rate, queues = taps.len(), "exception path");
        let limits = Arc::new(Limits::new(limits));
        let except = |(queue, tap)| {
            let device = Exception::new(queue, tap, owned.clone(), limits.clone())?;
            Ok(Box::new(device) as BoxedDevice)
        };
        queues.into_iter().zip(taps).map(except).collect()
    }

    /// Has the kernel resolve the next hops of what a shard sends by `device`, if it speaks ARP for the stack.
    ///
    /// # Errors
    /// The kernel does not tell of its neighbors.
    pub(super) fn resolve(&self, device: BoxedDevice) -> Result<BoxedDevice, RunError> {
        match &self.kernel {
            Kernel::OnDevice(name) | Kernel::OnTap(name) if self.kernel_speaks_arp() => {
                Ok(Box::new(KernelNeighbors::new(device, name)?))
            }
            _ => Ok(device),
        }
    }

    /// Looks at the kernel's configuration, if it is to be mirrored, and at the wire's link, which the TAP is to have.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(super) fn begin(&mut self) -> Result<(), RunError> {
        if let Some(wire) = &self.wire_name {
            self.wire = Some(Mirror::open(wire).map_err(|e| failed(wire, "follow its link", e))?);
            self.show_link();
        }
        if let (true, Kernel::OnDevice(name) | Kernel::OnTap(name)) = (self.is_mirrored, &self.kernel) {
            self.mirror = Some(Mirror::open(name).map_err(|e| failed(name, "read its configuration", e))?);
            self.take_over();
        }
        Ok(())
    }

    /// What the stacks are to have of the kernel's configuration, if it is mirrored.
    pub(super) fn mirrored(&self) -> Option<KernelConfig> {
        self.mirror.as_ref().map(|mirror| mirror.config().clone())
    }

    /// Readable when the kernel's configuration has changed.
    pub(super) fn fds(&self) -> impl Iterator<Item = RawFd> {
        self.mirror.iter().chain(&self.wire).map(Mirror::fd)
    }

    /// The TAP has a carrier while the wire has.
    fn show_link(&self) {
        let (Some(wire), Kernel::OnTap(tap)) = (&self.wire, &self.kernel) else { return };
        let carrier = wire.config().is_up();
        info!(target: "nty", %tap, carrier, "link");
        if let Err(error) = set_carrier(tap, carrier) {
            warn!(target: "nty", "{tap}: the kernel is not told of the wire's link: {error}");
        }
    }

    /// What the stacks are to have now, if that has changed.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(super) fn follow(&mut self) -> Result<Option<KernelConfig>, RunError> {
        if let Some(wire) = &mut self.wire {
            let before = wire.config().is_up();
            // That the wire is gone the device says.
            if wire.follow().is_ok() && wire.config().is_up() != before {
                self.show_link();
            }
        }
        let Some(mirror) = &mut self.mirror else { return Ok(None) };
        let changed =
            mirror.follow().map_err(|e| failed("the kernel's interface", "follow its configuration", e))?;
        if !changed {
            return Ok(None);
        }
        self.take_over();
        Ok(self.mirrored())
    }

    /// The frames to the kernel's addresses are the stack's from now on.
    fn take_over(&self) {
        let Some(kernel) = self.mirror.as_ref().map(Mirror::config) else { return };
        if let Some(owned) = &self.owned {
            kernel.share(owned, |addr| self.only.is_empty() || self.only.contains(&addr));
        }
        let addrs: Vec<_> = kernel.addrs().map(|addr| addr.to_string()).collect();
        info!(target: "nty", up = kernel.is_up(), addrs = %addrs.join(" "), routes = kernel.route_count(), "as the kernel has it");
    }
}

fn failed(interface: &str, what: &str, source: io::Error) -> RunError {
    DeviceError::Io {
        what: format!("{interface}: cannot {what}"),
        source,
        remedy: "`ip link` lists the interfaces that there are",
    }
    .into()
}

/// The interface on which the kernel hears what the device hears: by a packet socket, DPDK's too.
pub(super) fn beside_kernel(spec: &DeviceSpec) -> Option<&str> {
    match spec.kind() {
        "packet" => Some(spec.argument()),
        "dpdk" => {
            let device = spec.argument().split_whitespace().find(|word| word.contains("net_af_packet"))?;
            device.split(',').find_map(|option| option.strip_prefix("iface="))
        }
        _ => None,
    }
}

/// Behind a packet socket the kernel hears the same frames on the interface. Those to another station are nothing to it, but ARP it would
/// answer there for every address that it has anywhere, so also for those on the TAP.
fn check_arp(spec: &DeviceSpec, config: &StackConfig) -> Result<(), RunError> {
    let Some(name) = beside_kernel(spec) else { return Ok(()) };
    if let (Ok(facts), Some(mac)) = (facts(name), config.mac)
        && facts.station == MacAddr(mac.0)
    {
        return Err(RunError::Usage(format!(
            "mac is that of {name}, where the kernel would answer what is ours: leave mac out, or use xdp:{name}"
        )));
    }
    let setting = |of: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/arp_ignore"));
        text.ok().and_then(|text| text.trim().parse::<u32>().ok()).unwrap_or(0)
    };
    match setting("all").max(setting(name)) {
        0 => Err(RunError::Usage(format!(
            "the kernel would answer ARP for the exception TAP's addresses on {name} too: `sysctl -w net.ipv4.conf.{name}.arp_ignore=1`"
        ))),
        _ => Ok(()),
    }
}

/// The kernel must not make connections from our ports: their answers would come to us.
fn check_ports(config: &StackConfig) {
    let Some(ours) = source_ports(config) else { return };
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse::<u16>().ok());
    if let (Some(first), Some(last)) = (numbers.next(), numbers.next())
        && first <= ours.last()
        && ours.first() <= last
    {
        let (own_first, own_last) = (ours.first(), ours.last());
        warn!(
            target: "nty",
            "the kernel connects from ports {first} to {last}, of which {own_first} to {own_last} are ours, so that some of its connections get \
             no answer: give other --source-ports, or set net.ipv4.ip_local_port_range"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_of_a_packet_socket_is_found_wherever_it_is_written() {
        let of = |text: &str| {
            text.parse::<DeviceSpec>().ok().and_then(|spec| beside_kernel(&spec).map(str::to_owned))
        };
        assert_eq!(of("packet:eth0").as_deref(), Some("eth0"));
        assert_eq!(of("xdp:eth0"), None);
        if cfg!(feature = "dpdk") {
            assert_eq!(of("dpdk:net_af_packet0,iface=eth0,qpairs=2 --no-huge").as_deref(), Some("eth0"));
            assert_eq!(of("dpdk:-l 1 --vdev=net_af_packet1,iface=eth1").as_deref(), Some("eth1"));
            assert_eq!(of("dpdk:net_tap0,iface=eth0"), None);
        }
    }
}
