//! Who is asleep: the flags that let a producer skip the system call when nobody has to be woken.
//!
//! Two stores and two loads on different variables, Dekker's way, with a sequentially consistent fence between store
//! and load on both sides:
//!
//! ```text
//!   producer: publish work ; fence ; parked != 0 ? -> rung was false ? -> write the eventfd
//!   sleeper:  parked += 1  ; fence ; work there  ? -> do not sleep
//! ```
//!
//! Either the producer sees the sleeper or the sleeper sees the work. `rung` keeps a burst of producers from writing the
//! eventfd more than once per sleep. The sleeper clears it only after it has drained the eventfd and before it looks
//! for work again, so whoever found it set has its work seen by that look.

#[cfg(all(test, loom))]
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
#[cfg(not(all(test, loom)))]
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

/// The two flags. See the module documentation.
#[derive(Debug)]
pub(crate) struct Parking {
    parked: AtomicU32,
    rung: AtomicBool,
}

impl Parking {
    pub(crate) fn new() -> Self {
        Self { parked: AtomicU32::new(0), rung: AtomicBool::new(false) }
    }

    /// For a producer, after it published its work: whether the bell must be rung, which it then must do.
    pub(crate) fn must_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.parked.load(Ordering::Relaxed) != 0 && !self.rung.swap(true, Ordering::AcqRel)
    }

    /// For a sleeper: from here on producers ring. It looks for work once more before it really sleeps.
    pub(crate) fn announce(&self) {
        self.parked.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The sleeper is awake, or never slept. It looks for work after this.
    pub(crate) fn leave(&self) {
        self.parked.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the bell has been rung, or is about to be.
    pub(crate) fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Relaxed)
    }

    /// The bell was heard and silenced. The sleeper looks for work after this.
    pub(crate) fn heard(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }
}

#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// `work` counts what was published. `bell` is the eventfd, whose operations the kernel puts in one order: here they are
    /// all read-modify-write.
    struct Model {
        parking: Parking,
        work: AtomicU32,
        bell: AtomicU32,
    }

    impl Model {
        fn produce(&self) {
            self.work.fetch_add(1, Ordering::Relaxed);
            if self.parking.must_ring() {
                self.bell.fetch_add(1, Ordering::AcqRel);
            }
        }

        /// One attempt to sleep: `true` when it would now block in the kernel having seen `seen` pieces of work.
        fn try_sleep(&self, seen: u32) -> bool {
            self.parking.announce();
            self.work.load(Ordering::Relaxed) == seen && !self.is_rung()
        }

        fn is_rung(&self) -> bool {
            self.bell.fetch_add(0, Ordering::AcqRel) > 0
        }

        fn wake(&self) {
            self.parking.leave();
            if self.bell.swap(0, Ordering::AcqRel) > 0 {
                self.parking.heard();
            }
        }
    }

    #[test]
    fn whoever_sleeps_with_work_undone_will_hear_the_bell() {
        let mut explore = loom::model::Builder::new();
        // Three switches at any place are more than any of the known mistakes needs, and all of them take hours.
        explore.preemption_bound = Some(3);
        explore.check(|| {
            let model = Model { parking: Parking::new(), work: AtomicU32::new(0), bell: AtomicU32::new(0) };
            let model = Arc::new(model);
            let producers: Vec<_> = (0..2)
                .map(|_| {
                    let model = model.clone();
                    thread::spawn(move || model.produce())
                })
                .collect();
            // Two rounds: the second starts with whatever the first left in the flags.
            let mut asleep = model.try_sleep(0);
            let mut seen = 0;
            if !asleep {
                model.wake();
                seen = model.work.load(Ordering::Relaxed);
                asleep = model.try_sleep(seen);
            }
            producers.into_iter().for_each(|p| p.join().unwrap());
            let undone = model.work.load(Ordering::SeqCst) != seen;
            assert!(!(asleep && undone) || model.is_rung());
        });
    }
}
