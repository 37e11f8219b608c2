//! Which bytes are sent again: the duplicate-ACK half of NewReno (RFC 5681 3.2, RFC 6582).
//!
//! How many bytes may be in flight is the [congestion controller's](super::congestion) business; during recovery this adds the
//! window inflation that stands for segments which have left the network.

use super::congestion::CongestionControl;
use crate::wire::Seq;

/// RFC 5681 3.2: "the arrival of 3 duplicate ACKs" is taken as a loss.
const DUP_ACK_THRESHOLD: u8 = 3;

/// Duplicate-ACK counting and fast recovery of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Recovery {
    dup_acks: u8,
    in_recovery: bool,
    /// RFC 6582: the highest sequence number sent when the last recovery or timeout began.
    recover: Seq,
    /// Bytes added to cwnd for segments that left the network.
    inflation: u32,
    /// The segment at SND.UNA is to be sent again, whatever the window says.
    resend: bool,
}

/// Whether an ACK started a recovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DupAck {
    /// One more, nothing follows from it.
    Counted,
    /// The third: the first segment is sent again and the window halved.
    LossDetected,
}

impl Recovery {
    pub(crate) fn new(iss: Seq) -> Self {
        Self { dup_acks: 0, in_recovery: false, recover: iss, inflation: 0, resend: false }
    }

    /// Takes a duplicate ACK for `una`, with `max` the highest sequence number sent.
    pub(crate) fn on_dup_ack(&mut self, una: Seq, max: Seq, mss: u32, cc: &mut CongestionControl) -> DupAck {
        if self.in_recovery {
            // RFC 5681 3.2 step 4: "cwnd MUST be incremented by SMSS" for each additional duplicate ACK.
            self.inflation = self.inflation.saturating_add(mss).min(max.since(una));
            return DupAck::Counted;
        }
        self.dup_acks = self.dup_acks.saturating_add(1);
        // RFC 6582 3.2 step 2: no second recovery for the same window of data.
        if self.dup_acks != DUP_ACK_THRESHOLD || !una.after(self.recover) {
            return DupAck::Counted;
        }
        self.in_recovery = true;
        self.recover = max;
        self.resend = true;
        cc.on_loss(max.since(una), mss);
        self.inflation = u32::from(DUP_ACK_THRESHOLD) * mss;
        DupAck::LossDetected
    }

    /// Takes an ACK that moved SND.UNA to `una` by `acked` bytes. Tells whether the window may grow by it.
    pub(crate) fn on_ack(
        &mut self,
        una: Seq,
        max: Seq,
        acked: u32,
        mss: u32,
        cc: &mut CongestionControl,
    ) -> bool {
        self.dup_acks = 0;
        if !self.in_recovery {
            return true;
        }
        if una.before(self.recover) {
            // Partial acknowledgment: the next hole is sent at once, the window deflated by what left it.
            self.resend = true;
            self.inflation = self.inflation.saturating_sub(acked);
            if acked >= mss {
                self.inflation = self.inflation.saturating_add(mss);
            }
        } else {
            self.in_recovery = false;
            self.inflation = 0;
            self.resend = false;
            cc.on_recovered(max.since(una), mss);
        }
        false
    }

    /// RFC 6582 4: a timeout ends the recovery and remembers where it began.
    pub(crate) fn on_timeout(&mut self, max: Seq) {
        *self = Self { dup_acks: 0, in_recovery: false, recover: max, inflation: 0, resend: false };
    }

    /// Whether the segment at SND.UNA is to be sent again.
    pub(crate) fn resend(&self) -> bool {
        self.resend
    }

    /// It was.
    pub(crate) fn on_resent(&mut self) {
        self.resend = false;
    }

    /// Bytes to add to the controller's window.
    pub(crate) fn inflation(&self) -> u32 {
        self.inflation
    }

    /// Whether lost data is being repaired.
    pub(crate) fn is_active(&self) -> bool {
        self.in_recovery
    }
}
