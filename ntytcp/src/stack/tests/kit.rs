//! One stack, a ring that keeps what is sent, and frames built by hand.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::counters::DropReason;
use crate::device::{Caps, RxFrame, RxMeta, TxMeta, TxQueue, Verdict};
use crate::rng::seed_from;
use crate::stack::arp::GuardConfig;
use crate::stack::route::InterfaceAddr;
use crate::stack::{InterfaceConfig, InterfaceId, Pending, SocketId, Stack, StackConfig};
use crate::tcp::ListenOptions;
use crate::time::{Duration, Instant};
use crate::wire::{
    ArpOperation, ArpPacket, EtherType, EthernetHeader, Icmpv4Message, IpProtocol, Ipv4Header, MacAddr, Seq,
    TcpFlags, TcpHeader, TcpOptions, UdpHeader, VlanTags,
};

pub(super) const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(super) const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
pub(super) const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(super) const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// A transmit ring that takes `room` frames and keeps them.
pub(super) struct Ring {
    caps: Caps,
    pub room: usize,
    open: Option<Vec<u8>>,
    pub sent: Vec<(Vec<u8>, TxMeta)>,
}

impl Ring {
    pub(super) fn new(caps: Caps) -> Self {
        Self { caps, room: usize::MAX, open: None, sent: Vec::new() }
    }
}

impl TxQueue for Ring {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.open = (self.sent.len() < self.room).then(|| vec![0xa5; len]);
        self.open.as_deref_mut()
    }

    fn commit(&mut self, meta: TxMeta) {
        if let Some(frame) = self.open.take() {
            self.sent.push((frame, meta));
        }
    }
}

/// A stack with one interface, 10.0.0.1/24, behind a ring.
pub(super) struct Host {
    pub stack: Stack,
    pub id: InterfaceId,
    pub ring: Ring,
    pub now: Instant,
}

impl Host {
    pub(super) fn new() -> Self {
        Self::with(Caps::plain(1500), |_| {})
    }

    /// A host whose interface was changed by `change`. Its first announcements are thrown away.
    pub(super) fn with(caps: Caps, change: impl FnOnce(&mut InterfaceConfig)) -> Self {
        Self::of(StackConfig::default(), caps, change)
    }

    /// As [`Host::with`], in a stack of its own settings.
    pub(super) fn of(stack: StackConfig, caps: Caps, change: impl FnOnce(&mut InterfaceConfig)) -> Self {
        let mut stack = Stack::new(stack, seed_from(1)).unwrap();
        let addr = InterfaceAddr::new(US.into(), 24).unwrap();
        let guard = GuardConfig { announcements: 0, ..GuardConfig::immediate() };
        let mut config =
            InterfaceConfig { mac: OUR_MAC, addrs: vec![addr], caps, guard, ..Default::default() };
        change(&mut config);
        let id = stack.add_interface(config).unwrap();
        Self { stack, id, ring: Ring::new(caps), now: Instant::ZERO }
    }

    /// As [`Host::new`], and the peer's station address is known.
    pub(super) fn acquainted() -> Self {
        Self::with_pages(StackConfig::default().pages)
    }

    /// As [`Host::acquainted`], with so many pages of payload memory.
    pub(super) fn with_pages(pages: usize) -> Self {
        let stack = StackConfig { pages, ..StackConfig::default() };
        let mut host = Self::of(stack, Caps::plain(1500), |_| {});
        host.stack.add_neighbor(host.id, PEER.into(), PEER_MAC).unwrap();
        host
    }

    /// Gives the stack a frame, with room behind it for an answer, and returns what it wrote in its place.
    pub(super) fn receive(&mut self, frame: &[u8]) -> Result<Option<Vec<u8>>, DropReason> {
        self.receive_with(frame, RxMeta::default())
    }

    pub(super) fn receive_with(&mut self, frame: &[u8], meta: RxMeta) -> Result<Option<Vec<u8>>, DropReason> {
        let mut buf = vec![0x5a; 64 + frame.len().max(2_000)];
        buf[64..64 + frame.len()].copy_from_slice(frame);
        let mut rx = RxFrame::new(&mut buf, 64, frame.len(), meta);
        match self.stack.ingress(self.now, self.id, &mut rx) {
            Verdict::Done => Ok(None),
            Verdict::Reply(_) => Ok(Some(rx.bytes().to_vec())),
            Verdict::Drop(reason) => Err(reason),
        }
    }

