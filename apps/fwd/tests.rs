//! The forwarder between links in memory, in a time that the test moves.

use super::forward::Forwarder;
use super::port::Loss;
use super::*;
use crate::arp;
use clap::Parser as _;
use ntytcp::device::mem::{MemConfig, MemDevice, pair};
use ntytcp::device::train::Train;
use ntytcp::device::{Device as _, Gso, GsoKind, RxChecksum, RxMeta, TxChecksum, TxMeta, TxQueue as _};
use ntytcp::rng::{Rng, seed_from};
use ntytcp::time::Instant;
use ntytcp::wire::{
    EtherType, EthernetHeader, Icmpv4Message, IpProtocol, Ipv4Header, Seq, Sum, TcpFlags, TcpHeader,
    TcpOptions, UdpHeader, VlanTag, VlanTags,
};
use proptest::prelude::*;
use std::net::Ipv4Addr;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

fn parse(flags: &[&str]) -> Result<Options, String> {
    let words = [&["fwd"], flags].concat();
    Line::try_parse_from(words).map(|line| line.options).map_err(|error| error.to_string())
}

/// A forwarder with these flags, and the other ends of its ports.
struct World {
    forwarder: Forwarder,
    peers: Vec<MemDevice>,
    now: u64,
}

impl World {
    fn new(flags: &str, configs: &[MemConfig]) -> Self {
        Self::with(&flags.split_whitespace().collect::<Vec<_>>(), configs)
    }

    fn with(flags: &[&str], configs: &[MemConfig]) -> Self {
        let devices = ["--device", "mem:"].repeat(configs.len());
        let options = parse(&[&devices[..], flags].concat()).unwrap();
        let mut rng = Rng::new(seed_from(1));
        let ports = options.ports().unwrap();
        let mode = options.mode(&ports, &mut rng).unwrap();
        let (mut ours, mut peers) = (Vec::new(), Vec::new());
        for (config, port) in configs.iter().zip(ports) {
            let (a, b) = pair(*config);
            ours.push((Box::new(a) as _, port));
            peers.push(b);
        }
        let forwarder = Forwarder::new(ours, options.acl().unwrap(), mode, &mut rng);
        Self { forwarder, peers, now: 0 }
    }

    fn send_as(&mut self, port: usize, frame: &[u8], meta: TxMeta) {
        let peer = &mut self.peers[port];
        peer.reserve(frame.len()).unwrap().copy_from_slice(frame);
        peer.commit(meta);
        peer.flush().unwrap();
        self.turn();
    }

    fn send(&mut self, port: usize, frame: &[u8]) {
        self.send_as(port, frame, TxMeta::default());
    }

    fn turn(&mut self) {
        self.now += 1;
        self.forwarder.turn(Instant::from_millis(self.now)).unwrap();
    }

    fn arrived(&mut self, port: usize) -> Vec<(Vec<u8>, RxMeta)> {
        let mut frames = Vec::new();
        let peer = &mut self.peers[port];
        while peer
            .rx_burst(&mut |burst| frames.extend(burst.iter().map(|f| (f.bytes().to_vec(), f.meta))))
            .unwrap()
            > 0
        {}
        frames
    }

    /// What arrived, of which there is one.
    fn one(&mut self, port: usize) -> Vec<u8> {
        let mut frames = self.arrived(port);
        assert_eq!(frames.len(), 1, "{frames:?}");
        frames.remove(0).0
    }

    fn lost(&self, port: usize, loss: Loss) -> u64 {
        self.forwarder.ports[port].state.counts.lost(loss)
    }

    fn mac(&self, port: usize) -> MacAddr {
        self.forwarder.ports[port].state.config.mac
    }

    /// The station of a host becomes known at the port, as it would by ARP.
    fn introduce(&mut self, port: usize, ip: [u8; 4], mac: MacAddr) {
        let own = self.forwarder.ports[port].state.config.addrs[0].addr();
        let IpAddr::V4(own) = own else { panic!("{own}") };
        self.send(port, &arp::request((mac, ip.into()), own));
        assert_eq!(arp::speaker(&self.one(port)), Some((own, self.mac(port))));
    }
}

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
const HOST_A: [u8; 4] = [10, 0, 0, 9];
const HOST_B: [u8; 4] = [10, 0, 1, 9];

