//! From a request to the head of its answer, and to the file behind it.

use super::conditional::{self, Outcome};
use super::content::{FileContent, Frame};
use super::outbox::Outbox;
use super::path::SitePath;
use super::range::{self, Selection};
use super::request::{Method, Request};
use super::site::{Content, FileMeta, Found, OpenFile, Site, http_date};
use super::status::Status;
use super::upload::{Target, Upload};
use std::fmt::Write as _;
use std::ops::Range;

/// How the answer is to be put, as far as the request decides that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Manner {
    /// The client speaks HTTP/1.1.
    pub(super) http11: bool,
    /// Another answer may follow on the connection.
    pub(super) keep_alive: bool,
    /// HEAD: all but the body.
    pub(super) head_only: bool,
}

impl Manner {
    /// The last answer of a connection whose requests can no longer be understood.
    pub(super) const LAST: Self = Self { http11: true, keep_alive: false, head_only: false };
}

/// What follows the head.
#[derive(Debug)]
pub(super) enum Next {
    /// Nothing: the answer is complete.
    Nothing,
    /// Bytes of a file.
    Send(FileContent),
    /// The request's body goes into a file; the answer comes after that.
    Store(Upload),
}

/// Writes answers of one manner.
pub(super) struct Answer<'a> {
    pub(super) out: &'a mut Outbox,
    pub(super) site: &'a Site,
    /// May lose `keep_alive` while the request is answered.
    pub(super) manner: Manner,
}

