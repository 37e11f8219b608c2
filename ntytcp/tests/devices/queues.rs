//! Devices with several queues: every flow arrives at one of them, and at its home where the kernel can be taught.
#![allow(clippy::unwrap_used)] // A failed step is a failed test, in helpers too.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::kit::*;
use ntytcp::device::packet::{PacketConfig, PacketDevice};
use ntytcp::device::spec::{BoxedDevice, DeviceSpec, OpenOptions};
use ntytcp::device::sys::{PollFd, poll};
use ntytcp::device::tap::{TapConfig, TapDevice};
use ntytcp::device::xdp::{XdpConfig, XdpDevice};
use ntytcp::device::{Device, DeviceError, RxFrame, TxMeta};
use ntytcp::rng::{Rng, seed_from};
use ntytcp::steering::Steering;
use ntytcp::time::Instant;
use ntytcp::wire::{EtherType, EthernetHeader};

const SHARDS: usize = 3;
/// The extension header of fragments.
const FRAGMENT: u8 = 44;
const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);
const OURS6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2);

fn steering(shards: usize) -> Arc<Steering> {
    Arc::new(Steering::new(shards, &mut Rng::new(seed_from(3))))
}

/// Gives the host's end an address of either family, and says where we are.
fn address(host: &str) {
    // Neighbor discovery may run here: it belongs to no flow.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{host}/disable_ipv6"), "0");
    ip(&["addr", "replace", "fd09::1/64", "dev", host, "nodad"]);
    let mac = OUR_MAC.map(|byte| format!("{byte:02x}")).join(":");
    for ours in ["10.9.8.2", "fd09::2"] {
        ip(&["neigh", "replace", ours, "lladdr", &mac, "dev", host, "nud", "permanent"]);
    }
}

fn tap(shards: usize) -> (Vec<BoxedDevice>, String) {
    let name = name();
    let mut options = OpenOptions::default().with_host_addr(HOST, 24);
    options.steering = Some(steering(shards));
    let devices = format!("tap:{name}").parse::<DeviceSpec>().unwrap().open_queues(&options).unwrap();
    address(&name);
    (devices, name)
}

fn packet(shards: usize) -> (Vec<BoxedDevice>, String) {
    let (ours, host) = link();
    address(&host);
    let options = options(shards);
    (format!("packet:{ours}").parse::<DeviceSpec>().unwrap().open_queues(&options).unwrap(), host)
}

fn options(shards: usize) -> OpenOptions {
    let mut options = OpenOptions::default();
    options.steering = Some(steering(shards));
    options
}

/// On an interface of so many queues.
fn xdp(queues: usize, devices: usize, behind_driver: bool) -> (Vec<BoxedDevice>, String) {
    let (ours, host) = link_with_queues(queues);
    address(&host);
    let mut config = XdpConfig::new(ours);
    config.behind_driver = behind_driver;
    let devices = XdpDevice::open_queues(&config, devices).unwrap();
    devices.iter().for_each(|device| assert_eq!(device.notices(), [] as [String; 0]));
    (devices.into_iter().map(|device| Box::new(device) as BoxedDevice).collect(), host)
}

/// Flows of the host, as many of each family, each a socket of its own.
struct Flows {
    sockets: Vec<(UdpSocket, SocketAddr)>,
    /// What tells them from those before.
    round: u8,
}

impl Flows {
    fn new(count: u16, round: u8) -> Self {
        let socket = |flow: u16| {
            let (host, ours): (IpAddr, IpAddr) = match flow % 2 {
                0 => (HOST.into(), OURS.into()),
                _ => (HOST6.into(), OURS6.into()),
            };
            (UdpSocket::bind(SocketAddr::new(host, 0)).unwrap(), SocketAddr::new(ours, 99))
        };
        Self { sockets: (0..count).map(socket).collect(), round }
    }

