//! What a stack asks of the thing that carries its frames.
//!
//! A [`Device`] is one receive queue and one transmit queue of Ethernet frames, polled by one thread. It moves
//! whole bursts: [`Device::rx_burst`] hands the received frames to a closure as one slice, the closure leaves a
//! [`Verdict`] in each, and the device then frees the buffer or sends it back out as it is. What the stack sends
//! of its own accord is written straight into the device's memory through [`TxQueue`].
//!
//! ```text
//!            rx_burst(sink)                     reserve(len) .. commit(meta)
//!   wire --> [RxFrame RxFrame ..] -> sink        stack -> &mut [u8] -> ring
//!              |       |                                               |
//!            Done    Reply(TxMeta) -------------------------------> flush() --> wire
//! ```
//!
//! Devices know nothing of the stack: they name neither addresses nor sockets.

#[cfg(all(feature = "devices", target_os = "linux"))]
mod bpf;
#[cfg(feature = "dpdk")]
pub mod dpdk;
#[cfg(all(feature = "devices", target_os = "linux"))]
pub mod exception;
pub mod fault;
mod forward;
#[cfg(all(feature = "devices", target_os = "linux"))]
pub mod lanes;
pub mod mem;
#[cfg(all(feature = "devices", target_os = "linux"))]
pub mod neighbors;
#[cfg(all(feature = "devices", target_os = "linux"))]
pub mod netdev;
#[cfg(all(feature = "devices", target_os = "linux"))]
pub(crate) mod netlink;
pub mod offload;
#[cfg(all(feature = "devices", target_os = "linux"))]
pub mod packet;
#[cfg(feature = "devices")]
pub mod pcap;
#[cfg(all(feature = "devices", target_os = "linux"))]
mod siblings;
#[cfg(feature = "devices")]
pub mod spec;
#[cfg(all(feature = "devices", target_os = "linux"))]
pub mod sys;
#[cfg(all(feature = "devices", target_os = "linux"))]
pub mod tap;
#[cfg(all(test, feature = "devices"))]
mod testing;
#[cfg(feature = "devices")]
pub mod trace;
pub mod train;
#[cfg(all(feature = "devices", target_os = "linux"))]
mod vnet;
#[cfg(all(feature = "devices", target_os = "linux"))]
pub mod xdp;

use core::num::NonZeroU64;

use crate::counters::DropReason;
#[cfg(feature = "devices")]
use crate::time::Duration;
use crate::time::Instant;

/// The most frames that the devices of this crate hand over in one burst.
pub const BURST: usize = 64;

/// How soon a device tries again to send what its way out was too full for. Nothing tells when there is room.
#[cfg(feature = "devices")]
const RETRY: Duration = Duration::from_micros(500);

/// Free bytes that the devices of this crate keep in front of every frame, for [`RxFrame::prepend`].
pub const HEADROOM: usize = 64;

/// The longest 802.1Q-in-Q Ethernet header: 14 bytes and two tags.
pub const MAX_L2_HEADER: usize = 22;

/// How much a device asks the stack to leave to it, and how much it can take. Fixed once the device is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Caps {
    /// The largest IP packet in bytes, Ethernet header not counted (so 1500 on a plain link).
    pub mtu: usize,
    /// The device completes TCP and UDP checksums of frames committed with [`TxChecksum::Partial`].
    pub tx_checksum: bool,
    /// The largest TCP segment train, as IP packet bytes, that the device cuts into `mss` pieces by itself; 0 when it cannot.
    pub tso_max: usize,
}

impl Caps {
    /// A link of the given IP MTU that offers no help at all.
    pub const fn plain(mtu: usize) -> Self {
        Self { mtu, tx_checksum: false, tso_max: 0 }
    }
}

/// What a device says about the layer-4 checksum of a received frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RxChecksum {
    /// Nothing: whoever reads the frame verifies it.
    #[default]
    Unknown,
    /// The device verified it.
    Verified,
    /// The frame never left this machine: the field holds only the pseudo-header sum, the data is trusted. Whoever
    /// puts the frame on a real wire completes the sum of everything from byte `start` into `start + offset`.
    Partial {
        /// First byte of the layer-4 header, counted from the start of the frame.
        start: u16,
        /// The checksum field, counted from `start`.
        offset: u16,
    },
}

