//! The receive ring of a packet socket: slots of memory that the kernel fills and we empty, in turn.
//!
//! ```text
//!   slot:  | tpacket2_hdr | sockaddr_ll |  reserve  | virtio-net header | frame ...        | room |
//!          0              32            52                              tp_mac             +snaplen
//! ```
//!
//! A frame that is longer than a slot, a train of TCP segments from this machine, waits in the socket's own queue, and costs a system
//! call.
//!
//! The first word of a slot says whose it is. Version 2 of the ring, not 3: that one packs frames closely into blocks, but hands over a
//! block only once it is full or a timer of the kernel has expired, which adds milliseconds to a quiet conversation.
#![allow(unsafe_code)] // Memory that is shared with the kernel; a word in each slot says whose it is.

use std::io::{self, IoSliceMut};
use std::mem::offset_of;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Release};

use arrayvec::ArrayVec;

use super::MAX_FRAME;
use crate::device::{
    BURST, HEADROOM, RxFrame, RxMeta,
    sys::{self, Mapping},
    vnet,
};

/// Where the bytes of a slot begin that are the frame's, or free in front of it.
const FRAME: usize = libc::TPACKET2_HDRLEN;

/// Where the kernel says, in front of the frame, whom it was for: `sll_pkttype` of a sockaddr_ll that follows the header.
const KIND: usize = size_of::<libc::tpacket2_hdr>() + offset_of!(libc::sockaddr_ll, sll_pkttype);

/// Bytes that the kernel allocates together, at least; a power of two, as slots are, so that they fill it.
const BLOCK: usize = 1 << 16;

/// The slots, mapped into our memory.
#[derive(Debug)]
pub(super) struct Ring {
    /// The socket once more.
    socket: OwnedFd,
    mapping: Mapping,
    slot: usize,
    slots: usize,
    /// The slot that the kernel fills next, as far as we know.
    next: usize,
    /// Frames are given their direction and their time.
    observe: bool,
    /// Buffers for frames that are longer than a slot.
    long: Vec<Box<[u8]>>,
}

/// A frame that arrived: in a slot, or, being longer than one, in the socket's queue, of this length.
enum Arrived<'a> {
    Slot(RxFrame<'a>),
    Queue(usize, RxMeta),
}

impl Arrived<'_> {
    /// Notes what an onlooker wants to know.
    fn observed(&mut self, header: &libc::tpacket2_hdr, kind: u8) {
        let meta = match self {
            Self::Slot(frame) => &mut frame.meta,
            Self::Queue(_, meta) => meta,
        };
        let nanos = u64::from(header.tp_sec) * 1_000_000_000 + u64::from(header.tp_nsec);
        (meta.outgoing, meta.timestamp) = (kind == libc::PACKET_OUTGOING, NonZeroU64::new(nanos));
    }
}

/// Takes the next frame from the socket's queue, behind [`HEADROOM`] bytes of the buffer. `None` when the queue had no room for it.
fn receive<'a>(socket: BorrowedFd<'_>, buf: &mut [u8]) -> Option<Arrived<'a>> {
    let mut header = [0; vnet::HEADER];
    let body = IoSliceMut::new(buf.get_mut(HEADROOM..)?);
    let read = sys::read_vectored(socket.as_raw_fd(), &mut [IoSliceMut::new(&mut header), body]).ok()?;
    let len = read.checked_sub(vnet::HEADER)?;
    Some(Arrived::Queue(len, vnet::decode(&header, len)))
}

/// The frame in a slot; `None` when it is not all of it.
fn in_slot<'a>(buf: &'a mut [u8], header: &libc::tpacket2_hdr) -> Option<Arrived<'a>> {
    let (start, len) = (usize::from(header.tp_mac).checked_sub(FRAME)?, header.tp_snaplen as usize);
    if header.tp_snaplen < header.tp_len || start + len > buf.len() {
        return None;
    }
    let front = start.checked_sub(vnet::HEADER).and_then(|at| buf.get(at..start)).unwrap_or_default();
    let mut meta = vnet::decode(front, len);
    if header.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
        meta.vlan = Some(header.tp_vlan_tci);
    }
    Some(Arrived::Slot(RxFrame::new(buf, start, len, meta)))
}