    /// Sends a datagram of each flow but of those that `heard` has: its number.
    fn send(&self, heard: &HashMap<u16, usize>) {
        for (flow, (socket, ours)) in
            (0_u16..).zip(&self.sockets).filter(|(flow, _)| !heard.contains_key(flow))
        {
            let [high, low] = flow.to_be_bytes();
            // Whether it leaves is the link's affair; who counts on it looks for it at the other end.
            let _ = socket.send_to(&[b'#', self.round, high, low], ours);
        }
    }
}

/// The number of the flow in a frame of that round.
fn flow_of(frame: &[u8], round: u8) -> Option<u16> {
    let at = if frame.get(12..14)? == [8, 0] { 42 } else { 62 };
    let payload = frame.get(at..at + 4)?;
    (payload[..2] == [b'#', round]).then(|| u16::from_be_bytes([payload[2], payload[3]]))
}

/// The home of a frame of TCP or UDP: by its ports, or as a fragment by its addresses.
fn home(steering: &Steering, frame: &[u8]) -> Option<usize> {
    let (ethernet, packet) = EthernetHeader::parse(frame).ok()?;
    let (src, dst, protocol, is_fragment, rest) = match ethernet.ethertype {
        EtherType::IPV4 => {
            let addr = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap();
            let is_fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
            (IpAddr::from(addr(12)), IpAddr::from(addr(16)), packet[9], is_fragment, &packet[20..])
        }
        EtherType::IPV6 => {
            let addr = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap();
            (addr(8).into(), addr(24).into(), packet[6], packet[6] == FRAGMENT, &packet[40..])
        }
        _ => return None,
    };
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    let ports = (!is_fragment).then(|| (port(0), port(2)));
    [TCP, UDP, FRAGMENT].contains(&protocol).then(|| steering.shard_of(steering.hash(src, dst, ports)))
}

/// Drives every device on a thread of its own until `done` says so of what all have heard together. Meanwhile `send` is called again
/// and again: a link may lose frames when its receiver does not run. Fails when something is missing after 500 times.
fn drive<T: Clone + Default + Send>(
    devices: &mut [BoxedDevice],
    send: impl Fn(&T),
    hear: impl Fn(&mut T, usize, &mut RxFrame<'_>) + Sync,
    done: impl Fn(&T) -> bool,
) -> T {
    let (heard, finished) = (Mutex::new(T::default()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _finish = AtEnd(&finished);
        let threads: Vec<_> = devices
            .iter_mut()
            .enumerate()
            .map(|(i, device)| {
                let (heard, finished, hear) = (&heard, &finished, &hear);
                scope.spawn(move || {
                    while !finished.load(Relaxed) {
                        let mut fds = [PollFd::readable(device.poll_fd().unwrap())];
                        poll(&mut fds, Some(Duration::from_millis(20))).unwrap();
                        let mut heard = heard.lock().unwrap();
                        let mut each = |burst: &mut [RxFrame<'_>]| {
                            burst.iter_mut().for_each(|frame| hear(&mut heard, i, frame));
                        };
                        device.rx_burst(&mut each).unwrap();
                        device.flush().unwrap();
                    }
                })
            })
            .collect();
        let mut turns = 0..500;
        loop {
            let so_far = heard.lock().unwrap().clone();
            if done(&so_far) {
                break;
            }
            assert!(turns.next().is_some(), "something is missing");
            assert!(threads.iter().all(|thread| !thread.is_finished()), "a device failed");
            send(&so_far);
            std::thread::park_timeout(Duration::from_millis(20));
        }
    });
    heard.into_inner().unwrap()
}

/// Tells the other threads of a test that it is over, however it ends.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Who heard which flow of a round: each is heard by one device only.
fn hear_flows(devices: &mut [BoxedDevice], count: u16, round: u8) -> HashMap<u16, usize> {
    let flows = Flows::new(count, round);
    let hear = |heard: &mut HashMap<u16, usize>, i, frame: &mut RxFrame<'_>| {
        if let Some(flow) = flow_of(frame.bytes(), round) {
            assert_eq!(*heard.entry(flow).or_insert(i), i, "flow {flow}");
        }
    };
    drive(devices, |heard| flows.send(heard), hear, |heard| heard.len() == usize::from(count))
}

