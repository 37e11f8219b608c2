//! UDP sockets (RFC 768, RFC 1122 4.1): what they are, how datagrams find them, how theirs are sent.
//!
//! A socket is a pair of datagram queues between the protocol and the application (see [`super::records`]). The
//! application's halves stay in the socket until `udp_split` hands them out, possibly to another thread.
//!
//! ```text
//!   frame -> lookup: 4-tuple, address:port, *:port -> responder? -- rewritten in place --> same frame
//!                                                  \-> rx queue -> recv_from
//!   send_to -> tx queue -> dirty list of the interface -> egress -> Output::send_udp
//! ```
//!
//! The verbs of the application are in [`super::udp_sockets`].

use core::net::{IpAddr, SocketAddr};
use std::collections::{HashMap, VecDeque};

use super::cx::{Cx, EventQueue, Pending};
use super::demux::FlowKey;
use super::icmp::IcmpError;
use super::idle::IdleQueue;
use super::interface::InterfaceId;
use super::keyed::KeyedHash;
use super::output::{Blocked, DEFAULT_TTL, Output, PathCache};
use super::records::{RecordHeader, RecordReader, RecordWriter};
use super::slots::Slots;
use super::socket::{Readiness, SocketError, SocketId, SocketKind};
use crate::counters::DropReason;
use crate::device::TxQueue;
use crate::rng::Rng;
use crate::time::Instant;

/// The most payload that a UDP datagram over IPv4 can have: 65,535 bytes without the two headers.
pub const MAX_UDP_PAYLOAD: usize = 65_507;

/// How many datagrams one socket sends before the next one's turn.
const QUANTUM: usize = 64;

/// Answers requests in the frames that they came in: no queue, no copy, no allocation.
pub trait Responder {
    /// Turns the request that is the first `len` bytes of `buf` into its answer, in place, and says how long that is. `None`
    /// for no answer.
    ///
    /// `buf` reaches as far as an answer fits the frame and the MTU. An answer that needs more is reported by its length,
    /// with the request left as it was; the call is then repeated with a buffer of that size, and the answer is sent in
    /// fragments. That costs a copy: a protocol with a way to truncate (DNS) does better to use it.
    fn respond(&mut self, from: SocketAddr, buf: &mut [u8], len: usize) -> Option<usize>;
}

/// What happened at a socket that the application reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct UdpStats {
    /// Datagrams received, those answered by a [`Responder`] included.
    pub received: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams for which the receive queue had no room.
    pub dropped: u64,
}

/// One UDP socket, as the protocol sees it.
pub(super) struct UdpSocket {
    pub(super) id: SocketId,
    pub(super) local: SocketAddr,
    pub(super) remote: Option<SocketAddr>,
    pub(super) ttl: u8,
    pub(super) error: Option<SocketError>,
    pub(super) responder: Option<Box<dyn Responder + Send>>,
    pub(super) stats: UdpStats,
    /// The application's halves, until they are split off.
    pub(super) app: Option<(RecordWriter, RecordReader)>,
    rx: RecordWriter,
    tx: RecordReader,
    pending: Pending,
    /// The application was told that there is no room to send.
    pub(super) wants_room: bool,
    /// On the dirty list of an interface.
    dirty: bool,
    /// In the queue of sockets that hold pages, and how many datagrams had passed when that was last looked at.
    warm: bool,
    passed: u64,
    /// Way to the destination of the last datagram.
    path: PathCache,
    path_to: Option<IpAddr>,
}

impl UdpSocket {
    pub(super) fn raise(&mut self, events: &mut EventQueue, what: Readiness) {
        self.pending.raise(events, self.id, what);
    }

    /// Queues the socket for giving its pages back, unless it is.
    fn keep_warm(&mut self, now: Instant, idle: &mut IdleQueue) {
        if !self.warm {
            self.warm = true;
            self.passed = self.stats.received + self.stats.sent;
            idle.push(now, self.id.index, self.id.generation);
        }
    }

    /// Gives back the pages of queues that were read dry. `true` when this wants to be called once more.
    fn release_pages(&mut self) -> bool {
        self.tx.release();
        self.rx.release()
    }

    /// The flow of a datagram to `remote` from the address `local`.
    fn flow(&self, remote: SocketAddr, local: IpAddr) -> FlowKey {
        FlowKey { local, remote: remote.ip(), local_port: self.local.port(), remote_port: remote.port() }
    }
}

