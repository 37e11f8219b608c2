//! The same random operations on our epoll over socket pairs in memory and on Linux's over real ones: every error, every
//! report and the order of the reports must be the same.
#![allow(unsafe_code)] // The kernel's epoll and sockets are the reference.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod common;

use common::{Pair, RD, WR};
use nty_epoll::{Epoll, Event, Events};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

const PAIRS: usize = 2;
const ENDS: usize = 2 * PAIRS;
const EPOLLS: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    Add(usize, usize, Events),
    Modify(usize, usize, Events),
    Delete(usize, usize),
    Nest(usize, usize, Events),
    Unnest(usize, usize),
    Write(usize, usize),
    Fill(usize),
    Read(usize, usize),
    Shutdown(usize, u8),
    Close(usize),
    Wait(usize, usize),
}

/// Linux's epoll.
struct Kernel(OwnedFd);

impl Kernel {
    fn new() -> Self {
        // SAFETY: no pointer; the descriptor is new and ours.
        Self(unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) })
    }

    fn ctl(&self, op: i32, fd: RawFd, events: Events, data: u64) -> Result<(), i32> {
        let mut event = libc::epoll_event { events: events.bits(), u64: data };
        // SAFETY: `event` outlives the call.
        let rc = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), op, fd, &raw mut event) };
        if rc == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().raw_os_error().unwrap()) }
    }

    fn wait(&self, max: usize) -> Vec<Event> {
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; max];
        // SAFETY: the kernel writes at most `max` entries.
        let n = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), max as i32, 0) };
        let event = |e: &libc::epoll_event| Event { events: Events::from_bits_retain(e.events), data: e.u64 };
        events[..n as usize].iter().map(event).collect()
    }
}

/// Both worlds, side by side.
struct Worlds {
    pairs: [Pair; PAIRS],
    ours: [Epoll; EPOLLS],
    sockets: [Option<UnixStream>; ENDS],
    linux: [Kernel; EPOLLS],
}

impl Worlds {
    fn new() -> Self {
        let mut sockets = Vec::new();
        for _ in 0..PAIRS {
            let (a, b) = UnixStream::pair().unwrap();
            for socket in [a, b] {
                socket.set_nonblocking(true).unwrap();
                sockets.push(Some(socket));
            }
        }
        Self {
            pairs: std::array::from_fn(|_| Pair::new()),
            ours: std::array::from_fn(|_| Epoll::new().unwrap()),
            sockets: sockets.try_into().unwrap(),
            linux: std::array::from_fn(|_| Kernel::new()),
        }
    }

    fn apply(&mut self, op: &Op, step: u64) -> Result<(), TestCaseError> {
        match *op {
            Op::Add(p, e, ev) => self.ctl(p, e, libc::EPOLL_CTL_ADD, ev, step),
            Op::Modify(p, e, ev) => self.ctl(p, e, libc::EPOLL_CTL_MOD, ev, step),
            Op::Delete(p, e) => self.ctl(p, e, libc::EPOLL_CTL_DEL, Events::empty(), step),
            Op::Nest(outer, inner, ev) => self.nest(outer, inner, libc::EPOLL_CTL_ADD, ev, step),
            Op::Unnest(outer, inner) => self.nest(outer, inner, libc::EPOLL_CTL_DEL, Events::empty(), step),
            Op::Wait(p, max) => {
                let mut out = vec![Event::default(); max];
                let n = self.ours[p].wait(&mut out, 0).unwrap();
                prop_assert_eq!(&out[..n], &self.linux[p].wait(max), "step {}", step);
                Ok(())
            }
            Op::Write(e, _) | Op::Fill(e) | Op::Read(e, _) | Op::Shutdown(e, _) | Op::Close(e) => {
                match self.sockets[e].take() {
                    Some(socket) => self.socket_op(e, socket, op, step),
                    None => Ok(()),
                }
            }
        }
    }

