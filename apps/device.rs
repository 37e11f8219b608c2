//! What the subcommands share that drive a device without a stack: when to stop, how to sleep, how to send a frame.

use crate::run::RunError;
use ntytcp::device::spec::BoxedDevice;
use ntytcp::device::sys::{PollFd, poll};
use ntytcp::device::{Device, TxMeta};
use ntytcp::wire::MacAddr;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use siphasher::sip::SipHasher13;
use std::hash::Hasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// The longest sleep: a signal that comes just before one is heard after it.
pub(crate) const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// Whether a signal asked the program to end.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on SIGINT, SIGTERM and SIGHUP are requests to stop.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn on_signals() -> Result<Self, RunError> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(RunError::System)?;
        }
        Ok(Self(stop))
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// Writes a frame into the device's ring, if there is room.
pub(crate) fn transmit(device: &mut BoxedDevice, frame: &[u8]) -> bool {
    let Some(to) = device.reserve(frame.len()) else { return false };
    to.copy_from_slice(frame);
    device.commit(TxMeta::default());
    true
}

/// Sleeps until a frame arrives at one of the devices or this time has passed, [`LONGEST_SLEEP`] at most; less than the system's timers
/// can do is spun away.
pub(crate) fn sleep<'a>(devices: impl IntoIterator<Item = &'a mut BoxedDevice>, time: Duration) {
    if time < Duration::from_micros(100) {
        return std::hint::spin_loop();
    }
    let (mut fds, mut time) = (Vec::new(), time.min(LONGEST_SLEEP));
    for device in devices {
        if !device.arm() {
            return;
        }
        match device.poll_fd() {
            Some(fd) => fds.push(PollFd::readable(fd)),
            // It can only be polled.
            None if !device.is_exhausted() => time = time.min(Duration::from_millis(1)),
            None => {}
        }
    }
    // An error here is one of arguments, and the caller looks at its clock again.
    drop(poll(&mut fds, Some(time)));
}

/// A locally administered address that is the same each time for the same device, and `more` that tells stations apart.
pub(crate) fn station(device: &str, more: impl IntoIterator<Item = String>) -> MacAddr {
    let mut hasher = SipHasher13::new();
    hasher.write(device.as_bytes());
    for part in more {
        hasher.write(part.as_bytes());
    }
    let [a, b, c, d, e, ..] = hasher.finish().to_be_bytes();
    MacAddr([0x02, a, b, c, d, e])
}

/// What the device itself has counted, but for zeros: frames that it lost or refused, in its own words.
pub(crate) fn counts(device: &dyn Device) -> Vec<(&'static str, u64)> {
    device.stats().into_iter().filter(|(_, count)| *count > 0).collect()
}
