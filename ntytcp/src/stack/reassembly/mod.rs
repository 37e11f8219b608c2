//! Datagrams from their fragments, within bounds (RFC 791 3.2, RFC 815, RFC 8200 4.5, RFC 5722, RFC 8900).
//!
//! The bytes of a datagram are kept in the order of their arrival, beside a list of the pieces in the order
//! of their offsets; what lies between two pieces is a hole of RFC 815. A datagram thus costs what arrived of
//! it, however far apart the offsets are, and one whose fragments came in order, as nearly all do, is
//! complete without another copy:
//!
//! ```text
//!   data      | 0..1480 | 2960..4000 | 1480..2960 |      arrival
//!   pieces    0..1480 -> 0, 1480..2960 -> 2520, 2960..4000 -> 1480     offset -> place in data
//! ```
//!
//! **Overlap.** Fragments that overlap are an attack or corruption, never the work of a router: as RFC 5722
//! says for IPv6, the whole datagram is dropped, in IPv4 too, and its key is remembered until the timeout, so
//! that what remains of it does not begin a second one. An exact duplicate (same range, same bytes, same
//! flag) is what a network may well produce and is tolerated, as RFC 8200 4.5 allows; a duplicate with other
//! bytes counts as an overlap. So does data beyond the end, or a second, different end.
//!
//! **Bounds.** Bytes and datagrams are limited in total and per source, pieces per datagram, and the whole
//! datagram to 65,535 bytes. A source beyond its share, or all beyond the total, lose their oldest datagram:
//! complete ones live for microseconds, so what is old is most likely waiting for something that was lost,
//! and a flood displaces mostly itself. The timer runs from the first fragment (RFC 1122 3.3.2) and is the
//! same for all, so that timeouts and displacement are O(1).
//!
//! **Tiny fragments** (RFC 1858, RFC 3128). A first fragment must carry 16 bytes, enough for the ports and
//! flags of TCP, and no fragment of TCP may begin at byte 8, where it could replace the flags that a filter
//! has looked at.

mod pieces;
#[cfg(test)]
mod tests;

use core::net::IpAddr;
use std::collections::{HashMap, VecDeque};

use pieces::{Added, Pieces};

use super::keyed::KeyedHash;
use super::lists::{Links, List};
use crate::counters::DropReason;
use crate::rng::Rng;
use crate::time::{Duration, Instant};

/// The longest datagram, header included.
const MAX_DATAGRAM: usize = 65_535;

/// Least payload of a first fragment (RFC 1858 3.1).
const MIN_FIRST: usize = 16;

/// Payload bytes of fragment zero that an ICMP error quotes (RFC 792).
const QUOTED: usize = 8;

/// IP protocol number of TCP.
const TCP: u8 = 6;

/// What a datagram counts for beside its payload and header: the bookkeeping, roughly.
const OVERHEAD: usize = 256;

/// Emptied buffers that are kept for the next datagrams.
const SPARE_BUFFERS: usize = 16;

/// A buffer smaller than this is not worth keeping.
const MIN_SPARE: usize = 1_024;

/// Bounds of a [`Reassembler`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReassemblyConfig {
    /// Bytes of all incomplete datagrams: payloads, headers and 256 bytes for each. What is allocated is at
    /// most twice that, and 16 spare buffers. Default 4 MiB, at least 128 KiB.
    pub max_bytes: usize,
    /// Incomplete datagrams, those remembered for an overlap included. Default 1,024, at least 1, at most
    /// 1,048,576.
    pub max_datagrams: usize,
    /// As `max_bytes`, for one source address. Default 1 MiB, at least 128 KiB.
    pub max_source_bytes: usize,
    /// As `max_datagrams`, for one source address. Default 256, at least 1.
    pub max_source_datagrams: usize,
    /// Fragments of one datagram. Default 128, which is a datagram of 65,535 bytes over an MTU of 576. At
    /// least 2.
    pub max_fragments: usize,
    /// How long a datagram waits for its fragments, from the first to arrive. Default 30 s, as on Linux; RFC
    /// 1122 3.3.2 recommends 60 s to 120 s, from a time when networks were slower and identifications did not
    /// repeat within a second.
    pub timeout: Duration,
}

impl Default for ReassemblyConfig {
    fn default() -> Self {
        Self {
            max_bytes: 4 << 20,
            max_datagrams: 1_024,
            max_source_bytes: 1 << 20,
            max_source_datagrams: 256,
            max_fragments: 128,
            timeout: Duration::from_secs(30),
        }
    }
}

