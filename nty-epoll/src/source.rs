//! The seam between an epoll and what it watches.
//!
//! A [`Pollable`] answers one question, its level, from atomics that its owner keeps. Its [`Source`] is the list of
//! registrations that want to hear of its edges, and a [`Waker`] is the one thread's end that announces them.
//!
//! The list changes under a mutex, rarely. The waker does not take it: it keeps a copy and a version, and copies
//! anew only when the version has moved. Announcing an edge therefore costs a fence, a load and, per registration, two
//! atomic operations.

use crate::events::Events;
use crate::registration::Registration;
use crate::set::Core;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Something that an [`Epoll`](crate::Epoll) can watch.
///
/// The contract: whoever changes the level does so first and announces the edge afterwards ([`Waker::wake`]). An epoll that
/// hears of an edge asks for the level later, possibly on another thread, and believes only the level.
pub trait Pollable: Send + Sync {
    /// The conditions that hold now. Must not block; is called often and should be a few loads.
    fn level(&self) -> Events;

    /// Who is to hear of changes.
    fn source(&self) -> &Source;
}

/// A handle to something pollable: a socket, an epoll, or an `Arc` of one's own [`Pollable`].
pub trait AsPollable {
    /// The pollable thing itself.
    fn as_pollable(&self) -> Arc<dyn Pollable>;
}

impl<P: Pollable + 'static> AsPollable for Arc<P> {
    fn as_pollable(&self) -> Arc<dyn Pollable> {
        self.clone()
    }
}

/// Locks without regard to a panic of another holder: nothing that is held under these locks can be left half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Who watches one pollable thing.
pub struct Source {
    id: u64,
    /// Moves with every change of the list; a closed source has none of either any more.
    version: AtomicU64,
    count: AtomicUsize,
    watchers: Mutex<Watchers>,
    /// Set when the thing is itself an epoll.
    pub(crate) epoll: Weak<Core>,
}

struct Watchers {
    closed: bool,
    /// As Linux's wait queues: those that share each edge, the latest first, then the `EXCLUSIVE` ones, the latest last.
    list: Vec<Arc<Registration>>,
}

impl Source {
    /// A source that nobody watches yet.
    pub fn new() -> Self {
        Self::of_epoll(Weak::new())
    }

    pub(crate) fn of_epoll(epoll: Weak<Core>) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            version: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            watchers: Mutex::new(Watchers { closed: false, list: Vec::new() }),
            epoll,
        }
    }

    /// A number that no other source of this process has or had.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Takes the thing out of every epoll, for good: nothing is reported any more and a later `add` is refused. Whoever
    /// owns the thing calls this when it is dropped.
    pub fn close(&self) {
        let list = {
            let mut watchers = lock(&self.watchers);
            watchers.closed = true;
            self.changed(0);
            std::mem::take(&mut watchers.list)
        };
        for registration in list {
            registration.core.forget(self.id);
        }
    }

    /// Announces an edge from any thread, under the lock. An owner that announces often has a [`Waker`].
    pub fn wake(&self, edge: Events) {
        fence(Ordering::SeqCst);
        if self.is_watched() {
            // A copy: what follows may come back here for an epoll in an epoll.
            let list = lock(&self.watchers).list.clone();
            announce(&list, edge);
        }
    }

    /// Adds a watcher; `false` when the source is closed.
    pub(crate) fn attach(&self, registration: &Arc<Registration>) -> bool {
        let mut watchers = lock(&self.watchers);
        if watchers.closed {
            return false;
        }
        let at = if registration.exclusive { watchers.list.len() } else { 0 };
        watchers.list.insert(at, registration.clone());
        self.changed(watchers.list.len());
        true
    }

    pub(crate) fn detach(&self, registration: &Arc<Registration>) {
        let mut watchers = lock(&self.watchers);
        watchers.list.retain(|r| !Arc::ptr_eq(r, registration));
        self.changed(watchers.list.len());
    }

    /// The epolls that watch, for the search for circles.
    pub(crate) fn watching_epolls(&self) -> Vec<Arc<Core>> {
        lock(&self.watchers).list.iter().map(|r| r.core.clone()).collect()
    }

    /// Whether anyone watches; a hint without an order of its own.
    pub(crate) fn is_watched(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    fn changed(&self, count: usize) {
        self.count.store(count, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Release);
    }
}

impl Default for Source {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let watchers = self.count.load(Ordering::Relaxed);
        f.debug_struct("Source").field("id", &self.id).field("watchers", &watchers).finish_non_exhaustive()
    }
}

/// The one place that announces the edges of one pollable thing, without a lock. Dereferences to the thing.
pub struct Waker<P> {
    target: Arc<P>,
    copy: Vec<Arc<Registration>>,
    version: u64,
}

impl<P: Pollable> Waker<P> {
    /// A waker for `target`.
    pub fn new(target: Arc<P>) -> Self {
        Self { target, copy: Vec::new(), version: 0 }
    }

    /// Announces that `edge` may have become true, after the level was changed. Nothing named means everything. Each
    /// call is an edge of its own, whether the level was different before or not.
    pub fn wake(&mut self, edge: Events) {
        // Pairs with the fence of whoever adds or modifies a registration: either the level is seen there, or the
        // new registration or mask is seen here.
        fence(Ordering::SeqCst);
        let source = self.target.source();
        if source.version.load(Ordering::Acquire) != self.version {
            let watchers = lock(&source.watchers);
            self.version = source.version.load(Ordering::Relaxed);
            self.copy.clone_from(&watchers.list);
        }
        announce(&self.copy, edge);
    }

    /// The thing itself.
    pub fn target(&self) -> &Arc<P> {
        &self.target
    }
}

impl<P> Deref for Waker<P> {
    type Target = P;
    fn deref(&self) -> &P {
        &self.target
    }
}

impl<P> fmt::Debug for Waker<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").field("watchers", &self.copy.len()).finish_non_exhaustive()
    }
}

/// Tells everyone in the list, but of the exclusive ones none behind the first whose sleeper was woken. What
/// concerns everybody (an error, a hang-up, an edge without a name) is told to everybody.
fn announce(list: &[Arc<Registration>], edge: Events) {
    let one_is_enough = edge.intersects(Events::IN | Events::OUT) && !edge.intersects(Events::ALWAYS);
    for registration in list {
        let woke = registration.edge(edge);
        if woke && registration.exclusive && one_is_enough {
            break;
        }
    }
}
