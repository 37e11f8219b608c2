//! The only loop: one thread, its devices and its stack, which share nothing with any other shard.
//!
//! ```text
//!   turn():  clock -> for each device: rx_burst -> ingress_burst      once per turn, in this order; the clock
//!                  -> on_timeout, if something is due                  is read once
//!                  -> for each device: egress -> flush
//!   wait():  spin for a while after the last work if that is likely to bring some, then sleep on the devices' descriptors and
//!            whatever the caller adds, until the next deadline
//! ```
//!
//! The owner alternates the two with its own work: `turn`, handle [`Stack::poll_event`], `wait`. What the owner sends after a
//! turn goes out with the next one; [`Shard::wait`] does not sleep while something is owed. The first turn without work after
//! some brings what the devices keep in memory to where it belongs ([`Device::sync`]), before the shard sleeps.

use core::fmt;
use std::io;
use std::os::fd::RawFd;

use crate::device::sys::{PollFd, poll};
use crate::device::{Device, DeviceError};
use crate::rng::Seed;
use crate::stack::route::InterfaceAddr;
use crate::stack::{ConfigError, InterfaceConfig, InterfaceId, Pending, Stack, StackConfig};
use crate::time::{Clock, Duration, Instant};
use crate::wire::MacAddr;

/// The system's monotonic clock, counted from when it was made.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock(std::time::Instant);

impl MonotonicClock {
    /// A clock that starts now.
    #[allow(clippy::new_without_default)] // Two clocks that were made at different times are different.
    pub fn new() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Instant {
        let nanos = self.0.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// What a shard does when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdlePolicy {
    /// How long it goes on looking after the last work before it sleeps, as long as work comes within this time; after three rests behind
    /// each other that were longer it sleeps at once and tries again now and then. Default 20 µs; [`Duration::MAX`] never sleeps.
    pub spin: Duration,
    /// How long it sleeps at most while a device can only be polled and may have frames again, or has no room for what is owed. Default 50 µs.
    pub poll_interval: Duration,
}

impl Default for IdlePolicy {
    fn default() -> Self {
        Self { spin: Duration::from_micros(20), ..Self::INTERRUPT }
    }
}

/// After so many spins without work behind each other the next one would be without, too. One alone says little: a peer that is fast
/// as a rule was kept from its core for once.
const IN_VAIN_MAX: u32 = 3;
/// Every so many rests it spins all the same: waking up takes longer than a spin, so no sleep tells whether work would have come in time.
const TRY_AGAIN: u32 = 16;

impl IdlePolicy {
    /// Never sleeps: the lowest latency for a whole core.
    pub const BUSY_POLL: Self = Self { spin: Duration::MAX, poll_interval: Duration::ZERO };

    /// Sleeps as soon as there is nothing to do: the least CPU, and a wake-up for each rest. For devices that tell when a frame arrives; one
    /// that can only be polled is looked at in intervals.
    pub const INTERRUPT: Self = Self { spin: Duration::ZERO, poll_interval: Duration::from_micros(50) };
}

/// What a turn did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Turn {
    /// Frames that were received.
    pub received: usize,
    /// A ring was full: more is owed than could be sent.
    pub pending: Pending,
    /// When there is something to do again even if nothing arrives.
    pub next_deadline: Option<Instant>,
}

struct Port {
    device: Box<dyn Device + Send>,
    interface: InterfaceId,
}

/// A stack, the devices that its interfaces stand for, and the clock. See the module documentation.
pub struct Shard<C: Clock> {
    clock: C,
    stack: Stack,
    ports: Vec<Port>,
    idle: IdlePolicy,
    /// The clock as it was read last.
    now: Instant,
    /// When there was something to do last.
    busy: Instant,
    /// Nothing has been to do since a [`Shard::wait`] began to rest.
    resting: bool,
    /// Rests behind each other that were longer than the policy's spin.
    in_vain: u32,
    pending: Pending,
    /// There was work since the devices were synchronised last.
    unsynced: bool,
    /// Reused by every [`Shard::wait`].
    fds: Vec<PollFd>,
}

