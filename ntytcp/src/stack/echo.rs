//! Sockets for ICMP echo: what a ping program needs (RFC 792, RFC 1122 3.2.2.6).
//!
//! Each socket has an identifier of its own; a reply, or an error that quotes a request, finds its socket by it. What arrived is
//! kept in a bounded queue, without the data: whoever sent it knows it, and the stack has compared the checksum.

use core::net::IpAddr;
use std::collections::{HashMap, VecDeque};

use super::Stack;
use super::cx::{Cx, Pending};
use super::icmp::{self, IcmpError};
use super::outbox::Datagram;
use super::output::DEFAULT_TTL;
use super::slots::Slots;
use super::socket::{Readiness, SocketError, SocketId, SocketKind};
use crate::counters::DropReason;
use crate::time::Instant;
use crate::wire::{Icmpv4Message, Ipv4Header};

/// The most data that an echo request over IPv4 can carry.
pub const MAX_ECHO_PAYLOAD: usize = u16::MAX as usize - Ipv4Header::LEN - Icmpv4Message::HEADER_LEN;

/// How many arrivals a socket keeps.
const QUEUE: usize = 256;

/// What came back for an echo request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct EchoArrival {
    /// When it arrived.
    pub at: Instant,
    /// Who sent it: the host that was asked, or a router on the way that reports an error.
    pub from: IpAddr,
    /// The number of the request.
    pub seq: u16,
    /// What it says.
    pub outcome: EchoOutcome,
}

/// How an echo request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum EchoOutcome {
    /// It was answered.
    Reply {
        /// TTL that the reply arrived with.
        ttl: u8,
        /// Bytes of data that came back.
        payload_len: usize,
    },
    /// The TTL of the request ran out at a router.
    TimeExceeded,
    /// It could not be delivered.
    Failed(SocketError),
}

struct EchoSocket {
    id: SocketId,
    ident: u16,
    ttl: u8,
    queue: VecDeque<EchoArrival>,
    pending: Pending,
}

/// All echo sockets of a shard.
#[derive(Default)]
pub(super) struct EchoTable {
    sockets: Slots<EchoSocket>,
    by_ident: HashMap<u16, u32>,
}

impl EchoTable {
    fn get_mut(&mut self, id: SocketId) -> Result<&mut EchoSocket, SocketError> {
        let socket = self.sockets.get_mut(id.index, id.generation);
        socket.filter(|_| id.kind == SocketKind::Echo).ok_or(SocketError::BadSocket)
    }

    /// What happened at a socket, which is thereby told.
    pub(super) fn take_ready(&mut self, id: SocketId) -> Readiness {
        self.get_mut(id).map_or(Readiness::empty(), |socket| socket.pending.take())
    }

    /// A reply arrived.
    pub(super) fn on_reply(
        &mut self,
        cx: &mut Cx<'_>,
        from: IpAddr,
        ttl: u8,
        (ident, seq): (u16, u16),
        payload_len: usize,
    ) -> Result<(), DropReason> {
        self.arrive(cx, ident, from, seq, EchoOutcome::Reply { ttl, payload_len })
    }

    /// An error arrived from `from` that quotes a request.
    pub(super) fn on_error(
        &mut self,
        cx: &mut Cx<'_>,
        from: IpAddr,
        (ident, seq): (u16, u16),
        error: IcmpError,
    ) -> Result<(), DropReason> {
        let outcome = match error {
            IcmpError::TimeExceeded => EchoOutcome::TimeExceeded,
            other => EchoOutcome::Failed(other.socket_error()),
        };
        self.arrive(cx, ident, from, seq, outcome)
    }

    fn arrive(
        &mut self,
        cx: &mut Cx<'_>,
        ident: u16,
        from: IpAddr,
        seq: u16,
        outcome: EchoOutcome,
    ) -> Result<(), DropReason> {
        let index = self.by_ident.get(&ident).ok_or(DropReason::IcmpIgnored)?;
        let socket = self.sockets.at_mut(*index).ok_or(DropReason::IcmpIgnored)?;
        if socket.queue.len() >= QUEUE {
            return Err(DropReason::SocketFull);
        }
        socket.queue.push_back(EchoArrival { at: cx.now, from, seq, outcome });
        socket.pending.raise(cx.events, socket.id, Readiness::READABLE);
        Ok(())
    }
}

