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
//! `len` is the payload's; numbers are big endian. The queue is bounded in bytes by the FIFO and in datagrams by a pair of
//! counts of which each side writes one. Neither side waits for the other, and both work from different threads.

use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crate::fifo::{Chunks, Consumer, Home, PagePool, Producer, fifo};

/// Length of the longest record header.
const MAX_HEADER: usize = 40;

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
    pub(crate) fn push(&mut self, remote: SocketAddr, local: IpAddr, payload: &[u8]) -> bool {
        let Ok(len) = u16::try_from(payload.len()) else { return false };
        if !self.has_room() {
            return false;
        }
        let mut header = [0; MAX_HEADER];
        let header = encode(&mut header, &RecordHeader { remote, local, len });
        let whole = header.len() + payload.len();
        if self.producer.free() < whole
            || self.producer.write_at(0, header) < header.len()
            || self.producer.write_at(header.len(), payload) < payload.len()
        {
            self.producer.rollback();
            return false;
        }
        self.producer.advance(whole);
        self.put += 1;
        true
    }

    /// Whether a small datagram would fit.
    pub(crate) fn has_room(&self) -> bool {
        self.put - self.taken.load(Ordering::Relaxed) < self.limit && self.producer.free() > MAX_HEADER
    }

    /// Whether a datagram with `payload` bytes could ever fit.
    pub(crate) fn can_hold(&self, payload: usize) -> bool {
        payload + MAX_HEADER <= self.producer.capacity()
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
    /// The header of the first datagram.
    pub(crate) fn head(&mut self) -> Option<RecordHeader> {
        if self.consumer.is_empty() {
            return None;
        }
        let mut header = [0; MAX_HEADER];
        let n = self.consumer.copy_to(0, &mut header);
        let head = decode(header.get(..n).unwrap_or_default());
        if head.is_none() {
            // Cannot happen: only `push` writes. Should it, what follows cannot be told apart from payload.
            self.consumer.discard_all();
        }
        head
    }

    /// The payload of the first datagram, whose header is `head`, in pieces.
    pub(crate) fn payload(&mut self, head: &RecordHeader) -> Chunks<'_> {
        self.consumer.peek(header_len(head.local), usize::from(head.len))
    }

    /// Copies the payload of the first datagram, whose header is `head`, to the front of `to`. Answers how many bytes fit.
    pub(crate) fn copy_payload(&mut self, head: &RecordHeader, to: &mut [u8]) -> usize {
        let n = to.len().min(usize::from(head.len));
        self.consumer.copy_to(header_len(head.local), to.get_mut(..n).unwrap_or_default())
    }

    /// Drops the first datagram, whose header is `head`.
    pub(crate) fn consume(&mut self, head: &RecordHeader) {
        self.consumer.consume(header_len(head.local) + usize::from(head.len));
        // Only this half writes the count.
        self.taken.store(self.taken.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
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
        IpAddr::V4(_) => 16,
        IpAddr::V6(_) => 40,
    }
}

fn encode<'a>(buf: &'a mut [u8; MAX_HEADER], header: &RecordHeader) -> &'a [u8] {
    let [l0, l1] = header.len.to_be_bytes();
    let [p0, p1] = header.remote.port().to_be_bytes();
    let family = if header.local.is_ipv4() { 4 } else { 6 };
    let (fixed, addresses) = buf.split_at_mut(8);
    fixed.copy_from_slice(&[l0, l1, family, 0, p0, p1, 0, 0]);
    match (header.remote.ip(), header.local) {
        (IpAddr::V4(remote), IpAddr::V4(local)) => {
            addresses[..4].copy_from_slice(&remote.octets());
            addresses[4..8].copy_from_slice(&local.octets());
        }
        (remote, local) => {
            addresses[..16].copy_from_slice(&v6(remote));
            addresses[16..32].copy_from_slice(&v6(local));
        }
    }
    buf.get(..header_len(header.local)).unwrap_or_default()
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

fn decode(bytes: &[u8]) -> Option<RecordHeader> {
    let (&[l0, l1, family, _, p0, p1, _, _], rest) = bytes.split_first_chunk::<8>()?;
    let (remote, local): (IpAddr, IpAddr) = if family == 4 {
        let (&remote, rest) = rest.split_first_chunk::<4>()?;
        let (&local, _) = rest.split_first_chunk::<4>()?;
        (remote.into(), local.into())
    } else {
        let (&remote, rest) = rest.split_first_chunk::<16>()?;
        let (&local, _) = rest.split_first_chunk::<16>()?;
        (remote.into(), local.into())
    };
    let remote = SocketAddr::new(remote, u16::from_be_bytes([p0, p1]));
    Some(RecordHeader { remote, local, len: u16::from_be_bytes([l0, l1]) })
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
            let head = reader.head().unwrap();
            assert_eq!(head, RecordHeader { remote, local, len: payload.len() as u16 });
            let mut out = vec![0; payload.len()];
            assert_eq!(reader.copy_payload(&head, &mut out), payload.len());
            assert_eq!(out, payload);
            reader.consume(&head);
            assert!(reader.is_empty());
        }
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
        let head = reader.head().unwrap();
        reader.consume(&head);
        assert!(writer.push(to, any, &[5]));
        let lens: Vec<u16> =
            std::iter::from_fn(|| reader.head().inspect(|h| reader.consume(h)).map(|h| h.len)).collect();
        assert_eq!(lens, [0, 1]);
    }
}
