//! What the kernel says of one interface of its own, and is asked about it: rtnetlink.
//!
//! First a dump per table, then the changes as they come. When the kernel had no room for a change it says so, and everything is to be
//! asked for again. Only the main table of routes counts, and in it what leads to the interface.

use core::net::{IpAddr, Ipv4Addr};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHopFlags, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::sys::{self, PollFd};
use crate::wire::MacAddr;

/// What can be asked for as a whole, and whose changes come by themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Table {
    /// The interface itself.
    Link,
    /// Its addresses.
    Addresses,
    /// Routes that lead to it.
    Routes,
    /// Its neighbors.
    Neighbors,
}

impl Table {
    fn groups(self) -> &'static [libc::c_uint] {
        match self {
            Self::Link => &[libc::RTNLGRP_LINK],
            Self::Addresses => &[libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR],
            Self::Routes => &[libc::RTNLGRP_IPV4_ROUTE, libc::RTNLGRP_IPV6_ROUTE],
            Self::Neighbors => &[libc::RTNLGRP_NEIGH],
        }
    }

    fn question(self) -> RouteNetlinkMessage {
        match self {
            Self::Link => RouteNetlinkMessage::GetLink(LinkMessage::default()),
            Self::Addresses => RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            Self::Routes => RouteNetlinkMessage::GetRoute(RouteMessage::default()),
            Self::Neighbors => RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
        }
    }
}

/// A route of the kernel's over the interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct KernelRoute {
    pub prefix: (IpAddr, u8),
    pub metric: u32,
    pub gateway: Option<IpAddr>,
    pub source: Option<IpAddr>,
}

/// Something is there, is new, or is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// The interface: whether frames can pass, its station address, its MTU, and whether it hears all stations.
    Link { up: bool, mac: Option<MacAddr>, mtu: Option<usize>, promiscuous: bool },
    /// The interface is gone.
    LinkGone,
    /// It has this address, or no longer.
    Address { there: bool, addr: IpAddr, prefix: u8 },
    /// These routes are there, or no longer.
    Routes { there: bool, routes: Vec<KernelRoute> },
    /// Routes to this prefix with this metric give way to what is told next.
    Replaced { prefix: (IpAddr, u8), metric: u32 },
    /// Who has an address: nobody that is known of; or this station, of which the kernel is sure, or was.
    Neighbor { ip: Ipv4Addr, known: Option<Station> },
}

/// Whether the kernel knows that a neighbor is there, or has not asked for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sure {
    Yes,
    No,
}

/// Who a neighbor is, as far as the kernel knows.
pub(crate) type Station = (MacAddr, Sure);

/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A conversation with the kernel about one interface. See the module documentation.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    index: u32,
    buf: Box<[u8]>,
}

impl Netlink {
    /// Begins with changes of these tables, which wait until [`Netlink::receive`] is called.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open(index: u32, tables: &[Table]) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        // A router's table changes in thousands at once.
        let _ = socket.set_rx_buf_sz::<libc::c_int>(4 << 20);
        for group in tables.iter().flat_map(|table| table.groups()) {
            socket.add_membership(*group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self { socket, index, buf: vec![0; 1 << 16].into() })
    }

    /// Readable when there is news.
    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Tells all that a table has of the interface.
    ///
    /// # Errors
    /// What the system says; that it does not answer.
    pub(crate) fn dump(&mut self, table: Table, each: &mut dyn FnMut(News)) -> io::Result<()> {
        self.send(table.question(), NLM_F_DUMP)?;
        self.finish(each)
    }

    /// Says whether frames can pass the interface, for one whose driver cannot know: a TAP.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_ADMIN, `EOPNOTSUPP` for an interface that knows by itself, or what else the system says.
    pub(crate) fn set_carrier(&mut self, carrier: bool) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.index;
        message.attributes.push(LinkAttribute::Carrier(carrier.into()));
        self.send(RouteNetlinkMessage::SetLink(message), NLM_F_ACK)?;
        self.finish(&mut |_| {})
    }

    /// Reads until the kernel has answered all that was asked.
    fn finish(&mut self, each: &mut dyn FnMut(News)) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.read(each) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    sys::poll(&mut [PollFd::readable(self.fd())], Some(left))?;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Tells what has changed since the last time; whether all of it. If not, it is best to begin anew.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn receive(&mut self, each: &mut dyn FnMut(News)) -> io::Result<bool> {
        loop {
            match self.read(each) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
    }

    /// Has the kernel find out who has an address, or whether who had it still does, as if it had a packet for it. The answer comes as
    /// news of the neighbor.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_ADMIN, or what else the system says.
    pub(crate) fn ask_neighbor(&mut self, ip: Ipv4Addr) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = self.index;
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)));
        self.send(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE)
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map(drop)
    }

    /// Reads one datagram; whether it ends an answer.
    fn read(&mut self, each: &mut dyn FnMut(News)) -> io::Result<bool> {
        let (len, sender) = self.socket.recv_from(&mut &mut self.buf[..], 0)?;
        let mut rest = self.buf.get(..len).filter(|_| sender.port_number() == 0).unwrap_or_default();
        let mut done = false;
        while let Some(len) = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize)
            && let Some(message) = rest.get(..len).filter(|_| len >= 16)
        {
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            // What this library does not know is nothing that is looked at here.
            let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) else { continue };
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => news(self.index, inner, message.header.flags, each),
                NetlinkPayload::Done(_) => done = true,
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) => done = true,
                NetlinkPayload::Overrun(_) => return Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
                _ => {}
            }
        }
        Ok(done)
    }
}

