//! Generators of frames, and of ways to spoil them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ntytcp::wire::{
    ArpOperation, ArpPacket, EtherType, EthernetHeader, FastOpenCookie, Icmpv4Message, Icmpv6Header,
    IpProtocol, Ipv4Header, Ipv6Header, MacAddr, SackBlocks, Seq, TcpFlags, TcpHeader, TcpOptions,
    Timestamps, UdpHeader, VlanTag, VlanTags,
};
use proptest::prelude::*;

/// A change to a frame.
#[derive(Clone, Debug)]
pub(crate) enum Mutation {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Truncate(prop::sample::Index),
    Append(Vec<u8>),
}

impl Mutation {
    pub(crate) fn apply(&self, frame: &mut Vec<u8>) {
        // Most changes go to the headers, as payload is of no interest to parsers.
        let headers = frame.len().min(100);
        match self {
            _ if frame.is_empty() => {}
            Self::Set(at, byte) => frame[at.index(headers)] = *byte,
            Self::Flip(at, bit) => frame[at.index(headers)] ^= 1 << (bit % 8),
            Self::Truncate(at) => frame.truncate(at.index(frame.len())),
            Self::Append(bytes) => frame.extend(bytes),
        }
    }
}

pub(crate) fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        3 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        3 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        1 => any::<prop::sample::Index>().prop_map(Mutation::Truncate),
        1 => prop::collection::vec(any::<u8>(), 1..20).prop_map(Mutation::Append),
    ]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..200)
}

fn options() -> impl Strategy<Value = TcpOptions> {
    let sack = prop::collection::vec(any::<(u32, u32)>(), 0..=4).prop_map(|blocks| {
        let mut sack = SackBlocks::default();
        blocks.into_iter().for_each(|(left, right)| assert!(sack.push(Seq(left), Seq(right))));
        sack
    });
    let cookie = prop_oneof![Just(0usize), (2usize..=8).prop_map(|n| n * 2)]
        .prop_flat_map(|len| prop::collection::vec(any::<u8>(), len))
        .prop_map(|bytes| FastOpenCookie::new(&bytes).unwrap());
    let timestamps = any::<(u32, u32)>().prop_map(|(value, echo)| Timestamps { value, echo });
    (
        any::<Option<u16>>(),
        prop::option::of(0u8..=14),
        any::<bool>(),
        prop_oneof![3 => Just(SackBlocks::default()), 1 => sack],
        prop::option::of(timestamps),
        prop::option::weighted(0.1, cookie),
    )
        .prop_map(|(mss, window_scale, sack_permitted, sack, timestamps, fast_open)| TcpOptions {
            mss,
            window_scale,
            sack_permitted,
            sack,
            timestamps,
            fast_open,
        })
}

pub(crate) fn tcp_header() -> impl Strategy<Value = TcpHeader> {
    (any::<(u16, u16, u32, u32, u8, u16, u16, u16)>(), options()).prop_map(
        |((src_port, dst_port, seq, ack, flags, window, checksum, urgent), options)| TcpHeader {
            src_port,
            dst_port,
            seq: Seq(seq),
            ack: Seq(ack),
            flags: TcpFlags::from_bits_retain(flags),
            window,
            checksum,
            urgent,
            options,
        },
    )
}

/// The header as it comes back from the wire: without the SACK blocks that 40 bytes of options have no room for.
pub(crate) fn with_blocks_that_fit(mut header: TcpHeader) -> TcpHeader {
    let used = TcpOptions { sack: SackBlocks::default(), ..header.options }.len();
    let mut sack = SackBlocks::default();
    for (left, right) in header.options.sack.iter() {
        if used + 4 + 8 * (sack.len() + 1) <= 40 {
            assert!(sack.push(left, right));
        }
    }
    header.options.sack = sack;
    header
}

/// Sequences of options, most of them well-formed, cut to 40 bytes wherever that may be.
pub(crate) fn option_area() -> impl Strategy<Value = Vec<u8>> {
    let sized = |kind: u8, len: usize| {
        prop::collection::vec(any::<u8>(), len)
            .prop_map(move |body| [&[kind, body.len() as u8 + 2][..], &body].concat())
    };
    let option = prop_oneof![
        4 => Just(vec![1]),
        1 => Just(vec![0]),
        2 => sized(2, 2),
        2 => sized(3, 1),
        2 => sized(4, 0),
        2 => (1usize..=4).prop_flat_map(move |n| sized(5, 8 * n)),
        2 => sized(8, 8),
        1 => (0usize..=8).prop_flat_map(move |n| sized(34, 2 * n)),
        1 => (any::<u8>(), 0usize..12).prop_flat_map(move |(kind, len)| sized(kind, len)),
        1 => any::<(u8, u8)>().prop_map(|(kind, len)| vec![kind, len]),
    ];
    prop::collection::vec(option, 0..8).prop_map(|options| {
        let mut area = options.concat();
        area.truncate(40);
        area
    })
}

