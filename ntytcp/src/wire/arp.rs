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
