//! What `nty perf` counts and prints. Pure: bytes, sequence numbers and times in, text out.

use ntytcp::time::{Duration, Instant};
use std::fmt;

/// The first bytes of every datagram of a measurement: which stream, which number, sent when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatagramHeader {
    /// The stream, from 0.
    pub stream: u32,
    /// Number of the datagram in its stream, from 0.
    pub seq: u64,
    /// When it was sent, by the sender's clock, which need not agree with the receiver's.
    pub sent: Instant,
}

impl DatagramHeader {
    /// Bytes on the wire: magic, stream, number and time, big-endian.
    pub const LEN: usize = 24;
    const MAGIC: [u8; 4] = *b"nty\x01";

    /// The header as bytes.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let fields = Self::MAGIC
            .into_iter()
            .chain(self.stream.to_be_bytes())
            .chain(self.seq.to_be_bytes())
            .chain(self.sent.as_nanos().to_be_bytes());
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        bytes
    }

    /// The header at the start of a datagram; `None` when it is none of ours.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let (magic, rest) = datagram.split_first_chunk::<4>()?;
        let (stream, rest) = rest.split_first_chunk::<4>()?;
        let (seq, rest) = rest.split_first_chunk::<8>()?;
        let (sent, _) = rest.split_first_chunk::<8>()?;
        (*magic == Self::MAGIC).then(|| Self {
            stream: u32::from_be_bytes(*stream),
            seq: u64::from_be_bytes(*seq),
            sent: Instant::from_nanos(u64::from_be_bytes(*sent)),
        })
    }
}

/// How many datagrams back a second copy is told from a late first one.
const WINDOW: u64 = 128;

/// What arrived of one stream of numbered datagrams.
#[derive(Clone, Debug, Default)]
pub struct Arrivals {
    received: u64,
    duplicates: u64,
    reordered: u64,
    /// One more than the highest number seen.
    next: u64,
    /// Bit `i`: number `next - 1 - i` was seen.
    seen: u128,
    /// Receive time minus send time of the last datagram in nanoseconds, an arbitrary origin included.
    transit: Option<i128>,
    /// RFC 3550 6.4.1, in nanoseconds times 16.
    jitter_x16: u64,
}

impl Arrivals {
    /// A datagram arrived at `now`.
    pub fn add(&mut self, header: &DatagramHeader, now: Instant) {
        self.received += 1;
        self.note_transit(header, now);
        // The highest number would leave no next one.
        let seq = header.seq.min(u64::MAX - 1);
        if seq >= self.next {
            let ahead = seq - self.next + 1;
            self.seen = if ahead < WINDOW { (self.seen << ahead) | 1 } else { 1 };
            self.next = seq + 1;
            return;
        }
        let age = self.next - 1 - seq;
        let bit = 1_u128.checked_shl(u32::try_from(age).unwrap_or(u32::MAX)).unwrap_or(0);
        if self.seen & bit != 0 {
            self.duplicates += 1;
        } else {
            // So late that it left the window counts as a first copy, too.
            self.reordered += 1;
            self.seen |= bit;
        }
    }

    /// RFC 3550 6.4.1: J(i) = J(i-1) + (|D(i-1,i)| - J(i-1))/16, in integers as in its appendix A.8.
    fn note_transit(&mut self, header: &DatagramHeader, now: Instant) {
        let transit = i128::from(now.as_nanos()) - i128::from(header.sent.as_nanos());
        if let Some(last) = self.transit.replace(transit) {
            // A jump of the sender's clock counts as two weeks at most, so that nothing overflows.
            let difference = u64::try_from((transit - last).unsigned_abs()).unwrap_or(u64::MAX).min(1 << 50);
            let smoothed = self.jitter_x16 - ((self.jitter_x16 + 8) >> 4).min(self.jitter_x16);
            self.jitter_x16 = smoothed.saturating_add(difference);
        }
    }

    /// Datagrams that were sent before the last one that arrived, and did not arrive.
    pub fn lost(&self) -> u64 {
        self.next.saturating_sub(self.received - self.duplicates)
    }

