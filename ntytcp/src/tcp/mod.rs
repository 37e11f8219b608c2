//! TCP: RFC 9293 with window scaling, timestamps and PAWS (RFC 7323), SACK reception (RFC 2018), RFC 5961's defences, NewReno (RFC
//! 5681, 6582, 6928) and RFC 6298 timing.
//!
//! ```text
//!  segment -> demux -> Tcb::predict -> Tcb::take_predicted            what is expected next: table.input_foreseen
//!                \-> Tcb::segment_arrives | SynEntry | TimeWait | listener         all else: table.input
//!                                        | (marks itself dirty)
//!  table.egress -> Tcb::only_segment -> Output::send_bare -> Tcb::on_only_sent    all there is, in one segment
//!              \-> Tcb::next_segment -> Output::send_tcp | send_train -> Tcb::on_sent, until there is no more
//!  table.on_timeout -> Tcb::on_timeout
//! ```
//!
//! A connection is a `SynEntry` until its handshake completes (when a peer opened it), a
//! `Tcb` while it lives, and a `TimeWait` entry after. Its bytes are in two FIFOs whose other
//! halves belong to the application, on this thread or another.

mod assembly;
mod config;
mod congestion;
mod egress;
mod expiry;
mod handshake;
mod idle;
mod input;
mod isn;
mod listener;
mod opening;
mod output;
mod recovery;
mod rtt;
mod sockets;
mod table;
mod tcb;
mod time_wait;
mod timers;

pub use config::{KeepAlive, TcpConfig, TcpSocketOptions};
pub use listener::ListenOptions;
pub use sockets::TcpInfo;
pub(crate) use table::{ConnName, Foreseen, Lookup, Tcp};
pub use tcb::State;

use crate::counters::DropReason;
use crate::stack::InterfaceId;
use crate::stack::demux::FlowKey;
use crate::wire::{Seq, TcpFlags, TcpHeader, TcpOptions};

/// Where a segment came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// The flow; `local` is ours.
    pub(crate) key: FlowKey,
    /// The interface that it came in on.
    pub(crate) interface: InterfaceId,
    /// The IP MTU of that interface.
    pub(crate) mtu: usize,
}

/// What the stack is to do with a segment's frame.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum TcpAction {
    /// Nothing: it was used up.
    Done,
    /// Count it as refused.
    Drop(DropReason),
    /// Turn the frame around with this header and no payload.
    Reply(TcpHeader),
}

/// A RST: `<SEQ=seq><CTL=RST>`, or with an ACK `<SEQ=seq><ACK=ack><CTL=RST,ACK>`.
pub(crate) fn reset_segment(key: &FlowKey, seq: Seq, ack: Option<Seq>) -> TcpHeader {
    TcpHeader {
        src_port: key.local_port,
        dst_port: key.remote_port,
        seq,
        ack: ack.unwrap_or(Seq(0)),
        flags: if ack.is_some() { TcpFlags::RST | TcpFlags::ACK } else { TcpFlags::RST },
        window: 0,
        checksum: 0,
        urgent: 0,
        options: TcpOptions::default(),
    }
}
