//! Segments on their way out: one, or a train of them whose headers are the same but for a few fields.
//!
//! ```text
//!   0            6            12          16        20        24    26          34      38    42    46      50    52  54
//!  +------------+------------+-----------+---------+---------+-----+-----------+-------+-----+-----+-------+-----+---+-----
//!  | to         | from       | type, 45  | len  id | TTL ..  | sum | addresses | ports | seq | ack | fl wnd| sum | 0 | opts
//!  +------------+------------+-----------+---------+---------+-----+-----------+-------+-----+-----+-------+-----+---+-----
//! ```
//!
//! In a frame without a tag they are written as seven numbers. What is the same in all segments of a train was summed once.

use core::net::{IpAddr, Ipv4Addr};

use super::super::demux::FlowKey;
use super::super::plain;
use super::{
    Blocked, FOR_THE_LAST, Hop, NO_FAMILY, Output, Payload, TOO_LONG, copy, copy_and_sum, partial_checksum,
};
use crate::device::{Gso, GsoKind, TxMeta, TxQueue};
use crate::wire::{IpProtocol, Ipv4Header, Seq, Sum, TcpFlags, TcpHeader};

/// Length of the headers of a frame without a tag and options.
const FRAME_HEADERS: usize = plain::HEADERS + TcpHeader::LEN;
/// The most options that there can be, in bytes.
const MAX_OPTIONS: usize = TcpHeader::MAX_LEN - TcpHeader::LEN;

/// Version and header length of IPv4.
const VERSION: u64 = 0x4500;
const DONT_FRAGMENT: u64 = 0x4000;

/// What the segments of one connection have in common that go out behind each other in plain frames, as numbers, each as it stands
/// in the headers.
struct Heads {
    link: [u64; 2],
    ttl_protocol: u64,
    addresses: u64,
    ports: u64,
    ack: u64,
    /// Data offset and window, with the flags between them zero.
    offset_window: u64,
    /// The sum of the IP header's 16-bit words but for the length.
    ip_sum: u64,
    /// That of the pseudo-header, likewise.
    pseudo: u64,
    /// That of the TCP header but for sequence number, flags and checksum. Options count.
    tcp_sum: u64,
}

/// A connection whose segments are sent, and with what.
struct Flow<'a> {
    hop: &'a Hop,
    key: &'a FlowKey,
    heads: Heads,
    options: &'a [u8],
}

impl Heads {
    #[inline(always)]
    fn new(
        (to, from): (u64, u64),
        (src, dst): (Ipv4Addr, Ipv4Addr),
        ttl: u8,
        header: &TcpHeader,
        options: &[u8],
    ) -> Self {
        let ttl_protocol = u64::from(ttl) << 8 | u64::from(IpProtocol::TCP.0);
        let (src, dst) = (u64::from(src.to_bits()), u64::from(dst.to_bits()));
        let ports = u64::from(header.src_port) << 16 | u64::from(header.dst_port);
        let ack = u64::from(header.ack.0);
        let offset = (TcpHeader::LEN + options.len()) as u64 / 4;
        let offset_window = offset << 28 | u64::from(header.window);
        let options = if options.is_empty() { 0 } else { u64::from(Sum::of(options).fold()) };
        Self {
            link: [to << 16 | from >> 32, from << 32 | 0x0800 << 16 | VERSION],
            ttl_protocol,
            addresses: src << 32 | dst,
            ports,
            ack,
            offset_window,
            ip_sum: VERSION + DONT_FRAGMENT + ttl_protocol + src + dst,
            pseudo: u64::from(IpProtocol::TCP.0) + src + dst,
            tcp_sum: ports + ack + offset_window + options,
        }
    }

