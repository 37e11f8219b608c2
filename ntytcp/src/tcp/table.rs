//! All TCP of one shard: who a segment is for, who has something to send, whose timer is due.
//!
//! Flows are found by one keyed-hash lookup. Connections with something to send are in a list per interface; each shard has one
//! wheel entry per TCB, re-armed only when its earliest deadline moves forward. Delayed ACKs, TIME-WAIT and
//! the release of pages have constant delays, so that plain queues keep them in order. No per-segment path allocates.

use super::handshake::{SynEntry, SynOutcome};
use super::isn::IsnGenerator;
use super::listener::{Bindings, Listener};
use super::opening::SPARES;
use super::tcb::{AckDue, State, Tcb};
use super::time_wait::{TimeWait, TimeWaitOutcome, TimeWaits};
use super::{Arrival, TcpAction, TcpConfig, reset_segment};
use crate::counters::DropReason;
use crate::fifo::PagePool;
use crate::rng::Rng;
use crate::stack::cx::{Cx, Pending};
use crate::stack::demux::{FlowHasher, FlowKey, FlowTable};
use crate::stack::idle::IdleQueue;
use crate::stack::limiter::{LimiterConfig, RateLimiter};
use crate::stack::slots::Slots;
use crate::stack::{IcmpError, InterfaceId, Readiness, SocketError, SocketId, SocketKind};
use crate::time::{Instant, earliest};
use crate::wheel::Wheel;
use crate::wire::{Seq, TcpFlags, TcpHeader};
use core::net::IpAddr;
use std::collections::VecDeque;

/// No slot.
const NOBODY: u32 = u32::MAX;

/// What a flow is at the moment; packed into the flow table's 32-bit value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Slot {
    Conn(u32),
    Syn(u32),
    Wait(u32),
}

impl Slot {
    const INDEX: u32 = (1 << 30) - 1;

    pub(super) fn pack(self) -> u32 {
        match self {
            Self::Conn(i) => i & Self::INDEX,
            Self::Syn(i) => (i & Self::INDEX) | 1 << 30,
            Self::Wait(i) => (i & Self::INDEX) | 2 << 30,
        }
    }

    pub(super) fn unpack(value: u32) -> Self {
        let index = value & Self::INDEX;
        match value >> 30 {
            0 => Self::Conn(index),
            1 => Self::Syn(index),
            _ => Self::Wait(index),
        }
    }
}

/// What there is of a flow: its slot, or the tag under which it would be entered.
pub(crate) type Lookup = Result<Slot, u32>;

/// A connection, for who keeps it across calls: it may have ended meanwhile, and then the name reaches nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ConnName {
    slot: u32,
    generation: u32,
}

/// What [`Tcp::input_foreseen`] made of a segment.
pub(crate) enum Foreseen {
    /// It was as foreseen, and all of it was taken; if the segment before it was for the same connection, by this one.
    Taken(Option<ConnName>),
    /// It was as foreseen, but not all of it found room.
    Dropped(Lookup, DropReason),
    /// It was not as foreseen, or is damaged: [`Tcp::input`] must see it.
    No(Lookup),
}

/// All TCP of one shard. See the module documentation.
#[derive(Debug)]
pub(crate) struct Tcp {
    pub(super) config: TcpConfig,
    pub(super) pool: PagePool,
    pub(super) hasher: FlowHasher,
    pub(super) flows: FlowTable,
    pub(super) conns: Slots<Tcb>,
    pub(super) syns: Slots<SynEntry>,
    pub(super) waits: TimeWaits,
    /// The connection that the last segment was for. The next is often for it too, and then is found without a hash.
    recent: u32,
    /// The connection that foreseen segments came for and that was not settled since; [`NOBODY`] between bursts.
    unsettled: u32,
    pub(super) listeners: Slots<Listener>,
    pub(super) bound: Bindings,
    /// By connection. What a slot was armed for stays when the connection goes: the next to use the slot, as a rule soon and for
    /// a later time, finds it armed, and an entry that fires for nobody costs less than one cancelled each time.
    wheel: Wheel,
    /// By half-open connection, likewise.
    syn_wheel: Wheel,
    /// Connections with a delayed ACK, in order of its time.
    delayed_acks: VecDeque<(Instant, u32, u32)>,
    /// Connections that hold pages.
    pub(super) idle: IdleQueue,
    /// Per interface: what has something to send, as packed slot and generation.
    pub(super) dirty: Vec<VecDeque<(u32, u32)>>,
    /// Who waits for a next hop's address.
    pub(super) parked: Vec<(IpAddr, u32, u32)>,
    pub(super) isn: IsnGenerator,
    resets: RateLimiter,
}

