//! One suite over every device: what a device must do whatever it is, between two of them in one process.
//!
//! | check | `mem` | `tap` | `packet` | `xdp` | net_ring | virtio_user and vhost | memif | net_af_packet | net_af_xdp | net_tap |
//! |---|---|---|---|---|---|---|---|---|---|---|
//! | bursts of every length arrive whole and in order, and nothing is counted as lost | x | x | x | x | x | x | x | x | x | x |
//! | a full way out loses nothing | x | 1 | 1 | 1 | x | x | x | 1 | 1 | 1 |
//! | what is too long is refused, the longest passes | x | x | x | x | x | x | x | x | x | x |
//! | checksums with offload | x | x | x | x | x | x | x | x | x | x |
//! | checksums without | x | x | x | x | x | 2 | 7 | x | 2 | x |
//! | tags of VLANs arrive, in the frame or beside it | x | x | x | x | x | x | x | x | x | x |
//! | MTU 9000 | x | x | x | x | x | x | 3 | 3 | 3 | 3 |
//! | answers in place | x | x | x | x | x | x | x | x | x | x |
//! | the other end closes under traffic | x | x | x | x | x | x | 7 | x | 2 | x |
//! | the interface is removed under traffic | 4 | x | x | x | 4 | 4 | 4 | x | x | 5 |
//! | several queues | 6 | 6 | 6 | 6 | 6 | 6 | 6 | 6 | 6 | 6 |
//!
//! 1. The kernel drops what its receiving end has no room for. That what `tap`, `packet` and `xdp` do not get rid of at once is sent later is shown
//!    on a slow link: `sends_all_over_a_slow_way` in `tap.rs`, `packet.rs` and `xdp.rs`.
//! 2. A process can have one such wire only: DPDK 22.11 fails when it opens another after the first has closed.
//! 3. What the driver of DPDK 22.11 takes is shorter: 1,500 bytes, 1,504 of net_tap.
//! 4. There is no interface.
//! 5. The driver does not tell, and an interface that is not here may have been moved to another namespace, where it goes on.
//! 6. In `queues.rs` for `tap`, `packet` and `xdp`, in `dpdk.rs` and `dpdk_links.rs` for DPDK. A link of `mem` has one queue; shards share
//!    it over lanes (`device/lanes_tests.rs`).
//! 7. The driver of DPDK 22.11 may end the process when both ends of a wire close in it: its thread still waits on a descriptor that is closed.
//!    Two processes close theirs in `dpdk_links.rs`. It offers no checksums, so without them is as with them.
//!
//! `pcap` is none of these: what is sent to it does not arrive anywhere (`device/pcap_tests.rs`).
#![allow(clippy::unwrap_used)] // A failed step is a failed test, in helpers too.

use std::cell::{Cell, RefCell};

use super::kit::*;
use ntytcp::device::mem::{MemConfig, pair};
use ntytcp::device::spec::{self, BoxedDevice, OpenOptions};
use ntytcp::device::{BURST, Device, DeviceError, RxChecksum, RxFrame, RxMeta, TxMeta, TxQueue, Verdict};
use ntytcp::time::Instant;

/// The ends of a wire. The right one goes first.
struct Ends {
    right: BoxedDevice,
    left: BoxedDevice,
    /// The kernel's interface below the left one.
    interface: Option<String>,
}

/// A wire of some kind.
struct Kind {
    open: fn(&OpenOptions) -> Ends,
    /// A process can have several, one after the other.
    several: bool,
    /// One end can close before the other in one process.
    closes: bool,
    /// Frames wait until there is room for them at the other end.
    waits: bool,
    /// Frames of an MTU of 9,000 fit.
    jumbo: bool,
    /// It is noticed when the interface is gone.
    notices: bool,
}

