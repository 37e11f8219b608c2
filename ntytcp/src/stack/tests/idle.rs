//! Payload memory: who keeps pages, for how long, and who must give way. TCP's part is in `tests/tcp_scripts/pages.rs`.

use super::kit::*;
use crate::counters::DropReason;
use crate::stack::SocketError;
use crate::time::Duration;

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_socket_keeps_its_pages_in_a_conversation_and_gives_them_back_in_silence() {
    let mut host = Host::acquainted();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    for _ in 0..100 {
        host.receive(&udp_to(US, 1, 7, b"question")).unwrap();
        let mut buf = [0; 10];
        let got = host.stack.udp_recv_from(socket, &mut buf).unwrap();
        host.stack.udp_send_to(socket, b"answer", Some(got.from)).unwrap();
        host.pass(10 * MS);
        assert_eq!(host.stack.pages_in_use(), 2, "one each way");
    }
    host.pass(30 * MS);
    assert_eq!(host.stack.pages_in_use(), 2);
    host.pass(100 * MS);
    assert_eq!((host.stack.pages_in_use(), host.stack.next_deadline()), (0, None));
}

#[test]
fn a_datagram_that_waits_keeps_its_page_until_it_is_read() {
    let mut host = Host::acquainted();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    host.receive(&udp_to(US, 1, 7, b"hello")).unwrap();
    host.pass(1_000 * MS);
    assert_eq!((host.stack.pages_in_use(), host.stack.next_deadline()), (1, None), "no timer watches it");
    assert_eq!(host.stack.udp_recv_from(socket, &mut [0; 10]).map(|got| got.len), Ok(5));
    assert_eq!(host.stack.pages_in_use(), 0);
    // And on another thread.
    let mut half = host.stack.udp_split(socket).unwrap();
    host.receive(&udp_to(US, 1, 7, b"hello")).unwrap();
    host.pass(1_000 * MS);
    assert_eq!(half.recv_from(&mut [0; 10]).map(|got| got.len), Ok(5));
    assert_eq!(host.stack.pages_in_use(), 0);
}

#[test]
fn a_closed_socket_gives_its_pages_back_at_once() {
    let mut host = Host::acquainted();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    host.receive(&udp_to(US, 1, 7, b"hello")).unwrap();
    host.stack.udp_close(socket).unwrap();
    assert_eq!(host.stack.pages_in_use(), 0);
    host.pass(1_000 * MS);
    assert_eq!(host.stack.next_deadline(), None);
}

#[test]
fn pages_of_sockets_at_rest_go_to_those_that_need_them() {
    let mut host = Host::with_pages(1);
    let [first, second] = [7, 8].map(|port| host.stack.udp_bind(at(US, port)).unwrap());
    let mut buf = [0; 10];
    for _ in 0..10 {
        for (socket, port) in [(first, 7), (second, 8)] {
            host.receive(&udp_to(US, 1, port, b"hello")).unwrap();
            let got = host.stack.udp_recv_from(socket, &mut buf).unwrap();
            host.stack.udp_send_to(socket, &buf[..got.len], Some(got.from)).unwrap();
            assert_eq!(host.egress().len(), 1);
        }
    }
    let stats = host.stack.udp_stats(first).unwrap();
    assert_eq!((stats.received, stats.sent, stats.dropped), (10, 10, 0));
    assert_eq!(host.stack.counters().udp_rx, 20);
    // What is not read is not taken away.
    host.receive(&udp_to(US, 1, 7, b"stays")).unwrap();
    assert_eq!(host.receive(&udp_to(US, 1, 8, b"comes too late")), Err(DropReason::SocketFull));
    assert_eq!(host.stack.udp_send_to(second, b"x", Some(at(PEER, 1))), Err(SocketError::WouldBlock));
    assert_eq!(host.stack.udp_stats(second).unwrap().dropped, 1);
    assert_eq!(host.stack.udp_recv_from(first, &mut buf).map(|got| got.len), Ok(5));
    host.receive(&udp_to(US, 1, 8, b"in time")).unwrap();
    assert_eq!(host.stack.udp_recv_from(second, &mut buf).map(|got| got.len), Ok(7));
}

#[test]
fn a_datagram_that_found_no_pages_is_announced_when_there_are_enough() {
    let mut host = Host::with_pages(2);
    let [first, second] = [7, 8].map(|port| host.stack.udp_bind(at(US, port)).unwrap());
    let mut half = host.stack.udp_split(second).unwrap();
    for _ in 0..15 {
        host.receive(&udp_to(US, 1, 7, &[1; 1_400])).unwrap();
    }
    while host.stack.poll_event().is_some() {}
    assert_eq!(host.stack.pages_in_use(), 2);
    let large = [2; 20_000];
    assert_eq!(half.send_to(&large, at(PEER, 1)), Err(SocketError::WouldBlock));
    assert!(half.has_room(large.len()) && !half.can_send(large.len()));
    host.stack.await_pages(second, large.len());
    let mut buf = [0; 2_000];
    let told = |host: &mut Host| {
        host.pass(60 * MS);
        core::iter::from_fn(|| host.stack.poll_event()).any(|event| event.socket == second)
    };
    assert!(!told(&mut host));
    // One page comes back, which is not enough.
    for _ in 0..12 {
        host.stack.udp_recv_from(first, &mut buf).unwrap();
    }
    assert_eq!(host.stack.pages_in_use(), 1);
    assert!(!told(&mut host));
    while host.stack.udp_recv_from(first, &mut buf).is_ok() {}
    assert!(told(&mut host));
    assert_eq!(half.send_to(&large, at(PEER, 1)), Ok(()));
    assert!(!told(&mut host), "once");
}

#[test]
fn who_needs_few_pages_is_told_although_another_waits_for_many() {
    let mut host = Host::with_pages(3);
    let [first, second, third] = [7, 8, 9].map(|port| host.stack.udp_bind(at(US, port)).unwrap());
    for _ in 0..25 {
        host.receive(&udp_to(US, 1, 7, &[1; 1_400])).unwrap();
    }
    while host.stack.poll_event().is_some() {}
    assert_eq!(host.stack.pages_in_use(), 3);
    for (socket, len) in [(second, 20_000), (third, 100)] {
        let sent = host.stack.udp_send_to(socket, &vec![2; len], Some(at(PEER, 1)));
        assert_eq!(sent, Err(SocketError::WouldBlock));
    }
    for _ in 0..12 {
        host.stack.udp_recv_from(first, &mut [0; 2_000]).unwrap();
    }
    assert_eq!(host.stack.pages_in_use(), 2);
    host.pass(100 * MS);
    let told: Vec<_> = core::iter::from_fn(|| host.stack.poll_event()).map(|event| event.socket).collect();
    assert_eq!(told, [third], "a page is enough for it, and not for the one before it");
}
