//! The memory that an AF_XDP socket shares with the kernel: chunks for frames, and four rings that say whose they are.
//!
//! ```text
//!              fill ring                      receive ring
//!   free ---------------------> kernel ----------------------> we read, answer in place, or free
//!    ^       completion ring               transmit ring         |
//!    +------------------------- kernel <-------------------------+
//! ```
//!
//! A [`Chunk`] is the right to use one chunk. It goes into a ring when the chunk is handed to the kernel, and is made anew when the
//! kernel hands it back, so a chunk that we may touch exists once. Several sockets may share the memory, each with rings of its own: a
//! chunk goes round in those of the device whose it is, so that devices on different threads have no chunk in common.
#![allow(unsafe_code)] // Memory that is shared with the kernel; rings say whose it is.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use crate::device::sys::{self, Mapping};

/// The right to use a chunk: its number.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Chunk(u32);

/// The chunks. See the module documentation.
#[derive(Debug)]
pub(super) struct Umem {
    mapping: Mapping,
    /// Bytes of a chunk, a power of two.
    chunk: usize,
}

// SAFETY: the memory is reached through the chunks, of which each exists once.
unsafe impl Send for Umem {}
// SAFETY: as before: whoever has the right to a chunk is the only one who reaches its bytes.
unsafe impl Sync for Umem {}

impl Umem {
    /// `count` chunks of `chunk` bytes, and the rights to them, registered with the socket. In front of each frame that is sent
    /// there is room for `metadata` bytes.
    ///
    /// # Errors
    /// What the system says; `ENOBUFS` when the process may not lock so much memory.
    pub(super) fn new(
        socket: BorrowedFd<'_>,
        (chunk, count): (usize, u32),
        metadata: u32,
    ) -> io::Result<(Self, Vec<Chunk>)> {
        let len = chunk * count as usize;
        let mapping = Mapping::new(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)?;
        let request = libc::xdp_umem_reg {
            addr: mapping.memory().as_ptr().expose_provenance() as u64,
            len: len as u64,
            chunk_size: chunk as u32,
            headroom: 0,
            flags: if metadata > 0 { libc::XDP_UMEM_TX_METADATA_LEN } else { 0 },
            tx_metadata_len: metadata,
        };
        sys::set_option(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, request)?;
        Ok((Self { mapping, chunk }, (0..count).map(Chunk).collect()))
    }

    /// The bytes of a chunk.
    pub(super) fn bytes<'a>(&'a self, chunk: &'a mut Chunk) -> &'a mut [u8] {
        // SAFETY: the chunk lies within the mapping, and whoever has the right to it is borrowed exclusively.
        unsafe {
            let start = self.mapping.memory().as_ptr().add(chunk.0 as usize * self.chunk);
            slice::from_raw_parts_mut(start, self.chunk)
        }
    }

    /// The address of a byte of a chunk in the descriptors of rings.
    pub(super) fn address(&self, chunk: &Chunk, offset: usize) -> u64 {
        chunk.0 as u64 * self.chunk as u64 + offset as u64
    }

    /// The chunk that the kernel hands back under an address, and the offset there.
    fn chunk_of(&self, address: u64) -> Option<(Chunk, usize)> {
        let (number, offset) = (address / self.chunk as u64, address % self.chunk as u64);
        ((address as usize) < self.mapping.len()).then_some((Chunk(number as u32), offset as usize))
    }
}

/// One of the four rings, with entries of type `T`.
#[derive(Debug)]
struct Ring<T> {
    /// Keeps the memory that the pointers lead to.
    _mapping: Mapping,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    /// Our own position: the producer of what we fill, the consumer of what we empty.
    ours: u32,
    /// The other one, as last seen.
    theirs: u32,
}

