//! The one place where packets are written into the memory of a device.
//!
//! [`Output`] joins, for one call of [`Stack::egress`](super::Stack::egress), the transmit ring of a device with the interface
//! that it belongs to. Every protocol sends through it, so routing, resolution of the next hop, checksum offload and
//! counting happen once:
//!
//! ```text
//!   TCP segment --+-> route -> next hop -> MAC --> reserve -> Ethernet | IP | L4 header | payload -> commit
//!   UDP record  --+              |                     |
//!   datagram    --+              v unresolved          v ring full
//!                        TCP is told later,       nothing has changed: the sender
//!                        the rest waits there     comes back on a later turn
//! ```
//!
//! Where the device has no checksum unit, the payload is summed while it is in the cache from being copied out of its FIFO. A train of TCP
//! segments is cut by the device if it can, else here ([`Output::send_train`]).

mod tcp;
mod udp;

use core::net::{IpAddr, Ipv4Addr};

use super::cx::Cx;
use super::demux::FlowKey;
use super::interface::{Interface, InterfaceId, Resolution};
use super::neighbor::NeighborRef;
use super::outbox::Datagram;
use super::plain;
use super::route::RouteTable;
use super::socket::SocketError;
use crate::counters::DropReason;
use crate::device::{Caps, TxChecksum, TxMeta, TxQueue};
use crate::fifo::{Chunks, Consumer};
use crate::wire::{ArpPacket, EtherType, EthernetHeader, IpProtocol, Ipv4Header, MacAddr, Sum, TcpFlags};

/// TTL of everything that the stack sends, unless a socket says otherwise (RFC 1700).
pub(crate) const DEFAULT_TTL: u8 = 64;

/// The largest packet, in bytes, that any link carries which there is in practice (RFC 791 asks for 68). A datagram up to this size
/// goes out with DF and without an identification, which costs less; a larger one may be fragmented on its way.
pub(crate) const ANY_LINK: usize = 552;

/// The most payload of a datagram that is summed here even where the device has a checksum unit: so short a sum costs less than
/// asking for it does, which drivers tell the device in a descriptor of its own and virtual ones parse headers for.
pub(crate) const SUMMED_HERE: usize = 128;

/// What a connection remembers of the way to its peer. The default knows nothing.
///
/// Valid while no route changed and the neighbor entry still exists; whoever holds one need not care, as
/// [`Output::prepare`] renews it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PathCache {
    /// Generation of the routes at which the rest was found; 0 is none.
    generation: u32,
    /// Over which interface.
    interface: InterfaceId,
    /// Where in that interface's cache the next hop is.
    neighbor: Option<NeighborRef>,
}

/// How large a packet may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PathLimits {
    /// The largest IP packet that the link carries, in bytes.
    pub mtu: usize,
    /// The largest IP packet, in bytes, that a train of TCP segments may be before it is cut, by the device or by
    /// [`Output::send_train`].
    pub train_max: usize,
}

/// Why nothing was sent now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Blocked {
    /// The transmit ring is full: come back on a later turn.
    RingFull,
    /// The next hop's station address is being asked for; `on_neighbor` tells how that ended.
    Unresolved {
        /// Who was asked for.
        next_hop: IpAddr,
    },
    /// The way leads over another interface.
    OtherInterface(InterfaceId),
    /// There is no way, or the packet is too large for it.
    Unreachable(SocketError),
}

/// A piece of a connection's send FIFO.
pub(crate) struct Payload<'a> {
    /// The FIFO.
    pub fifo: &'a mut Consumer,
    /// Where the piece begins, counted from the first byte that was not consumed.
    pub offset: usize,
    /// Its length in bytes. Whoever sends makes sure that the FIFO holds that much.
    pub len: usize,
}

/// Where the segments of one flow go during one turn: the answer of [`Output::prepare`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hop {
    /// The station that takes them, as [`MacAddr::to_bits`].
    mac: u64,
    /// How large they may be.
    pub limits: PathLimits,
    /// Their TTL.
    ttl: u8,
}

impl Hop {
    /// With this TTL in place of [`DEFAULT_TTL`].
    #[inline(always)]
    pub(crate) fn with_ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }
}

