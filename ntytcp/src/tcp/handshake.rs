//! A connection that a peer has asked for and not yet confirmed: SYN-RECEIVED as a small entry, not a TCB.
//!
//! The SYN-ACK is the SYN's frame rewritten in place; only its retransmissions go through the output path. The ACK that completes
//! the handshake turns the entry into a [`Tcb`].

use super::Arrival;
use super::TcpAction;
use super::config::{TcpConfig, TcpSocketOptions};
use super::isn::Origin;
use super::opening::Opening;
use super::tcb::{State, Tcb, mss_for, timestamp, window_shift};
use crate::counters::DropReason;
use crate::fifo::PagePool;
use crate::stack::InterfaceId;
use crate::stack::demux::FlowKey;
use crate::time::{Duration, Instant};
use crate::wire::{Seq, TcpFlags, TcpHeader, TcpOptions, Timestamps};

/// What a SYN offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Offer {
    pub(crate) mss: Option<u16>,
    pub(crate) window_scale: Option<u8>,
    pub(crate) sack: bool,
    /// The value of the timestamp that came with it.
    pub(crate) timestamp: Option<u32>,
}

impl From<&TcpOptions> for Offer {
    fn from(options: &TcpOptions) -> Self {
        Self {
            mss: options.mss,
            window_scale: options.window_scale,
            sack: options.sack_permitted,
            timestamp: options.timestamps.map(|ts| ts.value),
        }
    }
}

/// One entry of a listener's SYN queue.
#[derive(Clone, Debug)]
pub(crate) struct SynEntry {
    pub(crate) key: FlowKey,
    /// The tag of `key` in the flow table.
    pub(crate) tag: u32,
    pub(crate) listener: u32,
    pub(crate) interface: InterfaceId,
    mtu: u16,
    origin: Origin,
    irs: Seq,
    offer: Offer,
    /// When the SYN-ACK goes out again.
    pub(crate) retry_at: Instant,
    pub(crate) retries: u8,
    pub(crate) dirty: bool,
}

/// What a segment does to an entry.
pub(crate) enum SynOutcome {
    /// The entry stays.
    Stay(TcpAction),
    /// The entry goes.
    Remove(TcpAction),
    /// The handshake is complete; the segment is then the connection's first.
    Establish,
}

impl SynEntry {
    /// The entry for a SYN, already checked to be one.
    pub(crate) fn new(
        now: Instant,
        config: &TcpConfig,
        (arrival, tag): (&Arrival, u32),
        listener: u32,
        origin: Origin,
        syn: &TcpHeader,
    ) -> Self {
        Self {
            key: arrival.key,
            tag,
            listener,
            interface: arrival.interface,
            mtu: u16::try_from(arrival.mtu).unwrap_or(u16::MAX),
            origin,
            irs: syn.seq,
            offer: Offer::from(&syn.options),
            retry_at: now + config.initial_rto.min(config.max_rto),
            retries: 0,
            dirty: false,
        }
    }

    /// `<SEQ=ISS><ACK=RCV.NXT><CTL=SYN,ACK>` with what both ends understand.
    pub(crate) fn syn_ack(&self, now: Instant, config: &TcpConfig, socket: &TcpSocketOptions) -> TcpHeader {
        let scaling = config.window_scaling && self.offer.window_scale.is_some();
        TcpHeader {
            src_port: self.key.local_port,
            dst_port: self.key.remote_port,
            seq: self.origin.iss,
            ack: self.irs + 1,
            flags: TcpFlags::SYN | TcpFlags::ACK,
            window: u16::try_from(socket.recv_buffer).unwrap_or(u16::MAX),
            checksum: 0,
            urgent: 0,
            options: TcpOptions {
                mss: Some(mss_for(self.mtu.into(), &self.key)),
                window_scale: scaling.then(|| window_shift(config, socket.recv_buffer)),
                sack_permitted: config.sack && self.offer.sack,
                timestamps: self
                    .offer
                    .timestamp
                    .filter(|_| config.timestamps)
                    .map(|echo| Timestamps { value: timestamp(now, self.origin.timestamp_offset), echo }),
                ..TcpOptions::default()
            },
        }
    }

