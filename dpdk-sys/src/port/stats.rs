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

    /// All that the driver counts, in its own words, such as `rx_q0_errors`; where it does not tell, what
    /// [`Port::stats`] has, in the same words. Allocates.
    pub fn counters(&self) -> Vec<(String, u64)> {
        let names = names(self.id());
        let mut values = vec![raw::rte_eth_xstat { id: 0, value: 0 }; names.len()];
        // SAFETY: the port exists; the array has as many entries as is said.
        let got = unsafe { raw::rte_eth_xstats_get(self.id(), values.as_mut_ptr(), values.len() as u32) };
        // More than there is room for: they have changed meanwhile.
        values.truncate(usize::try_from(got).ok().filter(|got| *got <= names.len()).unwrap_or(0));
        let name = |id: u64| names.get(usize::try_from(id).ok()?).cloned();
        let told: Vec<_> = values.iter().filter_map(|raw| Some((name(raw.id)?, raw.value))).collect();
        if told.is_empty() { self.basic_counters() } else { told }
    }

    fn basic_counters(&self) -> Vec<(String, u64)> {
        let stats = self.stats().unwrap_or_default();
        let named = [
            ("rx_good_packets", stats.rx_frames),
            ("tx_good_packets", stats.tx_frames),
            ("rx_good_bytes", stats.rx_bytes),
            ("tx_good_bytes", stats.tx_bytes),
            ("rx_missed_errors", stats.rx_missed),
            ("rx_errors", stats.rx_errors),
            ("tx_errors", stats.tx_errors),
            ("rx_mbuf_allocation_errors", stats.rx_no_buffer),
        ];
        named.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// The names of what the driver counts.
fn names(port: u16) -> Vec<String> {
    // SAFETY: EAL runs and the port exists in every caller; without room for a name it returns their number.
    let count = unsafe { raw::rte_eth_xstats_get_names(port, std::ptr::null_mut(), 0) };
    let none = raw::rte_eth_xstat_name { name: [0; 64] };
    let mut names = vec![none; usize::try_from(count).unwrap_or(0)];
    // SAFETY: as above; the array has as many entries as is said.
    let got = unsafe { raw::rte_eth_xstats_get_names(port, names.as_mut_ptr(), names.len() as u32) };
    if got != count {
        // An error, or they have changed meanwhile.
        return Vec::new();
    }
    let text = |raw: &raw::rte_eth_xstat_name| {
        // SAFETY: the driver wrote a NUL-terminated string, or the zeros are there.
        unsafe { CStr::from_ptr(raw.name.as_ptr()) }.to_string_lossy().into_owned()
    };
    names.iter().map(text).collect()
}
