//! Frames in, frames out, in virtual time: what the stack does on a wire that the test holds in its hands.

mod arbitrary;
mod arp;
mod fragments;
mod icmp;
mod idle;
mod kit;
mod readdress;
mod shortcuts;
mod smoltcp;
mod tcp;
mod tcp_output;
mod udp;
