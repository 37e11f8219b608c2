//! The ICMPv6 header (RFC 4443). What the messages say belongs to whoever handles them.

use core::net::Ipv6Addr;

use super::{IpProtocol, ParseError, Sum};

/// The fixed part of an ICMPv6 message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Icmpv6Header {
    /// Message type: below 128 an error, from 128 on information.
    pub kind: u8,
    /// Code of that type.
    pub code: u8,
    /// Checksum over pseudo-header and message.
    pub checksum: u16,
}

impl Icmpv6Header {
    /// Length of the header in bytes.
    pub const LEN: usize = 4;

    /// Splits the message that `data` is, exactly, into header and body, and verifies its checksum under the pseudo-header of
    /// the two addresses.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] under four bytes, [`ParseError::Checksum`] when the checksum is wrong.
    pub fn parse(src: Ipv6Addr, dst: Ipv6Addr, data: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        let (&[kind, code, c0, c1], body) = data.split_first_chunk::<4>().ok_or(ParseError::Truncated)?;
        if !pseudo_header(src, dst, data.len()).add(data).verify() {
            return Err(ParseError::Checksum);
        }
        Ok((Self { kind, code, checksum: u16::from_be_bytes([c0, c1]) }, body))
    }

    /// Whether this reports an error, so that it must never be answered by another one (RFC 4443 2.4).
    pub const fn is_error(&self) -> bool {
        self.kind < 128
    }

    /// Writes the header at the start of `buf`, checksum as given. Answers its length, or `None` when `buf` is too short.
    pub fn emit(&self, buf: &mut [u8]) -> Option<usize> {
        let [c0, c1] = self.checksum.to_be_bytes();
        *buf.first_chunk_mut::<4>()? = [self.kind, self.code, c0, c1];
        Some(Self::LEN)
    }

    /// Computes the checksum of `message` (header and body, exactly) and writes it into the header. `None`, and no
    /// change, under four bytes.
    pub fn fill_checksum(src: Ipv6Addr, dst: Ipv6Addr, message: &mut [u8]) -> Option<()> {
        message.first_chunk_mut::<4>()?[2..4].fill(0);
        let sum = pseudo_header(src, dst, message.len()).add(message).finish().to_be_bytes();
        message.first_chunk_mut::<4>()?[2..4].copy_from_slice(&sum);
        Some(())
    }
}

fn pseudo_header(src: Ipv6Addr, dst: Ipv6Addr, len: usize) -> Sum {
    Sum::pseudo_header(src.into(), dst.into(), IpProtocol::ICMPV6, len as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_covers_message_and_addresses() {
        let (a, b) = (Ipv6Addr::LOCALHOST, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
        let mut message = [0; 9];
        assert_eq!(Icmpv6Header { kind: 128, code: 0, checksum: 7 }.emit(&mut message), Some(4));
        message[4..].copy_from_slice(&[1, 2, 3, 4, 5]);
        assert_eq!(Icmpv6Header::fill_checksum(a, b, &mut message), Some(()));
        let (header, body) = Icmpv6Header::parse(a, b, &message).unwrap();
        assert_eq!(
            (header.kind, header.code, header.is_error(), body),
            (128, 0, false, &[1, 2, 3, 4, 5][..])
        );
        assert_eq!(Icmpv6Header::parse(a, a, &message), Err(ParseError::Checksum));
        message[8] ^= 1;
        assert_eq!(Icmpv6Header::parse(a, b, &message), Err(ParseError::Checksum));
        assert_eq!(Icmpv6Header::parse(a, b, &message[..3]), Err(ParseError::Truncated));
    }
}
