//! How a port is opened, and what its driver can do.

use std::ffi::CStr;
use std::mem::MaybeUninit;

use crate::error::check;
use crate::{DpdkError, Eal, raw};

/// Bytes of an Ethernet header and of the checksum behind a frame.
const FRAMING: u32 = 18;

bitflags::bitflags! {
    /// What a driver does to received packets.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct RxOffloads: u64 {
        /// Takes a VLAN tag out of the frame.
        const VLAN_STRIP = raw::NTY_RX_OFFLOAD_VLAN_STRIP;
        /// Verifies the checksum of IPv4 headers.
        const IPV4_CHECKSUM = raw::NTY_RX_OFFLOAD_IPV4_CKSUM;
        /// Verifies the checksum of UDP.
        const UDP_CHECKSUM = raw::NTY_RX_OFFLOAD_UDP_CKSUM;
        /// Verifies the checksum of TCP.
        const TCP_CHECKSUM = raw::NTY_RX_OFFLOAD_TCP_CKSUM;
        /// Merges segments of a connection into one packet.
        const LRO = raw::NTY_RX_OFFLOAD_TCP_LRO;
        /// Puts a packet that is longer than a buffer into several.
        const SCATTER = raw::NTY_RX_OFFLOAD_SCATTER;
        /// Tells the hash of the flow.
        const RSS_HASH = raw::NTY_RX_OFFLOAD_RSS_HASH;
    }

    /// What a driver does to packets that it sends.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct TxOffloads: u64 {
        /// Puts a VLAN tag into the frame.
        const VLAN_INSERT = raw::NTY_TX_OFFLOAD_VLAN_INSERT;
        /// Makes the checksum of IPv4 headers.
        const IPV4_CHECKSUM = raw::NTY_TX_OFFLOAD_IPV4_CKSUM;
        /// Makes the checksum of UDP.
        const UDP_CHECKSUM = raw::NTY_TX_OFFLOAD_UDP_CKSUM;
        /// Makes the checksum of TCP.
        const TCP_CHECKSUM = raw::NTY_TX_OFFLOAD_TCP_CKSUM;
        /// Cuts a long TCP segment.
        const TSO = raw::NTY_TX_OFFLOAD_TCP_TSO;
        /// Sends a packet that lies in several buffers.
        const MULTI_SEGMENT = raw::NTY_TX_OFFLOAD_MULTI_SEGS;
    }
}

/// How to open a port.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortConfig {
    /// Receive queues, and as many transmit queues. Default 1.
    pub queues: u16,
    /// Descriptors of a receive queue: how many frames may wait there. Adjusted to what the driver can do.
    /// Default 1024.
    pub rx_descriptors: u16,
    /// Descriptors of a transmit queue, likewise. Default 1024.
    pub tx_descriptors: u16,
    /// Receive what is sent to other stations too. Default no.
    pub promiscuous: bool,
    /// Receive what is sent to any group. Default no.
    pub all_multicast: bool,
    /// The largest IP packet in bytes. Default what the port has.
    pub mtu: Option<u16>,
    /// What the driver is to do to received packets, where it can. Default nothing.
    pub rx_offloads: RxOffloads,
    /// What the driver is to do to packets that it sends, where it can. Default nothing.
    pub tx_offloads: TxOffloads,
    /// Tell of arriving packets by a descriptor, where the driver can. Default no.
    pub rx_interrupts: bool,
    /// How flows are spread over several queues, where the driver can be taught. Default as the driver does,
    /// with a table of the queues in turn.
    pub rss: Option<Rss>,
}

/// How flows are spread: the Toeplitz hash of their addresses and ports is looked up in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rss {
    /// The key of the hash. A card that wants more bytes than these gets zeros behind them.
    pub key: Vec<u8>,
    /// The queue for each value of the low bits of the hash; not empty, a power of two long. A larger table
    /// of a card repeats it.
    pub table: Vec<u16>,
}