    /// What the stack sends of its own accord now.
    pub(super) fn egress(&mut self) -> Vec<Vec<u8>> {
        let _ = self.egress_some(usize::MAX);
        self.ring.sent.drain(..).map(|(frame, _)| frame).collect()
    }

    /// As [`Host::egress`], into a ring with room for `room` frames, which keeps them.
    pub(super) fn egress_some(&mut self, room: usize) -> Pending {
        self.ring.room = room;
        self.stack.egress(self.now, self.id, &mut self.ring)
    }

    /// Lets time pass, timer by timer, and returns all that is sent.
    pub(super) fn pass(&mut self, time: Duration) -> Vec<Vec<u8>> {
        let (end, mut sent) = (self.now + time, self.egress());
        let mut still = 0;
        while let Some(at) = self.stack.next_deadline().filter(|&at| at <= end) {
            // The wheel may want to be looked at again at the same time, but not for ever.
            still = if at > self.now { 0 } else { still + 1 };
            assert!(still < 10, "time stands still at {at:?}");
            self.now = self.now.max(at);
            self.stack.on_timeout(self.now);
            sent.extend(self.egress());
        }
        self.now = end;
        sent
    }

    /// A connection that the peer has opened to a new listener on `port`, from port 1,000; the peer's sequence numbers begin at 0.
    pub(super) fn established(&mut self, port: u16) -> SocketId {
        let listener = self.stack.tcp_listen(at(US, port), ListenOptions::default()).unwrap();
        let syn_ack = self.receive(&tcp(port, (Seq(0), Seq(0)), TcpFlags::SYN, b"")).unwrap().unwrap();
        let iss = TcpHeader::parse(parse_ip(&syn_ack).1).unwrap().0.seq;
        self.receive(&tcp(port, (Seq(1), iss + 1), TcpFlags::ACK, b"")).unwrap();
        self.stack.tcp_accept(self.now, listener).unwrap().0
    }

    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        self.stack.counters().dropped(reason)
    }
}

pub(super) fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

pub(super) fn ethernet(dst: MacAddr, ethertype: EtherType, payload: &[u8]) -> Vec<u8> {
    let header = EthernetHeader { dst, src: PEER_MAC, vlan: VlanTags::NONE, ethertype };
    let mut frame = vec![0; header.len() + payload.len()];
    let at = header.emit(&mut frame).unwrap();
    frame[at..].copy_from_slice(payload);
    frame
}

pub(super) fn arp(operation: ArpOperation, sender: (MacAddr, Ipv4Addr), target_ip: Ipv4Addr) -> Vec<u8> {
    let (sender_mac, sender_ip) = sender;
    let target_mac = if operation == ArpOperation::Reply { OUR_MAC } else { MacAddr::ZERO };
    let packet = ArpPacket { operation, sender_mac, sender_ip, target_mac, target_ip };
    let mut bytes = vec![0; ArpPacket::LEN];
    packet.emit(&mut bytes).unwrap();
    let dst = if operation == ArpOperation::Reply { OUR_MAC } else { MacAddr::BROADCAST };
    ethernet(dst, EtherType::ARP, &bytes)
}

pub(super) fn header(dst: Ipv4Addr, protocol: IpProtocol, payload: usize) -> Ipv4Header<'static> {
    Ipv4Header {
        dscp_ecn: 0,
        total_len: (20 + payload) as u16,
        ident: 7,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 61,
        protocol,
        src: PEER,
        dst,
        options: &[],
    }
}

/// A packet with the given header and payload, in a frame to us.
pub(super) fn packet(ip: Ipv4Header<'_>, payload: &[u8]) -> Vec<u8> {
    let ip = Ipv4Header { total_len: (ip.header_len() + payload.len()) as u16, ..ip };
    let mut bytes = vec![0; ip.header_len() + payload.len()];
    let at = ip.emit(&mut bytes).unwrap();
    bytes[at..].copy_from_slice(payload);
    ethernet(OUR_MAC, EtherType::IPV4, &bytes)
}

