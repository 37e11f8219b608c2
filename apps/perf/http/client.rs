//! The client: keeps as many connections as are wanted, and gives up those that nothing comes of.

use super::Options;
use super::connection::{Connection, INTEREST, Load, Progress};
use super::tally::{Failure, Tally};
use crate::clients::{Alarms, Timeline};
use crate::hub::Hub;
use crate::run::{Outcome, Printout, Program, ProgramError};
use nty_epoll::{Epoll, Runtime};
use ntytcp::tcp::TcpSocketOptions;
use ntytcp::time::{Duration, Instant};
use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;

pub(super) const NAME: &str = "perf http";

/// How long the place of a connection that failed stays empty: a server that refuses is not asked without a pause.
pub(super) const RETRY: Duration = Duration::from_millis(100);
/// How long to wait at least for the first connection: two SYNs may be lost, and the third comes after 3 s.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);
/// Handshakes at the same time: fewer than servers let wait, so that opening thousands of connections loses no SYN.
pub(super) const CONNECTING_MAX: usize = 500;
/// Bytes that one read takes.
const READ: usize = 64 * 1024;

pub(super) struct Client {
    hub: Hub<Connection>,
    load: Load,
    server: SocketAddr,
    wanted: usize,
    timeout: Duration,
    time: Option<Duration>,
    json: bool,
    connecting: usize,
    /// Until when the places of those that failed stay empty.
    resting: VecDeque<Instant>,
    /// Connections that failed before any was established.
    hopeless: usize,
    alarms: Alarms,
    buf: Box<[u8]>,
    printout: Printout,
    timeline: Timeline,
    deadline: Option<std::time::Instant>,
}

impl Client {
    pub(super) fn new(options: &Options, out: Box<dyn Write>) -> Result<Self, ProgramError> {
        let interval = options.interval.duration().max(Duration::from_millis(1));
        let tally = Tally::new(interval, Instant::ZERO)
            .ok_or_else(|| ProgramError::Other(format!("{NAME}: no histogram has these bounds")))?;
        let request = options.target.request(options.close);
        let left = options.requests.map_or(u64::MAX, std::num::NonZeroU64::get);
        let timeline = Timeline::new();
        Ok(Self {
            hub: Hub::new(NAME, INTEREST)?,
            load: Load::new(&request, options.pipeline.get().into(), options.close, left, tally),
            server: options.target.addr(),
            wanted: options.parallel.get().into(),
            timeout: options.timeout.duration(),
            time: options.time(),
            json: options.json,
            connecting: 0,
            resting: VecDeque::new(),
            hopeless: 0,
            alarms: Alarms::default(),
            buf: vec![0; READ].into(),
            printout: Printout::new(out),
            timeline,
            deadline: timeline.when(Instant::ZERO),
        })
    }

    /// Begins the connections that are missing.
    fn connect(&mut self, runtime: &mut Runtime) -> Result<(), ProgramError> {
        let now = self.load.now;
        while self.resting.front().is_some_and(|until| *until <= now) {
            self.resting.pop_front();
        }
        while self.hub.len() + self.resting.len() < self.wanted
            && self.connecting < CONNECTING_MAX
            && self.load.take(1) > 0
        {
            let options = TcpSocketOptions { nodelay: true, ..TcpSocketOptions::default() };
            match runtime.connect(None, self.server, Some(options)) {
                Ok(stream) => {
                    let token = self.hub.add(Connection::new(stream, now))?;
                    self.connecting += 1;
                    self.arm(token);
                }
                Err(error) => self.failed(Failure::of(error), 1),
            }
        }
        Ok(())
    }

    /// A connection came to nothing, and so many requests with it.
    fn failed(&mut self, failure: Failure, requests: u64) {
        self.load.tally.failed(failure, requests);
        self.resting.push_back(self.load.now + RETRY);
        self.hopeless += usize::from(self.load.tally.started().is_none());
    }

    /// Gives a connection its share.
    fn drive(&mut self, token: u64) {
        let Some(connection) = self.hub.get_mut(token) else { return };
        let was_connecting = connection.is_connecting();
        let result = connection.drive(&mut self.load, &mut self.buf);
        self.connecting -= usize::from(was_connecting && !connection.is_connecting());
        match result {
            Ok(Progress::Over) => drop(self.hub.remove(token)),
            Ok(Progress::Idle) => self.arm(token),
            Ok(Progress::Unfinished) => {
                self.hub.queue(token);
                self.arm(token);
            }
            Err(failure) => self.give_up(token, failure),
        }
    }

