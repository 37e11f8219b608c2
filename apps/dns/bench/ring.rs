//! From a query in a ring to its answer in the other: nanoseconds per query over a link in memory, and which part takes them.
//!
//! One thread has both ends. It puts a burst of queries on the link and times nothing but the other end: receive, answer, send. The
//! contenders do more and more of the work and take turns in short rounds, of which the best counts; what one takes longer than
//! the one before is the part that it adds.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use nty_apps::dns::{Transport, UDP_PAYLOAD_MAX, Zones};
use ntytcp::device::mem::{MemConfig, MemDevice, pair};
use ntytcp::device::{Device, TxMeta, TxQueue as _, Verdict};
use ntytcp::rng::seed_from;
use ntytcp::stack::{InterfaceConfig, InterfaceId, Responder, SocketId, Stack, StackConfig};
use ntytcp::wire::{EtherType, EthernetHeader, IpProtocol, Ipv4Header, MacAddr, UdpHeader, VlanTags};

/// Queries that are sent together, in a round, and rounds.
const BURST: usize = 64;
const BURSTS: usize = 500;
const ROUNDS: usize = 40;

const CLIENT: (MacAddr, Ipv4Addr) = (MacAddr([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(10, 0, 0, 1));
const SERVER: (MacAddr, Ipv4Addr) = (MacAddr([2, 0, 0, 0, 0, 2]), Ipv4Addr::new(10, 0, 0, 2));

/// A query on its way from the client to port 53.
fn frame(query: &[u8]) -> Vec<u8> {
    let datagram = UdpHeader::LEN + query.len();
    let mut frame = vec![0; EthernetHeader::LEN + Ipv4Header::LEN + datagram];
    let (ethernet, packet) = frame.split_at_mut(EthernetHeader::LEN);
    let (ip, udp) = packet.split_at_mut(Ipv4Header::LEN);
    let header = EthernetHeader {
        dst: SERVER.0,
        src: CLIENT.0,
        vlan: VlanTags::default(),
        ethertype: EtherType::IPV4,
    };
    header.emit(ethernet).expect("it fits");
    let header = Ipv4Header {
        dscp_ecn: 0,
        total_len: (Ipv4Header::LEN + datagram) as u16,
        ident: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: IpProtocol::UDP,
        src: CLIENT.1,
        dst: SERVER.1,
        options: &[],
    };
    header.emit(ip).expect("it fits");
    let header = UdpHeader { src_port: 40_000, dst_port: 53, length: datagram as u16, checksum: 0 };
    header.emit(udp).expect("it fits");
    udp[UdpHeader::LEN..].copy_from_slice(query);
    UdpHeader::fill_checksum(CLIENT.1.into(), SERVER.1.into(), udp).expect("it fits");
    frame
}

/// What answers a datagram of the stack's.
enum Answers<'a> {
    /// The datagram itself.
    Echo,
    Zones(&'a Zones),
}

impl Responder for Answers<'static> {
    fn respond(&mut self, _: SocketAddr, buf: &mut [u8], len: usize) -> Option<usize> {
        match self {
            Self::Echo => Some(len),
            Self::Zones(zones) => zones.answer(buf, len, Transport::Udp { max: UDP_PAYLOAD_MAX }),
        }
    }
}

/// The other end of the link.
enum Server {
    /// Sends frames back as they are.
    Ring,
    Stack {
        stack: Box<Stack>,
        interface: InterfaceId,
        _socket: SocketId,
    },
}

impl Server {
    fn stack(device: &MemDevice, answers: Answers<'static>) -> Self {
        let mut stack = Stack::new(StackConfig::default(), seed_from(1)).expect("a good configuration");
        let config = InterfaceConfig {
            mac: SERVER.0,
            addrs: vec!["10.0.0.2/24".parse().expect("an address")],
            caps: *device.caps(),
            ..Default::default()
        };
        let interface = stack.add_interface(config).expect("a good configuration");
        let socket = stack.udp_bind("0.0.0.0:53".parse().expect("an address")).expect("a free port");
        stack.udp_set_responder(socket, Some(Box::new(answers))).expect("it is there");
        Self::Stack { stack: Box::new(stack), interface, _socket: socket }
    }

    fn serve(&mut self, device: &mut MemDevice, now: ntytcp::time::Instant) {
        match self {
            Self::Ring => device.rx_burst(&mut |frames| {
                frames.iter_mut().for_each(|frame| frame.verdict = Verdict::Reply(TxMeta::default()));
            }),
            Self::Stack { stack, interface, .. } => {
                device.rx_burst(&mut |frames| stack.ingress_burst(now, *interface, frames))
            }
        }
        .expect("a link in memory");
        device.flush().expect("a link in memory");
    }
}

struct Contender {
    name: String,
    queries: Vec<Vec<u8>>,
    next: usize,
    client: MemDevice,
    device: MemDevice,
    server: Server,
    best: f64,
}

impl Contender {
    fn new(name: &str, queries: &[Vec<u8>], answers: Option<Answers<'static>>) -> Self {
        let (client, device) = pair(MemConfig::default());
        let server = answers.map_or(Server::Ring, |answers| Server::stack(&device, answers));
        let queries = queries.iter().map(|query| frame(query)).collect();
        let mut made = Self { name: name.into(), queries, next: 0, client, device, server, best: f64::MAX };
        // The stack announces its address first.
        made.server.serve(&mut made.device, ntytcp::time::Instant::ZERO);
        made.take();
        made
    }

    /// Takes what came back; how many frames.
    fn take(&mut self) -> usize {
        let mut count = 0;
        loop {
            let came = self.client.rx_burst(&mut |frames| count += frames.len()).expect("a link in memory");
            self.client.flush().expect("a link in memory");
            if came == 0 {
                return count;
            }
        }
    }

    /// Nanoseconds per query of one round.
    fn round(&mut self) -> f64 {
        let (mut spent, now) = (Duration::ZERO, ntytcp::time::Instant::ZERO);
        for _ in 0..BURSTS {
            for _ in 0..BURST {
                let query = &self.queries[self.next];
                self.next = (self.next + 1) % self.queries.len();
                self.client.reserve(query.len()).expect("the ring is large enough").copy_from_slice(query);
                self.client.commit(TxMeta::default());
            }
            self.client.flush().expect("a link in memory");
            let start = Instant::now();
            self.server.serve(&mut self.device, now);
            spent += start.elapsed();
            assert_eq!(self.take(), BURST, "{}: an answer is missing", self.name);
        }
        spent.as_nanos() as f64 / (BURSTS * BURST) as f64
    }
}

/// Measures and prints the table. `zones` have names by their number, `queries` are for such names, `strangers` for names of nobody's.
pub(super) fn report(
    zones: [(usize, Zones); 2],
    queries: impl Fn(usize) -> Vec<Vec<u8>>,
    strangers: &[Vec<u8>],
) {
    let few = queries(zones[0].0);
    let mut contenders = vec![
        Contender::new("the ring", &few, None),
        Contender::new("the stack, as an echo", &few, Some(Answers::Echo)),
    ];
    for (names, zones) in zones {
        // For the rest of the process, as a responder must be.
        let zones: &'static Zones = Box::leak(Box::new(zones));
        if contenders.len() == 2 {
            contenders.push(Contender::new(
                "a query parsed, refused",
                strangers,
                Some(Answers::Zones(zones)),
            ));
        }
        let name = format!("an answer of {names} names");
        contenders.push(Contender::new(&name, &queries(names), Some(Answers::Zones(zones))));
    }
    for _ in 0..ROUNDS {
        for contender in &mut contenders {
            contender.best = contender.round().min(contender.best);
        }
    }
    println!("dns/ring: from a query in a ring to its answer, bursts of {BURST}");
    println!("{:<30} {:>12} {:>24}", "up to and with", "ns per query", "more than the line before");
    let mut before = 0.0;
    for Contender { name, best, .. } in &contenders {
        println!("{name:<30} {best:>12.1} {:>24.1}", best - before);
        before = *best;
    }
}