    fn ctl(&self, p: usize, e: usize, op: i32, events: Events, data: u64) -> Result<(), TestCaseError> {
        let Some(socket) = &self.sockets[e] else { return Ok(()) };
        let gate = self.pairs[e / 2].0[e % 2].gate();
        let ours = match op {
            libc::EPOLL_CTL_ADD => self.ours[p].add(&gate, events, data),
            libc::EPOLL_CTL_MOD => self.ours[p].modify(&gate, events, data),
            _ => self.ours[p].delete(&gate),
        };
        let linux = self.linux[p].ctl(op, socket.as_raw_fd(), events, data);
        prop_assert_eq!(ours.map_err(|e| e.errno()), linux, "step {}", data);
        Ok(())
    }

    fn nest(&self, o: usize, i: usize, op: i32, events: Events, data: u64) -> Result<(), TestCaseError> {
        let inner = &self.ours[i];
        let ours = match op {
            libc::EPOLL_CTL_ADD => self.ours[o].add(inner, events, data),
            _ if o == i => return Ok(()), // Linux: EINVAL for any operation of an epoll on itself.
            _ => self.ours[o].delete(inner),
        };
        let linux = self.linux[o].ctl(op, self.linux[i].0.as_raw_fd(), events, data);
        prop_assert_eq!(ours.map_err(|e| e.errno()), linux, "step {}", data);
        Ok(())
    }

    fn socket_op(
        &mut self,
        e: usize,
        mut socket: UnixStream,
        op: &Op,
        step: u64,
    ) -> Result<(), TestCaseError> {
        let (pair, side) = (&mut self.pairs[e / 2], e % 2);
        match *op {
            Op::Write(_, size) => {
                // How much fits is the kernel's affair: the model follows it.
                if let Ok(n) = socket.write(&vec![0; size]) {
                    pair.wrote(side, n);
                }
            }
            Op::Fill(_) => loop {
                match socket.write(&[0; 4_096]) {
                    Ok(n) => pair.wrote(side, n),
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break pair.filled(side),
                    Err(_) => break,
                }
            },
            Op::Read(_, size) => {
                let linux = socket.read(&mut vec![0; size]).ok();
                prop_assert_eq!(pair.read(side, size), linux, "step {}", step);
            }
            Op::Shutdown(_, how) => {
                let which = [Shutdown::Read, Shutdown::Write, Shutdown::Both][usize::from(how) - 1];
                socket.shutdown(which).unwrap();
                pair.shutdown(side, how);
            }
            Op::Close(_) => {
                drop(socket);
                pair.close(side);
                return Ok(());
            }
            _ => unreachable!("not an operation on a socket"),
        }
        self.sockets[e] = Some(socket);
        Ok(())
    }
}

fn conditions() -> impl Strategy<Value = Events> {
    let each = vec![Events::IN, Events::OUT, Events::RDHUP, Events::PRI];
    let some = proptest::sample::subsequence(each, 0..=4);
    prop_oneof![
        3 => some.prop_map(|some| some.into_iter().fold(Events::empty(), |a, b| a | b)),
        2 => Just(Events::IN),
        2 => Just(Events::IN | Events::OUT | Events::RDHUP),
    ]
}

fn asked() -> impl Strategy<Value = Events> {
    let mode = [
        Events::empty(),
        Events::ET,
        Events::ONESHOT,
        Events::ET | Events::ONESHOT,
        Events::EXCLUSIVE,
        Events::EXCLUSIVE | Events::ET,
        Events::EXCLUSIVE | Events::ONESHOT,
    ];
    let mode = prop_oneof![1 => Just(Events::empty()), 1 => Just(Events::ET), 1 => proptest::sample::select(mode.to_vec())];
    (conditions(), mode)
        .prop_map(|(c, m)| if m.contains(Events::EXCLUSIVE) { (c & !Events::PRI) | m } else { c | m })
}

