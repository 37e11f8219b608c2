//! Bytes that wait for the peer to take them.

use std::fmt;

/// Memory that a drained outbox keeps, so that the next answer needs no allocation.
const KEEP: usize = 8 * 1024;

/// A buffer that is filled at its end and drained from its front.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// `buf[start..end]` waits; beyond `end` is memory that was used before.
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl Outbox {
    /// How many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// What waits, oldest first.
    pub(super) fn pending(&self) -> &[u8] {
        self.buf.get(self.start..self.end).unwrap_or_default()
    }

    /// Forgets the first `n` bytes.
    pub(super) fn consume(&mut self, n: usize) {
        self.start = self.start.saturating_add(n).min(self.end);
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Gives back memory beyond what one usual answer needs, if the box is empty.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() && self.buf.len() > KEEP {
            self.buf.truncate(KEEP);
            self.buf.shrink_to_fit();
        }
    }

    /// Adds `bytes` behind what waits. Allocates only when the box was never this full before.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buf.truncate(self.end);
        self.buf.extend_from_slice(bytes);
        self.end = self.buf.len();
    }

    /// At least `n` bytes of room behind what waits; see [`Outbox::commit`].
    pub(super) fn room(&mut self, n: usize) -> &mut [u8] {
        let need = self.end.saturating_add(n);
        if self.buf.len() < need {
            self.buf.resize(need, 0);
        }
        self.buf.get_mut(self.end..).unwrap_or_default()
    }

    /// The first `n` bytes of the last [`Outbox::room`] were written.
    pub(super) fn commit(&mut self, n: usize) {
        self.end = self.end.saturating_add(n).min(self.buf.len());
    }
}

/// `write!(outbox, ..)` cannot fail.
impl fmt::Write for Outbox {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.push(s.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_they_came_and_old_memory_never_shows() {
        let mut out = Outbox::default();
        out.push(b"abc");
        out.room(10)[..2].copy_from_slice(b"de");
        out.commit(2);
        out.push(b"f");
        assert_eq!(out.pending(), b"abcdef");
        out.consume(4);
        assert_eq!(out.pending(), b"ef");
        out.consume(99);
        assert!(out.is_empty());
        out.push(b"x");
        assert_eq!(out.pending(), b"x");
    }

    #[test]
    fn drained_box_gives_back_the_memory_of_a_large_answer() {
        let mut out = Outbox::default();
        out.room(100_000);
        out.commit(100_000);
        out.shrink();
        assert_eq!(out.len(), 100_000, "nothing is given back while bytes wait");
        out.consume(100_000);
        out.shrink();
        assert!(out.buf.capacity() <= KEEP);
    }
}