impl Ring {
    /// Gives the socket a ring of at least so many slots for frames of up to `longest` bytes, and maps it.
    ///
    /// # Errors
    /// What the system says; `ENOMEM` when it has not the memory.
    pub(super) fn new(
        socket: BorrowedFd<'_>,
        longest: usize,
        slots: usize,
        observe: bool,
    ) -> io::Result<Self> {
        let reserve = HEADROOM as libc::c_uint;
        sys::set_option(socket, libc::SOL_PACKET, libc::PACKET_RESERVE, reserve)?;
        let on: libc::c_int = 1;
        sys::set_option(socket, libc::SOL_PACKET, libc::PACKET_COPY_THRESH, on)?;
        // The kernel aligns the network header; Ethernet header, virtio-net header and reserve come before it.
        let slot = (FRAME + HEADROOM + 64 + longest).next_power_of_two();
        let block = slot.max(BLOCK);
        let slots = slots.next_multiple_of(block / slot);
        let request = libc::tpacket_req {
            tp_block_size: block as libc::c_uint,
            tp_block_nr: (slots / (block / slot)) as libc::c_uint,
            tp_frame_size: slot as libc::c_uint,
            tp_frame_nr: slots as libc::c_uint,
        };
        sys::set_option(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, request)?;
        let mapping = Mapping::new(slot * slots, libc::MAP_SHARED, socket.as_raw_fd(), 0)?;
        let socket = socket.try_clone_to_owned()?;
        Ok(Self { socket, mapping, slot, slots, next: 0, observe, long: Vec::new() })
    }

    /// Hands the frames that wait to `sink`, at most a burst, then to `after`, and gives their slots back. How many there were, and
    /// how many more are lost, because the kernel had room neither in a slot nor in the socket's queue.
    pub(super) fn burst(
        &mut self,
        sink: &mut dyn FnMut(&mut [RxFrame<'_>]),
        after: impl FnOnce(&[RxFrame<'_>]),
    ) -> (usize, u64) {
        let mut long = ArrayVec::<Box<[u8]>, BURST>::new();
        let mut arrived = ArrayVec::<Arrived<'_>, BURST>::new();
        let (mut taken, mut cut) = (0, 0);
        while taken < BURST.min(self.slots) {
            let at = (self.next + taken) % self.slots;
            // SAFETY: `at` is below `slots`, and no slot is visited twice in this loop.
            let Some((buf, header, kind)) = (unsafe { self.filled(at) }) else { break };
            taken += 1;
            let mut frame = if header.tp_status & libc::TP_STATUS_COPY != 0 {
                let mut buf = self.long.pop().unwrap_or_else(|| vec![0; HEADROOM + MAX_FRAME].into());
                let got = receive(self.socket.as_fd(), &mut buf);
                long.push(buf);
                got
            } else {
                in_slot(buf, &header)
            };
            if let Some(frame) = frame.as_mut().filter(|_| self.observe) {
                frame.observed(&header, kind);
            }
            match frame {
                Some(frame) => arrived.push(frame),
                None => cut += 1,
            }
        }
        let count = arrived.len();
        if count > 0 {
            let mut frames = ArrayVec::<RxFrame<'_>, BURST>::new();
            let mut buffers = long.iter_mut();
            for frame in arrived {
                match frame {
                    Arrived::Slot(frame) => frames.push(frame),
                    Arrived::Queue(len, meta) => {
                        frames.extend(buffers.next().map(|buf| RxFrame::new(buf, HEADROOM, len, meta)));
                    }
                }
            }
            sink(&mut frames);
            after(&frames);
        }
        self.long.extend(long);
        for i in 0..taken {
            self.status((self.next + i) % self.slots).store(libc::TP_STATUS_KERNEL, Release);
        }
        self.next = (self.next + taken) % self.slots;
        (count, cut)
    }

    /// The bytes of slot `at` behind its header, a copy of that, and whom the frame was for, if the kernel has filled it.
    ///
    /// # Safety
    /// `at` is below `slots`, and the bytes that were given before for this slot are not used any more.
    unsafe fn filled<'a>(&self, at: usize) -> Option<(&'a mut [u8], libc::tpacket2_hdr, u8)> {
        // Acquire: what the kernel wrote before it gave us the slot is seen after.
        if self.status(at).load(Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the slot lies within the mapping, is aligned to a page, and is ours until `burst` gives it back; that drops
        // the frames before.
        unsafe {
            let slot = self.mapping.memory().as_ptr().add(at * self.slot);
            let header = slot.cast::<libc::tpacket2_hdr>().read();
            let kind = slot.add(KIND).read();
            Some((slice::from_raw_parts_mut(slot.add(FRAME), self.slot - FRAME), header, kind))
        }
    }

    /// The word that says whose slot `at` is.
    fn status(&self, at: usize) -> &AtomicU32 {
        debug_assert!(at < self.slots);
        // SAFETY: the first word of a slot within the mapping, aligned to a page; kernel and process access it atomically.
        unsafe { AtomicU32::from_ptr(self.mapping.memory().as_ptr().add(at * self.slot).cast()) }
    }
}

// SAFETY: the memory is the ring's alone on our side, whichever thread that is on.
unsafe impl Send for Ring {}
