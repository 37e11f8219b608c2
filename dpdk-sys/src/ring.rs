//! Bounded lock-free queues between threads, by DPDK's `rte_ring`: values of any type that may be sent, alone or
//! many at a time.
//!
//! A ring lies in memory of the process, so neither EAL nor hugepages are needed. Values are moved in and out as
//! bytes, as a `Vec` moves its own; what is still in a ring when it is dropped is dropped too.

use std::alloc::{self, Layout};
use std::fmt;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::error::{Errno, check};
use crate::{DpdkError, raw};

/// What `rte_ring` calls itself in messages.
const NAME: &std::ffi::CStr = c"nty";

/// The largest alignment that DPDK wants anywhere for a cache line.
const CACHE_LINE: usize = 128;

/// A queue that any number of threads put values into and take them from. First in, first out.
pub struct Ring<T: Send> {
    ring: NonNull<raw::rte_ring>,
    layout: Layout,
    capacity: usize,
    values: PhantomData<T>,
}

// SAFETY: rte_ring keeps its threads apart by atomics: all of them if it was made so, else the one sender and the
// one receiver, of which the types below let there be one each. A value goes from one thread to another, which T
// allows.
unsafe impl<T: Send> Send for Ring<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Ring<T> {}

/// The only end that puts values into a queue; see [`channel`].
#[derive(Debug)]
pub struct RingSender<T: Send>(Arc<Ring<T>>);

/// The only end that takes values from a queue; see [`channel`].
#[derive(Debug)]
pub struct RingReceiver<T: Send>(Arc<Ring<T>>);

/// A queue with one sender and one receiver, which pays for no others. Room for `capacity` values. Allocates.
///
/// # Errors
/// As [`Ring::new`].
pub fn channel<T: Send>(capacity: usize) -> Result<(RingSender<T>, RingReceiver<T>), DpdkError> {
    let ring = Arc::new(Ring::with(capacity, raw::RING_F_SP_ENQ | raw::RING_F_SC_DEQ)?);
    Ok((RingSender(ring.clone()), RingReceiver(ring)))
}

impl<T: Send> Ring<T> {
    /// Bytes of a value, which is counted in words of 4.
    const SIZE: u32 = {
        assert!(size_of::<T>() > 0 && size_of::<T>().is_multiple_of(4) && size_of::<T>() <= 1 << 16);
        size_of::<T>() as u32
    };

    /// A queue with room for `capacity` values, from 1 to 2^30. Allocates.
    ///
    /// # Errors
    /// [`DpdkError::Call`] for another capacity, or one that memory does not suffice for.
    pub fn new(capacity: usize) -> Result<Ring<T>, DpdkError> {
        Self::with(capacity, 0)
    }

    fn with(capacity: usize, flags: u32) -> Result<Ring<T>, DpdkError> {
        let refused = |errno| DpdkError::Call {
            call: "rte_ring_init",
            object: format!("a queue of {capacity} values"),
            errno,
        };
        let count = u32::try_from(capacity).ok().filter(|count| (1..=1 << 30).contains(count));
        let count = count.ok_or_else(|| refused(Errno::EINVAL))?;
        // SAFETY: a function of its arguments; the ring has one more place than it is said to hold, and a power
        // of two of them.
        let size = unsafe { raw::rte_ring_get_memsize_elem(Self::SIZE, (count + 1).next_power_of_two()) };
        let size = usize::try_from(size).map_err(|_| refused(Errno::EINVAL))?;
        let layout = Layout::from_size_align(size, CACHE_LINE).map_err(|_| refused(Errno::EINVAL))?;
        // SAFETY: the size is not 0: there is a header.
        let memory = unsafe { alloc::alloc_zeroed(layout) };
        let ring = NonNull::new(memory.cast::<raw::rte_ring>()).ok_or_else(|| refused(Errno::ENOMEM))?;
        let made = Ring { ring, layout, capacity, values: PhantomData };
        // SAFETY: the memory has the size and alignment that it asked for, and is nobody else's; the name is
        // copied.
        let status =
            unsafe { raw::rte_ring_init(ring.as_ptr(), NAME.as_ptr(), count, flags | raw::RING_F_EXACT_SZ) };
        check("rte_ring_init", "a queue", status)?;
        Ok(made)
    }

