//! Threads and cores.
#![allow(unsafe_code)] // sched_setaffinity has no safe face.

use std::io;

/// Binds the calling thread to one core, so that a shard keeps its caches.
///
/// # Errors
/// What `sched_setaffinity(2)` says: no such core, or none that this process may use.
pub fn pin_to(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: a cpu_set_t is a plain array of bits, for which all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is below CPU_SETSIZE, so the bit is inside the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is as long as said and outlives the call.
    let rc = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_cannot_exist_is_refused() {
        assert_eq!(pin_to(usize::MAX).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert!(pin_to(libc::CPU_SETSIZE as usize - 1).is_err());
    }
}
