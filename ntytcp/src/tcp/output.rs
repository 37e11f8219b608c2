//! What may be sent now (RFC 9293 3.8, 3.7.4, 3.8.6.2.1).
//!
//! [`Tcb::next_segment`] only decides; [`Tcb::on_sent`] changes the TCB once the segment is in the device's ring. A full ring in
//! between costs nothing and loses nothing.

use super::config::TcpConfig;
use super::tcb::{AckDue, State, Tcb};
use super::timers::TimerKind;
use crate::counters::Counters;
use crate::stack::output::PathLimits;
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

/// A segment that the TCB wants to send: the header and which bytes of the tx FIFO follow it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transmit {
    pub(crate) header: TcpHeader,
    /// Payload: this many bytes into the tx FIFO ...
    pub(crate) offset: usize,
    /// ... and this long.
    pub(crate) len: usize,
    /// The payload of each segment when the device is to cut it.
    pub(crate) gso: Option<u16>,
    pub(crate) purpose: Purpose,
    /// The right edge of the receive window that the header announces.
    edge: Seq,
}

impl Transmit {
    /// The sequence number after this segment.
    fn end(&self) -> Seq {
        let control = u32::from(self.header.flags.intersects(TcpFlags::SYN))
            + u32::from(self.header.flags.intersects(TcpFlags::FIN));
        self.header.seq + self.len as u32 + control
    }
}

/// A piece of the send stream.
struct Piece {
    purpose: Purpose,
    seq: Seq,
    len: usize,
    fin: bool,
    gso: Option<u16>,
}

impl Tcb {
    /// The next segment to send, if any. Call it again after [`Tcb::on_sent`].
    pub(crate) fn next_segment(&mut self, now: Instant, limits: PathLimits) -> Option<Transmit> {
        if self.flags.reset {
            return Some(self.control(now, self.ack_seq(), TcpFlags::RST | TcpFlags::ACK, Purpose::Reset));
        }
        match self.state {
            State::Closed | State::Listen => return None,
            State::SynSent | State::SynReceived => return self.next_in_handshake(now),
            State::TimeWait => return self.next_ack(now),
            _ => {}
        }
        if self.flags.keepalive {
            // RFC 9293 3.8.4: SEG.SEQ = SND.NXT-1, so that the peer must answer.
            return Some(self.control(now, self.snd.una - 1, TcpFlags::ACK, Purpose::KeepAlive));
        }
        match self.next_piece(limits) {
            Some(piece) => Some(self.data(now, &piece)),
            None => self.next_ack(now),
        }
    }

    fn next_in_handshake(&mut self, now: Instant) -> Option<Transmit> {
        if self.snd.nxt != self.snd.iss {
            return self.next_ack(now);
        }
        let flags = if self.state == State::SynSent { TcpFlags::SYN } else { TcpFlags::SYN | TcpFlags::ACK };
        Some(self.control(now, self.snd.iss, flags, Purpose::Next))
    }

    fn next_ack(&self, now: Instant) -> Option<Transmit> {
        (self.ack == AckDue::Now).then(|| self.control(now, self.ack_seq(), TcpFlags::ACK, Purpose::Ack))
    }

    /// The ACK of the FIN with which TIME-WAIT began. There is nothing left that it could go with, so it goes back in the FIN's frame.
    #[inline]
    pub(crate) fn last_ack(&mut self, now: Instant) -> Option<TcpHeader> {
        if self.state != State::TimeWait {
            return None;
        }
        let ack = self.next_ack(now)?;
        self.ack = AckDue::No;
        self.rcv.adv = self.rcv.adv.max(ack.edge);
        self.flags.output = false;
        Some(ack.header)
    }

    /// The sequence number of a segment without text: where the peer expects us to be. That is SND.MAX, as SND.NXT may have fallen
    /// back to what is sent again; but the byte of a window probe lies beyond what the peer takes.
    fn ack_seq(&self) -> Seq {
        if self.timers.is_armed(TimerKind::Persist) { self.snd.nxt } else { self.snd.max }
    }

