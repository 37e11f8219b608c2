//! Bursts through DPDK's own devices: no card, no hugepages and no privilege needed.
#![cfg(feature = "dpdk")]
#![allow(unsafe_code, reason = "EAL is ended at exit")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::c_int;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use dpdk_sys::{BURST, Burst, DpdkError, Eal, Mbuf, Mempool, Port, PortConfig, Queue, wire};

static EAL: OnceLock<Eal> = OnceLock::new();

/// EAL, which a process has once, for one test at a time: counts of buffers and lists of ports are then the
/// test's own.
fn eal() -> (Eal, MutexGuard<'static, ()>) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let eal = EAL.get_or_init(|| {
        let prefix = format!("nty-burst-{}", std::process::id());
        let fixed =
            "-l 0 --no-huge -m 256 --iova-mode=va --no-pci --no-telemetry --log-level error --vdev net_null0";
        let mut args: Vec<&str> = fixed.split(' ').collect();
        args.extend(["--file-prefix", &prefix]);
        let eal = Eal::init(&args).unwrap_or_else(|error| panic!("{error}"));
        // SAFETY: a function without arguments that may run at exit.
        unsafe { atexit(end) };
        eal
    });
    (*eal, turn)
}

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> c_int;
}

/// Leaves no file of EAL's behind.
extern "C" fn end() {
    let Some(eal) = EAL.get() else { return };
    let directory = eal.runtime_dir();
    // SAFETY: the tests are over, and none kept anything.
    unsafe { eal.cleanup() };
    let _ = std::fs::remove_dir_all(directory);
}

/// Frame `number`: its length and every byte depend on it.
fn frame(number: usize) -> Vec<u8> {
    (0..60 + number * 37 % 1400).map(|at| (at * 7 + number * 13) as u8).collect()
}

/// A burst of these frames.
fn burst_of(pool: &Mempool, numbers: std::ops::Range<usize>) -> Burst {
    let frames: Vec<Vec<u8>> = numbers.map(frame).collect();
    let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
    let mut burst = Burst::new();
    assert_eq!(burst.fill(pool, &frames), Ok(frames.len()));
    burst
}

/// The only queue of the port of this name, which receives into buffers of the pool.
fn open(eal: Eal, name: &str, pool: &Mempool) -> Queue {
    Port::open(eal, name, &[*pool], &PortConfig::default()).unwrap().pop().unwrap()
}

/// All that a port has, in order.
fn receive_all(port: &mut Queue) -> Vec<Vec<u8>> {
    let mut received = Vec::new();
    loop {
        let mut burst = Burst::new();
        if port.rx_burst(&mut burst) == 0 {
            return received;
        }
        received.extend(burst.packets().iter().map(|mbuf| mbuf.data().to_vec()));
    }
}

#[test]
fn null_device_gives_full_bursts_and_takes_them() {
    let (eal, _turn) = eal();
    let pool = Mempool::new(eal, "null", 255, 2048).unwrap();
    let all = pool.available();
    let mut port = open(eal, "net_null0", &pool);
    for _ in 0..100 {
        let mut burst = Burst::new();
        assert_eq!(port.rx_burst(&mut burst), BURST);
        assert!(burst.packets().iter().all(|mbuf| mbuf.data().len() == 64 && mbuf.segment_count() == 1));
        assert_eq!(port.tx_burst(&mut burst), BURST);
        assert!(burst.is_empty());
    }
    let stats = port.port().stats().unwrap();
    assert_eq!((stats.rx_frames, stats.tx_frames), (100 * BURST as u64, 100 * BURST as u64));
    assert!(port.port().link().unwrap().up);
    drop(port);
    assert_eq!(pool.available(), all);
}

