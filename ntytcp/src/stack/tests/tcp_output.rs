use super::kit::*;
use crate::counters::Counters;
use crate::device::{Caps, Gso, GsoKind, TxChecksum};
use crate::fifo::{Home, PagePool, fifo};
use crate::stack::cx::{Cx, EventQueue};
use crate::stack::demux::FlowKey;
use crate::stack::output::{Blocked, Output, PathCache, PathLimits, Payload};
use crate::stack::route::{InterfaceAddr, Route};
use crate::stack::{InterfaceConfig, SocketError};
use crate::wire::{IpProtocol, MacAddr, Seq, Sum, TcpFlags, TcpHeader, TcpOptions, Timestamps};
use core::net::Ipv4Addr;

fn key(remote: Ipv4Addr) -> FlowKey {
    FlowKey { local: US.into(), remote: remote.into(), local_port: 80, remote_port: 1_000 }
}

fn segment() -> TcpHeader {
    let timestamps = Some(Timestamps { value: 1, echo: 2 });
    TcpHeader {
        src_port: 80,
        dst_port: 1_000,
        seq: Seq(7),
        ack: Seq(9),
        flags: TcpFlags::ACK | TcpFlags::PSH,
        window: 1_234,
        checksum: 0,
        urgent: 0,
        options: TcpOptions { timestamps, ..TcpOptions::NONE },
    }
}

