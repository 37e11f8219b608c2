//! Where a packet goes next: longest-prefix match over the routes of one stack, both address families.
//!
//! Routes of one prefix length stand in one sorted array; a lookup goes from the longest length to the
//! shortest and searches each array by halving. With L different lengths in use that is L short binary
//! searches and no memory but the arrays themselves: some ten nanoseconds for the handful of routes of a
//! host, and still logarithmic for thousands. Connections do not even pay that: they keep the [`Route`] they
//! found and look again only when [`RouteTable::generation`] has moved.

mod prefix;

use core::net::IpAddr;

pub use prefix::{InterfaceAddr, Prefix, PrefixError};
use prefix::{key, mask};

/// Where packets to a prefix go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Route {
    /// Destinations that the route is for.
    pub prefix: Prefix,
    /// Index of the interface that leads there.
    pub interface: u16,
    /// The router to hand packets to; `None` when destinations are neighbors on the link.
    pub gateway: Option<IpAddr>,
    /// The source address for sockets that have not chosen one.
    pub source: Option<IpAddr>,
    /// Among routes of the same prefix the lowest wins.
    pub metric: u32,
}

impl Route {
    /// Whose link-layer address a packet to `dst` needs: the gateway's, or its own.
    pub fn next_hop(&self, dst: IpAddr) -> IpAddr {
        self.gateway.unwrap_or(dst)
    }
}

/// Why a route cannot be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The same destination by the same way with the same metric is there already.
    #[error("a route to {0} by that way exists already")]
    Exists(Prefix),
    /// Gateway or source address of the other family than the prefix.
    #[error("a route to {0} cannot name {1}: the address family differs")]
    FamilyDiffers(Prefix, IpAddr),
    /// The gateway is no address of a host.
    #[error("{0} cannot be a gateway: give the address of one router on a connected network")]
    BadGateway(IpAddr),
    /// No connected route of the interface leads to the gateway.
    #[error(
        "gateway {0} is on no network of its interface: add an address on its network, or a route to it, first"
    )]
    GatewayNotConnected(IpAddr),
}

/// The routes of one stack. See the module documentation.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    v4: Family,
    v6: Family,
    generation: u64,
}

/// Routes of one family, longest prefixes first.
#[derive(Clone, Debug, Default)]
struct Family {
    groups: Vec<Group>,
}

/// Routes of one prefix length, sorted by prefix, then metric, then age.
#[derive(Clone, Debug)]
struct Group {
    len: u8,
    entries: Vec<(u128, Route)>,
}

impl RouteTable {
    /// A table without routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts the changes of the table: a path found under another generation must be looked up again.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The best route to `dst`: of the longest prefix that contains it, the one with the lowest metric, of
    /// equals the oldest. No allocation.
    #[inline]
    pub fn lookup(&self, dst: IpAddr) -> Option<Route> {
        self.find(dst).copied()
    }

    /// As [`RouteTable::lookup`], where it stands.
    pub(crate) fn find(&self, dst: IpAddr) -> Option<&Route> {
        let (family, key) = (if dst.is_ipv4() { &self.v4 } else { &self.v6 }, key(dst));
        for group in &family.groups {
            let network = key & mask(group.len);
            let first = group.entries.partition_point(|(k, _)| *k < network);
            if let Some((_, route)) = group.entries.get(first).filter(|(k, _)| *k == network) {
                return Some(route);
            }
        }
        None
    }

    /// Adds a route. Allocates.
    ///
    /// # Errors
    /// [`RouteError`], with the table unchanged. A gateway must be reachable without a gateway over the same
    /// interface, so connected routes come first; an IPv6 link-local gateway always is.
    pub fn add(&mut self, route: Route) -> Result<(), RouteError> {
        let v4 = route.prefix.addr().is_ipv4();
        if let Some(other) = [route.gateway, route.source].into_iter().flatten().find(|a| a.is_ipv4() != v4) {
            return Err(RouteError::FamilyDiffers(route.prefix, other));
        }
        if let Some(gateway) = route.gateway {
            self.check_gateway(gateway, route.interface)?;
        }
        if self.iter().any(|r| same_way(r, &route)) {
            return Err(RouteError::Exists(route.prefix));
        }
        self.family_mut(route.prefix).insert(route);
        self.generation += 1;
        Ok(())
    }

