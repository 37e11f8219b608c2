//! No frame makes a parser panic, and what is read, emitted and read again is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../../tests/wire/oracles.rs"]
mod oracles;

fuzz_target!(|bytes: &[u8]| {
    oracles::reemit(bytes);
    // Most mutations break a checksum, behind which nothing would be seen.
    let mut frame = bytes.to_vec();
    oracles::repair_checksums(&mut frame);
    oracles::reemit(&frame);
});
