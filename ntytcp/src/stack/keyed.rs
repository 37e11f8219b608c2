//! Hashing that a peer cannot steer, and generators split off the stack's one source of randomness.
//!
//! Every table whose keys come off the wire is hashed with SipHash-1-3 under a key drawn from the stack's
//! seed: nobody outside can aim many keys at one bucket, and the same seed still gives the same run.

use core::hash::BuildHasher;

use siphasher::sip::SipHasher13;

use crate::rng::{Rng, Seed};

/// Builds hashers under one secret key. For `HashMap` and, through [`BuildHasher::hash_one`], for tables of
/// our own.
#[derive(Clone, Copy, Debug)]
pub struct KeyedHash {
    key: [u64; 2],
}

impl KeyedHash {
    /// A hash function under a key drawn from `rng`.
    pub fn new(rng: &mut Rng) -> Self {
        Self { key: rng.key() }
    }
}

impl BuildHasher for KeyedHash {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.key[0], self.key[1])
    }
}

/// A generator of its own for one component, so that how often that component draws shifts no one else's
/// numbers.
pub(super) fn fork(rng: &mut Rng) -> Rng {
    let mut seed: Seed = [0; 32];
    for chunk in seed.chunks_exact_mut(8) {
        chunk.copy_from_slice(&rng.u64().to_le_bytes());
    }
    Rng::new(seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::seed_from;

    #[test]
    fn the_key_decides_the_hash_and_the_seed_decides_the_key() {
        let hash = |n| KeyedHash::new(&mut Rng::new(seed_from(n))).hash_one(42u32);
        assert_eq!(hash(1), hash(1));
        assert_ne!(hash(1), hash(2));
    }

    #[test]
    fn a_forked_generator_is_unrelated_to_its_parent() {
        let mut parent = Rng::new(seed_from(1));
        let mut child = fork(&mut parent);
        assert_ne!(child.u64(), parent.u64());
    }
}
