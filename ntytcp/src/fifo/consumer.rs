//! The reading half.

use super::page::Page;
use super::sync::{
    Arc,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use super::{CLOSED, DETACHED, GONE, IDLE, LEFT, SHIFT, STATE, Shared, position};
use core::mem;
use core::ptr::NonNull;
use core::slice;

/// The half of a FIFO that reads.
///
/// Bytes stay readable, at any offset and any number of times, until they are consumed: a transmit buffer peeks what it
/// sends, peeks it again to retransmit, and consumes what was acknowledged. Dropping it discards what is unread.
pub struct Consumer {
    shared: Arc<Shared>,
    /// Our position, as last stored in `shared.head`.
    head: u64,
    /// `shared.tail` as last seen.
    tail: u64,
    /// The page of the head: `base <= head <= end`. `None` while it is in `shared.first`, where it goes back whenever all
    /// that we know of was read.
    page: Option<NonNull<Page>>,
    /// The page where the last peek began, at or after `page`; the next one usually begins there or a page later.
    cursor: Option<NonNull<Page>>,
}

impl Consumer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, head: 0, tail: DETACHED, page: None, cursor: None }
    }

    /// How many bytes can be read.
    #[inline]
    pub fn len(&self) -> usize {
        (position(self.shared.tail.load(Acquire)) - self.head) as usize
    }

    /// Whether nothing can be read now.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes can be read, and whether no more will follow: the producer has closed the stream, or is gone.
    #[inline]
    pub fn look(&self) -> (usize, bool) {
        let tail = self.shared.tail.load(Acquire);
        ((position(tail) - self.head) as usize, tail & (CLOSED | GONE) != 0)
    }

    /// The position of the head: how many bytes were ever consumed.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Whether the producer has closed the stream: what can be read now is all there will be.
    pub fn is_closed(&self) -> bool {
        self.shared.tail.load(Acquire) & CLOSED != 0
    }

    /// Whether the producer has closed the stream and every byte of it was consumed.
    pub fn is_finished(&self) -> bool {
        let tail = self.shared.tail.load(Acquire);
        tail & CLOSED != 0 && position(tail) == self.head
    }

    /// Whether the producer still exists. If it has gone without closing, the stream broke off.
    pub fn is_producer_alive(&self) -> bool {
        self.shared.tail.load(Acquire) & GONE == 0
    }

    /// Whether pages are attached.
    #[inline]
    pub fn holds_pages(&self) -> bool {
        self.shared.tail.load(Relaxed) & STATE != DETACHED
    }

    /// The bytes `offset .. offset + len` from the head on, as contiguous pieces, cut to what can be read. Consumes nothing.
    ///
    /// Peeks that follow each other cost O(1); a peek behind the previous one starts again from the head.
    #[inline]
    pub fn peek(&mut self, offset: usize, len: usize) -> Chunks<'_> {
        let end = self.readable(offset.saturating_add(len));
        if offset >= end {
            return Chunks { chunk: &[], page: None, left: 0 };
        }
        let (pos, left) = (self.head + offset as u64, end - offset);
        let page = self.page_of(pos);
        match page {
            // SAFETY: the page covers `pos`, and the bytes lie before the tail.
            Some(page) => unsafe { Chunks::at(page, pos, left) },
            None => Chunks { chunk: &[], page: None, left: 0 },
        }
    }

    /// The bytes `offset .. offset + len` from the head on, if there are as many and they lie together where the last peek began:
    /// nearly always.
    #[inline(always)]
    pub fn peek_whole(&mut self, offset: usize, len: usize) -> Option<&[u8]> {
        // Without a byte to be read, the pages are the producer's.
        if len == 0 || self.readable(offset.checked_add(len)?) < offset + len {
            return None;
        }
        let (pos, _) = (self.head + offset as u64, self.first_page()?);
        let page = self.cursor?;
        // SAFETY: pages from the head's on are alive until we free them.
        let header = unsafe { page.as_ref() };
        if header.base() > pos || pos + len as u64 > header.end() {
            return None;
        }
        // SAFETY: the page covers the positions; they are before the tail, so no one writes them any more, and the
        // consumer, which is borrowed, consumes none. Initialised when the page was made.
        Some(unsafe { slice::from_raw_parts(Page::bytes(page, pos, len), len) })
    }

    /// Copies the bytes from `offset` beyond the head on into `to`, and says how many there were. Consumes nothing.
    #[inline]
    pub fn copy_to(&mut self, offset: usize, to: &mut [u8]) -> usize {
        let mut done = 0;
        for chunk in self.peek(offset, to.len()) {
            let (Some(to), end) = (to.get_mut(done..done + chunk.len()), done + chunk.len()) else { break };
            to.copy_from_slice(chunk);
            done = end;
        }
        done
    }

    /// Moves bytes into `to`, and says how many.
    #[inline]
    pub fn read(&mut self, to: &mut [u8]) -> usize {
        let n = self.len().min(to.len());
        let n = match (self.peek_whole(0, n), to.get_mut(..n)) {
            (Some(whole), Some(to)) => {
                to.copy_from_slice(whole);
                n
            }
            _ => self.copy_to(0, to),
        };
        self.consume(n);
        n
    }

    /// Drops the first `n` bytes, or all if there are fewer, and says how many. Each page but the last goes back to the pool as it
    /// becomes empty.
    #[inline]
    pub fn consume(&mut self, n: usize) -> usize {
        let n = self.readable(n);
        // There is a page if there are bytes.
        let page = if n == 0 { None } else { self.first_page() };
        let Some(page) = page else {
            self.detach_if_left();
            return 0;
        };
        let (head, tail) = (self.head + n as u64, position(self.tail));
        // SAFETY: pages from the head's on are alive until we free them.
        let end = unsafe { page.as_ref() }.end();
        if head >= end && tail > end {
            self.leave_pages_before(head);
        }
        self.head = head;
        if head < tail {
            // Release: we are done with the bytes before the producer hears of it.
            self.shared.head.store(head << SHIFT, Release);
        } else {
            self.put_page_back();
            // Release: as above, and the page is in `first` before the producer takes it for its own.
            self.shared.head.store(head << SHIFT, Release);
            self.detach_if_left();
        }
        n
    }

    /// Drops all that can be read, and says how much it was.
    pub fn discard_all(&mut self) -> usize {
        self.consume(self.len())
    }

    /// Gives the pages back if every byte was consumed and the producer is not writing, for the home of the FIFO to call when
    /// nothing has happened for a while.
    pub fn release(&mut self) {
        // The producer may close, and go, while we try: each can make the exchange fail once. A third failure means that
        // it writes, and then there is a next time.
        for _ in 0..3 {
            self.tail = self.shared.tail.load(Acquire);
            if position(self.tail) != self.head || !matches!(self.tail & STATE, IDLE | LEFT) {
                return;
            }
            // Nobody writes there while the state is IDLE or LEFT and we hold no page.
            let list = self.shared.first.load(Relaxed);
            let detached = self.tail & !STATE | DETACHED;
            if self.shared.tail.compare_exchange(self.tail, detached, AcqRel, Relaxed).is_ok() {
                self.tail = detached;
                // SAFETY: the exchange made the list ours: the producer touched no page and now knows of none.
                return unsafe { self.shared.pool.free_list(list) };
            }
        }
    }

    pub(super) fn is_half_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// The producer's word was changed while nothing could be read.
    pub(super) fn look_again(&mut self) {
        self.tail = self.shared.tail.load(Acquire);
    }

    /// How many of the first `want` bytes there are. Asks for the producer's position only if the last one seen does not do.
    #[inline]
    fn readable(&mut self, want: usize) -> usize {
        let cached = (position(self.tail) - self.head) as usize;
        if cached >= want {
            return want;
        }
        self.tail = self.shared.tail.load(Acquire);
        want.min((position(self.tail) - self.head) as usize)
    }

    /// The page of the head. There is one if bytes can be read.
    #[inline]
    fn first_page(&mut self) -> Option<NonNull<Page>> {
        if self.page.is_none() {
            // The producer stored it before it published the bytes, or we did before we published our head.
            self.page = NonNull::new(self.shared.first.load(Relaxed));
            self.cursor = self.page;
        }
        self.page
    }

    /// The page that covers `pos`, at which a byte can be read.
    #[inline]
    fn page_of(&mut self, pos: u64) -> Option<NonNull<Page>> {
        let first = self.first_page();
        let page = self.cursor?;
        // SAFETY: pages from the head's on are alive until we free them.
        let header = unsafe { page.as_ref() };
        if header.base() <= pos && pos < header.end() { Some(page) } else { self.seek(first?, page, pos) }
    }

    /// The page that covers `pos`, from `cursor` on if it is not before that.
    #[inline(never)]
    fn seek(&mut self, first: NonNull<Page>, cursor: NonNull<Page>, pos: u64) -> Option<NonNull<Page>> {
        // SAFETY: pages from the head's on are alive until we free them.
        let mut page = if unsafe { cursor.as_ref() }.base() <= pos { cursor } else { first };
        // SAFETY: as above.
        while pos >= unsafe { page.as_ref() }.end() {
            // SAFETY: as above. The tail is beyond this page, so the producer has linked the next.
            page = unsafe { page.as_ref() }.next()?;
        }
        self.cursor = Some(page);
        Some(page)
    }

    /// Frees the pages that hold nothing at or beyond `head` once the producer has left them too.
    #[inline(never)]
    fn leave_pages_before(&mut self, head: u64) {
        let tail = position(self.tail);
        while let Some(page) = self.page {
            // SAFETY: alive until we free it.
            let header = unsafe { page.as_ref() };
            let end = header.end();
            if head < end || tail <= end {
                return;
            }
            // The tail is beyond this page: there is a next one.
            self.page = header.next();
            if self.cursor == Some(page) {
                self.cursor = self.page;
            }
            // SAFETY: the producer left the page before it published a tail beyond it, and we hold it no more.
            unsafe { self.shared.pool.free(page) }
        }
    }

    /// Forgets the page: nothing more is known to be in it.
    #[inline]
    fn put_page_back(&mut self) {
        self.cursor = None;
        if let Some(page) = self.page.take() {
            self.shared.first.store(page.as_ptr(), Relaxed);
        }
    }

    /// Detaches what the producer has left to us, after everything was read.
    #[inline]
    fn detach_if_left(&mut self) {
        if self.shared.tail.load(Relaxed) & STATE == LEFT {
            self.release();
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.discard_all();
        // An idle producer has no part in the pages, one that writes frees them or leaves them to the last half.
        self.release();
        self.put_page_back();
        self.shared.head.store(self.head << SHIFT | GONE, Release);
    }
}