fn plain(ports: usize) -> Vec<MemConfig> {
    vec![MemConfig::default(); ports]
}

fn link(dst: MacAddr, src: MacAddr, vlan: VlanTags, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 22];
    let ethertype = if packet[0] >> 4 == 6 { EtherType::IPV6 } else { EtherType::IPV4 };
    let len = EthernetHeader { dst, src, vlan, ethertype }.emit(&mut frame).unwrap();
    frame.truncate(len);
    frame.extend_from_slice(packet);
    frame
}

fn ip(src: [u8; 4], dst: [u8; 4], ttl: u8, protocol: IpProtocol, datagram: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20];
    let header = Ipv4Header {
        dscp_ecn: 0,
        total_len: 20 + datagram.len() as u16,
        ident: 5,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl,
        protocol,
        src: src.into(),
        dst: dst.into(),
        options: &[],
    };
    header.emit(&mut packet).unwrap();
    [&packet[..], datagram].concat()
}

fn udp(src: [u8; 4], dst: [u8; 4], ttl: u8, len: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
    let head = [0x03, 0xe8, 0, 53];
    let mut datagram = [&head[..], &(8 + len as u16).to_be_bytes(), &[0, 0], &payload].concat();
    UdpHeader::fill_checksum(IpAddr::from(src), IpAddr::from(dst), &mut datagram).unwrap();
    ip(src, dst, ttl, IpProtocol::UDP, &datagram)
}

/// A segment with this many bytes whose checksum is the pseudo-header's sum, as one that a device is to finish.
fn segment(src: [u8; 4], dst: [u8; 4], len: usize) -> Vec<u8> {
    let flags = TcpFlags::ACK | TcpFlags::PSH;
    let checksum = Sum::pseudo_header(src.into(), dst.into(), IpProtocol::TCP, 20 + len as u32).fold();
    let header = TcpHeader {
        src_port: 80,
        dst_port: 99,
        seq: Seq(1_000),
        ack: Seq(7),
        flags,
        window: 500,
        checksum,
        urgent: 0,
        options: TcpOptions::default(),
    };
    let mut bytes = vec![0; 20];
    header.emit(&mut bytes).unwrap();
    bytes.extend((0..len).map(|n| (n % 251) as u8));
    ip(src, dst, 64, IpProtocol::TCP, &bytes)
}

const PARTIAL: TxChecksum = TxChecksum::Partial { start: 34, offset: 16 };

/// The IPv4 packet of a frame, with every checksum in order.
fn whole(frame: &[u8]) -> (EthernetHeader, Ipv4Header<'_>, &[u8]) {
    let (link, packet) = EthernetHeader::parse(frame).unwrap();
    let (ip, datagram) = Ipv4Header::parse(packet).unwrap();
    let (src, dst) = (ip.src.into(), ip.dst.into());
    assert!(match ip.protocol {
        IpProtocol::UDP => UdpHeader::verify(src, dst, datagram),
        IpProtocol::TCP => TcpHeader::verify(src, dst, datagram),
        _ => Sum::of(datagram).verify(),
    });
    (link, ip, datagram)
}

#[test]
fn a_wire_passes_everything_as_it_is() {
    let mut world = World::new("", &plain(4));
    let tag = |id| VlanTag::new(id);
    let packet = udp(HOST_A, HOST_B, 1, 30);
    for vlan in [VlanTags::NONE, VlanTags::single(tag(7)), VlanTags::double(tag(7), tag(8))] {
        let frame = link(B, A, vlan, &packet);
        for (from, to) in [(0, 1), (1, 0), (2, 3), (3, 2)] {
            world.send(from, &frame);
            assert_eq!(world.one(to), frame);
        }
    }
    let lldp = [&[1, 0x80, 0xc2, 0, 0, 0xe][..], &A.0, &[0x88, 0xcc], &[7; 50]].concat();
    world.send(0, &lldp);
    assert_eq!(world.one(1), lldp);
    world.send(0, &[1; 13]);
    assert_eq!((world.lost(0, Loss::Malformed), world.arrived(1).len()), (1, 0));
}

