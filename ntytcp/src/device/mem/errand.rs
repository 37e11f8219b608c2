//! A link as a lane between two shards of one host: each frame says what the other shard is to do with it.

use super::{BURST, HEADROOM, MemDevice, Packet, RxFrame, RxMeta, TxMeta};

/// What is to be done with a frame on a lane between shards ([`lanes`](crate::device::lanes)). On any other link it does not matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::device) enum Errand {
    /// Put it on the wire.
    Send(TxMeta),
    /// It was received for you.
    Receive,
    /// It was received: learn from it, and answer nothing.
    Hear,
}

impl Default for Errand {
    fn default() -> Self {
        Self::Send(TxMeta::default())
    }
}

impl MemDevice {
    /// Hands over a copy of a frame that was received elsewhere; `false` when the lane is full.
    pub(in crate::device) fn pass(&mut self, frame: &[u8], meta: RxMeta, errand: Errand) -> bool {
        if frame.len() > self.max_frame || !self.has_room() {
            return false;
        }
        let Some(mut packet) = self.take_buffer() else { return false };
        (packet.start, packet.len) = (HEADROOM as u32, frame.len() as u32);
        (packet.meta, packet.errand) = (meta, errand);
        packet.frame_mut().copy_from_slice(frame);
        self.enqueue(1 - self.port, packet);
        true
    }

    /// Takes what came over a lane, at most a burst: what is to be sent goes to `send` as long as that answers `true`, what was received
    /// to `sink`. Returns how many frames were taken. What `send` has no room for stays, and what came after it.
    pub(in crate::device) fn run_errands(
        &mut self,
        send: &mut dyn FnMut(&[u8], TxMeta) -> bool,
        sink: &mut dyn FnMut(&mut [RxFrame<'_>]),
    ) -> usize {
        self.receive();
        let (all, mut left) = (self.received.len().min(BURST), self.received.len().min(BURST));
        while left > 0 {
            let is_send = |packet: &Packet| matches!(packet.errand, Errand::Send(_));
            let first = self.received.first().is_some_and(|packet| is_send(packet));
            let run = self.received.iter().take(left).take_while(|packet| is_send(packet) == first).count();
            let done = if first { self.send_out(run, send) } else { run };
            if !first {
                self.hand_out(run, sink);
            }
            left -= done;
            if done < run {
                break;
            }
        }
        self.send_home();
        all - left
    }

    /// Offers the first `count` received frames to `send`, until it has no room.
    fn send_out(&mut self, count: usize, send: &mut dyn FnMut(&[u8], TxMeta) -> bool) -> usize {
        let mut offer = |packet: &Packet| match packet.errand {
            Errand::Send(meta) => send(packet.frame(), meta),
            Errand::Receive | Errand::Hear => true,
        };
        let sent = self.received.iter().take(count).take_while(|packet| offer(packet)).count();
        let mut received = std::mem::take(&mut self.received);
        received.drain(..sent).for_each(|packet| self.retire(packet));
        self.received = received;
        sent
    }

    /// Whether frames wait for the next flush.
    pub(in crate::device) fn has_unsent(&self) -> bool {
        self.pending.iter().any(|batch| !batch.is_empty())
    }
}
