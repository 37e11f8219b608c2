//! The work alone: both ends of the wire on one thread, of which one is timed.

use std::time::{Duration, Instant};

use dpdk_sys::{Burst, Eal, Mempool, Port, PortConfig, Queue};

use crate::frames::{arp, datagram, is_answer};
use crate::server::{Server, pool};
use crate::{CONTENDERS, Make};

/// Frames that are sent together.
const BURST: usize = 64;
/// Bursts in a round, and rounds.
const BURSTS: u32 = 1_000;
const ROUNDS: usize = 40;

/// A server, and the client's end of its wire.
struct Contender {
    name: &'static str,
    client: Queue,
    pool: Mempool,
    server: Server,
    best: f64,
}

impl Contender {
    fn new(eal: Eal, (name, short, server): (&'static str, &str, Make)) -> Self {
        let pool = pool(eal);
        let (left, right) = dpdk_sys::wire(eal, short, 256).unwrap();
        let client = Port::open(eal, &left, &[pool], &PortConfig::default()).unwrap().pop().unwrap();
        let server = server(eal, &right);
        let mut made = Self { name, client, pool, server, best: f64::MAX };
        made.send(&arp(), 1);
        made.server.answer();
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
            echoed += burst.packets().iter().filter(|mbuf| is_answer(mbuf.data())).count();
            burst.clear();
        }
        echoed
    }

    /// Nanoseconds per frame of one round.
    fn round(&mut self, frame: &[u8]) -> f64 {
        let mut spent = Duration::ZERO;
        for _ in 0..BURSTS {
            self.send(frame, BURST);
            let start = Instant::now();
            // A socket's answers leave with the turn after.
            let _answered = (self.server.serve(), self.server.serve());
            spent += start.elapsed();
            assert_eq!(self.drain(), BURST, "{}: an answer is missing", self.name);
        }
        spent.as_nanos() as f64 / (f64::from(BURSTS) * BURST as f64)
    }
}

pub(crate) fn compare(eal: Eal) {
    let mut contenders = CONTENDERS.map(|contender| Contender::new(eal, contender));
    let frame = datagram();
    for _ in 0..ROUNDS {
        for contender in &mut contenders {
            contender.best = contender.round(&frame).min(contender.best);
        }
    }
    println!("the work alone: net_ring, frames of 60 bytes, bursts of {BURST}");
    let plain = contenders[0].best;
    for Contender { name, best, .. } in &contenders {
        println!("  {name:<22} {best:6.1} ns per frame, {:.2} of plain forwarding", plain / best);
    }
}

/// Rounds of one contender.
pub(crate) fn spin(eal: Eal, number: usize, rounds: usize) {
    let mut contender = Contender::new(eal, *CONTENDERS.get(number).expect("no such contender"));
    let frame = datagram();
    for _ in 0..rounds {
        contender.round(&frame);
    }
}
