//! `nty capture` beside tcpdump, which reads what it writes and judges what its filters take.

use crate::errors::{FAILED, USAGE, complaint, contains, nty};
use crate::wires::WIRE;
use crate::world::{
    HOST_NET, NTY, Nty, OURS, OURS_NET, Program, Site, in_namespace, noise, run, try_run, wait_until,
};
use nty_apps::capture::Filter;
use ntytcp::device::pcap::{CaptureReader, Direction, PcapWriter};
use ntytcp::time::Instant;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A veth pair, with an echo server on one end and the kernel's address on the other.
fn world(body: impl FnOnce(&Site)) {
    run("ip", &["link", "add", WIRE[0], "type", "veth", "peer", "name", WIRE[1]]);
    run("ip", &["addr", "add", HOST_NET, "dev", WIRE[1]]);
    for end in WIRE {
        run("ip", &["link", "set", end, "up"]);
    }
    let mut command = Command::new(NTY);
    let device = format!("packet:{}", WIRE[0]);
    command.args(["echo", "--device", &device, "--addr", OURS_NET]).stdin(Stdio::null());
    let nty = Nty::start(command);
    body(&Site::new());
    nty.stop();
    run("ip", &["link", "del", WIRE[0]]);
}

/// `nty capture` of the kernel's end, with these flags.
fn capture(flags: &[&str]) -> Command {
    let mut command = Command::new(NTY);
    command.args(["capture", "--device", &format!("packet:{}", WIRE[1])]).args(flags).stdin(Stdio::null());
    command
}

fn ping(count: &str) {
    run("ping", &["-q", "-c", count, "-i", "0.02", "-W", "5", OURS]);
}

/// What tcpdump makes of a capture, a line per frame.
fn tcpdump(file: &Path) -> Vec<String> {
    let text = run("tcpdump", &["-n", "-tt", "--nano", "-r", file.to_str().unwrap()]);
    text.lines().map(str::to_owned).collect()
}

#[test]
fn both_directions_are_captured_and_tcpdump_reads_them() {
    in_namespace(|| {
        world(|site| {
            for name in ["cap.pcapng", "cap.pcap"] {
                let file = site.path(name);
                let program = Program::start(capture(&["--out", file.to_str().unwrap(), "--filter", "icmp"]));
                ping("3");
                // What came last may still be in the kernel's ring.
                wait_until("all are in the file", || tcpdump(&file).len() == 6);
                let said = program.interrupt();
                contains(&said, &[" 6 matched, 6 written, 0 lost by the device"]);
                let lines = tcpdump(&file);
                let of = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
                assert_eq!((lines.len(), of("echo request"), of("echo reply")), (6, 3, 3), "{lines:?}");
                let times: Vec<_> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
                assert!(times.is_sorted() && times.iter().all(|t| t.len() == "1700000000.123456789".len()));
                assert!(times.iter().any(|t| !t.ends_with("000")), "nanoseconds: {times:?}");
            }
            let mut reader = CaptureReader::open(site.path("cap.pcapng")).unwrap();
            let (mut directions, mut frame) = (Vec::new(), Vec::new());
            while let Some(info) = reader.next_frame(&mut frame).unwrap() {
                directions.push(info.direction.unwrap());
            }
            assert_eq!(directions, [Direction::Outbound, Direction::Inbound].repeat(3));
        });
    });
}

#[test]
fn a_killed_capture_leaves_a_file_that_can_be_read() {
    in_namespace(|| {
        world(|site| {
            let file = site.path("cap.pcapng");
            let program = Program::start(capture(&["--out", file.to_str().unwrap(), "--filter", "icmp"]));
            ping("20");
            wait_until("all are in the file", || tcpdump(&file).len() == 40);
            program.kill();
            assert_eq!(tcpdump(&file).len(), 40);
        });
    });
}

