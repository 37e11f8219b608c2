//! From a request target to a path below the root that is safe to open, or a refusal.

use super::status::Status;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};

/// What a path in `Location` must not hold as it is (RFC 3986 section 3.3).
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b']')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A path relative to the root: no empty, `.`, `..` or hidden component, no NUL, UTF-8.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SitePath {
    /// Components joined by one `/`; empty for the root itself.
    path: String,
    /// The target ended in `/`, or names the root.
    is_dir: bool,
    /// What follows `?` in the target, without it.
    query: Option<String>,
}

impl SitePath {
    /// Reads a request target in origin form (`/a/b?q`) or absolute form (`http://host/a/b?q`).
    ///
    /// # Errors
    /// 400 for a target that is neither, or whose escapes are broken or hide a NUL; 403 for one with a `..`, which no
    /// honest client sends; 404 for one with a hidden component, or that is not UTF-8.
    pub(super) fn parse(target: &str) -> Result<Self, Status> {
        let origin = origin_form(target).ok_or(Status::BadRequest)?;
        let (raw, query) = match origin.split_once('?') {
            Some((raw, query)) => (raw, Some(query.to_owned())),
            None => (origin, None),
        };
        if !escapes_are_sound(raw.as_bytes()) {
            return Err(Status::BadRequest);
        }
        let decoded: Vec<u8> = percent_decode(raw.as_bytes()).collect();
        if decoded.contains(&0) {
            return Err(Status::BadRequest);
        }
        let decoded = String::from_utf8(decoded).map_err(|_| Status::NotFound)?;
        let mut path = String::with_capacity(decoded.len());
        for component in decoded.split('/').filter(|c| !c.is_empty() && *c != ".") {
            if component == ".." {
                return Err(Status::Forbidden);
            }
            if component.starts_with('.') {
                return Err(Status::NotFound);
            }
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(component);
        }
        let is_dir = path.is_empty() || decoded.ends_with('/') || decoded.ends_with("/.");
        Ok(Self { path, is_dir, query })
    }

    /// The path, relative to the root; empty for the root itself.
    pub(super) fn as_str(&self) -> &str {
        &self.path
    }

    /// Whether the target names a directory.
    pub(super) fn is_dir(&self) -> bool {
        self.is_dir
    }

    /// The folder, and the name in it; `None` for the root.
    pub(super) fn split(&self) -> Option<(&str, &str)> {
        match self.path.rsplit_once('/') {
            Some((folder, name)) => Some((folder, name)),
            None if self.path.is_empty() => None,
            None => Some(("", &self.path)),
        }
    }

    /// The target of the same directory with its `/`, for `Location`. Written anew from the decoded path: what the client
    /// sent may begin with `//`, which a browser takes for another host.
    pub(super) fn location(&self) -> String {
        let mut location = format!("/{}/", utf8_percent_encode(&self.path, ESCAPED));
        if let Some(query) = &self.query {
            location.push('?');
            // The parser lets no blank or control character into a target, so the query is fit for a header.
            location.push_str(query);
        }
        location
    }
}

/// The part of a target that begins with the path. `None` for `*` and an authority.
fn origin_form(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return Some(target);
    }
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") {
        return None;
    }
    match rest.find(['/', '?']) {
        Some(at) if rest.as_bytes().get(at) == Some(&b'/') => rest.get(at..),
        _ => Some("/"),
    }
}

/// Whether two hexadecimal digits follow every `%`.
fn escapes_are_sound(raw: &[u8]) -> bool {
    raw.iter().enumerate().filter(|&(_, &b)| b == b'%').all(|(i, _)| {
        matches!(raw.get(i + 1..i + 3), Some([a, b]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_become_plain_relative_paths() {
        for (target, path, is_dir) in [
            ("/", "", true),
            ("/a", "a", false),
            ("/a/b/", "a/b", true),
            ("//a///b", "a/b", false),
            ("/a%20b?x=/../y", "a b", false),
            ("/a/./b/.", "a/b", true),
            ("/%C3%BC", "ü", false),
            ("http://host/x?y", "x", false),
            ("HTTP://host", "", true),
            ("http://host?q", "", true),
            ("/a%2Fb", "a/b", false),
            ("/a%3Fb", "a?b", false),
        ] {
            let got = SitePath::parse(target).unwrap();
            assert_eq!((got.as_str(), got.is_dir()), (path, is_dir), "{target}");
        }
    }

    #[test]
    fn targets_that_reach_outside_or_hide_something_are_refused() {
        for (target, status) in [
            ("/..", Status::Forbidden),
            ("/a/../b", Status::Forbidden),
            ("/%2e%2e/etc/passwd", Status::Forbidden),
            ("/.%2e%2fetc", Status::Forbidden),
            ("/a%2f..%2f..%2fb", Status::Forbidden),
            ("/a%00b", Status::BadRequest),
            ("/a%", Status::BadRequest),
            ("/a%g0", Status::BadRequest),
            ("/a%2", Status::BadRequest),
            ("*", Status::BadRequest),
            ("host:80", Status::BadRequest),
            ("ftp://host/", Status::BadRequest),
            ("etc/passwd", Status::BadRequest),
            ("/.git/config", Status::NotFound),
            ("/a/%2ehidden", Status::NotFound),
            ("/...", Status::NotFound),
            ("/%ff", Status::NotFound),
        ] {
            assert_eq!(SitePath::parse(target), Err(status), "{target}");
        }
    }

    #[test]
    fn location_cannot_name_another_host_or_break_the_header() {
        let location = |target| SitePath::parse(target).unwrap().location();
        assert_eq!(location("//evil.example/x"), "/evil.example/x/");
        assert_eq!(location("/a%0d%0aSet-Cookie:%20b"), "/a%0D%0ASet-Cookie:%20b/");
        assert_eq!(location("/a%25b?c=d"), "/a%25b/?c=d");
        assert_eq!(location("/%5C%5Cevil"), "/%5C%5Cevil/");
    }
}
