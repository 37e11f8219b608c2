//! Runs a script against a stack in virtual time. See `main.rs` for the language.

use crate::packet::{self, Packet};
use ntytcp::device::{Caps, RxFrame, RxMeta, TxMeta, TxQueue, Verdict};
use ntytcp::fifo::{Consumer, Producer};
use ntytcp::rng::seed_from;
use ntytcp::stack::{
    InterfaceConfig, InterfaceId, Readiness, SocketError, SocketId, SocketKind, Stack, StackConfig,
};
use ntytcp::tcp::{KeepAlive, ListenOptions, State};
use ntytcp::time::{Duration, Instant};
use ntytcp::wire::{
    ArpOperation, ArpPacket, EtherType, EthernetHeader, IpProtocol, Ipv4Header, MacAddr, Seq, TcpFlags,
    TcpHeader, VlanTags,
};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OUR_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PEER_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER_PORT: u16 = 40_000;
const OUR_PORT: u16 = 80;
/// The peer's initial sequence number: near the wrap, so that every script crosses it.
const PEER_ISN: Seq = Seq(u32::MAX - 2_000);

/// The transmit ring of the script: keeps what is sent.
struct Ring {
    caps: Caps,
    frame: Vec<u8>,
    sent: Vec<Vec<u8>>,
    full: bool,
}

impl TxQueue for Ring {
    fn caps(&self) -> &Caps {
        &self.caps
    }
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.full {
            return None;
        }
        self.frame = vec![0; len];
        Some(&mut self.frame)
    }
    fn commit(&mut self, _meta: TxMeta) {
        self.sent.push(std::mem::take(&mut self.frame));
    }
}

/// One script being run.
pub(crate) struct Script {
    stack: Stack,
    interface: InterfaceId,
    ring: Ring,
    now: Instant,
    /// What the stack sent and no line has asked for yet.
    sent: VecDeque<(Instant, Packet)>,
    listener: Option<SocketId>,
    socket: Option<SocketId>,
    /// The application's halves, once split off.
    halves: Option<(Producer, Consumer)>,
    events: Readiness,
    our_isn: Option<Seq>,
    our_port: u16,
    last_timestamp: u32,
    /// Bytes that the application has sent and received, to check the payload against.
    written: usize,
    read: usize,
    line: String,
}

/// The byte at a place of either stream.
fn byte_at(offset: usize) -> u8 {
    (offset % 251) as u8
}

/// Runs a script and panics, naming the line, when the stack does anything else.
pub(crate) fn run(config: StackConfig, script: &str) {
    let mut s = Script::new(config);
    for line in script.lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        if !line.is_empty() {
            s.line = line.to_owned();
            s.step(line);
        }
    }
    s.line = "the end of the script".to_owned();
    s.no_more_packets();
}

impl Script {
    fn new(config: StackConfig) -> Self {
        let caps = Caps::plain(1500);
        let mut stack = Stack::new(config, seed_from(1)).unwrap();
        let interface = stack
            .add_interface(InterfaceConfig {
                mac: OUR_MAC,
                addrs: vec![format!("{OUR_IP}/24").parse().unwrap()],
                caps,
                ..InterfaceConfig::default()
            })
            .unwrap();
        let mut s = Self {
            stack,
            interface,
            ring: Ring { caps, frame: Vec::new(), sent: Vec::new(), full: false },
            now: Instant::from_millis(1),
            sent: VecDeque::new(),
            listener: None,
            socket: None,
            halves: None,
            events: Readiness::empty(),
            our_isn: None,
            our_port: OUR_PORT,
            last_timestamp: 0,
            written: 0,
            read: 0,
            line: String::new(),
        };
        // Let the address be announced, and the peer be known, before the script's own time begins.
        s.run_until(s.now + Duration::from_secs(20));
        s
    }

    fn fail(&self, what: impl std::fmt::Display) -> ! {
        panic!("line `{}` at {:?}: {what}", self.line, self.now)
    }