/// A seed that nobody can know, from the system's entropy.
///
/// # Errors
/// The system has none to give.
pub fn system_seed() -> io::Result<Seed> {
    let mut seed = Seed::default();
    getrandom::fill(&mut seed).map_err(|error| io::Error::other(format!("no random numbers: {error}")))?;
    Ok(seed)
}

/// Why a shard cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// No entropy is left.
    #[error(transparent)]
    System(#[from] io::Error),
    /// The stack refuses its settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Shard<MonotonicClock> {
    /// The short way for a program that needs nothing special: the system's clock, its entropy, default settings, and one
    /// interface with these addresses on `device`. Its station address is random and locally administered.
    ///
    /// # Errors
    /// [`SetupError`]; the device is dropped.
    pub fn with_device(
        device: Box<dyn Device + Send>,
        addrs: Vec<InterfaceAddr>,
    ) -> Result<Self, SetupError> {
        let stack = Stack::new(StackConfig::default(), system_seed()?)?;
        let mut shard = Self::new(stack, MonotonicClock::new(), IdlePolicy::default());
        let [a, b, c, d, e, ..] = system_seed()?;
        let mac = MacAddr([0x02, a, b, c, d, e]);
        shard.attach(device, InterfaceConfig { mac, addrs, ..InterfaceConfig::default() })?;
        Ok(shard)
    }
}

impl<C: Clock> Shard<C> {
    /// A shard without devices.
    pub fn new(stack: Stack, clock: C, idle: IdlePolicy) -> Self {
        let now = clock.now();
        Self {
            clock,
            stack,
            ports: Vec::new(),
            idle,
            now,
            busy: now,
            resting: false,
            in_vain: 0,
            pending: Pending::Clear,
            unsynced: false,
            fds: Vec::new(),
        }
    }

    /// Gives the shard a device, and the stack an interface for it as in `config`, whose `caps` are the device's.
    ///
    /// # Errors
    /// [`ConfigError`]; the device is dropped.
    pub fn attach(
        &mut self,
        device: Box<dyn Device + Send>,
        config: InterfaceConfig,
    ) -> Result<InterfaceId, ConfigError> {
        let interface = self.stack.add_interface(InterfaceConfig { caps: *device.caps(), ..config })?;
        self.ports.push(Port { device, interface });
        Ok(interface)
    }

    /// The stack.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// The stack, for the verbs of its sockets.
    pub fn stack_mut(&mut self) -> &mut Stack {
        &mut self.stack
    }