    /// What of the send stream may go now.
    fn next_piece(&mut self, limits: PathLimits) -> Option<Piece> {
        let fin_seq = self.fin_seq();
        let mss = self.payload_mss(limits);
        let sent = |seq: Seq, base: Seq| if seq.after(base) { seq.since(base) as usize } else { 0 };
        if self.recovery.resend() && self.flight() > 0 {
            let unsent_from = sent(self.snd.max, self.tx_base).min(self.tx.len());
            let len = unsent_from.min(usize::from(mss));
            let fin = fin_seq.is_some_and(|fin| self.snd.max.after(fin)) && len == self.tx.len();
            return (len > 0 || fin).then_some(Piece {
                purpose: Purpose::Resend,
                seq: self.snd.una,
                len,
                fin,
                gso: None,
            });
        }
        let available = self.tx.len().saturating_sub(sent(self.snd.nxt, self.tx_base));
        let fin_unsent = fin_seq.is_some_and(|fin| !self.snd.nxt.after(fin));
        let usable = self.usable_window();
        self.flags.cwnd_limited = available > usable && self.cwnd() <= self.snd.wnd;
        let (len, purpose) = match self.choose_length(available, usable, mss, limits) {
            0 if available > 0 && self.flags.probe && usable == 0 => (1, Purpose::Probe),
            // The persist timer overrides the silly-window avoidance.
            0 if self.flags.probe => (available.min(usable), Purpose::Next),
            len => (len, Purpose::Next),
        };
        let fin = fin_unsent && len == available && purpose == Purpose::Next;
        let gso = (len > usize::from(mss)).then_some(mss);
        (len > 0 || fin).then_some(Piece { purpose, seq: self.snd.nxt, len, fin, gso })
    }

