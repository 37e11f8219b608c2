//! Namespaces, the host at the other end of the link, and what every device that reaches the kernel must be able to do.
#![allow(unsafe_code)] // One setsockopt that std does not have.
#![allow(clippy::unwrap_used)] // A failed step is a failed test, in helpers too.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ntytcp::device::sys::{PollFd, poll};
use ntytcp::device::{Device, Gso, GsoKind, RxChecksum, RxFrame, RxMeta, TxChecksum, TxMeta, Verdict};
use ntytcp::time::Instant;

pub(crate) const INSIDE: &str = "NTYTCP_DEVICE_TEST_INSIDE";
pub(crate) const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const OURS: [u8; 4] = [10, 9, 8, 2];
pub(crate) const HOST: [u8; 4] = [10, 9, 8, 1];
pub(crate) const UDP: u8 = 17;
pub(crate) const TCP: u8 = 6;

/// Whether this is the copy inside a namespace. Outside: runs the copy, which must succeed, or says why it cannot.
pub(crate) fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let works = |flags: &&str| {
        Command::new("unshare").args([flags, "true"]).output().is_ok_and(|o| o.status.success())
    };
    let Some(flags) = ["-n", "-Urn"].into_iter().find(works) else {
        println!("skipped: {test} needs root or unprivileged user namespaces");
        return false;
    };
    run_copy(Command::new("unshare").arg(flags), test, if flags == "-n" { "root" } else { "user" });
    false
}

/// As [`inside`], for what takes the right to load programs, which no user namespace gives.
pub(crate) fn inside_as_root(test: &str) -> bool {
    let root = inside(test) && std::env::var_os(INSIDE).is_some_and(|who| who == "root");
    if std::env::var_os(INSIDE).is_some() && !root {
        println!("skipped: {test} needs root");
    }
    root
}

/// Runs this test once more behind the command `wrapper`; it must succeed.
pub(crate) fn run_copy(wrapper: &mut Command, test: &str, who: &str) {
    let exe = std::env::current_exe().unwrap();
    let output = wrapper.arg(exe).args(["--exact", test, "--nocapture"]).env(INSIDE, who).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("1 passed"), "{test} names no test");
    text(&output.stdout).lines().filter(|l| l.starts_with("skipped")).for_each(|l| println!("{l}"));
}

/// A name that is free, even if the namespace is shared after all.
pub(crate) fn name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("nty{:x}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(output.status.success(), "ip {args:?}: {output:?}");
}

/// A veth pair: the names of our end and of the host's, which has the host's address.
pub(crate) fn link() -> (String, String) {
    link_with_queues(1)
}

/// A veth pair whose ends have so many queues in each direction.
pub(crate) fn link_with_queues(count: usize) -> (String, String) {
    let (ours, host, count) = (name(), name(), count.to_string());
    let queues = ["numrxqueues", &*count, "numtxqueues", &*count];
    let ends = [&["type", "veth", "peer", "name", &host][..], &queues].concat();
    ip(&[&["link", "add", &ours][..], &queues, &ends].concat());
    ip(&["addr", "add", "10.9.8.1/24", "dev", &host]);
    for end in [&ours, &host] {
        // The kernel has both ends, and would send neighbor discovery over either; where it has no IPv6 there is nothing to forbid.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6"), "1");
        ip(&["link", "set", end, "up"]);
    }
    (ours, host)
}

/// What the kernel counted as received on the interface; `None` when there is none of that name.
pub(crate) fn kernel_rx_packets(name: &str) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/dev").unwrap();
    let line = table.lines().find_map(|l| l.trim().strip_prefix(&format!("{name}:")))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Receives until `done` says so, asleep where the device has a descriptor. Fails after five seconds of silence.
