//! The receive ring of a packet socket: slots of memory that the kernel fills and we empty, in turn.
//!
//! ```text
//!   slot:  | tpacket2_hdr | sockaddr_ll |  reserve  | virtio-net header | frame ...        | room |
//!          0              32            52                              tp_mac             +snaplen
//! ```
//!
//! The first word of a slot says whose it is. Version 2 of the ring, not 3: that one packs frames closely into blocks, but hands over a
//! block only once it is full or a timer of the kernel has expired, which adds milliseconds to a quiet conversation.
#![allow(unsafe_code)] // Memory that is shared with the kernel; a word in each slot says whose it is.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Release};

use arrayvec::ArrayVec;

use crate::device::{BURST, HEADROOM, RxFrame, sys, vnet};

/// Where the bytes of a slot begin that are the frame's, or free in front of it.
const FRAME: usize = libc::TPACKET2_HDRLEN;

/// The slots, mapped into our memory.
#[derive(Debug)]
pub(super) struct Ring {
    memory: NonNull<u8>,
    slot: usize,
    slots: usize,
    /// The slot that the kernel fills next, as far as we know.
    next: usize,
}

impl Ring {
    /// Gives the socket a ring of slots for frames of up to `longest` bytes, and maps it.
    ///
    /// # Errors
    /// What the system says; `ENOMEM` when it has not the memory.
    pub(super) fn new(socket: BorrowedFd<'_>, longest: usize, slots: usize) -> io::Result<Self> {
        let reserve = HEADROOM as libc::c_uint;
        sys::set_option(socket, libc::SOL_PACKET, libc::PACKET_RESERVE, reserve)?;
        // The kernel aligns the network header; Ethernet header, virtio-net header and reserve come before it.
        let slot = (FRAME + HEADROOM + 64 + longest).next_multiple_of(1 << 12);
        let (size, count) = (slot as libc::c_uint, slots as libc::c_uint);
        let request = libc::tpacket_req {
            tp_block_size: size,
            tp_block_nr: count,
            tp_frame_size: size,
            tp_frame_nr: count,
        };
        sys::set_option(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, request)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let fd = socket.as_raw_fd();
        // SAFETY: a new mapping anywhere, which replaces none.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                slot * slots,
                protection,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd,
                0,
            )
        };
        match NonNull::new(memory.cast()).filter(|_| memory != libc::MAP_FAILED) {
            Some(memory) => Ok(Self { memory, slot, slots, next: 0 }),
            None => Err(io::Error::last_os_error()),
        }
    }

    /// Hands the frames that wait to `sink`, at most a burst, then to `after`, and gives their slots back. How many there were, and
    /// how many more the kernel had to cut, which are lost.
    pub(super) fn burst(
        &mut self,
        sink: &mut dyn FnMut(&mut [RxFrame<'_>]),
        after: impl FnOnce(&[RxFrame<'_>]),
    ) -> (usize, u64) {
        let (mut taken, mut cut) = (0, 0);
        let mut frames = ArrayVec::<RxFrame<'_>, BURST>::new();
        while taken < BURST.min(self.slots) {
            let at = (self.next + taken) % self.slots;
            // SAFETY: `at` is below `slots`, and no slot is visited twice in this loop.
            let Some((buf, header)) = (unsafe { self.filled(at) }) else { break };
            taken += 1;
            let (start, len) = (usize::from(header.tp_mac).saturating_sub(FRAME), header.tp_snaplen as usize);
            if header.tp_snaplen < header.tp_len || start + len > buf.len() {
                cut += 1;
                continue;
            }
            let front = start.checked_sub(vnet::HEADER).and_then(|at| buf.get(at..start)).unwrap_or_default();
            let mut meta = vnet::decode(front, len);
            if header.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                meta.vlan = Some(header.tp_vlan_tci);
            }
            frames.push(RxFrame::new(buf, start, len, meta));
        }
        if taken == 0 {
            return (0, 0);
        }
        let count = frames.len();
        if count > 0 {
            sink(&mut frames);
            after(&frames);
        }
        drop(frames);
        for i in 0..taken {
            self.status((self.next + i) % self.slots).store(libc::TP_STATUS_KERNEL, Release);
        }
        self.next = (self.next + taken) % self.slots;
        (count, cut)
    }

    /// The bytes of slot `at` behind its header, and a copy of that, if the kernel has filled it.
    ///
    /// # Safety
    /// `at` is below `slots`, and the bytes that were given before for this slot are not used any more.
    unsafe fn filled<'a>(&self, at: usize) -> Option<(&'a mut [u8], libc::tpacket2_hdr)> {
        // Acquire: what the kernel wrote before it gave us the slot is seen after.
        if self.status(at).load(Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the slot lies within the mapping, is aligned to a page, and is ours until `burst` gives it back; that drops
        // the frames before.
        unsafe {
            let slot = self.memory.as_ptr().add(at * self.slot);
            let header = slot.cast::<libc::tpacket2_hdr>().read();
            Some((slice::from_raw_parts_mut(slot.add(FRAME), self.slot - FRAME), header))
        }
    }

    /// The word that says whose slot `at` is.
    fn status(&self, at: usize) -> &AtomicU32 {
        debug_assert!(at < self.slots);
        // SAFETY: the first word of a slot within the mapping, aligned to a page; kernel and process access it atomically.
        unsafe { AtomicU32::from_ptr(self.memory.as_ptr().add(at * self.slot).cast()) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no frame of it is lent out.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.slot * self.slots) };
    }
}

// SAFETY: the memory is the ring's alone on our side, whichever thread that is on.
unsafe impl Send for Ring {}
