//! IPv4 (RFC 791).

use core::net::Ipv4Addr;

use super::{IpProtocol, ParseError, Sum};

/// The header of an IPv4 packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ipv4Header<'a> {
    /// Differentiated services code point (upper six bits, RFC 2474) and ECN (lower two, RFC 3168).
    pub dscp_ecn: u8,
    /// Bytes of header and payload.
    pub total_len: u16,
    /// Identification, common to the fragments of a datagram.
    pub ident: u16,
    /// DF: routers must not fragment.
    pub dont_fragment: bool,
    /// MF: this is not the last fragment.
    pub more_fragments: bool,
    /// Where the payload belongs in its datagram, in bytes; a multiple of 8.
    pub fragment_offset: u16,
    /// Time to live, in hops.
    pub ttl: u8,
    /// What the payload is.
    pub protocol: IpProtocol,
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// The options as they are on the wire, up to 40 bytes; see [`Ipv4Header::options`].
    pub options: &'a [u8],
}

impl<'a> Ipv4Header<'a> {
    /// Length of a header without options, in bytes.
    pub const LEN: usize = 20;
    /// Length of the longest header.
    pub const MAX_LEN: usize = 60;

    /// Splits a packet into header and payload, without what lies behind the total length (Ethernet padding).
    ///
    /// The options are not looked at, and a payload may be a fragment.
    ///
    /// # Errors
    /// - [`ParseError::Truncated`] when `data` ends before the header or the total length.
    /// - [`ParseError::Malformed`] for another version, a header length below 20, a total length below that, or a fragment
    ///   that reaches beyond byte 65,535 of its datagram.
    /// - [`ParseError::Checksum`] when the header checksum is wrong.
    #[inline(always)] // Fields that go through memory one by one and are read together stall the processor.
    pub fn parse(data: &'a [u8]) -> Result<(Self, &'a [u8]), ParseError> {
        let h = data.first_chunk::<20>().ok_or(ParseError::Truncated)?;
        if h[0] >> 4 != 4 {
            return Err(ParseError::Malformed);
        }
        let header_len = usize::from(h[0] & 0xf) * 4;
        let total_len = u16::from_be_bytes([h[2], h[3]]);
        if header_len < Self::LEN || usize::from(total_len) < header_len {
            return Err(ParseError::Malformed);
        }
        let packet = data.get(..usize::from(total_len)).ok_or(ParseError::Truncated)?;
        let (header, payload) = packet.split_at_checked(header_len).ok_or(ParseError::Truncated)?;
        let (sum, options) = if header_len == Self::LEN {
            (Sum::of(h), [].as_slice())
        } else {
            (Sum::of(header), header.get(Self::LEN..).unwrap_or_default())
        };
        if !sum.verify() {
            return Err(ParseError::Checksum);
        }
        let flags_offset = u16::from_be_bytes([h[6], h[7]]);
        let fragment_offset = (flags_offset & 0x1fff) * 8;
        if usize::from(fragment_offset) + payload.len() > usize::from(u16::MAX) {
            return Err(ParseError::Malformed);
        }
        let header = Self {
            dscp_ecn: h[1],
            total_len,
            ident: u16::from_be_bytes([h[4], h[5]]),
            dont_fragment: flags_offset & 0x4000 != 0,
            more_fragments: flags_offset & 0x2000 != 0,
            fragment_offset,
            ttl: h[8],
            protocol: IpProtocol(h[9]),
            src: Ipv4Addr::new(h[12], h[13], h[14], h[15]),
            dst: Ipv4Addr::new(h[16], h[17], h[18], h[19]),
            options,
        };
        Ok((header, payload))
    }

    /// Length of the emitted header in bytes, options padded to a multiple of 4.
    pub const fn header_len(&self) -> usize {
        Self::LEN + self.options.len().next_multiple_of(4)
    }

    /// Whether the payload is a part of its datagram only.
    pub const fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }

    /// The options, one by one.
    pub const fn options(&self) -> Ipv4Options<'a> {
        Ipv4Options { rest: self.options }
    }

    /// Writes the header at the start of `buf`, checksum included, total length as given. Answers its length, or `None` when
    /// `buf` is too short or the options are longer than 40 bytes.
    #[inline(always)] // Of a header without options nothing is left but five stores.
    pub fn emit(&self, buf: &mut [u8]) -> Option<usize> {
        let len = self.header_len();
        if len > Self::MAX_LEN {
            return None;
        }
        let flags = (u16::from(self.dont_fragment) << 14) | (u16::from(self.more_fragments) << 13);
        let header = buf.get_mut(..len)?;
        let (fixed, options) = header.split_first_chunk_mut::<20>()?;
        let two = |high: u16, low: u16| (u32::from(high) << 16) | u32::from(low);
        let bytes = |high: u8, low: u8| u16::from_be_bytes([high, low]);
        let mut words = [
            two(bytes(0x40 | (len / 4) as u8, self.dscp_ecn), self.total_len),
            two(self.ident, flags | (self.fragment_offset >> 3)),
            two(bytes(self.ttl, self.protocol.0), 0),
            u32::from(self.src),
            u32::from(self.dst),
        ];
        // Summed as numbers: what was just stored in pieces cannot be loaded as a whole without waiting for the stores.
        let mut sum = words.into_iter().fold(Sum::ZERO, Sum::add_u32);
        if !options.is_empty() {
            let (given, padding) = options.split_at_mut_checked(self.options.len())?;
            given.copy_from_slice(self.options);
            padding.fill(0);
            sum = sum.add(options);
        }
        words[2] |= u32::from(sum.finish());
        *fixed = words.map(u32::to_be_bytes).as_flattened().try_into().ok()?;
        Some(len)
    }
}

