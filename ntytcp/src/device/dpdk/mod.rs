//! DPDK: a network card past the kernel, or one of DPDK's virtual devices.
//!
//! ```text
//!   rte_eth_rx_burst -> mbufs -> RxFrames in them -> stack -> Done: freed in bulk
//!                                                          -> Reply: the same mbuf --+
//!   reserve/commit: a fresh mbuf, written by the stack ------------------------------+-> unsent -> rte_eth_tx_burst
//! ```
//!
//! A frame lies in one buffer, in which it is read and answered. A frame of several buffers (trains of segments that a driver merged)
//! is copied into a long one; a train that is to be cut by the driver is written into a long one at once. What a driver does not
//! accept stays, in order, for the next flush.
//!
//! EAL, DPDK's own start, exists once per process and stays until it ends: the first device starts it, each further one gets another
//! port of it ([`start`]). The port is the device's alone: it is stopped and closed when its last queue is dropped, and a
//! card then has to be bound to the kernel's driver again by who wants it there.
//!
//! A shard may sleep where the driver has interrupts for received frames. They are armed for a sleep ([`Device::arm`]) and disarmed at
//! the next frame, so that a busy device makes no system call.

mod eal;
mod meta;
pub mod pci;
mod pools;
mod sending;

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

use arrayvec::ArrayVec;
use dpdk_sys::{Burst, DpdkError, Head, Mbuf, Port, PortConfig, Queue, Rss, RxOffloads, TxOffloads};

pub use self::eal::start;
use self::pools::Lease;
use self::sending::{Able, Trains, answered, prepare};
pub use super::xdp::RxChecksumPolicy;
use super::{
    BURST, Caps, Device, DeviceError, MAX_L2_HEADER, RETRY, RxChecksum, RxFrame, TxMeta, TxQueue, Verdict,
    netdev,
};
use crate::steering::Steering;
use crate::time::{Duration, Instant};

/// What a DPDK device is opened with.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DpdkConfig {
    /// A PCI address (`0000:03:00.0`), a virtual device (`net_tap0,iface=nty0`) or a port that exists, then options of EAL; or only
    /// options of EAL, which bring up the device: `-l 2 --vdev net_tap0,iface=nty0`. Separated by spaces.
    pub argument: String,
    /// The largest IP packet, at most 65,000. Default the port's.
    pub mtu: Option<usize>,
    /// Checksums, segmentation and merging of segments by the driver, where it can. Default on.
    pub offload: bool,
    /// Which flow goes to which queue, and so how many queues there are. Default one queue.
    pub steering: Option<Arc<Steering>>,
    /// VLAN tags are taken out of received frames, and put back into answers. Default off: they stay in the frames.
    pub vlan_strip: bool,
    /// Whether received checksums are verified that the driver does not verify. Default by the kernel's driver, where the port is on one
    /// of its interfaces.
    pub rx_checksum: RxChecksumPolicy,
    /// Receive what is for any station, as the stack's own is not the card's. Default on.
    pub promiscuous: bool,
    /// Frames that may wait in a receive queue, and in a transmit queue. Default 1,024.
    pub ring: u16,
}

impl DpdkConfig {
    /// The default for what `argument` names.
    pub fn new(argument: impl Into<String>) -> Self {
        Self {
            argument: argument.into(),
            mtu: None,
            offload: true,
            steering: None,
            vlan_strip: false,
            rx_checksum: RxChecksumPolicy::default(),
            promiscuous: true,
            ring: 1_024,
        }
    }
}

/// Frames that wait at most because the driver does not take them: a burst of the stack's own and replies.
const UNSENT: usize = 512;

/// Buffers that are taken from the pool at a time.
const REFILL: usize = 32;

/// How often the link is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What the driver does to received frames, if `offload` is wanted.
const RX_OFFLOADS: RxOffloads = RxOffloads::IPV4_CHECKSUM
    .union(RxOffloads::UDP_CHECKSUM)
    .union(RxOffloads::TCP_CHECKSUM)
    .union(RxOffloads::LRO)
    .union(RxOffloads::SCATTER)
    .union(RxOffloads::RSS_HASH);

