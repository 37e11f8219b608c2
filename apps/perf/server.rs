//! The server: does what each client asks for, and says per stream how fast it went.

use super::Options;
use super::measurement::NAME;
use super::report::{Direction, Meter};
use super::transfer::{CHUNK, INTEREST, Transfer};
use super::udp_server::UdpServer;
use crate::clients::Timeline;
use crate::hub::{self, Hub};
use crate::run::{Program, ProgramError};
use nty_epoll::{Epoll, Events, Runtime, TcpStream};
use ntytcp::stack::SocketError;
use ntytcp::tcp::KeepAlive;
use ntytcp::time;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Streams that may wait to be accepted.
const BACKLOG: usize = 256;
/// Streams at the same time: several clients with as many as one may have; more wait in the backlog.
const STREAMS_MAX: usize = 1_024;

/// One stream's counts.
struct Session {
    peer: SocketAddr,
    sent: Meter,
    received: Meter,
}

impl Session {
    /// A client has connected.
    fn begin(
        stream: TcpStream,
        peer: SocketAddr,
        interval: Duration,
        now: time::Instant,
    ) -> (Transfer, Self) {
        // Who connects and then vanishes is not kept for ever.
        let _ =
            stream.set_keepalive(Some(KeepAlive { idle: Duration::from_secs(60), ..KeepAlive::default() }));
        let meter = |direction| Meter::new(direction, interval, now);
        let session = Self { peer, sent: meter(Direction::Sent), received: meter(Direction::Received) };
        (Transfer::asked(stream), session)
    }
}

pub(super) struct Server {
    hub: Hub<(Transfer, Session)>,
    payload: Vec<u8>,
    buf: Vec<u8>,
    datagrams: UdpServer,
    interval: Duration,
    timeline: Timeline,
    /// Now when there is more to do at once, otherwise when a client over UDP may have gone silent.
    again: Option<Instant>,
    out: Box<dyn Write>,
}

impl Server {
    pub(super) fn new(
        options: &Options,
        runtime: &mut Runtime,
        out: Box<dyn Write>,
    ) -> Result<Self, ProgramError> {
        let port = options.port.get();
        let mut hub = Hub::new(NAME, INTEREST)?;
        hub.listen(port, BACKLOG, STREAMS_MAX, runtime)?;
        let socket = hub::bind_udp(NAME, port, runtime)?;
        hub.watch(&socket, Events::IN | Events::OUT | Events::ET)?;
        let interval = options.line_interval();
        Ok(Self {
            hub,
            payload: vec![0; CHUNK],
            buf: vec![0; CHUNK],
            datagrams: UdpServer::new(socket, interval),
            interval,
            timeline: Timeline::new(),
            again: None,
            out,
        })
    }

    fn drive(&mut self, token: u64, now: time::Instant) {
        let Some((transfer, session)) = self.hub.get_mut(token) else { return };
        let moved = transfer.drive(now, &self.payload, &mut self.buf);
        if let Ok(moved) = moved {
            for (meter, bytes) in [(&mut session.sent, moved.sent), (&mut session.received, moved.received)] {
                if bytes > 0 {
                    meter.add(now, bytes);
                }
                if meter.total() > 0
                    && let Some(line) = meter.line(now)
                {
                    let _ = writeln!(self.out, "{}: {line}", session.peer);
                }
            }
        }
        let over = transfer.is_over() || moved.is_err();
        if !over {
            if moved.is_ok_and(|moved| moved.more) {
                self.hub.queue(token);
            }
            return;
        }
        if let Some((_, session)) = self.hub.remove(token) {
            self.report(&session, moved.err());
        }
    }

    fn report(&mut self, session: &Session, error: Option<SocketError>) {
        let peer = session.peer;
        for meter in [&session.sent, &session.received] {
            if meter.total() > 0 {
                let _ = writeln!(self.out, "{peer}: total: {}", meter.summary());
            }
        }
        let _ = match error {
            None => Ok(()),
            Some(SocketError::Invalid) => writeln!(self.out, "{peer}: not a perf client"),
            Some(error) => writeln!(self.out, "{peer}: {error}"),
        };
    }
}

impl Program for Server {
    fn name(&self) -> &'static str {
        NAME
    }

    fn epoll(&self) -> &Epoll {
        self.hub.epoll()
    }

    fn ready(&mut self, _: &mut Runtime, now: Instant) -> Result<(), ProgramError> {
        let time = self.timeline.at(now);
        let interval = self.interval;
        for _ in 0..self.hub.poll(|stream, peer| Session::begin(stream, peer, interval, time))? {
            let Some(token) = self.hub.next() else { break };
            self.drive(token, time);
        }
        let more = self.datagrams.drive(time, &mut self.payload, &mut self.buf, &mut *self.out);
        self.again = if more || !self.hub.is_idle() {
            Some(now)
        } else {
            self.datagrams.deadline().and_then(|at| self.timeline.when(at))
        };
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.again
    }
}
