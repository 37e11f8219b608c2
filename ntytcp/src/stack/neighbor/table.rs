//! The entries of a neighbor cache: slots, found by keyed hash, each in the list of its state.

use core::net::{IpAddr, Ipv4Addr};
use std::collections::{HashMap, VecDeque};

use super::NeighborState;
use crate::rng::Rng;
use crate::stack::keyed::KeyedHash;
use crate::stack::lists::{Links, List};
use crate::time::Instant;
use crate::wire::MacAddr;

/// What [`super::NeighborCache::poll_action`] has to say about an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owed {
    Nothing,
    Solicitation,
    Outcome,
}

/// One neighbor.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) ip: IpAddr,
    /// Meaningless while INCOMPLETE or FAILED.
    pub(super) mac: MacAddr,
    pub(super) state: NeighborState,
    /// How often the slot was used before.
    pub(super) generation: u32,
    /// When the state ends; [`Instant::FAR_FUTURE`] when time does not end it.
    pub(super) deadline: Instant,
    /// Sent in this round.
    pub(super) solicitations: u8,
    pub(super) owed: Owed,
    pub(super) queue: VecDeque<Box<[u8]>>,
    /// The slot is in [`Table::owing`], whether or not it still owes anything.
    listed: bool,
    /// The slot holds a neighbor.
    live: bool,
}

/// States an entry can be in, and so lists.
const STATES: usize = 7;

/// All entries of a cache.
#[derive(Debug)]
pub(super) struct Table {
    capacity: usize,
    slots: Vec<Entry>,
    links: Links,
    free: Vec<u32>,
    index: HashMap<IpAddr, u32, KeyedHash>,
    /// The slot that was looked up last. A host talks to few neighbors, most often to its router.
    recent: u32,
    by_state: [List; STATES],
    /// Slots that owe an action, each at most once.
    owing: VecDeque<u32>,
    /// The earliest deadline of the states in [`TIMED`].
    wake: Instant,
}

/// The states whose end is a timer's business; the others are looked at when they are used.
const TIMED: [NeighborState; 3] = [NeighborState::Incomplete, NeighborState::Delay, NeighborState::Probe];

impl Table {
    pub(super) fn new(capacity: usize, rng: &mut Rng) -> Self {
        Self {
            capacity,
            slots: Vec::new(),
            links: Links::default(),
            free: Vec::new(),
            index: HashMap::with_hasher(KeyedHash::new(rng)),
            recent: 0,
            by_state: [List::EMPTY; STATES],
            owing: VecDeque::new(),
            wake: Instant::FAR_FUTURE,
        }
    }

    /// The earliest deadline of an entry that a timer waits for; [`Instant::FAR_FUTURE`] without one.
    pub(super) fn wake(&self) -> Instant {
        self.wake
    }

    fn note_wake(&mut self) {
        let deadlines = TIMED.iter().filter_map(|&state| self.deadline_of(state));
        self.wake = deadlines.min().unwrap_or(Instant::FAR_FUTURE);
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    pub(super) fn find(&self, ip: IpAddr) -> Option<u32> {
        self.index.get(&ip).copied()
    }

    /// As [`Table::find`], without a hash when the neighbor is the same as the last time.
    #[inline]
    pub(super) fn find_again(&mut self, ip: IpAddr) -> Option<u32> {
        if self.get(self.recent).is_some_and(|entry| entry.ip == ip) {
            return Some(self.recent);
        }
        let found = self.find(ip);
        self.recent = found.unwrap_or(self.recent);
        found
    }

    #[inline]
    pub(super) fn get(&self, index: u32) -> Option<&Entry> {
        self.slots.get(index as usize).filter(|e| e.live)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Entry> {
        self.slots.get_mut(index as usize).filter(|e| e.live)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().filter(|e| e.live)
    }

    /// A new INCOMPLETE entry for `ip`, which has none; `None` when the table is full. Allocates while the
    /// table grows.
    pub(super) fn insert(&mut self, ip: IpAddr) -> Option<u32> {
        if self.is_full() {
            return None;
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Entry::vacant());
                self.links.grow(self.slots.len());
                u32::try_from(self.slots.len() - 1).ok()?
            }
        };
        let entry = self.slots.get_mut(index as usize)?;
        entry.ip = ip;
        entry.state = NeighborState::Incomplete;
        entry.deadline = Instant::FAR_FUTURE;
        entry.owed = Owed::Nothing;
        entry.live = true;
        self.links.push_back(&mut self.by_state[NeighborState::Incomplete as usize], index);
        self.index.insert(ip, index);
        Some(index)
    }

