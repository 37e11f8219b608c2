//! Ethernet II framing, with up to two VLAN tags (IEEE 802.3, 802.1Q, 802.1ad).
//!
//! ```text
//!  0            6           12           14   (each tag: 4 bytes)
//! +------------+------------+- - - - - - - - - -+-----------+---------
//! | dst        | src        : TPID (2)  TCI (2) : ethertype | payload
//! +------------+------------+- - - - - - - - - -+-----------+---------
//! ```

use super::{EtherType, MacAddr, ParseError, put};

/// One 802.1Q tag.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VlanTag {
    /// Tag protocol identifier: [`EtherType::VLAN`] or [`EtherType::QINQ`].
    pub tpid: EtherType,
    /// Tag control information: PCP, DEI and VID.
    pub tci: u16,
}

impl VlanTag {
    /// A customer tag of VLAN `vid` (the low 12 bits) with priority 0.
    pub const fn new(vid: u16) -> Self {
        Self { tpid: EtherType::VLAN, tci: vid & 0xfff }
    }

    /// Priority code point, 0 to 7.
    pub const fn pcp(self) -> u8 {
        (self.tci >> 13) as u8
    }

    /// Drop eligible indicator.
    pub const fn dei(self) -> bool {
        self.tci & 0x1000 != 0
    }

    /// VLAN identifier, 0 to 4095; 0 is a priority tag without a VLAN.
    pub const fn vid(self) -> u16 {
        self.tci & 0xfff
    }
}

/// Up to two VLAN tags, outermost first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct VlanTags {
    outer: Option<VlanTag>,
    inner: Option<VlanTag>,
}

impl VlanTags {
    /// No tag.
    pub const NONE: Self = Self { outer: None, inner: None };

    /// One tag.
    pub const fn single(tag: VlanTag) -> Self {
        Self { outer: Some(tag), inner: None }
    }

    /// Two tags; `outer` is on the wire first.
    pub const fn double(outer: VlanTag, inner: VlanTag) -> Self {
        Self { outer: Some(outer), inner: Some(inner) }
    }

    /// How many tags there are.
    pub const fn len(&self) -> usize {
        self.outer.is_some() as usize + self.inner.is_some() as usize
    }

    /// Whether the frame is untagged.
    pub const fn is_empty(&self) -> bool {
        self.outer.is_none()
    }

    /// The tag that is first on the wire.
    pub const fn outer(&self) -> Option<VlanTag> {
        self.outer
    }

    /// The second tag of a doubly tagged frame.
    pub const fn inner(&self) -> Option<VlanTag> {
        self.inner
    }

    /// The tags in wire order.
    pub fn iter(&self) -> impl Iterator<Item = VlanTag> + use<> {
        [self.outer, self.inner].into_iter().flatten()
    }
}

/// The header of an Ethernet II frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EthernetHeader {
    /// The station that is to receive the frame.
    pub dst: MacAddr,
    /// The station that sent it.
    pub src: MacAddr,
    /// VLAN tags.
    pub vlan: VlanTags,
    /// What the payload is. When a frame has a third tag, the ethertype of that tag.
    pub ethertype: EtherType,
}

impl EthernetHeader {
    /// Length of the header of an untagged frame.
    pub const LEN: usize = 14;
    /// Length of the longest header, with two tags.
    pub const MAX_LEN: usize = 22;
    /// The shortest Ethernet frame without its checksum. Devices pad; parsers must expect padding.
    pub const MIN_FRAME: usize = 60;

