//! Both ends of smoltcp, used as well as we know how: frames are taken in until there are none, the application runs, then all that
//! is owed is sent, so that each turn looks at every socket as rarely as smoltcp allows. The application knows its active
//! sockets by handle and never searches for one.

use super::link::{self, Port};
use super::ours::fill;
use super::{
    BUFFER, CLIENT, IDLE_PORT, MESSAGE, Net, PORT, RING, Role, SERVER, TIME_WAIT, TURN, UDP_BUFFER, UDP_BURST,
};
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint};
use std::net::Ipv4Addr;

struct Host {
    iface: Interface,
    port: Port,
    sockets: SocketSet<'static>,
}

impl Host {
    fn new(ip: Ipv4Addr, mut port: Port) -> Self {
        let mac = EthernetAddress([2, 0, 0, 0, 0, ip.octets()[3]]);
        let config = Config::new(HardwareAddress::Ethernet(mac));
        let mut iface = Interface::new(config, &mut port, Instant::ZERO);
        iface
            .update_ip_addrs(|addrs| addrs.push(IpCidr::new(IpAddress::Ipv4(ip), 24)).expect("room for one"));
        Self { iface, port, sockets: SocketSet::new(Vec::new()) }
    }

    fn receive(&mut self, now: Instant) {
        self.iface.poll_maintenance(now);
        while self.iface.poll_ingress_single(now, &mut self.port, &mut self.sockets)
            != PollIngressSingleResult::None
        {}
    }

    fn send(&mut self, now: Instant) {
        while self.iface.poll_egress(now, &mut self.port, &mut self.sockets) != PollResult::None {}
    }

    fn add_tcp(&mut self, buffer: usize, nodelay: bool) -> SocketHandle {
        let half = || tcp::SocketBuffer::new(vec![0; buffer]);
        let mut socket = tcp::Socket::new(half(), half());
        socket.set_nagle_enabled(!nodelay);
        self.sockets.add(socket)
    }

    fn add_udp(&mut self, port: u16, slots: usize, bytes: usize) -> SocketHandle {
        let half = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; slots], vec![0; bytes]);
        let mut socket = udp::Socket::new(half(), half());
        socket.bind(port).expect("a port");
        self.sockets.add(socket)
    }

    fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn listen(&mut self, handle: SocketHandle, port: u16) {
        self.tcp(handle).listen(port).expect("a socket that is not open");
    }

    fn connect(&mut self, handle: SocketHandle, local: u16, port: u16) {
        let remote = IpEndpoint::new(IpAddress::Ipv4(SERVER), port);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(self.iface.context(), remote, local).expect("a socket that is not open");
    }
}

/// Two hosts of smoltcp on a cable.
pub(crate) struct Smol {
    client: Host,
    server: Host,
    now: Instant,
    /// The active sockets. Half of the idle ones are before them in the sets, half behind.
    ends: (SocketHandle, SocketHandle),
    local_port: u16,
}

/// Idle sockets have small buffers, which costs smoltcp nothing and saves it cache misses.
const IDLE_BUFFER: usize = 64;

impl Smol {
    /// Two hosts with `idle` sockets open on each beside what `role` needs.
    pub(crate) fn new(role: Role, idle: usize) -> Self {
        let (a, b) = link::pair(RING);
        let (mut client, mut server) = (Host::new(CLIENT, a), Host::new(SERVER, b));
        let is_udp = matches!(role, Role::Udp | Role::Respond);
        let before = open_idle(is_udp, 0..idle / 2, &mut client, &mut server);
        let nodelay = role != Role::Bulk;
        let end = |host: &mut Host| match is_udp {
            true => host.add_udp(PORT, 2 * UDP_BURST, UDP_BUFFER),
            false => host.add_tcp(BUFFER, nodelay),
        };
        let ends = (end(&mut client), end(&mut server));
        let behind = open_idle(is_udp, idle / 2..idle, &mut client, &mut server);
        let mut net = Self { client, server, now: Instant::ZERO, ends, local_port: 1024 };
        // The first connection alone: the others need not wait for ARP.
        if !is_udp {
            net.server.listen(ends.1, PORT);
            net.client.connect(ends.0, 1024, PORT);
            net.settle();
        }
        net.establish(&before);
        net.establish(&behind);
        match role {
            Role::Bulk | Role::Request => {
                assert_eq!(net.server.tcp(ends.1).state(), tcp::State::Established);
            }
            Role::Connect => net.finish(),
            Role::Udp | Role::Respond => {
                net.udp_burst();
                net.settle();
                // ARP is done; what did not wait for it to be is forgotten.
                for (host, end) in [(&mut net.client, ends.0), (&mut net.server, ends.1)] {
                    while host.sockets.get_mut::<udp::Socket<'_>>(end).recv().is_ok() {}
                }
                // The server asks for its own way back.
                net.server
                    .sockets
                    .get_mut::<udp::Socket<'_>>(ends.1)
                    .send_slice(&[0], IpEndpoint::new(IpAddress::Ipv4(CLIENT), PORT))
                    .expect("room");
                net.settle();
                while net.client.sockets.get_mut::<udp::Socket<'_>>(ends.0).recv().is_ok() {}
            }
        }
        net
    }

