//! Bad input: one clear line on standard error, the right exit status, and nothing left behind.

use crate::world::{LINK, Link, NTY, Nty, OURS, OURS_NET, in_namespace, interfaces, run, try_run};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

pub(crate) const FAILED: i32 = 1;
pub(crate) const USAGE: i32 = 2;

/// Runs a command that must fail at once; its one line.
pub(crate) fn complaint(command: &mut Command, status: i32) -> String {
    let Output { status: got, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(got.code(), Some(status), "{command:?}: {text}");
    assert_eq!(stdout, b"", "{command:?}");
    assert!(text.ends_with('\n') && text.lines().count() == 1, "{command:?} said {text:?}");
    assert_eq!(interfaces(), ["lo"], "{command:?}");
    text
}

/// `nty` with these arguments, stopped if it does not end by itself.
pub(crate) fn nty(args: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["20", NTY]).args(args);
    command
}

#[track_caller]
pub(crate) fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}

#[test]
fn missing_permission_for_a_tap_names_the_remedy() {
    in_namespace(|| {
        // A build directory may be closed to others.
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let copy = dir.path().join("nty");
        fs::copy(NTY, &copy).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copy);
        command.args(["echo", "--device", "tap:ntytest", "--addr", OURS_NET]);
        contains(&complaint(&mut command, FAILED), &["nty: ", "ntytest", "unshare -Urn"]);
    });
}

#[test]
fn bad_device_is_named() {
    in_namespace(|| {
        let fails =
            |device, status| complaint(&mut nty(&["echo", "--device", device, "--addr", OURS_NET]), status);
        contains(&fails("tap:sixteen-letters-", FAILED), &["sixteen-letters-", "1 to 15 bytes"]);
        contains(&fails("carrier-pigeon:x", USAGE), &["carrier-pigeon:x", "tap:NAME", "pcap:"]);
        contains(&fails("tap:lo", FAILED), &["lo"]);
        contains(&fails("tap:x%d", FAILED), &["tap:x%d", "give the whole name"]);
        contains(&fails("pcap:/nonexistent", FAILED), &["/nonexistent"]);
    });
}

#[test]
fn truncated_capture_is_named() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cut.pcap");
        // The header of a capture of Ethernet frames, and one of 60 bytes of which 10 are there.
        let mut capture =
            vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
        capture.extend([0, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 60, 0, 0, 0]);
        capture.extend([0xff; 10]);
        for len in [4, 10, 23, 30, capture.len()] {
            fs::write(&file, &capture[..len]).unwrap();
            let device = format!("pcap:{}", file.display());
            let said = complaint(&mut nty(&["echo", "--device", &device, "--addr", OURS_NET]), FAILED);
            contains(&said, &["cut.pcap", "truncated"]);
        }
    });
}

#[test]
fn full_disk_and_the_end_of_a_capture_are_told_once() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("empty.pcap");
        let header =
            [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
        fs::write(&file, header).unwrap();
        let device = format!("pcap:{}", file.display());
        let full = format!("{device},/dev/full");
        let said = complaint(&mut nty(&["echo", "--device", &full, "--addr", OURS_NET]), FAILED);
        contains(&said, &["cannot write /dev/full", "is the disk full? free some space"]);

        let ping = ["ping", "--device", &device, "--addr", OURS_NET, "--count", "1", "10.0.0.1"];
        let said = String::from_utf8(nty(&ping).output().unwrap().stderr).unwrap();
        assert_eq!(said.matches("empty.pcap is at its end after 0 frames").count(), 1, "{said}");
    });
}

#[test]
fn address_in_use_on_the_link_is_named_with_its_owner() {
    in_namespace(|| {
        run("ip", &["tuntap", "add", LINK.tap, "mode", "tap"]);
        run("ip", &["addr", "add", OURS_NET, "dev", LINK.tap]);
        let shown = run("ip", &["link", "show", "dev", LINK.tap]);
        let address = shown.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
        let output = nty(&["echo", "--device", "tap:ntytest", "--addr", OURS_NET]).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(FAILED), 1), "{text}");
        contains(&text, &["10.0.0.2 is in use", address, "--addr"]);
        assert_eq!(interfaces(), ["lo", LINK.tap], "what was there before stays");
        run("ip", &["link", "del", LINK.tap]);
    });
}

