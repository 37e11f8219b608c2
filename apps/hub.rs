//! What servers on a stack do alike: listen, accept, and find out whose turn it is.
//!
//! ```text
//!   poll():  epoll -> a connection waits:    accept until none does, or the limit is reached -> due
//!                  -> a client is ready:     due
//!   next():  due, in order                   every client stands there once
//! ```
//!
//! A program drives what [`Hub::next`] gives, and puts back with [`Hub::queue`] who has had a share but not enough.

use crate::clients::Clients;
use crate::run::ProgramError;
use nty_epoll::{Epoll, EpollError, Event, Events, Runtime, TcpListener, TcpStream, UdpSocket};
use ntytcp::stack::SocketError;
use ntytcp::tcp::ListenOptions;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use tracing::{debug, warn};

/// The listener's token. No client has one that ends in 32 ones.
const LISTENER: u64 = u64::MAX;
/// The token of what [`Hub::watch`] watches.
const OTHER: u64 = u64::MAX - (1 << 32);
/// Events that one poll takes.
const BATCH: usize = 256;

/// A client that is connected by a stream.
pub(crate) trait Connected {
    /// The stream.
    fn stream(&self) -> &TcpStream;
}

/// What a client waits for that was driven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Read,
    Write,
    /// Nothing: everything is done.
    End,
}

/// A listener, its clients, and an epoll that watches them all.
pub(crate) struct Hub<T> {
    program: &'static str,
    epoll: Epoll,
    listener: Option<TcpListener>,
    /// Whether the listener is asked about: not while there are `limit` clients.
    is_accepting: bool,
    limit: usize,
    /// What new clients are watched for.
    interest: Events,
    clients: Clients<Entry<T>>,
    due: VecDeque<u64>,
    batch: Box<[Event]>,
}

struct Entry<T> {
    client: T,
    interest: Events,
    /// Stands in [`Hub::due`].
    is_due: bool,
}

/// Binds the UDP port of a server.
///
/// # Errors
/// [`ProgramError::Port`] when the port is taken.
pub(crate) fn bind_udp(
    program: &'static str,
    port: u16,
    runtime: &mut Runtime,
) -> Result<UdpSocket, ProgramError> {
    let socket = runtime.bind_udp((Ipv4Addr::UNSPECIFIED, port).into(), None);
    socket.map_err(|source| ProgramError::Port { program, transport: "UDP", port, source })
}

