//! A wrapper that makes any device a bad link: seeded loss, corruption, duplication, delay, reordering and a rate limit,
//! for each direction on its own.
//!
//! A frame passes the faults in this order, as on a path through several routers:
//!
//! ```text
//!   loss -> corrupt -> duplicate -> rate (queue, drop-tail) -> delay + jitter (in order) -> reorder (held back longer)
//! ```
//!
//! Time is what [`Device::set_now`] says, never a clock: over a `mem` link a whole lossy conversation is a function of the
//! seed, and [`Device::next_deadline`] tells a simulation how far it may jump. Frames that wait are copied to memory of the
//! wrapper, bounded per direction by [`Faults::held_bytes`]. A direction without faults passes untouched, in place.
//!
//! A corrupted frame never pretends to be sound: a partial checksum is completed before a bit is flipped, and "verified"
//! becomes "unknown". While the sending side has faults, segmentation offload is not offered, so that what is lost is one frame
//! and not a train of 40.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use arrayvec::ArrayVec;

use super::offload::{arrives_as, complete_checksum};
use super::{
    BURST, Caps, Device, DeviceError, HEADROOM, MAX_L2_HEADER, RxChecksum, RxFrame, RxMeta, TxMeta, TxQueue,
    Verdict,
};
use crate::rng::{Rng, Seed};
use crate::time::{Duration, Instant};

/// What happens to the frames of one direction. The default is a perfect link. Probabilities are from 0 to 1 per frame, and
/// cut to that range.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Faults {
    /// Probability that a frame is lost.
    pub loss: f64,
    /// Probability that one random bit of a frame is flipped.
    pub corrupt: f64,
    /// Probability that a frame arrives twice.
    pub duplicate: f64,
    /// Probability that a frame is held back by `reorder_by`, so that later ones overtake it.
    pub reorder: f64,
    /// How much longer a reordered frame takes. Default 1 ms.
    pub reorder_by: Duration,
    /// How long every frame takes. Default 0.
    pub delay: Duration,
    /// Up to this much is added to the delay at random, without changing the order. Default 0.
    pub jitter: Duration,
    /// Bits per second at which frames are serialised. Default `None`: at once.
    pub rate: Option<u64>,
    /// How many bytes may wait for the serialisation; what comes on top is dropped. Default 256 KiB.
    pub rate_queue: usize,
    /// How many bytes may be held in all; what comes on top is dropped. Default 16 MiB.
    pub held_bytes: usize,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            loss: 0.0,
            corrupt: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_by: Duration::from_millis(1),
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            rate: None,
            rate_queue: 256 << 10,
            held_bytes: 16 << 20,
        }
    }
}

impl Faults {
    /// Whether every frame passes at once and unharmed.
    pub fn is_none(&self) -> bool {
        let Self { loss, corrupt, duplicate, reorder, delay, jitter, rate, .. } = self;
        [*loss, *corrupt, *duplicate, *reorder].iter().all(|&p| p <= 0.0)
            && delay.is_zero()
            && jitter.is_zero()
            && rate.is_none()
    }
}

/// The faults of both directions. The default is a perfect link.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct FaultConfig {
    /// What is sent through the wrapper.
    pub tx: Faults,
    /// What is received through it.
    pub rx: Faults,
}

impl FaultConfig {
    /// The same faults in both directions.
    pub fn both(faults: Faults) -> Self {
        Self { tx: faults.clone(), rx: faults }
    }
}

/// How often each fault struck one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct FaultCounts {
    /// Frames that came in.
    pub offered: u64,
    /// Frames lost at random.
    pub lost: u64,
    /// Frames with a flipped bit.
    pub corrupted: u64,
    /// Frames sent twice.
    pub duplicated: u64,
    /// Frames held back.
    pub reordered: u64,
    /// Frames dropped because too many waited for the serialisation.
    pub rate_dropped: u64,
    /// Frames dropped because too much memory was held.
    pub overflowed: u64,
    /// Frames that went out.
    pub delivered: u64,
}

/// A probability, as a bound for 32 random bits.
#[derive(Clone, Copy, Debug)]
struct Chance(u64);

impl Chance {
    /// Not a number is never; beyond certain is certain.
    fn new(p: f64) -> Self {
        Self((p.clamp(0.0, 1.0) * 2f64.powi(32)) as u64)
    }

    fn strikes(self, rng: &mut Rng) -> bool {
        u64::from(rng.u32()) < self.0
    }
}

