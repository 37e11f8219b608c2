//! The loop of `nty capture`.

use super::Options;
use crate::device::{LONGEST_SLEEP, Stop, counts, sleep};
use crate::run::{RunError, print};
use ntytcp::device::offload::complete_checksum;
use ntytcp::device::pcap::{About, Direction, PcapWriter};
use ntytcp::device::spec::{BoxedDevice, OpenOptions};
use ntytcp::device::{BURST, DeviceError, RxChecksum, RxFrame, RxMeta};
use ntytcp::shard::MonotonicClock;
use ntytcp::time::{Clock as _, Instant};
use ntytcp::wire::EtherType;
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How long frames may wait in memory while others keep coming.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Captures until it was enough, or a signal comes.
///
/// # Errors
/// A device that cannot be opened or is gone, a file that cannot be written.
pub fn run(options: &Options) -> Result<(), RunError> {
    options.check().map_err(|what| RunError::Usage(format!("capture: {what}")))?;
    let stop = Stop::on_signals()?;
    let mut open = OpenOptions::default();
    open.observe = true;
    let mut device = options.device.open(&open)?;
    let (clock, origin) = (MonotonicClock::new(), since_1970());
    let writer = writer(options, origin)?;
    let mut capture =
        Capture { options, writer, origin, scratch: Vec::new(), seen: 0, matched: 0, failure: None };
    say(options, &format!("ready: capture on {}\n", options.device))?;
    let result = capture.take(&mut device, &clock, &stop);
    let ended = result.and_then(|()| Ok(device.sync()?)).and(capture.sync());
    let summary = capture.summary(&device);
    ended?;
    say(options, &summary)
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn writer(options: &Options, origin: Duration) -> Result<Option<PcapWriter>, DeviceError> {
    let about = About {
        interface: options.device.to_string(),
        filter: options.filter.to_string(),
        snaplen: options.snaplen,
    };
    match options.out.as_deref() {
        None => Ok(None),
        Some(_) if options.is_on_stdout() => {
            let name = Path::new("standard output.pcapng");
            PcapWriter::to(Box::new(io::stdout()), name, origin, &about).map(Some)
        }
        Some(path) => PcapWriter::create_about(path, origin, &about).map(Some),
    }
}

/// Prints where the capture is not.
fn say(options: &Options, text: &str) -> Result<(), RunError> {
    if options.is_on_stdout() {
        // Without a standard error there is nobody to tell.
        let _ = io::stderr().write_all(text.as_bytes());
        return Ok(());
    }
    print(text)
}

struct Capture<'a> {
    options: &'a Options,
    writer: Option<PcapWriter>,
    /// Time since 1970 at the clock's zero.
    origin: Duration,
    /// A frame that is not written as it came.
    scratch: Vec<u8>,
    /// Frames that the device had.
    seen: u64,
    /// Those of them that the filter takes, all of which were written if there is a file.
    matched: u64,
    /// Why nothing more can be written.
    failure: Option<io::Error>,
}

