//! Programs for the kernel's virtual machine: assembled at run time, loaded and given maps by the bpf system call. No compiler, no
//! library.
//!
//! Who writes a program lists its instructions on an [`Assembler`], with [`Label`]s where it jumps to. The kernel verifies it when it is
//! loaded, and forgets it when the last descriptor of it, and of what it is attached to, is closed.
#![allow(unsafe_code)] // The bpf system call takes pointers.

pub(super) mod filter;
pub(super) mod steer;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One instruction of the virtual machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register. Calls and [`Assembler::load_packet`] leave their result in `R0` and spoil `R1` to `R5`; a program finds its context in
/// `R1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Reg {
    R0,
    R1,
    R2,
    R3,
    R6 = 6,
    R7,
    R8,
    R9,
}

/// How many bytes are loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Size {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
}

/// What becomes of a register and a constant or a second register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Op {
    Add = 0x00,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
    Xor = 0xa0,
    Move = 0xb0,
}

/// When a jump is made: how a register compares to a constant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum When {
    Equal = 0x10,
    AtLeast = 0x30,
    /// They have a bit in common.
    AnyBit = 0x40,
    Different = 0x50,
}

/// A place in a program that is jumped to. Always forwards: there are no loops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Label(usize);

/// Takes down a program. See the module documentation.
#[derive(Default, Debug)]
pub(super) struct Assembler {
    code: Vec<Instruction>,
    /// Jumps, and where they go.
    jumps: Vec<(usize, Label)>,
    /// Where labels are, once they are placed.
    places: Vec<usize>,
}

/// Classes and modes of instructions, as the kernel's documentation of the instruction set has them.
mod code {
    pub(super) const LOAD_IMMEDIATE: u8 = 0x18;
    pub(super) const LOAD_PACKET: u8 = 0x40;
    pub(super) const LOAD_MEMORY: u8 = 0x61;
    pub(super) const ALU: u8 = 0x07;
    pub(super) const JUMP: u8 = 0x05;
    pub(super) const CALL: u8 = 0x85;
    pub(super) const EXIT: u8 = 0x95;
    pub(super) const FROM_BIG_ENDIAN: u8 = 0xdc;
    /// The second operand is a register.
    pub(super) const REGISTER: u8 = 0x08;
}

impl Assembler {
    fn put(&mut self, code: u8, (to, from): (Reg, u8), offset: i16, immediate: i32) {
        self.code.push(Instruction { code, registers: from << 4 | to as u8, offset, immediate });
    }

    /// `to = *(from + offset)`, of that size.
    pub(super) fn load(&mut self, size: Size, to: Reg, from: Reg, offset: i16) {
        self.put(code::LOAD_MEMORY | size as u8, (to, from as u8), offset, 0);
    }

    /// `R0` = the bytes of the packet from `at + offset` on, as a number in host order. The packet is that of the context in `R6`. Where
    /// it ends before, the program ends and answers 0.
    pub(super) fn load_packet(&mut self, size: Size, at: Reg, offset: i32) {
        self.put(code::LOAD_PACKET | size as u8, (Reg::R0, at as u8), 0, offset);
    }

    /// `to` = the first value of a map, as a pointer.
    pub(super) fn load_value(&mut self, to: Reg, map: BorrowedFd<'_>) {
        /// BPF_PSEUDO_MAP_VALUE
        const IS_VALUE: u8 = 2;
        self.put(code::LOAD_IMMEDIATE, (to, IS_VALUE), 0, map.as_raw_fd());
        self.put(0, (Reg::R0, 0), 0, 0);
    }

    /// `to` = a map, for a call.
    pub(super) fn load_map(&mut self, to: Reg, map: BorrowedFd<'_>) {
        /// BPF_PSEUDO_MAP_FD
        const IS_MAP: u8 = 1;
        self.put(code::LOAD_IMMEDIATE, (to, IS_MAP), 0, map.as_raw_fd());
        self.put(0, (Reg::R0, 0), 0, 0);
    }

    /// `to = to op value`.
    pub(super) fn constant(&mut self, op: Op, to: Reg, value: i32) {
        self.put(code::ALU | op as u8, (to, 0), 0, value);
    }

    /// `to = to op from`.
    pub(super) fn register(&mut self, op: Op, to: Reg, from: Reg) {
        self.put(code::ALU | code::REGISTER | op as u8, (to, from as u8), 0, 0);
    }

    /// Turns a number of 16 bits from the network's order into the host's, or back.
    pub(super) fn half_from_network(&mut self, to: Reg) {
        self.put(code::FROM_BIG_ENDIAN, (to, 0), 0, 16);
    }

    /// Calls a function of the kernel, by its number.
    pub(super) fn call(&mut self, function: i32) {
        self.put(code::CALL, (Reg::R0, 0), 0, function);
    }

    /// The end; the answer is in `R0`.
    pub(super) fn exit(&mut self) {
        self.put(code::EXIT, (Reg::R0, 0), 0, 0);
    }

