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
use crate::run::{Program, ProgramError};
use crate::slab::Slab;
use nty_epoll::{Epoll, Event, Events, Runtime, TcpListener, TcpStream, UdpSocket};
use ntytcp::stack::{Responder, SocketError};
use ntytcp::tcp::ListenOptions;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::debug;

const NAME: &str = "dns";
/// The listener's token; no connection has it.
const LISTENER: u64 = u64::MAX;
/// Events of one batch.
const BATCH: usize = 256;
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
    let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let refused = |transport| move |source| ProgramError::Port { program: NAME, transport, port, source };
    let epoll = Epoll::new()?;
    let udp = runtime.bind_udp(local, None).map_err(refused("UDP"))?;
    let resolver = Some(Box::new(Datagrams { zones: zones.clone() }) as Box<_>);
    runtime.stack().udp_set_responder(udp.id(), resolver).map_err(refused("UDP"))?;
    let listen = ListenOptions { backlog: BACKLOG, ..ListenOptions::default() };
    let listener = runtime.listen(local, listen).map_err(refused("TCP"))?;
    epoll.add(&listener, Events::IN, LISTENER)?;
    Ok(Box::new(Server {
        epoll,
        listener,
        is_accepting: true,
        _udp: udp,
        zones,
        connections: Slab::new(),
        sweep_at: None,
        buffers: Buffers { input: vec![0; INPUT].into(), output: vec![0; OUTPUT].into() },
        batch: vec![Event::default(); BATCH].into(),
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
    epoll: Epoll,
    listener: TcpListener,
    /// Whether the listener is asked about: not while there are [`CONNECTIONS_MAX`].
    is_accepting: bool,
    /// Held open; its responder answers.
    _udp: UdpSocket,
    zones: Arc<Zones>,
    connections: Slab<Connection>,
    /// No connection expires before.
    sweep_at: Option<Instant>,
    buffers: Buffers,
    batch: Box<[Event]>,
}

impl Program for Server {
    fn name(&self) -> &'static str {
        NAME
    }

    fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    fn ready(&mut self, _: &mut Runtime, now: Instant) -> Result<(), ProgramError> {
        let reported = self.epoll.poll(&mut self.batch)?;
        for i in 0..reported {
            match self.batch.get(i).map(|event| event.data) {
                Some(LISTENER) => self.accept(now),
                Some(token) => self.serve(token, now),
                None => break,
            }
        }
        self.sweep(now);
        let has_room = self.connections.len() < CONNECTIONS_MAX;
        if has_room != self.is_accepting {
            let interest = if has_room { Events::IN } else { Events::empty() };
            self.epoll.modify(&self.listener, interest, LISTENER)?;
            self.is_accepting = has_room;
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.sweep_at
    }
}

impl Server {
    fn accept(&mut self, now: Instant) {
        while self.connections.len() < CONNECTIONS_MAX
            && let Ok((stream, peer)) = self.listener.accept()
        {
            // Answers are written whole; waiting for an ACK would only delay the next.
            stream.set_nodelay(true);
            let expires = now + IDLE;
            self.sweep_at.get_or_insert(expires);
            let Some(token) = self.connections.insert(Connection::new(stream, expires)) else { return };
            let Some(connection) = self.connections.get_mut(token) else { return };
            if let Err(error) = self.epoll.add(&connection.stream, Events::IN, token) {
                debug!(%peer, %error, "dns: connection refused");
                self.connections.remove(token);
            }
        }
    }

    fn serve(&mut self, token: u64, now: Instant) {
        // A connection that was closed earlier in this batch.
        let Some(connection) = self.connections.get_mut(token) else { return };
        let interest = match connection.serve(&self.zones, &mut self.buffers, now) {
            Ok(Step::Read) => Events::IN,
            Ok(Step::Write) => Events::OUT,
            Ok(Step::End) => {
                // Closing sends what was written, then the FIN.
                self.connections.remove(token);
                return;
            }
            Err(error) => {
                debug!(peer = %connection.stream.peer_addr(), %error, "dns: connection ended");
                self.connections.remove(token);
                return;
            }
        };
        if connection.interest != interest {
            connection.interest = interest;
            if let Err(error) = self.epoll.modify(&connection.stream, interest, token) {
                debug!(peer = %connection.stream.peer_addr(), %error, "dns: connection closed");
                self.connections.remove(token);
            }
        }
    }

    /// Closes the connections that have expired. A look at all of them, each time the first may have.
    fn sweep(&mut self, now: Instant) {
        if self.sweep_at.is_some_and(|at| at <= now) {
            self.connections.retain(|connection| connection.expires > now);
            self.sweep_at = self.connections.iter().map(|connection| connection.expires).min();
        }
    }
}

/// What a connection waits for.
enum Step {
    Read,
    Write,
    /// Nothing: everything is answered and sent, and the peer has closed or broke the rules.
    End,
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
    interest: Events,
}

impl Connection {
    fn new(stream: TcpStream, expires: Instant) -> Self {
        let (unanswered, unsent) = (Vec::new(), Vec::new());
        Self { stream, unanswered, unsent, is_closing: false, expires, interest: Events::IN }
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
