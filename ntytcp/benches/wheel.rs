//! The timing wheel: push a timer back (each ACK does), arm and cancel, and let all come due.

#![allow(missing_docs)] // criterion's macros make undocumented functions

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ntytcp::time::{Duration, Instant};
use ntytcp::wheel::Wheel;
use std::hint::black_box;

const SIZES: [u32; 2] = [1_000, 1_000_000];

/// Cheap numbers without pattern.
fn scramble(n: u32) -> u32 {
    n.wrapping_mul(0x9E37_79B9).rotate_left(13).wrapping_mul(0x85EB_CA6B)
}

/// All keys armed between 200 ms and 4.5 s from the origin.
fn full(keys: u32) -> Wheel {
    let mut wheel = Wheel::new(Instant::ZERO);
    (0..keys).for_each(|key| wheel.arm(key, at(key)));
    wheel
}

fn at(n: u32) -> Instant {
    Instant::from_millis(200) + Duration::from_nanos(u64::from(scramble(n)))
}

fn wheel(c: &mut Criterion) {
    let mut group = c.benchmark_group("wheel");
    for keys in SIZES {
        let mut armed = full(keys);
        let mut n = 0u32;
        group.bench_function(BenchmarkId::new("re-arm", keys), |b| {
            b.iter(|| {
                n = n.wrapping_add(1);
                armed.arm(black_box(scramble(n) % keys), at(n));
            });
        });
        group.bench_function(BenchmarkId::new("cancel and arm", keys), |b| {
            b.iter(|| {
                n = n.wrapping_add(1);
                let key = black_box(scramble(n) % keys);
                armed.cancel(key);
                armed.arm(key, at(n));
            });
        });
        group.bench_function(BenchmarkId::new("next", keys), |b| b.iter(|| black_box(&armed).next()));
        // Every key comes due, and is armed again, in steps of 100 us as a polling loop makes them.
        let (mut now, mut popped) = (Instant::ZERO, 0u32);
        group.bench_function(BenchmarkId::new("poll, pop and arm", keys), |b| {
            b.iter(|| {
                loop {
                    if let Some(key) = armed.pop(now) {
                        popped = popped.wrapping_add(1);
                        armed.arm(key, now + Duration::from_nanos(200_000_000 + u64::from(scramble(popped))));
                        break;
                    }
                    now = armed.next().map_or(now, |next| next.max(now));
                }
            });
        });
        group.throughput(Throughput::Elements(u64::from(keys)));
        group.sample_size(10);
        group.bench_function(BenchmarkId::new("pop all", keys), |b| {
            b.iter_batched(
                || full(keys),
                |mut wheel| {
                    while wheel.next().is_some() {
                        black_box(wheel.pop(Instant::from_millis(10_000)));
                    }
                    wheel
                },
                BatchSize::PerIteration,
            );
        });
    }
}

criterion_group!(benches, wheel);
criterion_main!(benches);
