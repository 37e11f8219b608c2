//! Whose a received packet is, where the stack shares an interface, its station address and its IP addresses with the kernel.
//!
//! Ownership is a function of the packet alone, so that it can be decided before anything is known of the packet, by a program
//! in a network driver or in front of a queue, and the same everywhere. Connections that the stack makes have their own range of
//! source ports, so answers to them are found in the same way as requests to its servers.
//!
//! | packet to one of the addresses | is the stack's |
//! |---|---|
//! | TCP, UDP | if the destination port is claimed |
//! | a fragment, the first or a later one | if all ports of its protocol are claimed: later ones have none |
//! | ICMP error (IPv4: 3, 4, 11, 12; IPv6: 1 to 4) | if the packet that it quotes was: by that one's source port |
//! | other ICMP; of ICMPv6 echo only | if `icmp` is claimed |
//! | ARP about one of the addresses, as target or sender | if `arp` is claimed |
//! | anything else: other protocols, IPv6 extension headers, VLANs, groups | never |
//!
//! A priority tag (VLAN 0) counts as none. A packet that ends before its ports is the kernel's, who knows what to say of it.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, PoisonError};

pub use crate::stack::ports::PortRange;
use crate::wire::{EtherType, IpProtocol, MacAddr};

/// The most ranges of ports of one protocol, and the most addresses, that an [`Ownership`] looks at: what is beyond is the kernel's.
pub const MAX_RANGES: usize = 64;
/// See [`MAX_RANGES`].
pub const MAX_ADDRS: usize = 1_024;

/// Every port that a packet can be for.
const ALL_PORTS: PortRange = match PortRange::new(1, u16::MAX) {
    Ok(all) => all,
    Err(_) => unreachable!(),
};

/// Source ports of the stack's own connections where the kernel uses the interface too: above those that Linux takes by default.
pub const OWN_PORTS: PortRange = match PortRange::new(61_000, u16::MAX) {
    Ok(ports) => ports,
    Err(_) => unreachable!(),
};

/// A part of the packets that the stack owns, by text `tcp/80`, `udp/8000-8100`, `tcp`, `udp`, `icmp` or `arp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// TCP segments to these ports.
    Tcp(PortRange),
    /// UDP datagrams to these ports.
    Udp(PortRange),
    /// Echo requests and replies, and whatever is no error.
    Icmp,
    /// Questions and answers about the addresses: the stack has them for itself, and resolves its next hops by itself.
    Arp,
}

/// A text that is no [`Claim`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` names no packets: give tcp/80, udp/53, tcp/8000-8100, tcp, udp, icmp or arp")]
pub struct ClaimError(String);

impl FromStr for Claim {
    type Err = ClaimError;

    fn from_str(text: &str) -> Result<Self, ClaimError> {
        let error = || ClaimError(text.to_owned());
        let (protocol, ports) = match text.split_once('/') {
            Some((protocol, ports)) => (protocol, Some(ports.parse::<PortRange>().map_err(|_| error())?)),
            None => (text, None),
        };
        match (protocol, ports) {
            ("tcp", ports) => Ok(Self::Tcp(ports.unwrap_or(ALL_PORTS))),
            ("udp", ports) => Ok(Self::Udp(ports.unwrap_or(ALL_PORTS))),
            ("icmp", None) => Ok(Self::Icmp),
            ("arp", None) => Ok(Self::Arp),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, ports) = match *self {
            Self::Tcp(ports) => ("tcp", ports),
            Self::Udp(ports) => ("udp", ports),
            Self::Icmp => return f.write_str("icmp"),
            Self::Arp => return f.write_str("arp"),
        };
        match (ports.first(), ports.last()) {
            (1, u16::MAX) => f.write_str(name),
            (first, last) if first == last => write!(f, "{name}/{first}"),
            (first, last) => write!(f, "{name}/{first}-{last}"),
        }
    }
}

/// Which packets to which addresses are the stack's. See the module documentation.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ownership {
    tcp: Vec<PortRange>,
    udp: Vec<PortRange>,
    icmp: bool,
    arp: bool,
    addrs: Vec<IpAddr>,
}

impl Ownership {
    /// What is claimed of the packets to `addrs`. Allocates.
    pub fn new(claims: &[Claim], addrs: impl IntoIterator<Item = IpAddr>) -> Self {
        let ports = |of: fn(&Claim) -> Option<PortRange>| merged(claims.iter().filter_map(of).collect());
        let mut owned = Self {
            tcp: ports(|claim| if let Claim::Tcp(ports) = claim { Some(*ports) } else { None }),
            udp: ports(|claim| if let Claim::Udp(ports) = claim { Some(*ports) } else { None }),
            icmp: claims.contains(&Claim::Icmp),
            arp: claims.contains(&Claim::Arp),
            addrs: Vec::new(),
        };
        owned.set_addrs(addrs);
        owned
    }

