//! AF_XDP: the frames of one queue of an interface, past the kernel's own stack.
//!
//! A small program that is assembled here takes the frames off the queue before the kernel does, and hands them over in
//! memory that both sides share. A frame that is answered in place goes back out from where it lies.
//!
//! The kernel keeps what the program does not redirect, that is, the frames of other queues. When the process ends, in whatever
//! way, the program is detached and the interface is the kernel's again.
//!
//! An interface between namespaces (veth) hands over what the other side left undone: its checksums are partial, and cannot be told
//! from wrong ones. They are taken for right there ([`RxChecksumPolicy`]).

mod memory;
mod program;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use arrayvec::ArrayVec;

use self::memory::{Chunk, Extent, Rings, Umem};
use self::program::{Mode, Program};
use super::netdev::Interface;
use super::offload::complete_checksum;
use super::sys;
use super::{
    BURST, Caps, Device, DeviceError, HEADROOM, MAX_L2_HEADER, RxChecksum, RxFrame, RxMeta, TxChecksum,
    TxMeta, TxQueue, Verdict,
};
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
        }
    }
}

/// Bytes of a chunk.
const CHUNK: usize = 4_096;
/// What drivers keep in front of a received frame, and may need behind it for their own purposes.
const DRIVER_ROOM: usize = 256 + 320;
/// The longest frame that fits a chunk whatever the driver.
const LONGEST: usize = CHUNK - DRIVER_ROOM;

/// An AF_XDP socket on a queue. See the module documentation.
#[derive(Debug)]
pub struct XdpDevice {
    /// The first field, which is dropped first: no frame is handed to a socket that is going.
    _program: Program,
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
    /// The reservation, and its length.
    open: Option<(Chunk, usize)>,
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
        let XdpConfig { interface: name, queue, mtu, rx_checksum, ring } = config;
        if !ring.is_power_of_two() || !(64..=1 << 15).contains(ring) {
            let message =
                format!("xdp:{name}: a ring of {ring} frames: it takes a power of two from 64 to 32768");
            return Err(DeviceError::Config(message));
        }
        let mut notices = Vec::new();
        let interface = Interface::find("xdp", name, &mut notices)?;
        let own_mtu = interface.mtu()?;
        if own_mtu + MAX_L2_HEADER > LONGEST {
            let most = LONGEST - MAX_L2_HEADER;
            let remedy = format!("lower it: `ip link set {name} mtu {most}`");
            return Err(DeviceError::Config(format!(
                "xdp:{name}: its MTU is {own_mtu}, at most {most} fit: {remedy}"
            )));
        }
        let driver = interface.driver()?;
        let trusted = match rx_checksum {
            RxChecksumPolicy::ByDriver => driver == "veth",
            RxChecksumPolicy::Verify => false,
            RxChecksumPolicy::Trust => true,
        };
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
        let program = attach(&interface, queue + 1, &mut notices)?;
        bind(&socket, &interface, *queue)?;
        program
            .direct(*queue, socket.as_fd())
            .map_err(|e| interface.failed("direct the queue to the socket", e, ""))?;
        for notice in &notices {
            tracing::warn!(device = %name, "{notice}");
        }
        let most_provided = *ring as usize;
        let provided = rings.provide(&umem, &mut free, most_provided);
        Ok(Self {
            _program: program,
            rings,
            socket,
            interface,
            umem,
            caps: Caps::plain(mtu.map_or(own_mtu, |mtu| mtu.min(own_mtu))),
            notices,
            trusted,
            free,
            provided,
            most_provided,
            open: None,
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
                self.link_down += u64::from(!self.interface.down);
                self.interface.down = true;
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
        Some(libc::EBUSY) => "another XDP program is attached: `ip link set dev IFACE xdp off` removes it",
        Some(libc::EAFNOSUPPORT) => "the kernel was built without CONFIG_XDP_SOCKETS",
        _ => "",
    };
    interface.failed(what, error, remedy)
}

/// Attaches the program in the driver, or behind it where that cannot.
fn attach(interface: &Interface, queues: u32, notices: &mut Vec<String>) -> Result<Program, DeviceError> {
    let native = match Program::attach(interface.index(), queues, Mode::Native) {
        Ok(program) => return Ok(program),
        Err(e) => e,
    };
    let refused = |e: &io::Error| matches!(e.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EBUSY));
    if refused(&native) {
        return Err(permission(interface, "attach the program", native));
    }
    let program = Program::attach(interface.index(), queues, Mode::Skb);
    notices.push(format!(
        "the driver takes no XDP program ({native}): frames are taken behind it, which is slower"
    ));
    program.map_err(|e| permission(interface, "attach the program", e))
}

