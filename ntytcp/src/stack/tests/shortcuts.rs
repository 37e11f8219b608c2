//! Two hosts of one seed get the same frames, one by the short ways for what is plain and foreseen, the other without: nobody can
//! tell them apart, from outside or from within.

mod steady;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;

use super::kit::*;
use crate::counters::DropReason;
use crate::device::{RxChecksum, RxFrame, RxMeta, TxMeta, Verdict};
use crate::fifo::Producer;
use crate::stack::{Event, Responder, SocketId};
use crate::tcp::ListenOptions;
use crate::time::Duration;
use crate::wire::{
    EtherType, EthernetHeader, Icmpv4Message, IpProtocol, Ipv4Header, MacAddr, Seq, TcpFlags, TcpHeader,
    TcpOptions, Timestamps, VlanTag, VlanTags,
};
use core::net::{Ipv4Addr, SocketAddr};

/// How many connections there are. The second has timestamps.
const CONNS: usize = 3;

/// Answers with the request and what is its length, and not at all to an empty one.
struct Mirror;

impl Responder for Mirror {
    fn respond(&mut self, _: SocketAddr, _: &mut [u8], len: usize) -> Option<usize> {
        if len % 7 == 3 {
            // Sometimes more than fits.
            return Some(1_900);
        }
        (len > 0).then_some(len)
    }
}

/// What a frame is made of.
#[derive(Clone, Debug)]
enum Content {
    /// A segment for a connection, so far from what is expected.
    Segment {
        conn: usize,
        seq: i32,
        ack: i32,
        flags: TcpFlags,
        window: u16,
        text: usize,
        age: u32,
    },
    /// The first segment of a new connection.
    Syn(u16),
    Datagram(u16, usize),
    Fragment(u16, bool, usize),
    Ping(usize),
    Arp,
}

/// What is unusual about a frame; the default is nothing.
#[derive(Clone, Debug, Default)]
struct Oddities {
    options: Vec<u8>,
    src: Option<Ipv4Addr>,
    dst: Option<Ipv4Addr>,
    station: Option<MacAddr>,
    vlan: Option<u16>,
    padding: usize,
    corrupted: Option<(Index, u8)>,
    cut: Option<Index>,
    meta: RxMeta,
}

#[derive(Clone, Debug)]
enum Step {
    Frame(Content, Oddities),
    Send(usize, usize),
    Read(usize, usize),
    /// The application lets go of its end of what arrives.
    Deafen(usize),
    Close(usize),
    Shutdown(usize),
    Egress(usize),
    Pass(u64),
}

/// The peer's side of a connection, as far as it is known.
struct Peer {
    port: u16,
    timestamps: bool,
    socket: SocketId,
    nxt: Seq,
    /// The end of what the host has sent.
    heard: Seq,
}

