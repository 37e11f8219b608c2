//! What sockets send: which is next, and which way its datagrams go.

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;

use super::super::demux::FlowKey;
use super::super::interface::InterfaceId;
use super::super::output::{Blocked, Hop, Output, PathCache};
use super::super::records::RecordHeader;
use super::super::socket::{Readiness, SocketError};
use super::{UdpSocket, UdpTable};
use crate::counters::DropReason;
use crate::device::TxQueue;

/// How many datagrams one socket sends before the next one's turn.
const QUANTUM: u64 = 64;

impl UdpTable {
    /// Sends what sockets owe over the interface of `out`, a number of datagrams each in turn. Whether the ring became full.
    pub(in super::super) fn egress<Q: TxQueue + ?Sized>(&mut self, out: &mut Output<'_, Q>) -> bool {
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
        let mut left = QUANTUM;
        while left > 0 {
            let Some((head, _)) = self.tx.first() else { return Drained::Empty };
            let way = Way::prepare(out, self.local, (&mut self.path_to, &mut self.path), &head);
            let way = match way {
                Ok(way) => way,
                Err(Blocked::OtherInterface(interface)) => return Drained::Elsewhere(interface),
                Err(blocked) => {
                    self.undeliverable(out, blocked);
                    self.sent(out, 0);
                    self.tx.consume(&head);
                    left -= 1;
                    continue;
                }
            };
            // All that go the same way, as far as there is nothing special about them.
            let run = out.udp_run(&way.hop, &way.key, self.ttl, &head);
            let sent = run.map_or(0, |run| out.send_udp_run(&run, &mut self.tx, left));
            if sent > 0 {
                self.sent(out, sent);
                left -= sent;
                continue;
            }
            let Some((_, payload)) = self.tx.first() else { return Drained::Empty };
            match out.send_udp(&way.hop, &way.key, self.ttl, payload) {
                Ok(()) => self.sent(out, 1),
                Err(Blocked::RingFull) => return Drained::RingFull,
                Err(blocked) => {
                    self.undeliverable(out, blocked);
                    self.sent(out, 0);
                }
            }
            self.tx.consume(&head);
            left -= 1;
        }
        if self.tx.is_empty() { Drained::Empty } else { Drained::Quantum }
    }

    /// So many datagrams were sent; there is room for others.
    fn sent<Q: TxQueue + ?Sized>(&mut self, out: &mut Output<'_, Q>, count: u64) {
        self.stats.sent += count;
        // An application on another thread cannot leave word that it wants room.
        if core::mem::take(&mut self.wants_room) || self.app.is_none() {
            self.raise(out.cx.events, Readiness::WRITABLE);
        }
    }

    /// A datagram has no way to go.
    #[cold]
    fn undeliverable<Q: TxQueue + ?Sized>(&mut self, out: &mut Output<'_, Q>, blocked: Blocked) {
        let Blocked::Unreachable(error) = blocked else {
            // Only `take_over` deals with an unresolved next hop, and it keeps the datagram.
            return out.cx.counters.drop(DropReason::NeighborFailed);
        };
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

/// Which way a datagram goes.
struct Way {
    key: FlowKey,
    /// Where it goes; or whose address it has to wait for.
    hop: Result<Hop, Blocked>,
}

impl Way {
    /// Looks at the way of the datagram with `head` from a socket bound to `bound`.
    fn prepare<Q: TxQueue + ?Sized>(
        out: &mut Output<'_, Q>,
        bound: SocketAddr,
        (path_to, path): (&mut Option<IpAddr>, &mut PathCache),
        head: &RecordHeader,
    ) -> Result<Self, Blocked> {
        let remote = head.remote.ip();
        if *path_to != Some(remote) {
            (*path_to, *path) = (Some(remote), PathCache::default());
        }
        let local = match (head.local, bound.ip()) {
            (asked, _) if !asked.is_unspecified() => asked,
            (_, bound) if !bound.is_unspecified() => bound,
            _ => out.source_for(remote)?,
        };
        if out.must_not_use(local) {
            return Err(Blocked::Unreachable(SocketError::AddressNotAvailable));
        }
        let (local_port, remote_port) = (bound.port(), head.remote.port());
        let key = FlowKey { local, remote, local_port, remote_port };
        match out.prepare(&key, path, false) {
            hop @ (Ok(_) | Err(Blocked::Unresolved { .. })) => Ok(Self { key, hop }),
            Err(blocked) => Err(blocked),
        }
    }
}
