//! The inside of an epoll, shared by its handle, its registrations and whoever wakes it.
//!
//! ```text
//!   shard: level changes -> Waker -> registration.queued? -> ready ring -> doorbell (if parked)
//!                                                                |
//!   app:   wait -> pop -> queued = false -> level & mask -> report -> level-triggered: push at the tail
//! ```

use crate::events::{EpollError, Event, Events};
use crate::kernel::KernelEpoll;
use crate::ready::ReadyRing;
use crate::registration::Registration;
use crate::source::{Pollable, Source, lock};
use ntytcp::doorbell::Doorbell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock};

/// Deleted registrations that may linger in the ring beyond as many as there are live ones.
const TOLERATED_DEAD: usize = 64;
/// How often [`Core::poll_often`] looks at the kernel's descriptors. A request and its answer take two or three calls, a spin some
/// two a microsecond.
const KERNEL_TURN: u64 = 16;
/// Slots for deleted registrations that a waker claimed before a purge and pushes after it: one per thread at most.
const LATE: usize = 32;

/// See the module documentation.
pub(crate) struct Core {
    ring: ReadyRing<Arc<Registration>>,
    pub(crate) bell: Doorbell,
    pub(crate) control: Mutex<Control>,
    /// Who watches this epoll: other epolls.
    source: Source,
    closed: AtomicBool,
    waits: AtomicU64,
    pub(crate) kernel: OnceLock<KernelEpoll>,
}

/// What `add`, `modify` and `delete` change, under one lock.
#[derive(Default)]
pub(crate) struct Control {
    /// By the number of the source.
    pub(crate) interests: HashMap<u64, Arc<Registration>>,
    /// How many of the ring's entries are deleted, at most.
    dead: usize,
    /// Descriptors of the kernel are registered too.
    pub(crate) has_descriptors: bool,
}

impl Core {
    pub(crate) fn new() -> std::io::Result<Arc<Self>> {
        let bell = Doorbell::new()?;
        Ok(Arc::new_cyclic(|this| Self {
            ring: ReadyRing::new(),
            bell,
            control: Mutex::default(),
            source: Source::of_epoll(this.clone()),
            closed: AtomicBool::new(false),
            waits: AtomicU64::new(0),
            kernel: OnceLock::new(),
        }))
    }

    /// Registers, and reports what holds already.
    pub(crate) fn add(
        self: &Arc<Self>,
        target: Arc<dyn Pollable>,
        events: Events,
        data: u64,
    ) -> Result<(), EpollError> {
        let id = target.source().id();
        let mut control = lock(&self.control);
        if control.interests.contains_key(&id) {
            return Err(EpollError::Exists);
        }
        if !self.ring.reserve(control.interests.len() + control.dead + 1 + LATE) {
            return Err(EpollError::NoSpace);
        }
        let registration = Arc::new(Registration::new(self.clone(), target, events, data));
        if !registration.target.source().attach(&registration) {
            return Err(EpollError::Closed);
        }
        control.interests.insert(id, registration.clone());
        self.evaluate(&registration);
        Ok(())
    }

    pub(crate) fn modify(&self, id: u64, events: Events, data: u64) -> Result<(), EpollError> {
        let control = lock(&self.control);
        let registration = control.interests.get(&id).ok_or(EpollError::NotFound)?;
        if registration.exclusive {
            return Err(EpollError::Invalid);
        }
        registration.rearm(events, data);
        self.evaluate(registration);
        Ok(())
    }

    pub(crate) fn delete(&self, id: u64) -> Result<(), EpollError> {
        let registration = self.forget(id).ok_or(EpollError::NotFound)?;
        registration.target.source().detach(&registration);
        Ok(())
    }

    /// Deletes the registration here; its source has forgotten it or is about to.
    pub(crate) fn forget(&self, id: u64) -> Option<Arc<Registration>> {
        let mut control = lock(&self.control);
        let registration = control.interests.remove(&id)?;
        if registration.kill() {
            control.dead += 1;
        }
        if control.dead > control.interests.len() + TOLERATED_DEAD {
            self.purge();
            control.dead = 0;
        }
        Some(registration)
    }

