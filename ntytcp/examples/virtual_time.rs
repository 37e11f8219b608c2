//! Two stacks on a cable in memory, in virtual time: a client says something to a server, which says it back. The same seeds
//! give the same conversation, to the microsecond. `cargo run -p ntytcp --example virtual_time`

use ntytcp::device::{Device, mem};
use ntytcp::rng::seed_from;
use ntytcp::shard::{IdlePolicy, Shard};
use ntytcp::stack::{InterfaceConfig, Readiness, SocketError, SocketKind, Stack, StackConfig};
use ntytcp::tcp::ListenOptions;
use ntytcp::time::{Clock, Instant};
use ntytcp::wire::MacAddr;
use std::{cell::Cell, error::Error};

/// Time that passes when we say so.
struct Virtual(Cell<Instant>);

impl Clock for &Virtual {
    fn now(&self) -> Instant {
        self.0.get()
    }
}

/// One stack at 10.0.0.`host`. Everything unpredictable in it comes from its seed.
fn shard(
    clock: &Virtual,
    device: impl Device + Send + 'static,
    host: u8,
) -> Result<Shard<&Virtual>, Box<dyn Error>> {
    let stack = Stack::new(StackConfig::default(), seed_from(host.into()))?;
    let mut shard = Shard::new(stack, clock, IdlePolicy::default());
    let (mac, addrs) = (MacAddr([2, 0, 0, 0, 0, host]), vec![format!("10.0.0.{host}/24").parse()?]);
    shard.attach(Box::new(device), InterfaceConfig { mac, addrs, ..InterfaceConfig::default() })?;
    Ok(shard)
}

/// Says back what has arrived, which is little enough to find room.
fn serve(stack: &mut Stack, now: Instant) -> Result<(), SocketError> {
    while let Some(event) = stack.poll_event() {
        if event.socket.kind == SocketKind::Listener {
            stack.tcp_accept(now, event.socket)?;
            continue;
        }
        let mut heard = [0; 64];
        while let Ok(n) = stack.tcp_recv(now, event.socket, &mut heard) {
            if n == 0 {
                stack.tcp_close(now, event.socket)?;
                break;
            }
            stack.tcp_send(now, event.socket, &heard[..n])?;
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let clock = &Virtual(Cell::new(Instant::ZERO));
    let (left, right) = mem::pair(mem::MemConfig::default());
    let (mut client, mut server) = (shard(clock, left, 1)?, shard(clock, right, 2)?);
    server.stack_mut().tcp_listen("0.0.0.0:7".parse()?, ListenOptions::default())?;
    let socket = client.stack_mut().tcp_connect(clock.now(), None, "10.0.0.2:7".parse()?, None)?;
    let mut spoken = false;
    for micros in (0..1_000).step_by(10) {
        clock.0.set(Instant::from_micros(micros));
        client.turn()?;
        server.turn()?;
        serve(server.stack_mut(), clock.now())?;
        let (now, stack) = (client.now(), client.stack_mut());
        while let Some(event) = stack.poll_event() {
            println!("{micros:>4} µs: {:?}", event.readiness);
            if event.readiness.contains(Readiness::WRITABLE) && !spoken {
                spoken = true;
                stack.tcp_send(now, socket, b"hello, stack")?;
                stack.tcp_shutdown(now, socket)?;
            }
            let mut answer = [0; 64];
            // An event is an edge: what is there is read until nothing more is.
            while let Ok(n) = stack.tcp_recv(now, socket, &mut answer) {
                if n == 0 {
                    println!("{micros:>4} µs: the end");
                    return Ok(());
                }
                println!("{micros:>4} µs: heard {}", answer[..n].escape_ascii());
            }
        }
    }
    Err("no answer within a millisecond".into())
}