    /// The SYN-ACK is to go out once more, and then again after twice the time.
    pub(crate) fn retry(&mut self, now: Instant, config: &TcpConfig) {
        self.retries += 1;
        let wait: Duration = config.initial_rto.saturating_mul(1 << self.retries.min(10));
        self.retry_at = now + wait.min(config.max_rto);
    }

    /// RFC 9293 3.10.7.4 for SYN-RECEIVED after a passive OPEN.
    pub(crate) fn segment_arrives(
        &mut self,
        now: Instant,
        config: &TcpConfig,
        socket: &TcpSocketOptions,
        seg: &TcpHeader,
        text_len: usize,
    ) -> SynOutcome {
        let rcv_nxt = self.irs + 1;
        let window = socket.recv_buffer.min(usize::from(u16::MAX)) as u32;
        let is = |flags| seg.flags.intersects(flags);
        // The same SYN again: our SYN-ACK was lost.
        if is(TcpFlags::SYN) && !is(TcpFlags::ACK | TcpFlags::RST) && seg.seq == self.irs {
            if let (Some(recent), Some(ts)) = (&mut self.offer.timestamp, seg.options.timestamps) {
                *recent = ts.value;
            }
            return SynOutcome::Stay(TcpAction::Reply(self.syn_ack(now, config, socket)));
        }
        let len = text_len as u32 + u32::from(is(TcpFlags::FIN));
        let acceptable = seg.seq.in_window(rcv_nxt, window.max(1))
            || (len > 0 && (seg.seq + (len - 1)).in_window(rcv_nxt, window.max(1)));
        if !acceptable {
            return SynOutcome::Stay(if is(TcpFlags::RST) {
                TcpAction::Drop(DropReason::TcpOutOfWindow)
            } else {
                TcpAction::Reply(self.challenge(now, config))
            });
        }
        if is(TcpFlags::RST) {
            // RFC 5961 3.2, and RFC 9293: "If this connection was initiated with a passive OPEN, then return this connection to
            // the LISTEN state".
            return if seg.seq == rcv_nxt {
                SynOutcome::Remove(TcpAction::Done)
            } else {
                SynOutcome::Stay(TcpAction::Reply(self.challenge(now, config)))
            };
        }
        if is(TcpFlags::SYN) {
            return SynOutcome::Stay(TcpAction::Reply(self.challenge(now, config)));
        }
        if !is(TcpFlags::ACK) {
            return SynOutcome::Stay(TcpAction::Drop(DropReason::TcpBadFlags));
        }
        if seg.ack != self.origin.iss + 1 {
            return SynOutcome::Stay(TcpAction::Reply(super::reset_segment(&self.key, seg.ack, None)));
        }
        SynOutcome::Establish
    }

    /// The TCB that takes over, still in SYN-RECEIVED so that the segment which completes the handshake is handled as any other.
    #[inline]
    pub(crate) fn open(
        &self,
        slot: &mut Option<Tcb>,
        pool: &PagePool,
        now: Instant,
        config: &TcpConfig,
        options: TcpSocketOptions,
    ) {
        let &Self { key, tag, listener, interface, mtu, origin, irs, ref offer, .. } = self;
        let opening = Opening { key, tag, interface, mtu: mtu.into(), origin, options };
        let tcb = Tcb::open(slot, pool, now, &opening, config);
        tcb.take_syn(now, irs, offer, config);
        tcb.state = State::SynReceived;
        tcb.snd.nxt = origin.iss + 1;
        tcb.snd.max = origin.iss + 1;
        tcb.snd.wl1 = irs;
        tcb.listener = Some(listener);
        tcb.flags.unaccepted = true;
    }

    /// The sequence number that the peer's next incarnation must exceed is none of ours; this is only the usual ACK.
    fn challenge(&self, now: Instant, config: &TcpConfig) -> TcpHeader {
        TcpHeader {
            seq: self.origin.iss + 1,
            flags: TcpFlags::ACK,
            options: TcpOptions {
                timestamps: self.syn_ack(now, config, &config.socket).options.timestamps,
                ..TcpOptions::default()
            },
            ..self.syn_ack(now, config, &config.socket)
        }
    }
}
