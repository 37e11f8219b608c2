use super::*;
use crate::device::TxChecksum;
use crate::device::mem::{self, MemConfig, MemDevice};
use crate::rng::seed_from;

type Link = (Fault<MemDevice>, MemDevice);

/// A cable whose first end sends through `faults`.
fn link(faults: Faults, seed: u64) -> Link {
    let (a, b) = mem::pair(MemConfig::default().ring(4096));
    (Fault::new(a, FaultConfig { tx: faults, ..FaultConfig::default() }, seed_from(seed)), b)
}

/// Sends `count` frames of `len` bytes that begin with their number, at once; returns how many there was room for.
fn send(device: &mut impl Device, count: u32, len: usize) -> u32 {
    for n in 0..count {
        let Some(room) = device.reserve(len) else { return n };
        room.fill(0);
        room[..4].copy_from_slice(&n.to_be_bytes());
        device.commit(TxMeta::default());
    }
    device.flush().unwrap();
    count
}

fn drain(device: &mut impl Device) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    while device.rx_burst(&mut |burst| got.extend(burst.iter().map(|f| f.bytes().to_vec()))).unwrap() > 0 {}
    got
}

/// Lets time pass from event to event until nothing is due any more: what arrived, and when.
fn run((a, b): &mut Link) -> Vec<(Instant, u32)> {
    let mut got = Vec::new();
    let mut now = a.now;
    loop {
        a.set_now(now);
        a.flush().unwrap();
        got.extend(drain(b).iter().map(|f| (now, u32::from_be_bytes(f[..4].try_into().unwrap()))));
        match a.next_deadline() {
            Some(next) => now = next,
            None => return got,
        }
    }
}

fn numbers(got: &[(Instant, u32)]) -> Vec<u32> {
    got.iter().map(|g| g.1).collect()
}

/// About `p` of `n`: within five standard deviations.
fn about(count: u64, n: u32, p: f64) -> bool {
    let n = f64::from(n);
    (count as f64 - n * p).abs() < 5.0 * (n * p * (1.0 - p)).sqrt()
}

#[test]
fn perfect_link_passes_in_place_and_untouched() {
    let mut link = link(Faults::default(), 1);
    let room = link.0.reserve(60).unwrap();
    let place = room.as_ptr();
    link.0.commit(TxMeta::default());
    link.0.flush().unwrap();
    let mut seen = std::ptr::null();
    link.1.rx_burst(&mut |burst| seen = burst[0].bytes().as_ptr()).unwrap();
    assert_eq!(seen, place);
    assert_eq!(send(&mut link.0, 1000, 60), 1000);
    assert_eq!(numbers(&run(&mut link)), (0..1000).collect::<Vec<_>>());
}

#[test]
fn loss_is_as_asked_for_and_a_function_of_the_seed() {
    let fate = |seed| {
        let mut link = link(Faults { loss: 0.1, ..Faults::default() }, seed);
        send(&mut link.0, 4000, 60);
        let got = numbers(&run(&mut link));
        let counts = link.0.tx_counts();
        assert!(about(counts.lost, 4000, 0.1), "{counts:?}");
        assert_eq!((counts.offered, counts.delivered + counts.lost), (4000, 4000));
        assert_eq!(got.len() as u64, counts.delivered);
        assert!(got.is_sorted());
        got
    };
    assert_eq!(fate(1), fate(1));
    assert_ne!(fate(1), fate(2));
}

#[test]
fn another_fault_does_not_change_who_is_lost() {
    let lossy = Faults { loss: 0.2, ..Faults::default() };
    let jitter = Duration::from_millis(1);
    let (mut plain, mut more) = (link(lossy.clone(), 3), link(Faults { duplicate: 0.5, jitter, ..lossy }, 3));
    send(&mut plain.0, 1000, 60);
    send(&mut more.0, 1000, 60);
    let mut survivors = numbers(&run(&mut more));
    survivors.dedup();
    assert_eq!(numbers(&run(&mut plain)), survivors);
}