#[test]
fn a_capture_is_a_stream_that_ends_after_so_many_frames_or_with_its_reader() {
    in_namespace(|| {
        world(|site| {
            let script = |flags: &str, reader: &str| {
                let (device, err) = (format!("packet:{}", WIRE[1]), site.path("err"));
                format!(
                    "{NTY} capture --device {device} --out - {flags} 2>{} | {reader}",
                    err.to_str().unwrap()
                )
            };
            let start = |script: String| {
                let _ = fs::remove_file(site.path("err"));
                let mut command = Command::new("sh");
                let child = command.args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
                wait_until("it is ready", || {
                    fs::read_to_string(site.path("err")).is_ok_and(|text| text.contains("ready: "))
                });
                child
            };
            let child = start(script("--count 4 --filter icmp --snaplen 50", "tcpdump -n -r - 2>&1"));
            ping("5");
            let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
            assert_eq!(text.matches("ICMP echo").count(), 4, "{text}");
            assert!(text.contains("snapshot length 50"), "{text}");
            contains(&fs::read_to_string(site.path("err")).unwrap(), &["4 matched, 4 written"]);

            // The reader goes after the header; the next frame finds nobody.
            let child = start(script("", "head -c 24 >/dev/null"));
            wait_until("it ends by itself", || {
                ping("1");
                fs::read_to_string(site.path("err")).is_ok_and(|text| text.contains("lost by the device"))
            });
            child.wait_with_output().unwrap();
        });
    });
}

#[test]
fn what_cannot_be_captured_is_one_line() {
    in_namespace(|| {
        let site = Site::new();
        let fails = |flags: &[&str], status| complaint(&mut nty(&[&["capture"], flags].concat()), status);
        contains(&fails(&[], USAGE), &["--device"]);
        contains(&fails(&["--device", "packet:none0"], FAILED), &["packet:none0", "`ip link` lists"]);
        contains(&fails(&["--device", "xdp:eth0"], USAGE), &["give packet:eth0"]);
        let filter = ["--device", "mem:", "--filter", "tcp and prt 80"];
        contains(&fails(&filter, USAGE), &["column 9: \"prt\" stands where"]);
        contains(&fails(&["--device", "mem:", "--out", "/nonexistent/x"], FAILED), &["/nonexistent/x"]);
        let file = site.path("one.pcap");
        let mut writer = PcapWriter::create(&file, Duration::ZERO).unwrap();
        writer.write(Instant::ZERO, Direction::Inbound, &[0; 60]).unwrap();
        drop(writer);
        let device = format!("pcap:{}", file.display());
        let full = fails(&["--device", &device, "--out", "/dev/full"], FAILED);
        contains(&full, &["cannot write /dev/full", "No space left"]);
    });
}

/// A frame of a kind that filters tell apart, by a number.
fn frame(n: u64) -> Vec<u8> {
    let random = noise(n, 40);
    let pick = |at: usize, of: usize| usize::from(random[at]) % of;
    let macs = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [0xff; 6], [1, 0, 0x5e, 0, 0, 5]];
    let mut frame = [macs[pick(0, 4)], macs[pick(1, 2)]].concat();
    for tag in 0..[0, 0, 0, 1, 2][pick(2, 5)] {
        frame.extend(if tag == 0 && pick(3, 2) == 0 { [0x88, 0xa8] } else { [0x81, 0] });
        frame.extend([0, [7, 8][pick(4 + tag, 2)]]);
    }
    let v4 = |at: usize| [10, pick(at, 2) as u8, 0, 1 + pick(at + 1, 3) as u8];
    let v6 = |at: usize| {
        let mut addr = [0; 16];
        (addr[0], addr[1], addr[15]) = (0x20, 1, 1 + pick(at, 3) as u8);
        addr
    };
    let port = |at: usize| [[0, 53], [0, 80], [1, 187], [0x30, 0x39]][pick(at, 4)];
    let protocol = [6, 6, 17, 17, 1, 58, 132, 50][pick(10, 8)];
    let l4 = [&port(11)[..], &port(12), &[0; 16]].concat();
    match pick(13, 8) {
        0 => frame.extend(
            [
                &[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1 + pick(14, 2) as u8][..],
                &[2; 6],
                &v4(15),
                &[0; 6],
                &v4(17),
            ]
            .concat(),
        ),
        1 => frame
            .extend([&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protocol, 64][..], &v6(15), &v6(16), &l4].concat()),
        2 => {
            let fragment = [protocol, 0, 0, [0, 8][pick(18, 2)], 0, 0, 0, 1];
            let head = [0x86, 0xdd, 0x60, 0, 0, 0, 0, 28, 44, 64];
            frame.extend([&head[..], &v6(15), &v6(16), &fragment, &l4].concat());
        }
        3 => frame.extend([&[0x88, 0xcc][..], &[0; 50]].concat()),
        kind => {
            let options = if kind == 4 { 1 } else { 0 };
            let offset = if kind == 5 { 100 } else { 0 };
            let head = [0x08, 0, 0x45 + options, 0, 0, 40 + 4 * options, 0, 0, 0, offset, 64, protocol, 0, 0];
            frame.extend([&head[..], &v4(15), &v4(17), &[1; 4][..4 * usize::from(options)], &l4].concat());
        }
    }
    frame.resize(frame.len().max(60) + pick(20, 40), 0);
    frame
}

