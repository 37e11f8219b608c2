//! Filters against what is known of the frames that they are asked about; tcpdump itself is asked in `apps/tests/ns/capture.rs`.

use super::*;
use ntytcp::wire::{
    ArpOperation, ArpPacket, EtherType, EthernetHeader, IpProtocol, Ipv4Header, Ipv6Header, VlanTag, VlanTags,
};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a frame is made of.
#[derive(Clone, Debug)]
struct Known {
    vlans: Vec<u16>,
    stations: (MacAddr, MacAddr),
    packet: Packet,
    padding: usize,
}

#[derive(Clone, Debug)]
enum Packet {
    Arp(Ipv4Addr, Ipv4Addr),
    V4 { addrs: (Ipv4Addr, Ipv4Addr), protocol: u8, fragment: bool, options: bool, ports: (u16, u16) },
    V6 { addrs: (Ipv6Addr, Ipv6Addr), protocol: u8, ports: (u16, u16) },
    Other,
}

impl Known {
    fn bytes(&self) -> Vec<u8> {
        let tag = |id: &u16| VlanTag::new(*id | 0x2000);
        let vlan = match self.vlans.as_slice() {
            [] => VlanTags::NONE,
            [one] => VlanTags::single(tag(one)),
            [one, two, ..] => VlanTags::double(VlanTag { tpid: EtherType::QINQ, ..tag(one) }, tag(two)),
        };
        let (src, dst) = self.stations;
        let ethertype = match self.packet {
            Packet::Arp(..) => EtherType::ARP,
            Packet::V4 { .. } => EtherType::IPV4,
            Packet::V6 { .. } => EtherType::IPV6,
            Packet::Other => EtherType::LLDP,
        };
        let mut frame = vec![0; 22];
        let len = EthernetHeader { dst, src, vlan, ethertype }.emit(&mut frame).unwrap();
        frame.truncate(len);
        frame.extend(self.packet.bytes());
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    fn is(&self, primitive: &Primitive, tags: usize) -> bool {
        let (src, dst) = self.stations;
        match primitive {
            Primitive::Station(direction, mac) => among(*direction, src == *mac, dst == *mac),
            Primitive::Broadcast => dst == MacAddr::BROADCAST,
            Primitive::Multicast => dst.0[0] % 2 == 1,
            Primitive::Vlan(id) => self.vlans.get(tags).is_some_and(|v| id.is_none_or(|id| id == *v)),
            Primitive::Less(length) => self.bytes().len() as u32 <= *length,
            Primitive::Greater(length) => self.bytes().len() as u32 >= *length,
            Primitive::Protocol(_) | Primitive::Address(..) | Primitive::Port(..) => {
                tags == self.vlans.len() && self.packet.is(primitive)
            }
        }
    }
}

/// What a direction makes of whether each side satisfies something.
fn among(direction: Direction, src: bool, dst: bool) -> bool {
    match direction {
        Direction::Src => src,
        Direction::Dst => dst,
        Direction::Either => src | dst,
        Direction::Both => src & dst,
    }
}

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let head = |(src, dst): &(u16, u16)| [src.to_be_bytes(), dst.to_be_bytes(), [0; 2], [0; 2]].concat();
        match self {
            Self::Arp(sender_ip, target_ip) => {
                let mut bytes = vec![0; ArpPacket::LEN];
                let (sender_mac, target_mac) = (MacAddr([2; 6]), MacAddr::ZERO);
                let (sender_ip, target_ip, operation) = (*sender_ip, *target_ip, ArpOperation::Request);
                ArpPacket { operation, sender_mac, sender_ip, target_mac, target_ip }.emit(&mut bytes);
                bytes
            }
            Self::V4 { addrs: (src, dst), protocol, fragment, options, ports } => {
                let header = Ipv4Header {
                    dscp_ecn: 0,
                    total_len: 28 + if *options { 4 } else { 0 },
                    ident: 7,
                    dont_fragment: false,
                    more_fragments: false,
                    fragment_offset: if *fragment { 1_480 } else { 0 },
                    ttl: 64,
                    protocol: IpProtocol(*protocol),
                    src: *src,
                    dst: *dst,
                    options: if *options { &[1, 1, 1, 0] } else { &[] },
                };
                let mut bytes = vec![0; 60];
                let len = header.emit(&mut bytes).unwrap();
                bytes.truncate(len);
                bytes.extend(head(ports));
                bytes
            }
            Self::V6 { addrs: (src, dst), protocol, ports } => {
                let mut bytes = vec![0; 40];
                let next_header = IpProtocol(*protocol);
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: 0,
                    payload_len: 8,
                    next_header,
                    hop_limit: 64,
                    src: *src,
                    dst: *dst,
                };
                header.emit(&mut bytes).unwrap();
                bytes.extend(head(ports));
                bytes
            }
            Self::Other => vec![0; 40],
        }
    }

    fn is(&self, primitive: &Primitive) -> bool {
        let (protocol, addrs, carried, ports): (_, (IpAddr, IpAddr), _, _) = match self {
            Self::Arp(a, b) => (Protocol::Arp, ((*a).into(), (*b).into()), None, None),
            Self::V4 { addrs: (a, b), protocol, fragment, ports, .. } => {
                (Protocol::Ip, ((*a).into(), (*b).into()), Some(*protocol), (!fragment).then_some(*ports))
            }
            Self::V6 { addrs: (a, b), protocol, ports } => {
                (Protocol::Ip6, ((*a).into(), (*b).into()), Some(*protocol), Some(*ports))
            }
            Self::Other => return false,
        };
        match primitive {
            Primitive::Protocol(wanted) => {
                *wanted == protocol
                    || matches!(
                        (wanted, carried, protocol),
                        (Protocol::Tcp, Some(6), _)
                            | (Protocol::Udp, Some(17), _)
                            | (Protocol::Icmp, Some(1), Protocol::Ip)
                            | (Protocol::Icmp6, Some(58), Protocol::Ip6)
                    )
            }
            Primitive::Address(of, direction, prefix) => {
                let within = |addr| prefix.contains(addr);
                of.is_none_or(|of| of == protocol) && among(*direction, within(addrs.0), within(addrs.1))
            }
            Primitive::Port(of, direction, first, last) => {
                let transport = match of {
                    Some(Protocol::Tcp) => carried == Some(6),
                    Some(_) => carried == Some(17),
                    None => matches!(carried, Some(6 | 17 | 132)),
                };
                let within = |port| *first <= port && port <= *last;
                transport && ports.is_some_and(|(a, b)| among(*direction, within(a), within(b)))
            }
            _ => unreachable!("asked of the frame"),
        }
    }
}

