//! One connection of the server: bytes in, bytes out, and the next deadline.
//!
//! ```text
//!             +--------------------- answer sent ----------------------+
//!             v                                                        |
//!   input -> Head --- GET, HEAD, refusal ---> outbox, then file ---> output
//!             |  \--- the same with a body -> Discard --(body over)--> Head
//!             |  \--- PUT ----------------> Store ----(body over)----> outbox
//!             \------ not understood -----> outbox, then Closing
//! ```
//!
//! Answers leave in the order of their requests because only one may have a file behind it, and while that one is sent,
//! or while [`OUTBOX_LIMIT`] bytes wait, no further head is read. Input that came too early waits here; it is at most what
//! one call of [`Connection::receive`] brought, as long as the caller heeds [`Connection::wants_input`].

use super::answer::{Answer, Manner, Next};
use super::body::{Body, Malformed};
use super::content::FileContent;
use super::outbox::Outbox;
use super::request::{self, HeadEnd, MAX_HEAD, Method, Request};
use super::site::Site;
use super::status::Status;
use super::upload::Upload;
use ntytcp::time::{Duration, Instant};

/// With so many bytes of answers waiting, no further request is read.
const OUTBOX_LIMIT: usize = 8 * 1024;
/// Memory for heads that come in pieces, in bytes, that a connection keeps from one to the next.
const KEEP_HEAD: usize = 1024;
/// How much of a file [`Connection::output`] reads at once.
const CHUNK: usize = 32 * 1024;
/// How long a connection that was closed by us goes on reading, so that no RST destroys the last answer on its way.
const LINGER: Duration = Duration::from_secs(5);

/// Bytes a second that a peer has to take of an answer, or send of a body: over the time that it may keep us waiting, so that it
/// may pause, but not live on a byte now and then.
const MIN_RATE: u64 = 1_000;

/// How far a peer is in taking or sending what it must.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Until here it has done its duty; never ahead of the time.
    paid: Instant,
}

impl Pace {
    /// So many bytes went through at `now`.
    fn add(&mut self, now: Instant, bytes: usize) {
        let worth = Duration::from_millis((bytes as u64).saturating_mul(1_000) / MIN_RATE);
        self.paid = now.min(self.paid + worth);
    }
}

/// What a server connection must be told to do by its owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// Everything was sent: close the sending side, and go on with what [`Connection::wants_input`] and the deadline say.
    /// Said once.
    Shutdown,
    /// Close the connection, now.
    Now,
    /// Abort the connection, now: an answer breaks off, and must not look as if it had ended.
    Abort,
}

/// One connection. See the [module](super) for the loop around it.
#[derive(Debug)]
pub struct Connection {
    phase: Phase,
    /// The beginning of a request head.
    head: Vec<u8>,
    /// Input behind a request that is still being answered.
    held: Vec<u8>,
    out: Outbox,
    content: Option<FileContent>,
    pace: Pace,
    deadline: Instant,
    /// The peer sends no more.
    ended: bool,
    /// The sending side was closed.
    shut: bool,
    /// There is nothing left to save: how to end.
    failed: Option<Close>,
}

/// What the next byte of input belongs to.
#[derive(Debug)]
enum Phase {
    /// A request head.
    Head,
    /// A body that nobody wants, behind its answer.
    Discard(Body),
    /// A body that is stored.
    Store { body: Body, upload: Upload, manner: Manner },
    /// Nothing: it is thrown away until the peer closes too.
    Closing,
}

impl Connection {
    /// A connection that was accepted at `now`. It owns no memory before its first bytes come.
    pub fn new(site: &Site, now: Instant) -> Self {
        Self {
            phase: Phase::Head,
            head: Vec::new(),
            held: Vec::new(),
            out: Outbox::default(),
            content: None,
            pace: Pace { paid: now },
            deadline: now + site.idle_timeout,
            ended: false,
            shut: false,
            failed: None,
        }
    }

