use etherparse::PacketBuilder;

use super::*;
use crate::device::sys::{PollFd, poll};
use crate::placement::Transport;
use crate::rng::{Rng, seed_from};
use crate::steering::Steering;

/// Shards on the near ends of as many cables as there are queues, and the far ends.
fn shards(shards: usize, queues: usize, config: MemConfig) -> (Vec<Lanes>, Vec<MemDevice>) {
    let placement = Arc::new(Placement::new(Arc::new(Steering::new(shards, &mut Rng::new(seed_from(7))))));
    let (near, far): (Vec<BoxedDevice>, Vec<_>) =
        (0..queues).map(|_| pair(config)).map(|(near, far)| (Box::new(near) as BoxedDevice, far)).unzip();
    (connect(near, &placement).unwrap(), far)
}

fn datagram(from_port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let headers = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    headers.udp(from_port, 53).write(&mut frame, &from_port.to_be_bytes()).unwrap();
    frame
}

fn arp() -> Vec<u8> {
    let mut frame = vec![0; 60];
    (frame[12], frame[13]) = (8, 6);
    frame
}

fn send(device: &mut impl Device, frame: &[u8]) -> bool {
    let Some(room) = device.reserve(frame.len()) else { return false };
    room.copy_from_slice(frame);
    device.commit(TxMeta::default());
    device.flush().unwrap();
    true
}

/// What arrives with one burst, each frame with this verdict.
fn receive(device: &mut impl Device, verdict: Verdict) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    let take = &mut |burst: &mut [RxFrame<'_>]| {
        for frame in burst {
            got.push(frame.bytes().to_vec());
            frame.verdict = verdict;
        }
    };
    device.rx_burst(take).unwrap();
    device.flush().unwrap();
    got
}

fn drain(device: &mut impl Device) -> Vec<Vec<u8>> {
    let bursts = core::iter::repeat_with(|| receive(device, Verdict::Done));
    bursts.take_while(|burst| !burst.is_empty()).flatten().collect()
}

fn stat(device: &impl Device, name: &str) -> u64 {
    device.stats().into_iter().find(|(known, _)| *known == name).unwrap().1
}

#[test]
fn every_frame_reaches_its_shard_in_order_wherever_it_arrives() {
    for queues in 1..=3 {
        let (mut shards, mut far) = shards(3, queues, MemConfig::default());
        let placement = shards[0].placement.clone();
        for port in 1..=300 {
            assert!(send(&mut far[usize::from(port) % queues], &datagram(port)));
        }
        let mut got: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 3];
        for _ in 0..20 {
            for (shard, got) in shards.iter_mut().zip(&mut got) {
                got.extend(receive(shard, Verdict::Done));
            }
        }
        for (shard, got) in got.iter().enumerate() {
            let ours =
                (1..=300).map(datagram).filter(|frame| placement.home(frame, false) == Home::Shard(shard));
            let mut ours: Vec<_> = ours.collect();
            let mut got = got.clone();
            if queues > 1 {
                (ours.sort(), got.sort()).1
            }
            assert!(got == ours && got.len() > 50, "shard {shard} of {queues} queues: {} frames", got.len());
        }
        let handed_over: u64 = shards.iter().map(|shard| stat(shard, "lane-handed-over")).sum();
        assert!((150..300).contains(&handed_over), "{handed_over}");
    }
}

#[test]
fn who_has_no_queue_sends_and_answers_through_others() {
    let (mut shards, mut far) = shards(3, 1, MemConfig::offloading());
    assert_eq!(shards[2].caps(), shards[0].caps());
    assert!(send(&mut shards[2], &datagram(1)) && send(&mut shards[1], &datagram(2)));
    receive(&mut shards[0], Verdict::Done);
    let mut sent = drain(&mut far[0]);
    sent.sort();
    assert_eq!(sent, [datagram(1), datagram(2)]);

    for port in 1..=60 {
        assert!(send(&mut far[0], &datagram(port)));
    }
    for _ in 0..4 {
        shards.iter_mut().for_each(|shard| drop(receive(shard, Verdict::Reply(TxMeta::default()))));
    }
    let mut answers = drain(&mut far[0]);
    answers.sort();
    assert_eq!(answers, (1..=60).map(datagram).collect::<Vec<_>>());
}

#[test]
fn address_resolution_is_heard_by_all_and_answered_by_the_first() {
    for at in [0, 1] {
        let (mut shards, mut far) = shards(3, 2, MemConfig::default());
        assert!(send(&mut far[at], &arp()));
        let mut heard = [0; 3];
        for _ in 0..4 {
            for (shard, heard) in shards.iter_mut().zip(&mut heard) {
                *heard += receive(shard, Verdict::Reply(TxMeta::default())).len();
            }
        }
        assert_eq!(heard, [1, 1, 1]);
        let answers: usize = far.iter_mut().map(|far| drain(far).len()).sum();
        assert_eq!(answers, 1);
    }
}

