//! AF_XDP: the frames of an interface, past the kernel's own stack.
//!
//! A small program that is assembled here takes the frames off each queue before the kernel does, and hands them over in
//! memory that both sides share. A frame that is answered in place goes back out from where it lies.
//!
//! All queues of the interface are heard, unless [`XdpConfig::queue`] says otherwise. Each has a socket; all share one memory and one
//! program. [`XdpDevice::open_queues`] makes up to one device per queue, each of them for a thread of its own; where there are more
//! queues than that, a device has several, and sends through the first. Which flow comes by which queue is the interface's choice.
//!
//! The kernel keeps what the program does not redirect: the frames of queues that are not heard, and what is not the stack's, where the
//! two share the interface and its addresses ([`XdpConfig::owned`]). When the process ends, in whatever way, the program is detached and the
//! interface is the kernel's again.
//!
//! A driver that takes VLAN tags out of frames hides them from the program, which then takes tagged frames for untagged ones: where the
//! kernel has VLANs on a shared interface, `ethtool -K IFACE rxvlan off`, and on a veth `txvlan off` at the other end.
//!
//! A frame that is longer than a chunk (4 KB) lies in several of them. It is put together for the stack, and taken apart again to be
//! sent: what an MTU above some 3,500 costs.
//!
//! An interface between namespaces (veth) hands over what the other side left undone, and does not say so: its checksums are partial, or
//! wrong. They are taken for right there ([`RxChecksumPolicy`]), and for partial where they hold the pseudo-header's sum.

mod memory;
mod open;
mod program;
mod queue;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use arrayvec::ArrayVec;

use self::memory::{Chunk, Extent, Sending};
use self::program::Program;
use self::queue::{Arrived, Pool, Queue};
use super::netdev::Interface;
use super::offload::{complete_checksum, trusted_checksum};
use super::sys;
use super::{
    BURST, Caps, Device, DeviceError, HEADROOM, MAX_L2_HEADER, RETRY, RxFrame, RxMeta, TxChecksum, TxMeta,
    TxQueue, Verdict,
};
use crate::owned::{OwnershipWatch, SharedOwnership};
use crate::time::Instant;

/// What is thought of the layer-4 checksums of received frames.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum RxChecksumPolicy {
    /// They are right where the interface is a veth, and verified elsewhere.
    #[default]
    ByDriver,
    /// They are verified.
    Verify,
    /// They are right.
    Trust,
}

/// Whether the driver is polled by who calls, and not by interrupts: of use to a thread that never sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum BusyPoll {
    /// The kernel polls it, after an interrupt.
    #[default]
    Off,
    /// As [`BusyPoll::On`], unless the interface is a veth: that has no interrupts, and a call per burst only costs there.
    ByDriver,
    /// Each burst calls the driver.
    On,
}

/// What AF_XDP sockets are opened with.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct XdpConfig {
    /// Name of the interface, which exists.
    pub interface: String,
    /// Only this receive queue is heard, such as one that `ethtool -N` sends some flows to; the kernel keeps the others. Default all.
    pub queue: Option<u32>,
    /// The largest IP packet, at most. Default the interface's MTU.
    pub mtu: Option<usize>,
    /// Whether received checksums are verified. Default by the driver.
    pub rx_checksum: RxChecksumPolicy,
    /// Checksums of what is sent are left to the kernel, where it can. Default on.
    pub offload: bool,
    /// The program runs behind the driver, on any frame that it makes a packet buffer of, even where the driver could run it. Default off.
    pub behind_driver: bool,
    /// Whether the driver is polled by who calls. Default off.
    pub busy_poll: BusyPoll,
    /// Entries of each ring, a power of two from 64 to 32,768. Default 1,024. There are as many chunks of 4 KB per queue, and once
    /// more as many per device.
    pub ring: u32,
    /// What the stack takes of the frames; the kernel has the others. Default: all are taken.
    pub owned: Option<Arc<SharedOwnership>>,
}

impl XdpConfig {
    /// The default for `interface`.
    pub fn new(interface: impl Into<String>) -> Self {
        Self {
            interface: interface.into(),
            queue: None,
            mtu: None,
            rx_checksum: RxChecksumPolicy::default(),
            offload: true,
            behind_driver: false,
            busy_poll: BusyPoll::Off,
            ring: 1_024,
            owned: None,
        }
    }
}

