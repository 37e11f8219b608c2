//! Counters as text: at the end of a run, and on the stats socket.

use super::RunError;
use nty_epoll::{Epoll, Events, Runtime};
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Every counter that is not zero, one `name value` per line.
pub(super) fn text(runtime: &mut Runtime) -> String {
    let mut text = String::new();
    let counters = runtime.stack().counters();
    let lines = counters.events().filter(|&(_, n)| n > 0).map(|(name, n)| (name.replace('_', "-"), n));
    let drops = counters.drops().map(|(reason, n)| (format!("drop-{}", reason.name()), n));
    for (name, n) in lines.chain(drops) {
        let _ = writeln!(text, "{name} {n}");
    }
    let tcp = runtime.stack().tcp_connections();
    let _ = writeln!(text, "tcp-connections {}", tcp.connections);
    let _ = writeln!(text, "tcp-time-wait {}", tcp.time_wait);
    for (id, stats) in runtime.shard().device_stats() {
        for (name, n) in stats.into_iter().filter(|&(_, n)| n > 0) {
            let _ = writeln!(text, "device{}-{name} {n}", id.0);
        }
    }
    text
}

/// A Unix socket that gives the counters to whoever connects. The file is removed with it.
pub(super) struct StatsSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl StatsSocket {
    /// Makes the socket and registers it.
    ///
    /// # Errors
    /// The path cannot be used; a socket that an earlier run left behind, and nobody listens on, is replaced.
    pub(super) fn open(path: &Path, epoll: &Epoll, data: u64) -> Result<Self, RunError> {
        let error = |source| RunError::StatsSocket { path: path.to_owned(), source };
        let listener = match UnixListener::bind(path) {
            Err(e) if e.kind() == ErrorKind::AddrInUse && is_abandoned(path) => {
                std::fs::remove_file(path).and_then(|()| UnixListener::bind(path)).map_err(error)?
            }
            bound => bound.map_err(error)?,
        };
        let socket = Self { listener, path: path.to_owned() };
        socket.listener.set_nonblocking(true).map_err(error)?;
        epoll.add_fd(socket.listener.as_raw_fd(), Events::IN, data)?;
        Ok(socket)
    }

    /// Answers everybody who waits. Whoever does not take the text at once loses the rest of it.
    pub(super) fn answer(&self, runtime: &mut Runtime) {
        while let Ok((mut client, _)) = self.listener.accept() {
            let _ = client.set_nonblocking(true);
            let _ = client.write_all(text(runtime).as_bytes());
        }
    }
}

impl Drop for StatsSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether the path is a socket that nobody listens on.
fn is_abandoned(path: &Path) -> bool {
    matches!(std::os::unix::net::UnixStream::connect(path), Err(e) if e.kind() == ErrorKind::ConnectionRefused)
}
