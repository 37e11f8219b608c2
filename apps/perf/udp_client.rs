//! The client of a measurement over UDP: one socket per stream.

use super::Options;
use super::datagrams::{Control, Kind, Tally};
use super::measurement::{Measurement, NAME};
use super::report::{Arrivals, DatagramHeader, Direction};
use super::request::Request;
use super::transfer::{CHUNK, Moved, Quota};
use super::udp_server::next_datagram;
use crate::run::{Outcome, Program, ProgramError};
use nty_epoll::{Epoll, Event, Events, Runtime, UdpSocket};
use ntytcp::stack::SocketError;
use ntytcp::time::Instant;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Datagrams that one call takes, and sends, in one stream.
const SHARE: usize = 64;
/// How often the server is told that we are still there.
const CONFIRM: Duration = Duration::from_millis(200);
/// A server that says nothing for so long is not there.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Wants a cookie.
    Hello,
    /// Has it, but does not know whether the server does.
    Begin(u64),
    /// Sends, receives, or both.
    Go(u64),
    /// Wants the final counts.
    Bye(u64),
    Over,
}

struct Stream {
    socket: UdpSocket,
    request: Request,
    stage: Stage,
    /// When the server is told next.
    tell_at: Instant,
    heard: Instant,
    quota: Quota,
    sent: u64,
    arrivals: Arrivals,
    /// What the server has counted.
    theirs: Tally,
    is_server_done: bool,
}

impl Stream {
    fn new(socket: UdpSocket, request: Request) -> Self {
        Self {
            socket,
            is_server_done: !request.flow.server_sends(),
            request,
            stage: Stage::Hello,
            tell_at: Instant::ZERO,
            heard: Instant::ZERO,
            quota: Quota::NOTHING,
            sent: 0,
            arrivals: Arrivals::default(),
            theirs: Tally::default(),
        }
    }

