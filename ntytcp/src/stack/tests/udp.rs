use super::kit::*;
use crate::counters::DropReason;
use crate::device::{Caps, RxChecksum, RxMeta, TxChecksum};
use crate::stack::route::InterfaceAddr;
use crate::stack::route::Route;
use crate::stack::{Event, Pending, Readiness, Responder, SocketError};
use crate::wire::{EthernetHeader, Icmpv4Message, IpProtocol, Ipv4Header, MacAddr, Sum};
use core::net::{Ipv4Addr, SocketAddr};

#[test]
fn a_datagram_is_received_and_answered_through_a_socket() {
    let mut host = Host::acquainted();
    let socket = host.stack.udp_bind(at(Ipv4Addr::UNSPECIFIED, 7)).unwrap();
    assert_eq!(host.receive(&udp_to(US, 1_000, 7, b"hello")), Ok(None));
    assert_eq!(host.stack.poll_event(), Some(Event { socket, readiness: Readiness::READABLE }));
    assert_eq!(host.stack.poll_event(), None);
    let mut buf = [0; 100];
    let got = host.stack.udp_recv_from(socket, &mut buf).unwrap();
    assert_eq!((&buf[..got.len], got.from, got.to), (&b"hello"[..], at(PEER, 1_000), US.into()));
    host.stack.udp_send_to(socket, b"world", Some(got.from)).unwrap();
    let sent = host.egress();
    assert_eq!(parse_udp(&sent[0]), (7, 1_000, &b"world"[..]));
    let (ip, _) = parse_ip(&sent[0]);
    assert_eq!((ip.src, ip.dst, ip.ttl, ip.dont_fragment), (US, PEER, 64, true));
    assert_eq!(host.stack.udp_stats(socket).unwrap().received, 1);
}

#[test]
fn a_short_buffer_cuts_the_datagram_and_says_so() {
    let mut host = Host::new();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    host.receive(&udp_to(US, 1, 7, b"hello")).unwrap();
    host.receive(&udp_to(US, 1, 7, b"")).unwrap();
    let mut buf = [0; 2];
    let got = host.stack.udp_recv_from(socket, &mut buf).unwrap();
    assert_eq!((&buf, got.len, got.full_len), (b"he", 2, 5));
    let got = host.stack.udp_recv_from(socket, &mut buf).unwrap();
    assert_eq!((got.len, got.full_len), (0, 0), "an empty datagram is a datagram");
    assert_eq!(host.stack.udp_recv_from(socket, &mut buf), Err(SocketError::WouldBlock));
}

#[test]
fn the_closest_match_gets_the_datagram() {
    let mut host = Host::acquainted();
    let any = host.stack.udp_bind(at(Ipv4Addr::UNSPECIFIED, 7)).unwrap();
    let exact = host.stack.udp_bind(at(US, 8)).unwrap();
    let connected = host.stack.udp_bind(at(US, 9)).unwrap();
    host.stack.udp_connect(connected, Some(at(PEER, 1_000))).unwrap();
    assert_eq!(host.stack.udp_bind(at(US, 7)), Err(SocketError::AddressInUse));
    assert_eq!(host.stack.udp_bind(at(Ipv4Addr::UNSPECIFIED, 8)), Err(SocketError::AddressInUse));
    for port in [7, 8, 9] {
        host.receive(&udp_to(US, 1_000, port, &port.to_be_bytes())).unwrap();
    }
    for (socket, port) in [(any, 7u16), (exact, 8), (connected, 9)] {
        let mut buf = [0; 2];
        host.stack.udp_recv_from(socket, &mut buf).unwrap();
        assert_eq!(buf, port.to_be_bytes());
    }
    assert_eq!(host.receive(&udp_to(US, 1_001, 9, b"x")), Err(DropReason::NoSocket), "not its peer");
    host.stack.udp_connect(connected, None).unwrap();
    assert_eq!(host.receive(&udp_to(US, 1_001, 9, b"x")), Ok(None));
}