impl Tcp {
    pub(crate) fn new(config: TcpConfig, pool: PagePool, rng: &mut Rng) -> Self {
        Self {
            config,
            pool,
            hasher: FlowHasher::new(rng.key()),
            flows: FlowTable::new(),
            conns: Slots::default(),
            syns: Slots::default(),
            waits: TimeWaits::default(),
            recent: 0,
            unsettled: NOBODY,
            listeners: Slots::default(),
            bound: Bindings::default(),
            wheel: Wheel::new(Instant::ZERO),
            syn_wheel: Wheel::new(Instant::ZERO),
            delayed_acks: VecDeque::new(),
            idle: IdleQueue::default(),
            dirty: Vec::new(),
            parked: Vec::new(),
            isn: IsnGenerator::new(rng.key()),
            resets: RateLimiter::new(LimiterConfig::resets(), rng),
        }
    }

    /// Brings the memory that a segment's lookup will need closer.
    pub(crate) fn touch(&self, key: &FlowKey) {
        if !self.is_recent(key) {
            self.flows.touch(self.hasher.hash(key));
        }
    }

    /// Whether the flow is that of the last segment.
    #[inline(always)]
    fn is_recent(&self, key: &FlowKey) -> bool {
        self.conns.at(self.recent).is_some_and(|tcb| tcb.key == *key && tcb.flags.in_demux)
    }

    /// What a segment is for, or the tag of a flow that there is not.
    #[inline(always)]
    pub(crate) fn demux(&mut self, key: &FlowKey) -> Lookup {
        if self.is_recent(key) {
            return Ok(Slot::Conn(self.recent));
        }
        let tag = self.hasher.hash(key);
        let found = self.find(key, tag).ok_or(tag)?;
        if let Slot::Conn(conn) = found {
            self.recent = conn;
        }
        Ok(found)
    }

    /// The tag of a flow that does not exist in any state.
    pub(crate) fn vacancy(&self, key: &FlowKey) -> Option<u32> {
        let tag = self.hasher.hash(key);
        self.find(key, tag).is_none().then_some(tag)
    }

    fn find(&self, key: &FlowKey, tag: u32) -> Option<Slot> {
        let same = |value| match Slot::unpack(value) {
            Slot::Conn(i) => self.conns.at(i).is_some_and(|c| c.key == *key),
            Slot::Syn(i) => self.syns.at(i).is_some_and(|s| s.key == *key),
            Slot::Wait(i) => self.waits.get(i).is_some_and(|w| w.key == *key),
        };
        self.flows.find(tag, same).map(Slot::unpack)
    }

    /// Takes the whole segment `bytes` if it is what its connection expects next, and `is_intact` says that its checksum is
    /// right.
    #[inline(always)]
    pub(crate) fn input_foreseen(
        &mut self,
        cx: &mut Cx<'_>,
        key: &FlowKey,
        bytes: &[u8],
        is_intact: impl FnOnce() -> bool,
    ) -> Foreseen {
        let last = self.recent;
        let slot = self.demux(key);
        let Ok(Slot::Conn(conn)) = slot else { return Foreseen::No(slot) };
        let Some((tcb, generation)) = self.conns.named_mut(conn) else { return Foreseen::No(slot) };
        let Some(taken) = tcb.take_foreseen(cx, &self.config, bytes, is_intact) else {
            return Foreseen::No(slot);
        };
        self.settle_later(cx, conn);
        let again = (last == conn).then_some(ConnName { slot: conn, generation });
        taken.map_or_else(|reason| Foreseen::Dropped(slot, reason), |()| Foreseen::Taken(again))
    }

