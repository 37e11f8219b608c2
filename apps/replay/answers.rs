//! Whether what was sent is answered.

use ntytcp::wire::{EtherType, EthernetHeader, IpProtocol, Ipv4Header, UdpHeader};
use std::collections::HashMap;
use std::net::SocketAddrV4;

/// What is to be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Expect {
    /// Each DNS query over UDP
    Dns,
}

/// The queries that were sent, and what became of them.
#[derive(Default, Debug)]
pub(super) struct Answers {
    /// Sent and not yet answered, and how often each.
    open: HashMap<Exchange, u32>,
    pub queries: u64,
    pub answered: u64,
    /// Answers that nobody asked for, or once more.
    pub strange: u64,
}

/// Who asked whom, under which number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Exchange {
    client: SocketAddrV4,
    server: SocketAddrV4,
    id: [u8; 2],
}

const DNS: u16 = 53;

impl Answers {
    /// A frame was sent.
    pub(super) fn on_sent(&mut self, frame: &[u8]) {
        if let Some((from, to, [i, d, flags, ..])) = datagram(frame)
            && to.port() == DNS
            && flags & 0x80 == 0
        {
            self.queries += 1;
            *self.open.entry(Exchange { client: from, server: to, id: [*i, *d] }).or_default() += 1;
        }
    }

    /// A frame arrived.
    pub(super) fn on_received(&mut self, frame: &[u8]) {
        let Some((from, to, [i, d, flags, ..])) = datagram(frame) else { return };
        if from.port() != DNS || flags & 0x80 == 0 {
            return;
        }
        let exchange = Exchange { client: to, server: from, id: [*i, *d] };
        let Some(open) = self.open.get_mut(&exchange) else {
            self.strange += 1;
            return;
        };
        self.answered += 1;
        *open -= 1;
        if *open == 0 {
            self.open.remove(&exchange);
        }
    }

    /// Whether nothing is left to wait for.
    pub(super) fn is_complete(&self) -> bool {
        self.open.is_empty()
    }
}

/// The two ends and the payload of a UDP datagram over IPv4.
fn datagram(frame: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4, &[u8])> {
    let (link, packet) = EthernetHeader::parse(frame).ok()?;
    let (ip, datagram) = Ipv4Header::parse(packet).ok().filter(|_| link.ethertype == EtherType::IPV4)?;
    let (udp, payload) = UdpHeader::parse(datagram).ok().filter(|_| ip.protocol == IpProtocol::UDP)?;
    Some((SocketAddrV4::new(ip.src, udp.src_port), SocketAddrV4::new(ip.dst, udp.dst_port), payload))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A frame with a query for the root's name servers to 10.0.0.2.
    pub(crate) fn query(from: [u8; 4], port: u16, id: u8) -> Vec<u8> {
        message((from, port), ([10, 0, 0, 2], DNS), [0, id, 1, 0])
    }

    fn message(from: ([u8; 4], u16), to: ([u8; 4], u16), head: [u8; 4]) -> Vec<u8> {
        let dns = [&head[..], &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1]].concat();
        let mut udp = [
            &from.1.to_be_bytes()[..],
            &to.1.to_be_bytes(),
            &(8 + dns.len() as u16).to_be_bytes(),
            &[0, 0],
            &dns,
        ]
        .concat();
        UdpHeader::fill_checksum(from.0.into(), to.0.into(), &mut udp).unwrap();
        let mut ip = [0x45, 0, 0, 20 + udp.len() as u8, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        ip[12..16].copy_from_slice(&from.0);
        ip[16..].copy_from_slice(&to.0);
        let sum = ntytcp::wire::Sum::of(&ip).finish();
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, from.0[3], 8, 0][..], &ip, &udp].concat()
    }

    #[test]
    fn each_query_wants_an_answer_of_its_own() {
        let client = ([10, 0, 0, 9], 1_000);
        let answer = |id| message(([10, 0, 0, 2], DNS), client, [0, id, 0x81, 0]);
        let mut answers = Answers::default();
        for id in [1, 2, 2] {
            answers.on_sent(&query(client.0, client.1, id));
        }
        // Neither an answer that goes out nor a query that comes in is one of ours.
        answers.on_sent(&answer(1));
        answers.on_received(&query(client.0, client.1, 1));
        assert_eq!((answers.queries, answers.answered, answers.strange), (3, 0, 0));
        for id in [2, 2, 2, 9] {
            answers.on_received(&answer(id));
        }
        assert_eq!((answers.answered, answers.strange, answers.is_complete()), (2, 2, false));
        answers.on_received(&answer(1));
        assert!(answers.is_complete());
    }
}
