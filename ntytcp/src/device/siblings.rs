//! What the queues of one device know of each other: whether the kernel still sends each flow to its home.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// One for each queue, dropped before its queue is closed: the kernel then renumbers those that are left, so any flow may move.
#[derive(Debug)]
pub(super) struct Sibling(Arc<AtomicBool>);

impl Sibling {
    /// One for each of `count` queues, whose frames the kernel steers or does not. A queue that is alone has every flow.
    pub(super) fn family(count: usize, steered: bool) -> impl Iterator<Item = Self> {
        let steered = Arc::new(AtomicBool::new(steered || count == 1));
        std::iter::repeat_n(steered, count).map(Self)
    }

    /// Whether every flow arrives at its home.
    pub(super) fn is_steered(&self) -> bool {
        self.0.load(Relaxed)
    }
}

impl Drop for Sibling {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}
