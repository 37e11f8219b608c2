//! The server's sockets: accepts connections, moves bytes between them and their [`Connection`]s, keeps their deadlines.
//!
//! Connections are edge-triggered, so each is driven until its socket would block, or until it has had its share
//! ([`ROUNDS`]); then it goes behind the others and [`Program::deadline`] asks for another call at once. Whatever goes
//! wrong at one connection ends that connection.

use super::{Close, Connection, Options, Site};
use crate::clients::{Alarms, Armed, Timeline};
use crate::hub::{Connected, Hub};
use crate::run::{Program, ProgramError};
use nty_epoll::{Epoll, Events, Runtime, TcpStream};
use ntytcp::stack::SocketError;
use ntytcp::time::Instant;
use std::net::Shutdown;
use std::time::SystemTime;
use tracing::debug;

const NAME: &str = "http";
/// Connections that may wait to be accepted.
const BACKLOG: usize = 1_024;
/// Connections at the same time; more wait in the backlog. Each owns a few kilobytes, and [`READ`] while it sends a file.
pub(super) const CONNECTIONS_MAX: usize = 10_000;
/// How often one call reads from and writes to one connection.
const ROUNDS: usize = 8;
/// Bytes that one read takes.
const READ: usize = 32 * 1024;

/// Opens the site and listens.
///
/// # Errors
/// [`ProgramError::Other`] when the site cannot be opened, [`ProgramError::Port`] when the port cannot be listened on.
pub fn open(options: &Options, runtime: &mut Runtime) -> Result<Box<dyn Program>, ProgramError> {
    let site = Site::open(options).map_err(|error| ProgramError::Other(format!("{NAME}: {error}")))?;
    let mut hub = Hub::new(NAME, Events::IN | Events::OUT | Events::RDHUP | Events::ET)?;
    hub.listen(options.port.get(), BACKLOG, CONNECTIONS_MAX, runtime)?;
    Ok(Box::new(Server {
        site,
        hub,
        buf: vec![0; READ].into(),
        alarms: Alarms::default(),
        timeline: Timeline::new(),
        now: Instant::ZERO,
        is_draining: false,
    }))
}

/// One server and its connections.
struct Server {
    site: Site,
    hub: Hub<Client>,
    buf: Box<[u8]>,
    alarms: Alarms,
    timeline: Timeline,
    now: Instant,
    /// Who has nothing under way is let go.
    is_draining: bool,
}

struct Client {
    stream: TcpStream,
    connection: Connection,
    armed: Armed,
}

impl Connected for Client {
    fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// What a call left of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    /// Waits for its socket.
    Idle,
    /// Could go on.
    Unfinished,
    /// Is over.
    Over,
    /// Is over in the middle of something.
    Broken,
}

impl Program for Server {
    fn name(&self) -> &'static str {
        NAME
    }

    fn epoll(&self) -> &Epoll {
        self.hub.epoll()
    }

    fn ready(&mut self, _: &mut Runtime, now: std::time::Instant) -> Result<(), ProgramError> {
        self.now = self.timeline.at(now);
        self.site.tick(SystemTime::now());
        let (site, now) = (&self.site, self.now);
        for _ in 0..self.hub.poll(|stream, _| Client::new(stream, site, now))? {
            let Some(token) = self.hub.next() else { break };
            self.drive(token);
        }
        self.ring();
        Ok(())
    }

    fn deadline(&self) -> Option<std::time::Instant> {
        let next = if self.hub.is_idle() { self.alarms.next()? } else { self.now };
        self.timeline.when(next)
    }

    fn drain(&mut self) {
        self.is_draining = true;
        self.hub.stop_listening();
        let idle: Vec<u64> = self
            .hub
            .iter()
            .filter(|(_, client)| !client.connection.is_busy())
            .map(|(token, _)| token)
            .collect();
        idle.into_iter().for_each(|token| drop(self.hub.remove(token)));
    }

    fn is_drained(&self) -> bool {
        self.hub.len() == 0
    }

    /// An answer that is cut off ends with a RST: a FIN would make what is there look like all of it to whoever counts on the end.
    fn stop(&mut self) {
        let cut_off: Vec<u64> = self
            .hub
            .iter()
            .filter(|(_, client)| client.connection.is_answering())
            .map(|(token, _)| token)
            .collect();
        for client in cut_off.into_iter().filter_map(|token| self.hub.remove(token)) {
            debug!(peer = %client.stream.peer_addr(), "{NAME}: connection reset");
            client.stream.abort();
        }
    }
}