/// Contiguous pieces of a FIFO, in order. See [`Consumer::peek`].
pub struct Chunks<'a> {
    /// The next piece; empty when there is none.
    chunk: &'a [u8],
    /// The page that it lies in.
    page: Option<NonNull<Page>>,
    /// Bytes to come after it. They lie in the pages that follow, from the first byte of the next on.
    left: usize,
}

impl<'a> Chunks<'a> {
    /// The `len` bytes from `pos` on, where `page` covers `pos`.
    ///
    /// # Safety
    /// The page and those after it are alive and the bytes published, none of them consumed, during `'a`.
    #[inline]
    unsafe fn at(page: NonNull<Page>, pos: u64, len: usize) -> Self {
        // SAFETY: alive, says the caller.
        let n = len.min((unsafe { page.as_ref() }.end() - pos) as usize);
        // SAFETY: the page covers the positions; they are before the tail, so no one writes them any more, and the
        // consumer, which is borrowed, consumes none. Initialised when the page was made.
        let chunk = unsafe { slice::from_raw_parts(Page::bytes(page, pos, n), n) };
        Self { chunk, page: Some(page), left: len - n }
    }

    /// How many bytes are still to come.
    pub fn remaining(&self) -> usize {
        self.chunk.len() + self.left
    }

    /// The first of the bytes that are to come, as far as they lie together.
    #[inline]
    pub fn first(&self) -> &'a [u8] {
        self.chunk
    }

    #[cold]
    fn turn_page(&mut self) {
        // SAFETY: alive while the consumer is borrowed: it frees nothing, and the producer no page that has published bytes.
        let next = self.page.and_then(|page| unsafe { page.as_ref() }.next());
        let Some(page) = next else { return self.left = 0 };
        // SAFETY: as above. The bytes go on where the next page begins.
        *self = unsafe { Self::at(page, page.as_ref().base(), self.left) };
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let chunk = mem::take(&mut self.chunk);
        if self.left > 0 {
            self.turn_page();
        }
        if chunk.is_empty() { None } else { Some(chunk) }
    }
}

impl core::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Consumer")
            .field("head", &self.head)
            .field("len", &self.len())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl core::fmt::Debug for Chunks<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Chunks").field("remaining", &self.remaining()).finish_non_exhaustive()
    }
}

// SAFETY: the pointers are to pages that this half frees, whichever thread it is on.
unsafe impl Send for Consumer {}
