//! The bytes of a file on their way into an answer: all of them, one range, or several as `multipart/byteranges`.

use super::files::Permit;
use super::outbox::Outbox;
use super::site::OpenFile;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::vec;

/// What is still to be sent of a file. Nothing is read ahead.
#[derive(Debug)]
pub(super) struct FileContent {
    file: File,
    _permit: Permit,
    /// What is left of the current range.
    range: Range<u64>,
    parts: Option<Parts>,
}

/// The parts of a multipart answer that were not begun.
#[derive(Debug)]
struct Parts {
    ranges: vec::IntoIter<Range<u64>>,
    frame: Frame,
    closed: bool,
}

/// What stands between the parts.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// Tells the parts apart; must not occur in the file.
    pub(super) boundary: u64,
    /// Type of the file.
    pub(super) mime: &'static str,
    /// Suffix of the type.
    pub(super) charset: &'static str,
    /// Length of the whole file.
    pub(super) len: u64,
}

impl Frame {
    /// Writes what stands before the part that holds `range`.
    fn open(&self, range: &Range<u64>, out: &mut impl std::fmt::Write) {
        let Self { boundary, mime, charset, len } = self;
        let (first, last) = (range.start, range.end.saturating_sub(1));
        let _ = write!(
            out,
            "\r\n--{boundary:016x}\r\nContent-Type: {mime}{charset}\r\nContent-Range: bytes {first}-{last}/{len}\r\n\r\n"
        );
    }

    /// Writes what stands behind the last part.
    fn close(&self, out: &mut impl std::fmt::Write) {
        let _ = write!(out, "\r\n--{:016x}--\r\n", self.boundary);
    }

    /// Length of the whole multipart body.
    pub(super) fn body_len(&self, ranges: &[Range<u64>]) -> u64 {
        let mut text = String::new();
        ranges.iter().for_each(|range| self.open(range, &mut text));
        self.close(&mut text);
        ranges.iter().fold(text.len() as u64, |sum, r| sum.saturating_add(r.end.saturating_sub(r.start)))
    }
}

impl FileContent {
    /// One range of a file, which may be the whole.
    pub(super) fn range(open: OpenFile, range: Range<u64>) -> Self {
        Self { file: open.file, _permit: open.permit, range, parts: None }
    }

    /// Several ranges, each as a part.
    pub(super) fn multipart(open: OpenFile, ranges: Vec<Range<u64>>, frame: Frame) -> Self {
        let parts = Parts { ranges: ranges.into_iter(), frame, closed: false };
        Self { file: open.file, _permit: open.permit, range: 0..0, parts: Some(parts) }
    }

    /// Reads on in the current range; 0 when it is over, or `into` has no room.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter than it was when the head of the answer was written.
    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.range.end.saturating_sub(self.range.start)).unwrap_or(usize::MAX);
        let n = into.len().min(left);
        if n == 0 {
            return Ok(0);
        }
        let read = self.file.read_at(into.get_mut(..n).unwrap_or_default(), self.range.start)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.range.start = self.range.start.saturating_add(read as u64);
        Ok(read)
    }

    /// Whether the current range has more to read.
    pub(super) fn is_in_range(&self) -> bool {
        !self.range.is_empty()
    }

    /// Behind the last byte of a range: goes to the next one and writes the text that stands before it, or behind the
    /// last. `false` when all was sent.
    pub(super) fn next_part(&mut self, out: &mut Outbox) -> bool {
        let Some(parts) = &mut self.parts else { return false };
        match parts.ranges.next() {
            Some(range) => {
                parts.frame.open(&range, out);
                self.range = range;
            }
            None if !parts.closed => {
                parts.frame.close(out);
                parts.closed = true;
            }
            None => return false,
        }
        true
    }
}
