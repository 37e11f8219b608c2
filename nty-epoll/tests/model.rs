//! Random operations on an epoll over arbitrary levels and edges, against the plainest model of `epoll(7)`.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod common;

use common::Gate;
use nty_epoll::{Epoll, EpollError, Event, Events, Pollable, Waker};
use proptest::prelude::*;
use std::sync::Arc;

const SOURCES: usize = 4;

#[derive(Clone, Debug)]
enum Op {
    Level(usize, Events),
    Edge(usize, Events),
    Add(usize, Events),
    Modify(usize, Events),
    Delete(usize),
    Replace(usize),
    Wait(usize),
}

/// What `epoll(7)` says, as lists.
#[derive(Default)]
struct Model {
    levels: [Events; SOURCES],
    items: Vec<Item>,
    /// Sources to look at, oldest edge first.
    ready: Vec<usize>,
}

struct Item {
    source: usize,
    events: Events,
    data: u64,
    armed: bool,
}

const MODES: Events = Events::EXCLUSIVE.union(Events::ONESHOT).union(Events::ET);

impl Model {
    fn item(&mut self, source: usize) -> Option<&mut Item> {
        self.items.iter_mut().find(|i| i.source == source)
    }

    fn hits(&mut self, source: usize, what: Events) -> Events {
        let Some(item) = self.item(source) else { return Events::empty() };
        let asked = item.events.difference(MODES) | Events::ERR | Events::HUP;
        if item.armed { what & asked } else { Events::empty() }
    }

    fn queue(&mut self, source: usize) {
        if !self.ready.contains(&source) {
            self.ready.push(source);
        }
    }

    fn edge(&mut self, source: usize, edge: Events) {
        let edge = if edge.is_empty() { Events::all() } else { edge };
        if !self.hits(source, edge).is_empty() {
            self.queue(source);
        }
    }

    fn evaluate(&mut self, source: usize) {
        if !self.hits(source, self.levels[source]).is_empty() {
            self.queue(source);
        }
    }

    fn add(&mut self, source: usize, events: Events, data: u64) -> Result<(), EpollError> {
        let beside = Events::IN | Events::OUT | Events::ERR | Events::HUP | Events::ET | Events::EXCLUSIVE;
        if events.contains(Events::EXCLUSIVE) && !beside.contains(events) {
            return Err(EpollError::Invalid);
        }
        if self.item(source).is_some() {
            return Err(EpollError::Exists);
        }
        self.items.push(Item { source, events, data, armed: true });
        self.evaluate(source);
        Ok(())
    }

    fn modify(&mut self, source: usize, events: Events, data: u64) -> Result<(), EpollError> {
        if events.contains(Events::EXCLUSIVE) {
            return Err(EpollError::Invalid);
        }
        let item = self.item(source).ok_or(EpollError::NotFound)?;
        if item.events.contains(Events::EXCLUSIVE) {
            return Err(EpollError::Invalid);
        }
        (item.events, item.data, item.armed) = (events, data, true);
        self.evaluate(source);
        Ok(())
    }

    fn delete(&mut self, source: usize) -> Result<(), EpollError> {
        self.item(source).ok_or(EpollError::NotFound)?;
        self.items.retain(|i| i.source != source);
        self.ready.retain(|&s| s != source);
        Ok(())
    }

    fn wait(&mut self, max: usize) -> Vec<Event> {
        let (mut out, mut again) = (Vec::new(), Vec::new());
        while out.len() < max && !self.ready.is_empty() {
            let source = self.ready.remove(0);
            let events = self.hits(source, self.levels[source]);
            let Some(item) = self.item(source).filter(|_| !events.is_empty()) else { continue };
            out.push(Event { events, data: item.data });
            if item.events.contains(Events::ONESHOT) {
                item.armed = false;
            } else if !item.events.contains(Events::ET) {
                again.push(source);
            }
        }
        self.ready.extend(again);
        out
    }
}

fn conditions() -> impl Strategy<Value = Events> {
    let each = [Events::IN, Events::PRI, Events::OUT, Events::ERR, Events::HUP, Events::RDHUP];
    proptest::sample::subsequence(each.to_vec(), 0..=each.len())
        .prop_map(|some| some.into_iter().fold(Events::empty(), |a, b| a | b))
}

fn asked() -> impl Strategy<Value = Events> {
    let plain = (conditions(), any::<bool>(), any::<bool>(), 0..8).prop_map(|(c, et, once, rare)| {
        let mut events = c;
        events.set(Events::ET, et);
        events.set(Events::ONESHOT, once);
        events.set(Events::EXCLUSIVE, rare == 0);
        events
    });
    let exclusive = [Events::IN, Events::OUT, Events::IN | Events::OUT, Events::IN | Events::ET];
    prop_oneof![4 => plain, 1 => proptest::sample::select(exclusive.to_vec()).prop_map(|e| e | Events::EXCLUSIVE)]
}

fn op() -> impl Strategy<Value = Op> {
    let s = 0..SOURCES;
    prop_oneof![
        4 => (s.clone(), conditions()).prop_map(|(s, e)| Op::Level(s, e)),
        4 => (s.clone(), conditions()).prop_map(|(s, e)| Op::Edge(s, e)),
        4 => (s.clone(), asked()).prop_map(|(s, e)| Op::Add(s, e)),
        3 => (s.clone(), asked()).prop_map(|(s, e)| Op::Modify(s, e)),
        1 => s.clone().prop_map(Op::Delete),
        1 => s.prop_map(Op::Replace),
        6 => (1..=SOURCES + 1).prop_map(Op::Wait),
    ]
}