    /// As [`Tcp::input_foreseen`] for a segment whose connection is known already. `None` if it was not as foreseen, an error if
    /// not all of it found room.
    #[inline(always)]
    pub(crate) fn input_steady(
        &mut self,
        cx: &mut Cx<'_>,
        ConnName { slot, generation }: ConnName,
        bytes: &[u8],
        is_intact: impl FnOnce() -> bool,
    ) -> Option<Result<(), DropReason>> {
        let tcb = self.conns.get_mut(slot, generation)?;
        let taken = tcb.take_foreseen(cx, &self.config, bytes, is_intact)?;
        self.recent = slot;
        self.settle_later(cx, slot);
        Some(taken)
    }

    /// A foreseen segment came for a connection: it is settled when another's turn comes or the burst ends.
    #[inline(always)]
    fn settle_later(&mut self, cx: &mut Cx<'_>, conn: u32) {
        if self.unsettled != conn {
            self.settle_burst(cx);
            self.unsettled = conn;
        }
    }

    /// A run of foreseen segments of one connection is over: what they changed around it is brought in line, once.
    #[inline]
    pub(crate) fn settle_burst(&mut self, cx: &mut Cx<'_>) {
        let conn = core::mem::replace(&mut self.unsettled, NOBODY);
        if conn != NOBODY {
            self.settle(cx, conn);
        }
    }

    /// A segment with a correct checksum arrived for what is in `slot`.
    pub(crate) fn input(
        &mut self,
        cx: &mut Cx<'_>,
        arrival: &Arrival,
        slot: Lookup,
        seg: &TcpHeader,
        text: &[u8],
    ) -> TcpAction {
        cx.counters.tcp_rx += 1;
        match slot {
            Ok(Slot::Conn(i)) => {
                let Some(tcb) = self.conns.at_mut(i) else { return TcpAction::Done };
                let mut action = tcb.segment_arrives(cx, &self.config, seg, text);
                if action == TcpAction::Done
                    && let Some(ack) = tcb.last_ack(cx.now)
                {
                    action = TcpAction::Reply(ack);
                }
                let peer = tcb.key.remote;
                self.settle(cx, i);
                let reset =
                    matches!(action, TcpAction::Reply(answer) if answer.flags.intersects(TcpFlags::RST));
                if reset { self.limit(cx, peer, action) } else { action }
            }
            Ok(Slot::Syn(i)) => self.input_half_open(cx, i, seg, text),
            Ok(Slot::Wait(i)) => self.input_time_wait(cx, arrival, i, seg, text),
            Err(tag) => self.input_unknown(cx, (arrival, tag), seg, text, None),
        }
    }

    /// The TTL of an answer to a segment of a flow, which was for `slot` when it came.
    pub(crate) fn ttl(&self, key: &FlowKey, slot: Lookup) -> u8 {
        let ttl_of = |slot| match slot {
            Slot::Conn(i) => self.conns.at(i).filter(|tcb| tcb.key == *key).map(|tcb| tcb.options.ttl),
            Slot::Wait(i) => self.waits.get(i).filter(|wait| wait.key == *key).map(|wait| wait.ttl),
            Slot::Syn(i) => {
                let syn = self.syns.at(i).filter(|syn| syn.key == *key)?;
                self.listeners.at(syn.listener).map(|listener| listener.socket.ttl)
            }
        };
        let moved = || self.find(key, slot.err().unwrap_or_else(|| self.hasher.hash(key)));
        slot.ok().and_then(ttl_of).or_else(|| ttl_of(moved()?)).unwrap_or(self.config.socket.ttl)
    }

    /// RFC 9293 3.10.7.1 (CLOSED) and 3.10.7.2 (LISTEN).
    fn input_unknown(
        &mut self,
        cx: &mut Cx<'_>,
        (arrival, tag): (&Arrival, u32),
        seg: &TcpHeader,
        text: &[u8],
        beyond: Option<Seq>,
    ) -> TcpAction {
        if seg.flags.intersects(TcpFlags::RST) {
            return TcpAction::Drop(DropReason::NoSocket);
        }
        let key = &arrival.key;
        let Some(listener) = self.bound.find(key.local, key.local_port) else {
            return self.refuse(cx, key, seg, text);
        };
        if seg.flags.intersects(TcpFlags::ACK) {
            // "Any acknowledgment is bad if it arrives on a connection still in the LISTEN state."
            return self.refuse(cx, key, seg, text);
        }
        if !seg.flags.intersects(TcpFlags::SYN) || seg.flags.intersects(TcpFlags::FIN) {
            return TcpAction::Drop(DropReason::TcpBadFlags);
        }
        self.take_syn(cx, (arrival, tag), listener, seg, beyond)
    }

