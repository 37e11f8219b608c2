//! Ephemeral ports that an attacker off the path cannot guess (RFC 6056).
//!
//! A connected socket gets its port by Algorithm 4, double-hash port selection: a keyed hash of (local
//! address, remote address, remote port) gives each destination its own place in the range, and a counter,
//! one of a table picked by a second hash (other bits of the first, which say nothing about each other), moves that place on. Ports to one destination thus cycle
//! through the whole range before one repeats, which spares it the peer's TIME-WAIT, while what one
//! destination sees says nothing about another. The counters start at random and move by random small steps
//! (Algorithm 5's idea), so that a destination cannot count how often the others of its counter were
//! connected to.
//!
//! An unconnected UDP socket gets a port at random (Algorithm 1): what answers it is known to nobody yet.

use core::net::IpAddr;
use core::str::FromStr;

use super::demux::FlowKey;
use super::keyed::{Sip, fork};
use crate::rng::Rng;

/// An inclusive range of ports to pick from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A range that holds port 0, or nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{first}-{last} is no port range: the first port must be at least 1 and at most the last")]
pub struct PortRangeError {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The ports `first..=last`.
    ///
    /// # Errors
    /// When `first` is 0, which means "any port" everywhere, or above `last`.
    pub const fn new(first: u16, last: u16) -> Result<Self, PortRangeError> {
        if first == 0 || first > last {
            Err(PortRangeError { first, last })
        } else {
            Ok(Self { first, last })
        }
    }

    /// Lowest port of the range.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Highest port of the range.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` is in the range.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// How many ports it holds: 1 to 65,535.
    const fn count(self) -> u32 {
        (self.last - self.first) as u32 + 1
    }

    /// The port `offset` places after the first, going round.
    const fn at(self, offset: u32) -> u16 {
        self.first + (offset % self.count()) as u16
    }
}

/// A text that is no [`PortRange`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no port range: give FIRST-LAST or a port, from 1 to 65535")]
pub struct PortRangeTextError(String);

impl FromStr for PortRange {
    type Err = PortRangeTextError;

    /// `61000-65535`, or one port.
    fn from_str(text: &str) -> Result<Self, PortRangeTextError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = first.parse().ok().zip(last.parse().ok()).map(|(first, last)| Self::new(first, last));
        range.and_then(Result::ok).ok_or_else(|| PortRangeTextError(text.to_owned()))
    }
}

impl Default for PortRange {
    /// 32768 to 60999, as on Linux: whoever knows that a port below is a service's stays right.
    fn default() -> Self {
        Self { first: 32_768, last: 60_999 }
    }
}

/// Counters of Algorithm 4. More counters mean that fewer destinations share one; 4,096 take 16 KiB.
const COUNTERS: usize = 4_096;

/// A counter moves on by 1 to this many places per pick.
const MAX_STEP: u32 = 8;

/// Random tries of an unconnected pick before it scans.
const RANDOM_TRIES: usize = 16;

/// Picks local ports. Which ports are taken is the caller's knowledge, given to each pick as a closure; the
/// closure may refuse a port for any other reason as well (a flow hash that lands on another shard).
#[derive(Clone, Debug)]
pub struct PortAllocator {
    range: PortRange,
    hash: Sip,
    counters: Box<[u32]>,
    rng: Rng,
}

impl PortAllocator {
    /// An allocator over `range`, with secrets drawn from `rng`. Allocates its counters once and for all.
    pub fn new(range: PortRange, rng: &mut Rng) -> Self {
        let key = rng.key();
        let counters = (0..COUNTERS).map(|_| rng.below(range.count())).collect();
        Self { range, hash: Sip::new(key, (1, 3)), counters, rng: fork(rng) }
    }

    /// The range that ports are picked from.
    pub fn range(&self) -> PortRange {
        self.range
    }

    /// A port for a connection from `local` to `remote`:`remote_port` that `in_use` does not refuse, or
    /// `None` when it refuses the whole range. Each port is asked about at most once.
    pub fn pick(
        &mut self,
        local: IpAddr,
        remote: IpAddr,
        remote_port: u16,
        in_use: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        let flow = FlowKey { local, remote, local_port: 0, remote_port };
        let hash = flow.hash(&self.hash);
        let count = self.range.count();
        // The high half, spread over the range, and bits of the low half.
        let place = (((hash >> 32) * u64::from(count)) >> 32) as u32;
        let index = hash as usize % COUNTERS;
        let counter = self.counters.get_mut(index)?;
        let (port, passed) = scan(self.range, place + *counter, in_use)?;
        // Past what was found in use as well, so that the next pick does not ask again.
        *counter = (*counter + passed + 1 + self.rng.below(MAX_STEP)) % count;
        Some(port)
    }

    /// A port at random that `in_use` does not refuse, or `None` when it refuses the whole range.
    pub fn pick_random(&mut self, mut in_use: impl FnMut(u16) -> bool) -> Option<u16> {
        for _ in 0..RANDOM_TRIES {
            let port = self.range.at(self.rng.below(self.range.count()));
            if !in_use(port) {
                return Some(port);
            }
        }
        scan(self.range, self.rng.below(self.range.count()), in_use).map(|(port, _)| port)
    }
}

