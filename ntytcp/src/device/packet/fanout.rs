//! Several packet sockets that share the frames of an interface: each frame goes to one of them (`PACKET_FANOUT`).
//!
//! Which one, a program says that the kernel runs on each frame; where it may not be loaded, the kernel's own hash of the flow.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::Link;
use super::ring::Ring;
use crate::device::bpf::steer::{Start, load_steering};
use crate::device::{DeviceError, sys};
use crate::steering::Steering;

/// Makes a group of the sockets, which are silent until then: the shard of each is its place among them. Whether the frames of a flow
/// go to the shard that `steering` says.
pub(super) fn share(
    links: &[(Link, Ring)],
    steering: &Steering,
    notices: &mut Vec<String>,
) -> Result<bool, DeviceError> {
    let Some((Link { interface, .. }, _)) = links.first() else { return Ok(false) };
    let failed = |what| move |e| interface.failed(what, e, "");
    let sockets = || links.iter().map(|(link, _)| link.socket.as_fd());
    let program = load_steering(steering, Start::Network);
    match &program {
        Ok(program) => steer(sockets(), program.as_fd()),
        Err(e) => {
            notices.push(format!(
                "the kernel chooses the socket of a flow, and shards hand over what they get: {e}"
            ));
            join(sockets(), libc::PACKET_FANOUT_HASH)
        }
    }
    .map_err(failed("share its frames"))?;
    for socket in sockets() {
        let none: libc::c_int = 0;
        sys::set_option(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, none)
            .map_err(failed("hear its frames"))?;
    }
    Ok(program.is_ok())
}

/// Makes a group of the sockets in which the program chooses.
fn steer<'a>(
    mut sockets: impl Iterator<Item = BorrowedFd<'a>> + Clone,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    join(sockets.clone(), libc::PACKET_FANOUT_EBPF)?;
    sockets.next().map_or(Ok(()), |first| {
        sys::set_option(first, libc::SOL_PACKET, libc::PACKET_FANOUT_DATA, program.as_raw_fd())
    })
}

/// Makes a group of the sockets, with a number that no other has.
fn join<'a>(mut sockets: impl Iterator<Item = BorrowedFd<'a>>, kind: libc::c_uint) -> io::Result<()> {
    // That a socket ignores what the kernel sends is not heeded in a group, unless the group does.
    let kind = kind | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
    let join = |socket, number: u32, kind: u32| {
        sys::set_option(socket, libc::SOL_PACKET, libc::PACKET_FANOUT, number | kind << 16)
    };
    let Some(first) = sockets.next() else { return Ok(()) };
    join(first, 0, kind | libc::PACKET_FANOUT_FLAG_UNIQUEID)?;
    let number = sys::fanout_group(first)?;
    sockets.try_for_each(|socket| join(socket, number, kind))
}

/// Has the socket drop every frame, so that none comes before it shares them with others, who would get it too.
pub(super) fn mute(socket: BorrowedFd<'_>) -> io::Result<()> {
    // BPF_RET with a constant: of each frame nothing is kept.
    let mut nothing = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut nothing };
    sys::set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
}