#[test]
fn stations_are_rewritten_and_exchanged() {
    let mut world = World::new("--to-mac 1=02:00:00:00:00:0c --from-mac 1=02:00:00:00:00:0d", &plain(2));
    let frame = link(B, A, VlanTags::NONE, &udp(HOST_A, HOST_B, 64, 30));
    world.send(0, &frame);
    let got = world.one(1);
    assert_eq!((&got[..12], &got[12..]), (&[2, 0, 0, 0, 0, 0xc, 2, 0, 0, 0, 0, 0xd][..], &frame[12..]));
    world.send(1, &frame);
    assert_eq!(world.one(0), frame);

    let mut world = World::new("--mac-swap", &plain(1));
    let tagged = link(B, A, VlanTags::single(VlanTag::new(7)), &udp(HOST_A, HOST_B, 64, 30));
    world.send(0, &tagged);
    let got = world.one(0);
    assert_eq!((&got[..6], &got[6..12], &got[12..]), (&A.0[..], &B.0[..], &tagged[12..]));
    let group = link(MacAddr::BROADCAST, A, VlanTags::NONE, &udp(HOST_A, HOST_B, 64, 30));
    world.send(0, &group);
    assert_eq!(world.one(0)[6..12], world.mac(0).0);
}

#[test]
fn unfinished_checksums_are_handed_on_or_finished() {
    let frame = link(B, A, VlanTags::NONE, &segment(HOST_A, HOST_B, 100));
    let meta = TxMeta { checksum: PARTIAL, gso: None };
    let mut world = World::new("", &[MemConfig::offloading(), MemConfig::offloading()]);
    world.send_as(0, &frame, meta);
    let (got, meta_there) = world.arrived(1).remove(0);
    assert_eq!((got, meta_there.checksum), (frame.clone(), RxChecksum::Partial { start: 34, offset: 16 }));

    let mut world = World::new("", &[MemConfig::offloading(), MemConfig::default()]);
    world.send_as(0, &frame, meta);
    whole(&world.one(1));
    let mut world = World::new("--mac-swap", &[MemConfig::offloading()]);
    world.send_as(0, &frame, meta);
    assert_eq!(world.arrived(0)[0].1.checksum, RxChecksum::Partial { start: 34, offset: 16 });
}

#[test]
fn trains_are_handed_on_or_cut() {
    const LEN: usize = 10_000;
    let train = link(B, A, VlanTags::NONE, &segment(HOST_A, HOST_B, LEN));
    let gso = Some(Gso { kind: GsoKind::TcpV4, size: 1_400, header_len: 54 });
    let meta = TxMeta { checksum: PARTIAL, gso };
    let mut world = World::new("", &[MemConfig::offloading(), MemConfig::offloading()]);
    world.send_as(0, &train, meta);
    let (got, there) = world.arrived(1).remove(0);
    assert_eq!((got, there.gso_size), (train.clone(), Some(1_400)));

    let mut world = World::new("", &[MemConfig::offloading(), MemConfig::default()]);
    world.send_as(0, &train, meta);
    let mut payload = Vec::new();
    for (frame, there) in world.arrived(1) {
        let (_, _, bytes) = whole(&frame);
        let (tcp, data) = TcpHeader::parse(bytes).unwrap();
        assert_eq!((there.gso_size, tcp.seq), (None, Seq(1_000) + payload.len() as u32));
        payload.extend_from_slice(data);
    }
    assert!(payload.len() == LEN && payload.iter().enumerate().all(|(n, &byte)| byte == (n % 251) as u8));
    // What the link behind does not carry in pieces of this size either.
    let mut world = World::new("", &[MemConfig::offloading(), MemConfig::with_mtu(1_000)]);
    world.send_as(0, &train, meta);
    assert_eq!((world.lost(0, Loss::TooBig), world.arrived(1).len()), (1, 0));
    let mut world = World::new("--mac-swap", &[MemConfig::offloading()]);
    world.send_as(0, &train, meta);
    assert_eq!(world.arrived(0)[0].1.gso_size, Some(1_400));
}

