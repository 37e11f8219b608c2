//! The virtio-net header: what Linux says of an unfinished frame, and what it is to do with one, at a TAP and at a packet socket.
//!
//! ```text
//!   virtio_net_hdr (10 bytes, host byte order), and at a TAP num_buffers u16                frame
//!   | flags u8 | gso_type u8 | hdr_len u16 | gso_size u16 | csum_start u16 | csum_offset u16 | ...
//! ```

use super::{Gso, GsoKind, RxChecksum, RxMeta, TxChecksum, TxMeta};

/// Its length without what a TAP puts behind it.
pub(super) const HEADER: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

/// What the kernel says of a frame of `len` bytes.
pub(super) fn decode(header: &[u8], len: usize) -> RxMeta {
    let Some(&[flags, gso_type, _, _, s0, s1, c0, c1, o0, o1]) = header.first_chunk::<HEADER>() else {
        return RxMeta::default();
    };
    let (start, offset) = (u16::from_ne_bytes([c0, c1]), u16::from_ne_bytes([o0, o1]));
    let checksum = if flags & NEEDS_CSUM != 0 && usize::from(start) + usize::from(offset) + 2 <= len {
        RxChecksum::Partial { start, offset }
    } else if flags & DATA_VALID != 0 {
        RxChecksum::Verified
    } else {
        RxChecksum::Unknown
    };
    let gso_size = (gso_type != GSO_NONE).then_some(u16::from_ne_bytes([s0, s1]));
    RxMeta { checksum, gso_size, ..RxMeta::default() }
}

/// What the kernel is asked to do with a frame: a header of `N` bytes, those beyond [`HEADER`] zero.
pub(super) fn encode<const N: usize>(meta: TxMeta) -> [u8; N] {
    let (flags, start, offset) = match meta.checksum {
        TxChecksum::Complete => (0, 0, 0),
        TxChecksum::Partial { start, offset } => (NEEDS_CSUM, start, offset),
    };
    let (gso_type, header_len, size) = match meta.gso {
        None => (GSO_NONE, 0, 0),
        Some(Gso { kind: GsoKind::TcpV4, size, header_len }) => (GSO_TCPV4, header_len, size),
        Some(Gso { kind: GsoKind::TcpV6, size, header_len }) => (GSO_TCPV6, header_len, size),
    };
    let [[h0, h1], [s0, s1], [c0, c1], [o0, o1]] = [header_len, size, start, offset].map(u16::to_ne_bytes);
    let fields = [flags, gso_type, h0, h1, s0, s1, c0, c1, o0, o1];
    std::array::from_fn(|i| fields.get(i).copied().unwrap_or(0))
}
