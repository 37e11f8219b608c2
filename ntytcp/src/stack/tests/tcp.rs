//! TCP sockets where more than one connection, neighbor or setting matters; packet traces are in `tests/tcp_scripts`.

use super::kit::*;
use crate::counters::DropReason;
use crate::device::Caps;
use crate::rng::seed_from;
use crate::stack::{ConfigError, SocketError, Stack, StackConfig};
use crate::tcp::{KeepAlive, ListenOptions, State, TcpSocketOptions};
use crate::time::Duration;
use crate::wire::{ArpOperation, EtherType, EthernetHeader, Ipv4Header, MacAddr, TcpHeader};
use core::net::Ipv4Addr;

const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);

/// A host with another stack than the default.
fn host(change: impl FnOnce(&mut StackConfig)) -> Host {
    let mut config = StackConfig::default();
    change(&mut config);
    Host::of(config, Caps::plain(1500), |_| {})
}

/// The TCP segments among the frames: the station that each is for, the address, the text.
fn segments(frames: &[Vec<u8>]) -> Vec<(MacAddr, Ipv4Addr, Vec<u8>)> {
    let parsed = frames.iter().filter_map(|frame| {
        let (link, packet) = EthernetHeader::parse(frame).unwrap();
        if link.ethertype != EtherType::IPV4 {
            return None;
        }
        let (ip, segment) = Ipv4Header::parse(packet).unwrap();
        Some((link.dst, ip.dst, TcpHeader::parse(segment).unwrap().1.to_vec()))
    });
    parsed.collect()
}

#[test]
fn options_out_of_range_are_refused_wherever_they_are_given() {
    let mut host = Host::new();
    let options = TcpSocketOptions { recv_buffer: 0, ..TcpSocketOptions::default() };
    let listen = ListenOptions { socket: Some(options), ..ListenOptions::default() };
    assert_eq!(host.stack.tcp_listen(at(US, 80), listen), Err(SocketError::Invalid));
    let now = host.now;
    assert_eq!(host.stack.tcp_connect(now, None, at(PEER, 80), Some(options)), Err(SocketError::Invalid));
    assert_eq!(host.stack.tcp_connections().connections, 0);
    let conn = host.stack.tcp_connect(now, None, at(PEER, 80), None).unwrap();
    let always = KeepAlive { idle: Duration::ZERO, interval: Duration::ZERO, count: 3 };
    assert_eq!(host.stack.tcp_set_keepalive(now, conn, Some(always)), Err(SocketError::Invalid));
    assert_eq!(host.stack.tcp_set_user_timeout(conn, Some(Duration::ZERO)), Err(SocketError::Invalid));
    assert_eq!(host.stack.tcp_set_keepalive(now, conn, Some(KeepAlive::default())), Ok(()));
}

#[test]
fn a_stack_with_settings_out_of_range_is_not_made() {
    let refused = |change: fn(&mut StackConfig)| {
        let mut config = StackConfig::default();
        change(&mut config);
        match Stack::new(config, seed_from(1)) {
            Err(ConfigError::Range { name, .. }) => name,
            _ => "nothing",
        }
    };
    assert_eq!(refused(|config| config.pages = 0), "pages");
    assert_eq!(refused(|config| config.pages = usize::MAX), "pages");
    assert_eq!(refused(|config| config.tcp.initial_window = u32::MAX), "tcp initial_window");
}

#[test]
fn a_neighbor_that_is_set_by_hand_releases_who_waits_for_it() {
    let mut host = Host::new();
    let conn = host.stack.tcp_connect(host.now, None, at(PEER, 80), None).unwrap();
    assert_eq!(parse_arp(&host.egress()[0]).1.target_ip, PEER);
    host.stack.add_neighbor(host.id, PEER.into(), PEER_MAC).unwrap();
    // The next question must not eat the answer.
    host.stack.tcp_connect(host.now, None, at(OTHER, 80), None).unwrap();
    assert!(host.stack.has_pending(host.id));
    let sent = host.egress();
    assert_eq!(segments(&sent), [(PEER_MAC, PEER, vec![])]);
    assert!(sent.iter().any(|frame| frame[12..14] == [8, 6] && parse_arp(frame).1.target_ip == OTHER));
    assert_eq!(host.stack.tcp_state(conn), Ok(State::SynSent));
}

#[test]
fn who_waits_for_a_neighbor_that_was_displaced_is_told() {
    let mut host = host(|config| config.neighbors.capacity = 1);
    let first = host.stack.tcp_connect(host.now, None, at(PEER, 80), None).unwrap();
    host.pass(Duration::from_millis(10));
    let second = host.stack.tcp_connect(host.now, None, at(OTHER, 80), None).unwrap();
    host.pass(Duration::from_millis(10));
    assert_eq!(host.stack.tcp_take_error(first), Some(SocketError::HostUnreachable));
    host.receive(&arp(ArpOperation::Reply, (OTHER_MAC, OTHER), US)).unwrap();
    assert_eq!(segments(&host.egress()), [(OTHER_MAC, OTHER, vec![])]);
    assert_eq!(host.stack.tcp_state(second), Ok(State::SynSent));
}

#[test]
fn packets_that_waited_for_a_displaced_neighbor_are_counted() {
    let mut host = host(|config| config.neighbors.capacity = 1);
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    for peer in [PEER, OTHER] {
        host.stack.udp_send_to(socket, b"lost", Some(at(peer, 9))).unwrap();
        host.egress();
    }
    assert_eq!(host.dropped(DropReason::NeighborQueueFull), 1);
}

#[test]
fn data_goes_out_once_the_next_hop_answers_again() {
    // The peer's station is away for longer than it is asked for, and nothing is in flight that would be sent again.
    let mut host = Host::new();
    let conn = host.established(80);
    host.stack.tcp_send(host.now, conn, b"hello").unwrap();
    assert!(segments(&host.pass(Duration::from_secs(20))).is_empty());
    host.receive(&arp(ArpOperation::Request, (PEER_MAC, PEER), US)).unwrap();
    let sent = host.pass(Duration::from_secs(20));
    assert!(segments(&sent).iter().any(|(_, _, text)| text == b"hello"), "{sent:?}");
    assert_eq!(host.stack.tcp_info(conn).unwrap().ssthresh, 1 << 30, "no loss of the network's");
}

#[test]
fn connections_to_broadcast_addresses_are_refused() {
    let mut host = Host::new();
    for group in [[10, 0, 0, 255], [255, 255, 255, 255], [224, 0, 0, 1]] {
        let to = at(group.into(), 80);
        assert_eq!(host.stack.tcp_connect(host.now, None, to, None), Err(SocketError::Invalid), "{to}");
    }
}
