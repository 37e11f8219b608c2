//! Ethernet ports: how they are started and ended, and what they say of themselves.

mod config;
mod queue;
mod stats;
mod wire;

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use config::{PortConfig, PortInfo, Rss, RxOffloads, TxOffloads};
pub use queue::Queue;
pub use stats::PortStats;
pub use wire::wire;

use crate::error::{c_string, check};
use crate::raw;
use crate::{DpdkError, Eal, Errno, Mempool};

/// Ports that a [`Port`] stands for, by number. A queue has one user, so there is one Port for each.
static OPEN: [AtomicBool; raw::RTE_MAX_ETHPORTS as usize] =
    [const { AtomicBool::new(false) }; raw::RTE_MAX_ETHPORTS as usize];

/// `SOCKET_ID_ANY` for functions that take it unsigned.
const ANY_NODE: u32 = u32::MAX;

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

/// A started port, which its [`Queue`]s share. When the last of them is dropped, it is stopped and its device
/// ends: a vdev is gone after this, a card comes back with [`Eal::attach`].
#[derive(Debug)]
pub struct Port {
    name: String,
    claim: Claim,
    info: PortInfo,
    rx_offloads: RxOffloads,
    tx_offloads: TxOffloads,
    running: bool,
}

impl Port {
    /// Configures the port of this name (`net_null0`, `0000:03:00.0`), and starts it. Its queues, as many as
    /// the config says, receive into buffers of `pools`, in turn. Of the offloads it has those that the driver
    /// offers.
    ///
    /// # Errors
    /// [`DpdkError::NoPort`], [`DpdkError::PortInUse`], [`DpdkError::Setting`] for what the driver cannot, or
    /// [`DpdkError::Call`] with the driver's reason.
    pub fn open(_: Eal, name: &str, pools: &[Mempool], config: &PortConfig) -> Result<Vec<Queue>, DpdkError> {
        let id = find(name)?.ok_or_else(|| no_port(name))?;
        let claim = Claim::new(id, name)?;
        let info = PortInfo::ask(id, name)?;
        info.check(name, config)?;
        let mut port = Port {
            name: name.to_owned(),
            claim,
            rx_offloads: config.rx_offloads & info.rx_offloads,
            tx_offloads: config.tx_offloads & info.tx_offloads,
            info,
            running: false,
        };
        let interrupts = config.rx_interrupts && port.start(pools, config, Interrupts::On).is_ok();
        if !interrupts {
            port.start(pools, config, Interrupts::Off)?;
        }
        let port = Arc::new(port);
        let queue = |index| Queue::new(port.clone(), index, interrupts);
        Ok((0..config.queues).map(queue).collect())
    }

    fn start(
        &mut self,
        pools: &[Mempool],
        config: &PortConfig,
        interrupts: Interrupts,
    ) -> Result<(), DpdkError> {
        let (id, name) = (self.id(), self.name.as_str());
        self.configure(config, interrupts)?;
        let (mut rx, mut tx) = (config.rx_descriptors, config.tx_descriptors);
        // SAFETY: here and below: EAL runs (whoever made self had the token), the port exists and is claimed,
        // so nobody else configures it or uses its queues; DPDK checks the rest of its arguments; pointers are
        // to locals, or null for the driver's defaults.
        let status = unsafe { raw::rte_eth_dev_adjust_nb_rx_tx_desc(id, &mut rx, &mut tx) };
        check("rte_eth_dev_adjust_nb_rx_tx_desc", name, status)?;
        let queues = 0..config.queues;
        for (queue, pool) in queues.zip(pools.iter().cycle()) {
            // SAFETY: as above; the pool lives as long as EAL.
            let status =
                unsafe { raw::rte_eth_rx_queue_setup(id, queue, rx, ANY_NODE, ptr::null(), pool.as_raw()) };
            check("rte_eth_rx_queue_setup", name, status)?;
            // SAFETY: as above.
            let status = unsafe { raw::rte_eth_tx_queue_setup(id, queue, tx, ANY_NODE, ptr::null()) };
            check("rte_eth_tx_queue_setup", name, status)?;
        }
        // SAFETY: as above.
        check("rte_eth_dev_start", name, unsafe { raw::rte_eth_dev_start(id) })?;
        self.running = true;
        if config.promiscuous {
            // SAFETY: as above.
            let status = unsafe { raw::rte_eth_promiscuous_enable(id) };
            ignore_unsupported(check("rte_eth_promiscuous_enable", name, status))?;
        }
        if config.all_multicast {
            // SAFETY: as above.
            let status = unsafe { raw::rte_eth_allmulticast_enable(id) };
            ignore_unsupported(check("rte_eth_allmulticast_enable", name, status))?;
        }
        self.spread(config);
        // A driver that counts nothing resets nothing.
        // SAFETY: as above.
        let _ = unsafe { (raw::rte_eth_stats_reset(id), raw::rte_eth_xstats_reset(id)) };
        Ok(())
    }

