//! A Linux TAP interface: the kernel's own stack is at the other end of the link.
//!
//! With the virtio-net header (`IFF_VNET_HDR`) in front of each frame, frames cross unfinished in both directions: checksums
//! that nobody needs to compute because the bytes never leave the machine, and TCP trains of up to 64 KB that nobody needs to
//! cut. Where the kernel refuses, the device falls back to plain frames and says so in [`TapDevice::notices`].
//!
//! Every frame is one system call, made when it is committed; the few that the kernel will not take at once wait in a ring and
//! are retried by [`Device::flush`]. An interface that this device created is gone when the device is dropped, or when the
//! process dies in whatever way; one that existed before (`ip tuntap add`) stays.
//!
//! An interface may have several queues, each of them a device that a thread of its own drives ([`TapDevice::open_queues`]). A program that
//! the kernel runs on each frame then chooses the queue by the [`Steering`]. Where it may not be loaded, as in
//! a user namespace, the kernel keeps the frames of a flow together as it likes. When a queue is closed, the others go on.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use arrayvec::ArrayVec;

use super::bpf::steer::{self, Start};
use super::offload::complete_checksum;
use super::siblings::Sibling;
use super::sys::{self, Control, IfName};
use super::vnet;
use super::{
    BURST, Caps, Device, DeviceError, HEADROOM, MAX_L2_HEADER, RETRY, RxFrame, RxMeta, TxChecksum, TxMeta,
    TxQueue, Verdict,
};
use crate::steering::Steering;
use crate::time::Instant;
use crate::wire::MacAddr;

/// The length of the virtio-net header that we ask for: [`vnet::HEADER`] and `num_buffers`.
const VNET_HEADER: usize = vnet::HEADER + 2;
/// The largest frame that crosses: a full IP packet behind the longest Ethernet header.
const MAX_FRAME: usize = 65_535 + MAX_L2_HEADER;

/// What a TAP is opened with.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TapConfig {
    /// Name of the interface, at most 15 bytes; created if it does not exist. With `%d` in it the kernel picks a number.
    pub name: String,
    /// The MTU that the interface is given, from 68 to 65,521. Default 1500.
    pub mtu: usize,
    /// Addresses, with their prefix lengths, that the kernel's side of the link is given. Default none.
    pub host_addrs: Vec<(IpAddr, u8)>,
    /// Partial checksums and TCP trains in both directions, where the kernel can. Default on.
    pub offload: bool,
    /// The kernel may also hand over trains of UDP datagrams (`UDP_SEGMENT`), as one frame whose
    /// [`RxMeta::gso_size`] tells where it is to be cut. Default off: the receiver must know what to do with them.
    pub udp_trains: bool,
    /// The station address that the kernel's side is given. Default: one that the kernel chooses.
    pub station: Option<MacAddr>,
    /// An interface of that name must not exist yet, so that nothing of what it is given here outlives the device. Default off.
    pub create: bool,
}

impl TapConfig {
    /// The default for the interface `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            mtu: 1500,
            host_addrs: Vec::new(),
            offload: true,
            udp_trains: false,
            station: None,
            create: false,
        }
    }
}

/// One frame buffer with its header, for both directions.
#[derive(Debug)]
struct Slot {
    header: [u8; VNET_HEADER],
    buf: Box<[u8]>,
    len: usize,
}

impl Slot {
    fn new() -> Self {
        // Not a multiple of the page size, so that the first lines of all buffers do not compete for the same cache sets.
        let size = (HEADROOM + MAX_FRAME).next_multiple_of(64) + 192;
        Self { header: [0; VNET_HEADER], buf: vec![0; size].into(), len: 0 }
    }
}

/// A TAP interface, opened. See the module documentation.
#[derive(Debug)]
pub struct TapDevice {
    /// The first field, which is dropped first.
    sibling: Sibling,
    file: File,
    name: String,
    caps: Caps,
    /// Whether frames have a virtio-net header in front.
    vnet: bool,
    notices: Vec<String>,
    /// Where a burst is received to; the memory is touched only as far as bursts go.
    rx: Vec<Slot>,
    /// The reservation, and the buffer for it.
    open: Option<Slot>,
    /// Committed, and refused by the kernel for now.
    pending: VecDeque<Slot>,
    spare: Vec<Slot>,
    now: Instant,
    stats: Stats,
}

#[derive(Clone, Copy, Debug, Default)]
struct Stats {
    link_down: u64,
    tx_refused: u64,
    tx_full: u64,
}

