//! What the stack adds to DPDK: echo of small datagrams over `net_ring`, beside plain forwarding that only swaps the station addresses.
//!
//! One thread has both ends of a wire of two rings. It puts a burst of 64 frames on it, and times nothing but the other end: receive,
//! answer, send. The contenders take turns in many short rounds, of which the best counts. Hugepages are used if 64 MB of them are free.

#![allow(clippy::expect_used, clippy::unwrap_used)] // a benchmark that cannot run says so and ends

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dpdk_sys::{Burst, Eal, Mempool, Port, PortConfig, Queue};
use ntytcp::device::dpdk::{DpdkConfig, DpdkDevice, start};
use ntytcp::device::{Device, RxFrame, TxMeta, Verdict};
use ntytcp::rng::seed_from;
use ntytcp::stack::{InterfaceConfig, InterfaceId, Pending, Responder, SocketId, Stack, StackConfig};
use ntytcp::wire::MacAddr;

/// Frames that are sent together.
const BURST: usize = 64;
/// Bursts in a round, and rounds.
const BURSTS: u32 = 1_000;
const ROUNDS: usize = 40;

const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A datagram of 18 bytes from 10.0.0.1:1234 to 10.0.0.2:7, in a frame of 60.
fn datagram() -> Vec<u8> {
    let mut ip = [0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum);
    let mut udp = [&[4, 210, 0, 7, 0, 26, 0, 0][..], &[b'x'; 18]].concat();
    let sum = checksum(&[&ip[12..], &[0, 17, 0, 26], &udp]);
    udp[6..8].copy_from_slice(&sum);
    [&SERVER[..], &CLIENT, &[8, 0], &ip, &udp].concat()
}

/// The client asks for the server, which so learns where the client is.
fn arp() -> Vec<u8> {
    let (client, server) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    [&[0xff; 6][..], &CLIENT, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &CLIENT, &client, &[0; 6], &server].concat()
}

fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// Who answers at the other end of the wire.
enum Server {
    /// DPDK alone.
    Plain { queue: Queue, burst: Box<Burst<BURST>> },
    /// A device, and a closure that does the same.
    Device(DpdkDevice),
    /// The stack.
    Stack { device: DpdkDevice, stack: Box<Stack>, interface: InterfaceId, socket: SocketId },
}

struct Echo;

impl Responder for Echo {
    fn respond(&mut self, _: SocketAddr, _: &mut [u8], len: usize) -> Option<usize> {
        Some(len)
    }
}

fn swap_stations(frame: &mut [u8]) {
    if let Some((dst, rest)) = frame.split_first_chunk_mut::<6>()
        && let Some(src) = rest.first_chunk_mut::<6>()
    {
        std::mem::swap(dst, src);
    }
}

impl Server {
    fn stack(port: &str, with_responder: bool) -> Self {
        let device = DpdkDevice::open(&DpdkConfig::new(port)).unwrap().pop().unwrap();
        let mut stack = Stack::new(StackConfig::default(), seed_from(1)).unwrap();
        let config = InterfaceConfig {
            mac: MacAddr(SERVER),
            addrs: vec!["10.0.0.2/24".parse().unwrap()],
            caps: *ntytcp::device::TxQueue::caps(&device),
            ..Default::default()
        };
        let interface = stack.add_interface(config).unwrap();
        let socket = stack.udp_bind("10.0.0.2:7".parse().unwrap()).unwrap();
        if with_responder {
            stack.udp_set_responder(socket, Some(Box::new(Echo))).unwrap();
        }
        Self::Stack { device, stack: Box::new(stack), interface, socket }
    }

    /// Answers what has arrived.
    fn serve(&mut self, now: ntytcp::time::Instant) {
        match self {
            Self::Plain { queue, burst } => {
                queue.rx_burst(burst);
                burst.packets_mut().iter_mut().for_each(|mbuf| swap_stations(mbuf.data_mut()));
                queue.tx_burst(burst);
            }
            Self::Device(device) => {
                let answer = |frames: &mut [RxFrame<'_>]| {
                    for frame in frames {
                        swap_stations(frame.bytes_mut());
                        frame.verdict = Verdict::Reply(TxMeta::default());
                    }
                };
                device.rx_burst(&mut { answer }).unwrap();
                device.flush().unwrap();
            }
            Self::Stack { device, stack, interface, socket } => {
                device.set_now(now);
                device.rx_burst(&mut |frames| stack.ingress_burst(now, *interface, frames)).unwrap();
                if stack.next_deadline().is_some_and(|at| at <= now) {
                    stack.on_timeout(now);
                }
                while stack.poll_event().is_some() {
                    let mut buf = [0; 64];
                    while let Ok(got) = stack.udp_recv_from(*socket, &mut buf) {
                        stack.udp_send_to(*socket, &buf[..got.len], Some(got.from)).unwrap();
                    }
                }
                if stack.has_pending(*interface) {
                    assert_eq!(
                        stack.egress(now, *interface, device),
                        Pending::Clear,
                        "the ring is large enough"
                    );
                }
                device.flush().unwrap();
            }
        }
    }
}

