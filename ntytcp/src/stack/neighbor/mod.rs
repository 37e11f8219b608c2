//! Who answers to which address on a link: the neighbor cache of one interface, for ARP and for neighbor
//! discovery.
//!
//! The states are those of RFC 4861 7.3.2, with two more: FAILED, a short memory of neighbors that did not
//! answer, so that senders get their error at once and not another burst of requests; and PERMANENT, for
//! static entries.
//!
//! ```text
//!   lookup                 reply                    30 s                 lookup
//!   ------> INCOMPLETE ----------> REACHABLE ----------------> STALE ------------> DELAY
//!              |  ^                   ^  ^ upper layer confirms  ^                   | 5 s
//!     3 x 1 s  |  | lookup,           |  +-----------------------|-------------------+
//!              v  | after 3 s         |                          |                   v
//!           FAILED (lookup: error)    +--------- reply ----------|---------------- PROBE --> forgotten
//!                                                                +-- heard another address      3 x 1 s
//! ```
//!
//! The cache does no I/O. [`NeighborCache::lookup`] asks for an address, [`NeighborCache::learn`] is told
//! what was heard, [`NeighborCache::on_timeout`] moves time on, and [`NeighborCache::poll_action`] says what
//! is to be sent and whose waiting packets are to be taken with [`NeighborCache::take_packet`].
//!
//! **Cost.** A [`NeighborRef`] kept by a connection makes a lookup one bounds check and two comparisons;
//! otherwise it is one keyed hash. Nothing on that path allocates. Every entry is in exactly one list, that
//! of its state, and each list is sorted by deadline because all entries of a state wait equally long: timers
//! and eviction are O(1) too.
//!
//! **Floods.** The table has a fixed capacity. What strangers send can create an entry only by asking for one
//! of our addresses, is written down as STALE, and can displace nothing but STALE and FAILED entries. Our own
//! lookups may displace more, in the order STALE, FAILED, INCOMPLETE, PROBE, DELAY, REACHABLE, oldest first;
//! so a scan through a whole network, which leaves INCOMPLETE entries, displaces itself before any neighbor
//! in use. PERMANENT entries are never displaced. Packets that wait are bounded per neighbor and in total.

mod table;
#[cfg(test)]
mod tests;

use core::net::IpAddr;
use std::collections::VecDeque;

use table::{Entry, Owed, Table};

use crate::rng::Rng;
use crate::time::{self, Duration, Instant};
use crate::wire::MacAddr;

/// Bounds and times of a [`NeighborCache`]. The defaults are the protocol constants of RFC 4861 10, the
/// bounds those of a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NeighborConfig {
    /// Entries, static ones included. Default 1,024, at least 1, at most 1,048,576.
    pub capacity: usize,
    /// Packets that wait for one neighbor. Default 16; 0 keeps none.
    pub queue_packets: usize,
    /// Bytes of all packets that wait for any neighbor. Default 1 MiB.
    pub queue_bytes: usize,
    /// How long an answer is trusted (REACHABLE_TIME). Default 30 s.
    pub reachable_time: Duration,
    /// How long a STALE entry in use waits for a word from the upper layer before it is probed
    /// (DELAY_FIRST_PROBE_TIME). Default 5 s.
    pub delay_time: Duration,
    /// Between solicitations (RETRANS_TIMER). Default 1 s, at least 1 ms.
    pub retrans_time: Duration,
    /// Solicitations before giving up, broadcast or unicast (MAX_MULTICAST_SOLICIT, MAX_UNICAST_SOLICIT).
    /// Default 3, at least 1.
    pub solicitations: u8,
    /// How long a neighbor that did not answer is remembered as such. Default 3 s.
    pub failed_time: Duration,
    /// How long a confirmed answer is protected from a contradicting one that nobody asked for. Default 1 s,
    /// as on Linux.
    pub lock_time: Duration,
}

impl Default for NeighborConfig {
    fn default() -> Self {
        Self {
            capacity: 1_024,
            queue_packets: 16,
            queue_bytes: 1 << 20,
            reachable_time: Duration::from_secs(30),
            delay_time: Duration::from_secs(5),
            retrans_time: Duration::from_secs(1),
            solicitations: 3,
            failed_time: Duration::from_secs(3),
            lock_time: Duration::from_secs(1),
        }
    }
}

