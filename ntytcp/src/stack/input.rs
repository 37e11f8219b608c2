//! What arrives: Ethernet, ARP and IPv4, up to the payload of a packet that is ours. [`super::transport`] goes on from there.
//!
//! ```text
//!   burst -> udp_run: datagrams of one flow                     -> Done
//!   frame -> steady: foreseen segment of the flow before         -> Done
//!   frame -> recognise -> plain -> foreseen segment, plain datagram  -> Done
//!              |            \-> plain_unforeseen -> transport
//!              \-> receive_any -> ARP, or IPv4 step by step -> transport
//! ```
//!
//! All but the lowest line are shortcuts: `tests/shortcuts.rs` holds them against that one. What foreseen segments change around their
//! connection is left for the end of the burst.
//!
//! Every frame ends as a [`Verdict`]. A frame is looked at through a borrowed slice until it is known what becomes of it; what
//! is to be written in its place is then an owned [`Answer`], so that reading and rewriting never overlap.

use core::net::{IpAddr, Ipv4Addr};

use super::answer::{Answer, Question};
use super::interface::{Interface, InterfaceId, is_host};
use super::plain::{self, Plain, recognise};
use super::transport::Packet;
use super::{Cx, Stack, icmp, udp_run};
use crate::counters::DropReason;
use crate::device::{RxChecksum, RxFrame, TxMeta, Verdict};
use crate::stack::demux::FlowKey;
use crate::tcp::{Arrival, Foreseen};
use crate::time::Instant;
use crate::wire::{
    ArpPacket, EtherType, EthernetHeader, IpProtocol, Ipv4Header, Ipv4Option, MacAddr, ParseError, Sum,
    VlanTags,
};

/// What the rest needs to know of a frame's Ethernet header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// Length of the header in the frame.
    pub len: usize,
    /// Who sent it.
    pub src: MacAddr,
    /// Sent to a group, not to us alone.
    pub group: bool,
    pub ethertype: EtherType,
}

impl Stack {
    /// Takes a received frame. What it calls forth is either written in its place or noted for [`Stack::egress`]. The verdict
    /// is in the frame, and the answer.
    pub fn ingress(&mut self, now: Instant, id: InterfaceId, frame: &mut RxFrame<'_>) -> Verdict {
        self.take(now, id, frame);
        self.end_burst(now);
        frame.verdict
    }

    /// What was left to be done once for all frames of a burst.
    #[inline]
    fn end_burst(&mut self, now: Instant) {
        let (counters, events) = (&mut self.counters, &mut self.events);
        self.tcp.settle_burst(&mut Cx { now, counters, events });
    }

    /// As [`Stack::reclaim_pages`] for a frame of a burst: a connection that waits for the burst's end may hold pages that it has
    /// just ceased to need.
    #[cold]
    pub(super) fn reclaim_for(&mut self, now: Instant) -> bool {
        self.end_burst(now);
        self.reclaim_pages()
    }

    /// As [`Stack::ingress`] for one frame of a burst.
    #[inline]
    fn take(&mut self, now: Instant, id: InterfaceId, frame: &mut RxFrame<'_>) {
        if !self.may_be_steady(id, frame) || self.take_steady(now, id, frame).is_none() {
            frame.verdict = self.take_any(now, id, frame);
        }
    }

    fn take_any(&mut self, now: Instant, id: InterfaceId, frame: &mut RxFrame<'_>) -> Verdict {
        self.counters.rx_frames += 1;
        self.counters.rx_bytes += frame.len() as u64;
        let verdict = self.receive(now, id, frame);
        self.count(verdict, frame.len());
        verdict
    }

    /// Counts what became of a frame, which is now `len` bytes long.
    #[inline(always)]
    pub(super) fn count(&mut self, verdict: Verdict, len: usize) {
        match verdict {
            Verdict::Done => {}
            Verdict::Reply(_) => {
                self.counters.tx_frames += 1;
                self.counters.tx_bytes += len as u64;
            }
            Verdict::Drop(reason) => self.counters.drop(reason),
        }
    }

