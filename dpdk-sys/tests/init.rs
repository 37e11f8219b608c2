//! What EAL refuses, and why. EAL starts once per process, so each case is a process: this program again.
#![cfg(feature = "dpdk")]
#![allow(unsafe_code, reason = "EAL is ended, and its directory asked for in every case")]
#![allow(clippy::unwrap_used)]

use std::ffi::CStr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use dpdk_sys::{Eal, raw};

/// How the arguments reach the child: one a line.
const ARGUMENTS: &str = "NTY_TEST_EAL_ARGUMENTS";

/// The start of the line with the child's result.
const RESULT: &str = "RESULT ";

/// The start of every child's `--file-prefix`.
const PREFIX: &str = "nty-init-";

/// Not a test of its own: what a child does.
#[test]
#[ignore = "run by the others"]
fn child() {
    let arguments = std::env::var(ARGUMENTS).unwrap();
    let arguments: Vec<&str> = arguments.split('\n').collect();
    match Eal::init(&arguments) {
        Ok(eal) => {
            println!("\n{RESULT}ok, ports {:?}; again: {}", eal.ports(), Eal::init(&arguments).unwrap_err());
            // SAFETY: nothing was made.
            unsafe { eal.cleanup() };
        }
        Err(error) => println!("\n{RESULT}{error}"),
    }
    // SAFETY: a static buffer that EAL fills, or leaves empty, when it is started.
    let directory = unsafe { CStr::from_ptr(raw::rte_eal_get_runtime_dir()) }.to_str().unwrap();
    if directory.contains(PREFIX) {
        let _ = std::fs::remove_dir_all(directory);
    }
}

/// The result of a process that starts EAL with these arguments, separated by spaces.
fn start(arguments: &str) -> String {
    static CASE: AtomicUsize = AtomicUsize::new(0);
    let case = CASE.fetch_add(1, Ordering::Relaxed);
    let prefix = format!("--file-prefix={PREFIX}{}-{case}", std::process::id());
    let arguments = format!("{prefix} --no-telemetry {arguments}").replace(' ', "\n");
    let mut program = Command::new(std::env::current_exe().unwrap());
    let output = program.args(["--exact", "child", "--ignored", "--nocapture"]).env(ARGUMENTS, arguments);
    let output = output.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let result = text.lines().find_map(|line| line.strip_prefix(RESULT));
    result.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr))).to_owned()
}

const SMALL: &str = "-l 0 --no-huge -m 64 --iova-mode=va --no-pci";

#[test]
fn eal_starts_without_hugepages_and_only_once() {
    let result = start(&format!("{SMALL} --vdev net_null0 --vdev=net_null1,size=128"));
    assert!(
        result.starts_with("ok, ports [\"net_null0\", \"net_null1\"]; again: EAL is already"),
        "{result}"
    );
}

#[test]
fn help_does_not_end_the_process() {
    assert!(start("--help").starts_with("\"--help\" prints a text and ends the process"));
}

#[test]
fn unknown_option_is_named() {
    let result = start("--no-such-option");
    assert!(result.contains("refuses") && result.contains("--no-such-option"), "{result}");
}

#[test]
fn argument_that_is_no_option_is_refused() {
    let result = start(&format!("{SMALL} net_null0"));
    assert!(result.contains("refuses") && result.contains("net_null0"), "{result}");
}

#[test]
fn vdev_of_no_driver_is_named() {
    let result = start(&format!("{SMALL} --vdev net_nonsense0,size=1"));
    assert!(
        result.starts_with("the DPDK device \"net_nonsense0,size=1\" does not come up (No such"),
        "{result}"
    );
}

#[test]
fn vdev_that_its_driver_refuses_is_named_although_eal_starts() {
    let result = start(&format!("{SMALL} --vdev=net_null0 --vdev=net_null1,nonsense=1"));
    assert!(result.starts_with("the DPDK device \"net_null1,nonsense=1\" does not come up:"), "{result}");
}

#[test]
fn missing_hugepages_are_named_with_the_remedies() {
    let result = start("-l 0 --no-pci --huge-dir /nonexistent");
    assert!(result.contains("nr_hugepages") && result.contains("--no-huge"), "{result}");
}
