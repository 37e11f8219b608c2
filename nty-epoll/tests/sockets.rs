//! Sockets and epoll over two stacks that a link in memory joins, in one thread and in virtual time.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod net;

use net::{Net, SERVER, collect, listen_options, server};
use nty_epoll::{Epoll, Event, Events, Runtime, TcpStream};
use ntytcp::rng::seed_from;
use ntytcp::shard::{IdlePolicy, Shard};
use ntytcp::stack::{SocketError, Stack, StackConfig};
use ntytcp::time::{Clock, Duration, Instant};
use std::collections::HashMap;
use std::io::Write as _;
use std::net::Shutdown;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};

/// A client's stream and the server's, connected.
fn connected(net: &mut Net) -> (TcpStream, TcpStream) {
    let listener = net.b.listen(server(7), listen_options(16)).unwrap();
    let client = net.a.connect(None, server(7), None).unwrap();
    net.settle();
    let (stream, _) = listener.accept().unwrap();
    assert!(client.is_established());
    (client, stream)
}

/// What an epoll says of one stream after everything has settled.
fn report(net: &mut Net, epoll: &Epoll) -> Events {
    net.settle();
    let mut out = [Event::default(); 4];
    let n = epoll.wait(&mut out, 0).unwrap();
    assert!(n <= 1);
    if n == 0 { Events::empty() } else { out[0].events }
}

const ALL: Events = Events::IN.union(Events::OUT).union(Events::RDHUP);

#[test]
fn connect_is_silent_until_established_and_then_writable() {
    let mut net = Net::new();
    let listener = net.b.listen(server(7), listen_options(16)).unwrap();
    let epoll = Epoll::new().unwrap();
    let mut client = net.a.connect(None, server(7), None).unwrap();
    epoll.add(&client, ALL, 1).unwrap();
    let mut out = [Event::default(); 4];
    assert_eq!(epoll.wait(&mut out, 0), Ok(0));
    assert_eq!(client.write(b"early"), Err(SocketError::WouldBlock));
    assert_eq!(client.read(&mut [0; 8]), Err(SocketError::WouldBlock));
    assert_eq!(client.shutdown(Shutdown::Write), Err(SocketError::NotConnected));
    assert_eq!(report(&mut net, &epoll), Events::OUT);
    let (stream, peer) = listener.accept().unwrap();
    assert_eq!(peer, client.local_addr());
    assert_eq!(stream.peer_addr(), peer);
    assert_eq!(stream.local_addr(), client.peer_addr());
    assert_eq!(listener.accept().unwrap_err(), SocketError::WouldBlock);
}

#[test]
fn connections_that_nobody_accepted_are_reset_with_their_listener() {
    let mut net = Net::new();
    let listener = net.b.listen(server(7), listen_options(16)).unwrap();
    let mut clients: Vec<_> = (0..3).map(|_| net.a.connect(None, server(7), None).unwrap()).collect();
    net.settle();
    assert!(clients.iter().all(TcpStream::is_established));
    drop(listener);
    net.settle();
    for client in &mut clients {
        assert_eq!(client.read(&mut [0; 8]), Err(SocketError::ConnectionReset));
    }
}

#[test]
fn edges_come_once_and_levels_stay() {
    let mut net = Net::new();
    let (mut client, mut stream) = connected(&mut net);
    let (level, edge) = (Epoll::new().unwrap(), Epoll::new().unwrap());
    level.add(&stream, Events::IN, 1).unwrap();
    edge.add(&stream, Events::IN | Events::ET, 1).unwrap();
    for _ in 0..3 {
        client.write(b"ab").unwrap();
        assert_eq!(report(&mut net, &edge), Events::IN, "each arrival is an edge");
        assert_eq!(report(&mut net, &edge), Events::empty());
        assert_eq!(report(&mut net, &level), Events::IN);
        assert_eq!(report(&mut net, &level), Events::IN);
    }
    let mut buf = [0; 16];
    assert_eq!(stream.read(&mut buf[..4]), Ok(4));
    assert_eq!(report(&mut net, &level), Events::IN, "two bytes are left");
    assert_eq!(stream.read(&mut buf), Ok(2));
    assert_eq!(report(&mut net, &level), Events::empty());
    assert_eq!(stream.read(&mut buf), Err(SocketError::WouldBlock));
}

