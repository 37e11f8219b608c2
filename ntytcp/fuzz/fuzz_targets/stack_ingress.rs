//! No sequence of frames makes a stack with sockets panic, whatever time passes between them.
#![no_main]

use std::net::Ipv4Addr;

use libfuzzer_sys::fuzz_target;
use ntytcp::device::{Caps, RxFrame, RxMeta, TxMeta, TxQueue};
use ntytcp::rng::seed_from;
use ntytcp::stack::route::InterfaceAddr;
use ntytcp::stack::{InterfaceConfig, Stack, StackConfig};
use ntytcp::time::{Duration, Instant};
use ntytcp::wire::MacAddr;

#[allow(dead_code)]
#[path = "../../tests/wire/oracles.rs"]
mod oracles;

/// Forgets what is sent.
struct Sink(Caps, Vec<u8>);

impl TxQueue for Sink {
    fn caps(&self) -> &Caps {
        &self.0
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.1.resize(len, 0);
        Some(&mut self.1)
    }

    fn commit(&mut self, _: TxMeta) {}
}

fuzz_target!(|bytes: &[u8]| {
    let mut stack = Stack::new(StackConfig::default(), seed_from(1)).unwrap();
    // The addresses of the seeds in corpus/wire_frame need not be ours: broadcasts and mutations find the way in.
    let addr = InterfaceAddr::new(Ipv4Addr::new(10, 0, 0, 1).into(), 24).unwrap();
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let id = stack.add_interface(InterfaceConfig { mac, addrs: vec![addr], ..Default::default() }).unwrap();
    let _ = stack.udp_bind(([0, 0, 0, 0], 7).into());
    let _ = stack.echo_open();
    let mut sink = Sink(Caps::plain(1500), Vec::new());
    let mut now = Instant::ZERO;
    // Each frame is preceded by its length (two bytes) and how long after the last it arrives (one byte, 100 ms).
    let mut rest = bytes;
    while let Some((&[high, low, pause], tail)) = rest.split_first_chunk::<3>() {
        let (frame, tail) = tail.split_at(tail.len().min(usize::from(u16::from_be_bytes([high, low]))));
        rest = tail;
        let mut buf = vec![0; 64 + frame.len() + 1_514];
        buf[64..64 + frame.len()].copy_from_slice(frame);
        let mut frame_bytes = buf[64..64 + frame.len()].to_vec();
        oracles::repair_checksums(&mut frame_bytes);
        buf[64..64 + frame.len()].copy_from_slice(&frame_bytes);
        let mut rx = RxFrame::new(&mut buf, 64, frame.len(), RxMeta::default());
        let _ = stack.ingress(now, id, &mut rx);
        now += Duration::from_millis(100 * u64::from(pause));
        stack.on_timeout(now);
        let _ = stack.egress(now, id, &mut sink);
        while stack.poll_event().is_some() {}
    }
});
