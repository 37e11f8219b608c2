//! What ends suddenly, what comes back, and what it costs to wait.

use crate::world::{LINK, Link, Nty, Site, connect, in_namespace, interfaces, noise, run, wait_until};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;

/// Makes the kernel deaf and mute towards us, as if the host had gone without a word.
fn vanish() {
    run("ip", &["route", "add", "blackhole", "10.0.0.2/32"]);
}

/// Undoes [`vanish`].
fn come_back() {
    run("ip", &["route", "del", "blackhole", "10.0.0.2/32"]);
}

/// The stack knows nothing of this connection, and says so. A first write may succeed.
fn assert_gone(mut stream: TcpStream) {
    let mut exchange = || stream.write_all(b"still there?").and_then(|()| stream.read_exact(&mut [0; 1]));
    let error = (0..3).find_map(|_| exchange().err()).unwrap();
    let gone = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(gone.contains(&error.kind()), "{error}");
}

#[test]
fn killed_client_frees_its_connection_and_disturbs_nobody() {
    in_namespace(|| {
        let site = Site::new();
        site.add("file", &noise(1, 16 << 20));
        let nty = Nty::serve(&["http", "--root", site.root()]);
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--limit-rate", "100k", "-o", "/dev/null", "http://10.0.0.2/file"]);
        let mut client = curl.stdin(Stdio::null()).spawn().unwrap();
        nty.wait_for("tcp-tx", |n| n > 10);
        assert_eq!(nty.counters().get("tcp-connections"), 1);
        client.kill().unwrap();
        client.wait().unwrap();
        nty.wait_for("tcp-connections", |n| n == 0);
        let whole = run("sh", &["-c", "curl -sSf -m 30 http://10.0.0.2/file | wc -c"]);
        assert_eq!(whole.trim(), (16 << 20).to_string());
        nty.stop();
    });
}

#[test]
fn after_a_signal_answers_end_whole_and_nobody_new_is_served() {
    for shards in ["1", "2"] {
        in_namespace(|| {
            let site = Site::new();
            let file = noise(5, 24 << 20);
            site.add("file", &file);
            let nty = Nty::serve(&["http", "--root", site.root(), "--shards", shards, "--drain", "60s"]);
            let idle = connect(80);
            let mut busy: Vec<_> = (0..8).map(|_| connect(80)).collect();
            for stream in &mut busy {
                stream.write_all(b"GET /file HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                stream.read_exact(&mut [0; 1]).unwrap();
            }
            run("sh", &["-c", &format!("kill -TERM {}", nty.pid())]);
            wait_until("nobody new is served", || TcpStream::connect("10.0.0.2:80").is_err());
            assert_eq!((&idle).read(&mut [0; 1]).unwrap(), 0, "who asked for nothing is let go");
            for mut stream in busy {
                let mut got = Vec::new();
                stream.read_to_end(&mut got).unwrap();
                assert!(got.ends_with(&file), "{} bytes of an answer", got.len());
            }
            nty.stop();
        });
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    in_namespace(|| {
        let site = Site::new();
        site.add("file", &noise(5, 24 << 20));
        let nty = Nty::serve(&["http", "--root", site.root(), "--shards", "2", "--drain", "3000s"]);
        let mut stream = connect(80);
        stream.write_all(b"GET /file HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
        run("sh", &["-c", &format!("kill -TERM {}", nty.pid())]);
        wait_until("nobody new is served", || TcpStream::connect("10.0.0.2:80").is_err());
        nty.stop();
        let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionReset,
            "an answer that was cut off does not look whole"
        );
    });
}

#[test]
fn killed_nty_takes_its_tap_along_and_the_next_one_resets_old_connections() {
    in_namespace(|| {
        let nty = Nty::serve(&["echo"]);
        let mut stream = connect(7);
        stream.write_all(b"hello").unwrap();
        let mut buf = [0; 5];
        stream.read_exact(&mut buf).unwrap();
        nty.kill();
        wait_until("the TAP is gone", || interfaces() == ["lo"]);

        let nty = Nty::serve(&["echo"]);
        assert_gone(stream);
        let mut stream = connect(7);
        stream.write_all(b"again").unwrap();
        stream.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"again");
        nty.stop();
    });
}

/// A link on which a file takes seconds, so that a transfer is under way whenever something happens to it.
const SLOW: [&str; 2] = ["--fault", "rate=100M"];

#[test]
fn transfer_goes_on_when_a_peer_that_vanished_comes_back() {
    in_namespace(|| {
        let site = Site::new();
        let file = noise(3, 24 << 20);
        site.add("file", &file);
        let nty = Nty::serve(&["http", "--root", site.root(), SLOW[0], SLOW[1]]);
        let mut stream = connect(80);
        stream.write_all(b"GET /file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let reader = thread::spawn(move || {
            let mut got = Vec::new();
            stream.read_to_end(&mut got).map(|_| got)
        });
        nty.wait_for("tx-bytes", |n| n > 4 << 20);
        vanish();
        nty.wait_for("tcp-timeouts", |n| n >= 2);
        come_back();
        let got = reader.join().unwrap().unwrap();
        assert!(got.ends_with(&file), "the stream is not what was sent");
        let counters = nty.stop();
        assert!(counters.get("tcp-retransmits") > 0 && counters.get("tcp-resets") == 0, "{counters:?}");
    });
}