/// A server, and the client's end of its wire.
struct Contender {
    name: &'static str,
    client: Queue,
    pool: Mempool,
    server: Server,
    now: ntytcp::time::Instant,
    best: f64,
}

impl Contender {
    fn new(eal: Eal, name: &'static str, short: &str, server: impl FnOnce(&str, Mempool) -> Server) -> Self {
        let pool = Mempool::new(eal, short, 2_047, 2_048).unwrap();
        let (left, right) = dpdk_sys::wire(eal, short, 256).unwrap();
        let client = Port::open(eal, &left, &[pool], &PortConfig::default()).unwrap().pop().unwrap();
        let server = server(&right, pool);
        let mut made = Self { name, client, pool, server, now: ntytcp::time::Instant::ZERO, best: f64::MAX };
        made.send(&arp(), 1);
        made.server.serve(made.now);
        made.drain();
        made
    }

    fn send(&mut self, frame: &[u8], count: usize) {
        let mut burst = Burst::<BURST>::default();
        let frames = [frame; BURST];
        assert_eq!(burst.fill(&self.pool, &frames[..count]).unwrap(), count, "the pool is large enough");
        assert_eq!(self.client.tx_burst(&mut burst), count, "the ring is large enough");
    }

    /// Takes all that came back; how many of the datagrams.
    fn drain(&mut self) -> usize {
        let mut burst = Burst::<BURST>::default();
        let mut echoed = 0;
        while self.client.rx_burst(&mut burst) > 0 {
            echoed +=
                burst.packets().iter().filter(|m| m.data().len() == 60 && m.data()[0..6] == CLIENT).count();
            burst.clear();
        }
        echoed
    }

    /// Nanoseconds per frame of one round.
    fn round(&mut self, frame: &[u8]) -> f64 {
        let mut spent = Duration::ZERO;
        for _ in 0..BURSTS {
            self.send(frame, BURST);
            self.now += ntytcp::time::Duration::from_micros(5);
            let start = Instant::now();
            self.server.serve(self.now);
            spent += start.elapsed();
            assert_eq!(self.drain(), BURST, "{}: an answer is missing", self.name);
        }
        spent.as_nanos() as f64 / (f64::from(BURSTS) * BURST as f64)
    }
}

fn main() {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free =
        memory.lines().find_map(|line| line.strip_prefix("HugePages_Free:")?.trim().parse::<u32>().ok());
    let options = if free.unwrap_or(0) >= 32 { "--no-pci" } else { "--no-huge -m 512 --iova-mode=va" };
    let eal = start(options).unwrap();
    let _known = eal.register_thread();
    let plain = |port: &str, pool| {
        let queue = Port::open(eal, port, &[pool], &PortConfig::default()).unwrap().pop().unwrap();
        Server::Plain { queue, burst: Box::default() }
    };
    let device =
        |port: &str, _| Server::Device(DpdkDevice::open(&DpdkConfig::new(port)).unwrap().pop().unwrap());
    let mut contenders = [
        Contender::new(eal, "plain forwarding", "plain", plain),
        Contender::new(eal, "the device alone", "device", device),
        Contender::new(eal, "echo by a responder", "responder", |port, _| Server::stack(port, true)),
        Contender::new(eal, "echo through a socket", "socket", |port, _| Server::stack(port, false)),
    ];
    let frame = datagram();
    for _ in 0..ROUNDS {
        for contender in &mut contenders {
            contender.best = contender.round(&frame).min(contender.best);
        }
    }
    println!("net_ring, frames of 60 bytes, bursts of {BURST}, {options}");
    let plain = contenders[0].best;
    for Contender { name, best, .. } in &contenders {
        println!("{name:<22} {best:6.1} ns per frame, {:.2} of plain forwarding", plain / best);
    }
}
