//! Opening the queues of an interface: sockets over one memory, one program for all.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::memory::{Chunk, Receiving, Sending, Umem, make_rings};
use super::program::{Frames, Mode, Program};
use super::queue::{Pool, Queue};
use super::{
    BusyPoll, CHUNK, LONGEST, LONGEST_IN_PIECES, METADATA, RxChecksumPolicy, Sender, XdpConfig, XdpDevice,
};
use crate::device::netdev::Interface;
use crate::device::{BURST, Caps, DeviceError, MAX_L2_HEADER, sys};
use crate::owned::{Ownership, OwnershipWatch};

/// Opens the queues for so many shards at most.
pub(super) fn open(config: &XdpConfig, shards: usize) -> Result<Vec<XdpDevice>, DeviceError> {
    let XdpConfig { interface: name, ring, .. } = config;
    if !ring.is_power_of_two() || !(64..=1 << 15).contains(ring) {
        let message =
            format!("xdp:{name}: a ring of {ring} frames: it takes a power of two from 64 to 32768");
        return Err(DeviceError::Config(message));
    }
    let mut notices = Vec::new();
    let interface = Interface::find("xdp", name, &mut notices)?;
    let frames = check_mtu(config, &interface)?;
    let (queues, heard) = choose_queues(config, &interface)?;
    let devices = shards.clamp(1, heard.len());
    let policy = choose_policy(config, &interface)?;
    let (mut watch, ownership) = config.owned.clone().map(OwnershipWatch::new).unzip();
    let (shared, mut free, bound) =
        bind_all(config, &interface, (queues, &heard), (devices, frames), ownership.as_ref(), &mut notices)?;
    if policy.busy_poll
        && let Err(e) = bound.iter().try_for_each(|(socket, ..)| poll_busily(socket.as_fd()))
    {
        notices.push(format!("the driver's interrupts are not held off: {e}"));
    }
    for notice in &notices {
        tracing::warn!(device = %name, "{notice}");
    }
    let mut parts: Vec<Vec<Bound>> = std::iter::repeat_with(Vec::new).take(devices).collect();
    for (i, socket) in bound.into_iter().enumerate() {
        if let Some(part) = parts.get_mut(i % devices) {
            part.push(socket);
        }
    }
    let ring = *ring as usize;
    let device = |part: Vec<Bound>| {
        let free = free.split_off(free.len().saturating_sub(ring * (part.len() + 1)));
        Ok(XdpDevice { owned: watch.take(), ..device(config, (&shared, &policy), part, free, &notices)? })
    };
    parts.into_iter().map(device).collect()
}

/// How frames look at the MTU of the interface.
fn check_mtu(config: &XdpConfig, interface: &Interface) -> Result<Frames, DeviceError> {
    let (name, own_mtu) = (&config.interface, interface.mtu(None)?);
    interface.mtu(config.mtu)?;
    if own_mtu + MAX_L2_HEADER > LONGEST_IN_PIECES {
        let most = LONGEST_IN_PIECES - MAX_L2_HEADER;
        let remedy = format!("lower it: `ip link set {name} mtu {most}`");
        let message = format!("xdp:{name}: its MTU is {own_mtu}, at most {most} fit: {remedy}");
        return Err(DeviceError::Config(message));
    }
    Ok(if own_mtu + MAX_L2_HEADER > LONGEST { Frames::InPieces } else { Frames::Whole })
}

/// How many queues there are, and which are to be heard.
fn choose_queues(config: &XdpConfig, interface: &Interface) -> Result<(u32, Vec<u32>), DeviceError> {
    let queues = interface.rx_queues()?;
    match config.queue {
        Some(queue) if queue >= queues => {
            let name = &config.interface;
            let message = format!("xdp:{name}: it has no queue {queue}, the last is {}", queues - 1);
            Err(DeviceError::Config(message))
        }
        Some(queue) => Ok((queues, vec![queue])),
        None => Ok((queues, (0..queues).collect())),
    }
}

/// What depends on the driver, as the configuration has it.
struct Policy {
    /// Received checksums are right.
    trusted: bool,
    /// Each burst calls the driver.
    busy_poll: bool,
}

