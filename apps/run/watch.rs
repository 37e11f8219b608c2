//! What the log says of the stack while it runs.
//!
//! The core logs nothing: a line per packet would cost more than the packet. It counts, and this looks at the counts now and then,
//! and says what has changed since it last did.

use ntytcp::counters::{Counters, DropReason};
use ntytcp::stack::{InterfaceId, Stack};
use ntytcp::wire::MacAddr;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tracing::{Level, debug, enabled, info, warn};

/// How long nothing more is said of a kind that wants the user to do something.
const QUIET: Duration = Duration::from_secs(10);
/// How often drops and neighbors are said at most.
const PERIOD: Duration = Duration::from_secs(1);

/// See the module documentation.
pub(super) struct Watch {
    interface: InterfaceId,
    has_gateway: bool,
    conflicts: Warned,
    no_route: Warned,
    no_pages: Warned,
    looked: Instant,
    counted: Counters,
    neighbors: BTreeMap<IpAddr, MacAddr>,
}

/// A counter whose growth is worth a warning, and what was said of it.
#[derive(Default)]
struct Warned {
    seen: u64,
    said: Option<Instant>,
}

impl Warned {
    /// Whether it has grown and that is to be said now.
    fn grew(&mut self, count: u64, now: Instant) -> bool {
        if count == self.seen || self.said.is_some_and(|at| now.duration_since(at) < QUIET) {
            return false;
        }
        (self.seen, self.said) = (count, Some(now));
        true
    }
}

impl Watch {
    /// Watches what goes over `interface`; begins with what is there.
    pub(super) fn new(stack: &Stack, interface: InterfaceId, has_gateway: bool, now: Instant) -> Self {
        let mut watch = Self {
            interface,
            has_gateway,
            conflicts: Warned::default(),
            no_route: Warned::default(),
            no_pages: Warned::default(),
            looked: now,
            counted: stack.counters().clone(),
            neighbors: BTreeMap::new(),
        };
        watch.say_neighbors(stack);
        watch
    }

    /// How long the loop may sleep before [`Watch::look`] wants to be called again.
    pub(super) fn interval() -> Duration {
        if enabled!(target: "nty", Level::INFO) { PERIOD } else { QUIET }
    }

    /// Says what has changed. Cheap when nothing has.
    pub(super) fn look(&mut self, stack: &Stack, now: Instant) {
        let counters = stack.counters();
        if self.conflicts.grew(counters.address_conflicts, now)
            && let Some((addr, other)) = stack.conflict(self.interface)
        {
            warn!(
                target: "nty",
                %addr,
                %other,
                "another station uses our address: stop it, or start this one with another --addr"
            );
        }
        if !self.has_gateway && self.no_route.grew(counters.dropped(DropReason::NoRoute), now) {
            warn!(
                target: "nty",
                "packets for another network have no way to go, so its clients wait in vain: name the router with --gateway"
            );
        }
        let unstored =
            counters.dropped(DropReason::SocketFull) + counters.dropped(DropReason::TcpReassemblyFull);
        if stack.is_out_of_pages() && self.no_pages.grew(unstored, now) {
            warn!(
                target: "nty",
                "the memory for payload is used up by connections that do not read: others wait until they do, or end (--peer-timeout)"
            );
        }
        if now.duration_since(self.looked) < PERIOD || !enabled!(target: "nty", Level::INFO) {
            return;
        }
        self.looked = now;
        if let Some(drops) = drops_since(&self.counted, counters) {
            info!(target: "nty", "dropped{drops}");
        }
        self.counted = counters.clone();
        self.say_neighbors(stack);
    }

    fn say_neighbors(&mut self, stack: &Stack) {
        if !enabled!(target: "nty", Level::DEBUG) {
            return;
        }
        let now: BTreeMap<IpAddr, MacAddr> = stack
            .neighbors(self.interface)
            .filter_map(|neighbor| Some((neighbor.ip, neighbor.mac?)))
            .collect();
        for (ip, mac) in now.iter().filter(|&(ip, mac)| self.neighbors.get(ip) != Some(mac)) {
            debug!(target: "nty", %ip, %mac, "neighbor learned");
        }
        for (ip, mac) in self.neighbors.iter().filter(|(ip, _)| !now.contains_key(ip)) {
            debug!(target: "nty", %ip, %mac, "neighbor lost");
        }
        self.neighbors = now;
    }
}

/// ` REASON COUNT, ...` for each reason that was counted between the two; `None` without any.
fn drops_since(before: &Counters, now: &Counters) -> Option<String> {
    let mut text = String::new();
    for (reason, count) in now.drops() {
        let more = count - before.dropped(reason);
        if more > 0 {
            let comma = if text.is_empty() { "" } else { "," };
            let _ = write!(text, "{comma} {} {more}", reason.name());
        }
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_dropped_since_is_said() {
        let mut before = Counters::default();
        before.drop(DropReason::NotForUs);
        let mut now = before.clone();
        assert_eq!(drops_since(&before, &now), None);
        now.drop(DropReason::NoRoute);
        now.drop(DropReason::NoRoute);
        now.drop(DropReason::Truncated);
        assert_eq!(drops_since(&before, &now).as_deref(), Some(" truncated 1, no-route 2"));
    }

    #[test]
    fn a_warning_comes_once_in_a_while() {
        let (mut warned, start) = (Warned::default(), Instant::now());
        assert!(!warned.grew(0, start));
        assert!(warned.grew(1, start));
        assert!(!warned.grew(2, start + QUIET / 2));
        assert!(warned.grew(2, start + QUIET));
        assert!(!warned.grew(2, start + QUIET * 3));
    }
}
