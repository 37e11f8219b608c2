//! The server's sockets: accepts connections, moves bytes between them and their [`Connection`]s, keeps their deadlines.
//!
//! Everything is edge-triggered, so a connection is driven until its socket would block, or until it has had its share
//! ([`ROUNDS`]); then it goes behind the others and [`Program::deadline`] asks for another call at once. Whatever goes
//! wrong at one connection ends that connection.

use super::{Close, Connection, Options, Site};
use crate::clients::{Alarms, Armed, Clients};
use crate::run::{Program, ProgramError};
use nty_epoll::{Epoll, Event, Events, Runtime, TcpListener, TcpStream};
use ntytcp::stack::SocketError;
use ntytcp::tcp::ListenOptions;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::time::{Instant, SystemTime};

const NAME: &str = "http";
/// The listener's token, which no connection has.
const LISTENER: u64 = u64::MAX;
/// Events that one call handles.
const BATCH: usize = 256;
/// Connections that one call accepts.
const ACCEPTS: usize = 64;
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
    let port = options.port.get();
    let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let listener = runtime.listen(local, ListenOptions::default()).map_err(|source| ProgramError::Port {
        program: NAME,
        transport: "TCP",
        port,
        source,
    })?;
    let epoll = Epoll::new()?;
    epoll.add(&listener, Events::IN | Events::ET, LISTENER)?;
    Ok(Box::new(Server {
        site,
        epoll,
        listener,
        events: vec![Event::default(); BATCH],
        buf: vec![0; READ],
        clients: Clients::new(),
        unfinished: VecDeque::new(),
        unaccepted: false,
        alarms: Alarms::default(),
        origin: Instant::now(),
        now: ntytcp::time::Instant::ZERO,
    }))
}

/// One server and its connections.
struct Server {
    site: Site,
    epoll: Epoll,
    listener: TcpListener,
    events: Vec<Event>,
    buf: Vec<u8>,
    clients: Clients<Client>,
    /// Connections that have had their share but not enough.
    unfinished: VecDeque<u64>,
    /// Connections may wait at the listener, although it makes no edge.
    unaccepted: bool,
    alarms: Alarms,
    /// What the deadlines are counted from.
    origin: Instant,
    now: ntytcp::time::Instant,
}

struct Client {
    stream: TcpStream,
    connection: Connection,
    armed: Armed,
    /// Stands in [`Server::unfinished`].
    queued: bool,
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
}

impl Program for Server {
    fn name(&self) -> &'static str {
        NAME
    }

    fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    fn ready(&mut self, _: &mut Runtime, now: Instant) -> Result<(), ProgramError> {
        self.set_time(now);
        self.site.tick(SystemTime::now());
        for _ in 0..self.unfinished.len() {
            let Some(token) = self.unfinished.pop_front() else { break };
            if let Some(client) = self.clients.get_mut(token) {
                client.queued = false;
            }
            self.drive(token);
        }
        let n = self.epoll.poll(&mut self.events)?;
        for i in 0..n {
            match self.events.get(i).map_or(LISTENER, |event| event.data) {
                LISTENER => self.unaccepted = true,
                token => self.drive(token),
            }
        }
        if self.unaccepted {
            self.accept();
        }
        self.ring();
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        if self.unaccepted || !self.unfinished.is_empty() {
            return Some(self.origin + self.now.since(ntytcp::time::Instant::ZERO));
        }
        let next = self.alarms.next()?;
        self.origin.checked_add(next.since(ntytcp::time::Instant::ZERO))
    }
}

impl Server {
    fn set_time(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.origin);
        self.now = self.now.max(ntytcp::time::Instant::ZERO + elapsed);
    }

    /// Takes the connections that wait, some of them if they are many.
    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let Ok((stream, peer)) = self.listener.accept() else {
                self.unaccepted = false;
                return;
            };
            // Answers are written in pieces as large as they come: there is nothing for Nagle to put together.
            stream.set_nodelay(true);
            let connection = Connection::new(&self.site, self.now);
            let client = Client { stream, connection, armed: Armed::default(), queued: false };
            let token = self.clients.insert(client);
            let added = match self.clients.get_mut(token) {
                Some(client) => {
                    let events = Events::IN | Events::OUT | Events::RDHUP | Events::ET;
                    self.epoll.add(&client.stream, events, token)
                }
                None => Ok(()),
            };
            if let Err(error) = added {
                tracing::warn!(target: "nty::http", %peer, %error, "connection refused");
                self.clients.remove(token);
                continue;
            }
            tracing::debug!(target: "nty::http", %peer, open = self.clients.len(), "connection");
            // Its first request is often there already.
            self.drive(token);
        }
    }

    /// Gives a connection its share, and notes when it wants to be looked at next.
    fn drive(&mut self, token: u64) {
        let Some(client) = self.clients.get_mut(token) else { return };
        match client.drive(&self.site, self.now, &mut self.buf) {
            Progress::Over => {
                if let Some(client) = self.clients.remove(token) {
                    client.end();
                }
                return;
            }
            Progress::Unfinished if !client.queued => {
                client.queued = true;
                self.unfinished.push_back(token);
            }
            Progress::Unfinished | Progress::Idle => {}
        }
        self.alarms.arm(token, &mut client.armed, client.connection.deadline());
    }

    /// Tells the connections whose time has come.
    fn ring(&mut self) {
        while let Some((at, token)) = self.alarms.pop(self.now) {
            if let Some(client) = self.clients.get_mut(token)
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
    /// Moves bytes both ways until nothing moves, or the share is used up.
    fn drive(&mut self, site: &Site, now: ntytcp::time::Instant, buf: &mut [u8]) -> Progress {
        for _ in 0..ROUNDS {
            let moved = self.read(site, now, buf).and_then(|read| Ok(read | self.write(site, now)?));
            let Ok(mut moved) = moved else { return Progress::Over };
            match self.connection.close() {
                None => {}
                Some(Close::Now) => return Progress::Over,
                Some(Close::Shutdown) => match self.stream.shutdown(Shutdown::Write) {
                    Ok(()) => moved = true,
                    Err(_) => return Progress::Over,
                },
            }
            if !moved {
                return Progress::Idle;
            }
        }
        Progress::Unfinished
    }

    /// Closes. An answer that breaks off must not look as if it had ended.
    fn end(mut self) {
        if !self.connection.output().is_empty() {
            self.stream.abort();
        }
    }

    /// Reads once, if the connection wants to; whether something came.
    fn read(&mut self, site: &Site, now: ntytcp::time::Instant, buf: &mut [u8]) -> Result<bool, SocketError> {
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
    fn write(&mut self, site: &Site, now: ntytcp::time::Instant) -> Result<bool, SocketError> {
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
