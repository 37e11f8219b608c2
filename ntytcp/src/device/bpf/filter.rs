//! [`Ownership`] as a part of an XDP program, which then leaves to the kernel what [`Ownership::owns`] does not name.
//!
//! ```text
//!   R6 context   R7 the header that is being read   R8 its protocol   R9 the end of the packet   R0 .. R3 for the moment
//! ```
//!
//! Addresses and ports are constants of the program: a comparison each, no map. When they change the program is replaced.

use core::net::IpAddr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Assembler, Label, Op, Reg, Size, When, bpf, code};
use crate::owned::{Ownership, PortRange};
use crate::wire::{EtherType, IpProtocol};

/// Replaces the program that a link has attached by another, in one step.
///
/// # Errors
/// What the system says.
pub(in super::super) fn replace_program(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    const LINK_UPDATE: libc::c_int = 29;
    // The last two words: flags, and the program that must have been there, if the flags say so.
    let request: [u32; 4] = [link.as_raw_fd() as u32, program.as_raw_fd() as u32, 0, 0];
    bpf(LINK_UPDATE, &request).map(drop)
}

impl Assembler {
    /// Jumps when a pointer into the packet is past another.
    fn jump_past(&mut self, pointer: Reg, end: Reg, to: Label) {
        const GREATER: u8 = 0x20;
        self.jumps.push((self.code.len(), to));
        self.put(code::JUMP | code::REGISTER | GREATER, (pointer, end as u8), 0, 0);
    }

    /// As [`Assembler::jump_when`], comparing 32 bits.
    fn jump_when_word(&mut self, when: When, register: Reg, word: [u8; 4], to: Label) {
        const JUMP_WORD: u8 = 0x06;
        self.jumps.push((self.code.len(), to));
        self.put(JUMP_WORD | when as u8, (register, 0), 0, i32::from_ne_bytes(word));
    }

    /// `to` = 16 bits at an address, in host order.
    fn load_half(&mut self, to: Reg, from: Reg, offset: i16) {
        self.load(Size::Half, to, from, offset);
        self.half_from_network(to);
    }
}

/// Ends the program with the answer `pass` for packets that are not the stack's. For those that are it goes on with what is
/// assembled next, the context being in `R6`, where it has to be before; `false`, and nothing must follow, when no packet is.
pub(in super::super) fn keep(asm: &mut Assembler, owned: &Ownership, pass: i32) -> bool {
    let [is_v4, is_v6] = [IpAddr::is_ipv4, IpAddr::is_ipv6].map(|is| owned.addrs().iter().any(is));
    let transport = !owned.tcp().is_empty() || !owned.udp().is_empty() || owned.icmp();
    let (v4, v6, arp) = (is_v4 && transport, is_v6 && transport, is_v4 && owned.arp());
    let mut filter = Filter { pass: asm.label(), mine: asm.label(), ports: asm.label(), owned, asm };
    if v4 || v6 || arp {
        filter.ethernet(v4, v6, arp);
        if v4 || v6 {
            filter.ports();
        }
    }
    let Filter { pass: not_ours, mine, .. } = filter;
    asm.place(not_ours);
    asm.constant(Op::Move, Reg::R0, pass);
    asm.exit();
    asm.place(mine);
    v4 || v6 || arp
}

struct Filter<'a> {
    asm: &'a mut Assembler,
    owned: &'a Ownership,
    /// Where packets of the kernel go, and those of the stack.
    pass: Label,
    mine: Label,
    /// Where the protocol in `R8` and the port in `R0` decide.
    ports: Label,
}

