//! A program on one stack, and sockets or another program on the other, joined by a link in memory, in one thread.

use crate::run::{Program, ProgramError};
use nty_epoll::{Epoll, Event, Events, Runtime, TcpStream};
use ntytcp::device::Device;
use ntytcp::device::fault::{Fault, FaultConfig, Faults};
use ntytcp::device::mem::{MemConfig, pair};
use ntytcp::rng::seed_from;
use ntytcp::shard::{IdlePolicy, MonotonicClock, Shard};
use ntytcp::stack::route::InterfaceAddr;
use ntytcp::stack::{InterfaceConfig, SocketError, Stack, StackConfig};
use ntytcp::tcp::TcpSocketOptions;
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
    /// The program on the server's side.
    pub(crate) program: Option<Box<dyn Program>>,
    /// Its epoll is in this one, as in the loop that runs programs.
    epoll: Epoll,
    /// How often the program was called.
    pub(crate) calls: usize,
    /// What the programs take for the time. It stands still but in [`Net::run`]; tests move it.
    pub(crate) now: Instant,
}

/// Where a program is, from the client's side.
pub(crate) fn server(port: u16) -> SocketAddr {
    SocketAddr::new(SERVER, port)
}

fn runtime(device: impl Device + Send + 'static, host: u8) -> Runtime {
    let stack = Stack::new(StackConfig::default(), seed_from(host.into())).unwrap();
    let mut shard = Shard::new(stack, MonotonicClock::new(), IdlePolicy::default());
    let addr = InterfaceAddr::new(Ipv4Addr::new(10, 0, 0, host).into(), 24).unwrap();
    let config =
        InterfaceConfig { mac: MacAddr([2, 0, 0, 0, 0, host]), addrs: vec![addr], ..Default::default() };
    shard.attach(Box::new(device), config).unwrap();
    Runtime::new(shard).unwrap()
}

/// Whether the loop that runs programs would call this one: its epoll, which is in `epoll`, or its deadline says so.
fn is_due(program: &dyn Program, epoll: &Epoll, now: Instant) -> bool {
    epoll.poll(&mut [Event::default()]).unwrap() > 0 || program.deadline().is_some_and(|at| at <= now)
}

impl Net {
    /// Two stacks and nothing on them.
    pub(crate) fn bare() -> Self {
        Self::with_faults(|_| {})
    }

    /// The same; what the client's side sends meets with the faults that `set` sets.
    pub(crate) fn with_faults(set: impl FnOnce(&mut Faults)) -> Self {
        let (left, right) = pair(MemConfig::default());
        let mut tx = Faults::default();
        set(&mut tx);
        let left = Fault::new(left, FaultConfig { tx, ..FaultConfig::default() }, seed_from(3));
        let (client, server) = (runtime(left, 1), runtime(right, 2));
        Self { client, server, program: None, epoll: Epoll::new().unwrap(), calls: 0, now: Instant::now() }
    }

    /// The server's side runs the program that `open` opens there.
    pub(crate) fn new(open: impl FnOnce(&mut Runtime) -> Result<Box<dyn Program>, ProgramError>) -> Self {
        Self::bare().serving(open)
    }

    /// From now on the server's side runs the program that `open` opens there.
    pub(crate) fn serving(
        mut self,
        open: impl FnOnce(&mut Runtime) -> Result<Box<dyn Program>, ProgramError>,
    ) -> Self {
        let mut program = open(&mut self.server).unwrap();
        self.epoll.add(program.epoll(), Events::IN, 0).unwrap();
        // What the program took for its beginning is not ahead of the time.
        self.now = Instant::now();
        program.ready(&mut self.server, self.now).unwrap();
        self.program = Some(program);
        self
    }

    /// One turn of each side; the program is called if the loop that runs programs would.
    pub(crate) fn step(&mut self) {
        self.client.turn().unwrap();
        self.server.turn().unwrap();
        if let Some(program) = &mut self.program
            && is_due(&**program, &self.epoll, self.now)
        {
            self.calls += 1;
            program.ready(&mut self.server, self.now).unwrap();
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
            assert!(start.elapsed() < PATIENCE, "nothing comes of it");
        }
    }

    /// Steps until nothing has moved for a while: long enough for a delayed ACK.
    pub(crate) fn settle(&mut self) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(100) {
            self.step();
        }
    }

    /// Runs a program on the client's side until it has ended, and a little longer. The time passes.
    pub(crate) fn run(&mut self, client: &mut dyn Program) {
        let start = Instant::now();
        let epoll = Epoll::new().unwrap();
        epoll.add(client.epoll(), Events::IN, 0).unwrap();
        client.ready(&mut self.client, Instant::now()).unwrap();
        while client.outcome().is_none() {
            assert!(start.elapsed() < PATIENCE, "nothing comes of it");
            self.now = Instant::now();
            self.step();
            if is_due(client, &epoll, self.now) {
                client.ready(&mut self.client, self.now).unwrap();
            }
        }
        self.settle();
    }

    /// A connection to the server that stands.
    pub(crate) fn connect(&mut self, port: u16, options: Option<TcpSocketOptions>) -> TcpStream {
        let stream = self.client.connect(None, server(port), options).unwrap();
        self.until(|_| stream.is_established().then_some(()));
        stream
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