/// What it does to sent ones.
const TX_OFFLOADS: TxOffloads = TxOffloads::IPV4_CHECKSUM
    .union(TxOffloads::UDP_CHECKSUM)
    .union(TxOffloads::TCP_CHECKSUM)
    .union(TxOffloads::TSO)
    .union(TxOffloads::MULTI_SEGMENT);

/// One queue pair of a port. See the module documentation.
#[derive(Debug)]
pub struct DpdkDevice {
    /// Before the pools: ended before they may be another device's.
    queue: Queue,
    received: Box<Burst<BURST>>,
    unsent: Box<Burst<UNSENT>>,
    /// How many of the unsent are fit for the driver.
    prepared: usize,
    /// The driver is to do something with one of the unsent.
    offloaded: bool,
    /// Empty buffers for what the stack sends: those of received frames that it is done with, or from the pool.
    fresh: Burst<BURST>,
    /// The reservation.
    open: Option<Mbuf>,
    pool: Lease,
    /// Of buffers for frames beyond those that fit the others.
    long_pool: Option<Lease>,
    caps: Caps,
    able: Able,
    /// What is thought of checksums that the driver does not verify.
    unverified: RxChecksum,
    /// The kernel's interface that the driver works on without making it; such drivers do not tell when it is gone.
    interface: Option<u32>,
    stats: Stats,
    now: Instant,
    look_at: Instant,
    link_up: bool,
    /// The driver has interrupts for received frames, and has not refused one.
    can_sleep: bool,
    /// It tells of the next frame.
    is_armed: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Stats {
    tx_refused: u64,
    tx_full: u64,
    rx_too_long: u64,
    rx_no_buffer: u64,
}

impl DpdkDevice {
    /// Starts EAL, if it does not run yet, brings up the device and opens its port with a queue pair for each shard of the steering, or
    /// with as many as the driver has.
    ///
    /// # Errors
    /// One line that names the device and the remedy: no hugepages, no permission, no such device, one that the kernel still has, a
    /// port that is open already, an MTU that the driver does not take.
    pub fn open(config: &DpdkConfig) -> Result<Vec<Self>, DeviceError> {
        let failed = |error: DpdkError| eal::explain(&config.argument, &error);
        let mtu = config.mtu.map(|mtu| mtu_of(&config.argument, mtu)).transpose()?;
        let (eal, name) = eal::port(&config.argument)?;
        let info = dpdk_sys::PortInfo::of(eal, &name).map_err(failed)?;
        let wanted = config.steering.as_ref().map_or(1, |steering| steering.shards());
        let queues = u16::try_from(wanted).unwrap_or(u16::MAX).min(info.max_queues).max(1);

        let mut port = PortConfig::default();
        (port.queues, port.mtu, port.promiscuous, port.all_multicast) =
            (queues, mtu, config.promiscuous, true);
        (port.rx_descriptors, port.tx_descriptors) = (config.ring, config.ring);
        port.rx_interrupts = true;
        if config.offload {
            (port.rx_offloads, port.tx_offloads) = (RX_OFFLOADS, TX_OFFLOADS);
        }
        if config.vlan_strip {
            port.rx_offloads |= RxOffloads::VLAN_STRIP;
            port.tx_offloads |= TxOffloads::VLAN_INSERT;
        }
        if let Some(steering) = &config.steering {
            port.rss = Some(Rss { key: steering.key().to_vec(), table: steering.table().to_vec() });
        }
        let frame = usize::from(mtu.unwrap_or(info.mtu)) + MAX_L2_HEADER;
        let frames = 2 * u32::from(config.ring) + (UNSENT + 2 * BURST) as u32;
        let lease = || Lease::of_frames(eal, frame, frames).map_err(failed);
        let pools = (0..queues).map(|_| lease()).collect::<Result<Vec<_>, _>>()?;
        let raw_pools: Vec<_> = pools.iter().map(Lease::pool).collect();
        let opened = Port::open(eal, &name, &raw_pools, &port).map_err(failed)?;
        let trusted = match config.rx_checksum {
            RxChecksumPolicy::ByDriver => info.interface.is_some_and(netdev::is_veth),
            RxChecksumPolicy::Verify => false,
            RxChecksumPolicy::Trust => true,
        };
        let unverified = if trusted { RxChecksum::Verified } else { RxChecksum::Unknown };
        let borrows = matches!(&*info.driver, "net_af_packet" | "net_af_xdp");
        let interface = info.interface.filter(|_| borrows);
        let trains = if config.offload { Trains::of(&info.driver, &config.argument) } else { Trains::None };
        let new = |(queue, pool)| Self::new(eal, (queue, pool), (unverified, trains, interface));
        let devices = opened.into_iter().zip(pools).map(new);
        let devices = devices.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        if let Some(device) = devices.first() {
            let port = device.queue.port();
            let (rx, tx) = (port.rx_offloads(), port.tx_offloads());
            tracing::info!(port = %name, driver = %port.info().driver, ?rx, ?tx, queues, caps = ?device.caps, "DPDK port");
        }
        Ok(devices)
    }