    /// A RST for a segment that belongs to no connection, limited in rate.
    fn refuse(&mut self, cx: &mut Cx<'_>, key: &FlowKey, seg: &TcpHeader, text: &[u8]) -> TcpAction {
        if !self.resets.allow(cx.now, key.remote) {
            return TcpAction::Drop(DropReason::RateLimited);
        }
        cx.counters.tcp_rst_tx += 1;
        if seg.flags.intersects(TcpFlags::ACK) {
            return TcpAction::Reply(reset_segment(key, seg.ack, None));
        }
        let len = text.len() as u32
            + u32::from(seg.flags.intersects(TcpFlags::SYN))
            + u32::from(seg.flags.intersects(TcpFlags::FIN));
        TcpAction::Reply(reset_segment(key, Seq(0), Some(seg.seq + len)))
    }

    /// An answer that no connection stands behind, or a RST from one: limited in rate as [`Tcp::refuse`] is, and counted.
    fn limit(&mut self, cx: &mut Cx<'_>, peer: IpAddr, action: TcpAction) -> TcpAction {
        let TcpAction::Reply(header) = action else { return action };
        if !self.resets.allow(cx.now, peer) {
            return TcpAction::Drop(DropReason::RateLimited);
        }
        cx.counters.tcp_rst_tx += u64::from(header.flags.intersects(TcpFlags::RST));
        action
    }

    /// A SYN for a listener.
    fn take_syn(
        &mut self,
        cx: &mut Cx<'_>,
        (arrival, tag): (&Arrival, u32),
        listener: u32,
        seg: &TcpHeader,
        beyond: Option<Seq>,
    ) -> TcpAction {
        let Some(socket) = self.listeners.at_mut(listener) else { return TcpAction::Done };
        if socket.half_open >= socket.backlog {
            return TcpAction::Drop(DropReason::TcpSynQueueFull);
        }
        if !socket.can_establish() {
            return TcpAction::Drop(DropReason::TcpAcceptQueueFull);
        }
        if self.conns.len() + self.syns.len() >= self.config.max_connections {
            return TcpAction::Drop(DropReason::ConnectionLimit);
        }
        socket.half_open += 1;
        let mut origin = self.isn.origin(cx.now, &arrival.key);
        origin.iss = beyond.unwrap_or(origin.iss);
        let entry = SynEntry::new(cx.now, &self.config, (arrival, tag), listener, origin, seg);
        let reply = entry.syn_ack(cx.now, &self.config, &socket.socket);
        let retry_at = entry.retry_at;
        let slot = self.syns.insert(entry);
        self.flows.insert(tag, Slot::Syn(slot).pack());
        self.await_retry(slot, retry_at);
        TcpAction::Reply(reply)
    }

    /// Sees to it that the wheel tells of a half-open connection in time.
    fn await_retry(&mut self, slot: u32, at: Instant) {
        if self.syn_wheel.deadline(slot).is_none_or(|armed| at < armed) {
            self.syn_wheel.arm(slot, at);
        }
    }

    fn input_half_open(&mut self, cx: &mut Cx<'_>, slot: u32, seg: &TcpHeader, text: &[u8]) -> TcpAction {
        let Some(entry) = self.syns.at_mut(slot) else { return TcpAction::Done };
        let Some(listener) = self.listeners.at(entry.listener) else { return TcpAction::Done };
        let peer = entry.key.remote;
        match entry.segment_arrives(cx.now, &self.config, &listener.socket, seg, text.len()) {
            SynOutcome::Stay(action) => self.limit(cx, peer, action),
            SynOutcome::Remove(action) => {
                self.remove_half_open(slot);
                action
            }
            SynOutcome::Establish => self.establish(cx, slot, seg, text),
        }
    }

