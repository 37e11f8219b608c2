use super::kit::*;
use crate::counters::DropReason;
use crate::device::Caps;
use crate::stack::{EchoOutcome, Readiness, SocketError};
use crate::time::Duration;
use crate::wire::{EtherType, Icmpv4Message, IpProtocol, Ipv4Header, MacAddr};
use core::net::Ipv4Addr;

fn ping(payload: &[u8]) -> Vec<u8> {
    icmp(&Icmpv4Message::EchoRequest { ident: 3, seq: 4, payload })
}

#[test]
fn a_ping_is_answered_in_its_frame() {
    let mut host = Host::new();
    for len in [0, 1, 56, 1472] {
        let payload = pattern(len);
        let reply = host.receive(&ping(&payload)).unwrap().unwrap();
        assert_eq!(parse_icmp(&reply), Icmpv4Message::EchoReply { ident: 3, seq: 4, payload: &payload });
        let (ip, _) = parse_ip(&reply);
        assert_eq!((ip.src, ip.dst, ip.ttl), (US, PEER, 64));
        assert_eq!(reply[..6], PEER_MAC.0);
    }
    assert!(host.egress().is_empty());
    assert_eq!(host.stack.counters().icmp_tx, 4);
}

#[test]
fn a_padded_ping_with_options_is_answered_without_either() {
    let mut host = Host::new();
    let mut message = vec![0; 9];
    Icmpv4Message::EchoRequest { ident: 3, seq: 4, payload: b"x" }.emit(&mut message).unwrap();
    let ip = Ipv4Header { options: &[1, 1, 148, 4, 0, 0], ..header(US, IpProtocol::ICMP, 9) };
    let mut frame = packet(ip, &message);
    frame.resize(80, 0);
    let reply = host.receive(&frame).unwrap().unwrap();
    assert_eq!(reply.len(), 14 + 20 + 9);
    assert_eq!(parse_icmp(&reply), Icmpv4Message::EchoReply { ident: 3, seq: 4, payload: b"x" });
}

#[test]
fn a_ping_to_a_group_is_not_answered() {
    let mut host = Host::new();
    let mut message = vec![0; 8];
    Icmpv4Message::EchoRequest { ident: 3, seq: 4, payload: &[] }.emit(&mut message).unwrap();
    for dst in [Ipv4Addr::new(10, 0, 0, 255), Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1)] {
        let frame = packet(header(dst, IpProtocol::ICMP, 8), &message);
        assert_eq!(host.receive(&frame), Err(DropReason::IcmpIgnored));
    }
}

#[test]
fn a_closed_port_is_reported_with_the_head_of_the_datagram() {
    let mut host = Host::acquainted();
    let frame = udp_to(US, 1_000, 53, &pattern(1_400));
    assert_eq!(host.receive(&frame), Err(DropReason::NoSocket));
    let sent = host.egress();
    let Icmpv4Message::DestinationUnreachable { code, quote, .. } = parse_icmp(&sent[0]) else { panic!() };
    assert_eq!(code, Icmpv4Message::UNREACHABLE_PORT);
    assert_eq!(sent[0].len(), 14 + 576);
    assert_eq!(quote, &frame[14..14 + 576 - 28]);
}

#[test]
fn an_unknown_protocol_is_reported() {
    let mut host = Host::acquainted();
    let frame = packet(header(US, IpProtocol(132), 4), &[1, 2, 3, 4]);
    assert_eq!(host.receive(&frame), Err(DropReason::UnknownProtocol));
    let sent = host.egress();
    let Icmpv4Message::DestinationUnreachable { code, quote, .. } = parse_icmp(&sent[0]) else { panic!() };
    assert_eq!((code, quote), (Icmpv4Message::UNREACHABLE_PROTOCOL, &frame[14..]));
}

#[test]
fn a_broken_option_is_reported_with_its_place() {
    let mut host = Host::acquainted();
    // Two NOPs, then an option that is longer than the header.
    let frame = packet(Ipv4Header { options: &[1, 1, 7, 40], ..header(US, IpProtocol::UDP, 0) }, &[0; 8]);
    assert_eq!(host.receive(&frame), Err(DropReason::Malformed));
    let sent = host.egress();
    let Icmpv4Message::ParameterProblem { pointer, .. } = parse_icmp(&sent[0]) else { panic!() };
    assert_eq!(pointer, 22);
}

