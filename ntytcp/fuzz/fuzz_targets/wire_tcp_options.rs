//! TCP option areas: read alike by three parsers, and the same after being emitted.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../../tests/wire/oracles.rs"]
mod oracles;

fuzz_target!(|bytes: &[u8]| {
    oracles::tcp_options(bytes.get(..40).unwrap_or(bytes));
});