#[test]
fn a_stream_is_not_writable_without_pages_and_says_when_there_are_some() {
    let mut net = Net::with_pages(1);
    let (mut idle, mut busy) = connected(&mut net);
    let listener = net.b.listen(server(8), listen_options(16)).unwrap();
    let mut client = net.a.connect(None, server(8), None).unwrap();
    net.settle();
    let _stream = listener.accept().unwrap();
    let epoll = Epoll::new().unwrap();
    epoll.add(&client, Events::OUT, 1).unwrap();
    assert_eq!(report(&mut net, &epoll), Events::OUT);
    // The only page holds what nobody reads.
    busy.write(b"x").unwrap();
    net.settle();
    assert_eq!(client.write(b"y"), Err(SocketError::WouldBlock));
    assert_eq!(client.writable(), 0);
    assert_eq!(report(&mut net, &epoll), Events::empty());
    assert_eq!(report(&mut net, &epoll), Events::empty());
    assert_eq!(idle.read(&mut [0; 8]), Ok(1));
    assert_eq!(report(&mut net, &epoll), Events::OUT);
    assert_eq!(client.write(b"y"), Ok(1));
}

#[test]
fn a_datagram_socket_is_not_writable_without_pages_and_says_when_there_are_some() {
    let mut net = Net::with_pages(1);
    let (mut idle, mut busy) = connected(&mut net);
    let mut client = net.a.bind_udp("0.0.0.0:0".parse().unwrap(), Some(server(9))).unwrap();
    let epoll = Epoll::new().unwrap();
    epoll.add(&client, Events::OUT, 1).unwrap();
    busy.write(b"x").unwrap();
    net.settle();
    for payload in [&b""[..], b"y"] {
        assert_eq!(client.send(payload), Err(SocketError::WouldBlock));
        assert_eq!(report(&mut net, &epoll), Events::empty());
    }
    assert_eq!(idle.read(&mut [0; 8]), Ok(1));
    assert_eq!(report(&mut net, &epoll), Events::OUT);
    assert_eq!(client.send(b"y"), Ok(()));
}

#[test]
fn data_that_came_before_add_is_reported() {
    let mut net = Net::new();
    let (mut client, stream) = connected(&mut net);
    client.write(b"x").unwrap();
    net.settle();
    let epoll = Epoll::new().unwrap();
    epoll.add(&stream, Events::IN | Events::ET, 1).unwrap();
    assert_eq!(report(&mut net, &epoll), Events::IN);
}

#[test]
fn data_that_came_before_accept_is_reported() {
    let mut net = Net::new();
    let listener = net.b.listen(server(7), listen_options(16)).unwrap();
    let mut client = net.a.connect(None, server(7), None).unwrap();
    net.settle();
    client.write(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    net.settle();
    let (mut stream, _) = listener.accept().unwrap();
    let epoll = Epoll::new().unwrap();
    epoll.add(&stream, ALL | Events::ET, 1).unwrap();
    assert_eq!(report(&mut net, &epoll), Events::IN | Events::OUT | Events::RDHUP);
    let mut buf = [0; 8];
    assert_eq!(stream.read(&mut buf), Ok(5));
    assert_eq!(stream.read(&mut buf), Ok(0));
    assert_eq!(stream.read(&mut buf), Ok(0));
}

#[test]
fn a_half_closed_stream_is_still_written_and_hangs_up_when_both_are() {
    let mut net = Net::new();
    let (mut client, mut stream) = connected(&mut net);
    let epoll = Epoll::new().unwrap();
    epoll.add(&stream, ALL, 1).unwrap();
    assert_eq!(report(&mut net, &epoll), Events::OUT);
    client.write(b"bye").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.write(b"more"), Err(SocketError::BrokenPipe));
    assert_eq!(report(&mut net, &epoll), Events::IN | Events::OUT | Events::RDHUP);
    let mut buf = [0; 8];
    assert_eq!(stream.read(&mut buf), Ok(3));
    assert_eq!(stream.read(&mut buf), Ok(0));
    assert_eq!(report(&mut net, &epoll), Events::IN | Events::OUT | Events::RDHUP, "the end stays readable");
    // The other direction is open.
    stream.write(b"answer").unwrap();
    net.settle();
    assert_eq!(client.read(&mut buf), Ok(6));
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(report(&mut net, &epoll), ALL | Events::HUP);
    assert_eq!(client.read(&mut buf), Ok(0));
}

