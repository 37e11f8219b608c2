//! What may be sent now (RFC 9293 3.8, 3.7.4, 3.8.6.2.1).
//!
//! [`Tcb::next_segment`] plans a segment, or a train of full ones that the device or
//! [`Output`](crate::stack::output::Output) cuts; [`Tcb::only_segment`] finds the one that is most often all. Both only decide; [`Tcb::on_sent`] changes the TCB once the segment is in the device's ring. A full ring in
//! between costs nothing and loses nothing.

use super::config::TcpConfig;
use super::tcb::{AckDue, State, Tcb};
use super::timers::TimerKind;
use crate::counters::Counters;
use crate::fifo::Consumer;
use crate::stack::output::{FOR_THE_LAST, PathLimits, Payload};
use crate::time::Instant;
use crate::wire::{SackBlocks, Seq, TcpFlags, TcpHeader, TcpOptions, Timestamps};

/// Why a segment is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// SYN, data or FIN at SND.NXT, which it moves.
    Next,
    /// The segment at SND.UNA once more, SND.NXT stays.
    Resend,
    /// A byte beyond the window.
    Probe,
    /// An old sequence number that asks for an ACK.
    KeepAlive,
    /// Only the ACK.
    Ack,
    /// The end of an aborted connection.
    Reset,
}

/// A segment that the TCB wants to send: which bytes of the tx FIFO, under which sequence number and flags.
/// [`Tcb::header`] makes the rest of its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Transmit {
    seq: Seq,
    flags: TcpFlags,
    /// Once it is sent, there is nothing more to be sent now.
    pub(crate) last: bool,
    purpose: Purpose,
    /// The payload of each segment when it is a train of them.
    pub(crate) gso: Option<u16>,
    /// Payload: this many bytes into the tx FIFO ...
    pub(crate) offset: usize,
    /// ... and this long.
    pub(crate) len: usize,
}

impl Transmit {
    /// Its piece of the tx FIFO.
    pub(crate) fn payload<'a>(&self, fifo: &'a mut Consumer) -> Option<Payload<'a>> {
        (self.len > 0).then_some(Payload { fifo, offset: self.offset, len: self.len })
    }

    /// What of a train is left when only its first `sent` bytes went out.
    pub(crate) fn cut(self, sent: usize) -> Self {
        if sent == self.len {
            return self;
        }
        Self { len: sent, last: false, flags: self.flags - FOR_THE_LAST, ..self }
    }

    /// How many segments it is on the wire.
    pub(crate) fn count(&self) -> usize {
        self.gso.map_or(1, |size| self.len.div_ceil(usize::from(size)))
    }

    /// The sequence number after this segment.
    fn end(&self) -> Seq {
        let control =
            u32::from(self.flags.intersects(TcpFlags::SYN)) + u32::from(self.flags.intersects(TcpFlags::FIN));
        self.seq + self.len as u32 + control
    }
}

impl Tcb {
    /// The one segment that takes all there is to be sent now, without options, in ESTABLISHED with nothing special going on;
    /// `None` says nothing about what [`Tcb::next_segment`] finds.
    #[inline(always)]
    pub(crate) fn only_segment(&self, limits: PathLimits) -> Option<Transmit> {
        let flags = &self.flags;
        let special = flags.reset | flags.keepalive | flags.probe | self.recovery.is_active();
        let (queued, closed) = self.tx.look();
        let (una, nxt) = (self.snd.una, self.snd.nxt);
        let offset = nxt.since(self.tx_base) as usize;
        let regular = self.state == State::Established
            && !special
            && !closed
            && nxt == self.snd.max
            && self.timestamps.is_none()
            && self.assembly.is_empty();
        if !regular || offset > queued {
            return None;
        }
        let len = queued - offset;
        if len == 0 {
            return self.next_ack();
        }
        let flight = nxt.since(una);
        let fits = len <= usize::from(self.payload_mss(limits))
            && len <= self.snd.wnd.min(self.cc.cwnd()).saturating_sub(flight) as usize;
        // RFC 9293 3.7.4, Nagle: what is less than a full segment waits for what is in flight.
        let segment = Transmit {
            seq: nxt,
            flags: TcpFlags::ACK | TcpFlags::PSH,
            last: true,
            purpose: Purpose::Next,
            gso: None,
            offset,
            len,
        };
        (fits && (flight == 0 || self.options.nodelay)).then_some(segment)
    }

