//! The XDP program that hands an interface's frames to a socket: assembled here, loaded, and attached by a link that ends with the
//! process.
//!
//! ```text
//!   r6 = ctx
//!   unless it is the stack's: r0 = XDP_PASS; exit      only where the interface is shared: `bpf/filter.rs`
//!   r2 = ctx->rx_queue_index
//!   r1 = the map from queues to sockets
//!   r3 = XDP_PASS                          what becomes of frames of queues without a socket: the kernel has them
//!   call bpf_redirect_map; exit
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::device::bpf::{self, Assembler, MapKind, Op, ProgramKind, Reg, Size, filter};
use crate::owned::Ownership;

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
    link: OwnedFd,
    map: OwnedFd,
    frames: Frames,
}

impl Program {
    /// Loads the program for up to `queues` queues and attaches it to the interface. The kernel keeps what `owned` does not name.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF and CAP_NET_ADMIN, `EBUSY` when another program is attached; in [`Mode::Native`] also what the driver
    /// says that cannot.
    pub(super) fn attach(
        interface: libc::c_int,
        queues: u32,
        mode: Mode,
        frames: Frames,
        owned: Option<&Ownership>,
    ) -> io::Result<Self> {
        let map = bpf::create_map(MapKind::Sockets, size_of::<u32>() as u32, queues)?;
        let program = load(map.as_fd(), frames, owned)?;
        // XDP_FLAGS_DRV_MODE and XDP_FLAGS_SKB_MODE.
        let flags = match mode {
            Mode::Native => 1 << 2,
            Mode::Skb => 1 << 1,
        };
        Ok(Self { link: bpf::attach_xdp(program.as_fd(), interface, flags)?, map, frames })
    }

    /// From now on the kernel keeps what `owned` does not name. No frame meets neither the old program nor the new one.
    ///
    /// # Errors
    /// What the system says; the old program stays.
    pub(super) fn share(&self, owned: &Ownership) -> io::Result<()> {
        let program = load(self.map.as_fd(), self.frames, Some(owned))?;
        filter::replace_program(self.link.as_fd(), program.as_fd())
    }

    /// Hands the frames of a queue to `socket`.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn direct(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        bpf::update_map(self.map.as_fd(), queue, &socket.as_raw_fd().to_ne_bytes())
    }
}

fn load(map: BorrowedFd<'_>, frames: Frames, owned: Option<&Ownership>) -> io::Result<OwnedFd> {
    /// Where `xdp_md` has the queue.
    const RX_QUEUE_INDEX: i16 = 16;
    const XDP_PASS: i32 = 2;
    const REDIRECT_MAP: i32 = 51;
    /// BPF_F_XDP_HAS_FRAGS
    const HAS_FRAGMENTS: u32 = 1 << 5;
    let mut asm = Assembler::default();
    asm.register(Op::Move, Reg::R6, Reg::R1);
    if owned.is_none_or(|owned| filter::keep(&mut asm, owned, XDP_PASS)) {
        asm.load(Size::Word, Reg::R2, Reg::R6, RX_QUEUE_INDEX);
        asm.load_map(Reg::R1, map);
        asm.constant(Op::Move, Reg::R3, XDP_PASS);
        asm.call(REDIRECT_MAP);
        asm.exit();
    }
    bpf::load(ProgramKind::Xdp, &asm.finish(), if frames == Frames::InPieces { HAS_FRAGMENTS } else { 0 })
}