    /// Writes the headers of a segment with a packet of `total_len` bytes.
    #[inline(always)]
    fn emit(
        &self,
        to: &mut [u8; FRAME_HEADERS],
        total_len: u16,
        (seq, flags): (Seq, TcpFlags),
        checksum: u16,
    ) {
        let (total_len, seq) = (u64::from(total_len), u64::from(seq.0));
        // The sum is of 16-bit words and of pairs of them, so three times the carries are added back.
        let sum = self.ip_sum + total_len;
        let sum = (sum >> 32) + (sum & 0xffff_ffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let ip_checksum = u64::from(!(sum as u16));
        let control = self.offset_window | u64::from(flags.bits()) << 16;
        let mut put = |at: usize, eight: u64| to[at..at + 8].copy_from_slice(&eight.to_be_bytes());
        put(0, self.link[0]);
        put(8, self.link[1]);
        put(16, total_len << 48 | DONT_FRAGMENT << 16 | self.ttl_protocol);
        put(24, ip_checksum << 48 | self.addresses >> 16);
        put(32, self.addresses << 48 | self.ports << 16 | seq >> 16);
        put(40, seq << 48 | self.ack << 16 | control >> 16);
        // The urgent pointer is zero.
        to[48..52].copy_from_slice(&((control as u32) << 16 | u32::from(checksum)).to_be_bytes());
        to[52..54].fill(0);
    }

    /// The checksum of a segment of `len` bytes whose text has this sum; or what the device completes it from.
    #[inline(always)]
    fn checksum(&self, len: u64, (seq, flags): (Seq, TcpFlags), text: Option<Sum>) -> u16 {
        let pseudo = self.pseudo + len;
        match text {
            None => Sum::ZERO.add_words(pseudo).fold(),
            Some(text) => {
                let words = pseudo + self.tcp_sum + u64::from(seq.0) + u64::from(flags.bits());
                text.add_words(words).finish()
            }
        }
    }
}

impl<Q: TxQueue + ?Sized> Output<'_, Q> {
    /// As [`Output::send_tcp`] with a header that has no options.
    ///
    /// # Errors
    /// Why it was not sent; then nothing has changed.
    #[inline(always)]
    pub(crate) fn send_bare(
        &mut self,
        hop: &Hop,
        key: &FlowKey,
        header: &TcpHeader,
        payload: Option<Payload<'_>>,
    ) -> Result<(), Blocked> {
        let flow = self.flow(hop, key, header, &[])?;
        self.send_segment(&flow, header, payload, None)
    }

    /// Sends one TCP segment with DF set to where [`Output::prepare`] said. Source, destination and ports on the wire are those of
    /// `key` and `header`.
    ///
    /// # Errors
    /// Why it was not sent; then nothing has changed.
    #[inline(always)]
    pub(crate) fn send_tcp(
        &mut self,
        hop: &Hop,
        key: &FlowKey,
        header: &TcpHeader,
        payload: Option<Payload<'_>>,
    ) -> Result<(), Blocked> {
        let mut buf = [0; MAX_OPTIONS];
        let flow = self.flow(hop, key, header, emit_options(header, &mut buf)?)?;
        self.send_segment(&flow, header, payload, None)
    }

    /// Sends a train of segments, as [`Output::send_tcp`] does one, which each but the last have `size` payload bytes; FIN and PSH are
    /// for the last. The device cuts it if it can. Answers how many bytes of payload went out: not all when the ring
    /// became full on the way.
    ///
    /// # Errors
    /// Why nothing was sent; then nothing has changed.
    pub(crate) fn send_train(
        &mut self,
        hop: &Hop,
        key: &FlowKey,
        header: &TcpHeader,
        payload: Payload<'_>,
        size: u16,
    ) -> Result<usize, Blocked> {
        let mut buf = [0; MAX_OPTIONS];
        let flow = self.flow(hop, key, header, emit_options(header, &mut buf)?)?;
        let Payload { fifo, offset, len } = payload;
        if self.caps.tso_max > 0 {
            let payload = Some(Payload { fifo, offset, len });
            return self.send_segment(&flow, header, payload, Some(size)).map(|()| len);
        }
        let (mut sent, mut piece) = (0, *header);
        while sent < len {
            let n = usize::from(size).min(len - sent);
            piece.seq = header.seq + sent as u32;
            piece.flags = if sent + n == len { header.flags } else { header.flags - FOR_THE_LAST };
            let payload = Payload { fifo: &mut *fifo, offset: offset + sent, len: n };
            match self.send_segment(&flow, &piece, Some(payload), None) {
                Ok(()) => sent += n,
                Err(blocked) if sent == 0 => return Err(blocked),
                // As if this much had been asked for; what blocks is found out again by the next attempt.
                Err(_) => break,
            }
        }
        Ok(sent)
    }

