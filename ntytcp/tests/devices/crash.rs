//! A process that is killed at any moment leaves nothing behind, and the next one starts at once.
#![allow(clippy::unwrap_used)] // A failed step is a failed test, in helpers too.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::kit::*;
use ntytcp::device::spec::{BoxedDevice, DeviceSpec, OpenOptions};
use ntytcp::rng::{Rng, seed_from};
use ntytcp::steering::Steering;

/// The device that a victim opens again and again.
const VICTIM: &str = "NTYTCP_DEVICE_TEST_VICTIM";

fn open(spec: &str) -> Vec<BoxedDevice> {
    let mut options = OpenOptions::default();
    options.steering = Some(Arc::new(Steering::new(2, &mut Rng::new(seed_from(3)))));
    spec.parse::<DeviceSpec>().unwrap().open_queues(&options).unwrap()
}

/// Opens, sends, receives and closes until it is killed.
fn live(spec: &str) -> ! {
    loop {
        let mut devices = open(spec);
        for _ in 0..50 {
            for device in &mut devices {
                if let Some(frame) = device.reserve(60) {
                    frame.fill(0xff);
                    device.commit(Default::default());
                }
                device.flush().unwrap();
                device.rx_burst(&mut |_| {}).unwrap();
            }
        }
    }
}

fn dies_without_a_trace(test: &str, spec: &str, left: impl Fn() -> Option<String>) {
    let exe = std::env::current_exe().unwrap();
    let mut rng = Rng::new(seed_from(9));
    for round in 0..36 {
        let mut victim = Command::new(&exe)
            .args(["--exact", test, "--nocapture"])
            .env(VICTIM, spec)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // No moment is waited for: any will do, those before the first call included.
        std::thread::sleep(Duration::from_micros(u64::from(rng.u32() % 60_000)));
        assert_eq!(victim.try_wait().unwrap(), None, "round {round}: it could not start");
        victim.kill().unwrap();
        victim.wait().unwrap();
        assert_eq!(left(), None, "round {round}");
    }
    assert_eq!(open(spec).len(), 2, "the next one starts");
    assert_eq!(left(), None);
}

/// The copy in a namespace goes on; the victim does not come back.
fn enter(test: &str) -> bool {
    if let Ok(spec) = std::env::var(VICTIM) {
        live(&spec);
    }
    inside_as_root(test)
}

#[test]
fn killed_with_a_tap() {
    const TEST: &str = "crash::killed_with_a_tap";
    if enter(TEST) {
        let name = name();
        let left = || kernel_rx_packets(&name).map(|_| format!("{name} is still there"));
        dies_without_a_trace(TEST, &format!("tap:{name}"), left);
    }
}

#[test]
fn killed_with_packet_sockets() {
    const TEST: &str = "crash::killed_with_packet_sockets";
    if enter(TEST) {
        let sockets = || std::fs::read_to_string("/proc/net/packet").unwrap();
        let left = || sockets().lines().nth(1).map(str::to_owned);
        dies_without_a_trace(TEST, &format!("packet:{}", link().0), left);
    }
}

#[test]
fn killed_with_xdp() {
    const TEST: &str = "crash::killed_with_xdp";
    if enter(TEST) {
        let (ours, _) = link_with_queues(2);
        let left = || {
            let shown = Command::new("ip").args(["link", "show", "dev", &ours]).output().unwrap();
            let shown = String::from_utf8(shown.stdout).unwrap();
            shown.contains("xdp").then_some(shown)
        };
        dies_without_a_trace(TEST, &format!("xdp:{ours}"), left);
    }
}
