//! The flags that every subcommand shares: the device, and who we are on it.

use super::sharing;
use crate::run::fault;
use crate::values::{Cidr, Claim, CpuList, Mac, Ports, Span, count, one_or_more, yes_or_no};
use ntytcp::device::exception::ExceptionConfig;
use ntytcp::device::spec::DeviceSpec;
use ntytcp::shard::IdlePolicy;
use ntytcp::stack::route::InterfaceAddr;
use ntytcp::steering::Steering;
use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

/// How long requests may take to end after a signal, if not told otherwise.
const DRAIN: Duration = Duration::from_secs(2);

/// The device and the addresses, as flags give them or as `[stack]` of a configuration file does.
#[derive(Clone, PartialEq, Eq, Debug, Default, clap::Args, serde::Deserialize)]
#[command(next_help_heading = "Stack")]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct StackArgs {
    /// Device: tap:NAME, packet:IFACE, xdp:IFACE, dpdk:ARGS, mem:, pcap:IN or pcap:IN,OUT; after the last frame of IN nothing more is received, which the log
    /// says, and a server goes on until a signal
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Our address with its prefix, as 10.0.0.2/24; repeat for more (IPv4 only so far)
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    #[serde(deserialize_with = "one_or_more")]
    pub addr: Vec<Cidr>,
    /// Router to other networks (IPv4 only so far)
    #[arg(long, value_name = "ADDRESS")]
    #[serde(deserialize_with = "one_or_more")]
    pub gateway: Vec<IpAddr>,
    /// Our Ethernet address [default: derived from the device, locally administered]
    #[arg(long, value_name = "MAC")]
    pub mac: Option<Mac>,
    /// Address for the kernel's side of a TAP; repeat for more
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    #[serde(deserialize_with = "one_or_more")]
    pub host_addr: Vec<Cidr>,
    /// What the stack takes of the packets to its addresses, which it then shares with the kernel, as tcp/80,udp/53: of tcp/PORT, udp/PORT,
    /// tcp/FIRST-LAST, tcp, udp, icmp, arp. The kernel has the rest, and without arp it speaks ARP for both. Takes xdp:IFACE, or --exception
    /// [default: everything]
    #[arg(long, value_name = "PACKETS", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_more")]
    pub own: Vec<Claim>,
    /// Take only packets to this one of our addresses; repeat for more [default: all of them]
    #[arg(long, value_name = "ADDRESS")]
    #[serde(deserialize_with = "one_or_more")]
    pub own_addr: Vec<IpAddr>,
    /// Ports that our own connections are made from [default: 32768-60999; with --own 61000-65535]
    #[arg(long, value_name = "FIRST-LAST")]
    pub source_ports: Option<Ports>,
    /// With --own: where the kernel gets the rest from, and answers, if it is not on the device itself: tap:NAME, with our Ethernet
    /// address and our addresses
    #[arg(long, value_name = "DEVICE")]
    pub exception: Option<String>,
    /// The most frames per second for the kernel on the way through --exception [default: 100000]
    #[arg(long, value_name = "FRAMES", value_parser = count::<NonZeroU32>(ExceptionConfig::MAX_RATE.into()))]
    pub exception_rate: Option<NonZeroU32>,
    /// Take addresses, routes and Ethernet address of the kernel's interface (of xdp:IFACE, or the --exception), and follow them
    #[arg(long)]
    #[serde(deserialize_with = "yes_or_no")]
    pub mirror_kernel: bool,
    /// Largest IP packet in bytes, 68 to 65535 [default: the device's]
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u16>,
    /// Give up a TCP peer that has been silent for so long though it should have answered; idle ones are asked in time
    /// [default: 15 tries for data, idle ones never]
    #[arg(long, value_name = "TIME")]
    pub peer_timeout: Option<Span>,
    /// Never sleep: poll the device all the time, for the least delay
    #[arg(long)]
    #[serde(deserialize_with = "yes_or_no")]
    pub busy_poll: bool,
    /// Sleep at once when there is nothing to do, for the least CPU [default: look for 20 us more where that has paid of late]
    #[arg(long)]
    #[serde(deserialize_with = "yes_or_no")]
    pub interrupt: bool,
    /// Threads that share the work of servers, each with a stack of its own; flows are spread over them, and stay where they are. 1 to 64
    /// [default: one, or as many as --cpu names]
    #[arg(long, value_name = "NUMBER", value_parser = count::<NonZeroU8>(Steering::MAX_SHARDS as u64))]
    pub shards: Option<NonZeroU8>,
    /// Cores for the shards, one each and in this order, as 2 or 0,2-4 [default: wherever the system puts them]
    #[arg(long, value_name = "CPUS")]
    pub cpu: Option<CpuList>,
    /// How long requests that are under way may take to end after a signal; a second signal ends them at once [default: 2s]
    #[arg(long, value_name = "TIME")]
    pub drain: Option<Span>,
    /// Answer on this Unix socket with all counters; made at the start, removed at the end
    #[arg(long, value_name = "PATH")]
    pub stats_socket: Option<PathBuf>,
    /// Write all frames to this file, over what it held: pcapng if its name ends so, else pcap
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Make the link bad: loss, corrupt, duplicate, reorder as 1%, delay, jitter as 20ms, rate as 100M, with in. or out. in
    /// front for one direction, seed=N; for example loss=1%,out.delay=20ms
    #[arg(long, value_name = "FAULTS")]
    pub fault: Option<String>,
}