#[test]
fn peer_that_forgot_its_connection_resets_it_when_it_comes_back() {
    in_namespace(|| {
        let site = Site::new();
        site.add("file", &noise(1, 64 << 20));
        let nty = Nty::serve(&["http", "--root", site.root(), SLOW[0], SLOW[1]]);
        let mut stream = connect(80);
        stream.write_all(b"GET /file HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; 100_000]).unwrap();
        vanish();
        // The RST that says so does not reach us.
        drop(stream);
        nty.wait_for("tcp-timeouts", |n| n >= 1);
        assert_eq!(nty.counters().get("tcp-connections"), 1);
        come_back();
        nty.wait_for("tcp-connections", |n| n == 0);
        assert_eq!(nty.stop().get("tcp-resets"), 1);
    });
}

/// Connections to a host that vanished end after the time that was given, whether they had something to send or not.
#[test]
fn peer_that_vanished_for_good_is_given_up() {
    in_namespace(|| {
        let site = Site::new();
        site.add("file", &noise(1, 64 << 20));
        let toml =
            format!("[[app]]\nkind = \"echo\"\n[[app]]\nkind = \"http\"\nroot = \"{}\"\n", site.root());
        let file = site.path("nty.toml");
        fs::write(&file, toml).unwrap();
        let link = Link { more: &["--peer-timeout", "3s", SLOW[0], SLOW[1]], ..LINK };
        let nty = Nty::serve_on(&link, &["run", file.to_str().unwrap()]);
        // One that is silent, kept until the host goes; one in the middle of a transfer.
        let (idle, mut busy) = (connect(7), connect(80));
        nty.wait_for("tcp-keepalives", |n| n >= 2);
        busy.write_all(b"GET /file HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        busy.read_exact(&mut [0; 100_000]).unwrap();
        assert_eq!(nty.counters().get("tcp-connections"), 2, "who answers probes is kept");
        vanish();
        nty.wait_for("tcp-connections", |n| n == 0);
        let counters = nty.counters();
        assert_eq!(counters.get("tcp-gave-up"), 2, "{counters:?}");
        assert!(counters.get("tcp-timeouts") > 0, "{counters:?}");
        come_back();
        assert_gone(idle);
        nty.stop();
    });
}

#[test]
fn link_that_goes_down_and_up_loses_no_connection() {
    in_namespace(|| {
        let nty = Nty::serve(&["echo"]);
        let mut stream = connect(7);
        let mut buf = [0; 5];
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut buf).unwrap();
        run("ip", &["link", "set", LINK.tap, "down"]);
        stream.write_all(b"there").unwrap();
        run("ip", &["link", "set", LINK.tap, "up"]);
        stream.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"there");
        nty.stop();
    });
}

#[test]
fn idle_connection_of_http_is_closed_in_time() {
    in_namespace(|| {
        let nty = Nty::serve(&["http", "--hello", "--idle-timeout", "1s"]);
        let mut stream = connect(80);
        // Whatever it says in farewell, it closes.
        stream.read_to_end(&mut Vec::new()).unwrap();
        drop(stream);
        nty.wait_for("tcp-connections", |n| n == 0);
        nty.stop();
    });
}

/// How often a process has gone to sleep.
fn sleeps(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

/// What that costs over a long time is measured by `scripts/dnsperf`.
#[test]
fn who_waits_sleeps_until_something_happens() {
    in_namespace(|| {
        let apps = "[[app]]\nkind = \"echo\"\n[[app]]\nkind = \"http\"\nhello = true\n[[app]]\nkind = \"perf\"\nserver = true\n";
        let nty = Nty::run(apps);
        let streams: Vec<_> = [7, 80, 5201].into_iter().map(connect).collect();
        run("ping", &["-q", "-c", "1", "10.0.0.2"]);
        // A stack that polled would wake up between any two looks.
        let (mut last, mut quiet) = (0, 0);
        wait_until("nty sleeps through 25 looks", || {
            let now = sleeps(nty.pid());
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
            quiet == 25
        });
        drop(streams);
        nty.stop();
    });
}
