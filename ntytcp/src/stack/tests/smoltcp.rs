//! Ours against smoltcp over a wire of queues, in virtual time.

use std::collections::VecDeque;

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, udp};
use smoltcp::wire::{EthernetAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, IpEndpoint};

use super::kit::*;

/// smoltcp's end of the wire.
#[derive(Default)]
struct Wire {
    to_smoltcp: VecDeque<Vec<u8>>,
    to_us: VecDeque<Vec<u8>>,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Rx, Tx<'_>)> {
        Some((Rx(self.to_smoltcp.pop_front()?), Tx(&mut self.to_us)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.to_us))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        (capabilities.medium, capabilities.max_transmission_unit) = (Medium::Ethernet, 1_514);
        capabilities
    }
}

struct Link {
    host: Host,
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
}

impl Link {
    fn new() -> Self {
        let mut wire = Wire::default();
        let config = Config::new(EthernetAddress(PEER_MAC.0).into());
        let mut interface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addrs| addrs.push(IpCidr::new(IpAddress::from(PEER), 24)).unwrap());
        Self { host: Host::new(), wire, interface, sockets: SocketSet::new(vec![]) }
    }

    /// Carries frames to and fro until nobody has anything to say.
    fn run(&mut self) {
        for _ in 0..10 {
            let now = smoltcp::time::Instant::from_micros(self.host.now.as_micros() as i64);
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
            while let Some(frame) = self.wire.to_us.pop_front() {
                self.wire.to_smoltcp.extend(self.host.receive(&frame).ok().flatten());
            }
            self.wire.to_smoltcp.extend(self.host.egress());
        }
    }
}

#[test]
fn smoltcp_pings_us() {
    let mut link = Link::new();
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4_096]);
    let handle = link.sockets.add(icmp::Socket::new(buffer(), buffer()));
    let socket = link.sockets.get_mut::<icmp::Socket<'_>>(handle);
    socket.bind(icmp::Endpoint::Ident(77)).unwrap();
    let data = pattern(1_000);
    let request = Icmpv4Repr::EchoRequest { ident: 77, seq_no: 5, data: &data };
    let bytes = socket.send(request.buffer_len(), US.into()).unwrap();
    request.emit(&mut Icmpv4Packet::new_unchecked(bytes), &smoltcp::phy::ChecksumCapabilities::default());
    link.run();
    let (bytes, from) = link.sockets.get_mut::<icmp::Socket<'_>>(handle).recv().unwrap();
    assert_eq!(from, IpAddress::from(US));
    let packet = Icmpv4Packet::new_checked(bytes).unwrap();
    let reply = Icmpv4Repr::parse(&packet, &smoltcp::phy::ChecksumCapabilities::default()).unwrap();
    assert_eq!(reply, Icmpv4Repr::EchoReply { ident: 77, seq_no: 5, data: &data });
}

#[test]
fn datagrams_pass_both_ways() {
    let mut link = Link::new();
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 8_192]);
    let mut theirs = udp::Socket::new(buffer(), buffer());
    theirs.bind(9).unwrap();
    let handle = link.sockets.add(theirs);
    let ours = link.host.stack.udp_bind(at(US, 7)).unwrap();
    for len in [0, 1, 1_472] {
        let data = pattern(len);
        link.host.stack.udp_send_to(ours, &data, Some(at(PEER, 9))).unwrap();
        link.run();
        let socket = link.sockets.get_mut::<udp::Socket<'_>>(handle);
        let (got, from) = socket.recv().unwrap();
        assert_eq!((got, from.endpoint), (&data[..], IpEndpoint::new(US.into(), 7)));
        socket.send_slice(&data, from.endpoint).unwrap();
        link.run();
        let mut buf = vec![0; 2_000];
        let got = link.host.stack.udp_recv_from(ours, &mut buf).unwrap();
        assert_eq!((&buf[..got.len], got.from), (&data[..], at(PEER, 9)));
    }
}

#[test]
fn a_closed_port_of_smoltcp_refuses_our_connection() {
    let mut link = Link::new();
    let ours = link.host.stack.udp_bind(at(US, 7)).unwrap();
    link.host.stack.udp_connect(ours, Some(at(PEER, 9))).unwrap();
    link.host.stack.udp_send_to(ours, b"anybody?", None).unwrap();
    link.run();
    assert_eq!(link.host.stack.udp_take_error(ours), Ok(Some(crate::stack::SocketError::ConnectionRefused)));
}
