//! What can go wrong, and what to do about it.

use std::ffi::{CStr, CString};
use std::fmt;

use crate::raw;

/// An error number as DPDK returns or sets it: `errno` values and a few of DPDK's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// There is not enough memory.
    pub const ENOMEM: Errno = Errno(12);
    pub(crate) const EACCES: Errno = Errno(13);
    pub(crate) const ENODEV: Errno = Errno(19);
    pub(crate) const EINVAL: Errno = Errno(22);
    pub(crate) const ENOSYS: Errno = Errno(38);
    pub(crate) const ENOTSUP: Errno = Errno(95);
    pub(crate) const EALREADY: Errno = Errno(114);

    /// `rte_errno` of this thread: why a function that returned -1 or a null pointer failed.
    pub(crate) fn last() -> Errno {
        // SAFETY: reads a thread-local of a library that is loaded.
        Errno(unsafe { raw::nty_rte_errno() })
    }

    /// The reason in what a function returned that gives a negative error number, or -1 and `rte_errno`.
    fn of_status(status: i32) -> Errno {
        match (status, Errno::last()) {
            (-1, last) if last.0 != 0 => last,
            (status, _) => Errno(status.saturating_neg()),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("no reason given");
        }
        // SAFETY: rte_strerror takes any number and returns a string of this thread or a constant, never
        // null; it is read before another call can change it.
        let text = unsafe { CStr::from_ptr(raw::rte_strerror(self.0)) };
        f.write_str(&text.to_string_lossy())
    }
}

/// Why a call into DPDK failed. EAL and the drivers also log the details, by default to the standard error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DpdkError {
    /// EAL was initialised before in this process, and cannot be again, not even after
    /// [`crate::Eal::cleanup`].
    #[error("EAL is already initialised: DPDK allows it once per process, so share the first handle")]
    AlreadyInitialised,
    /// A name or an argument cannot be given to DPDK.
    #[error("{text:?} {reason}")]
    Argument {
        /// The argument.
        text: String,
        /// What is wrong with it, as the rest of a sentence.
        reason: &'static str,
    },
    /// EAL did not take its arguments.
    #[error(
        "EAL refuses the arguments `{arguments}`: see its log above, and \
         https://doc.dpdk.org/guides/linux_gsg/linux_eal_parameters.html for what there is"
    )]
    Arguments {
        /// All of the arguments, separated by spaces.
        arguments: String,
    },
    /// EAL has no memory to hand out, or may not use it: there are no hugepages, most of the time.
    #[error(
        "EAL gets no memory or may not use its files ({0}): reserve hugepages as root (echo 512 > \
         /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages; mount -t hugetlbfs none /dev/hugepages), or do \
         without: --no-huge -m 256 --iova-mode=va. Without root, XDG_RUNTIME_DIR names a writable directory"
    )]
    Memory(Errno),
    /// EAL failed for another reason.
    #[error(
        "EAL does not start ({0}): see its log above; a second DPDK process needs a --file-prefix of its own"
    )]
    Eal(Errno),
    /// A device could not be brought up.
    #[error(
        "the DPDK device {device:?} does not come up{}: is the driver's name right and its package installed \
         (apt-get install librte-meta-allpmds), and a PCI device bound to vfio-pci (dpdk-devbind.py --status)?",
        .reason.map(|reason| format!(" ({reason})")).unwrap_or_default()
    )]
    Device {
        /// What was asked for.
        device: String,
        /// The driver's or bus's reason, if it gave one.
        reason: Option<Errno>,
    },
    /// No port has this name.
    #[error("there is no DPDK port {name:?}; there is: {ports}")]
    NoPort {
        /// The name asked for.
        name: String,
        /// The names that exist, separated by commas, or `none`.
        ports: String,
    },
    /// The port is open already: its queues have one user.
    #[error("the DPDK port {0:?} is open already in this process")]
    PortInUse(String),
    /// The driver cannot do what the settings of the port ask for.
    #[error("the DPDK port {port:?}: {what}")]
    Setting {
        /// The port.
        port: String,
        /// What it cannot, and what it can.
        what: String,
    },
    /// A frame does not fit an mbuf of this pool.
    #[error("a frame of {len} bytes does not fit the {room} bytes of an mbuf: make the pool with more room")]
    TooLong {
        /// Bytes asked for.
        len: usize,
        /// Bytes there are.
        room: usize,
    },
    /// A function of DPDK failed.
    #[error("{call} for {object:?}: {errno}")]
    Call {
        /// The function of DPDK.
        call: &'static str,
        /// The port, pool or ring it was called for.
        object: String,
        /// Its reason.
        errno: Errno,
    },
}

impl DpdkError {
    /// The error of a function that returned null or -1 and set `rte_errno`.
    pub(crate) fn last(call: &'static str, object: &str) -> DpdkError {
        DpdkError::Call { call, object: object.to_owned(), errno: Errno::last() }
    }
}

/// Checks what a function returned that returns 0 or more on success.
pub(crate) fn check(call: &'static str, object: &str, status: i32) -> Result<i32, DpdkError> {
    if status >= 0 {
        return Ok(status);
    }
    Err(DpdkError::Call { call, object: object.to_owned(), errno: Errno::of_status(status) })
}

/// A C string, if there is no NUL inside.
pub(crate) fn c_string(text: &str) -> Result<CString, DpdkError> {
    CString::new(text)
        .map_err(|_| DpdkError::Argument { text: text.to_owned(), reason: "holds a NUL character" })
}
