//! From the text of a filter to its expression.

use super::{Direction, Expression, FilterError, Primitive, Protocol};
use ntytcp::stack::route::Prefix;
use ntytcp::wire::MacAddr;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// Bytes of the longest filter, which bounds how deep a chain of terms can be.
const LONGEST: usize = 4_096;
/// How deep parentheses and `not` may lie in each other.
const DEEPEST: usize = 64;

const PRIMITIVES: &str =
    "ip, ip6, arp, tcp, udp, icmp, icmp6, host, net, port, portrange, src, dst, ether, vlan, less or greater";

/// Reads a filter; `None` for one without a word.
pub(super) fn parse(text: &str) -> Result<Option<Expression>, FilterError> {
    let mut parser = Parser { text, rest: text, depth: 0 };
    if text.len() > LONGEST {
        return parser.fail(format!("a filter of {} bytes: it takes {LONGEST} at most", text.len()));
    }
    if parser.peek().is_empty() {
        return Ok(None);
    }
    let expression = parser.expression()?;
    match parser.peek() {
        "" => Ok(Some(expression)),
        ")" => parser.fail("this \")\" closes nothing: leave it out".to_owned()),
        word => {
            let hint = if known(word) { "write \"and\" or \"or\" in front of it" } else { "leave it out" };
            parser.fail(format!("{word:?} follows a complete term: {hint}"))
        }
    }
}

/// Whether a term can begin with the word.
fn known(word: &str) -> bool {
    const OTHERS: [&str; 12] =
        ["host", "net", "port", "portrange", "src", "dst", "ether", "vlan", "less", "greater", "not", "("];
    OTHERS.contains(&word) || protocol(word).is_some()
}

fn protocol(word: &str) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|protocol| protocol.name() == word)
}

struct Parser<'a> {
    text: &'a str,
    /// What is still to be read.
    rest: &'a str,
    depth: usize,
}

impl<'a> Parser<'a> {
    /// The next word or sign; empty at the end.
    fn peek(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        let sign = ["&&", "||", "(", ")", "!"].into_iter().find(|sign| self.rest.starts_with(sign));
        let end = match sign {
            Some(sign) => sign.len(),
            None => {
                let ends = |c: char| c.is_whitespace() || matches!(c, '(' | ')' | '!' | '&' | '|');
                // A lone "&" or "|" is a word of its own, for the message.
                let first = self.rest.chars().next().map_or(0, char::len_utf8);
                let after = self.rest.get(first..).unwrap_or_default();
                first + after.find(ends).unwrap_or(after.len())
            }
        };
        self.rest.get(..end).unwrap_or_default()
    }

    fn skip(&mut self, word: &str) {
        self.rest = self.rest.get(word.len()..).unwrap_or_default();
    }

    /// Whether the next word is one of these, which is then read.
    fn take(&mut self, words: &[&str]) -> bool {
        let word = self.peek();
        let found = words.contains(&word);
        if found {
            self.skip(word);
        }
        found
    }

    /// The error at what comes next.
    fn fail<T>(&mut self, what: String) -> Result<T, FilterError> {
        self.peek();
        let before = self.text.get(..self.text.len() - self.rest.len()).unwrap_or_default();
        Err(FilterError { column: before.chars().count() + 1, what })
    }

    /// The next word as a value, which is then read; `expected` says what it should have been.
    fn value<T: FromStr>(&mut self, expected: &str) -> Result<T, FilterError> {
        let word = self.peek();
        let Ok(value) = word.parse() else { return self.unexpected(expected) };
        self.skip(word);
        Ok(value)
    }

    fn unexpected<T>(&mut self, expected: &str) -> Result<T, FilterError> {
        match self.peek() {
            "" => self.fail(format!("the filter ends where {expected} should follow")),
            word => self.fail(format!("{word:?} stands where {expected} should")),
        }
    }