/// What a device knows of a received frame beyond its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RxMeta {
    /// State of the layer-4 checksum.
    pub checksum: RxChecksum,
    /// The receive-side-scaling hash of the flow, where the device computed one.
    pub rss_hash: Option<u32>,
    /// The 802.1Q tag control information that the device stripped from the frame.
    pub vlan: Option<u16>,
    /// For a frame that the device merged from several segments (GRO, LRO, or a peer's TSO over a virtual link): the
    /// payload size of each.
    pub gso_size: Option<u16>,
    /// The frame was not received but sent, by this machine: only of a device that was opened to look on, and of a capture.
    pub outgoing: bool,
    /// When it passed, in nanoseconds since 1970, where the device was opened to look on, and in a capture.
    pub timestamp: Option<NonZeroU64>,
}

/// Who fills in the layer-4 checksum of a frame to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TxChecksum {
    /// It is complete, or the frame has none.
    #[default]
    Complete,
    /// The device: the field holds the pseudo-header sum, the device sums everything from byte `start` into
    /// `start + offset`. Only for a device whose [`Caps::tx_checksum`] is set.
    Partial {
        /// First byte of the layer-4 header, counted from the start of the frame.
        start: u16,
        /// The checksum field, counted from `start`.
        offset: u16,
    },
}

/// Which protocol a device is to cut a large frame along.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
}

/// Asks the device to cut a frame into segments of `size` payload bytes, each behind a copy of the first `header_len` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gso {
    /// Which headers are to be adjusted per segment.
    pub kind: GsoKind,
    /// Payload bytes of each segment but the last.
    pub size: u16,
    /// Ethernet, IP and TCP headers together.
    pub header_len: u16,
}

/// What a device is to do with a frame beside sending it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TxMeta {
    /// Who completes the layer-4 checksum.
    pub checksum: TxChecksum,
    /// Segmentation, only for a device whose [`Caps::tso_max`] allows the frame.
    pub gso: Option<Gso>,
}

/// What becomes of a received frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Verdict {
    /// It was used up; the device takes the buffer back.
    #[default]
    Done,
    /// The frame was rewritten into its own answer: send this buffer.
    Reply(TxMeta),
    /// It was refused, for the reason that the counters also show.
    Drop(DropReason),
}

/// A received frame in the device's own memory, with room around it so that an answer can be written in place.
#[derive(Debug)]
pub struct RxFrame<'a> {
    buf: &'a mut [u8],
    /// Never beyond `end`.
    start: usize,
    /// Never beyond the end of `buf`.
    end: usize,
    /// What the device knows of the frame.
    pub meta: RxMeta,
    /// What becomes of it; the device reads this when the burst comes back.
    pub verdict: Verdict,
}

impl<'a> RxFrame<'a> {
    /// The frame of `len` bytes at `start` in `buf`, the rest of which is free for an answer. Both are cut to
    /// what `buf` holds.
    #[inline]
    pub fn new(buf: &'a mut [u8], start: usize, len: usize, meta: RxMeta) -> Self {
        let start = start.min(buf.len());
        let end = start + len.min(buf.len() - start);
        Self { buf, start, end, meta, verdict: Verdict::Done }
    }

    /// The frame, from the first byte of its Ethernet header.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// The frame, to be rewritten.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buf[self.start..self.end]
    }

    /// Length of the frame in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether the frame has no byte at all.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the frame starts in its buffer; the device needs it to send a reply.
    #[inline]
    pub fn start(&self) -> usize {
        self.start
    }

    /// The longest answer that fits at the frame's place, in bytes.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.buf.len() - self.start
    }

    /// Lengthens or shortens the frame at its end; `false`, and no change, when the buffer is too small. What a longer
    /// frame gains is whatever the buffer held.
    #[must_use]
    pub fn set_len(&mut self, len: usize) -> bool {
        let fits = len <= self.capacity();
        if fits {
            self.end = self.start + len;
        }
        fits
    }

    /// Grows the frame by `n` bytes in front; `false`, and no change, without that much headroom.
    #[must_use]
    pub fn prepend(&mut self, n: usize) -> bool {
        let fits = n <= self.start;
        if fits {
            self.start -= n;
        }
        fits
    }
}

/// The sending side of a device.
///
/// A full ring is back-pressure, not an error: [`TxQueue::reserve`] answers `None`, the caller keeps what it has and
/// comes back on a later turn.
pub trait TxQueue {
    /// What the device does for the stack.
    fn caps(&self) -> &Caps;

    /// Memory for one frame of exactly `len` bytes, uninitialised in the sense that it holds old bytes. `None` when the
    /// ring is full or the device cannot carry such a frame. A second call without [`TxQueue::commit`] between gives up
    /// the first reservation.
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]>;

    /// Sends what was written into the last reservation. Does nothing when there is none.
    fn commit(&mut self, meta: TxMeta);
}

