//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Ones' complement addition does not mind the word size nor the byte order: the sum is taken over words as they lie in
//! memory, and the two bytes of the result are swapped once at the end. Long inputs are summed in 32-bit lanes. A lane loses
//! the carries of what it adds, so a second one sums the upper halves of the words; the sum of the lower halves follows from
//! the two. That is three vector instructions per vector, and the compiler finds them.

use core::net::{IpAddr, Ipv4Addr};

use super::IpProtocol;

/// A partial ones' complement sum.
///
/// Pieces are added in any order; each is taken to start at an even offset of what is summed, unless it is added by one
/// of the `_odd` functions. A piece of odd length counts as if a zero byte followed it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(
    /// Sum of the 16-bit words read as little endian, not yet folded, carries out of bit 63 added back at bit 0.
    u64,
);

/// The wide loop takes whole blocks, so that four of the compiler's vectors side by side leave no words over.
const BLOCK: usize = 128;

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// The sum of `data`.
    #[inline]
    pub fn of(data: &[u8]) -> Self {
        Self(sum_le(data))
    }

    /// Adds a piece that starts at an even offset.
    #[must_use]
    #[allow(clippy::should_implement_trait)] // Not a sum of two equals.
    #[inline]
    pub fn add(self, data: &[u8]) -> Self {
        self.combine(Self::of(data))
    }

    /// Adds one 16-bit word, given as a number.
    #[must_use]
    pub const fn add_u16(self, word: u16) -> Self {
        self.combine(Self(word.swap_bytes() as u64))
    }

    /// Adds two 16-bit words, given as one number.
    #[must_use]
    pub const fn add_u32(self, words: u32) -> Self {
        self.combine(Self(words.swap_bytes() as u64))
    }

    /// Adds 16-bit words, given as a number in network order whose parts they are, or as the sum of such numbers.
    #[must_use]
    #[inline(always)]
    pub(crate) const fn add_words(self, words: u64) -> Self {
        // As in `combine_odd`: numbers and what lies in memory differ by the order of bytes within words.
        self.combine_odd(Self(words))
    }

    /// Adds the sum of a piece that starts at an even offset.
    #[must_use]
    pub const fn combine(self, other: Self) -> Self {
        Self(add_carry(self.0, other.0))
    }

    /// Adds the sum of a piece that starts at an odd offset: its bytes change places within their words.
    #[must_use]
    pub const fn combine_odd(self, other: Self) -> Self {
        // Rotating by one byte exchanges the bytes of every 16-bit word, as 2^16 is 1 modulo 2^16 - 1.
        self.combine(Self(other.0.rotate_left(8)))
    }

    /// Copies `src` to the start of `dst` and sums it. Copies as many bytes as both have.
    ///
    /// Of a long input the sum is a second pass, over the source: what has just been stored cannot be read at full speed yet. One
    /// loop that does both was slower by 5 % in a bulk transfer, with the same vectors.
    #[inline]
    pub fn copy(dst: &mut [u8], src: &[u8]) -> Self {
        let n = dst.len().min(src.len());
        let (Some(dst), Some(src)) = (dst.get_mut(..n), src.get(..n)) else { return Self::ZERO };
        if n < SHORT {
            return Self(copy_short(dst, src));
        }
        dst.copy_from_slice(src);
        Self(sum_long(src))
    }

    /// The sum of the pseudo-header that TCP, UDP and ICMPv6 checksums cover (RFC 9293 3.1, RFC 8200 8.1). `len` is the
    /// length of the upper-layer header and its data.
    #[inline]
    pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: IpProtocol, len: u32) -> Self {
        if let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) {
            return Self::pseudo_header_v4(src, dst, protocol, len);
        }
        let address = |ip| match ip {
            IpAddr::V4(ip) => u64::from(u32::from_le_bytes(ip.octets())),
            IpAddr::V6(ip) => {
                let x = u128::from_le_bytes(ip.octets());
                add_carry(x as u64, (x >> 64) as u64)
            }
        };
        let rest = u64::from(len.swap_bytes()) + (u64::from(protocol.0) << 8);
        Self(add_carry(add_carry(address(src), address(dst)), rest))
    }

    /// As [`Sum::pseudo_header`] of two IPv4 addresses.
    #[inline(always)]
    pub const fn pseudo_header_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: IpProtocol, len: u32) -> Self {
        let (src, dst) = (u32::from_le_bytes(src.octets()), u32::from_le_bytes(dst.octets()));
        Self(src as u64 + dst as u64 + len.swap_bytes() as u64 + ((protocol.0 as u64) << 8))
    }

    /// The sum as a 16-bit number, not complemented: what a partial checksum field holds.
    #[inline]
    pub const fn fold(self) -> u16 {
        // Ones' complement addition is addition modulo 2^16 - 1, but only the sum of nothing but zeros is 0. The compiler
        // multiplies.
        let x = match self.0 {
            0 => 0,
            x => (x - 1) % 0xffff + 1,
        };
        (x as u16).swap_bytes()
    }

    /// The checksum field: the complement of the sum, taken while the field was zero or left out.
    #[inline]
    pub const fn finish(self) -> u16 {
        !self.fold()
    }

    /// As [`Sum::finish`] for UDP, where 0 is sent as 0xffff (RFC 768).
    #[inline]
    pub const fn finish_nonzero(self) -> u16 {
        match self.finish() {
            0 => 0xffff,
            sum => sum,
        }
    }

    /// Whether what was summed, its checksum field included, is intact.
    #[inline]
    pub const fn verify(self) -> bool {
        // As `fold` says: it is 0xffff.
        self.0 != 0 && self.0.is_multiple_of(0xffff)
    }
}

