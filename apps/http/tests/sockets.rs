//! The server on a stack, with clients on another.

use super::*;
use crate::run::Program;
use crate::testnet::{Net, read};
use nty_epoll::TcpStream;

/// A server of a directory with one file of five million bytes.
struct Served {
    net: Net,
    program: Box<dyn Program>,
    file: Vec<u8>,
    _dir: tempfile::TempDir,
}

impl Served {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file: Vec<u8> = (0..5_000_000_u32).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
        fs::write(dir.path().join("big"), &file).unwrap();
        fs::write(dir.path().join("small"), "small").unwrap();
        let options = Options { root: Some(dir.path().to_owned()), ..Options::default() };
        let mut net = Net::new();
        let program = open(&options, &mut net.server).unwrap();
        Self { net, program, file, _dir: dir }
    }

    /// Writes all of `request` and reads, `pace` bytes per turn, until `count` answers are complete.
    fn ask(&mut self, stream: &mut TcpStream, request: &[u8], pace: usize, len: usize) -> Vec<u8> {
        let (mut got, mut sent) = (Vec::new(), 0);
        self.net.until(&mut *self.program, |_| {
            sent += stream.write(&request[sent..]).unwrap_or(0);
            assert!(read(stream, pace, &mut got), "closed early");
            got.len() >= len
        });
        got
    }
}

/// Length of the answers to `small`, which are all alike.
fn small_len(served: &mut Served) -> usize {
    let mut stream = served.net.connect(80);
    let head = served.ask(&mut stream, b"GET /small HTTP/1.1\r\nHost: h\r\n\r\n", 4_000, 100);
    assert!(head.ends_with(b"small"), "{}", String::from_utf8_lossy(&head));
    head.len()
}

#[test]
fn large_file_reaches_a_slow_reader_byte_by_byte() {
    let mut served = Served::new();
    let mut stream = served.net.connect(80);
    let got =
        served.ask(&mut stream, b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n", 3_001, served.file.len() + 100);
    let mut got = got;
    served.net.until(&mut *served.program, |_| {
        read(&mut stream, 5_000, &mut got);
        split_len(&got).is_some_and(|len| got.len() >= len)
    });
    let answers = split(&got);
    assert_eq!(answers.len(), 1);
    assert!(answers[0].1 == served.file, "another content");
}

/// Bytes of the first answer, if its head is there.
fn split_len(got: &[u8]) -> Option<usize> {
    let head = got.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&got[..head]).ok()?;
    Some(head + field(text, "Content-Length")?.parse::<usize>().ok()?)
}

#[test]
fn pipelined_requests_are_answered_in_order_over_one_connection() {
    let mut served = Served::new();
    let small = small_len(&mut served);
    let mut stream = served.net.connect(80);
    let mut request = Vec::new();
    for i in 0..500 {
        request.extend_from_slice(if i % 2 == 0 { &b"GET /small "[..] } else { &b"GET /none "[..] });
        request.extend_from_slice(b"HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    request.extend_from_slice(b"GET /small HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let mut got = served.ask(&mut stream, &request, 10_000, 250 * small);
    served.net.until(&mut *served.program, |_| !read(&mut stream, 10_000, &mut got));
    let answers = split(&got);
    assert_eq!(answers.len(), 501);
    for (i, (head, _)) in answers.iter().enumerate() {
        let expected = if i % 2 == 0 { "HTTP/1.1 200" } else { "HTTP/1.1 404" };
        assert!(head.starts_with(expected), "answer {i}: {head}");
    }
}

#[test]
fn idle_connection_is_closed_after_the_timeout_and_not_before() {
    let mut served = Served::new();
    let mut stream = served.net.connect(80);
    let mut got = served.ask(&mut stream, b"GET /small HTTP/1.1\r\nHost: h\r\n\r\n", 4_000, 100);
    let len = got.len();
    let deadline = served.program.deadline().expect("a connection is open");
    let left = deadline - std::time::Instant::now();
    assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?}");
    for _ in 0..100 {
        served.net.step(&mut *served.program, Duration::from_secs(55));
        assert!(read(&mut stream, 100, &mut got));
    }
    served.net.step(&mut *served.program, Duration::from_secs(61));
    served.net.until(&mut *served.program, |_| !read(&mut stream, 100, &mut got));
    assert_eq!(got.len(), len, "nothing was asked for");
    assert_eq!(served.program.deadline(), None, "nobody is left to wait for");
}

#[test]
fn half_a_request_is_answered_with_408_in_the_end() {
    let mut served = Served::new();
    let mut stream = served.net.connect(80);
    let mut sent = 0;
    served.net.until(&mut *served.program, |_| {
        sent += stream.write(&b"GET /small"[sent..]).unwrap_or(0);
        sent == 10
    });
    for _ in 0..100 {
        served.net.step(&mut *served.program, Duration::ZERO);
    }
    served.net.step(&mut *served.program, Duration::from_secs(61));
    let mut got = Vec::new();
    served.net.until(&mut *served.program, |_| !read(&mut stream, 1_000, &mut got));
    assert_eq!(code(&got), 408);
}

#[test]
fn two_hundred_clients_at_once_get_what_they_asked_for() {
    let mut served = Served::new();
    let small = small_len(&mut served);
    let mut clients: Vec<_> = (0..200).map(|_| (served.net.connect(80), Vec::new(), 0)).collect();
    let request = b"GET /small HTTP/1.1\r\nHost: h\r\n\r\n".repeat(3);
    served.net.until(&mut *served.program, |_| {
        for (stream, got, sent) in &mut clients {
            *sent += stream.write(&request[*sent..]).unwrap_or(0);
            assert!(read(stream, 4_000, got));
        }
        clients.iter().all(|(_, got, _)| got.len() == 3 * small)
    });
    for (_, got, _) in &clients {
        assert!(split(got).iter().all(|(head, body)| head.starts_with("HTTP/1.1 200") && body == b"small"));
    }
}

#[test]
fn clients_that_vanish_do_not_disturb_the_others() {
    let mut served = Served::new();
    let small = small_len(&mut served);
    for round in 0..50 {
        let mut stream = served.net.connect(80);
        let mut sent = 0;
        served.net.until(&mut *served.program, |_| {
            sent += stream.write(&b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n"[sent..]).unwrap_or(0);
            sent > 0 && (round % 2 == 0 || stream.readable() > 0)
        });
        stream.abort();
    }
    assert_eq!(small_len(&mut served), small);
}

#[test]
fn port_in_use_is_an_error_that_names_it() {
    let mut served = Served::new();
    let options = Options { hello: true, ..Options::default() };
    let Err(error) = open(&options, &mut served.net.server) else { panic!("two on one port") };
    assert!(error.to_string().starts_with("http: cannot use TCP port 80: "), "{error}");
}