#[test]
fn wire_delivers_both_ways_byte_exact_and_in_order() {
    let (eal, _turn) = eal();
    let pool = Mempool::new(eal, "wire", 1023, 2048).unwrap();
    let all = pool.available();
    let (left, right) = wire(eal, "wire", 256).unwrap();
    let mut left = open(eal, &left, &pool);
    let mut right = open(eal, &right, &pool);
    assert_ne!(left.port().id(), right.port().id());
    for round in 0..3 {
        let first = round * 1000;
        assert_eq!(left.tx_burst(&mut burst_of(&pool, first..first + BURST)), BURST);
        assert_eq!(right.tx_burst(&mut burst_of(&pool, first + 500..first + 507)), 7);
        assert_eq!(receive_all(&mut right), (first..first + BURST).map(frame).collect::<Vec<_>>());
        assert_eq!(receive_all(&mut left), (first + 500..first + 507).map(frame).collect::<Vec<_>>());
    }
    assert_eq!(left.port().stats().unwrap().tx_frames, 3 * BURST as u64);
    assert_eq!(pool.available(), all);
}

#[test]
fn full_queue_leaves_the_rest_in_the_burst_in_order() {
    let (eal, _turn) = eal();
    let pool = Mempool::new(eal, "full", 255, 2048).unwrap();
    let (left, right) = wire(eal, "full", 64).unwrap();
    let mut left = open(eal, &left, &pool);
    let mut right = open(eal, &right, &pool);
    // 63 fit: two bursts of 31, one frame of the third.
    assert_eq!(left.tx_burst(&mut burst_of(&pool, 0..31)), 31);
    assert_eq!(left.tx_burst(&mut burst_of(&pool, 31..62)), 31);
    let mut third = burst_of(&pool, 62..72);
    assert_eq!(left.tx_burst(&mut third), 1);
    assert_eq!(left.tx_burst(&mut third), 0);
    assert_eq!(third.len(), 9);
    let mut received = receive_all(&mut right);
    assert_eq!(left.tx_burst(&mut third), 9);
    received.extend(receive_all(&mut right));
    assert_eq!(received, (0..72).map(frame).collect::<Vec<_>>());
}

#[test]
fn received_frame_is_answered_in_its_own_buffer() {
    let (eal, _turn) = eal();
    let pool = Mempool::new(eal, "answer", 255, 2048).unwrap();
    let (left, right) = wire(eal, "answer", 64).unwrap();
    let mut left = open(eal, &left, &pool);
    let mut right = open(eal, &right, &pool);
    left.tx_burst(&mut burst_of(&pool, 0..3));
    let (mut received, mut answers) = (Burst::new(), Burst::new());
    assert_eq!(right.rx_burst(&mut received), 3);
    // The first is dropped, the second shortened, the third grown.
    received.packets_mut().reverse();
    drop(received.pop());
    for mut mbuf in std::iter::from_fn(|| received.pop()) {
        let first = mbuf.data_mut().first_mut().unwrap();
        *first = !*first;
        mbuf.set_len(if answers.is_empty() { 61 } else { 1500 }).unwrap();
        answers.push(mbuf).unwrap();
    }
    right.tx_burst(&mut answers);
    let answers = receive_all(&mut left);
    assert_eq!(answers.iter().map(Vec::len).collect::<Vec<_>>(), [61, 1500]);
    assert_eq!(answers[0][0], !frame(1)[0]);
    assert_eq!(answers[0][1..], frame(1)[1..61]);
    assert_eq!(answers[1][1..frame(2).len()], frame(2)[1..]);
}

