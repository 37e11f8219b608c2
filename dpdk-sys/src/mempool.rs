//! Where packet buffers come from and go back to.

use std::ptr::{self, NonNull};

use crate::error::c_string;
use crate::raw::{self, rte_mempool};
use crate::{Burst, DpdkError, Eal, Mbuf};

/// The most buffers that a registered thread keeps for itself.
const CACHE: u32 = 256;

/// `SOCKET_ID_ANY`: memory of whichever NUMA node has some.
const ANY_NODE: i32 = -1;

/// A pool of packet buffers of one size. The handle may be copied and used by every thread.
///
/// A pool lives as long as EAL: its buffers may be anywhere, in rings and in network cards, so dropping the
/// handle does not free it. Make one per shard at the start.
#[derive(Debug, Clone, Copy)]
pub struct Mempool(NonNull<rte_mempool>);

// SAFETY: the pool's ring takes and gives from all threads at once, and a cache belongs to one registered
// thread.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// Makes a pool of `count` buffers with room for a frame of `room` bytes each, behind DPDK's headroom of
    /// 128 bytes. A count of 2^n - 1 uses memory best, and 2048 bytes of room suit every card at an MTU of
    /// 1500. Allocates.
    ///
    /// # Errors
    /// [`DpdkError::Argument`] for a bad name, [`DpdkError::TooLong`] when the room is beyond 64 KB,
    /// [`DpdkError::Call`] when the name is taken or too long or EAL's memory does not suffice.
    pub fn new(_: Eal, name: &str, count: u32, room: u16) -> Result<Mempool, DpdkError> {
        let size = u32::from(room) + raw::RTE_PKTMBUF_HEADROOM;
        let size = u16::try_from(size).map_err(|_| DpdkError::TooLong {
            len: usize::from(room),
            room: usize::from(u16::MAX) - raw::RTE_PKTMBUF_HEADROOM as usize,
        })?;
        let c_name = c_string(name)?;
        // DPDK wants a cache of at most 2/3 of the pool.
        let cache = CACHE.min(count / 4);
        // SAFETY: EAL runs (the token), and the name is a NUL-terminated string that is copied.
        let pool = unsafe { raw::rte_pktmbuf_pool_create(c_name.as_ptr(), count, cache, 0, size, ANY_NODE) };
        NonNull::new(pool).map(Mempool).ok_or_else(|| DpdkError::last("rte_pktmbuf_pool_create", name))
    }

    /// Adds `count` empty packets to the burst, or as many as it has room for; none at all when the pool has
    /// fewer left. Returns how many.
    pub fn alloc<const N: usize>(&self, burst: &mut Burst<N>, count: usize) -> usize {
        // SAFETY: the place has room for `room` pointers; on 0 all of them are fresh mbufs, otherwise none.
        unsafe {
            burst.extend(count, |place, room| {
                let status = raw::rte_pktmbuf_alloc_bulk(self.0.as_ptr(), place, u32::from(room));
                if status == 0 { usize::from(room) } else { 0 }
            })
        }
    }

    /// One empty packet, unless the pool has none left.
    pub fn alloc_one(&self) -> Option<Mbuf> {
        let mut mbuf = ptr::null_mut();
        // SAFETY: the place is a local; on 0 it holds a fresh mbuf.
        unsafe {
            match raw::rte_pktmbuf_alloc_bulk(self.0.as_ptr(), &mut mbuf, 1) {
                0 => Mbuf::from_raw(mbuf),
                _ => None,
            }
        }
    }

    /// How many buffers are in the pool and in no other place. Looks at every thread's cache: for tests and
    /// statistics.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as EAL.
        unsafe { raw::rte_mempool_avail_count(self.0.as_ptr()) }
    }

    /// The pool, for calls into `raw`.
    pub fn as_raw(&self) -> *mut rte_mempool {
        self.0.as_ptr()
    }

    /// Frees the pool's memory.
    ///
    /// # Safety
    /// No buffer of it is in use any more: no packet, no burst, no open port that receives into it; and no
    /// copy of this handle is used again.
    pub unsafe fn free(self) {
        // SAFETY: by the caller.
        unsafe { raw::rte_mempool_free(self.0.as_ptr()) };
    }
}
