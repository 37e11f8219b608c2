//! The server: does what each client asks for, and says per stream how fast it went.

use super::Options;
use super::report::{Direction, Meter};
use super::transfer::{CHUNK, Transfer, Transfers};
use super::udp_server::UdpServer;
use crate::run::{Program, ProgramError};
use nty_epoll::{Epoll, Event, Events, Runtime, TcpListener};
use ntytcp::stack::SocketError;
use ntytcp::tcp::{KeepAlive, ListenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

const NAME: &str = "perf";
/// The listener's token, which no stream has.
const LISTENER: u64 = u64::MAX;
/// The token of the UDP socket, which no stream has either.
const DATAGRAMS: u64 = u64::MAX - (1 << 32);
/// Events that one call handles.
const BATCH: usize = 64;

/// One stream's counts.
struct Session {
    peer: SocketAddr,
    sent: Meter,
    received: Meter,
}

pub(super) struct Server {
    epoll: Epoll,
    listener: TcpListener,
    events: Vec<Event>,
    payload: Vec<u8>,
    buf: Vec<u8>,
    transfers: Transfers<Session>,
    datagrams: UdpServer,
    interval: Duration,
    origin: Instant,
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
        let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let listener = runtime
            .listen(local, ListenOptions::default())
            .map_err(|source| ProgramError::Port { program: NAME, transport: "TCP", port, source })?;
        let epoll = Epoll::new()?;
        epoll.add(&listener, Events::IN, LISTENER)?;
        let socket = runtime.bind_udp(local, None).map_err(|source| ProgramError::Port {
            program: NAME,
            transport: "UDP",
            port,
            source,
        })?;
        epoll.add(&socket, Events::IN | Events::OUT | Events::ET, DATAGRAMS)?;
        // A line per call is the most there can be.
        let interval = options.interval.duration().max(Duration::from_millis(1));
        Ok(Self {
            epoll,
            listener,
            events: vec![Event::default(); BATCH],
            payload: vec![0; CHUNK],
            buf: vec![0; CHUNK],
            transfers: Transfers::new(),
            datagrams: UdpServer::new(socket, interval),
            interval,
            origin: Instant::now(),
            again: None,
            out,
        })
    }

    /// Takes one connection; the listener is level-triggered, so the others are reported again.
    fn accept(&mut self, now: ntytcp::time::Instant) {
        let Ok((stream, peer)) = self.listener.accept() else { return };
        // Who connects and then vanishes is not kept for ever.
        let _ =
            stream.set_keepalive(Some(KeepAlive { idle: Duration::from_secs(60), ..KeepAlive::default() }));
        let meter = |direction| Meter::new(direction, self.interval, now);
        let session = Session { peer, sent: meter(Direction::Sent), received: meter(Direction::Received) };
        match self.transfers.add(&self.epoll, Transfer::asked(stream), session) {
            Ok(token) => self.transfers.queue(token),
            Err(error) => tracing::warn!(target: "nty::perf", %peer, %error, "connection refused"),
        }
    }

    fn drive(&mut self, token: u64, now: ntytcp::time::Instant) {
        let Some((transfer, session)) = self.transfers.clients.get_mut(token) else { return };
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
                self.transfers.queue(token);
            }
            return;
        }
        if let Some((_, session)) = self.transfers.clients.remove(token) {
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
        &self.epoll
    }

    fn ready(&mut self, _: &mut Runtime, now: Instant) -> Result<(), ProgramError> {
        let time = ntytcp::time::Instant::ZERO + now.saturating_duration_since(self.origin);
        let n = self.epoll.poll(&mut self.events)?;
        for i in 0..n {
            match self.events.get(i).map_or(LISTENER, |event| event.data) {
                LISTENER => self.accept(time),
                // Driven below in any case.
                DATAGRAMS => {}
                token => self.transfers.queue(token),
            }
        }
        for _ in 0..self.transfers.queued() {
            let Some(token) = self.transfers.next() else { break };
            self.drive(token, time);
        }
        let more = self.datagrams.drive(time, &mut self.payload, &mut self.buf, &mut *self.out);
        self.again = if more || self.transfers.queued() > 0 {
            Some(now)
        } else {
            let next = self.datagrams.deadline();
            next.and_then(|at| self.origin.checked_add(at.since(ntytcp::time::Instant::ZERO)))
        };
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.again
    }
}