#[test]
fn buffers_go_back_to_their_pool_and_an_empty_pool_gives_none() {
    let (eal, _turn) = eal();
    let pool = Mempool::new(eal, "count", 63, 2048).unwrap();
    assert_eq!(pool.available(), 63);
    let (mut first, mut second, mut third) = (Burst::new(), Burst::new(), Burst::new());
    assert_eq!(pool.alloc(&mut first, usize::MAX), BURST);
    assert_eq!(pool.alloc(&mut second, BURST), 0);
    assert_eq!(pool.alloc(&mut second, 31), 31);
    assert_eq!(pool.alloc(&mut third, 1), 0);
    assert_eq!(pool.available(), 0);
    let one = first.pop().unwrap();
    let one = first.push(one).map_or_else(|mbuf| mbuf, |()| first.pop().unwrap());
    drop(one);
    assert_eq!(pool.available(), 1);
    drop(first);
    second.clear();
    assert!(second.is_empty());
    assert_eq!(pool.available(), 63);
}

#[test]
fn full_burst_gives_the_packet_back() {
    let (eal, _turn) = eal();
    let pool = Mempool::new(eal, "push", 63, 2048).unwrap();
    let (mut full, mut other) = (Burst::new(), Burst::new());
    pool.alloc(&mut full, BURST);
    pool.alloc(&mut other, 1);
    let mbuf = full.push(other.pop().unwrap()).unwrap_err();
    assert_eq!((full.len(), full.room(), pool.available()), (BURST, 0, 63 - 33));
    drop(mbuf);
    assert_eq!(pool.available(), 63 - 32);
}

#[test]
fn frame_beyond_the_room_is_refused() {
    let (eal, _turn) = eal();
    let pool = Mempool::new(eal, "room", 63, 100).unwrap();
    let mut burst = Burst::new();
    let frames: [&[u8]; 3] = [&[1; 100], &[2; 101], &[3; 10]];
    assert_eq!(burst.fill(&pool, &frames), Err(DpdkError::TooLong { len: 101, room: 100 }));
    assert_eq!(burst.packets().iter().map(Mbuf::packet_len).collect::<Vec<_>>(), [100]);
    assert_eq!(pool.available(), 62);
    let mbuf = &mut burst.packets_mut()[0];
    assert_eq!(mbuf.set_len(70_000), Err(DpdkError::TooLong { len: 70_000, room: 100 }));
    assert_eq!(mbuf.data(), [1; 100]);
    assert_eq!(mbuf.segments().map(<[u8]>::len).collect::<Vec<_>>(), [100]);
    assert!(matches!(Mempool::new(eal, "huge", 63, u16::MAX), Err(DpdkError::TooLong { .. })));
}

#[test]
fn port_is_open_once_and_again_after_it_is_dropped() {
    let (eal, _turn) = eal();
    let pool = Mempool::new(eal, "once", 255, 2048).unwrap();
    for _ in 0..3 {
        eal.attach("net_null1").unwrap();
        let port = open(eal, "net_null1", &pool);
        let again = Port::open(eal, "net_null1", &[pool], &PortConfig::default());
        assert_eq!(again.unwrap_err(), DpdkError::PortInUse("net_null1".into()));
        drop(port);
        assert!(!eal.ports().contains(&"net_null1".into()));
    }
}

#[test]
fn queues_of_a_port_are_apart_and_the_last_ends_it() {
    let (eal, _turn) = eal();
    let pool = Mempool::new(eal, "queues", 1023, 2048).unwrap();
    eal.attach("net_null2").unwrap();
    let mut config = PortConfig::default();
    config.queues = 3;
    let mut queues = Port::open(eal, "net_null2", &[pool], &config).unwrap();
    assert_eq!(queues.iter().map(Queue::index).collect::<Vec<_>>(), [0, 1, 2]);
    let mut burst = Burst::<5>::default();
    for (queue, frames) in queues.iter_mut().zip([5, 10, 15]) {
        for _ in 0..frames / 5 {
            assert_eq!((queue.rx_burst(&mut burst), queue.tx_burst(&mut burst)), (5, 5));
        }
    }
    let port = queues[0].port();
    assert_eq!(port.stats().unwrap().rx_frames, 30);
    let counters = port.counters();
    assert!(counters.contains(&("tx_q2_packets".to_owned(), 15)), "{counters:?}");
    queues.truncate(1);
    assert!(eal.ports().contains(&"net_null2".into()));
    drop(queues);
    assert!(!eal.ports().contains(&"net_null2".into()));
    assert_eq!(pool.available(), 1023);
}