impl<T: Connected> Hub<T> {
    /// Nobody is connected, and nobody can be: [`Hub::listen`] and [`Hub::add`] change that. New clients are watched for
    /// `interest`.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub(crate) fn new(program: &'static str, interest: Events) -> Result<Self, EpollError> {
        Ok(Self {
            program,
            epoll: Epoll::new()?,
            listener: None,
            is_accepting: true,
            limit: usize::MAX,
            interest,
            clients: Clients::new(),
            due: VecDeque::new(),
            batch: vec![Event::default(); BATCH].into(),
        })
    }

    /// Listens on `port` for as many as `limit` clients at a time; more wait in the backlog.
    ///
    /// # Errors
    /// [`ProgramError::Port`] when the port is taken.
    pub(crate) fn listen(
        &mut self,
        port: u16,
        backlog: usize,
        limit: usize,
        runtime: &mut Runtime,
    ) -> Result<(), ProgramError> {
        let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let options = ListenOptions { backlog, ..ListenOptions::default() };
        let program = self.program;
        let listener = runtime.listen(local, options).map_err(|source| ProgramError::Port {
            program,
            transport: "TCP",
            port,
            source,
        })?;
        self.epoll.add(&listener, Events::IN, LISTENER)?;
        self.limit = limit;
        self.listener = Some(listener);
        Ok(())
    }

    /// Closes the listener; connections that wait there are reset.
    pub(crate) fn stop_listening(&mut self) {
        self.listener = None;
    }

    /// Watches a socket that is no client's: what happens there ends a wait, and no more.
    ///
    /// # Errors
    /// Those of [`Epoll::add`].
    pub(crate) fn watch(&self, socket: &UdpSocket, interest: Events) -> Result<(), EpollError> {
        self.epoll.add(socket, interest, OTHER)
    }

    /// What all of it is registered with.
    pub(crate) fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    /// Takes the events of one batch, and the connections that wait: `make` makes clients of them. Says how many are due.
    ///
    /// # Errors
    /// Those of [`Epoll::poll`].
    pub(crate) fn poll(
        &mut self,
        mut make: impl FnMut(TcpStream, SocketAddr) -> T,
    ) -> Result<usize, EpollError> {
        let reported = self.epoll.poll(&mut self.batch)?;
        for i in 0..reported {
            match self.batch.get(i).map(|event| event.data) {
                Some(LISTENER) => self.accept(&mut make),
                Some(token) => self.queue(token),
                None => break,
            }
        }
        Ok(self.due.len())
    }

    fn accept(&mut self, make: &mut impl FnMut(TcpStream, SocketAddr) -> T) {
        while self.clients.len() < self.limit
            && let Some(Ok((stream, peer))) = self.listener.as_ref().map(TcpListener::accept)
        {
            match self.add(make(stream, peer)) {
                // Its first bytes are often there already.
                Ok(token) => self.queue(token),
                Err(error) => warn!(%peer, %error, "{}: connection refused", self.program),
            }
            debug!(%peer, open = self.clients.len(), "{}: connection accepted", self.program);
        }
        self.ask_listener();
    }

    /// Adds a client.
    ///
    /// # Errors
    /// Those of [`Epoll::add`]; `NoSpace` also when no token is left. The client is dropped.
    pub(crate) fn add(&mut self, client: T) -> Result<u64, EpollError> {
        let entry = Entry { client, interest: self.interest, is_due: false };
        let token = self.clients.insert(entry).ok_or(EpollError::NoSpace)?;
        if let Some(entry) = self.clients.get_mut(token)
            && let Err(error) = self.epoll.add(entry.client.stream(), self.interest, token)
        {
            self.clients.remove(token);
            return Err(error);
        }
        Ok(token)
    }

    /// The client `token` has something to do.
    pub(crate) fn queue(&mut self, token: u64) {
        if let Some(entry) = self.clients.get_mut(token)
            && !entry.is_due
        {
            entry.is_due = true;
            self.due.push_back(token);
        }
    }

    /// The next client that has something to do. It may be gone.
    pub(crate) fn next(&mut self) -> Option<u64> {
        let token = self.due.pop_front()?;
        if let Some(entry) = self.clients.get_mut(token) {
            entry.is_due = false;
        }
        Some(token)
    }

    /// All clients with their tokens, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.clients.iter().map(|(token, entry)| (token, &entry.client))
    }

    /// Whether nobody has anything to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.due.is_empty()
    }

    /// How many clients there are.
    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    /// The client `token`, if it is still there.
    pub(crate) fn get_mut(&mut self, token: u64) -> Option<&mut T> {
        self.clients.get_mut(token).map(|entry| &mut entry.client)
    }

    /// The client `token` was driven: from now on it is watched for what it waits for, and closed if that is nothing.
    pub(crate) fn settle(&mut self, token: u64, step: Result<Step, SocketError>) {
        match step {
            Ok(Step::Read) => self.set_interest(token, Events::IN),
            Ok(Step::Write) => self.set_interest(token, Events::OUT),
            // Closing sends what was written, then the FIN.
            Ok(Step::End) => drop(self.remove(token)),
            Err(error) => {
                if let Some(client) = self.remove(token) {
                    debug!(peer = %client.stream().peer_addr(), %error, "{}: connection ended", self.program);
                }
            }
        }
    }

    fn set_interest(&mut self, token: u64, interest: Events) {
        let interest = interest | self.interest & Events::ET;
        if let Some(entry) = self.clients.get_mut(token)
            && entry.interest != interest
        {
            entry.interest = interest;
            if let Err(error) = self.epoll.modify(entry.client.stream(), interest, token) {
                warn!(peer = %entry.client.stream().peer_addr(), %error, "{}: connection closed", self.program);
                self.remove(token);
            }
        }
    }

    /// Takes the client `token` out, if it is still there. Dropping it sends what was written, then the FIN.
    pub(crate) fn remove(&mut self, token: u64) -> Option<T> {
        let entry = self.clients.remove(token)?;
        let peer = entry.client.stream().peer_addr();
        debug!(%peer, open = self.clients.len(), "{}: connection closed", self.program);
        self.ask_listener();
        Some(entry.client)
    }

    /// Asks about the listener while there is room, and not while there is none.
    fn ask_listener(&mut self) {
        let has_room = self.clients.len() < self.limit;
        if let Some(listener) = self.listener.as_ref().filter(|_| has_room != self.is_accepting) {
            let interest = if has_room { Events::IN } else { Events::empty() };
            match self.epoll.modify(listener, interest, LISTENER) {
                Ok(()) => self.is_accepting = has_room,
                Err(error) => warn!(%error, "{}: the listener does not answer", self.program),
            }
            if !has_room {
                debug!(open = self.clients.len(), "{}: as many connections as there may be", self.program);
            }
        }
    }
}