    fn give_up(&mut self, token: u64, failure: Failure) {
        if let Some(connection) = self.hub.remove(token) {
            self.connecting -= usize::from(connection.is_connecting());
            let lost = connection.abort();
            self.failed(failure, lost);
        }
    }

    fn arm(&mut self, token: u64) {
        if let Some(connection) = self.hub.get_mut(token) {
            let deadline = connection.deadline(self.timeout);
            self.alarms.arm(token, &mut connection.armed, deadline);
        }
    }

    /// Gives up the connections whose time is over.
    fn ring(&mut self) {
        while let Some((at, token)) = self.alarms.pop(self.load.now) {
            if let Some(connection) = self.hub.get_mut(token)
                && connection.armed.rang(at)
            {
                if connection.deadline(self.timeout) <= self.load.now {
                    self.give_up(token, Failure::TimedOut);
                } else {
                    self.arm(token);
                }
            }
        }
    }

    /// When the time is over. It begins with the first connection, for which there is no less than [`PATIENCE`].
    fn end(&self) -> Option<Instant> {
        let time = self.time?;
        Some(self.load.tally.started().map_or(Instant::ZERO + time.max(PATIENCE), |started| started + time))
    }

    /// Whether there is nothing to do any more, or no sense in it.
    fn is_over(&self) -> bool {
        self.end().is_some_and(|end| end <= self.load.now)
            || self.load.is_used_up() && self.hub.len() == 0
            || self.hopeless >= self.wanted.min(CONNECTING_MAX)
    }

    /// Prints the line that is due, if one is; whether somebody reads.
    fn go_on(&mut self, now: std::time::Instant) -> Result<bool, ProgramError> {
        if let Some(line) = self.load.tally.line(self.load.now).filter(|_| !self.json) {
            self.printout.say(line);
        }
        let next = [self.alarms.next(), self.resting.front().copied(), self.end()];
        let next = next.into_iter().flatten().chain([self.load.tally.next_line()]).min();
        self.deadline =
            if self.hub.is_idle() { next.and_then(|at| self.timeline.when(at)) } else { Some(now) };
        self.printout.is_read(NAME)
    }
}

impl Program for Client {
    fn name(&self) -> &'static str {
        NAME
    }

    fn epoll(&self) -> &Epoll {
        self.hub.epoll()
    }

    fn ready(&mut self, runtime: &mut Runtime, now: std::time::Instant) -> Result<(), ProgramError> {
        if self.outcome().is_some() {
            return Ok(());
        }
        let time = self.timeline.at(now);
        self.load.now = time;
        for _ in 0..self.hub.poll(|stream, _| Connection::new(stream, time))? {
            let Some(token) = self.hub.next() else { break };
            self.drive(token);
        }
        self.ring();
        if !self.is_over() {
            self.connect(runtime)?;
        }
        if self.is_over() || !self.go_on(now)? {
            self.stop();
        }
        Ok(())
    }

    fn deadline(&self) -> Option<std::time::Instant> {
        self.deadline.filter(|_| self.outcome().is_none())
    }

    fn outcome(&self) -> Option<Outcome> {
        self.printout.outcome()
    }

    fn stop(&mut self) {
        if self.outcome().is_some() {
            return;
        }
        // With a RST each, as this process is gone before so many servers' ends have said FIN.
        let open: Vec<u64> = self.hub.iter().map(|(token, _)| token).collect();
        let unheard = self.load.tally.started().is_none();
        for connection in open.into_iter().filter_map(|token| self.hub.remove(token)) {
            let lost = connection.abort();
            if unheard {
                self.load.tally.failed(Failure::TimedOut, lost);
            }
        }
        let report = self.load.tally.report(self.load.now);
        match serde_json::to_string(&report) {
            Ok(json) if self.json => self.printout.say(json),
            _ => self.printout.say(&report),
        }
        self.printout.end(if report.is_good() { Outcome::Done } else { Outcome::Failed });
    }
}
