//! One link as the stack sees it: addresses, neighbors and what waits to be sent there.

use core::net::{IpAddr, Ipv4Addr};
use std::collections::VecDeque;

use super::ConfigError;
use super::arp::{AddressGuard, ArpAction, ArpOutcome, GuardConfig, GuardState};
use super::ident::Idents;
use super::neighbor::{
    Evidence, Learned, Lookup, NeighborAction, NeighborCache, NeighborConfig, NeighborRef,
};
use super::outbox::{Datagram, Outbox};
use super::output::PathCache;
use super::route::{InterfaceAddr, RouteTable};
use super::socket::SocketError;
use super::steady::Steady;
use crate::device::Caps;
use crate::rng::Rng;
use crate::time::{Instant, earliest};
use crate::wire::{ArpOperation, ArpPacket, EtherType, EthernetHeader, MacAddr, VlanTag, VlanTags};

/// The name of an interface of one stack: its place in the order of [`Stack::add_interface`](super::Stack::add_interface).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct InterfaceId(pub u16);

/// What an interface is made of.
#[derive(Clone, Debug)]
pub struct InterfaceConfig {
    /// The station address. Default: none, which [`Stack::add_interface`](super::Stack::add_interface) refuses.
    pub mac: MacAddr,
    /// Addresses with their networks. Default: none.
    pub addrs: Vec<InterfaceAddr>,
    /// What the device can do. Default: a plain link with an MTU of 1500.
    pub caps: Caps,
    /// The VLAN (1 to 4094) that the interface is in: it sends tagged frames and hears only those. Default: none; then frames
    /// without a VLAN are heard.
    pub vlan: Option<u16>,
    /// How addresses are probed for before they are used, and defended afterwards (RFC 5227). Default: announced and used at
    /// once, as Linux does; [`GuardConfig::quick`] looks first whether another station has them.
    pub guard: GuardConfig,
    /// How many bytes of whole packets (ICMP, fragments) may wait for room in the ring. Default 1 MiB.
    pub outbox_bytes: usize,
}

impl Default for InterfaceConfig {
    fn default() -> Self {
        Self {
            mac: MacAddr::ZERO,
            addrs: Vec::new(),
            caps: Caps::plain(1500),
            vlan: None,
            guard: GuardConfig::immediate(),
            outbox_bytes: 1 << 20,
        }
    }
}

impl InterfaceConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !self.mac.is_unicast() {
            return Err(ConfigError::Mac(self.mac));
        }
        let range = |name, value, allowed| Err(ConfigError::Range { name, value, allowed });
        match (self.caps.mtu, self.vlan) {
            // RFC 791: "Every internet module must be able to forward a datagram of 68 octets without further fragmentation."
            (mtu @ (..68 | 65_536..), _) => range("mtu", mtu, "68 to 65535"),
            (_, Some(vid @ (0 | 4_095..))) => range("vlan", usize::from(vid), "1 to 4094"),
            _ => Ok(()),
        }
    }
}

/// What is known of a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resolution {
    /// Its station address.
    Reachable(NeighborRef, MacAddr),
    /// It is being asked for.
    Pending,
    /// It did not answer a moment ago.
    Failed,
}

/// An address of an interface, and how far the claim to it has come.
pub(crate) struct Claim {
    pub addr: InterfaceAddr,
    /// Of an IPv4 address. (IPv6 has duplicate address detection instead.)
    guard: Option<AddressGuard>,
}

impl Claim {
    /// Begins to claim an address.
    fn new(addr: InterfaceAddr, guard: GuardConfig, now: Instant, rng: &mut Rng) -> Self {
        let guard = match addr.addr() {
            IpAddr::V4(ip) => Some(AddressGuard::new(guard, ip, now, rng)),
            IpAddr::V6(_) => None,
        };
        Self { addr, guard }
    }

    /// The address, once it may be used.
    fn usable(&self) -> Option<Ipv4Addr> {
        self.guard.as_ref().filter(|guard| guard.is_usable()).map(AddressGuard::ip)
    }
}