/// All UDP sockets of a shard.
pub(super) struct UdpTable {
    sockets: Slots<UdpSocket>,
    connected: HashMap<FlowKey, u32, KeyedHash>,
    /// By local address (which may be unspecified) and port.
    bound: HashMap<SocketAddr, u32, KeyedHash>,
    /// Per interface: sockets with something to send there, oldest first, each on one list.
    dirty: Vec<VecDeque<u32>>,
    /// Sockets that hold pages.
    idle: IdleQueue,
}

impl UdpTable {
    pub(super) fn new(rng: &mut Rng) -> Self {
        Self {
            sockets: Slots::default(),
            connected: HashMap::with_hasher(KeyedHash::new(rng)),
            bound: HashMap::with_hasher(KeyedHash::new(rng)),
            dirty: Vec::new(),
            idle: IdleQueue::default(),
        }
    }

    /// Makes room for one more interface.
    pub(super) fn add_interface(&mut self) {
        self.dirty.push(VecDeque::new());
    }

    /// How many sockets there are.
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether a socket could be bound to `local`: no other is, nor to the unspecified address of the same port, nor the other
    /// way round.
    pub(super) fn is_free(&self, local: SocketAddr) -> bool {
        let any = SocketAddr::new(unspecified(local.ip()), local.port());
        if local.ip().is_unspecified() {
            !self.bound.keys().any(|b| b.port() == local.port() && b.is_ipv4() == local.is_ipv4())
        } else {
            !self.bound.contains_key(&local) && !self.bound.contains_key(&any)
        }
    }

    /// Adds a socket with these queues, bound to `local`, which is free.
    pub(super) fn insert(
        &mut self,
        local: SocketAddr,
        rx: (RecordWriter, RecordReader),
        tx: (RecordWriter, RecordReader),
    ) -> SocketId {
        let mut name = SocketId { kind: SocketKind::Datagram, index: 0, generation: 0 };
        let (rx, app_rx) = rx;
        let (app_tx, tx) = tx;
        let index = self.sockets.insert_with(|index, generation| {
            name = SocketId { kind: SocketKind::Datagram, index, generation };
            UdpSocket {
                id: name,
                local,
                remote: None,
                ttl: DEFAULT_TTL,
                error: None,
                responder: None,
                stats: UdpStats::default(),
                app: Some((app_tx, app_rx)),
                rx,
                tx,
                pending: Pending::default(),
                wants_room: false,
                dirty: false,
                warm: false,
                passed: 0,
                path: PathCache::default(),
                path_to: None,
            }
        });
        self.bound.insert(local, index);
        name
    }

    /// Removes a socket; what it had queued is lost.
    pub(super) fn remove(&mut self, id: SocketId) -> Option<UdpSocket> {
        let socket = self.sockets.remove(id.index, id.generation)?;
        self.bound.remove(&socket.local);
        if let Some(remote) = socket.remote {
            self.connected.remove(&socket.flow(remote, socket.local.ip()));
        }
        if socket.dirty {
            self.dirty.iter_mut().for_each(|list| list.retain(|&index| index != id.index));
        }
        Some(socket)
    }

    pub(super) fn get(&self, id: SocketId) -> Option<&UdpSocket> {
        self.sockets.get(id.index, id.generation).filter(|_| id.kind == SocketKind::Datagram)
    }

    pub(super) fn get_mut(&mut self, id: SocketId) -> Option<&mut UdpSocket> {
        self.sockets.get_mut(id.index, id.generation).filter(|_| id.kind == SocketKind::Datagram)
    }

    /// Changes whom a socket is connected to, and its local address, which is free or its own.
    pub(super) fn set_peer(
        &mut self,
        id: SocketId,
        local: SocketAddr,
        remote: Option<SocketAddr>,
    ) -> Result<(), SocketError> {
        let socket = self.sockets.get_mut(id.index, id.generation).ok_or(SocketError::BadSocket)?;
        if let Some(old) = socket.remote {
            self.connected.remove(&socket.flow(old, socket.local.ip()));
        }
        self.bound.remove(&socket.local);
        self.bound.insert(local, id.index);
        (socket.local, socket.remote, socket.error) = (local, remote, None);
        if let Some(remote) = remote {
            self.connected.insert(socket.flow(remote, local.ip()), id.index);
        }
        Ok(())
    }

