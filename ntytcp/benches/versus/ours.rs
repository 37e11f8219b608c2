//! Both ends of our stack, used as an application would: told by events, through the public calls.

use super::link::{self, Port};
use super::{
    BUFFER, CLIENT, IDLE_PORT, MESSAGE, Net, PORT, RING, Role, SERVER, TIME_WAIT, TURN, UDP_BUFFER, UDP_BURST,
};
use ntytcp::device::{BURST, Caps, Device, RxFrame};
use ntytcp::rng::seed_from;
use ntytcp::stack::route::InterfaceAddr;
use ntytcp::stack::{
    Event, InterfaceConfig, InterfaceId, Pending, Readiness, Received, Responder, SocketError, SocketId,
    Stack, StackConfig,
};
use ntytcp::tcp::{ListenOptions, TcpSocketOptions};
use ntytcp::time::Instant;
use ntytcp::wire::MacAddr;
use std::net::{Ipv4Addr, SocketAddr};

struct Host {
    stack: Stack,
    device: Port,
    interface: InterfaceId,
}

impl Host {
    fn new(ip: Ipv4Addr, device: Port, nodelay: bool) -> Self {
        let mut config =
            StackConfig { udp_rx_bytes: UDP_BUFFER, udp_tx_bytes: UDP_BUFFER, ..Default::default() };
        config.tcp.socket =
            TcpSocketOptions { nodelay, recv_buffer: BUFFER, send_buffer: BUFFER, ..Default::default() };
        // smoltcp has timestamps, off unless asked for: an MSS of 1460 on both sides.
        config.tcp.timestamps = false;
        config.tcp.msl = TIME_WAIT / 2;
        let mut stack = Stack::new(config, seed_from(1)).expect("the settings are in range");
        let interface = stack
            .add_interface(InterfaceConfig {
                mac: MacAddr([2, 0, 0, 0, 0, ip.octets()[3]]),
                addrs: vec![InterfaceAddr::new(ip.into(), 24).expect("a prefix")],
                caps: Caps::plain(1500),
                ..Default::default()
            })
            .expect("an interface");
        Self { stack, device, interface }
    }

    /// What has become due and what has arrived.
    fn receive(&mut self, now: Instant) {
        if self.stack.next_deadline().is_some_and(|at| at <= now) {
            self.stack.on_timeout(now);
        }
        let (stack, interface) = (&mut self.stack, self.interface);
        let mut take = |frames: &mut [RxFrame<'_>]| stack.ingress_burst(now, interface, frames);
        // A burst that is not full was the last.
        while self.device.rx_burst(&mut take).expect("a link") == BURST {}
    }

    fn connections(&self) -> usize {
        self.stack.tcp_connections().connections
    }

    fn send(&mut self, now: Instant) {
        assert_eq!(
            self.stack.egress(now, self.interface, &mut self.device),
            Pending::Clear,
            "the ring is large enough"
        );
        self.device.flush().expect("a link");
    }
}

/// Answers each request with itself.
struct Echo;

impl Responder for Echo {
    fn respond(&mut self, _: SocketAddr, _: &mut [u8], len: usize) -> Option<usize> {
        Some(len)
    }
}

/// Two hosts of ours on a cable.
pub(crate) struct Ours {
    client: Host,
    server: Host,
    now: Instant,
    /// The active sockets.
    ends: Option<(SocketId, SocketId)>,
    listener: Option<SocketId>,
    /// How many connections each has when nothing is going on.
    idle: usize,
}

/// Puts the message into a buffer.
pub(super) fn fill(to: &mut [u8], message: &[u8]) -> usize {
    let len = to.len().min(message.len());
    to[..len].copy_from_slice(&message[..len]);
    len
}

fn server_at(port: u16) -> SocketAddr {
    SocketAddr::new(SERVER.into(), port)
}

impl Ours {
    /// Two hosts with `idle` sockets open on each beside what `role` needs.
    pub(crate) fn new(role: Role, idle: usize) -> Self {
        let (a, b) = link::pair(RING);
        let nodelay = role != Role::Bulk;
        let mut net = Self {
            client: Host::new(CLIENT, a, nodelay),
            server: Host::new(SERVER, b, nodelay),
            now: Instant::ZERO,
            ends: None,
            listener: None,
            idle,
        };
        match role {
            Role::Bulk | Role::Request => {
                net.open_idle(idle);
                net.ends = net.open(PORT, 1).pop();
                net.now += TURN;
            }
            Role::Connect => {
                net.open_idle(idle);
                let options = ListenOptions::default();
                net.listener = Some(net.server.stack.tcp_listen(server_at(PORT), options).expect("a port"));
            }
            Role::Udp | Role::Respond => net.open_udp(role, idle),
        }
        net.settle();
        net
    }