/// What an ARP packet led to.
pub(crate) struct ArpInput {
    /// To be sent back.
    pub reply: Option<ArpPacket>,
    /// Another station uses one of our addresses.
    pub conflict: bool,
    /// This one was given up to it.
    pub lost: Option<Ipv4Addr>,
    /// It told us something.
    pub useful: bool,
}

/// ARP packets that wait for room in the ring. Behind one that is stuck questions would pile up, each asked again every second.
const MAX_ARP: usize = 1_024;

/// An interface of the stack.
pub(crate) struct Interface {
    pub id: InterfaceId,
    pub mac: MacAddr,
    /// `mac` as a number.
    pub mac_bits: u64,
    pub caps: Caps,
    /// The largest IP packet, in bytes.
    pub mtu: usize,
    pub vlan: Option<u16>,
    pub addrs: Vec<Claim>,
    /// How addresses are claimed.
    guard: GuardConfig,
    /// Those of `addrs` that may be used: what every packet is held against.
    usable: Vec<Ipv4Addr>,
    /// Others of `addrs` may not be used.
    some_unusable: bool,
    /// The last conflict about one of `addrs`: with whom.
    pub conflict: Option<(Ipv4Addr, MacAddr)>,
    /// The broadcast addresses of all networks.
    broadcasts: Vec<Ipv4Addr>,
    /// When the next step of a claim is due.
    next_claim: Option<Instant>,
    /// To whom the way was found last, and which it was: who connects to a peer connects to it again.
    pub(super) last_path: (IpAddr, PathCache),
    /// The flow that spoke last. Forgotten when what may be used of `addrs` changes.
    pub(super) steady: Option<Steady>,
    pub neighbors: NeighborCache,
    /// ARP packets to be sent, with their link destination.
    pub arp_queue: VecDeque<(MacAddr, ArpPacket)>,
    /// How asking for next hops ended, where that came about in the middle of something else. Those who wait are not told yet.
    outcomes: VecDeque<(IpAddr, NeighborOutcome)>,
    /// Whole packets to be sent.
    pub outbox: Outbox,
    pub idents: Idents,
    /// TCP did not get its turn in the last egress.
    pub tcp_first: bool,
}

impl Interface {
    pub(crate) fn new(
        id: InterfaceId,
        config: &InterfaceConfig,
        neighbors: NeighborConfig,
        rng: &mut Rng,
    ) -> Self {
        // The clock is read by the first `on_timeout`, which is due at once.
        let claim = |&addr: &InterfaceAddr| Claim::new(addr, config.guard, Instant::ZERO, rng);
        let addrs: Vec<Claim> = config.addrs.iter().map(claim).collect();
        let broadcasts = addrs.iter().filter_map(|a| a.addr.network().broadcast()).collect();
        let mut interface = Self {
            id,
            mac: config.mac,
            mac_bits: config.mac.to_bits(),
            caps: config.caps,
            mtu: config.caps.mtu,
            vlan: config.vlan,
            addrs,
            guard: config.guard,
            usable: Vec::new(),
            some_unusable: false,
            conflict: None,
            next_claim: None,
            last_path: (IpAddr::V4(Ipv4Addr::UNSPECIFIED), PathCache::default()),
            steady: None,
            broadcasts,
            neighbors: NeighborCache::new(neighbors, rng),
            arp_queue: VecDeque::new(),
            outcomes: VecDeque::new(),
            outbox: Outbox::new(config.outbox_bytes),
            idents: Idents::new(rng),
            tcp_first: false,
        };
        // An address that is not probed for is announced at once.
        interface.queue_claims();
        interface
    }

    /// Has another station address from now on.
    pub(crate) fn set_station(&mut self, mac: MacAddr) {
        if self.mac != mac {
            (self.mac, self.mac_bits) = (mac, mac.to_bits());
            // What waits says the old one.
            self.arp_queue.clear();
        }
    }

