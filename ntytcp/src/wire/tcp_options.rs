//! TCP options: MSS (RFC 9293 3.7.1), window scale and timestamps (RFC 7323), SACK (RFC 2018) and fast open (RFC 7413).
//!
//! The options are read into plain fields. They are emitted in the order that Linux uses, each group padded in front
//! with NOPs to a multiple of four bytes:
//!
//! ```text
//! SYN   MSS(4)  SACK-permitted(2) timestamps(10)  NOP window-scale(3)  fast-open(2+n) [NOP NOP]
//! data  NOP NOP timestamps(10)  NOP NOP SACK(2 + 8 per block)
//! ```

use super::{ParseError, Seq, put};

/// What the option area of a header can hold.
const SPACE: usize = 40;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
const FAST_OPEN: u8 = 34;

/// The timestamps option (RFC 7323 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Timestamps {
    /// TSval: the sender's clock.
    pub value: u32,
    /// TSecr: the peer's clock as last seen; 0 without ACK.
    pub echo: u32,
}

/// Up to four ranges of received data (RFC 2018), as left edge and the number behind the right edge, in the order of the wire.
#[derive(Clone, Copy, Default)]
pub struct SackBlocks {
    blocks: [(Seq, Seq); Self::CAPACITY],
    len: u8,
}

impl SackBlocks {
    /// How many blocks there can be: four in 40 bytes, three beside timestamps.
    pub const CAPACITY: usize = 4;

    /// Adds a block behind the others; `false`, and no change, when there are four.
    pub fn push(&mut self, left: Seq, right: Seq) -> bool {
        match self.blocks.get_mut(usize::from(self.len)) {
            Some(slot) => {
                *slot = (left, right);
                self.len += 1;
                true
            }
            None => false,
        }
    }

    /// The blocks as a slice.
    pub fn as_slice(&self) -> &[(Seq, Seq)] {
        self.blocks.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// The blocks.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Seq, Seq)> + '_ {
        self.as_slice().iter().copied()
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl PartialEq for SackBlocks {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for SackBlocks {}

impl core::fmt::Debug for SackBlocks {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The cookie of the fast open option (RFC 7413 4.1.1): empty as a request for one, else 4 to 16 bytes, an even number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FastOpenCookie {
    /// Zero behind `len`.
    bytes: [u8; 16],
    len: u8,
}

impl FastOpenCookie {
    /// The empty cookie: please send me one.
    pub const REQUEST: Self = Self { bytes: [0; 16], len: 0 };

    /// The cookie with these bytes; `None` for a length that the RFC does not allow.
    pub fn new(cookie: &[u8]) -> Option<Self> {
        let allowed = matches!(cookie.len(), 0 | 4 | 6 | 8 | 10 | 12 | 14 | 16);
        let mut bytes = [0; 16];
        bytes.get_mut(..cookie.len()).filter(|_| allowed)?.copy_from_slice(cookie);
        Some(Self { bytes, len: cookie.len() as u8 })
    }

    /// The bytes of the cookie.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Length of the option in the header, padding included.
    const fn option_len(&self) -> usize {
        (2 + self.len as usize).next_multiple_of(4)
    }
}

impl core::fmt::Debug for FastOpenCookie {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "FastOpenCookie({:02x?})", self.as_bytes())
    }
}

/// The options of a segment that this stack knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpOptions {
    /// Maximum segment size, SYN only.
    pub mss: Option<u16>,
    /// Shift count of the sender's windows, SYN only. A received one above 14 reads as 14 (RFC 7323 2.3).
    pub window_scale: Option<u8>,
    /// The sender takes SACK, SYN only.
    pub sack_permitted: bool,
    /// What the receiver holds beyond the acknowledgment.
    pub sack: SackBlocks,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// Fast open cookie, or the request for one, SYN only.
    pub fast_open: Option<FastOpenCookie>,
}

impl TcpOptions {
    /// No option.
    pub const NONE: Self = Self {
        mss: None,
        window_scale: None,
        sack_permitted: false,
        sack: SackBlocks { blocks: [(Seq(0), Seq(0)); SackBlocks::CAPACITY], len: 0 },
        timestamps: None,
        fast_open: None,
    };

