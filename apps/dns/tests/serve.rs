//! The server, seen from a client on another stack.

use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use nty_epoll::TcpStream;
use ntytcp::stack::SocketError;
use ntytcp::tcp::TcpSocketOptions;

use super::{Dir, line, query};
use crate::cli::dns::Options;
use crate::dns::open;
use crate::dns::serve::{CONNECTIONS_MAX, IDLE};
use crate::run::ProgramError;
use crate::testing::{Net, runtimes, server};

/// A zone with a TXT RRset that fits no datagram.
fn big_zone() -> String {
    let txt = |i| format!("big 60 IN TXT \"{i:03} {}\"\n", "x".repeat(200));
    let head = "@ 60 IN SOA ns hostmaster 1 2 3 4 5\n@ 60 IN NS ns\nns 60 IN A 192.0.2.1\n";
    head.to_owned() + &(0..250).map(txt).collect::<String>()
}

fn options(dir: &Dir) -> Options {
    let spec = |origin: &str, file: &str| format!("{origin}={}", dir.0.join(file).display()).parse().unwrap();
    Options { zone: vec![spec("example.test", "example"), spec("big.test", "big")], ..Options::default() }
}

fn net() -> Net {
    let dir = Dir::new(&[("example", include_str!("../example.zone")), ("big", &big_zone())]);
    Net::new(|runtime| open(&options(&dir), runtime))
}

fn over_udp(net: &mut Net, request: &[u8]) -> Message {
    let mut socket = net.client.bind_udp("0.0.0.0:0".parse().unwrap(), Some(server(53))).unwrap();
    socket.send(request).unwrap();
    let mut buf = [0; 1_500];
    let got = net.until(|_| socket.recv_from(&mut buf).ok());
    assert_eq!(got.from, server(53));
    Message::from_vec(&buf[..got.len]).unwrap()
}

fn framed(request: &[u8]) -> Vec<u8> {
    [&(request.len() as u16).to_be_bytes(), request].concat()
}

/// The next `count` answers of a stream; what is behind them must not be there yet.
fn answers(net: &mut Net, stream: &mut TcpStream, count: usize) -> Vec<Message> {
    let (mut got, mut buf) = (Vec::new(), vec![0; 1 << 16]);
    net.until(|_| {
        if let Ok(read) = stream.read(&mut buf) {
            assert_ne!(read, 0, "closed");
            got.extend_from_slice(&buf[..read]);
        }
        let mut queue = crate::dns::frames(&got);
        (queue.by_ref().count() >= count && queue.consumed() == got.len()).then_some(())
    });
    crate::dns::frames(&got).map(|message| Message::from_vec(message).unwrap()).collect()
}

fn with_id(mut request: Vec<u8>, id: u16) -> Vec<u8> {
    request[..2].copy_from_slice(&id.to_be_bytes());
    request
}

#[test]
fn udp_answers_come_from_the_zone() {
    let mut net = net();
    let answer = over_udp(&mut net, &query("Mail.example.test.", RecordType::A, None));
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.metadata.authoritative);
    assert_eq!(answer.metadata.id, 0x1234);
    assert_eq!(answer.answers.iter().map(line).collect::<Vec<_>>(), ["Mail.example.test. 300 A 192.0.2.25"]);
    let answer = over_udp(&mut net, &query("nowhere.example.test.", RecordType::A, Some(1_232)));
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.authorities.len(), 1, "the SOA");
    let answer = over_udp(&mut net, &query("example.net.", RecordType::A, None));
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
}

#[test]
fn what_fits_no_datagram_is_truncated_and_comes_whole_over_tcp() {
    let mut net = net();
    let request = query("big.big.test.", RecordType::TXT, Some(1_232));
    let answer = over_udp(&mut net, &request);
    assert!(answer.metadata.truncation);
    let mut stream = net.connect(53, None);
    stream.write(&framed(&request)).unwrap();
    let [answer] = &answers(&mut net, &mut stream, 1)[..] else { panic!("more than one") };
    assert!(!answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 250);
}

#[test]
fn pipelined_queries_are_answered_in_order_however_they_are_cut() {
    let mut net = net();
    let requests: Vec<u8> = (0..300)
        .flat_map(|id| framed(&with_id(query("www.example.test.", RecordType::A, None), id)))
        .collect();
    for cut in [1, 7, 1_000, requests.len()] {
        let mut stream = net.connect(53, None);
        let mut pieces = requests.chunks(cut);
        // The first pieces one by one, the rest at once.
        for piece in pieces.by_ref().take(100) {
            stream.write(piece).unwrap();
            net.step();
        }
        pieces.for_each(|piece| assert_eq!(stream.write(piece), Ok(piece.len())));
        let got = answers(&mut net, &mut stream, 300);
        assert!(got.iter().map(|m| m.metadata.id).eq(0..300), "cut at {cut}");
        assert!(got.iter().all(|m| m.answers.len() == 2));
    }
}

