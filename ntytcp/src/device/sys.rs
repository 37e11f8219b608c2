//! Safe wrappers over the few system calls that devices and the shard need: sleeping on descriptors, scattered reads and
//! writes, and the requests that configure a network interface.
//!
//! Nothing here is called per packet but [`read_vectored`] and [`write_vectored`].
#![allow(unsafe_code)] // System calls; this module and the kernel-backed devices are the only ones of the crate that make any.

use std::ffi::{c_int, c_void};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::time::Duration;

use arrayvec::ArrayVec;

/// One descriptor to sleep on, and what was found there.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct PollFd(libc::pollfd);

impl PollFd {
    /// Wakes when `fd` is readable, or has an error or a hang-up.
    pub fn readable(fd: RawFd) -> Self {
        Self(libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
    }

    /// Whether the last [`poll`] found anything at this descriptor.
    pub fn is_ready(&self) -> bool {
        self.0.revents != 0
    }
}

/// Sleeps until a descriptor is ready or `timeout` has passed (`None`: for ever), with the precision of the system's
/// timers. Returns how many are ready; 0 on timeout or when a signal came, so the caller looks at its clock again.
///
/// # Errors
/// Only for arguments that the system refuses, such as more descriptors than the process may have.
pub fn poll(fds: &mut [PollFd], timeout: Option<Duration>) -> io::Result<usize> {
    let timeout = timeout.map(|t| libc::timespec {
        tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: t.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: PollFd is a transparent pollfd, so pointer and length describe the caller's exclusive slice; the timespec
    // lives until after the call; a null mask leaves the signal mask alone.
    let n =
        unsafe { libc::ppoll(fds.as_mut_ptr().cast(), fds.len() as libc::nfds_t, timeout, std::ptr::null()) };
    match check(n as isize) {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => {
            fds.iter_mut().for_each(|fd| fd.0.revents = 0);
            Ok(0)
        }
        other => other,
    }
}

/// A descriptor that is readable while any of `fds`, at most a handful, is.
///
/// # Errors
/// When the process has no descriptor left.
pub fn either_readable(fds: &[RawFd]) -> io::Result<OwnedFd> {
    // SAFETY: epoll_create1 takes no pointers.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    check(epoll as isize)?;
    // SAFETY: the descriptor was just made and nobody else has it.
    let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
    for &fd in fds {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: `event` outlives the call.
        let added = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        check(added as isize)?;
    }
    Ok(epoll)
}

/// Reads into several buffers in turn; how many bytes came.
///
/// # Errors
/// What the system says; [`io::ErrorKind::WouldBlock`] when nothing waits at a non-blocking descriptor.
pub fn read_vectored(fd: RawFd, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    // SAFETY: IoSliceMut is guaranteed to have the layout of iovec, and each borrows its memory exclusively.
    check(unsafe { libc::readv(fd, bufs.as_mut_ptr().cast(), count(bufs.len())) })
}

/// Writes several buffers as one; how many bytes went.
///
/// # Errors
/// What the system says; [`io::ErrorKind::WouldBlock`] when a non-blocking descriptor is full.
pub fn write_vectored(fd: RawFd, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: IoSlice is guaranteed to have the layout of iovec, and each borrows its memory.
    check(unsafe { libc::writev(fd, bufs.as_ptr().cast(), count(bufs.len())) })
}

fn count(len: usize) -> c_int {
    c_int::try_from(len).unwrap_or(c_int::MAX)
}

/// Turns the system's -1 into the error that it stands for.
fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The name of a network interface, as the kernel's requests want it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct IfName([u8; libc::IFNAMSIZ]);

impl IfName {
    /// `None` for a name that no interface can have: empty, longer than 15 bytes, or with a slash, colon or blank in it.
    pub(super) fn new(name: &str) -> Option<Self> {
        let unusable = |b: u8| b == b'/' || b == b':' || b.is_ascii_whitespace() || b == 0;
        if name.is_empty() || name == "." || name == ".." || name.bytes().any(unusable) {
            return None;
        }
        let mut bytes = [0; libc::IFNAMSIZ];
        bytes.get_mut(..name.len()).filter(|_| name.len() < libc::IFNAMSIZ)?.copy_from_slice(name.as_bytes());
        Some(Self(bytes))
    }

    /// The name as text.
    pub(super) fn to_text(self) -> String {
        String::from_utf8_lossy(&self.0).trim_end_matches('\0').to_owned()
    }

    /// A request about the interface, everything but its name zero.
    fn request(self) -> libc::ifreq {
        // SAFETY: ifreq consists of integers, arrays and unions of those; all zero is a valid value of each.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(self.0) {
            *to = from as libc::c_char;
        }
        request
    }
}

/// Makes the descriptor of /dev/net/tun the queue of the interface `name`, which is created if it does not exist. Answers the
/// interface's real name: the kernel replaces a `%d` by a number.
///
/// # Errors
/// What the system says.
pub(super) fn tun_attach(fd: BorrowedFd<'_>, name: IfName, flags: c_int) -> io::Result<IfName> {
    let mut request = name.request();
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    unsafe { ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, (&raw mut request).cast())? };
    Ok(IfName(request.ifr_name.map(|c| c as u8)))
}

/// Tells the kernel which unfinished frames it may hand us: a mask of `TUN_F_*`.
///
/// # Errors
/// `EINVAL` when the kernel does not know one of them.
pub(super) fn tun_set_offload(fd: BorrowedFd<'_>, mask: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    unsafe { ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD as _, mask as usize as *mut c_void) }
}

/// Sets the length of the header before each frame.
///
/// # Errors
/// What the system says.
pub(super) fn tun_set_header_len(fd: BorrowedFd<'_>, len: c_int) -> io::Result<()> {
    let mut len = len;
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    unsafe { ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, (&raw mut len).cast()) }
}

