//! One link as the stack sees it: addresses, neighbors and what waits to be sent there.

use core::net::{IpAddr, Ipv4Addr};
use std::collections::VecDeque;

use super::ConfigError;
use super::ident::Idents;
use super::neighbor::{Lookup, NeighborAction, NeighborCache, NeighborConfig, NeighborRef};
use super::outbox::{Datagram, Outbox};
use super::route::InterfaceAddr;
use crate::device::Caps;
use crate::rng::Rng;
use crate::time::Instant;
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

/// An interface of the stack.
pub(crate) struct Interface {
    pub id: InterfaceId,
    pub mac: MacAddr,
    pub caps: Caps,
    /// The largest IP packet, in bytes.
    pub mtu: usize,
    pub vlan: Option<u16>,
    pub addrs: Vec<InterfaceAddr>,
    pub neighbors: NeighborCache,
    /// ARP packets to be sent, with their link destination.
    pub arp_queue: VecDeque<(MacAddr, ArpPacket)>,
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
        Self {
            id,
            mac: config.mac,
            caps: config.caps,
            mtu: config.caps.mtu,
            vlan: config.vlan,
            addrs: config.addrs.clone(),
            neighbors: NeighborCache::new(neighbors, rng),
            arp_queue: VecDeque::new(),
            outbox: Outbox::new(config.outbox_bytes),
            idents: Idents::new(rng),
            tcp_first: false,
        }
    }

    /// Whether `ip` is one of the interface's addresses.
    pub(crate) fn owns(&self, ip: Ipv4Addr) -> bool {
        self.addrs.iter().any(|a| a.addr() == ip)
    }

    /// Whether `ip` is the broadcast address of one of the interface's networks.
    pub(crate) fn is_subnet_broadcast(&self, ip: Ipv4Addr) -> bool {
        self.addrs.iter().any(|a| a.network().broadcast() == Some(ip))
    }

    /// The address to speak to `peer` (the destination or its gateway) from: the one in the same network with the longest
    /// prefix, else the first.
    pub(crate) fn source_for(&self, peer: Ipv4Addr) -> Option<Ipv4Addr> {
        let v4 = |a: &InterfaceAddr| match a.addr() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        };
        let near = self.addrs.iter().filter(|a| a.network().contains(peer.into()));
        near.max_by_key(|a| a.prefix_len()).and_then(v4).or_else(|| self.addrs.iter().find_map(v4))
    }

    /// Whether anything is to be sent that belongs to no socket.
    pub(crate) fn owes(&self) -> bool {
        !self.arp_queue.is_empty() || !self.outbox.is_empty()
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
        match (self.neighbors.lookup(now, next_hop), self.neighbors.slot(next_hop)) {
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
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.neighbors.next_deadline()
    }

    /// Does what has become due. [`Interface::next_outcome`] follows.
    pub(crate) fn on_timeout(&mut self, now: Instant) {
        self.neighbors.on_timeout(now);
    }

    /// Queues the questions that looking up a neighbor has raised.
    pub(crate) fn queue_questions(&mut self) {
        // Outcomes are taken at once where they come about, so there are only questions here.
        let _none = self.next_outcome();
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
        self.arp_queue.push_back((unicast.unwrap_or(MacAddr::BROADCAST), packet));
    }

    /// The next hop that became known or is given up, if there is one; its packets wait to be taken. Questions on the way are
    /// queued.
    pub(crate) fn next_outcome(&mut self) -> Option<(IpAddr, NeighborOutcome)> {
        loop {
            match self.neighbors.poll_action()? {
                NeighborAction::Solicit { target, unicast } => self.ask(target, unicast),
                NeighborAction::Resolved { ip, .. } => return Some((ip, NeighborOutcome::Resolved)),
                NeighborAction::Failed { ip, .. } => return Some((ip, NeighborOutcome::Failed)),
            }
        }
    }

    /// Stand-in for the ARP engine: answers and learns.
    pub(crate) fn on_arp(&mut self, now: Instant, packet: &ArpPacket) -> Option<ArpPacket> {
        use super::neighbor::Evidence;
        let ours = self.owns(packet.target_ip);
        let evidence = match packet.operation {
            ArpOperation::Reply => Evidence::Reply,
            ArpOperation::Request if ours => Evidence::Request,
            _ => Evidence::Gratuitous,
        };
        self.neighbors.learn(now, packet.sender_ip.into(), packet.sender_mac, evidence);
        (ours && packet.operation == ArpOperation::Request).then_some(ArpPacket {
            operation: ArpOperation::Reply,
            sender_mac: self.mac,
            sender_ip: packet.target_ip,
            target_mac: packet.sender_mac,
            target_ip: packet.sender_ip,
        })
    }
}

/// How asking for a next hop ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NeighborOutcome {
    /// Its station address is known: what was [`Blocked::Unresolved`](super::output::Blocked) can be sent.
    Resolved,
    /// It does not answer.
    Failed,
}