/// What fragments of one datagram have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FragmentKey {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub ident: u32,
    /// Protocol of the IPv4 header. 0 for IPv6, where the next header is no part of the key (RFC 8200 4.5).
    pub protocol: u8,
}

/// One fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment<'a> {
    /// Where its payload begins in that of the datagram, in bytes.
    pub offset: usize,
    /// What says whether it is the last.
    pub end: FragmentEnd,
    /// Its IP header. That of the first fragment becomes the header of the datagram.
    pub header: &'a [u8],
    /// Its payload.
    pub payload: &'a [u8],
}

/// The "more fragments" flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FragmentEnd {
    /// More fragments follow: the flag is set.
    More,
    /// The last fragment: the flag is clear.
    Last,
}

/// What became of a fragment.
#[derive(Debug)]
pub enum FragmentOutcome {
    /// It is kept, or was there already; its datagram is not complete.
    Incomplete,
    /// It was the one that was missing.
    Complete(Reassembled),
    /// It was refused.
    Drop(DropReason),
}

/// A complete datagram. Give it back with [`Reassembler::recycle`] when it has been dealt with.
#[derive(Debug)]
pub struct Reassembled {
    header: Vec<u8>,
    payload: Vec<u8>,
}

impl Reassembled {
    /// The IP header of fragment zero as it arrived: length, offset, flag and checksum are that fragment's.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The payload of the datagram. Together with the header it has at most 65,535 bytes.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// A datagram that was given up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expired {
    /// Whose it was.
    pub key: FragmentKey,
    /// [`DropReason::FragmentTimeout`], or [`DropReason::FragmentMemory`] when it had to make room.
    pub reason: DropReason,
    /// Header and first 8 payload bytes of fragment zero, if that arrived and the datagram timed out. Only
    /// then may an ICMP time exceeded message be sent (RFC 792: "If fragment zero is not available then no
    /// time exceeded need be sent at all").
    pub first_fragment: Option<Box<[u8]>>,
}

/// Puts fragments together. See the module documentation.
#[derive(Debug)]
pub struct Reassembler {
    cfg: ReassemblyConfig,
    index: HashMap<FragmentKey, u32, KeyedHash>,
    slots: Vec<Option<Datagram>>,
    free: Vec<u32>,
    /// Every datagram, oldest first.
    by_age: List,
    age_links: Links,
    /// Each source with its datagrams, oldest first.
    sources: HashMap<IpAddr, Source, KeyedHash>,
    source_links: Links,
    bytes: usize,
    spare: Vec<Vec<u8>>,
    expired: VecDeque<Expired>,
}

/// A datagram of which something is missing.
#[derive(Debug)]
struct Datagram {
    key: FragmentKey,
    deadline: Instant,
    /// Header of fragment zero; empty until it arrives.
    header: Vec<u8>,
    pieces: Pieces,
    /// What it counts for in the bounds.
    charge: usize,
    /// Fragments overlapped: nothing is kept but the key.
    poisoned: bool,
}

/// What one source has under way.
#[derive(Debug)]
struct Source {
    datagrams: usize,
    bytes: usize,
    list: List,
}

impl Reassembler {
    /// A reassembler without fragments; values of `cfg` below their minimum are raised to it.
    pub fn new(cfg: ReassemblyConfig, rng: &mut Rng) -> Self {
        let one = 2 * (MAX_DATAGRAM + 1);
        let cfg = ReassemblyConfig {
            max_bytes: cfg.max_bytes.max(one),
            max_datagrams: cfg.max_datagrams.clamp(1, 1 << 20),
            max_source_bytes: cfg.max_source_bytes.max(one),
            max_source_datagrams: cfg.max_source_datagrams.max(1),
            max_fragments: cfg.max_fragments.max(2),
            ..cfg
        };
        let hash = KeyedHash::new(rng);
        Self {
            cfg,
            index: HashMap::with_hasher(hash),
            slots: Vec::new(),
            free: Vec::new(),
            by_age: List::EMPTY,
            age_links: Links::default(),
            sources: HashMap::with_hasher(hash),
            source_links: Links::default(),
            bytes: 0,
            spare: Vec::new(),
            expired: VecDeque::new(),
        }
    }

