//! AF_XDP: the frames of one queue of an interface, past the kernel's own stack.
//!
//! A small program that is assembled here takes the frames off the queue before the kernel does, and hands them over in
//! memory that both sides share. A frame that is answered in place goes back out from where it lies.
//!
//! The kernel keeps what the program does not redirect: the frames of other queues, and what is not the stack's, where the two share
//! the interface and its addresses ([`XdpConfig::owned`]). When the process ends, in whatever way, the program is detached and the interface is
//! the kernel's again.
//!
//! A driver that takes VLAN tags out of frames hides them from the program, which then takes tagged frames for untagged ones: where the
//! kernel has VLANs on a shared interface, `ethtool -K IFACE rxvlan off`, and on a veth `txvlan off` at the other end.
//!
//! A frame that is longer than a chunk (4 KB) lies in several of them. It is put together for the stack, and taken apart again to be
//! sent: what an MTU above some 3,500 costs.
//!
//! An interface between namespaces (veth) hands over what the other side left undone: its checksums are partial, and cannot be told
//! from wrong ones. They are taken for right there ([`RxChecksumPolicy`]).

mod memory;
mod program;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

use self::memory::{Chunk, Extent, Rings, Umem};
use self::program::{Frames, Mode, Program};
use super::netdev::Interface;
use super::offload::complete_checksum;
use super::sys;
use super::{
    BURST, Caps, Device, DeviceError, HEADROOM, MAX_L2_HEADER, RETRY, RxChecksum, RxFrame, RxMeta,
    TxChecksum, TxMeta, TxQueue, Verdict,
};
use crate::owned::{Ownership, OwnershipWatch, SharedOwnership};
use crate::time::Instant as Moment;

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

/// What an AF_XDP socket is opened with.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct XdpConfig {
    /// Name of the interface, which exists.
    pub interface: String,
    /// The queue. Default 0.
    pub queue: u32,
    /// The largest IP packet, at most. Default the interface's MTU.
    pub mtu: Option<usize>,
    /// Whether received checksums are verified. Default by the driver.
    pub rx_checksum: RxChecksumPolicy,
    /// Entries of each ring, a power of two from 64 to 32,768. Default 1,024. There are twice as many chunks of 4 KB.
    pub ring: u32,
    /// What the stack takes of the frames; the kernel has the others. Default: all are taken.
    pub owned: Option<Arc<SharedOwnership>>,
}

