//! How a TCB begins, and what it leaves behind.
//!
//! A TCB is large, so it is neither built elsewhere and moved into its slot nor moved out. It begins where it stays, and when it is
//! over it stays there, with its FIFOs, for the next connection that gets the slot.

use super::assembly::Assembly;
use super::config::{TcpConfig, TcpSocketOptions};
use super::congestion::CongestionControl;
use super::isn::Origin;
use super::recovery::Recovery;
use super::rtt::RttEstimator;
use super::tcb::{
    AckDue, DEFAULT_MSS, Flags, ReceiveSequence, SendSequence, State, Tcb, mss_for, window_shift,
};
use super::timers::TimerTable;
use crate::fifo::{Home, PagePool, fifo};
use crate::stack::cx::Pending;
use crate::stack::demux::FlowKey;
use crate::stack::output::PathCache;
use crate::stack::{InterfaceId, Readiness};
use crate::time::{Duration, Instant};
use crate::wire::Seq;
use core::net::{IpAddr, Ipv4Addr};

/// How many vacant slots keep what was left there: 300 bytes of FIFOs each, beside the slot itself.
pub(crate) const SPARES: usize = 1_024;

/// How a TCB begins.
pub(crate) struct Opening {
    pub(crate) key: FlowKey,
    /// The tag of `key` in the flow table.
    pub(crate) tag: u32,
    pub(crate) interface: InterfaceId,
    pub(crate) mtu: usize,
    pub(crate) origin: Origin,
    pub(crate) options: TcpSocketOptions,
}

impl Tcb {
    /// Begins a TCB in SYN-SENT that owes its SYN, in a slot where another may have been ([`Tcb::leave`]).
    #[inline]
    pub(crate) fn open<'a>(
        slot: &'a mut Option<Self>,
        pool: &PagePool,
        now: Instant,
        opening: &Opening,
        config: &TcpConfig,
    ) -> &'a mut Self {
        let tcb = slot.get_or_insert_with(|| Self::blank(pool));
        tcb.begin(now, opening, config);
        tcb
    }

    /// A TCB that has not begun. Allocates its FIFOs.
    #[cold]
    #[inline(never)]
    fn blank(pool: &PagePool) -> Self {
        // Both are at home until the application's ends go to another thread (`Tcp::split`).
        let (app_tx, tx) = fifo(pool, 0, Home::Producer);
        let (rx, app_rx) = fifo(pool, 0, Home::Producer);
        let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self {
            key: FlowKey { local: nobody, remote: nobody, local_port: 0, remote_port: 0 },
            tag: 0,
            state: State::Closed,
            path: PathCache::default(),
            interface: InterfaceId::default(),
            snd: SendSequence::new(Seq(0), 0),
            rcv: ReceiveSequence::new(0),
            tx,
            rx,
            half: Some((app_tx, app_rx)),
            tx_base: Seq(0),
            timestamps: None,
            timestamp_offset: 0,
            last_ack_sent: Seq(0),
            assembly: Assembly::default(),
            recovery: Recovery::new(Seq(0)),
            cc: CongestionControl::new_reno(0),
            rtt: RttEstimator::new(Duration::ZERO),
            timing: None,
            timers: TimerTable::new(),
            ack: AckDue::No,
            unacked: 0,
            timeouts: 0,
            timed_out_at: Instant::ZERO,
            probes: 0,
            probe_backoff: 0,
            keepalives: 0,
            last_heard: Instant::ZERO,
            last_sent: Instant::ZERO,
            stalled_since: Instant::ZERO,
            last_challenge: None,
            options: TcpSocketOptions::default(),
            error: None,
            soft_error: None,
            changed: Readiness::empty(),
            pending: Pending::default(),
            listener: None,
            flags: Flags::default(),
        }
    }

    /// Sets everything but the FIFOs to how a connection begins. What is not named in the pattern would stay as the last one
    /// left it.
    #[rustfmt::skip]
    fn begin(&mut self, now: Instant, opening: &Opening, config: &TcpConfig) {
        let Origin { iss, timestamp_offset: offset } = opening.origin;
        let window = mss_for(opening.mtu, &opening.key);
        let Self {
            key, tag, state, path, interface, snd, rcv, tx: _, rx, half, tx_base, timestamps, timestamp_offset, last_ack_sent,
            assembly, recovery, cc, rtt, timing, timers, ack, unacked, timeouts, timed_out_at, probes, probe_backoff,
            keepalives, last_heard, last_sent, stalled_since, last_challenge, options, error, soft_error, changed, pending,
            listener, flags,
        } = self;
        (*key, *tag, *interface, *options) = (opening.key, opening.tag, opening.interface, opening.options);
        (*state, *path, *listener) = (State::SynSent, PathCache::default(), None);
        *snd = SendSequence::new(iss, window);
        *rcv = ReceiveSequence::new(window_shift(config, options.recv_buffer));
        rx.set_capacity(options.recv_buffer);
        if let Some((app_tx, _)) = half {
            app_tx.set_capacity(options.send_buffer);
        }
        (*tx_base, *last_ack_sent) = (iss + 1, Seq(0));
        (*timestamps, *timestamp_offset) = (None, offset);
        *assembly = Assembly::default();
        *recovery = Recovery::new(iss);
        *cc = CongestionControl::new_reno(config.initial_window * u32::from(window));
        (*rtt, *timing, *timers) = (RttEstimator::new(config.initial_rto), None, TimerTable::new());
        (*ack, *unacked) = (AckDue::No, 0);
        (*timeouts, *timed_out_at, *probes, *probe_backoff, *keepalives) = (0, now, 0, 0, 0);
        (*last_heard, *last_sent, *stalled_since, *last_challenge) = (now, now, now, None);
        (*error, *soft_error, *changed, *pending) = (None, None, Readiness::empty(), Pending::default());
        *flags = Flags {
            output: true,
            sack: config.sack,
            scaling: config.window_scaling,
            timestamps: config.timestamps,
            ..Flags::default()
        };
    }

    /// The connection is over. Whether its FIFOs, which are empty then, may serve another: not if the application took its ends.
    #[inline]
    pub(crate) fn leave(&mut self) -> bool {
        let Some((app_tx, app_rx)) = &mut self.half else { return false };
        app_tx.restart(&mut self.tx) && self.rx.restart(app_rx)
    }
}