#[test]
fn settings_that_a_driver_cannot_are_refused_by_name() {
    let (eal, _turn) = eal();
    let pool = Mempool::new(eal, "settings", 63, 2048).unwrap();
    let (left, _) = wire(eal, "settings", 64).unwrap();
    let refusal = |change: fn(&mut PortConfig)| {
        let mut config = PortConfig::default();
        change(&mut config);
        Port::open(eal, &left, &[pool], &config).unwrap_err().to_string()
    };
    for (message, expected) in [
        (refusal(|config| config.queues = 0), "at least one queue"),
        (refusal(|config| config.queues = 2), "2 queues are too many: its driver has 1"),
    ] {
        assert!(message.contains(&left) && message.contains(expected), "{message}");
    }
}

#[test]
fn chosen_packets_move_and_the_others_stay_in_order() {
    let (eal, _turn) = eal();
    let pool = Mempool::new(eal, "choice", 63, 2048).unwrap();
    let mut from = burst_of(&pool, 0..10);
    let mut to = Burst::<4>::default();
    let number = |mbuf: &Mbuf| (0..10).find(|&number| mbuf.data() == frame(number)).unwrap();
    assert_eq!(from.move_to(&mut to, |place, mbuf| place == number(mbuf) && place % 3 == 1), 0);
    assert_eq!(to.packets().iter().map(number).collect::<Vec<_>>(), [1, 4, 7]);
    assert_eq!(from.packets().iter().map(number).collect::<Vec<_>>(), [0, 2, 3, 5, 6, 8, 9]);
    assert_eq!(from.move_to(&mut to, |place, _| place > 3), 2, "there is room for one");
    assert_eq!(to.packets().iter().map(number).collect::<Vec<_>>(), [1, 4, 7, 6]);
    assert_eq!(from.packets().iter().map(number).collect::<Vec<_>>(), [0, 2, 3, 5, 8, 9]);
    drop((from, to));
    assert_eq!(pool.available(), 63);
}

