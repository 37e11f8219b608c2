//! The frames that are sent.

pub(crate) const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A datagram of 18 bytes from 10.0.0.1:1234 to 10.0.0.2:7, in a frame of 60.
pub(crate) fn datagram() -> Vec<u8> {
    let mut ip = [0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum);
    let mut udp = [&[4, 210, 0, 7, 0, 26, 0, 0][..], &[b'x'; 18]].concat();
    let sum = checksum(&[&ip[12..], &[0, 17, 0, 26], &udp]);
    udp[6..8].copy_from_slice(&sum);
    [&SERVER[..], &CLIENT, &[8, 0], &ip, &udp].concat()
}

/// The client asks for the server, which so learns where the client is.
pub(crate) fn arp() -> Vec<u8> {
    let (client, server) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    [&[0xff; 6][..], &CLIENT, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &CLIENT, &client, &[0; 6], &server].concat()
}

/// Whether a frame is a datagram that came back.
pub(crate) fn is_answer(frame: &[u8]) -> bool {
    frame.len() == 60 && frame.starts_with(&CLIENT)
}

fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// Exchanges the stations of a frame.
pub(crate) fn swap_stations(frame: &mut [u8]) {
    if let Some((dst, rest)) = frame.split_first_chunk_mut::<6>()
        && let Some(src) = rest.first_chunk_mut::<6>()
    {
        std::mem::swap(dst, src);
    }
}