#[test]
fn a_reset_is_an_error_once_and_then_the_end() {
    let mut net = Net::new();
    let (client, mut stream) = connected(&mut net);
    let epoll = Epoll::new().unwrap();
    epoll.add(&stream, Events::IN | Events::ET, 1).unwrap();
    client.abort();
    assert_eq!(report(&mut net, &epoll), Events::IN | Events::ERR | Events::HUP);
    let mut buf = [0; 8];
    assert_eq!(stream.read(&mut buf), Err(SocketError::ConnectionReset));
    assert_eq!(stream.read(&mut buf), Ok(0));
    assert_eq!(stream.write(b"x"), Err(SocketError::BrokenPipe));
    assert_eq!(stream.take_error(), None);
}

#[test]
fn closing_with_unread_data_resets_the_peer() {
    let mut net = Net::new();
    let (mut client, stream) = connected(&mut net);
    client.write(b"nobody reads this").unwrap();
    net.settle();
    drop(stream);
    net.settle();
    assert_eq!(client.take_error(), Some(SocketError::ConnectionReset));
    assert_eq!(client.write(b"x"), Err(SocketError::BrokenPipe));
}

#[test]
fn a_refused_connection_reports_everything_and_the_error() {
    let mut net = Net::new();
    let client = net.a.connect(None, server(9), None).unwrap();
    let epoll = Epoll::new().unwrap();
    epoll.add(&client, ALL, 1).unwrap();
    assert_eq!(report(&mut net, &epoll), ALL | Events::ERR | Events::HUP);
    assert_eq!(client.take_error(), Some(SocketError::ConnectionRefused));
    assert_eq!(client.take_error(), None);
    assert_eq!(report(&mut net, &epoll), ALL | Events::HUP);
    assert!(!client.is_established());
}

#[test]
fn room_is_an_edge_only_after_a_write_fell_short() {
    let mut net = Net::new();
    let (mut client, mut stream) = connected(&mut net);
    let epoll = Epoll::new().unwrap();
    epoll.add(&client, Events::OUT | Events::ET, 1).unwrap();
    assert_eq!(report(&mut net, &epoll), Events::OUT);
    client.write(b"acknowledged, but nobody asked for room").unwrap();
    assert_eq!(report(&mut net, &epoll), Events::empty());
    // Fills our buffer and the peer's.
    let block = [7; 65_536];
    let mut sent = 39;
    let mut calm = 0;
    while calm < 3 {
        match client.write(&block) {
            Ok(n) => (sent, calm) = (sent + n, 0),
            Err(e) => calm += u32::from(e == SocketError::WouldBlock),
        }
        net.settle();
    }
    assert_eq!(client.writable(), 0);
    let mut out = [Event::default(); 1];
    epoll.wait(&mut out, 0).unwrap();
    assert_eq!(report(&mut net, &epoll), Events::empty());
    let mut buf = vec![0; 1 << 20];
    let mut read = stream.read(&mut buf).unwrap();
    assert_eq!(report(&mut net, &epoll), Events::OUT);
    while let Ok(n) = stream.read(&mut buf) {
        read += n;
        net.settle();
    }
    assert_eq!(read, sent);
}

