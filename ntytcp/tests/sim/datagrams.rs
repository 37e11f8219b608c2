//! UDP and ping through the same world: echo of every size, in fragments where the link asks for it.

use crate::app::stream_bytes;
use crate::host::Host;
use crate::world::{Run, World, seeds};
use ntytcp::device::fault::Faults;
use ntytcp::stack::{EchoOutcome, SocketError, SocketId, StackConfig};
use ntytcp::time::Duration;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Sizes around every edge: empty, one frame, one byte more, the largest.
const SIZES: [usize; 9] = [0, 1, 63, 1_472, 1_473, 2_952, 9_000, 32_768, 65_507];

fn link(run: Run<'_>, loss: f64) -> World<Host> {
    let mut faults = Faults::default();
    (faults.delay, faults.loss) = (Duration::from_millis(1), loss);
    World::ours(run, faults, StackConfig::default())
}

/// Sends back what has arrived at b's socket.
fn echo(world: &mut World<Host>, server: SocketId) {
    let mut buf = vec![0; 65_536];
    while let Ok(got) = world.b.stack.udp_recv_from(server, &mut buf) {
        world.b.stack.udp_send_to(server, &buf[..got.len], Some(got.from)).unwrap();
    }
}

/// Asks with each size, waits for the answer, and says which sizes were answered. Whatever is answered is exact.
fn udp_echo(world: &mut World<Host>, rounds: u16) -> usize {
    let server = world.b.stack.udp_bind("0.0.0.0:7".parse().unwrap()).unwrap();
    let client = world.a.stack.udp_bind("0.0.0.0:0".parse().unwrap()).unwrap();
    let to: SocketAddr = "10.0.0.2:7".parse().unwrap();
    let mut answered = 0;
    let mut buf = vec![0; 65_536];
    for round in 0..rounds {
        let len = SIZES[usize::from(round) % SIZES.len()];
        let data = stream_bytes(round.into(), 0, len);
        world.a.stack.udp_send_to(client, data, Some(to)).unwrap();
        world.run_for(Duration::from_millis(20));
        echo(world, server);
        world.run_for(Duration::from_millis(20));
        loop {
            match world.a.stack.udp_recv_from(client, &mut buf) {
                Ok(got) => {
                    assert_eq!(got.from, to);
                    // Possibly of an earlier round: it waited for an address to be found.
                    let of_this_size =
                        (0..=round).filter(|&r| SIZES[usize::from(r) % SIZES.len()] == got.len);
                    let exact = |r: u16| buf[..got.len] == *stream_bytes(r.into(), 0, got.len);
                    assert!({ of_this_size }.any(exact), "{} bytes came back changed", got.len);
                    answered += 1;
                }
                Err(error) => break assert_eq!(error, SocketError::WouldBlock),
            }
        }
    }
    world.a.stack.udp_close(client).unwrap();
    world.b.stack.udp_close(server).unwrap();
    // Incomplete datagrams are forgotten after their time.
    world.run_for(Duration::from_secs(120));
    assert!(world.a.is_empty() && world.b.is_empty(), "memory was left");
    answered
}

#[test]
fn udp_of_every_size_comes_back_exact() {
    seeds("datagrams::udp_of_every_size_comes_back_exact", 0..3, |run| {
        assert_eq!(udp_echo(&mut link(run, 0.0), 45), 45);
    });
}

#[test]
fn udp_under_loss_comes_back_exact_or_not_at_all() {
    seeds("datagrams::udp_under_loss_comes_back_exact_or_not_at_all", 0..10, |run| {
        let mut world = link(run, 0.05);
        let answered = udp_echo(&mut world, 90);
        // One frame each way arrives in 90 % of the rounds; 45 fragments each way in 1 %.
        assert!((30..85).contains(&answered), "{answered} of 90");
    });
}

/// Pings with each size and says which numbers were answered.
fn ping(world: &mut World<Host>, rounds: u16) -> BTreeSet<u16> {
    let id = world.a.stack.echo_open().unwrap();
    let mut answered = BTreeSet::new();
    for seq in 0..rounds {
        let len = SIZES[usize::from(seq) % SIZES.len()];
        let data = stream_bytes(1_000 + u64::from(seq), 0, len);
        world.a.stack.echo_send(id, "10.0.0.2".parse().unwrap(), seq, data).unwrap();
        world.run_for(Duration::from_millis(50));
        while let Ok(arrival) = world.a.stack.echo_recv(id) {
            // Possibly of an earlier round: it waited for an address to be found.
            let len = SIZES[usize::from(arrival.seq) % SIZES.len()];
            assert!(
                matches!(arrival.outcome, EchoOutcome::Reply { payload_len, .. } if payload_len == len),
                "{arrival:?} to {len} bytes"
            );
            assert!(answered.insert(arrival.seq), "answered twice");
        }
    }
    world.a.stack.echo_close(id).unwrap();
    answered
}

#[test]
fn pings_of_every_size_are_answered() {
    seeds("datagrams::pings_of_every_size_are_answered", 0..3, |run| {
        assert_eq!(ping(&mut link(run, 0.0), 45).len(), 45);
    });
}

#[test]
fn pings_under_loss_are_answered_whole_or_not_at_all() {
    seeds("datagrams::pings_under_loss_are_answered_whole_or_not_at_all", 0..10, |run| {
        let answered = ping(&mut link(run, 0.05), 90).len();
        assert!((30..85).contains(&answered), "{answered} of 90");
    });
}
