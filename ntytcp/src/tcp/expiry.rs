//! What the four timers of a TCB do when they expire (RFC 9293 3.8, RFC 6298 5).

use super::config::TcpConfig;
use super::congestion::Timeout;
use super::tcb::{State, Tcb};
use super::timers::TimerKind;
use crate::counters::Counters;
use crate::stack::SocketError;
use crate::time::Instant;

impl Tcb {
    /// Handles every timer that is due.
    pub(crate) fn on_timeout(&mut self, now: Instant, config: &TcpConfig, counters: &mut Counters) {
        while let Some(kind) = self.timers.expired(now) {
            match kind {
                TimerKind::Retransmit => self.retransmission_timeout(now, config, counters),
                TimerKind::Persist => self.persist_timeout(now, config, counters),
                TimerKind::KeepAlive => self.keepalive_timeout(now, counters),
                TimerKind::FinWait2 => self.finish(None),
            }
        }
    }

    fn retransmission_timeout(&mut self, now: Instant, config: &TcpConfig, counters: &mut Counters) {
        counters.tcp_timeouts += 1;
        let handshake = matches!(self.state, State::SynSent | State::SynReceived);
        let limit = match self.state {
            State::SynSent => config.syn_retries,
            State::SynReceived => config.syn_ack_retries,
            _ => config.retries,
        };
        let overdue = self.options.user_timeout.is_some_and(|limit| now.since(self.stalled_since) >= limit);
        if self.timeouts >= limit || overdue {
            return self.give_up(counters);
        }
        let repeat = if self.timeouts == 0 { Timeout::First } else { Timeout::Repeated };
        self.timeouts += 1;
        self.timed_out_at = now;
        self.rtt.back_off();
        self.timing = None;
        let (mss, flight) = (u32::from(self.send_mss()), self.flight());
        if handshake {
            // RFC 6928 2: an initial window larger than one segment is not for a SYN that was lost.
            self.cc.on_idle(mss);
        } else if flight > 0 {
            self.cc.on_timeout(flight, mss, repeat);
        }
        self.recovery.on_timeout(self.snd.max);
        // Everything from SND.UNA on is sent again as the window allows.
        self.snd.nxt = self.snd.una;
        self.flags.output = true;
        // Armed already here: even if the segment cannot leave (no neighbor), the count goes on to its end.
        self.timers.arm(TimerKind::Retransmit, self.rtt.deadline(now, config.max_rto));
    }

    /// What was to be sent could not leave. With nothing in flight no timer runs, and nobody but the application would ever try
    /// again. RFC 1122 4.2.3.9: "TCP MUST NOT abort the connection"; after R2 it ends as one whose peer is silent.
    pub(crate) fn retry_later(&mut self, now: Instant, config: &TcpConfig) {
        let fin = matches!(self.state, State::FinWait1 | State::Closing | State::LastAck);
        let waiting = self.state.is_synchronized() && (fin || !self.tx.is_empty());
        let timed = self.timers.is_armed(TimerKind::Retransmit) || self.timers.is_armed(TimerKind::Persist);
        if waiting && !timed {
            self.timers.arm(TimerKind::Retransmit, self.rtt.deadline(now, config.max_rto));
        }
    }

    fn persist_timeout(&mut self, now: Instant, config: &TcpConfig, counters: &mut Counters) {
        let overdue = self.options.user_timeout.is_some_and(|limit| now.since(self.last_heard) >= limit);
        if self.probes >= config.retries || overdue {
            return self.give_up(counters);
        }
        if self.flags.orphan && self.probe_backoff >= config.orphan_probes {
            counters.tcp_orphans_reset += 1;
            return self.abort(None);
        }
        if self.tx.is_empty() {
            // The last probe was the last byte, and it was taken.
            return;
        }
        self.probes += 1;
        self.probe_backoff = self.probe_backoff.saturating_add(1);
        self.flags.probe = true;
        self.flags.output = true;
        self.timers.arm(TimerKind::Persist, now + self.persist_interval(config));
    }

    fn keepalive_timeout(&mut self, now: Instant, counters: &mut Counters) {
        let Some(keepalive) = self.options.keepalive else { return };
        let due = self.last_heard + keepalive.idle;
        // Whatever was heard since re-arms the timer, and data in flight has its own.
        if now < due || self.flight() > 0 {
            return self.timers.arm(TimerKind::KeepAlive, due.max(now + keepalive.interval));
        }
        if self.keepalives >= keepalive.count {
            return self.give_up(counters);
        }
        self.keepalives += 1;
        self.flags.keepalive = true;
        self.flags.output = true;
        self.timers.arm(TimerKind::KeepAlive, now + keepalive.interval);
    }

    /// The peer is gone. A RST tells it, should it come back.
    fn give_up(&mut self, counters: &mut Counters) {
        counters.tcp_gave_up += 1;
        let error = self.soft_error.unwrap_or(SocketError::TimedOut);
        self.abort(Some(error));
    }
}
