//! The Internet checksum against the naive loop and against the peers that are always at hand, and a copy with a sum of its
//! source against one with a sum of its destination.
//!
//! 20 bytes is an IPv4 header, 64 a small frame, 1,460 a full segment, 9,000 a jumbo frame, 65,535 a segment train.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ntytcp::wire::Sum;

const SIZES: [usize; 5] = [20, 64, 1_460, 9_000, 65_535];

/// The loop that RFC 1071 gives, word by word.
fn naive(data: &[u8]) -> u16 {
    let (words, odd) = data.as_chunks::<2>();
    let mut sum = 0u64;
    for word in words {
        sum += u64::from(u16::from_be_bytes(*word));
    }
    if let [last] = odd {
        sum += u64::from(*last) << 8;
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn sum(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for size in SIZES {
        let data: Vec<u8> = (0..size).map(|i| (i * 31 + 7) as u8).collect();
        assert_eq!(Sum::of(&data).finish(), naive(&data));
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::new("ours", size), &data, |b, data| {
            b.iter(|| Sum::of(black_box(data)).finish());
        });
        group.bench_with_input(BenchmarkId::new("naive", size), &data, |b, data| {
            b.iter(|| naive(black_box(data)));
        });
        group.bench_with_input(BenchmarkId::new("smoltcp", size), &data, |b, data| {
            b.iter(|| !smoltcp::wire::checksum::data(black_box(data)));
        });
        group.bench_with_input(BenchmarkId::new("etherparse", size), &data, |b, data| {
            b.iter(|| {
                etherparse::checksum::Sum16BitWords::new()
                    .add_slice(black_box(data))
                    .ones_complement()
                    .to_be()
            });
        });
    }
    group.finish();
}

fn copy(c: &mut Criterion) {
    let mut group = c.benchmark_group("copy");
    for size in SIZES {
        let src: Vec<u8> = (0..size).map(|i| (i * 31 + 7) as u8).collect();
        let mut dst = vec![0; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("copy-and-sum", size), |b| {
            b.iter(|| Sum::copy(black_box(&mut dst), black_box(&src)).finish());
        });
        group.bench_function(BenchmarkId::new("memcpy-then-sum-of-dst", size), |b| {
            b.iter(|| {
                black_box(&mut dst).copy_from_slice(black_box(&src));
                Sum::of(black_box(&dst)).finish()
            });
        });
        group.bench_function(BenchmarkId::new("memcpy", size), |b| {
            b.iter(|| black_box(&mut dst).copy_from_slice(black_box(&src)));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600)).sample_size(30);
    targets = sum, copy
}
criterion_main!(benches);
