//! The parts of the DNS message format that both the compiler of zones and the answering path need: names in
//! wire form (RFC 1035 3.1), the fixed header (4.1.1) and a parsed request.

/// Octets of the fixed header, RFC 1035 4.1.1.
pub(super) const HEADER: usize = 12;
/// Octets of an OPT record without options: root owner, type, class, TTL, length.
pub(super) const OPT_LEN: usize = 11;

/// Record and query types that the code treats specially.
pub(super) mod rtype {
    pub(in crate::dns) const A: u16 = 1;
    pub(in crate::dns) const NS: u16 = 2;
    pub(in crate::dns) const MD: u16 = 3;
    pub(in crate::dns) const MF: u16 = 4;
    pub(in crate::dns) const CNAME: u16 = 5;
    pub(in crate::dns) const SOA: u16 = 6;
    pub(in crate::dns) const MB: u16 = 7;
    pub(in crate::dns) const MG: u16 = 8;
    pub(in crate::dns) const MR: u16 = 9;
    pub(in crate::dns) const PTR: u16 = 12;
    pub(in crate::dns) const MINFO: u16 = 14;
    pub(in crate::dns) const MX: u16 = 15;
    pub(in crate::dns) const RP: u16 = 17;
    pub(in crate::dns) const AFSDB: u16 = 18;
    pub(in crate::dns) const RT: u16 = 21;
    pub(in crate::dns) const AAAA: u16 = 28;
    pub(in crate::dns) const SRV: u16 = 33;
    pub(in crate::dns) const NAPTR: u16 = 35;
    pub(in crate::dns) const KX: u16 = 36;
    pub(in crate::dns) const DNAME: u16 = 39;
    pub(in crate::dns) const OPT: u16 = 41;
    pub(in crate::dns) const DS: u16 = 43;
    pub(in crate::dns) const RRSIG: u16 = 46;
    pub(in crate::dns) const NSEC: u16 = 47;
    pub(in crate::dns) const SVCB: u16 = 64;
    pub(in crate::dns) const HTTPS: u16 = 65;
    pub(in crate::dns) const TKEY: u16 = 249;
    pub(in crate::dns) const TSIG: u16 = 250;
    pub(in crate::dns) const IXFR: u16 = 251;
    pub(in crate::dns) const AXFR: u16 = 252;
    pub(in crate::dns) const ANY: u16 = 255;
}

/// Class IN.
pub(super) const CLASS_IN: u16 = 1;

/// Response codes, RFC 1035 4.1.1 and RFC 6891 9.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rcode {
    NoError = 0,
    FormErr = 1,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    BadVers = 16,
}

/// A big-endian 16-bit number at `at`.
pub(super) fn be16(b: &[u8], at: usize) -> Option<u16> {
    let bytes = b.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// A big-endian 32-bit number at `at`.
pub(super) fn be32(b: &[u8], at: usize) -> Option<u32> {
    let bytes = b.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// A name in uncompressed wire form, lower-cased, with the place of every label: the key of all look-ups.
///
/// Lives on the stack; making one allocates nothing.
#[derive(Clone)]
pub(super) struct Name {
    buf: [u8; 255],
    /// Where each label's length octet is; the entry at `labels` is the root's.
    starts: [u8; 128],
    len: u8,
    labels: u8,
}

impl Name {
    /// The uncompressed name at `at`, and the offset behind it. `None` when it is cut short, longer than 255
    /// octets or holds a compression pointer (a name in a question has nothing before it to point to).
    pub(super) fn parse(message: &[u8], at: usize) -> Option<(Self, usize)> {
        let mut name = Self { buf: [0; 255], starts: [0; 128], len: 0, labels: 0 };
        let mut pos = 0_usize;
        loop {
            let n = usize::from(*message.get(at + pos)?);
            if n > 63 {
                return None;
            }
            let label = message.get(at + pos + 1..at + pos + 1 + n)?;
            // The length octet and the label must fit 255 octets; a root label still has to follow others.
            *name.starts.get_mut(usize::from(name.labels))? = u8::try_from(pos).ok()?;
            *name.buf.get_mut(pos)? = n as u8;
            for (to, from) in name.buf.get_mut(pos + 1..pos + 1 + n)?.iter_mut().zip(label) {
                *to = from.to_ascii_lowercase();
            }
            pos += 1 + n;
            if n == 0 {
                name.len = u8::try_from(pos).ok()?;
                return Some((name, at + pos));
            }
            name.labels += 1;
        }
    }

    /// The number of labels, the root's not counted.
    pub(super) fn labels(&self) -> usize {
        usize::from(self.labels)
    }

    /// Octets of the wire form.
    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// The whole name.
    pub(super) fn wire(&self) -> &[u8] {
        self.without(0)
    }

    /// The ancestor that is left when the first `n` labels are taken away; the root when there are fewer.
    pub(super) fn without(&self, n: usize) -> &[u8] {
        let start = self.starts.get(n.min(self.labels())).copied().unwrap_or(0);
        self.buf.get(usize::from(start)..self.len()).unwrap_or(&[0])
    }
}

/// The offset behind the possibly compressed name at `at`. Pointers are stepped over, not followed.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    let first = at;
    loop {
        let n = usize::from(*message.get(at)?);
        match n {
            0 => return Some(at + 1),
            1..=63 => at += 1 + n,
            // RFC 1035 4.1.4: the two high bits set make a pointer, which ends the name.
            192..=255 => return (at + 2 <= message.len()).then_some(at + 2),
            // 01 and 10 are reserved (RFC 6891 5).
            _ => return None,
        }
        if at - first > 254 {
            return None;
        }
    }
}

/// What the OPT record of a request asks for, RFC 6891 6.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edns {
    pub(super) udp_payload: u16,
    pub(super) version: u8,
    pub(super) dnssec_ok: bool,
}