fn run(ops: &[Op]) -> Result<(), TestCaseError> {
    let epoll = Epoll::new().unwrap();
    let waker = |_| Waker::new(Arc::new(Gate::default()));
    let mut wakers: [_; SOURCES] = std::array::from_fn(waker);
    let mut model = Model::default();
    for (step, op) in ops.iter().enumerate() {
        let data = step as u64;
        match *op {
            Op::Level(s, level) => {
                wakers[s].set(level);
                model.levels[s] = level;
            }
            Op::Edge(s, edge) => {
                wakers[s].wake(edge);
                model.edge(s, edge);
            }
            Op::Add(s, e) => {
                prop_assert_eq!(
                    epoll.add(wakers[s].target(), e, data),
                    model.add(s, e, data),
                    "step {}",
                    step
                );
            }
            Op::Modify(s, e) => {
                let ours = epoll.modify(wakers[s].target(), e, data);
                prop_assert_eq!(ours, model.modify(s, e, data), "step {}", step);
            }
            Op::Delete(s) => {
                prop_assert_eq!(epoll.delete(wakers[s].target()), model.delete(s), "step {}", step);
            }
            Op::Replace(s) => {
                wakers[s].source().close();
                prop_assert_eq!(epoll.add(wakers[s].target(), Events::IN, 0), {
                    let known = model.delete(s);
                    known.map_or(Err(EpollError::Closed), |()| Err(EpollError::Closed))
                });
                wakers[s] = Waker::new(Arc::new(Gate::default()));
                model.levels[s] = Events::empty();
            }
            Op::Wait(max) => {
                let mut out = vec![Event::default(); max];
                let n = epoll.wait(&mut out, 0).unwrap();
                prop_assert_eq!(&out[..n], &model.wait(max), "step {}", step);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn reports_what_the_model_reports_in_the_same_order(ops in prop::collection::vec(op(), 1..80)) {
        run(&ops)?;
    }
}

#[test]
fn errors_come_in_the_order_of_linux() {
    let (epoll, gate) = (Epoll::new().unwrap(), Arc::new(Gate::default()));
    assert_eq!(epoll.modify(&gate, Events::IN | Events::EXCLUSIVE, 0), Err(EpollError::Invalid));
    assert_eq!(epoll.modify(&gate, Events::IN, 0), Err(EpollError::NotFound));
    assert_eq!(epoll.add(&epoll, Events::IN, 0), Err(EpollError::Invalid));
    assert_eq!(epoll.add(&gate, Events::from_bits_retain(1 << 29), 0), Err(EpollError::Invalid));
    assert_eq!(epoll.wait(&mut [], 0), Err(EpollError::Invalid));
    let inner = Epoll::new().unwrap();
    assert_eq!(epoll.add(&inner, Events::IN | Events::EXCLUSIVE, 0), Err(EpollError::Invalid));
}

#[test]
fn churn_of_ready_registrations_leaves_nothing_in_the_ring() {
    let (epoll, gate) = (Epoll::new().unwrap(), Arc::new(Gate::default()));
    gate.set(Events::IN);
    for _ in 0..100_000 {
        epoll.add(&gate, Events::IN, 1).unwrap();
        epoll.delete(&gate).unwrap();
    }
    // Every registration holds the gate: those that linger in the ring show here.
    assert!(Arc::strong_count(&gate) < 100, "{} references", Arc::strong_count(&gate));
    let mut out = [Event::default(); 4];
    assert_eq!(epoll.wait(&mut out, 0), Ok(0));
    drop(epoll);
    assert_eq!(Arc::strong_count(&gate), 1);
}

#[test]
fn a_dropped_epoll_lets_go_of_its_sources_and_of_outer_epolls() {
    let (outer, inner, gate) = (Epoll::new().unwrap(), Epoll::new().unwrap(), Arc::new(Gate::default()));
    gate.set(Events::IN);
    inner.add(&gate, Events::IN, 1).unwrap();
    outer.add(&inner, Events::IN, 2).unwrap();
    let mut out = [Event::default(); 4];
    assert_eq!(outer.wait(&mut out, 0), Ok(1));
    drop(inner);
    assert_eq!(outer.wait(&mut out, 0), Ok(0));
    assert_eq!(Arc::strong_count(&gate), 1);
}

#[test]
fn level_triggered_sources_take_turns_when_the_buffer_is_small() {
    let epoll = Epoll::new().unwrap();
    let gates: Vec<_> = (0..5).map(|_| Arc::new(Gate::default())).collect();
    for (i, gate) in gates.iter().enumerate() {
        gate.set(Events::IN);
        epoll.add(gate, Events::IN, i as u64).unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..5 {
        let mut out = [Event::default(); 2];
        assert_eq!(epoll.wait(&mut out, 0), Ok(2));
        seen.extend(out.map(|e| e.data));
    }
    assert_eq!(seen, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
}

#[test]
fn posix_synonyms_are_reported_with_what_they_stand_for() {
    let (epoll, gate) = (Epoll::new().unwrap(), Arc::new(Gate::default()));
    gate.set(gate.level() | Events::IN | Events::OUT);
    epoll.add(&gate, Events::RDNORM | Events::WRNORM, 9).unwrap();
    let mut out = [Event::default(); 1];
    epoll.wait(&mut out, 0).unwrap();
    assert_eq!(out[0], Event { events: Events::RDNORM | Events::WRNORM, data: 9 });
}
