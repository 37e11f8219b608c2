//! `nty pktgen`: frames of a kind at a rate, and what becomes of them.
//!
//! Each frame has a number and the time at which it was sent. Whoever sends it back, an echo server, or passes it on to another device
//! of ours, a forwarder, thereby tells how many are lost, come twice or out of order, and how long they took.
//!
//! ```text
//!   UDP     Ethernet 14 | IPv4 20 | UDP 8  | tag 2 | number 8 | time 8 | pattern ...      60 bytes at least
//!   ICMP    Ethernet 14 | IPv4 20 | ICMP 8 | tag 2 | number 8 | time 8 | pattern ...
//!   TCP     Ethernet 14 | IPv4 20 | TCP 20, the number in its sequence number             60 bytes
//! ```

mod many;
mod report;
mod run;
mod template;
#[cfg(test)]
mod tests;
mod track;

pub use run::run;

use crate::pace;
use crate::values::Span;
use many::Many;
use ntytcp::device::spec::DeviceSpec;
use ntytcp::wire::MacAddr;
use std::net::Ipv4Addr;
use std::str::FromStr;
use template::Pattern;

/// What is generated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Kind {
    /// UDP datagrams
    Udp,
    /// TCP segments that open a connection; answered by SYN-ACK or RST
    TcpSyn,
    /// ICMP echo requests
    Icmp,
}

/// What `nty pktgen` is asked to do.
#[derive(Clone, PartialEq, Debug, clap::Args)]
pub struct Options {
    /// Device to send through: tap:NAME, packet:IFACE, xdp:IFACE, mem:
    #[arg(long, value_name = "DEVICE")]
    device: DeviceSpec,
    /// Device at which the frames come back, as behind a forwarder [default: the same]
    #[arg(long, value_name = "DEVICE")]
    back: Option<DeviceSpec>,
    /// Send nothing; count what others generate
    #[arg(long, conflicts_with_all = ["back", "count", "max_loss", "pps", "rate", "fast"])]
    receive: bool,
    /// Send so many frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Send for this time [default: until Ctrl-C]
    #[arg(long, value_name = "TIME")]
    seconds: Option<Span>,
    /// How long to wait for frames after the last was sent
    #[arg(long, value_name = "TIME", default_value = "1s")]
    linger: Span,
    /// Fail if more than so many percent do not come back
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    max_loss: Option<f64>,
    /// Leave ARP requests for our addresses unanswered
    #[arg(long)]
    no_arp: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    // Last: their headings hold for what follows.
    #[command(flatten)]
    frames: Frames,
    #[command(flatten)]
    pace: Pacing,
}

/// What the frames are made of. Fields with many values take one after the other with each frame.
#[derive(Clone, PartialEq, Debug, clap::Args)]
#[command(next_help_heading = "Frames (V: a value, a range A-B, or several of these with commas)")]
#[group(id = "frames")]
struct Frames {
    /// What to send: udp, tcp-syn (answered by SYN-ACK or RST) or icmp (echo requests)
    #[arg(long, value_name = "KIND", default_value = "udp", hide_possible_values = true)]
    proto: Kind,
    /// Send from these addresses
    #[arg(long, value_name = "V", required_unless_present = "receive")]
    src_ip: Option<Many<Ipv4Addr>>,
    /// Send to these addresses
    #[arg(long, value_name = "V", required_unless_present = "receive")]
    dst_ip: Option<Many<Ipv4Addr>>,
    /// Send from these ports
    #[arg(long, value_name = "V", default_value = "49152")]
    src_port: Many<u16>,
    /// Send to these ports
    #[arg(long, value_name = "V", default_value = "7")]
    dst_port: Many<u16>,
    /// Send from these stations [default: one derived from the device, locally administered]
    #[arg(long, value_name = "V")]
    src_mac: Option<Many<MacAddr>>,
    /// Send to these stations [default: the one that ARP tells]
    #[arg(long, value_name = "V")]
    dst_mac: Option<Many<MacAddr>>,
    /// Ask by ARP for this router's station, and not for that of the first address of --dst-ip
    #[arg(long, value_name = "ADDR", conflicts_with = "dst_mac")]
    via: Option<Ipv4Addr>,
    /// Lengths of the frames without their checksum, or imix: 7 of 60 bytes, 4 of 590, 1 of 1514
    #[arg(long, value_name = "V", default_value = "60")]
    size: Sizes,
    /// What they are filled with: zero, ones, count (0, 1, 2, ...), or bytes in hexadecimal
    #[arg(long, value_name = "PATTERN", default_value = "count")]
    payload: Pattern,
}

/// How fast they are sent.
#[derive(Clone, Copy, PartialEq, Default, Debug, clap::Args)]
#[command(next_help_heading = "Pace")]
#[group(id = "pacing", multiple = false)]
struct Pacing {
    /// So many frames a second [default: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pps: Option<u64>,
    /// So many bits of frames a second: 10M, 1G
    #[arg(long, value_name = "BITS", value_parser = pace::bits)]
    rate: Option<u64>,
    /// As fast as it goes
    #[arg(long)]
    fast: bool,
}

impl From<Pacing> for pace::Pace {
    fn from(pacing: Pacing) -> Self {
        let Pacing { pps, rate, fast } = pacing;
        let pps = pps.or(if rate.is_none() && !fast { Some(1_000) } else { None });
        pace::Options { pps, rate, fast, speed: None }.into()
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.trim_end_matches('%').parse().map_err(|_| "no number".to_owned())?;
    if (0.0..=100.0).contains(&percent) { Ok(percent) } else { Err("give 0 to 100".to_owned()) }
}

/// Lengths of frames, in the order in which they are sent.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Sizes(Vec<u16>);

/// Ethernet's shortest frame, and the longest that any device carries.
const SHORTEST: u16 = 60;
const LONGEST: u16 = 65_535;

impl Sizes {
    /// One cycle of the simple Internet mix: mostly short, some long.
    fn imix() -> Self {
        Self(vec![60, 590, 60, 60, 590, 60, 1_514, 60, 590, 60, 590, 60])
    }

    fn greatest(&self) -> u16 {
        self.0.iter().copied().max().unwrap_or(SHORTEST)
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "imix" {
            return Ok(Self::imix());
        }
        let many: Many<u16> = text.parse()?;
        if many.least() < SHORTEST.into() {
            return Err(format!(
                "a frame of {} bytes is too short: give {SHORTEST} to {LONGEST}",
                many.least()
            ));
        }
        let sizes: Vec<u16> = many.iter().take(1 << 16).collect();
        Ok(Self(sizes))
    }
}

impl Options {
    /// What the values have to agree on among themselves.
    fn check(&self) -> Result<(), String> {
        if self.frames.proto == Kind::TcpSyn && self.frames.size.greatest() > SHORTEST {
            return Err(format!(
                "a SYN has no data to fill a frame with: leave --size out, which is {SHORTEST}"
            ));
        }
        let stations = self.frames.src_mac.iter().flat_map(Many::iter);
        match stations.take(1 << 16).find(|mac| !mac.is_unicast()) {
            Some(group) => {
                Err(format!("--src-mac {group} is the address of no station: give one of a station"))
            }
            None => Ok(()),
        }
    }

    /// The stations to send from.
    fn stations(&self) -> Many<MacAddr> {
        let derived = || Many::one(crate::device::station(&self.device.to_string(), []));
        self.frames.src_mac.clone().unwrap_or_else(derived)
    }
}
