//! Connections that fell silent give their pages back.

use super::table::Tcp;
use super::tcb::Tcb;
use crate::stack::cx::Cx;
use crate::stack::idle::KEEP_PAGES;
use crate::stack::{Readiness, SocketId};
use crate::time::Instant;

impl Tcb {
    /// Whether a FIFO of the connection has pages attached.
    pub(super) fn holds_pages(&self) -> bool {
        self.rx.holds_pages() || self.tx.holds_pages()
    }

    /// Gives back the pages of FIFOs that were read dry. `true` when this wants to be called once more.
    fn release_pages(&mut self) -> bool {
        let again = match &mut self.half {
            Some((app_tx, _)) => app_tx.release(),
            None => {
                self.tx.release();
                false
            }
        };
        self.rx.release() || again
    }
}

impl Tcp {
    /// Looks at the connections that have had their pages for a while. What cannot be released holds data, and whatever takes that
    /// out settles the connection, which thereby comes back into the queue.
    pub(super) fn idle_timeout(&mut self, now: Instant) {
        while let Some((conn, generation)) = self.idle.pop_due(now) {
            let Some(tcb) = self.conns.get_mut(conn, generation) else { continue };
            let active = now.since(tcb.last_heard.max(tcb.last_sent)) < KEEP_PAGES;
            tcb.flags.warm = active || tcb.release_pages();
            if tcb.flags.warm {
                self.idle.push(now, conn, generation);
            }
        }
    }

    /// Whether the send buffer has room. If less than all was sent all the same, there is no page for more.
    pub(crate) fn has_room(&self, id: SocketId) -> bool {
        let half = self.conns.get(id.index, id.generation).and_then(|tcb| tcb.half.as_ref());
        half.is_some_and(|(tx, _)| tx.free() > 0 && !tx.is_closed())
    }

    /// Whether there still is a connection of this name.
    pub(crate) fn exists(&self, id: SocketId) -> bool {
        self.conns.get(id.index, id.generation).is_some()
    }

    /// There is a page for the application of a connection.
    pub(crate) fn feed(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        if let Some(tcb) = self.conns.get_mut(id.index, id.generation) {
            tcb.changed |= Readiness::WRITABLE;
            self.settle(cx, id.index);
        }
    }

    /// The pool has run out of pages: takes back all that is not needed this instant.
    pub(crate) fn reclaim_pages(&mut self) {
        let conns = &mut self.conns;
        self.idle.look_at_all(|conn, generation| {
            conns.get_mut(conn, generation).is_some_and(|tcb| {
                tcb.flags.warm = tcb.release_pages();
                tcb.flags.warm
            })
        });
    }
}
