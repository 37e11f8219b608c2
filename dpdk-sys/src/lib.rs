//! Raw bindings to the installed DPDK. Empty without the `dpdk` feature.
