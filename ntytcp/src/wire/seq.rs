//! TCP sequence numbers: arithmetic modulo 2^32 (RFC 9293 3.4).

use core::fmt;
use core::ops::{Add, AddAssign, Sub};

/// A sequence number.
///
/// It has an order only between two numbers less than 2^31 apart, and that order is not transitive: so there is no
/// `PartialOrd`, and comparisons have names. Differences go through [`Seq::since`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Seq(pub u32);

impl Seq {
    /// How far `self` is ahead of `earlier`, modulo 2^32.
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whether `self` comes before `other`.
    pub const fn before(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Whether `self` comes after `other`.
    pub const fn after(self, other: Self) -> bool {
        other.before(self)
    }

    /// Whether `self` is `other` or comes before it.
    pub const fn before_eq(self, other: Self) -> bool {
        !other.before(self)
    }

    /// Whether `self` is `other` or comes after it.
    pub const fn after_eq(self, other: Self) -> bool {
        !self.before(other)
    }

    /// Whether `start <= self < start + len`; false for every number when `len` is 0.
    pub const fn in_window(self, start: Self, len: u32) -> bool {
        self.since(start) < len
    }

    /// The later of the two.
    #[must_use]
    pub const fn max(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }

    /// The earlier of the two.
    #[must_use]
    pub const fn min(self, other: Self) -> Self {
        if other.before(self) { other } else { self }
    }
}

impl Add<u32> for Seq {
    type Output = Self;
    fn add(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }
}

impl AddAssign<u32> for Seq {
    fn add_assign(&mut self, n: u32) {
        *self = *self + n;
    }
}

impl Sub<u32> for Seq {
    type Output = Self;
    fn sub(self, n: u32) -> Self {
        Self(self.0.wrapping_sub(n))
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn order_holds_across_the_wrap() {
        let (a, b) = (Seq(u32::MAX - 1), Seq(3));
        assert!(a.before(b) && a.before_eq(b) && b.after(a) && b.after_eq(a));
        assert!(!b.before(a) && !a.after(b) && !a.before(a) && a.before_eq(a) && a.after_eq(a));
        assert_eq!((b.since(a), a + 5, b - 5), (5, b, a));
        assert_eq!((a.max(b), a.min(b), b.max(a), b.min(a)), (b, a, b, a));
    }

    #[test]
    fn window_is_half_open_and_may_wrap() {
        let start = Seq(u32::MAX);
        assert!(start.in_window(start, 1) && !start.in_window(start, 0));
        assert!(
            Seq(1).in_window(start, 3) && !Seq(2).in_window(start, 3) && !(start - 1).in_window(start, 3)
        );
    }

    proptest! {
        #[test]
        fn moving_ahead_by_less_than_half_is_after(start: u32, n in 1u32..1 << 31) {
            let (a, b) = (Seq(start), Seq(start) + n);
            prop_assert!(a.before(b) && b.after(a) && !b.before_eq(a));
            prop_assert_eq!(b.since(a), n);
            prop_assert!(a.in_window(a, n) && !b.in_window(a, n));
        }
    }
}
