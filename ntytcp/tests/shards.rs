//! A host of several shards, seen from a peer: in virtual time, over memory links.
#![allow(clippy::unwrap_used)] // A failed step is a failed test, in helpers too.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ntytcp::device::lanes::connect;
use ntytcp::device::mem::{MemConfig, MemDevice, pair};
use ntytcp::device::spec::BoxedDevice;
use ntytcp::device::{Caps, Device, DeviceError, RxFrame, TxMeta, TxQueue};
use ntytcp::placement::{Home, Place, Placement};
use ntytcp::rng::{Rng, seed_from};
use ntytcp::shard::{IdlePolicy, Shard};
use ntytcp::stack::arp::GuardConfig;
use ntytcp::stack::ports::PortRange;
use ntytcp::stack::route::InterfaceAddr;
use ntytcp::stack::{InterfaceConfig, SocketError, SocketId, Stack, StackConfig};
use ntytcp::steering::Steering;
use ntytcp::tcp::{ListenOptions, State};
use ntytcp::time::{Clock, Instant};
use ntytcp::wire::MacAddr;

const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// The ephemeral ports: few, so that they can be used up.
const FIRST_PORT: u16 = 40_000;
const LAST_PORT: u16 = 40_999;

#[derive(Default)]
struct Virtual(Cell<u64>);

impl Clock for &Virtual {
    fn now(&self) -> Instant {
        Instant::from_micros(self.0.get())
    }
}

/// The peer's end of a cable to each queue of the host, as a card with receive-side scaling sees it.
struct Card {
    cables: Vec<MemDevice>,
    placement: Arc<Placement>,
    frame: Vec<u8>,
}

impl TxQueue for Card {
    fn caps(&self) -> &Caps {
        self.cables[0].caps()
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.frame.resize(len, 0);
        Some(&mut self.frame)
    }

    fn commit(&mut self, meta: TxMeta) {
        let queue = match self.placement.home(&self.frame, false) {
            Home::Shard(shard) => shard % self.cables.len(),
            // By the addresses alone, as a card does it: here all of them go to one queue.
            Home::Anyone | Home::Everyone | Home::Fragment(_) => 0,
        };
        let cable = &mut self.cables[queue];
        cable.reserve(self.frame.len()).unwrap().copy_from_slice(&self.frame);
        cable.commit(meta);
    }
}

impl Device for Card {
    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        self.cables.iter_mut().map(|cable| cable.rx_burst(sink)).sum()
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        self.cables.iter_mut().try_for_each(Device::flush)
    }
}

/// A host of several shards, and a peer of one.
struct Net<'a> {
    clock: &'a Virtual,
    host: Vec<Shard<&'a Virtual>>,
    peer: Shard<&'a Virtual>,
}

impl<'a> Net<'a> {
    fn new(clock: &'a Virtual, shards: usize, queues: usize, config: MemConfig) -> Self {
        let steering = Arc::new(Steering::new(shards, &mut Rng::new(seed_from(3))));
        let placement = Arc::new(Placement::new(steering));
        let (near, far): (Vec<_>, Vec<_>) = (0..queues).map(|_| pair(config)).unzip();
        let near = near.into_iter().map(|near| Box::new(near) as BoxedDevice).collect();
        let host = connect(near, &placement).unwrap().into_iter().enumerate().map(|(shard, lanes)| {
            let place = Some(Place { placement: placement.clone(), shard });
            let guard = if shard == 0 { GuardConfig::immediate() } else { GuardConfig::delegated() };
            self::shard(clock, place, Box::new(lanes), &[HOST, SECOND], guard)
        });
        let host = host.collect();
        let card = Card { cables: far, placement: placement.clone(), frame: Vec::new() };
        let peer = self::shard(clock, None, Box::new(card), &[PEER], GuardConfig::immediate());
        let mut net = Self { clock, host, peer };
        net.run(100);
        net
    }