impl XdpConfig {
    /// The default for `interface`.
    pub fn new(interface: impl Into<String>) -> Self {
        Self {
            interface: interface.into(),
            queue: 0,
            mtu: None,
            rx_checksum: RxChecksumPolicy::default(),
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

/// A frame that arrived.
#[derive(Debug)]
enum Arrived {
    /// It lies in this chunk.
    Chunk(Chunk, Extent),
    /// It was put together, behind [`HEADROOM`] bytes, and has this length.
    Joined(Box<[u8]>, usize),
}

/// What was reserved.
#[derive(Debug)]
enum Reserved {
    Chunk(Chunk, usize),
    /// So many bytes of [`XdpDevice::long`].
    Long(usize),
}

/// An AF_XDP socket on a queue. See the module documentation.
#[derive(Debug)]
pub struct XdpDevice {
    /// The first field, which is dropped first: no frame is handed to a socket that is going.
    program: Program,
    owned: Option<OwnershipWatch>,
    rings: Rings,
    socket: OwnedFd,
    interface: Interface,
    umem: Umem,
    caps: Caps,
    notices: Vec<String>,
    trusted: bool,
    /// Chunks that nobody uses.
    free: Vec<Chunk>,
    /// How many chunks the kernel has to receive in, and how many it may have.
    provided: usize,
    most_provided: usize,
    open: Option<Reserved>,
    /// The kernel has not taken all that is to be sent.
    unsent: bool,
    /// Where a frame is written that needs several chunks; empty where none can.
    long: Box<[u8]>,
    /// A frame whose rest has not been seen yet, and its length so far.
    joining: Option<(Box<[u8]>, usize)>,
    /// Buffers of frames that were put together.
    spare: Vec<Box<[u8]>>,
    link_down: u64,
    tx_full: u64,
    /// What the kernel counted, as of the last look.
    lost: Option<libc::xdp_statistics>,
}

impl XdpDevice {
    /// Opens a socket on the queue, and attaches the program to the interface.
    ///
    /// # Errors
    /// One line that names the interface and the remedy: no permission, no such interface or queue, another program or socket there,
    /// no memory, an MTU that is too large.
    pub fn open(config: &XdpConfig) -> Result<Self, DeviceError> {
        let XdpConfig { interface: name, queue, mtu, rx_checksum, ring, owned } = config;
        if !ring.is_power_of_two() || !(64..=1 << 15).contains(ring) {
            let message =
                format!("xdp:{name}: a ring of {ring} frames: it takes a power of two from 64 to 32768");
            return Err(DeviceError::Config(message));
        }
        let mut notices = Vec::new();
        let interface = Interface::find("xdp", name, &mut notices)?;
        let own_mtu = interface.mtu(None)?;
        if own_mtu + MAX_L2_HEADER > LONGEST_IN_PIECES {
            let most = LONGEST_IN_PIECES - MAX_L2_HEADER;
            let remedy = format!("lower it: `ip link set {name} mtu {most}`");
            return Err(DeviceError::Config(format!(
                "xdp:{name}: its MTU is {own_mtu}, at most {most} fit: {remedy}"
            )));
        }
        let mtu = interface.mtu(*mtu)?;
        let driver = interface.driver()?;
        let trusted = match rx_checksum {
            RxChecksumPolicy::ByDriver => driver == "veth",
            RxChecksumPolicy::Verify => false,
            RxChecksumPolicy::Trust => true,
        };
        let queues = interface.rx_queues()?;
        if *queue >= queues {
            let message = format!("xdp:{name}: it has no queue {queue}, the last is {}", queues - 1);
            return Err(DeviceError::Config(message));
        }
        if queues > 1 {
            notices.push(format!(
                "it has {queues} receive queues, of which only queue {queue} is heard, so that most is missed: \
                 `ethtool -L {name} combined 1`"
            ));
        }
        let socket = sys::xdp_socket().map_err(|e| permission(&interface, "open a socket", e))?;
        let (umem, mut free) = Umem::new(socket.as_fd(), (CHUNK, 2 * ring), 0).map_err(|e| {
            interface.failed(
                "register memory",
                e,
                "it takes CAP_IPC_LOCK, or `ulimit -l` for 8 KB per frame of a ring",
            )
        })?;
        let mut rings =
            Rings::new(socket.as_fd(), *ring).map_err(|e| interface.failed("make rings", e, ""))?;
        let frames = if own_mtu + MAX_L2_HEADER > LONGEST { Frames::InPieces } else { Frames::Whole };
        let (owned, ownership) = owned.clone().map(OwnershipWatch::new).unzip();
        let (program, mode) = attach(&interface, (queues, frames), ownership.as_ref(), &mut notices)?;
        bind(&socket, &interface, (*queue, frames, mode))?;
        program
            .direct(*queue, socket.as_fd())
            .map_err(|e| interface.failed("direct the queue to the socket", e, ""))?;
        for notice in &notices {
            tracing::warn!(device = %name, "{notice}");
        }
        let most_provided = *ring as usize;
        let provided = rings.provide(&umem, &mut free, most_provided);
        Ok(Self {
            program,
            owned,
            rings,
            socket,
            interface,
            umem,
            caps: Caps::plain(mtu),
            notices,
            trusted,
            free,
            provided,
            most_provided,
            open: None,
            unsent: false,
            long: if frames == Frames::InPieces {
                vec![0; own_mtu + MAX_L2_HEADER].into()
            } else {
                Box::default()
            },
            joining: None,
            spare: Vec::new(),
            link_down: 0,
            tx_full: 0,
            lost: None,
        })
    }

    /// What the device could not have and does without, one sentence each, with the reason.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Takes back what the kernel is done with, and lets it receive in as many chunks as it may have.
    fn recycle(&mut self) -> Result<(), DeviceError> {
        self.rings.complete(&self.umem, &mut self.free);
        let missing = self.most_provided.saturating_sub(self.provided);
        self.provided += self.rings.provide(&self.umem, &mut self.free, missing);
        if self.rings.receive_needs_wakeup() {
            self.told(sys::wake_receive(self.socket.as_fd()))?;
        }
        Ok(())
    }

    /// What came of a call to the kernel: whether it wants to be called again.
    fn told(&mut self, outcome: io::Result<()>) -> Result<bool, DeviceError> {
        let Err(error) = outcome else { return Ok(false) };
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(true),
            Some(libc::EINTR | libc::EBUSY | libc::ENOBUFS | libc::ENOMEM) => Ok(false),
            Some(libc::ENETDOWN) => {
                self.link_down += 1;
                self.interface.heard(false);
                Ok(false)
            }
            Some(libc::ENXIO | libc::ENODEV | libc::EBADF) => Err(self.interface.gone()),
            _ => Err(self.interface.failed("wake the kernel", error, "")),
        }
    }
}

fn permission(interface: &Interface, what: &str, error: io::Error) -> DeviceError {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "it takes CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF: run as root",
        Some(libc::EBUSY) => {
            "another program has an XDP program there, perhaps another nty: stop it; what `ip link set ... xdp` attached, \
             `ip link set ... xdp off` removes"
        }
        Some(libc::EAFNOSUPPORT) => "the kernel was built without CONFIG_XDP_SOCKETS",
        _ => "",
    };
    interface.failed(what, error, remedy)
}

/// Attaches the program in the driver, or behind it where that cannot.
fn attach(
    interface: &Interface,
    (queues, frames): (u32, Frames),
    owned: Option<&Ownership>,
    notices: &mut Vec<String>,
) -> Result<(Program, Mode), DeviceError> {
    let native = match Program::attach(interface.index(), queues, Mode::Native, frames, owned) {
        Ok(program) => return Ok((program, Mode::Native)),
        Err(e) => e,
    };
    let refused = |e: &io::Error| matches!(e.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EBUSY));
    if refused(&native) {
        return Err(permission(interface, "attach the program", native));
    }
    let program = Program::attach(interface.index(), queues, Mode::Skb, frames, owned);
    notices.push(format!(
        "the driver takes no XDP program ({native}): frames are taken behind it, which is slower"
    ));
    program.map(|program| (program, Mode::Skb)).map_err(|e| permission(interface, "attach the program", e))
}