    /// Has these addresses from now on. Those that are new are claimed as the first ones were; answers which are gone.
    pub(crate) fn set_addresses(
        &mut self,
        now: Instant,
        addrs: &[InterfaceAddr],
        rng: &mut Rng,
    ) -> Vec<IpAddr> {
        let mut old = core::mem::take(&mut self.addrs);
        for &addr in addrs {
            let claim = match old.iter().position(|claim| claim.addr == addr) {
                Some(known) => old.swap_remove(known),
                None => Claim::new(addr, self.guard, now, rng),
            };
            self.addrs.push(claim);
        }
        let gone: Vec<IpAddr> = old
            .iter()
            .map(|claim| claim.addr.addr())
            .filter(|ip| addrs.iter().all(|a| a.addr() != *ip))
            .collect();
        self.arp_queue.retain(|(_, packet)| !gone.contains(&packet.sender_ip.into()));
        self.broadcasts = self.addrs.iter().filter_map(|a| a.addr.network().broadcast()).collect();
        self.queue_claims();
        gone
    }

    /// Whether `ip` is one of the interface's addresses and may be used.
    #[inline]
    pub(crate) fn owns(&self, ip: Ipv4Addr) -> bool {
        self.usable.contains(&ip)
    }

    /// Whether `ip` is one of the interface's addresses and may not be used, for now or because another station has it.
    #[inline]
    pub(crate) fn must_not_use(&self, ip: IpAddr) -> bool {
        let mut guards = self.addrs.iter().filter_map(|claim| claim.guard.as_ref());
        self.some_unusable && guards.any(|guard| IpAddr::V4(guard.ip()) == ip && !guard.is_usable())
    }

    /// Whether `ip` is the broadcast address of one of the interface's networks.
    #[inline]
    pub(crate) fn is_subnet_broadcast(&self, ip: Ipv4Addr) -> bool {
        self.broadcasts.contains(&ip)
    }

    /// The station address in the upper six bytes, if frames are heard without a tag.
    #[inline(always)]
    pub(super) fn plain_mac(&self) -> Option<u64> {
        self.vlan.is_none().then_some(self.mac_bits << 16)
    }

    /// Whether `dst` is ours and `src` an address that a host other than us can have (RFC 1122 3.2.1.3).
    #[inline(always)]
    pub(super) fn is_plain_pair(&self, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        self.owns(dst) && is_host(src) && !self.owns(src) && !self.is_subnet_broadcast(src)
    }

    /// The address to speak to `peer` (the destination or its gateway) from: the one in the same network with the longest
    /// prefix, else the first.
    pub(crate) fn source_for(&self, peer: Ipv4Addr) -> Option<Ipv4Addr> {
        let usable = || self.addrs.iter().filter_map(|a| Some((a.addr, a.usable()?)));
        let near = usable().filter(|(addr, _)| addr.network().contains(peer.into()));
        near.max_by_key(|(addr, _)| addr.prefix_len()).or_else(|| usable().next()).map(|(_, ip)| ip)
    }

    /// The other usable addresses whose network `source` is in.
    pub(crate) fn other_sources(&self, source: Ipv4Addr) -> impl Iterator<Item = Ipv4Addr> {
        let near = self.addrs.iter().filter(move |a| a.addr.network().contains(source.into()));
        near.filter_map(Claim::usable).filter(move |&ip| ip != source)
    }

    /// The address to send to `dst` from, over this interface: the one that the route names, else the one nearest to the next hop.
    pub(crate) fn source_to(&self, dst: IpAddr, routes: &RouteTable) -> Result<IpAddr, SocketError> {
        let route = routes.lookup(dst).filter(|route| route.interface == self.id.0);
        let named = route.and_then(|route| route.source);
        if let Some(IpAddr::V4(source)) = named
            && self.owns(source)
        {
            return Ok(source.into());
        }
        let IpAddr::V4(next_hop) = route.map_or(dst, |route| route.next_hop(dst)) else {
            return Err(SocketError::FamilyNotSupported);
        };
        self.source_for(next_hop).map(IpAddr::V4).ok_or(SocketError::AddressNotAvailable)
    }

    /// The addresses, and how far the claim to each has come.
    pub(crate) fn claims(&self) -> impl Iterator<Item = (InterfaceAddr, GuardState)> {
        self.addrs.iter().filter_map(|a| Some((a.addr, a.guard.as_ref()?.state())))
    }