#[test]
fn a_source_route_is_refused() {
    let mut host = Host::acquainted();
    for kind in [131, 137] {
        let options = [kind, 7, 4, 10, 0, 0, 9, 0];
        let frame = packet(Ipv4Header { options: &options, ..header(US, IpProtocol::UDP, 0) }, &[0; 8]);
        assert_eq!(host.receive(&frame), Err(DropReason::IpOption));
    }
    assert!(host.egress().is_empty());
}

#[test]
fn no_error_is_sent_about_groups_errors_and_later_fragments() {
    let mut host = Host::acquainted();
    // To a broadcast address.
    assert!(host.receive(&udp_to(Ipv4Addr::new(10, 0, 0, 255), 1, 2, b"x")).is_err());
    // In a broadcast frame.
    let mut frame = udp_to(US, 1, 2, b"x");
    frame[..6].copy_from_slice(&MacAddr::BROADCAST.0);
    assert_eq!(host.receive(&frame), Err(DropReason::NotForUs));
    // About an error, here one with an option that would be reported otherwise.
    let quote = [0; 28];
    let mut message = vec![0; 36];
    Icmpv4Message::TimeExceeded { code: 0, quote: &quote }.emit(&mut message).unwrap();
    let ip = Ipv4Header { options: &[7, 40, 0, 0], ..header(US, IpProtocol::ICMP, 36) };
    assert_eq!(host.receive(&packet(ip, &message)), Err(DropReason::Malformed));
    // About a later fragment.
    let ip = Ipv4Header { fragment_offset: 800, options: &[7, 40, 0, 0], ..header(US, IpProtocol::UDP, 8) };
    assert_eq!(host.receive(&packet(ip, &[0; 8])), Err(DropReason::Malformed));
    assert!(host.egress().is_empty());
}

#[test]
fn errors_to_one_peer_are_limited_in_rate() {
    let mut host = Host::acquainted();
    for _ in 0..100 {
        assert_eq!(host.receive(&udp_to(US, 1, 2, b"x")), Err(DropReason::NoSocket));
    }
    let sent = host.egress().len() as u64;
    assert_eq!(sent, 6, "the burst of LimiterConfig::icmp_errors");
    assert_eq!(host.dropped(DropReason::RateLimited), 94);
}

#[test]
fn impossible_sources_are_refused() {
    let mut host = Host::acquainted();
    let sources =
        [[0; 4], [127, 0, 0, 1], [224, 0, 0, 5], [255; 4], [240, 0, 0, 1], US.octets(), [10, 0, 0, 255]];
    for src in sources {
        let ip = Ipv4Header { src: src.into(), ..header(US, IpProtocol::UDP, 8) };
        assert_eq!(host.receive(&packet(ip, &[0; 8])), Err(DropReason::BadSource), "{src:?}");
    }
}

#[test]
fn frames_and_packets_for_others_are_refused() {
    let mut host = Host::acquainted();
    let mut frame = ping(b"");
    frame[5] = 0x99;
    assert_eq!(host.receive(&frame), Err(DropReason::NotForUs));
    let elsewhere = packet(header(Ipv4Addr::new(10, 0, 0, 9), IpProtocol::UDP, 8), &[0; 8]);
    assert_eq!(host.receive(&elsewhere), Err(DropReason::NotOurAddress));
    let v6 = ethernet(OUR_MAC, EtherType::IPV6, &[0x60; 60]);
    assert_eq!(host.receive(&v6), Err(DropReason::UnknownEtherType));
    let mut frame = ping(b"");
    frame[14 + 10] ^= 1;
    assert_eq!(host.receive(&frame), Err(DropReason::IpChecksum));
    let mut frame = ping(b"abc");
    *frame.last_mut().unwrap() ^= 1;
    assert_eq!(host.receive(&frame), Err(DropReason::L4Checksum));
}

