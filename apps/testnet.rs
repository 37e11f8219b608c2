//! Two stacks on a cable in memory, for tests of programs: the program on one, raw sockets or another program on the other.

use crate::run::Program;
use nty_epoll::{Runtime, TcpStream};
use ntytcp::device::mem::{MemConfig, MemDevice, pair};
use ntytcp::rng::seed_from;
use ntytcp::shard::{IdlePolicy, MonotonicClock, Shard};
use ntytcp::stack::route::InterfaceAddr;
use ntytcp::stack::{InterfaceConfig, SocketError, Stack, StackConfig};
use ntytcp::wire::MacAddr;
use std::cell::RefCell;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The address of [`Net::server`].
pub(crate) const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

/// After so long a test has failed; none comes near it.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Net {
    pub(crate) client: Runtime,
    pub(crate) server: Runtime,
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
    pub(crate) fn new() -> Self {
        let (left, right) = pair(MemConfig::default());
        Self { client: runtime(left, 1), server: runtime(right, 2) }
    }

    pub(crate) fn connect(&mut self, port: u16) -> TcpStream {
        self.client.connect(None, SocketAddr::new(SERVER, port), None).unwrap()
    }

    /// One turn of each side, the program called between them as if it were `ahead` later than it is.
    pub(crate) fn step(&mut self, program: &mut dyn Program, ahead: Duration) {
        self.client.turn().unwrap();
        self.server.turn().unwrap();
        program.ready(&mut self.server, Instant::now() + ahead).unwrap();
    }

    /// Steps until `done` says so.
    pub(crate) fn until(&mut self, program: &mut dyn Program, mut done: impl FnMut(&mut Runtime) -> bool) {
        let start = Instant::now();
        while !done(&mut self.client) {
            assert!(start.elapsed() < PATIENCE, "nothing comes of it");
            self.step(program, Duration::ZERO);
        }
    }

    /// Runs two programs until that of the client has ended, and a little longer.
    pub(crate) fn run(&mut self, client: &mut dyn Program, server: &mut dyn Program) {
        let start = Instant::now();
        while client.outcome().is_none() {
            assert!(start.elapsed() < PATIENCE, "nothing comes of it");
            client.ready(&mut self.client, Instant::now()).unwrap();
            self.step(server, Duration::ZERO);
        }
        for _ in 0..100 {
            self.step(server, Duration::ZERO);
        }
    }
}

/// Reads what is there, at most `max` bytes, behind `into`; whether the stream goes on.
pub(crate) fn read(stream: &mut TcpStream, max: usize, into: &mut Vec<u8>) -> bool {
    let len = into.len();
    into.resize(len + max, 0);
    let read = stream.read(&mut into[len..]);
    into.truncate(len + *read.as_ref().unwrap_or(&0));
    match read {
        Ok(n) => n > 0,
        Err(SocketError::WouldBlock) => true,
        Err(error) => panic!("{error}"),
    }
}

/// What a program prints.
#[derive(Clone, Default)]
pub(crate) struct Output(Rc<RefCell<Vec<u8>>>);

impl Output {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).unwrap()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
