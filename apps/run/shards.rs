//! The shards beside the first, each on a thread of its own with instances of all servers.
//!
//! ```text
//!   first shard (main thread)                       another shard (its thread)
//!   Siblings::start ------------- Seat -----------> runtime, servers opened
//!            <----------- ready, or why not -------
//!            -- Command::Start, to all at once ---> serve
//!   report() -- Command::Report, a byte ----------> counters
//!   mirror() -- Command::Mirror, a byte ----------> the kernel's addresses and routes
//!   drain()  -- Command::Drain, a byte -----------> no new clients
//!            <----------------- a byte ------------ all is done that was under way
//!   stop()   -- Command::Stop, a byte ------------> ends
//!            <----- its end of the wire closes ---- returns, or panics
//! ```
//!
//! A shard that panics is said to and missed, and the others go on. One that fails, as when the device is gone, ends all.

use super::link::{self, Seat};
use super::stats::Report;
use super::{End, Overseer, RunError, Station};
use crate::cli::{App, Plan};
use nty_epoll::{Epoll, Events, Runtime, ShardError, ShardThread};
use ntytcp::mirror::KernelConfig;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};
use tracing::{error, warn};

/// How long shards may take to answer with their counters before they are left out.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a shard is told.
enum Command {
    Start,
    Report(SyncSender<Report>),
    Mirror(KernelConfig),
    Drain,
    Stop,
}

/// The first shard's end of the wire to another.
struct Sibling {
    thread: ShardThread<Result<Report, RunError>>,
    commands: Sender<Command>,
    /// A byte for each command, and one back when all is done that was under way; closed by the other side when the shard has ended.
    wire: UnixStream,
    is_drained: bool,
}

impl Sibling {
    fn tell(&self, command: Command) {
        // A shard that has ended is found out by the wire.
        if self.commands.send(command).is_ok() {
            let _ = (&self.wire).write_all(&[0]);
        }
    }
}

/// The other shards. Dropping it stops them.
pub(super) struct Siblings {
    running: Vec<Sibling>,
    ended: Vec<Report>,
}

impl Siblings {
    /// Starts a thread for each seat, and waits until all servers are open. `epoll` reports `data` when a shard has ended.
    ///
    /// # Errors
    /// Why the first of them that has failed did.
    pub(super) fn start(seats: Vec<Seat>, plan: &Plan, epoll: &Epoll, data: u64) -> Result<Self, RunError> {
        let mut siblings = Self { running: Vec::new(), ended: Vec::new() };
        let (ready, is_ready) = channel();
        let count = seats.len();
        for (seat, shard) in seats.into_iter().zip(1..) {
            let (commands, orders) = channel();
            let (wire, theirs) = UnixStream::pair().map_err(RunError::System)?;
            wire.set_nonblocking(true).map_err(RunError::System)?;
            epoll.add_fd(wire.as_raw_fd(), Events::IN, data)?;
            let servers: Vec<App> = plan.apps.iter().filter(|app| app.is_server()).cloned().collect();
            let (has_gateway, drain) = (plan.stack.has_gateway(), plan.stack.drain);
            let life = Life { seat, servers, has_gateway, drain, orders, wire: theirs };
            let ready = ready.clone();
            let life = move || life.live(ready);
            let cpu = plan.stack.cpus.get(shard).copied();
            let thread = ShardThread::spawn(shard, cpu, life).map_err(RunError::System)?;
            siblings.running.push(Sibling { thread, commands, wire, is_drained: false });
        }
        drop(ready);
        // All have dropped their sender, if one has failed before it was ready.
        if is_ready.iter().take(count).count() < count {
            siblings.look()?;
        }
        // Not before every port is open everywhere: what a flow's home is depends on that.
        siblings.running.iter().for_each(|sibling| sibling.tell(Command::Start));
        Ok(siblings)
    }

    /// Looks who has ended.
    ///
    /// # Errors
    /// Why a shard has failed. A panic is only said.
    pub(super) fn look(&mut self) -> Result<(), RunError> {
        let ended: Vec<_> = self.running.extract_if(.., Sibling::has_ended).collect();
        ended.into_iter().try_for_each(|sibling| self.bury(sibling))
    }

    fn bury(&mut self, sibling: Sibling) -> Result<(), RunError> {
        match sibling.thread.join() {
            Ok(report) => self.ended.push(report?),
            Err(panic @ ShardError::Panic { .. }) => {
                error!(target: "nty", "{panic}: its connections are lost, the other shards go on")
            }
            Err(other) => return Err(RunError::Shard(other)),
        }
        Ok(())
    }

    /// What the others have counted so far.
    pub(super) fn report(&self) -> Vec<Report> {
        let ask = |sibling: &Sibling| {
            let (answer, report) = sync_channel(1);
            sibling.tell(Command::Report(answer));
            report
        };
        let asked: Vec<_> = self.running.iter().map(ask).collect();
        let end = Instant::now() + PATIENCE;
        let left = || end.saturating_duration_since(Instant::now());
        let answered = asked.iter().filter_map(|report| report.recv_timeout(left()).ok());
        self.ended.iter().cloned().chain(answered).collect()
    }

