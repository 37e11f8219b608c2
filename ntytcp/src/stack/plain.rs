//! The shape that nearly every frame has, recognised with a handful of whole-word comparisons.
//!
//! ```text
//!   0            6            12     14                                34
//!  +------------+------------+------+---------------------------------+-----------
//!  | our MAC    | a station  | 0800 | 45 .. total_len .. no fragment  | TCP or UDP
//!  +------------+------------+------+---------------------------------+-----------
//! ```
//!
//! Untagged Ethernet to this station alone, IPv4 without options, a right header checksum, not a fragment, from an address that a
//! host can have to one that is ours. Such a frame passes every check of [`super::input`]; all others take the long way there,
//! where it is found out what they are and what is to be counted.

use core::net::Ipv4Addr;

use super::interface::Interface;
use crate::device::RxFrame;
use crate::wire::{EthernetHeader, IpProtocol, Ipv4Header, MacAddr};

/// Ethernet and IPv4 without tags and options.
pub(super) const HEADERS: usize = EthernetHeader::LEN + Ipv4Header::LEN;

/// The addresses, the protocol and the extent of a plain frame's packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Plain {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub protocol: IpProtocol,
    pub ttl: u8,
    /// Where the IP payload ends in the frame; it begins behind [`HEADERS`].
    pub end: usize,
}

/// Eight bytes of headers as a word as they lie in memory.
#[inline(always)]
pub(super) fn word<const N: usize>(headers: &[u8; N], at: usize) -> u64 {
    headers.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Of the [`word`] at 16, what is the same in all headers of a flow.
pub(super) const FRAGMENT_TTL_PROTOCOL: u64 = 0xffff_ffff << 32;

/// The 16-bit words of a larger one, added up.
pub(super) const fn halves(x: u64) -> u32 {
    ((x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48)) as u32
}

/// Recognises a plain frame for `interface`.
#[inline(always)]
pub(super) fn recognise(interface: &Interface, frame: &RxFrame<'_>) -> Option<Plain> {
    let bytes = frame.bytes();
    let h = bytes.first_chunk::<HEADERS>()?;
    let u16_at = |at: usize| u16::from_be_bytes([h[at], h[at + 1]]);
    let u32_at = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    let u64_at = |at: usize| word(h, at).swap_bytes();
    // The destination, and the group bit of the source.
    let link = u64_at(0) & 0xffff_ffff_ffff_0100 == interface.plain_mac()?;
    // The source, which is not nobody, followed by the type.
    let source_type = u64_at(6);
    let end = EthernetHeader::LEN + usize::from(u16_at(16));
    let plain = link
        && source_type >> 16 != 0
        && source_type as u16 == 0x0800
        && h[14] == 0x45
        && frame.meta.vlan.is_none()
        && (HEADERS..=bytes.len()).contains(&end)
        // Neither "more fragments" nor an offset.
        && u16_at(20) & 0x3fff == 0;
    // The header's 16-bit words in network order, added up as parts of larger ones.
    let words = u128::from(u64_at(14)) + u128::from(u64_at(22)) + u128::from(u32_at(30));
    let sum = (words as u64 >> 32) + (words as u64 & 0xffff_ffff) + (words >> 64) as u64;
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    if !plain || sum != 0xffff {
        return None;
    }
    let (src, dst) = (Ipv4Addr::from_bits(u32_at(26)), Ipv4Addr::from_bits(u32_at(30)));
    interface.is_plain_pair(src, dst).then_some(Plain {
        src,
        dst,
        protocol: IpProtocol(h[23]),
        ttl: h[22],
        end,
    })
}

/// The station that sent a frame.
#[inline(always)]
pub(super) fn station(frame: &[u8]) -> MacAddr {
    let source = frame.get(6..).and_then(|bytes| bytes.first_chunk::<6>());
    MacAddr(source.copied().unwrap_or_default())
}

/// Writes the headers of a plain frame between two stations ([`MacAddr::to_bits`](crate::wire::MacAddr)) with a packet of `total_len`
/// bytes: one that may be fragmented under the identification `ident`, else an atomic one, whose identification says nothing
/// (RFC 6864 4.1: "the IPv4 ID field of atomic datagrams may be set to any value").
#[inline(always)]
pub(super) fn emit(
    headers: &mut [u8; HEADERS],
    (to, from): (u64, u64),
    (src, dst): (Ipv4Addr, Ipv4Addr),
    protocol: IpProtocol,
    total_len: u16,
    ttl: u8,
    ident: Option<u16>,
) {
    const VERSION: u64 = 0x4500;
    const DONT_FRAGMENT: u64 = 0x4000;
    let identification = ident.map_or(DONT_FRAGMENT, |ident| u64::from(ident) << 16);
    let ttl_protocol = u64::from(ttl) << 8 | u64::from(protocol.0);
    let addresses = u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits());
    let words = |x: u64| (x >> 48) + (x >> 32 & 0xffff) + (x >> 16 & 0xffff) + (x & 0xffff);
    let sum = VERSION + u64::from(total_len) + words(identification) + ttl_protocol + words(addresses);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let mut put = |at: usize, eight: u64| headers[at..at + 8].copy_from_slice(&eight.to_be_bytes());
    put(0, to << 16 | from >> 32);
    put(8, from << 32 | 0x0800 << 16 | VERSION);
    put(16, u64::from(total_len) << 48 | identification << 16 | ttl_protocol);
    put(26, addresses);
    headers[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{EtherType, VlanTags};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_in_words_are_the_headers_in_fields(
            stations: ([u8; 6], [u8; 6]),
            addresses: ([u8; 4], [u8; 4]),
            fields: (u8, u16, u8),
            ident: Option<u16>,
        ) {
            let (dst, src) = (MacAddr(stations.0), MacAddr(stations.1));
            let (from, to) = (Ipv4Addr::from(addresses.0), Ipv4Addr::from(addresses.1));
            let (protocol, total_len, ttl) = (IpProtocol(fields.0), fields.1, fields.2);
            let mut short = [0x33; HEADERS];
            emit(&mut short, (dst.to_bits(), src.to_bits()), (from, to), protocol, total_len, ttl, ident);

            let link = EthernetHeader { dst, src, vlan: VlanTags::NONE, ethertype: EtherType::IPV4 };
            let packet = Ipv4Header {
                dscp_ecn: 0,
                total_len,
                ident: ident.unwrap_or(0),
                dont_fragment: ident.is_none(),
                more_fragments: false,
                fragment_offset: 0,
                ttl,
                protocol,
                src: from,
                dst: to,
                options: &[],
            };
            let mut long = [0x44; HEADERS];
            prop_assert_eq!(link.emit(&mut long), Some(EthernetHeader::LEN));
            prop_assert_eq!(packet.emit(&mut long[EthernetHeader::LEN..]), Some(Ipv4Header::LEN));
            prop_assert_eq!(short, long);
        }
    }
}