    /// The next segment to send, if any. Call it again after [`Tcb::on_sent`], unless it is said to be the last.
    #[inline]
    pub(crate) fn next_segment(&mut self, limits: PathLimits) -> Option<Transmit> {
        if self.flags.reset {
            return Some(control(self.ack_seq(), TcpFlags::RST | TcpFlags::ACK, Purpose::Reset));
        }
        match self.state {
            State::Closed | State::Listen => return None,
            State::SynSent | State::SynReceived => return self.next_in_handshake(),
            State::TimeWait => return self.next_ack(),
            _ => {}
        }
        if self.flags.keepalive {
            // RFC 9293 3.8.4: SEG.SEQ = SND.NXT-1, so that the peer must answer.
            return Some(control(self.snd.una - 1, TcpFlags::ACK, Purpose::KeepAlive));
        }
        self.next_piece(limits).or_else(|| self.next_ack())
    }

    fn next_in_handshake(&mut self) -> Option<Transmit> {
        if self.snd.nxt != self.snd.iss {
            return self.next_ack();
        }
        let flags = if self.state == State::SynSent { TcpFlags::SYN } else { TcpFlags::SYN | TcpFlags::ACK };
        Some(control(self.snd.iss, flags, Purpose::Next))
    }

    fn next_ack(&self) -> Option<Transmit> {
        (self.ack == AckDue::Now).then(|| control(self.ack_seq(), TcpFlags::ACK, Purpose::Ack))
    }

    /// The ACK of the FIN with which TIME-WAIT began. There is nothing left that it could go with, so it goes back in the FIN's frame.
    #[inline]
    pub(crate) fn last_ack(&mut self, now: Instant) -> Option<TcpHeader> {
        if self.state != State::TimeWait {
            return None;
        }
        let header = self.header(now, &self.next_ack()?);
        self.on_acknowledged(header.window, self.rcv.scale);
        self.flags.output = false;
        Some(header)
    }

    /// The sequence number of a segment without text: where the peer expects us to be. That is SND.MAX, as SND.NXT may have fallen
    /// back to what is sent again; but the byte of a window probe lies beyond what the peer takes.
    fn ack_seq(&self) -> Seq {
        if self.timers.is_armed(TimerKind::Persist) { self.snd.nxt } else { self.snd.max }
    }

    /// What of the send stream may go now.
    #[inline]
    fn next_piece(&mut self, limits: PathLimits) -> Option<Transmit> {
        let (queued, closed) = self.tx.look();
        if queued == 0 && !closed {
            self.flags.cwnd_limited = false;
            return None;
        }
        let mss = self.payload_mss(limits);
        if self.recovery.resend() && self.flight() > 0 {
            return self.lost_piece(queued, closed, mss);
        }
        let sent = self.tx_offset(self.snd.nxt).min(queued);
        let available = queued - sent;
        let fin_unsent = closed && !self.snd.nxt.after(self.tx_base + queued as u32);
        let usable = self.usable_window();
        self.flags.cwnd_limited = available > usable && self.cwnd() <= self.snd.wnd;
        let (len, purpose) = match self.choose_length(available, usable, mss, limits, closed) {
            0 if available > 0 && self.flags.probe && usable == 0 => (1, Purpose::Probe),
            // The persist timer overrides the silly-window avoidance.
            0 if self.flags.probe => (available.min(usable), Purpose::Next),
            len => (len, Purpose::Next),
        };
        let last = len == available && purpose == Purpose::Next;
        let fin = fin_unsent && last;
        if len == 0 && !fin {
            return None;
        }
        let gso = (len > usize::from(mss)).then_some(mss);
        let flags = text_flags(fin, len > 0 && sent + len == queued);
        Some(Transmit { seq: self.snd.nxt, flags, last, purpose, gso, offset: sent, len })
    }

