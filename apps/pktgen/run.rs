//! The loop of `nty pktgen`.

use super::report::{Flow, Report};
use super::template::{Fields, Template};
use super::track::Tracker;
use super::{Kind, Options};
use crate::arp;
use crate::device::{LONGEST_SLEEP, Stop, counts, sleep, transmit};
use crate::pace::{Pace, Place};
use crate::run::{RunError, print};
use ntytcp::device::spec::{BoxedDevice, OpenOptions};
use ntytcp::device::{BURST, DeviceError, RxChecksum, TxMeta, TxQueue as _};
use ntytcp::shard::{MonotonicClock, system_seed};
use ntytcp::time::{Clock, Instant};
use ntytcp::wire::{EthernetHeader, MacAddr};
use std::net::Ipv4Addr;
use std::time::Duration;

/// How often a station is asked for, and how long each answer is waited for.
const ASK: (u32, Duration) = (3, Duration::from_secs(1));

/// Generates, counts, and reports.
///
/// # Errors
/// A device that cannot be opened or is gone, a next hop that does not answer; [`RunError::Failed`] when more was lost than should be,
/// which was printed then.
pub fn run(options: &Options) -> Result<(), RunError> {
    options.check().map_err(|what| RunError::Usage(format!("pktgen: {what}")))?;
    let stop = Stop::on_signals()?;
    let mut devices = Vec::new();
    for spec in [Some(&options.device), options.back.as_ref()].into_iter().flatten() {
        devices.push(spec.open(&OpenOptions::default())?);
    }
    let mtu = devices.first().map_or(0, |device| device.caps().mtu);
    let longest = usize::from(options.frames.size.greatest());
    if !options.receive && longest > mtu + EthernetHeader::LEN {
        return Err(RunError::Usage(format!(
            "pktgen: --size {longest} is more than the MTU of {} carries: give at most {}",
            options.device,
            mtu + EthernetHeader::LEN
        )));
    }
    let [t0, t1, ..] = system_seed().map_err(RunError::System)?;
    let generator = Generator::new(options, devices, MonotonicClock::new(), u16::from_ne_bytes([t0, t1]));
    let report = if options.receive { generator.receive(&stop) } else { generator.generate(&stop) }?;
    let text = if options.json {
        serde_json::to_string(&report).map_err(|error| RunError::System(error.into()))? + "\n"
    } else {
        report.to_string()
    };
    print(&text)?;
    match options.max_loss {
        Some(most) if report.lost_percent > most => Err(RunError::Failed("pktgen")),
        _ => Ok(()),
    }
}

/// The devices and what passed them, at a clock that a test can move.
pub(super) struct Generator<'a, C> {
    pub(super) options: &'a Options,
    /// The first sends; the last, which may be the same, receives.
    devices: Vec<BoxedDevice>,
    pub(super) clock: C,
    pub(super) tag: u16,
    tracker: Tracker,
    stations: super::Many<MacAddr>,
    /// The next hop that was asked for, and what it said.
    hop: Option<(Ipv4Addr, Option<MacAddr>)>,
    pub(super) sent: Place,
    arp_answered: u64,
    /// When the next line about a second is due, and what had passed at the last.
    second: (Instant, u64, u64),
}

impl<'a, C: Clock> Generator<'a, C> {
    pub(super) fn new(options: &'a Options, devices: Vec<BoxedDevice>, clock: C, tag: u16) -> Self {
        let tracker = if options.receive { Tracker::of_receiver() } else { Tracker::of_sender(tag) };
        let second = (clock.now() + Duration::from_secs(1), 0, 0);
        let (stations, sent) = (options.stations(), Place::default());
        Self { options, devices, clock, tag, tracker, stations, hop: None, sent, arp_answered: 0, second }
    }