/// Flags of the interface that the descriptor is a queue of: `IFF_*`.
///
/// # Errors
/// What the system says.
pub(super) fn tun_flags(fd: BorrowedFd<'_>) -> io::Result<c_int> {
    let mut request = IfName([0; libc::IFNAMSIZ]).request();
    // SAFETY: TUNGETIFF writes one ifreq.
    unsafe { ioctl(fd.as_raw_fd(), libc::TUNGETIFF as _, (&raw mut request).cast())? };
    // SAFETY: TUNGETIFF fills in the flags.
    Ok(unsafe { request.ifr_ifru.ifru_flags }.into())
}

/// Has the program choose the queue for each frame of the interface.
///
/// # Errors
/// `EINVAL` for what is no program for sockets.
pub(super) fn tun_set_steering(fd: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut program = program.as_raw_fd();
    // SAFETY: TUNSETSTEERINGEBPF reads one int.
    unsafe { ioctl(fd.as_raw_fd(), libc::TUNSETSTEERINGEBPF as _, (&raw mut program).cast()) }
}

/// A request to the kernel about a descriptor.
///
/// # Safety
/// `argument` must be what `request` expects: a pointer to a live value of the right type, or a plain number.
unsafe fn ioctl(fd: RawFd, request: libc::Ioctl, argument: *mut c_void) -> io::Result<()> {
    // SAFETY: the caller answers for the argument.
    check(unsafe { libc::ioctl(fd, request, argument) } as isize).map(drop)
}

/// What the kernel's side of an interface is configured through. Any socket will do.
#[derive(Debug)]
pub(super) struct Control(OwnedFd);

impl Control {
    /// # Errors
    /// When the process has no descriptor left.
    pub(super) fn new() -> io::Result<Self> {
        socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map(Self)
    }

    /// The index of the interface; an error when there is none of that name.
    pub(super) fn index(&self, name: IfName) -> io::Result<c_int> {
        let request = self.request(libc::SIOCGIFINDEX as _, name.request())?;
        // SAFETY: SIOCGIFINDEX fills in the index.
        Ok(unsafe { request.ifr_ifru.ifru_ifindex })
    }

