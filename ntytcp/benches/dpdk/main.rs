//! What the stack adds to DPDK: echo of small datagrams, beside plain forwarding that only swaps the station addresses as
//! `testpmd --forward-mode=macswap` does.
//!
//! First the work alone: one thread has both ends of a wire of two rings, puts a burst on it, and times nothing but the other end. Then
//! the same wire between two cores, and one of virtio: one generates as fast as it can, the other answers. The contenders take turns in many short rounds, of which the best counts. Hugepages are used if 256 MB of them are free.
//!
//! `--spin N ROUNDS` is for a profiler: the Nth contender alone.

#![allow(clippy::expect_used, clippy::unwrap_used)] // a benchmark that cannot run says so and ends

mod alone;
mod frames;
mod server;
mod wire;

use dpdk_sys::Eal;
use ntytcp::device::dpdk::start;

use crate::server::Server;

/// Makes a server on a port of this name.
type Make = fn(Eal, &str) -> Server;

/// Who takes part, the measure of the others first, and what its ports are called.
const CONTENDERS: [(&str, &str, Make); 4] = [
    ("plain forwarding", "plain", Server::plain),
    ("the device alone", "device", |_, port| Server::device(port)),
    ("echo by a responder", "responder", |_, port| Server::stack(port, server::App::Responder)),
    ("echo through a socket", "socket", |_, port| Server::stack(port, server::App::Socket)),
];

fn main() {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free =
        memory.lines().find_map(|line| line.strip_prefix("HugePages_Free:")?.trim().parse::<u32>().ok());
    let words: Vec<String> = std::env::args().collect();
    if let [_, how, options, paths @ ..] = &words[..]
        && how == "--generate"
    {
        return wire::be_generator(start(options).unwrap(), paths);
    }
    let options = if free.unwrap_or(0) >= 128 {
        "--no-pci --single-file-segments"
    } else {
        "--no-pci --no-huge -m 512 --iova-mode=va"
    };
    let eal = start(options).unwrap();
    let _known = eal.register_thread();
    if let Some(at) = words.iter().position(|word| word == "--spin") {
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<usize>().ok()).unwrap_or(0);
        return alone::spin(eal, number(at + 1), number(at + 2));
    }
    println!("{options}");
    alone::compare(eal);
    wire::over_rings(eal);
    wire::over_virtio(eal, options);
}
