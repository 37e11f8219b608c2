//! Which shard a flow lives on: receive-side scaling, computed here or by the device, always with the same result.
//!
//! ```text
//!   addresses, ports --Toeplitz, keyed--> hash --low 7 bits--> table of 128 --> shard = queue
//! ```
//!
//! The hash is the one of Microsoft's receive-side scaling, over the packet as it arrives: source address, destination address,
//! and for TCP and UDP source port, destination port. A device that has RSS is given [`Steering::key`] and [`Steering::table`] and
//! delivers each flow to the queue of its shard. Any other device delivers as it likes, and who receives a frame hands it over
//! to [`Steering::home`]. The key is secret: who knew it could aim all his flows at one shard.
//!
//! Two kinds of packets are not delivered by any device's RSS to where they are wanted, which is why [`Steering::home`] is asked about
//! every frame that was not hashed with ports: an ICMP error belongs where the flow is that it quotes, and the fragments of a
//! datagram have no ports in common, so they meet where their addresses hash to.

use core::net::IpAddr;

use crate::rng::Rng;
use crate::wire::{EtherType, EthernetHeader, Icmpv4Message, IpProtocol, Ipv6Header, walk_extensions};

/// Bits of input at most: two IPv6 addresses and two ports.
const NIBBLES: usize = 72;

/// Where a received frame is to be handled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Home {
    /// Where it arrived: every shard can answer it, or learn from it.
    Anyone,
    /// On this shard.
    Shard(usize),
}

/// The mapping from flows to shards. See the module documentation.
#[derive(Clone, PartialEq, Eq)]
pub struct Steering {
    key: [u8; Self::KEY_LEN],
    table: [u16; Self::TABLE_LEN],
    shards: usize,
    /// What each value of each four bits of input adds to the hash.
    rows: Box<[[u32; 16]; NIBBLES]>,
}

impl Steering {
    /// Length of the key in bytes, as devices want it.
    pub const KEY_LEN: usize = 40;
    /// Entries of the table, as devices want it.
    pub const TABLE_LEN: usize = 128;

    /// Spreads flows evenly over `shards` shards (at least 1, at most 128), with a key that nobody can know.
    pub fn new(shards: usize, rng: &mut Rng) -> Self {
        let mut key = [0; Self::KEY_LEN];
        for chunk in key.chunks_mut(4) {
            chunk.copy_from_slice(&rng.u32().to_le_bytes());
        }
        Self::with_key(shards, key)
    }

