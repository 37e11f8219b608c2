//! A TCP connection.

use super::shared::{ABORTED, CONNECTED, READ_CLOSED, Shared, WRITE_CLOSED};
use crate::errno::io_error;
use crate::events::Events;
use crate::source::{AsPollable, Pollable};
use ntytcp::fifo::{Consumer, Producer};
use ntytcp::stack::{SocketError, SocketId, Stack};
use ntytcp::tcp::{KeepAlive, TcpSocketOptions};
use ntytcp::time::Instant;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How much the application reads before the shard is told although more is there. Once everything was read it is told
/// anyway, so a receive buffer below this size does not stall.
const TELL_AFTER: usize = 16 << 10;

/// A TCP connection that never blocks.
///
/// Reads and writes copy from and to the connection's buffers at once; the segments move at the shard's next turn.
/// `WouldBlock` means: wait for [`Events::IN`] or [`Events::OUT`]. An error of the connection is reported once, by
/// whichever of read, write and [`TcpStream::take_error`] comes first; after it reads find the end of the stream and
/// writes fail with `BrokenPipe`.
///
/// Dropping it closes the connection. What was written is still delivered; what was not read makes it a RST (RFC 1122
/// 4.2.2.13).
#[derive(Debug)]
pub struct TcpStream {
    shared: Arc<Shared>,
    tx: Producer,
    rx: Consumer,
    local: SocketAddr,
    peer: SocketAddr,
    /// Bytes read that the shard has not been told of.
    untold: usize,
}

impl TcpStream {
    pub(crate) fn new(
        shared: Arc<Shared>,
        (tx, rx): (Producer, Consumer),
        (local, peer): (SocketAddr, SocketAddr),
    ) -> Self {
        Self { shared, tx, rx, local, peer, untold: 0 }
    }