/// State of an entry (RFC 4861 7.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum NeighborState {
    /// Being resolved; there is no address yet.
    Incomplete = 0,
    /// Confirmed within the last `reachable_time`.
    Reachable = 1,
    /// Usable, but confirmed long ago or only heard of; verified when it is used.
    Stale = 2,
    /// Used while STALE; the upper layer may still confirm it.
    Delay = 3,
    /// Being verified with unicast solicitations.
    Probe = 4,
    /// Did not answer.
    Failed = 5,
    /// Static: set by hand, never changes, never ages.
    Permanent = 6,
}

/// What a neighbor's link-layer address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// This one; send.
    Ready(MacAddr),
    /// Being asked for: [`NeighborCache::enqueue`] the packet, or try again after
    /// [`NeighborAction::Resolved`].
    Pending,
    /// The neighbor did not answer a moment ago: fail the send (EHOSTUNREACH).
    Failed,
}

/// Names an entry without its address: slot and generation. It stays valid while the entry exists and names
/// nothing afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NeighborRef {
    index: u32,
    generation: u32,
}

/// How an address was learned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// A reply to us. It counts as asked for while a solicitation of ours is out, and like
    /// [`Evidence::Gratuitous`] at any other time.
    Reply,
    /// The sender of a request for one of our addresses.
    Request,
    /// Anything else that was overheard: announcements, requests for others.
    Gratuitous,
}

/// What [`NeighborCache::learn`] made of a sighting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learned {
    /// Nothing: not a host's address, a static entry, no entry to update, a full table, or too soon after a
    /// confirmed answer.
    Ignored,
    /// It agrees with what is known.
    Same,
    /// The neighbor has an address now and had none before.
    New,
    /// The neighbor had this other address before.
    Changed(MacAddr),
}

/// What the owner of a cache is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NeighborAction {
    /// Ask for the address of `target`: everybody, or only the station that had it last.
    Solicit {
        /// The address in question.
        target: IpAddr,
        /// The station to ask; everybody when `None`.
        unicast: Option<MacAddr>,
    },
    /// `ip` has an address: send the packets that waited for it ([`NeighborCache::take_packet`]).
    Resolved {
        /// The neighbor.
        ip: IpAddr,
        /// Its address.
        mac: MacAddr,
    },
    /// `ip` did not answer, or had to give way to others while it was being asked for: fail the `dropped` packets that waited for it ([`NeighborCache::take_packet`]).
    Failed {
        /// The neighbor.
        ip: IpAddr,
        /// Packets that wait in vain.
        dropped: usize,
    },
}

/// Why a static entry cannot be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StaticNeighborError {
    /// Not the address of one station.
    #[error("{0} is not the address of one station: a static neighbor needs a unicast MAC address")]
    NotUnicast(MacAddr),
    /// The network address is not a host's.
    #[error("{0} is not the address of a host: give a unicast address on the link")]
    NotAHost(IpAddr),
    /// Static entries fill the table.
    #[error("the neighbor table is full of static entries: raise its capacity")]
    Full,
}

/// One line of the table, for showing it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NeighborInfo {
    /// The neighbor.
    pub ip: IpAddr,
    /// Its address, when one is known.
    pub mac: Option<MacAddr>,
    /// State of the entry.
    pub state: NeighborState,
    /// Packets that wait for it.
    pub waiting: usize,
}

/// The neighbors of one interface. See the module documentation.
#[derive(Debug)]
pub struct NeighborCache {
    cfg: NeighborConfig,
    /// Nanoseconds before its end from which on a confirmation is worth being renewed.
    renew_before: u64,
    table: Table,
    /// Bytes of all packets that wait.
    waiting_bytes: usize,
    /// Packets that the cache dropped by itself since it was last asked.
    displaced: usize,
    /// Who was removed while being asked for: somebody may wait for the outcome.
    given_up: VecDeque<IpAddr>,
}

/// States that give way to what we look up, in this order.
const DISPLACED_BY_LOOKUP: &[NeighborState] = &[
    NeighborState::Stale,
    NeighborState::Failed,
    NeighborState::Incomplete,
    NeighborState::Probe,
    NeighborState::Delay,
    NeighborState::Reachable,
];

/// States that give way to what strangers send.
const DISPLACED_BY_STRANGERS: &[NeighborState] = &[NeighborState::Stale, NeighborState::Failed];