#[test]
fn certain_and_impossible_are_meant_literally() {
    for (loss, passed) in [(1.0, 0), (7.0, 0), (0.0, 100), (-1.0, 100), (f64::NAN, 100)] {
        let mut link = link(Faults { loss, delay: Duration::from_nanos(1), ..Faults::default() }, 4);
        send(&mut link.0, 100, 60);
        assert_eq!(run(&mut link).len(), passed, "{loss}");
    }
}

#[test]
fn duplicates_follow_their_original() {
    let mut link = link(Faults { duplicate: 0.25, ..Faults::default() }, 5);
    send(&mut link.0, 2000, 60);
    let mut got = numbers(&run(&mut link));
    let duplicated = link.0.tx_counts().duplicated;
    assert!(about(duplicated, 2000, 0.25));
    assert_eq!(got.len() as u64, 2000 + duplicated);
    assert!(got.is_sorted());
    got.dedup();
    assert_eq!(got.len(), 2000);
}

#[test]
fn corruption_flips_exactly_one_bit() {
    let (mut a, mut b) = link(Faults { corrupt: 0.5, ..Faults::default() }, 6);
    let frame = [0x55; 100];
    for _ in 0..1000 {
        a.reserve(100).unwrap().copy_from_slice(&frame);
        a.commit(TxMeta::default());
    }
    a.flush().unwrap();
    let flipped = |f: &Vec<u8>| f.iter().zip(frame).map(|(x, y)| (x ^ y).count_ones()).sum::<u32>();
    let flips: Vec<_> = drain(&mut b).iter().map(flipped).collect();
    assert!(flips.iter().all(|&n| n <= 1));
    let corrupted = flips.iter().filter(|&&n| n == 1).count() as u64;
    assert_eq!(corrupted, a.tx_counts().corrupted);
    assert!(about(corrupted, 1000, 0.5));
}

#[test]
fn corrupted_frame_with_a_partial_checksum_is_completed_first_and_no_longer_trusted() {
    let faults = Faults { corrupt: 1.0, ..Faults::default() };
    let mut frame = [7_u8; 80];
    frame[40..42].copy_from_slice(&[0, 0]);
    let mut sound = frame;
    complete_checksum(&mut sound, 34, 6);
    let meta = TxMeta { checksum: TxChecksum::Partial { start: 34, offset: 6 }, gso: None };
    for (tx, rx) in [(faults.clone(), Faults::default()), (Faults::default(), faults)] {
        let (a, b) = mem::pair(MemConfig::offloading());
        let mut a = Fault::new(a, FaultConfig { tx, ..FaultConfig::default() }, seed_from(7));
        let mut b = Fault::new(b, FaultConfig { rx, ..FaultConfig::default() }, seed_from(8));
        a.reserve(80).unwrap().copy_from_slice(&frame);
        a.commit(meta);
        a.flush().unwrap();
        let mut seen = Vec::new();
        b.rx_burst(&mut |burst| seen.push((burst[0].bytes().to_vec(), burst[0].meta.checksum))).unwrap();
        let (got, checksum) = seen.remove(0);
        assert_eq!(checksum, RxChecksum::Unknown);
        assert_eq!(got.iter().zip(sound).map(|(x, y)| (x ^ y).count_ones()).sum::<u32>(), 1);
    }
}

#[test]
fn delay_and_jitter_keep_the_order_and_their_bounds() {
    let (delay, jitter) = (Duration::from_millis(20), Duration::from_millis(5));
    let mut link = link(Faults { delay, jitter, ..Faults::default() }, 9);
    send(&mut link.0, 500, 60);
    assert_eq!(drain(&mut link.1).len(), 0, "nothing before its time");
    let got = run(&mut link);
    assert_eq!(numbers(&got), (0..500).collect::<Vec<_>>());
    assert!(got.iter().all(|g| (20..=25).contains(&g.0.as_millis())), "{got:?}");
    assert!(got.first() < got.last());
}

#[test]
fn reordered_frames_are_overtaken() {
    let mut link =
        link(Faults { reorder: 0.1, reorder_by: Duration::from_millis(3), ..Faults::default() }, 10);
    send(&mut link.0, 1000, 60);
    let got = run(&mut link);
    let late: Vec<_> = got.iter().filter(|g| g.0 == Instant::from_millis(3)).collect();
    assert_eq!(late.len() as u64, link.0.tx_counts().reordered);
    assert!(about(late.len() as u64, 1000, 0.1));
    assert_eq!(got.len(), 1000);
    assert!(!numbers(&got).is_sorted());
}

