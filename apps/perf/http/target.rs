//! What is asked for: a URL without what needs a resolver or a cipher.

use crate::values::BadValue;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The address of a server and a path there: `10.0.0.2`, `10.0.0.2:8080/page`, `http://10.0.0.2/`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    addr: SocketAddr,
    path: String,
}

impl Target {
    /// Where the server is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The bytes of a GET request.
    pub fn request(&self, close: bool) -> Vec<u8> {
        let connection = if close { "Connection: close\r\n" } else { "" };
        format!("GET {} HTTP/1.1\r\nHost: {}\r\n{connection}\r\n", self.path, self.host()).into_bytes()
    }

    /// RFC 9110 4.2.1: the port is left out when it is the scheme's own.
    fn host(&self) -> String {
        match (self.addr.port(), self.addr.ip()) {
            (80, IpAddr::V6(ip)) => format!("[{ip}]"),
            (80, ip) => ip.to_string(),
            _ => self.addr.to_string(),
        }
    }
}

impl FromStr for Target {
    type Err = BadValue;
    fn from_str(text: &str) -> Result<Self, BadValue> {
        let bad = |why: &str| {
            BadValue(format!(
                "{text:?} {why}: give [http://]ADDRESS[:PORT][/PATH], as 10.0.0.2:8080/index.html"
            ))
        };
        if text.starts_with("https:") {
            return Err(bad("asks for TLS, which is not there"));
        }
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let bare = authority.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(authority);
        let addr = match bare.parse() {
            Ok(ip) => SocketAddr::new(ip, 80),
            Err(_) => authority.parse().map_err(|_| bad("holds no address of a server"))?,
        };
        // RFC 9110 4.2.1: a fragment is the client's own business, and all else would break the request line.
        if !path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            return Err(bad("has a path with characters that no request can have"));
        }
        if addr.port() == 0 { Err(bad("has port 0")) } else { Ok(Self { addr, path: path.to_owned() }) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.host(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_asked_for() {
        for (text, url, addr) in [
            ("10.0.0.2", "http://10.0.0.2/", "10.0.0.2:80"),
            ("10.0.0.2:8080", "http://10.0.0.2:8080/", "10.0.0.2:8080"),
            ("http://10.0.0.2:80/a/b?c=d", "http://10.0.0.2/a/b?c=d", "10.0.0.2:80"),
            ("[fd00::2]/x", "http://[fd00::2]/x", "[fd00::2]:80"),
            ("[fd00::2]:8080", "http://[fd00::2]:8080/", "[fd00::2]:8080"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.to_string().as_str(), target.addr().to_string().as_str()), (url, addr));
        }
        let target: Target = "10.0.0.2:8080/x".parse().unwrap();
        assert_eq!(target.request(false), b"GET /x HTTP/1.1\r\nHost: 10.0.0.2:8080\r\n\r\n");
        let close = b"GET /x HTTP/1.1\r\nHost: 10.0.0.2:8080\r\nConnection: close\r\n\r\n";
        assert_eq!(target.request(true), close);
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_a_remedy() {
        for text in [
            "",
            "/",
            "host",
            "http://host/",
            "https://10.0.0.2/",
            "10.0.0.2:0",
            "10.0.0.2:99999",
            "10.0.0.2/a b",
            "10.0.0.2/a\r\nX: y",
            "10.0.0.2/a#b",
            "10.0.0.2/ü",
            "ftp://10.0.0.2/",
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(": give ") && !error.contains('\n'), "{error}");
        }
    }
}
