//! The TAP, which the kernel's own stack is at the other end of.
#![allow(clippy::unwrap_used)] // A failed step is a failed test, in helpers too.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use super::kit::*;
use ntytcp::device::sys::{PollFd, poll};
use ntytcp::device::tap::{TapConfig, TapDevice};
use ntytcp::device::{Device, DeviceError, TxMeta, TxQueue, Verdict};

/// Whether this is the copy in a namespace, where TAPs can be made.
fn inside(test: &str) -> bool {
    if !std::path::Path::new("/dev/net/tun").exists() {
        println!("skipped: {test} needs /dev/net/tun");
        return false;
    }
    super::kit::inside(&format!("tap::{test}"))
}

fn config() -> TapConfig {
    let mut config = TapConfig::new(name());
    config.host_addrs = vec![(IpAddr::from(HOST), 24)];
    config
}

fn open(config: &TapConfig) -> TapDevice {
    let tap = TapDevice::open(config).unwrap();
    assert_eq!(tap.notices(), [] as [String; 0]);
    tap
}

#[test]
fn kernel_pings_us_and_gets_answers_in_place() {
    if inside("kernel_pings_us_and_gets_answers_in_place") {
        answers_pings_in_place(&mut open(&config()));
    }
}

#[test]
fn checksums_cross_partial_and_the_kernel_counts_our_frames() {
    if inside("checksums_cross_partial_and_the_kernel_counts_our_frames") {
        let config = config();
        passes_partial_checksums(&mut open(&config), &config.name);
    }
}

#[test]
fn without_offload_frames_are_finished_in_both_directions() {
    if inside("without_offload_frames_are_finished_in_both_directions") {
        let mut config = config();
        config.offload = false;
        finishes_frames_in_software(&mut open(&config));
    }
}

#[test]
fn tcp_trains_of_64_kilobytes_cross_in_both_directions() {
    if inside("tcp_trains_of_64_kilobytes_cross_in_both_directions") {
        let config = config();
        passes_trains_of_64_kilobytes(&mut open(&config), &config.name);
    }
}

#[test]
fn udp_trains_cross_whole_only_when_asked_for() {
    if !inside("udp_trains_cross_whole_only_when_asked_for") {
        return;
    }
    for udp_trains in [false, true] {
        let mut config = config();
        config.udp_trains = udp_trains;
        let mut tap = TapDevice::open(&config).unwrap();
        if !tap.notices().is_empty() {
            println!("skipped: {:?}", tap.notices());
            return;
        }
        let socket = host_socket();
        send_in_trains(&socket);
        socket.send(&[7; 60_000]).unwrap();
        let (mut got, mut lens) = (0, Vec::new());
        serve(&mut tap, |frame, meta| {
            if is_ipv4(frame, UDP) {
                got += frame.len() - 42;
                lens.push((frame.len() - 42, meta.gso_size));
            }
            (got == 60_000, Verdict::Done)
        });
        let expected = if udp_trains { vec![(60_000, Some(1000))] } else { vec![(1000, None); 60] };
        assert_eq!(lens, expected);
    }
}