    /// What segments with this header have in common.
    #[inline(always)]
    fn flow<'f>(
        &self,
        hop: &'f Hop,
        key: &'f FlowKey,
        header: &TcpHeader,
        options: &'f [u8],
    ) -> Result<Flow<'f>, Blocked> {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (key.local, key.remote) else { return Err(NO_FAMILY) };
        let heads = Heads::new((hop.mac, self.interface.mac_bits), (src, dst), hop.ttl, header, options);
        Ok(Flow { hop, key, heads, options })
    }

    /// Sends a segment, or a train that the device cuts into pieces of `gso_size`.
    #[inline(always)]
    fn send_segment(
        &mut self,
        flow: &Flow<'_>,
        header: &TcpHeader,
        payload: Option<Payload<'_>>,
        gso_size: Option<u16>,
    ) -> Result<(), Blocked> {
        if self.interface.vlan.is_some() {
            return self.send_tagged(flow, header, payload, gso_size);
        }
        let (heads, options, control) = (&flow.heads, flow.options, (header.seq, header.flags));
        let header_len = TcpHeader::LEN + options.len();
        let len = header_len + payload.as_ref().map_or(0, |p| p.len);
        let total_len = u16::try_from(Ipv4Header::LEN + len).map_err(|_| TOO_LONG)?;
        let offload = self.caps.tx_checksum;
        let Some(frame) = self.queue.reserve(plain::HEADERS + len) else { return Err(self.full()) };
        let (head, rest) = frame.split_first_chunk_mut().ok_or(TOO_LONG)?;
        let (to_options, body) = rest.split_at_mut_checked(options.len()).ok_or(TOO_LONG)?;
        if !options.is_empty() {
            to_options.copy_from_slice(options);
        }
        let sum = write_text(body, payload, offload);
        heads.emit(head, total_len, control, heads.checksum(len as u64, control, sum));
        let checksum = partial_checksum(offload, plain::HEADERS, 16);
        let header_len = (plain::HEADERS + header_len) as u16;
        let gso = gso_size.map(|size| Gso { kind: GsoKind::TcpV4, size, header_len });
        self.cx.counters.tcp_tx += 1;
        self.commit(TxMeta { checksum, gso }, plain::HEADERS + len);
        Ok(())
    }

    /// As [`Output::send_segment`], in a frame with a tag.
    #[cold]
    fn send_tagged(
        &mut self,
        &Flow { hop, key, .. }: &Flow<'_>,
        header: &TcpHeader,
        payload: Option<Payload<'_>>,
        gso_size: Option<u16>,
    ) -> Result<(), Blocked> {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (key.local, key.remote) else { return Err(NO_FAMILY) };
        let header_len = header.header_len();
        let len = header_len + payload.as_ref().map_or(0, |p| p.len);
        let offload = self.caps.tx_checksum;
        let pseudo = Sum::pseudo_header_v4(src, dst, IpProtocol::TCP, len as u32);
        let (segment, start) = self.begin_packet(hop.mac, (src, dst), IpProtocol::TCP, len, hop.ttl, None)?;
        let (head, body) = segment.split_at_mut_checked(header_len).ok_or(TOO_LONG)?;
        match write_text(body, payload, offload) {
            Some(sum) => header.emit_summed(head, pseudo.combine(sum)),
            None => TcpHeader { checksum: pseudo.fold(), ..*header }.emit(head),
        }
        .ok_or(TOO_LONG)?;
        let gso =
            gso_size.map(|size| Gso { kind: GsoKind::TcpV4, size, header_len: (start + header_len) as u16 });
        self.cx.counters.tcp_tx += 1;
        self.commit(TxMeta { checksum: partial_checksum(offload, start, 16), gso }, start + len);
        Ok(())
    }
}