#[test]
fn device_that_another_nty_has_is_named() {
    in_namespace(|| {
        let first = Nty::serve(&["echo"]);
        let output = LINK.command(&["echo"]).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(FAILED), 1), "{text}");
        contains(&text, &["ntytest", "another process uses it"]);
        first.stop();
    });
}

#[test]
fn mistake_in_a_zone_file_is_shown_with_its_line() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bad.zone");
        fs::write(&file, "@ 60 IN SOA ns1 hostmaster 1 2 3 4 5\n  NS ns1\nns1 A 192.0.2.999\n").unwrap();
        let zone = format!("example.test={}", file.display());
        let said = complaint(&mut LINK.command(&["dns", "--zone", &zone]), FAILED);
        contains(&said, &["bad.zone:3:"]);
        let said = complaint(&mut LINK.command(&["dns", "--zone", "example.test=/nonexistent"]), FAILED);
        contains(&said, &["/nonexistent"]);
    });
}

#[test]
fn devices_and_pipes_that_nobody_writes_to_are_no_files() {
    in_namespace(|| {
        let of = |app: &[&str]| {
            let mut command = Command::new("timeout");
            let link = LINK.command(app);
            command.arg("20").arg(link.get_program()).args(link.get_args());
            complaint(&mut command, FAILED)
        };
        contains(&of(&["run", "/dev/zero"]), &["/dev/zero: it is a device"]);
        contains(&of(&["run", "/"]), &["/: it is a directory"]);
        contains(&of(&["dns", "--zone", "example.test=/dev/zero"]), &["/dev/zero", "it is a device"]);
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        run("mkfifo", &[pipe.to_str().unwrap()]);
        contains(&of(&["run", pipe.to_str().unwrap()]), &["it is a pipe that nobody writes to"]);
    });
}

#[test]
fn a_zone_may_come_through_a_pipe() {
    in_namespace(|| {
        let zone = "@ 60 IN SOA ns1 hostmaster 1 2 3 4 5\\n  NS ns1\\nns1 A 192.0.2.1\\n";
        let script = format!(
            "(sleep 0.5; printf '{zone}') | \
             timeout -s INT 3 {NTY} dns --device tap:ntytest --addr {OURS_NET} --zone x.test=/dev/stdin"
        );
        // Ends with the status of `timeout`.
        let said = String::from_utf8(try_run("sh", &["-c", &script]).stdout).unwrap();
        contains(&said, &["ready: dns"]);
    });
}

#[test]
fn a_process_without_descriptors_is_told_the_limit() {
    in_namespace(|| {
        let mut command = Command::new("prlimit");
        command.args(["--nofile=4:4", NTY, "echo", "--device", "tap:ntytest", "--addr", OURS_NET]);
        contains(&complaint(&mut command, FAILED), &["Too many open files", "ulimit -n"]);
    });
}