    /// As [`Steering::new`] with a given key: for a device whose key cannot be set.
    pub fn with_key(shards: usize, key: [u8; Self::KEY_LEN]) -> Self {
        let shards = shards.clamp(1, Self::TABLE_LEN);
        let window = |bit: usize| {
            let bytes =
                key.iter().skip(bit / 8).take(5).fold(0_u64, |word, &byte| word << 8 | u64::from(byte));
            // The last window ends with the key: there is no fifth byte, and no bit of it is needed.
            let have = (Self::KEY_LEN - bit / 8).min(5);
            (bytes << (8 * (5 - have)) << (bit % 8) >> 8) as u32
        };
        let mut rows = Box::new([[0; 16]; NIBBLES]);
        for (nibble, row) in rows.iter_mut().enumerate() {
            for (value, sum) in row.iter_mut().enumerate() {
                *sum = (0..4)
                    .filter(|bit| value >> (3 - bit) & 1 == 1)
                    .fold(0, |s, bit| s ^ window(4 * nibble + bit));
            }
        }
        Self { key, table: core::array::from_fn(|i| (i % shards) as u16), shards, rows }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// The Toeplitz key, for a device that hashes.
    pub fn key(&self) -> &[u8; Self::KEY_LEN] {
        &self.key
    }

    /// The shard, which is the queue, for the low seven bits of the hash: for a device that hashes.
    pub fn table(&self) -> &[u16; Self::TABLE_LEN] {
        &self.table
    }

    /// The shard of a hash.
    #[inline]
    pub fn shard_of(&self, hash: u32) -> usize {
        self.table.get(hash as usize % Self::TABLE_LEN).copied().unwrap_or_default().into()
    }

    /// The hash of what arrives from `src` for `dst`, which are of one family, with the ports of either in that order if they
    /// are known.
    pub fn hash(&self, src: IpAddr, dst: IpAddr, ports: Option<(u16, u16)>) -> u32 {
        let mut hash = Hash { rows: self.rows.iter(), sum: 0 };
        for addr in [src, dst] {
            match addr {
                IpAddr::V4(addr) => hash.add(&addr.octets()),
                IpAddr::V6(addr) => hash.add(&addr.octets()),
            }
        }
        if let Some((src, dst)) = ports {
            hash.add(&src.to_be_bytes());
            hash.add(&dst.to_be_bytes());
        }
        hash.sum
    }

    /// The shard on which a connection lives whose segments arrive from `remote` for `local`.
    pub fn shard_of_flow(&self, local: (IpAddr, u16), remote: (IpAddr, u16)) -> usize {
        self.shard_of(self.hash(remote.0, local.0, Some((remote.1, local.1))))
    }

    /// Where `frame` is to be handled that has just arrived. What no flow can be read from is for anyone.
    pub fn home(&self, frame: &[u8]) -> Home {
        self.find_home(frame).unwrap_or(Home::Anyone)
    }

    fn find_home(&self, frame: &[u8]) -> Option<Home> {
        let (ethernet, packet) = EthernetHeader::parse(frame).ok()?;
        let packet = match ethernet.ethertype {
            EtherType::IPV4 => Packet::read_v4(packet)?,
            EtherType::IPV6 => Packet::read_v6(packet)?,
            _ => return None,
        };
        match packet.protocol {
            _ if packet.is_fragment => Some(self.home_of(&packet, None)),
            IpProtocol::TCP | IpProtocol::UDP => Some(self.home_of(&packet, Some(packet.ports()?))),
            IpProtocol::ICMP | IpProtocol::ICMPV6 => self.home_of_icmp(&packet),
            _ => Some(Home::Shard(0)),
        }
    }

    fn home_of(&self, packet: &Packet<'_>, ports: Option<(u16, u16)>) -> Home {
        Home::Shard(self.shard_of(self.hash(packet.src, packet.dst, ports)))
    }

    /// An error goes where the flow is that it quotes, whose packets arrive in the other direction. Who may ask us something asks
    /// anyone. Answers go to the first shard, where those live who ask.
    fn home_of_icmp(&self, packet: &Packet<'_>) -> Option<Home> {
        let (&kind, quote) = (packet.payload.first()?, packet.payload.get(Icmpv4Message::HEADER_LEN..));
        let sent = match (packet.protocol, kind) {
            (IpProtocol::ICMP, kind) if Icmpv4Message::is_error_kind(kind) => Packet::read_v4(quote?)?,
            // RFC 4443 2.1: errors have the high bit clear.
            (IpProtocol::ICMPV6, ..=127) => Packet::read_v6(quote?)?,
            (IpProtocol::ICMP, 0) | (IpProtocol::ICMPV6, 129) => return Some(Home::Shard(0)),
            _ => return None,
        };
        match sent.protocol {
            IpProtocol::TCP | IpProtocol::UDP if !sent.is_fragment => {
                let (ours, theirs) = sent.ports()?;
                Some(Home::Shard(self.shard_of_flow((sent.src, ours), (sent.dst, theirs))))
            }
            _ => Some(Home::Shard(0)),
        }
    }
}

impl core::fmt::Debug for Steering {
    /// Without the key, which is a secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Steering").field("shards", &self.shards).finish_non_exhaustive()
    }
}

/// A hash under way.
struct Hash<'a> {
    rows: core::slice::Iter<'a, [u32; 16]>,
    sum: u32,
}

impl Hash<'_> {
    #[inline]
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            for nibble in [byte >> 4, byte & 15] {
                let entry = self.rows.next().and_then(|row| row.get(usize::from(nibble)));
                self.sum ^= entry.copied().unwrap_or_default();
            }
        }
    }
}

