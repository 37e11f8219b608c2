//! ICMP as the stack speaks it: errors that others report, errors that it reports itself (RFC 792, RFC 1122 3.2.2).

use core::net::{IpAddr, Ipv4Addr};

use etherparse::{IpNumber, LaxIpv4Slice};

use super::demux::FlowKey;
use super::output::{DEFAULT_TTL, ipv4_header};
use super::socket::SocketError;
use crate::wire::{Icmpv4Message, IpProtocol, Ipv4Header, Seq};

/// RFC 1812 4.3.2.3: "the ICMP datagram SHOULD contain as much of the original datagram as possible without the length of the
/// ICMP datagram exceeding 576 bytes."
const MAX_ERROR: usize = 576;

/// What an ICMP error says to the socket that it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum IcmpError {
    /// The packet cannot be delivered.
    Unreachable(SocketError),
    /// The packet had DF set and is larger than the next link's MTU.
    PacketTooBig {
        /// That MTU in bytes; 0 from a router that does not say (before RFC 1191).
        mtu: u16,
    },
    /// The TTL, or the time for reassembly, ran out on the way.
    TimeExceeded,
    /// A router or the peer could not make sense of the header.
    ParameterProblem,
}

impl IcmpError {
    /// What a socket reports to its application.
    pub(crate) const fn socket_error(self) -> SocketError {
        match self {
            Self::Unreachable(error) => error,
            Self::PacketTooBig { .. } => SocketError::MessageTooLong,
            Self::TimeExceeded => SocketError::HostUnreachable,
            Self::ParameterProblem => SocketError::ProtocolUnreachable,
        }
    }
}

/// The head of the packet that an error quotes, from which its socket is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Quoted {
    /// A TCP segment of ours.
    Tcp {
        /// Its flow; local is ours.
        key: FlowKey,
        /// Its sequence number, by which a forged error is told from a true one (RFC 5927).
        seq: Seq,
    },
    /// A UDP datagram of ours.
    Udp(FlowKey),
    /// An echo request of ours.
    Echo {
        /// Our address.
        local: IpAddr,
        /// Who was asked.
        remote: IpAddr,
        /// Its identifier.
        ident: u16,
        /// Its number.
        seq: u16,
    },
}

/// The error that a message reports, if it is one that concerns a socket, and the start of the packet that it is about.
pub(crate) const fn received_error<'a>(message: &Icmpv4Message<'a>) -> Option<(IcmpError, &'a [u8])> {
    match *message {
        Icmpv4Message::DestinationUnreachable { code, next_hop_mtu, quote } => {
            Some((unreachable(code, next_hop_mtu), quote))
        }
        Icmpv4Message::TimeExceeded { quote, .. } => Some((IcmpError::TimeExceeded, quote)),
        Icmpv4Message::ParameterProblem { quote, .. } => Some((IcmpError::ParameterProblem, quote)),
        Icmpv4Message::EchoRequest { .. } | Icmpv4Message::EchoReply { .. } | Icmpv4Message::Other { .. } => {
            None
        }
    }
}

/// RFC 1122 4.2.3.9 tells soft errors (codes 0, 1, 5) from hard ones (2 to 4). Here they have the same effect: RFC 5461 4.1 lets
/// either end a connection that is being made, and RFC 5927 5.2 neither one that exists.
const fn unreachable(code: u8, next_hop_mtu: u16) -> IcmpError {
    match code {
        Icmpv4Message::UNREACHABLE_PROTOCOL => IcmpError::Unreachable(SocketError::ProtocolUnreachable),
        Icmpv4Message::UNREACHABLE_PORT => IcmpError::Unreachable(SocketError::ConnectionRefused),
        Icmpv4Message::UNREACHABLE_FRAGMENTATION => IcmpError::PacketTooBig { mtu: next_hop_mtu },
        // Network unreachable, unknown, forbidden, or unreachable for the type of service.
        Icmpv4Message::UNREACHABLE_NET | 6 | 9 | 11 => {
            IcmpError::Unreachable(SocketError::NetworkUnreachable)
        }
        _ => IcmpError::Unreachable(SocketError::HostUnreachable),
    }
}

