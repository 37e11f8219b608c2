//! Runs the programs of a plan, on this thread and one more for each further shard, until they are done or a signal comes.

pub(crate) mod fault;
mod link;
mod printout;
mod program;
mod shards;
mod sharing;
mod stats;
mod watch;

pub(crate) use printout::Printout;
pub use program::{Outcome, Program, ProgramError};
pub(crate) use sharing::owned_claims;

use crate::cli::{App, Plan};
use crate::{dns, echo, http, perf, ping};
use nty_epoll::{Epoll, EpollError, Event, Events, Runtime, RuntimeError, ShardError, pin_to};
use ntytcp::device::DeviceError;
use ntytcp::stack::{ConfigError, Stack};
use ntytcp::wire::MacAddr;
use shards::Siblings;
use sharing::Sharing;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use stats::{Report, StatsSocket};
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use watch::Watch;

/// Why running stopped. The message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A setting that could be checked only now.
    #[error("{0}")]
    Usage(String),
    /// The device cannot be opened, or is gone.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The stack refuses its settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another station has our address (RFC 5227).
    #[error("{addr} is in use on {device} by {other}: give another --addr, or stop the other station")]
    Conflict {
        /// The address.
        addr: IpAddr,
        /// The device that it was claimed on.
        device: String,
        /// Who has it.
        other: MacAddr,
    },
    /// A program cannot go on.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A program has said already why it failed.
    #[error("{0} failed")]
    Failed(&'static str),
    /// The stats socket cannot be made.
    #[error("stats socket {}: {source} (give a path where a socket can be made)", path.display())]
    StatsSocket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is to be said cannot be written.
    #[error("cannot print: {0}")]
    Output(io::Error),
    /// Waiting failed.
    #[error(transparent)]
    Epoll(#[from] EpollError),
    /// The stack failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A shard cannot run.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The system refused something that it never should.
    #[error("{0}")]
    System(io::Error),
}

/// What the events of the first shard's own epoll are about; programs are counted from 0.
const SIGNAL: u64 = u64::MAX;
const STATS: u64 = u64::MAX - 1;
const SHARD: u64 = u64::MAX - 2;
const KERNEL: u64 = u64::MAX - 3;

/// How long connections that were closed may take to end in good order.
const GOODBYE: Duration = Duration::from_millis(300);

/// How often is looked whether the other shards have ended.
const MOMENT: Duration = Duration::from_millis(1);

/// Runs until the programs are done or a signal comes.
///
/// # Errors
/// [`RunError`]; the command ends with status 2 after [`RunError::Usage`], with 1 after all others.
pub fn run(plan: &Plan) -> Result<(), RunError> {
    // First, so that a signal before the addresses are claimed ends the program as any other does.
    let epoll = Epoll::new()?;
    let signals = Signals::open(&epoll)?;
    let mut stack = plan.stack.clone();
    if !plan.apps.iter().any(App::is_server) {
        // Whoever asks by itself does so on the first shard: the others would have nothing to do.
        stack.shards = 1;
    }
    if let Some(&cpu) = plan.stack.cpus.first() {
        pin_to(cpu).map_err(|source| RunError::Shard(ShardError::Pin { shard: 0, core: cpu, source }))?;
    }
    let (mut seats, sharing) = link::open(&stack)?;
    let others = seats.split_off(1);
    let mut runtime = seats.remove(0).take()?;
    for fd in sharing.fds() {
        epoll.add_fd(fd, Events::IN, KERNEL)?;
    }
    link::claim_addresses(&mut runtime, &plan.stack)?;
    let stats =
        plan.stack.stats_socket.as_deref().map(|path| StatsSocket::open(path, &epoll, STATS)).transpose()?;
    let mut station = Station::open(runtime, epoll, &plan.apps, plan.stack.has_gateway())?;
    let siblings = Siblings::start(others, plan, &station.epoll, SHARD)?;
    let mut owner = Owner { signals, stats, siblings, sharing };
    announce(plan, station.runtime.stack())?;
    let mut end = station.serve(&mut owner);
    if matches!(end, Ok(End::Signal)) {
        owner.siblings.drain();
        end = station.drain(plan.stack.drain, &mut owner);
    }
    owner.siblings.stop();
    station.carry(|| owner.siblings.have_ended());
    let others = owner.siblings.join();
    let ended = station.close(end);
    let Ended { report, failed } = ended?;
    let reports: Vec<_> = core::iter::once(report).chain(others?).collect();
    drop(owner.signals);
    if plan.apps.iter().any(App::is_server) {
        print(&stats::text(&reports))?;
    }
    failed.map_or(Ok(()), |name| Err(RunError::Failed(name)))
}

/// What the first shard looks after beside its programs.
struct Owner {
    signals: Signals,
    stats: Option<StatsSocket>,
    siblings: Siblings,
    sharing: Sharing,
}

impl Overseer for Owner {
    fn on_event(&mut self, event: u64, runtime: &mut Runtime) -> Result<Option<End>, RunError> {
        match event {
            SIGNAL => {
                self.signals.take();
                return Ok(Some(End::Signal));
            }
            SHARD => self.siblings.look()?,
            KERNEL => {
                if let Some(kernel) = self.sharing.follow()? {
                    link::mirror(&kernel, runtime)?;
                    self.siblings.mirror(&kernel);
                }
            }
            _ => self.stats.iter().for_each(|socket| {
                socket
                    .answer(|| core::iter::once(Report::of(runtime)).chain(self.siblings.report()).collect());
            }),
        }
        Ok(None)
    }

    fn are_others_drained(&self) -> bool {
        self.siblings.are_drained()
    }
}

/// Opens the sockets of a program.
fn open(app: &App, runtime: &mut Runtime) -> Result<Box<dyn Program>, ProgramError> {
    match app {
        App::Echo(options) => echo::open(options, runtime),
        App::Http(options) => http::open(options, runtime),
        App::Dns(options) => dns::open(options, runtime),
        App::Ping(options) => ping::open(options, runtime),
        App::Perf(options) => perf::open(options, runtime),
        App::PerfHttp(options) => perf::http::open(options),
    }
}

/// Says on standard output that the programs can be reached.
fn announce(plan: &Plan, stack: &Stack) -> Result<(), RunError> {
    if !plan.apps.iter().any(App::is_server) {
        return Ok(());
    }
    let names: Vec<&str> = plan.apps.iter().map(App::name).collect();
    let mut addrs: Vec<String> =
        stack.addresses(link::INTERFACE).map(|(addr, _)| addr.addr().to_string()).collect();
    if addrs.is_empty() {
        addrs.push("no address yet".to_owned());
    }
    print(&format!("ready: {} on {} ({})\n", names.join(", "), addrs.join(", "), plan.stack.device))
}

/// Writes to standard output. Whoever closes the pipe has read enough.
///
/// # Errors
/// It cannot be written.
pub(crate) fn print(text: &str) -> Result<(), RunError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(RunError::Output(error)),
        _ => Ok(()),
    }
}

