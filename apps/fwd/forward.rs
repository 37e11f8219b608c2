//! The forwarder: its ports, and what becomes of each frame that arrives at one.

use super::acl::{Acl, Flow};
use super::port::{Counts, Loss, Parcel, moved, reply, send};
use super::router::Router;
use crate::values::Mac;
use ntytcp::device::spec::BoxedDevice;
use ntytcp::device::{Caps, Device as _, DeviceError, RxFrame, TxQueue as _};
use ntytcp::rng::Rng;
use ntytcp::stack::neighbor::{NeighborCache, NeighborConfig};
use ntytcp::stack::route::InterfaceAddr;
use ntytcp::time::Instant;
use ntytcp::wire::{
    EtherType, EthernetHeader, IpProtocol, Ipv4Header, Ipv6Header, MacAddr, VlanTag, VlanTags,
    walk_extensions,
};

/// What is set for a port.
#[derive(Clone, Debug)]
pub(super) struct PortConfig {
    /// As it is called in reports.
    pub name: String,
    /// Our station there.
    pub mac: MacAddr,
    /// Addresses there, for a router.
    pub addrs: Vec<InterfaceAddr>,
    /// The VLAN that a router is on there.
    pub vlan: Option<u16>,
    /// What a bridge makes of the stations of frames that leave there.
    pub rewrite: Rewrite,
}

/// Stations that frames are given.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Rewrite {
    pub to: Option<Mac>,
    pub from: Option<Mac>,
}

/// A port: its device, and all else that belongs to it.
pub(super) struct Port {
    pub device: BoxedDevice,
    pub state: State,
}

/// What is not the device's.
pub(super) struct State {
    pub config: PortConfig,
    pub counts: Counts,
    pub neighbors: NeighborCache,
}

/// The ports but for one.
pub(super) struct Others<'a> {
    before: &'a mut [Port],
    after: &'a mut [Port],
}

impl Others<'_> {
    /// The port of this number; `None` for the one that is left out.
    pub(super) fn get(&mut self, number: usize) -> Option<&mut Port> {
        let own = self.before.len();
        if number < own {
            return self.before.get_mut(number);
        }
        self.after.get_mut(number.checked_sub(own + 1)?)
    }
}

/// How frames find their way.
pub(super) enum Mode {
    /// Ports 0 and 1, 2 and 3, and so on are wired to each other.
    Pairs,
    /// Each frame goes back, its stations exchanged.
    MacSwap,
    /// By their destination's address.
    Router(Box<Router>),
}

/// See the module documentation.
pub(super) struct Forwarder {
    pub ports: Vec<Port>,
    pub acl: Acl,
    pub mode: Mode,
}

impl Forwarder {
    pub(super) fn new(ports: Vec<(BoxedDevice, PortConfig)>, acl: Acl, mode: Mode, rng: &mut Rng) -> Self {
        let port = |(device, config)| {
            let neighbors = NeighborCache::new(NeighborConfig::default(), rng);
            Port { device, state: State { config, counts: Counts::default(), neighbors } }
        };
        Self { ports: ports.into_iter().map(port).collect(), acl, mode }
    }

    /// Takes a burst from each port, sends what becomes of it, and does what is due. How many frames there were.
    ///
    /// # Errors
    /// A device is gone.
    pub(super) fn turn(&mut self, now: Instant) -> Result<usize, DeviceError> {
        let Self { ports, acl, mode } = self;
        let mut total = 0;
        for number in 0..ports.len() {
            let (before, rest) = ports.split_at_mut(number);
            let Some((Port { device, state }, after)) = rest.split_first_mut() else { break };
            let mut others = Others { before, after };
            device.set_now(now);
            let caps = *device.caps();
            total += device.rx_burst(&mut |burst| {
                for frame in burst {
                    state.counts.rx_frames += 1;
                    state.counts.rx_bytes += frame.len() as u64;
                    let outcome = match mode {
                        Mode::Pairs => bridge(frame, others.get(number ^ 1), acl),
                        Mode::MacSwap => swap(frame, state, &caps, acl),
                        Mode::Router(router) => {
                            router.route(frame, (number, &mut *state, &caps), &mut others, acl, now)
                        }
                    };
                    if let Err(loss) = outcome {
                        state.counts.lose(loss);
                    }
                }
            })?;
        }
        for Port { device, state } in ports {
            if matches!(mode, Mode::Router(_)) {
                super::router::attend(device, state, now);
            }
            device.flush()?;
        }
        Ok(total)
    }

    /// When there is something to do though nothing arrives.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let of = |port: &Port| [port.device.next_deadline(), port.state.neighbors.next_deadline()];
        self.ports.iter().flat_map(of).flatten().min()
    }
}

/// An Ethernet header as bytes, with room for what a device took off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    bytes: [u8; EthernetHeader::MAX_LEN + 4],
    len: usize,
}

impl Head {
    /// That of a frame which leaves a router.
    pub(super) fn new(dst: MacAddr, config: &PortConfig, ethertype: EtherType) -> Self {
        let vlan = config.vlan.map_or(VlanTags::NONE, |id| VlanTags::single(VlanTag::new(id)));
        let mut head = Self { bytes: [0; EthernetHeader::MAX_LEN + 4], len: 0 };
        let header = EthernetHeader { dst, src: config.mac, vlan, ethertype };
        head.len = header.emit(&mut head.bytes).unwrap_or(0);
        head
    }