    fn new(
        eal: dpdk_sys::Eal,
        (queue, pool): (Queue, Lease),
        (unverified, trains, interface): (RxChecksum, Trains, Option<u32>),
    ) -> Result<Self, DpdkError> {
        let port = queue.port();
        let tx = port.tx_offloads();
        let tx_checksum = tx.contains(TxOffloads::TCP_CHECKSUM | TxOffloads::UDP_CHECKSUM);
        let longest_train = match trains {
            Trains::AsOffered(longest) if tx_checksum && tx.contains(TxOffloads::TSO) => longest,
            Trains::Always if tx_checksum => pools::LONGEST,
            Trains::None | Trains::ReceivedOnly | Trains::AsOffered(_) | Trains::Always => 0,
        };
        let long_pool = if trains == Trains::None { None } else { Some(Lease::of_trains(eal)?) };
        let tso_max = longest_train.saturating_sub(MAX_L2_HEADER);
        let mtu = usize::from(port.mtu()?).min(pool.room().saturating_sub(MAX_L2_HEADER));
        let link_up = port.link().is_ok_and(|link| link.up);
        Ok(Self {
            queue,
            received: Box::default(),
            unsent: Box::default(),
            prepared: 0,
            offloaded: false,
            fresh: Burst::default(),
            open: None,
            pool,
            long_pool,
            caps: Caps { mtu, tx_checksum, tso_max },
            able: Able { offloads: tx, tso: tso_max > 0 },
            unverified,
            interface,
            stats: Stats::default(),
            now: Instant::ZERO,
            look_at: Instant::ZERO,
            link_up,
            can_sleep: true,
            is_armed: false,
        })
    }

    /// The port, for what its driver can do and counts.
    pub fn port(&self) -> &Port {
        self.queue.port()
    }

    /// Gives the driver what waits. What it does not accept goes on waiting.
    fn send(&mut self) {
        while self.offloaded && self.prepared < self.unsent.len() {
            self.prepared = self.queue.tx_prepare(&mut self.unsent, self.prepared);
            if self.prepared < self.unsent.len() {
                let mut refused = Burst::<1>::default();
                let at = self.prepared;
                self.unsent.move_to(&mut refused, |index, _| index == at);
                self.stats.tx_refused += 1;
            }
        }
        if !self.unsent.is_empty() {
            self.queue.tx_burst(&mut self.unsent);
            self.prepared = if self.offloaded { self.unsent.len() } else { 0 };
            self.offloaded &= !self.unsent.is_empty();
        }
    }

