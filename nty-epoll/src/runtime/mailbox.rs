//! What applications put in front of a shard: calls to run there, and the names of sockets to look at.
//!
//! Calls open sockets and set options; they are rare and boxed. Everything that happens per read or write goes
//! the other way: the socket sets its marks and its `dirty` flag and puts its name into the ring, once until the shard
//! has taken it out. Neither takes a lock.

use super::inner::Inner;
use crate::ready::ReadyRing;
use crossbeam_queue::SegQueue;
use ntytcp::doorbell::Doorbell;
use ntytcp::stack::{SocketError, SocketId};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc;

/// Something to be done on the shard's thread.
pub(crate) type Call = Box<dyn FnOnce(&mut Inner<'_>) + Send>;

/// See the module documentation.
pub(crate) struct Mailbox {
    calls: SegQueue<Call>,
    dirty: ReadyRing<SocketId>,
    pub(crate) bell: Doorbell,
    closed: AtomicBool,
}

impl Mailbox {
    pub(crate) fn new() -> std::io::Result<Self> {
        let bell = Doorbell::new()?;
        Ok(Self { calls: SegQueue::new(), dirty: ReadyRing::new(), bell, closed: AtomicBool::new(false) })
    }

    /// Has `call` run by the shard at its next turn; it is dropped unrun when the shard is gone.
    pub(crate) fn post(&self, call: Call) {
        self.calls.push(call);
        self.bell.ring();
        // Behind the fence in `ring`: either this sees that the shard is gone, or `close` sees the call.
        if self.closed.load(Ordering::Relaxed) {
            while self.calls.pop().is_some() {}
        }
    }

    /// Runs `call` on the shard's thread, which must not be this one, and waits for its answer.
    pub(crate) fn ask<R: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Inner<'_>) -> Result<R, SocketError> + Send + 'static,
    ) -> Result<R, SocketError> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.post(Box::new(move |inner| {
            // Nobody listens any more only if the asking thread is gone, and then the answer closes itself.
            let _ = answer.send(call(inner));
        }));
        answered.recv().unwrap_or(Err(SocketError::BadSocket))
    }

    /// Makes room for one name per socket. Called by the shard only.
    pub(crate) fn reserve(&self, sockets: usize) -> bool {
        self.dirty.reserve(sockets)
    }

    /// The socket's `dirty` flag was just set.
    pub(crate) fn put_dirty(&self, id: SocketId) {
        self.dirty.push(id);
        self.bell.ring();
    }

    pub(crate) fn next_dirty(&self) -> Option<SocketId> {
        self.dirty.pop()
    }

    pub(crate) fn dirty_count(&self) -> usize {
        self.dirty.len()
    }

    pub(crate) fn next_call(&self) -> Option<Call> {
        self.calls.pop()
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.dirty.is_empty() || !self.calls.is_empty()
    }

    /// The shard is gone.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while self.calls.pop().is_some() {}
    }
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").field("dirty", &self.dirty.len()).finish_non_exhaustive()
    }
}
