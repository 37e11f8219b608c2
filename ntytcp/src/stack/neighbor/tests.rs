//! Traces of a neighbor cache in virtual time.

use core::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;
use crate::rng::{Rng, seed_from};

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

fn cache(cfg: NeighborConfig) -> NeighborCache {
    NeighborCache::new(cfg, &mut Rng::new(seed_from(1)))
}

fn small(capacity: usize) -> NeighborCache {
    cache(NeighborConfig { capacity, ..NeighborConfig::default() })
}

fn ip(n: u32) -> IpAddr {
    IpAddr::V4((0x0a00_0000 + n).into())
}

fn ms(n: u64) -> Instant {
    Instant::from_millis(n)
}

fn actions(cache: &mut NeighborCache) -> Vec<NeighborAction> {
    core::iter::from_fn(|| cache.poll_action()).collect()
}

fn ask(n: u32) -> NeighborAction {
    NeighborAction::Solicit { target: ip(n), unicast: None }
}

fn ask_only(n: u32, mac: MacAddr) -> NeighborAction {
    NeighborAction::Solicit { target: ip(n), unicast: Some(mac) }
}

fn state(cache: &NeighborCache, n: u32) -> Option<NeighborState> {
    cache.iter().find(|e| e.ip == ip(n)).map(|e| e.state)
}

/// A cache that has resolved `n` to `mac` at `now`.
fn resolve(cache: &mut NeighborCache, now: Instant, n: u32, mac: MacAddr) {
    assert_eq!(cache.lookup(now, ip(n)), Lookup::Pending);
    assert_eq!(cache.learn(now, ip(n), mac, Evidence::Reply), Learned::New);
    assert_eq!(actions(cache), [NeighborAction::Resolved { ip: ip(n), mac }]);
}

fn packet(tag: u8, len: usize) -> Box<[u8]> {
    vec![tag; len].into_boxed_slice()
}

#[test]
fn an_unknown_neighbor_is_asked_for_once_and_answers() {
    let mut c = cache(NeighborConfig::default());
    assert_eq!(c.lookup(ms(0), ip(1)), Lookup::Pending);
    assert_eq!(c.lookup(ms(0), ip(1)), Lookup::Pending);
    assert_eq!(actions(&mut c), [ask(1)]);
    assert_eq!(c.learn(ms(5), ip(1), A, Evidence::Reply), Learned::New);
    assert_eq!(actions(&mut c), [NeighborAction::Resolved { ip: ip(1), mac: A }]);
    assert_eq!(c.lookup(ms(5), ip(1)), Lookup::Ready(A));
    assert_eq!(c.next_deadline(), None, "a known neighbor needs no timer");
}

#[test]
fn both_families_are_neighbors() {
    let mut c = cache(NeighborConfig::default());
    let v6 = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
    assert_eq!(c.lookup(ms(0), v6), Lookup::Pending);
    assert_eq!(c.learn(ms(5), v6, A, Evidence::Reply), Learned::New);
    assert_eq!(c.lookup(ms(5), v6), Lookup::Ready(A));
}

#[test]
fn silence_is_asked_three_times_a_second_apart_and_then_failed_for_three_seconds() {
    let mut c = cache(NeighborConfig::default());
    c.lookup(ms(0), ip(1));
    c.enqueue(ip(1), packet(1, 100)).unwrap();
    c.enqueue(ip(1), packet(2, 100)).unwrap();
    let mut trace = vec![(ms(0), actions(&mut c))];
    while let Some(at) = c.next_deadline() {
        c.on_timeout(at);
        trace.push((at, actions(&mut c)));
    }
    let failed = NeighborAction::Failed { ip: ip(1), dropped: 2 };
    assert_eq!(
        trace,
        [
            (ms(0), vec![ask(1)]),
            (ms(1_000), vec![ask(1)]),
            (ms(2_000), vec![ask(1)]),
            (ms(3_000), vec![failed])
        ]
    );
    assert_eq!(c.take_packet(ip(1)).unwrap()[0], 1);
    assert_eq!(c.take_packet(ip(1)).unwrap()[0], 2);
    assert_eq!(c.take_packet(ip(1)), None);
    assert_eq!(c.lookup(ms(5_999), ip(1)), Lookup::Failed);
    assert_eq!(actions(&mut c), [], "a known failure is no new storm");
    assert_eq!(c.lookup(ms(6_000), ip(1)), Lookup::Pending);
    assert_eq!(actions(&mut c), [ask(1)]);
}

