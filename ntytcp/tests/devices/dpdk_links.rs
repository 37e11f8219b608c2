//! DPDK's drivers that reach the kernel or another process: the kernel over a TAP and a veth, a second process over virtio and memif.
#![allow(clippy::unwrap_used)] // A failed step is a failed test, in helpers too.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::dpdk::{NO_HUGE, count, open, open_one};
use super::kit::*;
use ntytcp::device::dpdk::{DpdkConfig, DpdkDevice};
use ntytcp::device::{Device, Gso, GsoKind, RxChecksum, TxChecksum, TxMeta, TxQueue, Verdict};
use ntytcp::shard::Shard;
use ntytcp::stack::{SocketError, SocketKind};
use ntytcp::steering::Steering;
use ntytcp::tcp::ListenOptions;

/// A device on a TAP that it makes, and the name of that, which has the host's address.
fn tap(options: &str) -> (DpdkDevice, String) {
    let host = name();
    let device = open(&format!("net_tap0,iface={host}{options}"));
    ip(&["addr", "add", "10.9.8.1/24", "dev", &host]);
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{host}/disable_ipv6"), "1");
    ip(&["link", "set", &host, "up"]);
    (device, host)
}

/// Whether the device gives a descriptor to sleep on, once nothing more arrives.
fn sleeps(device: &mut DpdkDevice) -> bool {
    while !device.arm() {
        device.rx_burst(&mut |_| {}).unwrap();
    }
    device.poll_fd().is_some()
}

#[test]
fn tap_answers_pings_in_place() {
    if inside("dpdk_links::tap_answers_pings_in_place") {
        answers_pings_in_place(&mut tap("").0);
    }
}

#[test]
fn tap_finishes_checksums_for_us_and_is_gone_with_the_device() {
    if !inside("dpdk_links::tap_finishes_checksums_for_us_and_is_gone_with_the_device") {
        return;
    }
    let (mut device, host) = tap("");
    assert_eq!((device.caps().tx_checksum, device.caps().tso_max), (true, 0));
    assert_eq!(exchange_datagrams(&mut device).1.checksum, RxChecksum::Verified);
    assert!(sleeps(&mut device), "its driver has interrupts");
    assert_eq!(device.port().mtu().unwrap(), 1500);
    drop(device);
    assert_eq!(kernel_rx_packets(&host), None, "the interface is gone with the device");
}

#[test]
fn tap_has_the_mtu_and_the_queues_that_are_asked_for() {
    if !inside("dpdk_links::tap_has_the_mtu_and_the_queues_that_are_asked_for") {
        return;
    }
    let host = name();
    let mut config = DpdkConfig::new(format!("net_tap0,iface={host} {NO_HUGE}"));
    config.mtu = Some(1_280);
    config.steering = Some(Arc::new(Steering::with_key(2, [7; 40])));
    let queues = DpdkDevice::open(&config).unwrap();
    assert_eq!((queues.len(), queues[1].caps().mtu), (2, 1_280));
    let shown = Command::new("ip").args(["link", "show", "dev", &host]).output().unwrap();
    assert!(String::from_utf8_lossy(&shown.stdout).contains("mtu 1280"), "{shown:?}");
}

#[test]
fn packet_socket_answers_pings_and_trusts_a_veth() {
    if inside("dpdk_links::packet_socket_answers_pings_and_trusts_a_veth") {
        let mut device = open(&format!("net_af_packet0,iface={}", link().0));
        answers_pings_in_place(&mut device);
        // The kernel leaves it unfinished on a veth, and the driver does not say so.
        let partial = RxChecksum::Partial { start: 34, offset: 6 };
        assert_eq!(exchange_datagrams(&mut device).1.checksum, partial);
        assert!(!sleeps(&mut device), "its driver has no interrupts");
    }
}

