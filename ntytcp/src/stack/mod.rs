//! The protocol core of one shard: everything between the frames of a device and the sockets of an application.
//!
//! A [`Stack`] does nothing by itself. Its owner feeds it and asks it, in a loop (`shard.rs` is that loop for real devices, a
//! simulation has its own):
//!
//! ```text
//!            ingress_burst(now, interface, frames)     on_timeout(now)     egress(now, interface, ring)
//!   device ------------------------------------->  Stack  ----------------------------------------> device
//!                                                  |   ^
//!                                       poll_event |   | udp_send_to, tcp_connect, ...
//!                                                  v   |
//!                                               application           next_deadline() -> when to come back
//! ```
//!
//! - `ingress` never sends. An answer that fits the frame is written into it and goes back as the same buffer
//!   ([`Verdict::Reply`]); what else is owed is noted and sent by the next `egress`, once per burst.
//! - A full ring stops `egress` ([`Pending::RingFull`]); nothing is lost, and the next call goes on from there.
//! - Addresses, sockets and routes belong to this stack alone; nothing is shared, so nothing is locked.

mod answer;
pub mod arp;
mod bound;
pub(crate) mod cx;
pub mod demux;
mod echo;
mod fragments;
mod icmp;
mod ident;
pub(crate) mod idle;
mod input;
mod interface;
pub mod keyed;
pub mod limiter;
mod lists;
pub mod neighbor;
mod outbox;
pub(crate) mod output;
mod plain;
mod plain_tcp;
mod plain_udp;
pub mod ports;
mod readdress;
pub mod reassembly;
mod records;
mod respond_run;
pub mod route;
pub(crate) mod slots;
mod socket;
mod starved;
mod steady;
mod tcp_sockets;
mod transport;
mod udp;
mod udp_run;
mod udp_sockets;

#[cfg(test)]
mod tests;

use core::net::{IpAddr, Ipv4Addr};

pub(crate) use cx::{Cx, EventQueue};
pub use echo::{EchoArrival, EchoOutcome, MAX_ECHO_PAYLOAD};
pub(crate) use icmp::IcmpError;
pub(crate) use interface::NeighborOutcome;
pub use interface::{InterfaceConfig, InterfaceId};
pub(crate) use output::Output;
pub use socket::{Event, Readiness, SocketError, SocketId, SocketKind};
pub use tcp_sockets::TcpPopulation;
pub use udp::{MAX_UDP_PAYLOAD, Responder, UdpStats};
pub use udp_sockets::{Received, UdpHalf};

use crate::counters::{Counters, DropReason};
use crate::device::TxQueue;
#[cfg(doc)]
use crate::device::Verdict;
use crate::fifo::PagePool;
use crate::placement::{Place, Transport};
use crate::rng::{Rng, Seed};
use crate::tcp::{Tcp, TcpConfig};
use crate::time::{Instant, earliest};
use crate::wire::MacAddr;
use arp::GuardState;
use echo::EchoTable;
use icmp::Quoted;
use interface::Interface;
use limiter::{LimiterConfig, RateLimiter};
use neighbor::{NeighborConfig, NeighborInfo, StaticNeighborError};
use outbox::Datagram;
use ports::{PortAllocator, PortRange};
use reassembly::{Reassembler, ReassemblyConfig};
use route::{InterfaceAddr, Route, RouteError, RouteTable};
use starved::Starved;
use udp::UdpTable;