/// Serves with these flags while `body` runs, then stops; what was said on standard error.
fn log_of(flags: &[&str], body: impl FnOnce()) -> String {
    let link = Link { more: flags, ..LINK };
    let mut command = link.command(&["http", "--hello"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.starts_with("ready: "), "{line}");
    body();
    run("sh", &["-c", &format!("kill -INT {}", child.id())]);
    stdout.read_to_string(&mut line).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{line}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_client_of_another_network_is_told_of_when_there_is_no_gateway() {
    in_namespace(|| {
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["addr", "add", "192.0.2.1/32", "dev", "lo"]);
        let ask = || {
            try_run("curl", &["-sS", "-m", "3", "--interface", "192.0.2.1", "http://10.0.0.2/"]);
        };
        let said = log_of(&[], ask);
        assert_eq!(said.lines().count(), 1, "{said}");
        contains(&said, &["WARN", "another network", "--gateway"]);
        let said = log_of(&["--gateway", "10.0.0.1"], ask);
        assert_eq!(said, "");
    });
}

#[test]
fn verbose_tells_of_the_device_addresses_neighbors_connections_and_drops() {
    in_namespace(|| {
        let said = log_of(&["-vv"], || {
            run("curl", &["-sS", "-m", "30", "http://10.0.0.2/"]);
            // Nobody listens there.
            try_run("sh", &["-c", &format!("echo x | nc -u -w 1 {OURS} 9")]);
            sleep(Duration::from_secs(2));
        });
        contains(&said, &[" dropped ", "no-socket 1"]);
        contains(&said, &["device=tap:ntytest mtu=1500 tx_checksum=", "address addr=10.0.0.2/24"]);
        contains(
            &said,
            &["neighbor learned ip=10.0.0.1", "http: connection accepted peer=", "http: connection closed"],
        );
        let quiet = log_of(&["-v"], || {
            run("curl", &["-sS", "-m", "30", "http://10.0.0.2/"]);
        });
        assert!(quiet.contains("device=tap:ntytest") && !quiet.contains("neighbor"), "{quiet}");
    });
}

#[test]
fn two_programs_on_one_port_are_named_with_the_line() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nty.toml");
        fs::write(&file, "[[app]]\nkind = \"echo\"\nport = 80\n\n[[app]]\nkind = \"http\"\nhello = true\n")
            .unwrap();
        let said = complaint(&mut LINK.command(&["run", file.to_str().unwrap()]), USAGE);
        contains(&said, &["nty.toml:5:1: ", "port 80", "echo"]);
    });
}

#[test]
fn output_that_cannot_be_written_is_a_failure_and_a_reader_that_has_gone_is_none() {
    in_namespace(|| {
        let to_full = |app: &[&str]| {
            let full = fs::File::options().write(true).open("/dev/full").unwrap();
            let said = complaint(LINK.command(app).stdout(full), FAILED);
            contains(&said, &["cannot print", "No space left"]);
        };
        to_full(&["ping", "10.0.0.1", "-c", "1"]);
        to_full(&["echo"]);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut endless = LINK.command(&["ping", "10.0.0.1", "-i", "10ms"]);
        let status = endless.stdout(writer).status().unwrap();
        assert_eq!(status.code(), Some(0));
    });
}

#[test]
fn stats_socket_takes_the_place_of_nothing_but_a_dead_one() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("stats");
        fs::write(&file, "precious").unwrap();
        let link = Link { more: &["--stats-socket", file.to_str().unwrap()], ..LINK };
        contains(&complaint(&mut link.command(&["echo"]), FAILED), &["/stats", "no socket"]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    });
}

#[test]
fn impossible_addresses_and_files_are_named() {
    in_namespace(|| {
        let same = Link { host: OURS_NET, ..LINK };
        contains(&complaint(&mut same.command(&["echo"]), USAGE), &["10.0.0.2", "two addresses"]);
        let mtu = Link { more: &["--mtu", "20"], ..LINK };
        contains(&complaint(&mut mtu.command(&["echo"]), USAGE), &["mtu 20", "68 to 65535"]);
        contains(
            &complaint(&mut LINK.command(&["http", "--root", "/nonexistent"]), FAILED),
            &["/nonexistent"],
        );
        let stats = Link { more: &["--stats-socket", "/nonexistent/stats"], ..LINK };
        contains(&complaint(&mut stats.command(&["echo"]), FAILED), &["/nonexistent/stats"]);
        contains(&complaint(&mut LINK.command(&["run", "/nonexistent"]), FAILED), &["/nonexistent"]);
        let config = Link { more: &["--config", "/nonexistent"], ..LINK };
        contains(&complaint(&mut config.command(&["echo"]), FAILED), &["/nonexistent"]);
    });
}