    fn open_idle(&mut self, idle: usize) {
        for start in (0..idle).step_by(BATCH) {
            self.open(IDLE_PORT + (start / BATCH) as u16, BATCH.min(idle - start));
        }
    }

    /// Opens connections and returns both ends of each.
    fn open(&mut self, port: u16, count: usize) -> Vec<(SocketId, SocketId)> {
        let listener =
            self.server.stack.tcp_listen(server_at(port), ListenOptions::default()).expect("a port");
        let connect =
            |_| self.client.stack.tcp_connect(self.now, None, server_at(port), None).expect("a route");
        let clients: Vec<SocketId> = (0..count).map(connect).collect();
        let mut servers = Vec::new();
        while servers.len() < count {
            self.turn_idle();
            while let Ok((id, peer)) = self.server.stack.tcp_accept(self.now, listener) {
                servers.push((peer, id));
            }
        }
        let pair = |&client: &SocketId| {
            let local = self.client.stack.tcp_local_addr(client).expect("a socket");
            let (_, server) =
                servers.iter().find(|(peer, _)| *peer == local).expect("an accepted connection");
            (client, *server)
        };
        clients.iter().map(pair).collect()
    }

    fn open_udp(&mut self, role: Role, idle: usize) {
        for n in 0..idle {
            for (host, ip) in [(&mut self.client, CLIENT), (&mut self.server, SERVER)] {
                host.stack.udp_bind(SocketAddr::new(ip.into(), IDLE_PORT + n as u16)).expect("a port");
            }
        }
        let client = self.client.stack.udp_bind(SocketAddr::new(CLIENT.into(), PORT)).expect("a port");
        let server = self.server.stack.udp_bind(server_at(PORT)).expect("a port");
        if role == Role::Respond {
            self.server.stack.udp_set_responder(server, Some(Box::new(Echo))).expect("a socket");
        }
        self.ends = Some((client, server));
        // Each asks for the other's station, and what came of it is forgotten.
        let to = |ip: Ipv4Addr| Some(SocketAddr::new(ip.into(), PORT));
        self.client.stack.udp_send_to(client, &[0], to(SERVER)).expect("room in the queue");
        self.server.stack.udp_send_to(server, &[0], to(CLIENT)).expect("room in the queue");
        self.settle();
        while self.client.stack.udp_recv_from(client, &mut [0]).is_ok() {}
        while self.server.stack.udp_recv_from(server, &mut [0]).is_ok() {}
    }

    /// Lets what is under way arrive, and forgets what is told about it.
    fn settle(&mut self) {
        (0..1_000).for_each(|_| self.turn_idle());
    }

    fn turn_idle(&mut self) {
        self.now += TURN;
        for host in [&mut self.client, &mut self.server] {
            host.receive(self.now);
            while host.stack.poll_event().is_some() {}
            host.send(self.now);
        }
    }

    fn ends(&self) -> (SocketId, SocketId) {
        self.ends.expect("a workload with one connection")
    }
}

/// Idle connections opened at once.
const BATCH: usize = 100;

impl Net for Ours {
    fn bulk(&mut self, bytes: usize) {
        let (client, server) = self.ends();
        let mut got = 0;
        while got < bytes {
            self.now += TURN;
            let now = self.now;
            // The client writes whenever there is room, the server reads whenever something came.
            let stack = &mut self.client.stack;
            while stack.tcp_send_with(now, client, BUFFER, |to| to.len()).is_ok() {}
            self.client.send(now);
            self.server.receive(now);
            while let Some(event) = self.server.stack.poll_event() {
                if event.socket == server && event.readiness.contains(Readiness::READABLE) {
                    while let Ok(n) = self.server.stack.tcp_recv_with(now, server, |bytes| bytes.len()) {
                        got += n;
                    }
                }
            }
            self.server.send(now);
            self.client.receive(now);
            while self.client.stack.poll_event().is_some() {}
        }
    }

