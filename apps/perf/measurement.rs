//! What both clients keep of a measurement, whatever carries it: how much went each way, what was said, how it ends.

use super::Options;
use super::report::{Direction, Meter};
use super::request::{Flow, Request};
use super::transfer::Moved;
use crate::clients::Timeline;
use crate::run::{Outcome, Printout, ProgramError};
use ntytcp::stack::SocketError;
use ntytcp::time::{Duration, Instant};
use std::fmt::Display;
use std::io::Write;
use std::net::IpAddr;

pub(super) const NAME: &str = "perf";

pub(super) struct Measurement {
    peer: IpAddr,
    flow: Flow,
    interval: Duration,
    /// All streams together, one meter per direction that the request has; none before the first stream stands.
    sent: Option<Meter>,
    received: Option<Meter>,
    printout: Printout,
    failed: bool,
    timeline: Timeline,
    deadline: Option<std::time::Instant>,
}

impl Measurement {
    /// Nothing was moved yet.
    pub(super) fn new(options: &Options, peer: IpAddr, out: Box<dyn Write>) -> Self {
        Self {
            peer,
            flow: Request::new(options, 0).flow,
            interval: options.line_interval(),
            sent: None,
            received: None,
            printout: Printout::new(out),
            failed: false,
            timeline: Timeline::new(),
            deadline: None,
        }
    }

    /// The time of a call of `Program::ready`, counted from the beginning.
    pub(super) fn time(&self, now: std::time::Instant) -> Instant {
        self.timeline.at(now)
    }

    /// Starts the clocks, if they do not run: a stream stands.
    pub(super) fn start(&mut self, now: Instant) {
        if self.sent.is_none() && self.received.is_none() {
            let meter = |direction| Meter::new(direction, self.interval, now);
            self.sent = self.flow.client_sends().then(|| meter(Direction::Sent));
            self.received = self.flow.server_sends().then(|| meter(Direction::Received));
        }
    }

    /// Counts what one stream moved.
    pub(super) fn add(&mut self, now: Instant, moved: &Moved) {
        for (meter, bytes) in [(&mut self.sent, moved.sent), (&mut self.received, moved.received)] {
            if let Some(meter) = meter.as_mut().filter(|_| bytes > 0) {
                meter.add(now, bytes);
            }
        }
    }

    /// One stream failed; the others go on. A peer that stays silent is told from one that says something.
    pub(super) fn fail(&mut self, error: SocketError, patience: Duration) {
        self.failed = true;
        match error {
            SocketError::TimedOut => {
                self.printout.say(format_args!("{}: no answer for {} s", self.peer, patience.as_secs()));
            }
            error => self.printout.say(format_args!("{}: {error}", self.peer)),
        }
    }

    fn meters(&mut self) -> impl Iterator<Item = &mut Meter> {
        [&mut self.sent, &mut self.received].into_iter().flatten()
    }

    /// Prints the lines that are due, and notes when to come back: at once if there is `more` to do, else for the next line
    /// or at `also`. `false` when nobody reads the lines any more.
    ///
    /// # Errors
    /// [`ProgramError::Output`].
    pub(super) fn go_on(
        &mut self,
        now: std::time::Instant,
        more: bool,
        also: Option<Instant>,
    ) -> Result<bool, ProgramError> {
        let time = self.time(now);
        let lines: Vec<_> = self.meters().filter_map(|meter| meter.line(time)).collect();
        lines.into_iter().for_each(|line| self.printout.say(line));
        let next = self.meters().map(|meter| meter.next_line()).chain(also).min();
        self.deadline = if more { Some(now) } else { next.and_then(|at| self.timeline.when(at)) };
        self.printout.is_read(NAME)
    }

    /// Prints the summary and ends; `remark` adds to the line of a direction.
    pub(super) fn finish<R: Display>(&mut self, now: Instant, remark: impl Fn(Direction) -> R) {
        if self.outcome().is_some() {
            return;
        }
        for meter in [&self.sent, &self.received].into_iter().flatten() {
            // The silence at the end of a measurement that failed belongs to it.
            let line = if self.failed { meter.summary_until(now) } else { meter.summary() };
            self.printout.say(format_args!("total: {line}{}", remark(meter.direction())));
        }
        self.printout.end(if self.failed { Outcome::Failed } else { Outcome::Done });
    }

    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.printout.outcome()
    }

    /// When to come back, until it has ended.
    pub(super) fn deadline(&self) -> Option<std::time::Instant> {
        self.deadline.filter(|_| self.outcome().is_none())
    }
}
