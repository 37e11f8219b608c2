//! A train, several TCP segments or UDP datagrams that travel as one packet, and the packets that it is cut into where a device does not.
//!
//! ```text
//!   train:   | IP | TCP | payload of any length                      |
//!   pieces:  | IP | TCP | size |   | IP | TCP | size |   | IP | TCP | rest |
//! ```
//!
//! Each piece has the train's headers with the lengths, the identification, the sequence number and the flags that it would have been
//! sent with, and a whole checksum.

use super::GsoKind;
use crate::wire::{IpProtocol, Ipv4Header, Ipv6Header, Sum, TcpHeader, UdpHeader};
use core::net::IpAddr;

/// Flags that only the last segment of a train has (FIN, PSH), and that only the first has (CWR, RFC 3168 6.1.2).
const ONLY_LAST: u8 = 0x09;
const ONLY_FIRST: u8 = 0x80;

/// A packet that is to be cut. See the module documentation.
#[derive(Clone, Copy, Debug)]
pub struct Train<'a> {
    /// The headers of IP and of TCP or UDP.
    head: &'a [u8],
    payload: &'a [u8],
    /// Payload bytes of a piece.
    size: usize,
    /// Where TCP or UDP begins.
    l4: usize,
    protocol: IpProtocol,
    src: IpAddr,
    dst: IpAddr,
}

impl<'a> Train<'a> {
    /// The train that `packet` is, which starts at the IP header; `size` is [`super::RxMeta::gso_size`]. `None` when it cannot be cut:
    /// no TCP or UDP, a fragment, IPv6 with extension headers, damage, or a size of 0.
    pub fn parse(packet: &'a [u8], size: u16) -> Option<Self> {
        let (protocol, src, dst, l4, datagram) = match packet.first()? >> 4 {
            4 => {
                let (ip, datagram) = Ipv4Header::parse(packet).ok().filter(|(ip, _)| !ip.is_fragment())?;
                (ip.protocol, ip.src.into(), ip.dst.into(), ip.header_len(), datagram)
            }
            _ => {
                let (ip, datagram) = Ipv6Header::parse(packet).ok()?;
                (ip.next_header, ip.src.into(), ip.dst.into(), Ipv6Header::LEN, datagram)
            }
        };
        let own = match protocol {
            // As the wire has it: with options that we do not know.
            IpProtocol::TCP => usize::from(*datagram.get(12)? >> 4) * 4,
            IpProtocol::UDP => UdpHeader::LEN,
            _ => return None,
        };
        if protocol == IpProtocol::TCP && own < TcpHeader::LEN {
            return None;
        }
        let (head, payload) = (packet.get(..l4 + own)?, datagram.get(own..)?);
        (size > 0).then_some(Self { head, payload, size: size.into(), l4, protocol, src, dst })
    }

    /// What a device has to be asked for that is to cut it; `None` for UDP, which devices are not asked for.
    pub fn kind(&self) -> Option<GsoKind> {
        match (self.protocol, self.src) {
            (IpProtocol::TCP, IpAddr::V4(_)) => Some(GsoKind::TcpV4),
            (IpProtocol::TCP, IpAddr::V6(_)) => Some(GsoKind::TcpV6),
            _ => None,
        }
    }

    /// Where TCP or UDP begins in the packet, in bytes.
    pub fn l4_start(&self) -> usize {
        self.l4
    }

    /// Where its checksum is, counted from there.
    pub fn checksum_offset(&self) -> usize {
        if self.protocol == IpProtocol::TCP { 16 } else { 6 }
    }

    /// Bytes of the headers of IP and of TCP or UDP.
    pub fn header_len(&self) -> usize {
        self.head.len()
    }

    /// The sum of the pseudo-header, which the checksum's field holds where a device is to complete it.
    pub fn pseudo_sum(&self) -> u16 {
        self.pseudo(self.head.len() - self.l4 + self.payload.len()).fold()
    }

    fn pseudo(&self, len: usize) -> Sum {
        Sum::pseudo_header(self.src, self.dst, self.protocol, len as u32)
    }

    /// How many pieces there are, one at least.
    pub fn pieces(&self) -> usize {
        self.payload.len().div_ceil(self.size).max(1)
    }

    /// Bytes of piece `n`, as an IP packet.
    pub fn piece_len(&self, n: usize) -> usize {
        self.head.len() + self.body(n).len()
    }

    fn body(&self, n: usize) -> &'a [u8] {
        let rest = self.payload.get(n.saturating_mul(self.size)..).unwrap_or_default();
        rest.get(..self.size).unwrap_or(rest)
    }

    /// Writes piece `n` at the start of `to`; `None` when it is too short. No allocation.
    pub fn write(&self, n: usize, to: &mut [u8]) -> Option<()> {
        let body = self.body(n);
        let packet = to.get_mut(..self.head.len() + body.len())?;
        let (head, tail) = packet.split_at_mut_checked(self.head.len())?;
        head.copy_from_slice(self.head);
        tail.copy_from_slice(body);
        self.adjust_ip(n, packet)?;
        let last = n + 1 >= self.pieces();
        let checksum = self.checksum_offset();
        let datagram = packet.get_mut(self.l4..)?;
        let len = datagram.len();
        if self.protocol == IpProtocol::TCP {
            let seq = u32::from_be_bytes(*datagram.get(4..)?.first_chunk()?);
            let seq = seq.wrapping_add((n * self.size) as u32);
            datagram.get_mut(4..8)?.copy_from_slice(&seq.to_be_bytes());
            let flags = datagram.get_mut(13)?;
            *flags &= !(if last { 0 } else { ONLY_LAST } | if n > 0 { ONLY_FIRST } else { 0 });
        } else {
            put(datagram, 4, len as u16)?;
        }
        put(datagram, checksum, 0)?;
        let sum = self.pseudo(len).add(datagram).finish_nonzero();
        put(datagram, checksum, sum)
    }

    fn adjust_ip(&self, n: usize, packet: &mut [u8]) -> Option<()> {
        let len = packet.len();
        match self.src {
            IpAddr::V4(_) => {
                let ident = u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]);
                put(packet, 2, len as u16)?;
                put(packet, 4, ident.wrapping_add(n as u16))?;
                put(packet, 10, 0)?;
                let sum = Sum::of(packet.get(..self.l4)?).finish();
                put(packet, 10, sum)
            }
            IpAddr::V6(_) => put(packet, 4, (len - Ipv6Header::LEN) as u16),
        }
    }
}

