//! Frames as generated, and what is made of those that come back, on links in memory and in a time that the test moves.

use super::report::{Flow, Report};
use super::run::Generator;
use super::template::{Fields, Template};
use super::*;
use crate::arp;
use crate::pace::Pace;
use clap::Parser as _;
use ntytcp::device::mem::{MemConfig, MemDevice, pair};
use ntytcp::device::{Device as _, TxMeta, TxQueue as _, Verdict};
use ntytcp::time::{Clock, Instant};
use ntytcp::wire::{
    EtherType, EthernetHeader, Icmpv4Message, IpProtocol, Ipv4Header, Sum, TcpFlags, TcpHeader, UdpHeader,
};
use proptest::prelude::*;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

fn options(flags: &str) -> Options {
    let line = format!("pktgen --device mem: --src-ip 10.0.0.1 --dst-ip 10.0.0.2 {flags}");
    Line::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{flags}: {error}")).options
}

fn refusal(line: &str) -> String {
    let line = format!("pktgen --device mem: {line}");
    match Line::try_parse_from(line.split_whitespace()) {
        Err(error) => error.to_string(),
        Ok(line) => line.options.check().unwrap_err(),
    }
}

/// The first frames of these flags.
fn frames(flags: &str, n: u64) -> Vec<Vec<u8>> {
    let options = options(flags);
    let frames = &options.frames;
    let (src_mac, dst_mac) = (options.stations(), frames.dst_mac.clone().unwrap());
    let fields = Fields {
        src_mac: src_mac.cursor(),
        dst_mac: dst_mac.cursor(),
        src_ip: frames.src_ip.as_ref().unwrap().cursor(),
        dst_ip: frames.dst_ip.as_ref().unwrap().cursor(),
    };
    let mut template = Template::new(frames, fields, 0xabcd);
    let mut next = |number| {
        let mut frame = vec![0xee; template.next_len()];
        template.write(&mut frame, number, number * 1_000 + u64::MAX / 3);
        frame
    };
    (0..n).map(&mut next).collect()
}

/// Checks every checksum; the packet's header and what is in it.
fn whole(frame: &[u8]) -> (EthernetHeader, Ipv4Header<'_>, &[u8]) {
    let (link, packet) = EthernetHeader::parse(frame).unwrap();
    assert_eq!(link.ethertype, EtherType::IPV4);
    let (ip, datagram) = Ipv4Header::parse(packet).unwrap();
    let (src, dst) = (ip.src.into(), ip.dst.into());
    assert!(match ip.protocol {
        IpProtocol::UDP => UdpHeader::verify(src, dst, datagram),
        IpProtocol::TCP => TcpHeader::verify(src, dst, datagram),
        _ => Sum::of(datagram).verify(),
    });
    (link, ip, datagram)
}

const TO: &str = "--dst-mac 02:00:00:00:00:02";

#[test]
fn fields_take_one_value_after_the_other() {
    let flags = format!(
        "{TO},02:00:00:00:00:03 --src-mac 02:00:00:00:01:00-02:00:00:00:01:02 --src-port 1-2 --dst-port 53,80,443"
    );
    for (n, frame) in frames(&flags, 12).iter().enumerate() {
        let (link, ip, datagram) = whole(frame);
        let (udp, payload) = UdpHeader::parse(datagram).unwrap();
        assert_eq!(link.dst.0[5], 2 + (n % 2) as u8);
        assert_eq!(link.src.0[5], (n % 3) as u8);
        assert_eq!((ip.src.octets(), ip.dst.octets()), ([10, 0, 0, 1], [10, 0, 0, 2]));
        assert_eq!((udp.src_port, udp.dst_port), (1 + n as u16 % 2, [53, 80, 443][n % 3]));
        assert_eq!((frame.len(), payload.len()), (60, 18));
    }
}

#[test]
fn lengths_and_patterns_are_those_asked_for() {
    let lens =
        |size: &str| frames(&format!("{TO} --size {size}"), 12).iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lens("imix"), [60, 590, 60, 60, 590, 60, 1_514, 60, 590, 60, 590, 60]);
    assert_eq!(lens("60-63,1514"), [60, 61, 62, 63, 1_514, 60, 61, 62, 63, 1_514, 60, 61]);
    let payload = |pattern: &str| frames(&format!("{TO} --size 66 --payload {pattern}"), 1)[0][60..].to_vec();
    assert_eq!(payload("zero"), [0; 6]);
    assert_eq!(payload("ones"), [0xff; 6]);
    assert_eq!(payload("c0ffee"), [0xc0, 0xff, 0xee, 0xc0, 0xff, 0xee]);
    assert_eq!(payload("count"), [18, 19, 20, 21, 22, 23]);
}