/// Why the loop ended.
enum End {
    /// A signal came.
    Signal,
    /// What was under way when a signal came has been done, or has had its time.
    Drained,
    /// Every program has ended by itself.
    Finished,
}

/// What is left of a shard.
struct Ended {
    report: Report,
    /// The program that has said why it failed.
    failed: Option<&'static str>,
}

/// A shard with its programs, on the thread that drives it.
struct Station {
    runtime: Runtime,
    /// Of the loop itself: the programs' epolls, by their number, and whatever the owner has put there.
    epoll: Epoll,
    programs: Vec<Box<dyn Program>>,
    watch: Watch,
    /// What is under way has until then.
    draining: Option<Instant>,
}

impl Station {
    /// Opens the programs.
    ///
    /// # Errors
    /// Why one cannot be.
    fn open(mut runtime: Runtime, epoll: Epoll, apps: &[App], has_gateway: bool) -> Result<Self, RunError> {
        let mut programs = Vec::new();
        for app in apps {
            let program = open(app, &mut runtime)?;
            epoll.add(program.epoll(), Events::IN, programs.len() as u64)?;
            programs.push(program);
        }
        let watch = Watch::new(runtime.stack(), link::INTERFACE, has_gateway, Instant::now());
        Ok(Self { runtime, epoll, programs, watch, draining: None })
    }