pub(crate) fn receive_until(
    device: &mut dyn Device,
    mut sink: impl FnMut(&mut [RxFrame<'_>]),
    done: impl Fn() -> bool,
) {
    const PATIENCE: Duration = Duration::from_secs(5);
    let (start, mut heard) = (std::time::Instant::now(), std::time::Instant::now());
    while !done() {
        device.set_now(Instant::from_nanos(start.elapsed().as_nanos() as u64));
        let received = device.rx_burst(&mut sink).unwrap();
        device.flush().unwrap();
        if received > 0 {
            heard = std::time::Instant::now();
            continue;
        }
        if !device.arm() {
            continue;
        }
        match device.poll_fd() {
            Some(fd) => {
                let woken = poll(&mut [PollFd::readable(fd)], Some(PATIENCE)).unwrap();
                assert_eq!(woken, 1, "the other end fell silent");
            }
            None => {
                assert!(heard.elapsed() < PATIENCE, "the other end fell silent");
                std::thread::yield_now();
            }
        }
    }
}

/// Answers ARP and hands every other frame to `handle` until that says it is done. Fails after five seconds of silence.
pub(crate) fn serve(device: &mut dyn Device, mut handle: impl FnMut(&mut [u8], RxMeta) -> (bool, Verdict)) {
    let done = Cell::new(false);
    let sink = |burst: &mut [RxFrame<'_>]| {
        for frame in burst {
            let meta = frame.meta;
            if let Some(verdict) = answer_arp(frame.bytes_mut()) {
                frame.verdict = verdict;
            } else {
                let (last, verdict) = handle(frame.bytes_mut(), meta);
                frame.verdict = verdict;
                done.set(done.get() || last);
            }
        }
    };
    receive_until(device, sink, || done.get());
}

/// Rewrites an ARP request for our address into its reply.
pub(crate) fn answer_arp(frame: &mut [u8]) -> Option<Verdict> {
    if frame.len() < 42 || frame[12..14] != [8, 6] || frame[20..22] != [0, 1] || frame[38..42] != OURS {
        return None;
    }
    frame[21] = 2;
    frame.copy_within(22..32, 32);
    frame[22..28].copy_from_slice(&OUR_MAC);
    frame[28..32].copy_from_slice(&OURS);
    frame.copy_within(6..12, 0);
    frame[6..12].copy_from_slice(&OUR_MAC);
    Some(Verdict::Reply(TxMeta::default()))
}

/// Whether the frame is an IPv4 packet of `protocol`.
pub(crate) fn is_ipv4(frame: &[u8], protocol: u8) -> bool {
    frame.len() >= 42 && frame[12..14] == [8, 0] && frame[23] == protocol
}

pub(crate) fn fold(bytes: &[u8]) -> u16 {
    let pair = |c: &[u8]| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0));
    let mut sum: u32 = bytes.chunks(2).map(pair).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// An Ethernet frame from us to the host: IPv4 `protocol` with `segment`, whose checksum at `offset` is left partial.
pub(crate) fn packet(
    host_mac: [u8; 6],
    protocol: u8,
    segment: &[u8],
    offset: usize,
) -> (Vec<u8>, TxChecksum) {
    let len = segment.len() as u16;
    let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ip[2..4].copy_from_slice(&(len + 20).to_be_bytes());
    ip[12..16].copy_from_slice(&OURS);
    ip[16..20].copy_from_slice(&HOST);
    let sum = !fold(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let pseudo = [&OURS[..], &HOST, &[0, protocol], &len.to_be_bytes()].concat();
    let mut frame = [&host_mac[..], &OUR_MAC, &[8, 0], &ip, segment].concat();
    frame[34 + offset..36 + offset].copy_from_slice(&fold(&pseudo).to_be_bytes());
    (frame, TxChecksum::Partial { start: 34, offset: offset as u16 })
}

pub(crate) fn send(device: &mut dyn Device, frame: &[u8], meta: TxMeta) {
    device.reserve(frame.len()).unwrap().copy_from_slice(frame);
    device.commit(meta);
    device.flush().unwrap();
}

/// A socket of the host that sends to us.
pub(crate) fn host_socket() -> UdpSocket {
    let socket = UdpSocket::bind("10.9.8.1:5353").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.connect("10.9.8.2:99").unwrap();
    socket
}

/// Has the kernel cut what is sent at once into datagrams of 1,000 bytes (UDP_SEGMENT), or leave that to the link.
pub(crate) fn send_in_trains(socket: &UdpSocket) {
    let size: libc::c_int = 1000;
    let (level, name) = (libc::SOL_UDP, libc::UDP_SEGMENT);
    // SAFETY: UDP_SEGMENT reads one int, which lives until after the call.
    let rc = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const size).cast(), 4) };
    assert_eq!(rc, 0);
}

/// What a device counted under a name.
pub(crate) fn counted(device: &dyn Device, what: &str) -> u64 {
    device.stats().iter().find(|(name, _)| *name == what).unwrap().1
}

