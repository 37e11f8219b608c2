//! Where requests end, what order answers have, and when connections close.

use super::*;
use proptest::prelude::*;

/// Requests of every kind behind each other; none closes the connection but the last.
const PIPELINE: &str = "\r\nGET /a.txt HTTP/1.1\r\nHost: a\r\n\r\n\
    GET /large.bin HTTP/1.1\r\nHost: a\r\n\r\n\
    POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world\
    HEAD /large.bin HTTP/1.1\r\nHost: a\r\n\r\n\
    GET /large.bin HTTP/1.1\r\nHost: a\r\nRange: bytes=1-2,5-9\r\n\r\n\
    PUT /stored HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\n!!!\r\n0\r\nT: t\r\n\r\n\
    PUT /stored2 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc\
    PUT /stored3 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n\
    GET /none HTTP/1.1\r\nHost: a\r\n\r\n\
    GET /missing HTTP/1.1\nHost: a\n\n\
    GET /a.txt HTTP/1.0\r\n\r\n\
    GET /never HTTP/1.1\r\nHost: a\r\n\r\n";

fn uploading() -> World {
    World::with(|o| o.upload = true)
}

/// Forgets what earlier runs stored, so that each answers 201.
fn forget(world: &World) {
    for name in ["stored", "stored2", "stored3"] {
        let _ = fs::remove_file(world.root().join(name));
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let world = uploading();
    let got = world.ask(PIPELINE);
    let text = String::from_utf8_lossy(&got);
    let codes: Vec<&str> =
        text.match_indices("HTTP/1.1 ").map(|(i, m)| &text[i + m.len()..i + m.len() + 3]).collect();
    assert_eq!(codes, ["200", "200", "405", "200", "206", "201", "100", "201", "201", "200", "404", "200"]);
    assert_eq!(world.read("stored"), b"hello!!!");
    assert_eq!(world.read("stored2"), b"abc");
    assert_eq!(world.read("stored3"), b"");
    assert!(got.ends_with(b"0123456789"), "nothing after the answer that closes");
}

#[test]
fn answers_do_not_depend_on_how_input_and_output_are_cut() {
    let world = uploading();
    let whole = world.ask(PIPELINE);
    for write_size in [1, 2, 999, 1_000, 100_001] {
        forget(&world);
        let mut client = Client::new(&world.site);
        client.write_size = write_size;
        for byte in PIPELINE.as_bytes() {
            client.send(&world.site, &[*byte]);
        }
        assert!(client.got == whole, "by {write_size}");
        assert_eq!(client.close, Some(Close::Shutdown));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_do_not_depend_on_random_cuts(
        cuts in prop::collection::vec(0..PIPELINE.len(), 0..40),
        write_size in 1..50_000_usize,
    ) {
        let world = uploading();
        let whole = world.ask(PIPELINE);
        forget(&world);
        let mut cuts = cuts;
        cuts.extend([0, PIPELINE.len()]);
        cuts.sort_unstable();
        let mut client = Client::new(&world.site);
        client.write_size = write_size;
        for pair in cuts.windows(2) {
            client.send(&world.site, &PIPELINE.as_bytes()[pair[0]..pair[1]]);
        }
        prop_assert!(client.got == whole);
    }

    #[test]
    fn random_bytes_get_an_answer_or_silence_but_no_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..3_000),
        prefix in prop::sample::select(vec![
            "", "GET /", "GET / HTTP/1.1\r\n", "PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /a.txt HTTP/1.1\r\nHost: a\r\nRange: bytes=", "PUT /y HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n",
        ]),
    ) {
        let world = uploading();
        let mut client = Client::new(&world.site);
        client.send(&world.site, prefix.as_bytes());
        client.send(&world.site, &bytes);
        client.send(&world.site, b"\r\n\r\n");
        client.connection.end_of_input();
        client.send(&world.site, b"");
        prop_assert_eq!(client.close, Some(Close::Now));
        prop_assert!(client.got.is_empty() || client.got.starts_with(b"HTTP/1.1 "));
    }

    #[test]
    fn requests_built_of_plausible_pieces_never_panic(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "GET ", "PUT ", "/", "a.txt", "..", "%2e", "%", " HTTP/1.1", " HTTP/1.0", "\r\n", "\n", "Host: a", "\r\n\r\n",
            "Content-Length: ", "5", "99999999999999999999", "Transfer-Encoding: chunked", "Range: bytes=", "0-", ",", "-5",
            "If-Range: ", "\"", "If-Modified-Since: ", "Expect: 100-continue", "Connection: ", "close", ":", "\0", "\u{80}",
        ]), 0..60),
    ) {
        let world = uploading();
        let mut client = Client::new(&world.site);
        for piece in pieces {
            client.send(&world.site, piece.as_bytes());
        }
        client.pass(&world.site, Duration::from_secs(61));
        client.pass(&world.site, Duration::from_secs(61));
        prop_assert_eq!(client.close, Some(Close::Now));
    }
}

#[test]
fn errors_of_the_head_close_the_connection() {
    let world = World::new();
    let long_line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9_000));
    let long_head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(5_000));
    let fields = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(65));
    for (request, want) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nBad Field: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (&long_line, 414),
        (&long_head, 431),
        (&fields, 431),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417),
    ] {
        let mut client = Client::new(&world.site);
        let twice = format!("{request}GET /a.txt HTTP/1.1\r\nHost: a\r\n\r\n");
        client.send(&world.site, twice.as_bytes());
        let answers = split(&client.got);
        assert_eq!((answers.len(), code(&client.got)), (1, want), "{request:.60}");
        assert_eq!(field(&answers[0].0, "Connection"), Some("close"));
        assert_eq!(client.close, Some(Close::Shutdown));
    }
}