    /// Adds the route to the network that an interface is connected to by one of its addresses, with that
    /// address as source and metric 0; a further address on that network shares the route of the first. Allocates.
    ///
    /// # Errors
    /// Those of [`RouteTable::add`], but for [`RouteError::Exists`].
    pub fn connect(&mut self, addr: InterfaceAddr, interface: u16) -> Result<(), RouteError> {
        let source = Some(addr.addr());
        let route = Route { prefix: addr.network(), interface, gateway: None, source, metric: 0 };
        if self.iter().any(|known| same_way(known, &route)) {
            return Ok(());
        }
        self.add(route)
    }

    /// Removes the route with this prefix, interface, gateway, source and metric; `false` when there is none.
    pub fn remove(&mut self, route: &Route) -> bool {
        self.remove_where(|r| r == route) > 0
    }

    /// Removes every route that leads out of `interface`; how many there were.
    pub fn remove_interface(&mut self, interface: u16) -> usize {
        self.remove_where(|r| r.interface == interface)
    }

    /// Replaces every route that leads out of `interface`; routes to the same prefix by the same way count once, those that name
    /// an address of the other family not at all. Whether their gateways are connected is the caller's to know. Takes many routes
    /// at once about as fast as sorting them.
    pub fn replace_interface(&mut self, interface: u16, mut routes: Vec<Route>) {
        self.remove_interface(interface);
        routes.sort_by_key(|r| (r.prefix.prefix_len(), key(r.prefix.addr()), r.metric, r.gateway));
        routes.dedup_by(|a, b| same_way(a, b));
        for route in routes {
            let v4 = route.prefix.addr().is_ipv4();
            if [route.gateway, route.source].into_iter().flatten().all(|addr| addr.is_ipv4() == v4) {
                self.family_mut(route.prefix).insert(Route { interface, ..route });
            }
        }
        self.generation += 1;
    }

    /// Every route, IPv4 before IPv6, longer prefixes before shorter.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        [&self.v4, &self.v6]
            .into_iter()
            .flat_map(|f| &f.groups)
            .flat_map(|g| &g.entries)
            .map(|(_, route)| route)
    }

    /// Every route that applies to `dst`, best first.
    fn matches(&self, dst: IpAddr) -> impl Iterator<Item = &Route> {
        let (family, key) = (if dst.is_ipv4() { &self.v4 } else { &self.v6 }, key(dst));
        family.groups.iter().flat_map(move |group| {
            let network = key & mask(group.len);
            let first = group.entries.partition_point(|(k, _)| *k < network);
            group
                .entries
                .get(first..)
                .unwrap_or_default()
                .iter()
                .take_while(move |(k, _)| *k == network)
                .map(|(_, route)| route)
        })
    }

    fn check_gateway(&self, gateway: IpAddr, interface: u16) -> Result<(), RouteError> {
        let broadcast = matches!(gateway, IpAddr::V4(a) if a.is_broadcast());
        if gateway.is_unspecified() || gateway.is_multicast() || gateway.is_loopback() || broadcast {
            return Err(RouteError::BadGateway(gateway));
        }
        let link_local = matches!(gateway, IpAddr::V6(a) if a.is_unicast_link_local());
        if link_local || self.matches(gateway).any(|r| r.interface == interface && r.gateway.is_none()) {
            Ok(())
        } else {
            Err(RouteError::GatewayNotConnected(gateway))
        }
    }

    fn family_mut(&mut self, prefix: Prefix) -> &mut Family {
        if prefix.addr().is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }

    fn remove_where(&mut self, mut doomed: impl FnMut(&Route) -> bool) -> usize {
        let mut removed = 0;
        for family in [&mut self.v4, &mut self.v6] {
            for group in &mut family.groups {
                let before = group.entries.len();
                group.entries.retain(|(_, route)| !doomed(route));
                removed += before - group.entries.len();
            }
            family.groups.retain(|group| !group.entries.is_empty());
        }
        self.generation += u64::from(removed > 0);
        removed
    }
}

/// Whether two routes differ at most in their source address.
fn same_way(a: &Route, b: &Route) -> bool {
    let Route { prefix, interface, gateway, source: _, metric } = *a;
    (prefix, interface, gateway, metric) == (b.prefix, b.interface, b.gateway, b.metric)
}

