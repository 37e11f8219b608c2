//! AF_XDP, on one end of a veth pair; the host has the other.
#![allow(clippy::unwrap_used)] // A failed step is a failed test, in helpers too.

use super::kit::*;
use ntytcp::device::packet::{PacketConfig, PacketDevice};
use ntytcp::device::xdp::{BusyPoll, XdpConfig, XdpDevice};
use ntytcp::device::{Device, DeviceError, RxChecksum, TxMeta, TxQueue, Verdict};
use ntytcp::time::Instant;

fn open(config: &XdpConfig) -> XdpDevice {
    let device = XdpDevice::open(config).unwrap();
    assert_eq!(device.notices(), [] as [String; 0]);
    device
}

#[test]
fn kernel_pings_us_and_gets_answers_in_place() {
    if inside_as_root("xdp::kernel_pings_us_and_gets_answers_in_place") {
        answers_pings_in_place(&mut open(&XdpConfig::new(link().0)));
    }
}

#[test]
fn what_a_veth_leaves_undone_is_trusted_and_what_we_send_is_finished() {
    if inside_as_root("xdp::what_a_veth_leaves_undone_is_trusted_and_what_we_send_is_finished") {
        let mut device = open(&XdpConfig::new(link().0));
        assert_eq!((device.caps().mtu, device.caps().tso_max), (1500, 0));
        let (_, meta) = exchange_datagrams(&mut device);
        assert_eq!(meta.checksum, RxChecksum::Partial { start: 34, offset: 6 });
    }
}

#[test]
fn checksums_are_left_to_the_kernel_or_finished_here() {
    if !inside_as_root("xdp::checksums_are_left_to_the_kernel_or_finished_here") {
        return;
    }
    for (behind_driver, offload) in [(false, true), (true, true), (false, false)] {
        let (ours, host) = link();
        let mut config = XdpConfig::new(&*ours);
        (config.behind_driver, config.offload) = (behind_driver, offload);
        let mut device = open(&config);
        let left = device.caps().tx_checksum;
        assert!(!left || offload);
        let mut watcher = PacketDevice::open(&PacketConfig::new(&*host)).unwrap();
        let (frame, checksum) = packet([4; 6], UDP, &[0, 99, 20, 233, 0, 11, 0, 0, b'a', b'b', b'c'], 6);
        send(&mut device, &frame, TxMeta { checksum, gso: None });
        serve(&mut watcher, |frame, meta| {
            if !is_ipv4(frame, UDP) {
                return (false, Verdict::Done);
            }
            if left {
                assert_eq!(meta.checksum, RxChecksum::Partial { start: 34, offset: 6 });
            } else {
                let pseudo = [&frame[26..34], &[0, UDP], &frame[38..40]].concat();
                assert_eq!(fold(&[&pseudo, &frame[34..45]].concat()), 0xffff);
            }
            (true, Verdict::Done)
        });
        ip(&["link", "del", &ours]);
    }
}

#[test]
fn answers_in_place_are_left_to_the_kernel_too() {
    if !inside_as_root("xdp::answers_in_place_are_left_to_the_kernel_too") {
        return;
    }
    let mut device = open(&XdpConfig::new(link().0));
    let socket = host_socket();
    socket.send(b"hello").unwrap();
    serve(&mut device, |frame, _| {
        if !is_ipv4(frame, UDP) {
            return (false, Verdict::Done);
        }
        let host_mac = frame[6..12].try_into().unwrap();
        let datagram = [0, 99, 20, 233, 0, 13, 0, 0, b'w', b'o', b'r', b'l', b'd'];
        let (answer, checksum) = packet(host_mac, UDP, &datagram, 6);
        frame[..answer.len()].copy_from_slice(&answer);
        (true, Verdict::Reply(TxMeta { checksum, gso: None }))
    });
    let mut buf = [0; 16];
    assert_eq!(socket.recv(&mut buf).unwrap(), 5);
    assert_eq!(&buf[..5], b"world");
}

/// Frames just below, at and above the ends of pieces, in both directions. A piece that is sent has 4,032 bytes; one that is received
/// has what the driver leaves of 4,096.
#[test]
fn frames_of_every_number_of_pieces_cross_in_both_directions() {
    if !inside_as_root("xdp::frames_of_every_number_of_pieces_cross_in_both_directions") {
        return;
    }
    let (ours, host) = link();
    for end in [&ours, &host] {
        ip(&["link", "set", end, "mtu", "16000"]);
    }
    ip(&["neigh", "add", "10.9.8.2", "lladdr", "02:00:00:00:00:02", "dev", &host]);
    let mac = std::process::Command::new("ip").args(["-br", "link", "show", "dev", &host]).output().unwrap();
    let mac = String::from_utf8(mac.stdout).unwrap();
    let mac = mac.split_whitespace().nth(2).unwrap().split(':').map(|b| u8::from_str_radix(b, 16).unwrap());
    let mac: [u8; 6] = mac.collect::<Vec<_>>().try_into().unwrap();
    let mut device = open(&XdpConfig::new(ours));
    let socket = host_socket();
    let mut buf = vec![0; 16_000];
    let ends = [3_520, 3_584, 3_776, 3_840, 4_032, 4_096, 8_064, 12_096, 15_900];
    for frame_len in ends.into_iter().flat_map(|end| end - 2..=end + 2) {
        let payload: Vec<u8> = (0..frame_len - 42).map(|i| (i * 7 % 251) as u8).collect();
        let len = (payload.len() + 8) as u16;
        let header = [&[0, 99, 20, 233][..], &len.to_be_bytes(), &[0, 0]].concat();
        let (frame, checksum) = packet(mac, UDP, &[header, payload.clone()].concat(), 6);
        assert_eq!(frame.len(), frame_len);
        send(&mut device, &frame, TxMeta { checksum, gso: None });
        assert_eq!(socket.recv(&mut buf).unwrap(), payload.len());
        assert!(buf[..payload.len()] == payload, "{frame_len} bytes sent");

        socket.send(&payload).unwrap();
        serve(&mut device, |frame, _| {
            let datagram = is_ipv4(frame, UDP);
            assert!(!datagram || frame[42..] == payload, "{frame_len} bytes received");
            (datagram, Verdict::Done)
        });
    }
    assert_eq!(device.stats().iter().map(|(_, count)| count).sum::<u64>(), 0, "{:?}", device.stats());
}