    /// Counts until it is told to stop.
    pub(super) fn receive(mut self, stop: &Stop) -> Result<Report, RunError> {
        print(&format!("ready: pktgen on {}\n", self.options.device))?;
        let begin = self.clock.now();
        let end = self.options.seconds.map(|span| begin + span.duration());
        // Silence before the first and behind the last frame is not counted.
        let mut active: Option<(Instant, Instant)> = None;
        loop {
            let now = self.clock.now();
            let left = end.map_or(LONGEST_SLEEP, |end| end.since(now));
            if stop.is_asked() || left.is_zero() || self.devices.iter().all(|device| device.is_exhausted()) {
                let time = active.map_or(Duration::ZERO, |(first, last)| last.since(first));
                return self.report(None, time);
            }
            let before = self.tracker.frames;
            if self.take_in(now)? == 0 {
                sleep(&mut self.devices, left);
            }
            self.tell(now);
            if self.tracker.frames > before {
                active = Some((active.map_or(now, |(first, _)| first), now));
            }
        }
    }

    /// Sends what is asked for and waits for what comes back.
    pub(super) fn generate(mut self, stop: &Stop) -> Result<Report, RunError> {
        let frames = &self.options.frames;
        let (Some(src_ip), Some(dst_ip)) = (&frames.src_ip, &frames.dst_ip) else {
            return Err(RunError::Usage("pktgen: give --src-ip and --dst-ip".to_owned()));
        };
        let dst_mac = match &frames.dst_mac {
            Some(given) => given.clone(),
            None => {
                let hop = frames.via.unwrap_or_else(|| dst_ip.first());
                let Some(mac) = self.resolve(src_ip.first(), hop, stop)? else {
                    return self.report(Some(Flow::new(0, 0, Duration::ZERO)), Duration::ZERO);
                };
                super::Many::one(mac)
            }
        };
        let stations = self.stations.clone();
        let fields = Fields {
            src_mac: stations.cursor(),
            dst_mac: dst_mac.cursor(),
            src_ip: src_ip.cursor(),
            dst_ip: dst_ip.cursor(),
        };
        let mut template = Template::new(frames, fields, self.tag);
        let begin = self.clock.now();
        self.send(&mut template, begin, stop)?;
        let sent = Flow::new(self.sent.frames, self.sent.bytes, self.clock.now().since(begin));
        let last = self.linger(stop)?;
        self.report(Some(sent), last.since(begin))
    }

    /// Finds the station of the next hop, by ARP; nothing if a signal came first.
    fn resolve(&mut self, own: Ipv4Addr, hop: Ipv4Addr, stop: &Stop) -> Result<Option<MacAddr>, RunError> {
        self.hop = Some((hop, None));
        let request = arp::request((self.stations.first(), own), hop);
        for _ in 0..ASK.0 {
            if let Some(device) = self.devices.first_mut() {
                transmit(device, &request);
                device.flush()?;
            }
            let end = self.clock.now() + ASK.1;
            loop {
                let now = self.clock.now();
                if let Some((_, Some(mac))) = self.hop {
                    return Ok(Some(mac));
                }
                if stop.is_asked() {
                    return Ok(None);
                }
                if end <= now {
                    break;
                }
                if self.take_in(now)? == 0 {
                    sleep(&mut self.devices, end.since(now));
                }
            }
        }
        let what = format!(
            "{hop} does not answer ARP on {}: give --dst-mac, or --via for a router",
            self.options.device
        );
        Err(DeviceError::Config(what).into())
    }

    fn send(&mut self, template: &mut Template<'_>, begin: Instant, stop: &Stop) -> Result<(), RunError> {
        let pace = Pace::from(self.options.pace);
        let end = self.options.seconds.map(|span| begin + span.duration());
        let count = self.options.count.unwrap_or(u64::MAX);
        loop {
            let now = self.clock.now();
            if stop.is_asked() || self.sent.frames >= count || end.is_some_and(|end| end <= now) {
                return Ok(());
            }
            let (sent, due) = self.burst(template, pace, (begin, now), count)?;
            let received = self.take_in(now)?;
            self.tell(now);
            if sent == 0 && received == 0 {
                let until_end = end.map_or(LONGEST_SLEEP, |end| end.since(now));
                sleep(&mut self.devices, due.saturating_sub(now.since(begin)).min(until_end));
            }
        }
    }

