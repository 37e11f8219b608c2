//! Fragments in virtual time, and against a map of bytes.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::rng::{Rng, seed_from};

const HEADER: [u8; 20] = [0x45; 20];
const UDP: u8 = 17;

fn reassembler(cfg: ReassemblyConfig) -> Reassembler {
    Reassembler::new(cfg, &mut Rng::new(seed_from(1)))
}

fn key(src: u32, ident: u32) -> FragmentKey {
    FragmentKey { src: IpAddr::V4(src.into()), dst: IpAddr::V4(1.into()), ident, protocol: UDP }
}

fn more(offset: usize, payload: &[u8]) -> Fragment<'_> {
    Fragment { offset, end: FragmentEnd::More, header: &HEADER, payload }
}

fn last(offset: usize, payload: &[u8]) -> Fragment<'_> {
    Fragment { end: FragmentEnd::Last, ..more(offset, payload) }
}

/// `len` bytes, each different from its neighbors and from those at the same place of another `seed`.
fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7) as u8 ^ (i >> 8) as u8 ^ seed).collect()
}

fn outcome(r: &mut Reassembler, fragment: Fragment<'_>) -> FragmentOutcome {
    r.insert(Instant::ZERO, key(9, 1), fragment)
}

#[track_caller]
fn assert_kept(outcome: FragmentOutcome) {
    assert!(matches!(outcome, FragmentOutcome::Incomplete), "{outcome:?}");
}

#[track_caller]
fn assert_dropped(outcome: FragmentOutcome, reason: DropReason) {
    assert!(matches!(outcome, FragmentOutcome::Drop(r) if r == reason), "{outcome:?}");
}

#[track_caller]
fn complete(outcome: FragmentOutcome) -> Reassembled {
    match outcome {
        FragmentOutcome::Complete(datagram) => datagram,
        other => panic!("not complete: {other:?}"),
    }
}

/// Nothing is under way and nothing is charged.
#[track_caller]
fn assert_empty(r: &Reassembler) {
    assert_eq!((r.len(), r.bytes(), r.sources.len(), r.next_deadline()), (0, 0, 0, None));
}

#[test]
fn fragments_in_order_become_the_datagram_with_the_header_of_the_first() {
    let mut r = reassembler(ReassemblyConfig::default());
    let data = bytes(1, 3_000);
    assert_kept(outcome(&mut r, more(0, &data[..1_480])));
    let second = Fragment { header: &[0x46; 24], ..more(1_480, &data[1_480..2_960]) };
    assert_kept(outcome(&mut r, second));
    let whole = complete(outcome(&mut r, last(2_960, &data[2_960..])));
    assert_eq!((whole.payload(), whole.header()), (&data[..], &HEADER[..]));
    assert_empty(&r);
}

#[test]
fn fragments_in_reverse_order_become_the_datagram_too() {
    let mut r = reassembler(ReassemblyConfig::default());
    let data = bytes(1, 100);
    assert_kept(outcome(&mut r, last(96, &data[96..])));
    assert_kept(outcome(&mut r, more(48, &data[48..96])));
    let whole = complete(outcome(&mut r, more(0, &data[..48])));
    assert_eq!((whole.payload(), whole.header()), (&data[..], &HEADER[..]));
    assert_empty(&r);
}

#[test]
fn datagrams_of_different_keys_do_not_mix() {
    let mut r = reassembler(ReassemblyConfig::default());
    let (a, b) = (bytes(1, 32), bytes(2, 32));
    let other_protocol = FragmentKey { protocol: 1, ..key(9, 1) };
    for other in [key(9, 2), key(8, 1), other_protocol] {
        assert_kept(r.insert(Instant::ZERO, key(9, 1), more(0, &a[..16])));
        assert_kept(r.insert(Instant::ZERO, other, more(0, &b[..16])));
        assert_eq!(complete(r.insert(Instant::ZERO, other, last(16, &b[16..]))).payload(), b);
        assert_eq!(complete(r.insert(Instant::ZERO, key(9, 1), last(16, &a[16..]))).payload(), a);
    }
}

#[test]
fn an_exact_duplicate_changes_nothing() {
    let mut r = reassembler(ReassemblyConfig::default());
    let data = bytes(1, 40);
    assert_kept(outcome(&mut r, more(0, &data[..16])));
    assert_kept(outcome(&mut r, last(32, &data[32..])));
    let held = r.bytes();
    assert_kept(outcome(&mut r, more(0, &data[..16])));
    assert_kept(outcome(&mut r, last(32, &data[32..])));
    assert_eq!(r.bytes(), held);
    assert_eq!(complete(outcome(&mut r, more(16, &data[16..32]))).payload(), data);
}

