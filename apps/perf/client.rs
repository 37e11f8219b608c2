//! The client: opens the streams, says how it goes, and ends with a summary.

use super::Options;
use super::report::{Direction, Meter};
use super::request::Request;
use super::transfer::{CHUNK, Transfer, Transfers};
use crate::run::{Outcome, Program, ProgramError};
use nty_epoll::{Epoll, Event, Runtime};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const NAME: &str = "perf";
/// Events that one call handles.
const BATCH: usize = 64;

pub(super) struct Client {
    peer: IpAddr,
    epoll: Epoll,
    events: Vec<Event>,
    payload: Vec<u8>,
    buf: Vec<u8>,
    transfers: Transfers<()>,
    /// What we send and what we receive, all streams together; `None` when the request has no such direction.
    sent: Option<Meter>,
    received: Option<Meter>,
    interval: Duration,
    flow: super::request::Flow,
    origin: Instant,
    deadline: Option<Instant>,
    failed: bool,
    outcome: Option<Outcome>,
    out: Box<dyn Write>,
}

impl Client {
    pub(super) fn new(
        options: &Options,
        peer: IpAddr,
        runtime: &mut Runtime,
        out: Box<dyn Write>,
    ) -> Result<Self, ProgramError> {
        let (epoll, mut transfers) = (Epoll::new()?, Transfers::new());
        let remote = SocketAddr::new(peer, options.port.get());
        for stream in 0..options.parallel() {
            let request = Request::new(options, u32::try_from(stream).unwrap_or(u32::MAX));
            let stream = runtime.connect(None, remote, None).map_err(|source| ProgramError::Peer {
                program: NAME,
                peer,
                source,
            })?;
            transfers.add(&epoll, Transfer::asking(stream, request), ())?;
        }
        Ok(Self {
            peer,
            epoll,
            events: vec![Event::default(); BATCH],
            payload: vec![0; CHUNK.min(options.write_len())],
            buf: vec![0; CHUNK],
            transfers,
            sent: None,
            received: None,
            // A line per call is the most there can be.
            interval: options.interval.duration().max(Duration::from_millis(1)),
            flow: Request::new(options, 0).flow,
            origin: Instant::now(),
            deadline: None,
            failed: false,
            outcome: None,
            out,
        })
    }

    /// Starts the clocks: when the first connection stands.
    fn start(&mut self, now: ntytcp::time::Instant) {
        let meter = |direction| Meter::new(direction, self.interval, now);
        self.sent = self.flow.client_sends().then(|| meter(Direction::Sent));
        self.received = self.flow.server_sends().then(|| meter(Direction::Received));
    }

    fn drive(&mut self, token: u64, now: ntytcp::time::Instant) {
        let Some((transfer, ())) = self.transfers.clients.get_mut(token) else { return };
        let established = transfer.stream.is_established();
        let moved = transfer.drive(now, &self.payload, &mut self.buf);
        let over = transfer.is_over() || moved.is_err();
        if established && self.sent.is_none() && self.received.is_none() {
            self.start(now);
        }
        match moved {
            Ok(moved) => {
                for (meter, bytes) in [(&mut self.sent, moved.sent), (&mut self.received, moved.received)] {
                    if let Some(meter) = meter.as_mut().filter(|_| bytes > 0) {
                        meter.add(now, bytes);
                    }
                }
                if moved.more {
                    self.transfers.queue(token);
                }
            }
            Err(error) => {
                self.failed = true;
                let _ = writeln!(self.out, "{}: {error}", self.peer);
            }
        }
        if over {
            self.transfers.clients.remove(token);
        }
    }

    /// Prints the lines that are due.
    fn lines(&mut self, now: ntytcp::time::Instant) {
        for meter in [&mut self.sent, &mut self.received].into_iter().flatten() {
            if let Some(line) = meter.line(now) {
                let _ = writeln!(self.out, "{line}");
            }
        }
    }

    /// Prints the summary and ends.
    fn finish(&mut self) {
        if self.outcome.is_some() {
            return;
        }
        for meter in [&self.sent, &self.received].into_iter().flatten() {
            let _ = writeln!(self.out, "total: {}", meter.summary());
        }
        let _ = self.out.flush();
        self.outcome = Some(if self.failed { Outcome::Failed } else { Outcome::Done });
    }
}

impl Program for Client {
    fn name(&self) -> &'static str {
        NAME
    }

    fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    fn ready(&mut self, _: &mut Runtime, now: Instant) -> Result<(), ProgramError> {
        if self.outcome.is_some() {
            return Ok(());
        }
        let time = ntytcp::time::Instant::ZERO + now.saturating_duration_since(self.origin);
        let n = self.epoll.poll(&mut self.events)?;
        for event in self.events.get(..n).unwrap_or_default() {
            self.transfers.queue(event.data);
        }
        for _ in 0..self.transfers.queued() {
            let Some(token) = self.transfers.next() else { break };
            self.drive(token, time);
        }
        self.lines(time);
        if self.transfers.clients.len() == 0 {
            self.finish();
        }
        let lines = [&self.sent, &self.received].into_iter().flatten().map(|meter| {
            let since = meter.next_line().since(ntytcp::time::Instant::ZERO);
            self.origin.checked_add(since).unwrap_or(now + Duration::from_secs(60))
        });
        self.deadline = if self.transfers.queued() > 0 { Some(now) } else { lines.min() };
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline.filter(|_| self.outcome.is_none())
    }

    fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    fn stop(&mut self) {
        self.finish();
    }
}
