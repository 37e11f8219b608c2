//! Routing of IPv4 (RFC 1812): by the longest prefix, one hop less to live, to the next hop's station.
//!
//! What is for the router itself is little: ARP and ping. Packets that cannot go on are told of by ICMP, at a limited rate. What is
//! not done: fragmentation (a packet that is too large is told of if it may not be fragmented, and lost in any case), options,
//! redirects.

use super::acl::Acl;
use super::forward::{Head, Others, Port, PortConfig, State, check, put_head};
use super::port::{Loss, Parcel, moved, reply, send};
use crate::arp;
use ntytcp::device::offload::complete_checksum;
use ntytcp::device::spec::BoxedDevice;
use ntytcp::device::{Caps, RxChecksum, RxFrame, TxMeta, TxQueue as _};
use ntytcp::rng::Rng;
use ntytcp::stack::limiter::{LimiterConfig, RateLimiter};
use ntytcp::stack::neighbor::{Evidence, Lookup, NeighborAction};
use ntytcp::stack::route::{Prefix, Route, RouteTable};
use ntytcp::time::Instant;
use ntytcp::wire::checksum::update_u16;
use ntytcp::wire::{
    ArpOperation, ArpPacket, EtherType, EthernetHeader, Icmpv4Message, IpProtocol, Ipv4Header, MacAddr,
};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

/// RFC 1812 4.3.2.3: "as much of the original datagram as possible without the length of the ICMP datagram exceeding 576 bytes."
const QUOTE: usize = 576 - Ipv4Header::LEN - Icmpv4Message::HEADER_LEN;
const HOST_UNREACHABLE: u8 = 1;
const DEFAULT_TTL: u8 = 64;

/// Where packets go.
pub(super) struct Router {
    pub routes: RouteTable,
    /// Stations of next hops that are given and not asked for.
    pub stations: HashMap<Prefix, MacAddr>,
    limiter: RateLimiter,
}

/// What is told of a packet that goes no further.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Ttl,
    NoNetwork,
    NoHost,
    TooBig(usize),
}

impl Trouble {
    fn loss(self) -> Loss {
        match self {
            Self::Ttl => Loss::TtlExceeded,
            Self::NoNetwork => Loss::NoRoute,
            Self::NoHost => Loss::NoNeighbor,
            Self::TooBig(_) => Loss::TooBig,
        }
    }

    fn message(self, quote: &[u8]) -> Icmpv4Message<'_> {
        let unreachable =
            |code, next_hop_mtu| Icmpv4Message::DestinationUnreachable { code, next_hop_mtu, quote };
        match self {
            Self::Ttl => Icmpv4Message::TimeExceeded { code: 0, quote },
            Self::NoNetwork => unreachable(Icmpv4Message::UNREACHABLE_NET, 0),
            Self::NoHost => unreachable(HOST_UNREACHABLE, 0),
            Self::TooBig(mtu) => {
                unreachable(Icmpv4Message::UNREACHABLE_FRAGMENTATION, u16::try_from(mtu).unwrap_or(u16::MAX))
            }
        }
    }
}

/// A packet that arrived, as far as routing looks at it.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    link: EthernetHeader,
    /// Bytes of the Ethernet header, and of the packet behind it.
    head: usize,
    len: usize,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    ttl: u8,
    protocol: IpProtocol,
    header_len: usize,
    dont_fragment: bool,
    is_first: bool,
}

impl Router {
    pub(super) fn new(routes: RouteTable, stations: HashMap<Prefix, MacAddr>, rng: &mut Rng) -> Self {
        Self { routes, stations, limiter: RateLimiter::new(LimiterConfig::icmp_errors(), rng) }
    }

