//! An application at one end of a connection: what it sends, how it reads, when it closes, and what it expects to hear.

use ntytcp::stack::SocketError;
use ntytcp::time::{Duration, Instant};
use std::sync::OnceLock;

/// Period of the payload pattern: a prime, so that a byte out of place by a power of two or a segment is seen.
const PERIOD: usize = 65_521;

/// Two periods of the pattern, so that any place has a whole one behind it.
fn pattern() -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    PATTERN.get_or_init(|| {
        let mut x = 0x9e37_79b9_u32;
        let one: Vec<u8> = std::iter::repeat_with(|| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 24) as u8
        })
        .take(PERIOD)
        .collect();
        one.repeat(2)
    })
}

/// Up to `len` bytes of stream `stream` from `offset` on.
pub fn stream_bytes(stream: u64, offset: u64, len: usize) -> &'static [u8] {
    let at = (stream.wrapping_mul(7_919).wrapping_add(offset) % PERIOD as u64) as usize;
    &pattern()[at..at + len.min(PERIOD)]
}

/// What an application does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Bytes that it sends, then it has nothing more to say.
    pub send: u64,
    /// Bytes that the other end sends.
    pub expect: u64,
    /// The most bytes per write.
    pub write: usize,
    /// The most bytes per read.
    pub read: usize,
    /// Waits this long after every read. Zero reads all there is.
    pub read_every: Duration,
    /// Stops reading after so many bytes, for so long.
    pub stall: Option<(u64, Duration)>,
    /// Closes its direction only after the other end's FIN, instead of right after the last byte.
    pub close_last: bool,
}

impl Plan {
    /// Sends `send`, expects `expect`, writes and reads as fast as it can, closes when all is sent.
    pub fn new(send: u64, expect: u64) -> Self {
        let (write, read) = (32_768, 65_000);
        Self { send, expect, write, read, read_every: Duration::ZERO, stall: None, close_last: false }
    }
}

/// What a read found.
pub enum Read {
    /// So many bytes.
    Data(usize),
    /// The peer's FIN.
    End,
    /// Nothing yet.
    Nothing,
}

/// One end of a connection, of whichever stack.
pub trait Pipe {
    /// Takes as many bytes as there is room for.
    fn send(&mut self, data: &[u8]) -> Result<usize, SocketError>;
    /// Reads what has arrived.
    fn recv(&mut self, buf: &mut [u8]) -> Result<Read, SocketError>;
    /// Sends FIN after what was sent.
    fn finish(&mut self) -> Result<(), SocketError>;
}

/// A plan being carried out. Stream numbers tell the two directions of every connection apart.
#[derive(Debug)]
pub struct App {
    plan: Plan,
    streams: (u64, u64),
    pub sent: u64,
    pub received: u64,
    finished: bool,
    ended: bool,
    stalled: bool,
    /// Does not read before.
    pub wake_at: Option<Instant>,
    /// How it went, once it is over.
    pub outcome: Option<Result<(), SocketError>>,
}

impl App {
    /// `streams` are the numbers of what it sends and of what it hears.
    pub fn new(plan: Plan, streams: (u64, u64)) -> Self {
        Self {
            plan,
            streams,
            sent: 0,
            received: 0,
            finished: false,
            ended: false,
            stalled: false,
            wake_at: None,
            outcome: None,
        }
    }

    /// Does all that is possible now. `true` when something was.
    pub fn drive(&mut self, now: Instant, pipe: &mut dyn Pipe) -> bool {
        if self.outcome.is_some() {
            return false;
        }
        let before = (self.sent, self.received, self.finished, self.ended);
        if let Err(error) = self.try_drive(now, pipe) {
            self.outcome = Some(Err(error));
            return true;
        }
        if self.finished && self.ended {
            assert_eq!(
                (self.sent, self.received),
                (self.plan.send, self.plan.expect),
                "the stream ended early"
            );
            self.outcome = Some(Ok(()));
        }
        before != (self.sent, self.received, self.finished, self.ended)
    }

    fn try_drive(&mut self, now: Instant, pipe: &mut dyn Pipe) -> Result<(), SocketError> {
        self.read(now, pipe)?;
        while self.sent < self.plan.send {
            let len = (self.plan.send - self.sent).min(self.plan.write as u64) as usize;
            let data = stream_bytes(self.streams.0, self.sent, len);
            let taken = pipe.send(data)?;
            self.sent += taken as u64;
            if taken < data.len() {
                break;
            }
        }
        let may_close = self.ended || !self.plan.close_last;
        if self.sent == self.plan.send && may_close && !self.finished {
            pipe.finish()?;
            self.finished = true;
        }
        Ok(())
    }

    fn read(&mut self, now: Instant, pipe: &mut dyn Pipe) -> Result<(), SocketError> {
        let mut buf = [0; PERIOD];
        while !self.ended && self.wake_at.is_none_or(|at| at <= now) {
            self.wake_at = None;
            if let Some((_, pause)) = self.plan.stall.filter(|&(at, _)| !self.stalled && self.received >= at)
            {
                self.stalled = true;
                self.wake_at = Some(now + pause);
                break;
            }
            let room = self.plan.read.min(buf.len());
            match pipe.recv(&mut buf[..room])? {
                Read::Nothing => break,
                Read::End => self.ended = true,
                Read::Data(n) => {
                    let expected = stream_bytes(self.streams.1, self.received, n);
                    assert!(
                        buf[..n] == *expected,
                        "wrong bytes after {} of stream {}",
                        self.received,
                        self.streams.1
                    );
                    self.received += n as u64;
                    assert!(self.received <= self.plan.expect, "more arrived than was sent");
                    if !self.plan.read_every.is_zero() {
                        self.wake_at = Some(now + self.plan.read_every);
                    }
                }
            }
        }
        Ok(())
    }
}
