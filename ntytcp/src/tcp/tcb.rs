//! The transmission control block: everything about one connection from SYN-SENT (or the ACK of our SYN-ACK) until TIME-WAIT.
//!
//! ```text
//!   send sequence space                                 receive sequence space
//!       tx_base = first byte in the tx FIFO
//!   ----|-----------|-----------|------>                ----|------------|-------->
//!    SND.UNA     SND.NXT     SND.MAX                     RCV.NXT      RCV.ADV = RCV.NXT + RCV.WND
//!                (falls back to UNA on a timeout)        (the right edge never moves back)
//! ```
//!
//! The methods are spread by concern: [`opening`](super::opening) begins one, [`input`](super::input) takes segments, [`output`](super::output) decides what to send,
//! [`expiry`](super::expiry) handles the timers. None of them does I/O; what must be sent is found by asking
//! [`Tcb::only_segment`], or [`Tcb::next_segment`] until it has nothing more.

use super::assembly::Assembly;
use super::config::{TcpConfig, TcpSocketOptions};
use super::congestion::CongestionControl;
use super::handshake::Offer;
use super::recovery::Recovery;
use super::rtt::RttEstimator;
use super::timers::{TimerKind, TimerTable};
use crate::fifo::{Consumer, Producer};
use crate::stack::cx::Pending;
use crate::stack::demux::FlowKey;
use crate::stack::output::PathCache;
use crate::stack::{InterfaceId, Readiness, SocketError};
use crate::time::{Duration, Instant};
use crate::wire::{Seq, Timestamps};
use core::net::IpAddr;

/// The connection states of RFC 9293 3.3.2.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// No connection.
    Closed,
    /// Waiting for a connection request from any peer.
    Listen,
    /// Our SYN was sent.
    SynSent,
    /// Both SYNs were sent, ours is not acknowledged.
    SynReceived,
    /// Open in both directions.
    Established,
    /// We closed; our FIN is not acknowledged.
    FinWait1,
    /// We closed, the peer knows, and has not closed.
    FinWait2,
    /// The peer closed, we have not.
    CloseWait,
    /// Both closed at the same time; our FIN is not acknowledged.
    Closing,
    /// The peer closed, then we; our FIN is not acknowledged.
    LastAck,
    /// Both closed; old segments die out.
    TimeWait,
}

impl State {
    /// Whether both SYNs were exchanged and acknowledged, and the connection has not ended.
    pub fn is_synchronized(self) -> bool {
        !matches!(self, Self::Closed | Self::Listen | Self::SynSent | Self::SynReceived)
    }

    /// Whether the peer may still send data.
    pub(crate) fn may_receive(self) -> bool {
        matches!(self, Self::Established | Self::FinWait1 | Self::FinWait2)
    }
}

impl core::fmt::Display for State {
    /// The name as RFC 9293 spells it.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(match self {
            Self::Closed => "CLOSED",
            Self::Listen => "LISTEN",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived => "SYN-RECEIVED",
            Self::Established => "ESTABLISHED",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::CloseWait => "CLOSE-WAIT",
            Self::Closing => "CLOSING",
            Self::LastAck => "LAST-ACK",
            Self::TimeWait => "TIME-WAIT",
        })
    }
}

/// The send sequence variables (RFC 9293 3.3.1). Windows are in bytes, scaling undone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendSequence {
    pub(crate) iss: Seq,
    pub(crate) una: Seq,
    pub(crate) nxt: Seq,
    /// The end of everything ever sent.
    pub(crate) max: Seq,
    pub(crate) wnd: u32,
    pub(crate) wl1: Seq,
    pub(crate) wl2: Seq,
    /// The largest window that the peer ever offered, for the sender's silly-window avoidance.
    pub(crate) max_wnd: u32,
    /// How far the peer's window field is shifted.
    pub(crate) scale: u8,
    /// The MSS that the peer announced.
    pub(crate) peer_mss: u16,
    /// The MSS that the path allows, options not counted.
    pub(crate) mss: u16,
}

/// The receive sequence variables (RFC 9293 3.3.1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiveSequence {
    pub(crate) irs: Seq,
    pub(crate) nxt: Seq,
    /// The right edge of the window that the peer was told of.
    pub(crate) adv: Seq,
    /// How far our window field is shifted.
    pub(crate) scale: u8,
    /// Where the peer's FIN lies, once it was seen ahead of missing data.
    pub(crate) fin: Option<Seq>,
}

