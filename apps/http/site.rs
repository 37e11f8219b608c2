//! What is served: a directory tree behind one file descriptor, or one fixed page.
//!
//! Every name is resolved by the kernel below the root's descriptor (openat2 with `RESOLVE_BENEATH`), so that neither `..`
//! nor a symbolic link, nor one that is exchanged while we look, leads outside. An absolute link is refused even if it
//! points back inside. Where the system has no openat2, no symbolic link is followed at all.
//!
//! File operations block the thread that does them. That is right for files in the page cache, and wrong for a root on
//! a slow network file system.

use super::Options;
use super::files::{OpenFiles, Permit};
use super::path::SitePath;
use super::status::Status;
use super::upload;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// How often a lookup is tried again when a rename elsewhere made the kernel unsure (EAGAIN of openat2).
const RESOLVE_RETRIES: usize = 8;
/// Length of the answer of `--hello`, head included.
const HELLO_LEN: usize = 438;

/// Why a site cannot be opened. The message names the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SiteError {
    /// Neither a root nor the fixed page was asked for, or both.
    #[error("give either a directory to serve (root, --root DIR) or the fixed page (hello, --hello)")]
    NoContent,
    /// There is nothing to upload to.
    #[error("uploads need a directory to go to: give root (--root DIR) with upload (--upload)")]
    UploadWithoutRoot,
    /// The root cannot be opened.
    #[error("cannot serve {}: {source} (give an existing directory that you may read)", root.display())]
    Root {
        /// The directory asked for.
        root: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What all connections of one server share.
#[derive(Debug)]
pub struct Site {
    content: Content,
    /// The most bytes of one upload; `None` when nothing may be uploaded.
    pub(super) max_upload: Option<u64>,
    /// How long a peer may keep us waiting.
    pub(super) idle_timeout: Duration,
    pub(super) files: OpenFiles,
    key: RandomState,
    date: [u8; DATE_LEN],
    date_secs: u64,
}

const DATE_LEN: usize = 29;

#[derive(Debug)]
pub(super) enum Content {
    /// Files below a directory.
    Tree(Tree),
    /// The page of `--hello`: the whole answer as it is sent, where its date stands, and how long its head is.
    Hello { answer: Vec<u8>, date_at: usize, head_len: usize },
}

impl Site {
    /// Opens the directory, or prepares the page.
    ///
    /// # Errors
    /// [`SiteError`] when the options contradict each other or the root is no readable directory.
    pub fn open(options: &Options) -> Result<Self, SiteError> {
        options.check()?;
        let content = match &options.root {
            Some(root) => Content::Tree(
                Tree::open(root).map_err(|source| SiteError::Root { root: root.clone(), source })?,
            ),
            None => hello_page(),
        };
        if options.upload
            && let Content::Tree(tree) = &content
        {
            let swept = upload::sweep(&tree.root);
            if swept > 0 {
                tracing::info!(target: "nty::http", swept, "removed uploads that an earlier run left unfinished");
            }
        }
        let mut site = Self {
            content,
            max_upload: options.upload.then_some(options.max_upload.bytes()),
            idle_timeout: options.idle_timeout.duration(),
            files: OpenFiles::of_process(),
            key: RandomState::new(),
            date: [b' '; DATE_LEN],
            date_secs: u64::MAX,
        };
        site.tick(SystemTime::UNIX_EPOCH);
        Ok(site)
    }

    /// Tells the site what `Date` to send. Call it once per turn: all but the first call of a second do nothing.
    pub fn tick(&mut self, wall: SystemTime) {
        let secs = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        // The date's format ends with the year 9999.
        if secs == self.date_secs || secs >= 253_402_300_800 {
            return;
        }
        self.date_secs = secs;
        let text = http_date(secs);
        if let Ok(date) = text.as_bytes().try_into() {
            self.date = date;
        }
        if let Content::Hello { answer, date_at, .. } = &mut self.content
            && let Some(place) = answer.get_mut(*date_at..*date_at + DATE_LEN)
        {
            place.copy_from_slice(&self.date);
        }
    }

    /// The value of `Date`.
    pub(super) fn date(&self) -> &str {
        std::str::from_utf8(&self.date).unwrap_or_default()
    }

    pub(super) fn content(&self) -> &Content {
        &self.content
    }

    /// A number that a client cannot foresee, the same for the same `value` during the life of the site.
    pub(super) fn unpredictable(&self, value: impl std::hash::Hash) -> u64 {
        self.key.hash_one(value)
    }
}

/// `secs` since 1970 as HTTP writes it.
pub(super) fn http_date(secs: u64) -> String {
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(secs))
}

