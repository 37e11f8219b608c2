//! An epoll of the kernel, for descriptors that are the kernel's.
#![allow(unsafe_code)] // System calls that the standard library does not offer.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// An epoll of the kernel, for descriptors that are the kernel's.
#[derive(Debug)]
pub(crate) struct KernelEpoll(OwnedFd);

impl KernelEpoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1 takes no pointer.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just handed us this descriptor; nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// `epoll_ctl(2)` with one of `EPOLL_CTL_*`.
    pub(crate) fn ctl(&self, op: libc::c_int, fd: RawFd, events: u32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: data };
        // SAFETY: `event` outlives the call.
        let rc = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), op, fd, &raw mut event) };
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// `epoll_wait(2)` that never blocks; hands each event to `each`. At most 64 at a time.
    pub(crate) fn poll(&self, max: usize, mut each: impl FnMut(u32, u64)) -> io::Result<usize> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        let max = max.min(events.len()) as libc::c_int;
        // SAFETY: the kernel writes at most `max` entries, and that many are there.
        let n = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), max, 0) };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        events.iter().take(n).for_each(|e| each(e.events, e.u64));
        Ok(n)
    }
}

impl AsRawFd for KernelEpoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
