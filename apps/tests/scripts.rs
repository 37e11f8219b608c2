//! The scripts that change the machine, against a machine that is not there.
#![allow(clippy::unwrap_used)] // A failed step is a failed test, in helpers too.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A tree with a card at 03:00.0, interface eth9, driver i40e, and a graphics card; `ip` says `uses` of each interface.
fn machine(uses: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let link = |target: &str, path: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(root.path().join(target), path).unwrap();
    };
    put("sys/bus/pci/devices/0000:03:00.0/class", "0x020000\n");
    put("sys/bus/pci/devices/0000:03:00.0/net/eth9/mtu", "1500\n");
    put("sys/bus/pci/devices/0000:00:02.0/class", "0x030000\n");
    put("sys/bus/pci/drivers/i40e/bind", "");
    put("sys/bus/pci/drivers/vfio-pci/bind", "");
    link("sys/bus/pci/drivers/i40e", "sys/bus/pci/devices/0000:03:00.0/driver");
    link("sys/bus/pci/devices/0000:03:00.0", "sys/class/net/eth9/device");
    link("sys/kernel/iommu_groups/7", "sys/bus/pci/devices/0000:03:00.0/iommu_group");
    link("sys/bus/pci/devices/0000:03:00.0", "sys/kernel/iommu_groups/7/devices/0000:03:00.0");
    put("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "8\n");
    put("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "8\n");
    put("proc/mounts", "none /proc proc rw 0 0\n");
    put("bin/ip", &format!("#!/bin/sh\nprintf '%s' '{uses}'\n"));
    fs::set_permissions(root.path().join("bin/ip"), fs::Permissions::from_mode(0o755)).unwrap();
    root
}

/// What the script says on the machine, and its exit status.
fn run(root: &TempDir, script: &str, args: &[&str]) -> (i32, String) {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let path = format!("{}:{}", root.path().join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(scripts.join(script));
    let output = command.args(args).env("NTY_ROOT", root.path()).env("PATH", path).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn a_card_goes_to_vfio_and_back() {
    let root = machine("");
    let device = "/sys/bus/pci/devices/0000:03:00.0";
    for card in ["0000:03:00.0", "03:00.0", "eth9"] {
        let (status, text) = run(&root, "bind-nic", &[card, "--dry-run"]);
        let steps = format!(
            "would write \"vfio-pci\" to {device}/driver_override\nwould write \"0000:03:00.0\" to {device}/driver/unbind\n\
             would write \"0000:03:00.0\" to /sys/bus/pci/drivers_probe\n"
        );
        assert_eq!((status, text), (0, steps));
    }
    let (status, text) = run(&root, "bind-nic", &["03:00.0", "--unbind", "--dry-run"]);
    assert!(status == 0 && text.contains("not bound to vfio-pci but to i40e: nothing to do"), "{text}");
    let driver = root.path().join("sys/bus/pci/devices/0000:03:00.0/driver");
    fs::remove_file(&driver).unwrap();
    symlink(root.path().join("sys/bus/pci/drivers/vfio-pci"), driver).unwrap();
    let (status, text) = run(&root, "bind-nic", &["03:00.0", "--dry-run"]);
    assert!(status == 0 && text.contains("already"), "{text}");
    let (status, text) = run(&root, "bind-nic", &["03:00.0", "--unbind", "--dry-run"]);
    assert!(status == 0 && text.contains("would write \"\n\" to"), "{text}");
    assert!(text.ends_with("would write \"0000:03:00.0\" to /sys/bus/pci/drivers_probe\n"), "{text}");
}

#[test]
fn a_card_that_the_host_uses_is_taken_only_by_force() {
    let root = machine("default via 192.0.2.1");
    let (status, text) = run(&root, "bind-nic", &["eth9", "--dry-run"]);
    assert!(
        status == 1 && text.contains("eth9 has addresses or routes") && text.contains("192.0.2.1"),
        "{text}"
    );
    let (status, text) = run(&root, "bind-nic", &["eth9", "--dry-run", "--force"]);
    assert!(status == 0 && text.contains("would write"), "{text}");
}

#[test]
fn what_keeps_a_card_from_vfio_is_said() {
    let root = machine("");
    let refused = |args: &[&str], expected: &str| {
        let (status, text) = run(&root, "bind-nic", args);
        assert!(status != 0 && text.contains(expected), "{text}");
    };
    refused(&["04:00.0", "--dry-run"], "0000:04:00.0: no such card");
    refused(&["00:02.0", "--dry-run"], "is no network card");
    refused(&["--dry-run"], "usage");
    refused(&["03:00.0", "--nonsense"], "usage");
    // Another device of the group is the kernel's.
    let other = root.path().join("sys/bus/pci/devices/0000:03:00.1");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("class"), "0x010000\n").unwrap();
    symlink(root.path().join("sys/bus/pci/drivers/ahci"), other.join("driver")).unwrap();
    fs::create_dir_all(root.path().join("sys/bus/pci/drivers/ahci")).unwrap();
    symlink(&other, root.path().join("sys/kernel/iommu_groups/7/devices/0000:03:00.1")).unwrap();
    refused(&["03:00.0", "--dry-run"], "shares its IOMMU group with 0000:03:00.1, which the driver ahci has");
    fs::remove_file(root.path().join("sys/bus/pci/devices/0000:03:00.0/iommu_group")).unwrap();
    refused(&["03:00.0", "--dry-run"], "is in no IOMMU group");
}

#[test]
fn a_driver_that_is_not_loaded_is_loaded_first() {
    let root = machine("");
    fs::remove_dir_all(root.path().join("sys/bus/pci/drivers/vfio-pci")).unwrap();
    let (status, text) = run(&root, "bind-nic", &["03:00.0", "--dry-run"]);
    assert!(status == 0 && text.starts_with("would run modprobe vfio-pci\n"), "{text}");
}

#[test]
fn hugepages_are_reserved_mounted_and_given_back() {
    let root = machine("");
    let pages = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    let (status, text) = run(&root, "hugepages", &["--dry-run"]);
    assert!(status == 0 && text.starts_with(&format!("would write \"512\" to {pages}\n")), "{text}");
    assert!(text.contains("would run mount -t hugetlbfs -o pagesize=2M none"), "{text}");
    fs::write(root.path().join("proc/mounts"), "none /dev/hugepages hugetlbfs rw 0 0\n").unwrap();
    assert_eq!(
        run(&root, "hugepages", &["8", "--dry-run"]),
        (0, "8 hugepages of 2M are reserved already\n".into())
    );
    let released = (0, format!("would write \"0\" to {pages}\n"));
    assert_eq!(run(&root, "hugepages", &["--release", "--dry-run"]), released);
    for (args, expected) in [
        (&["--size", "1G", "--dry-run"][..], "has no hugepages of 1G"),
        (&["--size", "3M"], "give 2M or 1G"),
        (&["many"], "usage"),
        (&["--release", "5"], "takes no count"),
    ] {
        let (status, text) = run(&root, "hugepages", args);
        assert!(status != 0 && text.contains(expected), "{text}");
    }
}
