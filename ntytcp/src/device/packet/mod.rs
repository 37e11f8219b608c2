//! A packet socket (AF_PACKET): frames of any interface, without set-up.
//!
//! The kernel goes on using the interface, so the stack needs a station address and addresses of its own: the device asks for
//! promiscuous mode, and what is for the stack's station address means nothing to the kernel. Frames that the kernel sends
//! itself are not seen.
//!
//! Frames arrive in a ring that both sides map: a burst costs no system call. They leave, replies from where they arrived,
//! by one `sendmmsg` per burst. By the virtio-net header in front of each, checksums and the cutting of TCP
//! trains are left to the interface, or to the kernel where that cannot. Whoever sends on this machine leaves them to us in the same
//! way: such checksums are partial, and trains of up to 64 KB arrive whole.
//!
//! Several sockets on an interface, each a device that a thread of its own drives, share its frames as a group
//! ([`PacketDevice::open_queues`]). When one is closed, the others go on.

mod fanout;
mod ring;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use arrayvec::ArrayVec;

use self::ring::Ring;
use super::netdev::Interface;
use super::siblings::Sibling;
use super::sys;
use super::{
    BURST, Caps, Device, DeviceError, MAX_L2_HEADER, RETRY, RxFrame, TxMeta, TxQueue, Verdict, vnet,
};
use crate::steering::Steering;
use crate::time::Instant;

/// What a packet socket is opened with.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PacketConfig {
    /// Name of the interface, which exists.
    pub interface: String,
    /// The largest IP packet, at most. Default the interface's MTU.
    pub mtu: Option<usize>,
    /// Checksums and the cutting of TCP trains are left to the kernel. Default on.
    pub offload: bool,
    /// How many frames the receive ring holds, from 64 to 65,536. Each takes 2 KB at an MTU of 1500. Default 4,096.
    pub ring: usize,
}

impl PacketConfig {
    /// The default for `interface`.
    pub fn new(interface: impl Into<String>) -> Self {
        Self { interface: interface.into(), mtu: None, offload: true, ring: 4_096 }
    }
}

/// Where a frame that is to be sent waits.
#[derive(Debug)]
struct Slot {
    header: [u8; vnet::HEADER],
    buf: Box<[u8]>,
    len: usize,
}

impl Slot {
    fn new(longest: usize) -> Self {
        Self { header: [0; vnet::HEADER], buf: vec![0; longest].into(), len: 0 }
    }

    fn bytes(&self) -> &[u8] {
        self.buf.get(..self.len).unwrap_or_default()
    }
}

/// The largest frame that crosses with offload: a full IP packet behind the longest Ethernet header.
const MAX_FRAME: usize = 65_535 + MAX_L2_HEADER;

/// A packet socket on an interface. See the module documentation.
#[derive(Debug)]
pub struct PacketDevice {
    /// The first field, which is dropped first.
    sibling: Sibling,
    /// Before `socket`: unmapped before the socket is closed.
    ring: Ring,
    link: Link,
    caps: Caps,
    /// The longest frame that can be sent.
    longest: usize,
    notices: Vec<String>,
    /// The reservation, and the buffer for it.
    open: Option<Slot>,
    /// Committed and not yet sent, oldest first.
    queue: VecDeque<Slot>,
    spare: Vec<Slot>,
}

/// The socket, and what came of the frames that were sent through it.
#[derive(Debug)]
struct Link {
    socket: OwnedFd,
    interface: Interface,
    stats: Stats,
}

#[derive(Clone, Copy, Debug, Default)]
struct Stats {
    link_down: u64,
    tx_refused: u64,
    tx_full: u64,
    rx_cut: u64,
    rx_full: u64,
}

impl PacketDevice {
    /// Opens a socket on the interface.
    ///
    /// # Errors
    /// One line that names the interface and the remedy: no permission, no such interface, no memory for the ring.
    pub fn open(config: &PacketConfig) -> Result<Self, DeviceError> {
        Self::open_all(config, None)?.pop().ok_or_else(|| DeviceError::Gone(config.interface.clone()))
    }

    /// Opens a socket for each shard, in their order, which share the frames of the interface. Each has a ring of
    /// [`PacketConfig::ring`] frames.
    ///
    /// # Errors
    /// As [`PacketDevice::open`].
    pub fn open_queues(config: &PacketConfig, steering: &Steering) -> Result<Vec<Self>, DeviceError> {
        Self::open_all(config, Some(steering))
    }