impl Default for PortConfig {
    fn default() -> PortConfig {
        PortConfig {
            queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            promiscuous: false,
            all_multicast: false,
            mtu: None,
            rx_offloads: RxOffloads::empty(),
            tx_offloads: TxOffloads::empty(),
            rx_interrupts: false,
            rss: None,
        }
    }
}

/// What the driver of a port can do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortInfo {
    /// The driver, such as `net_ixgbe`.
    pub driver: String,
    /// The number of the kernel's interface on which the port works, if it does on one.
    pub interface: Option<u32>,
    /// Queues of each kind at most.
    pub max_queues: u16,
    /// What it can do to received packets.
    pub rx_offloads: RxOffloads,
    /// What it can do to packets that it sends.
    pub tx_offloads: TxOffloads,
    /// The largest IP packet in bytes as it is.
    pub mtu: u16,
    /// The largest that it can be, as far as it says.
    pub max_mtu: u16,
    /// Entries of the table that maps hashes to queues, 0 if there is none.
    pub rss_table: u16,
    /// Bytes of the key of that hash, 0 if it does not say.
    pub rss_key: u8,
}

impl PortInfo {
    /// Asks the driver of the port of this name.
    ///
    /// # Errors
    /// [`DpdkError::NoPort`], or [`DpdkError::Call`] with the driver's reason.
    pub fn of(_: Eal, name: &str) -> Result<PortInfo, DpdkError> {
        let id = super::find(name)?.ok_or_else(|| super::no_port(name))?;
        PortInfo::ask(id, name)
    }

    /// What the settings ask for that the driver cannot.
    pub(super) fn check(&self, port: &str, config: &PortConfig) -> Result<(), DpdkError> {
        let PortInfo { max_queues, max_mtu, .. } = *self;
        let refuse = |what: String| Err(DpdkError::Setting { port: port.to_owned(), what });
        match config {
            PortConfig { queues: 0, .. } => refuse("it takes at least one queue".to_owned()),
            PortConfig { queues, .. } if *queues > max_queues => {
                refuse(format!("{queues} queues are too many: its driver has {max_queues}"))
            }
            PortConfig { mtu: Some(mtu), .. } if *mtu > max_mtu && max_mtu > 0 => {
                refuse(format!("an MTU of {mtu} is too large: its driver takes {max_mtu}"))
            }
            _ => Ok(()),
        }
    }

    /// The same by its number.
    pub(super) fn ask(id: u16, name: &str) -> Result<PortInfo, DpdkError> {
        let info = ask(id, name)?;
        let mut mtu = 0;
        // SAFETY: EAL runs in every caller; any number will do; mtu is a local.
        let known = unsafe { raw::rte_eth_dev_get_mtu(id, &mut mtu) } == 0;
        let driver = if info.driver_name.is_null() {
            String::new()
        } else {
            // SAFETY: not null, so a constant string of the driver's.
            unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned()
        };
        Ok(PortInfo {
            driver,
            // What Ethernet carries, and DPDK sets for a driver that says nothing.
            mtu: if known && mtu > 0 { mtu } else { 1_500 },
            interface: (info.if_index > 0).then_some(info.if_index),
            max_queues: info.max_rx_queues.min(info.max_tx_queues),
            rx_offloads: RxOffloads::from_bits_truncate(info.rx_offload_capa),
            tx_offloads: TxOffloads::from_bits_truncate(info.tx_offload_capa),
            max_mtu: u16::try_from(info.max_rx_pktlen.saturating_sub(FRAMING))
                .map_or(info.max_mtu, |most| most.min(info.max_mtu)),
            rss_table: info.reta_size,
            rss_key: info.hash_key_size,
        })
    }
}

/// What the driver says of a port that exists.
pub(super) fn ask(id: u16, name: &str) -> Result<raw::rte_eth_dev_info, DpdkError> {
    // SAFETY: integers and pointers, for which zero is a value.
    let mut info: raw::rte_eth_dev_info = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: EAL runs in every caller; any number will do; info is a local.
    check("rte_eth_dev_info_get", name, unsafe { raw::rte_eth_dev_info_get(id, &mut info) })?;
    Ok(info)
}
