//! Ethernet station addresses.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

/// An Ethernet (EUI-48) address, in the order of the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Every station of the link.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// All zero: no station; the target of an ARP request.
    pub const ZERO: Self = Self([0; 6]);

    /// The address as a number of 48 bits, first byte highest.
    #[inline(always)]
    pub(crate) const fn to_bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        (u16::from_be_bytes([a, b]) as u64) << 32 | u32::from_be_bytes([c, d, e, f]) as u64
    }

    /// The address that [`MacAddr::to_bits`] gave.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
        Self([a, b, c, d, e, f])
    }

    /// Whether this is the address of every station.
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// Whether this is a group address; the broadcast address is one too.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether this names one station: neither a group nor all zero.
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self != Self::ZERO
    }

    /// The group address under which packets to the multicast address `ip` travel (RFC 1112 6.4, RFC 2464 7).
    pub const fn multicast_for(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => {
                let [_, b, c, d] = ip.octets();
                Self([0x01, 0x00, 0x5e, b & 0x7f, c, d])
            }
            IpAddr::V6(ip) => {
                let [.., a, b, c, d] = ip.octets();
                Self([0x33, 0x33, a, b, c, d])
            }
        }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text that is not a MAC address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not a MAC address: write six hexadecimal bytes, as in 02:00:5e:10:00:01")]
pub struct MacAddrError(String);

/// Six hexadecimal bytes of one or two digits, joined by `:` or by `-`.
impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut bytes = [0; 6];
        let mut parts = text.split(separator);
        let mut byte = || {
            let digits = parts.next().filter(|p| p.len() <= 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))?;
            u8::from_str_radix(digits, 16).ok()
        };
        let complete = bytes.iter_mut().all(|slot| byte().map(|b| *slot = b).is_some());
        if complete && parts.next().is_none() { Ok(Self(bytes)) } else { Err(MacAddrError(text.to_owned())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_both_separators_are_read() {
        let mac = MacAddr([0x02, 0, 0x5e, 0x10, 0xff, 1]);
        assert_eq!(mac.to_string(), "02:00:5e:10:ff:01");
        assert_eq!("02:00:5e:10:ff:01".parse(), Ok(mac));
        assert_eq!("02-0-5E-10-FF-1".parse(), Ok(mac));
    }

    #[test]
    fn wrong_text_is_named_in_the_error() {
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "02:00:00:00:00:g0",
            "02:00:00:00:00:+1",
            "020000000000",
        ] {
            let error = bad.parse::<MacAddr>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{bad}` is not a MAC address")), "{error}");
        }
    }

    #[test]
    fn kinds_of_addresses() {
        assert!(MacAddr::BROADCAST.is_broadcast() && MacAddr::BROADCAST.is_multicast());
        assert!(!MacAddr::ZERO.is_unicast() && !MacAddr::BROADCAST.is_unicast());
        assert!(MacAddr([2, 0, 0, 0, 0, 1]).is_unicast());
    }

    #[test]
    fn multicast_addresses_are_mapped_as_the_rfcs_say() {
        let v4 = MacAddr::multicast_for("239.129.2.3".parse().unwrap());
        assert_eq!(v4, MacAddr([0x01, 0, 0x5e, 0x01, 2, 3]));
        let v6 = MacAddr::multicast_for("ff02::1:ff12:3456".parse().unwrap());
        assert_eq!(v6, MacAddr([0x33, 0x33, 0xff, 0x12, 0x34, 0x56]));
    }
}
