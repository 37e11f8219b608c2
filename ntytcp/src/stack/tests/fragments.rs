use super::kit::*;
use crate::counters::DropReason;
use crate::stack::SocketError;
use crate::time::Duration;
use crate::wire::{Icmpv4Message, IpProtocol, Ipv4Header};

/// A datagram to us, cut into frames with at most `size` bytes of payload.
fn fragments(protocol: IpProtocol, datagram: &[u8], size: usize) -> Vec<Vec<u8>> {
    let pieces = datagram.chunks(size).enumerate().map(|(i, piece)| {
        let ip = Ipv4Header {
            fragment_offset: (i * size) as u16,
            more_fragments: (i + 1) * size < datagram.len(),
            ..header(US, protocol, 0)
        };
        packet(ip, piece)
    });
    pieces.collect()
}

#[test]
fn the_largest_ping_is_answered_in_fragments() {
    let mut host = Host::acquainted();
    let payload = pattern(65_507);
    let mut message = vec![0; 65_515];
    Icmpv4Message::EchoRequest { ident: 3, seq: 4, payload: &payload }.emit(&mut message).unwrap();
    // In reverse order, to make it a little harder.
    for frame in fragments(IpProtocol::ICMP, &message, 1_480).iter().rev() {
        assert_eq!(host.receive(frame), Ok(None));
    }
    assert_eq!(host.stack.counters().reassembled, 1);
    let sent = host.egress();
    let reply: Vec<u8> = sent.iter().flat_map(|frame| parse_ip(frame).1.to_vec()).collect();
    let expected = Icmpv4Message::EchoReply { ident: 3, seq: 4, payload: &payload };
    assert_eq!(Icmpv4Message::parse(&reply).unwrap(), expected);
}

#[test]
fn a_datagram_in_fragments_reaches_its_socket_whole() {
    let mut host = Host::new();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    let payload = pattern(10_000);
    let frames = fragments(IpProtocol::UDP, &udp_bytes(PEER, US, 1_000, 7, &payload), 1_000);
    for frame in &frames[1..] {
        assert_eq!(host.receive(frame), Ok(None));
        assert_eq!(host.stack.udp_recv_from(socket, &mut []), Err(SocketError::WouldBlock));
    }
    assert_eq!(host.receive(&frames[0]), Ok(None));
    let mut buf = vec![0; 10_000];
    assert_eq!(host.stack.udp_recv_from(socket, &mut buf).unwrap().len, 10_000);
    assert_eq!(buf, payload);
}

#[test]
fn a_datagram_that_never_becomes_whole_is_reported_if_its_head_came() {
    let mut host = Host::acquainted();
    let frames = fragments(IpProtocol::UDP, &udp_bytes(PEER, US, 1_000, 7, &pattern(3_000)), 1_000);
    host.receive(&frames[0]).unwrap();
    let sent = host.pass(Duration::from_secs(31));
    let Icmpv4Message::TimeExceeded { code, quote } = parse_icmp(&sent[0]) else { panic!() };
    assert_eq!((code, quote), (Icmpv4Message::EXCEEDED_REASSEMBLY, &frames[0][14..14 + 28]));
    host.receive(&frames[1]).unwrap();
    assert!(host.pass(Duration::from_secs(31)).is_empty(), "without fragment zero there is nothing to quote");
    assert_eq!(host.dropped(DropReason::FragmentTimeout), 2);
}

#[test]
fn fragments_that_overlap_are_refused() {
    let mut host = Host::new();
    host.stack.udp_bind(at(US, 7)).unwrap();
    let datagram = udp_bytes(PEER, US, 1_000, 7, &pattern(3_000));
    let frames = fragments(IpProtocol::UDP, &datagram, 1_000);
    host.receive(&frames[0]).unwrap();
    let ip = Ipv4Header { fragment_offset: 992, more_fragments: true, ..header(US, IpProtocol::UDP, 0) };
    assert_eq!(host.receive(&packet(ip, &datagram[992..1_992])), Err(DropReason::FragmentOverlap));
}
