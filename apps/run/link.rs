//! From the settings of a plan to a runtime whose addresses are usable.

use super::sharing::{self, Sharing};
use super::{RunError, fault};
use crate::cli::StackConfig;
use crate::values::Span;
use nty_epoll::Runtime;
use ntytcp::device::Device;
use ntytcp::device::fault::Fault;
use ntytcp::device::spec::{DeviceSpec, OpenOptions};
use ntytcp::device::trace::Trace;
use ntytcp::rng::seed_from;
use ntytcp::shard::{IdlePolicy, MonotonicClock, Shard, system_seed};
use ntytcp::stack::arp::{Defense, GuardConfig, GuardState};
use ntytcp::stack::route::{InterfaceAddr, Prefix, Route};
use ntytcp::stack::{InterfaceConfig, InterfaceId, Stack};
use ntytcp::tcp::KeepAlive;
use ntytcp::wire::MacAddr;
use siphasher::sip::SipHasher13;
use std::hash::Hasher as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};
use tracing::info;

/// Opens the device of a plan, builds the stack on it and waits until its addresses are known to be free. Also answers what the stack
/// shares with the kernel.
///
/// # Errors
/// [`RunError`]: a setting that makes no sense, a device that cannot be opened, an address that another station has.
pub(super) fn open(config: &StackConfig) -> Result<(Runtime, Sharing), RunError> {
    let spec: DeviceSpec = config.device.parse().map_err(|error| RunError::Usage(format!("{error}")))?;
    let faults = config.fault.as_deref().map(fault::parse).transpose().map_err(RunError::Usage)?;
    let addrs = interface_addrs(config)?;

    check_addrs(&spec, config)?;
    let mut sharing = Sharing::plan(&spec, config)?;
    let mac = sharing.station.or(config.mac.map(|mac| MacAddr(mac.0))).unwrap_or_else(|| derived_mac(config));
    let mut options = OpenOptions::default();
    options.mtu = config.mtu.map(usize::from);
    options.busy_poll = config.busy_poll;
    options.host_addrs = config.host_addrs.iter().map(|a| (a.addr, a.prefix)).collect();
    options.owned = sharing.on_device();
    let mut device: Box<dyn Device + Send> = spec.open(&options)?;
    let caps = *device.caps();
    info!(target: "nty", device = %spec, mtu = caps.mtu, tx_checksum = caps.tx_checksum, tso_max = caps.tso_max, "device");
    if let Some(spec) = faults {
        device = Box::new(Fault::new(device, spec.config, seed_from(spec.seed)));
    }
    if let Some(path) = &config.trace {
        let origin = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        device = Box::new(Trace::new(device, path, origin)?);
    }
    device = sharing.wrap(device, mac, config)?;

    let stack = Stack::new(settings(config, &sharing), system_seed().map_err(RunError::System)?)?;
    let idle = if config.busy_poll { IdlePolicy::BUSY_POLL } else { IdlePolicy::default() };
    let mut shard = Shard::new(stack, MonotonicClock::new(), idle).map_err(RunError::System)?;
    // RFC 5227 2.4 (c): others rely on a server's address, which is not given up because a station somewhere has it too.
    let guard = match sharing.kernel_speaks_arp() {
        true => GuardConfig::silent(),
        false => GuardConfig { defense: Defense::Always, ..GuardConfig::quick() },
    };
    let addrs = if config.mirror_kernel { Vec::new() } else { addrs };
    let interface = InterfaceConfig { mac, addrs, guard, ..InterfaceConfig::default() };
    let id = shard.attach(device, interface)?;
    for &gateway in &config.gateways {
        shard.stack_mut().add_route(default_route(gateway, id)?)?;
    }
    let mut runtime = Runtime::new(shard).map_err(RunError::Epoll)?;
    sharing.begin(&spec, &mut runtime)?;
    claim_addresses(&mut runtime, id, config)?;
    for addr in &config.addrs {
        info!(target: "nty", %addr, %mac, "address");
    }
    for gateway in &config.gateways {
        info!(target: "nty", %gateway, "route to other networks");
    }
    Ok((runtime, sharing))
}