    /// The socket that a datagram of this flow is for: the one connected to the sender, else the one bound to the address,
    /// else the one bound to the port alone.
    pub(super) fn find(&self, key: &FlowKey) -> Option<u32> {
        if let Some(&index) = self.connected.get(key) {
            return Some(index);
        }
        let exact = SocketAddr::new(key.local, key.local_port);
        let any = SocketAddr::new(unspecified(key.local), key.local_port);
        let &index = self.bound.get(&exact).or_else(|| self.bound.get(&any))?;
        // A connected socket hears its peer only.
        self.sockets.at(index).filter(|socket| socket.remote.is_none()).map(|_| index)
    }

    /// The responder of a socket, with the counters that it moves.
    pub(super) fn responder(&mut self, index: u32) -> Option<(&mut (dyn Responder + Send), &mut UdpStats)> {
        let socket = self.sockets.at_mut(index)?;
        Some((socket.responder.as_deref_mut()?, &mut socket.stats))
    }

    /// Queues a datagram of the flow `key` at the socket `index`; an answer would come from `local`.
    pub(super) fn deliver(
        &mut self,
        cx: &mut Cx<'_>,
        index: u32,
        key: &FlowKey,
        local: IpAddr,
        payload: &[u8],
    ) -> Result<(), DropReason> {
        let socket = self.sockets.at_mut(index).ok_or(DropReason::NoSocket)?;
        let from = SocketAddr::new(key.remote, key.remote_port);
        if !socket.rx.push(from, local, payload) {
            socket.stats.dropped += 1;
            return Err(DropReason::SocketFull);
        }
        socket.stats.received += 1;
        cx.counters.udp_rx += 1;
        socket.keep_warm(cx.now, &mut self.idle);
        socket.raise(cx.events, Readiness::READABLE);
        Ok(())
    }

    /// A datagram that was dropped is tried again.
    pub(super) fn undo_drop(&mut self, index: u32) {
        if let Some(socket) = self.sockets.at_mut(index) {
            socket.stats.dropped -= 1;
        }
    }

    /// When [`UdpTable::on_timeout`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.idle.next()
    }

    /// Looks at the sockets that have had their pages for a while. One that holds datagrams which nobody takes leaves the pages
    /// to whoever takes the last.
    pub(super) fn on_timeout(&mut self, now: Instant) {
        while let Some((index, generation)) = self.idle.pop_due(now) {
            let Some(socket) = self.sockets.get_mut(index, generation) else { continue };
            let passed = socket.stats.received + socket.stats.sent;
            let active = core::mem::replace(&mut socket.passed, passed) != passed;
            socket.warm = active || socket.release_pages();
            if socket.warm {
                self.idle.push(now, index, generation);
            }
        }
    }

    /// The pool has run out of pages: takes back all that is not needed this instant.
    pub(super) fn reclaim_pages(&mut self) {
        let sockets = &mut self.sockets;
        self.idle.look_at_all(|index, generation| {
            sockets.get_mut(index, generation).is_some_and(|socket| {
                socket.warm = socket.release_pages();
                socket.warm
            })
        });
    }

    /// An error arrived for a datagram of this flow. Whether a socket was concerned.
    ///
    /// Only a connected socket is: one that serves many peers must not be told that one of them went away, as it could not
    /// tell which.
    pub(super) fn on_icmp(&mut self, cx: &mut Cx<'_>, key: &FlowKey, error: IcmpError) -> bool {
        let Some(&index) = self.connected.get(key) else { return false };
        let Some(socket) = self.sockets.at_mut(index) else { return false };
        socket.error = Some(error.socket_error());
        socket.raise(cx.events, Readiness::ERROR | Readiness::READABLE | Readiness::WRITABLE);
        true
    }

    /// One of our addresses was given up to another station: nothing comes to it any more, and nothing goes out.
    pub(super) fn on_address_lost(&mut self, cx: &mut Cx<'_>, ip: IpAddr) {
        let lost: Vec<u32> =
            self.bound.iter().filter(|(local, _)| local.ip() == ip).map(|(_, &i)| i).collect();
        for index in lost {
            if let Some(socket) = self.sockets.at_mut(index) {
                socket.error = Some(SocketError::AddressNotAvailable);
                socket.raise(cx.events, Readiness::ERROR | Readiness::READABLE | Readiness::WRITABLE);
            }
        }
    }

    /// What happened at a socket, which is thereby told.
    pub(super) fn take_ready(&mut self, id: SocketId) -> Readiness {
        self.get_mut(id).map_or(Readiness::empty(), |socket| socket.pending.take())
    }

    /// Notes that a socket has something to send over `interface`.
    pub(super) fn mark_dirty(&mut self, id: SocketId, interface: InterfaceId) {
        if let (Some(socket), Some(list)) =
            (self.sockets.get_mut(id.index, id.generation), self.dirty.get_mut(usize::from(interface.0)))
            && !socket.dirty
        {
            socket.dirty = true;
            list.push_back(id.index);
        }
    }

    /// Whether a socket has something to send over `interface`.
    pub(super) fn has_pending(&self, interface: InterfaceId) -> bool {
        self.dirty.get(usize::from(interface.0)).is_some_and(|list| !list.is_empty())
    }

    /// Sends what sockets owe over the interface of `out`, a number of datagrams each in turn. Whether the ring became full.
    pub(super) fn egress<Q: TxQueue + ?Sized>(&mut self, out: &mut Output<'_, Q>) -> bool {
        let here = usize::from(out.interface().0);
        // A datagram that nobody routes here moves its socket to another list; at most every socket once per call.
        while let Some(index) = self.dirty.get_mut(here).and_then(VecDeque::pop_front) {
            let Some(socket) = self.sockets.at_mut(index) else { continue };
            socket.keep_warm(out.cx.now, &mut self.idle);
            let next = match socket.send_some(out) {
                Drained::Empty => {
                    socket.dirty = false;
                    continue;
                }
                Drained::Quantum => (here, false),
                Drained::RingFull => {
                    // First again next time, so that what it sends stays in order with what others do.
                    if let Some(list) = self.dirty.get_mut(here) {
                        list.push_front(index);
                    }
                    return true;
                }
                Drained::Elsewhere(interface) => (usize::from(interface.0), true),
            };
            match self.dirty.get_mut(next.0) {
                Some(list) => list.push_back(index),
                None => socket.dirty = false,
            }
        }
        false
    }
}

