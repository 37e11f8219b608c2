//! Interfaces that the kernel owns: what they are, for who chooses one, and whether the one that a device works on is still there.

use std::io;
use std::os::fd::BorrowedFd;

use super::DeviceError;
use super::sys::{self, Control, IfName};
use crate::time::{Duration, Instant};
use crate::wire::MacAddr;

/// What the kernel says of an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Facts {
    /// The kernel's number for it.
    pub index: u32,
    /// Its station address, if its frames are those of Ethernet.
    pub station: MacAddr,
    /// It was brought up.
    pub up: bool,
    /// Its frames are those of Ethernet.
    pub ethernet: bool,
    /// The largest IP packet, in bytes.
    pub mtu: usize,
    /// The driver, such as `veth` or `i40e`; empty when it does not say.
    pub driver: String,
    /// Where it is plugged in, such as the PCI address `0000:3b:00.0`; empty for one that is nowhere.
    pub bus: String,
    /// Receive queues.
    pub rx_queues: u32,
    /// Transmit queues.
    pub tx_queues: u32,
    /// Names of what the interface does for the kernel, and whether it is on: `rx-checksum`, `tx-checksum`, `tso`, `gro`.
    pub offloads: Vec<(&'static str, bool)>,
}

/// Asks the kernel about the interface `name`.
///
/// # Errors
/// What the system says; that there is no such interface, or no descriptor.
pub fn facts(name: &str) -> io::Result<Facts> {
    /// ETHTOOL_GRXCSUM and so on.
    const OFFLOADS: [(&str, u32); 4] =
        [("rx-checksum", 0x14), ("tx-checksum", 0x16), ("tso", 0x1e), ("gro", 0x2b)];
    let name = IfName::new(name).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
    let control = Control::new()?;
    let (driver, bus) = control.driver(name)?;
    let (rx_queues, tx_queues) = control.queues(name)?;
    let offload = |(label, request)| control.has_feature(name, request).map(|on| (label, on));
    Ok(Facts {
        index: control.index(name)? as u32,
        station: MacAddr(control.station(name)?),
        up: control.is_up(name)?,
        ethernet: control.is_ethernet(name)?,
        mtu: control.mtu(name)?,
        driver,
        bus,
        rx_queues,
        tx_queues,
        offloads: OFFLOADS.into_iter().map(offload).collect::<Result<_, _>>()?,
    })
}

/// Whether the interface of this number leads to another namespace: its frames may come with unfinished checksums.
#[cfg(feature = "dpdk")]
pub(super) fn is_veth(index: u32) -> bool {
    let driver = || {
        let control = Control::new().ok()?;
        let name = control.name(index.try_into().ok()?).ok()??;
        control.driver(name).ok()
    };
    driver().is_some_and(|(driver, _)| driver == "veth")
}

/// Whether there is no interface of this number.
#[cfg(feature = "dpdk")]
pub(super) fn is_gone(index: u32) -> bool {
    let name = Control::new().and_then(|control| control.name(index.try_into().unwrap_or(i32::MAX)));
    matches!(name, Ok(None))
}

/// How often it is looked whether the interface still exists, while nothing arrives.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// An interface, found by its name. See the module documentation.
#[derive(Debug)]
pub(super) struct Interface {
    control: Control,
    /// The kind of device, and the name it was found by: `packet:eth0`.
    label: String,
    current: IfName,
    index: libc::c_int,
    /// The interface was down when it was last heard of.
    down: bool,
    pub now: Instant,
    look_at: Instant,
}

