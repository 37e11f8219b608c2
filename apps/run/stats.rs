//! Counters as text: at the end of a run, and on the stats socket.

use super::RunError;
use nty_epoll::{Epoll, Events, Runtime};
use ntytcp::counters::Counters;
use ntytcp::stack::{InterfaceId, TcpPopulation};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// What one shard counted.
#[derive(Clone)]
pub(super) struct Report {
    counters: Counters,
    tcp: TcpPopulation,
    devices: Vec<(InterfaceId, Vec<(&'static str, u64)>)>,
}

impl Report {
    /// As of now.
    pub(super) fn of(runtime: &mut Runtime) -> Self {
        let devices = runtime.shard().device_stats();
        let stack = runtime.stack();
        Self { counters: stack.counters().clone(), tcp: stack.tcp_connections(), devices }
    }

    fn add(&mut self, other: &Self) {
        self.counters.add(&other.counters);
        self.tcp.connections += other.tcp.connections;
        self.tcp.time_wait += other.tcp.time_wait;
        let counts = other.devices.iter().flat_map(|(id, stats)| stats.iter().map(move |stat| (*id, *stat)));
        for (id, (name, n)) in counts {
            let ours = self.devices.iter_mut().filter(|(ours, _)| *ours == id).flat_map(|(_, stats)| stats);
            match ours.into_iter().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += n,
                None => self.devices.push((id, vec![(name, n)])),
            }
        }
    }
}

/// Every counter that is not zero, summed up over the shards, one `name value` per line; then what each of several shards did.
pub(super) fn text(shards: &[Report]) -> String {
    let mut text = String::new();
    let Some((first, others)) = shards.split_first() else { return text };
    let mut all = first.clone();
    others.iter().for_each(|other| all.add(other));
    let lines = all.counters.events().filter(|&(_, n)| n > 0).map(|(name, n)| (name.replace('_', "-"), n));
    let drops = all.counters.drops().map(|(reason, n)| (format!("drop-{}", reason.name()), n));
    for (name, n) in lines.chain(drops) {
        let _ = writeln!(text, "{name} {n}");
    }
    let _ = writeln!(text, "tcp-connections {}", all.tcp.connections);
    let _ = writeln!(text, "tcp-time-wait {}", all.tcp.time_wait);
    for (id, stats) in &all.devices {
        for (name, n) in stats.iter().filter(|&&(_, n)| n > 0) {
            let _ = writeln!(text, "device{}-{name} {n}", id.0);
        }
    }
    for (n, shard) in shards.iter().enumerate().filter(|_| !others.is_empty()) {
        let _ = writeln!(text, "shard{n}-rx-frames {}", shard.counters.rx_frames);
        let _ = writeln!(text, "shard{n}-tx-frames {}", shard.counters.tx_frames);
        let _ = writeln!(text, "shard{n}-tcp-connections {}", shard.tcp.connections);
    }
    text
}

/// A Unix socket that gives the counters to whoever connects. Its file is removed with it, unless another has taken the place.
pub(super) struct StatsSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file.
    file: Option<(u64, u64)>,
}

impl StatsSocket {
    /// Makes the socket and registers it.
    ///
    /// # Errors
    /// The path cannot be used. A socket that an earlier run left behind, and nobody listens on, is replaced; nothing else is.
    pub(super) fn open(path: &Path, epoll: &Epoll, data: u64) -> Result<Self, RunError> {
        let error = |source| RunError::StatsSocket { path: path.to_owned(), source };
        let socket = Self::bind(path).map_err(error)?;
        socket.listener.set_nonblocking(true).map_err(error)?;
        epoll.add_fd(socket.listener.as_raw_fd(), Events::IN, data)?;
        Ok(socket)
    }

    fn bind(path: &Path) -> io::Result<Self> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_abandoned(path)?;
                UnixListener::bind(path)?
            }
            bound => bound?,
        };
        Ok(Self { listener, path: path.to_owned(), file: identity(path) })
    }

    /// Answers everybody who waits. Whoever does not take the text at once loses the rest of it.
    pub(super) fn answer(&self, mut report: impl FnMut() -> Vec<Report>) {
        while let Ok((mut client, _)) = self.listener.accept() {
            let _ = client.set_nonblocking(true);
            let _ = client.write_all(text(&report()).as_bytes());
        }
    }
}

impl Drop for StatsSocket {
    fn drop(&mut self) {
        if self.file.is_some() && identity(&self.path) == self.file {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What tells one file from another that has its name later.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Removes a socket that nobody listens on.
///
/// # Errors
/// What is there is no socket, or somebody listens.
fn remove_abandoned(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "it exists and is no socket"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Err(io::Error::new(ErrorKind::AddrInUse, "another process answers there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ntytcp::counters::DropReason;

    #[test]
    fn the_readme_explains_every_counter_but_those_of_plain_traffic() {
        let readme = include_str!("../../README.md");
        let is_plain = |name: &str| {
            name.starts_with("rx-")
                || name == "tx-frames"
                || name == "tx-bytes"
                || name.ends_with("-rx")
                || name.ends_with("-tx")
        };
        let events = Counters::default();
        let events = events.events().map(|(name, _)| name.replace('_', "-")).filter(|name| !is_plain(name));
        let drops = DropReason::ALL.iter().map(|reason| format!("drop-{}", reason.name()));
        for name in events.chain(drops) {
            assert!(readme.contains(&format!("`{name}`")), "no word about {name}");
        }
    }

    #[test]
    fn only_a_socket_that_was_left_behind_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        let complaint = || StatsSocket::bind(&path).err().map(|error| error.to_string());
        drop(UnixListener::bind(&path).unwrap());
        let socket = StatsSocket::bind(&path).unwrap();
        assert_eq!(complaint().as_deref(), Some("another process answers there"));
        drop(socket);
        assert!(!path.exists());

        fs::write(&path, "precious").unwrap();
        assert_eq!(complaint().as_deref(), Some("it exists and is no socket"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(StatsSocket::bind(&link).is_err() && link.is_symlink());
    }

    #[test]
    fn file_that_took_the_place_of_the_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        let socket = StatsSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
        drop(other);
    }
}
