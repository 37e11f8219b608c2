//! UDP sockets (RFC 768, RFC 1122 4.1): what they are, how datagrams find them, how theirs are sent.
//!
//! A socket is a pair of datagram queues between the protocol and the application (see [`super::records`]). The
//! application's halves stay in the socket until `udp_split` hands them out, possibly to another thread.
//!
//! ```text
//!   frame -> lookup by local port -> responder? -- rewritten in place --> same frame
//!                                 \-> rx queue -> recv_from
//!   send_to -> tx queue -> dirty list of the interface -> egress -> Output::send_udp
//! ```
//!
//! The verbs of the application are in [`super::udp_sockets`].

mod egress;
mod hears;

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::collections::VecDeque;

use hears::HearsV4;
pub(super) use hears::Source;

use super::bound::BoundPorts;
use super::cx::{Cx, EventQueue, Pending};
use super::demux::FlowKey;
use super::icmp::IcmpError;
use super::idle::IdleQueue;
use super::interface::InterfaceId;
use super::output::PathCache;
use super::records::{RecordReader, RecordWriter};
use super::slots::Slots;
use super::socket::{Readiness, SocketError, SocketId, SocketKind};
use crate::counters::DropReason;
use crate::time::Instant;

/// The most payload that a UDP datagram over IPv4 can have: 65,535 bytes without the two headers.
pub const MAX_UDP_PAYLOAD: usize = 65_507;

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
    /// Way to the destination of the last datagram that was sent.
    path: PathCache,
    path_to: Option<IpAddr>,
    /// The destination of the last datagram that was queued, at which generation of the routes that was found to lead where.
    way: Option<(IpAddr, u64, InterfaceId)>,
    /// What it hears, for comparing.
    hears: HearsV4,
    /// The next socket bound to the same port.
    next: u32,
}

impl UdpSocket {
    #[inline(always)]
    pub(super) fn raise(&mut self, events: &mut EventQueue, what: Readiness) {
        self.pending.raise(events, self.id, what);
    }

    /// Queues the socket for giving its pages back, unless it is.
    #[inline(always)]
    fn keep_warm(&mut self, now: Instant, idle: &mut IdleQueue) {
        if !self.warm {
            self.warm = true;
            self.passed = self.stats.received + self.stats.sent;
            idle.push(now, self.id.index, self.id.generation);
        }
    }

    /// Queues a datagram from `from` for the application; an answer would come from `to`. `false`, and no change, without room.
    #[inline(always)]
    pub(super) fn deliver_v4(
        &mut self,
        cx: &mut Cx<'_>,
        idle: &mut IdleQueue,
        from: Source,
        to: Ipv4Addr,
        payload: &[u8],
    ) -> bool {
        let has_room = self.queue_v4(from, to, payload);
        if has_room {
            self.queued(cx, idle, 1);
        }
        has_room
    }

    /// As [`UdpSocket::deliver_v4`], the first half: [`UdpSocket::queued`] follows, for one or several.
    #[inline(always)]
    pub(super) fn queue_v4(&mut self, from: Source, to: Ipv4Addr, payload: &[u8]) -> bool {
        self.rx.push_v4(from.ip(), from.port(), to, payload)
    }

    /// As [`UdpSocket::queue_v4`] for as many of these as have room that lies together, and says how many.
    #[inline(always)]
    pub(super) fn queue_run_v4<'p>(
        &mut self,
        from: Source,
        to: Ipv4Addr,
        payloads: impl IntoIterator<Item = &'p [u8]>,
    ) -> usize {
        self.rx.push_run_v4(from.ip(), from.port(), to, payloads) as usize
    }

    /// So many datagrams were queued for the application.
    #[inline(always)]
    pub(super) fn queued(&mut self, cx: &mut Cx<'_>, idle: &mut IdleQueue, count: u64) {
        self.stats.received += count;
        cx.counters.udp_rx += count;
        self.keep_warm(cx.now, idle);
        self.raise(cx.events, Readiness::READABLE);
    }

    /// Gives back the pages of queues that were read dry. `true` when this wants to be called once more.
    fn release_pages(&mut self) -> bool {
        // The half at home of what is sent is the application's, until it is split off.
        let tx = match &mut self.app {
            Some((tx, _)) => tx.release(),
            None => {
                self.tx.release();
                false
            }
        };
        self.rx.release() || tx
    }

    /// Notes which interface leads to `to`. Of groups that is not for routes to say.
    pub(super) fn set_way_to(&mut self, to: IpAddr, generation: u64, interface: InterfaceId) {
        let broadcast = matches!(to, IpAddr::V4(to) if to.is_broadcast());
        self.way = (!broadcast && !to.is_multicast()).then_some((to, generation, interface));
    }

    /// Whether the socket is on the dirty list of an interface.
    #[inline]
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// The address that the socket is bound to and the interface that leads to `to`, if that was looked up last and no route has
    /// changed since.
    #[inline]
    pub(super) fn way_to_v4(&self, to: Ipv4Addr, generation: u64) -> Option<(Ipv4Addr, InterfaceId)> {
        match (self.way, self.local.ip()) {
            (Some((IpAddr::V4(known), when, interface)), IpAddr::V4(from))
                if known == to && when == generation =>
            {
                Some((from, interface))
            }
            _ => None,
        }
    }
}

/// All UDP sockets of a shard.
pub(super) struct UdpTable {
    sockets: Slots<UdpSocket>,
    /// The sockets of a port, which differ in their address: one, as long as nobody binds the same port of two addresses.
    ports: BoundPorts,
    /// Per interface: sockets with something to send there, oldest first, each on one list.
    dirty: Vec<VecDeque<u32>>,
    /// Sockets that hold pages.
    idle: IdleQueue,
}

