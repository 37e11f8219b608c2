//! A hierarchical timing wheel: one deadline per key, O(1) to arm, move and cancel.
//!
//! Keys are indices of a slab (small, dense). Time is cut into ticks of 8.192 µs. A wheel has nine levels of 64
//! slots; a slot of level `n` is 64ⁿ ticks wide, so that the nine levels cover every [`Instant`] there is and nothing
//! needs to be clamped. An entry lies at the level of the highest group of six bits in which its tick differs from the
//! current one, and falls to lower levels as time enters its slot (at most eight times, usually never: most timers
//! are cancelled or moved first).
//!
//! ```text
//!   tick     ... | level 2 | level 1 | level 0 |      current tick  ... 3 | 17 | 40
//!                  6 bits    6 bits    6 bits         an entry at   ... 3 | 21 |  5   lies in level 1, slot 21
//! ```
//!
//! Slots are circular lists threaded through one `Vec` with 16 bytes per key. A bitmap per level finds the next occupied slot
//! in one instruction. Nothing is allocated except when a key larger than all before appears.
//!
//! One slot can hold very many entries (a million keepalives armed in the same minute), and moving them all down at
//! once would hold up the packets of a whole shard. So a slot is emptied in portions of at most 256 entries per
//! [`Wheel::pop`], and [`Wheel::next`] asks to be called back at once until it is done.

use crate::time::Instant;

/// 2 to this power nanoseconds are one tick.
const TICK_SHIFT: u32 = 13;
const LEVELS: usize = 9;
const SLOTS: usize = 64;
const LISTS: usize = LEVELS * SLOTS;
/// No entry.
const NONE: u32 = u32::MAX;
/// Bits of [`Entry::place`] that name the list.
const LIST_BITS: u32 = 10;
/// The list of an entry that is not armed.
const NO_LIST: usize = (1 << LIST_BITS) - 1;
/// How many entries one call of [`Wheel::pop`] moves to lower levels at most.
const PORTION: usize = 256;

/// What a key is armed for, and its neighbours in the circular list of its slot.
#[derive(Clone, Copy)]
struct Entry {
    /// The tick (51 bits and a carry) above the list.
    place: u64,
    prev: u32,
    next: u32,
}

impl Entry {
    const UNARMED: Self = Self { place: NO_LIST as u64, prev: NONE, next: NONE };

    fn list(&self) -> usize {
        (self.place as usize) & NO_LIST
    }

    fn tick(&self) -> u64 {
        self.place >> LIST_BITS
    }
}

/// Timers of one shard. See the module.
pub struct Wheel {
    /// The tick up to which slots were emptied. What is due now lies in its slot of level 0.
    current: u64,
    /// The slot above level 0 that time has entered and that is not empty yet. Its entries move before time does.
    falling: Option<usize>,
    /// Which slots of each level hold entries.
    occupied: [u64; LEVELS],
    /// What [`Wheel::next`] answers: it is asked far more often than it changes.
    next: Option<Instant>,
    /// The first entry of each slot.
    heads: [u32; LISTS],
    /// By key.
    entries: Vec<Entry>,
    armed: usize,
}

impl Wheel {
    /// A wheel with nothing armed. `now` is the earliest time that it will be asked about.
    pub fn new(now: Instant) -> Self {
        Self {
            current: now.as_nanos() >> TICK_SHIFT,
            falling: None,
            occupied: [0; LEVELS],
            next: None,
            heads: [NONE; LISTS],
            entries: Vec::new(),
            armed: 0,
        }
    }

    /// How many keys are armed.
    pub fn len(&self) -> usize {
        self.armed
    }

