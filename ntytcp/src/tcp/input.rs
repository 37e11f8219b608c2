//! Segment arrival (RFC 9293 3.10.7): the numbered steps of the standard, one function each.

use super::TcpAction;
use super::config::TcpConfig;
use super::congestion::Limited;
use super::handshake::Offer;
use super::recovery::DupAck;
use super::tcb::{AckDue, State, Tcb};
use super::timers::TimerKind;
use crate::counters::DropReason;
use crate::stack::{Cx, Readiness, SocketError};
use crate::time::{Duration, Instant};
use crate::wire::{Seq, TcpFlags, TcpHeader, Timestamps};

/// A connection sends at most one challenge ACK per this time (RFC 5961 7 asks for a limit; Linux uses the same).
const CHALLENGE_INTERVAL: Duration = Duration::from_millis(500);

/// Why a segment was refused.
type Refused = TcpAction;

/// ACK alone.
const PLAIN: u16 = TcpFlags::ACK.bits() as u16;
/// Flags that change nothing about what is foreseen.
const FORESEEN: u16 = TcpFlags::PSH.union(TcpFlags::ECE).union(TcpFlags::CWR).bits() as u16;

/// A segment that needs no checks: the answer of [`Tcb::predict`].
#[derive(Clone, Copy)]
struct Predicted<'a> {
    seq: Seq,
    ack: Seq,
    wnd: u32,
    timestamps: Option<Timestamps>,
    text: &'a [u8],
}

/// A segment on its way through the steps: what was cut off at the edges of the window is gone.
struct Segment<'a> {
    seq: Seq,
    ack: Seq,
    /// SEG.WND, scaling undone.
    wnd: u32,
    flags: TcpFlags,
    timestamps: Option<Timestamps>,
    text: &'a [u8],
}

impl Segment<'_> {
    fn has(&self, flags: TcpFlags) -> bool {
        self.flags.intersects(flags)
    }

    /// SEG.LEN: the sequence space that it occupies.
    fn len(&self) -> u32 {
        self.text.len() as u32 + u32::from(self.has(TcpFlags::SYN)) + u32::from(self.has(TcpFlags::FIN))
    }
}

impl Tcb {
    /// A segment arrived for this connection.
    pub(crate) fn segment_arrives(
        &mut self,
        cx: &mut Cx<'_>,
        config: &TcpConfig,
        header: &TcpHeader,
        text: &[u8],
    ) -> TcpAction {
        let scale = if header.flags.contains(TcpFlags::SYN) { 0 } else { self.snd.scale };
        let mut seg = Segment {
            seq: header.seq,
            ack: header.ack,
            wnd: u32::from(header.window) << scale,
            flags: header.flags,
            timestamps: header.options.timestamps,
            text,
        };
        let steps = match self.state {
            // A TCB that has ended is no longer reachable, or only to send its RST.
            State::Closed | State::Listen | State::TimeWait => Err(TcpAction::Drop(DropReason::NoSocket)),
            State::SynSent => self.arrives_in_syn_sent(cx, config, &mut seg, header),
            _ => self.arrives_synchronized(cx, config, &mut seg),
        };
        steps.err().unwrap_or(TcpAction::Done)
    }