fn choose_policy(config: &XdpConfig, interface: &Interface) -> Result<Policy, DeviceError> {
    let is_veth = interface.driver()? == "veth";
    Ok(Policy {
        trusted: match config.rx_checksum {
            RxChecksumPolicy::ByDriver => is_veth,
            RxChecksumPolicy::Verify => false,
            RxChecksumPolicy::Trust => true,
        },
        busy_poll: match config.busy_poll {
            BusyPoll::Off => false,
            BusyPoll::ByDriver => !is_veth,
            BusyPoll::On => true,
        },
    })
}

/// A socket, bound to a queue, with its rings.
type Bound = (OwnedFd, Receiving, Sending);

/// What the devices on an interface have in common.
struct Shared {
    program: Arc<Program>,
    umem: Arc<Umem>,
    frames: Frames,
    /// Checksums can be left to the kernel.
    tx_checksum: bool,
}

/// Binds a socket to each queue that is heard, and directs its frames there: what is shared, the chunks, and the sockets.
fn bind_all(
    config: &XdpConfig,
    interface: &Interface,
    (queues, heard): (u32, &[u32]),
    (devices, frames): (usize, Frames),
    owned: Option<&Ownership>,
    notices: &mut Vec<String>,
) -> Result<(Shared, Vec<Chunk>, Vec<Bound>), DeviceError> {
    let sockets = heard.iter().map(|_| sys::xdp_socket()).collect::<io::Result<Vec<_>>>();
    let sockets = sockets.map_err(|e| permission(interface, "open a socket", e))?;
    let (Some(first), Some(first_queue)) = (sockets.first().map(AsFd::as_fd), heard.first()) else {
        return Err(interface.gone());
    };
    // To receive in at each queue, and to send from at each device.
    let chunks = (CHUNK, config.ring * (heard.len() + devices) as u32);
    // Kernels before 6.8 know of no metadata.
    let with_metadata = Umem::new(first, chunks, METADATA as u32);
    let metadata = config.offload && with_metadata.is_ok();
    let (umem, free) = with_metadata.or_else(|_| Umem::new(first, chunks, 0)).map_err(|e| {
        let remedy = "it takes CAP_IPC_LOCK, or `ulimit -l` for 8 KB per frame of a ring";
        interface.failed("register memory", e, remedy)
    })?;
    let rings = sockets.iter().map(|socket| make_rings(socket.as_fd(), config.ring));
    let rings = rings.collect::<io::Result<Vec<_>>>().map_err(|e| interface.failed("make rings", e, ""))?;
    let (program, mode) = attach(config, interface, (queues, frames), owned, notices)?;
    bind_first(first, interface, (*first_queue, frames, mode))?;
    for (socket, queue) in sockets.iter().zip(heard).skip(1) {
        bind_next(socket.as_fd(), interface, *queue, first)?;
    }
    // A driver that reads frames itself would have to sum them up itself, which not all can, nor say whether they can.
    let tx_checksum = metadata && !sys::xdp_is_zero_copy(first).unwrap_or(true);
    for (socket, queue) in sockets.iter().zip(heard) {
        program
            .direct(*queue, socket.as_fd())
            .map_err(|e| interface.failed("direct the queue to the socket", e, ""))?;
    }
    let shared = Shared { program: Arc::new(program), umem: Arc::new(umem), frames, tx_checksum };
    let bound = sockets.into_iter().zip(rings).map(|(socket, (receive, send))| (socket, receive, send));
    Ok((shared, free, bound.collect()))
}

/// Makes a device of some queues and so many chunks.
fn device(
    config: &XdpConfig,
    (shared, policy): (&Shared, &Policy),
    sockets: Vec<Bound>,
    free: Vec<Chunk>,
    notices: &[String],
) -> Result<XdpDevice, DeviceError> {
    let interface = Interface::find("xdp", &config.interface, &mut Vec::new())?;
    let (mut queues, mut sender) = (Vec::new(), None);
    for (socket, receiving, sending) in sockets {
        if sender.is_none() {
            let socket = socket.try_clone().map_err(|e| interface.failed("have its socket twice", e, ""))?;
            sender = Some(Sender { rings: sending, socket });
        }
        queues.push(Queue::new(socket, receiving, config.ring as usize));
    }
    let Some(sender) = sender else { return Err(interface.gone()) };
    let readable = match &*queues {
        [_] => None,
        _ => {
            let sockets: Vec<_> = queues.iter().map(|queue| queue.socket.as_raw_fd()).collect();
            let any = sys::either_readable(&sockets);
            Some(any.map_err(|e| interface.failed("sleep on its queues", e, ""))?)
        }
    };
    let mut pool = Pool { umem: Arc::clone(&shared.umem), free, spare: Vec::new() };
    queues.iter_mut().for_each(|queue| _ = queue.provide(&mut pool));
    let long = match shared.frames {
        Frames::InPieces => interface.mtu(None)? + MAX_L2_HEADER,
        Frames::Whole => 0,
    };
    Ok(XdpDevice {
        program: Arc::clone(&shared.program),
        owned: None,
        caps: Caps { tx_checksum: shared.tx_checksum, ..Caps::plain(interface.mtu(config.mtu)?) },
        trusted: policy.trusted,
        queues,
        next: 0,
        sender,
        readable,
        interface,
        pool,
        notices: notices.to_vec(),
        busy_poll: policy.busy_poll,
        open: None,
        unsent: false,
        long: vec![0; long].into(),
        link_down: 0,
        tx_full: 0,
    })
}