/// One option of an IPv4 header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ipv4Option<'a> {
    /// End of the list (RFC 791). The iterator ends behind it.
    EndOfList,
    /// No operation.
    Nop,
    /// Loose source and record route: pointer and route data.
    LooseSourceRoute {
        /// Where the next address is, counted from 1 at the option's type byte.
        pointer: u8,
        /// The addresses, four bytes each.
        route: &'a [u8],
    },
    /// Strict source and record route.
    StrictSourceRoute {
        /// Where the next address is, counted from 1 at the option's type byte.
        pointer: u8,
        /// The addresses, four bytes each.
        route: &'a [u8],
    },
    /// Record route.
    RecordRoute {
        /// Where the next address goes, counted from 1 at the option's type byte.
        pointer: u8,
        /// Room for addresses, four bytes each.
        route: &'a [u8],
    },
    /// Internet timestamp.
    Timestamp {
        /// Where the next timestamp goes, counted from 1 at the option's type byte.
        pointer: u8,
        /// Overflow count (upper four bits) and flag (lower four).
        overflow_flag: u8,
        /// Timestamps, with or without addresses.
        data: &'a [u8],
    },
    /// Router alert (RFC 2113).
    RouterAlert(u16),
    /// Any other option.
    Other {
        /// Type byte: copied flag, class and number.
        kind: u8,
        /// What follows the length byte.
        data: &'a [u8],
    },
}

/// The options of an IPv4 header. A malformed one ends the iteration with an error.
#[derive(Clone, Debug)]
pub struct Ipv4Options<'a> {
    rest: &'a [u8],
}

impl<'a> Ipv4Options<'a> {
    /// The options in `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn sized(&mut self, kind: u8, after_kind: &'a [u8]) -> Result<Ipv4Option<'a>, ParseError> {
        let (&len, after_len) = after_kind.split_first().ok_or(ParseError::Truncated)?;
        let body_len = usize::from(len).checked_sub(2).ok_or(ParseError::Malformed)?;
        let (body, rest) = after_len.split_at_checked(body_len).ok_or(ParseError::Truncated)?;
        self.rest = rest;
        Ok(match (kind, body) {
            (131, &[pointer, ref route @ ..]) => Ipv4Option::LooseSourceRoute { pointer, route },
            (137, &[pointer, ref route @ ..]) => Ipv4Option::StrictSourceRoute { pointer, route },
            (7, &[pointer, ref route @ ..]) => Ipv4Option::RecordRoute { pointer, route },
            (68, &[pointer, overflow_flag, ref data @ ..]) => {
                Ipv4Option::Timestamp { pointer, overflow_flag, data }
            }
            (148, &[a, b]) => Ipv4Option::RouterAlert(u16::from_be_bytes([a, b])),
            (131 | 137 | 7 | 68 | 148, _) => return Err(ParseError::Malformed),
            (kind, data) => Ipv4Option::Other { kind, data },
        })
    }
}

