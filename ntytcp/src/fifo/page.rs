//! Pages and the pool that they come from.

use super::sync::{
    Arc, AtomicPtr, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use core::ptr::{self, NonNull};
use std::alloc::{Layout, alloc_zeroed, dealloc};

/// Bytes of memory per page of [`PagePool::new`], its header of one cache line included.
pub const DEFAULT_PAGE_SIZE: usize = 16 << 10;

/// The header of a page; the data bytes follow it in the same allocation.
#[repr(C, align(64))]
pub(super) struct Page {
    /// The following page of the FIFO, or null. Written by the producer, read by the consumer after it has seen a
    /// tail beyond this page (or has detached).
    next: AtomicPtr<Page>,
    /// The position of the first data byte. Written by the producer before the page is linked, and when it owns all pages.
    base: AtomicU64,
    /// While the page is free: one more than the index of the next free page, or 0.
    next_free: AtomicU32,
    /// Where the pool's table has this page.
    index: u32,
    /// How many data bytes follow.
    size: u32,
    /// Loom's view of the data bytes, so that it reports a race for them.
    #[cfg(all(test, loom))]
    cells: Vec<loom::cell::UnsafeCell<()>>,
}

impl Page {
    #[inline]
    pub(super) fn base(&self) -> u64 {
        self.base.load(Relaxed)
    }

    /// Makes the page begin at `base`. Only for a producer that owns the page and has no bytes in it.
    #[inline]
    pub(super) fn rebase(&self, base: u64) {
        // Ordered by the tail whose publication shows the consumer bytes in this page.
        self.base.store(base, Relaxed);
    }

    /// How many positions the page covers.
    #[inline]
    pub(super) fn size(&self) -> u64 {
        u64::from(self.size)
    }

    /// One past the last position that the page covers.
    #[inline]
    pub(super) fn end(&self) -> u64 {
        self.base() + self.size()
    }

    pub(super) fn next(&self) -> Option<NonNull<Page>> {
        // Ordered by whatever told the caller that there is a next page: the tail, or its own earlier store.
        NonNull::new(self.next.load(Relaxed))
    }

    pub(super) fn set_next(&self, next: *mut Page) {
        self.next.store(next, Relaxed);
    }

    /// The `len` bytes from the page's `offset` on, to be read.
    ///
    /// # Safety
    /// `page` is a live page of a pool, has the bytes, and no one writes them while the pointer is used.
    #[inline]
    pub(super) unsafe fn bytes(page: NonNull<Page>, offset: usize, len: usize) -> *const u8 {
        // SAFETY: the caller's promise.
        debug_assert!((offset + len) as u64 <= unsafe { page.as_ref() }.size());
        #[cfg(all(test, loom))]
        // SAFETY: as above; loom only notes the access.
        unsafe { page.as_ref() }.cells[offset..offset + len].iter().for_each(|c| c.with(|_| ()));
        // SAFETY: `offset <= size`, and the allocation has `size` bytes after the header.
        unsafe { page.cast::<u8>().as_ptr().add(size_of::<Page>() + offset) }
    }

    /// The `len` bytes from the page's `offset` on, to be written.
    ///
    /// # Safety
    /// `page` is a live page of a pool, has the bytes, and no one else reads or writes them while the pointer is used.
    #[inline]
    pub(super) unsafe fn bytes_mut(page: NonNull<Page>, offset: usize, len: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        debug_assert!((offset + len) as u64 <= unsafe { page.as_ref() }.size());
        #[cfg(all(test, loom))]
        // SAFETY: as above; loom only notes the access.
        unsafe { page.as_ref() }.cells[offset..offset + len].iter().for_each(|c| c.with_mut(|_| ()));
        // SAFETY: `offset <= size`, and the allocation has `size` bytes after the header.
        unsafe { page.cast::<u8>().as_ptr().add(size_of::<Page>() + offset) }
    }
}

/// A bounded supply of pages, shared by all FIFOs of a shard: the shard's budget for payload memory.
///
/// Pages are made (zeroed) when they are first needed and kept until the pool and every FIFO on it is gone. The page
/// freed last is given out first, while it is still in the cache. Taking and freeing a page is one compare-exchange
/// from any thread.
#[derive(Clone)]
pub struct PagePool(Arc<Pool>);

struct Pool {
    /// One more than the index of the first free page (0: none) in the low half. The high half counts changes, so
    /// that a page which was taken and freed again meanwhile is not mistaken for an unchanged list (ABA).
    free: AtomicU64,
    /// How many entries of `table` are spoken for.
    made: AtomicU32,
    /// Bytes of data per page.
    size: u32,
    /// Every page ever made.
    table: Box<[AtomicPtr<Page>]>,
}

impl PagePool {
    /// A pool of at most `max_pages` pages of [`DEFAULT_PAGE_SIZE`] bytes.
    pub fn new(max_pages: usize) -> Self {
        Self::with_page_size(max_pages, DEFAULT_PAGE_SIZE)
    }

    /// A pool of at most `max_pages` pages of `page_size` bytes each, of which one cache line is the page's header.
    /// Small pages suit very many connections with little data each. At least one byte of data, at most 1 GiB.
    pub fn with_page_size(max_pages: usize, page_size: usize) -> Self {
        let size = page_size.saturating_sub(size_of::<Page>()).clamp(1, 1 << 30);
        let max_pages = max_pages.min(u32::MAX as usize - 1);
        Self(Arc::new(Pool {
            free: AtomicU64::new(0),
            made: AtomicU32::new(0),
            size: size as u32,
            table: (0..max_pages).map(|_| AtomicPtr::new(ptr::null_mut())).collect(),
        }))
    }

    /// Bytes of data that a page holds.
    pub fn page_data(&self) -> usize {
        self.0.size as usize
    }

    /// How many pages there can be.
    pub fn max_pages(&self) -> usize {
        self.0.table.len()
    }

    /// How many pages were made so far: the high-water mark of pages in use.
    pub fn pages_made(&self) -> usize {
        self.0.made.load(Relaxed) as usize
    }

    /// How many pages are in use now. Walks the list of free pages: for reports and tests, not for a hot path; while
    /// other threads take and free pages the answer is an estimate.
    pub fn pages_in_use(&self) -> usize {
        let made = self.pages_made();
        let mut free = 0;
        let mut link = self.0.free.load(Acquire) as u32;
        while let Some(page) = self.0.page(link)
            && free < made
        {
            free += 1;
            link = page.next_free.load(Relaxed);
        }
        made - free
    }

    /// How many pages are to be had now, counted up to `limit`: an estimate while other threads take and free pages.
    pub fn available(&self, limit: usize) -> usize {
        let mut count = self.max_pages().saturating_sub(self.pages_made()).min(limit);
        let mut link = self.0.free.load(Acquire) as u32;
        while count < limit
            && let Some(page) = self.0.page(link)
        {
            count += 1;
            link = page.next_free.load(Relaxed);
        }
        count
    }

    /// Whether no page is to be had now.
    pub fn is_exhausted(&self) -> bool {
        self.pages_made() >= self.max_pages() && self.0.free.load(Relaxed) as u32 == 0
    }

    /// A page for the positions from `base` on, followed by no other; `None` when the limit is reached.
    pub(super) fn alloc(&self, base: u64) -> Option<NonNull<Page>> {
        let page = self.0.pop().or_else(|| self.0.make())?;
        // SAFETY: pages live as long as the pool.
        let header = unsafe { page.as_ref() };
        header.base.store(base, Relaxed);
        header.set_next(ptr::null_mut());
        Some(page)
    }

    /// Takes a page back.
    ///
    /// # Safety
    /// `page` came from `alloc` of this pool, was not freed since, and no one uses it any more.
    pub(super) unsafe fn free(&self, page: NonNull<Page>) {
        // SAFETY: pages live as long as the pool.
        let header = unsafe { page.as_ref() };
        let mut free = self.0.free.load(Relaxed);
        loop {
            header.next_free.store(free as u32, Relaxed);
            // Release: what was done with the page comes before the next owner's use of it.
            match self.0.free.compare_exchange_weak(free, relink(free, header.index + 1), Release, Relaxed) {
                Ok(_) => return,
                Err(now) => free = now,
            }
        }
    }

    /// Takes back a page and all that follow it. Null is an empty list.
    ///
    /// # Safety
    /// As for `free`, for each page of the list.
    pub(super) unsafe fn free_list(&self, first: *mut Page) {
        let mut link = NonNull::new(first);
        while let Some(page) = link {
            // SAFETY: pages live as long as the pool.
            link = unsafe { page.as_ref() }.next();
            // SAFETY: the caller's promise.
            unsafe { self.free(page) }
        }
    }
}

/// The free word with another first page and the count of changes moved on.
const fn relink(free: u64, link: u32) -> u64 {
    ((free >> 32).wrapping_add(1) << 32) | link as u64
}

impl Pool {
    /// The page that a link (index + 1) names.
    fn page(&self, link: u32) -> Option<&Page> {
        let slot = self.table.get((link as usize).wrapping_sub(1))?;
        // SAFETY: the table's pages live as long as the pool; their headers are only ever accessed as shared.
        unsafe { slot.load(Relaxed).as_ref() }
    }

    /// Takes the page that was freed last.
    fn pop(&self) -> Option<NonNull<Page>> {
        let mut free = self.free.load(Acquire);
        loop {
            // The page may be taken by another thread right now. Its header is still a header then, and the exchange
            // fails because the count has moved on.
            let link = free as u32;
            let next = self.page(link)?.next_free.load(Relaxed);
            match self.free.compare_exchange_weak(free, relink(free, next), Acquire, Acquire) {
                Ok(_) => return NonNull::new(self.table.get(link as usize - 1)?.load(Relaxed)),
                Err(now) => free = now,
            }
        }
    }

    /// Makes a new page if the limit allows and memory is to be had.
    fn make(&self) -> Option<NonNull<Page>> {
        let mut index = self.made.load(Relaxed);
        loop {
            if index as usize >= self.table.len() {
                return None;
            }
            match self.made.compare_exchange_weak(index, index + 1, Relaxed, Relaxed) {
                Ok(_) => break,
                Err(now) => index = now,
            }
        }
        let layout = self.layout()?;
        // SAFETY: the layout is not empty.
        let page = NonNull::new(unsafe { alloc_zeroed(layout) })?.cast::<Page>();
        let header = Page {
            next: AtomicPtr::new(ptr::null_mut()),
            base: AtomicU64::new(0),
            next_free: AtomicU32::new(0),
            index,
            size: self.size,
            #[cfg(all(test, loom))]
            cells: (0..self.size).map(|_| loom::cell::UnsafeCell::new(())).collect(),
        };
        // SAFETY: fresh memory of the right size and alignment.
        unsafe { page.write(header) };
        // Others learn of the page through the free list, whose exchange releases this store.
        self.table.get(index as usize)?.store(page.as_ptr(), Relaxed);
        Some(page)
    }

    fn layout(&self) -> Option<Layout> {
        Layout::from_size_align(size_of::<Page>() + self.size as usize, align_of::<Page>()).ok()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let Some(layout) = self.layout() else { return };
        for slot in &self.table {
            if let Some(page) = NonNull::new(slot.load(Relaxed)) {
                // SAFETY: made by `make` with this layout; every FIFO holds the pool, so none is left to use the page.
                unsafe {
                    page.drop_in_place();
                    dealloc(page.cast().as_ptr(), layout);
                }
            }
        }
    }
}

impl core::fmt::Debug for PagePool {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PagePool")
            .field("page_data", &self.page_data())
            .field("max_pages", &self.max_pages())
            .field("pages_made", &self.pages_made())
            .finish_non_exhaustive()
    }
}

// SAFETY: the pages that the table points to are shared through atomics only; their data bytes belong to whoever
// holds the page.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}