#[test]
fn sockets_of_one_port_and_several_addresses_each_hear_their_own() {
    const OTHERS: [Ipv4Addr; 3] =
        [Ipv4Addr::new(10, 0, 3, 1), Ipv4Addr::new(10, 0, 4, 1), Ipv4Addr::new(10, 0, 5, 1)];
    let mut host = Host::with(Caps::plain(1500), |config| {
        config.addrs.extend(OTHERS.map(|ip| InterfaceAddr::new(ip.into(), 24).unwrap()));
    });
    let mut sockets = OTHERS.map(|ip| host.stack.udp_bind(at(ip, 7)).unwrap());
    assert_eq!(host.stack.udp_bind(at(Ipv4Addr::UNSPECIFIED, 7)), Err(SocketError::AddressInUse));
    let mut buf = [0; 4];
    // Whichever of them is closed and opened again, and whatever its place among the others.
    for round in 0..6 {
        for (ip, socket) in OTHERS.into_iter().zip(sockets) {
            host.receive(&udp_to(ip, 1, 7, &ip.octets())).unwrap();
            let got = host.stack.udp_recv_from(socket, &mut buf).unwrap();
            assert_eq!((buf, got.to), (ip.octets(), ip.into()));
        }
        assert_eq!(host.receive(&udp_to(US, 1, 7, b"nobody")), Err(DropReason::NoSocket));
        host.stack.udp_close(sockets[round % 3]).unwrap();
        assert_eq!(host.receive(&udp_to(OTHERS[round % 3], 1, 7, b"closed")), Err(DropReason::NoSocket));
        sockets[round % 3] = host.stack.udp_bind(at(OTHERS[round % 3], 7)).unwrap();
    }
    host.stack.udp_connect(sockets[1], Some(at(PEER, 9))).unwrap();
    assert_eq!(host.receive(&udp_to(OTHERS[1], 8, 7, b"no")), Err(DropReason::NoSocket));
    assert_eq!(host.receive(&udp_to(OTHERS[1], 9, 7, b"yes")), Ok(None));
}

#[test]
fn datagrams_to_several_peers_leave_in_order_with_their_headers() {
    let mut host = Host::acquainted();
    let other = Ipv4Addr::new(10, 0, 0, 9);
    host.stack.add_neighbor(host.id, other.into(), MacAddr([2, 0, 0, 0, 0, 9])).unwrap();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    let to = |i: u16| at(if i % 5 < 3 { PEER } else { other }, 1_000 + i);
    for i in 0..200u16 {
        let payload = vec![i as u8; usize::from(i) % 70];
        host.stack.udp_send_to(socket, &payload, Some(to(i))).unwrap();
    }
    // The ring is full in between.
    let mut sent = Vec::new();
    while sent.len() < 200 {
        let _ = host.egress_some(7);
        sent.extend(host.ring.sent.drain(..).map(|(frame, _)| frame));
    }
    assert!(host.egress().is_empty());
    for (i, frame) in (0..200u16).zip(&sent) {
        let (ip, _) = parse_ip(frame);
        assert_eq!((ip.src, SocketAddr::new(ip.dst.into(), 1_000 + i), ip.ttl), (US, to(i), 64));
        assert_eq!(parse_udp(frame), (7, 1_000 + i, &*vec![i as u8; usize::from(i) % 70]));
    }
    assert_eq!(host.stack.udp_stats(socket).unwrap().sent, 200);
    assert_eq!((host.stack.counters().udp_tx, host.stack.counters().tx_frames), (200, 200));
    assert_eq!(host.stack.counters().tx_bytes, sent.iter().map(|frame| frame.len() as u64).sum::<u64>());
}

#[test]
fn closed_sockets_are_gone_and_their_port_is_free() {
    let mut host = Host::new();
    let socket = host.stack.udp_bind(at(US, 0)).unwrap();
    let local = host.stack.udp_local_addr(socket).unwrap();
    host.receive(&udp_to(US, 1, local.port(), b"x")).unwrap();
    host.stack.udp_close(socket).unwrap();
    assert_eq!(host.stack.udp_close(socket), Err(SocketError::BadSocket));
    assert_eq!(host.stack.poll_event(), None, "nobody left to tell");
    let next = host.stack.udp_bind(local).unwrap();
    assert_eq!(host.stack.udp_recv_from(socket, &mut []), Err(SocketError::BadSocket));
    assert_eq!(host.stack.udp_recv_from(next, &mut []), Err(SocketError::WouldBlock));
}

#[test]
fn a_full_receive_queue_drops_and_counts() {
    let mut host = Host::new();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    let payload = pattern(1_400);
    let mut taken = 0;
    while host.receive(&udp_to(US, 1, 7, &payload)).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, (256 << 10) / 1_416);
    assert_eq!(host.dropped(DropReason::SocketFull), 1);
    assert_eq!(host.stack.udp_stats(socket).unwrap().dropped, 1);
}

