//! Address prefixes: a network (`10.0.0.0/8`), and an address with the length of its network (`10.0.0.2/8`).

use core::fmt;
use core::net::{IpAddr, Ipv4Addr};
use core::str::FromStr;

/// Why a text or a pair is no [`Prefix`] or [`InterfaceAddr`]. The message says what to write instead.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// No slash.
    #[error("{0}: the prefix length is missing, write it as {0}/24")]
    NoLength(String),
    /// What stands before the slash is no address.
    #[error("{0}: {1:?} is no IPv4 or IPv6 address")]
    BadAddress(String, String),
    /// What stands after the slash is no number.
    #[error("{0}: {1:?} is no prefix length, write a number of bits such as 24")]
    BadLength(String, String),
    /// More bits than the address has.
    #[error("/{1} is too long a prefix for {0}: at most {max}", max = bits(*.0))]
    TooLong(IpAddr, u8),
    /// Bits beyond the prefix are set, so that it is not clear what was meant.
    #[error("{0}/{1} has bits set beyond its prefix, did you mean {2}?")]
    HostBits(IpAddr, u8, Prefix),
    /// The address cannot be a host's: multicast, broadcast or unspecified.
    #[error("{0} cannot be the address of an interface")]
    NotAHost(IpAddr),
}

/// Bits of an address of this family.
pub(super) const fn bits(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address as a number whose highest bit is the address's first, in either family.
pub(super) const fn key(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => (a.to_bits() as u128) << 96,
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// The first `len` bits set.
pub(super) const fn mask(len: u8) -> u128 {
    if len == 0 { 0 } else { u128::MAX << 128u8.saturating_sub(len) }
}

/// The inverse of [`key`], in the family of `like`.
const fn from_key(key: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits((key >> 96) as u32)),
        IpAddr::V6(_) => IpAddr::V6(core::net::Ipv6Addr::from_bits(key)),
    }
}

/// A network: the addresses that share their first `len` bits. Bits beyond them are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

impl Prefix {
    /// The network `addr/len`.
    ///
    /// # Errors
    /// [`PrefixError::TooLong`], and [`PrefixError::HostBits`] when a bit beyond the prefix is set.
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let network = Self::containing(addr, len)?;
        if network.addr == addr { Ok(network) } else { Err(PrefixError::HostBits(addr, len, network)) }
    }

    /// The network of `len` bits that `addr` is in.
    ///
    /// # Errors
    /// [`PrefixError::TooLong`].
    pub fn containing(addr: IpAddr, len: u8) -> Result<Self, PrefixError> {
        if len > bits(addr) {
            return Err(PrefixError::TooLong(addr, len));
        }
        Ok(Self { addr: from_key(key(addr) & mask(len), addr), len })
    }

    /// The network that holds `addr` alone.
    pub const fn host(addr: IpAddr) -> Self {
        Self { addr, len: bits(addr) }
    }

    /// The first address of the network.
    pub const fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Bits that the addresses share: 0 to 32 for IPv4, 0 to 128 for IPv6.
    pub const fn prefix_len(&self) -> u8 {
        self.len
    }

    /// Whether this is every address of its family.
    pub const fn is_default(&self) -> bool {
        self.len == 0
    }

    /// Whether `ip` is of the network's family and in it.
    pub const fn contains(&self, ip: IpAddr) -> bool {
        self.addr.is_ipv4() == ip.is_ipv4() && (key(self.addr) ^ key(ip)) & mask(self.len) == 0
    }

    /// The directed broadcast address, of an IPv4 network of at most 30 bits (RFC 3021 has none for /31).
    pub const fn broadcast(&self) -> Option<Ipv4Addr> {
        match self.addr {
            IpAddr::V4(a) if self.len <= 30 => Some(Ipv4Addr::from_bits(a.to_bits() | u32::MAX >> self.len)),
            _ => None,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (addr, len) = split(text)?;
        Self::new(addr, len)
    }
}

/// An address of an interface together with the length of the network that it is directly connected to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct InterfaceAddr {
    addr: IpAddr,
    len: u8,
}

impl InterfaceAddr {
    /// The address `addr` on a network of `len` bits.
    ///
    /// # Errors
    /// [`PrefixError::TooLong`], and [`PrefixError::NotAHost`] for an address that no host can have:
    /// multicast, unspecified, all ones, or the network's own broadcast or (up to /30) all-zeros address.
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let network = Prefix::containing(addr, len)?;
        let reserved = match addr {
            IpAddr::V4(a) => {
                a.is_broadcast() || network.broadcast() == Some(a) || (len <= 30 && network.addr == addr)
            }
            IpAddr::V6(_) => false,
        };
        if addr.is_multicast() || addr.is_unspecified() || reserved {
            return Err(PrefixError::NotAHost(addr));
        }
        Ok(Self { addr, len })
    }

    /// The address.
    pub const fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Length of the connected network's prefix in bits.
    pub const fn prefix_len(&self) -> u8 {
        self.len
    }

    /// The connected network.
    pub const fn network(&self) -> Prefix {
        Prefix { addr: from_key(key(self.addr) & mask(self.len), self.addr), len: self.len }
    }
}

