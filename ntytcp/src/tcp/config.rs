//! What can be set about TCP, for a whole stack and for one socket.

use crate::stack::ConfigError;
use crate::stack::output::DEFAULT_TTL;
use crate::time::Duration;
use core::ops::RangeInclusive;

/// Keepalive timing (RFC 9293 3.8.4). A probe is sent when nothing was heard for `idle`, then every `interval`; after `count`
/// unanswered probes the connection ends with [`TimedOut`](crate::stack::SocketError::TimedOut).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeepAlive {
    /// Silence before the first probe. Default two hours, the least that RFC 9293 allows as a default; at least 1 ms.
    pub idle: Duration,
    /// Time between probes. Default 75 s; at least 1 ms.
    pub interval: Duration,
    /// Unanswered probes before giving up. Default 9; at least 1.
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
    /// Bytes received and not yet read, the largest receive window. Default 256 KiB; 1 byte to 1 GiB.
    pub recv_buffer: usize,
    /// Bytes sent and not yet acknowledged. Default 256 KiB; 1 byte to 1 GiB.
    pub send_buffer: usize,
    /// Gives up when data stays unacknowledged this long (RFC 5482). Default none: [`TcpConfig::retries`] decides; at least
    /// 1 ms.
    pub user_timeout: Option<Duration>,
    /// TTL of every segment (RFC 9293 3.9.2), also of the SYN-ACK of a listener with these options; what belongs to no connection, such as
    /// a RST, goes out with the stack's. Default 64; at least 1.
    pub ttl: u8,
}

impl Default for TcpSocketOptions {
    fn default() -> Self {
        Self {
            nodelay: false,
            keepalive: None,
            recv_buffer: 256 << 10,
            send_buffer: 256 << 10,
            user_timeout: None,
            ttl: DEFAULT_TTL,
        }
    }
}

/// Settings of all TCP of one stack. The default is safe for the open Internet.
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// Maximum segment lifetime; TIME-WAIT lasts twice as long. Default 30 s; at most an hour.
    pub msl: Duration,
    /// RTO before the first RTT sample (RFC 6298 2.1). Default 1 s; 1 ms to `max_rto`.
    pub initial_rto: Duration,
    /// Lower bound of the RTO. RFC 6298 2.4 says 1 s; 200 ms is what the hosts of the Internet use. Default 200 ms; 1 ms to
    /// `max_rto`.
    pub min_rto: Duration,
    /// Upper bound of the RTO and of the persist interval. Default 60 s; 1 ms to a day.
    pub max_rto: Duration,
    /// Retransmissions of a SYN before `connect` fails. Default 6 (about two minutes).
    pub syn_retries: u8,
    /// Retransmissions of a SYN-ACK before the half-open connection is forgotten. Default 5.
    pub syn_ack_retries: u8,
    /// Timeouts in a row, or unanswered window probes, before an established connection ends (RFC 9293 3.8.3, R2). Default 15.
    pub retries: u8,
    /// Window probes in a row that a closed socket's peer may answer with a window of zero before the connection is reset: data that
    /// nobody waits for any more must not be held for ever. RFC 9293 3.8.6.1 lets the window stay closed as long as probes are
    /// answered, and that is what a socket in use does. Default 12 (five minutes
    /// on a fast path, and more on a slow one); at least 1.
    pub orphan_probes: u8,
    /// How long an ACK may wait for data to ride on. One that follows another soon may wait twice as long, and RFC 9293 3.8.6.3 wants
    /// less than 500 ms. Default 40 ms; at most 249 ms.
    pub delayed_ack: Duration,
    /// Segments of the initial window (RFC 6928). Default 10; 1 to 1,000.
    pub initial_window: u32,
    /// Offer and accept timestamps (RFC 7323). Default true.
    pub timestamps: bool,
    /// Offer and accept window scaling (RFC 7323). Default true.
    pub window_scaling: bool,
    /// Offer and accept selective acknowledgments (RFC 2018). Default true.
    pub sack: bool,
    /// How long a closed socket waits in FIN-WAIT-2 for the peer's FIN. Default 60 s.
    pub fin_wait_2: Duration,
    /// TCBs at the same time; further SYNs are dropped and `connect` fails. Default 2 million; 1 to 2^29.
    pub max_connections: usize,
    /// Connections in TIME-WAIT at the same time; beyond it the oldest ends early. Default 262,144; 1 to 2^29.
    pub max_time_wait: usize,
    /// Gaps that one connection's receive queue may have; data that would open another is dropped. Default 64; 1 to
    /// 65,536.
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
            orphan_probes: 12,
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