/// Every check that can be made of a wire of this kind.
fn conforms(kind: &Kind) {
    let open = |change: &dyn Fn(&mut OpenOptions)| {
        let mut options = OpenOptions::default();
        change(&mut options);
        (kind.open)(&options)
    };
    let jumbo = |options: &mut OpenOptions| options.mtu = kind.jumbo.then_some(9_000);
    let mut ends = open(&jumbo);
    bursts_arrive_whole_and_in_order(&mut ends);
    too_long_is_refused(&mut ends, if kind.jumbo { 9_000 } else { 1_500 });
    checksums_are_finished_by_somebody(&mut ends);
    tags_arrive(&mut ends);
    answers_go_back_in_place(&mut ends);
    if kind.waits {
        a_full_way_loses_nothing(&mut ends);
    }
    if !kind.several {
        return match ends.interface {
            Some(_) => the_interface_is_removed(ends),
            None if kind.closes => the_other_end_closes(ends),
            // Until the process ends.
            None => core::mem::forget(ends),
        };
    }
    the_other_end_closes(ends);
    too_long_is_refused(&mut open(&|_| ()), 1_500);
    checksums_are_finished_by_somebody(&mut open(&|options| options.offload = false));
    let ends = open(&|_| ());
    if kind.notices {
        the_interface_is_removed(ends);
    }
}

/// Local experimental ethertype 1 (IEEE 802): nobody but us says anything by it.
const OURS_ONLY: [u8; 2] = [0x88, 0xb5];

/// Frame `number` of `len` bytes, to a station that nobody has.
fn numbered(number: usize, len: usize) -> Vec<u8> {
    let head = [&[2, 0, 0, 0, 0, 9][..], &OUR_MAC, &OURS_ONLY, &(number as u32).to_be_bytes()].concat();
    let fill = (head.len()..len).map(|at| (at * 7 + number * 13) as u8);
    head.iter().copied().chain(fill).collect()
}

/// Whether a test sent this, and not the kernel of its own accord.
fn is_a_tests(frame: &[u8]) -> bool {
    frame[12..14] == OURS_ONLY || frame[12..14] == [0x81, 0] || is_ipv4(frame, UDP)
}

fn put(device: &mut dyn Device, frame: &[u8], meta: TxMeta) -> bool {
    let Some(room) = device.reserve(frame.len()) else { return false };
    room.copy_from_slice(frame);
    device.commit(meta);
    true
}

/// What arrives at the right end of these frames that are sent from the left one, a burst at a time.
fn exchange(ends: &mut Ends, frames: &[(Vec<u8>, TxMeta)]) -> Vec<(Vec<u8>, RxMeta)> {
    let mut arrived = Vec::new();
    for burst in frames.chunks(BURST / 2) {
        let wanted = arrived.len() + burst.len();
        let mut burst = burst.iter().peekable();
        let start = std::time::Instant::now();
        while arrived.len() < wanted {
            assert!(start.elapsed() < PATIENCE, "{} of {wanted} frames arrived", arrived.len());
            turn(ends, start);
            while burst.next_if(|(frame, meta)| put(&mut ends.left, frame, *meta)).is_some() {}
            ends.left.flush().unwrap();
            let mut take = |frame: &mut RxFrame<'_>| {
                if is_a_tests(frame.bytes()) {
                    arrived.push((frame.bytes().to_vec(), frame.meta));
                }
            };
            ends.right.rx_burst(&mut |burst| burst.iter_mut().for_each(&mut take)).unwrap();
        }
        assert_eq!(arrived.len(), wanted, "nothing arrives twice");
    }
    arrived
}

/// How long anything may take: the machine may be busy.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// Lets both ends do what is theirs to do.
fn turn(ends: &mut Ends, start: std::time::Instant) {
    let now = Instant::from_nanos(start.elapsed().as_nanos() as u64);
    for end in [&mut ends.left, &mut ends.right] {
        end.set_now(now);
        end.flush().unwrap();
    }
    ends.left.rx_burst(&mut |_| ()).unwrap();
}

fn bursts_arrive_whole_and_in_order(ends: &mut Ends) {
    let frames: Vec<_> = (0..2_000).map(|n| (numbered(n, 60 + n * 37 % 1_455), TxMeta::default())).collect();
    let arrived = exchange(ends, &frames);
    for (n, ((sent, _), (got, _))) in frames.iter().zip(&arrived).enumerate() {
        assert!(sent == got, "frame {n}");
    }
    // All have arrived: so nothing may have been counted as lost.
    for (name, count) in ends.left.stats().into_iter().chain(ends.right.stats()) {
        let lost = ["full", "refused", "too-long", "no-buffer", "dropped", "link-down", "cut", "no-chunk"];
        assert!(count == 0 || !lost.iter().any(|word| name.ends_with(word)), "{name}: {count}");
    }
}

