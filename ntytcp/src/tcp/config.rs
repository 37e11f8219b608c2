//! What can be set about TCP, for a whole stack and for one socket.

use crate::time::Duration;

/// Keepalive timing (RFC 9293 3.8.4). A probe is sent when nothing was heard for `idle`, then every `interval`; after `count`
/// unanswered probes the connection ends with [`TimedOut`](crate::stack::SocketError::TimedOut).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeepAlive {
    /// Silence before the first probe. Default two hours, the least that RFC 9293 allows as a default.
    pub idle: Duration,
    /// Time between probes. Default 75 s.
    pub interval: Duration,
    /// Unanswered probes before giving up. Default 9.
    pub count: u8,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { idle: Duration::from_secs(7200), interval: Duration::from_secs(75), count: 9 }
    }
}

/// Settings of one connection, inherited from its listener or from [`TcpConfig`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpSocketOptions {
    /// Sends small segments at once instead of waiting for an ACK (Nagle's algorithm, RFC 9293 3.7.4, off). Default false.
    pub nodelay: bool,
    /// Probes an idle peer. Default off, as RFC 9293 demands.
    pub keepalive: Option<KeepAlive>,
    /// Bytes received and not yet read, the largest receive window. Default 256 KiB, at most 1 GiB.
    pub recv_buffer: usize,
    /// Bytes sent and not yet acknowledged. Default 256 KiB.
    pub send_buffer: usize,
    /// Gives up when data stays unacknowledged this long (RFC 5482). Default none: [`TcpConfig::retries`] decides.
    pub user_timeout: Option<Duration>,
}

impl Default for TcpSocketOptions {
    fn default() -> Self {
        Self {
            nodelay: false,
            keepalive: None,
            recv_buffer: 256 << 10,
            send_buffer: 256 << 10,
            user_timeout: None,
        }
    }
}

/// Settings of all TCP of one stack. The default is safe for the open Internet.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// Maximum segment lifetime; TIME-WAIT lasts twice as long. Default 30 s.
    pub msl: Duration,
    /// RTO before the first RTT sample (RFC 6298 2.1). Default 1 s.
    pub initial_rto: Duration,
    /// Lower bound of the RTO. RFC 6298 2.4 says 1 s; 200 ms is what the hosts of the Internet use. Default 200 ms.
    pub min_rto: Duration,
    /// Upper bound of the RTO and of the persist interval. Default 60 s.
    pub max_rto: Duration,
    /// Retransmissions of a SYN before `connect` fails. Default 6 (about two minutes).
    pub syn_retries: u8,
    /// Retransmissions of a SYN-ACK before the half-open connection is forgotten. Default 5.
    pub syn_ack_retries: u8,
    /// Timeouts in a row, or unanswered window probes, before an established connection ends (RFC 9293 3.8.3, R2). Default 15.
    pub retries: u8,
    /// How long an ACK may wait for data to ride on (RFC 9293 3.8.6.3: below 500 ms). Default 40 ms.
    pub delayed_ack: Duration,
    /// Segments of the initial window (RFC 6928). Default 10.
    pub initial_window: u32,
    /// Offer and accept timestamps (RFC 7323). Default true.
    pub timestamps: bool,
    /// Offer and accept window scaling (RFC 7323). Default true.
    pub window_scaling: bool,
    /// Offer and accept selective acknowledgments (RFC 2018). Default true.
    pub sack: bool,
    /// How long a closed socket waits in FIN-WAIT-2 for the peer's FIN. Default 60 s.
    pub fin_wait_2: Duration,
    /// TCBs at the same time; further SYNs are dropped and `connect` fails. Default 2 million.
    pub max_connections: usize,
    /// Connections in TIME-WAIT at the same time; beyond it the oldest ends early. Default 262,144.
    pub max_time_wait: usize,
    /// Gaps that one connection's receive queue may have; data that would open another is dropped. Default 64.
    pub max_gaps: usize,
    /// What a socket starts with.
    pub socket: TcpSocketOptions,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            msl: Duration::from_secs(30),
            initial_rto: Duration::from_secs(1),
            min_rto: Duration::from_millis(200),
            max_rto: Duration::from_secs(60),
            syn_retries: 6,
            syn_ack_retries: 5,
            retries: 15,
            delayed_ack: Duration::from_millis(40),
            initial_window: 10,
            timestamps: true,
            window_scaling: true,
            sack: true,
            fin_wait_2: Duration::from_secs(60),
            max_connections: 2 << 20,
            max_time_wait: 1 << 18,
            max_gaps: 64,
            socket: TcpSocketOptions::default(),
        }
    }
}
