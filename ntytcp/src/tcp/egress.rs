//! What TCP sends over an interface: connections with something to send in the order in which they came to have it, and those whose
//! way is blocked.
//!
//! ```text
//!   dirty list -> egress_conn -> only_segment -> Output::send_bare -> on_only_sent
//!                             \-> send_all: next_segment -> send_tcp | send_train -> on_sent
//!              \-> blocked: ring full, next hop unknown (parked), other interface, no way
//! ```

use super::config::TcpConfig;
use super::table::{Slot, Tcp, push_dirty};
use super::tcb::Tcb;
use crate::counters::DropReason;
use crate::device::TxQueue;
use crate::stack::cx::Cx;
use crate::stack::output::{Blocked, Hop, Output, PathCache};
use crate::stack::{InterfaceId, NeighborOutcome, SocketError};
use core::net::IpAddr;
use std::collections::VecDeque;

/// Segments after which one connection begins no other before the others had their turn. One that it began may be a train.
const SEGMENTS_PER_TURN: usize = 64;

impl Tcp {
    /// Whether anything waits to be sent on an interface.
    pub(crate) fn has_pending(&self, interface: InterfaceId) -> bool {
        self.dirty.get(usize::from(interface.0)).is_some_and(|queue| !queue.is_empty())
    }

    /// Sends what is owed on the interface of `out`. `true` when the ring was full and more is owed.
    #[inline]
    pub(crate) fn egress<Q: TxQueue + ?Sized>(&mut self, out: &mut Output<'_, Q>) -> bool {
        let interface = usize::from(out.interface().0);
        let turns = self.dirty.get(interface).map_or(0, VecDeque::len);
        (0..turns).any(|_| self.egress_next(out, interface))
    }

    /// Sends what the first in the list of an interface owes. `true` when the ring was full.
    fn egress_next<Q: TxQueue + ?Sized>(&mut self, out: &mut Output<'_, Q>, interface: usize) -> bool {
        let Some(queue) = self.dirty.get_mut(interface) else { return false };
        let Some(entry) = queue.pop_front() else { return false };
        let sent = match Slot::unpack(entry.0) {
            Slot::Conn(i) => self.egress_conn(out, i, entry.1),
            Slot::Syn(i) if self.syns.generation(i) == entry.1 => self.egress_syn_ack(out, i),
            Slot::Syn(_) | Slot::Wait(_) => Ok(()),
        };
        sent.is_err_and(|blocked| self.blocked(out, interface, entry, blocked))
    }

    /// An entry of the list could not send all that it owes. Whether the reason is a full ring.
    #[cold]
    fn blocked<Q: TxQueue + ?Sized>(
        &mut self,
        out: &mut Output<'_, Q>,
        interface: usize,
        entry: (u32, u32),
        blocked: Blocked,
    ) -> bool {
        match blocked {
            Blocked::RingFull => {
                if let Some(queue) = self.dirty.get_mut(interface) {
                    queue.push_front(entry);
                }
                return true;
            }
            Blocked::Unresolved { next_hop } => self.parked.push((next_hop, entry.0, entry.1)),
            Blocked::OtherInterface(other) => self.move_to(other, entry),
            Blocked::Unreachable(error) => self.unreachable(&mut out.cx, entry.0, error),
        }
        false
    }

    #[inline(always)]
    fn egress_conn<Q: TxQueue + ?Sized>(
        &mut self,
        out: &mut Output<'_, Q>,
        conn: u32,
        generation: u32,
    ) -> Result<(), Blocked> {
        let Some(tcb) = self.conns.get_mut(conn, generation) else { return Ok(()) };
        let progress = core::mem::take(&mut tcb.flags.progress);
        let hop = out.prepare(&tcb.key, &mut tcb.path, progress)?.with_ttl(tcb.options.ttl);
        tcb.before_output(out.cx.now, &self.config);
        // A conversation sends one segment at a time, with all that there is.
        match tcb.only_segment(hop.limits) {
            Some(segment) => {
                let header = tcb.bare_header(&segment);
                out.send_bare(&hop, &tcb.key, &header, segment.payload(&mut tcb.tx))?;
                tcb.on_only_sent(out.cx.now, &self.config, &segment, header.window);
            }
            None => send_all(out, &hop, tcb, &self.config)?,
        }
        tcb.flags.dirty = false;
        if !tcb.is_settled() {
            self.settle(&mut out.cx, conn);
        }
        Ok(())
    }

