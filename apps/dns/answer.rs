//! A request becomes its answer in the buffer that it came in, without allocation.
//!
//! ```text
//! request  [ header | question            | OPT, ...     ]  capacity ...
//! answer   [ header | question, untouched | RRsets ...                 | OPT ]
//!                     ^ 12: owner of every answer to the question
//!                           ^ apex: end of the question's name, target of all other compression pointers
//! ```
//!
//! The question stays as it is, so the spelling that the client chose (0x20) comes back. A name that is answered
//! for ends with the name of its zone; where that ending is in the message is therefore known, and with it every
//! pointer that a stored RRset left blank. After a CNAME the same holds for its target, which is in the message
//! as data of the CNAME.

use super::store::{Match, NONE, Node, RrSet, Zones};
use super::wire::{CLASS_IN, Edns, HEADER, Name, OPT_LEN, Question, Rcode, be16, edns, question, rtype};

/// The UDP payload that no path fragments: the upper limit of answers, and what our OPT record announces.
pub const UDP_PAYLOAD_MAX: usize = 1232;
/// What every client takes without EDNS, RFC 1035 4.2.1.
pub const UDP_PAYLOAD_MIN: usize = 512;
/// Names of one CNAME chain; a longer one is answered as far as this and left to the client.
const CHAIN_MAX: usize = 12;

const QR: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AA: u16 = 0x0400;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;

/// How the answer will travel: what limits its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// One datagram of at most `max` octets, and of what the client says it takes. `max` is brought into
    /// [`UDP_PAYLOAD_MIN`]`..=`[`UDP_PAYLOAD_MAX`].
    Udp {
        /// The server's own limit in octets.
        max: usize,
    },
    /// A stream: at most 65,535 octets.
    Tcp,
}

impl Zones {
    /// Turns the request in `frame[..request_len]` into its answer in place and returns the answer's length.
    ///
    /// `frame` is the whole buffer; the answer takes as much of it as the transport, the client and its size allow,
    /// and says TC=1 when that is too little. `None` means that nothing is to be sent: the octets are shorter than
    /// a header or are themselves a response (answering those would let two servers talk for ever). Does not
    /// allocate and does not panic, whatever the octets are.
    pub fn answer(&self, frame: &mut [u8], request_len: usize, transport: Transport) -> Option<usize> {
        let request = frame.get(..request_len)?;
        let flags = be16(request, 2).filter(|flags| request.len() >= HEADER && flags & QR == 0)?;
        let question = question(request);
        let (rcode, edns) = triage(request, flags, question.as_ref());
        let end = question.as_ref().map_or(HEADER, |q| q.end);
        let limit = size_limit(transport, edns).min(frame.len());
        let mut reply = Reply {
            limit: limit.saturating_sub(if edns.is_some() { OPT_LEN } else { 0 }),
            frame,
            at: end,
            rcode,
            aa: false,
            tc: false,
            counts: [0; 3],
        };
        if let (Rcode::NoError, Some(question)) = (rcode, &question) {
            reply.resolve(self, question);
        }
        reply.finish(flags, question.is_some(), edns)
    }
}

/// What can be said before looking at any zone: the response code, and what the client's OPT record asks for.
fn triage(request: &[u8], flags: u16, question: Option<&Question>) -> (Rcode, Option<Edns>) {
    if flags & OPCODE != 0 {
        // RFC 1035 4.1.1: IQUERY, STATUS, NOTIFY, UPDATE: not implemented. Their sections may not be what they are in a
        // query, so nothing behind the question is read.
        return (Rcode::NotImp, None);
    }
    // RFC 9619 4: a query holds exactly one question.
    let Some(question) = question else { return (Rcode::FormErr, None) };
    let Ok(edns) = edns(request, question.end) else { return (Rcode::FormErr, None) };
    let rcode = match question.rtype {
        // RFC 6891 6.1.3: a version that we do not know.
        _ if edns.is_some_and(|edns| edns.version > 0) => Rcode::BadVers,
        _ if question.class != CLASS_IN => Rcode::Refused,
        0 | rtype::OPT | rtype::TSIG => Rcode::FormErr,
        rtype::TKEY => Rcode::NotImp,
        rtype::AXFR | rtype::IXFR => Rcode::Refused,
        _ => Rcode::NoError,
    };
    (rcode, edns)
}

/// The size that the answer may have. RFC 6891 6.2.3: a client that says less than 512 means 512.
fn size_limit(transport: Transport, edns: Option<Edns>) -> usize {
    match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp { max } => {
            let client = edns.map_or(UDP_PAYLOAD_MIN, |edns| usize::from(edns.udp_payload));
            client.clamp(UDP_PAYLOAD_MIN, max.clamp(UDP_PAYLOAD_MIN, UDP_PAYLOAD_MAX))
        }
    }
}

