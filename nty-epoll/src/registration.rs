//! One source in one epoll: what was asked for, under which user data, and whether it is in the ready ring.
//!
//! Three parties touch a registration at once, none of them behind a lock: the waker (`edge`), the waiter (`unqueue`,
//! `look`, `requeue`) and whoever modifies it (`rearm`, `kill`; serialised by the epoll's control lock).
//!
//! - `queued` is true while the ring holds the registration or is about to. It is changed by swaps only: a waker that
//!   finds it true has published its level to the waiter whose swap will clear it, and the waiter clears it before
//!   it asks for the level. So no edge is lost between.
//! - `state` is the mask in the low half and a count of changes in the high half. `data` is written between two
//!   changes of `state`, read between two equal readings of it: no mask is ever reported with another's data. A ONESHOT
//!   is claimed by exchanging the very state that was read, so of two waiters one reports it.

use crate::events::{Event, Events};
use crate::set::Core;
use crate::source::Pollable;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// In the mask's half of `state`: deleted. No condition or mode has this bit.
const DEAD: u64 = 1 << 27;
/// One change, in the other half.
const CHANGE: u64 = 1 << 32;

/// See the module documentation.
pub(crate) struct Registration {
    pub(crate) core: Arc<Core>,
    pub(crate) target: Arc<dyn Pollable>,
    pub(crate) exclusive: bool,
    state: AtomicU64,
    data: AtomicU64,
    queued: AtomicBool,
    /// The wait that reported it last.
    reported_in: AtomicU64,
}

impl Registration {
    pub(crate) fn new(core: Arc<Core>, target: Arc<dyn Pollable>, events: Events, data: u64) -> Self {
        Self {
            core,
            target,
            exclusive: events.contains(Events::EXCLUSIVE),
            state: AtomicU64::new(u64::from((events | Events::ALWAYS).bits())),
            data: AtomicU64::new(data),
            queued: AtomicBool::new(false),
            reported_in: AtomicU64::new(0),
        }
    }

    /// The source announced an edge (an empty one: of anything). `true` when that woke a sleeper.
    pub(crate) fn edge(self: &Arc<Self>, edge: Events) -> bool {
        let mask = mask(self.state.load(Ordering::Acquire));
        let concerned = edge.is_empty() || edge.with_synonyms().intersects(mask);
        if !armed(mask) || !concerned {
            return false;
        }
        if self.queued.swap(true, Ordering::AcqRel) {
            // In the ring already; to an epoll around this one it is an edge all the same.
            self.core.tell_outer();
            return false;
        }
        self.core.push(self.clone())
    }

    /// Whether something that was asked for holds now.
    pub(crate) fn is_ready(&self) -> bool {
        let mask = mask(self.state.load(Ordering::Acquire));
        armed(mask) && self.target.level().with_synonyms().intersects(mask)
    }

    /// For whoever has popped it, before anything else; `false` when it was deleted and is to be let go. From here on an
    /// edge queues it again.
    pub(crate) fn unqueue(&self) -> bool {
        if self.state.load(Ordering::Acquire) & DEAD != 0 {
            return false;
        }
        self.queued.swap(false, Ordering::AcqRel);
        true
    }

    /// Claims the right to put it into the ring; `false` when another has or it is deleted.
    pub(crate) fn requeue(&self) -> bool {
        !self.queued.swap(true, Ordering::AcqRel)
    }

    /// What to report, and whether to look again at the next wait (level-triggered).
    pub(crate) fn look(&self) -> Option<(Event, bool)> {
        let level = self.target.level().with_synonyms();
        loop {
            let state = self.state.load(Ordering::Acquire);
            let asked = mask(state);
            let events = level & asked & !Events::MODES;
            if !armed(asked) || events.is_empty() {
                return None;
            }
            let data = self.data.load(Ordering::Acquire);
            let event = Event { events, data };
            if asked.contains(Events::ONESHOT) {
                let silent = (state & !u64::from(u32::MAX)) | u64::from((asked & Events::MODES).bits());
                if self.state.compare_exchange(state, silent, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    return Some((event, false));
                }
            } else if self.state.load(Ordering::Acquire) == state {
                return Some((event, !asked.contains(Events::ET)));
            }
        }
    }

    /// New mask and data. The caller evaluates the level afterwards.
    pub(crate) fn rearm(&self, events: Events, data: u64) {
        let changes = self.state.load(Ordering::Relaxed) & !u64::from(u32::MAX);
        // While nothing is asked for nobody reports; an edge that is missed here is found by that evaluation.
        self.state.swap(changes.wrapping_add(CHANGE), Ordering::AcqRel);
        self.data.store(data, Ordering::Release);
        let next = changes.wrapping_add(CHANGE * 2) | u64::from((events | Events::ALWAYS).bits());
        self.state.store(next, Ordering::Release);
    }

    /// Deleted: never reported again. `true` when the ring still holds it, or will in a moment.
    pub(crate) fn kill(&self) -> bool {
        self.state.store(DEAD, Ordering::Release);
        // Left true for ever, so that nobody puts it into the ring any more.
        self.queued.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state.load(Ordering::Acquire) & DEAD != 0
    }

    /// Whether the wait numbered `wait` has reported it already.
    pub(crate) fn was_reported_in(&self, wait: u64) -> bool {
        self.reported_in.load(Ordering::Relaxed) == wait
    }

    pub(crate) fn set_reported_in(&self, wait: u64) {
        self.reported_in.store(wait, Ordering::Relaxed);
    }
}

/// The conditions and modes in a state.
fn mask(state: u64) -> Events {
    Events::from_bits_truncate(state as u32)
}

/// Whether anything is asked for: not deleted, not a ONESHOT that was reported, not in the middle of a change.
fn armed(mask: Events) -> bool {
    mask.intersects(Events::ALWAYS)
}
