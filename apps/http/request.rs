//! From the bytes of a request head to a [`Request`] whose framing is beyond doubt (RFC 9112).
//!
//! Whatever could make this server and another disagree about where a request ends is refused: both lengths at
//! once, several lengths, a coding that is not `chunked`, a missing or doubled `Host`.

use super::status::Status;
use std::mem::MaybeUninit;

/// The longest head in bytes, request line and empty line included.
pub(crate) const MAX_HEAD: usize = 16 * 1024;
/// The longest request line in bytes.
pub(super) const MAX_LINE: usize = 8 * 1024;
/// The most header fields.
pub(crate) const MAX_FIELDS: usize = 64;

/// The longest body, in bytes, that is read and thrown away to save the connection.
const MAX_DISCARD: u64 = 64 * 1024;

/// Room for the fields of one head.
pub(crate) type Fields<'h> = [MaybeUninit<httparse::Header<'h>>; MAX_FIELDS];

/// Empty room for [`Request::parse`].
pub(crate) const fn fields<'h>() -> Fields<'h> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// Where a head ends in the bytes received so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HeadEnd {
    /// It ends before this byte.
    At(usize),
    /// More bytes are needed.
    Unknown,
    /// It is too long already.
    TooLong(Status),
}

/// Looks for the empty line that ends a head. `from` bytes were looked at before. The answer depends on the bytes
/// alone, not on the pieces in which they came.
pub(super) fn find_head_end(bytes: &[u8], from: usize) -> HeadEnd {
    let seen = bytes.get(..MAX_HEAD).unwrap_or(bytes);
    if from <= MAX_LINE && seen.len() >= MAX_LINE && !seen.iter().take(MAX_LINE).any(|&b| b == b'\n') {
        return HeadEnd::TooLong(Status::UriTooLong);
    }
    for (i, _) in seen.iter().enumerate().skip(from).filter(|&(_, &b)| b == b'\n') {
        let line = seen.get(..i).unwrap_or_default();
        if line.ends_with(b"\n") || line.ends_with(b"\n\r") {
            return HeadEnd::At(i + 1);
        }
    }
    if seen.len() == MAX_HEAD { HeadEnd::TooLong(Status::FieldsTooLarge) } else { HeadEnd::Unknown }
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Method {
    /// The file.
    Get,
    /// The head of the answer to GET.
    Head,
    /// Store a file.
    Put,
    /// One that HTTP knows and that does nothing here.
    Other,
}

/// How the end of the request's body is found (RFC 9112 section 6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Framing {
    /// So many bytes, none when zero.
    Length(u64),
    /// By the chunked coding.
    Chunked,
}

/// A request head.
#[derive(Debug)]
pub(super) struct Request<'h> {
    pub(super) method: Method,
    /// As sent: origin form, absolute form or `*`.
    pub(super) target: &'h str,
    /// HTTP/1.1 as opposed to HTTP/1.0.
    pub(super) http11: bool,
    /// The client wants another answer on this connection.
    pub(super) keep_alive: bool,
    pub(super) framing: Framing,
    /// The client waits for `100 Continue` before it sends the body.
    pub(super) expects_continue: bool,
    fields: &'h [httparse::Header<'h>],
}

