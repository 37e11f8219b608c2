//! From the addresses of a packet to the slot of its connection.
//!
//! [`FlowHasher`] is a keyed hash, so nobody outside can aim packets at one bucket. [`FlowTable`] stores 32 bits of
//! it and a `u32` of the owner's; what the flow really is, the owner knows and is asked. A bucket is one cache line:
//!
//! ```text
//!   | 7 x tag: u32 (28 bytes) | 7 x value: u32 (28 bytes) | overflow: u32 | used: u32 |
//! ```
//!
//! A lookup compares the seven tags of one line, and goes on to another line only if the overflow count says that a
//! flow which belongs here did not fit (with 80 % of the slots taken, about one flow in ten). A miss costs the same.
//!
//! The tag is also what the bucket is chosen by, so that the table grows without asking the owner for hashes. Two flows
//! with the same tag are told apart by the owner at the price of a comparison; with a million flows that is one lookup in
//! four thousand. The table grows by doubling. The new table is cleared, and later filled, a few buckets with each change;
//! what is left for a single one is to reserve and to release memory, some hundred microseconds at a million flows.

use core::hash::Hasher;
use core::hint::black_box;
use core::net::IpAddr;
use siphasher::sip::SipHasher13;

/// What tells one flow from another: both ends, as this host sees them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey {
    /// Our address.
    pub local: IpAddr,
    /// The peer's address.
    pub remote: IpAddr,
    /// Our port.
    pub local_port: u16,
    /// The peer's port.
    pub remote_port: u16,
}

/// SipHash-1-3 of flows under a secret key.
#[derive(Clone)]
pub struct FlowHasher(SipHasher13);

impl FlowHasher {
    /// A hasher for one stack; `key` is secret and unpredictable.
    pub fn new(key: [u64; 2]) -> Self {
        Self(SipHasher13::new_with_keys(key[0], key[1]))
    }

    /// The hash of a flow: of 12 bytes for IPv4, else of 36.
    pub fn hash(&self, key: &FlowKey) -> u64 {
        // Written as whole words: less than half the time of hashing a slice of bytes.
        let mut hash = self.0;
        if let (IpAddr::V4(local), IpAddr::V4(remote)) = (key.local, key.remote) {
            hash.write_u64(u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits()));
        } else {
            for address in [bits(key.local), bits(key.remote)] {
                hash.write_u64((address >> 64) as u64);
                hash.write_u64(address as u64);
            }
        }
        hash.write_u32(u32::from(key.local_port) << 16 | u32::from(key.remote_port));
        hash.finish()
    }
}

impl core::fmt::Debug for FlowHasher {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("FlowHasher(secret)")
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().to_bits(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// Slots per bucket.
const WIDTH: usize = 7;
/// How many buckets are cleared before the table grows, and emptied after, per change. With a table of `n` buckets there
/// are `1.4 n` insertions between three and four fifths to clear `2 n`, and more than that to empty `n`.
const PACE: usize = 4;

/// One cache line. All zeros is an empty bucket.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u32; WIDTH],
    values: [u32; WIDTH],
    /// How many flows that came by here lie further on.
    overflow: u32,
    /// Which slots are taken.
    used: u32,
}

impl Bucket {
    /// The slots that hold `tag`, as bits.
    fn matches(&self, tag: u32) -> u32 {
        let mut bits = 0;
        for (i, &t) in self.tags.iter().enumerate() {
            bits |= u32::from(t == tag) << i;
        }
        bits & self.used
    }

    fn vacant(&self) -> Option<usize> {
        let slot = (!self.used).trailing_zeros() as usize;
        (slot < WIDTH).then_some(slot)
    }
}

/// A power of two of buckets; none at all is an empty table.
#[derive(Default)]
struct Buckets(Vec<Bucket>);

impl Buckets {
    /// The bucket indices that a tag may be found at, in order: every bucket once, since the step is odd.
    fn probe(&self, tag: u32) -> impl Iterator<Item = usize> + use<> {
        let mask = self.0.len().wrapping_sub(1);
        let step = (tag >> 16) as usize | 1;
        (0..self.0.len()).map(move |i| (tag as usize).wrapping_add(i.wrapping_mul(step)) & mask)
    }

    /// Puts a flow into the first bucket on its way that has room.
    fn place(&mut self, tag: u32, value: u32) {
        for at in self.probe(tag) {
            let bucket = &mut self.0[at];
            if let Some(slot) = bucket.vacant() {
                bucket.tags[slot] = tag;
                bucket.values[slot] = value;
                bucket.used |= 1 << slot;
                return;
            }
            bucket.overflow += 1;
        }
    }

