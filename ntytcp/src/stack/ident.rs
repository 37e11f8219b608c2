//! IPv4 identifications for packets that may be fragmented (RFC 6864, RFC 7739).
//!
//! A packet with DF set is atomic and carries identification 0: nobody looks at it. Every other one needs a number that
//! does not repeat for the same addresses and protocol while fragments may be under way, and that a stranger cannot
//! guess. One counter per bucket of a keyed hash of the destination, started at random, gives both, and tells a stranger
//! who watches the counter of its own bucket nothing about others.

use core::hash::Hasher;
use core::net::Ipv4Addr;

use siphasher::sip::SipHasher13;

use crate::rng::Rng;

/// More buckets separate destinations better; 512 bytes are cheap.
const BUCKETS: usize = 256;

/// The identification counters of one interface.
pub(crate) struct Idents {
    key: [u64; 2],
    counters: [u16; BUCKETS],
}

impl Idents {
    /// Counters that start at unpredictable numbers.
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let key = rng.key();
        Self { key, counters: core::array::from_fn(|_| rng.u32() as u16) }
    }

    /// The identification of the next packet to `dst` that is not atomic.
    pub(crate) fn next(&mut self, dst: Ipv4Addr) -> u16 {
        let mut hasher = SipHasher13::new_with_keys(self.key[0], self.key[1]);
        hasher.write_u32(dst.to_bits());
        let bucket = hasher.finish() as usize % BUCKETS;
        let Some(counter) = self.counters.get_mut(bucket) else { return 0 };
        *counter = counter.wrapping_add(1);
        *counter
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::seed_from;

    #[test]
    fn identifications_of_one_destination_repeat_only_after_65536() {
        let mut idents = Idents::new(&mut Rng::new(seed_from(1)));
        let dst = Ipv4Addr::new(10, 0, 0, 2);
        let mut seen = std::collections::HashSet::new();
        assert!((0..65_536).all(|_| seen.insert(idents.next(dst))));
        assert!(!seen.insert(idents.next(dst)));
    }
}
