//! Whose address is it: address conflict detection for one IPv4 address of one interface (RFC 5227).
//!
//! ```text
//!   new --> PROBING --3 probes, silence--> ANNOUNCING --2 announcements--> BOUND
//!              |                               |   ^                         |  ^
//!              | somebody has it               |   +-- defended              |  +-- defended
//!              +-----------------> LOST <------+-----------------------------+
//!                                    |          somebody insists
//!                                    +--restart--> PROBING, later and later
//! ```
//!
//! An [`AddressGuard`] is told the time and every ARP packet that arrives, and says what to send. It answers
//! no requests: whether to reply for the address is [`AddressGuard::is_usable`], and the reply is the
//! stack's.

use core::net::Ipv4Addr;

use super::keyed::fork;
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use crate::wire::{ArpPacket, MacAddr};

/// What to do when another station claims an address that is in use here (RFC 5227 2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Defense {
    /// Give the address up at once: choice (a).
    GiveUp,
    /// Announce it again; give it up when the other insists within [`GuardConfig::defend_interval`]: choice
    /// (b).
    #[default]
    Once,
    /// Never give it up, and announce it at most once per [`GuardConfig::defend_interval`]: choice (c), for a
    /// server or router whose address others rely on.
    Always,
    /// Never give it up and never announce it: somebody else on this host does.
    Elsewhere,
}

/// Times and counts of RFC 5227 1.1, of which [`GuardConfig::default`] has the values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuardConfig {
    /// Longest random wait before the first probe (PROBE_WAIT). Default 1 s.
    pub probe_wait: Duration,
    /// Probes before the address counts as free (PROBE_NUM). Default 3; 0 skips the probing and uses the
    /// address at once.
    pub probes: u8,
    /// Shortest time between probes (PROBE_MIN). Default 1 s.
    pub probe_min: Duration,
    /// Longest time between probes (PROBE_MAX). Default 2 s.
    pub probe_max: Duration,
    /// Silence after the last probe (ANNOUNCE_WAIT). Default 2 s.
    pub announce_wait: Duration,
    /// Announcements, the first at the moment the address becomes usable (ANNOUNCE_NUM). Default 2; 0 sends
    /// none.
    pub announcements: u8,
    /// Between announcements (ANNOUNCE_INTERVAL). Default 2 s.
    pub announce_interval: Duration,
    /// Least time between two defenses (DEFEND_INTERVAL). Default 10 s.
    pub defend_interval: Duration,
    /// Conflicts after which [`AddressGuard::restart`] waits (MAX_CONFLICTS). Default 10.
    pub max_conflicts: u8,
    /// How long it then waits (RATE_LIMIT_INTERVAL). Default 60 s.
    pub rate_limit_interval: Duration,
    /// How an address in use is defended. Default [`Defense::Once`].
    pub defense: Defense,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            probe_wait: Duration::from_secs(1),
            probes: 3,
            probe_min: Duration::from_secs(1),
            probe_max: Duration::from_secs(2),
            announce_wait: Duration::from_secs(2),
            announcements: 2,
            announce_interval: Duration::from_secs(2),
            defend_interval: Duration::from_secs(10),
            max_conflicts: 10,
            rate_limit_interval: Duration::from_secs(60),
            defense: Defense::default(),
        }
    }
}

impl GuardConfig {
    /// Three probes 50 ms apart: usable after 150 ms instead of four to seven seconds, on links where every
    /// station answers within 50 ms. That is every wired link; what it misses is a neighbor asleep, or a
    /// switch port that is not forwarding yet.
    pub fn quick() -> Self {
        let step = Duration::from_millis(50);
        Self {
            probe_wait: Duration::ZERO,
            probe_min: step,
            probe_max: step,
            announce_wait: step,
            ..Self::default()
        }
    }

    /// No probing: the address is announced and used at once. Conflicts are still noticed and defended
    /// against.
    pub fn immediate() -> Self {
        Self { probes: 0, ..Self::default() }
    }

    /// The claim is somebody else's on this host, another shard's or the kernel's: the address is used at once, and nothing is sent about
    /// it.
    pub fn delegated() -> Self {
        Self { probes: 0, announcements: 0, defense: Defense::Elsewhere, ..Self::default() }
    }
}

/// How far the claim to an address has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuardState {
    /// Asking whether anybody has it. Not usable.
    Probing,
    /// Usable, and being announced.
    Announcing,
    /// Usable.
    Bound,
    /// This other station has it. Not usable.
    Lost(MacAddr),
}

