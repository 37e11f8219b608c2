//! Where a received frame is to be handled: the rule of a host with several shards.
//!
//! ```text
//!   TCP, UDP   a port that every shard has opened, or none   -> by the flow (RSS)
//!              a port that some shards have opened           -> one of these, by the flow
//!   ICMP       an error                                      -> where the flow is that it quotes
//!              what asks                                     -> where it arrived
//!   ARP, neighbor discovery                                  -> the first shard answers, every shard learns
//!   anything else                                            -> the first shard
//! ```
//!
//! A server that listens on every shard thus has its connections spread by the device itself, while a port that one shard has
//! opened for itself, a client's UDP socket or a listener without siblings, receives everything there. Shards share nothing else:
//! the table of ports is written when a socket is opened or closed and only read for a frame.
//!
//! Only the first fragment of a datagram has ports; who sees it remembers where it went ([`Fragments`]), and lets the others follow.

use core::net::IpAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crate::steering::Steering;
use crate::wire::{EtherType, EthernetHeader, Icmpv4Message, IpProtocol, Ipv6Header, walk_extensions};

/// Where a received frame is to be handled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Home {
    /// Where it arrived.
    Anyone,
    /// On this shard.
    Shard(usize),
    /// The first shard handles it and answers; every other hears it, and is not to answer.
    Everyone,
    /// Where the other fragments of its datagram are: [`Fragments::follow`] knows.
    Fragment(Fragment),
}

/// A fragment, as far as it says where it belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Its datagram, by a hash.
    datagram: u64,
    /// Where a first fragment goes.
    leads_to: Option<usize>,
    /// Where one goes whose first fragment was not seen.
    stray: usize,
}

/// Where the datagrams go whose fragments were seen last. As much as there are fragments of different datagrams between each other on a
/// link: who mixes more loses some.
#[derive(Clone, Debug)]
pub struct Fragments([(u64, usize); Self::PLACES]);

impl Default for Fragments {
    fn default() -> Self {
        Self([(0, 0); Self::PLACES])
    }
}

impl Fragments {
    const PLACES: usize = 256;

    /// The shard of a fragment.
    pub fn follow(&mut self, fragment: Fragment) -> usize {
        let Some(place) = self.0.get_mut(fragment.datagram as usize % Self::PLACES) else {
            return fragment.stray;
        };
        match fragment.leads_to {
            Some(shard) => {
                *place = (fragment.datagram, shard);
                shard
            }
            None if place.0 == fragment.datagram => place.1,
            None => fragment.stray,
        }
    }
}

/// A transport whose ports are placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The shards of a host, and which of them have opened which port. See the module documentation.
#[derive(Debug)]
pub struct Placement {
    steering: Arc<Steering>,
    tcp: Ports,
    udp: Ports,
}

impl Placement {
    /// Flows go as `steering` says; no port is open.
    pub fn new(steering: Arc<Steering>) -> Self {
        let shards = steering.shards();
        Self { tcp: Ports::new(shards), udp: Ports::new(shards), steering }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.tcp.shards
    }

    /// The rule for flows.
    pub fn steering(&self) -> &Arc<Steering> {
        &self.steering
    }

    /// `shard` has opened a port: a listener, or a socket of datagrams.
    pub fn open(&self, transport: Transport, port: u16, shard: usize) {
        self.ports(transport).open(port, shard);
    }

    /// `shard` has closed what it had opened.
    pub fn close(&self, transport: Transport, port: u16, shard: usize) {
        self.ports(transport).close(port, shard);
    }

    /// The shard where those packets of a flow are handled that arrive from `remote` for `local`.
    #[inline]
    pub fn of_flow(&self, transport: Transport, local: (IpAddr, u16), remote: (IpAddr, u16)) -> usize {
        let owners = self.ports(transport).owners(local.1);
        let hash = self.steering.hash(remote.0, local.0, Some((remote.1, local.1)));
        let home = self.steering.shard_of(hash);
        owners.map_or(home, |owners| owners.pick(home, hash))
    }

    /// Where `frame`, which has just arrived, is to be handled. `steered`: the device has brought it to the shard that the steering says,
    /// if it is of a flow; then that is not computed once more.
    pub fn home(&self, frame: &[u8], steered: bool) -> Home {
        self.find(frame, steered).unwrap_or(Home::Anyone)
    }

