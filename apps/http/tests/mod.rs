//! Whole conversations: bytes of a client in, bytes of the server out.

mod files;
mod framing;
mod sockets;
mod uploads;

use super::*;
use ntytcp::time::Instant;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The size of a file that no single read brings.
const LARGE: usize = 200_000;

/// A root with some files, all last changed in 1994, and the site that serves it.
struct World {
    dir: tempfile::TempDir,
    site: Site,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("sub dir")).unwrap();
        fs::create_dir_all(root.join("empty")).unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        let large: Vec<u8> = (0..LARGE).map(|i| (i * 7 + i / 251) as u8).collect();
        for (name, content) in [
            ("a.txt", &b"0123456789"[..]),
            ("index.html", b"<p>index"),
            ("sub dir/index.html", b"<p>sub"),
            ("none", b""),
            (".hidden", b"hidden"),
            ("large.bin", &large),
        ] {
            fs::write(root.join(name), content).unwrap();
            let file = fs::File::options().write(true).open(root.join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)).unwrap();
        }
        let mut options = Options { root: Some(root), ..Options::default() };
        change(&mut options);
        let mut site = Site::open(&options).unwrap();
        site.tick(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
        Self { dir, site }
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.root().join(name)).unwrap()
    }

    /// What a client gets that sends `input` and then reads on without closing.
    fn ask(&self, input: impl AsRef<[u8]>) -> Vec<u8> {
        let mut client = Client::new(&self.site);
        client.send(&self.site, input.as_ref());
        client.got
    }

    /// The same as text, with the entity tag that depends on the inode blotted out.
    fn ask_text(&self, input: &str) -> String {
        let text = String::from_utf8(self.ask(input)).unwrap();
        let Some((before, rest)) = text.split_once("ETag: \"") else { return text };
        let (_, after) = rest.split_once('"').unwrap();
        format!("{before}ETag: \"T\"{after}")
    }
}

/// A client and the connection it talks to, which is driven as the module documentation says.
struct Client {
    connection: Connection,
    now: Instant,
    got: Vec<u8>,
    /// What the connection said last about closing.
    close: Option<Close>,
    /// How much the socket takes in one write; through `output` if odd, through `transmit` if even.
    write_size: usize,
}

impl Client {
    fn new(site: &Site) -> Self {
        let now = Instant::ZERO;
        let connection = Connection::new(site, now);
        Self { connection, now, got: Vec::new(), close: None, write_size: 4_000 }
    }

    fn send(&mut self, site: &Site, mut input: &[u8]) {
        loop {
            let mut moved = false;
            if !input.is_empty() && self.connection.wants_input() {
                // As a socket would: not more than its buffer holds.
                let (piece, rest) = input.split_at(input.len().min(10_000));
                self.connection.receive(site, self.now, piece);
                (input, moved) = (rest, true);
            }
            moved |= self.take(site) > 0;
            if let Some(close) = self.connection.close() {
                self.close = Some(close);
                moved |= close == Close::Shutdown;
            }
            if !moved {
                return;
            }
        }
    }

    /// Takes some output, as a socket would.
    fn take(&mut self, site: &Site) -> usize {
        if self.write_size.is_multiple_of(2) {
            let mut buf = vec![0; self.write_size];
            let n = self.connection.transmit(site, self.now, &mut buf);
            self.got.extend_from_slice(&buf[..n]);
            return n;
        }
        let out = self.connection.output();
        let n = out.len().min(self.write_size);
        self.got.extend_from_slice(&out[..n]);
        self.connection.sent(site, self.now, n);
        n
    }

    fn pass(&mut self, site: &Site, time: Duration) {
        self.now += time;
        self.connection.on_timeout(site, self.now);
        self.send(site, b"");
    }
}

/// Splits answers that all have a Content-Length into heads and bodies.
fn split(mut bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("head without end") + 4;
        let (head, rest) = bytes.split_at(end);
        let head = String::from_utf8(head.to_vec()).unwrap();
        let len = field(&head, "Content-Length").map_or(0, |v| v.parse().unwrap());
        let (body, rest) = rest.split_at(len);
        answers.push((head, body.to_vec()));
        bytes = rest;
    }
    answers
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn code(answer: &[u8]) -> u16 {
    std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap()
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
