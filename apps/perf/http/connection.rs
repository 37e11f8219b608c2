//! One connection of the load: requests out, answers in, one at a time or several under way.

use super::response::{Answer, Reader};
use super::tally::{Failure, Tally};
use crate::clients::Armed;
use crate::hub::Connected;
use nty_epoll::{Events, TcpStream};
use ntytcp::stack::SocketError;
use ntytcp::time::{Duration, Instant};
use std::collections::VecDeque;

/// What a connection is watched for.
pub(super) const INTEREST: Events = Events::IN.union(Events::OUT).union(Events::RDHUP).union(Events::ET);
/// How often one call reads from one connection.
const ROUNDS: usize = 8;

/// What all connections share: what they ask, how many requests are left, what came of them.
pub(super) struct Load {
    /// As many requests behind each other as may be under way on a connection.
    requests: Vec<u8>,
    request_len: usize,
    depth: usize,
    close: bool,
    /// Requests that may still be begun.
    left: u64,
    pub(super) tally: Tally,
    pub(super) now: Instant,
}

impl Load {
    /// `left` times `request`, at most `depth` at once on a connection, or one per connection if `close`.
    pub(super) fn new(request: &[u8], depth: usize, close: bool, left: u64, tally: Tally) -> Self {
        let now = Instant::ZERO;
        Self { requests: request.repeat(depth), request_len: request.len(), depth, close, left, tally, now }
    }

    /// Takes up to `n` of the requests that are left.
    pub(super) fn take(&mut self, n: usize) -> usize {
        let taken = self.left.min(n as u64);
        self.left -= taken;
        // It is at most `n`.
        usize::try_from(taken).unwrap_or(n)
    }

    /// Whether there is nothing to ask.
    pub(super) fn is_used_up(&self) -> bool {
        self.left == 0
    }
}

/// What a call left of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// Waits for its socket.
    Idle,
    /// Could go on.
    Unfinished,
    /// Is over, and all is well.
    Over,
}

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Connecting,
    Asking,
    /// The last answer said that the server closes.
    Ending,
    /// Nothing is left to ask here.
    Over,
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    phase: Phase,
    /// When it was begun.
    opened: Instant,
    /// The request that it was opened for is not asked yet.
    reserved: bool,
    /// When the requests under way were asked.
    asked: VecDeque<Instant>,
    /// Bytes of them that the socket has not taken.
    unsent: usize,
    reader: Reader,
    /// When what goes on without a request began: the handshake, the end.
    since: Instant,
    pub(super) armed: Armed,
}

impl Connected for Connection {
    fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl Connection {
    /// A connection that was begun at `now`, for a request that was taken.
    pub(super) fn new(stream: TcpStream, now: Instant) -> Self {
        Self {
            stream,
            phase: Phase::Connecting,
            opened: now,
            reserved: true,
            asked: VecDeque::new(),
            unsent: 0,
            reader: Reader::new(),
            since: now,
            armed: Armed::default(),
        }
    }

    /// Whether the handshake is under way.
    pub(super) fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// Until when something has to have happened.
    pub(super) fn deadline(&self, timeout: Duration) -> Instant {
        *self.asked.front().unwrap_or(&self.since) + timeout
    }

    /// Ends it with a RST; how many requests were lost with it. One at least: else the answer before was wrong, or has no end.
    pub(super) fn abort(self) -> u64 {
        self.stream.abort();
        (self.asked.len() as u64 + u64::from(self.reserved)).max(1)
    }

    /// Moves bytes both ways until nothing moves, or the share is used up.
    ///
    /// # Errors
    /// Why the connection is of no use any more.
    pub(super) fn drive(&mut self, load: &mut Load, buf: &mut [u8]) -> Result<Progress, Failure> {
        if self.phase == Phase::Connecting {
            if !self.stream.is_established() {
                return self.stream.take_error().map_or(Ok(Progress::Idle), |error| Err(Failure::of(error)));
            }
            self.phase = Phase::Asking;
            load.tally.connected(load.now, self.opened);
        }
        for _ in 0..ROUNDS {
            let read = self.read(load, buf)?;
            self.ask(load)?;
            if self.phase == Phase::Over {
                return Ok(Progress::Over);
            }
            if !read {
                return Ok(Progress::Idle);
            }
        }
        Ok(Progress::Unfinished)
    }

    /// Reads once; whether something came.
    fn read(&mut self, load: &mut Load, buf: &mut [u8]) -> Result<bool, Failure> {
        match self.stream.read(buf) {
            Ok(0) => self.end(load)?,
            Ok(n) => self.receive(load, buf.get(..n).unwrap_or_default())?,
            Err(SocketError::WouldBlock) => return Ok(false),
            Err(error) => return Err(Failure::of(error)),
        }
        Ok(true)
    }

    /// Takes what the server sent.
    fn receive(&mut self, load: &mut Load, input: &[u8]) -> Result<(), Failure> {
        load.tally.moved(0, input.len());
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) {
            if self.asked.is_empty() {
                return Err(Failure::Unasked);
            }
            let (n, answer) = self.reader.step(rest).map_err(|_| Failure::Malformed)?;
            used += n;
            if let Some(answer) = answer {
                self.answered(load, answer);
            }
        }
        Ok(())
    }

    /// The server sends no more.
    fn end(&mut self, load: &mut Load) -> Result<(), Failure> {
        if let Some(answer) = self.reader.end() {
            self.answered(load, answer);
        }
        if self.reader.is_inside() {
            return Err(Failure::CutOff);
        }
        if self.reserved || !self.asked.is_empty() {
            return Err(Failure::Closed);
        }
        self.phase = Phase::Over;
        Ok(())
    }

    /// An answer is complete.
    fn answered(&mut self, load: &mut Load, answer: Answer) {
        let Some(asked) = self.asked.pop_front() else { return };
        load.tally.answered(answer.status, load.now.since(asked));
        if !answer.keep_alive {
            // RFC 9112 9.6: "the server MUST NOT process any further requests received on that connection".
            let unanswered = self.asked.len() as u64;
            load.left = load.left.saturating_add(unanswered);
            load.tally.repeated(unanswered);
            self.asked.clear();
            (self.phase, self.since) = (Phase::Ending, load.now);
        } else if load.close {
            self.phase = Phase::Over;
        }
    }

    /// Sends as many requests as may be under way.
    fn ask(&mut self, load: &mut Load) -> Result<(), Failure> {
        if self.phase != Phase::Asking {
            return Ok(());
        }
        let ours = usize::from(std::mem::take(&mut self.reserved));
        let n = ours + load.take(load.depth.saturating_sub(self.asked.len() + ours));
        let since = if load.close { self.opened } else { load.now };
        self.asked.extend(std::iter::repeat_n(since, n));
        self.unsent += n * load.request_len;
        if self.asked.is_empty() {
            self.phase = Phase::Over;
        }
        while self.unsent > 0 {
            // All requests are the same, so what is missing is the end of any row of them.
            let start = load.requests.len().saturating_sub(self.unsent);
            match self.stream.write(load.requests.get(start..).unwrap_or_default()) {
                Ok(n) => {
                    self.unsent = self.unsent.saturating_sub(n);
                    load.tally.moved(n, 0);
                }
                Err(SocketError::WouldBlock) => break,
                Err(error) => return Err(Failure::of(error)),
            }
        }
        Ok(())
    }
}