#[test]
fn packets_wait_in_order_and_leave_once_resolved() {
    let mut c = cache(NeighborConfig::default());
    assert!(c.enqueue(ip(1), packet(0, 10)).is_err(), "nobody is being asked for");
    c.lookup(ms(0), ip(1));
    for tag in 1..=3 {
        c.enqueue(ip(1), packet(tag, 10)).unwrap();
    }
    assert_eq!(c.take_packet(ip(1)), None, "not yet");
    c.learn(ms(5), ip(1), A, Evidence::Reply);
    let tags: Vec<_> = core::iter::from_fn(|| c.take_packet(ip(1))).map(|p| p[0]).collect();
    assert_eq!(tags, [1, 2, 3]);
    assert!(c.enqueue(ip(1), packet(0, 10)).is_err(), "send it instead");
    assert_eq!(c.waiting_bytes, 0);
}

#[test]
fn the_oldest_packet_gives_way_to_the_seventeenth() {
    let mut c = cache(NeighborConfig::default());
    c.lookup(ms(0), ip(1));
    for tag in 0..20 {
        c.enqueue(ip(1), packet(tag, 10)).unwrap();
    }
    assert_eq!((c.take_displaced(), c.take_displaced()), (4, 0));
    c.learn(ms(5), ip(1), A, Evidence::Reply);
    assert_eq!(c.take_packet(ip(1)).unwrap()[0], 4);
}

#[test]
fn one_neighbor_cannot_push_out_the_packets_of_another() {
    let mut c = cache(NeighborConfig { queue_bytes: 1_000, ..NeighborConfig::default() });
    c.lookup(ms(0), ip(1));
    c.lookup(ms(0), ip(2));
    c.enqueue(ip(1), packet(1, 600)).unwrap();
    c.enqueue(ip(2), packet(2, 300)).unwrap();
    c.enqueue(ip(2), packet(3, 400)).unwrap();
    assert_eq!(c.take_displaced(), 1, "its own older packet");
    assert_eq!(c.enqueue(ip(2), packet(4, 401)).unwrap_err().len(), 401);
    assert_eq!(c.take_displaced(), 0, "a packet that cannot fit displaces nothing");
    assert_eq!(c.waiting_bytes, 1_000);
    let waiting: usize = c.iter().map(|e| e.waiting).sum();
    assert_eq!(waiting, 2);
}

#[test]
fn a_stale_neighbor_is_used_at_once_and_verified_meanwhile() {
    let mut c = cache(NeighborConfig::default());
    resolve(&mut c, ms(0), 1, A);
    assert_eq!(c.lookup(ms(29_999), ip(1)), Lookup::Ready(A));
    assert_eq!(state(&c, 1), Some(NeighborState::Reachable));
    assert_eq!(c.lookup(ms(30_000), ip(1)), Lookup::Ready(A));
    assert_eq!(state(&c, 1), Some(NeighborState::Delay));
    assert_eq!(actions(&mut c), []);
    c.on_timeout(ms(35_000));
    assert_eq!(actions(&mut c), [ask_only(1, A)]);
    assert_eq!(c.lookup(ms(35_001), ip(1)), Lookup::Ready(A), "still used while it is probed");
    assert_eq!(c.learn(ms(35_002), ip(1), A, Evidence::Reply), Learned::Same);
    assert_eq!(state(&c, 1), Some(NeighborState::Reachable));
    assert_eq!(c.next_deadline(), None);
}

