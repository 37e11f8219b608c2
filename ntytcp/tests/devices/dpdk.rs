//! DPDK, over devices of its own: no card, no hugepages. EAL starts once per process, and each test is one.
#![allow(clippy::unwrap_used)] // A failed step is a failed test, in helpers too.

use std::sync::Arc;

use super::kit::*;
use ntytcp::device::dpdk::{DpdkConfig, DpdkDevice, start};
use ntytcp::device::spec::{self, OpenOptions};
use ntytcp::device::{Caps, Device, DeviceError, RxFrame, TxMeta, TxQueue, Verdict};
use ntytcp::steering::Steering;
use ntytcp::time::Instant;

/// What makes EAL start without hugepages.
pub(crate) const NO_HUGE: &str = "--no-huge -m 512 --iova-mode=va";

pub(crate) fn open_one(config: &DpdkConfig) -> DpdkDevice {
    let mut queues = DpdkDevice::open(config).unwrap();
    assert_eq!(queues.len(), 1);
    queues.pop().unwrap()
}

/// The device of this name, and EAL with it.
pub(crate) fn open(device: &str) -> DpdkDevice {
    open_one(&DpdkConfig::new(format!("{device} {NO_HUGE}")))
}

/// The ends of a wire, on which `size` - 1 frames may be under way in each direction.
fn wire(size: u32, change: impl Fn(&mut DpdkConfig)) -> (DpdkDevice, DpdkDevice) {
    let (left, right) = dpdk_sys::wire(start(NO_HUGE).unwrap(), &name(), size).unwrap();
    let open = |port| {
        let mut config = DpdkConfig::new(port);
        change(&mut config);
        open_one(&config)
    };
    (open(left), open(right))
}

/// Frame `number`: its length and every byte depend on it.
fn frame(number: usize, longest: usize) -> Vec<u8> {
    (0..60 + number * 37 % (longest - 59)).map(|at| (at * 7 + number * 13) as u8).collect()
}

/// Puts the frame into the device, if it has room; where it lies.
fn put(device: &mut DpdkDevice, frame: &[u8]) -> Option<*const u8> {
    let place = device.reserve(frame.len())?;
    place.copy_from_slice(frame);
    let at = place.as_ptr();
    device.commit(TxMeta::default());
    Some(at)
}

/// All that waits for the device.
fn take(device: &mut DpdkDevice) -> Vec<Vec<u8>> {
    let mut taken = Vec::new();
    while device.rx_burst(&mut |frames| taken.extend(frames.iter().map(|f| f.bytes().to_vec()))).unwrap() > 0
    {
    }
    taken
}

pub(crate) fn count(device: &DpdkDevice, name: &str) -> u64 {
    device.stats().iter().find(|(n, _)| *n == name).unwrap().1
}

#[test]
fn frames_cross_a_wire_and_are_answered_in_their_buffers() {
    if !inside("dpdk::frames_cross_a_wire_and_are_answered_in_their_buffers") {
        return;
    }
    let (mut left, mut right) = wire(256, |_| {});
    assert_eq!(*left.caps(), Caps::plain(1500));
    // More than there are buffers: all come back.
    for round in 0..200 {
        let frames: Vec<_> = (0..60).map(|i| frame(round * 60 + i, 1514)).collect();
        let places: Vec<_> = frames.iter().map(|frame| put(&mut left, frame).unwrap()).collect();
        left.flush().unwrap();
        let mut seen = 0;
        right
            .rx_burst(&mut |burst| {
                for (frame, expected) in burst.iter_mut().zip(&frames) {
                    assert_eq!(frame.bytes(), expected);
                    assert!(frame.capacity() >= 1600 && frame.start() >= 64);
                    frame.verdict = match seen % 4 {
                        0 => Verdict::Done,
                        1 => Verdict::Reply(TxMeta::default()),
                        2 => {
                            assert!(frame.prepend(4));
                            frame.bytes_mut()[..4].copy_from_slice(b"head");
                            Verdict::Reply(TxMeta::default())
                        }
                        _ => {
                            assert!(frame.set_len(50) && frame.set_len(1600));
                            Verdict::Reply(TxMeta::default())
                        }
                    };
                    seen += 1;
                }
            })
            .unwrap();
        assert_eq!(seen, 60);
        right.flush().unwrap();
        let (mut answers, mut at) = (0, 0);
        let check = &mut |burst: &mut [RxFrame<'_>]| {
            for frame in burst {
                at += usize::from(at % 4 == 0);
                let (bytes, expected) = (frame.bytes(), &frames[at]);
                match at % 4 {
                    1 => assert_eq!((bytes, bytes.as_ptr()), (&expected[..], places[at]), "no copy"),
                    2 => assert_eq!((&bytes[..4], &bytes[4..]), (&b"head"[..], &expected[..])),
                    _ => assert_eq!((bytes.len(), &bytes[..50]), (1600, &expected[..50])),
                }
                (answers, at) = (answers + 1, at + 1);
            }
        };
        while left.rx_burst(check).unwrap() > 0 {}
        assert_eq!(answers, 45);
    }
    let sent = count(&left, "dpdk-tx-good-packets");
    assert_eq!((sent, count(&right, "dpdk-rx-good-packets")), (12_000, 12_000));
}