impl NeighborCache {
    /// An empty cache; values of `cfg` outside their range are brought into it.
    pub fn new(cfg: NeighborConfig, rng: &mut Rng) -> Self {
        let cfg = NeighborConfig {
            capacity: cfg.capacity.clamp(1, 1 << 20),
            retrans_time: cfg.retrans_time.max(Duration::from_millis(1)),
            solicitations: cfg.solicitations.max(1),
            ..cfg
        };
        Self {
            cfg,
            renew_before: time::nanos(cfg.reachable_time / 2),
            table: Table::new(cfg.capacity, rng),
            waiting_bytes: 0,
            displaced: 0,
            given_up: VecDeque::new(),
        }
    }

    /// The address of `ip`, which is a neighbor on this link and neither multicast nor broadcast. An unknown
    /// neighbor is solicited; a STALE one is used and verified meanwhile.
    pub fn lookup(&mut self, now: Instant, ip: IpAddr) -> Lookup {
        self.lookup_named(now, ip).0
    }

    /// A name for the entry of `ip`, for [`NeighborCache::get`].
    pub fn slot(&self, ip: IpAddr) -> Option<NeighborRef> {
        let index = self.table.find(ip)?;
        Some(NeighborRef { index, generation: self.table.get(index)?.generation })
    }

    /// As [`NeighborCache::lookup`], with a name for the entry that was found, for [`NeighborCache::get`].
    pub fn lookup_named(&mut self, now: Instant, ip: IpAddr) -> (Lookup, Option<NeighborRef>) {
        let Some(index) = self.table.find_again(ip) else { return (self.resolve(now, ip), None) };
        let lookup = self.use_entry(now, index);
        (lookup, self.table.get(index).map(|entry| NeighborRef { index, generation: entry.generation }))
    }

    /// As [`NeighborCache::lookup`], without a hash. `None` when the entry is gone: look up the address
    /// again.
    #[inline]
    pub fn get(&mut self, now: Instant, neighbor: NeighborRef) -> Option<Lookup> {
        let entry = self.entry(neighbor)?;
        if entry.state == NeighborState::Reachable && now < entry.deadline {
            return Some(Lookup::Ready(entry.mac));
        }
        Some(self.use_entry(now, neighbor.index))
    }

    /// The address of a neighbor that is REACHABLE for certain, as every one in use is, and whether [`NeighborCache::confirm`] would
    /// do something for it.
    #[inline(always)]
    pub fn reachable(&self, now: Instant, neighbor: NeighborRef) -> Option<(MacAddr, bool)> {
        let entry = self.entry(neighbor)?;
        let certain = entry.state == NeighborState::Reachable && now < entry.deadline;
        certain.then(|| (entry.mac, now.after_nanos(self.renew_before) >= entry.deadline))
    }

    /// The upper layer made progress with the help of this neighbor (RFC 4861 7.3.1), which confirms it as a
    /// reply would. Cheap enough for every ACK: it does something only in the second half of a confirmation's
    /// life.
    #[inline]
    pub fn confirm(&mut self, now: Instant, neighbor: NeighborRef) {
        let Some(entry) = self.entry(neighbor) else { return };
        if entry.state == NeighborState::Reachable && now.after_nanos(self.renew_before) < entry.deadline {
            return;
        }
        self.renew(now, neighbor);
    }

    /// A neighbor was confirmed that is no longer fresh.
    #[cold]
    fn renew(&mut self, now: Instant, neighbor: NeighborRef) {
        let Some(entry) = self.entry(neighbor) else { return };
        match entry.state {
            NeighborState::Reachable | NeighborState::Stale | NeighborState::Delay | NeighborState::Probe => {
                self.table.set_state(neighbor.index, NeighborState::Reachable, now + self.cfg.reachable_time);
            }
            NeighborState::Incomplete | NeighborState::Failed | NeighborState::Permanent => {}
        }
    }

    /// Keeps an IP packet, without Ethernet header, until `ip` is resolved. When too many wait the oldest of
    /// the same neighbor give way, see [`NeighborCache::take_displaced`].
    ///
    /// # Errors
    /// The packet, when `ip` is not being resolved, or the packets of other neighbors fill the memory.
    pub fn enqueue(&mut self, ip: IpAddr, packet: Box<[u8]>) -> Result<(), Box<[u8]>> {
        let waiting = self.table.find(ip).and_then(|i| self.table.get_mut(i));
        let Some(entry) = waiting.filter(|e| e.state == NeighborState::Incomplete) else {
            return Err(packet);
        };
        let own: usize = entry.queue.iter().map(|p| p.len()).sum();
        let others = self.waiting_bytes.saturating_sub(own);
        if self.cfg.queue_packets == 0 || others.saturating_add(packet.len()) > self.cfg.queue_bytes {
            return Err(packet);
        }
        while entry.queue.len() >= self.cfg.queue_packets
            || self.waiting_bytes.saturating_add(packet.len()) > self.cfg.queue_bytes
        {
            let Some(old) = entry.queue.pop_front() else { return Err(packet) };
            self.waiting_bytes = self.waiting_bytes.saturating_sub(old.len());
            self.displaced += 1;
        }
        self.waiting_bytes += packet.len();
        entry.queue.push_back(packet);
        Ok(())
    }

