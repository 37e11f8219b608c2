//! The atomics of the FIFO: the real ones, or loom's when its model checker runs the tests.

#[cfg(all(test, loom))]
pub(super) use loom::sync::{
    Arc,
    atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering},
};
#[cfg(not(all(test, loom)))]
pub(super) use std::sync::{
    Arc,
    atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering},
};
