//! A listening socket: its SYN queue (by count; the entries are in the table) and its accept queue.

use super::config::TcpSocketOptions;
use crate::stack::cx::Pending;
use core::net::IpAddr;
use std::collections::VecDeque;

/// How to listen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListenOptions {
    /// How many connections may wait: at most this many unfinished handshakes and at most this many finished ones that nobody has
    /// accepted. Default 1024, at least 1.
    pub backlog: usize,
    /// What accepted sockets start with; the stack's default when `None`.
    pub socket: Option<TcpSocketOptions>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { backlog: 1024, socket: None }
    }
}

/// A socket in LISTEN.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The address it is bound to; any of ours when `None`.
    pub(crate) local: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) backlog: usize,
    pub(crate) socket: TcpSocketOptions,
    /// Handshakes under way.
    pub(crate) half_open: usize,
    /// Established connections in order of arrival, as slot and generation.
    pub(crate) accept: VecDeque<(u32, u32)>,
    pub(crate) pending: Pending,
}

impl Listener {
    /// Whether another finished handshake finds room.
    pub(crate) fn can_establish(&self) -> bool {
        self.accept.len() < self.backlog
    }
}