/// The verdict by what is known; `tags` are the `vlan`s so far.
fn expected(expression: &Expression, known: &Known, tags: &mut usize) -> bool {
    match expression {
        Expression::Primitive(primitive) => {
            let is = known.is(primitive, *tags);
            *tags += usize::from(matches!(primitive, Primitive::Vlan(_)));
            is
        }
        Expression::Not(inner) => !expected(inner, known, tags),
        Expression::And(a, b) => {
            let (a, b) = (expected(a, known, tags), expected(b, known, tags));
            a && b
        }
        Expression::Or(a, b) => {
            let (a, b) = (expected(a, known, tags), expected(b, known, tags));
            a || b
        }
    }
}

/// Whether something is asked that lies behind a tag which the frame does not have: then tcpdump looks at whatever is there, and so do we.
fn looks_astray(expression: &Expression, known: &Known, tags: &mut usize) -> bool {
    match expression {
        Expression::Primitive(Primitive::Vlan(_)) => {
            *tags += 1;
            false
        }
        Expression::Primitive(Primitive::Protocol(_) | Primitive::Address(..) | Primitive::Port(..)) => {
            *tags > known.vlans.len()
        }
        Expression::Primitive(_) => false,
        Expression::Not(inner) => looks_astray(inner, known, tags),
        Expression::And(a, b) | Expression::Or(a, b) => {
            looks_astray(a, known, tags) | looks_astray(b, known, tags)
        }
    }
}

// Few values of each, so that filters and frames meet.

fn v4() -> impl Strategy<Value = Ipv4Addr> {
    (0..4_u8).prop_map(|n| Ipv4Addr::new(10, n / 2, 0, n))
}

fn v6() -> impl Strategy<Value = Ipv6Addr> {
    (0..3_u16).prop_map(|n| Ipv6Addr::new(0x2001, 0xdb8, n / 2, 0, 0, 0, 0, n))
}