    pub(super) fn remove(&mut self, index: u32) {
        let Some(entry) = self.slots.get_mut(index as usize).filter(|e| e.live) else { return };
        entry.live = false;
        entry.generation = entry.generation.wrapping_add(1);
        self.index.remove(&entry.ip);
        self.links.remove(&mut self.by_state[entry.state as usize], index);
        self.free.push(index);
        self.note_wake();
    }

    /// Puts an entry into `state` until `deadline`, at the end of that state's list.
    pub(super) fn set_state(&mut self, index: u32, state: NeighborState, deadline: Instant) {
        let Some(entry) = self.slots.get_mut(index as usize).filter(|e| e.live) else { return };
        let before = core::mem::replace(&mut entry.state, state);
        entry.deadline = deadline;
        self.links.remove(&mut self.by_state[before as usize], index);
        self.links.push_back(&mut self.by_state[state as usize], index);
        self.note_wake();
    }

    /// The entry that has been in `state` for longest.
    pub(super) fn oldest(&self, state: NeighborState) -> Option<u32> {
        self.by_state[state as usize].head()
    }

    /// The earliest deadline of the entries in `state`.
    pub(super) fn deadline_of(&self, state: NeighborState) -> Option<Instant> {
        self.get(self.oldest(state)?).map(|e| e.deadline)
    }

    /// An entry in `state` whose deadline has come.
    pub(super) fn due(&self, state: NeighborState, now: Instant) -> Option<u32> {
        self.oldest(state).filter(|&i| self.get(i).is_some_and(|e| e.deadline <= now))
    }

    /// Notes what is to be said about an entry, in place of what was noted before.
    pub(super) fn owe(&mut self, index: u32, owed: Owed) {
        let Some(entry) = self.slots.get_mut(index as usize).filter(|e| e.live) else { return };
        entry.owed = owed;
        if owed != Owed::Nothing && !core::mem::replace(&mut entry.listed, true) {
            self.owing.push_back(index);
        }
    }

    /// The next slot that may owe something.
    pub(super) fn next_owed(&mut self) -> Option<u32> {
        let index = self.owing.pop_front()?;
        if let Some(entry) = self.slots.get_mut(index as usize) {
            entry.listed = false;
        }
        Some(index)
    }

    /// Whether each list holds the entries of its state, all of them, by deadline.
    #[cfg(test)]
    pub(super) fn lists_are_sorted(&self) -> bool {
        let mut listed = 0;
        for (state, list) in self.by_state.iter().enumerate() {
            let mut before = Instant::ZERO;
            for index in self.links.iter(list) {
                let Some(entry) = self.get(index) else { return false };
                if entry.state as usize != state || entry.deadline < before {
                    return false;
                }
                before = entry.deadline;
                listed += 1;
            }
        }
        listed == self.len()
    }
}

impl Entry {
    /// Whether [`Entry::mac`] means something.
    pub(super) fn has_mac(&self) -> bool {
        !matches!(self.state, NeighborState::Incomplete | NeighborState::Failed)
    }

    fn vacant() -> Self {
        Self {
            ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            mac: MacAddr::ZERO,
            state: NeighborState::Incomplete,
            generation: 0,
            deadline: Instant::FAR_FUTURE,
            solicitations: 0,
            owed: Owed::Nothing,
            queue: VecDeque::new(),
            listed: false,
            live: false,
        }
    }
}
