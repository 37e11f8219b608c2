//! Who answers at the other end of the wire.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use dpdk_sys::{Burst, Eal, Mempool, Port, PortConfig, Queue};
use ntytcp::device::dpdk::{DpdkConfig, DpdkDevice};
use ntytcp::device::{Device, RxFrame, TxMeta, Verdict};
use ntytcp::rng::seed_from;
use ntytcp::shard::{IdlePolicy, MonotonicClock, Shard};
use ntytcp::stack::{InterfaceConfig, Responder, SocketId, Stack, StackConfig};
use ntytcp::wire::MacAddr;

use crate::frames::{SERVER, swap_stations};

/// Frames that plain forwarding takes at once, as many as testpmd does.
const PLAIN_BURST: usize = 32;

/// Who answers.
pub(crate) enum Server {
    /// DPDK alone.
    Plain { queue: Queue, burst: Box<Burst<PLAIN_BURST>> },
    /// A device, and a closure that does the same.
    Device(Box<DpdkDevice>),
    /// The stack, driven as any program drives it.
    Stack { shard: Box<Shard<MonotonicClock>>, socket: SocketId },
}

/// What of the stack answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum App {
    Responder,
    Socket,
}

struct Echo;

impl Responder for Echo {
    fn respond(&mut self, _: SocketAddr, _: &mut [u8], len: usize) -> Option<usize> {
        Some(len)
    }
}

fn open(port: &str) -> Box<DpdkDevice> {
    Box::new(DpdkDevice::open(&DpdkConfig::new(port)).unwrap().pop().unwrap())
}

/// Buffers for a port that is not a device's.
pub(crate) fn pool(eal: Eal) -> Mempool {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    Mempool::new(eal, &format!("bench{number}"), 2_047, 2_048).unwrap()
}

impl Server {
    pub(crate) fn plain(eal: Eal, port: &str) -> Self {
        let pool = pool(eal);
        let queue = Port::open(eal, port, &[pool], &PortConfig::default()).unwrap().pop().unwrap();
        Self::Plain { queue, burst: Box::default() }
    }

    pub(crate) fn device(port: &str) -> Self {
        Self::Device(open(port))
    }

    pub(crate) fn stack(port: &str, app: App) -> Self {
        let stack = Stack::new(StackConfig::default(), seed_from(1)).unwrap();
        let mut shard = Box::new(Shard::new(stack, MonotonicClock::new(), IdlePolicy::BUSY_POLL));
        let addrs = vec!["10.0.0.2/24".parse().unwrap()];
        let config = InterfaceConfig { mac: MacAddr(SERVER), addrs, ..Default::default() };
        shard.attach(open(port), config).unwrap();
        let stack = shard.stack_mut();
        let socket = stack.udp_bind("10.0.0.2:7".parse().unwrap()).unwrap();
        if app == App::Responder {
            stack.udp_set_responder(socket, Some(Box::new(Echo))).unwrap();
        }
        Self::Stack { shard, socket }
    }

    /// Goes round once: answers what has arrived. How many frames that was.
    pub(crate) fn serve(&mut self) -> usize {
        match self {
            Self::Plain { queue, burst } => {
                let received = queue.rx_burst(burst);
                burst.packets_mut().iter_mut().for_each(|mbuf| swap_stations(mbuf.data_mut()));
                queue.tx_burst(burst);
                received
            }
            Self::Device(device) => {
                let answer = |frames: &mut [RxFrame<'_>]| {
                    for frame in frames {
                        swap_stations(frame.bytes_mut());
                        frame.verdict = Verdict::Reply(TxMeta::default());
                    }
                };
                let received = device.rx_burst(&mut { answer }).unwrap();
                device.flush().unwrap();
                received
            }
            Self::Stack { shard, socket } => {
                let received = shard.turn().unwrap().received;
                let stack = shard.stack_mut();
                while stack.poll_event().is_some() {
                    let mut buf = [0; 64];
                    while let Ok(got) = stack.udp_recv_from(*socket, &mut buf) {
                        // A full queue loses it, as any server would.
                        let _full = stack.udp_send_to(*socket, &buf[..got.len], Some(got.from));
                    }
                }
                received
            }
        }
    }

    /// Goes round until something was answered and all of it was sent.
    pub(crate) fn answer(&mut self) {
        while self.serve() == 0 {}
        while self.serve() > 0 {}
    }
}
