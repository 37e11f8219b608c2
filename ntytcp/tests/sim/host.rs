//! Our stack with its device and its applications, driven by events alone: a lost event is a stuck connection.

use crate::app::{App, Pipe, Plan, Read};
use crate::wire::Wire;
use crate::world::Node;
use ntytcp::device::fault::Fault;
use ntytcp::device::mem::MemDevice;
use ntytcp::device::{Device, TxQueue, Verdict};
use ntytcp::rng::seed_from;
use ntytcp::stack::{
    InterfaceConfig, InterfaceId, Pending, SocketError, SocketId, SocketKind, Stack, StackConfig,
    TcpPopulation,
};
use ntytcp::tcp::{ListenOptions, TcpSocketOptions};
use ntytcp::time::Instant;
use ntytcp::wire::MacAddr;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where servers listen.
pub const PORT: u16 = 7;

/// One machine with our stack.
pub struct Host {
    pub stack: Stack,
    pub device: Wire<Fault<MemDevice>>,
    pub interface: InterfaceId,
    pub ip: Ipv4Addr,
    listener: Option<SocketId>,
    /// What is to be done with the connections that come in, by the port that they come from.
    plans: BTreeMap<u16, (Plan, (u64, u64))>,
    /// By the socket's index.
    pub apps: BTreeMap<u32, (SocketId, App)>,
    /// How the applications that are over ended, in that order.
    pub outcomes: Vec<Result<(), SocketError>>,
    pub received: u64,
    /// Every event at a socket other than a TCP connection or listener.
    pub other_events: u64,
    /// A machine that lost its power: takes frames and does nothing.
    pub dead: bool,
}

/// A connection of our stack as an application sees it.
struct Ours<'a>(&'a mut Stack, SocketId, Instant);

impl Pipe for Ours<'_> {
    fn send(&mut self, data: &[u8]) -> Result<usize, SocketError> {
        let Self(stack, id, now) = self;
        // Both ways of doing it, now the one and now the other.
        let sent = match data.len() % 2 {
            0 => stack.tcp_send(*now, *id, data),
            _ => stack.tcp_send_with(*now, *id, data.len(), |to| {
                to.copy_from_slice(&data[..to.len()]);
                to.len()
            }),
        };
        match sent {
            Err(SocketError::WouldBlock) => Ok(0),
            other => other,
        }
    }

    fn recv(&mut self, buf: &mut [u8]) -> Result<Read, SocketError> {
        let Self(stack, id, now) = self;
        let read = match buf.len() % 2 {
            0 => stack.tcp_recv(*now, *id, buf),
            _ => stack.tcp_recv_with(*now, *id, |bytes| {
                let n = bytes.len().min(buf.len());
                buf[..n].copy_from_slice(&bytes[..n]);
                n
            }),
        };
        match read {
            Ok(0) => Ok(Read::End),
            Ok(n) => Ok(Read::Data(n)),
            Err(SocketError::WouldBlock | SocketError::NotConnected) => Ok(Read::Nothing),
            Err(error) => Err(error),
        }
    }

    fn finish(&mut self) -> Result<(), SocketError> {
        self.0.tcp_shutdown(self.2, self.1)
    }
}

impl Host {
    /// The machine 10.0.0.`n`.
    pub fn new(n: u8, device: Wire<Fault<MemDevice>>, config: StackConfig, seed: u64) -> Self {
        let ip = Ipv4Addr::new(10, 0, 0, n);
        let mut stack = Stack::new(config, seed_from(seed ^ u64::from(n) << 56)).unwrap();
        let mac = MacAddr([2, 0, 0, 0, 0, n]);
        let addrs = vec![format!("{ip}/24").parse().unwrap()];
        let config = InterfaceConfig { mac, addrs, caps: *device.caps(), ..InterfaceConfig::default() };
        let interface = stack.add_interface(config).unwrap();
        Self {
            stack,
            device,
            interface,
            ip,
            listener: None,
            plans: BTreeMap::new(),
            apps: BTreeMap::new(),
            outcomes: Vec::new(),
            received: 0,
            other_events: 0,
            dead: false,
        }
    }

