//! ICMP and UDP: fragments, errors, and `ping` in both directions.

use crate::world::{HOST, LINK, Link, Nty, OURS, PATIENCE, in_namespace, noise, run, try_run};
use std::io::ErrorKind;
use std::net::UdpSocket;

/// The kernel pings us with every size of interest.
fn ping_sizes(mtu: &str) {
    let nty = Nty::serve_on(&Link { more: &["--mtu", mtu], ..LINK }, &["echo"]);
    for size in ["0", "1", "1472", "1473", "8000", "65507"] {
        let said = run("ping", &["-q", "-c", "3", "-i", "0.1", "-W", "10", "-s", size, OURS]);
        assert!(said.contains("3 received, 0% packet loss"), "{size} bytes at MTU {mtu}: {said}");
    }
    let counters = nty.stop();
    // The kernel's fragments of 65,507 bytes are 45 or 8; ours as many.
    let least = if mtu == "1500" { 3 * 45 } else { 3 * 8 };
    assert!(counters.get("fragments-rx") >= least && counters.get("fragments-tx") >= least, "{counters:?}");
    assert_eq!(counters.get("reassembled"), if mtu == "1500" { 9 } else { 3 });
}

#[test]
fn kernel_pings_us_with_every_size_at_mtu_1500() {
    in_namespace(|| ping_sizes("1500"));
}

#[test]
fn kernel_pings_us_with_every_size_at_mtu_9000() {
    in_namespace(|| ping_sizes("9000"));
}

fn nty_ping(args: &[&str]) -> std::process::Output {
    LINK.command(&[&["ping"], args].concat()).output().unwrap()
}

#[test]
fn we_ping_the_kernel_with_every_size() {
    in_namespace(|| {
        for size in ["0", "1", "1472", "1473", "8000", "65507"] {
            let output = nty_ping(&["-c", "3", "-i", "50ms", "-W", "10s", "-s", size, HOST]);
            assert!(output.status.success(), "{size} bytes: {output:?}");
            assert_eq!(output.stderr, b"");
        }
    });
}

#[test]
fn ping_of_an_absent_host_fails() {
    in_namespace(|| {
        let output = nty_ping(&["-c", "2", "-i", "50ms", "-W", "500ms", "10.0.0.77"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    });
}

/// A kernel UDP socket connected to a port of ours.
fn socket(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((HOST, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect((OURS, port)).unwrap();
    socket
}

#[test]
fn closed_udp_port_refuses() {
    in_namespace(|| {
        let nty = Nty::serve(&["echo", "--transport", "tcp"]);
        let socket = socket(7);
        socket.send(b"anybody?").unwrap();
        let error = socket.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        nty.stop();
    });
}

#[test]
fn datagrams_of_every_size_come_back() {
    in_namespace(|| {
        let nty = Nty::serve(&["echo"]);
        let socket = socket(7);
        let mut buf = vec![0; 65_535];
        for len in [0, 1, 1_472, 1_473, 8_000, 65_507] {
            let sent = noise(len as u64, len);
            socket.send(&sent).unwrap();
            let got = socket.recv(&mut buf).unwrap();
            assert!(buf[..got] == sent, "{len} bytes: {got} came back");
        }
        nty.stop();
    });
}

#[test]
fn address_that_nobody_has_is_unreachable_to_the_kernel() {
    in_namespace(|| {
        let nty = Nty::serve(&["echo"]);
        let output = try_run("ping", &["-q", "-c", "1", "-W", "5", "10.0.0.77"]);
        assert_eq!(output.status.code(), Some(1), "we answer for our address only: {output:?}");
        nty.stop();
    });
}
