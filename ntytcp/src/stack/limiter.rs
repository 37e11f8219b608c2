//! How often the stack answers what nobody asked a socket for: ICMP errors, RSTs.
//!
//! Two token buckets stand before each such answer: one for all of them, and one per destination, so that one
//! noisy peer cannot use up what the others are entitled to (RFC 1812 4.3.2.8, RFC 4443 2.4 (f), RFC 5961 7).
//! A bucket is a single instant, the *theoretical arrival time* of the GCRA: the time at which the bucket
//! will be full again.
//!
//! The buckets of destinations live in a table of fixed size, four to a set, found by keyed hash. A
//! destination that is not in its set takes the place of the one whose bucket is nearest to full; an idle
//! one, as a rule, which loses nothing.
//!
//! A global limit that can be counted from outside tells an off-path attacker which of his spoofed probes
//! were answered (CVE-2020-25705 found open UDP ports so). Each answer therefore takes zero, one or two
//! tokens from the global bucket, at random, one on average.

use core::hash::BuildHasher;
use core::net::{IpAddr, Ipv4Addr};

use super::keyed::{KeyedHash, fork};
use crate::rng::Rng;
use crate::time::{Duration, Instant};

/// A token bucket's shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Tokens that come back per second. 0 allows nothing, not even a burst.
    pub per_second: u32,
    /// Tokens that a full bucket holds: what may be sent at once after silence. At least 1 is assumed.
    pub burst: u32,
}

/// Limits of one kind of answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LimiterConfig {
    /// For all destinations together; on average, see the module documentation.
    pub global: Rate,
    /// For each destination.
    pub per_destination: Rate,
    /// How many destinations are told apart at the same time; rounded up to a power of two, 4 to 65,536.
    pub destinations: usize,
}

impl LimiterConfig {
    /// ICMP errors: 1,000 per second in all with bursts of 50, 1 per second and destination with bursts of 6.
    /// These are the figures that Linux made customary.
    pub const fn icmp_errors() -> Self {
        Self {
            global: Rate { per_second: 1_000, burst: 50 },
            per_destination: Rate { per_second: 1, burst: 6 },
            destinations: 1_024,
        }
    }

    /// RSTs to segments without a connection: generous, since a refused connection attempt that hears nothing
    /// retries.
    pub const fn resets() -> Self {
        Self {
            global: Rate { per_second: 10_000, burst: 1_000 },
            per_destination: Rate { per_second: 1_000, burst: 256 },
            destinations: 1_024,
        }
    }
}

impl Default for LimiterConfig {
    /// [`LimiterConfig::icmp_errors`].
    fn default() -> Self {
        Self::icmp_errors()
    }
}

/// A bucket's parameters in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Time in which one token comes back; `None` for a rate of zero.
    interval: Option<Duration>,
    /// How far the theoretical arrival time may lie ahead of now for a token to be left.
    tolerance: Duration,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        let interval = 1_000_000_000u64.checked_div(u64::from(rate.per_second)).map(Duration::from_nanos);
        let ahead = rate.burst.max(1) - 1;
        Self { interval, tolerance: interval.unwrap_or_default().saturating_mul(ahead) }
    }

    /// The state of the bucket `full_at` after `tokens` are taken from it, or `None` when it has none left.
    fn take(self, now: Instant, full_at: Instant, tokens: u32) -> Option<Instant> {
        let interval = self.interval?;
        (full_at <= now + self.tolerance).then(|| full_at.max(now) + interval.saturating_mul(tokens))
    }
}

/// One destination and the time at which its bucket is full again.
#[derive(Clone, Copy, Debug)]
struct Destination {
    ip: IpAddr,
    full_at: Instant,
}

/// Destinations in one set of the table.
const WAYS: usize = 4;

/// Two-level rate limiter. See the module documentation.
#[derive(Clone, Debug)]
pub struct RateLimiter {
    global: Bucket,
    global_full_at: Instant,
    per_destination: Bucket,
    sets: Box<[[Destination; WAYS]]>,
    hash: KeyedHash,
    rng: Rng,
}

