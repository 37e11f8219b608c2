//! [`Steering`] as a program of the kernel, which then chooses the queue for each frame of a flow, and fragments by their addresses.
//!
//! The hash is linear: each byte of addresses and ports adds something of its own, which a table tells. Of the sum only the low
//! seven bits matter, so an entry is one byte.
//!
//! ```text
//!   the value of the map:   | 256 bytes for byte 0 of the input | .. for byte 35 | 128 queues |
//!
//!   R6 packet   R7 where the header is that is being read   R8 the value   R9 the hash so far
//! ```
//!
//! The answer is 0 for what no flow can be read from, and for what has no ports and is no fragment: an ICMP error is to be handed over by who
//! receives it.

use core::net::{IpAddr, Ipv6Addr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::{Assembler, Label, MapKind, Op, ProgramKind, Reg, Size, When, create_map, load, update_map};
use crate::steering::Steering;
use crate::wire::{EtherType, IpProtocol, Ipv6Header, MAX_EXTENSIONS};

/// Bytes of input at most: two IPv6 addresses and two ports.
const INPUT: usize = 36;
/// Where the queues are in the value.
const QUEUES: usize = INPUT * 256;

/// Where the packet starts for the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Start {
    /// With the Ethernet header: where a TAP chooses.
    Ethernet,
    /// Behind it: where a group of packet sockets chooses.
    Network,
}

/// Loads the program; its answer is the number of the queue.
///
/// # Errors
/// `EPERM` without CAP_BPF, or what an old kernel finds wrong with it.
pub(in super::super) fn load_steering(steering: &Steering, start: Start) -> io::Result<OwnedFd> {
    let value = value(steering);
    let map = create_map(MapKind::Array, value.len() as u32, 1)?;
    update_map(map.as_fd(), 0, &value)?;
    let mut asm = Assembler::default();
    let mut program = Program { none: asm.label(), asm };
    program.asm.register(Op::Move, Reg::R6, Reg::R1);
    program.asm.load_value(Reg::R8, map.as_fd());
    program.asm.constant(Op::Move, Reg::R9, 0);
    program.ethertype(start);
    program.asm.place(program.none);
    program.asm.constant(Op::Move, Reg::R0, 0);
    program.asm.exit();
    load(ProgramKind::SocketFilter, &program.asm.finish(), 0)
}

fn value(steering: &Steering) -> Vec<u8> {
    let add = |at: usize, byte: u8| {
        let mut input = [0; INPUT];
        if let Some(place) = input.get_mut(at) {
            *place = byte;
        }
        let (addresses, ports) = input.split_at(32);
        let addr = |at: usize| {
            let bytes = addresses.get(at..).and_then(|rest| rest.first_chunk::<16>());
            IpAddr::from(bytes.map_or(Ipv6Addr::UNSPECIFIED, |bytes| Ipv6Addr::from(*bytes)))
        };
        let port = |at: usize| {
            ports.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |p| u16::from_be_bytes(*p))
        };
        (steering.hash(addr(0), addr(16), Some((port(0), port(2)))) % Steering::TABLE_LEN as u32) as u8
    };
    let rows = (0..INPUT).flat_map(|at| (0..=255).map(move |byte| add(at, byte)));
    rows.chain(steering.table().iter().map(|&queue| queue as u8)).collect()
}

struct Program {
    asm: Assembler,
    /// Where the answer is 0.
    none: Label,
}

impl Program {
    /// Finds the type of the packet, behind two tags at most.
    fn ethertype(&mut self, start: Start) {
        let asm = &mut self.asm;
        match start {
            Start::Ethernet => {
                asm.constant(Op::Move, Reg::R7, 14);
                asm.load_packet(Size::Half, Reg::R7, -2);
            }
            Start::Network => {
                /// Where `__sk_buff` has the protocol.
                const PROTOCOL: i16 = 16;
                asm.constant(Op::Move, Reg::R7, 0);
                asm.load(Size::Word, Reg::R0, Reg::R6, PROTOCOL);
                asm.half_from_network(Reg::R0);
            }
        }
        let untagged = asm.label();
        for _ in 0..2 {
            let tagged = asm.label();
            asm.jump_when(When::Equal, Reg::R0, EtherType::VLAN.0.into(), tagged);
            asm.jump_when(When::Different, Reg::R0, EtherType::QINQ.0.into(), untagged);
            asm.place(tagged);
            asm.load_packet(Size::Half, Reg::R7, 2);
            asm.constant(Op::Add, Reg::R7, 4);
        }
        asm.place(untagged);
        let (v4, v6) = (asm.label(), asm.label());
        asm.jump_when(When::Equal, Reg::R0, EtherType::IPV4.0.into(), v4);
        asm.jump_when(When::Equal, Reg::R0, EtherType::IPV6.0.into(), v6);
        asm.jump(self.none);
        self.ipv4(v4);
        self.ipv6(v6);
    }

