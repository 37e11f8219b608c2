//! Segments as text, the way packet traces write them: `P. 1:1001(1000) ack 1 win 257 <mss 1460,sackOK,TS val 9 ecr 0>`.
//!
//! Sequence numbers are relative to each side's initial sequence number. What a line leaves out is not compared.

use ntytcp::wire::{SackBlocks, Seq, TcpFlags, TcpHeader, TcpOptions, Timestamps};

/// A segment as a line of a script describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Packet {
    pub(crate) flags: TcpFlags,
    /// Relative to the sender's ISN.
    pub(crate) seq: u32,
    pub(crate) len: usize,
    /// Relative to the receiver's ISN.
    pub(crate) ack: Option<u32>,
    pub(crate) win: Option<u16>,
    pub(crate) options: Option<String>,
}

/// Reads `FLAGS SEQ:END(LEN) [ack N] [win N] [<OPTIONS>]`.
pub(crate) fn parse(text: &str) -> Packet {
    let (head, options) = match text.split_once('<') {
        Some((head, options)) => {
            (head, Some(options.trim_end().strip_suffix('>').expect("options end with >")))
        }
        None => (text, None),
    };
    let mut words = head.split_whitespace();
    let flags = parse_flags(words.next().expect("flags"));
    let range = words.next().expect("SEQ:END(LEN)");
    let (seq, rest) = range.split_once(':').expect("SEQ:END(LEN)");
    let (end, len) = rest.strip_suffix(')').and_then(|r| r.split_once('(')).expect("SEQ:END(LEN)");
    let (seq, end): (u32, u32) = (number(seq), number(end));
    let len: usize = number(len);
    assert_eq!(end.wrapping_sub(seq) as usize, len, "{text}: END is not SEQ + LEN");
    let mut packet = Packet { flags, seq, len, ack: None, win: None, options: options.map(str::to_owned) };
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_else(|| panic!("{text}: {word} without a value"));
        match word {
            "ack" => packet.ack = Some(number(value)),
            "win" => packet.win = Some(number(value)),
            other => panic!("{text}: unknown word {other}"),
        }
    }
    packet
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is not a number in range"))
}

fn parse_flags(text: &str) -> TcpFlags {
    text.chars().fold(TcpFlags::empty(), |flags, c| {
        flags
            | match c {
                'S' => TcpFlags::SYN,
                'F' => TcpFlags::FIN,
                'R' => TcpFlags::RST,
                'P' => TcpFlags::PSH,
                'U' => TcpFlags::URG,
                'E' => TcpFlags::ECE,
                'W' => TcpFlags::CWR,
                '.' => TcpFlags::ACK,
                '-' => TcpFlags::empty(),
                other => panic!("unknown flag {other}"),
            }
    })
}

fn show_flags(flags: TcpFlags) -> String {
    let names = [
        (TcpFlags::SYN, 'S'),
        (TcpFlags::FIN, 'F'),
        (TcpFlags::RST, 'R'),
        (TcpFlags::PSH, 'P'),
        (TcpFlags::URG, 'U'),
        (TcpFlags::ECE, 'E'),
        (TcpFlags::CWR, 'W'),
        (TcpFlags::ACK, '.'),
    ];
    let shown: String = names.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, c)| *c).collect();
    if shown.is_empty() { "-".to_owned() } else { shown }
}

/// The options that a script sends. `ecr last` echoes the last timestamp that the stack sent.
pub(crate) fn parse_options(text: &str, our_isn: Seq, last_timestamp: u32) -> TcpOptions {
    let mut options = TcpOptions::default();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty() && *item != "nop") {
        let words: Vec<&str> = item.split_whitespace().collect();
        match words.as_slice() {
            ["mss", n] => options.mss = Some(number(n)),
            ["wscale", n] => options.window_scale = Some(number(n)),
            ["sackOK"] => options.sack_permitted = true,
            ["TS", "val", value, "ecr", echo] => {
                let echo = if *echo == "last" { last_timestamp } else { number(echo) };
                options.timestamps = Some(Timestamps { value: number(value), echo });
            }
            ["sack", blocks @ ..] => {
                for block in blocks {
                    let (left, right) = block.split_once(':').expect("sack LEFT:RIGHT");
                    let (left, right): (u32, u32) = (number(left), number(right));
                    options.sack.push(our_isn + left, our_isn + right);
                }
            }
            _ => panic!("unknown option {item:?}"),
        }
    }
    options
}

/// The options that the stack sent, as a script writes them; the value of a timestamp is the stack's own business.
pub(crate) fn show_options(options: &TcpOptions, peer_isn: Seq) -> String {
    let mut items = Vec::new();
    if let Some(mss) = options.mss {
        items.push(format!("mss {mss}"));
    }
    if options.sack_permitted {
        items.push("sackOK".to_owned());
    }
    if let Some(ts) = options.timestamps {
        items.push(format!("TS ecr {}", ts.echo));
    }
    if let Some(shift) = options.window_scale {
        items.push(format!("wscale {shift}"));
    }
    if !is_empty(&options.sack) {
        let blocks: Vec<String> = options
            .sack
            .iter()
            .map(|(l, r)| format!("{}:{}", l.since(peer_isn), r.since(peer_isn)))
            .collect();
        items.push(format!("sack {}", blocks.join(" ")));
    }
    items.join(",")
}

fn is_empty(blocks: &SackBlocks) -> bool {
    blocks.iter().next().is_none()
}

/// What the stack sent, as text.
pub(crate) fn describe(header: &TcpHeader, len: usize, our_isn: Seq, peer_isn: Seq) -> Packet {
    let seq = if header.flags.contains(TcpFlags::RST)
        && !header.flags.contains(TcpFlags::ACK)
        && header.seq == Seq(0)
    {
        0
    } else {
        header.seq.since(our_isn)
    };
    Packet {
        flags: header.flags,
        seq,
        len,
        ack: header.flags.contains(TcpFlags::ACK).then(|| header.ack.since(peer_isn)),
        win: Some(header.window),
        options: Some(show_options(&header.options, peer_isn)),
    }
}

impl Packet {
    /// Whether `sent` is what this line asks for.
    pub(crate) fn matches(&self, sent: &Packet) -> bool {
        self.flags == sent.flags
            && self.seq == sent.seq
            && self.len == sent.len
            && self.ack == sent.ack
            && self.win.is_none_or(|win| Some(win) == sent.win)
            && self.options.as_ref().is_none_or(|o| sent.options.as_ref() == Some(o))
    }
}

impl std::fmt::Display for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = self.seq.wrapping_add(self.len as u32);
        write!(f, "{} {}:{end}({})", show_flags(self.flags), self.seq, self.len)?;
        if let Some(ack) = self.ack {
            write!(f, " ack {ack}")?;
        }
        if let Some(win) = self.win {
            write!(f, " win {win}")?;
        }
        match &self.options {
            Some(options) => write!(f, " <{options}>"),
            None => Ok(()),
        }
    }
}
