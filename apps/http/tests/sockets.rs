//! The server on a stack, with clients on another.

use super::*;
use crate::testnet::{Net, read};
use nty_epoll::TcpStream;
use ntytcp::stack::SocketError;

/// A server of a directory with one file of five million bytes.
struct Served {
    net: Net,
    file: Vec<u8>,
    dir: tempfile::TempDir,
}

impl Served {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file: Vec<u8> = (0..5_000_000_u32).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
        fs::write(dir.path().join("big"), &file).unwrap();
        fs::write(dir.path().join("small"), "small").unwrap();
        let options = Options { root: Some(dir.path().to_owned()), ..Options::default() };
        let net = Net::new(|runtime| open(&options, runtime));
        Self { net, file, dir }
    }

    fn deadline(&self) -> Option<std::time::Instant> {
        self.net.program.as_ref().and_then(|program| program.deadline())
    }

    /// Writes all of `request` and reads, `pace` bytes per turn, until `count` answers are complete.
    fn ask(&mut self, stream: &mut TcpStream, request: &[u8], pace: usize, len: usize) -> Vec<u8> {
        let (mut got, mut sent) = (Vec::new(), 0);
        self.net.until(|_| {
            sent += stream.write(&request[sent..]).unwrap_or(0);
            assert!(read(stream, pace, &mut got), "closed early");
            (got.len() >= len).then_some(())
        });
        got
    }
}

/// Length of the answers to `small`, which are all alike.
fn small_len(served: &mut Served) -> usize {
    let mut stream = served.net.connect(80, None);
    let head = served.ask(&mut stream, b"GET /small HTTP/1.1\r\nHost: h\r\n\r\n", 4_000, 100);
    assert!(head.ends_with(b"small"), "{}", String::from_utf8_lossy(&head));
    head.len()
}

#[test]
fn large_file_reaches_a_slow_reader_byte_by_byte() {
    let mut served = Served::new();
    let mut stream = served.net.connect(80, None);
    let got =
        served.ask(&mut stream, b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n", 3_001, served.file.len() + 100);
    let mut got = got;
    served.net.until(|_| {
        read(&mut stream, 5_000, &mut got);
        split_len(&got).filter(|&len| got.len() >= len)
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
    let mut stream = served.net.connect(80, None);
    let mut request = Vec::new();
    for i in 0..500 {
        request.extend_from_slice(if i % 2 == 0 { &b"GET /small "[..] } else { &b"GET /none "[..] });
        request.extend_from_slice(b"HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    request.extend_from_slice(b"GET /small HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let mut got = served.ask(&mut stream, &request, 10_000, 250 * small);
    served.net.until(|_| (!read(&mut stream, 10_000, &mut got)).then_some(()));
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
    let mut stream = served.net.connect(80, None);
    let mut got = served.ask(&mut stream, b"GET /small HTTP/1.1\r\nHost: h\r\n\r\n", 4_000, 100);
    let len = got.len();
    let left = served.deadline().expect("a connection is open") - served.net.now;
    assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?}");
    served.net.now += left - Duration::from_nanos(1);
    served.net.settle();
    assert!(read(&mut stream, 100, &mut got));
    served.net.now += Duration::from_nanos(1);
    served.net.until(|_| (!read(&mut stream, 100, &mut got)).then_some(()));
    assert_eq!(got.len(), len, "nothing was asked for");
    assert_eq!(served.deadline(), None, "nobody is left to wait for");
}

#[test]
fn half_a_request_is_answered_with_408_in_the_end() {
    let mut served = Served::new();
    let mut stream = served.net.connect(80, None);
    let mut sent = 0;
    served.net.until(|_| {
        sent += stream.write(&b"GET /small"[sent..]).unwrap_or(0);
        (sent == 10).then_some(())
    });
    served.net.settle();
    served.net.now += Duration::from_secs(61);
    let mut got = Vec::new();
    served.net.until(|_| (!read(&mut stream, 1_000, &mut got)).then_some(()));
    assert_eq!(code(&got), 408);
}

#[test]
fn two_hundred_clients_at_once_get_what_they_asked_for() {
    let mut served = Served::new();
    let small = small_len(&mut served);
    let mut clients: Vec<_> = (0..200).map(|_| (served.net.connect(80, None), Vec::new(), 0)).collect();
    let request = b"GET /small HTTP/1.1\r\nHost: h\r\n\r\n".repeat(3);
    served.net.until(|_| {
        for (stream, got, sent) in &mut clients {
            *sent += stream.write(&request[*sent..]).unwrap_or(0);
            assert!(read(stream, 4_000, got));
        }
        clients.iter().all(|(_, got, _)| got.len() == 3 * small).then_some(())
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
        let mut stream = served.net.connect(80, None);
        let mut sent = 0;
        served.net.until(|_| {
            sent += stream.write(&b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n"[sent..]).unwrap_or(0);
            (sent > 0 && (round % 2 == 0 || stream.readable() > 0)).then_some(())
        });
        stream.abort();
    }
    assert_eq!(small_len(&mut served), small);
}

#[test]
fn answer_that_breaks_off_is_reset_and_not_closed() {
    let mut served = Served::new();
    let mut stream = served.net.connect(80, None);
    served.ask(&mut stream, b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n", 1_000, 1_000);
    // The server has read ahead only what its socket and its buffer hold.
    fs::File::options().write(true).open(served.dir.path().join("big")).unwrap().set_len(1_000).unwrap();
    let mut buf = vec![0; 100_000];
    let error = served.net.until(|_| match stream.read(&mut buf) {
        Ok(n) => {
            assert!(n > 0, "the end of a part looks like the end of the answer");
            None
        }
        Err(SocketError::WouldBlock) => None,
        Err(error) => Some(error),
    });
    assert_eq!(error, SocketError::ConnectionReset);
}

#[test]
fn a_server_that_is_stopped_resets_the_answers_that_it_cuts_off_and_closes_the_others() {
    let mut served = Served::new();
    let (mut cut, mut whole) = (served.net.connect(80, None), served.net.connect(80, None));
    served.ask(&mut cut, b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n", 1_000, 1_000);
    let mut got = served.ask(&mut whole, b"GET /small HTTP/1.1\r\nHost: h\r\n\r\n", 4_000, 100);
    let mut program = served.net.program.take().unwrap();
    program.stop();
    drop(program);
    let mut buf = vec![0; 100_000];
    let error = served.net.until(|_| match cut.read(&mut buf) {
        Ok(n) => {
            assert!(n > 0, "a part looks like the whole");
            None
        }
        Err(SocketError::WouldBlock) => None,
        Err(error) => Some(error),
    });
    assert_eq!(error, SocketError::ConnectionReset);
    served.net.until(|_| (!read(&mut whole, 100, &mut got)).then_some(()));
}

#[test]
fn port_in_use_is_an_error_that_names_it() {
    let mut served = Served::new();
    let options = Options { hello: true, ..Options::default() };
    let Err(error) = open(&options, &mut served.net.server) else { panic!("two on one port") };
    assert!(error.to_string().starts_with("http: cannot use TCP port 80: "), "{error}");
}
