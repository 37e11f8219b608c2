//! What a perf client asks of the server: the first bytes of every stream, or a part of every control datagram.
//!
//! ```text
//!  0           4      5      6     8        12          16                     24       32
//!  | "nty\x02" | flow | unit | 0 0 | stream | write len | amount (bytes or ns) | 0 .. 0 |
//! ```
//!
//! Over TCP the client's data follows at once, and either side ends its direction with a FIN. Over UDP the request is part of
//! every control datagram of the client, beside numbered datagrams of payload ([`DatagramHeader`]), which carry another magic:
//!
//! ```text
//!   client                               server
//!   hello, request               ->
//!                                <-      cookie: a keyed hash of the client's address; nothing is kept
//!   go, cookie, request          ->      the session begins
//!                                <-      going: counts so far
//!   payload                     <->      payload
//!   go (every 200 ms)            ->      may go on; after 1 s without: the end
//!                                <-      going, or done: nothing is left to send
//!   bye, how many were sent      ->
//!                                <-      final: counts
//! ```
//!
//! What gets no answer is said again. The server is no amplifier: to an address that has not proved with the cookie that it
//! receives, it sends no more than came from there, and to one that has no longer than it keeps asking.
//!
//! [`DatagramHeader`]: super::report::DatagramHeader

use super::Options;
use std::time::Duration;

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Flow {
    /// The client.
    Up = 1,
    /// The server.
    Down = 2,
    /// Both.
    Both = 3,
}

impl Flow {
    /// Whether the client sends.
    pub const fn client_sends(self) -> bool {
        matches!(self, Self::Up | Self::Both)
    }

    /// Whether the server sends.
    pub const fn server_sends(self) -> bool {
        matches!(self, Self::Down | Self::Both)
    }
}

/// When a sender has done enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Amount {
    /// After so many bytes of payload.
    Bytes(u64),
    /// After so long.
    Time(Duration),
}

/// A transfer, as the client wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Who sends.
    pub flow: Flow,
    /// Which of the client's streams this is, from 0.
    pub stream: u32,
    /// Bytes per write or datagram, 1 to [`Options::MAX_LEN`].
    pub write_len: u32,
    /// How much each sender sends.
    pub amount: Amount,
}

impl Request {
    /// Bytes on the wire, big-endian.
    pub const LEN: usize = 32;
    const MAGIC: [u8; 4] = *b"nty\x02";
    const UNIT_BYTES: u8 = 0;
    const UNIT_NANOS: u8 = 1;
    /// The longest time that a server sends for, whatever a client asks: a day.
    const MAX_TIME: Duration = Duration::from_secs(86_400);

    /// The request of stream number `stream` of a client with these options.
    pub fn new(options: &Options, stream: u32) -> Self {
        let flow = match (options.reverse, options.bidir) {
            (_, true) => Flow::Both,
            (true, false) => Flow::Down,
            (false, false) => Flow::Up,
        };
        let amount = match (options.bytes, options.time()) {
            (Some(bytes), _) => Amount::Bytes(bytes.bytes()),
            (None, time) => Amount::Time(time.unwrap_or_default()),
        };
        Self { flow, stream, write_len: u32::try_from(options.write_len()).unwrap_or(u32::MAX), amount }
    }

    /// The request as bytes.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let (unit, amount) = match self.amount {
            Amount::Bytes(bytes) => (Self::UNIT_BYTES, bytes),
            Amount::Time(time) => (Self::UNIT_NANOS, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
        };
        let mut bytes = [0; Self::LEN];
        let fields = Self::MAGIC
            .into_iter()
            .chain([self.flow as u8, unit, 0, 0])
            .chain(self.stream.to_be_bytes())
            .chain(self.write_len.to_be_bytes())
            .chain(amount.to_be_bytes());
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        bytes
    }

    /// The request in the first [`Request::LEN`] bytes; `None` when they are none, or ask for what no client of ours would.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.get(..Self::LEN)?.split_first_chunk::<4>()?;
        let ([flow, unit, 0, 0], rest) = rest.split_first_chunk::<4>()? else { return None };
        let (stream, rest) = rest.split_first_chunk::<4>()?;
        let (write_len, rest) = rest.split_first_chunk::<4>()?;
        let (amount, reserved) = rest.split_first_chunk::<8>()?;
        if *magic != Self::MAGIC || reserved.iter().any(|&b| b != 0) {
            return None;
        }
        let flow = match flow {
            1 => Flow::Up,
            2 => Flow::Down,
            3 => Flow::Both,
            _ => return None,
        };
        let amount = u64::from_be_bytes(*amount);
        let amount = match *unit {
            Self::UNIT_BYTES => Amount::Bytes(amount),
            Self::UNIT_NANOS => Amount::Time(Duration::from_nanos(amount).min(Self::MAX_TIME)),
            _ => return None,
        };
        let write_len = u32::from_be_bytes(*write_len);
        let in_bounds = (1..=Options::MAX_LEN).contains(&u64::from(write_len));
        in_bounds.then(|| Self { flow, stream: u32::from_be_bytes(*stream), write_len, amount })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::Size;

    fn client() -> Options {
        Options { client: Some([10, 0, 0, 1].into()), ..Options::default() }
    }

    #[test]
    fn requests_of_all_options_round_trip() {
        let bytes = Some(Size::from_bytes(1 << 40));
        for (options, flow, amount) in [
            (client(), Flow::Up, Amount::Time(Duration::from_secs(10))),
            (Options { reverse: true, ..client() }, Flow::Down, Amount::Time(Duration::from_secs(10))),
            (Options { bidir: true, udp: true, bytes, ..client() }, Flow::Both, Amount::Bytes(1 << 40)),
        ] {
            let request = Request::new(&options, 3);
            assert_eq!((request.flow, request.amount, request.stream), (flow, amount, 3));
            assert_eq!(Request::parse(&request.to_bytes()), Some(request));
        }
    }

    #[test]
    fn anything_else_is_no_request() {
        let good = Request::new(&client(), 0).to_bytes();
        for len in 0..good.len() {
            assert_eq!(Request::parse(&good[..len]), None);
        }
        for (at, value) in
            [(0, 0), (3, 1), (4, 0), (4, 4), (5, 2), (6, 1), (12, 0xff), (13, 0), (24, 1), (31, 1)]
        {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(Request::parse(&bad), None, "byte {at} is {value}");
        }
        let for_ever = Request { amount: Amount::Time(Duration::MAX), ..Request::new(&client(), 0) };
        assert_eq!(Request::parse(&for_ever.to_bytes()).unwrap().amount, Amount::Time(Request::MAX_TIME));
    }
}