/// The checksum field after a 16-bit word under it changed from `old` to `new` (RFC 1624, equation 3).
#[must_use]
pub const fn update_u16(checksum: u16, old: u16, new: u16) -> u16 {
    let x = !checksum as u32 + !old as u32 + new as u32;
    let x = (x & 0xffff) + (x >> 16);
    let x = (x & 0xffff) + (x >> 16);
    !(x as u16)
}

/// Ones' complement addition of 64 bits: the carry out of the top comes in at the bottom.
const fn add_carry(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u64
}

/// Inputs below this many bytes, headers for the most part, are not worth the start of the wide loop.
const SHORT: usize = 128;

/// How many bytes the wide loop takes before its accumulators might overflow: 2^15 words whose halves are below 2^16.
const SPAN: usize = 1 << 17;

#[inline]
fn sum_le(data: &[u8]) -> u64 {
    if data.len() < SHORT { sum_short(data) } else { sum_long(data) }
}

/// How many words the loops over short inputs take at a time, so that most of their instructions are additions.
const FEW: usize = 4;

/// The sum of less than [`SHORT`] bytes; of a length known to the compiler, a handful of additions.
#[inline(always)]
fn sum_short(data: &[u8]) -> u64 {
    let (words, rest) = data.as_chunks::<8>();
    let (blocks, words) = words.as_chunks::<FEW>();
    // The carries gather above bit 63 and are added once.
    let mut sum = u128::from(tail_word(rest));
    let number = |word: &[u8; 8]| u128::from(u64::from_le_bytes(*word));
    for block in blocks {
        for word in block {
            sum += number(word);
        }
    }
    for word in words {
        sum += number(word);
    }
    add_carry(sum as u64, (sum >> 64) as u64)
}

/// As [`sum_short`], copying `src` to `dst`, which is as long, on the way.
#[inline(always)]
fn copy_short(dst: &mut [u8], src: &[u8]) -> u64 {
    let (to, to_rest) = dst.as_chunks_mut::<8>();
    let (words, rest) = src.as_chunks::<8>();
    let (to_blocks, to) = to.as_chunks_mut::<FEW>();
    let (blocks, words) = words.as_chunks::<FEW>();
    let mut sum = u128::from(tail_word(rest));
    for (to, block) in to_blocks.iter_mut().zip(blocks) {
        *to = *block;
        for word in block {
            sum += u128::from(u64::from_le_bytes(*word));
        }
    }
    for (to, word) in to.iter_mut().zip(words) {
        *to = *word;
        sum += u128::from(u64::from_le_bytes(*word));
    }
    for (to, byte) in to_rest.iter_mut().zip(rest) {
        *to = *byte;
    }
    add_carry(sum as u64, (sum >> 64) as u64)
}

