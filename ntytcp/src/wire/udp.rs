//! UDP (RFC 768).

use core::net::IpAddr;

use super::{IpProtocol, ParseError, Sum};

/// The header of a UDP datagram.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UdpHeader {
    /// Port of the sender; 0 when it wants no answer.
    pub src_port: u16,
    /// Port of the receiver.
    pub dst_port: u16,
    /// Bytes of header and payload.
    pub length: u16,
    /// Checksum over pseudo-header, header and payload; 0 says that the sender computed none.
    pub checksum: u16,
}

impl UdpHeader {
    /// Length of the header in bytes.
    pub const LEN: usize = 8;

    /// The header in its bytes, whatever they say.
    #[inline]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let word = u64::from_be_bytes(bytes);
        Self {
            src_port: (word >> 48) as u16,
            dst_port: (word >> 32) as u16,
            length: (word >> 16) as u16,
            checksum: word as u16,
        }
    }

    /// Splits a datagram into header and payload. The checksum is not looked at: see [`UdpHeader::verify`].
    ///
    /// # Errors
    /// [`ParseError::Truncated`] when `data` ends before the declared length, [`ParseError::Malformed`] when that length is
    /// below 8.
    pub fn parse(data: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        let header = Self::from_bytes(*data.first_chunk().ok_or(ParseError::Truncated)?);
        if usize::from(header.length) < Self::LEN {
            return Err(ParseError::Malformed);
        }
        let payload = data.get(Self::LEN..usize::from(header.length)).ok_or(ParseError::Truncated)?;
        Ok((header, payload))
    }

    /// The header as it is sent, length and checksum as given.
    #[inline]
    pub const fn to_bytes(&self) -> [u8; Self::LEN] {
        let ports = (self.src_port as u64) << 48 | (self.dst_port as u64) << 32;
        (ports | (self.length as u64) << 16 | self.checksum as u64).to_be_bytes()
    }

    /// Writes the header at the start of `buf`, length and checksum as given. Answers its length, or `None` when `buf` is too
    /// short.
    pub fn emit(&self, buf: &mut [u8]) -> Option<usize> {
        *buf.first_chunk_mut()? = self.to_bytes();
        Some(Self::LEN)
    }

    /// Whether the checksum of `datagram` (header and payload, exactly) is right. One of 0 is fine over IPv4, where it
    /// means that there is none, and wrong over IPv6 (RFC 8200 8.1).
    #[inline]
    pub fn verify(src: IpAddr, dst: IpAddr, datagram: &[u8]) -> bool {
        match datagram.get(6..8) {
            None => false,
            Some([0, 0]) => src.is_ipv4(),
            Some(_) => pseudo_header(src, dst, datagram.len()).add(datagram).verify(),
        }
    }

    /// Computes the checksum of `datagram` (header and payload, exactly) and writes it into the header. A sum of 0 becomes
    /// 0xffff, as 0 would say that there is none. `None`, and no change, under 8 bytes.
    pub fn fill_checksum(src: IpAddr, dst: IpAddr, datagram: &mut [u8]) -> Option<()> {
        *datagram.get_mut(6..8)?.first_chunk_mut()? = [0; 2];
        let sum = pseudo_header(src, dst, datagram.len()).add(datagram);
        *datagram.get_mut(6..8)?.first_chunk_mut()? = sum.finish_nonzero().to_be_bytes();
        Some(())
    }
}

fn pseudo_header(src: IpAddr, dst: IpAddr, len: usize) -> Sum {
    Sum::pseudo_header(src, dst, IpProtocol::UDP, len as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn payload_is_cut_to_the_declared_length() {
        let (header, payload) = UdpHeader::parse(&[0, 53, 1, 0, 0, 10, 0xab, 0xcd, 1, 2, 3, 4]).unwrap();
        assert_eq!(header, UdpHeader { src_port: 53, dst_port: 256, length: 10, checksum: 0xabcd });
        assert_eq!(payload, [1, 2]);
    }

    #[test]
    fn length_below_8_or_beyond_the_packet_is_an_error() {
        assert_eq!(UdpHeader::parse(&[0; 7]), Err(ParseError::Truncated));
        assert_eq!(UdpHeader::parse(&[0, 1, 0, 2, 0, 7, 0, 0]), Err(ParseError::Malformed));
        assert_eq!(UdpHeader::parse(&[0, 1, 0, 2, 0, 9, 0, 0]), Err(ParseError::Truncated));
        assert!(UdpHeader::parse(&[0, 1, 0, 2, 0, 8, 0, 0]).is_ok());
    }

    #[test]
    fn checksum_is_filled_verified_and_covers_the_addresses() {
        let mut datagram = [0, 53, 1, 0, 0, 11, 0xff, 0xff, 1, 2, 3];
        UdpHeader::fill_checksum(A, B, &mut datagram).unwrap();
        assert!(UdpHeader::verify(A, B, &datagram) && !UdpHeader::verify(A, A, &datagram));
        datagram[9] ^= 1;
        assert!(!UdpHeader::verify(A, B, &datagram));
        assert_eq!(UdpHeader::fill_checksum(A, B, &mut [0; 7]), None);
    }

    #[test]
    fn zero_checksum_means_none_over_ipv4_only() {
        let datagram = [0, 53, 1, 0, 0, 8, 0, 0];
        let v6 = "fe80::1".parse().unwrap();
        assert!(UdpHeader::verify(A, B, &datagram) && !UdpHeader::verify(v6, v6, &datagram));
    }

    #[test]
    fn computed_zero_is_sent_as_all_ones() {
        // Two payload bytes that complete the sum to 0xffff, so that its complement is 0.
        let mut datagram = [0, 53, 1, 0, 0, 10, 0, 0, 0, 0];
        let sum = Sum::pseudo_header(A, B, IpProtocol::UDP, 10).add(&datagram).finish();
        datagram[8..].copy_from_slice(&sum.to_be_bytes());
        UdpHeader::fill_checksum(A, B, &mut datagram).unwrap();
        assert_eq!(datagram[6..8], [0xff, 0xff]);
        assert!(UdpHeader::verify(A, B, &datagram));
    }
}