impl RateLimiter {
    /// A limiter with all buckets full. Allocates its table, 32 bytes per destination, once and for all.
    pub fn new(cfg: LimiterConfig, rng: &mut Rng) -> Self {
        let sets = cfg.destinations.clamp(WAYS, 65_536).next_power_of_two() / WAYS;
        let nobody = Destination { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), full_at: Instant::ZERO };
        Self {
            global: Bucket::new(cfg.global),
            global_full_at: Instant::ZERO,
            per_destination: Bucket::new(cfg.per_destination),
            sets: vec![[nobody; WAYS]; sets].into_boxed_slice(),
            hash: KeyedHash::new(rng),
            rng: fork(rng),
        }
    }

    /// Whether one more answer may go to `dst` now; if so, it is counted. What is refused costs nothing: a
    /// peer that keeps asking still gets its answers at the configured rate. One keyed hash and one cache
    /// line or two.
    pub fn allow(&mut self, now: Instant, dst: IpAddr) -> bool {
        let index = self.hash.hash_one(dst) as usize & (self.sets.len() - 1);
        let Some(set) = self.sets.get_mut(index) else { return false };
        let Some(way) =
            (0..WAYS).find(|&w| set[w].ip == dst).or_else(|| (0..WAYS).min_by_key(|&w| set[w].full_at))
        else {
            return false;
        };
        let slot = &mut set[way];
        let full_at = if slot.ip == dst { slot.full_at } else { Instant::ZERO };
        let Some(destination_after) = self.per_destination.take(now, full_at, 1) else { return false };
        let Some(global_after) = self.global.take(now, self.global_full_at, self.rng.below(3)) else {
            return false;
        };
        self.global_full_at = global_after;
        *slot = Destination { ip: dst, full_at: destination_after };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::seed_from;

    const AMPLE: Rate = Rate { per_second: 1_000_000, burst: 1_000_000 };

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(n))
    }

    fn limiter(global: Rate, per_destination: Rate, destinations: usize) -> RateLimiter {
        RateLimiter::new(LimiterConfig { global, per_destination, destinations }, &mut Rng::new(seed_from(1)))
    }

    fn allowed(l: &mut RateLimiter, now: Instant, dst: IpAddr, tries: usize) -> usize {
        (0..tries).filter(|_| l.allow(now, dst)).count()
    }

    #[test]
    fn a_destination_gets_its_burst_and_then_its_rate() {
        let mut l = limiter(AMPLE, Rate { per_second: 2, burst: 6 }, 64);
        assert_eq!(allowed(&mut l, Instant::ZERO, ip(1), 100), 6);
        assert_eq!(allowed(&mut l, Instant::from_millis(499), ip(1), 100), 0);
        assert_eq!(allowed(&mut l, Instant::from_millis(500), ip(1), 100), 1);
        assert_eq!(allowed(&mut l, Instant::from_millis(1_500), ip(1), 100), 2);
        assert_eq!(allowed(&mut l, Instant::from_millis(60_000), ip(1), 100), 6, "never more than the burst");
    }

    #[test]
    fn a_noisy_destination_does_not_silence_another() {
        let mut l = limiter(AMPLE, Rate { per_second: 1, burst: 3 }, 64);
        assert_eq!(allowed(&mut l, Instant::ZERO, ip(1), 10_000), 3);
        assert_eq!(allowed(&mut l, Instant::ZERO, ip(2), 10_000), 3);
    }

    #[test]
    fn the_global_limit_holds_over_any_number_of_destinations() {
        let mut l = limiter(Rate { per_second: 1_000, burst: 50 }, AMPLE, 64);
        let mut sent = 0;
        for ms in 0..10_000u32 {
            for n in 0..20 {
                sent += usize::from(l.allow(Instant::from_millis(u64::from(ms)), ip(ms * 20 + n)));
            }
        }
        // 10 s at 1,000 per second and the first burst; the cost of each is random with mean one.
        assert!((9_500..10_600).contains(&sent), "{sent}");
    }

    #[test]
    fn the_global_burst_cannot_be_counted_from_outside() {
        let burst = |seed| {
            let cfg = LimiterConfig { per_destination: AMPLE, ..LimiterConfig::icmp_errors() };
            let mut l = RateLimiter::new(cfg, &mut Rng::new(seed_from(seed)));
            (0..200).filter(|&n| l.allow(Instant::ZERO, ip(n))).count()
        };
        let counts: std::collections::BTreeSet<_> = (0..50).map(burst).collect();
        assert!(counts.len() > 5, "{counts:?}");
    }

    #[test]
    fn a_rate_of_zero_allows_nothing() {
        let none = Rate { per_second: 0, burst: 10 };
        assert_eq!(allowed(&mut limiter(AMPLE, none, 4), Instant::from_millis(9_999), ip(1), 10), 0);
        assert_eq!(allowed(&mut limiter(none, AMPLE, 4), Instant::from_millis(9_999), ip(1), 10), 0);
    }

    #[test]
    fn a_full_table_gives_up_the_destination_nearest_to_idle() {
        let mut l = limiter(AMPLE, Rate { per_second: 1, burst: 2 }, 4);
        assert_eq!(allowed(&mut l, Instant::ZERO, ip(1), 10), 2);
        for n in 2..=4 {
            assert!(l.allow(Instant::ZERO, ip(n)));
        }
        // A fifth destination: one of those that sent once gives way, not the exhausted one.
        assert!(l.allow(Instant::ZERO, ip(5)));
        assert!(!l.allow(Instant::ZERO, ip(1)), "the exhausted destination is still remembered");
    }
}
