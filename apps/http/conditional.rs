//! Conditional requests (RFC 9110 section 13), in the order of precedence of 13.2.2.

use super::request::{Method, Request};
use super::site::FileMeta;
use std::time::SystemTime;

/// What the conditions of a request come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Go on.
    Proceed,
    /// 304: the client's copy is current.
    NotModified,
    /// 412.
    Failed,
}

/// Evaluates all conditions but `If-Range` against the file there is, if any.
pub(super) fn evaluate(request: &Request<'_>, existing: Option<&FileMeta>) -> Outcome {
    let reads = matches!(request.method, Method::Get | Method::Head);
    if let Some(matched) = any_tag(request, "if-match", existing, Comparison::Strong) {
        if !matched {
            return Outcome::Failed;
        }
    } else if let (Some(since), Some(meta)) = (date(request.value("if-unmodified-since")), existing)
        && meta.modified_secs() > since
    {
        return Outcome::Failed;
    }
    if let Some(matched) = any_tag(request, "if-none-match", existing, Comparison::Weak) {
        return match matched {
            true if reads => Outcome::NotModified,
            true => Outcome::Failed,
            false => Outcome::Proceed,
        };
    }
    match (date(request.value("if-modified-since")), existing) {
        (Some(since), Some(meta)) if reads && meta.modified_secs() <= since => Outcome::NotModified,
        _ => Outcome::Proceed,
    }
}

/// Whether `Range` is to be obeyed: there is no `If-Range`, or it names exactly this state of the file (13.1.5).
pub(super) fn range_applies(request: &Request<'_>, meta: &FileMeta) -> bool {
    match request.value("if-range") {
        None => true,
        Some(tag) if tag.starts_with(b"\"") => tag == meta.etag().as_bytes(),
        other => date(other) == Some(meta.modified_secs()),
    }
}

/// How entity tags are compared (8.8.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Comparison {
    /// `W/"x"` equals nothing.
    Strong,
    /// `W/"x"` equals `"x"`.
    Weak,
}

/// Whether a tag in the field names this state of the file; `None` without such a field.
fn any_tag(
    request: &Request<'_>,
    field: &'static str,
    existing: Option<&FileMeta>,
    how: Comparison,
) -> Option<bool> {
    let mut values = request.values(field).peekable();
    values.peek()?;
    let current = existing.map(FileMeta::etag);
    Some(values.flat_map(|v| v.split(|&b| b == b',')).map(<[u8]>::trim_ascii).any(|tag| match &current {
        None => false,
        Some(_) if tag == b"*" => true,
        Some(current) => {
            let opaque = if how == Comparison::Weak { tag.strip_prefix(b"W/").unwrap_or(tag) } else { tag };
            opaque == current.as_bytes()
        }
    }))
}

/// An HTTP date as seconds since 1970; one that cannot be read counts as absent.
fn date(value: Option<&[u8]>) -> Option<u64> {
    let time = httpdate::parse_http_date(std::str::from_utf8(value?).ok()?).ok()?;
    Some(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())
}