#[test]
fn a_port_unreachable_is_a_refused_connection() {
    let mut host = Host::acquainted();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    host.stack.udp_connect(socket, Some(at(PEER, 9))).unwrap();
    host.stack.udp_send_to(socket, b"anybody?", None).unwrap();
    let sent = host.egress();
    let quote = &sent[0][14..14 + 28];
    let code = Icmpv4Message::UNREACHABLE_PORT;
    let error = icmp(&Icmpv4Message::DestinationUnreachable { code, next_hop_mtu: 0, quote });
    assert_eq!(host.receive(&error), Ok(None));
    let event = host.stack.poll_event().unwrap();
    assert!(event.socket == socket && event.readiness.contains(Readiness::ERROR));
    assert_eq!(host.stack.udp_take_error(socket), Ok(Some(SocketError::ConnectionRefused)));
    assert_eq!(host.stack.udp_take_error(socket), Ok(None));
    // A quote of what we never sent.
    let mut forged = quote.to_vec();
    forged[12..16].copy_from_slice(&[10, 0, 0, 9]);
    let error = icmp(&Icmpv4Message::DestinationUnreachable { code, next_hop_mtu: 0, quote: &forged });
    assert_eq!(host.receive(&error), Err(DropReason::IcmpIgnored));
}

#[test]
fn a_wrong_checksum_is_noticed_unless_the_device_vouches() {
    let mut host = Host::new();
    host.stack.udp_bind(at(US, 7)).unwrap();
    let mut frame = udp_to(US, 1, 7, b"hello");
    frame[14 + 20 + 6] ^= 0xff;
    assert_eq!(host.receive(&frame), Err(DropReason::L4Checksum));
    for checksum in [RxChecksum::Verified, RxChecksum::Partial { start: 34, offset: 6 }] {
        let meta = RxMeta { checksum, ..RxMeta::default() };
        assert_eq!(host.receive_with(&frame, meta), Ok(None));
    }
    frame[14 + 20 + 6..14 + 20 + 8].fill(0);
    assert_eq!(host.receive(&frame), Ok(None), "no checksum was sent");
}

#[test]
fn a_merged_train_is_taken_apart() {
    let mut host = Host::new();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    let meta = RxMeta { gso_size: Some(3), checksum: RxChecksum::Verified, ..RxMeta::default() };
    host.receive_with(&udp_to(US, 1, 7, b"abcdefgh"), meta).unwrap();
    let mut buf = [0; 10];
    for expected in ["abc", "def", "gh"] {
        let got = host.stack.udp_recv_from(socket, &mut buf).unwrap();
        assert_eq!(&buf[..got.len], expected.as_bytes());
    }
}

#[test]
fn a_full_ring_loses_nothing_and_keeps_the_order() {
    let mut host = Host::acquainted();
    let sockets: Vec<_> = (0..3).map(|i| host.stack.udp_bind(at(US, 7 + i)).unwrap()).collect();
    for n in 0..100u8 {
        for &socket in &sockets {
            host.stack.udp_send_to(socket, &[n; 10], Some(at(PEER, 9))).unwrap();
        }
    }
    let mut calls = 0;
    while host.egress_some(host.ring.sent.len() + 7) == Pending::RingFull {
        calls += 1;
    }
    assert_eq!(calls, 300 / 7);
    assert!(!host.stack.has_pending(host.id));
    for port in 7..10 {
        let of_port = host.ring.sent.iter().map(|(f, _)| parse_udp(f)).filter(|&(src, ..)| src == port);
        let numbers: Vec<u8> = of_port.map(|(.., payload)| payload[0]).collect();
        assert_eq!(numbers, (0..100).collect::<Vec<u8>>());
    }
    assert_eq!(host.stack.counters().udp_tx, 300);
}

#[test]
fn a_full_send_queue_blocks_until_something_was_sent() {
    let mut host = Host::acquainted();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    let payload = pattern(1_400);
    while host.stack.udp_send_to(socket, &payload, Some(at(PEER, 9))).is_ok() {}
    assert_eq!(host.stack.poll_event(), None);
    host.egress();
    assert_eq!(host.stack.poll_event(), Some(Event { socket, readiness: Readiness::WRITABLE }));
    assert_eq!(host.stack.udp_send_to(socket, &payload, Some(at(PEER, 9))), Ok(()));
}