/// Reads the packet that an error quotes: its header and at least eight bytes. `None` when too little of it is there, when it is
/// a later fragment (which carries no ports), or of a protocol without sockets.
pub(crate) fn quoted(quote: &[u8]) -> Option<Quoted> {
    // The quote is cut, so the lengths in it are not those of what follows: etherparse's lax slices are made for that.
    let (ip, _) = LaxIpv4Slice::from_slice(quote).ok()?;
    let header = ip.header();
    if header.fragments_offset().value() != 0 {
        return None;
    }
    let (local, remote) = (IpAddr::from(header.source_addr()), IpAddr::from(header.destination_addr()));
    let payload = ip.payload();
    let &[a, b, c, d, e, f, g, h] = payload.payload.first_chunk::<8>()?;
    let (local_port, remote_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let key = FlowKey { local, remote, local_port, remote_port };
    match payload.ip_number {
        IpNumber::TCP => Some(Quoted::Tcp { key, seq: Seq(u32::from_be_bytes([e, f, g, h])) }),
        IpNumber::UDP => Some(Quoted::Udp(key)),
        IpNumber::ICMP if (a, b) == (8, 0) => Some(Quoted::Echo {
            local,
            remote,
            ident: u16::from_be_bytes([e, f]),
            seq: u16::from_be_bytes([g, h]),
        }),
        _ => None,
    }
}

/// An error that the stack reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Report {
    /// Nobody here speaks the protocol.
    ProtocolUnreachable,
    /// Nobody here listens on the port.
    PortUnreachable,
    /// The fragments of a datagram did not all come in time.
    ReassemblyTime,
    /// The byte at this offset of the packet's header makes no sense.
    ParameterProblem(u8),
}

/// The packet that reports an error from `src` to `dst` about the packet that begins with `header` and `payload`.
pub(crate) fn report(
    report: Report,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    header: &[u8],
    payload: &[u8],
) -> Option<Vec<u8>> {
    let room = MAX_ERROR - Ipv4Header::LEN - Icmpv4Message::HEADER_LEN;
    let mut quote = Vec::with_capacity(room);
    quote.extend(header.iter().chain(payload).take(room));
    let quote = quote.as_slice();
    let unreachable = |code| Icmpv4Message::DestinationUnreachable { code, next_hop_mtu: 0, quote };
    let message = match report {
        Report::ProtocolUnreachable => unreachable(Icmpv4Message::UNREACHABLE_PROTOCOL),
        Report::PortUnreachable => unreachable(Icmpv4Message::UNREACHABLE_PORT),
        Report::ReassemblyTime => {
            Icmpv4Message::TimeExceeded { code: Icmpv4Message::EXCEEDED_REASSEMBLY, quote }
        }
        Report::ParameterProblem(pointer) => Icmpv4Message::ParameterProblem { pointer, code: 0, quote },
    };
    // RFC 1812 4.3.2.5 asks for precedence 6 or 7 of routers; a host's errors go as ordinary traffic.
    packet(src, dst, &message, DEFAULT_TTL, None)
}

/// A packet with an ICMP message. It may be fragmented if it is given an identification.
pub(crate) fn packet(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    message: &Icmpv4Message<'_>,
    ttl: u8,
    ident: Option<u16>,
) -> Option<Vec<u8>> {
    let total_len = u16::try_from(Ipv4Header::LEN + message.len()).ok()?;
    let ip = Ipv4Header {
        ident: ident.unwrap_or(0),
        dont_fragment: ident.is_none(),
        ..ipv4_header(src, dst, IpProtocol::ICMP, total_len, ttl)
    };
    let mut packet = vec![0; usize::from(total_len)];
    let at = ip.emit(&mut packet)?;
    message.emit(packet.get_mut(at..)?)?;
    Some(packet)
}
