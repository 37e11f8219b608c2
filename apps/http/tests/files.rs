//! Reading: types, conditions, ranges, directories, and what is not served.

use super::*;
use crate::http::files::OpenFiles;

const DATES: &str = "Server: nty\r\nDate: Sun, 09 Sep 2001 01:46:40 GMT\r\n";
const VALIDATORS: &str =
    "ETag: \"T\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nAccept-Ranges: bytes\r\n\r\n";

#[test]
fn answers_are_exactly_these() {
    let world = World::new();
    let text = "Content-Type: text/plain; charset=utf-8\r\n";
    let html = "Content-Type: text/html; charset=utf-8\r\n";
    for (request, want) in [
        (
            "GET /a.txt HTTP/1.1\r\nHost: a\r\n\r\n",
            format!("HTTP/1.1 200 OK\r\n{DATES}{text}Content-Length: 10\r\n{VALIDATORS}0123456789"),
        ),
        (
            "HEAD /a.txt HTTP/1.1\r\nHost: a\r\n\r\n",
            format!("HTTP/1.1 200 OK\r\n{DATES}{text}Content-Length: 10\r\n{VALIDATORS}"),
        ),
        (
            "GET /a.txt HTTP/1.0\r\n\r\n",
            format!(
                "HTTP/1.1 200 OK\r\n{DATES}Connection: close\r\n{text}Content-Length: 10\r\n{VALIDATORS}0123456789"
            ),
        ),
        (
            "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            format!(
                "HTTP/1.1 200 OK\r\n{DATES}Connection: keep-alive\r\n{html}Content-Length: 8\r\n{VALIDATORS}<p>index"
            ),
        ),
        (
            "GET /none HTTP/1.1\r\nHost: a\r\n\r\n",
            format!(
                "HTTP/1.1 200 OK\r\n{DATES}Content-Type: application/octet-stream\r\nContent-Length: 0\r\n{VALIDATORS}"
            ),
        ),
        (
            "GET http://a/sub%20dir/?x HTTP/1.1\r\nHost: a\r\n\r\n",
            format!("HTTP/1.1 200 OK\r\n{DATES}{html}Content-Length: 6\r\n{VALIDATORS}<p>sub"),
        ),
        (
            "GET /sub%20dir?x=1 HTTP/1.1\r\nHost: a\r\n\r\n",
            format!(
                "HTTP/1.1 301 Moved Permanently\r\n{DATES}Location: /sub%20dir/?x=1\r\n{text}Content-Length: 22\r\n\r\n\
                 301 Moved Permanently\n"
            ),
        ),
        (
            "POST /a.txt HTTP/1.1\r\nHost: a\r\n\r\n",
            format!(
                "HTTP/1.1 405 Method Not Allowed\r\n{DATES}Allow: GET, HEAD\r\n{text}Content-Length: 23\r\n\r\n\
                 405 Method Not Allowed\n"
            ),
        ),
        (
            "GET /a.txt HTTP/1.1\r\nHost: a\r\nRange: bytes=2-4\r\n\r\n",
            format!(
                "HTTP/1.1 206 Partial Content\r\n{DATES}{text}Content-Length: 3\r\nContent-Range: bytes 2-4/10\r\n\
                 {VALIDATORS}234"
            ),
        ),
        (
            "GET /a.txt HTTP/1.1\r\nHost: a\r\nRange: bytes=10-\r\n\r\n",
            format!(
                "HTTP/1.1 416 Range Not Satisfiable\r\n{DATES}Content-Range: bytes */10\r\n{text}Content-Length: 26\r\n\r\n\
                 416 Range Not Satisfiable\n"
            ),
        ),
        (
            "HEAD /missing HTTP/1.1\r\nHost: a\r\n\r\n",
            format!("HTTP/1.1 404 Not Found\r\n{DATES}{text}Content-Length: 14\r\n\r\n"),
        ),
    ] {
        assert_eq!(world.ask_text(request), want, "{request}");
    }
}