/// Fewer than eight bytes as the low end of a word.
#[inline(always)]
fn tail_word(mut rest: &[u8]) -> u64 {
    let (mut word, mut shift) = (0, 0);
    if let Some((&four, after)) = rest.split_first_chunk::<4>() {
        (word, shift, rest) = (u64::from(u32::from_le_bytes(four)), 32, after);
    }
    if let Some((&two, after)) = rest.split_first_chunk::<2>() {
        word |= u64::from(u16::from_le_bytes(two)) << shift;
        (shift, rest) = (shift + 16, after);
    }
    if let Some(&byte) = rest.first() {
        word |= u64::from(byte) << shift;
    }
    word
}

/// The loop is compiled for wider vectors too, and the processor at hand decides.
#[multiversion::multiversion(targets("x86_64+avx2"))]
fn sum_long(data: &[u8]) -> u64 {
    if data.len() <= SPAN {
        return sum_span(data);
    }
    data.chunks(SPAN).fold(0, |sum, span| add_carry(sum, sum_span(span)))
}

#[inline(always)]
fn sum_span(span: &[u8]) -> u64 {
    let (blocks, rest) = span.as_chunks::<BLOCK>();
    let (mut whole, mut upper) = (0u32, 0u32);
    for word in blocks.as_flattened().as_chunks::<4>().0 {
        let word = u32::from_le_bytes(*word);
        whole = whole.wrapping_add(word);
        upper = upper.wrapping_add(word >> 16);
    }
    add_carry(lane_total(whole, upper), sum_short(rest))
}