    /// The same claims to other addresses. Allocates.
    pub fn set_addrs(&mut self, addrs: impl IntoIterator<Item = IpAddr>) {
        self.addrs = addrs.into_iter().collect();
        self.addrs.sort_unstable();
        self.addrs.dedup();
        self.addrs.truncate(MAX_ADDRS);
    }

    /// The claimed ports of TCP, in order and apart from each other.
    pub fn tcp(&self) -> &[PortRange] {
        &self.tcp
    }

    /// The claimed ports of UDP, likewise.
    pub fn udp(&self) -> &[PortRange] {
        &self.udp
    }

    /// Whether echo is claimed.
    pub fn icmp(&self) -> bool {
        self.icmp
    }

    /// Whether ARP is claimed. If not, the kernel answers for the addresses and resolves next hops.
    pub fn arp(&self) -> bool {
        self.arp
    }

    /// The addresses, in order.
    pub fn addrs(&self) -> &[IpAddr] {
        &self.addrs
    }

    /// Whether a received frame, which begins with its Ethernet header, is the stack's. `vlan` is the tag that the device took out
    /// of it. No allocation.
    #[inline]
    pub fn owns(&self, frame: &[u8], vlan: Option<u16>) -> bool {
        self.decide(frame, vlan).unwrap_or(false)
    }

    /// `None` where the frame ends before what is asked for.
    fn decide(&self, frame: &[u8], vlan: Option<u16>) -> Option<bool> {
        if vlan.is_some_and(|tci| tci & 0xfff != 0) {
            return Some(false);
        }
        let (mut kind, mut packet) = (word(frame, 12)?, frame.get(14..)?);
        if kind == EtherType::VLAN.0 {
            if word(packet, 0)? & 0xfff != 0 {
                return Some(false);
            }
            (kind, packet) = (word(packet, 2)?, packet.get(4..)?);
        }
        match EtherType(kind) {
            EtherType::IPV4 => self.decide_v4(packet),
            EtherType::IPV6 => self.decide_v6(packet),
            EtherType::ARP => {
                let (sender, target) = (v4(packet, 14)?, v4(packet, 24)?);
                Some(self.arp && (self.is_ours(target) || self.is_ours(sender)))
            }
            _ => Some(false),
        }
    }

    fn decide_v4(&self, packet: &[u8]) -> Option<bool> {
        let (protocol, body) = split_v4(packet)?;
        if !self.is_ours(v4(packet, 16)?) {
            return Some(false);
        }
        if word(packet, 6)? & 0x3fff != 0 {
            return Some(self.ports(protocol) == Some(&[ALL_PORTS]));
        }
        if protocol != IpProtocol::ICMP {
            return Some(self.has_port(protocol, word(body, 2)?));
        }
        // Shorter than any message.
        word(body, 2)?;
        match body.first()? {
            3 | 4 | 11 | 12 => {
                let quote = body.get(8..)?;
                let (protocol, body) = split_v4(quote)?;
                match protocol {
                    IpProtocol::ICMP => Some(self.icmp),
                    _ if word(quote, 6)? & 0x1fff != 0 => Some(false),
                    _ => Some(self.has_port(protocol, word(body, 0)?)),
                }
            }
            _ => Some(self.icmp),
        }
    }

    fn decide_v6(&self, packet: &[u8]) -> Option<bool> {
        let (protocol, body) = split_v6(packet)?;
        let dst: [u8; 16] = *packet.get(24..)?.first_chunk()?;
        if !self.is_ours(Ipv6Addr::from(dst).into()) {
            return Some(false);
        }
        if protocol != IpProtocol::ICMPV6 {
            return Some(self.has_port(protocol, word(body, 2)?));
        }
        word(body, 2)?;
        match body.first()? {
            1..=4 => {
                let (protocol, body) = split_v6(body.get(8..)?)?;
                match protocol {
                    IpProtocol::ICMPV6 => Some(self.icmp),
                    _ => Some(self.has_port(protocol, word(body, 0)?)),
                }
            }
            128 | 129 => Some(self.icmp),
            _ => Some(false),
        }
    }