/// Takes a burst of frames at one of the hosts.
type Take = fn(&mut Host, &mut [RxFrame<'_>]);

/// Every frame by itself, none by a short way.
fn without_shortcuts(host: &mut Host, frames: &mut [RxFrame<'_>]) {
    for frame in frames {
        host.stack.counters.rx_frames += 1;
        host.stack.counters.rx_bytes += frame.len() as u64;
        frame.verdict = host.stack.receive_any(host.now, host.id, frame);
        match frame.verdict {
            Verdict::Reply(_) => {
                host.stack.counters.tx_frames += 1;
                host.stack.counters.tx_bytes += frame.len() as u64;
            }
            Verdict::Drop(reason) => host.stack.counters.drop(reason),
            Verdict::Done => {}
        }
    }
}

fn one_by_one(host: &mut Host, frames: &mut [RxFrame<'_>]) {
    for frame in frames {
        frame.verdict = host.stack.ingress(host.now, host.id, frame);
    }
}

fn as_a_burst(host: &mut Host, frames: &mut [RxFrame<'_>]) {
    host.stack.ingress_burst(host.now, host.id, frames);
}

/// How far two hosts must be alike.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alike {
    /// In all they do and are.
    Within,
    /// In all they do: who settles a connection later finds it with fewer pages when they ran out.
    Outside,
    /// In all they do but for the order of what they send and tell: who settles later comes later.
    InSomeOrder,
}

/// Two hosts that must not differ.
struct Twins {
    hosts: [Host; 2],
    take: [Take; 2],
    /// The UDP sockets, which have the same names on both.
    datagrams: [SocketId; 3],
    peers: Vec<Peer>,
    deaf: [Vec<Producer>; 2],
    clock: u32,
    alike: Alike,
}

impl Twins {
    fn new(take: [Take; 2], alike: Alike, pages: usize) -> Self {
        let mut datagrams = None;
        let hosts = [0, 1].map(|_| {
            let mut host = Host::with_pages(pages);
            let plain = host.stack.udp_bind(at(US, 7)).unwrap();
            let connected = host.stack.udp_bind(at(US, 8)).unwrap();
            host.stack.udp_connect(connected, Some(at(PEER, 1))).unwrap();
            let mirror = host.stack.udp_bind(at(US, 9)).unwrap();
            host.stack.udp_set_responder(mirror, Some(Box::new(Mirror))).unwrap();
            host.stack.echo_open().unwrap();
            datagrams = Some([plain, connected, mirror]);
            host
        });
        let datagrams = datagrams.unwrap();
        let deaf = [Vec::new(), Vec::new()];
        let mut twins = Self { hosts, take, datagrams, peers: Vec::new(), deaf, clock: 9, alike };
        let listeners = twins.both(|h| h.stack.tcp_listen(at(US, 80), ListenOptions::default()).unwrap());
        for conn in 0..CONNS {
            twins.open(listeners, conn as u16 + 1_000, conn == 1);
        }
        twins
    }

    /// Does the same to both, with the same result.
    fn both<T: PartialEq + core::fmt::Debug>(&mut self, mut act: impl FnMut(&mut Host) -> T) -> T {
        let [a, b] = self.hosts.each_mut().map(&mut act);
        assert_eq!(a, b);
        a
    }

    /// A connection from `port`, accepted.
    fn open(&mut self, listener: SocketId, port: u16, timestamps: bool) {
        let heard = self.ask(port, timestamps);
        let header = self.header((port, timestamps), Seq(1), heard, TcpFlags::ACK);
        let ack = segment(&header, &[], &Oddities::default());
        self.exchange(&[(ack, RxMeta::default())]);
        let socket = self.both(|host| host.stack.tcp_accept(host.now, listener).unwrap().0);
        self.peers.push(Peer { port, timestamps, socket, nxt: Seq(1), heard });
    }

    /// Sends a SYN, and answers what its answer is to be acknowledged with.
    fn ask(&mut self, port: u16, timestamps: bool) -> Seq {
        let header = self.header((port, timestamps), Seq(0), Seq(0), TcpFlags::SYN);
        let syn = segment(&header, &[], &Oddities::default());
        let (_, answer) = self.exchange(&[(syn, RxMeta::default())]).remove(0);
        TcpHeader::parse(parse_ip(&answer).1).unwrap().0.seq + 1
    }

    fn header(&self, (port, timestamps): (u16, bool), seq: Seq, ack: Seq, flags: TcpFlags) -> TcpHeader {
        let timestamps = timestamps.then_some(Timestamps { value: self.clock, echo: 0 });
        TcpHeader {
            src_port: port,
            dst_port: 80,
            seq,
            ack,
            flags,
            window: 65_535,
            checksum: 0,
            urgent: 0,
            options: TcpOptions { timestamps, ..TcpOptions::NONE },
        }
    }

    /// The frame of a step, and the connection that it is as foreseen for, with the length of its text.
    fn frame(&mut self, content: &Content, odd: &Oddities) -> Vec<u8> {
        self.clock += 1;
        let (protocol, payload) = match content {
            &Content::Segment { conn, seq, ack, flags, window, text, age } => {
                let peer = &self.peers[conn];
                let (seq_at, heard) = (peer.nxt + seq as u32, peer.heard + ack as u32);
                let mut header = self.header((peer.port, peer.timestamps), seq_at, heard, flags);
                header.window = window;
                if let Some(ts) = &mut header.options.timestamps {
                    ts.value = ts.value.wrapping_sub(age);
                }
                if seq == 0 && odd.is_none() {
                    self.peers[conn].nxt += text as u32 + u32::from(flags.contains(TcpFlags::FIN));
                }
                return segment(&header, &pattern(text), odd);
            }
            &Content::Syn(port) => {
                let header = self.header((port, port % 2 == 0), Seq(0), Seq(0), TcpFlags::SYN);
                return segment(&header, &[], odd);
            }
            &Content::Datagram(port, len) => {
                (IpProtocol::UDP, udp_bytes(odd.src(), odd.dst(), 1, port, &pattern(len)))
            }
            &Content::Fragment(offset, more, len) => {
                let mut ip = odd.ip(IpProtocol::UDP);
                (ip.fragment_offset, ip.more_fragments) = (offset, more);
                return odd.finish(packet(ip, &pattern(len)));
            }
            &Content::Ping(len) => {
                let message = Icmpv4Message::EchoRequest { ident: 1, seq: 2, payload: &pattern(len) };
                let mut bytes = vec![0; message.len()];
                message.emit(&mut bytes).unwrap();
                (IpProtocol::ICMP, bytes)
            }
            Content::Arp => {
                let target = odd.dst.unwrap_or(US);
                return odd.finish(arp(crate::wire::ArpOperation::Request, (PEER_MAC, PEER), target));
            }
        };
        odd.finish(packet(odd.ip(protocol), &payload))
    }

    /// Gives both the frames, and answers what became of them.
    fn exchange(&mut self, frames: &[(Vec<u8>, RxMeta)]) -> Vec<(Verdict, Vec<u8>)> {
        let take = self.take;
        let results = [0, 1].map(|i| {
            let mut bufs: Vec<Vec<u8>> = frames.iter().map(|(frame, _)| in_a_buffer(frame)).collect();
            let mut burst: Vec<RxFrame<'_>> = bufs
                .iter_mut()
                .zip(frames)
                .map(|(buf, (frame, meta))| RxFrame::new(buf, 64, frame.len(), *meta))
                .collect();
            take[i](&mut self.hosts[i], &mut burst);
            // Only a reply says something by its bytes.
            let said = |frame: &RxFrame<'_>| match frame.verdict {
                Verdict::Reply(_) => frame.bytes().to_vec(),
                Verdict::Done | Verdict::Drop(_) => Vec::new(),
            };
            burst.iter().map(|frame| (frame.verdict, said(frame))).collect::<Vec<_>>()
        });
        let [a, b] = results;
        assert_eq!(a, b);
        a
    }

    fn egress(&mut self, room: usize) {
        let ordered = self.alike != Alike::InSomeOrder;
        let mut sent = self.both(|host| {
            let _ = host.egress_some(room);
            let mut sent: Vec<(Vec<u8>, TxMeta)> = host.ring.sent.drain(..).collect();
            if !ordered {
                sent.sort_by(|a, b| a.0.cmp(&b.0));
            }
            sent
        });
        for (frame, _) in sent.drain(..) {
            self.hear(&frame);
        }
    }

    /// What the peer learns from a frame.
    fn hear(&mut self, frame: &[u8]) {
        let Ok((link, packet)) = EthernetHeader::parse(frame) else { return };
        if link.ethertype != EtherType::IPV4 {
            return;
        }
        let (ip, bytes) = Ipv4Header::parse(packet).unwrap();
        if ip.protocol != IpProtocol::TCP {
            return;
        }
        assert!(TcpHeader::verify(ip.src.into(), ip.dst.into(), bytes));
        let (header, text) = TcpHeader::parse(bytes).unwrap();
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.port == header.dst_port) {
            let end = header.seq + text.len() as u32 + u32::from(header.flags.contains(TcpFlags::FIN));
            peer.heard = peer.heard.max(end);
        }
    }

    /// Everything that can be told of the hosts.
    fn compare(&mut self) {
        let ordered = self.alike != Alike::InSomeOrder;
        self.both(|host| {
            let mut events: Vec<Event> = core::iter::from_fn(|| host.stack.poll_event()).collect();
            if !ordered {
                events.sort_by_key(|event| format!("{event:?}"));
            }
            events
        });
        self.both(|host| {
            let counters = host.stack.counters().events().filter(|(name, _)| *name != "tcp_fast_path");
            let drops = DropReason::ALL.iter().map(|reason| host.stack.counters().dropped(*reason));
            (counters.collect::<Vec<_>>(), drops.collect::<Vec<_>>())
        });
        self.both(|host| host.stack.pages_in_use());
        let datagrams = self.datagrams;
        self.both(|host| datagrams.map(|id| host.stack.udp_stats(id).unwrap()));
        let sockets: Vec<SocketId> = self.peers.iter().map(|peer| peer.socket).collect();
        self.both(|host| sockets.iter().map(|&id| host.stack.tcp_info(id)).collect::<Vec<_>>());
        if self.alike == Alike::Within {
            // A delayed ACK that the next frame of a burst makes due at once is awaited by who settles in between.
            self.both(|host| host.stack.next_deadline());
            let [one, other] = self.hosts.each_ref().map(|host| format!("{:#?}", host.stack.tcp));
            let differ = |(one, other): &(&str, &str)| one != other;
            let different: Vec<_> = one.lines().zip(other.lines()).filter(differ).collect();
            assert!(one == other, "{different:?}");
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Frame(ref content, ref odd) => {
                let frame = self.frame(content, odd);
                self.exchange(&[(frame, odd.meta)]);
            }
            Step::Send(conn, len) => {
                let socket = self.peers[conn].socket;
                let _same = self.both(|host| host.stack.tcp_send(host.now, socket, &pattern(len)));
            }
            Step::Read(conn, len) => {
                let socket = self.peers[conn].socket;
                let _same = self.both(|host| {
                    let mut buf = vec![0; len];
                    (host.stack.tcp_recv(host.now, socket, &mut buf), buf)
                });
            }
            Step::Deafen(conn) => {
                let socket = self.peers[conn].socket;
                for (host, kept) in self.hosts.iter_mut().zip(&mut self.deaf) {
                    kept.extend(host.stack.tcp_split(socket).map(|(producer, _)| producer));
                }
            }
            Step::Close(conn) => {
                let socket = self.peers[conn].socket;
                let _same = self.both(|host| host.stack.tcp_close(host.now, socket));
            }
            Step::Shutdown(conn) => {
                let socket = self.peers[conn].socket;
                let _same = self.both(|host| host.stack.tcp_shutdown(host.now, socket));
            }
            // Whose turn comes first decides who gets the room.
            Step::Egress(_) if self.alike == Alike::InSomeOrder => self.egress(usize::MAX),
            Step::Egress(room) => self.egress(room),
            Step::Pass(ms) => {
                self.both(|host| {
                    host.now += Duration::from_millis(ms);
                    host.stack.on_timeout(host.now);
                });
            }
        }
    }
}

impl Oddities {
    /// Whether the frame comes as its sender meant it.
    fn is_none(&self) -> bool {
        let Self { options, src, dst, station, vlan, padding: _, corrupted, cut, meta } = self;
        options.is_empty()
            && (src, dst, station, vlan) == (&None, &None, &None, &None)
            && corrupted.is_none()
            && cut.is_none()
            && meta.vlan.is_none()
    }

    fn src(&self) -> Ipv4Addr {
        self.src.unwrap_or(PEER)
    }

    fn dst(&self) -> Ipv4Addr {
        self.dst.unwrap_or(US)
    }

    fn ip(&self, protocol: IpProtocol) -> Ipv4Header<'_> {
        Ipv4Header { src: self.src(), options: &self.options, ..header(self.dst(), protocol, 0) }
    }

    /// Does to a frame what is wrong with it.
    fn finish(&self, mut frame: Vec<u8>) -> Vec<u8> {
        if self.station.is_some() || self.vlan.is_some() {
            let (link, payload) = EthernetHeader::parse(&frame).unwrap();
            let vlan = self.vlan.map_or(VlanTags::NONE, |vid| VlanTags::single(VlanTag::new(vid)));
            let link = EthernetHeader { dst: self.station.unwrap_or(link.dst), vlan, ..link };
            let mut changed = vec![0; link.len()];
            link.emit(&mut changed).unwrap();
            changed.extend_from_slice(payload);
            frame = changed;
        }
        frame.resize(frame.len() + self.padding, 0x77);
        if let Some((at, bits)) = &self.corrupted {
            // In the headers, rather than somewhere in the text.
            let len = frame.len().min(90);
            frame[at.index(len)] ^= *bits;
        }
        if let Some(cut) = &self.cut {
            frame.truncate(cut.index(frame.len() + 1));
        }
        frame
    }
}

fn in_a_buffer(frame: &[u8]) -> Vec<u8> {
    let mut buf = vec![0x5a; 64 + frame.len().max(2_000)];
    buf[64..64 + frame.len()].copy_from_slice(frame);
    buf
}

fn segment(header: &TcpHeader, text: &[u8], odd: &Oddities) -> Vec<u8> {
    let mut bytes = vec![0; header.header_len()];
    header.emit(&mut bytes).unwrap();
    bytes.extend_from_slice(text);
    TcpHeader::fill_checksum(odd.src().into(), odd.dst().into(), &mut bytes).unwrap();
    odd.finish(packet(odd.ip(IpProtocol::TCP), &bytes))
}

fn content() -> impl Strategy<Value = Content> {
    let flags = prop_oneof![
        8 => Just(TcpFlags::ACK),
        4 => Just(TcpFlags::ACK | TcpFlags::PSH),
        2 => Just(TcpFlags::ACK | TcpFlags::FIN),
        1 => Just(TcpFlags::RST),
        1 => Just(TcpFlags::ACK | TcpFlags::URG),
        1 => any::<u8>().prop_map(TcpFlags::from_bits_retain),
    ];
    let seq = prop_oneof![8 => Just(0), 1 => -1_600..1_600, 1 => any::<i32>()];
    let ack = prop_oneof![6 => Just(0), 3 => -3_000..1, 1 => any::<i32>()];
    let window = prop_oneof![4 => Just(65_535u16), 1 => Just(0), 2 => any::<u16>()];
    let text = prop_oneof![2 => Just(0usize), 3 => 1usize..100, 2 => Just(1_448), 1 => 0usize..1_600];
    let age = prop_oneof![9 => Just(0u32), 1 => 0u32..20];
    let segment = (0..CONNS, seq, ack, flags, window, text, age).prop_map(
        |(conn, seq, ack, flags, window, text, age)| Content::Segment {
            conn,
            seq,
            ack,
            flags,
            window,
            text,
            age,
        },
    );
    prop_oneof![
        16 => segment,
        1 => (1_010u16..1_014).prop_map(Content::Syn),
        4 => (6u16..11, prop_oneof![0usize..40, 1_300usize..1_500]).prop_map(|(port, len)| Content::Datagram(port, len)),
        1 => (0u16..4, any::<bool>(), 0usize..20).prop_map(|(at, more, len)| Content::Fragment(at * 8, more, len * 8)),
        2 => (0usize..100).prop_map(Content::Ping),
        1 => Just(Content::Arp),
    ]
}

fn oddities() -> impl Strategy<Value = Oddities> {
    let address = prop_oneof![
        Just(Ipv4Addr::UNSPECIFIED),
        Just(Ipv4Addr::BROADCAST),
        Just(Ipv4Addr::LOCALHOST),
        Just(Ipv4Addr::new(10, 0, 0, 255)),
        Just(Ipv4Addr::new(10, 0, 0, 7)),
        Just(Ipv4Addr::new(224, 0, 0, 1)),
        Just(US),
        any::<u32>().prop_map(Ipv4Addr::from_bits),
    ];
    let station = prop_oneof![
        Just(MacAddr::BROADCAST),
        Just(MacAddr([1, 0, 0x5e, 0, 0, 1])),
        any::<[u8; 6]>().prop_map(MacAddr)
    ];
    let options = prop_oneof![
        Just(vec![1, 1, 1, 0]),
        Just(vec![7, 7, 4, 0, 0, 0, 0, 0]),
        Just(vec![131, 7, 4, 1, 2, 3, 4, 0]),
        vec(any::<u8>(), 4)
    ];
    let checksum = prop_oneof![
        Just(RxChecksum::Verified),
        Just(RxChecksum::Partial { start: 34, offset: 16 }),
        Just(RxChecksum::Partial { start: 34, offset: 6 }),
    ];
    let none = Oddities::default;
    let damage = (any::<Index>(), 1u8..=255);
    prop_oneof![
        20 => Just(none()),
        2 => (1usize..40).prop_map(move |padding| Oddities { padding, ..none() }),
        6 => damage.prop_map(move |damage| Oddities { corrupted: Some(damage), ..none() }),
        3 => any::<Index>().prop_map(move |cut| Oddities { cut: Some(cut), ..none() }),
        2 => address.clone().prop_map(move |src| Oddities { src: Some(src), ..none() }),
        2 => address.prop_map(move |dst| Oddities { dst: Some(dst), ..none() }),
        2 => station.prop_map(move |mac| Oddities { station: Some(mac), ..none() }),
        2 => options.prop_map(move |options| Oddities { options, ..none() }),
        1 => (0u16..3).prop_map(move |vid| Oddities { vlan: Some(vid), ..none() }),
        1 => (0u16..3).prop_map(move |vid| {
            Oddities { meta: RxMeta { vlan: Some(vid), ..RxMeta::default() }, ..none() }
        }),
        2 => (checksum, any::<(Index, u8)>()).prop_map(move |(checksum, damage)| {
            Oddities { corrupted: Some(damage), meta: RxMeta { checksum, ..RxMeta::default() }, ..none() }
        }),
        1 => (1u16..1_500).prop_map(move |size| {
            Oddities { meta: RxMeta { gso_size: Some(size), ..RxMeta::default() }, ..none() }
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![1usize..100, 1usize..20_000];
    prop_oneof![
        24 => (content(), oddities()).prop_map(|(content, odd)| Step::Frame(content, odd)),
        4 => (0..CONNS, len.clone()).prop_map(|(conn, len)| Step::Send(conn, len)),
        3 => (0..CONNS, len).prop_map(|(conn, len)| Step::Read(conn, len)),
        6 => prop_oneof![3 => Just(usize::MAX), 1 => 0usize..4].prop_map(Step::Egress),
        3 => prop_oneof![0u64..50, 0u64..2_000].prop_map(Step::Pass),
        2 => prop_oneof![
            1 => (0..CONNS).prop_map(Step::Deafen),
            3 => (0..CONNS).prop_map(Step::Close),
            2 => (0..CONNS).prop_map(Step::Shutdown),
        ],
    ]
}

/// What ends a connection, from both sides in any order, now and then with text, or with an acknowledgment too few.
fn ending() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![2 => Just(TcpFlags::ACK), 3 => Just(TcpFlags::ACK | TcpFlags::FIN)];
    let ack = prop_oneof![5 => Just(0), 1 => Just(-1)];
    let text = prop_oneof![4 => Just(0usize), 1 => 1usize..100];
    let segment = (0..CONNS, ack, flags, text).prop_map(|(conn, ack, flags, text)| {
        let content = Content::Segment { conn, seq: 0, ack, flags, window: 65_535, text, age: 0 };
        Step::Frame(content, Oddities::default())
    });
    prop_oneof![
        4 => segment,
        2 => (0..CONNS).prop_map(Step::Close),
        1 => (0..CONNS).prop_map(Step::Shutdown),
        1 => (0..CONNS, 1usize..5_000).prop_map(|(conn, len)| Step::Send(conn, len)),
        1 => (0..CONNS).prop_map(|conn| Step::Read(conn, 1_000)),
        4 => Just(Step::Egress(usize::MAX)),
        1 => prop_oneof![0u64..50, 0u64..90_000].prop_map(Step::Pass),
    ]
}

/// Few pages make even the paths of exhaustion meet.
fn pages() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(1_000usize), 1 => 4usize..8]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_short_ways_in_do_what_the_long_way_does(steps in vec(step(), 1..60), pages in pages()) {
        let alike = if pages < 100 { Alike::Outside } else { Alike::Within };
        let mut twins = Twins::new([one_by_one, without_shortcuts], alike, pages);
        for step in &steps {
            twins.step(step);
        }
        twins.compare();
        twins.egress(usize::MAX);
        twins.compare();
    }

    #[test]
    fn the_short_ways_to_the_end_of_a_connection_do_what_the_long_way_does(steps in vec(ending(), 1..60)) {
        let mut twins = Twins::new([one_by_one, without_shortcuts], Alike::Within, 1_000);
        for step in &steps {
            twins.step(step);
            twins.compare();
        }
    }

    #[test]
    fn a_burst_does_what_its_frames_do_one_by_one(bursts in vec((vec((content(), oddities()), 1..12), vec(step(), 0..3)), 1..8)) {
        let mut twins = Twins::new([as_a_burst, one_by_one], Alike::InSomeOrder, 1_000);
        for (burst, steps) in &bursts {
            let frames: Vec<_> =
                burst.iter().map(|(content, odd)| (twins.frame(content, odd), odd.meta)).collect();
            twins.exchange(&frames);
            twins.compare();
            steps.iter().for_each(|step| twins.step(step));
        }
        twins.egress(usize::MAX);
        twins.compare();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, rng_seed: RngSeed::Fixed(2), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_run_of_datagrams_does_what_they_do_one_by_one(bursts in vec(datagrams(), 1..12), pages in pages()) {
        for alone in [one_by_one as Take, without_shortcuts] {
            let mut twins = Twins::new([as_a_burst, alone], Alike::Within, pages);
            for burst in &bursts {
                let frames: Vec<_> =
                    burst.iter().map(|(content, odd)| (twins.frame(content, odd), odd.meta)).collect();
                twins.exchange(&frames);
                twins.compare();
            }
            twins.egress(usize::MAX);
            twins.compare();
        }
    }
}

/// Datagrams to one port, and few things else between them; no segments, which a burst settles later.
fn datagrams() -> impl Strategy<Value = Vec<(Content, Oddities)>> {
    let len = || prop_oneof![4 => 0usize..100, 1 => 1_300usize..1_500];
    let odd = || prop_oneof![3 => Just(Oddities::default()), 2 => oddities()];
    (6u16..11).prop_flat_map(move |port| {
        let alike = (len(), odd()).prop_map(move |(len, odd)| (Content::Datagram(port, len), odd));
        let else_ = prop_oneof![
            Just(Content::Arp),
            (0usize..100).prop_map(Content::Ping),
            (6u16..11).prop_map(|port| Content::Datagram(port, 1)),
        ];
        vec(prop_oneof![9 => alike, 1 => (else_, odd())], 1..24)
    })
}

/// A plain segment as foreseen.
fn foreseen(conn: usize, text: usize) -> Step {
    let content =
        Content::Segment { conn, seq: 0, ack: 0, flags: TcpFlags::ACK, window: 65_535, text, age: 0 };
    Step::Frame(content, Oddities::default())
}

fn datagram(port: u16) -> Step {
    Step::Frame(Content::Datagram(port, 0), Oddities::default())
}

#[test]
fn text_for_nobody_is_answered_by_a_reset_though_it_was_foreseen() {
    let mut twins = Twins::new([one_by_one, without_shortcuts], Alike::Within, 1_000);
    [Step::Deafen(0), foreseen(0, 1)].iter().for_each(|step| twins.step(step));
    twins.compare();
    let sent = twins.both(|host| host.egress());
    assert!(TcpHeader::parse(parse_ip(&sent[0]).1).unwrap().0.flags.contains(TcpFlags::RST));
}

#[test]
fn the_page_that_a_foreseen_segment_acknowledges_is_there_for_its_text() {
    let mut twins = Twins::new([one_by_one, without_shortcuts], Alike::Outside, 4);
    // Four pages: of two sockets, of what one connection has yet to send, of what another has sent.
    let send = Step::Send(0, 1);
    let full =
        [datagram(7), Step::Send(2, 537), Step::Egress(9), send, foreseen(2, 0), datagram(8), foreseen(1, 1)];
    full.iter().for_each(|step| twins.step(step));
    [Step::Egress(9), foreseen(0, 1)].iter().for_each(|step| twins.step(step));
    assert_eq!(twins.both(|host| host.dropped(DropReason::SocketFull)), 1);
    twins.step(&foreseen(2, 1));
    assert_eq!(twins.both(|host| host.dropped(DropReason::SocketFull)), 1);
}

#[test]
fn a_slot_that_changes_hands_within_a_burst_is_looked_after_for_both() {
    for take in [one_by_one as Take, without_shortcuts] {
        let mut twins = Twins::new([as_a_burst, take], Alike::InSomeOrder, 1_000);
        // One connection was closed: its slot is free as soon as the peer resets it.
        let gone = twins.peers[1].socket;
        let _same = twins.both(|host| host.stack.tcp_close(host.now, gone));
        twins.egress(usize::MAX);
        let heard = twins.ask(2_000, false);
        let none = Oddities::default();
        let text = |conn, text| Content::Segment {
            conn,
            seq: 0,
            ack: 0,
            flags: TcpFlags::ACK,
            window: 9_000,
            text,
            age: 0,
        };
        let reset = |conn| Content::Segment {
            conn,
            seq: 0,
            ack: 0,
            flags: TcpFlags::RST | TcpFlags::ACK,
            window: 0,
            text: 0,
            age: 0,
        };
        let confirm = twins.header((2_000, false), Seq(1), heard, TcpFlags::ACK);
        let frames = [
            twins.frame(&text(0, 10), &none),
            twins.frame(&reset(1), &none),
            segment(&confirm, &[], &none),
            segment(&confirm, &pattern(100), &none),
            twins.frame(&text(0, 20), &none),
            twins.frame(&text(2, 1_448), &none),
            twins.frame(&text(2, 1_448), &none),
            twins.frame(&reset(2), &none),
            twins.frame(&text(0, 30), &none),
        ];
        let burst: Vec<_> = frames.into_iter().map(|frame| (frame, RxMeta::default())).collect();
        let verdicts = twins.exchange(&burst);
        assert!(verdicts.iter().all(|(verdict, _)| *verdict == Verdict::Done), "{verdicts:?}");
        twins.compare();
        // All that arrived is there, and is acknowledged once the delay is over.
        let (first, reset) = (twins.peers[0].socket, twins.peers[2].socket);
        assert_eq!(twins.both(|host| host.stack.tcp_recv(host.now, first, &mut [0; 100])), Ok(60));
        assert_eq!(twins.both(|host| host.stack.tcp_recv(host.now, reset, &mut [0; 9_000])), Ok(2_896));
        twins.step(&Step::Pass(40));
        let sent = twins.both(|host| {
            let mut ports: Vec<u16> =
                host.egress().iter().map(|f| TcpHeader::parse(parse_ip(f).1).unwrap().0.dst_port).collect();
            ports.sort_unstable();
            ports
        });
        assert_eq!(sent, [1_000, 2_000]);
    }
}