    fn ipv4(&mut self, here: Label) {
        self.asm.place(here);
        self.hash(2, 12, 0);
        let none = self.none;
        let asm = &mut self.asm;
        let (flow, long, answer) = (asm.label(), asm.label(), asm.label());
        asm.load_packet(Size::Half, Reg::R7, 6);
        asm.jump_when(When::AnyBit, Reg::R0, 0x3fff, answer);
        asm.load_packet(Size::Byte, Reg::R7, 9);
        asm.jump_when(When::Equal, Reg::R0, IpProtocol::TCP.0.into(), flow);
        asm.jump_when(When::Different, Reg::R0, IpProtocol::UDP.0.into(), none);
        asm.place(flow);
        // The header's length, which is never less than 20.
        asm.load_packet(Size::Byte, Reg::R7, 0);
        asm.constant(Op::And, Reg::R0, 15);
        asm.constant(Op::ShiftLeft, Reg::R0, 2);
        asm.jump_when(When::AtLeast, Reg::R0, 20, long);
        asm.constant(Op::Move, Reg::R0, 20);
        asm.place(long);
        asm.register(Op::Add, Reg::R7, Reg::R0);
        self.hash(1, 0, 8);
        self.answer(answer);
    }

    fn ipv6(&mut self, here: Label) {
        self.asm.place(here);
        self.hash(8, 8, 0);
        let (flow, answer) = (self.asm.label(), self.asm.label());
        self.asm.load_packet(Size::Byte, Reg::R7, 6);
        self.asm.constant(Op::Add, Reg::R7, Ipv6Header::LEN as i32);
        for _ in 0..=MAX_EXTENSIONS {
            self.extension(flow, answer);
        }
        self.asm.jump(self.none);
        self.asm.place(flow);
        self.hash(1, 0, 32);
        self.answer(answer);
    }

    /// With a protocol in `R0`: walks over the extension header that it is, or leaves.
    fn extension(&mut self, flow: Label, answer: Label) {
        let none = self.none;
        let asm = &mut self.asm;
        let (options, fragment, next) = (asm.label(), asm.label(), asm.label());
        asm.jump_when(When::Equal, Reg::R0, IpProtocol::TCP.0.into(), flow);
        asm.jump_when(When::Equal, Reg::R0, IpProtocol::UDP.0.into(), flow);
        for protocol in [IpProtocol::HOP_BY_HOP, IpProtocol::IPV6_DEST_OPTIONS, IpProtocol::IPV6_ROUTING] {
            asm.jump_when(When::Equal, Reg::R0, protocol.0.into(), options);
        }
        asm.jump_when(When::Equal, Reg::R0, IpProtocol::IPV6_FRAGMENT.0.into(), fragment);
        asm.jump_when(When::Different, Reg::R0, IpProtocol::AH.0.into(), none);
        // The length is in units of four bytes, minus two.
        skip_header(asm, 2);
        asm.jump(next);
        // The length is in units of eight bytes, minus one.
        asm.place(options);
        skip_header(asm, 3);
        asm.jump(next);
        // Next header, a reserved byte, and the offset with a bit that says that more follow: both zero if the packet is whole.
        asm.place(fragment);
        asm.load_packet(Size::Word, Reg::R7, 0);
        asm.jump_when(When::AnyBit, Reg::R0, 0xfff9, answer);
        asm.constant(Op::ShiftRight, Reg::R0, 24);
        asm.constant(Op::Add, Reg::R7, 8);
        asm.place(next);
    }

    /// Adds so many words of the packet, which are the input from byte `row` on, to the hash.
    fn hash(&mut self, words: i32, at: i32, row: i16) {
        let asm = &mut self.asm;
        let mut row = row * 256;
        for word in 0..words {
            asm.load_packet(Size::Word, Reg::R7, at + 4 * word);
            for shift in [24, 16, 8, 0] {
                asm.register(Op::Move, Reg::R1, Reg::R0);
                if shift > 0 {
                    asm.constant(Op::ShiftRight, Reg::R1, shift);
                }
                asm.constant(Op::And, Reg::R1, 255);
                asm.register(Op::Add, Reg::R1, Reg::R8);
                asm.load(Size::Byte, Reg::R1, Reg::R1, row);
                asm.register(Op::Xor, Reg::R9, Reg::R1);
                row += 256;
            }
        }
    }