    fn ports(&self, transport: Transport) -> &Ports {
        match transport {
            Transport::Tcp => &self.tcp,
            Transport::Udp => &self.udp,
        }
    }

    /// `None` for what is cut short: whoever has it finds out why it is dropped.
    fn find(&self, frame: &[u8], steered: bool) -> Option<Home> {
        let (ethernet, packet) = EthernetHeader::parse(frame).ok()?;
        let packet = match ethernet.ethertype {
            EtherType::IPV4 => Packet::read_v4(packet)?,
            EtherType::IPV6 => Packet::read_v6(packet)?,
            EtherType::ARP => return Some(Home::Everyone),
            _ => return Some(Home::Shard(0)),
        };
        if let Some(part) = packet.fragment {
            return Some(Home::Fragment(self.fragment(&packet, part)));
        }
        match packet.transport() {
            Some(transport) if steered && self.ports(transport).owners(packet.ports()?.1).is_none() => {
                Some(Home::Anyone)
            }
            Some(_) => Some(Home::Shard(self.of_packet(&packet)?)),
            None => self.find_icmp(&packet),
        }
    }

    /// The shard of a TCP segment or datagram, whose ports are there.
    fn of_packet(&self, packet: &Packet<'_>) -> Option<usize> {
        let (theirs, ours) = packet.ports()?;
        Some(self.of_flow(packet.transport()?, (packet.dst, ours), (packet.src, theirs)))
    }

    fn fragment(&self, packet: &Packet<'_>, part: Part) -> Fragment {
        let hash = self.steering.hash(packet.src, packet.dst, None);
        Fragment {
            datagram: u64::from(hash) << 32 | u64::from(part.ident),
            leads_to: if part.is_first { self.of_packet(packet) } else { None },
            // Whoever pings does so on the first shard.
            stray: if packet.transport().is_some() { self.steering.shard_of(hash) } else { 0 },
        }
    }

    fn find_icmp(&self, packet: &Packet<'_>) -> Option<Home> {
        let (&kind, quote) = (packet.payload.first()?, packet.payload.get(Icmpv4Message::HEADER_LEN..));
        let sent = match (packet.protocol, kind) {
            (IpProtocol::ICMP, kind) if Icmpv4Message::is_error_kind(kind) => Packet::read_v4(quote?)?,
            // RFC 4443 2.1: errors have the high bit clear.
            (IpProtocol::ICMPV6, ..=127) => Packet::read_v6(quote?)?,
            // Whoever pings does so on the first shard.
            (IpProtocol::ICMP, 0) | (IpProtocol::ICMPV6, 129) => return Some(Home::Shard(0)),
            // RFC 4861 4: router and neighbor discovery.
            (IpProtocol::ICMPV6, 133..=137) => return Some(Home::Everyone),
            (IpProtocol::ICMP | IpProtocol::ICMPV6, _) => return None,
            _ => return Some(Home::Shard(0)),
        };
        match sent.transport().filter(|_| sent.fragment.is_none_or(|part| part.is_first)) {
            Some(transport) => {
                let (ours, theirs) = sent.ports()?;
                Some(Home::Shard(self.of_flow(transport, (sent.src, ours), (sent.dst, theirs))))
            }
            None => Some(Home::Shard(0)),
        }
    }
}

/// A shard's place in a [`Placement`]: what its stack opens is to receive.
#[derive(Clone, Debug)]
pub struct Place {
    /// The rule of the host.
    pub placement: Arc<Placement>,
    /// Which of the shards.
    pub shard: usize,
}

impl Place {
    pub(crate) fn open(&self, transport: Transport, port: u16) {
        self.placement.open(transport, port, self.shard);
    }

    /// Opens a port that no shard has opened; `false` when one has.
    pub(crate) fn claim(&self, transport: Transport, port: u16) -> bool {
        self.placement.ports(transport).claim(port, self.shard)
    }

    pub(crate) fn close(&self, transport: Transport, port: u16) {
        self.placement.close(transport, port, self.shard);
    }

    /// Whether what arrives of a flow arrives here.
    pub(crate) fn is_home(&self, transport: Transport, local: (IpAddr, u16), remote: (IpAddr, u16)) -> bool {
        self.placement.of_flow(transport, local, remote) == self.shard
    }