/// The way out over one interface. See the module documentation.
pub(crate) struct Output<'a, Q: TxQueue + ?Sized> {
    /// The surroundings of the call.
    pub cx: Cx<'a>,
    queue: &'a mut Q,
    /// Those of `queue`, asked for once.
    caps: Caps,
    interface: &'a mut Interface,
    routes: &'a RouteTable,
    generation: u32,
}

impl<'a, Q: TxQueue + ?Sized> Output<'a, Q> {
    /// The way out over `interface`, which `queue` is the ring of.
    #[inline]
    pub(crate) fn new(
        cx: Cx<'a>,
        queue: &'a mut Q,
        interface: &'a mut Interface,
        routes: &'a RouteTable,
    ) -> Self {
        // Never 0, which means that nothing is known.
        let generation = (routes.generation() as u32) | 1 << 31;
        let caps = *queue.caps();
        Self { cx, queue, caps, interface, routes, generation }
    }

    /// The interface that is sent over.
    pub(crate) fn interface(&self) -> InterfaceId {
        self.interface.id
    }

    /// Where segments of this flow go, and how large they may be. Costs one comparison and one look at the neighbor while
    /// `path` is valid. `progress` says that the peer acknowledged something new since the last time, so that its next hop is
    /// alive (RFC 4861 7.3.1).
    ///
    /// # Errors
    /// Why they cannot be sent now; never [`Blocked::RingFull`].
    #[inline(always)]
    pub(crate) fn prepare(
        &mut self,
        key: &FlowKey,
        path: &mut PathCache,
        progress: bool,
    ) -> Result<Hop, Blocked> {
        let limits = self.limits();
        if path.generation == self.generation
            && path.interface == self.interface.id
            && let Some(neighbor) = path.neighbor
            && let Some((mac, aging)) = self.interface.neighbors.reachable(self.cx.now, neighbor)
        {
            if progress && aging {
                self.interface.neighbors.confirm(self.cx.now, neighbor);
            }
            return Ok(Hop { mac: mac.to_bits(), limits, ttl: DEFAULT_TTL });
        }
        let mac = self.link_target(key.remote, path)?;
        if progress && let Some(neighbor) = path.neighbor {
            self.interface.neighbors.confirm(self.cx.now, neighbor);
        }
        Ok(Hop { mac: mac.to_bits(), limits, ttl: DEFAULT_TTL })
    }

    /// The address that packets to `dst` are sent from, unless the sender has one.
    ///
    /// # Errors
    /// [`Blocked::OtherInterface`] or [`Blocked::Unreachable`].
    pub(crate) fn source_for(&self, dst: IpAddr) -> Result<IpAddr, Blocked> {
        if let Way::Station { interface, .. } = self.route(dst)?
            && interface != self.interface.id
        {
            return Err(Blocked::OtherInterface(interface));
        }
        self.interface.source_to(dst, self.routes).map_err(Blocked::Unreachable)
    }

    /// Whether `ip` is an address of this interface that is not, or no longer, ours to send from.
    #[inline]
    pub(crate) fn must_not_use(&self, ip: IpAddr) -> bool {
        self.interface.must_not_use(ip)
    }

    /// Reserves a frame for a packet with `len` bytes behind its IP header, one that may be fragmented under `ident` or an atomic
    /// one, and writes the headers up to there. The rest of the frame, and where it starts.
    #[inline(always)]
    fn begin_packet(
        &mut self,
        to: u64,
        (src, dst): (Ipv4Addr, Ipv4Addr),
        protocol: IpProtocol,
        len: usize,
        ttl: u8,
        ident: Option<u16>,
    ) -> Result<(&mut [u8], usize), Blocked> {
        let total_len = u16::try_from(Ipv4Header::LEN + len).map_err(|_| TOO_LONG)?;
        if self.interface.vlan.is_some() {
            let link = self.interface.link_header(MacAddr::from_bits(to), EtherType::IPV4);
            let mut ip = ipv4_header(src, dst, protocol, total_len, ttl);
            (ip.dont_fragment, ip.ident) = (ident.is_none(), ident.unwrap_or(0));
            let started = begin(&mut *self.queue, &link, &ip);
            self.cx.counters.tx_backpressure += u64::from(started.is_none());
            return started.ok_or(Blocked::RingFull);
        }
        let Some(frame) = self.queue.reserve(plain::HEADERS + len) else {
            self.cx.counters.tx_backpressure += 1;
            return Err(Blocked::RingFull);
        };
        let (headers, rest) = frame.split_first_chunk_mut().ok_or(TOO_LONG)?;
        plain::emit(headers, (to, self.interface.mac_bits), (src, dst), protocol, total_len, ttl, ident);
        Ok((rest, plain::HEADERS))
    }