#[test]
fn an_overlap_drops_the_datagram_and_what_comes_after_until_the_timeout() {
    let data = bytes(1, 64);
    let other = bytes(2, 64);
    let second = [
        ("same range, other bytes", more(16, &other[16..32])),
        ("same range, but the last", last(16, &data[16..32])),
        ("starts inside", more(24, &data[24..40])),
        ("ends inside", more(8, &data[8..24])),
        ("covers", more(8, &data[8..40])),
        ("is covered", more(16, &data[16..24])),
    ];
    for (what, overlap) in second {
        let mut r = reassembler(ReassemblyConfig::default());
        assert_kept(outcome(&mut r, more(16, &data[16..32])));
        assert_dropped(outcome(&mut r, overlap), DropReason::FragmentOverlap);
        assert_dropped(outcome(&mut r, more(0, &data[..16])), DropReason::FragmentOverlap);
        assert_eq!((r.len(), r.bytes()), (1, OVERHEAD), "{what}: only the key is kept");
        assert_eq!(
            r.sources.values().map(|s| s.bytes).sum::<usize>(),
            OVERHEAD,
            "{what}: nor does the source pay"
        );
        r.on_timeout(Instant::from_millis(30_000));
        assert_eq!(r.poll_expired(), None, "{what}: no ICMP for an attack");
        assert_empty(&r);
        assert_kept(outcome(&mut r, more(0, &data[..16])));
    }
}

#[test]
fn data_beyond_the_end_and_a_second_end_are_overlaps() {
    let data = bytes(1, 64);
    for (first, second) in [
        (last(32, &data[32..40]), more(40, &data[40..48])),
        (last(32, &data[32..40]), last(48, &data[48..50])),
        (last(32, &data[32..40]), last(16, &data[16..20])),
        (more(40, &data[40..48]), last(16, &data[16..24])),
    ] {
        let mut r = reassembler(ReassemblyConfig::default());
        assert_kept(outcome(&mut r, first));
        assert_dropped(outcome(&mut r, second), DropReason::FragmentOverlap);
    }
}

#[test]
fn fragments_that_make_no_sense_leave_no_trace() {
    let data = bytes(1, 70_000);
    let mut r = reassembler(ReassemblyConfig::default());
    for bad in [
        more(0, &data[..20]),
        more(16, &data[..0]),
        last(16, &data[..0]),
        more(20, &data[..16]),
        last(65_528, &data[..8]),
        last(usize::MAX - 7, &data[..8]),
        last(0, &data),
        more(0, &data[..8]),
        Fragment { header: &[], ..more(0, &data[..16]) },
    ] {
        assert_dropped(outcome(&mut r, bad), DropReason::Malformed);
    }
    let tcp = FragmentKey { protocol: TCP, ..key(9, 1) };
    let tiny = r.insert(Instant::ZERO, tcp, more(8, &data[..16]));
    assert_dropped(tiny, DropReason::Malformed);
    assert_empty(&r);
}

#[test]
fn the_largest_datagram_fits_and_one_byte_more_does_not() {
    let mut r = reassembler(ReassemblyConfig::default());
    let data = bytes(1, 65_535 - 20);
    let mut end = None;
    for (i, chunk) in data.chunks(552).enumerate() {
        let offset = i * 552;
        let fragment =
            if offset + chunk.len() == data.len() { last(offset, chunk) } else { more(offset, chunk) };
        end = Some(outcome(&mut r, fragment));
    }
    assert_eq!(complete(end.unwrap()).payload(), data, "ping -s 65507 over an MTU of 576");

    // Later fragments with a short header, the first with a long one: together too long.
    assert_kept(outcome(&mut r, more(16, &data[16..65_504])));
    assert_kept(outcome(&mut r, last(65_504, &data[65_504..])));
    let first = Fragment { header: &[0x4f; 60], ..more(0, &data[..16]) };
    assert_dropped(outcome(&mut r, first), DropReason::Malformed);
}