    /// Takes a burst of received frames and stores the verdict in each.
    pub fn ingress_burst(&mut self, now: Instant, id: InterfaceId, frames: &mut [RxFrame<'_>]) {
        // 1. The flow that spoke last as a rule goes on speaking.
        let mut others = Some(0);
        if frames.first().is_some_and(|first| self.may_be_steady(id, first)) {
            others = frames.iter_mut().position(|frame| self.take_steady(now, id, frame).is_none());
        }
        if let Some(rest) = others.and_then(|first| frames.get_mut(first..)) {
            self.take_others(now, id, rest);
        }
        // 4. Look after what they changed.
        self.end_burst(now);
    }

    /// As [`Stack::ingress_burst`] from the first frame on that is not of the flow that spoke last.
    fn take_others(&mut self, now: Instant, id: InterfaceId, frames: &mut [RxFrame<'_>]) {
        // Datagrams of one flow may be all there is.
        if frames.len() > 1 && udp_run::begins(frames) {
            let taken = self.udp_run(now, id, frames);
            let rest = frames.get_mut(taken..).unwrap_or_default();
            self.touch_flows(rest);
            // What ended the run, or kept it from beginning, would do so again.
            if let Some((frame, behind)) = rest.split_first_mut() {
                self.take(now, id, frame);
                self.take_with_runs(now, id, behind);
            }
            return;
        }
        // 2. Touch what the frames will need, so that the memory is on its way for all of them at once.
        let has_datagrams = frames.len() > 1 && self.touch_flows(frames);
        // 3. Take them in order, runs of datagrams together.
        if has_datagrams {
            return self.take_with_runs(now, id, frames);
        }
        frames.iter_mut().for_each(|frame| self.take(now, id, frame));
    }

    /// As [`Stack::take`] for the frames of a burst among which are datagrams.
    fn take_with_runs(&mut self, now: Instant, id: InterfaceId, frames: &mut [RxFrame<'_>]) {
        let mut rest = frames;
        while !rest.is_empty() {
            let taken = if udp_run::begins(rest) { self.udp_run(now, id, rest) } else { 0 };
            rest = rest.get_mut(taken..).unwrap_or_default();
            let Some((frame, behind)) = rest.split_first_mut() else { break };
            self.take(now, id, frame);
            rest = behind;
        }
    }

    /// Brings the memory closer that the flows of a burst will need, and says whether there are datagrams among them. Of a run of one
    /// flow, the first does it for all.
    fn touch_flows(&self, frames: &[RxFrame<'_>]) -> bool {
        let (mut last, mut has_datagrams) = ([0; 12], false);
        for bytes in frames.iter().map(RxFrame::bytes) {
            // Addresses and ports, if the frame is plain.
            let Some(&flow) = bytes.get(26..).and_then(|rest| rest.first_chunk::<12>()) else { continue };
            if flow == last {
                continue;
            }
            if let Some(key) = peek_tcp(bytes) {
                last = flow;
                self.tcp.touch(&key);
            } else if bytes.get(23) == Some(&IpProtocol::UDP.0) {
                last = flow;
                has_datagrams = true;
            }
        }
        has_datagrams
    }

    #[inline(always)]
    fn receive(&mut self, now: Instant, id: InterfaceId, frame: &mut RxFrame<'_>) -> Verdict {
        let Some(interface) = self.interfaces.get(usize::from(id.0)) else {
            return Verdict::Drop(DropReason::NotForUs);
        };
        if let Some(plain) = recognise(interface, frame) {
            return self.plain(now, id, interface.mtu, &plain, frame);
        }
        self.receive_any(now, id, frame)
    }

    /// A frame that was recognised as plain: there is nothing more to check below layer 4.
    #[inline(always)]
    fn plain(
        &mut self,
        now: Instant,
        id: InterfaceId,
        mtu: usize,
        plain: &Plain,
        frame: &mut RxFrame<'_>,
    ) -> Verdict {
        self.counters.ip_rx += 1;
        if plain.protocol == IpProtocol::UDP
            && let Some(verdict) = self.plain_udp(now, id, plain, frame)
        {
            return verdict;
        }
        let bytes = frame.bytes().get(plain::HEADERS..plain.end).unwrap_or_default();
        if plain.protocol == IpProtocol::TCP
            && let Some(&[s0, s1, d0, d1]) = bytes.first_chunk::<4>()
        {
            let key = FlowKey {
                local: plain.dst.into(),
                remote: plain.src.into(),
                local_port: u16::from_be_bytes([d0, d1]),
                remote_port: u16::from_be_bytes([s0, s1]),
            };
            let arrival = Arrival { key, interface: id, mtu };
            let is_intact = || {
                let sum = || Sum::pseudo_header_v4(plain.src, plain.dst, IpProtocol::TCP, bytes.len() as u32);
                frame.meta.checksum != RxChecksum::Unknown || sum().add(bytes).verify()
            };
            let (counters, events) = (&mut self.counters, &mut self.events);
            let cx = &mut Cx { now, counters, events };
            let slot = match self.tcp.input_foreseen(cx, &arrival.key, bytes, is_intact) {
                Foreseen::Taken(None) => return Verdict::Done,
                Foreseen::Taken(Some(conn)) => {
                    self.note_steady(id, plain, frame, conn);
                    return Verdict::Done;
                }
                Foreseen::Dropped(found, reason) => {
                    if !self.reclaim_for(now) {
                        return Verdict::Drop(reason);
                    }
                    // There is room now. What was taken of it is old by now. Counted again by what follows.
                    self.counters.tcp_rx -= 1;
                    found
                }
                Foreseen::No(found) => found,
            };
            return self.plain_segment(now, &arrival, plain, frame, slot);
        }
        self.plain_packet(now, (id, mtu), plain, frame)
    }

    /// A plain frame that is not a segment.
    #[inline(never)]
    fn plain_packet(
        &mut self,
        now: Instant,
        (id, mtu): (InterfaceId, usize),
        plain: &Plain,
        frame: &mut RxFrame<'_>,
    ) -> Verdict {
        let bytes = frame.bytes();
        let packet = Packet {
            interface: id,
            mtu,
            src: plain.src,
            dst: plain.dst,
            protocol: plain.protocol,
            ttl: plain.ttl,
            group: false,
            later_fragment: false,
            header: bytes.get(EthernetHeader::LEN..plain::HEADERS).unwrap_or_default(),
            payload: bytes.get(plain::HEADERS..plain.end).unwrap_or_default(),
            checksum: frame.meta.checksum,
            gso_size: frame.meta.gso_size,
        };
        match self.transport(now, &packet) {
            Answer::Verdict(verdict) => verdict,
            answer => {
                let question = Question::of(&packet);
                let src = plain::station(frame.bytes());
                let link = Link { len: EthernetHeader::LEN, src, group: false, ethertype: EtherType::IPV4 };
                self.answer_in_place(&link, frame, &question, answer)
            }
        }
    }

    /// Any frame, from its first byte on.
    pub(super) fn receive_any(&mut self, now: Instant, id: InterfaceId, frame: &mut RxFrame<'_>) -> Verdict {
        let Some(interface) = self.interfaces.get(usize::from(id.0)) else {
            return Verdict::Drop(DropReason::NotForUs);
        };
        let link = match accept(interface, frame) {
            Ok(link) => link,
            Err(reason) => return Verdict::Drop(reason),
        };
        match link.ethertype {
            EtherType::IPV4 => self.ipv4(now, id, &link, frame),
            EtherType::ARP => self.arp(now, id, &link, frame),
            _ => Verdict::Drop(DropReason::UnknownEtherType),
        }
    }

    fn arp(&mut self, now: Instant, id: InterfaceId, link: &Link, frame: &mut RxFrame<'_>) -> Verdict {
        self.counters.arp_rx += 1;
        let packet = match ArpPacket::parse(frame.bytes().get(link.len..).unwrap_or_default()) {
            Ok(packet) => packet,
            Err(error) => return Verdict::Drop(reason(error)),
        };
        let Some(interface) = self.interfaces.get_mut(usize::from(id.0)) else {
            return Verdict::Drop(DropReason::NotForUs);
        };
        let input = interface.on_arp(now, &packet);
        self.counters.address_conflicts += u64::from(input.conflict);
        let written = input.reply.and_then(|reply| arp_in_place(interface, link, frame, &reply));
        let verdict = match (input.reply, written) {
            (Some(_), Some(())) => {
                self.counters.arp_tx += 1;
                Verdict::Reply(TxMeta::default())
            }
            (None, _) if input.useful => Verdict::Done,
            _ => Verdict::Drop(DropReason::ArpIgnored),
        };
        if let Some(ip) = input.lost {
            self.address_lost(now, ip.into());
        }
        self.neighbor_outcomes(now, id);
        verdict
    }

    /// RFC 1122 3.2.1, in its order: checksum and length (by the parser), addresses, options, fragments.
    fn ipv4(&mut self, now: Instant, id: InterfaceId, link: &Link, frame: &mut RxFrame<'_>) -> Verdict {
        let bytes = frame.bytes().get(link.len..).unwrap_or_default();
        let (ip, payload) = match Ipv4Header::parse(bytes) {
            Ok(parsed) => parsed,
            Err(ParseError::Checksum) => return Verdict::Drop(DropReason::IpChecksum),
            Err(error) => return Verdict::Drop(reason(error)),
        };
        let Some(interface) = self.interfaces.get(usize::from(id.0)) else {
            return Verdict::Drop(DropReason::NotForUs);
        };
        let group = match check_addresses(interface, &ip, link.group) {
            Ok(group) => group,
            Err(reason) => return Verdict::Drop(reason),
        };
        let header = bytes.get(..Ipv4Header::LEN + ip.options.len()).unwrap_or_default();
        let packet = Packet {
            interface: id,
            mtu: interface.mtu,
            src: ip.src,
            dst: ip.dst,
            protocol: ip.protocol,
            ttl: ip.ttl,
            group,
            later_fragment: ip.fragment_offset != 0,
            header,
            payload,
            checksum: frame.meta.checksum,
            gso_size: frame.meta.gso_size,
        };
        if !ip.options.is_empty()
            && let Err(at) = check_options(&ip)
        {
            return match at {
                Bad::Option(pointer) => {
                    self.report(now, &packet, icmp::Report::ParameterProblem(pointer));
                    Verdict::Drop(DropReason::Malformed)
                }
                Bad::SourceRoute => Verdict::Drop(DropReason::IpOption),
            };
        }
        if ip.is_fragment() {
            self.counters.fragments_rx += 1;
            return self.fragment(now, &ip, &packet);
        }
        self.counters.ip_rx += 1;
        match self.transport(now, &packet) {
            Answer::Verdict(verdict) => verdict,
            answer => {
                let question = Question::of(&packet);
                self.answer_in_place(link, frame, &question, answer)
            }
        }
    }
}

/// Whether the frame is for this interface.
fn accept(interface: &Interface, frame: &RxFrame<'_>) -> Result<Link, DropReason> {
    let (header, payload) = EthernetHeader::parse(frame.bytes()).map_err(reason)?;
    let tagged = frame.meta.vlan.is_some() || header.vlan != VlanTags::NONE;
    let ours = if tagged { has_vlan(interface, frame, &header) } else { interface.vlan.is_none() };
    if !ours {
        return Err(DropReason::NotForUs);
    }
    let group = header.dst.is_multicast();
    if !group && header.dst != interface.mac {
        return Err(DropReason::NotForUs);
    }
    if !header.src.is_unicast() {
        return Err(DropReason::BadSource);
    }
    let len = frame.len() - payload.len();
    Ok(Link { len, src: header.src, group, ethertype: header.ethertype })
}

/// Whether the tags of the frame are those of this interface.
fn has_vlan(interface: &Interface, frame: &RxFrame<'_>, header: &EthernetHeader) -> bool {
    // A tag with VLAN 0 carries a priority only (802.1Q 9.6).
    let stripped = frame.meta.vlan.map(|tci| tci & 0xfff);
    let mut vlans =
        stripped.into_iter().chain(header.vlan.iter().map(|tag| tag.vid())).filter(|&vid| vid != 0);
    vlans.next() == interface.vlan && vlans.next().is_none()
}

fn arp_in_place(
    interface: &Interface,
    link: &Link,
    frame: &mut RxFrame<'_>,
    reply: &ArpPacket,
) -> Option<()> {
    let at = address_reply(interface, link, frame)?;
    frame.set_len(at + ArpPacket::LEN).then_some(())?;
    reply.emit(frame.bytes_mut().get_mut(at..)?).map(drop)
}

/// Turns the Ethernet header of `frame` round, with a tag where one belongs that the device had stripped. Answers where the
/// payload is now, or `None` when there is no room for the tag.
pub(super) fn address_reply(interface: &Interface, link: &Link, frame: &mut RxFrame<'_>) -> Option<usize> {
    let header = interface.link_header(link.src, link.ethertype);
    let at = header.len().max(link.len);
    if at > link.len {
        frame.prepend(at - link.len).then_some(())?;
        header.emit(frame.bytes_mut())?;
    } else {
        // A tag that came in the frame stays.
        let addresses = frame.bytes_mut().get_mut(..12)?;
        addresses.get_mut(..6)?.copy_from_slice(&link.src.0);
        addresses.get_mut(6..)?.copy_from_slice(&interface.mac.0);
    }
    Some(at)
}

/// Whether source and destination make sense here. Answers whether the packet was sent to a group.
fn check_addresses(interface: &Interface, ip: &Ipv4Header<'_>, link_group: bool) -> Result<bool, DropReason> {
    // RFC 1122 3.2.1.3: a source "MUST be one of its own IP addresses (but not a broadcast or multicast address)", and none of
    // the addresses that must not appear outside a host.
    if !is_host(ip.src) || interface.owns(ip.src) || interface.is_subnet_broadcast(ip.src) {
        return Err(DropReason::BadSource);
    }
    if interface.owns(ip.dst) {
        // RFC 1122 3.3.6: "a datagram whose destination is a specific address SHOULD be silently discarded if it was received
        // via a link-layer broadcast."
        return if link_group { Err(DropReason::NotForUs) } else { Ok(false) };
    }
    // Of multicast groups a host is always a member of 224.0.0.1 (RFC 1112 4).
    let group = ip.dst.is_broadcast()
        || ip.dst == Ipv4Addr::new(224, 0, 0, 1)
        || interface.is_subnet_broadcast(ip.dst);
    if group { Ok(true) } else { Err(DropReason::NotOurAddress) }
}

/// What is wrong with the options of a packet.
enum Bad {
    /// The option at this offset of the header does not parse.
    Option(u8),
    /// A route that is not the sender's to choose (RFC 7126 4.3, 4.4).
    SourceRoute,
}

fn check_options(ip: &Ipv4Header<'_>) -> Result<(), Bad> {
    let mut at = Ipv4Header::LEN;
    for option in ip.options() {
        at += match option {
            Err(_) => return Err(Bad::Option(at as u8)),
            Ok(Ipv4Option::LooseSourceRoute { .. } | Ipv4Option::StrictSourceRoute { .. }) => {
                return Err(Bad::SourceRoute);
            }
            Ok(Ipv4Option::EndOfList | Ipv4Option::Nop) => 1,
            Ok(Ipv4Option::RecordRoute { route, .. }) => 3 + route.len(),
            Ok(Ipv4Option::Timestamp { data, .. }) => 4 + data.len(),
            Ok(Ipv4Option::RouterAlert(_)) => 4,
            Ok(Ipv4Option::Other { data, .. }) => 2 + data.len(),
        };
    }
    Ok(())
}

/// The flow of a frame if it is plainly a TCP segment; what is not plain can do without being touched early.
fn peek_tcp(frame: &[u8]) -> Option<FlowKey> {
    // IPv4 without tags and options.
    if frame.get(12..15)? != [0x08, 0x00, 0x45] {
        return None;
    }
    let packet = frame.get(EthernetHeader::LEN..)?;
    let &[.., 6, _, _, s0, s1, s2, s3, d0, d1, d2, d3, p0, p1, q0, q1] = packet.first_chunk::<24>()? else {
        return None;
    };
    Some(FlowKey {
        local: IpAddr::from([d0, d1, d2, d3]),
        remote: IpAddr::from([s0, s1, s2, s3]),
        local_port: u16::from_be_bytes([q0, q1]),
        remote_port: u16::from_be_bytes([p0, p1]),
    })
}

/// The drop reason for bytes that do not parse.
pub(super) const fn reason(error: ParseError) -> DropReason {
    match error {
        ParseError::Truncated => DropReason::Truncated,
        ParseError::Malformed => DropReason::Malformed,
        ParseError::Checksum => DropReason::L4Checksum,
    }
}
