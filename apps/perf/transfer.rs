//! One TCP stream of a measurement, at either end: the request, then bytes each way until both have said FIN.

use super::request::{Amount, Request};
use crate::hub::Connected;
use nty_epoll::{Events, TcpStream};
use ntytcp::stack::SocketError;
use ntytcp::time::Instant;
use std::net::Shutdown;

/// What a stream is watched for.
pub(super) const INTEREST: Events = Events::IN.union(Events::OUT).union(Events::RDHUP).union(Events::ET);
/// How often one call reads and writes one stream.
const ROUNDS: usize = 4;
/// What one read or write moves at most; a longer one would not fit into a socket's buffer anyway.
pub(super) const CHUNK: usize = 256 << 10;

/// How much is still to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Quota {
    Bytes(u64),
    Until(Instant),
}

impl Quota {
    pub(super) const NOTHING: Self = Self::Bytes(0);

    pub(super) fn new(amount: Amount, now: Instant) -> Self {
        match amount {
            Amount::Bytes(bytes) => Self::Bytes(bytes),
            Amount::Time(time) => Self::Until(now + time),
        }
    }

    /// The length of the next write of at most `len` bytes; 0 when everything was sent.
    pub(super) fn next(&self, now: Instant, len: usize) -> usize {
        match *self {
            Self::Bytes(left) => usize::try_from(left).unwrap_or(len).min(len),
            Self::Until(end) if now < end => len,
            Self::Until(_) => 0,
        }
    }

    /// `n` bytes went out.
    pub(super) fn sent(&mut self, n: usize) {
        if let Self::Bytes(left) = self {
            *left = left.saturating_sub(n as u64);
        }
    }
}

/// Where the request is.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// We ask: so many of its bytes are out.
    Asking(Request, usize),
    /// We are asked: so many of its bytes are in.
    Asked([u8; Request::LEN], usize),
    /// It is known to both.
    Agreed,
}

/// What one call of [`Transfer::drive`] did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Moved {
    /// Payload bytes that the socket took.
    pub(super) sent: usize,
    /// Payload bytes that came.
    pub(super) received: usize,
    /// Nothing would block: call again soon.
    pub(super) more: bool,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) stream: TcpStream,
    stage: Stage,
    quota: Quota,
    write_len: usize,
    /// We say FIN only behind the peer's: it tells a sender that everything arrived.
    last_word: bool,
    shut: bool,
    ended: bool,
}

/// A stream and what its owner keeps with it.
impl<T> Connected for (Transfer, T) {
    fn stream(&self) -> &TcpStream {
        &self.0.stream
    }
}

impl Transfer {
    /// The client's end.
    pub(super) fn asking(stream: TcpStream, request: Request) -> Self {
        Self::new(stream, Stage::Asking(request, 0))
    }

    /// The server's end.
    pub(super) fn asked(stream: TcpStream) -> Self {
        Self::new(stream, Stage::Asked([0; Request::LEN], 0))
    }

    fn new(stream: TcpStream, stage: Stage) -> Self {
        let last_word = matches!(stage, Stage::Asked(..));
        let (quota, write_len) = (Quota::NOTHING, 0);
        Self { stream, stage, quota, write_len, last_word, shut: false, ended: false }
    }

    /// Whether both directions have ended.
    pub(super) fn is_over(&self) -> bool {
        self.shut && self.ended
    }

    /// Moves what can be moved, within a share. `payload` is what is sent, over and over; `buf` takes what comes.
    ///
    /// # Errors
    /// Why the connection failed; `Invalid` when the client's request is none.
    pub(super) fn drive(
        &mut self,
        now: Instant,
        payload: &[u8],
        buf: &mut [u8],
    ) -> Result<Moved, SocketError> {
        let mut moved = Moved::default();
        for _ in 0..ROUNDS {
            let read = self.read(now, buf, &mut moved)?;
            let wrote = self.write(now, payload, &mut moved)?;
            moved.more = (read || wrote) && !self.is_over();
            if !moved.more {
                break;
            }
        }
        Ok(moved)
    }

    fn read(&mut self, now: Instant, buf: &mut [u8], moved: &mut Moved) -> Result<bool, SocketError> {
        if self.ended {
            return Ok(false);
        }
        let n = match self.stream.read(buf) {
            Ok(0) if matches!(self.stage, Stage::Asked(..)) => return Err(SocketError::Invalid),
            Ok(n) => n,
            Err(SocketError::WouldBlock) => return Ok(false),
            Err(error) => return Err(error),
        };
        self.ended = n == 0;
        let payload = self.take_request(now, buf.get(..n).unwrap_or_default())?;
        moved.received += payload;
        Ok(true)
    }

    /// Takes from `input` what belongs to the request; how many bytes do not.
    fn take_request(&mut self, now: Instant, input: &[u8]) -> Result<usize, SocketError> {
        let Stage::Asked(head, have) = &mut self.stage else { return Ok(input.len()) };
        let missing = head.iter_mut().skip(*have);
        let n = missing.zip(input).map(|(to, from)| *to = *from).count();
        *have += n;
        if *have == Request::LEN {
            let request = Request::parse(head).ok_or(SocketError::Invalid)?;
            self.agree(&request, request.flow.server_sends(), now);
        }
        Ok(input.len() - n)
    }

    /// The request is known: what is to be sent follows from it.
    fn agree(&mut self, request: &Request, we_send: bool, now: Instant) {
        self.stage = Stage::Agreed;
        self.write_len = usize::try_from(request.write_len).unwrap_or(CHUNK).min(CHUNK);
        if we_send {
            self.quota = Quota::new(request.amount, now);
            self.last_word = false;
        }
    }

    fn write(&mut self, now: Instant, payload: &[u8], moved: &mut Moved) -> Result<bool, SocketError> {
        if let Stage::Asking(request, out) = self.stage {
            let bytes = request.to_bytes();
            match self.stream.write(bytes.get(out..).unwrap_or_default()) {
                Ok(n) => self.stage = Stage::Asking(request, out + n),
                Err(SocketError::WouldBlock) => return Ok(false),
                Err(error) => return Err(error),
            }
            if matches!(self.stage, Stage::Asking(_, Request::LEN)) {
                self.agree(&request, request.flow.client_sends(), now);
            }
            return Ok(true);
        }
        if self.shut || !matches!(self.stage, Stage::Agreed) {
            return Ok(false);
        }
        let len = self.quota.next(now, self.write_len.min(payload.len()));
        if len > 0 {
            return match self.stream.write(payload.get(..len).unwrap_or_default()) {
                Ok(n) => {
                    self.quota.sent(n);
                    moved.sent += n;
                    Ok(true)
                }
                Err(SocketError::WouldBlock) => Ok(false),
                Err(error) => Err(error),
            };
        }
        if self.last_word && !self.ended {
            return Ok(false);
        }
        self.stream.shutdown(Shutdown::Write)?;
        self.shut = true;
        Ok(true)
    }
}
