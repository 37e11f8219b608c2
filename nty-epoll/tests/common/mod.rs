//! Things to watch that are not sockets.
#![allow(dead_code)] // Each test uses its part.

use nty_epoll::{Events, Pollable, Source, Waker};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A level that is whatever it was set to.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    level: AtomicU32,
    source: Source,
}

impl Gate {
    pub(crate) fn set(&self, level: Events) {
        self.level.store(level.bits(), Ordering::Release);
    }
}

impl Pollable for Gate {
    fn level(&self) -> Events {
        Events::from_bits_truncate(self.level.load(Ordering::Acquire))
    }

    fn source(&self) -> &Source {
        &self.source
    }
}

/// Directions of a shutdown, as bits.
pub(crate) const RD: u8 = 1;
pub(crate) const WR: u8 = 2;

/// One end of a stream socket pair in memory, with the edges and levels of Linux's AF_UNIX.
pub(crate) struct End {
    pub(crate) waker: Waker<Gate>,
    /// Sizes of the writes that wait to be read.
    queue: VecDeque<usize>,
    shutdown: u8,
    /// ECONNRESET waits to be fetched.
    reset: bool,
    /// What it wrote last did not fit.
    full: bool,
    pub(crate) open: bool,
}

impl End {
    fn new() -> Self {
        let waker = Waker::new(Arc::new(Gate::default()));
        Self { waker, queue: VecDeque::new(), shutdown: 0, reset: false, full: false, open: true }
    }

    pub(crate) fn gate(&self) -> Arc<Gate> {
        self.waker.target().clone()
    }

    /// Publishes the level, then announces the edge.
    fn edge(&mut self, edge: Events) {
        let mut level = Events::empty();
        level.set(Events::IN, !self.queue.is_empty() || self.shutdown & RD != 0);
        level.set(Events::RDHUP, self.shutdown & RD != 0);
        level.set(Events::HUP, self.shutdown == RD | WR);
        level.set(Events::ERR, self.reset);
        level.set(Events::OUT, !self.full);
        self.waker.set(level);
        if self.open {
            self.waker.wake(edge);
        }
    }

    /// Publishes the level only.
    fn settle(&mut self) {
        let open = std::mem::replace(&mut self.open, false);
        self.edge(Events::empty());
        self.open = open;
    }
}

/// A pair of connected ends.
pub(crate) struct Pair(pub(crate) [End; 2]);

impl Pair {
    pub(crate) fn new() -> Self {
        let mut ends = [End::new(), End::new()];
        ends.iter_mut().for_each(End::settle);
        Self(ends)
    }

    /// `side` wrote `size` bytes in one piece.
    pub(crate) fn wrote(&mut self, side: usize, size: usize) {
        let peer = &mut self.0[1 - side];
        peer.queue.push_back(size);
        peer.edge(Events::IN | Events::PRI);
    }

    /// `side` wrote until nothing more fitted.
    pub(crate) fn filled(&mut self, side: usize) {
        self.0[side].full = true;
        self.0[side].settle();
    }

    /// `side` reads at most `size` bytes: how many it gets, or `None` for an error or a would-block.
    pub(crate) fn read(&mut self, side: usize, size: usize) -> Option<usize> {
        let end = &mut self.0[side];
        if end.queue.is_empty() {
            let failed = std::mem::replace(&mut end.reset, false);
            end.settle();
            return (!failed && end.shutdown & RD != 0).then_some(0);
        }
        let (mut left, mut freed) = (size, 0);
        while left > 0
            && let Some(head) = end.queue.front_mut()
        {
            let n = left.min(*head);
            *head -= n;
            left -= n;
            if *head == 0 {
                end.queue.pop_front();
                freed += 1;
            }
        }
        end.settle();
        let empty = end.queue.is_empty();
        self.freed(1 - side, freed, empty);
        Some(size - left)
    }

    /// Memory of `count` pieces went back to the writer.
    fn freed(&mut self, writer: usize, count: usize, all: bool) {
        let writer = &mut self.0[writer];
        writer.full &= !all;
        for _ in 0..count {
            if !writer.full {
                writer.edge(Events::OUT);
            }
        }
    }

    pub(crate) fn shutdown(&mut self, side: usize, how: u8) {
        let end = &mut self.0[side];
        end.shutdown |= how;
        end.edge(Events::empty());
        let peer = &mut self.0[1 - side];
        peer.shutdown |= (how & RD) << 1 | (how & WR) >> 1;
        peer.edge(Events::empty());
    }

    pub(crate) fn close(&mut self, side: usize) {
        let end = &mut self.0[side];
        end.open = false;
        end.waker.source().close();
        let unread = std::mem::take(&mut end.queue).len();
        let peer = &mut self.0[1 - side];
        peer.shutdown = RD | WR;
        peer.reset |= unread > 0;
        peer.edge(Events::empty());
        self.freed(1 - side, unread, true);
    }
}