/// Every flow of both families and protocols, and every datagram in fragments, arrives at its home.
fn every_flow_arrives_at_its_home((mut devices, _): (Vec<BoxedDevice>, String)) {
    assert_eq!(devices.len(), SHARDS);
    assert!(devices.iter().all(|device| device.is_steered()));
    let steering = steering(SHARDS);
    let flows = Flows::new(100, 1);
    let send = |_: &Vec<usize>| {
        flows.send(&HashMap::new());
        for (host, ours) in [(IpAddr::from(HOST), IpAddr::from(OURS)), (HOST6.into(), OURS6.into())] {
            for _ in 0..20 {
                // Nobody answers: the SYN is all that matters.
                let _ = TcpStream::connect_timeout(&SocketAddr::new(ours, 80), Duration::from_millis(1));
            }
            let socket = UdpSocket::bind(SocketAddr::new(host, 0)).unwrap();
            socket.send_to(&[7; 4_000], SocketAddr::new(ours, 99)).unwrap();
        }
    };
    let hear = |heard: &mut Vec<usize>, i: usize, frame: &mut RxFrame<'_>| {
        if let Some(home) = home(&steering, frame.bytes()) {
            assert_eq!(home, i);
            heard.push(i);
        }
    };
    // A datagram of 4,000 bytes makes three fragments.
    let heard = drive(&mut devices, send, hear, |heard| heard.len() >= 100 + 40 + 6);
    for shard in 0..SHARDS {
        let count = heard.iter().filter(|&&i| i == shard).count();
        assert!(count > 10, "shard {shard} has {count} of {}", heard.len());
    }
}

/// When a queue is closed while frames come, the others hear every flow, at first as they were steered.
fn a_queue_can_be_closed_under_traffic((mut devices, host): (Vec<BoxedDevice>, String), steered: bool) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = AtEnd(&stop);
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                Flows::new(20, 0).send(&HashMap::new());
            }
        });
        hear_flows(&mut devices, 50, 1);
        assert!(devices.iter().all(|device| device.is_steered() == steered));
        drop(devices.remove(1));
        assert!(!devices.iter().any(|device| device.is_steered()), "flows move");
        hear_flows(&mut devices, 50, 2);
        drop(devices.remove(0));
        hear_flows(&mut devices, 50, 3);
    });
    let before = kernel_rx_packets(&host).unwrap();
    send(&mut devices[0], &[0xff; 60], TxMeta::default());
    assert_eq!(kernel_rx_packets(&host), Some(before + 1), "the last one still sends");
}

/// When the interface is removed while frames come, every queue says so.
fn removed_interface_is_reported_by_every_queue((mut devices, host): (Vec<BoxedDevice>, String)) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let socket = UdpSocket::bind(SocketAddr::new(HOST.into(), 0)).unwrap();
        let _stop = AtEnd(&stop);
        let stop = &stop;
        scope.spawn(move || {
            while !stop.load(Relaxed) {
                let _ = socket.send_to(b"on and on", "10.9.8.2:99");
            }
        });
        hear_flows(&mut devices, 20, 1);
        ip(&["link", "del", &host]);
        for (i, device) in devices.iter_mut().enumerate() {
            let gone = (1..10_000).find_map(|turn| {
                // Half a second a turn: what is only looked at now and then is looked at.
                device.set_now(Instant::from_nanos(turn * 500_000_000));
                device.rx_burst(&mut |_| {}).err()
            });
            assert!(matches!(gone, Some(DeviceError::Gone(_))), "queue {i}: {gone:?}");
        }
    });
}

/// A name for each of the checks above, with each device.
macro_rules! checks {
    ($($name:ident: $check:expr;)+) => {$(
        #[test]
        fn $name() {
            if inside_as_root(concat!("queues::", stringify!($name))) {
                $check;
            }
        }
    )+};
}

