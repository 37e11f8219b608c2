//! AF_XDP, on one end of a veth pair; the host has the other.
#![allow(clippy::unwrap_used)] // A failed step is a failed test, in helpers too.

use super::kit::*;
use ntytcp::device::xdp::{XdpConfig, XdpDevice};
use ntytcp::device::{Device, DeviceError, RxChecksum, TxMeta, TxQueue};
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
        assert_eq!(exchange_datagrams(&mut device).1.checksum, RxChecksum::Verified);
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
