//! A program with a TCP/IP stack of its own.
//!
//! `cargo run -p ntytcp --example embed` joins two stacks by a cable in memory and lets one echo what the other says, in
//! virtual time. With the name of a TAP it is an echo server for the kernel instead; in a shell of `unshare -Urn`:
//! `cargo run -p ntytcp --example embed nty0 &`, then `nc 10.0.0.2 7`.

use ntytcp::device::tap::{TapConfig, TapDevice};
use ntytcp::device::{Device, mem};
use ntytcp::fifo::{Consumer, Producer};
use ntytcp::rng::{Seed, seed_from};
use ntytcp::shard::{IdlePolicy, MonotonicClock, Shard};
use ntytcp::stack::{InterfaceConfig, Readiness, SocketError, SocketId, SocketKind, Stack, StackConfig};
use ntytcp::tcp::ListenOptions;
use ntytcp::time::{Clock, Instant};
use ntytcp::wire::MacAddr;
use std::{cell::Cell, collections::HashMap, error::Error, io::Read as _};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One stack on one device, at 10.0.0.`host`. Everything unpredictable in it comes from `seed`.
fn shard<C: Clock>(clock: C, device: impl Device + Send + 'static, host: u8, seed: Seed) -> Result<Shard<C>> {
    let mut shard = Shard::new(Stack::new(StackConfig::default(), seed)?, clock, IdlePolicy::default())?;
    let (mac, addrs) = (MacAddr([2, 0, 0, 0, 0, host]), vec![format!("10.0.0.{host}/24").parse()?]);
    shard.attach(Box::new(device), InterfaceConfig { mac, addrs, ..InterfaceConfig::default() })?;
    Ok(shard)
}

/// The application's ends of its connections.
type Streams = HashMap<SocketId, (Producer, Consumer)>;

/// An echo server: what happened since it was called last.
fn serve(stack: &mut Stack, now: Instant, streams: &mut Streams) {
    while let Some(event) = stack.poll_event() {
        let id = event.socket;
        if id.kind == SocketKind::Listener {
            while let Ok((id, peer)) = stack.tcp_accept(now, id) {
                println!("{:>4} µs  server: {peer} is here", now.as_micros());
                streams.extend(stack.tcp_split(id).map(|fifos| (id, fifos)));
            }
        } else if let Some((tx, rx)) = streams.get_mut(&id) {
            // From FIFO to FIFO; what finds no room waits for the next event.
            while let Some(bytes) = rx.peek(0, tx.free()).next() {
                let n = tx.write(bytes);
                if rx.consume(n) == 0 {
                    break;
                }
            }
            let over = rx.is_finished() || !rx.is_producer_alive();
            // These fail only for a socket that is gone, and then nothing is left to do for it.
            let _ = if over { stack.tcp_close(now, id) } else { stack.tcp_wake(now, id) };
            if over {
                streams.remove(&id);
            }
        }
    }
}

/// The echo server behind a TAP, in real time, for ever.
fn behind_tap(name: &str) -> Result<()> {
    let mut seed = Seed::default();
    std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    let mut tap = TapConfig::new(name);
    tap.host_addrs = vec![("10.0.0.1".parse()?, 24)];
    let mut server = shard(MonotonicClock::new(), TapDevice::open(&tap)?, 2, seed)?;
    server.stack_mut().tcp_listen("0.0.0.0:7".parse()?, ListenOptions::default())?;
    let mut streams = Streams::new();
    loop {
        server.turn()?;
        let now = server.now();
        serve(server.stack_mut(), now, &mut streams);
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
    let mut client = shard(clock, left, 1, seed_from(1))?;
    let mut server = shard(clock, right, 2, seed_from(2))?;
    server.stack_mut().tcp_listen("0.0.0.0:7".parse()?, ListenOptions::default())?;
    let mut streams = Streams::new();
    let socket = client.stack_mut().tcp_connect(clock.now(), None, "10.0.0.2:7".parse()?, None)?;
    let mut spoken = false;
    for micros in (0..1_000).step_by(10) {
        clock.0.set(Instant::from_micros(micros));
        client.turn()?;
        server.turn()?;
        serve(server.stack_mut(), clock.now(), &mut streams);
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
        Some(tap) => behind_tap(&tap),
        None => in_memory(),
    }
}
