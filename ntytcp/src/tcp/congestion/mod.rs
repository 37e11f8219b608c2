//! Congestion control: how many bytes may be in flight.
//!
//! A controller is one file that implements [`Controller`] and one line in [`CongestionControl`]. Which bytes are sent again is
//! not its business but that of [`recovery`](super::recovery).

mod newreno;

pub(crate) use newreno::NewReno;

/// What a congestion controller is told and asked. All windows are in bytes.
pub(crate) trait Controller {
    /// `acked` new bytes were acknowledged outside of recovery. `limited` says that the window, not the application or the
    /// peer, was what held the sender back: a window that is not used must not grow (RFC 7661).
    fn on_ack(&mut self, acked: u32, mss: u32, limited: Limited);

    /// A loss was detected by duplicate ACKs, with `flight` bytes outstanding.
    fn on_loss(&mut self, flight: u32, mss: u32);

    /// The recovery that began with `on_loss` is over, with `flight` bytes outstanding.
    fn on_recovered(&mut self, flight: u32, mss: u32);

    /// The retransmission timer fired. `first` tells the first timeout of a series from the repeats.
    fn on_timeout(&mut self, flight: u32, mss: u32, repeat: Timeout);

    /// Nothing was sent for longer than an RTO (RFC 5681 4.1).
    fn on_idle(&mut self, initial_window: u32);

    /// The congestion window.
    fn cwnd(&self) -> u32;

    /// The slow-start threshold.
    fn ssthresh(&self) -> u32;
}

/// What kept the sender from sending more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Limited {
    /// The congestion window.
    ByCwnd,
    /// The application or the peer's window.
    ByOthers,
}

/// Whether a retransmission timeout follows another one of the same data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timeout {
    /// The first for this data.
    First,
    /// The data had timed out before.
    Repeated,
}

/// The controllers that a connection can have, dispatched without allocation.
#[derive(Clone, Debug)]
pub(crate) enum CongestionControl {
    NewReno(NewReno),
}

impl CongestionControl {
    pub(crate) fn new_reno(initial_window: u32) -> Self {
        Self::NewReno(NewReno::new(initial_window))
    }
}

impl core::ops::Deref for CongestionControl {
    type Target = dyn Controller;
    fn deref(&self) -> &Self::Target {
        match self {
            Self::NewReno(c) => c,
        }
    }
}

impl core::ops::DerefMut for CongestionControl {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::NewReno(c) => c,
        }
    }
}