/// Has the driver's queue be polled by who calls the socket, instead of by interrupts.
fn poll_busily(socket: BorrowedFd<'_>) -> io::Result<()> {
    // Not in every target's libc.
    const SO_PREFER_BUSY_POLL: libc::c_int = 69;
    const SO_BUSY_POLL_BUDGET: libc::c_int = 70;
    let set = |name, value: libc::c_int| sys::set_option(socket, libc::SOL_SOCKET, name, value);
    set(SO_PREFER_BUSY_POLL, 1)?;
    // Microseconds: of no matter to one who does not block, but zero is never.
    set(libc::SO_BUSY_POLL, 20)?;
    set(SO_BUSY_POLL_BUDGET, BURST as libc::c_int)
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
    config: &XdpConfig,
    interface: &Interface,
    (queues, frames): (u32, Frames),
    owned: Option<&Ownership>,
    notices: &mut Vec<String>,
) -> Result<(Program, Mode), DeviceError> {
    let attach =
        |mode| Program::attach(interface.index(), queues, mode, frames, owned).map(|program| (program, mode));
    let failed = |e| permission(interface, "attach the program", e);
    if config.behind_driver {
        return attach(Mode::Skb).map_err(failed);
    }
    attach(Mode::Native).or_else(|native| {
        if matches!(native.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EBUSY)) {
            return Err(failed(native));
        }
        notices.push(format!(
            "the driver takes no XDP program ({native}): frames are taken behind it, which is slower"
        ));
        attach(Mode::Skb).map_err(failed)
    })
}

/// Binds the socket that has the memory, without copies where the driver can.
fn bind_first(
    socket: BorrowedFd<'_>,
    interface: &Interface,
    (queue, frames, mode): (u32, Frames, Mode),
) -> Result<(), DeviceError> {
    let pieces = if frames == Frames::InPieces { libc::XDP_USE_SG } else { 0 };
    let always = libc::XDP_USE_NEED_WAKEUP | pieces;
    let bind = |flags| sys::bind_xdp(socket, (interface.index(), queue), flags | always, None);
    patiently(|| match mode {
        Mode::Native => bind(libc::XDP_ZEROCOPY).or_else(|e| match e.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::EINVAL) => bind(libc::XDP_COPY),
            _ => Err(e),
        }),
        // Behind the driver there is nothing but copies.
        Mode::Skb => bind(libc::XDP_COPY),
    })
    .map_err(|e| bind_error(interface, queue, e))
}

/// Binds a socket that uses the memory of the first, in the same manner as that.
fn bind_next(
    socket: BorrowedFd<'_>,
    interface: &Interface,
    queue: u32,
    first: BorrowedFd<'_>,
) -> Result<(), DeviceError> {
    let place = (interface.index(), queue);
    patiently(|| sys::bind_xdp(socket, place, libc::XDP_SHARED_UMEM, Some(first)))
        .map_err(|e| bind_error(interface, queue, e))
}

/// The kernel frees a queue some time after the socket that had it was closed.
fn patiently(bind: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let patience = Instant::now() + Duration::from_secs(1);
    let mut bound = bind();
    while bound.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY)) && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(10));
        bound = bind();
    }
    bound
}

fn bind_error(interface: &Interface, queue: u32, error: io::Error) -> DeviceError {
    let remedy = match error.raw_os_error() {
        Some(libc::EBUSY) => "another AF_XDP socket has the queue: stop that one",
        _ => "",
    };
    interface.failed(&format!("bind to queue {queue}"), error, remedy)
}
