//! What a server keeps per client: slots whose names go stale, and alarms that are cheap to move.

use ntytcp::time::Instant;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Clients by token. A token names a client until it is removed and never another one afterwards, so that an event
/// or alarm that comes late finds nobody.
#[derive(Debug)]
pub(crate) struct Clients<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    /// How often the slot was used before.
    generation: u32,
    value: Option<T>,
}

impl<T> Clients<T> {
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Adds a client; its upper half of the token is the generation, so no token is `u64::MAX` unless `u32::MAX` slots are
    /// in use, which no memory holds.
    pub(crate) fn insert(&mut self, value: T) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, value: None });
            (self.slots.len() - 1) as u32
        });
        let Some(slot) = self.slots.get_mut(index as usize) else { return u64::MAX };
        slot.value = Some(value);
        u64::from(slot.generation) << 32 | u64::from(index)
    }

    pub(crate) fn get_mut(&mut self, token: u64) -> Option<&mut T> {
        let slot = self.slots.get_mut(token as u32 as usize)?;
        if u64::from(slot.generation) == token >> 32 { slot.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, token: u64) -> Option<T> {
        self.get_mut(token)?;
        let slot = self.slots.get_mut(token as u32 as usize)?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(token as u32);
        slot.value.take()
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
    fn token_of_a_client_that_left_names_nobody() {
        let mut clients = Clients::new();
        let (a, b) = (clients.insert('a'), clients.insert('b'));
        assert_eq!(clients.remove(a), Some('a'));
        let c = clients.insert('c');
        assert_eq!(c as u32, a as u32, "the slot is used again");
        assert_eq!(clients.get_mut(a), None);
        assert_eq!(clients.remove(a), None);
        assert_eq!(clients.get_mut(b).copied(), Some('b'));
        assert_eq!(clients.get_mut(c).copied(), Some('c'));
        assert_eq!(clients.get_mut(u64::MAX), None);
        assert_eq!(clients.len(), 2);
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
