//! The server of `nty echo`.
//!
//! ```text
//!   TCP  read at most one byte more than can be written -> write -> (what fell short: held) -> interest OUT until it is gone
//!   UDP  answered in the frame that it came in
//! ```
//!
//! A connection has no buffer of its own: bytes go from its receive buffer over one block that all share into its send buffer.
//! A peer that does not read fills the send buffer; then nothing more is read, its receive buffer fills too, and TCP's window
//! tells it to stop.

use super::{Mode, Options};
use crate::run::{Program, ProgramError};
use crate::slab::Slab;
use nty_epoll::{Epoll, Event, Events, Runtime, TcpListener, TcpStream, UdpSocket};
use ntytcp::stack::{Responder, SocketError};
use ntytcp::tcp::ListenOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;
use tracing::debug;

const NAME: &str = "echo";
/// The listener's token; no connection has it.
const LISTENER: u64 = u64::MAX;
/// The most that one read takes.
const BLOCK: usize = 64 << 10;
/// Events of one batch.
const BATCH: usize = 256;
/// Connections that may wait to be accepted.
const BACKLOG: usize = 1024;

/// Opens the port for the transports that `options` names.
///
/// # Errors
/// [`ProgramError::Port`] when the port is taken, [`ProgramError::Epoll`] when the process has no descriptor left.
pub fn open(options: &Options, runtime: &mut Runtime) -> Result<Box<dyn Program>, ProgramError> {
    let port = options.port.get();
    let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let refused = |transport| move |source| ProgramError::Port { program: NAME, transport, port, source };
    let epoll = Epoll::new()?;
    let trigger = match options.mode {
        Mode::Lt => Events::empty(),
        Mode::Et => Events::ET,
    };
    let mut listener = None;
    if options.transport.has_tcp() {
        let listen = ListenOptions { backlog: BACKLOG, ..ListenOptions::default() };
        let opened = runtime.listen(local, listen).map_err(refused("TCP"))?;
        epoll.add(&opened, Events::IN | trigger, LISTENER)?;
        listener = Some(opened);
    }
    let mut udp = None;
    if options.transport.has_udp() {
        let opened = runtime.bind_udp(local, None).map_err(refused("UDP"))?;
        let mirror = Some(Box::new(Mirror { port }) as Box<_>);
        runtime.stack().udp_set_responder(opened.id(), mirror).map_err(refused("UDP"))?;
        udp = Some(opened);
    }
    Ok(Box::new(Echo {
        epoll,
        listener,
        _udp: udp,
        trigger,
        connections: Slab::new(),
        block: vec![0; BLOCK].into(),
        batch: vec![Event::default(); BATCH].into(),
    }))
}

/// The UDP side: every datagram is its own answer.
struct Mirror {
    port: u16,
}

impl Responder for Mirror {
    fn respond(&mut self, from: SocketAddr, _: &mut [u8], len: usize) -> Option<usize> {
        // One datagram with a forged sender would otherwise bounce between two echo servers for ever.
        (from.port() != self.port).then_some(len)
    }
}

struct Echo {
    epoll: Epoll,
    listener: Option<TcpListener>,
    /// Held open; its responder answers.
    _udp: Option<UdpSocket>,
    /// [`Events::ET`] or nothing.
    trigger: Events,
    connections: Slab<Connection>,
    block: Box<[u8]>,
    batch: Box<[Event]>,
}

impl Program for Echo {
    fn name(&self) -> &'static str {
        NAME
    }

    fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    fn ready(&mut self, _: &mut Runtime, _: Instant) -> Result<(), ProgramError> {
        let reported = self.epoll.poll(&mut self.batch)?;
        for i in 0..reported {
            match self.batch.get(i).map(|event| event.data) {
                Some(LISTENER) => self.accept(),
                Some(token) => self.serve(token),
                None => break,
            }
        }
        Ok(())
    }
}

impl Echo {
    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        while let Ok((stream, peer)) = listener.accept() {
            let connection = Connection { stream, held: Vec::new(), interest: Events::IN };
            let Some(token) = self.connections.insert(connection) else { return };
            let Some(connection) = self.connections.get_mut(token) else { return };
            if let Err(error) = self.epoll.add(&connection.stream, Events::IN | self.trigger, token) {
                debug!(%peer, %error, "echo: connection refused");
                self.connections.remove(token);
            }
        }
    }

    fn serve(&mut self, token: u64) {
        // A connection that was closed earlier in this batch.
        let Some(connection) = self.connections.get_mut(token) else { return };
        let step = connection.serve(&mut self.block, self.trigger.contains(Events::ET));
        let interest = match step {
            Ok(Step::Read) => Events::IN,
            Ok(Step::Write) => Events::OUT,
            Ok(Step::End) => {
                // Closing sends what was written, then the FIN.
                self.connections.remove(token);
                return;
            }
            Err(error) => {
                debug!(peer = %connection.stream.peer_addr(), %error, "echo: connection ended");
                self.connections.remove(token);
                return;
            }
        };
        if connection.interest != interest {
            connection.interest = interest;
            if let Err(error) = self.epoll.modify(&connection.stream, interest | self.trigger, token) {
                debug!(peer = %connection.stream.peer_addr(), %error, "echo: connection closed");
                self.connections.remove(token);
            }
        }
    }
}

/// What a connection waits for.
enum Step {
    Read,
    Write,
    /// Nothing: the peer has sent its last byte and got it back.
    End,
}

struct Connection {
    stream: TcpStream,
    /// Bytes read that found no room yet: one as a rule, more when the stack is short of memory.
    held: Vec<u8>,
    interest: Events,
}

impl Connection {
    /// Sends back what is there: one block of it, or with `drain` all, until there is no more or no room.
    fn serve(&mut self, block: &mut [u8], drain: bool) -> Result<Step, SocketError> {
        if !self.held.is_empty() {
            let written = or_none(self.stream.write(&self.held))?;
            self.held.drain(..written);
            if !self.held.is_empty() {
                return Ok(Step::Write);
            }
        }
        loop {
            // One byte more than there is room for: only a write that falls short makes OUT untrue until there is room.
            let most = block.len().min(self.stream.writable().saturating_add(1));
            let block = block.get_mut(..most).unwrap_or_default();
            let read = match self.stream.read(block) {
                Ok(0) => return Ok(Step::End),
                Ok(read) => read,
                Err(SocketError::WouldBlock) => return Ok(Step::Read),
                Err(error) => return Err(error),
            };
            let bytes = block.get(..read).unwrap_or_default();
            let written = or_none(self.stream.write(bytes))?;
            if let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
                self.held.extend_from_slice(rest);
                return Ok(Step::Write);
            }
            if !drain {
                return Ok(Step::Read);
            }
        }
    }
}

/// `WouldBlock` as nothing done.
fn or_none(done: Result<usize, SocketError>) -> Result<usize, SocketError> {
    match done {
        Err(SocketError::WouldBlock) => Ok(0),
        done => done,
    }
}
