//! Segments in plain frames ([`super::plain`]) that are more to their connection than the next one, and answers in the same frame.

use super::answer::{Ttl, segment_packet};
use super::plain::{self, HEADERS, Plain};
use super::{InterfaceId, Stack};
use crate::device::{RxFrame, TxMeta, Verdict};
use crate::tcp::{Arrival, Lookup, TcpAction};
use crate::time::Instant;
use crate::wire::{IpProtocol, Ipv4Header, Sum, TcpHeader};

impl Stack {
    /// A segment that is not what its connection expects next, or that belongs to none.
    #[inline(never)]
    pub(super) fn plain_segment(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        plain: &Plain,
        frame: &mut RxFrame<'_>,
        slot: Lookup,
    ) -> Verdict {
        let bytes = frame.bytes().get(HEADERS..plain.end).unwrap_or_default();
        let action = self.unforeseen_segment(now, arrival, slot, bytes, frame.meta.checksum);
        match action {
            TcpAction::Done => Verdict::Done,
            TcpAction::Drop(reason) => Verdict::Drop(reason),
            TcpAction::Reply(header) => {
                let ttl = self.tcp.ttl(&arrival.key, slot);
                self.answer_plain(arrival.interface, plain, frame, (&header, ttl))
            }
        }
    }

    /// Writes a segment without data over the frame that calls for it.
    #[inline]
    fn answer_plain(
        &mut self,
        id: InterfaceId,
        plain: &Plain,
        frame: &mut RxFrame<'_>,
        (header, ttl): (&TcpHeader, Ttl),
    ) -> Verdict {
        let (us, peer) = (plain.dst, plain.src);
        let ours = self.interfaces.get(usize::from(id.0)).map_or(0, |interface| interface.mac_bits);
        let theirs = plain::station(frame.bytes()).to_bits();
        let len = header.header_len();
        // Nothing is touched before it is known that the answer fits.
        if frame.set_len(HEADERS + len)
            && let Some((headers, segment)) = frame.bytes_mut().split_first_chunk_mut()
        {
            let total_len = (Ipv4Header::LEN + len) as u16;
            plain::emit(headers, (theirs, ours), (us, peer), IpProtocol::TCP, total_len, ttl, None);
            let pseudo = Sum::pseudo_header_v4(us, peer, IpProtocol::TCP, len as u32);
            if header.emit_summed(segment, pseudo).is_some() {
                self.counters.tcp_tx += 1;
                self.counters.ip_tx += 1;
                // So small a segment is not worth the device's help.
                return Verdict::Reply(TxMeta::default());
            }
        }
        self.send_or_count(segment_packet(us, peer, header, ttl));
        Verdict::Done
    }
}
