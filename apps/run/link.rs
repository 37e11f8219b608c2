//! From the settings of a plan to runtimes, one per shard, whose addresses are usable.

use super::sharing::{self, Sharing};
use super::{RunError, fault};
use crate::cli::{Idle, StackConfig};
use crate::device::station;
use crate::values::Span;
use nty_epoll::Runtime;
use ntytcp::device::fault::Fault;
use ntytcp::device::lanes;
use ntytcp::device::spec::{BoxedDevice, DeviceSpec, OpenOptions};
use ntytcp::device::trace::Trace;
use ntytcp::device::{Device as _, TxQueue as _};
use ntytcp::mirror::KernelConfig;
use ntytcp::placement::{Place, Placement};
use ntytcp::rng::{Rng, seed_from};
use ntytcp::shard::{IdlePolicy, MonotonicClock, Shard, system_seed};
use ntytcp::stack::arp::{Defense, GuardConfig, GuardState};
use ntytcp::stack::route::{InterfaceAddr, Prefix, Route};
use ntytcp::stack::{InterfaceConfig, InterfaceId, Stack};
use ntytcp::steering::Steering;
use ntytcp::tcp::KeepAlive;
use ntytcp::wire::MacAddr;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tracing::info;

/// A stack of ours has one.
pub(super) const INTERFACE: InterfaceId = InterfaceId(0);

/// What one shard's stack is made of, to be moved to the thread that drives it.
pub(super) struct Seat {
    device: BoxedDevice,
    settings: ntytcp::stack::StackConfig,
    interface: InterfaceConfig,
    gateways: Vec<IpAddr>,
    idle: IdlePolicy,
    /// The same for all shards, so that they count time from the same moment.
    clock: MonotonicClock,
    /// What the kernel's interface has, if the stack is to have it too.
    mirrored: Option<KernelConfig>,
}

impl Seat {
    /// Builds the stack on this thread.
    ///
    /// # Errors
    /// [`RunError`]: a setting that makes no sense, or what the system refuses.
    pub(super) fn take(self) -> Result<Runtime, RunError> {
        let stack = Stack::new(self.settings, system_seed().map_err(RunError::System)?)?;
        let mut shard = Shard::new(stack, self.clock, self.idle);
        let id = shard.attach(self.device, self.interface)?;
        for gateway in self.gateways {
            shard.stack_mut().add_route(default_route(gateway, id)?)?;
        }
        let mut runtime = Runtime::new(shard).map_err(RunError::Epoll)?;
        if let Some(kernel) = &self.mirrored {
            mirror(kernel, &mut runtime)?;
        }
        Ok(runtime)
    }
}

/// Gives the stack what the kernel's interface has.
///
/// # Errors
/// The stack refuses it.
pub(super) fn mirror(kernel: &KernelConfig, runtime: &mut Runtime) -> Result<(), RunError> {
    let now = runtime.shard().now();
    Ok(kernel.apply(now, runtime.stack(), INTERFACE)?)
}

/// Opens the device of a plan: for each shard its part of it, and the settings of its stack. The first one has to claim the addresses.
/// Also answers what the stack shares with the kernel.
///
/// # Errors
/// [`RunError`]: a setting that makes no sense, a device that cannot be opened.
pub(super) fn open(config: &StackConfig) -> Result<(Vec<Seat>, Sharing), RunError> {
    let spec: DeviceSpec = config.device.parse().map_err(|error| RunError::Usage(format!("{error}")))?;
    let addrs = interface_addrs(config)?;
    check_addrs(&spec, config)?;
    let mut sharing = Sharing::plan(&spec, config)?;
    let mut rng = Rng::new(system_seed().map_err(RunError::System)?);
    let placement = Arc::new(Placement::new(Arc::new(Steering::new(config.shards, &mut rng))));
    let given = sharing.station.or(config.mac.map(|mac| MacAddr(mac.0)));
    let mac = given.unwrap_or_else(|| station(&config.device, config.addrs.iter().map(ToString::to_string)));
    // RFC 5227 2.4 (c): others rely on a server's address, which is not given up because a station somewhere has it too.
    let claim = GuardConfig { defense: Defense::Always, ..GuardConfig::quick() };
    let devices = open_device(&spec, config, &placement, (&sharing, mac))?;
    sharing.begin()?;
    let clock = MonotonicClock::new();
    let seat = |(shard, device): (usize, BoxedDevice)| Seat {
        device,
        settings: settings(
            config,
            &sharing,
            (config.shards > 1).then(|| Place { placement: placement.clone(), shard }),
        ),
        interface: InterfaceConfig {
            mac,
            addrs: if config.mirror_kernel { Vec::new() } else { addrs.clone() },
            guard: if shard == 0 && !sharing.kernel_speaks_arp() { claim } else { GuardConfig::delegated() },
            ..InterfaceConfig::default()
        },
        gateways: config.gateways.clone(),
        idle: config.idle.policy(),
        clock,
        mirrored: sharing.mirrored(),
    };
    for addr in &config.addrs {
        info!(target: "nty", %addr, %mac, "address");
    }
    for gateway in &config.gateways {
        info!(target: "nty", %gateway, "route to other networks");
    }
    let seats = devices.into_iter().enumerate().map(seat).collect();
    Ok((seats, sharing))
}