/// What a shard does when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Idle {
    /// It goes on polling.
    Busy,
    /// It looks for a moment more where that has paid of late, and sleeps.
    Adaptive,
    /// It sleeps at once.
    Interrupt,
}

impl Idle {
    /// The same in the stack's terms.
    pub fn policy(self) -> IdlePolicy {
        match self {
            Self::Busy => IdlePolicy::BUSY_POLL,
            Self::Adaptive => IdlePolicy::default(),
            Self::Interrupt => IdlePolicy::INTERRUPT,
        }
    }
}

/// A stack whose settings agree with each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StackConfig {
    /// Kind and parameters of the device.
    pub device: String,
    /// Our addresses, each once; at least one, unless the kernel's are mirrored.
    pub addrs: Vec<Cidr>,
    /// Router of IPv4 (first) and IPv6, in no particular order; each on the network of one of our addresses.
    pub gateways: Vec<IpAddr>,
    /// Our Ethernet address, if it is not to be derived.
    pub mac: Option<Mac>,
    /// Addresses of the kernel's side of the TAP.
    pub host_addrs: Vec<Cidr>,
    /// What is ours of the packets to our addresses; nothing for everything.
    pub own: Vec<Claim>,
    /// To which of our addresses; nothing for all.
    pub own_addrs: Vec<IpAddr>,
    /// Ports of our own connections, if not the default.
    pub source_ports: Option<Ports>,
    /// The TAP on which the kernel has what is not ours, if that is not on the device itself.
    pub exception: Option<String>,
    /// Frames per second for it.
    pub exception_rate: Option<NonZeroU32>,
    /// Whether addresses and routes are the kernel's.
    pub mirror_kernel: bool,
    /// Largest IP packet, if not the device's.
    pub mtu: Option<u16>,
    /// How long a TCP peer may leave data or probes unanswered, if there is a limit.
    pub peer_timeout: Option<Span>,
    /// What to do when there is nothing to do.
    pub idle: Idle,
    /// How many shards, 1 to 64.
    pub shards: usize,
    /// The core of each shard, or none for any.
    pub cpus: Vec<usize>,
    /// How long what is under way may take after a signal.
    pub drain: Duration,
    /// Where to answer with counters.
    pub stats_socket: Option<PathBuf>,
    /// Where to write all frames.
    pub trace: Option<PathBuf>,
    /// What to do to the link.
    pub fault: Option<String>,
}

impl StackConfig {
    /// Whether there is a router to other IPv4 networks.
    pub fn has_gateway(&self) -> bool {
        self.mirror_kernel || self.gateways.iter().any(IpAddr::is_ipv4)
    }
}

/// A setting that is missing or contradicts another.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what}")]
pub struct StackError {
    /// The setting, by its name in a configuration file; the flag is the same behind two dashes.
    pub key: &'static str,
    pub(super) what: String,
}

