//! No sequence of frames and calls makes a stack with sockets panic, whatever time passes between them.
//!
//! The input is a list of steps, each with three bytes in front: `FLAGS+LENGTH LENGTH PAUSE`, where PAUSE is what passes after it,
//! in units of 100 ms.
//!
//! ```text
//!   1....... CALL      the application: listen, accept, connect, read, write, shut down, close, abort
//!   01...... LENGTH    a frame whose TCP header answers the segment that the stack sent last: its ports are taken from there, and
//!                      its numbers are counted from what that segment expects
//!   00...... LENGTH    a frame as it is, but for its checksums
//! ```
#![no_main]

use std::net::Ipv4Addr;

use libfuzzer_sys::fuzz_target;
use ntytcp::device::{Caps, RxFrame, RxMeta, TxMeta, TxQueue, Verdict};
use ntytcp::rng::seed_from;
use ntytcp::stack::route::InterfaceAddr;
use ntytcp::stack::{InterfaceConfig, InterfaceId, SocketId, Stack, StackConfig};
use ntytcp::tcp::ListenOptions;
use ntytcp::time::{Duration, Instant};
use ntytcp::wire::MacAddr;

#[allow(dead_code)]
#[path = "../../tests/wire/oracles.rs"]
mod oracles;

const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Where the TCP header of a frame without tags and IP options begins.
const TCP: usize = 34;

/// Remembers of what is sent the last segment.
struct Sink(Caps, Vec<u8>, Last);

impl TxQueue for Sink {
    fn caps(&self) -> &Caps {
        &self.0
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.1.resize(len, 0);
        Some(&mut self.1)
    }

    fn commit(&mut self, _: TxMeta) {
        self.2.look(&self.1);
    }
}

/// The segment that the stack sent last, as its peer sees it.
#[derive(Clone, Copy, Default)]
struct Last {
    ports: (u16, u16),
    /// What the stack expects.
    seq: u32,
    /// The end of what it sent.
    ack: u32,
}

impl Last {
    fn look(&mut self, frame: &[u8]) {
        let plain_tcp = frame.get(12..15) == Some(&[8, 0, 0x45]) && frame.get(23) == Some(&6);
        let Some(tcp) = frame.get(TCP..TCP + 20).filter(|_| plain_tcp) else { return };
        let u16_at = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) << 16 | u32::from(u16_at(at + 2));
        let text = (frame.len() - TCP).saturating_sub(usize::from(tcp[12] >> 4) * 4) as u32;
        let control = u32::from(tcp[13] & 1) + u32::from(tcp[13] >> 1 & 1);
        *self = Self {
            ports: (u16_at(2), u16_at(0)),
            seq: u32_at(8),
            ack: u32_at(4).wrapping_add(text).wrapping_add(control),
        };
    }

    /// Makes the segment in `frame` an answer.
    fn answer(&self, frame: &mut [u8]) {
        let Some(tcp) = frame.get_mut(TCP..TCP + 12) else { return };
        tcp[..2].copy_from_slice(&self.ports.0.to_be_bytes());
        tcp[2..4].copy_from_slice(&self.ports.1.to_be_bytes());
        for (at, base) in [(4, self.seq), (8, self.ack)] {
            let number = u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
            tcp[at..at + 4].copy_from_slice(&number.wrapping_add(base).to_be_bytes());
        }
    }
}

/// The application: a listener on port 80, and at most eight connections.
struct App {
    listener: SocketId,
    streams: Vec<SocketId>,
}

impl App {
    fn call(&mut self, stack: &mut Stack, now: Instant, call: u8) {
        let stream = self.streams.get(usize::from(call >> 4 & 7)).copied();
        match (call & 7, stream) {
            (0, _) if self.streams.len() < 8 => {
                self.streams.extend(stack.tcp_accept(now, self.listener).map(|(stream, _)| stream));
            }
            (1, _) if self.streams.len() < 8 => {
                self.streams.extend(stack.tcp_connect(now, None, (PEER, 80).into(), None));
            }
            (2, Some(stream)) => drop(stack.tcp_recv(now, stream, &mut [0; 3_000])),
            (3, Some(stream)) => drop(stack.tcp_send(now, stream, &[7; 3_000])),
            (4, Some(stream)) => drop(stack.tcp_shutdown(now, stream)),
            (5, Some(stream)) => {
                let _ = stack.tcp_close(now, stream);
                self.streams.retain(|&other| other != stream);
            }
            (6, Some(stream)) => {
                let _ = stack.tcp_abort(now, stream);
                self.streams.retain(|&other| other != stream);
            }
            (7, Some(stream)) => drop(stack.tcp_send(now, stream, b"x")),
            _ => {}
        }
    }
}

/// Gives the stack a frame, and remembers what it wrote in its place.
fn receive(stack: &mut Stack, now: Instant, id: InterfaceId, frame: &[u8], last: &mut Last) {
    let mut buf = vec![0; 64 + frame.len() + 1_514];
    buf[64..64 + frame.len()].copy_from_slice(frame);
    let mut rx = RxFrame::new(&mut buf, 64, frame.len(), RxMeta::default());
    if let Verdict::Reply(_) = stack.ingress(now, id, &mut rx) {
        last.look(rx.bytes());
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut stack = Stack::new(StackConfig::default(), seed_from(1)).unwrap();
    // The addresses of the seeds in corpus/wire_frame need not be ours: broadcasts and mutations find the way in.
    let addr = InterfaceAddr::new(Ipv4Addr::new(10, 0, 0, 1).into(), 24).unwrap();
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let id = stack.add_interface(InterfaceConfig { mac, addrs: vec![addr], ..Default::default() }).unwrap();
    stack.add_neighbor(id, PEER.into(), MacAddr([2, 0, 0, 0, 0, 2])).unwrap();
    let _ = stack.udp_bind(([0, 0, 0, 0], 7).into());
    let _ = stack.echo_open();
    let listener = stack.tcp_listen(([0, 0, 0, 0], 80).into(), ListenOptions::default()).unwrap();
    let mut app = App { listener, streams: Vec::new() };
    let mut sink = Sink(Caps::plain(1500), Vec::new(), Last::default());
    let mut now = Instant::ZERO;
    let mut rest = bytes;
    while let Some((&[high, low, pause], tail)) = rest.split_first_chunk::<3>() {
        rest = tail;
        if high & 0x80 != 0 {
            app.call(&mut stack, now, low);
        } else {
            let len = usize::from(u16::from_be_bytes([high & 0x3f, low]));
            let (frame, tail) = tail.split_at(tail.len().min(len));
            rest = tail;
            let mut frame = frame.to_vec();
            if high & 0x40 != 0 {
                sink.2.answer(&mut frame);
            }
            oracles::repair_checksums(&mut frame);
            receive(&mut stack, now, id, &frame, &mut sink.2);
        }
        let _ = stack.egress(now, id, &mut sink);
        now += Duration::from_millis(100 * u64::from(pause));
        stack.on_timeout(now);
        let _ = stack.egress(now, id, &mut sink);
        while stack.poll_event().is_some() {}
    }
});