#[test]
fn interface_gets_its_addresses_and_mtu_and_is_gone_afterwards() {
    if !inside("interface_gets_its_addresses_and_mtu_and_is_gone_afterwards") {
        return;
    }
    let mut config = config();
    config.mtu = 9000;
    config.host_addrs.push(("10.9.7.1".parse().unwrap(), 28));
    config.host_addrs.push(("fd00::1".parse().unwrap(), 64));
    let tap = open(&config);
    let shown = Command::new("ip").args(["addr", "show", "dev", tap.name()]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    for part in ["mtu 9000", "inet 10.9.8.1/24", "inet 10.9.7.1/28", "inet6 fd00::1/64", ",UP"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    drop(tap);
    assert_eq!(kernel_rx_packets(&config.name), None);
}

#[test]
fn numbered_name_is_filled_in_by_the_kernel() {
    if !inside("numbered_name_is_filled_in_by_the_kernel") {
        return;
    }
    let (a, b) = (open(&TapConfig::new("nty%d")), open(&TapConfig::new("nty%d")));
    assert_ne!(a.name(), b.name());
    assert!(kernel_rx_packets(a.name()).is_some() && !a.name().contains('%'));
}

#[test]
fn interface_that_existed_before_stays() {
    if !inside("interface_that_existed_before_stays") {
        return;
    }
    let config = config();
    ip(&["tuntap", "add", &config.name, "mode", "tap"]);
    drop(open(&config));
    assert!(kernel_rx_packets(&config.name).is_some());
}

#[test]
fn removed_interface_is_reported_as_gone() {
    if !inside("removed_interface_is_reported_as_gone") {
        return;
    }
    let mut tap = open(&config());
    let name = tap.name().to_owned();
    ip(&["link", "set", &name, "down"]);
    send(&mut tap, &[0; 60], TxMeta::default());
    assert_eq!(tap.stats()[0], ("tap-link-down", 1), "down is not gone");
    while tap.rx_burst(&mut |_| {}).unwrap() > 0 {}
    ip(&["link", "del", &name]);
    let mut fds = [PollFd::readable(tap.poll_fd().unwrap())];
    assert_eq!(poll(&mut fds, Some(Duration::from_secs(5))).unwrap(), 1, "a sleeper is woken");
    let gone = |e| matches!(e, DeviceError::Gone(of) if of == name);
    assert!(gone(tap.rx_burst(&mut |_| {}).unwrap_err()));
    tap.reserve(60).unwrap().fill(0);
    tap.commit(TxMeta::default());
    assert!(gone(tap.flush().unwrap_err()));
}

#[test]
fn open_errors_are_one_line_with_the_remedy() {
    if !inside("open_errors_are_one_line_with_the_remedy") {
        return;
    }
    let message = |config: &TapConfig| {
        let message = TapDevice::open(config).unwrap_err().to_string();
        assert!(!message.contains('\n'));
        message
    };
    let long = message(&TapConfig::new("sixteen-letters-"));
    assert!(long.contains("tap:sixteen-letters-: an interface name has 1 to 15 bytes"), "{long}");

    let first = config();
    let _tap = open(&first);
    let busy = message(&first);
    assert!(busy.contains("another process uses it"), "{busy}");

    let mut stays = TapConfig::new(name());
    ip(&["tuntap", "add", &stays.name, "mode", "tap"]);
    stays.create = true;
    let exists = message(&stays);
    assert!(exists.contains("would keep what it is given here: remove it"), "{exists}");
    ip(&["link", "del", &stays.name]);
    drop(open(&stays));

    let other = message(&TapConfig::new("lo"));
    assert!(other.contains("is no single-queue TAP"), "{other}");

    let mut config = TapConfig::new(name());
    config.mtu = 100_000;
    let mtu = message(&config);
    assert!(mtu.contains("cannot set the MTU to 100000") && mtu.contains("68 to 65521"), "{mtu}");
    assert_eq!(kernel_rx_packets(&config.name), None, "nothing is left behind");

    config.mtu = 1500;
    config.host_addrs = vec![(IpAddr::from(HOST), 33)];
    let addr = message(&config);
    assert!(addr.contains("10.9.8.1/33") && addr.contains("prefix length"), "{addr}");
}

#[test]
fn missing_permission_says_what_it_takes() {
    const TEST: &str = "missing_permission_says_what_it_takes";
    if std::env::var_os(INSIDE).is_some_and(|who| who == "nobody") {
        let message = TapDevice::open(&TapConfig::new(name())).unwrap_err().to_string();
        assert!(message.contains("unshare -Urn") && !message.contains('\n'), "{message}");
        return;
    }
    if !inside(TEST) {
        return;
    }
    let setpriv = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command
    };
    // A user namespace maps one user only, and a build directory may be closed to others.
    let exe = std::env::current_exe().unwrap();
    if !setpriv().arg("test").arg("-x").arg(exe).output().is_ok_and(|o| o.status.success()) {
        println!("skipped: {TEST} cannot become another user here");
        return;
    }
    run_copy(&mut setpriv(), &format!("tap::{TEST}"), "nobody");
}
