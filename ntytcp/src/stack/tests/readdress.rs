use core::net::Ipv4Addr;

use super::kit::*;
use crate::counters::DropReason;
use crate::device::Caps;
use crate::stack::arp::GuardConfig;
use crate::stack::route::{InterfaceAddr, Route};
use crate::stack::{ConfigError, InterfaceId, SocketError};
use crate::time::Duration;
use crate::wire::{ArpOperation, MacAddr};

const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

fn addr(ip: Ipv4Addr) -> InterfaceAddr {
    InterfaceAddr::new(ip.into(), 24).unwrap()
}

#[test]
fn an_address_that_is_given_up_ends_its_sockets_and_a_new_one_is_used() {
    let mut host = Host::acquainted();
    let conn = host.established(80);
    let (old, any) =
        (host.stack.udp_bind(at(US, 7)).unwrap(), host.stack.udp_bind(at(Ipv4Addr::UNSPECIFIED, 8)));
    host.stack.set_addresses(host.now, host.id, &[addr(OTHER)]).unwrap();
    assert_eq!(host.stack.tcp_take_error(conn), Some(SocketError::AddressNotAvailable));
    assert_eq!(host.stack.udp_take_error(old), Ok(Some(SocketError::AddressNotAvailable)));
    assert_eq!(host.receive(&udp_to(US, 1, 8, b"")), Err(DropReason::NotOurAddress));
    assert_eq!(host.receive(&udp_to(OTHER, 1, 8, b"x")), Ok(None));
    host.stack.udp_send_to(any.unwrap(), b"y", Some(at(PEER, 1))).unwrap();
    let sent = host.pass(Duration::from_secs(1));
    let datagram =
        sent.iter().find(|frame| parse_ip(frame).0.protocol == crate::wire::IpProtocol::UDP).unwrap();
    assert_eq!(parse_ip(datagram).0.src, OTHER);
}

#[test]
fn an_address_that_stays_keeps_its_sockets() {
    let mut host = Host::acquainted();
    let conn = host.established(80);
    for addrs in [&[addr(OTHER), addr(US)][..], &[addr(US)]] {
        host.stack.set_addresses(host.now, host.id, addrs).unwrap();
    }
    assert_eq!(host.stack.tcp_take_error(conn), None);
    assert!(host.receive(&arp(ArpOperation::Request, (PEER_MAC, PEER), US)).unwrap().is_some());
    let ask = arp(ArpOperation::Request, (PEER_MAC, PEER), OTHER);
    assert_eq!(host.receive(&ask), Err(DropReason::ArpIgnored));
}

#[test]
fn who_is_silent_neither_probes_nor_announces_nor_waits() {
    let mut host = Host::with(Caps::plain(1500), |config| {
        config.guard = GuardConfig::delegated();
        config.addrs.clear();
    });
    host.stack.set_addresses(host.now, host.id, &[addr(US)]).unwrap();
    assert!(host.stack.udp_bind(at(US, 7)).is_ok());
    assert!(host.pass(Duration::from_secs(60)).is_empty());
}

#[test]
fn a_new_station_address_is_heard_and_sent_from() {
    let mut host = Host::acquainted();
    let other = MacAddr([2, 0, 0, 0, 0, 0x77]);
    host.stack.set_station(host.id, other).unwrap();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    assert_eq!(host.receive(&udp_to(US, 1, 7, b"")), Err(DropReason::NotForUs));
    let mut frame = udp_to(US, 1, 7, b"");
    frame[..6].copy_from_slice(&other.0);
    assert_eq!(host.receive(&frame), Ok(None));
    host.stack.udp_send_to(socket, b"y", Some(at(PEER, 1))).unwrap();
    assert_eq!(host.egress()[0][6..12], other.0);
    assert_eq!(
        host.stack.set_station(host.id, MacAddr::BROADCAST),
        Err(ConfigError::Mac(MacAddr::BROADCAST))
    );
}

#[test]
fn a_smaller_mtu_cuts_what_is_sent_and_none_is_larger_than_the_devices() {
    let mut host = Host::acquainted();
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    for (mtu, frames) in [(600, 3), (9_000, 1)] {
        host.stack.set_mtu(host.id, mtu).unwrap();
        host.stack.udp_send_to(socket, &pattern(1_400), Some(at(PEER, 1))).unwrap();
        assert_eq!(host.egress().len(), frames, "MTU {mtu}");
    }
    assert!(matches!(host.stack.set_mtu(host.id, 67), Err(ConfigError::Range { name: "mtu", .. })));
}

#[test]
fn routes_are_replaced_as_a_whole() {
    let mut host = Host::acquainted();
    let route = |prefix: &str, gateway: Option<Ipv4Addr>| Route {
        prefix: prefix.parse().unwrap(),
        interface: 0,
        gateway: gateway.map(Into::into),
        source: None,
        metric: 0,
    };
    let far = at(Ipv4Addr::new(192, 0, 2, 1), 1);
    let socket = host.stack.udp_bind(at(US, 7)).unwrap();
    let unreachable = Err(SocketError::NetworkUnreachable);
    assert_eq!(host.stack.tcp_connect(host.now, None, far, None), unreachable);
    host.stack.set_routes(host.id, vec![route("10.0.0.0/24", None), route("0.0.0.0/0", Some(PEER))]).unwrap();
    host.stack.udp_connect(socket, Some(far)).unwrap();
    host.stack.udp_send_to(socket, b"y", None).unwrap();
    assert_eq!(host.egress()[0][..6], PEER_MAC.0);
    host.stack.set_routes(host.id, Vec::new()).unwrap();
    assert_eq!(host.stack.routes().iter().count(), 0);
    let nowhere = InterfaceId(3);
    assert_eq!(host.stack.set_routes(nowhere, Vec::new()), Err(ConfigError::NoInterface(nowhere)));
    assert_eq!(host.stack.set_addresses(host.now, nowhere, &[]), Err(ConfigError::NoInterface(nowhere)));
}