fn op() -> impl Strategy<Value = Op> {
    let (end, set) = (0..ENDS, 0..EPOLLS);
    let read_size = prop_oneof![4 => 1..12usize, 1 => Just(1 << 20)];
    prop_oneof![
        8 => (set.clone(), end.clone(), asked()).prop_map(|(p, e, a)| Op::Add(p, e, a)),
        6 => (set.clone(), end.clone(), asked()).prop_map(|(p, e, a)| Op::Modify(p, e, a)),
        3 => (set.clone(), end.clone()).prop_map(|(p, e)| Op::Delete(p, e)),
        3 => (set.clone(), set.clone(), asked()).prop_map(|(p, i, a)| Op::Nest(p, i, a)),
        1 => (set.clone(), set.clone()).prop_map(|(p, i)| Op::Unnest(p, i)),
        8 => (end.clone(), 1..9usize).prop_map(|(e, n)| Op::Write(e, n)),
        1 => end.clone().prop_map(Op::Fill),
        8 => (end.clone(), read_size).prop_map(|(e, n)| Op::Read(e, n)),
        2 => (end.clone(), RD..=RD | WR).prop_map(|(e, how)| Op::Shutdown(e, how)),
        1 => end.prop_map(Op::Close),
        16 => (set, 1..8usize).prop_map(|(p, max)| Op::Wait(p, max)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_report_and_error_is_that_of_linux(ops in prop::collection::vec(op(), 1..60)) {
        let mut worlds = Worlds::new();
        for (step, op) in ops.iter().enumerate() {
            worlds.apply(op, step as u64)?;
        }
        // Whatever is still pending, twice: level-triggered ones come again, the others do not.
        for p in (0..EPOLLS).cycle().take(2 * EPOLLS) {
            worlds.apply(&Op::Wait(p, 16), ops.len() as u64)?;
        }
    }
}

#[test]
fn chains_of_epolls_may_be_as_long_as_on_linux() {
    let (ours, linux): (Vec<_>, Vec<_>) = (0..8).map(|_| (Epoll::new().unwrap(), Kernel::new())).unzip();
    // Grown at the top, at the bottom, and joined in the middle.
    let orders: [&[(usize, usize)]; 2] = [
        &[(1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (0, 4), (0, 2), (6, 7), (6, 4), (7, 0)],
        &[(0, 1), (1, 2), (4, 5), (5, 6), (2, 4), (2, 7), (7, 4), (0, 0), (4, 0)],
    ];
    for (step, &(outer, inner)) in orders.concat().iter().enumerate() {
        if step == orders[0].len() {
            for &(outer, inner) in orders[0] {
                let ours = ours[outer].delete(&ours[inner]).map_err(|e| e.errno());
                let fd = linux[inner].0.as_raw_fd();
                assert_eq!(ours, linux[outer].ctl(libc::EPOLL_CTL_DEL, fd, Events::empty(), 0));
            }
        }
        let ours = ours[outer].add(&ours[inner], Events::IN, 0).map_err(|e| e.errno());
        let fd = linux[inner].0.as_raw_fd();
        assert_eq!(ours, linux[outer].ctl(libc::EPOLL_CTL_ADD, fd, Events::IN, 0), "{outer} around {inner}");
    }
}

#[test]
fn kernel_descriptors_are_reported_beside_sources() {
    let epoll = Epoll::new().unwrap();
    let mut pair = Pair::new();
    let (mut a, b) = UnixStream::pair().unwrap();
    epoll.add(&pair.0[1].gate(), Events::IN, 1).unwrap();
    epoll.add_fd(b.as_raw_fd(), Events::IN, 2).unwrap();
    let mut out = [Event::default(); 8];
    assert_eq!(epoll.wait(&mut out, 0), Ok(0));
    a.write_all(b"x").unwrap();
    // Sleeps on both; the descriptor alone ends it.
    assert_eq!(epoll.wait(&mut out, -1), Ok(1));
    assert_eq!(out[0], Event { events: Events::IN, data: 2 });
    pair.wrote(0, 1);
    // With room for one, each gets its turn.
    let mut turns = [Event::default(); 2];
    for turn in &mut turns {
        assert_eq!(epoll.wait(std::slice::from_mut(turn), -1), Ok(1));
    }
    turns.sort_by_key(|e| e.data);
    assert_eq!(turns.map(|e| e.data), [1, 2]);
    epoll.delete_fd(b.as_raw_fd()).unwrap();
    assert_eq!(epoll.wait(&mut out, 0), Ok(1));
    assert_eq!(epoll.delete_fd(b.as_raw_fd()).map_err(|e| e.errno()), Err(libc::ENOENT));
}
