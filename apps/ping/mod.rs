//! `nty ping`: ICMP echo requests, and how long their replies take.

pub mod report;
mod run;

pub use run::open;

use crate::values::Span;
use std::net::IpAddr;

/// What `nty ping` is asked to do.
#[derive(Clone, PartialEq, Eq, Debug, clap::Args)]
pub struct Options {
    /// Address to ask (IPv4 only so far)
    pub target: IpAddr,
    /// Stop after so many requests [default: go on until Ctrl-C]
    #[arg(long, short = 'c', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Time from one request to the next
    #[arg(long, short = 'i', value_name = "TIME", default_value = "1s")]
    pub interval: Span,
    /// Bytes of data per request, 0 to 65507
    #[arg(long, short = 's', value_name = "BYTES", default_value_t = 56, value_parser = clap::value_parser!(u16).range(..=65_507))]
    pub size: u16,
    /// How long to wait for a reply before it counts as lost
    #[arg(long, short = 'W', value_name = "TIME", default_value = "2s")]
    pub timeout: Span,
    /// Print the summary only
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

impl Options {
    /// What the values have to agree on among themselves.
    ///
    /// # Errors
    /// What is wrong, with the remedy.
    pub fn check(&self) -> Result<(), String> {
        crate::values::speakable(self.target)
    }
}
