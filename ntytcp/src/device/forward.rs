//! Devices behind a pointer are devices, so that a shard and the wrappers take an owned one, a boxed one or a borrowed one.

use super::{Caps, Device, DeviceError, RxFrame, TxMeta, TxQueue};
use crate::time::Instant;

macro_rules! forward {
    ($($pointer:ty),+) => {$(
        impl<D: TxQueue + ?Sized> TxQueue for $pointer {
            fn caps(&self) -> &Caps {
                (**self).caps()
            }

            fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
                (**self).reserve(len)
            }

            fn commit(&mut self, meta: TxMeta) {
                (**self).commit(meta);
            }
        }

        impl<D: Device + ?Sized> Device for $pointer {
            fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
                (**self).rx_burst(sink)
            }

            fn flush(&mut self) -> Result<(), DeviceError> {
                (**self).flush()
            }

            fn sync(&mut self) -> Result<(), DeviceError> {
                (**self).sync()
            }

            fn poll_fd(&self) -> Option<i32> {
                (**self).poll_fd()
            }

            fn is_exhausted(&self) -> bool {
                (**self).is_exhausted()
            }

            fn set_now(&mut self, now: Instant) {
                (**self).set_now(now);
            }

            fn is_steered(&self) -> bool {
                (**self).is_steered()
            }

            fn next_deadline(&self) -> Option<Instant> {
                (**self).next_deadline()
            }

            fn stats(&self) -> Vec<(&'static str, u64)> {
                (**self).stats()
            }
        }
    )+};
}

forward!(Box<D>, &mut D);