impl<'h> Request<'h> {
    /// Parses a complete head, as [`find_head_end`] found it.
    ///
    /// # Errors
    /// The status to answer with; the connection cannot be used after that, since the end of the request is unknown.
    pub(super) fn parse<'b: 'h>(head: &'b [u8], room: &'h mut Fields<'b>) -> Result<Self, Status> {
        let mut raw = httparse::Request::new(&mut []);
        match raw.parse_with_uninit_headers(head, room) {
            Ok(httparse::Status::Complete(n)) if n == head.len() => {}
            Ok(_) => return Err(Status::BadRequest),
            Err(httparse::Error::TooManyHeaders) => return Err(Status::FieldsTooLarge),
            Err(httparse::Error::Version) => return Err(bad_version(head)),
            Err(_) => return Err(Status::BadRequest),
        }
        let (Some(method), Some(target), Some(minor)) = (raw.method, raw.path, raw.version) else {
            return Err(Status::BadRequest);
        };
        let method = match method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "PUT" => Method::Put,
            "POST" | "DELETE" | "PATCH" | "OPTIONS" | "TRACE" | "CONNECT" => Method::Other,
            _ => return Err(Status::NotImplemented),
        };
        let http11 = minor == 1;
        let mut request = Self {
            method,
            target,
            http11,
            keep_alive: false,
            framing: Framing::Length(0),
            expects_continue: false,
            fields: raw.headers,
        };
        request.read_fields()?;
        Ok(request)
    }

    /// Every value of the field `name`, in order, without the blanks around it.
    pub(super) fn values(&self, name: &'static str) -> impl Iterator<Item = &'h [u8]> + use<'h> {
        self.fields.iter().filter(move |f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value.trim_ascii())
    }

    /// The value of a field that makes sense only once; the first if it came more often.
    pub(super) fn value(&self, name: &'static str) -> Option<&'h [u8]> {
        self.values(name).next()
    }

    /// Whether the request has a body at all.
    pub(super) fn has_body(&self) -> bool {
        self.framing != Framing::Length(0)
    }

    /// Whether the body can be read and thrown away to save the connection. Whoever waits for `100 Continue` may or may
    /// not send it after a refusal.
    pub(super) fn is_discardable(&self) -> bool {
        match self.framing {
            Framing::Length(n) => n == 0 || (n <= MAX_DISCARD && !self.expects_continue),
            Framing::Chunked => false,
        }
    }

    /// The fields that decide about the connection, in one pass.
    fn read_fields(&mut self) -> Result<(), Status> {
        let (mut hosts, mut length, mut chunked) = (0, None, false);
        let (mut keep, mut close) = (self.http11, false);
        for field in self.fields {
            let value = field.value.trim_ascii();
            if field.name.eq_ignore_ascii_case("host") {
                hosts += 1;
            } else if field.name.eq_ignore_ascii_case("connection") {
                keep |= has_token(value, b"keep-alive");
                close |= has_token(value, b"close");
            } else if field.name.eq_ignore_ascii_case("content-length") {
                // RFC 9112 6.3: several or invalid lengths are an unrecoverable error.
                let parsed = decimal(value).ok_or(Status::BadRequest)?;
                if length.replace(parsed).is_some() {
                    return Err(Status::BadRequest);
                }
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                if chunked {
                    return Err(Status::BadRequest);
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Status::NotImplemented);
                }
                chunked = true;
            } else if field.name.eq_ignore_ascii_case("expect") {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Status::ExpectationFailed);
                }
                // RFC 9110 10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST
                // ignore that expectation."
                self.expects_continue = self.http11;
            }
        }
        // RFC 9112 3.2: 400 to any HTTP/1.1 request that lacks Host, and to any request with more than one.
        if hosts > 1 || (self.http11 && hosts == 0) {
            return Err(Status::BadRequest);
        }
        self.framing = match (chunked, length) {
            (true, Some(_)) => return Err(Status::BadRequest),
            (true, None) if !self.http11 => return Err(Status::BadRequest),
            (true, None) => Framing::Chunked,
            (false, length) => Framing::Length(length.unwrap_or(0)),
        };
        self.expects_continue &= self.has_body();
        self.keep_alive = keep && !close;
        Ok(())
    }
}

/// Whether a comma-separated list names `token`, in any case.
pub(crate) fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|&b| b == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