impl ReceiveSequence {
    /// RCV.WND.
    pub(crate) fn wnd(&self) -> u32 {
        if self.adv.after(self.nxt) { self.adv.since(self.nxt) } else { 0 }
    }
}

/// Timestamps of a connection that negotiated them (RFC 7323).
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimestampState {
    /// TS.Recent.
    pub(crate) recent: u32,
    /// When TS.Recent was set.
    pub(crate) recent_at: Instant,
}

impl TimestampState {
    /// RFC 7323 5.5: "a TS.Recent value ... is invalidated if it is not updated for 24 days": then any timestamp is good, and
    /// takes its place.
    pub(crate) fn is_void(&self, now: Instant) -> bool {
        now.since(self.recent_at) > Duration::from_secs(24 * 86_400)
    }
}

/// Whether an acknowledgment is owed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AckDue {
    No,
    /// Once the delayed-ACK time is over, or with the next data.
    At(Instant),
    Now,
}

/// What [`Tcb`] and the table around it remember as flags.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Flags {
    /// In the table's list of connections with something to send.
    pub(crate) dirty: bool,
    /// In the table's queue of delayed ACKs.
    pub(crate) ack_queued: bool,
    /// In the table's queue of connections that hold pages.
    pub(crate) warm: bool,
    /// Reachable by segments.
    pub(crate) in_demux: bool,
    /// The application closed the socket: nobody will read, write or look.
    pub(crate) orphan: bool,
    /// A connection that a listener made and that nobody accepted.
    pub(crate) unaccepted: bool,
    /// Something may be sendable.
    pub(crate) output: bool,
    /// A window probe is due.
    pub(crate) probe: bool,
    /// A keepalive probe is due.
    pub(crate) keepalive: bool,
    /// The SYN was sent again behind the RST of an older connection.
    pub(crate) syn_repeated: bool,
    /// A RST is due; the connection is over.
    pub(crate) reset: bool,
    /// The peer acknowledged something new since the last output.
    pub(crate) progress: bool,
    /// The congestion window was what stopped the last output.
    pub(crate) cwnd_limited: bool,
    /// SACK, window scaling and timestamps: offered until the peer's SYN is seen, then agreed on.
    pub(crate) sack: bool,
    pub(crate) scaling: bool,
    pub(crate) timestamps: bool,
}

/// One connection. See the module documentation.
#[derive(Debug)]
pub(crate) struct Tcb {
    pub(crate) key: FlowKey,
    /// The tag of `key` in the flow table.
    pub(crate) tag: u32,
    pub(crate) state: State,
    pub(crate) path: PathCache,
    /// Where the next segment goes out, as far as known.
    pub(crate) interface: InterfaceId,
    pub(crate) snd: SendSequence,
    pub(crate) rcv: ReceiveSequence,
    pub(crate) tx: Consumer,
    pub(crate) rx: Producer,
    /// The application's ends of the FIFOs, until it takes them.
    pub(crate) half: Option<(Producer, Consumer)>,
    /// Sequence number of the first byte in `tx`.
    pub(crate) tx_base: Seq,
    pub(crate) timestamps: Option<TimestampState>,
    /// Added to the clock in each timestamp sent.
    pub(crate) timestamp_offset: u32,
    pub(crate) last_ack_sent: Seq,
    pub(crate) assembly: Assembly,
    pub(crate) recovery: Recovery,
    pub(crate) cc: CongestionControl,
    pub(crate) rtt: RttEstimator,
    /// The segment end whose acknowledgment gives the next RTT sample, and when it was sent (Karn: once).
    pub(crate) timing: Option<(Seq, Instant)>,
    pub(crate) timers: TimerTable,
    pub(crate) ack: AckDue,
    /// Bytes received since the last ACK was sent.
    pub(crate) unacked: u32,
    /// Timeouts in a row without progress.
    pub(crate) timeouts: u8,
    /// When the last of them was.
    pub(crate) timed_out_at: Instant,
    /// Window probes in a row without an answer.
    pub(crate) probes: u8,
    /// How far the persist interval is backed off: probes since the window was last seen open.
    pub(crate) probe_backoff: u8,
    /// Keepalive probes in a row without an answer.
    pub(crate) keepalives: u8,
    pub(crate) last_heard: Instant,
    pub(crate) last_sent: Instant,
    /// Since when something is unacknowledged without progress.
    pub(crate) stalled_since: Instant,
    /// When the last challenge ACK or ACK of an unacceptable segment went out.
    pub(crate) last_challenge: Option<Instant>,
    pub(crate) options: TcpSocketOptions,
    /// Why the connection ended, until the application asks.
    pub(crate) error: Option<SocketError>,
    /// What an ICMP error hinted at; the error to give when the connection times out.
    pub(crate) soft_error: Option<SocketError>,
    /// What changed and is not yet in `pending`.
    pub(crate) changed: Readiness,
    /// What was reported to the event queue.
    pub(crate) pending: Pending,
    /// Slot of the listener that made it.
    pub(crate) listener: Option<u32>,
    pub(crate) flags: Flags,
}

