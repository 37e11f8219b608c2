//! Frames that are ready but for what differs from one to the next.
//!
//! The longest frame is built once, with zeros where something varies; a shorter one is its beginning. For each length the sums of all
//! that stays are known (RFC 1071), so that a frame costs one copy, a dozen stores and as many additions, however long its payload is.

use super::many::Cursor;
use super::{Frames, Kind};
use ntytcp::wire::{IpProtocol, MacAddr, Sum};
use std::net::Ipv4Addr;
use std::str::FromStr;

/// What a payload consists of, over and over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pattern(Vec<u8>);

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!("{text:?} is no pattern: give zero, ones, count, or an even number of hexadecimal digits")
        };
        Ok(Self(match text {
            "zero" => vec![0],
            "ones" => vec![0xff],
            "count" => (0..=255).collect(),
            _ if text.is_empty()
                || !text.len().is_multiple_of(2)
                || !text.bytes().all(|b| b.is_ascii_hexdigit()) =>
            {
                return Err(bad());
            }
            _ => {
                let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
                (0..text.len()).step_by(2).map(byte).collect::<Option<_>>().ok_or_else(bad)?
            }
        }))
    }
}

/// Where the packet and the transport begin.
const IP: usize = 14;
const L4: usize = IP + 20;
/// Where the stamp of UDP and ICMP is, and how long.
pub(super) const STAMP: usize = L4 + 8;
pub(super) const STAMP_LEN: usize = 18;
/// All that ever varies lies in front of this.
const HEAD: usize = STAMP + STAMP_LEN;

/// One length, and the sums of what is the same in all frames of it.
#[derive(Clone, Copy, Debug)]
struct Shape {
    len: u16,
    /// Bytes of the packet, and of what is in it.
    total_len: u16,
    l4_len: u16,
    ip: Sum,
    l4: Sum,
}

/// The next frame, and the ones after it.
#[derive(Debug)]
pub(super) struct Template<'a> {
    kind: Kind,
    /// Tells our frames from others.
    tag: u16,
    longest: Vec<u8>,
    shapes: Vec<Shape>,
    shape: usize,
    src_mac: Cursor<'a, MacAddr>,
    dst_mac: Cursor<'a, MacAddr>,
    src_ip: Cursor<'a, Ipv4Addr>,
    dst_ip: Cursor<'a, Ipv4Addr>,
    src_port: Cursor<'a, u16>,
    dst_port: Cursor<'a, u16>,
}

/// Fields that take their values from these.
pub(super) struct Fields<'a> {
    pub src_mac: Cursor<'a, MacAddr>,
    pub dst_mac: Cursor<'a, MacAddr>,
    pub src_ip: Cursor<'a, Ipv4Addr>,
    pub dst_ip: Cursor<'a, Ipv4Addr>,
}

/// What the sequence number of a SYN with this number is: far from the numbers of others.
pub(super) fn syn_base(tag: u16) -> u32 {
    u32::from(tag) << 16
}