#[test]
fn a_timeout_quotes_fragment_zero_if_it_was_seen() {
    let mut r = reassembler(ReassemblyConfig::default());
    let data = bytes(1, 64);
    assert_kept(r.insert(Instant::ZERO, key(9, 1), more(0, &data[..32])));
    assert_kept(r.insert(Instant::from_millis(20_000), key(9, 1), more(40, &data[40..48])));
    assert_kept(r.insert(Instant::from_millis(1), key(9, 2), more(16, &data[16..32])));
    assert_eq!(
        r.next_deadline(),
        Some(Instant::from_millis(30_000)),
        "the timer runs from the first fragment"
    );
    r.on_timeout(Instant::from_millis(29_999));
    assert_eq!(r.poll_expired(), None);
    r.on_timeout(Instant::from_millis(30_001));
    let quote = [&HEADER[..], &data[..8]].concat().into_boxed_slice();
    let expired = |ident, first_fragment| {
        Some(Expired { key: key(9, ident), reason: DropReason::FragmentTimeout, first_fragment })
    };
    assert_eq!(r.poll_expired(), expired(1, Some(quote)));
    assert_eq!(r.poll_expired(), expired(2, None));
    assert_eq!(r.poll_expired(), None);
    assert_empty(&r);
}

#[test]
fn an_atomic_fragment_is_whole_whatever_else_has_its_key() {
    let mut r = reassembler(ReassemblyConfig::default());
    let data = bytes(1, 64);
    assert_kept(outcome(&mut r, more(0, &data[..32])));
    assert_eq!(complete(outcome(&mut r, last(0, &data[..7]))).payload(), &data[..7]);
    assert!(complete(outcome(&mut r, last(0, &[]))).payload().is_empty());
    assert_eq!(complete(outcome(&mut r, last(32, &data[32..]))).payload(), data);
}

#[test]
fn a_datagram_in_too_many_pieces_stays_incomplete() {
    let mut r = reassembler(ReassemblyConfig { max_fragments: 4, ..ReassemblyConfig::default() });
    let data = bytes(1, 200);
    for i in 0..4 {
        assert_kept(outcome(&mut r, more(i * 32, &data[i * 32..i * 32 + 16])));
    }
    assert_dropped(outcome(&mut r, more(16, &data[16..32])), DropReason::FragmentMemory);
}

#[test]
fn a_source_beyond_its_share_loses_its_own_oldest_datagram() {
    let cfg = ReassemblyConfig { max_source_datagrams: 4, ..ReassemblyConfig::default() };
    let mut r = reassembler(cfg);
    let data = bytes(1, 64);
    assert_kept(r.insert(Instant::ZERO, key(1, 0), more(0, &data[..32])));
    for ident in 0..1_000 {
        assert_kept(r.insert(Instant::ZERO, key(2, ident), more(0, &data[..32])));
    }
    assert_eq!(r.len(), 5);
    let gone: Vec<_> = core::iter::from_fn(|| r.poll_expired()).collect();
    assert_eq!(gone.len(), 996);
    assert!(gone.iter().all(|e| e.reason == DropReason::FragmentMemory && e.first_fragment.is_none()));
    assert_eq!(complete(r.insert(Instant::ZERO, key(1, 0), last(32, &data[32..]))).payload(), data);
    assert_eq!(complete(r.insert(Instant::ZERO, key(2, 999), last(32, &data[32..]))).payload(), data);
}

#[test]
fn memory_stays_within_its_bounds_under_a_flood_from_many_sources() {
    let cfg =
        ReassemblyConfig { max_bytes: 200_000, max_source_bytes: 140_000, ..ReassemblyConfig::default() };
    let mut r = reassembler(cfg);
    let data = bytes(1, 60_000);
    for n in 0..2_000 {
        let offset = (n as usize % 4) * 1_480;
        let outcome = r.insert(Instant::ZERO, key(n % 7, n), more(offset, &data[offset..offset + 1_480]));
        assert_kept(outcome);
        assert!(r.bytes() <= 200_000);
        assert!(r.sources.values().all(|s| s.bytes <= 140_000));
    }
    assert!(r.bytes() > 190_000, "the memory is used");
    assert!(r.expired.len() <= cfg.max_datagrams);
    r.on_timeout(Instant::from_millis(30_000));
    assert_empty(&r);
}

#[test]
fn distant_offsets_cost_no_memory() {
    let mut r = reassembler(ReassemblyConfig::default());
    assert_kept(outcome(&mut r, more(65_000, &[0; 8])));
    assert_eq!(r.bytes(), OVERHEAD + 8);
}

#[test]
fn a_recycled_buffer_serves_the_next_datagram() {
    let mut r = reassembler(ReassemblyConfig::default());
    let data = bytes(1, 4_000);
    for _ in 0..100 {
        assert_kept(outcome(&mut r, more(0, &data[..2_000])));
        let whole = complete(outcome(&mut r, last(2_000, &data[2_000..])));
        assert_eq!(whole.payload(), data);
        r.recycle(whole);
    }
    assert_eq!(r.spare.len(), 1);
}