#[test]
fn refused_body_is_skipped_if_short_and_ends_the_connection_if_long() {
    let world = World::new();
    for (length, kept) in [(10, true), (64 * 1024, true), (64 * 1024 + 1, false)] {
        let mut client = Client::new(&world.site);
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        client.send(&world.site, head.as_bytes());
        client.send(&world.site, &vec![b'x'; length]);
        client.send(&world.site, b"GET /a.txt HTTP/1.1\r\nHost: a\r\n\r\n");
        let answers = split(&client.got);
        assert_eq!(answers.len(), if kept { 2 } else { 1 }, "{length}");
        assert_eq!(field(&answers[0].0, "Connection"), (!kept).then_some("close"));
        assert_eq!(client.close, (!kept).then_some(Close::Shutdown));
    }
}

#[test]
fn client_that_closes_its_side_gets_what_it_asked_for() {
    let world = World::new();
    let mut client = Client::new(&world.site);
    client.connection.receive(
        &world.site,
        Instant::ZERO,
        "GET /large.bin HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3).as_bytes(),
    );
    client.connection.end_of_input();
    assert!(!client.connection.wants_input());
    client.send(&world.site, b"");
    assert_eq!(split(&client.got).len(), 3);
    assert_eq!(client.close, Some(Close::Now));
}

#[test]
fn unread_answers_stop_the_reading_of_requests() {
    let world = World::with(|o| (o.root, o.hello) = (None, true));
    let mut connection = Connection::new(&world.site, Instant::ZERO);
    let requests = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1_000);
    connection.receive(&world.site, Instant::ZERO, requests.as_bytes());
    assert!(!connection.wants_input(), "8 KB of answers wait");
    assert!(connection.output().len() < 9_000);
}

#[test]
fn silent_client_is_left_and_slow_one_is_told() {
    let world = uploading();
    let minute = Duration::from_secs(60);
    let mut idle = Client::new(&world.site);
    idle.pass(&world.site, minute - Duration::from_nanos(1));
    assert_eq!(idle.close, None);
    idle.pass(&world.site, minute);
    assert_eq!((idle.close, idle.got.len()), (Some(Close::Now), 0));

    let mut slow = Client::new(&world.site);
    for byte in b"GET / HTTP/1" {
        slow.send(&world.site, &[*byte]);
        slow.pass(&world.site, Duration::from_secs(5));
    }
    assert_eq!(code(&slow.got), 408, "a trickle does not extend the time for a head");
    assert_eq!(slow.close, Some(Close::Shutdown));
    slow.pass(&world.site, Duration::from_secs(5));
    assert_eq!(slow.close, Some(Close::Now), "nor does the client have to close");

    let mut body = Client::new(&world.site);
    body.send(&world.site, b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1234");
    body.pass(&world.site, minute);
    assert_eq!(code(&body.got), 408);
    assert!(!names(&world.root()).iter().any(|n| n.starts_with(".nty") || n == "x"));
}

#[test]
fn client_that_does_not_take_its_answer_is_left() {
    let world = World::new();
    let mut connection = Connection::new(&world.site, Instant::ZERO);
    connection.receive(&world.site, Instant::ZERO, b"GET /large.bin HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut now = Instant::ZERO;
    for _ in 0..3 {
        now += Duration::from_secs(59);
        assert_eq!(connection.transmit(&world.site, now, &mut [0; 59_000]), 59_000);
        connection.on_timeout(&world.site, now);
        assert_eq!(connection.close(), None, "it takes 1 kB a second");
    }
    connection.on_timeout(&world.site, connection.deadline());
    assert_eq!(connection.close(), Some(Close::Abort));
}

#[test]
fn byte_now_and_then_renews_no_deadline_for_ever() {
    let world = uploading();
    let mut slow = Connection::new(&world.site, Instant::ZERO);
    slow.receive(&world.site, Instant::ZERO, b"GET /large.bin HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut upload = Connection::new(&world.site, Instant::ZERO);
    upload.receive(
        &world.site,
        Instant::ZERO,
        b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n",
    );
    for secs in (0..60).step_by(10) {
        let now = Instant::from_millis(secs * 1_000);
        assert_eq!(slow.transmit(&world.site, now, &mut [0; 100]), 100);
        upload.receive(&world.site, now, b"x");
        for connection in [&mut slow, &mut upload] {
            connection.on_timeout(&world.site, now);
            assert_eq!(connection.close(), None);
        }
    }
    // A tenth of a second for every 100 bytes, and the time for silence.
    let end = Instant::from_millis(61_000);
    slow.on_timeout(&world.site, end);
    assert_eq!(slow.close(), Some(Close::Abort));
    upload.on_timeout(&world.site, end);
    let mut told = [0; 400];
    upload.transmit(&world.site, end, &mut told);
    assert_eq!(code(&told), 408);
}

#[test]
fn last_answer_has_as_much_time_as_any_other() {
    let world = World::new();
    let mut connection = Connection::new(&world.site, Instant::ZERO);
    let request = b"GET /large.bin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    connection.receive(&world.site, Instant::ZERO, request);
    let later = Instant::ZERO + Duration::from_secs(59);
    connection.on_timeout(&world.site, later);
    let mut client = Client { connection, now: later, got: Vec::new(), close: None, write_size: 1_000 };
    client.send(&world.site, b"");
    assert_eq!((split(&client.got).len(), client.close), (1, Some(Close::Shutdown)));
    client.pass(&world.site, Duration::from_secs(5));
    assert_eq!(client.close, Some(Close::Now), "after that it only lingers");
}

#[test]
fn idle_connection_is_small() {
    assert!(size_of::<Connection>() <= 384, "{}", size_of::<Connection>());
}