/// Runs `send` with the way out of the host's interface.
fn with_output<T>(host: &mut Host, send: impl FnOnce(&mut Output<'_, Ring>) -> T) -> (T, Counters) {
    let interface = host.stack.interfaces.get_mut(0).unwrap();
    let (mut counters, mut events) = (Counters::default(), EventQueue::default());
    let cx = Cx { now: host.now, counters: &mut counters, events: &mut events };
    let result = send(&mut Output::new(cx, &mut host.ring, interface, &host.stack.routes));
    (result, counters)
}

/// Prepares a path that nothing is known of and sends [`segment`] to `dst`.
fn send_first(
    out: &mut Output<'_, Ring>,
    dst: Ipv4Addr,
    payload: Option<Payload<'_>>,
    gso: Option<u16>,
) -> Result<PathLimits, Blocked> {
    let hop = out.prepare(&key(dst), &mut PathCache::default(), false)?;
    let sent = match (payload, gso) {
        (Some(payload), Some(size)) => out.send_train(&hop, &key(dst), &segment(), payload, size).map(drop),
        (payload, _) => out.send_tcp(&hop, &key(dst), &segment(), payload),
    };
    sent.map(|()| hop.limits)
}

#[test]
fn a_segment_carries_its_piece_of_the_fifo_and_a_right_checksum() {
    // Small pages, of odd size, so that a segment is put together from several.
    let pool = PagePool::with_page_size(100, 64 + 101);
    let (mut producer, mut consumer) = fifo(&pool, 10_000, Home::Consumer);
    let data = pattern(3_000);
    assert_eq!(producer.write(&data), 3_000);
    for (offset, len) in [(0, 1_448), (1, 1), (77, 1_000), (1_999, 1_001), (5, 0)] {
        let mut host = Host::acquainted();
        let payload = Payload { fifo: &mut consumer, offset, len };
        let (result, counters) = with_output(&mut host, |out| send_first(out, PEER, Some(payload), None));
        assert_eq!((result.is_ok(), counters.tcp_tx, counters.tx_frames), (true, 1, 1));
        let (frame, meta) = host.ring.sent.pop().unwrap();
        assert_eq!((meta.checksum, meta.gso), (TxChecksum::Complete, None));
        let (ip, bytes) = parse_ip(&frame);
        assert_eq!((ip.src, ip.dst, ip.protocol), (US, PEER, IpProtocol::TCP));
        assert!(ip.dont_fragment && TcpHeader::verify(US.into(), PEER.into(), bytes));
        let (header, sent) = TcpHeader::parse(bytes).unwrap();
        assert_eq!(TcpHeader { checksum: 0, ..header }, segment());
        assert_eq!(sent, &data[offset..offset + len]);
    }
}

#[test]
fn a_train_is_left_to_a_device_that_cuts_it() {
    let caps = Caps { tx_checksum: true, tso_max: 65_535, ..Caps::plain(1500) };
    let mut host = Host::with(caps, |_| {});
    host.stack.add_neighbor(host.id, PEER.into(), PEER_MAC).unwrap();
    let (mut producer, mut consumer) = fifo(&PagePool::new(100), 100_000, Home::Consumer);
    let data = pattern(60_000);
    producer.write(&data);
    let payload = Payload { fifo: &mut consumer, offset: 0, len: 60_000 };
    let (limits, _) = with_output(&mut host, |out| send_first(out, PEER, Some(payload), Some(1_448)));
    assert_eq!(limits, Ok(PathLimits { mtu: 1_500, train_max: 65_535 }));
    let (frame, meta) = host.ring.sent.pop().unwrap();
    assert_eq!(meta.checksum, TxChecksum::Partial { start: 34, offset: 16 });
    assert_eq!(meta.gso, Some(Gso { kind: GsoKind::TcpV4, size: 1_448, header_len: 14 + 20 + 32 }));
    let (header, sent) = TcpHeader::parse(parse_ip(&frame).1).unwrap();
    assert_eq!(sent, data);
    let pseudo = Sum::pseudo_header(US.into(), PEER.into(), IpProtocol::TCP, 60_032);
    assert_eq!(header.checksum, pseudo.fold());
}

#[test]
fn a_train_is_cut_here_for_a_device_that_does_not_and_ends_where_the_ring_is_full() {
    let mut host = Host::acquainted();
    let (mut producer, mut consumer) = fifo(&PagePool::new(100), 100_000, Home::Consumer);
    let data = pattern(4_000);
    producer.write(&data);
    for (room, sent) in [(9, 4_000), (2, 2_896)] {
        host.ring.room = room;
        let payload = Payload { fifo: &mut consumer, offset: 0, len: 4_000 };
        let (result, _) = with_output(&mut host, |out| {
            let hop = out.prepare(&key(PEER), &mut PathCache::default(), false).unwrap();
            out.send_train(&hop, &key(PEER), &segment(), payload, 1_448)
        });
        assert_eq!(result, Ok(sent));
        let mut at = 0;
        for (frame, meta) in host.ring.sent.drain(..) {
            assert_eq!(meta.gso, None);
            let bytes = parse_ip(&frame).1;
            assert!(TcpHeader::verify(US.into(), PEER.into(), bytes));
            let (header, text) = TcpHeader::parse(bytes).unwrap();
            assert_eq!((header.seq, text), (segment().seq + at as u32, &data[at..at + text.len()]));
            at += text.len();
            assert_eq!(header.flags.contains(TcpFlags::PSH), at == 4_000);
        }
        assert_eq!(at, sent);
    }
}

#[test]
fn what_blocks_a_segment_is_said_and_nothing_is_sent() {
    let mut host = Host::acquainted();
    let other = Ipv4Addr::new(10, 1, 0, 1);
    let addr = InterfaceAddr::new(other.into(), 24).unwrap();
    let config =
        InterfaceConfig { mac: MacAddr([2, 0, 0, 0, 1, 1]), addrs: vec![addr], ..Default::default() };
    let second = host.stack.add_interface(config).unwrap();
    let far = Ipv4Addr::new(192, 0, 2, 1);
    let try_send = |host: &mut Host, dst, room| {
        host.ring.room = room;
        with_output(host, |out| send_first(out, dst, None, None).map(drop)).0
    };
    assert_eq!(try_send(&mut host, PEER, 0), Err(Blocked::RingFull));
    let stranger = Ipv4Addr::new(10, 0, 0, 9);
    assert_eq!(try_send(&mut host, stranger, 9), Err(Blocked::Unresolved { next_hop: stranger.into() }));
    assert_eq!(try_send(&mut host, Ipv4Addr::new(10, 1, 0, 9), 9), Err(Blocked::OtherInterface(second)));
    assert_eq!(try_send(&mut host, far, 9), Err(Blocked::Unreachable(SocketError::NetworkUnreachable)));
    assert!(host.ring.sent.is_empty());
    // A gateway makes it reachable, and is who is asked for.
    let prefix = "0.0.0.0/0".parse().unwrap();
    let route = Route { prefix, interface: 0, gateway: Some(PEER.into()), source: None, metric: 0 };
    host.stack.add_route(route).unwrap();
    assert_eq!(try_send(&mut host, far, 9), Ok(()));
    assert_eq!(host.ring.sent.pop().unwrap().0[..6], PEER_MAC.0);
}

#[test]
fn a_cached_path_is_renewed_when_routes_change() {
    let mut host = Host::acquainted();
    let mut path = PathCache::default();
    let (first, _) = with_output(&mut host, |out| out.prepare(&key(PEER), &mut path, false));
    assert!(first.is_ok());
    let connected = *host.stack.routes().iter().next().unwrap();
    assert!(host.stack.remove_route(&connected));
    let (second, _) = with_output(&mut host, |out| out.prepare(&key(PEER), &mut path, false));
    assert_eq!(second, Err(Blocked::Unreachable(SocketError::NetworkUnreachable)));
}