    /// How many of `available` unsent bytes to send: the sender's silly-window avoidance (RFC 9293 3.8.6.2.1) with Nagle's
    /// algorithm (3.7.4).
    fn choose_length(&self, available: usize, usable: usize, mss: u16, limits: PathLimits) -> usize {
        let mss = usize::from(mss);
        let len = available.min(usable);
        if len >= mss {
            // Full segments only; what is left over is decided by itself.
            let most = limits.tso_max.saturating_sub(MAX_HEADERS).min(len).max(mss);
            return most - most % mss;
        }
        if len == 0 {
            return 0;
        }
        let again = self.snd.nxt.before(self.snd.max);
        let idle = self.flight() == 0;
        let all = len == available;
        let closing = all && self.sending_ended();
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

    /// The payload of a full segment now: the path may be narrower than when the connection began, and SACK blocks take room.
    fn payload_mss(&self, limits: PathLimits) -> u16 {
        let path = super::tcb::mss_for(limits.mtu, &self.key);
        let blocks = self.sack_blocks().len() as u16;
        let sack = if blocks > 0 { 4 + 8 * blocks } else { 0 };
        let narrower = self.snd.mss.min(self.snd.peer_mss).saturating_sub(path);
        self.send_mss().saturating_sub(sack + narrower).max(super::tcb::MIN_PAYLOAD)
    }

    fn sack_blocks(&self) -> SackBlocks {
        if !self.flags.sack || self.assembly.is_empty() {
            return SackBlocks::default();
        }
        // 40 bytes of options hold four blocks, or three beside timestamps.
        self.assembly.sack_blocks(if self.timestamps.is_some() { 3 } else { 4 })
    }

    fn data(&mut self, now: Instant, piece: &Piece) -> Transmit {
        let offset = if piece.seq.after(self.tx_base) { piece.seq.since(self.tx_base) as usize } else { 0 };
        let mut flags = TcpFlags::ACK;
        flags.set(TcpFlags::FIN, piece.fin);
        // RFC 9293 3.9.1: PSH on the last segment of what the application gave us.
        flags.set(TcpFlags::PSH, piece.len > 0 && offset + piece.len == self.tx.len());
        let mut t = self.control(now, piece.seq, flags, piece.purpose);
        t.offset = offset;
        t.len = piece.len;
        t.gso = piece.gso;
        t
    }

    /// A segment without payload.
    fn control(&self, now: Instant, seq: Seq, flags: TcpFlags, purpose: Purpose) -> Transmit {
        let syn = flags.intersects(TcpFlags::SYN);
        let (window, edge) = self.window_field(syn);
        let options = if syn {
            self.syn_options(now, flags.intersects(TcpFlags::ACK))
        } else {
            TcpOptions {
                timestamps: self.timestamps_option(now),
                sack: self.sack_blocks(),
                ..TcpOptions::default()
            }
        };
        let header = TcpHeader {
            src_port: self.key.local_port,
            dst_port: self.key.remote_port,
            seq,
            ack: if flags.intersects(TcpFlags::ACK) { self.rcv.nxt } else { Seq(0) },
            flags,
            window,
            checksum: 0,
            urgent: 0,
            options,
        };
        Transmit { header, offset: 0, len: 0, gso: None, purpose, edge }
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

    /// SEG.WND and the right edge that it stands for. The receiver's silly-window avoidance (RFC 9293 3.8.6.2.2): the edge moves only by
    /// a full segment or half the buffer, and never back.
    fn window_field(&self, syn: bool) -> (u16, Seq) {
        if syn {
            let wnd = self.syn_window();
            return (wnd as u16, self.rcv.nxt + wnd);
        }
        let edge = self.rcv.nxt + self.receive_window();
        let field = (edge.since(self.rcv.nxt) >> self.rcv.scale).min(u32::from(u16::MAX));
        (field as u16, self.rcv.nxt + (field << self.rcv.scale))
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
    pub(crate) fn on_app_read(&mut self) {
        if self.state.may_receive() && self.receive_window() > self.rcv.wnd() {
            let opened = self.receive_window() - self.rcv.wnd();
            // Every read of a bulk transfer would send one: wait for an eighth of the buffer, unless the peer is nearly stopped.
            let worth = (self.rx.capacity() as u32 / 8).max(2 * u32::from(self.snd.mss));
            if opened >= worth || self.rcv.wnd() < u32::from(self.snd.mss) {
                self.ack = AckDue::Now;
                self.flags.output = true;
            }
        }
    }

    /// The segment is on its way.
    pub(crate) fn on_sent(
        &mut self,
        now: Instant,
        config: &TcpConfig,
        sent: &Transmit,
        counters: &mut Counters,
    ) {
        if sent.header.flags.intersects(TcpFlags::ACK) {
            self.ack = AckDue::No;
            self.unacked = 0;
            self.last_ack_sent = self.rcv.nxt;
            self.rcv.adv = self.rcv.adv.max(sent.edge);
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

    fn on_stream_sent(&mut self, now: Instant, config: &TcpConfig, sent: &Transmit, counters: &mut Counters) {
        let end = sent.end();
        if self.flight() == 0 {
            self.stalled_since = now;
        }
        if sent.header.seq.before(self.snd.max) {
            counters.tcp_retransmits += 1;
            // Karn: a segment that was sent twice gives no sample.
            self.timing = None;
        } else if self.timing.is_none() && self.timeouts == 0 {
            self.timing = Some((end, now));
        }
        if sent.purpose == Purpose::Resend {
            self.recovery.on_resent();
            self.snd.nxt = self.snd.nxt.max(end);
        } else {
            self.snd.nxt = end;
        }
        self.snd.max = self.snd.max.max(end);
        self.last_sent = now;
        self.flags.probe = false;
        self.timers.stop(TimerKind::Persist);
        // RFC 6298 5.1: "if the timer is not running, start it running". A fast retransmit restarts it.
        if sent.purpose == Purpose::Resend || !self.timers.is_armed(TimerKind::Retransmit) {
            self.timers.arm(TimerKind::Retransmit, now + self.rtt.rto(config.max_rto));
        }
    }

    /// Nothing more can be sent now. When it is the peer's window that keeps data back and nothing in flight would bring an ACK,
    /// the persist timer must (RFC 9293 3.8.6.1); it also overrides the silly-window avoidance.
    pub(crate) fn after_output(&mut self, now: Instant, config: &TcpConfig) {
        self.flags.output = false;
        let waiting = self.state.is_synchronized() && !self.tx.is_empty() && self.snd.nxt == self.snd.una;
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
    pub(crate) fn before_output(&mut self, now: Instant, config: &TcpConfig) {
        if self.flight() == 0 && now.since(self.last_sent) > self.rtt.rto(config.max_rto) {
            let mss = u32::from(self.send_mss());
            self.cc.on_idle(config.initial_window * mss);
        }
    }
}

/// Ethernet is not counted in `tso_max`; the largest IP and TCP headers are.
const MAX_HEADERS: usize = 40 + 60;