#[test]
fn a_large_datagram_goes_out_in_fragments_between_its_neighbors() {
    let mut host = Host::acquainted();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    let large = pattern(4_000);
    for payload in [&b"before"[..], &large, b"after"] {
        host.stack.udp_send_to(socket, payload, Some(at(PEER, 9))).unwrap();
    }
    while host.egress_some(host.ring.sent.len() + 1) == Pending::RingFull {}
    let frames: Vec<_> = host.ring.sent.drain(..).map(|(frame, _)| frame).collect();
    assert_eq!(frames.len(), 5);
    assert_eq!(parse_udp(&frames[0]).2, b"before");
    assert_eq!(parse_udp(&frames[4]).2, b"after");
    let pieces: Vec<_> = frames[1..4].iter().map(|frame| parse_ip(frame)).collect();
    assert!(pieces.iter().all(|(ip, _)| ip.ident == pieces[0].0.ident && !ip.dont_fragment));
    let datagram: Vec<u8> = pieces.iter().flat_map(|(_, piece)| piece.to_vec()).collect();
    assert_eq!(datagram, udp_bytes(US, PEER, 7, 9, &large));
    let too_long = vec![0; 65_508];
    assert_eq!(
        host.stack.udp_send_to(socket, &too_long, Some(at(PEER, 9))),
        Err(SocketError::MessageTooLong)
    );
}

#[test]
fn a_device_with_a_checksum_unit_gets_the_pseudo_header_sum() {
    let caps = Caps { tx_checksum: true, ..Caps::plain(1500) };
    let mut host = Host::with(caps, |_| {});
    host.stack.add_neighbor(host.id, PEER.into(), PEER_MAC).unwrap();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    // Short ones are summed without it.
    for (len, unit) in [(3, false), (128, false), (129, true), (1_001, true)] {
        let payload = vec![7; len];
        host.stack.udp_send_to(socket, &payload, Some(at(PEER, 9))).unwrap();
        assert_eq!(host.egress_some(9), Pending::Clear);
        let (frame, meta) = host.ring.sent.pop().unwrap();
        let partial = TxChecksum::Partial { start: 34, offset: 6 };
        assert_eq!(meta.checksum, if unit { partial } else { TxChecksum::Complete });
        let pseudo = Sum::pseudo_header(US.into(), PEER.into(), IpProtocol::UDP, 8 + len as u32);
        let whole = udp_bytes(US, PEER, 7, 9, &payload);
        let expected = if unit { pseudo.fold() } else { u16::from_be_bytes([whole[6], whole[7]]) };
        assert_eq!(frame[40..42], expected.to_be_bytes(), "{len}");
    }
}

#[test]
fn broadcasts_and_multicasts_need_no_resolution() {
    let mut host = Host::new();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    for dst in [Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 0, 0, 255), Ipv4Addr::new(224, 1, 2, 3)] {
        host.stack.udp_send_to(socket, b"all", Some(at(dst, 9))).unwrap();
    }
    let link = |frame: &Vec<u8>| EthernetHeader::parse(frame).unwrap().0.dst;
    let group = MacAddr([1, 0, 0x5e, 1, 2, 3]);
    let dsts: Vec<_> = host.egress().iter().map(link).collect();
    assert_eq!(dsts, [MacAddr::BROADCAST, MacAddr::BROADCAST, group]);
}

#[test]
fn a_split_socket_works_from_its_half() {
    let mut host = Host::acquainted();
    let socket = host.stack.udp_bind(at(Ipv4Addr::UNSPECIFIED, 7)).unwrap();
    let mut half = host.stack.udp_split(socket).unwrap();
    assert_eq!(host.stack.udp_recv_from(socket, &mut []), Err(SocketError::Invalid));
    host.receive(&udp_to(US, 1_000, 7, b"ping")).unwrap();
    let sender = std::thread::spawn(move || {
        let mut buf = [0; 9];
        let got = half.recv_from(&mut buf).unwrap();
        half.send_to(&buf[..got.len], got.from).unwrap();
        half
    });
    let mut half = sender.join().unwrap();
    host.stack.udp_poke(socket).unwrap();
    assert_eq!(parse_udp(&host.egress()[0]), (7, 1_000, &b"ping"[..]));
    host.stack.udp_close(socket).unwrap();
    assert_eq!(half.send_to(b"x", at(PEER, 9)), Err(SocketError::BadSocket));
}