fn too_long_is_refused(ends: &mut Ends, mtu: usize) {
    assert_eq!(ends.left.caps().mtu, mtu);
    let longest = ends.left.caps().mtu.max(ends.left.caps().tso_max) + 22;
    assert!(ends.left.reserve(longest + 1).is_none());
    let frames: Vec<_> = (0..40).map(|n| (numbered(n, mtu + 14), TxMeta::default())).collect();
    let arrived = exchange(ends, &frames);
    assert!(frames.iter().zip(&arrived).all(|((sent, _), (got, _))| sent == got));
}

fn checksums_are_finished_by_somebody(ends: &mut Ends) {
    let segment = |n: u8| [0, 99, 20, 233, 0, 11, 0, 0, b'a', b'b', n];
    let unfinished = |n| {
        let (frame, checksum) = packet([2, 0, 0, 0, 0, 9], UDP, &segment(n), 6);
        (frame, TxMeta { checksum, gso: None })
    };
    let frames: Vec<_> = (0..50).map(unfinished).collect();
    for (n, (frame, meta)) in exchange(ends, &frames).into_iter().enumerate() {
        assert_eq!(frame[42..45], [b'a', b'b', n as u8]);
        let pseudo = [&frame[26..34], &[0, UDP], &frame[38..40]].concat();
        let is_complete = fold(&[&pseudo, &frame[34..45]].concat()) == 0xffff;
        match meta.checksum {
            RxChecksum::Partial { start, offset } => {
                assert_eq!((start, offset, is_complete), (34, 6, false));
                assert_eq!(frame[40..42], frames[n].0[40..42], "the sum of the pseudo-header");
            }
            RxChecksum::Verified | RxChecksum::Unknown => assert!(is_complete, "frame {n}"),
        }
    }
}

fn tags_arrive(ends: &mut Ends) {
    let tagged = |n: usize| {
        let frame = numbered(n, 100);
        [&frame[..12], &[0x81, 0, 0x20, 7], &frame[12..]].concat()
    };
    let frames: Vec<_> = (0..50).map(|n| (tagged(n), TxMeta::default())).collect();
    for (n, (frame, meta)) in exchange(ends, &frames).into_iter().enumerate() {
        match meta.vlan {
            Some(tci) => assert_eq!((tci, frame), (0x2007, numbered(n, 100))),
            None => assert_eq!(frame, tagged(n)),
        }
    }
}

fn answers_go_back_in_place(ends: &mut Ends) {
    let (start, mut sent) = (std::time::Instant::now(), 0);
    let answers = RefCell::new(Vec::new());
    while answers.borrow().len() < 200 {
        assert!(start.elapsed() < PATIENCE, "{} answers", answers.borrow().len());
        let now = Instant::from_nanos(start.elapsed().as_nanos() as u64);
        ends.left.set_now(now);
        ends.right.set_now(now);
        // No more are under way than any queue holds.
        if sent < 200
            && sent < answers.borrow().len() + BURST
            && put(&mut ends.left, &numbered(sent, 100), TxMeta::default())
        {
            sent += 1;
        }
        ends.left.flush().unwrap();
        let answer = |frame: &mut RxFrame<'_>| {
            if frame.bytes()[12..14] == OURS_ONLY {
                let bytes = frame.bytes_mut();
                bytes[..12].rotate_left(6);
                bytes[18] = b'!';
                frame.verdict = Verdict::Reply(TxMeta::default());
            }
        };
        ends.right.rx_burst(&mut |burst| burst.iter_mut().for_each(answer)).unwrap();
        ends.right.flush().unwrap();
        let take = |frame: &mut RxFrame<'_>| {
            if frame.bytes()[12..14] == OURS_ONLY {
                answers.borrow_mut().push(frame.bytes().to_vec());
            }
        };
        ends.left.rx_burst(&mut |burst| burst.iter_mut().for_each(take)).unwrap();
    }
    for (n, answer) in answers.into_inner().into_iter().enumerate() {
        let mut expected = numbered(n, 100);
        expected[..12].rotate_left(6);
        expected[18] = b'!';
        assert_eq!(answer, expected);
    }
}