impl Answer<'_> {
    /// Answers `request`, whose body has not come yet.
    pub(super) fn request(&mut self, request: &Request<'_>) -> Next {
        let reads = matches!(request.method, Method::Get | Method::Head);
        if let (Content::Tree(_), Method::Put, Some(_)) =
            (self.site.content(), request.method, self.site.max_upload)
        {
            return self.put(request);
        }
        self.manner.keep_alive &= request.is_discardable();
        match self.site.content() {
            Content::Hello { answer, head_len, .. } if reads => {
                self.hello(answer, *head_len);
                Next::Nothing
            }
            Content::Tree(_) if reads => self.read(request),
            Content::Tree(_) | Content::Hello { .. } => {
                self.text(Status::MethodNotAllowed, &[("Allow", self.allowed())]);
                Next::Nothing
            }
        }
    }

    /// Answers with a line of text that says the status.
    pub(super) fn text(&mut self, status: Status, fields: &[(&str, &str)]) {
        self.start(status);
        for (name, value) in fields {
            let _ = write!(self.out, "{name}: {value}\r\n");
        }
        if status == Status::ServiceUnavailable {
            // RFC 9110 10.2.3: in seconds.
            self.out.push(b"Retry-After: 1\r\n");
        }
        if status.is_bodiless() {
            self.out.push(b"\r\n");
            return;
        }
        let (code, reason) = (status.code(), status.reason());
        let len = reason.len() + 5;
        let _ = write!(self.out, "Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len}\r\n\r\n");
        if !self.manner.head_only {
            let _ = writeln!(self.out, "{code} {reason}");
        }
    }

    /// The status line and the fields that every answer has.
    fn start(&mut self, status: Status) {
        let (code, reason, date) = (status.code(), status.reason(), self.site.date());
        let _ = write!(self.out, "HTTP/1.1 {code} {reason}\r\nServer: nty\r\nDate: {date}\r\n");
        match self.manner {
            Manner { keep_alive: false, .. } => self.out.push(b"Connection: close\r\n"),
            Manner { http11: false, .. } => self.out.push(b"Connection: keep-alive\r\n"),
            Manner { .. } => {}
        }
    }

    /// The fixed page. In the usual manner one copy; nothing is allocated.
    fn hello(&mut self, answer: &[u8], head_len: usize) {
        let (head, body) = answer.split_at_checked(head_len).unwrap_or_default();
        match self.manner {
            Manner { http11: true, keep_alive: true, head_only: false } => self.out.push(answer),
            Manner { http11: true, keep_alive: true, head_only: true } => self.out.push(head),
            Manner { head_only, .. } => {
                self.start(Status::Ok);
                let len = body.len();
                let _ = write!(
                    self.out,
                    "Content-Type: text/html; charset=utf-8\r\nContent-Length: {len}\r\n\r\n"
                );
                if !head_only {
                    self.out.push(body);
                }
            }
        }
    }

    /// GET and HEAD of a path.
    fn read(&mut self, request: &Request<'_>) -> Next {
        let Content::Tree(tree) = self.site.content() else { return Next::Nothing };
        let found = SitePath::parse(request.target)
            .and_then(|path| Ok((tree.find(&path, self.site.files.permit()?)?, path)));
        match found {
            Ok((Found::File(open), path)) => return self.file(request, open, mime_of(&path)),
            Ok((Found::Directory, path)) => {
                self.text(Status::MovedPermanently, &[("Location", &path.location())]);
            }
            Err(status) => self.text(status, &[]),
        }
        Next::Nothing
    }

    /// An existing file, in whole, in part, or not at all because the client has it.
    fn file(&mut self, request: &Request<'_>, open: OpenFile, mime: &'static str) -> Next {
        let meta = open.meta;
        match conditional::evaluate(request, Some(&meta)) {
            Outcome::Proceed => {}
            Outcome::NotModified => {
                self.start(Status::NotModified);
                self.validators(&meta);
                self.out.push(b"\r\n");
                return Next::Nothing;
            }
            Outcome::Failed => {
                self.text(Status::PreconditionFailed, &[]);
                return Next::Nothing;
            }
        }
        // RFC 9110 14.2: Range is defined for GET only.
        let selection = match request.value("range") {
            Some(value) if request.method == Method::Get && conditional::range_applies(request, &meta) => {
                range::select(value, meta.len)
            }
            _ => Selection::Whole,
        };
        let charset = if mime.starts_with("text/") { "; charset=utf-8" } else { "" };
        match selection {
            Selection::Whole => {
                self.start(Status::Ok);
                let _ = write!(self.out, "Content-Type: {mime}{charset}\r\nContent-Length: {}\r\n", meta.len);
                self.finish_file(&meta, || FileContent::range(open, 0..meta.len))
            }
            Selection::One(range) => self.one_range(open, range, (mime, charset)),
            Selection::Many(ranges) => {
                let boundary = self.site.unpredictable(meta);
                let frame = Frame { boundary, mime, charset, len: meta.len };
                self.start(Status::PartialContent);
                let _ = write!(
                    self.out,
                    "Content-Type: multipart/byteranges; boundary={boundary:016x}\r\nContent-Length: {}\r\n",
                    frame.body_len(&ranges)
                );
                self.finish_file(&meta, || FileContent::multipart(open, ranges, frame))
            }
            Selection::Unsatisfiable => {
                self.text(
                    Status::RangeNotSatisfiable,
                    &[("Content-Range", &format!("bytes */{}", meta.len))],
                );
                Next::Nothing
            }
        }
    }

    fn one_range(&mut self, open: OpenFile, range: Range<u64>, (mime, charset): (&str, &str)) -> Next {
        let meta = open.meta;
        let (first, last) = (range.start, range.end.saturating_sub(1));
        self.start(Status::PartialContent);
        let _ = write!(
            self.out,
            "Content-Type: {mime}{charset}\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{last}/{}\r\n",
            range.end.saturating_sub(first),
            meta.len
        );
        self.finish_file(&meta, || FileContent::range(open, range))
    }

    /// Ends the head of an answer that carries content of a file.
    fn finish_file(&mut self, meta: &FileMeta, content: impl FnOnce() -> FileContent) -> Next {
        self.validators(meta);
        self.out.push(b"Accept-Ranges: bytes\r\n\r\n");
        if self.manner.head_only { Next::Nothing } else { Next::Send(content()) }
    }

    fn validators(&mut self, meta: &FileMeta) {
        let _ = write!(
            self.out,
            "ETag: {}\r\nLast-Modified: {}\r\n",
            meta.etag(),
            http_date(meta.modified_secs())
        );
    }

    /// PUT of a path. A refusal is answered at once.
    fn put(&mut self, request: &Request<'_>) -> Next {
        match self.begin_upload(request) {
            Ok(upload) => {
                if request.expects_continue {
                    self.out.push(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                Next::Store(upload)
            }
            Err(status) => {
                self.manner.keep_alive &= request.is_discardable();
                self.text(status, &[]);
                Next::Nothing
            }
        }
    }

    fn begin_upload(&self, request: &Request<'_>) -> Result<Upload, Status> {
        let (Content::Tree(tree), Some(limit)) = (self.site.content(), self.site.max_upload) else {
            return Err(Status::MethodNotAllowed);
        };
        // RFC 9110 14.5: an origin server that does not support partial PUT answers 400.
        if request.value("content-range").is_some() {
            return Err(Status::BadRequest);
        }
        if matches!(request.framing, super::request::Framing::Length(n) if n > limit) {
            return Err(Status::ContentTooLarge);
        }
        let target = Target::find(tree, &SitePath::parse(request.target)?, self.site.files.permit()?)?;
        if conditional::evaluate(request, target.existing.as_ref()) != Outcome::Proceed {
            return Err(Status::PreconditionFailed);
        }
        target.begin(self.site.unpredictable(request.target), limit)
    }

    fn allowed(&self) -> &'static str {
        if self.site.max_upload.is_some() { "GET, HEAD, PUT" } else { "GET, HEAD" }
    }
}

/// The type of a file, by its name.
fn mime_of(path: &SitePath) -> &'static str {
    let name = if path.is_dir() { "index.html" } else { path.as_str() };
    mime_guess::from_path(name).first_raw().unwrap_or("application/octet-stream")
}
