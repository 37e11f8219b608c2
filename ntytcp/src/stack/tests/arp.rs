use super::kit::*;
use crate::counters::DropReason;
use crate::stack::SocketError;
use crate::stack::arp::{GuardConfig, GuardState};
use crate::time::Duration;
use crate::wire::{ArpOperation, MacAddr, Seq, TcpFlags, TcpHeader};
use crate::{device::Caps, stack::route::InterfaceAddr};
use core::net::Ipv4Addr;

#[test]
fn a_request_for_our_address_is_answered_in_its_frame() {
    let mut host = Host::new();
    let reply = host.receive(&arp(ArpOperation::Request, (PEER_MAC, PEER), US)).unwrap().unwrap();
    let (link, packet) = parse_arp(&reply);
    assert_eq!((link.dst, link.src), (PEER_MAC, OUR_MAC));
    assert_eq!(packet.operation, ArpOperation::Reply);
    assert_eq!((packet.sender_mac, packet.sender_ip), (OUR_MAC, US));
    assert_eq!((packet.target_mac, packet.target_ip), (PEER_MAC, PEER));
    assert!(host.egress().is_empty());
    // Whoever asks for us is about to talk to us: nobody needs to be asked back.
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    host.stack.udp_send_to(socket, b"x", Some(at(PEER, 9))).unwrap();
    assert_eq!(parse_udp(&host.egress()[0]), (7, 9, &b"x"[..]));
}

#[test]
fn a_request_for_another_address_is_ignored() {
    let mut host = Host::new();
    let other = Ipv4Addr::new(10, 0, 0, 77);
    let request = arp(ArpOperation::Request, (PEER_MAC, PEER), other);
    assert_eq!(host.receive(&request), Err(DropReason::ArpIgnored));
}

#[test]
fn a_packet_waits_while_its_next_hop_is_asked_for() {
    let mut host = Host::new();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    host.stack.udp_send_to(socket, b"one", Some(at(PEER, 9))).unwrap();
    host.stack.udp_send_to(socket, b"two", Some(at(PEER, 9))).unwrap();
    let sent = host.egress();
    assert_eq!(sent.len(), 1, "one question for both");
    let (link, question) = parse_arp(&sent[0]);
    assert_eq!((link.dst, question.target_ip), (MacAddr::BROADCAST, PEER));
    assert_eq!((question.sender_mac, question.sender_ip), (OUR_MAC, US));
    assert_eq!(host.receive(&arp(ArpOperation::Reply, (PEER_MAC, PEER), US)), Ok(None));
    let sent = host.egress();
    let payloads: Vec<_> = sent.iter().map(|frame| parse_udp(frame).2).collect();
    assert_eq!(payloads, [b"one", b"two"]);
    assert!(sent.iter().all(|frame| frame[..6] == PEER_MAC.0));
}

#[test]
fn a_next_hop_that_does_not_answer_fails_the_socket() {
    let mut host = Host::new();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    host.stack.udp_connect(socket, Some(at(PEER, 9))).unwrap();
    host.stack.udp_send_to(socket, b"lost", None).unwrap();
    let sent = host.pass(Duration::from_secs(10));
    assert_eq!(sent.len(), 3, "three questions");
    assert_eq!(host.stack.udp_recv_from(socket, &mut []), Err(SocketError::HostUnreachable));
    assert_eq!(host.stack.udp_recv_from(socket, &mut []), Err(SocketError::WouldBlock), "told once");
    assert_eq!(host.dropped(DropReason::NeighborFailed), 1);
}

#[test]
fn an_address_is_announced_at_start() {
    let mut host = Host::with(Caps::plain(1500), |config| config.guard = GuardConfig::immediate());
    let sent = host.egress();
    let (link, packet) = parse_arp(&sent[0]);
    assert!(link.dst.is_broadcast() && packet.is_announcement());
    assert_eq!(packet.sender_ip, US);
}

#[test]
fn a_probed_address_is_used_only_after_nobody_objected() {
    let mut host = Host::with(Caps::plain(1500), |config| config.guard = GuardConfig::quick());
    let ask = arp(ArpOperation::Request, (PEER_MAC, PEER), US);
    assert_eq!(host.receive(&ask), Err(DropReason::ArpIgnored));
    let sent = host.pass(Duration::from_secs(1));
    assert!(parse_arp(&sent[0]).1.is_probe());
    assert!(parse_arp(sent.last().unwrap()).1.is_announcement());
    assert!(host.receive(&ask).unwrap().is_some());
}