#[test]
fn each_kind_is_what_it_says() {
    let syns = frames(&format!("{TO} --proto tcp-syn"), 2);
    let seqs: Vec<_> = syns
        .iter()
        .map(|frame| {
            let (_, ip, segment) = whole(frame);
            let (tcp, data) = TcpHeader::parse(segment).unwrap();
            assert_eq!((ip.total_len, frame.len(), tcp.flags, data.len()), (40, 60, TcpFlags::SYN, 0));
            tcp.seq.0
        })
        .collect();
    assert_eq!(seqs, [0xabcd_0000, 0xabcd_0001]);
    for (n, frame) in frames(&format!("{TO} --proto icmp --size 60,61,1000"), 3).iter().enumerate() {
        let (_, _, message) = whole(frame);
        let Ok(Icmpv4Message::EchoRequest { ident, seq, payload }) = Icmpv4Message::parse(message) else {
            panic!("{message:?}")
        };
        assert_eq!((ident, usize::from(seq), payload.len()), (0xabcd, n, frame.len() - 42));
    }
}

proptest! {
    #[test]
    fn checksums_that_are_put_together_are_right(
        size in 60..1_515_u16, low: u32, span in 0..3_u32, port: u16, pattern in "([0-9a-f]{2}){1,5}", kind in 0..2_usize
    ) {
        let kind = ["udp", "icmp"][kind];
        let last = std::net::Ipv4Addr::from_bits(low.saturating_add(span));
        let (first, mtu) = (std::net::Ipv4Addr::from_bits(low), size.saturating_add(3));
        let line = format!(
            "pktgen --device mem: --src-ip {first}-{last} --dst-ip {last},{first} {TO} --size {size}-{mtu} --payload {pattern} --src-port {port},0 --proto {kind}"
        );
        let options = Line::try_parse_from(line.split_whitespace()).unwrap().options;
        let frames = &options.frames;
        let (src_mac, dst_mac) = (options.stations(), frames.dst_mac.clone().unwrap());
        let fields = Fields {
            src_mac: src_mac.cursor(),
            dst_mac: dst_mac.cursor(),
            src_ip: frames.src_ip.as_ref().unwrap().cursor(),
            dst_ip: frames.dst_ip.as_ref().unwrap().cursor(),
        };
        let mut template = Template::new(frames, fields, port);
        for number in 0..8 {
            let mut frame = vec![0xee; template.next_len()];
            template.write(&mut frame, number, u64::from(low) << 20);
            whole(&frame);
        }
    }
}

/// A clock that stands until it is moved.
#[derive(Clone, Default)]
struct Hand(Rc<Cell<u64>>);

impl Clock for Hand {
    fn now(&self) -> Instant {
        Instant::from_micros(self.0.get())
    }
}

impl Generator<'_, Hand> {
    /// Sends and receives turn by turn, until `turn`, which is called after each, says that it is enough.
    fn generate_by_hand(&mut self, mut turn: impl FnMut(&Self) -> bool) -> Report {
        let options = self.options;
        let frames = &options.frames;
        let (stations, dst_mac) = (options.stations(), frames.dst_mac.clone().unwrap());
        let fields = Fields {
            src_mac: stations.cursor(),
            dst_mac: dst_mac.cursor(),
            src_ip: frames.src_ip.as_ref().unwrap().cursor(),
            dst_ip: frames.dst_ip.as_ref().unwrap().cursor(),
        };
        let mut template = Template::new(frames, fields, self.tag);
        let (begin, pace) = (self.clock.now(), Pace::from(options.pace));
        loop {
            let now = self.clock.now();
            self.burst(&mut template, pace, (begin, now), options.count.unwrap_or(u64::MAX)).unwrap();
            self.take_in(now).unwrap();
            if turn(self) {
                let time = self.clock.now().since(begin);
                let sent = Flow::new(self.sent.frames, self.sent.bytes, time);
                return self.report(Some(sent), time).unwrap();
            }
        }
    }

    fn is_over(&self, after: Duration) -> bool {
        self.clock.now().since(Instant::ZERO) >= after
    }
}