    /// Takes in one fragment of a packet that is for us and whose header is valid. Allocates, unless there
    /// are spare buffers.
    pub fn insert(&mut self, now: Instant, key: FragmentKey, fragment: Fragment<'_>) -> FragmentOutcome {
        if !acceptable(&key, &fragment) {
            return FragmentOutcome::Drop(DropReason::Malformed);
        }
        if fragment.offset == 0 && fragment.end == FragmentEnd::Last {
            // RFC 6946 4: an "atomic" fragment is a whole datagram, "processed in isolation" from others of
            // its key.
            let mut payload = self.spare.pop().unwrap_or_default();
            payload.extend_from_slice(fragment.payload);
            return FragmentOutcome::Complete(Reassembled { header: fragment.header.to_vec(), payload });
        }
        let index = match self.index.get(&key) {
            Some(&index) => index,
            None => match self.create(now, key) {
                Some(index) => index,
                None => return FragmentOutcome::Drop(DropReason::FragmentMemory),
            },
        };
        let max_fragments = self.cfg.max_fragments;
        let Some(datagram) = self.slots.get_mut(index as usize).and_then(Option::as_mut) else {
            return FragmentOutcome::Drop(DropReason::FragmentMemory);
        };
        if datagram.poisoned {
            return FragmentOutcome::Drop(DropReason::FragmentOverlap);
        }
        let mut grown = 0;
        match datagram.pieces.add(&fragment, max_fragments) {
            Added::Duplicate => return FragmentOutcome::Incomplete,
            Added::TooMany => return FragmentOutcome::Drop(DropReason::FragmentMemory),
            Added::Overlap => {
                self.poison(index);
                return FragmentOutcome::Drop(DropReason::FragmentOverlap);
            }
            Added::Kept => grown += fragment.payload.len(),
        }
        if fragment.offset == 0 {
            datagram.header.extend_from_slice(fragment.header);
            grown += fragment.header.len();
        }
        if let Some(total) = datagram.pieces.complete() {
            // Fragments may carry headers of different lengths; only fragment zero's counts.
            return if datagram.header.len() + total > MAX_DATAGRAM {
                self.poison(index);
                FragmentOutcome::Drop(DropReason::Malformed)
            } else {
                self.finish(index)
            };
        }
        datagram.charge += grown;
        let src = datagram.key.src;
        self.bytes += grown;
        if let Some(source) = self.sources.get_mut(&src) {
            source.bytes += grown;
        }
        if self.make_room(index, src) {
            FragmentOutcome::Incomplete
        } else {
            FragmentOutcome::Drop(DropReason::FragmentMemory)
        }
    }

    /// Takes a datagram's buffer back for the next.
    pub fn recycle(&mut self, datagram: Reassembled) {
        self.keep_buffer(datagram.payload);
    }

    /// When the oldest datagram is given up.
    pub fn next_deadline(&self) -> Option<Instant> {
        let oldest = self.by_age.head()?;
        Some(self.slots.get(oldest as usize)?.as_ref()?.deadline)
    }

    /// Gives up what has waited for too long; [`Reassembler::poll_expired`] says what.
    pub fn on_timeout(&mut self, now: Instant) {
        while self.next_deadline().is_some_and(|at| at <= now) {
            let Some(oldest) = self.by_age.head() else { return };
            self.give_up(oldest, DropReason::FragmentTimeout);
        }
    }

    /// A datagram that was given up since the last call. Those dropped for an overlap are not among them:
    /// their fragments were answered for one by one.
    pub fn poll_expired(&mut self) -> Option<Expired> {
        self.expired.pop_front()
    }

