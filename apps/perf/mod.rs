//! `nty perf`: moves bulk data over TCP or UDP and says how fast it went; `nty perf http` loads an HTTP server.

mod client;
mod datagrams;
pub mod http;
mod measurement;
pub mod report;
pub mod request;
mod server;
#[cfg(test)]
mod sockets;
mod transfer;
mod udp_client;
mod udp_server;

use crate::run::{Program, ProgramError};
use crate::values::{Port, Size, Span, count, speakable, yes_or_no};
use nty_epoll::Runtime;
use serde::Deserialize;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

/// What `nty perf` is asked to do.
///
/// The client decides about the transfer and tells the server; what only a client decides is refused on a server.
#[derive(Clone, PartialEq, Eq, Debug, clap::Args, Deserialize)]
#[command(group(clap::ArgGroup::new("side").required(true).args(["server", "client"])))]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Wait for clients, TCP and UDP
    #[arg(long, short = 's')]
    #[serde(deserialize_with = "yes_or_no")]
    pub server: bool,
    /// Measure against the server at this address
    #[arg(long, short = 'c', value_name = "ADDRESS")]
    pub client: Option<IpAddr>,
    /// Port of the server
    #[arg(long, value_name = "PORT", default_value = "5201")]
    pub port: Port,
    /// Send datagrams instead of a stream; lost and reordered ones are counted
    #[arg(long, short = 'u', requires = "client")]
    #[serde(deserialize_with = "yes_or_no")]
    pub udp: bool,
    /// The server sends, the client receives
    #[arg(long, short = 'R', requires = "client", conflicts_with = "bidir")]
    #[serde(deserialize_with = "yes_or_no")]
    pub reverse: bool,
    /// Both send at the same time
    #[arg(long, requires = "client")]
    #[serde(deserialize_with = "yes_or_no")]
    pub bidir: bool,
    /// How long to send [default: 10s]
    #[arg(long, short = 't', value_name = "TIME", requires = "client", conflicts_with = "bytes")]
    pub time: Option<Span>,
    /// How much to send, per stream and direction, instead of for how long
    #[arg(long, short = 'n', value_name = "SIZE", requires = "client")]
    pub bytes: Option<Size>,
    /// How many streams at once [default: 1]
    #[arg(long, short = 'P', value_name = "N", requires = "client", value_parser = count::<NonZeroU8>(u8::MAX.into()))]
    pub parallel: Option<NonZeroU8>,
    /// Bytes per write, or per datagram [default: 128k, or 1448 with --udp]
    #[arg(long, short = 'l', value_name = "SIZE", requires = "client")]
    pub len: Option<Size>,
    /// How often to say how it goes
    #[arg(long, short = 'i', value_name = "TIME", default_value = "1s")]
    pub interval: Span,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            server: false,
            client: None,
            port: Port::new(5201),
            udp: false,
            reverse: false,
            bidir: false,
            time: None,
            bytes: None,
            parallel: None,
            len: None,
            interval: Span::from_secs(1),
        }
    }
}

impl Options {
    /// The largest write.
    pub const MAX_LEN: u64 = 16 << 20;
    /// The smallest datagram: what numbers it has to fit.
    pub const MIN_DATAGRAM: u64 = report::DatagramHeader::LEN as u64;
    /// The largest datagram that IPv4 carries.
    pub const MAX_DATAGRAM: u64 = 65_507;

    /// What the values have to agree on among themselves.
    ///
    /// # Errors
    /// What is wrong, with the remedy.
    pub fn check(&self) -> Result<(), String> {
        let Self { server, client, port: _, udp, reverse, bidir, time, bytes, parallel, len, interval: _ } =
            self;
        if *server == client.is_some() {
            return Err("give either server (--server) or client (--client ADDRESS)".into());
        }
        client.map_or(Ok(()), speakable)?;
        let for_client = *udp
            || *reverse
            || *bidir
            || time.is_some()
            || bytes.is_some()
            || parallel.is_some()
            || len.is_some();
        if *server && for_client {
            return Err("udp, reverse, bidir, time, bytes, parallel and len are the client's to choose: leave them out \
                        on the server"
                .into());
        }
        if *reverse && *bidir {
            return Err("reverse and bidir exclude each other: leave one out".into());
        }
        if time.is_some() && bytes.is_some() {
            return Err("time and bytes exclude each other: leave one out".into());
        }
        let (least, most) = if *udp { (Self::MIN_DATAGRAM, Self::MAX_DATAGRAM) } else { (1, Self::MAX_LEN) };
        if !(least..=most).contains(&(self.write_len() as u64)) {
            return Err(format!("len is {} bytes: give {least} to {most}", self.write_len()));
        }
        Ok(())
    }

    /// How long to send; `None` when the amount decides.
    pub fn time(&self) -> Option<Duration> {
        match (self.bytes, self.time) {
            (Some(_), _) => None,
            (None, time) => Some(time.map_or(Duration::from_secs(10), Span::duration)),
        }
    }

    /// Bytes per write or datagram.
    pub fn write_len(&self) -> usize {
        let default = Size::from_bytes(if self.udp { 1_448 } else { 128 << 10 });
        usize::try_from(self.len.unwrap_or(default).bytes()).unwrap_or(usize::MAX)
    }

    /// How often a line is printed; one per call is the most there can be.
    pub fn line_interval(&self) -> Duration {
        self.interval.duration().max(Duration::from_millis(1))
    }

    /// How many streams.
    pub fn parallel(&self) -> usize {
        self.parallel.map_or(1, |n| usize::from(n.get()))
    }
}

/// Listens as the server, or begins to connect as the client.
///
/// # Errors
/// [`ProgramError::Port`], [`ProgramError::Peer`]; [`ProgramError::Other`] for options that contradict each other.
pub fn open(options: &Options, runtime: &mut Runtime) -> Result<Box<dyn Program>, ProgramError> {
    options.check().map_err(|error| ProgramError::Other(format!("perf: {error}")))?;
    let out = Box::new(std::io::stdout());
    Ok(match options.client {
        Some(peer) if options.udp => Box::new(udp_client::UdpClient::new(options, peer, runtime, out)?),
        Some(peer) => Box::new(client::Client::new(options, peer, runtime, out)?),
        None => Box::new(server::Server::new(options, runtime, out)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_refused() {
        let client = Options { client: Some(IpAddr::from([10, 0, 0, 1])), ..Options::default() };
        let server = Options { server: true, ..Options::default() };
        assert_eq!((client.check(), server.check()), (Ok(()), Ok(())));
        let size = |n| Some(Size::from_bytes(n));
        for bad in [
            Options::default(),
            Options { server: true, ..client.clone() },
            Options { udp: true, ..server.clone() },
            Options { len: size(100), ..server.clone() },
            Options { parallel: NonZeroU8::new(2), ..server.clone() },
            Options { time: Some(Span::from_secs(1)), ..server },
            Options { reverse: true, bidir: true, ..client.clone() },
            Options { time: Some(Span::from_secs(1)), bytes: size(1), ..client.clone() },
            Options { len: size(0), ..client.clone() },
            Options { len: size(Options::MAX_LEN + 1), ..client.clone() },
            Options { udp: true, len: size(Options::MIN_DATAGRAM - 1), ..client.clone() },
            Options { udp: true, len: size(65_508), ..client.clone() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert_eq!(client.time(), Some(Duration::from_secs(10)));
        assert_eq!(Options { bytes: size(5), ..client }.time(), None);
    }
}