fn mac() -> impl Strategy<Value = MacAddr> {
    prop_oneof![
        (0..3_u8).prop_map(|n| MacAddr([2, 0, 0, 0, 0, n])),
        Just(MacAddr::BROADCAST),
        Just(MacAddr([1, 0, 0x5e, 0, 0, 1])),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![Just(53_u16), Just(80), Just(443), Just(0), Just(65_535)]
}

fn packet() -> impl Strategy<Value = Packet> {
    let carried = || prop_oneof![Just(1_u8), Just(6), Just(17), Just(58), Just(132), Just(50)];
    let (options, fragment) = (any::<bool>(), prop::bool::weighted(0.2));
    prop_oneof![
        (v4(), v4()).prop_map(|(a, b)| Packet::Arp(a, b)),
        ((v4(), v4()), carried(), (port(), port()), fragment, options).prop_map(
            |(addrs, protocol, ports, fragment, options)| {
                Packet::V4 { addrs, protocol, fragment, options, ports }
            }
        ),
        ((v6(), v6()), carried(), (port(), port())).prop_map(|(addrs, protocol, ports)| Packet::V6 {
            addrs,
            protocol,
            ports
        }),
        Just(Packet::Other),
    ]
}

fn known() -> impl Strategy<Value = Known> {
    let vlans = prop_oneof![
        3 => Just(vec![]),
        1 => prop::collection::vec(1..4_u16, 1..3)
    ];
    (vlans, (mac(), mac()), packet(), 0..30_usize).prop_map(|(vlans, stations, packet, padding)| Known {
        vlans,
        stations,
        packet,
        padding,
    })
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Src), Just(Direction::Dst), Just(Direction::Either), Just(Direction::Both)]
}

fn primitive() -> impl Strategy<Value = Primitive> {
    let v4_prefix = (v4(), 0..=32_u8).prop_map(|(a, len)| Prefix::containing(a.into(), len).unwrap());
    let v6_prefix = (v6(), 0..=128_u8).prop_map(|(a, len)| Prefix::containing(a.into(), len).unwrap());
    let of_v4 = prop_oneof![Just(None), Just(Some(Protocol::Ip)), Just(Some(Protocol::Arp))];
    let of_v6 = prop_oneof![Just(None), Just(Some(Protocol::Ip6))];
    let transport = prop_oneof![Just(None), Just(Some(Protocol::Tcp)), Just(Some(Protocol::Udp))];
    prop_oneof![
        3 => prop::sample::select(Protocol::ALL.to_vec()).prop_map(Primitive::Protocol),
        3 => (of_v4, direction(), v4_prefix).prop_map(|(p, d, n)| Primitive::Address(p, d, n)),
        2 => (of_v6, direction(), v6_prefix).prop_map(|(p, d, n)| Primitive::Address(p, d, n)),
        3 => (transport, direction(), port(), port())
            .prop_map(|(t, d, a, b)| Primitive::Port(t, d, a.min(b), a.max(b))),
        1 => (direction(), mac()).prop_map(|(d, mac)| Primitive::Station(d, mac)),
        1 => Just(Primitive::Broadcast),
        1 => Just(Primitive::Multicast),
        1 => prop::option::of(1..4_u16).prop_map(Primitive::Vlan),
        1 => (40..110_u32).prop_map(Primitive::Less),
        1 => (40..110_u32).prop_map(Primitive::Greater),
    ]
}

fn expression() -> impl Strategy<Value = Expression> {
    primitive().prop_map(Expression::Primitive).prop_recursive(5, 24, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|e| Expression::Not(e.into())),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Expression::And(a.into(), b.into())),
            (inner.clone(), inner).prop_map(|(a, b)| Expression::Or(a.into(), b.into())),
        ]
    })
}

proptest! {
    #[test]
    fn a_filter_reads_as_it_prints(expression in expression()) {
        let filter = Filter { expression: Some(expression) };
        prop_assert_eq!(filter.to_string().parse(), Ok(filter));
    }

    #[test]
    fn the_verdict_is_that_of_what_is_known_of_the_frame(expression in expression(), known in known()) {
        prop_assume!(!looks_astray(&expression, &known, &mut 0));
        let (frame, wanted) = (known.bytes(), expected(&expression, &known, &mut 0));
        let filter = Filter { expression: Some(expression) };
        prop_assert_eq!(filter.matches(&frame, frame.len()), wanted, "{}", filter);
    }

    #[test]
    fn no_frame_and_no_beginning_of_one_is_too_odd(
        expression in expression(), known in known(), noise in prop::collection::vec(any::<u8>(), 0..90), cut in 0..90_usize
    ) {
        let filter = Filter { expression: Some(expression) };
        let mut frame = known.bytes();
        frame.truncate(cut);
        filter.matches(&frame, 90);
        filter.matches(&noise, noise.len());
    }

    #[test]
    fn any_text_is_a_filter_or_one_line(
        text in prop_oneof![
            ".{0,60}",
            prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..20).prop_map(|words| words.join(" ")),
        ]
    ) {
        match text.parse::<Filter>() {
            Ok(filter) => prop_assert_eq!(filter.to_string().parse(), Ok(filter)),
            Err(error) => {
                prop_assert!(error.column >= 1 && error.column <= text.chars().count() + 1);
                prop_assert!(!error.to_string().contains('\n') || text.contains('\n'));
            }
        }
    }
}