/// Binds the socket, without copies where the driver can.
fn bind(socket: &OwnedFd, interface: &Interface, queue: u32) -> Result<(), DeviceError> {
    let index = interface.index();
    let bind = |flags| sys::bind_xdp(socket.as_fd(), index, queue, flags | libc::XDP_USE_NEED_WAKEUP);
    let bound = bind(libc::XDP_ZEROCOPY).or_else(|e| match e.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::EINVAL) => bind(libc::XDP_COPY),
        _ => Err(e),
    });
    bound.map_err(|e| {
        let remedy = match e.raw_os_error() {
            Some(libc::EBUSY) => "another AF_XDP socket has the queue: stop that one",
            Some(libc::EINVAL) => "is there such a queue? `ethtool -l IFACE` tells",
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
        let reserved = self.open.take().map(|(chunk, _)| chunk);
        if reserved.is_none() && self.free.is_empty() {
            self.rings.complete(&self.umem, &mut self.free);
        }
        if len > self.caps.mtu + MAX_L2_HEADER || !self.rings.can_send() {
            self.free.extend(reserved);
            return None;
        }
        let chunk = reserved.or_else(|| self.free.pop())?;
        let (chunk, _) = self.open.insert((chunk, len));
        self.umem.bytes(chunk).get_mut(HEADROOM..HEADROOM + len)
    }

    fn commit(&mut self, meta: TxMeta) {
        let Some((mut chunk, len)) = self.open.take() else { return };
        prepare(self.umem.bytes(&mut chunk).get_mut(HEADROOM..HEADROOM + len).unwrap_or_default(), meta);
        let frame = Extent { offset: HEADROOM, len, options: 0 };
        if let Err(chunk) = self.rings.send(&self.umem, chunk, frame) {
            self.free.push(chunk);
            self.tx_full += 1;
        }
    }
}

impl Device for XdpDevice {
    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        let mut arrived = ArrayVec::<(Chunk, Extent), BURST>::new();
        while !arrived.is_full()
            && let Some(frame) = self.rings.receive(&self.umem)
        {
            arrived.push(frame);
        }
        if arrived.is_empty() {
            self.recycle()?;
            if self.interface.look(self.socket.as_fd())? {
                self.lost = sys::xdp_statistics(self.socket.as_fd()).ok();
            }
            return Ok(0);
        }
        self.rings.received();
        let count = arrived.len();
        self.provided -= count;
        let checksum = if self.trusted { RxChecksum::Verified } else { RxChecksum::Unknown };
        let meta = RxMeta { checksum, ..RxMeta::default() };
        let mut frames = ArrayVec::<RxFrame<'_>, BURST>::new();
        for (chunk, Extent { offset, len, .. }) in &mut arrived {
            frames.push(RxFrame::new(self.umem.bytes(chunk), *offset, *len, meta));
        }
        sink(&mut frames);
        let mut answers = ArrayVec::<_, BURST>::new();
        for frame in &mut frames {
            answers.push(match frame.verdict {
                Verdict::Reply(meta) => {
                    prepare(frame.bytes_mut(), meta);
                    Some(Extent { offset: frame.start(), len: frame.len(), options: 0 })
                }
                Verdict::Done | Verdict::Punt | Verdict::Drop(_) => None,
            });
        }
        drop(frames);
        for ((chunk, _), answer) in arrived.into_iter().zip(answers) {
            let back = match answer {
                Some(frame) => self.rings.send(&self.umem, chunk, frame),
                None => Err(chunk),
            };
            self.tx_full += u64::from(answer.is_some() && back.is_err());
            self.free.extend(back.err());
        }
        self.recycle()?;
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        // Where frames are copied, a call sends a few, and asks for another.
        while self.rings.transmit() && self.rings.transmit_needs_wakeup() {
            if !self.told(sys::wake_transmit(self.socket.as_fd()))? {
                break;
            }
        }
        Ok(())
    }

    fn poll_fd(&self) -> Option<i32> {
        Some(self.socket.as_raw_fd())
    }

    fn set_now(&mut self, now: Instant) {
        self.interface.now = now;
    }

    fn next_deadline(&self) -> Option<Instant> {
        // The kernel wakes nobody who sleeps on the socket when the interface goes.
        Some(self.interface.next_look())
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
