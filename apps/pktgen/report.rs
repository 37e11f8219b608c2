//! What `nty pktgen` has to say at the end.

use super::track::Tracker;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// The figures. `sent` and what follows from it are missing in a report of who only received.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Report {
    pub sent: Option<Flow>,
    /// Frames of the generator that came.
    pub received: Flow,
    /// Different ones that should have come and did not.
    pub lost: u64,
    pub lost_percent: f64,
    pub duplicates: u64,
    pub reordered: u64,
    pub damaged: u64,
    /// SYNs that were answered by an RST.
    pub refused: u64,
    /// Frames that are not the generator's.
    pub others: u64,
    /// ARP requests that were answered.
    pub arp_answered: u64,
    pub latency_us: Option<Latency>,
    /// What the device itself counted.
    pub device: Vec<(&'static str, u64)>,
}

/// Frames in a time.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(super) struct Flow {
    pub frames: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub frames_per_second: f64,
    pub bits_per_second: f64,
}

/// From the sending of a frame to its coming back, in microseconds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(super) struct Latency {
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Flow {
    pub(super) fn new(frames: u64, bytes: u64, time: Duration) -> Self {
        let seconds = time.as_secs_f64();
        let per_second = |n: f64| if seconds > 0.0 { n / seconds } else { 0.0 };
        let (frames_per_second, bits_per_second) =
            (per_second(frames as f64), per_second(bytes as f64 * 8.0));
        Self { frames, bytes, seconds, frames_per_second, bits_per_second }
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        let (min, max) = (histogram.min() as f64 / 1e3, histogram.max() as f64 / 1e3);
        (!histogram.is_empty()).then(|| Self { min, p50: at(0.5), p90: at(0.9), p99: at(0.99), max })
    }
}

impl Report {
    pub(super) fn new(tracker: &Tracker, sent: Option<Flow>, time: Duration) -> Self {
        let Tracker { sequence, latency, frames, bytes, damaged, refused, others, .. } = tracker;
        // Who did not send knows of what is missing in between only.
        let due = sent.map_or(sequence.known(), |flow| flow.frames);
        let lost = due.saturating_sub(sequence.unique);
        Self {
            sent,
            received: Flow::new(*frames, *bytes, time),
            lost,
            lost_percent: if due > 0 { lost as f64 * 100.0 / due as f64 } else { 0.0 },
            duplicates: sequence.duplicates,
            reordered: sequence.reordered,
            damaged: *damaged,
            refused: *refused,
            others: *others,
            arp_answered: 0,
            latency_us: latency.as_ref().and_then(Latency::of),
            device: Vec::new(),
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frames, bytes, seconds, frames_per_second, bits_per_second } = self;
        let megabits = bits_per_second / 1e6;
        write!(
            f,
            "{frames} frames, {bytes} bytes in {seconds:.3} s: {frames_per_second:.0} frames/s, {megabits:.1} Mb/s"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(sent) = &self.sent {
            writeln!(f, "sent {sent}")?;
        }
        writeln!(f, "received {}", self.received)?;
        let Self { lost, lost_percent, duplicates, reordered, damaged, .. } = self;
        writeln!(
            f,
            "lost {lost} ({lost_percent:.3} %), duplicates {duplicates}, out of order {reordered}, damaged {damaged}"
        )?;
        if self.refused > 0 {
            writeln!(f, "refused {} by an RST", self.refused)?;
        }
        if let Some(Latency { min, p50, p90, p99, max }) = self.latency_us {
            writeln!(
                f,
                "latency min {min:.1} us, p50 {p50:.1} us, p90 {p90:.1} us, p99 {p99:.1} us, max {max:.1} us"
            )?;
        }
        writeln!(f, "other frames {}, answered {} ARP requests", self.others, self.arp_answered)?;
        self.device.iter().try_for_each(|(name, count)| writeln!(f, "{name} {count}"))
    }
}