checks! {
    tap_every_flow_arrives_at_its_home: every_flow_arrives_at_its_home(tap(SHARDS));
    tap_a_queue_can_be_closed_under_traffic: a_queue_can_be_closed_under_traffic(tap(SHARDS), true);
    tap_removed_interface_is_reported_by_every_queue: removed_interface_is_reported_by_every_queue(tap(SHARDS));
    packet_every_flow_arrives_at_its_home: every_flow_arrives_at_its_home(packet(SHARDS));
    packet_flows_come_home_again_after_the_interface_was_down: {
        let (ours, host) = link();
        address(&host);
        let devices = format!("packet:{ours}").parse::<DeviceSpec>().unwrap().open_queues(&options(SHARDS));
        ip(&["link", "set", &ours, "down"]);
        ip(&["link", "set", &ours, "up"]);
        every_flow_arrives_at_its_home((devices.unwrap(), host));
    };
    packet_a_queue_can_be_closed_under_traffic: a_queue_can_be_closed_under_traffic(packet(SHARDS), true);
    packet_removed_interface_is_reported_by_every_queue: removed_interface_is_reported_by_every_queue(packet(SHARDS));
    xdp_every_flow_arrives_somewhere: every_flow_arrives_somewhere(false);
    xdp_every_flow_arrives_somewhere_behind_the_driver: every_flow_arrives_somewhere(true);
    xdp_removed_interface_is_reported_by_every_queue: removed_interface_is_reported_by_every_queue(xdp(2, 2, false));
    xdp_removed_interface_is_reported_behind_the_driver: removed_interface_is_reported_by_every_queue(xdp(2, 2, true));
    xdp_queues_beyond_the_shards_are_heard: queues_beyond_the_shards_are_heard();
    xdp_a_closed_queue_is_the_kernels: a_closed_queue_is_the_kernels();
}

/// The interface spreads the flows.
fn every_flow_arrives_somewhere(behind_driver: bool) {
    let (mut devices, host) = xdp(2, 2, behind_driver);
    assert!(!devices.iter().any(|device| device.is_steered()));
    let heard = hear_flows(&mut devices, 200, 1);
    // Behind the driver, a veth has all frames come by the first queue.
    let spread = [0, 1].iter().all(|i| heard.values().any(|heard| heard == i));
    assert!(spread || behind_driver, "{heard:?}");
    for device in &mut devices {
        let before = kernel_rx_packets(&host).unwrap();
        send(device, &[0xff; 60], TxMeta::default());
        assert_eq!(kernel_rx_packets(&host), Some(before + 1));
        assert!(device.stats().iter().all(|(_, count)| *count == 0), "{:?}", device.stats());
    }
}

/// Three queues and two shards, four queues and one shard; one shard more than queues.
fn queues_beyond_the_shards_are_heard() {
    for (queues, shards) in [(3, 2), (4, 1), (2, 3)] {
        let (mut devices, host) = xdp(queues, shards, false);
        assert_eq!(devices.len(), shards.min(queues));
        let heard = hear_flows(&mut devices, 200, 1);
        assert!((0..devices.len()).all(|i| heard.values().any(|heard| *heard == i)), "{heard:?}");
        // More frames than one burst takes: no queue starves another.
        hear_flows(&mut devices, 1_000, 2);
        ip(&["link", "del", &host]);
    }
}

/// What was directed to a queue that is closed the kernel has, as if there were no program; the other is heard on.
fn a_closed_queue_is_the_kernels() {
    let (mut devices, _) = xdp(2, 2, false);
    let flows = Flows::new(100, 1);
    let hear = |heard: &mut HashMap<u16, usize>, i, frame: &mut RxFrame<'_>| {
        heard.extend(flow_of(frame.bytes(), 1).map(|flow| (flow, i)));
    };
    let all = drive(&mut devices, |heard| flows.send(heard), hear, |heard| heard.len() == 100);
    let theirs = all.values().filter(|i| **i == 1).count();
    drop(devices.remove(0));
    // The same flows once more.
    let heard = drive(&mut devices, |heard| flows.send(heard), hear, |heard| heard.len() == theirs);
    assert!(heard.keys().all(|flow| all.get(flow) == Some(&1)), "{heard:?} of {all:?}");
}

