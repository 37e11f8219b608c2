//! `nty perf http`: asks an HTTP server for one page over and over, and says how fast the answers come.
//!
//! The load is a closed loop: each connection sends its next request when an answer has come (with [`Options::pipeline`]
//! it has several under way). So a server that is slow is asked less often, and the latencies are those of this load, not of one that
//! arrives regardless.
//!
//! ```text
//!   connect -> (established) ask -> answer -> ask -> ...                keep-alive, until an answer says close
//!                                          \-> (FIN)                    --close: the server closes first, so that its port
//!      ^                                        |                       waits in TIME-WAIT and not ours
//!      |------------- at once ------------------|
//!      |------------- after RETRY, whoever failed: refused, reset, silent, no HTTP
//! ```
//!
//! `client` has the connections, `connection` is one of them, `response` reads the answers, `tally` counts and prints.

mod client;
mod connection;
mod response;
mod tally;
mod target;
#[cfg(test)]
mod tests;

pub use target::Target;

use crate::run::{Program, ProgramError};
use crate::values::{Span, count, speakable};
use ntytcp::stack::ports::PortRange;
use std::num::{NonZeroU16, NonZeroU64};
use std::time::Duration;

/// What `nty perf http` is asked to do. The flags that `nty perf` has too mean the same here.
#[derive(Clone, PartialEq, Eq, Debug, clap::Args)]
pub struct Options {
    /// What to ask for, as 10.0.0.2, 10.0.0.2:8080/page or http://10.0.0.2/
    #[arg(value_name = "TARGET")]
    pub target: Target,
    /// How long to ask [default: 10s]
    #[arg(long, short = 't', value_name = "TIME", conflicts_with = "requests")]
    pub time: Option<Span>,
    /// How many requests to make in all, instead of for how long
    #[arg(long, short = 'n', value_name = "N", value_parser = count::<NonZeroU64>(u64::MAX))]
    pub requests: Option<NonZeroU64>,
    /// How many connections at once, each with an ephemeral port of ours
    #[arg(long, short = 'P', value_name = "N", default_value = "1", value_parser = count::<NonZeroU16>(Self::max_parallel().into()))]
    pub parallel: NonZeroU16,
    /// One request per connection: ask the server to close, and connect anew
    #[arg(long, conflicts_with = "pipeline")]
    pub close: bool,
    /// Requests under way at once on each connection, sent without waiting for answers
    #[arg(long, value_name = "N", default_value = "1", value_parser = count::<NonZeroU16>(Self::MAX_PIPELINE.into()))]
    pub pipeline: NonZeroU16,
    /// How long to wait for a connection or an answer before it counts as failed
    #[arg(long, short = 'W', value_name = "TIME", default_value = "10s")]
    pub timeout: Span,
    /// How often to say how it goes
    #[arg(long, short = 'i', value_name = "TIME", default_value = "1s")]
    pub interval: Span,
    /// Print one JSON object at the end, and nothing else
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// The most requests under way on one connection.
    pub const MAX_PIPELINE: u16 = 1_024;

    /// The most connections at once: each takes one of our ephemeral ports.
    pub fn max_parallel() -> u16 {
        let ports = PortRange::default();
        ports.last() - ports.first() + 1
    }

    /// What the values have to agree on among themselves.
    ///
    /// # Errors
    /// What is wrong, with the remedy.
    pub fn check(&self) -> Result<(), String> {
        speakable(self.target.addr().ip())
    }

    /// How long to ask; `None` when the number of requests decides.
    pub fn time(&self) -> Option<Duration> {
        match self.requests {
            Some(_) => None,
            None => Some(self.time.map_or(Duration::from_secs(10), Span::duration)),
        }
    }
}

/// Prepares to ask; the first connections are begun with the first call of [`Program::ready`].
///
/// # Errors
/// [`ProgramError::Other`] for options that contradict each other, [`ProgramError::Epoll`] without a descriptor.
pub fn open(options: &Options) -> Result<Box<dyn Program>, ProgramError> {
    options.check().map_err(|error| ProgramError::Other(format!("{}: {error}", client::NAME)))?;
    Ok(Box::new(client::Client::new(options, Box::new(std::io::stdout()))?))
}
