//! A queue of datagrams on a byte FIFO: what lies between a UDP socket's protocol half and its application half.
//!
//! Each datagram is one record, published at once, so that the reader never sees a part of one:
//!
//! ```text
//!  0      2        3        4       6         8                      8 + 2a
//! +------+--------+--------+-------+---------+----------+-----------+---------
//! | len  | family | 0      | port  | 0       | remote   | local     | payload     a = 4 or 16 bytes
//! +------+--------+--------+-------+---------+----------+-----------+---------
//! ```
//!
//! `len` is the payload's; numbers are little-endian, so that a header of IPv4 is written and read as one number. The
//! queue is bounded in bytes by the FIFO and in datagrams by a pair of counts of which each side writes one. Neither side
//! waits for the other, and both work from different threads.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crate::fifo::{Chunks, Consumer, Home, PagePool, Producer, copy, fifo};

/// Length of a record header with IPv4 addresses.
const HEADER_V4: usize = 16;
/// Length of the longest record header, that with IPv6 addresses.
pub(super) const MAX_HEADER: usize = 40;
/// What the family says.
const V4: u8 = 4;
const V6: u8 = 6;

/// Whom a datagram goes to or comes from, and over which of our addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecordHeader {
    /// The peer.
    pub remote: SocketAddr,
    /// Our address: the destination of what was received; for what is sent the source, or unspecified for the stack to
    /// choose.
    pub local: IpAddr,
    /// Bytes of payload.
    pub len: u16,
}

impl RecordHeader {
    /// Both addresses as [`RecordV4`] has them.
    pub(crate) fn addresses_v4(&self) -> Option<u64> {
        match (self.remote.ip(), self.local) {
            (IpAddr::V4(remote), IpAddr::V4(local)) => {
                let word = |ip: Ipv4Addr| u64::from(u32::from_le_bytes(ip.octets()));
                Some(word(local) << 32 | word(remote))
            }
            _ => None,
        }
    }
}

/// A datagram between IPv4 addresses, at the place where it lies in the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordV4<'a> {
    /// Both addresses as one number, for comparing.
    pub addresses: u64,
    /// The peer's port.
    pub port: u16,
    pub payload: &'a [u8],
}

impl<'a> RecordV4<'a> {
    /// Bytes of a record before its payload.
    pub(crate) const HEADER: usize = HEADER_V4;

    /// The record at the front of `bytes`, if all of it is there and it is of IPv4.
    #[inline]
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_V4>()?;
        let word = u128::from_le_bytes(*header);
        if (word >> 16) as u8 != V4 {
            return None;
        }
        let payload = rest.get(..usize::from(word as u16))?;
        Some(Self { addresses: (word >> 64) as u64, port: (word >> 32) as u16, payload })
    }

    /// The peer's address.
    #[inline]
    pub(crate) fn remote(&self) -> Ipv4Addr {
        Ipv4Addr::from((self.addresses as u32).to_le_bytes())
    }

    /// Our address.
    #[inline]
    pub(crate) fn local(&self) -> Ipv4Addr {
        Ipv4Addr::from(((self.addresses >> 32) as u32).to_le_bytes())
    }

    /// Bytes of the whole record.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        HEADER_V4 + self.payload.len()
    }
}

/// A queue for up to `records` datagrams whose payloads and headers take up to `bytes`.
pub(crate) fn records(
    pool: &PagePool,
    bytes: usize,
    records: u64,
    home: Home,
) -> (RecordWriter, RecordReader) {
    let (producer, consumer) = fifo(pool, bytes, home);
    let taken = Arc::new(AtomicU64::new(0));
    let writer = RecordWriter { producer, put: 0, taken: taken.clone(), limit: records };
    (writer, RecordReader { consumer, taken })
}

/// The half that puts datagrams in.
#[derive(Debug)]
pub(crate) struct RecordWriter {
    producer: Producer,
    put: u64,
    taken: Arc<AtomicU64>,
    limit: u64,
}

impl RecordWriter {
    /// Appends a datagram, or refuses it whole: `false` when the queue is full or the pool has no memory.
    #[must_use]
    #[inline]
    pub(crate) fn push(&mut self, remote: SocketAddr, local: IpAddr, payload: &[u8]) -> bool {
        match (remote, local) {
            (SocketAddr::V4(to), IpAddr::V4(from)) => self.push_v4(*to.ip(), to.port(), from, payload),
            _ => self.push_v6(remote, local, payload),
        }
    }

    /// As [`RecordWriter::push`], between IPv4 addresses.
    #[must_use]
    #[inline]
    pub(crate) fn push_v4(&mut self, remote: Ipv4Addr, port: u16, local: Ipv4Addr, payload: &[u8]) -> bool {
        if payload.len() > usize::from(u16::MAX) || self.is_full() {
            return false;
        }
        let header = encode_v4(remote, port, local, payload.len() as u16);
        let written = self.producer.write_record(header, payload);
        self.put += u64::from(written);
        written
    }

