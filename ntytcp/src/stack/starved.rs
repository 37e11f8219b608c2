//! Sockets whose application had something to send when the pool had no page for it.
//!
//! Pages come back in many ways and from many threads (an acknowledgment, a read, a silence, the end of a connection), none of
//! which can know who waits. So it is asked the other way round: as long as somebody waits, [`Stack::next_deadline`] is over once
//! there are pages enough for the first, and looks again after [`KEEP_PAGES`] at the latest. As many sockets are told as there are
//! pages for, in the order in which they asked, so that a crowd is not woken for one page; at a look, those too who need fewer
//! pages than the first.

use std::collections::{BTreeSet, VecDeque};

use super::idle::KEEP_PAGES;
use super::records::MAX_HEADER;
use super::socket::{SocketId, SocketKind};
use super::{Cx, Stack};
use crate::fifo::PagePool;
use crate::time::Instant;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Starved {
    /// Each at most once, with the pages that it needs.
    sockets: VecDeque<(SocketId, usize)>,
    /// Kind, slot and generation of those in the queue. Not a mark in each socket, which all others would pay for.
    names: BTreeSet<(u8, u32, u32)>,
    /// When to look for pages, and for sockets that are gone, whatever is heard.
    look_at: Instant,
}

impl Starved {
    /// When [`Stack::feed_starved`] has something to do.
    pub(super) fn next_deadline(&self, pool: &PagePool) -> Option<Instant> {
        let (_, pages) = *self.sockets.front()?;
        Some(if pool.available(pages) == pages { Instant::ZERO } else { self.look_at })
    }
}

impl Stack {
    /// The application of a socket had room in its queue and yet could not write `len` bytes, for want of pages: WRITABLE follows when
    /// there are some. Takes back those of sockets at rest first. For those that write into the half of a socket themselves;
    /// the calls that send do it.
    pub fn await_pages(&mut self, id: SocketId, len: usize) {
        // With others before it, that was tried already.
        if self.starved.sockets.is_empty() {
            self.reclaim_pages();
        }
        let header = if id.kind == SocketKind::Datagram { MAX_HEADER } else { 0 };
        let pages = (header + len).div_ceil(self.pool.page_data());
        // What needs more pages than there are would wait for ever, and others behind it.
        if self.can_wait(id) && pages <= self.pool.max_pages() && self.starved.names.insert(name(id)) {
            self.starved.sockets.push_back((id, pages));
            // Soon: the next turn knows the time.
            self.starved.look_at = Instant::ZERO;
        }
    }

    /// Whether there still is such a socket, and it can be told.
    fn can_wait(&self, id: SocketId) -> bool {
        match id.kind {
            SocketKind::Stream => self.tcp.exists(id),
            SocketKind::Datagram => self.udp.get(id).is_some(),
            SocketKind::Listener | SocketKind::Echo => false,
        }
    }

    /// Tells as many of the sockets that wait for pages as there are pages for.
    pub(super) fn feed_starved(&mut self, now: Instant) {
        if self.starved.sockets.is_empty() {
            return;
        }
        let looked = self.starved.look_at <= now;
        if looked {
            self.starved.look_at = now + KEEP_PAGES;
            self.reclaim_pages();
            let Starved { mut sockets, mut names, look_at } = core::mem::take(&mut self.starved);
            sockets.retain(|&(id, _)| self.can_wait(id) || !names.remove(&name(id)));
            self.starved = Starved { sockets, names, look_at };
        }
        let mut promised = 0;
        while let Some(&(id, pages)) = self.starved.sockets.front()
            && self.pool.available(promised + pages) == promised + pages
        {
            self.starved.sockets.pop_front();
            promised += pages;
            self.feed(now, id);
        }
        if looked {
            // Who needs many pages may wait for them for ever, and is not to be waited for.
            let mut rest = core::mem::take(&mut self.starved.sockets);
            rest.retain(|&(id, pages)| {
                let fits = self.pool.available(promised + pages) == promised + pages;
                if fits {
                    promised += pages;
                    self.feed(now, id);
                }
                !fits
            });
            self.starved.sockets = rest;
        }
    }

    /// Tells one that has waited.
    fn feed(&mut self, now: Instant, id: SocketId) {
        self.starved.names.remove(&name(id));
        let (counters, events) = (&mut self.counters, &mut self.events);
        let mut cx = Cx { now, counters, events };
        match id.kind {
            SocketKind::Stream => self.tcp.feed(&mut cx, id),
            _ => self.udp.feed(&mut cx, id),
        }
    }
}

fn name(id: SocketId) -> (u8, u32, u32) {
    (id.kind as u8, id.index, id.generation)
}