#[test]
fn a_client_that_does_not_read_costs_nothing_and_gets_everything_later() {
    let mut net = net();
    let small = TcpSocketOptions { recv_buffer: 16 << 10, send_buffer: 16 << 10, ..Default::default() };
    let mut stream = net.connect(53, Some(small));
    let requests: Vec<u8> =
        (0..40).flat_map(|id| framed(&with_id(query("big.big.test.", RecordType::TXT, None), id))).collect();
    assert_eq!(stream.write(&requests), Ok(requests.len()));
    net.settle();
    let calls = net.calls;
    net.settle();
    assert!(net.calls - calls < 3, "called {} times for nothing", net.calls - calls);
    let got = answers(&mut net, &mut stream, 40);
    assert!(got.iter().map(|m| m.metadata.id).eq(0..40));
    assert!(got.iter().all(|m| m.answers.len() == 250));
}

#[test]
fn the_answers_to_a_client_that_has_half_closed_come_before_the_end() {
    let mut net = net();
    let mut stream = net.connect(53, None);
    for id in 0..2 {
        let request = with_id(query("www.example.test.", RecordType::A, None), id);
        stream.write(&framed(&request)).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(answers(&mut net, &mut stream, 2).len(), 2);
    assert_eq!(net.until(|_| stream.read(&mut [0; 8]).ok()), 0);
}

#[test]
fn what_is_no_query_closes_its_connection_only() {
    let mut net = net();
    let (mut bad, mut good) = (net.connect(53, None), net.connect(53, None));
    let request = query("www.example.test.", RecordType::A, None);
    bad.write(&[framed(&request), framed(b"short")].concat()).unwrap();
    assert_eq!(answers(&mut net, &mut bad, 1).len(), 1, "what came before is answered");
    assert_eq!(net.until(|_| bad.read(&mut [0; 8]).ok()), 0);
    good.write(&framed(&request)).unwrap();
    assert_eq!(answers(&mut net, &mut good, 1).len(), 1);
}

#[test]
fn an_idle_connection_is_closed_even_if_it_trickles() {
    let mut net = net();
    let (mut idle, mut busy) = (net.connect(53, None), net.connect(53, None));
    let request = framed(&query("www.example.test.", RecordType::A, None));
    for octet in &request[..9] {
        net.now += IDLE / 10;
        idle.write(&[*octet]).unwrap();
        busy.write(&request).unwrap();
        assert_eq!(answers(&mut net, &mut busy, 1).len(), 1);
    }
    assert_eq!(idle.read(&mut [0; 8]), Err(SocketError::WouldBlock));
    net.now += IDLE / 10;
    assert_eq!(net.until(|_| idle.read(&mut [0; 8]).ok()), 0);
    busy.write(&request).unwrap();
    assert_eq!(answers(&mut net, &mut busy, 1).len(), 1);
    net.now += IDLE - Duration::from_nanos(1);
    net.settle();
    assert_eq!(busy.read(&mut [0; 8]), Err(SocketError::WouldBlock));
    net.now += Duration::from_nanos(1);
    assert_eq!(net.until(|_| busy.read(&mut [0; 8]).ok()), 0);
}

#[test]
fn beyond_the_limit_connections_wait_until_one_ends() {
    let mut net = net();
    let mut streams: Vec<_> = (0..=CONNECTIONS_MAX).map(|_| net.connect(53, None)).collect();
    let mut last = streams.pop().unwrap();
    last.write(&framed(&query("www.example.test.", RecordType::A, None))).unwrap();
    net.settle();
    assert_eq!(last.read(&mut [0; 8]), Err(SocketError::WouldBlock));
    let calls = net.calls;
    net.settle();
    assert_eq!(net.calls, calls, "the one that waits wakes nobody");
    drop(streams.pop());
    assert_eq!(answers(&mut net, &mut last, 1).len(), 1);
}

#[test]
fn a_wrong_zone_is_one_line_with_its_place_and_opens_nothing() {
    let dir = Dir::new(&[("example", "@ 60 IN SOA ns hostmaster 1 2 3 4 5\n@ 60 IN A 1.2.3\n"), ("big", "")]);
    let (_, mut runtime) = runtimes();
    let error = open(&options(&dir), &mut runtime).err().unwrap();
    assert!(matches!(error, ProgramError::Other(_)), "{error:?}");
    let text = error.to_string();
    let place = format!("dns: {}:2: ", dir.0.join("example").display());
    assert!(text.starts_with(&place) && !text.contains('\n'), "{text}");
    assert!(runtime.bind_udp("0.0.0.0:53".parse().unwrap(), None).is_ok());
}
