//! What `nty ping` prints: one line per reply, and a summary. Pure: replies and times in, text out.

use ntytcp::time::{Duration, Instant};
use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;

/// How many requests back a reply is still recognised.
const WINDOW: usize = 4_096;

/// What became of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Waiting,
    Answered,
    /// The reply did not come in time.
    GivenUp,
}

/// What is known of a run of echo requests, numbered from 0 in the order they were sent.
#[derive(Debug)]
pub struct Tally {
    target: IpAddr,
    started: Instant,
    timeout: Duration,
    /// When the latest requests were sent and what became of them; the last is number `sent - 1`.
    requests: VecDeque<(Instant, Fate)>,
    /// Requests at the front of `requests` that nobody waits for any more.
    settled: usize,
    sent: u64,
    received: u64,
    late: u64,
    duplicates: u64,
    errors: u64,
    rtt: Rtt,
}

/// Round-trip times, summed up in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Rtt {
    count: u64,
    min: u64,
    max: u64,
    sum: u128,
    sum_of_squares: u128,
}

/// A reply, as one line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    from: IpAddr,
    seq: u64,
    bytes: usize,
    ttl: u8,
    rtt: Duration,
    kind: ReplyKind,
}

/// Which reply to its request a reply is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplyKind {
    /// The first, in time.
    InTime,
    /// The first, after the timeout; the request stays lost.
    Late,
    /// Not the first.
    Duplicate,
}

impl Tally {
    /// Nothing was sent yet. A reply is late after `timeout`.
    pub fn new(target: IpAddr, timeout: Duration, now: Instant) -> Self {
        Self {
            target,
            started: now,
            timeout,
            requests: VecDeque::new(),
            settled: 0,
            sent: 0,
            received: 0,
            late: 0,
            duplicates: 0,
            errors: 0,
            rtt: Rtt::default(),
        }
    }

    /// A request goes out; returns its number, whose low 16 bits are the sequence number on the wire.
    pub fn sent(&mut self, now: Instant) -> u64 {
        if self.requests.len() == WINDOW {
            self.requests.pop_front();
            self.settled = self.settled.saturating_sub(1);
        }
        self.requests.push_back((now, Fate::Waiting));
        self.sent += 1;
        self.sent - 1
    }

    /// A reply came with the sequence number `wire_seq`, `bytes` of data and the remaining `ttl`. `None` when no request
    /// of late has that number.
    pub fn reply(
        &mut self,
        now: Instant,
        from: IpAddr,
        wire_seq: u16,
        bytes: usize,
        ttl: u8,
    ) -> Option<Reply> {
        // The latest request whose number ends in these 16 bits.
        let newest = self.sent.checked_sub(1)?;
        let age = usize::from((newest as u16).wrapping_sub(wire_seq));
        let seq = newest.checked_sub(age as u64)?;
        let index = self.requests.len().checked_sub(age + 1)?;
        let (sent_at, fate) = self.requests.get_mut(index)?;
        let rtt = now.since(*sent_at);
        let kind = match fate {
            Fate::Waiting if rtt <= self.timeout => ReplyKind::InTime,
            Fate::Waiting | Fate::GivenUp => ReplyKind::Late,
            Fate::Answered => ReplyKind::Duplicate,
        };
        *fate = Fate::Answered;
        match kind {
            ReplyKind::InTime => {
                self.received += 1;
                self.rtt.add(rtt);
            }
            ReplyKind::Late => self.late += 1,
            ReplyKind::Duplicate => self.duplicates += 1,
        }
        Some(Reply { from, seq, bytes, ttl, rtt, kind })
    }

    /// The request `seq` could not be sent: nobody waits for its reply.
    pub fn not_sent(&mut self, seq: u64) {
        let first = self.sent - self.requests.len() as u64;
        let index = seq.checked_sub(first).and_then(|index| usize::try_from(index).ok());
        if let Some((_, fate)) = index.and_then(|index| self.requests.get_mut(index)) {
            *fate = Fate::GivenUp;
        }
    }

    /// An ICMP error came for one of the requests.
    pub fn error(&mut self) {
        self.errors += 1;
    }