#[test]
fn a_neighbor_that_ignores_its_probes_is_forgotten_and_everybody_is_asked() {
    let mut c = cache(NeighborConfig::default());
    resolve(&mut c, ms(0), 1, A);
    let neighbor = c.slot(ip(1)).unwrap();
    c.lookup(ms(30_000), ip(1));
    let mut probes = 0;
    while let Some(at) = c.next_deadline() {
        c.on_timeout(at);
        probes += actions(&mut c).iter().filter(|&&a| a == ask_only(1, A)).count();
    }
    assert_eq!((probes, c.len()), (3, 0));
    assert_eq!(c.get(ms(40_000), neighbor), None);
    assert_eq!(c.lookup(ms(40_000), ip(1)), Lookup::Pending);
    assert_eq!(actions(&mut c), [ask(1)]);
}

#[test]
fn progress_of_the_upper_layer_spares_the_probe() {
    let mut c = cache(NeighborConfig::default());
    resolve(&mut c, ms(0), 1, A);
    let neighbor = c.slot(ip(1)).unwrap();
    for second in 0..600 {
        assert_eq!(c.get(ms(second * 1_000), neighbor), Some(Lookup::Ready(A)));
        c.confirm(ms(second * 1_000), neighbor);
        assert_eq!((state(&c, 1), c.next_deadline()), (Some(NeighborState::Reachable), None));
    }
    c.get(ms(700_000), neighbor);
    assert_eq!(state(&c, 1), Some(NeighborState::Delay));
    c.confirm(ms(701_000), neighbor);
    assert_eq!((state(&c, 1), c.next_deadline()), (Some(NeighborState::Reachable), None));
}

#[test]
fn a_kept_reference_finds_the_entry_and_never_a_later_one() {
    let mut c = small(1);
    resolve(&mut c, ms(0), 1, A);
    let neighbor = c.slot(ip(1)).unwrap();
    assert_eq!(c.get(ms(1), neighbor), Some(Lookup::Ready(A)));
    assert_eq!(c.slot(ip(2)), None);
    assert!(c.remove(ip(1)));
    resolve(&mut c, ms(2), 2, B);
    assert_eq!(c.get(ms(3), neighbor), None, "same slot, another neighbor");
    c.confirm(ms(3), neighbor);
    assert_eq!(c.get(ms(3), c.slot(ip(2)).unwrap()), Some(Lookup::Ready(B)));
}

#[test]
fn whoever_asks_for_us_is_remembered_as_stale() {
    let mut c = cache(NeighborConfig::default());
    assert_eq!(c.learn(ms(0), ip(1), A, Evidence::Request), Learned::New);
    assert_eq!(state(&c, 1), Some(NeighborState::Stale));
    assert_eq!(actions(&mut c), []);
    assert_eq!(c.lookup(ms(1), ip(1)), Lookup::Ready(A));
}

#[test]
fn what_nobody_asked_for_makes_no_entry() {
    let mut c = cache(NeighborConfig::default());
    assert_eq!(c.learn(ms(0), ip(1), A, Evidence::Gratuitous), Learned::Ignored);
    assert_eq!(c.learn(ms(0), ip(1), A, Evidence::Reply), Learned::Ignored);
    assert!(c.is_empty());
}

#[test]
fn addresses_that_no_host_has_are_never_learned_or_asked_for() {
    let mut c = cache(NeighborConfig::default());
    for mac in [MacAddr::BROADCAST, MacAddr::ZERO, MacAddr([1, 0, 0x5e, 0, 0, 1])] {
        assert_eq!(c.learn(ms(0), ip(1), mac, Evidence::Request), Learned::Ignored);
    }
    for bad in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1", "::", "ff02::1"] {
        let bad = bad.parse().unwrap();
        assert_eq!(c.learn(ms(0), bad, A, Evidence::Request), Learned::Ignored);
        assert_eq!(c.lookup(ms(0), bad), Lookup::Failed);
        assert_eq!(c.add_static(bad, A), Err(StaticNeighborError::NotAHost(bad)));
    }
    assert!(c.is_empty());
}

