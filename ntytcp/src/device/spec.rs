//! Devices by name: the `KIND:ARGUMENT` strings of the command line and of configuration files.
//!
//! | string | device |
//! |---|---|
//! | `tap:NAME` | [`TapDevice`](super::tap::TapDevice): the kernel is at the other end. NAME is the whole name, without the kernel's `%d` |
//! | `packet:IFACE` | [`PacketDevice`](super::packet::PacketDevice): a packet socket on an interface that exists |
//! | `xdp:IFACE` | [`XdpDevice`](super::xdp::XdpDevice): the frames of an interface, past the kernel's stack |
//! | `dpdk:ARGS` | a DPDK port: a PCI address, a virtual device or options of EAL, with the feature `dpdk` |
//! | `pcap:IN[,OUT]` | [`PcapDevice`]: a capture is replayed, what is sent is written to another |
//! | `mem:` | a [`mem`] link whose other end is not connected: a stack that runs and hears nothing, for measuring what it costs |
//!
//! A new kind is one file beside this one and one line in `KINDS`.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use super::mem::{self, MemConfig};
use super::pcap::PcapDevice;
use super::{Device, DeviceError};
use crate::owned::SharedOwnership;
use crate::steering::Steering;

/// A device that [`open`] made, to be moved to the thread that drives it.
pub type BoxedDevice = Box<dyn Device + Send>;

/// One kind of device.
struct Kind {
    name: &'static str,
    /// What follows the colon, for messages; in brackets what may be left out.
    argument: &'static str,
    open: Opener,
}

/// How a kind is opened.
#[derive(Clone, Copy)]
enum Opener {
    /// It has one queue pair.
    One(fn(&str, &OpenOptions) -> Result<BoxedDevice, DeviceError>),
    /// It has as many as are asked for with [`OpenOptions::steering`], or fewer.
    Several(fn(&str, &OpenOptions) -> Result<Vec<BoxedDevice>, DeviceError>),
}

/// Every kind that this build has.
const KINDS: &[Kind] = &[
    #[cfg(target_os = "linux")]
    Kind { name: "tap", argument: "NAME", open: Opener::Several(open_tap) },
    #[cfg(target_os = "linux")]
    Kind { name: "packet", argument: "IFACE", open: Opener::Several(open_packet) },
    #[cfg(target_os = "linux")]
    Kind { name: "xdp", argument: "IFACE", open: Opener::Several(open_xdp) },
    #[cfg(feature = "dpdk")]
    Kind { name: "dpdk", argument: "ARGS", open: Opener::Several(open_dpdk) },
    Kind { name: "pcap", argument: "IN[,OUT]", open: Opener::One(open_pcap) },
    Kind { name: "mem", argument: "", open: Opener::One(open_mem) },
];

/// What a link carries that is made for the occasion.
const DEFAULT_MTU: usize = 1500;

/// What holds for a device of whatever kind.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OpenOptions {
    /// The largest IP packet in bytes. Default that of an interface that exists, and 1500 elsewhere.
    pub mtu: Option<usize>,
    /// Addresses for the kernel's side of the link, where it has one.
    pub host_addrs: Vec<(IpAddr, u8)>,
    /// Checksum and segmentation offload, where the device has it. Default on.
    pub offload: bool,
    /// The shard never sleeps, so that the device may leave the driver's interrupts off. Default off.
    pub busy_poll: bool,
    /// The device is there to look on: what this machine sends is received too, where the kind of device can have it, and each
    /// frame has its direction and its time ([`RxMeta`](super::RxMeta)). Default off.
    pub observe: bool,
    /// Which flow goes to which queue, and so how many queues there are to be. Default one queue.
    pub steering: Option<Arc<Steering>>,
    /// What the stack takes of the frames that arrive, where it shares the interface with the kernel and the device can tell them apart
    /// (`xdp`). Default: all.
    pub owned: Option<Arc<SharedOwnership>>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            mtu: None,
            host_addrs: Vec::new(),
            offload: true,
            busy_poll: false,
            observe: false,
            steering: None,
            owned: None,
        }
    }
}

impl OpenOptions {
    /// These options, and one more address for the kernel's side of the link.
    #[must_use]
    pub fn with_host_addr(mut self, addr: impl Into<IpAddr>, prefix: u8) -> Self {
        self.host_addrs.push((addr.into(), prefix));
        self
    }
}

/// A device by name: a kind that this build has, and its argument.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceSpec {
    kind: usize,
    argument: String,
}