    /// The segment at SND.UNA once more.
    #[cold]
    fn lost_piece(&self, queued: usize, closed: bool, mss: u16) -> Option<Transmit> {
        let len = self.tx_offset(self.snd.max).min(queued).min(usize::from(mss));
        let fin = closed && self.snd.max.after(self.tx_base + queued as u32) && len == queued;
        let flags = text_flags(fin, len > 0 && len == queued);
        let seq = self.snd.una;
        let resend =
            Transmit { seq, flags, last: false, purpose: Purpose::Resend, gso: None, offset: 0, len };
        (len > 0 || fin).then_some(resend)
    }

    /// Where in the tx FIFO a sequence number lies; 0 for our SYN.
    pub(super) fn tx_offset(&self, seq: Seq) -> usize {
        if seq.after(self.tx_base) { seq.since(self.tx_base) as usize } else { 0 }
    }

    /// How many of `available` unsent bytes to send: the sender's silly-window avoidance (RFC 9293 3.8.6.2.1) with Nagle's
    /// algorithm (3.7.4).
    #[inline]
    fn choose_length(
        &self,
        available: usize,
        usable: usize,
        mss: u16,
        limits: PathLimits,
        closed: bool,
    ) -> usize {
        let mss = usize::from(mss);
        let len = available.min(usable);
        if len >= mss {
            // Full segments only; what is left over is decided by itself.
            let most = limits.train_max.saturating_sub(MAX_HEADERS).min(SEGMENTS_PER_TRAIN * mss);
            let most = most.min(len).max(mss);
            return most - most % mss;
        }
        if len == 0 {
            return 0;
        }
        let again = self.snd.nxt.before(self.snd.max);
        let idle = self.flight() == 0;
        let all = len == available;
        let closing = all && closed;
        let half_window = len >= (self.snd.max_wnd / 2).max(1) as usize;
        if again || half_window || closing || (all && (idle || self.options.nodelay)) { len } else { 0 }
    }

    /// Bytes that the congestion window and the peer's window leave.
    fn usable_window(&self) -> usize {
        let edge = self.snd.una + self.cwnd().min(self.snd.wnd);
        if edge.after(self.snd.nxt) { edge.since(self.snd.nxt) as usize } else { 0 }
    }

    fn cwnd(&self) -> u32 {
        self.cc.cwnd().saturating_add(self.recovery.inflation())
    }

    /// The payload of a full segment now: the path may be narrower than when the connection began, and options take room.
    #[inline]
    fn payload_mss(&self, limits: PathLimits) -> u16 {
        let path = super::tcb::mss_for(limits.mtu, &self.key);
        let mut most = self.snd.mss.min(self.snd.peer_mss).min(path);
        if self.timestamps.is_some() {
            most = most.saturating_sub(super::tcb::TIMESTAMPS_LEN);
        }
        if !self.assembly.is_empty() {
            most = most.saturating_sub(match self.sack_blocks().len() as u16 {
                0 => 0,
                blocks => 4 + 8 * blocks,
            });
        }
        most.max(super::tcb::MIN_PAYLOAD)
    }

    fn sack_blocks(&self) -> SackBlocks {
        if !self.flags.sack || self.assembly.is_empty() {
            return SackBlocks::default();
        }
        // 40 bytes of options hold four blocks, or three beside timestamps.
        self.assembly.sack_blocks(if self.timestamps.is_some() { 3 } else { 4 })
    }

    /// The header of a segment that needs no options.
    #[inline(always)]
    pub(crate) fn bare_header(&self, segment: &Transmit) -> TcpHeader {
        TcpHeader {
            src_port: self.key.local_port,
            dst_port: self.key.remote_port,
            seq: segment.seq,
            ack: if segment.flags.intersects(TcpFlags::ACK) { self.rcv.nxt } else { Seq(0) },
            flags: segment.flags,
            window: self.window_field(segment.flags),
            checksum: 0,
            urgent: 0,
            options: TcpOptions::NONE,
        }
    }

