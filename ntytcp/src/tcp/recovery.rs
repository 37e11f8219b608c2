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
    phase: Phase,
    /// RFC 6582: the highest sequence number sent when the last recovery or timeout began. Means nothing in [`Phase::Open`], as after
    /// 2 GiB it would seem to lie ahead.
    recover: Seq,
    /// Bytes added to cwnd for segments that left the network.
    inflation: u32,
    /// The segment at SND.UNA is to be sent again, whatever the window says.
    resend: bool,
}

/// How SND.UNA stands to `recover`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Beyond it: three duplicate ACKs are a loss.
    Open,
    /// Not beyond it after a recovery or a timeout: duplicate ACKs may answer what was sent twice.
    Guarded,
    /// A loss is being repaired.
    Recovery,
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
        Self { dup_acks: 0, phase: Phase::Open, recover: iss, inflation: 0, resend: false }
    }

    /// Takes a duplicate ACK for `una`, with `max` the highest sequence number sent.
    pub(crate) fn on_dup_ack(&mut self, una: Seq, max: Seq, mss: u32, cc: &mut CongestionControl) -> DupAck {
        if self.phase == Phase::Recovery {
            // RFC 5681 3.2 step 4: "cwnd MUST be incremented by SMSS" for each additional duplicate ACK.
            self.inflation = self.inflation.saturating_add(mss).min(max.since(una));
            return DupAck::Counted;
        }
        self.dup_acks = self.dup_acks.saturating_add(1);
        // RFC 6582 3.2 step 2: no second recovery for the same window of data.
        if self.dup_acks != DUP_ACK_THRESHOLD || self.phase == Phase::Guarded {
            return DupAck::Counted;
        }
        self.phase = Phase::Recovery;
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
        if self.phase == Phase::Open {
            return true;
        }
        if self.phase == Phase::Guarded {
            // RFC 6582 3.2 step 2: "If the Cumulative Acknowledgment field covers more than recover"
            if una.after(self.recover) {
                self.phase = Phase::Open;
            }
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
            self.phase = if una.after(self.recover) { Phase::Open } else { Phase::Guarded };
            self.inflation = 0;
            self.resend = false;
            cc.on_recovered(max.since(una), mss);
        }
        false
    }

    /// RFC 6582 4: a timeout ends the recovery and remembers where it began.
    pub(crate) fn on_timeout(&mut self, max: Seq) {
        *self = Self { dup_acks: 0, phase: Phase::Guarded, recover: max, inflation: 0, resend: false };
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
        self.phase == Phase::Recovery
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1_000;

    /// What the third of three duplicate ACKs for `una` does, with ten segments in flight.
    fn third_dup_ack(r: &mut Recovery, una: Seq, cc: &mut CongestionControl) -> DupAck {
        r.on_dup_ack(una, una + 10 * MSS, MSS, cc);
        r.on_dup_ack(una, una + 10 * MSS, MSS, cc);
        r.on_dup_ack(una, una + 10 * MSS, MSS, cc)
    }

    #[test]
    fn a_loss_is_found_after_any_number_of_bytes_without_one() {
        let iss = Seq(1);
        let mut cc = CongestionControl::new_reno(100 * MSS);
        // 5 GiB in all: past each half of the sequence space, with and without a loss before.
        for lost_before in [false, true] {
            let mut r = Recovery::new(iss);
            let mut una = iss + 1;
            if lost_before {
                assert_eq!(third_dup_ack(&mut r, una, &mut cc), DupAck::LossDetected);
                una += 10 * MSS;
                r.on_ack(una, una, 10 * MSS, MSS, &mut cc);
            }
            for step in 0..5_000 {
                una += 1 << 20;
                r.on_ack(una, una, 1 << 20, MSS, &mut cc);
                let mut now = r.clone();
                assert_eq!(third_dup_ack(&mut now, una, &mut cc), DupAck::LossDetected, "after {step} MiB");
            }
        }
    }

    #[test]
    fn one_window_has_one_recovery() {
        let mut cc = CongestionControl::new_reno(100 * MSS);
        let mut r = Recovery::new(Seq(1));
        let una = Seq(2);
        assert_eq!(third_dup_ack(&mut r, una, &mut cc), DupAck::LossDetected);
        // RFC 6582 3.2: what was in flight at the loss is acknowledged, and nothing beyond it.
        let end = una + 10 * MSS;
        r.on_ack(end, end, 10 * MSS, MSS, &mut cc);
        assert_eq!(third_dup_ack(&mut r, end, &mut cc), DupAck::Counted);
        r.on_ack(end + 1, end + 1, 1, MSS, &mut cc);
        assert_eq!(third_dup_ack(&mut r, end + 1, &mut cc), DupAck::LossDetected);
        // Nor does what a timeout sends again have one.
        let una = end + 1;
        r.on_timeout(una + 10 * MSS);
        assert_eq!(third_dup_ack(&mut r, una, &mut cc), DupAck::Counted);
    }
}
