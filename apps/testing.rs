//! A program on one stack and its clients on another, joined by a link in memory, in one thread.

use crate::run::{Program, ProgramError};
use nty_epoll::{Epoll, Event, Events, Runtime, TcpStream};
use ntytcp::device::mem::{MemConfig, MemDevice, pair};
use ntytcp::rng::seed_from;
use ntytcp::shard::{IdlePolicy, MonotonicClock, Shard};
use ntytcp::stack::route::InterfaceAddr;
use ntytcp::stack::{InterfaceConfig, Stack, StackConfig};
use ntytcp::tcp::TcpSocketOptions;
use ntytcp::wire::MacAddr;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// A program and the stack that its clients use.
pub(crate) struct Net {
    pub(crate) client: Runtime,
    server: Runtime,
    program: Box<dyn Program>,
    /// As the loop that runs programs: their epolls are in it.
    epoll: Epoll,
    /// How often the program was called.
    pub(crate) calls: usize,
    /// What the program takes for the time.
    pub(crate) now: Instant,
}

/// Where the program is, from the client's side.
pub(crate) fn server(port: u16) -> SocketAddr {
    (Ipv4Addr::new(10, 0, 0, 2), port).into()
}

pub(crate) fn runtimes() -> (Runtime, Runtime) {
    let (left, right) = pair(MemConfig::default());
    (runtime(left, 1), runtime(right, 2))
}

fn runtime(device: MemDevice, host: u8) -> Runtime {
    let stack = Stack::new(StackConfig::default(), seed_from(host.into())).unwrap();
    let mut shard = Shard::new(stack, MonotonicClock::new(), IdlePolicy::default()).unwrap();
    let addr = InterfaceAddr::new(Ipv4Addr::new(10, 0, 0, host).into(), 24).unwrap();
    let config =
        InterfaceConfig { mac: MacAddr([2, 0, 0, 0, 0, host]), addrs: vec![addr], ..Default::default() };
    shard.attach(Box::new(device), config).unwrap();
    Runtime::new(shard).unwrap()
}

impl Net {
    pub(crate) fn new(open: impl FnOnce(&mut Runtime) -> Result<Box<dyn Program>, ProgramError>) -> Self {
        let (client, mut server) = runtimes();
        let mut program = open(&mut server).unwrap();
        let (epoll, now) = (Epoll::new().unwrap(), Instant::now());
        epoll.add(program.epoll(), Events::IN, 0).unwrap();
        program.ready(&mut server, now).unwrap();
        Self { client, server, program, epoll, calls: 0, now }
    }

    /// One turn of each side; the program is called if its epoll or its deadline says so.
    pub(crate) fn step(&mut self) {
        self.client.turn().unwrap();
        self.server.turn().unwrap();
        let reported = self.epoll.poll(&mut [Event::default()]).unwrap();
        if reported > 0 || self.program.deadline().is_some_and(|at| at <= self.now) {
            self.calls += 1;
            self.program.ready(&mut self.server, self.now).unwrap();
        }
    }

    /// Steps until `done` has something.
    pub(crate) fn until<T>(&mut self, mut done: impl FnMut(&mut Runtime) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            self.step();
            if let Some(value) = done(&mut self.client) {
                return value;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "nothing happens");
        }
    }

    /// Steps until nothing has moved for a while: long enough for a delayed ACK.
    pub(crate) fn settle(&mut self) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(100) {
            self.step();
        }
    }

    pub(crate) fn connect(&mut self, port: u16, options: Option<TcpSocketOptions>) -> TcpStream {
        let stream = self.client.connect(None, server(port), options).unwrap();
        self.until(|_| stream.is_established().then_some(()));
        stream
    }
}