#[test]
fn overhearing_the_neighbor_resolves_it_but_does_not_prove_it_reachable() {
    for evidence in [Evidence::Gratuitous, Evidence::Request] {
        let mut c = cache(NeighborConfig::default());
        c.lookup(ms(0), ip(1));
        c.enqueue(ip(1), packet(1, 10)).unwrap();
        assert_eq!(c.learn(ms(1), ip(1), A, evidence), Learned::New);
        assert_eq!(actions(&mut c), [NeighborAction::Resolved { ip: ip(1), mac: A }]);
        assert_eq!(state(&c, 1), Some(NeighborState::Delay), "the waiting packet is a use");
    }
}

#[test]
fn a_confirmed_address_is_not_replaced_within_a_second() {
    let mut c = cache(NeighborConfig::default());
    resolve(&mut c, ms(0), 1, A);
    for evidence in [Evidence::Gratuitous, Evidence::Request, Evidence::Reply] {
        assert_eq!(c.learn(ms(999), ip(1), B, evidence), Learned::Ignored);
    }
    assert_eq!(c.lookup(ms(999), ip(1)), Lookup::Ready(A));
}

#[test]
fn a_changed_address_is_taken_over_and_verified() {
    let mut c = cache(NeighborConfig::default());
    resolve(&mut c, ms(0), 1, A);
    assert_eq!(c.learn(ms(1_000), ip(1), B, Evidence::Gratuitous), Learned::Changed(A));
    assert_eq!(state(&c, 1), Some(NeighborState::Stale));
    assert_eq!(c.lookup(ms(1_000), ip(1)), Lookup::Ready(B));
    c.on_timeout(ms(6_000));
    assert_eq!(actions(&mut c), [ask_only(1, B)]);
}

#[test]
fn the_same_address_again_does_not_refresh_what_was_not_asked_for() {
    let mut c = cache(NeighborConfig::default());
    resolve(&mut c, ms(0), 1, A);
    for evidence in [Evidence::Gratuitous, Evidence::Request, Evidence::Reply] {
        assert_eq!(c.learn(ms(29_000), ip(1), A, evidence), Learned::Same);
    }
    c.lookup(ms(30_000), ip(1));
    assert_eq!(state(&c, 1), Some(NeighborState::Delay));
}

#[test]
fn a_failed_neighbor_that_speaks_is_back() {
    let mut c = cache(NeighborConfig::default());
    c.lookup(ms(0), ip(1));
    for second in 1..=3 {
        c.on_timeout(ms(second * 1_000));
    }
    actions(&mut c);
    assert_eq!(c.lookup(ms(3_500), ip(1)), Lookup::Failed);
    assert_eq!(c.learn(ms(3_600), ip(1), A, Evidence::Gratuitous), Learned::New);
    assert_eq!(actions(&mut c), [NeighborAction::Resolved { ip: ip(1), mac: A }]);
    assert_eq!(c.lookup(ms(3_600), ip(1)), Lookup::Ready(A));
}

#[test]
fn a_static_neighbor_never_changes_ages_or_gives_way() {
    let mut c = small(2);
    c.add_static(ip(1), A).unwrap();
    assert_eq!(c.learn(ms(0), ip(1), B, Evidence::Reply), Learned::Ignored);
    for n in 2..100 {
        c.lookup(ms(0), ip(n));
        c.learn(ms(0), ip(n + 100), B, Evidence::Request);
    }
    assert_eq!(c.len(), 2);
    let year = ms(365 * 86_400_000);
    c.on_timeout(year);
    assert_eq!(c.lookup(year, ip(1)), Lookup::Ready(A));
    assert_eq!(state(&c, 1), Some(NeighborState::Permanent));
    c.add_static(ip(2), B).unwrap();
    assert_eq!(c.add_static(ip(3), B), Err(StaticNeighborError::Full));
    assert_eq!(c.lookup(year, ip(3)), Lookup::Failed, "no room to ask");
    assert_eq!(
        c.add_static(ip(1), MacAddr::BROADCAST),
        Err(StaticNeighborError::NotUnicast(MacAddr::BROADCAST))
    );
}

