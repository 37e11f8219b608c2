//! Queues of one device on several shards: each frame reaches the shard where its flow lives.
//!
//! ```text
//!            wire queue 0        wire queue 1
//!                |                   |
//!   shard 0   [Lanes]  <--lane-->  [Lanes]   shard 1
//!                |  \                 |
//!             stack   \lane        stack
//!                      \
//!                     [Lanes]                shard 2, which has no queue: receives and sends through others
//! ```
//!
//! Whoever receives a frame asks [`Placement::home`]. What is at home goes to the shard's own stack in the device's memory; anything
//! else is copied onto the lane to its shard, which finds it with its next burst. A device that delivers flows by the same rule (RSS)
//! keeps the lanes empty but for what no device can place: ICMP errors, neighbor discovery, ports that not every shard has opened.
//!
//! A device with fewer queues than there are shards leaves the last shards without one. Those send over a lane, and who has a
//! queue puts it on the wire. A full lane is back-pressure for what is sent; for what was received it is a full ring: the frame is lost
//! and counted.
//!
//! Each pair of shards shares a [`mem`](super::mem) link: no lock, no allocation once it was used in full. A shard that sleeps is woken
//! by its doorbell.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use super::mem::{Errand, MemConfig, MemDevice, pair};
use super::spec::BoxedDevice;
use super::{Caps, Device, DeviceError, RETRY, RxFrame, TxMeta, TxQueue, Verdict, sys};
use crate::doorbell::Doorbell;
use crate::placement::{Fragments, Home, Placement};
use crate::time::Instant;

/// Frames that a shard can have under way to another.
const RING: usize = 512;

/// Connects the queues of one device, so that each frame reaches its shard: what shard 0 drives, what shard 1 drives, and so on. There
/// may be fewer queues than shards, but not none; queues beyond the number of shards are closed.
///
/// # Errors
/// [`DeviceError::Io`] when the process has no descriptor left: each shard takes two.
pub fn connect(queues: Vec<BoxedDevice>, placement: &Arc<Placement>) -> Result<Vec<Lanes>, DeviceError> {
    let shards = placement.shards();
    let Some(&caps) = queues.first().map(|queue| queue.caps()) else {
        return Err(DeviceError::Config("a device without queues cannot be shared".to_owned()));
    };
    let carriers = queues.len().min(shards);
    let bells = (0..shards).map(|_| Doorbell::new().map(Arc::new)).collect::<io::Result<Vec<_>>>();
    let bells = bells.map_err(no_descriptor)?;
    let mut queues = queues.into_iter();
    let mut connected = Vec::with_capacity(shards);
    for ((shard, bell), lanes) in bells.iter().enumerate().zip(mesh(&bells, &caps)) {
        let wire = queues.next();
        let sleep = sleep_on(wire.as_ref(), bell).map_err(no_descriptor)?;
        connected.push(Lanes {
            shard,
            placement: placement.clone(),
            wire,
            caps,
            lanes,
            carriers,
            bell: bell.clone(),
            sleep,
            is_armed: false,
            is_blocked: false,
            now: Instant::ZERO,
            fragments: Fragments::default(),
            handed_over: 0,
            lane_full: 0,
        });
    }
    Ok(connected)
}

/// A lane between any two shards: for each shard, its ends in the order of the others.
fn mesh(bells: &[Arc<Doorbell>], caps: &Caps) -> Vec<Vec<Lane>> {
    let mut lanes: Vec<Vec<Lane>> = bells.iter().map(|_| Vec::new()).collect();
    for (a, bell_a) in bells.iter().enumerate() {
        for (b, bell_b) in bells.iter().enumerate().skip(a + 1) {
            let (to_b, to_a) = pair(lane_config(caps));
            for (at, shard, link, bell) in [(a, b, to_b, bell_b), (b, a, to_a, bell_a)] {
                if let Some(lanes) = lanes.get_mut(at) {
                    lanes.push(Lane { shard, link, bell: bell.clone(), is_stirred: false });
                }
            }
        }
    }
    lanes
}

/// A lane carries whatever the device may deliver or be given.
fn lane_config(caps: &Caps) -> MemConfig {
    let offload = if caps.tso_max > 0 { MemConfig::offloading() } else { MemConfig::default() };
    MemConfig { mtu: caps.mtu, checksum: true, ..offload }.ring(RING)
}