    /// An empty buffer for a frame of `len` bytes.
    fn buffer(&mut self, len: usize) -> Option<Mbuf> {
        if len > self.pool.room() {
            return self.long_pool.as_ref().filter(|pool| len <= pool.room())?.pool().alloc_one();
        }
        if self.fresh.is_empty() {
            let pool = self.pool.pool();
            if pool.alloc(&mut self.fresh, REFILL) == 0 {
                return pool.alloc_one();
            }
        }
        self.fresh.pop()
    }

    /// Puts frames that lie in several buffers into one each. One that cannot be is lost.
    #[cold]
    fn gather(&mut self) {
        for mbuf in self.received.packets_mut().iter_mut().filter(|mbuf| mbuf.segment_count() > 1) {
            let long = self.long_pool.as_ref().filter(|pool| mbuf.packet_len() <= pool.room());
            let Some(long) = long else {
                self.stats.rx_too_long += 1;
                continue;
            };
            let Some(mut whole) = long.pool().alloc_one() else {
                self.stats.rx_no_buffer += 1;
                continue;
            };
            if mbuf.gather_into(&mut whole).is_ok() {
                *mbuf = whole;
            }
        }
        let mut lost = Burst::<BURST>::default();
        self.received.move_to(&mut lost, |_, mbuf| mbuf.segment_count() > 1);
    }

    /// Hands the received frames, each of which lies in one buffer, to `sink`, and makes those its answers that have become so. Which
    /// those are, by bits.
    #[inline]
    fn serve(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> u64 {
        const { assert!(BURST <= u64::BITS as usize) };
        let mut frames = ArrayVec::<RxFrame<'_>, BURST>::new();
        let mut heads = ArrayVec::<Head<'_>, BURST>::new();
        for mbuf in self.received.packets_mut() {
            mbuf.prefetch();
            let meta = meta::of_received(mbuf, self.unverified);
            let (head, buffer, place) = mbuf.split_mut();
            frames.push(RxFrame::new(buffer, place.start, place.len(), meta));
            heads.push(head);
        }
        sink(&mut frames);
        let mut replies = 0;
        for (index, (frame, head)) in frames.iter_mut().zip(&mut heads).enumerate() {
            let Verdict::Reply(meta) = frame.verdict else { continue };
            match answered(head, frame, meta, self.able) {
                Some(for_driver) => {
                    self.offloaded |= for_driver;
                    replies |= 1 << index;
                }
                None => self.stats.tx_refused += 1,
            }
        }
        replies
    }

    /// Sends on the received frames that are answers. The buffers of the others are the next to be written to, or go back to their pool.
    #[inline]
    fn sort(&mut self, replies: u64) {
        let count = self.received.len();
        if replies.count_ones() as usize == count && count <= self.unsent.room() {
            self.received.move_last_to(&mut self.unsent, count);
            return;
        }
        if replies != 0 {
            let chosen = |index: usize, _: &mut Mbuf| replies >> index & 1 != 0;
            self.stats.tx_full += self.received.move_to(&mut self.unsent, chosen) as u64;
        }
        let room = self.pool.room();
        let missing = self.fresh.room().min(self.received.len());
        let last = self.received.packets().iter().rev().take(missing);
        let fit = last.take_while(|mbuf| mbuf.is_like_new(room)).count();
        self.received.move_last_to(&mut self.fresh, fit);
        self.received.clear();
    }

    /// Looks after a link from which nothing arrives.
    #[cold]
    fn look(&mut self) -> Result<(), DeviceError> {
        self.look_at = self.now + LOOK_EVERY;
        let port = self.queue.port();
        if port.is_removed() || self.interface.is_some_and(netdev::is_gone) {
            return Err(DeviceError::Gone(format!("dpdk:{}", port.name())));
        }
        let up = port.link().is_ok_and(|link| link.up);
        match (self.link_up, up) {
            (false, true) => tracing::info!(port = %port.name(), "the link is up"),
            (true, false) => {
                tracing::warn!(port = %port.name(), "the link is down: nothing is sent or received")
            }
            _ => {}
        }
        self.link_up = up;
        Ok(())
    }
}

/// The MTU that was asked for, if a buffer can have it.
fn mtu_of(argument: &str, mtu: usize) -> Result<u16, DeviceError> {
    const MOST: u16 = 65_000;
    u16::try_from(mtu).ok().filter(|mtu| *mtu <= MOST).ok_or_else(|| {
        DeviceError::Config(format!("dpdk:{argument}: an MTU of {mtu} is too large: give at most {MOST}"))
    })
}

/// The name under which a count of the driver's is told. There are as many as drivers have names, and each is kept once.
fn intern(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let name = format!("dpdk-{}", name.replace('_', "-"));
    if let Some(known) = names.get(name.as_str()) {
        return known;
    }
    let name: &'static str = name.leak();
    names.insert(name);
    name
}

impl TxQueue for DpdkDevice {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        if let Some(unused) = self.open.take() {
            // One of several buffers for a train is simply given back.
            drop(self.fresh.push(unused).err());
        }
        if self.unsent.len() >= BURST {
            self.send();
        }
        if len > self.caps.mtu.max(self.caps.tso_max) + MAX_L2_HEADER || self.unsent.len() >= BURST {
            return None;
        }
        let mut mbuf = self.buffer(len)?;
        mbuf.renew(len).ok()?;
        Some(self.open.insert(mbuf).data_mut())
    }