    /// The oldest packet that waits for a neighbor that was resolved or has failed; `None` when there is
    /// none, or the neighbor is still being resolved.
    pub fn take_packet(&mut self, ip: IpAddr) -> Option<Box<[u8]>> {
        let index = self.table.find(ip)?;
        let entry = self.table.get_mut(index).filter(|e| e.state != NeighborState::Incomplete)?;
        let packet = entry.queue.pop_front()?;
        if entry.queue.is_empty() {
            // Packets wait rarely: give the memory back.
            entry.queue = Default::default();
        }
        self.waiting_bytes = self.waiting_bytes.saturating_sub(packet.len());
        Some(packet)
    }

    /// Packets that the cache dropped of its own accord since the last call, because too many waited or their
    /// neighbor was displaced. For the drop counter.
    pub fn take_displaced(&mut self) -> usize {
        core::mem::take(&mut self.displaced)
    }

    /// `ip` was seen to have the address `mac`.
    pub fn learn(&mut self, now: Instant, ip: IpAddr, mac: MacAddr, evidence: Evidence) -> Learned {
        if !mac.is_unicast() || !is_host(ip) {
            return Learned::Ignored;
        }
        let Some(index) = self.table.find(ip) else {
            return self.learn_stranger(now, ip, mac, evidence);
        };
        let Some(entry) = self.table.get(index) else { return Learned::Ignored };
        let known = entry.mac;
        let asked = evidence == Evidence::Reply;
        match entry.state {
            NeighborState::Permanent => Learned::Ignored,
            NeighborState::Incomplete => {
                self.resolved(now, index, mac, asked);
                Learned::New
            }
            // An answer that comes late is an answer.
            NeighborState::Failed => {
                self.resolved(now, index, mac, asked);
                Learned::New
            }
            NeighborState::Probe if asked => {
                self.resolved(now, index, mac, true);
                if known == mac { Learned::Same } else { Learned::Changed(known) }
            }
            _ if known == mac => Learned::Same,
            NeighborState::Reachable
                if now + self.cfg.reachable_time < entry.deadline + self.cfg.lock_time =>
            {
                Learned::Ignored
            }
            // RFC 4861 7.2.3, 7.2.5: a different address is taken over, and trusted only once it was
            // verified.
            NeighborState::Reachable | NeighborState::Stale | NeighborState::Delay | NeighborState::Probe => {
                if let Some(entry) = self.table.get_mut(index) {
                    entry.mac = mac;
                }
                self.table.set_state(index, NeighborState::Stale, Instant::FAR_FUTURE);
                Learned::Changed(known)
            }
        }
    }

    /// Sets the address of `ip` by hand. Packets that waited for it are released.
    ///
    /// # Errors
    /// [`StaticNeighborError`], with the table unchanged.
    pub fn add_static(&mut self, ip: IpAddr, mac: MacAddr) -> Result<(), StaticNeighborError> {
        if !mac.is_unicast() {
            return Err(StaticNeighborError::NotUnicast(mac));
        }
        if !is_host(ip) {
            return Err(StaticNeighborError::NotAHost(ip));
        }
        let index = match self.table.find(ip) {
            Some(index) => index,
            None => self.create(ip, DISPLACED_BY_LOOKUP).ok_or(StaticNeighborError::Full)?,
        };
        if let Some(entry) = self.table.get_mut(index) {
            entry.mac = mac;
            let news = !entry.has_mac() || !entry.queue.is_empty();
            self.table.set_state(index, NeighborState::Permanent, Instant::FAR_FUTURE);
            self.table.owe(index, if news { Owed::Outcome } else { Owed::Nothing });
        }
        Ok(())
    }

