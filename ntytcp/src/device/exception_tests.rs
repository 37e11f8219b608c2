use super::*;
use crate::device::mem::{MemConfig, MemDevice, pair};
use crate::owned::Claim;

/// A wire and a kernel's side of memory, seen from their other ends.
struct World {
    exception: Exception<MemDevice, MemDevice>,
    wire: MemDevice,
    kernel: MemDevice,
    shared: Arc<SharedOwnership>,
}

fn world(wire: MemConfig, kernel: MemConfig, config: ExceptionConfig) -> World {
    world_within(wire, kernel, Arc::new(Limits::new(config)))
}

fn world_within(wire: MemConfig, kernel: MemConfig, limits: Arc<Limits>) -> World {
    let ((wire, far), (kernel, side)) = (pair(wire), pair(kernel));
    let claims: Vec<Claim> = vec!["tcp/80".parse().unwrap()];
    let shared = Arc::new(SharedOwnership::new(Ownership::new(&claims, [[10, 0, 0, 2].into()])));
    let exception = Exception::new(wire, kernel, shared.clone(), limits).unwrap();
    World { exception, wire: far, kernel: side, shared }
}

/// A TCP segment to a port of ours, with a pseudo-header sum in its checksum field.
fn segment(port: u16, payload: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    frame.extend((40 + payload as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0xee, 0xee]);
    frame.extend(port.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0x12, 0x34, 0, 0]);
    frame.extend(vec![0x5a; payload]);
    frame
}

const PARTIAL: TxChecksum = TxChecksum::Partial { start: 34, offset: 16 };

fn send(device: &mut MemDevice, frame: &[u8], meta: TxMeta) {
    device.reserve(frame.len()).unwrap().copy_from_slice(frame);
    device.commit(meta);
    device.flush().unwrap();
}

/// What arrives at a device.
fn receive(device: &mut dyn Device) -> Vec<(Vec<u8>, RxMeta)> {
    let mut frames = Vec::new();
    device
        .rx_burst(&mut |burst| frames.extend(burst.iter().map(|frame| (frame.bytes().to_vec(), frame.meta))))
        .unwrap();
    device.flush().unwrap();
    frames
}

fn ports(frames: &[(Vec<u8>, RxMeta)]) -> Vec<u16> {
    frames.iter().map(|(frame, _)| u16::from_be_bytes([frame[36], frame[37]])).collect()
}

#[test]
fn frames_part_by_owner_in_order_and_the_kernels_come_back_out() {
    let mut world = world(MemConfig::default(), MemConfig::default(), ExceptionConfig::default());
    for port in [80, 22, 23, 80, 80, 179, 80] {
        send(&mut world.wire, &segment(port, 0), TxMeta::default());
    }
    assert_eq!(ports(&receive(&mut world.exception)), [80; 4]);
    assert_eq!(ports(&receive(&mut world.kernel)), [22, 23, 179]);
    send(&mut world.kernel, &segment(4000, 9), TxMeta::default());
    assert!(receive(&mut world.exception).is_empty());
    assert_eq!(ports(&receive(&mut world.wire)), [4000]);
}

#[test]
fn answers_in_place_go_out_and_the_kernels_frames_do_not() {
    let mut world = world(MemConfig::default(), MemConfig::default(), ExceptionConfig::default());
    for port in [22, 80, 22] {
        send(&mut world.wire, &segment(port, 0), TxMeta::default());
    }
    let answer = |burst: &mut [RxFrame<'_>]| {
        burst.iter_mut().for_each(|frame| frame.verdict = Verdict::Reply(TxMeta::default()));
    };
    world.exception.rx_burst(&mut |burst| answer(burst)).unwrap();
    world.exception.flush().unwrap();
    assert_eq!(ports(&receive(&mut world.wire)), [80]);
}

#[test]
fn a_flood_of_what_is_not_owned_is_cut_to_the_rate_and_leaves_the_owned_alone() {
    let config = ExceptionConfig { rate: 1_000, burst: 10 };
    let mut world = world(MemConfig::default(), MemConfig::default(), config);
    let mut owned = 0;
    for millis in 0..100 {
        world.exception.set_now(Instant::from_micros(1_000_000 + millis * 1_000));
        for _ in 0..30 {
            send(&mut world.wire, &segment(22, 0), TxMeta::default());
        }
        send(&mut world.wire, &segment(80, 0), TxMeta::default());
        owned += receive(&mut world.exception).len();
        receive(&mut world.kernel);
    }
    let stat = |name| world.exception.stats().iter().find(|(n, _)| *n == name).unwrap().1;
    assert_eq!((owned, stat("exception-to-kernel"), stat("exception-limited")), (100, 109, 2_891));
    // ARP has a rate of its own.
    let mut arp = vec![0xff; 60];
    arp[12..14].copy_from_slice(&[8, 6]);
    for _ in 0..20 {
        send(&mut world.wire, &segment(22, 0), TxMeta::default());
    }
    send(&mut world.wire, &arp, TxMeta::default());
    receive(&mut world.exception);
    assert!(receive(&mut world.kernel).iter().any(|(frame, _)| *frame == arp));
}