/// Lets the host send us a datagram and answers it: the frame that came, and what was known of it.
pub(crate) fn exchange_datagrams(device: &mut dyn Device) -> (Vec<u8>, RxMeta) {
    let socket = host_socket();
    socket.send(b"hello").unwrap();
    let mut came = None;
    serve(device, |frame, meta| {
        let ours = is_ipv4(frame, UDP) && frame.ends_with(b"hello");
        if ours {
            came = Some((frame.to_vec(), meta));
        }
        (ours, Verdict::Done)
    });
    let (came, meta) = came.unwrap();
    let host_mac = came[6..12].try_into().unwrap();
    let (frame, checksum) = packet(host_mac, UDP, &[0, 99, 20, 233, 0, 11, 0, 0, b'a', b'b', b'c'], 6);
    send(device, &frame, TxMeta { checksum, gso: None });
    let mut buf = [0; 16];
    assert_eq!(socket.recv(&mut buf).unwrap(), 3);
    assert_eq!(&buf[..3], b"abc");
    (came, meta)
}

/// The kernel pings us and gets answers in place.
pub(crate) fn answers_pings_in_place(device: &mut dyn Device) {
    let mut ping =
        Command::new("ping").args(["-q", "-c", "2", "-i", "0.2", "-W", "5", "10.9.8.2"]).spawn().unwrap();
    let mut left = 2;
    serve(device, |frame, _| {
        if !is_ipv4(frame, 1) || frame[34] != 8 {
            return (false, Verdict::Done);
        }
        frame.copy_within(6..12, 0);
        frame[6..12].copy_from_slice(&OUR_MAC);
        frame[26..30].copy_from_slice(&OURS);
        frame[30..34].copy_from_slice(&HOST);
        frame[34] = 0;
        frame[36..38].fill(0);
        let sum = !fold(&frame[34..]);
        frame[36..38].copy_from_slice(&sum.to_be_bytes());
        left -= 1;
        (left == 0, Verdict::Reply(TxMeta::default()))
    });
    assert!(ping.wait().unwrap().success());
}

/// Checksums cross partial, and the kernel counts our frames at its end of the link.
pub(crate) fn passes_partial_checksums(device: &mut dyn Device, end: &str) {
    let before = kernel_rx_packets(end).unwrap();
    let (_, meta) = exchange_datagrams(device);
    assert_eq!(meta.checksum, RxChecksum::Partial { start: 34, offset: 6 });
    assert_eq!(kernel_rx_packets(end), Some(before + 2), "the ARP reply and the datagram");
}

/// Without offload, frames are finished in both directions.
pub(crate) fn finishes_frames_in_software(device: &mut dyn Device) {
    assert_eq!((device.caps().tx_checksum, device.caps().tso_max), (false, 0));
    // The answer is committed with a partial checksum all the same, and the host's socket accepts it.
    let (frame, meta) = exchange_datagrams(device);
    assert_eq!(meta.checksum, RxChecksum::Unknown);
    let pseudo = [&frame[26..34], &[0, UDP], &frame[38..40]].concat();
    assert_eq!(fold(&[&pseudo, &frame[34..]].concat()), 0xffff);
}

/// TCP by hand: enough to accept one connection and to move bytes.
struct Peer {
    host_mac: [u8; 6],
    ports: [u8; 4],
    seq: u32,
    ack: u32,
}

impl Peer {
    /// Answers the SYN in `frame`, with an MSS of 1460 and a window that is to be shifted by 14.
    fn accept(&mut self, device: &mut dyn Device, frame: &[u8]) {
        self.host_mac.copy_from_slice(&frame[6..12]);
        self.ports = [frame[36], frame[37], frame[34], frame[35]];
        self.ack = u32::from_be_bytes(frame[38..42].try_into().unwrap()) + 1;
        self.send(device, 0x12, &[2, 4, 5, 180, 3, 3, 14, 0], b"", None);
        self.seq += 1;
    }

