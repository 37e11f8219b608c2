//! A wrapper that writes everything that passes to a capture file, in both directions.
//!
//! A trace shows frames as a wire would: partial checksums are completed in the copy, and a segment train is one long frame.
//! Times are what [`Device::set_now`] says. Tracing never stands in the way of the link: when the file cannot be written
//! any more, one warning is logged, the trace ends there and the link goes on.
//!
//! Each frame is copied, and a pcapng record allocates: a traced link is for finding faults, not for measuring.

use std::path::Path;

use super::offload::{arrives_as, complete_checksum};
use super::pcap::{Direction, PcapWriter};
use super::{Caps, Device, DeviceError, RxChecksum, RxFrame, TxMeta, TxQueue, Verdict};
use crate::time::{Duration, Instant};

/// How long what was traced may stay in memory while the device is used without a rest (see [`Device::sync`]).
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// A device whose frames are written to a file. See the module documentation.
#[derive(Debug)]
pub struct Trace<D> {
    inner: D,
    recorder: Recorder,
    /// The reservation: written here, so that it can be traced before it becomes the inner device's.
    open: Option<Vec<u8>>,
    spare: Vec<u8>,
}

/// What writes, until it no longer can.
#[derive(Debug)]
struct Recorder {
    writer: Option<PcapWriter>,
    now: Instant,
    flushed: Instant,
    scratch: Vec<u8>,
    frames: u64,
}

impl Recorder {
    fn record(&mut self, direction: Direction, frame: &[u8], checksum: RxChecksum) {
        let Some(writer) = &mut self.writer else { return };
        let outcome = if let RxChecksum::Partial { start, offset } = checksum {
            self.scratch.clear();
            self.scratch.extend_from_slice(frame);
            complete_checksum(&mut self.scratch, start, offset);
            writer.write(self.now, direction, &self.scratch)
        } else {
            writer.write(self.now, direction, frame)
        };
        match outcome {
            Ok(()) => self.frames += 1,
            Err(e) => self.give_up(&e),
        }
    }

    fn flush(&mut self) {
        self.flushed = self.now;
        if let Some(Err(e)) = self.writer.as_mut().map(PcapWriter::flush) {
            self.give_up(&e);
        }
    }

    #[cold]
    fn give_up(&mut self, error: &std::io::Error) {
        if let Some(writer) = self.writer.take() {
            let (path, frames) = (writer.path().display(), self.frames);
            tracing::warn!(
                "the trace {path} ends here, the link goes on: {error}; about {frames} frames were written"
            );
        }
    }
}

impl<D: Device> Trace<D> {
    /// Traces `inner` to the file `path`; pcapng, with the direction of each frame, if it is named so, pcap otherwise.
    /// `origin` is the time since 1970 at [`Instant::ZERO`].
    ///
    /// # Errors
    /// The file cannot be created or written.
    pub fn new(inner: D, path: impl AsRef<Path>, origin: Duration) -> Result<Self, DeviceError> {
        Ok(Self::with_writer(inner, PcapWriter::create(path, origin)?))
    }

    fn with_writer(inner: D, writer: PcapWriter) -> Self {
        let (now, flushed) = (Instant::ZERO, Instant::ZERO);
        let recorder = Recorder { writer: Some(writer), now, flushed, scratch: Vec::new(), frames: 0 };
        Self { inner, recorder, open: None, spare: Vec::new() }
    }

    /// Whether frames are still written: not after the file could not be written any more.
    pub fn is_tracing(&self) -> bool {
        self.recorder.writer.is_some()
    }

    /// The traced device.
    pub fn inner_mut(&mut self) -> &mut D {
        &mut self.inner
    }
}

impl<D: Device> TxQueue for Trace<D> {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        let mut buf = self.open.take().unwrap_or_else(|| std::mem::take(&mut self.spare));
        if self.inner.reserve(len).is_none() {
            self.spare = buf;
            return None;
        }
        buf.resize(len, 0);
        Some(self.open.insert(buf))
    }

    fn commit(&mut self, meta: TxMeta) {
        let Some(frame) = self.open.take() else { return };
        if let Some(room) = self.inner.reserve(frame.len()) {
            room.copy_from_slice(&frame);
            self.inner.commit(meta);
            self.recorder.record(Direction::Outbound, &frame, arrives_as(meta));
        }
        self.spare = frame;
    }
}

impl<D: Device> Device for Trace<D> {
    fn inner(&self) -> Option<&dyn Device> {
        Some(&self.inner)
    }

    fn inner_mut(&mut self) -> Option<&mut dyn Device> {
        Some(&mut self.inner)
    }

    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        let recorder = &mut self.recorder;
        self.inner.rx_burst(&mut |burst| {
            for frame in burst.iter() {
                recorder.record(Direction::Inbound, frame.bytes(), frame.meta.checksum);
            }
            sink(burst);
            for frame in burst.iter() {
                if let Verdict::Reply(meta) = frame.verdict {
                    recorder.record(Direction::Outbound, frame.bytes(), arrives_as(meta));
                }
            }
        })
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        if self.recorder.now.since(self.recorder.flushed) >= FLUSH_EVERY {
            self.recorder.flush();
        }
        self.inner.flush()
    }

    fn sync(&mut self) -> Result<(), DeviceError> {
        self.recorder.flush();
        self.inner.sync()
    }

    fn set_now(&mut self, now: Instant) {
        self.recorder.now = now;
        self.inner.set_now(now);
    }

    fn stats(&self) -> Vec<(&'static str, u64)> {
        let mut stats = self.inner.stats();
        stats.push(("traced", self.recorder.frames));
        stats
    }
}

#[cfg(test)]
#[path = "trace_tests.rs"]
mod tests;