    fn step(&mut self, line: &str) {
        let (delay, action) = match line.strip_prefix('+') {
            Some(rest) => {
                let (time, action) = rest.split_once(char::is_whitespace).unwrap_or((rest, "wait"));
                (
                    Duration::from_secs_f64(time.parse().unwrap_or_else(|_| self.fail("bad time"))),
                    action.trim(),
                )
            }
            None => (Duration::ZERO, line),
        };
        let at = self.now + delay;
        if let Some(expected) = action.strip_prefix('>') {
            return self.expect_packet(at, delay, &packet::parse(expected));
        }
        self.run_until(at);
        self.no_more_packets();
        match action.strip_prefix('<') {
            Some(segment) => self.inject(&packet::parse(segment)),
            None => self.act(action),
        }
        self.egress();
    }

    /// Moves time to `at`, doing what comes due on the way.
    fn run_until(&mut self, at: Instant) {
        self.egress();
        while let Some(next) = self.stack.next_deadline().filter(|&next| next <= at) {
            self.now = self.now.max(next);
            self.stack.on_timeout(self.now);
            self.egress();
        }
        self.now = self.now.max(at);
    }

    /// Collects what the stack sends, and answers its ARP requests.
    fn egress(&mut self) {
        loop {
            let _ = self.stack.egress(self.now, self.interface, &mut self.ring);
            let frames = std::mem::take(&mut self.ring.sent);
            if frames.is_empty() {
                break;
            }
            for frame in frames {
                self.take_frame(&frame);
            }
        }
        while let Some(event) = self.stack.poll_event() {
            if event.socket.kind == SocketKind::Stream {
                self.events |= event.readiness;
            }
        }
    }

    fn take_frame(&mut self, frame: &[u8]) {
        let (link, packet) = EthernetHeader::parse(frame).unwrap();
        if link.ethertype == EtherType::ARP {
            return self.answer_arp(packet);
        }
        let (ip, segment) = Ipv4Header::parse(packet).unwrap();
        if ip.protocol != IpProtocol::TCP {
            return;
        }
        assert!(TcpHeader::verify(ip.src.into(), ip.dst.into(), segment), "the stack sent a wrong checksum");
        let (header, data) = TcpHeader::parse(segment).unwrap();
        if header.flags.contains(TcpFlags::SYN) {
            self.our_isn = Some(header.seq);
            self.our_port = header.src_port;
        }
        if let Some(ts) = header.options.timestamps {
            self.last_timestamp = ts.value;
        }
        let isn = self.our_isn.unwrap_or(Seq(0));
        let described = packet::describe(&header, data.len(), isn, PEER_ISN);
        for (i, &byte) in data.iter().enumerate() {
            let offset = described.seq as usize - 1 + i;
            assert_eq!(byte, byte_at(offset), "payload byte {offset} of {described}");
        }
        self.sent.push_back((self.now, described));
    }

    fn answer_arp(&mut self, packet: &[u8]) {
        let request = ArpPacket::parse(packet).unwrap();
        if request.operation != ArpOperation::Request || request.target_ip != PEER_IP {
            return;
        }
        let reply = ArpPacket {
            operation: ArpOperation::Reply,
            sender_mac: PEER_MAC,
            sender_ip: PEER_IP,
            target_mac: request.sender_mac,
            target_ip: request.sender_ip,
        };
        let mut body = [0; ArpPacket::LEN];
        reply.emit(&mut body).unwrap();
        self.receive(EtherType::ARP, &body);
    }

    /// Gives the stack a frame from the peer.
    fn receive(&mut self, ethertype: EtherType, body: &[u8]) {
        let link = EthernetHeader { dst: OUR_MAC, src: PEER_MAC, vlan: VlanTags::default(), ethertype };
        let mut frame = vec![0; 2048];
        let at = link.emit(&mut frame).unwrap();
        frame[at..at + body.len()].copy_from_slice(body);
        let mut rx = RxFrame::new(&mut frame, 0, at + body.len(), RxMeta::default());
        match self.stack.ingress(self.now, self.interface, &mut rx) {
            Verdict::Reply(_) => {
                let reply = rx.bytes().to_vec();
                self.take_frame(&reply);
            }
            Verdict::Done | Verdict::Drop(_) => {}
        }
    }