    fn request(&mut self) {
        let (client, server) = self.ends();
        self.now += TURN;
        let now = self.now;
        let ask = |to: &mut [u8]| fill(to, &[0x5a; MESSAGE]);
        assert_eq!(self.client.stack.tcp_send_with(now, client, MESSAGE, ask), Ok(MESSAGE));
        self.client.send(now);
        self.server.receive(now);
        while let Some(event) = self.server.stack.poll_event() {
            if event.readiness.contains(Readiness::READABLE) {
                let mut message = [0; MESSAGE];
                let read = |bytes: &[u8]| fill(&mut message, bytes);
                assert_eq!(self.server.stack.tcp_recv_with(now, event.socket, read), Ok(MESSAGE));
                let answer = |to: &mut [u8]| fill(to, &message);
                assert_eq!(self.server.stack.tcp_send_with(now, server, MESSAGE, answer), Ok(MESSAGE));
            }
        }
        self.server.send(now);
        self.client.receive(now);
        let mut got = 0;
        while let Some(event) = self.client.stack.poll_event() {
            if event.readiness.contains(Readiness::READABLE) {
                got += self.client.stack.tcp_recv_with(now, event.socket, |m| m.len()).unwrap_or(0);
            }
        }
        assert_eq!(got, MESSAGE);
    }

    fn connect(&mut self) {
        let listener = self.listener.expect("a listener");
        let client = self
            .client
            .stack
            .tcp_connect(self.now, None, server_at(PORT), None)
            .expect("a port that is free");
        let mut closed = false;
        while [&self.client, &self.server].iter().any(|host| host.connections() > self.idle) {
            self.now += TURN;
            let now = self.now;
            self.client.send(now);
            self.server.receive(now);
            while let Some(Event { socket, readiness }) = self.server.stack.poll_event() {
                if socket == listener {
                    while self.server.stack.tcp_accept(now, listener).is_ok() {}
                } else if readiness.contains(Readiness::READ_CLOSED) {
                    self.server.stack.tcp_close(now, socket).expect("a socket");
                }
            }
            self.server.send(now);
            self.client.receive(now);
            while let Some(event) = self.client.stack.poll_event() {
                if event.socket == client && event.readiness.contains(Readiness::WRITABLE) && !closed {
                    self.client.stack.tcp_close(now, client).expect("a socket");
                    closed = true;
                }
            }
        }
        // The server has nothing left, the client TIME-WAIT.
        self.now += TIME_WAIT;
        self.client.receive(self.now);
        let left = self.client.stack.tcp_connections();
        assert_eq!((left.connections, left.time_wait), (self.idle, 0));
    }

    fn udp(&mut self) {
        let (client, server) = self.ends();
        self.now += TURN;
        let now = self.now;
        let to = Some(server_at(PORT));
        let ask = |to: &mut [u8]| fill(to, &[0x5a; MESSAGE]);
        for _ in 0..UDP_BURST {
            assert_eq!(self.client.stack.udp_send_with(client, to, MESSAGE, ask), Ok(MESSAGE));
        }
        self.client.send(now);
        self.server.receive(now);
        let mut message = [0; MESSAGE];
        while let Some(event) = self.server.stack.poll_event() {
            loop {
                let read = |bytes: &[u8], got: Received| (fill(&mut message, bytes), got.from);
                let (len, from) = match self.server.stack.udp_recv_with(event.socket, read) {
                    Ok(got) => got,
                    Err(error) => break assert_eq!(error, SocketError::WouldBlock),
                };
                let answer = |to: &mut [u8]| fill(to, &message);
                assert_eq!(self.server.stack.udp_send_with(server, Some(from), len, answer), Ok(len));
            }
        }
        self.server.send(now);
        self.client.receive(now);
        let mut got = 0;
        while let Some(event) = self.client.stack.poll_event() {
            while let Ok(len) = self.client.stack.udp_recv_with(event.socket, |bytes, _| bytes.len()) {
                assert_eq!(len, MESSAGE);
                got += 1;
            }
        }
        assert_eq!(got, UDP_BURST);
    }
}