    /// As [`RecordWriter::push_v4`], for as many of these payloads as there is room for that lies together; all appear at once. Says how
    /// many: of one more, perhaps, it was only asked for.
    #[inline]
    pub(crate) fn push_run_v4<'p>(
        &mut self,
        remote: Ipv4Addr,
        port: u16,
        local: Ipv4Addr,
        payloads: impl IntoIterator<Item = &'p [u8]>,
    ) -> u64 {
        let (mut payloads, mut count) = (payloads.into_iter(), 0);
        let most = self.limit.saturating_sub(self.put - self.taken.load(Ordering::Relaxed));
        let common = u128::from_le_bytes(encode_v4(remote, port, local, 0));
        self.producer.write_with(usize::MAX, |room| {
            let mut done = 0;
            while count < most
                && let Some(payload) = payloads.next()
                && payload.len() <= usize::from(u16::MAX)
                && let Some(rest) = room.get_mut(done..)
                && let Some((header, behind)) = rest.split_first_chunk_mut::<HEADER_V4>()
                && let Some(to) = behind.get_mut(..payload.len())
            {
                // The length is in the lowest bits.
                *header = (common | payload.len() as u128).to_le_bytes();
                copy(to, payload);
                done += HEADER_V4 + payload.len();
                count += 1;
            }
            done
        });
        self.put += count;
        count
    }

    /// As [`RecordWriter::push_v4`], with a payload of up to `max` bytes that `write` puts in place and says the length of. `None`,
    /// without calling it, when there is no room for it that lies together.
    #[inline]
    pub(crate) fn push_v4_with(
        &mut self,
        to: SocketAddrV4,
        local: Ipv4Addr,
        max: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<usize> {
        if max > usize::from(u16::MAX) || self.is_full() {
            return None;
        }
        let header = |len: usize| encode_v4(*to.ip(), to.port(), local, len as u16);
        let written = self.producer.write_record_with(max, header, write);
        self.put += u64::from(written.is_some());
        written
    }

    /// As [`RecordWriter::push_v4_with`], between any addresses, and through a buffer of its own where the room is in pieces.
    #[inline(never)]
    pub(crate) fn push_with(
        &mut self,
        remote: SocketAddr,
        local: IpAddr,
        max: usize,
        mut write: impl FnMut(&mut [u8]) -> usize,
    ) -> Option<usize> {
        if let (SocketAddr::V4(to), IpAddr::V4(from)) = (remote, local)
            && let Some(len) = self.push_v4_with(to, from, max, &mut write)
        {
            return Some(len);
        }
        if !self.can_push(max) {
            return None;
        }
        let mut payload = vec![0; max];
        let len = write(&mut payload);
        payload.truncate(len);
        self.push(remote, local, &payload).then_some(payload.len())
    }

    #[cold]
    fn push_v6(&mut self, remote: SocketAddr, local: IpAddr, payload: &[u8]) -> bool {
        let Ok(len) = u16::try_from(payload.len()) else { return false };
        let written = !self.is_full() && self.producer.write_record(encode_v6(remote, local, len), payload);
        self.put += u64::from(written);
        written
    }

    /// Whether as many datagrams wait as may.
    #[inline]
    fn is_full(&self) -> bool {
        self.put - self.taken.load(Ordering::Relaxed) >= self.limit
    }

    /// Whether a datagram with `payload` bytes would be taken now; see [`Producer::can_write`].
    pub(crate) fn can_push(&self, payload: usize) -> bool {
        !self.is_full() && self.producer.can_write(MAX_HEADER + payload)
    }

    /// Whether the queue has room for a datagram with `payload` bytes, whatever the pool has.
    pub(crate) fn has_room(&self, payload: usize) -> bool {
        !self.is_full() && self.producer.free() >= MAX_HEADER + payload
    }

    /// Whether a datagram with `payload` bytes could ever fit.
    pub(crate) fn can_hold(&self, payload: usize) -> bool {
        payload + MAX_HEADER <= self.producer.capacity()
    }

    /// Lets the reader be the one to give pages back from now on.
    pub(crate) fn leave_home(&mut self) {
        self.producer.set_home(Home::Consumer);
    }

    /// Gives the pages back if the queue is empty; see [`Producer::release`].
    pub(crate) fn release(&mut self) -> bool {
        self.producer.release()
    }

    /// Whether the other half still exists.
    pub(crate) fn is_reader_alive(&self) -> bool {
        self.producer.is_consumer_alive()
    }
}

