//! The same programs over each device that reaches the kernel by a veth pair.

use crate::dns::{Zone, dig_over_udp_and_tcp};
use crate::files::{BIG, curl_both_ways};
use crate::streams::echo_in_parallel;
use crate::world::{HOST_NET, NTY, Nty, OURS_NET, Site, in_namespace, noise, run};
use std::fs;
use std::process::{Command, Stdio};

/// Our end of the pair, and the kernel's.
const WIRE: [&str; 2] = ["ntywire", "ntyhost"];

/// Echo, DNS and HTTP on one stack over a device of this kind, and the kernel's programs as their clients.
fn serves(kind: &str, mtu: &str) {
    run("ip", &["link", "add", WIRE[0], "type", "veth", "peer", "name", WIRE[1]]);
    run("ip", &["addr", "add", HOST_NET, "dev", WIRE[1]]);
    for end in WIRE {
        run("ip", &["link", "set", end, "mtu", mtu, "up"]);
    }
    let (site, zone) = (Site::new(), Zone::new(10));
    site.add("big", &noise(1, BIG));
    let config = site.path("nty.toml");
    let apps = format!(
        "[[app]]\nkind = \"echo\"\n[[app]]\nkind = \"dns\"\nzone = [{:?}]\n[[app]]\nkind = \"http\"\nroot = {:?}\nupload = true\n",
        zone.spec(),
        site.root(),
    );
    fs::write(&config, apps).unwrap();
    let device = format!("{kind}:{}", WIRE[0]);
    let mut command = Command::new(NTY);
    command.arg("run").arg(&config).args(["--device", &device, "--addr", OURS_NET]);
    command.stdin(Stdio::null());
    let nty = Nty::start(command);
    for size in ["0", "56", "1472", "20000"] {
        run("ping", &["-q", "-c", "2", "-i", "0.05", "-W", "5", "-s", size, "10.0.0.2"]);
    }
    dig_over_udp_and_tcp();
    curl_both_ways(&site);
    echo_in_parallel(&nty);
    nty.stop();
    run("ip", &["link", "del", WIRE[0]]);
}

#[test]
fn everything_works_over_a_packet_socket() {
    in_namespace(|| serves("packet", "1500"));
}

#[test]
fn everything_works_over_a_packet_socket_at_mtu_9000() {
    in_namespace(|| serves("packet", "9000"));
}

#[test]
fn everything_works_over_xdp() {
    in_namespace(|| serves("xdp", "1500"));
}

#[test]
fn everything_works_over_xdp_at_mtu_9000() {
    in_namespace(|| serves("xdp", "9000"));
}

#[test]
fn devices_are_listed_with_the_flag_to_type() {
    in_namespace(|| {
        run("ip", &["link", "add", WIRE[0], "type", "veth", "peer", "name", WIRE[1]]);
        run("ip", &["addr", "add", HOST_NET, "dev", WIRE[1]]);
        run("ip", &["link", "set", WIRE[1], "mtu", "1400", "up"]);
        let text = run(NTY, &["devices"]);
        let of = |name: &str| {
            let start = text.find(&format!("{name}: ")).unwrap_or_else(|| panic!("{name}: {text}"));
            text[start..]
                .split("\n    ")
                .take_while(|line| !line.contains("lo: "))
                .collect::<Vec<_>>()
                .join("\n")
        };
        let host = of(WIRE[1]);
        for part in ["up, MTU 1400", "veth", HOST_NET, "--device packet:ntyhost", "--device xdp:ntyhost"] {
            assert!(host.contains(part), "{part}: {text}");
        }
        assert!(of(WIRE[0]).contains("down, MTU 1500") && text.contains("--device xdp:ntywire"), "{text}");
        run("ip", &["link", "del", WIRE[0]]);
    });
}