    /// Sends what is due, a burst at most: how much that was, and when the next is due.
    pub(super) fn burst(
        &mut self,
        template: &mut Template<'_>,
        pace: Pace,
        (begin, now): (Instant, Instant),
        count: u64,
    ) -> Result<(usize, Duration), RunError> {
        let Some(device) = self.devices.first_mut() else { return Ok((0, Duration::MAX)) };
        device.set_now(now);
        let (elapsed, mut burst) = (now.since(begin), 0);
        let mut due = pace.due(self.sent);
        while burst < BURST && due <= elapsed && self.sent.frames < count {
            let len = template.next_len();
            // A full ring: what does not fit is due still.
            let Some(to) = device.reserve(len) else { break };
            template.write(to, self.sent.frames, now.as_nanos());
            device.commit(TxMeta::default());
            if self.options.frames.proto == Kind::TcpSyn {
                self.tracker.syn_sent(self.sent.frames, now.as_nanos());
            }
            self.sent.frames += 1;
            self.sent.bytes += len as u64;
            burst += 1;
            due = pace.due(self.sent);
        }
        device.flush()?;
        Ok((burst, due))
    }

    /// Waits for what is still to come; when the last came.
    fn linger(&mut self, stop: &Stop) -> Result<Instant, RunError> {
        let mut last = self.clock.now();
        let end = last + self.options.linger.duration();
        loop {
            let now = self.clock.now();
            let all = self.tracker.sequence.unique >= self.sent.frames;
            if all || end <= now || stop.is_asked() || self.devices.iter().all(|device| device.is_exhausted())
            {
                return Ok(last);
            }
            let before = self.tracker.frames;
            if self.take_in(now)? == 0 {
                sleep(&mut self.devices, end.since(now));
            }
            if self.tracker.frames > before {
                last = now;
            }
        }
    }

    /// Takes in a burst from each device, answers ARP, and sends that.
    pub(super) fn take_in(&mut self, now: Instant) -> Result<usize, DeviceError> {
        let (mut count, nanos) = (0, now.as_nanos());
        let (options, stations, sent) = (self.options, &self.stations, self.sent.frames);
        let (tracker, hop, arp_answered) = (&mut self.tracker, &mut self.hop, &mut self.arp_answered);
        let ours = |ip| {
            let ours = !options.no_arp && options.frames.src_ip.as_ref().is_some_and(|src| src.contains(ip));
            ours.then(|| stations.first())
        };
        for device in &mut self.devices {
            device.set_now(now);
            count += device.rx_burst(&mut |burst| {
                for frame in burst {
                    if let Some((_, mac @ None)) =
                        hop.as_mut().filter(|(ip, _)| speaks_for(frame.bytes(), *ip))
                    {
                        *mac = arp::speaker(frame.bytes()).map(|(_, mac)| mac);
                    }
                    if arp::answer(frame, ours) {
                        *arp_answered += 1;
                    } else {
                        let verify = frame.meta.checksum == RxChecksum::Unknown;
                        tracker.came(frame.bytes(), verify, sent, nanos);
                    }
                }
            })?;
            device.flush()?;
        }
        Ok(count)
    }

    /// Says once a second, to who wants to know (`-v`), how much passed in it.
    fn tell(&mut self, now: Instant) {
        let (at, sent, received) = self.second;
        if now < at {
            return;
        }
        let (sent_now, received_now) = (self.sent.frames, self.tracker.frames);
        tracing::info!(target: "nty", sent = sent_now - sent, received = received_now - received, "frames in a second");
        self.second = (now + Duration::from_secs(1), sent_now, received_now);
    }

    pub(super) fn report(&mut self, sent: Option<Flow>, time: Duration) -> Result<Report, RunError> {
        let mut report = Report::new(&self.tracker, sent, time);
        report.arp_answered = self.arp_answered;
        for device in &mut self.devices {
            device.sync()?;
            report.device.extend(counts(&**device));
        }
        Ok(report)
    }
}

/// Whether this is ARP from the owner of the address.
fn speaks_for(frame: &[u8], ip: Ipv4Addr) -> bool {
    arp::speaker(frame).is_some_and(|(speaker, _)| speaker == ip)
}