#[test]
fn frames_that_are_too_large_or_find_no_room_are_counted() {
    let mut world = World::new("", &[MemConfig::with_mtu(9_000), MemConfig::default().ring(4)]);
    world.send(0, &link(B, A, VlanTags::NONE, &udp(HOST_A, HOST_B, 64, 3_000)));
    assert_eq!(world.lost(0, Loss::TooBig), 1);
    let frame = link(B, A, VlanTags::NONE, &udp(HOST_A, HOST_B, 64, 30));
    (0..6).for_each(|_| world.send(0, &frame));
    assert_eq!((world.arrived(1).len(), world.lost(0, Loss::TxFull)), (4, 2));
}

const ROUTER: &str = "--mode l3 --addr 0=10.0.0.1/24 --addr 1=10.0.1.1/24";

#[test]
fn a_packet_goes_one_hop_further() {
    let mut world = World::new(ROUTER, &plain(2));
    world.introduce(1, HOST_B, B);
    let (mac0, mac1) = (world.mac(0), world.mac(1));
    world.send(0, &link(mac0, A, VlanTags::NONE, &udp(HOST_A, HOST_B, 64, 30)));
    let got = world.one(1);
    let (link_there, ip, _) = whole(&got);
    assert_eq!((link_there.dst, link_there.src, ip.ttl), (B, mac1, 63));
    assert_eq!((ip.src.octets(), ip.dst.octets()), (HOST_A, HOST_B));
}

#[test]
fn the_next_hop_is_asked_for_while_packets_wait() {
    let route = ["--route", "192.0.2.0/24=1,via 10.0.1.254"];
    let mut world = World::with(&ROUTER.split_whitespace().chain(route).collect::<Vec<_>>(), &plain(2));
    let mac0 = world.mac(0);
    for len in [30, 31] {
        world.send(0, &link(mac0, A, VlanTags::NONE, &udp(HOST_A, [192, 0, 2, 1], 64, len)));
    }
    let request = world.one(1);
    assert_eq!(arp::speaker(&request), Some((Ipv4Addr::new(10, 0, 1, 1), world.mac(1))));
    assert_eq!(request[38..42], [10, 0, 1, 254]);
    // The router answers as any would.
    let mut reply = request;
    reply[..6].copy_from_slice(&world.mac(1).0);
    let body = ntytcp::wire::ArpPacket {
        operation: ntytcp::wire::ArpOperation::Reply,
        sender_mac: B,
        sender_ip: [10, 0, 1, 254].into(),
        target_mac: world.mac(1),
        target_ip: [10, 0, 1, 1].into(),
    };
    body.emit(&mut reply[14..]).unwrap();
    world.send(1, &reply);
    let lens: Vec<_> = world
        .arrived(1)
        .iter()
        .map(|(frame, _)| {
            let (link, ip, datagram) = whole(frame);
            assert_eq!((link.dst, ip.ttl), (B, 63));
            datagram.len()
        })
        .collect();
    assert_eq!(lens, [38, 39]);
}

#[test]
fn a_next_hop_that_does_not_answer_is_told_of() {
    let mut world = World::new(ROUTER, &plain(2));
    let mac0 = world.mac(0);
    let packet = udp(HOST_A, HOST_B, 64, 30);
    world.send(0, &link(mac0, A, VlanTags::NONE, &packet));
    for _ in 0..4_000 {
        world.turn();
    }
    assert_eq!(
        (world.arrived(1).len(), world.lost(1, Loss::NoNeighbor)),
        (3, 1),
        "three requests, one packet in vain"
    );
    world.send(0, &link(mac0, A, VlanTags::NONE, &packet));
    let got = world.one(0);
    let (_, ip, message) = whole(&got);
    let Ok(Icmpv4Message::DestinationUnreachable { code: 1, quote, .. }) = Icmpv4Message::parse(message)
    else {
        panic!("{message:?}")
    };
    assert_eq!((ip.src.octets(), ip.dst.octets(), quote), ([10, 0, 0, 1], HOST_A, &packet[..]));
}