    /// Serves until every program has ended, or `overseer` says so.
    ///
    /// # Errors
    /// The device is gone, a program cannot go on, or what `overseer` says.
    fn serve(&mut self, overseer: &mut dyn Overseer) -> Result<End, RunError> {
        let Self { runtime, epoll, programs, watch, draining } = self;
        let mut events = [Event::default(); 16];
        let longest = Watch::interval();
        for program in programs.iter_mut() {
            program.ready(runtime, Instant::now())?;
        }
        loop {
            if programs.iter().all(|program| program.outcome().is_some()) {
                return Ok(End::Finished);
            }
            let is_drained = || programs.iter().all(|p| p.is_drained()) && overseer.are_others_drained();
            if draining.is_some_and(|end| end <= Instant::now() || is_drained()) {
                *draining = None;
                return Ok(End::Drained);
            }
            let deadline = programs.iter().filter_map(|program| program.deadline()).chain(*draining).min();
            let timeout =
                deadline.map_or(longest, |at| at.saturating_duration_since(Instant::now()).min(longest));
            let waited = runtime.wait(epoll, &mut events, Some(timeout));
            let now = Instant::now();
            watch.look(runtime.stack(), now);
            let n = match waited {
                Err(RuntimeError::Epoll(EpollError::Interrupted)) => continue,
                n => n?,
            };
            for event in events.iter().take(n) {
                match programs.get_mut(event.data as usize) {
                    Some(program) => program.ready(runtime, now)?,
                    None => {
                        if let Some(end) = overseer.on_event(event.data, runtime)? {
                            return Ok(end);
                        }
                    }
                }
            }
            for program in programs.iter_mut().filter(|p| p.deadline().is_some_and(|at| at <= now)) {
                program.ready(runtime, now)?;
            }
        }
    }

    /// Takes no new clients, and serves until what is under way is done, for so long.
    ///
    /// # Errors
    /// As [`Station::serve`].
    fn drain(&mut self, limit: Duration, overseer: &mut dyn Overseer) -> Result<End, RunError> {
        self.draining = Some(Instant::now() + limit);
        self.programs.iter_mut().for_each(|program| program.drain());
        self.serve(overseer)
    }

    /// Goes on moving the frames of other shards until `done`, or they have had their time.
    fn carry(&mut self, done: impl Fn() -> bool) {
        let end = Instant::now() + 2 * GOODBYE;
        while !done() && Instant::now() < end {
            // The device may be gone: the others find out, too.
            if self.runtime.turn().is_err() || self.runtime.shard().wait(Some(MOMENT), &[]).is_err() {
                std::thread::sleep(MOMENT);
            }
        }
    }

    /// Ends the programs as [`Station::serve`] has ended, and says goodbye to their peers.
    ///
    /// # Errors
    /// Why serving ended; the device is gone, or a file cannot be written.
    fn close(mut self, end: Result<End, RunError>) -> Result<Ended, RunError> {
        if matches!(end, Ok(End::Signal | End::Drained)) {
            self.programs.iter_mut().for_each(|program| program.stop());
        }
        let failed = self.programs.iter().find(|p| p.outcome() == Some(Outcome::Failed)).map(|p| p.name());
        self.programs.clear();
        let drained = say_goodbye(&mut self.runtime);
        end?;
        drained?;
        Ok(Ended { report: Report::of(&mut self.runtime), failed })
    }
}

/// Who looks after what is no program's.
trait Overseer {
    /// Is told of an event, by its data; says why to end, if so.
    fn on_event(&mut self, event: u64, runtime: &mut Runtime) -> Result<Option<End>, RunError>;

    /// Whether no other shard has anything under way.
    fn are_others_drained(&self) -> bool;
}

/// Lets what was closed say goodbye, a FIN or RST for each connection, sent again if need be, and brings what was written to
/// files there.
///
/// # Errors
/// The device is gone, or a file cannot be written.
fn say_goodbye(runtime: &mut Runtime) -> Result<(), RunError> {
    let end = Instant::now() + GOODBYE;
    loop {
        let turn = runtime.turn()?;
        let left = end.saturating_duration_since(Instant::now());
        let idle = runtime.stack().tcp_connections().connections == 0 && turn.received == 0;
        if idle || left.is_zero() || runtime.shard().wait(Some(left), &[]).is_err() {
            return Ok(runtime.shard().sync()?);
        }
    }
}

/// SIGINT, SIGTERM and SIGHUP as something to wait for.
struct Signals {
    pipe: UnixStream,
}

impl Signals {
    fn open(epoll: &Epoll) -> Result<Self, RunError> {
        let (pipe, sender) = UnixStream::pair().map_err(RunError::System)?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let sender = sender.try_clone().map_err(RunError::System)?;
            signal_hook::low_level::pipe::register(signal, sender).map_err(RunError::System)?;
        }
        epoll.add_fd(pipe.as_raw_fd(), Events::IN, SIGNAL)?;
        pipe.set_nonblocking(true).map_err(RunError::System)?;
        Ok(Self { pipe })
    }

    /// Those that have come so far are dealt with.
    fn take(&self) {
        let _ = (&self.pipe).read(&mut [0; 64]);
    }
}
