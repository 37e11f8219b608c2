//! ARP for IPv4 over Ethernet (RFC 826, RFC 5227).

use core::net::Ipv4Addr;

use super::{EtherType, MacAddr, ParseError, put};

/// What an ARP packet wants.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ArpOperation {
    /// Who has the target address?
    Request,
    /// The sender has it.
    Reply,
    /// Anything else (RARP, InARP).
    Other(u16),
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ArpPacket {
    /// Request or reply.
    pub operation: ArpOperation,
    /// Station that speaks.
    pub sender_mac: MacAddr,
    /// Its address; unspecified in a probe.
    pub sender_ip: Ipv4Addr,
    /// Station that is spoken to; all zero in a request.
    pub target_mac: MacAddr,
    /// The address that is asked for.
    pub target_ip: Ipv4Addr,
}

impl ArpPacket {
    /// Length of the packet in bytes.
    pub const LEN: usize = 28;

    /// Reads the packet at the start of `data`; what follows is padding.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] under 28 bytes, [`ParseError::Malformed`] when it is not about IPv4 over Ethernet.
    pub fn parse(data: &[u8]) -> Result<Self, ParseError> {
        let h = data.first_chunk::<28>().ok_or(ParseError::Truncated)?;
        let word = |at: usize| u16::from_be_bytes([h[at], h[at + 1]]);
        let mac = |at: usize| MacAddr([h[at], h[at + 1], h[at + 2], h[at + 3], h[at + 4], h[at + 5]]);
        let ip = |at: usize| Ipv4Addr::new(h[at], h[at + 1], h[at + 2], h[at + 3]);
        // Hardware type 1 is Ethernet; address lengths are 6 and 4.
        if word(0) != 1 || word(2) != EtherType::IPV4.0 || h[4] != 6 || h[5] != 4 {
            return Err(ParseError::Malformed);
        }
        let operation = match word(6) {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            other => ArpOperation::Other(other),
        };
        Ok(Self { operation, sender_mac: mac(8), sender_ip: ip(14), target_mac: mac(18), target_ip: ip(24) })
    }

    /// Writes the packet at the start of `buf`. Answers its length, or `None` when `buf` is too short.
    pub fn emit(&self, buf: &mut [u8]) -> Option<usize> {
        let operation = match self.operation {
            ArpOperation::Request => 1u16,
            ArpOperation::Reply => 2,
            ArpOperation::Other(other) => other,
        };
        let buf = &mut buf.get_mut(..Self::LEN)?;
        put(buf, [0, 1, 8, 0, 6, 4])?;
        put(buf, operation.to_be_bytes())?;
        put(buf, self.sender_mac.0)?;
        put(buf, self.sender_ip.octets())?;
        put(buf, self.target_mac.0)?;
        put(buf, self.target_ip.octets())?;
        Some(Self::LEN)
    }

    /// Whether this asks if anybody uses the target address, without claiming it (RFC 5227 1.1).
    pub fn is_probe(&self) -> bool {
        self.operation == ArpOperation::Request
            && self.sender_ip.is_unspecified()
            && !self.target_ip.is_unspecified()
    }

    /// Whether the sender says that it uses the address (RFC 5227 1.1 and 3, RFC 5944 4.6): sender and target address are
    /// the same, in a request or in a reply.
    pub fn is_announcement(&self) -> bool {
        !matches!(self.operation, ArpOperation::Other(_))
            && self.sender_ip == self.target_ip
            && !self.sender_ip.is_unspecified()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: ArpPacket = ArpPacket {
        operation: ArpOperation::Request,
        sender_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        sender_ip: Ipv4Addr::new(10, 0, 0, 1),
        target_mac: MacAddr::ZERO,
        target_ip: Ipv4Addr::new(10, 0, 0, 2),
    };

    #[test]
    fn request_is_laid_out_as_rfc_826_says() {
        let mut buf = [0xff; 30];
        assert_eq!(REQUEST.emit(&mut buf), Some(28));
        let expected = [
            0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2, 0xff, 0xff,
        ];
        assert_eq!(buf, expected);
        assert_eq!(ArpPacket::parse(&buf), Ok(REQUEST));
        assert_eq!(REQUEST.emit(&mut buf[..27]), None);
        assert_eq!(ArpPacket::parse(&buf[..27]), Err(ParseError::Truncated));
    }

    #[test]
    fn other_hardware_protocol_or_address_length_is_malformed() {
        for at in 0..6 {
            let mut buf = [0; 28];
            REQUEST.emit(&mut buf);
            buf[at] ^= 0x10;
            assert_eq!(ArpPacket::parse(&buf), Err(ParseError::Malformed), "byte {at}");
        }
    }

    #[test]
    fn probes_and_announcements_are_told_apart() {
        let probe = ArpPacket { sender_ip: Ipv4Addr::UNSPECIFIED, ..REQUEST };
        let announcement = ArpPacket { target_ip: REQUEST.sender_ip, ..REQUEST };
        let gratuitous_reply = ArpPacket { operation: ArpOperation::Reply, ..announcement };
        let kinds =
            [REQUEST, probe, announcement, gratuitous_reply].map(|p| (p.is_probe(), p.is_announcement()));
        assert_eq!(kinds, [(false, false), (true, false), (false, true), (false, true)]);
        let nothing = ArpPacket { target_ip: Ipv4Addr::UNSPECIFIED, ..probe };
        assert!(!nothing.is_probe() && !nothing.is_announcement());
    }
}
