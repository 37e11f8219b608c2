//! The writing half.

use super::page::Page;
use super::sync::{
    Arc,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use super::{CLOSED, DETACHED, GONE, IDLE, SHIFT, STATE, Shared, WRITING, position};
use core::ptr::{self, NonNull};
use core::slice;

/// The half of a FIFO that writes.
///
/// Dropping it without [`Producer::close`] tells the consumer that the stream broke off; bytes already published can
/// still be read.
pub struct Producer {
    shared: Arc<Shared>,
    /// What we last stored in `shared.tail`, or would have (see `begin`). Differs from it at most by the consumer's
    /// exchange of IDLE for DETACHED.
    word: u64,
    /// The consumer's position as last seen.
    head: u64,
    /// The page of the tail: `base <= tail <= end`. Alive only while the state is WRITING.
    page: Option<NonNull<Page>>,
    /// The page of the last write, at or after `page`; bytes out of order tend to follow each other.
    recent: Option<NonNull<Page>>,
    capacity: u32,
    /// How far bytes are stored beyond the tail.
    stored: u32,
}

impl Producer {
    pub(super) fn new(shared: Arc<Shared>, capacity: usize) -> Self {
        let mut new =
            Self { shared, word: DETACHED, head: 0, page: None, recent: None, capacity: 0, stored: 0 };
        new.set_capacity(capacity);
        new
    }

    /// How many unread bytes the FIFO holds at most.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Changes the capacity (at most 4 GiB - 1) for what is written from now on. Shrinking it below what is unread
    /// takes nothing away.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = u32::try_from(capacity).unwrap_or(u32::MAX);
    }

    /// Bytes published and not yet consumed.
    pub fn unread(&self) -> usize {
        (self.tail() - position(self.shared.head.load(Acquire))) as usize
    }

    /// How many more bytes the capacity allows, those stored beyond the tail not counted. The pool may allow fewer.
    pub fn free(&self) -> usize {
        self.capacity().saturating_sub(self.unread())
    }

    /// How far beyond the tail bytes were stored by [`Producer::write_at`], gaps included.
    pub fn stored(&self) -> usize {
        self.stored as usize
    }

    /// The position of the tail: how many bytes were ever published.
    pub fn tail(&self) -> u64 {
        position(self.word)
    }

    /// Whether every published byte was consumed.
    pub fn drained(&self) -> bool {
        self.unread() == 0
    }

    /// Whether the consumer still exists. Nobody will read what is written after it has gone.
    pub fn is_consumer_alive(&self) -> bool {
        self.shared.head.load(Acquire) & GONE == 0
    }

    /// Whether [`Producer::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.word & CLOSED != 0
    }

    /// Writes and publishes as many of `bytes` as fit, and says how many: fewer when the capacity or the pool is
    /// exhausted, none after [`Producer::close`].
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let n = self.write_at(0, bytes);
        self.advance(n);
        n
    }

    /// Stores `bytes` at `offset` bytes beyond the tail without publishing them, and says how many of them, counted
    /// from the first, fit. What lies between is zero until it is written. Which ranges were stored is the caller's
    /// to remember; [`Producer::advance`] publishes them.
    ///
    /// Storage is taken for everything up to the end of `bytes`, so a caller that lets a peer choose `offset` bounds it.
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) -> usize {
        let room = self.room(offset.saturating_add(bytes.len()));
        let n = bytes.len().min(room.saturating_sub(offset));
        if n == 0 || !self.begin() {
            return 0;
        }
        if !self.zero_up_to(offset) {
            self.settle();
            return 0;
        }
        let done = self.fill(offset, n, |to, done, len| {
            // SAFETY: `fill` gives `len` bytes that only the producer uses, and `done + len <= n`.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr().add(done), to, len) }
        });
        self.settle();
        done
    }

    /// Publishes the next `n` bytes, which [`Producer::write_at`] has stored. More than was stored is cut to that.
    pub fn advance(&mut self, n: usize) {
        let n = n.min(self.stored as usize);
        if n == 0 {
            return;
        }
        // Bytes are stored, so the state is WRITING and the page alive.
        self.stored -= n as u32;
        let tail = self.tail() + n as u64;
        while let Some(page) = self.page {
            // SAFETY: alive, as above; the consumer frees no page before it sees a tail beyond its end.
            let header = unsafe { page.as_ref() };
            if tail <= header.end() {
                break;
            }
            self.page = header.next();
            if self.recent == Some(page) {
                self.recent = self.page;
            }
        }
        self.word = (tail << SHIFT) | (self.word & CLOSED) | WRITING;
        self.publish();
    }

    /// Lets `write` fill up to `max` contiguous zeroed bytes in place and publishes as many as it says. Returns that
    /// number; 0 without calling `write` when there is no room, when the FIFO is closed, or while bytes are stored
    /// beyond the tail. The slice may be shorter than both `max` and the room.
    pub fn write_with(&mut self, max: usize, write: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let max = self.room(max).min(max);
        if max == 0 || self.stored > 0 || !self.begin() {
            return 0;
        }
        let Some((page, len)) = self.page_at(self.page, self.tail(), max) else {
            self.settle();
            return 0;
        };
        // SAFETY: `page_at` says that the page covers `len` bytes from the tail on; those are the producer's alone
        // while the state is WRITING. They were initialised when the page was made.
        let spare = unsafe { slice::from_raw_parts_mut(Page::bytes_mut(page, self.tail(), len), len) };
        // What an earlier FIFO left in the page is none of the caller's business.
        spare.fill(0);
        let n = write(spare).min(len);
        self.stored = n as u32;
        if n == 0 {
            self.settle();
        }
        self.advance(n);
        n
    }

    /// Forgets everything that [`Producer::write_at`] stored and that was not published, and frees its pages.
    pub fn rollback(&mut self) {
        self.stored = 0;
        if self.word & STATE != WRITING {
            return;
        }
        if let Some(page) = self.page {
            // SAFETY: alive because the state is WRITING.
            let header = unsafe { page.as_ref() };
            let rest = header.next();
            header.set_next(ptr::null_mut());
            // SAFETY: no byte of the following pages was published, so the consumer never looked for them.
            unsafe { self.shared.pool.free_list(rest.map_or(ptr::null_mut(), NonNull::as_ptr)) }
        }
        self.recent = self.page;
        self.publish();
    }

    /// Ends the stream after the last published byte; bytes stored beyond it are forgotten. Nothing can be written after.
    pub fn close(&mut self) {
        self.rollback();
        self.word = self.shared.tail.fetch_or(CLOSED, AcqRel) | CLOSED;
    }

    /// How many bytes the capacity allows. Asks the consumer's position only if the last one seen allows fewer than
    /// `want`.
    fn room(&mut self, want: usize) -> usize {
        if self.word & CLOSED != 0 {
            return 0;
        }
        let free = self.capacity().saturating_sub((self.tail() - self.head) as usize);
        if free >= want {
            return free;
        }
        self.head = position(self.shared.head.load(Acquire));
        self.capacity().saturating_sub((self.tail() - self.head) as usize)
    }

    /// Enters WRITING, with a page attached. Fails when the pool has none.
    fn begin(&mut self) -> bool {
        match self.word & STATE {
            WRITING => return true,
            IDLE => {
                let writing = self.word & !STATE | WRITING;
                match self.shared.tail.compare_exchange(self.word, writing, Acquire, Acquire) {
                    Ok(_) => {
                        self.word = writing;
                        return true;
                    }
                    // The consumer was first: our pages are gone.
                    Err(now) => self.word = now,
                }
            }
            _ => {}
        }
        self.page = self.alloc(self.tail());
        self.recent = self.page;
        let Some(page) = self.page else { return false };
        self.shared.first.store(page.as_ptr(), Relaxed);
        // The consumer still sees DETACHED and leaves all alone until the next `publish`.
        self.word = self.word & !STATE | WRITING;
        true
    }

    /// After storing: WRITING is kept, and made known, as long as bytes lie beyond the tail.
    fn settle(&mut self) {
        if self.stored == 0 {
            self.publish();
        }
    }

    /// Publishes the tail, as IDLE unless bytes are stored beyond it.
    fn publish(&mut self) {
        if self.stored == 0 {
            self.word = self.word & !STATE | IDLE;
        }
        // Release: the bytes and links of the pages come before the position that makes them visible.
        self.shared.tail.store(self.word, Release);
    }

    /// A page from the pool; none for a consumer that is gone.
    fn alloc(&self, base: u64) -> Option<NonNull<Page>> {
        if self.is_consumer_alive() { self.shared.pool.alloc(base) } else { None }
    }

    /// The page, from `from` on, that covers `pos`, and how many of `len` bytes it covers. Links new pages as needed.
    fn page_at(&self, from: Option<NonNull<Page>>, pos: u64, len: usize) -> Option<(NonNull<Page>, usize)> {
        let mut page = from?;
        loop {
            // SAFETY: the state is WRITING: every page from the tail's on is alive, and its links are ours.
            let header = unsafe { page.as_ref() };
            let end = header.end();
            if pos < end {
                return Some((page, len.min((end - pos) as usize)));
            }
            page = match header.next() {
                Some(next) => next,
                None => {
                    let new = self.alloc(end)?;
                    header.set_next(new.as_ptr());
                    new
                }
            };
        }
    }

    /// Zeros what lies between the stored bytes and `offset`. False when pages ran out.
    fn zero_up_to(&mut self, offset: usize) -> bool {
        let stored = self.stored as usize;
        let Some(gap) = offset.checked_sub(stored) else { return true };
        gap == 0
            || gap
                == self.fill(stored, gap, |to, _, len| {
                    // SAFETY: `fill` gives `len` bytes that only the producer uses.
                    unsafe { ptr::write_bytes(to, 0, len) }
                })
    }

    /// Has `copy(to, done, len)` write `len` bytes from `offset` beyond the tail on, piece by piece. Returns how many bytes
    /// pages could be found for. The state is WRITING.
    fn fill(&mut self, offset: usize, len: usize, mut copy: impl FnMut(*mut u8, usize, usize)) -> usize {
        let from = self.tail() + offset as u64;
        // SAFETY: alive, as every page from the tail's on.
        let mut page = self.recent.filter(|p| unsafe { p.as_ref() }.base() <= from).or(self.page);
        let mut done = 0;
        while done < len {
            let pos = from + done as u64;
            let Some((here, n)) = self.page_at(page, pos, len - done) else { break };
            // SAFETY: the page covers `n` bytes from `pos` on, beyond the tail, which are the producer's alone.
            copy(unsafe { Page::bytes_mut(here, pos, n) }, done, n);
            done += n;
            page = Some(here);
        }
        self.recent = page;
        self.stored = self.stored.max((offset + done) as u32);
        done
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.rollback();
        self.shared.tail.fetch_or(GONE, Release);
    }
}

impl core::fmt::Debug for Producer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Producer")
            .field("tail", &self.tail())
            .field("unread", &self.unread())
            .field("stored", &self.stored)
            .field("capacity", &self.capacity)
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

// SAFETY: the pointers are to pages that only this half uses while the state is WRITING, whichever thread it is on.
unsafe impl Send for Producer {}
