//! TIME-WAIT as a small entry: what is needed to answer the peer's FIN again, to refuse old segments, and to let a new connection
//! take the place of the old one (RFC 9293 3.6.1, RFC 6191).

use super::TcpAction;
use super::tcb::{Tcb, timestamp};
use crate::counters::DropReason;
use crate::stack::demux::FlowKey;
use crate::time::Instant;
use crate::wire::{Seq, TcpFlags, TcpHeader, TcpOptions, Timestamps};

/// One connection in TIME-WAIT.
#[derive(Clone, Debug)]
pub(crate) struct TimeWait {
    pub(crate) key: FlowKey,
    pub(crate) snd_nxt: Seq,
    rcv_nxt: Seq,
    window: u16,
    /// TS.Recent, when timestamps are in use.
    recent: Option<u32>,
    timestamp_offset: u32,
    pub(crate) expires: Instant,
}

/// What a segment does to an entry.
pub(crate) enum TimeWaitOutcome {
    /// The entry stays.
    Stay(TcpAction),
    /// The FIN came again: answer, and wait 2 MSL from now.
    Restart(TcpAction),
    /// A RST or a new connection ends it; `Some` new SYN is to be handled as if there were no connection.
    Remove,
    /// A SYN that may open a new connection.
    Reopen,
}

impl TimeWait {
    pub(crate) fn new(tcb: &Tcb, expires: Instant) -> Self {
        Self {
            key: tcb.key,
            snd_nxt: tcb.snd.max,
            rcv_nxt: tcb.rcv.nxt,
            window: (tcb.rcv.wnd() >> tcb.rcv.scale).min(u32::from(u16::MAX)) as u16,
            recent: tcb.timestamps.map(|ts| ts.recent),
            timestamp_offset: tcb.timestamp_offset,
            expires,
        }
    }

    /// RFC 9293 3.10.7.4 for TIME-WAIT.
    pub(crate) fn segment_arrives(
        &mut self,
        now: Instant,
        seg: &TcpHeader,
        text_len: usize,
    ) -> TimeWaitOutcome {
        let is = |flags| seg.flags.intersects(flags);
        if is(TcpFlags::RST) {
            // RFC 1337: an old RST must not cut TIME-WAIT short unless it is exact.
            return if seg.seq == self.rcv_nxt {
                TimeWaitOutcome::Remove
            } else {
                TimeWaitOutcome::Stay(TcpAction::Drop(DropReason::TcpBadReset))
            };
        }
        if is(TcpFlags::SYN) && !is(TcpFlags::ACK) {
            return if self.is_newer(seg) {
                TimeWaitOutcome::Reopen
            } else {
                TimeWaitOutcome::Stay(TcpAction::Reply(self.ack(now)))
            };
        }
        if let (Some(recent), Some(ts)) = (&mut self.recent, seg.options.timestamps)
            && !Seq(ts.value).before(Seq(*recent))
            && seg.seq.before_eq(self.rcv_nxt)
        {
            *recent = ts.value;
        }
        let len = text_len as u32 + u32::from(is(TcpFlags::FIN));
        if is(TcpFlags::FIN) && seg.seq + len == self.rcv_nxt {
            // "The only thing that can arrive in this state is a retransmission of the remote FIN. Acknowledge it, and restart the 2 MSL timeout."
            return TimeWaitOutcome::Restart(TcpAction::Reply(self.ack(now)));
        }
        if len == 0 && seg.seq == self.rcv_nxt {
            return TimeWaitOutcome::Stay(TcpAction::Done);
        }
        TimeWaitOutcome::Stay(TcpAction::Reply(self.ack(now)))
    }

    /// RFC 6191 2: a SYN with a later timestamp, or without timestamps but with a later sequence number, may reopen.
    fn is_newer(&self, syn: &TcpHeader) -> bool {
        match (self.recent, syn.options.timestamps) {
            (Some(recent), Some(ts)) if ts.value != recent => Seq(ts.value).after(Seq(recent)),
            _ => syn.seq.after(self.rcv_nxt),
        }
    }

    fn ack(&self, now: Instant) -> TcpHeader {
        TcpHeader {
            src_port: self.key.local_port,
            dst_port: self.key.remote_port,
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags: TcpFlags::ACK,
            window: self.window,
            checksum: 0,
            urgent: 0,
            options: TcpOptions {
                timestamps: self
                    .recent
                    .map(|echo| Timestamps { value: timestamp(now, self.timestamp_offset), echo }),
                ..TcpOptions::default()
            },
        }
    }
}