/// The options of a header as they are sent.
fn emit_options<'a>(header: &TcpHeader, buf: &'a mut [u8; MAX_OPTIONS]) -> Result<&'a [u8], Blocked> {
    let options = buf.get_mut(..header.options.len()).ok_or(TOO_LONG)?;
    if !options.is_empty() {
        header.options.emit(options).ok_or(TOO_LONG)?;
    }
    Ok(options)
}

/// Copies the text of a segment to its place. Its sum, unless the device makes it; the headers' length is a multiple of 4, so the text
/// begins at an even offset.
#[inline(always)]
fn write_text(body: &mut [u8], payload: Option<Payload<'_>>, offload: bool) -> Option<Sum> {
    let Some(Payload { fifo, offset, len }) = payload else {
        return (!offload).then_some(Sum::ZERO);
    };
    if offload {
        copy(body, fifo.peek(offset, len));
        return None;
    }
    Some(match fifo.peek_whole(offset, len) {
        Some(whole) => Sum::copy(body, whole),
        None => copy_and_sum(body, fifo.peek(offset, len)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{TcpOptions, Timestamps};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_as_numbers_are_the_headers_in_fields(
            stations: (u64, u64),
            addresses: (u32, u32),
            ports: (u16, u16),
            numbers: (u32, u32),
            fields: (u8, u16, u8),
            timestamps: Option<(u32, u32)>,
            text in prop::collection::vec(any::<u8>(), 0..100),
            offload: bool,
        ) {
            let stations = (stations.0 >> 16, stations.1 >> 16);
            let (src, dst) = (Ipv4Addr::from_bits(addresses.0), Ipv4Addr::from_bits(addresses.1));
            let (flags, window, ttl) = (TcpFlags::from_bits_retain(fields.0), fields.1, fields.2);
            let timestamps = timestamps.map(|(value, echo)| Timestamps { value, echo });
            let header = TcpHeader {
                src_port: ports.0,
                dst_port: ports.1,
                seq: Seq(numbers.0),
                ack: Seq(numbers.1),
                flags,
                window,
                checksum: 0,
                urgent: 0,
                options: TcpOptions { timestamps, ..TcpOptions::NONE },
            };
            let len = header.header_len() + text.len();
            let total_len = (Ipv4Header::LEN + len) as u16;
            let pseudo = Sum::pseudo_header_v4(src, dst, IpProtocol::TCP, len as u32);

            let mut long = vec![0; FRAME_HEADERS + header.header_len() - TcpHeader::LEN];
            let (ip, tcp) = long.split_first_chunk_mut().unwrap();
            plain::emit(ip, stations, (src, dst), IpProtocol::TCP, total_len, ttl, None);
            if offload {
                TcpHeader { checksum: pseudo.fold(), ..header }.emit(tcp).unwrap();
            } else {
                header.emit_summed(tcp, pseudo.add(&text)).unwrap();
            }

            let mut buf = [0; MAX_OPTIONS];
            let options = emit_options(&header, &mut buf).unwrap();
            let heads = Heads::new(stations, (src, dst), ttl, &header, options);
            let mut short = [0x55; FRAME_HEADERS];
            let control = (header.seq, flags);
            let sum = (!offload).then(|| Sum::of(&text));
            heads.emit(&mut short, total_len, control, heads.checksum(len as u64, control, sum));
            prop_assert_eq!([&short[..], options].concat(), long);
        }
    }
}