#[test]
fn polled_busily_it_receives_and_sends() {
    if inside_as_root("xdp::polled_busily_it_receives_and_sends") {
        let mut config = XdpConfig::new(link().0);
        config.busy_poll = BusyPoll::On;
        exchange_datagrams(&mut open(&config));
    }
}

#[test]
fn more_frames_than_the_rings_hold_go_round() {
    if !inside_as_root("xdp::more_frames_than_the_rings_hold_go_round") {
        return;
    }
    let (ours, host) = link();
    let mut config = XdpConfig::new(ours);
    config.ring = 64;
    let mut device = open(&config);
    let before = kernel_rx_packets(&host).unwrap();
    let mut sent = 0;
    while sent < 1_000 {
        while let Some(frame) = device.reserve(60) {
            frame.fill(0xff);
            device.commit(TxMeta::default());
            sent += 1;
        }
        device.flush().unwrap();
    }
    assert_eq!(kernel_rx_packets(&host), Some(before + sent), "back-pressure loses nothing");
}

#[test]
fn frames_that_the_kernel_refuses_are_sent_when_there_is_room() {
    if !inside_as_root("xdp::frames_that_the_kernel_refuses_are_sent_when_there_is_room") {
        return;
    }
    // What is sent on a queue of our own passes no scheduler; the one behind a bridge holds the socket's memory all the same.
    let ((ours, near), (far, host)) = (link(), link());
    let bridge = name();
    ip(&["link", "add", &bridge, "type", "bridge"]);
    for end in [&near, &far] {
        ip(&["addr", "flush", "dev", end]);
        ip(&["link", "set", end, "master", &bridge]);
    }
    ip(&["link", "set", &bridge, "up"]);
    sends_all_over_a_slow_way(&mut open(&XdpConfig::new(&*ours)), (&far, &host));
}

#[test]
fn removed_interface_is_reported_as_gone() {
    if !inside_as_root("xdp::removed_interface_is_reported_as_gone") {
        return;
    }
    let (ours, _) = link();
    let mut device = open(&XdpConfig::new(&*ours));
    ip(&["link", "del", &ours]);
    // A sleeper is not woken by the kernel, but by the clock.
    let look = device.next_deadline().unwrap();
    assert!(look <= Instant::from_nanos(1_000_000_000));
    device.set_now(look);
    let mut last = Ok(1);
    while matches!(last, Ok(n) if n > 0) {
        last = device.rx_burst(&mut |_| {});
    }
    assert!(matches!(last.unwrap_err(), DeviceError::Gone(of) if of == format!("xdp:{ours}")));
}

#[test]
fn the_interface_is_the_kernels_again_afterwards() {
    if !inside_as_root("xdp::the_interface_is_the_kernels_again_afterwards") {
        return;
    }
    let (ours, host) = link();
    let shown = || {
        let output = std::process::Command::new("ip").args(["link", "show", "dev", &ours]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let device = open(&XdpConfig::new(&*ours));
    assert!(shown().contains("xdp"), "{}", shown());
    let busy = XdpDevice::open(&XdpConfig::new(&*ours)).unwrap_err().to_string();
    assert!(busy.contains("perhaps another nty: stop it") && !busy.contains('\n'), "{busy}");
    drop(device);
    assert!(!shown().contains("xdp"), "{}", shown());
    drop(open(&XdpConfig::new(host)));
}

#[test]
fn one_socket_follows_another_at_once() {
    if inside_as_root("xdp::one_socket_follows_another_at_once") {
        let (ours, _) = link();
        for _ in 0..20 {
            drop(open(&XdpConfig::new(&*ours)));
        }
    }
}

#[test]
fn open_errors_are_one_line_with_the_remedy() {
    if !inside_as_root("xdp::open_errors_are_one_line_with_the_remedy") {
        return;
    }
    let message = |config: &XdpConfig| {
        let message = XdpDevice::open(config).unwrap_err().to_string();
        assert!(!message.contains('\n'));
        message
    };
    let lo = message(&XdpConfig::new("lo"));
    assert!(lo.contains("not those of Ethernet"), "{lo}");
    let none = message(&XdpConfig::new("nobody0"));
    assert!(none.contains("xdp:nobody0:") && none.contains("`ip link` lists"), "{none}");
    let (ours, _) = link();
    let mut config = XdpConfig::new(&*ours);
    config.queue = Some(7);
    let queue = message(&config);
    assert!(queue.contains("it has no queue 7, the last is 0"), "{queue}");
    config.queue = Some(u32::MAX);
    assert!(message(&config).contains("it has no queue 4294967295"));
    config.queue = None;
    config.ring = 100;
    assert!(message(&config).contains("a power of two from 64 to 32768"));
    ip(&["link", "set", &ours, "mtu", "65535"]);
    let large = message(&XdpConfig::new(&*ours));
    assert!(large.contains("its MTU is 65535") && large.contains("ip link set"), "{large}");
}
