//! Datagrams on their way out: one at a time, or a run of them whose headers are the same but for a few fields.

use core::net::IpAddr;

use super::super::demux::FlowKey;
use super::super::outbox::Datagram;
use super::super::plain;
use super::super::records::{RecordHeader, RecordReader, RecordV4};
use super::{
    ANY_LINK, Blocked, Hop, NO_FAMILY, Output, SUMMED_HERE, TOO_LONG, atomic_header, copy, copy_and_sum,
    partial_checksum,
};
use crate::device::{TxChecksum, TxMeta, TxQueue};
use crate::fifo::Chunks;
use crate::wire::{IpProtocol, Ipv4Header, Sum, UdpHeader};

/// Length of the headers of a datagram.
const UDP_HEADERS: usize = Ipv4Header::LEN + UdpHeader::LEN;
/// And of those of its frame, without a tag.
const FRAME_HEADERS: usize = plain::HEADERS + UdpHeader::LEN;

/// The checksum of a datagram in a plain frame is left to the device.
const PARTIAL: TxMeta =
    TxMeta { checksum: TxChecksum::Partial { start: plain::HEADERS as u16, offset: 6 }, gso: None };

/// What the datagrams have in common that a socket sends to one address in one turn: their headers, as far as they are the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// The addresses, as their records have them.
    addresses: u64,
    /// Ethernet and IPv4, of a packet without length.
    headers: [u8; plain::HEADERS],
    /// Sum of that IPv4 header.
    ip_sum: u16,
    /// Sum of the pseudo-header, without length.
    pseudo: Sum,
    src_port: u16,
    /// The most payload that fits one frame, and that need not be let be fragmented on its way.
    room: usize,
    offload: bool,
}

impl Run {
    /// Writes a datagram into its frame, which has the right length. Whether the device is to complete its checksum.
    #[inline]
    fn write(&self, frame: &mut [u8], record: &RecordV4<'_>) -> Option<bool> {
        let (headers, rest) = frame.split_first_chunk_mut::<{ plain::HEADERS }>()?;
        let (udp, body) = rest.split_first_chunk_mut::<{ UdpHeader::LEN }>()?;
        let length = (UdpHeader::LEN + body.len()) as u16;
        let total_len = length + Ipv4Header::LEN as u16;
        let sum = u32::from(self.ip_sum) + u32::from(total_len);
        let sum = (sum & 0xffff) + (sum >> 16);
        *headers = self.headers;
        headers[16..18].copy_from_slice(&total_len.to_be_bytes());
        headers[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());

        let header = UdpHeader { src_port: self.src_port, dst_port: record.port, length, checksum: 0 };
        let pseudo = self.pseudo.add_u16(length);
        let offload = self.offload && body.len() > SUMMED_HERE;
        let checksum = if offload {
            body.copy_from_slice(record.payload.get(..body.len())?);
            pseudo.fold()
        } else {
            pseudo.add(&header.to_bytes()).combine(Sum::copy(body, record.payload)).finish_nonzero()
        };
        *udp = UdpHeader { checksum, ..header }.to_bytes();
        Some(offload)
    }
}

