//! Runs the programs of a plan on one stack, on this thread, until they are done or a signal comes.

pub(crate) mod fault;
mod link;
mod printout;
mod program;
mod sharing;
mod stats;
mod watch;

pub(crate) use printout::Printout;
pub use program::{Outcome, Program, ProgramError};
pub(crate) use sharing::owned_claims;

use crate::cli::{App, Plan};
use crate::{dns, echo, http, perf, ping};
use nty_epoll::{Epoll, EpollError, Event, Events, Runtime, RuntimeError};
use ntytcp::device::DeviceError;
use ntytcp::stack::{ConfigError, InterfaceId, Stack};
use ntytcp::wire::MacAddr;
use sharing::Sharing;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use stats::StatsSocket;
use std::io::{self, Write as _};
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
    /// The system refused something that it never should.
    #[error("{0}")]
    System(io::Error),
}

/// What the events of the loop's own epoll are about; programs are counted from 0.
const SIGNAL: u64 = u64::MAX;
const STATS: u64 = u64::MAX - 1;
const KERNEL: u64 = u64::MAX - 2;

/// How long connections may take to end in good order after a signal.
const DRAIN: Duration = Duration::from_millis(300);

/// Runs until the programs are done or a signal comes.
///
/// # Errors
/// [`RunError`]; the command ends with status 2 after [`RunError::Usage`], with 1 after all others.
pub fn run(plan: &Plan) -> Result<(), RunError> {
    // First, so that a signal before the addresses are claimed ends the program as any other does.
    let epoll = Epoll::new()?;
    let signals = Signals::open(&epoll)?;
    let (mut runtime, mut sharing) = link::open(&plan.stack)?;
    for fd in sharing.fds() {
        epoll.add_fd(fd, Events::IN, KERNEL)?;
    }
    let stats =
        plan.stack.stats_socket.as_deref().map(|path| StatsSocket::open(path, &epoll, STATS)).transpose()?;
    let mut programs = Vec::new();
    for app in &plan.apps {
        let program = open(app, &mut runtime)?;
        epoll.add(program.epoll(), Events::IN, programs.len() as u64)?;
        programs.push(program);
    }
    announce(plan, runtime.stack())?;
    let has_gateway = plan.stack.mirror_kernel || plan.stack.gateways.iter().any(IpAddr::is_ipv4);
    let mut watch = Watch::new(runtime.stack(), InterfaceId(0), has_gateway, Instant::now());
    let result = serve(&mut runtime, &epoll, &mut programs, (stats.as_ref(), &mut sharing), &mut watch);
    if matches!(result, Ok(End::Signal)) {
        programs.iter_mut().for_each(|program| program.stop());
    }
    let failed = programs.iter().find(|p| p.outcome() == Some(Outcome::Failed)).map(|p| p.name());
    drop(programs);
    let drained = drain(&mut runtime);
    drop(signals);
    result?;
    drained?;
    if plan.apps.iter().any(App::is_server) {
        print(&stats::text(&mut runtime))?;
    }
    failed.map_or(Ok(()), |name| Err(RunError::Failed(name)))
}

/// Opens the sockets of a program.
fn open(app: &App, runtime: &mut Runtime) -> Result<Box<dyn Program>, ProgramError> {
    match app {
        App::Echo(options) => echo::open(options, runtime),
        App::Http(options) => http::open(options, runtime),
        App::Dns(options) => dns::open(options, runtime),
        App::Ping(options) => ping::open(options, runtime),
        App::Perf(options) => perf::open(options, runtime),
    }
}

/// Says on standard output that the programs can be reached.
fn announce(plan: &Plan, stack: &Stack) -> Result<(), RunError> {
    if !plan.apps.iter().any(App::is_server) {
        return Ok(());
    }
    let names: Vec<&str> = plan.apps.iter().map(App::name).collect();
    let mut addrs: Vec<String> =
        stack.addresses(InterfaceId(0)).map(|(addr, _)| addr.addr().to_string()).collect();
    if addrs.is_empty() {
        addrs.push("no address yet".to_owned());
    }
    print(&format!("ready: {} on {} ({})\n", names.join(", "), addrs.join(", "), plan.stack.device))
}

/// Writes to standard output. Whoever closes the pipe has read enough.
fn print(text: &str) -> Result<(), RunError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(RunError::Output(error)),
        _ => Ok(()),
    }
}

/// Why the loop ended.
enum End {
    Signal,
    Finished,
}

fn serve(
    runtime: &mut Runtime,
    epoll: &Epoll,
    programs: &mut [Box<dyn Program>],
    (stats, sharing): (Option<&StatsSocket>, &mut Sharing),
    watch: &mut Watch,
) -> Result<End, RunError> {
    let mut events = [Event::default(); 16];
    let longest = Watch::interval();
    for program in programs.iter_mut() {
        program.ready(runtime, Instant::now())?;
    }
    loop {
        if programs.iter().all(|program| program.outcome().is_some()) {
            return Ok(End::Finished);
        }
        let deadline = programs.iter().filter_map(|program| program.deadline()).min();
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
            match event.data {
                SIGNAL => return Ok(End::Signal),
                KERNEL => sharing.follow(runtime)?,
                STATS => stats.into_iter().for_each(|socket| socket.answer(runtime)),
                index => {
                    if let Some(program) = programs.get_mut(index as usize) {
                        program.ready(runtime, now)?;
                    }
                }
            }
        }
        for program in programs.iter_mut().filter(|p| p.deadline().is_some_and(|at| at <= now)) {
            program.ready(runtime, now)?;
        }
    }
}

/// Lets what was closed say goodbye, a FIN or RST for each connection, sent again if need be, and brings what was written to
/// files there.
///
/// # Errors
/// The device is gone, or a file cannot be written.
fn drain(runtime: &mut Runtime) -> Result<(), RunError> {
    let end = Instant::now() + DRAIN;
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
    _pipe: UnixStream,
}

impl Signals {
    fn open(epoll: &Epoll) -> Result<Self, RunError> {
        let (pipe, sender) = UnixStream::pair().map_err(RunError::System)?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let sender = sender.try_clone().map_err(RunError::System)?;
            signal_hook::low_level::pipe::register(signal, sender).map_err(RunError::System)?;
        }
        epoll.add_fd(pipe.as_raw_fd(), Events::IN, SIGNAL)?;
        Ok(Self { _pipe: pipe })
    }
}
