//! What a socket's handle and its shard share: the level, what the application wants, and the pending error.

use crate::events::Events;
use crate::runtime::Mailbox;
use crate::source::{Pollable, Source, lock};
use ntytcp::stack::{Readiness, SocketError, SocketId};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// Marks beside the conditions in `level`; no condition has these bits.
pub(crate) const CONNECTED: u32 = 1 << 20;
/// The application has closed the sending direction.
pub(crate) const WRITE_CLOSED: u32 = 1 << 21;
/// The application reads no more.
pub(crate) const READ_CLOSED: u32 = 1 << 22;
/// The handle is gone.
pub(crate) const DROPPED: u32 = 1 << 23;
/// The handle went without reading everything, or asked for a RST.
pub(crate) const ABORTED: u32 = 1 << 24;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: SocketId,
    mailbox: Arc<Mailbox>,
    source: Source,
    /// Conditions and marks in one word, so that what follows from two of them has one order.
    level: AtomicU32,
    /// The name is in the mailbox, or about to be.
    dirty: AtomicBool,
    /// How many bytes the application wants to write that there are no pages for; 0 for none.
    starved: AtomicU32,
    error: Mutex<Option<SocketError>>,
}

impl Shared {
    pub(crate) fn new(id: SocketId, mailbox: Arc<Mailbox>, level: Events, marks: u32) -> Self {
        Self {
            id,
            mailbox,
            source: Source::new(),
            level: AtomicU32::new(level.bits() | marks),
            dirty: AtomicBool::new(false),
            starved: AtomicU32::new(0),
            error: Mutex::new(None),
        }
    }

    /// The conditions.
    pub(crate) fn conditions(&self) -> Events {
        Events::from_bits_truncate(self.level.load(Ordering::Acquire))
    }

    /// Whether any of these marks is set.
    pub(crate) fn has_mark(&self, marks: u32) -> bool {
        self.level.load(Ordering::Acquire) & marks != 0
    }

    pub(crate) fn set_mark(&self, marks: u32) {
        self.level.fetch_or(marks, Ordering::AcqRel);
    }

    /// Asks the shard to look at the socket: something was written, read, closed or taken.
    pub(crate) fn touch(&self) {
        if !self.dirty.swap(true, Ordering::AcqRel) {
            self.mailbox.put_dirty(self.id);
        }
    }

    /// The shard looks now. What is touched from here on is seen by this look or the next.
    pub(crate) fn untouch(&self) {
        self.dirty.swap(false, Ordering::AcqRel);
    }

    /// Takes back `condition` because the application has seen that it does not hold, unless `again` finds that it does by
    /// now. Whoever makes it true does so before [`Shared::raise`]; both change the same word, so either `again` sees
    /// the cause or the condition is raised after this. In the first case the shard may have taken it for old news, so
    /// the edge is announced here.
    pub(crate) fn lower(&self, condition: Events, again: impl FnOnce() -> bool) {
        self.level.fetch_and(!condition.bits(), Ordering::AcqRel);
        if again() {
            self.level.fetch_or(condition.bits(), Ordering::AcqRel);
            self.source.wake(condition);
        }
    }

    /// There were no pages to write `len` bytes to. The shard is asked to say when there are.
    pub(crate) fn starve(&self, len: usize) {
        self.starved.store(len as u32, Ordering::Release);
        self.touch();
    }

    /// How many bytes the application waits for pages for, told once.
    pub(crate) fn take_starved(&self) -> Option<usize> {
        if self.starved.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Some(self.starved.swap(0, Ordering::AcqRel) as usize).filter(|&len| len > 0)
    }

    /// The shard says that `conditions` hold. Answers the edges to announce: new data always is one, room only to an
    /// application that was out of it.
    pub(crate) fn raise(&self, conditions: Events) -> Events {
        let before = self.level.fetch_or(conditions.bits(), Ordering::AcqRel);
        conditions & (!Events::from_bits_truncate(before) | Events::IN)
    }

    /// Leaves an error for the application to take, before [`Events::ERR`] is raised.
    pub(crate) fn set_error(&self, error: SocketError) {
        lock(&self.error).get_or_insert(error);
    }

    /// Takes the pending error (SO_ERROR). A load, if there is none.
    pub(crate) fn take_error(&self) -> Option<SocketError> {
        if !self.conditions().contains(Events::ERR) {
            return None;
        }
        let mut error = lock(&self.error);
        self.level.fetch_and(!Events::ERR.bits(), Ordering::AcqRel);
        error.take()
    }

    /// Runs on the shard, some time.
    pub(crate) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// The handle is dropped: out of every epoll, and on to the shard.
    pub(crate) fn abandon(&self, marks: u32) {
        self.source.close();
        self.set_mark(DROPPED | marks);
        self.touch();
    }
}

impl Pollable for Shared {
    fn level(&self) -> Events {
        let word = self.level.load(Ordering::Acquire);
        let mut level = Events::from_bits_truncate(word);
        if word & READ_CLOSED != 0 {
            level |= Events::IN | Events::RDHUP;
        }
        if word & WRITE_CLOSED != 0 {
            // A write would not block: it would fail.
            level |= Events::OUT;
            if level.contains(Events::RDHUP) {
                level |= Events::HUP;
            }
        }
        level
    }

    fn source(&self) -> &Source {
        &self.source
    }
}

/// The stack's readiness in the words of an epoll.
pub(crate) fn conditions(readiness: Readiness) -> Events {
    let mut events = Events::empty();
    events.set(Events::IN, readiness.contains(Readiness::READABLE));
    events.set(Events::OUT, readiness.contains(Readiness::WRITABLE));
    events.set(Events::RDHUP, readiness.contains(Readiness::READ_CLOSED));
    events.set(Events::HUP, readiness.contains(Readiness::HANGUP));
    events.set(Events::ERR, readiness.contains(Readiness::ERROR));
    if readiness.contains(Readiness::READ_CLOSED) {
        events |= Events::IN;
    }
    if readiness.contains(Readiness::HANGUP) {
        events |= Events::IN | Events::OUT;
    }
    events
}