    /// Gives up what waits for longer than the timeout and returns the numbers of these requests.
    pub fn give_up(&mut self, now: Instant) -> impl Iterator<Item = u64> + use<> {
        let first = self.sent - self.requests.len() as u64;
        let mut lost = Vec::new();
        for (i, (sent_at, fate)) in self.requests.iter_mut().enumerate().skip(self.settled) {
            if now.since(*sent_at) < self.timeout {
                break;
            }
            if *fate == Fate::Waiting {
                *fate = Fate::GivenUp;
                lost.push(first + i as u64);
            }
            self.settled = i + 1;
        }
        lost.into_iter()
    }

    /// When [`Tally::give_up`] will next have something to do; `None` when nothing is waited for.
    pub fn next_give_up(&self) -> Option<Instant> {
        let mut waiting = self.requests.iter().skip(self.settled).filter(|(_, fate)| *fate == Fate::Waiting);
        waiting.next().map(|&(sent_at, _)| sent_at + self.timeout)
    }

    /// Whether every request was answered in time, and there was one: the exit status of the command. One that is still under
    /// way when the run is stopped does not count.
    pub fn is_complete(&self) -> bool {
        self.received > 0 && self.received + self.waiting() == self.sent
    }

    /// Requests under way: neither answered nor lost.
    fn waiting(&self) -> u64 {
        self.requests.iter().filter(|(_, fate)| *fate == Fate::Waiting).count() as u64
    }

    /// The lines at the end.
    pub fn summary(&self, now: Instant) -> Summary<'_> {
        Summary { tally: self, elapsed: now.since(self.started) }
    }
}

impl Rtt {
    fn add(&mut self, rtt: Duration) {
        let nanos = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX);
        self.min = if self.count == 0 { nanos } else { self.min.min(nanos) };
        self.max = self.max.max(nanos);
        self.count += 1;
        self.sum = self.sum.saturating_add(u128::from(nanos));
        self.sum_of_squares = self.sum_of_squares.saturating_add(u128::from(nanos) * u128::from(nanos));
    }

    /// Mean and standard deviation.
    fn mean_and_deviation(&self) -> (u64, u64) {
        let n = u128::from(self.count.max(1));
        let mean = self.sum / n;
        // In floats: the difference of two large squares is rounded anyway, and must not be negative.
        let variance = (self.sum_of_squares as f64 / n as f64) - (self.sum as f64 / n as f64).powi(2);
        (u64::try_from(mean).unwrap_or(u64::MAX), variance.max(0.0).sqrt().round() as u64)
    }
}

/// Nanoseconds as milliseconds with three digits, as ping has always printed them.
struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0 / 1_000 + u64::from(self.0 % 1_000 >= 500);
        write!(f, "{}.{:03}", micros / 1_000, micros % 1_000)
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, seq, bytes, ttl, rtt, kind } = self;
        let time = Millis(u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX));
        let remark = match kind {
            ReplyKind::InTime => "",
            ReplyKind::Late => " (late)",
            ReplyKind::Duplicate => " (duplicate)",
        };
        write!(f, "{bytes} bytes from {from}: seq={seq} ttl={ttl} time={time} ms{remark}")
    }
}