#[test]
fn the_longest_prefix_decides_and_stations_may_be_given() {
    let flags = [
        "--mode",
        "l3",
        "--addr",
        "0=10.0.0.1/24",
        "--route",
        "0.0.0.0/0=1,via 02:00:00:00:00:0c",
        "--route",
        "192.0.2.0/24=2,via 02:00:00:00:00:0d",
        "--route",
        "192.0.2.128/25=0, via 02:00:00:00:00:0e",
    ];
    let mut world = World::with(&flags, &plain(3));
    let mac0 = world.mac(0);
    for (dst, port, last) in [([8, 8, 8, 8], 1, 0xc), ([192, 0, 2, 1], 2, 0xd), ([192, 0, 2, 129], 0, 0xe)] {
        world.send(0, &link(mac0, A, VlanTags::NONE, &udp(HOST_A, dst, 9, 30)));
        let got = world.one(port);
        let (link, ip, _) = whole(&got);
        assert_eq!((link.dst.0[5], link.src, ip.ttl), (last, world.mac(port), 8));
    }
}

/// The ICMP error that a router sends about a packet.
fn error_about(flags: &str, configs: &[MemConfig], packet: &[u8]) -> (World, Option<(u8, u8, u16)>) {
    let mut world = World::new(flags, configs);
    world.introduce(1, HOST_B, B);
    let mac0 = world.mac(0);
    world.send(0, &link(mac0, A, VlanTags::NONE, packet));
    let told = world.arrived(0).first().map(|(frame, _)| {
        let (link, ip, message) = whole(frame);
        assert_eq!((link.dst, link.src, ip.src.octets(), ip.dst.octets()), (A, mac0, [10, 0, 0, 1], HOST_A));
        let quote = &message[8..];
        let len = packet.len().min(548);
        assert_eq!(quote, &packet[..len], "as it came");
        (message[0], message[1], u16::from_be_bytes([message[6], message[7]]))
    });
    (world, told)
}

#[test]
fn packets_that_cannot_go_on_are_told_of() {
    let packet = |ttl, dst, len| udp(HOST_A, dst, ttl, len);
    for ttl in [0, 1] {
        let (world, told) = error_about(ROUTER, &plain(2), &packet(ttl, HOST_B, 30));
        assert_eq!((told, world.lost(0, Loss::TtlExceeded)), (Some((11, 0, 0)), 1));
    }
    let (world, told) = error_about(ROUTER, &plain(2), &packet(64, [8, 8, 8, 8], 30));
    assert_eq!((told, world.lost(0, Loss::NoRoute)), (Some((3, 0, 0)), 1));
    let links = [MemConfig::with_mtu(9_000), MemConfig::with_mtu(1_400)];
    let (world, told) = error_about(ROUTER, &links, &packet(64, HOST_B, 1_400));
    assert_eq!((told, world.lost(0, Loss::TooBig)), (Some((3, 4, 1_400)), 1));
}

#[test]
fn nothing_is_told_of_errors_fragments_and_groups() {
    let error = [&[3, 1, 0xfc, 0xfe][..], &[0; 32]].concat();
    let of_error = ip(HOST_A, HOST_B, 1, IpProtocol::ICMP, &error);
    let mut fragment = udp(HOST_A, HOST_B, 1, 30);
    fragment[7] = 1;
    let sum = {
        fragment[10..12].fill(0);
        Sum::of(&fragment[..20]).finish()
    };
    fragment[10..12].copy_from_slice(&sum.to_be_bytes());
    for packet in [of_error, fragment] {
        let (world, told) = error_about(ROUTER, &plain(2), &packet);
        assert_eq!((told, world.lost(0, Loss::TtlExceeded)), (None, 1));
    }
    for dst in [[224, 0, 0, 5], [255; 4], [10, 0, 1, 255]] {
        let (world, told) = error_about(ROUTER, &plain(2), &udp(HOST_A, dst, 9, 30));
        assert_eq!((told, world.lost(0, Loss::Group)), (None, 1), "{dst:?}");
    }
}