/// A connection's window and its buffers end here: RFC 7323 2.3 "the maximum scale exponent is limited to 14 for a maximum permissible
/// receive window size of 1 GiB".
const MAX_BUFFER: usize = 1 << 30;
/// Slots are numbered in 30 bits.
const MAX_SLOTS: usize = 1 << 29;
/// The least time that a timer may be set to. One of zero would expire for ever at the same instant.
const MIN_TIME: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);

impl KeepAlive {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        times("tcp keepalive idle in ms", self.idle, MIN_TIME..=Duration::MAX, "at least 1")?;
        times("tcp keepalive interval in ms", self.interval, MIN_TIME..=Duration::MAX, "at least 1")?;
        numbers("tcp keepalive count", self.count.into(), 1..=usize::MAX, "at least 1")
    }
}

impl TcpSocketOptions {
    /// Whether every field is in its range. Whatever takes options asks.
    ///
    /// # Errors
    /// [`ConfigError::Range`].
    pub fn check(&self) -> Result<(), ConfigError> {
        const BUFFER: &str = "1 to 1073741824";
        numbers("tcp recv_buffer", self.recv_buffer, 1..=MAX_BUFFER, BUFFER)?;
        numbers("tcp send_buffer", self.send_buffer, 1..=MAX_BUFFER, BUFFER)?;
        numbers("tcp ttl", self.ttl.into(), 1..=255, "1 to 255")?;
        self.keepalive.as_ref().map_or(Ok(()), KeepAlive::check)?;
        check_user_timeout(self.user_timeout)
    }
}

/// Whether a connection can be told to give up after this time.
pub(crate) fn check_user_timeout(limit: Option<Duration>) -> Result<(), ConfigError> {
    let limit = limit.unwrap_or(Duration::MAX);
    times("tcp user_timeout in ms", limit, MIN_TIME..=Duration::MAX, "at least 1")
}

impl TcpConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        times("tcp msl in ms", self.msl, Duration::ZERO..=Duration::from_secs(3_600), "0 to 3600000")?;
        times("tcp max_rto in ms", self.max_rto, MIN_TIME..=DAY, "1 to 86400000")?;
        times("tcp min_rto in ms", self.min_rto, MIN_TIME..=self.max_rto, "1 to max_rto")?;
        times("tcp initial_rto in ms", self.initial_rto, MIN_TIME..=self.max_rto, "1 to max_rto")?;
        numbers("tcp orphan_probes", self.orphan_probes.into(), 1..=255, "1 to 255")?;
        // RFC 9293 3.8.6.3: "the delay MUST be less than 0.5 seconds".
        let delays = Duration::ZERO..=Duration::from_millis(249);
        times("tcp delayed_ack in ms", self.delayed_ack, delays, "0 to 249")?;
        numbers("tcp initial_window", self.initial_window as usize, 1..=1_000, "1 to 1000")?;
        numbers("tcp max_connections", self.max_connections, 1..=MAX_SLOTS, "1 to 536870912")?;
        numbers("tcp max_time_wait", self.max_time_wait, 1..=MAX_SLOTS, "1 to 536870912")?;
        numbers("tcp max_gaps", self.max_gaps, 1..=65_536, "1 to 65536")?;
        self.socket.check()
    }
}

fn numbers(
    name: &'static str,
    value: usize,
    range: RangeInclusive<usize>,
    allowed: &'static str,
) -> Result<(), ConfigError> {
    if range.contains(&value) { Ok(()) } else { Err(ConfigError::Range { name, value, allowed }) }
}