impl StackArgs {
    /// These settings where given, those of `base` otherwise.
    pub fn or(self, base: Self) -> Self {
        fn list<T>(first: Vec<T>, second: Vec<T>) -> Vec<T> {
            if first.is_empty() { second } else { first }
        }
        Self {
            device: self.device.or(base.device),
            addr: list(self.addr, base.addr),
            gateway: list(self.gateway, base.gateway),
            mac: self.mac.or(base.mac),
            host_addr: list(self.host_addr, base.host_addr),
            own: list(self.own, base.own),
            own_addr: list(self.own_addr, base.own_addr),
            source_ports: self.source_ports.or(base.source_ports),
            exception: self.exception.or(base.exception),
            exception_rate: self.exception_rate.or(base.exception_rate),
            mirror_kernel: self.mirror_kernel || base.mirror_kernel,
            mtu: self.mtu.or(base.mtu),
            peer_timeout: self.peer_timeout.or(base.peer_timeout),
            // What the command line says, it says instead of the file.
            busy_poll: self.busy_poll || base.busy_poll && !self.interrupt,
            interrupt: self.interrupt || base.interrupt && !self.busy_poll,
            shards: self.shards.or(base.shards),
            cpu: self.cpu.or(base.cpu),
            drain: self.drain.or(base.drain),
            stats_socket: self.stats_socket.or(base.stats_socket),
            trace: self.trace.or(base.trace),
            fault: self.fault.or(base.fault),
        }
    }

    /// Checks what can be checked without opening anything.
    ///
    /// # Errors
    /// The first setting that is missing or contradicts another, and the remedy.
    pub fn check(self) -> Result<StackConfig, StackError> {
        let given = self.device.as_deref().filter(|device| !device.is_empty());
        let what = "no device: give --device tap:NAME, or device = \"tap:NAME\" in [stack]";
        let device = given.ok_or_else(|| StackError { key: "device", what: what.into() })?.to_owned();
        if let Err(error) = device.parse::<DeviceSpec>() {
            return Err(StackError { key: "device", what: error.to_string() });
        }
        sharing::check(&self, &device)?;
        self.check_addr().map_err(|what| StackError { key: "addr", what })?;
        self.check_gateway().map_err(|what| StackError { key: "gateway", what })?;
        self.check_host_addr(&device).map_err(|what| StackError { key: "host-addr", what })?;
        self.check_mtu().map_err(|what| StackError { key: "mtu", what })?;
        self.check_peer_timeout().map_err(|what| StackError { key: "peer-timeout", what })?;
        let idle = self.check_idle().map_err(|what| StackError { key: "interrupt", what })?;
        let (shards, cpus) = self.check_shards()?;
        if let Some(Err(what)) = self.fault.as_deref().map(fault::parse) {
            return Err(StackError { key: "fault", what });
        }
        let Self {
            device: _,
            addr: addrs,
            gateway: gateways,
            mac,
            host_addr: host_addrs,
            own,
            own_addr: own_addrs,
            source_ports,
            exception,
            exception_rate,
            mirror_kernel,
            mtu,
            peer_timeout,
            busy_poll: _,
            interrupt: _,
            shards: _,
            cpu: _,
            drain,
            stats_socket,
            trace,
            fault,
        } = self;
        Ok(StackConfig {
            device,
            addrs,
            gateways,
            mac,
            host_addrs,
            own,
            own_addrs,
            source_ports,
            exception,
            exception_rate,
            mirror_kernel,
            mtu,
            peer_timeout,
            idle,
            shards,
            cpus,
            drain: drain.map_or(DRAIN, Span::duration),
            stats_socket,
            trace,
            fault,
        })
    }

    fn check_idle(&self) -> Result<Idle, String> {
        match (self.busy_poll, self.interrupt) {
            (true, true) => {
                Err("interrupt with busy-poll: one sleeps at once, the other never: leave one out".into())
            }
            (true, false) => Ok(Idle::Busy),
            (false, true) => Ok(Idle::Interrupt),
            (false, false) => Ok(Idle::Adaptive),
        }
    }

