//! Runs of datagrams: neighbors in a burst that are of one flow, whose headers differ in no more than lengths, identification and
//! checksums.
//!
//! ```text
//!   0                                 16        20               24    26                          38    40    42
//!  +---------------------------------+---------+----------------+-----+---------------------------+-----+-----+---------
//!  | stations, type, version         | len  id | fragment, TTL..| sum | addresses, ports          | len | sum | payload
//!  +---------------------------------+---------+----------------+-----+---------------------------+-----+-----+---------
//!     the same                        each       the same        each   the same                    each
//! ```
//!
//! The first is recognised ([`super::plain`]) and its socket found; of the others, what is the same as in the first need only be seen to
//! be. Nothing can come between them: a run ends at the first frame about which anything is special, and that one takes
//! the way of a single frame ([`super::plain_udp`]). A run to a socket with a responder goes on in [`super::respond_run`].

use super::interface::InterfaceId;
use super::plain::{FRAGMENT_TTL_PROTOCOL, HEADERS, Plain, halves, recognise, word};
use super::plain_udp::PAYLOAD;
use super::udp::Source;
use super::{Cx, Stack};
use crate::device::{RxChecksum, RxFrame, Verdict};
use crate::time::Instant;
use crate::wire::{IpProtocol, Ipv4Header, Sum};

/// The headers of a datagram's frame in words as they lie in memory, as the figure has them.
pub(super) struct Words {
    link: u64,
    source_type: u64,
    lengths: u64,
    ip_sum: u16,
    addresses: u64,
    ports: u64,
}

impl Words {
    #[inline(always)]
    fn of(h: &[u8; PAYLOAD]) -> Self {
        let word = |at: usize| word(h, at);
        Self {
            link: word(0),
            source_type: word(8),
            lengths: word(16),
            ip_sum: u16::from_le_bytes([h[24], h[25]]),
            addresses: word(26),
            ports: word(34),
        }
    }

    /// Whether both are of one run.
    #[inline(always)]
    fn is_like(&self, other: &Self) -> bool {
        let same = (self.link ^ other.link)
            | (self.source_type ^ other.source_type)
            | ((self.lengths ^ other.lengths) & FRAGMENT_TTL_PROTOCOL)
            | (self.addresses ^ other.addresses)
            | u64::from(self.ports as u32 ^ other.ports as u32);
        same == 0
    }
}

/// What the datagrams of a run have in common.
pub(super) struct Run {
    words: Words,
    /// Sum of what is the same in their IPv4 headers.
    ip_sum: u64,
    /// Sum of their pseudo-header, without length.
    pseudo: Sum,
}

impl Run {
    /// The run that begins with a frame that was recognised as `plain` and has these headers.
    fn of(plain: &Plain, headers: &[u8; PAYLOAD]) -> Self {
        let words = Words::of(headers);
        // The version is the last word of the second eight bytes.
        let ip_sum = (words.source_type >> 48)
            + u64::from(halves(words.lengths & FRAGMENT_TTL_PROTOCOL))
            + u64::from(halves(words.addresses));
        let pseudo = Sum::pseudo_header_v4(plain.src, plain.dst, IpProtocol::UDP, 0);
        Self { words, ip_sum, pseudo }
    }

    pub(super) fn ports(&self) -> (u16, u16) {
        let ports = self.words.ports;
        ((ports as u16).swap_bytes(), ((ports >> 16) as u16).swap_bytes())
    }

    /// The payload of a frame that is of this run and intact.
    #[inline(always)]
    pub(super) fn payload<'f>(&self, frame: &'f RxFrame<'_>) -> Option<&'f [u8]> {
        let bytes = frame.bytes();
        let words = Words::of(bytes.first_chunk()?);
        let alike = words.is_like(&self.words) && frame.meta.vlan.is_none() && frame.meta.gso_size.is_none();
        let total_len = (words.lengths as u16).swap_bytes();
        let length = ((words.ports >> 32) as u16).swap_bytes();
        let sum =
            self.ip_sum + (words.lengths & 0xffff) + (words.lengths >> 16 & 0xffff) + u64::from(words.ip_sum);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        if !alike || sum != 0xffff || usize::from(length) + Ipv4Header::LEN != usize::from(total_len) {
            return None;
        }
        let payload = bytes.get(PAYLOAD..HEADERS + usize::from(length))?;
        let intact = frame.meta.checksum != RxChecksum::Unknown
            || words.ports >> 48 == 0
            || self.pseudo.add_u16(length).add(&words.ports.to_le_bytes()).add(payload).verify();
        intact.then_some(payload)
    }
}

/// Whether the first two frames are datagrams of one flow, if they are plain.
#[inline(always)]
pub(super) fn begins(frames: &[RxFrame<'_>]) -> bool {
    let [first, second, ..] = frames else { return false };
    let (first, second) = (first.bytes(), second.bytes());
    first.get(23) == Some(&IpProtocol::UDP.0)
        && first.get(26..38).is_some_and(|flow| second.get(26..38) == Some(flow))
}

impl Stack {
    /// Takes the run that `frames` begin with, and says how many of them that was; perhaps none.
    #[inline(never)]
    pub(super) fn udp_run(&mut self, now: Instant, id: InterfaceId, frames: &mut [RxFrame<'_>]) -> usize {
        self.try_udp_run(now, id, frames).unwrap_or(0)
    }

    fn try_udp_run(&mut self, now: Instant, id: InterfaceId, frames: &mut [RxFrame<'_>]) -> Option<usize> {
        let first = frames.first()?;
        let plain = recognise(self.interfaces.get(usize::from(id.0))?, first)?;
        let run = Run::of(&plain, first.bytes().first_chunk()?);
        let (from, to) = run.ports();
        let source = Source::new(plain.src, from);
        let (socket, idle) = self.udp.listener_v4(source, plain.dst, to)?;
        if plain.protocol != IpProtocol::UDP {
            return None;
        }
        if socket.responder.is_some() {
            let socket = socket.id.index;
            return self.respond_run(id, &plain, &run, socket, frames);
        }
        let mut taken = 0;
        while let Some(rest) = frames.get(taken..).filter(|rest| !rest.is_empty()) {
            let payloads = rest.iter().map_while(|frame| run.payload(frame));
            let queued = socket.queue_run_v4(source, plain.dst, payloads);
            taken += queued;
            // One that turns a page is queued in pieces.
            if queued == 0 {
                let payload = rest.first().and_then(|frame| run.payload(frame));
                if !payload.is_some_and(|payload| socket.queue_v4(source, plain.dst, payload)) {
                    break;
                }
                taken += 1;
            }
        }
        let bytes: usize = frames.iter().take(taken).map(RxFrame::len).sum();
        frames.iter_mut().take(taken).for_each(|frame| frame.verdict = Verdict::Done);
        if taken > 0 {
            let (counters, events) = (&mut self.counters, &mut self.events);
            let count = taken as u64;
            socket.queued(&mut Cx { now, counters, events }, idle, count);
            self.counters.rx_frames += count;
            self.counters.rx_bytes += bytes as u64;
            self.counters.ip_rx += count;
        }
        Some(taken)
    }
}