#[test]
fn a_thousand_connections_echo_with_both_triggers() {
    const CLIENTS: u64 = 1_000;
    for mode in [Events::empty(), Events::ET] {
        let mut net = Net::new();
        let listener = net.b.listen(server(7), listen_options(2_000)).unwrap();
        let (here, there) = (Epoll::new().unwrap(), Epoll::new().unwrap());
        there.add(&listener, Events::IN | mode, u64::MAX).unwrap();
        let mut clients: Vec<_> =
            (0..CLIENTS).map(|_| net.a.connect(None, server(7), None).unwrap()).collect();
        for (i, client) in clients.iter().enumerate() {
            here.add(client, ALL | mode, i as u64).unwrap();
        }
        let mut streams: HashMap<u64, TcpStream> = HashMap::new();
        let (mut sent, mut echoed) = (vec![false; clients.len()], 0);
        for _ in 0..10_000 {
            net.step();
            for event in collect(&there, 100) {
                if event.data == u64::MAX {
                    while let Ok((stream, _)) = listener.accept() {
                        let id = streams.len() as u64;
                        there.add(&stream, ALL | mode, id).unwrap();
                        streams.insert(id, stream);
                    }
                } else if event.events.contains(Events::IN) {
                    let stream = streams.get_mut(&event.data).unwrap();
                    let mut buf = [0; 64];
                    while let Ok(n @ 1..) = stream.read(&mut buf) {
                        assert_eq!(stream.write(&buf[..n]), Ok(n));
                    }
                }
            }
            for event in collect(&here, 100) {
                let i = event.data as usize;
                if event.events.contains(Events::OUT) && !sent[i] {
                    sent[i] = true;
                    assert_eq!(clients[i].write(&event.data.to_be_bytes()), Ok(8));
                }
                let mut buf = [0; 64];
                if let Ok(n) = clients[i].read(&mut buf) {
                    assert_eq!(buf[..n], event.data.to_be_bytes());
                    here.delete(&clients[i]).unwrap();
                    echoed += 1;
                }
            }
            if echoed == CLIENTS {
                break;
            }
        }
        assert_eq!(echoed, CLIENTS, "{mode:?}");
        drop((clients, streams, listener));
        net.settle();
        assert_eq!(collect(&there, 10), [], "what was dropped has left the epoll");
    }
}

#[test]
fn a_full_backlog_takes_no_more_until_someone_accepts() {
    let mut net = Net::new();
    let listener = net.b.listen(server(7), listen_options(2)).unwrap();
    let clients: Vec<_> = (0..10).map(|_| net.a.connect(None, server(7), None).unwrap()).collect();
    net.settle();
    let established = |clients: &[TcpStream]| clients.iter().filter(|c| c.is_established()).count();
    let first = established(&clients);
    assert!((2..10).contains(&first), "{first}");
    let mut accepted = Vec::new();
    for _ in 0..200 {
        accepted.extend(listener.accept().map(|(s, _)| s));
        net.sleep_until_next_timer();
    }
    assert_eq!(accepted.len(), 10);
    assert_eq!(established(&clients), 10);
}