    /// Whether no key is armed.
    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// Arms `key` for `at`, instead of what it was armed for before. `at` is rounded up to a whole tick, so that the
    /// key is never due early; what is past already is due at once, after what else is due. [`Instant::FAR_FUTURE`] is never due.
    ///
    /// Memory grows to 16 bytes times the largest key ever armed.
    pub fn arm(&mut self, key: u32, at: Instant) {
        let tick = tick_at_or_after(at).max(self.current);
        let list = self.list_for(tick);
        let index = key as usize;
        if index >= self.entries.len() {
            self.entries.resize(index + 1, Entry::UNARMED);
        }
        let old = self.entries[index].list();
        if old == list {
            // Far timers are mostly pushed back within their slot.
            self.entries[index].place = place(tick, list);
            return;
        }
        if old == NO_LIST {
            self.armed += 1;
        } else {
            self.unlink(key);
        }
        self.link(key, tick, list);
        self.note_next();
    }

    /// Disarms `key`. Whether it was armed.
    pub fn cancel(&mut self, key: u32) -> bool {
        let was_armed = self.entry(key).is_some();
        if was_armed {
            self.unlink(key);
            self.armed -= 1;
            self.note_next();
        }
        was_armed
    }

    /// When `key` is due: what it was armed for, rounded up to a whole tick; for what was past when armed, the tick it was
    /// armed in.
    pub fn deadline(&self, key: u32) -> Option<Instant> {
        self.entry(key).map(|e| start_of(e.tick()))
    }

    /// When to call [`Wheel::pop`] again: never later than the earliest [`Wheel::deadline`], and exactly that when it
    /// is less than 64 ticks (half a millisecond) away within its level; else possibly earlier, because entries have
    /// to be moved to a lower level then. `None` when nothing is armed.
    #[inline]
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    fn note_next(&mut self) {
        let tick =
            if self.falling.is_some() { Some(self.current) } else { self.next_slot().map(|(tick, _)| tick) };
        self.next = tick.map(start_of);
    }

    /// Takes out a key that is due at `now`, in the order of their ticks and, within a tick that was reached step by step,
    /// of arming. `None` when none is, or when more entries must be moved first than one call may: [`Wheel::next`] tells.
    pub fn pop(&mut self, now: Instant) -> Option<u32> {
        if self.next.is_none_or(|at| at > now) {
            // No occupied slot lies between, so every entry stays where it belongs.
            self.current = self.current.max(now.as_nanos() >> TICK_SHIFT);
            return None;
        }
        let key = self.pop_due(now);
        self.note_next();
        key
    }

    fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let target = now.as_nanos() >> TICK_SHIFT;
        let mut portion = PORTION;
        loop {
            if let Some(list) = self.falling {
                portion = self.fall(list, portion)?;
                self.falling = None;
            }
            match self.next_slot() {
                Some((tick, list)) if tick <= target => {
                    let key = self.heads[list];
                    let entry = self.entries[key as usize];
                    // One that is alone in the first slot is the first of all, and need not fall if it is due.
                    let alone = entry.next == key && entry.tick() <= target;
                    self.current = if alone { entry.tick() } else { tick };
                    if alone || list < SLOTS {
                        self.unlink(key);
                        self.armed -= 1;
                        return Some(key);
                    }
                    self.falling = Some(list);
                }
                _ => {
                    // As above.
                    self.current = self.current.max(target);
                    return None;
                }
            }
        }
    }

    /// Moves at most `portion` entries from a slot that time has entered to where they belong now. What is left of the
    /// portion, or `None` if the slot is not empty yet.
    fn fall(&mut self, list: usize, portion: usize) -> Option<usize> {
        let mut left = portion;
        while self.heads[list] != NONE {
            left = left.checked_sub(1)?;
            let key = self.heads[list];
            let tick = self.entries[key as usize].tick();
            self.unlink(key);
            self.link(key, tick, self.list_for(tick));
        }
        Some(left)
    }

    fn entry(&self, key: u32) -> Option<&Entry> {
        self.entries.get(key as usize).filter(|e| e.list() != NO_LIST)
    }

    /// Where an entry for `tick`, which is not before the current one, belongs now.
    fn list_for(&self, tick: u64) -> usize {
        let differing = (tick ^ self.current) | 1;
        let level = differing.ilog2() as usize / 6;
        level * SLOTS + (tick >> (6 * level)) as usize % SLOTS
    }

    /// The first occupied slot: the tick at which time enters it, and its list.
    fn next_slot(&self) -> Option<(u64, usize)> {
        // Every slot of a level comes before every slot of the next, and none lies behind the current tick.
        let level = self.occupied.iter().position(|&bits| bits != 0)?;
        let slot = self.occupied[level].trailing_zeros() as usize;
        let above = 6 * (level as u32 + 1);
        let tick = (self.current >> above << above) | (slot as u64) << (6 * level);
        Some((tick, level * SLOTS + slot))
    }

    fn link(&mut self, key: u32, tick: u64, list: usize) {
        let first = self.heads[list];
        let (prev, next) = if first == NONE {
            self.heads[list] = key;
            self.occupied[list / SLOTS] |= 1 << (list % SLOTS);
            (key, key)
        } else {
            let last = core::mem::replace(&mut self.entries[first as usize].prev, key);
            self.entries[last as usize].next = key;
            (last, first)
        };
        self.entries[key as usize] = Entry { place: place(tick, list), prev, next };
    }

    /// Takes an armed key out of its slot.
    fn unlink(&mut self, key: u32) {
        let entry = self.entries[key as usize];
        let (Entry { prev, next, .. }, list) = (entry, entry.list());
        if next == key {
            self.heads[list] = NONE;
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        } else {
            self.entries[prev as usize].next = next;
            self.entries[next as usize].prev = prev;
            if self.heads[list] == key {
                self.heads[list] = next;
            }
        }
        self.entries[key as usize].place = place(entry.tick(), NO_LIST);
    }
}

