//! IPv6 and its extension headers (RFC 8200).

use core::net::Ipv6Addr;

use super::{IpProtocol, ParseError, put};

/// The fixed header of an IPv6 packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ipv6Header {
    /// Differentiated services code point (upper six bits) and ECN (lower two).
    pub traffic_class: u8,
    /// Flow label; the low 20 bits count.
    pub flow_label: u32,
    /// Bytes behind this header, extension headers included.
    pub payload_len: u16,
    /// What follows this header.
    pub next_header: IpProtocol,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
}

impl Ipv6Header {
    /// Length of the header in bytes.
    pub const LEN: usize = 40;

    /// Splits a packet into header and payload, without what lies behind the payload length (Ethernet padding).
    ///
    /// # Errors
    /// [`ParseError::Truncated`] when `data` ends before the header or the payload length, [`ParseError::Malformed`] for
    /// another version. A jumbogram (RFC 2675) reads as an empty payload.
    pub fn parse(data: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        let (&first, rest) = data.split_first_chunk::<4>().ok_or(ParseError::Truncated)?;
        let (&[l0, l1, next_header, hop_limit], rest) =
            rest.split_first_chunk::<4>().ok_or(ParseError::Truncated)?;
        let (&src, rest) = rest.split_first_chunk::<16>().ok_or(ParseError::Truncated)?;
        let (&dst, rest) = rest.split_first_chunk::<16>().ok_or(ParseError::Truncated)?;
        let first = u32::from_be_bytes(first);
        if first >> 28 != 6 {
            return Err(ParseError::Malformed);
        }
        let payload_len = u16::from_be_bytes([l0, l1]);
        let payload = rest.get(..usize::from(payload_len)).ok_or(ParseError::Truncated)?;
        let header = Self {
            traffic_class: (first >> 20) as u8,
            flow_label: first & 0xf_ffff,
            payload_len,
            next_header: IpProtocol(next_header),
            hop_limit,
            src: Ipv6Addr::from(src),
            dst: Ipv6Addr::from(dst),
        };
        Ok((header, payload))
    }

    /// Writes the header at the start of `buf`. Answers its length, or `None` when `buf` is too short.
    pub fn emit(&self, buf: &mut [u8]) -> Option<usize> {
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0xf_ffff;
        let rest = &mut buf.get_mut(..Self::LEN)?;
        put(rest, first.to_be_bytes())?;
        put(rest, self.payload_len.to_be_bytes())?;
        put(rest, [self.next_header.0, self.hop_limit])?;
        put(rest, self.src.octets())?;
        put(rest, self.dst.octets())?;
        Some(Self::LEN)
    }
}

/// The fragment header (RFC 8200 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FragmentHeader {
    /// What the fragmented part of the datagram begins with.
    pub next_header: IpProtocol,
    /// Where the payload belongs in the fragmented part, in bytes; a multiple of 8.
    pub offset: u16,
    /// This is not the last fragment.
    pub more: bool,
    /// Common to the fragments of a datagram.
    pub ident: u32,
}

impl FragmentHeader {
    /// Length of the header in bytes.
    pub const LEN: usize = 8;

    /// Whether the packet is whole all the same (RFC 6946).
    pub const fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// What matters of a routing header to one who does not follow it (RFC 8200 4.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RoutingHeader {
    /// Routing type.
    pub kind: u8,
    /// How many listed nodes are still to be visited. Unless 0, a packet of unknown type is refused with a parameter problem that
    /// points to `offset + 2`.
    pub segments_left: u8,
    /// Where the header starts, counted from the start of the walk.
    pub offset: usize,
}

/// What lies behind the extension headers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UpperLayer<'a> {
    /// What `payload` is. [`IpProtocol::IPV6_NO_NEXT`] and [`IpProtocol::ESP`] end a walk too.
    pub protocol: IpProtocol,
    /// Where `payload` starts, counted from the start of the walk.
    pub offset: usize,
    /// Where the next-header byte that says so lies, counted from the start of the walk; `None` when it is in the fixed
    /// header. A parameter problem points to it.
    pub protocol_offset: Option<usize>,
    /// The fragment header, if there was one. Behind one that is not atomic the walk stops, as further headers are complete only
    /// after reassembly: `payload` is then the fragment.
    pub fragment: Option<FragmentHeader>,
    /// The last routing header, if there was one.
    pub routing: Option<RoutingHeader>,
    /// The bytes themselves.
    pub payload: &'a [u8],
}

/// More extension headers than this in one packet are an attack: RFC 8200 4.1 lists eight occurrences at most.
const MAX_EXTENSIONS: usize = 8;

/// Walks over the extension headers at the start of `payload`, of which `next_header` is the first.
///
/// Options within hop-by-hop and destination options headers are not looked at.
///
/// # Errors
/// [`ParseError::Truncated`] when a header reaches beyond `payload`; [`ParseError::Malformed`] when hop-by-hop options are not
/// first (RFC 8200 4.1), or for more than eight headers.
pub fn walk_extensions(next_header: IpProtocol, payload: &[u8]) -> Result<UpperLayer<'_>, ParseError> {
    let mut at = UpperLayer {
        protocol: next_header,
        offset: 0,
        protocol_offset: None,
        fragment: None,
        routing: None,
        payload,
    };
    for count in 0..=MAX_EXTENSIONS {
        let (next, len) = match at.protocol {
            IpProtocol::HOP_BY_HOP if count > 0 => return Err(ParseError::Malformed),
            IpProtocol::HOP_BY_HOP | IpProtocol::IPV6_DEST_OPTIONS => {
                let &[next, len] = first(at.payload)?;
                (next, 8 * (usize::from(len) + 1))
            }
            IpProtocol::IPV6_ROUTING => {
                let &[next, len, kind, segments_left] = first(at.payload)?;
                at.routing = Some(RoutingHeader { kind, segments_left, offset: at.offset });
                (next, 8 * (usize::from(len) + 1))
            }
            // RFC 4302 2.2: in units of four bytes, minus two.
            IpProtocol::AH => {
                let &[next, len] = first(at.payload)?;
                (next, 4 * (usize::from(len) + 2))
            }
            IpProtocol::IPV6_FRAGMENT => {
                let &[next, _, o0, o1, i0, i1, i2, i3] = first(at.payload)?;
                let offset_flags = u16::from_be_bytes([o0, o1]);
                at.fragment = Some(FragmentHeader {
                    next_header: IpProtocol(next),
                    offset: offset_flags & 0xfff8,
                    more: offset_flags & 1 != 0,
                    ident: u32::from_be_bytes([i0, i1, i2, i3]),
                });
                (next, FragmentHeader::LEN)
            }
            _ => return Ok(at),
        };
        let is_fragment_header = at.protocol == IpProtocol::IPV6_FRAGMENT;
        at.payload = at.payload.get(len..).ok_or(ParseError::Truncated)?;
        at.protocol = IpProtocol(next);
        at.protocol_offset = Some(at.offset);
        at.offset += len;
        if is_fragment_header && at.fragment.is_some_and(|f| !f.is_atomic()) {
            return Ok(at);
        }
    }
    Err(ParseError::Malformed)
}

fn first<const N: usize>(data: &[u8]) -> Result<&[u8; N], ParseError> {
    data.first_chunk().ok_or(ParseError::Truncated)
}
