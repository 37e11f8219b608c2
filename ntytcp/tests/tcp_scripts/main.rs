//! TCP as packet traces, in virtual time.
//!
//! A script is a list of lines, each `[+SECONDS] ACTION`, with the time since the line before:
//!
//! ```text
//! < SEGMENT        the peer sends          > SEGMENT     the stack must send this now, and nothing else before
//! listen [backlog N] · accept [nothing] · connect · send N · recv N · recv end · shutdown · close · abort
//! send|recv error NAME · error NAME · state NAME · event NAME.. · nodelay · keepalive IDLE INTERVAL COUNT
//! split (then: write N · end · wake) · user-timeout SECONDS · population HALF-OPEN CONNECTIONS TIME-WAIT · ring full|free · pages N (held by sockets) · at-rest (no
//! timer runs) · wait
//! ```
//!
//! Sequence numbers are relative to each side's first; every byte of payload is checked. A packet that no line asks for
//! fails the script.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A script that cannot go on has failed.

mod close;
mod handshake;
mod lossy;
mod packet;
mod pages;
mod runner;
mod timers;
mod transfer;

use ntytcp::stack::StackConfig;

/// Runs a script with the default settings.
fn script(text: &str) {
    runner::run(StackConfig::default(), text);
}

/// Runs a script on a connection that a peer has opened, without options: MSS 1000 both ways, window 65535.
fn accepted(text: &str) {
    script(&format!("{ACCEPTED}\n{text}"));
}

/// A connection from the peer, accepted.
const ACCEPTED: &str = "
    listen
    < S 0:0(0) win 65535 <mss 1000>
    > S. 0:0(0) ack 1 <mss 1460>
    +0.01 < . 1:1(0) ack 1 win 65535
    accept
    event WRITABLE
    state ESTABLISHED
";