/// Answers with the request's bytes in reverse, as often as its first byte says.
struct Reverser;

impl Responder for Reverser {
    fn respond(&mut self, from: SocketAddr, buf: &mut [u8], len: usize) -> Option<usize> {
        assert_eq!(from.ip(), PEER);
        let request = buf.get(..len)?.to_vec();
        let times = usize::from(*request.first()?);
        let answer: Vec<u8> = request.iter().rev().copied().cycle().take(len * times).collect();
        if let Some(room) = buf.get_mut(..answer.len()) {
            room.copy_from_slice(&answer);
        }
        Some(answer.len())
    }
}

fn responding() -> Host {
    let mut host = Host::acquainted();
    let socket = host.stack.udp_bind(at(Ipv4Addr::UNSPECIFIED, 53)).unwrap();
    host.stack.udp_set_responder(socket, Some(Box::new(Reverser))).unwrap();
    host
}

#[test]
fn a_responder_answers_in_the_frame_of_the_request() {
    let mut host = responding();
    let reply = host.receive(&udp_to(US, 1_000, 53, &[1, 2, 3])).unwrap().unwrap();
    assert_eq!(parse_udp(&reply), (53, 1_000, &[3, 2, 1][..]));
    let (ip, _) = parse_ip(&reply);
    assert_eq!((ip.src, ip.dst), (US, PEER));
    assert_eq!(reply[..6], PEER_MAC.0);
    // Longer than the request, up to the MTU.
    let reply = host.receive(&udp_to(US, 1_000, 53, &[184; 8])).unwrap().unwrap();
    assert_eq!(reply.len(), 14 + 1_500);
    assert_eq!(parse_udp(&reply).2, [184; 1_472]);
    // No answer.
    assert_eq!(host.receive(&udp_to(US, 1_000, 53, &[])), Ok(None));
    assert!(host.egress().is_empty());
    assert_eq!(host.stack.counters().udp_tx, 2);
}

#[test]
fn a_responder_hears_requests_with_ip_options() {
    let mut host = responding();
    let datagram = udp_bytes(PEER, US, 1_000, 53, &[1, 2, 3]);
    let ip = Ipv4Header { options: &[148, 4, 0, 0], ..header(US, IpProtocol::UDP, 0) };
    let reply = host.receive(&packet(ip, &datagram)).unwrap().unwrap();
    assert_eq!(parse_udp(&reply), (53, 1_000, &[3, 2, 1][..]));
}

#[test]
fn an_answer_beyond_the_mtu_goes_out_in_fragments() {
    let mut host = responding();
    let request = [200; 100];
    assert_eq!(host.receive(&udp_to(US, 1_000, 53, &request)), Ok(None));
    let sent = host.egress();
    assert_eq!(sent.len(), 14);
    let datagram: Vec<u8> = sent.iter().flat_map(|frame| parse_ip(frame).1.to_vec()).collect();
    assert_eq!(datagram, udp_bytes(US, PEER, 53, 1_000, &[200; 20_000]));
}

#[test]
fn a_broadcast_request_is_answered_from_our_own_address() {
    let mut host = responding();
    let reply = host.receive(&udp_to(Ipv4Addr::new(10, 0, 0, 255), 1_000, 53, &[1, 2])).unwrap().unwrap();
    let (ip, _) = parse_ip(&reply);
    assert_eq!(ip.src, US);
    assert_eq!(parse_udp(&reply).2, [2, 1]);
}

#[test]
fn connected_or_not_datagrams_come_from_the_address_that_the_route_names() {
    let mut host = Host::with(Caps::plain(1500), |config| config.addrs.push("10.0.0.9/32".parse().unwrap()));
    host.stack.add_neighbor(host.id, PEER.into(), PEER_MAC).unwrap();
    let far = Ipv4Addr::new(192, 0, 2, 1);
    let route = Route {
        prefix: "192.0.2.0/24".parse().unwrap(),
        interface: 0,
        gateway: Some(PEER.into()),
        source: Some(Ipv4Addr::new(10, 0, 0, 9).into()),
        metric: 0,
    };
    host.stack.add_route(route).unwrap();
    for (port, connect) in [(7, false), (8, true)] {
        let socket = host.stack.udp_bind(at(Ipv4Addr::UNSPECIFIED, port)).unwrap();
        if connect {
            host.stack.udp_connect(socket, Some(at(far, 9))).unwrap();
        }
        host.stack.udp_send_to(socket, b"x", (!connect).then_some(at(far, 9))).unwrap();
        assert_eq!(parse_ip(&host.egress()[0]).0.src, Ipv4Addr::new(10, 0, 0, 9), "connected: {connect}");
    }
}

