//! The public face of an epoll.

use crate::events::{EpollError, Event, Events};
use crate::kernel::KernelEpoll;
use crate::set::{Core, os_error};
use crate::source::{AsPollable, Pollable, lock};
use ntytcp::doorbell::Doorbell;
use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Epolls in a chain may have this many links between them, as on Linux.
const MAX_NESTING: usize = 4;

/// Held while an epoll is added to an epoll, so that two such calls cannot close a circle together.
static NESTING: Mutex<()> = Mutex::new(());

/// A set of sources and the wait for any of them, as Linux's `epoll(7)`.
///
/// May be shared between threads: any number may wait, others add, modify and delete meanwhile. See the
/// [crate documentation](crate) for what is reported when.
///
/// Dropping it ends every registration. Dropping a source ends its registrations, without a call here.
pub struct Epoll {
    core: Arc<Core>,
}

impl Epoll {
    /// An epoll that watches nothing. Takes one descriptor (the doorbell).
    ///
    /// # Errors
    /// [`EpollError::Os`] when the process has no descriptor left.
    pub fn new() -> Result<Self, EpollError> {
        Ok(Self { core: Core::new().map_err(os_error)? })
    }

    /// Watches `target` for `events` (`EPOLL_CTL_ADD`); reports carry `data`. What holds already is reported by the
    /// next wait.
    ///
    /// # Errors
    /// [`EpollError::Exists`], [`EpollError::Closed`], [`EpollError::NoSpace`]; [`EpollError::Invalid`] for bits that no
    /// name stands for, [`Events::EXCLUSIVE`] beside anything but IN, OUT, ERR, HUP and ET or with an epoll as the
    /// target, and for the epoll itself; [`EpollError::Loop`] when epolls would watch each other in a circle or more
    /// than five deep.
    pub fn add(&self, target: &impl AsPollable, events: Events, data: u64) -> Result<(), EpollError> {
        let target = target.as_pollable();
        let exclusive = events.contains(Events::EXCLUSIVE);
        if !events.difference(Events::all()).is_empty()
            || (exclusive && !Events::WITH_EXCLUSIVE.contains(events))
        {
            return Err(EpollError::Invalid);
        }
        let Some(inner) = target.source().epoll.upgrade() else { return self.core.add(target, events, data) };
        if exclusive || Arc::ptr_eq(&inner, &self.core) {
            return Err(EpollError::Invalid);
        }
        let _nesting = lock(&NESTING);
        if lock(&inner.control).has_descriptors {
            return Err(EpollError::Invalid);
        }
        self.check_nesting(&inner)?;
        self.core.add(target, events, data)
    }

    /// Changes what is asked for and the user data (`EPOLL_CTL_MOD`); arms a ONESHOT again. What holds already is reported
    /// by the next wait, also to an edge-triggered registration.
    ///
    /// # Errors
    /// [`EpollError::NotFound`]; [`EpollError::Invalid`] with [`Events::EXCLUSIVE`], for a registration that was
    /// added with it, and for bits that no name stands for.
    pub fn modify(&self, target: &impl AsPollable, events: Events, data: u64) -> Result<(), EpollError> {
        if !events.difference(Events::all()).is_empty() || events.contains(Events::EXCLUSIVE) {
            return Err(EpollError::Invalid);
        }
        self.core.modify(target.as_pollable().source().id(), events, data)
    }

    /// Stops watching `target` (`EPOLL_CTL_DEL`). A wait that begins after this call reports nothing of it.
    ///
    /// # Errors
    /// [`EpollError::NotFound`].
    pub fn delete(&self, target: &impl AsPollable) -> Result<(), EpollError> {
        self.core.delete(target.as_pollable().source().id())
    }

    /// Watches a descriptor of the kernel beside the sources of this crate. The kernel's own epoll does the work, with all
    /// its modes, and `wait` costs one system call more from then on. The caller keeps the descriptor open.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`; [`EpollError::Invalid`] when this epoll is inside another.
    pub fn add_fd(&self, fd: RawFd, events: Events, data: u64) -> Result<(), EpollError> {
        let _nesting = lock(&NESTING);
        if !self.core.source().watching_epolls().is_empty() {
            return Err(EpollError::Invalid);
        }
        let kernel = match self.core.kernel.get() {
            Some(kernel) => kernel,
            None => {
                let kernel = KernelEpoll::new().map_err(os_error)?;
                self.core.kernel.get_or_init(|| kernel)
            }
        };
        kernel.ctl(libc::EPOLL_CTL_ADD, fd, events.bits(), data).map_err(os_error)?;
        lock(&self.core.control).has_descriptors = true;
        // Whoever sleeps does so without this descriptor: he is to begin anew.
        self.core.bell.ring();
        Ok(())
    }