    /// As [`Interface::owes`].
    #[inline]
    pub(crate) fn owes(&self) -> bool {
        self.interface.owes()
    }

    /// Sends what the interface itself owes: ARP first, as others may wait for its answer, then whole packets.
    ///
    /// # Errors
    /// [`Blocked::RingFull`] when more is owed.
    #[cold]
    pub(crate) fn send_owed(&mut self) -> Result<(), Blocked> {
        while let Some((dst, packet)) = self.interface.arp_queue.front().copied() {
            self.send_arp(dst, &packet)?;
            self.interface.arp_queue.pop_front();
        }
        self.send_outbox()
    }

    fn send_outbox(&mut self) -> Result<(), Blocked> {
        while let Some(mut datagram) = self.interface.outbox.pop() {
            match self.send_datagram(&mut datagram) {
                Ok(()) => {}
                Err(Blocked::RingFull) => {
                    self.interface.outbox.unpop(datagram);
                    return Err(Blocked::RingFull);
                }
                Err(blocked @ Blocked::Unresolved { .. }) => self.take_over(datagram, Some(blocked))?,
                Err(Blocked::OtherInterface(_)) => self.cx.counters.drop(DropReason::NoRoute),
                Err(Blocked::Unreachable(SocketError::MessageTooLong)) => {
                    self.cx.counters.drop(DropReason::TooBig)
                }
                Err(Blocked::Unreachable(_)) => self.cx.counters.drop(DropReason::NoRoute),
            }
        }
        Ok(())
    }