#[test]
fn a_static_entry_releases_what_waited() {
    let mut c = cache(NeighborConfig::default());
    c.lookup(ms(0), ip(1));
    c.enqueue(ip(1), packet(1, 10)).unwrap();
    c.add_static(ip(1), A).unwrap();
    assert_eq!(actions(&mut c), [NeighborAction::Resolved { ip: ip(1), mac: A }]);
    assert!(c.take_packet(ip(1)).is_some());
}

#[test]
fn a_flood_of_requests_displaces_only_what_nobody_uses() {
    let mut c = small(64);
    for n in 0..10 {
        resolve(&mut c, ms(0), n, A);
    }
    assert_eq!(c.lookup(ms(0), ip(20)), Lookup::Pending);
    for n in 1_000..11_000 {
        assert_eq!(c.learn(ms(1), ip(n), B, Evidence::Request), Learned::New);
    }
    assert_eq!(c.len(), 64);
    for n in 0..10 {
        assert_eq!(c.lookup(ms(2), ip(n)), Lookup::Ready(A));
    }
    assert_eq!(state(&c, 20), Some(NeighborState::Incomplete));
    assert!(state(&c, 10_999).is_some() && state(&c, 1_000).is_none(), "the oldest stranger went first");
}

#[test]
fn a_table_of_neighbors_in_use_admits_no_stranger() {
    let mut c = small(4);
    for n in 0..4 {
        resolve(&mut c, ms(0), n, A);
    }
    assert_eq!(c.learn(ms(1), ip(9), B, Evidence::Request), Learned::Ignored);
    // Once a confirmation has expired, the entry counts as STALE.
    assert_eq!(c.learn(ms(30_000), ip(9), B, Evidence::Request), Learned::New);
    assert_eq!(state(&c, 0), None);
}

#[test]
fn a_scan_of_the_whole_network_displaces_itself() {
    let mut c = small(64);
    for n in 0..60 {
        resolve(&mut c, ms(0), n, A);
    }
    for n in 1_000..5_000 {
        assert_eq!(c.lookup(ms(1), ip(n)), Lookup::Pending);
        let _ = c.enqueue(ip(n), packet(0, 100));
    }
    assert_eq!((c.len(), c.waiting_bytes), (64, 400));
    assert_eq!(c.take_displaced(), 3_996);
    for n in 0..60 {
        assert_eq!(c.lookup(ms(2), ip(n)), Lookup::Ready(A));
    }
    let (failed, asked): (Vec<_>, Vec<_>) =
        actions(&mut c).into_iter().partition(|action| matches!(action, NeighborAction::Failed { .. }));
    assert_eq!(asked, [ask(4_996), ask(4_997), ask(4_998), ask(4_999)], "nobody asks for those displaced");
    let last = NeighborAction::Failed { ip: ip(4_995), dropped: 0 };
    assert_eq!((failed.len(), failed.last()), (64, Some(&last)), "who waits for them is told");
}

#[test]
fn our_own_lookup_finds_room_even_among_neighbors_in_use() {
    let mut c = small(2);
    resolve(&mut c, ms(0), 1, A);
    resolve(&mut c, ms(1), 2, A);
    assert_eq!(c.lookup(ms(2), ip(3)), Lookup::Pending);
    assert_eq!((state(&c, 1), state(&c, 2)), (None, Some(NeighborState::Reachable)), "the longest confirmed");
    assert_eq!(c.lookup(ms(3), ip(4)), Lookup::Pending);
    assert_eq!((state(&c, 2), state(&c, 3)), (Some(NeighborState::Reachable), None));
}