/// Binds the socket, without copies where the driver can.
fn bind(
    socket: &OwnedFd,
    interface: &Interface,
    (queue, frames, mode): (u32, Frames, Mode),
) -> Result<(), DeviceError> {
    let pieces = if frames == Frames::InPieces { libc::XDP_USE_SG } else { 0 };
    let always = libc::XDP_USE_NEED_WAKEUP | pieces;
    let bind = |flags| sys::bind_xdp(socket.as_fd(), interface.index(), queue, flags | always);
    let bind = || match mode {
        Mode::Native => bind(libc::XDP_ZEROCOPY).or_else(|e| match e.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::EINVAL) => bind(libc::XDP_COPY),
            _ => Err(e),
        }),
        // Behind the driver there is nothing but copies.
        Mode::Skb => bind(libc::XDP_COPY),
    };
    // The kernel frees a queue some time after the socket that had it was closed.
    let patience = Instant::now() + Duration::from_secs(1);
    let mut bound = bind();
    while bound.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY)) && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(10));
        bound = bind();
    }
    bound.map_err(|e| {
        let remedy = match e.raw_os_error() {
            Some(libc::EBUSY) => "another AF_XDP socket has the queue: stop that one",
            _ => "",
        };
        interface.failed(&format!("bind to queue {queue}"), e, remedy)
    })
}

/// Does in software what is asked of the device.
fn prepare(frame: &mut [u8], meta: TxMeta) {
    if let TxChecksum::Partial { start, offset } = meta.checksum {
        complete_checksum(frame, start, offset);
    }
}

