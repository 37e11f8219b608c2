use super::*;
use crate::device::{Gso, GsoKind, RxChecksum};

/// Sends one frame of `bytes` and flushes; whether there was room.
fn send(device: &mut MemDevice, bytes: &[u8], meta: TxMeta) -> bool {
    let Some(room) = device.reserve(bytes.len()) else { return false };
    room.copy_from_slice(bytes);
    device.commit(meta);
    device.flush().unwrap();
    true
}

/// Everything that waits at `device`, with what it says of each frame.
fn drain(device: &mut MemDevice) -> Vec<(Vec<u8>, RxMeta)> {
    let mut got = Vec::new();
    while device
        .rx_burst(&mut |burst| got.extend(burst.iter().map(|f| (f.bytes().to_vec(), f.meta))))
        .unwrap()
        > 0
    {}
    got
}

fn bytes(got: Vec<(Vec<u8>, RxMeta)>) -> Vec<Vec<u8>> {
    got.into_iter().map(|(bytes, _)| bytes).collect()
}

/// A frame of 64 bytes between two stations, named by one byte each.
fn frame(to: u8, from: u8) -> Vec<u8> {
    let mut frame = vec![0; 64];
    frame[..6].copy_from_slice(&[if to == 0xff { 0xff } else { 2 }, 0, 0, 0, 0, to]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, from]);
    frame
}

#[test]
fn frames_arrive_in_order_and_only_after_a_flush() {
    let (mut a, mut b) = pair(MemConfig::default());
    for n in 0..10_u8 {
        a.reserve(60).unwrap().fill(n);
        a.commit(TxMeta::default());
    }
    assert_eq!(drain(&mut b).len(), 0);
    a.flush().unwrap();
    let got = bytes(drain(&mut b));
    assert_eq!(got, (0..10_u8).map(|n| vec![n; 60]).collect::<Vec<_>>());
    assert_eq!(drain(&mut a).len(), 0);
}

#[test]
fn full_ring_pushes_back_and_loses_nothing() {
    let (mut a, mut b) = pair(MemConfig::default().ring(100));
    let (mut sent, mut got) = (0_u32, Vec::new());
    for round in 0..50 {
        while send(&mut a, &sent.to_be_bytes(), TxMeta::default()) {
            sent += 1;
        }
        assert!(round > 0 || sent == 100, "the ring holds what was asked for, got {sent}");
        // A slow reader: one burst per round.
        b.rx_burst(&mut |burst| got.extend(burst.iter().map(|f| f.bytes().to_vec()))).unwrap();
    }
    got.extend(bytes(drain(&mut b)));
    assert!(sent > 1_000);
    assert_eq!(got, (0..sent).map(|n| n.to_be_bytes().to_vec()).collect::<Vec<_>>());
}

#[test]
fn reply_hands_the_same_buffer_back_even_when_the_responder_has_none() {
    let (mut a, mut b) = pair(MemConfig::default().ring(8));
    while send(&mut b, b"fill", TxMeta::default()) {}
    for n in 0..8_u8 {
        assert!(send(&mut a, &[n; 60], TxMeta::default()));
    }
    let mut places = Vec::new();
    b.rx_burst(&mut |burst| {
        for f in burst {
            places.push(f.bytes().as_ptr());
            assert!(f.set_len(61) && f.prepend(4));
            f.bytes_mut()[..4].copy_from_slice(b"head");
            f.bytes_mut()[64] = b'x';
            f.verdict = Verdict::Reply(TxMeta::default());
        }
    })
    .unwrap();
    b.flush().unwrap();
    let (mut replies, mut replied_at) = (Vec::new(), Vec::new());
    a.rx_burst(&mut |burst| {
        for f in burst.iter().skip(8) {
            replies.push(f.bytes().to_vec());
            replied_at.push(f.bytes()[4..].as_ptr());
        }
    })
    .unwrap();
    let expected = |n: u8| [b"head".as_slice(), &[n; 60], b"x"].concat();
    assert_eq!(replies, (0..8).map(expected).collect::<Vec<_>>());
    assert_eq!(replied_at, places, "no copy on the way");
    // And all buffers are home again.
    assert_eq!((0..9).filter(|_| send(&mut a, b"again", TxMeta::default())).count(), 8);
}

#[test]
fn reservation_is_replaced_by_the_next_and_refused_when_too_long() {
    let (mut a, mut b) = pair(MemConfig::with_mtu(1500).ring(2));
    a.commit(TxMeta::default());
    for _ in 0..10 {
        a.reserve(50).unwrap().fill(1);
    }
    a.reserve(20).unwrap().fill(2);
    a.commit(TxMeta::default());
    a.commit(TxMeta::default());
    assert!(a.reserve(1500 + MAX_L2_HEADER + 1).is_none());
    assert!(a.reserve(1500 + MAX_L2_HEADER).is_some());
    assert!(a.reserve(usize::MAX).is_none());
    a.commit(TxMeta::default());
    a.flush().unwrap();
    assert_eq!(bytes(drain(&mut b)), [vec![2; 20]]);
}