impl Stack {
    /// Opens a socket for echo requests, with an identifier that no other has.
    ///
    /// # Errors
    /// [`SocketError::NoBufferSpace`] when there are 1,024 of them.
    pub fn echo_open(&mut self) -> Result<SocketId, SocketError> {
        if self.echo.sockets.len() >= 1_024 {
            return Err(SocketError::NoBufferSpace);
        }
        let mut ident = self.rng.u32() as u16;
        while self.echo.by_ident.contains_key(&ident) {
            ident = ident.wrapping_add(1);
        }
        let mut name = SocketId { kind: SocketKind::Echo, index: 0, generation: 0 };
        let index = self.echo.sockets.insert_with(|index, generation| {
            name = SocketId { index, generation, ..name };
            EchoSocket {
                id: name,
                ident,
                ttl: DEFAULT_TTL,
                queue: VecDeque::new(),
                pending: Pending::default(),
            }
        });
        self.echo.by_ident.insert(ident, index);
        Ok(name)
    }

    /// Sends an echo request with the number `seq` and `payload`, in fragments where it exceeds the MTU.
    ///
    /// # Errors
    /// [`SocketError::BadSocket`], [`SocketError::MessageTooLong`] above [`MAX_ECHO_PAYLOAD`] bytes,
    /// [`SocketError::NetworkUnreachable`] without a route, [`SocketError::WouldBlock`] when too much waits for room in the
    /// ring, [`SocketError::FamilyNotSupported`] for IPv6.
    pub fn echo_send(
        &mut self,
        id: SocketId,
        dst: IpAddr,
        seq: u16,
        payload: &[u8],
    ) -> Result<(), SocketError> {
        let socket = self.echo.get_mut(id)?;
        let (ident, ttl) = (socket.ident, socket.ttl);
        if payload.len() > MAX_ECHO_PAYLOAD {
            return Err(SocketError::MessageTooLong);
        }
        let (source, interface) = self.select_source(dst)?;
        let (IpAddr::V4(src), IpAddr::V4(dst4)) = (source, dst) else {
            return Err(SocketError::FamilyNotSupported);
        };
        let message = Icmpv4Message::EchoRequest { ident, seq, payload };
        let ip_ident = self.interfaces.get_mut(usize::from(interface.0)).map(|i| i.next_ident(dst));
        let packet = icmp::packet(src, dst4, &message, ttl, ip_ident).ok_or(SocketError::MessageTooLong)?;
        self.send_packet(Datagram::new(packet))
    }

    /// What came back and was not looked at yet, oldest first.
    ///
    /// # Errors
    /// [`SocketError::BadSocket`], [`SocketError::WouldBlock`] when nothing did.
    pub fn echo_recv(&mut self, id: SocketId) -> Result<EchoArrival, SocketError> {
        self.echo.get_mut(id)?.queue.pop_front().ok_or(SocketError::WouldBlock)
    }

    /// Sets the TTL of the requests that follow. Default 64.
    ///
    /// # Errors
    /// [`SocketError::BadSocket`], [`SocketError::Invalid`] for 0.
    pub fn echo_set_ttl(&mut self, id: SocketId, ttl: u8) -> Result<(), SocketError> {
        let socket = self.echo.get_mut(id)?;
        if ttl == 0 {
            return Err(SocketError::Invalid);
        }
        socket.ttl = ttl;
        Ok(())
    }

    /// Closes a socket.
    ///
    /// # Errors
    /// [`SocketError::BadSocket`].
    pub fn echo_close(&mut self, id: SocketId) -> Result<(), SocketError> {
        let ident = self.echo.get_mut(id)?.ident;
        self.echo.by_ident.remove(&ident);
        self.echo.sockets.remove(id.index, id.generation).map(drop).ok_or(SocketError::BadSocket)
    }
}