/// See [`Tally::summary`].
#[derive(Debug)]
pub struct Summary<'a> {
    tally: &'a Tally,
    elapsed: Duration,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { target, sent, received, late, duplicates, errors, rtt, .. } = self.tally;
        let waiting = self.tally.waiting();
        let lost = sent.saturating_sub(*received).saturating_sub(waiting);
        let per_mille = u128::from(lost) * 1_000 / u128::from((*sent).max(1));
        write!(
            f,
            "{target}: {sent} sent, {received} received, {lost} lost ({}.{} %)",
            per_mille / 10,
            per_mille % 10
        )?;
        for (count, what) in
            [(waiting, "under way"), (*late, "late"), (*duplicates, "duplicate"), (*errors, "ICMP errors")]
        {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        write!(f, ", {:.1} s", self.elapsed.as_secs_f64())?;
        if rtt.count > 0 {
            let (mean, deviation) = rtt.mean_and_deviation();
            let (min, max) = (Millis(rtt.min), Millis(rtt.max));
            write!(f, "\nrtt min/avg/max/mdev = {min}/{}/{max}/{} ms", Millis(mean), Millis(deviation))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn at(micros: u64) -> Instant {
        Instant::from_micros(micros)
    }

    fn tally() -> Tally {
        Tally::new(PEER, Duration::from_secs(2), Instant::ZERO)
    }

    #[test]
    fn replies_are_lines_and_the_summary_counts_them() {
        let mut tally = tally();
        let mut lines = Vec::new();
        for (i, rtt) in [100, 200, 300].into_iter().enumerate() {
            let sent = 1_000_000 * i as u64;
            assert_eq!(tally.sent(at(sent)), i as u64);
            lines.push(tally.reply(at(sent + rtt), PEER, i as u16, 64, 63).unwrap().to_string());
        }
        assert_eq!(lines[1], "64 bytes from 10.0.0.1: seq=1 ttl=63 time=0.200 ms");
        assert!(tally.is_complete());
        assert_eq!(
            tally.summary(at(2_000_300)).to_string(),
            "10.0.0.1: 3 sent, 3 received, 0 lost (0.0 %), 2.0 s\nrtt min/avg/max/mdev = 0.100/0.200/0.300/0.082 ms"
        );
    }

    #[test]
    fn late_duplicate_and_unknown_replies_are_told_apart() {
        let mut tally = tally();
        for _ in 0..3 {
            tally.sent(at(0));
        }
        assert_eq!(tally.next_give_up(), Some(at(2_000_000)));
        assert_eq!(tally.reply(at(10), PEER, 1, 8, 64).unwrap().kind, ReplyKind::InTime);
        assert_eq!(tally.reply(at(11), PEER, 1, 8, 64).unwrap().kind, ReplyKind::Duplicate);
        assert_eq!(tally.give_up(at(1_999_999)).count(), 0);
        assert_eq!(tally.give_up(at(2_000_000)).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(tally.give_up(at(3_000_000)).count(), 0, "each is given up once");
        assert_eq!(tally.next_give_up(), None);
        let late = tally.reply(at(2_500_000), PEER, 0, 8, 64).unwrap();
        assert!(late.to_string().ends_with("seq=0 ttl=64 time=2500.000 ms (late)"));
        assert_eq!(tally.reply(at(3), PEER, 3, 8, 64), None, "never sent");
        assert!(!tally.is_complete());
        tally.error();
        let summary = tally.summary(at(3_000_000)).to_string();
        assert!(summary.starts_with(
            "10.0.0.1: 3 sent, 1 received, 2 lost (66.6 %), 1 late, 1 duplicate, 1 ICMP errors"
        ));
    }

    #[test]
    fn request_under_way_is_not_lost_and_no_reply_means_no_times() {
        let mut tally = tally();
        assert_eq!(tally.summary(at(0)).to_string(), "10.0.0.1: 0 sent, 0 received, 0 lost (0.0 %), 0.0 s");
        tally.sent(at(0));
        assert!(tally.summary(at(1)).to_string().contains("1 sent, 0 received, 0 lost (0.0 %), 1 under way"));
        assert!(!tally.is_complete(), "nothing was answered");
        tally.reply(at(1), PEER, 0, 8, 64);
        tally.sent(at(2));
        assert!(tally.is_complete(), "what was stopped early is not lost");
        tally.not_sent(1);
        assert!(!tally.is_complete());
        assert!(tally.summary(at(3)).to_string().contains("2 sent, 1 received, 1 lost"));
    }

    #[test]
    fn numbers_go_on_beyond_16_bits() {
        let mut tally = tally();
        for i in 0..70_000_u64 {
            assert_eq!(tally.sent(at(i)), i);
            if i % 2 == 0 {
                assert_eq!(tally.reply(at(i), PEER, i as u16, 0, 1).unwrap().seq, i);
            }
        }
        assert_eq!(tally.reply(at(70_000), PEER, 69_999_u64 as u16, 0, 1).unwrap().seq, 69_999);
        assert_eq!(tally.reply(at(70_000), PEER, 60_001, 0, 1), None, "too long ago");
        assert!(tally.requests.len() <= WINDOW && tally.settled <= WINDOW);
    }
}
