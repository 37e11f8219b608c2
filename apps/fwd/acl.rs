//! Which packets may pass: rules in order, of which the first that fits decides.
//!
//! ```text
//!   permit | deny  ip | tcp | udp | icmp | NUMBER  from WHERE [port PORTS]  to WHERE [port PORTS]
//!   WHERE          any | ADDRESS | PREFIX                      either family
//!   PORTS          N | N-M
//! ```
//!
//! What no rule fits passes. A later fragment has no ports: rules that ask for some do not fit it. Addresses of either family are
//! compared; `ip` is every protocol of both.

use ntytcp::stack::route::Prefix;
use ntytcp::wire::IpProtocol;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

/// What is looked at of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Flow {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: IpProtocol,
    /// Of TCP and UDP, but for later fragments.
    pub ports: Option<(u16, u16)>,
}

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Rule {
    permit: bool,
    protocol: Option<IpProtocol>,
    from: Where,
    to: Where,
}

/// One side of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Where {
    prefix: Option<Prefix>,
    ports: Option<(u16, u16)>,
}

impl Where {
    fn fits(&self, addr: IpAddr, port: Option<u16>) -> bool {
        self.prefix.is_none_or(|prefix| prefix.contains(addr))
            && self.ports.is_none_or(|(first, last)| port.is_some_and(|p| (first..=last).contains(&p)))
    }
}

impl Rule {
    fn fits(&self, flow: &Flow) -> bool {
        self.protocol.is_none_or(|protocol| protocol == flow.protocol)
            && self.from.fits(flow.src, flow.ports.map(|ports| ports.0))
            && self.to.fits(flow.dst, flow.ports.map(|ports| ports.1))
    }
}

/// The rules, and how many packets each decided about.
#[derive(Clone, Debug, Default)]
pub(super) struct Acl {
    rules: Vec<(Rule, u64)>,
}

impl Acl {
    pub(super) fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self { rules: rules.into_iter().map(|rule| (rule, 0)).collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the packet may pass.
    pub(super) fn permits(&mut self, flow: &Flow) -> bool {
        match self.rules.iter_mut().find(|(rule, _)| rule.fits(flow)) {
            Some((rule, count)) => {
                *count += 1;
                rule.permit
            }
            None => true,
        }
    }

    /// The rules in order, each with its count.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&Rule, u64)> {
        self.rules.iter().map(|(rule, count)| (rule, *count))
    }
}

/// Reads a file of rules, one a line; empty lines and what follows a `#` say nothing.
///
/// # Errors
/// One line with the place of the mistake.
pub(super) fn read(path: &Path) -> Result<Vec<Rule>, String> {
    const LONGEST: u64 = 1 << 20;
    let name = path.display();
    let bytes = crate::textfile::read(path, LONGEST).map_err(|error| format!("{name}: {error}"))?;
    let text =
        String::from_utf8(bytes).map_err(|_| format!("{name}: this is no text: give rules, in UTF-8"))?;
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.split('#').next().unwrap_or_default()));
    lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(n, line)| line.parse().map_err(|error| format!("{name}:{n}: {error}")))
        .collect()
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = Words { words: text.split_whitespace().peekable(), last: "" };
        let permit = match words.next("permit or deny")? {
            "permit" => true,
            "deny" => false,
            other => return Err(format!("{other:?} stands where permit or deny should")),
        };
        let protocol = match words.next("a protocol")? {
            "ip" => None,
            "tcp" => Some(IpProtocol::TCP),
            "udp" => Some(IpProtocol::UDP),
            "icmp" => Some(IpProtocol::ICMP),
            other => {
                let number = other.parse().map_err(|_| {
                    format!("{other:?} is no protocol: give ip, tcp, udp, icmp or a number up to 255")
                })?;
                Some(IpProtocol(number))
            }
        };
        words.expect("from")?;
        let from = words.side(protocol)?;
        words.expect("to")?;
        let to = words.side(protocol)?;
        if let Some(extra) = words.words.next() {
            return Err(format!("{extra:?} follows a complete rule: leave it out"));
        }
        let families = [&from, &to].map(|side| side.prefix.map(|prefix| prefix.addr().is_ipv4()));
        if let [Some(a), Some(b)] = families
            && a != b
        {
            return Err("one side is IPv4 and the other IPv6: no packet is both".to_owned());
        }
        Ok(Self { permit, protocol, from, to })
    }
}

