//! What ports count.

use std::ffi::CStr;
use std::mem::MaybeUninit;

use super::Port;
use crate::error::check;
use crate::{DpdkError, raw};

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

impl Port {
    /// What the port has counted.
    ///
    /// # Errors
    /// [`DpdkError::Call`] when the driver does not count.
    pub fn stats(&self) -> Result<PortStats, DpdkError> {
        // SAFETY: a structure of integers.
        let mut stats: raw::rte_eth_stats = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: the port exists, and stats is a local.
        check("rte_eth_stats_get", self.name(), unsafe { raw::rte_eth_stats_get(self.id(), &mut stats) })?;
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

    /// The names of all that the driver counts, in its own words, such as `rx_q0_errors`. Allocated once.
    pub fn counters(&self) -> &[String] {
        &self.counters
    }

    /// The values of [`Port::counters`], in their order; none when the driver does not tell. Allocates.
    pub fn counts(&self) -> Vec<u64> {
        let (mut values, none) = (vec![0; self.counters.len()], raw::rte_eth_xstat { id: 0, value: 0 });
        let mut raws = vec![none; self.counters.len()];
        // SAFETY: the port exists; the array has as many entries as is said.
        let got = unsafe { raw::rte_eth_xstats_get(self.id(), raws.as_mut_ptr(), raws.len() as u32) };
        for raw::rte_eth_xstat { id, value } in raws.iter().take(usize::try_from(got).unwrap_or(0)) {
            if let Some(to) = usize::try_from(*id).ok().and_then(|id| values.get_mut(id)) {
                *to = *value;
            }
        }
        values
    }
}

/// The names of what the driver counts.
pub(super) fn names(port: u16) -> Vec<String> {
    // SAFETY: EAL runs and the port exists in every caller; without room for a name it returns their number.
    let count = unsafe { raw::rte_eth_xstats_get_names(port, std::ptr::null_mut(), 0) };
    let none = raw::rte_eth_xstat_name { name: [0; 64] };
    let mut names = vec![none; usize::try_from(count).unwrap_or(0)];
    // SAFETY: as above; the array has as many entries as is said.
    let got = unsafe { raw::rte_eth_xstats_get_names(port, names.as_mut_ptr(), names.len() as u32) };
    names.truncate(usize::try_from(got).unwrap_or(0));
    let text = |raw: &raw::rte_eth_xstat_name| {
        // SAFETY: the driver wrote a NUL-terminated string, or the zeros are there.
        unsafe { CStr::from_ptr(raw.name.as_ptr()) }.to_string_lossy().into_owned()
    };
    names.iter().map(text).collect()
}
