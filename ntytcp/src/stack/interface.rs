//! One link as the stack sees it: addresses, neighbors and what waits to be sent there.

use core::net::{IpAddr, Ipv4Addr};
use std::collections::VecDeque;

use super::ident::Idents;
use super::neighbor::{Lookup, NeighborCache, NeighborRef};
use super::outbox::{Datagram, Outbox};
use crate::device::Caps;
use crate::rng::Rng;
use crate::time::Instant;
use crate::wire::{ArpPacket, EtherType, EthernetHeader, MacAddr, VlanTag, VlanTags};

/// The name of an interface of one stack: its place in the order of [`Stack::add_interface`](super::Stack::add_interface).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct InterfaceId(pub u16);

/// What an interface is made of.
#[derive(Clone, Debug)]
pub struct InterfaceConfig {
    /// The station address. Default: none, which [`Stack::add_interface`](super::Stack::add_interface) refuses.
    pub mac: MacAddr,
    /// Addresses with their prefix lengths (0 to 32, or 128 for IPv6). Default: none.
    pub addrs: Vec<(IpAddr, u8)>,
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

/// An IPv4 address of an interface with the network that it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Address {
    /// The address.
    pub ip: Ipv4Addr,
    /// Length of the network's prefix, 0 to 32.
    pub prefix: u8,
}

impl Address {
    /// The network mask as a number.
    const fn mask(self) -> u32 {
        match self.prefix {
            0 => 0,
            n => u32::MAX << (32 - n as u32),
        }
    }

    /// Whether `ip` is in the same network.
    pub(crate) const fn covers(self, ip: Ipv4Addr) -> bool {
        (self.ip.to_bits() ^ ip.to_bits()) & self.mask() == 0
    }

    /// Whether `ip` is the broadcast address of the network. There is none for point-to-point prefixes (RFC 3021).
    pub(crate) const fn is_broadcast(self, ip: Ipv4Addr) -> bool {
        self.prefix < 31 && self.covers(ip) && ip.to_bits() | self.mask() == u32::MAX
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
    pub addrs: Vec<Address>,
    pub neighbors: NeighborCache,
    /// ARP packets to be sent, with their link destination.
    pub arp_queue: VecDeque<(MacAddr, ArpPacket)>,
    /// Whole packets to be sent.
    pub outbox: Outbox,
    pub idents: Idents,
}

impl Interface {
    pub(crate) fn new(id: InterfaceId, config: &InterfaceConfig, rng: &mut Rng) -> Self {
        let v4 = |&(ip, prefix): &(IpAddr, u8)| match ip {
            IpAddr::V4(ip) => Some(Address { ip, prefix: prefix.min(32) }),
            IpAddr::V6(_) => None,
        };
        Self {
            id,
            mac: config.mac,
            caps: config.caps,
            mtu: config.caps.mtu,
            vlan: config.vlan,
            addrs: config.addrs.iter().filter_map(v4).collect(),
            neighbors: NeighborCache::default(),
            arp_queue: VecDeque::new(),
            outbox: Outbox::new(config.outbox_bytes),
            idents: Idents::new(rng),
        }
    }

    /// Whether `ip` is one of the interface's addresses.
    pub(crate) fn owns(&self, ip: Ipv4Addr) -> bool {
        self.addrs.iter().any(|a| a.ip == ip)
    }

    /// Whether `ip` is the broadcast address of one of the interface's networks.
    pub(crate) fn is_subnet_broadcast(&self, ip: Ipv4Addr) -> bool {
        self.addrs.iter().any(|a| a.is_broadcast(ip))
    }

    /// The address to speak to `peer` (the destination or its gateway) from: the one in the same network with the longest
    /// prefix, else the first.
    pub(crate) fn source_for(&self, peer: Ipv4Addr) -> Option<Ipv4Addr> {
        let near = self.addrs.iter().filter(|a| a.covers(peer)).max_by_key(|a| a.prefix);
        near.or(self.addrs.first()).map(|a| a.ip)
    }

    /// The Ethernet header of a frame to `dst`.
    pub(crate) fn link_header(&self, dst: MacAddr, ethertype: EtherType) -> EthernetHeader {
        let vlan = self.vlan.map_or(VlanTags::NONE, |vid| VlanTags::single(VlanTag::new(vid)));
        EthernetHeader { dst, src: self.mac, vlan, ethertype }
    }

    /// The station address under a reference, if it can still be used.
    pub(crate) fn neighbor_mac(&mut self, now: Instant, neighbor: NeighborRef) -> Option<MacAddr> {
        self.neighbors.mac(now, neighbor)
    }

    /// The station address of `next_hop`; asks for it when it is unknown.
    pub(crate) fn resolve(&mut self, now: Instant, next_hop: IpAddr) -> Resolution {
        match self.neighbors.lookup(now, next_hop) {
            Lookup::Known(neighbor, mac) => Resolution::Reachable(neighbor, mac),
            Lookup::Pending => Resolution::Pending,
        }
    }

    /// Lets a packet wait for its next hop; `false` when too many do.
    #[must_use]
    pub(crate) fn park(&mut self, next_hop: IpAddr, datagram: Datagram) -> bool {
        self.neighbors.park(next_hop, datagram)
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