    /// Datagrams received, copies included.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Smoothed difference between the spacing of datagrams at the sender and at the receiver.
    pub fn jitter(&self) -> Duration {
        Duration::from_nanos(self.jitter_x16 >> 4)
    }

    /// Datagrams of which a copy had arrived before.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Datagrams that arrived after one with a higher number.
    pub fn reordered(&self) -> u64 {
        self.reordered
    }
}

/// Which way bytes go, as seen from here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// We send.
    Sent,
    /// We receive.
    Received,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sent => "sent",
            Self::Received => "received",
        })
    }
}

/// Counts the bytes of one direction, in total and since the last line.
#[derive(Clone, Debug)]
pub struct Meter {
    direction: Direction,
    started: Instant,
    interval: Duration,
    line_from: Instant,
    line_bytes: u64,
    total: u64,
    last: Instant,
}

impl Meter {
    /// Starts to count at `now`; a line is due every `interval`.
    pub fn new(direction: Direction, interval: Duration, now: Instant) -> Self {
        Self { direction, started: now, interval, line_from: now, line_bytes: 0, total: 0, last: now }
    }

    /// `bytes` went through at `now`.
    pub fn add(&mut self, now: Instant, bytes: usize) {
        self.line_bytes = self.line_bytes.saturating_add(bytes as u64);
        self.total = self.total.saturating_add(bytes as u64);
        self.last = self.last.max(now);
    }

    /// Bytes so far.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// When [`Meter::line`] has its next line.
    pub fn next_line(&self) -> Instant {
        self.line_from + self.interval
    }

    /// The line that is due at `now`, if one is. It covers the time since the last, which may be more than an interval when
    /// the caller was late.
    pub fn line(&mut self, now: Instant) -> Option<Line> {
        if now < self.next_line() {
            return None;
        }
        let line = self.make_line(self.line_from, now, self.line_bytes);
        (self.line_from, self.line_bytes) = (now, 0);
        Some(line)
    }

    /// The line at the end: from the start to the last byte, so that what came after it does not dilute the rate.
    pub fn summary(&self) -> Line {
        self.summary_until(self.last)
    }

    /// The line at an end that is not the last byte.
    pub fn summary_until(&self, end: Instant) -> Line {
        self.make_line(self.started, end, self.total)
    }

    /// What it counts.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    fn make_line(&self, from: Instant, to: Instant, bytes: u64) -> Line {
        Line { from: from.since(self.started), to: to.since(self.started), bytes, direction: self.direction }
    }
}

/// So many bytes in a stretch of time, printed as one line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// Start of the stretch, since the start of the measurement.
    pub from: Duration,
    /// End of the stretch, since the start of the measurement.
    pub to: Duration,
    /// Payload bytes in it.
    pub bytes: u64,
    direction: Direction,
}

impl Line {
    /// Payload bits per second; 0 for no time at all.
    pub fn bits_per_second(&self) -> f64 {
        let secs = self.to.saturating_sub(self.from).as_secs_f64();
        if secs > 0.0 { self.bytes as f64 * 8.0 / secs } else { 0.0 }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from.as_secs_f64(), self.to.as_secs_f64());
        let (bytes, rate) = (Scaled(self.bytes as f64, "B"), Scaled(self.bits_per_second(), "b/s"));
        write!(f, "{from:7.2} - {to:7.2} s  {bytes}  {rate}  {}", self.direction)
    }
}