    pub(super) fn mtu(&self, name: IfName) -> io::Result<usize> {
        let request = self.request(libc::SIOCGIFMTU as _, name.request())?;
        // SAFETY: SIOCGIFMTU fills in the MTU.
        Ok(unsafe { request.ifr_ifru.ifru_mtu }.unsigned_abs() as usize)
    }

    pub(super) fn is_up(&self, name: IfName) -> io::Result<bool> {
        let request = self.request(libc::SIOCGIFFLAGS as _, name.request())?;
        // SAFETY: SIOCGIFFLAGS fills in the flags.
        Ok(libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags }) & libc::IFF_UP != 0)
    }

    /// What drives the interface, and where it is plugged in (`ethtool -i`): `veth` and nothing, `i40e` and `0000:3b:00.0`. Both are
    /// empty when the driver does not say.
    pub(super) fn driver(&self, name: IfName) -> io::Result<(String, String)> {
        /// ETHTOOL_GDRVINFO fills in texts of 32 bytes: driver, version, firmware version, bus, and more.
        const GET_DRIVER: u32 = 3;
        let info: [u8; 196] = self.ethtool(name, GET_DRIVER)?.unwrap_or([0; 196]);
        let text = |at: usize| {
            let text =
                info.get(at..at + 32).unwrap_or_default().split(|&c| c == 0).next().unwrap_or_default();
            String::from_utf8_lossy(text).into_owned()
        };
        Ok((text(4), text(100)))
    }

    /// How many receive and transmit queues the interface has (`ethtool -l`); one of each when the driver does not say.
    pub(super) fn queues(&self, name: IfName) -> io::Result<(u32, u32)> {
        /// ETHTOOL_GCHANNELS fills in words: four maxima, then receiving, sending, other and combined channels.
        const GET_CHANNELS: u32 = 0x3c;
        let channels: Option<[u8; 36]> = self.ethtool(name, GET_CHANNELS)?;
        let count = |at: usize| channels.map_or(0, |words| word(&words, at));
        Ok(((count(5) + count(8)).max(1), (count(6) + count(8)).max(1)))
    }

    /// Whether a feature of the interface is on, asked for by one of the old requests of ethtool.
    pub(super) fn has_feature(&self, name: IfName, request: u32) -> io::Result<bool> {
        Ok(self.ethtool::<8>(name, request)?.is_some_and(|words| word(&words, 1) != 0))
    }

    /// Whether frames of the interface are those of Ethernet.
    pub(super) fn is_ethernet(&self, name: IfName) -> io::Result<bool> {
        let request = self.request(libc::SIOCGIFHWADDR as _, name.request())?;
        // SAFETY: SIOCGIFHWADDR fills in the address.
        Ok(unsafe { request.ifr_ifru.ifru_hwaddr }.sa_family == libc::ARPHRD_ETHER)
    }

    /// The station address.
    pub(super) fn station(&self, name: IfName) -> io::Result<[u8; 6]> {
        let request = self.request(libc::SIOCGIFHWADDR as _, name.request())?;
        // SAFETY: SIOCGIFHWADDR fills in the address.
        let data = unsafe { request.ifr_ifru.ifru_hwaddr }.sa_data;
        Ok(std::array::from_fn(|i| data.get(i).map_or(0, |&byte| byte as u8)))
    }

    /// Gives the interface a station address.
    pub(super) fn set_station(&self, name: IfName, station: [u8; 6]) -> io::Result<()> {
        let mut request = self.request(libc::SIOCGIFHWADDR as _, name.request())?;
        // SAFETY: SIOCGIFHWADDR has filled in the address, and with it the kind of interface.
        let mut address = unsafe { request.ifr_ifru.ifru_hwaddr };
        address.sa_data.iter_mut().zip(station).for_each(|(to, from)| *to = from as libc::c_char);
        request.ifr_ifru.ifru_hwaddr = address;
        self.request(libc::SIOCSIFHWADDR as _, request).map(drop)
    }

    /// A request of ethtool: words, the first of which is the command. `None` when the driver knows nothing of it.
    fn ethtool<const N: usize>(&self, name: IfName, command: u32) -> io::Result<Option<[u8; N]>> {
        #[repr(C, align(4))]
        struct Words<const N: usize>([u8; N]);
        let mut words = Words([0; N]);
        words.0.iter_mut().zip(command.to_ne_bytes()).for_each(|(to, from)| *to = from);
        let mut request = name.request();
        request.ifr_ifru.ifru_data = (&raw mut words).cast();
        // The kernel writes into `words`, which live until after the call and are as long as the command says.
        match self.request(libc::SIOCETHTOOL as _, request) {
            Ok(_) => Ok(Some(words.0)),
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The name of the interface of that index, if there is one.
    pub(super) fn name(&self, index: c_int) -> io::Result<Option<IfName>> {
        let mut request = IfName([0; libc::IFNAMSIZ]).request();
        request.ifr_ifru.ifru_ifindex = index;
        match self.request(libc::SIOCGIFNAME as _, request) {
            Ok(named) => Ok(Some(IfName(named.ifr_name.map(|c| c as u8)))),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) fn set_mtu(&self, name: IfName, mtu: c_int) -> io::Result<()> {
        let mut request = name.request();
        request.ifr_ifru.ifru_mtu = mtu;
        self.request(libc::SIOCSIFMTU as _, request).map(drop)
    }

    pub(super) fn bring_up(&self, name: IfName) -> io::Result<()> {
        let mut request = self.request(libc::SIOCGIFFLAGS as _, name.request())?;
        // SAFETY: SIOCGIFFLAGS fills in the flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
        self.request(libc::SIOCSIFFLAGS as _, request).map(drop)
    }

    fn request(&self, what: libc::Ioctl, mut request: libc::ifreq) -> io::Result<libc::ifreq> {
        // SAFETY: all requests of this type read and write one ifreq.
        unsafe { ioctl(self.0.as_raw_fd(), what, (&raw mut request).cast())? };
        Ok(request)
    }
}

/// A packet socket that is bound to no interface and so receives nothing yet.
///
/// # Errors
/// `EPERM` without CAP_NET_RAW.
pub(super) fn packet_socket() -> io::Result<OwnedFd> {
    socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)
}

/// Binds a packet socket: from now on it receives every frame of the interface.
///
/// # Errors
/// What the system says.
pub(super) fn bind_packet(fd: BorrowedFd<'_>, index: c_int) -> io::Result<()> {
    // SAFETY: sockaddr_ll consists of integers and an array of them.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: pointer and length are those of a sockaddr_ll that lives until after the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) } as isize).map(drop)
}

/// Makes the interface receive frames for all stations, as long as the packet socket exists.
///
/// # Errors
/// What the system says.
pub(super) fn make_promiscuous(fd: BorrowedFd<'_>, index: c_int) -> io::Result<()> {
    let mode = libc::PACKET_MR_PROMISC as libc::c_ushort;
    let request = libc::packet_mreq { mr_ifindex: index, mr_type: mode, mr_alen: 0, mr_address: [0; 8] };
    set_option(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, request)
}

/// Sets a socket option.
///
/// # Errors
/// What the system says.
pub(super) fn set_option<T: Copy>(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads no more than `len` bytes, those of a value that lives until after the call.
    let set = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    check(set as isize).map(drop)
}

/// Takes the error that waits at a socket (SO_ERROR), 0 for none.
///
/// # Errors
/// What the system says.
pub(super) fn take_error(fd: BorrowedFd<'_>) -> io::Result<c_int> {
    option(fd, libc::SOL_SOCKET, libc::SO_ERROR, 0)
}

/// How many frames a packet socket had no room for since this was asked last.
///
/// # Errors
/// What the system says.
pub(super) fn packet_drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let none = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    option(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, none).map(|stats| stats.tp_drops)
}