/// What an ARP packet means for an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArpOutcome {
    /// Nothing.
    Clear,
    /// Another station claimed the address; it is being defended ([`ArpAction::Announce`] follows).
    Defended,
    /// Another station claimed the address; it is kept, and was defended too recently to do so again.
    Tolerated,
    /// Another station has the address, and we gave it up ([`ArpAction::Conflict`] follows).
    Lost,
}

/// What is to be done about an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArpAction {
    /// The address may be used from now on.
    Usable,
    /// Broadcast a request for the address with an unspecified sender address (RFC 5227 2.1.1).
    Probe,
    /// Broadcast a request for the address with the address as sender (RFC 5227 2.3).
    Announce,
    /// Stop using the address: the station `other` has it.
    Conflict {
        /// Who claimed it.
        other: MacAddr,
    },
}

/// Guards the claim to one address. See the module documentation.
#[derive(Clone, Debug)]
pub struct AddressGuard {
    cfg: GuardConfig,
    ip: Ipv4Addr,
    state: GuardState,
    /// Probes or announcements sent in this state.
    sent: u8,
    deadline: Option<Instant>,
    last_defense: Option<Instant>,
    /// How often the address was lost without being held for [`GuardConfig::rate_limit_interval`] between.
    conflicts: u8,
    usable_since: Option<Instant>,
    owed: Owed,
    rng: Rng,
}

/// Actions that were not taken yet.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    usable: bool,
    probe: bool,
    announce: bool,
    conflict: bool,
}

impl AddressGuard {
    /// Begins to claim `ip`.
    pub fn new(cfg: GuardConfig, ip: Ipv4Addr, now: Instant, rng: &mut Rng) -> Self {
        let mut guard = Self {
            cfg,
            ip,
            state: GuardState::Probing,
            sent: 0,
            deadline: None,
            last_defense: None,
            conflicts: 0,
            usable_since: None,
            owed: Owed::default(),
            rng: fork(rng),
        };
        guard.probe_after(now, Duration::ZERO);
        guard
    }

    /// The address.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// How far the claim has come.
    pub fn state(&self) -> GuardState {
        self.state
    }

    /// Whether the address may be sent from and answered for.
    pub fn is_usable(&self) -> bool {
        matches!(self.state, GuardState::Announcing | GuardState::Bound)
    }

    /// An ARP packet arrived. `own_mac` is the interface's address: what it sent itself, and hears again, is
    /// no conflict.
    pub fn on_arp(&mut self, now: Instant, arp: &ArpPacket, own_mac: MacAddr) -> ArpOutcome {
        let other = arp.sender_mac;
        if other == own_mac || !other.is_unicast() {
            return ArpOutcome::Clear;
        }
        // RFC 5227 2.1.1: "any ARP packet (Request *or* Reply) where the packet's 'sender IP address' is the
        // address being probed for"; the same test finds conflicts later on (2.4).
        let claimed = arp.sender_ip == self.ip;
        match self.state {
            // "... any ARP Probe where the packet's 'target IP address' is the address being probed for, and
            // the packet's 'sender hardware address' is not the hardware address of any of the host's
            // interfaces".
            GuardState::Probing if claimed || (arp.is_probe() && arp.target_ip == self.ip) => {
                self.lose(now, other)
            }
            GuardState::Announcing | GuardState::Bound if claimed => self.defend(now, other),
            GuardState::Lost(_) if claimed => {
                self.state = GuardState::Lost(other);
                ArpOutcome::Clear
            }
            GuardState::Probing | GuardState::Announcing | GuardState::Bound | GuardState::Lost(_) => {
                ArpOutcome::Clear
            }
        }
    }

    /// When [`AddressGuard::on_timeout`] has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Takes the next step if its time has come. One step per call: after a long pause the probes are still
    /// spaced out.
    pub fn on_timeout(&mut self, now: Instant) {
        if self.deadline.is_none_or(|at| now < at) {
            return;
        }
        match self.state {
            GuardState::Probing if self.sent < self.cfg.probes => self.probe(now),
            GuardState::Probing => self.become_usable(now),
            GuardState::Announcing => self.announce(now),
            GuardState::Bound | GuardState::Lost(_) => self.deadline = None,
        }
    }

