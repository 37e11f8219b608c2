//! A UDP socket.

use super::shared::Shared;
use crate::events::Events;
use crate::source::{AsPollable, Pollable};
use ntytcp::stack::{Received, SocketError, SocketId, UdpHalf};
use std::net::SocketAddr;
use std::sync::Arc;

/// A UDP socket that never blocks. Datagrams lie in two bounded queues between it and its shard.
///
/// Dropping it closes the socket; datagrams that were not yet sent are lost.
#[derive(Debug)]
pub struct UdpSocket {
    shared: Arc<Shared>,
    half: UdpHalf,
    local: SocketAddr,
    peer: Option<SocketAddr>,
}

impl UdpSocket {
    pub(crate) fn new(
        shared: Arc<Shared>,
        half: UdpHalf,
        local: SocketAddr,
        peer: Option<SocketAddr>,
    ) -> Self {
        Self { shared, half, local, peer }
    }

    /// Queues a datagram to `to`.
    ///
    /// # Errors
    /// `WouldBlock` when the queue is full, `MessageTooLong`, `Invalid` for port 0, `FamilyNotSupported`, or what an ICMP
    /// message reported since the last call.
    pub fn send_to(&mut self, payload: &[u8], to: SocketAddr) -> Result<(), SocketError> {
        if let Some(error) = self.shared.take_error() {
            return Err(error);
        }
        let sent = self.half.send_to(payload, to);
        if sent == Err(SocketError::WouldBlock) {
            let half = &self.half;
            self.shared.lower(Events::OUT, || half.can_send(payload.len()));
            if half.has_room(payload.len()) && !self.shared.conditions().contains(Events::OUT) {
                self.shared.starve(payload.len().max(1));
            }
        } else if sent.is_ok() {
            self.shared.touch();
        }
        sent
    }

    /// Queues a datagram to the peer that the socket was connected to.
    ///
    /// # Errors
    /// `DestinationRequired` without one; otherwise as [`UdpSocket::send_to`].
    pub fn send(&mut self, payload: &[u8]) -> Result<(), SocketError> {
        self.send_to(payload, self.peer.ok_or(SocketError::DestinationRequired)?)
    }

    /// Takes the datagram that has waited longest. What does not fit into `buf` is lost.
    ///
    /// # Errors
    /// `WouldBlock` when there is none, or what an ICMP message reported since the last call.
    pub fn recv_from(&mut self, buf: &mut [u8]) -> Result<Received, SocketError> {
        if let Some(error) = self.shared.take_error() {
            return Err(error);
        }
        let received = self.half.recv_from(buf);
        if !self.half.can_recv() {
            let half = &self.half;
            self.shared.lower(Events::IN, || half.can_recv());
        }
        received
    }

    /// Takes the pending error (SO_ERROR).
    pub fn take_error(&self) -> Option<SocketError> {
        self.shared.take_error()
    }

    /// The address that it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The peer that it is connected to, if it is.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The stack's name for the socket.
    pub fn id(&self) -> SocketId {
        self.shared.id
    }

    pub(crate) fn set_addresses(&mut self, local: SocketAddr, peer: Option<SocketAddr>) {
        (self.local, self.peer) = (local, peer);
    }
}

impl AsPollable for UdpSocket {
    fn as_pollable(&self) -> Arc<dyn Pollable> {
        self.shared.clone()
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.shared.abandon(0);
    }
}