    /// Incomplete datagrams, those remembered for an overlap included.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// What all incomplete datagrams count for, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Begins a datagram, at the cost of older ones when there are too many.
    fn create(&mut self, now: Instant, key: FragmentKey) -> Option<u32> {
        if let Some(source) = self.sources.get(&key.src)
            && source.datagrams >= self.cfg.max_source_datagrams
        {
            let oldest = source.list.head()?;
            self.give_up(oldest, DropReason::FragmentMemory);
        }
        if self.index.len() >= self.cfg.max_datagrams {
            let oldest = self.by_age.head()?;
            self.give_up(oldest, DropReason::FragmentMemory);
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(None);
                self.age_links.grow(self.slots.len());
                self.source_links.grow(self.slots.len());
                u32::try_from(self.slots.len() - 1).ok()?
            }
        };
        let pieces = Pieces::new(self.spare.pop().unwrap_or_default());
        *self.slots.get_mut(index as usize)? = Some(Datagram {
            key,
            deadline: now + self.cfg.timeout,
            header: Vec::new(),
            pieces,
            charge: OVERHEAD,
            poisoned: false,
        });
        self.index.insert(key, index);
        self.bytes += OVERHEAD;
        self.age_links.push_back(&mut self.by_age, index);
        let source =
            self.sources.entry(key.src).or_insert(Source { datagrams: 0, bytes: 0, list: List::EMPTY });
        source.datagrams += 1;
        source.bytes += OVERHEAD;
        self.source_links.push_back(&mut source.list, index);
        Some(index)
    }

    /// Gives up the oldest datagrams until the bounds hold. `false` when that hit the one at `index` of the
    /// source `src`.
    fn make_room(&mut self, index: u32, src: IpAddr) -> bool {
        loop {
            let source = self.sources.get(&src).filter(|s| s.bytes > self.cfg.max_source_bytes);
            let victim = match source {
                Some(source) => source.list.head(),
                None if self.bytes > self.cfg.max_bytes => self.by_age.head(),
                None => return true,
            };
            let Some(victim) = victim else { return true };
            self.give_up(victim, DropReason::FragmentMemory);
            if victim == index {
                return false;
            }
        }
    }

    /// Takes a datagram out of the tables.
    fn remove(&mut self, index: u32) -> Option<Datagram> {
        let datagram = self.slots.get_mut(index as usize)?.take()?;
        self.index.remove(&datagram.key);
        self.free.push(index);
        self.bytes = self.bytes.saturating_sub(datagram.charge);
        self.age_links.remove(&mut self.by_age, index);
        if let Some(source) = self.sources.get_mut(&datagram.key.src) {
            source.datagrams -= 1;
            source.bytes = source.bytes.saturating_sub(datagram.charge);
            self.source_links.remove(&mut source.list, index);
            if source.datagrams == 0 {
                self.sources.remove(&datagram.key.src);
            }
        }
        Some(datagram)
    }

    fn finish(&mut self, index: u32) -> FragmentOutcome {
        let Some(datagram) = self.remove(index) else {
            return FragmentOutcome::Drop(DropReason::FragmentMemory);
        };
        let spare = self.spare.pop().unwrap_or_default();
        let (payload, unused) = datagram.pieces.into_payload(spare);
        self.keep_buffer(unused);
        FragmentOutcome::Complete(Reassembled { header: datagram.header, payload })
    }

    /// Drops what is there of a datagram and remembers its key.
    fn poison(&mut self, index: u32) {
        let Some(datagram) = self.slots.get_mut(index as usize).and_then(Option::as_mut) else { return };
        let freed = datagram.charge.saturating_sub(OVERHEAD);
        datagram.charge = OVERHEAD;
        datagram.poisoned = true;
        datagram.header = Vec::new();
        let (src, pieces) = (datagram.key.src, core::mem::take(&mut datagram.pieces));
        self.bytes = self.bytes.saturating_sub(freed);
        if let Some(source) = self.sources.get_mut(&src) {
            source.bytes = source.bytes.saturating_sub(freed);
        }
        self.keep_buffer(pieces.into_buffer());
    }

    fn give_up(&mut self, index: u32, reason: DropReason) {
        let Some(datagram) = self.remove(index) else { return };
        if datagram.poisoned {
            return;
        }
        let quotes = reason == DropReason::FragmentTimeout && !datagram.header.is_empty();
        let first_fragment = quotes.then(|| {
            let start = datagram.pieces.first_bytes(QUOTED);
            [&datagram.header, start].concat().into_boxed_slice()
        });
        // Whoever never asks loses the oldest news, not memory.
        if self.expired.len() >= self.cfg.max_datagrams {
            self.expired.pop_front();
        }
        self.expired.push_back(Expired { key: datagram.key, reason, first_fragment });
        self.keep_buffer(datagram.pieces.into_buffer());
    }

    fn keep_buffer(&mut self, mut buffer: Vec<u8>) {
        let useful = (MIN_SPARE..=2 * MAX_DATAGRAM).contains(&buffer.capacity());
        if useful && self.spare.len() < SPARE_BUFFERS {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

/// Whether a fragment makes sense by itself.
fn acceptable(key: &FragmentKey, fragment: &Fragment<'_>) -> bool {
    let &Fragment { offset, end, header, payload } = fragment;
    let (len, more) = (payload.len(), end == FragmentEnd::More);
    let fits =
        offset.checked_add(len).and_then(|n| n.checked_add(header.len())).is_some_and(|n| n <= MAX_DATAGRAM);
    // RFC 791 3.2: all but the last fragment are multiples of 8 bytes.
    let aligned = offset.is_multiple_of(8) && (!more || len.is_multiple_of(8));
    let atomic = offset == 0 && !more;
    let tiny_first = offset == 0 && more && len < MIN_FIRST;
    // RFC 3128: "IF FO=1 and PROTOCOL=TCP then DROP PACKET".
    let tiny_tcp = offset == 8 && key.protocol == TCP;
    fits && aligned && (len > 0 || atomic) && !header.is_empty() && !tiny_first && !tiny_tcp
}