    /// The handshake is complete: the entry becomes a TCB in the accept queue.
    fn establish(&mut self, cx: &mut Cx<'_>, slot: u32, seg: &TcpHeader, text: &[u8]) -> TcpAction {
        let Some(listener) = self.syns.at(slot).map(|entry| entry.listener) else { return TcpAction::Done };
        let Some(socket) = self.listeners.at(listener) else { return TcpAction::Done };
        if !socket.can_establish() {
            // The entry stays, and its SYN-ACK goes out again: the peer repeats the ACK when there may be room.
            return TcpAction::Drop(DropReason::TcpAcceptQueueFull);
        }
        let options = socket.socket;
        let Some(entry) = self.take_half_open(slot) else { return TcpAction::Done };
        let tag = entry.tag;
        let (pool, config) = (&self.pool, &self.config);
        let conn = self.conns.reuse(|_, _, slot| entry.open(slot, pool, cx.now, config, options));
        self.flows.replace(tag, Slot::Syn(slot).pack(), Slot::Conn(conn).pack());
        let generation = self.begin(conn);
        let Some(tcb) = self.conns.at_mut(conn) else { return TcpAction::Done };
        let action = tcb.segment_arrives(cx, &self.config, seg, text);
        if let Some((socket, generation_of_listener)) = self.listeners.named_mut(listener) {
            socket.accept.push_back((conn, generation));
            let id =
                SocketId { kind: SocketKind::Listener, index: listener, generation: generation_of_listener };
            socket.pending.raise(cx.events, id, Readiness::READABLE);
        }
        self.settle(cx, conn);
        action
    }

    /// A TCB begins whose flow was entered. Its generation.
    pub(super) fn begin(&mut self, conn: u32) -> u32 {
        self.recent = conn;
        let Some((tcb, generation)) = self.conns.named_mut(conn) else { return 0 };
        tcb.flags.in_demux = true;
        tcb.timers.take_over(self.wheel.deadline(conn));
        generation
    }

    /// Takes a half-open connection off its listener; the flow is still in the table.
    fn take_half_open(&mut self, slot: u32) -> Option<SynEntry> {
        let entry = self.syns.remove_at(slot)?;
        if let Some(listener) = self.listeners.at_mut(entry.listener) {
            listener.half_open = listener.half_open.saturating_sub(1);
        }
        Some(entry)
    }

    pub(super) fn remove_half_open(&mut self, slot: u32) {
        if let Some(entry) = self.take_half_open(slot) {
            self.flows.remove(entry.tag, Slot::Syn(slot).pack());
        }
    }

    fn input_time_wait(
        &mut self,
        cx: &mut Cx<'_>,
        arrival: &Arrival,
        slot: u32,
        seg: &TcpHeader,
        text: &[u8],
    ) -> TcpAction {
        let Some(entry) = self.waits.get_mut(slot) else { return TcpAction::Done };
        match entry.segment_arrives(cx.now, seg, text.len()) {
            TimeWaitOutcome::Stay(action) => self.limit(cx, arrival.key.remote, action),
            TimeWaitOutcome::Restart(action) => {
                entry.expires = cx.now + self.config.msl.saturating_mul(2);
                self.limit(cx, arrival.key.remote, action)
            }
            TimeWaitOutcome::Remove => {
                self.remove_time_wait(slot);
                TcpAction::Done
            }
            TimeWaitOutcome::Reopen => {
                // RFC 9293 3.10.7.4: the new ISS "is larger than the largest sequence number it used on the previous connection".
                let (beyond, tag) = (entry.snd_nxt + (u32::from(u16::MAX) + 2), entry.tag);
                self.remove_time_wait(slot);
                self.input_unknown(cx, (arrival, tag), seg, text, Some(beyond))
            }
        }
    }

    fn remove_time_wait(&mut self, slot: u32) {
        if let Some(tag) = self.waits.remove(slot) {
            self.flows.remove(tag, Slot::Wait(slot).pack());
        }
    }