    /// Takes charge of a packet that cannot go out in one frame now: it waits for its next hop, or is cut into fragments.
    fn take_over(&mut self, datagram: Datagram, blocked: Option<Blocked>) -> Result<(), Blocked> {
        if let Some(Blocked::Unresolved { next_hop }) = blocked {
            if !self.interface.park(next_hop, datagram) {
                self.cx.counters.drop(DropReason::NeighborQueueFull);
            }
            self.count_displaced();
            return Ok(());
        }
        if self.interface.outbox.push(datagram).is_err() {
            return Err(self.full());
        }
        // A ring that fills up here leaves the rest in the outbox, which is owed and looked at first next time.
        match self.send_outbox() {
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Counts the packets that gave way to others while they waited for a next hop.
    fn count_displaced(&mut self) {
        for _ in 0..self.interface.neighbors.take_displaced() {
            self.cx.counters.drop(DropReason::NeighborQueueFull);
        }
    }

    fn send_arp(&mut self, dst: MacAddr, packet: &ArpPacket) -> Result<(), Blocked> {
        let link = self.interface.link_header(dst, EtherType::ARP);
        let l2 = link.len();
        let Some(frame) = self.queue.reserve(l2 + ArpPacket::LEN) else { return Err(self.full()) };
        let written = link.emit(frame).and_then(|at| packet.emit(frame.get_mut(at..)?));
        written.ok_or(TOO_LONG)?;
        self.queue.commit(TxMeta::default());
        self.cx.counters.arp_tx += 1;
        self.cx.counters.tx_frames += 1;
        self.cx.counters.tx_bytes += (l2 + ArpPacket::LEN) as u64;
        Ok(())
    }

    /// Sends a whole packet, in fragments where it exceeds the MTU (RFC 791 3.2). A full ring leaves a note in `datagram` of how
    /// far that came.
    fn send_datagram(&mut self, datagram: &mut Datagram) -> Result<(), Blocked> {
        let Ok((ip, payload)) = Ipv4Header::parse(&datagram.packet) else {
            return Err(Blocked::Unreachable(SocketError::Invalid));
        };
        if self.must_not_use(ip.src.into()) {
            return Err(Blocked::Unreachable(SocketError::AddressNotAvailable));
        }
        let dst_mac = self.link_target(ip.dst.into(), &mut PathCache::default())?;
        let mtu = self.limits().mtu;
        let header_len = ip.header_len();
        let whole = header_len + payload.len() <= mtu;
        if !whole && ip.dont_fragment {
            return Err(TOO_LONG);
        }
        // "The fragment offset is measured in units of 8 octets."
        let room = if whole { payload.len() } else { mtu.saturating_sub(header_len) & !7 };
        if room == 0 && !payload.is_empty() {
            return Err(TOO_LONG);
        }
        let link = self.interface.link_header(dst_mac, EtherType::IPV4);
        loop {
            let rest = payload.get(datagram.sent..).unwrap_or_default();
            let piece = rest.get(..room.min(rest.len())).unwrap_or_default();
            let header = Ipv4Header {
                total_len: (header_len + piece.len()) as u16,
                more_fragments: piece.len() < rest.len(),
                fragment_offset: datagram.sent as u16,
                ..ip
            };
            let Some((body, start)) = begin_sized(&mut *self.queue, &link, &header, piece.len()) else {
                return Err(self.full());
            };
            body.copy_from_slice(piece);
            self.cx.counters.fragments_tx += u64::from(!whole);
            self.commit(TxMeta::default(), start + piece.len());
            datagram.sent += piece.len();
            if piece.len() == rest.len() {
                break;
            }
        }
        match ip.protocol {
            IpProtocol::ICMP => self.cx.counters.icmp_tx += 1,
            IpProtocol::UDP => self.cx.counters.udp_tx += 1,
            IpProtocol::TCP => self.cx.counters.tcp_tx += 1,
            _ => {}
        }
        Ok(())
    }

    fn limits(&self) -> PathLimits {
        let train_max = if self.caps.tso_max > 0 { self.caps.tso_max } else { usize::from(u16::MAX) };
        PathLimits { mtu: self.caps.mtu.min(self.interface.mtu), train_max }
    }

    /// The station that packets to `dst` go to.
    #[inline]
    fn link_target(&mut self, dst: IpAddr, path: &mut PathCache) -> Result<MacAddr, Blocked> {
        if path.generation == self.generation {
            if path.interface != self.interface.id {
                return Err(Blocked::OtherInterface(path.interface));
            }
            if let Some(mac) = path.neighbor.and_then(|n| self.interface.neighbor_mac(self.cx.now, n)) {
                return Ok(mac);
            }
        }
        let (peer, last) = self.interface.last_path;
        if peer == dst
            && last.generation == self.generation
            && let Some(neighbor) = last.neighbor
            && let Some((mac, _)) = self.interface.neighbors.reachable(self.cx.now, neighbor)
        {
            *path = last;
            return Ok(mac);
        }
        self.find_path(dst, path)
    }

    /// Routes and resolves from the start.
    #[cold]
    fn find_path(&mut self, dst: IpAddr, path: &mut PathCache) -> Result<MacAddr, Blocked> {
        let (interface, next_hop) = match self.route(dst)? {
            Way::Group(mac) => return Ok(mac),
            Way::Station { interface, next_hop } => (interface, next_hop),
        };
        *path = PathCache { generation: self.generation, interface, neighbor: None };
        if interface != self.interface.id {
            return Err(Blocked::OtherInterface(interface));
        }
        match self.interface.resolve(self.cx.now, next_hop) {
            Resolution::Reachable(neighbor, mac) => {
                path.neighbor = Some(neighbor);
                self.interface.last_path = (dst, *path);
                Ok(mac)
            }
            Resolution::Pending => {
                self.interface.queue_questions();
                self.count_displaced();
                Err(Blocked::Unresolved { next_hop })
            }
            Resolution::Failed => Err(Blocked::Unreachable(SocketError::HostUnreachable)),
        }
    }

    /// Where packets to `dst` go. Group addresses are mapped, not asked for, and are sent where the sender chose to.
    fn route(&self, dst: IpAddr) -> Result<Way, Blocked> {
        let IpAddr::V4(dst4) = dst else { return Err(NO_FAMILY) };
        if dst4.is_multicast() {
            return Ok(Way::Group(MacAddr::multicast_for(dst)));
        }
        if dst4.is_broadcast() || self.interface.is_subnet_broadcast(dst4) {
            return Ok(Way::Group(MacAddr::BROADCAST));
        }
        let route = self.routes.lookup(dst).ok_or(Blocked::Unreachable(SocketError::NetworkUnreachable))?;
        Ok(Way::Station { interface: InterfaceId(route.interface), next_hop: route.next_hop(dst) })
    }

    #[inline]
    fn commit(&mut self, meta: TxMeta, frame_len: usize) {
        self.queue.commit(meta);
        self.cx.counters.ip_tx += 1;
        self.cx.counters.tx_frames += 1;
        self.cx.counters.tx_bytes += frame_len as u64;
    }

    /// Notes that the ring is full.
    #[cold]
    fn full(&mut self) -> Blocked {
        self.cx.counters.tx_backpressure += 1;
        Blocked::RingFull
    }
}

/// Where a packet goes next.
enum Way {
    /// To all stations of a group on the interface at hand.
    Group(MacAddr),
    /// To the station with this address.
    Station { interface: InterfaceId, next_hop: IpAddr },
}

/// The flags that only the last segment of a train has.
pub(crate) const FOR_THE_LAST: TcpFlags = TcpFlags::FIN.union(TcpFlags::PSH);

const NO_FAMILY: Blocked = Blocked::Unreachable(SocketError::FamilyNotSupported);
const TOO_LONG: Blocked = Blocked::Unreachable(SocketError::MessageTooLong);

/// The header of a packet that is never fragmented, before `len` bytes of payload. Its identification is 0: RFC 6864 4.1 "the
/// IPv4 ID field of atomic datagrams may be set to any value".
#[inline]
fn atomic_header(
    src: IpAddr,
    dst: IpAddr,
    protocol: IpProtocol,
    len: usize,
    ttl: u8,
) -> Result<Ipv4Header<'static>, Blocked> {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) else { return Err(NO_FAMILY) };
    let total_len = u16::try_from(Ipv4Header::LEN + len).map_err(|_| TOO_LONG)?;
    Ok(ipv4_header(src, dst, protocol, total_len, ttl))
}

/// The header of an atomic packet of `total_len` bytes.
pub(crate) const fn ipv4_header(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: IpProtocol,
    total_len: u16,
    ttl: u8,
) -> Ipv4Header<'static> {
    Ipv4Header {
        dscp_ecn: 0,
        total_len,
        ident: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl,
        protocol,
        src,
        dst,
        options: &[],
    }
}

