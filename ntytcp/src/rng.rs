//! Every unpredictable number of a stack flows from one secret seed, so that seed + clock + frames determine
//! a whole conversation.
//!
//! The generator is ChaCha8: ephemeral ports (RFC 6056), IPv4 identifications and the keys of the demux and
//! of the ISN hash (RFC 6528) must not be guessable from earlier outputs.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng};

/// The secret that a stack is built with: 32 bytes from the operating system, or a constant in a test.
pub type Seed = [u8; 32];

/// The stack's only source of randomness.
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// A generator whose whole output is determined by `seed`.
    pub fn new(seed: Seed) -> Self {
        Self(ChaCha8Rng::from_seed(seed))
    }

    /// 32 unpredictable bits.
    pub fn u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// 64 unpredictable bits.
    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `0..bound`, or 0 when `bound` is 0. The bias of at most `bound / 2^64` is of no use to anyone.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u128::from(self.u64()) * u128::from(bound)) >> 64) as u32
    }

    /// A key for SipHash.
    pub fn key(&mut self) -> [u64; 2] {
        [self.u64(), self.u64()]
    }
}

/// Spreads a small number over a whole seed, for tests and simulations that name their seed.
pub fn seed_from(n: u64) -> Seed {
    let mut seed = [0; 32];
    ChaCha8Rng::seed_from_u64(n).fill_bytes(&mut seed);
    seed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers_and_bounds_hold() {
        let (mut a, mut b) = (Rng::new(seed_from(7)), Rng::new(seed_from(7)));
        for bound in 1..1_000 {
            let x = a.below(bound);
            assert_eq!(x, b.below(bound));
            assert!(x < bound);
        }
        assert_eq!(a.below(0), 0);
        assert_ne!(seed_from(1), seed_from(2));
    }
}