/// A generator of its own, determined by `rng`.
fn fork(rng: &mut Rng) -> Rng {
    let mut seed = Seed::default();
    seed.as_chunks_mut::<8>().0.iter_mut().for_each(|part| *part = rng.u64().to_le_bytes());
    Rng::new(seed)
}

/// What travels with a frame that is held: enough to send it as it was meant or to show it as it came.
#[derive(Clone, Copy, Debug)]
enum Meta {
    Tx(TxMeta),
    Rx(RxMeta),
}

impl Meta {
    /// The partial checksum, if the frame has one.
    fn partial(&self) -> Option<(u16, u16)> {
        let checksum = match self {
            Self::Tx(meta) => arrives_as(*meta),
            Self::Rx(meta) => meta.checksum,
        };
        match checksum {
            RxChecksum::Partial { start, offset } => Some((start, offset)),
            RxChecksum::Unknown | RxChecksum::Verified => None,
        }
    }

    /// Nothing is known of the checksum any more.
    fn distrust(&mut self) {
        match self {
            Self::Tx(meta) => *meta = TxMeta::default(),
            Self::Rx(meta) => meta.checksum = RxChecksum::Unknown,
        }
    }
}

/// A frame that waits until `due`. Ordered by that, then by arrival.
#[derive(Debug)]
struct Held {
    due: Instant,
    order: u64,
    /// The frame, behind HEADROOM bytes.
    buf: Vec<u8>,
    meta: Meta,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.order) == (other.due, other.order)
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

/// One direction of the link.
#[derive(Debug)]
struct Lane {
    faults: Faults,
    active: bool,
    chances: [Chance; 4],
    /// Which faults strike; drawn from for every frame alike.
    fate: Rng,
    /// Which bit, how much jitter; drawn from as needed.
    amounts: Rng,
    held: BinaryHeap<Reverse<Held>>,
    held_bytes: usize,
    order: u64,
    /// When the serialisation of what was accepted so far is over.
    line_free: Instant,
    /// When the last frame that kept the order is due.
    last_due: Instant,
    spare: Vec<Vec<u8>>,
    counts: FaultCounts,
}

impl Lane {
    fn new(faults: Faults, rng: &mut Rng) -> Self {
        let chances = [faults.loss, faults.corrupt, faults.duplicate, faults.reorder].map(Chance::new);
        Self {
            active: !faults.is_none(),
            chances,
            faults,
            fate: fork(rng),
            amounts: fork(rng),
            held: BinaryHeap::new(),
            held_bytes: 0,
            order: 0,
            line_free: Instant::ZERO,
            last_due: Instant::ZERO,
            spare: Vec::new(),
            counts: FaultCounts::default(),
        }
    }

    /// Takes a frame in: loses it, or holds one or two copies until they are due.
    fn admit(&mut self, now: Instant, frame: &[u8], mut meta: Meta) {
        self.counts.offered += 1;
        // All four are drawn for every frame, so that one more fault does not change which frames another strikes.
        let [lost, corrupted, duplicated, reordered] = self.chances.map(|c| c.strikes(&mut self.fate));
        if lost {
            self.counts.lost += 1;
            return;
        }
        let mut buf = self.buffer(frame);
        if corrupted {
            self.corrupt(&mut buf, &mut meta);
        }
        if duplicated {
            self.counts.duplicated += 1;
            let copy = self.buffer(buf.get(HEADROOM..).unwrap_or_default());
            self.hold(now, copy, meta, false);
        }
        self.hold(now, buf, meta, reordered);
    }

    fn buffer(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut buf = self.spare.pop().unwrap_or_default();
        buf.clear();
        buf.resize(HEADROOM, 0);
        buf.extend_from_slice(frame);
        buf
    }

    /// Flips one bit, after making the frame one whose checksum can show it.
    fn corrupt(&mut self, buf: &mut [u8], meta: &mut Meta) {
        let frame = buf.get_mut(HEADROOM..).unwrap_or_default();
        if let Some((start, offset)) = meta.partial() {
            complete_checksum(frame, start, offset);
        }
        meta.distrust();
        let bit = self.amounts.below(u32::try_from(frame.len() * 8).unwrap_or(u32::MAX)) as usize;
        if let Some(byte) = frame.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        self.counts.corrupted += 1;
    }

