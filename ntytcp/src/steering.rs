//! Which shard a flow lives on: receive-side scaling, computed here or by the device, always with the same result.
//!
//! ```text
//!   addresses, ports --Toeplitz, keyed--> hash --low 7 bits--> table of 128 --> shard = queue
//! ```
//!
//! The hash is the one of Microsoft's receive-side scaling, over the packet as it arrives: source address, destination address,
//! and for TCP and UDP source port, destination port. A device that has RSS is given [`Steering::key`] and [`Steering::table`] and
//! delivers each flow to the queue of its shard. Any other device delivers as it likes, and who receives a frame hands it over
//! ([`Placement`](crate::placement::Placement) knows to whom). The key is secret: who knew it could aim all his flows at one shard.

use core::net::IpAddr;

use crate::rng::Rng;

/// Bits of input at most: two IPv6 addresses and two ports.
const NIBBLES: usize = 72;

/// The mapping from flows to shards. See the module documentation.
#[derive(Clone, PartialEq, Eq)]
pub struct Steering {
    key: [u8; Self::KEY_LEN],
    table: [u16; Self::TABLE_LEN],
    shards: usize,
    /// What each value of each four bits of input adds to the hash.
    rows: Box<[[u32; 16]; NIBBLES]>,
}

impl Steering {
    /// Length of the key in bytes, as devices want it.
    pub const KEY_LEN: usize = 40;
    /// Entries of the table, as devices want it.
    pub const TABLE_LEN: usize = 128;
    /// How many shards a host may have.
    pub const MAX_SHARDS: usize = 64;

    /// Spreads flows evenly over `shards` shards (1 to [`Steering::MAX_SHARDS`]), with a key that nobody can know.
    pub fn new(shards: usize, rng: &mut Rng) -> Self {
        let mut key = [0; Self::KEY_LEN];
        for chunk in key.chunks_mut(4) {
            chunk.copy_from_slice(&rng.u32().to_le_bytes());
        }
        Self::with_key(shards, key)
    }

    /// As [`Steering::new`] with a given key: for a device whose key cannot be set.
    pub fn with_key(shards: usize, key: [u8; Self::KEY_LEN]) -> Self {
        let shards = shards.clamp(1, Self::MAX_SHARDS);
        let window = |bit: usize| {
            let bytes =
                key.iter().skip(bit / 8).take(5).fold(0_u64, |word, &byte| word << 8 | u64::from(byte));
            // The last window ends with the key: there is no fifth byte, and no bit of it is needed.
            let have = (Self::KEY_LEN - bit / 8).min(5);
            (bytes << (8 * (5 - have)) << (bit % 8) >> 8) as u32
        };
        let mut rows = Box::new([[0; 16]; NIBBLES]);
        for (nibble, row) in rows.iter_mut().enumerate() {
            for (value, sum) in row.iter_mut().enumerate() {
                *sum = (0..4)
                    .filter(|bit| value >> (3 - bit) & 1 == 1)
                    .fold(0, |s, bit| s ^ window(4 * nibble + bit));
            }
        }
        Self { key, table: core::array::from_fn(|i| (i % shards) as u16), shards, rows }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// The Toeplitz key, for a device that hashes.
    pub fn key(&self) -> &[u8; Self::KEY_LEN] {
        &self.key
    }

    /// The shard, which is the queue, for the low seven bits of the hash: for a device that hashes.
    pub fn table(&self) -> &[u16; Self::TABLE_LEN] {
        &self.table
    }

    /// The shard of a hash.
    #[inline]
    pub fn shard_of(&self, hash: u32) -> usize {
        self.table.get(hash as usize % Self::TABLE_LEN).copied().unwrap_or_default().into()
    }

    /// The hash of what arrives from `src` for `dst`, which are of one family, with the ports of either in that order if they
    /// are known.
    pub fn hash(&self, src: IpAddr, dst: IpAddr, ports: Option<(u16, u16)>) -> u32 {
        let mut hash = Hash { rows: self.rows.iter(), sum: 0 };
        for addr in [src, dst] {
            match addr {
                IpAddr::V4(addr) => hash.add(&addr.octets()),
                IpAddr::V6(addr) => hash.add(&addr.octets()),
            }
        }
        if let Some((src, dst)) = ports {
            hash.add(&src.to_be_bytes());
            hash.add(&dst.to_be_bytes());
        }
        hash.sum
    }
}

impl core::fmt::Debug for Steering {
    /// Without the key, which is a secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Steering").field("shards", &self.shards).finish_non_exhaustive()
    }
}

/// A hash under way.
struct Hash<'a> {
    rows: core::slice::Iter<'a, [u32; 16]>,
    sum: u32,
}

impl Hash<'_> {
    #[inline]
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            for nibble in [byte >> 4, byte & 15] {
                let entry = self.rows.next().and_then(|row| row.get(usize::from(nibble)));
                self.sum ^= entry.copied().unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::rng::{Rng, seed_from};

    /// The key of Microsoft's verification suite for receive-side scaling.
    const VERIFICATION_KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    fn steering(shards: usize) -> Steering {
        Steering::new(shards, &mut Rng::new(seed_from(1)))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn hashes_are_those_of_the_verification_suite() {
        let steering = Steering::with_key(1, VERIFICATION_KEY);
        for (src, dst, ports, with_ports, addresses) in [
            ("66.9.149.187", "161.142.100.80", (2_794, 1_766), 0x51cc_c178, 0x323e_8fc2),
            ("199.92.111.2", "65.69.140.83", (14_230, 4_739), 0xc626_b0ea, 0xd718_262a),
            ("24.19.198.95", "12.22.207.184", (12_898, 38_024), 0x5c2b_394a, 0xd2d0_a5de),
            ("3ffe:2501:200:1fff::7", "3ffe:2501:200:3::1", (2_794, 1_766), 0x4020_7d3d, 0x2cc1_8cd5),
            ("3ffe:501:8::260:97ff:fe40:efab", "ff02::1", (14_230, 4_739), 0xdde5_1bbf, 0x0f0c_461c),
        ] {
            assert_eq!(steering.hash(ip(src), ip(dst), Some(ports)), with_ports, "{src}");
            assert_eq!(steering.hash(ip(src), ip(dst), None), addresses, "{src}");
        }
    }

    #[test]
    fn flows_spread_evenly_over_any_number_of_shards() {
        for shards in [1, 2, 3, 7, 64] {
            let (steering, mut count) = (steering(shards), HashMap::new());
            for port in 0..50_000 {
                let home = steering.shard_of(steering.hash(ip("10.0.0.1"), ip("10.0.0.2"), Some((port, 80))));
                *count.entry(home).or_insert(0_usize) += 1;
            }
            assert_eq!(count.len(), shards);
            let fair = 50_000 / shards;
            assert!(count.values().all(|n| (fair / 2..fair * 2).contains(n)), "{count:?}");
        }
        assert_eq!((steering(0).shards(), steering(1_000).shards()), (1, 64));
    }

    #[test]
    fn another_seed_steers_otherwise() {
        let homes = |seed| {
            let steering = Steering::new(2, &mut Rng::new(seed_from(seed)));
            (0..64)
                .map(|port| {
                    steering.shard_of(steering.hash(ip("10.0.0.1"), ip("10.0.0.2"), Some((port, 80))))
                })
                .collect::<Vec<_>>()
        };
        assert_ne!(homes(1), homes(2));
        assert!(!format!("{:?}", steering(2)).contains("key"), "the key is a secret");
    }
}
