//! What every protocol of the stack is handed with each call: the time, the counters, and the event queue.
//!
//! The context is borrowed from the [`Stack`](super::Stack) for one call, field by field, so that a protocol's own tables
//! stay free to be changed at the same time. Nothing in it is a global and nothing in it reads a clock.

use std::collections::VecDeque;

use super::socket::{Readiness, SocketId};
use crate::counters::Counters;
use crate::time::Instant;

/// The surroundings of one call into a protocol.
pub(crate) struct Cx<'a> {
    /// The time of this turn.
    pub now: Instant,
    /// What the shard counts.
    pub counters: &'a mut Counters,
    /// Where sockets report that something changed.
    pub events: &'a mut EventQueue,
}

/// The sockets at which something happened, oldest first, each at most once.
///
/// The queue holds names only; what happened is in the socket's own [`Pending`], which also keeps the name from being
/// queued twice. A socket that is gone by the time its name is popped simply has nothing pending.
#[derive(Debug, Default)]
pub(crate) struct EventQueue(VecDeque<SocketId>);

impl EventQueue {
    /// The socket that has waited longest.
    pub(crate) fn pop(&mut self) -> Option<SocketId> {
        self.0.pop_front()
    }

    /// Whether no socket waits to be looked at.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What happened at one socket since the application was last told. Not empty exactly while the socket's name is in the
/// [`EventQueue`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pending(Readiness);

impl Pending {
    /// Notes that `what` happened at the socket `id` whose field this is.
    #[inline]
    pub(crate) fn raise(&mut self, events: &mut EventQueue, id: SocketId, what: Readiness) {
        if self.0.is_empty() && !what.is_empty() {
            events.0.push_back(id);
        }
        self.0 |= what;
    }

    /// What happened, which is thereby told. Only for [`Stack::poll_event`](super::Stack::poll_event), after the pop.
    pub(crate) fn take(&mut self) -> Readiness {
        core::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::SocketKind;

    #[test]
    fn a_socket_is_queued_once_however_much_happens_there() {
        let id = SocketId { kind: SocketKind::Datagram, index: 3, generation: 1 };
        let (mut events, mut pending) = (EventQueue::default(), Pending::default());
        pending.raise(&mut events, id, Readiness::empty());
        assert!(events.is_empty());
        pending.raise(&mut events, id, Readiness::READABLE);
        pending.raise(&mut events, id, Readiness::ERROR);
        assert_eq!(events.pop(), Some(id));
        assert_eq!(events.pop(), None);
        assert_eq!(pending.take(), Readiness::READABLE | Readiness::ERROR);
        pending.raise(&mut events, id, Readiness::READABLE);
        assert_eq!(events.pop(), Some(id));
    }
}