#[test]
fn an_echo_socket_hears_its_replies_and_errors() {
    let mut host = Host::acquainted();
    let socket = host.stack.echo_open().unwrap();
    host.stack.echo_send(socket, PEER.into(), 1, b"hello").unwrap();
    host.stack.echo_send(socket, PEER.into(), 2, b"hello").unwrap();
    let sent = host.egress();
    let Icmpv4Message::EchoRequest { ident, seq: 1, payload } = parse_icmp(&sent[0]) else { panic!() };
    assert_eq!(payload, b"hello");

    host.now += Duration::from_millis(3);
    host.receive(&icmp(&Icmpv4Message::EchoReply { ident, seq: 1, payload })).unwrap();
    let quote = &sent[1][14..];
    host.receive(&icmp(&Icmpv4Message::TimeExceeded { code: 0, quote })).unwrap();
    let event = host.stack.poll_event().unwrap();
    assert_eq!((event.socket, event.readiness), (socket, Readiness::READABLE));
    assert_eq!(host.stack.poll_event(), None);

    let reply = host.stack.echo_recv(socket).unwrap();
    assert_eq!((reply.at, reply.from, reply.seq), (host.now, PEER.into(), 1));
    assert_eq!(reply.outcome, EchoOutcome::Reply { ttl: 61, payload_len: 5 });
    let error = host.stack.echo_recv(socket).unwrap();
    assert_eq!((error.seq, error.outcome), (2, EchoOutcome::TimeExceeded));
    assert_eq!(host.stack.echo_recv(socket), Err(SocketError::WouldBlock));

    let other = ident.wrapping_add(1);
    let stray = icmp(&Icmpv4Message::EchoReply { ident: other, seq: 1, payload: &[] });
    assert_eq!(host.receive(&stray), Err(DropReason::IcmpIgnored));
}

#[test]
fn a_large_echo_request_goes_out_in_fragments_as_the_ring_has_room() {
    let mut host = Host::acquainted();
    let socket = host.stack.echo_open().unwrap();
    let payload = pattern(65_507);
    host.stack.echo_send(socket, PEER.into(), 1, &payload).unwrap();
    let mut rounds = 0;
    while host.egress_some(host.ring.sent.len() + 10) == crate::stack::Pending::RingFull {
        rounds += 1;
        assert!(host.stack.has_pending(host.id));
    }
    assert_eq!(rounds, 4, "45 fragments, ten at a time");
    let frames: Vec<_> = host.ring.sent.drain(..).map(|(frame, _)| frame).collect();
    let mut message = Vec::new();
    for (i, frame) in frames.iter().enumerate() {
        assert!(frame.len() <= 1_514);
        let (ip, piece) = parse_ip(frame);
        assert_eq!(usize::from(ip.fragment_offset), message.len());
        assert_eq!((ip.more_fragments, ip.dont_fragment), (i + 1 < frames.len(), false));
        message.extend_from_slice(piece);
    }
    let Icmpv4Message::EchoRequest { payload: sent, .. } = Icmpv4Message::parse(&message).unwrap() else {
        panic!()
    };
    assert_eq!(sent, payload);
    assert_eq!(host.stack.counters().fragments_tx, 45);
}

#[test]
fn a_tagged_interface_hears_and_speaks_its_vlan_only() {
    let mut host = Host::with(Caps::plain(1500), |config| config.vlan = Some(5));
    let plain = ping(b"x");
    assert_eq!(host.receive(&plain), Err(DropReason::NotForUs));
    let tagged = |vid: u16| [&plain[..12], &[0x81, 0], &vid.to_be_bytes(), &plain[12..]].concat();
    assert_eq!(host.receive(&tagged(6)), Err(DropReason::NotForUs));
    let reply = host.receive(&tagged(5)).unwrap().unwrap();
    assert_eq!(reply[12..16], [0x81, 0, 0, 5]);
    assert!(matches!(parse_icmp(&reply), Icmpv4Message::EchoReply { .. }));
    // A device that strips the tag: it is put back.
    let meta = crate::device::RxMeta { vlan: Some(0x2005), ..Default::default() };
    let reply = host.receive_with(&plain, meta).unwrap().unwrap();
    assert_eq!(reply[12..16], [0x81, 0, 0, 5]);
    assert!(matches!(parse_icmp(&reply), Icmpv4Message::EchoReply { .. }));
}
