//! Links inside one process: a cable between two devices ([`pair`]) or a learning switch with several ports ([`hub`]).
//!
//! Frames move by ownership of their buffers. Every port owns a fixed number of buffers, its ring; a buffer that was sent
//! travels to the receiver and, once used up, back to its home. So a port without a buffer left is a port whose ring is
//! full: [`TxQueue::reserve`] answers `None` and nothing that was accepted is ever lost. Buffers travel in batches, one
//! atomic exchange per burst each way, so a frame costs a few nanoseconds and, once the ring has been used in full, no
//! allocation.
//!
//! ```text
//!   port 0                                          port 1
//!   free --reserve--> pending --flush--> inbox ---> rx_burst --Reply--> pending --flush--> (inbox of port 0)
//!    ^                                                 | Done
//!    +------------------- returns <--------------------+
//! ```
//!
//! A reply in place hands the same buffer back: it counts against the ring of the port that first sent it, so answers
//! need no room of their own and two ports can never block each other, as long as each receives before it sends.
//!
//! Ports are `Send`: both ends may live on one thread (a simulation, a benchmark) or on one each. There is no file
//! descriptor to sleep on; a port is polled, as long as another is plugged in.

#[cfg_attr(
    not(all(feature = "devices", target_os = "linux")),
    expect(dead_code, reason = "only lanes give errands")
)]
mod errand;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;

pub(super) use errand::Errand;

use super::offload::{arrives_as, complete_checksum};
use super::{
    BURST, Caps, Device, DeviceError, HEADROOM, MAX_L2_HEADER, RxFrame, RxMeta, TxChecksum, TxMeta, TxQueue,
    Verdict,
};

/// How many stations a switch remembers per port; the next one replaces the oldest.
const MACS_PER_PORT: usize = 8;

/// What one end of a link can do. The link does what both of its ends can.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MemConfig {
    /// The largest IP packet in bytes. Default 1500, at most 65,535.
    pub mtu: usize,
    /// How many frames a port can have under way. Default 512; from 2 to 65,536.
    pub ring: usize,
    /// Frames may pass with [`TxChecksum::Partial`] and then arrive with [`super::RxChecksum::Partial`], as between two guests of
    /// one machine. Default off.
    pub checksum: bool,
    /// The largest segment train, as IP packet bytes, that passes whole and arrives with its `gso_size`; 0 (the default)
    /// for none, at most 65,535. Needs `checksum`.
    pub tso_max: usize,
}

impl Default for MemConfig {
    fn default() -> Self {
        Self { mtu: 1500, ring: 512, checksum: false, tso_max: 0 }
    }
}

impl MemConfig {
    /// The default with another MTU.
    pub fn with_mtu(mtu: usize) -> Self {
        Self { mtu, ..Self::default() }
    }

    /// A link that carries partial checksums and segment trains of up to 64 KB.
    pub fn offloading() -> Self {
        Self { checksum: true, tso_max: 65_535, ..Self::default() }
    }

    /// Sets how many frames a port can have under way.
    #[must_use]
    pub fn ring(self, ring: usize) -> Self {
        Self { ring, ..self }
    }

    /// What two ends agree on, each value cut to its range.
    fn common(self, other: Self) -> Self {
        let checksum = self.checksum && other.checksum;
        Self {
            mtu: self.mtu.min(other.mtu).min(65_535),
            ring: self.ring.min(other.ring).clamp(2, 65_536),
            checksum,
            tso_max: if checksum { self.tso_max.min(other.tso_max).min(65_535) } else { 0 },
        }
    }
}

/// A cable between two ports, whose ends can do the same.
pub fn pair(config: MemConfig) -> (MemDevice, MemDevice) {
    pair_of(config, config)
}

/// A cable between two ports that differ in what they can do: mtu, ring and offloads are the smaller of the two.
pub fn pair_of(a: MemConfig, b: MemConfig) -> (MemDevice, MemDevice) {
    let config = a.common(b);
    let link = Arc::new(Link::new(2, config));
    (MemDevice::new(&link, 0, config), MemDevice::new(&link, 1, config))
}

