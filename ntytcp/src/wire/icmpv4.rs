//! ICMP for IPv4 (RFC 792, RFC 1191).

use super::{ParseError, Sum};

/// An ICMP message. `quote` is the start of the packet that an error is about: its IP header and at least eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Icmpv4Message<'a> {
    /// Ping.
    EchoRequest {
        /// Identifies the sender's session.
        ident: u16,
        /// Number within the session.
        seq: u16,
        /// To be sent back.
        payload: &'a [u8],
    },
    /// The answer to a ping.
    EchoReply {
        /// As in the request.
        ident: u16,
        /// As in the request.
        seq: u16,
        /// As in the request.
        payload: &'a [u8],
    },
    /// The packet could not be delivered.
    DestinationUnreachable {
        /// Why: one of the `UNREACHABLE_` constants.
        code: u8,
        /// With [`Icmpv4Message::UNREACHABLE_FRAGMENTATION`]: the MTU that was too small, or 0 from a router older than RFC 1191.
        next_hop_mtu: u16,
        /// The packet concerned.
        quote: &'a [u8],
    },
    /// The TTL (code 0) or the time for reassembly (code 1) ran out.
    TimeExceeded {
        /// Which of the two.
        code: u8,
        /// The packet concerned.
        quote: &'a [u8],
    },
    /// A header field could not be processed.
    ParameterProblem {
        /// Offset of the field in the packet, for code 0.
        pointer: u8,
        /// 0: see the pointer; 1: an option is missing; 2: bad length.
        code: u8,
        /// The packet concerned.
        quote: &'a [u8],
    },
    /// Any other message.
    Other {
        /// Message type.
        kind: u8,
        /// Its code.
        code: u8,
        /// What follows the checksum, at least four bytes.
        body: &'a [u8],
    },
}

const ECHO_REPLY: u8 = 0;
const DESTINATION_UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

impl<'a> Icmpv4Message<'a> {
    /// Length of the part before payload or quote, in bytes.
    pub const HEADER_LEN: usize = 8;

    /// Code of destination unreachable: no route to the network.
    pub const UNREACHABLE_NET: u8 = 0;
    /// Code of destination unreachable: the host does not speak the protocol.
    pub const UNREACHABLE_PROTOCOL: u8 = 2;
    /// Code of destination unreachable: nobody listens on the port.
    pub const UNREACHABLE_PORT: u8 = 3;
    /// Code of destination unreachable: the packet is too large and has DF set.
    pub const UNREACHABLE_FRAGMENTATION: u8 = 4;
    /// Code of time exceeded: reassembly.
    pub const EXCEEDED_REASSEMBLY: u8 = 1;

    /// Reads the message that `data` is, exactly; its checksum is verified.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] under eight bytes, [`ParseError::Checksum`] when the checksum is wrong.
    pub fn parse(data: &'a [u8]) -> Result<Self, ParseError> {
        let (&[kind, code, _, _, a, b, c, d], rest) =
            data.split_first_chunk::<8>().ok_or(ParseError::Truncated)?;
        if !Sum::of(data).verify() {
            return Err(ParseError::Checksum);
        }
        let (first, second) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        Ok(match (kind, code) {
            (ECHO_REQUEST, 0) => Self::EchoRequest { ident: first, seq: second, payload: rest },
            (ECHO_REPLY, 0) => Self::EchoReply { ident: first, seq: second, payload: rest },
            (DESTINATION_UNREACHABLE, code) => {
                Self::DestinationUnreachable { code, next_hop_mtu: second, quote: rest }
            }
            (TIME_EXCEEDED, code) => Self::TimeExceeded { code, quote: rest },
            (PARAMETER_PROBLEM, code) => Self::ParameterProblem { pointer: a, code, quote: rest },
            (kind, code) => Self::Other { kind, code, body: data.get(4..).unwrap_or_default() },
        })
    }

    /// Whether this reports an error, so that it must never be answered by another one (RFC 1122 3.2.2): the four error
    /// types, source quench and redirect included, and every type that is not known to be a query.
    pub const fn is_error(&self) -> bool {
        match self {
            Self::EchoRequest { .. } | Self::EchoReply { .. } => false,
            Self::DestinationUnreachable { .. }
            | Self::TimeExceeded { .. }
            | Self::ParameterProblem { .. } => true,
            Self::Other { kind, .. } => Self::is_error_kind(*kind),
        }
    }

    /// As [`Icmpv4Message::is_error`], by the first byte of a message of which there may be no more.
    pub const fn is_error_kind(kind: u8) -> bool {
        // Echo, router discovery, timestamp, information, address mask, extended echo.
        !matches!(kind, 0 | 8..=10 | 13..=18 | 42 | 43)
    }