/// What arrived.
fn arrived(device: &mut MemDevice) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while device.rx_burst(&mut |burst| frames.extend(burst.iter().map(|f| f.bytes().to_vec()))).unwrap() > 0 {
    }
    frames
}

fn send(device: &mut MemDevice, frames: &[Vec<u8>]) {
    for frame in frames {
        device.reserve(frame.len()).unwrap().copy_from_slice(frame);
        device.commit(TxMeta::default());
    }
    device.flush().unwrap();
}

#[test]
fn loss_duplicates_order_and_latency_are_told() {
    let (clock, (ours, mut peer)) = (Hand::default(), pair(MemConfig::default()));
    let options = options(&format!("{TO} --pps 1000 --count 20"));
    let mut generator = Generator::new(&options, vec![Box::new(ours)], clock.clone(), 7);
    // Each frame a millisecond after the one before; they are back half a millisecond later.
    let mut came = Vec::new();
    let report = generator.generate_by_hand(|generator| {
        clock.0.set(clock.0.get() + 500);
        came.extend(arrived(&mut peer));
        if clock.0.get() == 30_000 {
            // Everything but the last two; one twice, and one late.
            let mut back = came[..18].to_vec();
            back.push(came[3].clone());
            back.swap(9, 10);
            back.push(vec![0; 60]);
            let mut broken = came[19].clone();
            broken[50] ^= 1;
            back.push(broken);
            send(&mut peer, &back);
        }
        generator.is_over(Duration::from_millis(40))
    });
    assert_eq!(came.len(), 20);
    assert_eq!(
        (report.lost, report.duplicates, report.reordered, report.damaged, report.others),
        (2, 1, 1, 1, 1)
    );
    assert_eq!((report.sent.unwrap().frames, report.received.frames), (20, 19));
    let latency = report.latency_us.unwrap();
    // The first was sent at 0, the eighteenth at 17 ms; both came at 30 ms.
    assert!(
        (30_000.0..30_050.0).contains(&latency.max) && (12_990.0..=13_000.0).contains(&latency.min),
        "{latency:?}"
    );
    let text = report.to_string();
    assert!(text.contains("lost 2 (10.000 %), duplicates 1, out of order 1, damaged 1"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((json["lost"].as_u64(), json["sent"]["frames"].as_u64()), (Some(2), Some(20)));
}

#[test]
fn the_pace_is_kept_and_a_stall_is_made_up_for() {
    let (clock, (ours, mut peer)) = (Hand::default(), pair(MemConfig::default()));
    let options = options(&format!("{TO} --rate 480k"));
    let mut generator = Generator::new(&options, vec![Box::new(ours)], clock.clone(), 7);
    // 480 * 1024 bits a second are 1,024 frames of 60 bytes.
    let mut times = vec![0, 1_000, 2_000, 40_000].into_iter();
    let mut counts = Vec::new();
    generator.generate_by_hand(|_| {
        counts.push(arrived(&mut peer).len());
        times.next().map(|at| clock.0.set(at)).is_none()
    });
    assert_eq!(counts, [1, 0, 1, 1, 38]);
}

#[test]
fn syns_are_told_by_their_answers() {
    let (clock, (ours, mut peer)) = (Hand::default(), pair(MemConfig::default()));
    let options = options(&format!("{TO} --proto tcp-syn --fast --count 3"));
    let mut generator = Generator::new(&options, vec![Box::new(ours)], clock.clone(), 7);
    let report = generator.generate_by_hand(|generator| {
        clock.0.set(clock.0.get() + 100);
        let answers: Vec<_> =
            arrived(&mut peer).iter().enumerate().take(2).map(|(n, syn)| answer(syn, n == 1)).collect();
        send(&mut peer, &answers);
        generator.is_over(Duration::from_millis(2))
    });
    assert_eq!((report.lost, report.refused, report.received.frames), (1, 1, 2));
    assert_eq!(report.latency_us.map(|l| l.min.round()), Some(100.0));
}

/// The SYN-ACK or the RST that answers a SYN.
fn answer(syn: &[u8], refuse: bool) -> Vec<u8> {
    let (link, ip, segment) = whole(syn);
    let (tcp, _) = TcpHeader::parse(segment).unwrap();
    let mut frame = vec![0; 54];
    EthernetHeader { dst: link.src, src: link.dst, ..link }.emit(&mut frame);
    Ipv4Header { src: ip.dst, dst: ip.src, ..ip }.emit(&mut frame[14..]);
    let flags = TcpFlags::ACK | if refuse { TcpFlags::RST } else { TcpFlags::SYN };
    let (ack, seq) = (tcp.seq + 1, tcp.seq + 99);
    TcpHeader { src_port: tcp.dst_port, dst_port: tcp.src_port, seq, ack, flags, ..tcp }
        .emit(&mut frame[34..]);
    TcpHeader::fill_checksum(ip.dst.into(), ip.src.into(), &mut frame[34..]).unwrap();
    frame
}

#[test]
fn arp_is_answered_for_our_addresses_and_no_others() {
    let (clock, (ours, mut peer)) = (Hand::default(), pair(MemConfig::default()));
    let options = options(&format!("{TO} --src-mac 02:00:00:00:00:01"));
    let mut generator = Generator::new(&options, vec![Box::new(ours)], clock, 7);
    let asker = (MacAddr([2, 0, 0, 0, 0, 9]), Ipv4Addr::new(10, 0, 0, 9));
    let ask = |ip: [u8; 4]| arp::request(asker, ip.into()).to_vec();
    send(&mut peer, &[ask([10, 0, 0, 1]), ask([10, 0, 0, 2])]);
    let report = generator.generate_by_hand(|_| true);
    let answers: Vec<_> = arrived(&mut peer).iter().filter_map(|frame| arp::speaker(frame)).collect();
    assert_eq!(answers, [(Ipv4Addr::new(10, 0, 0, 1), MacAddr([2, 0, 0, 0, 0, 1]))]);
    assert_eq!((report.arp_answered, report.others), (1, 1));
}

#[test]
fn what_an_echo_returns_in_place_is_ours_again() {
    let (clock, (ours, mut peer)) = (Hand::default(), pair(MemConfig::default().ring(64)));
    let options = options(&format!("{TO} --fast --count 1000 --size imix --max-loss 0"));
    let mut generator = Generator::new(&options, vec![Box::new(ours)], clock.clone(), 7);
    let report = generator.generate_by_hand(|generator| {
        clock.0.set(clock.0.get() + 10);
        peer.rx_burst(&mut |burst| {
            burst.iter_mut().for_each(|f| f.verdict = Verdict::Reply(TxMeta::default()))
        })
        .unwrap();
        peer.flush().unwrap();
        generator.is_over(Duration::from_millis(1))
    });
    assert_eq!((report.lost, report.duplicates, report.reordered, report.received.frames), (0, 0, 0, 1_000));
}

#[test]
fn contradictions_are_told() {
    for (line, word) in [
        ("--dst-ip 10.0.0.1", "--src-ip"),
        ("--src-ip 10.0.0.1", "--dst-ip"),
        ("--src-ip x --dst-ip 10.0.0.1", "\"x\" is no value here: give an IPv4 address"),
        ("--src-ip 10.0.0.9-10.0.0.1 --dst-ip 10.0.0.1", "runs backwards"),
        ("--src-ip 10.0.0.1 --dst-ip 10.0.0.1 --size 59", "59 bytes is too short"),
        ("--src-ip 10.0.0.1 --dst-ip 10.0.0.1 --payload abc", "\"abc\" is no pattern"),
        ("--src-ip 10.0.0.1 --dst-ip 10.0.0.1 --max-loss 101", "give 0 to 100"),
        ("--src-ip 10.0.0.1 --dst-ip 10.0.0.1 --pps 5 --fast", "--fast"),
        ("--src-ip 10.0.0.1 --dst-ip 10.0.0.1 --proto tcp-syn --size 61", "leave --size out"),
        ("--src-ip 10.0.0.1 --dst-ip 10.0.0.1 --src-mac 01:00:00:00:00:00", "the address of no station"),
        ("--receive --count 5", "--count"),
    ] {
        let error = refusal(line);
        assert!(error.contains(word), "{line}: {error}");
    }
}