    /// What is to be done next; call it until it has nothing more.
    pub fn poll_action(&mut self) -> Option<ArpAction> {
        let take = core::mem::take::<bool>;
        if take(&mut self.owed.conflict)
            && let GuardState::Lost(other) = self.state
        {
            return Some(ArpAction::Conflict { other });
        }
        if take(&mut self.owed.usable) {
            return Some(ArpAction::Usable);
        }
        if take(&mut self.owed.announce) {
            return Some(ArpAction::Announce);
        }
        take(&mut self.owed.probe).then_some(ArpAction::Probe)
    }

    /// Claims the address again after it was lost, with a long wait when that happened often (RFC 5227
    /// 2.1.1). Does nothing while the address is not lost.
    pub fn restart(&mut self, now: Instant) {
        if matches!(self.state, GuardState::Lost(_)) {
            let limited = self.conflicts >= self.cfg.max_conflicts;
            let wait = if limited { self.cfg.rate_limit_interval } else { Duration::ZERO };
            self.state = GuardState::Probing;
            self.last_defense = None;
            self.probe_after(now, wait);
        }
    }

    /// Enters PROBING, with the first probe after `wait` and the random time that keeps stations that were
    /// switched on together apart.
    fn probe_after(&mut self, now: Instant, wait: Duration) {
        self.sent = 0;
        self.owed = Owed::default();
        if self.cfg.probes == 0 && wait.is_zero() {
            self.become_usable(now);
        } else if self.cfg.probes == 0 {
            self.deadline = Some(now + wait);
        } else {
            let spread = self.random_between(Duration::ZERO, self.cfg.probe_wait);
            self.deadline = Some(now + wait + spread);
        }
    }

    fn probe(&mut self, now: Instant) {
        self.sent += 1;
        self.owed.probe = true;
        let wait = if self.sent < self.cfg.probes {
            self.random_between(self.cfg.probe_min, self.cfg.probe_max)
        } else {
            self.cfg.announce_wait
        };
        self.deadline = Some(now + wait);
    }

    fn become_usable(&mut self, now: Instant) {
        self.state = GuardState::Announcing;
        self.usable_since = Some(now);
        self.sent = 0;
        self.owed = Owed { usable: true, ..Owed::default() };
        self.announce(now);
    }

    /// Sends the next announcement, if one is left.
    fn announce(&mut self, now: Instant) {
        if self.sent < self.cfg.announcements {
            self.sent += 1;
            self.owed.announce = true;
        }
        if self.sent < self.cfg.announcements {
            self.deadline = Some(now + self.cfg.announce_interval);
        } else {
            self.state = GuardState::Bound;
            self.deadline = None;
        }
    }

    fn defend(&mut self, now: Instant, other: MacAddr) -> ArpOutcome {
        let recently = self.last_defense.is_some_and(|at| now.since(at) < self.cfg.defend_interval);
        match (self.cfg.defense, recently) {
            (Defense::GiveUp, _) | (Defense::Once, true) => self.lose(now, other),
            (Defense::Always, true) | (Defense::Elsewhere, _) => ArpOutcome::Tolerated,
            (Defense::Once | Defense::Always, false) => {
                self.last_defense = Some(now);
                self.owed.announce = true;
                ArpOutcome::Defended
            }
        }
    }

    fn lose(&mut self, now: Instant, other: MacAddr) -> ArpOutcome {
        self.state = GuardState::Lost(other);
        self.deadline = None;
        if self.usable_since.take().is_some_and(|since| now.since(since) >= self.cfg.rate_limit_interval) {
            self.conflicts = 0;
        }
        self.conflicts = self.conflicts.saturating_add(1);
        self.owed = Owed { conflict: true, ..Owed::default() };
        ArpOutcome::Lost
    }