#[test]
fn errors_are_limited_in_rate() {
    let mut world = World::new(ROUTER, &plain(2));
    let mac0 = world.mac(0);
    let frame = link(mac0, A, VlanTags::NONE, &udp(HOST_A, HOST_B, 1, 30));
    for _ in 0..50 {
        world.send(0, &frame);
    }
    let told = world.arrived(0).len();
    assert!((1..30).contains(&told), "{told}");
    assert_eq!(world.lost(0, Loss::TtlExceeded), 50);
}

#[test]
fn the_router_answers_pings_at_all_its_addresses_and_nothing_else() {
    let mut world = World::new(ROUTER, &plain(2));
    let mac0 = world.mac(0);
    let mut ping = [&[8, 0, 0, 0, 1, 2, 3, 4][..], &[9; 40]].concat();
    let sum = Sum::of(&ping).finish();
    ping[2..4].copy_from_slice(&sum.to_be_bytes());
    for own in [[10, 0, 0, 1], [10, 0, 1, 1]] {
        world.send(0, &link(mac0, A, VlanTags::NONE, &ip(HOST_A, own, 3, IpProtocol::ICMP, &ping)));
        let got = world.one(0);
        let (link, ip, message) = whole(&got);
        assert_eq!((link.dst, ip.src.octets(), ip.dst.octets(), ip.ttl), (A, own, HOST_A, 64));
        assert!(
            matches!(Icmpv4Message::parse(message), Ok(Icmpv4Message::EchoReply { payload, .. }) if payload == [9; 40])
        );
    }
    world.send(0, &link(mac0, A, VlanTags::NONE, &udp(HOST_A, [10, 0, 0, 1], 3, 30)));
    assert_eq!((world.arrived(0).len(), world.lost(0, Loss::Local)), (0, 1));
    world.send(0, &link(B, A, VlanTags::NONE, &udp(HOST_A, HOST_B, 3, 30)));
    assert_eq!(world.lost(0, Loss::NotForUs), 1);
    let v6 = [&mac0.0[..], &A.0, &[0x86, 0xdd], &[0x60; 60]].concat();
    world.send(0, &v6);
    assert_eq!(world.lost(0, Loss::Unrouted), 1);
}

#[test]
fn a_port_on_a_vlan_takes_and_sends_its_frames_only() {
    let mut world = World::new(&format!("{ROUTER} --vlan 1=7"), &plain(2));
    let (mac0, mac1, tag) = (world.mac(0), world.mac(1), VlanTags::single(VlanTag::new(7)));
    let request = arp::request((B, HOST_B.into()), [10, 0, 1, 1].into());
    let tagged = [&request[..12], &[0x81, 0, 0, 7], &request[12..]].concat();
    world.send(1, &tagged);
    let got = world.one(1);
    assert_eq!(
        (&got[12..16], arp::speaker(&got)),
        (&[0x81, 0, 0, 7][..], Some(([10, 0, 1, 1].into(), mac1)))
    );
    world.send(0, &link(mac0, A, VlanTags::NONE, &udp(HOST_A, HOST_B, 64, 30)));
    let got = world.one(1);
    assert_eq!(whole(&got).0.vlan, tag);
    world.introduce(0, HOST_A, A);
    world.send(1, &link(mac1, B, tag, &udp(HOST_B, HOST_A, 64, 30)));
    let got = world.one(0);
    assert_eq!((whole(&got).0.vlan, whole(&got).1.ttl), (VlanTags::NONE, 63));
    for wrong in [
        VlanTags::NONE,
        VlanTags::single(VlanTag::new(8)),
        VlanTags::double(VlanTag::new(7), VlanTag::new(8)),
    ] {
        world.send(1, &link(mac1, B, wrong, &udp(HOST_B, HOST_A, 64, 30)));
    }
    assert_eq!((world.lost(1, Loss::NotForUs), world.arrived(0).len()), (3, 0));
}

