//! `nty dns`: an authoritative DNS server.
//!
//! [`ZoneSpec`] names a zone and its master file, [`Zones::load`] reads, checks and compiles zones, and
//! [`Zones::answer`] turns a request into its answer in the buffer it came in. [`answer_stream`] does the same for a
//! TCP byte stream. Nothing of this does I/O after loading, keeps state between requests, or allocates for an answer; one
//! `Zones` may be shared by any number of threads. [`open`] puts them behind sockets.
//!
//! | what | where it is written | where it is done |
//! |---|---|---|
//! | messages, names, compression | RFC 1034, 1035 4 | `wire.rs`, `answer.rs` |
//! | master files, `$TTL`, generic types | RFC 1035 5, 2308 4, 3597 5 | `lexer.rs`, `master.rs` |
//! | negative answers, their TTL | RFC 2308 | `answer.rs`, `compile.rs` |
//! | RRsets, truncation | RFC 2181 5, 9 | `compile.rs`, `answer.rs` |
//! | CNAME chains, their response code | RFC 1034 4.3.2, 6604 | `answer.rs` |
//! | wildcards, empty non-terminals | RFC 4592 | `store.rs` |
//! | referrals and glue | RFC 1034 4.3.2, 9471 | `answer.rs` |
//! | SRV, CAA | RFC 2782, 8659 | `rdata.rs` |
//! | EDNS | RFC 6891, 9715 (size) | `wire.rs`, `answer.rs` |
//! | ANY | RFC 8482 4.1 | `answer.rs` |
//! | one question per query | RFC 9619 | `answer.rs` |
//! | TCP, pipelining | RFC 1035 4.2.2, 7766 | `frames.rs`, `serve.rs` |
//!
//! Not here: DNSSEC (records of its types are served when asked for, but no proof is added to any answer), TSIG, zone
//! transfer (AXFR and IXFR are refused), NOTIFY and dynamic update (not implemented: NOTIMP), DNAME (a zone with one is
//! refused, because answers below it would be wrong), classes other than IN (refused), recursion (RA is never set).

mod answer;
mod compile;
mod frames;
mod lexer;
mod master;
mod rdata;
mod serve;
mod store;
mod wire;
mod zone;

pub use answer::{Transport, UDP_PAYLOAD_MAX, UDP_PAYLOAD_MIN};
pub use frames::{ANSWER_MAX, Frames, PREFIX, Progress, answer_stream, frames};
pub use serve::open;
pub use store::Zones;
pub use zone::{Problem, ZoneError, ZoneSpec};

#[cfg(test)]
mod tests;
