//! From the addresses of a packet to the slot of its connection.
//!
//! [`FlowHasher`] is a keyed hash, so nobody outside can aim packets at one bucket. [`FlowTable`] stores it (the *tag*) and a
//! `u32` of the owner's; what the flow really is, the owner knows and is asked. A bucket is one cache line:
//!
//! ```text
//!   | 7 x tag: u32 (28 bytes) | 7 x value: u32 (28 bytes) | overflow: u32 | used: u32 |
//! ```
//!
//! A lookup compares the seven tags of one line, and goes on to another line only if the overflow count says that a
//! flow which belongs here did not fit (with 80 % of the slots taken, about one flow in ten). A miss costs the same.
//!
//! The tag is also what the bucket is chosen by, so that the table grows without asking the owner for hashes, and a flow whose
//! owner keeps it is entered, renamed and removed without hashing again. Two flows
//! with the same tag are told apart by the owner at the price of a comparison; with a million flows that is one lookup in
//! four thousand. The table grows by doubling, a few buckets with each change, so no single packet pays for it.

use core::hint::black_box;
use core::net::IpAddr;

use super::keyed::Sip;

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

impl FlowKey {
    /// The hash of the flow: of 12 bytes for IPv4, else of 36. No two flows have the same.
    #[inline]
    pub(crate) fn hash(&self, sip: &Sip) -> u64 {
        let ports = u32::from(self.local_port) << 16 | u32::from(self.remote_port);
        let last = |len: u64| len << 56 | u64::from(ports);
        if let (IpAddr::V4(local), IpAddr::V4(remote)) = (self.local, self.remote) {
            sip.hash(&[u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits()), last(12)])
        } else {
            self.hash_v6(sip, last(36))
        }
    }

    #[cold]
    fn hash_v6(&self, sip: &Sip, last: u64) -> u64 {
        let ([l0, l1], [r0, r1]) = (words(self.local), words(self.remote));
        sip.hash(&[l0, l1, r0, r1, last])
    }
}

/// SipHash-1-3 of flows under a secret key.
#[derive(Clone)]
pub struct FlowHasher(Sip);

impl FlowHasher {
    /// A hasher for one stack; `key` is secret and unpredictable.
    pub fn new(key: [u64; 2]) -> Self {
        Self(Sip::new(key, (1, 3)))
    }

    /// The hash of a flow.
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> u32 {
        (key.hash(&self.0) >> 32) as u32
    }
}

impl core::fmt::Debug for FlowHasher {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("FlowHasher(secret)")
    }
}

fn words(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().to_bits(),
        IpAddr::V6(a) => a.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

/// Slots per bucket.
const WIDTH: usize = 7;
/// How many buckets of the smaller table are emptied per change while the table grows.
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

    /// The bucket and slot of the flow with this tag and value, and how many buckets come before on its way.
    fn locate(&self, tag: u32, value: u32) -> Option<(usize, usize, usize)> {
        for (steps, at) in self.probe(tag).enumerate() {
            let bucket = &self.0[at];
            let mut hits = bucket.matches(tag);
            while hits != 0 {
                let slot = hits.trailing_zeros() as usize;
                if bucket.values[slot] == value {
                    return Some((at, slot, steps));
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
        let Some((at, slot, steps)) = self.locate(tag, value) else { return false };
        self.0[at].used &= !(1 << slot);
        for passed in self.probe(tag).take(steps) {
            self.0[passed].overflow -= 1;
        }
        true
    }

    fn replace(&mut self, tag: u32, old: u32, new: u32) -> bool {
        let Some((at, slot, _)) = self.locate(tag, old) else { return false };
        self.0[at].values[slot] = new;
        true
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

    /// Adds a flow with this tag under the owner's `value`. The caller has looked that it is not there yet.
    ///
    /// When four fifths of the slots are taken, a table of twice the size is allocated (the only allocation there is), and
    /// each following insertion or removal moves at most 28 flows there.
    pub fn insert(&mut self, tag: u32, value: u32) {
        if (self.len + 1) * 5 > self.buckets.0.len() * WIDTH * 4 {
            self.grow();
        }
        self.move_some(PACE);
        self.buckets.place(tag, value);
        self.len += 1;
    }

    /// The value of a flow with this tag of which `is_it` says that it is the one looked for.
    #[inline]
    pub fn find(&self, tag: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let found = self.buckets.find(tag, &mut is_it);
        if found.is_none() && !self.old.0.is_empty() {
            return self.old.find(tag, &mut is_it);
        }
        found
    }

    /// Gives the flow with this tag another value in place of `old`. Whether it was there.
    pub fn replace(&mut self, tag: u32, old: u32, new: u32) -> bool {
        self.buckets.replace(tag, old, new) || self.old.replace(tag, old, new)
    }

    /// Removes the flow with this tag and value. Whether it was there.
    pub fn remove(&mut self, tag: u32, value: u32) -> bool {
        let found = self.buckets.remove(tag, value) || self.old.remove(tag, value);
        self.len -= usize::from(found);
        self.move_some(PACE);
        found
    }

    /// Brings the line where a flow with this tag lies into the cache, so that a burst of lookups waits for memory once: touch
    /// all, then find all.
    pub fn touch(&self, tag: u32) {
        let mask = self.buckets.0.len().wrapping_sub(1);
        // A load whose value nobody waits for; the processor goes on while the line is fetched.
        black_box(self.buckets.0.get(tag as usize & mask).map(|b| b.used));
    }

    fn grow(&mut self) {
        self.move_some(usize::MAX);
        let size = (self.buckets.0.len() * 2).max(1);
        self.old = core::mem::replace(&mut self.buckets, Buckets(vec![Bucket::default(); size]));
        self.moved = 0;
    }

    /// Moves the flows of up to `count` buckets of the smaller table to the larger.
    #[inline]
    fn move_some(&mut self, count: usize) {
        if !self.old.0.is_empty() {
            self.go_on_moving(count);
        }
    }

    #[inline(never)]
    fn go_on_moving(&mut self, count: usize) {
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
        assert!(!table.replace(hasher.hash(&key(1)), 0, 1));
        for port in 0..5_000 {
            table.insert(hasher.hash(&key(port)), u32::from(port));
        }
        for port in 0..5_000 {
            table.touch(hasher.hash(&key(port)));
            assert_eq!(table.find(hasher.hash(&key(port)), |v| v == u32::from(port)), Some(u32::from(port)));
        }
        for port in (0..5_000).step_by(3) {
            let (tag, new) = (hasher.hash(&key(port)), u32::from(port) + 10_000);
            assert!(table.replace(tag, u32::from(port), new) && !table.replace(tag, u32::from(port), new));
            assert_eq!(table.find(tag, |v| v == new), Some(new));
            assert!(table.replace(tag, new, u32::from(port)));
        }
        assert!(table.remove(hasher.hash(&key(7)), 7) && !table.remove(hasher.hash(&key(7)), 7));
        assert_eq!(table.find(hasher.hash(&key(7)), |v| v == 7), None);
        assert_eq!(table.len(), 4_999);
    }
}