/// Settings of a [`Stack`].
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// Pages of 16 KiB for payload that waits in sockets, made as they are needed. Default 16,384 (256 MiB); 1 to
    /// 16,777,216.
    pub pages: usize,
    /// Ports for sockets that do not ask for one. Default 32768 to 60999.
    pub ephemeral_ports: PortRange,
    /// How many UDP sockets there may be. Default 65,536; at least 1.
    pub udp_sockets: usize,
    /// Bytes that the receive queue of a UDP socket holds, 16 per datagram for addresses included. Default 256 KiB; at least
    /// 65,547 so that any datagram fits.
    pub udp_rx_bytes: usize,
    /// The same for the send queue.
    pub udp_tx_bytes: usize,
    /// Datagrams that each queue of a UDP socket holds. Default 4,096; at least 1.
    pub udp_datagrams: u64,
    /// TTL of what UDP sockets send, unless [`Stack::udp_set_ttl`] says otherwise; that of TCP is in `tcp.socket`. Default 64; at
    /// least 1.
    pub udp_ttl: u8,
    /// How often ICMP errors are sent. Default: what Linux does.
    pub icmp_errors: LimiterConfig,
    /// Bounds and times of each interface's neighbor cache.
    pub neighbors: NeighborConfig,
    /// Bounds of the reassembly of fragments.
    pub reassembly: ReassemblyConfig,
    /// Settings of TCP.
    pub tcp: TcpConfig,
    /// The shard that the stack is, on a host that has several. Default none: it is alone, and receives everything.
    pub place: Option<Place>,
}

impl Default for StackConfig {
    fn default() -> Self {
        Self {
            pages: 16_384,
            ephemeral_ports: PortRange::default(),
            udp_sockets: 65_536,
            udp_rx_bytes: 256 << 10,
            udp_tx_bytes: 256 << 10,
            udp_datagrams: 4_096,
            udp_ttl: output::DEFAULT_TTL,
            icmp_errors: LimiterConfig::icmp_errors(),
            neighbors: NeighborConfig::default(),
            reassembly: ReassemblyConfig::default(),
            tcp: TcpConfig::default(),
            place: None,
        }
    }
}

/// Why a stack or an interface cannot be made as configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A number is outside its range.
    #[error("{name} is {value}, but must be {allowed}")]
    Range {
        /// Which field.
        name: &'static str,
        /// What it holds.
        value: usize,
        /// What it may hold.
        allowed: &'static str,
    },
    /// The station address is missing or a group's.
    #[error(
        "{0} is no address of one station: choose one whose first byte is even, such as 02:00:00:00:00:01"
    )]
    Mac(MacAddr),
    /// The interface's addresses contradict a route.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A static neighbor makes no sense.
    #[error(transparent)]
    Neighbor(#[from] StaticNeighborError),
    /// There is no interface of that name.
    #[error("there is no interface {}", .0.0)]
    NoInterface(InterfaceId),
}

impl StackConfig {
    fn check(&self) -> Result<(), ConfigError> {
        const MAX_PAGES: usize = 1 << 24;
        const WHOLE: usize = MAX_UDP_PAYLOAD + 40;
        let at_least = |name, value, min, allowed| match value < min {
            true => Err(ConfigError::Range { name, value, allowed }),
            false => Ok(()),
        };
        // The table of pages, eight bytes each, is made at once.
        if !(1..=MAX_PAGES).contains(&self.pages) {
            return Err(ConfigError::Range { name: "pages", value: self.pages, allowed: "1 to 16777216" });
        }
        self.tcp.check()?;
        at_least("udp_sockets", self.udp_sockets, 1, "at least 1")?;
        at_least("udp_ttl", self.udp_ttl.into(), 1, "1 to 255")?;
        at_least("udp_rx_bytes", self.udp_rx_bytes, WHOLE, "at least 65547")?;
        at_least("udp_tx_bytes", self.udp_tx_bytes, WHOLE, "at least 65547")?;
        at_least("udp_datagrams", self.udp_datagrams as usize, 1, "at least 1")
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.config.place.iter().for_each(Place::leave);
    }
}

/// Whether [`Stack::egress`] sent all that was owed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "what is still owed wants another call once the ring has room"]
pub enum Pending {
    /// It did.
    Clear,
    /// The ring became full first: call again when it has room.
    RingFull,
}

/// The protocol core of one shard. See the module documentation.
pub struct Stack {
    config: StackConfig,
    interfaces: Vec<Interface>,
    routes: RouteTable,
    tcp: Tcp,
    udp: UdpTable,
    echo: EchoTable,
    ports: PortAllocator,
    /// Ports that listeners were closed on, and that other shards are still to leave to us.
    unlistened: Vec<u16>,
    icmp_limiter: RateLimiter,
    reassembler: Reassembler,
    pool: PagePool,
    starved: Starved,
    counters: Counters,
    events: EventQueue,
    rng: Rng,
}