impl Filter<'_> {
    /// Leaves the packet to the kernel unless it has so many bytes from `R7` on.
    fn need(&mut self, bytes: i32) {
        self.asm.register(Op::Move, Reg::R0, Reg::R7);
        self.asm.constant(Op::Add, Reg::R0, bytes);
        self.asm.jump_past(Reg::R0, Reg::R9, self.pass);
    }

    fn ethernet(&mut self, v4: bool, v6: bool, arp: bool) {
        let sections = [(v4, EtherType::IPV4), (v6, EtherType::IPV6), (arp, EtherType::ARP)];
        // Where `xdp_md` has the first byte of the packet and the one behind its last.
        self.asm.load(Size::Word, Reg::R7, Reg::R6, 0);
        self.asm.load(Size::Word, Reg::R9, Reg::R6, 4);
        self.need(14);
        self.asm.load_half(Reg::R8, Reg::R7, 12);
        self.asm.constant(Op::Add, Reg::R7, 14);
        let untagged = self.asm.label();
        self.asm.jump_when(When::Different, Reg::R8, EtherType::VLAN.0.into(), untagged);
        self.need(4);
        self.asm.load_half(Reg::R1, Reg::R7, 0);
        self.asm.jump_when(When::AnyBit, Reg::R1, 0xfff, self.pass);
        self.asm.load_half(Reg::R8, Reg::R7, 2);
        self.asm.constant(Op::Add, Reg::R7, 4);
        self.asm.place(untagged);
        let labels = sections.map(|(wanted, ethertype)| {
            let label = self.asm.label();
            if wanted {
                self.asm.jump_when(When::Equal, Reg::R8, ethertype.0.into(), label);
            }
            label
        });
        self.asm.jump(self.pass);
        for ((wanted, ethertype), label) in sections.into_iter().zip(labels) {
            if wanted {
                self.asm.place(label);
                match ethertype {
                    EtherType::IPV4 => self.v4(),
                    EtherType::IPV6 => self.v6(),
                    _ => self.arp(),
                }
            }
        }
    }

    fn arp(&mut self) {
        self.need(28);
        for at in [14, 24] {
            self.jump_to_address_v4(at, self.mine);
        }
        self.asm.jump(self.pass);
    }

    /// Jumps when the IPv4 address at a place is one of ours.
    fn jump_to_address_v4(&mut self, at: i16, to: Label) {
        self.asm.load(Size::Word, Reg::R2, Reg::R7, at);
        for addr in self.owned.addrs() {
            if let IpAddr::V4(addr) = addr {
                self.asm.jump_when_word(When::Equal, Reg::R2, addr.octets(), to);
            }
        }
    }

    /// The same of IPv6.
    fn jump_to_address_v6(&mut self, at: i16, to: Label) {
        let registers = [Reg::R0, Reg::R1, Reg::R2, Reg::R3];
        for (i, register) in (0..).zip(registers) {
            self.asm.load(Size::Word, register, Reg::R7, at + 4 * i);
        }
        for addr in self.owned.addrs() {
            let IpAddr::V6(addr) = addr else { continue };
            let (octets, next) = (addr.octets(), self.asm.label());
            let mut words = octets.as_chunks::<4>().0.iter().zip(registers).peekable();
            while let Some((&word, register)) = words.next() {
                match words.peek() {
                    Some(_) => self.asm.jump_when_word(When::Different, register, word, next),
                    None => self.asm.jump_when_word(When::Equal, register, word, to),
                }
            }
            self.asm.place(next);
        }
    }

    /// `R1` = the length of the IPv4 header, all of which is there.
    fn header_v4(&mut self) {
        self.need(20);
        let long_enough = self.asm.label();
        self.asm.load(Size::Byte, Reg::R1, Reg::R7, 0);
        self.asm.register(Op::Move, Reg::R2, Reg::R1);
        self.asm.constant(Op::ShiftRight, Reg::R2, 4);
        self.asm.jump_when(When::Different, Reg::R2, 4, self.pass);
        self.asm.constant(Op::And, Reg::R1, 0xf);
        self.asm.constant(Op::ShiftLeft, Reg::R1, 2);
        self.asm.jump_when(When::AtLeast, Reg::R1, 20, long_enough);
        self.asm.jump(self.pass);
        self.asm.place(long_enough);
        self.asm.register(Op::Move, Reg::R3, Reg::R7);
        self.asm.register(Op::Add, Reg::R3, Reg::R1);
        self.asm.jump_past(Reg::R3, Reg::R9, self.pass);
        self.asm.load(Size::Byte, Reg::R8, Reg::R7, 9);
    }

    fn v4(&mut self) {
        let [ours, fragment, icmp] = [(); 3].map(|()| self.asm.label());
        self.header_v4();
        self.jump_to_address_v4(16, ours);
        self.asm.jump(self.pass);
        self.asm.place(ours);
        self.asm.load_half(Reg::R2, Reg::R7, 6);
        self.asm.jump_when(When::AnyBit, Reg::R2, 0x3fff, fragment);
        self.asm.register(Op::Add, Reg::R7, Reg::R1);
        self.need(4);
        self.asm.jump_when(When::Equal, Reg::R8, IpProtocol::ICMP.0.into(), icmp);
        self.asm.load_half(Reg::R0, Reg::R7, 2);
        self.asm.jump(self.ports);
        self.asm.place(fragment);
        for (ports, protocol) in transports(self.owned) {
            if let [only] = ports
                && (only.first(), only.last()) == (1, u16::MAX)
            {
                self.asm.jump_when(When::Equal, Reg::R8, protocol.0.into(), self.mine);
            }
        }
        self.asm.jump(self.pass);
        self.asm.place(icmp);
        self.icmp_v4();
    }

    fn icmp_v4(&mut self) {
        let quote = self.asm.label();
        self.asm.load(Size::Byte, Reg::R2, Reg::R7, 0);
        for error in [3, 4, 11, 12] {
            self.asm.jump_when(When::Equal, Reg::R2, error, quote);
        }
        self.asm.jump(self.echo());
        self.asm.place(quote);
        self.asm.constant(Op::Add, Reg::R7, 8);
        self.header_v4();
        self.asm.jump_when(When::Equal, Reg::R8, IpProtocol::ICMP.0.into(), self.echo());
        self.asm.load_half(Reg::R2, Reg::R7, 6);
        self.asm.jump_when(When::AnyBit, Reg::R2, 0x1fff, self.pass);
        self.asm.register(Op::Add, Reg::R7, Reg::R1);
        self.need(2);
        self.asm.load_half(Reg::R0, Reg::R7, 0);
        self.asm.jump(self.ports);
    }

    fn header_v6(&mut self) {
        self.need(40);
        self.asm.load(Size::Byte, Reg::R1, Reg::R7, 0);
        self.asm.constant(Op::ShiftRight, Reg::R1, 4);
        self.asm.jump_when(When::Different, Reg::R1, 6, self.pass);
        self.asm.load(Size::Byte, Reg::R8, Reg::R7, 6);
    }

    fn v6(&mut self) {
        let [ours, icmp, quote] = [(); 3].map(|()| self.asm.label());
        self.header_v6();
        self.jump_to_address_v6(24, ours);
        self.asm.jump(self.pass);
        self.asm.place(ours);
        self.asm.constant(Op::Add, Reg::R7, 40);
        self.need(4);
        self.asm.jump_when(When::Equal, Reg::R8, IpProtocol::ICMPV6.0.into(), icmp);
        self.asm.load_half(Reg::R0, Reg::R7, 2);
        self.asm.jump(self.ports);
        self.asm.place(icmp);
        self.asm.load(Size::Byte, Reg::R2, Reg::R7, 0);
        for error in 1..=4 {
            self.asm.jump_when(When::Equal, Reg::R2, error, quote);
        }
        for echo in [128, 129] {
            self.asm.jump_when(When::Equal, Reg::R2, echo, self.echo());
        }
        self.asm.jump(self.pass);
        self.asm.place(quote);
        self.asm.constant(Op::Add, Reg::R7, 8);
        self.header_v6();
        self.asm.jump_when(When::Equal, Reg::R8, IpProtocol::ICMPV6.0.into(), self.echo());
        self.asm.constant(Op::Add, Reg::R7, 40);
        self.need(2);
        self.asm.load_half(Reg::R0, Reg::R7, 0);
        self.asm.jump(self.ports);
    }

    /// Where echo goes.
    fn echo(&self) -> Label {
        if self.owned.icmp() { self.mine } else { self.pass }
    }

    fn ports(&mut self) {
        self.asm.place(self.ports);
        for (ports, protocol) in transports(self.owned).into_iter().filter(|(ports, _)| !ports.is_empty()) {
            let other = self.asm.label();
            self.asm.jump_when(When::Different, Reg::R8, protocol.0.into(), other);
            for range in ports {
                let [reached, past] = [(); 2].map(|()| self.asm.label());
                self.asm.jump_when(When::AtLeast, Reg::R0, range.first().into(), reached);
                // They are in order.
                self.asm.jump(self.pass);
                self.asm.place(reached);
                self.asm.jump_when(When::AtLeast, Reg::R0, i32::from(range.last()) + 1, past);
                self.asm.jump(self.mine);
                self.asm.place(past);
            }
            self.asm.jump(self.pass);
            self.asm.place(other);
        }
        self.asm.jump(self.pass);
    }
}