#[test]
fn datagrams_go_both_ways_and_a_closed_port_is_an_error() {
    let mut net = Net::new();
    let mut service = net.b.bind_udp(server(53), None).unwrap();
    let mut client = net.a.bind_udp("0.0.0.0:0".parse().unwrap(), Some(server(53))).unwrap();
    let epoll = Epoll::new().unwrap();
    epoll.add(&service, Events::IN, 1).unwrap();
    assert_eq!(report(&mut net, &epoll), Events::empty());
    client.send(b"question").unwrap();
    assert_eq!(report(&mut net, &epoll), Events::IN);
    let mut buf = [0; 64];
    let got = service.recv_from(&mut buf).unwrap();
    assert_eq!((&buf[..got.len], got.from, got.to), (&b"question"[..], client.local_addr(), SERVER));
    assert_eq!(report(&mut net, &epoll), Events::empty());
    assert_eq!(service.recv_from(&mut buf), Err(SocketError::WouldBlock));
    service.send_to(b"answer", got.from).unwrap();
    drop(service);
    net.settle();
    assert_eq!(
        client.recv_from(&mut buf).map(|r| r.len),
        Ok(6),
        "the last datagram leaves before the socket closes"
    );
    epoll.add(&client, Events::IN | Events::ET, 2).unwrap();
    client.send(b"anyone there?").unwrap();
    assert_eq!(report(&mut net, &epoll), Events::IN | Events::ERR);
    assert_eq!(client.recv_from(&mut buf), Err(SocketError::ConnectionRefused));
    assert_eq!(client.recv_from(&mut buf), Err(SocketError::WouldBlock));
}

#[test]
fn sockets_outlive_their_runtime_as_failures() {
    let mut net = Net::new();
    let (mut client, stream) = connected(&mut net);
    let epoll = Epoll::new().unwrap();
    epoll.add(&client, ALL, 1).unwrap();
    let handle = net.a.handle();
    let Net { a, .. } = net;
    drop(a);
    let mut out = [Event::default(); 1];
    assert_eq!(epoll.wait(&mut out, 0), Ok(1));
    assert_eq!(out[0].events, ALL | Events::ERR | Events::HUP);
    assert_eq!(client.read(&mut [0; 8]), Err(SocketError::ConnectionAborted));
    assert_eq!(handle.connect(None, server(7), None).unwrap_err(), SocketError::BadSocket);
    drop((client, stream));
}

/// Goes on by a minute each time that it is read.
#[derive(Default)]
struct Stepping(AtomicU64);

impl Clock for Stepping {
    fn now(&self) -> Instant {
        Instant::from_millis(60_000 * self.0.fetch_add(1, Ordering::Relaxed))
    }
}

#[test]
fn a_wait_lasts_as_long_as_the_clock_of_the_shard_says() {
    let stack = Stack::new(StackConfig::default(), seed_from(1)).unwrap();
    let shard = Shard::new(stack, Stepping::default(), IdlePolicy::BUSY_POLL);
    let mut runtime = Runtime::new(shard).unwrap();
    let epoll = Epoll::new().unwrap();
    let hour = Some(Duration::from_secs(3_600));
    assert_eq!(runtime.wait(&epoll, &mut [Event::default()], hour).unwrap(), 0);
    assert!(runtime.shard().now() >= Instant::from_millis(3_600_000));
}

#[test]
fn descriptor_of_the_kernel_has_its_turn_beside_a_socket_that_always_has_something() {
    let mut net = Net::new();
    let (client, _server) = connected(&mut net);
    let epoll = Epoll::new().unwrap();
    epoll.add(&client, Events::OUT, 1).unwrap();
    let (mut a, b) = UnixStream::pair().unwrap();
    epoll.add_fd(b.as_raw_fd(), Events::IN, 2).unwrap();
    a.write_all(b"x").unwrap();
    let mut out = [Event::default(); 2];
    for room in [1, 2] {
        let mut seen = [0; 3];
        for _ in 0..64 {
            let n = net.a.wait(&epoll, &mut out[..room], None).unwrap();
            out[..n].iter().for_each(|event| seen[event.data as usize] += 1);
        }
        assert!(seen[1] >= 32 && seen[2] >= 2, "{room}: {seen:?}");
    }
    // Nobody calls again soon after a wait that is none.
    epoll.delete(&client).unwrap();
    for _ in 0..20 {
        assert_eq!(net.a.wait(&epoll, &mut out, Some(Duration::ZERO)).unwrap(), 1);
    }
}
