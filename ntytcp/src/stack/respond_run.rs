//! Answers of a responder to a run of datagrams ([`super::udp_run`]), each in the frame of its question.
//!
//! What their headers have in common is written once, for all of them: stations, addresses and ports of the questions, the other way
//! round. An answer that differs in more than its length goes behind headers of its own ([`super::plain_udp`]), or, where it does not fit
//! the frame, out of a packet of its own.

use core::net::SocketAddr;

use super::Stack;
use super::interface::{Interface, InterfaceId};
use super::output::{ANY_LINK, SUMMED_HERE};
use super::plain::{self, HEADERS, Plain, station};
use super::plain_udp::{PAYLOAD, UDP_HEADERS, write_answer};
use super::udp::Responder;
use super::udp_run::Run;
use crate::counters::DropReason;
use crate::device::{RxFrame, TxMeta, Verdict};
use crate::wire::{IpProtocol, Sum, UdpHeader};

/// The headers of the answers, and sums of what is the same in them.
struct Headers {
    bytes: [u8; PAYLOAD],
    ip_sum: u16,
    /// Of pseudo-header and UDP header, without lengths.
    udp_sum: Sum,
}

impl Headers {
    /// Those of answers to questions like this one, from the station `mac`.
    fn new(question: &Plain, (src_port, dst_port): (u16, u16), macs: (u64, u64), ttl: u8) -> Self {
        let (src, dst) = (question.dst, question.src);
        let (mut bytes, mut plain) = ([0; PAYLOAD], [0; HEADERS]);
        plain::emit(&mut plain, macs, (src, dst), IpProtocol::UDP, 0, ttl, None);
        let udp = UdpHeader { src_port, dst_port, length: 0, checksum: 0 }.to_bytes();
        let (front, behind) = bytes.split_at_mut(HEADERS);
        front.copy_from_slice(&plain);
        behind.copy_from_slice(&udp);
        let ip_sum = !u16::from_be_bytes([plain[24], plain[25]]);
        let udp_sum = Sum::pseudo_header_v4(src, dst, IpProtocol::UDP, 0).add(&udp);
        Self { bytes, ip_sum, udp_sum }
    }

    /// Writes them before the payload that stands in `frame`, which is short enough to need nothing special.
    #[inline(always)]
    fn write(&self, frame: &mut [u8]) {
        let Some((headers, payload)) = frame.split_first_chunk_mut::<PAYLOAD>() else { return };
        let length = (UdpHeader::LEN + payload.len()) as u16;
        let total_len = (UDP_HEADERS + payload.len()) as u16;
        let ip_sum = u32::from(self.ip_sum) + u32::from(total_len);
        let ip_sum = (ip_sum & 0xffff) + (ip_sum >> 16);
        // The length is in the pseudo-header and in the header.
        let checksum = self.udp_sum.add_words(2 * u64::from(length)).add(payload).finish_nonzero();
        *headers = self.bytes;
        headers[16..18].copy_from_slice(&total_len.to_be_bytes());
        headers[24..26].copy_from_slice(&(!(ip_sum as u16)).to_be_bytes());
        headers[38..40].copy_from_slice(&length.to_be_bytes());
        headers[40..42].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Who answers a run, and what its answers have in common.
struct Answering<'a> {
    responder: &'a mut (dyn Responder + Send),
    interface: &'a mut Interface,
    from: SocketAddr,
    question: Plain,
    request: UdpHeader,
    ttl: u8,
    headers: Headers,
    /// The longest packet that has the common headers.
    common: usize,
}

/// What became of a question.
enum Outcome {
    Answered,
    Silence,
    /// The answer does not fit the frame, in which the question is as it was.
    Apart,
    Refused(DropReason),
}

impl Answering<'_> {
    /// Lets the responder rewrite the question of `len` bytes in `frame`. `None`, and no change, where there is no room for that.
    #[inline(always)]
    fn answer(&mut self, frame: &mut RxFrame<'_>, len: usize) -> Option<Outcome> {
        let whole = frame.len();
        let most = self.interface.mtu + PAYLOAD - UDP_HEADERS;
        let room = frame.capacity().min(most).checked_sub(PAYLOAD)?;
        if room < len || !frame.set_len(PAYLOAD + room) {
            return None;
        }
        frame.verdict = Verdict::Done;
        let buf = frame.bytes_mut().get_mut(PAYLOAD..).unwrap_or_default();
        let Some(answer) = self.responder.respond(self.from, buf, len) else { return Some(Outcome::Silence) };
        let fits = answer <= room;
        let _shorter = frame.set_len(if fits { PAYLOAD + answer } else { whole });
        if !fits {
            return Some(Outcome::Apart);
        }
        if UDP_HEADERS + answer > self.common {
            return Some(self.write_unlike(frame, answer));
        }
        self.headers.write(frame.bytes_mut());
        // Said as a constant: put together from parts, it could not be read at once.
        frame.verdict = Verdict::Reply(TxMeta::default());
        Some(Outcome::Answered)
    }

