//! From the payload of a packet that is ours to whoever it is for: TCP, UDP, ICMP; and how it is answered.
//!
//! A packet comes either in a frame or put together from fragments. Both go through [`Stack::transport`]; only the answer is
//! written differently: into the frame, or as a packet of its own.

use core::net::{IpAddr, Ipv4Addr};

use super::answer::{Answer, Respond};
use super::demux::FlowKey;
use super::icmp::{self, IcmpError, Quoted, Report};
use super::input::reason;
use super::interface::InterfaceId;
use super::{Cx, Stack};
use crate::counters::DropReason;
use crate::device::{RxChecksum, Verdict};
use crate::tcp::{Arrival, Lookup, TcpAction};
use crate::time::Instant;
use crate::wire::{Icmpv4Message, IpProtocol, ParseError, TcpHeader, UdpHeader};

/// A packet that is ours, whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    /// Over which interface it came.
    pub interface: InterfaceId,
    /// The largest IP packet of that interface.
    pub mtu: usize,
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub protocol: IpProtocol,
    pub ttl: u8,
    /// Its destination is a broadcast or multicast address.
    pub group: bool,
    /// It is a fragment other than the first.
    pub later_fragment: bool,
    /// The IP header as it came.
    pub header: &'a [u8],
    pub payload: &'a [u8],
    /// What the device says of the layer-4 checksum.
    pub checksum: RxChecksum,
    /// The device merged several datagrams with payloads of this size.
    pub gso_size: Option<u16>,
}

impl Packet<'_> {
    /// The flow that it belongs to.
    fn flow(&self, src_port: u16, dst_port: u16) -> FlowKey {
        FlowKey {
            local: self.dst.into(),
            remote: self.src.into(),
            local_port: dst_port,
            remote_port: src_port,
        }
    }
}

impl Stack {
    /// Hands a packet to whoever it is for.
    pub(super) fn transport(&mut self, now: Instant, packet: &Packet<'_>) -> Answer {
        match packet.protocol {
            IpProtocol::TCP => self.tcp_segment(now, packet),
            IpProtocol::UDP => self.udp_datagram(now, packet),
            IpProtocol::ICMP => self.icmp_message(now, packet),
            _ => {
                // RFC 1122 3.2.2.1: "2 (Protocol Unreachable) [...] when the designated transport protocol is not supported".
                self.report(now, packet, Report::ProtocolUnreachable);
                Answer::drop(DropReason::UnknownProtocol)
            }
        }
    }

