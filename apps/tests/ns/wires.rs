//! The same programs over each device that reaches the kernel by a veth pair.

use crate::dns::{Zone, dig_over_udp_and_tcp};
use crate::files::{BIG, curl_both_ways};
use crate::streams::echo_in_parallel;
use crate::world::{HOST_NET, NTY, Nty, OURS_NET, Site, in_namespace, noise, run, try_run};
use std::fs;
use std::process::{Command, Stdio};

/// Our end of the pair, and the kernel's.
pub(crate) const WIRE: [&str; 2] = ["ntywire", "ntyhost"];

/// A pair of which one end is ours.
fn veth(mtu: &str) {
    run("ip", &["link", "add", WIRE[0], "type", "veth", "peer", "name", WIRE[1]]);
    run("ip", &["addr", "add", HOST_NET, "dev", WIRE[1]]);
    for end in WIRE {
        run("ip", &["link", "set", end, "mtu", mtu, "up"]);
    }
}

/// Lengths of what is pinged with; the last one comes in fragments.
const PINGS: [&str; 4] = ["0", "56", "1472", "20000"];

/// Echo, DNS and HTTP over a device given by these flags, and the kernel's programs as their clients, once `prepare` has been done to the
/// kernel's side.
fn serves(flags: &[&str], prepare: impl FnOnce()) -> Nty {
    // This driver has the kernel put fragments together, and cuts what is longer than a slot.
    let is_defragmented = flags.iter().any(|flag| flag.contains("net_af_packet"));
    let (site, zone) = (Site::new(), Zone::new(10));
    site.add("big", &noise(1, BIG));
    let config = site.path("nty.toml");
    let apps = format!(
        "[[app]]\nkind = \"echo\"\n[[app]]\nkind = \"dns\"\nzone = [{:?}]\n[[app]]\nkind = \"http\"\nroot = {:?}\nupload = true\n",
        zone.spec(),
        site.root(),
    );
    fs::write(&config, apps).unwrap();
    let mut command = Command::new(NTY);
    command.arg("run").arg(&config).args(["--addr", OURS_NET]).args(flags);
    command.stdin(Stdio::null());
    let nty = Nty::start(command);
    prepare();
    for size in PINGS.iter().filter(|size| !is_defragmented || size.len() < 5) {
        run("ping", &["-q", "-c", "2", "-i", "0.05", "-W", "5", "-s", size, "10.0.0.2"]);
    }
    dig_over_udp_and_tcp();
    curl_both_ways(&site);
    echo_in_parallel(&nty);
    nty
}

fn serves_on_a_pair(kind: &str, mtu: &str, more: &[&str]) {
    veth(mtu);
    serves(&[&["--device", &format!("{kind}:{}", WIRE[0])], more].concat(), || ()).stop();
    run("ip", &["link", "del", WIRE[0]]);
}

#[test]
fn everything_works_over_a_packet_socket() {
    in_namespace(|| serves_on_a_pair("packet", "1500", &[]));
}

#[test]
fn everything_works_over_a_packet_socket_at_mtu_9000() {
    in_namespace(|| serves_on_a_pair("packet", "9000", &["--interrupt"]));
}

#[test]
fn everything_works_over_xdp() {
    in_namespace(|| serves_on_a_pair("xdp", "1500", &[]));
}

#[test]
fn everything_works_over_xdp_at_mtu_9000() {
    in_namespace(|| serves_on_a_pair("xdp", "9000", &["--interrupt"]));
}

/// The same on three shards, of which each had its part.
fn shares(flags: &[&str]) {
    let counters = serves(&[flags, &["--shards", "3"]].concat(), || ()).stop();
    for shard in 0..3 {
        let frames = counters.get(&format!("shard{shard}-rx-frames"));
        assert!(frames > 1_000, "shard {shard} received {frames} frames");
    }
    assert_eq!(counters.get("device0-lane-full"), 0);
}

#[test]
fn everything_works_on_three_shards_over_a_tap() {
    in_namespace(|| shares(&["--device", "tap:ntywire", "--host-addr", HOST_NET]));
}

#[test]
fn everything_works_on_three_shards_over_a_packet_socket() {
    in_namespace(|| {
        veth("1500");
        shares(&["--device", "packet:ntywire"]);
        run("ip", &["link", "del", WIRE[0]]);
    });
}

