//! Random links and random applications.

use crate::app::Plan;
use crate::world::{Run, World, capture_file, more};
use ntytcp::device::fault::Faults;
use ntytcp::stack::StackConfig;
use ntytcp::tcp::TcpSocketOptions;
use ntytcp::time::Duration;
use proptest::prelude::*;

fn link() -> impl Strategy<Value = Faults> {
    let chance = |most: f64| prop_oneof![Just(0.0), 0.0..most];
    let rate = prop_oneof![Just(None), (500_000u64..1_000_000_000).prop_map(Some)];
    let times = (0u64..50_000, 0u64..20_000, 0u64..40_000);
    (chance(0.1), chance(0.05), chance(0.3), chance(0.3), times, rate, 4_000usize..300_000).prop_map(
        |(loss, corrupt, duplicate, reorder, (delay, jitter, reorder_by), rate, rate_queue)| {
            let mut faults = Faults::default();
            (faults.loss, faults.corrupt, faults.duplicate, faults.reorder) =
                (loss, corrupt, duplicate, reorder);
            faults.delay = Duration::from_micros(delay);
            faults.jitter = Duration::from_micros(jitter);
            faults.reorder_by = Duration::from_micros(reorder_by);
            (faults.rate, faults.rate_queue) = (rate, rate_queue);
            faults
        },
    )
}

/// How an application writes, reads, pauses and closes; how much, the test fills in.
fn manners() -> impl Strategy<Value = Plan> {
    let stall = prop_oneof![Just(None), (0u64..50_000, 1u64..90).prop_map(Some)];
    let pause = prop_oneof![Just(0), 1u64..3_000];
    (1usize..20_000, 100usize..60_000, pause, stall, any::<bool>()).prop_map(
        |(write, read, pause, stall, close_last)| Plan {
            write,
            read,
            read_every: Duration::from_micros(pause),
            stall: stall.map(|(at, seconds)| (at, Duration::from_secs(seconds))),
            close_last,
            ..Plan::new(0, 0)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150 * more(), ..ProptestConfig::default() })]

    /// Whatever the link and the applications do, every byte arrives and nothing is left.
    #[test]
    fn any_conversation_on_any_link_ends_complete(
        seed in any::<u64>(),
        faults in link(),
        (a, b) in (manners(), manners()),
        (forth, back) in (0u64..120_000, 0u64..120_000),
        (send_buffer, recv_buffer) in (2_000usize..300_000, 2_000usize..300_000),
        nodelay in any::<bool>(),
    ) {
        let capture = std::env::var_os("SIM_CAPTURE").map(|_| capture_file("random"));
        let mut world = World::ours(Run { seed, capture: capture.as_deref() }, faults, StackConfig::default());
        let a = Plan { send: forth, expect: back, ..a };
        // Two that wait for each other's FIN would wait for ever.
        let b = Plan { send: back, expect: forth, close_last: b.close_last && !a.close_last, ..b };
        let socket = TcpSocketOptions { send_buffer, recv_buffer, nodelay, ..TcpSocketOptions::default() };
        world.pair_up(a, b, Some(socket));
        world.finish(Duration::from_secs(3_600));
    }
}
