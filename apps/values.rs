//! The values of flags and of configuration files: one type each, one grammar for both.
//!
//! Every type reads from text ([`FromStr`], which clap uses) and from TOML, where a plain number is taken as well if
//! it has an obvious meaning. What is read is valid; a refusal says what would be accepted.

use clap::builder::TypedValueParser;
use ntytcp::owned;
use ntytcp::stack::ports::PortRange;
use serde::de::value::StrDeserializer;
use serde::de::{self, Deserialize, Deserializer, IntoDeserializer as _, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU64};
use std::str::FromStr;
use std::time::Duration;

/// Why a value was refused, and what would not be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadValue(pub(crate) String);

/// Deserialises through [`FromStr`]; `$number` turns a whole number into the text that means the same.
macro_rules! from_text {
    ($type:ty, $expecting:literal, $number:expr) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$type, E> {
                        let text: Option<String> = $number(number);
                        match text {
                            Some(text) => text.parse().map_err(E::custom),
                            None => Err(E::invalid_type(serde::de::Unexpected::Signed(number), &self)),
                        }
                    }
                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$type, E> {
                        self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }
    };
}

pub(crate) use from_text;

/// A port that can be named: 1 to 65535.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Port(NonZeroU16);

impl Port {
    /// `number`, or 1 for 0, which is no port.
    pub const fn new(number: u16) -> Self {
        match NonZeroU16::new(number) {
            Some(number) => Self(number),
            None => Self(NonZeroU16::MIN),
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl FromStr for Port {
    type Err = BadValue;
    fn from_str(text: &str) -> Result<Self, BadValue> {
        text.parse()
            .map(Self)
            .map_err(|_| BadValue(format!("{text:?} is no port: give a number from 1 to 65535")))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

from_text!(Port, "a port from 1 to 65535", |n: i64| Some(n.to_string()));

/// A number of bytes: `1500`, `64k`, `200M`, `1G`, in powers of 1024.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Size(u64);

impl Size {
    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = BadValue;
    fn from_str(text: &str) -> Result<Self, BadValue> {
        let bad = || {
            BadValue(format!("{text:?} is no size: give bytes, or a number with k, M or G, as 64k or 200M"))
        };
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = match text.get(digits.len()..).unwrap_or_default() {
            "" | "B" => 1,
            "k" | "K" | "KiB" => 1 << 10,
            "m" | "M" | "MiB" => 1 << 20,
            "g" | "G" | "GiB" => 1 << 30,
            _ => return Err(bad()),
        };
        let number: u64 = unsigned(digits).ok_or_else(bad)?;
        number.checked_mul(unit).map(Self).ok_or_else(bad)
    }
}

from_text!(Size, "a size such as 1500, \"64k\" or \"200M\"", |n: i64| Some(n.to_string()));

/// A length of time: `10s` or, in seconds, `10`; `200ms`, `50us`, `5m`, `1h`; never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Span(Duration);

impl Span {
    /// So many seconds, or one for none.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(if secs == 0 { 1 } else { secs }))
    }

    /// The same as the standard library has it.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = BadValue;
    fn from_str(text: &str) -> Result<Self, BadValue> {
        let bad = || {
            BadValue(format!(
                "{text:?} is no time: give a number with us, ms, s, m or h (without one: seconds), as 200ms, more than 0 and at most 365 days"
            ))
        };
        let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit_nanos: u64 = match text.get(number.len()..).unwrap_or_default() {
            "us" => 1_000,
            "ms" => 1_000_000,
            "" | "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(bad()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let whole = unsigned(whole).and_then(|n| n.checked_mul(unit_nanos)).ok_or_else(bad)?;
        // Nine digits are as fine as any unit needs.
        let digits = fraction.get(..9).unwrap_or(fraction);
        let digits_value = unsigned(digits).ok_or_else(bad)?;
        let scale = 10_u128.saturating_pow(u32::try_from(digits.len()).unwrap_or(u32::MAX));
        let part = u128::from(digits_value) * u128::from(unit_nanos) / scale;
        let nanos = whole.checked_add(u64::try_from(part).map_err(|_| bad())?).ok_or_else(bad)?;
        let span = Duration::from_nanos(nanos);
        if span.is_zero() || span > Duration::from_secs(365 * 86_400) { Err(bad()) } else { Ok(Self(span)) }
    }
}

from_text!(Span, "a time such as \"200ms\" or 10 (seconds)", |n: i64| Some(n.to_string()));

/// Digits and nothing else.
fn unsigned(digits: &str) -> Option<u64> {
    if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// An address with the length of its network prefix: `10.0.0.2/24`, `fd00::2/64`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cidr {
    /// The address of the host.
    pub addr: IpAddr,
    /// Bits of the network, at most 32 or 128.
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = BadValue;
    fn from_str(text: &str) -> Result<Self, BadValue> {
        let bad = |why: &str| {
            BadValue(format!("{text:?} {why}: give ADDRESS/PREFIX, as 10.0.0.2/24 or fd00::2/64"))
        };
        let (addr, prefix) = text.split_once('/').ok_or_else(|| bad("has no prefix length"))?;
        let addr: IpAddr = addr.parse().map_err(|_| bad("holds no IP address"))?;
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        let prefix = unsigned(prefix).filter(|&p| p <= bits).and_then(|p| u8::try_from(p).ok());
        let prefix = prefix.ok_or_else(|| bad("has a bad prefix length"))?;
        let unusable = match addr {
            IpAddr::V4(v4) => {
                v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() || v4.is_loopback()
            }
            IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast() || v6.is_loopback(),
        };
        if unusable { Err(bad("is no address of one host on a link")) } else { Ok(Self { addr, prefix }) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

from_text!(Cidr, "an address such as \"10.0.0.2/24\"", |_: i64| None);

/// An Ethernet address of one station: `02:00:00:00:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = BadValue;
    fn from_str(text: &str) -> Result<Self, BadValue> {
        let bad = |why: &str| BadValue(format!("{text:?} {why}: give six bytes, as 02:00:00:00:00:01"));
        let mut mac = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut mac {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte =
                part.and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or_else(|| bad("is no MAC address"))?;
        }
        match mac {
            _ if parts.next().is_some() => Err(bad("is no MAC address")),
            [0, 0, 0, 0, 0, 0] => Err(bad("is not the address of a station")),
            [first, ..] if first & 1 == 1 => Err(bad("is a group address")),
            _ => Ok(Self(mac)),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

from_text!(Mac, "a MAC address such as \"02:00:00:00:00:01\"", |_: i64| None);

/// Cores in an order, each once: `2`, `0,2-4`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuList(pub(crate) Vec<usize>);

impl FromStr for CpuList {
    type Err = BadValue;
    fn from_str(text: &str) -> Result<Self, BadValue> {
        const MAX: u64 = 1_023;
        let bad = || {
            BadValue(format!(
                "{text:?} is no list of cores: give numbers up to {MAX}, each once, as 2 or 0,2-4"
            ))
        };
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |digits| unsigned(digits).filter(|&n| n <= MAX).ok_or_else(bad);
            let range = number(first)?..=number(last)?;
            if range.is_empty() {
                return Err(bad());
            }
            cpus.extend(range.map(|n| n as usize));
        }
        let mut sorted = cpus.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() == cpus.len() { Ok(Self(cpus)) } else { Err(bad()) }
    }
}

from_text!(CpuList, "cores such as 2 or \"0,2-4\"", |n: i64| Some(n.to_string()));
/// Packets that the stack owns: `tcp/80`, `udp/8000-8100`, `tcp`, `udp`, `icmp` or `arp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim(pub owned::Claim);

impl FromStr for Claim {
    type Err = BadValue;
    fn from_str(text: &str) -> Result<Self, BadValue> {
        text.parse().map(Self).map_err(|error: owned::ClaimError| BadValue(error.to_string()))
    }
}

from_text!(Claim, "packets such as \"tcp/80\"", |_: i64| None);

/// A range of ports: `61000-65535`. One port alone is none: it is used up by the first connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports(pub PortRange);

impl FromStr for Ports {
    type Err = BadValue;
    fn from_str(text: &str) -> Result<Self, BadValue> {
        let range = if text.contains('-') { text.parse().ok() } else { None };
        let bad = || BadValue(format!("{text:?} is no range of ports: give FIRST-LAST, as 61000-65535"));
        range.map(Self).ok_or_else(bad)
    }
}

from_text!(Ports, "ports such as \"61000-65535\"", |_: i64| None);

/// Parses a flag whose value counts something: 1 to `most`, as a refusal says.
pub(crate) fn count<N>(most: u64) -> impl TypedValueParser<Value = N>
where
    N: TryFrom<NonZeroU64> + Clone + Send + Sync + 'static,
{
    let convert = move |n| {
        NonZeroU64::new(n)
            .and_then(|n| N::try_from(n).ok())
            .ok_or_else(|| BadValue(format!("give 1 to {most}")))
    };
    clap::value_parser!(u64).range(1..=most).try_map(convert)
}

/// In a file a list of one needs no brackets.
pub(crate) fn one_or_more<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct OneOrMore<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMore<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text in quotes, or a list of them")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            let text: StrDeserializer<'_, E> = text.into_deserializer();
            Ok(vec![T::deserialize(text)?])
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = seq.next_element()? {
                items.push(item);
            }
            Ok(items)
        }
    }
    deserializer.deserialize_any(OneOrMore(PhantomData))
}

/// Whether the stack can talk to an address.
///
/// # Errors
/// What is supported.
pub(crate) fn speakable(peer: IpAddr) -> Result<(), String> {
    match peer {
        IpAddr::V4(_) => Ok(()),
        IpAddr::V6(_) => Err(format!("{peer}: the stack does not speak IPv6 yet: give an IPv4 address")),
    }
}

/// A switch, as a file has it.
pub(crate) fn yes_or_no<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct YesOrNo;
    impl Visitor<'_> for YesOrNo {
        type Value = bool;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true or false, without quotes")
        }
        fn visit_bool<E: de::Error>(self, yes: bool) -> Result<bool, E> {
            Ok(yes)
        }
    }
    deserializer.deserialize_any(YesOrNo)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: FromStr<Err = BadValue> + fmt::Debug>(texts: &[&str]) {
        for text in texts {
            let error = text.parse::<T>().expect_err(text).to_string();
            assert!(error.contains(": give ") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn accepted_values() {
        assert_eq!("65535".parse(), Ok(Port::new(65_535)));
        assert_eq!("64k".parse(), Ok(Size::from_bytes(65_536)));
        assert_eq!("200M".parse(), Ok(Size::from_bytes(200 << 20)));
        assert_eq!("0".parse(), Ok(Size::from_bytes(0)));
        for (text, nanos) in
            [("1.5s", 1_500_000_000), ("200ms", 200_000_000), ("50us", 50_000), ("2", 2_000_000_000)]
        {
            assert_eq!(text.parse(), Ok(Span(Duration::from_nanos(nanos))), "{text}");
        }
        assert_eq!("1h".parse(), Ok(Span::from_secs(3_600)));
        assert_eq!("10.0.0.2/24".parse::<Cidr>().unwrap().to_string(), "10.0.0.2/24");
        assert_eq!("fd00::2/128".parse::<Cidr>().unwrap().to_string(), "fd00::2/128");
        assert_eq!("02-00-00-00-00-0a".parse::<Mac>().unwrap().to_string(), "02:00:00:00:00:0a");
    }

    #[test]
    fn refused_values_name_the_remedy() {
        refused::<Port>(&["0", "65536", "-1", "http", ""]);
        refused::<Size>(&["", "k", "1.5k", "-1", "1T", "99999999999G", "1 k"]);
        refused::<Span>(&["", "s", "0", "0s", "0.0s", "-1s", "1d", "1.2.3s", "1.s1", "99999999h", "1e3"]);
        refused::<Cidr>(&[
            "10.0.0.2",
            "10.0.0.2/33",
            "fd00::2/129",
            "10.0.0/24",
            "10.0.0.2/",
            "10.0.0.2/+4",
            "0.0.0.0/0",
            "224.0.0.1/24",
            "127.0.0.1/8",
            "::1/128",
            "ff02::1/64",
            "10.0.0.2/24/1",
        ]);
        refused::<Mac>(&[
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "+2:00:00:00:00:01",
            "zz:00:00:00:00:01",
        ]);
    }
}