fn place(tick: u64, list: usize) -> u64 {
    tick << LIST_BITS | list as u64
}

/// The first tick that does not begin before `at`.
fn tick_at_or_after(at: Instant) -> u64 {
    at.as_nanos().div_ceil(1 << TICK_SHIFT)
}

/// When a tick begins; the one after the last instant there is begins at [`Instant::FAR_FUTURE`].
fn start_of(tick: u64) -> Instant {
    Instant::from_nanos(tick.saturating_mul(1 << TICK_SHIFT))
}

impl core::fmt::Debug for Wheel {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Wheel")
            .field("armed", &self.armed)
            .field("current", &start_of(self.current))
            .field("next", &self.next())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_key_is_due_at_its_tick_and_not_before() {
        let mut wheel = Wheel::new(Instant::ZERO);
        wheel.arm(3, Instant::from_millis(200));
        let due = wheel.deadline(3).unwrap();
        assert!(due >= Instant::from_millis(200) && due.as_nanos() - 200_000_000 < 1 << TICK_SHIFT);
        assert_eq!(wheel.pop(Instant::from_nanos(due.as_nanos() - 1)), None);
        assert_eq!(wheel.pop(due), Some(3));
        assert_eq!((wheel.pop(due), wheel.next(), wheel.len()), (None, None, 0));
    }

    #[test]
    fn moving_a_key_forgets_its_old_deadline_and_cancel_forgets_both() {
        let mut wheel = Wheel::new(Instant::ZERO);
        wheel.arm(0, Instant::from_millis(1));
        wheel.arm(1, Instant::from_millis(1));
        wheel.arm(0, Instant::from_millis(500));
        assert_eq!(wheel.pop(Instant::from_millis(400)), Some(1));
        assert_eq!(wheel.pop(Instant::from_millis(400)), None);
        assert!(wheel.cancel(0) && !wheel.cancel(0) && !wheel.cancel(77));
        assert_eq!((wheel.pop(Instant::from_millis(900)), wheel.deadline(0)), (None, None));
    }