    /// The header of any segment that [`Tcb::next_segment`] wants sent.
    pub(crate) fn header(&self, now: Instant, segment: &Transmit) -> TcpHeader {
        let mut header = self.bare_header(segment);
        if segment.flags.intersects(TcpFlags::SYN) {
            header.options = self.syn_options(now, segment.flags.intersects(TcpFlags::ACK));
        } else {
            header.options.timestamps = self.timestamps_option(now);
            if !self.assembly.is_empty() {
                header.options.sack = self.sack_blocks();
            }
        }
        header
    }

    /// The options of our SYN (an offer) or SYN-ACK (what the peer also offered).
    fn syn_options(&self, now: Instant, answer: bool) -> TcpOptions {
        let offer = Timestamps { value: self.timestamp_now(now), echo: 0 };
        TcpOptions {
            mss: Some(self.snd.mss),
            window_scale: self.flags.scaling.then_some(self.rcv.scale),
            sack_permitted: self.flags.sack,
            timestamps: if answer {
                self.timestamps_option(now)
            } else {
                self.flags.timestamps.then_some(offer)
            },
            ..TcpOptions::default()
        }
    }

    /// SEG.WND. The receiver's silly-window avoidance (RFC 9293 3.8.6.2.2): the right edge moves only by a full segment or half
    /// the buffer, and never back.
    #[inline]
    fn window_field(&self, flags: TcpFlags) -> u16 {
        if flags.intersects(TcpFlags::SYN) {
            return self.syn_window() as u16;
        }
        (self.receive_window() >> self.rcv.scale).min(u32::from(u16::MAX)) as u16
    }

    /// The window to announce: what the buffer has room for, if that is worth announcing.
    fn receive_window(&self) -> u32 {
        let most = u32::from(u16::MAX) << self.rcv.scale;
        let free = (self.rx.free() as u32).min(most);
        let told = self.rcv.wnd();
        let step = (self.rx.capacity() as u32 / 2).min(u32::from(self.snd.mss.min(self.snd.peer_mss)));
        if free < told.saturating_add(step) { told } else { free }
    }

    /// The application has read: is the window's new size worth a segment of its own?
    #[inline]
    pub(crate) fn on_app_read(&mut self) {
        if !self.state.may_receive() {
            return;
        }
        let told = self.rcv.wnd();
        let opened = self.receive_window().saturating_sub(told);
        // Every read of a bulk transfer would send one: wait for an eighth of the buffer, unless the peer is nearly stopped.
        let worth = (self.rx.capacity() as u32 / 8).max(2 * u32::from(self.snd.mss));
        if opened >= worth || (opened > 0 && told < u32::from(self.snd.mss)) {
            self.ack = AckDue::Now;
            self.flags.output = true;
        }
    }

    /// The segment is on its way, and announced this window.
    #[inline]
    pub(crate) fn on_sent(
        &mut self,
        now: Instant,
        config: &TcpConfig,
        sent: &Transmit,
        window: u16,
        counters: &mut Counters,
    ) {
        if sent.flags.intersects(TcpFlags::ACK) {
            let scale = if sent.flags.intersects(TcpFlags::SYN) { 0 } else { self.rcv.scale };
            self.on_acknowledged(window, scale);
        }
        match sent.purpose {
            Purpose::Next | Purpose::Resend => self.on_stream_sent(now, config, sent, counters),
            Purpose::Probe => {
                self.flags.probe = false;
                self.snd.max = self.snd.max.max(sent.end());
                counters.tcp_probes += 1;
            }
            Purpose::KeepAlive => {
                self.flags.keepalive = false;
                counters.tcp_keepalives += 1;
            }
            Purpose::Reset => {
                self.flags.reset = false;
                counters.tcp_rst_tx += 1;
            }
            Purpose::Ack => {}
        }
    }

