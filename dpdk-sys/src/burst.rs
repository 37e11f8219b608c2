//! A handful of packets that travel together.

use std::fmt;
use std::ptr::{self, NonNull};
use std::slice;

use crate::raw::{self, rte_mbuf};
use crate::{DpdkError, Mbuf};

/// Packets in a burst, unless it says otherwise. 32 is where DPDK's drivers are at their best.
pub const BURST: usize = 32;

/// Up to `N` owned packets, oldest first, `N` being at most 65,535. They lie in the value itself; when it is
/// dropped, all go back to their pools in one call.
pub struct Burst<const N: usize = BURST> {
    /// The first `len` are live mbufs that this burst owns; the others mean nothing.
    mbufs: [*mut rte_mbuf; N],
    len: usize,
}

// SAFETY: as for Mbuf.
unsafe impl<const N: usize> Send for Burst<N> {}

impl Burst {
    /// An empty burst of the usual size; others begin with `Burst::<N>::default()`.
    pub const fn new() -> Self {
        Self { mbufs: [ptr::null_mut(); BURST], len: 0 }
    }
}

impl<const N: usize> Burst<N> {
    /// How many packets may be added.
    #[inline]
    pub const fn room(&self) -> usize {
        N - self.len
    }

    /// The packets.
    #[inline]
    pub fn packets(&self) -> &[Mbuf] {
        // SAFETY: Mbuf is a transparent non-null pointer, and the first `len` are owned live mbufs.
        unsafe { slice::from_raw_parts(self.mbufs.as_ptr().cast::<Mbuf>(), self.len) }
    }

    /// The packets, to be changed in place. Swapping them is fine.
    #[inline]
    pub fn packets_mut(&mut self) -> &mut [Mbuf] {
        // SAFETY: as above, and self is borrowed mutably. An Mbuf put in place of another is an owned one
        // too.
        unsafe { slice::from_raw_parts_mut(self.mbufs.as_mut_ptr().cast::<Mbuf>(), self.len) }
    }

