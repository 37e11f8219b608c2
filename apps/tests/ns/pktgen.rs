//! `nty pktgen` against servers of ours and of the kernel, and against itself.

use crate::errors::{FAILED, USAGE, complaint, contains, nty};
use crate::wires::WIRE;
use crate::world::{NTY, Nty, OURS_NET, Program, in_namespace, run, try_run};
use std::process::{Command, Stdio};

/// A veth pair whose ends are up.
fn link() {
    run("ip", &["link", "add", WIRE[0], "type", "veth", "peer", "name", WIRE[1]]);
    for end in WIRE {
        run("ip", &["link", "set", end, "up"]);
    }
}

/// Runs the generator on the other end, from 10.0.0.9 to 10.0.0.2; its status and its report.
fn generate(kind: &str, flags: &[&str]) -> (Option<i32>, String) {
    let device = format!("{kind}:{}", WIRE[1]);
    let common = ["pktgen", "--device", &device, "--src-ip", "10.0.0.9", "--dst-ip", "10.0.0.2"];
    let output = try_run(NTY, &[&common[..], flags].concat());
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// Everything that is sent to an echo server comes back, once, in order and undamaged.
fn echoes(kind: &str) {
    link();
    let mut command = Command::new(NTY);
    let device = format!("packet:{}", WIRE[0]);
    command.args(["echo", "--device", &device, "--addr", OURS_NET]).stdin(Stdio::null());
    let echo = Nty::start(command);
    for flags in [
        &["--count", "500", "--pps", "5000"][..],
        &["--count", "500", "--pps", "5000", "--size", "imix", "--src-port", "1000-1999"],
        &["--count", "200", "--rate", "10M", "--proto", "icmp", "--size", "60-1514"],
        &["--count", "200", "--pps", "5000", "--proto", "tcp-syn", "--src-port", "1000-1199"],
    ] {
        let (status, said) = generate(kind, &[flags, &["--max-loss", "0"]].concat());
        assert_eq!(status, Some(0), "{flags:?}: {said}");
        let count = flags[1];
        contains(
            &said,
            &[
                &format!("sent {count} frames"),
                &format!("received {count} frames"),
                "lost 0 (0.000 %), duplicates 0, out of order 0, damaged 0",
                "latency min ",
            ],
        );
    }
    let syns =
        ["--count", "50", "--proto", "tcp-syn", "--dst-port", "9", "--pps", "500", "--src-port", "1-50"];
    let (_, said) = generate(kind, &syns);
    contains(&said, &["refused "]);
    let (status, said) = generate(
        kind,
        &["--count", "20", "--json", "--dst-port", "9", "--linger", "200ms", "--max-loss", "5"],
    );
    assert_eq!(status, Some(1), "nobody answers at port 9: {said}");
    contains(&said, &["\"lost\":20", "\"lost_percent\":100.0", "\"latency_us\":null", "pktgen failed"]);
    echo.stop();
    run("ip", &["link", "del", WIRE[0]]);
}

#[test]
fn an_echo_server_returns_what_is_generated_over_a_packet_socket() {
    in_namespace(|| echoes("packet"));
}

#[test]
fn an_echo_server_returns_what_is_generated_over_xdp() {
    in_namespace(|| echoes("xdp"));
}

#[test]
fn a_receiver_counts_what_another_generates() {
    in_namespace(|| {
        link();
        let mut command = Command::new(NTY);
        let device = format!("packet:{}", WIRE[0]);
        command
            .args(["pktgen", "--receive", "--device", &device, "--src-ip", "10.0.0.2"])
            .stdin(Stdio::null());
        let receiver = Program::start(command);
        let (status, said) = generate("packet", &["--count", "1000", "--pps", "10000", "--linger", "10ms"]);
        assert_eq!(status, Some(0), "{said}");
        contains(&said, &["sent 1000 frames", "received 0 frames"]);
        let said = receiver.interrupt();
        contains(
            &said,
            &["received 1000 frames, 60000 bytes", "lost 0 (0.000 %)", "answered 1 ARP requests"],
        );
        run("ip", &["link", "del", WIRE[0]]);
    });
}

#[test]
fn what_cannot_be_generated_is_one_line() {
    in_namespace(|| {
        let fails = |flags: &[&str], status| {
            let common = ["pktgen", "--src-ip", "10.0.0.9", "--dst-ip", "10.0.0.2"];
            complaint(&mut nty(&[&common[..], flags].concat()), status)
        };
        contains(&fails(&[], USAGE), &["--device"]);
        contains(&fails(&["--device", "packet:none0"], FAILED), &["packet:none0", "`ip link` lists"]);
        contains(&fails(&["--device", "mem:", "--size", "1515"], USAGE), &["give at most 1514"]);
        contains(&fails(&["--device", "mem:"], FAILED), &["10.0.0.2 does not answer ARP", "--dst-mac"]);
        contains(&fails(&["--device", "mem:", "--proto", "sctp"], USAGE), &["--proto", "tcp-syn"]);
    });
}
