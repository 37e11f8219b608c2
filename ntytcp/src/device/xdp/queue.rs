//! One receive queue of an interface, and the frames that arrive there.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::memory::{Chunk, Extent, Receiving, Umem};
use super::{CONTINUED, LONGEST_IN_PIECES};
use crate::device::HEADROOM;

/// A frame that arrived.
#[derive(Debug)]
pub(super) enum Arrived {
    /// It lies in this chunk.
    Chunk(Chunk, Extent),
    /// It was put together, behind [`HEADROOM`] bytes, and has this length.
    Joined(Box<[u8]>, usize),
}

/// The memory of a device that none of its queues has.
#[derive(Debug)]
pub(super) struct Pool {
    pub umem: Arc<Umem>,
    /// Chunks that nobody uses.
    pub free: Vec<Chunk>,
    /// Buffers of frames that were put together.
    pub spare: Vec<Box<[u8]>>,
}

/// A queue, bound to a socket.
#[derive(Debug)]
pub(super) struct Queue {
    /// Before `socket`: unmapped before it is closed.
    rings: Receiving,
    pub socket: OwnedFd,
    /// How many chunks the kernel has to receive in, and how many it may have.
    provided: usize,
    most_provided: usize,
    /// A frame whose rest has not been seen yet, and its length so far.
    joining: Option<(Box<[u8]>, usize)>,
    /// What the kernel counted, as of the last look.
    pub lost: Option<libc::xdp_statistics>,
}

impl Queue {
    pub(super) fn new(socket: OwnedFd, rings: Receiving, most_provided: usize) -> Self {
        Self { rings, socket, provided: 0, most_provided, joining: None, lost: None }
    }

    /// Lets the kernel receive in as many chunks as it may have; whether it wants to be told.
    pub(super) fn provide(&mut self, pool: &mut Pool) -> bool {
        let missing = self.most_provided.saturating_sub(self.provided);
        self.provided += self.rings.provide(&pool.umem, &mut pool.free, missing);
        self.rings.needs_wakeup()
    }

    /// The next frame that arrived; one in pieces only once the last of them has. [`Queue::received`] gives back the places in
    /// the ring.
    pub(super) fn next_frame(&mut self, pool: &mut Pool) -> Option<Arrived> {
        loop {
            let (mut chunk, extent) = self.rings.receive(&pool.umem)?;
            self.provided = self.provided.saturating_sub(1);
            let continued = extent.options & CONTINUED != 0;
            if !continued && self.joining.is_none() {
                return Some(Arrived::Chunk(chunk, extent));
            }
            let new = || vec![0; HEADROOM + LONGEST_IN_PIECES].into();
            let (mut frame, len) =
                self.joining.take().unwrap_or_else(|| (pool.spare.pop().unwrap_or_else(new), 0));
            let piece = pool.umem.bytes(&mut chunk).get(extent.offset..extent.offset + extent.len);
            let piece = piece.unwrap_or_default();
            // Of a frame that is longer than any can be, the end is cut off: no header fits it, and it is dropped.
            frame.iter_mut().skip(HEADROOM + len).zip(piece).for_each(|(to, from)| *to = *from);
            let len = (len + piece.len()).min(LONGEST_IN_PIECES);
            pool.free.push(chunk);
            if !continued {
                return Some(Arrived::Joined(frame, len));
            }
            self.joining = Some((frame, len));
        }
    }

    pub(super) fn received(&self) {
        self.rings.received();
    }
}
