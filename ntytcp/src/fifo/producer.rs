//! The writing half.

use super::page::Page;
use super::sync::{
    Arc,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use super::{CLOSED, Consumer, DETACHED, GONE, Home, IDLE, LEFT, SHIFT, STATE, Shared, WRITING, position};
use core::ptr::{self, NonNull};
use core::slice;

/// The half of a FIFO that writes.
///
/// Dropping it without [`Producer::close`] tells the consumer that the stream broke off; bytes already published can
/// still be read.
pub struct Producer {
    shared: Arc<Shared>,
    /// What we last stored in `shared.tail`, or would have (see `attach`). Differs from it at most by the consumer's
    /// exchange of IDLE or LEFT for DETACHED.
    word: u64,
    /// The page of the tail: `base <= tail <= end`. Alive only while the state is WRITING.
    page: Option<NonNull<Page>>,
    /// The page of the last write, at or after `page`; bytes out of order tend to follow each other.
    recent: Option<NonNull<Page>>,
    capacity: u32,
    /// How far bytes are stored beyond the tail.
    stored: u32,
    /// The state between writes: WRITING if this half is at home, else IDLE.
    rest: u8,
}

/// The state between writes.
const fn at_rest(home: Home) -> u8 {
    match home {
        Home::Producer => WRITING as u8,
        Home::Consumer => IDLE as u8,
    }
}

impl Producer {
    pub(super) fn new(shared: Arc<Shared>, capacity: usize, home: Home) -> Self {
        let rest = at_rest(home);
        let mut new = Self { shared, word: DETACHED, page: None, recent: None, capacity: 0, stored: 0, rest };
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

    /// Changes which half is at home from now on.
    pub fn set_home(&mut self, home: Home) {
        self.rest = at_rest(home);
        if self.word & STATE == WRITING {
            self.publish();
        }
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

    /// Whether pages are attached, as far as this half knows.
    pub fn holds_pages(&self) -> bool {
        self.word & STATE != DETACHED
    }

    /// Whether [`Producer::write`] would take `len` bytes now: the capacity allows them, and there are pages for them, attached or to be
    /// had. A hint, as the other users of the pool may be first. For one that was told there is no room, not for a hot path.
    pub fn can_write(&self, len: usize) -> bool {
        let Some(rest) = len.checked_sub(self.room_attached()) else { return len <= self.room() };
        let pool = &self.shared.pool;
        let pages = rest.div_ceil(pool.page_data());
        len <= self.room() && pool.available(pages) == pages
    }

    /// How many bytes fit into the page of the tail.
    fn room_attached(&self) -> usize {
        // A consumer at home may have detached the page meanwhile.
        let attached = self.word & STATE != DETACHED && self.shared.tail.load(Acquire) & STATE != DETACHED;
        let Some(page) = self.page.filter(|_| attached || self.stored > 0) else { return 0 };
        // SAFETY: pages live as long as the pool. If this one was detached since, what is read is another FIFO's, and the answer as
        // wrong as one that was given before the page went.
        let header = unsafe { page.as_ref() };
        if self.is_rewindable(page) {
            return header.size() as usize;
        }
        header.end().saturating_sub(self.tail()).min(header.size()) as usize
    }

    /// Whether all was read, so that the page of the tail may begin anew: the consumer has then put back the only page and waits for
    /// a tail beyond its head.
    fn is_rewindable(&self, page: NonNull<Page>) -> bool {
        // SAFETY: pages live as long as the pool.
        self.stored == 0 && self.drained() && unsafe { page.as_ref() }.next().is_none()
    }

    /// Writes and publishes as many of `bytes` as fit, and says how many: fewer when the capacity or the pool is
    /// exhausted, none after [`Producer::close`].
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let Some(to) = self.span(bytes.len()) else { return self.write_in_pieces(bytes) };
        // SAFETY: `span` gives as many bytes that only the producer uses.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
        self.publish_span(bytes.len());
        bytes.len()
    }

    /// Lets `write` fill up to `max` contiguous bytes in place and publishes as many as it says. `None` without calling `write`
    /// when `max` or the room is none, when the FIFO is closed, or while bytes are stored beyond the tail. The slice may be
    /// shorter than both `max` and the room: it ends where a page does.
    ///
    /// The bytes are whatever was there before, of this stream or another: `write` sets each that it counts.
    #[inline]
    pub fn write_with(&mut self, max: usize, write: impl FnOnce(&mut [u8]) -> usize) -> Option<usize> {
        let Some((to, len)) = self.span_of(1, max) else { return self.write_with_new_page(max, write) };
        // SAFETY: `span_of` gives as many bytes that only the producer uses. They were initialised when the page was made.
        let n = write(unsafe { slice::from_raw_parts_mut(to, len) }).min(len);
        self.publish_span(n);
        Some(n)
    }

    /// Writes `header` and `payload` behind each other and publishes both at once, or neither: `false` when the capacity or
    /// the pool does not have room for all of it, after [`Producer::close`], and while bytes are stored beyond the tail.
    #[inline]
    #[must_use]
    pub fn write_record<const N: usize>(&mut self, header: [u8; N], payload: &[u8]) -> bool {
        let Some(to) = self.span(N + payload.len()) else {
            // A copy: whose address is taken, and the header of the common case stays in registers.
            return self.write_record_in_pieces(&{ header }, payload);
        };
        // SAFETY: `span` gives as many bytes that only the producer uses. They were initialised when the page was made.
        unsafe {
            to.cast::<[u8; N]>().write_unaligned(header);
            super::copy(slice::from_raw_parts_mut(to.add(N), payload.len()), payload);
        }
        self.publish_span(N + payload.len());
        true
    }

    /// As [`Producer::write_record`], with a payload of up to `max` bytes that `write` fills in place: it says how many of them, and
    /// `header` makes the header from that. `None`, without calling either, when the longest such record has no room that lies
    /// together; it may have some in pieces. What the bytes hold before is left over from earlier.
    #[inline]
    pub fn write_record_with<const N: usize>(
        &mut self,
        max: usize,
        header: impl FnOnce(usize) -> [u8; N],
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<usize> {
        let to = self.span(N.checked_add(max)?)?;
        // SAFETY: `span` gives as many bytes that only the producer uses. They were initialised when the page was made.
        let n = write(unsafe { slice::from_raw_parts_mut(to.add(N), max) }).min(max);
        // SAFETY: the header's place is before the payload's, whose slice is no longer used.
        unsafe { to.cast::<[u8; N]>().write_unaligned(header(n)) };
        self.publish_span(N + n);
        Some(n)
    }

    /// Where the next `len` bytes go, in the common case that all is ready: nothing is stored beyond the tail, the capacity
    /// allows them, and they fit into the page of the tail. Whoever gets a place fills it and calls `publish_span`.
    #[inline]
    fn span(&mut self, len: usize) -> Option<*mut u8> {
        self.span_of(len, len).map(|(to, _)| to)
    }

    /// As `span` for `least` bytes, or as many up to `most` as lie together, and how many these are.
    #[inline]
    fn span_of(&mut self, least: usize, most: usize) -> Option<(*mut u8, usize)> {
        let head = self.shared.head.load(Acquire);
        let tail = self.tail();
        let unread = tail - position(head);
        let shut = (self.word & CLOSED) | (head & GONE) | u64::from(self.stored);
        let (least, most) =
            (least as u64, (most as u64).min(u64::from(self.capacity).saturating_sub(unread)));
        if shut != 0 || most < least || !self.enter() {
            return None;
        }
        let page = self.page?;
        // SAFETY: the state is WRITING, so the page of the tail is alive.
        let header = unsafe { page.as_ref() };
        let mut offset = tail - header.base();
        if unread == 0 && header.next().is_none() {
            // All was read, so the consumer has put back the only page and waits for a tail beyond its head.
            header.rebase(tail);
            offset = 0;
        }
        let len = most.min(header.size() - offset);
        if len < least {
            return None;
        }
        // SAFETY: the page has the bytes, which lie beyond the tail and are the producer's alone.
        Some((unsafe { Page::bytes_mut(page, offset as usize, len as usize) }, len as usize))
    }

    #[inline(never)]
    fn write_with_new_page(&mut self, max: usize, write: impl FnOnce(&mut [u8]) -> usize) -> Option<usize> {
        let max = self.room().min(max);
        if max == 0 || self.stored > 0 || !self.begin() {
            return None;
        }
        let Some((page, offset, len)) = self.page_at(self.page, self.tail(), max) else {
            self.settle();
            return None;
        };
        // SAFETY: `page_at` says that the page covers `len` bytes from the tail on; those are the producer's alone
        // while the state is WRITING. They were initialised when the page was made.
        let n = write(unsafe { slice::from_raw_parts_mut(Page::bytes_mut(page, offset, len), len) }).min(len);
        self.stored = n as u32;
        if n == 0 {
            // A page that was linked for it is not needed.
            self.rollback();
        }
        self.advance(n);
        Some(n)
    }

    /// Publishes the bytes that were written where `span` said.
    #[inline]
    fn publish_span(&mut self, len: usize) {
        self.word = ((self.tail() + len as u64) << SHIFT) | u64::from(self.rest);
        // Release: the bytes come before the position that makes them visible.
        self.shared.tail.store(self.word, Release);
    }

    #[inline(never)]
    fn write_in_pieces(&mut self, bytes: &[u8]) -> usize {
        let n = self.write_at(0, bytes);
        self.advance(n);
        n
    }

    #[cold]
    fn write_record_in_pieces<const N: usize>(&mut self, header: &[u8; N], payload: &[u8]) -> bool {
        let whole = N + payload.len();
        if self.stored > 0 || self.room() < whole {
            return false;
        }
        if self.write_at(0, header) < N || self.write_at(N, payload) < payload.len() {
            self.rollback();
            return false;
        }
        self.advance(whole);
        true
    }

    /// Stores `bytes` at `offset` bytes beyond the tail without publishing them, and says how many of them, counted
    /// from the first, fit. What lies between is zero until it is written. Which ranges were stored is the caller's
    /// to remember; [`Producer::advance`] publishes them.
    ///
    /// Storage is taken for everything up to the end of `bytes`, so a caller that lets a peer choose `offset` bounds it.
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.room().saturating_sub(offset));
        if n == 0 || !self.begin() {
            return 0;
        }
        if let Some(page) = self.page.filter(|&page| self.is_rewindable(page)) {
            // SAFETY: the state is WRITING, so the page of the tail is alive.
            unsafe { page.as_ref() }.rebase(self.tail());
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
        self.word = (tail << SHIFT) | WRITING;
        self.publish();
    }

    /// Gives the pages back if every byte was consumed (or nobody is there to do it), for the home of the FIFO to call when
    /// nothing has happened for a while. With bytes unread, the consumer gives them back once it has read the last. Bytes
    /// that [`Producer::write_at`] stored keep all as it is.
    ///
    /// `true` asks for one more call after some time: a consumer that read the last byte just now may not know yet that
    /// the pages are its to give back.
    pub fn release(&mut self) -> bool {
        let state = self.word & STATE;
        if state == DETACHED || self.stored > 0 {
            return false;
        }
        let head = self.shared.head.load(Acquire);
        if position(head) != self.tail() && head & GONE == 0 {
            if state == WRITING {
                self.word = self.word & !STATE | LEFT;
                self.shared.tail.store(self.word, Release);
            }
            return state == WRITING;
        }
        if self.enter() {
            self.detach();
        }
        false
    }

    /// Frees all pages. The state is WRITING and the consumer has read all, or is gone: its page is in `first`.
    fn detach(&mut self) {
        let list = self.shared.first.load(Relaxed);
        (self.page, self.recent) = (None, None);
        self.word &= !STATE;
        self.shared.tail.store(self.word, Release);
        // SAFETY: the consumer waits for a tail beyond its head, and our pointers are gone.
        unsafe { self.shared.pool.free_list(list) }
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
        self.mark(CLOSED);
    }

    /// Sets a bit of the word for good.
    fn mark(&mut self, bit: u64) {
        if matches!(self.word & STATE, DETACHED | WRITING) {
            // The consumer changes nothing in these states, so that a plain store loses nothing of its.
            self.word |= bit;
            self.shared.tail.store(self.word, Release);
        } else {
            self.word = self.shared.tail.fetch_or(bit, AcqRel) | bit;
        }
    }

    /// Makes the FIFO as good as new for another stream, with both its halves at hand: what was not read is gone, and no page
    /// is attached. `false`, and nothing happens, when `consumer` is not the other half.
    #[inline]
    #[must_use]
    pub fn restart(&mut self, consumer: &mut Consumer) -> bool {
        if !consumer.is_half_of(&self.shared) {
            return false;
        }
        if self.word & STATE != DETACHED {
            self.rollback();
            consumer.discard_all();
            if self.enter() {
                self.detach();
            }
        }
        // DETACHED: there are no bytes, and the word is ours.
        self.word &= !CLOSED;
        self.shared.tail.store(self.word, Release);
        consumer.look_again();
        true
    }

    /// How many bytes the capacity allows; none for a consumer that is gone.
    fn room(&self) -> usize {
        let head = self.shared.head.load(Acquire);
        if (self.word & CLOSED) | (head & GONE) != 0 {
            return 0;
        }
        self.capacity().saturating_sub((self.tail() - position(head)) as usize)
    }

    /// Enters WRITING if pages are attached.
    #[inline]
    fn enter(&mut self) -> bool {
        let writing = self.word & !STATE | WRITING;
        if self.word == writing {
            return true;
        }
        if self.word & STATE == DETACHED {
            return false;
        }
        match self.shared.tail.compare_exchange(self.word, writing, Acquire, Acquire) {
            Ok(_) => self.word = writing,
            // The consumer was first: our pages are gone.
            Err(now) => self.word = now,
        }
        self.word == writing
    }

    /// Enters WRITING, with a page attached. Fails when the pool has none.
    fn begin(&mut self) -> bool {
        self.enter() || self.attach()
    }

    #[cold]
    fn attach(&mut self) -> bool {
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

    /// Publishes the tail, with the state at rest unless bytes are stored beyond it.
    fn publish(&mut self) {
        if self.stored == 0 {
            self.word = self.word & !STATE | u64::from(self.rest);
        }
        // Release: the bytes and links of the pages come before the position that makes them visible.
        self.shared.tail.store(self.word, Release);
    }

    /// A page from the pool; none for a consumer that is gone.
    fn alloc(&self, base: u64) -> Option<NonNull<Page>> {
        if self.is_consumer_alive() { self.shared.pool.alloc(base) } else { None }
    }

    /// The page, from `from` on, that covers `pos`, the offset there, and how many of `len` bytes it covers. Links new pages as
    /// needed.
    fn page_at(
        &self,
        from: Option<NonNull<Page>>,
        pos: u64,
        len: usize,
    ) -> Option<(NonNull<Page>, usize, usize)> {
        let mut page = from?;
        loop {
            // SAFETY: the state is WRITING: every page from the tail's on is alive, and its links are ours.
            let header = unsafe { page.as_ref() };
            let end = header.end();
            if pos < end {
                return Some((page, (pos - header.base()) as usize, len.min((end - pos) as usize)));
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
            let Some((here, offset, n)) = self.page_at(page, pos, len - done) else { break };
            // SAFETY: the page covers `n` bytes from `pos` on, beyond the tail, which are the producer's alone.
            copy(unsafe { Page::bytes_mut(here, offset, n) }, done, n);
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
        if self.enter() {
            let head = self.shared.head.load(Acquire);
            if position(head) == self.tail() || head & GONE != 0 {
                self.detach();
            } else {
                self.word = self.word & !STATE | LEFT;
                self.shared.tail.store(self.word, Release);
            }
        }
        self.mark(GONE);
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