    fn commit(&mut self, meta: TxMeta) {
        let Some(mut mbuf) = self.open.take() else { return };
        let (mut head, buffer, place) = mbuf.split_mut();
        let frame = buffer.get_mut(place).unwrap_or_default();
        match prepare(&mut head, frame, meta, self.able, None) {
            Some(for_driver) => self.offloaded |= for_driver,
            None => {
                self.stats.tx_refused += 1;
                return;
            }
        }
        // There was room when it was reserved.
        self.stats.tx_full += u64::from(self.unsent.push(mbuf).is_err());
    }
}

impl Device for DpdkDevice {
    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        eal::know_this_thread();
        // Frames that came while the interrupt was armed are there already.
        let nothing = self.received.is_empty() && self.queue.rx_burst(&mut self.received) == 0;
        // With nothing received as well: the descriptor may be readable for what came before.
        if std::mem::take(&mut self.is_armed) {
            self.queue.disarm();
        }
        if nothing {
            return if self.now >= self.look_at { self.look().map(|()| 0) } else { Ok(0) };
        }
        if self.received.packets().iter().any(|mbuf| mbuf.segment_count() > 1) {
            self.gather();
        }
        let count = self.received.len();
        let replies = self.serve(sink);
        self.sort(replies);
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        self.send();
        Ok(())
    }

    fn arm(&mut self) -> bool {
        if self.is_armed || !self.can_sleep || self.queue.interrupt().is_none() {
            return true;
        }
        self.is_armed = self.queue.arm();
        self.can_sleep = self.is_armed;
        // What came before makes no interrupt.
        self.queue.rx_burst(&mut self.received) == 0
    }

    fn poll_fd(&self) -> Option<i32> {
        self.queue.interrupt().filter(|_| self.can_sleep).map(|fd| fd.as_raw_fd())
    }

    fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    fn next_deadline(&self) -> Option<Instant> {
        Some(if self.unsent.is_empty() { self.look_at } else { self.look_at.min(self.now + RETRY) })
    }

    fn stats(&self) -> Vec<(&'static str, u64)> {
        let Stats { tx_refused, tx_full, rx_too_long, rx_no_buffer } = self.stats;
        let mut stats = vec![
            ("dpdk-tx-refused", tx_refused),
            ("dpdk-tx-full", tx_full),
            ("dpdk-rx-too-long", rx_too_long),
            ("dpdk-rx-no-buffer", rx_no_buffer),
        ];
        // What the driver counts is the port's: it is told once.
        if self.queue.index() == 0 {
            let counters = self.queue.port().counters();
            stats.extend(counters.iter().map(|(name, value)| (intern(name), *value)));
        }
        stats
    }
}
