//! The wire formats as a whole: generated and mutated frames read alike by this crate, by smoltcp and by etherparse, and no
//! bytes that make a parser panic.

#![allow(clippy::unwrap_used, clippy::expect_used)] // The helpers of tests fail by panicking.

mod frames;
mod oracles;

use ntytcp::wire::{EthernetHeader, Icmpv4Message, Ipv4Header, Ipv6Header, TcpHeader, TcpOptions, UdpHeader};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn generated_frames_are_valid_and_read_alike_by_three_parsers(frame in frames::frame()) {
        // Not vacuous: each layer of a generated frame is valid.
        prop_assert!(oracles::frame(&frame), "{frame:02x?}");
        oracles::reemit(&frame);
    }

    #[test]
    fn mutated_frames_are_read_alike_by_three_parsers(
        mut frame in frames::frame(),
        mutations in prop::collection::vec(frames::mutation(), 1..4),
        repair: bool,
    ) {
        mutations.iter().for_each(|mutation| mutation.apply(&mut frame));
        if repair {
            oracles::repair_checksums(&mut frame);
        }
        oracles::frame(&frame);
        oracles::reemit(&frame);
    }

    #[test]
    fn arbitrary_bytes_are_read_alike_at_every_layer(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        oracles::every_layer(&bytes);
    }

    #[test]
    fn option_areas_are_read_alike(area in frames::option_area()) {
        oracles::tcp_options(&area);
    }

    #[test]
    fn tcp_headers_round_trip(header in frames::tcp_header(), data in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut segment = vec![0xaa; header.header_len() + data.len()];
        prop_assert_eq!(header.emit(&mut segment), Some(header.header_len()));
        segment[header.header_len()..].copy_from_slice(&data);
        let (parsed, payload) = TcpHeader::parse(&segment).unwrap();
        prop_assert_eq!(payload, &data[..]);
        let fits = frames::with_blocks_that_fit(header);
        prop_assert_eq!(parsed, fits);
    }

    #[test]
    fn emitting_into_any_length_writes_all_or_nothing(header in frames::tcp_header(), len in 0usize..70) {
        let mut buf = vec![0x5a; len];
        match header.emit(&mut buf) {
            Some(n) => prop_assert!(n <= len && buf[n..].iter().all(|&b| b == 0x5a)),
            None => prop_assert!(len < header.header_len() && buf.iter().all(|&b| b == 0x5a)),
        }
    }
}

#[test]
fn every_prefix_of_a_valid_frame_is_survived() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..50 {
        let frame = frames::frame().new_tree(&mut runner).unwrap().current();
        for len in 0..frame.len() {
            oracles::frame(&frame[..len]);
            oracles::every_layer(&frame[frame.len() - len..]);
        }
    }
}

#[test]
fn committed_corpus_is_valid_and_read_alike() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let files = |target: &str| {
        let entries = std::fs::read_dir(corpus.join(target)).expect("the corpus is part of the repository");
        entries
            .map(|entry| entry.unwrap().path())
            .map(|path| (std::fs::read(&path).unwrap(), path))
            .collect::<Vec<_>>()
    };
    for (frame, path) in files("wire_frame").into_iter().chain(files("wire_differential")) {
        assert!(oracles::frame(&frame), "{}", path.display());
        oracles::reemit(&frame);
    }
    for (area, _) in files("wire_tcp_options") {
        oracles::tcp_options(&area);
    }
}

/// The sizes matter: headers live on the stack and are copied per packet.
#[test]
fn headers_stay_small() {
    assert!(size_of::<EthernetHeader>() <= 28);
    assert!(size_of::<Ipv4Header<'_>>() <= 48);
    assert!(size_of::<Ipv6Header>() <= 48);
    assert!(size_of::<UdpHeader>() == 8);
    assert!(size_of::<TcpOptions>() <= 80, "{}", size_of::<TcpOptions>());
    assert!(size_of::<TcpHeader>() <= 104, "{}", size_of::<TcpHeader>());
    assert!(size_of::<Icmpv4Message<'_>>() <= 32);
}
