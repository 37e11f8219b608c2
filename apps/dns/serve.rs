//! The server of `nty dns`: zones on a UDP and a TCP port.
//!
//! ```text
//!   UDP  frame -> Zones::answer in the frame -> the same frame
//!   TCP  unanswered + read -> answer_stream -> write -> (what fell short: unsent) -> interest OUT until it is gone
//! ```
//!
//! Over TCP (RFC 7766) a client may have any number of queries under way, and gets the answers in their order. While it does
//! not read them, no further query of its is read. All connections share one pair of buffers; a connection owns memory
//! only while a query is incomplete or an answer unsent, at most [`INPUT`] and [`OUTPUT`] octets.

use super::answer::{Transport, UDP_PAYLOAD_MAX};
use super::frames::{ANSWER_MAX, answer_stream};
use super::store::Zones;
use crate::cli::dns::Options;
use crate::clients::{Alarms, Armed, Timeline};
use crate::hub::{self, Connected, Hub, Step};
use crate::run::{Program, ProgramError};
use nty_epoll::{Epoll, Events, Runtime, TcpStream, UdpSocket};
use ntytcp::stack::{Responder, SocketError};
use ntytcp::time::{Duration, Instant};
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use tracing::debug;

const NAME: &str = "dns";
/// Connections that may wait to be accepted.
const BACKLOG: usize = 256;
/// Connections at the same time; more wait in the backlog. Together they own at most 150 MB.
pub(super) const CONNECTIONS_MAX: usize = 1_000;
/// A connection without an answer, or a part of one, sent to it for so long is closed (RFC 7766 6.2.3: "on the order of a few
/// seconds"). Octets of a query that does not become complete do not count.
pub(super) const IDLE: Duration = Duration::from_secs(10);
/// The longest query fits.
const INPUT: usize = ANSWER_MAX;
/// The longest answer fits behind a batch of others.
const OUTPUT: usize = ANSWER_MAX + (16 << 10);

/// Loads the zones, then opens the port.
///
/// # Errors
/// [`ProgramError::Other`] for what is wrong with a zone, as `dns: FILE:LINE: ...`; [`ProgramError::Port`] when the port is taken,
/// [`ProgramError::Epoll`] when the process has no descriptor left.
pub fn open(options: &Options, runtime: &mut Runtime) -> Result<Box<dyn Program>, ProgramError> {
    let zones = Zones::load(&options.zone, secret());
    let zones = Arc::new(zones.map_err(|error| ProgramError::Other(format!("{NAME}: {error}")))?);
    let port = options.port.get();
    let udp = hub::bind_udp(NAME, port, runtime)?;
    let resolver = Some(Box::new(Datagrams { zones: zones.clone() }) as Box<_>);
    let answers = runtime.stack().udp_set_responder(udp.id(), resolver);
    answers.map_err(|source| ProgramError::Socket { program: NAME, source })?;
    let mut hub = Hub::new(NAME, Events::IN)?;
    hub.listen(port, BACKLOG, CONNECTIONS_MAX, runtime)?;
    Ok(Box::new(Server {
        hub,
        _udp: udp,
        zones,
        alarms: Alarms::default(),
        timeline: Timeline::new(),
        buffers: Buffers { input: vec![0; INPUT].into(), output: vec![0; OUTPUT].into() },
    }))
}

/// A key that nobody outside can know: the standard library keys its own hash tables from the system's entropy.
fn secret() -> [u64; 2] {
    let keyed = RandomState::new();
    [keyed.hash_one(0_u8), keyed.hash_one(1_u8)]
}

/// The UDP side.
struct Datagrams {
    zones: Arc<Zones>,
}

impl Responder for Datagrams {
    fn respond(&mut self, _: SocketAddr, buf: &mut [u8], len: usize) -> Option<usize> {
        self.zones.answer(buf, len, Transport::Udp { max: UDP_PAYLOAD_MAX })
    }
}

/// What connections use one after the other.
struct Buffers {
    input: Box<[u8]>,
    output: Box<[u8]>,
}

struct Server {
    hub: Hub<Connection>,
    /// Held open; its responder answers.
    _udp: UdpSocket,
    zones: Arc<Zones>,
    alarms: Alarms,
    timeline: Timeline,
    buffers: Buffers,
}

impl Program for Server {
    fn name(&self) -> &'static str {
        NAME
    }

    fn epoll(&self) -> &Epoll {
        self.hub.epoll()
    }

    fn ready(&mut self, _: &mut Runtime, now: std::time::Instant) -> Result<(), ProgramError> {
        let now = self.timeline.at(now);
        for _ in 0..self.hub.poll(|stream, _| Connection::new(stream, now))? {
            let Some(token) = self.hub.next() else { break };
            self.serve(token, now);
        }
        self.expire(now);
        Ok(())
    }

    fn deadline(&self) -> Option<std::time::Instant> {
        self.timeline.when(self.alarms.next()?)
    }
}

