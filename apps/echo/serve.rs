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
use crate::hub::{self, Connected, Hub, Step};
use crate::run::{Program, ProgramError};
use nty_epoll::{Epoll, Events, Runtime, TcpStream, UdpSocket};
use ntytcp::stack::{Responder, SocketError};
use std::net::SocketAddr;
use std::time::Instant;

const NAME: &str = "echo";
/// The most that one read takes.
const BLOCK: usize = 64 << 10;
/// Connections that may wait to be accepted.
const BACKLOG: usize = 1024;

/// Opens the port for the transports that `options` names.
///
/// # Errors
/// [`ProgramError::Port`] when the port is taken, [`ProgramError::Epoll`] when the process has no descriptor left.
pub fn open(options: &Options, runtime: &mut Runtime) -> Result<Box<dyn Program>, ProgramError> {
    let port = options.port.get();
    let trigger = match options.mode {
        Mode::Lt => Events::empty(),
        Mode::Et => Events::ET,
    };
    let mut hub = Hub::new(NAME, Events::IN | trigger)?;
    if options.transport.has_tcp() {
        // As many connections as the stack has.
        hub.listen(port, BACKLOG, usize::MAX, runtime)?;
    }
    let udp = if options.transport.has_udp() { Some(open_udp(port, runtime)?) } else { None };
    Ok(Box::new(Echo { hub, _udp: udp, mode: options.mode, block: vec![0; BLOCK].into() }))
}

fn open_udp(port: u16, runtime: &mut Runtime) -> Result<UdpSocket, ProgramError> {
    let socket = hub::bind_udp(NAME, port, runtime)?;
    let mirror = Some(Box::new(Mirror { port }) as Box<_>);
    let answers = runtime.stack().udp_set_responder(socket.id(), mirror);
    answers.map_err(|source| ProgramError::Socket { program: NAME, source })?;
    Ok(socket)
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
    hub: Hub<Connection>,
    /// Held open; its responder answers.
    _udp: Option<UdpSocket>,
    mode: Mode,
    block: Box<[u8]>,
}

impl Program for Echo {
    fn name(&self) -> &'static str {
        NAME
    }

    fn epoll(&self) -> &Epoll {
        self.hub.epoll()
    }

    fn ready(&mut self, _: &mut Runtime, _: Instant) -> Result<(), ProgramError> {
        for _ in 0..self.hub.poll(|stream, _| Connection { stream, held: Vec::new() })? {
            let Some(token) = self.hub.next() else { break };
            self.serve(token);
        }
        Ok(())
    }
}

impl Echo {
    fn serve(&mut self, token: u64) {
        // A connection that was closed earlier in this batch.
        let Some(connection) = self.hub.get_mut(token) else { return };
        let step = connection.serve(&mut self.block, self.mode == Mode::Et);
        self.hub.settle(token, step);
    }
}

struct Connection {
    stream: TcpStream,
    /// Bytes read that found no room yet: one as a rule, more when the stack is short of memory.
    held: Vec<u8>,
}

impl Connected for Connection {
    fn stream(&self) -> &TcpStream {
        &self.stream
    }
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
                // The peer has sent its last byte and got it back.
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