    /// Brings everything around a TCB in line with what just happened to it. Most of the time that is little.
    #[inline]
    pub(super) fn settle(&mut self, cx: &mut Cx<'_>, conn: u32) {
        let Some((tcb, generation)) = self.conns.named_mut(conn) else { return };
        if let Some(at) = tcb.timers.moved_forward() {
            self.wheel.arm(conn, at);
        }
        if tcb.flags.output && !tcb.flags.dirty {
            tcb.flags.dirty = true;
            push_dirty(&mut self.dirty, tcb.interface, (Slot::Conn(conn).pack(), generation));
        }
        if let AckDue::At(at) = tcb.ack
            && !tcb.flags.ack_queued
        {
            tcb.flags.ack_queued = true;
            self.delayed_acks.push_back((at, conn, generation));
        }
        if !tcb.flags.warm && tcb.holds_pages() {
            tcb.flags.warm = true;
            self.idle.push(cx.now, conn, generation);
        }
        if !tcb.changed.is_empty() && !tcb.flags.orphan && !tcb.flags.unaccepted {
            let id = SocketId { kind: SocketKind::Stream, index: conn, generation };
            tcb.pending.raise(cx.events, id, core::mem::take(&mut tcb.changed));
        }
        match tcb.state {
            State::TimeWait if tcb.ack == AckDue::No => self.enter_time_wait(cx.now, conn),
            State::Closed if !tcb.flags.reset => self.retire(conn),
            _ => {}
        }
    }

    /// The TCB's part in the connection is over; what TIME-WAIT needs is kept in an entry of its own.
    fn enter_time_wait(&mut self, now: Instant, conn: u32) {
        let Some(tcb) = self.conns.at_mut(conn) else { return };
        if !core::mem::take(&mut tcb.flags.in_demux) {
            return;
        }
        while self.waits.places() >= self.config.max_time_wait.clamp(1, TimeWaits::MOST)
            && let Some((oldest, entry)) = self.waits.pop()
        {
            self.flows.remove(entry.tag, Slot::Wait(oldest).pack());
        }
        let slot = self.waits.push(TimeWait::new(tcb, now + self.config.msl.saturating_mul(2)));
        self.flows.replace(tcb.tag, Slot::Conn(conn).pack(), Slot::Wait(slot).pack());
        if tcb.flags.orphan {
            self.free(conn);
        }
    }

    /// Makes a TCB unreachable, and frees it once the application is done with it too.
    pub(super) fn retire(&mut self, conn: u32) {
        let Some(tcb) = self.conns.at_mut(conn) else { return };
        if core::mem::take(&mut tcb.flags.in_demux) {
            self.flows.remove(tcb.tag, Slot::Conn(conn).pack());
        }
        if tcb.flags.orphan {
            self.free(conn);
        }
    }

    /// Nobody needs a TCB any more. Its FIFOs may serve another.
    fn free(&mut self, conn: u32) {
        let is_spare = self.conns.left() < SPARES;
        self.conns.vacate(conn, |tcb| is_spare && tcb.leave());
    }

    /// Takes what changed at a socket whose event is being delivered.
    pub(crate) fn take_ready(&mut self, id: SocketId) -> Readiness {
        let pending = match id.kind {
            SocketKind::Stream => self.conns.get_mut(id.index, id.generation).map(|tcb| &mut tcb.pending),
            SocketKind::Listener => self.listeners.get_mut(id.index, id.generation).map(|l| &mut l.pending),
            SocketKind::Datagram | SocketKind::Echo => None,
        };
        pending.map(Pending::take).unwrap_or_default()
    }

    /// One of our addresses was given up to another station. RFC 5227 2.4: "Before abandoning an address due to a conflict, hosts SHOULD
    /// actively attempt to reset any existing connections using that address."
    pub(crate) fn on_address_lost(&mut self, cx: &mut Cx<'_>, ip: IpAddr) {
        let half_open: Vec<u32> =
            self.syns.iter().filter(|(_, s)| s.key.local == ip).map(|(i, _)| i).collect();
        half_open.into_iter().for_each(|slot| self.remove_half_open(slot));
        let conns: Vec<u32> = self.conns.iter().filter(|(_, c)| c.key.local == ip).map(|(i, _)| i).collect();
        for conn in conns {
            if let Some(tcb) = self.conns.at_mut(conn).filter(|tcb| tcb.flags.in_demux) {
                tcb.abort(Some(SocketError::AddressNotAvailable));
                self.settle(cx, conn);
            }
        }
    }

