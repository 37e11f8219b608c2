//! The TCP header (RFC 9293 3.1). Options are in [`TcpOptions`].
//!
//! ```text
//!  0         2         4                   8                  12
//! +---------+---------+-------------------+-------------------+
//! | source  | dest.   | sequence number   | acknowledgment    |
//! +----+----+---------+---------+---------+-------------------+
//! | do | fl | window  | chksum  | urgent  | options, padding  |   do: header length / 4 in the upper four bits
//! +----+----+---------+---------+---------+-------------------+
//! 12        14        16        18        20
//! ```

use core::net::IpAddr;

use bitflags::bitflags;

use super::{IpProtocol, ParseError, Seq, Sum, TcpOptions};

bitflags! {
    /// The control bits of a segment, as they lie in the 14th byte of the header.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct TcpFlags: u8 {
        /// No more data from the sender.
        const FIN = 1;
        /// Synchronise sequence numbers.
        const SYN = 1 << 1;
        /// Reset the connection.
        const RST = 1 << 2;
        /// Push: hand the data to the user.
        const PSH = 1 << 3;
        /// The acknowledgment field is significant.
        const ACK = 1 << 4;
        /// The urgent pointer is significant.
        const URG = 1 << 5;
        /// ECN echo (RFC 3168).
        const ECE = 1 << 6;
        /// Congestion window reduced (RFC 3168).
        const CWR = 1 << 7;
    }
}

/// The header of a TCP segment, options included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpHeader {
    /// Port of the sender.
    pub src_port: u16,
    /// Port of the receiver.
    pub dst_port: u16,
    /// SEG.SEQ: number of the first data byte, or of the SYN.
    pub seq: Seq,
    /// SEG.ACK: the next number that the sender expects, if ACK is set.
    pub ack: Seq,
    /// Control bits.
    pub flags: TcpFlags,
    /// SEG.WND, not scaled.
    pub window: u16,
    /// Checksum over pseudo-header, header and data.
    pub checksum: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options.
    pub options: TcpOptions,
}

impl TcpHeader {
    /// Length of a header without options, in bytes.
    pub const LEN: usize = 20;
    /// Length of the longest header.
    pub const MAX_LEN: usize = 60;

    /// Splits a segment into header and data. The checksum is not looked at: see [`TcpHeader::verify`].
    ///
    /// # Errors
    /// [`ParseError::Truncated`] when the segment ends within its header; [`ParseError::Malformed`] when the data offset is
    /// below 5 or an option reaches beyond the header.
    #[inline(always)] // Fields that go through memory one by one and are read together stall the processor.
    pub fn parse(segment: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        let h = segment.first_chunk::<20>().ok_or(ParseError::Truncated)?;
        let header_len = usize::from(h[12] >> 4) * 4;
        if header_len < Self::LEN {
            return Err(ParseError::Malformed);
        }
        let (header, data) = segment.split_at_checked(header_len).ok_or(ParseError::Truncated)?;
        let options = TcpOptions::parse(header.get(Self::LEN..).unwrap_or_default())?;
        let header = Self {
            src_port: u16::from_be_bytes([h[0], h[1]]),
            dst_port: u16::from_be_bytes([h[2], h[3]]),
            seq: Seq(u32::from_be_bytes([h[4], h[5], h[6], h[7]])),
            ack: Seq(u32::from_be_bytes([h[8], h[9], h[10], h[11]])),
            flags: TcpFlags::from_bits_retain(h[13]),
            window: u16::from_be_bytes([h[14], h[15]]),
            checksum: u16::from_be_bytes([h[16], h[17]]),
            urgent: u16::from_be_bytes([h[18], h[19]]),
            options,
        };
        Ok((header, data))
    }

    /// Length of the emitted header in bytes: 20 to 60, a multiple of 4.
    pub fn header_len(&self) -> usize {
        Self::LEN + self.options.len()
    }

    /// Writes the header at the start of `buf`, checksum as given. Answers its length, or `None` when `buf` is too short.
    #[inline]
    pub fn emit(&self, buf: &mut [u8]) -> Option<usize> {
        let len = self.header_len();
        let (fixed, options) = buf.get_mut(..len)?.split_first_chunk_mut::<20>()?;
        self.options.emit(options)?;
        *fixed = self.words(len, self.checksum).map(u32::to_be_bytes).as_flattened().try_into().ok()?;
        Some(len)
    }

    /// As [`TcpHeader::emit`] into exactly [`TcpHeader::header_len`] bytes, with the checksum of the header and what was summed
    /// beside it: pseudo-header and data.
    #[inline(always)] // Of a header without options nothing is left but five stores.
    pub(crate) fn emit_summed(&self, buf: &mut [u8], beside: Sum) -> Option<usize> {
        let len = buf.len();
        let (fixed, options) = buf.split_first_chunk_mut::<20>()?;
        // Summed as numbers: bytes that were just stored in pieces cannot be loaded as whole words without waiting for the
        // stores.
        let mut sum = self.words(len, 0).into_iter().fold(beside, Sum::add_u32);
        if !options.is_empty() {
            self.options.emit(options)?;
            sum = sum.add(options);
        }
        *fixed = self.words(len, sum.finish()).map(u32::to_be_bytes).as_flattened().try_into().ok()?;
        Some(len)
    }

    /// The header without options as 32-bit words, when it is `len` bytes long.
    #[inline(always)]
    fn words(&self, len: usize, checksum: u16) -> [u32; 5] {
        let two = |high: u16, low: u16| (u32::from(high) << 16) | u32::from(low);
        let offset_flags = u16::from_be_bytes([((len / 4) << 4) as u8, self.flags.bits()]);
        [
            two(self.src_port, self.dst_port),
            self.seq.0,
            self.ack.0,
            two(offset_flags, self.window),
            two(checksum, self.urgent),
        ]
    }