impl SendSequence {
    fn new(iss: Seq, mss: u16) -> Self {
        let peer_mss = DEFAULT_MSS;
        let (una, nxt, max, wl1, wl2) = (iss, iss, iss, iss, iss);
        Self { iss, una, nxt, max, wnd: 0, wl1, wl2, max_wnd: 0, scale: 0, peer_mss, mss }
    }
}

impl ReceiveSequence {
    fn new(scale: u8) -> Self {
        Self { irs: Seq(0), nxt: Seq(0), adv: Seq(0), scale, fin: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::timers::TimerKind;

    fn opening(port: u16) -> Opening {
        let us = IpAddr::from([10, 0, 0, 1]);
        let key = FlowKey { local: us, remote: us, local_port: port, remote_port: 2 };
        let origin = Origin { iss: Seq(7), timestamp_offset: 0 };
        let options = TcpSocketOptions::default();
        Opening { key, tag: 0, interface: InterfaceId::default(), mtu: 1_500, origin, options }
    }

    #[test]
    fn who_comes_into_the_slot_of_another_begins_as_in_one_of_its_own() {
        let (pool, config, now) = (PagePool::new(4), TcpConfig::default(), Instant::from_millis(5));
        let (mut used, mut new) = (None, None);
        let tcb = Tcb::open(&mut used, &pool, Instant::ZERO, &opening(1), &config);
        tcb.take_syn(
            now,
            Seq(9),
            &crate::tcp::handshake::Offer {
                mss: Some(500),
                window_scale: None,
                sack: false,
                timestamp: Some(1),
            },
            &config,
        );
        tcb.assembly.insert(Seq(100), Seq(200));
        tcb.timers.arm(TimerKind::Persist, now);
        tcb.half.as_mut().unwrap().0.write(&[1; 30]);
        tcb.rx.write(&[2; 30]);
        tcb.hang_up();
        tcb.abort(Some(crate::stack::SocketError::TimedOut));
        assert_eq!(pool.pages_in_use(), 2);
        assert!(tcb.leave());
        assert_eq!(pool.pages_in_use(), 0);
        let again = format!("{:?}", Tcb::open(&mut used, &pool, now, &opening(3), &config));
        // The FIFOs count on; all else is as new.
        let rest = |debug: &str| -> String {
            debug.split("tx:").next().unwrap_or_default().to_owned()
                + debug.split("tx_base").nth(1).unwrap_or_default()
        };
        assert_eq!(
            rest(&again),
            rest(&format!("{:?}", Tcb::open(&mut new, &pool, now, &opening(3), &config)))
        );
        let (app, _) = used.as_mut().unwrap().half.as_mut().unwrap();
        assert_eq!(app.write(&[1; 30]), 30);
    }

    #[test]
    fn a_connection_whose_fifos_were_taken_leaves_nothing() {
        let mut slot = None;
        let tcb = Tcb::open(&mut slot, &PagePool::new(4), Instant::ZERO, &opening(1), &TcpConfig::default());
        let taken = tcb.half.take();
        assert!(taken.is_some() && !tcb.leave());
    }
}
