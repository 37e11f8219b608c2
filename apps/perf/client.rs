//! The client over TCP: opens the streams, drives them, and gives up a server that has fallen silent.

use super::Options;
use super::measurement::{Measurement, NAME};
use super::request::Request;
use super::transfer::{CHUNK, INTEREST, Transfer};
use crate::hub::Hub;
use crate::run::{Outcome, Program, ProgramError};
use nty_epoll::{Epoll, Runtime};
use ntytcp::stack::SocketError;
use ntytcp::time;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// A stream on which nothing moves for so long, though the server owes an answer, has no server any more.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What moved last in a stream.
#[derive(Clone, Copy, Default)]
struct Pulse {
    at: time::Instant,
    /// Room to send: what the server acknowledges makes some.
    room: usize,
}

pub(super) struct Client {
    hub: Hub<(Transfer, Pulse)>,
    payload: Vec<u8>,
    buf: Vec<u8>,
    measurement: Measurement,
    /// No stream has been silent for too long before.
    silent_at: time::Instant,
    now: time::Instant,
}

impl Client {
    pub(super) fn new(
        options: &Options,
        peer: IpAddr,
        runtime: &mut Runtime,
        out: Box<dyn Write>,
    ) -> Result<Self, ProgramError> {
        let mut hub = Hub::new(NAME, INTEREST)?;
        let remote = SocketAddr::new(peer, options.port.get());
        for stream in 0..options.parallel() {
            let request = Request::new(options, u32::try_from(stream).unwrap_or(u32::MAX));
            let stream = runtime.connect(None, remote, None).map_err(|source| ProgramError::Peer {
                program: NAME,
                peer,
                source,
            })?;
            hub.add((Transfer::asking(stream, request), Pulse::default()))?;
        }
        Ok(Self {
            hub,
            payload: vec![0; CHUNK.min(options.write_len())],
            buf: vec![0; CHUNK],
            measurement: Measurement::new(options, peer, out),
            silent_at: time::Instant::ZERO + PATIENCE,
            now: time::Instant::ZERO,
        })
    }

    fn drive(&mut self, token: u64) {
        let now = self.now;
        let Some((transfer, pulse)) = self.hub.get_mut(token) else { return };
        if transfer.stream.is_established() {
            self.measurement.start(now);
        }
        let result = transfer.drive(now, &self.payload, &mut self.buf);
        if let Ok(moved) = &result {
            self.measurement.add(now, moved);
            let room = transfer.stream.writable();
            if moved.received > 0 || moved.sent > 0 || room != pulse.room {
                *pulse = Pulse { at: now, room };
            }
        }
        let is_over = transfer.is_over() || result.is_err();
        match result {
            Ok(moved) if moved.more => self.hub.queue(token),
            Ok(_) => {}
            Err(error) => self.measurement.fail(error, PATIENCE),
        }
        if is_over {
            self.hub.remove(token);
        }
    }

    /// Gives up the streams in which nothing has moved for too long.
    fn give_up_the_silent(&mut self) {
        if self.now < self.silent_at {
            return;
        }
        let now = self.now;
        // While nothing waits for room, an acknowledgement is no event: look.
        let moved_at = |transfer: &Transfer, pulse: &Pulse| {
            if transfer.stream.writable() == pulse.room { pulse.at } else { now }
        };
        let ends =
            self.hub.iter().map(|(token, (transfer, pulse))| (moved_at(transfer, pulse) + PATIENCE, token));
        let (silent, others): (Vec<_>, Vec<_>) = ends.partition(|&(end, _)| end <= now);
        for (_, token) in silent {
            self.hub.remove(token);
            self.measurement.fail(SocketError::TimedOut, PATIENCE);
        }
        self.silent_at = others.into_iter().map(|(end, _)| end).min().unwrap_or(time::Instant::FAR_FUTURE);
    }
}

impl Program for Client {
    fn name(&self) -> &'static str {
        NAME
    }

    fn epoll(&self) -> &Epoll {
        self.hub.epoll()
    }

    fn ready(&mut self, _: &mut Runtime, now: Instant) -> Result<(), ProgramError> {
        if self.outcome().is_some() {
            return Ok(());
        }
        self.now = self.measurement.time(now);
        for _ in 0..self.hub.poll(|stream, _| (Transfer::asked(stream), Pulse::default()))? {
            let Some(token) = self.hub.next() else { break };
            self.drive(token);
        }
        self.give_up_the_silent();
        let is_read = self.measurement.go_on(now, !self.hub.is_idle(), Some(self.silent_at))?;
        if !is_read || self.hub.len() == 0 {
            self.stop();
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.measurement.deadline()
    }

    fn outcome(&self) -> Option<Outcome> {
        self.measurement.outcome()
    }

    fn stop(&mut self) {
        self.measurement.finish(self.now, |_| "");
    }
}