/// One queue pair of a network device. See the module documentation.
///
/// What a wrapper around another device does not do itself it leaves to that one: it says which it is ([`Device::inner`]), and every
/// method with a default asks there.
pub trait Device: TxQueue {
    /// The device that this one is wrapped around, or `None`. A wrapper gives both this and [`Device::inner_mut`].
    fn inner(&self) -> Option<&dyn Device> {
        None
    }

    /// The same device.
    fn inner_mut(&mut self) -> Option<&mut dyn Device> {
        None
    }

    /// Receives what has arrived, at most one burst, hands it to `sink` as one slice (not at all when nothing arrived),
    /// then acts on the verdicts. Returns how many frames there were.
    ///
    /// # Errors
    /// [`DeviceError`] when the device is gone for good; a transient lack of frames is `Ok(0)`.
    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError>;

    /// Puts everything committed, replies included, on the wire. What does not fit stays queued for the next flush.
    ///
    /// # Errors
    /// [`DeviceError`] when the device is gone for good.
    fn flush(&mut self) -> Result<(), DeviceError>;

    /// Brings what the device keeps in memory for others, such as the records of a capture file, to where it belongs. For a
    /// moment without work, and for the end; not for every turn, as it may make system calls.
    ///
    /// # Errors
    /// [`DeviceError`] when it cannot be brought there.
    fn sync(&mut self) -> Result<(), DeviceError> {
        self.inner_mut().map_or(Ok(()), Device::sync)
    }

    /// The shard is about to sleep on [`Device::poll_fd`]: the device sees to it that the descriptor becomes readable with the next frame,
    /// for as long as nothing is received. `false` when frames wait already, which no descriptor might tell. Afterwards `poll_fd` may be
    /// `None`. Default `true`: the descriptor always tells.
    fn arm(&mut self) -> bool {
        self.inner_mut().is_none_or(Device::arm)
    }

    /// A file descriptor that polls readable when frames wait, for a shard that sleeps. `None` for a device that can
    /// only be polled.
    fn poll_fd(&self) -> Option<i32> {
        self.inner().and_then(Device::poll_fd)
    }

    /// Whether nothing can ever be received from this device again, other than what [`Device::next_deadline`] tells: a capture at
    /// its end, a link whose other end is gone. A shard need not look after it while it sleeps.
    fn is_exhausted(&self) -> bool {
        self.inner().is_some_and(Device::is_exhausted)
    }

    /// The time of this turn, told once before the turn's other calls. Only devices that keep time of their own, such as a
    /// link with a delay or a capture, look at it.
    fn set_now(&mut self, now: Instant) {
        if let Some(inner) = self.inner_mut() {
            inner.set_now(now);
        }
    }

    /// Whether frames of TCP and UDP flows, and fragments by their addresses, arrive where the steering that the device was opened with
    /// has their home, so that nobody needs to compute it: ICMP errors are the only ones that may belong elsewhere. That can end, and
    /// then for good: when a queue is closed, its flows go to the others. Costs a load; to be asked per burst.
    fn is_steered(&self) -> bool {
        self.inner().is_some_and(Device::is_steered)
    }

    /// When the device will have something to do though nobody calls: frames that it holds become due then, and
    /// [`Device::rx_burst`] and [`Device::flush`] should be called.
    fn next_deadline(&self) -> Option<Instant> {
        self.inner().and_then(Device::next_deadline)
    }

    /// Frames that the device itself lost, and why, in its own words, for the counters. Allocates.
    fn stats(&self) -> Vec<(&'static str, u64)> {
        self.inner().map_or_else(Vec::new, Device::stats)
    }
}

/// Why a device cannot be opened or has stopped working. The message names the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The operating system refused.
    #[error("{what}: {source}{}", hint(.remedy))]
    Io {
        /// What was tried, with the name of the device.
        what: String,
        /// What the system said.
        source: std::io::Error,
        /// What the user can do, or empty.
        remedy: &'static str,
    },
    /// The device string or its parameters make no sense.
    #[error("{0}")]
    Config(String),
    /// The interface was removed while it was in use.
    #[error(
        "{0}: the interface is gone: somebody removed it; start again once it is back, or at once for a TAP, which is made anew"
    )]
    Gone(String),
}

fn hint(remedy: &str) -> String {
    if remedy.is_empty() { String::new() } else { format!(" ({remedy})") }
}