#[test]
fn datagrams_that_some_link_might_not_carry_may_be_fragmented() {
    let mut host = Host::acquainted();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    let mut idents = Vec::new();
    for len in [524, 525, 1_472] {
        host.stack.udp_send_to(socket, &pattern(len), Some(at(PEER, 9))).unwrap();
        let sent = host.egress();
        let (ip, _) = parse_ip(&sent[0]);
        assert_eq!(ip.dont_fragment, len == 524, "{len}");
        idents.push(ip.ident);
    }
    assert_ne!(idents[1], idents[2]);
    host.stack.udp_set_responder(socket, Some(Box::new(Parrot))).unwrap();
    for len in [524, 525, 1_472] {
        let answer = host.receive(&udp_to(US, 9, 7, &pattern(len))).unwrap().unwrap();
        assert_eq!(parse_ip(&answer).0.dont_fragment, len == 524, "{len}");
    }
}

#[test]
fn answers_of_a_responder_have_the_ttl_of_its_socket() {
    let mut host = Host::acquainted();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    host.stack.udp_set_ttl(socket, 5).unwrap();
    host.stack.udp_set_responder(socket, Some(Box::new(Parrot))).unwrap();
    let answer = host.receive(&udp_to(US, 9, 7, b"in place")).unwrap().unwrap();
    assert_eq!(parse_ip(&answer).0.ttl, 5);
    let train = RxMeta { gso_size: Some(4), ..RxMeta::default() };
    assert_eq!(host.receive_with(&udp_to(US, 9, 7, b"twotimes"), train), Ok(None));
    assert_eq!(host.egress().iter().map(|frame| parse_ip(frame).0.ttl).collect::<Vec<_>>(), [5, 5]);
}

/// Says what it hears.
struct Parrot;

impl Responder for Parrot {
    fn respond(&mut self, _from: SocketAddr, _buf: &mut [u8], len: usize) -> Option<usize> {
        Some(len)
    }
}

#[test]
fn datagrams_are_composed_and_read_in_the_queues() {
    let mut host = Host::acquainted();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    host.receive(&udp_to(US, 1_000, 7, b"hello")).unwrap();
    host.receive(&udp_to(US, 1_001, 7, b"")).unwrap();
    let read = |host: &mut Host| {
        host.stack.udp_recv_with(socket, |bytes, got| {
            assert_eq!((got.len, got.full_len, got.to), (bytes.len(), bytes.len(), US.into()));
            (bytes.to_vec(), got.from)
        })
    };
    assert_eq!(read(&mut host), Ok((b"hello".to_vec(), at(PEER, 1_000))));
    assert_eq!(read(&mut host), Ok((vec![], at(PEER, 1_001))), "an empty datagram is a datagram");
    assert_eq!(read(&mut host), Err(SocketError::WouldBlock));
    // Less than there was room for, nothing, no room; and one that claims to have written more than it could.
    for (port, max, len) in [(1, 10, 5), (2, 10, 0), (3, 0, 0), (4, 5, 100)] {
        let write = |to: &mut [u8]| {
            assert_eq!(to.len(), max);
            to.fill(port as u8);
            len
        };
        assert_eq!(host.stack.udp_send_with(socket, Some(at(PEER, port)), max, write), Ok(len.min(max)));
    }
    let sent = host.egress();
    for (frame, (port, len)) in sent.iter().zip([(1, 5), (2, 0), (3, 0), (4, 5)]) {
        assert_eq!(parse_udp(frame), (7, port, &*vec![port as u8; len]));
    }
    assert_eq!((sent.len(), host.stack.udp_stats(socket).unwrap().sent), (4, 4));
}