/// A switch with `n` ports that learns which station is behind which port and floods what it does not know, multicast and
/// broadcast. Two ports make a plain cable. The ring is at least `n`, so that a flood always finds its buffers.
pub fn hub(n: usize, config: MemConfig) -> Vec<MemDevice> {
    let n = n.min(usize::from(u16::MAX));
    let config = config.common(MemConfig { ring: config.ring.max(n), ..config });
    let config = MemConfig { ring: config.ring.max(n), ..config };
    let link = Arc::new(Link::new(n, config));
    (0..n).map(|port| MemDevice::new(&link, port, config)).collect()
}

/// One frame in its buffer, under way from port to port.
#[derive(Debug, Default)]
struct Packet {
    buf: Box<[u8]>,
    start: u32,
    len: u32,
    /// The port that the buffer belongs to.
    home: u16,
    meta: RxMeta,
    errand: Errand,
}

impl Packet {
    fn frame(&self) -> &[u8] {
        let start = self.start as usize;
        self.buf.get(start..start + self.len as usize).unwrap_or_default()
    }

    fn frame_mut(&mut self) -> &mut [u8] {
        let start = self.start as usize;
        self.buf.get_mut(start..start + self.len as usize).unwrap_or_default()
    }
}

/// Packets that travel together; the vectors themselves are reused too. The packets are boxed because each moves through
/// half a dozen hands, which costs twice as much per frame when all of it is copied each time.
#[allow(clippy::vec_box)]
type Batch = Vec<Box<Packet>>;

/// What the ports of a link share.
#[derive(Debug)]
struct Link {
    ports: Box<[Port]>,
}

/// The shared half of a port: what others put there.
#[derive(Debug)]
struct Port {
    /// Frames for the port.
    inbox: ArrayQueue<Batch>,
    /// The port's own buffers, coming home.
    returns: ArrayQueue<Batch>,
    /// The device was dropped.
    unplugged: AtomicBool,
    /// Source addresses that the port has sent from, as big-endian numbers with bit 48 set; 0 for a free place.
    macs: [AtomicU64; MACS_PER_PORT],
}

impl Link {
    fn new(n: usize, config: MemConfig) -> Self {
        // A full queue only keeps batches waiting at their sender, so the queues need not fit every single frame.
        let batches = (config.ring * n).min(512).max(n);
        let port = |_| Port {
            inbox: ArrayQueue::new(batches),
            returns: ArrayQueue::new(batches),
            unplugged: AtomicBool::new(false),
            macs: [const { AtomicU64::new(0) }; MACS_PER_PORT],
        };
        Self { ports: (0..n).map(port).collect() }
    }

    /// The port behind which the station `mac` is, if it was ever heard of.
    fn find(&self, mac: u64) -> Option<usize> {
        self.ports.iter().position(|p| p.macs.iter().any(|m| m.load(Ordering::Relaxed) == mac))
    }
}

/// One port of an in-process link. See the module documentation.
#[derive(Debug)]
pub struct MemDevice {
    link: Arc<Link>,
    port: usize,
    caps: Caps,
    max_frame: usize,
    /// Own buffers that may still be created.
    unborn: usize,
    /// Own buffers at home; the most recently used last, as it is likeliest to be in the cache.
    free: Batch,
    /// The reservation.
    open: Option<Box<Packet>>,
    /// Per port: frames that wait for the next flush.
    pending: Box<[Batch]>,
    /// Per port: its buffers, used up here and on their way home.
    homeward: Box<[Batch]>,
    /// Received, not yet handed out.
    received: Batch,
    /// Vectors without content, for the next batches.
    empties: Vec<Batch>,
    /// The last source address that this port has announced to the switch, and the place for the next.
    announced: u64,
    next_mac: usize,
    unplugged: u64,
    flood_lost: u64,
}