fn a_full_way_loses_nothing(ends: &mut Ends) {
    // Once over, so that the ends know each other.
    exchange(ends, &[(numbered(0, 100), TxMeta::default())]);
    let (start, mut sent) = (std::time::Instant::now(), 0);
    while put(&mut ends.left, &numbered(sent, 100), TxMeta::default()) {
        ends.left.flush().unwrap();
        sent += 1;
        assert!(sent < 100_000, "it never is full");
    }
    let arrived = Cell::new(0);
    while arrived.get() < sent {
        assert!(start.elapsed() < PATIENCE, "{} of {sent} frames arrived", arrived.get());
        turn(ends, start);
        let take = |frame: &mut RxFrame<'_>| {
            assert!(frame.bytes() == numbered(arrived.get(), 100), "frame {}", arrived.get());
            arrived.set(arrived.get() + 1);
        };
        ends.right.rx_burst(&mut |burst| burst.iter_mut().for_each(take)).unwrap();
    }
    // There is room again.
    assert!(ends.left.reserve(100).is_some());
}

/// Sends from the left end, and receives there, for a number of turns; why it ended before.
fn go_on(left: &mut BoxedDevice, turns: u64) -> Result<(), DeviceError> {
    for number in 0..turns {
        // A millisecond each, so that what is looked at now and then is looked at.
        left.set_now(Instant::from_micros(number * 1_000));
        for _ in 0..8 {
            put(left, &numbered(number as usize, 200), TxMeta::default());
        }
        left.rx_burst(&mut |_| ())?;
        left.flush()?;
    }
    Ok(())
}