    /// The time that the last turn worked with.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What the devices counted, by interface. Allocates.
    pub fn device_stats(&self) -> Vec<(InterfaceId, Vec<(&'static str, u64)>)> {
        self.ports.iter().map(|port| (port.interface, port.device.stats())).collect()
    }

    /// Brings what the devices keep in memory for others to where it belongs ([`Device::sync`]): for the end, when no turn
    /// follows.
    ///
    /// # Errors
    /// The first [`DeviceError`]; the other devices had their turn.
    pub fn sync(&mut self) -> Result<(), DeviceError> {
        self.ports.iter_mut().map(|port| port.device.sync()).fold(Ok(()), Result::and)
    }

    /// Goes round once: receives a burst from each device, does what is due, sends what is owed. Never blocks.
    ///
    /// # Errors
    /// [`DeviceError`] when a device is gone for good. The other devices had their turn; the next turn fails again.
    pub fn turn(&mut self) -> Result<Turn, DeviceError> {
        self.now = self.clock.now();
        let (now, stack, mut result) = (self.now, &mut self.stack, Ok(()));
        let mut received = 0;
        for Port { device, interface } in &mut self.ports {
            device.set_now(now);
            match device.rx_burst(&mut |frames| stack.ingress_burst(now, *interface, frames)) {
                Ok(frames) => received += frames,
                Err(error) => result = Err(error),
            }
        }
        let due = stack.next_deadline().is_some_and(|at| at <= now);
        if due {
            stack.on_timeout(now);
        }
        self.pending = Pending::Clear;
        let mut owed = false;
        for Port { device, interface } in &mut self.ports {
            if stack.has_pending(*interface) {
                owed = true;
                if stack.egress(now, *interface, device) == Pending::RingFull {
                    self.pending = Pending::RingFull;
                }
            }
            if let Err(error) = device.flush() {
                result = Err(error);
            }
        }
        if received > 0 || due || owed {
            if core::mem::take(&mut self.resting) {
                let in_time = now.since(self.busy) <= self.idle.spin;
                self.in_vain = if in_time { 0 } else { self.in_vain.wrapping_add(1) };
            }
            self.busy = now;
            self.unsynced = true;
        } else if core::mem::take(&mut self.unsynced) {
            result = result.and(self.sync());
        }
        result.map(|()| Turn { received, pending: self.pending, next_deadline: self.next_deadline() })
    }

    /// Waits until there is something to do: a frame, a deadline, one of `extra` becoming readable, or `limit`
    /// passing. Returns at once while the last work is recent (see [`IdlePolicy::spin`]), until a turn has found nothing to do,
    /// while the stack has events or while something can be sent. May return early for no reason; [`Shard::turn`] finds out.
    ///
    /// # Errors
    /// For descriptors that the system refuses.
    pub fn wait(&mut self, limit: Option<Duration>, extra: &[RawFd]) -> io::Result<()> {
        let now = self.clock.now();
        let owed =
            self.pending == Pending::Clear && self.ports.iter().any(|p| self.stack.has_pending(p.interface));
        if owed || self.unsynced || self.stack.has_events() || limit == Some(Duration::ZERO) {
            return Ok(());
        }
        self.resting = true;
        let may_pay = self.in_vain < IN_VAIN_MAX || self.in_vain.is_multiple_of(TRY_AGAIN);
        if may_pay && now.since(self.busy) < self.idle.spin {
            core::hint::spin_loop();
            return Ok(());
        }
        if !self.ports.iter_mut().all(|port| port.device.arm()) {
            return Ok(());
        }
        let timeout = [limit, self.longest_sleep(now)].into_iter().flatten().min();
        self.fds.clear();
        let devices = self.ports.iter().filter_map(|port| port.device.poll_fd());
        self.fds.extend(devices.chain(extra.iter().copied()).map(PollFd::readable));
        poll(&mut self.fds, timeout).map(drop)
    }

    /// How long there is certainly nothing to do unless a descriptor says so; `None` for ever.
    fn longest_sleep(&self, now: Instant) -> Option<Duration> {
        let until_deadline = self.next_deadline().map(|at| at.since(now));
        let must_poll = |port: &Port| port.device.poll_fd().is_none() && !port.device.is_exhausted();
        let polled = self.pending == Pending::RingFull || self.ports.iter().any(must_poll);
        let interval = polled.then_some(self.idle.poll_interval);
        [until_deadline, interval].into_iter().flatten().min()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let devices = self.ports.iter().filter_map(|port| port.device.next_deadline());
        devices.chain(self.stack.next_deadline()).min()
    }
}

impl<C: Clock> fmt::Debug for Shard<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("now", &self.now)
            .field("devices", &self.ports.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;
    use core::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;
    use crate::device::mem::{MemConfig, MemDevice, pair};
    use crate::device::pcap::CaptureReader;
    use crate::device::trace::Trace;
    use crate::device::{Caps, RxFrame, TxMeta, TxQueue};
    use crate::rng::seed_from;
    use crate::stack::route::InterfaceAddr;
    use crate::stack::{EchoOutcome, StackConfig};
    use crate::wire::MacAddr;

    #[derive(Default)]
    struct Virtual(Cell<u64>);

    impl Clock for &Virtual {
        fn now(&self) -> Instant {
            Instant::from_micros(self.0.get())
        }
    }

    fn shard(clock: &Virtual, device: impl Device + Send + 'static, host: u8) -> Shard<&Virtual> {
        let stack = Stack::new(StackConfig::default(), seed_from(host.into())).unwrap();
        let mut shard = Shard::new(stack, clock, IdlePolicy::default());
        let addr = InterfaceAddr::new(Ipv4Addr::new(10, 0, 0, host).into(), 24).unwrap();
        let config =
            InterfaceConfig { mac: MacAddr([2, 0, 0, 0, 0, host]), addrs: vec![addr], ..Default::default() };
        shard.attach(Box::new(device), config).unwrap();
        shard
    }

    fn run(clock: &Virtual, shards: [&mut Shard<&Virtual>; 2]) {
        let [a, b] = shards;
        for _ in 0..200 {
            clock.0.set(clock.0.get() + 10);
            a.turn().unwrap();
            b.turn().unwrap();
        }
    }

    #[test]
    fn two_shards_on_a_cable_ping_each_other_and_exchange_datagrams_of_all_sizes() {
        for config in [MemConfig::default(), MemConfig::offloading(), MemConfig::default().ring(2)] {
            let (left, right) = pair(config);
            let clock = Virtual::default();
            let (mut a, mut b) = (shard(&clock, left, 1), shard(&clock, right, 2));
            let peer = IpAddr::from([10, 0, 0, 2]);

            let echo = a.stack_mut().echo_open().unwrap();
            for (seq, len) in [0, 1, 1_472, 1_473, 65_507].into_iter().enumerate() {
                a.stack_mut().echo_send(echo, peer, seq as u16, &vec![seq as u8; len]).unwrap();
                run(&clock, [&mut a, &mut b]);
                let reply = a.stack_mut().echo_recv(echo).unwrap();
                assert_eq!((reply.from, reply.seq), (peer, seq as u16));
                assert_eq!(reply.outcome, EchoOutcome::Reply { ttl: 64, payload_len: len });
            }

            let server = b.stack_mut().udp_bind(SocketAddr::new(peer, 7)).unwrap();
            let client = a.stack_mut().udp_bind(([0; 4], 0).into()).unwrap();
            a.stack_mut().udp_connect(client, Some(SocketAddr::new(peer, 7))).unwrap();
            let mut buf = vec![0; 65_507];
            for len in [0, 1, 1_472, 1_473, 65_507] {
                let sent: Vec<u8> = (0..len).map(|i| (i % 253) as u8).collect();
                a.stack_mut().udp_send_to(client, &sent, None).unwrap();
                run(&clock, [&mut a, &mut b]);
                let got = b.stack_mut().udp_recv_from(server, &mut buf).unwrap();
                assert_eq!(buf[..got.len], sent);
                b.stack_mut().udp_send_to(server, &buf[..got.len], Some(got.from)).unwrap();
                run(&clock, [&mut a, &mut b]);
                let got = a.stack_mut().udp_recv_from(client, &mut buf).unwrap();
                assert_eq!(buf[..got.len], sent);
            }
        }
    }

    #[test]
    fn what_a_shard_at_rest_has_traced_is_in_the_file() {
        let file = std::env::temp_dir().join(format!("ntytcp-shard-{}.pcap", std::process::id()));
        let frames = || {
            let mut reader = CaptureReader::open(&file).unwrap();
            core::iter::from_fn(|| reader.next_frame(&mut Vec::new()).unwrap()).count()
        };
        let no_spin = IdlePolicy { spin: Duration::ZERO, ..IdlePolicy::default() };
        for idle in [IdlePolicy::default(), IdlePolicy::BUSY_POLL, no_spin] {
            let ((link, _peer), clock) = (pair(MemConfig::default()), Virtual::default());
            let mut shard = shard(&clock, Trace::new(link, &file, Duration::ZERO).unwrap(), 1);
            shard.idle = idle;
            assert_eq!(frames(), 0, "there is a header");
            // The announcements of the address, one by one.
            for _ in 0..4 {
                let next = shard.turn().unwrap().next_deadline;
                shard.wait(None, &[]).unwrap();
                shard.turn().unwrap();
                let traced = shard.device_stats()[0].1.last().unwrap().1;
                assert_eq!(frames() as u64, traced);
                clock.0.set(next.map_or(0, Instant::as_micros) + 1);
            }
            assert!(frames() > 1);
        }
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn spinning_stops_when_work_comes_later_and_begins_again_when_it_comes_soon() {
        let ((link, mut peer), clock) = (pair(MemConfig::default()), Virtual::default());
        let mut shard = shard(&clock, link, 1);
        while let Some(at) = shard.turn().unwrap().next_deadline {
            clock.0.set(at.as_micros() + 1);
            peer.rx_burst(&mut |_| {}).unwrap();
        }
        let mut frame_after = |shard: &mut Shard<&Virtual>, micros: u64| {
            // Once for what is to be synchronised, once to rest.
            for _ in 0..2 {
                shard.turn().unwrap();
                shard.wait(Some(Duration::from_nanos(1)), &[]).unwrap();
            }
            clock.0.set(clock.0.get() + micros);
            peer.reserve(60).unwrap().fill(0);
            peer.commit(TxMeta::default());
            peer.flush().unwrap();
            assert_eq!(shard.turn().unwrap().received, 1);
            shard.in_vain
        };
        for (micros, in_vain) in
            [(20, 0), (21, 1), (5, 0), (500, 1), (21, 2), (1_000_000, 3), (30, 4), (3, 0)]
        {
            assert_eq!(frame_after(&mut shard, micros), in_vain, "after {micros} us");
        }
        shard.idle = IdlePolicy::BUSY_POLL;
        assert_eq!(frame_after(&mut shard, 1_000_000), 0);
    }

    /// A link that counts how often its shard was about to sleep.
    struct Sleeps(MemDevice, Arc<AtomicU32>);

    impl TxQueue for Sleeps {
        fn caps(&self) -> &Caps {
            self.0.caps()
        }

        fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
            self.0.reserve(len)
        }

        fn commit(&mut self, meta: TxMeta) {
            self.0.commit(meta);
        }
    }

    impl Device for Sleeps {
        fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
            self.0.rx_burst(sink)
        }

        fn flush(&mut self) -> Result<(), DeviceError> {
            self.0.flush()
        }

        fn arm(&mut self) -> bool {
            self.1.fetch_add(1, Relaxed);
            true
        }
    }