    fn inject(&mut self, packet: &Packet) {
        let isn = self.our_isn.unwrap_or(Seq(0));
        let options = packet
            .options
            .as_deref()
            .map(|o| packet::parse_options(o, isn, self.last_timestamp))
            .unwrap_or_default();
        let header = TcpHeader {
            src_port: PEER_PORT,
            dst_port: self.our_port,
            seq: PEER_ISN + packet.seq,
            ack: packet.ack.map_or(Seq(0), |ack| isn + ack),
            flags: packet.flags,
            window: packet.win.unwrap_or(65_535),
            checksum: 0,
            urgent: 0,
            options,
        };
        let tcp_len = header.header_len() + packet.len;
        let ip = Ipv4Header {
            dscp_ecn: 0,
            total_len: (20 + tcp_len) as u16,
            ident: 7,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 64,
            protocol: IpProtocol::TCP,
            src: PEER_IP,
            dst: OUR_IP,
            options: &[],
        };
        let mut body = vec![0; 20 + tcp_len];
        ip.emit(&mut body).unwrap();
        header.emit(&mut body[20..]).unwrap();
        let data = 20 + header.header_len();
        for (i, byte) in body[data..].iter_mut().enumerate() {
            *byte = byte_at((packet.seq as usize + i).wrapping_sub(1));
        }
        TcpHeader::fill_checksum(PEER_IP.into(), OUR_IP.into(), &mut body[20..]).unwrap();
        self.receive(EtherType::IPV4, &body);
    }

    fn expect_packet(&mut self, at: Instant, delay: Duration, expected: &Packet) {
        // Timers tick every 8 us and may be armed a moment after what they follow.
        let tolerance = Duration::from_millis(1) + delay / 50;
        while self.sent.is_empty() {
            match self.stack.next_deadline().filter(|&next| next <= at + tolerance) {
                Some(next) => self.run_until(next),
                None => self.fail("the stack sent nothing"),
            }
        }
        let Some((sent_at, sent)) = self.sent.pop_front() else { self.fail("the stack sent nothing") };
        if !expected.matches(&sent) {
            self.fail(format!("the stack sent\n  {sent}\n{}", self.rest()));
        }
        if sent_at + tolerance < at || sent_at > at + tolerance {
            self.fail(format!("sent at {sent_at:?}, expected at {at:?}"));
        }
        self.now = self.now.max(sent_at);
    }

    fn rest(&self) -> String {
        self.sent.iter().map(|(at, packet)| format!("  then {packet} at {at:?}\n")).collect()
    }

    fn no_more_packets(&mut self) {
        if !self.sent.is_empty() {
            self.fail(format!("before it the stack sent\n{}", self.rest()));
        }
    }

    fn socket(&self) -> SocketId {
        self.socket.unwrap_or_else(|| self.fail("no socket yet"))
    }

    fn act(&mut self, action: &str) {
        let words: Vec<&str> = action.split_whitespace().collect();
        let now = self.now;
        match words.as_slice() {
            ["wait"] => {}
            ["ring", "full"] => self.ring.full = true,
            ["ring", "free"] => self.ring.full = false,
            ["pages", n] => {
                assert_eq!(self.stack.pages_in_use(), self.number(n), "pages, in `{}`", self.line)
            }
            ["at-rest"] => assert_eq!(self.stack.next_deadline(), None, "in `{}`", self.line),
            ["listen"] => self.listen(ListenOptions::default().backlog),
            ["listen", "backlog", n] => self.listen(self.number(n)),
            ["connect"] => self.connect(),
            ["accept"] => self.accept(),
            ["accept", "nothing"] => {
                let none = self.stack.tcp_accept(now, self.listener.unwrap());
                assert_eq!(none.err(), Some(SocketError::WouldBlock));
            }
            ["send", n] => self.send(self.number(n)),
            ["send", "error", name] => {
                let result = self.stack.tcp_send(now, self.socket(), &[0]);
                self.check_error(result.map(|_| ()), name);
            }
            ["recv", "end"] => {
                assert_eq!(self.stack.tcp_recv(now, self.socket(), &mut [0]), Ok(0), "{action}")
            }
            ["recv", "error", name] => {
                let result = self.stack.tcp_recv(now, self.socket(), &mut [0]);
                self.check_error(result.map(|_| ()), name);
            }
            ["recv", n] => self.recv(self.number(n)),
            ["split"] => self.halves = self.stack.tcp_split(self.socket()),
            ["write", n] => self.write(self.number(n)),
            ["end"] => self.halves.as_mut().unwrap().0.close(),
            ["wake"] => self.stack.tcp_wake(now, self.socket()).unwrap(),
            ["shutdown"] => self.stack.tcp_shutdown(now, self.socket()).unwrap(),
            ["close"] => self.stack.tcp_close(now, self.socket()).unwrap(),
            ["abort"] => self.stack.tcp_abort(now, self.socket()).unwrap(),
            ["nodelay"] => self.stack.tcp_set_nodelay(now, self.socket(), true).unwrap(),
            ["keepalive", idle, interval, count] => {
                let keepalive = KeepAlive {
                    idle: Duration::from_secs(self.number(idle)),
                    interval: Duration::from_secs(self.number(interval)),
                    count: self.number(count),
                };
                self.stack.tcp_set_keepalive(now, self.socket(), Some(keepalive)).unwrap();
            }
            ["user-timeout", seconds] => {
                let limit = Duration::from_secs(self.number(seconds));
                self.stack.tcp_set_user_timeout(self.socket(), Some(limit)).unwrap();
            }
            ["error", name] => {
                let error = self.stack.tcp_take_error(self.socket());
                self.check_error(error.map_or(Ok(()), Err), name);
            }
            ["state", name] => self.check_state(name),
            ["population", half_open, connections, time_wait] => {
                let p = self.stack.tcp_connections();
                let wanted = [half_open, connections, time_wait].map(|n| self.number::<usize>(n));
                assert_eq!(
                    [p.half_open, p.connections, p.time_wait],
                    wanted,
                    "half-open, connections, TIME-WAIT"
                );
            }
            ["event", names @ ..] => {
                let got = std::mem::take(&mut self.events);
                let wanted = names.iter().fold(Readiness::empty(), |all, n| all | self.readiness(n));
                assert_eq!(got, wanted, "line `{}`", self.line);
            }
            _ => self.fail("unknown action"),
        }
    }

