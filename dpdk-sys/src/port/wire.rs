//! Ports that are the ends of a wire within the process.

use super::{name_of, no_port};
use crate::error::{c_string, check};
use crate::{DpdkError, Eal, raw};

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