/// What a message says of the interface.
fn news(index: u32, message: RouteNetlinkMessage, flags: u16, each: &mut dyn FnMut(News)) {
    use RouteNetlinkMessage::{
        DelAddress, DelLink, DelNeighbour, DelRoute, NewAddress, NewLink, NewNeighbour, NewRoute,
    };
    let there = !matches!(message, DelLink(_) | DelAddress(_) | DelNeighbour(_) | DelRoute(_));
    match message {
        // Bridges tell of their ports in the same way.
        NewLink(link) | DelLink(link)
            if link.header.index == index && link.header.interface_family == AddressFamily::Unspec =>
        {
            each(if there { link_news(&link) } else { News::LinkGone });
        }
        NewAddress(address) | DelAddress(address) if address.header.index == index => {
            let local = address.attributes.iter().find_map(|a| match a {
                AddressAttribute::Local(ip) => Some(*ip),
                _ => None,
            });
            // Of IPv6 there is only this one; of IPv4 it is the peer's on a link between two, whose network it is then.
            let own = address.attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            });
            if let Some(addr) = local.or(own) {
                let prefix = if own.is_none_or(|own| own == addr) { address.header.prefix_len } else { 32 };
                each(News::Address { there, addr, prefix });
            }
        }
        NewRoute(route) | DelRoute(route) => route_news(index, &route, there, flags, each),
        NewNeighbour(neighbor) | DelNeighbour(neighbor) if neighbor.header.ifindex == index => {
            if let Some(ip) = neighbor.attributes.iter().find_map(|a| match a {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(*ip),
                _ => None,
            }) {
                each(News::Neighbor { ip, known: station(&neighbor).filter(|_| there) });
            }
        }
        _ => {}
    }
}

fn mac(bytes: &[u8]) -> Option<MacAddr> {
    <[u8; 6]>::try_from(bytes).ok().map(MacAddr)
}

fn link_news(link: &LinkMessage) -> News {
    let (mut station, mut mtu) = (None, None);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => station = mac(bytes),
            LinkAttribute::Mtu(bytes) => mtu = Some(*bytes as usize),
            _ => {}
        }
    }
    let flags = link.header.flags;
    let up = flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
    News::Link { up, mac: station, mtu, promiscuous: flags.contains(LinkFlags::Promisc) }
}

/// The station of a neighbor, if the kernel would send there.
fn station(neighbor: &NeighbourMessage) -> Option<Station> {
    let sure = match neighbor.header.state {
        NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp => Sure::Yes,
        NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => Sure::No,
        _ => return None,
    };
    let station = neighbor.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(bytes) => mac(bytes),
        _ => None,
    });
    station.filter(|station| station.is_unicast()).map(|station| (station, sure))
}

fn route_news(index: u32, route: &RouteMessage, there: bool, flags: u16, each: &mut dyn FnMut(News)) {
    let RouteHeader { address_family, destination_prefix_length: len, table, kind, .. } = route.header;
    let mut prefix = match address_family {
        AddressFamily::Inet => (IpAddr::from([0; 4]), len),
        AddressFamily::Inet6 => (IpAddr::from([0; 16]), len),
        _ => return,
    };
    let (mut table, mut metric, mut source, mut out, mut gateway) = (u32::from(table), 0, None, None, None);
    let mut hops = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(addr) => prefix.0 = ip(addr).unwrap_or(prefix.0),
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::PrefSource(addr) => source = ip(addr),
            RouteAttribute::Oif(oif) => out = Some(*oif),
            RouteAttribute::Gateway(addr) => gateway = ip(addr),
            RouteAttribute::MultiPath(next) => {
                hops.extend(next.iter().filter(|hop| {
                    hop.interface_index == index && !hop.flags.contains(RouteNextHopFlags::Dead)
                }))
            }
            _ => {}
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) || kind != RouteType::Unicast {
        return;
    }
    if there && flags & NLM_F_REPLACE != 0 {
        each(News::Replaced { prefix, metric });
    }
    let gateways = hops.iter().map(|hop| {
        hop.attributes.iter().find_map(|a| match a {
            RouteAttribute::Gateway(addr) => ip(addr),
            _ => None,
        })
    });
    let single = (out == Some(index)).then_some(gateway);
    let routes: Vec<_> = single
        .into_iter()
        .chain(gateways)
        .map(|gateway| KernelRoute { prefix, metric, gateway, source })
        .collect();
    if !routes.is_empty() {
        each(News::Routes { there, routes });
    }
}

fn ip(addr: &RouteAddress) -> Option<IpAddr> {
    match addr {
        RouteAddress::Inet(addr) => Some((*addr).into()),
        RouteAddress::Inet6(addr) => Some((*addr).into()),
        _ => None,
    }
}