/// What is readable when the wire or the bell is; `None` when the wire can only be polled.
fn sleep_on(wire: Option<&BoxedDevice>, bell: &Doorbell) -> io::Result<Option<OwnedFd>> {
    match wire.map(|wire| wire.poll_fd()) {
        Some(None) => Ok(None),
        Some(Some(wire)) => sys::either_readable(&[wire, bell.as_raw_fd()]).map(Some),
        None => sys::either_readable(&[bell.as_raw_fd()]).map(Some),
    }
}

fn no_descriptor(source: io::Error) -> DeviceError {
    let what = "lanes between shards".to_owned();
    DeviceError::Io { what, source, remedy: "raise the limit of open files (ulimit -n)" }
}

/// The way to one other shard.
struct Lane {
    shard: usize,
    link: MemDevice,
    /// Wakes the other shard.
    bell: Arc<Doorbell>,
    /// Something was put there since the bell was rung last.
    is_stirred: bool,
}

impl Lane {
    /// Hands over a copy of a frame that was received here.
    fn pass(&mut self, frame: &RxFrame<'_>, errand: Errand) -> bool {
        self.is_stirred = true;
        self.link.pass(frame.bytes(), frame.meta, errand)
    }
}

/// A shard's part of a device. See the module documentation.
pub struct Lanes {
    shard: usize,
    placement: Arc<Placement>,
    /// Our own queue, if there is one.
    wire: Option<BoxedDevice>,
    caps: Caps,
    lanes: Vec<Lane>,
    /// The shards below this number have a queue.
    carriers: usize,
    bell: Arc<Doorbell>,
    sleep: Option<OwnedFd>,
    is_armed: bool,
    /// The wire has no room for what others want to send.
    is_blocked: bool,
    now: Instant,
    fragments: Fragments,
    handed_over: u64,
    lane_full: u64,
}

impl Lanes {
    /// The shard that this part belongs to.
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// Does what other shards ask for. Returns how many frames that were.
    fn run_errands(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> usize {
        let Self { lanes, wire, is_blocked, .. } = self;
        *is_blocked = false;
        let mut send = |frame: &[u8], meta: TxMeta| {
            let Some(buf) = wire.as_mut().and_then(|wire| wire.reserve(frame.len())) else {
                *is_blocked = true;
                return false;
            };
            buf.copy_from_slice(frame);
            if let Some(wire) = wire {
                wire.commit(meta);
            }
            true
        };
        let mut frames = 0;
        for lane in lanes.iter_mut() {
            let done = lane.link.run_errands(&mut send, sink);
            // Answers in place, and buffers that the other side may wait for.
            lane.is_stirred |= done > 0;
            frames += done;
        }
        frames
    }

    /// Gives `sink` those of the frames that are at home here, in runs, and hands the others over.
    fn sort(&mut self, frames: &mut [RxFrame<'_>], steered: bool, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) {
        let mut rest = frames;
        while !rest.is_empty() {
            let mut elsewhere = Home::Anyone;
            let mut at_home = |frame: &RxFrame<'_>| {
                elsewhere = match self.placement.home(frame.bytes(), steered) {
                    Home::Fragment(fragment) => Home::Shard(self.fragments.follow(fragment)),
                    home => home,
                };
                matches!(elsewhere, Home::Anyone) || elsewhere == Home::Shard(self.shard)
            };
            let run = rest.iter().take_while(|frame| at_home(frame)).count();
            let (ours, others) = rest.split_at_mut(run);
            if !ours.is_empty() {
                sink(ours);
            }
            let Some((frame, after)) = others.split_first_mut() else { break };
            match elsewhere {
                Home::Shard(shard) => self.hand_over(frame, shard),
                Home::Everyone | Home::Anyone | Home::Fragment(_) => self.spread(frame, sink),
            }
            rest = after;
        }
    }

    fn hand_over(&mut self, frame: &RxFrame<'_>, shard: usize) {
        let lane = self.lanes.iter_mut().find(|lane| lane.shard == shard);
        match lane.is_some_and(|lane| lane.pass(frame, Errand::Receive)) {
            true => self.handed_over += 1,
            false => self.lane_full += 1,
        }
    }

    /// Lets every shard hear a frame, the first one answer it.
    fn spread(&mut self, frame: &mut RxFrame<'_>, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) {
        for lane in &mut self.lanes {
            let errand = if lane.shard == 0 { Errand::Receive } else { Errand::Hear };
            if !lane.pass(frame, errand) {
                self.lane_full += 1;
            }
        }
        sink(core::slice::from_mut(frame));
        if self.shard != 0 {
            frame.verdict = Verdict::Done;
        }
    }

    /// The lane to a shard that has a queue and is alive; not always the same one for all that have none.
    fn carrier(&mut self) -> Option<&mut Lane> {
        let (start, carriers) = (self.shard, self.carriers);
        let alive =
            |shard: usize| self.lanes.iter().position(|lane| lane.shard == shard && lane.link.is_connected());
        let index = (0..carriers).find_map(|i| alive((start + i) % carriers))?;
        self.lanes.get_mut(index)
    }
}

impl TxQueue for Lanes {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.wire.is_none() {
            return self.carrier()?.link.reserve(len);
        }
        self.wire.as_mut()?.reserve(len)
    }

