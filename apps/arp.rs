//! ARP for those who drive a device without a stack: answering for addresses, and asking for them.

use ntytcp::device::{RxFrame, TxMeta, Verdict};
use ntytcp::wire::{ArpOperation, ArpPacket, EtherType, EthernetHeader, MacAddr};
use std::net::Ipv4Addr;

/// The ARP packet in a frame, and where it begins.
fn packet(frame: &[u8]) -> Option<(ArpPacket, usize)> {
    let (link, payload) = EthernetHeader::parse(frame).ok()?;
    if link.ethertype != EtherType::ARP {
        return None;
    }
    Some((ArpPacket::parse(payload).ok()?, frame.len() - payload.len()))
}

/// Turns a request for an address that `owner` knows the station of into its reply, to be sent in place. Whether it was one.
pub(crate) fn answer(frame: &mut RxFrame<'_>, owner: impl Fn(Ipv4Addr) -> Option<MacAddr>) -> bool {
    let answered = answer_in(frame.bytes_mut(), owner).is_some();
    if answered {
        frame.verdict = Verdict::Reply(TxMeta::default());
    }
    answered
}

fn answer_in(bytes: &mut [u8], owner: impl Fn(Ipv4Addr) -> Option<MacAddr>) -> Option<()> {
    let (request, at) = packet(bytes).filter(|(arp, _)| arp.operation == ArpOperation::Request)?;
    let mac = owner(request.target_ip)?;
    let reply = ArpPacket {
        operation: ArpOperation::Reply,
        sender_mac: mac,
        sender_ip: request.target_ip,
        target_mac: request.sender_mac,
        target_ip: request.sender_ip,
    };
    bytes.get_mut(..6)?.copy_from_slice(&request.sender_mac.0);
    bytes.get_mut(6..12)?.copy_from_slice(&mac.0);
    reply.emit(bytes.get_mut(at..)?).map(drop)
}

/// The address and the station that an ARP packet speaks for; nothing of a probe, which claims nothing.
pub(crate) fn speaker(frame: &[u8]) -> Option<(Ipv4Addr, MacAddr)> {
    let (arp, _) = packet(frame)?;
    let claims = !arp.sender_ip.is_unspecified() && arp.sender_mac.is_unicast();
    claims.then_some((arp.sender_ip, arp.sender_mac))
}

/// A frame in which `(mac, ip)` asks everybody for the station of `target`.
pub(crate) fn request((mac, ip): (MacAddr, Ipv4Addr), target: Ipv4Addr) -> [u8; EthernetHeader::MIN_FRAME] {
    let mut frame = [0; EthernetHeader::MIN_FRAME];
    let link = EthernetHeader {
        dst: MacAddr::BROADCAST,
        src: mac,
        vlan: Default::default(),
        ethertype: EtherType::ARP,
    };
    let arp = ArpPacket {
        operation: ArpOperation::Request,
        sender_mac: mac,
        sender_ip: ip,
        target_mac: MacAddr::ZERO,
        target_ip: target,
    };
    if let Some((head, rest)) = frame.split_at_mut_checked(EthernetHeader::LEN) {
        link.emit(head);
        arp.emit(rest);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use ntytcp::device::RxMeta;

    #[test]
    fn a_request_is_answered_in_place_and_the_answer_tells_the_station() {
        let (asker, owner) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let (from, to) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let mut buf = request((asker, from), to);
        assert_eq!(speaker(&buf), Some((from, asker)));
        let mut frame = RxFrame::new(&mut buf, 0, 60, RxMeta::default());
        assert!(!answer(&mut frame, |ip| (ip == from).then_some(owner)), "for another address");
        assert!(answer(&mut frame, |ip| (ip == to).then_some(owner)));
        assert_eq!(frame.verdict, Verdict::Reply(TxMeta::default()));
        assert_eq!(frame.bytes()[..12], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        assert_eq!(speaker(frame.bytes()), Some((to, owner)));
        assert!(!answer(&mut frame, |_| Some(owner)), "a reply asks for nothing");
    }

    #[test]
    fn what_is_too_short_or_no_arp_is_nothing() {
        let whole = request((MacAddr([2; 6]), Ipv4Addr::new(10, 0, 0, 1)), Ipv4Addr::new(10, 0, 0, 2));
        for len in 0..42 {
            let mut frame = whole.to_vec();
            frame.truncate(len);
            assert!(speaker(&frame).is_none() && answer_in(&mut frame, |_| Some(MacAddr([4; 6]))).is_none());
        }
    }
}