/// What a datagram of which some fragments arrived must look like: a map of bytes.
#[derive(Default)]
struct Model {
    map: Vec<Option<u8>>,
    seen: HashSet<(usize, Vec<u8>, bool)>,
    end: Option<usize>,
    poisoned: bool,
}

#[derive(Debug, PartialEq)]
enum Expected {
    Incomplete,
    Complete(Vec<u8>),
    Overlap,
}

impl Model {
    fn insert(&mut self, offset: usize, payload: &[u8], is_last: bool) -> Expected {
        let stop = offset + payload.len();
        if self.poisoned {
            return Expected::Overlap;
        }
        if self.seen.contains(&(offset, payload.to_vec(), is_last)) {
            return Expected::Incomplete;
        }
        self.map.resize(self.map.len().max(stop), None);
        let overlaps = self.map[offset..stop].iter().any(Option::is_some);
        let after = self.map[stop..].iter().any(Option::is_some);
        let beyond = self.end.is_some_and(|end| stop > end || is_last);
        if overlaps || beyond || (is_last && after) {
            self.poisoned = true;
            return Expected::Overlap;
        }
        self.seen.insert((offset, payload.to_vec(), is_last));
        for (slot, &byte) in self.map[offset..].iter_mut().zip(payload) {
            *slot = Some(byte);
        }
        if is_last {
            self.end = Some(stop);
        }
        match self.end.map(|end| self.map[..end].iter().copied().collect::<Option<Vec<u8>>>()) {
            Some(Some(whole)) => Expected::Complete(whole),
            _ => Expected::Incomplete,
        }
    }
}

proptest! {
    /// Any cut, any order, any duplicates: the same bytes.
    #[test]
    fn every_order_of_the_fragments_gives_the_datagram(
        len in 17usize..5_000,
        cuts in proptest::collection::btree_set(2usize..600, 1..20),
        order in proptest::collection::vec(any::<proptest::sample::Index>(), 0..40),
    ) {
        let data = bytes(3, len);
        let mut edges = vec![0];
        edges.extend(cuts.into_iter().map(|c| c * 8).filter(|&c| c < len));
        edges.push(len);
        prop_assume!(edges.len() > 2);
        let fragments: Vec<_> = edges.windows(2).map(|w| {
            if w[1] == len { last(w[0], &data[w[0]..]) } else { more(w[0], &data[w[0]..w[1]]) }
        }).collect();
        // Some at random, which makes duplicates, then all from the end to the start.
        let picks = order.iter().map(|i| i.index(fragments.len())).chain((0..fragments.len()).rev());
        let mut r = reassembler(ReassemblyConfig::default());
        let mut whole = None;
        for pick in picks {
            match r.insert(Instant::ZERO, key(9, 1), fragments[pick]) {
                FragmentOutcome::Incomplete => {}
                FragmentOutcome::Complete(datagram) => { whole = Some(datagram); break; }
                FragmentOutcome::Drop(reason) => prop_assert!(false, "dropped: {reason:?}"),
            }
        }
        let whole = whole.expect("complete");
        prop_assert_eq!(whole.payload(), &data[..]);
        prop_assert_eq!((r.len(), r.bytes()), (0, 0));
    }

    /// Fragments that overlap or not, agree or not: as the map of bytes says.
    #[test]
    fn reassembly_agrees_with_a_map_of_bytes(
        steps in proptest::collection::vec((0usize..8, 1usize..4, any::<bool>(), 0u8..8), 1..20),
    ) {
        let mut r = reassembler(ReassemblyConfig::default());
        let mut model = Model::default();
        for (start, blocks, is_last, flavor) in steps {
            // Units of 16 bytes, so that neither rule about tiny fragments applies. One in eight carries
            // other bytes.
            let (offset, len) = (start * 16, blocks * 16);
            let data = bytes(u8::from(flavor == 0), 256);
            let payload = &data[offset..offset + len];
            if offset == 0 && is_last {
                continue;
            }
            let expected = model.insert(offset, payload, is_last);
            let fragment = if is_last { last(offset, payload) } else { more(offset, payload) };
            let got = match r.insert(Instant::ZERO, key(9, 1), fragment) {
                FragmentOutcome::Incomplete => Expected::Incomplete,
                FragmentOutcome::Complete(datagram) => Expected::Complete(datagram.payload().to_vec()),
                FragmentOutcome::Drop(reason) => {
                    prop_assert_eq!(reason, DropReason::FragmentOverlap);
                    Expected::Overlap
                }
            };
            prop_assert_eq!(&got, &expected);
            if matches!(got, Expected::Complete(_)) {
                break;
            }
        }
    }
}