/// The number of the group that a packet socket is in.
///
/// # Errors
/// What the system says.
pub(super) fn fanout_group(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // The kind of group is in the upper half.
    option(fd, libc::SOL_PACKET, libc::PACKET_FANOUT, 0_u32).map(|group| group & 0xffff)
}

/// Where the rings of an AF_XDP socket lie in what is mapped of it.
///
/// # Errors
/// What the system says.
pub(super) fn xdp_offsets(fd: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: the offsets consist of integers.
    option(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, unsafe { std::mem::zeroed() })
}

/// What an AF_XDP socket has lost.
///
/// # Errors
/// What the system says.
pub(super) fn xdp_statistics(fd: BorrowedFd<'_>) -> io::Result<libc::xdp_statistics> {
    // SAFETY: the statistics consist of integers.
    option(fd, libc::SOL_XDP, libc::XDP_STATISTICS, unsafe { std::mem::zeroed() })
}

/// An AF_XDP socket that is bound to nothing.
///
/// # Errors
/// `EPERM` without CAP_NET_RAW.
pub(super) fn xdp_socket() -> io::Result<OwnedFd> {
    socket(libc::AF_XDP, libc::SOCK_RAW, 0)
}

/// Binds an AF_XDP socket, which has its rings, to a queue of an interface; with the memory of another, bound socket if that is given.
///
/// # Errors
/// `EBUSY` when the queue has a socket, `EOPNOTSUPP` for flags that the driver cannot.
pub(super) fn bind_xdp(
    fd: BorrowedFd<'_>,
    (index, queue): (c_int, u32),
    flags: u16,
    shares: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: index as u32,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shares.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    // SAFETY: pointer and length are those of a value that lives until after the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) } as isize).map(drop)
}

