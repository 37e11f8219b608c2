//! Storing the body of a PUT: written to a hidden file beside its target, renamed when it is complete.
//!
//! A reader sees the old file or the new one, never a part. What is not completed is removed. The data is handed to
//! the kernel, not forced to the disk: a power cut may lose an upload that was answered.

use super::files::Permit;
use super::path::SitePath;
use super::site::{FileMeta, Tree, state_of, status_of};
use super::status::Status;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write as _;

/// What the names of temporary files begin with; 16 lower-case hexadecimal digits follow.
const PREFIX: &str = ".nty-upload-";
/// How deep [`sweep`] goes, each level of which holds a descriptor.
const SWEEP_DEPTH: usize = 32;

/// Removes what uploads left in `folder` and below that did not end, as their process was killed: regular files with exactly the
/// names of temporary files, which nobody holds open. Symbolic links are not followed. Answers how many there were.
pub(super) fn sweep(folder: &OwnedFd) -> usize {
    sweep_below(folder, SWEEP_DEPTH)
}

fn sweep_below(folder: &OwnedFd, depth: usize) -> usize {
    let Ok(entries) = Dir::read_from(folder) else { return 0 };
    let mut swept = 0;
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().to_str() else { continue };
        if is_temporary(name) {
            swept += usize::from(sweep_file(folder, name));
            continue;
        }
        // Some file systems do not say what an entry is; opening it tells.
        let may_be_folder = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
        if depth == 0 || !may_be_folder || name == "." || name == ".." {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Ok(below) = rustix::fs::openat(folder, name, flags, Mode::empty()) {
            swept += sweep_below(&below, depth - 1);
        }
    }
    swept
}

fn sweep_file(folder: &OwnedFd, name: &str) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(folder, name, flags, Mode::empty()) else { return false };
    let is_file = rustix::fs::fstat(&file)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    // Whoever writes it still holds its lock, which ends with the process.
    is_file
        && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        && rustix::fs::unlinkat(folder, name, AtFlags::empty()).is_ok()
}

fn is_temporary(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .is_some_and(|tag| tag.len() == 16 && tag.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

/// A body on its way into a file.
#[derive(Debug)]
pub(super) struct Upload {
    folder: OwnedFd,
    temporary: String,
    name: String,
    file: File,
    _permit: Permit,
    /// How many more bytes are allowed.
    budget: u64,
    replaces: bool,
    finished: bool,
}

/// The place an upload goes to, before anything is written.
#[derive(Debug)]
pub(super) struct Target {
    folder: OwnedFd,
    permit: Permit,
    name: String,
    /// The file that is there now.
    pub(super) existing: Option<FileMeta>,
}

impl Target {
    /// Finds the folder and what is in the way.
    ///
    /// # Errors
    /// 409 when the folder does not exist or the name is no file's; others as for reading.
    pub(super) fn find(tree: &Tree, path: &SitePath, permit: Permit) -> Result<Self, Status> {
        let (folder, name) = path.split().filter(|_| !path.is_dir()).ok_or(Status::Conflict)?;
        let folder = tree.folder(folder).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => Status::Conflict,
            other => status_of(other),
        })?;
        let existing = state_of(&folder, name)?;
        Ok(Self { folder, permit, name: name.to_owned(), existing })
    }

    /// Makes the temporary file. `tag` should differ between uploads; `limit` is the most bytes to accept.
    pub(super) fn begin(self, tag: u64, limit: u64) -> Result<Upload, Status> {
        let Self { folder, permit, name, existing } = self;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let mut tries = 0_u64;
        let (temporary, fd) = loop {
            let temporary = format!("{PREFIX}{:016x}", tag.wrapping_add(tries));
            match rustix::fs::openat(&folder, temporary.as_str(), flags, mode) {
                Ok(fd) => break (temporary, fd),
                Err(Errno::EXIST) if tries < 100 => tries += 1,
                Err(errno) => return Err(status_of(errno)),
            }
        };
        // Says to a `sweep` of another process that somebody is at it. A file system without locks is swept only by its own.
        let _ = rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive);
        let replaces = existing.is_some();
        let file = File::from(fd);
        let (_permit, budget) = (permit, limit);
        Ok(Upload { folder, temporary, name, file, _permit, budget, replaces, finished: false })
    }
}

impl Upload {
    /// Appends content.
    ///
    /// # Errors
    /// 413 beyond the limit, 507 when the disk is full, 500 otherwise.
    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), Status> {
        self.budget = self.budget.checked_sub(data.len() as u64).ok_or(Status::ContentTooLarge)?;
        self.file.write_all(data).map_err(|error| match error.raw_os_error() {
            Some(code) => status_of(Errno::from_raw_os_error(code)),
            None => Status::InternalError,
        })
    }

    /// Puts the file in its place: 201 for a new one, 204 for a replaced one.
    ///
    /// # Errors
    /// 409 when the name was taken by a directory meanwhile, 500 otherwise.
    pub(super) fn finish(mut self) -> Result<Status, Status> {
        rustix::fs::renameat(&self.folder, self.temporary.as_str(), &self.folder, self.name.as_str())
            .map_err(|errno| match errno {
                Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY => Status::Conflict,
                other => status_of(other),
            })?;
        self.finished = true;
        Ok(if self.replaces { Status::NoContent } else { Status::Created })
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing more can be done about a file that will not go.
            let _ = rustix::fs::unlinkat(&self.folder, self.temporary.as_str(), AtFlags::empty());
        }
    }
}
