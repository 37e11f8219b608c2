//! One address for the stack and the kernel: each answers what is its own, and the stack follows the kernel's configuration.

use crate::dns::Zone;
use crate::world::{
    Counters, HOST_NET, NTY, Nty, OURS, OURS_NET, Site, in_namespace, noise, run, try_run, wait_until,
};
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

/// Our end of the pair, and the client's.
const WIRE: [&str; 2] = ["ntywire", "ntyhost"];
const TAP: &str = "ntytap";

/// The other end of a veth pair, in a namespace of its own, ended with the test.
struct Client {
    holder: Child,
    /// Where the kernel shows the namespace.
    namespace: String,
}

impl Client {
    fn new() -> Self {
        let queues = ["numtxqueues", "2", "numrxqueues", "2"];
        let pair = ["type", "veth", "peer", "name", WIRE[1]];
        run("ip", &[&["link", "add", WIRE[0]], &queues[..], &pair, &queues].concat());
        let client = Self::without_wire();
        client.take(WIRE[1]);
        run("ip", &["link", "set", WIRE[0], "up"]);
        client.run("ip", &["addr", "add", HOST_NET, "dev", WIRE[1]]);
        client
    }

    fn without_wire() -> Self {
        let holder = Command::new("unshare").args(["--net", "sleep", "infinity"]).spawn().unwrap();
        let namespace = format!("/proc/{}/ns/net", holder.id());
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        wait_until("the client has its namespace", || {
            fs::read_link(&namespace).is_ok_and(|other| other != own)
        });
        run("ip", &["link", "set", "lo", "up"]);
        let client = Self { holder, namespace };
        client.run("ip", &["link", "set", "lo", "up"]);
        client
    }

    /// Takes an interface over, and brings it up.
    fn take(&self, interface: &str) {
        run("ip", &["link", "set", interface, "netns", &self.holder.id().to_string()]);
        self.run("ip", &["link", "set", interface, "up"]);
    }

    fn args<'a>(&'a self, program: &'a str, args: &[&'a str]) -> Vec<String> {
        let inside = format!("--net={}", self.namespace);
        [&*inside, program].into_iter().chain(args.iter().copied()).map(str::to_owned).collect()
    }

    /// Runs a program there, which must succeed; what it said.
    fn run(&self, program: &str, args: &[&str]) -> String {
        let args = self.args(program, args);
        run("nsenter", &args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Whether a program succeeds there.
    fn succeeds(&self, program: &str, args: &[&str]) -> bool {
        let args = self.args(program, args);
        try_run("nsenter", &args.iter().map(String::as_str).collect::<Vec<_>>()).status.success()
    }

    fn ping(&self, addr: &str) {
        self.run("ping", &["-q", "-c", "3", "-i", "0.05", "-W", "5", addr]);
    }

    fn get(&self, addr: &str) -> String {
        self.run("curl", &["-sS", "--max-time", "20", &format!("http://{addr}/hello")])
    }

    /// What the kernel says on its port 22.
    fn ssh(&self, addr: &str) -> String {
        self.run("nc", &["-d", "-w", "20", addr, "22"])
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        // The pair goes with the namespace, some time later.
        let _ = Command::new("ip").args(["link", "del", WIRE[0]]).status();
    }
}

/// A server of the kernel's on port 22, until so many have connected.
fn kernel_server(connections: usize) -> JoinHandle<()> {
    let listener = TcpListener::bind("0.0.0.0:22").unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().take(connections) {
            stream.unwrap().write_all(b"the kernel\n").unwrap();
        }
    })
}

/// What the stack serves.
struct Served {
    site: Site,
    _zone: Zone,
}

impl Served {
    fn new() -> Self {
        let (site, zone) = (Site::new(), Zone::new(10));
        site.add("hello", b"the stack\n");
        let apps = format!(
            "[[app]]\nkind = \"dns\"\nzone = [{:?}]\n[[app]]\nkind = \"http\"\nroot = {:?}\n",
            zone.spec(),
            site.root(),
        );
        fs::write(site.path("nty.toml"), apps).unwrap();
        Self { site, _zone: zone }
    }