    /// The shard is gone: nothing is open there.
    pub(crate) fn leave(&self) {
        for port in 0..=u16::MAX {
            self.close(Transport::Tcp, port);
            self.close(Transport::Udp, port);
        }
    }
}

/// Which shards have opened each port of one transport.
struct Ports {
    /// One bit per shard.
    open: Box<[AtomicU64]>,
    shards: usize,
}

impl Ports {
    fn new(shards: usize) -> Self {
        Self { open: (0..=u16::MAX).map(|_| AtomicU64::new(0)).collect(), shards }
    }

    /// The bits of a port, for a shard that has one.
    fn of(&self, port: u16, shard: usize) -> Option<&AtomicU64> {
        self.open.get(usize::from(port)).filter(|_| shard < self.shards)
    }

    fn open(&self, port: u16, shard: usize) {
        if let Some(open) = self.of(port, shard) {
            open.fetch_or(1 << shard, Ordering::Relaxed);
        }
    }

    fn claim(&self, port: u16, shard: usize) -> bool {
        let nobody =
            |open: &AtomicU64| open.compare_exchange(0, 1 << shard, Ordering::Relaxed, Ordering::Relaxed);
        self.of(port, shard).is_some_and(|open| nobody(open).is_ok())
    }

    fn close(&self, port: u16, shard: usize) {
        if let Some(open) = self.of(port, shard) {
            open.fetch_and(!(1 << shard), Ordering::Relaxed);
        }
    }

    /// The shards that have opened `port`; `None` when it is nobody's or everybody's.
    #[inline]
    fn owners(&self, port: u16) -> Option<Owners> {
        let open = self.open.get(usize::from(port))?.load(Ordering::Relaxed);
        let some = open != 0 && (open.count_ones() as usize) < self.shards;
        some.then_some(Owners(open))
    }
}

/// Some shards, one bit each, at least one.
struct Owners(u64);

impl Owners {
    /// The one among them for a flow of this hash whose home, if that has opened the port, is `home`: so no flow moves but those of a
    /// shard that leaves.
    fn pick(&self, home: usize, hash: u32) -> usize {
        if self.0 >> home & 1 == 1 {
            return home;
        }
        let skip = hash % self.0.count_ones().max(1);
        let rest = (0..skip).fold(self.0, |open, _| open & open.wrapping_sub(1));
        rest.trailing_zeros() as usize
    }
}

impl core::fmt::Debug for Ports {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let open = self.open.iter().filter(|shards| shards.load(Ordering::Relaxed) != 0).count();
        f.debug_struct("Ports").field("open", &open).finish_non_exhaustive()
    }
}

/// Which part of which datagram.
#[derive(Clone, Copy)]
struct Part {
    ident: u32,
    is_first: bool,
}

