//! What is changed in frames before they are sent. Checksums follow by what changed under them (RFC 1624), so that one that was
//! wrong in the capture stays wrong.

use crate::values::{Mac, Port};
use ntytcp::wire::checksum::update_u16;
use ntytcp::wire::{EtherType, EthernetHeader, IpProtocol, Ipv4Header};
use std::net::Ipv4Addr;

/// The flags.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, clap::Args)]
#[command(next_help_heading = "Rewriting")]
#[group(id = "rewriting")]
pub(super) struct Options {
    /// Send to this station
    #[arg(long, value_name = "MAC")]
    pub to_mac: Option<Mac>,
    /// Send from this station
    #[arg(long, value_name = "MAC")]
    pub from_mac: Option<Mac>,
    /// Send to this address (IPv4)
    #[arg(long, value_name = "ADDR")]
    pub to_ip: Option<Ipv4Addr>,
    /// Send from this address (IPv4)
    #[arg(long, value_name = "ADDR")]
    pub from_ip: Option<Ipv4Addr>,
    /// Send to this TCP or UDP port (IPv4)
    #[arg(long, value_name = "PORT")]
    pub to_port: Option<Port>,
    /// Send from this TCP or UDP port (IPv4)
    #[arg(long, value_name = "PORT")]
    pub from_port: Option<Port>,
}

impl Options {
    /// Changes a frame; what it has not, such as ports in a later fragment, is left alone.
    pub(super) fn apply(&self, frame: &mut [u8]) {
        for (at, mac) in [(0, self.to_mac), (6, self.from_mac)] {
            if let (Some(Mac(mac)), Some(to)) = (mac, frame.get_mut(at..at + 6)) {
                to.copy_from_slice(&mac);
            }
        }
        let Some(packet) = ipv4(frame) else { return };
        let Layout { protocol, header, first_fragment } = layout(packet);
        let l4_sum = match protocol {
            IpProtocol::TCP => Some(header + 16),
            // A UDP checksum of zero is none.
            IpProtocol::UDP if packet.get(header + 6..header + 8) != Some(&[0, 0]) => Some(header + 6),
            _ => None,
        };
        let l4_sum = l4_sum.filter(|_| first_fragment);
        for (at, addr) in [(12, self.from_ip), (16, self.to_ip)] {
            let Some(addr) = addr.map(|addr| addr.octets()) else { continue };
            for (at, word) in [(at, [addr[0], addr[1]]), (at + 2, [addr[2], addr[3]])] {
                replace(packet, at, word, [Some(10), l4_sum]);
            }
        }
        if !first_fragment || !matches!(protocol, IpProtocol::TCP | IpProtocol::UDP) {
            return;
        }
        for (at, port) in [(header, self.from_port), (header + 2, self.to_port)] {
            if let Some(port) = port {
                replace(packet, at, port.get().to_be_bytes(), [None, l4_sum]);
            }
        }
    }
}

/// The IPv4 packet in a frame.
fn ipv4(frame: &mut [u8]) -> Option<&mut [u8]> {
    let (link, packet) = EthernetHeader::parse(frame).ok()?;
    if link.ethertype != EtherType::IPV4 || Ipv4Header::parse(packet).is_err() {
        return None;
    }
    let at = frame.len() - packet.len();
    frame.get_mut(at..)
}

struct Layout {
    protocol: IpProtocol,
    /// Length of the IP header.
    header: usize,
    first_fragment: bool,
}

/// Of a packet that was parsed before.
fn layout(packet: &[u8]) -> Layout {
    let byte = |at: usize| packet.get(at).copied().unwrap_or(0);
    Layout {
        protocol: IpProtocol(byte(9)),
        header: usize::from(byte(0) & 0xf) * 4,
        first_fragment: u16::from_be_bytes([byte(6), byte(7)]) & 0x1fff == 0,
    }
}

/// Replaces a word of the packet, and brings the checksums at these places in line.
fn replace(packet: &mut [u8], at: usize, new: [u8; 2], sums: [Option<usize>; 2]) {
    let word = |packet: &[u8], at: usize| {
        packet.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u16::from_be_bytes(*bytes))
    };
    let Some(old) = word(packet, at) else { return };
    for sum in sums.into_iter().flatten() {
        if let Some(before) = word(packet, sum)
            && let Some(to) = packet.get_mut(sum..sum + 2)
        {
            to.copy_from_slice(&update_u16(before, old, u16::from_be_bytes(new)).to_be_bytes());
        }
    }
    if let Some(to) = packet.get_mut(at..at + 2) {
        to.copy_from_slice(&new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::answers::tests::query;
    use ntytcp::wire::UdpHeader;

    #[test]
    fn a_rewritten_frame_is_as_if_it_was_made_that_way() {
        let mut frame = query([10, 0, 0, 9], 1_000, 7);
        let change = Options {
            to_mac: Some("02:00:00:00:00:07".parse().unwrap()),
            from_mac: None,
            to_ip: Some([192, 168, 1, 2].into()),
            from_ip: Some([172, 16, 5, 4].into()),
            to_port: Some("5353".parse().unwrap()),
            from_port: Some("99".parse().unwrap()),
        };
        change.apply(&mut frame);
        assert_eq!(frame[..12], [2, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 9]);
        let (ip, datagram) = Ipv4Header::parse(&frame[14..]).unwrap();
        assert_eq!((ip.src.octets(), ip.dst.octets()), ([172, 16, 5, 4], [192, 168, 1, 2]));
        let (udp, _) = UdpHeader::parse(datagram).unwrap();
        assert_eq!((udp.src_port, udp.dst_port), (99, 5_353));
        assert!(UdpHeader::verify(ip.src.into(), ip.dst.into(), datagram));
    }

    #[test]
    fn what_is_no_packet_or_too_short_is_left_alone() {
        let change = Options {
            to_ip: Some([1, 2, 3, 4].into()),
            to_port: Some("9".parse().unwrap()),
            ..Options::default()
        };
        for len in 0..60 {
            let mut frame = query([10, 0, 0, 9], 1_000, 7);
            frame.truncate(len);
            let before = frame.clone();
            change.apply(&mut frame);
            assert_eq!(frame.len(), before.len());
        }
    }
}
