//! A machine that stops answering: the other end gives up in bounded time, with the right error, and keeps nothing.

use crate::app::Plan;
use crate::host::Host;
use crate::world::{Run, World, seeds};
use ntytcp::device::fault::Faults;
use ntytcp::stack::{SocketError, StackConfig};
use ntytcp::tcp::{KeepAlive, TcpSocketOptions};
use ntytcp::time::Duration;

fn connected(run: Run<'_>, a: Plan, b: Plan, socket: TcpSocketOptions, limit: Duration) -> World<Host> {
    let mut faults = Faults::default();
    faults.delay = Duration::from_millis(5);
    let mut world = World::ours(run, faults, StackConfig::default());
    // As behind a router: what falls silent is not the station but the host.
    world.a.acquaint(2);
    world.pair_up(a, b, Some(socket));
    world.run_for(limit);
    world.b.dead = true;
    world
}

/// Runs until a's only application has ended, and says after how many seconds.
fn seconds_to_fail(world: &mut World<Host>, error: SocketError) -> f64 {
    let killed = world.now;
    world.run_until("the survivor gives up", Duration::from_secs(4 * 3_600), |w| w.a.is_done());
    assert_eq!(world.a.outcomes, [Err(error)]);
    let after = world.now.since(killed).as_secs_f64();
    world.expect_empty();
    after
}

#[test]
fn data_to_a_dead_peer_is_given_up_by_the_retransmission_timer() {
    seeds("failures::data_to_a_dead_peer_is_given_up_by_the_retransmission_timer", 0..5, |run| {
        let plan = (Plan::new(10_000_000, 0), Plan::new(0, 10_000_000));
        let options = TcpSocketOptions::default();
        let mut world = connected(run, plan.0, plan.1, options, Duration::from_millis(100));
        let after = seconds_to_fail(&mut world, SocketError::TimedOut);
        // 0.2 s doubled fifteen times, at most 60 s each: 0.2 + 0.4 + .. + 51.2 + 7 * 60; RFC 9293 3.8.3 asks for at least 100 s.
        assert!((400.0..1_000.0).contains(&after), "{after} s");
    });
}

#[test]
fn user_timeout_bounds_the_wait_for_a_dead_peer() {
    seeds("failures::user_timeout_bounds_the_wait_for_a_dead_peer", 0..5, |run| {
        let plan = (Plan::new(10_000_000, 0), Plan::new(0, 10_000_000));
        let options =
            TcpSocketOptions { user_timeout: Some(Duration::from_secs(20)), ..TcpSocketOptions::default() };
        let mut world = connected(run, plan.0, plan.1, options, Duration::from_millis(100));
        let after = seconds_to_fail(&mut world, SocketError::TimedOut);
        assert!((19.0..60.0).contains(&after), "{after} s");
    });
}

#[test]
fn an_idle_connection_to_a_dead_peer_ends_by_keepalive() {
    seeds("failures::an_idle_connection_to_a_dead_peer_ends_by_keepalive", 0..5, |run| {
        let mut plan = (Plan::new(10, 10), Plan::new(10, 10));
        (plan.0.close_last, plan.1.close_last) = (true, true);
        let keepalive =
            KeepAlive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 5 };
        let options = TcpSocketOptions { keepalive: Some(keepalive), ..TcpSocketOptions::default() };
        let mut world = connected(run, plan.0, plan.1, options, Duration::from_secs(1_000));
        assert_eq!((world.a.received, world.a.outcomes.len()), (10, 0), "an answering peer is kept");
        assert!(world.a.stack.counters().tcp_keepalives > 3);
        let after = seconds_to_fail(&mut world, SocketError::TimedOut);
        assert!((50.0..120.0).contains(&after), "{after} s");
    });
}

#[test]
fn connecting_to_a_dead_host_fails() {
    seeds("failures::connecting_to_a_dead_host_fails", 0..5, |run| {
        let options = TcpSocketOptions::default();
        let mut world = connected(run, Plan::new(10, 10), Plan::new(10, 10), options, Duration::ZERO);
        let after = seconds_to_fail(&mut world, SocketError::TimedOut);
        // 1 + 2 + 4 + .. + 32, then the longest RTO of 60 s.
        assert!((122.0..125.0).contains(&after), "{after} s");
    });
}

#[test]
fn connecting_to_an_address_without_a_station_fails() {
    seeds("failures::connecting_to_an_address_without_a_station_fails", 0..5, |run| {
        let mut world = World::ours(run, Faults::default(), StackConfig::default());
        world.a.connect(world.now, 77, Plan::new(10, 10), (0, 1), None);
        let after = seconds_to_fail(&mut world, SocketError::HostUnreachable);
        assert!((2.0..10.0).contains(&after), "{after} s");
    });
}

#[test]
fn a_station_that_disappears_is_unreachable() {
    seeds("failures::a_station_that_disappears_is_unreachable", 0..5, |run| {
        let mut world = World::ours(run, Faults::default(), StackConfig::default());
        let plan = (Plan::new(10_000_000_000, 0), Plan::new(0, 10_000_000_000));
        let mut slow = plan.1;
        slow.read_every = Duration::from_millis(10);
        world.pair_up(plan.0, slow, None);
        world.run_for(Duration::from_secs(1));
        world.b.dead = true;
        let after = seconds_to_fail(&mut world, SocketError::HostUnreachable);
        assert!((100.0..1_000.0).contains(&after), "{after} s");
    });
}

#[test]
fn a_stopped_reader_that_dies_is_given_up_by_the_persist_timer() {
    seeds("failures::a_stopped_reader_that_dies_is_given_up_by_the_persist_timer", 0..5, |run| {
        let mut b = Plan::new(0, 10_000_000);
        b.stall = Some((0, Duration::from_secs(100_000)));
        let options = TcpSocketOptions::default();
        let mut world = connected(run, Plan::new(10_000_000, 0), b, options, Duration::from_secs(30));
        let after = seconds_to_fail(&mut world, SocketError::TimedOut);
        assert!((100.0..1_500.0).contains(&after), "{after} s");
    });
}

#[test]
fn a_closed_connection_to_a_dead_peer_leaves_nothing() {
    seeds("failures::a_closed_connection_to_a_dead_peer_leaves_nothing", 0..5, |run| {
        let options = TcpSocketOptions::default();
        let plan = (Plan::new(1_000_000, 0), Plan::new(0, 1_000_000));
        let mut world = connected(run, plan.0, plan.1, options, Duration::from_millis(20));
        let (_, (id, _)) = world.a.apps.pop_first().unwrap();
        world.a.stack.tcp_close(world.now, id).unwrap();
        world.expect_empty();
    });
}