#[test]
fn rules_are_obeyed_and_counted_in_both_modes() {
    let rules =
        ["--acl", "permit udp from 10.0.0.9 to any port 53", "--acl", "deny ip from 10.0.0.0/8 to any"];
    for mode in ["--mode l2", ROUTER] {
        let flags: Vec<_> = mode.split_whitespace().chain(rules).collect();
        let mut world = World::with(&flags, &plain(2));
        if mode == ROUTER {
            world.introduce(1, HOST_B, B);
        }
        let mac0 = world.mac(0);
        for src in [HOST_A, [10, 0, 0, 8], [10, 0, 0, 7]] {
            world.send(0, &link(mac0, A, VlanTags::NONE, &udp(src, HOST_B, 64, 30)));
        }
        assert_eq!((world.arrived(1).len(), world.lost(0, Loss::Denied)), (1, 2), "{mode}");
        assert_eq!(world.forwarder.acl.counts().map(|(_, n)| n).collect::<Vec<_>>(), [1, 2]);
        // Of what is damaged nobody knows whether it may pass.
        world.send(0, &link(mac0, A, VlanTags::NONE, &[0x45; 30]));
        assert_eq!(world.lost(0, Loss::Malformed), 1);
    }
}

proptest! {
    #[test]
    fn a_routed_packet_differs_by_one_hop_only(
        len in 0..1_400_usize, ttl in 2..=255_u8, ident: u16, dscp: u8, back: bool
    ) {
        let mut world = World::new(ROUTER, &plain(2));
        let (from, to, src, dst) = if back { (1, 0, HOST_B, HOST_A) } else { (0, 1, HOST_A, HOST_B) };
        world.introduce(to, dst, B);
        let mut packet = udp(src, dst, ttl, len);
        packet[1] = dscp;
        packet[4..6].copy_from_slice(&ident.to_be_bytes());
        packet[10..12].fill(0);
        let sum = Sum::of(&packet[..20]).finish();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let mac = world.mac(from);
        world.send(from, &link(mac, A, VlanTags::NONE, &packet));
        let got = world.one(to);
        prop_assert_eq!(whole(&got).1.ttl, ttl - 1);
        prop_assert_eq!(&got[14..22], &packet[..8]);
        prop_assert_eq!(got[23], packet[9]);
        prop_assert_eq!(&got[26..], &packet[12..]);
    }

    #[test]
    fn every_frame_is_sent_answered_or_counted(
        frames in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..90), 0..5_usize, any::<bool>()), 1..20),
        mode in 0..3_usize
    ) {
        let flags = ["--mode l2", "--mac-swap", ROUTER][mode];
        let mut world = World::new(&format!("{flags} --seconds 1"), &plain(2));
        let mac0 = world.mac(0);
        let n = frames.len() as u64;
        for (noise, kind, to_us) in frames {
            // Noise, or noise where a header of each kind ends.
            let to = if to_us { mac0 } else { B };
            let start = match kind {
                0 => Vec::new(),
                1 => [&to.0[..], &A.0].concat(),
                2 => [&to.0[..], &A.0, &[8, 0, 0x45, 0]].concat(),
                3 => [&to.0[..], &A.0, &[0x81, 0, 0, 7, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat(),
                _ => link(to, A, VlanTags::NONE, &udp(HOST_A, HOST_B, 64, 8)),
            };
            world.send(0, &[start, noise].concat());
        }
        let counts = world.forwarder.ports.iter().map(|port| port.state.counts);
        let (mut rx, mut out) = (0, 0);
        for count in counts {
            rx += count.rx_frames;
            let rows: u64 = count.rows().skip(9).map(|(_, lost)| lost).sum();
            // An ICMP error is sent about a packet that is lost, too.
            out += count.tx_frames + rows - count.icmp_errors;
        }
        prop_assert_eq!(rx, n);
        // What is ARP that asks for nothing of ours is used up, and so are packets that wait.
        prop_assert!(out <= n && (mode == 2 || out == n), "{} of {}", out, n);
    }
}

#[test]
fn contradictions_are_told() {
    let refusal = |flags: &str| {
        let flags: Vec<_> = flags.split_whitespace().map(|word| word.replace('_', " ")).collect();
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        parse(&flags).and_then(|options| {
            let ports = options.ports()?;
            options.mode(&ports, &mut Rng::new(seed_from(1)))?;
            options.acl().map(drop)
        })
    };
    for (flags, word) in [
        ("", "--device"),
        ("--device mem:", "give another --device, or --mac-swap"),
        ("--device mem: --device mem: --addr 0=10.0.0.1/24", "give --mode l3 too"),
        ("--device mem: --mode l3", "a router without a way"),
        ("--device mem: --mode l3 --addr 0=10.0.0.1/24 --mac-swap", "for --mode l2"),
        ("--device mem: --mode l3 --addr 1=10.0.0.1/24", "\"1\" is no port: give 0 to 0"),
        ("--device mem: --mode l3 --addr eth0=10.0.0.1/24", "\"eth0\" is no port"),
        ("--device mem: --mode l3 --addr 0=10.0.0.0/24", "cannot be the address of an interface"),
        ("--device mem: --mode l3 --addr 0=fd00::1/64", "only IPv4 is routed"),
        ("--device mem: --mode l3 --addr 10.0.0.1/24", "no \"=\""),
        ("--device mem: --mode l3 --addr 0=10.0.0.1/24 --vlan 0=4095", "give 1 to 4094"),
        ("--device mem: --mode l3 --route 10.0.0.1/8=0", "did you mean 10.0.0.0/8?"),
        ("--device mem: --mode l3 --route 10.0.0.0/8=0,10.0.0.1", "is no next hop: give via"),
        ("--device mem: --mode l3 --route 10.0.0.0/8=0,via_10.9.9.9", "gateway 10.9.9.9 is on no network"),
        ("--device mem: --mode l3 --route 10.0.0.0/8=0,via_01:00:00:00:00:00", "is no station"),
        ("--device mem: --mode l3 --route 10.0.0.0/8=0 --route 10.0.0.0/8=0", "10.0.0.0/8 is given twice"),
        ("--device packet:e --device xdp:e", "--device xdp:e is a port already: give each interface once"),
        (
            "--device mem: --mac-swap --mac 0=02:00:00:00:00:01 --mac 0=02:00:00:00:00:02",
            "--mac is given twice for port 0",
        ),
        (
            "--device packet:e --mode l3 --addr 0=10.0.0.1/24 --vlan 0=1 --vlan e=2",
            "--vlan is given twice for port e",
        ),
        (
            "--device mem: --device mem: --mode l3 --addr 0=10.0.0.1/24 --addr 1=10.0.0.2/24",
            "10.0.0.0/24 is at ports 0 and 1",
        ),
        ("--device mem: --mac-swap --acl deny", "ends behind \"deny\""),
        ("--device mem: --mac-swap --acl-file /nonexistent", "/nonexistent: "),
    ] {
        let error = refusal(flags).expect_err(flags);
        assert!(error.contains(word), "{flags}: {error}");
    }
    assert!(refusal("--device packet:eth0 --mode l3 --addr eth0=10.0.0.1/24").is_ok());
}

#[test]
fn a_train_that_nobody_can_cut_is_counted() {
    let mut packet = segment(HOST_A, HOST_B, 5_000);
    packet[9] = 50;
    packet[10..12].fill(0);
    let sum = Sum::of(&packet[..20]).finish();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    assert!(Train::parse(&packet, 1_000).is_none());
    let gso = Some(Gso { kind: GsoKind::TcpV4, size: 1_000, header_len: 54 });
    let mut world = World::new("", &[MemConfig::offloading(), MemConfig::default()]);
    world.send_as(0, &link(B, A, VlanTags::NONE, &packet), TxMeta { checksum: PARTIAL, gso });
    assert_eq!((world.lost(0, Loss::Uncuttable), world.arrived(1).len()), (1, 0));
}