    /// Whether the checksum of `segment` (header and data, exactly) is right.
    #[inline]
    pub fn verify(src: IpAddr, dst: IpAddr, segment: &[u8]) -> bool {
        pseudo_header(src, dst, segment.len()).add(segment).verify()
    }

    /// Computes the checksum of `segment` (header and data, exactly) and writes it into the header. `None`, and no
    /// change, under 20 bytes.
    pub fn fill_checksum(src: IpAddr, dst: IpAddr, segment: &mut [u8]) -> Option<()> {
        let pseudo = pseudo_header(src, dst, segment.len());
        segment.first_chunk_mut::<20>()?[16..18].fill(0);
        let sum = pseudo.add(segment).finish().to_be_bytes();
        segment.first_chunk_mut::<20>()?[16..18].copy_from_slice(&sum);
        Some(())
    }
}

fn pseudo_header(src: IpAddr, dst: IpAddr, len: usize) -> Sum {
    Sum::pseudo_header(src, dst, IpProtocol::TCP, len as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{SackBlocks, Timestamps};
    use proptest::prelude::*;

    const A: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 2));
    const HEADER: TcpHeader = TcpHeader {
        src_port: 0x0102,
        dst_port: 0x0304,
        seq: Seq(0x05060708),
        ack: Seq(0x090a0b0c),
        flags: TcpFlags::ACK.union(TcpFlags::PSH).union(TcpFlags::CWR),
        window: 0x0d0e,
        checksum: 0x0f10,
        urgent: 0x1112,
        options: TcpOptions::NONE,
    };

    #[test]
    fn header_is_laid_out_as_rfc_9293_says() {
        let mut buf = [0xaa; 22];
        assert_eq!(HEADER.emit(&mut buf), Some(20));
        let expected =
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x50, 0x98, 13, 14, 15, 16, 17, 18, 0xaa, 0xaa];
        assert_eq!(buf, expected);
        assert_eq!(TcpHeader::parse(&buf), Ok((HEADER, &[0xaa, 0xaa][..])));
        assert_eq!(HEADER.emit(&mut buf[..19]), None);
    }

    #[test]
    fn data_offset_outside_the_segment_or_below_5_is_an_error() {
        let mut buf = [0; 24];
        HEADER.emit(&mut buf);
        assert_eq!(TcpHeader::parse(&buf[..19]), Err(ParseError::Truncated));
        buf[12] = 0x40;
        assert_eq!(TcpHeader::parse(&buf), Err(ParseError::Malformed));
        buf[12] = 0x70;
        assert_eq!(TcpHeader::parse(&buf), Err(ParseError::Truncated));
        buf[12] = 0x60;
        assert_eq!(TcpHeader::parse(&buf), Ok((HEADER, &[][..])));
    }

    #[test]
    fn checksum_is_filled_and_covers_addresses_header_and_data() {
        let mut segment = [0x33; 27];
        HEADER.emit(&mut segment);
        TcpHeader::fill_checksum(A, B, &mut segment).unwrap();
        assert!(TcpHeader::verify(A, B, &segment) && !TcpHeader::verify(A, A, &segment));
        for at in 0..segment.len() {
            segment[at] ^= 0x20;
            assert!(!TcpHeader::verify(A, B, &segment), "byte {at}");
            segment[at] ^= 0x20;
        }
        assert_eq!(TcpHeader::fill_checksum(A, B, &mut [0; 19]), None);
    }

    fn options() -> impl Strategy<Value = TcpOptions> {
        let blocks = proptest::collection::vec(any::<(u32, u32)>(), 0..5);
        let timestamps = any::<Option<(u32, u32)>>();
        let options = (any::<Option<u16>>(), any::<Option<u8>>(), any::<bool>(), blocks, timestamps);
        let options = options.prop_map(|(mss, window_scale, sack_permitted, blocks, timestamps)| {
            let mut sack = SackBlocks::default();
            blocks.into_iter().for_each(|(left, right)| {
                sack.push(Seq(left), Seq(right));
            });
            let timestamps = timestamps.map(|(value, echo)| Timestamps { value, echo });
            TcpOptions { mss, window_scale, sack_permitted, sack, timestamps, fast_open: None }
        });
        prop_oneof![Just(TcpOptions::NONE), options]
    }

    proptest! {
        #[test]
        fn emitting_and_summing_at_once_equals_one_after_the_other(
            fields in any::<(u16, u16, u32, u32, u8, u16, u16)>(),
            options in options(),
            text in proptest::collection::vec(any::<u8>(), 0..1_500),
            addresses in any::<([u8; 4], [u8; 4])>(),
        ) {
            let (src_port, dst_port, seq, ack, flags, window, urgent) = fields;
            let (seq, ack, flags) = (Seq(seq), Seq(ack), TcpFlags::from_bits_retain(flags));
            let header = TcpHeader { src_port, dst_port, seq, ack, flags, window, checksum: 0, urgent, options };
            let (src, dst) = (IpAddr::from(addresses.0), IpAddr::from(addresses.1));
            let len = header.header_len();
            let (mut one, mut other) = (vec![0x11; len + text.len()], vec![0x22; len + text.len()]);
            one[len..].copy_from_slice(&text);
            other[len..].copy_from_slice(&text);
            let emitted = header.emit(&mut one);
            let beside = Sum::pseudo_header(src, dst, IpProtocol::TCP, other.len() as u32).add(&text);
            prop_assert_eq!(header.emit_summed(&mut other[..len], beside), emitted);
            if emitted.is_some() {
                TcpHeader::fill_checksum(src, dst, &mut one).unwrap();
                prop_assert_eq!(one, other);
            }
        }
    }
}