#[test]
fn an_address_that_another_station_has_is_not_used() {
    let mut host = Host::with(Caps::plain(1500), |config| config.guard = GuardConfig::quick());
    host.pass(Duration::from_millis(20));
    host.receive(&arp(ArpOperation::Reply, (PEER_MAC, US), US)).unwrap();
    host.pass(Duration::from_secs(1));
    let addr = InterfaceAddr::new(US.into(), 24).unwrap();
    let claims: Vec<_> = host.stack.addresses(host.id).collect();
    assert_eq!(claims, [(addr, GuardState::Lost(PEER_MAC))]);
    assert_eq!(host.stack.counters().address_conflicts, 1);
    let ask = arp(ArpOperation::Request, (PEER_MAC, PEER), US);
    assert_eq!(host.receive(&ask), Err(DropReason::ArpIgnored));
    assert_eq!(host.receive(&udp_to(US, 1, 2, b"")), Err(DropReason::NotOurAddress));
}

#[test]
fn an_address_in_use_is_defended() {
    let mut host = Host::new();
    host.receive(&arp(ArpOperation::Reply, (PEER_MAC, US), US)).unwrap();
    assert!(parse_arp(&host.egress()[0]).1.is_announcement());
    assert_eq!(host.stack.counters().address_conflicts, 1);
    assert!(host.receive(&arp(ArpOperation::Request, (PEER_MAC, PEER), US)).unwrap().is_some());
}

/// Another station insists on our address.
fn lose_our_address(host: &mut Host) {
    for _ in 0..2 {
        host.receive(&arp(ArpOperation::Reply, (PEER_MAC, US), US)).unwrap();
    }
    let states: Vec<_> = host.stack.addresses(host.id).map(|(_, state)| state).collect();
    assert_eq!(states, [GuardState::Lost(PEER_MAC)]);
}

#[test]
fn nothing_is_sent_from_an_address_that_was_lost_but_the_resets_of_its_connections() {
    let mut host = Host::acquainted();
    let (conn, half_open) = (host.established(80), host.stack.tcp_connections().half_open);
    host.receive(&tcp(80, (Seq(7), Seq(0)), TcpFlags::SYN, b"")).ok();
    let bound = host.stack.udp_bind(at(US, 7)).unwrap();
    let any = host.stack.udp_bind(at(Ipv4Addr::UNSPECIFIED, 8)).unwrap();
    let ping = host.stack.echo_open().unwrap();
    host.pass(Duration::from_secs(20));
    for socket in [bound, any] {
        host.stack.udp_send_to(socket, b"late", Some(at(PEER, 9))).unwrap();
    }
    host.stack.echo_send(ping, PEER.into(), 1, b"").unwrap();
    lose_our_address(&mut host);
    // RFC 5227 2.4: "hosts SHOULD actively attempt to reset any existing connections using that address".
    let sent = host.pass(Duration::from_secs(600));
    let resets: Vec<_> =
        sent.iter().map(|frame| TcpHeader::parse(parse_ip(frame).1).unwrap().0.flags).collect();
    assert_eq!(resets, [TcpFlags::RST | TcpFlags::ACK]);
    assert_eq!(host.stack.tcp_take_error(conn), Some(SocketError::AddressNotAvailable));
    assert_eq!(host.stack.udp_take_error(bound), Ok(Some(SocketError::AddressNotAvailable)));
    assert_eq!((host.stack.tcp_connections().half_open, half_open), (0, 0));
    // And nobody begins to.
    for socket in [bound, any] {
        let _ = host.stack.udp_send_to(socket, b"later", Some(at(PEER, 9)));
    }
    let error = Err(SocketError::AddressNotAvailable);
    assert_eq!(host.stack.tcp_connect(host.now, None, at(PEER, 80), None), error);
    assert_eq!(host.stack.echo_send(ping, PEER.into(), 2, b""), error.map(drop));
    assert!(host.pass(Duration::from_secs(600)).is_empty());
    assert_eq!(host.stack.conflict(host.id), Some((US, PEER_MAC)));
}
