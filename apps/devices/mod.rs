//! `nty devices`: the interfaces of this machine, and the flag to type for each.

use ntytcp::device::netdev::{self, Facts};
use pnet::datalink::{self, NetworkInterface};
use std::fmt::Write as _;
use std::fs;

/// The interfaces that there are, a paragraph each.
pub(crate) fn list() -> String {
    let mut text = String::new();
    for interface in datalink::interfaces() {
        // One that has just gone is not worth an error.
        if let Ok(facts) = netdev::facts(&interface.name) {
            describe(&mut text, &interface, &facts);
        }
    }
    #[cfg(feature = "dpdk")]
    for card in ntytcp::device::dpdk::pci::cards().iter().filter(|card| card.is_usable()) {
        text.push_str(&for_dpdk(&card.address, &card.driver, &card.id));
    }
    if text.is_empty() {
        text.push_str("no interface: `ip link add` makes one, and --device tap:NAME needs none\n");
    }
    text
}

fn describe(text: &mut String, interface: &NetworkInterface, facts: &Facts) {
    let NetworkInterface { name, mac, ips, .. } = interface;
    let state = if facts.up { "up" } else { "down" };
    let mut line = format!("{name}: {state}, MTU {}", facts.mtu);
    if let Some(mac) = mac.filter(|_| facts.ethernet) {
        let _ = write!(line, ", {mac}");
    }
    let _ = writeln!(text, "{line}");
    let row = |text: &mut String, what: &str, value: &str| {
        let _ = writeln!(text, "    {what:<10} {value}");
    };
    if !facts.driver.is_empty() {
        row(text, "driver", &format!("{}{}", facts.driver, place(&facts.bus)));
    }
    row(text, "queues", &format!("{} receive, {} transmit", facts.rx_queues, facts.tx_queues));
    let on: Vec<_> = facts.offloads.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    row(text, "offloads", &if on.is_empty() { "none".to_owned() } else { on.join(" ") });
    if !ips.is_empty() {
        row(text, "addresses", &ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    }
    if !facts.ethernet {
        row(text, "use", "none: its frames are not those of Ethernet");
        return;
    }
    for (flag, what) in ways(name, facts) {
        row(text, "use", &format!("--device {flag:<22} {what}"));
    }
}

/// A card that DPDK can have: the kernel has no interface for it, or one beside which DPDK works.
#[cfg(feature = "dpdk")]
fn for_dpdk(address: &str, driver: &str, id: &str) -> String {
    let flag = format!("dpdk:{address}");
    format!(
        "{address}: for DPDK, vendor and device {id}\n    {:<10} {driver}{}\n    {:<10} --device {flag:<22} past the kernel; it takes \
         root or a /dev/vfio that is yours\n",
        "driver",
        place(address),
        "use"
    )
}

/// Where an interface is plugged in, with the NUMA node that is near.
fn place(bus: &str) -> String {
    let node = fs::read_to_string(format!("/sys/bus/pci/devices/{bus}/numa_node"));
    match node.as_deref().map(str::trim) {
        Ok(node) if !node.starts_with('-') => format!(" at {bus}, NUMA node {node}"),
        Ok(_) => format!(" at {bus}"),
        Err(_) => String::new(),
    }
}

/// The flags that make `nty` use the interface, and what each means.
fn ways(name: &str, facts: &Facts) -> Vec<(String, &'static str)> {
    let mut ways = Vec::new();
    if facts.driver == "tun" && facts.bus == "tap" {
        ways.push((format!("tap:{name}"), "the other end of this TAP, if no other program has it"));
    }
    ways.push((
        format!("packet:{name}"),
        "beside the kernel, which keeps its addresses; it takes CAP_NET_RAW",
    ));
    ways.push((format!("xdp:{name}"), "past the kernel; it takes root"));
    if cfg!(feature = "dpdk") && is_kernels_card(facts) {
        ways.push((
            format!("dpdk:{}", facts.bus),
            "past the kernel, after `scripts/bind-nic` with the same address",
        ));
    }
    ways
}

/// Whether it is a card that DPDK can have only when the kernel has it no longer.
fn is_kernels_card(facts: &Facts) -> bool {
    let on_pci = facts.bus.matches(':').count() == 2 && facts.bus.contains('.');
    on_pci && !facts.driver.starts_with("mlx")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "dpdk")]
    #[test]
    fn a_card_for_dpdk_is_shown_with_the_flag_to_type() {
        let text = for_dpdk("fffe:03:00.0", "vfio-pci", "8086:1572");
        assert!(
            text.starts_with(
                "fffe:03:00.0: for DPDK, vendor and device 8086:1572\n    driver     vfio-pci\n"
            ),
            "{text}"
        );
        assert!(text.contains("use        --device dpdk:fffe:03:00.0 ") && text.ends_with('\n'), "{text}");
    }

    #[test]
    fn interfaces_are_listed_with_the_flag_to_type() {
        // The loopback is in every namespace, and of no use.
        let text = list();
        let lo = text.split("lo: ").nth(1).unwrap();
        assert!(lo.contains("MTU") && lo.contains("not those of Ethernet"), "{text}");
    }
}
