//! Opening sockets from another thread.

use super::mailbox::Mailbox;
use crate::socket::{TcpListener, TcpStream, UdpSocket};
use ntytcp::stack::{SocketError, Stack};
use ntytcp::tcp::{ListenOptions, TcpSocketOptions};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A runtime as seen from other threads. Each call is carried to the shard and waits for its answer: a few microseconds,
/// or for ever if the runtime takes no turns. So **never call it on the runtime's own thread**; there the methods of
/// [`Runtime`](super::Runtime) itself do the same.
///
/// Every call fails with `BadSocket` once the runtime is gone.
#[derive(Clone, Debug)]
pub struct RuntimeHandle {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) stop: Arc<AtomicBool>,
}

impl RuntimeHandle {
    /// As [`Runtime::listen`](super::Runtime::listen).
    ///
    /// # Errors
    /// As there.
    pub fn listen(&self, local: SocketAddr, options: ListenOptions) -> Result<TcpListener, SocketError> {
        self.mailbox.ask(move |inner| inner.listen(local, options))
    }

    /// As [`Runtime::connect`](super::Runtime::connect).
    ///
    /// # Errors
    /// As there.
    pub fn connect(
        &self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        options: Option<TcpSocketOptions>,
    ) -> Result<TcpStream, SocketError> {
        self.mailbox.ask(move |inner| inner.connect(local, remote, options))
    }

    /// As [`Runtime::bind_udp`](super::Runtime::bind_udp).
    ///
    /// # Errors
    /// As there.
    pub fn bind_udp(&self, local: SocketAddr, peer: Option<SocketAddr>) -> Result<UdpSocket, SocketError> {
        self.mailbox.ask(move |inner| inner.bind_udp(local, peer))
    }

    /// As [`Runtime::connect_udp`](super::Runtime::connect_udp).
    ///
    /// # Errors
    /// As there.
    pub fn connect_udp(&self, socket: &mut UdpSocket, peer: Option<SocketAddr>) -> Result<(), SocketError> {
        let id = socket.id();
        let local = self.mailbox.ask(move |inner| inner.connect_udp(id, peer))?;
        socket.set_addresses(local, peer);
        Ok(())
    }

    /// Asks the stack anything: counters, the state of a connection.
    ///
    /// # Errors
    /// What `question` answers.
    pub fn with_stack<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Stack) -> Result<R, SocketError> + Send + 'static,
    ) -> Result<R, SocketError> {
        self.mailbox.ask(move |inner| question(inner.stack))
    }

    /// Ends [`Runtime::run`](super::Runtime::run) after its current turn.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.mailbox.post(Box::new(|_| {}));
    }
}
