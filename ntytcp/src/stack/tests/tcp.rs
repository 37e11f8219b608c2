//! TCP sockets where more than one connection, neighbor or setting matters; packet traces are in `tests/tcp_scripts`.

use super::kit::*;
use crate::counters::DropReason;
use crate::device::Caps;
use crate::rng::seed_from;
use crate::stack::{ConfigError, SocketError, Stack, StackConfig};
use crate::tcp::{KeepAlive, ListenOptions, State, TcpSocketOptions};
use crate::time::Duration;
use crate::wire::{
    ArpOperation, EtherType, EthernetHeader, Icmpv4Message, IpProtocol, Ipv4Header, MacAddr, Seq, TcpFlags,
    TcpHeader, TcpOptions, Timestamps,
};
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
fn every_segment_has_the_ttl_of_its_socket() {
    let mut host = host(|config| (config.tcp.socket.ttl, config.udp_ttl) = (9, 8));
    host.stack.add_neighbor(host.id, PEER.into(), PEER_MAC).unwrap();
    let ttl = |frame: &[u8]| parse_ip(frame).0.ttl;
    let ttls = |frames: Vec<Vec<u8>>| -> Vec<u8> {
        frames.iter().filter(|frame| frame[12..14] == [8, 0]).map(|frame| ttl(frame)).collect()
    };
    // Nobody's, and what opens a connection without options of its own.
    let refusal = host.receive(&tcp(81, (Seq(0), Seq(0)), TcpFlags::SYN, b"")).unwrap().unwrap();
    assert_eq!(ttl(&refusal), 9);
    host.stack.tcp_connect(host.now, None, at(PEER, 80), None).unwrap();
    assert_eq!(ttls(host.egress()), [9]);
    // A listener's: the SYN-ACK, also the one that is sent again, then all of the connection.
    let socket = Some(TcpSocketOptions { ttl: 255, ..TcpSocketOptions::default() });
    let options = ListenOptions { socket, ..ListenOptions::default() };
    let listener = host.stack.tcp_listen(at(US, 80), options).unwrap();
    let syn_ack = host.receive(&tcp(80, (Seq(0), Seq(0)), TcpFlags::SYN, b"")).unwrap().unwrap();
    assert_eq!(ttl(&syn_ack), 255);
    assert!(ttls(host.pass(Duration::from_millis(1_100))).contains(&255));
    let iss = parse_tcp(&syn_ack).0.seq;
    host.receive(&tcp(80, (Seq(1), iss + 1), TcpFlags::ACK, b"")).unwrap();
    let (conn, _) = host.stack.tcp_accept(host.now, listener).unwrap();
    host.stack.tcp_send(host.now, conn, b"hello").unwrap();
    assert_eq!(ttls(host.egress()), [255]);
    assert!(host.receive(&tcp(80, (Seq(1), iss + 1), TcpFlags::SYN, b"")).is_err());
    assert_eq!(ttls(host.egress()), [255], "a challenge");
    host.receive(&tcp(80, (Seq(1), iss + 6), TcpFlags::ACK, b"")).unwrap();
    assert_eq!(host.stack.tcp_set_ttl(conn, 0), Err(SocketError::Invalid));
    host.stack.tcp_set_ttl(conn, 3).unwrap();
    host.stack.tcp_send(host.now, conn, b"hello").unwrap();
    assert_eq!(ttls(host.egress()), [3]);
    host.receive(&tcp(80, (Seq(1), iss + 11), TcpFlags::ACK, b"")).unwrap();
    // In TIME-WAIT too.
    host.stack.tcp_close(host.now, conn).unwrap();
    assert_eq!(ttls(host.egress()), [3]);
    let fin = tcp(80, (Seq(1), iss + 12), TcpFlags::ACK | TcpFlags::FIN, b"");
    assert_eq!(ttl(&host.receive(&fin).unwrap().unwrap()), 3);
    assert_eq!(host.stack.tcp_connections().time_wait, 1);
    assert_eq!(ttl(&host.receive(&fin).unwrap().unwrap()), 3);
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    host.stack.udp_send_to(socket, b"hello", Some(at(PEER, 9))).unwrap();
    assert_eq!(ttls(host.egress()), [8]);
}