/// The first port that is not in use from `start` on, going round once, and how many were passed over.
fn scan(range: PortRange, start: u32, mut in_use: impl FnMut(u16) -> bool) -> Option<(u16, u32)> {
    (0..range.count()).map(|i| (range.at(start + i), i)).find(|&(port, _)| !in_use(port))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use proptest::prelude::*;

    use super::*;
    use crate::rng::{Rng, seed_from};

    fn allocator(first: u16, last: u16) -> PortAllocator {
        PortAllocator::new(PortRange::new(first, last).unwrap(), &mut Rng::new(seed_from(3)))
    }

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn ranges_that_hold_port_zero_or_nothing_are_refused() {
        assert!(PortRange::new(0, 10).is_err());
        let error = PortRange::new(11, 10).unwrap_err();
        assert_eq!(
            error.to_string(),
            "11-10 is no port range: the first port must be at least 1 and at most the last"
        );
        assert!(PortRange::new(1, 65_535).is_ok());
    }

    #[test]
    fn a_used_up_range_gives_none_and_is_asked_about_once() {
        let mut ports = allocator(100, 199);
        let mut asked = Vec::new();
        let none = ports.pick(ip(1), ip(2), 80, |p| {
            asked.push(p);
            true
        });
        assert_eq!(none, None);
        assert_eq!(asked.len(), 100);
        assert_eq!(asked.iter().collect::<HashSet<_>>().len(), 100);
        assert_eq!(ports.pick_random(|_| true), None);
    }

    #[test]
    fn the_last_free_port_is_found() {
        let mut ports = allocator(1, 65_535);
        assert_eq!(ports.pick(ip(1), ip(2), 80, |p| p != 777), Some(777));
        assert_eq!(ports.pick_random(|p| p != 778), Some(778));
        assert_eq!(allocator(9, 9).pick(ip(1), ip(2), 80, |_| false), Some(9));
    }

    #[test]
    fn ports_found_in_use_are_not_asked_about_again_by_the_next_pick() {
        let mut ports = allocator(1, 20_000);
        let origin = allocator(1, 20_000).pick(ip(1), ip(2), 80, |_| false).unwrap();
        let mut asked = 0;
        ports.pick(ip(1), ip(2), 80, |_| {
            asked += 1;
            asked <= 5_000
        });
        let next = ports.pick(ip(1), ip(2), 80, |_| false).unwrap();
        let moved = (u32::from(next) + 20_000 - u32::from(origin)) % 20_000;
        assert!((5_001..5_010).contains(&moved), "moved on by {moved}");
    }

    #[test]
    fn a_destination_sees_most_of_the_range_before_a_port_repeats() {
        let mut ports = allocator(32_768, 60_999);
        let mut seen = HashSet::new();
        let mut picks = 0;
        while seen.insert(ports.pick(ip(1), ip(2), 80, |_| false).unwrap()) {
            picks += 1;
        }
        // 28,232 ports in steps of 4.5 on average.
        assert!(picks > 28_232 / MAX_STEP as usize, "{picks}");
    }

    #[test]
    fn random_picks_spread_evenly() {
        let mut ports = allocator(1_000, 1_999);
        let mut bins = [0u32; 10];
        for _ in 0..10_000 {
            bins[usize::from(ports.pick_random(|_| false).unwrap() - 1_000) / 100] += 1;
        }
        assert!(bins.iter().all(|&n| (850..1_150).contains(&n)), "{bins:?}");
    }

    #[test]
    fn first_ports_to_different_destinations_spread_evenly() {
        let mut ports = allocator(1_000, 1_999);
        let mut bins = [0u32; 10];
        for n in 0..10_000 {
            bins[usize::from(ports.pick(ip(1), ip(n), 80, |_| false).unwrap() - 1_000) / 100] += 1;
        }
        assert!(bins.iter().all(|&n| (850..1_150).contains(&n)), "{bins:?}");
    }

    #[test]
    fn what_one_destination_sees_says_nothing_about_another() {
        let mut ports = allocator(32_768, 60_999);
        let mut offsets = BTreeSet::new();
        for n in 0..100 {
            let a = ports.pick(ip(1), ip(n), 80, |_| false).unwrap();
            let b = ports.pick(ip(1), ip(n + 1_000), 80, |_| false).unwrap();
            let c = ports.pick(ip(1), ip(n), 81, |_| false).unwrap();
            offsets.insert(b.wrapping_sub(a));
            offsets.insert(c.wrapping_sub(a));
        }
        assert!(offsets.len() > 190, "differences between sequences repeat: {}", offsets.len());
    }

    #[test]
    fn a_stack_with_another_seed_picks_other_ports() {
        let pick = |n| {
            let mut ports = PortAllocator::new(PortRange::default(), &mut Rng::new(seed_from(n)));
            ports.pick(ip(1), ip(2), 80, |_| false)
        };
        let picks: HashSet<_> = (0..100).map(pick).collect();
        assert!(picks.len() > 90);
    }

    proptest! {
        #[test]
        fn a_pick_is_free_and_in_range_while_one_is_left(
            first in 1u16.., len in 0u16..200, used in proptest::collection::hash_set(0u16..200, 0..200),
            flows in proptest::collection::vec((any::<u32>(), any::<u16>()), 1..20),
        ) {
            let last = first.saturating_add(len);
            let mut taken: HashSet<u16> = used.into_iter().map(|u| first.saturating_add(u)).collect();
            let mut ports = allocator(first, last);
            for (remote, port) in flows {
                let full = (first..=last).all(|p| taken.contains(&p));
                let pick = ports.pick(ip(9), ip(remote), port, |p| taken.contains(&p));
                prop_assert_eq!(pick.is_none(), full);
                if let Some(p) = pick {
                    prop_assert!((first..=last).contains(&p));
                    prop_assert!(taken.insert(p), "picked a port in use");
                }
            }
        }
    }
}