/// The half that takes datagrams out.
#[derive(Debug)]
pub(crate) struct RecordReader {
    consumer: Consumer,
    taken: Arc<AtomicU64>,
}

impl RecordReader {
    /// The first datagram: its header, and its payload in pieces.
    #[inline]
    pub(crate) fn first(&mut self) -> Option<(RecordHeader, Chunks<'_>)> {
        let mut record = self.consumer.peek(0, usize::MAX);
        let head = match record.first().first_chunk::<HEADER_V4>() {
            Some(bytes) if bytes[2] == V4 => decode_v4(bytes),
            _ => decode_any(&record)?,
        };
        record.skip_bytes(header_len(head.local));
        record.truncate(usize::from(head.len));
        Some((head, record))
    }

    /// Drops the first datagram, whose header is `head`.
    pub(crate) fn consume(&mut self, head: &RecordHeader) {
        self.drop_first(1, header_len(head.local) + usize::from(head.len));
    }

    /// The datagrams that wait, as many as lie together, for [`RecordV4::parse`].
    #[inline]
    pub(crate) fn front(&mut self) -> &[u8] {
        self.consumer.front()
    }

    /// Drops the first `count` datagrams, which are `bytes` long with their headers.
    #[inline]
    pub(crate) fn drop_first(&mut self, count: u64, bytes: usize) {
        self.consumer.consume(bytes);
        // Only this half writes the count.
        self.taken.store(self.taken.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    /// Gives the pages back if the queue is empty; see [`Consumer::release`].
    pub(crate) fn release(&mut self) {
        self.consumer.release();
    }

    /// Whether no datagram waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.consumer.is_empty()
    }
}

const fn header_len(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => HEADER_V4,
        IpAddr::V6(_) => MAX_HEADER,
    }
}

/// Port, family and length as the first eight bytes hold them.
const fn encode_fixed(port: u16, family: u8, len: u16) -> u64 {
    (port as u64) << 32 | (family as u64) << 16 | len as u64
}

fn encode_v4(remote: Ipv4Addr, port: u16, local: Ipv4Addr, len: u16) -> [u8; HEADER_V4] {
    let word = |ip: Ipv4Addr| u128::from(u32::from_le_bytes(ip.octets()));
    let fixed = u128::from(encode_fixed(port, V4, len));
    (word(local) << 96 | word(remote) << 64 | fixed).to_le_bytes()
}

fn decode_v4(bytes: &[u8; HEADER_V4]) -> RecordHeader {
    let word = u128::from_le_bytes(*bytes);
    let ip = |word: u128| Ipv4Addr::from((word as u32).to_le_bytes());
    let remote = SocketAddr::new(ip(word >> 64).into(), (word >> 32) as u16);
    RecordHeader { remote, local: ip(word >> 96).into(), len: word as u16 }
}

/// The header of a record with IPv6 addresses. One of IPv4 beside one of IPv6 is mapped.
#[cold]
fn encode_v6(remote: SocketAddr, local: IpAddr, len: u16) -> [u8; MAX_HEADER] {
    let mut bytes = [0; MAX_HEADER];
    let (fixed, addresses) = bytes.split_at_mut(8);
    fixed.copy_from_slice(&encode_fixed(remote.port(), V6, len).to_le_bytes());
    addresses[..16].copy_from_slice(&v6(remote.ip()).octets());
    addresses[16..].copy_from_slice(&v6(local).octets());
    bytes
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    }
}

