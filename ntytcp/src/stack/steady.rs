//! The flow that spoke last over an interface, known by its headers: most segments come behind another of the same connection, and
//! differ from it below TCP in no more than length, identification and checksum.
//!
//! ```text
//!   0                                 16        20               24    26                          38        54
//!  +---------------------------------+---------+----------------+-----+---------------------------+---------+------
//!  | stations, type, version         | len  id | fragment, TTL..| sum | addresses, ports          | TCP ..  | text
//!  +---------------------------------+---------+----------------+-----+---------------------------+---------+------
//!     the same                        each       the same        each   the same                    each
//! ```
//!
//! A flow is noted when two foreseen segments of it have come behind each other the way of [`super::plain`], which checked all that is
//! the same here; so nothing is left to check but the rest, and there is nothing to be looked up. [`Interface`](super::interface::Interface) forgets it when its addresses change, and
//! a name that has grown stale finds no connection. What is not as foreseen goes the way of any other frame.

use super::interface::InterfaceId;
use super::plain::{FRAGMENT_TTL_PROTOCOL, HEADERS, Plain, halves, word};
use super::{Cx, Stack};
use crate::counters::DropReason;
use crate::device::{RxChecksum, RxFrame, Verdict};
use crate::tcp::ConnName;
use crate::time::Instant;
use crate::wire::{EthernetHeader, IpProtocol, Sum, TcpHeader};

/// Headers without tags and options.
const LEN: usize = HEADERS + TcpHeader::LEN;

/// What the headers of a flow's segments have in common, in words as they lie in memory, and whose they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steady {
    link: [u64; 2],
    fragment_ttl_protocol: u64,
    addresses: u64,
    ports: u32,
    /// The sum of the IP header's 16-bit words that are the same in all.
    ip_sum: u32,
    /// That of the pseudo-header but for the length.
    pseudo: Sum,
    conn: ConnName,
}

impl Steady {
    fn new(plain: &Plain, h: &[u8; LEN], conn: ConnName) -> Self {
        let fragment_ttl_protocol = word(h, 16) & FRAGMENT_TTL_PROTOCOL;
        let addresses = word(h, 26);
        // The version is the last word of the second eight bytes.
        let ip_sum = (word(h, 8) >> 48) as u32 + halves(fragment_ttl_protocol) + halves(addresses);
        Self {
            link: [word(h, 0), word(h, 8)],
            fragment_ttl_protocol,
            addresses,
            ports: word(h, 34) as u32,
            ip_sum,
            pseudo: Sum::pseudo_header_v4(plain.src, plain.dst, IpProtocol::TCP, 0),
            conn,
        }
    }

    /// Whether the addresses and ports of a frame, if it is plain, are those of this flow: most others differ there.
    #[inline(always)]
    fn is_like(&self, frame: &RxFrame<'_>) -> bool {
        frame
            .bytes()
            .first_chunk::<LEN>()
            .is_some_and(|h| (word(h, 26) ^ self.addresses) | u64::from(word(h, 34) as u32 ^ self.ports) == 0)
    }

    /// The segment in a frame, if it is one of this flow in a plain frame.
    #[inline(always)]
    fn segment<'a>(&self, frame: &'a RxFrame<'_>) -> Option<&'a [u8]> {
        let bytes = frame.bytes();
        let h = bytes.first_chunk::<LEN>()?;
        let lengths = word(h, 16);
        let different = (word(h, 0) ^ self.link[0])
            | (word(h, 8) ^ self.link[1])
            | (word(h, 26) ^ self.addresses)
            | u64::from(word(h, 34) as u32 ^ self.ports)
            | (lengths & FRAGMENT_TTL_PROTOCOL ^ self.fragment_ttl_protocol);
        let checksum = word(h, 24) as u16;
        let sum = self.ip_sum + (lengths as u32 & 0xffff) + (lengths as u32 >> 16) + u32::from(checksum);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        if different != 0 || sum != 0xffff || frame.meta.vlan.is_some() {
            return None;
        }
        let total_len = usize::from((lengths as u16).swap_bytes());
        bytes.get(HEADERS..EthernetHeader::LEN + total_len)
    }

    #[inline(always)]
    fn is_intact(&self, frame: &RxFrame<'_>, segment: &[u8]) -> bool {
        // The length fits: it is that of a packet.
        let sum = || self.pseudo.add_u16(segment.len() as u16).add(segment).verify();
        frame.meta.checksum != RxChecksum::Unknown || sum()
    }
}

impl Stack {
    /// Whether [`Stack::take_steady`] is worth trying: it is not called in vain for frames of others.
    #[inline(always)]
    pub(super) fn may_be_steady(&self, id: InterfaceId, frame: &RxFrame<'_>) -> bool {
        let flow = self.interfaces.get(usize::from(id.0)).and_then(|interface| interface.steady.as_ref());
        flow.is_some_and(|flow| flow.is_like(frame))
    }

    /// Takes a frame, verdict and all, if it is a foreseen segment of the flow that spoke last.
    #[inline(never)]
    pub(super) fn take_steady(
        &mut self,
        now: Instant,
        id: InterfaceId,
        frame: &mut RxFrame<'_>,
    ) -> Option<()> {
        let flow = self.interfaces.get(usize::from(id.0))?.steady.as_ref()?;
        let segment = flow.segment(frame)?;
        let (counters, events) = (&mut self.counters, &mut self.events);
        let cx = &mut Cx { now, counters, events };
        let taken = self.tcp.input_steady(cx, flow.conn, segment, || flow.is_intact(frame, segment))?;
        self.counters.rx_frames += 1;
        self.counters.rx_bytes += frame.len() as u64;
        self.counters.ip_rx += 1;
        frame.verdict = Verdict::Done;
        if let Err(reason) = taken {
            frame.verdict = self.take_dropped(now, id, frame, reason);
        }
        Some(())
    }

    /// A foreseen segment did not find room for all of it, and may find it now.
    #[cold]
    fn take_dropped(
        &mut self,
        now: Instant,
        id: InterfaceId,
        frame: &mut RxFrame<'_>,
        reason: DropReason,
    ) -> Verdict {
        let mut verdict = Verdict::Drop(reason);
        if self.reclaim_for(now) {
            // What was taken of it is old by now. Counted again by what follows.
            self.counters.tcp_rx -= 1;
            self.counters.ip_rx -= 1;
            verdict = self.receive_any(now, id, frame);
        }
        self.count(verdict, frame.len());
        verdict
    }

    /// Notes that segments of a connection follow each other, of which the last was in this frame.
    #[inline(never)]
    pub(super) fn note_steady(
        &mut self,
        id: InterfaceId,
        plain: &Plain,
        frame: &RxFrame<'_>,
        conn: ConnName,
    ) {
        if let Some(interface) = self.interfaces.get_mut(usize::from(id.0)) {
            interface.steady = frame.bytes().first_chunk().map(|h| Steady::new(plain, h, conn));
        }
    }
}