    /// Sends a frame on its way, or answers it in its place.
    pub(super) fn route(
        &mut self,
        frame: &mut RxFrame<'_>,
        (number, state, caps): (usize, &mut State, &Caps),
        others: &mut Others<'_>,
        acl: &mut Acl,
        now: Instant,
    ) -> Result<(), Loss> {
        let (link, packet) = EthernetHeader::parse(frame.bytes()).map_err(|_| Loss::Malformed)?;
        if !is_of_vlan(frame, &link, state.config.vlan) {
            return Err(Loss::NotForUs);
        }
        let head = frame.len() - packet.len();
        match link.ethertype {
            EtherType::ARP => return hear_arp(frame, head, state, caps, now),
            EtherType::IPV4 if link.dst == state.config.mac => {}
            EtherType::IPV4 if link.dst.is_multicast() => return Err(Loss::Group),
            EtherType::IPV4 => return Err(Loss::NotForUs),
            _ => return Err(Loss::Unrouted),
        }
        let (ip, _) = Ipv4Header::parse(packet).map_err(|_| Loss::Malformed)?;
        check(acl, link.ethertype, packet)?;
        let arrived = Arrived {
            link,
            head,
            len: ip.total_len.into(),
            src: ip.src,
            dst: ip.dst,
            ttl: ip.ttl,
            protocol: ip.protocol,
            header_len: ip.header_len(),
            dont_fragment: ip.dont_fragment,
            is_first: ip.fragment_offset == 0,
        };
        if ip.dst.is_multicast() || ip.dst.is_broadcast() || ip.src.is_multicast() || ip.src.is_unspecified()
        {
            return Err(Loss::Group);
        }
        let route = self.routes.lookup(ip.dst.into());
        // An address of ours is a destination of its own, with itself as its source.
        if route.is_some_and(|route| route.source == Some(ip.dst.into())) {
            return echo(frame, &arrived, state, caps);
        }
        match self.forward(route, frame, &arrived, (number, &mut *state, caps), others, now) {
            Err(Refused::Lost(loss)) => Err(loss),
            Err(Refused::Told(trouble)) => {
                self.tell(frame, &arrived, trouble, state, caps, now);
                Err(trouble.loss())
            }
            Ok(()) => Ok(()),
        }
    }

    fn forward(
        &mut self,
        route: Option<Route>,
        frame: &mut RxFrame<'_>,
        arrived: &Arrived,
        (number, state, caps): (usize, &mut State, &Caps),
        others: &mut Others<'_>,
        now: Instant,
    ) -> Result<(), Refused> {
        if arrived.ttl <= 1 {
            return Err(Refused::Told(Trouble::Ttl));
        }
        let dst = IpAddr::V4(arrived.dst);
        let route = route.ok_or(Refused::Told(Trouble::NoNetwork))?;
        if route.prefix.broadcast() == Some(arrived.dst) && route.gateway.is_none() {
            return Err(Refused::Lost(Loss::Group));
        }
        let out = usize::from(route.interface);
        let (device, to) = match others.get(out) {
            Some(Port { device, state }) => (Some(device), state),
            None if out == number => (None, &mut *state),
            None => return Err(Refused::Told(Trouble::NoNetwork)),
        };
        let hop = route.next_hop(dst);
        let station = self
            .stations
            .get(&route.prefix)
            .copied()
            .map_or_else(|| to.neighbors.lookup(now, hop), Lookup::Ready);
        if let Lookup::Failed = station {
            return Err(Refused::Told(Trouble::NoHost));
        }
        decrement_ttl(frame.bytes_mut(), arrived);
        let Lookup::Ready(mac) = station else {
            return wait_for(frame, arrived, hop, to).map_err(Refused::Lost);
        };
        let head = Head::new(mac, &to.config, EtherType::IPV4);
        let sent = match device {
            None => put_head(frame, arrived.head, &head)
                .and_then(|()| reply(&mut to.counts, caps, frame, head.as_bytes().len())),
            Some(device) => {
                let end = arrived.head + arrived.len;
                let packet = frame.bytes().get(arrived.head..end).ok_or(Refused::Lost(Loss::Malformed))?;
                let checksum = moved(frame.meta.checksum, arrived.head, 0);
                let parcel =
                    Parcel { head: head.as_bytes(), packet, checksum, gso_size: frame.meta.gso_size };
                match send(device, &mut to.counts, parcel) {
                    Err(Loss::TooBig) if arrived.dont_fragment => {
                        return Err(Refused::Told(Trouble::TooBig(device.caps().mtu)));
                    }
                    sent => sent,
                }
            }
        };
        sent.map_err(Refused::Lost)
    }

