//! Frames in, frames out, in virtual time: what the stack does on a wire that the test holds in its hands.

mod arp;
mod fragments;
mod icmp;
mod kit;
mod udp;