/// Whether the driver reads and writes frames in the memory of an AF_XDP socket itself.
///
/// # Errors
/// What the system says.
pub(super) fn xdp_is_zero_copy(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = option(fd, libc::SOL_XDP, libc::XDP_OPTIONS, 0_u32)?;
    Ok(flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// Tells the kernel that there are frames in the transmit ring of an AF_XDP socket.
///
/// # Errors
/// `EAGAIN` when it wants to be told again, or what it says of the interface.
pub(super) fn wake_transmit(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: nothing is pointed to.
    let sent =
        unsafe { libc::sendto(fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
    check(sent).map(drop)
}

/// Tells the kernel that there is room in the fill ring of an AF_XDP socket.
///
/// # Errors
/// What the system says.
pub(super) fn wake_receive(fd: BorrowedFd<'_>) -> io::Result<()> {
    let none = std::ptr::null_mut();
    // SAFETY: nothing is pointed to.
    let got =
        unsafe { libc::recvfrom(fd.as_raw_fd(), none, 0, libc::MSG_DONTWAIT, none.cast(), none.cast()) };
    check(got).map(drop)
}

/// A socket option; `value` stands where the kernel writes less than all of it.
fn option<T: Copy>(fd: BorrowedFd<'_>, level: c_int, name: c_int, mut value: T) -> io::Result<T> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than `len` bytes, into a value that lives until after the call; the options that are asked
    // for consist of integers, so that any bytes are a value.
    let got = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) };
    check(got as isize).map(|_| value)
}

/// Sends packets of two parts each by one system call, at most 64; how many went.
///
/// # Errors
/// What the system says of the first, when none went.
pub(super) fn send_many(fd: BorrowedFd<'_>, packets: &[[IoSlice<'_>; 2]]) -> io::Result<usize> {
    let message = |parts: &[IoSlice<'_>; 2]| {
        // SAFETY: mmsghdr consists of integers and pointers; all zero is a valid value of each.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_iov = parts.as_ptr().cast_mut().cast();
        message.msg_hdr.msg_iovlen = parts.len() as _;
        message
    };
    let mut messages: ArrayVec<libc::mmsghdr, 64> = packets.iter().take(64).map(message).collect();
    // SAFETY: IoSlice is guaranteed to have the layout of iovec; the kernel reads the parts, which are borrowed, and writes lengths
    // into the messages, which live until after the call.
    check(unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), messages.len() as _, 0) } as isize)
}

