//! What both ends say to each other about a measurement over UDP, and what they have counted.
//!
//! ```text
//!  0           4      5       8        16                            48           56
//!  | "nty\x03" | kind | 0 0 0 | cookie | request                     | sent       |   from the client
//!  | "nty\x03" | kind | 0 0 0 | cookie | sent | received | duplicate | reordered | jitter |   from the server
//! ```
//!
//! Both have the same length, so that no answer is larger than its question. Who says what when: [`super::request`].

use super::report::Arrivals;
use super::request::Request;
use ntytcp::time::Duration;
use std::fmt;

/// What a control datagram is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    /// Client: asks for a cookie.
    Hello = 1,
    /// Client: begin, or go on.
    Go = 2,
    /// Client: everything is sent and received.
    Bye = 3,
    /// Server: the cookie.
    Cookie = 4,
    /// Server, to a go: counts so far, and there is more to send.
    Going = 5,
    /// Server, to a go: counts so far, and nothing is left to send.
    Done = 6,
    /// Server, to a bye: the final counts.
    Final = 7,
}

/// A control datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Control {
    pub(super) kind: Kind,
    pub(super) cookie: u64,
    body: [u8; Self::BODY],
}

impl Control {
    /// Bytes on the wire, big-endian.
    pub(super) const LEN: usize = 16 + Self::BODY;
    const BODY: usize = Request::LEN + 8;
    const MAGIC: [u8; 4] = *b"nty\x03";

    /// What a client says; `sent` datagrams went out so far.
    pub(super) fn asking(kind: Kind, cookie: u64, request: &Request, sent: u64) -> Self {
        Self { kind, cookie, body: fill(request.to_bytes().into_iter().chain(sent.to_be_bytes())) }
    }

    /// What a server says.
    pub(super) fn telling(kind: Kind, cookie: u64, tally: &Tally) -> Self {
        let Tally { sent, received, duplicates, reordered, jitter } = *tally;
        let jitter = u64::try_from(jitter.as_nanos()).unwrap_or(u64::MAX);
        let fields = [sent, received, duplicates, reordered, jitter];
        Self { kind, cookie, body: fill(fields.into_iter().flat_map(u64::to_be_bytes)) }
    }

    /// What the client wants, and how many datagrams it has sent; `None` when it is no request.
    pub(super) fn request(&self) -> Option<(Request, u64)> {
        let (request, sent) = self.body.split_at_checked(Request::LEN)?;
        Some((Request::parse(request)?, u64::from_be_bytes(*sent.first_chunk()?)))
    }

    /// What the server has counted.
    pub(super) fn tally(&self) -> Tally {
        let mut fields = self.body.chunks_exact(8).map(|b| b.iter().fold(0, |n, &b| n << 8 | u64::from(b)));
        let mut next = || fields.next().unwrap_or_default();
        Tally {
            sent: next(),
            received: next(),
            duplicates: next(),
            reordered: next(),
            jitter: Duration::from_nanos(next()),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        let head = Self::MAGIC.into_iter().chain([self.kind as u8, 0, 0, 0]).chain(self.cookie.to_be_bytes());
        fill(head.chain(self.body))
    }

    /// The control datagram in all of `bytes`; `None` when it is none.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let ([kind, 0, 0, 0], rest) = rest.split_first_chunk::<4>()? else { return None };
        let (cookie, body) = rest.split_first_chunk::<8>()?;
        let kind = match kind {
            1 => Kind::Hello,
            2 => Kind::Go,
            3 => Kind::Bye,
            4 => Kind::Cookie,
            5 => Kind::Going,
            6 => Kind::Done,
            7 => Kind::Final,
            _ => return None,
        };
        let body = body.try_into().ok()?;
        (*magic == Self::MAGIC).then_some(Self { kind, cookie: u64::from_be_bytes(*cookie), body })
    }
}

fn fill<const N: usize>(from: impl Iterator<Item = u8>) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.iter_mut().zip(from).for_each(|(to, from)| *to = from);
    bytes
}

/// The datagrams of one direction: as many as the sender says it sent, and what the receiver made of them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) duplicates: u64,
    pub(super) reordered: u64,
    pub(super) jitter: Duration,
}

impl Tally {
    /// Puts the counts of both ends together. The sender's may be old: what was seen was sent.
    pub(super) fn new(sent: u64, arrivals: &Arrivals) -> Self {
        Self {
            sent: sent.max((arrivals.received() - arrivals.duplicates()).saturating_add(arrivals.lost())),
            received: arrivals.received(),
            duplicates: arrivals.duplicates(),
            reordered: arrivals.reordered(),
            jitter: arrivals.jitter(),
        }
    }

    /// Datagrams of which no copy came.
    pub(super) fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received.saturating_sub(self.duplicates))
    }

    /// Sums up several streams; the jitter is the largest.
    pub(super) fn merge(&self, other: &Self) -> Self {
        Self {
            sent: self.sent.saturating_add(other.sent),
            received: self.received.saturating_add(other.received),
            duplicates: self.duplicates.saturating_add(other.duplicates),
            reordered: self.reordered.saturating_add(other.reordered),
            jitter: self.jitter.max(other.jitter),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_10k = u128::from(self.lost()) * 10_000 / u128::from(self.sent.max(1));
        write!(f, "{} sent, {} received, ", self.sent, self.received)?;
        write!(f, "{} lost ({}.{:02} %), ", self.lost(), per_10k / 100, per_10k % 100)?;
        write!(f, "{} reordered, {} duplicate, ", self.reordered, self.duplicates)?;
        write!(f, "jitter {:.3} ms", self.jitter.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perf::Options;

    #[test]
    fn control_round_trip_and_strangers() {
        let request = Request::new(&Options { udp: true, ..Options::default() }, 3);
        let asked = Control::asking(Kind::Go, 42, &request, 77);
        let parsed = Control::parse(&asked.to_bytes()).unwrap();
        assert_eq!((parsed, parsed.request()), (asked, Some((request, 77))));
        let jitter = Duration::from_nanos(5);
        let tally = Tally { sent: 1, received: 2, duplicates: 3, reordered: 4, jitter };
        let told = Control::telling(Kind::Final, 42, &tally).to_bytes();
        assert_eq!(Control::parse(&told).unwrap().tally(), tally);
        assert_eq!(told.len(), asked.to_bytes().len(), "an answer is no larger than the question");
        for cut in 0..told.len() {
            assert_eq!(Control::parse(&told[..cut]), None);
        }
        for (at, value) in [(0, 0), (4, 0), (4, 8), (5, 1)] {
            let mut bad = told;
            bad[at] = value;
            assert_eq!(Control::parse(&bad), None, "byte {at} is {value}");
        }
    }

    #[test]
    fn what_was_sent_and_did_not_come_is_lost() {
        let tally = Tally { sent: 1_000, received: 995, duplicates: 5, reordered: 2, ..Tally::default() };
        assert_eq!(
            tally.to_string(),
            "1000 sent, 995 received, 10 lost (1.00 %), 2 reordered, 5 duplicate, jitter 0.000 ms"
        );
        assert_eq!(tally.merge(&tally).lost(), 20);
        assert_eq!(Tally { sent: 0, ..tally }.lost(), 0);
    }
}