#[test]
fn a_full_way_out_loses_nothing_and_keeps_the_order() {
    if !inside("dpdk::a_full_way_out_loses_nothing_and_keeps_the_order") {
        return;
    }
    let (mut left, mut right) = wire(64, |_| {});
    let (mut sent, mut received) = (0, Vec::new());
    let mut full = 0;
    while received.len() < 20_000 {
        while sent < 20_000 && put(&mut left, &frame(sent, 200)).is_some() {
            sent += 1;
        }
        full += u32::from(sent < 20_000);
        left.set_now(Instant::from_nanos(1_000));
        left.flush().unwrap();
        let soon = Instant::from_nanos(1_000_000);
        assert!(sent == 20_000 || left.next_deadline().is_some_and(|at| at < soon), "it will try again");
        received.extend(take(&mut right));
    }
    assert!(full > 100);
    assert!(received.iter().enumerate().all(|(number, bytes)| *bytes == frame(number, 200)));
    assert_eq!((count(&left, "dpdk-tx-full"), take(&mut right).len()), (0, 0));
}

#[test]
fn answers_wait_for_a_full_way_out_and_receiving_goes_on() {
    if !inside("dpdk::answers_wait_for_a_full_way_out_and_receiving_goes_on") {
        return;
    }
    // What fits: the wire, and what waits in the device.
    const ANSWERS: usize = 63 + 512;
    let (mut left, mut right) = wire(64, |_| {});
    let (mut sent, mut answered) = (0, 0);
    while answered < ANSWERS + 40 {
        while sent < ANSWERS + 40 && put(&mut left, &frame(sent, 200)).is_some() {
            sent += 1;
        }
        left.flush().unwrap();
        answered += right
            .rx_burst(&mut |burst| {
                burst.iter_mut().for_each(|frame| frame.verdict = Verdict::Reply(TxMeta::default()));
            })
            .unwrap();
        right.flush().unwrap();
    }
    assert_eq!(count(&right, "dpdk-tx-full"), 40);
    let mut back = Vec::new();
    while back.len() < ANSWERS {
        back.extend(take(&mut left));
        right.flush().unwrap();
    }
    assert!(back.iter().enumerate().all(|(number, bytes)| *bytes == frame(number, 200)));
    assert_eq!(take(&mut left), [] as [Vec<u8>; 0]);
}

#[test]
fn jumbo_frames_fit_one_buffer() {
    if !inside("dpdk::jumbo_frames_fit_one_buffer") {
        return;
    }
    let (mut left, mut right) = wire(256, |config| config.mtu = Some(9_000));
    assert_eq!(left.caps().mtu, 9_000);
    let frames: Vec<_> = (0..50).map(|number| frame(number * 101, 9_022)).collect();
    assert!(frames.iter().all(|frame| put(&mut left, frame).is_some()));
    assert_eq!(left.reserve(9_023), None);
    left.flush().unwrap();
    assert_eq!(take(&mut right), frames);
}

#[test]
fn a_reservation_that_is_given_up_sends_nothing() {
    if !inside("dpdk::a_reservation_that_is_given_up_sends_nothing") {
        return;
    }
    let (mut left, mut right) = wire(64, |_| {});
    left.commit(TxMeta::default());
    for _ in 0..10_000 {
        left.reserve(100).unwrap();
    }
    put(&mut left, &frame(1, 200)).unwrap();
    left.commit(TxMeta::default());
    left.flush().unwrap();
    assert_eq!(take(&mut right), [frame(1, 200)]);
}

