//! `rte_ring` beside `crossbeam-queue`: a value in and out, alone and 32 at a time, and from one thread to another. After criterion's
//! figures come the ratios of rounds that took turns.

#![allow(missing_docs)] // criterion's macros make undocumented functions
#![allow(clippy::unwrap_used)] // a benchmark that cannot run says so and ends

use std::hint::{black_box, spin_loop};
use std::thread;
use std::time::{Duration, Instant};

use criterion::Criterion;
use crossbeam_queue::ArrayQueue;
use dpdk_sys::{Ring, channel};

const CAPACITY: usize = 1_024;
const BURST: usize = 32;
const ACROSS: u64 = 200_000;

/// A way to move values through both queues.
struct Pair {
    name: &'static str,
    values: u64,
    ours: Box<dyn FnMut()>,
    theirs: Box<dyn FnMut()>,
}

fn pairs() -> [Pair; 4] {
    let theirs = || ArrayQueue::<u64>::new(CAPACITY);
    let (mut sender, mut receiver) = channel::<u64>(CAPACITY).unwrap();
    let (many, other) = (Ring::<u64>::new(CAPACITY).unwrap(), theirs());
    let one = Pair {
        name: "one sender, one receiver: push, pop",
        values: 1,
        ours: Box::new(move || {
            sender.push(black_box(7)).unwrap();
            black_box(receiver.pop());
        }),
        theirs: Box::new(move || {
            other.push(black_box(7)).unwrap();
            black_box(other.pop());
        }),
    };
    let other = theirs();
    let any = Pair {
        name: "any senders and receivers: push, pop",
        values: 1,
        ours: Box::new(move || {
            many.push(black_box(7)).unwrap();
            black_box(many.pop());
        }),
        theirs: Box::new(move || {
            other.push(black_box(7)).unwrap();
            black_box(other.pop());
        }),
    };
    let (many, other) = (Ring::<u64>::new(CAPACITY).unwrap(), theirs());
    let (mut out, mut back) = ((0..BURST as u64).collect::<Vec<_>>(), Vec::with_capacity(BURST));
    let burst = Pair {
        name: "any senders and receivers: 32 in, 32 out",
        values: BURST as u64,
        ours: Box::new(move || {
            many.push_many(&mut out);
            many.pop_many(&mut back, BURST);
            std::mem::swap(&mut out, &mut back);
        }),
        theirs: Box::new(move || {
            for value in 0..BURST as u64 {
                other.push(black_box(value)).unwrap();
            }
            while let Some(value) = other.pop() {
                black_box(value);
            }
        }),
    };
    let across = Pair {
        name: "from one thread to another",
        values: ACROSS,
        ours: Box::new(|| {
            let (mut sender, mut receiver) = channel::<u64>(CAPACITY).unwrap();
            across(move |value| sender.push(value).is_ok(), move || receiver.pop());
        }),
        theirs: Box::new(move || {
            let queue = theirs();
            across(|value| queue.push(value).is_ok(), || queue.pop());
        }),
    };
    [one, any, burst, across]
}

fn across(mut push: impl FnMut(u64) -> bool + Send, mut pop: impl FnMut() -> Option<u64> + Send) {
    thread::scope(|scope| {
        scope.spawn(move || {
            for value in 0..ACROSS {
                while !push(value) {
                    spin_loop();
                    thread::yield_now();
                }
            }
        });
        for _ in 0..ACROSS {
            while pop().is_none() {
                spin_loop();
                thread::yield_now();
            }
        }
    });
}

/// The best of many short rounds that take turns: nanoseconds per value of ours, and of theirs.
fn best(pair: &mut Pair) -> (f64, f64) {
    const ROUND: Duration = Duration::from_millis(5);
    let round = |work: &mut dyn FnMut(), values: u64| {
        let (start, mut done) = (Instant::now(), 0);
        while start.elapsed() < ROUND {
            for _ in 0..(4_096 / values).max(1) {
                work();
            }
            done += (4_096 / values).max(1) * values;
        }
        start.elapsed().as_nanos() as f64 / done as f64
    };
    (0..40).fold((f64::MAX, f64::MAX), |(ours, theirs), _| {
        let (a, b) = (round(&mut *pair.ours, pair.values), round(&mut *pair.theirs, pair.values));
        (ours.min(a), theirs.min(b))
    })
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for Pair { name, mut ours, mut theirs, .. } in pairs() {
        let mut group = criterion.benchmark_group(name);
        group.bench_function("rte_ring", |b| b.iter(&mut ours));
        group.bench_function("crossbeam", |b| b.iter(&mut theirs));
    }
    criterion.final_summary();
    for mut pair in pairs() {
        let (ours, theirs) = best(&mut pair);
        println!(
            "{:<42} rte_ring {ours:6.1} ns, crossbeam {theirs:6.1} ns, ratio {:.2}",
            pair.name,
            theirs / ours
        );
    }
}