/// The question of a request.
pub(super) struct Question {
    pub(super) name: Name,
    pub(super) rtype: u16,
    pub(super) class: u16,
    /// Offset behind the question: where the answer begins.
    pub(super) end: usize,
}

/// The one question, if the header announces exactly one and it can be read.
pub(super) fn question(request: &[u8]) -> Option<Question> {
    if be16(request, 4)? != 1 {
        return None;
    }
    let (name, at) = Name::parse(request, HEADER)?;
    Some(Question { name, rtype: be16(request, at)?, class: be16(request, at + 2)?, end: at + 4 })
}

/// A malformed request: answered with FORMERR.
#[derive(Debug)]
pub(super) struct Malformed;

/// Walks the records behind the question to the end of the request and returns its OPT record, if any.
///
/// RFC 6891 6.1.1: more than one OPT, or one not owned by the root, is a FORMERR. All else in these sections means
/// nothing to us and is stepped over, but it must be there in full, and nothing may follow.
pub(super) fn edns(request: &[u8], question_end: usize) -> Result<Option<Edns>, Malformed> {
    let count = |at| be16(request, at).map(usize::from).ok_or(Malformed);
    let before = count(6)? + count(8)?;
    let all = before + count(10)?;
    let (mut at, mut found) = (question_end, None);
    for i in 0..all {
        let owner = at;
        at = skip_name(request, at).ok_or(Malformed)?;
        let rtype = be16(request, at).ok_or(Malformed)?;
        let rdlen = usize::from(be16(request, at + 8).ok_or(Malformed)?);
        let rdata = request.get(at + 10..at + 10 + rdlen).ok_or(Malformed)?;
        if rtype == rtype::OPT {
            if i < before || found.is_some() || request.get(owner) != Some(&0) || !options_are_whole(rdata) {
                return Err(Malformed);
            }
            let ttl = be32(request, at + 4).ok_or(Malformed)?;
            found = Some(Edns {
                udp_payload: be16(request, at + 2).ok_or(Malformed)?,
                version: (ttl >> 16) as u8,
                dnssec_ok: ttl & 0x8000 != 0,
            });
        }
        at += 10 + rdlen;
    }
    if at == request.len() { Ok(found) } else { Err(Malformed) }
}

/// Whether `rdata` is a whole number of EDNS options (RFC 6891 6.1.2). Their meaning is ignored.
fn options_are_whole(mut rdata: &[u8]) -> bool {
    while !rdata.is_empty() {
        let Some(len) = be16(rdata, 2) else { return false };
        let Some(rest) = rdata.get(4 + usize::from(len)..) else { return false };
        rdata = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_lowered_and_its_ancestors_are_suffixes() {
        let (name, end) = Name::parse(b"\x03WwW\x07ExAmple\x00tail", 0).unwrap();
        assert_eq!((name.labels(), name.len(), end), (2, 13, 13));
        assert_eq!(name.wire(), b"\x03www\x07example\x00");
        assert_eq!(name.without(1), b"\x07example\x00");
        assert_eq!(name.without(2), b"\x00");
        assert_eq!(name.without(9), b"\x00");
    }

    #[test]
    fn name_of_255_octets_is_the_longest() {
        let mut wire = b"\x3f".repeat(64 * 3);
        wire.extend_from_slice(&b"\x3d".repeat(62));
        wire.push(0);
        assert_eq!(Name::parse(&wire, 0).unwrap().0.len(), 255);
        wire.splice(0..0, *b"\x01a");
        assert!(Name::parse(&wire, 0).is_none());
        // 127 labels of one octet fill a name; a 128th does not fit.
        let mut many = b"\x01a".repeat(127);
        many.push(0);
        assert_eq!(Name::parse(&many, 0).unwrap().0.labels(), 127);
        many.splice(0..0, *b"\x01a");
        assert!(Name::parse(&many, 0).is_none());
    }

    #[test]
    fn pointer_reserved_bits_and_cut_names_are_refused() {
        for bad in [&b"\xc0\x0c"[..], b"\x40a\x00", b"\x80\x00", b"\x03ab", b"\x01a", b""] {
            assert!(Name::parse(bad, 0).is_none(), "{bad:?}");
        }
    }
}