    fn establish(&mut self, idle: &[(SocketHandle, SocketHandle)]) {
        for batch in idle.chunks(100) {
            for &(client, server) in batch {
                self.local_port += 1;
                self.server.listen(server, IDLE_PORT);
                self.client.connect(client, self.local_port, IDLE_PORT);
            }
            let (client, server) = batch[batch.len() - 1];
            while self.server.tcp(server).state() != tcp::State::Established
                || self.client.tcp(client).state() != tcp::State::Established
            {
                self.turn_idle();
            }
        }
    }

    fn settle(&mut self) {
        (0..10_000).for_each(|_| self.turn_idle());
    }

    fn tick(&mut self) -> Instant {
        self.now += Duration::from_micros(TURN.as_micros() as u64);
        self.now
    }

    fn turn_idle(&mut self) {
        let now = self.tick();
        for host in [&mut self.client, &mut self.server] {
            host.receive(now);
            host.send(now);
        }
    }

    /// Closes the active connection from both ends, and waits until nothing is left of it.
    fn finish(&mut self) {
        let (client, server) = self.ends;
        self.client.tcp(client).close();
        while self.server.tcp(server).state() != tcp::State::Closed {
            let now = self.tick();
            self.client.send(now);
            self.server.receive(now);
            if self.server.tcp(server).state() == tcp::State::CloseWait {
                self.server.tcp(server).close();
            }
            self.server.send(now);
            self.client.receive(now);
        }
        // The server has nothing left, the client TIME-WAIT.
        self.now += Duration::from_micros(TIME_WAIT.as_micros() as u64);
        self.client.send(self.now);
        assert_eq!(self.client.tcp(client).state(), tcp::State::Closed);
    }

    fn udp_burst(&mut self) {
        let socket = self.client.sockets.get_mut::<udp::Socket<'_>>(self.ends.0);
        let to = IpEndpoint::new(IpAddress::Ipv4(SERVER), PORT);
        for _ in 0..UDP_BURST {
            fill(socket.send(MESSAGE, to).expect("room in the queue"), &[0x5a; MESSAGE]);
        }
    }
}

fn open_idle(
    is_udp: bool,
    numbers: std::ops::Range<usize>,
    client: &mut Host,
    server: &mut Host,
) -> Vec<(SocketHandle, SocketHandle)> {
    let mut made = Vec::new();
    for n in numbers {
        if is_udp {
            client.add_udp(IDLE_PORT + n as u16, 1, IDLE_BUFFER);
            server.add_udp(IDLE_PORT + n as u16, 1, IDLE_BUFFER);
        } else {
            made.push((client.add_tcp(IDLE_BUFFER, true), server.add_tcp(IDLE_BUFFER, true)));
        }
    }
    made
}

impl Net for Smol {
    fn bulk(&mut self, bytes: usize) {
        let (client, server) = self.ends;
        let mut got = 0;
        while got < bytes {
            let now = self.tick();
            let socket = self.client.sockets.get_mut::<tcp::Socket<'_>>(client);
            while socket.send(|to| (to.len(), to.len())).is_ok_and(|n| n > 0) {}
            self.client.send(now);
            self.server.receive(now);
            let socket = self.server.sockets.get_mut::<tcp::Socket<'_>>(server);
            while let Ok(n) = socket.recv(|bytes| (bytes.len(), bytes.len()))
                && n > 0
            {
                got += n;
            }
            self.server.send(now);
            self.client.receive(now);
        }
    }

    fn request(&mut self) {
        let (client, server) = self.ends;
        let now = self.tick();
        let ask = |to: &mut [u8]| (fill(to, &[0x5a; MESSAGE]), ());
        self.client.tcp(client).send(ask).expect("a connection");
        self.client.send(now);
        self.server.receive(now);
        let mut message = [0; MESSAGE];
        let read = |bytes: &mut [u8]| (fill(&mut message, bytes), ());
        self.server.tcp(server).recv(read).expect("a connection");
        let answer = |to: &mut [u8]| (fill(to, &message), ());
        self.server.tcp(server).send(answer).expect("a connection");
        self.server.send(now);
        self.client.receive(now);
        assert_eq!(self.client.tcp(client).recv(|bytes| (bytes.len(), bytes.len())), Ok(MESSAGE));
    }

    fn connect(&mut self) {
        let (client, server) = self.ends;
        self.local_port = if self.local_port >= 60_999 { 32_768 } else { self.local_port + 1 };
        self.server.listen(server, PORT);
        let local = self.local_port;
        self.client.connect(client, local, PORT);
        while self.client.tcp(client).state() != tcp::State::Established {
            let now = self.tick();
            self.client.send(now);
            self.server.receive(now);
            self.server.send(now);
            self.client.receive(now);
        }
        self.finish();
    }

    fn udp(&mut self) {
        let (client, server) = self.ends;
        let mut message = [0; MESSAGE];
        let now = self.tick();
        self.udp_burst();
        self.client.send(now);
        self.server.receive(now);
        let socket = self.server.sockets.get_mut::<udp::Socket<'_>>(server);
        while let Ok((request, from)) = socket.recv() {
            let len = fill(&mut message, request);
            fill(socket.send(len, from.endpoint).expect("room in the queue"), &message);
        }
        self.server.send(now);
        self.client.receive(now);
        let socket = self.client.sockets.get_mut::<udp::Socket<'_>>(client);
        let got = std::iter::from_fn(|| socket.recv().ok().map(|(bytes, _)| bytes.len()))
            .inspect(|&len| assert_eq!(len, MESSAGE))
            .count();
        assert_eq!(got, UDP_BURST);
    }
}
