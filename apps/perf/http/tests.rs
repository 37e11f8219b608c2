//! The load and servers, good and bad, on two stacks.

use super::client::{CONNECTING_MAX, Client, PATIENCE, RETRY};
use super::*;
use crate::clients::Timeline;
use crate::hub::{Connected, Hub};
use crate::run::Outcome;
use crate::testnet::{Net, Output};
use nty_epoll::{Epoll, Events, Runtime, TcpStream};
use serde_json::Value;
use std::net::Shutdown;
use std::time::Instant;

const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const LAST: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";

/// What [`Canned`] does when it has answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Keep,
    /// FIN after so many answers on a connection.
    End(usize),
    /// RST after the first request, the answer unsent.
    Reset,
}

/// A server that answers every request with the same bytes.
struct Canned {
    hub: Hub<Peer>,
    answer: &'static str,
    then: Then,
}

struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
    answers: usize,
}

impl Connected for Peer {
    fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl Canned {
    fn drive(&mut self, token: u64) {
        let Some(peer) = self.hub.get_mut(token) else { return };
        let mut buf = [0; 4_096];
        let mut is_over = loop {
            match peer.stream.read(&mut buf) {
                Ok(n) if n > 0 => peer.input.extend_from_slice(&buf[..n]),
                Ok(_) => break true,
                Err(error) => break error != ntytcp::stack::SocketError::WouldBlock,
            }
        };
        while let Some(end) = peer.input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            peer.input.drain(..end + 4);
            if self.then == Then::Reset {
                let Some(peer) = self.hub.remove(token) else { return };
                return peer.stream.abort();
            }
            if self.then != Then::End(peer.answers) {
                assert_eq!(peer.stream.write(self.answer.as_bytes()), Ok(self.answer.len()));
                peer.answers += 1;
            }
        }
        if self.then == Then::End(peer.answers) {
            // Whoever is gone already cannot be told.
            is_over |= peer.stream.shutdown(Shutdown::Write).is_err();
        }
        if is_over {
            self.hub.remove(token);
        }
    }
}

impl Program for Canned {
    fn name(&self) -> &'static str {
        "canned"
    }

    fn epoll(&self) -> &Epoll {
        self.hub.epoll()
    }

    fn ready(&mut self, _: &mut Runtime, _: Instant) -> Result<(), ProgramError> {
        for _ in 0..self.hub.poll(|stream, _| Peer { stream, input: Vec::new(), answers: 0 })? {
            let Some(token) = self.hub.next() else { break };
            self.drive(token);
        }
        Ok(())
    }
}

fn canned(answer: &'static str, then: Then) -> Net {
    Net::new(|runtime| {
        let mut hub = Hub::new("canned", Events::IN | Events::RDHUP | Events::ET)?;
        hub.listen(80, 1_024, usize::MAX, runtime)?;
        Ok(Box::new(Canned { hub, answer, then }))
    })
}

/// `nty http --hello` on the server's side.
fn hello_on(net: Net) -> Net {
    let options = crate::http::Options { hello: true, ..Default::default() };
    net.serving(|runtime| crate::http::open(&options, runtime))
}

fn hello() -> Net {
    hello_on(Net::bare())
}

/// `n` requests, on one connection.
fn options(n: u64) -> Options {
    Options {
        target: "10.0.0.2".parse().unwrap(),
        time: None,
        requests: NonZeroU64::new(n),
        parallel: NonZeroU16::MIN,
        close: false,
        pipeline: NonZeroU16::MIN,
        timeout: Span::from_secs(10),
        interval: Span::from_secs(1),
        json: true,
    }
}

/// What the load says in the end, as JSON, and how it ends.
fn load(net: &mut Net, options: &Options) -> (Value, Outcome) {
    let out = Output::default();
    let mut client = Client::new(options, Box::new(out.clone())).unwrap();
    net.run(&mut client);
    assert_eq!(out.text().lines().count(), 1, "{}", out.text());
    (serde_json::from_str(&out.text()).unwrap(), client.outcome().unwrap())
}

/// Requests answered by 2xx, connections, what failed.
fn summary(report: &Value) -> (u64, u64, String) {
    let number = |name: &str| report[name].as_u64().unwrap();
    (number("requests"), number("connections"), report["failed"].to_string())
}

fn n16(n: u16) -> NonZeroU16 {
    NonZeroU16::new(n).unwrap()
}

#[test]
fn connections_are_kept() {
    let (report, outcome) = load(&mut hello(), &Options { parallel: n16(20), ..options(1_000) });
    assert_eq!((summary(&report), outcome), ((1_000, 20, "{}".into()), Outcome::Done), "{report}");
    assert_eq!(report["bytes_received"], 438 * 1_000);
    let latency = |name: &str| report["latency_us"][name].as_f64().unwrap();
    assert!(0.0 < latency("p50") && latency("p50") <= latency("p99") && latency("p99") <= latency("max"));
}