impl Interface {
    /// Finds the interface `name` for a device of that `kind`. What is worth a notice is added to `notices`.
    ///
    /// # Errors
    /// There is none of that name.
    pub(super) fn find(kind: &str, name: &str, notices: &mut Vec<String>) -> Result<Self, DeviceError> {
        const NONE: &str = "there is no interface of that name: `ip link` lists those that there are";
        let label = format!("{kind}:{name}");
        let failed = |what: &str, remedy| {
            let what = format!("{label}: cannot {what}");
            move |source| DeviceError::Io { what, source, remedy }
        };
        let control = Control::new().map_err(failed("open a control socket", ""))?;
        let current = IfName::new(name).ok_or_else(|| DeviceError::Config(format!("{label}: {NONE}")))?;
        let index = control.index(current).map_err(failed("find the interface", NONE))?;
        if !control.is_ethernet(current).map_err(failed("ask for its kind", ""))? {
            let why =
                "its frames are not those of Ethernet: `nty devices` lists the interfaces that can be used";
            return Err(DeviceError::Config(format!("{label}: {why}")));
        }
        let down = !control.is_up(current).map_err(failed("ask for its state", ""))?;
        if down {
            notices.push(format!("the interface is down: `ip link set {name} up`"));
        }
        Ok(Self { control, label, current, index, down, now: Instant::ZERO, look_at: Instant::ZERO })
    }

    pub(super) fn index(&self) -> libc::c_int {
        self.index
    }

    /// The largest IP packet that is to be sent: what is asked for, or what the interface carries.
    ///
    /// # Errors
    /// It does not carry that much.
    pub(super) fn mtu(&self, wanted: Option<usize>) -> Result<usize, DeviceError> {
        let own = self.control.mtu(self.current).map_err(|e| self.failed("ask for its MTU", e, ""))?;
        let mtu = wanted.unwrap_or(own);
        if mtu > own {
            let remedy = format!("give at most that, or `ip link set {} mtu {mtu}`", self.current.to_text());
            return Err(DeviceError::Config(format!("{}: its MTU is {own}: {remedy}", self.label)));
        }
        Ok(mtu)
    }

    /// The name of its driver, empty when that does not say.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn driver(&self) -> Result<String, DeviceError> {
        let found = self.control.driver(self.current);
        found.map(|(driver, _)| driver).map_err(|e| self.failed("ask for its driver", e, ""))
    }

    /// The error for something that could not be done with this interface.
    pub(super) fn failed(&self, what: &str, source: io::Error, remedy: &'static str) -> DeviceError {
        DeviceError::Io { what: format!("{}: cannot {what}", self.label), source, remedy }
    }

    /// The error for an interface that was removed.
    pub(super) fn gone(&self) -> DeviceError {
        DeviceError::Gone(self.label.clone())
    }

    /// Nothing has arrived: if it is time to, looks whether the interface still exists and is up, and takes the error that may wait
    /// at the socket, which would end every sleep at once. Whether it looked.
    ///
    /// # Errors
    /// [`DeviceError::Gone`].
    pub(super) fn look(&mut self, socket: BorrowedFd<'_>) -> Result<bool, DeviceError> {
        if self.now < self.look_at {
            return Ok(false);
        }
        self.look_at = self.now + LOOK_EVERY;
        let taken = sys::take_error(socket).and_then(|_| self.control.name(self.index));
        let Some(current) = taken.map_err(|e| self.failed("look at it", e, ""))? else {
            return Err(self.gone());
        };
        self.current = current;
        let up = self.control.is_up(current).map_err(|e| self.failed("look at it", e, ""))?;
        self.heard(up);
        Ok(true)
    }

    /// The interface is up, or it is not; a change is said in the log.
    pub(super) fn heard(&mut self, up: bool) {
        match (self.down, up) {
            (true, true) => tracing::info!(device = %self.label, "the interface is up again"),
            (false, false) => {
                tracing::warn!(device = %self.label, "the interface is down: nothing is sent or received");
            }
            _ => {}
        }
        self.down = !up;
    }

    /// How many queues it receives with.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn rx_queues(&self) -> Result<u32, DeviceError> {
        let queues = self.control.queues(self.current);
        queues.map(|(rx, _)| rx).map_err(|e| self.failed("ask for its queues", e, ""))
    }

    /// Whether it was down when it was last heard of.
    pub(super) fn is_down(&self) -> bool {
        self.down
    }

    /// When it is looked at next.
    pub(super) fn next_look(&self) -> Instant {
        self.look_at
    }
}
