//! The byte FIFO between a connection's protocol half and its socket half.
//!
//! A TCP connection has two: one filled by the segments that arrive and read by the application, one filled by the
//! application and read by what is sent (and, until it is acknowledged, sent again). Exactly one [`Producer`] and
//! one [`Consumer`] share a FIFO; both may be on one thread, or each on its own. Neither ever waits for the other.
//!
//! # Storage
//!
//! Bytes lie in a list of pages that come from a [`PagePool`] with a hard limit. The first byte attaches a page. While a
//! conversation goes on the page stays, so that a message costs a copy and two words and no visit to the pool; it goes
//! back when the FIFO's [`Home`] half, the protocol's, finds the FIFO idle and calls `release`. A million idle
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
//! ever within `head .. tail`. Positions that [`Producer::write_at`] skips are filled with zeros for the same reason; only who
//! writes in place ([`Producer::write_with`]) sees what was there, and answers for what it counts as written.
//!
//! A producer that finds the FIFO drained moves the `base` of its page to the tail (*rebases* it): the next bytes lie at the
//! page's beginning again. Requests and responses thus use the same few cache lines for ever, and never turn a page.
//!
//! # The protocol
//!
//! `Shared::tail` is one word: position, CLOSED, GONE and one of four states.
//!
//! ```text
//!                  producer: attach, store first
//!   DETACHED --------------------------------------> WRITING   (the producer may touch pages from the tail on)
//!    ^  ^ ^                                           |  ^ |
//!    |  | \------ home producer: release, drained -----/  | |
//!    |  |                                   producer: CAS | | producer: publish
//!    |  |                                                | v
//!    |  \--- home consumer: release, drained, CAS ------ IDLE   (the home is the consumer, nothing is stored)
//!    \------ consumer: reads the last byte, CAS -------- LEFT   (producer released with bytes unread, or was dropped)
//! ```
//!
//! - *Home is the producer* (the receive FIFO): while pages are attached the state is WRITING, so a write is a plain store and
//!   the consumer detaches nothing. Home is the consumer (the send FIFO): each write goes from IDLE to WRITING by one
//!   compare-exchange and publishes IDLE again, so that the home can detach between writes.
//! - Only the producer leaves DETACHED, and in IDLE and LEFT it touches no page, so each compare-exchange fails at most for
//!   the reason that the other was first (or that CLOSED or GONE came in between), and the loser knows what that means.
//! - A consumer touches pages only when it has seen a tail beyond its head. When it has read up to the tail that it knows, it
//!   puts its page back into `first` and forgets it *before* it publishes its head. So a producer in WRITING that sees the
//!   head at its tail owns every page: it may rebase the one that there is, or free it.
//! - A page is freed by the consumer once `tail` is beyond its end (then the producer has moved on), or with the whole list by
//!   whoever enters DETACHED.
//! - `first` says where the list begins unless the state is DETACHED or the consumer has a page in hand. The producer stores it
//!   before it leaves DETACHED, the consumer whenever it has no more to read and when it is dropped. So when the last half
//!   goes, `first` owns all that is left.
//! - LEFT is what a home producer does with bytes that nobody reads: whoever reads the last of them detaches. A consumer that
//!   reads it just then may still have seen WRITING; so `release` asks to be called once more, and then the consumer has seen
//!   LEFT or the producer sees the FIFO drained.
//!
//! # Tests
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p ntytcp --lib --release fifo::` explores every interleaving of the two halves that
//! loom can find (`scripts/test` runs it); `tests.rs` holds the contents against a plain queue, and runs under miri.
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
/// Which of the four states below.
const STATE: u64 = 0b11;
/// No page is attached. Only the producer leaves this state.
const DETACHED: u64 = 0;
/// Pages are attached, and the producer touches none of them. The home consumer may detach them when it has read all.
const IDLE: u64 = 1;
/// Pages are attached and the producer may touch those from the tail on.
const WRITING: u64 = 2;
/// Pages are attached, and the producer touches none of them. The consumer detaches them as soon as it has read all.
const LEFT: u64 = 3;
/// No byte follows the tail.
const CLOSED: u64 = 1 << 2;
/// The half that owns the word was dropped.
const GONE: u64 = 1 << 3;

/// The position in a word.
const fn position(word: u64) -> u64 {
    word >> SHIFT
}

/// Which half looks after the pages while nothing is written or read: the one on the shard's side, which is told to `release`
/// them when the FIFO is idle. The other may live on another thread and be as slow as it likes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Home {
    /// The protocol writes: what arrives for an application. Its writes take no locked instruction.
    Producer,
    /// The protocol reads: what an application sends, perhaps on another thread. Writes take one locked instruction.
    Consumer,
}

/// What the two halves share: 32 bytes and the two counts of an `Arc`.
struct Shared {
    /// The consumer's position, and GONE. Written by the consumer only.
    head: AtomicU64,
    /// The producer's position, its state, CLOSED and GONE. Written by the producer; the consumer only ever
    /// exchanges IDLE or LEFT for DETACHED.
    tail: AtomicU64,
    /// Where the list of pages begins, unless the consumer has taken it or there is none.
    first: AtomicPtr<Page>,
    pool: PagePool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.tail.load(Relaxed) & STATE != DETACHED {
            // SAFETY: both halves are gone, and `first` owns the list of pages that neither freed (see the module).
            unsafe { self.pool.free_list(self.first.load(Relaxed)) }
        }
    }
}

/// A FIFO that holds up to `capacity` unread bytes (at most 4 GiB - 1) in pages of `pool`.
///
/// Allocates the few words that the halves share, and nothing else: pages come with the first byte, and stay until `home` releases
/// them.
pub fn fifo(pool: &PagePool, capacity: usize, home: Home) -> (Producer, Consumer) {
    let shared = Arc::new(Shared {
        head: AtomicU64::new(0),
        tail: AtomicU64::new(DETACHED),
        first: AtomicPtr::new(ptr::null_mut()),
        pool: pool.clone(),
    });
    (Producer::new(shared.clone(), capacity, home), Consumer::new(shared))
}

/// Copies `from` to `to`, which is as long: what is short without a call.
#[inline(always)]
pub(crate) fn copy(to: &mut [u8], from: &[u8]) {
    match from.len() {
        8..16 => copy_chunks::<8>(to, from),
        16..=64 => copy_chunks::<16>(to, from),
        _ => to.copy_from_slice(from),
    }
}

/// As [`copy`], of at least `N` bytes: the last chunk overlaps the one before.
#[inline(always)]
fn copy_chunks<const N: usize>(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.as_chunks_mut::<N>().0.iter_mut().zip(from.as_chunks::<N>().0) {
        *to = *from;
    }
    if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk::<N>()) {
        *to = *from;
    }
}