#[test]
fn no_more_connections_are_made_than_there_are_requests() {
    let (report, outcome) = load(&mut hello(), &Options { parallel: n16(20), ..options(3) });
    assert_eq!((summary(&report), outcome), ((3, 3, "{}".into()), Outcome::Done), "{report}");
}

#[test]
fn every_request_has_a_connection_of_its_own_with_close() {
    let mut net = hello();
    let (report, outcome) = load(&mut net, &Options { parallel: n16(20), close: true, ..options(1_000) });
    assert_eq!((summary(&report), outcome), ((1_000, 1_000, "{}".into()), Outcome::Done), "{report}");
    // The server closed first, so that our ports are free at once.
    assert_eq!(net.client.stack().tcp_connections().time_wait, 0);
}

#[test]
fn requests_are_pipelined() {
    for (depth, n) in [(16, 1_000), (1_024, 5_000)] {
        let mut net = hello();
        let (report, outcome) = load(&mut net, &Options { pipeline: n16(depth), ..options(n) });
        assert_eq!((summary(&report), outcome), ((n, 1, "{}".into()), Outcome::Done), "{report}");
    }
}

#[test]
fn pipelined_requests_behind_the_last_answer_are_made_again() {
    let mut net = canned(LAST, Then::End(1));
    let (report, outcome) = load(&mut net, &Options { pipeline: n16(4), ..options(10) });
    assert_eq!((summary(&report), outcome), ((10, 10, "{}".into()), Outcome::Done), "{report}");
    // Those of the first seven connections, and what was left for the others.
    assert_eq!(report["repeated"], 3 * 7 + 2 + 1);
}

#[test]
fn server_that_does_not_close_is_closed() {
    let mut net = canned(PAGE, Then::Keep);
    let (report, outcome) = load(&mut net, &Options { close: true, ..options(10) });
    assert_eq!((summary(&report), outcome), ((10, 10, "{}".into()), Outcome::Done), "{report}");
}

#[test]
fn time_ends_a_load_and_lines_come_at_intervals() {
    let out = Output::default();
    let (time, interval) = (Some("100ms".parse().unwrap()), "20ms".parse().unwrap());
    let options = Options { requests: None, time, interval, json: false, ..options(1) };
    let mut client = Client::new(&options, Box::new(out.clone())).unwrap();
    hello().run(&mut client);
    let text = out.text();
    assert_eq!(client.outcome(), Some(Outcome::Done), "{text}");
    let (lines, summary): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.contains(" answers/s "));
    assert!(!lines.is_empty(), "{text}");
    let names: Vec<_> = summary.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(names, ["total", "bytes", "latency", "connect"], "{text}");
    assert!(summary[0].contains(" requests in 0.1"), "{text}");
}

/// The only thing that fails with a server that answers like this, and how often for 5 requests.
fn failure(answer: &'static str, then: Then) -> (u64, String) {
    let (report, outcome) = load(&mut canned(answer, then), &options(5));
    assert_eq!(outcome, Outcome::Failed, "{report}");
    let (requests, _, failed) = summary(&report);
    (requests, failed)
}

#[test]
fn wrong_answers_are_counted_by_kind() {
    let bad = |kind: &str, n: u64| format!("{{\"{kind}\":{n}}}");
    assert_eq!(failure("SSH-2.0-OpenSSH\r\n", Then::Keep), (0, bad("malformed", 5)));
    assert_eq!(
        failure("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", Then::End(1)),
        (0, bad("cut_off", 5))
    );
    assert_eq!(failure("HTTP/1.1 200 OK\r\n", Then::End(1)), (0, bad("cut_off", 5)));
    // The answer was complete before it was seen to be wrong.
    assert_eq!(
        failure("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhello", Then::Keep),
        (5, bad("unasked", 5))
    );
    assert_eq!(failure("", Then::End(1)), (0, bad("closed", 5)));
    assert_eq!(failure(PAGE, Then::Reset), (0, bad("reset", 5)));
}

#[test]
fn other_statuses_are_counted_apart() {
    let mut net =
        canned("HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", Then::Keep);
    let (report, outcome) = load(&mut net, &options(5));
    assert_eq!((summary(&report), outcome), ((0, 1, "{}".into()), Outcome::Failed), "{report}");
    assert_eq!(report["other_statuses"], serde_json::json!({ "503": 5 }));
}

#[test]
fn body_may_last_until_the_end_of_the_connection() {
    let mut net = canned("HTTP/1.0 200 OK\r\n\r\nhello", Then::End(1));
    let (report, outcome) = load(&mut net, &options(3));
    assert_eq!((summary(&report), outcome), ((3, 3, "{}".into()), Outcome::Done), "{report}");
}