impl Tcb {
    /// Takes over what the peer's SYN said: its sequence number and options.
    pub(crate) fn take_syn(&mut self, now: Instant, seq: Seq, offer: &Offer, config: &TcpConfig) {
        self.rcv.irs = seq;
        self.rcv.nxt = seq + 1;
        self.rcv.adv = self.rcv.nxt + self.syn_window();
        self.last_ack_sent = self.rcv.nxt;
        // RFC 9293 3.7.1 MUST-15: without the option the MSS is 536. A smaller one than 48 would only serve attacks.
        self.snd.peer_mss = offer.mss.unwrap_or(DEFAULT_MSS).max(MIN_MSS);
        match offer.window_scale {
            // RFC 7323 2.3: "If a Window Scale option is received with a shift.cnt value larger than 14, TCP SHOULD log the
            // error but MUST use 14".
            Some(shift) if self.flags.scaling => self.snd.scale = shift.min(14),
            _ => {
                self.flags.scaling = false;
                self.snd.scale = 0;
                self.rcv.scale = 0;
            }
        }
        self.flags.sack &= offer.sack;
        self.timestamps = offer
            .timestamp
            .filter(|_| self.flags.timestamps)
            .map(|recent| TimestampState { recent, recent_at: now });
        // RFC 5681 3.1: "if the SYN or SYN/ACK is lost, the initial window used by a sender after a correctly transmitted SYN MUST
        // be one segment".
        let segments = if self.timeouts > 0 { 1 } else { config.initial_window };
        let initial = segments * u32::from(self.send_mss());
        self.cc = CongestionControl::new_reno(initial);
    }

    /// The payload bytes of a full segment without SACK blocks: what both ends and the path allow, less the timestamps.
    pub(crate) fn send_mss(&self) -> u16 {
        let options = if self.timestamps.is_some() { TIMESTAMPS_LEN } else { 0 };
        self.snd.peer_mss.min(self.snd.mss).saturating_sub(options).max(MIN_PAYLOAD)
    }

    /// The window field of a SYN, never scaled (RFC 7323 2.2).
    pub(crate) fn syn_window(&self) -> u32 {
        (self.rx.capacity() as u32).min(u32::from(u16::MAX))
    }

    /// The application is gone: no more is sent after what was written, and nobody reads what arrived.
    pub(crate) fn hang_up(&mut self) {
        self.flags.orphan = true;
        // An orphan has only so many probes, and those before do not count.
        self.probe_backoff = 0;
        if let Some((tx, rx)) = &mut self.half {
            tx.close();
            rx.discard_all();
        }
    }

    /// Bytes of sequence space that were sent and not acknowledged.
    pub(crate) fn flight(&self) -> u32 {
        self.snd.max.since(self.snd.una)
    }

    /// Whether the application will send nothing more: it closed its end of the FIFO, or is gone.
    pub(crate) fn sending_ended(&self) -> bool {
        self.tx.is_closed() || !self.tx.is_producer_alive()
    }

    /// Sequence number of our FIN, once the application has closed its sending side.
    pub(crate) fn fin_seq(&self) -> Option<Seq> {
        self.sending_ended().then(|| self.tx_base + self.tx.len() as u32)
    }

    /// The clock as the peer sees it in timestamps: milliseconds (RFC 7323 5.4 allows 1 ms to 1 s).
    pub(crate) fn timestamp_now(&self, now: Instant) -> u32 {
        timestamp(now, self.timestamp_offset)
    }

    /// The timestamps option of a segment sent now.
    pub(crate) fn timestamps_option(&self, now: Instant) -> Option<Timestamps> {
        self.timestamps.map(|ts| Timestamps { value: self.timestamp_now(now), echo: ts.recent })
    }

