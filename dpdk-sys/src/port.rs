//! An Ethernet port with one receive and one transmit queue.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{c_string, check};
use crate::raw;
use crate::{Burst, DpdkError, Eal, Mempool};

/// Ports that a [`Port`] stands for, by number. A queue has one user, so there is one Port for each.
static OPEN: [AtomicBool; raw::RTE_MAX_ETHPORTS as usize] =
    [const { AtomicBool::new(false) }; raw::RTE_MAX_ETHPORTS as usize];

/// `SOCKET_ID_ANY` for functions that take it unsigned.
const ANY_NODE: u32 = u32::MAX;

/// The only queue.
const QUEUE: u16 = 0;

/// How to open a port.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortConfig {
    /// Descriptors of the receive queue: how many frames may wait there. Adjusted to what the driver can do.
    /// Default 1024.
    pub rx_descriptors: u16,
    /// Descriptors of the transmit queue, likewise. Default 1024.
    pub tx_descriptors: u16,
    /// Receive what is sent to other stations too. Default no.
    pub promiscuous: bool,
}

impl Default for PortConfig {
    fn default() -> PortConfig {
        PortConfig { rx_descriptors: 1024, tx_descriptors: 1024, promiscuous: false }
    }
}

/// What a port has counted since it was opened. What is 0 may also not be counted by the driver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortStats {
    /// Frames received.
    pub rx_frames: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames dropped by the card because the receive queue was full.
    pub rx_missed: u64,
    /// Frames received with an error.
    pub rx_errors: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
    /// Receptions that failed because the pool was empty.
    pub rx_no_buffer: u64,
}

/// The state of a port's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// Whether there is one.
    pub up: bool,
    /// Mb/s, if it is known.
    pub speed: Option<u32>,
}

/// A claim on a port number.
#[derive(Debug)]
struct Claim(u16);

impl Claim {
    fn new(id: u16, name: &str) -> Result<Claim, DpdkError> {
        let open = OPEN.get(usize::from(id)).is_none_or(|flag| flag.swap(true, Ordering::Acquire));
        if open { Err(DpdkError::PortInUse(name.to_owned())) } else { Ok(Claim(id)) }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(flag) = OPEN.get(usize::from(self.0)) {
            flag.store(false, Ordering::Release);
        }
    }
}

/// A started port. Dropped, it is stopped and can be opened again; [`Port::close`] ends the device.
#[derive(Debug)]
pub struct Port {
    name: String,
    claim: Claim,
    running: bool,
}

impl Port {
    /// Configures the port of this name (`net_null0`, `0000:03:00.0`), receives into buffers of `pool`, and
    /// starts it.
    ///
    /// # Errors
    /// [`DpdkError::NoPort`], [`DpdkError::PortInUse`], or [`DpdkError::Call`] with the driver's reason.
    pub fn open(_: Eal, name: &str, pool: &Mempool, config: &PortConfig) -> Result<Port, DpdkError> {
        let id = find(name)?.ok_or_else(|| no_port(name))?;
        let claim = Claim::new(id, name)?;
        // SAFETY: all zeros is what C's `= {0}` makes, and DPDK's default for every member.
        let conf: raw::rte_eth_conf = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: here and below: EAL runs (the token), the port exists and is claimed, so nobody else
        // configures it or uses its queues; DPDK checks the rest of its arguments; pointers are to locals, or
        // null for the driver's defaults.
        check("rte_eth_dev_configure", name, unsafe { raw::rte_eth_dev_configure(id, 1, 1, &conf) })?;
        let (mut rx, mut tx) = (config.rx_descriptors, config.tx_descriptors);
        // SAFETY: as above.
        let status = unsafe { raw::rte_eth_dev_adjust_nb_rx_tx_desc(id, &mut rx, &mut tx) };
        check("rte_eth_dev_adjust_nb_rx_tx_desc", name, status)?;
        // SAFETY: as above; the pool lives as long as EAL.
        let status =
            unsafe { raw::rte_eth_rx_queue_setup(id, QUEUE, rx, ANY_NODE, ptr::null(), pool.as_raw()) };
        check("rte_eth_rx_queue_setup", name, status)?;
        // SAFETY: as above.
        let status = unsafe { raw::rte_eth_tx_queue_setup(id, QUEUE, tx, ANY_NODE, ptr::null()) };
        check("rte_eth_tx_queue_setup", name, status)?;
        // SAFETY: as above.
        check("rte_eth_dev_start", name, unsafe { raw::rte_eth_dev_start(id) })?;
        let port = Port { name: name.to_owned(), claim, running: true };
        if config.promiscuous {
            // SAFETY: as above.
            check("rte_eth_promiscuous_enable", name, unsafe { raw::rte_eth_promiscuous_enable(id) })?;
        }
        // A driver that counts nothing resets nothing.
        // SAFETY: as above.
        let _ = unsafe { raw::rte_eth_stats_reset(id) };
        Ok(port)
    }