#[test]
fn the_queues_of_a_wire_share_one_rate() {
    let limits = Arc::new(Limits::new(ExceptionConfig { rate: 1_000, burst: 10 }));
    let worlds = || world_within(MemConfig::default(), MemConfig::default(), limits.clone());
    let mut worlds = [worlds(), worlds(), worlds()];
    let mut passed = 0;
    for millis in 0..100 {
        for world in &mut worlds {
            world.exception.set_now(Instant::from_micros(1_000_000 + millis * 1_000));
            for _ in 0..30 {
                send(&mut world.wire, &segment(22, 0), TxMeta::default());
            }
            receive(&mut world.exception);
            passed += receive(&mut world.kernel).len();
        }
    }
    assert_eq!(passed, 109);
}

#[test]
fn who_comes_with_an_older_time_gets_a_token_all_the_same() {
    let bucket = Bucket::new(ExceptionConfig { rate: 1_000, burst: 10 });
    assert!(bucket.take(Instant::from_micros(1_020_000)));
    assert_eq!((0..20).filter(|_| bucket.take(Instant::from_micros(1_000_000))).count(), 9);
}

#[test]
fn no_two_threads_take_the_same_token() {
    let bucket = Bucket::new(ExceptionConfig { rate: 1_000, burst: 500 });
    let now = Instant::from_micros(1_000_000);
    let take = || (0..1_000).filter(|_| bucket.take(now)).count();
    let taken: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(taken, 500);
}

#[test]
fn what_a_frame_lacks_is_handed_on_or_made_up_for() {
    let train =
        TxMeta { checksum: PARTIAL, gso: Some(Gso { kind: GsoKind::TcpV4, size: 1_000, header_len: 54 }) };
    let (whole, partial) = (segment(22, 3_000), TxMeta { checksum: PARTIAL, gso: None });
    // Both sides can.
    let mut both = world(MemConfig::offloading(), MemConfig::offloading(), ExceptionConfig::default());
    send(&mut both.wire, &whole, train);
    receive(&mut both.exception);
    let (frame, meta) = receive(&mut both.kernel).pop().unwrap();
    assert_eq!((frame, meta.gso_size), (whole.clone(), Some(1_000)));
    assert_eq!(meta.checksum, RxChecksum::Partial { start: 34, offset: 16 });
    send(&mut both.kernel, &whole, train);
    receive(&mut both.exception);
    assert_eq!(receive(&mut both.wire).pop().unwrap(), (whole.clone(), meta));
    // The kernel's side cannot: checksums are completed, trains are lost, and counted.
    let mut one = world(MemConfig::offloading(), MemConfig::default(), ExceptionConfig::default());
    let short = segment(22, 11);
    send(&mut one.wire, &short, partial);
    send(&mut one.wire, &whole, train);
    receive(&mut one.exception);
    let arrived = receive(&mut one.kernel);
    let mut completed = short.clone();
    complete_checksum(&mut completed, 34, 16);
    assert_eq!(arrived, [(completed, RxMeta::default())]);
    assert!(one.exception.stats().contains(&("exception-kernel-full", 1)));
}

#[test]
fn a_tag_that_the_wire_took_out_is_put_back() {
    let (mut to, mut far) = pair(MemConfig::offloading());
    let mut bytes = segment(22, 5);
    let meta = RxMeta {
        checksum: RxChecksum::Partial { start: 34, offset: 16 },
        vlan: Some(0x2007),
        ..RxMeta::default()
    };
    let len = bytes.len();
    pass_on(&RxFrame::new(&mut bytes, 0, len, meta), &mut to).unwrap();
    to.flush().unwrap();
    let (frame, meta) = receive(&mut far).pop().unwrap();
    assert_eq!(frame[..18], [&segment(22, 5)[..12], &[0x81, 0, 0x20, 7, 8, 0]].concat());
    assert_eq!(frame[18..], segment(22, 5)[14..]);
    assert_eq!(meta.checksum, RxChecksum::Partial { start: 38, offset: 16 });
}

#[test]
fn frames_to_other_stations_are_nobodys_unless_the_kernel_wants_them() {
    let mut world = world(MemConfig::default(), MemConfig::default(), ExceptionConfig::default());
    let mut other = segment(22, 0);
    other[5] = 9;
    let mut group = segment(22, 0);
    group[0] = 1;
    for (station, expected) in [(Some([2, 0, 0, 0, 0, 2]), 2), (None, 3)] {
        world.shared.set_station(station.map(crate::wire::MacAddr));
        for frame in [&other, &group, &segment(22, 0)] {
            send(&mut world.wire, frame, TxMeta::default());
        }
        receive(&mut world.exception);
        assert_eq!(receive(&mut world.kernel).len(), expected);
    }
}

#[test]
fn other_addresses_are_followed() {
    let mut world = world(MemConfig::default(), MemConfig::default(), ExceptionConfig::default());
    for (addr, owned) in [([10, 0, 0, 3], 0), ([10, 0, 0, 2], 1)] {
        world.shared.set_addrs([addr.into()]);
        send(&mut world.wire, &segment(80, 0), TxMeta::default());
        assert_eq!(receive(&mut world.exception).len(), owned);
    }
}