impl Stack {
    /// A stack without interfaces, whose every unpredictable number flows from `seed`.
    ///
    /// # Errors
    /// [`ConfigError::Range`].
    pub fn new(config: StackConfig, seed: Seed) -> Result<Self, ConfigError> {
        config.check()?;
        let mut rng = Rng::new(seed);
        let pool = PagePool::new(config.pages);
        Ok(Self {
            interfaces: Vec::new(),
            routes: RouteTable::new(),
            tcp: Tcp::new(config.tcp.clone(), pool.clone(), &mut rng),
            udp: UdpTable::new(),
            echo: EchoTable::default(),
            ports: PortAllocator::new(config.ephemeral_ports, &mut rng),
            unlistened: Vec::new(),
            icmp_limiter: RateLimiter::new(config.icmp_errors, &mut rng),
            reassembler: Reassembler::new(config.reassembly, &mut rng),
            pool,
            starved: Starved::default(),
            counters: Counters::default(),
            events: EventQueue::default(),
            rng,
            config,
        })
    }

    /// Adds an interface, with a route to the network of each of its addresses.
    ///
    /// # Errors
    /// [`ConfigError`], with the stack unchanged.
    pub fn add_interface(&mut self, config: InterfaceConfig) -> Result<InterfaceId, ConfigError> {
        config.check()?;
        let range = |value| ConfigError::Range { name: "interfaces", value, allowed: "at most 65536" };
        let id = InterfaceId(u16::try_from(self.interfaces.len()).map_err(|_| range(self.interfaces.len()))?);
        for &addr in &config.addrs {
            if let Err(error) = self.routes.connect(addr, id.0) {
                self.routes.remove_interface(id.0);
                return Err(error.into());
            }
        }
        self.interfaces.push(Interface::new(id, &config, self.config.neighbors, &mut self.rng));
        self.udp.add_interface();
        Ok(id)
    }

    /// Adds a route.
    ///
    /// # Errors
    /// [`ConfigError::Route`], [`ConfigError::NoInterface`].
    pub fn add_route(&mut self, route: Route) -> Result<(), ConfigError> {
        if usize::from(route.interface) >= self.interfaces.len() {
            return Err(ConfigError::NoInterface(InterfaceId(route.interface)));
        }
        Ok(self.routes.add(route)?)
    }

    /// Removes a route; `false` when there is none like it.
    pub fn remove_route(&mut self, route: &Route) -> bool {
        self.routes.remove(route)
    }

    /// The routes.
    pub fn routes(&self) -> &RouteTable {
        &self.routes
    }

    /// Sets the station address of a neighbor by hand.
    ///
    /// # Errors
    /// [`ConfigError::Neighbor`], [`ConfigError::NoInterface`].
    pub fn add_neighbor(&mut self, id: InterfaceId, ip: IpAddr, mac: MacAddr) -> Result<(), ConfigError> {
        let interface = self.interfaces.get_mut(usize::from(id.0)).ok_or(ConfigError::NoInterface(id))?;
        interface.neighbors.add_static(ip, mac)?;
        // Who waits for it is told by the next egress.
        interface.queue_questions();
        Ok(())
    }

    /// The addresses of an interface, and how far the claim to each has come.
    pub fn addresses(&self, id: InterfaceId) -> impl Iterator<Item = (InterfaceAddr, GuardState)> {
        self.interfaces.get(usize::from(id.0)).into_iter().flat_map(Interface::claims)
    }

    /// Who is known on the link of an interface, in no particular order: a walk over the whole cache.
    pub fn neighbors(&self, id: InterfaceId) -> impl Iterator<Item = NeighborInfo> {
        self.interfaces.get(usize::from(id.0)).into_iter().flat_map(|interface| interface.neighbors.iter())
    }

    /// The last of our addresses on an interface that another station was seen to use (RFC 5227), and that station. `addresses`
    /// tells whether the address was kept. A lost one is sent from no more, and its sockets report `AddressNotAvailable`; the other
    /// station must be stopped, or this one given another address.
    pub fn conflict(&self, id: InterfaceId) -> Option<(Ipv4Addr, MacAddr)> {
        self.interfaces.get(usize::from(id.0))?.conflict
    }

