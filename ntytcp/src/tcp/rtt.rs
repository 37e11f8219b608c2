//! Round-trip time and retransmission timeout (RFC 6298).

use crate::time::{self, Duration, Instant};

/// SRTT, RTTVAR and RTO of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RttEstimator {
    /// Smoothed round-trip time in nanoseconds; 0 before the first sample.
    srtt: u64,
    rttvar: u64,
    /// The timeout without backoff, in nanoseconds.
    rto: u64,
    backoff: u8,
}

/// Backing off further changes nothing: 2^6 times the least RTO is beyond any sensible maximum.
const MAX_BACKOFF: u8 = 12;

impl RttEstimator {
    pub(crate) fn new(initial_rto: Duration) -> Self {
        Self { srtt: 0, rttvar: 0, rto: nanos(initial_rto), backoff: 0 }
    }

    /// Takes a measurement, in nanoseconds, of a segment that was sent once (Karn's algorithm is the caller's duty).
    pub(crate) fn sample(&mut self, rtt: u64, min: Duration, max: Duration) {
        let r = rtt.clamp(1, u64::MAX >> (MAX_BACKOFF + 1));
        if self.srtt == 0 {
            // RFC 6298 2.2: "SRTT <- R, RTTVAR <- R/2"
            self.srtt = r;
            self.rttvar = r / 2;
        } else {
            // RFC 6298 2.3: "RTTVAR <- (1 - beta) * RTTVAR + beta * |SRTT - R'|", beta = 1/4; then SRTT with alpha = 1/8
            self.rttvar = self.rttvar - self.rttvar / 4 + self.srtt.abs_diff(r) / 4;
            self.srtt = self.srtt - self.srtt / 8 + r / 8;
        }
        // RFC 6298 2.3: "RTO <- SRTT + max (G, K*RTTVAR)"; the clock is fine enough for G to be the least RTO's business.
        self.rto = (self.srtt + 4 * self.rttvar).clamp(nanos(min), nanos(max).max(nanos(min)));
        self.backoff = 0;
    }

    /// The timeout to arm now, backoff included.
    pub(crate) fn rto(&self, max: Duration) -> Duration {
        Duration::from_nanos(self.rto_nanos(max))
    }

    /// When a timer that is started now expires.
    #[inline]
    pub(crate) fn deadline(&self, now: Instant, max: Duration) -> Instant {
        now.after_nanos(self.rto_nanos(max))
    }

    /// As [`RttEstimator::rto`], in nanoseconds: a [`Duration`] costs a division.
    #[inline]
    pub(crate) fn rto_nanos(&self, max: Duration) -> u64 {
        (self.rto << self.backoff.min(MAX_BACKOFF)).min(nanos(max))
    }

    /// The timeout without backoff, in nanoseconds: as a rule not more than [`RttEstimator::rto_nanos`].
    #[inline]
    pub(crate) fn base_nanos(&self) -> u64 {
        self.rto
    }

    /// RFC 6298 5.5: "RTO <- RTO * 2 ("back off the timer")".
    pub(crate) fn back_off(&mut self) {
        self.backoff = (self.backoff + 1).min(MAX_BACKOFF);
    }

    /// Whether the timer was backed off and nothing was measured since.
    pub(crate) fn is_backed_off(&self) -> bool {
        self.backoff > 0
    }

    /// The handshake is complete. RFC 6298 5.7: a SYN that timed out leaves an RTO of 3 s for the data that follows.
    pub(crate) fn handshake_done(&mut self) {
        if core::mem::take(&mut self.backoff) > 0 {
            self.rto = self.rto.max(3_000_000_000);
        }
    }

    /// The smoothed round-trip time, once there is one.
    pub(crate) fn srtt(&self) -> Option<Duration> {
        (self.srtt > 0).then(|| Duration::from_nanos(self.srtt))
    }

    /// The round-trip time's mean deviation.
    pub(crate) fn rttvar(&self) -> Duration {
        Duration::from_nanos(self.rttvar)
    }
}

/// Bounded so that backing off cannot overflow.
fn nanos(d: Duration) -> u64 {
    time::nanos(d).min(u64::MAX >> (MAX_BACKOFF + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(200);
    const MAX: Duration = Duration::from_secs(60);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// A sample of so many milliseconds.
    fn took(n: u64) -> u64 {
        n * 1_000_000
    }

    #[test]
    fn first_sample_sets_srtt_and_half_of_it_as_variance() {
        let mut e = RttEstimator::new(Duration::from_secs(1));
        assert_eq!(e.rto(MAX), Duration::from_secs(1));
        e.sample(took(100), MIN, MAX);
        assert_eq!(e.srtt(), Some(ms(100)));
        assert_eq!(e.rttvar(), ms(50));
        assert_eq!(e.rto(MAX), ms(300));
    }

    #[test]
    fn later_samples_are_smoothed() {
        let mut e = RttEstimator::new(Duration::from_secs(1));
        e.sample(took(100), MIN, MAX);
        e.sample(took(200), MIN, MAX);
        // RTTVAR = 3/4 * 50 + 1/4 * 100 = 62.5, SRTT = 7/8 * 100 + 1/8 * 200 = 112.5, RTO = 112.5 + 250
        assert_eq!(e.srtt(), Some(Duration::from_micros(112_500)));
        assert_eq!(e.rto(MAX), Duration::from_micros(362_500));
    }

    #[test]
    fn backoff_doubles_up_to_the_maximum_and_a_sample_ends_it() {
        let mut e = RttEstimator::new(Duration::from_secs(1));
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(e.rto(MAX), Duration::from_secs(expected));
            e.back_off();
        }
        e.sample(took(1), MIN, MAX);
        assert_eq!(e.rto(MAX), MIN);
    }

    #[test]
    fn absurd_samples_do_not_overflow() {
        let mut e = RttEstimator::new(Duration::MAX);
        e.sample(u64::MAX, MIN, MAX);
        e.sample(0, MIN, MAX);
        e.sample(u64::MAX, MIN, MAX);
        for _ in 0..300 {
            e.back_off();
        }
        assert_eq!(e.rto(MAX), MAX);
    }
}