    #[test]
    fn what_is_past_is_due_at_once_and_the_far_future_never() {
        let mut wheel = Wheel::new(Instant::from_millis(10));
        wheel.arm(1, Instant::FAR_FUTURE);
        wheel.arm(2, Instant::from_nanos(u64::MAX - 20_000));
        wheel.arm(3, Instant::ZERO);
        assert!(wheel.next().unwrap() <= Instant::from_millis(10));
        assert_eq!(wheel.pop(Instant::from_millis(10)), Some(3));
        assert_eq!(wheel.pop(Instant::from_millis(10)), None);
        assert_eq!(wheel.pop(Instant::from_nanos(u64::MAX - 20_000)), None);
        assert_eq!(wheel.pop(Instant::from_nanos(u64::MAX - 10_000)), Some(2));
        assert_eq!((wheel.pop(Instant::FAR_FUTURE), wheel.deadline(1)), (None, Some(Instant::FAR_FUTURE)));
    }

    #[test]
    fn a_crowded_slot_is_emptied_in_portions_and_asks_to_be_called_back() {
        let mut wheel = Wheel::new(Instant::ZERO);
        let count = 10 * PORTION as u32;
        for key in 0..count {
            wheel.arm(key, Instant::from_millis(7_200_000) + Duration::from_micros(u64::from(count - key)));
        }
        let late = Instant::from_millis(7_300_000);
        let (mut popped, mut calls) = (Vec::new(), 0);
        while let Some(next) = wheel.next() {
            assert!(next <= late);
            calls += 1;
            popped.extend(wheel.pop(late));
        }
        assert!(calls > count as usize, "some calls only moved entries");
        let ticks: Vec<_> = popped
            .iter()
            .map(|key| (7_200_000_000_000 + 1_000 * u64::from(count - key)).div_ceil(1 << TICK_SHIFT))
            .collect();
        assert!(ticks.is_sorted() && popped.len() == count as usize);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Arm(u32, u64),
        Cancel(u32),
        Advance(u64),
    }

    /// Spans of every magnitude, so that all levels are used.
    fn span() -> impl Strategy<Value = u64> {
        (0..50u32, any::<u64>()).prop_map(|(bits, n)| n >> (63 - bits))
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (0..40u32, span()).prop_map(|(key, ahead)| Op::Arm(key, ahead)),
            1 => (0..40u32).prop_map(Op::Cancel),
            3 => span().prop_map(Op::Advance),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_behaves_as_a_sorted_map(start in span(), ops in prop::collection::vec(op(), 1..200)) {
            let mut now = start;
            let mut wheel = Wheel::new(Instant::from_nanos(now));
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Arm(key, ahead) => {
                        // Some of them in the past.
                        let at = (now + ahead).saturating_sub(1_000_000);
                        wheel.arm(key, Instant::from_nanos(at));
                        let tick = at.div_ceil(1 << TICK_SHIFT).max(now >> TICK_SHIFT);
                        model.insert(key, tick << TICK_SHIFT);
                    }
                    Op::Cancel(key) => prop_assert_eq!(wheel.cancel(key), model.remove(&key).is_some()),
                    Op::Advance(by) => {
                        now += by;
                        let mut last = 0;
                        while let Some(key) = wheel.pop(Instant::from_nanos(now)) {
                            let at = model.remove(&key).expect("only what is armed is due");
                            prop_assert!(last <= at && at <= now);
                            last = at;
                        }
                        prop_assert!(model.values().all(|&at| at > now), "all that is due came out");
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                for key in 0..40 {
                    let at = model.get(&key).copied().map(Instant::from_nanos);
                    prop_assert_eq!(wheel.deadline(key), at);
                }
                let earliest = model.values().min().copied().map(Instant::from_nanos);
                prop_assert_eq!(wheel.next().is_some(), earliest.is_some());
                prop_assert!(wheel.next() <= earliest);
            }
            // Going from one `next` to the following meets every deadline exactly.
            while let Some(next) = wheel.next() {
                now = now.max(next.as_nanos());
                if let Some(key) = wheel.pop(Instant::from_nanos(now)) {
                    let at = model.remove(&key).expect("only what is armed is due");
                    prop_assert!(at == now || at < now && now - at < 1 << TICK_SHIFT);
                }
            }
            prop_assert!(model.is_empty());
        }
    }
}
