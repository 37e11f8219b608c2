//! One packet buffer: a chain of one or more segments, each with headroom, data and tailroom.

use std::fmt;
use std::iter;
use std::marker::PhantomData;
use std::ops::Range;
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
const OL_FLAGS: Field<u64> = Field(raw::NTY_MBUF_OL_FLAGS, PhantomData);
const VLAN_TCI: Field<u16> = Field(raw::NTY_MBUF_VLAN_TCI, PhantomData);
const RSS_HASH: Field<u32> = Field(raw::NTY_MBUF_RSS_HASH, PhantomData);
const TX_OFFLOAD: Field<u64> = Field(raw::NTY_MBUF_TX_OFFLOAD, PhantomData);

impl<T: Copy> Field<T> {
    /// # Safety
    /// `mbuf` points to a live mbuf that nobody writes.
    #[inline]
    unsafe fn get(&self, mbuf: *const rte_mbuf) -> T {
        // SAFETY: by the caller; the offset and the type are the C compiler's, so it is inside and aligned.
        unsafe { mbuf.byte_add(self.0 as usize).cast::<T>().read() }
    }

    /// # Safety
    /// `mbuf` points to a live mbuf that nobody else uses.
    #[inline]
    unsafe fn set(&self, mbuf: *mut rte_mbuf, value: T) {
        // SAFETY: as above.
        unsafe { mbuf.byte_add(self.0 as usize).cast::<T>().write(value) }
    }
}

/// What a driver says about the layer-4 checksum of a received packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum L4Checksum {
    /// It is wrong, or the driver did not look.
    #[default]
    Unverified,
    /// It is right.
    Good,
    /// The field holds the sum of the pseudo header only, and the data is right: the packet never was on a
    /// wire.
    Unfinished,
}

/// What a driver says of a received packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RxInfo {
    /// Its layer-4 checksum.
    pub checksum: L4Checksum,
    /// The hash of its flow.
    pub rss_hash: Option<u32>,
    /// The tag control information of the VLAN tag that was taken out of it.
    pub vlan: Option<u16>,
    /// Payload bytes of each segment of a train that was merged.
    pub segment_size: Option<u16>,
}

/// The protocol whose checksum a driver is to finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L4 {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What a driver is to do with a packet: finish the layer-4 checksum, whose field holds the sum of the pseudo
/// header, and perhaps more. Only for a port with the offloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxOffload {
    /// The protocol.
    pub l4: L4,
    /// It is in an IPv6 packet, not an IPv4 one.
    pub ipv6: bool,
    /// Bytes of the Ethernet header, tags included: at most 127.
    pub l2_len: u8,
    /// Bytes of the IP header: at most 511.
    pub l3_len: u16,
    /// The train to cut the packet into, if it is TCP.
    pub segments: Option<Segments>,
}

/// How a packet is cut into segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    /// Payload bytes of each but the last.
    pub size: u16,
    /// Bytes of the TCP header.
    pub l4_len: u8,
    /// The driver makes the checksum of the IPv4 headers too.
    pub ip_checksum: bool,
}

/// A packet buffer, owned. Dropped, it goes back to its pool; in bulk that is cheaper, so keep them in a
/// [`crate::Burst`].
#[repr(transparent)]
pub struct Mbuf(NonNull<rte_mbuf>);

// SAFETY: an Mbuf is the only owner of its buffer, and pools take buffers back from any thread.
unsafe impl Send for Mbuf {}

/// What DPDK keeps of a packet beside the buffer of its first segment, so that the two can be changed independently: see
/// [`Mbuf::split_mut`].
#[derive(Debug)]
pub struct Head<'a>(NonNull<rte_mbuf>, PhantomData<&'a mut Mbuf>);

impl Mbuf {
    /// Takes over a buffer from a call into `raw`. `None` for a null pointer.
    ///
    /// # Safety
    /// The buffer is a live one from a pktmbuf pool, well-formed, with a reference count of 1 in each
    /// segment, and nobody else owns it.
    #[inline]
    pub unsafe fn from_raw(mbuf: *mut rte_mbuf) -> Option<Mbuf> {
        NonNull::new(mbuf).map(Mbuf)
    }

    /// Hands the buffer to a call into `raw`, which frees it.
    #[inline]
    pub fn into_raw(self) -> *mut rte_mbuf {
        let mbuf = self.0.as_ptr();
        std::mem::forget(self);
        mbuf
    }

    /// The bytes of the first segment: all of the packet, unless [`Mbuf::segment_count`] is more than 1.
    #[inline]
    pub fn data(&self) -> &[u8] {
        // SAFETY: self owns the buffer.
        unsafe { segment(self.0.as_ptr()) }
    }

