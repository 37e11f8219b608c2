//! A TCP listener.

use super::shared::Shared;
use super::stream::TcpStream;
use crate::events::Events;
use crate::source::{AsPollable, Pollable};
use crossbeam_queue::ArrayQueue;
use ntytcp::stack::{SocketError, SocketId};
use std::net::SocketAddr;
use std::sync::Arc;

/// How many connections the shard puts ready for `accept`, beyond the backlog; a turn hands out no more than these.
pub(crate) const READY: usize = 64;

/// A listening TCP socket. [`Events::IN`] says that [`TcpListener::accept`] has a connection.
///
/// Dropping it closes the port; connections that nobody accepted get a RST.
#[derive(Debug)]
pub struct TcpListener {
    shared: Arc<Shared>,
    ready: Arc<ArrayQueue<TcpStream>>,
    local: SocketAddr,
}

impl TcpListener {
    pub(crate) fn new(shared: Arc<Shared>, ready: Arc<ArrayQueue<TcpStream>>, local: SocketAddr) -> Self {
        Self { shared, ready, local }
    }

    /// Takes the oldest established connection.
    ///
    /// # Errors
    /// `WouldBlock` when there is none now.
    pub fn accept(&self) -> Result<(TcpStream, SocketAddr), SocketError> {
        let next = self.ready.pop();
        if self.ready.is_empty() {
            let ready = &self.ready;
            self.shared.lower(Events::IN, || !ready.is_empty());
        }
        let stream = next.ok_or(SocketError::WouldBlock)?;
        // There is room for one more.
        self.shared.touch();
        let peer = stream.peer_addr();
        Ok((stream, peer))
    }

    /// The address and port that it listens on; the unspecified address stands for all of the stack's.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The stack's name for the listener.
    pub fn id(&self) -> SocketId {
        self.shared.id
    }
}

impl AsPollable for TcpListener {
    fn as_pollable(&self) -> Arc<dyn Pollable> {
        self.shared.clone()
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        reset(&self.ready);
        self.shared.abandon(0);
    }
}

/// Ends connections that nobody will accept any more. Closing them would tell their peers that what they sent was read.
pub(crate) fn reset(ready: &ArrayQueue<TcpStream>) {
    while let Some(stream) = ready.pop() {
        stream.abort();
    }
}