    fn start(&self, flags: &[&str]) -> Nty {
        let mut command = Command::new(NTY);
        command.arg("run").arg(self.site.path("nty.toml")).args(flags).stdin(Stdio::null());
        Nty::start(command)
    }
}

const OWN: &str = "tcp/80,tcp/53,udp/53";

/// So many that each of a few shards has some, of more than four frames each.
const CONNECTIONS: usize = 12;

/// The stack answers on 80 and 53, and the kernel ping and 22, all on the same address.
fn both_answer(client: &Client, addr: &str) {
    for _ in 0..2 {
        client.ping(addr);
        assert_eq!(client.ssh(addr), "the kernel\n");
        assert_eq!(client.get(addr), "the stack\n");
        for transport in ["+notcp", "+tcp"] {
            let server = format!("@{addr}");
            let args = [&*server, "+tries=3", "+time=5", transport, "+short", "h7.example.test", "A"];
            assert_eq!(client.run("dig", &args), "192.0.2.7\n");
        }
    }
}

/// Stack and kernel send much at the same time, on the same address and on several shards, and nothing is lost.
fn both_answer_under_load(client: &Client, served: &Served) {
    const CLIENTS: usize = 6;
    let big = noise(7, 4_000_000);
    served.site.add("big", &big);
    let listener = TcpListener::bind("0.0.0.0:2222").unwrap();
    let stack = ["-sS", "--max-time", "60", "http://10.0.0.2/big"];
    thread::scope(|scope| {
        scope.spawn(|| {
            for stream in listener.incoming().take(CLIENTS) {
                stream.unwrap().write_all(&big).unwrap();
            }
        });
        for _ in 0..CLIENTS {
            for (program, args) in [("nc", &["-d", "-w", "60", OURS, "2222"][..]), ("curl", &stack)] {
                let args = client.args(program, args);
                scope.spawn(move || {
                    let got = Command::new("nsenter").args(&args).stdin(Stdio::null()).output().unwrap();
                    assert!(got.status.success() && got.stdout == noise(7, 4_000_000), "{args:?}");
                });
            }
        }
    });
    for _ in 0..CONNECTIONS {
        assert_eq!(client.get(OURS), "the stack\n");
    }
}

/// Three shards had their parts of that.
fn each_shard_had_a_part(counters: &Counters) {
    for shard in 0..3 {
        let frames = counters.get(&format!("shard{shard}-rx-frames"));
        assert!(frames > 4, "shard {shard} received {frames} frames: {counters:?}");
    }
}

#[test]
fn several_shards_and_the_kernel_share_an_address_under_xdp() {
    in_namespace(|| {
        let (client, served, server) = (Client::new(), Served::new(), kernel_server(2));
        run("ip", &["addr", "add", OURS_NET, "dev", WIRE[0]]);
        let flags = ["--device", "xdp:ntywire", "--addr", OURS_NET, "--own", OWN, "--shards", "3"];
        let nty = served.start(&flags);
        both_answer(&client, OURS);
        both_answer_under_load(&client, &served);
        each_shard_had_a_part(&nty.stop());
        server.join().unwrap();
    });
}

#[test]
fn several_shards_and_the_kernel_share_an_address_by_an_exception_tap_behind_a_packet_socket() {
    in_namespace(|| {
        let (client, served, server) = (Client::new(), Served::new(), kernel_server(2));
        ignore_arp();
        let nty = served.start(&[&BEHIND_PACKET[..], &["--addr", OURS_NET, "--shards", "3"]].concat());
        both_answer(&client, OURS);
        both_answer_under_load(&client, &served);
        each_shard_had_a_part(&nty.stop());
        server.join().unwrap();
    });
}

#[test]
fn several_shards_and_the_kernel_share_an_address_by_an_exception_tap_behind_a_tap() {
    in_namespace(|| {
        let (client, served, server) = (Client::without_wire(), Served::new(), kernel_server(2));
        let sharing = ["--device", "tap:ntywire", "--own", OWN, "--exception", "tap:ntytap"];
        let nty = served.start(&[&sharing[..], &["--addr", OURS_NET, "--shards", "3"]].concat());
        client.take(WIRE[0]);
        client.run("ip", &["addr", "add", HOST_NET, "dev", WIRE[0]]);
        both_answer(&client, OURS);
        both_answer_under_load(&client, &served);
        each_shard_had_a_part(&nty.stop());
        server.join().unwrap();
    });
}