/// Beside the kernel on one interface, an address must not be the kernel's too: it answers before we do.
fn check_addrs(spec: &DeviceSpec, config: &StackConfig) -> Result<(), RunError> {
    if spec.kind() != "packet" {
        return Ok(());
    }
    let interfaces = pnet::datalink::interfaces();
    let kernels = interfaces.iter().filter(|i| i.name == spec.argument()).flat_map(|i| &i.ips);
    match kernels.map(|network| network.ip()).find(|ip| config.addrs.iter().any(|a| a.addr == *ip)) {
        Some(ip) => {
            Err(RunError::Usage(format!("addr {ip} is the kernel's on {}: give another", spec.argument())))
        }
        None => Ok(()),
    }
}

/// The settings of the stack itself. A silent peer is asked four times in the second half of the time it is given.
fn settings(config: &StackConfig, sharing: &Sharing) -> ntytcp::stack::StackConfig {
    let mut settings = ntytcp::stack::StackConfig::default();
    if let Some(ports) = sharing::source_ports(config) {
        settings.ephemeral_ports = ports;
    }
    if sharing.kernel_speaks_arp() {
        // Of neighbors the kernel speaks, and it is right at once.
        settings.neighbors.lock_time = Duration::ZERO;
    }
    if let Some(limit) = config.peer_timeout.map(Span::duration) {
        settings.tcp.socket.user_timeout = Some(limit);
        settings.tcp.socket.keepalive = Some(KeepAlive { idle: limit / 2, interval: limit / 8, count: 4 });
    }
    settings
}

/// The addresses of the interface. IPv6 is refused as long as the stack does not speak it.
fn interface_addrs(config: &StackConfig) -> Result<Vec<InterfaceAddr>, RunError> {
    let addr = |a: &crate::values::Cidr| match a.addr {
        IpAddr::V4(_) => InterfaceAddr::new(a.addr, a.prefix)
            .map_err(|error| RunError::Usage(format!("addr {a}: {error}"))),
        IpAddr::V6(_) => {
            Err(RunError::Usage(format!("addr {a}: the stack does not speak IPv6 yet: give an IPv4 address")))
        }
    };
    config.addrs.iter().map(addr).collect()
}

fn default_route(gateway: IpAddr, interface: InterfaceId) -> Result<Route, RunError> {
    let any = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    let prefix: Prefix =
        any.parse().map_err(|error| RunError::Usage(format!("gateway {gateway}: {error}")))?;
    Ok(Route { prefix, interface: interface.0, gateway: Some(gateway), source: None, metric: 0 })
}

/// Goes on until each address is known to be ours or somebody else's (RFC 5227).
fn claim_addresses(runtime: &mut Runtime, id: InterfaceId, config: &StackConfig) -> Result<(), RunError> {
    loop {
        runtime.turn()?;
        let mut probing = false;
        for (addr, state) in runtime.stack().addresses(id) {
            match state {
                GuardState::Lost(other) => {
                    return Err(RunError::Conflict {
                        addr: addr.addr(),
                        device: config.device.clone(),
                        other,
                    });
                }
                GuardState::Probing => probing = true,
                GuardState::Announcing | GuardState::Bound => {}
            }
        }
        if !probing {
            return Ok(());
        }
        runtime.shard().wait(Some(Duration::from_millis(10)), &[]).map_err(RunError::System)?;
    }
}

/// A locally administered address that is the same each time for the same device and address.
fn derived_mac(config: &StackConfig) -> MacAddr {
    let mut hasher = SipHasher13::new();
    hasher.write(config.device.as_bytes());
    for addr in &config.addrs {
        hasher.write(addr.to_string().as_bytes());
    }
    let [a, b, c, d, e, ..] = hasher.finish().to_be_bytes();
    MacAddr([0x02, a, b, c, d, e])
}