impl DeviceSpec {
    /// The kind, such as `tap`.
    pub fn kind(&self) -> &'static str {
        KINDS.get(self.kind).map_or("", |k| k.name)
    }

    /// What follows the colon.
    pub fn argument(&self) -> &str {
        &self.argument
    }

    /// Opens the device with one queue pair.
    ///
    /// # Errors
    /// As [`DeviceSpec::open_queues`].
    pub fn open(&self, options: &OpenOptions) -> Result<BoxedDevice, DeviceError> {
        let options = OpenOptions { steering: None, ..options.clone() };
        self.open_queues(&options)?.pop().ok_or_else(|| unknown(&self.argument))
    }

    /// Opens the device with a queue pair for each shard of [`OpenOptions::steering`], in their order, or with as many as it has: at
    /// least one. Where the device can be taught it delivers as `steering` says ([`Device::is_steered`]); what it delivers elsewhere is to
    /// be handed over by who receives it.
    ///
    /// # Errors
    /// What the kind says; the message names the device and the remedy. Also for addresses of the kernel's side where the
    /// kind has none.
    pub fn open_queues(&self, options: &OpenOptions) -> Result<Vec<BoxedDevice>, DeviceError> {
        let Some(kind) = KINDS.get(self.kind) else { return Err(unknown(&self.argument)) };
        if kind.name != "tap" && !options.host_addrs.is_empty() {
            let message =
                format!("{self}: the host has no side of its own on this link; give no host address");
            return Err(DeviceError::Config(message));
        }
        if kind.name != "xdp" && options.owned.is_some() {
            let message = format!(
                "{self}: the device cannot leave a part of its frames to the kernel: use xdp:IFACE, or an exception interface"
            );
            return Err(DeviceError::Config(message));
        }
        match kind.open {
            Opener::One(open) => Ok(vec![open(&self.argument, options)?]),
            Opener::Several(open) => open(&self.argument, options),
        }
    }
}

/// Opens the device that `spec` names.
///
/// # Errors
/// As parsing it and [`DeviceSpec::open`].
pub fn open(spec: &str, options: &OpenOptions) -> Result<BoxedDevice, DeviceError> {
    spec.parse::<DeviceSpec>()?.open(options)
}

impl FromStr for DeviceSpec {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let (name, argument) = text.split_once(':').unwrap_or((text, ""));
        let kind = KINDS.iter().position(|k| k.name == name).ok_or_else(|| unknown(text))?;
        let expected = KINDS.get(kind).map_or("", |k| k.argument);
        if argument.is_empty() != expected.is_empty() {
            return Err(DeviceError::Config(format!("device `{text}`: write it as `{name}:{expected}`")));
        }
        Ok(Self { kind, argument: argument.to_owned() })
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.argument)
    }
}

fn unknown(text: &str) -> DeviceError {
    if cfg!(not(feature = "dpdk")) && text.starts_with("dpdk:") {
        let message = format!("device `{text}`: this build is without DPDK: build it with `--features dpdk`");
        return DeviceError::Config(message);
    }
    let known: Vec<_> = KINDS.iter().map(|k| format!("{}:{}", k.name, k.argument)).collect();
    DeviceError::Config(format!("unknown device `{text}`: this build has {}", known.join(", ")))
}

#[cfg(target_os = "linux")]
fn boxed<D: Device + Send + 'static>(devices: impl IntoIterator<Item = D>) -> Vec<BoxedDevice> {
    devices.into_iter().map(|device| Box::new(device) as BoxedDevice).collect()
}

#[cfg(target_os = "linux")]
fn open_tap(name: &str, options: &OpenOptions) -> Result<Vec<BoxedDevice>, DeviceError> {
    use super::tap::{TapConfig, TapDevice};
    if name.contains('%') {
        // The kernel would put a number in its place, and whoever wrote the name would not know which.
        let what = format!("tap:{name}: the kernel would choose a name: give the whole name, such as tap0");
        return Err(DeviceError::Config(what));
    }
    let OpenOptions { mtu, host_addrs, offload, steering, .. } = options.clone();
    let mtu = mtu.unwrap_or(DEFAULT_MTU);
    let config = TapConfig { mtu, host_addrs, offload, ..TapConfig::new(name) };
    match steering {
        Some(steering) => TapDevice::open_queues(&config, &steering).map(boxed),
        None => TapDevice::open(&config).map(|device| boxed([device])),
    }
}

