//! TIME-WAIT as a small entry: what is needed to answer the peer's FIN again, to refuse old segments, and to let a new connection
//! take the place of the old one (RFC 9293 3.6.1, RFC 6191).
//!
//! All entries of a stack wait equally long, so they stand in one ring in the order in which they end:
//!
//! ```text
//!      oldest, ends first                      newest
//!   [ entry | entry | gone | entry | ... | entry ]
//!     first   first+1                                     names count on for ever
//! ```
//!
//! Entering one is a write at the end, ending one a step at the front. One that ends early leaves a gap until its turn comes; one
//! that was restarted goes to the end again when its first turn comes.

use super::TcpAction;
use super::tcb::{Tcb, timestamp};
use crate::counters::DropReason;
use crate::stack::demux::FlowKey;
use crate::time::Instant;
use crate::wire::{Seq, TcpFlags, TcpHeader, TcpOptions, Timestamps};
use std::collections::VecDeque;

/// One connection in TIME-WAIT.
#[derive(Clone, Debug)]
pub(crate) struct TimeWait {
    pub(crate) key: FlowKey,
    /// The tag of `key` in the flow table.
    pub(crate) tag: u32,
    pub(crate) snd_nxt: Seq,
    rcv_nxt: Seq,
    window: u16,
    /// TS.Recent, when timestamps are in use.
    recent: Option<u32>,
    timestamp_offset: u32,
    pub(crate) expires: Instant,
    /// When it is looked at whether it has expired: as it was when the entry came to its place in the ring.
    due: Instant,
    /// TTL of its answers.
    pub(crate) ttl: u8,
    /// It has not ended early.
    live: bool,
}

/// What a segment does to an entry.
pub(crate) enum TimeWaitOutcome {
    /// The entry stays.
    Stay(TcpAction),
    /// The FIN came again: answer, and wait 2 MSL from now.
    Restart(TcpAction),
    /// A RST or a new connection ends it; `Some` new SYN is to be handled as if there were no connection.
    Remove,
    /// A SYN that may open a new connection.
    Reopen,
}

impl TimeWait {
    pub(crate) fn new(tcb: &Tcb, expires: Instant) -> Self {
        Self {
            key: tcb.key,
            tag: tcb.tag,
            snd_nxt: tcb.snd.max,
            rcv_nxt: tcb.rcv.nxt,
            window: (tcb.rcv.wnd() >> tcb.rcv.scale).min(u32::from(u16::MAX)) as u16,
            recent: tcb.timestamps.map(|ts| ts.recent),
            timestamp_offset: tcb.timestamp_offset,
            expires,
            due: expires,
            ttl: tcb.options.ttl,
            live: true,
        }
    }

    /// RFC 9293 3.10.7.4 for TIME-WAIT.
    pub(crate) fn segment_arrives(
        &mut self,
        now: Instant,
        seg: &TcpHeader,
        text_len: usize,
    ) -> TimeWaitOutcome {
        let is = |flags| seg.flags.intersects(flags);
        if is(TcpFlags::RST) {
            // RFC 1337 3 asks to ignore every RST; one that is exact (RFC 5961 3.2) comes from the peer, which has nothing to wait for.
            return if seg.seq == self.rcv_nxt {
                TimeWaitOutcome::Remove
            } else {
                TimeWaitOutcome::Stay(TcpAction::Drop(DropReason::TcpBadReset))
            };
        }
        if is(TcpFlags::SYN) && !is(TcpFlags::ACK) {
            return if self.is_newer(seg) {
                TimeWaitOutcome::Reopen
            } else {
                TimeWaitOutcome::Stay(TcpAction::Reply(self.ack(now)))
            };
        }
        if let (Some(recent), Some(ts)) = (&mut self.recent, seg.options.timestamps)
            && !Seq(ts.value).before(Seq(*recent))
            && seg.seq.before_eq(self.rcv_nxt)
        {
            *recent = ts.value;
        }
        let len = text_len as u32 + u32::from(is(TcpFlags::FIN));
        if is(TcpFlags::FIN) && seg.seq + len == self.rcv_nxt {
            // "The only thing that can arrive in this state is a retransmission of the remote FIN. Acknowledge it, and restart the 2 MSL timeout."
            return TimeWaitOutcome::Restart(TcpAction::Reply(self.ack(now)));
        }
        if len == 0 && seg.seq == self.rcv_nxt {
            return TimeWaitOutcome::Stay(TcpAction::Done);
        }
        TimeWaitOutcome::Stay(TcpAction::Reply(self.ack(now)))
    }