impl Server {
    /// Gives a connection its share, and notes when it wants to be looked at next.
    fn drive(&mut self, token: u64) {
        let Some(client) = self.hub.get_mut(token) else { return };
        match client.drive(&self.site, self.now, &mut self.buf) {
            Progress::Over => return drop(self.hub.remove(token)),
            Progress::Broken => {
                if let Some(client) = self.hub.remove(token) {
                    debug!(peer = %client.stream.peer_addr(), "{NAME}: connection reset");
                    client.stream.abort();
                }
                return;
            }
            Progress::Unfinished => self.hub.queue(token),
            Progress::Idle if self.is_draining && !client.connection.is_busy() => {
                return drop(self.hub.remove(token));
            }
            Progress::Idle => {}
        }
        if let Some(client) = self.hub.get_mut(token) {
            self.alarms.arm(token, &mut client.armed, client.connection.deadline());
        }
    }

    /// Tells the connections whose time has come.
    fn ring(&mut self) {
        while let Some((at, token)) = self.alarms.pop(self.now) {
            if let Some(client) = self.hub.get_mut(token)
                && client.armed.rang(at)
            {
                client.connection.on_timeout(&self.site, self.now);
                // Arms it again: with a deadline that lies ahead, or has just been acted on.
                self.drive(token);
            }
        }
    }
}

impl Client {
    fn new(stream: TcpStream, site: &Site, now: Instant) -> Self {
        // Answers are written in pieces as large as they come: there is nothing for Nagle to put together.
        stream.set_nodelay(true);
        Self { stream, connection: Connection::new(site, now), armed: Armed::default() }
    }

    /// Moves bytes both ways until nothing moves, or the share is used up.
    fn drive(&mut self, site: &Site, now: Instant, buf: &mut [u8]) -> Progress {
        for _ in 0..ROUNDS {
            let moved = self.read(site, now, buf).and_then(|read| Ok(read | self.write(site, now)?));
            let Ok(mut moved) = moved else { return Progress::Broken };
            match self.connection.close() {
                None => {}
                Some(Close::Now) => return Progress::Over,
                Some(Close::Abort) => return Progress::Broken,
                Some(Close::Shutdown) => match self.stream.shutdown(Shutdown::Write) {
                    Ok(()) => moved = true,
                    Err(_) => return Progress::Broken,
                },
            }
            if !moved {
                return Progress::Idle;
            }
        }
        Progress::Unfinished
    }

    /// Reads once, if the connection wants to; whether something came.
    fn read(&mut self, site: &Site, now: Instant, buf: &mut [u8]) -> Result<bool, SocketError> {
        if !self.connection.wants_input() {
            return Ok(false);
        }
        match self.stream.read(buf) {
            Ok(0) => self.connection.end_of_input(),
            Ok(n) => self.connection.receive(site, now, buf.get(..n).unwrap_or_default()),
            Err(SocketError::WouldBlock) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Writes until the socket is full, which it is after its send buffer at the latest: only a turn of the stack makes room.
    fn write(&mut self, site: &Site, now: Instant) -> Result<bool, SocketError> {
        let mut moved = false;
        loop {
            let output = self.connection.output();
            if output.is_empty() {
                return Ok(moved);
            }
            match self.stream.write(output) {
                Ok(n) => {
                    self.connection.sent(site, now, n);
                    moved = true;
                }
                Err(SocketError::WouldBlock) => return Ok(moved),
                Err(error) => return Err(error),
            }
        }
    }
}