    fn egress_syn_ack<Q: TxQueue + ?Sized>(
        &mut self,
        out: &mut Output<'_, Q>,
        slot: u32,
    ) -> Result<(), Blocked> {
        let Some(entry) = self.syns.at_mut(slot) else { return Ok(()) };
        let Some(listener) = self.listeners.at(entry.listener) else { return Ok(()) };
        let header = entry.syn_ack(out.cx.now, &self.config, &listener.socket);
        let hop = out.prepare(&entry.key, &mut PathCache::default(), false)?.with_ttl(listener.socket.ttl);
        out.send_tcp(&hop, &entry.key, &header, None)?;
        entry.dirty = false;
        out.cx.counters.tcp_retransmits += 1;
        Ok(())
    }

    /// The way to a peer leads over another interface than before.
    fn move_to(&mut self, interface: InterfaceId, entry: (u32, u32)) {
        let current = match Slot::unpack(entry.0) {
            Slot::Conn(i) => self.conns.at_mut(i).map(|tcb| &mut tcb.interface),
            Slot::Syn(i) => self.syns.at_mut(i).map(|syn| &mut syn.interface),
            Slot::Wait(_) => None,
        };
        if let Some(current) = current {
            *current = interface;
        }
        push_dirty(&mut self.dirty, interface, entry);
    }

    /// A connection's packets cannot be routed or its next hop does not answer.
    fn unreachable(&mut self, cx: &mut Cx<'_>, packed: u32, error: SocketError) {
        if error == SocketError::NetworkUnreachable {
            cx.counters.drop(DropReason::NoRoute);
        }
        match Slot::unpack(packed) {
            Slot::Conn(i) => {
                if let Some(tcb) = self.conns.at_mut(i) {
                    tcb.flags.dirty = false;
                    tcb.flags.output = false;
                    tcb.on_unreachable(error);
                    tcb.retry_later(cx.now, &self.config);
                    self.settle(cx, i);
                }
            }
            Slot::Syn(i) => {
                if let Some(entry) = self.syns.at_mut(i) {
                    entry.dirty = false;
                }
            }
            Slot::Wait(_) => {}
        }
    }

    /// A next hop's address became known, or it was given up.
    pub(crate) fn on_neighbor(&mut self, cx: &mut Cx<'_>, next_hop: IpAddr, outcome: NeighborOutcome) {
        let mut parked = core::mem::take(&mut self.parked);
        parked.retain(|&(hop, packed, generation)| {
            if hop != next_hop {
                return true;
            }
            let (current, interface) = match Slot::unpack(packed) {
                Slot::Conn(i) => (self.conns.generation(i), self.conns.at(i).map(|t| t.interface)),
                Slot::Syn(i) => (self.syns.generation(i), self.syns.at(i).map(|s| s.interface)),
                Slot::Wait(_) => return false,
            };
            match (outcome, interface) {
                (_, Some(_)) if current != generation => {}
                (NeighborOutcome::Resolved, Some(interface)) => {
                    push_dirty(&mut self.dirty, interface, (packed, generation));
                }
                (NeighborOutcome::Failed, Some(_)) => {
                    self.unreachable(cx, packed, SocketError::HostUnreachable)
                }
                (_, None) => {}
            }
            false
        });
        self.parked.append(&mut parked);
    }
}

/// Sends all that a connection may send now, up to its share of the turn.
#[inline(never)]
fn send_all<Q: TxQueue + ?Sized>(
    out: &mut Output<'_, Q>,
    hop: &Hop,
    tcb: &mut Tcb,
    config: &TcpConfig,
) -> Result<(), Blocked> {
    let now = out.cx.now;
    let mut count = 0;
    while count < SEGMENTS_PER_TURN {
        let Some(segment) = tcb.next_segment(hop.limits) else {
            tcb.after_output(now, config);
            break;
        };
        let header = tcb.header(now, &segment);
        let sent = match (segment.payload(&mut tcb.tx), segment.gso) {
            (Some(payload), Some(size)) => {
                segment.cut(out.send_train(hop, &tcb.key, &header, payload, size)?)
            }
            (payload, _) => out.send_tcp(hop, &tcb.key, &header, payload).map(|()| segment)?,
        };
        tcb.on_sent(now, config, &sent, header.window, out.cx.counters);
        if sent.last {
            tcb.after_output(now, config);
            break;
        }
        count += sent.count();
    }
    Ok(())
}