/// Sections behind the question.
#[derive(Clone, Copy)]
enum Section {
    Answer,
    Authority,
    Additional,
}

/// The RRset does not fit.
struct Full;

/// The name that is being answered, and where it and its zone's name are in the message.
struct Subject<'a> {
    name: &'a Name,
    at: usize,
    apex_at: usize,
}

impl Subject<'_> {
    /// Where in the message the last `len` octets of the name are. Anything longer than the apex is spelt out behind
    /// `at`; only the apex may be elsewhere.
    fn ending_at(&self, len: usize, apex_len: usize) -> usize {
        if len == apex_len { self.apex_at } else { self.at + self.name.len().saturating_sub(len) }
    }
}

/// An answer that is being written.
struct Reply<'a> {
    frame: &'a mut [u8],
    at: usize,
    /// Where the RRsets must end, room for OPT left.
    limit: usize,
    rcode: Rcode,
    aa: bool,
    tc: bool,
    counts: [u16; 3],
}

impl Reply<'_> {
    /// RFC 1034 4.3.2: follows the question through our zones.
    fn resolve(&mut self, zones: &Zones, question: &Question) {
        let mut visited = [NONE; CHAIN_MAX];
        let mut target;
        let mut subject = Subject { name: &question.name, at: HEADER, apex_at: HEADER };
        let mut zone = NONE;
        for step in 0..CHAIN_MAX {
            let Some(found) = zones.find(subject.name, question.rtype) else {
                // A target elsewhere is left to the client; a question about it is not for us.
                if step == 0 {
                    self.rcode = Rcode::Refused;
                }
                return;
            };
            let Some((node, apex)) =
                zones.node(found.node).and_then(|node| Some((node, zones.apex_of(node)?)))
            else {
                return;
            };
            // In the zone of the previous name the apex stays where it was; else the name is spelt out to its end.
            if node.zone != zone {
                zone = node.zone;
                subject.apex_at = subject.at + subject.name.len().saturating_sub(usize::from(apex.name_len));
            }
            if found.how == Match::Referral {
                return self.referral(zones, found.node, apex, &subject);
            }
            // RFC 1035 4.1.1: AA is about the first owner name; a chain that leads to a referral keeps it.
            self.aa = true;
            if found.how == Match::Missing {
                // RFC 6604 3: also when it is the end of a chain that is missing.
                self.rcode = Rcode::NxDomain;
                return self.negative(zones, node, &subject);
            }
            let Some(cname) = self.data(zones, node, question.rtype, &subject) else { return };
            // A name met before closes a loop: what is there says so to the client.
            if visited.contains(&found.node) {
                return;
            }
            if let Some(place) = visited.get_mut(step) {
                *place = found.node;
            }
            let start = self.at;
            if self.rrset(zones, cname, Section::Answer, &subject).is_err() {
                self.tc = true;
                return;
            }
            let Some(next) = zones.target(cname) else { return };
            // A target that is the apex itself was written as nothing but a pointer to it.
            let apex_at = subject.apex_at;
            let at = if next.wire() == zones.name_of(apex) { apex_at } else { start + CNAME_DATA };
            target = next;
            subject = Subject { name: &target, at, apex_at };
        }
    }

    /// Answers from the data of a node. Returns its CNAME when that has to be followed instead.
    fn data<'z>(
        &mut self,
        zones: &'z Zones,
        node: &Node,
        qtype: u16,
        subject: &Subject<'_>,
    ) -> Option<&'z RrSet> {
        let set = match qtype {
            // RFC 8482 4.1: one RRset that exists, the smallest.
            rtype::ANY => zones.rrsets(node).iter().min_by_key(|set| set.len),
            _ => zones.rrset(node, qtype),
        };
        let Some(set) = set else {
            let cname = zones.rrset(node, rtype::CNAME);
            if cname.is_none() {
                self.negative(zones, node, subject);
            }
            return cname;
        };
        let start = self.at;
        match self.rrset(zones, set, Section::Answer, subject) {
            Ok(()) => self.addresses(zones, set, start, subject, NONE),
            // RFC 2181 9: what does not fit whole is left out, and the client comes back over TCP.
            Err(Full) => self.tc = true,
        }
        None
    }

    /// RFC 2308 2: the SOA of the zone tells that, and for how long, there is nothing.
    fn negative(&mut self, zones: &Zones, node: &Node, subject: &Subject<'_>) {
        let Some(zone) = zones.zones.get(node.zone as usize) else { return };
        let soa = &zone.negative_soa;
        if self.put(zones, soa, Section::Authority, subject.apex_at, subject.apex_at).is_err() {
            self.tc = true;
        }
    }

    /// RFC 1034 4.3.2 step 3b: the name servers of the delegation, with the addresses we know.
    fn referral(&mut self, zones: &Zones, cut: u32, apex: &Node, subject: &Subject<'_>) {
        let Some((node, set)) = zones.node(cut).and_then(|node| Some((node, zones.rrset(node, rtype::NS)?)))
        else {
            return;
        };
        let start = self.at;
        let owner_at = subject.ending_at(usize::from(node.name_len), usize::from(apex.name_len));
        match self.put(zones, set, Section::Authority, owner_at, subject.apex_at) {
            Ok(()) => self.addresses(zones, set, start, subject, cut),
            Err(Full) => self.tc = true,
        }
    }

    /// Adds the addresses of the hosts named in `set`, which was written at `start`, as far as there is room.
    ///
    /// RFC 9471 3.1: the addresses of name servers below the delegation `cut` are needed to get on, so TC=1 without them.
    fn addresses(&mut self, zones: &Zones, set: &RrSet, start: usize, subject: &Subject<'_>, cut: u32) {
        for host in zones.hosts(set) {
            let Some(node) = zones.node(host.node) else { continue };
            for rtype in [rtype::A, rtype::AAAA] {
                let Some(addresses) = zones.rrset(node, rtype) else { continue };
                let owner_at = start + usize::from(host.name_at);
                let fits = self.put(zones, addresses, Section::Additional, owner_at, subject.apex_at).is_ok();
                self.tc |= !fits && cut != NONE && node.cut == cut;
            }
        }
    }

    /// Appends an RRset owned by the subject.
    fn rrset(
        &mut self,
        zones: &Zones,
        set: &RrSet,
        section: Section,
        subject: &Subject<'_>,
    ) -> Result<(), Full> {
        self.put(zones, set, section, subject.at, subject.apex_at)
    }

    /// Appends an RRset, its blanks filled in with pointers to `owner_at` and `apex_at`.
    fn put(
        &mut self,
        zones: &Zones,
        set: &RrSet,
        section: Section,
        owner_at: usize,
        apex_at: usize,
    ) -> Result<(), Full> {
        let (octets, (records, blanks)) = (zones.octets(set), zones.fixups(set));
        let (owner, apex) = (pointer(owner_at)?, pointer(apex_at)?);
        let end = self.at + octets.len();
        if end > self.limit {
            return Err(Full);
        }
        let room = self.frame.get_mut(self.at..end).ok_or(Full)?;
        room.copy_from_slice(octets);
        for (places, pointer) in [(records, owner), (blanks, apex)] {
            for &place in places {
                let place = usize::from(place);
                room.get_mut(place..place + 2).ok_or(Full)?.copy_from_slice(&pointer);
            }
        }
        self.at = end;
        if let Some(count) = self.counts.get_mut(section as usize) {
            *count += set.count;
        }
        Ok(())
    }

    /// Writes the OPT record and the header; returns the length of the message.
    fn finish(mut self, request_flags: u16, has_question: bool, edns: Option<Edns>) -> Option<usize> {
        let rcode = self.rcode as u16;
        if let Some(edns) = edns {
            let end = self.at + OPT_LEN;
            let opt = self.frame.get_mut(self.at..end)?.first_chunk_mut::<OPT_LEN>()?;
            let payload = (UDP_PAYLOAD_MAX as u16).to_be_bytes();
            let dnssec_ok = if edns.dnssec_ok { 0x80 } else { 0 };
            // RFC 6891 6.1.2 and 6.1.3: root, OPT, payload, upper response code, version 0, flags, no options.
            *opt = [0, 0, 41, payload[0], payload[1], (rcode >> 4) as u8, 0, dnssec_ok, 0, 0, 0];
            self.at = end;
            self.counts[2] += 1;
        }
        // RA is 0: no recursion here. RFC 4035 3.1.6: AD and CD mean nothing in an authoritative answer and are cleared.
        let flags = QR
            | request_flags & (OPCODE | RD)
            | if self.aa { AA } else { 0 }
            | if self.tc { TC } else { 0 }
            | rcode & 0xF;
        let words = [flags, u16::from(has_question), self.counts[0], self.counts[1], self.counts[2]];
        let header = self.frame.get_mut(2..HEADER)?;
        for (to, word) in header.chunks_exact_mut(2).zip(words) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        Some(self.at)
    }
}

/// Offset of the data in a record whose owner is a pointer: where the target of an encoded CNAME begins.
const CNAME_DATA: usize = 12;

/// A compression pointer (RFC 1035 4.1.4), which reaches the first 16,384 octets only.
fn pointer(at: usize) -> Result<[u8; 2], Full> {
    match u16::try_from(at) {
        Ok(at) if at < 0x4000 => Ok((0xC000 | at).to_be_bytes()),
        _ => Err(Full),
    }
}