    /// What the stack counted since it was made.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether sockets hold all pages of payload memory that there are.
    pub fn is_out_of_pages(&self) -> bool {
        self.pool.is_exhausted()
    }

    /// Pages of payload memory that sockets hold at this moment.
    pub fn pages_in_use(&self) -> usize {
        self.pool.pages_in_use()
    }

    /// Sends over an interface what is owed there: ARP, whole packets, datagrams, segments, in this order.
    pub fn egress<Q: TxQueue + ?Sized>(&mut self, now: Instant, id: InterfaceId, ring: &mut Q) -> Pending {
        let Some(mut interface) = self.interfaces.get_mut(usize::from(id.0)) else { return Pending::Clear };
        let owes = interface.owes();
        if !(owes || self.udp.has_pending(id) || self.tcp.has_pending(id)) {
            return Pending::Clear;
        }
        if owes {
            self.tell_outcomes(now, id);
            let Some(again) = self.interfaces.get_mut(usize::from(id.0)) else { return Pending::Clear };
            interface = again;
        }
        // The protocol that found the ring full comes first when there is room again.
        let tcp_first = core::mem::take(&mut interface.tcp_first);
        let (counters, events) = (&mut self.counters, &mut self.events);
        let mut out = Output::new(Cx { now, counters, events }, ring, interface, &self.routes);
        let mut full = owes && out.send_owed().is_err();
        let mut tcp_full = false;
        if !full && tcp_first {
            tcp_full = self.tcp.egress(&mut out);
            full = tcp_full;
        }
        full = full || (self.udp.has_pending(id) && self.udp.egress(&mut out));
        if !full && !tcp_first {
            tcp_full = self.tcp.egress(&mut out);
            full = tcp_full;
        }
        // Asking for a next hop that was missed just now need not wait for the next turn.
        let owes = out.owes();
        full = full || (owes && out.send_owed().is_err());
        interface.tcp_first = full && !tcp_full;
        if owes {
            self.tell_outcomes(now, id);
        }
        if full { Pending::RingFull } else { Pending::Clear }
    }

    /// Whether something is owed over an interface, so that [`Stack::egress`] has work.
    pub fn has_pending(&self, id: InterfaceId) -> bool {
        let owed = self.interfaces.get(usize::from(id.0)).is_some_and(Interface::owes);
        owed || self.udp.has_pending(id) || self.tcp.has_pending(id)
    }

    /// Does what has become due: retransmissions, retries, expiry. Sends nothing; [`Stack::egress`] follows.
    pub fn on_timeout(&mut self, now: Instant) {
        for index in 0..self.interfaces.len() {
            if let Some(interface) = self.interfaces.get_mut(index) {
                interface.on_timeout(now);
            }
            self.neighbor_outcomes(now, InterfaceId(index as u16));
        }
        self.reassembler.on_timeout(now);
        self.expired_fragments(now);
        let (counters, events) = (&mut self.counters, &mut self.events);
        self.tcp.on_timeout(&mut Cx { now, counters, events });
        self.udp.on_timeout(now);
        self.feed_starved(now);
    }

