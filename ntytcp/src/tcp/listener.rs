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

/// A listener's port and address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Binding {
    port: u16,
    local: Option<IpAddr>,
    /// The listener's slot.
    slot: u32,
}

/// Which listener has which port, by port and address; `None` is any address.
///
/// A sorted array: there are few, they change rarely, and each SYN looks.
#[derive(Default, Debug)]
pub(crate) struct Bindings(Vec<Binding>);

impl Bindings {
    /// The listener for connections to `port` of `local`: the one with the address, else the one with all.
    #[inline]
    pub(crate) fn find(&self, local: IpAddr, port: u16) -> Option<u32> {
        let mut any = None;
        for binding in self.of_port(port) {
            match binding.local {
                None => any = Some(binding.slot),
                Some(address) if address == local => return Some(binding.slot),
                Some(_) => {}
            }
        }
        any
    }

    /// Whether a listener on `port` of `local` would share connections with another.
    pub(crate) fn is_taken(&self, local: Option<IpAddr>, port: u16) -> bool {
        match local {
            Some(local) => self.find(local, port).is_some(),
            None => self.of_port(port).next().is_some(),
        }
    }

    pub(crate) fn insert(&mut self, local: Option<IpAddr>, port: u16, slot: u32) {
        self.0.insert(self.start(port), Binding { port, local, slot });
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        self.0.retain(|binding| binding.slot != slot);
    }

    /// Where bindings of `port` begin.
    fn start(&self, port: u16) -> usize {
        self.0.partition_point(|binding| binding.port < port)
    }

    fn of_port(&self, port: u16) -> impl Iterator<Item = &Binding> {
        self.0.get(self.start(port)..).unwrap_or_default().iter().take_while(move |b| b.port == port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listener_with_the_address_comes_before_the_one_with_all() {
        let ip = |n| IpAddr::from([10, 0, 0, n]);
        let mut bindings = Bindings::default();
        for (local, port, slot) in
            [(None, 80, 1), (Some(ip(1)), 80, 2), (Some(ip(2)), 443, 3), (Some(ip(1)), 443, 4), (None, 22, 5)]
        {
            bindings.insert(local, port, slot);
        }
        let find = |b: &Bindings, n, port| b.find(ip(n), port);
        assert_eq!([find(&bindings, 1, 80), find(&bindings, 2, 80)], [Some(2), Some(1)]);
        assert_eq!([find(&bindings, 1, 443), find(&bindings, 2, 443)], [Some(4), Some(3)]);
        assert_eq!(
            [find(&bindings, 3, 443), find(&bindings, 3, 22), find(&bindings, 3, 23)],
            [None, Some(5), None]
        );
        assert!(bindings.is_taken(Some(ip(9)), 80) && bindings.is_taken(None, 443));
        assert!(!bindings.is_taken(Some(ip(9)), 443) && !bindings.is_taken(None, 81));
        bindings.remove(2);
        assert_eq!(find(&bindings, 1, 80), Some(1));
    }
}