    /// Whether to read from the peer now. While not, what it sends should wait in the socket, which slows it down.
    pub fn wants_input(&self) -> bool {
        !self.ended && self.failed.is_none() && self.held.is_empty() && self.can_advance()
    }

    /// Takes what the peer sent. Does file operations for an upload and for opening what is asked for.
    pub fn receive(&mut self, site: &Site, now: Instant, input: &[u8]) {
        if matches!(self.phase, Phase::Store { .. } | Phase::Discard(_)) {
            self.pace.add(now, input.len());
            self.deadline = self.pace.paid + site.idle_timeout;
        }
        if !self.held.is_empty() {
            self.held.extend_from_slice(input);
            self.resume(site, now);
            return;
        }
        let used = self.advance(site, now, input);
        self.held.extend_from_slice(input.get(used..).unwrap_or_default());
    }

    /// The peer closed its sending side. What it asked for before is still answered.
    pub fn end_of_input(&mut self) {
        self.ended = true;
        if matches!(self.phase, Phase::Store { .. }) {
            // Removes what was stored of the body.
            self.phase = Phase::Closing;
        }
    }

    /// Fills `into` with what is to be sent, reading files straight into it, and returns how many bytes that are. For a
    /// socket that lends its buffer; the bytes count as sent.
    pub fn transmit(&mut self, site: &Site, now: Instant, into: &mut [u8]) -> usize {
        let mut filled = 0;
        while let Some(room) = into.get_mut(filled..).filter(|room| !room.is_empty()) {
            if !self.out.is_empty() {
                let pending = self.out.pending();
                let n = pending.len().min(room.len());
                if let (Some(to), Some(from)) = (room.get_mut(..n), pending.get(..n)) {
                    to.copy_from_slice(from);
                }
                self.out.consume(n);
                filled += n;
            } else if let Some(content) = &mut self.content {
                match content.read(room) {
                    Ok(0) => self.settle(),
                    Ok(n) => filled += n,
                    Err(error) => self.fail(&error),
                }
            } else if !self.resume(site, now) {
                break;
            }
        }
        self.settle();
        self.after_sending(site, now, filled);
        filled
    }

    /// What is to be sent next, reading on in a file if need be; empty when nothing is. For a socket that copies: tell
    /// [`Connection::sent`] how much it took.
    pub fn output(&mut self) -> &[u8] {
        self.settle();
        if self.out.is_empty()
            && let Some(content) = &mut self.content
        {
            match content.read(self.out.room(CHUNK)) {
                Ok(n) => self.out.commit(n),
                Err(error) => self.fail(&error),
            }
        }
        self.out.pending()
    }

    /// The socket took the first `n` bytes of [`Connection::output`].
    pub fn sent(&mut self, site: &Site, now: Instant, n: usize) {
        self.out.consume(n);
        self.settle();
        self.resume(site, now);
        self.after_sending(site, now, n);
    }

    /// What to do with the connection now; `None` to go on.
    pub fn close(&mut self) -> Option<Close> {
        if self.failed.is_some() {
            return self.failed;
        }
        if !self.is_output_done() {
            return None;
        }
        if self.ended && self.held.is_empty() {
            return Some(Close::Now);
        }
        if matches!(self.phase, Phase::Closing) && !self.shut {
            self.shut = true;
            return Some(Close::Shutdown);
        }
        None
    }

    /// Whether a part of an answer is still to be sent, so that closing the connection now would cut it off.
    pub(super) fn is_answering(&self) -> bool {
        !self.is_output_done()
    }

    /// Whether a request or its answer is under way.
    pub(super) fn is_busy(&self) -> bool {
        let is_asking =
            !self.head.is_empty() || !self.held.is_empty() || matches!(self.phase, Phase::Store { .. });
        is_asking || self.is_answering()
    }