/// Opens the device: for each shard its part of it.
fn open_device(
    spec: &DeviceSpec,
    config: &StackConfig,
    placement: &Arc<Placement>,
    (sharing, mac): (&Sharing, MacAddr),
) -> Result<Vec<BoxedDevice>, RunError> {
    let faults = config.fault.as_deref().map(fault::parse).transpose().map_err(RunError::Usage)?;
    let mut options = OpenOptions::default();
    options.mtu = config.mtu.map(usize::from);
    options.busy_poll = config.idle == Idle::Busy;
    options.host_addrs = config.host_addrs.iter().map(|a| (a.addr, a.prefix)).collect();
    options.owned = sharing.on_device();
    options.steering = (config.shards > 1).then(|| placement.steering().clone());
    let mut queues = spec.open_queues(&options)?;
    if let Some(caps) = queues.first().map(|queue| *queue.caps()) {
        let (queues, shards) = (queues.len(), config.shards);
        info!(target: "nty", device = %spec, mtu = caps.mtu, tx_checksum = caps.tx_checksum, tso_max = caps.tso_max, queues, shards, "device");
    }
    if config.idle == Idle::Interrupt {
        check_interrupts(spec, &mut queues)?;
    }
    if let Some(spec) = faults {
        let bad =
            |(queue, seed)| Box::new(Fault::new(queue, spec.config.clone(), seed_from(seed))) as BoxedDevice;
        queues = queues.into_iter().zip(spec.seed..).map(bad).collect();
    }
    if let Some(path) = &config.trace {
        let origin = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut traced = Vec::new();
        for (n, queue) in queues.into_iter().enumerate() {
            traced.push(Box::new(Trace::new(queue, trace_path(path, n), origin)?) as BoxedDevice);
        }
        queues = traced;
    }
    queues.truncate(config.shards);
    let mut devices = sharing.except(queues, mac, config)?;
    if config.shards > 1 {
        let lanes = lanes::connect(devices, placement)?;
        devices = lanes.into_iter().map(|lanes| Box::new(lanes) as BoxedDevice).collect();
    }
    devices.into_iter().map(|device| sharing.resolve(device)).collect()
}

/// Whether each queue tells when a frame arrives: some say so only once they are asked to.
fn check_interrupts(spec: &DeviceSpec, queues: &mut [BoxedDevice]) -> Result<(), RunError> {
    let tells = |queue: &mut BoxedDevice| {
        queue.arm();
        queue.poll_fd().is_some() || queue.is_exhausted()
    };
    if queues.iter_mut().all(tells) {
        return Ok(());
    }
    Err(RunError::Usage(format!(
        "interrupt: {spec} does not tell when a frame arrives, and can only be polled: leave interrupt out"
    )))
}

/// Each queue has a file of its own: `file.pcap`, `file.1.pcap`, and so on.
fn trace_path(path: &Path, queue: usize) -> PathBuf {
    let extension = path.extension().map_or_else(Default::default, |e| format!(".{}", e.display()));
    if queue == 0 { path.to_owned() } else { path.with_extension(format!("{queue}{extension}")) }
}

/// Beside the kernel on one interface, an address must not be the kernel's too: it answers before we do.
fn check_addrs(spec: &DeviceSpec, config: &StackConfig) -> Result<(), RunError> {
    let Some(name) = sharing::beside_kernel(spec) else { return Ok(()) };
    let interfaces = pnet::datalink::interfaces();
    let kernels = interfaces.iter().filter(|i| i.name == name).flat_map(|i| &i.ips);
    match kernels.map(|network| network.ip()).find(|ip| config.addrs.iter().any(|a| a.addr == *ip)) {
        Some(ip) => Err(RunError::Usage(format!("addr {ip} is the kernel's on {name}: give another"))),
        None => Ok(()),
    }
}

/// The settings of the stack itself. A silent peer is asked four times in the second half of the time it is given.
fn settings(config: &StackConfig, sharing: &Sharing, place: Option<Place>) -> ntytcp::stack::StackConfig {
    let mut settings = ntytcp::stack::StackConfig { place, ..ntytcp::stack::StackConfig::default() };
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
///
/// # Errors
/// [`RunError::Conflict`] when another station has one; the device is gone.
pub(super) fn claim_addresses(runtime: &mut Runtime, config: &StackConfig) -> Result<(), RunError> {
    loop {
        runtime.turn()?;
        let mut probing = false;
        for (addr, state) in runtime.stack().addresses(INTERFACE) {
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