    /// Whether anything is to be sent that belongs to no socket, or somebody is to be told about a next hop.
    #[inline]
    pub(crate) fn owes(&self) -> bool {
        !self.arp_queue.is_empty() || !self.outbox.is_empty() || self.has_outcomes()
    }

    /// Whether [`Interface::next_outcome`] has something that nobody has asked for yet.
    pub(crate) fn has_outcomes(&self) -> bool {
        !self.outcomes.is_empty()
    }

    /// The Ethernet header of a frame to `dst`.
    pub(crate) fn link_header(&self, dst: MacAddr, ethertype: EtherType) -> EthernetHeader {
        let vlan = self.vlan.map_or(VlanTags::NONE, |vid| VlanTags::single(VlanTag::new(vid)));
        EthernetHeader { dst, src: self.mac, vlan, ethertype }
    }

    /// The identification of a packet to `dst` that may be fragmented.
    pub(crate) fn next_ident(&mut self, dst: IpAddr) -> u16 {
        match dst {
            IpAddr::V4(dst) => self.idents.next(dst),
            IpAddr::V6(_) => 0,
        }
    }

    /// The station address under a reference, if it can still be used.
    #[inline]
    pub(crate) fn neighbor_mac(&mut self, now: Instant, neighbor: NeighborRef) -> Option<MacAddr> {
        match self.neighbors.get(now, neighbor)? {
            Lookup::Ready(mac) => Some(mac),
            Lookup::Pending | Lookup::Failed => None,
        }
    }

    /// The station address of `next_hop`; asks for it when it is unknown.
    pub(crate) fn resolve(&mut self, now: Instant, next_hop: IpAddr) -> Resolution {
        match self.neighbors.lookup_named(now, next_hop) {
            (Lookup::Ready(mac), Some(neighbor)) => Resolution::Reachable(neighbor, mac),
            (Lookup::Pending, _) => Resolution::Pending,
            (Lookup::Failed, _) | (Lookup::Ready(_), None) => Resolution::Failed,
        }
    }

    /// Lets a packet wait for its next hop; `false` when too many do.
    #[must_use]
    pub(crate) fn park(&mut self, next_hop: IpAddr, datagram: Datagram) -> bool {
        self.neighbors.enqueue(next_hop, datagram.packet.into()).is_ok()
    }