    /// Header prediction: in ESTABLISHED, the next segment in order with nothing but ACK (and PSH) set, without options or with
    /// timestamps as everybody lays them out, nothing missing and nothing old, is most of the traffic and needs none of the
    /// checks below. `bytes` are the whole segment; its checksum is not looked at.
    #[inline(always)]
    fn predict<'a>(&self, bytes: &'a [u8]) -> Option<Predicted<'a>> {
        let h = bytes.first_chunk::<20>()?;
        let control = u16::from_be_bytes([h[12], h[13]]) & !FORESEEN;
        let (timestamps, text) = match &self.timestamps {
            None if control == 5 << 12 | PLAIN => (None, bytes.get(20..)?),
            Some(state) if control == 8 << 12 | PLAIN => {
                let (options, text) = bytes.get(20..)?.split_first_chunk::<12>()?;
                let &[1, 1, 8, 10, v0, v1, v2, v3, e0, e1, e2, e3] = options else { return None };
                let value = u32::from_be_bytes([v0, v1, v2, v3]);
                if Seq(value).before(Seq(state.recent)) {
                    return None;
                }
                (Some(Timestamps { value, echo: u32::from_be_bytes([e0, e1, e2, e3]) }), text)
            }
            _ => return None,
        };
        let seq = Seq(u32::from_be_bytes([h[4], h[5], h[6], h[7]]));
        let ack = Seq(u32::from_be_bytes([h[8], h[9], h[10], h[11]]));
        let as_foreseen = self.state == State::Established
            && seq == self.rcv.nxt
            && text.len() as u32 <= self.rcv.wnd()
            // SND.UNA =< SEG.ACK =< SND.MAX
            && ack.since(self.snd.una) <= self.snd.max.since(self.snd.una)
            && self.assembly.is_empty()
            && self.rcv.fin.is_none()
            && !self.flags.orphan
            // Text that nobody will read is answered by a RST.
            && (text.is_empty() || self.rx.is_consumer_alive());
        let wnd = u32::from(u16::from_be_bytes([h[14], h[15]])) << self.snd.scale;
        as_foreseen.then_some(Predicted { seq, ack, wnd, timestamps, text })
    }

    /// Takes the whole segment `bytes` if it was predicted and `is_intact` says that its checksum is right; an error says that not all
    /// of it found room.
    #[inline(always)]
    pub(crate) fn take_foreseen(
        &mut self,
        cx: &mut Cx<'_>,
        config: &TcpConfig,
        bytes: &[u8],
        is_intact: impl FnOnce() -> bool,
    ) -> Option<Result<(), DropReason>> {
        let seg = self.predict(bytes)?;
        if !is_intact() {
            return None;
        }
        cx.counters.tcp_rx += 1;
        cx.counters.tcp_fast_path += 1;
        self.heard(cx.now);
        self.update_ts_recent(cx.now, seg.seq, seg.timestamps);
        if !self.says_nothing_new(&seg) {
            self.take_predicted_ack(cx, config, seg);
        }
        Some(if seg.text.is_empty() { Ok(()) } else { self.take_text_in_order(cx, config, seg.text) })
    }

    /// Whether a predicted segment tells of our sending what is known, as all do from a peer that only sends. What
    /// [`Tcb::process_ack`] notes of such a one is noted.
    #[inline(always)]
    fn says_nothing_new(&mut self, seg: &Predicted<'_>) -> bool {
        let snd = &mut self.snd;
        let known = seg.ack == snd.una
            && seg.wnd == snd.wnd
            && seg.wnd > 0
            && snd.wl1.before_eq(seg.seq)
            // Without text it may be a duplicate ACK.
            && !seg.text.is_empty();
        if known {
            (snd.wl1, snd.wl2) = (seg.seq, seg.ack);
            (self.probes, self.probe_backoff) = (0, 0);
        }
        known
    }

    /// What a predicted segment tells of our sending.
    #[inline(never)] // Who has nothing to hear needs no segment in memory.
    fn take_predicted_ack(&mut self, cx: &mut Cx<'_>, config: &TcpConfig, seg: Predicted<'_>) {
        let Predicted { seq, ack, wnd, timestamps, text } = seg;
        self.process_ack(cx, config, &Segment { seq, ack, wnd, flags: TcpFlags::ACK, timestamps, text });
    }

    /// RFC 9293 3.10.7.4, all synchronized states and SYN-RECEIVED.
    fn arrives_synchronized(
        &mut self,
        cx: &mut Cx<'_>,
        config: &TcpConfig,
        seg: &mut Segment<'_>,
    ) -> Result<(), Refused> {
        if self.state == State::SynReceived && seg.has(TcpFlags::SYN) && seg.seq == self.rcv.irs {
            // Simultaneous open (RFC 9293 3.5, figure 7): the SYN of the peer's SYN-ACK is the one that we have.
            seg.flags.remove(TcpFlags::SYN);
            seg.seq += 1;
        }
        self.check_syn(cx, seg)?;
        self.check_timestamp(cx, seg)?;
        self.check_sequence(cx, seg)?;
        self.check_rst(cx, seg)?;
        self.heard(cx.now);
        self.update_ts_recent(cx.now, seg.seq, seg.timestamps);
        self.check_ack(cx, config, seg)?;
        // Sixth, URG: RFC 6093 leaves urgent data in line and the pointer to those who ask for it; we do not.
        self.take_text(cx, config, seg)?;
        self.check_fin(cx, seg);
        Ok(())
    }

    /// Before the first check: PAWS (RFC 7323 5.3 R1).
    fn check_timestamp(&mut self, cx: &mut Cx<'_>, seg: &Segment<'_>) -> Result<(), Refused> {
        let Some(state) = self.timestamps else { return Ok(()) };
        if seg.has(TcpFlags::RST) {
            return Ok(());
        }
        let Some(ts) = seg.timestamps else {
            // RFC 7323 3.2: "If a non-<RST> segment is received without a TSopt, a TCP SHOULD silently drop the segment."
            return Err(TcpAction::Drop(DropReason::TcpPaws));
        };
        if Seq(ts.value).before(Seq(state.recent)) && !state.is_void(cx.now) {
            // "... send an acknowledgment in reply ... and drop the segment"
            self.acknowledge_unacceptable(cx, seg);
            return Err(TcpAction::Drop(DropReason::TcpPaws));
        }
        Ok(())
    }

    /// First, check sequence number: what lies outside of the window is cut off; what lies wholly outside is refused.
    fn check_sequence(&mut self, cx: &mut Cx<'_>, seg: &mut Segment<'_>) -> Result<(), Refused> {
        let (nxt, wnd) = (self.rcv.nxt, self.rcv.wnd());
        let len = seg.len();
        let end = seg.seq + len;
        let acceptable = match (len, wnd) {
            // "If the RCV.WND is zero, no segments will be acceptable, but special allowance should be made to accept valid
            // ACKs, URGs, and RSTs": the text of a probe is cut off below.
            (_, 0) => seg.seq == nxt,
            // RFC 9293 wants SEG.SEQ < RCV.NXT+RCV.WND, but the ACKs of a peer that has filled the window lie just at its edge;
            // while its first segment is missing, refusing them would stop our own sending too.
            (0, _) => seg.seq.in_window(nxt, wnd.saturating_add(1)),
            // Some of it lies in the window.
            (_, _) => seg.seq.before(nxt + wnd) && end.after(nxt),
        };
        if !acceptable {
            if !seg.has(TcpFlags::RST) {
                self.acknowledge_unacceptable(cx, seg);
            }
            return Err(TcpAction::Drop(DropReason::TcpOutOfWindow));
        }
        // A RST is not cut: RFC 5961 3.2 wants its own sequence number to be exact, and text must not help it there.
        if !seg.has(TcpFlags::RST) {
            self.trim(seg, nxt, wnd);
        }
        Ok(())
    }

    /// Cuts a segment to the window.
    fn trim(&mut self, seg: &mut Segment<'_>, nxt: Seq, wnd: u32) {
        if seg.seq.before(nxt) {
            let mut old = nxt.since(seg.seq);
            if seg.has(TcpFlags::SYN) {
                seg.flags.remove(TcpFlags::SYN);
                old -= 1;
            }
            seg.text = seg.text.get(old as usize..).unwrap_or_default();
            seg.seq = nxt;
            // The peer sent again what we have: our ACK was lost.
            self.ack = AckDue::Now;
            self.flags.output = true;
        }
        let room = (nxt + wnd).since(seg.seq);
        if seg.text.len() as u32 > room {
            seg.text = seg.text.get(..room as usize).unwrap_or_default();
            seg.flags.remove(TcpFlags::FIN);
            // Tell the peer where the window ends: it probes, or ignores what we announced.
            self.ack = AckDue::Now;
            self.flags.output = true;
        }
    }

    /// Second, check the RST bit (RFC 5961 3.2).
    fn check_rst(&mut self, cx: &mut Cx<'_>, seg: &Segment<'_>) -> Result<(), Refused> {
        if !seg.has(TcpFlags::RST) {
            return Ok(());
        }
        if seg.seq != self.rcv.nxt {
            // "If the RST bit is set and the sequence number does not exactly match the next expected sequence value, yet is
            // within the current receive window, TCP MUST send an acknowledgment (challenge ACK)"
            self.challenge(cx);
            return Err(TcpAction::Drop(DropReason::TcpBadReset));
        }
        cx.counters.tcp_resets += 1;
        let error = match self.state {
            State::SynReceived => Some(SocketError::ConnectionRefused),
            State::CloseWait | State::Established | State::FinWait1 | State::FinWait2 => {
                Some(SocketError::ConnectionReset)
            }
            // Both sides had closed: nothing is lost.
            _ => None,
        };
        self.finish(error);
        Err(TcpAction::Done)
    }

    /// Fourth, check the SYN bit, but before all else. RFC 5961 4.2: "If the SYN bit is set, irrespective of the sequence number, TCP
    /// MUST send an ACK (also referred to as challenge ACK) to the remote peer". A peer that has lost its state knows of no
    /// timestamps either.
    fn check_syn(&mut self, cx: &mut Cx<'_>, seg: &Segment<'_>) -> Result<(), Refused> {
        if !seg.has(TcpFlags::SYN) || seg.has(TcpFlags::RST) {
            return Ok(());
        }
        self.challenge(cx);
        Err(TcpAction::Drop(DropReason::TcpBadFlags))
    }

    /// Fifth, check the ACK field.
    fn check_ack(&mut self, cx: &mut Cx<'_>, config: &TcpConfig, seg: &Segment<'_>) -> Result<(), Refused> {
        if !seg.has(TcpFlags::ACK) {
            return Err(TcpAction::Drop(DropReason::TcpBadFlags));
        }
        if self.state == State::SynReceived {
            self.ack_in_syn_received(cx, seg)?;
        }
        // RFC 5961 5.2: "The ACK value is considered acceptable only if it is in the range of
        // ((SND.UNA - MAX.SND.WND) <= SEG.ACK <= SND.NXT)"
        let oldest = self.snd.una - self.snd.max_wnd;
        if seg.ack.before(oldest) || seg.ack.after(self.snd.max) {
            self.challenge(cx);
            return Err(TcpAction::Drop(DropReason::TcpBadAck));
        }
        self.process_ack(cx, config, seg);
        self.after_our_fin(cx, config);
        if self.state == State::Closed { Err(TcpAction::Done) } else { Ok(()) }
    }

    /// "SYN-RECEIVED STATE: If SND.UNA < SEG.ACK =< SND.NXT, then enter ESTABLISHED state".
    fn ack_in_syn_received(&mut self, cx: &mut Cx<'_>, seg: &Segment<'_>) -> Result<(), Refused> {
        if !(seg.ack.after(self.snd.una) && seg.ack.before_eq(self.snd.max)) {
            return Err(TcpAction::Reply(self.reset_for(seg.ack)));
        }
        self.establish(cx, seg);
        match self.listener {
            Some(_) => cx.counters.tcp_passive_opens += 1,
            None => cx.counters.tcp_active_opens += 1,
        }
        Ok(())
    }

    /// Enters ESTABLISHED, or what follows it when the application has closed already.
    fn establish(&mut self, cx: &Cx<'_>, seg: &Segment<'_>) {
        self.state = State::Established;
        self.set_window(seg);
        self.rtt.handshake_done();
        self.timeouts = 0;
        self.last_heard = cx.now;
        self.start_keepalive();
        self.changed |= Readiness::WRITABLE;
        self.flags.output = true;
        if self.sending_ended() {
            self.on_app_closed();
        }
    }

    /// What every state does with an ACK: SND.UNA, the window, the congestion state and the timers.
    #[inline]
    fn process_ack(&mut self, cx: &mut Cx<'_>, config: &TcpConfig, seg: &Segment<'_>) {
        let window_before = self.snd.wnd;
        // "If (SND.WL1 < SEG.SEQ or (SND.WL1 = SEG.SEQ and SND.WL2 =< SEG.ACK)), set SND.WND <- SEG.WND, ..." What acknowledges
        // more is newer too, though its text be a retransmission from before SND.WL1: the old window, counted from a new SND.UNA,
        // would reach beyond what the peer has announced.
        let current = seg.ack.after(self.snd.una)
            || self.snd.wl1.before(seg.seq)
            || (self.snd.wl1 == seg.seq && self.snd.wl2.before_eq(seg.ack));
        if current && seg.ack.after_eq(self.snd.una) {
            self.set_window(seg);
        }
        if seg.ack.after(self.snd.una) {
            self.process_new_ack(cx, config, seg.ack, seg.timestamps);
        } else if seg.ack == self.snd.una {
            self.process_same_ack(cx, seg, window_before);
        }
        if self.snd.wnd > window_before {
            self.flags.output = true;
        }
        self.probes = 0;
        if self.snd.wnd > 0 {
            self.probe_backoff = 0;
        }
    }

    fn set_window(&mut self, seg: &Segment<'_>) {
        self.snd.wnd = seg.wnd;
        self.snd.max_wnd = self.snd.max_wnd.max(seg.wnd);
        self.snd.wl1 = seg.seq;
        self.snd.wl2 = seg.ack;
    }

    /// SEG.ACK moves SND.UNA forward.
    #[inline]
    fn process_new_ack(&mut self, cx: &mut Cx<'_>, config: &TcpConfig, ack: Seq, ts: Option<Timestamps>) {
        let acked = ack.since(self.snd.una);
        self.take_rtt_sample(cx, config, ack, ts);
        // Our SYN and FIN take sequence numbers but no place in the FIFO.
        let bytes =
            if ack.after(self.tx_base) { (ack.since(self.tx_base) as usize).min(self.tx.len()) } else { 0 };
        if bytes > 0 {
            self.tx.consume(bytes);
            self.tx_base += bytes as u32;
            self.changed |= Readiness::WRITABLE;
        }
        self.snd.una = ack;
        self.snd.nxt = self.snd.nxt.max(ack);
        let mss = u32::from(self.send_mss());
        if self.recovery.on_ack(ack, self.snd.max, acked, mss, &mut self.cc) {
            let limited = if self.flags.cwnd_limited { Limited::ByCwnd } else { Limited::ByOthers };
            self.cc.on_ack(acked, mss, limited);
        }
        self.timeouts = 0;
        self.soft_error = None;
        self.stalled_since = cx.now;
        self.flags.progress = true;
        // With all that there is in flight, the ACK lets nothing more be sent.
        let (queued, closed) = self.tx.look();
        self.flags.output |= closed || queued > self.tx_offset(self.snd.nxt) || self.recovery.is_active();
        // RFC 6298 5.2 and 5.3: all acknowledged turns the timer off, new data acknowledged restarts it.
        if self.flight() == 0 {
            self.timers.stop(TimerKind::Retransmit);
        } else {
            self.timers.arm(TimerKind::Retransmit, self.rtt.deadline(cx.now, config.max_rto));
        }
    }

    /// SEG.ACK repeats SND.UNA: is it a duplicate ACK (RFC 5681 2)?
    fn process_same_ack(&mut self, cx: &mut Cx<'_>, seg: &Segment<'_>, window_before: u32) {
        let duplicate = seg.len() == 0
            && self.flight() > 0
            && seg.wnd == window_before
            && seg.wnd > 0
            && !self.timers.is_armed(TimerKind::Persist);
        if !duplicate {
            return;
        }
        let mss = u32::from(self.send_mss());
        if self.recovery.on_dup_ack(self.snd.una, self.snd.max, mss, &mut self.cc) == DupAck::LossDetected {
            cx.counters.tcp_fast_retransmits += 1;
            self.timing = None;
        }
        self.flags.output = true;
    }

    /// RFC 6298 and Karn: the timed segment, or the echoed timestamp when it was sent more than once.
    #[inline]
    fn take_rtt_sample(&mut self, cx: &Cx<'_>, config: &TcpConfig, ack: Seq, ts: Option<Timestamps>) {
        let timed = self.timing.filter(|(end, _)| ack.after_eq(*end));
        let sample = match (timed, ts) {
            (Some((_, sent)), _) => Some(cx.now.nanos_since(sent)),
            (None, Some(ts)) if self.is_unambiguous(ts) => {
                let elapsed = self.timestamp_now(cx.now).wrapping_sub(ts.echo);
                // Anything longer than a day is no round trip but a lie.
                (elapsed < 86_400_000).then(|| u64::from(elapsed) * 1_000_000)
            }
            _ => None,
        };
        if timed.is_some() {
            self.timing = None;
        }
        if let Some(rtt) = sample {
            self.rtt.sample(rtt, config.min_rto, config.max_rto);
        }
    }

    /// Whether an echoed timestamp gives a round trip. After a timeout only the echo of what was sent since does: an older one
    /// may come with the answer to a later copy, when the ACK of the first was lost, and then spans the backed-off timeouts
    /// between. Without a sample the backoff stays until one is beyond doubt (RFC 6298 5.7, Karn).
    fn is_unambiguous(&self, ts: Timestamps) -> bool {
        let since_timeout = || !Seq(ts.echo).before(Seq(self.timestamp_now(self.timed_out_at)));
        self.timing.is_none()
            && self.timestamps.is_some()
            && ts.echo != 0
            && (!self.rtt.is_backed_off() || since_timeout())
    }

    /// What the acknowledgment of our FIN changes.
    fn after_our_fin(&mut self, cx: &Cx<'_>, config: &TcpConfig) {
        let una = self.snd.una;
        if !matches!(self.state, State::FinWait1 | State::Closing | State::LastAck)
            || !self.fin_seq().is_some_and(|fin| una.after(fin))
        {
            return;
        }
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                if self.flags.orphan {
                    self.timers.arm(TimerKind::FinWait2, cx.now + config.fin_wait_2);
                }
            }
            State::Closing => self.enter_time_wait(),
            _ => self.finish(None),
        }
    }

    fn enter_time_wait(&mut self) {
        self.state = State::TimeWait;
        self.timers.stop_all();
        self.changed |= Readiness::HANGUP;
    }

    /// Seventh, process the segment text.
    fn take_text(
        &mut self,
        cx: &mut Cx<'_>,
        config: &TcpConfig,
        seg: &mut Segment<'_>,
    ) -> Result<(), Refused> {
        if seg.text.is_empty() || !self.state.may_receive() {
            return Ok(());
        }
        if self.flags.orphan || !self.rx.is_consumer_alive() {
            // RFC 9293 3.10.7.4 leaves data after CLOSE to nobody; RFC 1122 4.2.2.13: "SHOULD send a RST to show that data was lost".
            self.abort(None);
            cx.counters.tcp_resets += 1;
            return Err(TcpAction::Drop(DropReason::TcpDataAfterClose));
        }
        if seg.seq == self.rcv.nxt {
            return self.take_text_in_order(cx, config, seg.text).map_err(TcpAction::Drop);
        }
        cx.counters.tcp_out_of_order += 1;
        self.ack = AckDue::Now;
        self.flags.output = true;
        let (start, end) = (seg.seq, seg.seq + seg.text.len() as u32);
        if !self.assembly.admits(start, end, config.max_gaps) {
            return Err(TcpAction::Drop(DropReason::TcpReassemblyFull));
        }
        let stored = self.rx.write_at(start.since(self.rcv.nxt) as usize, seg.text);
        self.assembly.insert(start, start + stored as u32);
        if stored < seg.text.len() {
            return Err(TcpAction::Drop(DropReason::TcpReassemblyFull));
        }
        Ok(())
    }

    /// Text that starts at RCV.NXT goes to the application, together with what it joins up.
    #[inline]
    fn take_text_in_order(
        &mut self,
        cx: &mut Cx<'_>,
        config: &TcpConfig,
        text: &[u8],
    ) -> Result<(), DropReason> {
        let taken = if self.assembly.is_empty() {
            let taken = self.rx.write(text);
            self.rcv.nxt += taken as u32;
            taken
        } else {
            let taken = self.rx.write_at(0, text);
            let nxt = self.assembly.advance(self.rcv.nxt + taken as u32);
            self.rx.advance(nxt.since(self.rcv.nxt) as usize);
            self.rcv.nxt = nxt;
            // RFC 5681 4.2: "a TCP receiver SHOULD send an immediate ACK when the incoming segment fills in all or part of a gap"
            self.ack = AckDue::Now;
            taken
        };
        self.changed |= Readiness::READABLE;
        self.unacked = self.unacked.saturating_add(taken as u32);
        if taken < text.len() {
            self.ack = AckDue::Now;
            self.flags.output = true;
            return Err(DropReason::SocketFull);
        }
        // RFC 9293 3.8.6.3: "an ACK SHOULD be generated for at least every second full-sized segment"
        if self.ack != AckDue::Now {
            let full = u32::from(self.snd.mss.min(self.snd.peer_mss));
            let two = 2 * full.saturating_sub(u32::from(super::tcb::TIMESTAMPS_LEN));
            self.ack = match self.ack {
                _ if self.unacked >= two => AckDue::Now,
                AckDue::At(at) => AckDue::At(at),
                _ => AckDue::At(cx.now + config.delayed_ack),
            };
        }
        self.flags.output |= self.ack == AckDue::Now;
        Ok(())
    }

    /// Eighth, check the FIN bit.
    fn check_fin(&mut self, cx: &mut Cx<'_>, seg: &Segment<'_>) {
        if seg.has(TcpFlags::FIN) {
            self.rcv.fin = Some(seg.seq + seg.text.len() as u32);
        }
        if self.rcv.fin != Some(self.rcv.nxt) || self.rx.is_closed() {
            return;
        }
        self.rcv.nxt += 1;
        self.rx.close();
        self.ack = AckDue::Now;
        self.flags.output = true;
        self.changed |= Readiness::READABLE | Readiness::READ_CLOSED;
        match self.state {
            State::SynReceived | State::Established => self.state = State::CloseWait,
            // "If our FIN has been ACKed (perhaps in this segment), then enter TIME-WAIT ...; otherwise, enter the CLOSING state"
            State::FinWait1 => {
                self.state = State::Closing;
                self.changed |= Readiness::HANGUP;
            }
            State::FinWait2 => self.enter_time_wait(),
            _ => {}
        }
        self.last_heard = cx.now;
    }

    /// RFC 9293 3.10.7.3: SYN-SENT.
    fn arrives_in_syn_sent(
        &mut self,
        cx: &mut Cx<'_>,
        config: &TcpConfig,
        seg: &mut Segment<'_>,
        header: &TcpHeader,
    ) -> Result<(), Refused> {
        // First, check the ACK bit.
        let acked = seg.has(TcpFlags::ACK);
        if acked && !(seg.ack.after(self.snd.iss) && seg.ack.before_eq(self.snd.max)) {
            if seg.has(TcpFlags::RST) {
                return Err(TcpAction::Drop(DropReason::TcpBadReset));
            }
            // RFC 9293 3.5.1: the peer still has an older connection, forgets it with our RST, and takes the SYN that comes behind.
            // Nothing was lost, and what forges such ACKs gets no more than this one.
            if !core::mem::replace(&mut self.flags.syn_repeated, true) {
                self.snd.nxt = self.snd.iss;
                self.flags.output = true;
            }
            return Err(TcpAction::Reply(self.reset_for(seg.ack)));
        }
        // Second, check the RST bit: "If the ACK was acceptable, signal to the user "error: connection reset""
        if seg.has(TcpFlags::RST) {
            if !acked {
                return Err(TcpAction::Drop(DropReason::TcpBadReset));
            }
            cx.counters.tcp_resets += 1;
            self.finish(Some(SocketError::ConnectionRefused));
            return Err(TcpAction::Done);
        }
        // Fourth, check the SYN bit.
        if !seg.has(TcpFlags::SYN) {
            return Err(TcpAction::Drop(DropReason::TcpBadFlags));
        }
        self.take_syn(cx.now, seg.seq, &Offer::from(&header.options), config);
        seg.seq += 1;
        seg.flags.remove(TcpFlags::SYN);
        self.flags.output = true;
        self.set_window(seg);
        if !acked {
            // Simultaneous open: "Otherwise, enter SYN-RECEIVED, form a SYN,ACK segment <SEQ=ISS><ACK=RCV.NXT><CTL=SYN,ACK>"
            self.state = State::SynReceived;
            self.snd.nxt = self.snd.iss;
            self.snd.wl2 = self.snd.iss;
            return Ok(());
        }
        self.process_new_ack(cx, config, seg.ack, None);
        self.establish(cx, seg);
        cx.counters.tcp_active_opens += 1;
        self.ack = AckDue::Now;
        self.take_text(cx, config, seg)?;
        self.check_fin(cx, seg);
        Ok(())
    }

    /// RFC 7323 4.3: TS.Recent follows the segment that the last ACK was waiting for.
    #[inline]
    fn update_ts_recent(&mut self, now: Instant, seq: Seq, timestamps: Option<Timestamps>) {
        if let (Some(state), Some(ts)) = (&mut self.timestamps, timestamps)
            && (!Seq(ts.value).before(Seq(state.recent)) || state.is_void(now))
            && seq.before_eq(self.last_ack_sent)
        {
            state.recent = ts.value;
            state.recent_at = now;
        }
    }

    /// The peer lives.
    fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.keepalives = 0;
    }

    /// "If an incoming segment is not acceptable, an acknowledgment should be sent in reply". Segments without data get only one
    /// per half second, or two confused ends would answer each other for ever.
    fn acknowledge_unacceptable(&mut self, cx: &mut Cx<'_>, seg: &Segment<'_>) {
        if seg.text.is_empty() && !seg.has(TcpFlags::FIN) {
            self.challenge(cx);
        } else {
            self.ack = AckDue::Now;
            self.flags.output = true;
        }
    }

    /// A challenge ACK `<SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>`, limited in rate (RFC 5961 7).
    fn challenge(&mut self, cx: &mut Cx<'_>) {
        if self.last_challenge.is_some_and(|last| cx.now.since(last) < CHALLENGE_INTERVAL) {
            return;
        }
        self.last_challenge = Some(cx.now);
        cx.counters.tcp_challenge_acks += 1;
        self.ack = AckDue::Now;
        self.flags.output = true;
    }

    /// `<SEQ=SEG.ACK><CTL=RST>`.
    fn reset_for(&self, ack: Seq) -> TcpHeader {
        super::reset_segment(&self.key, ack, None)
    }
}