    /// The bytes of the first segment, to be changed in place.
    #[inline]
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
    #[inline]
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
    #[inline]
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
    #[inline]
    pub fn set_len(&mut self, len: usize) -> Result<(), DpdkError> {
        // SAFETY: self owns the buffer.
        let start = usize::from(unsafe { DATA_OFF.get(self.0.as_ptr()) });
        self.set_extent(start, len)
    }

    /// The whole buffer of the first segment, with the headroom and what is behind the data, and where in it
    /// the data is.
    #[inline]
    pub fn buffer_mut(&mut self) -> (&mut [u8], Range<usize>) {
        let (_, buffer, place) = self.split_mut();
        (buffer, place)
    }

    /// The packet's head, and beside it what [`Mbuf::buffer_mut`] answers.
    #[inline]
    pub fn split_mut(&mut self) -> (Head<'_>, &mut [u8], Range<usize>) {
        let mbuf = self.0.as_ptr();
        // SAFETY: self owns the buffer and is borrowed mutably; buf_addr and buf_len are its extent, which EAL
        // has mapped, and in which the rte_mbuf itself is not.
        unsafe {
            let size = BUF_LEN.get(mbuf);
            let start = DATA_OFF.get(mbuf).min(size);
            // net_null says more than there is if it is told a size beyond the pool's.
            let len = DATA_LEN.get(mbuf).min(size - start);
            let buffer = slice::from_raw_parts_mut(BUF_ADDR.get(mbuf), usize::from(size));
            (Head(self.0, PhantomData), buffer, usize::from(start)..usize::from(start + len))
        }
    }