#[test]
fn a_full_wire_holds_back_what_others_send_and_loses_nothing() {
    let (mut shards, mut far) = shards(2, 1, MemConfig::default().ring(8));
    let (mut sent, mut got) = (0_u16, Vec::new());
    while sent < 5_000 {
        while sent < 5_000 && send(&mut shards[1], &datagram(sent)) {
            sent += 1;
        }
        receive(&mut shards[0], Verdict::Done);
        let blocked = shards[0].is_blocked;
        assert_eq!(blocked, shards[0].next_deadline().is_some());
        assert!(!blocked || shards[0].arm(), "it does not spin");
        got.extend(drain(&mut far[0]));
    }
    while got.len() < 5_000 {
        receive(&mut shards[0], Verdict::Done);
        got.extend(drain(&mut far[0]));
    }
    assert!(got.into_iter().eq((0..5_000).map(datagram)));
}

#[test]
fn what_a_shard_that_does_not_look_cannot_take_is_lost_and_counted() {
    let (mut shards, mut far) = shards(2, 1, MemConfig::default());
    let mut handed_over = 0;
    for port in 1..4_000 {
        assert!(send(&mut far[0], &datagram(port)));
        handed_over += u64::from(shards[0].placement.home(&datagram(port), false) == Home::Shard(1));
        receive(&mut shards[0], Verdict::Done);
    }
    assert_eq!(stat(&shards[0], "lane-handed-over"), RING as u64);
    assert_eq!(stat(&shards[0], "lane-full"), handed_over - RING as u64);
    let taken: usize = (0..100).map(|_| receive(&mut shards[1], Verdict::Done).len()).sum();
    assert_eq!(taken, RING);
}

#[test]
fn the_end_of_a_shard_is_no_end_of_others_but_of_those_it_carried() {
    let (mut shards, mut far) = shards(3, 2, MemConfig::default());
    drop(shards.remove(1));
    for port in 1..4_000 {
        assert!(send(&mut far[0], &datagram(port)));
        receive(&mut shards[0], Verdict::Done);
        receive(&mut shards[1], Verdict::Done);
    }
    // The other carrier steps in.
    for port in 0..10 {
        assert!(send(&mut shards[1], &datagram(port)));
        receive(&mut shards[0], Verdict::Done);
    }
    assert_eq!(drain(&mut far[0]).len(), 10);
    drop(shards.remove(0));
    assert!(!send(&mut shards[0], &datagram(1)));
    let error = shards[0].rx_burst(&mut |_| {}).unwrap_err().to_string();
    assert_eq!(error, "the shards that have the device's queues have ended");
}

#[test]
fn a_sleeping_shard_is_woken_by_what_is_put_on_its_lane() {
    let (mut shards, mut far) = shards(2, 1, MemConfig::default());
    assert_eq!(shards[0].poll_fd(), None, "a memory link can only be polled");
    let mut fds = [PollFd::readable(shards[1].poll_fd().unwrap())];
    let mut is_readable = || poll(&mut fds, Some(std::time::Duration::ZERO)).unwrap() > 0;
    let port =
        (1..).find(|&port| shards[0].placement.home(&datagram(port), false) == Home::Shard(1)).unwrap();
    for _ in 0..3 {
        assert!(shards[1].arm() && !is_readable());
        assert!(send(&mut far[0], &datagram(port)));
        receive(&mut shards[0], Verdict::Done);
        assert!(is_readable());
        assert_eq!(receive(&mut shards[1], Verdict::Done).len(), 1);
        assert!(!is_readable(), "the bell is silent again");
        // What came before the sleep is seen without a bell.
        assert!(send(&mut far[0], &datagram(port)));
        receive(&mut shards[0], Verdict::Done);
        assert!(!is_readable() && !shards[1].arm());
        assert_eq!(receive(&mut shards[1], Verdict::Done).len(), 1);
    }
}

#[test]
fn a_port_of_one_shard_is_served_there() {
    let (mut shards, mut far) = shards(2, 2, MemConfig::default());
    shards[0].placement.open(Transport::Udp, 53, 1);
    for port in 1..=40 {
        assert!(send(&mut far[0], &datagram(port)));
    }
    assert_eq!(receive(&mut shards[0], Verdict::Done).len(), 0);
    assert_eq!(receive(&mut shards[1], Verdict::Done).len(), 40);
}