    fn configure(&self, config: &PortConfig, interrupts: Interrupts) -> Result<(), DpdkError> {
        let (id, name) = (self.id(), self.name.as_str());
        // SAFETY: all zeros is what C's `= {0}` makes, and DPDK's default for every member.
        let mut conf: raw::rte_eth_conf = unsafe { MaybeUninit::zeroed().assume_init() };
        conf.rxmode.mtu = config.mtu.unwrap_or(self.info.mtu).into();
        conf.rxmode.offloads = self.rx_offloads.bits();
        conf.txmode.offloads = self.tx_offloads.bits();
        conf.intr_conf.set_rxq(u32::from(interrupts == Interrupts::On));
        let asked = config::ask(id, name)?;
        if self.rx_offloads.contains(RxOffloads::LRO) {
            conf.rxmode.max_lro_pkt_size = asked.max_lro_pkt_size;
        }
        let flows = asked.flow_type_rss_offloads & raw::NTY_RSS_FLOWS;
        let mut key = config.rss.as_ref().map(|rss| rss.key.clone()).unwrap_or_default();
        if usize::from(asked.hash_key_size) > key.len() {
            key.resize(asked.hash_key_size.into(), 0);
        }
        if config.queues > 1 && flows != 0 {
            conf.rxmode.mq_mode = raw::RTE_ETH_MQ_RX_RSS;
            let hash = &mut conf.rx_adv_conf.rss_conf;
            hash.rss_hf = flows;
            if config.rss.is_some()
                && let Ok(len @ 1..) = u8::try_from(key.len())
            {
                (hash.rss_key, hash.rss_key_len) = (key.as_mut_ptr(), len);
            }
        }
        // SAFETY: here and below as in `start`; the key lives until it returns, and is copied.
        let status = unsafe { raw::rte_eth_dev_configure(id, config.queues, config.queues, &conf) };
        check("rte_eth_dev_configure", name, status)?;
        if let Some(mtu) = config.mtu {
            // SAFETY: as above.
            let status = unsafe { raw::rte_eth_dev_set_mtu(id, mtu) };
            ignore_unsupported(check("rte_eth_dev_set_mtu", name, status))?;
        }
        Ok(())
    }

    /// Maps the hashes of flows to queues, where the driver has a table for it. One that does not take it has
    /// its own.
    fn spread(&self, config: &PortConfig) {
        let size = self.info.rss_table;
        if config.queues < 2 || size == 0 {
            return;
        }
        let in_turn: Vec<_> = (0..config.queues).collect();
        let table = config.rss.as_ref().map_or(&in_turn, |rss| &rss.table);
        let mut entries = table.iter().copied().cycle();
        let mut groups: Vec<_> = (0..size.div_ceil(raw::RTE_ETH_RETA_GROUP_SIZE as u16))
            .map(|_| raw::rte_eth_rss_reta_entry64 {
                mask: u64::MAX,
                reta: std::array::from_fn(|_| entries.next().unwrap_or(0)),
            })
            .collect();
        // SAFETY: as in `start`; the groups have as many entries as the table, or more.
        unsafe { raw::rte_eth_dev_rss_reta_update(self.id(), groups.as_mut_ptr(), size) };
    }

    /// DPDK's name of the port.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// DPDK's number of the port, for calls into `raw`.
    pub fn id(&self) -> u16 {
        self.claim.0
    }

    /// What the driver can do.
    pub fn info(&self) -> &PortInfo {
        &self.info
    }

    /// What the driver does to received packets.
    pub fn rx_offloads(&self) -> RxOffloads {
        self.rx_offloads
    }

    /// What the driver does to packets that it sends, if it is asked.
    pub fn tx_offloads(&self) -> TxOffloads {
        self.tx_offloads
    }

    /// The largest IP packet in bytes.
    ///
    /// # Errors
    /// [`DpdkError::Call`] when the device is gone.
    pub fn mtu(&self) -> Result<u16, DpdkError> {
        let mut mtu = 0;
        // SAFETY: the port exists, and mtu is a local.
        check("rte_eth_dev_get_mtu", &self.name, unsafe { raw::rte_eth_dev_get_mtu(self.id(), &mut mtu) })?;
        Ok(mtu)
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

    /// Whether the device was taken out of the machine, as far as the driver knows.
    pub fn is_removed(&self) -> bool {
        // SAFETY: the port exists.
        unsafe { raw::rte_eth_dev_is_removed(self.id()) == 1 }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let id = self.id();
        let device = config::ask(id, &self.name).map(|info| info.device);
        // SAFETY: the port exists, and nobody uses its queues any more. A driver that cannot stop or close has
        // logged why.
        unsafe {
            if std::mem::take(&mut self.running) {
                raw::rte_eth_dev_stop(id);
            }
            raw::rte_eth_dev_close(id);
        }
        // A device may have several ports.
        let used = |other: u16| config::ask(other, "").map(|info| info.device) == device;
        if let Ok(device) = device
            && !device.is_null()
            && !ids().any(used)
        {
            // SAFETY: it was the device of this port, and is nobody's any more.
            unsafe { raw::rte_dev_remove(device) };
        }
    }
}

/// Whether a port tells of arriving packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interrupts {
    On,
    Off,
}

/// What a driver does not have is no reason not to start it.
fn ignore_unsupported(result: Result<i32, DpdkError>) -> Result<(), DpdkError> {
    match result {
        Ok(_) | Err(DpdkError::Call { errno: Errno::ENOTSUP | Errno::ENOSYS, .. }) => Ok(()),
        Err(error) => Err(error),
    }
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
    ids().filter_map(name_of).collect()
}

/// The names of the ports that are not open.
pub(crate) fn free_names() -> Vec<String> {
    let is_open = |id: u16| OPEN.get(usize::from(id)).is_some_and(|open| open.load(Ordering::Relaxed));
    ids().filter(|id| !is_open(*id)).filter_map(name_of).collect()
}

/// The numbers of all ports.
fn ids() -> impl Iterator<Item = u16> {
    let mut next = 0;
    std::iter::from_fn(move || {
        // SAFETY: EAL runs in every caller; any number will do.
        let id = unsafe { raw::rte_eth_find_next(next) };
        next = id.saturating_add(1);
        Some(id).filter(|id| u32::from(*id) < raw::RTE_MAX_ETHPORTS)
    })
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