/// The words of a rule that are still to be read.
struct Words<'a> {
    words: std::iter::Peekable<std::str::SplitWhitespace<'a>>,
    last: &'a str,
}

impl<'a> Words<'a> {
    fn next(&mut self, expected: &str) -> Result<&'a str, String> {
        match self.words.next() {
            Some(word) => {
                self.last = word;
                Ok(word)
            }
            None if self.last.is_empty() => Err(format!("an empty rule: give {expected} first")),
            None => Err(format!("the rule ends behind {:?}, where {expected} should follow", self.last)),
        }
    }

    fn expect(&mut self, word: &str) -> Result<(), String> {
        match self.next(word)? {
            found if found == word => Ok(()),
            found => Err(format!("{found:?} stands where {word} should")),
        }
    }

    fn side(&mut self, protocol: Option<IpProtocol>) -> Result<Where, String> {
        let prefix = match self.next("any, an address or a prefix")? {
            "any" => None,
            word => Some(match word.parse::<IpAddr>() {
                Ok(addr) => Prefix::host(addr),
                Err(_) => word.parse::<Prefix>().map_err(|error| error.to_string())?,
            }),
        };
        if self.words.next_if_eq(&"port").is_none() {
            return Ok(Where { prefix, ports: None });
        }
        if !matches!(protocol, Some(IpProtocol::TCP | IpProtocol::UDP)) {
            return Err("only tcp and udp have ports: write one rule for each".to_owned());
        }
        self.last = "port";
        let word = self.next("a port, or two as 8000-8999")?;
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Where { prefix, ports: Some((first, last)) }),
            _ => Err(format!("{word:?} is no port: give a number up to 65535, or two as 8000-8999")),
        }
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            None => f.write_str("any")?,
            Some(prefix) if prefix == Prefix::host(prefix.addr()) => prefix.addr().fmt(f)?,
            Some(prefix) => prefix.fmt(f)?,
        }
        match self.ports {
            None => Ok(()),
            Some((first, last)) if first == last => write!(f, " port {first}"),
            Some((first, last)) => write!(f, " port {first}-{last}"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.permit { "permit " } else { "deny " })?;
        match self.protocol {
            None => f.write_str("ip")?,
            Some(IpProtocol::TCP) => f.write_str("tcp")?,
            Some(IpProtocol::UDP) => f.write_str("udp")?,
            Some(IpProtocol::ICMP) => f.write_str("icmp")?,
            Some(IpProtocol(other)) => other.fmt(f)?,
        }
        write!(f, " from {} to {}", self.from, self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flow(src: &str, dst: &str, protocol: u8, ports: Option<(u16, u16)>) -> Flow {
        Flow { src: src.parse().unwrap(), dst: dst.parse().unwrap(), protocol: IpProtocol(protocol), ports }
    }

    #[test]
    fn the_first_rule_that_fits_decides_and_counts() {
        let rules = [
            "permit udp from 10.1.0.0/16 to any port 53",
            "deny udp from 10.0.0.0/8 to any port 50-60",
            "deny tcp from any port 1-1023 to 192.0.2.1",
            "deny icmp from 2001:db8::/32 to any",
        ];
        let mut acl = Acl::new(rules.map(|rule| rule.parse().unwrap()));
        for (flow, permitted) in [
            (flow("10.1.2.3", "192.0.2.9", 17, Some((9, 53))), true),
            (flow("10.2.2.3", "192.0.2.9", 17, Some((9, 53))), false),
            (flow("10.2.2.3", "192.0.2.9", 17, Some((53, 61))), true),
            (flow("10.2.2.3", "192.0.2.9", 17, None), true),
            (flow("1.1.1.1", "192.0.2.1", 6, Some((80, 9_999))), false),
            (flow("1.1.1.1", "192.0.2.2", 6, Some((80, 9_999))), true),
            (flow("2001:db8::1", "2001::1", 1, None), false),
            (flow("10.0.0.1", "10.0.0.2", 1, None), true),
        ] {
            assert_eq!(acl.permits(&flow), permitted, "{flow:?}");
        }
        assert_eq!(acl.counts().map(|(_, count)| count).collect::<Vec<_>>(), [1, 1, 1, 1]);
    }

    #[test]
    fn a_mistake_names_the_word_and_what_should_be_there() {
        for (text, word) in [
            ("", "an empty rule: give permit or deny first"),
            ("allow ip from any to any", "\"allow\" stands where permit or deny should"),
            ("deny", "ends behind \"deny\", where a protocol"),
            ("deny sctp from any to any", "\"sctp\" is no protocol"),
            ("deny 256 from any to any", "\"256\" is no protocol"),
            ("deny ip any any", "\"any\" stands where from should"),
            ("deny ip from 10.0.0.1/8 to any", "did you mean 10.0.0.0/8?"),
            ("deny ip from host to any", "prefix length is missing"),
            ("deny ip from any port 5 to any", "only tcp and udp have ports"),
            ("deny tcp from any port http to any", "\"http\" is no port"),
            ("deny tcp from any port 9-1 to any", "\"9-1\" is no port"),
            ("deny tcp from any port", "ends behind \"port\""),
            ("deny tcp from any to any log", "\"log\" follows a complete rule"),
            ("deny ip from 10.0.0.1 to ::1", "IPv4 and the other IPv6"),
        ] {
            let error = text.parse::<Rule>().expect_err(text);
            assert!(error.contains(word) && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_of_rules_is_read_and_a_mistake_in_it_has_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acl");
        std::fs::write(
            &path,
            "# first\n\ndeny ip from any to 10.0.0.0/8 # all of it\npermit 47 from any to any\n",
        )
        .unwrap();
        let rules = read(&path).unwrap();
        assert_eq!(
            rules.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["deny ip from any to 10.0.0.0/8", "permit 47 from any to any"]
        );
        std::fs::write(&path, "permit ip from any to any\ndeny\n").unwrap();
        assert!(read(&path).unwrap_err().contains("acl:2: the rule ends behind"), "{:?}", read(&path));
        assert!(read(Path::new("/nonexistent")).unwrap_err().starts_with("/nonexistent: "));
    }

    proptest! {
        #[test]
        fn a_rule_reads_as_it_prints(
            permit: bool, protocol in prop::option::of(any::<u8>()),
            from in prop::option::of((any::<u32>(), 0..=32_u8)), to in prop::option::of((any::<u32>(), 0..=32_u8)),
            ports: (u16, u16)
        ) {
            let prefix = |(bits, len): (u32, u8)| Prefix::containing(IpAddr::V4(bits.into()), len).unwrap();
            let has_ports = matches!(protocol, Some(6 | 17));
            let rule = Rule {
                permit,
                protocol: protocol.map(IpProtocol),
                from: Where { prefix: from.map(prefix), ports: None },
                to: Where { prefix: to.map(prefix), ports: has_ports.then_some((ports.0.min(ports.1), ports.0.max(ports.1))) },
            };
            prop_assert_eq!(rule.to_string().parse(), Ok(rule));
        }

        #[test]
        fn any_text_is_a_rule_or_one_line(text in "[a-z0-9./: -]{0,60}") {
            if let Err(error) = text.parse::<Rule>() {
                prop_assert!(!error.contains('\n'));
            }
        }
    }
}