    /// How many packets there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a packet at the end, or gives it back when the burst is full.
    ///
    /// # Errors
    /// The packet.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf) -> Result<(), Mbuf> {
        match self.mbufs.get_mut(self.len) {
            Some(slot) => {
                *slot = mbuf.into_raw();
                self.len += 1;
                Ok(())
            }
            None => Err(mbuf),
        }
    }

    /// Takes the packet at the end.
    #[inline]
    pub fn pop(&mut self) -> Option<Mbuf> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: it was the last of the owned ones, and the burst has just given it up.
        unsafe { Mbuf::from_raw(*self.mbufs.get(self.len)?) }
    }

    /// Gives all packets back to their pools.
    #[inline]
    pub fn clear(&mut self) {
        let len = std::mem::take(&mut self.len);
        if len == 0 {
            return;
        }
        // SAFETY: the first `len` are owned and live, and the burst has just given them up. N fits an
        // unsigned int.
        unsafe { raw::rte_pktmbuf_free_bulk(self.mbufs.as_mut_ptr(), len as u32) };
    }

    /// Moves packets from the end to the end of `to`, in order: `most` of them, or as many as there are and as there is room for. Returns
    /// how many.
    #[inline]
    pub fn move_last_to<const M: usize>(&mut self, to: &mut Burst<M>, most: usize) -> usize {
        let count = most.min(self.len).min(to.room());
        let first = self.len - count;
        if let (Some(from), Some(place)) =
            (self.mbufs.get(first..self.len), to.mbufs.get_mut(to.len..to.len + count))
        {
            place.copy_from_slice(from);
            self.len = first;
            to.len += count;
        }
        count
    }

    /// Moves packets to the end of `to`, in order: those that `choose` wants there, which gets the place of
    /// each and the packet, as far as there is room. The others stay. Returns how many had no room.
    #[inline]
    pub fn move_to<const M: usize>(
        &mut self,
        to: &mut Burst<M>,
        mut choose: impl FnMut(usize, &mut Mbuf) -> bool,
    ) -> usize {
        // Should `choose` panic, neither burst has the packets: they are lost, not freed twice.
        let len = std::mem::take(&mut self.len);
        let (mut kept, mut without_room) = (0, 0);
        for index in 0..len {
            let Some(slot) = self.mbufs.get_mut(index) else { break };
            // SAFETY: it is one of the owned ones, and the slot gives it up.
            let Some(mut mbuf) = (unsafe { Mbuf::from_raw(std::mem::replace(slot, ptr::null_mut())) }) else {
                continue;
            };
            let chosen = choose(index, &mut mbuf);
            let back = if chosen { to.push(mbuf) } else { Err(mbuf) };
            without_room += usize::from(chosen && back.is_err());
            if let Err(mbuf) = back {
                // kept <= index.
                if let Some(slot) = self.mbufs.get_mut(kept) {
                    *slot = mbuf.into_raw();
                    kept += 1;
                }
            }
        }
        self.len = kept;
        without_room
    }

    /// Makes each of these frames a packet, in buffers of the pool: all of them, or as many as there are
    /// buffers and room. Returns how many.
    ///
    /// # Errors
    /// [`DpdkError::TooLong`] when a frame does not fit a buffer; those before it are in the burst, no other
    /// is.
    pub fn fill(&mut self, pool: &crate::Mempool, frames: &[&[u8]]) -> Result<usize, DpdkError> {
        let first = self.len;
        let added = pool.alloc(self, frames.len());
        for (index, frame) in frames.iter().enumerate().take(added) {
            let Some(mbuf) = self.packets_mut().get_mut(first + index) else { break };
            if let Err(error) = mbuf.fill(frame) {
                while self.len > first + index {
                    drop(self.pop());
                }
                return Err(error);
            }
        }
        Ok(added)
    }

    /// Lets `write` put mbufs behind the present ones: it gets the place and how many fit, at most `most`,
    /// and returns how many it wrote. Returns the same.
    ///
    /// # Safety
    /// `write` has put as many live mbufs there as it says, and nobody else owns them.
    #[inline]
    pub(crate) unsafe fn extend(
        &mut self,
        most: usize,
        write: impl FnOnce(*mut *mut rte_mbuf, u16) -> usize,
    ) -> usize {
        let room = self.room().min(most);
        // SAFETY: len <= N, so the place is inside the array or at its end.
        let place = unsafe { self.mbufs.as_mut_ptr().add(self.len) };
        // N fits u16. A driver that returns more than was asked for has already written past the end.
        let written = write(place, room as u16).min(room);
        self.len += written;
        written
    }

    /// Lets `look` see the mbufs behind the first `from`, which stay the burst's. Returns what it does.
    pub(crate) fn visit(
        &mut self,
        from: usize,
        look: impl FnOnce(*mut *mut rte_mbuf, u16) -> usize,
    ) -> usize {
        let rest = self.mbufs.get_mut(from..self.len).unwrap_or_default();
        // N fits u16.
        look(rest.as_mut_ptr(), rest.len() as u16)
    }

    /// Lets `take` have mbufs from the front: it gets all and returns how many it now owns. The rest moves
    /// up. Returns the same.
    ///
    /// # Safety
    /// `take` owns as many of the first mbufs as it says, and none of the others.
    #[inline]
    pub(crate) unsafe fn take_front(&mut self, take: impl FnOnce(*mut *mut rte_mbuf, u16) -> usize) -> usize {
        let taken = take(self.mbufs.as_mut_ptr(), self.len as u16).min(self.len);
        if taken < self.len {
            self.mbufs.copy_within(taken..self.len, 0);
        }
        self.len -= taken;
        taken
    }
}

impl<const N: usize> Default for Burst<N> {
    fn default() -> Self {
        const { assert!(N <= u16::MAX as usize) };
        Self { mbufs: [ptr::null_mut(); N], len: 0 }
    }
}

impl<const N: usize> Drop for Burst<N> {
    fn drop(&mut self) {
        self.clear();
    }
}

impl<const N: usize> fmt::Debug for Burst<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.packets()).finish()
    }
}

/// Packets convert into a pointer and back without a change of layout, which `packets` relies on.
const _: () = assert!(size_of::<Option<NonNull<rte_mbuf>>>() == size_of::<*mut rte_mbuf>());
const _: () = assert!(size_of::<Mbuf>() == size_of::<*mut rte_mbuf>());
