//! Datagrams in plain frames: the short way of what [`super::transport`] and [`super::answer`] do with any datagram.
//!
//! ```text
//!   frame -> ports, length, checksum -> socket by port -> queue                     -> Done
//!                                                      \-> responder, headers again -> Reply
//! ```
//!
//! Whatever is special about a datagram, or wrong with it, is left to the long way, to which nothing has happened then.

use core::net::SocketAddr;

use super::answer::Respond;
use super::demux::FlowKey;
use super::interface::InterfaceId;
use super::output::{ANY_LINK, SUMMED_HERE};
use super::plain::{self, Plain};
use super::udp::Source;
use super::{Cx, Stack};
use crate::counters::DropReason;
use crate::device::{RxChecksum, RxFrame, TxChecksum, TxMeta, Verdict};
use crate::time::Instant;
use crate::wire::{IpProtocol, Ipv4Header, MacAddr, Sum, UdpHeader};

/// Where the payload begins.
pub(super) const PAYLOAD: usize = plain::HEADERS + UdpHeader::LEN;

impl Stack {
    /// Takes the datagram in a plain frame to its socket, or lets the socket's responder answer it.
    #[inline(never)]
    pub(super) fn plain_udp(
        &mut self,
        now: Instant,
        id: InterfaceId,
        plain: &Plain,
        frame: &mut RxFrame<'_>,
    ) -> Option<Verdict> {
        let datagram = frame.bytes().get(plain::HEADERS..plain.end)?;
        let (header, payload) = datagram.split_first_chunk::<{ UdpHeader::LEN }>()?;
        // Source port, destination port, length and checksum.
        let header = u64::from_be_bytes(*header);
        let length = (header >> 16) as u16;
        if usize::from(length) != datagram.len() || frame.meta.gso_size.is_some() {
            return None;
        }
        let source = Source::new(plain.src, (header >> 48) as u16);
        let (socket, idle) = self.udp.listener_v4(source, plain.dst, (header >> 32) as u16)?;
        let intact = frame.meta.checksum != RxChecksum::Unknown
            || header as u16 == 0
            || Sum::pseudo_header_v4(plain.src, plain.dst, IpProtocol::UDP, length.into())
                .add(datagram)
                .verify();
        if !intact {
            return None;
        }
        if socket.responder.is_some() {
            let (socket, request) = (socket.id.index, UdpHeader::from_bytes(header.to_be_bytes()));
            return self.respond_plainly(id, plain, &request, socket, frame);
        }
        let (counters, events) = (&mut self.counters, &mut self.events);
        let mut cx = Cx { now, counters, events };
        socket.deliver_v4(&mut cx, idle, source, plain.dst, payload).then_some(Verdict::Done)
    }

    /// Lets a responder rewrite a request in its frame.
    #[inline(never)]
    fn respond_plainly(
        &mut self,
        id: InterfaceId,
        plain: &Plain,
        request: &UdpHeader,
        socket: u32,
        frame: &mut RxFrame<'_>,
    ) -> Option<Verdict> {
        let interface = self.interfaces.get_mut(usize::from(id.0))?;
        let (responder, stats, ttl) = self.udp.responder(socket)?;
        let (whole, len) = (frame.len(), usize::from(request.length).checked_sub(UdpHeader::LEN)?);
        let room = frame.capacity().min(interface.mtu + PAYLOAD - UDP_HEADERS).checked_sub(PAYLOAD)?;
        if room < len || !frame.set_len(PAYLOAD + room) {
            return None;
        }
        let from = SocketAddr::new(plain.src.into(), request.src_port);
        stats.received += 1;
        self.counters.udp_rx += 1;
        let buf = frame.bytes_mut().get_mut(PAYLOAD..).unwrap_or_default();
        let Some(answer) = responder.respond(from, buf, len) else { return Some(Verdict::Done) };
        if answer > room {
            // The request is as it was. Counted again by what follows.
            stats.received -= 1;
            self.counters.udp_rx -= 1;
            let _shorter = frame.set_len(whole);
            return Some(self.respond_apart(id, plain, request, socket, frame));
        }
        let large = UDP_HEADERS + answer > ANY_LINK;
        let ident = large.then(|| interface.next_ident(plain.src.into()));
        let (offload, mac) = (interface.caps.tx_checksum, interface.mac_bits);
        let written = frame
            .set_len(PAYLOAD + answer)
            .then(|| write_answer(frame.bytes_mut(), plain, request, (mac, ttl, ident), offload))
            .flatten();
        let Some(meta) = written else { return Some(Verdict::Drop(DropReason::TooBig)) };
        stats.sent += 1;
        self.counters.udp_tx += 1;
        self.counters.ip_tx += 1;
        Some(Verdict::Reply(meta))
    }

    /// The answer does not fit the frame of the request.
    #[cold]
    pub(super) fn respond_apart(
        &mut self,
        id: InterfaceId,
        plain: &Plain,
        request: &UdpHeader,
        socket: u32,
        frame: &RxFrame<'_>,
    ) -> Verdict {
        let key = FlowKey {
            local: plain.dst.into(),
            remote: plain.src.into(),
            local_port: request.dst_port,
            remote_port: request.src_port,
        };
        let payload = frame.bytes().get(PAYLOAD..plain.end).unwrap_or_default();
        let respond = Respond { socket, key, group: false, len: payload.len() };
        self.respond_by_packet(id, &respond, payload);
        Verdict::Done
    }
}

/// Length of the headers of a datagram.
pub(super) const UDP_HEADERS: usize = Ipv4Header::LEN + UdpHeader::LEN;

/// Puts the headers of the answer before the payload that stands in `frame`, which is addressed to the sender of `request`.
#[inline]
pub(super) fn write_answer(
    frame: &mut [u8],
    plain: &Plain,
    request: &UdpHeader,
    (mac, ttl, ident): (u64, u8, Option<u16>),
    offload: bool,
) -> Option<TxMeta> {
    let (headers, datagram) = frame.split_first_chunk_mut::<{ plain::HEADERS }>()?;
    let length = u16::try_from(datagram.len()).ok()?;
    let total_len = length.checked_add(Ipv4Header::LEN as u16)?;
    let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *headers;
    let (src, dst) = (plain.dst, plain.src);
    let macs = (MacAddr([a, b, c, d, e, f]).to_bits(), mac);
    plain::emit(headers, macs, (src, dst), IpProtocol::UDP, total_len, ttl, ident);

    let (udp, payload) = datagram.split_first_chunk_mut::<{ UdpHeader::LEN }>()?;
    let (src_port, dst_port) = (request.dst_port, request.src_port);
    let header = UdpHeader { src_port, dst_port, length, checksum: 0 };
    let pseudo = Sum::pseudo_header_v4(src, dst, IpProtocol::UDP, length.into());
    if offload && payload.len() > SUMMED_HERE {
        *udp = UdpHeader { checksum: pseudo.fold(), ..header }.to_bytes();
        let start = plain::HEADERS as u16;
        return Some(TxMeta { checksum: TxChecksum::Partial { start, offset: 6 }, gso: None });
    }
    let checksum = pseudo.add(&header.to_bytes()).add(payload).finish_nonzero();
    *udp = UdpHeader { checksum, ..header }.to_bytes();
    Some(TxMeta::default())
}