    fn expression(&mut self) -> Result<Expression, FilterError> {
        let mut left = self.term()?;
        loop {
            if self.take(&["and", "&&"]) {
                left = Expression::And(left.into(), self.term()?.into());
            } else if self.take(&["or", "||"]) {
                left = Expression::Or(left.into(), self.term()?.into());
            } else {
                return Ok(left);
            }
        }
    }

    fn term(&mut self) -> Result<Expression, FilterError> {
        if self.depth >= DEEPEST {
            return self.fail(format!("more than {DEEPEST} of \"(\" and \"not\" in each other"));
        }
        self.depth += 1;
        let term = if self.take(&["not", "!"]) {
            Expression::Not(self.term()?.into())
        } else if self.take(&["("]) {
            let inner = self.expression()?;
            if !self.take(&[")"]) {
                return self.unexpected("\"and\", \"or\" or \")\"");
            }
            inner
        } else {
            Expression::Primitive(self.primitive()?)
        };
        self.depth -= 1;
        Ok(term)
    }

    fn primitive(&mut self) -> Result<Primitive, FilterError> {
        let word = self.peek();
        match word {
            "ether" => {
                self.skip(word);
                return self.station();
            }
            "vlan" => {
                self.skip(word);
                return self.vlan();
            }
            "less" | "greater" => {
                self.skip(word);
                let length = self.value("a length in bytes")?;
                return Ok(if word == "less" { Primitive::Less(length) } else { Primitive::Greater(length) });
            }
            _ => {}
        }
        let protocol = protocol(word);
        if protocol.is_some() {
            self.skip(word);
        }
        let direction = self.direction()?;
        let kind = self.peek();
        match kind {
            "host" | "net" => {
                self.skip(kind);
                self.address(protocol, direction.unwrap_or(Direction::Either), kind == "net")
            }
            "port" | "portrange" => {
                let protocol = self.transport(protocol, kind)?;
                self.skip(kind);
                self.port(protocol, direction.unwrap_or(Direction::Either), kind == "portrange")
            }
            // An address needs no word in front.
            _ if direction.is_some() || kind.parse::<IpAddr>().is_ok() => {
                self.address(protocol, direction.unwrap_or(Direction::Either), false)
            }
            _ => match protocol {
                Some(protocol) => Ok(Primitive::Protocol(protocol)),
                None => self.unexpected(PRIMITIVES),
            },
        }
    }

    /// `src`, `dst`, or both, if the next words are these.
    fn direction(&mut self) -> Result<Option<Direction>, FilterError> {
        let (first, other) = match self.peek() {
            "src" => (Direction::Src, "dst"),
            "dst" => (Direction::Dst, "src"),
            _ => return Ok(None),
        };
        self.skip("src");
        let either = match self.peek() {
            "or" => true,
            "and" => false,
            _ => return Ok(Some(first)),
        };
        self.take(&["or", "and"]);
        if !self.take(&[other]) {
            return self.unexpected(other);
        }
        Ok(Some(if either { Direction::Either } else { Direction::Both }))
    }

    fn address(
        &mut self,
        protocol: Option<Protocol>,
        direction: Direction,
        is_net: bool,
    ) -> Result<Primitive, FilterError> {
        let word = self.peek();
        if let Some(p @ (Protocol::Tcp | Protocol::Udp | Protocol::Icmp | Protocol::Icmp6)) = protocol {
            let p = p.name();
            return self.fail(format!("{p} has no addresses: write \"{p} and\" in front of this"));
        }
        let prefix = if is_net { net(word) } else { host(word) };
        let prefix = match prefix {
            Ok(prefix) => prefix,
            Err(_) if word.is_empty() => {
                return self.unexpected(if is_net { "a network, as 10.0.0.0/8," } else { "an address" });
            }
            Err(what) => return self.fail(what),
        };
        let family = protocol.is_none_or(|p| (p == Protocol::Ip6) == prefix.addr().is_ipv6());
        if let (false, Some(protocol)) = (family, protocol) {
            return self.fail(format!("{} has no addresses like {word}", protocol.name()));
        }
        self.skip(word);
        Ok(Primitive::Address(protocol, direction, prefix))
    }

