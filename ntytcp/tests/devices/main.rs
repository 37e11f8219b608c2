//! The devices that reach the kernel, against the real one, each test in a network namespace of its own.
//!
//! A test runs its own binary again under `unshare`; the copy does the work. Without root and without unprivileged user
//! namespaces the tests say so and pass.
#![cfg(all(feature = "devices", target_os = "linux"))]

mod conformance;
mod crash;
#[cfg(feature = "dpdk")]
mod dpdk;
#[cfg(feature = "dpdk")]
mod dpdk_links;
mod kit;
mod packet;
mod queues;
mod tap;
mod xdp;
