//! Initial sequence numbers (RFC 6528): `ISN = M + F(localip, localport, remoteip, remoteport, secretkey)`.
//!
//! M advances by one every 4 microseconds and F is SipHash-2-4, so that two incarnations of one connection do not overlap and
//! nobody off the path can guess a sequence number from those of other connections.

use crate::stack::demux::FlowKey;
use crate::stack::keyed::Sip;
use crate::time::Instant;
use crate::wire::Seq;

/// Makes the initial sequence numbers and timestamp offsets of one stack.
#[derive(Clone, Debug)]
pub(crate) struct IsnGenerator(Sip);

/// Where the numbers of one connection begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    /// The ISN.
    pub(crate) iss: Seq,
    /// What the timestamps are shifted by (RFC 7323 5.4 / 7.1: per connection and not guessable). It is the same for each
    /// incarnation, so that a later one's timestamps are later (RFC 6191).
    pub(crate) timestamp_offset: u32,
}

impl IsnGenerator {
    pub(crate) fn new(key: [u64; 2]) -> Self {
        Self(Sip::new(key, (2, 4)))
    }

    /// The numbers of a connection that is opened now. One hash gives both: each is half of it.
    pub(crate) fn origin(&self, now: Instant, flow: &FlowKey) -> Origin {
        let hash = flow.hash(&self.0);
        Origin {
            iss: Seq((hash as u32).wrapping_add((now.as_micros() / 4) as u32)),
            timestamp_offset: (hash >> 32) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{IpAddr, Ipv4Addr};
    use core::time::Duration;

    fn flow(remote_port: u16) -> FlowKey {
        FlowKey {
            local: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
            remote: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
            local_port: 80,
            remote_port,
        }
    }

    #[test]
    fn isn_grows_by_250_000_a_second_per_flow_and_flows_are_unrelated() {
        let isn = |now, port| IsnGenerator::new([1, 2]).origin(now, &flow(port)).iss;
        let now = Instant::from_millis(5);
        assert_eq!(isn(now + Duration::from_secs(1), 9).since(isn(now, 9)), 250_000);
        assert_ne!(isn(now, 9), isn(now, 10));
        assert_ne!(isn(now, 9), IsnGenerator::new([1, 3]).origin(now, &flow(9)).iss);
    }

    #[test]
    fn timestamps_of_a_flow_are_always_shifted_alike_and_unlike_those_of_others() {
        let offset = |ms, port| {
            IsnGenerator::new([1, 2]).origin(Instant::from_millis(ms), &flow(port)).timestamp_offset
        };
        assert_eq!(offset(5, 9), offset(77_000, 9));
        assert_ne!(offset(5, 9), offset(5, 10));
    }
}