    /// Length of the emitted message in bytes.
    #[allow(clippy::len_without_is_empty)] // A message is never empty.
    pub const fn len(&self) -> usize {
        match self {
            Self::EchoRequest { payload: rest, .. }
            | Self::EchoReply { payload: rest, .. }
            | Self::DestinationUnreachable { quote: rest, .. }
            | Self::TimeExceeded { quote: rest, .. }
            | Self::ParameterProblem { quote: rest, .. } => Self::HEADER_LEN + rest.len(),
            Self::Other { body, .. } => 4 + body.len(),
        }
    }

    /// Writes the whole message at the start of `buf`, checksum included. Answers its length, or `None` when `buf` is too
    /// short.
    pub fn emit(&self, buf: &mut [u8]) -> Option<usize> {
        let buf = buf.get_mut(..self.len())?;
        let pair = |a: u16, b: u16| (u32::from(a) << 16 | u32::from(b)).to_be_bytes();
        let (kind, code, second_word, rest) = match *self {
            Self::EchoRequest { ident, seq, payload } => (ECHO_REQUEST, 0, pair(ident, seq), payload),
            Self::EchoReply { ident, seq, payload } => (ECHO_REPLY, 0, pair(ident, seq), payload),
            Self::DestinationUnreachable { code, next_hop_mtu, quote } => {
                (DESTINATION_UNREACHABLE, code, pair(0, next_hop_mtu), quote)
            }
            Self::TimeExceeded { code, quote } => (TIME_EXCEEDED, code, [0; 4], quote),
            Self::ParameterProblem { pointer, code, quote } => {
                (PARAMETER_PROBLEM, code, [pointer, 0, 0, 0], quote)
            }
            Self::Other { kind, code, body } => {
                let (&word, rest) = body.split_first_chunk::<4>()?;
                (kind, code, word, rest)
            }
        };
        let (head, tail) = buf.split_first_chunk_mut::<8>()?;
        let [a, b, c, d] = second_word;
        *head = [kind, code, 0, 0, a, b, c, d];
        let sum = Sum::of(head).combine(Sum::copy(tail, rest));
        [head[2], head[3]] = sum.finish().to_be_bytes();
        Some(buf.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_round_trips() {
        let quote = &[0x45; 28];
        for message in [
            Icmpv4Message::EchoRequest { ident: 0x1234, seq: 1, payload: b"odd" },
            Icmpv4Message::EchoReply { ident: 0x1234, seq: 1, payload: &[] },
            Icmpv4Message::DestinationUnreachable { code: 4, next_hop_mtu: 1_400, quote },
            Icmpv4Message::TimeExceeded { code: 1, quote },
            Icmpv4Message::ParameterProblem { pointer: 20, code: 0, quote },
            Icmpv4Message::Other { kind: 13, code: 0, body: &[9; 16] },
        ] {
            let mut buf = [0xff; 64];
            let len = message.emit(&mut buf).unwrap();
            assert_eq!(len, message.len());
            assert_eq!(Icmpv4Message::parse(&buf[..len]), Ok(message));
            assert_eq!(message.emit(&mut buf[..len - 1]), None);
            buf[len - 1] ^= 1;
            assert_eq!(Icmpv4Message::parse(&buf[..len]), Err(ParseError::Checksum));
        }
    }

    #[test]
    fn echo_request_is_laid_out_as_rfc_792_says() {
        let mut buf = [0; 10];
        Icmpv4Message::EchoRequest { ident: 0x0102, seq: 0x0304, payload: &[0xff, 0] }.emit(&mut buf);
        assert_eq!(buf, [8, 0, 0xf4, 0xf8, 1, 2, 3, 4, 0xff, 0]);
        assert_eq!(Icmpv4Message::parse(&buf[..7]), Err(ParseError::Truncated));
    }

    #[test]
    fn errors_are_told_from_queries() {
        let other = |kind| Icmpv4Message::Other { kind, code: 0, body: &[0; 4] };
        assert!(Icmpv4Message::TimeExceeded { code: 0, quote: &[] }.is_error());
        assert!(other(5).is_error() && other(4).is_error() && other(200).is_error());
        assert!(
            !other(13).is_error() && !Icmpv4Message::EchoReply { ident: 0, seq: 0, payload: &[] }.is_error()
        );
    }

    #[test]
    fn other_message_shorter_than_its_fixed_part_is_not_emitted() {
        assert_eq!(Icmpv4Message::Other { kind: 13, code: 0, body: &[1, 2] }.emit(&mut [0; 64]), None);
    }
}
