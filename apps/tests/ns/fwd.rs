//! `nty fwd` between two kernels: each in a network namespace of its own, at the other end of a link.

use crate::errors::{FAILED, USAGE, complaint, contains, nty};
use crate::world::{NTY, Program, Site, in_namespace, noise, run, try_run, wait_until};
use std::fs;
use std::process::{Child, Command, Output, Stdio};

/// A network namespace with an interface `host`, whose other end is in ours.
struct Kernel {
    /// Keeps the namespace; ends with it.
    keeper: Child,
}

impl Kernel {
    /// Makes the namespace; our end of its link is called `ours`. It has this address, and this router if any.
    fn new(ours: &str, addr: &str, router: Option<&str>) -> Self {
        let mut command = Command::new("unshare");
        let keeper =
            command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let kernel = Self { keeper };
        let (own, its) =
            (fs::read_link("/proc/self/ns/net").unwrap(), format!("/proc/{}/ns/net", kernel.pid()));
        wait_until("the namespace is there", || fs::read_link(&its).is_ok_and(|its| its != own));
        run("ip", &["link", "add", ours, "type", "veth", "peer", "name", "host", "netns", &kernel.pid()]);
        run("ip", &["link", "set", ours, "up"]);
        kernel.run(&["ip", "addr", "add", addr, "dev", "host"]);
        kernel.run(&["ip", "link", "set", "host", "up"]);
        if let Some(router) = router {
            kernel.run(&["ip", "route", "add", "default", "via", router]);
        }
        kernel
    }

    fn pid(&self) -> String {
        self.keeper.id().to_string()
    }