/// The upper layer of a packet, checksum right for these addresses, and its protocol.
fn upper_layer(src: IpAddr, dst: IpAddr) -> BoxedStrategy<(IpProtocol, Vec<u8>)> {
    let tcp = (tcp_header(), payload()).prop_map(move |(header, data)| {
        let mut segment = vec![0; header.header_len()];
        header.emit(&mut segment).unwrap();
        segment.extend(data);
        TcpHeader::fill_checksum(src, dst, &mut segment).unwrap();
        (IpProtocol::TCP, segment)
    });
    let udp =
        (any::<(u16, u16, bool)>(), payload()).prop_map(move |((src_port, dst_port, checksum), data)| {
            let mut datagram = vec![0; 8];
            let length = (data.len() + 8) as u16;
            UdpHeader { src_port, dst_port, length, checksum: 0 }.emit(&mut datagram).unwrap();
            datagram.extend(data);
            if checksum || src.is_ipv6() {
                UdpHeader::fill_checksum(src, dst, &mut datagram).unwrap();
            }
            (IpProtocol::UDP, datagram)
        });
    let icmp = (0u8..6, any::<(u8, u16, u16)>(), payload()).prop_map(move |(which, (code, a, b), data)| {
        let message = match which {
            0 => Icmpv4Message::EchoRequest { ident: a, seq: b, payload: &data },
            1 => Icmpv4Message::EchoReply { ident: a, seq: b, payload: &data },
            2 => Icmpv4Message::DestinationUnreachable { code, next_hop_mtu: b, quote: &data },
            3 => Icmpv4Message::TimeExceeded { code, quote: &data },
            4 => Icmpv4Message::ParameterProblem { pointer: b as u8, code, quote: &data },
            _ => Icmpv4Message::Other { kind: 13, code, body: &[0; 16] },
        };
        let mut bytes = vec![0; message.len()];
        message.emit(&mut bytes).unwrap();
        (IpProtocol::ICMP, bytes)
    });
    let icmpv6 = (any::<(u8, u8)>(), payload()).prop_map(move |((kind, code), data)| {
        let mut bytes = vec![0; 4];
        Icmpv6Header { kind, code, checksum: 0 }.emit(&mut bytes).unwrap();
        bytes.extend(data);
        if let (IpAddr::V6(src), IpAddr::V6(dst)) = (src, dst) {
            Icmpv6Header::fill_checksum(src, dst, &mut bytes).unwrap();
        }
        (IpProtocol::ICMPV6, bytes)
    });
    if src.is_ipv4() {
        prop_oneof![3 => tcp, 2 => udp, 2 => icmp].boxed()
    } else {
        prop_oneof![3 => tcp, 2 => udp, 2 => icmpv6].boxed()
    }
}

fn ipv4_packet() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![4 => Just((false, 0u16)), 1 => (any::<bool>(), 0u16..8_000)];
    let fixed = (any::<(u8, u16, bool, u8)>(), fragment, prop::collection::vec(any::<u8>(), 0..=40));
    any::<(Ipv4Addr, Ipv4Addr)>()
        .prop_flat_map(move |(src, dst)| {
            (Just((src, dst)), upper_layer(src.into(), dst.into()), fixed.clone())
        })
        .prop_map(
            |(
                (src, dst),
                (protocol, body),
                ((dscp_ecn, ident, dont_fragment, ttl), (more, offset), options),
            )| {
                let mut header = Ipv4Header {
                    dscp_ecn,
                    total_len: 0,
                    ident,
                    dont_fragment,
                    more_fragments: more,
                    fragment_offset: offset * 8,
                    ttl,
                    protocol,
                    src,
                    dst,
                    options: if ident % 4 == 0 { &options } else { &[] },
                };
                header.total_len = (header.header_len() + body.len()) as u16;
                let mut packet = vec![0; header.header_len()];
                header.emit(&mut packet).unwrap();
                packet.extend(body);
                packet
            },
        )
}