#[test]
fn xdp_answers_pings_and_the_interface_is_the_kernels_again() {
    if inside("dpdk_links::xdp_answers_pings_and_the_interface_is_the_kernels_again") {
        let (ours, _) = link();
        let mut device = open(&format!("net_af_xdp0,iface={ours}"));
        answers_pings_in_place(&mut device);
        // The kernel leaves it unfinished on a veth, and the driver does not say so.
        let partial = RxChecksum::Partial { start: 34, offset: 6 };
        assert_eq!(exchange_datagrams(&mut device).1.checksum, partial);
        let shown = || {
            let output = Command::new("ip").args(["link", "show", "dev", &ours]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(shown().contains("xdp"), "{}", shown());
        drop(device);
        assert!(!shown().contains("xdp"), "{}", shown());
    }
}

/// Where a test's two processes meet.
fn meeting_point(test: &str) -> PathBuf {
    std::env::temp_dir().join(format!("ntytcp-{}.sock", test.replace("::", "-")))
}

/// Whether this is the second process of a test.
fn is_peer() -> bool {
    std::env::var(INSIDE).is_ok_and(|role| role == "peer")
}

/// The same test once more, as the second process.
fn with_peer(test: &'static str) -> JoinHandle<()> {
    std::thread::spawn(move || run_copy(&mut Command::new("env"), test, "peer"))
}

/// The settings of this process's device: the first has one end, the second the other.
fn config_of(socket: &PathBuf, (first, second): (&str, &str)) -> DpdkConfig {
    let end = if is_peer() { second } else { first };
    if !is_peer() {
        let _ = std::fs::remove_file(socket);
    }
    DpdkConfig::new(format!("{} {NO_HUGE}", end.replace("PATH", &socket.display().to_string())))
}

/// The device.
fn end_of(socket: &PathBuf, ends: (&str, &str)) -> DpdkDevice {
    open_one(&config_of(socket, ends))
}

const VHOST: (&str, &str) = ("net_vhost0,iface=PATH,tso=1", "net_virtio_user0,path=PATH,mrg_rxbuf=1");
const MEMIF: (&str, &str) = (
    "net_memif0,role=server,socket=PATH,socket-abstract=no",
    "net_memif0,role=client,socket=PATH,socket-abstract=no",
);

#[test]
fn virtio_carries_trains_whole_and_unfinished() {
    const TEST: &str = "dpdk_links::virtio_carries_trains_whole_and_unfinished";
    if !inside(TEST) {
        return;
    }
    let socket = meeting_point(TEST);
    let mut device = end_of(&socket, VHOST);
    let caps = *device.caps();
    assert!(caps.tx_checksum && caps.tso_max > 65_000, "{caps:?}");
    let data: Vec<u8> = (0..60_000).map(|i| (i % 241) as u8).collect();
    let header = [0, 99, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0];
    let (train, checksum) = packet([2; 6], TCP, &[&header[..], &data].concat(), 16);
    let gso = Some(Gso { kind: GsoKind::TcpV4, size: 1460, header_len: 54 });
    let meta = TxMeta { checksum, gso };
    let mut seen = Vec::new();
    let mut look = |frame: &mut [u8], rx: ntytcp::device::RxMeta, verdict| {
        seen.push((frame.len(), rx.gso_size, rx.checksum, frame[54..] == data));
        (true, verdict)
    };
    // One way in a fresh buffer, and back in the one that it came in.
    if is_peer() {
        send(&mut device, &train, meta);
        serve(&mut device, |frame, rx| look(frame, rx, Verdict::Done));
    } else {
        let peer = with_peer(TEST);
        serve(&mut device, |frame, rx| look(frame, rx, Verdict::Reply(meta)));
        peer.join().unwrap();
    }
    let partial = RxChecksum::Partial { start: 34, offset: 16 };
    assert_eq!(checksum, TxChecksum::Partial { start: 34, offset: 16 });
    assert_eq!(seen, [(60_054, Some(1460), partial, true)]);
    assert_eq!((count(&device, "dpdk-tx-good-packets"), count(&device, "dpdk-rx-good-packets")), (1, 1));
}

#[test]
fn vlan_tags_are_taken_out_and_put_back_into_answers() {
    const TEST: &str = "dpdk_links::vlan_tags_are_taken_out_and_put_back_into_answers";
    if !inside(TEST) {
        return;
    }
    let mut config = config_of(&meeting_point(TEST), VHOST);
    config.vlan_strip = !is_peer();
    let mut device = open_one(&config);
    let (stations, tag, packet) = ([2; 12], [0x81, 0, 0x20, 7], [&[8, 0][..], &[5; 60]].concat());
    let (tagged, plain) = ([&stations[..], &tag, &packet].concat(), [&stations[..], &packet].concat());
    let mut seen = Vec::new();
    if is_peer() {
        send(&mut device, &tagged, TxMeta::default());
        serve(&mut device, |frame, rx| {
            seen.push((frame.to_vec(), rx.vlan));
            (true, Verdict::Done)
        });
        assert_eq!(seen, [(tagged, None)]);
    } else {
        let peer = with_peer(TEST);
        serve(&mut device, |frame, rx| {
            seen.push((frame.to_vec(), rx.vlan));
            (true, Verdict::Reply(TxMeta::default()))
        });
        peer.join().unwrap();
        assert_eq!(seen, [(plain, Some(0x2007))]);
    }
}

/// What a stack sends to another and gets back.
const STREAM: usize = 4 << 20;

fn stream_byte(at: usize) -> u8 {
    (at * 7 + at / 251) as u8
}

/// Two stacks, in a process each: the second sends a stream to the first, which sends it back. What the device then has counted.
fn converse(test: &'static str, device: DpdkDevice) -> Vec<(&'static str, u64)> {
    let ours = if is_peer() { "10.9.8.2/24" } else { "10.9.8.1/24" };
    let mut shard = Shard::with_device(Box::new(device), vec![ours.parse().unwrap()]).unwrap();
    let start = std::time::Instant::now();
    let turn = |shard: &mut Shard<_>| {
        shard.turn().unwrap();
        shard.wait(Some(ntytcp::time::Duration::from_millis(10)), &[]).unwrap();
        assert!(start.elapsed().as_secs() < 60, "the other end fell silent");
    };
    if is_peer() {
        let (mut sent, mut received, mut buf) = (0, 0, vec![0; 65_536]);
        let now = shard.now();
        let remote = "10.9.8.1:7".parse().unwrap();
        let socket = shard.stack_mut().tcp_connect(now, None, remote, None).unwrap();
        while received < STREAM {
            turn(&mut shard);
            let (now, stack) = (shard.now(), shard.stack_mut());
            while stack.poll_event().is_some() {}
            let next: Vec<u8> = (sent..STREAM.min(sent + 65_536)).map(stream_byte).collect();
            match stack.tcp_send(now, socket, &next) {
                Ok(n) => sent += n,
                Err(error) => assert_eq!(error, SocketError::WouldBlock),
            }
            while let Ok(n @ 1..) = stack.tcp_recv(now, socket, &mut buf) {
                assert!(buf[..n].iter().enumerate().all(|(i, byte)| *byte == stream_byte(received + i)));
                received += n;
            }
        }
        let now = shard.now();
        shard.stack_mut().tcp_close(now, socket).unwrap();
        shard.turn().unwrap();
    } else {
        let peer = with_peer(test);
        shard.stack_mut().tcp_listen("10.9.8.1:7".parse().unwrap(), ListenOptions::default()).unwrap();
        let (mut ends, mut echoed, mut stats) = (None, 0, Vec::new());
        while !peer.is_finished() {
            turn(&mut shard);
            let now = shard.now();
            // Some drivers forget what they counted when the other end goes.
            if echoed == STREAM && stats.is_empty() {
                stats = shard.device_stats().remove(0).1;
            }
            let stack = shard.stack_mut();
            while let Some(event) = stack.poll_event() {
                if event.socket.kind == SocketKind::Listener {
                    let (id, _) = stack.tcp_accept(now, event.socket).unwrap();
                    ends = stack.tcp_split(id).map(|ends| (id, ends));
                } else if let Some((id, (tx, rx))) = &mut ends {
                    while let Some(bytes) = rx.peek(0, tx.free()).next() {
                        let n = tx.write(bytes);
                        echoed += n;
                        if rx.consume(n) == 0 {
                            break;
                        }
                    }
                    let _ = stack.tcp_wake(now, *id);
                }
            }
        }
        peer.join().unwrap();
        return stats;
    }
    shard.device_stats().remove(0).1
}

fn value(stats: &[(&str, u64)], name: &str) -> u64 {
    stats.iter().find(|(n, _)| *n == name).unwrap().1
}

#[test]
fn stacks_in_two_processes_talk_in_trains_over_virtio() {
    const TEST: &str = "dpdk_links::stacks_in_two_processes_talk_in_trains_over_virtio";
    if !inside(TEST) {
        return;
    }
    let stats = converse(TEST, end_of(&meeting_point(TEST), VHOST));
    let per_frame = value(&stats, "dpdk-tx-good-bytes") / value(&stats, "dpdk-tx-good-packets");
    assert!(per_frame > 4_000, "{per_frame} bytes per frame: {stats:?}");
    assert_eq!(value(&stats, "dpdk-tx-refused"), 0);
}

#[test]
fn stacks_in_two_processes_talk_over_memif() {
    const TEST: &str = "dpdk_links::stacks_in_two_processes_talk_over_memif";
    if !inside(TEST) {
        return;
    }
    let stats = converse(TEST, end_of(&meeting_point(TEST), MEMIF));
    assert!(value(&stats, "dpdk-rx-good-packets") > 1_000, "{stats:?}");
    assert_eq!(value(&stats, "dpdk-tx-full"), 0);
}