    fn open_all(config: &PacketConfig, steering: Option<&Steering>) -> Result<Vec<Self>, DeviceError> {
        let PacketConfig { interface: name, ring, .. } = config;
        if !(BURST..=1 << 16).contains(ring) {
            let message = format!("packet:{name}: a ring of {ring} frames: it takes {BURST} to 65536");
            return Err(DeviceError::Config(message));
        }
        let mut notices = Vec::new();
        let steering = steering.filter(|steering| steering.shards() > 1);
        let links = std::iter::repeat_with(|| Link::open(config, steering.is_some(), &mut notices))
            .take(steering.map_or(1, Steering::shards))
            .collect::<Result<Vec<_>, _>>()?;
        let steered = match steering {
            Some(steering) => fanout::share(&links, steering, &mut notices)?,
            None => false,
        };
        // Each socket has told the same.
        notices.dedup();
        for notice in &notices {
            tracing::warn!(device = %name, "{notice}");
        }
        let family = Sibling::family(links.len(), steered);
        let device = |(link, sibling)| Self::new(config, link, sibling, notices.clone());
        links.into_iter().zip(family).map(device).collect()
    }

    fn new(
        config: &PacketConfig,
        (link, ring): (Link, Ring),
        sibling: Sibling,
        notices: Vec<String>,
    ) -> Result<Self, DeviceError> {
        let mtu = link.interface.mtu(config.mtu)?;
        let tso_max = if config.offload { 65_535 } else { 0 };
        Ok(Self {
            sibling,
            ring,
            link,
            caps: Caps { mtu, tx_checksum: config.offload, tso_max },
            longest: mtu.max(tso_max) + MAX_L2_HEADER,
            notices,
            open: None,
            queue: VecDeque::with_capacity(BURST),
            spare: Vec::with_capacity(BURST),
        })
    }

    /// What the device could not have and does without, one sentence each, with the reason.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Sends what waits, as far as the kernel takes it now.
    fn send_queued(&mut self) -> Result<(), DeviceError> {
        while !self.queue.is_empty() {
            let done = self.link.send(self.queue.iter().map(|slot| (&slot.header, slot.bytes())))?;
            if done == 0 {
                break;
            }
            self.spare.extend(self.queue.drain(..done));
        }
        Ok(())
    }
}

/// Sends the answers among `frames` from where they lie. What the kernel does not take waits in `queue` behind what waits already.
fn reply(
    link: &mut Link,
    (queue, spare, longest): (&mut VecDeque<Slot>, &mut Vec<Slot>, usize),
    frames: &[RxFrame<'_>],
) -> Result<(), DeviceError> {
    let mut headers = ArrayVec::<_, BURST>::new();
    for frame in frames.iter() {
        if let Verdict::Reply(meta) = frame.verdict {
            headers.push(vnet::encode(meta));
        }
    }
    let answers = || frames.iter().filter(|frame| matches!(frame.verdict, Verdict::Reply(_)));
    let mut done = 0;
    while queue.is_empty() && done < headers.len() {
        match link.send(headers.iter().zip(answers().map(RxFrame::bytes)).skip(done))? {
            0 => break,
            n => done += n,
        }
    }
    for (header, frame) in headers.iter().zip(answers().map(RxFrame::bytes)).skip(done) {
        if queue.len() >= BURST || frame.len() > longest {
            link.stats.tx_full += 1;
            continue;
        }
        let mut slot = spare.pop().unwrap_or_else(|| Slot::new(longest));
        (slot.header, slot.len) = (*header, frame.len());
        slot.buf.iter_mut().zip(frame).for_each(|(to, from)| *to = *from);
        queue.push_back(slot);
    }
    Ok(())
}

/// Gives the socket's queue room for some trains of TCP segments, beyond the system's limit if we may.
fn set_buffer(socket: &OwnedFd) -> io::Result<()> {
    const QUEUE: libc::c_int = 8 << 20;
    let set = |name| sys::set_option(socket.as_fd(), libc::SOL_SOCKET, name, QUEUE);
    set(libc::SO_RCVBUFFORCE).or_else(|_| set(libc::SO_RCVBUF))
}

impl Link {
    /// Opens a socket that receives all frames of the interface; one that is to share them, none until it does.
    fn open(
        config: &PacketConfig,
        shares: bool,
        notices: &mut Vec<String>,
    ) -> Result<(Self, Ring), DeviceError> {
        let interface = Interface::find("packet", &config.interface, notices)?;
        interface.mtu(config.mtu)?;
        let socket = sys::packet_socket().map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM) => {
                let remedy = "it takes CAP_NET_RAW: run as root, or inside `unshare -Urn`";
                interface.failed("open a packet socket", source, remedy)
            }
            _ => interface.failed("open a packet socket", source, ""),
        })?;
        let set = |name, value: libc::c_int| sys::set_option(socket.as_fd(), libc::SOL_PACKET, name, value);
        set(libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as libc::c_int)
            .map_err(|e| interface.failed("choose the ring's version", e, ""))?;
        set(libc::PACKET_VNET_HDR, 1).map_err(|e| interface.failed("have virtio-net headers", e, ""))?;
        // Frames that are longer than a slot wait there.
        let _ = set_buffer(&socket);
        let longest = interface.mtu(None)? + MAX_L2_HEADER;
        let ring = Ring::new(socket.as_fd(), longest, config.ring)
            .map_err(|e| interface.failed("make the receive ring", e, "ask for a smaller one"))?;
        if let Err(e) = set(libc::PACKET_IGNORE_OUTGOING, 1) {
            notices.push(format!("frames that the kernel sends are seen too: {e}"));
        }
        if shares {
            fanout::mute(socket.as_fd()).map_err(|e| interface.failed("filter its frames", e, ""))?;
        }
        sys::bind_packet(socket.as_fd(), interface.index())
            .and_then(|()| sys::make_promiscuous(socket.as_fd(), interface.index()))
            .map_err(|e| interface.failed("receive all its frames", e, ""))?;
        Ok((Self { socket, interface, stats: Stats::default() }, ring))
    }

    /// Sends a burst of frames at most, each behind its header, and says how many are done with: taken by the kernel, or lost for
    /// good and counted.
    fn send<'a>(
        &mut self,
        frames: impl Iterator<Item = (&'a [u8; vnet::HEADER], &'a [u8])>,
    ) -> Result<usize, DeviceError> {
        let parts: ArrayVec<_, BURST> =
            frames.take(BURST).map(|(header, frame)| [IoSlice::new(header), IoSlice::new(frame)]).collect();
        match sys::send_many(self.socket.as_fd(), &parts) {
            Ok(sent) => Ok(sent),
            Err(error) => self.refused(&error),
        }
    }

    /// Nothing has arrived.
    fn look(&mut self) -> Result<(), DeviceError> {
        let Self { socket, interface, stats } = self;
        if interface.look(socket.as_fd())? {
            let drops = sys::packet_drops(socket.as_fd());
            stats.rx_full += u64::from(drops.map_err(|e| interface.failed("ask for its losses", e, ""))?);
        }
        Ok(())
    }

    /// The kernel refused the first frame of a batch.
    fn refused(&mut self, error: &io::Error) -> Result<usize, DeviceError> {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM) => return Ok(0),
            Some(libc::ENXIO | libc::ENODEV) => return Err(self.interface.gone()),
            Some(libc::ENETDOWN) => {
                self.stats.link_down += 1;
                self.interface.heard(false);
            }
            // A frame that the kernel finds malformed; the next may be better.
            _ => self.stats.tx_refused += 1,
        }
        Ok(1)
    }
}