    fn readiness(&self, name: &str) -> Readiness {
        Readiness::from_name(name).unwrap_or_else(|| self.fail(format!("unknown readiness {name}")))
    }

    fn number<T: std::str::FromStr>(&self, text: &str) -> T {
        text.parse().unwrap_or_else(|_| self.fail(format!("{text:?} is no number")))
    }

    fn check_error(&self, result: Result<(), SocketError>, name: &str) {
        let got = result.err().map_or("none".to_owned(), |error| format!("{error:?}"));
        assert_eq!(got, name, "line `{}`", self.line);
    }

    fn check_state(&mut self, name: &str) {
        let state = self.stack.tcp_state(self.socket()).map(|state: State| state.to_string());
        assert_eq!(state.as_deref(), Ok(name), "line `{}`", self.line);
    }

    fn listen(&mut self, backlog: usize) {
        let local = SocketAddr::new(IpAddr::V4(OUR_IP), OUR_PORT);
        self.listener = Some(self.stack.tcp_listen(local, ListenOptions { backlog, socket: None }).unwrap());
    }

    fn connect(&mut self) {
        let remote = SocketAddr::new(IpAddr::V4(PEER_IP), PEER_PORT);
        self.socket = Some(self.stack.tcp_connect(self.now, None, remote, None).unwrap());
    }

    fn accept(&mut self) {
        let listener = self.listener.unwrap_or_else(|| self.fail("not listening"));
        let (socket, peer) = self.stack.tcp_accept(self.now, listener).unwrap();
        assert_eq!(peer, SocketAddr::new(IpAddr::V4(PEER_IP), PEER_PORT));
        self.socket = Some(socket);
    }

    fn send(&mut self, n: usize) {
        let data: Vec<u8> = (0..n).map(|i| byte_at(self.written + i)).collect();
        assert_eq!(self.stack.tcp_send(self.now, self.socket(), &data), Ok(n), "line `{}`", self.line);
        self.written += n;
    }

    /// Writes into the split half, of which the stack hears nothing.
    fn write(&mut self, n: usize) {
        let data: Vec<u8> = (0..n).map(|i| byte_at(self.written + i)).collect();
        assert_eq!(self.halves.as_mut().unwrap().0.write(&data), n, "line `{}`", self.line);
        self.written += n;
    }

    fn recv(&mut self, n: usize) {
        let mut data = vec![0; n];
        let got = self.stack.tcp_recv(self.now, self.socket(), &mut data);
        assert_eq!(got, Ok(n), "line `{}`", self.line);
        for (i, byte) in data.into_iter().enumerate() {
            assert_eq!(byte, byte_at(self.read + i), "received byte {}", self.read + i);
        }
        self.read += n;
    }
}