#[test]
fn nothing_outside_the_root_and_nothing_hidden_is_served() {
    let world = World::new();
    std::os::unix::fs::symlink("../secret", world.root().join("link")).unwrap();
    std::os::unix::fs::symlink(world.dir.path().join("secret"), world.root().join("absolute")).unwrap();
    for (target, want) in [
        ("/../secret", 403),
        ("/%2e%2e/secret", 403),
        ("/sub%20dir/../../secret", 403),
        ("/..%2fsecret", 403),
        ("/link", 403),
        ("/absolute", 403),
        ("/.hidden", 404),
        ("/%2Ehidden", 404),
        ("/a.txt%00.html", 400),
        ("/a.txt/", 404),
        ("/a.txt/x", 404),
        ("/empty/", 404),
        ("//etc/passwd", 404),
        ("/..\\secret", 404),
    ] {
        let answer = world.ask(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(code(&answer), want, "{target}");
        assert!(!answer.windows(6).any(|w| w == b"secret"), "{target}");
    }
}

#[test]
fn conditions_are_answered_in_their_order_of_precedence() {
    let world = World::new();
    let tag = {
        let answer = String::from_utf8(world.ask("HEAD /a.txt HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
        field(&answer, "ETag").unwrap().to_owned()
    };
    let same = "Sun, 06 Nov 1994 08:49:37 GMT";
    let before = "Sun, 06 Nov 1994 08:49:36 GMT";
    for (fields, want) in [
        (format!("If-None-Match: {tag}"), 304),
        (format!("If-None-Match: \"x\", W/{tag}"), 304),
        ("If-None-Match: *".into(), 304),
        ("If-None-Match: \"x\"".into(), 200),
        (format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {same}"), 200),
        (format!("If-Modified-Since: {same}"), 304),
        (format!("If-Modified-Since: {before}"), 200),
        ("If-Modified-Since: yesterday".into(), 200),
        (format!("If-Match: {tag}"), 200),
        (format!("If-Match: W/{tag}"), 412),
        ("If-Match: *".into(), 200),
        ("If-Match: \"x\"".into(), 412),
        (format!("If-Match: {tag}\r\nIf-Unmodified-Since: {before}"), 200),
        (format!("If-Unmodified-Since: {before}"), 412),
        (format!("If-Unmodified-Since: {same}"), 200),
        (format!("Range: bytes=0-1\r\nIf-Range: {tag}"), 206),
        ("Range: bytes=0-1\r\nIf-Range: \"x\"".into(), 200),
        (format!("Range: bytes=0-1\r\nIf-Range: W/{tag}"), 200),
        (format!("Range: bytes=0-1\r\nIf-Range: {same}"), 206),
        (format!("Range: bytes=0-1\r\nIf-Range: {before}"), 200),
        (format!("Range: bytes=0-1\r\nIf-None-Match: {tag}"), 304),
    ] {
        let answer = world.ask(format!("GET /a.txt HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
        assert_eq!(code(&answer), want, "{fields}");
        if want == 304 {
            let text = String::from_utf8(answer).unwrap();
            assert!(text.ends_with("\r\n\r\n") && field(&text, "Content-Length").is_none(), "{text}");
            assert_eq!(field(&text, "ETag"), Some(tag.as_str()));
        }
    }
}

#[test]
fn changed_file_changes_its_tag() {
    let world = World::new();
    let ask = || String::from_utf8(world.ask("GET /a.txt HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
    let before = ask();
    fs::write(world.root().join("a.txt"), "9876543210").unwrap();
    let after = ask();
    assert!(after.ends_with("9876543210"));
    assert_ne!(field(&before, "ETag"), field(&after, "ETag"));
}

#[test]
fn every_range_of_a_large_file_is_the_slice_it_names() {
    let world = World::new();
    let large = world.read("large.bin");
    let edges = [0, 1, 4_095, 4_096, 32_767, 32_768, 65_536, LARGE - 1];
    for write_size in [1_460, 4_001, 70_000, 70_001] {
        for (i, &first) in edges.iter().enumerate() {
            for &last in &edges[i..] {
                let mut client = Client::new(&world.site);
                client.write_size = write_size;
                let request =
                    format!("GET /large.bin HTTP/1.1\r\nHost: a\r\nRange: bytes={first}-{last}\r\n\r\n");
                client.send(&world.site, request.as_bytes());
                let answers = split(&client.got);
                assert_eq!(answers.len(), 1);
                let (head, body) = &answers[0];
                assert_eq!(field(head, "Content-Range"), Some(&*format!("bytes {first}-{last}/{LARGE}")));
                assert!(*body == large[first..=last], "{first}-{last} by {write_size}");
            }
        }
    }
}

#[test]
fn several_ranges_come_as_parts() {
    let world = World::new();
    let large = world.read("large.bin");
    let request = "GET /large.bin HTTP/1.1\r\nHost: a\r\nRange: bytes=0-9, 50000-150000, -3\r\n\r\n";
    for write_size in [1_000, 1_001, 300_000, 300_001] {
        let mut client = Client::new(&world.site);
        client.write_size = write_size;
        client.send(&world.site, request.as_bytes());
        let (head, body) = split(&client.got).remove(0);
        let boundary =
            field(&head, "Content-Type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap();
        let mut want = Vec::new();
        for range in [0..10, 50_000..150_001, LARGE - 3..LARGE] {
            want.extend_from_slice(
                format!(
                    "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {}-{}/{LARGE}\r\n\r\n",
                    range.start,
                    range.end - 1
                )
                .as_bytes(),
            );
            want.extend_from_slice(&large[range]);
        }
        want.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        assert!(body == want, "by {write_size}");
        assert!(client.close.is_none());
    }
}

#[test]
fn beyond_the_bound_on_open_files_the_answer_is_to_come_back_later() {
    let mut world = World::with(|o| o.upload = true);
    world.site.files = OpenFiles::at_most(1);
    let get = b"GET /large.bin HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut first = Connection::new(&world.site, Instant::ZERO);
    first.receive(&world.site, Instant::ZERO, get);
    for request in [
        &get[..],
        b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    ] {
        let answer = world.ask(request);
        assert_eq!(code(&answer), 503);
        assert!(String::from_utf8(answer).unwrap().contains("\r\nRetry-After: 1\r\n"));
    }
    drop(first);
    assert_eq!(code(&world.ask(get)), 200);
    assert_eq!(code(&world.ask(get)), 200, "what was sent is closed");
}

#[test]
fn file_that_shrinks_while_it_is_sent_breaks_the_connection_and_not_the_framing() {
    let world = World::new();
    for write_size in [1_000, 1_001] {
        let mut connection = Connection::new(&world.site, Instant::ZERO);
        connection.receive(&world.site, Instant::ZERO, b"GET /large.bin HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut client = Client { connection, now: Instant::ZERO, got: Vec::new(), close: None, write_size };
        client.take(&world.site);
        fs::File::options().write(true).open(world.root().join("large.bin")).unwrap().set_len(5).unwrap();
        client.send(&world.site, b"");
        assert_eq!(client.close, Some(Close::Abort));
        assert!(client.got.len() < LARGE);
        fs::write(world.root().join("large.bin"), vec![0; LARGE]).unwrap();
    }
}

#[test]
fn hello_answers_every_path_with_the_same_438_bytes() {
    let world = World::with(|o| (o.root, o.hello) = (None, true));
    let one = world.ask("GET /any/../path HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((one.len(), code(&one)), (438, 200));
    assert_eq!(split(&one).len(), 1);
    let hundred = world.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100));
    assert_eq!(hundred, one.repeat(100));
    let head = world.ask("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(one.starts_with(&head) && head.ends_with(b"\r\n\r\n"));
    let closing = world.ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(split(&closing)[0].1, split(&one)[0].1);
    assert_eq!(code(&world.ask("PUT / HTTP/1.1\r\nHost: a\r\n\r\n")), 405);
}