impl TxQueue for XdpDevice {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        let reserved = match self.open.take() {
            Some(Reserved::Chunk(chunk, _)) => Some(chunk),
            Some(Reserved::Long(_)) | None => None,
        };
        self.free.extend(reserved);
        let pieces = len.div_ceil(PIECE);
        if self.free.len() < pieces {
            self.rings.complete(&self.umem, &mut self.free);
        }
        if len > self.caps.mtu + MAX_L2_HEADER
            || self.rings.room_to_send() < pieces
            || self.free.len() < pieces
        {
            return None;
        }
        if pieces > 1 {
            self.open = Some(Reserved::Long(len));
            return self.long.get_mut(..len);
        }
        let chunk = self.free.pop()?;
        match self.open.insert(Reserved::Chunk(chunk, len)) {
            Reserved::Chunk(chunk, _) => self.umem.bytes(chunk).get_mut(HEADROOM..HEADROOM + len),
            Reserved::Long(_) => None,
        }
    }

    fn commit(&mut self, meta: TxMeta) {
        match self.open.take() {
            Some(Reserved::Chunk(mut chunk, len)) => {
                prepare(
                    self.umem.bytes(&mut chunk).get_mut(HEADROOM..HEADROOM + len).unwrap_or_default(),
                    meta,
                );
                self.send(chunk, Extent { offset: HEADROOM, len, options: 0 });
            }
            Some(Reserved::Long(len)) => {
                let mut long = std::mem::take(&mut self.long);
                let frame = long.get_mut(..len).unwrap_or_default();
                prepare(frame, meta);
                self.send_in_pieces(frame);
                self.long = long;
            }
            None => {}
        }
    }
}

/// Bytes of a frame that is sent in several chunks, in each of them.
const PIECE: usize = CHUNK - HEADROOM;

impl XdpDevice {
    /// Queues a frame that lies in a chunk.
    fn send(&mut self, chunk: Chunk, frame: Extent) {
        if let Err(chunk) = self.rings.send(&self.umem, chunk, frame) {
            self.free.push(chunk);
            self.tx_full += 1;
        }
    }

    /// Queues a frame that lies elsewhere: all of it, or nothing.
    fn send_in_pieces(&mut self, frame: &[u8]) {
        let mut left = frame.len().div_ceil(PIECE);
        if self.free.len() < left || self.rings.room_to_send() < left {
            self.tx_full += 1;
            return;
        }
        for piece in frame.chunks(PIECE) {
            let Some(mut chunk) = self.free.pop() else { return };
            left -= 1;
            self.umem
                .bytes(&mut chunk)
                .iter_mut()
                .skip(HEADROOM)
                .zip(piece)
                .for_each(|(to, from)| *to = *from);
            let options = if left > 0 { CONTINUED } else { 0 };
            self.send(chunk, Extent { offset: HEADROOM, len: piece.len(), options });
        }
    }

    /// The next frame that arrived; one in pieces only once the last of them has.
    fn next_frame(&mut self) -> Option<Arrived> {
        loop {
            let (mut chunk, extent) = self.rings.receive(&self.umem)?;
            self.provided -= 1;
            let continued = extent.options & CONTINUED != 0;
            if !continued && self.joining.is_none() {
                return Some(Arrived::Chunk(chunk, extent));
            }
            let new = || vec![0; HEADROOM + LONGEST_IN_PIECES].into();
            let (mut frame, len) =
                self.joining.take().unwrap_or_else(|| (self.spare.pop().unwrap_or_else(new), 0));
            let piece = self.umem.bytes(&mut chunk).get(extent.offset..extent.offset + extent.len);
            let piece = piece.unwrap_or_default();
            // Of a frame that is longer than any can be, the end is cut off: no header fits it, and it is dropped.
            frame.iter_mut().skip(HEADROOM + len).zip(piece).for_each(|(to, from)| *to = *from);
            let len = (len + piece.len()).min(LONGEST_IN_PIECES);
            self.free.push(chunk);
            if !continued {
                return Some(Arrived::Joined(frame, len));
            }
            self.joining = Some((frame, len));
        }
    }

