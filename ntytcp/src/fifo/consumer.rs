//! The reading half.

use super::page::Page;
use super::sync::{
    Arc,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use super::{CLOSED, DETACHED, GONE, IDLE, SHIFT, STATE, Shared, position};
use core::marker::PhantomData;
use core::ptr::{self, NonNull};
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
    /// The page of the head: `base <= head <= end`. `None` until the list was taken from `shared.first`.
    page: Option<NonNull<Page>>,
    /// The page where the last peek began, at or after `page`; the next one usually begins there or a page later.
    cursor: Option<NonNull<Page>>,
}

impl Consumer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, head: 0, tail: DETACHED, page: None, cursor: None }
    }

    /// How many bytes can be read.
    pub fn len(&self) -> usize {
        (position(self.shared.tail.load(Acquire)) - self.head) as usize
    }

    /// Whether nothing can be read now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes can be read, and whether no more will follow: the producer has closed the stream, or is gone.
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

    /// The bytes `offset .. offset + len` from the head on, as contiguous pieces, cut to what can be read. Consumes nothing.
    ///
    /// Peeks that follow each other cost O(1); a peek behind the previous one starts again from the head.
    pub fn peek(&mut self, offset: usize, len: usize) -> Chunks<'_> {
        let end = self.readable(offset.saturating_add(len));
        let from = self.head + (offset.min(end)) as u64;
        let len = end.saturating_sub(offset);
        let page = if len == 0 { None } else { self.page_of(from) };
        Chunks { page, pos: from, left: len, fifo: PhantomData }
    }

    /// Copies the bytes from `offset` beyond the head on into `to`, and says how many there were. Consumes nothing.
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
    pub fn read(&mut self, to: &mut [u8]) -> usize {
        let n = self.copy_to(0, to);
        self.consume(n);
        n
    }

    /// Drops the first `n` bytes, or all if there are fewer, and says how many. Storage goes back to the pool as it becomes
    /// empty, the last page included.
    pub fn consume(&mut self, n: usize) -> usize {
        let n = n.min(self.readable(n));
        if n > 0 {
            let head = self.head + n as u64;
            self.leave_pages_before(head);
            self.head = head;
            // Release: we are done with the bytes before the producer hears of it.
            self.shared.head.store(head << SHIFT, Release);
        }
        if self.head == position(self.tail) {
            self.detach();
        }
        n
    }

    /// Drops all that can be read, and says how much it was.
    pub fn discard_all(&mut self) -> usize {
        self.consume(self.len())
    }

    /// How many of the first `want` bytes there are. Asks for the producer's position only if the last one seen does not do.
    fn readable(&mut self, want: usize) -> usize {
        let cached = (position(self.tail) - self.head) as usize;
        if cached >= want {
            return want;
        }
        self.tail = self.shared.tail.load(Acquire);
        want.min((position(self.tail) - self.head) as usize)
    }

    /// The page of the head. There is one if bytes can be read.
    fn first_page(&mut self) -> Option<NonNull<Page>> {
        if self.page.is_none() {
            // Only the producer's leaving DETACHED stores here, and it cannot do that before we have detached.
            self.page = NonNull::new(self.shared.first.load(Relaxed));
            self.shared.first.store(ptr::null_mut(), Relaxed);
            self.cursor = self.page;
        }
        self.page
    }

    /// The page that covers `pos`, at which a byte can be read.
    fn page_of(&mut self, pos: u64) -> Option<NonNull<Page>> {
        let first = self.first_page();
        // SAFETY: pages from the head's on are alive until we free them.
        let mut page = self.cursor.filter(|p| unsafe { p.as_ref() }.base() <= pos).or(first)?;
        // SAFETY: as above.
        while pos >= unsafe { page.as_ref() }.end() {
            // SAFETY: as above. The tail is beyond this page, so the producer has linked the next.
            page = unsafe { page.as_ref() }.next()?;
        }
        self.cursor = Some(page);
        Some(page)
    }

    /// Frees the pages that hold nothing at or beyond `head` once the producer has left them too.
    fn leave_pages_before(&mut self, head: u64) {
        let tail = position(self.tail);
        while let Some(page) = self.first_page() {
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

    /// Gives the last page back if all was read and the producer is not writing.
    fn detach(&mut self) {
        // The producer may close, and go, while we try: each can make the exchange fail once. A third failure means that
        // it writes, and then there is a next time.
        for _ in 0..3 {
            self.tail = if self.tail & STATE == IDLE { self.tail } else { self.shared.tail.load(Acquire) };
            if self.tail & STATE != IDLE || position(self.tail) != self.head {
                return;
            }
            // Taken out of `first` before the producer may use that again.
            self.first_page();
            let detached = self.tail & !STATE | DETACHED;
            match self.shared.tail.compare_exchange(self.tail, detached, AcqRel, Acquire) {
                Ok(_) => {
                    self.tail = detached;
                    self.cursor = None;
                    let list = self.page.take().map_or(ptr::null_mut(), NonNull::as_ptr);
                    // SAFETY: the exchange made the list ours: the producer was idle and now knows of no page.
                    unsafe { self.shared.pool.free_list(list) }
                    return;
                }
                Err(now) => self.tail = now,
            }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.discard_all();
        if let Some(page) = self.page.take() {
            // The producer is writing. What is left goes with the last half.
            self.shared.first.store(page.as_ptr(), Relaxed);
        }
        self.shared.head.store(self.head << SHIFT | GONE, Release);
    }
}

/// Contiguous pieces of a FIFO, in order. See [`Consumer::peek`].
pub struct Chunks<'a> {
    /// The page that covers `pos`, or an earlier one.
    page: Option<NonNull<Page>>,
    pos: u64,
    left: usize,
    /// Nothing can be consumed while pieces are looked at.
    fifo: PhantomData<&'a mut Consumer>,
}

impl Chunks<'_> {
    /// How many bytes are still to come.
    pub fn remaining(&self) -> usize {
        self.left
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 {
            return None;
        }
        let mut page = self.page?;
        // SAFETY: the consumer is borrowed and frees nothing; the producer frees no page that has published bytes.
        let mut header = unsafe { page.as_ref() };
        if self.pos >= header.end() {
            page = header.next()?;
            // SAFETY: as above.
            header = unsafe { page.as_ref() };
        }
        self.page = Some(page);
        let n = self.left.min((header.end() - self.pos) as usize);
        // SAFETY: the page covers the positions; they are before the tail, so no one writes them any more, and not
        // consumed while the consumer is borrowed. Initialised when the page was made.
        let chunk = unsafe { slice::from_raw_parts(Page::bytes(page, self.pos, n), n) };
        self.pos += n as u64;
        self.left -= n;
        Some(chunk)
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
        f.debug_struct("Chunks")
            .field("pos", &self.pos)
            .field("remaining", &self.left)
            .finish_non_exhaustive()
    }
}

// SAFETY: the pointers are to pages that this half frees, whichever thread it is on.
unsafe impl Send for Consumer {}
