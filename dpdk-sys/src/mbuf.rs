//! One packet buffer: a chain of one or more segments, each with headroom, data and tailroom.

use std::fmt;
use std::iter;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;

use crate::raw::{self, rte_mbuf};
use crate::{DpdkError, Errno};

/// A field of rte_mbuf: its type and where the C compiler puts it.
struct Field<T>(raw::nty_mbuf_offset, PhantomData<T>);

// compat.h asserts the width of each.
const BUF_ADDR: Field<*mut u8> = Field(raw::NTY_MBUF_BUF_ADDR, PhantomData);
const DATA_OFF: Field<u16> = Field(raw::NTY_MBUF_DATA_OFF, PhantomData);
const NB_SEGS: Field<u16> = Field(raw::NTY_MBUF_NB_SEGS, PhantomData);
const PKT_LEN: Field<u32> = Field(raw::NTY_MBUF_PKT_LEN, PhantomData);
const DATA_LEN: Field<u16> = Field(raw::NTY_MBUF_DATA_LEN, PhantomData);
const BUF_LEN: Field<u16> = Field(raw::NTY_MBUF_BUF_LEN, PhantomData);
const NEXT: Field<*mut rte_mbuf> = Field(raw::NTY_MBUF_NEXT, PhantomData);

impl<T: Copy> Field<T> {
    /// # Safety
    /// `mbuf` points to a live mbuf that nobody writes.
    unsafe fn get(&self, mbuf: *const rte_mbuf) -> T {
        // SAFETY: by the caller; the offset and the type are the C compiler's, so it is inside and aligned.
        unsafe { mbuf.byte_add(self.0 as usize).cast::<T>().read() }
    }

    /// # Safety
    /// `mbuf` points to a live mbuf that nobody else uses.
    unsafe fn set(&self, mbuf: *mut rte_mbuf, value: T) {
        // SAFETY: as above.
        unsafe { mbuf.byte_add(self.0 as usize).cast::<T>().write(value) }
    }
}

/// A packet buffer, owned. Dropped, it goes back to its pool; in bulk that is cheaper, so keep them in a
/// [`crate::Burst`].
#[repr(transparent)]
pub struct Mbuf(NonNull<rte_mbuf>);

// SAFETY: an Mbuf is the only owner of its buffer, and pools take buffers back from any thread.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// Takes over a buffer from a call into `raw`. `None` for a null pointer.
    ///
    /// # Safety
    /// The buffer is a live one from a pktmbuf pool, well-formed, with a reference count of 1 in each
    /// segment, and nobody else owns it.
    pub unsafe fn from_raw(mbuf: *mut rte_mbuf) -> Option<Mbuf> {
        NonNull::new(mbuf).map(Mbuf)
    }

    /// Hands the buffer to a call into `raw`, which frees it.
    pub fn into_raw(self) -> *mut rte_mbuf {
        let mbuf = self.0.as_ptr();
        std::mem::forget(self);
        mbuf
    }

    /// The bytes of the first segment: all of the packet, unless [`Mbuf::segment_count`] is more than 1.
    pub fn data(&self) -> &[u8] {
        // SAFETY: self owns the buffer.
        unsafe { segment(self.0.as_ptr()) }
    }

    /// The bytes of the first segment, to be changed in place.
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: self owns the buffer and is borrowed mutably; the extent is inside the buffer, which EAL
        // has mapped.
        unsafe {
            let (start, len) = extent(self.0.as_ptr());
            slice::from_raw_parts_mut(start, len)
        }
    }

    /// The bytes of every segment, in order.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let mut next = self.0.as_ptr();
        iter::from_fn(move || {
            let mbuf = NonNull::new(next)?.as_ptr();
            // SAFETY: self owns the whole chain, and is borrowed for as long as the slice.
            unsafe {
                next = NEXT.get(mbuf);
                Some(segment(mbuf))
            }
        })
    }

    /// How many segments there are: at least 1.
    pub fn segment_count(&self) -> usize {
        // SAFETY: self owns the buffer.
        usize::from(unsafe { NB_SEGS.get(self.0.as_ptr()) })
    }

    /// Bytes in all segments.
    pub fn packet_len(&self) -> usize {
        // SAFETY: self owns the buffer.
        unsafe { PKT_LEN.get(self.0.as_ptr()) as usize }
    }

    /// How many bytes a packet may have that starts where this one does and stays in the first segment.
    pub fn room(&self) -> usize {
        let mbuf = self.0.as_ptr();
        // SAFETY: self owns the buffer.
        let (size, start) = unsafe { (BUF_LEN.get(mbuf), DATA_OFF.get(mbuf)) };
        usize::from(size.saturating_sub(start))
    }

    /// Makes the packet `len` bytes long. Bytes that this adds at the end are what an earlier packet left
    /// there.
    ///
    /// # Errors
    /// [`DpdkError::TooLong`] when there is not enough room; [`DpdkError::Call`] when there is more than one
    /// segment.
    pub fn set_len(&mut self, len: usize) -> Result<(), DpdkError> {
        let room = self.room();
        let data_len =
            u16::try_from(len).ok().filter(|_| len <= room).ok_or(DpdkError::TooLong { len, room })?;
        if self.segment_count() != 1 {
            let errno = Errno::EINVAL;
            return Err(DpdkError::Call {
                call: "set_len",
                object: "an mbuf of several segments".into(),
                errno,
            });
        }
        let mbuf = self.0.as_ptr();
        // SAFETY: self owns the buffer and is borrowed mutably; the data ends inside of it.
        unsafe {
            DATA_LEN.set(mbuf, data_len);
            PKT_LEN.set(mbuf, u32::from(data_len));
        }
        Ok(())
    }

    /// Makes the packet these bytes.
    ///
    /// # Errors
    /// As [`Mbuf::set_len`].
    pub fn fill(&mut self, bytes: &[u8]) -> Result<(), DpdkError> {
        self.set_len(bytes.len())?;
        self.data_mut().copy_from_slice(bytes);
        Ok(())
    }
}

/// Where the data of a segment is, and how long.
///
/// # Safety
/// `mbuf` points to a live mbuf that nobody writes.
unsafe fn extent(mbuf: *const rte_mbuf) -> (*mut u8, usize) {
    // SAFETY: by the caller; data_off is inside the buffer by DPDK's rules.
    unsafe {
        let offset = DATA_OFF.get(mbuf);
        // net_null says more than there is if it is told a size beyond the pool's.
        let len = DATA_LEN.get(mbuf).min(BUF_LEN.get(mbuf).saturating_sub(offset));
        (BUF_ADDR.get(mbuf).add(usize::from(offset)), usize::from(len))
    }
}

/// # Safety
/// `mbuf` points to a live mbuf that nobody writes for the lifetime.
unsafe fn segment<'a>(mbuf: *const rte_mbuf) -> &'a [u8] {
    // SAFETY: by the caller; the extent is inside the buffer, which EAL has mapped.
    unsafe {
        let (start, len) = extent(mbuf);
        slice::from_raw_parts(start, len)
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        let mut mbuf = self.0.as_ptr();
        // SAFETY: self owns the buffer, and is gone after this.
        unsafe { raw::rte_pktmbuf_free_bulk(ptr::from_mut(&mut mbuf), 1) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("len", &self.packet_len())
            .field("segments", &self.segment_count())
            .finish()
    }
}
