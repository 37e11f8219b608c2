//! The XDP program that hands an interface's frames to a socket: assembled here, loaded, and attached by a link that ends with the
//! process.
//!
//! ```text
//!   r2 = ctx->rx_queue_index
//!   r1 = the map from queues to sockets
//!   r3 = XDP_PASS                          what becomes of frames of queues without a socket: the kernel has them
//!   call bpf_redirect_map; exit
//! ```
#![allow(unsafe_code)] // The bpf system call takes pointers.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One instruction of the virtual machine.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers, offset, immediate }
}

const LOAD_WORD: u8 = 0x61;
const LOAD_MAP: u8 = 0x18;
const MOVE: u8 = 0xb7;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// The source register of [`LOAD_MAP`] that makes its immediate a descriptor (BPF_PSEUDO_MAP_FD).
const IS_DESCRIPTOR: u8 = 1 << 4;
/// Where `xdp_md` has the queue.
const RX_QUEUE_INDEX: i16 = 16;
const XDP_PASS: i32 = 2;
const REDIRECT_MAP: i32 = 51;

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;

/// How the program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// In the driver, before the kernel makes a packet buffer of the frame.
    Native,
    /// Behind that, with any driver.
    Skb,
}

/// What frames look like to the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Frames {
    /// Each lies in one piece.
    Whole,
    /// Long ones lie in several pieces.
    InPieces,
}

/// The program, attached while this exists.
#[derive(Debug)]
pub(super) struct Program {
    /// Detaches when it is closed, whoever closes it.
    _link: OwnedFd,
    map: OwnedFd,
}

impl Program {
    /// Loads the program for up to `queues` queues and attaches it to the interface.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF and CAP_NET_ADMIN, `EBUSY` when another program is attached; in [`Mode::Native`] also what the driver
    /// says that cannot.
    pub(super) fn attach(
        interface: libc::c_int,
        queues: u32,
        mode: Mode,
        frames: Frames,
    ) -> io::Result<Self> {
        let map = create_map(queues)?;
        let program = load(map.as_raw_fd(), frames)?;
        #[repr(C)]
        struct Request {
            program: u32,
            target: u32,
            attach_type: u32,
            flags: u32,
        }
        let flags = match mode {
            Mode::Native => 1 << 2,
            Mode::Skb => 1 << 1,
        };
        let (program, target) = (program.as_raw_fd() as u32, interface as u32);
        let link = bpf(LINK_CREATE, &Request { program, target, attach_type: ATTACH_XDP, flags })?;
        // SAFETY: the descriptor was just made and nobody else has it.
        Ok(Self { _link: unsafe { OwnedFd::from_raw_fd(link) }, map })
    }

    /// Hands the frames of a queue to `socket`.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn direct(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        #[repr(C)]
        struct Request {
            map: u64,
            key: u64,
            value: u64,
            flags: u64,
        }
        let value = socket.as_raw_fd();
        let map = self.map.as_raw_fd() as u64;
        let request = Request {
            map,
            key: (&raw const queue).expose_provenance() as u64,
            value: (&raw const value).expose_provenance() as u64,
            flags: 0,
        };
        bpf(MAP_UPDATE_ELEM, &request).map(drop)
    }
}

fn create_map(queues: u32) -> io::Result<OwnedFd> {
    let request: [u32; 4] = [MAP_TYPE_XSKMAP, 4, 4, queues];
    // SAFETY: the descriptor was just made and nobody else has it.
    bpf(MAP_CREATE, &request).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn load(map: i32, frames: Frames) -> io::Result<OwnedFd> {
    /// BPF_F_XDP_HAS_FRAGS
    const HAS_FRAGMENTS: u32 = 1 << 5;
    let program = [
        instruction(LOAD_WORD, 1 << 4 | 2, RX_QUEUE_INDEX, 0),
        instruction(LOAD_MAP, IS_DESCRIPTOR | 1, 0, map),
        instruction(0, 0, 0, 0),
        instruction(MOVE, 3, 0, XDP_PASS),
        instruction(CALL, 0, 0, REDIRECT_MAP),
        instruction(EXIT, 0, 0, 0),
    ];
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
        kind: PROG_TYPE_XDP,
        count: program.len() as u32,
        instructions: program.as_ptr().expose_provenance() as u64,
        license: c"Dual MIT/GPL".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: if frames == Frames::InPieces { HAS_FRAGMENTS } else { 0 },
    };
    // SAFETY: the descriptor was just made and nobody else has it.
    bpf(PROG_LOAD, &request).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The bpf system call; the kernel takes fields beyond the request for zero.
fn bpf<T>(command: libc::c_int, request: &T) -> io::Result<i32> {
    // SAFETY: pointer and length are those of a live value, and the addresses in it are those of values that outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(request), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
