//! Fragments on their way in: from a packet that is a part of one to the whole, and to the report when it never becomes whole.

use core::net::IpAddr;

use super::Stack;
use super::icmp::Report;
use super::interface::InterfaceId;
use super::reassembly::{Expired, Fragment, FragmentEnd, FragmentKey, FragmentOutcome};
use super::transport::Packet;
use crate::counters::DropReason;
use crate::device::{RxChecksum, Verdict};
use crate::time::Instant;
use crate::wire::{IpProtocol, Ipv4Header};

impl Stack {
    /// Takes a fragment, and the datagram when that is whole now.
    pub(super) fn fragment(&mut self, now: Instant, ip: &Ipv4Header<'_>, packet: &Packet<'_>) -> Verdict {
        let key = FragmentKey {
            src: ip.src.into(),
            dst: ip.dst.into(),
            ident: ip.ident.into(),
            protocol: ip.protocol.0,
        };
        let end = if ip.more_fragments { FragmentEnd::More } else { FragmentEnd::Last };
        let offset = usize::from(ip.fragment_offset);
        let fragment = Fragment { offset, end, header: packet.header, payload: packet.payload };
        let outcome = self.reassembler.insert(now, key, fragment);
        let verdict = match outcome {
            FragmentOutcome::Incomplete => Verdict::Done,
            FragmentOutcome::Drop(reason) => Verdict::Drop(reason),
            FragmentOutcome::Complete(datagram) => {
                self.counters.reassembled += 1;
                self.counters.ip_rx += 1;
                let whole = Packet {
                    header: datagram.header(),
                    payload: datagram.payload(),
                    later_fragment: false,
                    // What the device said was about one fragment.
                    checksum: RxChecksum::Unknown,
                    gso_size: None,
                    ..*packet
                };
                let answer = self.transport(now, &whole);
                let verdict = self.answer_by_packet(&whole, answer);
                self.reassembler.recycle(datagram);
                verdict
            }
        };
        // Room may have been made at the cost of others.
        self.expired_fragments(now);
        verdict
    }

    /// Counts and reports the datagrams that were given up. RFC 1122 3.3.2: "If this timeout expires, the partially-reassembled
    /// datagram MUST be discarded and an ICMP Time Exceeded message sent to the source host (if fragment zero has been
    /// received)."
    pub(super) fn expired_fragments(&mut self, now: Instant) {
        while let Some(Expired { key, reason, first_fragment }) = self.reassembler.poll_expired() {
            self.counters.drop(reason);
            let (IpAddr::V4(src), IpAddr::V4(dst)) = (key.src, key.dst) else { continue };
            let Some(first) = first_fragment.filter(|_| reason == DropReason::FragmentTimeout) else {
                continue;
            };
            let header_len = first.first().map_or(0, |byte| usize::from(byte & 0xf) * 4);
            let Some((header, payload)) = first.split_at_checked(header_len) else { continue };
            // A datagram to a group address is none of the interfaces' own.
            let Some(interface) = self.interfaces.iter().find(|i| i.owns(dst)).map(|i| i.id) else {
                continue;
            };
            self.report(
                now,
                &first_of(interface, (src, dst), key.protocol, header, payload),
                Report::ReassemblyTime,
            );
        }
    }
}

/// What is known of the first fragment of a datagram that was given up.
fn first_of<'a>(
    interface: InterfaceId,
    (src, dst): (core::net::Ipv4Addr, core::net::Ipv4Addr),
    protocol: u8,
    header: &'a [u8],
    payload: &'a [u8],
) -> Packet<'a> {
    Packet {
        mtu: 0,
        interface,
        src,
        dst,
        protocol: IpProtocol(protocol),
        ttl: 0,
        group: false,
        later_fragment: false,
        header,
        payload,
        checksum: RxChecksum::Unknown,
        gso_size: None,
    }
}
