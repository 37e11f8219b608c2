//! The configuration of a kernel's interface, read by rtnetlink, followed, and given to a stack that shares the interface.
//!
//! What is mirrored: station address, MTU, IPv4 addresses, and the routes of the main table that lead to the interface, with gateways,
//! metrics and source addresses. What is not: other tables and rules, and routes that the kernel does not use at the moment. Neighbors are
//! asked for by the device ([`KernelNeighbors`](crate::device::neighbors::KernelNeighbors)).

use core::net::IpAddr;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::RawFd;

use crate::device::netdev::facts;
use crate::device::netlink::{KernelRoute, Netlink, News, Table};
use crate::owned::SharedOwnership;
use crate::stack::route::{InterfaceAddr, Prefix, Route};
use crate::stack::{ConfigError, InterfaceId, Stack};
use crate::time::Instant;
use crate::wire::MacAddr;

/// A kernel's interface, followed. See the module documentation.
#[derive(Debug)]
pub struct Mirror {
    netlink: Netlink,
    seen: KernelConfig,
}

/// What there is of it, to be given to as many stacks as share the interface.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct KernelConfig {
    up: bool,
    station: Option<MacAddr>,
    mtu: Option<usize>,
    promiscuous: bool,
    addrs: BTreeSet<(IpAddr, u8)>,
    routes: BTreeSet<KernelRoute>,
}

impl KernelConfig {
    fn take(&mut self, news: News) {
        match news {
            News::Link { up, mac, mtu, promiscuous } => {
                (self.up, self.station, self.mtu, self.promiscuous) = (up, mac, mtu, promiscuous);
            }
            News::LinkGone => *self = Self::default(),
            News::Address { there: true, addr, prefix } => {
                self.addrs.insert((addr, prefix));
            }
            News::Address { there: false, addr, prefix } => {
                self.addrs.remove(&(addr, prefix));
            }
            News::Routes { there: true, routes } => self.routes.extend(routes),
            News::Routes { there: false, routes } => routes.iter().for_each(|route| {
                self.routes.remove(route);
            }),
            News::Replaced { prefix, metric } => {
                self.routes.retain(|route| (route.prefix, route.metric) != (prefix, metric));
            }
            News::Neighbor { .. } => {}
        }
    }
}

const TABLES: [Table; 3] = [Table::Link, Table::Addresses, Table::Routes];

fn begin(index: u32) -> io::Result<(Netlink, KernelConfig)> {
    let mut netlink = Netlink::open(index, &TABLES)?;
    let mut seen = KernelConfig::default();
    for table in TABLES {
        netlink.dump(table, &mut |news| seen.take(news))?;
    }
    Ok((netlink, seen))
}

/// Says at the kernel's interface `name`, a TAP, whether frames can pass: what is connected by it has a carrier, or none.
///
/// # Errors
/// There is no such interface, or the system refuses.
pub fn set_carrier(name: &str, carrier: bool) -> io::Result<()> {
    Netlink::open(facts(name)?.index, &[])?.set_carrier(carrier)
}

impl Mirror {
    /// Looks at the interface `name`, and follows it from now on.
    ///
    /// # Errors
    /// There is no such interface, or rtnetlink does not answer.
    pub fn open(name: &str) -> io::Result<Self> {
        let index = facts(name)?.index;
        let (netlink, seen) = begin(index)?;
        Ok(Self { netlink, seen })
    }

    /// Readable when something has changed; another one after each [`Mirror::follow`] that says so.
    pub fn fd(&self) -> RawFd {
        self.netlink.fd()
    }

    /// Takes note of what has changed; whether anything has. Not for every turn: it makes system calls.
    ///
    /// # Errors
    /// What the system says.
    pub fn follow(&mut self) -> io::Result<bool> {
        let (before, mut anew) = (self.seen.clone(), false);
        let complete = self.netlink.receive(&mut |news| {
            // With a link or an address the kernel drops routes, and does not say which.
            anew |= !matches!(news, News::Routes { .. } | News::Replaced { .. });
            self.seen.take(news);
        })?;
        if anew || !complete {
            self.seen = KernelConfig::default();
            for table in TABLES {
                match self.netlink.dump(table, &mut |news| self.seen.take(news)) {
                    // More changes than there is room for, in the middle of it: the next look begins anew.
                    Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
                    other => other?,
                }
            }
        }
        Ok(self.seen != before)
    }

    /// What was seen last.
    pub fn config(&self) -> &KernelConfig {
        &self.seen
    }
}

impl KernelConfig {
    /// Its IPv4 addresses: what the stack speaks.
    pub fn addrs(&self) -> impl Iterator<Item = InterfaceAddr> {
        let v4 = self.addrs.iter().filter(|(addr, _)| addr.is_ipv4());
        v4.filter_map(|&(addr, prefix)| InterfaceAddr::new(addr, prefix).ok())
    }

    /// Whether the interface is up, with a carrier.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// How many routes lead to it.
    pub fn route_count(&self) -> usize {
        self.routes.len()
    }

    /// Gives an interface of the stack what the kernel's has.
    ///
    /// # Errors
    /// [`ConfigError::NoInterface`], [`ConfigError::Mac`], [`ConfigError::Range`] for an MTU that IP cannot work with.
    pub fn apply(&self, now: Instant, stack: &mut Stack, id: InterfaceId) -> Result<(), ConfigError> {
        if let Some(station) = self.station {
            stack.set_station(id, station)?;
        }
        if let Some(mtu) = self.mtu {
            stack.set_mtu(id, mtu)?;
        }
        let addrs: Vec<_> = self.addrs().collect();
        stack.set_addresses(now, id, &addrs)?;
        let route = |route: &KernelRoute| {
            let prefix = Prefix::new(route.prefix.0, route.prefix.1).ok()?;
            let KernelRoute { prefix: _, metric, gateway, source } = *route;
            Some(Route { prefix, interface: id.0, gateway, source, metric })
        };
        stack.set_routes(id, self.routes.iter().filter_map(route).collect())
    }

    /// Tells who decides by it which frames are the stack's: those to these of the addresses, and to this station.
    pub fn share(&self, owned: &SharedOwnership, mut only: impl FnMut(IpAddr) -> bool) {
        owned.set_addrs(self.addrs().map(|addr| addr.addr()).filter(|addr| only(*addr)));
        owned.set_station(self.station.filter(|_| !self.promiscuous));
    }
}