#[test]
fn stack_and_kernel_share_an_address_under_xdp() {
    in_namespace(|| {
        let (client, served, server) = (Client::new(), Served::new(), kernel_server(4));
        run("ip", &["addr", "add", OURS_NET, "dev", WIRE[0]]);
        let nty = served.start(&["--device", "xdp:ntywire", "--addr", OURS_NET, "--own", OWN]);
        both_answer(&client, OURS);
        // Neither the other's nor nobody's port is answered by the wrong one.
        assert!(!client.succeeds("nc", &["-z", "-w", "5", OURS, "81"]));
        let counters = nty.stop();
        assert_eq!(counters.get("tcp-passive-opens"), 4, "{counters:?}");
        assert!(counters.get("device0-neighbors-answered") > 0, "{counters:?}");
        // kill -9 leaves the interface to the kernel alone.
        let nty = served.start(&["--device", "xdp:ntywire", "--addr", OURS_NET, "--own", OWN]);
        assert_eq!(client.get(OURS), "the stack\n");
        nty.kill();
        wait_until("the program is detached", || !run("ip", &["link", "show", WIRE[0]]).contains("xdp"));
        assert!(!client.succeeds("curl", &["-s", "--max-time", "20", "http://10.0.0.2/hello"]));
        client.ssh(OURS);
        client.ssh(OURS);
        server.join().unwrap();
    });
}

#[test]
fn stack_and_kernel_share_an_address_under_xdp_behind_the_driver() {
    in_namespace(|| {
        let (client, served, server) = (Client::new(), Served::new(), kernel_server(2));
        // A macvlan has no place for a program in its driver. What is below it must not answer ARP for it.
        ignore_arp();
        run("ip", &["link", "add", "link", WIRE[0], "name", "ntymv", "type", "macvlan", "mode", "bridge"]);
        run("ip", &["addr", "add", OURS_NET, "dev", "ntymv"]);
        run("ip", &["link", "set", "ntymv", "up"]);
        client.run("ethtool", &["-K", WIRE[1], "tx", "off", "gso", "off", "tso", "off"]);
        let nty = served.start(&["--device", "xdp:ntymv", "--addr", OURS_NET, "--own", OWN]);
        both_answer(&client, OURS);
        nty.kill();
        server.join().unwrap();
    });
}

#[test]
fn the_kernels_configuration_is_followed_under_xdp() {
    in_namespace(|| follow_under_xdp(&[]));
}

#[test]
fn the_kernels_configuration_is_followed_by_all_shards_under_xdp() {
    in_namespace(|| follow_under_xdp(&["--shards", "3"]));
}

