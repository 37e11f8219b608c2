//! A wire between two who run at the same time: one keeps a number of frames under way, as fast as they come back, the other answers.
//!
//! What a generator gets back it fills anew and sends again, so that the other is what limits the rate. The ends of `net_ring` are two
//! threads; those of virtio are two processes, which two programs are in practice, and `net_vhost` cannot have both ends in one. The second is this program once more.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dpdk_sys::{Burst, Eal, Mempool, Port, PortConfig, Queue};
use ntytcp::device::dpdk::start;

use crate::frames::{arp, datagram, is_answer};
use crate::server::{Server, pool};
use crate::{CONTENDERS, Make};

/// Frames that may wait on the wire in each direction, and that are under way at most.
const RING: u32 = 512;
const UNDER_WAY: usize = 256;
/// Frames that a generator takes and sends at once.
const BURST: usize = 64;
/// Short, so that some are not disturbed.
const ROUND: Duration = Duration::from_millis(4);
const ROUNDS: usize = 150;

/// The client's end of a wire.
struct Generator {
    queue: Queue,
    pool: Mempool,
}

impl Generator {
    fn new(eal: Eal, port: &str) -> Self {
        let pool = pool(eal);
        let queue = Port::open(eal, port, &[pool], &PortConfig::default()).unwrap().pop().unwrap();
        Self { queue, pool }
    }

    /// Sends for the time of a round, and takes what comes back; how many answers.
    fn generate(&mut self, eal: Eal) -> usize {
        let _known = eal.register_thread();
        let (frame, mut burst, mut answers) = (datagram(), Burst::<BURST>::default(), 0);
        burst.fill(&self.pool, &[&arp()]).unwrap();
        // What has to do with an earlier round does not count, and may be lost.
        let (mut under_way, until) = (0usize, Instant::now() + ROUND);
        while Instant::now() < until {
            self.queue.tx_burst(&mut burst);
            let waiting = burst.len();
            let back = self.queue.rx_burst(&mut burst);
            for mbuf in burst.packets_mut().iter_mut().skip(waiting) {
                answers += usize::from(is_answer(mbuf.data()));
                mbuf.fill(&frame).unwrap();
            }
            under_way = under_way.saturating_sub(back);
            let room = burst.room().min(UNDER_WAY.saturating_sub(under_way + burst.len()));
            burst.fill(&self.pool, &[&frame[..]; BURST][..room]).unwrap();
            under_way += burst.len() - waiting;
        }
        answers
    }
}

/// Who generates.
enum Client {
    Thread(Generator),
    Process { child: Child, answers: BufReader<ChildStdout> },
}

impl Client {
    /// As [`Generator::generate`] of the contender of this number.
    fn generate(&mut self, eal: Eal, number: usize) -> usize {
        match self {
            Self::Thread(generator) => generator.generate(eal),
            Self::Process { child, answers } => {
                writeln!(child.stdin.as_mut().unwrap(), "{number}").unwrap();
                let mut line = String::new();
                answers.read_line(&mut line).unwrap();
                line.trim().parse().expect("the generator has ended")
            }
        }
    }
}

/// The second process: makes the sockets with these paths, and generates over the one whose number stands in the next line.
pub(crate) fn be_generator(eal: Eal, paths: &[String]) {
    let generator = |(number, path): (usize, &String)| {
        let port = format!("net_vhost{number}");
        start(&format!("{port},iface={path}")).unwrap();
        Generator::new(eal, &port)
    };
    let mut generators: Vec<_> = paths.iter().enumerate().map(generator).collect();
    println!("ready");
    for line in std::io::stdin().lines() {
        let number: usize = line.unwrap().parse().unwrap();
        println!("{}", generators[number].generate(eal));
    }
}

struct Contender {
    name: &'static str,
    server: Server,
    /// Frames answered per second.
    best: f64,
}

impl Contender {
    fn new(eal: Eal, port: &str, number: usize) -> Self {
        let (name, _, server): (_, _, Make) = CONTENDERS[number];
        Self { name, server: server(eal, port), best: 0.0 }
    }

    fn round(&mut self, generate: impl FnOnce() -> usize + Send) {
        let stop = AtomicBool::new(false);
        let answers = thread::scope(|scope| {
            let generator = scope.spawn(|| {
                let answers = generate();
                stop.store(true, Ordering::Relaxed);
                answers
            });
            while !stop.load(Ordering::Relaxed) {
                self.server.serve();
            }
            generator.join().unwrap()
        });
        self.best = self.best.max(answers as f64 / ROUND.as_secs_f64());
    }
}

pub(crate) fn over_rings(eal: Eal) {
    let (mut contenders, mut generators) = (Vec::new(), Vec::new());
    for (number, (_, short, _)) in CONTENDERS.iter().enumerate() {
        let (left, right) = dpdk_sys::wire(eal, &format!("w_{short}"), RING).unwrap();
        generators.push(Client::Thread(Generator::new(eal, &left)));
        contenders.push(Contender::new(eal, &right, number));
    }
    compare(eal, &mut contenders, &mut generators, "net_ring");
}

pub(crate) fn over_virtio(eal: Eal, options: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = |number: usize| directory.path().join(number.to_string()).display().to_string();
    let paths: Vec<_> = (0..CONTENDERS.len()).map(path).collect();
    let mut generator = Command::new(std::env::current_exe().unwrap());
    generator.args(["--generate", options]).args(&paths).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = generator.spawn().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap());
    answers.read_line(&mut String::new()).unwrap();
    let mut client = [Client::Process { child, answers }];

    let contender = |(number, path): (usize, &String)| {
        let port = format!("net_virtio_user{number}");
        start(&format!("{port},path={path},queue_size={RING}")).unwrap();
        Contender::new(eal, &port, number)
    };
    let mut contenders: Vec<_> = paths.iter().enumerate().map(contender).collect();
    compare(eal, &mut contenders, &mut client, "net_virtio_user, the generator on net_vhost");
    // Before the other end goes, which drivers complain about.
    drop(contenders);
    let [Client::Process { mut child, .. }] = client else { return };
    drop(child.stdin.take());
    child.wait().unwrap();
}

/// The contenders take turns, with a generator each or one for all.
fn compare(eal: Eal, contenders: &mut [Contender], clients: &mut [Client], wire: &str) {
    let last = clients.len() - 1;
    for _ in 0..ROUNDS {
        for (number, contender) in contenders.iter_mut().enumerate() {
            contender.round(|| clients[number.min(last)].generate(eal, number));
        }
    }
    println!("between two cores: {wire}, frames of 60 bytes");
    let plain = contenders[0].best;
    for Contender { name, best, .. } in contenders {
        println!("  {name:<22} {:6.1} million/s, {:.2} of plain forwarding", *best / 1e6, *best / plain);
    }
}