/// Bytes of a chunk.
const CHUNK: usize = 4_096;
/// What drivers keep in front of a received frame, and may need behind it for their own purposes.
const DRIVER_ROOM: usize = 256 + 320;
/// The longest frame that fits a chunk whatever the driver.
const LONGEST: usize = CHUNK - DRIVER_ROOM;
/// The longest frame at all: more pieces the kernel does not take.
const LONGEST_IN_PIECES: usize = 16 * (CHUNK - HEADROOM);
/// The descriptor's frame goes on in the next one (XDP_PKT_CONTD).
const CONTINUED: u32 = 1;

/// Bytes in front of a frame that say what the kernel is to do with it (xsk_tx_metadata).
const METADATA: usize = 24;
/// The descriptor's frame has metadata in front (XDP_TX_METADATA).
const HAS_METADATA: u32 = 2;

/// What was reserved.
#[derive(Debug)]
enum Reserved {
    Chunk(Chunk, usize),
    /// So many bytes of [`XdpDevice::long`].
    Long(usize),
}

/// The way out.
#[derive(Debug)]
struct Sender {
    /// Before `socket`: unmapped before it is closed.
    rings: Sending,
    /// That of the first queue once more.
    socket: OwnedFd,
}

/// Some queues of an interface, one of which also sends. See the module documentation.
#[derive(Debug)]
pub struct XdpDevice {
    /// The first field, which is dropped first: no frame is handed to a socket that is going.
    program: Arc<Program>,
    /// Of the first device on an interface, where that is shared.
    owned: Option<OwnershipWatch>,
    queues: Vec<Queue>,
    /// Which of them is looked at first in the next burst.
    next: usize,
    sender: Sender,
    /// What a sleeper looks at, if there are several queues.
    readable: Option<OwnedFd>,
    interface: Interface,
    pool: Pool,
    caps: Caps,
    notices: Vec<String>,
    trusted: bool,
    /// Each burst calls the driver.
    busy_poll: bool,
    open: Option<Reserved>,
    /// The kernel has not taken all that is to be sent.
    unsent: bool,
    /// Where a frame is written that needs several chunks; empty where none can.
    long: Box<[u8]>,
    link_down: u64,
    tx_full: u64,
}

impl XdpDevice {
    /// Opens all that [`XdpConfig`] asks for as one device.
    ///
    /// # Errors
    /// One line that names the interface and the remedy: no permission, no such interface or queue, another program or socket there,
    /// no memory, an MTU that is too large.
    pub fn open(config: &XdpConfig) -> Result<Self, DeviceError> {
        let one = open::open(config, 1)?.pop();
        one.ok_or_else(|| DeviceError::Gone(config.interface.clone()))
    }

    /// Opens it as so many devices, or as many as there are queues.
    ///
    /// # Errors
    /// As [`XdpDevice::open`].
    pub fn open_queues(config: &XdpConfig, devices: usize) -> Result<Vec<Self>, DeviceError> {
        open::open(config, devices)
    }

    /// What the device could not have and does without, one sentence each, with the reason.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Takes back what the kernel is done with, and lets it receive in as many chunks as it may have.
    fn recycle(&mut self) -> Result<(), DeviceError> {
        let Self { queues, sender, pool, busy_poll, interface, link_down, .. } = self;
        sender.rings.complete(&pool.umem, &mut pool.free);
        for queue in queues {
            if queue.provide(pool) || *busy_poll {
                told(interface, link_down, sys::wake_receive(queue.socket.as_fd()))?;
            }
        }
        Ok(())
    }
}

/// What came of a call to the kernel: whether it wants to be called again.
fn told(
    interface: &mut Interface,
    link_down: &mut u64,
    outcome: io::Result<()>,
) -> Result<bool, DeviceError> {
    let Err(error) = outcome else { return Ok(false) };
    match error.raw_os_error() {
        Some(libc::EAGAIN) => Ok(true),
        Some(libc::EINTR | libc::EBUSY | libc::ENOBUFS | libc::ENOMEM) => Ok(false),
        Some(libc::ENETDOWN) => {
            *link_down += 1;
            interface.heard(false);
            Ok(false)
        }
        Some(libc::ENXIO | libc::ENODEV | libc::EBADF) => Err(interface.gone()),
        _ => Err(interface.failed("wake the kernel", error, "")),
    }
}