/// The word at a place in an answer of ethtool.
fn word(words: &[u8], at: usize) -> u32 {
    words.get(4 * at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    check(fd as isize)?;
    // SAFETY: the descriptor was just made and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives the kernel's side of an interface an address, by rtnetlink: unlike the ioctl it takes any number of each family. An
/// IPv6 address is usable at once, without duplicate address detection.
///
/// # Errors
/// What the system says, `EEXIST` for an address that is already there excepted.
pub(super) fn add_address(index: c_int, addr: IpAddr, prefix: u8) -> io::Result<()> {
    let fd = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    write_vectored(fd.as_raw_fd(), &[IoSlice::new(&new_address(index, addr, prefix))])?;
    let mut answer = [0; 1024];
    let len = read_vectored(fd.as_raw_fd(), &mut [IoSliceMut::new(&mut answer)])?;
    // nlmsghdr, then the negated errno of nlmsgerr; 0 is the acknowledgement.
    let error =
        answer.get(16..20).filter(|_| len >= 20).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    match error.map(i32::wrapping_neg) {
        Some(0 | libc::EEXIST) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// An RTM_NEWADDR message: nlmsghdr, ifaddrmsg, and the address as local and as peer address.
fn new_address(index: c_int, addr: IpAddr, prefix: u8) -> Vec<u8> {
    let (family, bytes) = match addr {
        IpAddr::V4(a) => (libc::AF_INET, a.octets().to_vec()),
        IpAddr::V6(a) => (libc::AF_INET6, a.octets().to_vec()),
    };
    let mut message = Vec::with_capacity(64);
    message.extend([0; 4]); // the length, filled in below
    message.extend(libc::RTM_NEWADDR.to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE) as u16).to_ne_bytes());
    message.extend([0; 8]); // sequence number and sender
    message.extend([family as u8, prefix, libc::IFA_F_NODAD as u8, libc::RT_SCOPE_UNIVERSE]);
    message.extend(index.to_ne_bytes());
    for kind in [libc::IFA_LOCAL, libc::IFA_ADDRESS] {
        message.extend((4 + bytes.len() as u16).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(&bytes);
    }
    let len = (message.len() as u32).to_ne_bytes();
    message.iter_mut().zip(len).for_each(|(to, from)| *to = from);
    message
}

/// A mapping, unmapped when it is dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    memory: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes, readable and writable: of a descriptor from `offset` on, or new ones (`MAP_ANONYMOUS`, no descriptor).
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn new(
        len: usize,
        flags: libc::c_int,
        fd: libc::c_int,
        offset: libc::off_t,
    ) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping anywhere, which replaces none.
        let memory = unsafe {
            libc::mmap(std::ptr::null_mut(), len, protection, flags | libc::MAP_POPULATE, fd, offset)
        };
        match NonNull::new(memory.cast()).filter(|_| memory != libc::MAP_FAILED) {
            Some(memory) => Ok(Self { memory, len }),
            None => Err(io::Error::last_os_error()),
        }
    }

    /// Where it begins; aligned to a page.
    pub(super) fn memory(&self) -> NonNull<u8> {
        self.memory
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever points into it has it.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_can_have_are_refused() {
        assert!(IfName::new("fifteen-letters").is_some() && IfName::new("tap%d").is_some());
        for bad in ["", ".", "..", "a/b", "a b", "a:1", "sixteen-letters-", "nul\0"] {
            assert_eq!(IfName::new(bad), None, "{bad:?}");
        }
    }
}
