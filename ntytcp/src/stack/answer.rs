//! How a packet is answered: in the frame that it came in where the answer fits, else as a packet of its own.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::Stack;
use super::demux::FlowKey;
use super::icmp;
use super::input::{Link, address_reply};
use super::interface::{Interface, InterfaceId};
use super::outbox::Datagram;
use super::output::{ANY_LINK, DEFAULT_TTL, SUMMED_HERE, ipv4_header};
use super::socket::SocketError;
use super::transport::Packet;
use super::udp::MAX_UDP_PAYLOAD;
use crate::counters::DropReason;
use crate::device::{RxFrame, TxChecksum, TxMeta, Verdict};
use crate::wire::checksum::update_u16;
use crate::wire::{Icmpv4Message, IpProtocol, Ipv4Header, Sum, TcpHeader, UdpHeader};

/// What a packet calls forth.
pub(super) enum Answer {
    /// Nothing beyond the verdict.
    Verdict(Verdict),
    /// The same back: it is an echo request.
    Echo,
    /// A TCP segment without data.
    Segment(TcpHeader, Ttl),
    /// What a responder makes of it.
    Respond(Respond),
}

impl Answer {
    /// Nothing: it is refused.
    pub(super) const fn drop(reason: DropReason) -> Self {
        Self::Verdict(Verdict::Drop(reason))
    }
}

/// A time to live.
pub(super) type Ttl = u8;

/// A UDP request for a responder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Respond {
    /// Slot of the socket.
    pub socket: u32,
    pub key: FlowKey,
    /// It was sent to a broadcast address.
    pub group: bool,
    /// Bytes of payload.
    pub len: usize,
}

/// What is left to know of a packet that is about to be overwritten.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    interface: InterfaceId,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    header_len: usize,
    payload_len: usize,
}

impl Question {
    pub(super) fn of(packet: &Packet<'_>) -> Self {
        Self {
            interface: packet.interface,
            src: packet.src,
            dst: packet.dst,
            header_len: packet.header.len(),
            payload_len: packet.payload.len(),
        }
    }

    /// Moves the first `len` bytes of the payload to where they are behind a header without options.
    fn strip_options(&self, link: &Link, frame: &mut RxFrame<'_>, len: usize) -> Option<()> {
        if self.header_len > Ipv4Header::LEN {
            let packet = frame.bytes_mut().get_mut(link.len..)?;
            packet.get(self.header_len..self.header_len + len)?;
            packet.copy_within(self.header_len..self.header_len + len, Ipv4Header::LEN);
        }
        Some(())
    }
}

/// Ethernet header behind which an IP header without options stands, from the start of the packet.
const UDP_PAYLOAD: usize = Ipv4Header::LEN + UdpHeader::LEN;

impl Stack {
    /// Writes the answer to a question over it.
    pub(super) fn answer_in_place(
        &mut self,
        link: &Link,
        frame: &mut RxFrame<'_>,
        question: &Question,
        answer: Answer,
    ) -> Verdict {
        let Some(interface) = self.interfaces.get_mut(usize::from(question.interface.0)) else {
            return Verdict::Drop(DropReason::NotForUs);
        };
        match answer {
            Answer::Verdict(verdict) => verdict,
            Answer::Echo => match echo_in_place(interface, link, frame, question) {
                Some(meta) => {
                    self.counters.icmp_tx += 1;
                    self.counters.ip_tx += 1;
                    Verdict::Reply(meta)
                }
                None => Verdict::Drop(DropReason::TooBig),
            },
            Answer::Segment(header, ttl) => {
                match segment_in_place(interface, link, frame, question, &header, ttl) {
                    Some(meta) => {
                        self.counters.tcp_tx += 1;
                        self.counters.ip_tx += 1;
                        Verdict::Reply(meta)
                    }
                    None => {
                        self.send_or_count(segment_packet(question.dst, question.src, &header, ttl));
                        Verdict::Done
                    }
                }
            }
            Answer::Respond(respond) => self.respond_in_place(link, frame, question, &respond),
        }
    }