impl Family {
    fn insert(&mut self, route: Route) {
        let len = route.prefix.prefix_len();
        let at = self.groups.partition_point(|g| g.len > len);
        if self.groups.get(at).is_none_or(|g| g.len != len) {
            self.groups.insert(at, Group { len, entries: Vec::new() });
        }
        if let Some(group) = self.groups.get_mut(at) {
            let key = key(route.prefix.addr());
            let at = group.entries.partition_point(|(k, r)| (*k, r.metric) <= (key, route.metric));
            group.entries.insert(at, (key, route));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn via(prefix: &str, interface: u16, gateway: Option<&str>, metric: u32) -> Route {
        Route { prefix: prefix.parse().unwrap(), interface, gateway: gateway.map(ip), source: None, metric }
    }

    fn host_table() -> RouteTable {
        let mut table = RouteTable::new();
        table.connect("10.0.0.2/24".parse().unwrap(), 0).unwrap();
        table.connect("192.168.7.9/16".parse().unwrap(), 1).unwrap();
        table.add(via("0.0.0.0/0", 0, Some("10.0.0.1"), 0)).unwrap();
        table
    }

    #[test]
    fn routes_of_an_interface_are_replaced_and_the_others_stay() {
        let mut table = host_table();
        let generation = table.generation();
        let far = via("172.16.0.0/12", 1, Some("192.0.2.1"), 7);
        let connected = via("192.0.2.0/24", 1, None, 0);
        let foreign = via("172.16.0.0/12", 1, Some("fe80::1"), 7);
        table.replace_interface(1, vec![far, connected, far, foreign]);
        assert_eq!(table.lookup(ip("172.16.9.9")), Some(far));
        assert_eq!(table.lookup(ip("192.0.2.7")), Some(connected));
        assert_eq!(table.lookup(ip("192.168.1.1")).unwrap().gateway, Some(ip("10.0.0.1")));
        assert_eq!((table.iter().count(), table.generation() > generation), (4, true));
        table.replace_interface(
            1,
            vec![via("172.16.0.0/12", 1, Some("192.0.2.2"), 7), via("172.16.0.0/12", 1, None, 3)],
        );
        assert_eq!(table.lookup(ip("172.16.9.9")).unwrap().metric, 3);
        assert_eq!(table.iter().count(), 4);
    }

    #[test]
    fn second_address_of_a_network_shares_the_route_of_the_first() {
        let mut table = host_table();
        let before = table.iter().count();
        table.connect("10.0.0.3/24".parse().unwrap(), 0).unwrap();
        assert_eq!(table.iter().count(), before);
        assert_eq!(table.lookup(ip("10.0.0.9")).unwrap().source, Some(ip("10.0.0.2")));
    }

    #[test]
    fn the_longest_prefix_wins_over_the_default() {
        let table = host_table();
        let local = table.lookup(ip("10.0.0.77")).unwrap();
        assert_eq!((local.interface, local.gateway, local.source), (0, None, Some(ip("10.0.0.2"))));
        assert_eq!(local.next_hop(ip("10.0.0.77")), ip("10.0.0.77"));
        assert_eq!(table.lookup(ip("192.168.0.1")).unwrap().interface, 1);
        assert_eq!(table.lookup(ip("8.8.8.8")).unwrap().next_hop(ip("8.8.8.8")), ip("10.0.0.1"));
        assert_eq!(table.lookup(ip("2001:db8::1")), None, "an IPv4 default is no IPv6 route");
    }

    #[test]
    fn both_families_share_a_table_and_nothing_else() {
        let mut table = host_table();
        table.connect("2001:db8::2/64".parse().unwrap(), 0).unwrap();
        table.add(via("::/0", 0, Some("fe80::1"), 0)).unwrap();
        assert_eq!(table.lookup(ip("2001:db8::77")).unwrap().gateway, None);
        assert_eq!(table.lookup(ip("2001:db9::")).unwrap().gateway, Some(ip("fe80::1")));
        assert_eq!(table.lookup(ip("10.0.0.9")).unwrap().gateway, None);
    }

    #[test]
    fn the_lowest_metric_wins_and_the_next_takes_over_when_it_is_removed() {
        let mut table = host_table();
        table.add(via("172.16.0.0/12", 1, Some("192.168.0.1"), 20)).unwrap();
        table.add(via("172.16.0.0/12", 0, Some("10.0.0.1"), 10)).unwrap();
        let best = table.lookup(ip("172.17.0.1")).unwrap();
        assert_eq!(best.metric, 10);
        assert!(table.remove(&best));
        assert!(!table.remove(&best));
        assert_eq!(table.lookup(ip("172.17.0.1")).unwrap().metric, 20);
    }

    #[test]
    fn every_change_moves_the_generation_and_nothing_else_does() {
        let mut table = host_table();
        let before = table.generation();
        table.lookup(ip("10.0.0.1"));
        assert_eq!(
            table.add(via("10.0.0.0/24", 0, None, 0)),
            Err(RouteError::Exists("10.0.0.0/24".parse().unwrap()))
        );
        assert_eq!(table.remove_interface(9), 0);
        assert_eq!(table.generation(), before);
        table.add(via("1.0.0.0/8", 0, None, 0)).unwrap();
        assert_ne!(table.generation(), before);
        let added = table.generation();
        assert_eq!(table.remove_interface(0), 3);
        assert_ne!(table.generation(), added);
        assert_eq!(table.iter().count(), 1);
    }

    #[test]
    fn gateways_that_cannot_work_are_refused() {
        let mut table = host_table();
        let mut add = |gateway| table.add(via("1.0.0.0/8", 0, Some(gateway), 0)).unwrap_err();
        assert_eq!(add("10.0.1.1"), RouteError::GatewayNotConnected(ip("10.0.1.1")));
        assert_eq!(
            add("192.168.0.1"),
            RouteError::GatewayNotConnected(ip("192.168.0.1")),
            "on another interface"
        );
        assert_eq!(add("8.8.8.8"), RouteError::GatewayNotConnected(ip("8.8.8.8")), "behind another gateway");
        for bad in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.1"] {
            assert_eq!(add(bad), RouteError::BadGateway(ip(bad)));
        }
        assert_eq!(add("fe80::1"), RouteError::FamilyDiffers("1.0.0.0/8".parse().unwrap(), ip("fe80::1")));
    }

    #[test]
    fn a_gateway_outside_the_network_works_after_a_host_route_to_it() {
        let mut table = RouteTable::new();
        table.connect("203.0.113.5/32".parse().unwrap(), 0).unwrap();
        table.add(via("198.51.100.1/32", 0, None, 0)).unwrap();
        table.add(via("0.0.0.0/0", 0, Some("198.51.100.1"), 0)).unwrap();
        assert_eq!(table.lookup(ip("8.8.8.8")).unwrap().gateway, Some(ip("198.51.100.1")));
    }

    /// Addresses that collide often: few distinct bits, at either end.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u32..16, 0u32..16).prop_map(|(hi, lo)| IpAddr::V4((hi << 28 | lo << 22 | lo).into())),
            (0u128..16, 0u128..16).prop_map(|(hi, lo)| IpAddr::V6((hi << 124 | lo << 60 | lo).into())),
        ]
    }

    fn route() -> impl Strategy<Value = Route> {
        (address(), 0u8..=128, 0u16..3, 0u32..3).prop_map(|(addr, len, interface, metric)| {
            let len = if addr.is_ipv4() { len % 33 } else { len };
            let prefix = Prefix::containing(addr, len).unwrap();
            Route { prefix, interface, gateway: None, source: None, metric }
        })
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_a_linear_scan(
            steps in proptest::collection::vec((route(), any::<bool>(), any::<proptest::sample::Index>()), 1..60),
            probes in proptest::collection::vec(address(), 20),
        ) {
            let (mut table, mut model) = (RouteTable::new(), Vec::<Route>::new());
            for (route, remove, victim) in steps {
                if remove && !model.is_empty() {
                    let gone = model.remove(victim.index(model.len()));
                    prop_assert!(table.remove(&gone));
                } else {
                    let fresh = !model.contains(&route);
                    prop_assert_eq!(table.add(route).is_ok(), fresh);
                    if fresh {
                        model.push(route);
                    }
                }
            }
            prop_assert_eq!(table.iter().count(), model.len());
            for dst in probes {
                // min_by_key keeps the first of equals, which is the oldest.
                let best = model
                    .iter()
                    .filter(|r| r.prefix.contains(dst))
                    .min_by_key(|r| (core::cmp::Reverse(r.prefix.prefix_len()), r.metric));
                prop_assert_eq!(table.lookup(dst), best.copied());
            }
        }
    }
}