/// Builds the answer of `--hello`, padded to [`HELLO_LEN`].
fn hello_page() -> Content {
    const BODY: &str =
        "<!doctype html>\n<title>nty</title>\n<p>Hello from a TCP/IP stack in user space.</p>\n";
    let start = "HTTP/1.1 200 OK\r\nServer: nty\r\nDate: ";
    // The length has three digits whatever the padding is.
    let rest = "\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 000\r\n\r\n".len();
    let head_len = start.len() + DATE_LEN + rest;
    let body_len = HELLO_LEN.saturating_sub(head_len).max(BODY.len());
    let mut answer = format!(
        "{start}{:DATE_LEN$}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {body_len}\r\n\r\n{BODY}",
        ""
    )
    .into_bytes();
    answer.resize(head_len + body_len, b'\n');
    Content::Hello { answer, date_at: start.len(), head_len }
}

/// A directory tree.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    /// The kernel confines lookups; else we walk, and follow no link.
    has_openat2: bool,
}

/// What a path names.
#[derive(Debug)]
pub(super) enum Found {
    File(OpenFile),
    Directory,
}

/// A regular file, open for reading.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    pub(super) meta: FileMeta,
    pub(super) permit: Permit,
}

/// What identifies one state of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct FileMeta {
    pub(super) len: u64,
    inode: u64,
    mtime_nanos: i128,
}

impl FileMeta {
    fn new(stat: &rustix::fs::Stat) -> Self {
        let mtime_nanos = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
        Self { len: u64::try_from(stat.st_size).unwrap_or(0), inode: stat.st_ino, mtime_nanos }
    }

    /// A strong entity tag, quotes included: another file, length or time of change gives another tag.
    pub(super) fn etag(&self) -> String {
        format!("\"{:x}-{:x}-{:x}\"", self.inode, self.len, self.mtime_nanos)
    }

    /// The time of the last change in whole seconds since 1970.
    pub(super) fn modified_secs(&self) -> u64 {
        u64::try_from(self.mtime_nanos / 1_000_000_000).unwrap_or(0).min(253_402_300_799)
    }
}

impl Tree {
    fn open(root: &std::path::Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())?;
        let probe = rustix::fs::openat2(&root, ".", flags, Mode::empty(), ResolveFlags::BENEATH);
        Ok(Self { root, has_openat2: probe.is_ok() })
    }

    /// Opens what `path` names; a directory counts as its `index.html` if the path ends in `/`.
    pub(super) fn find(&self, path: &SitePath, permit: Permit) -> Result<Found, Status> {
        let name = match (path.as_str(), path.is_dir()) {
            ("", _) => "index.html".to_owned(),
            (folder, true) => format!("{folder}/index.html"),
            (file, false) => file.to_owned(),
        };
        // NONBLOCK: opening a FIFO must not wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = self.resolve(&name, flags).map_err(status_of)?;
        let stat = rustix::fs::fstat(&fd).map_err(status_of)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                Ok(Found::File(OpenFile { file: File::from(fd), meta: FileMeta::new(&stat), permit }))
            }
            FileType::Directory if !path.is_dir() => Ok(Found::Directory),
            _ => Err(Status::NotFound),
        }
    }

    /// Opens an existing folder below the root, to put files into.
    pub(super) fn folder(&self, path: &str) -> Result<OwnedFd, Errno> {
        let name = if path.is_empty() { "." } else { path };
        self.resolve(name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)
    }

    fn resolve(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        if !self.has_openat2 {
            return self.walk(path, flags);
        }
        let mut tries = 0;
        loop {
            let confined = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), confined) {
                Err(Errno::AGAIN | Errno::INTR) if tries < RESOLVE_RETRIES => tries += 1,
                result => return result,
            }
        }
    }

    /// Component by component, none of which may be a symbolic link.
    fn walk(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut at: Option<OwnedFd> = None;
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        let step = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        for folder in folders.split('/').filter(|c| !c.is_empty()) {
            at = Some(rustix::fs::openat(self.or_root(&at), folder, step, Mode::empty())?);
        }
        rustix::fs::openat(self.or_root(&at), name, flags | OFlags::NOFOLLOW, Mode::empty())
    }

    fn or_root<'a>(&'a self, at: &'a Option<OwnedFd>) -> BorrowedFd<'a> {
        at.as_ref().unwrap_or(&self.root).as_fd()
    }
}