#[test]
fn tap_that_exists_with_one_queue_is_opened_with_that() {
    if !inside("queues::tap_that_exists_with_one_queue_is_opened_with_that") {
        return;
    }
    let config = TapConfig::new(name());
    ip(&["tuntap", "add", &config.name, "mode", "tap"]);
    let devices = TapDevice::open_queues(&config, &steering(2)).unwrap();
    assert_eq!(devices.len(), 1);
    assert!(devices[0].notices()[0].contains("single queue"), "{:?}", devices[0].notices());
    assert!(!devices[0].is_steered(), "flows of the other shard come here too");
}

#[test]
fn tap_that_stays_is_left_without_a_program() {
    if !inside("queues::tap_that_stays_is_left_without_a_program") {
        return;
    }
    let mut config = TapConfig::new(name());
    config.host_addrs = vec![(HOST.into(), 24)];
    ip(&["tuntap", "add", &config.name, "mode", "tap", "multi_queue"]);
    let devices = TapDevice::open_queues(&config, &steering(2)).unwrap();
    assert!(devices[0].notices()[0].contains("is left as it was"), "{:?}", devices[0].notices());
    let mut devices: Vec<_> = devices.into_iter().map(|tap| Box::new(tap) as BoxedDevice).collect();
    assert!(!devices[0].is_steered());
    address(&config.name);
    hear_flows(&mut devices, 50, 1);
}

#[test]
fn tap_with_queues_is_taken_by_one_process_only() {
    if !inside("queues::tap_with_queues_is_taken_by_one_process_only") {
        return;
    }
    let (mut devices, name) = tap(2);
    let busy = TapDevice::open_queues(&TapConfig::new(&name), &steering(2)).unwrap_err().to_string();
    assert!(busy.contains("another process uses it"), "{busy}");
    hear_flows(&mut devices, 50, 1);
    drop(devices);
    assert_eq!(kernel_rx_packets(&name), None, "gone with its last queue");
}

#[test]
fn without_the_right_to_load_programs_flows_stay_together() {
    const TEST: &str = "queues::without_the_right_to_load_programs_flows_stay_together";
    if std::env::var_os(INSIDE).is_some_and(|who| who == "user") {
        let mut config = TapConfig::new(name());
        config.host_addrs = vec![(HOST.into(), 24)];
        let taps = TapDevice::open_queues(&config, &steering(2)).unwrap();
        assert!(taps[0].notices()[0].contains("the kernel chooses the queue of a flow"));
        let mut devices: Vec<_> = taps.into_iter().map(|tap| Box::new(tap) as BoxedDevice).collect();
        address(&config.name);
        hear_flows(&mut devices, 50, 1);
        drop(devices);

        let (ours, host) = link();
        address(&host);
        let sockets = PacketDevice::open_queues(&PacketConfig::new(ours), &steering(2)).unwrap();
        assert!(sockets[0].notices()[0].contains("the kernel chooses the socket of a flow"));
        let mut devices: Vec<_> = sockets.into_iter().map(|socket| Box::new(socket) as BoxedDevice).collect();
        assert!(!devices[0].is_steered());
        let heard = hear_flows(&mut devices, 100, 1);
        assert!([0, 1].iter().all(|i| heard.values().any(|heard| heard == i)), "{heard:?}");
        return;
    }
    let works = std::process::Command::new("unshare").args(["-Urn", "true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        println!("skipped: {TEST} needs unprivileged user namespaces");
        return;
    }
    run_copy(std::process::Command::new("unshare").arg("-Urn"), TEST, "user");
}