    /// Makes the frame the ICMP error about itself, if there may be one (RFC 1122 3.2.2), and sends it back.
    fn tell(
        &mut self,
        frame: &mut RxFrame<'_>,
        arrived: &Arrived,
        trouble: Trouble,
        state: &mut State,
        caps: &Caps,
        now: Instant,
    ) {
        let packet = frame.bytes().get(arrived.head..arrived.head + arrived.len).unwrap_or_default();
        let kind = packet.get(arrived.header_len).copied();
        let is_error = arrived.protocol == IpProtocol::ICMP && kind.is_none_or(Icmpv4Message::is_error_kind);
        let Some(own) = address(&state.config, arrived.src.into()) else { return };
        if is_error || !arrived.is_first || arrived.link.dst.is_multicast() {
            return;
        }
        if !self.limiter.allow(now, arrived.src.into()) {
            return;
        }
        let mut quoted = [0; QUOTE];
        let len = packet.len().min(QUOTE);
        let (Some(quote), Some(from)) = (quoted.get_mut(..len), packet.get(..len)) else { return };
        quote.copy_from_slice(from);
        // As it came: what is found out late was counted down already.
        set_ttl(quote, arrived.ttl);
        let message = trouble.message(quote);
        let total = Ipv4Header::LEN + message.len();
        if !frame.set_len(arrived.head + total) {
            return;
        }
        let header = Ipv4Header {
            dscp_ecn: 0xc0,
            total_len: total as u16,
            ident: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: DEFAULT_TTL,
            protocol: IpProtocol::ICMP,
            src: own,
            dst: arrived.src,
            options: &[],
        };
        let Some((to_header, to_message)) =
            frame.bytes_mut().get_mut(arrived.head..).and_then(|to| to.split_at_mut_checked(Ipv4Header::LEN))
        else {
            return;
        };
        header.emit(to_header);
        message.emit(to_message);
        (frame.meta.checksum, frame.meta.gso_size) = (RxChecksum::Unknown, None);
        let head = Head::new(arrived.link.src, &state.config, EtherType::IPV4);
        let sent = put_head(frame, arrived.head, &head)
            .and_then(|()| reply(&mut state.counts, caps, frame, head.as_bytes().len()));
        state.counts.icmp_errors += u64::from(sent.is_ok());
    }
}

/// Why a packet was not forwarded.
enum Refused {
    Lost(Loss),
    /// The sender is to be told.
    Told(Trouble),
}

/// Whether the frame belongs to the network that the port is on.
fn is_of_vlan(frame: &RxFrame<'_>, link: &EthernetHeader, vlan: Option<u16>) -> bool {
    let mut ids =
        frame.meta.vlan.map(|tci| tci & 0xfff).into_iter().chain(link.vlan.iter().map(|tag| tag.vid()));
    match vlan {
        // A tag with the number 0 has a priority and no VLAN.
        None => ids.all(|id| id == 0),
        Some(id) => ids.next() == Some(id) && ids.next().is_none(),
    }
}

/// The address of the port on the network of `peer`, or its first.
fn address(config: &PortConfig, peer: IpAddr) -> Option<Ipv4Addr> {
    let near = config.addrs.iter().find(|addr| addr.network().contains(peer));
    match near.or(config.addrs.first())?.addr() {
        IpAddr::V4(addr) => Some(addr),
        IpAddr::V6(_) => None,
    }
}

/// Learns from ARP, and answers for the addresses of the port.
fn hear_arp(
    frame: &mut RxFrame<'_>,
    head: usize,
    state: &mut State,
    caps: &Caps,
    now: Instant,
) -> Result<(), Loss> {
    let packet = frame.bytes().get(head..).unwrap_or_default();
    let heard = ArpPacket::parse(packet).map_err(|_| Loss::Malformed)?;
    let State { config, counts, neighbors } = state;
    let ours = |ip: Ipv4Addr| config.addrs.iter().any(|addr| addr.addr() == IpAddr::V4(ip));
    let evidence = match heard.operation {
        ArpOperation::Reply if ours(heard.target_ip) => Evidence::Reply,
        ArpOperation::Request if ours(heard.target_ip) => Evidence::Request,
        _ => Evidence::Gratuitous,
    };
    if !ours(heard.sender_ip) && !heard.is_probe() {
        neighbors.learn(now, heard.sender_ip.into(), heard.sender_mac, evidence);
    }
    if arp::answer(frame, |ip| ours(ip).then_some(config.mac)) {
        let to = Head::new(heard.sender_mac, config, EtherType::ARP);
        put_head(frame, head, &to)?;
        reply(counts, caps, frame, to.as_bytes().len())?;
        counts.arp_answered += 1;
    }
    Ok(())
}

