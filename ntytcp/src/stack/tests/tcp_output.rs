use super::kit::*;
use crate::counters::Counters;
use crate::device::{Caps, Gso, GsoKind, TxChecksum};
use crate::fifo::{Home, PagePool, fifo};
use crate::stack::cx::{Cx, EventQueue};
use crate::stack::demux::FlowKey;
use crate::stack::output::{Blocked, Output, PathCache, PathLimits, Payload};
use crate::stack::route::{InterfaceAddr, Route};
use crate::stack::{InterfaceConfig, SocketError};
use crate::wire::{
    EthernetHeader, IpProtocol, Ipv4Header, MacAddr, Seq, Sum, TcpFlags, TcpHeader, TcpOptions, Timestamps,
};
use core::net::Ipv4Addr;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

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

#[test]
fn a_new_connection_follows_the_way_of_the_last_only_to_the_same_peer_over_the_same_routes() {
    let mut host = Host::acquainted();
    let prepare = |host: &mut Host, dst| {
        with_output(host, |out| out.prepare(&key(dst), &mut PathCache::default(), false)).0
    };
    let first = prepare(&mut host, PEER);
    assert!(first.is_ok() && prepare(&mut host, PEER) == first);
    let other = Ipv4Addr::new(10, 0, 0, 77);
    assert_eq!(prepare(&mut host, other), Err(Blocked::Unresolved { next_hop: other.into() }));
    let connected = *host.stack.routes().iter().next().unwrap();
    assert!(host.stack.remove_route(&connected));
    let none = Blocked::Unreachable(SocketError::NetworkUnreachable);
    assert_eq!(prepare(&mut host, PEER), Err(none));
}

/// What a device that cuts trains makes of a frame: the headers of the train before each piece, with its own lengths, sequence number
/// and checksums, and FIN and PSH for the last alone.
fn cut_by_device(frame: &[u8], gso: Gso) -> Vec<Vec<u8>> {
    let (headers, text) = frame.split_at(usize::from(gso.header_len));
    let pieces: Vec<&[u8]> = text.chunks(usize::from(gso.size)).collect();
    let (link, packet) = EthernetHeader::parse(headers).unwrap();
    let (ip, _) = Ipv4Header::parse(&frame[link.len()..]).unwrap();
    let (train, _) = TcpHeader::parse(&packet[ip.header_len()..]).unwrap();
    let cut = |(i, piece): (usize, &&[u8])| {
        let last = i + 1 == pieces.len();
        let flags = if last { train.flags } else { train.flags - (TcpFlags::FIN | TcpFlags::PSH) };
        let seq = train.seq + (i * usize::from(gso.size)) as u32;
        let mut bytes = vec![0; train.header_len()];
        TcpHeader { seq, flags, checksum: 0, ..train }.emit(&mut bytes).unwrap();
        bytes.extend_from_slice(piece);
        TcpHeader::fill_checksum(ip.src.into(), ip.dst.into(), &mut bytes).unwrap();
        let ip = Ipv4Header { total_len: (ip.header_len() + bytes.len()) as u16, ..ip };
        let mut whole = vec![0; link.len() + ip.header_len()];
        let at = link.emit(&mut whole).unwrap();
        ip.emit(&mut whole[at..]).unwrap();
        whole.extend_from_slice(&bytes);
        whole
    };
    pieces.iter().enumerate().map(cut).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_train_is_the_same_on_the_wire_whoever_cuts_it(
        offset in 0usize..2_000,
        len in 1usize..40_000,
        size in 8u16..1_461,
        vlan in proptest::option::of(1u16..4_095),
        seq: u32,
        flags: u8,
        bare: bool,
    ) {
        let pool = PagePool::with_page_size(1_000, 64 + 4_001);
        let (mut producer, mut consumer) = fifo(&pool, 50_000, Home::Consumer);
        producer.write(&pattern(offset + len));
        let mut header = TcpHeader { seq: Seq(seq), flags: TcpFlags::from_bits_retain(flags), ..segment() };
        if bare {
            header.options = TcpOptions::NONE;
        }
        let cutting = Caps { tx_checksum: true, tso_max: 65_535, ..Caps::plain(1500) };
        let [by_device, by_output] = [cutting, Caps::plain(1500)].map(|caps| {
            let mut host = Host::with(caps, |interface| interface.vlan = vlan);
            host.stack.add_neighbor(host.id, PEER.into(), PEER_MAC).unwrap();
            let payload = Payload { fifo: &mut consumer, offset, len };
            let (sent, _) = with_output(&mut host, |out| {
                let hop = out.prepare(&key(PEER), &mut PathCache::default(), false).unwrap();
                out.send_train(&hop, &key(PEER), &header, payload, size)
            });
            assert_eq!(sent, Ok(len));
            host.ring.sent
        });
        let (train, meta) = &by_device[0];
        prop_assert_eq!(by_device.len(), 1);
        let expected = cut_by_device(train, meta.gso.unwrap());
        let sent: Vec<Vec<u8>> = by_output.into_iter().map(|(frame, _)| frame).collect();
        prop_assert_eq!(sent, expected);
    }
}