    /// Acts on the verdict of a frame, or rather on its answer, if that is what it became.
    fn finish(&mut self, frame: Arrived, answer: Option<Extent>) {
        match (frame, answer) {
            (Arrived::Chunk(chunk, _), Some(answer)) => self.send(chunk, answer),
            (Arrived::Chunk(chunk, _), None) => self.free.push(chunk),
            (Arrived::Joined(frame, _), answer) => {
                if let Some(Extent { offset, len, .. }) = answer {
                    self.send_in_pieces(frame.get(offset..offset + len).unwrap_or_default());
                }
                self.spare.push(frame);
            }
        }
    }
}

impl Device for XdpDevice {
    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        let mut arrived = ArrayVec::<Arrived, BURST>::new();
        while !arrived.is_full()
            && let Some(frame) = self.next_frame()
        {
            arrived.push(frame);
        }
        self.rings.received();
        let count = arrived.len();
        if count == 0 {
            self.recycle()?;
            if self.interface.look(self.socket.as_fd())? {
                self.lost = sys::xdp_statistics(self.socket.as_fd()).ok();
            }
            return Ok(0);
        }
        let checksum = if self.trusted { RxChecksum::Verified } else { RxChecksum::Unknown };
        let meta = RxMeta { checksum, ..RxMeta::default() };
        let mut frames = ArrayVec::<RxFrame<'_>, BURST>::new();
        for frame in &mut arrived {
            frames.push(match frame {
                Arrived::Chunk(chunk, Extent { offset, len, .. }) => {
                    RxFrame::new(self.umem.bytes(chunk), *offset, *len, meta)
                }
                Arrived::Joined(frame, len) => RxFrame::new(frame, HEADROOM, *len, meta),
            });
        }
        sink(&mut frames);
        let mut answers = ArrayVec::<_, BURST>::new();
        for frame in &mut frames {
            answers.push(match frame.verdict {
                Verdict::Reply(meta) => {
                    prepare(frame.bytes_mut(), meta);
                    Some(Extent { offset: frame.start(), len: frame.len(), options: 0 })
                }
                Verdict::Done | Verdict::Drop(_) => None,
            });
        }
        drop(frames);
        for (frame, answer) in arrived.into_iter().zip(answers) {
            self.finish(frame, answer);
        }
        self.recycle()?;
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        // Where frames are copied, a call sends a few, and asks for another; it also asks for one when the way out is full.
        loop {
            self.unsent = self.rings.transmit();
            let before = self.rings.room_to_send();
            if !self.unsent || !self.rings.transmit_needs_wakeup() {
                return Ok(());
            }
            let again = self.told(sys::wake_transmit(self.socket.as_fd()))?;
            self.rings.complete(&self.umem, &mut self.free);
            self.unsent = self.rings.transmit();
            if !again || self.rings.room_to_send() == before {
                return Ok(());
            }
        }
    }

    fn poll_fd(&self) -> Option<i32> {
        Some(self.socket.as_raw_fd())
    }

    fn set_now(&mut self, now: Moment) {
        self.interface.now = now;
        if let Some(owned) = self.owned.as_mut().and_then(OwnershipWatch::changed)
            && let Err(error) = self.program.share(&owned)
        {
            let error = self.interface.failed("replace the program", error, "");
            tracing::warn!("{error}; the kernel and the stack share the interface as before");
        }
    }

    fn next_deadline(&self) -> Option<Moment> {
        // The kernel wakes nobody who sleeps on the socket when the interface goes, or when there is room again to send.
        let look = self.interface.next_look();
        Some(if self.unsent { look.min(self.interface.now + RETRY) } else { look })
    }

    fn stats(&self) -> Vec<(&'static str, u64)> {
        let mut stats = vec![("xdp-link-down", self.link_down), ("xdp-tx-full", self.tx_full)];
        if let Some(lost) = &self.lost {
            stats.extend([
                ("xdp-rx-dropped", lost.rx_dropped),
                ("xdp-rx-ring-full", lost.rx_ring_full),
                ("xdp-rx-no-chunk", lost.rx_fill_ring_empty_descs),
                ("xdp-tx-refused", lost.tx_invalid_descs),
            ]);
        }
        stats
    }
}