    fn tcp_segment(&mut self, now: Instant, packet: &Packet<'_>) -> Answer {
        // RFC 9293 3.10.7.2 and RFC 1122 4.2.3.10: "A TCP implementation MUST silently discard an incoming SYN segment that is
        // addressed to a broadcast or multicast address."
        if packet.group {
            return Answer::drop(DropReason::NotOurAddress);
        }
        let Some(&[s0, s1, d0, d1]) = packet.payload.first_chunk::<4>() else {
            return Answer::drop(DropReason::Truncated);
        };
        let key = packet.flow(u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
        let slot = self.tcp.demux(&key);
        let arrival = Arrival { key, interface: packet.interface, mtu: packet.mtu };
        match self.unforeseen_segment(now, &arrival, slot, packet.payload, packet.checksum) {
            TcpAction::Done => Answer::Verdict(Verdict::Done),
            TcpAction::Drop(reason) => Answer::drop(reason),
            TcpAction::Reply(header) => Answer::Segment(header, self.tcp.ttl(&arrival.key, slot)),
        }
    }

    /// A segment that is not what its connection expects next, or that belongs to none.
    #[inline]
    pub(super) fn unforeseen_segment(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        slot: Lookup,
        bytes: &[u8],
        checksum: RxChecksum,
    ) -> TcpAction {
        let (seg, data) = match TcpHeader::parse(bytes) {
            Ok(parsed) => parsed,
            Err(error) => return TcpAction::Drop(reason(error)),
        };
        if checksum == RxChecksum::Unknown && !TcpHeader::verify(arrival.key.remote, arrival.key.local, bytes)
        {
            return TcpAction::Drop(DropReason::L4Checksum);
        }
        let (counters, events) = (&mut self.counters, &mut self.events);
        let mut cx = Cx { now, counters, events };
        let action = self.tcp.input(&mut cx, arrival, slot, &seg, data);
        if let TcpAction::Drop(DropReason::SocketFull | DropReason::TcpReassemblyFull) = action
            && self.reclaim_for(now)
        {
            // What was taken of it the first time is old now. Counted again by what follows.
            self.counters.tcp_rx -= 1;
            let (counters, events) = (&mut self.counters, &mut self.events);
            let mut cx = Cx { now, counters, events };
            return self.tcp.input(&mut cx, arrival, slot, &seg, data);
        }
        action
    }

    fn udp_datagram(&mut self, now: Instant, packet: &Packet<'_>) -> Answer {
        let (header, payload) = match UdpHeader::parse(packet.payload) {
            Ok(parsed) => parsed,
            Err(error) => return Answer::drop(reason(error)),
        };
        let datagram = packet.payload.get(..usize::from(header.length)).unwrap_or_default();
        if packet.checksum == RxChecksum::Unknown
            && !UdpHeader::verify(packet.src.into(), packet.dst.into(), datagram)
        {
            return Answer::drop(DropReason::L4Checksum);
        }
        let key = packet.flow(header.src_port, header.dst_port);
        let Some(socket) = self.udp.find(&key) else {
            // RFC 1122 4.1.3.1: "If a datagram arrives addressed to a UDP port for which there is no pending LISTEN call, UDP
            // SHOULD send an ICMP Port Unreachable message."
            self.report(now, packet, Report::PortUnreachable);
            return Answer::drop(DropReason::NoSocket);
        };
        let size = packet.gso_size.map_or(usize::MAX, usize::from).max(1);
        let one = payload.len() <= size;
        if self.udp.responder(socket).is_some() {
            let respond = Respond { socket, key, group: packet.group, len: payload.len() };
            if one {
                return Answer::Respond(respond);
            }
            for request in payload.chunks(size) {
                self.respond_by_packet(packet.interface, &respond, request);
            }
            return Answer::Verdict(Verdict::Done);
        }
        // An answer cannot come from a group address.
        let local = if packet.group { Ipv4Addr::UNSPECIFIED } else { packet.dst };
        let mut result = Ok(());
        // `chunks` yields nothing for an empty datagram, which is one all the same.
        if one {
            result = self.deliver_udp(now, socket, &key, local.into(), payload);
        } else {
            for payload in payload.chunks(size) {
                result = result.and(self.deliver_udp(now, socket, &key, local.into(), payload));
            }
        }
        Answer::Verdict(result.map_or_else(Verdict::Drop, |()| Verdict::Done))
    }

    /// Puts a datagram into the queue of its socket.
    fn deliver_udp(
        &mut self,
        now: Instant,
        socket: u32,
        key: &FlowKey,
        local: IpAddr,
        payload: &[u8],
    ) -> Result<(), DropReason> {
        let (counters, events) = (&mut self.counters, &mut self.events);
        let result = self.udp.deliver(&mut Cx { now, counters, events }, socket, key, local, payload);
        if result.is_ok() || !self.reclaim_for(now) {
            return result;
        }
        self.udp.undo_drop(socket);
        let (counters, events) = (&mut self.counters, &mut self.events);
        self.udp.deliver(&mut Cx { now, counters, events }, socket, key, local, payload)
    }

    fn icmp_message(&mut self, now: Instant, packet: &Packet<'_>) -> Answer {
        let message = match Icmpv4Message::parse(packet.payload) {
            Ok(message) => message,
            Err(ParseError::Checksum) => return Answer::drop(DropReason::L4Checksum),
            Err(error) => return Answer::drop(reason(error)),
        };
        self.counters.icmp_rx += 1;
        // RFC 1122 3.2.2.6: "An ICMP Echo Request destined to an IP broadcast or IP multicast address MAY be silently discarded."
        // Answering would make an amplifier of us; nothing else that ICMP carries is sent to groups.
        if packet.group {
            return Answer::drop(DropReason::IcmpIgnored);
        }
        let (counters, events) = (&mut self.counters, &mut self.events);
        let mut cx = Cx { now, counters, events };
        let result = match message {
            Icmpv4Message::EchoRequest { .. } => return Answer::Echo,
            Icmpv4Message::EchoReply { ident, seq, payload } => {
                self.echo.on_reply(&mut cx, packet.src.into(), packet.ttl, (ident, seq), payload.len())
            }
            Icmpv4Message::DestinationUnreachable { .. }
            | Icmpv4Message::TimeExceeded { .. }
            | Icmpv4Message::ParameterProblem { .. }
            | Icmpv4Message::Other { .. } => match icmp::received_error(&message) {
                Some((error, quote)) => self.icmp_error(now, packet, error, quote),
                None => Err(DropReason::IcmpIgnored),
            },
        };
        Answer::Verdict(result.map_or_else(Verdict::Drop, |()| Verdict::Done))
    }

    /// RFC 1122 3.2.2: errors are delivered to the transport that the quoted packet is of.
    fn icmp_error(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        error: IcmpError,
        quote: &[u8],
    ) -> Result<(), DropReason> {
        let (counters, events) = (&mut self.counters, &mut self.events);
        let mut cx = Cx { now, counters, events };
        // What is quoted must be a packet that we could have sent.
        let ours = |local: IpAddr| local == IpAddr::V4(packet.dst);
        match icmp::quoted(quote) {
            Some(Quoted::Tcp { key, seq })
                if ours(key.local) && self.tcp.on_icmp(&mut cx, &key, seq, error) =>
            {
                Ok(())
            }
            Some(Quoted::Udp(key)) if ours(key.local) && self.udp.on_icmp(&mut cx, &key, error) => Ok(()),
            Some(Quoted::Echo { local, ident, seq, .. }) if ours(local) => {
                self.echo.on_error(&mut cx, packet.src.into(), (ident, seq), error)
            }
            _ => Err(DropReason::IcmpIgnored),
        }
    }

    /// Reports an error to the sender of `packet`, where that is allowed, as a packet of its own.
    ///
    /// RFC 1122 3.2.2: "An ICMP error message MUST NOT be sent as the result of receiving: an ICMP error message, or a datagram
    /// destined to an IP broadcast or IP multicast address, or a datagram sent as a link-layer broadcast, or a non-initial
    /// fragment, or a datagram whose source address does not define a single host." The latter never comes this far.
    pub(super) fn report(&mut self, now: Instant, packet: &Packet<'_>, report: Report) {
        // By its type alone: of a fragment there is no checksum to be verified.
        let kind = packet.payload.first().copied();
        let about_error =
            packet.protocol == IpProtocol::ICMP && kind.is_none_or(Icmpv4Message::is_error_kind);
        if packet.group || packet.later_fragment || about_error {
            return;
        }
        if !self.icmp_limiter.allow(now, packet.src.into()) {
            self.counters.drop(DropReason::RateLimited);
            return;
        }
        let reply = icmp::report(report, packet.dst, packet.src, packet.header, packet.payload);
        self.send_or_count(reply);
    }
}
