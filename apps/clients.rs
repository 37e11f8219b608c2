//! What a program keeps per client: slots whose names go stale, alarms that are cheap to move, and the time they go by.

use ntytcp::time::Instant;
use slab::Slab;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Clients under 64-bit tokens, such as the user data of an epoll.
///
/// ```text
/// token   generation (32 bits) | index (32 bits)
/// ```
///
/// Every client has a generation of its own. So a token that is still in a batch of events when its connection is closed, and its
/// slot taken by the next, finds nothing. No token has an index of 2^32 - 1: those are free for something else.
#[derive(Debug)]
pub(crate) struct Clients<T> {
    slots: Slab<(u32, T)>,
    /// The generation of the next client.
    generation: u32,
}

/// Generation and index; the parts are cut out on purpose.
fn parts(token: u64) -> (u32, usize) {
    ((token >> 32) as u32, token as u32 as usize)
}

impl<T> Clients<T> {
    /// An empty one.
    pub(crate) const fn new() -> Self {
        Self { slots: Slab::new(), generation: 0 }
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Keeps `value` under a new token. `None`, and the value is dropped, when there are 2^32 - 1 already.
    pub(crate) fn insert(&mut self, value: T) -> Option<u64> {
        let slot = self.slots.vacant_entry();
        let index = u32::try_from(slot.key()).ok().filter(|&index| index < u32::MAX)?;
        let generation = self.generation;
        self.generation = generation.wrapping_add(1);
        slot.insert((generation, value));
        Some(u64::from(generation) << 32 | u64::from(index))
    }

    /// The value under `token`, if it is still there.
    pub(crate) fn get_mut(&mut self, token: u64) -> Option<&mut T> {
        let (generation, index) = parts(token);
        self.slots.get_mut(index).filter(|slot| slot.0 == generation).map(|slot| &mut slot.1)
    }

    /// Takes out the value under `token`, if it is still there.
    pub(crate) fn remove(&mut self, token: u64) -> Option<T> {
        self.get_mut(token)?;
        self.slots.try_remove(parts(token).1).map(|slot| slot.1)
    }

    /// All values with their tokens, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.slots
            .iter()
            .map(|(index, (generation, value))| (u64::from(*generation) << 32 | index as u64, value))
    }
}

/// The time of a program: counted from its beginning, as everything without a clock of its own has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeline(std::time::Instant);

impl Timeline {
    /// It begins.
    pub(crate) fn new() -> Self {
        Self(std::time::Instant::now())
    }

    /// `now` as counted; the beginning for all that was before.
    pub(crate) fn at(self, now: std::time::Instant) -> Instant {
        Instant::ZERO + now.saturating_duration_since(self.0)
    }

    /// The other way round; `None` for what is too far away for a clock.
    pub(crate) fn when(self, at: Instant) -> Option<std::time::Instant> {
        self.0.checked_add(at.since(Instant::ZERO))
    }
}

/// When one client's alarm rings next; kept with the client. See [`Alarms`].
#[derive(Debug)]
pub(crate) struct Armed(Instant);

impl Default for Armed {
    fn default() -> Self {
        Self(Instant::FAR_FUTURE)
    }
}

/// One alarm per client. A deadline that moves back, which is what happens with every request, costs a comparison: the
/// alarm rings at the old time, and is set anew then.
#[derive(Debug, Default)]
pub(crate) struct Alarms(BinaryHeap<Reverse<(Instant, u64)>>);

impl Alarms {
    /// The client `token` is to be looked at by `deadline`.
    pub(crate) fn arm(&mut self, token: u64, armed: &mut Armed, deadline: Instant) {
        if deadline < armed.0 {
            armed.0 = deadline;
            self.0.push(Reverse((deadline, token)));
        }
    }

    /// The next alarm that has rung by `now`; its client has to be armed again after [`Armed::rang`].
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Instant, u64)> {
        let &Reverse((at, _)) = self.0.peek()?;
        if at > now { None } else { self.0.pop().map(|Reverse(alarm)| alarm) }
    }

    /// When [`Alarms::pop`] will have something.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }
}

impl Armed {
    /// Notes the alarm of `at`; `false` for one that an earlier alarm has replaced.
    pub(crate) fn rang(&mut self, at: Instant) -> bool {
        let current = self.0 == at;
        if current {
            self.0 = Instant::FAR_FUTURE;
        }
        current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_outlives_its_value_and_finds_nothing() {
        let mut clients = Clients::new();
        let (a, b) = (clients.insert('a').unwrap(), clients.insert('b').unwrap());
        assert_eq!(clients.remove(a), Some('a'));
        let c = clients.insert('c').unwrap();
        assert_eq!((c as u32, clients.len()), (a as u32, 2), "the slot is used again");
        assert_eq!(clients.get_mut(a), None);
        assert_eq!(clients.remove(a), None);
        assert_eq!(clients.get_mut(b), Some(&mut 'b'));
        assert_eq!(clients.get_mut(c), Some(&mut 'c'));
        assert_eq!(clients.get_mut(u64::MAX), None);
        assert_eq!(
            clients.iter().map(|(token, &value)| (token, value)).collect::<Vec<_>>(),
            [(c, 'c'), (b, 'b')]
        );
    }

    #[test]
    fn alarms_ring_at_the_earliest_deadline_and_once_each() {
        let at = Instant::from_millis;
        let (mut alarms, mut armed) = (Alarms::default(), Armed::default());
        alarms.arm(7, &mut armed, at(50));
        alarms.arm(7, &mut armed, at(90));
        alarms.arm(7, &mut armed, at(20));
        assert_eq!((alarms.next(), alarms.pop(at(19))), (Some(at(20)), None));
        assert_eq!(alarms.pop(at(60)), Some((at(20), 7)));
        assert!(armed.rang(at(20)));
        alarms.arm(7, &mut armed, at(90));
        assert_eq!(alarms.pop(at(60)), Some((at(50), 7)), "replaced long ago");
        assert!(!armed.rang(at(50)));
        assert_eq!((alarms.pop(at(60)), alarms.next()), (None, Some(at(90))));
    }
}