#[test]
fn everything_works_on_three_shards_over_xdp() {
    in_namespace(|| {
        veth("1500");
        shares(&["--device", "xdp:ntywire"]);
        run("ip", &["link", "del", WIRE[0]]);
    });
}

#[cfg(feature = "dpdk")]
mod dpdk {
    use super::*;
    use crate::world::{Counters, Program, interfaces};

    const NO_HUGE: &str = "--no-huge -m 512 --iova-mode=va";

    #[test]
    fn everything_works_over_dpdk_on_xdp() {
        in_namespace(|| {
            veth("1500");
            serves(&["--device", &format!("dpdk:net_af_xdp0,iface=ntywire {NO_HUGE}")], || ()).end();
            run("ip", &["link", "del", WIRE[0]]);
        });
    }

    #[test]
    fn everything_works_over_dpdk_on_a_packet_socket_which_has_no_interrupts() {
        in_namespace(|| {
            veth("1500");
            let device = format!("dpdk:net_af_packet0,iface=ntywire {NO_HUGE}");
            let flags = ["echo", "--device", &device, "--addr", OURS_NET, "--interrupt"];
            let refused = try_run(NTY, &flags);
            let said = String::from_utf8(refused.stderr).unwrap();
            assert!(
                refused.status.code() == Some(2) && said.contains("can only be polled: leave interrupt out"),
                "{said}"
            );
            // It cuts trains off, too.
            run("ethtool", &["-K", WIRE[1], "tso", "off", "gso", "off"]);
            serves(&["--device", &device], || ()).end();
            run("ip", &["link", "del", WIRE[0]]);
        });
    }

    /// Everything between two processes of ours on a wire that only DPDK has: servers at one end, and at the other a wire on to a TAP, behind
    /// which the kernel's programs are their clients.
    fn serves_another_process(ours: &str, theirs: &str) -> Counters {
        let dir = tempfile::tempdir().unwrap();
        let device = |end: &str| {
            let path = dir.path().join("wire.sock");
            format!("dpdk:{} {NO_HUGE}", end.replace("PATH", path.to_str().unwrap()))
        };
        let mut other = None;
        let nty = serves(&["--device", &device(ours)], || {
            let mut command = Command::new(NTY);
            command.args(["fwd", "--device", "tap:ntyhost", "--device", &device(theirs)]);
            command.stdin(Stdio::null());
            other = Some(Program::start(command));
            run("ip", &["addr", "add", HOST_NET, "dev", "ntyhost"]);
        });
        let counters = nty.end().0;
        drop(other);
        counters
    }

    #[test]
    fn everything_works_between_two_processes_over_memif() {
        in_namespace(|| {
            let [server, client] = ["server", "client"]
                .map(|role| format!("net_memif0,role={role},socket=PATH,socket-abstract=no"));
            serves_another_process(&server, &client);
        });
    }

    #[test]
    fn everything_works_between_two_processes_over_virtio_in_trains() {
        in_namespace(|| {
            let (vhost, virtio) = ("net_vhost0,iface=PATH,tso=1", "net_virtio_user0,path=PATH,mrg_rxbuf=1");
            let counters = serves_another_process(vhost, virtio);
            let per_frame = counters.get("tx-bytes") / counters.get("tx-frames");
            assert!(per_frame > 3_000, "{per_frame} bytes per frame: {counters:?}");
        });
    }

    #[test]
    fn everything_works_over_dpdk_on_a_tap_and_a_killed_program_leaves_nothing() {
        in_namespace(|| {
            let device = format!("dpdk:net_tap0,iface=ntytap {NO_HUGE}");
            let address = || {
                run("ip", &["addr", "add", HOST_NET, "dev", "ntytap"]);
            };
            for killed in [false, true] {
                // This driver has interrupts.
                let idle: &[&str] = if killed { &[] } else { &["--interrupt"] };
                let nty = serves(&[&["--device", &device], idle].concat(), address);
                let maps = fs::read_to_string(format!("/proc/{}/maps", nty.pid())).unwrap();
                for place in ["/run/dpdk", "/dev/hugepages"] {
                    assert!(!maps.contains(place), "EAL keeps no file: {maps}");
                }
                if killed {
                    nty.kill();
                } else {
                    nty.end();
                }
                assert_eq!(interfaces(), ["lo"]);
            }
        });
    }
}