    fn find(&self, tag: u32, is_it: &mut impl FnMut(u32) -> bool) -> Option<u32> {
        for at in self.probe(tag) {
            let bucket = &self.0[at];
            let mut hits = bucket.matches(tag);
            while hits != 0 {
                let value = bucket.values[hits.trailing_zeros() as usize];
                if is_it(value) {
                    return Some(value);
                }
                hits &= hits - 1;
            }
            if bucket.overflow == 0 {
                break;
            }
        }
        None
    }

    fn remove(&mut self, tag: u32, value: u32) -> bool {
        for (steps, at) in self.probe(tag).enumerate() {
            let bucket = &mut self.0[at];
            let mut hits = bucket.matches(tag);
            while hits != 0 {
                let slot = hits.trailing_zeros() as usize;
                if bucket.values[slot] == value {
                    bucket.used &= !(1 << slot);
                    for passed in self.probe(tag).take(steps) {
                        self.0[passed].overflow -= 1;
                    }
                    return true;
                }
                hits &= hits - 1;
            }
            if bucket.overflow == 0 {
                break;
            }
        }
        false
    }
}

/// An exact-match table of flows. See the module.
///
/// It holds up to 2³² entries in theory; beyond some hundred million, equal tags make every lookup ask its owner about more
/// than one flow.
#[derive(Default)]
pub struct FlowTable {
    buckets: Buckets,
    /// While the table grows: the smaller table, of which the buckets before `moved` were emptied.
    old: Buckets,
    moved: usize,
    /// Before the table grows: the beginning of the larger table.
    next: Vec<Bucket>,
    len: usize,
}

impl FlowTable {
    /// An empty table, which allocates when the first flow comes.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many flows it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a flow with this hash under the owner's `value`. The caller has looked that it is not there yet.
    ///
    /// When three fifths of the slots are taken, a table of twice the size is allocated (the only allocation there is); at
    /// four fifths it takes over, and each following insertion or removal moves at most 28 flows there.
    pub fn insert(&mut self, hash: u64, value: u32) {
        let (taken, slots) = (self.len + 1, self.buckets.0.len() * WIDTH);
        if taken * 5 > slots * 3 {
            self.prepare(PACE);
        }
        if taken * 5 > slots * 4 {
            self.grow();
        }
        self.move_some(PACE);
        self.buckets.place(tag(hash), value);
        self.len += 1;
    }

    /// The value of a flow with this hash of which `is_it` says that it is the one looked for.
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let found = self.buckets.find(tag(hash), &mut is_it);
        if found.is_none() && !self.old.0.is_empty() {
            return self.old.find(tag(hash), &mut is_it);
        }
        found
    }

    /// Removes the flow with this hash and value. Whether it was there.
    pub fn remove(&mut self, hash: u64, value: u32) -> bool {
        let tag = tag(hash);
        let found = self.buckets.remove(tag, value) || self.old.remove(tag, value);
        self.len -= usize::from(found);
        self.move_some(PACE);
        found
    }

    /// Brings the line where a flow with this hash lies into the cache, so that a burst of lookups waits for memory once: touch
    /// all, then find all.
    pub fn touch(&self, hash: u64) {
        let mask = self.buckets.0.len().wrapping_sub(1);
        // A load whose value nobody waits for; the processor goes on while the line is fetched.
        black_box(self.buckets.0.get(tag(hash) as usize & mask).map(|b| b.used));
    }

    /// Clears up to `count` more buckets of the table that is going to take over.
    fn prepare(&mut self, count: usize) {
        let size = (self.buckets.0.len() * 2).max(1);
        if self.next.capacity() == 0 {
            self.next = Vec::with_capacity(size);
        }
        self.next.resize(self.next.len().saturating_add(count).min(size), Bucket::default());
    }

    fn grow(&mut self) {
        self.move_some(usize::MAX);
        self.prepare(usize::MAX);
        self.old = core::mem::replace(&mut self.buckets, Buckets(core::mem::take(&mut self.next)));
        self.moved = 0;
    }

    /// Moves the flows of up to `count` buckets of the smaller table to the larger.
    fn move_some(&mut self, count: usize) {
        if self.old.0.is_empty() {
            return;
        }
        let end = self.moved.saturating_add(count).min(self.old.0.len());
        for bucket in &mut self.old.0[self.moved..end] {
            // Overflow counts of the smaller table stay: too high is only slower, and it is gone soon.
            let used = core::mem::take(&mut bucket.used);
            for slot in (0..WIDTH).filter(|slot| used & 1 << slot != 0) {
                self.buckets.place(bucket.tags[slot], bucket.values[slot]);
            }
        }
        self.moved = end;
        if end == self.old.0.len() {
            self.old = Buckets::default();
        }
    }
}

/// The part of the hash that is stored, and that chooses the bucket.
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