impl Server {
    fn serve(&mut self, token: u64, now: Instant) {
        // A connection that was closed earlier in this batch.
        let Some(connection) = self.hub.get_mut(token) else { return };
        let step = connection.serve(&self.zones, &mut self.buffers, now);
        self.alarms.arm(token, &mut connection.armed, connection.expires);
        self.hub.settle(token, step);
    }

    /// Closes the connections that have expired.
    fn expire(&mut self, now: Instant) {
        while let Some((at, token)) = self.alarms.pop(now) {
            let Some(connection) = self.hub.get_mut(token) else { continue };
            if !connection.armed.rang(at) {
                continue;
            }
            if connection.expires > now {
                self.alarms.arm(token, &mut connection.armed, connection.expires);
            } else {
                debug!(peer = %connection.stream.peer_addr(), "dns: connection idle for too long");
                self.hub.remove(token);
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    /// Octets of queries: the beginning of one, or more while answers are unsent.
    unanswered: Vec<u8>,
    /// Octets of answers that found no room yet.
    unsent: Vec<u8>,
    /// The peer sent something that is no query: close once everything is sent.
    is_closing: bool,
    expires: Instant,
    armed: Armed,
}

impl Connected for Connection {
    fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl Connection {
    /// A connection that was accepted at `now`.
    fn new(stream: TcpStream, now: Instant) -> Self {
        // Answers are written whole; waiting for an ACK would only delay the next.
        stream.set_nodelay(true);
        let (unanswered, unsent, armed) = (Vec::new(), Vec::new(), Armed::default());
        Self { stream, unanswered, unsent, is_closing: false, expires: now + IDLE, armed }
    }

    /// Sends what is owed, reads once, and answers all that has become complete or until there is no room.
    fn serve(&mut self, zones: &Zones, buffers: &mut Buffers, now: Instant) -> Result<Step, SocketError> {
        let unsent = std::mem::take(&mut self.unsent);
        if !self.send(&unsent, now)? {
            return Ok(Step::Write);
        }
        if self.is_closing {
            return Ok(Step::End);
        }
        let Buffers { input, output } = buffers;
        // Never more than the buffer, where it came from.
        let mut len = self.unanswered.len().min(input.len());
        let kept = std::mem::take(&mut self.unanswered);
        input.get_mut(..len).unwrap_or_default().copy_from_slice(kept.get(..len).unwrap_or_default());
        let mut step = self.answer(zones, input, &mut len, output, now)?;
        if matches!(step, Step::Read) {
            // What is left is less than one message, so there is room.
            let read = match self.stream.read(input.get_mut(len..).unwrap_or_default()) {
                Ok(0) => return Ok(Step::End),
                Err(SocketError::WouldBlock) => 0,
                read => read?,
            };
            len += read;
            step = self.answer(zones, input, &mut len, output, now)?;
        }
        self.unanswered.extend_from_slice(input.get(..len).unwrap_or_default());
        Ok(step)
    }

    /// Answers the complete queries in `input[..len]` and moves the rest to the front.
    fn answer(
        &mut self,
        zones: &Zones,
        input: &mut [u8],
        len: &mut usize,
        output: &mut [u8],
        now: Instant,
    ) -> Result<Step, SocketError> {
        let mut at = 0;
        let step = loop {
            let done = answer_stream(zones, input.get(at..*len).unwrap_or_default(), output);
            at += done.consumed;
            self.is_closing = done.close;
            let is_sent = self.send(output.get(..done.produced).unwrap_or_default(), now)?;
            match (is_sent, done.close) {
                (false, _) => break Step::Write,
                (true, true) => break Step::End,
                (true, false) if done.consumed == 0 => break Step::Read,
                (true, false) => {}
            }
        };
        input.copy_within(at..*len, 0);
        *len -= at;
        Ok(step)
    }

    /// Writes `octets`, keeps what finds no room, and says whether nothing is kept. Nothing is before.
    fn send(&mut self, octets: &[u8], now: Instant) -> Result<bool, SocketError> {
        if octets.is_empty() {
            return Ok(true);
        }
        let written = match self.stream.write(octets) {
            Err(SocketError::WouldBlock) => 0,
            written => written?,
        };
        if written > 0 {
            self.expires = now + IDLE;
        }
        self.unsent.extend_from_slice(octets.get(written..).unwrap_or_default());
        Ok(self.unsent.is_empty())
    }
}
