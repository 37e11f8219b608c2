//! The threaded placement: shards on one thread, applications on others.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod net;

use net::{Net, listen_options, server};
use nty_epoll::{Epoll, Event, Events, RuntimeHandle, TcpStream};
use ntytcp::stack::SocketError;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Nothing here takes this long: a wait that does has lost a wake-up.
const LIMIT: Option<Duration> = Some(Duration::from_secs(30));

/// Turns both runtimes on a thread of its own while `app` runs on this one.
fn beside_the_shards(app: impl FnOnce(&RuntimeHandle, &RuntimeHandle)) {
    let stop = AtomicBool::new(false);
    let (handles, got) = std::sync::mpsc::channel();
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut net = Net::in_real_time();
            handles.send((net.a.handle(), net.b.handle())).unwrap();
            while !stop.load(Ordering::Acquire) {
                if net.a.turn().unwrap().received + net.b.turn().unwrap().received == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let (a, b) = got.recv().unwrap();
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| app(&a, &b)));
        stop.store(true, Ordering::Release);
        ended.unwrap();
    });
}

fn wait_for(epoll: &Epoll) -> Events {
    let mut out = [Event::default(); 1];
    assert_eq!(epoll.wait_for(&mut out, LIMIT), Ok(1), "no event came");
    out[0].events
}