impl TxQueue for PacketDevice {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        let reserved = self.open.take();
        if self.queue.len() >= BURST {
            // That the interface is gone comes up again, where it can be said: at the next flush.
            let _ = self.send_queued();
        }
        if len > self.longest || self.queue.len() >= BURST {
            self.spare.extend(reserved);
            return None;
        }
        let longest = self.longest;
        let slot = reserved.or_else(|| self.spare.pop()).unwrap_or_else(|| Slot::new(longest));
        let slot = self.open.insert(slot);
        slot.len = len;
        slot.buf.get_mut(..len)
    }

    fn commit(&mut self, meta: TxMeta) {
        let Some(mut slot) = self.open.take() else { return };
        slot.header = vnet::encode(meta);
        self.queue.push_back(slot);
    }
}

impl Device for PacketDevice {
    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        let Self { ring, link, queue, spare, longest, .. } = self;
        let mut replied = Ok(());
        let (count, cut) = ring.burst(sink, |frames| replied = reply(link, (queue, spare, *longest), frames));
        link.stats.rx_cut += cut;
        replied?;
        if count == 0 {
            self.link.look()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        self.send_queued()
    }

    fn is_steered(&self) -> bool {
        self.sibling.is_steered()
    }

    fn poll_fd(&self) -> Option<i32> {
        Some(self.link.socket.as_raw_fd())
    }

    fn set_now(&mut self, now: Instant) {
        self.link.interface.now = now;
    }

    fn next_deadline(&self) -> Option<Instant> {
        let interface = &self.link.interface;
        if !self.queue.is_empty() {
            return Some(interface.now + RETRY);
        }
        // The kernel does not tell when an interface goes that is down.
        interface.is_down().then_some(interface.next_look())
    }

    fn stats(&self) -> Vec<(&'static str, u64)> {
        let Stats { link_down, tx_refused, tx_full, rx_cut, rx_full } = self.link.stats;
        vec![
            ("packet-link-down", link_down),
            ("packet-tx-refused", tx_refused),
            ("packet-tx-full", tx_full),
            ("packet-rx-cut", rx_cut),
            ("packet-rx-full", rx_full),
        ]
    }
}