/// A datagram from the peer.
pub(super) fn udp_to(dst: Ipv4Addr, src_port: u16, dst_port: u16, payload: &[u8]) -> Vec<u8> {
    let datagram = udp_bytes(PEER, dst, src_port, dst_port, payload);
    packet(header(dst, IpProtocol::UDP, datagram.len()), &datagram)
}

pub(super) fn udp_bytes(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    src_port: u16,
    dst_port: u16,
    payload: &[u8],
) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let mut bytes = vec![0; 8];
    UdpHeader { src_port, dst_port, length, checksum: 0 }.emit(&mut bytes).unwrap();
    bytes.extend_from_slice(payload);
    UdpHeader::fill_checksum(src.into(), dst.into(), &mut bytes).unwrap();
    bytes
}

/// A segment from port 1,000 of the peer.
pub(super) fn tcp(dst_port: u16, (seq, ack): (Seq, Seq), flags: TcpFlags, text: &[u8]) -> Vec<u8> {
    tcp_with(dst_port, (seq, ack), flags, TcpOptions::NONE, text)
}

/// As [`tcp`], with options.
pub(super) fn tcp_with(
    dst_port: u16,
    (seq, ack): (Seq, Seq),
    flags: TcpFlags,
    options: TcpOptions,
    text: &[u8],
) -> Vec<u8> {
    let (src_port, window) = (1_000, 65_535);
    let seg = TcpHeader { src_port, dst_port, seq, ack, flags, window, checksum: 0, urgent: 0, options };
    let mut bytes = vec![0; seg.header_len()];
    seg.emit(&mut bytes).unwrap();
    bytes.extend_from_slice(text);
    TcpHeader::fill_checksum(PEER.into(), US.into(), &mut bytes).unwrap();
    packet(header(US, IpProtocol::TCP, bytes.len()), &bytes)
}

/// The segment in a frame from us.
pub(super) fn parse_tcp(frame: &[u8]) -> (TcpHeader, &[u8]) {
    TcpHeader::parse(parse_ip(frame).1).unwrap()
}

pub(super) fn icmp(message: &Icmpv4Message<'_>) -> Vec<u8> {
    let mut bytes = vec![0; message.len()];
    message.emit(&mut bytes).unwrap();
    packet(header(US, IpProtocol::ICMP, bytes.len()), &bytes)
}

pub(super) fn parse_arp(frame: &[u8]) -> (EthernetHeader, ArpPacket) {
    let (link, payload) = EthernetHeader::parse(frame).unwrap();
    assert_eq!(link.ethertype, EtherType::ARP);
    (link, ArpPacket::parse(payload).unwrap())
}

/// The packet in a frame from us to the peer.
pub(super) fn parse_ip(frame: &[u8]) -> (Ipv4Header<'_>, &[u8]) {
    let (link, payload) = EthernetHeader::parse(frame).unwrap();
    assert_eq!((link.src, link.ethertype), (OUR_MAC, EtherType::IPV4));
    Ipv4Header::parse(payload).unwrap()
}

/// The datagram in a frame from us: ports and payload. Its checksum is verified.
pub(super) fn parse_udp(frame: &[u8]) -> (u16, u16, &[u8]) {
    let (ip, datagram) = parse_ip(frame);
    assert_eq!(ip.protocol, IpProtocol::UDP);
    assert!(UdpHeader::verify(IpAddr::V4(ip.src), IpAddr::V4(ip.dst), datagram));
    let (udp, payload) = UdpHeader::parse(datagram).unwrap();
    (udp.src_port, udp.dst_port, payload)
}

/// The ICMP message in a frame from us.
pub(super) fn parse_icmp(frame: &[u8]) -> Icmpv4Message<'_> {
    let (ip, message) = parse_ip(frame);
    assert_eq!(ip.protocol, IpProtocol::ICMP);
    Icmpv4Message::parse(message).unwrap()
}

/// A payload in which every byte tells where it is.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}