impl TxQueue for XdpDevice {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        let Self { sender: Sender { rings, .. }, pool, .. } = self;
        if let Some(Reserved::Chunk(chunk, _)) = self.open.take() {
            pool.free.push(chunk);
        }
        let pieces = len.div_ceil(PIECE);
        if pool.free.len() < pieces {
            rings.complete(&pool.umem, &mut pool.free);
        }
        if len > self.caps.mtu + MAX_L2_HEADER || rings.room() < pieces || pool.free.len() < pieces {
            return None;
        }
        if pieces > 1 {
            self.open = Some(Reserved::Long(len));
            return self.long.get_mut(..len);
        }
        let chunk = pool.free.pop()?;
        match self.open.insert(Reserved::Chunk(chunk, len)) {
            Reserved::Chunk(chunk, _) => pool.umem.bytes(chunk).get_mut(HEADROOM..HEADROOM + len),
            Reserved::Long(_) => None,
        }
    }

    fn commit(&mut self, meta: TxMeta) {
        match self.open.take() {
            Some(Reserved::Chunk(chunk, len)) => self.send(chunk, (HEADROOM, len), meta),
            Some(Reserved::Long(len)) => {
                let mut long = std::mem::take(&mut self.long);
                self.send_in_pieces(long.get_mut(..len).unwrap_or_default(), meta);
                self.long = long;
            }
            None => {}
        }
    }
}

/// Bytes of a frame that is sent in several chunks, in each of them.
const PIECE: usize = CHUNK - HEADROOM;

/// Asks the kernel for the checksum, by metadata in front of the frame: flags, then where the sum begins and where it goes from there.
/// `false` where there is no room for that.
fn ask_for_checksum(buf: &mut [u8], start: usize, (from, offset): (u16, u16)) -> bool {
    /// XDP_TXMD_FLAGS_CHECKSUM
    const CHECKSUM: u64 = 2;
    let Some(front) = start.checked_sub(METADATA).and_then(|at| buf.get_mut(at..start)) else { return false };
    let fields = CHECKSUM.to_ne_bytes().into_iter().chain(from.to_ne_bytes()).chain(offset.to_ne_bytes());
    front.iter_mut().zip(fields.chain(std::iter::repeat(0))).for_each(|(to, byte)| *to = byte);
    true
}

impl XdpDevice {
    /// Does what is asked of the device for a frame at `start` in a chunk, or has the kernel do it: flags of the descriptor.
    fn prepare(&self, buf: &mut [u8], (start, len): (usize, usize), meta: TxMeta) -> u32 {
        let TxChecksum::Partial { start: from, offset } = meta.checksum else { return 0 };
        if self.caps.tx_checksum && ask_for_checksum(buf, start, (from, offset)) {
            return HAS_METADATA;
        }
        complete_checksum(buf.get_mut(start..start + len).unwrap_or_default(), from, offset);
        0
    }

    /// Queues a frame that lies in a chunk.
    fn send(&mut self, mut chunk: Chunk, (offset, len): (usize, usize), meta: TxMeta) {
        let options = self.prepare(self.pool.umem.bytes(&mut chunk), (offset, len), meta);
        self.send_chunk(chunk, Extent { offset, len, options });
    }

    fn send_chunk(&mut self, chunk: Chunk, frame: Extent) {
        if let Err(chunk) = self.sender.rings.send(&self.pool.umem, chunk, frame) {
            self.pool.free.push(chunk);
            self.tx_full += 1;
        }
    }

    /// Queues a frame that lies elsewhere: all of it, or nothing.
    fn send_in_pieces(&mut self, frame: &mut [u8], meta: TxMeta) {
        let count = frame.len().div_ceil(PIECE);
        if self.pool.free.len() < count || self.sender.rings.room() < count {
            self.tx_full += 1;
            return;
        }
        let sum = match meta.checksum {
            TxChecksum::Partial { start, offset } => Some((start, offset)),
            TxChecksum::Complete => None,
        };
        if let (Some((start, offset)), false) = (sum, self.caps.tx_checksum) {
            complete_checksum(frame, start, offset);
        }
        for (i, piece) in frame.chunks(PIECE).enumerate() {
            let Some(mut chunk) = self.pool.free.pop() else { return };
            let buf = self.pool.umem.bytes(&mut chunk);
            let mut options = if i + 1 < count { CONTINUED } else { 0 };
            if let Some(sum) = sum.filter(|_| i == 0 && self.caps.tx_checksum)
                && ask_for_checksum(buf, HEADROOM, sum)
            {
                options |= HAS_METADATA;
            }
            buf.iter_mut().skip(HEADROOM).zip(piece).for_each(|(to, from)| *to = *from);
            self.send_chunk(chunk, Extent { offset: HEADROOM, len: piece.len(), options });
        }
    }

