//! The flow that spoke last, which is known by its headers.

use super::*;

/// Segments of one connection in order, and now and then something else or something unusual between them.
fn conversation() -> impl Strategy<Value = Vec<Step>> {
    let segment = |conn| {
        let text = prop_oneof![2 => Just(0usize), 3 => 1usize..100, 2 => Just(1_448)];
        let ack = prop_oneof![3 => Just(0), 1 => -200..1];
        let window = prop_oneof![6 => Just(65_535u16), 1 => Just(0), 1 => any::<u16>()];
        let flags = prop_oneof![4 => Just(TcpFlags::ACK), 1 => Just(TcpFlags::ACK | TcpFlags::PSH)];
        (text, ack, window, flags).prop_map(move |(text, ack, window, flags)| Content::Segment {
            conn,
            seq: 0,
            ack,
            flags,
            window,
            text,
            age: 0,
        })
    };
    (0..CONNS).prop_flat_map(move |conn| {
        let plain = || segment(conn).prop_map(|content| Step::Frame(content, Oddities::default()));
        let odd = (segment(conn), oddities()).prop_map(|(content, odd)| Step::Frame(content, odd));
        let answer = prop_oneof![
            2 => (1usize..3_000).prop_map(move |len| Step::Send(conn, len)),
            2 => Just(Step::Egress(usize::MAX)),
            2 => (1usize..3_000).prop_map(move |len| Step::Read(conn, len)),
            1 => prop_oneof![0u64..50, 0u64..2_000].prop_map(Step::Pass),
        ];
        vec(prop_oneof![12 => plain(), 6 => answer, 2 => odd, 1 => step()], 4..80)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, rng_seed: RngSeed::Fixed(3), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_flow_that_spoke_last_is_taken_as_any_other(steps in conversation(), pages in pages()) {
        let alike = if pages < 100 { Alike::Outside } else { Alike::Within };
        let mut twins = Twins::new([one_by_one, without_shortcuts], alike, pages);
        for step in &steps {
            twins.step(step);
        }
        twins.compare();
        twins.egress(usize::MAX);
        twins.compare();
    }

    #[test]
    fn a_run_of_segments_does_what_they_do_one_by_one(bursts in vec(conversation(), 1..5)) {
        let mut twins = Twins::new([as_a_burst, one_by_one], Alike::InSomeOrder, 1_000);
        for steps in &bursts {
            let mut burst = Vec::new();
            for step in steps {
                match step {
                    Step::Frame(content, odd) => burst.push((twins.frame(content, odd), odd.meta)),
                    step => twins.step(step),
                }
            }
            twins.exchange(&burst);
            twins.compare();
        }
        twins.egress(usize::MAX);
        twins.compare();
    }
}

/// Whether the next foreseen segment of the first connection would be known by the headers of those before.
fn is_steady(twins: &mut Twins) -> bool {
    let [short, _] = &mut twins.hosts;
    short.stack.interfaces[0].steady.is_some()
}

#[test]
fn a_flow_is_known_by_its_headers_once_two_of_its_segments_came_behind_each_other() {
    let mut twins = Twins::new([one_by_one, without_shortcuts], Alike::Within, 1_000);
    twins.step(&foreseen(0, 1));
    assert!(!is_steady(&mut twins));
    twins.step(&foreseen(0, 1));
    assert!(is_steady(&mut twins));
    let before = twins.hosts[0].stack.counters().tcp_fast_path;
    twins.step(&foreseen(0, 1));
    assert_eq!(twins.hosts[0].stack.counters().tcp_fast_path, before + 1);
    twins.compare();
}

#[test]
fn a_flow_that_is_known_is_nobodys_when_its_address_is_anothers_or_its_connection_over() {
    for lose_address in [true, false] {
        let mut twins = Twins::new([one_by_one, without_shortcuts], Alike::Within, 1_000);
        (0..3).for_each(|_| twins.step(&foreseen(0, 1)));
        assert!(is_steady(&mut twins));
        if lose_address {
            // Twice within the time that an address is defended in.
            for _ in 0..2 {
                let theirs = arp(crate::wire::ArpOperation::Request, (PEER_MAC, US), US);
                twins.exchange(&[(theirs, RxMeta::default())]);
            }
            assert!(!is_steady(&mut twins));
        } else {
            let socket = twins.peers[0].socket;
            twins.both(|host| host.stack.tcp_abort(host.now, socket)).unwrap();
            twins.egress(usize::MAX);
        }
        let taken = twins.hosts[0].stack.counters().tcp_fast_path;
        twins.step(&foreseen(0, 1));
        assert_eq!(twins.hosts[0].stack.counters().tcp_fast_path, taken);
        twins.compare();
    }
}
