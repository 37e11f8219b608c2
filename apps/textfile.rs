//! Files that are read whole at the start: configurations and zones.
//!
//! What the command line names may be anything: a device that never ends, a FIFO that nobody writes to. Those are refused, or waited
//! for so long only, instead of filling the memory or hanging.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

/// How long the writer of a pipe may take for its next bytes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads a regular file, or a pipe such as a shell's `<(...)`, of at most `max` bytes.
///
/// # Errors
/// Those of the system; also for what is no file, is longer, or is a pipe that nobody writes to for [`PATIENCE`].
pub(crate) fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    // NONBLOCK: opening a FIFO must not wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let is_pipe = match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => false,
        FileType::Fifo => true,
        FileType::Directory => return Err(io::Error::other("it is a directory, not a file")),
        _ => return Err(io::Error::other("it is a device, not a regular file")),
    };
    let mut bytes = Vec::new();
    let mut limited = (&file).take(max + 1);
    loop {
        if is_pipe {
            wait(&file, PATIENCE)?;
        }
        // Appends what it got before an error.
        match limited.read_to_end(&mut bytes) {
            Ok(_) => break,
            Err(error) if is_pipe && error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    if bytes.len() as u64 > max {
        return Err(io::Error::other(format!("it is longer than {max} bytes")));
    }
    Ok(bytes)
}

/// Waits until a pipe has bytes, or its writer is gone.
fn wait(pipe: &File, patience: Duration) -> io::Result<()> {
    let timeout =
        Timespec { tv_sec: patience.as_secs().cast_signed(), tv_nsec: patience.subsec_nanos().into() };
    loop {
        let mut fds = [PollFd::new(pipe, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Err(io::Error::other("it is a pipe that nobody writes to")),
            Err(Errno::INTR) => {}
            ready => return Ok(ready.map(drop)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write as _;

    #[test]
    fn files_are_read_up_to_their_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert_eq!(read(&path, 4).unwrap_err().to_string(), "it is longer than 4 bytes");
    }

    #[test]
    fn what_never_ends_and_what_has_no_bytes_is_refused_at_once() {
        let why = |path: &str| read(Path::new(path), u64::MAX - 1).unwrap_err().to_string();
        assert_eq!(why("/dev/zero"), "it is a device, not a regular file");
        assert_eq!(why("/"), "it is a directory, not a file");
        assert!(why("/nonexistent").contains("No such file"));
    }

    #[test]
    fn a_pipe_is_read_to_its_end_and_waited_for_only_so_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let alone =
            File::from(rustix::fs::open(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap());
        let error = wait(&alone, Duration::from_millis(10)).unwrap_err();
        assert_eq!(error.to_string(), "it is a pipe that nobody writes to");
        let to = path.clone();
        let writer = std::thread::spawn(move || {
            let mut pipe = File::options().write(true).open(to).unwrap();
            for _ in 0..3 {
                pipe.write_all(&[7; 50_000]).unwrap();
            }
        });
        assert_eq!(read(&path, 150_000).unwrap(), [7; 150_000]);
        writer.join().unwrap();
        drop(alone);
    }
}