    /// Reads the option area of a header.
    ///
    /// Unknown options, and known ones of a wrong length, are skipped (RFC 9293 3.1, MUST-6). Of an option that comes twice
    /// the last counts. A length byte below 2 ends the list, as nothing behind it can be made sense of.
    ///
    /// # Errors
    /// [`ParseError::Malformed`] when an option reaches beyond the area.
    #[inline(always)] // As the header's.
    pub fn parse(area: &[u8]) -> Result<Self, ParseError> {
        match area {
            [] => Ok(Self::NONE),
            // Every segment of an established connection with timestamps looks like this.
            &[NOP, NOP, TIMESTAMPS, 10, v0, v1, v2, v3, e0, e1, e2, e3] => {
                let value = u32::from_be_bytes([v0, v1, v2, v3]);
                let echo = u32::from_be_bytes([e0, e1, e2, e3]);
                Ok(Self { timestamps: Some(Timestamps { value, echo }), ..Self::NONE })
            }
            // A SYN of ours or of Linux, without timestamps.
            &[MSS, 4, m0, m1, NOP, NOP, SACK_PERMITTED, 2, NOP, WINDOW_SCALE, 3, shift] => {
                let (mss, window_scale) = (Some(u16::from_be_bytes([m0, m1])), Some(shift.min(14)));
                Ok(Self { mss, window_scale, sack_permitted: true, ..Self::NONE })
            }
            area => Self::parse_any(area),
        }
    }

    #[inline(never)]
    fn parse_any(mut area: &[u8]) -> Result<Self, ParseError> {
        let mut options = Self::NONE;
        while let Some((&kind, rest)) = area.split_first() {
            match kind {
                END => break,
                NOP => area = rest,
                kind => {
                    let (&len, rest) = rest.split_first().ok_or(ParseError::Malformed)?;
                    let Some(body_len) = usize::from(len).checked_sub(2) else { break };
                    let (body, rest) = rest.split_at_checked(body_len).ok_or(ParseError::Malformed)?;
                    options.read(kind, body);
                    area = rest;
                }
            }
        }
        Ok(options)
    }

    /// Takes in one option of which `body` follows the length byte.
    fn read(&mut self, kind: u8, body: &[u8]) {
        match (kind, body) {
            (MSS, &[a, b]) => self.mss = Some(u16::from_be_bytes([a, b])),
            (WINDOW_SCALE, &[shift]) => self.window_scale = Some(shift.min(14)),
            (SACK_PERMITTED, []) => self.sack_permitted = true,
            (SACK, blocks) => {
                if let (edges @ ([_] | [_, _] | [_, _, _] | [_, _, _, _]), []) = blocks.as_chunks::<8>() {
                    self.sack = SackBlocks::default();
                    for &[l0, l1, l2, l3, r0, r1, r2, r3] in edges {
                        let left = Seq(u32::from_be_bytes([l0, l1, l2, l3]));
                        self.sack.push(left, Seq(u32::from_be_bytes([r0, r1, r2, r3])));
                    }
                }
            }
            (TIMESTAMPS, &[v0, v1, v2, v3, e0, e1, e2, e3]) => {
                let value = u32::from_be_bytes([v0, v1, v2, v3]);
                self.timestamps = Some(Timestamps { value, echo: u32::from_be_bytes([e0, e1, e2, e3]) });
            }
            (FAST_OPEN, cookie) => self.fast_open = FastOpenCookie::new(cookie).or(self.fast_open),
            _ => {}
        }
    }

    /// Length of the emitted options in bytes: 0 to 40, a multiple of 4. SACK blocks that find no room are not counted.
    #[allow(clippy::len_without_is_empty)] // Asked for by nobody; a header does not care.
    #[inline]
    pub fn len(&self) -> usize {
        let used = self.len_without_sack();
        if self.sack.is_empty() {
            return used;
        }
        match sack_blocks_that_fit(self.sack.len(), used) {
            0 => used,
            blocks => used + 4 + 8 * blocks,
        }
    }

    /// At most 40: MSS 4, SACK-permitted and timestamps 12, window scale 4, fast open 20.
    fn len_without_sack(&self) -> usize {
        let sack_permitted_and_timestamps = match (self.sack_permitted, self.timestamps) {
            (_, Some(_)) => 12,
            (true, None) => 4,
            (false, None) => 0,
        };
        let fast_open = self.fast_open.map_or(0, |cookie| cookie.option_len());
        4 * usize::from(self.mss.is_some())
            + sack_permitted_and_timestamps
            + 4 * usize::from(self.window_scale.is_some())
            + fast_open
    }

