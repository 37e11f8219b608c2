//! A client and a server on two stacks.

use super::*;
use crate::perf::{
    client::{self, Client},
    server::Server,
    udp_client::UdpClient,
};
use crate::run::Outcome;
use crate::testnet::{Net, Output, SERVER, read};

/// A server that prints to `there`.
fn serve(there: &Output) -> Net {
    let options = Options { server: true, ..Options::default() };
    Net::new(|runtime| Ok(Box::new(Server::new(&options, runtime, Box::new(there.clone()))?)))
}

/// What the client and the server print, and how the client ends.
fn measure(options: &Options) -> (String, String, Outcome) {
    let (here, there) = (Output::default(), Output::default());
    let mut net = serve(&there);
    let mut client = Client::new(options, SERVER, &mut net.client, Box::new(here.clone())).unwrap();
    net.run(&mut client);
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
    // "total: from - to s amount unit rate unit direction" here, "peer: total: ..." there: how much is the same.
    let amount = |text: &str| {
        text.split_whitespace().skip_while(|word| *word != "s").skip(1).take(2).collect::<String>()
    };
    assert_eq!((totals.len(), there.lines().count()), (1, 1), "{here}{there}");
    assert_eq!(amount(totals[0]), amount(&there), "{here}{there}");
}

#[test]
fn refused_connection_is_a_failure() {
    let (mut net, here) = (Net::bare(), Output::default());
    let mut client = Client::new(&client(), SERVER, &mut net.client, Box::new(here.clone())).unwrap();
    net.run(&mut client);
    assert_eq!(
        (client.outcome(), here.text().as_str()),
        (Some(Outcome::Failed), "10.0.0.2: connection refused\n")
    );
}

#[test]
fn server_that_falls_silent_is_given_up() {
    let (here, there) = (Output::default(), Output::default());
    let mut net = serve(&there);
    let options = Options { bytes: None, time: Some("1h".parse().unwrap()), ..client() };
    let mut client = Client::new(&options, SERVER, &mut net.client, Box::new(here.clone())).unwrap();
    let start = std::time::Instant::now();
    net.until(|runtime| {
        client.ready(runtime, start).unwrap();
        (runtime.stack().counters().events().any(|(name, n)| name == "tcp_tx" && n > 100)).then_some(())
    });
    // From now on nobody turns the server's stack: what fills the sockets is taken, and then nothing.
    let mut now = start;
    while client.outcome().is_none() {
        now += std::time::Duration::from_secs(1);
        assert!(now < start + 3 * client::PATIENCE, "{}", here.text());
        net.client.turn().unwrap();
        client.ready(&mut net.client, now).unwrap();
    }
    assert_eq!(client.outcome(), Some(Outcome::Failed));
    let text = here.text();
    assert_eq!(count(&text, "10.0.0.2: no answer for 10 s"), 1, "{text}");
    let total = text.lines().last().unwrap();
    assert!(total.starts_with("total: ") && !total.contains("   0.00 s"), "{text}");
}

#[test]
fn stranger_is_closed_and_the_server_goes_on() {
    let there = Output::default();
    let mut net = serve(&there);
    let mut stream = net.connect(5201, None);
    let (mut sent, mut got) = (0, Vec::new());
    let request = b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n";
    net.until(|_| {
        sent += stream.write(&request[sent..]).unwrap_or(0);
        (sent == request.len() && !read(&mut stream, 100, &mut got)).then_some(())
    });
    net.until(|_| there.text().ends_with(": not a perf client\n").then_some(()));
    let mut client = Client::new(&client(), SERVER, &mut net.client, Box::new(Output::default())).unwrap();
    net.run(&mut client);
    assert_eq!(client.outcome(), Some(Outcome::Done));
}

/// As [`measure`], over UDP.
fn measure_datagrams(options: Options) -> (String, String, Outcome) {
    let (here, there) = (Output::default(), Output::default());
    let mut net = serve(&there);
    let options = Options { udp: true, ..options };
    let mut client = UdpClient::new(&options, SERVER, &mut net.client, Box::new(here.clone())).unwrap();
    net.run(&mut client);
    (here.text(), there.text(), client.outcome().unwrap())
}