    /// Sends the answer to a packet that came in fragments.
    pub(super) fn answer_by_packet(&mut self, packet: &Packet<'_>, answer: Answer) -> Verdict {
        match answer {
            Answer::Verdict(verdict) => return verdict,
            Answer::Echo => {
                let ip_ident = self.next_ident(packet.interface, packet.src);
                let Ok(Icmpv4Message::EchoRequest { ident, seq, payload }) =
                    Icmpv4Message::parse(packet.payload)
                else {
                    return Verdict::Drop(DropReason::Malformed);
                };
                let reply = Icmpv4Message::EchoReply { ident, seq, payload };
                self.send_or_count(icmp::packet(packet.dst, packet.src, &reply, DEFAULT_TTL, Some(ip_ident)));
            }
            Answer::Segment(header, ttl) => {
                self.send_or_count(segment_packet(packet.dst, packet.src, &header, ttl));
            }
            Answer::Respond(respond) => {
                let request = packet.payload.get(UdpHeader::LEN..UdpHeader::LEN + respond.len);
                self.respond_by_packet(packet.interface, &respond, request.unwrap_or_default());
            }
        }
        Verdict::Done
    }

    /// Lets a responder rewrite a request in its frame.
    fn respond_in_place(
        &mut self,
        link: &Link,
        frame: &mut RxFrame<'_>,
        question: &Question,
        respond: &Respond,
    ) -> Verdict {
        let Some(interface) = self.interfaces.get_mut(usize::from(question.interface.0)) else {
            return Verdict::Drop(DropReason::NotForUs);
        };
        let start = link.len + UDP_PAYLOAD;
        let room = frame.capacity().min(link.len + interface.mtu).saturating_sub(start);
        if question.strip_options(link, frame, UdpHeader::LEN + respond.len).is_none()
            || room < respond.len
            || !frame.set_len(start + room)
        {
            return Verdict::Drop(DropReason::TooBig);
        }
        let Some((responder, stats, ttl)) = self.udp.responder(respond.socket) else {
            return Verdict::Drop(DropReason::NoSocket);
        };
        let from = SocketAddr::new(respond.key.remote, respond.key.remote_port);
        let buf = frame.bytes_mut().get_mut(start..).unwrap_or_default();
        stats.received += 1;
        self.counters.udp_rx += 1;
        match responder.respond(from, buf, respond.len) {
            None => Verdict::Done,
            Some(len) if len <= room => {
                let written = frame
                    .set_len(start + len)
                    .then(|| datagram_in_place(interface, link, frame, question, &respond.key, (len, ttl)))
                    .flatten();
                let Some(meta) = written else { return Verdict::Drop(DropReason::TooBig) };
                stats.sent += 1;
                self.counters.udp_tx += 1;
                self.counters.ip_tx += 1;
                Verdict::Reply(meta)
            }
            Some(_) => {
                // The request is as it was. Counted again by what follows.
                stats.received -= 1;
                self.counters.udp_rx -= 1;
                let request = frame.bytes().get(start..start + respond.len).unwrap_or_default().to_vec();
                self.respond_by_packet(question.interface, respond, &request);
                Verdict::Done
            }
        }
    }