/// Datagrams of every kind of length, several at once, so that page ends fall anywhere in them.
#[test]
fn datagrams_in_place_are_whole_where_pages_end() {
    let mut host = Host::acquainted();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    for round in 0..60usize {
        let lens = [round * 24, 1_400, 1_472 - round, 0, 700];
        // A queue that is never empty does not begin its page anew.
        for _ in 0..4 {
            for (i, len) in lens.into_iter().enumerate() {
                host.receive(&udp_to(US, i as u16, 7, &pattern(len))).unwrap();
                let to = Some(at(PEER, 1 + i as u16));
                let write = |to: &mut [u8]| {
                    to.copy_from_slice(&pattern(len + 10));
                    len
                };
                assert_eq!(host.stack.udp_send_with(socket, to, len + 10, write), Ok(len));
            }
        }
        let sent = host.egress();
        assert_eq!(sent.len(), 20);
        for (i, frame) in sent.iter().enumerate() {
            assert_eq!(parse_udp(frame), (7, 1 + (i % 5) as u16, &*pattern(lens[i % 5])));
            let is_right = |bytes: &[u8], got: crate::stack::Received| {
                (bytes == pattern(lens[i % 5]), got.from.port(), got.full_len)
            };
            let got = host.stack.udp_recv_with(socket, is_right);
            assert_eq!(got, Ok((true, (i % 5) as u16, lens[i % 5])));
        }
    }
}

#[test]
fn what_cannot_be_sent_in_place_is_not_composed() {
    let mut host = Host::acquainted();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    let to = Some(at(PEER, 9));
    let mut refused = |id, to, max| {
        host.stack.udp_send_with(id, to, max, |_: &mut [u8]| panic!("nobody would send it")).unwrap_err()
    };
    assert_eq!(refused(socket, None, 1), SocketError::DestinationRequired);
    assert_eq!(refused(socket, Some(at(PEER, 0)), 1), SocketError::Invalid);
    for max in [crate::stack::MAX_UDP_PAYLOAD + 1, usize::MAX] {
        assert_eq!(refused(socket, to, max), SocketError::MessageTooLong);
    }
    assert_eq!(refused(socket, Some("[::1]:9".parse().unwrap()), 1), SocketError::FamilyNotSupported);
    let closed = host.stack.udp_bind(at(US, 8)).unwrap();
    host.stack.udp_close(closed).unwrap();
    let mut refused = |id, max| {
        host.stack.udp_send_with(id, to, max, |_: &mut [u8]| panic!("nobody would send it")).unwrap_err()
    };
    assert_eq!(refused(closed, 1), SocketError::BadSocket);
    assert_eq!(host.stack.udp_recv_with(closed, |_, _| ()), Err(SocketError::BadSocket));
    // A full queue, and room again.
    let mut queued = 0;
    while host.stack.udp_send_with(socket, to, 20_000, |to| to.len()).is_ok() {
        queued += 1;
    }
    assert!((10..14).contains(&queued), "{queued} of 20,000 bytes in 256 KiB");
    let refused = host.stack.udp_send_with(socket, to, 20_000, |_| panic!("no room"));
    assert_eq!(refused, Err(SocketError::WouldBlock));
    assert_eq!(host.stack.poll_event(), None);
    host.egress();
    assert_eq!(host.stack.poll_event(), Some(Event { socket, readiness: Readiness::WRITABLE }));
    assert_eq!(host.stack.udp_send_with(socket, to, 20_000, |_| 1), Ok(1));
    let _half = host.stack.udp_split(socket).unwrap();
    let refused = host.stack.udp_send_with(socket, to, 1, |_| panic!("it was split"));
    assert_eq!(refused, Err(SocketError::Invalid));
    assert_eq!(host.stack.udp_recv_with(socket, |_, _| ()), Err(SocketError::Invalid));
}

/// The half that gives the pages of the send queue back is the stack's own, whether the other was handed out or not.
#[test]
fn a_send_queue_at_rest_holds_no_pages() {
    let mut host = Host::acquainted();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    let rest = |host: &mut Host| {
        assert_eq!(host.egress().len(), 1);
        for _ in 0..4 {
            host.now += crate::time::Duration::from_millis(100);
            host.stack.on_timeout(host.now);
        }
        host.stack.pages_in_use()
    };
    host.stack.udp_send_to(socket, b"x", Some(at(PEER, 9))).unwrap();
    assert_eq!(rest(&mut host), 0);
    host.stack.udp_send_to(socket, b"x", Some(at(PEER, 9))).unwrap();
    let mut half = host.stack.udp_split(socket).unwrap();
    assert_eq!(rest(&mut host), 0);
    half.send_to(b"x", at(PEER, 9)).unwrap();
    host.stack.udp_poke(socket).unwrap();
    assert_eq!(rest(&mut host), 0);
}
