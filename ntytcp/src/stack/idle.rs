//! Which sockets hold pages that they may not need, and when to look.
//!
//! A FIFO keeps its page from one message to the next (see [`crate::fifo`]), so somebody must notice that no next one comes. A
//! socket that holds pages is in one such queue, once. The delay is the same for all, so the queue is in order by itself; an
//! entry is not moved while the socket is busy, but looked at when its time comes and queued again. A socket at rest is in no
//! queue, and nobody's timer.

use core::time::Duration;
use std::collections::VecDeque;

use crate::time::Instant;

/// How long a socket keeps its pages after the last message, at most twice that. Longer than the round trips of a conversation,
/// so that it does not visit the pool for each message; short enough that those who fell silent hold few of the pages.
pub(crate) const KEEP_PAGES: Duration = Duration::from_millis(50);

/// Sockets that hold pages, by slot and generation, in the order of when they are looked at.
#[derive(Debug, Default)]
pub(crate) struct IdleQueue(VecDeque<(Instant, u32, u32)>);

impl IdleQueue {
    /// Adds a socket, which is not in the queue.
    pub(crate) fn push(&mut self, now: Instant, index: u32, generation: u32) {
        self.0.push_back((now + KEEP_PAGES, index, generation));
    }

    /// When the first is due.
    #[inline]
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.front().map(|entry| entry.0)
    }

    /// Takes out the first if it is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(u32, u32)> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_front().map(|(_, index, generation)| (index, generation))
    }

    /// Shows every socket to `look`, due or not, and keeps those for which it says so.
    pub(crate) fn look_at_all(&mut self, mut look: impl FnMut(u32, u32) -> bool) {
        self.0.retain(|&(_, index, generation)| look(index, generation));
    }
}