    /// A label, to be placed later.
    pub(super) fn label(&mut self) -> Label {
        self.places.push(usize::MAX);
        Label(self.places.len() - 1)
    }

    /// Places a label before the next instruction.
    pub(super) fn place(&mut self, label: Label) {
        if let Some(place) = self.places.get_mut(label.0) {
            *place = self.code.len();
        }
    }

    /// Jumps.
    pub(super) fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.put(code::JUMP, (Reg::R0, 0), 0, 0);
    }

    /// Jumps when the register compares so to a constant.
    pub(super) fn jump_when(&mut self, when: When, register: Reg, value: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.put(code::JUMP | when as u8, (register, 0), 0, value);
    }

    /// The program. The kernel refuses one with a jump to a label that was not placed, or too far.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        for (at, Label(to)) in self.jumps {
            let distance = self.places.get(to).and_then(|to| to.checked_sub(at + 1));
            if let Some(instruction) = self.code.get_mut(at) {
                instruction.offset = distance.and_then(|d| i16::try_from(d).ok()).unwrap_or(i16::MAX);
            }
        }
        self.code
    }
}

/// What a program is for (BPF_PROG_TYPE_*).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum ProgramKind {
    SocketFilter = 1,
    Xdp = 6,
}

/// What a map is (BPF_MAP_TYPE_*).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum MapKind {
    Array = 2,
    /// From queues to AF_XDP sockets.
    Sockets = 17,
}

/// A map whose keys are the numbers below `len`, and whose values have `size` bytes.
///
/// # Errors
/// `EPERM` without CAP_BPF.
pub(super) fn create_map(kind: MapKind, size: u32, len: u32) -> io::Result<OwnedFd> {
    const MAP_CREATE: libc::c_int = 0;
    let request: [u32; 4] = [kind as u32, size_of::<u32>() as u32, size, len];
    descriptor(MAP_CREATE, &request)
}

/// Puts a value into a map.
///
/// # Errors
/// What the system says; `EINVAL` for a value that is not as long as those of the map.
pub(super) fn update_map(map: BorrowedFd<'_>, key: u32, value: &[u8]) -> io::Result<()> {
    const MAP_UPDATE_ELEM: libc::c_int = 2;
    #[repr(C)]
    struct Request {
        map: u64,
        key: u64,
        value: u64,
        flags: u64,
    }
    let request = Request {
        map: map.as_raw_fd() as u64,
        key: (&raw const key).expose_provenance() as u64,
        value: value.as_ptr().expose_provenance() as u64,
        flags: 0,
    };
    bpf(MAP_UPDATE_ELEM, &request).map(drop)
}

/// Loads a program.
///
/// # Errors
/// `EPERM` without CAP_BPF and what else its kind takes; `EINVAL` or `EACCES` when the kernel does not know an instruction, or fears one.
pub(super) fn load(kind: ProgramKind, program: &[Instruction], flags: u32) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_int = 5;
    #[repr(C)]
    struct Request {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let request = Request {
        kind: kind as u32,
        count: program.len() as u32,
        instructions: program.as_ptr().expose_provenance() as u64,
        license: c"Dual MIT/GPL".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags,
    };
    descriptor(PROG_LOAD, &request)
}

/// Attaches an XDP program to the interface of that index, until the descriptor that is returned is closed.
///
/// # Errors
/// `EBUSY` when another program is attached; what the driver says that cannot.
pub(super) fn attach_xdp(program: BorrowedFd<'_>, interface: libc::c_int, flags: u32) -> io::Result<OwnedFd> {
    const LINK_CREATE: libc::c_int = 28;
    const ATTACH_XDP: u32 = 37;
    let request: [u32; 4] = [program.as_raw_fd() as u32, interface as u32, ATTACH_XDP, flags];
    descriptor(LINK_CREATE, &request)
}

/// A request that makes a descriptor.
fn descriptor<T>(command: libc::c_int, request: &T) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor was just made and nobody else has it.
    bpf(command, request).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The bpf system call; the kernel takes fields beyond the request for zero.
fn bpf<T>(command: libc::c_int, request: &T) -> io::Result<i32> {
    // SAFETY: pointer and length are those of a live value, and the addresses in it are those of values that outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(request), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// Runs a loaded program once on a packet, as if it had been received; its answer.
#[cfg(test)]
fn run(program: &OwnedFd, packet: &[u8]) -> io::Result<u32> {
    const PROG_TEST_RUN: libc::c_int = 10;
    #[repr(C)]
    struct Request {
        program: u32,
        answer: u32,
        len_in: u32,
        len_out: u32,
        packet: u64,
        out: u64,
        repeat: u32,
        duration: u32,
    }
    let mut request = Request {
        program: program.as_raw_fd() as u32,
        answer: 0,
        len_in: packet.len() as u32,
        len_out: 0,
        packet: packet.as_ptr().expose_provenance() as u64,
        out: 0,
        repeat: 1,
        duration: 0,
    };
    // SAFETY: pointer and length are those of a live value that the kernel may write into, and the packet outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, (&raw mut request), size_of::<Request>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(request.answer) }
}