/// A filter by a number: few enough values that filters and frames meet.
fn filter(n: u64) -> String {
    const TERMS: [&str; 40] = [
        "ip",
        "ip6",
        "arp",
        "tcp",
        "udp",
        "icmp",
        "icmp6",
        "vlan",
        "vlan 7",
        "vlan 8",
        "host 10.0.0.1",
        "src host 10.0.0.2",
        "dst 10.1.0.1",
        "src and dst net 10.0/16",
        "net 10.1.0.0/16",
        "arp host 10.0.0.1",
        "ip src 10.1.0.3",
        "net 0.0.0.0/1",
        "host 2001::1",
        "dst net 2001::/127",
        "ip6 src 2001::2",
        "port 53",
        "tcp port 80",
        "udp src port 443",
        "dst port 12345",
        "portrange 50-100",
        "tcp dst portrange 53-443",
        "src or dst port 80",
        "src and dst port 53",
        "ether host 02:00:00:00:00:01",
        "ether dst 02:00:00:00:00:02",
        "ether src host 02:00:00:00:00:02",
        "ether broadcast",
        "ether multicast",
        "less 70",
        "greater 80",
        "greater 60",
        "arp src net 10.0.0.0/31",
        "ip net 10",
        "udp portrange 0-60",
    ];
    let random = noise(n, 32);
    let mut text = String::new();
    for term in 0..1 + usize::from(random[0]) % 4 {
        let pick = |at: usize, of: usize| usize::from(random[8 * term + at]) % of;
        if term > 0 {
            text.push_str([" and ", " or ", " && ", " || "][pick(1, 4)]);
        }
        text.push_str(["", "", "not ", "! "][pick(2, 4)]);
        let (a, b) = (TERMS[pick(3, 40)], TERMS[pick(4, 40)]);
        match pick(5, 3) {
            0 => text.push_str(&format!("({a} {} {b})", ["and", "or"][pick(6, 2)])),
            _ => text.push_str(a),
        }
    }
    text
}

/// Those of the frames that tcpdump takes.
fn tcpdump_takes(file: &Path, filter: &str, out: &Path) -> Vec<Vec<u8>> {
    let mut command = Command::new("tcpdump");
    command.args(["-r", file.to_str().unwrap(), "-w", out.to_str().unwrap(), filter]);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    if said.contains("expression rejects all packets") {
        return Vec::new();
    }
    assert!(output.status.success(), "{filter}: {said}");
    let mut reader = CaptureReader::open(out).unwrap();
    let mut taken = Vec::new();
    let mut frame = Vec::new();
    while reader.next_frame(&mut frame).unwrap().is_some() {
        taken.push(std::mem::take(&mut frame));
    }
    taken
}

#[test]
fn filters_take_what_tcpdump_takes() {
    in_namespace(|| {
        let site = Site::new();
        let (file, out) = (site.path("all.pcap"), site.path("taken.pcap"));
        let frames: Vec<_> = (0..600).map(frame).collect();
        let mut writer = PcapWriter::create(&file, Duration::ZERO).unwrap();
        for frame in &frames {
            writer.write(Instant::ZERO, Direction::Inbound, frame).unwrap();
        }
        drop(writer);
        let mut some = 0;
        for n in 0..400 {
            let text = filter(n);
            let filter: Filter = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            let ours: Vec<_> = frames.iter().filter(|frame| filter.matches(frame, frame.len())).collect();
            let theirs = tcpdump_takes(&file, &text, &out);
            assert!(ours.iter().copied().eq(&theirs), "{text}: {} and {}", ours.len(), theirs.len());
            some += usize::from(!ours.is_empty() && ours.len() < frames.len());
        }
        assert!(some > 200, "only {some} filters tell frames apart");
        let said = run(NTY, &["capture", "--device", &format!("pcap:{}", file.display()), "--filter", "tcp"]);
        let theirs = tcpdump_takes(&file, "tcp", &out).len();
        contains(&said, &[&format!("600 frames seen, {theirs} matched, 0 written")]);
        let before = fs::read(&file).unwrap();
        let link = site.path("link.pcap");
        fs::hard_link(&file, &link).unwrap();
        let (device, out) = (format!("pcap:{}", file.display()), link.to_str().unwrap());
        let refused = try_run(NTY, &["capture", "--device", &device, "--out", out]);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(fs::read(&file).unwrap() == before, "it is not written over");
    });
}