    /// Writes headers that say more than the common ones.
    #[inline(never)]
    fn write_unlike(&mut self, frame: &mut RxFrame<'_>, answer: usize) -> Outcome {
        let large = UDP_HEADERS + answer > ANY_LINK;
        let ident = large.then(|| self.interface.next_ident(self.question.src.into()));
        let (mac, offload) = (self.interface.mac_bits, self.interface.caps.tx_checksum);
        let common = (mac, self.ttl, ident);
        match write_answer(frame.bytes_mut(), &self.question, &self.request, common, offload) {
            Some(meta) => {
                frame.verdict = Verdict::Reply(meta);
                Outcome::Answered
            }
            None => {
                frame.verdict = Verdict::Drop(DropReason::TooBig);
                Outcome::Refused(DropReason::TooBig)
            }
        }
    }
}

/// What is counted of a run.
#[derive(Default)]
struct Tally {
    received: u64,
    received_bytes: u64,
    /// Of those, the ones that the responder is not to hear again.
    heard: u64,
    sent: u64,
    sent_bytes: u64,
}

impl Stack {
    /// Lets a responder answer the datagrams of a run in their frames, and says how many those were.
    pub(super) fn respond_run(
        &mut self,
        id: InterfaceId,
        plain: &Plain,
        run: &Run,
        socket: u32,
        frames: &mut [RxFrame<'_>],
    ) -> Option<usize> {
        let interface = self.interfaces.get_mut(usize::from(id.0))?;
        let (responder, stats, ttl) = self.udp.responder(socket)?;
        let (src_port, dst_port) = run.ports();
        let request = UdpHeader { src_port, dst_port, length: 0, checksum: 0 };
        let macs = (station(frames.first()?.bytes()).to_bits(), interface.mac_bits);
        let headers = Headers::new(plain, (dst_port, src_port), macs, ttl);
        let summed = if interface.caps.tx_checksum { UDP_HEADERS + SUMMED_HERE } else { ANY_LINK };
        let from = SocketAddr::new(plain.src.into(), src_port);
        let (question, common) = (*plain, ANY_LINK.min(summed));
        let mut answering = Answering { responder, interface, from, question, request, ttl, headers, common };

        let (mut tally, mut apart) = (Tally::default(), None);
        for frame in &mut *frames {
            let Some(len) = run.payload(frame).map(<[u8]>::len) else { break };
            let received = frame.len() as u64;
            let Some(outcome) = answering.answer(frame, len) else { break };
            tally.received += 1;
            tally.received_bytes += received;
            match outcome {
                Outcome::Answered => {
                    tally.sent += 1;
                    tally.sent_bytes += frame.len() as u64;
                }
                Outcome::Silence => {}
                Outcome::Refused(reason) => self.counters.drop(reason),
                Outcome::Apart => {
                    apart = Some(len);
                    break;
                }
            }
        }
        tally.heard = tally.received - u64::from(apart.is_some());
        stats.received += tally.heard;
        stats.sent += tally.sent;
        self.count_run(&tally);
        let taken = tally.received as usize;
        if let Some(len) = apart
            && let Some(frame) = taken.checked_sub(1).and_then(|last| frames.get(last))
        {
            let plain = Plain { end: PAYLOAD + len, ..*plain };
            self.respond_apart(id, &plain, &request, socket, frame);
        }
        Some(taken)
    }

    fn count_run(&mut self, tally: &Tally) {
        let Tally { received, received_bytes, heard, sent, sent_bytes } = *tally;
        let counters = &mut self.counters;
        counters.rx_frames += received;
        counters.rx_bytes += received_bytes;
        counters.ip_rx += received;
        counters.udp_rx += heard;
        counters.tx_frames += sent;
        counters.tx_bytes += sent_bytes;
        counters.ip_tx += sent;
        counters.udp_tx += sent;
    }
}