// SAFETY: the memory is the ring's alone on our side, whichever thread that is on.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    /// Maps a ring of `size` entries, a power of two, that the socket has.
    fn new(
        socket: BorrowedFd<'_>,
        size: u32,
        (page, offsets): (libc::off_t, libc::xdp_ring_offset),
    ) -> io::Result<Self> {
        let len = offsets.desc as usize + size as usize * size_of::<T>();
        let mapping = Mapping::new(len, libc::MAP_SHARED, socket.as_raw_fd(), page)?;
        // SAFETY: the kernel says where in the mapping, which is long enough, these are; they are aligned.
        unsafe {
            let at = |offset: u64| mapping.memory().add(offset as usize);
            Ok(Self {
                producer: at(offsets.producer).cast(),
                consumer: at(offsets.consumer).cast(),
                flags: at(offsets.flags).cast(),
                entries: at(offsets.desc).cast(),
                _mapping: mapping,
                size,
                ours: 0,
                theirs: 0,
            })
        }
    }

    fn entry(&self, position: u32) -> NonNull<T> {
        // SAFETY: masked, the position is within the ring.
        unsafe { self.entries.add((position & (self.size - 1)) as usize) }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: alive and aligned as long as the mapping.
        unsafe { self.flags.as_ref() }.load(Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A ring that we fill.
#[derive(Debug)]
pub(super) struct Filled<T>(Ring<T>);

impl<T: Copy> Filled<T> {
    /// How many more entries there is room for.
    pub(super) fn room(&mut self) -> u32 {
        let ring = &mut self.0;
        // SAFETY: alive and aligned as long as the mapping. Acquire: the kernel has read an entry before it is overwritten.
        ring.theirs = unsafe { ring.consumer.as_ref() }.load(Acquire);
        ring.size - ring.ours.wrapping_sub(ring.theirs)
    }

    /// Puts an entry in; only when there is room.
    fn push(&mut self, entry: T) {
        // SAFETY: within the ring, and the kernel has read what was there, as the caller says that there is room.
        unsafe { self.0.entry(self.0.ours).write(entry) }
        self.0.ours = self.0.ours.wrapping_add(1);
    }

    /// Shows the kernel all that was put in.
    pub(super) fn publish(&self) {
        // SAFETY: alive and aligned as long as the mapping. Release: the entries come before.
        unsafe { self.0.producer.as_ref() }.store(self.0.ours, Release);
    }

    /// Whether the kernel has not taken everything yet.
    pub(super) fn is_pending(&mut self) -> bool {
        self.room() < self.0.size
    }

    /// Whether the kernel wants to be told that there is something.
    pub(super) fn needs_wakeup(&self) -> bool {
        self.0.needs_wakeup()
    }
}

/// A ring that the kernel fills.
#[derive(Debug)]
pub(super) struct Emptied<T>(Ring<T>);

impl<T: Copy> Emptied<T> {
    /// The next entry, if there is one.
    fn pop(&mut self) -> Option<T> {
        let ring = &mut self.0;
        if ring.ours == ring.theirs {
            // SAFETY: alive and aligned as long as the mapping. Acquire: the entries come after.
            ring.theirs = unsafe { ring.producer.as_ref() }.load(Acquire);
        }
        if ring.ours == ring.theirs {
            return None;
        }
        // SAFETY: within the ring, and filled.
        let entry = unsafe { ring.entry(ring.ours).read() };
        ring.ours = ring.ours.wrapping_add(1);
        Some(entry)
    }

    /// Gives the kernel back the places of all that was taken out.
    fn release(&self) {
        // SAFETY: alive and aligned as long as the mapping. Release: the entries were read before.
        unsafe { self.0.consumer.as_ref() }.store(self.0.ours, Release);
    }
}

/// The rings of a socket through which frames arrive.
#[derive(Debug)]
pub(super) struct Receiving {
    fill: Filled<u64>,
    receive: Emptied<libc::xdp_desc>,
}

/// The rings of a socket through which frames leave.
#[derive(Debug)]
pub(super) struct Sending {
    transmit: Filled<libc::xdp_desc>,
    completion: Emptied<u64>,
}

/// A frame as it stands in a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub offset: usize,
    pub len: usize,
    /// Flags of the descriptor.
    pub options: u32,
}

/// Gives the socket rings of `size` entries each.
///
/// # Errors
/// What the system says.
pub(super) fn make_rings(socket: BorrowedFd<'_>, size: u32) -> io::Result<(Receiving, Sending)> {
    let kinds =
        [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING];
    for kind in kinds {
        sys::set_option(socket, libc::SOL_XDP, kind, size)?;
    }
    let offsets = sys::xdp_offsets(socket)?;
    let (fill, completion) = (libc::XDP_UMEM_PGOFF_FILL_RING, libc::XDP_UMEM_PGOFF_COMPLETION_RING);
    let receiving = Receiving {
        fill: Filled(Ring::new(socket, size, (fill as libc::off_t, offsets.fr))?),
        receive: Emptied(Ring::new(socket, size, (libc::XDP_PGOFF_RX_RING, offsets.rx))?),
    };
    let sending = Sending {
        transmit: Filled(Ring::new(socket, size, (libc::XDP_PGOFF_TX_RING, offsets.tx))?),
        completion: Emptied(Ring::new(socket, size, (completion as libc::off_t, offsets.cr))?),
    };
    Ok((receiving, sending))
}

impl Receiving {
    /// Hands chunks to the kernel to receive frames in, as many as there is room for. How many.
    pub(super) fn provide(&mut self, umem: &Umem, chunks: &mut Vec<Chunk>, most: usize) -> usize {
        let count = (self.fill.room() as usize).min(most).min(chunks.len());
        for chunk in chunks.drain(chunks.len() - count..) {
            self.fill.push(umem.address(&chunk, 0));
        }
        self.fill.publish();
        count
    }

    /// The next frame that arrived. [`Receiving::received`] gives back the places in the ring.
    pub(super) fn receive(&mut self, umem: &Umem) -> Option<(Chunk, Extent)> {
        let libc::xdp_desc { addr, len, options } = self.receive.pop()?;
        let (chunk, offset) = umem.chunk_of(addr)?;
        Some((chunk, Extent { offset, len: len as usize, options }))
    }

    pub(super) fn received(&self) {
        self.receive.release();
    }

    /// Whether the kernel must be called for frames to be received.
    pub(super) fn needs_wakeup(&self) -> bool {
        self.fill.needs_wakeup()
    }
}

impl Sending {
    /// Takes back the chunks of frames that were sent.
    pub(super) fn complete(&mut self, umem: &Umem, chunks: &mut Vec<Chunk>) {
        while let Some(address) = self.completion.pop() {
            chunks.extend(umem.chunk_of(address).map(|(chunk, _)| chunk));
        }
        self.completion.release();
    }

    /// Queues a frame to be sent; the chunk comes back when there is no room.
    pub(super) fn send(&mut self, umem: &Umem, chunk: Chunk, frame: Extent) -> Result<(), Chunk> {
        if self.transmit.room() == 0 {
            return Err(chunk);
        }
        let Extent { offset, len, options } = frame;
        self.transmit.push(libc::xdp_desc { addr: umem.address(&chunk, offset), len: len as u32, options });
        Ok(())
    }

    /// Shows the kernel the frames that are to be sent; whether it has not taken all of them.
    pub(super) fn transmit(&mut self) -> bool {
        self.transmit.publish();
        self.transmit.is_pending()
    }

    /// How many more descriptors can be queued to be sent.
    pub(super) fn room(&mut self) -> usize {
        self.transmit.room() as usize
    }

    /// Whether the kernel must be called for frames to be sent.
    pub(super) fn needs_wakeup(&self) -> bool {
        self.transmit.needs_wakeup()
    }
}