    fn check_addr(&self) -> Result<(), String> {
        if self.addr.is_empty() && !self.mirror_kernel {
            return Err("no address: give --addr 10.0.0.2/24, or addr = \"10.0.0.2/24\" in [stack]".into());
        }
        for addr in &self.addr {
            InterfaceAddr::new(addr.addr, addr.prefix).map_err(|error| format!("address {addr}: {error}"))?;
        }
        match first_repeated(self.addr.iter().map(|a| a.addr)) {
            Some(twice) => Err(format!("address {twice} is given twice: leave one out")),
            None => Ok(()),
        }
    }

    fn check_gateway(&self) -> Result<(), String> {
        for gateway in &self.gateway {
            if !self.addr.iter().any(|a| is_on_link(a, *gateway)) {
                return Err(format!(
                    "gateway {gateway} is on the network of none of our addresses: give one that is"
                ));
            }
            if self.addr.iter().any(|a| a.addr == *gateway) {
                return Err(format!("gateway {gateway} is our own address: give the router's"));
            }
        }
        if first_repeated(self.gateway.iter().map(IpAddr::is_ipv6)).is_some() {
            return Err("two gateways of one address family: leave one out".into());
        }
        Ok(())
    }

    fn check_host_addr(&self, device: &str) -> Result<(), String> {
        if !self.host_addr.is_empty() && !device.starts_with("tap:") {
            return Err(format!(
                "device {device} has no kernel side to give an address to: leave host-addr out"
            ));
        }
        match self.host_addr.iter().find(|h| self.addr.iter().any(|a| a.addr == h.addr)) {
            Some(same) => Err(format!("{} would be ours and the kernel's: give two addresses", same.addr)),
            None => Ok(()),
        }
    }

    /// A silent peer is asked several times before it is given up, and timers count in milliseconds.
    fn check_peer_timeout(&self) -> Result<(), String> {
        match self.peer_timeout.filter(|timeout| timeout.duration() < Duration::from_millis(10)) {
            Some(_) => Err("peer-timeout is too short: give 10ms or more".to_owned()),
            None => Ok(()),
        }
    }

    /// How many shards, and their cores.
    fn check_shards(&self) -> Result<(usize, Vec<usize>), StackError> {
        let cpus = self.cpu.as_ref().map_or_else(Vec::new, |cpus| cpus.0.clone());
        let shards = self.shards.map_or(cpus.len().max(1), |shards| shards.get().into());
        const MOST: usize = Steering::MAX_SHARDS;
        if shards > MOST {
            let what = format!("{shards} shards are too many: give 1 to {MOST}");
            return Err(StackError { key: "shards", what });
        }
        if !cpus.is_empty() && cpus.len() != shards {
            let what = format!("cpu names {} cores for {shards} shards: name one for each", cpus.len());
            return Err(StackError { key: "cpu", what });
        }
        Ok((shards, cpus))
    }

    /// RFC 791 and RFC 8200: the packet that every link must carry.
    fn check_mtu(&self) -> Result<(), String> {
        let least = if self.addr.iter().any(|a| a.addr.is_ipv6()) { 1_280 } else { 68 };
        match self.mtu.filter(|&mtu| mtu < least) {
            Some(mtu) => Err(format!("mtu {mtu} is too small: give {least} to 65535")),
            None => Ok(()),
        }
    }
}

fn first_repeated<T: PartialEq>(items: impl Iterator<Item = T>) -> Option<T> {
    let mut seen = Vec::new();
    for item in items {
        if seen.contains(&item) {
            return Some(item);
        }
        seen.push(item);
    }
    None
}