    /// DPDK's name of the port.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// DPDK's number of the port, for calls into `raw`.
    pub fn id(&self) -> u16 {
        self.claim.0
    }

    /// Adds what has arrived to the burst, as much as there is room for. Returns how many frames. Some
    /// drivers receive nothing when asked for less than 4 or 32, so give it an empty burst. Never waits.
    pub fn rx_burst(&mut self, burst: &mut Burst) -> usize {
        let id = self.id();
        // SAFETY: the port runs, and self is the only user of its queue; the driver writes at most `room`
        // mbufs of its pool.
        unsafe {
            burst.extend(crate::BURST, |place, room| {
                usize::from(raw::rte_eth_rx_burst(id, QUEUE, place, room))
            })
        }
    }

    /// Sends from the front of the burst. What the port does not accept, because its queue is full, stays
    /// there in order. Returns how many frames were accepted. Never waits.
    pub fn tx_burst(&mut self, burst: &mut Burst) -> usize {
        let id = self.id();
        // SAFETY: the port runs, and self is the only user of its queue; the driver owns what it accepts.
        unsafe {
            burst.take_front(|mbufs, count| usize::from(raw::rte_eth_tx_burst(id, QUEUE, mbufs, count)))
        }
    }

    /// What the port has counted.
    ///
    /// # Errors
    /// [`DpdkError::Call`] when the driver does not count.
    pub fn stats(&self) -> Result<PortStats, DpdkError> {
        // SAFETY: a structure of integers.
        let mut stats: raw::rte_eth_stats = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: the port exists, and stats is a local.
        check("rte_eth_stats_get", &self.name, unsafe { raw::rte_eth_stats_get(self.id(), &mut stats) })?;
        Ok(PortStats {
            rx_frames: stats.ipackets,
            tx_frames: stats.opackets,
            rx_bytes: stats.ibytes,
            tx_bytes: stats.obytes,
            rx_missed: stats.imissed,
            rx_errors: stats.ierrors,
            tx_errors: stats.oerrors,
            rx_no_buffer: stats.rx_nombuf,
        })
    }

    /// The port's MAC address.
    ///
    /// # Errors
    /// [`DpdkError::Call`] when the device is gone.
    pub fn mac(&self) -> Result<[u8; 6], DpdkError> {
        let mut mac = raw::rte_ether_addr { addr_bytes: [0; 6] };
        // SAFETY: the port exists, and mac is a local.
        check("rte_eth_macaddr_get", &self.name, unsafe { raw::rte_eth_macaddr_get(self.id(), &mut mac) })?;
        Ok(mac.addr_bytes)
    }

    /// The state of the link now, without waiting for it.
    ///
    /// # Errors
    /// [`DpdkError::Call`] when the driver cannot tell.
    pub fn link(&self) -> Result<Link, DpdkError> {
        let (mut up, mut speed) = (0, 0);
        // SAFETY: the port exists, and the pointers are to locals.
        let status = unsafe { raw::nty_eth_link(self.id(), &mut up, &mut speed) };
        check("rte_eth_link_get_nowait", &self.name, status)?;
        Ok(Link { up: up != 0, speed: Some(speed).filter(|&speed| speed != 0 && speed != u32::MAX) })
    }

    /// Stops the port and ends its device: a vdev is gone after this, a card comes back with [`Eal::attach`].
    ///
    /// # Errors
    /// [`DpdkError::Call`] when the driver refuses; the port is stopped all the same.
    pub fn close(mut self) -> Result<(), DpdkError> {
        self.stop();
        // SAFETY: the port exists, is stopped, and has no other user.
        check("rte_eth_dev_close", &self.name, unsafe { raw::rte_eth_dev_close(self.id()) }).map(|_| ())
    }

