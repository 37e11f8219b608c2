//! The FIFO, one thread, write and read of one message at a time, against a `VecDeque<u8>` and a locked one.
//!
//! `drained` is a request and its answer: the FIFO runs dry each time. `streaming` keeps a message in the FIFO, as a bulk
//! transfer does.

#![allow(missing_docs)] // criterion's macros make undocumented functions

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ntytcp::fifo::{Home, PagePool, fifo};
use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::{Mutex, PoisonError};

const SIZES: [usize; 3] = [64, 1_460, 64 << 10];

/// Reads `out.len()` bytes in at most two copies, as a careful user of `VecDeque` would.
fn pop(queue: &mut VecDeque<u8>, out: &mut [u8]) {
    let (a, b) = queue.as_slices();
    let n = a.len().min(out.len());
    let rest = out.len() - n;
    out[..n].copy_from_slice(&a[..n]);
    out[n..].copy_from_slice(&b[..rest]);
    queue.drain(..out.len());
}

fn write_read(c: &mut Criterion) {
    for (name, ahead) in [("drained", 0), ("streaming", 1)] {
        let mut group = c.benchmark_group(format!("fifo/{name}"));
        for size in SIZES {
            let (data, mut out) = (vec![7; size], vec![0; size]);
            group.throughput(Throughput::Bytes(size as u64));
            let (mut tx, mut rx) = fifo(&PagePool::new(64), 1 << 20, Home::Producer);
            (0..ahead).for_each(|_| assert_eq!(tx.write(&data), size));
            group.bench_function(BenchmarkId::new("fifo", size), |b| {
                b.iter(|| {
                    tx.write(black_box(&data));
                    rx.read(black_box(&mut out))
                });
            });
            let mut queue = VecDeque::with_capacity(1 << 20);
            (0..ahead).for_each(|_| queue.extend(&data));
            group.bench_function(BenchmarkId::new("vecdeque", size), |b| {
                b.iter(|| {
                    queue.extend(black_box(&data));
                    pop(&mut queue, black_box(&mut out));
                });
            });
            let locked = Mutex::new(queue);
            group.bench_function(BenchmarkId::new("mutex", size), |b| {
                b.iter(|| {
                    locked.lock().unwrap_or_else(PoisonError::into_inner).extend(black_box(&data));
                    pop(&mut locked.lock().unwrap_or_else(PoisonError::into_inner), black_box(&mut out));
                });
            });
        }
    }
}

/// What sending does: peek one segment after the other of a full window, then acknowledge it all.
fn peek_window(c: &mut Criterion) {
    const SEGMENTS: usize = 100;
    let mut group = c.benchmark_group("fifo/peek");
    group.throughput(Throughput::Elements(SEGMENTS as u64));
    let (mut tx, mut rx) = fifo(&PagePool::new(64), 1 << 20, Home::Producer);
    let data = vec![7; SEGMENTS * 1_460];
    let mut frame = [0; 1_460];
    group.bench_function("100 segments", |b| {
        b.iter(|| {
            tx.write(&data);
            for i in 0..SEGMENTS {
                rx.copy_to(i * 1_460, black_box(&mut frame));
            }
            rx.discard_all()
        });
    });
}

/// A pool in which the page freed last is not the one given out next would show here: many FIFOs, each used in turn.
fn many_fifos(c: &mut Criterion) {
    let pool = PagePool::new(1 << 12);
    let mut fifos: Vec<_> = (0..4_096).map(|_| fifo(&pool, 1 << 16, Home::Producer)).collect();
    // All pages have been used once.
    fifos.iter_mut().for_each(|(tx, _)| assert_eq!(tx.write(&[1; 64]), 64));
    fifos.iter_mut().for_each(|(_, rx)| assert_eq!(rx.discard_all(), 64));
    let (data, mut out) = ([7; 64], [0; 64]);
    let mut i = 0;
    c.bench_function("fifo/request on one of 4096", |b| {
        b.iter(|| {
            i = (i + 1) % fifos.len();
            let (tx, rx) = &mut fifos[i];
            tx.write(black_box(&data));
            rx.read(black_box(&mut out))
        });
    });
}

criterion_group!(benches, write_read, peek_window, many_fifos);
criterion_main!(benches);