/// As much of an IP packet as says where it belongs. Nothing is verified: whoever handles it will.
struct Packet<'a> {
    src: IpAddr,
    dst: IpAddr,
    protocol: IpProtocol,
    is_fragment: bool,
    /// Behind the IP header and its options or extensions; possibly cut short.
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    #[inline]
    fn read_v4(packet: &'a [u8]) -> Option<Self> {
        let h = packet.first_chunk::<20>()?;
        let header_len = usize::from(h[0] & 15) * 4;
        let addr = |at: usize| IpAddr::from([h[at], h[at + 1], h[at + 2], h[at + 3]]);
        Some(Self {
            src: addr(12),
            dst: addr(16),
            protocol: IpProtocol(h[9]),
            is_fragment: u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0,
            payload: packet.get(header_len.max(20)..)?,
        })
    }

    #[inline]
    fn read_v6(packet: &'a [u8]) -> Option<Self> {
        let (h, rest) = packet.split_first_chunk::<{ Ipv6Header::LEN }>()?;
        let addr = |at: usize| h.get(at..)?.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes));
        let (src, dst) = (addr(8)?, addr(24)?);
        let upper = walk_extensions(IpProtocol(h[6]), rest).ok()?;
        let is_fragment = upper.fragment.is_some_and(|fragment| !fragment.is_atomic());
        Some(Self { src, dst, protocol: upper.protocol, is_fragment, payload: upper.payload })
    }

    fn ports(&self) -> Option<(u16, u16)> {
        let &[a, b, c, d] = self.payload.first_chunk()?;
        Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};
    use std::collections::HashMap;

    use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4, icmpv6};
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;
    use crate::rng::{Rng, seed_from};

    /// The key of Microsoft's verification suite for receive-side scaling.
    const VERIFICATION_KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    fn steering(shards: usize) -> Steering {
        Steering::new(shards, &mut Rng::new(seed_from(1)))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn hashes_are_those_of_the_verification_suite() {
        let steering = Steering::with_key(1, VERIFICATION_KEY);
        for (src, dst, ports, with_ports, addresses) in [
            ("66.9.149.187", "161.142.100.80", (2_794, 1_766), 0x51cc_c178, 0x323e_8fc2),
            ("199.92.111.2", "65.69.140.83", (14_230, 4_739), 0xc626_b0ea, 0xd718_262a),
            ("24.19.198.95", "12.22.207.184", (12_898, 38_024), 0x5c2b_394a, 0xd2d0_a5de),
            ("3ffe:2501:200:1fff::7", "3ffe:2501:200:3::1", (2_794, 1_766), 0x4020_7d3d, 0x2cc1_8cd5),
            ("3ffe:501:8::260:97ff:fe40:efab", "ff02::1", (14_230, 4_739), 0xdde5_1bbf, 0x0f0c_461c),
        ] {
            assert_eq!(steering.hash(ip(src), ip(dst), Some(ports)), with_ports, "{src}");
            assert_eq!(steering.hash(ip(src), ip(dst), None), addresses, "{src}");
        }
    }

    #[test]
    fn flows_spread_evenly_over_any_number_of_shards() {
        for shards in [1, 2, 3, 7, 64] {
            let (steering, mut count) = (steering(shards), HashMap::new());
            for port in 0..50_000 {
                let home = steering.shard_of_flow((ip("10.0.0.2"), 80), (ip("10.0.0.1"), port));
                *count.entry(home).or_insert(0_usize) += 1;
            }
            assert_eq!(count.len(), shards);
            let fair = 50_000 / shards;
            assert!(count.values().all(|n| (fair / 2..fair * 2).contains(n)), "{count:?}");
        }
        assert_eq!((steering(0).shards(), steering(1_000).shards()), (1, 128));
    }

    #[test]
    fn another_seed_steers_otherwise() {
        let homes = |seed| {
            let steering = Steering::new(2, &mut Rng::new(seed_from(seed)));
            (0..64)
                .map(|port| steering.shard_of_flow((ip("10.0.0.2"), 80), (ip("10.0.0.1"), port)))
                .collect::<Vec<_>>()
        };
        assert_ne!(homes(1), homes(2));
        assert!(!format!("{:?}", steering(2)).contains("key"), "the key is a secret");
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
        let (steering, us6, peer6) =
            (steering(128), "fd00::2".parse::<Ipv6Addr>().unwrap(), "fd00::1".parse::<Ipv6Addr>().unwrap());
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
            let home = steering.shard_of_flow((US.into(), port), (PEER.into(), 53));
            assert_eq!(steering.home(&error), Home::Shard(home));
            assert_eq!(
                steering.home(&datagram(53, port, 0)),
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
                steering.home(&error),
                Home::Shard(steering.shard_of_flow((us6.into(), port), (peer6.into(), 53)))
            );
        }
    }

    #[test]
    fn requests_are_for_anyone_and_replies_for_the_first() {
        let steering = steering(128);
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
        assert_eq!(steering.home(&ping(Icmpv4Type::EchoRequest(header))), Home::Anyone);
        assert_eq!(steering.home(&ping(Icmpv4Type::EchoReply(header))), Home::Shard(0));
        assert_eq!(steering.home(&[0xff; 60]), Home::Anyone, "no IP");
    }

    #[test]
    fn all_fragments_of_a_datagram_meet() {
        let (steering, mut first) = (steering(128), datagram(5, 6, 0));
        first[20] |= 0x20;
        let mut later = datagram(99, 98, 0);
        later[21] = 1;
        let home = Home::Shard(steering.shard_of(steering.hash(PEER.into(), US.into(), None)));
        assert_eq!((steering.home(&first), steering.home(&later)), (home, home));
    }

    #[test]
    fn tags_do_not_matter() {
        let steering = steering(128);
        for port in 0..100 {
            let homes = [0, 1, 2].map(|tags| steering.home(&datagram(port, 80, tags)));
            assert!(homes.iter().all(|home| *home == homes[0]) && homes[0] != Home::Anyone, "{homes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_home(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..5_usize, cut in 0..200_usize) {
            let steering = steering(3);
            if let (Some(at), Some(value)) = (bytes.get_mut(12..15), [[8, 0, 0x45], [8, 0, 0x4f], [0x86, 0xdd, 0x60], [0x81, 0, 8]].get(kind)) {
                at.copy_from_slice(value);
            }
            for bytes in [&bytes[..], &bytes[..cut.min(bytes.len())]] {
                if let Home::Shard(shard) = steering.home(bytes) {
                    prop_assert!(shard < 3);
                }
            }
        }
    }
}
