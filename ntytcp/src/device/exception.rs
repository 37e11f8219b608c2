//! The exception path: a wrapper that leaves to the kernel what the stack does not own, on a wire that the kernel does not see.
//!
//! ```text
//!              +-- owned ------------------------------------> stack
//!   wire ------+                                                 |
//!    ^  ^      +-- the rest: token bucket --> kernel's side      |
//!    |  |                                     (a TAP)            |
//!    |  +----------------------------------------+               |
//!    +-----------------------------------------------------------+
//! ```
//!
//! The kernel's side has the same station address and IP addresses as the stack, and the kernel answers there what is not the stack's:
//! ping, ssh, ARP. What the kernel sends goes out as it is. A flood of what is not owned costs the stack the look at each frame; at the kernel's
//! side no more arrive than the rate allows. ARP and neighbor discovery have a rate of their own, so that such a flood does not end the
//! resolution of next hops.
//!
//! A wire with several queues has a wrapper per queue, each with a queue of the TAP: the kernel sends a flow where it came from. They share
//! the [`Limits`], so that the rate is that of the whole.
//!
//! Frames pass unfinished where both sides can: partial checksums and TCP trains are handed on, and finished here where the other side cannot.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use arrayvec::ArrayVec;

use super::offload::complete_checksum;
use super::sys;
use super::{
    Caps, Device, DeviceError, Gso, GsoKind, RxChecksum, RxFrame, RxMeta, TxChecksum, TxMeta, TxQueue,
    Verdict,
};
use crate::owned::{Ownership, OwnershipWatch, SharedOwnership};
use crate::time::{Duration, Instant};
use crate::wire::{EtherType, IpProtocol};

/// What an exception path is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ExceptionConfig {
    /// Frames per second to the kernel, at least 1; more than [`ExceptionConfig::MAX_RATE`] are as many. Default 100,000.
    pub rate: u32,
    /// Frames at once. Default 1,000.
    pub burst: u32,
}

impl ExceptionConfig {
    /// The highest rate that is kept to: the bucket counts in nanoseconds.
    pub const MAX_RATE: u32 = 10_000_000;
}

impl Default for ExceptionConfig {
    fn default() -> Self {
        Self { rate: 100_000, burst: 1_000 }
    }
}

/// The rate of ARP and neighbor discovery, and how many at once.
const NEIGHBORS: ExceptionConfig = ExceptionConfig { rate: 1_000, burst: 200 };

/// A token bucket, kept as the moment at which it will be full again; on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Bucket {
    /// As nanoseconds.
    full_at: AtomicU64,
    /// The latest time that anybody has told: a shard that was kept from its core comes with an older one.
    latest: AtomicU64,
    interval: Duration,
    depth: Duration,
}

impl Bucket {
    fn new(config: ExceptionConfig) -> Self {
        let interval = Duration::from_secs(1) / config.rate.clamp(1, ExceptionConfig::MAX_RATE);
        Self {
            full_at: AtomicU64::new(0),
            latest: AtomicU64::new(0),
            interval,
            depth: interval * config.burst.max(1),
        }
    }

    /// A token, if there is one. No lock.
    fn take(&self, now: Instant) -> bool {
        // Of a burst, only the first frame brings a new time.
        if self.latest.load(Relaxed) < now.as_nanos() {
            self.latest.fetch_max(now.as_nanos(), Relaxed);
        }
        let less = |full_at| {
            // Behind the bucket's own time, so no less than what that was made from.
            let now = Instant::from_nanos(self.latest.load(Relaxed));
            let full_at = Instant::from_nanos(full_at).max(now) + self.interval;
            (full_at <= now + self.depth).then(|| full_at.as_nanos())
        };
        self.full_at.fetch_update(Release, Acquire, less).is_ok()
    }
}

/// How much passes to the kernel, for all queues of a wire together. Their shards must count time from the same moment.
#[derive(Debug)]
pub struct Limits {
    rest: Bucket,
    neighbors: Bucket,
}

impl Limits {
    /// Nothing has passed yet.
    pub fn new(config: ExceptionConfig) -> Self {
        Self { rest: Bucket::new(config), neighbors: Bucket::new(NEIGHBORS) }
    }

