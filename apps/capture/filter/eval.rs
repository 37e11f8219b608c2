//! Whether a frame satisfies a filter.
//!
//! Looked at as tcpdump looks at it: byte by byte and without a word about checksums and lengths, as who captures wants to see
//! damaged frames too. What a frame is too short to have is not there.

use super::{Direction, Expression, Filter, Primitive, Protocol};
use ntytcp::stack::route::Prefix;
use ntytcp::wire::{EtherType, IpProtocol, MacAddr};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

impl Filter {
    /// Whether it takes this frame: its first bytes, as many as there are, and how long it was on the wire. No allocation, no panic on
    /// any bytes.
    pub fn matches(&self, frame: &[u8], wire_len: usize) -> bool {
        let frame = Frame { bytes: frame, wire_len };
        self.expression.as_ref().is_none_or(|expression| matches(expression, frame, &mut 0))
    }
}

#[derive(Clone, Copy)]
struct Frame<'a> {
    bytes: &'a [u8],
    wire_len: usize,
}

/// `tags` counts the `vlan`s that were written before: both sides are always asked, as those of the first move the second.
fn matches(expression: &Expression, frame: Frame<'_>, tags: &mut usize) -> bool {
    match expression {
        Expression::Primitive(Primitive::Vlan(id)) => {
            let is = frame.is_tagged(*tags, *id);
            *tags += 1;
            is
        }
        Expression::Primitive(primitive) => frame.is(primitive, *tags),
        Expression::Not(inner) => !matches(inner, frame, tags),
        Expression::And(left, right) => matches(left, frame, tags) & matches(right, frame, tags),
        Expression::Or(left, right) => matches(left, frame, tags) | matches(right, frame, tags),
    }
}

/// Length of the Ethernet header without its type, and of each tag.
const STATIONS: usize = 12;
const TAG: usize = 4;
const RARP: EtherType = EtherType(0x8035);
/// 802.1Q-in-Q before there was a standard.
const OLD_QINQ: EtherType = EtherType(0x9100);
const SCTP: IpProtocol = IpProtocol(132);
const V6_HEADER: usize = 40;

impl<'a> Frame<'a> {
    fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..)?.first_chunk().copied()
    }

    fn u8(self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    fn u16(self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_be_bytes)
    }

    fn mac(self, at: usize) -> Option<MacAddr> {
        self.array(at).map(MacAddr)
    }

    /// The type behind so many tags, and where its packet begins.
    fn packet(self, tags: usize) -> Option<(EtherType, usize)> {
        let at = STATIONS + TAG * tags;
        Some((EtherType(self.u16(at)?), at + 2))
    }

    fn is_tagged(self, tags: usize, id: Option<u16>) -> bool {
        let Some((kind, at)) = self.packet(tags) else { return false };
        let tag = matches!(kind, EtherType::VLAN | EtherType::QINQ | OLD_QINQ);
        tag && id.is_none_or(|id| self.u16(at).is_some_and(|tci| tci & 0xfff == id))
    }

    fn is(self, primitive: &Primitive, tags: usize) -> bool {
        let is = match primitive {
            Primitive::Protocol(protocol) => self.has_protocol(*protocol, tags),
            Primitive::Address(protocol, direction, prefix) => {
                self.has_address(*protocol, *direction, prefix, tags)
            }
            Primitive::Port(protocol, direction, first, last) => self
                .ports(*protocol, tags)
                .map(|(src, dst)| direction.holds(src, dst, |port| (*first..=*last).contains(&port))),
            Primitive::Station(direction, mac) => {
                self.mac(6).zip(self.mac(0)).map(|(src, dst)| direction.holds(src, dst, |m| m == *mac))
            }
            Primitive::Broadcast => self.mac(0).map(MacAddr::is_broadcast),
            Primitive::Multicast => self.mac(0).map(MacAddr::is_multicast),
            Primitive::Vlan(id) => Some(self.is_tagged(tags, *id)),
            Primitive::Less(length) => Some(self.wire_len as u64 <= u64::from(*length)),
            Primitive::Greater(length) => Some(self.wire_len as u64 >= u64::from(*length)),
        };
        is.unwrap_or(false)
    }

    fn has_protocol(self, protocol: Protocol, tags: usize) -> Option<bool> {
        let (kind, at) = self.packet(tags)?;
        // The protocol of an IPv4 packet or, also behind a fragment header, of an IPv6 packet.
        let carries = |wanted: IpProtocol, v4: bool, v6: bool| match kind {
            EtherType::IPV4 if v4 => Some(IpProtocol(self.u8(at + 9)?) == wanted),
            EtherType::IPV6 if v6 => match IpProtocol(self.u8(at + 6)?) {
                IpProtocol::IPV6_FRAGMENT => Some(IpProtocol(self.u8(at + V6_HEADER)?) == wanted),
                next => Some(next == wanted),
            },
            _ => None,
        };
        match protocol {
            Protocol::Ip => Some(kind == EtherType::IPV4),
            Protocol::Ip6 => Some(kind == EtherType::IPV6),
            Protocol::Arp => Some(kind == EtherType::ARP),
            Protocol::Tcp => carries(IpProtocol::TCP, true, true),
            Protocol::Udp => carries(IpProtocol::UDP, true, true),
            Protocol::Icmp => carries(IpProtocol::ICMP, true, false),
            Protocol::Icmp6 => carries(IpProtocol::ICMPV6, false, true),
        }
    }

    fn has_address(
        self,
        protocol: Option<Protocol>,
        direction: Direction,
        prefix: &Prefix,
        tags: usize,
    ) -> Option<bool> {
        let (kind, at) = self.packet(tags)?;
        let (of, offsets) = match kind {
            EtherType::IPV4 => (Some(Protocol::Ip), (12, 16)),
            EtherType::IPV6 => (Some(Protocol::Ip6), (8, 24)),
            EtherType::ARP => (Some(Protocol::Arp), (14, 24)),
            RARP => (None, (14, 24)),
            _ => return None,
        };
        if protocol.is_some() && protocol != of {
            return None;
        }
        let addr = |offset| {
            Some(match kind {
                EtherType::IPV6 => IpAddr::from(Ipv6Addr::from(self.array::<16>(at + offset)?)),
                _ => IpAddr::from(Ipv4Addr::from(self.array::<4>(at + offset)?)),
            })
        };
        let (src, dst) = (addr(offsets.0)?, addr(offsets.1)?);
        Some(direction.holds(src, dst, |addr| prefix.contains(addr)))
    }

    /// The ports of a first fragment, or of what is none.
    fn ports(self, protocol: Option<Protocol>, tags: usize) -> Option<(u16, u16)> {
        let (kind, at) = self.packet(tags)?;
        let (carried, ports) = match kind {
            EtherType::IPV4 if self.u16(at + 6)? & 0x1fff == 0 => {
                (self.u8(at + 9)?, at + 4 * usize::from(self.u8(at)? & 0xf))
            }
            EtherType::IPV6 => (self.u8(at + 6)?, at + V6_HEADER),
            _ => return None,
        };
        let fits = match protocol {
            Some(Protocol::Tcp) => IpProtocol(carried) == IpProtocol::TCP,
            Some(Protocol::Udp) => IpProtocol(carried) == IpProtocol::UDP,
            _ => matches!(IpProtocol(carried), IpProtocol::TCP | IpProtocol::UDP | SCTP),
        };
        if fits { self.u16(ports).zip(self.u16(ports + 2)) } else { None }
    }
}