#[test]
fn the_last_packets_move_in_order_as_far_as_there_is_room() {
    let (eal, _turn) = eal();
    let pool = Mempool::new(eal, "last", 63, 2048).unwrap();
    let mut from = burst_of(&pool, 0..10);
    let mut to = Burst::<4>::default();
    let number = |mbuf: &Mbuf| (0..10).find(|&number| mbuf.data() == frame(number)).unwrap();
    assert_eq!(from.move_last_to(&mut to, 3), 3);
    assert_eq!(to.packets().iter().map(number).collect::<Vec<_>>(), [7, 8, 9]);
    assert_eq!(from.move_last_to(&mut to, 3), 1);
    assert_eq!(to.packets().iter().map(number).collect::<Vec<_>>(), [7, 8, 9, 6]);
    assert_eq!(from.packets().iter().map(number).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert_eq!((from.move_last_to(&mut to, 9), from.len()), (0, 6));
    drop((from, to));
    assert_eq!(pool.available(), 63);
}

#[test]
fn a_used_buffer_is_as_good_as_new() {
    let (eal, _turn) = eal();
    let pool = Mempool::new(eal, "renewed", 63, 256).unwrap();
    let mut burst = burst_of(&pool, 1..2);
    let mbuf = &mut burst.packets_mut()[0];
    assert!(mbuf.is_like_new(256) && !mbuf.is_like_new(255) && !mbuf.is_like_new(2_048));
    mbuf.set_extent(300, 7).unwrap();
    mbuf.renew(256).unwrap();
    assert_eq!((mbuf.packet_len(), mbuf.buffer_mut().1), (256, 128..384));
    assert_eq!(mbuf.renew(257), Err(DpdkError::TooLong { len: 257, room: 256 }));
    let (mut head, buffer, place) = mbuf.split_mut();
    buffer[place.start] = 9;
    head.set_extent(place.start, 1).unwrap();
    assert_eq!(mbuf.data(), [9]);
}

#[test]
fn frame_may_begin_anywhere_in_its_buffer() {
    let (eal, _turn) = eal();
    let pool = Mempool::new(eal, "extent", 63, 256).unwrap();
    let mut burst = burst_of(&pool, 1..2);
    let mbuf = &mut burst.packets_mut()[0];
    let (buffer, place) = mbuf.buffer_mut();
    assert_eq!((buffer.len(), place.clone()), (384, 128..128 + frame(1).len()));
    buffer[place.start - 3..place.start].copy_from_slice(b"abc");
    mbuf.set_extent(place.start - 3, 5).unwrap();
    assert_eq!(mbuf.data(), [b"abc", &frame(1)[..2]].concat());
    assert_eq!(mbuf.set_extent(380, 5), Err(DpdkError::TooLong { len: 5, room: 4 }));
    assert_eq!(mbuf.set_extent(385, 0), Err(DpdkError::TooLong { len: 385, room: 384 }));
    assert_eq!((mbuf.packet_len(), mbuf.buffer_mut().1), (5, 125..130));
}

#[test]
fn attached_device_is_a_port_until_it_is_closed() {
    let (eal, _turn) = eal();
    let pool = Mempool::new(eal, "attach", 255, 2048).unwrap();
    eal.attach("net_null7,size=200").unwrap();
    assert!(eal.ports().contains(&"net_null7".into()));
    let mut port = open(eal, "net_null7", &pool);
    let mut burst = Burst::new();
    port.rx_burst(&mut burst);
    assert!(burst.packets().iter().all(|mbuf| mbuf.data().len() == 200));
    drop(burst);
    drop(port);
    assert!(!eal.ports().contains(&"net_null7".into()));
}

#[test]
fn errors_name_the_thing_and_the_remedy() {
    let (eal, _turn) = eal();
    let pool = Mempool::new(eal, "errors", 63, 2048).unwrap();
    let missing = Port::open(eal, "net_nul0", &[pool], &PortConfig::default()).unwrap_err().to_string();
    assert!(missing.contains("\"net_nul0\"") && missing.contains("net_null0"), "{missing}");
    let unknown = eal.attach("net_nonsense0").unwrap_err().to_string();
    assert!(unknown.contains("net_nonsense0") && unknown.contains("apt-get install librte"), "{unknown}");
    let taken = Mempool::new(eal, "errors", 63, 2048).unwrap_err().to_string();
    assert!(taken.contains("\"errors\": File exists"), "{taken}");
    let odd = wire(eal, "odd", 63).unwrap_err().to_string();
    assert!(odd.contains("rte_ring_create") && odd.contains("Invalid argument"), "{odd}");
    assert!(matches!(Mempool::new(eal, "a\0b", 63, 2048), Err(DpdkError::Argument { .. })));
    assert_eq!(Eal::init(&["--no-huge"]).unwrap_err(), DpdkError::AlreadyInitialised);
}

#[test]
fn threads_register_and_are_forgotten_when_they_are_done() {
    let (eal, _turn) = eal();
    let pool = Mempool::new(eal, "threads", 255, 2048).unwrap();
    // Many more than DPDK's table has places for.
    for _ in 0..300 {
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let _outer = eal.register_thread().unwrap();
                    drop(eal.register_thread().unwrap());
                    let mut burst = Burst::new();
                    assert_eq!(pool.alloc(&mut burst, BURST), BURST);
                });
            }
        });
    }
    assert_eq!(pool.available(), 255);
}

#[test]
fn release_is_one_that_the_bindings_know() {
    assert!(Eal::version().starts_with("DPDK 2"), "{}", Eal::version());
}