    /// When [`Stack::on_timeout`] wants to be called next, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let starved = self.starved.next_deadline(&self.pool);
        let sockets = [self.tcp.next_deadline(), self.udp.next_deadline(), starved];
        let rest = earliest([earliest(sockets), self.reassembler.next_deadline()]);
        self.interfaces.iter().fold(rest, |next, i| earliest([next, i.next_deadline()]))
    }

    /// As [`Stack::neighbor_outcomes`], about what came about while packets were sent or a neighbor was set by hand.
    #[inline]
    fn tell_outcomes(&mut self, now: Instant, id: InterfaceId) {
        if self.interfaces.get(usize::from(id.0)).is_some_and(Interface::has_outcomes) {
            self.neighbor_outcomes(now, id);
        }
    }

    /// One of our addresses is another station's now. RFC 5227 2.4: the host "MUST immediately cease using this address".
    fn address_lost(&mut self, now: Instant, ip: IpAddr) {
        let (counters, events) = (&mut self.counters, &mut self.events);
        let mut cx = Cx { now, counters, events };
        self.tcp.on_address_lost(&mut cx, ip);
        self.udp.on_address_lost(&mut cx, ip);
    }

    /// Tells everybody how asking for next hops on an interface ended.
    fn neighbor_outcomes(&mut self, now: Instant, id: InterfaceId) {
        while let Some(interface) = self.interfaces.get_mut(usize::from(id.0))
            && let Some((next_hop, outcome)) = interface.next_outcome()
        {
            while let Some(interface) = self.interfaces.get_mut(usize::from(id.0))
                && let Some(packet) = interface.neighbors.take_packet(next_hop)
            {
                match outcome {
                    NeighborOutcome::Resolved => {
                        if interface.outbox.push(Datagram::new(packet.into())).is_err() {
                            self.counters.drop(DropReason::NeighborQueueFull);
                        }
                    }
                    NeighborOutcome::Failed => self.undeliverable(now, &packet),
                }
            }
            let (counters, events) = (&mut self.counters, &mut self.events);
            self.tcp.on_neighbor(&mut Cx { now, counters, events }, next_hop, outcome);
        }
    }

    /// A packet of ours waited in vain for its next hop: its socket hears what it would hear from a router.
    fn undeliverable(&mut self, now: Instant, packet: &[u8]) {
        self.counters.drop(DropReason::NeighborFailed);
        let (counters, events) = (&mut self.counters, &mut self.events);
        let mut cx = Cx { now, counters, events };
        let error = IcmpError::Unreachable(SocketError::HostUnreachable);
        match icmp::quoted(packet) {
            Some(Quoted::Udp(key)) => {
                self.udp.on_icmp(&mut cx, &key, error);
            }
            Some(Quoted::Echo { local, ident, seq, .. }) => {
                // A full queue has enough to tell.
                let _ = self.echo.on_error(&mut cx, local, (ident, seq), error);
            }
            // Segments do not wait here.
            Some(Quoted::Tcp { .. }) | None => {}
        }
    }

    /// Whether [`Stack::poll_event`] has something to say, or did not look yet.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// A socket at which something happened, and what. Each socket is reported once for all that happened since the last time.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        // Here, as the last connection may end in any of the other ways in.
        if !self.unlistened.is_empty() {
            self.close_unlistened();
        }
        if self.events.is_empty() { None } else { self.next_event() }
    }

    fn next_event(&mut self) -> Option<Event> {
        while let Some(socket) = self.events.pop() {
            let readiness = match socket.kind {
                SocketKind::Stream | SocketKind::Listener => self.tcp.take_ready(socket),
                SocketKind::Datagram => self.udp.take_ready(socket),
                SocketKind::Echo => self.echo.take_ready(socket),
            };
            // A socket that was closed meanwhile has nothing to say.
            if !readiness.is_empty() {
                return Some(Event { socket, readiness });
            }
        }
        None
    }

    /// The address and interface from which packets to `dst` go.
    pub(crate) fn select_source(&self, dst: IpAddr) -> Result<(IpAddr, InterfaceId), SocketError> {
        // As a rule the route itself says.
        if let Some(route) = self.routes.find(dst).filter(|_| !is_group(dst))
            && let Some(interface) = self.interfaces.get(usize::from(route.interface))
            && let Some(IpAddr::V4(source)) = route.source
            && interface.owns(source)
        {
            return Ok((source.into(), interface.id));
        }
        let (id, _) = self.route_to(dst, udp::unspecified(dst))?;
        let interface = self.interfaces.get(usize::from(id.0)).ok_or(SocketError::NetworkUnreachable)?;
        Ok((interface.source_to(dst, &self.routes)?, id))
    }

    /// Our other addresses on the interface, from which a peer that `source` reaches can be reached as well.
    fn other_sources(&self, interface: InterfaceId, source: IpAddr) -> Vec<IpAddr> {
        let (Some(interface), IpAddr::V4(source)) = (self.interfaces.get(usize::from(interface.0)), source)
        else {
            return Vec::new();
        };
        interface.other_sources(source).map(IpAddr::V4).collect()
    }

    /// A socket of ours receives what comes for a port.
    fn open_port(&self, transport: Transport, port: u16) {
        self.config.place.iter().for_each(|place| place.open(transport, port));
    }

    /// No socket of ours receives any more what comes for a port.
    fn close_port(&self, transport: Transport, port: u16) {
        self.config.place.iter().for_each(|place| place.close(transport, port));
    }

    /// Nobody listens on a port any more. It stays ours as long as there are connections, whose segments are to arrive here.
    fn stop_listening_on(&mut self, port: u16) {
        if self.config.place.is_some() && !self.unlistened.contains(&port) {
            self.unlistened.push(port);
        }
        self.close_unlistened();
    }

    /// Gives up the ports that nobody listens on, once there are no connections left.
    #[cold]
    fn close_unlistened(&mut self) {
        if self.tcp.population() != TcpPopulation::default() {
            return;
        }
        for port in core::mem::take(&mut self.unlistened) {
            if !self.tcp.is_listened(port) {
                self.close_port(Transport::Tcp, port);
            }
        }
    }

    /// Whether `ip` is the broadcast address of one of our networks.
    fn is_subnet_broadcast(&self, ip: IpAddr) -> bool {
        matches!(ip, IpAddr::V4(ip) if self.interfaces.iter().any(|i| i.is_subnet_broadcast(ip)))
    }

    /// The interface and the next hop of packets to `dst`. Group addresses lead out of the interface that has the address
    /// `from`, or of the first.
    fn route_to(&self, dst: IpAddr, from: IpAddr) -> Result<(InterfaceId, IpAddr), SocketError> {
        let (IpAddr::V4(_), IpAddr::V4(from)) = (dst, from) else {
            return Err(SocketError::FamilyNotSupported);
        };
        if is_group(dst) {
            let interface = self.interfaces.iter().find(|i| i.owns(from)).or(self.interfaces.first());
            return interface.map(|i| (i.id, dst)).ok_or(SocketError::NetworkUnreachable);
        }
        let route = self.routes.lookup(dst).ok_or(SocketError::NetworkUnreachable)?;
        Ok((InterfaceId(route.interface), route.next_hop(dst)))
    }

    /// Something found no page to write to. Takes back those of sockets at rest; whether there is a page now that was not there
    /// before, so that it is worth another try.
    #[cold]
    fn reclaim_pages(&mut self) -> bool {
        if !self.pool.is_exhausted() {
            return false;
        }
        self.tcp.reclaim_pages();
        self.udp.reclaim_pages();
        !self.pool.is_exhausted()
    }

    /// The largest IP packet of an interface.
    fn interface_mtu(&self, id: InterfaceId) -> usize {
        self.interfaces.get(usize::from(id.0)).map_or(0, |interface| interface.mtu)
    }

    /// Whether a socket may be bound to `ip`.
    fn check_local(&self, ip: IpAddr) -> Result<(), SocketError> {
        let IpAddr::V4(ip) = ip else { return Err(SocketError::FamilyNotSupported) };
        if ip.is_unspecified() || self.interfaces.iter().any(|i| i.owns(ip)) {
            Ok(())
        } else {
            Err(SocketError::AddressNotAvailable)
        }
    }

    /// Queues a whole packet on the interface that leads to its destination.
    fn send_packet(&mut self, datagram: Datagram) -> Result<(), SocketError> {
        let dst = datagram.dst().ok_or(SocketError::Invalid)?;
        let (id, _) = self.route_to(dst, datagram.src().ok_or(SocketError::Invalid)?)?;
        let interface = self.interfaces.get_mut(usize::from(id.0)).ok_or(SocketError::NetworkUnreachable)?;
        interface.outbox.push(datagram).map_err(|_| SocketError::WouldBlock)
    }
}

/// Whether packets to `dst` go to many stations.
fn is_group(dst: IpAddr) -> bool {
    dst.is_multicast() || matches!(dst, IpAddr::V4(dst) if dst.is_broadcast())
}