/// The sum of the 16-bit words that went into a lane, from the sum of the 32-bit words modulo 2^32 and that of their upper
/// halves, which is exact for [`SPAN`] bytes. That of the lower halves is below 2^32 too, so what is known of it modulo 2^32 is
/// all of it.
#[inline(always)]
fn lane_total(whole: u32, upper: u32) -> u64 {
    u64::from(whole.wrapping_sub(upper << 16)) + u64::from(upper)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, section 4.1, as it stands.
    fn naive(data: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in data.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// Bytes without a period that divides a word.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..len).map(|_| byte()).collect()
    }

    #[test]
    fn rfc_1071_example() {
        assert_eq!(Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).fold(), 0xddf2);
    }

    #[test]
    fn every_length_at_every_alignment_equals_the_naive_sum() {
        let data = noise(400);
        for start in 0..64 {
            for len in 0..=(data.len() - start) {
                let piece = &data[start..start + len];
                assert_eq!(Sum::of(piece).fold(), naive(piece), "{len} bytes at {start}");
            }
        }
    }

    #[test]
    fn carries_survive_in_long_runs_of_ones() {
        let ones = vec![0xff; 3 * SPAN];
        for len in [2, 127, 128, 129, 1_460, 9_000, 65_535, SPAN, SPAN + 1, 3 * SPAN] {
            assert_eq!(Sum::of(&ones[..len]).fold(), naive(&ones[..len]), "{len} bytes");
            // Adding to a sum that is full already must not lose the carry out of bit 63.
            assert_eq!(Sum(u64::MAX).add(&ones[..len]).fold(), naive(&ones[..len]), "{len} bytes");
        }
    }

    #[test]
    fn copy_copies_what_fits_and_sums_it() {
        let src = noise(300);
        for (dst_len, src_len) in (0..=300).map(|n| (n, n)).chain([(100, 300), (300, 100), (0, 9)]) {
            let mut dst = vec![0; dst_len];
            let n = dst_len.min(src_len);
            assert_eq!(Sum::copy(&mut dst, &src[..src_len]).fold(), naive(&src[..n]));
            assert_eq!(dst[..n], src[..n]);
            assert!(dst[n..].iter().all(|&b| b == 0));
        }
    }

    #[test]
    fn copy_does_not_depend_on_where_either_side_lies() {
        let src = noise(320);
        let mut dst = vec![0; 320];
        for len in 0..300 {
            for (from, to) in (0..9).flat_map(|from| (0..9).map(move |to| (from, to))) {
                let piece = &src[from..from + len];
                dst.fill(0xee);
                let sum = Sum::copy(&mut dst[to..to + len], piece);
                assert_eq!(sum.fold(), Sum::of(piece).fold(), "{len} bytes from {from} to {to}");
                assert_eq!(&dst[to..to + len], piece);
                assert!(dst[..to].iter().chain(&dst[to + len..]).all(|&b| b == 0xee));
            }
        }
    }

    #[test]
    fn the_loop_for_wide_vectors_sums_as_the_one_for_any_processor() {
        let (noise, ones) = (noise(SPAN + 99), vec![0xff; SPAN + 99]);
        let around = |n: usize| n.saturating_sub(3)..n + 4;
        let lens = (4..24).map(|n| 32 * n).chain([4_096, SPAN - 32, SPAN, SPAN + 32]).flat_map(around);
        for len in lens {
            for data in [&noise[1..1 + len], &ones[..len]] {
                assert_eq!(Sum(sum_long(data)).fold(), naive(data), "{len} bytes");
                assert_eq!(Sum(data.chunks(SPAN).map(sum_span).fold(0, add_carry)).fold(), naive(data));
            }
        }
    }

    #[test]
    fn pseudo_header_equals_its_bytes() {
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.255".parse().unwrap(), "198.51.100.1".parse().unwrap());
        let bytes = [192, 0, 2, 255, 198, 51, 100, 1, 0, 6, 0x12, 0x34];
        assert_eq!(Sum::pseudo_header(a, b, IpProtocol::TCP, 0x1234).fold(), naive(&bytes));
        let (a, b): (core::net::Ipv6Addr, core::net::Ipv6Addr) =
            ("2001:db8::ffff".parse().unwrap(), "fe80::1:2:3".parse().unwrap());
        let bytes = [&a.octets()[..], &b.octets(), &[0, 1, 0x12, 0x34, 0, 0, 0, 58]].concat();
        let sum = Sum::pseudo_header(a.into(), b.into(), IpProtocol::ICMPV6, 0x0001_1234);
        assert_eq!(sum.fold(), naive(&bytes));
    }

    #[test]
    fn incremental_update_avoids_the_corner_case_of_rfc_1624() {
        // RFC 1624, section 4: equation 2 of RFC 1141 gives 0xffff here.
        assert_eq!(update_u16(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn pieces_add_up_wherever_the_cut_is(data in prop::collection::vec(any::<u8>(), 0..600), cut: prop::sample::Index) {
            let (head, tail) = data.split_at(cut.index(data.len() + 1));
            let sum = if head.len() % 2 == 0 { Sum::of(head).add(tail) } else { Sum::of(head).combine_odd(Sum::of(tail)) };
            prop_assert_eq!(sum.fold(), naive(&data));
        }

        #[test]
        fn updated_checksum_equals_a_new_one(mut data in prop::collection::vec(any::<u8>(), 8..80), word: u16) {
            // A word that is never zero keeps the sum from being the one that has two representations.
            data[0] |= 1;
            let check = Sum::of(&data).finish();
            let old = u16::from_be_bytes([data[2], data[3]]);
            data[2..4].copy_from_slice(&word.to_be_bytes());
            let check = update_u16(check, old, word);
            prop_assert_eq!(check, Sum::of(&data).finish());
        }

        #[test]
        fn data_with_its_checksum_verifies_and_one_flipped_bit_does_not(
            mut data in prop::collection::vec(any::<u8>(), 4..200), bit: prop::sample::Index
        ) {
            data[0] |= 1;
            let data = &mut data[..];
            data[2..4].fill(0);
            let check = Sum::of(data).finish();
            data[2..4].copy_from_slice(&check.to_be_bytes());
            prop_assert!(Sum::of(data).verify());
            let bit = bit.index(data.len() * 8);
            data[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!Sum::of(data).verify());
        }

        #[test]
        fn pseudo_header_of_version_4_equals_its_bytes(src: [u8; 4], dst: [u8; 4], protocol: u8, len: u16) {
            let [high, low] = len.to_be_bytes();
            let bytes = [&src[..], &dst, &[0, protocol, high, low]].concat();
            let sum = Sum::pseudo_header_v4(src.into(), dst.into(), IpProtocol(protocol), len.into());
            prop_assert_eq!(sum.fold(), naive(&bytes));
            let any = Sum::pseudo_header(IpAddr::from(src), IpAddr::from(dst), IpProtocol(protocol), len.into());
            prop_assert_eq!(any.fold(), naive(&bytes));
        }

        #[test]
        fn words_given_as_numbers_count_as_their_bytes(words in prop::collection::vec(any::<u16>(), 0..20)) {
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).collect();
            prop_assert_eq!(words.iter().fold(Sum::ZERO, |sum, &w| sum.add_u16(w)).fold(), naive(&bytes));
        }
    }
}