/// A number with the decimal prefix that leaves one to three digits before the point.
pub(super) struct Scaled(pub(super) f64, pub(super) &'static str);

impl fmt::Display for Scaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(mut value, unit) = *self;
        let mut prefix = "";
        for larger in ["k", "M", "G", "T", "P"] {
            // What would be printed as 1000.00 is 1.00 of the next.
            if value < 999.995 {
                break;
            }
            value /= 1_000.0;
            prefix = larger;
        }
        write!(f, "{value:6.2} {prefix}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn arrivals(seqs: impl IntoIterator<Item = u64>) -> Arrivals {
        let mut arrivals = Arrivals::default();
        for seq in seqs {
            arrivals.add(&DatagramHeader { stream: 0, seq, sent: at(0) }, at(0));
        }
        arrivals
    }

    fn counts(a: &Arrivals) -> (u64, u64, u64, u64) {
        (a.received, a.lost(), a.reordered, a.duplicates)
    }

    #[test]
    fn header_round_trip_and_strangers() {
        let header = DatagramHeader { stream: 7, seq: u64::MAX, sent: at(123) };
        let bytes = header.to_bytes();
        assert_eq!(DatagramHeader::parse(&bytes), Some(header));
        for cut in 0..bytes.len() {
            assert_eq!(DatagramHeader::parse(&bytes[..cut]), None);
        }
        assert_eq!(DatagramHeader::parse(&[0; 64]), None);
    }

    #[test]
    fn loss_reordering_and_duplicates_are_told_apart() {
        assert_eq!(counts(&arrivals(0..1_000)), (1_000, 0, 0, 0));
        assert_eq!(counts(&arrivals([0, 1, 3, 4])), (4, 1, 0, 0));
        assert_eq!(counts(&arrivals([0, 2, 1, 3])), (4, 0, 1, 0));
        assert_eq!(counts(&arrivals([0, 1, 1, 2, 0])), (5, 0, 0, 2));
        assert_eq!(counts(&arrivals([3])), (1, 3, 0, 0), "the first ones were lost");
        assert_eq!(
            counts(&arrivals([0, 500, 1, 1])),
            (4, 497, 2, 0),
            "beyond the window all are first copies"
        );
        assert_eq!(counts(&arrivals([0, 127, 0])), (3, 126, 0, 1));
        assert_eq!(counts(&arrivals([0, 127, 1, 1])), (4, 125, 1, 1));
        assert_eq!(counts(&arrivals([u64::MAX, u64::MAX])).3, 1);
    }

    #[test]
    fn jitter_is_zero_for_even_spacing_and_converges_to_the_variation() {
        let mut even = Arrivals::default();
        let mut uneven = Arrivals::default();
        for seq in 0..1_000 {
            let header = DatagramHeader { stream: 0, seq, sent: at(seq * 10) };
            even.add(&header, at(seq * 10 + 500));
            uneven.add(&header, at(seq * 10 + (seq % 2)));
        }
        assert_eq!(even.jitter(), Duration::ZERO);
        let millis = uneven.jitter().as_secs_f64() * 1e3;
        assert!((0.99..1.01).contains(&millis), "{millis}");
        // Clocks that are far apart in either direction do no harm.
        let mut mad = Arrivals::default();
        for sent in [Instant::FAR_FUTURE, Instant::ZERO, Instant::FAR_FUTURE] {
            mad.add(&DatagramHeader { stream: 0, seq: 0, sent }, at(1));
        }
    }

    #[test]
    fn lines_cover_the_time_without_gaps() {
        let mut meter = Meter::new(Direction::Received, Duration::from_secs(1), at(5_000));
        meter.add(at(5_500), 125_000_000);
        assert_eq!(meter.line(at(5_999)), None);
        let line = meter.line(at(6_000)).unwrap();
        assert_eq!(line.to_string(), "   0.00 -    1.00 s  125.00 MB    1.00 Gb/s  received");
        meter.add(at(6_500), 1_000);
        assert_eq!(
            meter.line(at(8_000)).unwrap().to_string(),
            "   1.00 -    3.00 s    1.00 kB    4.00 kb/s  received"
        );
        assert_eq!(meter.next_line(), at(9_000));
        assert_eq!(meter.summary().to_string(), "   0.00 -    1.50 s  125.00 MB  666.67 Mb/s  received");
    }

    #[test]
    fn nothing_in_no_time_is_no_rate() {
        let meter = Meter::new(Direction::Sent, Duration::from_secs(1), at(0));
        assert_eq!(meter.summary().to_string(), "   0.00 -    0.00 s    0.00 B    0.00 b/s  sent");
        assert_eq!(Scaled(999.996, "B").to_string(), "  1.00 kB");
    }
}
