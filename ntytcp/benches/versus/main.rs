//! Our stack against smoltcp: the same work, over the same kind of link, in the same run.
//!
//! Both ends of each stack run in one thread and pay for both directions. The links are the same for both: Ethernet with an MTU of
//! 1500 in recycled buffers, nothing offloaded, so that both stacks compute and verify every checksum. Sockets have equal buffers, both run without timestamps (so
//! the MSS is 1460), and the applications work in the sockets' buffers; those of the bulk transfer, as in smoltcp's own benchmark,
//! neither make nor look at the bytes. Ours runs with the congestion control that it always has, smoltcp with its default of none. Time is virtual: each
//! turn is one step later than the one before. A connection ends when nothing of it is left: time moves on by what both stacks stay in
//! TIME-WAIT, and both see to it that this ends. (smoltcp would let the socket be used again at once, and forget TIME-WAIT; ours
//! would gather thousands, and find its way among them.)
//!
//! `cargo bench -p ntytcp --bench versus` measures with criterion. With `-- --ratios [NAME...]` the program prints the table of
//! `scripts/bench` instead: the two take turns within one process, many short rounds each, and the best round of each counts, which is
//! what a busy machine leaves undisturbed. `-- --spin NAME IDLE OPERATIONS` runs one workload of ours alone, for a profiler, and
//! `-- --spin-smoltcp` the same of smoltcp.

#![allow(missing_docs)] // criterion's macros make undocumented functions
#![allow(clippy::expect_used, clippy::unwrap_used)] // a benchmark that cannot run says so and ends

mod link;
mod ours;
mod smol;

use criterion::{BenchmarkId, Criterion, Throughput};
use ours::Ours;
use smol::Smol;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Where the server's active socket is.
const PORT: u16 = 7;
/// Where idle ones begin.
const IDLE_PORT: u16 = 10_000;
/// Bytes of a TCP socket's buffers.
const BUFFER: usize = 256 << 10;
/// Bytes of a UDP socket's buffers.
const UDP_BUFFER: usize = 128 << 10;
/// Frames that can be under way.
const RING: usize = 1_024;
/// Bytes of a bulk transfer in one operation.
const BULK: usize = 1 << 20;
/// Bytes of a request and of a response.
const MESSAGE: usize = 64;
/// Datagrams under way at once.
const UDP_BURST: usize = 32;
/// Time that passes in one turn.
const TURN: Duration = Duration::from_micros(200);
/// How long smoltcp stays in TIME-WAIT.
const TIME_WAIT: Duration = Duration::from_secs(10);

/// What a pair of hosts is set up for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// One direction, as fast as it goes.
    Bulk,
    /// One request under way, then its response.
    Request,
    /// A connection is opened, closed by both ends, and waited for until TIME-WAIT is over; the next one follows.
    Connect,
    /// Datagrams are read from a socket and sent back through it.
    Udp,
    /// As `Udp`, but our server answers in place by a responder; smoltcp has only sockets.
    Respond,
}

/// A pair of hosts that can be put to work. Each call is one operation.
pub(crate) trait Net {
    fn bulk(&mut self, bytes: usize);
    fn request(&mut self);
    fn connect(&mut self);
    fn udp(&mut self);
}

/// One line of the table.
struct Workload {
    role: Role,
    name: &'static str,
    title: &'static str,
    /// Units done by one operation, and what they are called.
    units: usize,
    unit: &'static str,
    /// What takes our time, from a profile (`perf record` of `--spin`).
    limit: &'static str,
}

const WORKLOADS: [Workload; 5] = [
    Workload {
        role: Role::Bulk,
        name: "bulk",
        title: "bulk, MSS 1460",
        units: BULK,
        unit: "B",
        limit: "checksum 31 %, copy 30 % (two of each byte): 800 KB under way, in the second cache",
    },
    Workload {
        role: Role::Request,
        name: "request",
        title: "64 B request/response",
        units: 1,
        unit: "",
        limit: "1,200 instructions to send a segment or to take one, calls included, and the turn's own 900",
    },
    Workload {
        role: Role::Connect,
        name: "connect",
        title: "connect and close",
        units: 1,
        unit: "",
        limit: "instruction cache: 7,700 instructions run once or twice each; the long way of 5 frames",
    },
    Workload {
        role: Role::Udp,
        name: "udp",
        title: "UDP echo, sockets",
        units: UDP_BURST,
        unit: "",
        limit: "headers and checksums of both ways 38 %, their four queues 43 %, the link 10 %",
    },
    Workload {
        role: Role::Respond,
        name: "respond",
        title: "UDP echo, responder",
        units: UDP_BURST,
        unit: "",
        limit: "the client is on sockets: 60 %; the answer's headers 20 %",
    },
];

/// Open idle sockets beside the active one, and how many times faster than smoltcp we mean to be then.
const POPULATIONS: [(usize, f64); 2] = [(0, 2.5), (10_000, 50.0)];

