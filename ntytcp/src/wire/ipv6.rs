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
pub const MAX_EXTENSIONS: usize = 8;

/// Walks over the extension headers at the start of `payload`, of which `next_header` is the first.
///
/// Options within hop-by-hop and destination options headers are not looked at.
///
/// # Errors
/// [`ParseError::Truncated`] when a header reaches beyond `payload`; [`ParseError::Malformed`] when hop-by-hop options are not
/// first (RFC 8200 4.1), for an authentication header shorter than its fixed part, or for more than eight headers.
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
            // RFC 4302 2.2: in units of four bytes, minus two; the fixed part alone has three of them.
            IpProtocol::AH => match *first(at.payload)? {
                [_, 0] => return Err(ParseError::Malformed),
                [next, len] => (next, 4 * (usize::from(len) + 2)),
            },
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

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Ipv6Header = Ipv6Header {
        traffic_class: 0xb8,
        flow_label: 0x12345,
        payload_len: 3,
        next_header: IpProtocol::UDP,
        hop_limit: 64,
        src: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        dst: Ipv6Addr::LOCALHOST,
    };

    #[test]
    fn header_round_trips_and_padding_is_cut_off() {
        let mut bytes = [0x55; 50];
        assert_eq!(HEADER.emit(&mut bytes), Some(40));
        assert_eq!(bytes[..8], [0x6b, 0x81, 0x23, 0x45, 0, 3, 17, 64]);
        assert_eq!(Ipv6Header::parse(&bytes), Ok((HEADER, &[0x55; 3][..])));
        for len in 0..43 {
            assert_eq!(Ipv6Header::parse(&bytes[..len]), Err(ParseError::Truncated), "{len} bytes");
        }
        bytes[0] = 0x4b;
        assert_eq!(Ipv6Header::parse(&bytes), Err(ParseError::Malformed));
        assert_eq!(HEADER.emit(&mut [0; 39]), None);
    }

    #[test]
    fn without_extensions_the_walk_ends_at_once() {
        let at = walk_extensions(IpProtocol::TCP, &[1, 2]).unwrap();
        assert_eq!(
            (at.protocol, at.offset, at.protocol_offset, at.payload),
            (IpProtocol::TCP, 0, None, &[1, 2][..])
        );
    }

    #[test]
    fn all_kinds_of_headers_are_walked_over() {
        let mut bytes = vec![43, 0, 1, 4, 0, 0, 0, 0]; // hop-by-hop: PadN
        bytes.extend([51, 0, 3, 2, 0, 0, 0, 0]); // routing of type 3, two segments left
        bytes.extend([44, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]); // AH of 12 bytes
        bytes.extend([60, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef]); // atomic fragment
        bytes.extend([6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // destination options of 16 bytes
        bytes.push(0x77);
        let at = walk_extensions(IpProtocol::HOP_BY_HOP, &bytes).unwrap();
        assert_eq!((at.protocol, at.offset, at.protocol_offset), (IpProtocol::TCP, 52, Some(36)));
        assert_eq!(at.payload, [0x77]);
        assert_eq!(at.routing, Some(RoutingHeader { kind: 3, segments_left: 2, offset: 8 }));
        assert!(at.fragment.is_some_and(|f| f.is_atomic() && f.ident == 0xdead_beef));
        for len in 0..52 {
            assert_eq!(
                walk_extensions(IpProtocol::HOP_BY_HOP, &bytes[..len]),
                Err(ParseError::Truncated),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn walk_stops_behind_a_true_fragment_header() {
        // The bytes behind would be a hop-by-hop header, which is not to be looked at before reassembly.
        let bytes = [60, 0, 0x00, 0x09, 0, 0, 0, 7, 6, 0, 0, 0];
        let at = walk_extensions(IpProtocol::IPV6_FRAGMENT, &bytes).unwrap();
        let fragment =
            FragmentHeader { next_header: IpProtocol::IPV6_DEST_OPTIONS, offset: 8, more: true, ident: 7 };
        assert_eq!((at.fragment, at.offset), (Some(fragment), 8));
        assert_eq!((at.protocol, at.payload.len()), (IpProtocol::IPV6_DEST_OPTIONS, 4));
    }

    #[test]
    fn authentication_header_without_sequence_number_is_malformed() {
        let bytes = [6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(walk_extensions(IpProtocol::AH, &bytes), Err(ParseError::Malformed));
    }

    #[test]
    fn late_hop_by_hop_and_endless_chains_are_malformed() {
        let late = [0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(walk_extensions(IpProtocol::IPV6_DEST_OPTIONS, &late), Err(ParseError::Malformed));
        let chain = |n: usize| {
            let mut bytes = [60, 0, 1, 4, 0, 0, 0, 0].repeat(n);
            bytes[8 * (n - 1)] = 17;
            walk_extensions(IpProtocol::IPV6_DEST_OPTIONS, &bytes).map(|at| at.offset)
        };
        assert_eq!((chain(8), chain(9)), (Ok(64), Err(ParseError::Malformed)));
    }
}
