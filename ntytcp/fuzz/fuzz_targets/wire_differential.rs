//! Whole frames, and their bytes as every protocol, against smoltcp and etherparse.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../../tests/wire/oracles.rs"]
mod oracles;

fuzz_target!(|bytes: &[u8]| {
    oracles::frame(bytes);
    oracles::every_layer(bytes);
    let mut frame = bytes.to_vec();
    oracles::repair_checksums(&mut frame);
    oracles::frame(&frame);
});
