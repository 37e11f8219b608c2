//! From a local port to the socket that is bound there, by two loads and without a hash.
//!
//! A port is an index, so nobody can make two of them meet, and a server finds its socket at the same price for every peer. The
//! 65,536 entries are made in groups of 256 as they are used: 1 KiB each, 258 KiB in all at most.

/// No socket.
pub(super) const NONE: u32 = u32::MAX;

/// Ports of one group.
const GROUP: usize = 256;

/// The first of the sockets bound to each port, by slot. The others hang on it.
#[derive(Default)]
pub(super) struct BoundPorts {
    groups: Vec<Option<Box<[u32; GROUP]>>>,
}

impl BoundPorts {
    /// The first socket bound to `port`, or [`NONE`].
    #[inline]
    pub(super) fn first(&self, port: u16) -> u32 {
        let [group, entry] = port.to_be_bytes().map(usize::from);
        match self.groups.get(group) {
            Some(Some(group)) => group[entry],
            _ => NONE,
        }
    }

    /// Changes which socket is the first. Allocates when a group of ports is first used.
    pub(super) fn set_first(&mut self, port: u16, socket: u32) {
        let [group, entry] = port.to_be_bytes().map(usize::from);
        if self.groups.is_empty() {
            self.groups.resize_with(GROUP, || None);
        }
        if let Some(group) = self.groups.get_mut(group) {
            group.get_or_insert_with(|| Box::new([NONE; GROUP]))[entry] = socket;
        }
    }
}

impl core::fmt::Debug for BoundPorts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let groups = self.groups.iter().flatten().count();
        f.debug_struct("BoundPorts").field("groups", &groups).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_a_place_of_its_own() {
        let mut ports = BoundPorts::default();
        assert_eq!(ports.first(7), NONE);
        (0..=u16::MAX).for_each(|port| ports.set_first(port, u32::from(port) + 1));
        assert!((0..=u16::MAX).all(|port| ports.first(port) == u32::from(port) + 1));
        ports.set_first(7, NONE);
        assert_eq!((ports.first(6), ports.first(7), ports.first(8)), (7, NONE, 9));
    }
}
