//! Which frames to capture: a part of the filter language of tcpdump ([pcap-filter(7)]), with its meaning.
//!
//! ```text
//!   expression  term { and | or  term }         of equal rank, from left to right
//!   term        not term | ( expression ) | primitive
//!   primitive   ip | ip6 | arp | tcp | udp | icmp | icmp6
//!               [ip | ip6 | arp] [direction] [host] ADDRESS         [ip | ip6 | arp] [direction] net PREFIX
//!               [tcp | udp] [direction] port N                      [tcp | udp] [direction] portrange N-M
//!               ether [direction] [host] MAC    ether broadcast     ether multicast
//!               vlan [ID]    less LENGTH    greater LENGTH
//!   direction   src | dst | src or dst | src and dst
//! ```
//!
//! `&&`, `||` and `!` are `and`, `or` and `not`. As in tcpdump each `vlan` makes what is written behind it look behind one more
//! tag, `port` sees only first fragments, and no extension headers of IPv6 but that of fragments are walked over. Names are
//! not looked up; what the language has beyond this (`proto`, `gateway`, `tcp[13]`, ...) is refused.
//!
//! [pcap-filter(7)]: https://www.tcpdump.org/manpages/pcap-filter.7.html

mod eval;
mod parse;
#[cfg(test)]
mod tests;

use ntytcp::stack::route::Prefix;
use ntytcp::wire::MacAddr;
use std::fmt;
use std::str::FromStr;

/// A filter, ready to be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// `None` takes everything.
    expression: Option<Expression>,
}

/// Why a text is no filter: what stands where, and what could.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("column {column}: {what}")]
pub struct FilterError {
    /// Characters up to the mistake, that included.
    column: usize,
    what: String,
}

/// Terms and how they hang together.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Expression {
    Primitive(Primitive),
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

/// What is asked of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Primitive {
    Protocol(Protocol),
    /// An address of this network, in the headers of this protocol or of any that has addresses of the family.
    Address(Option<Protocol>, Direction, Prefix),
    /// A port from the first to the last of these, of this transport or of any.
    Port(Option<Protocol>, Direction, u16, u16),
    Station(Direction, MacAddr),
    Broadcast,
    Multicast,
    Vlan(Option<u16>),
    /// At most so long.
    Less(u32),
    /// At least so long.
    Greater(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Protocol {
    Ip,
    Ip6,
    Arp,
    Tcp,
    Udp,
    Icmp,
    Icmp6,
}

impl Protocol {
    const ALL: [Self; 7] = [Self::Ip, Self::Ip6, Self::Arp, Self::Tcp, Self::Udp, Self::Icmp, Self::Icmp6];

    fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Arp => "arp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Icmp6 => "icmp6",
        }
    }
}

/// Which of two addresses or ports it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    Src,
    Dst,
    /// One of the two.
    Either,
    Both,
}

impl Direction {
    /// Whether the two satisfy it, each by itself asked of `is`.
    fn holds<T>(self, src: T, dst: T, is: impl Fn(T) -> bool) -> bool {
        match self {
            Self::Src => is(src),
            Self::Dst => is(dst),
            Self::Either => is(src) || is(dst),
            Self::Both => is(src) && is(dst),
        }
    }

    /// In front of what follows.
    fn prefix(self) -> &'static str {
        match self {
            Self::Src => "src ",
            Self::Dst => "dst ",
            Self::Either => "",
            Self::Both => "src and dst ",
        }
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        parse::parse(text).map(|expression| Self { expression })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression.as_ref().map_or(Ok(()), |expression| expression.fmt(f))
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primitive(primitive) => primitive.fmt(f),
            Self::Not(inner) => write!(f, "not {}", Term(inner)),
            // From left to right: only what is to the right of an operator needs parentheses.
            Self::And(left, right) => write!(f, "{left} and {}", Term(right)),
            Self::Or(left, right) => write!(f, "{left} or {}", Term(right)),
        }
    }
}

/// An expression where only a term may stand.
struct Term<'a>(&'a Expression);

impl fmt::Display for Term<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            term @ (Expression::Primitive(_) | Expression::Not(_)) => term.fmt(f),
            other => write!(f, "({other})"),
        }
    }
}

impl fmt::Display for Primitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |protocol: &Option<Protocol>| protocol.map_or(String::new(), |p| format!("{} ", p.name()));
        match self {
            Self::Protocol(protocol) => f.write_str(protocol.name()),
            Self::Address(protocol, direction, prefix) => {
                let (of, direction) = (of(protocol), direction.prefix());
                if *prefix == Prefix::host(prefix.addr()) {
                    write!(f, "{of}{direction}host {}", prefix.addr())
                } else {
                    write!(f, "{of}{direction}net {prefix}")
                }
            }
            Self::Port(protocol, direction, first, last) => {
                let (of, direction) = (of(protocol), direction.prefix());
                if first == last {
                    write!(f, "{of}{direction}port {first}")
                } else {
                    write!(f, "{of}{direction}portrange {first}-{last}")
                }
            }
            Self::Station(direction, mac) => write!(f, "ether {}host {mac}", direction.prefix()),
            Self::Broadcast => f.write_str("ether broadcast"),
            Self::Multicast => f.write_str("ether multicast"),
            Self::Vlan(None) => f.write_str("vlan"),
            Self::Vlan(Some(id)) => write!(f, "vlan {id}"),
            Self::Less(length) => write!(f, "less {length}"),
            Self::Greater(length) => write!(f, "greater {length}"),
        }
    }
}