impl MemDevice {
    fn new(link: &Arc<Link>, port: usize, config: MemConfig) -> Self {
        let batches = || link.ports.iter().map(|_| Batch::new()).collect();
        Self {
            link: Arc::clone(link),
            port,
            caps: Caps { mtu: config.mtu, tx_checksum: config.checksum, tso_max: config.tso_max },
            max_frame: config.mtu.max(config.tso_max) + MAX_L2_HEADER,
            unborn: config.ring,
            free: Batch::with_capacity(config.ring),
            open: None,
            pending: batches(),
            homeward: batches(),
            received: Batch::with_capacity(2 * BURST),
            empties: Vec::with_capacity(BURST),
            announced: 0,
            next_mac: 0,
            unplugged: 0,
            flood_lost: 0,
        }
    }

    /// A buffer of our own, or `None` when all are under way.
    fn take_buffer(&mut self) -> Option<Box<Packet>> {
        if let Some(packet) = self.free.pop() {
            return Some(packet);
        }
        if self.reclaim() {
            return self.free.pop();
        }
        self.unborn = self.unborn.checked_sub(1)?;
        // Frames may grow in place: room for two more tags in front, and for the buffer to end on a whole cache line.
        let size = (HEADROOM + self.max_frame).next_multiple_of(64);
        Some(Box::new(Packet { buf: vec![0; size].into(), home: self.port as u16, ..Packet::default() }))
    }

    /// Takes in the buffers that came home; whether there were any.
    #[cold]
    fn reclaim(&mut self) -> bool {
        let link = Arc::clone(&self.link);
        let Some(port) = link.ports.get(self.port) else { return false };
        while let Some(mut batch) = port.returns.pop() {
            self.free.append(&mut batch);
            self.keep_empty(batch);
        }
        !self.free.is_empty()
    }

    fn keep_empty(&mut self, batch: Batch) {
        if self.empties.len() < self.empties.capacity() {
            self.empties.push(batch);
        }
    }

    /// Whether this port has the buffers that one more frame may need: one, or one per other port of a switch.
    fn has_room(&mut self) -> bool {
        let needed = self.link.ports.len().saturating_sub(1);
        needed <= 1 || self.free.len() + self.unborn >= needed || {
            self.reclaim();
            self.free.len() + self.unborn >= needed
        }
    }

    /// Puts a frame on its way: across the cable, or where the switch says.
    fn forward(&mut self, mut packet: Box<Packet>, meta: TxMeta) {
        packet.meta = RxMeta::default();
        packet.errand = Errand::Send(meta);
        match meta.checksum {
            TxChecksum::Partial { start, offset } if !self.caps.tx_checksum => {
                complete_checksum(packet.frame_mut(), start, offset);
            }
            _ => packet.meta.checksum = arrives_as(meta),
        }
        if self.caps.tso_max > 0 {
            packet.meta.gso_size = meta.gso.map(|gso| gso.size);
        }
        if self.link.ports.len() == 2 {
            self.enqueue(1 - self.port, packet);
        } else {
            self.switch(packet);
        }
    }

    fn enqueue(&mut self, to: usize, packet: Box<Packet>) {
        let Some(pending) = self.pending.get_mut(to) else { return };
        pending.push(packet);
        if pending.len() >= BURST {
            self.send(to);
        }
    }

    /// Hands what is pending for `to` over, as one batch.
    fn send(&mut self, to: usize) {
        let (Some(pending), Some(port)) = (self.pending.get_mut(to), self.link.ports.get(to)) else { return };
        if pending.is_empty() {
            return;
        }
        if port.unplugged.load(Ordering::Acquire) {
            return self.lose(to);
        }
        if port.inbox.is_full() {
            return;
        }
        let batch = std::mem::replace(pending, self.empties.pop().unwrap_or_default());
        if let Err(batch) = port.inbox.push(batch) {
            // Another port of the switch was faster; the order within our own frames holds.
            let empty = std::mem::replace(pending, batch);
            self.keep_empty(empty);
        }
    }

