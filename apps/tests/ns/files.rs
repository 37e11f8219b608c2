//! `nty http` with curl and kernel sockets as its clients.

use crate::streams::{in_parallel, read_slowly};
use crate::world::{LINK, Link, Nty, Site, connect, in_namespace, noise, run};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

pub(crate) const BIG: usize = 200 << 20;

fn sha256(path: &str) -> String {
    run("sha256sum", &[path]).split_whitespace().next().unwrap().to_owned()
}

/// Fetches the file `big` of the site by curl, and stores it once more as `up`.
pub(crate) fn curl_both_ways(site: &Site) {
    let (big, up) = (site.path("big"), site.path("up"));
    let big = big.to_str().unwrap();
    let expected = sha256(big);
    let down = run("sh", &["-c", "curl -sSf -m 60 http://10.0.0.2/big | sha256sum"]);
    assert_eq!(down.split_whitespace().next(), Some(expected.as_str()));
    let status = run(
        "curl",
        &["-sSf", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}", "-T", big, "http://10.0.0.2/up"],
    );
    assert_eq!(status, "201");
    assert_eq!(sha256(up.to_str().unwrap()), expected);
}

#[test]
fn curl_moves_200_megabytes_down_and_up() {
    in_namespace(|| {
        let site = Site::new();
        site.add("big", &noise(1, BIG));
        let nty = Nty::serve(&["http", "--root", site.root(), "--upload"]);
        curl_both_ways(&site);
        nty.stop();
        let mut left: Vec<_> = fs::read_dir(site.root()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["big", "up"], "no partial file stays");
    });
}

#[test]
fn files_go_both_ways_at_mtu_9000() {
    in_namespace(|| {
        let site = Site::new();
        let bytes = noise(2, 20 << 20);
        site.add("big", &bytes);
        let link = Link { more: &["--mtu", "9000"], ..LINK };
        let nty = Nty::serve_on(&link, &["http", "--root", site.root(), "--upload"]);
        assert!(run("ip", &["link", "show", "dev", LINK.tap]).contains(" mtu 9000 "));
        let (from, to) = (site.path("big"), site.path("copy"));
        let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
        run("curl", &["-sSf", "-m", "60", "-T", from, "http://10.0.0.2/up"]);
        assert!(fs::read(site.path("up")).unwrap() == bytes);
        run("curl", &["-sSf", "-m", "60", "-o", to, "http://10.0.0.2/up"]);
        assert!(fs::read(to).unwrap() == bytes);
        nty.stop();
    });
}

/// Asks for a file on a connection that is to be closed afterwards; the length that the answer announces, and the rest.
fn get(stream: TcpStream, name: &str) -> (usize, BufReader<TcpStream>) {
    (&stream)
        .write_all(format!("GET /{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
        .unwrap();
    let mut reader = BufReader::new(stream);
    let (mut head, mut len) = (String::new(), None);
    while !head.ends_with("\r\n\r\n") {
        let start = head.len();
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        let line = head[start..].to_ascii_lowercase();
        len = line.strip_prefix("content-length:").map(|n| n.trim().parse().unwrap()).or(len);
    }
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    (len.unwrap(), reader)
}

#[test]
fn thousand_parallel_downloads_are_byte_exact() {
    in_namespace(|| {
        let site = Site::new();
        let files: Vec<_> = (0..10).map(|n| noise(n, 20_000 + 999 * n as usize)).collect();
        files.iter().enumerate().for_each(|(n, bytes)| site.add(&n.to_string(), bytes));
        let nty = Nty::serve(&["http", "--root", site.root()]);
        in_parallel(80, &nty, |n, stream| {
            let file = &files[n as usize % files.len()];
            let (len, mut reader) = get(stream, &(n as usize % files.len()).to_string());
            let mut got = Vec::new();
            reader.read_to_end(&mut got).unwrap();
            assert!(
                len == file.len() && &got == file,
                "connection {n}: {} of {} bytes",
                got.len(),
                file.len()
            );
        });
        assert_eq!(nty.stop().get("tcp-passive-opens"), 1_000);
    });
}

#[test]
fn client_that_stops_reading_is_probed_and_gets_the_rest_later() {
    in_namespace(|| {
        let site = Site::new();
        let bytes = noise(7, 32 << 20);
        site.add("file", &bytes);
        let nty = Nty::serve(&["http", "--root", site.root()]);
        let (len, mut reader) = get(connect(80), "file");
        assert_eq!(len, bytes.len());
        nty.wait_for("tcp-probes", |n| n >= 3);
        read_slowly(&mut reader, &bytes);
        nty.stop();
    });
}
