//! The packet socket, on one end of a veth pair; the host has the other.
#![allow(clippy::unwrap_used)] // A failed step is a failed test, in helpers too.

use std::process::Command;
use std::time::{Duration, SystemTime};

use super::kit::*;
use ntytcp::device::packet::{PacketConfig, PacketDevice};
use ntytcp::device::sys::{PollFd, poll};
use ntytcp::device::{Caps, Device, DeviceError, RxFrame, TxChecksum, TxMeta, TxQueue, Verdict};
use ntytcp::time::Instant;

fn open(config: &PacketConfig) -> PacketDevice {
    let device = PacketDevice::open(config).unwrap();
    assert_eq!(device.notices(), [] as [String; 0]);
    device
}

#[test]
fn kernel_pings_us_and_gets_answers_in_place() {
    if inside("packet::kernel_pings_us_and_gets_answers_in_place") {
        answers_pings_in_place(&mut open(&PacketConfig::new(link().0)));
    }
}

#[test]
fn checksums_cross_partial_and_the_kernel_counts_our_frames() {
    if inside("packet::checksums_cross_partial_and_the_kernel_counts_our_frames") {
        let (ours, host) = link();
        passes_partial_checksums(&mut open(&PacketConfig::new(ours)), &host);
    }
}

#[test]
fn without_offload_we_finish_what_we_send() {
    if inside("packet::without_offload_we_finish_what_we_send") {
        let (ours, host) = link();
        let mut config = PacketConfig::new(ours);
        config.offload = false;
        let mut device = open(&config);
        assert_eq!(*device.caps(), Caps::plain(1500));
        // The host leaves its checksums to us all the same.
        passes_partial_checksums(&mut device, &host);
    }
}

#[test]
fn tcp_trains_of_64_kilobytes_cross_in_both_directions() {
    if inside("packet::tcp_trains_of_64_kilobytes_cross_in_both_directions") {
        let (ours, host) = link();
        passes_trains_of_64_kilobytes(&mut open(&PacketConfig::new(ours)), &host);
    }
}

#[test]
fn an_onlooker_sees_both_directions_with_their_times() {
    if !inside("packet::an_onlooker_sees_both_directions_with_their_times") {
        return;
    }
    let (ours, host) = link();
    let mut config = PacketConfig::new(host);
    config.observe = true;
    let (mut onlooker, mut peer) = (open(&config), open(&PacketConfig::new(ours)));
    let nanos = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let before = nanos();
    answers_pings_in_place(&mut peer);
    let after = nanos();
    // Requests and replies of ARP and of two pings, and perhaps the kernel's probe of us.
    let (mut sent, mut received) = (0, 0);
    while sent + received < 6 {
        let mut fds = [PollFd::readable(onlooker.poll_fd().unwrap())];
        assert_eq!(poll(&mut fds, Some(Duration::from_secs(5))).unwrap(), 1, "{sent} out, {received} in");
        let mut look = |burst: &mut [RxFrame<'_>]| {
            for frame in burst {
                let from_us = frame.bytes()[6..12] == OUR_MAC;
                assert_eq!(frame.meta.outgoing, !from_us);
                let time = frame.meta.timestamp.unwrap().get();
                assert!((before..=after).contains(&time), "{before} {time} {after}");
                *(if from_us { &mut received } else { &mut sent }) += 1;
            }
        };
        onlooker.rx_burst(&mut look).unwrap();
    }
    assert!(sent >= 3 && received >= 3, "{sent} out, {received} in");
}

#[test]
fn frames_that_the_kernel_refuses_are_sent_when_there_is_room() {
    if inside("packet::frames_that_the_kernel_refuses_are_sent_when_there_is_room") {
        let (ours, host) = link();
        sends_all_over_a_slow_way(&mut open(&PacketConfig::new(&*ours)), (&ours, &host));
    }
}

#[test]
fn a_tag_that_the_kernel_took_off_is_told() {
    if !inside("packet::a_tag_that_the_kernel_took_off_is_told") {
        return;
    }
    let (ours, host) = link();
    let (mut device, mut host) = (open(&PacketConfig::new(ours)), open(&PacketConfig::new(host)));
    let (mut frame, _) = packet([4; 6], UDP, &[0; 16], 6);
    let untagged = frame.clone();
    frame.splice(12..12, [0x81, 0, 0x20, 7]);
    send(&mut host, &frame, TxMeta::default());
    serve(&mut device, |frame, meta| {
        assert_eq!((&*frame, meta.vlan), (&*untagged, Some(0x2007)));
        (true, Verdict::Done)
    });
}

#[test]
fn a_frame_that_the_kernel_finds_malformed_is_counted_and_holds_up_nobody() {
    if !inside("packet::a_frame_that_the_kernel_finds_malformed_is_counted_and_holds_up_nobody") {
        return;
    }
    let (ours, host) = link();
    let mut device = open(&PacketConfig::new(ours));
    let before = kernel_rx_packets(&host).unwrap();
    let beyond = TxChecksum::Partial { start: 5_000, offset: 6 };
    for checksum in [TxChecksum::Complete, beyond, TxChecksum::Complete] {
        device.reserve(60).unwrap().fill(0xff);
        device.commit(TxMeta { checksum, gso: None });
    }
    device.flush().unwrap();
    assert_eq!(counted(&device, "packet-tx-refused"), 1);
    assert_eq!(kernel_rx_packets(&host), Some(before + 2));
}