    /// Writes the options at the start of `buf`. Answers their length, or `None` when `buf` is shorter than
    /// [`TcpOptions::len`].
    #[inline]
    pub fn emit(&self, buf: &mut [u8]) -> Option<usize> {
        if buf.is_empty() && self.len() == 0 {
            return Some(0);
        }
        let len = self.len();
        let rest = &mut buf.get_mut(..len)?;
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            put(rest, [MSS, 4, a, b])?;
        }
        match (self.sack_permitted, self.timestamps) {
            (true, Some(timestamps)) => {
                put(rest, [SACK_PERMITTED, 2, TIMESTAMPS, 10])?;
                put_timestamps(rest, timestamps)?;
            }
            (true, None) => put(rest, [NOP, NOP, SACK_PERMITTED, 2])?,
            (false, Some(timestamps)) => {
                put(rest, [NOP, NOP, TIMESTAMPS, 10])?;
                put_timestamps(rest, timestamps)?;
            }
            (false, None) => {}
        }
        if let Some(shift) = self.window_scale {
            put(rest, [NOP, WINDOW_SCALE, 3, shift])?;
        }
        if let Some(cookie) = &self.fast_open {
            put_cookie(rest, cookie)?;
        }
        let blocks = sack_blocks_that_fit(self.sack.len(), self.len_without_sack());
        if blocks > 0 {
            put(rest, [NOP, NOP, SACK, (2 + 8 * blocks) as u8])?;
            for (left, right) in self.sack.iter().take(blocks) {
                put(rest, left.0.to_be_bytes())?;
                put(rest, right.0.to_be_bytes())?;
            }
        }
        Some(len)
    }
}

/// How many of `blocks` find room behind `used` bytes of other options.
fn sack_blocks_that_fit(blocks: usize, used: usize) -> usize {
    blocks.min(SPACE.saturating_sub(used + 4) / 8)
}

fn put_timestamps(buf: &mut &mut [u8], timestamps: Timestamps) -> Option<()> {
    put(buf, timestamps.value.to_be_bytes())?;
    put(buf, timestamps.echo.to_be_bytes())
}

