//! The ready ring: registrations at which someone should look again, in the order of their edges.
//!
//! Any number of threads push (shards) and pop (waiters) without a lock. A registration is in the ring at most
//! once, kept by its own `queued` flag, so a bounded queue can never overflow as long as it has a slot per
//! registration. Of crossbeam's two queues that makes `ArrayQueue` the right one: `SegQueue` needs no bound but
//! allocates on every 31st push, which is on the shard's hot path.
//!
//! What `ArrayQueue` lacks is growth. The ring is therefore a short row of them, each four times the last. Pushes go to
//! the newest; pops take from the oldest that has any, so the order holds across a growth. A push that was under way
//! while the ring grew lands in an older queue and is popped first: harmless.
//!
//! ```text
//!   pop <- [front: 1] <- [128] <- [512] <- [2048] <- push
//!           put back      empty after growth, for good
//! ```

use crossbeam_queue::ArrayQueue;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Slots of the smallest queue.
const FIRST: usize = 128;
/// Queues in a row: 128 * 4^11, some 536 million registrations.
const GROWTHS: usize = 12;
/// What the largest queue holds.
const MOST: usize = FIRST << (2 * (GROWTHS - 1));

/// A growing lock-free queue. See the module documentation.
#[derive(Debug)]
pub(crate) struct ReadyRing<T> {
    /// What was looked at and put back where it was.
    front: ArrayQueue<T>,
    queues: [OnceLock<ArrayQueue<T>>; GROWTHS],
    /// The queue that pushes go to; it is always initialised.
    newest: AtomicUsize,
}

impl<T> ReadyRing<T> {
    pub(crate) fn new() -> Self {
        let queues = [const { OnceLock::new() }; GROWTHS];
        let ring = Self { front: ArrayQueue::new(1), queues, newest: AtomicUsize::new(0) };
        ring.queues[0].get_or_init(|| ArrayQueue::new(FIRST));
        ring
    }

    /// Makes room for `slots` entries in all; `false` when that is more than a ring can hold. The caller does not push
    /// more than it has reserved and does not reserve from two threads at once.
    pub(crate) fn reserve(&self, slots: usize) -> bool {
        if slots > MOST {
            return false;
        }
        let (old, mut newest) = (self.newest.load(Ordering::Relaxed), 0);
        while FIRST << (2 * newest) < slots {
            newest += 1;
        }
        if newest > old
            && let Some(queue) = self.queues.get(newest)
        {
            queue.get_or_init(|| ArrayQueue::new(FIRST << (2 * newest)));
            self.newest.store(newest, Ordering::Release);
        }
        true
    }

    /// Appends. Never blocks, never allocates.
    pub(crate) fn push(&self, entry: T) {
        let newest = self.newest.load(Ordering::Acquire);
        let pushed = self.queues.get(newest).and_then(OnceLock::get).map(|q| q.push(entry).is_ok());
        debug_assert_eq!(pushed, Some(true), "more entries than were reserved");
    }

    /// Puts back what was just popped, at the front if nobody else did so meanwhile.
    pub(crate) fn put_back(&self, entry: T) {
        if let Err(entry) = self.front.push(entry) {
            self.push(entry);
        }
    }

    /// Takes the oldest entry.
    pub(crate) fn pop(&self) -> Option<T> {
        self.in_order().filter(|q| !q.is_empty()).find_map(ArrayQueue::pop)
    }

    /// How many entries there are; exact when nobody pushes or pops.
    pub(crate) fn len(&self) -> usize {
        self.in_order().map(ArrayQueue::len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.in_order().all(ArrayQueue::is_empty)
    }

    fn in_order(&self) -> impl Iterator<Item = &ArrayQueue<T>> {
        let newest = self.newest.load(Ordering::Acquire);
        std::iter::once(&self.front).chain(self.queues.iter().take(newest + 1).filter_map(OnceLock::get))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_holds_across_growth_and_put_back() {
        let ring = ReadyRing::new();
        assert!(ring.reserve(120));
        (0..120).for_each(|i| ring.push(i));
        assert!(ring.reserve(5_000));
        (120..5_000).for_each(|i| ring.push(i));
        assert_eq!(ring.len(), 5_000);
        assert_eq!(ring.pop(), Some(0));
        ring.put_back(0);
        for i in 0..5_000 {
            assert_eq!(ring.pop(), Some(i));
        }
        assert!(ring.is_empty());
        assert_eq!(ring.pop(), None);
    }

    #[test]
    fn a_reservation_beyond_the_last_queue_is_refused_and_changes_nothing() {
        let ring = ReadyRing::<u32>::new();
        assert!(!ring.reserve(MOST + 1) && !ring.reserve(usize::MAX));
        ring.push(1);
        assert_eq!(ring.pop(), Some(1));
    }
}
