//! A shard with its sockets: who turns it, and when it sleeps.

mod handle;
mod inner;
mod mailbox;

pub use handle::RuntimeHandle;
pub(crate) use mailbox::Mailbox;

use crate::epoll::Epoll;
use crate::events::{EpollError, Event};
use crate::set::os_error;
use crate::socket::{TcpListener, TcpStream, UdpSocket};
use inner::{Inner, Table};
use ntytcp::device::DeviceError;
use ntytcp::shard::{MonotonicClock, Shard, Turn};
use ntytcp::stack::{SocketError, Stack};
use ntytcp::tcp::{ListenOptions, TcpSocketOptions};
use ntytcp::time::Clock;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Why a runtime cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// A device is gone.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Waiting failed.
    #[error(transparent)]
    Epoll(#[from] EpollError),
    /// The system refused the descriptors of a sleep.
    #[error("cannot sleep on the devices: {0}")]
    Sleep(std::io::Error),
}

/// One shard and the sockets on it.
///
/// Run to completion: the application owns the runtime, waits through [`Runtime::wait`] and uses its sockets on the same
/// thread. Threaded: the runtime has a thread of its own in [`Runtime::run`], and applications elsewhere open sockets through
/// a [`RuntimeHandle`] and wait on an [`Epoll`]. The sockets are the same in both.
///
/// Dropping it ends all its connections without a word to the peers; sockets still held report `ConnectionAborted`.
pub struct Runtime<C: Clock = MonotonicClock> {
    shard: Shard<C>,
    table: Table,
    mailbox: Arc<Mailbox>,
    stop: Arc<AtomicBool>,
}

impl<C: Clock> Runtime<C> {
    /// A runtime over `shard`, whose [`IdlePolicy`](ntytcp::shard::IdlePolicy) says when it sleeps. Takes one descriptor (the
    /// doorbell).
    ///
    /// # Errors
    /// [`EpollError::Os`] when the process has no descriptor left.
    pub fn new(shard: Shard<C>) -> Result<Self, EpollError> {
        let mailbox = Arc::new(Mailbox::new().map_err(os_error)?);
        Ok(Self { shard, table: Table::new(mailbox.clone()), mailbox, stop: Arc::default() })
    }

