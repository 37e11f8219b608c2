//! The pieces of one datagram: which ranges have arrived, and where their bytes are.

use super::{Fragment, FragmentEnd};

/// One fragment's payload: `start..end` of the datagram is at `at` in [`Pieces::data`].
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    end: usize,
    at: usize,
}

impl Piece {
    fn bytes<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        data.get(self.at..self.at + (self.end - self.start)).unwrap_or_default()
    }
}

/// What became of a fragment's payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Added {
    /// It fills (a part of) a hole.
    Kept,
    /// The same bytes were there already.
    Duplicate,
    /// It contradicts what is there.
    Overlap,
    /// The datagram is in too many pieces.
    TooMany,
}

/// The pieces of one datagram.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// Payloads in the order of arrival.
    data: Vec<u8>,
    /// Sorted by offset, without overlap.
    pieces: Vec<Piece>,
    /// Length of the whole, once the last fragment is there.
    total: Option<usize>,
}

impl Pieces {
    /// Nothing yet, to be kept in `buffer`, which is empty.
    pub(super) fn new(buffer: Vec<u8>) -> Self {
        Self { data: buffer, pieces: Vec::new(), total: None }
    }

    /// Adds a fragment's payload. One binary search.
    pub(super) fn add(&mut self, fragment: &Fragment<'_>, max_pieces: usize) -> Added {
        let &Fragment { offset: start, end, header: _, payload } = fragment;
        let stop = start + payload.len();
        let last = end == FragmentEnd::Last;
        let at = self.pieces.partition_point(|p| p.start < start);
        if let Some(same) = self.pieces.get(at).filter(|p| (p.start, p.end) == (start, stop)) {
            let agrees = same.bytes(&self.data) == payload && last == (self.total == Some(stop));
            return if agrees { Added::Duplicate } else { Added::Overlap };
        }
        let before = at.checked_sub(1).and_then(|i| self.pieces.get(i));
        let overlaps =
            before.is_some_and(|p| p.end > start) || self.pieces.get(at).is_some_and(|p| p.start < stop);
        let beyond = match self.total {
            // The end is known: nothing may come after it, nor a second one.
            Some(total) => last || stop > total,
            // This is the end: nothing may have come after it.
            None => last && self.pieces.last().is_some_and(|p| p.end > stop),
        };
        if overlaps || beyond {
            return Added::Overlap;
        }
        if self.pieces.len() >= max_pieces {
            return Added::TooMany;
        }
        if last {
            self.total = Some(stop);
        }
        self.pieces.insert(at, Piece { start, end: stop, at: self.data.len() });
        self.data.extend_from_slice(payload);
        Added::Kept
    }

    /// The length of the whole, when no hole is left.
    pub(super) fn complete(&self) -> Option<usize> {
        // Pieces do not overlap and none reaches beyond the end: they fill the whole if they are as long as
        // it.
        self.total.filter(|&total| total == self.data.len())
    }

    /// At most `n` bytes from the start of the datagram; empty until its first fragment is there.
    pub(super) fn first_bytes(&self, n: usize) -> &[u8] {
        let first =
            self.pieces.first().filter(|p| p.start == 0).map(|p| p.bytes(&self.data)).unwrap_or_default();
        first.get(..n).unwrap_or(first)
    }

    /// The payload of a complete datagram, and the buffer that was not needed for it. Copies into `spare`
    /// unless the fragments came in order.
    pub(super) fn into_payload(self, mut spare: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
        if self.pieces.iter().all(|p| p.at == p.start) {
            return (self.data, spare);
        }
        spare.clear();
        spare.reserve(self.data.len());
        for piece in &self.pieces {
            spare.extend_from_slice(piece.bytes(&self.data));
        }
        (spare, self.data)
    }

    /// The buffer, to be used again.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.data
    }
}