    /// Ends with the queue of the hash.
    fn answer(&mut self, here: Label) {
        let asm = &mut self.asm;
        asm.place(here);
        asm.constant(Op::And, Reg::R9, Steering::TABLE_LEN as i32 - 1);
        asm.register(Op::Add, Reg::R8, Reg::R9);
        asm.load(Size::Byte, Reg::R0, Reg::R8, QUEUES as i16);
        asm.exit();
    }
}

/// Goes over an extension header that begins with the next header, which is left in `R0`, and its own length beyond eight bytes in units
/// of `1 << shift`.
fn skip_header(asm: &mut Assembler, shift: i32) {
    asm.load_packet(Size::Half, Reg::R7, 0);
    asm.register(Op::Move, Reg::R1, Reg::R0);
    asm.constant(Op::And, Reg::R1, 255);
    asm.constant(Op::ShiftLeft, Reg::R1, shift);
    asm.constant(Op::Add, Reg::R7, 8);
    asm.register(Op::Add, Reg::R7, Reg::R1);
    asm.constant(Op::ShiftRight, Reg::R0, 8);
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};

    use super::super::run;
    use super::*;
    use crate::rng::{Rng, seed_from};

    const SHARDS: usize = 7;

    /// The program for either place, or why there is none.
    struct Kernel {
        steering: Steering,
        programs: [(OwnedFd, Start); 2],
    }

    impl Kernel {
        fn new(test: &str) -> Option<Self> {
            let steering = Steering::new(SHARDS, &mut Rng::new(seed_from(11)));
            let load = |start| load_steering(&steering, start).map(|program| (program, start));
            match (load(Start::Ethernet), load(Start::Network)) {
                (Ok(a), Ok(b)) => Some(Self { steering, programs: [a, b] }),
                (Err(e), _) | (_, Err(e)) if e.kind() == ErrorKind::PermissionDenied => {
                    println!("skipped: {test} needs CAP_BPF");
                    None
                }
                (Err(e), _) | (_, Err(e)) => panic!("the kernel refuses the program: {e}"),
            }
        }

        /// What the programs say of a frame. A run shows a program of this kind the packet without its Ethernet header.
        fn queues(&self, frame: &[u8]) -> [u32; 2] {
            self.programs.each_ref().map(|(program, start)| match start {
                Start::Network => run(program, frame).unwrap(),
                Start::Ethernet => run(program, &[&[0; 14], frame].concat()).unwrap(),
            })
        }

        /// Holds the programs against the steering: the shard.
        #[track_caller]
        fn agrees(&self, frame: &[u8], (src, dst): (IpAddr, IpAddr), ports: Option<(u16, u16)>) -> usize {
            let shard = self.steering.shard_of(self.steering.hash(src, dst, ports));
            assert_eq!(self.queues(frame), [shard as u32; 2], "{frame:02x?}");
            shard
        }
    }

    /// A packet of a flow chosen by chance, TCP or UDP, with its addresses and ports.
    struct Flow {
        packet: Vec<u8>,
        addrs: (IpAddr, IpAddr),
        ports: (u16, u16),
    }

    impl Flow {
        fn v4(rng: &mut Rng) -> Self {
            let (src, dst) = (rng.u32().to_ne_bytes(), rng.u32().to_ne_bytes());
            let ports = (rng.u32() as u16, rng.u32() as u16);
            Self {
                packet: packet(PacketBuilder::ipv4(src, dst, 64), ports, rng),
                addrs: (src.into(), dst.into()),
                ports,
            }
        }

        fn v6(rng: &mut Rng) -> Self {
            let mut addr = || core::array::from_fn::<u8, 16, _>(|_| rng.u32() as u8);
            let (src, dst) = (addr(), addr());
            let ports = (rng.u32() as u16, rng.u32() as u16);
            Self {
                packet: packet(PacketBuilder::ipv6(src, dst, 64), ports, rng),
                addrs: (src.into(), dst.into()),
                ports,
            }
        }

        fn any(rng: &mut Rng) -> Self {
            if rng.u32().is_multiple_of(2) { Self::v4(rng) } else { Self::v6(rng) }
        }
    }

    fn packet(ip: PacketBuilderStep<IpHeaders>, (src, dst): (u16, u16), rng: &mut Rng) -> Vec<u8> {
        let mut packet = Vec::new();
        if rng.u32().is_multiple_of(2) {
            ip.udp(src, dst).write(&mut packet, b"data").unwrap();
        } else {
            ip.tcp(src, dst, 1, 2).write(&mut packet, b"").unwrap();
        }
        packet
    }

    /// The packet behind an Ethernet header with so many tags.
    fn framed(packet: &[u8], tags: usize) -> Vec<u8> {
        let mut frame = vec![2; 12];
        for tpid in [[0x88, 0xa8], [0x81, 0]].iter().skip(2 - tags) {
            frame.extend(tpid);
            frame.extend([0, 7]);
        }
        frame.extend(if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] });
        frame.extend(packet);
        frame
    }

    #[test]
    fn the_kernel_finds_the_home_of_every_flow() {
        let Some(kernel) = Kernel::new("the_kernel_finds_the_home_of_every_flow") else { return };
        let (mut rng, mut count) = (Rng::new(seed_from(5)), [0; SHARDS]);
        for i in 0..6_000 {
            let Flow { packet, addrs, ports } = Flow::any(&mut rng);
            count[kernel.agrees(&framed(&packet, i % 3), addrs, Some(ports))] += 1;
        }
        assert!(count.iter().all(|n| *n > 300), "{count:?}");
    }

    #[test]
    fn fragments_and_options_do_not_lead_astray() {
        let Some(kernel) = Kernel::new("fragments_and_options_do_not_lead_astray") else { return };
        let mut rng = Rng::new(seed_from(6));
        for i in 0..200 {
            let Flow { packet, addrs, ports } = Flow::v4(&mut rng);
            let (mut first, mut later) = (packet.clone(), packet.clone());
            first[6] = 0x20;
            later[7] = 3;
            later[20..24].fill(i as u8);
            kernel.agrees(&framed(&first, 0), addrs, None);
            kernel.agrees(&framed(&later, 0), addrs, None);
            // Forty bytes of options.
            let mut options = packet.clone();
            options[0] = 0x4f;
            options.splice(20..20, [1; 40]);
            kernel.agrees(&framed(&options, 0), addrs, Some(ports));
            // A header that claims to be shorter than any can be.
            let mut short = packet;
            short[0] = 0x42;
            kernel.agrees(&framed(&short, 0), addrs, Some(ports));
        }
    }

    #[test]
    fn extension_headers_are_walked_over() {
        let Some(kernel) = Kernel::new("extension_headers_are_walked_over") else { return };
        let headers: [(u8, &[u8]); 5] = [
            (0, &[0, 0, 1, 4, 0, 0, 0, 0]),
            (43, &[0, 1, 4, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9]),
            (44, &[0, 0, 0, 0, 1, 2, 3, 4]),
            (51, &[0, 4, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]),
            (60, &[0, 2, 1, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ];
        let mut rng = Rng::new(seed_from(7));
        for _ in 0..500 {
            let count = rng.u32() as usize % (MAX_EXTENSIONS + 1);
            let mut chain: Vec<_> = (0..count).map(|_| headers[1 + rng.u32() as usize % 4]).collect();
            if count > 0 && rng.u32().is_multiple_of(2) {
                chain[0] = headers[0];
            }
            let kinds: Vec<u8> = chain.iter().map(|(kind, _)| *kind).chain([17]).collect();
            let upper: Vec<u8> = chain
                .iter()
                .zip(&kinds[1..])
                .flat_map(|((_, header), next)| [&[*next], &header[1..]].concat())
                .chain([1, 2, 3, 4, 0, 8, 0, 0])
                .collect();
            let Flow { mut packet, addrs, .. } = Flow::v6(&mut rng);
            packet.truncate(Ipv6Header::LEN);
            packet[5] = upper.len() as u8;
            packet[6] = kinds[0];
            packet.extend(upper);
            kernel.agrees(&framed(&packet, 0), addrs, Some((0x102, 0x304)));
            if let Some(at) = kinds.iter().position(|kind| *kind == 44) {
                // Where a fragment header is not the only one, what is behind the first fragment is not looked at.
                let before: usize = chain.iter().take(at).map(|(_, header)| header.len()).sum();
                packet[40 + before + 3] = 1;
                kernel.agrees(&framed(&packet, 0), addrs, None);
            }
        }
    }

    #[test]
    fn what_is_no_flow_goes_to_the_first_queue() {
        let Some(kernel) = Kernel::new("what_is_no_flow_goes_to_the_first_queue") else { return };
        let mut rng = Rng::new(seed_from(8));
        for tags in (0..3).cycle().take(300) {
            let Flow { packet, .. } = Flow::any(&mut rng);
            let (protocol, header_len) = if packet[0] == 0x45 { (9, 20) } else { (6, 40) };
            let mut sctp = packet.clone();
            sctp[protocol] = 132;
            assert_eq!(kernel.queues(&framed(&sctp, tags)), [0, 0]);
            let mut arp = framed(&packet, tags);
            arp[12 + 4 * tags..][..2].copy_from_slice(&[8, 6]);
            assert_eq!(kernel.queues(&arp), [0, 0]);
            assert_eq!(kernel.queues(&framed(&packet[..header_len + 2], tags)), [0, 0], "no ports");
        }
    }
}