    fn inner(&mut self) -> Inner<'_> {
        let now = self.shard.now();
        Inner { stack: self.shard.stack_mut(), now, table: &mut self.table }
    }

    /// The way in for other threads.
    pub fn handle(&self) -> RuntimeHandle {
        RuntimeHandle { mailbox: self.mailbox.clone(), stop: self.stop.clone() }
    }

    /// One round: takes what applications want, moves a burst of frames each way, runs the timers that are due, and tells
    /// the epolls. Never blocks.
    ///
    /// # Errors
    /// [`RuntimeError::Device`] when a device is gone for good.
    pub fn turn(&mut self) -> Result<Turn, RuntimeError> {
        self.inner().take_mail();
        let turn = self.shard.turn();
        self.inner().pass_events();
        Ok(turn?)
    }

    /// Waits on `epoll` as [`Epoll::wait_for`] does, and takes turns meanwhile: the event loop of an application that shares
    /// the shard's thread. At least one turn is taken.
    ///
    /// # Errors
    /// [`RuntimeError::Device`] when a device is gone, [`RuntimeError::Epoll`] as [`Epoll::wait_for`].
    pub fn wait(
        &mut self,
        epoll: &Epoll,
        events: &mut [Event],
        timeout: Option<Duration>,
    ) -> Result<usize, RuntimeError> {
        // The time is the shard's, as each turn reads it.
        let mut start = None;
        loop {
            self.turn()?;
            let now = self.shard.now();
            let start = *start.get_or_insert(now);
            let left = timeout.map(|limit| limit.saturating_sub(now.since(start)));
            let is_last = left == Some(Duration::ZERO);
            let n = if is_last { epoll.poll(events)? } else { epoll.poll_often(events)? };
            if n > 0 || is_last {
                return Ok(n);
            }
            self.rest(Some(epoll), left)?;
        }
    }

    /// Takes turns until [`RuntimeHandle::stop`]: the life of a shard's own thread.
    ///
    /// # Errors
    /// [`RuntimeError::Device`] when a device is gone for good.
    pub fn run(&mut self) -> Result<(), RuntimeError> {
        while !self.stop.load(Ordering::Acquire) {
            self.turn()?;
            match self.rest(None, None) {
                Err(RuntimeError::Epoll(EpollError::Interrupted)) => {}
                rested => rested?,
            }
        }
        Ok(())
    }

    /// Until a frame, a timer, a command or an event of `epoll`, at most `limit`: spins or sleeps as the shard sees fit.
    fn rest(&mut self, epoll: Option<&Epoll>, limit: Option<Duration>) -> Result<(), RuntimeError> {
        self.mailbox.bell.announce();
        epoll.inspect(|e| e.bell().announce());
        let rested = if self.mailbox.has_work() || epoll.is_some_and(Epoll::has_work) {
            Ok(())
        } else {
            let mailbox = self.mailbox.bell.as_raw_fd();
            match epoll.map(Epoll::descriptors) {
                None => self.shard.wait(limit, &[mailbox]),
                Some((bell, None)) => self.shard.wait(limit, &[mailbox, bell]),
                Some((bell, Some(kernel))) => self.shard.wait(limit, &[mailbox, bell, kernel]),
            }
        };
        epoll.inspect(|e| e.bell().leave());
        self.mailbox.bell.leave();
        rested.map_err(|error| match error.kind() {
            std::io::ErrorKind::Interrupted => EpollError::Interrupted.into(),
            _ => RuntimeError::Sleep(error),
        })
    }

    /// Listens for connections to `local`; the unspecified address stands for all of the stack's.
    ///
    /// Up to 64 connections more than the backlog may be established, ready for the next `accept`.
    ///
    /// # Errors
    /// `AddressInUse`, `AddressNotAvailable`, `FamilyNotSupported`, `NoBufferSpace`.
    pub fn listen(&mut self, local: SocketAddr, options: ListenOptions) -> Result<TcpListener, SocketError> {
        self.inner().listen(local, options)
    }

    /// Begins to connect to `remote`, from `local` if given. The stream is writable once established; why it failed is its
    /// error.
    ///
    /// # Errors
    /// What is known at once: `NetworkUnreachable`, `AddressNotAvailable`, `AddressInUse`, `FamilyNotSupported`, `Invalid` for port 0,
    /// `NoBufferSpace`.
    pub fn connect(
        &mut self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        options: Option<TcpSocketOptions>,
    ) -> Result<TcpStream, SocketError> {
        self.inner().connect(local, remote, options)
    }

    /// Opens a UDP socket at `local` (port 0: any), connected to `peer` if given.
    ///
    /// # Errors
    /// `AddressInUse`, `AddressNotAvailable`, `FamilyNotSupported`, `NoBufferSpace`; `NetworkUnreachable` and `Invalid` for the peer.
    pub fn bind_udp(
        &mut self,
        local: SocketAddr,
        peer: Option<SocketAddr>,
    ) -> Result<UdpSocket, SocketError> {
        self.inner().bind_udp(local, peer)
    }

    /// Connects a UDP socket of this runtime to another peer, or to none.
    ///
    /// # Errors
    /// `NetworkUnreachable`, `Invalid` for port 0, `FamilyNotSupported`, `BadSocket`.
    pub fn connect_udp(
        &mut self,
        socket: &mut UdpSocket,
        peer: Option<SocketAddr>,
    ) -> Result<(), SocketError> {
        let local = self.inner().connect_udp(socket.id(), peer)?;
        socket.set_addresses(local, peer);
        Ok(())
    }

    /// The stack, for settings, counters and questions.
    pub fn stack(&mut self) -> &mut Stack {
        self.shard.stack_mut()
    }

    /// The shard, for its devices and its clock.
    pub fn shard(&mut self) -> &mut Shard<C> {
        &mut self.shard
    }
}

impl<C: Clock> std::fmt::Debug for Runtime<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("shard", &self.shard).finish_non_exhaustive()
    }
}
