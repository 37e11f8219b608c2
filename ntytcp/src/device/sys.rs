//! Safe wrappers over the few system calls that devices and the shard need: sleeping on descriptors, a doorbell to end that
//! sleep, scattered reads and writes, and the requests that configure a network interface.
//!
//! Nothing here is called per packet but [`read_vectored`] and [`write_vectored`].
#![allow(unsafe_code)] // System calls; this module and the kernel-backed devices are the only ones of the crate that make any.

use std::ffi::{c_int, c_void};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

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

/// Ends the sleep of a thread in [`poll`]: any thread rings, the sleeper has [`Doorbell::fd`] among its descriptors and
/// drains it when it wakes. Rings that nobody has drained count as one.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// A doorbell that has not been rung.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        check(fd as isize)?;
        // SAFETY: the descriptor was just made and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Rings. One system call; never blocks.
    pub fn ring(&self) {
        // The only possible failure is a counter at its limit, which means that the bell is ringing already.
        let _ = write_vectored(self.fd(), &[IoSlice::new(&1_u64.to_ne_bytes())]);
    }

    /// Makes the doorbell silent again; whether it had been rung.
    pub fn drain(&self) -> bool {
        let mut count = [0; 8];
        read_vectored(self.fd(), &mut [IoSliceMut::new(&mut count)]).is_ok()
    }

    /// The descriptor to sleep on; readable while the bell rings.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doorbell_wakes_a_sleeper_until_it_is_drained() {
        let bell = Doorbell::new().unwrap();
        let mut fds = [PollFd::readable(bell.fd())];
        assert_eq!(poll(&mut fds, Some(Duration::from_nanos(1))).unwrap(), 0);
        assert!(!fds[0].is_ready() && !bell.drain());
        std::thread::scope(|s| {
            s.spawn(|| {
                bell.ring();
                bell.ring();
            });
            assert_eq!(poll(&mut fds, None).unwrap(), 1);
        });
        assert!(fds[0].is_ready() && bell.drain() && !bell.drain());
        assert_eq!(poll(&mut fds, Some(Duration::ZERO)).unwrap(), 0);
    }

    #[test]
    fn names_that_no_interface_can_have_are_refused() {
        assert!(IfName::new("fifteen-letters").is_some() && IfName::new("tap%d").is_some());
        for bad in ["", ".", "..", "a/b", "a b", "a:1", "sixteen-letters-", "nul\0"] {
            assert_eq!(IfName::new(bad), None, "{bad:?}");
        }
    }
}