    /// How many values there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Puts a value at the end, or gives it back when the queue is full.
    ///
    /// # Errors
    /// The value.
    pub fn push(&self, value: T) -> Result<(), T> {
        let value = ManuallyDrop::new(value);
        // SAFETY: one value is read, and is the ring's if it says 1.
        let taken = unsafe { self.enqueue(&raw const *value, 1) };
        if taken == 1 { Ok(()) } else { Err(ManuallyDrop::into_inner(value)) }
    }

    /// Moves values from the front of `values` to the end, as many as there is room for. Returns how many.
    pub fn push_many(&self, values: &mut Vec<T>) -> usize {
        let len = values.len();
        // SAFETY: `len` values are read, of which the ring owns those that it took; the vector gives these up and
        // keeps the others. Nothing can panic meanwhile.
        unsafe {
            let taken = self.enqueue(values.as_ptr(), len).min(len);
            ptr::copy(values.as_ptr().add(taken), values.as_mut_ptr(), len - taken);
            values.set_len(len - taken);
            taken
        }
    }

    /// Takes the value at the front.
    pub fn pop(&self) -> Option<T> {
        let mut value = MaybeUninit::uninit();
        // SAFETY: there is room for one value, and on 1 it is there, and no longer the ring's.
        unsafe { (self.dequeue(value.as_mut_ptr(), 1) == 1).then(|| value.assume_init()) }
    }

    /// Takes up to `most` values from the front and puts them behind those in `into`. Returns how many.
    pub fn pop_many(&self, into: &mut Vec<T>, most: usize) -> usize {
        let most = most.min(self.capacity);
        into.reserve(most);
        let len = into.len();
        // SAFETY: there is room for `most` values behind the present ones, and as many as it says are there now,
        // and no longer the ring's.
        unsafe {
            let taken = self.dequeue(into.as_mut_ptr().add(len), most).min(most);
            into.set_len(len + taken);
            taken
        }
    }

    /// # Safety
    /// `count` values are at `from`; those that the ring takes are its own from then on.
    unsafe fn enqueue(&self, from: *const T, count: usize) -> usize {
        let count = count.min(self.capacity) as u32;
        // SAFETY: the ring is initialised, its values have this size; otherwise by the caller.
        unsafe {
            let ring = self.ring.as_ptr();
            raw::rte_ring_enqueue_burst_elem(ring, from.cast(), Self::SIZE, count, ptr::null_mut()) as usize
        }
    }

    /// # Safety
    /// There is room for `count` values at `to`.
    unsafe fn dequeue(&self, to: *mut T, count: usize) -> usize {
        // SAFETY: as above. `count` is at most the capacity.
        unsafe {
            let ring = self.ring.as_ptr();
            raw::rte_ring_dequeue_burst_elem(ring, to.cast(), Self::SIZE, count as u32, ptr::null_mut())
                as usize
        }
    }
}

impl<T: Send> Drop for Ring<T> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
        // SAFETY: it was allocated with this layout, and nobody has the ring any more.
        unsafe { alloc::dealloc(self.ring.as_ptr().cast(), self.layout) };
    }
}

impl<T: Send> fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl<T: Send> RingSender<T> {
    /// As [`Ring::push`].
    ///
    /// # Errors
    /// The value.
    pub fn push(&mut self, value: T) -> Result<(), T> {
        self.0.push(value)
    }

    /// As [`Ring::push_many`].
    pub fn push_many(&mut self, values: &mut Vec<T>) -> usize {
        self.0.push_many(values)
    }
}

impl<T: Send> RingReceiver<T> {
    /// As [`Ring::pop`].
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }

    /// As [`Ring::pop_many`].
    pub fn pop_many(&mut self, into: &mut Vec<T>, most: usize) -> usize {
        self.0.pop_many(into, most)
    }
}