    /// Whether a frame may pass.
    fn allow(&self, frame: &[u8], now: Instant) -> bool {
        let bucket = if is_about_neighbors(frame) { &self.neighbors } else { &self.rest };
        bucket.take(now)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Stats {
    /// To the kernel, and from there to the wire.
    to_kernel: u64,
    from_kernel: u64,
    /// More than the rate.
    limited: u64,
    /// The kernel's side, or the wire, had no room or cannot carry such a frame.
    kernel_full: u64,
    wire_full: u64,
}

/// A wire that the kernel has a part of. See the module documentation.
#[derive(Debug)]
pub struct Exception<W, K> {
    wire: W,
    kernel: K,
    owned: Ownership,
    watch: OwnershipWatch,
    limits: Arc<Limits>,
    poll: Option<OwnedFd>,
    now: Instant,
    stats: Stats,
}

impl<W: Device, K: Device> Exception<W, K> {
    /// Hands what `owned` does not name of the frames of `wire` to `kernel` within the `limits`, and what comes from there to `wire`.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(
        wire: W,
        kernel: K,
        owned: Arc<SharedOwnership>,
        limits: Arc<Limits>,
    ) -> Result<Self, DeviceError> {
        let fds: Option<ArrayVec<_, 2>> =
            wire.poll_fd().zip(kernel.poll_fd()).map(|(wire, kernel)| [wire, kernel].into());
        let poll =
            fds.map(|fds| sys::either_readable(&fds)).transpose().map_err(|source| DeviceError::Io {
                what: "exception path: cannot sleep on two devices".to_owned(),
                source,
                remedy: "",
            })?;
        let (watch, owned) = OwnershipWatch::new(owned);
        let (now, stats) = (Instant::ZERO, Stats::default());
        Ok(Self { wire, kernel, owned, watch, limits, poll, now, stats })
    }

    /// The kernel's side.
    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    /// Sends what the kernel has sent.
    fn receive_from_kernel(&mut self) -> Result<usize, DeviceError> {
        let Self { wire, kernel, stats, .. } = self;
        kernel.rx_burst(&mut |burst| {
            for frame in burst {
                match pass_on(frame, wire) {
                    Some(()) => stats.from_kernel += 1,
                    None => stats.wire_full += 1,
                }
            }
        })
    }

    /// Receives from the wire: runs of frames that are the stack's go to `sink`, the others to the kernel.
    fn receive_from_wire(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        let Self { wire, kernel, owned, watch, limits, now, stats, .. } = self;
        let mut to_kernel = |frame: &mut RxFrame<'_>| {
            frame.verdict = Verdict::Done;
            if !watch.shared().hears(frame.bytes()) {
                return;
            }
            if !limits.allow(frame.bytes(), *now) {
                stats.limited += 1;
            } else if pass_on(frame, kernel).is_some() {
                stats.to_kernel += 1;
            } else {
                stats.kernel_full += 1;
            }
        };
        wire.rx_burst(&mut |mut burst| {
            while !burst.is_empty() {
                let ours =
                    burst.iter().take_while(|frame| owned.owns(frame.bytes(), frame.meta.vlan)).count();
                let (run, rest) = burst.split_at_mut(ours);
                if !run.is_empty() {
                    sink(run);
                }
                let Some((frame, others)) = rest.split_first_mut() else { break };
                to_kernel(frame);
                burst = others;
            }
        })
    }
}

/// Sends a received frame through another device, and does what that cannot. `None` when it does not take it.
fn pass_on(frame: &RxFrame<'_>, to: &mut impl TxQueue) -> Option<()> {
    let (bytes, vlan) = (frame.bytes(), frame.meta.vlan);
    let caps = *to.caps();
    let mut meta = tx_meta(frame.meta, bytes)?;
    let tag_len = if vlan.is_some() { 4 } else { 0 };
    let room = to.reserve(bytes.len() + usize::from(tag_len))?;
    match vlan {
        None => room.copy_from_slice(bytes),
        // The tag that the device took out is put back.
        Some(tci) => {
            let (addresses, rest) = bytes.split_at_checked(12)?;
            let (front, back) = room.split_at_mut_checked(16)?;
            let [a, b] = EtherType::VLAN.0.to_be_bytes();
            let [c, d] = tci.to_be_bytes();
            front.iter_mut().zip(addresses.iter().chain(&[a, b, c, d])).for_each(|(to, from)| *to = *from);
            back.copy_from_slice(rest);
            if let Some(gso) = &mut meta.gso {
                gso.header_len += tag_len;
            }
        }
    }
    if let TxChecksum::Partial { start, offset } = meta.checksum {
        let start = start + tag_len;
        meta.checksum = if caps.tx_checksum {
            TxChecksum::Partial { start, offset }
        } else {
            complete_checksum(room, start, offset);
            TxChecksum::Complete
        };
    }
    to.commit(meta);
    Some(())
}