fn follow_under_xdp(more: &[&str]) {
    let (client, served) = (Client::new(), Served::new());
    let flags = ["--device", "xdp:ntywire", "--mirror-kernel", "--own", OWN];
    let nty = served.start(&[&flags[..], more].concat());
    for (i, addr) in ["10.0.0.2", "10.0.0.3"].into_iter().enumerate() {
        run("ip", &["addr", "add", &format!("{addr}/24"), "dev", WIRE[0]]);
        let got = || client.succeeds("curl", &["-s", "--max-time", "5", &format!("http://{addr}/hello")]);
        wait_until("an address is taken over", got);
        for _ in 0..CONNECTIONS {
            assert_eq!(client.get(addr), "the stack\n", "address {i}");
        }
    }
    // Far away, behind the client.
    client.run("ip", &["addr", "add", "172.16.0.1/32", "dev", "lo"]);
    let far = ["-s", "--max-time", "2", "--interface", "172.16.0.1", "http://10.0.0.2/hello"];
    assert!(!client.succeeds("curl", &far), "there is no route yet");
    run("ip", &["route", "add", "172.16.0.0/16", "via", "10.0.0.1", "metric", "7"]);
    wait_until("a route is taken over", || client.succeeds("curl", &far));
    run("ip", &["route", "replace", "172.16.0.0/16", "via", "10.0.0.99", "metric", "7"]);
    wait_until("a route is replaced", || !client.succeeds("curl", &far));
    run("ip", &["route", "replace", "172.16.0.0/16", "via", "10.0.0.1", "metric", "7"]);
    wait_until("a route is replaced again", || client.succeeds("curl", &far));
    // The neighbor becomes another station, and the kernel is told.
    client.run("ip", &["link", "set", WIRE[1], "address", "02:00:00:00:00:77"]);
    run("ip", &["neigh", "replace", "10.0.0.1", "lladdr", "02:00:00:00:00:77", "dev", WIRE[0]]);
    assert_eq!(client.get(OURS), "the stack\n");
    // Down and up again: the kernel has lost its routes, and we with it, but for that of the network.
    run("ip", &["link", "set", WIRE[0], "down"]);
    run("ip", &["link", "set", WIRE[0], "up"]);
    wait_until("the link is up again", || {
        client.succeeds("curl", &["-s", "--max-time", "5", "http://10.0.0.2/hello"])
    });
    assert!(!client.succeeds("curl", &far));
    run("ip", &["addr", "del", "10.0.0.3/24", "dev", WIRE[0]]);
    let other = ["-s", "--max-time", "2", "http://10.0.0.3/hello"];
    wait_until("an address is given back", || !client.succeeds("curl", &other));
    assert_eq!(client.get(OURS), "the stack\n");
    nty.kill();
}

#[test]
fn connections_that_the_stack_makes_are_its_own_and_the_kernel_finds_their_next_hops() {
    in_namespace(|| {
        let client = Client::new();
        run("ip", &["addr", "add", OURS_NET, "dev", WIRE[0]]);
        let ours = ["--device", "xdp:ntywire", "--addr", OURS_NET, "--own", "icmp"];
        run("ip", &["neigh", "flush", "all"]);
        let ping = |peer: &str| {
            try_run(NTY, &[&["ping", peer, "--count", "2", "--interval", "50ms"], &ours[..]].concat())
        };
        let answered = ping("10.0.0.1");
        assert!(answered.status.success(), "{answered:?}");
        assert!(run("ip", &["neigh", "show", "10.0.0.1"]).contains("lladdr"), "the kernel has asked");
        assert_eq!(ping("10.0.0.77").status.code(), Some(1), "nobody is there");
        // A server behind the client's end, with an address and a station address of its own.
        let server = ["perf", "--server", "--device", "packet:ntyhost", "--addr", "10.0.0.9/24"];
        let mut command = Command::new("nsenter");
        command.args(client.args(NTY, &server)).stdin(Stdio::null());
        let server = Nty::start(command);
        run(NTY, &[&["perf", "--client", "10.0.0.9", "--time", "300ms"], &ours[..]].concat());
        let refused = try_run(NTY, &[&["echo"], &ours[..]].concat());
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && said.contains("add tcp/7 to own"), "{said}");
        server.kill();
    });
}

const BEHIND_PACKET: [&str; 6] = ["--device", "packet:ntywire", "--own", OWN, "--exception", "tap:ntytap"];

/// The kernel must not answer ARP for the TAP's address on the wire.
fn ignore_arp() {
    fs::write("/proc/sys/net/ipv4/conf/ntywire/arp_ignore", "1").unwrap();
}

