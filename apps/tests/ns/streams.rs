//! TCP against kernel sockets: many at once, slow ones, and ends in every order.

use crate::world::{Nty, PATIENCE, connect, in_namespace, noise};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

const PARALLEL: usize = 1_000;
const THREADS: usize = 8;

/// Opens [`PARALLEL`] connections, holds all of them open at once, then lets `talk` use each, from several threads; it is given
/// the number of its connection.
pub(crate) fn in_parallel(port: u16, nty: &Nty, talk: impl Fn(u64, TcpStream) + Sync) {
    let (all_open, checked) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
    thread::scope(|scope| {
        for t in 0..THREADS {
            let (all_open, checked, talk) = (&all_open, &checked, &talk);
            scope.spawn(move || {
                let open = |n| (n as u64, connect(port));
                let streams: Vec<_> = (t..PARALLEL).step_by(THREADS).map(open).collect();
                all_open.wait();
                checked.wait();
                streams.into_iter().for_each(|(n, stream)| talk(n, stream));
            });
        }
        all_open.wait();
        nty.wait_for("tcp-connections", |n| n == PARALLEL as u64);
        checked.wait();
    });
}

/// [`PARALLEL`] connections to an echo server, each with bytes of its own, until all are closed.
pub(crate) fn echo_in_parallel(nty: &Nty) {
    in_parallel(7, nty, |n, mut stream| {
        let sent = noise(n, 5_000 + n as usize);
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert!(got == sent, "connection {n}: {} of {} bytes", got.len(), sent.len());
    });
    nty.wait_for("tcp-connections", |n| n == 0);
}

#[test]
fn thousand_parallel_echo_connections_are_byte_exact() {
    in_namespace(|| {
        for mode in ["lt", "et"] {
            let nty = Nty::serve(&["echo", "--mode", mode]);
            echo_in_parallel(&nty);
            let counters = nty.stop();
            assert_eq!(counters.get("tcp-passive-opens"), PARALLEL as u64);
            assert_eq!((counters.get("tcp-resets"), counters.get("tcp-rst-tx")), (0, 0));
        }
    });
}

/// Writes until nothing was taken for a second; how much was.
fn fill(stream: &mut TcpStream, data: &[u8]) -> usize {
    stream.set_nonblocking(true).unwrap();
    let (mut sent, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_secs(1) {
        match stream.write(&data[sent..]) {
            Ok(n) => (sent, since) = (sent + n, Instant::now()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(10)),
            Err(e) => panic!("after {sent} bytes: {e}"),
        }
    }
    stream.set_nonblocking(false).unwrap();
    sent
}

/// Reads to the end and compares, a little at a time and with pauses for the first megabyte.
pub(crate) fn read_slowly(stream: &mut impl Read, expected: &[u8]) {
    let (mut got, mut buf) = (0, vec![0; 64 << 10]);
    loop {
        let n = stream.read(&mut buf).unwrap();
        if n == 0 {
            break;
        }
        assert!(expected.get(got..got + n) == Some(&buf[..n]), "wrong bytes behind {got}");
        got += n;
        if got < 1 << 20 {
            thread::sleep(Duration::from_millis(20));
        }
    }
    assert_eq!(got, expected.len());
}

#[test]
fn windows_of_both_sides_close_and_open_again() {
    in_namespace(|| {
        let nty = Nty::serve(&["echo"]);
        let sent = noise(1, 48 << 20);
        let mut stream = connect(7);
        // Nobody reads: the kernel's window closes first, then the echo stops reading and ours does.
        let taken = fill(&mut stream, &sent);
        assert!(taken < sent.len(), "the echo took {taken} bytes that nobody read");
        nty.wait_for("tcp-probes", |n| n >= 2);
        let mut writer = stream.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                writer.write_all(&sent[taken..]).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            read_slowly(&mut stream, &sent);
        });
        drop((stream, writer));
        nty.wait_for("tcp-connections", |n| n == 0);
        assert_eq!(nty.stop().get("tcp-resets"), 0);
    });
}

#[test]
fn closed_tcp_port_refuses() {
    in_namespace(|| {
        let nty = Nty::serve(&["echo"]);
        let error = TcpStream::connect_timeout(&"10.0.0.2:8".parse().unwrap(), PATIENCE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(nty.stop().get("tcp-rst-tx"), 1);
    });
}

#[test]
fn netcat_gets_its_line_back() {
    in_namespace(|| {
        let nty = Nty::serve(&["echo"]);
        let said = crate::world::run("sh", &["-c", "echo hello, stack | nc -N -w 5 10.0.0.2 7"]);
        assert_eq!(said, "hello, stack\n");
        nty.stop();
    });
}