    /// Forgets `ip`, static or not, and drops what waits for it; `false` when it is unknown. If it was being asked for,
    /// [`NeighborAction::Failed`] follows.
    pub fn remove(&mut self, ip: IpAddr) -> bool {
        let found = self.table.find(ip);
        if let Some(index) = found {
            self.discard(index);
        }
        found.is_some()
    }

    /// When [`NeighborCache::on_timeout`] has something to do next. Entries that are merely known need no
    /// timer.
    pub fn next_deadline(&self) -> Option<Instant> {
        Some(self.table.wake()).filter(|&at| at != Instant::FAR_FUTURE)
    }

    /// Sends what is to be sent again, and gives up what was asked often enough.
    pub fn on_timeout(&mut self, now: Instant) {
        while let Some(index) = self.table.due(NeighborState::Incomplete, now) {
            if !self.solicit_again(now, index) {
                self.table.set_state(index, NeighborState::Failed, now + self.cfg.failed_time);
                self.table.owe(index, Owed::Outcome);
            }
        }
        while let Some(index) = self.table.due(NeighborState::Probe, now) {
            if !self.solicit_again(now, index) {
                // RFC 4861 7.3.3: the entry is deleted, so that the next packet asks everybody: the address
                // may have moved to another station.
                self.discard(index);
            }
        }
        while let Some(index) = self.table.due(NeighborState::Delay, now) {
            self.solicit(now, index, NeighborState::Probe);
        }
    }

    /// What is to be done next; call it until it has nothing more. Requests that were not taken yet are
    /// merged, so that there is at most one action per entry.
    pub fn poll_action(&mut self) -> Option<NeighborAction> {
        if let Some(ip) = self.given_up.pop_front() {
            return Some(NeighborAction::Failed { ip, dropped: 0 });
        }
        loop {
            let index = self.table.next_owed()?;
            let Some(entry) = self.table.get_mut(index) else { continue };
            let Entry { ip, mac, state, .. } = *entry;
            match (core::mem::replace(&mut entry.owed, Owed::Nothing), state) {
                (Owed::Nothing, _) => {}
                (Owed::Solicitation, NeighborState::Incomplete) => {
                    return Some(NeighborAction::Solicit { target: ip, unicast: None });
                }
                (Owed::Solicitation, NeighborState::Probe) => {
                    return Some(NeighborAction::Solicit { target: ip, unicast: Some(mac) });
                }
                // Answered before the question was sent.
                (Owed::Solicitation, _) | (Owed::Outcome, NeighborState::Incomplete) => {}
                (Owed::Outcome, NeighborState::Failed) => {
                    return Some(NeighborAction::Failed { ip, dropped: entry.queue.len() });
                }
                (Owed::Outcome, _) => return Some(NeighborAction::Resolved { ip, mac }),
            }
        }
    }

    /// Every entry, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = NeighborInfo> {
        self.table.iter().map(|e| NeighborInfo {
            ip: e.ip,
            mac: e.has_mac().then_some(e.mac),
            state: e.state,
            waiting: e.queue.len(),
        })
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether nothing is known about anybody.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn entry(&self, neighbor: NeighborRef) -> Option<&Entry> {
        self.table.get(neighbor.index).filter(|e| e.generation == neighbor.generation)
    }

    /// A packet is about to be sent to an entry.
    fn use_entry(&mut self, now: Instant, index: u32) -> Lookup {
        let Some(entry) = self.table.get(index) else { return Lookup::Failed };
        let mac = entry.mac;
        match entry.state {
            NeighborState::Reachable if now < entry.deadline => Lookup::Ready(mac),
            NeighborState::Delay | NeighborState::Probe | NeighborState::Permanent => Lookup::Ready(mac),
            NeighborState::Incomplete => Lookup::Pending,
            // RFC 4861 7.3.3: "The first time a node sends a packet to a neighbor whose entry is STALE, the
            // sender changes the state to DELAY". An expired REACHABLE entry is a STALE one that no timer was
            // spent on.
            NeighborState::Reachable | NeighborState::Stale => {
                self.table.set_state(index, NeighborState::Delay, now + self.cfg.delay_time);
                Lookup::Ready(mac)
            }
            NeighborState::Failed if now < entry.deadline => Lookup::Failed,
            NeighborState::Failed => {
                self.displaced += self.drop_queue(index);
                self.solicit(now, index, NeighborState::Incomplete);
                Lookup::Pending
            }
        }
    }

