//! The byte FIFO between a connection's protocol half and its socket half.
//!
//! A TCP connection has two: one filled by the segments that arrive and read by the application, one filled by the
//! application and read by what is sent (and, until it is acknowledged, sent again). Exactly one [`Producer`] and
//! one [`Consumer`] share a FIFO; both may be on one thread, or each on its own. Neither ever waits for the other.
//!
//! # Storage
//!
//! Bytes lie in a list of pages that come from a [`PagePool`] with a hard limit. An idle FIFO that was drained holds
//! no page: the first byte attaches one, and whoever consumes the last byte hands it back. A million idle
//! connections therefore cost a few words each.
//!
//! ```text
//!          head                      tail                 tail + stored
//!   consumer |                         |  producer only, not visible |
//!   ---------v-------------------------v-----------------------------v
//!   [ page ########] -> [ ##############...... ] -> [ ..####.. ]
//!            ^ consume(n) frees    ^ advance(n)      ^ write_at(offset, bytes)
//! ```
//!
//! Positions count bytes since the FIFO was made and never wrap (60 bits). A page covers the positions
//! `base .. base + size`; `base` is set when the page is linked, so nothing that a page held for an earlier FIFO is
//! ever within `head .. tail`. Positions that [`Producer::write_at`] skips are filled with zeros for the same reason.
//!
//! # The protocol
//!
//! `Shared::tail` is one word: position, CLOSED, GONE and one of three states.
//!
//! ```text
//!                 producer: attach, store first          producer: publish
//!   DETACHED ------------------------------------> IDLE <----------------- WRITING
//!      ^                                            |  \------------------->  ^
//!      \--------- consumer: compare-exchange -------/   producer: CAS        (kept while bytes are
//!                 at its own drained position                                 stored beyond tail)
//! ```
//!
//! - Only the producer leaves DETACHED and only the consumer enters it, so each compare-exchange fails at most for
//!   the one reason that the other was first, and the loser knows what that means.
//! - While the state is WRITING nothing is detached, so the producer may touch the page at the tail.
//! - A page is freed by the consumer once `tail` is beyond its end (then the producer has moved on), or as part of
//!   the whole list after a successful detach (then the producer's pointer is dead, and it knows by its failed CAS).
//! - `first` hands the list over: the producer stores it before it leaves DETACHED; the consumer takes it out (leaving
//!   null) before it tries to detach, and puts back what is left when it is dropped. So when the last half goes,
//!   `first` owns all that is left.
#![allow(unsafe_code)] // Bytes in pages are shared by two threads; positions say whose they are.

mod consumer;
mod page;
mod producer;
mod sync;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;

pub use consumer::{Chunks, Consumer};
pub use page::{DEFAULT_PAGE_SIZE, PagePool};
pub use producer::Producer;

use core::ptr;
use page::Page;
use sync::{Arc, AtomicPtr, AtomicU64, Ordering::Relaxed};

/// Bits of a word below the position.
const SHIFT: u32 = 4;
/// Which of the three states below.
const STATE: u64 = 0b11;
/// No page is attached. Only the producer leaves this state.
const DETACHED: u64 = 0;
/// Pages are attached, and the producer touches none of them.
const IDLE: u64 = 1;
/// Pages are attached and the producer may touch those from the tail on.
const WRITING: u64 = 2;
/// No byte follows the tail.
const CLOSED: u64 = 1 << 2;
/// The half that owns the word was dropped.
const GONE: u64 = 1 << 3;

/// The position in a word.
const fn position(word: u64) -> u64 {
    word >> SHIFT
}

/// What the two halves share: 32 bytes and the two counts of an `Arc`.
struct Shared {
    /// The consumer's position, and GONE. Written by the consumer only.
    head: AtomicU64,
    /// The producer's position, its state, CLOSED and GONE. Written by the producer; the consumer only ever
    /// exchanges IDLE for DETACHED.
    tail: AtomicU64,
    /// The list of pages between the producer's attaching it and the consumer's taking it.
    first: AtomicPtr<Page>,
    pool: PagePool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let first = self.first.load(Relaxed);
        // SAFETY: both halves are gone, and `first` owns the list of pages that neither freed (see the module).
        unsafe { self.pool.free_list(first) }
    }
}

/// A FIFO that holds up to `capacity` unread bytes (at most 4 GiB - 1) in pages of `pool`.
///
/// Allocates the few words that the halves share, and nothing else: pages come with the first byte.
pub fn fifo(pool: &PagePool, capacity: usize) -> (Producer, Consumer) {
    let shared = Arc::new(Shared {
        head: AtomicU64::new(0),
        tail: AtomicU64::new(DETACHED),
        first: AtomicPtr::new(ptr::null_mut()),
        pool: pool.clone(),
    });
    (Producer::new(shared.clone(), capacity), Consumer::new(shared))
}