    /// When [`Connection::on_timeout`] is to be called. It moves with every call.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The time is `now`: acts if the deadline has passed. A peer that owes the rest of a request is told 408, a silent one and
    /// one that does not take its answer are left.
    pub fn on_timeout(&mut self, site: &Site, now: Instant) {
        if now < self.deadline {
            return;
        }
        let owes_request = match self.phase {
            Phase::Head => !self.head.is_empty(),
            Phase::Store { .. } => true,
            Phase::Discard(_) | Phase::Closing => false,
        };
        if owes_request && self.is_output_done() {
            self.refuse(site, now, Status::RequestTimeout);
        } else {
            self.failed = Some(if self.is_output_done() { Close::Now } else { Close::Abort });
        }
    }

    fn is_output_done(&self) -> bool {
        self.out.is_empty() && self.content.is_none()
    }

    /// Whether input can be dealt with now.
    fn can_advance(&self) -> bool {
        match self.phase {
            Phase::Head | Phase::Store { .. } => self.content.is_none() && self.out.len() < OUTBOX_LIMIT,
            Phase::Discard(_) | Phase::Closing => true,
        }
    }

    /// Deals with input that had to wait; whether any was.
    fn resume(&mut self, site: &Site, now: Instant) -> bool {
        if self.held.is_empty() || !self.can_advance() {
            return false;
        }
        let mut held = std::mem::take(&mut self.held);
        let used = self.advance(site, now, &held);
        if used < held.len() {
            held.drain(..used);
            self.held = held;
        }
        used > 0
    }