/// Extension headers, each with the number by which the header before it announces it.
fn extensions() -> impl Strategy<Value = Vec<(IpProtocol, Vec<u8>)>> {
    let tlv = |protocol| {
        (0u8..3, any::<[u8; 32]>()).prop_map(move |(len, fill)| {
            (protocol, [&[0, len][..], &fill[..6 + 8 * usize::from(len)]].concat())
        })
    };
    let fragment = any::<[u8; 4]>().prop_map(|id| (IpProtocol::IPV6_FRAGMENT, [&[0; 4][..], &id].concat()));
    let ah = (1u8..4, any::<[u8; 32]>()).prop_map(|(len, fill)| {
        (IpProtocol::AH, [&[0, len][..], &fill[..6 + 4 * usize::from(len)]].concat())
    });
    let later = prop_oneof![tlv(IpProtocol::IPV6_ROUTING), tlv(IpProtocol::IPV6_DEST_OPTIONS), fragment, ah];
    (prop::option::of(tlv(IpProtocol::HOP_BY_HOP)), prop::collection::vec(later, 0..4))
        .prop_map(|(first, later)| first.into_iter().chain(later).collect())
}

fn ipv6_packet() -> impl Strategy<Value = Vec<u8>> {
    any::<(Ipv6Addr, Ipv6Addr)>()
        .prop_flat_map(|(src, dst)| {
            let extensions = prop_oneof![2 => Just(Vec::new()), 1 => extensions()];
            (Just((src, dst)), upper_layer(src.into(), dst.into()), any::<(u8, u32, u8)>(), extensions)
        })
        .prop_map(|((src, dst), (protocol, body), (traffic_class, flow_label, hop_limit), extensions)| {
            // From the inside out: each header names what follows it.
            let mut next_header = protocol;
            let mut payload = body;
            for (kind, mut header) in extensions.into_iter().rev() {
                header[0] = next_header.0;
                payload.splice(0..0, header);
                next_header = kind;
            }
            let payload_len = payload.len() as u16;
            let header =
                Ipv6Header { traffic_class, flow_label, payload_len, next_header, hop_limit, src, dst };
            let mut packet = vec![0; Ipv6Header::LEN];
            header.emit(&mut packet).unwrap();
            packet.extend(payload);
            packet
        })
}

fn arp_packet() -> impl Strategy<Value = Vec<u8>> {
    any::<(u16, [u8; 6], Ipv4Addr, [u8; 6], Ipv4Addr)>().prop_map(|(op, a, sender_ip, b, target_ip)| {
        let operation = match op % 4 {
            0 => ArpOperation::Other(op | 4),
            1 => ArpOperation::Request,
            _ => ArpOperation::Reply,
        };
        let (sender_mac, target_mac) = (MacAddr(a), MacAddr(b));
        let mut bytes = vec![0; 28];
        ArpPacket { operation, sender_mac, sender_ip, target_mac, target_ip }.emit(&mut bytes).unwrap();
        bytes
    })
}

/// A valid frame of any kind, tagged or not, padded to the Ethernet minimum or not.
pub(crate) fn frame() -> impl Strategy<Value = Vec<u8>> {
    let packet = prop_oneof![
        1 => arp_packet().prop_map(|p| (EtherType::ARP, p)),
        5 => ipv4_packet().prop_map(|p| (EtherType::IPV4, p)),
        3 => ipv6_packet().prop_map(|p| (EtherType::IPV6, p)),
    ];
    let tag = (any::<bool>(), any::<u16>()).prop_map(|(service, tci)| VlanTag {
        tpid: if service { EtherType::QINQ } else { EtherType::VLAN },
        tci,
    });
    let vlan = prop_oneof![
        3 => Just(VlanTags::NONE),
        1 => tag.clone().prop_map(VlanTags::single),
        1 => (tag.clone(), tag).prop_map(|(a, b)| VlanTags::double(a, b)),
    ];
    (any::<[u8; 6]>(), any::<[u8; 6]>(), vlan, packet, any::<bool>()).prop_map(
        |(dst, src, vlan, (ethertype, packet), pad)| {
            let header = EthernetHeader { dst: MacAddr(dst), src: MacAddr(src), vlan, ethertype };
            let mut frame = vec![0; header.len()];
            header.emit(&mut frame).unwrap();
            frame.extend(packet);
            if pad && frame.len() < EthernetHeader::MIN_FRAME {
                frame.resize(EthernetHeader::MIN_FRAME, 0);
            }
            frame
        },
    )
}
