//! The environment abstraction layer: memory, devices and threads of DPDK, once per process.

use std::ffi::{CStr, c_char};
use std::marker::PhantomData;
use std::path::PathBuf;
use std::ptr;

use crate::error::{Errno, c_string, check};
use crate::{DpdkError, port, raw};

/// A vdev that is no port itself but makes ports of other names.
const VDEV_WITHOUT_PORT: &str = "net_vdev_netvsc";

/// Proof that EAL runs. It is a token that may be copied and sent to every thread; it stays good until
/// [`Eal::cleanup`].
#[derive(Debug, Clone, Copy)]
pub struct Eal {
    _made_by_init: (),
}

impl Eal {
    /// Starts EAL with its command-line arguments (without a program name), for example `["-l", "0",
    /// "--in-memory"]`. On a machine without hugepages: `["--no-huge", "-m", "256", "--iova-mode=va",
    /// "--no-pci"]`, at half the speed.
    ///
    /// The calling thread becomes DPDK's main lcore and is pinned to the first CPU of `-l` (`--lcores`); EAL
    /// starts a sleeping thread for each further one, so give it one CPU unless those threads are wanted. Two
    /// processes on one machine need a `--file-prefix` each.
    ///
    /// # Errors
    /// [`DpdkError::AlreadyInitialised`] the second time in a process; [`DpdkError::Argument`] for a NUL
    /// character or a request for help, which would end the process; [`DpdkError::Arguments`],
    /// [`DpdkError::Memory`] and [`DpdkError::Eal`] say what EAL found; [`DpdkError::Device`] when a `--vdev
    /// net_*` did not come up, which EAL itself only logs. After any but the first two the process cannot
    /// count on a second attempt.
    pub fn init(args: &[&str]) -> Result<Eal, DpdkError> {
        if let Some(help) = args.iter().find(|arg| **arg == "-h" || arg.starts_with("--he")) {
            return Err(DpdkError::Argument {
                text: (*help).to_owned(),
                reason: "prints a text and ends the process: see the EAL parameters in DPDK's guide",
            });
        }
        // getopt reorders the pointers and may write to the bytes. EAL keeps no reference to either.
        let mut strings = Vec::with_capacity(args.len() + 1);
        for arg in ["nty"].iter().chain(args) {
            strings.push(c_string(arg)?.into_bytes_with_nul());
        }
        let count = i32::try_from(strings.len()).map_err(|_| unknown_arguments(args))?;
        let mut argv: Vec<*mut c_char> =
            strings.iter_mut().map(|string| string.as_mut_ptr().cast()).collect();
        argv.push(ptr::null_mut());
        // SAFETY: argv holds `count` writable NUL-terminated strings, then a null pointer, and all live until
        // it returns.
        let parsed = unsafe { raw::rte_eal_init(count, argv.as_mut_ptr()) };
        if parsed < 0 {
            return Err(refusal(Errno::last(), args));
        }
        let eal = Eal { _made_by_init: () };
        // The program's name is not counted. What is left over is no option, and EAL does not mind.
        let complete = if parsed + 1 < count { Err(unknown_arguments(args)) } else { check_vdevs(args) };
        if complete.is_err() {
            // SAFETY: nobody has seen the token yet.
            unsafe { eal.cleanup() };
        }
        complete.map(|()| eal)
    }

    /// Ends EAL: devices are closed, hugepages and the files under [`Eal::runtime_dir`] given back. For the
    /// end of `main`; a process that just exits leaves the files to the next one with its `--file-prefix`.
    ///
    /// # Safety
    /// Nothing of DPDK is used any more, by any thread: every [`crate::Mempool`], [`crate::Mbuf`],
    /// [`crate::Burst`], [`crate::Port`] and [`RegisteredThread`] is gone (or forgotten), and no copy of this
    /// token is used again.
    pub unsafe fn cleanup(self) {
        // SAFETY: EAL runs, and the caller promises that nothing else does. It reports only that not all
        // could be freed.
        unsafe { raw::rte_eal_cleanup() };
    }