#[test]
fn checksums_are_finished_where_the_driver_does_not() {
    if !inside("dpdk::checksums_are_finished_where_the_driver_does_not") {
        return;
    }
    let (mut left, mut right) = wire(64, |_| {});
    let (frame, checksum) = packet([2; 6], UDP, &[0, 99, 20, 233, 0, 11, 0, 0, b'a', b'b', b'c'], 6);
    send(&mut left, &frame, TxMeta { checksum, gso: None });
    let received = take(&mut right).pop().unwrap();
    let pseudo = [&received[26..34], &[0, UDP], &received[38..40]].concat();
    assert_eq!(fold(&[&pseudo, &received[34..]].concat()), 0xffff);
}

#[test]
fn a_process_has_several_ports_and_each_queue_is_a_device() {
    if !inside("dpdk::a_process_has_several_ports_and_each_queue_is_a_device") {
        return;
    }
    let first = open("net_null0,size=100");
    let mut config = DpdkConfig::new("net_null1,size=200");
    config.steering = Some(Arc::new(Steering::with_key(3, [7; 40])));
    let mut queues = DpdkDevice::open(&config).unwrap();
    assert_eq!(queues.len(), 3);
    for queue in &mut queues {
        assert!(
            queue.rx_burst(&mut |burst| assert!(burst.iter().all(|frame| frame.len() == 200))).unwrap() > 0
        );
    }
    assert_eq!(count(&queues[0], "dpdk-rx-q2-packets"), 64);
    assert!(queues[1].stats().iter().all(|(name, _)| *name != "dpdk-rx-good-packets"), "told once");
    drop(first);
    // On other threads, one after the other, too.
    for queue in queues {
        std::thread::spawn(move || {
            let mut queue = queue;
            assert_eq!(queue.rx_burst(&mut |_| {}).unwrap(), 64);
        })
        .join()
        .unwrap();
    }
    // The device is gone with its last queue, and may come again.
    for _ in 0..30 {
        assert_eq!(open_one(&DpdkConfig::new("net_null1,size=300")).rx_burst(&mut |_| {}).unwrap(), 64);
    }
    assert_eq!(start(NO_HUGE).unwrap().ports(), [] as [String; 0]);
}

#[test]
fn the_first_port_that_is_not_open_is_taken() {
    if !inside("dpdk::the_first_port_that_is_not_open_is_taken") {
        return;
    }
    let all = format!("{NO_HUGE} --vdev net_null0 --vdev net_null1");
    let (first, second) = (open_one(&DpdkConfig::new(&*all)), open_one(&DpdkConfig::new(&*all)));
    assert_eq!((first.port().name(), second.port().name()), ("net_null0", "net_null1"));
    let mut third = spec::open("dpdk:net_null2", &OpenOptions::default()).unwrap();
    assert!(third.rx_burst(&mut |_| {}).unwrap() > 0);
    let error = DpdkDevice::open(&DpdkConfig::new(&*all)).unwrap_err().to_string();
    assert!(error.contains("net_null0") && error.contains("is open already"), "{error}");
}

#[test]
fn errors_are_one_line_with_the_remedy() {
    if !inside("dpdk::errors_are_one_line_with_the_remedy") {
        return;
    }
    let message = |config: &DpdkConfig| {
        let error = DpdkDevice::open(config).unwrap_err();
        assert!(matches!(error, DeviceError::Config(_)));
        let message = error.to_string();
        assert!(message.starts_with(&format!("dpdk:{}: ", config.argument)), "{message}");
        assert!(!message.contains('\n'), "{message}");
        message
    };
    let says = |argument: &str, expected: &str| {
        let message = message(&DpdkConfig::new(argument));
        assert!(message.contains(expected), "{message}");
    };
    says("fffe:ff:1f.7", "there is no PCI device fffe:ff:1f.7: `nty devices` lists");
    let device = open("net_null0");
    says("net_null0", "is open already");
    says("--file-prefix x", "EAL runs already, with `--no-huge -m 512 --iova-mode=va`");
    says(NO_HUGE, "all ports are open: net_null0");
    says("net_nonsense0", "is the driver's name right");
    let mut config = DpdkConfig::new("net_null1");
    config.mtu = Some(65_001);
    assert!(message(&config).contains("give at most 65000"));
    drop(device);
    says(NO_HUGE, "no port: name a device");
}
