//! Which datagrams a socket hears, as two comparisons.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Which datagrams over IPv4 a socket hears, as two words under masks: all whose destination and source are the ones given where
/// the masks have bits.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct HearsV4 {
    to: u32,
    to_mask: u32,
    /// A [`Source`].
    from: u64,
    from_mask: u64,
}

impl HearsV4 {
    pub(super) fn new(local: SocketAddr, remote: Option<SocketAddr>) -> Self {
        let nothing = Self { to: 1, to_mask: 0, from: 0, from_mask: 0 };
        let IpAddr::V4(local) = local.ip() else { return nothing };
        let (to, to_mask) = if local.is_unspecified() { (0, 0) } else { (local.to_bits(), u32::MAX) };
        match remote {
            None => Self { to, to_mask, from: 0, from_mask: 0 },
            Some(SocketAddr::V4(r)) => {
                Self { to, to_mask, from: Source::new(*r.ip(), r.port()).0, from_mask: u64::MAX }
            }
            Some(SocketAddr::V6(_)) => nothing,
        }
    }

    #[inline]
    pub(super) fn matches(&self, from: Source, to: Ipv4Addr) -> bool {
        to.to_bits() & self.to_mask == self.to && from.0 & self.from_mask == self.from
    }
}

/// Who sent a datagram over IPv4: address and port as one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct Source(u64);

impl Source {
    #[inline]
    pub(in super::super) fn new(ip: Ipv4Addr, port: u16) -> Self {
        Self(u64::from(ip.to_bits()) << 16 | u64::from(port))
    }

    #[inline]
    pub(super) fn ip(self) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.0 >> 16) as u32)
    }

    #[inline]
    pub(super) fn port(self) -> u16 {
        self.0 as u16
    }
}
