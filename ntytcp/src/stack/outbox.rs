//! Whole packets that wait to be sent: ICMP, answers that do not fit the frame of their question, datagrams that exceed the
//! MTU. All of them are owned copies; nothing on a fast path comes here.

use core::net::IpAddr;
use std::collections::VecDeque;

/// An IP packet with its header, and how much of its payload was already sent as fragments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Datagram {
    /// Header (without options) and payload.
    pub packet: Vec<u8>,
    /// Bytes of payload that were sent.
    pub sent: usize,
}

impl Datagram {
    /// A packet of which nothing was sent.
    pub(crate) fn new(packet: Vec<u8>) -> Self {
        Self { packet, sent: 0 }
    }

    /// Where it comes from; for a packet of the stack's own making never `None`.
    pub(crate) fn src(&self) -> Option<IpAddr> {
        self.packet.get(12..)?.first_chunk::<4>().map(|&octets| octets.into())
    }

    /// Where it goes; for a packet of the stack's own making never `None`.
    pub(crate) fn dst(&self) -> Option<IpAddr> {
        self.packet.get(16..)?.first_chunk::<4>().map(|&octets| octets.into())
    }
}

/// The packets that wait for room in the ring of one interface, bounded in bytes.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: VecDeque<Datagram>,
    bytes: usize,
    limit: usize,
}

/// Bytes that a packet is charged beside its own, so that many small ones are bounded too.
const OVERHEAD: usize = 128;

impl Outbox {
    /// An empty outbox for up to `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { queue: VecDeque::new(), bytes: 0, limit }
    }

    /// Appends a packet, or hands it back when there is no room. An empty outbox takes any packet.
    pub(crate) fn push(&mut self, datagram: Datagram) -> Result<(), Datagram> {
        let cost = cost(&datagram);
        if !self.queue.is_empty() && self.bytes + cost > self.limit {
            return Err(datagram);
        }
        self.bytes += cost;
        self.queue.push_back(datagram);
        Ok(())
    }

    /// The packet that has waited longest.
    pub(crate) fn pop(&mut self) -> Option<Datagram> {
        let datagram = self.queue.pop_front()?;
        self.bytes -= cost(&datagram);
        Some(datagram)
    }

    /// Puts a packet back where [`Outbox::pop`] took it from.
    pub(crate) fn unpop(&mut self, datagram: Datagram) {
        self.bytes += cost(&datagram);
        self.queue.push_front(datagram);
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

fn cost(datagram: &Datagram) -> usize {
    datagram.packet.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outbox_is_bounded_but_takes_one_packet_of_any_size() {
        let packet = |n| Datagram::new(vec![0; n]);
        let mut outbox = Outbox::new(1_000);
        assert_eq!(outbox.push(packet(65_535)), Ok(()));
        assert!(outbox.push(packet(20)).is_err());
        let big = outbox.pop().unwrap();
        outbox.unpop(big);
        assert!(outbox.push(packet(20)).is_err());
        outbox.pop();
        assert!((0..6).all(|_| outbox.push(packet(20)).is_ok()));
        assert!(outbox.push(packet(200)).is_err());
    }
}