    fn stop(&mut self) {
        if std::mem::take(&mut self.running) {
            // SAFETY: the port exists, and self is its only user. A driver that cannot stop has logged why.
            unsafe { raw::rte_eth_dev_stop(self.id()) };
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes two ports that are the ends of a wire: what one sends the other receives, the same buffer, within
/// this process. Up to `size` - 1 frames fit in each direction; `size` is a power of two. Returns their
/// names, made from `name`. For tests and for shards that hand frames to each other. The rings behind it live
/// as long as EAL. Allocates.
///
/// # Errors
/// [`DpdkError::Call`] when the name is taken or too long, or the size is no power of two.
pub fn wire(_: Eal, name: &str, size: u32) -> Result<(String, String), DpdkError> {
    let (left, right) = (format!("{name}_l"), format!("{name}_r"));
    let there = ring(&left, size)?;
    // SAFETY: here and below: no port knows the ring yet.
    let back = ring(&right, size).inspect_err(|_| unsafe { raw::rte_ring_free(there) })?;
    let first = ring_port(&left, back, there).inspect_err(|_| {
        // SAFETY: as above.
        unsafe {
            raw::rte_ring_free(there);
            raw::rte_ring_free(back);
        }
    })?;
    // Should this one fail, the first port keeps both rings.
    Ok((first, ring_port(&right, there, back)?))
}

/// A ring with one user at each end.
fn ring(name: &str, size: u32) -> Result<*mut raw::rte_ring, DpdkError> {
    let c_name = c_string(name)?;
    let flags = raw::RING_F_SP_ENQ | raw::RING_F_SC_DEQ;
    // SAFETY: EAL runs (the caller has the token), and the name is copied.
    let ring = unsafe { raw::rte_ring_create(c_name.as_ptr(), size, -1, flags) };
    if ring.is_null() { Err(DpdkError::last("rte_ring_create", name)) } else { Ok(ring) }
}

/// A port that receives from one ring and sends to another. Returns its name.
fn ring_port(name: &str, rx: *mut raw::rte_ring, tx: *mut raw::rte_ring) -> Result<String, DpdkError> {
    let c_name = c_string(name)?;
    // SAFETY: EAL runs, both rings are live and stay so, and the arrays have the one element that they are
    // said to have.
    let id = unsafe { raw::rte_eth_from_rings(c_name.as_ptr(), &rx, 1, &tx, 1, 0) };
    let id = check("rte_eth_from_rings", name, id)?;
    u16::try_from(id).ok().and_then(name_of).ok_or_else(|| no_port(name))
}

/// The number of the port of this name.
pub(crate) fn find(name: &str) -> Result<Option<u16>, DpdkError> {
    let c_name = c_string(name)?;
    let mut id = 0;
    // SAFETY: EAL runs in every caller; the name is a NUL-terminated string, the number a local.
    let status = unsafe { raw::rte_eth_dev_get_port_by_name(c_name.as_ptr(), &mut id) };
    Ok((status == 0).then_some(id))
}

/// The names of all ports.
pub(crate) fn names() -> Vec<String> {
    let mut names = Vec::new();
    let mut id = 0;
    loop {
        // SAFETY: EAL runs in every caller; any number will do.
        id = unsafe { raw::rte_eth_find_next(id) };
        if u32::from(id) >= raw::RTE_MAX_ETHPORTS {
            return names;
        }
        names.extend(name_of(id));
        id += 1;
    }
}

fn name_of(id: u16) -> Option<String> {
    let mut name = [0 as c_char; raw::RTE_ETH_NAME_MAX_LEN as usize];
    // SAFETY: the buffer has the size that the function demands, and it writes a NUL-terminated string on 0.
    let status = unsafe { raw::rte_eth_dev_get_name_by_port(id, name.as_mut_ptr()) };
    if status != 0 {
        return None;
    }
    // SAFETY: as above.
    Some(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
}

fn no_port(name: &str) -> DpdkError {
    let mut ports = names().join(", ");
    if ports.is_empty() {
        ports.push_str("none");
    }
    DpdkError::NoPort { name: name.to_owned(), ports }
}

const _: () = assert!(raw::RTE_MAX_ETHPORTS < u16::MAX as u32);