    /// Computes when a frame is due, and keeps it until then if there is room.
    fn hold(&mut self, now: Instant, buf: Vec<u8>, meta: Meta, reordered: bool) {
        let len = buf.len() - HEADROOM;
        if self.held_bytes + len > self.faults.held_bytes {
            self.counts.overflowed += 1;
            return self.recycle(buf);
        }
        let Some(sent) = self.serialise(now, len) else {
            self.counts.rate_dropped += 1;
            return self.recycle(buf);
        };
        let jitter = self.faults.jitter.mul_f64(f64::from(self.amounts.u32()) / 2f64.powi(32));
        let mut due = (sent + self.faults.delay + jitter).max(self.last_due);
        if reordered {
            self.counts.reordered += 1;
            due += self.faults.reorder_by;
        } else {
            self.last_due = due;
        }
        self.held_bytes += len;
        self.order += 1;
        self.held.push(Reverse(Held { due, order: self.order, buf, meta }));
    }

    /// When the last bit of a frame of `len` bytes has left, or `None` when too much waits before it.
    fn serialise(&mut self, now: Instant, len: usize) -> Option<Instant> {
        let Some(rate) = self.faults.rate else { return Some(now) };
        let rate = u128::from(rate.max(1));
        let backlog = u128::from(self.line_free.since(now).as_nanos() as u64) * rate / 8 / 1_000_000_000;
        if backlog > 0 && backlog + len as u128 > self.faults.rate_queue as u128 {
            return None;
        }
        let nanos = len as u128 * 8 * 1_000_000_000 / rate;
        self.line_free =
            self.line_free.max(now) + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        Some(self.line_free)
    }

    fn has_due(&self, now: Instant) -> bool {
        self.held.peek().is_some_and(|Reverse(h)| h.due <= now)
    }

    fn next_due(&self) -> Option<Instant> {
        self.held.peek().map(|Reverse(h)| h.due)
    }

    /// Takes the first frame out if it is due.
    fn pop_due(&mut self, now: Instant) -> Option<Held> {
        if !self.has_due(now) {
            return None;
        }
        let Reverse(held) = self.held.pop()?;
        self.held_bytes -= held.buf.len() - HEADROOM;
        self.counts.delivered += 1;
        Some(held)
    }

    fn recycle(&mut self, buf: Vec<u8>) {
        if self.spare.len() < 4 * BURST {
            self.spare.push(buf);
        }
    }
}

/// A device behind a bad link. See the module documentation.
#[derive(Debug)]
pub struct Fault<D> {
    inner: D,
    caps: Caps,
    now: Instant,
    tx: Lane,
    rx: Lane,
    /// The reservation.
    open: Option<Vec<u8>>,
    /// The inner device had no room for a frame that is due.
    blocked: bool,
}

impl<D: Device> Fault<D> {
    /// Puts the faults of `config` between `inner` and its user. The same seed and the same calls give the same faults.
    pub fn new(inner: D, config: FaultConfig, seed: Seed) -> Self {
        let mut rng = Rng::new(seed);
        let (tx, rx) = (Lane::new(config.tx, &mut rng), Lane::new(config.rx, &mut rng));
        let inner_caps = *inner.caps();
        let tso_max = if tx.active { 0 } else { inner_caps.tso_max };
        let caps = Caps { tso_max, ..inner_caps };
        Self { inner, caps, now: Instant::ZERO, tx, rx, open: None, blocked: false }
    }

    /// What happened to the frames sent.
    pub fn tx_counts(&self) -> FaultCounts {
        self.tx.counts
    }

    /// What happened to the frames received.
    pub fn rx_counts(&self) -> FaultCounts {
        self.rx.counts
    }

    /// The device behind the link.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// The device behind the link.
    pub fn inner_mut(&mut self) -> &mut D {
        &mut self.inner
    }

    /// Hands what is due to the inner device, as far as that has room.
    fn drain_tx(&mut self) {
        self.blocked = false;
        while let Some(Reverse(held)) = self.tx.held.peek().filter(|Reverse(h)| h.due <= self.now) {
            let frame = held.buf.get(HEADROOM..).unwrap_or_default();
            let Meta::Tx(meta) = held.meta else { return };
            let Some(room) = self.inner.reserve(frame.len()) else {
                self.blocked = true;
                return;
            };
            room.copy_from_slice(frame);
            self.inner.commit(meta);
            if let Some(held) = self.tx.pop_due(self.now) {
                self.tx.recycle(held.buf);
            }
        }
    }

    /// Receives with only the sending side at fault: in place, but for replies, which take the sending side's way.
    fn receive_direct(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        let (tx, now) = (&mut self.tx, self.now);
        self.inner.rx_burst(&mut |burst| {
            sink(burst);
            for frame in burst {
                if let (Verdict::Reply(meta), true) = (frame.verdict, tx.active) {
                    tx.admit(now, frame.bytes(), Meta::Tx(meta));
                    frame.verdict = Verdict::Done;
                }
            }
        })
    }

