//! Queues between threads. They need no EAL.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use dpdk_sys::{Ring, channel};

#[test]
fn values_come_out_in_order_and_a_full_queue_gives_them_back() {
    for capacity in [1, 2, 3, 4, 7, 8, 100] {
        let ring = Ring::new(capacity).unwrap();
        assert_eq!((ring.capacity(), ring.pop()), (capacity, None));
        for round in 0..5 {
            for value in 0..capacity {
                ring.push(Box::new(value * round)).unwrap();
            }
            assert_eq!(ring.push(Box::new(usize::MAX)), Err(Box::new(usize::MAX)));
            for value in 0..capacity {
                assert_eq!(ring.pop(), Some(Box::new(value * round)));
            }
            assert_eq!(ring.pop(), None);
        }
    }
}

#[test]
fn many_move_at_a_time_as_far_as_there_is_room() {
    let (mut sender, mut receiver) = channel(10).unwrap();
    let mut values: Vec<String> = (0..16).map(|value| value.to_string()).collect();
    assert_eq!((sender.push_many(&mut values), values.len(), &*values[0]), (10, 6, "10"));
    let mut got = vec!["first".to_owned()];
    assert_eq!(receiver.pop_many(&mut got, 4), 4);
    assert_eq!(sender.push_many(&mut values), 4);
    assert_eq!(receiver.pop_many(&mut got, usize::MAX), 10);
    assert_eq!((receiver.pop_many(&mut got, 1), receiver.pop(), got.len()), (0, None, 15));
    assert!(got.iter().skip(1).enumerate().all(|(at, value)| *value == at.to_string()));
    assert_eq!(values, ["14", "15"]);
}

#[test]
fn what_is_left_is_dropped_once() {
    let drops = Arc::new(AtomicUsize::new(0));
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (mut sender, mut receiver) = channel(8).unwrap();
    for _ in 0..8 {
        assert!(sender.push(Counted(drops.clone())).is_ok());
    }
    assert!(sender.push(Counted(drops.clone())).is_err());
    drop(receiver.pop());
    assert_eq!(drops.load(Ordering::Relaxed), 2);
    drop((sender, receiver));
    assert_eq!(drops.load(Ordering::Relaxed), 9);
}

#[test]
fn capacities_that_no_queue_has_are_refused() {
    for capacity in [0, (1 << 30) + 1, usize::MAX] {
        let error = Ring::<u64>::new(capacity).unwrap_err().to_string();
        assert!(error.contains(&capacity.to_string()) && error.contains("Invalid argument"), "{error}");
    }
}

#[test]
fn each_value_reaches_one_of_many_threads_once() {
    const EACH: u64 = 20_000;
    let ring = Ring::new(64).unwrap();
    let sum = thread::scope(|scope| {
        let ring = &ring;
        for sender in 0..3 {
            scope.spawn(move || {
                for value in 0..EACH {
                    let mut value = Some(sender * EACH + value + 1);
                    while let Some(left) = value.take() {
                        value = ring.push(left).err();
                        if value.is_some() {
                            thread::yield_now();
                        }
                    }
                }
            });
        }
        let receive = move || {
            let (mut sum, mut count, mut got) = (0, 0, Vec::new());
            while count < 3 * EACH / 2 {
                // No more than this thread's share.
                let most = usize::try_from(3 * EACH / 2 - count).unwrap().min(8);
                if ring.pop_many(&mut got, most) == 0 {
                    thread::yield_now();
                }
                count += got.len() as u64;
                sum += got.drain(..).sum::<u64>();
            }
            sum
        };
        let receivers = [scope.spawn(receive), scope.spawn(receive)];
        receivers.into_iter().map(|receiver| receiver.join().unwrap()).sum::<u64>()
    });
    assert_eq!(sum, (1..=3 * EACH).sum());
    assert_eq!(ring.pop(), None);
}

#[test]
fn one_thread_sends_to_one_other_in_order() {
    let (mut sender, mut receiver) = channel(32).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut next, mut values) = (0_u64, Vec::new());
            while next < 50_000 || !values.is_empty() {
                while values.len() < 20 && next < 50_000 {
                    values.push(next);
                    next += 1;
                }
                if sender.push_many(&mut values) == 0 {
                    thread::yield_now();
                }
            }
        });
        let (mut got, mut expected) = (Vec::new(), 0);
        while expected < 50_000 {
            if receiver.pop_many(&mut got, 32) == 0 {
                thread::yield_now();
            }
            for value in got.drain(..) {
                assert_eq!(value, expected);
                expected += 1;
            }
        }
    });
}