    /// When [`Interface::on_timeout`] has something to do next.
    #[inline]
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        earliest([self.neighbors.next_deadline(), self.next_claim])
    }

    /// Does what has become due. [`Interface::next_outcome`] follows.
    pub(crate) fn on_timeout(&mut self, now: Instant) {
        if self.next_deadline().is_none_or(|at| at > now) {
            return;
        }
        self.neighbors.on_timeout(now);
        self.addrs.iter_mut().filter_map(|a| a.guard.as_mut()).for_each(|guard| guard.on_timeout(now));
        self.queue_claims();
    }

    /// Takes note of where the claims have come, and queues what the guards of the addresses want sent.
    fn queue_claims(&mut self) {
        self.steady = None;
        self.usable.clear();
        self.usable.extend(self.addrs.iter().filter_map(Claim::usable));
        self.some_unusable = self.usable.len() < self.claims().count();
        for guard in self.addrs.iter_mut().filter_map(|a| a.guard.as_mut()) {
            while let Some(action) = guard.poll_action() {
                // RFC 5227 2.1.1 and 2.3: both are requests for the address; an announcement has it as sender, too.
                let sender_ip = match action {
                    ArpAction::Probe => Ipv4Addr::UNSPECIFIED,
                    ArpAction::Announce => guard.ip(),
                    ArpAction::Usable | ArpAction::Conflict { .. } => continue,
                };
                let packet = ArpPacket {
                    operation: ArpOperation::Request,
                    sender_mac: self.mac,
                    sender_ip,
                    target_mac: MacAddr::ZERO,
                    target_ip: guard.ip(),
                };
                if self.arp_queue.len() < MAX_ARP {
                    self.arp_queue.push_back((MacAddr::BROADCAST, packet));
                }
            }
        }
        self.next_claim = self.addrs.iter().filter_map(|a| a.guard.as_ref()?.next_deadline()).min();
    }

    /// Queues the questions that looking up a neighbor or setting one has raised, and keeps the outcomes for
    /// [`Interface::next_outcome`].
    pub(crate) fn queue_questions(&mut self) {
        while let Some(outcome) = self.poll_outcome() {
            self.outcomes.push_back(outcome);
        }
    }

    fn ask(&mut self, target: IpAddr, unicast: Option<MacAddr>) {
        let IpAddr::V4(target_ip) = target else { return };
        let Some(sender_ip) = self.source_for(target_ip) else { return };
        let packet = ArpPacket {
            operation: ArpOperation::Request,
            sender_mac: self.mac,
            sender_ip,
            target_mac: MacAddr::ZERO,
            target_ip,
        };
        if self.arp_queue.len() < MAX_ARP {
            self.arp_queue.push_back((unicast.unwrap_or(MacAddr::BROADCAST), packet));
        }
    }

    /// The next hop that became known or is given up, if there is one; its packets wait to be taken. Questions on the way are
    /// queued.
    pub(crate) fn next_outcome(&mut self) -> Option<(IpAddr, NeighborOutcome)> {
        self.outcomes.pop_front().or_else(|| self.poll_outcome())
    }

    fn poll_outcome(&mut self) -> Option<(IpAddr, NeighborOutcome)> {
        loop {
            match self.neighbors.poll_action()? {
                NeighborAction::Solicit { target, unicast } => self.ask(target, unicast),
                NeighborAction::Resolved { ip, .. } => return Some((ip, NeighborOutcome::Resolved)),
                NeighborAction::Failed { ip, .. } => return Some((ip, NeighborOutcome::Failed)),
            }
        }
    }

    /// Takes an ARP packet: RFC 826 with the checks of RFC 5227. [`Interface::next_outcome`] follows.
    pub(crate) fn on_arp(&mut self, now: Instant, packet: &ArpPacket) -> ArpInput {
        let (mut conflict, mut lost) = (false, None);
        for guard in self.addrs.iter_mut().filter_map(|a| a.guard.as_mut()) {
            match guard.on_arp(now, packet, self.mac) {
                ArpOutcome::Clear => continue,
                ArpOutcome::Defended | ArpOutcome::Tolerated => {}
                ArpOutcome::Lost => lost = Some(guard.ip()),
            }
            conflict = true;
            self.conflict = Some((guard.ip(), packet.sender_mac));
        }
        if let Some(ip) = lost {
            self.arp_queue.retain(|(_, waiting)| waiting.sender_ip != ip);
        }
        self.queue_claims();
        // What we sent ourselves says nothing, and who claims our address is no neighbor.
        if conflict || packet.sender_mac == self.mac {
            return ArpInput { reply: None, conflict, lost, useful: conflict };
        }
        let for_us = self.owns(packet.target_ip);
        let evidence = match packet.operation {
            ArpOperation::Reply if for_us => Evidence::Reply,
            ArpOperation::Request if for_us => Evidence::Request,
            ArpOperation::Reply | ArpOperation::Request | ArpOperation::Other(_) => Evidence::Gratuitous,
        };
        let learned = self.neighbors.learn(now, packet.sender_ip.into(), packet.sender_mac, evidence);
        let reply = (for_us && packet.operation == ArpOperation::Request).then_some(ArpPacket {
            operation: ArpOperation::Reply,
            sender_mac: self.mac,
            sender_ip: packet.target_ip,
            target_mac: packet.sender_mac,
            target_ip: packet.sender_ip,
        });
        ArpInput { useful: reply.is_some() || learned != Learned::Ignored, reply, conflict, lost }
    }
}

/// Whether a host outside can have the address: not unspecified, loopback, multicast, reserved or broadcast.
#[inline(always)]
pub(super) fn is_host(ip: Ipv4Addr) -> bool {
    let bits = ip.to_bits();
    bits != 0 && bits >> 24 != 127 && bits >> 24 < 224
}

/// How asking for a next hop ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NeighborOutcome {
    /// Its station address is known: what was [`Blocked::Unresolved`](super::output::Blocked) can be sent.
    Resolved,
    /// It does not answer.
    Failed,
}