    /// Takes and sends a share.
    ///
    /// # Errors
    /// `TimedOut` when the server says nothing, or what the socket reports.
    fn drive(&mut self, now: Instant, payload: &mut [u8], buf: &mut [u8]) -> Result<Moved, SocketError> {
        let mut moved = Moved { more: true, ..Moved::default() };
        for _ in 0..SHARE {
            match self.socket.recv_from(buf) {
                Ok(got) => moved.received += self.take(buf.get(..got.len).unwrap_or_default(), now),
                Err(SocketError::WouldBlock) => {
                    moved.more = false;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        match self.send(now, payload, &mut moved.sent) {
            Ok(more) => moved.more |= more,
            Err(SocketError::WouldBlock) => {}
            Err(error) => return Err(error),
        }
        if self.stage != Stage::Over && now.since(self.heard) >= PATIENCE {
            return Err(SocketError::TimedOut);
        }
        Ok(moved)
    }

    /// Takes a datagram; how many bytes of payload it is.
    fn take(&mut self, datagram: &[u8], now: Instant) -> usize {
        if let Some(control) = Control::parse(datagram) {
            self.hear(&control, now);
        } else if let Some(header) = DatagramHeader::parse(datagram)
            && header.stream == self.request.stream
            && matches!(self.stage, Stage::Begin(_) | Stage::Go(_))
        {
            self.heard = now;
            self.arrivals.add(&header, now);
            return datagram.len();
        }
        0
    }

    fn hear(&mut self, control: &Control, now: Instant) {
        match (self.stage, control.kind) {
            (Stage::Hello, Kind::Cookie) => (self.stage, self.tell_at) = (Stage::Begin(control.cookie), now),
            (Stage::Begin(ours) | Stage::Go(ours), kind @ (Kind::Going | Kind::Done))
                if ours == control.cookie =>
            {
                if matches!(self.stage, Stage::Begin(_)) && self.request.flow.client_sends() {
                    self.quota = Quota::new(self.request.amount, now);
                }
                self.stage = Stage::Go(ours);
                self.theirs = control.tally();
                self.is_server_done |= kind == Kind::Done;
            }
            (Stage::Bye(ours), Kind::Final) if ours == control.cookie => {
                self.theirs = control.tally();
                self.stage = Stage::Over;
            }
            // Late, or not for us.
            _ => return,
        }
        self.heard = now;
    }

    /// Tells the server what is due, then sends datagrams; whether there is room for more.
    fn send(&mut self, now: Instant, payload: &mut [u8], bytes: &mut usize) -> Result<bool, SocketError> {
        if let Stage::Go(cookie) = self.stage
            && self.is_server_done
            && self.quota.next(now, 1) == 0
        {
            (self.stage, self.tell_at) = (Stage::Bye(cookie), now);
        }
        if now >= self.tell_at {
            let (kind, cookie) = match self.stage {
                Stage::Hello => (Kind::Hello, 0),
                Stage::Begin(cookie) | Stage::Go(cookie) => (Kind::Go, cookie),
                Stage::Bye(cookie) => (Kind::Bye, cookie),
                Stage::Over => return Ok(false),
            };
            self.socket.send(&Control::asking(kind, cookie, &self.request, self.sent).to_bytes())?;
            self.tell_at = now + CONFIRM;
        }
        if !matches!(self.stage, Stage::Go(_)) {
            return Ok(false);
        }
        for _ in 0..SHARE {
            let header = DatagramHeader { stream: self.request.stream, seq: self.sent, sent: now };
            let Some(datagram) = next_datagram(&self.quota, &self.request, header, now, payload) else {
                // Soon the next call says goodbye.
                return Ok(self.is_server_done);
            };
            self.socket.send(datagram)?;
            self.sent += 1;
            self.quota.sent(datagram.len());
            *bytes += datagram.len();
        }
        Ok(true)
    }
}

pub(super) struct UdpClient {
    epoll: Epoll,
    streams: Vec<Stream>,
    payload: Vec<u8>,
    buf: Vec<u8>,
    measurement: Measurement,
    now: Instant,
}

impl UdpClient {
    pub(super) fn new(
        options: &Options,
        peer: IpAddr,
        runtime: &mut Runtime,
        out: Box<dyn Write>,
    ) -> Result<Self, ProgramError> {
        let (epoll, mut streams) = (Epoll::new()?, Vec::new());
        let remote = SocketAddr::new(peer, options.port.get());
        let local: IpAddr = match peer {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        for stream in 0..options.parallel() {
            let socket = runtime
                .bind_udp(SocketAddr::new(local, 0), Some(remote))
                .map_err(|source| ProgramError::Peer { program: NAME, peer, source })?;
            epoll.add(&socket, Events::IN | Events::OUT | Events::ET, stream as u64)?;
            let request = Request::new(options, u32::try_from(stream).unwrap_or(u32::MAX));
            streams.push(Stream::new(socket, request));
        }
        let measurement = Measurement::new(options, peer, out);
        let (payload, buf) = (vec![0; CHUNK], vec![0; CHUNK]);
        Ok(Self { epoll, streams, payload, buf, measurement, now: Instant::ZERO })
    }

    /// Drives all streams; whether there is more to do at once.
    fn drive(&mut self) -> bool {
        let mut more = false;
        for stream in self.streams.iter_mut().filter(|stream| stream.stage != Stage::Over) {
            let result = stream.drive(self.now, &mut self.payload, &mut self.buf);
            if !matches!(stream.stage, Stage::Hello | Stage::Begin(_)) {
                self.measurement.start(self.now);
            }
            match result {
                Ok(moved) => {
                    more |= moved.more && stream.stage != Stage::Over;
                    self.measurement.add(self.now, &moved);
                }
                Err(error) => {
                    stream.stage = Stage::Over;
                    self.measurement.fail(error, PATIENCE);
                }
            }
        }
        more
    }

    /// When a stream has to be looked at although nothing happens.
    fn look_at(&self) -> Option<Instant> {
        let streams = self.streams.iter().filter(|stream| stream.stage != Stage::Over);
        // What is overdue found no room: the socket will say when there is some, or it is time to give up.
        let at = |s: &Stream| if s.tell_at > self.now { s.tell_at } else { s.heard + PATIENCE };
        streams.map(at).min()
    }

    /// What both ends have counted in one direction, all streams together.
    fn tally(&self, direction: Direction) -> Tally {
        let of = |stream: &Stream| match direction {
            Direction::Sent => Tally { sent: stream.sent, ..stream.theirs },
            Direction::Received => Tally::new(stream.theirs.sent, &stream.arrivals),
        };
        self.streams.iter().map(of).fold(Tally::default(), |a, b| a.merge(&b))
    }
}

impl Program for UdpClient {
    fn name(&self) -> &'static str {
        NAME
    }

    fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    fn ready(&mut self, _: &mut Runtime, now: std::time::Instant) -> Result<(), ProgramError> {
        if self.outcome().is_some() {
            return Ok(());
        }
        self.now = self.measurement.time(now);
        // All streams are driven, whichever it was.
        while self.epoll.poll(&mut [Event::default(); 64])? == 64 {}
        let more = self.drive();
        let is_read = self.measurement.go_on(now, more, self.look_at())?;
        if !is_read || self.streams.iter().all(|stream| stream.stage == Stage::Over) {
            self.stop();
        }
        Ok(())
    }

    fn deadline(&self) -> Option<std::time::Instant> {
        self.measurement.deadline()
    }

    fn outcome(&self) -> Option<Outcome> {
        self.measurement.outcome()
    }

    fn stop(&mut self) {
        let tallies = [Direction::Sent, Direction::Received].map(|direction| self.tally(direction));
        self.measurement.finish(self.now, |direction| match (direction, &tallies) {
            (Direction::Sent, [tally, _]) | (Direction::Received, [_, tally]) => format!(", {tally}"),
        });
    }
}
