//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! The sum is taken over eight-byte words in the byte order of the memory: ones' complement addition does not mind the word
//! size nor the byte order, so the two bytes of the result are swapped once at the end. Each 64-bit lane keeps two
//! accumulators, of whole words modulo 2^64 and of their upper halves; the sum of the lower halves, whose carries must not be
//! lost, follows from the two. That is three vector instructions per 16 bytes, and the compiler finds them.

use core::net::IpAddr;

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

/// Bytes per round of the wide loop: four vector registers of 16 bytes for each of the two accumulators.
const BLOCK: usize = 64;
const LANES: usize = BLOCK / 8;

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// The sum of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(sum_le(data))
    }

    /// Adds a piece that starts at an even offset.
    #[must_use]
    #[allow(clippy::should_implement_trait)] // Not a sum of two equals.
    pub fn add(self, data: &[u8]) -> Self {
        self.combine(Self::of(data))
    }

    /// Adds a piece that starts at an odd offset.
    #[must_use]
    pub fn add_odd(self, data: &[u8]) -> Self {
        self.combine_odd(Self::of(data))
    }

    /// Adds one 16-bit word, given as a number.
    #[must_use]
    pub const fn add_u16(self, word: u16) -> Self {
        self.combine(Self(word.swap_bytes() as u64))
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

    /// Copies `src` to the start of `dst` and sums it in the same pass. Copies as many bytes as both have.
    pub fn copy(dst: &mut [u8], src: &[u8]) -> Self {
        let n = dst.len().min(src.len());
        match (dst.get_mut(..n), src.get(..n)) {
            (Some(dst), Some(src)) => Self(copy_sum_le(dst, src)),
            _ => Self::ZERO,
        }
    }

    /// The sum of the pseudo-header that TCP, UDP and ICMPv6 checksums cover (RFC 9293 3.1, RFC 8200 8.1). `len` is the
    /// length of the upper-layer header and its data.
    pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: IpProtocol, len: u32) -> Self {
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

    /// The sum as a 16-bit number, not complemented: what a partial checksum field holds.
    pub const fn fold(self) -> u16 {
        let x = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let x = (x & 0xffff) + ((x >> 16) & 0xffff) + (x >> 32);
        let x = (x & 0xffff) + (x >> 16);
        let x = (x & 0xffff) + (x >> 16);
        (x as u16).swap_bytes()
    }

    /// The checksum field: the complement of the sum, taken while the field was zero or left out.
    pub const fn finish(self) -> u16 {
        !self.fold()
    }

    /// As [`Sum::finish`] for UDP, where 0 is sent as 0xffff (RFC 768).
    pub const fn finish_nonzero(self) -> u16 {
        match self.finish() {
            0 => 0xffff,
            sum => sum,
        }
    }

    /// Whether what was summed, its checksum field included, is intact.
    pub const fn verify(self) -> bool {
        self.fold() == 0xffff
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

/// The checksum field after a 32-bit word at an even offset under it changed from `old` to `new`.
#[must_use]
pub const fn update_u32(checksum: u16, old: u32, new: u32) -> u16 {
    let high = update_u16(checksum, (old >> 16) as u16, (new >> 16) as u16);
    update_u16(high, old as u16, new as u16)
}

/// Ones' complement addition of 64 bits: the carry out of the top comes in at the bottom.
const fn add_carry(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u64
}

/// Accumulators of the wide loop.
struct Lanes {
    whole: [u64; LANES],
    upper: [u64; LANES],
}

impl Lanes {
    const ZERO: Self = Self { whole: [0; LANES], upper: [0; LANES] };

    #[inline(always)]
    fn add(&mut self, block: &[u8; BLOCK]) {
        let (words, _) = block.as_chunks::<8>();
        for ((whole, upper), word) in self.whole.iter_mut().zip(&mut self.upper).zip(words) {
            let word = u64::from_le_bytes(*word);
            *whole = whole.wrapping_add(word);
            *upper = upper.wrapping_add(word >> 32);
        }
    }

    /// The sum of all lanes. Exact as long as no lane took more than 2^32 words: 256 GiB in one piece.
    #[inline(always)]
    fn total(&self) -> u64 {
        let mut total = 0;
        for (&whole, &upper) in self.whole.iter().zip(&self.upper) {
            let lower = whole.wrapping_sub(upper << 32);
            total = add_carry(total, add_carry(lower, upper));
        }
        total
    }
}

fn sum_le(data: &[u8]) -> u64 {
    let (blocks, rest) = data.as_chunks::<BLOCK>();
    if blocks.is_empty() {
        return sum_short(rest);
    }
    let mut lanes = Lanes::ZERO;
    for block in blocks {
        lanes.add(block);
    }
    add_carry(lanes.total(), sum_short(rest))
}

/// The sum of less than a block, with one carry chain.
#[inline(always)]
fn sum_short(data: &[u8]) -> u64 {
    let (words, tail) = data.as_chunks::<8>();
    let mut sum = 0;
    for word in words {
        sum = add_carry(sum, u64::from_le_bytes(*word));
    }
    add_carry(sum, tail_word(tail))
}

/// Up to seven bytes as a little-endian word.
#[inline(always)]
fn tail_word(tail: &[u8]) -> u64 {
    let mut word = 0;
    let (fours, rest) = tail.as_chunks::<4>();
    if let Some(&four) = fours.first() {
        word = u64::from(u32::from_le_bytes(four));
    }
    let (twos, rest) = rest.as_chunks::<2>();
    if let Some(&two) = twos.first() {
        word = word.wrapping_add(u64::from(u16::from_le_bytes(two)));
    }
    if let Some(&one) = rest.first() {
        word = word.wrapping_add(u64::from(one));
    }
    word
}

/// Both slices have the same length.
fn copy_sum_le(dst: &mut [u8], src: &[u8]) -> u64 {
    let (src_blocks, src_rest) = src.as_chunks::<BLOCK>();
    let (dst_blocks, dst_rest) = dst.as_chunks_mut::<BLOCK>();
    let mut lanes = Lanes::ZERO;
    for (to, from) in dst_blocks.iter_mut().zip(src_blocks) {
        *to = *from;
        lanes.add(from);
    }
    dst_rest.copy_from_slice(src_rest);
    add_carry(lanes.total(), sum_short(src_rest))
}
