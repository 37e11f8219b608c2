//! Slow start and congestion avoidance of RFC 5681, the window half of NewReno (RFC 6582).

use super::{Controller, Limited, Timeout};

/// State of RFC 5681.
#[derive(Clone, Debug)]
pub(crate) struct NewReno {
    cwnd: u32,
    ssthresh: u32,
    /// Bytes acknowledged in congestion avoidance since cwnd last grew (RFC 5681 3.1, byte counting).
    acked: u32,
}

/// No connection needs more, and sums of windows must not overflow.
const MAX_CWND: u32 = 1 << 30;

impl NewReno {
    pub(crate) fn new(initial_window: u32) -> Self {
        Self { cwnd: initial_window, ssthresh: MAX_CWND, acked: 0 }
    }

    fn halve(&mut self, flight: u32, mss: u32) {
        // RFC 5681 (4): "ssthresh = max (FlightSize / 2, 2*SMSS)"
        self.ssthresh = (flight / 2).max(2 * mss);
        self.acked = 0;
    }
}

impl Controller for NewReno {
    fn on_ack(&mut self, acked: u32, mss: u32, limited: Limited) {
        if limited == Limited::ByOthers {
            return;
        }
        if self.cwnd < self.ssthresh {
            // Byte counting without a limit per ACK: receivers that merge segments acknowledge many at once, and RFC 3465's
            // limit would make slow start linear behind them.
            self.cwnd = self.cwnd.saturating_add(acked).min(self.ssthresh.max(self.cwnd));
        } else {
            // RFC 5681 3.1: cwnd grows by one SMSS for each cwnd of bytes acknowledged.
            self.acked = self.acked.saturating_add(acked);
            if self.acked >= self.cwnd {
                self.acked -= self.cwnd;
                self.cwnd = self.cwnd.saturating_add(mss);
            }
        }
        self.cwnd = self.cwnd.min(MAX_CWND);
    }

    fn on_loss(&mut self, flight: u32, mss: u32) {
        self.halve(flight, mss);
        self.cwnd = self.ssthresh;
    }

    fn on_recovered(&mut self, flight: u32, mss: u32) {
        // RFC 6582 3.2 step 3, full acknowledgment, option 1: "min (ssthresh, max(FlightSize, SMSS) + SMSS)"
        self.cwnd = self.ssthresh.min(flight.max(mss).saturating_add(mss));
    }

    fn on_timeout(&mut self, flight: u32, mss: u32, repeat: Timeout) {
        // RFC 5681 3.1: ssthresh is not lowered again when the same segment times out again.
        if repeat == Timeout::First {
            self.halve(flight, mss);
        }
        // "cwnd MUST be set to no more than the loss window, LW, which equals 1 full-sized segment"
        self.cwnd = mss;
    }

    fn on_idle(&mut self, initial_window: u32) {
        self.cwnd = self.cwnd.min(initial_window);
    }

    fn cwnd(&self) -> u32 {
        self.cwnd
    }

    fn ssthresh(&self) -> u32 {
        self.ssthresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_start_doubles_per_window_and_avoidance_adds_one_mss() {
        let mut c = NewReno::new(10_000);
        c.on_ack(10_000, 1_000, Limited::ByCwnd);
        assert_eq!(c.cwnd(), 20_000);
        c.on_loss(20_000, 1_000);
        assert_eq!((c.cwnd(), c.ssthresh()), (10_000, 10_000));
        for _ in 0..10 {
            c.on_ack(1_000, 1_000, Limited::ByCwnd);
        }
        assert_eq!(c.cwnd(), 11_000);
    }

    #[test]
    fn an_unused_window_does_not_grow() {
        let mut c = NewReno::new(10_000);
        c.on_ack(10_000, 1_000, Limited::ByOthers);
        assert_eq!(c.cwnd(), 10_000);
    }

    #[test]
    fn timeout_collapses_to_one_segment_and_halves_once() {
        let mut c = NewReno::new(10_000);
        c.on_timeout(8_000, 1_000, Timeout::First);
        assert_eq!((c.cwnd(), c.ssthresh()), (1_000, 4_000));
        c.on_timeout(1_000, 1_000, Timeout::Repeated);
        assert_eq!((c.cwnd(), c.ssthresh()), (1_000, 4_000));
    }

    #[test]
    fn idle_restarts_from_the_initial_window() {
        let mut c = NewReno::new(10_000);
        c.on_ack(50_000, 1_000, Limited::ByCwnd);
        c.on_idle(10_000);
        assert_eq!(c.cwnd(), 10_000);
    }
}