    #[test]
    fn how_soon_a_shard_sleeps_is_the_policys() {
        for (idle, right_after_work, later) in
            [(IdlePolicy::BUSY_POLL, 0, 0), (IdlePolicy::default(), 0, 1), (IdlePolicy::INTERRUPT, 1, 2)]
        {
            let ((link, _peer), clock) = (pair(MemConfig::default()), Virtual::default());
            let sleeps = Arc::new(AtomicU32::new(0));
            let mut shard = shard(&clock, Sleeps(link, sleeps.clone()), 1);
            shard.idle = idle;
            // The address is announced.
            shard.turn().unwrap();
            shard.turn().unwrap();
            for (micros, expected) in [(1, right_after_work), (1_000, later)] {
                clock.0.set(micros);
                shard.wait(Some(Duration::from_nanos(1)), &[]).unwrap();
                assert_eq!(sleeps.load(Relaxed), expected, "{idle:?} after {micros} us");
            }
        }
    }

    #[test]
    fn a_link_is_polled_until_its_other_end_is_gone_and_its_frames_were_received() {
        let ((link, mut peer), clock) = (pair(MemConfig::default()), Virtual::default());
        let mut shard = shard(&clock, link, 1);
        // Until the address is claimed and announced.
        while let Some(at) = shard.turn().unwrap().next_deadline {
            clock.0.set(at.as_micros() + 1);
            peer.rx_burst(&mut |_| {}).unwrap();
        }
        let interval = Some(IdlePolicy::default().poll_interval);
        assert_eq!(shard.longest_sleep(shard.now()), interval);
        peer.reserve(60).unwrap().fill(0);
        peer.commit(TxMeta::default());
        peer.flush().unwrap();
        drop(peer);
        assert_eq!(shard.longest_sleep(shard.now()), interval, "a frame is under way");
        assert_eq!(shard.turn().unwrap().received, 1);
        assert_eq!(shard.longest_sleep(shard.now()), None);
    }
}