    /// Ends the connection: nothing more is sent or received. What was received stays readable.
    pub(crate) fn finish(&mut self, error: Option<SocketError>) {
        self.state = State::Closed;
        self.error = self.error.or(error);
        self.timers.stop_all();
        self.ack = AckDue::No;
        self.flags.output &= self.flags.reset;
        self.rx.close();
        let failed = if error.is_some() { Readiness::ERROR } else { Readiness::empty() };
        self.changed |=
            failed | Readiness::READABLE | Readiness::WRITABLE | Readiness::READ_CLOSED | Readiness::HANGUP;
    }

    /// Ends the connection and owes the peer a RST if it knows of the connection (RFC 9293 3.10.5).
    pub(crate) fn abort(&mut self, error: Option<SocketError>) {
        // TIME-WAIT and CLOSED have nothing to reset, and in SYN-SENT the peer has nothing yet.
        let peer_knows = self.state.is_synchronized() && self.state != State::TimeWait;
        self.flags.reset = peer_knows || self.state == State::SynReceived;
        self.flags.output |= self.flags.reset;
        self.finish(error);
    }

    /// Acts on the application having closed its sending side (RFC 9293 3.10.4).
    pub(crate) fn on_app_closed(&mut self) {
        self.state = match self.state {
            State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            // RFC 9293 3.10.4, SYN-SENT and SYN-RECEIVED: "queue for processing after entering ESTABLISHED state". That is done
            // without data to send too: the FIN would take the place of a SYN that is to be sent again.
            other => other,
        };
    }

    /// A packet of this connection could not be delivered: fatal for a connection that is being made, a hint for one that exists
    /// (RFC 5461 4.1, RFC 1122 4.2.3.9, RFC 5927 5.2).
    pub(crate) fn on_unreachable(&mut self, error: SocketError) {
        match self.state {
            State::SynSent => self.finish(Some(error)),
            State::Closed => self.flags.reset = false,
            _ => self.soft_error = Some(error),
        }
    }

    /// The path takes no packets larger than `mtu` (RFC 1191): what is in flight was lost, and is cut anew.
    pub(crate) fn on_packet_too_big(&mut self, mtu: usize) {
        let mss = mss_for(mtu.max(MIN_PATH_MTU), &self.key);
        if mss < self.snd.mss && self.state.is_synchronized() {
            self.snd.mss = mss;
            self.snd.nxt = self.snd.una;
            self.timing = None;
            self.flags.output = true;
        }
    }

    /// Arms or stops the keepalive timer after its options changed or the connection was made.
    pub(crate) fn start_keepalive(&mut self) {
        match self.options.keepalive {
            Some(k) if self.state.is_synchronized() => {
                self.timers.arm(TimerKind::KeepAlive, self.last_heard + k.idle);
            }
            _ => self.timers.stop(TimerKind::KeepAlive),
        }
    }

    /// The time to the next window probe.
    pub(crate) fn persist_interval(&self, config: &TcpConfig) -> Duration {
        let base = self.rtt.rto(config.max_rto);
        base.saturating_mul(1 << self.probe_backoff.min(10)).min(config.max_rto)
    }
}

/// RFC 9293 3.7.1: what a peer takes that announces nothing (IPv4).
pub(crate) const DEFAULT_MSS: u16 = 536;
/// Announcing less is an attack on our CPU.
const MIN_MSS: u16 = 48;
/// RFC 1191 3 allows 68; no real link is that narrow, and lies are cheap.
const MIN_PATH_MTU: usize = crate::stack::output::ANY_LINK;
/// Whatever the options take, a segment carries this much.
pub(crate) const MIN_PAYLOAD: u16 = 8;
/// NOP NOP timestamps.
pub(crate) const TIMESTAMPS_LEN: u16 = 12;

/// The MSS that fits an IP MTU: the MTU less fixed IP and TCP headers (RFC 6691).
pub(crate) fn mss_for(mtu: usize, key: &FlowKey) -> u16 {
    let headers = match key.remote {
        IpAddr::V4(_) => 40,
        IpAddr::V6(_) => 60,
    };
    u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX - 60).max(MIN_MSS)
}

/// The least shift that lets the window field express the whole receive buffer.
pub(crate) fn window_shift(config: &TcpConfig, recv_buffer: usize) -> u8 {
    if !config.window_scaling {
        return 0;
    }
    (0..14).find(|shift| (usize::from(u16::MAX) << shift) >= recv_buffer).unwrap_or(14)
}

/// The value of a timestamp sent at `now`.
pub(crate) fn timestamp(now: Instant, offset: u32) -> u32 {
    (now.as_millis() as u32).wrapping_add(offset)
}