impl<'a> Iterator for Ipv4Options<'a> {
    type Item = Result<Ipv4Option<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, rest) = core::mem::take(&mut self.rest).split_first()?;
        match kind {
            0 => Some(Ok(Ipv4Option::EndOfList)),
            1 => {
                self.rest = rest;
                Some(Ok(Ipv4Option::Nop))
            }
            // On error `self.rest` stays empty, which ends the iteration.
            kind => {
                let item = self.sized(kind, rest);
                if item.is_err() {
                    self.rest = &[];
                }
                Some(item)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Ipv4Header<'static> = Ipv4Header {
        dscp_ecn: 0x2e << 2 | 1,
        total_len: 24,
        ident: 0xbeef,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: IpProtocol::UDP,
        src: Ipv4Addr::new(192, 0, 2, 1),
        dst: Ipv4Addr::new(198, 51, 100, 7),
        options: &[],
    };

    fn packet(header: &Ipv4Header<'_>) -> Vec<u8> {
        let mut bytes = vec![0xaa; usize::from(header.total_len).max(header.header_len())];
        assert_eq!(header.emit(&mut bytes), Some(header.header_len()));
        bytes
    }

    /// Changes a byte and makes the header checksum right again.
    fn patched(at: usize, byte: u8) -> Vec<u8> {
        let mut bytes = packet(&HEADER);
        bytes[at] = byte;
        bytes[10..12].fill(0);
        let sum = Sum::of(&bytes[..20]).finish();
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn header_is_laid_out_as_rfc_791_says() {
        let expected = [
            0x45, 0xb9, 0, 24, 0xbe, 0xef, 0x40, 0, 64, 17, 0x8e, 0xf0, 192, 0, 2, 1, 198, 51, 100, 7, 0xaa,
            0xaa, 0xaa, 0xaa,
        ];
        assert_eq!(packet(&HEADER), expected);
        assert_eq!(HEADER.emit(&mut [0; 19]), None);
    }

    #[test]
    fn ethernet_padding_is_cut_off() {
        let mut bytes = packet(&HEADER);
        bytes.resize(46, 0);
        assert_eq!(Ipv4Header::parse(&bytes), Ok((HEADER, &[0xaa; 4][..])));
    }

    #[test]
    fn each_bad_field_has_its_error() {
        let whole = packet(&HEADER);
        for len in 0..whole.len() {
            assert_eq!(Ipv4Header::parse(&whole[..len]), Err(ParseError::Truncated), "{len} bytes");
        }
        for (what, at, byte, error) in [
            ("version", 0, 0x65, ParseError::Malformed),
            ("header length 16", 0, 0x44, ParseError::Malformed),
            ("header longer than the packet", 0, 0x4f, ParseError::Malformed),
            ("total length 19", 3, 19, ParseError::Malformed),
            ("total length beyond the data", 3, 25, ParseError::Truncated),
        ] {
            assert_eq!(Ipv4Header::parse(&patched(at, byte)), Err(error), "{what}");
        }
        let mut flipped = packet(&HEADER);
        flipped[15] ^= 4;
        assert_eq!(Ipv4Header::parse(&flipped), Err(ParseError::Checksum));
    }

    #[test]
    fn fragment_that_reaches_beyond_64_kib_is_malformed() {
        let last = Ipv4Header { dont_fragment: false, fragment_offset: 65_528, total_len: 27, ..HEADER };
        let bytes = packet(&last);
        assert_eq!(Ipv4Header::parse(&bytes).map(|(h, p)| (h.fragment_offset, p.len())), Ok((65_528, 7)));
        let beyond = packet(&Ipv4Header { total_len: 28, ..last });
        assert_eq!(Ipv4Header::parse(&beyond), Err(ParseError::Malformed));
    }

    #[test]
    fn options_are_padded_and_covered_by_the_checksum() {
        let header = Ipv4Header { options: &[148, 4, 0, 0, 7], total_len: 28, ..HEADER };
        let bytes = packet(&header);
        let (parsed, payload) = Ipv4Header::parse(&bytes).unwrap();
        assert_eq!((parsed.options, payload), (&[148, 4, 0, 0, 7, 0, 0, 0][..], &[][..]));
        assert!(Ipv4Header { options: &[1; 41], ..HEADER }.emit(&mut [0; 80]).is_none());
    }

    #[test]
    fn options_are_told_apart_and_end_of_list_ends() {
        let bytes = [
            1, 131, 7, 4, 10, 0, 0, 1, 137, 3, 4, 7, 3, 4, 68, 4, 5, 0x10, 148, 4, 0, 1, 130, 3, 9, 0, 255,
            255,
        ];
        let options: Result<Vec<_>, _> = Ipv4Options::new(&bytes).collect();
        assert_eq!(
            options.unwrap(),
            [
                Ipv4Option::Nop,
                Ipv4Option::LooseSourceRoute { pointer: 4, route: &[10, 0, 0, 1] },
                Ipv4Option::StrictSourceRoute { pointer: 4, route: &[] },
                Ipv4Option::RecordRoute { pointer: 4, route: &[] },
                Ipv4Option::Timestamp { pointer: 5, overflow_flag: 0x10, data: &[] },
                Ipv4Option::RouterAlert(1),
                Ipv4Option::Other { kind: 130, data: &[9] },
                Ipv4Option::EndOfList,
            ]
        );
    }

    #[test]
    fn malformed_option_is_an_error_once() {
        for (bytes, error) in [
            (&[1, 131][..], ParseError::Truncated),
            (&[1, 131, 8, 0], ParseError::Truncated),
            (&[1, 131, 1, 0, 1], ParseError::Malformed),
            (&[1, 131, 2, 1], ParseError::Malformed),
            (&[1, 148, 3, 1, 1], ParseError::Malformed),
        ] {
            let items: Vec<_> = Ipv4Options::new(bytes).collect();
            assert_eq!(items, [Ok(Ipv4Option::Nop), Err(error)], "{bytes:?}");
        }
    }
}