    /// [`Epoll::modify`] for a descriptor of the kernel.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn modify_fd(&self, fd: RawFd, events: Events, data: u64) -> Result<(), EpollError> {
        self.kernel()?.ctl(libc::EPOLL_CTL_MOD, fd, events.bits(), data).map_err(os_error)
    }

    /// [`Epoll::delete`] for a descriptor of the kernel.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn delete_fd(&self, fd: RawFd) -> Result<(), EpollError> {
        self.kernel()?.ctl(libc::EPOLL_CTL_DEL, fd, 0, 0).map_err(os_error)
    }

    /// Waits as `epoll_wait(2)`: `timeout_ms` milliseconds, not at all for 0, for ever for -1 (or less). Returns how many
    /// entries of `events` were filled; 0 when the time was over.
    ///
    /// Only another thread can end the wait. Whoever owns a shard waits through its runtime instead, which moves packets
    /// meanwhile.
    ///
    /// # Errors
    /// [`EpollError::Invalid`] when `events` is empty, [`EpollError::Interrupted`] by a signal.
    pub fn wait(&self, events: &mut [Event], timeout_ms: i32) -> Result<usize, EpollError> {
        self.wait_for(events, u64::try_from(timeout_ms).ok().map(Duration::from_millis))
    }

    /// [`Epoll::wait`] to the nanosecond, as `epoll_pwait2(2)`; `None` is for ever.
    ///
    /// # Errors
    /// As [`Epoll::wait`].
    pub fn wait_for(&self, events: &mut [Event], timeout: Option<Duration>) -> Result<usize, EpollError> {
        let mut n = self.poll(events)?;
        if n > 0 || timeout == Some(Duration::ZERO) {
            return Ok(n);
        }
        let start = Instant::now();
        loop {
            let left = timeout.map(|t| t.saturating_sub(start.elapsed()));
            if left == Some(Duration::ZERO) {
                return Ok(0);
            }
            let kernel = self.core.kernel.get().map(AsRawFd::as_raw_fd);
            let changed = || self.core.has_work() || self.core.kernel.get().is_some() != kernel.is_some();
            self.core.bell.sleep(changed, kernel.as_slice(), left).map_err(os_error)?;
            n = self.poll(events)?;
            if n > 0 {
                return Ok(n);
            }
        }
    }

    /// Reports what holds now, without waiting: `wait` with a timeout of 0, and no system call unless there are
    /// descriptors of the kernel. A source whose edge another thread is announcing at this very moment may be left to
    /// the next call; a wait that sleeps is woken for it.
    ///
    /// # Errors
    /// [`EpollError::Invalid`] when `events` is empty.
    pub fn poll(&self, events: &mut [Event]) -> Result<usize, EpollError> {
        if events.is_empty() {
            return Err(EpollError::Invalid);
        }
        self.core.poll(events)
    }

    /// As [`Epoll::poll`], for a loop that calls again until there is something and sleeps on [`Epoll::descriptors`] meanwhile: seldom
    /// asks the kernel.
    pub(crate) fn poll_often(&self, events: &mut [Event]) -> Result<usize, EpollError> {
        if events.is_empty() {
            return Err(EpollError::Invalid);
        }
        self.core.poll_often(events)
    }

    /// What a sleep on behalf of this epoll must watch: the doorbell, and the kernel's descriptors if there are any.
    pub(crate) fn descriptors(&self) -> (RawFd, Option<RawFd>) {
        (self.core.bell.as_raw_fd(), self.core.kernel.get().map(AsRawFd::as_raw_fd))
    }

    pub(crate) fn bell(&self) -> &Doorbell {
        &self.core.bell
    }

    /// Whether a poll might report something, those of the kernel not counted.
    pub(crate) fn has_work(&self) -> bool {
        self.core.has_work()
    }

    fn kernel(&self) -> Result<&KernelEpoll, EpollError> {
        self.core.kernel.get().ok_or(EpollError::NotFound)
    }

    /// Refuses a circle and a chain that is too long.
    fn check_nesting(&self, inner: &Arc<Core>) -> Result<(), EpollError> {
        let below = Chain { forbidden: Some(&self.core), step: Core::watched_epolls };
        let above = Chain { forbidden: None, step: |core| core.source().watching_epolls() };
        let links = |chain: Chain<'_>, from| chain.longest(from, 0, &mut HashMap::new());
        match (links(below, inner), links(above, &self.core)) {
            (Some(below), Some(above)) if below + 1 + above <= MAX_NESTING => Ok(()),
            _ => Err(EpollError::Loop),
        }
    }
}

/// A walk along the nesting of epolls in one direction.
struct Chain<'a> {
    forbidden: Option<&'a Arc<Core>>,
    step: fn(&Core) -> Vec<Arc<Core>>,
}

impl Chain<'_> {
    /// Links of the longest chain from `core`; `None` when it meets the forbidden epoll or is too long anyway.
    fn longest(&self, core: &Arc<Core>, depth: usize, known: &mut HashMap<u64, usize>) -> Option<usize> {
        if depth > MAX_NESTING || self.forbidden.is_some_and(|f| Arc::ptr_eq(f, core)) {
            return None;
        }
        let id = core.source().id();
        if let Some(&links) = known.get(&id) {
            return Some(links);
        }
        let mut links = 0;
        for next in (self.step)(core) {
            links = links.max(1 + self.longest(&next, depth + 1, known)?);
        }
        known.insert(id, links);
        Some(links)
    }
}

impl AsPollable for Epoll {
    fn as_pollable(&self) -> Arc<dyn Pollable> {
        self.core.clone()
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl fmt::Debug for Epoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let registrations = lock(&self.core.control).interests.len();
        f.debug_struct("Epoll").field("registrations", &registrations).finish_non_exhaustive()
    }
}