/// How an error of a lookup is answered. EXDEV and ELOOP are links that lead out of the root, or in circles.
pub(super) fn status_of(errno: Errno) -> Status {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::NXIO | Errno::NODEV => Status::NotFound,
        Errno::ACCESS | Errno::PERM | Errno::XDEV | Errno::LOOP => Status::Forbidden,
        // The bound on open files is ours; what the other programs of the system do is not.
        Errno::MFILE | Errno::NFILE => Status::ServiceUnavailable,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Status::InsufficientStorage,
        _ => Status::InternalError,
    }
}

/// State of one file of a folder, `None` if there is none by that name.
///
/// # Errors
/// 409 when the name belongs to something that is no regular file.
pub(super) fn state_of(folder: &OwnedFd, name: &str) -> Result<Option<FileMeta>, Status> {
    match rustix::fs::statat(folder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
            Ok(Some(FileMeta::new(&stat)))
        }
        Ok(_) => Err(Status::Conflict),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(status_of(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A root with a file, a folder, and links in, out and around.
    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        fs::write(root.join("a.txt"), "a").unwrap();
        fs::write(root.join("sub/index.html"), "i").unwrap();
        std::os::unix::fs::symlink("a.txt", root.join("inside")).unwrap();
        std::os::unix::fs::symlink("../secret", root.join("outside")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("absolute")).unwrap();
        std::os::unix::fs::symlink("..", root.join("up")).unwrap();
        std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
        let tree = Tree::open(&root).unwrap();
        (dir, tree)
    }

    fn find(tree: &Tree, target: &str) -> Result<Found, Status> {
        tree.find(&SitePath::parse(target).unwrap(), OpenFiles::at_most(1).permit().unwrap())
    }

    #[test]
    fn links_that_leave_the_root_are_refused_with_and_without_openat2() {
        let (_dir, mut tree) = tree();
        for has_openat2 in [tree.has_openat2, false] {
            tree.has_openat2 = has_openat2;
            for target in ["/outside", "/absolute", "/loop"] {
                assert_eq!(find(&tree, target).unwrap_err(), Status::Forbidden, "{target} {has_openat2}");
            }
            let through = find(&tree, "/up/secret").unwrap_err();
            assert!(matches!(through, Status::Forbidden | Status::NotFound));
            assert!(matches!(find(&tree, "/a.txt"), Ok(Found::File(f)) if f.meta.len == 1));
            assert!(matches!(find(&tree, "/sub/"), Ok(Found::File(_))));
            assert!(matches!(find(&tree, "/sub"), Ok(Found::Directory)));
            assert_eq!(find(&tree, "/a.txt/").unwrap_err(), Status::NotFound);
            assert_eq!(find(&tree, "/").unwrap_err(), Status::NotFound, "no index.html");
            assert_eq!(find(&tree, &format!("/{}", "x".repeat(5000))).unwrap_err(), Status::NotFound);
        }
    }

    #[test]
    fn link_inside_the_root_is_followed_by_openat2() {
        let (_dir, tree) = tree();
        if tree.has_openat2 {
            assert!(matches!(find(&tree, "/inside"), Ok(Found::File(_))));
        }
    }

    #[test]
    fn fifo_is_not_served_and_does_not_block() {
        let (dir, tree) = tree();
        rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("root/fifo"), FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        assert_eq!(find(&tree, "/fifo").unwrap_err(), Status::NotFound);
    }

    #[test]
    fn hello_answer_has_the_length_of_the_benchmarks_and_follows_the_clock() {
        let mut site = Site::open(&Options { hello: true, ..Options::default() }).unwrap();
        site.tick(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777));
        let Content::Hello { answer, head_len, .. } = site.content() else { panic!("no page") };
        assert_eq!(answer.len(), HELLO_LEN);
        let (head, body) = answer.split_at(*head_len);
        let head = std::str::from_utf8(head).unwrap();
        assert!(head.contains("\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"), "{head}");
        assert!(head.ends_with(&format!("Content-Length: {}\r\n\r\n", body.len())));
    }

    #[test]
    fn contradicting_options_are_refused() {
        let root = Some(PathBuf::from("/"));
        for options in [
            Options::default(),
            Options { hello: true, root: root.clone(), ..Options::default() },
            Options { hello: true, upload: true, ..Options::default() },
            Options { root: Some("/nonexistent".into()), ..Options::default() },
        ] {
            assert!(Site::open(&options).is_err(), "{options:?}");
        }
    }
}