fn times(
    name: &'static str,
    value: Duration,
    range: RangeInclusive<Duration>,
    allowed: &'static str,
) -> Result<(), ConfigError> {
    let ms = usize::try_from(value.as_millis()).unwrap_or(usize::MAX);
    if range.contains(&value) { Ok(()) } else { Err(ConfigError::Range { name, value: ms, allowed }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The field that is refused, after `change` to the default.
    fn refused(change: impl FnOnce(&mut TcpConfig)) -> Option<&'static str> {
        let mut config = TcpConfig::default();
        change(&mut config);
        match config.check() {
            Ok(()) => None,
            Err(ConfigError::Range { name, .. }) => name.strip_prefix("tcp "),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn the_default_is_in_range_and_so_are_the_limits() {
        assert_eq!(refused(|_| {}), None);
        assert_eq!(refused(|c| (c.msl, c.delayed_ack) = (Duration::ZERO, Duration::ZERO)), None);
        assert_eq!(refused(|c| c.delayed_ack = Duration::from_millis(249)), None);
        assert_eq!(refused(|c| (c.socket.recv_buffer, c.socket.send_buffer) = (1, MAX_BUFFER)), None);
        assert_eq!(refused(|c| c.socket.keepalive = Some(KeepAlive::default())), None);
    }

    #[test]
    fn a_lifetime_of_more_than_an_hour_is_refused() {
        assert_eq!(refused(|c| c.msl = Duration::from_secs(3_601)), Some("msl in ms"));
    }

    #[test]
    fn timeouts_of_zero_and_beyond_their_maximum_are_refused() {
        assert_eq!(refused(|c| c.max_rto = Duration::ZERO), Some("max_rto in ms"));
        assert_eq!(refused(|c| c.max_rto = DAY + MIN_TIME), Some("max_rto in ms"));
        assert_eq!(refused(|c| c.min_rto = Duration::ZERO), Some("min_rto in ms"));
        assert_eq!(refused(|c| c.min_rto = c.max_rto + MIN_TIME), Some("min_rto in ms"));
        assert_eq!(refused(|c| c.initial_rto = Duration::ZERO), Some("initial_rto in ms"));
        assert_eq!(refused(|c| c.initial_rto = c.max_rto + MIN_TIME), Some("initial_rto in ms"));
    }

    #[test]
    fn an_ack_delayed_by_half_a_second_is_refused() {
        assert_eq!(refused(|c| c.delayed_ack = Duration::from_millis(250)), Some("delayed_ack in ms"));
    }

    #[test]
    fn a_closed_socket_without_a_probe_is_refused() {
        assert_eq!(refused(|c| c.orphan_probes = 0), Some("orphan_probes"));
    }

    #[test]
    fn an_initial_window_of_nothing_or_of_everything_is_refused() {
        assert_eq!(refused(|c| c.initial_window = 0), Some("initial_window"));
        assert_eq!(refused(|c| c.initial_window = u32::MAX), Some("initial_window"));
    }

    #[test]
    fn tables_without_room_and_beyond_what_can_be_numbered_are_refused() {
        assert_eq!(refused(|c| c.max_connections = 0), Some("max_connections"));
        assert_eq!(refused(|c| c.max_connections = MAX_SLOTS + 1), Some("max_connections"));
        assert_eq!(refused(|c| c.max_time_wait = 0), Some("max_time_wait"));
        assert_eq!(refused(|c| c.max_time_wait = MAX_SLOTS + 1), Some("max_time_wait"));
        assert_eq!(refused(|c| c.max_gaps = 0), Some("max_gaps"));
        assert_eq!(refused(|c| c.max_gaps = 65_537), Some("max_gaps"));
    }

    #[test]
    fn buffers_of_nothing_and_beyond_the_largest_window_are_refused() {
        assert_eq!(refused(|c| c.socket.recv_buffer = 0), Some("recv_buffer"));
        assert_eq!(refused(|c| c.socket.recv_buffer = MAX_BUFFER + 1), Some("recv_buffer"));
        assert_eq!(refused(|c| c.socket.send_buffer = 0), Some("send_buffer"));
        assert_eq!(refused(|c| c.socket.send_buffer = MAX_BUFFER + 1), Some("send_buffer"));
    }

    #[test]
    fn probes_without_a_pause_and_no_probes_are_refused() {
        let with = |k| refused(|c: &mut TcpConfig| c.socket.keepalive = Some(k));
        let good = KeepAlive::default();
        assert_eq!(with(KeepAlive { idle: Duration::ZERO, ..good }), Some("keepalive idle in ms"));
        assert_eq!(with(KeepAlive { interval: Duration::ZERO, ..good }), Some("keepalive interval in ms"));
        assert_eq!(with(KeepAlive { count: 0, ..good }), Some("keepalive count"));
    }

    #[test]
    fn packets_that_no_router_forwards_are_refused() {
        assert_eq!(refused(|c| c.socket.ttl = 0), Some("ttl"));
    }

    #[test]
    fn giving_up_at_once_is_refused() {
        assert_eq!(refused(|c| c.socket.user_timeout = Some(Duration::ZERO)), Some("user_timeout in ms"));
    }
}