/// What is to be asked of a device that sends what was received so. `None` for a train that cannot be described: of datagrams, or
/// of something else.
fn tx_meta(meta: RxMeta, frame: &[u8]) -> Option<TxMeta> {
    let checksum = match meta.checksum {
        RxChecksum::Partial { start, offset } => TxChecksum::Partial { start, offset },
        RxChecksum::Unknown | RxChecksum::Verified => TxChecksum::Complete,
    };
    let Some(size) = meta.gso_size else { return Some(TxMeta { checksum, gso: None }) };
    let ip = frame.get(14..)?;
    let ethertype = u16::from_be_bytes(*frame.get(12..)?.first_chunk()?);
    let (kind, protocol, header) = match EtherType(ethertype) {
        EtherType::IPV4 => (GsoKind::TcpV4, *ip.get(9)?, usize::from(*ip.first()? & 0xf) * 4),
        EtherType::IPV6 => (GsoKind::TcpV6, *ip.get(6)?, 40),
        _ => return None,
    };
    let tcp = usize::from(*ip.get(header + 12)? >> 4) * 4;
    let header_len = u16::try_from(14 + header + tcp).ok()?;
    (protocol == IpProtocol::TCP.0).then_some(TxMeta { checksum, gso: Some(Gso { kind, size, header_len }) })
}

/// Whether a frame is ARP or, without extension headers, neighbor discovery.
fn is_about_neighbors(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x06]) => true,
        Some([0x86, 0xdd]) => {
            let icmp = frame.get(20).is_some_and(|&next| next == IpProtocol::ICMPV6.0);
            icmp && frame.get(54).is_some_and(|kind| (133..=137).contains(kind))
        }
        _ => false,
    }
}

impl<W: Device, K: Device> TxQueue for Exception<W, K> {
    fn caps(&self) -> &Caps {
        self.wire.caps()
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.wire.reserve(len)
    }

    fn commit(&mut self, meta: TxMeta) {
        self.wire.commit(meta);
    }
}

impl<W: Device, K: Device> Device for Exception<W, K> {
    fn inner(&self) -> Option<&dyn Device> {
        Some(&self.wire)
    }

    fn inner_mut(&mut self) -> Option<&mut dyn Device> {
        Some(&mut self.wire)
    }

    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        if let Some(owned) = self.watch.changed() {
            self.owned = owned;
        }
        Ok(self.receive_from_kernel()? + self.receive_from_wire(sink)?)
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        self.kernel.flush().and(self.wire.flush())
    }

    fn arm(&mut self) -> bool {
        let wire = self.wire.arm();
        self.kernel.arm() && wire
    }

    fn poll_fd(&self) -> Option<i32> {
        // Either may be one that can only be polled from now on.
        self.wire.poll_fd().and(self.kernel.poll_fd()).and(self.poll.as_ref().map(AsRawFd::as_raw_fd))
    }

    fn is_exhausted(&self) -> bool {
        self.wire.is_exhausted() && self.kernel.is_exhausted()
    }

    fn set_now(&mut self, now: Instant) {
        self.now = now;
        self.wire.set_now(now);
        self.kernel.set_now(now);
    }

    fn next_deadline(&self) -> Option<Instant> {
        [self.wire.next_deadline(), self.kernel.next_deadline()].into_iter().flatten().min()
    }

    fn stats(&self) -> Vec<(&'static str, u64)> {
        let Stats { to_kernel, from_kernel, limited, kernel_full, wire_full } = self.stats;
        let mut stats = self.wire.stats();
        stats.extend(self.kernel.stats());
        stats.extend([
            ("exception-to-kernel", to_kernel),
            ("exception-from-kernel", from_kernel),
            ("exception-limited", limited),
            ("exception-kernel-full", kernel_full),
            ("exception-wire-full", wire_full),
        ]);
        stats
    }
}

#[cfg(test)]
#[path = "exception_tests.rs"]
mod tests;