fn put(bytes: &mut [u8], at: usize, word: u16) -> Option<()> {
    bytes.get_mut(at..at + 2)?.copy_from_slice(&word.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Seq, TcpFlags, TcpOptions};
    use proptest::prelude::*;

    /// A packet of either family, TCP or UDP, with this payload.
    fn packet(v6: bool, tcp: bool, payload: &[u8]) -> Vec<u8> {
        let datagram = if tcp {
            let options = TcpOptions { mss: Some(1_000), ..TcpOptions::default() };
            let flags = TcpFlags::ACK | TcpFlags::PSH | TcpFlags::FIN | TcpFlags::CWR;
            let (seq, ack) = (Seq(u32::MAX - 100), Seq(7));
            let header = TcpHeader {
                src_port: 1,
                dst_port: 2,
                seq,
                ack,
                flags,
                window: 9,
                checksum: 0,
                urgent: 0,
                options,
            };
            let mut bytes = vec![0; header.header_len()];
            header.emit(&mut bytes).unwrap();
            [&bytes[..], payload].concat()
        } else {
            [&[0, 1, 0, 2][..], &(8 + payload.len() as u16).to_be_bytes(), &[0, 0], payload].concat()
        };
        let protocol = if tcp { IpProtocol::TCP } else { IpProtocol::UDP };
        let mut head = vec![0; if v6 { 40 } else { 20 }];
        if v6 {
            let (src, dst) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
            let payload_len = datagram.len() as u16;
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: 5,
                payload_len,
                next_header: protocol,
                hop_limit: 9,
                src,
                dst,
            };
            header.emit(&mut head).unwrap();
        } else {
            let header = Ipv4Header {
                dscp_ecn: 0,
                total_len: 20 + datagram.len() as u16,
                ident: 0xffff,
                dont_fragment: true,
                more_fragments: false,
                fragment_offset: 0,
                ttl: 9,
                protocol,
                src: [10, 0, 0, 1].into(),
                dst: [10, 0, 0, 2].into(),
                options: &[],
            };
            header.emit(&mut head).unwrap();
        }
        [head, datagram].concat()
    }

    proptest! {
        #[test]
        fn pieces_are_what_would_have_been_sent_one_by_one(
            v6: bool, tcp: bool, payload in prop::collection::vec(any::<u8>(), 1..4_000), size in 1..1_500_u16
        ) {
            let whole = packet(v6, tcp, &payload);
            let train = Train::parse(&whole, size).unwrap();
            prop_assert_eq!(train.kind().is_some(), tcp);
            let (mut got, pieces) = (Vec::new(), train.pieces());
            for n in 0..pieces {
                let mut piece = vec![0xee; train.piece_len(n)];
                train.write(n, &mut piece).unwrap();
                let (src, dst, datagram) = if v6 {
                    let (ip, datagram) = Ipv6Header::parse(&piece).unwrap();
                    (ip.src.into(), ip.dst.into(), datagram)
                } else {
                    let (ip, datagram) = Ipv4Header::parse(&piece).unwrap();
                    prop_assert_eq!(ip.ident, 0xffff_u16.wrapping_add(n as u16));
                    (ip.src.into(), ip.dst.into(), datagram)
                };
                let body = if tcp {
                    prop_assert!(TcpHeader::verify(src, dst, datagram));
                    let (header, body) = TcpHeader::parse(datagram).unwrap();
                    prop_assert_eq!(header.seq, Seq(u32::MAX - 100) + got.len() as u32);
                    prop_assert_eq!(header.flags.contains(TcpFlags::FIN | TcpFlags::PSH), n + 1 == pieces);
                    prop_assert_eq!(header.flags.contains(TcpFlags::CWR), n == 0);
                    body
                } else {
                    prop_assert!(UdpHeader::verify(src, dst, datagram));
                    UdpHeader::parse(datagram).unwrap().1
                };
                prop_assert!(body.len() == usize::from(size) || n + 1 == pieces);
                got.extend_from_slice(body);
            }
            prop_assert_eq!(got, payload);
        }

        #[test]
        fn nothing_is_too_odd_to_be_refused(bytes in prop::collection::vec(any::<u8>(), 0..120), size: u16, cut: prop::sample::Index) {
            let mut whole = packet(bytes.len() % 2 == 0, size % 2 == 0, &bytes);
            whole.truncate(cut.index(whole.len()));
            for packet in [bytes, whole] {
                if let Some(train) = Train::parse(&packet, size) {
                    let mut piece = vec![0; train.piece_len(0)];
                    train.write(0, &mut piece).unwrap();
                }
            }
        }
    }
}