#[test]
fn what_cannot_be_sent_for_want_of_a_route_is_counted() {
    let mut host = Host::new();
    let far = Ipv4Addr::new(192, 0, 2, 1);
    let listener = host.stack.tcp_listen(at(US, 80), ListenOptions::default()).unwrap();
    let from_far = |seq, ack, flags, text: &[u8]| {
        let options = TcpOptions::NONE;
        let (src_port, dst_port, window) = (1_000, 80, 65_535);
        let seg = TcpHeader { src_port, dst_port, seq, ack, flags, window, checksum: 0, urgent: 0, options };
        let mut bytes = vec![0; seg.header_len()];
        seg.emit(&mut bytes).unwrap();
        bytes.extend_from_slice(text);
        TcpHeader::fill_checksum(far.into(), US.into(), &mut bytes).unwrap();
        packet(Ipv4Header { src: far, ..header(US, IpProtocol::TCP, bytes.len()) }, &bytes)
    };
    // The SYN-ACK goes back to the station that the SYN came from.
    let syn_ack = host.receive(&from_far(Seq(0), Seq(0), TcpFlags::SYN, b"")).unwrap().unwrap();
    let iss = parse_tcp(&syn_ack).0.seq;
    host.receive(&from_far(Seq(1), iss + 1, TcpFlags::ACK, b"")).unwrap();
    let (conn, _) = host.stack.tcp_accept(host.now, listener).unwrap();
    assert_eq!(host.dropped(DropReason::NoRoute), 0);
    host.stack.tcp_send(host.now, conn, b"hello").unwrap();
    assert!(segments(&host.egress()).is_empty());
    assert_eq!(host.dropped(DropReason::NoRoute), 1);
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
    assert_eq!(refused(|config| config.udp_ttl = 0), "udp_ttl");
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

#[test]
fn no_more_connections_than_allowed_are_opened_from_either_side() {
    let mut host = host(|config| config.tcp.max_connections = 1);
    host.stack.tcp_listen(at(US, 80), ListenOptions::default()).unwrap();
    host.stack.tcp_connect(host.now, None, at(PEER, 80), None).unwrap();
    let more = host.stack.tcp_connect(host.now, None, at(PEER, 81), None);
    assert_eq!(more, Err(SocketError::NoBufferSpace));
    let syn = tcp(80, (Seq(0), Seq(0)), TcpFlags::SYN, b"");
    assert_eq!(host.receive(&syn), Err(DropReason::ConnectionLimit));
}

#[test]
fn no_more_connections_than_allowed_are_in_time_wait() {
    let mut host = host(|config| config.tcp.max_time_wait = 1);
    host.stack.add_neighbor(host.id, PEER.into(), PEER_MAC).unwrap();
    for port in [80, 81] {
        let conn = host.established(port);
        host.stack.tcp_close(host.now, conn).unwrap();
        let fin = parse_tcp(&host.egress()[0]).0.seq;
        host.receive(&tcp(port, (Seq(1), fin + 1), TcpFlags::ACK | TcpFlags::FIN, b"")).unwrap();
    }
    assert_eq!((host.stack.tcp_connections().connections, host.stack.tcp_connections().time_wait), (0, 1));
}

#[test]
fn a_connection_that_makes_progress_needs_no_arp() {
    let mut host = Host::new();
    let conn = host.established(80);
    // Heard of, and not confirmed.
    host.receive(&arp(ArpOperation::Request, (PEER_MAC, PEER), US)).unwrap();
    for _ in 0..100 {
        host.stack.tcp_send(host.now, conn, b"tick").unwrap();
        let sent = host.pass(Duration::from_millis(10));
        assert!(sent.iter().all(|frame| frame[12..14] == [8, 0]), "ARP at {:?}", host.now);
        let (seg, text) = parse_tcp(&sent[0]);
        host.receive(&tcp(80, (Seq(1), seg.seq + text.len() as u32), TcpFlags::ACK, b"")).unwrap();
        assert!(host.pass(Duration::from_secs(1)).is_empty(), "ARP at {:?}", host.now);
    }
}

#[test]
fn resets_are_limited_in_rate_whoever_sends_them() {
    let mut host = Host::new();
    host.stack.tcp_listen(at(US, 80), ListenOptions::default()).unwrap();
    host.receive(&tcp(80, (Seq(0), Seq(0)), TcpFlags::SYN, b"")).unwrap();
    // To a port that nobody listens on, and to a handshake that it does not complete.
    let (mut sent, mut refused) = (0, 0);
    for port in [9, 80].into_iter().cycle().take(1_000) {
        match host.receive(&tcp(port, (Seq(1), Seq(77)), TcpFlags::ACK, b"")) {
            Ok(Some(frame)) => {
                assert!(parse_tcp(&frame).0.flags.intersects(TcpFlags::RST));
                sent += 1;
            }
            other => {
                assert_eq!(other, Err(DropReason::RateLimited));
                refused += 1;
            }
        }
    }
    assert_eq!((sent, refused), (256, 744));
    assert_eq!(host.stack.counters().tcp_rst_tx, 256);
}

#[test]
fn timestamps_of_different_flows_are_unrelated() {
    let mut host = Host::new();
    let values = [80, 81].map(|port| {
        host.stack.tcp_listen(at(US, port), ListenOptions::default()).unwrap();
        let options = TcpOptions { timestamps: Some(Timestamps { value: 9, echo: 0 }), ..TcpOptions::NONE };
        let syn = tcp_with(port, (Seq(0), Seq(0)), TcpFlags::SYN, options, b"");
        parse_tcp(&host.receive(&syn).unwrap().unwrap()).0.options.timestamps.unwrap().value
    });
    assert!(values[0].abs_diff(values[1]) > 1_000, "{values:?}");
}

#[test]
fn what_is_written_in_place_is_sent() {
    let mut host = Host::acquainted();
    let (conn, now) = (host.established(80), host.now);
    let sent = host.stack.tcp_send_with(now, conn, 10, |to| {
        to[..5].copy_from_slice(b"hello");
        if to.len() == 10 { 5 } else { 0 }
    });
    assert_eq!(sent, Ok(5));
    assert_eq!(
        host.stack.tcp_send_with(now, conn, 3, |to| {
            to.fill(b'!');
            100
        }),
        Ok(3)
    );
    assert_eq!(parse_tcp(&host.egress()[0]).1, b"hello!!!");
    assert_eq!(host.stack.tcp_send_with(now, conn, 3, |_| 0), Ok(0));
    assert!(host.egress().is_empty(), "nothing was written");
    // Piece by piece until the buffer is full, also where a page ends.
    let room = StackConfig::default().tcp.socket.send_buffer - 8;
    let mut written = 0;
    while let Ok(n) = host.stack.tcp_send_with(now, conn, usize::MAX, |to| to.len()) {
        written += n;
    }
    assert_eq!(written, room);
    host.stack.tcp_shutdown(now, conn).unwrap();
    let refused = host.stack.tcp_send_with(now, conn, 1, |_| panic!("nobody would send it"));
    assert_eq!(refused, Err(SocketError::BrokenPipe));
}

#[test]
fn who_found_no_page_to_write_in_place_is_told_when_there_is_one() {
    let mut host = Host::with_pages(1);
    let (conn, now) = (host.established(80), host.now);
    let other = host.stack.udp_bind(at(US, 7)).unwrap();
    host.receive(&udp_to(US, 1, 7, b"x")).unwrap();
    while host.stack.poll_event().is_some() {}
    let write = |_: &mut [u8]| panic!("the only page is taken");
    assert_eq!(host.stack.tcp_send_with(now, conn, 10, write), Err(SocketError::WouldBlock));
    host.stack.udp_recv_from(other, &mut [0; 10]).unwrap();
    host.pass(Duration::from_millis(200));
    assert!(core::iter::from_fn(|| host.stack.poll_event()).any(|event| event.socket == conn));
    assert_eq!(host.stack.tcp_send_with(host.now, conn, 10, |to| to.len()), Ok(10));
}

#[test]
fn what_arrived_is_read_in_place() {
    let mut host = Host::acquainted();
    let (conn, now) = (host.established(80), host.now);
    let read = host.stack.tcp_recv_with(now, conn, |_| panic!("there is nothing"));
    assert_eq!(read, Err(SocketError::WouldBlock));
    host.stack.tcp_send(now, conn, b"?").unwrap();
    let ack = parse_tcp(&host.egress()[0]).0.seq + 1;
    host.receive(&tcp(80, (Seq(1), ack), TcpFlags::ACK, b"abcdef")).unwrap();
    let mut seen = Vec::new();
    for done in [2, 0, 100] {
        let read = host.stack.tcp_recv_with(now, conn, |bytes| {
            seen.push(bytes.to_vec());
            done
        });
        assert_eq!(read, Ok(done.min(4)), "as many as were shown at most");
    }
    assert_eq!(seen, [b"abcdef".to_vec(), b"cdef".to_vec(), b"cdef".to_vec()]);
    host.receive(&tcp(80, (Seq(7), ack), TcpFlags::ACK | TcpFlags::FIN, b"")).unwrap();
    assert_eq!(host.stack.tcp_recv_with(now, conn, |_| panic!("there is nothing")), Ok(0));
}

/// An ICMP error about a packet of ours, as a router sends it.
fn too_big(frame: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut quote = frame[14..14 + 28].to_vec();
    change(&mut quote);
    let code = Icmpv4Message::UNREACHABLE_FRAGMENTATION;
    icmp(&Icmpv4Message::DestinationUnreachable { code, next_hop_mtu: 1_000, quote: &quote })
}

#[test]
fn a_path_that_takes_smaller_packets_gets_smaller_segments() {
    let mut host = Host::acquainted();
    let syn = tcp_with(
        80,
        (Seq(0), Seq(0)),
        TcpFlags::SYN,
        TcpOptions { mss: Some(1_460), ..TcpOptions::NONE },
        b"",
    );
    let listener = host.stack.tcp_listen(at(US, 80), ListenOptions::default()).unwrap();
    let iss = parse_tcp(&host.receive(&syn).unwrap().unwrap()).0.seq;
    host.receive(&tcp(80, (Seq(1), iss + 1), TcpFlags::ACK, b"")).unwrap();
    let (conn, _) = host.stack.tcp_accept(host.now, listener).unwrap();
    host.stack.tcp_send(host.now, conn, &pattern(1_400)).unwrap();
    let sent = host.egress();
    assert_eq!(parse_tcp(&sent[0]).1.len(), 1_400);
    // RFC 5927 4.1: of what is not in flight nothing is believed.
    let old = too_big(&sent[0], |quote| quote[24] ^= 0x80);
    assert_eq!(host.receive(&old), Err(DropReason::IcmpIgnored));
    assert!(host.egress().is_empty());
    host.receive(&too_big(&sent[0], |_| {})).unwrap();
    let lens: Vec<_> = host.egress().iter().map(|frame| parse_tcp(frame).1.len()).collect();
    assert_eq!(lens, [960, 440]);
}

#[test]
fn an_icmp_error_about_what_another_address_sent_is_ignored() {
    let second = Ipv4Addr::new(10, 0, 0, 9);
    let mut host = Host::with(Caps::plain(1500), |config| config.addrs.push("10.0.0.9/32".parse().unwrap()));
    host.stack.add_neighbor(host.id, PEER.into(), PEER_MAC).unwrap();
    let socket = host.stack.udp_bind(at(second, 7)).unwrap();
    host.stack.udp_connect(socket, Some(at(PEER, 9))).unwrap();
    host.stack.udp_send_to(socket, b"x", None).unwrap();
    let quote = host.egress()[0][14..].to_vec();
    let error = icmp(&Icmpv4Message::DestinationUnreachable {
        code: Icmpv4Message::UNREACHABLE_PORT,
        next_hop_mtu: 0,
        quote: &quote,
    });
    assert_eq!(host.receive(&error), Err(DropReason::IcmpIgnored), "it came to 10.0.0.1");
    assert_eq!(host.stack.udp_take_error(socket), Ok(None));
}