    /// Lets a responder answer a request in a buffer of its own, and sends that as a packet.
    pub(super) fn respond_by_packet(&mut self, id: InterfaceId, respond: &Respond, request: &[u8]) {
        let Respond { socket, key, group, .. } = *respond;
        let from = SocketAddr::new(key.remote, key.remote_port);
        let mtu = self.interfaces.get(usize::from(id.0)).map_or(0, |i| i.mtu);
        let Some((responder, stats, ttl)) = self.udp.responder(socket) else { return };
        stats.received += 1;
        self.counters.udp_rx += 1;
        let mut room = request.len().max(mtu.saturating_sub(UDP_PAYLOAD));
        let (packet, len) = loop {
            let mut packet = vec![0; UDP_PAYLOAD + room];
            let buf = packet.get_mut(UDP_PAYLOAD..).unwrap_or_default();
            buf.get_mut(..request.len()).unwrap_or_default().copy_from_slice(request);
            match responder.respond(from, buf, request.len()) {
                None => return,
                Some(len) if len <= room => break (packet, len),
                Some(len) if len <= MAX_UDP_PAYLOAD => room = len,
                Some(_) => return self.counters.drop(DropReason::TooBig),
            }
        };
        stats.sent += 1;
        let datagram = self.finish_udp_packet(id, &key, group, packet, (len, ttl));
        self.send_or_count(datagram);
    }

    /// Puts headers before the `len` bytes of payload that stand in `packet` behind room for them.
    fn finish_udp_packet(
        &mut self,
        id: InterfaceId,
        key: &FlowKey,
        group: bool,
        mut packet: Vec<u8>,
        (len, ttl): (usize, u8),
    ) -> Option<Vec<u8>> {
        let (IpAddr::V4(dst), IpAddr::V4(local)) = (key.remote, key.local) else { return None };
        let interface = self.interfaces.get_mut(usize::from(id.0))?;
        let src = if group { interface.source_for(dst)? } else { local };
        packet.truncate(UDP_PAYLOAD + len);
        let total_len = u16::try_from(packet.len()).ok()?;
        let ip = Ipv4Header {
            ident: interface.idents.next(dst),
            dont_fragment: false,
            ..ipv4_header(src, dst, IpProtocol::UDP, total_len, ttl)
        };
        ip.emit(&mut packet)?;
        let datagram = packet.get_mut(Ipv4Header::LEN..)?;
        let length = (UdpHeader::LEN + len) as u16;
        let header = UdpHeader { src_port: key.local_port, dst_port: key.remote_port, length, checksum: 0 };
        header.emit(datagram)?;
        UdpHeader::fill_checksum(src.into(), dst.into(), datagram)?;
        Some(packet)
    }

    fn next_ident(&mut self, id: InterfaceId, dst: Ipv4Addr) -> u16 {
        self.interfaces.get_mut(usize::from(id.0)).map_or(0, |i| i.idents.next(dst))
    }

    /// Sends a packet that belongs to no socket, or counts why that is not possible.
    pub(super) fn send_or_count(&mut self, packet: Option<Vec<u8>>) {
        let Some(packet) = packet else { return self.counters.drop(DropReason::TooBig) };
        match self.send_packet(Datagram::new(packet)) {
            Ok(()) => {}
            Err(SocketError::WouldBlock) => self.counters.drop(DropReason::OutboxFull),
            Err(_) => self.counters.drop(DropReason::NoRoute),
        }
    }
}

/// RFC 1122 3.2.2.6: "the IP source address in an ICMP Echo Reply MUST be the same as the specific-destination address", and
/// "data received in an ICMP Echo Request MUST be entirely included in the resulting Echo Reply".
fn echo_in_place(
    interface: &mut Interface,
    link: &Link,
    frame: &mut RxFrame<'_>,
    question: &Question,
) -> Option<TxMeta> {
    let total = Ipv4Header::LEN + question.payload_len;
    if total > interface.mtu {
        return None;
    }
    question.strip_options(link, frame, question.payload_len)?;
    let at = address_reply(interface, link, frame)?;
    frame.set_len(at + total).then_some(())?;
    let packet = frame.bytes_mut().get_mut(at..)?;
    let ident = interface.idents.next(question.src);
    let ip = ipv4_header(question.dst, question.src, IpProtocol::ICMP, total as u16, DEFAULT_TTL);
    Ipv4Header { ident, dont_fragment: false, ..ip }.emit(packet)?;
    let message = packet.get_mut(Ipv4Header::LEN..)?.first_chunk_mut::<4>()?;
    // Echo request (8) to echo reply (0): the checksum, which was verified, follows from the old one.
    let sum = update_u16(u16::from_be_bytes([message[2], message[3]]), 0x0800, 0);
    let [high, low] = sum.to_be_bytes();
    *message = [0, 0, high, low];
    Some(TxMeta::default())
}