    /// The claimed ports of a protocol that has any.
    fn ports(&self, protocol: IpProtocol) -> Option<&[PortRange]> {
        match protocol {
            IpProtocol::TCP => Some(&self.tcp),
            IpProtocol::UDP => Some(&self.udp),
            _ => None,
        }
    }

    /// Whether a port of a protocol is claimed.
    pub fn has_port(&self, protocol: IpProtocol, port: u16) -> bool {
        self.ports(protocol).unwrap_or_default().iter().any(|range| range.contains(port))
    }

    fn is_ours(&self, ip: IpAddr) -> bool {
        // As a rule there is one.
        match self.addrs.as_slice() {
            [only] => *only == ip,
            many => many.binary_search(&ip).is_ok(),
        }
    }
}

/// An [`Ownership`] whose addresses change while devices, on whatever thread, go by it.
#[derive(Debug)]
pub struct SharedOwnership {
    /// Counts the changes.
    generation: AtomicU64,
    current: Mutex<Ownership>,
    /// As a number, 0 for all stations.
    station: AtomicU64,
}

impl SharedOwnership {
    /// Begins with these claims and addresses.
    pub fn new(owned: Ownership) -> Self {
        Self { generation: AtomicU64::new(0), current: Mutex::new(owned), station: AtomicU64::new(0) }
    }

    /// What holds at this moment. Allocates.
    pub fn get(&self) -> Ownership {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on it is about these addresses.
    pub fn set_addrs(&self, addrs: impl IntoIterator<Item = IpAddr>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.set_addrs(addrs);
        self.generation.fetch_add(1, Release);
    }
}

impl SharedOwnership {
    /// The station address that stack and kernel share; frames to others are nobody's. `None`: the kernel wants those too.
    pub fn set_station(&self, station: Option<MacAddr>) {
        self.station.store(station.map_or(0, MacAddr::to_bits), Relaxed);
    }

    /// Whether a frame is addressed to the shared station address or to a group, or those to others are wanted as well.
    #[inline]
    pub fn hears(&self, frame: &[u8]) -> bool {
        let station = self.station.load(Relaxed);
        let dst = frame.first_chunk().map(|bytes| MacAddr(*bytes));
        station == 0 || dst.is_some_and(|dst| dst.to_bits() == station || !dst.is_unicast())
    }
}

/// The same at the same moment.
impl PartialEq for SharedOwnership {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for SharedOwnership {}

/// How a device goes by a [`SharedOwnership`].
#[derive(Debug)]
pub struct OwnershipWatch {
    shared: Arc<SharedOwnership>,
    seen: u64,
}

impl OwnershipWatch {
    /// Follows `shared`, beginning with what it is now.
    pub fn new(shared: Arc<SharedOwnership>) -> (Self, Ownership) {
        let seen = shared.generation.load(Acquire);
        let current = shared.get();
        (Self { shared, seen }, current)
    }

    /// What it has become, if it has changed since this was asked last. One load if not.
    #[inline]
    pub fn changed(&mut self) -> Option<Ownership> {
        let generation = self.shared.generation.load(Acquire);
        if generation == self.seen {
            return None;
        }
        self.seen = generation;
        Some(self.shared.get())
    }

    /// What is followed.
    pub fn shared(&self) -> &SharedOwnership {
        &self.shared
    }
}

/// The same ports in as few ranges as possible, in order; those that are too many are left out.
fn merged(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable_by_key(|range| range.first());
    let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.first() <= last.last().saturating_add(1) => {
                // Both are ranges already, and the first begins no later.
                *last = PortRange::new(last.first(), last.last().max(range.last())).unwrap_or(*last);
            }
            _ => merged.push(range),
        }
    }
    merged.truncate(MAX_RANGES);
    merged
}

/// Protocol and payload of an IPv4 packet, which may have been cut short.
fn split_v4(packet: &[u8]) -> Option<(IpProtocol, &[u8])> {
    let fixed = packet.first_chunk::<20>()?;
    let header = usize::from(fixed[0] & 0xf) * 4;
    let body = packet.get(header..).filter(|_| fixed[0] >> 4 == 4 && header >= 20)?;
    Some((IpProtocol(fixed[9]), body))
}

/// The same of an IPv6 packet.
fn split_v6(packet: &[u8]) -> Option<(IpProtocol, &[u8])> {
    let (header, body) = packet.split_first_chunk::<40>()?;
    (header[0] >> 4 == 6).then_some((IpProtocol(header[6]), body))
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn v4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = *bytes.get(at..)?.first_chunk()?;
    Some(Ipv4Addr::from(octets).into())
}

#[cfg(test)]
#[path = "owned_tests.rs"]
pub(crate) mod tests;