const WORDS: [&str; 30] = [
    "and",
    "or",
    "not",
    "(",
    ")",
    "!",
    "&&",
    "||",
    "src",
    "dst",
    "host",
    "net",
    "port",
    "portrange",
    "tcp",
    "udp",
    "icmp",
    "ip",
    "ip6",
    "arp",
    "ether",
    "vlan",
    "less",
    "10.0.0.1",
    "10/8",
    "::1",
    "53",
    "1-9",
    "02:00:00:00:00:01",
    "&",
];

#[test]
fn shorter_ways_to_write_it_mean_the_same() {
    for (short, long) in [
        ("", ""),
        ("10.0.0.1", "host 10.0.0.1"),
        ("src 10.0.0.1", "src host 10.0.0.1"),
        ("arp dst 10.0.0.1", "arp dst host 10.0.0.1"),
        ("dst or src port 53", "port 53"),
        ("dst and src port 53", "src and dst port 53"),
        ("net 10", "net 10.0.0.0/8"),
        ("net 10.1/16", "net 10.1.0.0/16"),
        ("net 10.1.2.3", "host 10.1.2.3"),
        ("! tcp&&!(udp||icmp)", "not tcp and not (udp or icmp)"),
        ("tcp or udp and port 5", "tcp or udp and port 5"),
        ("(tcp or udp) and port 5", "tcp or udp and port 5"),
        ("tcp or (udp and port 5)", "tcp or (udp and port 5)"),
        ("ether src 02:00:00:00:00:01", "ether src host 02:00:00:00:00:01"),
        ("vlan 100 and ip", "vlan 100 and ip"),
        ("portrange 5-5", "port 5"),
    ] {
        assert_eq!(short.parse::<Filter>().expect(short).to_string(), long);
    }
}

#[test]
fn a_mistake_is_told_with_its_column() {
    for (text, column, word) in [
        ("tcp prt 80", 5, "\"prt\" follows a complete term: leave it out"),
        ("tcp udp", 5, "write \"and\" or \"or\" in front of it"),
        ("port", 5, "ends where the number of a port"),
        ("port http", 6, "\"http\" stands where the number of a port, 0 to 65535, should"),
        ("port 65536", 6, "0 to 65535"),
        ("host www.example.org", 6, "names are not looked up"),
        ("host 10.0.0.0/8", 6, "write \"net 10.0.0.0/8\""),
        ("net 10.0.0.1/8", 5, "did you mean 10.0.0.0/8?"),
        ("net 10.0.0.0.0/8", 5, "no network"),
        ("net 10.0.0.0/33", 5, "at most 32"),
        ("udp and (port 53", 17, "ends where \"and\", \"or\" or \")\" should follow"),
        ("udp)", 4, "closes nothing"),
        ("and", 1, "\"and\" stands where ip, ip6, arp"),
        ("not", 4, "ends where ip, ip6"),
        ("tcp host 10.0.0.1", 10, "write \"tcp and\""),
        ("ip host ::1", 9, "ip has no addresses like ::1"),
        ("icmp port 7", 6, "icmp has no ports"),
        ("src or host 10.0.0.1", 8, "\"host\" stands where dst should"),
        ("src host", 9, "an address"),
        ("portrange 9-1", 11, "write 1-9"),
        ("portrange 9", 11, "two ports"),
        ("ether 02:00:00:00:00:01", 7, "host, src, dst, broadcast"),
        ("ether host x", 12, "the address of a station"),
        ("vlan 4096", 6, "0 to 4095"),
        ("less", 5, "a length"),
        ("proto 6", 1, "\"proto\" stands where"),
        ("tcp & udp", 5, "\"&\" follows"),
        ("grün", 1, "\"grün\""),
    ] {
        let error = text.parse::<Filter>().expect_err(text);
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.to_string().contains(word), "{text}: {error}");
    }
}

#[test]
fn depth_and_length_are_bounded() {
    let nested = |n: usize| format!("{}ip{}", "(".repeat(n), ")".repeat(n)).parse::<Filter>();
    assert!(nested(63).is_ok());
    assert!(nested(64).unwrap_err().to_string().contains("more than 64"));
    assert!("not ".repeat(1_000).parse::<Filter>().unwrap_err().to_string().contains("more than 64"));
    let chain = |n: usize| format!("{}ip", "ip or ".repeat(n)).parse::<Filter>();
    assert!(chain(682).unwrap().matches(&[0; 60], 60) == chain(0).unwrap().matches(&[0; 60], 60));
    assert!(chain(683).unwrap_err().to_string().contains("4096 at most"));
}
