//! `nty perf http` against `nty http`, stack to stack over a veth pair, and against nginx on the kernel's sockets.

use crate::world::{LINK, NTY, Nty, OURS_NET, in_namespace, run, try_run, wait_until};
use serde_json::Value;
use std::fs;
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The one object that a load prints, and its exit status.
fn report(output: Output) -> (Value, Option<i32>) {
    let text = String::from_utf8(output.stdout).unwrap();
    let report = serde_json::from_str(&text);
    (report.unwrap_or_else(|error| panic!("{error}: {text:?} {:?}", output.stderr)), output.status.code())
}

/// Requests answered by 2xx, connections, statuses, failures, exit status.
fn outcome((report, status): &(Value, Option<i32>)) -> (u64, u64, String, String, Option<i32>) {
    let number = |name: &str| report[name].as_u64().unwrap();
    let text = |name: &str| report[name].to_string();
    (number("requests"), number("connections"), text("other_statuses"), text("failed"), *status)
}

#[test]
fn two_stacks_load_each_other_with_thousands_of_connections() {
    in_namespace(|| {
        run("ip", &["link", "add", "ntywire", "type", "veth", "peer", "name", "ntyhost"]);
        for end in ["ntywire", "ntyhost"] {
            run("ip", &["link", "set", end, "up"]);
        }
        let mut command = Command::new(NTY);
        command.args(["http", "--hello", "--device", "packet:ntywire", "--addr", OURS_NET]);
        command.stdin(Stdio::null());
        let server = Nty::start(command);
        let load = |more: &[&str]| {
            let args =
                ["perf", "http", "10.0.0.2", "--device", "packet:ntyhost", "--addr", "10.0.0.1/24", "--json"];
            report(try_run(NTY, &[&args[..], more].concat()))
        };
        let none = || "{}".to_owned();
        let kept = load(&["-n", "5000", "-P", "50"]);
        assert_eq!(outcome(&kept), (5_000, 50, none(), none(), Some(0)));
        assert_eq!(kept.0["bytes_received"], 438 * 5_000);
        let each = load(&["-n", "5000", "-P", "50", "--close"]);
        assert_eq!(outcome(&each), (5_000, 5_000, none(), none(), Some(0)));
        // The first ones ask again while the last ones are opened, so not all of them need be.
        let many = load(&["-n", "60000", "-P", "4000"]);
        let opened = many.0["connections"].as_u64().unwrap();
        assert_eq!(outcome(&many), (60_000, opened, none(), none(), Some(0)));
        assert!((2_000..=4_000).contains(&opened), "{many:?}");
        let row = load(&["-n", "5000", "-P", "3", "--pipeline", "64"]);
        assert_eq!(outcome(&row), (5_000, 3, none(), none(), Some(0)));
        // Whatever the load left open at its end was reset: there is nothing to wait for.
        let start = Instant::now();
        let timed = load(&["-t", "300ms", "-P", "50"]);
        assert!(timed.1 == Some(0) && timed.0["seconds"].as_f64().unwrap() >= 0.3, "{timed:?}");
        assert!(start.elapsed() < Duration::from_secs(20));
        server.wait_for("tcp-connections", |n| n == 0);
        server.stop();
        run("ip", &["link", "del", "ntywire"]);
    });
}

const NGINX: &str = "daemon off; master_process off; worker_processes 1; pid DIR/pid; error_log DIR/error;
events { worker_connections 512; }
http {
    access_log off; keepalive_requests 100; default_type text/plain;
    client_body_temp_path DIR/a; proxy_temp_path DIR/b; fastcgi_temp_path DIR/c; uwsgi_temp_path DIR/d; scgi_temp_path DIR/e;
    server {
        listen 80;
        location = / { return 200 'hello'; }
        location = /none { return 404; }
        location = /chunked { ssi on; ssi_types text/plain; alias DIR/page; }
    }
}
";

#[test]
fn nginx_is_loaded_and_its_ways_to_end_answers_and_connections_are_understood() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("conf");
        fs::write(&conf, NGINX.replace("DIR", dir.path().to_str().unwrap())).unwrap();
        fs::write(dir.path().join("page"), "<!--#echo var=\"uri\" --> of several chunks".repeat(500))
            .unwrap();
        run("chmod", &["-R", "a+rX", dir.path().to_str().unwrap()]);
        run("ip", &["link", "set", "lo", "up"]);
        let mut nginx = Command::new("nginx");
        nginx.arg("-c").arg(&conf).arg("-p").arg(dir.path()).stdin(Stdio::null()).stderr(Stdio::null());
        let mut nginx =
            nginx.spawn().unwrap_or_else(|error| panic!("nginx: {error} (scripts/test installs it)"));
        wait_until("nginx listens", || TcpStream::connect("127.0.0.1:80").is_ok());

        let load = |target: &str, more: &[&str]| {
            let args = [&["perf", "http", target, "--json"], more].concat();
            report(LINK.command(&args).output().unwrap())
        };
        let none = || "{}".to_owned();
        // A hundred requests per connection, whoever counts.
        let kept = load("10.0.0.1", &["-n", "2000", "-P", "10"]);
        assert_eq!(outcome(&kept), (2_000, kept.0["connections"].as_u64().unwrap(), none(), none(), Some(0)));
        assert!(kept.0["connections"].as_u64() >= Some(20), "{kept:?}");
        let row = load("10.0.0.1", &["-n", "2000", "-P", "2", "--pipeline", "32"]);
        assert_eq!((outcome(&row).0, outcome(&row).4), (2_000, Some(0)), "{row:?}");
        assert!(row.0["repeated"].as_u64() > Some(0), "{row:?}");
        let each = load("http://10.0.0.1/", &["-n", "500", "-P", "10", "--close"]);
        assert_eq!(outcome(&each), (500, 500, none(), none(), Some(0)));
        let chunked = load("10.0.0.1/chunked", &["-n", "50"]);
        assert_eq!(outcome(&chunked), (50, 1, none(), none(), Some(0)));
        assert!(chunked.0["bytes_received"].as_u64() > Some(50 * 10_000), "{chunked:?}");
        let absent = load("10.0.0.1/none", &["-n", "50"]);
        assert_eq!(outcome(&absent), (0, 1, r#"{"404":50}"#.into(), none(), Some(1)));
        let refused = load("10.0.0.1:81", &["-n", "50", "-P", "5"]);
        assert_eq!(outcome(&refused), (0, 0, none(), r#"{"refused":5}"#.into(), Some(1)));
        nginx.kill().unwrap();
        nginx.wait().unwrap();
    });
}
