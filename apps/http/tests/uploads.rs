//! PUT: what is stored, when it appears, and what is refused.

use super::*;

fn world(max_upload: u64) -> World {
    World::with(|o| (o.upload, o.max_upload) = (true, Size::from_bytes(max_upload)))
}

fn put(world: &World, target: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!("PUT {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes();
    request.extend_from_slice(body);
    world.ask(request)
}

#[test]
fn large_file_comes_back_as_it_was_sent() {
    let world = world(1 << 30);
    let large = world.read("large.bin");
    let mut client = Client::new(&world.site);
    let head = format!("PUT /copy.bin HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n");
    client.send(&world.site, head.as_bytes());
    client.send(&world.site, &large[..LARGE - 1]);
    assert!(!names(&world.root()).contains(&"copy.bin".into()), "it appears only when it is complete");
    client.send(&world.site, &large[LARGE - 1..]);
    assert_eq!(code(&client.got), 201);
    assert!(world.read("copy.bin") == large);
    client.got.clear();
    client.send(&world.site, b"GET /copy.bin HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(split(&client.got)[0].1 == large);
    assert!(!names(&world.root()).iter().any(|n| n.starts_with(".nty")), "no temporary file is left");
}

#[test]
fn replacing_is_told_from_creating() {
    let world = world(100);
    assert_eq!(code(&put(&world, "/sub%20dir/new", "Content-Length: 3\r\n", b"one")), 201);
    let second = put(&world, "/sub%20dir/new", "Content-Length: 3\r\n", b"two");
    assert_eq!(code(&second), 204);
    assert!(second.ends_with(b"\r\n\r\n"));
    assert_eq!(world.read("sub dir/new"), b"two");
}

#[test]
fn broken_off_upload_leaves_nothing_and_keeps_the_old_file() {
    let world = world(100);
    let before = names(&world.root());
    let mut client = Client::new(&world.site);
    client.send(&world.site, b"PUT /a.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1234");
    client.connection.end_of_input();
    client.send(&world.site, b"");
    assert_eq!(client.close, Some(Close::Now));
    assert_eq!((names(&world.root()), world.read("a.txt")), (before.clone(), b"0123456789".to_vec()));

    let mut dropped = Client::new(&world.site);
    dropped.send(&world.site, b"PUT /a.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1234");
    assert_ne!(names(&world.root()), before);
    drop(dropped);
    assert_eq!(names(&world.root()), before);
}

#[test]
fn refusals() {
    let world = world(10);
    std::os::unix::fs::symlink("..", world.root().join("up")).unwrap();
    std::os::unix::fs::symlink("a.txt", world.root().join("link")).unwrap();
    let before = names(&world.root());
    let outside = names(world.dir.path());
    for (target, fields, body, want) in [
        ("/x", "Content-Length: 11\r\n", "", 413),
        ("/x", "Transfer-Encoding: chunked\r\n", "b\r\n01234567890\r\n0\r\n\r\n", 413),
        ("/x", "Transfer-Encoding: chunked\r\n", "zz\r\n", 400),
        ("/x", "Content-Length: 1\r\nContent-Range: bytes 0-0/1\r\n", "x", 400),
        ("/", "Content-Length: 1\r\n", "x", 409),
        ("/empty", "Content-Length: 1\r\n", "x", 409),
        ("/x/", "Content-Length: 1\r\n", "x", 409),
        ("/missing/x", "Content-Length: 1\r\n", "x", 409),
        ("/a.txt/x", "Content-Length: 1\r\n", "x", 409),
        ("/link", "Content-Length: 1\r\n", "x", 409),
        ("/up/x", "Content-Length: 1\r\n", "x", 403),
        ("/../x", "Content-Length: 1\r\n", "x", 403),
        ("/.x", "Content-Length: 1\r\n", "x", 404),
        ("/a.txt", "Content-Length: 1\r\nIf-None-Match: *\r\n", "x", 412),
        ("/a.txt", "Content-Length: 1\r\nIf-Match: \"x\"\r\n", "x", 412),
        ("/x", "Content-Length: 1\r\nIf-Match: *\r\n", "x", 412),
    ] {
        let answer = put(&world, target, fields, body.as_bytes());
        assert_eq!(code(&answer), want, "{target} {fields}");
        assert_eq!(split(&answer).len(), 1, "{target} {fields}");
    }
    assert_eq!((names(&world.root()), names(world.dir.path())), (before, outside));
    assert_eq!(world.read("a.txt"), b"0123456789");
}

#[test]
fn client_that_waits_is_told_to_continue_or_why_not() {
    let world = world(10);
    let mut client = Client::new(&world.site);
    client.send(
        &world.site,
        b"PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
    );
    assert_eq!(client.got, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.got.clear();
    client.send(&world.site, b"ab");
    assert_eq!((code(&client.got), client.close), (201, None));

    let refused =
        world.ask("PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n");
    assert_eq!(code(&refused), 413);
    assert!(String::from_utf8(refused).unwrap().contains("\r\nConnection: close\r\n"));
    let old = world.ask("PUT /y HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab");
    assert_eq!(code(&old), 201, "HTTP/1.0 knows no 100");
}

#[test]
fn without_the_option_nothing_is_stored() {
    let world = World::new();
    let answer = put(&world, "/x", "Content-Length: 1\r\n", b"x");
    assert_eq!(code(&answer), 405);
    assert_eq!(field(&split(&answer)[0].0, "Allow"), Some("GET, HEAD"));
    assert!(!world.root().join("x").exists());
}

#[test]
fn what_a_killed_server_left_is_swept_at_the_start_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("sub/.hidden")).unwrap();
    fs::create_dir(at("away")).unwrap();
    std::os::unix::fs::symlink(at("away"), at("sub/link")).unwrap();
    let left = [
        ".nty-upload-0123456789abcdef",
        "sub/.nty-upload-ffffffffffffffff",
        "sub/.hidden/.nty-upload-0000000000000000",
    ];
    let others = [
        ".nty-upload-0123456789ABCDEF",
        ".nty-upload-0123456789abcde",
        "sub/.nty-upload-0123456789abcdef0",
        "sub/nty-upload-0123456789abcdef",
        "sub/file",
    ];
    left.iter().chain(&others).for_each(|name| fs::write(at(name), "x").unwrap());
    let folder = ".nty-upload-00000000000000aa";
    fs::create_dir(at(folder)).unwrap();
    let link = ".nty-upload-00000000000000bb";
    std::os::unix::fs::symlink("sub/file", at(link)).unwrap();
    // Another process is at it.
    let busy = ".nty-upload-00000000000000cc";
    let file = fs::File::create(at(busy)).unwrap();
    file.lock().unwrap();
    let options = Options { root: Some(dir.path().to_owned()), ..Options::default() };
    Site::open(&options).unwrap();
    assert!(left.iter().all(|name| at(name).exists()), "a server that takes no uploads changes nothing");
    Site::open(&Options { upload: true, ..options }).unwrap();
    assert!(left.iter().all(|name| !at(name).exists()));
    for name in others.iter().chain(&[folder, busy]) {
        assert!(at(name).exists(), "{name}");
    }
    assert!(at(link).is_symlink());
}