impl TapDevice {
    /// Opens the interface with one queue, creates it if need be, brings it up and configures the kernel's side.
    ///
    /// # Errors
    /// One line that names the interface and the remedy: a name that cannot be, no permission, no TUN driver, an interface that
    /// another process uses or that is no TAP, an address that the kernel refuses.
    pub fn open(config: &TapConfig) -> Result<Self, DeviceError> {
        Self::open_all(config, 1, None)?.pop().ok_or_else(|| DeviceError::Gone(config.name.clone()))
    }

    /// Opens the interface with a queue for each shard, in their order. An interface that exists with a single queue is opened
    /// with that.
    ///
    /// # Errors
    /// As [`TapDevice::open`].
    pub fn open_queues(config: &TapConfig, steering: &Steering) -> Result<Vec<Self>, DeviceError> {
        Self::open_all(config, steering.shards(), Some(steering))
    }

    /// Opens the interface with so many queues, of which the kernel sends a flow to the one that it last came from. An interface that
    /// exists with a single queue is opened with that.
    ///
    /// # Errors
    /// As [`TapDevice::open`].
    pub fn open_unsteered(config: &TapConfig, queues: usize) -> Result<Vec<Self>, DeviceError> {
        Self::open_all(config, queues, None)
    }

    fn open_all(
        config: &TapConfig,
        wanted: usize,
        steering: Option<&Steering>,
    ) -> Result<Vec<Self>, DeviceError> {
        let TapConfig { name, mtu, host_addrs, offload, udp_trains, station, create } = config;
        let Some(requested) = IfName::new(name) else {
            let why = "an interface name has 1 to 15 bytes and no slash, colon or blank";
            return Err(DeviceError::Config(format!("tap:{name}: {why}; choose another, such as tap0")));
        };
        let mut notices = Vec::new();
        let first = open_driver(name)?;
        let attached = attach(first.as_fd(), requested, (*offload, wanted > 1, *create), &mut notices)
            .map_err(|e| attach_error(name, *create, e))?;
        let vnet = attached.flags & libc::IFF_VNET_HDR != 0;
        if vnet {
            negotiate(first.as_fd(), *udp_trains, &mut notices)
                .map_err(|e| attach_error(name, *create, e))?;
        }
        let steered = match steering.filter(|_| attached.flags & libc::IFF_MULTI_QUEUE != 0) {
            Some(steering) => steer(first.as_fd(), steering, attached.created, &mut notices),
            None => false,
        };
        let mut files = vec![first];
        if attached.flags & libc::IFF_MULTI_QUEUE != 0 {
            for _ in 1..wanted {
                let file = open_driver(name)?;
                sys::tun_attach(file.as_fd(), attached.name, attached.flags)
                    .map_err(|e| attach_error(name, *create, e))?;
                files.push(file);
            }
        }
        let name = attached.name.to_text();
        configure(attached.name, &name, (*mtu, *station), host_addrs)?;
        for notice in &notices {
            tracing::warn!(device = %name, "{notice}");
        }
        let family = Sibling::family(files.len(), steered);
        Ok(files
            .into_iter()
            .zip(family)
            .map(|(file, sibling)| Self::new(file, sibling, (name.clone(), *mtu, vnet), notices.clone()))
            .collect())
    }

    fn new(
        file: File,
        sibling: Sibling,
        (name, mtu, vnet): (String, usize, bool),
        notices: Vec<String>,
    ) -> Self {
        Self {
            sibling,
            file,
            name,
            caps: Caps { mtu, tx_checksum: vnet, tso_max: if vnet { 65_535 } else { 0 } },
            vnet,
            notices,
            rx: std::iter::repeat_with(Slot::new).take(BURST).collect(),
            open: None,
            pending: VecDeque::with_capacity(BURST),
            spare: Vec::with_capacity(BURST),
            now: Instant::ZERO,
            stats: Stats::default(),
        }
    }