    /// So many rounds of 50 µs.
    fn run(&mut self, rounds: usize) {
        for _ in 0..rounds {
            self.clock.0.set(self.clock.0.get() + 50);
            for shard in self.host.iter_mut().chain([&mut self.peer]) {
                assert!(shard.turn().is_ok());
                while shard.stack_mut().poll_event().is_some() {}
            }
        }
    }

    fn stat(&self, name: &str) -> u64 {
        let stats = self.host.iter().flat_map(Shard::device_stats).flat_map(|(_, stats)| stats);
        stats.filter(|(known, _)| *known == name).map(|(_, n)| n).sum()
    }
}

fn shard<'a>(
    clock: &'a Virtual,
    place: Option<Place>,
    device: BoxedDevice,
    addrs: &[Ipv4Addr],
    guard: GuardConfig,
) -> Shard<&'a Virtual> {
    let seed = seed_from(place.as_ref().map_or(99, |place| place.shard as u64));
    let ephemeral_ports = PortRange::new(FIRST_PORT, LAST_PORT).unwrap();
    let stack = Stack::new(StackConfig { place, ephemeral_ports, ..StackConfig::default() }, seed).unwrap();
    let mut shard = Shard::new(stack, clock, IdlePolicy::default());
    let addrs: Vec<_> = addrs.iter().map(|&ip| InterfaceAddr::new(ip.into(), 24).unwrap()).collect();
    let mac = MacAddr([2, 0, 0, 0, 0, addrs[0].addr().to_string().as_bytes()[7]]);
    shard.attach(device, InterfaceConfig { mac, addrs, guard, ..InterfaceConfig::default() }).unwrap();
    shard
}

fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    (ip, port).into()
}

fn listen(shard: &mut Shard<&Virtual>, port: u16) -> SocketId {
    shard.stack_mut().tcp_listen(at(Ipv4Addr::UNSPECIFIED, port), ListenOptions::default()).unwrap()
}

fn connect_to(shard: &mut Shard<&Virtual>, to: SocketAddr) -> SocketId {
    let now = shard.now();
    shard.stack_mut().tcp_connect(now, None, to, None).unwrap()
}

fn accept(shard: &mut Shard<&Virtual>, listener: SocketId) -> Option<SocketId> {
    let now = shard.now();
    shard.stack_mut().tcp_accept(now, listener).ok().map(|(id, _)| id)
}

fn is_established(shard: &mut Shard<&Virtual>, id: SocketId) -> bool {
    shard.stack_mut().tcp_state(id) == Ok(State::Established)
}

#[test]
fn connections_are_spread_over_all_shards_and_each_is_whole() {
    for queues in 1..=3 {
        let clock = Virtual::default();
        let mut net = Net::new(&clock, 3, queues, MemConfig::default());
        let listeners: Vec<_> = net.host.iter_mut().map(|shard| listen(shard, 80)).collect();
        let clients: Vec<_> = (0..120).map(|_| connect_to(&mut net.peer, at(HOST, 80))).collect();
        net.run(40);
        let mut accepted = 0;
        for (shard, &listener) in net.host.iter_mut().zip(&listeners) {
            let before = accepted;
            while let Some(id) = accept(shard, listener) {
                let now = shard.now();
                assert_eq!(shard.stack_mut().tcp_send(now, id, b"welcome"), Ok(7));
                accepted += 1;
            }
            assert!(accepted - before > 20, "{} of 120", accepted - before);
        }
        assert_eq!(accepted, 120);
        net.run(40);
        let mut buf = [0; 10];
        for id in clients {
            let now = net.peer.now();
            assert_eq!(net.peer.stack_mut().tcp_recv(now, id, &mut buf), Ok(7));
        }
        if queues == 3 {
            assert_eq!(net.stat("lane-handed-over"), 0, "the card delivers each flow at home");
        }
    }
}