    /// There is nobody at `to` any more: its frames, those of its inbox included, are lost and the buffers go home.
    #[cold]
    fn lose(&mut self, to: usize) {
        let link = Arc::clone(&self.link);
        let Some(port) = link.ports.get(to) else { return };
        let mut lost = self.pending.get_mut(to).map(std::mem::take).unwrap_or_default();
        while let Some(mut batch) = port.inbox.pop() {
            lost.append(&mut batch);
        }
        self.unplugged += lost.len() as u64;
        lost.into_iter().for_each(|packet| self.retire(packet));
        self.send_home();
    }

    /// Learns where the frame comes from and sends it to where its destination was last heard, or everywhere.
    fn switch(&mut self, packet: Box<Packet>) {
        let frame = packet.frame();
        let (destination, source) = (mac_at(frame, 0), mac_at(frame, 6));
        if source != 0 && source != self.announced {
            self.announce(source);
        }
        let multicast = destination & GROUP_BIT != 0;
        match if multicast { None } else { self.link.find(destination) } {
            Some(port) if port != self.port => self.enqueue(port, packet),
            // The station is on this very port: a switch does not send a frame back to where it came from.
            Some(_) => self.retire(packet),
            None => self.flood(packet),
        }
    }

    /// Makes the station `mac` known to be behind this port, and behind no other.
    #[cold]
    fn announce(&mut self, mac: u64) {
        self.announced = mac;
        if mac & GROUP_BIT != 0 || self.link.find(mac) == Some(self.port) {
            return;
        }
        for known in self.link.ports.iter().flat_map(|p| &p.macs) {
            let _ = known.compare_exchange(mac, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        if let Some(place) = self.link.ports.get(self.port).and_then(|p| p.macs.get(self.next_mac)) {
            place.store(mac, Ordering::Relaxed);
        }
        self.next_mac = (self.next_mac + 1) % MACS_PER_PORT;
    }

    /// One copy to every other port; the last gets the original.
    #[cold]
    fn flood(&mut self, packet: Box<Packet>) {
        let mut others = (0..self.link.ports.len()).filter(|&p| p != self.port).collect::<Vec<_>>();
        let last = others.pop();
        for to in others {
            let Some(mut copy) = self.take_buffer() else {
                self.flood_lost += 1;
                continue;
            };
            (copy.start, copy.len, copy.meta) = (packet.start, packet.len, packet.meta);
            copy.frame_mut().copy_from_slice(packet.frame());
            self.enqueue(to, copy);
        }
        match last {
            Some(to) => self.enqueue(to, packet),
            None => self.retire(packet),
        }
    }

    /// The packet was used up: its buffer goes home, at once or with the next batch.
    fn retire(&mut self, packet: Box<Packet>) {
        let home = usize::from(packet.home);
        if home == self.port {
            self.free.push(packet);
        } else if let Some(homeward) = self.homeward.get_mut(home) {
            homeward.push(packet);
        }
    }

    /// Sends the used buffers of other ports home. What finds no place waits for the next burst.
    fn send_home(&mut self) {
        for (homeward, port) in self.homeward.iter_mut().zip(&self.link.ports) {
            if !homeward.is_empty() && !port.returns.is_full() {
                let batch = std::mem::replace(homeward, self.empties.pop().unwrap_or_default());
                if let Err(batch) = port.returns.push(batch) {
                    *homeward = batch;
                }
            }
        }
    }

    /// Hands the first `count` received frames, at most a burst, to `sink`, and acts on the verdicts.
    #[inline]
    fn hand_out(&mut self, count: usize, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) {
        let mut outcomes = ArrayVec::<(Verdict, usize, usize), BURST>::new();
        {
            // Filled in place, and not collected: that would move the whole array, room for a full burst, for a single frame.
            let mut frames = ArrayVec::<RxFrame<'_>, BURST>::new();
            let received = self.received.iter_mut().take(count);
            frames
                .extend(received.map(|p| RxFrame::new(&mut p.buf, p.start as usize, p.len as usize, p.meta)));
            sink(&mut frames);
            outcomes.extend(frames.iter().map(|f| (f.verdict, f.start(), f.len())));
        }
        let mut burst = std::mem::take(&mut self.received);
        for (mut packet, &(verdict, start, len)) in burst.drain(..count).zip(&outcomes) {
            match verdict {
                Verdict::Reply(meta) if packet.errand != Errand::Hear => {
                    (packet.start, packet.len) = (start as u32, len as u32);
                    self.forward(packet, meta);
                }
                Verdict::Reply(_) | Verdict::Done | Verdict::Drop(_) => self.retire(packet),
            }
        }
        self.received = burst;
    }

    /// Whether another port is plugged in.
    pub(super) fn is_connected(&self) -> bool {
        let mut others = self.link.ports.iter().enumerate().filter(|&(port, _)| port != self.port);
        others.any(|(_, port)| !port.unplugged.load(Ordering::Acquire))
    }

    /// Whether frames wait here.
    pub(super) fn has_received(&self) -> bool {
        !self.received.is_empty() || self.link.ports.get(self.port).is_some_and(|port| !port.inbox.is_empty())
    }

    /// Fills `received` with up to a burst of frames, as far as there are any.
    fn receive(&mut self) {
        let Some(port) = self.link.ports.get(self.port) else { return };
        while self.received.len() < BURST {
            let Some(mut batch) = port.inbox.pop() else { break };
            if self.received.is_empty() {
                std::mem::swap(&mut self.received, &mut batch);
            } else {
                self.received.append(&mut batch);
            }
            if self.empties.len() < self.empties.capacity() {
                self.empties.push(batch);
            }
        }
    }
}

/// The bit of a MAC address, as [`mac_at`] reads it, that tells groups from stations.
const GROUP_BIT: u64 = 1 << 40;

/// The MAC address at `at` in a frame, marked so that it is never 0; 0 when the frame is too short.
fn mac_at(frame: &[u8], at: usize) -> u64 {
    let Some(mac) = frame.get(at..at + 6) else { return 0 };
    mac.iter().fold(1, |n, &byte| n << 8 | u64::from(byte))
}

impl TxQueue for MemDevice {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        let reserved = self.open.take();
        if len > self.max_frame || !self.has_room() {
            self.free.extend(reserved);
            return None;
        }
        let mut packet = reserved.or_else(|| self.take_buffer())?;
        packet.start = HEADROOM as u32;
        packet.len = len as u32;
        Some(self.open.insert(packet).frame_mut())
    }

    fn commit(&mut self, meta: TxMeta) {
        if let Some(packet) = self.open.take() {
            self.forward(packet, meta);
        }
    }
}

impl Device for MemDevice {
    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        self.receive();
        let count = self.received.len().min(BURST);
        if count == 0 {
            return Ok(0);
        }
        self.hand_out(count, sink);
        self.send_home();
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        for to in 0..self.pending.len() {
            self.send(to);
        }
        Ok(())
    }

    fn is_exhausted(&self) -> bool {
        // What a port has sent before it was unplugged can be seen once that can.
        !self.is_connected() && !self.has_received()
    }

    fn stats(&self) -> Vec<(&'static str, u64)> {
        vec![("unplugged", self.unplugged), ("flood-lost", self.flood_lost)]
    }
}

impl Drop for MemDevice {
    /// Unplugs the port: what waits in it or was never flushed is lost, and its buffers go home so that the others can go on.
    fn drop(&mut self) {
        if let Some(port) = self.link.ports.get(self.port) {
            port.unplugged.store(true, Ordering::Release);
        }
        let unsent = self.pending.iter_mut().flat_map(std::mem::take);
        let orphans: Batch = unsent.chain(std::mem::take(&mut self.received)).collect();
        orphans.into_iter().for_each(|packet| self.retire(packet));
        self.lose(self.port);
    }
}

#[cfg(test)]
mod tests;
