//! Frames made fit for the driver: what it is asked to do, and what is done here because it cannot.

use dpdk_sys::{Head, TxOffloads};

use super::meta;
use super::pools::LONGEST;
use crate::device::offload::complete_checksum;
use crate::device::{RxFrame, TxChecksum, TxMeta};

/// Whether trains of segments are left to the driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trains {
    /// There are none: nothing is left to it.
    None,
    /// It may merge segments, and is given none to cut.
    ReceivedOnly,
    /// It cuts them if it says so, of at most so many bytes, Ethernet header included.
    AsOffered(usize),
    /// It passes them on whole, and does not say so.
    Always,
}

impl Trains {
    /// What is known of a driver beyond what it says. `net_tap` counts the Ethernet header against the MTU, and never takes a train of full
    /// segments. `net_vhost` hands trains to a guest that takes them; that this one does is promised by `tso=1`.
    pub(super) fn of(driver: &str, argument: &str) -> Self {
        /// What a descriptor of any card can name; some drivers put a buffer into one, however long it is.
        const DESCRIPTOR: usize = 15 << 10;
        match driver {
            "net_tap" => Self::ReceivedOnly,
            "net_vhost" if argument.contains("tso=1") => Self::Always,
            // They use several descriptors for a long buffer, or have no limit.
            "net_i40e" | "net_iavf" | "net_ice" | "mlx5_pci" | "net_virtio" | "net_virtio_user" => {
                Self::AsOffered(LONGEST)
            }
            _ => Self::AsOffered(DESCRIPTOR),
        }
    }
}

/// What the driver does to frames that it sends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Able {
    pub offloads: TxOffloads,
    /// It cuts trains.
    pub tso: bool,
}

/// What the driver is to do with a frame that is sent, or else it is done here. Whether the driver has to do something. `None` for
/// what neither can do.
#[inline]
pub(super) fn prepare(
    head: &mut Head<'_>,
    frame: &mut [u8],
    meta: TxMeta,
    able: Able,
    vlan: Option<u16>,
) -> Option<bool> {
    if meta == TxMeta::default() && vlan.is_none() {
        head.set_tx_offload(None, None);
        return Some(false);
    }
    prepare_more(head, frame, meta, able, vlan)
}

#[inline(never)]
fn prepare_more(
    head: &mut Head<'_>,
    frame: &mut [u8],
    meta: TxMeta,
    able: Able,
    vlan: Option<u16>,
) -> Option<bool> {
    let Able { offloads, tso } = able;
    let ip_checksum = offloads.contains(TxOffloads::IPV4_CHECKSUM);
    let checksums = offloads.contains(TxOffloads::TCP_CHECKSUM | TxOffloads::UDP_CHECKSUM);
    if meta.gso.is_some() && !tso {
        return None;
    }
    let asked = if checksums { meta::for_driver(frame, meta, ip_checksum) } else { None };
    if let (None, TxChecksum::Partial { start, offset }) = (asked, meta.checksum) {
        complete_checksum(frame, start, offset);
    }
    if asked.is_none_or(|offload| offload.segments.is_none()) && meta.gso.is_some() {
        return None;
    }
    head.set_tx_offload(asked, vlan);
    Some(asked.is_some() || vlan.is_some())
}

/// Puts a tag that was taken out of a frame back into its answer. `false`, and no change, without room for it.
fn insert_vlan(frame: &mut RxFrame<'_>, tci: u16) -> bool {
    if frame.len() < 12 || !frame.prepend(4) {
        return false;
    }
    let bytes = frame.bytes_mut();
    bytes.copy_within(4..16, 0);
    let [a, b] = tci.to_be_bytes();
    if let Some(tag) = bytes.get_mut(12..16) {
        tag.copy_from_slice(&[0x81, 0x00, a, b]);
    }
    true
}

/// Makes a received frame the answer that was written in its place. As [`prepare`].
#[inline]
pub(super) fn answered(
    head: &mut Head<'_>,
    frame: &mut RxFrame<'_>,
    mut meta: TxMeta,
    able: Able,
) -> Option<bool> {
    let vlan = frame.meta.vlan;
    let by_driver = vlan.filter(|_| able.offloads.contains(TxOffloads::VLAN_INSERT));
    if let Some(tci) = vlan.filter(|_| by_driver.is_none()) {
        if !insert_vlan(frame, tci) {
            return None;
        }
        if let TxChecksum::Partial { start, .. } = &mut meta.checksum {
            *start += 4;
        }
    }
    head.set_extent(frame.start(), frame.len()).ok()?;
    prepare(head, frame.bytes_mut(), meta, able, by_driver)
}
