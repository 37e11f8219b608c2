//! Bulk: every byte of large streams, and the goodput of lossy links in virtual time.

use crate::app::Plan;
use crate::host::Host;
use crate::world::{Run, World, seeds};
use ntytcp::device::fault::Faults;
use ntytcp::device::mem::MemConfig;
use ntytcp::stack::StackConfig;
use ntytcp::tcp::TcpSocketOptions;
use ntytcp::time::Duration;

const MB: u64 = 1_000_000;

fn bulk(run: Run<'_>, faults: Faults, forth: u64, back: u64, limit: Duration) -> (World<Host>, Duration) {
    let mut world = World::ours(run, faults, StackConfig::default());
    world.pair_up(Plan::new(forth, back), Plan::new(back, forth), None);
    world.run_until("all bytes are there", limit, |w| w.b.received == forth && w.a.received == back);
    let took = world.now.since(ntytcp::time::Instant::ZERO);
    world.finish(Duration::from_secs(600));
    (world, took)
}

#[test]
fn a_hundred_megabytes_each_way_at_once() {
    seeds("transfer::a_hundred_megabytes_each_way_at_once", 0..1, |run| {
        let mut faults = Faults::default();
        (faults.delay, faults.rate) = (Duration::from_micros(100), Some(1_000_000_000));
        let (world, took) = bulk(run, faults, 100 * MB, 100 * MB, Duration::from_secs(60));
        assert_eq!(world.a.stack.counters().tcp_timeouts, 0);
        // 100 MB at 1 Gb/s are 0.8 s; headers and the ACKs of the other direction take some.
        assert!(took < Duration::from_millis(1_000), "took {took:?}");
    });
}

#[test]
fn both_directions_at_once_under_loss() {
    // Every ACK rides on data or competes with it, and windows fill up behind gaps.
    seeds("transfer::both_directions_at_once_under_loss", 0..12, |run| {
        let mut faults = Faults::default();
        (faults.delay, faults.rate) = (Duration::from_millis(1), Some(1_000_000_000));
        faults.loss = [0.0, 0.01, 0.03, 0.1][run.seed as usize % 4];
        faults.reorder = if run.seed % 3 == 0 { 0.0 } else { 0.02 };
        bulk(run, faults, 2 * MB, 3 * MB, Duration::from_secs(600));
    });
}

#[test]
fn a_link_with_offloads_carries_the_same_bytes() {
    // Trains of segments and partial checksums; the fault wrapper must not lose anything, or it would forbid them.
    seeds("transfer::a_link_with_offloads_carries_the_same_bytes", 0..1, |run| {
        let mut world = World::on(MemConfig::offloading(), run, Faults::default(), StackConfig::default());
        world.pair_up(Plan::new(100 * MB, 10 * MB), Plan::new(10 * MB, 100 * MB), None);
        world.finish(Duration::from_secs(60));
        let counters = world.a.stack.counters();
        assert!(counters.tcp_tx < 100 * MB / 3_000, "{} frames are no trains", counters.tcp_tx);
    });
}

#[test]
fn jumbo_frames_and_tiny_ones() {
    for mtu in [68 + 52, 576, 9_000, 65_535] {
        seeds("transfer::jumbo_frames_and_tiny_ones", 0..3, |run| {
            let mut faults = Faults::default();
            (faults.delay, faults.loss) = (Duration::from_millis(1), 0.01);
            let mut world = World::on(MemConfig::with_mtu(mtu), run, faults, StackConfig::default());
            world.pair_up(Plan::new(MB / 2, MB / 5), Plan::new(MB / 5, MB / 2), None);
            world.finish(Duration::from_secs(600));
        });
    }
}

/// Goodput in Mb/s of 4 MB over 100 Mb/s with a round trip of 10 ms.
fn goodput(name: &str, loss: f64, at_least: f64) {
    seeds(name, 0..5, |run| {
        let mut faults = Faults::default();
        (faults.loss, faults.delay, faults.rate) = (loss, Duration::from_millis(5), Some(100_000_000));
        let (world, took) = bulk(run, faults, 4 * MB, 0, Duration::from_secs(600));
        let goodput = 32.0 / took.as_secs_f64();
        let overhead = world.a.device.payload_sent() as f64 / (4 * MB) as f64 - 1.0;
        let counters = world.a.stack.counters();
        println!(
            "loss {:4.1} %: {goodput:5.1} Mb/s, {:4.1} % sent again, {} timeouts, {} fast retransmits",
            loss * 100.0,
            overhead * 100.0,
            counters.tcp_timeouts,
            counters.tcp_fast_retransmits,
        );
        assert!(goodput >= at_least, "{goodput:.2} Mb/s with {loss} lost");
    });
}

// The square-root law (Mathis et al. 1997) gives MSS/RTT * 1.22/sqrt(p): 14 Mb/s at 1 %, 8 Mb/s at 3 %; at 10 % timeouts rule.
#[test]
fn goodput_without_loss_is_the_line_rate() {
    goodput("transfer::goodput_without_loss_is_the_line_rate", 0.0, 80.0);
}

#[test]
fn goodput_at_one_percent_loss() {
    goodput("transfer::goodput_at_one_percent_loss", 0.01, 8.0);
}

#[test]
fn goodput_at_three_percent_loss() {
    goodput("transfer::goodput_at_three_percent_loss", 0.03, 1.5);
}

#[test]
fn goodput_at_ten_percent_loss() {
    goodput("transfer::goodput_at_ten_percent_loss", 0.1, 0.2);
}

#[test]
fn a_reader_that_stops_and_starts_loses_nothing() {
    seeds("transfer::a_reader_that_stops_and_starts_loses_nothing", 0..40, |run| {
        let mut faults = Faults::default();
        faults.delay = Duration::from_millis(2);
        faults.loss = if run.seed % 2 == 0 { 0.0 } else { 0.05 };
        let mut world = World::ours(run, faults, StackConfig::default());
        let mut b = Plan::new(100, MB);
        b.stall = Some((100_000, Duration::from_secs(100)));
        b.read = 1_000 + run.seed as usize * 311;
        b.read_every = Duration::from_millis(1);
        world.pair_up(Plan::new(MB, 100), b, None);
        world.run_for(Duration::from_secs(60));
        let counters = world.a.stack.counters();
        assert!(counters.tcp_probes > 3 && counters.tcp_probes < 40, "{} probes", counters.tcp_probes);
        world.finish(Duration::from_secs(2_400));
    });
}

#[test]
fn a_tiny_receive_buffer_still_delivers() {
    seeds("transfer::a_tiny_receive_buffer_still_delivers", 0..40, |run| {
        let mut faults = Faults::default();
        (faults.delay, faults.loss) = (Duration::from_millis(1), 0.03);
        let mut world = World::ours(run, faults, StackConfig::default());
        let recv_buffer = 600 + run.seed as usize * 97;
        let socket = TcpSocketOptions { recv_buffer, ..TcpSocketOptions::default() };
        let mut b = Plan::new(0, 50_000);
        b.read = 400;
        world.pair_up(Plan::new(50_000, 0), b, Some(socket));
        world.finish(Duration::from_secs(1_200));
    });
}