    /// Queues a new or modified registration if its level is right. The fence pairs with that of [`Waker::wake`].
    ///
    /// [`Waker::wake`]: crate::Waker::wake
    fn evaluate(&self, registration: &Arc<Registration>) {
        fence(Ordering::SeqCst);
        if registration.is_ready() && registration.requeue() {
            self.push(registration.clone());
        }
    }

    /// Takes the deleted out of the ring; the others keep their order.
    fn purge(&self) {
        for _ in 0..self.ring.len() {
            match self.ring.pop() {
                Some(registration) if registration.is_dead() => {}
                Some(registration) => self.ring.push(registration),
                None => break,
            }
        }
        self.wake_another();
    }

    /// Puts a registration, whose `queued` the caller has just set, into the ring. `true` when that woke a sleeper.
    pub(crate) fn push(&self, registration: Arc<Registration>) -> bool {
        self.ring.push(registration);
        let woke = self.bell.ring();
        // Behind the fence in `ring`: either this sees that the epoll is closed, or `close` sees the entry.
        if self.closed.load(Ordering::Relaxed) {
            while self.ring.pop().is_some() {}
        }
        self.tell_outer();
        woke
    }

    /// An edge for the epolls that watch this one, if there are any. One that is being added just now looks at the ring
    /// by itself, so no fence is needed.
    pub(crate) fn tell_outer(&self) {
        if self.source.is_watched() {
            self.source.wake(Events::IN);
        }
    }

    /// Wakes one more sleeper if there is more to report.
    fn wake_another(&self) {
        if !self.ring.is_empty() {
            self.bell.ring();
        }
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.ring.is_empty()
    }

    /// As [`Core::poll`], for who calls again as long as there is nothing: the kernel's descriptors, which cost a system call, are
    /// looked at every [`KERNEL_TURN`] calls. Who sleeps in between sleeps on them too.
    pub(crate) fn poll_often(&self, out: &mut [Event]) -> Result<usize, EpollError> {
        let wait = self.waits.load(Ordering::Relaxed) + 1;
        if self.kernel.get().is_none() || wait.is_multiple_of(KERNEL_TURN) {
            return self.poll(out);
        }
        let wait = self.waits.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(self.collect(wait, out))
    }

    /// Reports what holds now, without waiting.
    pub(crate) fn poll(&self, out: &mut [Event]) -> Result<usize, EpollError> {
        let wait = self.waits.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(kernel) = self.kernel.get() else { return Ok(self.collect(wait, out)) };
        // Whoever comes first may fill the buffer, so they take turns, also where only every so manieth call comes here.
        let kernel_first = (wait / KERNEL_TURN + wait).is_multiple_of(2);
        let mut n = if kernel_first { 0 } else { self.collect(wait, out) };
        let room = out.get_mut(n..).unwrap_or_default();
        if !room.is_empty() {
            let mut slots = room.iter_mut();
            let count = kernel.poll(slots.len(), |events, data| {
                if let Some(slot) = slots.next() {
                    *slot = Event { events: Events::from_bits_truncate(events), data };
                }
            });
            n += count.map_err(os_error)?;
        }
        if kernel_first {
            n += self.collect(wait, out.get_mut(n..).unwrap_or_default());
        }
        Ok(n)
    }

    /// Reports from the ring, each registration at most once, those that came first before the others.
    fn collect(&self, wait: u64, out: &mut [Event]) -> usize {
        // What is queued from now on, level-triggered ones again included, is behind these.
        let mut budget = self.ring.len();
        if budget == 0 {
            return 0;
        }
        let mut n = 0;
        for slot in out {
            let Some(event) = self.next(wait, &mut budget) else { break };
            *slot = event;
            n += 1;
        }
        self.wake_another();
        n
    }

