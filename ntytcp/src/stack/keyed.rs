//! Hashing that a peer cannot steer, and generators split off the stack's one source of randomness.
//!
//! Every table whose keys come off the wire is hashed with SipHash-1-3 under a key drawn from the stack's
//! seed: nobody outside can aim many keys at one bucket, and the same seed still gives the same run.
//!
//! What is hashed for each connection is its flow, whole words, several times and under several keys. `Sip` is one short
//! loop for all of them: unrolled copies of it push other code out of the instruction cache.

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

/// SipHash, of whole words, under one key.
#[derive(Clone)]
pub(crate) struct Sip {
    /// The state before the first word.
    state: [u64; 4],
    /// Rounds per word, and at the end.
    rounds: (u8, u8),
}

impl Sip {
    /// SipHash-1-3 for `(1, 3)`, SipHash-2-4 for `(2, 4)`.
    pub(crate) fn new([k0, k1]: [u64; 2], rounds: (u8, u8)) -> Self {
        let text =
            [0x736f_6d65_7073_6575, 0x646f_7261_6e64_6f6d, 0x6c79_6765_6e65_7261, 0x7465_6462_7974_6573];
        Self { state: [k0 ^ text[0], k1 ^ text[1], k0 ^ text[2], k1 ^ text[3]], rounds }
    }

    /// The hash of the bytes in `words`, of which the last has their number in its uppermost byte, as SipHash has it.
    #[inline(never)]
    pub(crate) fn hash(&self, words: &[u64]) -> u64 {
        let (mut state, (each, last)) = (self.state, self.rounds);
        for &word in words {
            state[3] ^= word;
            state = mix(state, each);
            state[0] ^= word;
        }
        state[2] ^= 0xff;
        mix(state, last).into_iter().fold(0, |hash, word| hash ^ word)
    }
}

impl core::fmt::Debug for Sip {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Sip(secret)")
    }
}

/// `rounds` times SipRound.
#[inline(always)]
fn mix([mut a, mut b, mut c, mut d]: [u64; 4], rounds: u8) -> [u64; 4] {
    for _ in 0..rounds {
        a = a.wrapping_add(b);
        c = c.wrapping_add(d);
        b = b.rotate_left(13) ^ a;
        d = d.rotate_left(16) ^ c;
        a = a.rotate_left(32);
        c = c.wrapping_add(b);
        a = a.wrapping_add(d);
        b = b.rotate_left(17) ^ c;
        d = d.rotate_left(21) ^ a;
        c = c.rotate_left(32);
    }
    [a, b, c, d]
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
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use siphasher::sip::SipHasher24;

    #[test]
    fn the_key_decides_the_hash_and_the_seed_decides_the_key() {
        let hash = |n| KeyedHash::new(&mut Rng::new(seed_from(n))).hash_one(42u32);
        assert_eq!(hash(1), hash(1));
        assert_ne!(hash(1), hash(2));
    }

    proptest! {
        #[test]
        fn words_are_hashed_as_their_bytes(key: [u64; 2], blocks in vec(any::<u64>(), 0..6), rest: [u8; 4]) {
            let last = (8 * blocks.len() as u64 + 4) << 56 | u64::from(u32::from_le_bytes(rest));
            let words: Vec<u64> = blocks.iter().copied().chain([last]).collect();
            let bytes: Vec<u8> = blocks.iter().flat_map(|word| word.to_le_bytes()).chain(rest).collect();
            let [k0, k1] = key;
            prop_assert_eq!(Sip::new(key, (1, 3)).hash(&words), SipHasher13::new_with_keys(k0, k1).hash(&bytes));
            prop_assert_eq!(Sip::new(key, (2, 4)).hash(&words), SipHasher24::new_with_keys(k0, k1).hash(&bytes));
        }
    }

    #[test]
    fn a_forked_generator_is_unrelated_to_its_parent() {
        let mut parent = Rng::new(seed_from(1));
        let mut child = fork(&mut parent);
        assert_ne!(child.u64(), parent.u64());
    }
}