#[test]
fn offloads_pass_as_between_two_guests_when_both_ends_agree() {
    let partial = TxChecksum::Partial { start: 4, offset: 2 };
    let gso = Gso { kind: GsoKind::TcpV4, size: 1448, header_len: 66 };
    let meta = TxMeta { checksum: partial, gso: Some(gso) };
    let (mut a, mut b) = pair(MemConfig::offloading());
    assert_eq!((a.caps().tx_checksum, a.caps().tso_max), (true, 65_535));
    assert!(send(&mut a, &[7; 65_000], meta));
    let (train, rx) = drain(&mut b).remove(0);
    assert_eq!(train, [7; 65_000]);
    assert_eq!(rx.checksum, RxChecksum::Partial { start: 4, offset: 2 });
    assert_eq!(rx.gso_size, Some(1448));
    assert!(send(&mut a, &[7; 60], TxMeta::default()));
    assert_eq!(drain(&mut b).remove(0).1, RxMeta::default());

    let (mut a, mut b) = pair_of(MemConfig::offloading(), MemConfig::with_mtu(9000));
    assert_eq!(*a.caps(), Caps::plain(1500));
    assert_eq!(a.caps(), b.caps());
    assert!(a.reserve(1523).is_none());
    // Asked for against the caps, the checksum is completed on the way out.
    assert!(send(&mut a, &[9, 9, 9, 9, 0, 0, 0, 1], meta));
    let (completed, rx) = drain(&mut b).remove(0);
    assert_eq!(completed, [9, 9, 9, 9, 0, 0, 0xff, 0xfe]);
    assert_eq!(rx, RxMeta::default());
}

#[test]
fn hub_floods_the_unknown_then_learns() {
    let mut ports = hub(3, MemConfig::default());
    let received = |ports: &mut Vec<MemDevice>| ports.iter_mut().map(|p| drain(p).len()).collect::<Vec<_>>();
    assert!(send(&mut ports[0], &frame(2, 1), TxMeta::default()));
    assert_eq!(received(&mut ports), [0, 1, 1], "nobody knows station 2");
    assert!(send(&mut ports[2], &frame(1, 2), TxMeta::default()));
    assert_eq!(received(&mut ports), [1, 0, 0], "station 1 was heard at port 0");
    assert!(send(&mut ports[0], &frame(2, 1), TxMeta::default()));
    assert_eq!(received(&mut ports), [0, 0, 1]);
    assert!(send(&mut ports[1], &frame(0xff, 3), TxMeta::default()));
    assert_eq!(received(&mut ports), [1, 0, 1], "broadcast goes everywhere");
    // Station 2 moves to port 1.
    assert!(send(&mut ports[1], &frame(0xff, 2), TxMeta::default()));
    assert_eq!(received(&mut ports), [1, 0, 1]);
    assert!(send(&mut ports[0], &frame(2, 1), TxMeta::default()));
    assert_eq!(received(&mut ports), [0, 1, 0]);
}

#[test]
fn hub_floods_are_held_back_by_the_slowest_port_and_complete() {
    let mut ports = hub(4, MemConfig::default().ring(9));
    let mut sent = 0;
    while send(&mut ports[0], &frame(0xff, 1), TxMeta::default()) {
        sent += 1;
    }
    assert_eq!(sent, 3, "9 buffers are 3 floods to 3 ports");
    assert_eq!(drain(&mut ports[1]).len() + drain(&mut ports[2]).len(), 6);
    assert!(send(&mut ports[0], &frame(0xff, 1), TxMeta::default()));
    assert_eq!(drain(&mut ports[3]).len(), 4);
    assert_eq!(ports[0].stats(), [("unplugged", 0), ("flood-lost", 0)]);
}

#[test]
fn frame_forwarded_in_place_comes_home_from_a_third_port() {
    let mut ports = hub(3, MemConfig::default().ring(4));
    for _ in 0..100 {
        assert!(send(&mut ports[0], &frame(0xff, 1), TxMeta::default()));
        drain(&mut ports[2]);
        ports[1]
            .rx_burst(&mut |burst| {
                burst[0].bytes_mut().copy_from_slice(&frame(9, 2));
                burst[0].verdict = Verdict::Reply(TxMeta::default());
            })
            .unwrap();
        ports[1].flush().unwrap();
        assert_eq!(bytes(drain(&mut ports[2])), [frame(9, 2)]);
        assert_eq!(bytes(drain(&mut ports[0])), [frame(9, 2)]);
    }
}

#[test]
fn unplugged_peer_costs_its_frames_but_not_the_ring() {
    let (mut a, b) = pair(MemConfig::default().ring(16));
    for _ in 0..16 {
        assert!(send(&mut a, b"to nowhere", TxMeta::default()));
    }
    assert!(!send(&mut a, b"full", TxMeta::default()));
    drop(b);
    for _ in 0..100 {
        assert!(send(&mut a, b"to nowhere", TxMeta::default()));
    }
    assert_eq!(a.stats()[0], ("unplugged", 100));
}

#[test]
fn two_threads_exchange_everything_in_order() {
    const FRAMES: u32 = if cfg!(miri) { 300 } else { 200_000 };
    let (mut a, mut b) = pair(MemConfig::default().ring(64));
    let echo = std::thread::spawn(move || {
        let mut seen = 0;
        while seen < FRAMES {
            let burst = b.rx_burst(&mut |burst| {
                for f in burst {
                    f.verdict = Verdict::Reply(TxMeta::default());
                }
            });
            seen += burst.unwrap() as u32;
            b.flush().unwrap();
            std::thread::yield_now();
        }
        b
    });
    let (mut sent, mut next) = (0_u32, 0_u32);
    while next < FRAMES {
        while sent < FRAMES && send(&mut a, &sent.to_be_bytes(), TxMeta::default()) {
            sent += 1;
        }
        a.rx_burst(&mut |burst| {
            for f in burst {
                assert_eq!(f.bytes(), next.to_be_bytes());
                next += 1;
            }
        })
        .unwrap();
        std::thread::yield_now();
    }
    drop(echo.join().unwrap());
}