fn the_other_end_closes(mut ends: Ends) {
    exchange(&mut ends, &[(numbered(0, 100), TxMeta::default())]);
    go_on(&mut ends.left, 20).unwrap();
    drop(ends.right);
    // It may say that the wire has ended, and may as well go on.
    if let Err(error) = go_on(&mut ends.left, 2_000) {
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

fn the_interface_is_removed(mut ends: Ends) {
    exchange(&mut ends, &[(numbered(0, 100), TxMeta::default())]);
    go_on(&mut ends.left, 20).unwrap();
    ip(&["link", "del", ends.interface.as_ref().unwrap()]);
    let start = std::time::Instant::now();
    let error = loop {
        if let Err(error) = go_on(&mut ends.left, 2_000) {
            break error;
        }
        assert!(start.elapsed() < PATIENCE, "it does not notice");
    };
    assert!(matches!(error, DeviceError::Gone(_)), "{error}");
}

/// Both ends of a veth pair.
fn veth(options: &OpenOptions, device: impl Fn(&str) -> String) -> Ends {
    let (ours, other) = link();
    if let Some(mtu) = options.mtu {
        for end in [&ours, &other] {
            ip(&["link", "set", end, "mtu", &mtu.to_string()]);
        }
    }
    let open = |end: &str| spec::open(&device(end), options).unwrap();
    let (left, right) = (open(&ours), open(&other));
    Ends { right, left, interface: Some(ours.clone()) }
}

/// Two interfaces that their devices make, on a bridge.
fn bridged(options: &OpenOptions, device: impl Fn(&str) -> String) -> Ends {
    let (bridge, names) = (name(), [name(), name()]);
    ip(&["link", "add", &bridge, "type", "bridge", "mcast_snooping", "0"]);
    let quiet = |interface: &str| {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "1");
    };
    quiet(&bridge);
    let open = |end: &str| {
        let device = spec::open(&device(end), options).unwrap();
        quiet(end);
        ip(&["link", "set", end, "master", &bridge, "up"]);
        device
    };
    let [left, right] = [open(&names[0]), open(&names[1])];
    ip(&["link", "set", &bridge, "up"]);
    let [interface, _] = names;
    Ends { right, left, interface: Some(interface) }
}

fn mem(options: &OpenOptions) -> Ends {
    let mut config = if options.offload { MemConfig::offloading() } else { MemConfig::default() };
    config.mtu = options.mtu.unwrap_or(1_500);
    let (left, right) = pair(config);
    Ends { right: Box::new(right), left: Box::new(left), interface: None }
}

#[test]
fn mem_conforms() {
    conforms(&Kind { open: mem, several: true, closes: true, waits: true, jumbo: true, notices: false });
}

#[test]
fn tap_conforms() {
    if inside("conformance::tap_conforms") {
        let open = |options: &OpenOptions| bridged(options, |end| format!("tap:{end}"));
        conforms(&Kind { open, several: true, closes: true, waits: false, jumbo: true, notices: true });
    }
}

#[test]
fn packet_conforms() {
    if inside("conformance::packet_conforms") {
        let open = |options: &OpenOptions| veth(options, |end| format!("packet:{end}"));
        conforms(&Kind { open, several: true, closes: true, waits: false, jumbo: true, notices: true });
    }
}

#[test]
fn xdp_conforms() {
    if inside_as_root("conformance::xdp_conforms") {
        let open = |options: &OpenOptions| veth(options, |end| format!("xdp:{end}"));
        conforms(&Kind { open, several: true, closes: true, waits: false, jumbo: true, notices: true });
    }
}

#[cfg(feature = "dpdk")]
mod dpdk {
    use super::super::dpdk::NO_HUGE;
    use super::*;
    use ntytcp::device::dpdk::start;

    /// DPDK's names of virtual devices begin with their driver's, and each is taken once at a time.
    fn vdev(driver: &str, options: &str) -> String {
        format!("dpdk:{driver}_{},{options} {NO_HUGE}", name())
    }

    /// Two virtual devices that meet at a socket.
    fn meet(options: &OpenOptions, [left, right]: [(&str, &str); 2]) -> Ends {
        let socket = std::env::temp_dir().join(format!("{}.sock", name())).display().to_string();
        let open = |(driver, arguments): (&str, &str)| {
            spec::open(&vdev(driver, &arguments.replace("PATH", &socket)), options).unwrap()
        };
        let (left, right) = (open(left), open(right));
        Ends { right, left, interface: None }
    }

    fn ring(options: &OpenOptions) -> Ends {
        let (left, right) = dpdk_sys::wire(start(NO_HUGE).unwrap(), &name(), 256).unwrap();
        let open = |port: String| spec::open(&format!("dpdk:{port}"), options).unwrap();
        let (left, right) = (open(left), open(right));
        Ends { right, left, interface: None }
    }

    #[test]
    fn ring_conforms() {
        if inside("conformance::dpdk::ring_conforms") {
            conforms(&Kind {
                open: ring,
                several: true,
                closes: true,
                waits: true,
                jumbo: true,
                notices: false,
            });
        }
    }

    #[test]
    fn virtio_conforms() {
        if inside("conformance::dpdk::virtio_conforms") {
            const ENDS: [(&str, &str); 2] =
                [("net_vhost", "iface=PATH,tso=1"), ("net_virtio_user", "path=PATH,mrg_rxbuf=1")];
            let open = |options: &OpenOptions| meet(options, ENDS);
            conforms(&Kind { open, several: false, closes: true, waits: true, jumbo: true, notices: false });
        }
    }

    #[test]
    fn memif_conforms() {
        if inside("conformance::dpdk::memif_conforms") {
            const ENDS: [(&str, &str); 2] = [
                ("net_memif", "role=server,socket=PATH,socket-abstract=no"),
                ("net_memif", "role=client,socket=PATH,socket-abstract=no"),
            ];
            let open = |options: &OpenOptions| meet(options, ENDS);
            conforms(&Kind {
                open,
                several: false,
                closes: false,
                waits: true,
                jumbo: false,
                notices: false,
            });
        }
    }

    #[test]
    fn packet_socket_conforms() {
        if inside("conformance::dpdk::packet_socket_conforms") {
            let open =
                |options: &OpenOptions| veth(options, |end| vdev("net_af_packet", &format!("iface={end}")));
            conforms(&Kind { open, several: true, closes: true, waits: false, jumbo: false, notices: true });
        }
    }

    #[test]
    fn xdp_conforms() {
        if inside_as_root("conformance::dpdk::xdp_conforms") {
            let open =
                |options: &OpenOptions| veth(options, |end| vdev("net_af_xdp", &format!("iface={end}")));
            conforms(&Kind { open, several: false, closes: true, waits: false, jumbo: false, notices: true });
        }
    }

    #[test]
    fn tap_conforms() {
        if inside("conformance::dpdk::tap_conforms") {
            let open =
                |options: &OpenOptions| bridged(options, |end| vdev("net_tap", &format!("iface={end}")));
            conforms(&Kind { open, several: true, closes: true, waits: false, jumbo: false, notices: false });
        }
    }
}