#[test]
fn stack_and_kernel_share_an_address_by_an_exception_tap() {
    in_namespace(|| {
        let (client, served, server) = (Client::new(), Served::new(), kernel_server(3));
        let flags = [&BEHIND_PACKET[..], &["--addr", OURS_NET]].concat();
        let mut refused = Command::new(NTY);
        refused.arg("run").arg(served.site.path("nty.toml")).args(&flags);
        let said = String::from_utf8(refused.output().unwrap().stderr).unwrap();
        assert!(said.contains("sysctl -w net.ipv4.conf.ntywire.arp_ignore=1"), "{said}");
        ignore_arp();
        let nty = served.start(&flags);
        both_answer(&client, OURS);
        let mac = |text: &str| {
            text.split_whitespace().skip_while(|w| *w != "link/ether").nth(1).unwrap().to_owned()
        };
        let seen = client.run("ip", &["neigh", "show", OURS]);
        assert!(seen.contains(&mac(&run("ip", &["link", "show", TAP]))), "{seen}");
        // The wire's link is the TAP's.
        let carrier = || !run("ip", &["link", "show", TAP]).contains("NO-CARRIER");
        assert!(carrier());
        for (state, expected) in [("down", false), ("up", true)] {
            client.run("ip", &["link", "set", WIRE[1], state]);
            wait_until("the TAP follows the link", || carrier() == expected);
        }
        assert_eq!(client.get(OURS), "the stack\n");
        let counters = nty.stop();
        assert!(
            counters.get("device0-exception-to-kernel") > 10
                && counters.get("device0-exception-from-kernel") > 10,
            "{counters:?}"
        );
        assert_eq!(
            (counters.get("device0-exception-limited"), counters.get("tcp-passive-opens")),
            (0, 5),
            "{counters:?}"
        );
        // kill -9 takes the TAP with it.
        let nty = served.start(&flags);
        assert_eq!(client.ssh(OURS), "the kernel\n");
        nty.kill();
        wait_until("the TAP is gone", || !run("ip", &["link"]).contains(TAP));
        server.join().unwrap();
    });
}

/// A capture of one UDP datagram to a port that nobody owns.
fn unwanted() -> Vec<u8> {
    let mut ip = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let sum: u32 = ip.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    ip[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    let frame =
        [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 9, 8, 0][..], &ip, &[0x30, 0x39, 0, 9, 0, 8, 0, 0]].concat();
    let len = (frame.len() as u32).to_le_bytes();
    let head =
        [&0xa1b2_c3d4_u32.to_le_bytes()[..], &[2, 0, 4, 0], &[0; 8], &[0, 0, 4, 0], &[1, 0, 0, 0]].concat();
    [&head[..], &[0; 8], &len, &len, &frame].concat()
}

#[test]
fn a_flood_of_what_is_the_kernels_is_limited_and_does_not_starve_the_stack() {
    in_namespace(|| limit_a_flood(&[]));
}

#[test]
fn a_flood_of_what_is_the_kernels_is_limited_on_several_shards() {
    in_namespace(|| limit_a_flood(&["--shards", "3"]));
}

fn limit_a_flood(shards: &[&str]) {
    let (client, served) = (Client::new(), Served::new());
    ignore_arp();
    let more = ["--addr", OURS_NET, "--exception-rate", "500", "--mac", "02:00:00:00:00:02"];
    let nty = served.start(&[&BEHIND_PACKET[..], &more, shards].concat());
    assert_eq!(client.get(OURS), "the stack\n");
    served.site.add("unwanted.pcap", &unwanted());
    let capture = served.site.path("unwanted.pcap");
    let flood = [
        "replay",
        capture.to_str().unwrap(),
        "--device",
        "packet:ntyhost",
        "--pps",
        "20000",
        "--loops",
        "100000",
    ];
    let mut flood =
        Command::new("nsenter").args(client.args(NTY, &flood)).stdout(Stdio::null()).spawn().unwrap();
    nty.wait_for("device0-exception-limited", |limited| limited > 1_000);
    for _ in 0..10 {
        assert_eq!(client.get(OURS), "the stack\n");
    }
    client.ping("127.0.0.1");
    flood.kill().unwrap();
    flood.wait().unwrap();
    let counters = nty.stop();
    assert_eq!(counters.get("tcp-passive-opens"), 11, "{counters:?}");
}

#[test]
fn the_exception_taps_configuration_is_followed() {
    in_namespace(|| follow_the_tap(&[]));
}

#[test]
fn the_exception_taps_configuration_is_followed_by_all_shards() {
    in_namespace(|| follow_the_tap(&["--shards", "3"]));
}