    /// Begins to resolve a neighbor that is not in the table.
    fn resolve(&mut self, now: Instant, ip: IpAddr) -> Lookup {
        if !is_host(ip) {
            return Lookup::Failed;
        }
        self.age(now);
        match self.create(ip, DISPLACED_BY_LOOKUP) {
            Some(index) => {
                self.solicit(now, index, NeighborState::Incomplete);
                Lookup::Pending
            }
            None => Lookup::Failed,
        }
    }

    /// Sends the first solicitation of a new round.
    fn solicit(&mut self, now: Instant, index: u32, state: NeighborState) {
        self.table.set_state(index, state, now + self.cfg.retrans_time);
        if let Some(entry) = self.table.get_mut(index) {
            entry.solicitations = 1;
        }
        self.table.owe(index, Owed::Solicitation);
    }

    /// Sends one more solicitation; `false` when it was the last already.
    fn solicit_again(&mut self, now: Instant, index: u32) -> bool {
        let Some(entry) = self.table.get_mut(index) else { return false };
        if entry.solicitations >= self.cfg.solicitations {
            return false;
        }
        entry.solicitations += 1;
        let state = entry.state;
        self.table.set_state(index, state, now + self.cfg.retrans_time);
        self.table.owe(index, Owed::Solicitation);
        true
    }

    /// An entry that was being solicited has an address.
    fn resolved(&mut self, now: Instant, index: u32, mac: MacAddr, asked: bool) {
        let Some(entry) = self.table.get_mut(index) else { return };
        entry.mac = mac;
        // Packets that waited are sent at once, which is a use.
        let used = !entry.queue.is_empty();
        let (state, deadline) = match (asked, used) {
            (true, _) => (NeighborState::Reachable, now + self.cfg.reachable_time),
            (false, true) => (NeighborState::Delay, now + self.cfg.delay_time),
            (false, false) => (NeighborState::Stale, Instant::FAR_FUTURE),
        };
        let announce = entry.state != NeighborState::Probe;
        self.table.set_state(index, state, deadline);
        self.table.owe(index, if announce { Owed::Outcome } else { Owed::Nothing });
    }

    /// A neighbor that is not in the table was seen. RFC 826: an entry is made only when we are the target.
    fn learn_stranger(&mut self, now: Instant, ip: IpAddr, mac: MacAddr, evidence: Evidence) -> Learned {
        if evidence != Evidence::Request {
            return Learned::Ignored;
        }
        self.age(now);
        let Some(index) = self.create(ip, DISPLACED_BY_STRANGERS) else { return Learned::Ignored };
        if let Some(entry) = self.table.get_mut(index) {
            entry.mac = mac;
        }
        self.table.set_state(index, NeighborState::Stale, Instant::FAR_FUTURE);
        Learned::New
    }

    /// Turns the longest expired REACHABLE entry STALE, if the table is full and an entry is about to be
    /// displaced.
    fn age(&mut self, now: Instant) {
        if self.table.is_full()
            && let Some(index) = self.table.due(NeighborState::Reachable, now)
        {
            self.table.set_state(index, NeighborState::Stale, Instant::FAR_FUTURE);
        }
    }

    /// A new entry in a state to be set, at the cost of one in the first of the `displaced` states that has
    /// any.
    fn create(&mut self, ip: IpAddr, displaced: &[NeighborState]) -> Option<u32> {
        if self.table.is_full() {
            let victim = displaced.iter().find_map(|&state| self.table.oldest(state))?;
            self.discard(victim);
        }
        self.table.insert(ip)
    }

    /// Removes an entry and what waits for it.
    fn discard(&mut self, index: u32) {
        if let Some(entry) = self.table.get(index).filter(|entry| entry.state == NeighborState::Incomplete) {
            // An owner that never polls cares for none of them.
            if self.given_up.len() >= self.cfg.capacity {
                self.given_up.pop_front();
            }
            self.given_up.push_back(entry.ip);
        }
        self.displaced += self.drop_queue(index);
        self.table.remove(index);
    }

    /// Drops what waits for an entry; how many packets.
    fn drop_queue(&mut self, index: u32) -> usize {
        let Some(entry) = self.table.get_mut(index) else { return 0 };
        let queue = core::mem::take(&mut entry.queue);
        let bytes: usize = queue.iter().map(|p| p.len()).sum();
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
        queue.len()
    }
}

/// Whether `ip` can be the address of one host on a link.
fn is_host(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(a) if a.is_broadcast());
    !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || broadcast)
}
