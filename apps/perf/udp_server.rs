//! The server's side of measurements over UDP: one socket, and a session for each client that proved its address.

use super::Options;
use super::datagrams::{Control, Kind, Tally};
use super::report::{Arrivals, DatagramHeader, Direction, Meter};
use super::request::Request;
use super::transfer::Quota;
use nty_epoll::UdpSocket;
use ntytcp::stack::SocketError;
use ntytcp::time::{Duration, Instant};
use std::hash::{BuildHasher as _, RandomState};
use std::io::Write;
use std::net::SocketAddr;

/// Datagrams that one call takes.
const TAKES: usize = 256;
/// Datagrams that one call sends in each session.
const SENDS: usize = 32;
/// Sessions at the same time: one client with as many streams as it may have, and one more.
const SESSIONS_MAX: usize = 256;
/// A client that does not confirm for so long gets nothing more.
pub(super) const SILENCE: Duration = Duration::from_secs(1);
/// A cookie begins a session in the minute that it is from and in the next.
const MINUTE: Duration = Duration::from_secs(60);

struct Session {
    peer: SocketAddr,
    cookie: u64,
    request: Request,
    quota: Quota,
    sent: u64,
    /// How many the client says it has sent.
    client_sent: u64,
    arrivals: Arrivals,
    heard: Instant,
    left: bool,
    sent_meter: Meter,
    received_meter: Meter,
}

pub(super) struct UdpServer {
    pub(super) socket: UdpSocket,
    sessions: Vec<Session>,
    secret: RandomState,
    interval: Duration,
}

impl UdpServer {
    pub(super) fn new(socket: UdpSocket, interval: Duration) -> Self {
        Self { socket, sessions: Vec::new(), secret: RandomState::new(), interval }
    }

    /// Takes and sends a share; whether there is more to do at once. `payload` and `buf` as for streams.
    pub(super) fn drive(
        &mut self,
        now: Instant,
        payload: &mut [u8],
        buf: &mut [u8],
        out: &mut dyn Write,
    ) -> bool {
        let mut more = true;
        for _ in 0..TAKES {
            match self.socket.recv_from(buf) {
                Ok(got) => self.take(got.from, buf.get(..got.len).unwrap_or_default(), now, out),
                Err(SocketError::WouldBlock) => {
                    more = false;
                    break;
                }
                // What a stranger's router has to say.
                Err(_) => {}
            }
        }
        self.expire(now, out);
        let more = self.send(now, payload) || more;
        for session in &mut self.sessions {
            session.lines(now, out);
        }
        more
    }

    /// When [`UdpServer::drive`] has to be called at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.sessions.iter().map(|session| session.heard + SILENCE).min()
    }

    /// What only the owner of `peer` can know, and we without having kept it.
    fn cookie(&self, peer: SocketAddr, minute: u128) -> u64 {
        self.secret.hash_one((peer, minute))
    }

    fn take(&mut self, from: SocketAddr, datagram: &[u8], now: Instant, out: &mut dyn Write) {
        if let Some(control) = Control::parse(datagram) {
            self.answer(from, &control, now, out);
        } else if let Some(header) = DatagramHeader::parse(datagram)
            && let Some(session) = self.sessions.iter_mut().find(|session| session.peer == from)
            && session.request.flow.client_sends()
            && session.request.stream == header.stream
            && !session.left
        {
            session.arrivals.add(&header, now);
            session.received_meter.add(now, datagram.len());
        }
    }

    /// Answers with one datagram of the same length, or not at all.
    fn answer(&mut self, from: SocketAddr, control: &Control, now: Instant, out: &mut dyn Write) {
        let Some((request, client_sent)) = control.request() else { return };
        let minute = now.since(Instant::ZERO).as_secs() as u128 / MINUTE.as_secs() as u128;
        let answer = match control.kind {
            Kind::Hello => Control::telling(Kind::Cookie, self.cookie(from, minute), &Tally::default()),
            Kind::Go | Kind::Bye => {
                let is_new = !self.sessions.iter().any(|session| session.peer == from);
                if is_new && control.kind == Kind::Go && self.sessions.len() < SESSIONS_MAX {
                    let minutes = [minute, minute.saturating_sub(1)];
                    if !minutes.iter().any(|&minute| self.cookie(from, minute) == control.cookie) {
                        return;
                    }
                    self.sessions.push(Session::new(from, control.cookie, request, self.interval, now));
                }
                let known = |session: &&mut Session| session.peer == from && session.cookie == control.cookie;
                let Some(session) = self.sessions.iter_mut().find(known) else { return };
                session.heard = now;
                session.client_sent = session.client_sent.max(client_sent);
                session.confirm(control.kind, now, out)
            }
            // What servers say.
            Kind::Cookie | Kind::Going | Kind::Done | Kind::Final => return,
        };
        // An answer that finds no room is asked for again.
        let _ = self.socket.send_to(&answer.to_bytes(), from);
    }

    /// Forgets the clients that have gone silent.
    fn expire(&mut self, now: Instant, out: &mut dyn Write) {
        self.sessions.retain(|session| {
            let keep = now.since(session.heard) < SILENCE;
            if !keep && !session.left {
                let _ = writeln!(out, "{}: went silent", session.peer);
                session.report(out);
            }
            keep
        });
    }

    /// Sends to all in turn; whether the socket would take more.
    fn send(&mut self, now: Instant, payload: &mut [u8]) -> bool {
        if !self.sessions.is_empty() {
            // Nobody is always the first to find room.
            self.sessions.rotate_left(1);
        }
        let mut sent = false;
        for _ in 0..SENDS {
            sent = false;
            for session in &mut self.sessions {
                match session.send(&mut self.socket, now, payload) {
                    Ok(one) => sent |= one,
                    Err(SocketError::WouldBlock) => return false,
                    // Nothing to undo. A client that cannot be reached soon stops confirming.
                    Err(_) => {}
                }
            }
            if !sent {
                break;
            }
        }
        sent
    }
}