    fn next(&self, wait: u64, budget: &mut usize) -> Option<Event> {
        while *budget > 0 {
            *budget -= 1;
            let registration = self.ring.pop()?;
            if registration.was_reported_in(wait) {
                // Another waiter takes entries too, and we have come around.
                self.ring.put_back(registration);
                return None;
            }
            if !registration.unqueue() {
                continue;
            }
            let Some((event, again)) = registration.look() else { continue };
            registration.set_reported_in(wait);
            if again && registration.requeue() {
                self.ring.push(registration);
            }
            return Some(event);
        }
        None
    }

    /// The handle is gone: breaks the circles of references and leaves every source and every outer epoll.
    pub(crate) fn close(&self) {
        self.source.close();
        let interests = std::mem::take(&mut lock(&self.control).interests);
        for registration in interests.into_values() {
            registration.kill();
            registration.target.source().detach(&registration);
        }
        self.closed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while self.ring.pop().is_some() {}
    }

    /// The epolls that this one watches.
    pub(crate) fn watched_epolls(&self) -> Vec<Arc<Self>> {
        let control = lock(&self.control);
        control.interests.values().filter_map(|r| r.target.source().epoll.upgrade()).collect()
    }
}

/// An epoll is readable when a wait on it would report something.
impl Pollable for Core {
    fn level(&self) -> Events {
        for _ in 0..self.ring.len() {
            let Some(registration) = self.ring.pop() else { break };
            if !registration.unqueue() || !registration.is_ready() {
                continue;
            }
            if registration.requeue() {
                self.ring.put_back(registration);
            }
            self.bell.ring();
            return Events::IN;
        }
        Events::empty()
    }

    fn source(&self) -> &Source {
        &self.source
    }
}

pub(crate) fn os_error(error: std::io::Error) -> EpollError {
    match error.raw_os_error() {
        Some(libc::EINTR) => EpollError::Interrupted,
        Some(libc::EEXIST) => EpollError::Exists,
        Some(libc::ENOENT) => EpollError::NotFound,
        Some(libc::EINVAL) => EpollError::Invalid,
        Some(libc::EBADF) => EpollError::Closed,
        Some(libc::ENOSPC) => EpollError::NoSpace,
        code => EpollError::Os(code.unwrap_or(libc::EIO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{AsPollable, Waker};

    struct Always(Source);

    impl Pollable for Always {
        fn level(&self) -> Events {
            Events::IN | Events::HUP
        }

        fn source(&self) -> &Source {
            &self.0
        }
    }

    /// Three epolls on one source that is not queued anywhere, the last two with a sleeper.
    fn herd(mode: Events) -> (Vec<Arc<Core>>, Waker<Always>) {
        let source = Arc::new(Always(Source::new()));
        let epolls: Vec<_> = (0..3).map(|_| Core::new().unwrap()).collect();
        for epoll in &epolls {
            epoll.add(source.as_pollable(), Events::IN | Events::ET | mode, 0).unwrap();
            assert_eq!(epoll.poll(&mut [Event::default()]), Ok(1));
        }
        epolls.iter().skip(1).for_each(|e| e.bell.announce());
        (epolls, Waker::new(source))
    }

    fn queued(epolls: &[Arc<Core>]) -> Vec<bool> {
        epolls.iter().map(|e| e.has_work()).collect()
    }

    #[test]
    fn an_edge_reaches_everyone_but_of_the_exclusive_only_those_up_to_the_first_sleeper() {
        let (epolls, mut waker) = herd(Events::empty());
        waker.wake(Events::IN);
        assert_eq!(queued(&epolls), [true, true, true]);

        let (epolls, mut waker) = herd(Events::EXCLUSIVE);
        waker.wake(Events::IN);
        assert_eq!(queued(&epolls), [true, true, false]);
        // The second sleeper is the next one's.
        waker.wake(Events::IN);
        assert_eq!(queued(&epolls), [true, true, true]);
    }

    #[test]
    fn a_hang_up_reaches_every_exclusive_waiter() {
        let (epolls, mut waker) = herd(Events::EXCLUSIVE);
        waker.wake(Events::IN | Events::HUP);
        assert_eq!(queued(&epolls), [true, true, true]);
    }
}