#[cfg(target_os = "linux")]
fn open_packet(interface: &str, options: &OpenOptions) -> Result<Vec<BoxedDevice>, DeviceError> {
    use super::packet::{PacketConfig, PacketDevice};
    let OpenOptions { mtu, offload, observe, .. } = *options;
    let config = PacketConfig { mtu, offload, observe, ..PacketConfig::new(interface) };
    match &options.steering {
        Some(steering) => PacketDevice::open_queues(&config, steering).map(boxed),
        None => PacketDevice::open(&config).map(|device| boxed([device])),
    }
}

#[cfg(target_os = "linux")]
fn open_xdp(interface: &str, options: &OpenOptions) -> Result<Vec<BoxedDevice>, DeviceError> {
    use super::xdp::{BusyPoll, XdpConfig, XdpDevice};
    let OpenOptions { mtu, offload, .. } = *options;
    let busy_poll = if options.busy_poll { BusyPoll::ByDriver } else { BusyPoll::Off };
    let owned = options.owned.clone();
    let config = XdpConfig { mtu, offload, busy_poll, owned, ..XdpConfig::new(interface) };
    let shards = options.steering.as_ref().map_or(1, |steering| steering.shards());
    XdpDevice::open_queues(&config, shards).map(boxed)
}

#[cfg(feature = "dpdk")]
fn open_dpdk(argument: &str, options: &OpenOptions) -> Result<Vec<BoxedDevice>, DeviceError> {
    use super::dpdk::{DpdkConfig, DpdkDevice};
    let OpenOptions { mtu, offload, steering, .. } = options.clone();
    let config = DpdkConfig { mtu, offload, steering, ..DpdkConfig::new(argument) };
    let queues = DpdkDevice::open(&config)?;
    Ok(queues.into_iter().map(|queue| Box::new(queue) as BoxedDevice).collect())
}

fn open_pcap(files: &str, options: &OpenOptions) -> Result<BoxedDevice, DeviceError> {
    let (input, output) = match files.split_once(',') {
        Some((input, output)) => (input, Some(Path::new(output))),
        None => (files, None),
    };
    Ok(Box::new(PcapDevice::open(Path::new(input), output, options.mtu.unwrap_or(DEFAULT_MTU))?))
}

fn open_mem(_: &str, options: &OpenOptions) -> Result<BoxedDevice, DeviceError> {
    Ok(Box::new(mem::pair(MemConfig::with_mtu(options.mtu.unwrap_or(DEFAULT_MTU))).0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(spec: &str) -> String {
        open(spec, &OpenOptions::default()).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn unknown_kind_lists_what_there_is() {
        for spec in ["", "nope", "nope:x", "TAP:tap0"] {
            let message = message(spec);
            assert!(
                message.contains(&format!("`{spec}`")) && message.contains("pcap:IN[,OUT], mem:"),
                "{message}"
            );
        }
    }

    #[cfg(not(feature = "dpdk"))]
    #[test]
    fn a_build_without_dpdk_says_so() {
        assert!(message("dpdk:net_null0").ends_with("without DPDK: build it with `--features dpdk`"));
    }

    #[test]
    fn missing_or_needless_argument_says_how_to_write_it() {
        assert_eq!(message("pcap:"), "device `pcap:`: write it as `pcap:IN[,OUT]`");
        assert_eq!(message("pcap"), "device `pcap`: write it as `pcap:IN[,OUT]`");
        assert_eq!(message("mem:x"), "device `mem:x`: write it as `mem:`");
        assert!(message("tap:x%d").ends_with("give the whole name, such as tap0"));
    }

    #[test]
    fn argument_may_contain_colons_and_is_shown_again() {
        let spec: DeviceSpec = "pcap:C:a,b".parse().unwrap();
        assert_eq!(
            (spec.kind(), spec.argument(), spec.to_string().as_str()),
            ("pcap", "C:a,b", "pcap:C:a,b")
        );
    }

    #[test]
    fn unconnected_link_swallows_what_is_sent() {
        let mut device = open("mem:", &OpenOptions::default()).unwrap();
        for _ in 0..10_000 {
            device.reserve(60).unwrap().fill(0);
            device.commit(Default::default());
            device.flush().unwrap();
        }
        assert_eq!(device.rx_burst(&mut |_| panic!("nothing can arrive")).unwrap(), 0);
        assert!(device.is_exhausted());
    }

    #[test]
    fn host_address_without_a_host_is_refused() {
        let options = OpenOptions::default().with_host_addr([10, 0, 0, 1], 24);
        assert!(open("mem:", &options).err().unwrap().to_string().contains("give no host address"));
    }
}
