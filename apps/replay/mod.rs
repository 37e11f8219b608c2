//! `nty replay`: sends a capture through a device, and looks at what comes back.
//!
//! There is no stack in between: frames go out as they were captured, but for what the flags change in them, at the pace
//! that they say. ARP requests for addresses that the capture sends from are answered, so that whoever is asked can answer.

mod answers;
mod rewrite;
mod run;

pub use answers::Expect;
pub use run::run;

use crate::values::Span;
use ntytcp::device::spec::DeviceSpec;
use std::path::PathBuf;

/// What `nty replay` is asked to do.
#[derive(Clone, PartialEq, Debug, clap::Args)]
pub struct Options {
    /// Capture to send, pcap or pcapng; it is held in memory
    pub file: PathBuf,
    /// Device to send it through: tap:NAME, packet:IFACE, xdp:IFACE, mem:
    #[arg(long, value_name = "DEVICE")]
    pub device: DeviceSpec,
    /// Send it so many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub loops: u64,
    /// Fail unless each of these that is sent is answered
    #[arg(long, value_name = "WHAT")]
    pub expect: Option<Expect>,
    /// How long to wait for answers after the last frame
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub linger: Span,
    /// Leave ARP requests for the capture's own addresses unanswered
    #[arg(long)]
    pub no_arp: bool,
    #[command(flatten)]
    pace: crate::pace::Options,
    #[command(flatten)]
    rewrite: rewrite::Options,
}