/// The header of any record, wherever pages end. `None` when there is none.
#[cold]
fn decode_any(record: &Chunks<'_>) -> Option<RecordHeader> {
    let mut bytes = [0; MAX_HEADER];
    let n = record.clone().copy_to(&mut bytes);
    let bytes = bytes.get(..n)?;
    if *bytes.get(2)? == V4 {
        return bytes.first_chunk().map(decode_v4);
    }
    let word = u64::from_le_bytes(*bytes.first_chunk()?);
    let remote: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
    let local: [u8; 16] = *bytes.get(24..)?.first_chunk()?;
    let remote = SocketAddr::new(remote.into(), (word >> 32) as u16);
    Some(RecordHeader { remote, local: local.into(), len: word as u16 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_out_whole_and_in_order_with_their_addresses() {
        let (mut writer, mut reader) = records(&PagePool::new(16), 1 << 16, 10, Home::Producer);
        let peers: [SocketAddr; 2] = ["10.0.0.2:7".parse().unwrap(), "[fe80::1]:65535".parse().unwrap()];
        let locals: [IpAddr; 2] = ["0.0.0.0".parse().unwrap(), "::".parse().unwrap()];
        for round in 0..1_000usize {
            let (remote, local) = (peers[round % 2], locals[round % 2]);
            let payload = vec![round as u8; round * 7 % 5_000];
            assert!(writer.push(remote, local, &payload));
            let (head, chunks) = reader.first().unwrap();
            assert_eq!(head, RecordHeader { remote, local, len: payload.len() as u16 });
            assert_eq!(chunks.remaining(), payload.len());
            let mut out = vec![0; payload.len() + 1];
            assert_eq!(chunks.copy_to(&mut out), payload.len());
            assert_eq!(out[..payload.len()], payload);
            reader.consume(&head);
            assert!(reader.is_empty());
        }
    }

    /// Records of every length, one ahead of the reader, so that headers and payloads are cut by page ends at every place.
    #[test]
    fn records_that_turn_a_page_are_read_whole() {
        let (mut writer, mut reader) =
            records(&PagePool::with_page_size(64, 400), 1 << 16, 10, Home::Producer);
        let remote: SocketAddr = "10.0.0.2:7".parse().unwrap();
        let (v6, any_v6): (SocketAddr, IpAddr) = ("[fe80::1]:9".parse().unwrap(), "::".parse().unwrap());
        let local = IpAddr::from([10, 0, 0, 1]);
        let payload = |round: usize| vec![round as u8; round * 13 % 150];
        let push = |writer: &mut RecordWriter, round: usize| match round % 3 {
            0 => writer.push(v6, any_v6, &payload(round)),
            _ => writer.push(remote, local, &payload(round)),
        };
        assert!(push(&mut writer, 0));
        let mut together = 0;
        for round in 0..1_000 {
            assert!(push(&mut writer, round + 1));
            if let Some(record) = RecordV4::parse(reader.front()) {
                assert_eq!((record.remote(), record.port), ([10, 0, 0, 2].into(), 7));
                assert_eq!((IpAddr::from(record.local()), record.payload), (local, &*payload(round)));
                together += 1;
            }
            let (head, chunks) = reader.first().unwrap();
            assert_eq!(head.remote, if round % 3 == 0 { v6 } else { remote });
            let mut out = [0; 200];
            assert_eq!(chunks.copy_to(&mut out), payload(round).len());
            assert_eq!(out[..usize::from(head.len)], payload(round));
            reader.consume(&head);
        }
        assert!((100..600).contains(&together), "both kinds of way are taken: {together}");
    }

    #[test]
    fn a_run_is_queued_as_far_as_it_lies_together_and_as_datagrams_may_wait() {
        let pool = PagePool::with_page_size(64, 400);
        let (mut writer, mut reader) = records(&pool, 1 << 16, 12, Home::Producer);
        let payloads: Vec<Vec<u8>> = (0..40u8).map(|n| vec![n; usize::from(n % 7) * 20]).collect();
        let (peer, us) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1));
        let (mut put, mut taken, mut runs) = (0, 0, 0);
        while taken < payloads.len() {
            let count = writer.push_run_v4(peer, 7, us, payloads[put..].iter().map(Vec::as_slice)) as usize;
            runs += usize::from(count > 1);
            put += count;
            // One that turns a page.
            if put < payloads.len() && writer.push_v4(peer, 7, us, &payloads[put]) {
                put += 1;
            }
            assert!(put - taken <= 12, "as many as may wait");
            for _ in 0..5 {
                let Some((head, chunks)) = reader.first() else { break };
                let mut out = [0; 200];
                assert_eq!(chunks.copy_to(&mut out), payloads[taken].len());
                assert_eq!(out[..usize::from(head.len)], payloads[taken]);
                assert_eq!(head.remote, SocketAddr::from((peer, 7)));
                assert_eq!(head.local, us);
                reader.consume(&head);
                taken += 1;
            }
        }
        assert!(runs > 3 && reader.is_empty(), "{runs}");
    }

    #[test]
    fn a_full_queue_refuses_a_datagram_whole() {
        let (mut writer, mut reader) = records(&PagePool::new(16), 100, 2, Home::Consumer);
        let to = "10.0.0.2:7".parse().unwrap();
        let any = IpAddr::from([0; 4]);
        assert!(!writer.push(to, any, &[1; 90]), "more bytes than there are");
        assert!(writer.push(to, any, &[2; 20]));
        assert!(!writer.push(to, any, &[3; 60]), "more bytes than are left");
        assert!(writer.push(to, any, &[]));
        assert!(!writer.push(to, any, &[]), "more datagrams than allowed");
        let (head, _) = reader.first().unwrap();
        reader.consume(&head);
        assert!(writer.push(to, any, &[5]));
        let mut take = || {
            let (head, _) = reader.first()?;
            reader.consume(&head);
            Some(head.len)
        };
        assert_eq!((take(), take(), take()), (Some(0), Some(1), None));
    }
}