/// Whether `other` is reached from `ours` without a router; link-local IPv6 always is.
fn is_on_link(ours: &Cidr, other: IpAddr) -> bool {
    let (a, b, bits) = match (ours.addr, other) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(_), IpAddr::V6(b)) if b.is_unicast_link_local() => return true,
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    let host_bits = bits - u32::from(ours.prefix).min(bits);
    (a ^ b).checked_shr(host_bits).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> StackArgs {
        StackArgs {
            device: Some("tap:t0".into()),
            addr: vec!["10.0.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
            gateway: vec!["10.0.0.1".parse().unwrap(), "fe80::1".parse().unwrap()],
            host_addr: vec!["10.0.0.1/24".parse().unwrap()],
            mtu: Some(1_500),
            ..StackArgs::default()
        }
    }

    #[test]
    fn contradicting_settings_are_refused_by_name() {
        assert!(good().check().is_ok());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let net = |text: &str| text.parse::<Cidr>().unwrap();
        for (bad, key) in [
            (StackArgs { device: None, ..good() }, "device"),
            (StackArgs { device: Some(String::new()), ..good() }, "device"),
            (StackArgs { addr: vec![], ..good() }, "addr"),
            (StackArgs { addr: vec![net("10.0.0.2/24"), net("10.0.0.2/16")], ..good() }, "addr"),
            (StackArgs { gateway: vec![ip("10.0.1.1")], ..good() }, "gateway"),
            (StackArgs { gateway: vec![ip("10.0.0.2")], ..good() }, "gateway"),
            (StackArgs { gateway: vec![ip("fd01::1")], ..good() }, "gateway"),
            (StackArgs { gateway: vec![ip("10.0.0.1"), ip("10.0.0.3")], ..good() }, "gateway"),
            (StackArgs { device: Some("mem:".into()), ..good() }, "host-addr"),
            (StackArgs { host_addr: vec![net("10.0.0.2/24")], ..good() }, "host-addr"),
            (StackArgs { peer_timeout: "9ms".parse().ok(), ..good() }, "peer-timeout"),
            (StackArgs { shards: NonZeroU8::new(65), ..good() }, "shards"),
            (StackArgs { shards: NonZeroU8::new(3), cpu: "0,1".parse().ok(), ..good() }, "cpu"),
            (StackArgs { busy_poll: true, interrupt: true, ..good() }, "interrupt"),
            (StackArgs { mtu: Some(1_279), ..good() }, "mtu"),
            (StackArgs { mtu: Some(67), addr: vec![net("10.0.0.2/24")], gateway: vec![], ..good() }, "mtu"),
        ] {
            let error = bad.clone().check().expect_err(key);
            assert_eq!(error.key, key, "{bad:?}");
            assert!(error.to_string().contains(": "), "names the remedy: {error}");
        }
        let v4 = StackArgs { mtu: Some(68), addr: vec![net("10.0.0.2/24")], gateway: vec![], ..good() };
        assert!(v4.check().is_ok());
    }

    #[test]
    fn what_a_shard_does_when_idle_is_said_last_on_the_command_line() {
        let (busy, interrupt) = (
            StackArgs { busy_poll: true, ..StackArgs::default() },
            StackArgs { interrupt: true, ..StackArgs::default() },
        );
        for (flags, file, expected) in [
            (StackArgs::default(), StackArgs::default(), Idle::Adaptive),
            (StackArgs::default(), interrupt.clone(), Idle::Interrupt),
            (busy.clone(), interrupt.clone(), Idle::Busy),
            (interrupt, busy, Idle::Interrupt),
        ] {
            assert_eq!(flags.or(file).or(good()).check().unwrap().idle, expected);
        }
    }

    #[test]
    fn cores_say_how_many_shards_there_are() {
        let config = StackArgs { cpu: "2,0-1".parse().ok(), ..good() }.check().unwrap();
        assert_eq!((config.shards, config.cpus), (3, vec![2, 0, 1]));
        let config = StackArgs { shards: NonZeroU8::new(2), ..good() }.check().unwrap();
        assert_eq!((config.shards, config.cpus), (2, vec![]));
        assert_eq!(good().check().unwrap().shards, 1);
    }

    #[test]
    fn flags_come_before_the_file() {
        let flags = StackArgs { device: Some("tap:x".into()), busy_poll: true, ..StackArgs::default() };
        let both = flags.or(good());
        assert_eq!((both.device.as_deref(), both.busy_poll), (Some("tap:x"), true));
        assert_eq!(both.addr, good().addr);
    }

    #[test]
    fn prefixes_of_any_length_decide_what_is_on_link() {
        let on_link = |ours: &str, other: &str| is_on_link(&ours.parse().unwrap(), other.parse().unwrap());
        assert!(on_link("10.0.0.2/0", "1.2.3.4") && on_link("fd00::2/0", "fd01::1"));
        assert!(on_link("10.0.0.2/31", "10.0.0.3") && !on_link("10.0.0.2/32", "10.0.0.3"));
        assert!(!on_link("10.0.0.2/0", "fd00::1"));
    }
}