    /// As [`Tcb::on_sent`] for what [`Tcb::only_segment`] gave.
    #[inline(always)]
    pub(crate) fn on_only_sent(&mut self, now: Instant, config: &TcpConfig, sent: &Transmit, window: u16) {
        self.on_acknowledged(window, self.rcv.scale);
        if sent.len > 0 {
            let end = sent.seq + sent.len as u32;
            if self.flight() == 0 {
                self.stalled_since = now;
            }
            if self.timing.is_none() && self.timeouts == 0 {
                self.timing = Some((end, now));
            }
            (self.snd.nxt, self.snd.max) = (end, end);
            self.on_text_sent(now, config);
        }
        (self.flags.output, self.flags.cwnd_limited) = (false, false);
    }

    /// Text, or a SYN or FIN, is on its way.
    #[inline(always)]
    fn on_text_sent(&mut self, now: Instant, config: &TcpConfig) {
        self.last_sent = now;
        self.flags.probe = false;
        self.timers.stop(TimerKind::Persist);
        // RFC 6298 5.1: "if the timer is not running, start it running".
        if !self.timers.is_armed(TimerKind::Retransmit) {
            self.timers.arm(TimerKind::Retransmit, self.rtt.deadline(now, config.max_rto));
        }
    }

    /// An ACK is on its way that announces this window.
    #[inline]
    fn on_acknowledged(&mut self, window: u16, scale: u8) {
        self.ack = AckDue::No;
        self.unacked = 0;
        self.last_ack_sent = self.rcv.nxt;
        self.rcv.adv = self.rcv.adv.max(self.rcv.nxt + (u32::from(window) << scale));
    }

    fn on_stream_sent(&mut self, now: Instant, config: &TcpConfig, sent: &Transmit, counters: &mut Counters) {
        let end = sent.end();
        if self.flight() == 0 {
            self.stalled_since = now;
        }
        if sent.seq.before(self.snd.max) {
            counters.tcp_retransmits += 1;
            // Karn: a segment that was sent twice gives no sample.
            self.timing = None;
        } else if self.timing.is_none() && self.timeouts == 0 {
            // Of a train, the first segment: the others wait behind it.
            let first = sent.gso.map_or(end, |size| end.min(sent.seq + u32::from(size)));
            self.timing = Some((first, now));
        }
        if sent.purpose == Purpose::Resend {
            self.recovery.on_resent();
            self.snd.nxt = self.snd.nxt.max(end);
        } else {
            self.snd.nxt = end;
        }
        self.snd.max = self.snd.max.max(end);
        if sent.flags.intersects(TcpFlags::FIN) {
            // The FIN is in the FIFO, so it may leave before the word that the application has closed arrives. RFC 9293 3.10.4:
            // "form a FIN segment and send it; ... enter FIN-WAIT-1 state", or LAST-ACK.
            self.on_app_closed();
        }
        if sent.purpose == Purpose::Resend {
            // A fast retransmit restarts it.
            self.timers.stop(TimerKind::Retransmit);
        }
        self.on_text_sent(now, config);
    }

    /// Nothing more can be sent now. When it is the peer's window that keeps data back and nothing in flight would bring an ACK,
    /// the persist timer must (RFC 9293 3.8.6.1); it also overrides the silly-window avoidance.
    #[inline]
    pub(crate) fn after_output(&mut self, now: Instant, config: &TcpConfig) {
        self.flags.output = false;
        let waiting = self.snd.nxt == self.snd.una && self.state.is_synchronized() && !self.tx.is_empty();
        if !waiting {
            return;
        }
        if self.snd.wnd == 0 {
            // A timeout took SND.NXT back behind a window that has closed since: sending again is the persist timer's now.
            self.timers.stop(TimerKind::Retransmit);
        }
        if !self.timers.is_armed(TimerKind::Retransmit) && !self.timers.is_armed(TimerKind::Persist) {
            self.timers.arm(TimerKind::Persist, now + self.persist_interval(config));
        }
    }