/// Reserves a frame for `link`, `ip` and the payload that `ip` declares, and writes the two headers. The rest of the frame, and
/// where it starts.
#[inline]
fn begin<'q, Q: TxQueue + ?Sized>(
    queue: &'q mut Q,
    link: &EthernetHeader,
    ip: &Ipv4Header<'_>,
) -> Option<(&'q mut [u8], usize)> {
    begin_sized(queue, link, ip, usize::from(ip.total_len).checked_sub(ip.header_len())?)
}

#[inline]
fn begin_sized<'q, Q: TxQueue + ?Sized>(
    queue: &'q mut Q,
    link: &EthernetHeader,
    ip: &Ipv4Header<'_>,
    payload: usize,
) -> Option<(&'q mut [u8], usize)> {
    let l2 = link.len();
    let start = l2 + ip.header_len();
    let frame = queue.reserve(start + payload)?;
    link.emit(frame)?;
    ip.emit(frame.get_mut(l2..)?)?;
    Some((frame.get_mut(start..start + payload)?, start))
}

fn partial_checksum(offload: bool, start: usize, offset: u16) -> TxChecksum {
    if offload { TxChecksum::Partial { start: start as u16, offset } } else { TxChecksum::Complete }
}

/// Copies the pieces one behind the other into `to`.
fn copy(to: &mut [u8], chunks: Chunks<'_>) {
    let mut rest = to;
    for chunk in chunks {
        let n = chunk.len().min(rest.len());
        let (head, tail) = rest.split_at_mut(n);
        head.copy_from_slice(chunk.get(..n).unwrap_or_default());
        rest = tail;
    }
}

/// As [`copy`], with the sum of what was copied.
#[inline(never)]
fn copy_and_sum(to: &mut [u8], chunks: Chunks<'_>) -> Sum {
    let (mut rest, mut sum, mut odd) = (to, Sum::ZERO, false);
    for chunk in chunks {
        let n = chunk.len().min(rest.len());
        let (head, tail) = rest.split_at_mut(n);
        let piece = Sum::copy(head, chunk);
        sum = if odd { sum.combine_odd(piece) } else { sum.combine(piece) };
        odd ^= n % 2 == 1;
        rest = tail;
    }
    sum
}
