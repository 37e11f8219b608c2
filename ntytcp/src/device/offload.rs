//! What a device does for the stack, done in software, for the places where the device cannot: a frame with a partial
//! checksum that leaves the machine, is written to a file, or is about to be damaged on purpose.

use super::{RxChecksum, TxChecksum, TxMeta};
use crate::wire::Sum;
#[cfg(all(feature = "devices", target_os = "linux"))]
use crate::wire::{EtherType, EthernetHeader, IpProtocol, Ipv4Header, Ipv6Header};

/// Completes a partial layer-4 checksum in place: sums everything from byte `start` to the end of `frame`, the
/// pseudo-header sum that the field holds included, and stores the result in the field at `start + offset`.
///
/// A result of zero is stored as its other representation, `0xffff`: UDP reads zero as "no checksum" (RFC 768) and TCP
/// does not tell the two apart. `false`, and no change, when the field lies outside the frame.
pub fn complete_checksum(frame: &mut [u8], start: u16, offset: u16) -> bool {
    let (start, offset) = (usize::from(start), usize::from(offset));
    let Some(body) = frame.get_mut(start..).filter(|b| offset.saturating_add(2) <= b.len()) else {
        return false;
    };
    let sum = Sum::of(body).finish_nonzero();
    if let Some(field) = body.get_mut(offset..offset + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    true
}

/// What the receiver of a frame sent with `meta` over a link inside this machine is told of its checksum.
pub(super) fn arrives_as(meta: TxMeta) -> RxChecksum {
    match meta.checksum {
        TxChecksum::Complete => RxChecksum::Unknown,
        TxChecksum::Partial { start, offset } => RxChecksum::Partial { start, offset },
    }
}

/// The state of a checksum that is right, or was left to whoever puts the frame on a wire, which the device does not tell: partial if
/// the field holds the pseudo-header's sum. One that holds it by chance is none the worse for being completed: that gives the same again.
#[cfg(all(feature = "devices", target_os = "linux"))]
pub(super) fn trusted_checksum(frame: &[u8]) -> RxChecksum {
    partial(frame).unwrap_or(RxChecksum::Verified)
}

#[cfg(all(feature = "devices", target_os = "linux"))]
fn partial(frame: &[u8]) -> Option<RxChecksum> {
    let (link, packet) = EthernetHeader::parse(frame).ok()?;
    let (src, dst, protocol, header_len, datagram) = match link.ethertype {
        EtherType::IPV4 => {
            let (ip, datagram) = Ipv4Header::parse(packet).ok().filter(|(ip, _)| !ip.is_fragment())?;
            (ip.src.into(), ip.dst.into(), ip.protocol, ip.header_len(), datagram)
        }
        EtherType::IPV6 => {
            let (ip, datagram) = Ipv6Header::parse(packet).ok()?;
            (ip.src.into(), ip.dst.into(), ip.next_header, Ipv6Header::LEN, datagram)
        }
        _ => return None,
    };
    let offset = match protocol {
        IpProtocol::TCP => 16,
        IpProtocol::UDP => 6,
        _ => return None,
    };
    let field = u16::from_be_bytes(*datagram.get(offset..)?.first_chunk()?);
    let start = u16::try_from(frame.len() - packet.len() + header_len).ok()?;
    let pseudo = Sum::pseudo_header(src, dst, protocol, datagram.len() as u32).fold();
    (field == pseudo).then_some(RxChecksum::Partial { start, offset: offset as u16 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(feature = "devices", target_os = "linux"))]
    #[test]
    fn a_trusted_checksum_is_partial_where_only_the_pseudo_header_is_summed() {
        let mut udp = [&[0, 7, 0, 9, 0, 12, 0, 0][..], b"text"].concat();
        let (src, dst) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let pseudo = Sum::pseudo_header(src, dst, IpProtocol::UDP, 12).fold();
        udp[6..8].copy_from_slice(&pseudo.to_be_bytes());
        let mut ip = [0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let sum = Sum::of(&ip).finish().to_be_bytes();
        ip[10..12].copy_from_slice(&sum);
        // Padded, as the shortest frames are.
        let mut frame = [&[2; 12][..], &[8, 0], &ip, &udp, &[0; 14]].concat();
        assert_eq!(trusted_checksum(&frame), RxChecksum::Partial { start: 34, offset: 6 });
        complete_checksum(&mut frame[..46], 34, 6);
        assert_eq!(trusted_checksum(&frame), RxChecksum::Verified);
        for len in 0..frame.len() {
            trusted_checksum(&frame[..len]);
        }
        frame[20] = 1;
        assert_eq!(trusted_checksum(&frame), RxChecksum::Verified, "a fragment");
    }

    #[test]
    fn completed_checksum_sums_to_all_ones() {
        // Three bytes of "Ethernet", then a UDP-like header whose field at 6 holds a pseudo-header sum.
        for len in 8..64_usize {
            let mut frame: Vec<u8> = (0..3 + len).map(|i| (i * 37 % 251) as u8).collect();
            let pseudo = u16::from_be_bytes([frame[9], frame[10]]);
            assert!(complete_checksum(&mut frame, 3, 6));
            let total = u64::from(Sum::of(&frame[3..]).fold()) + u64::from(pseudo);
            assert_eq!((total & 0xffff) + (total >> 16), 0xffff, "length {len}");
        }
    }

    #[test]
    fn zero_is_stored_as_all_ones() {
        let mut frame = [0xff, 0xff, 0x00, 0x00];
        assert!(complete_checksum(&mut frame, 0, 2));
        assert_eq!(frame, [0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn field_outside_the_frame_changes_nothing() {
        let mut frame = [1, 2, 3, 4];
        for (start, offset) in [(0, 3), (3, 0), (4, 0), (5, 0), (0, u16::MAX), (u16::MAX, 0)] {
            assert!(!complete_checksum(&mut frame, start, offset));
            assert_eq!(frame, [1, 2, 3, 4]);
        }
    }
}
