//! The seam between the stack and TCP. Stand-in: refuses every segment with a RST.
#![allow(dead_code)] // Replaced as a whole by the TCP part.

use core::net::IpAddr;

use crate::counters::DropReason;
use crate::device::TxQueue;
use crate::fifo::PagePool;
use crate::rng::Rng;
use crate::stack::demux::FlowKey;
use crate::stack::{Cx, IcmpError, InterfaceId, NeighborOutcome, Output, Readiness, SocketId};
use crate::time::Instant;
use crate::wire::{Seq, TcpFlags, TcpHeader, TcpOptions};

/// Settings of TCP.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TcpConfig {}

/// Where a segment came from.
pub(crate) struct Arrival {
    /// Its flow; local is ours.
    pub key: FlowKey,
    /// Over which interface it came.
    pub interface: InterfaceId,
    /// The largest IP packet of that interface.
    pub mtu: usize,
    /// The ECN field of its IP header (RFC 3168).
    pub ecn: u8,
}

/// What becomes of a segment.
pub(crate) enum TcpAction {
    /// It was used up.
    Done,
    /// It was refused.
    Drop(DropReason),
    /// It is answered by a segment without data: the stack rewrites the frame and fills in addresses and checksum.
    Reply(TcpHeader),
}

/// All connections of a shard.
pub(crate) struct Tcp {}

impl Tcp {
    pub(crate) fn new(_config: TcpConfig, _pool: PagePool, _rng: &mut Rng) -> Self {
        Self {}
    }

    pub(crate) fn input(
        &mut self,
        _cx: &mut Cx<'_>,
        arrival: &Arrival,
        seg: &TcpHeader,
        payload: &[u8],
    ) -> TcpAction {
        if seg.flags.contains(TcpFlags::RST) {
            return TcpAction::Drop(DropReason::NoSocket);
        }
        // RFC 9293 3.10.7.1.
        let len = payload.len() as u32
            + u32::from(seg.flags.contains(TcpFlags::SYN))
            + u32::from(seg.flags.contains(TcpFlags::FIN));
        let (seq, ack, flags) = if seg.flags.contains(TcpFlags::ACK) {
            (seg.ack, Seq(0), TcpFlags::RST)
        } else {
            (Seq(0), Seq(seg.seq.0.wrapping_add(len)), TcpFlags::RST | TcpFlags::ACK)
        };
        TcpAction::Reply(TcpHeader {
            src_port: arrival.key.local_port,
            dst_port: arrival.key.remote_port,
            seq,
            ack,
            flags,
            window: 0,
            checksum: 0,
            urgent: 0,
            options: TcpOptions::NONE,
        })
    }

    pub(crate) fn egress<Q: TxQueue + ?Sized>(&mut self, _cx: &mut Cx<'_>, _out: &mut Output<'_, Q>) -> bool {
        false
    }

    pub(crate) fn on_timeout(&mut self, _cx: &mut Cx<'_>) {}

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        None
    }

    pub(crate) fn has_pending(&self, _interface: InterfaceId) -> bool {
        false
    }

    pub(crate) fn on_icmp(&mut self, _cx: &mut Cx<'_>, _key: &FlowKey, _seq: Seq, _error: IcmpError) {}

    pub(crate) fn on_neighbor(&mut self, _cx: &mut Cx<'_>, _next_hop: IpAddr, _outcome: NeighborOutcome) {}

    pub(crate) fn take_ready(&mut self, _socket: SocketId) -> Readiness {
        Readiness::empty()
    }

    pub(crate) fn touch(&self, _key: &FlowKey) {}
}