impl<'a> Template<'a> {
    pub(super) fn new(frames: &'a Frames, fields: Fields<'a>, tag: u16) -> Self {
        let Frames { proto: kind, src_port, dst_port, size, payload, .. } = frames;
        let Fields { src_mac, dst_mac, src_ip, dst_ip } = fields;
        let mut longest = vec![0; usize::from(size.greatest())];
        let header = L4 + if *kind == Kind::TcpSyn { 20 } else { 8 };
        let body = longest.iter_mut().skip(header);
        body.zip(payload.0.iter().cycle()).for_each(|(to, byte)| *to = *byte);
        if let Some(head) = longest.first_chunk_mut::<HEAD>() {
            head[12..14].copy_from_slice(&[8, 0]);
            // RFC 6864: a datagram that is never fragmented needs no identification.
            head[IP..IP + 10].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol(*kind).0]);
            match kind {
                Kind::Udp => head[STAMP..].fill(0),
                Kind::Icmp => {
                    head[L4] = 8;
                    head[STAMP..].fill(0);
                }
                // Data offset, SYN, and a window.
                Kind::TcpSyn => head[L4 + 12..L4 + 16].copy_from_slice(&[0x50, 2, 0xff, 0xff]),
            }
        }
        let shapes = size.0.iter().map(|&len| Shape::new(*kind, len, &longest)).collect();
        let (src_port, dst_port) = (src_port.cursor(), dst_port.cursor());
        Self {
            kind: *kind,
            tag,
            longest,
            shapes,
            shape: 0,
            src_mac,
            dst_mac,
            src_ip,
            dst_ip,
            src_port,
            dst_port,
        }
    }

    /// Length of the next frame.
    pub(super) fn next_len(&self) -> usize {
        self.shapes.get(self.shape).map_or(0, |shape| shape.len.into())
    }

    /// Writes the next frame, `next_len` bytes, with its number and its time. No allocation.
    #[inline]
    pub(super) fn write(&mut self, to: &mut [u8], number: u64, nanos: u64) {
        let Some(shape) = self.shapes.get(self.shape).copied() else { return };
        self.shape = if self.shape + 1 < self.shapes.len() { self.shape + 1 } else { 0 };
        let len = usize::from(shape.len);
        let (Some(from), Some(to)) = (self.longest.get(..len), to.get_mut(..len)) else { return };
        to.copy_from_slice(from);
        let Some(head) = to.first_chunk_mut::<HEAD>() else { return };
        put(head, 0, self.dst_mac.step().0);
        put(head, 6, self.src_mac.step().0);
        put(head, IP + 2, shape.total_len.to_be_bytes());
        let (src, dst) = (self.src_ip.step(), self.dst_ip.step());
        put(head, IP + 12, src.octets());
        put(head, IP + 16, dst.octets());
        let addrs = Sum::ZERO.add_u32(src.to_bits()).add_u32(dst.to_bits());
        put(head, IP + 10, shape.ip.combine(addrs).finish().to_be_bytes());
        let (at, sum) = match self.kind {
            Kind::Udp => {
                let ports = u32::from(self.src_port.step()) << 16 | u32::from(self.dst_port.step());
                put(head, L4, ports.to_be_bytes());
                put(head, L4 + 4, shape.l4_len.to_be_bytes());
                let stamp = stamp(head, self.tag, number, nanos);
                (L4 + 6, shape.l4.combine(addrs).add_u32(ports).combine(stamp).finish_nonzero())
            }
            Kind::Icmp => {
                let ids = u32::from(self.tag) << 16 | number as u32 & 0xffff;
                put(head, L4 + 4, ids.to_be_bytes());
                let stamp = stamp(head, self.tag, number, nanos);
                (L4 + 2, shape.l4.add_u32(ids).combine(stamp).finish())
            }
            Kind::TcpSyn => {
                let ports = u32::from(self.src_port.step()) << 16 | u32::from(self.dst_port.step());
                let seq = syn_base(self.tag).wrapping_add(number as u32);
                put(head, L4, ports.to_be_bytes());
                put(head, L4 + 4, seq.to_be_bytes());
                (L4 + 16, shape.l4.combine(addrs).add_u32(ports).add_u32(seq).finish())
            }
        };
        put(head, at, sum.to_be_bytes());
    }
}

/// Writes some bytes at a place that is known when this is compiled, which then is a store and no call.
#[inline(always)]
fn put<const N: usize>(head: &mut [u8; HEAD], at: usize, bytes: [u8; N]) {
    if let Some(to) = head.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *to = bytes;
    }
}

/// Writes the stamp; the sum of its bytes.
#[inline(always)]
fn stamp(head: &mut [u8; HEAD], tag: u16, number: u64, nanos: u64) -> Sum {
    put(head, STAMP, tag.to_be_bytes());
    put(head, STAMP + 2, number.to_be_bytes());
    put(head, STAMP + 10, nanos.to_be_bytes());
    let halves = |word: u64| Sum::ZERO.add_u32((word >> 32) as u32).add_u32(word as u32);
    halves(number).combine(halves(nanos)).add_u16(tag)
}

fn protocol(kind: Kind) -> IpProtocol {
    match kind {
        Kind::Udp => IpProtocol::UDP,
        Kind::TcpSyn => IpProtocol::TCP,
        Kind::Icmp => IpProtocol::ICMP,
    }
}

impl Shape {
    fn new(kind: Kind, len: u16, longest: &[u8]) -> Self {
        // A SYN is shorter than the shortest frame, which is padded.
        let total_len = if kind == Kind::TcpSyn { 40 } else { len - IP as u16 };
        let l4_len = total_len - 20;
        let ip = Sum::of(longest.get(IP..L4).unwrap_or_default()).add_u16(total_len);
        let l4 = Sum::of(longest.get(L4..IP + usize::from(total_len)).unwrap_or_default());
        let none = Ipv4Addr::UNSPECIFIED;
        let l4 = match kind {
            // Once in the pseudo-header, once in UDP's own.
            Kind::Udp => {
                l4.combine(Sum::pseudo_header_v4(none, none, IpProtocol::UDP, l4_len.into())).add_u16(l4_len)
            }
            Kind::TcpSyn => l4.combine(Sum::pseudo_header_v4(none, none, IpProtocol::TCP, l4_len.into())),
            Kind::Icmp => l4,
        };
        Self { len, total_len, l4_len, ip, l4 }
    }
}
