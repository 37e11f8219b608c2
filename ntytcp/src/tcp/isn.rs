//! Initial sequence numbers (RFC 6528): `ISN = M + F(localip, localport, remoteip, remoteport, secretkey)`.
//!
//! M advances by one every 4 microseconds and F is SipHash-2-4, so that two incarnations of one connection do not overlap and
//! nobody off the path can guess a sequence number from those of other connections.

use crate::stack::demux::FlowKey;
use crate::time::Instant;
use crate::wire::Seq;
use core::hash::{Hash as _, Hasher as _};
use siphasher::sip::SipHasher24;

/// Makes the initial sequence numbers and timestamp offsets of one stack.
#[derive(Clone, Debug)]
pub(crate) struct IsnGenerator {
    key: [u64; 2],
}

impl IsnGenerator {
    pub(crate) fn new(key: [u64; 2]) -> Self {
        Self { key }
    }

    /// The ISN of a connection that is opened now.
    pub(crate) fn isn(&self, now: Instant, flow: &FlowKey) -> Seq {
        Seq((self.hash(flow) as u32).wrapping_add((now.as_micros() / 4) as u32))
    }

    /// What the flow's timestamps are shifted by (RFC 7323 5.4 / 7.1: per connection and not guessable). It is the same for
    /// each incarnation, so that a later one's timestamps are later (RFC 6191).
    pub(crate) fn timestamp_offset(&self, flow: &FlowKey) -> u32 {
        (self.hash(flow) >> 32) as u32
    }

    fn hash(&self, flow: &FlowKey) -> u64 {
        let mut hasher = SipHasher24::new_with_keys(self.key[0], self.key[1]);
        flow.hash(&mut hasher);
        hasher.finish()
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
        let isn = IsnGenerator::new([1, 2]);
        let now = Instant::from_millis(5);
        let later = isn.isn(now + Duration::from_secs(1), &flow(9));
        assert_eq!(later.since(isn.isn(now, &flow(9))), 250_000);
        assert_ne!(isn.isn(now, &flow(9)), isn.isn(now, &flow(10)));
        assert_ne!(isn.isn(now, &flow(9)), IsnGenerator::new([1, 3]).isn(now, &flow(9)));
        assert_eq!(isn.timestamp_offset(&flow(9)), isn.timestamp_offset(&flow(9)));
    }
}