#[test]
fn actions_that_are_never_polled_do_not_pile_up() {
    let mut c = small(8);
    for n in 0..10_000 {
        c.lookup(ms(u64::from(n)), ip(n));
        c.on_timeout(ms(u64::from(n)));
    }
    assert!(actions(&mut c).len() <= 2 * 8);
}

#[derive(Clone, Debug)]
enum Step {
    Lookup(u32),
    Learn(u32, u8, Evidence),
    Enqueue(u32, usize),
    Take(u32),
    Static(u32),
    Remove(u32),
    Confirm(u32),
    Wait(u64),
    Poll,
}

fn step() -> impl Strategy<Value = Step> {
    let evidence = prop_oneof![Just(Evidence::Reply), Just(Evidence::Request), Just(Evidence::Gratuitous)];
    let n = || 1u32..12;
    prop_oneof![
        4 => n().prop_map(Step::Lookup),
        4 => (n(), 1u8..4, evidence).prop_map(|(n, mac, e)| Step::Learn(n, mac, e)),
        4 => (n(), 0usize..300).prop_map(|(n, len)| Step::Enqueue(n, len)),
        2 => n().prop_map(Step::Take),
        1 => (1u32..4).prop_map(Step::Static),
        1 => n().prop_map(Step::Remove),
        2 => n().prop_map(Step::Confirm),
        4 => (0u64..8_000).prop_map(Step::Wait),
        2 => Just(Step::Poll),
    ]
}

proptest! {
    /// Whatever happens: the bounds hold, no packet is lost without a trace, no static entry disappears,
    /// nothing is due after a timeout was handled, and every list is in the order of its deadlines.
    #[test]
    fn invariants_hold_over_any_history(steps in proptest::collection::vec(step(), 1..200)) {
        let cfg = NeighborConfig { capacity: 6, queue_packets: 3, queue_bytes: 1_000, ..NeighborConfig::default() };
        let mut c = cache(cfg);
        let mut now = Instant::ZERO;
        let (mut accepted, mut taken, mut displaced) = (0, 0, 0);
        for step in steps {
            let statics: Vec<_> = c.iter().filter(|e| e.state == NeighborState::Permanent).collect();
            let mut removed = None;
            match step {
                Step::Lookup(n) => { c.lookup(now, ip(n)); }
                Step::Learn(n, mac, e) => { c.learn(now, ip(n), MacAddr([2, 0, 0, 0, 0, mac]), e); }
                Step::Enqueue(n, len) => accepted += usize::from(c.enqueue(ip(n), packet(0, len)).is_ok()),
                Step::Take(n) => taken += usize::from(c.take_packet(ip(n)).is_some()),
                Step::Static(n) => { let _ = c.add_static(ip(n), A); }
                Step::Remove(n) => { c.remove(ip(n)); removed = Some(ip(n)); }
                Step::Confirm(n) => if let Some(r) = c.slot(ip(n)) { c.confirm(now, r) },
                Step::Wait(n) => {
                    now += Duration::from_millis(n);
                    c.on_timeout(now);
                    prop_assert!(c.next_deadline().is_none_or(|at| at > now));
                }
                Step::Poll => { actions(&mut c); }
            }
            displaced += c.take_displaced();
            let waiting: usize = c.iter().map(|e| e.waiting).sum();
            prop_assert_eq!(accepted, taken + displaced + waiting);
            prop_assert!(c.len() <= 6 && c.iter().count() == c.len());
            prop_assert!(c.waiting_bytes <= 1_000 && c.iter().all(|e| e.waiting <= 3));
            prop_assert!(c.table.lists_are_sorted());
            for entry in statics.iter().filter(|e| Some(e.ip) != removed) {
                prop_assert!(c.iter().any(|e| e.ip == entry.ip && e.state == NeighborState::Permanent));
            }
        }
    }
}