#[test]
fn rate_limit_serialises_and_drops_what_the_queue_cannot_hold() {
    // 1000 bytes at 8 Mb/s take 1 ms.
    let mut link = link(Faults { rate: Some(8_000_000), rate_queue: 50_000, ..Faults::default() }, 11);
    send(&mut link.0, 100, 1000);
    let got = run(&mut link);
    assert_eq!(numbers(&got), (0..50).collect::<Vec<_>>());
    for (i, (at, _)) in got.iter().enumerate() {
        assert_eq!(at.as_millis(), i as u64 + 1);
    }
    assert_eq!(link.0.tx_counts().rate_dropped, 50);
}

#[test]
fn memory_is_bounded_and_comes_back() {
    let faults = Faults { delay: Duration::from_secs(1), held_bytes: 10_000, ..Faults::default() };
    let mut link = link(faults, 12);
    send(&mut link.0, 30, 1000);
    assert_eq!((run(&mut link).len(), link.0.tx_counts().overflowed), (10, 20));
    send(&mut link.0, 10, 1000);
    assert_eq!((run(&mut link).len(), link.0.tx_counts().overflowed), (10, 20));
}

#[test]
fn full_device_behind_holds_the_sender_back_and_loses_nothing() {
    let (a, mut b) = mem::pair(MemConfig::default().ring(32));
    let faults = Faults { delay: Duration::from_millis(1), ..Faults::default() };
    let mut a = Fault::new(a, FaultConfig { tx: faults, ..FaultConfig::default() }, seed_from(13));
    let (mut sent, mut got) = (0, 0);
    for turn in 0..200 {
        a.set_now(Instant::from_millis(turn));
        a.flush().unwrap();
        sent += send(&mut a, 50, 60);
        if turn > 100 {
            got += drain(&mut b).len() as u32;
        }
    }
    for turn in 200..400 {
        a.set_now(Instant::from_millis(turn));
        a.flush().unwrap();
        got += drain(&mut b).len() as u32;
    }
    assert!(sent > 1000);
    assert_eq!((got, a.next_deadline()), (sent, None));
}

#[test]
fn receiving_side_and_replies_go_through_the_faults_too() {
    let (a, mut b) = mem::pair(MemConfig::default().ring(4096));
    let faults = Faults { loss: 0.5, delay: Duration::from_millis(10), ..Faults::default() };
    let mut a = Fault::new(a, FaultConfig::both(faults), seed_from(14));
    assert_eq!(send(&mut b, 1000, 60), 1000);
    let mut now = Some(Instant::ZERO);
    let mut got = Vec::new();
    while let Some(at) = now {
        a.set_now(at);
        let answer = |burst: &mut [RxFrame<'_>]| {
            for f in burst {
                assert!(f.set_len(200));
                f.verdict = Verdict::Reply(TxMeta::default());
            }
        };
        while a.rx_burst(&mut { answer }).unwrap() > 0 {}
        a.flush().unwrap();
        got.extend(drain(&mut b).into_iter().map(|f| (at, f.len())));
        now = a.next_deadline();
    }
    let (rx, tx) = (a.rx_counts(), a.tx_counts());
    assert!(about(rx.lost, 1000, 0.5) && about(tx.lost, rx.delivered as u32, 0.5), "{rx:?} {tx:?}");
    assert_eq!(tx.offered, rx.delivered);
    assert_eq!(got.len() as u64, tx.delivered);
    assert!(got.iter().all(|&g| g == (Instant::from_millis(20), 200)));
}

#[test]
fn faulty_sender_is_not_offered_segment_trains() {
    let device = |tx| {
        Fault::new(
            mem::pair(MemConfig::offloading()).0,
            FaultConfig { tx, ..Default::default() },
            seed_from(1),
        )
    };
    assert_eq!(device(Faults::default()).caps().tso_max, 65_535);
    let faulty = device(Faults { loss: 0.1, ..Faults::default() });
    assert_eq!((faulty.caps().tso_max, faulty.caps().tx_checksum), (0, true));
}
