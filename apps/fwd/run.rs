//! The loop of `nty fwd`.

use super::Options;
use super::forward::{Forwarder, Port};
use crate::device::{LONGEST_SLEEP, Stop, counts, sleep};
use crate::run::{RunError, print};
use ntytcp::device::DeviceError;
use ntytcp::device::spec::OpenOptions;
use ntytcp::rng::Rng;
use ntytcp::shard::{MonotonicClock, system_seed};
use ntytcp::time::{Clock as _, Instant};
use std::fmt::Write as _;
use std::time::Duration;

/// How long it goes on looking after the last frame before it sleeps.
const SPIN: Duration = Duration::from_micros(20);

/// Forwards until a signal comes.
///
/// # Errors
/// A device that cannot be opened or is gone, settings that contradict each other.
pub fn run(options: &Options) -> Result<(), RunError> {
    let usage = |what: String| RunError::Usage(format!("fwd: {what}"));
    let configs = options.ports().map_err(usage)?;
    let mut rng = Rng::new(system_seed().map_err(RunError::System)?);
    let mode = options.mode(&configs, &mut rng).map_err(usage)?;
    // A file that cannot be read is no wrong argument.
    let acl = options.acl().map_err(|what| RunError::Device(DeviceError::Config(format!("fwd: {what}"))))?;
    let stop = Stop::on_signals()?;
    let mut ports = Vec::new();
    for (spec, config) in options.device.iter().zip(configs) {
        ports.push((spec.open(&OpenOptions::default())?, config));
    }
    let mut forwarder = Forwarder::new(ports, acl, mode, &mut rng);
    let names: Vec<_> = options.device.iter().map(ToString::to_string).collect();
    print(&format!("ready: fwd on {}\n", names.join(", ")))?;
    serve(options, &mut forwarder, &stop)?;
    for Port { device, .. } in &mut forwarder.ports {
        device.sync()?;
    }
    print(&report(&forwarder))
}

fn serve(options: &Options, forwarder: &mut Forwarder, stop: &Stop) -> Result<(), DeviceError> {
    let clock = MonotonicClock::new();
    let end = options.seconds.map(|span| clock.now() + span.duration());
    let (mut busy_at, mut told) = (clock.now(), (clock.now(), 0));
    loop {
        let now = clock.now();
        let left = end.map_or(LONGEST_SLEEP, |end| end.since(now));
        if stop.is_asked() || left.is_zero() || forwarder.ports.iter().all(|port| port.device.is_exhausted())
        {
            return Ok(());
        }
        if forwarder.turn(now)? > 0 {
            busy_at = now;
        } else if !options.busy_poll && now.since(busy_at) >= SPIN {
            let deadline = forwarder.next_deadline().map_or(left, |at| at.since(now).min(left));
            sleep(forwarder.ports.iter_mut().map(|port| &mut port.device), deadline);
        }
        tell(forwarder, now, &mut told);
    }
}

/// Says once a second, to who wants to know (`-v`), how much passed in it.
fn tell(forwarder: &Forwarder, now: Instant, (at, before): &mut (Instant, u64)) {
    if now.since(*at) < Duration::from_secs(1) {
        return;
    }
    let sent: u64 = forwarder.ports.iter().map(|port| port.state.counts.tx_frames).sum();
    tracing::info!(target: "nty", frames = sent - *before, "sent in a second");
    (*at, *before) = (now, sent);
}

/// What each port and each rule counted, but for zeros.
fn report(forwarder: &Forwarder) -> String {
    let mut text = String::new();
    for (number, Port { device, state }) in forwarder.ports.iter().enumerate() {
        let _ = writeln!(text, "port {number} {}", state.config.name);
        let rows = state.counts.rows().filter(|(_, count)| *count > 0).chain(counts(&**device));
        rows.for_each(|(name, count)| text += &format!("port{number}-{name} {count}\n"));
    }
    for (number, (rule, count)) in forwarder.acl.counts().enumerate() {
        let _ = writeln!(text, "rule{number} {count} {rule}");
    }
    text
}