/// Answers a ping in its frame; all else that is for us is lost.
fn echo(frame: &mut RxFrame<'_>, arrived: &Arrived, state: &mut State, caps: &Caps) -> Result<(), Loss> {
    let State { config, counts, .. } = state;
    let packet =
        frame.bytes_mut().get_mut(arrived.head..arrived.head + arrived.len).ok_or(Loss::Malformed)?;
    let (header, message) = packet.split_at_mut_checked(arrived.header_len).ok_or(Loss::Malformed)?;
    let whole = arrived.is_first && arrived.protocol == IpProtocol::ICMP;
    let Some([kind @ 8, 0, c0, c1]) = message.first_chunk_mut::<4>().filter(|_| whole) else {
        return Err(Loss::Local);
    };
    *kind = 0;
    [*c0, *c1] = update_u16(u16::from_be_bytes([*c0, *c1]), 0x0800, 0).to_be_bytes();
    // The sum does not mind their order.
    header.get_mut(12..20).ok_or(Loss::Malformed)?.rotate_left(4);
    set_ttl(header, DEFAULT_TTL);
    let head = Head::new(arrived.link.src, config, EtherType::IPV4);
    put_head(frame, arrived.head, &head)?;
    reply(counts, caps, frame, head.as_bytes().len())?;
    counts.echoed += 1;
    Ok(())
}

fn decrement_ttl(frame: &mut [u8], arrived: &Arrived) {
    if let Some(packet) = frame.get_mut(arrived.head..) {
        set_ttl(packet, arrived.ttl.saturating_sub(1));
    }
}

/// Changes the TTL, and the checksum by what that changes (RFC 1624).
fn set_ttl(packet: &mut [u8], ttl: u8) {
    let Some([old, protocol, c0, c1]) = packet.get_mut(8..).and_then(|rest| rest.first_chunk_mut::<4>())
    else {
        return;
    };
    let word = |ttl: u8| u16::from_be_bytes([ttl, *protocol]);
    let sum = update_u16(u16::from_be_bytes([*c0, *c1]), word(*old), word(ttl));
    [*c0, *c1] = sum.to_be_bytes();
    *old = ttl;
}

/// Keeps a packet until its next hop has answered. Allocates, as only the first packets to a station do.
fn wait_for(frame: &mut RxFrame<'_>, arrived: &Arrived, hop: IpAddr, to: &mut State) -> Result<(), Loss> {
    // Whole trains are not worth their memory; TCP sends again what is lost.
    if frame.meta.gso_size.is_some() {
        return Err(Loss::NoNeighbor);
    }
    if let RxChecksum::Partial { start, offset } = frame.meta.checksum {
        complete_checksum(frame.bytes_mut(), start, offset);
        frame.meta.checksum = RxChecksum::Unknown;
    }
    let packet = frame.bytes().get(arrived.head..arrived.head + arrived.len).ok_or(Loss::Malformed)?;
    to.neighbors.enqueue(hop, packet.into()).map_err(|_| Loss::NoNeighbor)
}

/// Asks for next hops, and sends what waited for those that have answered.
pub(super) fn attend(device: &mut BoxedDevice, state: &mut State, now: Instant) {
    let State { config, counts, neighbors } = state;
    neighbors.on_timeout(now);
    while let Some(action) = neighbors.poll_action() {
        match action {
            NeighborAction::Solicit { target: IpAddr::V4(target), unicast } => {
                ask(device, config, target, unicast);
            }
            NeighborAction::Solicit { .. } => {}
            NeighborAction::Resolved { ip, mac } => {
                let head = Head::new(mac, config, EtherType::IPV4);
                while let Some(packet) = neighbors.take_packet(ip) {
                    let (checksum, gso_size) = (RxChecksum::Unknown, None);
                    let parcel = Parcel { head: head.as_bytes(), packet: &packet, checksum, gso_size };
                    if let Err(loss) = send(device, counts, parcel) {
                        counts.lose(loss);
                    }
                }
            }
            NeighborAction::Failed { ip, .. } => {
                while neighbors.take_packet(ip).is_some() {
                    counts.lose(Loss::NoNeighbor);
                }
            }
        }
    }
    (0..neighbors.take_displaced()).for_each(|_| counts.lose(Loss::NoNeighbor));
}

/// Sends an ARP request. With a full ring it is lost, as it may be on the wire, and asked again in time.
fn ask(device: &mut BoxedDevice, config: &PortConfig, target: Ipv4Addr, unicast: Option<MacAddr>) {
    let own = address(config, target.into()).unwrap_or(Ipv4Addr::UNSPECIFIED);
    let frame = arp::request((config.mac, own), target);
    let head = Head::new(unicast.unwrap_or(MacAddr::BROADCAST), config, EtherType::ARP);
    let body = frame.get(EthernetHeader::LEN..).unwrap_or_default();
    if let Some(to) = device.reserve(head.as_bytes().len() + body.len())
        && let Some((to_head, to_body)) = to.split_at_mut_checked(head.as_bytes().len())
    {
        to_head.copy_from_slice(head.as_bytes());
        to_body.copy_from_slice(body);
        device.commit(TxMeta::default());
    }
}