    /// RFC 5681 4.1: before sending after an idle time longer than an RTO.
    #[inline]
    pub(crate) fn before_output(&mut self, now: Instant, config: &TcpConfig) {
        let idle = now.nanos_since(self.last_sent);
        if idle > self.rtt.base_nanos() && self.flight() == 0 && idle > self.rtt.rto_nanos(config.max_rto) {
            let mss = u32::from(self.send_mss());
            self.cc.on_idle(config.initial_window * mss);
        }
    }
}

/// A segment without text.
fn control(seq: Seq, flags: TcpFlags, purpose: Purpose) -> Transmit {
    Transmit { seq, flags, last: purpose == Purpose::Ack, purpose, gso: None, offset: 0, len: 0 }
}

/// RFC 9293 3.9.1: PSH on the last segment of what the application gave us.
fn text_flags(fin: bool, push: bool) -> TcpFlags {
    let mut flags = TcpFlags::ACK;
    flags.set(TcpFlags::FIN, fin);
    flags.set(TcpFlags::PSH, push);
    flags
}

/// Segments of a train at most: a peer with a small MSS would otherwise make it a thousand.
const SEGMENTS_PER_TRAIN: usize = 64;

/// Ethernet is not counted in `train_max`; the largest IP and TCP headers are.
const MAX_HEADERS: usize = 40 + 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fifo::PagePool;
    use crate::stack::InterfaceId;
    use crate::stack::demux::FlowKey;
    use crate::tcp::isn::Origin;
    use crate::tcp::opening::Opening;
    use crate::tcp::tcb::TimestampState;
    use core::net::Ipv4Addr;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    /// What a TCB in the middle of its life may look like.
    #[derive(Clone, Debug)]
    struct Situation {
        state: State,
        iss: u32,
        /// Bytes in the FIFO, of which so many are in flight, and so many are to be sent again.
        queued: usize,
        flight: usize,
        again: usize,
        window: u32,
        initial_window: u32,
        mss: (u16, u16),
        mtu: usize,
        train_max: usize,
        ack: bool,
        nodelay: bool,
        closed: bool,
        timestamps: bool,
        gap: bool,
        flags: u8,
        dup_acks: u8,
    }

    impl Situation {
        fn tcb(&self, config: &TcpConfig, pool: &PagePool) -> Tcb {
            let us = Ipv4Addr::new(10, 0, 0, 1);
            let key = FlowKey { local: us.into(), remote: us.into(), local_port: 1, remote_port: 2 };
            let origin = Origin { iss: Seq(self.iss), timestamp_offset: 0 };
            let (interface, options) = (InterfaceId::default(), config.socket);
            let opening = Opening { key, tag: 0, interface, mtu: 1_500, origin, options };
            let mut slot = None;
            Tcb::open(&mut slot, pool, Instant::ZERO, &opening, config);
            let mut tcb = slot.unwrap();
            tcb.state = self.state;
            let (app, _) = tcb.half.as_mut().unwrap();
            let queued = app.write(&vec![7; self.queued]);
            if self.closed {
                app.close();
            }
            let flight = self.flight.min(queued);
            tcb.snd.una = tcb.tx_base;
            tcb.snd.max = tcb.tx_base + flight as u32;
            tcb.snd.nxt = tcb.snd.max - self.again.min(flight) as u32;
            (tcb.snd.wnd, tcb.snd.max_wnd) = (self.window, self.window.max(1_000));
            (tcb.snd.mss, tcb.snd.peer_mss) = self.mss;
            (tcb.options.nodelay, tcb.ack) = (self.nodelay, if self.ack { AckDue::Now } else { AckDue::No });
            tcb.timestamps =
                self.timestamps.then_some(TimestampState { recent: 1, recent_at: Instant::ZERO });
            if self.gap {
                tcb.assembly.insert(Seq(100), Seq(200));
            }
            tcb.flags.reset = self.flags == 1;
            tcb.flags.keepalive = self.flags == 2;
            tcb.flags.probe = self.flags == 3;
            for _ in 0..self.dup_acks {
                tcb.recovery.on_dup_ack(tcb.snd.una, tcb.snd.max, 1_000, &mut tcb.cc);
            }
            tcb
        }

        fn limits(&self) -> PathLimits {
            PathLimits { mtu: self.mtu, train_max: self.train_max }
        }
    }

    fn situation() -> impl Strategy<Value = Situation> {
        use State::*;
        let state = prop_oneof![
            9 => Just(Established),
            1 => prop::sample::select(vec![CloseWait, FinWait1, FinWait2, Closing, LastAck, TimeWait, Closed]),
        ];
        let rarely = || prop::bool::weighted(0.1);
        let bytes = || prop_oneof![Just(0usize), 1usize..100, Just(1_000), Just(1_460), 0usize..9_000];
        let mss = prop_oneof![Just((1_460, 1_460)), Just((1_460, 1_000)), (48u16..1_460, 48u16..1_460)];
        let window = prop_oneof![Just(65_535u32), Just(0), 0u32..9_000];
        let again = prop_oneof![4 => Just(0usize), 1 => 0usize..3_000];
        let flags = prop_oneof![8 => Just(0u8), 1 => 1u8..4];
        let dup_acks = prop_oneof![8 => Just(0u8), 1 => 1u8..5];
        let mtu = prop_oneof![3 => Just(1_500usize), 1 => 600usize..1_500];
        let train_max = prop_oneof![Just(65_535usize), 1_000usize..9_000];
        let sizes = (any::<u32>(), bytes(), bytes(), again, window, 1u32..20);
        let path = (mss, mtu, train_max);
        let rest = (any::<bool>(), any::<bool>(), rarely(), rarely(), rarely(), flags, dup_acks);
        (state, sizes, path, rest).prop_map(|(state, sizes, path, rest)| {
            let (iss, queued, flight, again, window, initial_window) = sizes;
            let (mss, mtu, train_max) = path;
            let (ack, nodelay, closed, timestamps, gap, flags, dup_acks) = rest;
            Situation {
                state,
                iss,
                queued: queued + flight,
                flight,
                again,
                window,
                initial_window,
                mss,
                mtu,
                train_max,
                ack,
                nodelay,
                closed,
                timestamps,
                gap,
                flags,
                dup_acks,
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_only_segment_is_the_next_and_the_last(situation in situation()) {
            let config = TcpConfig { initial_window: situation.initial_window, ..TcpConfig::default() };
            let mut tcb = situation.tcb(&config, &PagePool::new(64));
            if let Some(only) = tcb.only_segment(situation.limits()) {
                // A header of twenty bytes is right for it, and nothing is left for `after_output` to look at.
                prop_assert!(only.last && tcb.timestamps.is_none() && tcb.assembly.is_empty());
                prop_assert_eq!(tcb.next_segment(situation.limits()), Some(only));
                prop_assert!(!tcb.flags.cwnd_limited);
                let bare = tcb.bare_header(&only);
                prop_assert_eq!(tcb.header(Instant::ZERO, &only), bare);
                let (now, mut counters) = (Instant::from_millis(1), Counters::default());
                let mut twin = situation.tcb(&config, &PagePool::new(64));
                twin.on_only_sent(now, &config, &only, bare.window);
                tcb.on_sent(now, &config, &only, bare.window, &mut counters);
                tcb.flags.output = false;
                prop_assert_eq!(format!("{twin:?}"), format!("{tcb:?}"));
                prop_assert_eq!(tcb.next_segment(situation.limits()), None);
            } else if let Some(next) = tcb.next_segment(situation.limits()) {
                // A train has cars of one size, which fit, and not too many.
                let size = next.gso.unwrap_or(tcb.payload_mss(situation.limits()));
                prop_assert!(next.count() <= SEGMENTS_PER_TRAIN && next.len <= next.count() * usize::from(size));
                prop_assert!(next.gso.is_none() || next.len.is_multiple_of(usize::from(size)));
            }
        }
    }
}