/// Digits and nothing else, as a number that fits.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The parser knows only HTTP/1.x: another well-formed version is 505, anything else is no HTTP at all.
fn bad_version(head: &[u8]) -> Status {
    let line = head.split(|&b| b == b'\n').next().unwrap_or_default().trim_ascii_end();
    let version = line.rsplit(|&b| b == b' ').next().and_then(|word| word.strip_prefix(b"HTTP/"));
    let well_formed = version.is_some_and(|v| {
        let mut parts = v.splitn(2, |&b| b == b'.');
        parts.next().and_then(decimal).is_some() && parts.next().is_none_or(|minor| decimal(minor).is_some())
    });
    if well_formed { Status::VersionNotSupported } else { Status::BadRequest }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(head: &str) -> Result<(), Status> {
        Request::parse(head.as_bytes(), &mut fields()).map(|_| ())
    }

    #[test]
    fn head_end_does_not_depend_on_the_pieces() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let end = head.len() - 4;
        for cut in 0..end {
            assert_eq!(find_head_end(&head[..cut], 0), HeadEnd::Unknown);
            assert_eq!(find_head_end(head, cut), HeadEnd::At(end));
        }
        assert_eq!(find_head_end(b"GET / HTTP/1.1\nHost: a\n\n", 0), HeadEnd::At(24));
    }

    #[test]
    fn heads_are_bounded() {
        let line = vec![b'a'; MAX_LINE];
        assert_eq!(find_head_end(&line[1..], 0), HeadEnd::Unknown);
        assert_eq!(find_head_end(&line, MAX_LINE - 1), HeadEnd::TooLong(Status::UriTooLong));
        let mut many = b"GET / HTTP/1.1\r\n".to_vec();
        many.resize(MAX_HEAD, b'x');
        assert_eq!(find_head_end(&many, 0), HeadEnd::TooLong(Status::FieldsTooLarge));
        let fields: String = (0..=MAX_FIELDS).map(|i| format!("x-{i}: y\r\n")).collect();
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{fields}\r\n")), Err(Status::FieldsTooLarge));
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for (fields, want) in [
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Status::BadRequest),
            ("Content-Length: 5, 5\r\n", Status::BadRequest),
            ("Content-Length: +5\r\n", Status::BadRequest),
            ("Content-Length: \r\n", Status::BadRequest),
            ("Content-Length: 18446744073709551616\r\n", Status::BadRequest),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Status::BadRequest),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Status::BadRequest),
            ("Transfer-Encoding: gzip, chunked\r\n", Status::NotImplemented),
            ("Host: b\r\n", Status::BadRequest),
            ("Expect: the-unexpected\r\n", Status::ExpectationFailed),
        ] {
            assert_eq!(status(&format!("PUT /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n")), Err(want), "{fields}");
        }
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), Err(Status::BadRequest), "no Host");
        assert_eq!(status("PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(Status::BadRequest));
    }

    #[test]
    fn other_versions_and_methods_are_told_from_garbage() {
        for (line, want) in [
            ("GET / HTTP/2.0", Status::VersionNotSupported),
            ("GET / HTTP/3", Status::VersionNotSupported),
            ("GET / HTTP/1.9", Status::VersionNotSupported),
            ("GET / HTCPCP/1.0", Status::BadRequest),
            ("GET /", Status::BadRequest),
            ("BREW / HTTP/1.1", Status::NotImplemented),
            ("GET  / HTTP/1.1", Status::BadRequest),
            ("G\0T / HTTP/1.1", Status::BadRequest),
        ] {
            assert_eq!(status(&format!("{line}\r\nHost: a\r\n\r\n")), Err(want), "{line}");
        }
    }

    #[test]
    fn connection_is_kept_as_version_and_field_say() {
        for (version, field, want) in [
            ("1.1", "", true),
            ("1.0", "", false),
            ("1.1", "Connection: close\r\n", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.1", "Connection: keep-alive, close\r\n", false),
            ("1.1", "Connection: close\r\nConnection: keep-alive\r\n", false),
            ("1.1", "Connection: upgrade\r\n", true),
        ] {
            let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{field}\r\n");
            let mut room = fields();
            assert_eq!(
                Request::parse(head.as_bytes(), &mut room).unwrap().keep_alive,
                want,
                "{version} {field}"
            );
        }
    }
}