    /// Serves the connection that comes in from the peer's port as `plan` says.
    pub fn serve(&mut self, port: u16, plan: Plan, streams: (u64, u64), socket: Option<TcpSocketOptions>) {
        if self.listener.is_none() {
            let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT);
            let options = ListenOptions { socket, ..ListenOptions::default() };
            self.listener = Some(self.stack.tcp_listen(any, options).unwrap());
        }
        self.plans.insert(port, (plan, streams));
    }

    /// Opens a connection to 10.0.0.`n`.
    pub fn connect(
        &mut self,
        now: Instant,
        n: u8,
        plan: Plan,
        streams: (u64, u64),
        socket: Option<TcpSocketOptions>,
    ) -> SocketId {
        let remote = SocketAddr::new(Ipv4Addr::new(10, 0, 0, n).into(), PORT);
        let id = self.stack.tcp_connect(now, None, remote, socket).unwrap();
        self.apps.insert(id.index, (id, App::new(plan, streams)));
        id
    }

    /// Knows the station address of 10.0.0.`n` without asking, as if a router stood between.
    pub fn acquaint(&mut self, n: u8) {
        let (ip, mac) = (Ipv4Addr::new(10, 0, 0, n).into(), MacAddr([2, 0, 0, 0, 0, n]));
        self.stack.add_neighbor(self.interface, ip, mac).unwrap();
    }

    /// Whether no connection is left in the stack, not even in TIME-WAIT, and no memory is held.
    pub fn is_empty(&self) -> bool {
        self.stack.tcp_connections() == TcpPopulation::default() && self.stack.pages_in_use() == 0
    }

    /// Whether every application is done.
    pub fn is_done(&self) -> bool {
        self.apps.is_empty() && self.plans.is_empty()
    }

    fn accept(&mut self, now: Instant) {
        let Some(listener) = self.listener else { return };
        while let Ok((id, peer)) = self.stack.tcp_accept(now, listener) {
            match self.plans.remove(&peer.port()) {
                Some((plan, streams)) => {
                    self.apps.insert(id.index, (id, App::new(plan, streams)));
                    self.drive(now, id);
                }
                None => self.stack.tcp_abort(now, id).unwrap(),
            }
        }
    }

    /// Lets one application work, and closes its socket when it is over.
    fn drive(&mut self, now: Instant, id: SocketId) {
        let Some((_, app)) = self.apps.get_mut(&id.index).filter(|(own, _)| *own == id) else { return };
        let before = app.received;
        // Nothing can be written before the handshake is over.
        if self.stack.tcp_state(id).is_ok_and(|state| state == ntytcp::tcp::State::SynSent) {
            return;
        }
        app.drive(now, &mut Ours(&mut self.stack, id, now));
        self.received += app.received - before;
        if let Some(outcome) = app.outcome {
            self.outcomes.push(outcome);
            self.apps.remove(&id.index);
            self.stack.tcp_close(now, id).unwrap();
        }
    }

    fn run_apps(&mut self, now: Instant) -> bool {
        let mut active = false;
        while let Some(event) = self.stack.poll_event() {
            active = true;
            match event.socket.kind {
                SocketKind::Listener => self.accept(now),
                SocketKind::Stream => self.drive(now, event.socket),
                SocketKind::Datagram | SocketKind::Echo => self.other_events += 1,
            }
        }
        let due = |app: &App| app.wake_at.is_some_and(|at| at <= now);
        let due: Vec<SocketId> = self.apps.values().filter(|(_, app)| due(app)).map(|&(id, _)| id).collect();
        active |= !due.is_empty();
        due.into_iter().for_each(|id| self.drive(now, id));
        active
    }

    fn receive(&mut self, now: Instant) -> bool {
        let (stack, interface, dead) = (&mut self.stack, self.interface, self.dead);
        let mut sink = |frames: &mut [ntytcp::device::RxFrame<'_>]| {
            if dead {
                frames.iter_mut().for_each(|frame| frame.verdict = Verdict::Done);
            } else {
                stack.ingress_burst(now, interface, frames);
            }
        };
        self.device.rx_burst(&mut sink).unwrap() > 0
    }
}

impl Node for Host {
    fn turn(&mut self, now: Instant) -> bool {
        self.device.set_now(now);
        let mut active = self.receive(now);
        let sent = self.stack.counters().tx_frames;
        if !self.dead {
            if self.stack.next_deadline().is_some_and(|at| at <= now) {
                self.stack.on_timeout(now);
                active = true;
            }
            active |= self.run_apps(now);
            let full = self.stack.egress(now, self.interface, &mut self.device) == Pending::RingFull;
            // A full ring waits for the other end; what the bound of a turn left over does not.
            active |= !full && self.stack.has_pending(self.interface);
        }
        self.device.flush().unwrap();
        active || self.stack.counters().tx_frames > sent
    }

    fn next(&self) -> Option<Instant> {
        let wakes = self.apps.values().filter_map(|(_, app)| app.wake_at);
        let own = self.stack.next_deadline().into_iter().chain(wakes).filter(|_| !self.dead).min();
        own.into_iter().chain(self.device.next_deadline()).min()
    }

    fn describe(&mut self) -> String {
        let mut text = format!("{} {:?} {:?}\n", self.ip, self.stack.tcp_connections(), self.outcomes);
        for &(id, ref app) in self.apps.values().take(4) {
            text += &format!("  {app:?}\n  {:?}\n", self.stack.tcp_info(id));
        }
        let counters = self.stack.counters();
        let events: Vec<_> = counters.events().filter(|&(_, n)| n > 0).collect();
        let drops: Vec<_> = counters.drops().collect();
        text + &format!("  {events:?}\n  {drops:?}\n")
    }
}