    /// The name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the device could not have and does without, one sentence each, with the reason.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Receives one frame into slot `i`; `false` when none waits.
    fn receive(&mut self, i: usize) -> Result<bool, DeviceError> {
        let Some(slot) = self.rx.get_mut(i) else { return Ok(false) };
        let Some(body) = slot.buf.get_mut(HEADROOM..) else { return Ok(false) };
        let mut parts = [IoSliceMut::new(&mut slot.header), IoSliceMut::new(body)];
        let (parts, front) = if self.vnet { (&mut parts[..], VNET_HEADER) } else { (&mut parts[1..], 0) };
        let result = sys::read_vectored(self.file.as_raw_fd(), parts);
        match result {
            Ok(n) => {
                slot.len = n.saturating_sub(front);
                Ok(true)
            }
            Err(e) => match e.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(false),
                Some(libc::EBADFD | libc::ENODEV | libc::ENXIO) => Err(DeviceError::Gone(self.name.clone())),
                // The interface is down: nothing to receive until somebody brings it up again.
                Some(libc::EIO | libc::ENETDOWN) => Ok(false),
                _ => Err(DeviceError::Io { what: format!("tap:{}: read", self.name), source: e, remedy: "" }),
            },
        }
    }

    /// Writes the frames that the kernel refused before, in order, as far as it takes them now.
    fn retry(&mut self) -> Result<(), DeviceError> {
        while let Some(slot) = self.pending.front() {
            let outcome = write(&self.file, self.vnet, &slot.header, frame_of(slot, HEADROOM));
            if !self.stats.settle(&self.name, outcome)? {
                break;
            }
            self.spare.extend(self.pending.pop_front());
        }
        Ok(())
    }
}

impl Stats {
    /// Whether the frame is done with: taken by the kernel, or lost for good and counted. `false` when it is to be tried again.
    fn settle(&mut self, name: &str, outcome: io::Result<usize>) -> Result<bool, DeviceError> {
        let Err(error) = outcome else { return Ok(true) };
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM) => return Ok(false),
            Some(libc::EBADFD | libc::ENODEV | libc::ENXIO) => {
                return Err(DeviceError::Gone(name.to_owned()));
            }
            Some(libc::EIO | libc::ENETDOWN) => self.link_down += 1,
            // A frame that the kernel finds malformed; the next may be better.
            _ => self.tx_refused += 1,
        }
        Ok(true)
    }
}

fn frame_of(slot: &Slot, start: usize) -> &[u8] {
    slot.buf.get(start..start.saturating_add(slot.len)).unwrap_or_default()
}

fn write(file: &File, vnet: bool, header: &[u8; VNET_HEADER], frame: &[u8]) -> io::Result<usize> {
    let parts = [IoSlice::new(header), IoSlice::new(frame)];
    sys::write_vectored(file.as_raw_fd(), if vnet { &parts } else { &parts[1..] })
}

/// Opens the TUN driver.
fn open_driver(name: &str) -> Result<File, DeviceError> {
    const DRIVER: &str = "/dev/net/tun";
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DRIVER).map_err(|source| {
        let remedy = match source.raw_os_error() {
            Some(libc::ENOENT) => {
                "no TUN driver: load it with `modprobe tun`, or give the container the device node /dev/net/tun"
            }
            Some(libc::ENODEV | libc::ENXIO) => "the kernel has no TUN driver: load it with `modprobe tun`",
            Some(libc::EACCES | libc::EPERM) => "run as root, or inside `unshare -Urn`",
            _ => "",
        };
        DeviceError::Io { what: format!("tap:{name}: cannot open {DRIVER}"), source, remedy }
    })
}

/// An interface that was attached to.
struct Attached {
    name: IfName,
    /// What it has: `IFF_VNET_HDR`, `IFF_MULTI_QUEUE`.
    flags: libc::c_int,
    /// It did not exist before.
    created: bool,
}

/// Attaches to the interface, with the virtio-net header and several queues if they are wanted and there are any.
fn attach(
    file: BorrowedFd<'_>,
    name: IfName,
    (offload, several, create): (bool, bool, bool),
    notices: &mut Vec<String>,
) -> io::Result<Attached> {
    let plain = libc::IFF_TAP | libc::IFF_NO_PI;
    let headers = if offload { &[libc::IFF_VNET_HDR, 0][..] } else { &[0] };
    let queues = if several { &[libc::IFF_MULTI_QUEUE, 0][..] } else { &[0] };
    // EINVAL is what an old kernel says to the header, and every kernel to an interface that is no TAP, or one with queues where
    // none are asked for, or the other way around: the next attempt tells these apart.
    let mut refused = io::Error::from_raw_os_error(libc::EINVAL);
    for flags in queues.iter().flat_map(|queues| headers.iter().map(move |header| plain | queues | header)) {
        match attach_with(file, name, flags, create) {
            Ok((interface, created)) => {
                if offload && flags & libc::IFF_VNET_HDR == 0 {
                    let lack = "no virtio-net header: checksums and segmentation are done in software";
                    notices.push(lack.to_owned());
                }
                if several && flags & libc::IFF_MULTI_QUEUE == 0 {
                    let lack = "it exists with a single queue, which one shard hears: remove it, or make it anew by \
                                `ip tuntap add mode tap multi_queue`";
                    notices.push(lack.to_owned());
                }
                return Ok(Attached { name: interface, flags, created });
            }
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => refused = e,
            Err(e) => return Err(e),
        }
    }
    Err(refused)
}

