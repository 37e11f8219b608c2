use super::*;
use crate::rng::{Rng, seed_from};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn claims(text: &str) -> Vec<Claim> {
    text.split(',').filter(|item| !item.is_empty()).map(|item| item.parse().unwrap()).collect()
}

/// Claims of every shape, to two addresses of each family.
pub(crate) fn ownerships() -> Vec<Ownership> {
    let addrs = || ["10.0.0.2", "192.168.7.1", "fd00::2", "fe80::1"].map(ip);
    [
        "",
        "tcp/80",
        "tcp/80,udp/53",
        "udp,tcp/8000-8100,icmp",
        "tcp,arp",
        "tcp/1-22,tcp/53,udp/61000-65535,arp,icmp",
    ]
    .map(|text| Ownership::new(&claims(text), addrs()))
    .into()
}

fn choose<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len() as u32) as usize]
}

fn port(rng: &mut Rng) -> [u8; 2] {
    choose(
        rng,
        &[0_u16, 1, 22, 23, 53, 53, 80, 80, 80, 7_999, 8_000, 8_050, 8_100, 8_101, 60_999, 61_000, 65_535],
    )
    .to_be_bytes()
}

/// A layer-4 header; of an error, with a quote that goes `deeper` levels down.
fn body(rng: &mut Rng, protocol: u8, deeper: u32) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    match protocol {
        1 | 58 => {
            bytes[0] = choose(rng, &[0, 1, 2, 3, 4, 5, 8, 11, 12, 128, 129, 133, 135]);
            if deeper > 0 {
                bytes.extend(packet(rng, protocol == 1, deeper - 1));
            }
        }
        _ => {
            bytes[..2].copy_from_slice(&port(rng));
            bytes[2..4].copy_from_slice(&port(rng));
        }
    }
    bytes
}

fn packet(rng: &mut Rng, v4: bool, deeper: u32) -> Vec<u8> {
    if v4 {
        let words = choose(rng, &[5, 5, 5, 5, 5, 5, 6, 9, 15, 4, 0]);
        let mut bytes = vec![0; 20.max(words * 4)];
        bytes[0] = choose(rng, &[0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x50]) | words as u8;
        let fragment =
            choose(rng, &[0_u16, 0, 0, 0x4000, 0x4000, 0x4000, 0x8000, 0x2000, 0x2001, 1, 0x1fff, 0x100]);
        bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
        bytes[9] = choose(rng, &[1, 1, 6, 6, 17, 17, 58, 47]);
        bytes[16..20].copy_from_slice(&choose(
            rng,
            &[[10, 0, 0, 2], [192, 168, 7, 1], [10, 0, 0, 2], [10, 0, 0, 3], [224, 0, 0, 1]],
        ));
        let protocol = bytes[9];
        bytes.extend(body(rng, protocol, deeper));
        bytes
    } else {
        let mut bytes = vec![0; 40];
        bytes[0] = choose(rng, &[0x60, 0x60, 0x60, 0x40]);
        bytes[6] = choose(rng, &[58, 58, 6, 6, 17, 17, 0, 44, 1]);
        let dst: Ipv6Addr = choose(rng, &["fd00::2", "fe80::1", "fd00::3", "ff02::1"]).parse().unwrap();
        bytes[24..40].copy_from_slice(&dst.octets());
        let protocol = bytes[6];
        bytes.extend(body(rng, protocol, deeper));
        bytes
    }
}

/// A frame such as nobody sends, but that is near to what a filter looks for; at least 14 bytes.
pub(crate) fn random_frame(rng: &mut Rng) -> Vec<u8> {
    let mut frame = vec![2; 12];
    for _ in 0..choose(rng, &[0, 0, 0, 1, 2]) {
        let tag: [u8; 4] =
            choose(rng, &[[0x81, 0, 0, 0], [0x81, 0, 0xe0, 0], [0x81, 0, 0, 7], [0x88, 0xa8, 0, 0]]);
        frame.extend(tag);
    }
    match choose(rng, &[4, 4, 4, 4, 6, 6, 0, 1]) {
        0 => {
            let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
            arp.extend([2; 20]);
            arp[14..18].copy_from_slice(&choose(rng, &[[10, 0, 0, 2], [10, 0, 0, 1], [0; 4]]));
            arp[24..28].copy_from_slice(&choose(rng, &[[10, 0, 0, 2], [10, 0, 0, 1], [192, 168, 7, 1]]));
            frame.extend([8, 6]);
            frame.extend(arp);
        }
        1 => frame.extend([0x88, 0xcc, 1, 2, 3]),
        family => {
            let v4 = family == 4;
            frame.extend(if v4 { [8, 0] } else { [0x86, 0xdd] });
            frame.extend(packet(rng, v4, 2));
        }
    }
    match rng.below(4) {
        0 => frame.truncate(14 + rng.below(frame.len() as u32 - 13) as usize),
        1 => {
            let at = 12 + rng.below(frame.len() as u32 - 12) as usize;
            frame[at] ^= 1 << rng.below(8);
        }
        _ => {}
    }
    frame
}

/// An IPv4 frame to an address.
fn v4_frame(dst: [u8; 4], protocol: u8, fragment: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0, 0, 0, 0, 0]);
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, protocol, 0, 0, 10, 0, 0, 1]);
    frame.extend(dst);
    frame.extend(body);
    frame
}

const OURS: [u8; 4] = [10, 0, 0, 2];

