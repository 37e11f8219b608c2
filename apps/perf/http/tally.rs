//! What `nty perf http` counts and prints. Pure: answers, failures and times in, text or JSON out.

use crate::perf::report::Scaled;
use hdrhistogram::Histogram;
use ntytcp::stack::SocketError;
use ntytcp::time::{Duration, Instant};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// Why a request has no answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Failure {
    /// RST to our SYN.
    Refused,
    /// RST later.
    Reset,
    /// No way there.
    Unreachable,
    /// No connection, no complete answer or no end in time.
    TimedOut,
    /// The connection ended before a byte of the answer.
    Closed,
    /// The connection ended in the answer: it is shorter than it says.
    CutOff,
    /// What came is no answer that HTTP/1 allows.
    Malformed,
    /// Bytes behind the last answer, which nobody asked for: it is longer than it says.
    Unasked,
    /// Our stack has no port or memory for another connection.
    Exhausted,
}

impl Failure {
    /// What a socket's error means.
    pub(super) fn of(error: SocketError) -> Self {
        match error {
            SocketError::ConnectionRefused => Self::Refused,
            SocketError::TimedOut => Self::TimedOut,
            SocketError::AddressInUse | SocketError::AddressNotAvailable | SocketError::NoBufferSpace => {
                Self::Exhausted
            }
            SocketError::NetworkUnreachable
            | SocketError::HostUnreachable
            | SocketError::ProtocolUnreachable
            | SocketError::FamilyNotSupported => Self::Unreachable,
            _ => Self::Reset,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed out",
            Self::Closed => "closed",
            Self::CutOff => "cut off",
            Self::Malformed => "malformed",
            Self::Unasked => "unasked",
            Self::Exhausted => "exhausted",
        })
    }
}

/// What is counted from a moment on.
#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    answers: u64,
    connections: u64,
    received: u64,
}

/// The counts of a run.
pub(super) struct Tally {
    started: Instant,
    interval: Duration,
    /// When the last line was printed, and the counts then.
    line_from: Instant,
    line_counts: Counts,
    counts: Counts,
    sent: u64,
    statuses: BTreeMap<u16, u64>,
    failures: BTreeMap<Failure, u64>,
    repeated: u64,
    /// Nanoseconds, three digits exact.
    latency: Histogram<u64>,
    connect: Histogram<u64>,
}

/// From a microsecond to an hour; what is outside counts as the nearer of the two.
fn histogram() -> Option<Histogram<u64>> {
    let mut histogram = Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3).ok()?;
    histogram.auto(false);
    Some(histogram)
}

impl Tally {
    /// Nothing was counted at `now`; a line is due every `interval`. `None` never: the bounds of the histograms are sound.
    pub(super) fn new(interval: Duration, now: Instant) -> Option<Self> {
        Some(Self {
            started: now,
            interval,
            line_from: now,
            line_counts: Counts::default(),
            counts: Counts::default(),
            sent: 0,
            statuses: BTreeMap::new(),
            failures: BTreeMap::new(),
            repeated: 0,
            latency: histogram()?,
            connect: histogram()?,
        })
    }

    /// A connection that was begun at `opened` is established. With the first one the time begins.
    pub(super) fn connected(&mut self, now: Instant, opened: Instant) {
        if self.counts.connections == 0 {
            (self.started, self.line_from) = (now, now);
        }
        self.counts.connections += 1;
        self.connect.saturating_record(nanos(now.since(opened)));
    }

    /// An answer is complete, so long after it was asked for.
    pub(super) fn answered(&mut self, status: u16, took: Duration) {
        self.counts.answers += 1;
        *self.statuses.entry(status).or_default() += 1;
        self.latency.saturating_record(nanos(took));
    }

    /// So many requests will have no answer.
    pub(super) fn failed(&mut self, failure: Failure, requests: u64) {
        *self.failures.entry(failure).or_default() += requests;
    }

    /// So many requests were sent behind the last one that the server answers on its connection, and are made again.
    pub(super) fn repeated(&mut self, requests: u64) {
        self.repeated += requests;
    }

    /// Bytes of requests, and of answers.
    pub(super) fn moved(&mut self, sent: usize, received: usize) {
        self.sent += sent as u64;
        self.counts.received += received as u64;
    }

    /// When the first connection was established.
    pub(super) fn started(&self) -> Option<Instant> {
        (self.counts.connections > 0).then_some(self.started)
    }

    /// When [`Tally::line`] has its next line.
    pub(super) fn next_line(&self) -> Instant {
        self.line_from + self.interval
    }

    /// The line that is due at `now`, if one is.
    pub(super) fn line(&mut self, now: Instant) -> Option<Line> {
        if now < self.next_line() {
            return None;
        }
        let (old, new) = (self.line_counts, self.counts);
        let line = Line {
            from: self.line_from.since(self.started),
            to: now.since(self.started),
            answers: new.answers - old.answers,
            connections: new.connections - old.connections,
            received: new.received - old.received,
        };
        (self.line_from, self.line_counts) = (now, new);
        Some(line)
    }