impl UdpTable {
    pub(super) fn new() -> Self {
        Self {
            sockets: Slots::default(),
            ports: BoundPorts::default(),
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
        !self.at_port(local.port()).any(|(_, socket)| {
            let other = socket.local.ip();
            let either_any = other.is_unspecified() || local.ip().is_unspecified();
            other == local.ip() || (either_any && other.is_ipv4() == local.is_ipv4())
        })
    }

    /// The sockets bound to a port.
    #[inline]
    fn at_port(&self, port: u16) -> impl Iterator<Item = (u32, &UdpSocket)> {
        let named = |index| Some((index, self.sockets.at(index)?));
        core::iter::successors(named(self.ports.first(port)), move |(_, socket)| named(socket.next))
    }

    /// Whether a socket is bound to `port`, at whichever address.
    pub(super) fn is_bound(&self, port: u16) -> bool {
        self.at_port(port).next().is_some()
    }

    /// Adds a socket with these queues, bound to `local`, which is free.
    pub(super) fn insert(
        &mut self,
        local: SocketAddr,
        ttl: u8,
        rx: (RecordWriter, RecordReader),
        tx: (RecordWriter, RecordReader),
    ) -> SocketId {
        let mut name = SocketId { kind: SocketKind::Datagram, index: 0, generation: 0 };
        let (rx, app_rx) = rx;
        let (app_tx, tx) = tx;
        let next = self.ports.first(local.port());
        let index = self.sockets.insert_with(|index, generation| {
            name = SocketId { kind: SocketKind::Datagram, index, generation };
            UdpSocket {
                id: name,
                local,
                remote: None,
                ttl,
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
                way: None,
                hears: HearsV4::new(local, None),
                next,
            }
        });
        self.ports.set_first(local.port(), index);
        name
    }

    /// Removes a socket; what it had queued is lost.
    pub(super) fn remove(&mut self, id: SocketId) -> Option<UdpSocket> {
        let socket = self.sockets.remove(id.index, id.generation)?;
        let port = socket.local.port();
        let before = self.at_port(port).find(|(_, other)| other.next == id.index).map(|(index, _)| index);
        match before.and_then(|index| self.sockets.at_mut(index)) {
            Some(before) => before.next = socket.next,
            None => self.ports.set_first(port, socket.next),
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
        if id.kind != SocketKind::Datagram {
            return None;
        }
        self.sockets.get_mut(id.index, id.generation)
    }

    /// Changes whom a socket is connected to, and the address of `local`, which is free or its own. The port stays.
    pub(super) fn set_peer(
        &mut self,
        id: SocketId,
        local: SocketAddr,
        remote: Option<SocketAddr>,
    ) -> Result<(), SocketError> {
        let socket = self.sockets.get_mut(id.index, id.generation).ok_or(SocketError::BadSocket)?;
        (socket.local, socket.remote, socket.error) = (local, remote, None);
        socket.hears = HearsV4::new(local, remote);
        Ok(())
    }

    /// The socket that a datagram of this flow is for: the one bound to the address and port, or to the port of any address, unless
    /// it is connected to another peer. No two sockets can be meant (see [`UdpTable::is_free`]).
    pub(super) fn find(&self, key: &FlowKey) -> Option<u32> {
        // There is no IPv6 to arrive yet.
        let (IpAddr::V4(from), IpAddr::V4(to)) = (key.remote, key.local) else { return None };
        let from = Source::new(from, key.remote_port);
        let hears = |(_, socket): &(u32, &UdpSocket)| socket.hears.matches(from, to);
        self.at_port(key.local_port).find(hears).map(|(index, _)| index)
    }

    /// The socket that a datagram over IPv4 is for, and where it is queued when it holds pages. Looks at the first of a port only,
    /// which is nearly always the one: [`UdpTable::find`] looks at all.
    #[inline(always)]
    pub(super) fn listener_v4(
        &mut self,
        from: Source,
        to: Ipv4Addr,
        port: u16,
    ) -> Option<(&mut UdpSocket, &mut IdleQueue)> {
        let socket = self.sockets.at_mut(self.ports.first(port))?;
        socket.hears.matches(from, to).then_some((socket, &mut self.idle))
    }

    /// The responder of a socket, with the counters that it moves and the TTL of its answers.
    pub(super) fn responder(
        &mut self,
        index: u32,
    ) -> Option<(&mut (dyn Responder + Send), &mut UdpStats, u8)> {
        let socket = self.sockets.at_mut(index)?;
        Some((socket.responder.as_deref_mut()?, &mut socket.stats, socket.ttl))
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

    /// There is a page for the application of a socket.
    pub(super) fn feed(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        if let Some(socket) = self.get_mut(id) {
            socket.wants_room = false;
            socket.raise(cx.events, Readiness::WRITABLE);
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
        let socket = self.find(key).and_then(|index| self.sockets.at_mut(index));
        let Some(socket) = socket.filter(|socket| socket.remote.is_some()) else { return false };
        socket.error = Some(error.socket_error());
        socket.raise(cx.events, Readiness::ERROR | Readiness::READABLE | Readiness::WRITABLE);
        true
    }

    /// One of our addresses was given up to another station: nothing comes to it any more, and nothing goes out.
    pub(super) fn on_address_lost(&mut self, cx: &mut Cx<'_>, ip: IpAddr) {
        let lost: Vec<u32> =
            self.sockets.iter().filter(|(_, s)| s.local.ip() == ip).map(|(i, _)| i).collect();
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
}

/// The unspecified address of the same family.
pub(super) const fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(core::net::Ipv6Addr::UNSPECIFIED),
    }
}