    /// RFC 6191 2: a SYN with a later timestamp, or without timestamps but with a later sequence number, may reopen.
    fn is_newer(&self, syn: &TcpHeader) -> bool {
        match (self.recent, syn.options.timestamps) {
            (Some(recent), Some(ts)) if ts.value != recent => Seq(ts.value).after(Seq(recent)),
            _ => syn.seq.after(self.rcv_nxt),
        }
    }

    fn ack(&self, now: Instant) -> TcpHeader {
        TcpHeader {
            src_port: self.key.local_port,
            dst_port: self.key.remote_port,
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags: TcpFlags::ACK,
            window: self.window,
            checksum: 0,
            urgent: 0,
            options: TcpOptions {
                timestamps: self
                    .recent
                    .map(|echo| Timestamps { value: timestamp(now, self.timestamp_offset), echo }),
                ..TcpOptions::default()
            },
        }
    }
}

/// The entries of a stack, by name, in the order of their time. See the module documentation.
#[derive(Default, Debug)]
pub(crate) struct TimeWaits {
    ring: VecDeque<TimeWait>,
    /// The name of the front.
    first: u32,
    live: usize,
}

impl TimeWaits {
    /// Names are of 30 bits, which leaves two for what they name.
    const NAMES: u32 = (1 << 30) - 1;
    /// What a ring can hold at most.
    pub(crate) const MOST: usize = 1 << 29;

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// How many places they take, the gaps included.
    pub(crate) fn places(&self) -> usize {
        self.ring.len()
    }

    /// Adds an entry behind all others, and names it.
    pub(crate) fn push(&mut self, entry: TimeWait) -> u32 {
        let name = self.first.wrapping_add(self.ring.len() as u32) & Self::NAMES;
        self.ring.push_back(entry);
        self.live += 1;
        name
    }

    #[inline]
    pub(crate) fn get(&self, name: u32) -> Option<&TimeWait> {
        self.ring.get(self.place(name)).filter(|entry| entry.live)
    }

    pub(crate) fn get_mut(&mut self, name: u32) -> Option<&mut TimeWait> {
        let place = self.place(name);
        self.ring.get_mut(place).filter(|entry| entry.live)
    }

    /// Ends an entry early. Its tag, if there was one.
    pub(crate) fn remove(&mut self, name: u32) -> Option<u32> {
        let entry = self.get_mut(name)?;
        entry.live = false;
        let tag = entry.tag;
        self.live -= 1;
        while self.ring.front().is_some_and(|entry| !entry.live) {
            self.step();
        }
        Some(tag)
    }