    /// Has the first bytes of the packet brought into the cache, to be changed soon.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
            // SAFETY: self owns the buffer. A prefetch touches nothing, whatever the address.
            unsafe {
                let start = BUF_ADDR.get(self.0.as_ptr()).wrapping_add(DATA_OFF.get(self.0.as_ptr()).into());
                _mm_prefetch::<_MM_HINT_ET0>(start.cast::<i8>());
            }
        }
    }

    /// Whether this is a buffer as a pool with room for `room` bytes gives it out, so that [`Mbuf::renew`] makes it as good as
    /// one from there.
    #[inline]
    pub fn is_like_new(&self, room: usize) -> bool {
        let mbuf = self.0.as_ptr();
        // SAFETY: self owns the buffer.
        let (size, segments, flags) =
            unsafe { (BUF_LEN.get(mbuf), NB_SEGS.get(mbuf), OL_FLAGS.get(mbuf) & raw::NTY_BUFFER_FLAGS) };
        usize::from(size) == room + raw::RTE_PKTMBUF_HEADROOM as usize && segments == 1 && flags == 0
    }

    /// Makes the packet one of `len` bytes behind the usual headroom, as fresh from a pool, except that what its driver is to do is
    /// still to be said ([`Head::set_tx_offload`]).
    ///
    /// # Errors
    /// As [`Mbuf::set_len`].
    #[inline]
    pub fn renew(&mut self, len: usize) -> Result<(), DpdkError> {
        self.set_extent(raw::RTE_PKTMBUF_HEADROOM as usize, len)
    }

    /// Makes the packet the bytes of its buffer at this place.
    ///
    /// # Errors
    /// As [`Mbuf::set_len`].
    #[inline]
    pub fn set_extent(&mut self, start: usize, len: usize) -> Result<(), DpdkError> {
        Head(self.0, PhantomData).set_extent(start, len)
    }

    /// What the driver said of the packet when it was received.
    #[inline]
    pub fn rx_info(&self) -> RxInfo {
        const SAYS: u64 =
            raw::NTY_RX_L4_CKSUM_MASK | raw::NTY_RX_RSS_HASH | raw::NTY_RX_VLAN_STRIPPED | raw::NTY_RX_LRO;
        let mbuf = self.0.as_ptr();
        // SAFETY: self owns the buffer.
        let flags = unsafe { OL_FLAGS.get(mbuf) };
        if flags & SAYS == 0 {
            return RxInfo::default();
        }
        let said = |flag| flags & flag != 0;
        // SAFETY: as above, for all three.
        let (hash, tci, offload) = unsafe { (RSS_HASH.get(mbuf), VLAN_TCI.get(mbuf), TX_OFFLOAD.get(mbuf)) };
        RxInfo {
            checksum: match flags & raw::NTY_RX_L4_CKSUM_MASK {
                raw::NTY_RX_L4_CKSUM_GOOD => L4Checksum::Good,
                raw::NTY_RX_L4_CKSUM_NONE => L4Checksum::Unfinished,
                _ => L4Checksum::Unverified,
            },
            rss_hash: said(raw::NTY_RX_RSS_HASH).then_some(hash),
            vlan: said(raw::NTY_RX_VLAN_STRIPPED).then_some(tci),
            // The 16 bits from there on.
            segment_size: said(raw::NTY_RX_LRO).then_some((offload >> raw::NTY_TX_TSO_SEGSZ_BIT) as u16),
        }
    }

    /// Copies the packet, all of its segments and what the driver said of it, into one that has room for it
    /// in one segment.
    ///
    /// # Errors
    /// As [`Mbuf::set_len`] of that one, which then is as it was.
    pub fn gather_into(&self, whole: &mut Mbuf) -> Result<(), DpdkError> {
        whole.set_len(self.packet_len())?;
        let mut rest = whole.data_mut();
        for segment in self.segments() {
            let Some((to, behind)) = rest.split_at_mut_checked(segment.len()) else { break };
            to.copy_from_slice(segment);
            rest = behind;
        }
        let (from, to) = (self.0.as_ptr(), whole.0.as_ptr());
        // SAFETY: both are owned, and `whole` is borrowed mutably. What the flags say of a buffer is not
        // copied.
        unsafe {
            let kept = OL_FLAGS.get(to) & raw::NTY_BUFFER_FLAGS;
            OL_FLAGS.set(to, OL_FLAGS.get(from) & !raw::NTY_BUFFER_FLAGS | kept);
            VLAN_TCI.set(to, VLAN_TCI.get(from));
            RSS_HASH.set(to, RSS_HASH.get(from));
            TX_OFFLOAD.set(to, TX_OFFLOAD.get(from));
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

impl Head<'_> {
    /// Makes the packet the bytes of its buffer at this place.
    ///
    /// # Errors
    /// As [`Mbuf::set_len`].
    #[inline]
    pub fn set_extent(&mut self, start: usize, len: usize) -> Result<(), DpdkError> {
        let mbuf = self.0.as_ptr();
        // SAFETY: the head is that of an owned buffer.
        let (size, segments) = unsafe { (usize::from(BUF_LEN.get(mbuf)), NB_SEGS.get(mbuf)) };
        if start > size || len > size - start || segments != 1 {
            return Err(misfit(start, len, size, segments));
        }
        // SAFETY: as above, and borrowed mutably; the data is inside of the buffer, whose size fits 16 bits.
        unsafe {
            DATA_OFF.set(mbuf, start as u16);
            DATA_LEN.set(mbuf, len as u16);
            PKT_LEN.set(mbuf, len as u32);
        }
        Ok(())
    }

    /// What the driver is to do when it sends the packet: nothing for `None`. `vlan` is the tag to put into it.
    #[inline]
    pub fn set_tx_offload(&mut self, offload: Option<TxOffload>, vlan: Option<u16>) {
        let mbuf = self.0.as_ptr();
        let mut flags = vlan.map_or(0, |_| raw::NTY_TX_VLAN);
        let mut lengths = 0;
        if let Some(TxOffload { l4, ipv6, l2_len, l3_len, segments }) = offload {
            flags |= match l4 {
                L4::Tcp => raw::NTY_TX_TCP_CKSUM,
                L4::Udp => raw::NTY_TX_UDP_CKSUM,
            };
            flags |= if ipv6 { raw::NTY_TX_IPV6 } else { raw::NTY_TX_IPV4 };
            lengths |= u64::from(l2_len & 0x7f) << raw::NTY_TX_L2_LEN_BIT;
            lengths |= u64::from(l3_len & 0x1ff) << raw::NTY_TX_L3_LEN_BIT;
            if let Some(Segments { size, l4_len, ip_checksum }) = segments {
                flags |= raw::NTY_TX_TCP_SEG;
                flags |= if ip_checksum && !ipv6 { raw::NTY_TX_IP_CKSUM } else { 0 };
                lengths |= u64::from(l4_len) << raw::NTY_TX_L4_LEN_BIT;
                lengths |= u64::from(size) << raw::NTY_TX_TSO_SEGSZ_BIT;
            }
        }
        // SAFETY: the head is that of an owned buffer that is borrowed mutably. What the flags say of the buffer stays.
        unsafe {
            OL_FLAGS.set(mbuf, OL_FLAGS.get(mbuf) & raw::NTY_BUFFER_FLAGS | flags);
            if offload.is_some() {
                TX_OFFLOAD.set(mbuf, lengths);
            }
            if let Some(tci) = vlan {
                VLAN_TCI.set(mbuf, tci);
            }
        }
    }
}

/// Why a packet cannot be so many bytes from there on.
#[cold]
fn misfit(start: usize, len: usize, size: usize, segments: u16) -> DpdkError {
    if segments != 1 {
        let errno = Errno::EINVAL;
        return DpdkError::Call { call: "set_len", object: "an mbuf of several segments".into(), errno };
    }
    let (len, room) = if start > size { (start, size) } else { (len, size - start) };
    DpdkError::TooLong { len, room }
}

/// Where the data of a segment is, and how long.
///
/// # Safety
/// `mbuf` points to a live mbuf that nobody writes.
#[inline]
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
#[inline]
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