    /// All of it, up to `end`.
    pub(super) fn report(&self, end: Instant) -> Report {
        let seconds = end.since(self.started).as_secs_f64();
        let rate = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        let good = self.statuses.range(200..300).map(|(_, n)| n).sum();
        Report {
            seconds,
            requests: good,
            requests_per_second: rate(good),
            connections: self.counts.connections,
            connections_per_second: rate(self.counts.connections),
            bytes_sent: self.sent,
            bytes_received: self.counts.received,
            latency_us: Quantiles::of(&self.latency),
            connect_us: Quantiles::of(&self.connect),
            other_statuses: self
                .statuses
                .iter()
                .filter(|(status, _)| !(200..300).contains(*status))
                .map(|(&status, &n)| (status, n))
                .collect(),
            failed: self.failures.clone(),
            repeated: self.repeated,
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A stretch of time, as one line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    from: Duration,
    to: Duration,
    answers: u64,
    connections: u64,
    received: u64,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from.as_secs_f64(), self.to.as_secs_f64());
        let rate = |n: u64| if to > from { n as f64 / (to - from) } else { 0.0 };
        let (answers, connections) = (rate(self.answers), rate(self.connections));
        let received = Scaled(rate(self.received), "B/s");
        write!(
            f,
            "{from:7.2} - {to:7.2} s  {answers:8.0} answers/s  {connections:8.0} connections/s  {received}"
        )
    }
}

/// What is known at the end. The names of its fields are those of the JSON.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// From the first connection to the end.
    seconds: f64,
    /// Requests answered by a status of 2xx.
    requests: u64,
    requests_per_second: f64,
    /// Connections established.
    connections: u64,
    connections_per_second: f64,
    bytes_sent: u64,
    bytes_received: u64,
    /// From a request to the end of its answer; with `--close`, from the SYN.
    latency_us: Quantiles,
    /// From the SYN to the connection.
    connect_us: Quantiles,
    other_statuses: BTreeMap<u16, u64>,
    failed: BTreeMap<Failure, u64>,
    repeated: u64,
}

impl Report {
    /// Whether every request was answered by a status of 2xx, and there was one.
    pub(super) fn is_good(&self) -> bool {
        self.requests > 0 && self.failed.is_empty() && self.other_statuses.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "total: {} requests in {:.2} s, {:.1}/s; {} connections, {:.1}/s",
            self.requests,
            self.seconds,
            self.requests_per_second,
            self.connections,
            self.connections_per_second,
        )?;
        writeln!(
            f,
            "bytes: {} sent, {} received",
            Scaled(self.bytes_sent as f64, "B").to_string().trim_start(),
            Scaled(self.bytes_received as f64, "B").to_string().trim_start(),
        )?;
        writeln!(f, "latency: {}", self.latency_us)?;
        write!(f, "connect: {}", self.connect_us)?;
        list(f, "status", &self.other_statuses)?;
        list(f, "failed", &self.failed)?;
        if self.repeated > 0 {
            write!(
                f,
                "\nrepeated: {} requests behind an answer that closed their connection",
                self.repeated
            )?;
        }
        Ok(())
    }
}

/// What was counted by kind, if anything was.
fn list<K: fmt::Display>(f: &mut fmt::Formatter<'_>, name: &str, counts: &BTreeMap<K, u64>) -> fmt::Result {
    for (i, (kind, n)) in counts.iter().enumerate() {
        if i == 0 { write!(f, "\n{name}: {n} {kind}")? } else { write!(f, ", {n} {kind}")? }
    }
    Ok(())
}

/// How times are spread, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Quantiles {
    #[serde(serialize_with = "tenths")]
    p50: f64,
    #[serde(serialize_with = "tenths")]
    p90: f64,
    #[serde(serialize_with = "tenths")]
    p99: f64,
    #[serde(serialize_with = "tenths")]
    max: f64,
}

/// There is no more in a histogram of three digits.
fn tenths<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((value * 10.0).round() / 10.0)
}

impl Quantiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: histogram.max() as f64 / 1e3 }
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, max } = self;
        write!(f, "p50 {p50:.1} us, p90 {p90:.1} us, p99 {p99:.1} us, max {max:.1} us")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn what_was_counted_is_in_the_text_and_in_the_json() {
        let mut tally = Tally::new(Duration::from_secs(1), at(1_000)).unwrap();
        tally.connected(at(1_000), Instant::from_micros(999_950));
        for micros in 1..=100 {
            tally.answered(200, Duration::from_micros(10 * micros));
        }
        tally.moved(4_000, 43_800);
        let line = tally.line(at(3_000)).unwrap().to_string();
        assert_eq!(line, "   0.00 -    2.00 s        50 answers/s         0 connections/s   21.90 kB/s");
        assert!(tally.line(at(3_999)).is_none());
        assert!(tally.report(at(3_000)).is_good());
        tally.answered(404, Duration::from_secs(7_200));
        tally.failed(Failure::TimedOut, 2);
        tally.failed(Failure::Refused, 1);
        tally.repeated(7);
        let report = tally.report(at(3_000));
        assert!(!report.is_good());
        assert_eq!(
            report.to_string(),
            "total: 100 requests in 2.00 s, 50.0/s; 1 connections, 0.5/s\n\
             bytes: 4.00 kB sent, 43.80 kB received\n\
             latency: p50 510.5 us, p90 910.3 us, p99 1000.4 us, max 3601330077.7 us\n\
             connect: p50 50.2 us, p90 50.2 us, p99 50.2 us, max 50.2 us\n\
             status: 1 404\n\
             failed: 1 refused, 2 timed out\n\
             repeated: 7 requests behind an answer that closed their connection"
        );
        let json: serde_json::Value = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["requests"], &json["failed"]["timed_out"]), (&100.into(), &2.into()));
        assert_eq!((&json["other_statuses"]["404"], &json["latency_us"]["p50"]), (&1.into(), &510.5.into()));
    }

    #[test]
    fn nothing_in_no_time_is_no_rate() {
        let report = Tally::new(Duration::from_secs(1), at(5)).unwrap().report(at(5));
        assert!(!report.is_good());
        assert!(report.to_string().starts_with("total: 0 requests in 0.00 s, 0.0/s; 0 connections, 0.0/s\n"));
    }
}
