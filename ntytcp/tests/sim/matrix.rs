//! Every fault with many seeds: small transfers from handshake to the end of TIME-WAIT.

use crate::app::Plan;
use crate::world::{World, seeds};
use ntytcp::device::fault::Faults;
use ntytcp::stack::StackConfig;
use ntytcp::time::Duration;

/// Time enough for a small transfer on the worst link, backoff of the RTO included.
const LIMIT: Duration = Duration::from_secs(600);

fn link() -> Faults {
    let mut faults = Faults::default();
    faults.delay = Duration::from_millis(5);
    faults
}

/// Both ends send and close, one first or both at once; each seed has other sizes.
fn exchange(name: &str, count: u64, faults: &Faults) {
    seeds(name, 0..count, |run| {
        let mut world = World::ours(run, faults.clone(), StackConfig::default());
        let (forth, back) = (1 + run.seed * 977 % 60_000, run.seed * 1_409 % 40_000);
        let mut a = Plan::new(forth, back);
        let mut b = Plan::new(back, forth);
        (a.close_last, b.close_last) = (run.seed % 3 == 1, run.seed % 3 == 2);
        world.pair_up(a, b, None);
        world.finish(LIMIT);
    });
}

macro_rules! exchanges {
    ($($name:ident: $count:literal, $($field:ident = $value:expr),*;)*) => {$(
        #[test]
        fn $name() {
            let mut faults = link();
            $(faults.$field = $value;)*
            exchange(concat!("matrix::", stringify!($name)), $count, &faults);
        }
    )*};
}

exchanges! {
    clean_link: 60, loss = 0.0;
    no_delay_at_all: 60, delay = Duration::ZERO;
    one_percent_loss: 150, loss = 0.01;
    ten_percent_loss: 300, loss = 0.1;
    reordering: 150, reorder = 0.2;
    reordering_beyond_a_round_trip: 100, reorder = 0.1, reorder_by = Duration::from_millis(30);
    duplicates: 150, duplicate = 0.2;
    everything_twice: 30, duplicate = 1.0;
    flipped_bits: 200, corrupt = 0.05;
    jitter: 100, jitter = Duration::from_millis(20);
    slow_line_with_a_short_queue: 60, rate = Some(2_000_000), rate_queue = 8_000;
    everything_at_once: 300, loss = 0.05, corrupt = 0.02, duplicate = 0.05, reorder = 0.1,
        jitter = Duration::from_millis(3), rate = Some(20_000_000);
}

#[test]
fn simultaneous_close_under_loss() {
    seeds("matrix::simultaneous_close_under_loss", 0..200, |run| {
        let mut faults = link();
        faults.loss = 0.1;
        let mut world = World::ours(run, faults, StackConfig::default());
        // One byte each, and both close at once: the FINs cross on the way.
        world.pair_up(Plan::new(1, 1), Plan::new(1, 1), None);
        world.finish(LIMIT);
    });
}

#[test]
fn half_closed_connections_go_on_in_the_other_direction() {
    seeds("matrix::half_closed_connections_go_on_in_the_other_direction", 0..60, |run| {
        let mut faults = link();
        faults.loss = 0.05;
        let mut world = World::ours(run, faults, StackConfig::default());
        let mut b = Plan::new(300_000, 10);
        b.close_last = true;
        // The asking end closes at once and reads for seconds after; the other closes last.
        world.pair_up(Plan::new(10, 300_000), b, None);
        world.finish(LIMIT);
    });
}

#[test]
fn two_hundred_connections_share_a_lossy_link() {
    seeds("matrix::two_hundred_connections_share_a_lossy_link", 0..3, |run| {
        let mut faults = link();
        (faults.loss, faults.rate) = (0.03, Some(100_000_000));
        let mut world = World::ours(run, faults, StackConfig::default());
        for n in 0..200 {
            world.pair_up(Plan::new(5_000 + n * 10, 20_000), Plan::new(20_000, 5_000 + n * 10), None);
        }
        world.finish(LIMIT);
        assert_eq!((world.a.outcomes.len(), world.b.outcomes.len()), (200, 200));
    });
}
