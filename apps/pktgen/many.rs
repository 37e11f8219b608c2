//! A field that takes one value after the other: `10.0.0.1`, `10.0.0.1-10.0.0.99`, or several of these with commas.

use ntytcp::wire::MacAddr;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// What can be counted through.
pub(super) trait Countable: FromStr + Copy {
    /// What one is called, with an example.
    const EXPECTED: &'static str;
    fn number(self) -> u64;
    fn from_number(number: u64) -> Self;
}

impl Countable for Ipv4Addr {
    const EXPECTED: &'static str = "an IPv4 address, as 10.0.0.1";
    fn number(self) -> u64 {
        self.to_bits().into()
    }
    fn from_number(number: u64) -> Self {
        Self::from_bits(number as u32)
    }
}

impl Countable for MacAddr {
    const EXPECTED: &'static str = "the address of a station, as 02:00:00:00:00:01";
    fn number(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }
    fn from_number(number: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = number.to_be_bytes();
        Self([a, b, c, d, e, f])
    }
}

impl Countable for u16 {
    const EXPECTED: &'static str = "a number from 0 to 65535";
    fn number(self) -> u64 {
        self.into()
    }
    fn from_number(number: u64) -> Self {
        number as Self
    }
}

/// One value or many, in the order in which they were written, and again from the first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Many<T> {
    /// Never empty; each from its first to its last.
    ranges: Vec<(u64, u64)>,
    kind: std::marker::PhantomData<T>,
}

impl<T: Countable> Many<T> {
    pub(super) fn one(value: T) -> Self {
        Self { ranges: vec![(value.number(), value.number())], kind: std::marker::PhantomData }
    }

    pub(super) fn first(&self) -> T {
        T::from_number(self.ranges.first().map_or(0, |range| range.0))
    }

    pub(super) fn contains(&self, value: T) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&value.number()))
    }

    /// The smallest, as a number.
    pub(super) fn least(&self) -> u64 {
        self.ranges.iter().map(|range| range.0).min().unwrap_or(0)
    }

    /// Each value once, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = T> {
        self.ranges.iter().flat_map(|&(first, last)| first..=last).map(T::from_number)
    }

    pub(super) fn cursor(&self) -> Cursor<'_, T> {
        Cursor { many: self, range: 0, next: self.first().number() }
    }
}

impl<T: Countable> FromStr for Many<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let value = |part: &str| {
            let bad = |_| format!("{part:?} is no value here: give {}", T::EXPECTED);
            part.parse::<T>().map(Countable::number).map_err(bad)
        };
        let mut ranges = Vec::new();
        for part in text.split(',') {
            // A MAC address may be written with dashes too, five of them.
            let (first, last) = match part.split_once('-').filter(|_| part.matches('-').count() == 1) {
                Some((first, last)) => (value(first)?, value(last)?),
                None => (value(part)?, value(part)?),
            };
            if first > last {
                return Err(format!("the range {part} runs backwards: write the lower end first"));
            }
            ranges.push((first, last));
        }
        Ok(Self { ranges, kind: std::marker::PhantomData })
    }
}

/// Where in the values it is.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a, T> {
    many: &'a Many<T>,
    range: usize,
    next: u64,
}

impl<T: Countable> Cursor<'_, T> {
    /// The next value, after the last the first. No allocation and no division.
    #[inline]
    pub(super) fn step(&mut self) -> T {
        let value = self.next;
        let ranges = &self.many.ranges;
        if ranges.get(self.range).is_some_and(|range| value < range.1) {
            self.next += 1;
        } else {
            self.range = if self.range + 1 < ranges.len() { self.range + 1 } else { 0 };
            self.next = ranges.get(self.range).map_or(0, |range| range.0);
        }
        T::from_number(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps<T: Countable + ToString>(text: &str, n: usize) -> String {
        let many: Many<T> = text.parse().unwrap();
        let mut cursor = many.cursor();
        (0..n).map(|_| cursor.step().to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn values_come_in_the_order_written_and_again() {
        assert_eq!(steps::<u16>("7", 3), "7 7 7");
        assert_eq!(steps::<u16>("65534-65535,3,1-2", 7), "65534 65535 3 1 2 65534 65535");
        assert_eq!(steps::<Ipv4Addr>("10.0.0.255-10.0.1.0", 3), "10.0.0.255 10.0.1.0 10.0.0.255");
        assert_eq!(
            steps::<MacAddr>("02:00:00:00:00:ff-02:00:00:00:01:00", 2),
            "02:00:00:00:00:ff 02:00:00:00:01:00"
        );
        assert_eq!(steps::<MacAddr>("02-00-00-00-00-01", 1), "02:00:00:00:00:01");
        let many: Many<u16> = "5-9,2".parse().unwrap();
        assert_eq!((many.first(), many.least(), many.iter().count()), (5, 2, 6));
        assert!(many.contains(7) && !many.contains(3));
    }

    #[test]
    fn what_is_no_value_is_named() {
        for (text, word) in [
            ("", "\"\""),
            ("1,", "\"\""),
            ("9-1", "backwards"),
            ("1-2-3", "\"1-2-3\""),
            ("65536", "0 to 65535"),
        ] {
            let error = text.parse::<Many<u16>>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!("10.0.0.1-x".parse::<Many<Ipv4Addr>>().unwrap_err().contains("\"x\""));
    }
}