    /// The release, such as `DPDK 22.11.11`.
    pub fn version() -> &'static str {
        // SAFETY: rte_version returns a constant NUL-terminated string, before EAL runs too.
        unsafe { CStr::from_ptr(raw::rte_version()) }.to_str().unwrap_or("DPDK")
    }

    /// Where EAL keeps its files: a directory named by `--file-prefix`.
    pub fn runtime_dir(self) -> PathBuf {
        // SAFETY: EAL runs (self); the string is a static buffer that init filled and nobody changes.
        let directory = unsafe { CStr::from_ptr(raw::rte_eal_get_runtime_dir()) };
        PathBuf::from(directory.to_string_lossy().into_owned())
    }

    /// Brings up a device after the start, by what `--vdev` or `-a` would say: `net_null0,size=128`,
    /// `0000:03:00.0`.
    ///
    /// # Errors
    /// [`DpdkError::Device`] with the driver's reason.
    pub fn attach(self, device: &str) -> Result<(), DpdkError> {
        let name = c_string(device)?;
        // SAFETY: EAL runs (self), and name is a NUL-terminated string that DPDK copies.
        let status = unsafe { raw::rte_dev_probe(name.as_ptr()) };
        check("rte_dev_probe", device, status).map(|_| ()).map_err(|error| DpdkError::Device {
            device: device.to_owned(),
            reason: match error {
                DpdkError::Call { errno, .. } => Some(errno),
                _ => None,
            },
        })
    }

    /// The names of the ports there are.
    pub fn ports(self) -> Vec<String> {
        port::names()
    }

    /// The names of the ports that are not open.
    pub fn free_ports(self) -> Vec<String> {
        port::free_names()
    }

    /// Makes the calling thread known to DPDK until the guard is dropped. It is not pinned or changed
    /// otherwise, but gets a cache of its own in every pool: without it each burst goes to the pool's shared
    /// ring, which is correct and slower.
    ///
    /// # Errors
    /// [`DpdkError::Call`] when DPDK's table of threads is full, or a secondary process is attached.
    pub fn register_thread(self) -> Result<RegisteredThread, DpdkError> {
        // SAFETY: reads a thread-local.
        let known = unsafe { raw::nty_has_lcore() } != 0;
        if !known {
            // SAFETY: EAL runs (self) and this thread has no lcore id, so none is lost.
            let status = unsafe { raw::rte_thread_register() };
            check("rte_thread_register", "this thread", status)?;
        }
        Ok(RegisteredThread { registered: !known, _this_thread: PhantomData })
    }
}

/// The calling thread is known to DPDK while this exists: see [`Eal::register_thread`].
#[derive(Debug)]
pub struct RegisteredThread {
    /// Whether this guard did it, and not EAL or an outer guard.
    registered: bool,
    /// Unregistering is for the same thread: not Send.
    _this_thread: PhantomData<*mut ()>,
}

impl Drop for RegisteredThread {
    fn drop(&mut self) {
        if self.registered {
            // SAFETY: this guard registered this very thread, which it cannot leave.
            unsafe { raw::rte_thread_unregister() };
        }
    }
}

fn unknown_arguments(args: &[&str]) -> DpdkError {
    DpdkError::Arguments { arguments: args.join(" ") }
}

/// Says what a failed rte_eal_init means.
fn refusal(reason: Errno, args: &[&str]) -> DpdkError {
    match reason {
        Errno::EALREADY => DpdkError::AlreadyInitialised,
        Errno::EINVAL => unknown_arguments(args),
        Errno::ENODEV => {
            let devices: Vec<&str> = vdevs(args).collect();
            DpdkError::Device { device: devices.join(" "), reason: Some(reason) }
        }
        Errno::ENOMEM | Errno::EACCES => DpdkError::Memory(reason),
        other => DpdkError::Eal(other),
    }
}

/// EAL logs a vdev that does not come up and goes on; here it is an error.
fn check_vdevs(args: &[&str]) -> Result<(), DpdkError> {
    for device in vdevs(args) {
        let name = device.split(',').next().unwrap_or(device);
        if name.starts_with("net_") && !name.starts_with(VDEV_WITHOUT_PORT) && port::find(name)?.is_none() {
            return Err(DpdkError::Device { device: device.to_owned(), reason: None });
        }
    }
    Ok(())
}

/// The values of `--vdev VALUE` and `--vdev=VALUE`.
fn vdevs<'a>(args: &[&'a str]) -> impl Iterator<Item = &'a str> {
    let mut rest = args.iter();
    std::iter::from_fn(move || {
        loop {
            match rest.next()?.strip_prefix("--vdev") {
                Some("") => return rest.next().copied(),
                Some(value) => return Some(value.strip_prefix('=').unwrap_or(value)),
                None => {}
            }
        }
    })
}