    /// Receives through the faults: what the device has is taken in, what is due is handed out.
    fn receive_through(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        let (rx, now) = (&mut self.rx, self.now);
        // Everything that is there arrived now, and "nothing received" must mean that nothing is left; the bound is for a peer
        // that sends faster than this loop throws away.
        for _ in 0..BURST {
            if rx.has_due(now) {
                break;
            }
            let taken = self.inner.rx_burst(&mut |burst| {
                for frame in burst {
                    rx.admit(now, frame.bytes(), Meta::Rx(frame.meta));
                    frame.verdict = Verdict::Done;
                }
            })?;
            if taken == 0 {
                break;
            }
        }
        let mut due: ArrayVec<Held, BURST> =
            std::iter::from_fn(|| self.rx.pop_due(now)).take(BURST).collect();
        if due.is_empty() {
            return Ok(0);
        }
        let room = self.caps.mtu + MAX_L2_HEADER;
        let mut frames: ArrayVec<RxFrame<'_>, BURST> = due
            .iter_mut()
            .map(|held| {
                let meta = if let Meta::Rx(meta) = held.meta { meta } else { RxMeta::default() };
                let len = held.buf.len() - HEADROOM;
                // As much room as a device has: an answer may be longer.
                held.buf.resize(HEADROOM + len.max(room), 0);
                RxFrame::new(&mut held.buf, HEADROOM, len, meta)
            })
            .collect();
        sink(&mut frames);
        for frame in &frames {
            if let Verdict::Reply(meta) = frame.verdict {
                self.tx.admit(now, frame.bytes(), Meta::Tx(meta));
            }
        }
        drop(frames);
        let count = due.len();
        due.into_iter().for_each(|held| self.rx.recycle(held.buf));
        Ok(count)
    }
}

impl<D: Device> TxQueue for Fault<D> {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        if !self.tx.active && self.tx.held.is_empty() {
            return self.inner.reserve(len);
        }
        if self.blocked {
            self.drain_tx();
        }
        // Whether the inner device would ever take it.
        if self.blocked || self.inner.reserve(len).is_none() {
            return None;
        }
        let mut buf = self.open.take().or_else(|| self.tx.spare.pop()).unwrap_or_default();
        buf.resize(len, 0);
        Some(self.open.insert(buf))
    }

    fn commit(&mut self, meta: TxMeta) {
        match self.open.take() {
            None if !self.tx.active => self.inner.commit(meta),
            None => {}
            Some(frame) => {
                self.tx.admit(self.now, &frame, Meta::Tx(meta));
                self.tx.recycle(frame);
                self.drain_tx();
            }
        }
    }
}

impl<D: Device> Device for Fault<D> {
    fn inner(&self) -> Option<&dyn Device> {
        Some(&self.inner)
    }

    fn inner_mut(&mut self) -> Option<&mut dyn Device> {
        Some(&mut self.inner)
    }

    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        let count = if self.rx.active { self.receive_through(sink) } else { self.receive_direct(sink) };
        self.drain_tx();
        count
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        self.drain_tx();
        self.inner.flush()
    }

    fn set_now(&mut self, now: Instant) {
        self.now = now;
        self.inner.set_now(now);
    }

    fn next_deadline(&self) -> Option<Instant> {
        // A frame that the inner device has no room for waits for that room, not for a time.
        let tx = self.tx.next_due().filter(|_| !self.blocked);
        [tx, self.rx.next_due(), self.inner.next_deadline()].into_iter().flatten().min()
    }

    fn stats(&self) -> Vec<(&'static str, u64)> {
        let (t, r) = (&self.tx.counts, &self.rx.counts);
        let mut stats = self.inner.stats();
        stats.extend([
            ("fault-tx-lost", t.lost),
            ("fault-tx-corrupted", t.corrupted),
            ("fault-tx-duplicated", t.duplicated),
            ("fault-tx-reordered", t.reordered),
            ("fault-tx-rate-dropped", t.rate_dropped),
            ("fault-tx-overflowed", t.overflowed),
            ("fault-rx-lost", r.lost),
            ("fault-rx-corrupted", r.corrupted),
            ("fault-rx-duplicated", r.duplicated),
            ("fault-rx-reordered", r.reordered),
            ("fault-rx-rate-dropped", r.rate_dropped),
            ("fault-rx-overflowed", r.overflowed),
        ]);
        stats
    }
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod tests;
