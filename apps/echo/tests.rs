//! The echo server, seen from a client on another stack.

use super::{Mode, Options, Transport, open};
use crate::run::ProgramError;
use crate::testing::{Net, runtimes, server};
use crate::values::Port;
use nty_epoll::TcpStream;
use ntytcp::stack::SocketError;
use ntytcp::tcp::TcpSocketOptions;
use std::net::Shutdown;

const TOTAL: usize = 1 << 20;

fn options(mode: Mode) -> Options {
    Options { mode, ..Options::default() }
}

/// Octets that tell their places.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Writes all of `data` from `*sent` on for which there is room.
fn push(stream: &mut TcpStream, data: &[u8], sent: &mut usize) {
    while let Ok(written @ 1..) = stream.write(&data[*sent..]) {
        *sent += written;
    }
}

/// Reads until the end of the stream.
fn rest(net: &mut Net, stream: &mut TcpStream, block: usize, got: &mut Vec<u8>) {
    let mut buf = vec![0; block];
    net.until(|_| match stream.read(&mut buf) {
        Ok(0) => Some(()),
        Err(SocketError::WouldBlock) => None,
        read => {
            got.extend_from_slice(&buf[..read.unwrap()]);
            None
        }
    });
}

#[test]
fn a_megabyte_comes_back_through_a_reader_that_is_late_and_slow() {
    // All buffers together hold less than is sent, so everybody has to wait for the reader.
    let small = TcpSocketOptions { recv_buffer: 16 << 10, send_buffer: 16 << 10, ..Default::default() };
    for mode in [Mode::Lt, Mode::Et] {
        let mut net = Net::new(|runtime| open(&options(mode), runtime));
        let mut stream = net.connect(7, Some(small));
        let (data, mut sent, mut got) = (pattern(TOTAL), 0, Vec::new());
        for _ in 0..3 {
            // Nothing is read: the client must be stopped, and the server must then be at rest.
            let start = net.client.shard().now();
            net.until(|client| {
                push(&mut stream, &data, &mut sent);
                (client.shard().now().since(start).as_millis() > 100).then_some(())
            });
        }
        assert!((TOTAL / 4..TOTAL).contains(&sent), "{mode:?}: {sent}");
        let calls = net.calls;
        net.settle();
        assert!(net.calls - calls < 3, "{mode:?}: called {} times for nothing", net.calls - calls);
        let mut buf = [0; 1_000];
        while sent < TOTAL {
            net.step();
            if let Ok(read) = stream.read(&mut buf) {
                got.extend_from_slice(&buf[..read]);
            }
            push(&mut stream, &data, &mut sent);
        }
        stream.shutdown(Shutdown::Write).unwrap();
        rest(&mut net, &mut stream, 1_000, &mut got);
        assert!(got == data, "{mode:?}: {} octets", got.len());
    }
}

#[test]
fn everything_sent_before_the_half_close_comes_back_before_the_end() {
    for mode in [Mode::Lt, Mode::Et] {
        let mut net = Net::new(|runtime| open(&options(mode), runtime));
        let mut stream = net.connect(7, None);
        let data = pattern(200_000);
        // The FIN is there before the server has read anything.
        assert_eq!(stream.write(&data), Ok(data.len()));
        stream.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        rest(&mut net, &mut stream, 1 << 16, &mut got);
        assert!(got == data, "{mode:?}: {} octets", got.len());
        assert_eq!(stream.take_error(), None);
    }
}

#[test]
fn a_reset_of_one_connection_leaves_the_others() {
    for mode in [Mode::Lt, Mode::Et] {
        let mut net = Net::new(|runtime| open(&options(mode), runtime));
        let mut streams: Vec<_> = (0..10).map(|_| net.connect(7, None)).collect();
        for (i, stream) in streams.iter_mut().enumerate() {
            stream.write(&[i as u8; 100]).unwrap();
        }
        streams.drain(..).step_by(2).for_each(TcpStream::abort);
        let mut stream = net.connect(7, None);
        stream.write(b"still there?").unwrap();
        let mut buf = [0; 64];
        let read = net.until(|_| stream.read(&mut buf).ok());
        assert_eq!(&buf[..read], b"still there?", "{mode:?}");
    }
}

#[test]
fn datagrams_come_back_but_not_to_another_echo_server() {
    let mut net = Net::new(|runtime| open(&options(Mode::Lt), runtime));
    let mut socket = net.client.bind_udp("0.0.0.0:0".parse().unwrap(), Some(server(7))).unwrap();
    let mut buf = [0; 4_000];
    // The last one comes in fragments.
    for len in [0, 1, 1_400, 3_000] {
        socket.send(&pattern(len)).unwrap();
        let got = net.until(|_| socket.recv_from(&mut buf).ok());
        assert_eq!(buf[..got.len], pattern(len));
    }
    let mut forged = net.client.bind_udp("0.0.0.0:7".parse().unwrap(), Some(server(7))).unwrap();
    forged.send(b"ping").unwrap();
    net.settle();
    assert_eq!(forged.recv_from(&mut buf), Err(SocketError::WouldBlock));
}

#[test]
fn a_transport_that_is_not_asked_for_is_not_opened() {
    let udp_only = Options { transport: Transport::Udp, ..Options::default() };
    let mut net = Net::new(|runtime| open(&udp_only, runtime));
    let stream = net.client.connect(None, server(7), None).unwrap();
    let error = net.until(|_| stream.take_error());
    assert_eq!(error, SocketError::ConnectionRefused);
}

#[test]
fn a_port_in_use_is_one_line_with_the_remedy() {
    let (_, mut runtime) = runtimes();
    let first = open(&Options::default(), &mut runtime).unwrap();
    let error = open(&Options::default(), &mut runtime).err().unwrap();
    assert!(matches!(error, ProgramError::Port { port: 7, transport: "TCP", .. }), "{error:?}");
    assert_eq!(error.to_string(), "echo: cannot use TCP port 7: address in use (choose another with --port)");
    // What failed to open has left nothing behind.
    assert!(open(&Options { port: Port::new(8), ..Options::default() }, &mut runtime).is_ok());
    drop(first);
    runtime.turn().unwrap();
    assert!(open(&Options::default(), &mut runtime).is_ok());
}