fn to_port(protocol: u8, port: u16) -> Vec<u8> {
    let [a, b] = port.to_be_bytes();
    v4_frame(OURS, protocol, 0, &[0xee, 0xee, a, b, 0, 0, 0, 0])
}

#[test]
fn claims_are_read_and_shown() {
    for text in ["tcp/80", "udp/53", "tcp/8000-8100", "tcp", "udp", "icmp", "arp"] {
        assert_eq!(text.parse::<Claim>().unwrap().to_string(), text);
    }
    for bad in
        ["", "80", "tcp/", "tcp/0", "tcp/80-79", "tcp/65536", "icmp/8", "arp/1", "sctp", "TCP", "tcp/80-"]
    {
        let error = bad.parse::<Claim>().unwrap_err().to_string();
        assert!(error.contains(&format!("`{bad}`")) && error.contains(": give tcp/80"), "{error}");
    }
}

#[test]
fn overlapping_ranges_become_one() {
    let owned =
        Ownership::new(&claims("tcp/80,tcp/90-100,tcp/81-89,tcp/95,tcp/102,udp/1-70,udp/71-65535"), []);
    let ranges: Vec<_> = owned.tcp().iter().map(|r| (r.first(), r.last())).collect();
    assert_eq!(ranges, [(80, 100), (102, 102)]);
    assert_eq!(owned.udp(), [ALL_PORTS]);
}

#[test]
fn ports_decide_and_only_at_our_addresses() {
    let owned = Ownership::new(&claims("tcp/80,udp/53"), [ip("10.0.0.2")]);
    let owns = |frame: &[u8]| owned.owns(frame, None);
    assert!(owns(&to_port(6, 80)) && owns(&to_port(17, 53)));
    assert!(!owns(&to_port(6, 53)) && !owns(&to_port(17, 80)) && !owns(&to_port(132, 80)));
    assert!(
        !owns(&v4_frame([10, 0, 0, 3], 6, 0, &[0, 0, 0, 80])),
        "another's address: the kernel may be a router"
    );
    assert!(!owns(&to_port(6, 80)[..37]), "cut before the port");
    assert!(owned.owns(&to_port(6, 80), Some(0xe000)) && !owned.owns(&to_port(6, 80), Some(7)));
}

#[test]
fn fragments_go_where_all_of_their_protocol_goes() {
    let ports = [0xee, 0xee, 0, 53, 0, 0, 0, 0];
    for (text, owned) in
        [("udp/53", false), ("udp", true), ("udp/1-1000,udp/1001-65535", true), ("tcp", false)]
    {
        let ownership = Ownership::new(&claims(text), [ip("10.0.0.2")]);
        for fragment in [0x2000, 0x2005, 7] {
            assert_eq!(
                ownership.owns(&v4_frame(OURS, 17, fragment, &ports), None),
                owned,
                "{text} {fragment:#x}"
            );
        }
    }
}

#[test]
fn an_icmp_error_is_whose_the_packet_is_that_it_quotes() {
    let owned = Ownership::new(&claims("tcp/80,udp/61000-65535"), [ip("10.0.0.2")]);
    let error = |kind: u8, protocol: u8, source: u16| {
        let mut body = vec![kind, 4, 0, 0, 0, 0, 5, 0];
        let [a, b] = source.to_be_bytes();
        body.extend(&v4_frame([10, 0, 0, 1], protocol, 0x4000, &[a, b, 0, 80, 0, 0, 0, 0])[14..]);
        v4_frame(OURS, 1, 0, &body)
    };
    for kind in [3, 4, 11, 12] {
        assert!(owned.owns(&error(kind, 6, 80), None) && owned.owns(&error(kind, 17, 61_000), None));
        assert!(!owned.owns(&error(kind, 6, 22), None) && !owned.owns(&error(kind, 1, 80), None));
    }
    assert!(!owned.owns(&error(5, 6, 80), None), "routes are the kernel's");
    let echo = v4_frame(OURS, 1, 0, &[8, 0, 0, 0, 0, 0, 0, 0]);
    assert!(!owned.owns(&echo, None));
    let icmp = Ownership::new(&claims("icmp"), [ip("10.0.0.2")]);
    assert!(icmp.owns(&echo, None) && !icmp.owns(&error(3, 6, 80), None) && icmp.owns(&error(3, 1, 0), None));
}

#[test]
fn arp_is_the_stacks_only_if_claimed_and_about_its_addresses() {
    let arp = |sender: [u8; 4], target: [u8; 4]| {
        let mut frame = vec![0xff; 12];
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9]);
        frame.extend(sender);
        frame.extend([0; 6]);
        frame.extend(target);
        frame
    };
    let owned = Ownership::new(&claims("arp"), [ip("10.0.0.2")]);
    assert!(owned.owns(&arp([10, 0, 0, 1], OURS), None) && owned.owns(&arp(OURS, OURS), None));
    assert!(!owned.owns(&arp([10, 0, 0, 1], [10, 0, 0, 3]), None));
    let without = Ownership::new(&claims("tcp,udp,icmp"), [ip("10.0.0.2")]);
    assert!(!without.owns(&arp([10, 0, 0, 1], OURS), None));
}

#[test]
fn random_frames_are_judged_without_a_panic_and_some_each_way() {
    let mut rng = Rng::new(seed_from(7));
    for owned in ownerships() {
        let count = (0..20_000).filter(|_| owned.owns(&random_frame(&mut rng), None)).count();
        assert_eq!(count > 100, owned != ownerships()[0], "{count} of {owned:?}");
    }
}