    fn commit(&mut self, meta: TxMeta) {
        if let Some(wire) = &mut self.wire {
            wire.commit(meta);
        } else if let Some(lane) = self.carrier() {
            lane.is_stirred = true;
            lane.link.commit(meta);
        }
    }
}

impl Device for Lanes {
    fn inner(&self) -> Option<&dyn Device> {
        self.wire.as_ref().map(|wire| wire as &dyn Device)
    }

    fn inner_mut(&mut self) -> Option<&mut dyn Device> {
        self.wire.as_mut().map(|wire| wire as &mut dyn Device)
    }

    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        if core::mem::take(&mut self.is_armed) {
            self.bell.leave();
        }
        let errands = self.run_errands(sink);
        let Some(mut wire) = self.wire.take() else {
            // What carried our frames is gone.
            return if errands == 0 && self.carrier().is_none() { Err(no_carrier()) } else { Ok(errands) };
        };
        let steered = wire.is_steered();
        let received = wire.rx_burst(&mut |frames| self.sort(frames, steered, sink));
        self.wire = Some(wire);
        received.map(|frames| frames + errands)
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        for lane in &mut self.lanes {
            if core::mem::take(&mut lane.is_stirred) || lane.link.has_unsent() {
                lane.link.flush()?;
                lane.bell.ring();
            }
        }
        self.wire.as_mut().map_or(Ok(()), |wire| wire.flush())
    }

    fn arm(&mut self) -> bool {
        if !core::mem::replace(&mut self.is_armed, true) {
            self.bell.announce();
        }
        let wire = self.wire.as_mut().is_none_or(|wire| wire.arm());
        // What the wire has no room for is tried again at the next deadline.
        wire && (self.is_blocked || !self.lanes.iter().any(|lane| lane.link.has_received()))
    }

    fn poll_fd(&self) -> Option<i32> {
        let must_poll = self.wire.as_ref().is_some_and(|wire| wire.poll_fd().is_none());
        self.sleep.as_ref().filter(|_| !must_poll).map(|fd| fd.as_raw_fd())
    }

    fn is_exhausted(&self) -> bool {
        self.wire.as_ref().is_none_or(|wire| wire.is_exhausted())
            && self.lanes.iter().all(|lane| lane.link.is_exhausted())
    }

    fn set_now(&mut self, now: Instant) {
        self.now = now;
        if let Some(wire) = &mut self.wire {
            wire.set_now(now);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let is_late = self.is_blocked || self.lanes.iter().any(|lane| lane.link.has_unsent());
        let retry = is_late.then(|| self.now + RETRY);
        let wire = self.wire.as_ref().and_then(|wire| wire.next_deadline());
        [retry, wire].into_iter().flatten().min()
    }

    fn stats(&self) -> Vec<(&'static str, u64)> {
        let mut stats = self.wire.as_ref().map_or_else(Vec::new, |wire| wire.stats());
        stats.extend([("lane-handed-over", self.handed_over), ("lane-full", self.lane_full)]);
        stats
    }
}

#[cold]
fn no_carrier() -> DeviceError {
    DeviceError::Config("the shards that have the device's queues have ended".to_owned())
}

impl core::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Lanes")
            .field("shard", &self.shard)
            .field("has_queue", &self.wire.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
