//! What wakes a thread that sleeps in `ppoll`, at the price of a fence and a load while nobody sleeps.
#![allow(unsafe_code)] // System calls that the standard library does not offer.

mod parking;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use parking::Parking;

/// An eventfd that is written only for a sleeper. A ring that meets nobody asleep leaves no trace: who is about to sleep looks for work
/// after [`Doorbell::announce`], and finds it.
#[derive(Debug)]
pub struct Doorbell {
    parking: Parking,
    fd: OwnedFd,
}

impl Doorbell {
    /// Takes one eventfd.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointer.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just handed us this descriptor; nobody else owns it.
        Ok(Self { parking: Parking::new(), fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Wakes whoever sleeps. Called after the work was published; `true` when this very call woke someone.
    pub fn ring(&self) -> bool {
        let must = self.parking.must_ring();
        if must {
            let one = 1u64;
            // SAFETY: the pointer covers the eight bytes of `one`. The only failure is EAGAIN of a counter at its
            // maximum, and a counter that is not zero is all that matters.
            unsafe { libc::write(self.fd.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
        }
        must
    }

    /// Sleeps until the bell rings, one of `others` polls readable or `timeout` (`None`: for ever) is over, unless
    /// `has_work` answers true once the bell is armed. The caller looks for work again afterwards in any case.
    ///
    /// # Errors
    /// What `ppoll` says, a signal's [`io::ErrorKind::Interrupted`] among it.
    pub fn sleep(
        &self,
        has_work: impl FnOnce() -> bool,
        others: &[RawFd],
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        self.announce();
        let slept = if has_work() { Ok(()) } else { poll_readable(self.as_raw_fd(), others, timeout) };
        self.leave();
        slept
    }

    /// Arms the bell for a sleep that someone else arranges on [`Doorbell::as_raw_fd`]. The caller looks for work
    /// once more, sleeps if there is none, and calls [`Doorbell::leave`] in any case.
    pub fn announce(&self) {
        self.parking.announce();
    }

    /// Ends what [`Doorbell::announce`] began.
    pub fn leave(&self) {
        self.parking.leave();
        if !self.parking.is_rung() {
            return;
        }
        // Between the ringer's two steps there is nothing to read yet: then the next sleep is a short one.
        let mut count = 0u64;
        // SAFETY: the pointer covers the eight bytes of `count`; the descriptor does not block.
        let n = unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
        if n > 0 {
            self.parking.heard();
        }
    }
}

impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Waits until one of the descriptors is readable.
fn poll_readable(first: RawFd, others: &[RawFd], timeout: Option<Duration>) -> io::Result<()> {
    let entry = |&fd: &RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut fds: Vec<_> = std::iter::once(&first).chain(others).map(entry).collect();
    let limit = timeout.map(|t| libc::timespec {
        tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(t.subsec_nanos().cast_signed()),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `fds` is an array of that many entries, `limit` null or a timespec; both outlive the call.
    let n = unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, limit, std::ptr::null()) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_only_for_a_sleeper_and_only_once_per_sleep() {
        let bell = Doorbell::new().unwrap();
        assert!(!bell.ring());
        bell.announce();
        assert!(bell.ring());
        assert!(!bell.ring());
        bell.leave();
        assert!(!bell.ring());
        bell.announce();
        assert!(bell.ring());
        bell.leave();
    }

    #[test]
    fn a_rung_bell_ends_the_sleep_at_once_and_is_silent_afterwards() {
        let bell = Doorbell::new().unwrap();
        let rang = |limit| {
            let start = std::time::Instant::now();
            bell.sleep(|| false, &[], Some(limit)).unwrap();
            start.elapsed() < limit
        };
        bell.sleep(|| bell.ring(), &[], None).unwrap();
        assert!(!rang(Duration::from_millis(2)), "the bell was not silenced");
        std::thread::scope(|s| {
            s.spawn(|| while !bell.ring() {});
            bell.sleep(|| false, &[], None).unwrap();
        });
    }
}