#[test]
fn every_shard_connects_from_ports_whose_flows_come_home() {
    for queues in [1, 3] {
        let clock = Virtual::default();
        let mut net = Net::new(&clock, 3, queues, MemConfig::default());
        let listener = listen(&mut net.peer, 80);
        let ids: Vec<Vec<_>> = net
            .host
            .iter_mut()
            .map(|shard| (0..40).map(|_| connect_to(shard, at(PEER, 80))).collect())
            .collect();
        net.run(60);
        for (shard, ids) in net.host.iter_mut().zip(&ids) {
            assert!(ids.iter().all(|&id| is_established(shard, id)));
        }
        assert_eq!(core::iter::from_fn(|| accept(&mut net.peer, listener)).count(), 120);
        if queues == 3 {
            assert_eq!(net.stat("lane-handed-over"), 0);
        }
    }
}

#[test]
fn the_ports_of_all_addresses_are_shared_out_and_counted() {
    let clock = Virtual::default();
    let mut net = Net::new(&clock, 2, 2, MemConfig::default());
    let _listener = listen(&mut net.peer, 80);
    let left = |net: &Net<'_>| {
        net.host.iter().map(|s| s.stack().tcp_ports_left(at(PEER, 80)).unwrap()).collect::<Vec<_>>()
    };
    let range = usize::from(LAST_PORT - FIRST_PORT) + 1;
    let before = left(&net);
    assert_eq!(before.iter().sum::<usize>(), 2 * range, "each port of each address lives on one shard");
    assert!(before.iter().all(|n| (range * 9 / 10..range * 11 / 10).contains(n)), "{before:?}");

    let taken: Vec<_> = (0..100).map(|_| connect_to(&mut net.host[1], at(PEER, 80))).collect();
    assert_eq!(left(&net), [before[0], before[1] - 100]);
    net.run(50);
    for id in taken {
        let now = net.host[1].now();
        net.host[1].stack_mut().tcp_abort(now, id).unwrap();
    }
    net.run(50);
    assert_eq!(left(&net), before);
}

#[test]
fn when_one_address_has_no_port_left_the_next_is_used() {
    let clock = Virtual::default();
    let mut net = Net::new(&clock, 1, 1, MemConfig::default());
    let all = net.host[0].stack().tcp_ports_left(at(PEER, 80)).unwrap();
    for _ in 0..all {
        connect_to(&mut net.host[0], at(PEER, 80));
    }
    assert_eq!(net.host[0].stack().tcp_ports_left(at(PEER, 80)), Ok(0));
    let now = net.host[0].now();
    let more = net.host[0].stack_mut().tcp_connect(now, None, at(PEER, 80), None);
    assert_eq!(more, Err(SocketError::AddressNotAvailable));
    assert!(net.host[0].stack_mut().tcp_connect(now, None, at(PEER, 81), None).is_ok());
}

#[test]
fn a_listener_of_one_shard_gets_all_connections_until_it_is_closed() {
    let clock = Virtual::default();
    let mut net = Net::new(&clock, 3, 2, MemConfig::default());
    for shard in [1, 2] {
        let listener = listen(&mut net.host[shard], 80);
        let ids: Vec<_> = (0..40).map(|_| connect_to(&mut net.peer, at(HOST, 80))).collect();
        net.run(40);
        assert!(ids.iter().all(|&id| is_established(&mut net.peer, id)));
        let now = net.host[shard].now();
        net.host[shard].stack_mut().tcp_close(now, listener).unwrap();
        net.run(10);
    }
    let refused = connect_to(&mut net.peer, at(HOST, 80));
    net.run(10);
    assert_eq!(net.peer.stack_mut().tcp_take_error(refused), Some(SocketError::ConnectionRefused));
}

