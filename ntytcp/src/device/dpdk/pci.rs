//! Cards on the PCI bus: whose they are, and why one cannot be DPDK's.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// A network card.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Card {
    /// Where it is, such as `0000:03:00.0`.
    pub address: String,
    /// The driver that has it; empty if none has.
    pub driver: String,
    /// Vendor and device, four hexadecimal digits each, such as `8086:1572`.
    pub id: String,
}

impl Card {
    /// Whether DPDK can have it as it is.
    pub fn is_usable(&self) -> bool {
        FOR_DPDK.contains(&self.driver.as_str())
    }
}

/// Drivers that leave a card to a program, and those beside which DPDK works.
const FOR_DPDK: [&str; 6] =
    ["vfio-pci", "uio_pci_generic", "igb_uio", "mlx5_core", "mlx4_core", "uio_hv_generic"];

/// The network cards of this machine, in the order of their addresses.
pub fn cards() -> Vec<Card> {
    cards_below(Path::new("/sys"))
}

fn cards_below(sys: &Path) -> Vec<Card> {
    let entries = fs::read_dir(sys.join("bus/pci/devices")).into_iter().flatten().flatten();
    let mut cards: Vec<_> = entries.filter_map(|entry| card(&entry.path())).collect();
    cards.sort_by(|a, b| a.address.cmp(&b.address));
    cards
}

/// The device there, if it is a network card.
fn card(path: &Path) -> Option<Card> {
    let read = |name: &str| {
        let text = fs::read_to_string(path.join(name)).ok()?;
        Some(text.trim().trim_start_matches("0x").to_owned())
    };
    // The class of network controllers.
    read("class").filter(|class| class.starts_with("02"))?;
    Some(Card {
        address: path.file_name()?.to_str()?.to_owned(),
        driver: link_name(path.join("driver")).unwrap_or_default(),
        id: format!("{}:{}", read("vendor")?, read("device")?),
    })
}

/// The name of what a link leads to.
fn link_name(link: PathBuf) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}

/// A PCI address in full, if `text` is one: the domain may be left out.
pub(super) fn address(text: &str) -> Option<String> {
    let hex = |part: &str, len: usize| part.len() == len && part.bytes().all(|b| b.is_ascii_hexdigit());
    let (domain, rest) = match text.split(':').count() {
        3 => text.split_once(':')?,
        _ => ("0000", text),
    };
    let (bus, place) = rest.split_once(':')?;
    let (device, function) = place.split_once('.')?;
    let valid = (4..=8).contains(&domain.len())
        && hex(domain, domain.len())
        && hex(bus, 2)
        && hex(device, 2)
        && hex(function, 1);
    valid.then(|| format!("{domain}:{bus}:{device}.{function}").to_lowercase())
}

/// Whether the card at `address` can be DPDK's; else why not, and what to do.
pub(super) fn check(address: &str) -> Result<(), String> {
    check_below(Path::new("/sys"), Path::new("/dev"), address)
}

fn check_below(sys: &Path, dev: &Path, address: &str) -> Result<(), String> {
    let path = sys.join("bus/pci/devices").join(address);
    if !path.exists() {
        return Err(format!("there is no PCI device {address}: `nty devices` lists the network cards"));
    }
    let driver = link_name(path.join("driver"));
    match driver.as_deref() {
        Some("vfio-pci") => {
            let group = link_name(path.join("iommu_group")).unwrap_or_default();
            let file = dev.join("vfio").join(group);
            match File::options().read(true).write(true).open(&file) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    let file = file.display();
                    Err(format!(
                        "no permission to use {address}: run as root, or `chown $USER {file}` as root"
                    ))
                }
                _ => Ok(()),
            }
        }
        Some(driver) if FOR_DPDK.contains(&driver) => Ok(()),
        Some(driver) => Err(format!(
            "the kernel's driver {driver} has {address}: `scripts/bind-nic {address}` gives it to vfio-pci"
        )),
        None => Err(format!("no driver has {address}: `scripts/bind-nic {address}` gives it to vfio-pci")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn addresses_are_made_whole() {
        for (text, expected) in [
            ("0000:03:00.0", Some("0000:03:00.0")),
            ("3B:00.1", Some("0000:3b:00.1")),
            ("10000:E1:00.1", Some("10000:e1:00.1")),
            ("net_tap0", None),
            ("a:b:c.d", None),
            ("03:00", None),
            ("", None),
        ] {
            assert_eq!(address(text).as_deref(), expected, "{text}");
        }
    }

    /// A machine with these devices: address, class, driver.
    fn machine(devices: &[(&str, &str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("ntytcp-pci-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for (address, class, driver) in devices {
            let path = root.join("bus/pci/devices").join(address);
            fs::create_dir_all(&path).unwrap();
            for (name, text) in [("class", *class), ("vendor", "0x8086"), ("device", "0x1572")] {
                fs::write(path.join(name), format!("{text}\n")).unwrap();
            }
            symlink("../../../kernel/iommu_groups/7", path.join("iommu_group")).unwrap();
            if !driver.is_empty() {
                symlink(format!("../../../bus/pci/drivers/{driver}"), path.join("driver")).unwrap();
            }
        }
        root
    }

    #[test]
    fn cards_are_told_from_other_devices_and_by_whose_they_are() {
        let root = machine(&[
            ("0000:03:00.1", "0x020000", "vfio-pci"),
            ("0000:03:00.0", "0x020000", "i40e"),
            ("0000:04:00.0", "0x020000", ""),
            ("0000:00:02.0", "0x030000", "i915"),
        ]);
        let found = cards_below(&root);
        let brief: Vec<_> =
            found.iter().map(|c| (c.address.as_str(), c.driver.as_str(), c.is_usable())).collect();
        let expected = [
            ("0000:03:00.0", "i40e", false),
            ("0000:03:00.1", "vfio-pci", true),
            ("0000:04:00.0", "", false),
        ];
        assert_eq!(brief, expected);
        assert_eq!(found[0].id, "8086:1572");
        let check = |address: &str| check_below(&root, &root, address);
        assert_eq!(check("0000:03:00.1"), Ok(()));
        assert!(
            check("0000:03:00.0").unwrap_err().contains("driver i40e has 0000:03:00.0: `scripts/bind-nic")
        );
        assert!(check("0000:04:00.0").unwrap_err().contains("no driver has"));
        assert!(check("0000:05:00.0").unwrap_err().contains("there is no PCI device 0000:05:00.0"));
        fs::remove_dir_all(&root).unwrap();
    }
}
