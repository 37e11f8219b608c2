//! Two nodes on one link, and time that moves to the next event.

use crate::app::Plan;
use crate::host::Host;
use crate::wire::Wire;
use ntytcp::device::fault::{Fault, FaultConfig, Faults};
use ntytcp::device::mem::{self, MemConfig};
use ntytcp::rng::seed_from;
use ntytcp::stack::StackConfig;
use ntytcp::tcp::TcpSocketOptions;
use ntytcp::time::{Duration, Instant};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

/// A machine.
pub trait Node {
    /// Does all there is to do now; `true` when that was something, so that others may have something to do.
    fn turn(&mut self, now: Instant) -> bool;
    /// When there will be something to do though nobody sends.
    fn next(&self) -> Option<Instant>;
    /// What a failure should show.
    fn describe(&mut self) -> String;
}

/// How a run is made reproducible: its seed, and where its frames are recorded.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    pub seed: u64,
    pub capture: Option<&'a Path>,
}

/// Two nodes on one link.
pub struct World<B> {
    pub now: Instant,
    pub a: Host,
    pub b: B,
}

impl World<Host> {
    /// Two of our stacks, both with `config`, on a link with `faults` in both directions.
    pub fn ours(run: Run<'_>, faults: Faults, config: StackConfig) -> Self {
        Self::on(MemConfig::default(), run, faults, config)
    }

    /// The same on a link of another kind.
    pub fn on(link: MemConfig, run: Run<'_>, faults: Faults, config: StackConfig) -> Self {
        // Three requests for an address in a row may be lost, and a flipped bit in an answer is believed, as ARP has no checksum:
        // a connection may rightly fail then. On bad links the stations know each other.
        let acquainted = faults.loss > 0.0 || faults.corrupt > 0.0;
        let (a, b) = mem::pair(link);
        let b = Fault::new(b, FaultConfig::default(), seed_from(0));
        let mut b = Host::new(2, Wire::new(b, None), config.clone(), run.seed);
        let mut a = host_a(run, a, faults, config);
        if acquainted {
            a.acquaint(2);
            b.acquaint(1);
        }
        Self { now: Instant::ZERO, a, b }
    }

    /// Opens a connection from a to b on which both do as planned.
    pub fn pair_up(&mut self, a: Plan, b: Plan, socket: Option<TcpSocketOptions>) {
        let n = 2 * (self.a.apps.len() + self.a.outcomes.len()) as u64;
        let id = self.a.connect(self.now, 2, a, (n, n + 1), socket);
        let port = self.a.stack.tcp_local_addr(id).unwrap().port();
        self.b.serve(port, b, (n + 1, n), socket);
    }

    /// Runs until every application is done, all without error, then until nothing is left of any connection.
    pub fn finish(&mut self, limit: Duration) {
        self.run_until("the applications are done", limit, |w| w.a.is_done() && w.b.is_done());
        for outcome in self.a.outcomes.iter().chain(&self.b.outcomes) {
            assert_eq!(*outcome, Ok(()));
        }
        self.expect_empty();
    }

    /// Runs until nothing is left of any connection.
    pub fn expect_empty(&mut self) {
        let limit = Duration::from_secs(1_200);
        self.run_until("no connection is left", limit, |w| w.a.is_empty() && (w.b.dead || w.b.is_empty()));
    }
}

/// The machine at the faulty end.
pub fn host_a(run: Run<'_>, port: mem::MemDevice, faults: Faults, config: StackConfig) -> Host {
    let port = Fault::new(port, FaultConfig::both(faults), seed_from(!run.seed));
    Host::new(1, Wire::new(port, run.capture), config, run.seed)
}

impl<B: Node> World<B> {
    /// Runs until `done`, for at most `limit` of virtual time.
    pub fn run_until(&mut self, what: &str, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + limit;
        loop {
            self.settle();
            if done(self) {
                return;
            }
            let next = self.a.next().into_iter().chain(self.b.next()).min();
            match next.filter(|&next| next <= end) {
                Some(next) => self.now = self.now.max(next),
                None => panic!(
                    "after {:?} not yet: {what} (next event {next:?})\n{}{}",
                    self.now,
                    self.a.describe(),
                    self.b.describe()
                ),
            }
        }
    }

    /// Lets `time` pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            match self.a.next().into_iter().chain(self.b.next()).min().filter(|&next| next <= end) {
                Some(next) => self.now = self.now.max(next),
                None => break,
            }
        }
        self.now = end;
    }

    /// Lets both work until neither has anything left to do at this instant.
    fn settle(&mut self) {
        for _ in 0..1_000_000 {
            if !(self.a.turn(self.now) | self.b.turn(self.now)) {
                return;
            }
        }
        panic!("no end of work at {:?}\n{}{}", self.now, self.a.describe(), self.b.describe());
    }
}

/// How many times more seeds than usual to try: `SIM_MORE`.
pub fn more() -> u32 {
    std::env::var("SIM_MORE").ok().map_or(1, |more| more.parse().unwrap())
}

/// Runs `test` with each seed, or only with that of `SIM_SEED`. The first that fails is run again to record its frames, and
/// named in one line that repeats it.
pub fn seeds(name: &str, seeds: std::ops::Range<u64>, test: impl Fn(Run<'_>)) {
    let only = std::env::var("SIM_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let seeds = seeds.start..seeds.end * u64::from(more());
    for seed in only.map_or(seeds, |seed| seed..seed + 1) {
        let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(Run { seed, capture: None }))) else {
            continue;
        };
        let file = capture_file(&format!("{}-{seed}", name.replace("::", "-")));
        let again = catch_unwind(AssertUnwindSafe(|| test(Run { seed, capture: Some(&file) })));
        let same = if again.is_err() { "" } else { " (it passed the second time: not deterministic)" };
        eprintln!(
            "SIM_SEED={seed} cargo test -p ntytcp --test sim {name} -- --exact  # frames: {}{same}",
            file.display()
        );
        resume_unwind(panic);
    }
}

/// Where a recording goes: where cargo lets integration tests write.
pub fn capture_file(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sim");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(format!("{name}.pcapng"))
}