    /// Splits a frame into its header and its payload; the payload may end in padding.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] when the frame ends within the header.
    #[inline(always)] // Fields that go through memory one by one and are read together stall the processor.
    pub fn parse(frame: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        let (h, mut payload) = frame.split_first_chunk::<14>().ok_or(ParseError::Truncated)?;
        let &[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = h;
        let mut header = Self {
            dst: MacAddr([d0, d1, d2, d3, d4, d5]),
            src: MacAddr([s0, s1, s2, s3, s4, s5]),
            vlan: VlanTags::NONE,
            ethertype: EtherType(u16::from_be_bytes([t0, t1])),
        };
        for slot in [&mut header.vlan.outer, &mut header.vlan.inner] {
            if !matches!(header.ethertype, EtherType::VLAN | EtherType::QINQ) {
                break;
            }
            let (&[c0, c1, t0, t1], rest) = payload.split_first_chunk::<4>().ok_or(ParseError::Truncated)?;
            *slot = Some(VlanTag { tpid: header.ethertype, tci: u16::from_be_bytes([c0, c1]) });
            header.ethertype = EtherType(u16::from_be_bytes([t0, t1]));
            payload = rest;
        }
        Ok((header, payload))
    }

    /// Length of the emitted header in bytes: 14, 18 or 22.
    #[allow(clippy::len_without_is_empty)] // A header is never empty.
    pub const fn len(&self) -> usize {
        Self::LEN + 4 * self.vlan.len()
    }

    /// Writes the header at the start of `buf`. Answers its length, or `None` when `buf` is too short.
    #[inline]
    pub fn emit(&self, buf: &mut [u8]) -> Option<usize> {
        let len = self.len();
        if len == Self::LEN {
            let (fixed, _) = buf.split_first_chunk_mut::<14>()?;
            fixed[..6].copy_from_slice(&self.dst.0);
            fixed[6..12].copy_from_slice(&self.src.0);
            fixed[12..].copy_from_slice(&self.ethertype.0.to_be_bytes());
            return Some(len);
        }
        let buf = &mut buf.get_mut(..len)?;
        put(buf, self.dst.0)?;
        put(buf, self.src.0)?;
        for tag in self.vlan.iter() {
            put(buf, tag.tpid.0.to_be_bytes())?;
            put(buf, tag.tci.to_be_bytes())?;
        }
        put(buf, self.ethertype.0.to_be_bytes())?;
        Some(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

    fn frame(rest: &[u8]) -> Vec<u8> {
        [&ADDRESSES, rest].concat()
    }

    #[test]
    fn untagged_frame_splits_behind_14_bytes() {
        let frame = frame(&[0x08, 0x00, 0xaa, 0xbb]);
        let (header, payload) = EthernetHeader::parse(&frame).unwrap();
        assert_eq!((header.dst, header.src), (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])));
        assert_eq!(
            (header.ethertype, header.vlan.is_empty(), payload),
            (EtherType::IPV4, true, &[0xaa, 0xbb][..])
        );
    }

    #[test]
    fn tags_are_read_outermost_first() {
        let frame = frame(&[0x88, 0xa8, 0xb0, 0x64, 0x81, 0x00, 0x00, 0x07, 0x86, 0xdd, 0x60]);
        let (header, payload) = EthernetHeader::parse(&frame).unwrap();
        let (outer, inner) = (header.vlan.outer().unwrap(), header.vlan.inner().unwrap());
        assert_eq!((outer.tpid, outer.pcp(), outer.dei(), outer.vid()), (EtherType::QINQ, 5, true, 100));
        assert_eq!((inner, header.ethertype, payload), (VlanTag::new(7), EtherType::IPV6, &[0x60][..]));
        assert_eq!((header.len(), header.vlan.len()), (22, 2));
        let mut out = [0; 22];
        assert_eq!(header.emit(&mut out), Some(22));
        assert_eq!(out, frame[..22]);
        assert_eq!(header.emit(&mut out[..21]), None);
    }

    #[test]
    fn third_tag_is_left_in_the_payload() {
        let frame = frame(&[0x81, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3, 8, 0]);
        let (header, payload) = EthernetHeader::parse(&frame).unwrap();
        assert_eq!((header.ethertype, payload), (EtherType::VLAN, &[0, 3, 8, 0][..]));
    }

    #[test]
    fn frame_that_ends_within_a_header_or_tag_is_truncated() {
        let frame = frame(&[0x81, 0, 0, 1, 8, 0]);
        for len in 0..frame.len() {
            assert_eq!(EthernetHeader::parse(&frame[..len]), Err(ParseError::Truncated), "{len} bytes");
        }
        assert!(EthernetHeader::parse(&frame).is_ok());
    }
}