    /// The transport that ports are to be of.
    fn transport(&mut self, protocol: Option<Protocol>, kind: &str) -> Result<Option<Protocol>, FilterError> {
        match protocol {
            None | Some(Protocol::Tcp | Protocol::Udp) => Ok(protocol),
            Some(other) => {
                let name = other.name();
                self.fail(format!(
                    "{name} has no ports: write \"{name} and {kind}\", or tcp or udp for {name}"
                ))
            }
        }
    }

    fn port(
        &mut self,
        protocol: Option<Protocol>,
        direction: Direction,
        is_range: bool,
    ) -> Result<Primitive, FilterError> {
        if !is_range {
            let port = self.value("the number of a port, 0 to 65535,")?;
            return Ok(Primitive::Port(protocol, direction, port, port));
        }
        let word = self.peek();
        let parsed = word.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match parsed {
            Some((first, last)) if first <= last => {
                self.skip(word);
                Ok(Primitive::Port(protocol, direction, first, last))
            }
            Some((first, last)) => {
                self.fail(format!("the range {word} runs backwards: write {last}-{first}"))
            }
            None => self.unexpected("two ports, as 8000-8999,"),
        }
    }

    fn station(&mut self) -> Result<Primitive, FilterError> {
        if self.take(&["broadcast"]) {
            return Ok(Primitive::Broadcast);
        }
        if self.take(&["multicast"]) {
            return Ok(Primitive::Multicast);
        }
        let direction = self.direction()?;
        if !self.take(&["host"]) && direction.is_none() {
            return self.unexpected("host, src, dst, broadcast or multicast");
        }
        let mac: MacAddr = self.value("the address of a station, as 02:00:00:00:00:01,")?;
        Ok(Primitive::Station(direction.unwrap_or(Direction::Either), mac))
    }

    fn vlan(&mut self) -> Result<Primitive, FilterError> {
        let word = self.peek();
        if !word.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(Primitive::Vlan(None));
        }
        match word.parse().ok().filter(|&id: &u16| id < 4_096) {
            Some(id) => {
                self.skip(word);
                Ok(Primitive::Vlan(Some(id)))
            }
            None => self.unexpected("the number of a VLAN, 0 to 4095,"),
        }
    }
}

/// One address.
fn host(word: &str) -> Result<Prefix, String> {
    match word.parse::<IpAddr>() {
        Ok(addr) => Ok(Prefix::host(addr)),
        Err(_) if word.contains('/') => Err(format!("{word} is a network: write \"net {word}\"")),
        Err(_) => Err(format!("{word:?} is no IP address (names are not looked up)")),
    }
}

/// A network: `10.0.0.0/8`, `10/8`, `2001:db8::/32`, and `10.1` for what `10.1.0.0/16` is.
fn net(word: &str) -> Result<Prefix, String> {
    let (addr, len) = match word.split_once('/') {
        Some((addr, len)) => (addr, Some(len)),
        None => (word, None),
    };
    let bad = || format!("{word:?} is no network: write it as 10.0.0.0/8 or 2001:db8::/32");
    let (addr, own_len): (IpAddr, u8) = match addr.parse::<IpAddr>() {
        Ok(addr) => (addr, if addr.is_ipv4() { 32 } else { 128 }),
        Err(_) => {
            let octets =
                addr.split('.').map(str::parse).collect::<Result<Vec<u8>, _>>().map_err(|_| bad())?;
            let mut all = [0; 4];
            all.get_mut(..octets.len()).ok_or_else(bad)?.copy_from_slice(&octets);
            (Ipv4Addr::from(all).into(), 8 * octets.len() as u8)
        }
    };
    let len = match len {
        Some(len) => len.parse().map_err(|_| bad())?,
        None => own_len,
    };
    Prefix::new(addr, len).map_err(|error| error.to_string())
}
