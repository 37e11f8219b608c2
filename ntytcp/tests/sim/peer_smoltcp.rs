//! smoltcp as an independent peer: its own reading of the standards, over the same link.

use crate::app::{App, Pipe, Plan, Read};
use crate::host::PORT;
use crate::world::{Node, Run, World, host_a, seeds};
use ntytcp::device::fault::Faults;
use ntytcp::device::mem::{self, MemConfig, MemDevice};
use ntytcp::device::{Device, TxMeta, TxQueue};
use ntytcp::stack::{SocketError, StackConfig};
use ntytcp::time::{Duration, Instant};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{RecvError, Socket, SocketBuffer, State};
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};
use std::collections::VecDeque;

/// Our device as smoltcp wants one: frames are copied in before and out after each poll.
struct Port {
    device: MemDevice,
    rx: VecDeque<Vec<u8>>,
    tx: VecDeque<Vec<u8>>,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl phy::Device for Port {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Rx, Tx<'_>)> {
        self.rx.pop_front().map(|frame| (Rx(frame), Tx(&mut self.tx)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Tx<'_>> {
        (self.tx.len() < 256).then_some(Tx(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = 1_514;
        caps
    }
}

impl Port {
    fn take_in(&mut self) -> bool {
        let rx = &mut self.rx;
        let mut any = false;
        while self.device.rx_burst(&mut |burst| rx.extend(burst.iter().map(|f| f.bytes().to_vec()))).unwrap()
            > 0
        {
            any = true;
        }
        any
    }

    fn put_out(&mut self) {
        while let Some(frame) = self.tx.pop_front() {
            let Some(room) = self.device.reserve(frame.len()) else {
                self.tx.push_front(frame);
                break;
            };
            room.copy_from_slice(&frame);
            self.device.commit(TxMeta::default());
        }
        self.device.flush().unwrap();
    }
}

/// One machine with smoltcp and one socket.
pub struct Smol {
    iface: Interface,
    sockets: SocketSet<'static>,
    port: Port,
    handle: SocketHandle,
    app: App,
    connected: bool,
    next_poll: Option<Instant>,
}

fn to_smol(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(now.as_micros() as i64)
}

struct Theirs<'a>(&'a mut Socket<'static>);

impl Pipe for Theirs<'_> {
    fn send(&mut self, data: &[u8]) -> Result<usize, SocketError> {
        if !self.0.may_send() { Err(SocketError::BrokenPipe) } else { Ok(self.0.send_slice(data).unwrap()) }
    }

    fn recv(&mut self, buf: &mut [u8]) -> Result<Read, SocketError> {
        match self.0.recv_slice(buf) {
            Ok(0) => Ok(Read::Nothing),
            Ok(n) => Ok(Read::Data(n)),
            Err(RecvError::Finished) => Ok(Read::End),
            Err(RecvError::InvalidState) => Err(SocketError::ConnectionReset),
        }
    }

    fn finish(&mut self) -> Result<(), SocketError> {
        self.0.close();
        Ok(())
    }
}

impl Smol {
    fn new(device: MemDevice, plan: Plan, buffer: usize) -> Self {
        let mut port = Port { device, rx: VecDeque::new(), tx: VecDeque::new() };
        let config = Config::new(EthernetAddress([2, 0, 0, 0, 0, 2]).into());
        let mut iface = Interface::new(config, &mut port, to_smol(Instant::ZERO));
        iface.update_ip_addrs(|addrs| addrs.push(IpCidr::new(IpAddress::v4(10, 0, 0, 2), 24)).unwrap());
        let mut sockets = SocketSet::new(vec![]);
        let socket = Socket::new(SocketBuffer::new(vec![0; buffer]), SocketBuffer::new(vec![0; buffer]));
        let handle = sockets.add(socket);
        let app = App::new(plan, (1, 0));
        Self { iface, sockets, port, handle, app, connected: false, next_poll: Some(Instant::ZERO) }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut::<Socket<'_>>(self.handle)
    }

    fn is_over(&mut self) -> bool {
        matches!(self.socket().state(), State::Closed | State::TimeWait)
    }
}

impl Node for Smol {
    fn turn(&mut self, now: Instant) -> bool {
        let mut active = self.port.take_in();
        self.iface.poll(to_smol(now), &mut self.port, &mut self.sockets);
        let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
        self.connected |= socket.may_send();
        if self.connected {
            active |= self.app.drive(now, &mut Theirs(socket));
            self.iface.poll(to_smol(now), &mut self.port, &mut self.sockets);
        }
        active |= !self.port.tx.is_empty();
        self.port.put_out();
        // Microseconds are all that smoltcp knows: what is due within this one is due at its end.
        self.next_poll = self.iface.poll_at(to_smol(now), &self.sockets).map(|at| {
            let at = Instant::from_micros(u64::try_from(at.total_micros()).unwrap_or(0));
            at.max(now + Duration::from_micros(1))
        });
        active
    }

    fn next(&self) -> Option<Instant> {
        self.next_poll.into_iter().chain(self.app.wake_at).min()
    }

    fn describe(&mut self) -> String {
        format!("smoltcp {:?} {:?}\n", self.socket().state(), self.app)
    }
}

/// Who sends the SYN.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opens {
    We,
    They,
}

/// Our stack and smoltcp on a link with `faults`, connected as soon as time runs.
fn with_smoltcp(
    run: Run<'_>,
    faults: Faults,
    opens: Opens,
    ours: Plan,
    theirs: Plan,
    buffer: usize,
) -> World<Smol> {
    let (a, b) = mem::pair(MemConfig::default());
    let mut a = host_a(run, a, faults, StackConfig::default());
    let mut b = Smol::new(b, theirs, buffer);
    let now = Instant::ZERO;
    match opens {
        Opens::We => {
            b.socket().listen(PORT).unwrap();
            a.connect(now, 2, ours, (0, 1), None);
        }
        Opens::They => {
            a.serve(50_000, ours, (0, 1), None);
            let (handle, remote) = (b.handle, (IpAddress::v4(10, 0, 0, 1), PORT));
            let socket = b.sockets.get_mut::<Socket<'_>>(handle);
            socket.connect(b.iface.context(), remote, 50_000).unwrap();
        }
    }
    World { now, a, b }
}

/// Runs until both applications are done and nothing is left of the connection.
fn finish(world: &mut World<Smol>, limit: Duration) {
    world.run_until("the applications are done", limit, |w| w.a.is_done() && w.b.app.outcome.is_some());
    assert_eq!((&world.a.outcomes[..], world.b.app.outcome), (&[Ok(())][..], Some(Ok(()))));
    world.run_until("both ends have closed", Duration::from_secs(1_200), |w| w.a.is_empty() && w.b.is_over());
}

fn bulk(name: &str, opens: Opens, forth: u64, back: u64) {
    seeds(name, 0..1, |run| {
        let mut faults = Faults::default();
        (faults.delay, faults.rate) = (Duration::from_micros(200), Some(1_000_000_000));
        // smoltcp has no congestion control here: a queue shorter than its window would only measure its recovery.
        faults.rate_queue = 1 << 20;
        let plans = (Plan::new(forth, back), Plan::new(back, forth));
        let mut world = with_smoltcp(run, faults, opens, plans.0, plans.1, 256 << 10);
        finish(&mut world, Duration::from_secs(120));
    });
}

#[test]
fn twenty_megabytes_to_smoltcp() {
    bulk("peer_smoltcp::twenty_megabytes_to_smoltcp", Opens::We, 20_000_000, 0);
}

#[test]
fn twenty_megabytes_from_smoltcp() {
    bulk("peer_smoltcp::twenty_megabytes_from_smoltcp", Opens::They, 0, 20_000_000);
}

#[test]
fn twenty_megabytes_each_way_at_once() {
    bulk("peer_smoltcp::twenty_megabytes_each_way_at_once", Opens::We, 20_000_000, 20_000_000);
}

fn exchange(name: &str, count: u64, faults: &Faults) {
    seeds(name, 0..count, |run| {
        let (forth, back) = (1 + run.seed * 977 % 60_000, run.seed * 1_409 % 40_000);
        let (mut ours, mut theirs) = (Plan::new(forth, back), Plan::new(back, forth));
        (ours.close_last, theirs.close_last) = (run.seed % 3 == 1, run.seed % 3 == 2);
        let opens = if run.seed % 2 == 0 { Opens::We } else { Opens::They };
        let mut world = with_smoltcp(run, faults.clone(), opens, ours, theirs, 64 << 10);
        // Three requests for an address may all be lost; that is not what this is about.
        world.a.acquaint(2);
        finish(&mut world, Duration::from_secs(1_800));
    });
}

macro_rules! exchanges {
    ($($name:ident: $count:literal, $($field:ident = $value:expr),*;)*) => {$(
        #[test]
        fn $name() {
            let mut faults = Faults::default();
            faults.delay = Duration::from_millis(5);
            $(faults.$field = $value;)*
            exchange(concat!("peer_smoltcp::", stringify!($name)), $count, &faults);
        }
    )*};
}

exchanges! {
    clean_link: 60, loss = 0.0;
    one_percent_loss: 100, loss = 0.01;
    three_percent_loss: 100, loss = 0.03;
    ten_percent_loss: 100, loss = 0.1;
    reordering: 100, reorder = 0.2;
    duplicates: 100, duplicate = 0.2;
    flipped_bits: 100, corrupt = 0.05;
    everything_at_once: 100, loss = 0.05, corrupt = 0.02, duplicate = 0.05, reorder = 0.1;
}