fn segment_in_place(
    interface: &Interface,
    link: &Link,
    frame: &mut RxFrame<'_>,
    question: &Question,
    header: &TcpHeader,
    ttl: Ttl,
) -> Option<TxMeta> {
    // Nothing is touched before it is known that the answer fits, as the caller then has another way.
    let total = Ipv4Header::LEN + header.header_len();
    frame.set_len(link.len + total).then_some(())?;
    let at = address_reply(interface, link, frame)?;
    let packet = frame.bytes_mut().get_mut(at..)?;
    write_segment(packet, question.dst, question.src, header, ttl)?;
    // So small a segment is not worth the device's help.
    Some(TxMeta::default())
}

pub(super) fn segment_packet(src: Ipv4Addr, dst: Ipv4Addr, header: &TcpHeader, ttl: Ttl) -> Option<Vec<u8>> {
    let mut packet = vec![0; Ipv4Header::LEN + header.header_len()];
    write_segment(&mut packet, src, dst, header, ttl)?;
    Some(packet)
}

/// Writes a packet with a segment without data, exactly.
fn write_segment(
    packet: &mut [u8],
    src: Ipv4Addr,
    dst: Ipv4Addr,
    header: &TcpHeader,
    ttl: Ttl,
) -> Option<()> {
    let total_len = u16::try_from(packet.len()).ok()?;
    ipv4_header(src, dst, IpProtocol::TCP, total_len, ttl).emit(packet)?;
    let segment = packet.get_mut(Ipv4Header::LEN..)?;
    header.emit(segment)?;
    TcpHeader::fill_checksum(src.into(), dst.into(), segment)
}

/// Puts headers before the `len` bytes of payload that a responder left in the frame.
fn datagram_in_place(
    interface: &mut Interface,
    link: &Link,
    frame: &mut RxFrame<'_>,
    question: &Question,
    key: &FlowKey,
    (len, ttl): (usize, u8),
) -> Option<TxMeta> {
    let at = address_reply(interface, link, frame)?;
    let packet = frame.bytes_mut().get_mut(at..)?;
    let dst = question.src;
    // An answer cannot come from a broadcast address.
    let src = if interface.owns(question.dst) { question.dst } else { interface.source_for(dst)? };
    let mut ip = ipv4_header(src, dst, IpProtocol::UDP, (UDP_PAYLOAD + len) as u16, ttl);
    if UDP_PAYLOAD + len > ANY_LINK {
        (ip.dont_fragment, ip.ident) = (false, interface.idents.next(dst));
    }
    ip.emit(packet)?;
    let datagram = packet.get_mut(Ipv4Header::LEN..)?;
    let length = (UdpHeader::LEN + len) as u16;
    let header = UdpHeader { src_port: key.local_port, dst_port: key.remote_port, length, checksum: 0 };
    if !interface.caps.tx_checksum || len <= SUMMED_HERE {
        header.emit(datagram)?;
        UdpHeader::fill_checksum(src.into(), dst.into(), datagram)?;
        return Some(TxMeta::default());
    }
    let pseudo = Sum::pseudo_header(src.into(), dst.into(), IpProtocol::UDP, u32::from(length));
    UdpHeader { checksum: pseudo.fold(), ..header }.emit(datagram)?;
    let start = (at + Ipv4Header::LEN) as u16;
    Some(TxMeta { checksum: TxChecksum::Partial { start, offset: 6 }, gso: None })
}