/// Why a socket stopped sending.
enum Drained {
    Empty,
    Quantum,
    RingFull,
    Elsewhere(InterfaceId),
}

impl UdpSocket {
    fn send_some<Q: TxQueue + ?Sized>(&mut self, out: &mut Output<'_, Q>) -> Drained {
        for _ in 0..QUANTUM {
            let Some(head) = self.tx.head() else { return Drained::Empty };
            match self.send_head(out, &head) {
                Ok(()) => self.stats.sent += 1,
                Err(Blocked::RingFull) => return Drained::RingFull,
                Err(Blocked::OtherInterface(interface)) => return Drained::Elsewhere(interface),
                // Only `take_over` deals with an unresolved next hop, and it keeps the datagram.
                Err(Blocked::Unresolved { .. }) => out.cx.counters.drop(DropReason::NeighborFailed),
                Err(Blocked::Unreachable(error)) => {
                    out.cx.counters.drop(match error {
                        SocketError::HostUnreachable => DropReason::NeighborFailed,
                        SocketError::MessageTooLong => DropReason::TooBig,
                        _ => DropReason::NoRoute,
                    });
                    if self.remote.is_some() {
                        self.error = Some(error);
                        self.raise(out.cx.events, Readiness::ERROR);
                    }
                }
            }
            self.tx.consume(&head);
            // An application on another thread cannot leave word that it wants room.
            if core::mem::take(&mut self.wants_room) || self.app.is_none() {
                self.raise(out.cx.events, Readiness::WRITABLE);
            }
        }
        if self.tx.is_empty() { Drained::Empty } else { Drained::Quantum }
    }

    fn send_head<Q: TxQueue + ?Sized>(
        &mut self,
        out: &mut Output<'_, Q>,
        head: &RecordHeader,
    ) -> Result<(), Blocked> {
        let remote = head.remote.ip();
        if self.path_to != Some(remote) {
            (self.path_to, self.path) = (Some(remote), PathCache::default());
        }
        let local = match (head.local, self.local.ip()) {
            (chosen, _) if !chosen.is_unspecified() => chosen,
            (_, bound) if !bound.is_unspecified() => bound,
            _ => out.source_for(remote)?,
        };
        if out.must_not_use(local) {
            return Err(Blocked::Unreachable(SocketError::AddressNotAvailable));
        }
        let key = self.flow(head.remote, local);
        out.send_udp(&key, &mut self.path, self.ttl, head, &mut self.tx)
    }
}

/// The unspecified address of the same family.
pub(super) const fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(core::net::Ipv6Addr::UNSPECIFIED),
    }
}
