//! Which bytes beyond RCV.NXT have arrived, and the SACK blocks that say so (RFC 2018).
//!
//! The bytes themselves are already in the receive FIFO at their place; this is only the map. It allocates when the first
//! segment arrives out of order.

use crate::wire::{SackBlocks, Seq};

/// A run of received bytes `start..end`, and when it last grew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    start: Seq,
    end: Seq,
    stamp: u32,
}

/// The runs received out of order, sorted, disjoint and not touching each other.
#[derive(Clone, Default, Debug)]
pub(crate) struct Assembly {
    runs: Vec<Run>,
    stamp: u32,
}

impl Assembly {
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether `start..end` can be recorded without exceeding `max_runs`.
    pub(crate) fn admits(&self, start: Seq, end: Seq, max_runs: usize) -> bool {
        self.runs.len() < max_runs
            || self.runs.iter().any(|r| start.before_eq(r.end) && r.start.before_eq(end))
    }

    /// Records that `start..end` has arrived.
    pub(crate) fn insert(&mut self, start: Seq, end: Seq) {
        if !start.before(end) {
            return;
        }
        self.stamp = self.stamp.wrapping_add(1);
        let mut run = Run { start, end, stamp: self.stamp };
        // Absorb everything that overlaps or touches the new run.
        self.runs.retain(|r| {
            let touches = run.start.before_eq(r.end) && r.start.before_eq(run.end);
            if touches {
                run.start = run.start.min(r.start);
                run.end = run.end.max(r.end);
            }
            !touches
        });
        let at = self.runs.iter().position(|r| run.start.before(r.start)).unwrap_or(self.runs.len());
        self.runs.insert(at, run);
    }

    /// The new RCV.NXT after everything up to `next` has arrived in order: runs that `next` reaches are swallowed.
    pub(crate) fn advance(&mut self, next: Seq) -> Seq {
        let mut next = next;
        let reached = self
            .runs
            .iter()
            .take_while(|r| {
                r.start.before_eq(next) && {
                    next = next.max(r.end);
                    true
                }
            })
            .count();
        self.runs.drain(..reached);
        next
    }

    /// The blocks to report: "the first SACK block ... MUST specify the contiguous block of data containing the segment which
    /// triggered this ACK", then the most recent others (RFC 2018 4).
    pub(crate) fn sack_blocks(&self, max_blocks: usize) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        let mut newer_than = None;
        for _ in 0..max_blocks.min(self.runs.len()) {
            let age = |r: &Run| self.stamp.wrapping_sub(r.stamp);
            let next =
                self.runs.iter().filter(|r| newer_than.is_none_or(|n| age(r) > n)).min_by_key(|r| age(r));
            let Some(run) = next else { break };
            newer_than = Some(age(run));
            blocks.push(run.start, run.end);
        }
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blocks(a: &Assembly, max: usize) -> Vec<(u32, u32)> {
        a.sack_blocks(max).iter().map(|(l, r)| (l.0, r.0)).collect()
    }

    #[test]
    fn most_recent_block_is_reported_first() {
        let mut a = Assembly::default();
        a.insert(Seq(100), Seq(200));
        a.insert(Seq(300), Seq(400));
        a.insert(Seq(500), Seq(600));
        assert_eq!(blocks(&a, 4), [(500, 600), (300, 400), (100, 200)]);
        a.insert(Seq(200), Seq(250));
        assert_eq!(blocks(&a, 2), [(100, 250), (500, 600)]);
    }

    #[test]
    fn filling_the_gap_swallows_what_it_reaches() {
        let mut a = Assembly::default();
        a.insert(Seq(100), Seq(200));
        a.insert(Seq(300), Seq(400));
        assert_eq!(a.advance(Seq(50)), Seq(50));
        assert_eq!(a.advance(Seq(120)), Seq(200));
        assert_eq!(blocks(&a, 4), [(300, 400)]);
        assert_eq!(a.advance(Seq(300)), Seq(400));
        assert!(a.is_empty());
    }

    #[test]
    fn a_full_map_admits_only_what_extends_a_run() {
        let mut a = Assembly::default();
        a.insert(Seq(100), Seq(200));
        a.insert(Seq(300), Seq(400));
        assert!(!a.admits(Seq(500), Seq(600), 2));
        assert!(a.admits(Seq(400), Seq(600), 2));
        assert!(a.admits(Seq(500), Seq(600), 3));
    }

    proptest! {
        /// Against a map of bytes, across the wrap of the sequence space.
        #[test]
        fn agrees_with_a_byte_map(ops in prop::collection::vec((1usize..120, 1usize..30), 1..40), base in any::<u32>()) {
            let mut map = [false; 160];
            let mut a = Assembly::default();
            for (at, len) in ops {
                a.insert(Seq(base) + at as u32, Seq(base) + (at + len) as u32);
                map[at..at + len].fill(true);
            }
            let mut expected = Vec::new();
            let mut at = 0;
            while at < map.len() {
                let len = map[at..].iter().take_while(|&&b| b).count();
                if len > 0 {
                    expected.push((at as u32, (at + len) as u32));
                }
                at += len.max(1);
            }
            let got: Vec<_> = a.runs.iter().map(|r| (r.start.since(Seq(base)), r.end.since(Seq(base)))).collect();
            prop_assert_eq!(got, expected);
            let first = map.iter().skip(1).take_while(|&&b| b).count() as u32;
            prop_assert_eq!(a.advance(Seq(base) + 1).since(Seq(base)), 1 + first);
        }
    }
}
