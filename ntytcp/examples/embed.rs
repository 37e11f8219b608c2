//! A program with a TCP/IP stack of its own.
//!
//! `cargo run -p ntytcp --example embed` joins two stacks by a cable in memory and lets one echo what the other says, in
//! virtual time. With a device it is an echo server at 10.0.0.2 instead: `unshare -Urn`, then
//! `cargo run -p ntytcp --example embed tap:nty0`; the kernel's side of the TAP still needs an address of its own.

use ntytcp::device::{mem, spec};
use ntytcp::rng::{Seed, seed_from};
use ntytcp::shard::{IdlePolicy, MonotonicClock, Shard};
use ntytcp::stack::{InterfaceConfig, Readiness, SocketError, SocketKind, Stack, StackConfig};
use ntytcp::tcp::ListenOptions;
use ntytcp::time::{Clock, Instant};
use ntytcp::wire::MacAddr;
use std::{cell::Cell, collections::HashMap, error::Error, io::Read as _};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One stack on one device, at 10.0.0.`host`. Everything unpredictable in it comes from `seed`.
fn shard<C: Clock>(clock: C, device: spec::BoxedDevice, host: u8, seed: Seed) -> Result<Shard<C>> {
    let mut shard = Shard::new(Stack::new(StackConfig::default(), seed)?, clock, IdlePolicy::default())?;
    let (mac, addrs) = (MacAddr([2, 0, 0, 0, 0, host]), vec![format!("10.0.0.{host}/24").parse()?]);
    shard.attach(device, InterfaceConfig { mac, addrs, ..InterfaceConfig::default() })?;
    Ok(shard)
}

/// An echo server, to be called after each turn.
fn echo<C: Clock>(shard: &mut Shard<C>) -> Result<impl FnMut(&mut Shard<C>) + use<C>> {
    shard.stack_mut().tcp_listen("0.0.0.0:7".parse()?, ListenOptions::default())?;
    let mut streams = HashMap::new();
    Ok(move |shard: &mut Shard<C>| {
        let now = shard.now();
        let stack = shard.stack_mut();
        while let Some(event) = stack.poll_event() {
            if event.socket.kind == SocketKind::Listener {
                while let Ok((id, peer)) = stack.tcp_accept(now, event.socket) {
                    println!("{:>4} µs  server: {peer} is here", now.as_micros());
                    streams.extend(stack.tcp_split(id).map(|fifos| (id, fifos)));
                }
            } else if let Some((tx, rx)) = streams.get_mut(&event.socket) {
                // From FIFO to FIFO; what finds no room waits for the next event.
                while let Some(bytes) = rx.peek(0, tx.free()).next() {
                    let n = tx.write(bytes);
                    if rx.consume(n) == 0 {
                        break;
                    }
                }
                let over = rx.is_finished() || !rx.is_producer_alive();
                // These fail only for a socket that is gone, and then nothing is left to do for it.
                let _ =
                    if over { stack.tcp_close(now, event.socket) } else { stack.tcp_wake(now, event.socket) };
                if over {
                    streams.remove(&event.socket);
                }
            }
        }
    })
}

/// The echo server on a real device, in real time, for ever.
fn on_device(device: &str) -> Result<()> {
    let mut seed = Seed::default();
    std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    let device = spec::open(device, &spec::OpenOptions::default())?;
    let mut server = shard(MonotonicClock::new(), device, 2, seed)?;
    let mut serve = echo(&mut server)?;
    loop {
        server.turn()?;
        serve(&mut server);
        server.wait(None, &[])?;
    }
}

/// Time that passes when we say so.
struct Virtual(Cell<Instant>);

impl Clock for &Virtual {
    fn now(&self) -> Instant {
        self.0.get()
    }
}

/// Client and server on one thread: the same seeds give the same conversation, to the microsecond.
fn in_memory() -> Result<()> {
    let clock = &Virtual(Cell::new(Instant::ZERO));
    let (left, right) = mem::pair(mem::MemConfig::default());
    let mut client = shard(clock, Box::new(left), 1, seed_from(1))?;
    let mut server = shard(clock, Box::new(right), 2, seed_from(2))?;
    let mut serve = echo(&mut server)?;
    let socket = client.stack_mut().tcp_connect(clock.now(), None, "10.0.0.2:7".parse()?, None)?;
    let mut spoken = false;
    for micros in (0..1_000).step_by(10) {
        clock.0.set(Instant::from_micros(micros));
        client.turn()?;
        server.turn()?;
        serve(&mut server);
        let (now, stack) = (client.now(), client.stack_mut());
        while let Some(event) = stack.poll_event() {
            println!("{micros:>4} µs  client: {:?}", event.readiness);
            if event.readiness.contains(Readiness::WRITABLE) && !spoken {
                spoken = true;
                stack.tcp_send(now, socket, b"hello, stack")?;
                stack.tcp_shutdown(now, socket)?;
            }
            // An event is an edge: what is there is read until nothing more is.
            let mut answer = [0; 64];
            loop {
                match stack.tcp_recv(now, socket, &mut answer) {
                    Ok(0) => {
                        println!("{micros:>4} µs  client: the end");
                        return Ok(());
                    }
                    Ok(n) => println!("{micros:>4} µs  client: heard {}", answer[..n].escape_ascii()),
                    Err(SocketError::WouldBlock) => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    Err("no answer within a millisecond".into())
}

fn main() -> Result<()> {
    match std::env::args().nth(1) {
        Some(device) => on_device(&device),
        None => in_memory(),
    }
}
