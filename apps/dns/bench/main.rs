//! Nanoseconds per answer at 10 and at 100,000 names, in random order of names. The peer in the same run is
//! `hickory-proto`: it parses the same request and serialises the same answer, without looking anything up. Before that, what a
//! query takes from ring to ring, by part.

#![allow(clippy::expect_used)] // A bench that cannot set itself up may stop.

mod ring;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group};
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use nty_apps::dns::{Transport, UDP_PAYLOAD_MAX, ZoneSpec, Zones};

const UDP: Transport = Transport::Udp { max: UDP_PAYLOAD_MAX };

/// A zone with the hosts `host0..` and a wildcard.
fn zones(names: usize) -> Zones {
    let mut text =
        String::from("$TTL 3600\n@ SOA ns host 1 2 3 4 5\n@ NS ns\nns A 192.0.2.53\n*.wild A 192.0.2.99\n");
    for i in 0..names {
        text += &format!("host{i} A 192.0.{}.{}\n", i >> 8 & 0xFF, i & 0xFF);
    }
    let file = std::env::temp_dir().join(format!("nty-dns-bench-{}-{names}", std::process::id()));
    std::fs::write(&file, text).expect("the temporary directory is writable");
    let spec: ZoneSpec = format!("example.test={}", file.display()).parse().expect("a good spec");
    let zones = Zones::load(&[spec], [1, 2]).expect("a good zone");
    let _ = std::fs::remove_file(&file);
    zones
}

fn request(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message.to_vec().expect("a message")
}

/// 1,024 requests for names that a multiplicative walk spreads over the zone.
fn requests(name: impl Fn(usize) -> String) -> Vec<Vec<u8>> {
    (0..1_024_usize).map(|i| request(&name(i.wrapping_mul(0x9E37_79B1)))).collect()
}

/// One frame per request, so that the buffers are as cold as a ring's.
struct Frames {
    requests: Vec<Vec<u8>>,
    next: usize,
}

impl Frames {
    /// The requests, from the first on.
    fn new(name: impl Fn(usize) -> String) -> Self {
        Self { requests: requests(name), next: 0 }
    }

    fn next(&mut self) -> &[u8] {
        self.next = (self.next + 1) % self.requests.len();
        &self.requests[self.next]
    }
}

fn answers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dns/answer");
    group.throughput(Throughput::Elements(1));
    for names in [10, 100_000] {
        let zones = zones(names);
        let mut bench = |what: &str, name: &dyn Fn(usize) -> String| {
            let mut frames = Frames::new(name);
            let mut frame = [0; 2_048];
            group.bench_function(format!("{what}/{names} names"), |b| {
                b.iter(|| {
                    let request = frames.next();
                    frame[..request.len()].copy_from_slice(request);
                    black_box(zones.answer(&mut frame, request.len(), UDP))
                });
            });
        };
        bench("A", &|i| format!("host{}.example.test.", i % names));
        bench("wildcard", &|i| format!("x{i}.wild.example.test."));
        bench("NXDOMAIN", &|i| format!("x{i}.example.test."));
    }
    let mut frames = Frames::new(|i| format!("host{}.example.test.", i % 100_000));
    group.bench_function("A/hickory-proto parse + serialise", |b| {
        b.iter_batched_ref(
            || frames.next().to_vec(),
            |request| {
                let mut message = Message::from_vec(request).expect("a query");
                let name = message.queries[0].name().clone();
                message.add_answer(Record::from_rdata(name, 3600, RData::A(A::new(192, 0, 2, 1))));
                black_box(message.into_response().to_vec().expect("an answer"))
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, answers);

fn main() {
    let hosts = |names| requests(move |i| format!("host{}.example.test.", i % names));
    let strangers = requests(|i| format!("host{}.example.org.", i % 10));
    ring::report([10, 100_000].map(|names| (names, zones(names))), hosts, &strangers);
    benches();
    Criterion::default().configure_from_args().final_summary();
}