#[test]
fn connections_stay_where_they_are_when_shards_stop_listening_or_end() {
    let clock = Virtual::default();
    let mut net = Net::new(&clock, 3, 1, MemConfig::default());
    let listeners: Vec<_> = net.host.iter_mut().map(|shard| listen(shard, 80)).collect();
    let clients: Vec<_> = (0..60).map(|_| connect_to(&mut net.peer, at(HOST, 80))).collect();
    net.run(40);
    let mut served: Vec<Vec<_>> = Vec::new();
    for (shard, &listener) in net.host.iter_mut().zip(&listeners) {
        served.push(core::iter::from_fn(|| accept(shard, listener)).collect());
    }
    assert!(served.iter().all(|ids| ids.len() > 5));
    // How many of all receive a byte that the peer sends to each.
    let received = |net: &mut Net<'_>, served: &[Vec<SocketId>]| {
        for &id in &clients {
            let now = net.peer.now();
            let _ = net.peer.stack_mut().tcp_send(now, id, b"x");
        }
        // Until the delayed ACKs have come.
        net.run(1_000);
        let mut count = 0;
        for (shard, ids) in net.host.iter_mut().zip(served) {
            let now = shard.now();
            count +=
                ids.iter().filter(|&&id| shard.stack_mut().tcp_recv(now, id, &mut [0; 8]) == Ok(1)).count();
        }
        count
    };
    assert_eq!(received(&mut net, &served), 60);
    let now = net.host[0].now();
    net.host[0].stack_mut().tcp_close(now, listeners[0]).unwrap();
    assert_eq!(received(&mut net, &served), 60, "connections need no listener");
    drop(net.host.pop());
    let lost = served.pop().unwrap().len();
    assert_eq!(received(&mut net, &served), 60 - lost, "only those of the shard that ended");
}

#[test]
fn datagrams_reach_the_socket_that_asked_and_errors_too() {
    let clock = Virtual::default();
    let mut net = Net::new(&clock, 3, 2, MemConfig::default());
    let server = net.peer.stack_mut().udp_bind(at(PEER, 53)).unwrap();
    let mut buf = [0; 9_000];
    for shard in 0..3 {
        for round in 0..20_u8 {
            let stack = net.host[shard].stack_mut();
            let client = stack.udp_bind(at(Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            let sent = if round % 2 == 0 { vec![round] } else { vec![round; 5_000] };
            stack.udp_send_to(client, &sent, Some(at(PEER, 53))).unwrap();
            net.run(6);
            let got = net.peer.stack_mut().udp_recv_from(server, &mut buf).unwrap();
            net.peer.stack_mut().udp_send_to(server, &buf[..got.len], Some(got.from)).unwrap();
            net.run(6);
            let stack = net.host[shard].stack_mut();
            assert_eq!(
                stack.udp_recv_from(client, &mut buf).map(|got| got.len),
                Ok(sent.len()),
                "shard {shard}"
            );
            if round > 0 {
                stack.udp_close(client).unwrap();
                continue;
            }
            // Nobody is at port 54, which the peer does not tell everybody who asks.
            stack.udp_connect(client, Some(at(PEER, 54))).unwrap();
            stack.udp_send_to(client, b"?", None).unwrap();
            net.run(6);
            let stack = net.host[shard].stack_mut();
            assert_eq!(stack.udp_take_error(client), Ok(Some(SocketError::ConnectionRefused)));
            stack.udp_close(client).unwrap();
        }
    }
}

#[test]
fn the_host_is_one_station_that_answers_once() {
    let clock = Virtual::default();
    let mut net = Net::new(&clock, 3, 3, MemConfig::default());
    let echo = net.peer.stack_mut().echo_open().unwrap();
    for seq in 0..10 {
        net.peer.stack_mut().echo_send(echo, IpAddr::V4(SECOND), seq, &[7; 3_000]).unwrap();
        net.run(10);
        assert!(net.peer.stack_mut().echo_recv(echo).is_ok());
        assert!(net.peer.stack_mut().echo_recv(echo).is_err());
    }
}
