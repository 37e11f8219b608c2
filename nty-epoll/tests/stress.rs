//! Threads: no wake-up is lost, no event is reported to two, nobody sleeps on work.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod common;

use common::Gate;
use nty_epoll::{Epoll, Event, Events, Pollable, Source, Waker};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A mailbox of counters: readable while more was sent than was taken.
#[derive(Default)]
struct Mailbox {
    sent: AtomicU64,
    taken: AtomicU64,
    source: Source,
}

impl Mailbox {
    fn drain(&self) -> u64 {
        let sent = self.sent.load(Ordering::Acquire);
        sent - self.taken.swap(sent, Ordering::AcqRel)
    }
}

impl Pollable for Mailbox {
    fn level(&self) -> Events {
        let some = self.sent.load(Ordering::Acquire) != self.taken.load(Ordering::Acquire);
        if some { Events::IN } else { Events::empty() }
    }

    fn source(&self) -> &Source {
        &self.source
    }
}

/// Ends the other threads of a test, also when it fails.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Sends `messages` over several mailboxes and waits until the other side has them all; a lost wake-up hangs
/// the waiter, which the generous limit turns into a failure.
fn deliver(messages: u64, mode: Events, lockstep: bool) {
    let epoll = Epoll::new().unwrap();
    let boxes: Vec<_> = (0..4).map(|_| Arc::new(Mailbox::default())).collect();
    for (i, mailbox) in boxes.iter().enumerate() {
        epoll.add(mailbox, Events::IN | mode, i as u64).unwrap();
    }
    let received = AtomicU64::new(0);
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut wakers: Vec<_> = boxes.iter().map(|b| Waker::new(b.clone())).collect();
            for n in 0..messages {
                let waker = &mut wakers[n as usize % 4];
                waker.sent.fetch_add(1, Ordering::Release);
                waker.wake(Events::IN);
                while lockstep && received.load(Ordering::Acquire) <= n {
                    std::hint::spin_loop();
                    std::thread::yield_now();
                }
            }
        });
        let mut out = [Event::default(); 3];
        while received.load(Ordering::Relaxed) < messages {
            let n = epoll.wait_for(&mut out, Some(Duration::from_secs(20))).unwrap();
            assert_ne!(n, 0, "asleep with {:?} of {messages} received", received);
            for event in &out[..n] {
                received.fetch_add(boxes[event.data as usize].drain(), Ordering::Release);
                if mode.contains(Events::ONESHOT) {
                    epoll.modify(&boxes[event.data as usize], Events::IN | mode, event.data).unwrap();
                }
            }
        }
    });
    assert_eq!(received.into_inner(), messages);
}

#[test]
fn no_wake_up_is_lost_in_a_flood() {
    for mode in [Events::empty(), Events::ET, Events::ONESHOT] {
        deliver(300_000, mode, false);
    }
}

#[test]
fn no_wake_up_is_lost_when_every_message_finds_the_waiter_going_to_sleep() {
    for mode in [Events::empty(), Events::ET, Events::ONESHOT] {
        deliver(20_000, mode, true);
    }
}

/// Two threads wait on one epoll, ONESHOT: each round's event goes to exactly one of them.
#[test]
fn a_oneshot_goes_to_one_of_several_waiters() {
    const ROUNDS: u64 = 20_000;
    let (epoll, gate) = (Epoll::new().unwrap(), Arc::new(Gate::default()));
    gate.set(Events::IN);
    let (reported, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let mode = Events::IN | Events::ONESHOT;
    epoll.add(&gate, mode, 0).unwrap();
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                let mut out = [Event::default(); 2];
                while !done.load(Ordering::Acquire) {
                    let n = epoll.wait_for(&mut out, Some(Duration::from_millis(5))).unwrap();
                    for event in &out[..n] {
                        // The data names the round: anyone else reporting it would have counted it already.
                        assert_eq!(reported.fetch_add(1, Ordering::AcqRel), event.data);
                        if event.data + 1 < ROUNDS {
                            epoll.modify(&gate, mode, event.data + 1).unwrap();
                        } else {
                            done.store(true, Ordering::Release);
                        }
                    }
                }
            });
        }
        s.spawn(|| {
            let mut waker = Waker::new(gate.clone());
            while !done.load(Ordering::Acquire) {
                waker.wake(Events::IN);
            }
        });
    });
    assert_eq!(reported.into_inner(), ROUNDS);
}

/// DEL against a waker in full flight: what was deleted is never reported by a wait that began later.
#[test]
fn nothing_is_reported_after_delete_while_the_waker_goes_on() {
    let (epoll, gate) = (Epoll::new().unwrap(), Arc::new(Gate::default()));
    gate.set(Events::IN);
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut waker = Waker::new(gate.clone());
            while !done.load(Ordering::Acquire) {
                waker.wake(Events::IN);
            }
        });
        let _ended = Ended(&done);
        let mut out = [Event::default(); 2];
        for round in 0..20_000 {
            epoll.add(&gate, Events::IN, round).unwrap();
            // Not with a timeout of 0: the waker may have claimed the registration and not put it into the ring yet.
            assert_eq!(epoll.wait_for(&mut out, Some(Duration::from_secs(20))), Ok(1));
            assert_eq!(out[0].data, round);
            epoll.delete(&gate).unwrap();
            assert_eq!(epoll.wait(&mut out, 0), Ok(0));
        }
    });
}