impl core::fmt::Debug for FlowTable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FlowTable")
            .field("len", &self.len)
            .field("buckets", &self.buckets.0.len())
            .field("growing", &!self.old.0.is_empty())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::hash_map::Entry;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn a_flow_is_found_until_it_is_removed() {
        let hasher = FlowHasher::new([1, 2]);
        let key = |port| FlowKey {
            local: [10, 0, 0, 1].into(),
            remote: [10, 0, 0, 2].into(),
            local_port: 80,
            remote_port: port,
        };
        let mut table = FlowTable::new();
        assert_eq!(table.find(hasher.hash(&key(1)), |_| true), None);
        for port in 0..5_000 {
            table.insert(hasher.hash(&key(port)), u32::from(port));
        }
        for port in 0..5_000 {
            table.touch(hasher.hash(&key(port)));
            assert_eq!(table.find(hasher.hash(&key(port)), |v| v == u32::from(port)), Some(u32::from(port)));
        }
        assert!(table.remove(hasher.hash(&key(7)), 7) && !table.remove(hasher.hash(&key(7)), 7));
        assert_eq!(table.find(hasher.hash(&key(7)), |v| v == 7), None);
        assert_eq!(table.len(), 4_999);
    }

    #[test]
    fn families_directions_and_keys_hash_apart() {
        let v4 = FlowKey {
            local: [10, 0, 0, 1].into(),
            remote: [10, 0, 0, 2].into(),
            local_port: 1,
            remote_port: 2,
        };
        let mapped = |a| match a {
            IpAddr::V4(a) => IpAddr::V6(a.to_ipv6_mapped()),
            v6 => v6,
        };
        let keys = [
            v4,
            FlowKey { local: v4.remote, remote: v4.local, ..v4 },
            FlowKey { local_port: 2, remote_port: 1, ..v4 },
            FlowKey { local: mapped(v4.local), remote: mapped(v4.remote), ..v4 },
        ];
        let hashes: HashSet<u64> = [[0, 0], [0, 1], [1, 0]]
            .into_iter()
            .flat_map(|secret| keys.map(|key| FlowHasher::new(secret).hash(&key)))
            .collect();
        assert_eq!(hashes.len(), 12);
    }

    #[test]
    fn lookups_stay_short_while_the_table_grows() {
        let hasher = FlowHasher::new([3, 4]);
        let mut table = FlowTable::new();
        let mut asked = 0;
        for n in 0..100_000u32 {
            let hash = |n: u32| hasher.0.hash(&n.to_be_bytes());
            table.insert(hash(n), n);
            let found = table.find(hash(n / 2), |v| {
                asked += 1;
                v == n / 2
            });
            assert_eq!(found, Some(n / 2));
        }
        assert!(asked < 100_200, "the owner is asked about the right flow, nearly always: {asked}");
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u64),
        Remove(u64),
        Find(u64),
        Many(u32),
    }

    /// Few hashes, some with equal tags, some that share only the bucket.
    fn hash() -> impl Strategy<Value = u64> {
        (0..60u64, 0..3u64).prop_map(|(high, low)| (high << 32).wrapping_mul(0x4001) | low)
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => hash().prop_map(Op::Insert),
            5 => hash().prop_map(Op::Remove),
            6 => hash().prop_map(Op::Find),
            1 => (0..40u32).prop_map(Op::Many),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_behaves_as_a_hash_map(ops in prop::collection::vec(op(), 1..300)) {
            let mut table = FlowTable::new();
            // The owner: which flow a value stands for. Here the whole hash is the flow.
            let mut flows: Vec<u64> = Vec::new();
            let mut model: HashMap<u64, u32> = HashMap::new();
            let mut spread = 1u64;
            for op in ops {
                let mut insert = |hash: u64| {
                    let value = flows.len() as u32;
                    if let Entry::Vacant(e) = model.entry(hash) {
                        e.insert(value);
                        flows.push(hash);
                        table.insert(hash, value);
                    }
                };
                match op {
                    Op::Insert(hash) => insert(hash),
                    Op::Many(n) => (0..n).for_each(|_| {
                        spread = spread.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xABCD;
                        insert(spread);
                    }),
                    Op::Remove(hash) => match model.remove(&hash) {
                        Some(value) => prop_assert!(table.remove(hash, value)),
                        None => prop_assert!(!table.remove(hash, u32::MAX)),
                    },
                    Op::Find(hash) => {
                        let found = table.find(hash, |value| flows[value as usize] == hash);
                        prop_assert_eq!(found, model.get(&hash).copied());
                    }
                }
                prop_assert_eq!(table.len(), model.len());
            }
            for (&hash, &value) in &model {
                prop_assert_eq!(table.find(hash, |v| flows[v as usize] == hash), Some(value));
                prop_assert!(table.remove(hash, value));
            }
            prop_assert!(table.is_empty());
            prop_assert!(table.old.0.iter().all(|b| b.used == 0));
            prop_assert!(table.buckets.0.iter().all(|b| (b.used, b.overflow) == (0, 0)), "every count was taken back");
        }
    }
}