    /// That of a frame as it was on the wire: `len` bytes, and the tag that the device took off.
    fn received(frame: &RxFrame<'_>, len: usize) -> Option<Self> {
        let (stations, rest) = frame.bytes().get(..len)?.split_at_checked(12)?;
        let mut head = Self { bytes: [0; EthernetHeader::MAX_LEN + 4], len: 0 };
        head.push(stations)?;
        if let Some(tci) = frame.meta.vlan {
            head.push(&EtherType::VLAN.0.to_be_bytes())?;
            head.push(&tci.to_be_bytes())?;
        }
        head.push(rest)?;
        Some(head)
    }

    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        self.bytes.get_mut(self.len..self.len + bytes.len())?.copy_from_slice(bytes);
        self.len += bytes.len();
        Some(())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Makes the frame's Ethernet header, which has `len` bytes, this one; a longer one takes the frame's headroom.
pub(super) fn put_head(frame: &mut RxFrame<'_>, len: usize, head: &Head) -> Result<(), Loss> {
    let longer = head.len.checked_sub(len).ok_or(Loss::Malformed)?;
    if !frame.prepend(longer) {
        return Err(Loss::Malformed);
    }
    frame.meta.checksum = moved(frame.meta.checksum, 0, longer);
    frame.meta.vlan = None;
    frame.bytes_mut().get_mut(..head.len).ok_or(Loss::Malformed)?.copy_from_slice(head.as_bytes());
    Ok(())
}

/// Passes a frame on as it is, but for its stations if those are to be rewritten.
fn bridge(frame: &RxFrame<'_>, to: Option<&mut Port>, acl: &mut Acl) -> Result<(), Loss> {
    let (link, packet) = EthernetHeader::parse(frame.bytes()).map_err(|_| Loss::Malformed)?;
    check(acl, link.ethertype, packet)?;
    let len = frame.len() - packet.len();
    let mut head = Head::received(frame, len).ok_or(Loss::Malformed)?;
    let Some(Port { device, state }) = to else { return Err(Loss::NoRoute) };
    let Rewrite { to, from } = state.config.rewrite;
    for (at, mac) in [(0, to), (6, from)] {
        if let (Some(Mac(mac)), Some(field)) = (mac, head.bytes.get_mut(at..at + 6)) {
            field.copy_from_slice(&mac);
        }
    }
    let checksum = moved(frame.meta.checksum, len, 0);
    let parcel = Parcel { head: head.as_bytes(), packet, checksum, gso_size: frame.meta.gso_size };
    send(device, &mut state.counts, parcel)
}

/// Sends a frame back to the station that it came from.
fn swap(frame: &mut RxFrame<'_>, state: &mut State, caps: &Caps, acl: &mut Acl) -> Result<(), Loss> {
    let (link, packet) = EthernetHeader::parse(frame.bytes()).map_err(|_| Loss::Malformed)?;
    check(acl, link.ethertype, packet)?;
    let len = frame.len() - packet.len();
    let mut head = Head::received(frame, len).ok_or(Loss::Malformed)?;
    // A group cannot be where a frame comes from.
    let from = if link.dst.is_multicast() { state.config.mac } else { link.dst };
    if let Some((stations, _)) = head.bytes.split_first_chunk_mut::<12>() {
        stations[..6].copy_from_slice(&link.src.0);
        stations[6..].copy_from_slice(&from.0);
    }
    put_head(frame, len, &head)?;
    reply(&mut state.counts, caps, frame, head.len)
}

/// Whether the rules let this pass; what is not IP they say nothing of.
pub(super) fn check(acl: &mut Acl, ethertype: EtherType, packet: &[u8]) -> Result<(), Loss> {
    if acl.is_empty() || !matches!(ethertype, EtherType::IPV4 | EtherType::IPV6) {
        return Ok(());
    }
    let flow = flow(ethertype, packet).ok_or(Loss::Malformed)?;
    if acl.permits(&flow) { Ok(()) } else { Err(Loss::Denied) }
}

fn flow(ethertype: EtherType, packet: &[u8]) -> Option<Flow> {
    let (src, dst, protocol, payload, is_first) = match ethertype {
        EtherType::IPV4 => {
            let (ip, payload) = Ipv4Header::parse(packet).ok()?;
            (ip.src.into(), ip.dst.into(), ip.protocol, payload, ip.fragment_offset == 0)
        }
        _ => {
            let (ip, payload) = Ipv6Header::parse(packet).ok()?;
            let upper = walk_extensions(ip.next_header, payload).ok()?;
            let is_first = upper.fragment.is_none_or(|fragment| fragment.offset == 0);
            (ip.src.into(), ip.dst.into(), upper.protocol, upper.payload, is_first)
        }
    };
    let has_ports = is_first && matches!(protocol, IpProtocol::TCP | IpProtocol::UDP);
    let ports = payload.first_chunk::<4>().filter(|_| has_ports);
    let ports = ports.map(|&[a, b, c, d]| (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])));
    Some(Flow { src, dst, protocol, ports })
}