/// Echoes one stream until its end.
fn echo(mut stream: TcpStream, mode: Events) {
    let epoll = Epoll::new().unwrap();
    epoll.add(&stream, Events::IN | mode, 0).unwrap();
    let writing = Epoll::new().unwrap();
    writing.add(&stream, Events::OUT | mode, 0).unwrap();
    let mut buf = vec![0; 30_000];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => write_all(&mut stream, &writing, &buf[..n]),
            Err(SocketError::WouldBlock) => drop(wait_for(&epoll)),
            Err(error) => panic!("{error}"),
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

fn write_all(stream: &mut TcpStream, epoll: &Epoll, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(SocketError::WouldBlock) => drop(wait_for(epoll)),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn ten_megabytes_come_back_unchanged() {
    const TOTAL: usize = 10 << 20;
    for mode in [Events::empty(), Events::ET] {
        beside_the_shards(|a, b| {
            let listener = b.listen(server(7), listen_options(16)).unwrap();
            std::thread::scope(|s| {
                s.spawn(|| {
                    let epoll = Epoll::new().unwrap();
                    epoll.add(&listener, Events::IN, 0).unwrap();
                    wait_for(&epoll);
                    echo(listener.accept().unwrap().0, mode);
                });
                let mut client = a.connect(None, server(7), None).unwrap();
                let epoll = Epoll::new().unwrap();
                epoll.add(&client, Events::IN | Events::OUT | mode, 0).unwrap();
                let pattern = |i: usize| (i * 31 + i / 251) as u8;
                let (mut sent, mut received) = (0, 0);
                let mut buf = vec![0; 40_000];
                while received < TOTAL {
                    let before = (sent, received);
                    while sent < TOTAL {
                        let chunk: Vec<u8> = (sent..TOTAL.min(sent + 10_000)).map(pattern).collect();
                        let Ok(n) = client.write(&chunk) else { break };
                        sent += n;
                    }
                    while let Ok(n @ 1..) = client.read(&mut buf) {
                        assert!(buf[..n].iter().enumerate().all(|(i, &byte)| byte == pattern(received + i)));
                        received += n;
                    }
                    if (sent, received) == before {
                        wait_for(&epoll);
                    }
                }
                client.shutdown(Shutdown::Write).unwrap();
            });
        });
    }
}

#[test]
fn no_wake_up_is_lost_in_ping_pong() {
    beside_the_shards(|a, b| {
        let listener = b.listen(server(7), listen_options(16)).unwrap();
        std::thread::scope(|s| {
            s.spawn(|| {
                let epoll = Epoll::new().unwrap();
                epoll.add(&listener, Events::IN | Events::ET, 0).unwrap();
                wait_for(&epoll);
                echo(listener.accept().unwrap().0, Events::ET);
            });
            let mut client = a.connect(None, server(7), None).unwrap();
            client.set_nodelay(true);
            let epoll = Epoll::new().unwrap();
            epoll.add(&client, Events::OUT | Events::ONESHOT, 0).unwrap();
            wait_for(&epoll);
            for round in 0..3_000u32 {
                assert_eq!(client.write(&round.to_be_bytes()), Ok(4));
                epoll.modify(&client, Events::IN | Events::ONESHOT, 0).unwrap();
                let mut buf = [0; 8];
                while let Err(error) = client.read(&mut buf) {
                    assert_eq!(error, SocketError::WouldBlock);
                    epoll.modify(&client, Events::IN | Events::ONESHOT, 0).unwrap();
                    wait_for(&epoll);
                }
                assert_eq!(buf[..4], round.to_be_bytes());
            }
        });
    });
}

#[test]
fn errors_of_calls_from_other_threads_are_those_of_the_stack() {
    beside_the_shards(|a, b| {
        let first = b.listen(server(7), listen_options(16)).unwrap();
        assert_eq!(b.listen(server(7), listen_options(16)).unwrap_err(), SocketError::AddressInUse);
        drop(first);
        // The drop is a command too; it comes before any later one.
        b.listen(server(7), listen_options(16)).unwrap();
        let elsewhere = "192.0.2.9:7".parse().unwrap();
        assert_eq!(a.listen(elsewhere, listen_options(1)).unwrap_err(), SocketError::AddressNotAvailable);
        assert_eq!(a.with_stack(|_| Ok(7)), Ok(7));
    });
}

#[test]
fn a_runtime_that_sleeps_is_woken_by_commands_and_by_stop() {
    let (handles, got) = std::sync::mpsc::channel();
    let shard = std::thread::spawn(move || {
        // Nobody is at the other end of the link: all that ever happens are commands.
        let Net { a: mut lonely, .. } = Net::in_real_time();
        handles.send(lonely.handle()).unwrap();
        lonely.run().unwrap();
    });
    let handle = got.recv().unwrap();
    for _ in 0..200 {
        // Long enough for the shard to fall asleep now and then, by its own clock.
        std::thread::yield_now();
        let socket = handle.bind_udp("0.0.0.0:0".parse().unwrap(), None).unwrap();
        assert_ne!(socket.local_addr().port(), 0);
    }
    handle.stop();
    shard.join().unwrap();
    assert_eq!(handle.with_stack(|_| Ok(())), Err(SocketError::BadSocket));
}

/// Run to completion: one thread owns a runtime and waits through it, the other side echoes on a thread of its own.
#[test]
fn an_application_on_the_shards_thread_waits_through_the_runtime() {
    let Net { mut a, mut b, .. } = Net::in_real_time();
    let (answers, wanted) = std::sync::mpsc::channel();
    std::thread::scope(|s| {
        let handle = b.handle();
        s.spawn(move || {
            let listener = b.listen(server(7), listen_options(1)).unwrap();
            answers.send(()).unwrap();
            let epoll = Epoll::new().unwrap();
            epoll.add(&listener, Events::IN, 0).unwrap();
            let mut out = [Event::default(); 1];
            assert_eq!(b.wait(&epoll, &mut out, LIMIT).unwrap(), 1);
            let (mut stream, _) = listener.accept().unwrap();
            epoll.add(&stream, Events::IN | Events::ET, 1).unwrap();
            let mut buf = [0; 64];
            while b.wait(&epoll, &mut out, LIMIT).unwrap() == 1 {
                match stream.read(&mut buf) {
                    Ok(0) => break,
                    Ok(n) => assert_eq!(stream.write(&buf[..n]), Ok(n)),
                    Err(error) => assert_eq!(error, SocketError::WouldBlock),
                }
            }
            drop((stream, listener));
            b.run().unwrap();
        });
        wanted.recv().unwrap();
        let mut client = a.connect(None, server(7), None).unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(&client, Events::OUT | Events::ET, 0).unwrap();
        let mut out = [Event::default(); 1];
        assert_eq!(a.wait(&epoll, &mut out, LIMIT).unwrap(), 1);
        epoll.modify(&client, Events::IN, 0).unwrap();
        for round in 0..500u32 {
            assert_eq!(client.write(&round.to_be_bytes()), Ok(4));
            assert_eq!(a.wait(&epoll, &mut out, LIMIT).unwrap(), 1);
            let mut buf = [0; 8];
            assert_eq!(client.read(&mut buf), Ok(4));
            assert_eq!(buf[..4], round.to_be_bytes());
        }
        assert_eq!(a.wait(&epoll, &mut out, Some(Duration::from_millis(1))).unwrap(), 0, "nothing is left");
        drop(client);
        a.turn().unwrap();
        handle.stop();
    });
}