    /// This command, to be run there.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.pid()]).args(words).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn try_run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn ping(&self, to: &str, size: &str) {
        self.run(&["ping", "-q", "-c", "3", "-i", "0.05", "-W", "5", "-s", size, to]);
    }

    /// Sends a file to another kernel over TCP, through whatever is between.
    fn send_file(&self, to: &Self, (addr, port): (&str, &str), site: &Site) {
        let (from, got) = (site.path("sent"), site.path("got"));
        let mut receiver = to.command(&["nc", "-l", "-N", addr, port]);
        let mut receiver = receiver.stdout(fs::File::create(&got).unwrap()).spawn().unwrap();
        wait_until("it listens", || to.run(&["ss", "-Hltn"]).contains(&format!("{addr}:{port}")));
        let mut sender = self.command(&["timeout", "60", "nc", "-N", addr, port]);
        assert!(sender.stdin(fs::File::open(&from).unwrap()).status().unwrap().success());
        assert!(receiver.wait().unwrap().success());
        assert!(fs::read(&from).unwrap() == fs::read(&got).unwrap(), "what arrives is what was sent");
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// Our ends of the links to the two kernels.
const PORTS: [&str; 2] = ["ntya", "ntyb"];

/// Starts the forwarder between the two.
fn forward(kind: &str, flags: &[&str]) -> Program {
    let [a, b] = PORTS.map(|port| format!("{kind}:{port}"));
    let mut command = Command::new(NTY);
    command.args(["fwd", "--device", &a, "--device", &b]).args(flags).stdin(Stdio::null());
    Program::start(command)
}

/// The kernels go, and their links with them, in the kernel's own time.
fn end(kernels: [Kernel; 2]) {
    drop(kernels);
    wait_until("the links are gone", || {
        let table = fs::read_to_string("/proc/net/dev").unwrap();
        PORTS.iter().all(|port| !table.contains(port))
    });
}

fn count(report: &str, name: &str) -> u64 {
    let row = report.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    row.map_or(0, |count| count.split(' ').next().unwrap().parse().unwrap())
}

fn wires(kind: &str) {
    let kernels = [Kernel::new(PORTS[0], "10.0.0.1/24", None), Kernel::new(PORTS[1], "10.0.0.2/24", None)];
    let [a, b] = &kernels;
    let site = Site::new();
    site.add("sent", &noise(1, 20 << 20));
    let program = forward(kind, &["--acl", "deny tcp from any to any port 9999"]);
    for size in ["0", "1400", "5000"] {
        a.ping("10.0.0.2", size);
    }
    a.send_file(b, ("10.0.0.2", "7777"), &site);
    b.send_file(a, ("10.0.0.1", "7777"), &site);
    let denied = a.try_run(&["nc", "-z", "-w", "1", "10.0.0.2", "9999"]);
    assert!(!denied.status.success());
    let said = program.interrupt();
    assert!(count(&said, "port0-denied") > 0 && count(&said, "rule0") > 0, "{said}");
    assert!(count(&said, "port0-rx-bytes") > 20 << 20 && count(&said, "port1-tx-bytes") > 20 << 20, "{said}");
    for loss in ["malformed", "too-big", "uncuttable"] {
        assert_eq!(
            count(&said, &format!("port0-{loss}")) + count(&said, &format!("port1-{loss}")),
            0,
            "{said}"
        );
    }
    end(kernels);
}

#[test]
fn two_kernels_talk_over_a_wire_of_packet_sockets() {
    in_namespace(|| wires("packet"));
}

#[test]
fn two_kernels_talk_over_a_wire_of_xdp() {
    in_namespace(|| wires("xdp"));
}

fn routes(kind: &str) {
    let kernels = [
        Kernel::new(PORTS[0], "10.0.0.9/24", Some("10.0.0.1")),
        Kernel::new(PORTS[1], "10.0.1.9/24", Some("10.0.1.1")),
    ];
    let [a, b] = &kernels;
    let site = Site::new();
    site.add("sent", &noise(2, 20 << 20));
    let program = forward(kind, &["--mode", "l3", "--addr", "0=10.0.0.1/24", "--addr", "ntyb=10.0.1.1/24"]);
    a.ping("10.0.0.1", "56");
    a.ping("10.0.1.1", "56");
    for size in ["0", "1400", "5000"] {
        a.ping("10.0.1.9", size);
    }
    a.send_file(b, ("10.0.1.9", "7777"), &site);
    b.send_file(a, ("10.0.0.9", "7777"), &site);
    let of = |words: &[&str]| String::from_utf8(a.try_run(words).stdout).unwrap();
    contains(
        &of(&["ping", "-c", "1", "-W", "2", "-t", "1", "10.0.1.9"]),
        &["From 10.0.0.1", "Time to live exceeded"],
    );
    contains(&of(&["ping", "-c", "1", "-W", "2", "192.0.2.1"]), &["From 10.0.0.1", "Net Unreachable"]);
    // The generator is one more host of the first network, the second kernel answers it.
    let flags = [
        "--src-ip",
        "10.0.0.99",
        "--dst-ip",
        "10.0.1.9",
        "--via",
        "10.0.0.1",
        "--proto",
        "icmp",
        "--max-loss",
        "0",
    ];
    let common =
        [NTY, "pktgen", "--device", "packet:host", "--count", "300", "--pps", "3000", "--size", "60-1400"];
    let said = a.run(&[&common[..], &flags].concat());
    contains(&said, &["received 300 frames", "lost 0 (0.000 %), duplicates 0, out of order 0, damaged 0"]);
    let said = program.interrupt();
    assert_eq!((count(&said, "port0-ttl-exceeded"), count(&said, "port0-no-route")), (1, 1), "{said}");
    assert!(count(&said, "port0-echoed") >= 6 && count(&said, "port0-icmp-errors") >= 2, "{said}");
    end(kernels);
}

#[test]
fn two_kernels_talk_through_a_router_on_packet_sockets() {
    in_namespace(|| routes("packet"));
}

#[test]
fn two_kernels_talk_through_a_router_on_xdp() {
    in_namespace(|| routes("xdp"));
}

#[test]
fn a_mirror_returns_what_is_generated() {
    in_namespace(|| {
        run("ip", &["link", "add", PORTS[0], "type", "veth", "peer", "name", PORTS[1]]);
        for port in PORTS {
            run("ip", &["link", "set", port, "up"]);
        }
        let mut command = Command::new(NTY);
        command.args(["fwd", "--device", "packet:ntya", "--mac-swap"]).stdin(Stdio::null());
        let program = Program::start(command);
        let flags = [
            "--src-ip",
            "10.0.0.9",
            "--dst-ip",
            "10.0.0.2",
            "--dst-mac",
            "02:00:00:00:00:02",
            "--size",
            "imix",
        ];
        let common =
            ["pktgen", "--device", "packet:ntyb", "--count", "2000", "--pps", "10000", "--max-loss", "0"];
        let output = try_run(NTY, &[&common[..], &flags].concat());
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}");
        contains(
            &said,
            &["received 2000 frames", "lost 0 (0.000 %), duplicates 0, out of order 0, damaged 0"],
        );
        let said = program.interrupt();
        assert!(count(&said, "port0-tx-frames") >= 2_000, "{said}");
        run("ip", &["link", "del", PORTS[0]]);
    });
}

#[test]
fn what_cannot_be_forwarded_is_one_line() {
    in_namespace(|| {
        let site = Site::new();
        let fails = |flags: &[&str], status| complaint(&mut nty(&[&["fwd"], flags].concat()), status);
        contains(&fails(&[], USAGE), &["--device"]);
        contains(&fails(&["--device", "mem:"], USAGE), &["give another --device, or --mac-swap"]);
        let mirror = ["--mac-swap", "--device", "packet:none0"];
        contains(&fails(&mirror, FAILED), &["packet:none0", "`ip link` lists"]);
        let mirror = ["--mac-swap", "--device", "mem:"];
        contains(&fails(&[&mirror[..], &["--acl", "deny all"]].concat(), USAGE), &["\"all\" is no protocol"]);
        let missing = ["--acl-file", "/nonexistent"];
        contains(&fails(&[&mirror[..], &missing].concat(), FAILED), &["/nonexistent: "]);
        site.add("acl", b"permit ip from any to any\ndeny ip from 10.0.0.1/8 to any\n");
        let file = site.path("acl");
        let bad = ["--acl-file", file.to_str().unwrap()];
        contains(&fails(&[&mirror[..], &bad].concat(), FAILED), &["acl:2: ", "did you mean 10.0.0.0/8?"]);
    });
}
