//! Flow lookup against the standard library's hash map (hashbrown) under the same SipHash-1-3.

#![allow(missing_docs)] // criterion's macros make undocumented functions

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ntytcp::stack::demux::{FlowHasher, FlowKey, FlowTable};
use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

const SIZES: [u32; 2] = [1_000, 1_000_000];
/// Packets per receive burst.
const BURST: usize = 32;

fn flow(n: u32) -> FlowKey {
    FlowKey {
        local: [10, 0, 0, 1].into(),
        remote: (0x0B00_0000 + n / 50_000).to_be_bytes().into(),
        local_port: 443,
        remote_port: (n % 50_000) as u16 + 1_024,
    }
}

/// Cheap numbers without pattern.
fn scramble(n: u32) -> u32 {
    n.wrapping_mul(0x9E37_79B9).rotate_left(13).wrapping_mul(0x85EB_CA6B)
}

fn demux(c: &mut Criterion) {
    let hasher = FlowHasher::new([0x0123, 0x4567]);
    c.bench_function("demux/hash v4", |b| b.iter(|| hasher.hash(black_box(&flow(7)))));
    for flows in SIZES {
        // What the owner compares with: the connections' own keys.
        let keys: Vec<FlowKey> = (0..flows).map(flow).collect();
        let mut table = FlowTable::new();
        let mut map: HashMap<FlowKey, u32> = HashMap::new();
        for (key, n) in keys.iter().zip(0..) {
            table.insert(hasher.hash(key), n);
            map.insert(*key, n);
        }
        let mut group = c.benchmark_group("demux");
        group.throughput(Throughput::Elements(BURST as u64));
        let mut n = 0u32;
        let mut burst = move || -> [FlowKey; BURST] {
            core::array::from_fn(|_| {
                n = n.wrapping_add(1);
                flow(scramble(n) % flows)
            })
        };
        group.bench_function(BenchmarkId::new("burst, table touched", flows), |b| {
            b.iter(|| {
                let burst = burst();
                let hashes = burst.map(|key| hasher.hash(&key));
                hashes.iter().for_each(|&h| table.touch(h));
                let mut sum = 0;
                for (key, &hash) in burst.iter().zip(&hashes) {
                    sum += table.find(hash, |n| keys[n as usize] == *key).unwrap_or(0) as usize;
                }
                sum
            });
        });
        group.bench_function(BenchmarkId::new("burst, table", flows), |b| {
            b.iter(|| {
                let mut sum = 0;
                for key in burst() {
                    sum += table.find(hasher.hash(&key), |n| keys[n as usize] == key).unwrap_or(0) as usize;
                }
                sum
            });
        });
        // The table without the owner's comparison, which is a cache miss of the connection's that is needed anyway.
        group.bench_function(BenchmarkId::new("burst, table alone", flows), |b| {
            b.iter(|| {
                let burst = burst();
                let hashes = burst.map(|key| hasher.hash(&key));
                hashes.iter().for_each(|&h| table.touch(h));
                hashes.iter().map(|&h| table.find(h, |_| true).unwrap_or(0) as usize).sum::<usize>()
            });
        });
        group.bench_function(BenchmarkId::new("burst, HashMap", flows), |b| {
            b.iter(|| burst().iter().map(|key| map.get(key).copied().unwrap_or(0) as usize).sum::<usize>());
        });
        group.throughput(Throughput::Elements(1));
        let mut n = 0;
        group.bench_function(BenchmarkId::new("remove and insert, table", flows), |b| {
            b.iter(|| {
                n = (n + 1) % flows;
                let hash = hasher.hash(&keys[scramble(n) as usize % keys.len()]);
                table.remove(hash, scramble(n) % flows);
                table.insert(hash, scramble(n) % flows);
            });
        });
        group.bench_function(BenchmarkId::new("remove and insert, HashMap", flows), |b| {
            b.iter(|| {
                n = (n + 1) % flows;
                let key = keys[scramble(n) as usize % keys.len()];
                map.remove(&key);
                map.insert(key, n);
            });
        });
        group.finish();
    }
    growth(&hasher);
}

/// The slowest single insertion on the way to a million flows: what a packet that opens a connection may have to wait.
fn growth(hasher: &FlowHasher) {
    let slowest = |mut insert: Box<dyn FnMut(u32)>| {
        let (mut worst, start) = (Duration::ZERO, Instant::now());
        for n in 0..1_000_000 {
            let t = Instant::now();
            insert(n);
            worst = worst.max(t.elapsed());
        }
        (worst, start.elapsed())
    };
    let (mut table, mut map, hasher) = (FlowTable::new(), HashMap::new(), hasher.clone());
    let ours = slowest(Box::new(move |n| table.insert(hasher.hash(&flow(n)), n)));
    let theirs = slowest(Box::new(move |n| assert_eq!(map.insert(flow(n), n), None)));
    println!("demux/growth to 1M: slowest insertion, total: table {ours:?}, HashMap {theirs:?}");
}

criterion_group!(benches, demux);
criterion_main!(benches);
