//! What goes over the wire: one file per protocol, each with a header type that is parsed from bytes and emitted into
//! bytes.
//!
//! Every `parse` takes a slice that starts at the header, copies the fixed fields into a small `Copy` struct and hands back
//! the payload, borrowed and cut to the length that the header declares. Every `emit` writes the header at the start of a
//! slice and answers the bytes written, or `None` when the slice is too short. Nothing here allocates, and no sequence of
//! bytes makes it panic. Layers do not know each other: checksums that cover a pseudo-header are a separate call.

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
mod mac;
pub mod seq;
pub mod tcp;
mod tcp_options;
pub mod udp;

pub use arp::{ArpOperation, ArpPacket};
pub use checksum::Sum;
pub use ethernet::{EthernetHeader, VlanTag, VlanTags};
pub use icmpv4::Icmpv4Message;
pub use icmpv6::Icmpv6Header;
pub use ipv4::{Ipv4Header, Ipv4Option, Ipv4Options};
pub use ipv6::{FragmentHeader, Ipv6Header, MAX_EXTENSIONS, RoutingHeader, UpperLayer, walk_extensions};
pub use mac::{MacAddr, MacAddrError};
pub use seq::Seq;
pub use tcp::{TcpFlags, TcpHeader};
pub use tcp_options::{FastOpenCookie, SackBlocks, TcpOptions, Timestamps};
pub use udp::UdpHeader;

use core::fmt;

/// Why bytes are not a valid header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum ParseError {
    /// The slice ends before what its headers declare.
    #[error("shorter than its headers say")]
    Truncated,
    /// A field contradicts another one or the standard.
    #[error("a header field contradicts the packet or the standard")]
    Malformed,
    /// The header's own checksum is wrong.
    #[error("wrong checksum")]
    Checksum,
}

/// The type of an Ethernet payload (the IANA registry "IEEE 802 Numbers"). A value below 0x600 is the length field of an IEEE
/// 802.3 frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
    /// An 802.1Q customer tag follows.
    pub const VLAN: Self = Self(0x8100);
    /// An 802.1ad service tag follows.
    pub const QINQ: Self = Self(0x88a8);
    /// Link layer discovery.
    pub const LLDP: Self = Self(0x88cc);
}

impl fmt::Debug for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::IPV4 => "IPv4",
            Self::ARP => "ARP",
            Self::IPV6 => "IPv6",
            Self::VLAN => "802.1Q",
            Self::QINQ => "802.1ad",
            Self::LLDP => "LLDP",
            Self(other) => return write!(f, "{other:#06x}"),
        })
    }
}

/// The protocol of an IP payload (the IANA registry "Assigned Internet Protocol Numbers"), also IPv6's next header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpProtocol(pub u8);

impl IpProtocol {
    /// IPv6 hop-by-hop options (RFC 8200 4.3).
    pub const HOP_BY_HOP: Self = Self(0);
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: Self = Self(1);
    /// IGMP.
    pub const IGMP: Self = Self(2);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// IPv6 routing header (RFC 8200 4.4).
    pub const IPV6_ROUTING: Self = Self(43);
    /// IPv6 fragment header (RFC 8200 4.5).
    pub const IPV6_FRAGMENT: Self = Self(44);
    /// Encapsulating security payload (RFC 4303).
    pub const ESP: Self = Self(50);
    /// Authentication header (RFC 4302).
    pub const AH: Self = Self(51);
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// Nothing follows (RFC 8200 4.7).
    pub const IPV6_NO_NEXT: Self = Self(59);
    /// IPv6 destination options (RFC 8200 4.6).
    pub const IPV6_DEST_OPTIONS: Self = Self(60);
}

impl fmt::Debug for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::ICMP => "ICMP",
            Self::IGMP => "IGMP",
            Self::TCP => "TCP",
            Self::UDP => "UDP",
            Self::ICMPV6 => "ICMPv6",
            Self(other) => return write!(f, "protocol {other}"),
        })
    }
}

/// Writes `bytes` at the front of `buf` and moves `buf` behind them; `None` when they do not fit.
fn put<const N: usize>(buf: &mut &mut [u8], bytes: [u8; N]) -> Option<()> {
    let (head, rest) = core::mem::take(buf).split_first_chunk_mut()?;
    *head = bytes;
    *buf = rest;
    Some(())
}
