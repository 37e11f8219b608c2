//! Whatever a wire carries, the stack goes on.

use proptest::collection::vec;
use proptest::prelude::*;

use super::kit::*;
use crate::device::{RxChecksum, RxMeta};
use crate::wire::{EtherType, IpProtocol, Ipv4Header};

fn busy_host() -> Host {
    let mut host = Host::acquainted();
    host.stack.udp_bind(at(US, 7)).unwrap();
    let connected = host.stack.udp_bind(at(US, 8)).unwrap();
    host.stack.udp_connect(connected, Some(at(PEER, 1))).unwrap();
    host.stack.echo_open().unwrap();
    host
}

/// Takes `frames`, then checks that a ping is still answered and time still moves.
fn survives(frames: &[Vec<u8>], meta: RxMeta) {
    let mut host = busy_host();
    for frame in frames {
        let _ = host.receive_with(frame, meta);
    }
    host.pass(crate::time::Duration::from_secs(100));
    let mut message = vec![0; 8];
    crate::wire::Icmpv4Message::EchoRequest { ident: 1, seq: 1, payload: &[] }.emit(&mut message).unwrap();
    let ping = packet(header(US, IpProtocol::ICMP, 8), &message);
    assert!(host.receive(&ping).unwrap().is_some());
    let counters = host.stack.counters();
    assert_eq!(counters.rx_frames, frames.len() as u64 + 1);
}

fn meta() -> impl Strategy<Value = RxMeta> {
    let checksum = prop_oneof![
        Just(RxChecksum::Unknown),
        Just(RxChecksum::Verified),
        Just(RxChecksum::Partial { start: 34, offset: 6 }),
    ];
    (checksum, any::<Option<u16>>(), any::<Option<u16>>()).prop_map(|(checksum, vlan, gso_size)| RxMeta {
        checksum,
        vlan: vlan.filter(|v| v % 2 == 0),
        gso_size,
        ..RxMeta::default()
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes(frames in vec(vec(any::<u8>(), 0..200), 1..10), meta in meta()) {
        survives(&frames, meta);
    }

    #[test]
    fn arbitrary_payloads_of_our_ethertypes(payloads in vec((any::<bool>(), vec(any::<u8>(), 0..200)), 1..10), meta in meta()) {
        let ethertype = |arp| if arp { EtherType::ARP } else { EtherType::IPV4 };
        let frames: Vec<_> = payloads.iter().map(|(arp, p)| ethernet(OUR_MAC, ethertype(*arp), p)).collect();
        survives(&frames, meta);
    }

    #[test]
    fn arbitrary_payloads_of_packets_to_us(
        packets in vec((prop_oneof![Just(1u8), Just(6), Just(17), any::<u8>()], 0u16..4, any::<bool>(), vec(any::<u8>(), 0..100), vec(any::<u8>(), 0..40)), 1..20),
        meta in meta(),
    ) {
        let frames: Vec<_> = packets.iter().map(|(protocol, offset, more, payload, options)| {
            let ip = Ipv4Header {
                fragment_offset: offset * 8, more_fragments: *more, options, ..header(US, IpProtocol(*protocol), 0)
            };
            packet(ip, payload)
        }).collect();
        survives(&frames, meta);
    }
}