    /// An ICMP error quotes a segment of ours.
    pub(crate) fn on_icmp(&mut self, cx: &mut Cx<'_>, key: &FlowKey, seq: Seq, error: IcmpError) -> bool {
        let Some(Slot::Conn(i)) = self.find(key, self.hasher.hash(key)) else { return false };
        let Some(tcb) = self.conns.at_mut(i) else { return false };
        // RFC 5927 4.1: the quoted sequence number must be one that is in flight.
        if !(tcb.snd.una.before_eq(seq) && seq.before(tcb.snd.max)) {
            return false;
        }
        match error {
            IcmpError::PacketTooBig { mtu } => tcb.on_packet_too_big(mtu.into()),
            // RFC 5927 5.2: in a synchronized state even a hard error is only a hint.
            IcmpError::Unreachable(..) | IcmpError::TimeExceeded | IcmpError::ParameterProblem => {
                tcb.on_unreachable(error.socket_error());
            }
        }
        self.settle(cx, i);
        true
    }

    /// When [`Tcp::on_timeout`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let delayed = self.delayed_acks.front().map(|e| e.0);
        let queues = [delayed, self.waits.next_deadline(), self.idle.next()];
        earliest([earliest(queues), self.wheel.next(), self.syn_wheel.next()])
    }

    /// Handles every deadline up to now.
    pub(crate) fn on_timeout(&mut self, cx: &mut Cx<'_>) {
        while let Some(conn) = self.wheel.pop(cx.now) {
            if let Some(tcb) = self.conns.at_mut(conn) {
                tcb.timers.entry_left();
                tcb.on_timeout(cx.now, &self.config, cx.counters);
                self.settle(cx, conn);
            }
        }
        while let Some(slot) = self.syn_wheel.pop(cx.now) {
            self.syn_ack_timeout(cx.now, slot);
        }
        while self.delayed_acks.front().is_some_and(|e| e.0 <= cx.now) {
            self.delayed_ack_timeout(cx);
        }
        self.expire_time_waits(cx.now);
        self.idle_timeout(cx.now);
    }

    fn syn_ack_timeout(&mut self, now: Instant, slot: u32) {
        // The wheel may have been armed for one that had the slot before.
        let Some((entry, generation)) = self.syns.named_mut(slot) else { return };
        if entry.retry_at > now {
            let retry_at = entry.retry_at;
            return self.await_retry(slot, retry_at);
        }
        if entry.retries >= self.config.syn_ack_retries {
            return self.remove_half_open(slot);
        }
        entry.retry(now, &self.config);
        self.syn_wheel.arm(slot, entry.retry_at);
        if !core::mem::replace(&mut entry.dirty, true) {
            let interface = entry.interface;
            push_dirty(&mut self.dirty, interface, (Slot::Syn(slot).pack(), generation));
        }
    }

    fn delayed_ack_timeout(&mut self, cx: &mut Cx<'_>) {
        let Some((_, conn, generation)) = self.delayed_acks.pop_front() else { return };
        let Some(tcb) = self.conns.get_mut(conn, generation) else { return };
        tcb.flags.ack_queued = false;
        if matches!(tcb.ack, AckDue::At(at) if at <= cx.now) {
            tcb.ack = AckDue::Now;
            tcb.flags.output = true;
        }
        self.settle(cx, conn);
    }

    fn expire_time_waits(&mut self, now: Instant) {
        let flows = &mut self.flows;
        while let Some((slot, entry)) = self.waits.pop_expired(now, |tag, old, new| {
            flows.replace(tag, Slot::Wait(old).pack(), Slot::Wait(new).pack());
        }) {
            flows.remove(entry.tag, Slot::Wait(slot).pack());
        }
    }
}

impl Tcb {
    /// Whether [`Tcp::settle`] certainly finds nothing to do.
    #[inline(always)]
    pub(super) fn is_settled(&self) -> bool {
        let flags = &self.flags;
        let waits = flags.output & !flags.dirty | self.timers.is_early() | !flags.warm;
        !waits
            && self.changed.is_empty()
            && self.state == State::Established
            && (flags.ack_queued || !matches!(self.ack, AckDue::At(_)))
    }
}

/// Enters what has something to send in the list of an interface.
pub(super) fn push_dirty(dirty: &mut Vec<VecDeque<(u32, u32)>>, interface: InterfaceId, entry: (u32, u32)) {
    let index = usize::from(interface.0);
    if index >= dirty.len() {
        dirty.resize_with(index + 1, VecDeque::new);
    }
    if let Some(queue) = dirty.get_mut(index) {
        queue.push_back(entry);
    }
}