#[test]
fn server_that_is_not_there_is_asked_once_per_connection() {
    let (report, outcome) = load(&mut Net::bare(), &Options { parallel: n16(3), ..options(1_000) });
    assert_eq!((summary(&report), outcome), ((0, 0, r#"{"refused":3}"#.into()), Outcome::Failed), "{report}");
}

/// A load whose time is the test's, `now` after its beginning.
struct Paced {
    net: Net,
    client: Client,
    out: Output,
    now: Instant,
}

impl Paced {
    fn new(net: Net, options: &Options) -> Self {
        let out = Output::default();
        let client = Client::new(options, Box::new(out.clone())).unwrap();
        let now = Timeline::new().when(ntytcp::time::Instant::ZERO).unwrap();
        Self { net, client, out, now }
    }

    /// Steps until `done`, while the load's time stands still.
    fn until(&mut self, mut done: impl FnMut(&mut Runtime) -> bool) {
        let (client, now) = (&mut self.client, self.now);
        self.net.until(|runtime| {
            client.ready(runtime, now).unwrap();
            done(runtime).then_some(())
        });
    }

    /// Calls the load after so long.
    fn after(&mut self, time: std::time::Duration) {
        self.now += time;
        self.client.ready(&mut self.net.client, self.now).unwrap();
    }

    fn report(&self) -> Value {
        serde_json::from_str(&self.out.text()).unwrap()
    }
}

#[test]
fn silent_server_is_given_up_after_the_timeout_and_asked_again() {
    let options = Options { parallel: n16(3), requests: NonZeroU64::new(6), ..options(6) };
    let mut load = Paced::new(canned("", Then::Keep), &options);
    let opens = |n: u64| {
        move |runtime: &mut Runtime| {
            runtime.stack().counters().events().any(|(name, count)| name == "tcp_active_opens" && count == n)
                && runtime.stack().tcp_connections().connections == 3
        }
    };
    load.until(opens(3));
    load.net.settle();
    // Two rounds, as long as there are requests left; nobody hangs.
    for round in 1..=2 {
        load.until(|_| true);
        load.after(std::time::Duration::from_secs(9));
        assert_eq!(load.client.outcome(), None);
        load.after(std::time::Duration::from_secs(1));
        load.after(RETRY);
        if round == 1 {
            load.until(opens(6));
            load.net.settle();
        }
    }
    assert_eq!(load.client.outcome(), Some(Outcome::Failed));
    let report = load.report();
    assert_eq!(summary(&report), (0, 6, r#"{"timed_out":6}"#.into()), "{report}");
}

#[test]
fn host_that_does_not_answer_at_all_is_given_up() {
    // More than are asked at the same time, so that not all are asked.
    let many = n16(CONNECTING_MAX as u16 + 100);
    let mut load = Paced::new(Net::bare(), &Options { parallel: many, requests: None, ..options(1) });
    load.client.ready(&mut load.net.client, load.now).unwrap();
    load.after(std::time::Duration::from_secs(10));
    assert_eq!(load.client.outcome(), Some(Outcome::Failed));
    let want = format!(r#"{{"timed_out":{CONNECTING_MAX}}}"#);
    assert_eq!(summary(&load.report()), (0, 0, want));
}

#[test]
fn time_runs_though_nobody_answers() {
    let time = Some("1s".parse().unwrap());
    let mut load = Paced::new(Net::bare(), &Options { parallel: n16(3), requests: None, time, ..options(1) });
    load.client.ready(&mut load.net.client, load.now).unwrap();
    load.after(PATIENCE - std::time::Duration::from_millis(1));
    assert_eq!(load.client.outcome(), None);
    load.after(std::time::Duration::from_millis(1));
    assert_eq!(load.client.outcome(), Some(Outcome::Failed));
    assert_eq!(summary(&load.report()), (0, 0, r#"{"timed_out":3}"#.into()));
}

#[test]
fn thousands_of_connections_are_opened_a_few_hundred_at_a_time() {
    let mut net = hello();
    let (report, outcome) = load(&mut net, &Options { parallel: n16(3_000), ..options(12_000) });
    assert_eq!((summary(&report), outcome), ((12_000, 3_000, "{}".into()), Outcome::Done), "{report}");
    let counters = net.client.stack().counters();
    assert!(counters.events().all(|(name, n)| name != "tcp_retransmits" || n == 0));
}

#[test]
fn lost_frames_only_cost_time() {
    for close in [false, true] {
        let mut net = hello_on(Net::with_faults(|tx| tx.loss = 0.02));
        let (report, outcome) = load(&mut net, &Options { parallel: n16(50), close, ..options(500) });
        let connections = if close { 500 } else { 50 };
        assert_eq!((summary(&report), outcome), ((500, connections, "{}".into()), Outcome::Done), "{report}");
    }
}