impl fmt::Display for InterfaceAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl FromStr for InterfaceAddr {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (addr, len) = split(text)?;
        Self::new(addr, len)
    }
}

/// `addr/len` as its two parts.
fn split(text: &str) -> Result<(IpAddr, u8), PrefixError> {
    let Some((addr, len)) = text.split_once('/') else {
        return Err(PrefixError::NoLength(text.to_owned()));
    };
    let addr = addr.parse().map_err(|_| PrefixError::BadAddress(text.to_owned(), addr.to_owned()))?;
    let len = len
        .parse()
        .ok()
        .filter(|_| len.bytes().all(|b| b.is_ascii_digit()))
        .ok_or_else(|| PrefixError::BadLength(text.to_owned(), len.to_owned()))?;
    Ok((addr, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<Prefix>().unwrap_err().to_string()
    }

    #[test]
    fn each_bad_text_is_answered_with_what_to_write() {
        assert_eq!(error("10.0.0.0"), "10.0.0.0: the prefix length is missing, write it as 10.0.0.0/24");
        assert_eq!(error("10.0.0/8"), "10.0.0/8: \"10.0.0\" is no IPv4 or IPv6 address");
        assert_eq!(
            error("10.0.0.0/"),
            "10.0.0.0/: \"\" is no prefix length, write a number of bits such as 24"
        );
        assert_eq!(
            error("10.0.0.0/+8"),
            "10.0.0.0/+8: \"+8\" is no prefix length, write a number of bits such as 24"
        );
        assert_eq!(error("10.0.0.0/33"), "/33 is too long a prefix for 10.0.0.0: at most 32");
        assert_eq!(error("::/129"), "/129 is too long a prefix for ::: at most 128");
        assert_eq!(
            error("10.0.0.2/8"),
            "10.0.0.2/8 has bits set beyond its prefix, did you mean 10.0.0.0/8?"
        );
        assert!(error("10.0.0.0/256").contains("no prefix length"));
    }

    #[test]
    fn prefixes_print_as_they_are_read() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.1/32", "::/0", "2001:db8::/32", "2001:db8::1/128"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn containment_stops_at_the_prefix_and_at_the_family() {
        let net: Prefix = "10.0.0.0/15".parse().unwrap();
        assert!(net.contains("10.1.255.255".parse().unwrap()));
        assert!(!net.contains("10.2.0.0".parse().unwrap()));
        let all4: Prefix = "0.0.0.0/0".parse().unwrap();
        assert!(all4.contains("255.255.255.255".parse().unwrap()));
        assert!(!all4.contains("::".parse().unwrap()));
        assert!(!"::/0".parse::<Prefix>().unwrap().contains("0.0.0.0".parse().unwrap()));
    }

    #[test]
    fn point_to_point_networks_have_no_broadcast_address() {
        let broadcast = |text: &str| text.parse::<Prefix>().unwrap().broadcast();
        assert_eq!(broadcast("10.0.0.0/24"), Some(Ipv4Addr::new(10, 0, 0, 255)));
        assert_eq!(broadcast("0.0.0.0/0"), Some(Ipv4Addr::BROADCAST));
        assert_eq!(broadcast("10.0.0.0/31"), None);
        assert_eq!(broadcast("10.0.0.0/32"), None);
        assert_eq!(broadcast("::/64"), None);
    }

    #[test]
    fn an_interface_address_must_be_one_that_a_host_can_have() {
        for bad in [
            "10.0.0.0/24",
            "10.0.0.255/24",
            "0.0.0.0/0",
            "224.0.0.1/4",
            "255.255.255.255/32",
            "::/64",
            "ff02::1/8",
        ] {
            assert!(matches!(bad.parse::<InterfaceAddr>(), Err(PrefixError::NotAHost(_))), "{bad}");
        }
        for good in ["10.0.0.1/24", "10.0.0.0/31", "10.0.0.1/31", "10.0.0.0/32", "fe80::1/64"] {
            assert_eq!(good.parse::<InterfaceAddr>().unwrap().to_string(), good);
        }
        let addr: InterfaceAddr = "10.0.0.77/26".parse().unwrap();
        assert_eq!(addr.network().to_string(), "10.0.0.64/26");
    }
}