fn put_cookie(buf: &mut &mut [u8], cookie: &FastOpenCookie) -> Option<()> {
    put(buf, [FAST_OPEN, 2 + cookie.len])?;
    // Cookies come in pairs of bytes, so that padding does too.
    for &pair in cookie.as_bytes().as_chunks::<2>().0 {
        put(buf, pair)?;
    }
    if cookie.option_len() > 2 + usize::from(cookie.len) { put(buf, [NOP, NOP]) } else { Some(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMESTAMPS_1_2: Option<Timestamps> = Some(Timestamps { value: 1, echo: 2 });

    fn emitted(options: &TcpOptions) -> Vec<u8> {
        let mut buf = [0xaa; SPACE];
        let len = options.emit(&mut buf).unwrap();
        assert_eq!(len, options.len());
        assert!(len == 0 || options.emit(&mut buf[..len - 1]).is_none());
        buf[..len].to_vec()
    }

    fn sack(blocks: &[(u32, u32)]) -> SackBlocks {
        let mut sack = SackBlocks::default();
        assert!(blocks.iter().all(|&(left, right)| sack.push(Seq(left), Seq(right))));
        sack
    }

    #[test]
    fn syn_options_come_in_the_order_of_linux() {
        let options = TcpOptions {
            mss: Some(1_460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: TIMESTAMPS_1_2,
            ..TcpOptions::NONE
        };
        let bytes = emitted(&options);
        assert_eq!(bytes, [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7]);
        assert_eq!(TcpOptions::parse(&bytes), Ok(options));
    }

    #[test]
    fn data_options_are_aligned_by_nops_in_front() {
        let options = TcpOptions {
            timestamps: TIMESTAMPS_1_2,
            sack: sack(&[(5, 6), (u32::MAX, 9)]),
            ..TcpOptions::NONE
        };
        let bytes = emitted(&options);
        assert_eq!(bytes[..16], [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1, 5, 18]);
        assert_eq!(bytes[16..], [0, 0, 0, 5, 0, 0, 0, 6, 255, 255, 255, 255, 0, 0, 0, 9]);
        assert_eq!(TcpOptions::parse(&bytes), Ok(options));
        assert_eq!(emitted(&TcpOptions { sack_permitted: true, ..TcpOptions::NONE }), [1, 1, 4, 2]);
    }

    #[test]
    fn fast_open_cookie_and_request_round_trip() {
        let cookie = FastOpenCookie::new(&[1, 2, 3, 4]).unwrap();
        let options = TcpOptions { fast_open: Some(cookie), ..TcpOptions::NONE };
        assert_eq!(emitted(&options), [34, 6, 1, 2, 3, 4, 1, 1]);
        assert_eq!(TcpOptions::parse(&emitted(&options)), Ok(options));
        let request = TcpOptions { fast_open: Some(FastOpenCookie::REQUEST), ..TcpOptions::NONE };
        assert_eq!(emitted(&request), [34, 2, 1, 1]);
        assert_eq!(TcpOptions::parse(&[34, 2]), Ok(request));
        for len in [1, 2, 3, 5, 17, 18] {
            assert_eq!(FastOpenCookie::new(&vec![0; len]), None, "{len} bytes");
        }
    }

    #[test]
    fn sack_blocks_that_find_no_room_are_dropped() {
        let four = sack(&[(1, 2), (3, 4), (5, 6), (7, 8)]);
        let alone = TcpOptions { sack: four, ..TcpOptions::NONE };
        assert_eq!((alone.len(), TcpOptions::parse(&emitted(&alone)).unwrap().sack.len()), (36, 4));
        let beside = TcpOptions { timestamps: TIMESTAMPS_1_2, ..alone };
        assert_eq!((beside.len(), TcpOptions::parse(&emitted(&beside)).unwrap().sack.len()), (40, 3));
        let full = TcpOptions {
            mss: Some(1),
            window_scale: Some(1),
            sack_permitted: true,
            fast_open: FastOpenCookie::new(&[7; 16]),
            ..beside
        };
        assert_eq!((full.len(), TcpOptions::parse(&emitted(&full)).unwrap().sack.len()), (40, 0));
        let mut blocks = four;
        assert!(!blocks.push(Seq(9), Seq(10)));
        assert_eq!(blocks, four);
    }

    #[test]
    fn unknown_and_wrongly_sized_options_are_skipped() {
        let bytes = [253, 4, 0xf9, 0x89, 2, 3, 9, 3, 2, 5, 4, 1, 1, 34, 5, 1, 2, 3, 2, 4, 2, 0];
        let options = TcpOptions::parse(&bytes).unwrap();
        assert_eq!(options, TcpOptions { mss: Some(512), ..TcpOptions::NONE });
    }

    #[test]
    fn end_of_list_and_nonsense_length_end_the_list() {
        let mss = TcpOptions { mss: Some(512), ..TcpOptions::NONE };
        assert_eq!(TcpOptions::parse(&[2, 4, 2, 0, 0, 3, 3, 7]), Ok(mss));
        assert_eq!(TcpOptions::parse(&[2, 4, 2, 0, 3, 1, 3, 3, 7]), Ok(mss));
        assert_eq!(TcpOptions::parse(&[2, 4, 2, 0, 3, 0, 3, 3, 7]), Ok(mss));
    }

    #[test]
    fn option_beyond_the_header_is_malformed() {
        for bytes in [&[1, 2][..], &[2, 4, 5], &[1, 1, 8, 11, 0, 0, 0, 1, 0, 0, 0, 2], &[5, 255, 0, 0]] {
            assert_eq!(TcpOptions::parse(bytes), Err(ParseError::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn window_scale_is_limited_to_14() {
        assert_eq!(TcpOptions::parse(&[3, 3, 14]).unwrap().window_scale, Some(14));
        assert_eq!(TcpOptions::parse(&[3, 3, 255]).unwrap().window_scale, Some(14));
    }

    #[test]
    fn timestamps_alone_read_the_same_in_any_padding() {
        let fast = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
        let slow = [8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
        let expected = Some(Timestamps { value: 0x0102_0304, echo: 0x0506_0708 });
        assert_eq!(TcpOptions::parse(&fast), TcpOptions::parse(&slow));
        assert_eq!(TcpOptions::parse(&fast).unwrap().timestamps, expected);
    }
}