fn follow_the_tap(more: &[&str]) {
    let (client, served, server) = (Client::new(), Served::new(), kernel_server(1));
    ignore_arp();
    let nty = served.start(&[&BEHIND_PACKET[..], &["--mirror-kernel"], more].concat());
    run("ip", &["addr", "add", OURS_NET, "dev", TAP]);
    wait_until("the address is taken over", || {
        client.succeeds("curl", &["-s", "--max-time", "5", "http://10.0.0.2/hello"])
    });
    assert_eq!(client.ssh(OURS), "the kernel\n");
    // The TAP becomes another station, and the stack with it.
    run("ip", &["link", "set", TAP, "address", "02:00:00:00:00:55"]);
    client.run("ip", &["neigh", "flush", "all"]);
    client.ping(OURS);
    wait_until("the station address is taken over", || {
        client.succeeds("curl", &["-s", "--max-time", "5", "http://10.0.0.2/hello"])
    });
    for _ in 0..CONNECTIONS {
        assert_eq!(client.get(OURS), "the stack\n");
    }
    assert!(client.run("ip", &["neigh", "show", OURS]).contains("02:00:00:00:00:55"));
    nty.kill();
    wait_until("the TAP is gone", || !run("ip", &["link"]).contains(TAP));
    server.join().unwrap();
}

#[cfg(feature = "dpdk")]
mod dpdk {
    use super::*;

    const NO_HUGE: &str = "--no-huge -m 512 --iova-mode=va";

    /// `nty` on a device of DPDK's, with the rest on a TAP.
    fn start(served: &Served, device: &str, more: &[&str]) -> Nty {
        let device = format!("dpdk:{device} {NO_HUGE}");
        let flags = ["--device", &*device, "--own", OWN, "--exception", "tap:ntytap", "--addr", OURS_NET];
        served.start(&[&flags[..], more].concat())
    }

    #[test]
    fn stack_and_kernel_share_an_address_by_an_exception_tap_behind_dpdk() {
        in_namespace(|| {
            let (client, served, server) = (Client::new(), Served::new(), kernel_server(4));
            let device = "net_af_packet0,iface=ntywire";
            let args = ["http", "--root", served.site.root(), "--own", "tcp/80", "--exception", "tap:ntytap"];
            let spec = format!("dpdk:{device} {NO_HUGE}");
            let refused = try_run(NTY, &[&args[..], &["--device", &spec, "--addr", OURS_NET]].concat());
            let said = String::from_utf8(refused.stderr).unwrap();
            assert!(said.contains("sysctl -w net.ipv4.conf.ntywire.arp_ignore=1"), "{said}");
            ignore_arp();
            // The driver cuts trains off.
            client.run("ethtool", &["-K", WIRE[1], "gso", "off", "tso", "off"]);
            for shards in ["1", "3"] {
                let nty = start(&served, device, &["--shards", shards]);
                both_answer(&client, OURS);
                both_answer_under_load(&client, &served);
                if shards == "3" {
                    // One queue brings all, and what is the stack's is handed over.
                    each_shard_had_a_part(&nty.end().0);
                } else {
                    nty.kill();
                }
                wait_until("the TAP is gone", || !run("ip", &["link"]).contains(TAP));
            }
            server.join().unwrap();
        });
    }

    #[test]
    fn the_exception_taps_configuration_is_followed_behind_dpdk() {
        in_namespace(|| {
            let (client, served, server) = (Client::without_wire(), Served::new(), kernel_server(1));
            let device = format!("dpdk:net_tap0,iface=ntywire {NO_HUGE}");
            let flags = ["--device", &*device, "--own", OWN, "--exception", "tap:ntytap", "--mirror-kernel"];
            let nty = served.start(&flags);
            client.take(WIRE[0]);
            client.run("ip", &["addr", "add", HOST_NET, "dev", WIRE[0]]);
            run("ip", &["addr", "add", OURS_NET, "dev", TAP]);
            wait_until("the address is taken over", || {
                client.succeeds("curl", &["-s", "--max-time", "5", "http://10.0.0.2/hello"])
            });
            client.ping(OURS);
            assert_eq!(client.ssh(OURS), "the kernel\n");
            nty.end();
            server.join().unwrap();
        });
    }
}