/// Attaches to the interface as these flags say; whether it was created. Several queues can be taken by several processes, and then each
/// would hear some of the frames: so an interface with queues must be new, or one that is there without any process.
fn attach_with(
    file: BorrowedFd<'_>,
    name: IfName,
    flags: libc::c_int,
    create: bool,
) -> io::Result<(IfName, bool)> {
    match sys::tun_attach(file, name, flags | libc::IFF_TUN_EXCL) {
        Ok(name) => return Ok((name, true)),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) && !create => {}
        Err(e) => return Err(e),
    }
    let name = sys::tun_attach(file, name, flags)?;
    if flags & libc::IFF_MULTI_QUEUE != 0 && sys::tun_flags(file)? & libc::IFF_PERSIST == 0 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    Ok((name, false))
}

/// Has the kernel choose the queue by `steering`; whether it does.
fn steer(file: BorrowedFd<'_>, steering: &Steering, created: bool, notices: &mut Vec<String>) -> bool {
    // A program stays with the interface, longer than this process if it does.
    let refused = if created {
        let loaded = steer::load_steering(steering, Start::Ethernet);
        match loaded.and_then(|program| sys::tun_set_steering(file, program.as_fd())) {
            Ok(()) => return true,
            Err(e) => e.to_string(),
        }
    } else {
        "the interface stays when we end, and is left as it was".to_owned()
    };
    notices.push(format!(
        "the kernel chooses the queue of a flow, and shards hand over what they get: {refused}"
    ));
    false
}

/// Agrees on what the kernel may hand us unfinished: as much as it offers.
fn negotiate(file: BorrowedFd<'_>, udp_trains: bool, notices: &mut Vec<String>) -> io::Result<()> {
    sys::tun_set_header_len(file, VNET_HEADER as i32)?;
    let (checksum, tcp) = (libc::TUN_F_CSUM, libc::TUN_F_TSO4 | libc::TUN_F_TSO6);
    let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    if udp_trains {
        match sys::tun_set_offload(file, checksum | tcp | udp) {
            Ok(()) => return Ok(()),
            Err(e) => notices.push(format!("no UDP trains from the kernel: {e}")),
        }
    }
    if let Err(e) = sys::tun_set_offload(file, checksum | tcp) {
        notices.push(format!("no TCP trains from the kernel: {e}"));
        if let Err(e) = sys::tun_set_offload(file, checksum) {
            notices.push(format!("no partial checksums from the kernel: {e}"));
        }
    }
    Ok(())
}

fn attach_error(name: &str, create: bool, source: io::Error) -> DeviceError {
    let remedy = match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "it takes CAP_NET_ADMIN: run as root, or inside `unshare -Urn`, or attach to a TAP that \
             `ip tuntap add mode tap user` made for you"
        }
        Some(libc::EBUSY) if create => {
            "an interface of that name exists, and would keep what it is given here: remove it (`ip link del`) or choose another name"
        }
        Some(libc::EBUSY) => "another process uses it: stop that one or choose another name",
        Some(libc::EINVAL) => {
            "an interface of that name exists and is no single-queue TAP: choose another name"
        }
        _ => "",
    };
    DeviceError::Io { what: format!("tap:{name}: cannot attach"), source, remedy }
}

/// Brings the interface up, with MTU, station address and addresses for the kernel's side.
fn configure(
    interface: IfName,
    name: &str,
    (mtu, station): (usize, Option<MacAddr>),
    addrs: &[(IpAddr, u8)],
) -> Result<(), DeviceError> {
    let failed = |what: String, remedy| {
        move |source| DeviceError::Io { what: format!("tap:{name}: cannot {what}"), source, remedy }
    };
    let control = Control::new().map_err(failed("open a control socket".to_owned(), ""))?;
    control
        .set_mtu(interface, i32::try_from(mtu).unwrap_or(i32::MAX))
        .map_err(failed(format!("set the MTU to {mtu}"), "a TAP takes 68 to 65521"))?;
    if let Some(MacAddr(station)) = station {
        let what = format!("give the kernel's side {}", MacAddr(station));
        control
            .set_station(interface, station)
            .map_err(failed(what, "it must be the address of one station"))?;
    }
    control.bring_up(interface).map_err(failed("bring the link up".to_owned(), "it takes CAP_NET_ADMIN"))?;
    for &(addr, prefix) in addrs {
        let what = format!("give the kernel's side {addr}/{prefix}");
        control
            .index(interface)
            .and_then(|index| sys::add_address(index, addr, prefix))
            .map_err(failed(what, "it must be a host address with a prefix length of its family"))?;
    }
    Ok(())
}