    /// Has their stacks take over what the kernel's interface has.
    pub(super) fn mirror(&self, kernel: &KernelConfig) {
        self.running.iter().for_each(|sibling| sibling.tell(Command::Mirror(kernel.clone())));
    }

    /// Has them take no new clients. They go on, so that whoever comes is refused, until they are stopped.
    pub(super) fn drain(&self) {
        self.running.iter().for_each(|sibling| sibling.tell(Command::Drain));
    }

    /// Whether everything is done that was under way when [`Siblings::drain`] was called.
    pub(super) fn are_drained(&self) -> bool {
        self.running.iter().all(|sibling| sibling.is_drained)
    }

    /// Tells them to end.
    pub(super) fn stop(&self) {
        self.running.iter().for_each(|sibling| sibling.tell(Command::Stop));
    }

    /// Whether all have said goodbye to their peers, for which they may need the device of who asks.
    pub(super) fn have_ended(&self) -> bool {
        self.running.iter().all(|sibling| sibling.thread.is_finished())
    }

    /// Gives what those that have ended have counted. One that has not is left behind: the process ends.
    ///
    /// # Errors
    /// The first failure.
    pub(super) fn join(mut self) -> Result<Vec<Report>, RunError> {
        let running = std::mem::take(&mut self.running);
        let (ended, stuck): (Vec<_>, Vec<_>) =
            running.into_iter().partition(|sibling| sibling.thread.is_finished());
        for sibling in stuck {
            warn!(target: "nty", shard = sibling.thread.shard(), "it does not end, and is left behind");
        }
        let result = ended.into_iter().map(|sibling| self.bury(sibling)).fold(Ok(()), Result::and);
        result.map(|()| std::mem::take(&mut self.ended))
    }
}

impl Sibling {
    /// Hears what the shard has to say: whether it has ended.
    fn has_ended(&mut self) -> bool {
        match (&self.wire).read(&mut [0; 1]) {
            Ok(0) => true,
            Ok(_) => {
                self.is_drained = true;
                false
            }
            Err(_) => self.thread.is_finished(),
        }
    }
}

impl Drop for Siblings {
    fn drop(&mut self) {
        for sibling in self.running.drain(..) {
            sibling.tell(Command::Stop);
            let _ = sibling.thread.join();
        }
    }
}

/// What a thread needs for a shard's life.
struct Life {
    seat: Seat,
    servers: Vec<App>,
    has_gateway: bool,
    drain: Duration,
    orders: Receiver<Command>,
    wire: UnixStream,
}

/// What the epoll of a shard's loop reports when the first shard has a command.
const ORDER: u64 = u64::MAX;

impl Life {
    fn live(self, ready: Sender<()>) -> Result<Report, RunError> {
        let Self { seat, servers, has_gateway, drain, orders, wire } = self;
        let epoll = Epoll::new()?;
        wire.set_nonblocking(true).map_err(RunError::System)?;
        epoll.add_fd(wire.as_raw_fd(), Events::IN, ORDER)?;
        let mut orders = Orders { orders, wire, is_hurried: false };
        let mut station = Station::open(seat.take()?, epoll, &servers, has_gateway)?;
        let _ = ready.send(());
        drop(ready);
        let mut end = match orders.orders.recv() {
            Ok(Command::Start) => station.serve(&mut orders),
            _ => Ok(End::Signal),
        };
        if matches!(end, Ok(End::Signal)) && !orders.is_hurried {
            end = station.drain(drain, &mut orders);
        }
        if matches!(end, Ok(End::Drained)) {
            let _ = (&orders.wire).write_all(&[0]);
            end = station.serve(&mut orders);
        }
        station.close(end).map(|ended| ended.report)
    }
}

/// A shard's end of the wire to the first one.
struct Orders {
    orders: Receiver<Command>,
    wire: UnixStream,
    /// It is to end at once.
    is_hurried: bool,
}

impl Overseer for Orders {
    /// Does what the first shard wants. A closed wire means that nobody is there to say stop.
    fn on_event(&mut self, _: u64, runtime: &mut Runtime) -> Result<Option<End>, RunError> {
        self.is_hurried |= matches!((&self.wire).read(&mut [0; 16]), Ok(0));
        let mut end = self.is_hurried.then_some(End::Signal);
        for order in self.orders.try_iter() {
            match order {
                Command::Start => {}
                Command::Report(answer) => drop(answer.send(Report::of(runtime))),
                Command::Mirror(kernel) => link::mirror(&kernel, runtime)?,
                Command::Drain => end = Some(End::Signal),
                Command::Stop => (self.is_hurried, end) = (true, Some(End::Signal)),
            }
        }
        Ok(end)
    }

    fn are_others_drained(&self) -> bool {
        true
    }
}