#[test]
fn devices_are_listed_with_the_flag_to_type_and_the_kernels_address_is_not_taken() {
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
        let own = ["echo", "--device", "packet:ntyhost", "--addr", HOST_NET];
        let refused = try_run(NTY, &own);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(
            refused.status.code() == Some(2) && said.contains("10.0.0.1 is the kernel's on ntyhost"),
            "{said}"
        );
        let host = of(WIRE[1]);
        for part in ["up, MTU 1400", "veth", HOST_NET, "--device packet:ntyhost", "--device xdp:ntyhost"] {
            assert!(host.contains(part), "{part}: {text}");
        }
        assert!(of(WIRE[0]).contains("down, MTU 1500") && text.contains("--device xdp:ntywire"), "{text}");
        run("ip", &["link", "del", WIRE[0]]);
    });
}

/// A capture of so many DNS queries from 10.0.0.9, a millisecond apart.
fn queries(count: u16) -> Vec<u8> {
    let mut file =
        [&0xa1b2_c3d4_u32.to_le_bytes()[..], &[2, 0, 4, 0], &[0; 8], &[0, 0, 4, 0], &[1, 0, 0, 0]].concat();
    for n in 0..count {
        let dns = [&n.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1]].concat();
        let udp = [&[0x30, 0x39, 0, 53, 0, 8 + dns.len() as u8, 0, 0], &dns[..]].concat();
        let mut ip = [0x45, 0, 0, 20 + udp.len() as u8, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 9, 10, 0, 0, 2];
        let sum: u32 = ip.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        ip[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
        let frame = [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 9, 8, 0][..], &ip, &udp].concat();
        let len = (frame.len() as u32).to_le_bytes();
        file.extend([&[0; 4][..], &(u32::from(n) * 1_000).to_le_bytes(), &len, &len, &frame].concat());
    }
    file
}

#[test]
fn replayed_queries_are_answered_and_it_is_told_when_they_are_not() {
    in_namespace(|| {
        run("ip", &["link", "add", WIRE[0], "type", "veth", "peer", "name", WIRE[1]]);
        for end in WIRE {
            run("ip", &["link", "set", end, "up"]);
        }
        let (site, zone) = (Site::new(), Zone::new(10));
        site.add("queries.pcap", &queries(500));
        let mut command = Command::new(NTY);
        command.args(["dns", "--device", "packet:ntywire", "--addr", OURS_NET, "--mac", "02:00:00:00:00:02"]);
        command.args(["--zone", &zone.spec()]).stdin(Stdio::null());
        let nty = Nty::start(command);
        let file = site.path("queries.pcap");
        let replay = |more: &[&str]| {
            let args = ["replay", file.to_str().unwrap(), "--device", "packet:ntyhost", "--expect", "dns"];
            let output = try_run(NTY, &[&args[..], more].concat());
            let said = [output.stdout, output.stderr].concat();
            (output.status.code(), String::from_utf8(said).unwrap())
        };
        for pace in [&["--pps", "10000"][..], &["--pps", "20000", "--loops", "3"], &["--speed", "4"]] {
            let (status, said) = replay(pace);
            let all = if pace.len() > 2 {
                "dns: 1500 queries, 1500 answered, 0 not"
            } else {
                "dns: 500 queries, 500 answered, 0 not"
            };
            assert!(status == Some(0) && said.contains(all), "{pace:?}: {said}");
        }
        let (status, said) = replay(&["--to-port", "54", "--fast", "--linger", "10ms"]);
        assert!(
            status == Some(0) && said.contains("dns: 0 queries"),
            "what goes to another port is no query: {said}"
        );
        nty.stop();
        // A capture behind segmentation offload has frames that no device can carry.
        let mut long = queries(1);
        let frame = [[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 9, 8, 0].to_vec(), vec![0; 3_000]].concat();
        let len = (frame.len() as u32).to_le_bytes();
        long.extend([&[0; 8][..], &len, &len, &frame].concat());
        site.add("long.pcap", &long);
        let file = site.path("long.pcap");
        let said = run(NTY, &["replay", file.to_str().unwrap(), "--device", "mem:", "--linger", "1ms"]);
        assert!(
            said.contains("sent 1 frames") && said.contains("left out 1 frames that are longer"),
            "{said}"
        );
        let (status, said) = replay(&["--fast", "--linger", "100ms"]);
        assert!(status == Some(1) && said.contains("500 queries, 0 answered, 500 not"), "{said}");
        run("ip", &["link", "del", WIRE[0]]);
    });
}