/// The numbers before "sent", "received" and "lost" in each line of a summary.
fn tallies(text: &str) -> Vec<[u64; 3]> {
    let number = |line: &str, what: &str| -> u64 {
        let (before, _) = line.split_once(&format!(" {what}")).unwrap();
        before.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let lines = text.lines().filter(|line| line.contains(" reordered"));
    lines
        .map(|line| {
            let tally = line.split_once(", ").unwrap().1;
            [number(tally, "sent"), number(tally, "received"), number(tally, "lost")]
        })
        .collect()
}

#[test]
fn datagrams_are_numbered_and_counted_at_the_other_end() {
    let (here, there, outcome) = measure_datagrams(client());
    assert_eq!(outcome, Outcome::Done, "{here}{there}");
    // 3,000,001 bytes in datagrams of 1,448.
    let ours = tallies(&here);
    assert_eq!((ours.len(), ours[0][0], ours[0][1] + ours[0][2]), (1, 2_072, 2_072), "{here}");
    assert!(ours[0][1] > 0, "{here}");
    assert_eq!(tallies(&there), ours, "{there}");
}

#[test]
fn server_sends_datagrams_when_reversed_and_both_when_bidirectional() {
    let (here, there, outcome) = measure_datagrams(Options { reverse: true, ..client() });
    assert_eq!(outcome, Outcome::Done, "{here}{there}");
    let ours = tallies(&here);
    assert_eq!((ours.len(), ours[0][0], ours[0][1] + ours[0][2]), (1, 2_072, 2_072), "{here}");
    assert!(there.ends_with(" sent, 2072 datagrams\n"), "{there}");
    let parallel = std::num::NonZeroU8::new(3);
    let (here, there, outcome) = measure_datagrams(Options { bidir: true, parallel, ..client() });
    assert_eq!(outcome, Outcome::Done, "{here}{there}");
    assert!(tallies(&here).iter().all(|tally| tally[0] == 3 * 2_072), "{here}");
    assert_eq!((tallies(&here).len(), there.lines().count()), (2, 6), "{here}{there}");
}

#[test]
fn nobody_who_answers_datagrams_is_a_failure() {
    let (mut net, here) = (Net::bare(), Output::default());
    let options = Options { udp: true, ..client() };
    let mut client = UdpClient::new(&options, SERVER, &mut net.client, Box::new(here.clone())).unwrap();
    net.run(&mut client);
    assert_eq!(client.outcome(), Some(Outcome::Failed));
    assert!(here.text().starts_with("10.0.0.2: connection refused\n"), "{}", here.text());
}

#[test]
fn server_sends_nothing_without_its_cookie_and_stops_when_nobody_confirms() {
    use crate::perf::datagrams::{Control, Kind};
    use crate::perf::request::Request;
    let there = Output::default();
    let mut net = serve(&there);
    let options =
        Options { udp: true, reverse: true, time: Some("1h".parse().unwrap()), bytes: None, ..client() };
    let request = Request::new(&options, 0);
    let remote = Some(crate::testnet::server(5201));
    let mut socket = net.client.bind_udp("0.0.0.0:0".parse().unwrap(), remote).unwrap();
    let mut buf = vec![0; 2_000];
    // A cookie that is not the server's begins nothing.
    socket.send(&Control::asking(Kind::Go, 1, &request, 0).to_bytes()).unwrap();
    net.settle();
    assert!(socket.recv_from(&mut buf).is_err(), "answered a stranger");
    socket.send(&Control::asking(Kind::Hello, 0, &request, 0).to_bytes()).unwrap();
    let got = net.until(|_| socket.recv_from(&mut buf).ok());
    assert_eq!(got.len, Control::LEN);
    let cookie = Control::parse(&buf[..got.len]).unwrap().cookie;
    net.settle();
    assert!(socket.recv_from(&mut buf).is_err(), "sends before the cookie came back");
    socket.send(&Control::asking(Kind::Go, cookie, &request, 0).to_bytes()).unwrap();
    for _ in 0..100 {
        let got = net.until(|_| socket.recv_from(&mut buf).ok());
        assert!(got.len == Control::LEN || got.len == 1_448);
    }
    // The server's time stood still; now it is a second later and nobody has confirmed.
    net.now += crate::perf::udp_server::SILENCE;
    net.until(|_| there.text().contains(": went silent\n").then_some(()));
    net.settle();
    while socket.recv_from(&mut buf).is_ok() {}
    net.settle();
    assert!(socket.recv_from(&mut buf).is_err(), "goes on for ever");
}

#[test]
fn server_says_at_its_own_intervals_how_it_goes() {
    for udp in [false, true] {
        let there = Output::default();
        let options = Options { server: true, interval: "20ms".parse().unwrap(), ..Options::default() };
        let mut net =
            Net::new(|runtime| Ok(Box::new(Server::new(&options, runtime, Box::new(there.clone()))?)));
        let time = Some("100ms".parse().unwrap());
        let options = Options { udp, reverse: true, bytes: None, time, ..client() };
        let out = Box::new(Output::default());
        let mut client: Box<dyn crate::run::Program> = if udp {
            Box::new(UdpClient::new(&options, SERVER, &mut net.client, out).unwrap())
        } else {
            Box::new(Client::new(&options, SERVER, &mut net.client, out).unwrap())
        };
        net.run(&mut *client);
        let text = there.text();
        assert_eq!((client.outcome(), count(&text, ": total: ")), (Some(Outcome::Done), 1), "{text}");
        assert!(count(&text, "sent") >= 2, "{text}");
    }
}
