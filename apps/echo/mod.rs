//! `nty echo`: sends back what comes (RFC 862), over TCP and UDP.

mod serve;
#[cfg(test)]
mod tests;

pub use serve::open;

use crate::values::Port;
use serde::Deserialize;

/// How the TCP side waits for its sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Level-triggered: a socket is reported as long as it is ready
    #[default]
    Lt,
    /// Edge-triggered: a socket is reported when something happens to it
    Et,
}

/// Which transports are served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP and UDP
    #[default]
    Both,
    /// TCP only
    Tcp,
    /// UDP only
    Udp,
}

impl Transport {
    /// Whether TCP is served.
    pub const fn has_tcp(self) -> bool {
        matches!(self, Self::Both | Self::Tcp)
    }

    /// Whether UDP is served.
    pub const fn has_udp(self) -> bool {
        matches!(self, Self::Both | Self::Udp)
    }
}

/// What `nty echo` is asked to do.
#[derive(Clone, PartialEq, Eq, Debug, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Port to listen on
    #[arg(long, value_name = "PORT", default_value = "7")]
    pub port: Port,
    /// How the TCP side waits: lt, level-triggered, or et, edge-triggered
    #[arg(long, value_enum, default_value_t, hide_possible_values = true)]
    pub mode: Mode,
    /// What to listen for: both, tcp or udp
    #[arg(long, value_enum, default_value_t, hide_possible_values = true)]
    pub transport: Transport,
}

impl Default for Options {
    fn default() -> Self {
        Self { port: Port::new(7), mode: Mode::Lt, transport: Transport::Both }
    }
}
