//! Devices behind a pointer are devices, so that a shard and the wrappers take an owned one, a boxed one or a borrowed one.

use super::{Caps, Device, DeviceError, RxFrame, TxMeta, TxQueue};

macro_rules! forward {
    ($([$($of:tt)*] $pointer:ty),+) => {$(
        impl<$($of)*> TxQueue for $pointer {
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

        impl<$($of)*> Device for $pointer {
            fn inner(&self) -> Option<&dyn Device> {
                Some(&**self)
            }

            fn inner_mut(&mut self) -> Option<&mut dyn Device> {
                Some(&mut **self)
            }

            fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
                (**self).rx_burst(sink)
            }

            fn flush(&mut self) -> Result<(), DeviceError> {
                (**self).flush()
            }
        }
    )+};
}

forward!([] Box<dyn Device + Send>, [D: Device] &mut D);