    fn send(&mut self, device: &mut dyn Device, flags: u8, options: &[u8], data: &[u8], gso: Option<Gso>) {
        let header_len = 20 + options.len();
        let mut tcp = self.ports.to_vec();
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([(header_len as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(options);
        tcp.extend(data);
        let (frame, checksum) = packet(self.host_mac, TCP, &tcp, 16);
        send(device, &frame, TxMeta { checksum, gso });
    }
}

/// The payload of a TCP frame.
fn payload(frame: &[u8]) -> &[u8] {
    let len = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    &frame[34 + usize::from(frame[46] >> 4) * 4..14 + len]
}

/// Takes in `len` bytes of the pattern that the host sends over TCP; the length of the longest train.
fn receive_stream(device: &mut dyn Device, peer: &mut Peer, len: usize) -> usize {
    let (mut got, mut longest) = (0, 0);
    while got < len {
        let mut frames = Vec::new();
        serve(device, |frame, meta| {
            let tcp = is_ipv4(frame, TCP);
            if tcp {
                frames.push((frame.to_vec(), meta));
            }
            (tcp, Verdict::Done)
        });
        for (frame, meta) in frames {
            assert_eq!(meta.checksum, RxChecksum::Partial { start: 34, offset: 16 });
            if frame[47] & 2 != 0 {
                peer.accept(device, &frame);
                continue;
            }
            let data = payload(&frame);
            if data.is_empty() || frame[38..42] != peer.ack.to_be_bytes() {
                continue;
            }
            assert!(data.iter().enumerate().all(|(i, &b)| b == ((got + i) % 251) as u8));
            assert_eq!(meta.gso_size, (data.len() > 1460).then_some(1460));
            got += data.len();
            peer.ack += data.len() as u32;
            longest = longest.max(data.len());
            peer.send(device, 0x10, &[], b"", None);
        }
    }
    longest
}

/// TCP trains of 64 KB cross in both directions.
pub(crate) fn passes_trains_of_64_kilobytes(device: &mut dyn Device, end: &str) {
    const SENT: usize = 4 << 20;
    assert_eq!((device.caps().tx_checksum, device.caps().tso_max), (true, 65_535));
    let client = std::thread::spawn(|| {
        let mut stream = TcpStream::connect("10.9.8.2:80").unwrap();
        let data: Vec<u8> = (0..SENT).map(|i| (i % 251) as u8).collect();
        stream.write_all(&data).unwrap();
        let mut got = vec![0; 60_000];
        stream.read_exact(&mut got).unwrap();
        got
    });
    let mut peer = Peer { host_mac: [0; 6], ports: [0; 4], seq: 1000, ack: 0 };
    let longest = receive_stream(device, &mut peer, SENT);
    assert!(longest > 60_000, "the longest train had {longest} bytes");

    let data: Vec<u8> = (0..60_000).map(|i| (i % 241) as u8).collect();
    let before = kernel_rx_packets(end).unwrap();
    let gso = Gso { kind: GsoKind::TcpV4, size: 1460, header_len: 54 };
    peer.send(device, 0x18, &[], &data, Some(gso));
    assert_eq!(client.join().unwrap(), data);
    assert_eq!(kernel_rx_packets(end), Some(before + 1), "one frame for all of it");
}

/// More frames than a slow way out takes at once all arrive at the host, in the device's own time and without anybody calling it for
/// another reason. Whether the way can be made slow here.
pub(crate) fn sends_all_over_a_slow_way(device: &mut dyn Device, (slow, end): (&str, &str)) {
    const FRAMES: u64 = 400;
    let limit = ["rate", "20mbit", "burst", "20k", "limit", "20000000"];
    let shaped = Command::new("tc").args(["qdisc", "add", "dev", slow, "root", "tbf"]).args(limit).output();
    if !shaped.is_ok_and(|output| output.status.success()) {
        println!("skipped: no tc, or no token bucket in this kernel");
        return;
    }
    let (before, start) = (kernel_rx_packets(end).unwrap(), std::time::Instant::now());
    let (mut sent, mut unfinished) = (0, 0);
    while kernel_rx_packets(end).unwrap() < before + FRAMES {
        assert!(start.elapsed() < Duration::from_secs(20), "{sent} frames were given to the device");
        let now = Instant::from_nanos(start.elapsed().as_nanos() as u64);
        device.set_now(now);
        device.rx_burst(&mut |_| {}).unwrap();
        while sent < FRAMES
            && let Some(frame) = device.reserve(1_400)
        {
            // To a station that nobody knows: a bridge passes on the frame itself, and no copy, so that it stays the sender's.
            frame.fill(2);
            frame[6..12].copy_from_slice(&OUR_MAC);
            device.commit(TxMeta::default());
            sent += 1;
        }
        device.flush().unwrap();
        let soon = now + Duration::from_millis(1);
        unfinished += u32::from(device.next_deadline().is_some_and(|at| at <= soon));
        // Whoever has given it everything sleeps until the device says.
        let wake =
            device.next_deadline().filter(|_| sent == FRAMES).unwrap_or(now + Duration::from_millis(1));
        std::thread::sleep(wake.since(now).min(Duration::from_secs(1)));
    }
    assert!(unfinished > 3, "it came back only when all was sent");
}
