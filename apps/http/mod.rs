//! `nty http`: an HTTP/1.1 server of static files (RFC 9110, RFC 9112), as a state machine without sockets.
//!
//! A [`Site`] is what is served and is shared by all connections of one thread; a [`Connection`] turns the bytes of one
//! client into the bytes of the answers. `httparse` reads the heads; this module decides. The loop around it:
//!
//! ```text
//! once per turn      site.tick(wall clock)
//! accepted           Connection::new(&site, now)
//! per ready socket   loop {
//!                        while connection.wants_input() { read: receive(..) | at the end: end_of_input() | break }
//!                        while !connection.output().is_empty() { write: sent(..) | would block: break }
//!                        match connection.close() { Shutdown: close the sending side | Now: close, return
//!                                                   | Abort: send a RST, return }
//!                        until neither reading nor writing moved anything
//!                    }
//! at deadline()      on_timeout(now), then as for a ready socket
//! ```
//!
//! What it does: GET and HEAD with types, validators and conditions, single and multiple ranges, `index.html`, keep-alive
//! and pipelining in either version, PUT into files if asked to. What it does not: directory listings, compression,
//! TLS, hidden files (any component that begins with a dot).

mod answer;
mod body;
mod conditional;
mod connection;
mod content;
mod files;
mod outbox;
mod path;
mod range;
mod request;
mod serve;
mod site;
mod status;
#[cfg(test)]
mod tests;
mod upload;

pub(crate) use body::{Body, Malformed};
pub use connection::{Close, Connection};
pub(crate) use request::{Framing, MAX_HEAD, decimal, fields, has_token};
pub use serve::open;
pub use site::{Site, SiteError};
pub use status::Status;

use crate::values::{Port, Size, Span, yes_or_no};
use serde::Deserialize;
use std::path::PathBuf;

/// What `nty http` is asked to do.
#[derive(Clone, PartialEq, Eq, Debug, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Serve the files below this directory
    #[arg(long, value_name = "DIR", required_unless_present = "hello", conflicts_with = "hello")]
    pub root: Option<PathBuf>,
    /// Answer every request with one small fixed page (438 bytes in all), for benchmarks
    #[arg(long)]
    #[serde(deserialize_with = "yes_or_no")]
    pub hello: bool,
    /// TCP port to listen on
    #[arg(long, value_name = "PORT", default_value = "80")]
    pub port: Port,
    /// Let PUT store files below the root; a file appears under its name when it is complete
    #[arg(long, requires = "root")]
    #[serde(deserialize_with = "yes_or_no")]
    pub upload: bool,
    /// Largest file that may be stored
    #[arg(long, value_name = "SIZE", default_value = "1G", requires = "upload")]
    pub max_upload: Size,
    /// Close a connection when its client keeps us waiting for so long, or moves less than 1 kB/s over that time
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub idle_timeout: Span,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            root: None,
            hello: false,
            port: Port::new(80),
            upload: false,
            max_upload: Size::from_bytes(1 << 30),
            idle_timeout: Span::from_secs(60),
        }
    }
}

impl Options {
    /// What the values have to agree on among themselves.
    ///
    /// # Errors
    /// [`SiteError`], but for what only opening the root can tell.
    pub fn check(&self) -> Result<(), SiteError> {
        match (&self.root, self.hello) {
            (None, true) if self.upload => Err(SiteError::UploadWithoutRoot),
            (Some(_), false) | (None, true) => Ok(()),
            (None, false) | (Some(_), true) => Err(SiteError::NoContent),
        }
    }
}
