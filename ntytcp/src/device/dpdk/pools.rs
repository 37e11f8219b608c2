//! Pools of buffers. DPDK's live as long as the process, so devices that come and go take turns with them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use dpdk_sys::{DpdkError, Eal, Mempool};

/// The longest frame that fits a buffer at all, whose length is counted in 16 bits, headroom included.
pub(super) const LONGEST: usize = 65_344;

/// Buffers for trains: more than a burst of them is never under way, and the driver has some.
const TRAINS: u32 = 255;

/// Pools that nobody uses: room for a frame, how many buffers, the pool.
static IDLE: Mutex<Vec<(usize, u32, Mempool)>> = Mutex::new(Vec::new());

/// A pool, until it is dropped. Its buffers may come back later.
#[derive(Debug)]
pub(super) struct Lease {
    room: usize,
    count: u32,
    pool: Mempool,
}

impl Lease {
    /// A pool for frames of up to `longest` bytes, at least `count` of them.
    ///
    /// # Errors
    /// EAL's memory does not suffice.
    pub(super) fn of_frames(eal: Eal, longest: usize, count: u32) -> Result<Self, DpdkError> {
        // 2 KB suit every card, and cards take their buffers by the KB.
        let room = longest.max(2_048).next_multiple_of(1_024).min(LONGEST);
        Self::new(eal, room, (count + 1).next_power_of_two() - 1)
    }

    /// A pool for trains of segments.
    ///
    /// # Errors
    /// EAL's memory does not suffice.
    pub(super) fn of_trains(eal: Eal) -> Result<Self, DpdkError> {
        Self::new(eal, LONGEST, TRAINS)
    }

    fn new(eal: Eal, room: usize, count: u32) -> Result<Self, DpdkError> {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = idle.iter().position(|(r, c, _)| (*r, *c) == (room, count)) {
            let (_, _, pool) = idle.swap_remove(at);
            return Ok(Self { room, count, pool });
        }
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let size = u16::try_from(room).unwrap_or(u16::MAX);
        let pool = Mempool::new(eal, &format!("nty{number}_{room}"), count, size)?;
        Ok(Self { room, count, pool })
    }

    pub(super) fn pool(&self) -> Mempool {
        self.pool
    }

    /// The longest frame that fits a buffer.
    pub(super) fn room(&self) -> usize {
        self.room
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push((self.room, self.count, self.pool));
    }
}