fn run(role: Role, net: &mut dyn Net) {
    match role {
        Role::Bulk => net.bulk(BULK),
        Role::Request => net.request(),
        Role::Connect => net.connect(),
        Role::Udp | Role::Respond => net.udp(),
    }
}

fn stacks(role: Role, idle: usize) -> [(&'static str, Box<dyn Net>); 2] {
    [("ours", Box::new(Ours::new(role, idle))), ("smoltcp", Box::new(Smol::new(role, idle)))]
}

fn benches(c: &mut Criterion) {
    for (idle, _) in POPULATIONS {
        for Workload { role, name, units, unit, .. } in WORKLOADS {
            let mut group = c.benchmark_group(format!("versus/{name}"));
            group.throughput(match unit {
                "B" => Throughput::Bytes(units as u64),
                _ => Throughput::Elements(units as u64),
            });
            group.sample_size(10);
            for (stack, mut net) in stacks(role, idle) {
                let id = BenchmarkId::new(stack, format!("{idle} idle"));
                group.bench_function(id, |b| b.iter(|| run(role, &mut *net)));
            }
        }
    }
}

/// Rounds of the table, and how long one is meant to take.
const ROUNDS: usize = 300;
const ROUND: Duration = Duration::from_millis(2);

/// How long the rounds of one line may take together.
const LONGEST: Duration = Duration::from_secs(4);

/// The best time of one operation for ours and for smoltcp, which take turns.
fn best(role: Role, idle: usize) -> [Duration; 2] {
    let timed = |net: &mut dyn Net, count: u32| {
        let start = Instant::now();
        (0..count).for_each(|_| run(role, net));
        start.elapsed()
    };
    let mut stacks = stacks(role, idle).map(|(_, mut net)| {
        // Warm up until windows have opened and pages are there, then see how many operations make a round.
        let once = timed(&mut *net, 3) / 3;
        timed(&mut *net, (25 * ROUND.as_nanos() / once.as_nanos().max(1)) as u32);
        let once = timed(&mut *net, 3) / 3;
        let count = (ROUND.as_nanos() / once.as_nanos().max(1)).max(1) as u32;
        (net, count, Duration::MAX)
    });
    // At most a few seconds, however slow one is; at least enough that one round is left in peace.
    let start = Instant::now();
    for round in 0..ROUNDS {
        if round >= 10 && start.elapsed() > LONGEST {
            break;
        }
        for (net, count, best) in &mut stacks {
            *best = (*best).min(timed(&mut **net, *count) / *count);
        }
    }
    stacks.map(|(_, _, best)| best)
}

fn rate(workload: &Workload, time: Duration) -> String {
    let per_second = workload.units as f64 / time.as_secs_f64();
    match workload.unit {
        "B" => format!("{:.2} Gb/s", per_second * 8.0 / 1e9),
        _ if per_second >= 1e6 => format!("{:.2} M/s", per_second / 1e6),
        _ => format!("{:.1} k/s", per_second / 1e3),
    }
}

/// The table, of all workloads or of those named.
fn ratios(names: &[&str]) {
    println!(
        "{:<24} {:>7} {:>12} {:>12} {:>8} {:>6} {:>4}  what limits ours",
        "workload", "idle", "ours", "smoltcp", "ratio", "goal", "met"
    );
    let mut missed = 0;
    for (idle, goal) in POPULATIONS {
        for workload in WORKLOADS.iter().filter(|w| names.is_empty() || names.contains(&w.name)) {
            let [ours, smol] = best(workload.role, idle);
            let ratio = smol.as_secs_f64() / ours.as_secs_f64();
            let met = ratio >= goal;
            missed += usize::from(!met);
            println!(
                "{:<24} {idle:>7} {:>12} {:>12} {ratio:>7.1}x {goal:>5}x {:>4}  {}",
                workload.title,
                rate(workload, ours),
                rate(workload, smol),
                if met { "yes" } else { "NO" },
                workload.limit
            );
        }
    }
    match missed {
        0 => println!("\nevery goal is met"),
        n => println!("\n{n} goals are MISSED"),
    }
}

/// Runs one workload of one stack, for a profiler to look at.
fn spin(stack: &str, name: &str, idle: usize, operations: u64) {
    let workload =
        WORKLOADS.iter().find(|w| w.name == name).expect("a workload: bulk request connect udp respond");
    let mut net: Box<dyn Net> = match stack {
        "--spin" => Box::new(Ours::new(workload.role, idle)),
        _ => Box::new(Smol::new(workload.role, idle)),
    };
    (0..operations).for_each(|_| run(workload.role, &mut *net));
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--ratios", names @ ..] => ratios(names),
        [stack @ ("--spin" | "--spin-smoltcp"), name, idle, operations] => {
            spin(stack, name, idle.parse().expect("a number"), operations.parse().expect("a number"));
        }
        _ => {
            let mut criterion = Criterion::default().configure_from_args();
            benches(&mut criterion);
            criterion.final_summary();
        }
    }
}