    /// Acts on the verdict of a frame, or rather sends the answer, if that is what it became.
    fn finish(&mut self, frame: Arrived, answer: Option<((usize, usize), TxMeta)>) {
        match (frame, answer) {
            (Arrived::Chunk(chunk, _), Some((place, meta))) => self.send(chunk, place, meta),
            (Arrived::Chunk(chunk, _), None) => self.pool.free.push(chunk),
            (Arrived::Joined(mut frame, _), answer) => {
                if let Some(((start, len), meta)) = answer {
                    self.send_in_pieces(frame.get_mut(start..start + len).unwrap_or_default(), meta);
                }
                self.pool.spare.push(frame);
            }
        }
    }

    /// Nothing has arrived.
    fn look(&mut self) -> Result<(), DeviceError> {
        if self.interface.look(self.sender.socket.as_fd())? {
            for queue in &mut self.queues {
                queue.lost = sys::xdp_statistics(queue.socket.as_fd()).ok();
            }
        }
        Ok(())
    }
}

impl Device for XdpDevice {
    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        let mut arrived = ArrayVec::<Arrived, BURST>::new();
        let (before, after) = self.queues.split_at_mut(self.next);
        for queue in after.iter_mut().chain(before) {
            while !arrived.is_full()
                && let Some(frame) = queue.next_frame(&mut self.pool)
            {
                arrived.push(frame);
            }
            queue.received();
        }
        self.next = (self.next + 1) % self.queues.len().max(1);
        let count = arrived.len();
        if count == 0 {
            self.recycle()?;
            self.look()?;
            return Ok(0);
        }
        let mut frames = ArrayVec::<RxFrame<'_>, BURST>::new();
        for frame in &mut arrived {
            let mut frame = match frame {
                Arrived::Chunk(chunk, Extent { offset, len, .. }) => {
                    RxFrame::new(self.pool.umem.bytes(chunk), *offset, *len, RxMeta::default())
                }
                Arrived::Joined(frame, len) => RxFrame::new(frame, HEADROOM, *len, RxMeta::default()),
            };
            if self.trusted {
                frame.meta.checksum = trusted_checksum(frame.bytes());
            }
            frames.push(frame);
        }
        sink(&mut frames);
        let answer = |frame: &RxFrame<'_>| match frame.verdict {
            Verdict::Reply(meta) => Some(((frame.start(), frame.len()), meta)),
            Verdict::Done | Verdict::Drop(_) => None,
        };
        let answers: ArrayVec<_, BURST> = frames.iter().map(answer).collect();
        drop(frames);
        for (frame, answer) in arrived.into_iter().zip(answers) {
            self.finish(frame, answer);
        }
        self.recycle()?;
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        let Self { sender: Sender { rings, socket }, pool, interface, link_down, .. } = self;
        // Where frames are copied, a call sends a few, and asks for another; it also asks for one when the way out is full.
        loop {
            self.unsent = rings.transmit();
            let before = rings.room();
            if !self.unsent || !rings.needs_wakeup() {
                return Ok(());
            }
            let again = told(interface, link_down, sys::wake_transmit(socket.as_fd()))?;
            rings.complete(&pool.umem, &mut pool.free);
            self.unsent = rings.transmit();
            if !again || rings.room() == before {
                return Ok(());
            }
        }
    }

    fn poll_fd(&self) -> Option<i32> {
        Some(self.readable.as_ref().unwrap_or(&self.sender.socket).as_raw_fd())
    }

    fn set_now(&mut self, now: Instant) {
        self.interface.now = now;
        if let Some(owned) = self.owned.as_mut().and_then(OwnershipWatch::changed)
            && let Err(error) = self.program.share(&owned)
        {
            let error = self.interface.failed("replace the program", error, "");
            tracing::warn!("{error}; the kernel and the stack share the interface as before");
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        // The kernel wakes nobody who sleeps on the socket when the interface goes, or when there is room again to send.
        let look = self.interface.next_look();
        Some(if self.unsent { look.min(self.interface.now + RETRY) } else { look })
    }

    fn stats(&self) -> Vec<(&'static str, u64)> {
        let lost = |count: fn(&libc::xdp_statistics) -> u64| {
            self.queues.iter().filter_map(|queue| queue.lost.as_ref()).map(count).sum()
        };
        vec![
            ("xdp-link-down", self.link_down),
            ("xdp-tx-full", self.tx_full),
            ("xdp-rx-dropped", lost(|lost| lost.rx_dropped)),
            ("xdp-rx-ring-full", lost(|lost| lost.rx_ring_full)),
            ("xdp-rx-no-chunk", lost(|lost| lost.rx_fill_ring_empty_descs)),
            ("xdp-tx-refused", lost(|lost| lost.tx_invalid_descs)),
        ]
    }
}