    /// A random duration between the two, in microseconds; `min` when `max` is not longer.
    fn random_between(&mut self, min: Duration, max: Duration) -> Duration {
        let spread = u32::try_from(max.saturating_sub(min).as_micros()).unwrap_or(u32::MAX);
        min + Duration::from_micros(u64::from(self.rng.below(spread.saturating_add(1))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::seed_from;
    use crate::wire::ArpOperation;

    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn guard(cfg: GuardConfig) -> AddressGuard {
        AddressGuard::new(cfg, IP, Instant::ZERO, &mut Rng::new(seed_from(1)))
    }

    fn packet(
        operation: ArpOperation,
        sender_mac: MacAddr,
        sender_ip: Ipv4Addr,
        target_ip: Ipv4Addr,
    ) -> ArpPacket {
        ArpPacket { operation, sender_mac, sender_ip, target_mac: MacAddr::ZERO, target_ip }
    }

    fn claim(by: MacAddr) -> ArpPacket {
        packet(ArpOperation::Reply, by, IP, Ipv4Addr::new(10, 0, 0, 77))
    }

    fn probe(by: MacAddr) -> ArpPacket {
        packet(ArpOperation::Request, by, Ipv4Addr::UNSPECIFIED, IP)
    }

    fn actions(guard: &mut AddressGuard) -> Vec<ArpAction> {
        core::iter::from_fn(|| guard.poll_action()).collect()
    }

    /// Runs the guard from deadline to deadline, and answers what it did when.
    fn run(guard: &mut AddressGuard) -> Vec<(Instant, ArpAction)> {
        let mut trace: Vec<_> = actions(guard).into_iter().map(|a| (Instant::ZERO, a)).collect();
        while let Some(at) = guard.next_deadline() {
            guard.on_timeout(at);
            trace.extend(actions(guard).into_iter().map(|a| (at, a)));
        }
        trace
    }

    fn bound(cfg: GuardConfig) -> AddressGuard {
        let mut guard = guard(cfg);
        run(&mut guard);
        assert_eq!(guard.state(), GuardState::Bound);
        guard
    }

    #[test]
    fn an_address_is_probed_three_times_before_it_is_used_and_announced_twice() {
        let mut guard = guard(GuardConfig::default());
        assert!(!guard.is_usable());
        let trace = run(&mut guard);
        let kinds: Vec<_> = trace.iter().map(|&(_, a)| a).collect();
        use ArpAction::{Announce, Probe, Usable};
        assert_eq!(kinds, [Probe, Probe, Probe, Usable, Announce, Announce]);
        let gap = |i: usize| trace[i + 1].0.since(trace[i].0);
        assert!(trace[0].0 <= Instant::from_millis(1_000));
        for i in [0, 1] {
            assert!((Duration::from_secs(1)..=Duration::from_secs(2)).contains(&gap(i)));
        }
        assert_eq!(gap(2), Duration::from_secs(2));
        assert_eq!(gap(3), Duration::ZERO);
        assert_eq!(gap(4), Duration::from_secs(2));
        assert!(guard.is_usable());
    }

    #[test]
    fn stations_with_different_seeds_probe_at_different_times() {
        let first = |n| {
            AddressGuard::new(GuardConfig::default(), IP, Instant::ZERO, &mut Rng::new(seed_from(n)))
                .next_deadline()
        };
        assert_ne!(first(1), first(2));
    }

    #[test]
    fn the_quick_profile_is_usable_after_150_ms() {
        let trace = run(&mut guard(GuardConfig::quick()));
        let usable = trace.iter().find(|(_, a)| *a == ArpAction::Usable).unwrap();
        assert_eq!(usable.0, Instant::from_millis(150));
        assert_eq!(trace.iter().filter(|(_, a)| *a == ArpAction::Probe).count(), 3);
    }

    #[test]
    fn without_probes_the_address_is_usable_at_once_and_still_announced_and_defended() {
        let mut guard = guard(GuardConfig::immediate());
        assert!(guard.is_usable());
        assert_eq!(actions(&mut guard), [ArpAction::Usable, ArpAction::Announce]);
        assert_eq!(guard.on_arp(Instant::ZERO, &claim(OTHER), OWN), ArpOutcome::Defended);
    }

    #[test]
    fn an_answer_to_a_probe_ends_the_claim() {
        let mut guard = guard(GuardConfig::quick());
        guard.on_timeout(Instant::ZERO);
        assert_eq!(guard.on_arp(Instant::ZERO, &claim(OTHER), OWN), ArpOutcome::Lost);
        assert_eq!(
            actions(&mut guard),
            [ArpAction::Conflict { other: OTHER }],
            "the probe is not sent any more"
        );
        assert_eq!((guard.next_deadline(), guard.is_usable()), (None, false));
    }

    #[test]
    fn another_probe_for_the_same_address_ends_the_claim_while_probing_only() {
        let mut probing = guard(GuardConfig::quick());
        assert_eq!(probing.on_arp(Instant::ZERO, &probe(OTHER), OWN), ArpOutcome::Lost);
        let mut guard = bound(GuardConfig::quick());
        assert_eq!(guard.on_arp(Instant::from_millis(900), &probe(OTHER), OWN), ArpOutcome::Clear);
    }

    #[test]
    fn what_we_hear_of_ourselves_or_of_other_addresses_is_no_conflict() {
        let mut guard = guard(GuardConfig::quick());
        let elsewhere = Ipv4Addr::new(10, 0, 0, 3);
        for harmless in [
            probe(OWN),
            claim(OWN),
            packet(ArpOperation::Request, OTHER, elsewhere, IP),
            packet(ArpOperation::Request, OTHER, Ipv4Addr::UNSPECIFIED, elsewhere),
            claim(MacAddr::BROADCAST),
        ] {
            assert_eq!(guard.on_arp(Instant::ZERO, &harmless, OWN), ArpOutcome::Clear, "{harmless:?}");
        }
        assert_eq!(guard.state(), GuardState::Probing);
    }

    #[test]
    fn an_address_in_use_is_defended_once_and_given_up_when_the_other_insists() {
        let mut guard = bound(GuardConfig::quick());
        let t = Instant::from_millis(60_000);
        assert_eq!(guard.on_arp(t, &claim(OTHER), OWN), ArpOutcome::Defended);
        assert_eq!(actions(&mut guard), [ArpAction::Announce]);
        assert!(guard.is_usable());
        let later = t + Duration::from_secs(10);
        assert_eq!(guard.on_arp(later, &claim(OTHER), OWN), ArpOutcome::Defended, "the interval has passed");
        assert_eq!(guard.on_arp(later + Duration::from_secs(9), &claim(OTHER), OWN), ArpOutcome::Lost);
        assert_eq!(actions(&mut guard), [ArpAction::Conflict { other: OTHER }]);
    }

    #[test]
    fn a_stubborn_owner_keeps_the_address_but_does_not_shout() {
        let mut guard = bound(GuardConfig { defense: Defense::Always, ..GuardConfig::quick() });
        let mut announced = 0;
        for second in 0..100 {
            guard.on_arp(Instant::from_millis(60_000 + 1_000 * second), &claim(OTHER), OWN);
            announced += actions(&mut guard).len();
        }
        assert_eq!((announced, guard.is_usable()), (10, true));
    }

    #[test]
    fn an_address_that_others_claim_for_us_is_used_at_once_and_in_silence() {
        let mut guard = guard(GuardConfig::delegated());
        assert_eq!(actions(&mut guard), [ArpAction::Usable]);
        for second in 0..100 {
            let now = Instant::from_millis(1_000 * second);
            assert_eq!(guard.on_arp(now, &claim(OTHER), OWN), ArpOutcome::Tolerated);
            guard.on_timeout(now);
            assert_eq!(actions(&mut guard), []);
        }
        assert!(guard.is_usable() && guard.next_deadline().is_none());
    }

    #[test]
    fn a_meek_owner_gives_up_at_once() {
        let mut guard = bound(GuardConfig { defense: Defense::GiveUp, ..GuardConfig::quick() });
        assert_eq!(guard.on_arp(Instant::from_millis(60_000), &claim(OTHER), OWN), ArpOutcome::Lost);
    }

    #[test]
    fn after_ten_conflicts_the_next_claim_waits_a_minute() {
        let mut guard = guard(GuardConfig::quick());
        for _ in 0..9 {
            guard.on_arp(Instant::ZERO, &claim(OTHER), OWN);
            guard.restart(Instant::ZERO);
            assert_eq!(guard.next_deadline(), Some(Instant::ZERO));
        }
        guard.on_arp(Instant::ZERO, &claim(OTHER), OWN);
        guard.restart(Instant::ZERO);
        assert_eq!(guard.next_deadline(), Some(Instant::from_millis(60_000)));
        run(&mut guard);
        assert!(guard.is_usable());
        // Held for an hour: the next loss is the first.
        let late = Instant::from_millis(3_600_000);
        guard.on_arp(late, &claim(OTHER), OWN);
        guard.on_arp(late, &claim(OTHER), OWN);
        guard.restart(late);
        assert_eq!(guard.next_deadline(), Some(late));
    }

    #[test]
    fn after_a_long_pause_the_probes_are_still_apart() {
        let mut guard = guard(GuardConfig::default());
        let late = Instant::from_millis(3_600_000);
        guard.on_timeout(late);
        guard.on_timeout(late);
        assert_eq!(actions(&mut guard), [ArpAction::Probe]);
        assert!(guard.next_deadline().unwrap() >= late + Duration::from_secs(1));
    }
}
