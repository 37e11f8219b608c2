//! A client and a server on two stacks.

use super::*;
use crate::perf::{client::Client, server::Server};
use crate::run::Outcome;
use crate::testnet::{Net, Output, SERVER, read};

/// What the client and the server print, and how the client ends.
fn measure(options: &Options) -> (String, String, Outcome) {
    let (mut net, here, there) = (Net::new(), Output::default(), Output::default());
    let server_options = Options { server: true, ..Options::default() };
    let mut server = Server::new(&server_options, &mut net.server, Box::new(there.clone())).unwrap();
    let mut client = Client::new(options, SERVER, &mut net.client, Box::new(here.clone())).unwrap();
    net.run(&mut client, &mut server);
    (here.text(), there.text(), client.outcome().unwrap())
}

fn client() -> Options {
    Options { client: Some(SERVER), bytes: Some(Size::from_bytes(3_000_001)), ..Options::default() }
}

fn count(text: &str, what: &str) -> usize {
    text.lines().filter(|line| line.contains(what)).count()
}

#[test]
fn bytes_sent_are_bytes_received() {
    let (here, there, outcome) = measure(&Options { len: Some(Size::from_bytes(777)), ..client() });
    assert_eq!(outcome, Outcome::Done);
    assert!(here.contains("total: ") && here.contains("3.00 MB") && here.ends_with("sent\n"), "{here}");
    assert_eq!((count(&there, "3.00 MB"), count(&there, "received")), (1, 1), "{there}");
}

#[test]
fn server_sends_when_reversed() {
    let (here, there, outcome) = measure(&Options { reverse: true, ..client() });
    assert_eq!(outcome, Outcome::Done);
    assert!(here.contains("3.00 MB") && here.ends_with("received\n"), "{here}");
    assert_eq!(
        (count(&there, "3.00 MB"), count(&there, "sent"), there.lines().count()),
        (1, 1, 1),
        "{there}"
    );
}

#[test]
fn four_streams_both_ways_sum_up() {
    let parallel = std::num::NonZeroU8::new(4);
    let (here, there, outcome) = measure(&Options { bidir: true, parallel, ..client() });
    assert_eq!(outcome, Outcome::Done);
    let totals: Vec<_> = here.lines().filter(|line| line.starts_with("total: ")).collect();
    assert_eq!(totals.len(), 2, "{here}");
    assert!(totals.iter().all(|line| line.contains(" 12.00 MB")), "{here}");
    assert_eq!((count(&there, "sent"), count(&there, "received")), (4, 4), "{there}");
    assert_eq!(count(&there, "  3.00 MB"), 8, "{there}");
}

#[test]
fn time_ends_a_transfer_and_lines_come_at_intervals() {
    let (time, interval) = (Some("100ms".parse().unwrap()), "20ms".parse().unwrap());
    let (here, there, outcome) = measure(&Options { bytes: None, time, interval, ..client() });
    assert_eq!(outcome, Outcome::Done);
    let (lines, totals) = here.lines().partition::<Vec<_>, _>(|line| !line.starts_with("total: "));
    assert!(!lines.is_empty() && lines.iter().all(|line| line.ends_with("sent")), "{here}");
    // "total: from - to s amount unit rate unit direction" here, "peer: ..." there: how much is the same.
    let amount = |text: &str| text.split_whitespace().skip(5).take(2).collect::<String>();
    assert_eq!((totals.len(), there.lines().count()), (1, 1), "{here}{there}");
    assert_eq!(amount(totals[0]), amount(&there), "{here}{there}");
}

#[test]
fn refused_connection_is_a_failure() {
    let (mut net, here) = (Net::new(), Output::default());
    let mut client = Client::new(&client(), SERVER, &mut net.client, Box::new(here.clone())).unwrap();
    let start = std::time::Instant::now();
    while client.outcome().is_none() {
        assert!(start.elapsed() < Duration::from_secs(20));
        client.ready(&mut net.client, std::time::Instant::now()).unwrap();
        net.client.turn().unwrap();
        net.server.turn().unwrap();
    }
    assert_eq!(
        (client.outcome(), here.text().as_str()),
        (Some(Outcome::Failed), "10.0.0.2: connection refused\n")
    );
}

#[test]
fn stranger_is_closed_and_the_server_goes_on() {
    let (mut net, there) = (Net::new(), Output::default());
    let options = Options { server: true, ..Options::default() };
    let mut server = Server::new(&options, &mut net.server, Box::new(there.clone())).unwrap();
    let mut stream = net.connect(5201);
    let (mut sent, mut got) = (0, Vec::new());
    let request = b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n";
    net.until(&mut server, |_| {
        sent += stream.write(&request[sent..]).unwrap_or(0);
        sent == request.len() && !read(&mut stream, 100, &mut got)
    });
    net.until(&mut server, |_| there.text().ends_with(": not a perf client\n"));
    let mut client = Client::new(&client(), SERVER, &mut net.client, Box::new(Output::default())).unwrap();
    net.run(&mut client, &mut server);
    assert_eq!(client.outcome(), Some(Outcome::Done));
}
