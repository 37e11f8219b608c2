//! What a device does for the stack, done in software, for the places where the device cannot: a frame with a partial
//! checksum that leaves the machine, is written to a file, or is about to be damaged on purpose.

use super::{RxChecksum, TxChecksum, TxMeta};
use crate::wire::Sum;

/// Completes a partial layer-4 checksum in place: sums everything from byte `start` to the end of `frame`, the
/// pseudo-header sum that the field holds included, and stores the result in the field at `start + offset`.
///
/// A result of zero is stored as its other representation, `0xffff`: UDP reads zero as "no checksum" (RFC 768) and TCP
/// does not tell the two apart. `false`, and no change, when the field lies outside the frame.
pub fn complete_checksum(frame: &mut [u8], start: u16, offset: u16) -> bool {
    let (start, offset) = (usize::from(start), usize::from(offset));
    let Some(body) = frame.get_mut(start..).filter(|b| offset.saturating_add(2) <= b.len()) else {
        return false;
    };
    let sum = Sum::of(body).finish_nonzero();
    if let Some(field) = body.get_mut(offset..offset + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    true
}

/// What the receiver of a frame sent with `meta` over a link inside this machine is told of its checksum.
pub(super) fn arrives_as(meta: TxMeta) -> RxChecksum {
    match meta.checksum {
        TxChecksum::Complete => RxChecksum::Unknown,
        TxChecksum::Partial { start, offset } => RxChecksum::Partial { start, offset },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completed_checksum_sums_to_all_ones() {
        // Three bytes of "Ethernet", then a UDP-like header whose field at 6 holds a pseudo-header sum.
        for len in 8..64_usize {
            let mut frame: Vec<u8> = (0..3 + len).map(|i| (i * 37 % 251) as u8).collect();
            let pseudo = u16::from_be_bytes([frame[9], frame[10]]);
            assert!(complete_checksum(&mut frame, 3, 6));
            let total = u64::from(Sum::of(&frame[3..]).fold()) + u64::from(pseudo);
            assert_eq!((total & 0xffff) + (total >> 16), 0xffff, "length {len}");
        }
    }

    #[test]
    fn zero_is_stored_as_all_ones() {
        let mut frame = [0xff, 0xff, 0x00, 0x00];
        assert!(complete_checksum(&mut frame, 0, 2));
        assert_eq!(frame, [0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn field_outside_the_frame_changes_nothing() {
        let mut frame = [1, 2, 3, 4];
        for (start, offset) in [(0, 3), (3, 0), (4, 0), (5, 0), (0, u16::MAX), (u16::MAX, 0)] {
            assert!(!complete_checksum(&mut frame, start, offset));
            assert_eq!(frame, [1, 2, 3, 4]);
        }
    }
}