impl TapDevice {
    /// Fills in the header of a frame, or does in software what a plain TAP cannot.
    fn prepare(vnet: bool, slot: &mut Slot, start: usize, meta: TxMeta) {
        if vnet {
            slot.header = vnet::encode(meta);
        } else if let TxChecksum::Partial { start: from, offset } = meta.checksum {
            let frame = slot.buf.get_mut(start..start.saturating_add(slot.len)).unwrap_or_default();
            complete_checksum(frame, from, offset);
        }
    }

    /// Sends the answer that was written into received slot `i`, from where it lies. When the kernel is full, the slot itself
    /// waits in the ring and a spare one takes its place.
    fn reply(&mut self, i: usize, start: usize, len: usize, meta: TxMeta) -> Result<(), DeviceError> {
        let Some(slot) = self.rx.get_mut(i) else { return Ok(()) };
        slot.len = len;
        Self::prepare(self.vnet, slot, start, meta);
        if self.pending.is_empty() {
            let outcome = write(&self.file, self.vnet, &slot.header, frame_of(slot, start));
            if self.stats.settle(&self.name, outcome)? {
                return Ok(());
            }
        }
        if self.pending.len() >= BURST {
            self.stats.tx_full += 1;
            return Ok(());
        }
        slot.buf.copy_within(start..start + len, HEADROOM.min(slot.buf.len() - len));
        let spare = self.spare.pop().unwrap_or_else(Slot::new);
        self.pending.push_back(std::mem::replace(slot, spare));
        Ok(())
    }
}

impl TxQueue for TapDevice {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        let reserved = self.open.take();
        let longest = self.caps.mtu.max(self.caps.tso_max) + MAX_L2_HEADER;
        if len > longest || self.pending.len() >= BURST {
            self.spare.extend(reserved);
            return None;
        }
        let slot = self.open.insert(reserved.or_else(|| self.spare.pop()).unwrap_or_else(Slot::new));
        slot.len = len;
        slot.buf.get_mut(HEADROOM..HEADROOM + len)
    }

    fn commit(&mut self, meta: TxMeta) {
        let Some(mut slot) = self.open.take() else { return };
        Self::prepare(self.vnet, &mut slot, HEADROOM, meta);
        if self.pending.is_empty() {
            let outcome = write(&self.file, self.vnet, &slot.header, frame_of(&slot, HEADROOM));
            // That the interface is gone comes up again, where it can be said: at the next flush or receive.
            if self.stats.settle(&self.name, outcome).unwrap_or(false) {
                self.spare.push(slot);
                return;
            }
        }
        self.pending.push_back(slot);
    }
}

impl Device for TapDevice {
    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        let mut count = 0;
        while count < BURST && self.receive(count)? {
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        let vnet = self.vnet;
        let mut frames: ArrayVec<RxFrame<'_>, BURST> = self
            .rx
            .iter_mut()
            .take(count)
            .map(|slot| {
                let meta = if vnet { vnet::decode(&slot.header, slot.len) } else { RxMeta::default() };
                RxFrame::new(&mut slot.buf, HEADROOM, slot.len, meta)
            })
            .collect();
        sink(&mut frames);
        let outcomes: ArrayVec<_, BURST> = frames.iter().map(|f| (f.verdict, f.start(), f.len())).collect();
        drop(frames);
        for (i, (verdict, start, len)) in outcomes.into_iter().enumerate() {
            match verdict {
                Verdict::Reply(meta) => self.reply(i, start, len, meta)?,
                Verdict::Done | Verdict::Drop(_) => {}
            }
        }
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        self.retry()
    }

    fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    fn next_deadline(&self) -> Option<Instant> {
        (!self.pending.is_empty()).then(|| self.now + RETRY)
    }

    fn is_steered(&self) -> bool {
        self.sibling.is_steered()
    }

    fn poll_fd(&self) -> Option<i32> {
        Some(self.file.as_raw_fd())
    }

    fn stats(&self) -> Vec<(&'static str, u64)> {
        let Stats { link_down, tx_refused, tx_full } = self.stats;
        vec![("tap-link-down", link_down), ("tap-tx-refused", tx_refused), ("tap-tx-full", tx_full)]
    }
}