/// The protocols with ports, and those that are claimed.
fn transports(owned: &Ownership) -> [(&[PortRange], IpProtocol); 2] {
    [(owned.tcp(), IpProtocol::TCP), (owned.udp(), IpProtocol::UDP)]
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::fd::OwnedFd;

    use super::super::{ProgramKind, load, run};
    use super::*;
    use crate::owned::{Claim, MAX_ADDRS, MAX_RANGES, tests as packets};
    use crate::rng::{Rng, seed_from};

    const PASS: i32 = 2;
    const OURS: i32 = 1;

    /// A program that answers whose a packet is.
    fn judge(owned: &Ownership) -> io::Result<OwnedFd> {
        let mut asm = Assembler::default();
        asm.register(Op::Move, Reg::R6, Reg::R1);
        if keep(&mut asm, owned, PASS) {
            asm.constant(Op::Move, Reg::R0, OURS);
            asm.exit();
        }
        load(ProgramKind::Xdp, &asm.finish(), 0)
    }

    #[test]
    fn the_kernel_judges_every_packet_as_the_filter_does() {
        let mut rng = Rng::new(seed_from(3));
        for owned in packets::ownerships() {
            let program = match judge(&owned) {
                Ok(program) => program,
                Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                    println!("skipped: the_kernel_judges_every_packet_as_the_filter_does needs CAP_BPF");
                    return;
                }
                Err(e) => panic!("the kernel refuses the program of {owned:?}: {e}"),
            };
            for _ in 0..5_000 {
                let frame = packets::random_frame(&mut rng);
                let expected = if owned.owns(&frame, None) { OURS } else { PASS };
                assert_eq!(run(&program, &frame).unwrap(), expected as u32, "{owned:?} of {frame:02x?}");
            }
        }
    }

    #[test]
    fn the_largest_filter_is_accepted() {
        let ports = |i: usize| format!("tcp/{}-{}", 2 * i * 100 + 1, (2 * i + 1) * 100);
        let claims: Vec<Claim> = (0..MAX_RANGES)
            .flat_map(|i| [ports(i), ports(i).replace("tcp", "udp")])
            .chain(["icmp".to_owned(), "arp".to_owned()])
            .map(|text| text.parse().unwrap())
            .collect();
        let v4 = (0..MAX_ADDRS as u32 / 2).map(|i| IpAddr::from((0x0a00_0002 + i).to_be_bytes()));
        let v6 = (0..MAX_ADDRS as u128 / 2).map(|i| IpAddr::from(((0xfd_u128 << 120) + i).to_be_bytes()));
        let owned = Ownership::new(&claims, v4.chain(v6));
        assert_eq!((owned.tcp().len(), owned.addrs().len()), (MAX_RANGES, MAX_ADDRS));
        match judge(&owned) {
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                println!("skipped: the_largest_filter_is_accepted needs CAP_BPF");
            }
            judged => drop(judged.unwrap()),
        }
    }
}
