//! The timers of one TCB: a deadline per kind.
//!
//! The shard's wheel holds one entry per TCB, re-armed only when the earliest deadline moves forward; a deadline that moves back
//! is noticed when the entry fires. The table remembers what the entry is armed for, so that a segment which moves no deadline
//! forward does not look at the wheel. Delayed ACKs and TIME-WAIT have constant delays and live in queues of the
//! [table](super::table) instead.

use crate::time::Instant;

/// What a deadline is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum TimerKind {
    /// RFC 6298: the oldest unacknowledged segment is sent again.
    Retransmit,
    /// RFC 9293 3.8.6.1: a closed window is probed. Never armed together with `Retransmit`.
    Persist,
    /// RFC 9293 3.8.4: an idle peer is probed.
    KeepAlive,
    /// A closed socket no longer waits for the peer's FIN.
    FinWait2,
}

impl TimerKind {
    pub(crate) const ALL: [Self; 4] = [Self::Retransmit, Self::Persist, Self::KeepAlive, Self::FinWait2];
}

/// The deadlines of one TCB, and what the shard's wheel knows of them.
#[derive(Debug)]
pub(crate) struct TimerTable {
    deadlines: [Instant; TimerKind::ALL.len()],
    /// What the TCB's entry in the wheel is armed for; never later than the earliest deadline once [`TimerTable::moved_forward`]
    /// was obeyed.
    entry: Instant,
    /// A deadline was armed that the entry is too late for.
    early: bool,
}

impl TimerTable {
    pub(crate) const fn new() -> Self {
        Self {
            deadlines: [Instant::FAR_FUTURE; TimerKind::ALL.len()],
            entry: Instant::FAR_FUTURE,
            early: false,
        }
    }

    pub(crate) fn arm(&mut self, kind: TimerKind, at: Instant) {
        self.deadlines[kind as usize] = at;
        self.early |= at < self.entry;
    }

    pub(crate) fn stop(&mut self, kind: TimerKind) {
        self.deadlines[kind as usize] = Instant::FAR_FUTURE;
    }

    pub(crate) fn stop_all(&mut self) {
        self.deadlines = [Instant::FAR_FUTURE; TimerKind::ALL.len()];
    }

    pub(crate) fn is_armed(&self, kind: TimerKind) -> bool {
        self.deadlines[kind as usize] != Instant::FAR_FUTURE
    }

    /// Whether [`TimerTable::moved_forward`] has something to find out.
    pub(crate) fn is_early(&self) -> bool {
        self.early
    }

    /// What the wheel must arm the TCB's entry for, if that moved forward since it was asked last.
    #[inline]
    pub(crate) fn moved_forward(&mut self) -> Option<Instant> {
        if !core::mem::take(&mut self.early) {
            return None;
        }
        let next = self.deadlines.iter().copied().min().filter(|&at| at < self.entry)?;
        self.entry = next;
        Some(next)
    }

    /// The slot's entry is armed for `entry`, by the connection that had the slot before.
    pub(crate) fn take_over(&mut self, entry: Option<Instant>) {
        self.entry = entry.unwrap_or(Instant::FAR_FUTURE);
    }

    /// The entry has left the wheel: whatever is still armed wants a new one.
    pub(crate) fn entry_left(&mut self) {
        self.entry = Instant::FAR_FUTURE;
        self.early = true;
    }

    /// Takes one timer that is due.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<TimerKind> {
        let kind = TimerKind::ALL.into_iter().find(|&kind| self.deadlines[kind as usize] <= now)?;
        self.stop(kind);
        Some(kind)
    }
}