    /// Uses up as much of `input` as can be dealt with now.
    fn advance(&mut self, site: &Site, now: Instant, input: &[u8]) -> usize {
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty() && self.can_advance()) {
            used += match &mut self.phase {
                Phase::Head => self.take_head(site, now, rest),
                Phase::Discard(_) => self.discard(site, now, rest),
                Phase::Store { .. } => self.store(site, now, rest),
                Phase::Closing => rest.len(),
            };
        }
        used
    }

    /// Collects a head, in place if it came in one piece, and answers it.
    fn take_head(&mut self, site: &Site, now: Instant, input: &[u8]) -> usize {
        let before = self.head.len();
        if before == 0 {
            // RFC 9112 2.2: empty lines before a request are ignored.
            let blank = input.iter().take_while(|&&b| matches!(b, b'\r' | b'\n')).count();
            if blank > 0 {
                return blank;
            }
            if let HeadEnd::At(end) = request::find_head_end(input, 0) {
                self.answer(site, now, input.get(..end).unwrap_or_default());
                return end;
            }
            // The whole head has to come in this time, however slowly its pieces do.
            self.deadline = now + site.idle_timeout;
        }
        let taken = input.len().min(MAX_HEAD.saturating_sub(before));
        self.head.extend_from_slice(input.get(..taken).unwrap_or_default());
        match request::find_head_end(&self.head, before) {
            HeadEnd::Unknown => taken,
            HeadEnd::TooLong(status) => {
                self.refuse(site, now, status);
                taken
            }
            HeadEnd::At(end) => {
                let mut head = std::mem::take(&mut self.head);
                self.answer(site, now, head.get(..end).unwrap_or_default());
                if head.capacity() <= KEEP_HEAD {
                    head.clear();
                    self.head = head;
                }
                end.saturating_sub(before)
            }
        }
    }

    /// Answers a complete head.
    fn answer(&mut self, site: &Site, now: Instant, head: &[u8]) {
        let mut room = request::fields();
        let request = match Request::parse(head, &mut room) {
            Ok(request) => request,
            Err(status) => return self.refuse(site, now, status),
        };
        let (http11, keep_alive, head_only) =
            (request.http11, request.keep_alive, request.method == Method::Head);
        let manner = Manner { http11, keep_alive, head_only };
        let was_done = self.is_output_done();
        let mut answer = Answer { out: &mut self.out, site, manner };
        let next = answer.request(&request);
        let manner = answer.manner;
        tracing::debug!(target: "nty::http", method = ?request.method, target = request.target, "request");
        self.begin_pace(site, now, was_done);
        let body = Body::new(request.framing);
        if let Next::Store(upload) = next {
            self.phase = Phase::Store { body, upload, manner };
            // A body of no bytes is complete.
            self.store(site, now, &[]);
            return;
        }
        if let Next::Send(content) = next {
            self.content = Some(content);
        }
        if !manner.keep_alive {
            self.begin_closing(site, now);
        } else if request.has_body() {
            self.phase = Phase::Discard(body);
        }
    }

    /// An answer is begun, or a body: all the time for it, unless the peer was behind with an earlier one.
    fn begin_pace(&mut self, site: &Site, now: Instant, was_done: bool) {
        if was_done {
            self.pace.paid = now;
        }
        self.deadline = self.pace.paid + site.idle_timeout;
    }

    /// Throws away a body.
    fn discard(&mut self, site: &Site, now: Instant, input: &[u8]) -> usize {
        let Phase::Discard(body) = &mut self.phase else { return 0 };
        match body.step(input) {
            Ok(step) => {
                if body.is_done() {
                    self.phase = Phase::Head;
                }
                step.used
            }
            Err(Malformed) => {
                self.refuse(site, now, Status::BadRequest);
                input.len()
            }
        }
    }

    /// Stores a body, and answers when it is complete.
    fn store(&mut self, site: &Site, now: Instant, input: &[u8]) -> usize {
        let Phase::Store { body, upload, .. } = &mut self.phase else { return 0 };
        let Ok(step) = body.step(input) else {
            self.refuse(site, now, Status::BadRequest);
            return input.len();
        };
        let is_done = body.is_done();
        if let Err(status) = upload.write(step.data) {
            self.refuse(site, now, status);
        } else if is_done
            && let Phase::Store { upload, manner, .. } = std::mem::replace(&mut self.phase, Phase::Head)
        {
            let status = upload.finish().unwrap_or_else(|status| status);
            Answer { out: &mut self.out, site, manner }.text(status, &[]);
            if !manner.keep_alive {
                self.begin_closing(site, now);
            }
        }
        step.used
    }

    /// Answers with `status`, the last thing said on this connection.
    fn refuse(&mut self, site: &Site, now: Instant, status: Status) {
        self.begin_pace(site, now, self.is_output_done());
        Answer { out: &mut self.out, site, manner: Manner::LAST }.text(status, &[]);
        self.begin_closing(site, now);
    }

    /// No more requests; what is sent by now is still sent.
    fn begin_closing(&mut self, site: &Site, now: Instant) {
        self.phase = Phase::Closing;
        self.head = Vec::new();
        // The answer is still to be taken; the time to linger begins behind its last byte.
        self.begin_pace(site, now, self.is_output_done());
    }

    /// Nothing can be said any more: a part of an answer is out, and the rest cannot be had.
    fn fail(&mut self, error: &std::io::Error) {
        tracing::warn!(target: "nty::http", %error, "a file changed or failed while it was sent: connection aborted");
        self.content = None;
        self.held = Vec::new();
        self.phase = Phase::Closing;
        self.failed = Some(Close::Abort);
    }

    /// Goes on to the next part of the content, or leaves it behind, as soon as there is nothing else to send.
    fn settle(&mut self) {
        while self.out.is_empty()
            && let Some(content) = self.content.as_mut().filter(|content| !content.is_in_range())
        {
            if !content.next_part(&mut self.out) {
                self.content = None;
            }
        }
    }

    /// The peer took `n` bytes: it is alive, and we may have become idle.
    fn after_sending(&mut self, site: &Site, now: Instant, n: usize) {
        if n == 0 {
            return;
        }
        self.pace.add(now, n);
        if !self.is_output_done() {
            self.deadline = self.pace.paid + site.idle_timeout;
            return;
        }
        let closing = matches!(self.phase, Phase::Closing);
        self.deadline = now + if closing { LINGER } else { site.idle_timeout };
        self.out.shrink();
    }
}