impl<Q: TxQueue + ?Sized> Output<'_, Q> {
    /// What the datagrams of the flow `key` will have in common whose records begin with `head`. `None` where they do not come out
    /// as plain frames.
    pub(crate) fn udp_run(
        &self,
        hop: &Result<Hop, Blocked>,
        key: &FlowKey,
        ttl: u8,
        head: &RecordHeader,
    ) -> Option<Run> {
        let hop = hop.as_ref().ok().filter(|_| self.interface.vlan.is_none())?;
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (key.local, key.remote) else { return None };
        let room = hop.limits.mtu.min(ANY_LINK).checked_sub(UDP_HEADERS)?;
        let mut headers = [0; plain::HEADERS];
        let macs = (hop.mac, self.interface.mac_bits);
        plain::emit(&mut headers, macs, (src, dst), IpProtocol::UDP, 0, ttl, None);
        Some(Run {
            addresses: head.addresses_v4()?,
            headers,
            ip_sum: !u16::from_be_bytes([headers[24], headers[25]]),
            pseudo: Sum::pseudo_header_v4(src, dst, IpProtocol::UDP, 0),
            src_port: key.local_port,
            room,
            offload: self.caps.tx_checksum,
        })
    }

    /// Sends datagrams from the front of a queue for as long as they belong to the run, `most` at most, and says how many. Where it
    /// stops, [`Output::send_udp`] finds out why.
    pub(crate) fn send_udp_run(&mut self, run: &Run, reader: &mut RecordReader, most: u64) -> u64 {
        let (mut sent, mut taken) = (0, 0);
        let mut waiting = reader.front();
        while sent < most
            && let Some(record) = RecordV4::parse(waiting)
            && record.addresses == run.addresses
            && record.payload.len() <= run.room
            && let Some(frame) = self.queue.reserve(FRAME_HEADERS + record.payload.len())
            && let Some(offload) = run.write(frame, &record)
        {
            // Two constants: put together from parts, neither could be read at once.
            if offload {
                self.queue.commit(PARTIAL);
            } else {
                self.queue.commit(TxMeta::default());
            }
            sent += 1;
            taken += record.len();
            waiting = waiting.get(record.len()..).unwrap_or_default();
        }
        if sent > 0 {
            reader.drop_first(sent, taken);
            let counters = &mut *self.cx.counters;
            counters.udp_tx += sent;
            counters.ip_tx += sent;
            counters.tx_frames += sent;
            counters.tx_bytes += taken as u64 + sent * (FRAME_HEADERS - RecordV4::HEADER) as u64;
        }
        sent
    }

    /// Sends a datagram to where [`Output::prepare`] said. One that exceeds the MTU goes out in fragments; one whose next hop is
    /// unknown waits there. In both cases it is taken over (copied) and `Ok` is the answer.
    ///
    /// # Errors
    /// Why it was not sent; then nothing has changed.
    pub(crate) fn send_udp(
        &mut self,
        hop: &Result<Hop, Blocked>,
        key: &FlowKey,
        ttl: u8,
        payload: Chunks<'_>,
    ) -> Result<(), Blocked> {
        let len = UdpHeader::LEN + payload.remaining();
        let hop = match hop {
            Ok(hop) if Ipv4Header::LEN + len <= hop.limits.mtu => hop,
            _ => return self.send_udp_apart(hop.err(), key, ttl, payload),
        };
        let offload = self.caps.tx_checksum && payload.remaining() > SUMMED_HERE;
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (key.local, key.remote) else { return Err(NO_FAMILY) };
        // Nobody here remembers what a path carries, and the sender could not be asked to cut its datagram smaller either.
        let large = Ipv4Header::LEN + len > ANY_LINK;
        let ident = large.then(|| self.interface.next_ident(key.remote));
        let (datagram, start) = self.begin_packet(hop.mac, (src, dst), IpProtocol::UDP, len, ttl, ident)?;
        write_udp(datagram, key, payload, offload).ok_or(TOO_LONG)?;
        self.cx.counters.udp_tx += 1;
        self.commit(TxMeta { checksum: partial_checksum(offload, start, 6), gso: None }, start + len);
        Ok(())
    }

    /// Sends a datagram that does not fit one frame, or whose next hop is not known yet.
    #[cold]
    fn send_udp_apart(
        &mut self,
        blocked: Option<Blocked>,
        key: &FlowKey,
        ttl: u8,
        payload: Chunks<'_>,
    ) -> Result<(), Blocked> {
        let whole = UDP_HEADERS + payload.remaining() <= ANY_LINK;
        let ident = (!whole).then(|| self.interface.next_ident(key.remote));
        self.take_over(udp_datagram(key, ttl, payload, ident)?, blocked)
    }
}

/// Writes UDP header and payload into `datagram`, exactly, with the checksum or what a device completes it from.
fn write_udp(datagram: &mut [u8], key: &FlowKey, payload: Chunks<'_>, offload: bool) -> Option<()> {
    let length = datagram.len() as u16;
    let pseudo = Sum::pseudo_header(key.local, key.remote, IpProtocol::UDP, u32::from(length));
    let (head, body) = datagram.split_first_chunk_mut::<{ UdpHeader::LEN }>()?;
    let header = UdpHeader { src_port: key.local_port, dst_port: key.remote_port, length, checksum: 0 };
    let checksum = if offload {
        copy(body, payload);
        pseudo.fold()
    } else {
        pseudo.add(&header.to_bytes()).combine(copy_and_sum(body, payload)).finish_nonzero()
    };
    *head = UdpHeader { checksum, ..header }.to_bytes();
    Some(())
}

/// A UDP datagram as a packet of its own. It may be fragmented if it is given an identification.
fn udp_datagram(
    key: &FlowKey,
    ttl: u8,
    payload: Chunks<'_>,
    ident: Option<u16>,
) -> Result<Datagram, Blocked> {
    let len = UdpHeader::LEN + payload.remaining();
    let ip = Ipv4Header {
        dont_fragment: ident.is_none(),
        ident: ident.unwrap_or(0),
        ..atomic_header(key.local, key.remote, IpProtocol::UDP, len, ttl)?
    };
    let mut packet = vec![0; Ipv4Header::LEN + len];
    let at = ip.emit(&mut packet).ok_or(TOO_LONG)?;
    write_udp(packet.get_mut(at..).unwrap_or_default(), key, payload, false).ok_or(TOO_LONG)?;
    Ok(Datagram::new(packet))
}
