//! Two runtimes on a link in memory.
#![allow(dead_code)] // Each test uses its part.

use nty_epoll::{Epoll, Event, Runtime};
use ntytcp::device::mem::{MemConfig, MemDevice, pair};
use ntytcp::rng::seed_from;
use ntytcp::shard::{IdlePolicy, MonotonicClock, Shard};
use ntytcp::stack::route::InterfaceAddr;
use ntytcp::stack::{InterfaceConfig, Stack, StackConfig};
use ntytcp::tcp::ListenOptions;
use ntytcp::time::{Clock, Instant};
use ntytcp::wire::MacAddr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The address of runtime `b`.
pub(crate) const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

pub(crate) fn server(port: u16) -> SocketAddr {
    SocketAddr::new(SERVER, port)
}

pub(crate) fn listen_options(backlog: usize) -> ListenOptions {
    ListenOptions { backlog, ..ListenOptions::default() }
}

/// Nanoseconds that the test sets.
#[derive(Clone, Debug, Default)]
pub(crate) struct VirtualClock(Arc<AtomicU64>);

impl Clock for VirtualClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

pub(crate) struct Net<C: Clock = VirtualClock> {
    pub(crate) a: Runtime<C>,
    pub(crate) b: Runtime<C>,
    clock: C,
}

impl<C: Clock + Clone> Net<C> {
    fn with_clock(clock: C) -> Self {
        let (left, right) = pair(MemConfig::default());
        let runtime = |device, host| runtime(device, host, clock.clone(), StackConfig::default());
        Self { a: runtime(left, 1), b: runtime(right, 2), clock }
    }
}

fn runtime<C: Clock>(device: MemDevice, host: u8, clock: C, config: StackConfig) -> Runtime<C> {
    let stack = Stack::new(config, seed_from(host.into())).unwrap();
    let mut shard = Shard::new(stack, clock, IdlePolicy::default());
    let addr = InterfaceAddr::new(Ipv4Addr::new(10, 0, 0, host).into(), 24).unwrap();
    let config =
        InterfaceConfig { mac: MacAddr([2, 0, 0, 0, 0, host]), addrs: vec![addr], ..Default::default() };
    shard.attach(Box::new(device), config).unwrap();
    Runtime::new(shard).unwrap()
}

impl Net<MonotonicClock> {
    pub(crate) fn in_real_time() -> Self {
        Self::with_clock(MonotonicClock::new())
    }
}

impl Net {
    pub(crate) fn new() -> Self {
        Self::with_clock(VirtualClock::default())
    }

    /// With so many pages for what `a` sends and receives.
    pub(crate) fn with_pages(pages: usize) -> Self {
        let mut net = Self::new();
        let (left, right) = pair(MemConfig::default());
        net.a = runtime(left, 1, net.clock.clone(), StackConfig { pages, ..StackConfig::default() });
        net.b = runtime(right, 2, net.clock.clone(), StackConfig::default());
        net
    }

    fn pass(&mut self, nanos: u64) {
        self.clock.0.fetch_add(nanos, Ordering::Relaxed);
    }

    /// One turn of each in ten microseconds.
    pub(crate) fn step(&mut self) {
        self.pass(10_000);
        self.a.turn().unwrap();
        self.b.turn().unwrap();
    }

    /// Lets everything happen that happens within a tenth of a second: all but retransmissions.
    pub(crate) fn settle(&mut self) {
        for _ in 0..50 {
            self.step();
        }
        for _ in 0..50 {
            self.pass(2_000_000);
            self.step();
        }
    }

    /// Settles, then moves the time to the next timer of either side.
    pub(crate) fn sleep_until_next_timer(&mut self) {
        self.settle();
        let next =
            [&mut self.a, &mut self.b].into_iter().filter_map(|r| r.turn().unwrap().next_deadline).min();
        let now = self.clock.now();
        self.pass(next.map_or(0, |at| at.since(now).as_nanos() as u64));
        self.settle();
    }
}

/// What an epoll reports now.
pub(crate) fn collect(epoll: &Epoll, max: usize) -> Vec<Event> {
    let mut out = vec![Event::default(); max];
    let n = epoll.wait(&mut out, 0).unwrap();
    out.truncate(n);
    out
}