/// As much of an IP packet as says where it belongs. Nothing is verified: whoever handles it will.
struct Packet<'a> {
    src: IpAddr,
    dst: IpAddr,
    protocol: IpProtocol,
    fragment: Option<Part>,
    /// Behind the IP header and its options or extensions; possibly cut short.
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    #[inline]
    fn read_v4(packet: &'a [u8]) -> Option<Self> {
        let h = packet.first_chunk::<20>()?;
        let header_len = usize::from(h[0] & 15) * 4;
        let addr = |at: usize| IpAddr::from([h[at], h[at + 1], h[at + 2], h[at + 3]]);
        let (ident, part) = (u16::from_be_bytes([h[4], h[5]]), u16::from_be_bytes([h[6], h[7]]) & 0x3fff);
        Some(Self {
            src: addr(12),
            dst: addr(16),
            protocol: IpProtocol(h[9]),
            fragment: (part != 0).then_some(Part { ident: ident.into(), is_first: part & 0x1fff == 0 }),
            payload: packet.get(header_len.max(20)..)?,
        })
    }

    #[inline]
    fn read_v6(packet: &'a [u8]) -> Option<Self> {
        let (h, rest) = packet.split_first_chunk::<{ Ipv6Header::LEN }>()?;
        let addr = |at: usize| h.get(at..)?.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes));
        let (src, dst) = (addr(8)?, addr(24)?);
        let upper = walk_extensions(IpProtocol(h[6]), rest).ok()?;
        let whole = upper.fragment.filter(|fragment| !fragment.is_atomic());
        let fragment = whole.map(|part| Part { ident: part.ident, is_first: part.offset == 0 });
        Some(Self { src, dst, protocol: upper.protocol, fragment, payload: upper.payload })
    }

    fn transport(&self) -> Option<Transport> {
        match self.protocol {
            IpProtocol::TCP => Some(Transport::Tcp),
            IpProtocol::UDP => Some(Transport::Udp),
            _ => None,
        }
    }

    fn ports(&self) -> Option<(u16, u16)> {
        let &[a, b, c, d] = self.payload.first_chunk()?;
        Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};
    use std::collections::BTreeSet;

    use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4, icmpv6};
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;
    use crate::rng::{Rng, seed_from};

    fn placement(shards: usize) -> Placement {
        Placement::new(Arc::new(Steering::new(shards, &mut Rng::new(seed_from(1)))))
    }

    const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn frame(builder: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut frame = Vec::new();
        builder(&mut frame);
        frame
    }

    fn datagram(peer_port: u16, our_port: u16, tags: usize) -> Vec<u8> {
        frame(|frame| {
            let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
            match tags {
                0 => link
                    .ipv4(PEER.octets(), US.octets(), 64)
                    .udp(peer_port, our_port)
                    .write(frame, b"x")
                    .unwrap(),
                1 => {
                    let link = link.single_vlan(etherparse::VlanId::ZERO);
                    link.ipv4(PEER.octets(), US.octets(), 64)
                        .udp(peer_port, our_port)
                        .write(frame, b"x")
                        .unwrap();
                }
                _ => {
                    let link = link.double_vlan(etherparse::VlanId::ZERO, etherparse::VlanId::ZERO);
                    link.ipv4(PEER.octets(), US.octets(), 64)
                        .udp(peer_port, our_port)
                        .write(frame, b"x")
                        .unwrap();
                }
            }
        })
    }

    #[test]
    fn an_icmp_error_goes_where_the_flow_is_that_it_quotes() {
        let (placement, us6, peer6) =
            (placement(64), "fd00::2".parse::<Ipv6Addr>().unwrap(), "fd00::1".parse::<Ipv6Addr>().unwrap());
        for port in [1, 80, 5_000] {
            let sent = frame(|f| {
                PacketBuilder::ipv4(US.octets(), PEER.octets(), 64).udp(port, 53).write(f, b"q").unwrap()
            });
            let error = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
            let error = frame(|f| {
                PacketBuilder::ethernet2([2; 6], [4; 6])
                    .ipv4([10, 0, 0, 9], US.octets(), 64)
                    .icmpv4(error)
                    .write(f, &sent)
                    .unwrap()
            });
            let home = placement.of_flow(Transport::Udp, (US.into(), port), (PEER.into(), 53));
            assert_eq!(placement.home(&error, false), Home::Shard(home));
            assert_eq!(
                placement.home(&datagram(53, port, 0), false),
                Home::Shard(home),
                "as what the flow itself receives"
            );

            let sent = frame(|f| {
                PacketBuilder::ipv6(us6.octets(), peer6.octets(), 64).udp(port, 53).write(f, b"q").unwrap()
            });
            let error = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
            let error = frame(|f| {
                PacketBuilder::ethernet2([2; 6], [4; 6])
                    .ipv6([9; 16], us6.octets(), 64)
                    .icmpv6(error)
                    .write(f, &sent)
                    .unwrap()
            });
            assert_eq!(
                placement.home(&error, false),
                Home::Shard(placement.of_flow(Transport::Udp, (us6.into(), port), (peer6.into(), 53)))
            );
        }
    }

    #[test]
    fn requests_are_for_anyone_and_replies_for_the_first() {
        let placement = placement(64);
        let ping = |kind| {
            frame(|f| {
                PacketBuilder::ethernet2([2; 6], [4; 6])
                    .ipv4(PEER.octets(), US.octets(), 64)
                    .icmpv4(kind)
                    .write(f, &[0; 40])
                    .unwrap()
            })
        };
        let header = etherparse::IcmpEchoHeader { id: 7, seq: 1 };
        assert_eq!(placement.home(&ping(Icmpv4Type::EchoRequest(header)), false), Home::Anyone);
        assert_eq!(placement.home(&ping(Icmpv4Type::EchoReply(header)), false), Home::Shard(0));
        assert_eq!(placement.home(&[0xff; 60], false), Home::Shard(0), "no IP");
        assert_eq!(placement.home(&[0xff; 13], false), Home::Anyone, "no frame");
    }

    #[test]
    fn a_port_belongs_to_those_shards_that_have_opened_it() {
        let placement = placement(3);
        let homes = |port| -> BTreeSet<usize> {
            let home = |peer| match placement.home(&datagram(peer, port, 0), false) {
                Home::Shard(shard) => shard,
                other => panic!("{other:?}"),
            };
            (1..200).map(home).collect()
        };
        let all = BTreeSet::from([0, 1, 2]);
        assert_eq!(homes(53), all);
        placement.open(Transport::Udp, 53, 2);
        placement.open(Transport::Tcp, 54, 1);
        assert_eq!((homes(53), homes(54)), (BTreeSet::from([2]), all.clone()));
        placement.open(Transport::Udp, 53, 0);
        assert_eq!(homes(53), BTreeSet::from([0, 2]));
        placement.open(Transport::Udp, 53, 1);
        placement.open(Transport::Udp, 53, 3);
        assert_eq!(homes(53), all);
        placement.close(Transport::Udp, 53, 2);
        placement.close(Transport::Udp, 53, 1);
        assert_eq!(homes(53), BTreeSet::from([0]));
    }

    #[test]
    fn what_the_device_has_steered_stays_where_it_is_unless_the_port_is_somebody_elses() {
        let placement = placement(3);
        placement.open(Transport::Udp, 54, 2);
        for port in 1..100 {
            assert_eq!(placement.home(&datagram(port, 53, 0), true), Home::Anyone);
            assert_eq!(placement.home(&datagram(port, 54, 0), true), Home::Shard(2));
        }
    }

    #[test]
    fn address_resolution_is_for_everyone() {
        let mut frame = [0; 60];
        (frame[12], frame[13]) = (8, 6);
        assert_eq!(placement(2).home(&frame, false), Home::Everyone);
        let solicitation = Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] };
        let link = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([9; 16], [8; 16], 255);
        let frame = self::frame(|f| link.icmpv6(solicitation).write(f, &[0; 16]).unwrap());
        assert_eq!(placement(2).home(&frame, false), Home::Everyone);
    }

    #[test]
    fn fragments_follow_the_first_to_where_the_whole_datagram_would_go() {
        let (placement, mut fragments) = (placement(64), Fragments::default());
        let mut home = |frame: &[u8]| match placement.home(frame, false) {
            Home::Fragment(fragment) => fragments.follow(fragment),
            other => panic!("{other:?}"),
        };
        for port in 1..100 {
            let whole = datagram(port, 53, 0);
            let (mut first, mut later, mut stray) = (whole.clone(), datagram(99, 98, 0), datagram(99, 98, 0));
            (first[19], later[19], stray[19]) = (port as u8, port as u8, 200);
            first[20] |= 0x20;
            (later[21], stray[21]) = (1, 1);
            assert_eq!(Home::Shard(home(&first)), placement.home(&whole, false));
            assert_eq!(home(&later), home(&first));
            let by_addresses = placement.steering().hash(PEER.into(), US.into(), None);
            assert_eq!(home(&stray), placement.steering().shard_of(by_addresses));
        }
    }

    #[test]
    fn tags_do_not_matter() {
        let placement = placement(64);
        for port in 0..100 {
            let homes = [0, 1, 2].map(|tags| placement.home(&datagram(port, 80, tags), false));
            assert!(
                homes.iter().all(|home| *home == homes[0]) && matches!(homes[0], Home::Shard(_)),
                "{homes:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_home(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..5_usize, cut in 0..200_usize) {
            let placement = placement(3);
            if let (Some(at), Some(value)) = (bytes.get_mut(12..15), [[8, 0, 0x45], [8, 0, 0x4f], [0x86, 0xdd, 0x60], [0x81, 0, 8]].get(kind)) {
                at.copy_from_slice(value);
            }
            for bytes in [&bytes[..], &bytes[..cut.min(bytes.len())]] {
                if let Home::Shard(shard) = placement.home(bytes, false) {
                    prop_assert!(shard < 3);
                }
            }
        }
    }
}