#[test]
fn trains_that_find_no_room_are_counted() {
    if !inside("packet::trains_that_find_no_room_are_counted") {
        return;
    }
    const TRAINS: u64 = 400;
    let (ours, host) = link();
    ip(&["neigh", "add", "10.9.8.2", "lladdr", "02:00:00:00:00:02", "dev", &host]);
    let mut device = open(&PacketConfig::new(ours));
    let socket = host_socket();
    send_in_trains(&socket);
    for _ in 0..TRAINS {
        socket.send(&[7; 60_000]).unwrap();
    }
    let (mut whole, mut rest) = (0, 1);
    while rest > 0 {
        rest = device
            .rx_burst(&mut |burst| {
                for frame in burst {
                    assert_eq!((frame.len(), frame.meta.gso_size), (60_042, Some(1_000)));
                    whole += 1;
                }
            })
            .unwrap();
        // A burst may consist of frames that are cut off, and have nothing to hand over.
        rest += usize::from(whole + counted(&device, "packet-rx-cut") < TRAINS);
    }
    let cut = counted(&device, "packet-rx-cut");
    assert!(cut > 0 && whole > 50 && cut + whole == TRAINS, "{whole} whole, {cut} cut");
}

#[test]
fn answers_that_find_no_room_are_counted() {
    if !inside("packet::answers_that_find_no_room_are_counted") {
        return;
    }
    let (ours, _) = link();
    let mut device = open(&PacketConfig::new(&*ours));
    // Nothing leaves: the bucket never has as many tokens as a frame takes.
    let limit = ["rate", "8bit", "burst", "1514", "limit", "100000000"];
    let shaped = Command::new("tc").args(["qdisc", "add", "dev", &ours, "root", "tbf"]).args(limit).output();
    if !shaped.is_ok_and(|output| output.status.success()) {
        println!("skipped: no tc, or no token bucket in this kernel");
        return;
    }
    while let Some(frame) = device.reserve(1_500) {
        frame.fill(0xff);
        device.commit(TxMeta::default());
        device.flush().unwrap();
    }
    let socket = host_socket();
    socket.set_broadcast(true).unwrap();
    for _ in 0..3 {
        socket.send_to(b"question", "10.9.8.255:99").unwrap();
    }
    let mut answers = 0;
    serve(&mut device, |frame, _| {
        let question = is_ipv4(frame, UDP);
        answers += u64::from(question);
        (answers == 3, if question { Verdict::Reply(TxMeta::default()) } else { Verdict::Done })
    });
    assert_eq!(counted(&device, "packet-tx-full"), 3);
}

#[test]
fn removed_interface_is_reported_as_gone() {
    if !inside("packet::removed_interface_is_reported_as_gone") {
        return;
    }
    let gone = |e, name: &str| matches!(e, DeviceError::Gone(of) if of == format!("packet:{name}"));
    let (ours, _) = link();
    let mut device = open(&PacketConfig::new(&*ours));
    ip(&["link", "del", &ours]);
    let mut fds = [PollFd::readable(device.poll_fd().unwrap())];
    assert_eq!(poll(&mut fds, Some(Duration::from_secs(5))).unwrap(), 1, "a sleeper is woken");
    while device.rx_burst(&mut |_| {}).is_ok_and(|n| n > 0) {}
    device.set_now(Instant::from_nanos(1_000_000_000));
    assert!(gone(device.rx_burst(&mut |_| {}).unwrap_err(), &ours));
    device.reserve(60).unwrap().fill(0);
    device.commit(TxMeta::default());
    assert!(gone(device.flush().unwrap_err(), &ours));
}

#[test]
fn an_interface_that_is_down_is_not_gone_and_is_looked_after() {
    if !inside("packet::an_interface_that_is_down_is_not_gone_and_is_looked_after") {
        return;
    }
    let (ours, _) = link();
    let mut device = open(&PacketConfig::new(&*ours));
    assert_eq!(device.next_deadline(), None);
    ip(&["link", "set", &ours, "down"]);
    send(&mut device, &[0; 60], TxMeta::default());
    assert_eq!(device.stats()[0], ("packet-link-down", 1));
    let look = |device: &mut PacketDevice, seconds: u64| {
        device.set_now(Instant::from_nanos(seconds * 1_000_000_000));
        while device.rx_burst(&mut |_| {})? > 0 {}
        Ok::<_, DeviceError>(device.next_deadline().is_some())
    };
    assert!(look(&mut device, 1).unwrap(), "nobody tells when it is removed");
    ip(&["link", "set", &ours, "up"]);
    assert!(!look(&mut device, 2).unwrap());
    ip(&["link", "set", &ours, "down"]);
    assert!(look(&mut device, 3).unwrap());
    ip(&["link", "del", &ours]);
    assert!(
        matches!(look(&mut device, 4).unwrap_err(), DeviceError::Gone(of) if of == format!("packet:{ours}"))
    );
}

#[test]
fn open_errors_are_one_line_with_the_remedy() {
    if !inside("packet::open_errors_are_one_line_with_the_remedy") {
        return;
    }
    let message = |config: &PacketConfig| {
        let message = PacketDevice::open(config).unwrap_err().to_string();
        assert!(!message.contains('\n'));
        message
    };
    let none = message(&PacketConfig::new("nobody0"));
    assert!(none.contains("packet:nobody0:") && none.contains("`ip link` lists"), "{none}");
    let long = message(&PacketConfig::new("sixteen-letters-"));
    assert!(long.contains("`ip link` lists"), "{long}");
    let mut config = PacketConfig::new(link().0);
    config.mtu = Some(9_000);
    let mtu = message(&config);
    assert!(mtu.contains("its MTU is 1500: give at most that, or `ip link set"), "{mtu}");
    config.ring = 1;
    assert!(message(&config).contains("it takes 64 to 65536"));
}
