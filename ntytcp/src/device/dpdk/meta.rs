//! What a driver says of a received packet, and is asked to do with one that is sent, in this crate's terms.

use dpdk_sys::{L4, L4Checksum, Mbuf, Segments, TxOffload};

use crate::device::offload::trusted_checksum;
use crate::device::{Gso, GsoKind, RxChecksum, RxMeta, TxChecksum, TxMeta};
use crate::wire::{EtherType, EthernetHeader, IpProtocol, Ipv6Header, walk_extensions};

/// Where the checksum field is in a UDP and in a TCP header.
const UDP_CHECKSUM: u16 = 6;
const TCP_CHECKSUM: u16 = 16;

/// What the driver says of a received packet; `unverified` is thought of a checksum of which it says nothing: one that is taken for right may
/// be one that the kernel has left to whoever puts the frame on a wire.
#[inline]
pub(super) fn of_received(mbuf: &Mbuf, unverified: RxChecksum) -> RxMeta {
    let info = mbuf.rx_info();
    let checksum = match info.checksum {
        L4Checksum::Unverified if unverified == RxChecksum::Verified => trusted_checksum(mbuf.data()),
        L4Checksum::Unverified => unverified,
        L4Checksum::Good => RxChecksum::Verified,
        L4Checksum::Unfinished => unfinished(mbuf.data()),
    };
    RxMeta {
        checksum,
        rss_hash: info.rss_hash,
        vlan: info.vlan,
        gso_size: info.segment_size,
        ..RxMeta::default()
    }
}

/// A driver says that a checksum is unfinished, and not where it is.
fn unfinished(frame: &[u8]) -> RxChecksum {
    let place = || {
        let (ethernet, packet) = EthernetHeader::parse(frame).ok()?;
        let (protocol, payload) = match ethernet.ethertype {
            EtherType::IPV4 => {
                let (first, protocol) = (packet.first()?, packet.get(9)?);
                (IpProtocol(*protocol), packet.get(usize::from(first & 15) * 4..)?)
            }
            EtherType::IPV6 => {
                let upper =
                    walk_extensions(IpProtocol(*packet.get(6)?), packet.get(Ipv6Header::LEN..)?).ok()?;
                (upper.protocol, upper.payload)
            }
            _ => return None,
        };
        let offset = match protocol {
            IpProtocol::TCP => TCP_CHECKSUM,
            IpProtocol::UDP => UDP_CHECKSUM,
            _ => return None,
        };
        // Beyond the field, so that it is there.
        payload.get(usize::from(offset) + 1)?;
        let start = u16::try_from(frame.len() - payload.len()).ok()?;
        Some(RxChecksum::Partial { start, offset })
    };
    // The data is right even where nobody finds the field.
    place().unwrap_or(RxChecksum::Verified)
}

/// What the driver is to do with a frame, beside sending it. `None` when it is nothing, and when it is more than a driver can be asked
/// for: a checksum of another protocol, behind headers of strange lengths.
#[inline]
pub(super) fn for_driver(frame: &[u8], meta: TxMeta, ip_checksum: bool) -> Option<TxOffload> {
    let TxChecksum::Partial { start, offset } = meta.checksum else { return None };
    let l4 = match offset {
        TCP_CHECKSUM => L4::Tcp,
        UDP_CHECKSUM => L4::Udp,
        _ => return None,
    };
    let mut l2_len: u8 = 14;
    let ethertype = loop {
        let at = usize::from(l2_len) - 2;
        match *frame.get(at..)?.first_chunk()? {
            // IEEE 802.1Q and 802.1ad tags.
            [0x81, 0x00] | [0x88, 0xa8] if l2_len < 22 => l2_len += 4,
            ethertype => break ethertype,
        }
    };
    let ipv6 = match ethertype {
        [0x08, 0x00] => false,
        [0x86, 0xdd] => true,
        _ => return None,
    };
    let l3_len = start.checked_sub(u16::from(l2_len)).filter(|len| *len < 512)?;
    let segments = match meta.gso {
        None => None,
        Some(Gso { kind: GsoKind::TcpV4 | GsoKind::TcpV6, size, header_len }) => {
            let l4_len = u8::try_from(header_len.checked_sub(start)?).ok()?;
            Some(Segments { size, l4_len, ip_checksum })
        }
    };
    Some(TxOffload { l4, ipv6, l2_len, l3_len, segments })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partial(start: u16, offset: u16) -> TxMeta {
        TxMeta { checksum: TxChecksum::Partial { start, offset }, gso: None }
    }

    /// Ethernet with these tags, then the first bytes of a packet of `protocol` with a segment behind it.
    fn frame(tags: &[[u8; 4]], ethertype: [u8; 2], protocol: u8) -> Vec<u8> {
        let mut packet = if ethertype == [8, 0] { vec![0x46; 24] } else { vec![0x60; 40] };
        let at = if ethertype == [8, 0] { 9 } else { 6 };
        packet[at] = protocol;
        [&[2; 12][..], &tags.concat(), &ethertype, &packet, &[0; 20]].concat()
    }

    #[test]
    fn lengths_of_headers_are_found_behind_tags() {
        let (v4, v6, tag) = ([8, 0], [0x86, 0xdd], [0x81, 0, 0, 7]);
        for (tags, ethertype, start, l2_len, l3_len) in [
            (&[][..], v4, 38, 14, 24),
            (&[tag], v4, 42, 18, 24),
            (&[[0x88, 0xa8, 0, 9], tag], v6, 62, 22, 40),
        ] {
            let frame = frame(tags, ethertype, 17);
            let expected = TxOffload { l4: L4::Udp, ipv6: ethertype == v6, l2_len, l3_len, segments: None };
            assert_eq!(for_driver(&frame, partial(start, 6), true), Some(expected));
            assert_eq!(unfinished(&frame), RxChecksum::Partial { start, offset: 6 });
        }
    }

    #[test]
    fn a_train_has_the_length_of_its_tcp_header() {
        let gso = Some(Gso { kind: GsoKind::TcpV4, size: 1460, header_len: 38 + 32 });
        let meta = TxMeta { gso, ..partial(38, 16) };
        let offload = for_driver(&frame(&[], [8, 0], 6), meta, false).unwrap();
        let expected = Segments { size: 1460, l4_len: 32, ip_checksum: false };
        assert_eq!((offload.l4, offload.segments), (L4::Tcp, Some(expected)));
    }

    #[test]
    fn what_no_driver_does_is_not_asked_for() {
        let tcp = frame(&[], [8, 0], 6);
        assert_eq!(for_driver(&tcp, TxMeta::default(), true), None);
        for (start, offset) in [(38, 2), (10, 16), (14 + 512, 16)] {
            assert_eq!(for_driver(&tcp, partial(start, offset), true), None);
        }
        assert_eq!(for_driver(&frame(&[], [8, 6], 6), partial(38, 16), true), None);
        assert_eq!(for_driver(&tcp[..13], partial(38, 16), true), None);
    }

    #[test]
    fn data_without_a_field_to_be_found_is_right_all_the_same() {
        let tcp = frame(&[], [8, 0], 6);
        assert_eq!(unfinished(&tcp), RxChecksum::Partial { start: 38, offset: 16 });
        for other in [&tcp[..38 + 17], &tcp[..12], &frame(&[], [8, 6], 6), &frame(&[], [8, 0], 132)] {
            assert_eq!(unfinished(other), RxChecksum::Verified);
        }
    }
}