impl Capture<'_> {
    fn take(
        &mut self,
        device: &mut BoxedDevice,
        clock: &MonotonicClock,
        stop: &Stop,
    ) -> Result<(), RunError> {
        let end = self.options.seconds.map(|span| clock.now() + span.duration());
        let mut synced = clock.now();
        loop {
            let now = clock.now();
            let left = end.map_or(LONGEST_SLEEP, |end| end.since(now));
            if stop.is_asked() || left.is_zero() || self.is_enough() {
                return Ok(());
            }
            device.set_now(now);
            let count =
                device.rx_burst(&mut |burst| burst.iter().for_each(|frame| self.look_at(frame, now)))?;
            if count < BURST || self.failure.is_some() || now.since(synced) >= SYNC_EVERY {
                if !self.sync()? {
                    return Ok(());
                }
                synced = now;
            }
            if count == 0 {
                if device.is_exhausted() {
                    return Ok(());
                }
                sleep([&mut *device], left);
            }
        }
    }

    fn is_enough(&self) -> bool {
        self.options.count.is_some_and(|count| self.matched >= count)
    }

    fn look_at(&mut self, frame: &RxFrame<'_>, now: Instant) {
        if self.failure.is_some() || self.is_enough() {
            return;
        }
        self.seen += 1;
        let tagged = put_tag_back(frame, &mut self.scratch);
        let bytes = if tagged { &self.scratch } else { frame.bytes() };
        if !self.options.filter.matches(bytes, bytes.len()) {
            return;
        }
        if let Some(writer) = &mut self.writer {
            let RxMeta { checksum, outgoing, timestamp, .. } = frame.meta;
            let completed = complete(frame, checksum, tagged, &mut self.scratch);
            let bytes = if tagged || completed { &self.scratch } else { frame.bytes() };
            let direction = if outgoing { Direction::Outbound } else { Direction::Inbound };
            let time = match timestamp {
                Some(nanos) => Duration::from_nanos(nanos.get()),
                None => self.origin.saturating_add(now.since(Instant::ZERO)),
            };
            self.failure = writer.write_at(time, direction, bytes).err();
        }
        self.matched += u64::from(self.failure.is_none());
    }

    /// Brings what was captured to the file. Whether it can be read by anybody: a pipe may have lost its reader, who has had enough.
    ///
    /// # Errors
    /// It cannot be written.
    fn sync(&mut self) -> Result<bool, RunError> {
        let Some(writer) = &mut self.writer else { return Ok(true) };
        match self.failure.take().map_or_else(|| writer.flush(), Err) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(source) => {
                let what = format!("cannot write {}", writer.path().display());
                let remedy = "is the disk full? what is in it so far can be read";
                Err(DeviceError::Io { what, source, remedy }.into())
            }
        }
    }

    fn summary(&self, device: &BoxedDevice) -> String {
        let Self { seen, matched, .. } = self;
        let written = if self.writer.is_some() { *matched } else { 0 };
        // The device has its own names for what was lost on its way to us.
        let counts = counts(&**device);
        let lost: u64 = counts.iter().filter(|(name, _)| name.contains("-rx-")).map(|(_, count)| count).sum();
        let mut text =
            format!("{seen} frames seen, {matched} matched, {written} written, {lost} lost by the device\n");
        counts.iter().for_each(|(name, count)| text += &format!("{name} {count}\n"));
        text
    }
}

/// Bytes of an 802.1Q tag.
const TAG: u16 = 4;

/// Makes `to` the frame as it was before the device took its tag off, if it did.
fn put_tag_back(frame: &RxFrame<'_>, to: &mut Vec<u8>) -> bool {
    let Some(tci) = frame.meta.vlan else { return false };
    let (stations, rest) = frame.bytes().split_at_checked(12).unwrap_or((frame.bytes(), &[]));
    to.clear();
    to.extend_from_slice(stations);
    to.extend_from_slice(&EtherType::VLAN.0.to_be_bytes());
    to.extend_from_slice(&tci.to_be_bytes());
    to.extend_from_slice(rest);
    true
}

/// Makes `to`, which is the frame with its tag if that was `tagged`, the frame with its checksum completed, if it was not.
fn complete(frame: &RxFrame<'_>, checksum: RxChecksum, tagged: bool, to: &mut Vec<u8>) -> bool {
    let RxChecksum::Partial { start, offset } = checksum else { return false };
    if !tagged {
        to.clear();
        to.extend_from_slice(frame.bytes());
    }
    complete_checksum(to, start.saturating_add(if tagged { TAG } else { 0 }), offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ntytcp::wire::Sum;

    #[test]
    fn a_frame_is_as_it_was_on_the_wire() {
        let stations = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        // Eight bytes whose checksum is at the sixth.
        let bytes = [&stations[..], &[8, 0], &[1, 2, 3, 4, 5, 6, 0, 9]].concat();
        let (mut buf, mut scratch) = (bytes.clone(), Vec::new());
        let mut meta = RxMeta::default();
        meta.checksum = RxChecksum::Partial { start: 14, offset: 6 };
        let plain = RxFrame::new(&mut buf, 0, bytes.len(), meta);
        assert!(!put_tag_back(&plain, &mut scratch));
        assert!(complete(&plain, meta.checksum, false, &mut scratch));
        let wanted = Sum::of(&bytes[14..]).finish_nonzero().to_be_bytes();
        assert_eq!(scratch[..20], bytes[..20]);
        assert_eq!(scratch[20..], wanted);

        meta.vlan = Some(0x2007);
        let mut buf = bytes.clone();
        let tagged = RxFrame::new(&mut buf, 0, bytes.len(), meta);
        assert!(put_tag_back(&tagged, &mut scratch));
        assert!(complete(&tagged, meta.checksum, true, &mut scratch));
        let whole = [&stations[..], &[0x81, 0, 0x20, 7, 8, 0], &bytes[14..20], &wanted].concat();
        assert_eq!(scratch, whole);
    }
}
