//! Byte ranges (RFC 9110 section 14).

use super::request::decimal;
use std::ops::Range;

/// The most ranges that one request may name; one with more is answered with the whole file, as is one whose ranges
/// add up to more than the file (RFC 9110 14.2 allows it, 17.15 asks for it).
const MAX_RANGES: usize = 16;

/// Which bytes to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Selection {
    /// All of them: there is no usable `Range`.
    Whole,
    /// One range, never empty.
    One(Range<u64>),
    /// Several, none empty, as asked.
    Many(Vec<Range<u64>>),
    /// The ranges lie beyond the end.
    Unsatisfiable,
}

/// Applies a `Range` value to a file of `len` bytes. A value that is not understood counts as absent.
pub(super) fn select(value: &[u8], len: u64) -> Selection {
    let Some(set) = strip_unit(value) else { return Selection::Whole };
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut named = 0_usize;
    for spec in set.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|s| !s.is_empty()) {
        named += 1;
        let Some(range) = resolve(spec, len).filter(|_| named <= MAX_RANGES) else { return Selection::Whole };
        if !range.is_empty() {
            ranges.push(range);
        }
    }
    let total = ranges.iter().fold(0_u64, |sum, r| sum.saturating_add(r.end - r.start));
    match ranges.as_slice() {
        _ if named == 0 => Selection::Whole,
        [] => Selection::Unsatisfiable,
        [one] => Selection::One(one.clone()),
        _ if total > len => Selection::Whole,
        _ => Selection::Many(ranges),
    }
}

/// What follows `bytes=`; the unit's case does not matter.
fn strip_unit(value: &[u8]) -> Option<&[u8]> {
    let (unit, set) = value.split_at_checked(6)?;
    unit.eq_ignore_ascii_case(b"bytes=").then_some(set)
}

/// `first-last`, `first-` or `-suffix` cut to the file; an empty range when it lies beyond the end, `None` when it is
/// not of that form.
fn resolve(spec: &[u8], len: u64) -> Option<Range<u64>> {
    let dash = spec.iter().position(|&b| b == b'-')?;
    let (first, last) = (spec.get(..dash)?, spec.get(dash + 1..)?);
    if first.is_empty() {
        return Some(len.saturating_sub(number(last)?)..len);
    }
    let first = number(first)?;
    let end =
        if last.is_empty() { len } else { number(last).filter(|&l| l >= first)?.saturating_add(1).min(len) };
    Some(first.min(end)..end)
}

/// A position; one that does not fit 64 bits is as good as the largest.
fn number(digits: &[u8]) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    all_digits.then(|| decimal(digits).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_forms() {
        use Selection::{Many, One, Unsatisfiable, Whole};
        for (value, want) in [
            ("bytes=0-0", One(0..1)),
            ("bytes=0-99", One(0..10)),
            ("BYTES=2-4", One(2..5)),
            ("bytes=9-", One(9..10)),
            ("bytes=10-", Unsatisfiable),
            ("bytes=-3", One(7..10)),
            ("bytes=-99", One(0..10)),
            ("bytes=-0", Unsatisfiable),
            ("bytes=0-18446744073709551615", One(0..10)),
            ("bytes=99999999999999999999-", Unsatisfiable),
            ("bytes=0-1,4-5", Many(vec![0..2, 4..6])),
            ("bytes=0-1, ,-1", Many(vec![0..2, 9..10])),
            ("bytes=20-,1-1", One(1..2)),
            ("bytes=20-,30-", Unsatisfiable),
            ("bytes=0-,0-,0-", Whole),
            ("bytes=4-2", Whole),
            ("bytes=", Whole),
            ("bytes=,", Whole),
            ("bytes=a-b", Whole),
            ("bytes=1", Whole),
            ("bytes=+1-2", Whole),
            ("lines=0-1", Whole),
            ("", Whole),
        ] {
            assert_eq!(select(value.as_bytes(), 10), want, "{value}");
        }
        assert_eq!(select(b"bytes=0-0", 0), Unsatisfiable);
        let many = format!("bytes={}", "0-0,".repeat(MAX_RANGES + 1));
        assert_eq!(select(many.as_bytes(), 1 << 20), Whole);
    }
}