impl Session {
    fn new(peer: SocketAddr, cookie: u64, request: Request, interval: Duration, now: Instant) -> Self {
        let quota =
            if request.flow.server_sends() { Quota::new(request.amount, now) } else { Quota::NOTHING };
        let meter = |direction| Meter::new(direction, interval, now);
        Self {
            peer,
            cookie,
            request,
            quota,
            sent: 0,
            client_sent: 0,
            arrivals: Arrivals::default(),
            heard: now,
            left: false,
            sent_meter: meter(Direction::Sent),
            received_meter: meter(Direction::Received),
        }
    }

    /// The answer to a client that goes on or leaves.
    fn confirm(&mut self, kind: Kind, now: Instant, out: &mut dyn Write) -> Control {
        if kind == Kind::Bye && !self.left {
            self.left = true;
            self.quota = Quota::NOTHING;
            self.report(out);
        }
        let kind = match (self.left, self.quota.next(now, 1)) {
            (true, _) => Kind::Final,
            (false, 0) => Kind::Done,
            (false, _) => Kind::Going,
        };
        Control::telling(kind, self.cookie, &Tally::new(self.sent, &self.arrivals))
    }

    /// Sends one datagram, if one is to be sent.
    fn send(
        &mut self,
        socket: &mut UdpSocket,
        now: Instant,
        payload: &mut [u8],
    ) -> Result<bool, SocketError> {
        let header = DatagramHeader { stream: self.request.stream, seq: self.sent, sent: now };
        let Some(datagram) = next_datagram(&self.quota, &self.request, header, now, payload) else {
            return Ok(false);
        };
        socket.send_to(datagram, self.peer)?;
        self.sent += 1;
        self.quota.sent(datagram.len());
        self.sent_meter.add(now, datagram.len());
        Ok(true)
    }

    fn lines(&mut self, now: Instant, out: &mut dyn Write) {
        for meter in [&mut self.sent_meter, &mut self.received_meter] {
            if !self.left
                && meter.total() > 0
                && let Some(line) = meter.line(now)
            {
                let _ = writeln!(out, "{}: {line}", self.peer);
            }
        }
    }

    fn report(&self, out: &mut dyn Write) {
        if self.request.flow.server_sends() {
            let _ =
                writeln!(out, "{}: total: {}, {} datagrams", self.peer, self.sent_meter.summary(), self.sent);
        }
        if self.request.flow.client_sends() {
            let tally = Tally::new(self.client_sent, &self.arrivals);
            let _ = writeln!(out, "{}: total: {}, {tally}", self.peer, self.received_meter.summary());
        }
    }
}

/// The next datagram of a sender, made in `payload`; `None` when everything is sent.
pub(super) fn next_datagram<'a>(
    quota: &Quota,
    request: &Request,
    header: DatagramHeader,
    now: Instant,
    payload: &'a mut [u8],
) -> Option<&'a [u8]> {
    let most = u64::from(request.write_len).min(Options::MAX_DATAGRAM) as usize;
    let len = quota.next(now, most);
    if len == 0 {
        return None;
    }
    let datagram = payload.get_mut(..len.max(DatagramHeader::LEN))?;
    *datagram.first_chunk_mut()? = header.to_bytes();
    Some(datagram)
}