    /// Reads what is there, at most `buf.len()` bytes; 0 is the end of the stream (or an empty `buf`).
    ///
    /// # Errors
    /// `WouldBlock`, or once why the connection ended.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize, SocketError> {
        if self.shared.has_mark(READ_CLOSED) {
            self.rx.discard_all();
            self.shared.touch();
            return Ok(0);
        }
        let read = self.rx.read(buf);
        if read == 0 && !buf.is_empty() {
            return self.read_nothing();
        }
        self.untold += read;
        let drained = self.rx.is_empty();
        if drained {
            self.lower_in();
        }
        if drained || self.untold >= TELL_AFTER {
            self.untold = 0;
            self.shared.touch();
        }
        Ok(read)
    }

    /// Why there is nothing to read.
    fn read_nothing(&mut self) -> Result<usize, SocketError> {
        // The end counts once the shard has announced it: by then it has also said whether it was a good one.
        let ended = self.shared.conditions().contains(Events::RDHUP);
        if let Some(error) = self.shared.take_error() {
            return Err(error);
        }
        if ended && self.rx.is_empty() {
            return Ok(0);
        }
        self.lower_in();
        Err(SocketError::WouldBlock)
    }

    fn lower_in(&self) {
        let (shared, rx) = (&self.shared, &self.rx);
        if shared.conditions().contains(Events::RDHUP) {
            return;
        }
        shared.lower(Events::IN, || !rx.is_empty() || shared.conditions().contains(Events::RDHUP));
    }

    /// Bytes that can be read now.
    pub fn readable(&self) -> usize {
        self.rx.len()
    }

    /// Writes as many of the bytes as there is room for.
    ///
    /// # Errors
    /// `WouldBlock` without room or before the connection is established, once why the connection ended, `BrokenPipe` after that
    /// and after [`TcpStream::shutdown`].
    pub fn write(&mut self, buf: &[u8]) -> Result<usize, SocketError> {
        if let Some(error) = self.shared.take_error() {
            return Err(error);
        }
        if self.shared.has_mark(WRITE_CLOSED) || self.shared.conditions().contains(Events::HUP) {
            return Err(SocketError::BrokenPipe);
        }
        if !self.shared.has_mark(CONNECTED) {
            return Err(SocketError::WouldBlock);
        }
        let written = self.tx.write(buf);
        if written < buf.len() {
            let tx = &self.tx;
            self.shared.lower(Events::OUT, || tx.can_write(1));
            if tx.free() > 0 && !self.shared.conditions().contains(Events::OUT) {
                self.shared.starve(1);
            }
        }
        if written > 0 {
            self.shared.touch();
        } else if !buf.is_empty() {
            return Err(SocketError::WouldBlock);
        }
        Ok(written)
    }

    /// Bytes that would be taken by a write now, as far as the stack has pages for them.
    pub fn writable(&self) -> usize {
        let open = self.shared.has_mark(CONNECTED) && !self.shared.has_mark(WRITE_CLOSED);
        if open && self.tx.can_write(1) { self.tx.free() } else { 0 }
    }

    /// Ends one direction or both. The peer sees the end of the stream behind what was written. It does not see that we
    /// read no more: from then on reads find the end of the stream and discard what arrives.
    ///
    /// # Errors
    /// `NotConnected` before the connection is established and after it ended.
    pub fn shutdown(&mut self, how: Shutdown) -> Result<(), SocketError> {
        if !self.shared.has_mark(CONNECTED) || self.shared.conditions().contains(Events::HUP) {
            return Err(SocketError::NotConnected);
        }
        if how != Shutdown::Write {
            self.rx.discard_all();
            self.shared.set_mark(READ_CLOSED);
        }
        if how != Shutdown::Read {
            self.tx.close();
            self.shared.set_mark(WRITE_CLOSED);
        }
        self.shared.touch();
        self.shared.source().wake(Events::empty());
        Ok(())
    }

    /// Takes the pending error (SO_ERROR); tells how a connection attempt went.
    pub fn take_error(&self) -> Option<SocketError> {
        self.shared.take_error()
    }

    /// Whether the handshake has completed, at some time.
    pub fn is_established(&self) -> bool {
        self.shared.has_mark(CONNECTED)
    }

    /// Our address.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The peer's address.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// The stack's name for the connection.
    pub fn id(&self) -> SocketId {
        self.shared.id
    }

    /// Sends small segments at once (TCP_NODELAY), from the shard's next turn on.
    pub fn set_nodelay(&self, nodelay: bool) {
        self.option(move |stack, now, id| stack.tcp_set_nodelay(now, id, nodelay));
    }

    /// Probes the peer when it is silent (SO_KEEPALIVE), from the shard's next turn on.
    ///
    /// # Errors
    /// `Invalid` for times of zero.
    pub fn set_keepalive(&self, keepalive: Option<KeepAlive>) -> Result<(), SocketError> {
        check(TcpSocketOptions { keepalive, ..TcpSocketOptions::default() })?;
        self.option(move |stack, now, id| stack.tcp_set_keepalive(now, id, keepalive));
        Ok(())
    }

    /// Gives up when data stays unacknowledged this long (TCP_USER_TIMEOUT), from the shard's next turn on.
    ///
    /// # Errors
    /// `Invalid` for zero.
    pub fn set_user_timeout(&self, limit: Option<Duration>) -> Result<(), SocketError> {
        check(TcpSocketOptions { user_timeout: limit, ..TcpSocketOptions::default() })?;
        self.option(move |stack, _, id| stack.tcp_set_user_timeout(id, limit));
        Ok(())
    }

    /// The TTL of what is sent (IP_TTL), from the shard's next turn on.
    ///
    /// # Errors
    /// `Invalid` for 0.
    pub fn set_ttl(&self, ttl: u8) -> Result<(), SocketError> {
        check(TcpSocketOptions { ttl, ..TcpSocketOptions::default() })?;
        self.option(move |stack, _, id| stack.tcp_set_ttl(id, ttl));
        Ok(())
    }

    /// Ends the connection with a RST; what was not delivered is lost.
    pub fn abort(self) {
        self.shared.set_mark(ABORTED);
    }

    fn option(
        &self,
        set: impl FnOnce(&mut Stack, Instant, SocketId) -> Result<(), SocketError> + Send + 'static,
    ) {
        let id = self.shared.id;
        self.shared.mailbox().post(Box::new(move |inner| {
            // The only error is a connection that has ended meanwhile, and that is reported by itself.
            let _ = set(inner.stack, inner.now, id);
        }));
    }
}

/// Whether the shard will take these options.
fn check(options: TcpSocketOptions) -> Result<(), SocketError> {
    options.check().map_err(|_| SocketError::Invalid)
}

impl io::Read for TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Self::read(self, buf).map_err(io_error)
    }
}

impl io::Write for TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Self::write(self, buf).map_err(io_error)
    }

    /// Does nothing: what was written needs no flush to be sent.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsPollable for TcpStream {
    fn as_pollable(&self) -> Arc<dyn Pollable> {
        self.shared.clone()
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        // Now, while it can still be seen: the shard may find the FIFO's half gone before it finds the mark.
        let unread = if self.rx.is_empty() { 0 } else { ABORTED };
        if unread == 0 && !self.shared.has_mark(ABORTED) {
            self.tx.close();
        }
        self.shared.abandon(unread);
    }
}