    /// When the front wants to be looked at.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.ring.front().map(|entry| entry.due)
    }

    /// Takes the entry that has waited longest, with its name.
    pub(crate) fn pop(&mut self) -> Option<(u32, TimeWait)> {
        let name = self.first;
        let entry = self.step()?;
        self.live -= 1;
        while self.ring.front().is_some_and(|entry| !entry.live) {
            self.step();
        }
        Some((name, entry))
    }

    /// Takes an entry that is due and whose time is over, with its name. One that was restarted goes to the end instead, and
    /// `renamed(tag, old, new)` is told.
    pub(crate) fn pop_expired(
        &mut self,
        now: Instant,
        mut renamed: impl FnMut(u32, u32, u32),
    ) -> Option<(u32, TimeWait)> {
        while self.next_deadline().is_some_and(|due| due <= now) {
            let (name, entry) = self.pop()?;
            if entry.expires <= now {
                return Some((name, entry));
            }
            let tag = entry.tag;
            renamed(tag, name, self.push(TimeWait { due: entry.expires, ..entry }));
        }
        None
    }

    fn step(&mut self) -> Option<TimeWait> {
        let entry = self.ring.pop_front()?;
        self.first = self.first.wrapping_add(1) & Self::NAMES;
        Some(entry)
    }

    fn place(&self, name: u32) -> usize {
        (name.wrapping_sub(self.first) & Self::NAMES) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    fn entry(tag: u32, expires: u64) -> TimeWait {
        let expires = Instant::from_millis(expires);
        TimeWait {
            key: FlowKey {
                local: [10, 0, 0, 1].into(),
                remote: [10, 0, 0, 2].into(),
                local_port: 1,
                remote_port: 2,
            },
            tag,
            snd_nxt: Seq(0),
            rcv_nxt: Seq(0),
            window: 0,
            recent: None,
            timestamp_offset: 0,
            expires,
            due: expires,
            ttl: 64,
            live: true,
        }
    }

    fn expired(waits: &mut TimeWaits, ms: u64) -> Vec<u32> {
        let now = Instant::from_millis(ms);
        core::iter::from_fn(|| waits.pop_expired(now, |_, _, _| {}).map(|(_, entry)| entry.tag)).collect()
    }

    #[test]
    fn entries_end_in_their_order_and_a_name_outlives_none() {
        let mut waits = TimeWaits::default();
        let names: Vec<u32> = (0..5).map(|n| waits.push(entry(n, 100 + u64::from(n)))).collect();
        assert_eq!(waits.next_deadline(), Some(Instant::from_millis(100)));
        assert_eq!(expired(&mut waits, 101), [0, 1]);
        assert!(waits.get(names[1]).is_none() && waits.get(names[2]).is_some_and(|entry| entry.tag == 2));
        assert_eq!(waits.push(entry(5, 200)), 5);
        assert_eq!((waits.len(), expired(&mut waits, 500), waits.len()), (4, vec![2, 3, 4, 5], 0));
        assert_eq!(waits.next_deadline(), None);
    }

    #[test]
    fn one_that_ends_early_keeps_its_place_until_those_before_it_are_gone() {
        let mut waits = TimeWaits::default();
        let names: Vec<u32> = (0..4).map(|n| waits.push(entry(n, 100 + u64::from(n)))).collect();
        assert_eq!((waits.remove(names[2]), waits.remove(names[2])), (Some(2), None));
        assert!(waits.get(names[2]).is_none() && waits.get(names[3]).is_some());
        assert_eq!((waits.len(), waits.places()), (3, 4));
        assert_eq!(waits.remove(names[0]), Some(0));
        assert_eq!((waits.len(), waits.places()), (2, 3));
        assert_eq!(waits.pop().map(|(name, entry)| (name, entry.tag)), Some((names[1], 1)));
        assert_eq!((waits.len(), waits.places()), (1, 1));
        assert_eq!(waits.get(names[3]).map(|entry| entry.tag), Some(3));
    }

    #[test]
    fn one_that_was_restarted_is_renamed_when_its_first_time_is_over() {
        let mut waits = TimeWaits::default();
        let names: Vec<u32> = (0..3).map(|n| waits.push(entry(n, 100))).collect();
        if let Some(entry) = waits.get_mut(names[0]) {
            entry.expires += Duration::from_millis(50);
        }
        let mut renamed = None;
        let first =
            waits.pop_expired(Instant::from_millis(100), |tag, old, new| renamed = Some((tag, old, new)));
        assert_eq!(first.map(|(name, _)| name), Some(names[1]));
        assert_eq!(renamed, Some((0, names[0], 3)));
        assert_eq!(expired(&mut waits, 149), [2]);
        assert!(waits.get(3).is_some());
        assert_eq!(expired(&mut waits, 150), [0]);
    }

    #[test]
    fn names_go_on_across_their_wrap() {
        let mut waits = TimeWaits { first: TimeWaits::NAMES, ..TimeWaits::default() };
        let names = [waits.push(entry(7, 1)), waits.push(entry(8, 2))];
        assert_eq!(names, [TimeWaits::NAMES, 0]);
        assert_eq!(names.map(|name| waits.get(name).map(|entry| entry.tag)), [Some(7), Some(8)]);
        assert_eq!(expired(&mut waits, 1), [7]);
        assert_eq!(names.map(|name| waits.get(name).map(|entry| entry.tag)), [None, Some(8)]);
    }
}
