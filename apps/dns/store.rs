//! The compiled form of all zones: immutable, answered from without allocation.
//!
//! ```text
//! slots  [tag|node][tag|node]...            open addressing, SipHash-1-3 of the lower-cased wire name
//! nodes  name, apex/cut, wildcard child, ---> rrsets  type, count, place ---> arena  encoded records
//! ```
//!
//! Every RRset is kept as the octets that go out, in the order of the answer. Two kinds of compression pointers
//! in it are blank and filled in when it is copied: the owner of each record, and the pointer that stands for the
//! zone's own name at the end of names in the data. Both are known without a search, because the name that is
//! being answered always ends with the name of its zone (see `answer.rs`).
//!
//! Names between an owner and its zone's apex exist too (empty non-terminals, RFC 4592 2.2.2), so existence is
//! monotone along the ancestors of a name and the closest encloser is found by bisection.

use core::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use super::wire::{Name, rtype};

/// An index that points nowhere.
pub(super) const NONE: u32 = u32::MAX;

/// One name of one zone.
#[derive(Clone, Copy)]
pub(super) struct Node {
    /// Place of the lower-cased name in the arena.
    pub(super) name: u32,
    pub(super) name_len: u8,
    pub(super) is_apex: bool,
    pub(super) rrset_count: u16,
    pub(super) first_rrset: u32,
    /// The topmost delegation at or above this name, or [`NONE`]: this name is not ours to answer for.
    pub(super) cut: u32,
    /// The child whose label is `*`, or [`NONE`].
    pub(super) wildcard: u32,
    pub(super) zone: u32,
}

/// One RRset, encoded.
#[derive(Clone, Copy)]
pub(super) struct RrSet {
    pub(super) rtype: u16,
    /// Number of records.
    pub(super) count: u16,
    pub(super) octets: u32,
    pub(super) len: u16,
    /// Number of blanks for the zone's own name.
    pub(super) apex_blanks: u16,
    /// First of `count` offsets of records, then `apex_blanks` offsets of blanks.
    pub(super) fixups: u32,
    /// First of `hosts` entries.
    pub(super) first_host: u32,
    pub(super) hosts: u16,
}

/// A host named in the data of an RRset, for the additional section.
#[derive(Clone, Copy)]
pub(super) struct Host {
    /// Where its name begins in the encoded RRset.
    pub(super) name_at: u16,
    pub(super) node: u32,
}

/// One zone.
#[derive(Clone, Copy)]
pub(super) struct Zone {
    pub(super) apex: u32,
    /// The SOA as it goes into the authority section of a negative answer: its TTL is the lesser of its own and the
    /// MINIMUM field (RFC 2308 3).
    pub(super) negative_soa: RrSet,
    /// The node of this name in the enclosing zone, if that is served too: it answers for DS.
    pub(super) parent: u32,
}

/// A place in the hash table; free while `node` is [`NONE`].
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) tag: u32,
    pub(super) node: u32,
}

/// Zones ready to be answered from. Built by [`Zones::load`] and never changed.
pub struct Zones {
    pub(super) key: [u64; 2],
    pub(super) slots: Vec<Slot>,
    pub(super) nodes: Vec<Node>,
    pub(super) rrsets: Vec<RrSet>,
    pub(super) zones: Vec<Zone>,
    pub(super) hosts: Vec<Host>,
    pub(super) fixups: Vec<u16>,
    pub(super) arena: Vec<u8>,
    /// The distinct numbers of labels of all apexes, most first.
    pub(super) apex_labels: Vec<u8>,
}

impl core::fmt::Debug for Zones {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // The key stays out: it is what keeps the table safe from chosen names.
        f.debug_struct("Zones")
            .field("zones", &self.zones.len())
            .field("names", &self.nodes.len())
            .field("rrsets", &self.rrsets.len())
            .finish_non_exhaustive()
    }
}

/// How a name was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Match {
    /// The node holds the data, by its own name or as a wildcard.
    Here,
    /// The node is a delegation; the data is elsewhere.
    Referral,
    /// The name does not exist; the node is its closest encloser.
    Missing,
}

/// The outcome of [`Zones::find`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) node: u32,
    pub(super) how: Match,
}

impl Zones {
    /// Number of zones.
    pub fn zone_count(&self) -> usize {
        self.zones.len()
    }

    /// Number of names, those that exist only because of names below them included.
    pub fn name_count(&self) -> usize {
        self.nodes.len()
    }

    /// Number of RRsets.
    pub fn rrset_count(&self) -> usize {
        self.rrsets.len()
    }

    pub(super) fn node(&self, index: u32) -> Option<&Node> {
        self.nodes.get(index as usize)
    }

    /// The apex of the zone that a node is in.
    pub(super) fn apex_of(&self, node: &Node) -> Option<&Node> {
        self.node(self.zones.get(node.zone as usize)?.apex)
    }

    /// The RRsets of a node, by rising type.
    pub(super) fn rrsets(&self, node: &Node) -> &[RrSet] {
        let first = node.first_rrset as usize;
        self.rrsets.get(first..first + usize::from(node.rrset_count)).unwrap_or_default()
    }

    pub(super) fn rrset(&self, node: &Node, rtype: u16) -> Option<&RrSet> {
        self.rrsets(node).iter().find(|set| set.rtype == rtype)
    }

    pub(super) fn octets(&self, set: &RrSet) -> &[u8] {
        let at = set.octets as usize;
        self.arena.get(at..at + usize::from(set.len)).unwrap_or_default()
    }

    /// The offsets in the encoded `set` of its records and of its blanks for the zone's name.
    pub(super) fn fixups(&self, set: &RrSet) -> (&[u16], &[u16]) {
        let records = set.fixups as usize;
        let blanks = records + usize::from(set.count);
        (
            self.fixups.get(records..blanks).unwrap_or_default(),
            self.fixups.get(blanks..blanks + usize::from(set.apex_blanks)).unwrap_or_default(),
        )
    }

    pub(super) fn hosts(&self, set: &RrSet) -> &[Host] {
        let first = set.first_host as usize;
        self.hosts.get(first..first + usize::from(set.hosts)).unwrap_or_default()
    }

    /// The lower-cased name that a CNAME RRset leads to, kept behind its encoded record.
    pub(super) fn target(&self, set: &RrSet) -> Option<Name> {
        let at = set.octets as usize + usize::from(set.len);
        Name::parse(&self.arena, at).map(|(name, _)| name)
    }

    pub(super) fn name_of(&self, node: &Node) -> &[u8] {
        let at = node.name as usize;
        self.arena.get(at..at + usize::from(node.name_len)).unwrap_or_default()
    }

    /// The keyed hash of a lower-cased name: its low bits choose the slot, its high half is the tag.
    pub(super) fn hash(&self, name: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.key[0], self.key[1]);
        hasher.write(name);
        hasher.finish()
    }

    /// The node of exactly this lower-cased name.
    fn lookup(&self, name: &[u8]) -> Option<u32> {
        let hash = self.hash(name);
        let mask = self.slots.len() - 1;
        let (mut at, tag) = (hash as usize & mask, (hash >> 32) as u32);
        // At most half of the slots are taken, so an empty one ends every probe.
        loop {
            let slot = self.slots.get(at)?;
            if slot.node == NONE {
                return None;
            }
            if slot.tag == tag && self.node(slot.node).is_some_and(|node| self.name_of(node) == name) {
                return Some(slot.node);
            }
            at = (at + 1) & mask;
        }
    }

    /// Finds what answers for `name`: RFC 1034 4.3.2 steps 2 and 3, with the wildcards of RFC 4592. `None` when no
    /// zone of ours encloses it.
    pub(super) fn find(&self, name: &Name, qtype: u16) -> Option<Found> {
        if let Some(mut index) = self.lookup(name.wire()) {
            let mut node = self.node(index)?;
            // RFC 4035 3.1.4.1: DS belongs to the parent side of a zone cut.
            if qtype == rtype::DS && node.is_apex {
                let parent = self.zones.get(node.zone as usize)?.parent;
                if let Some(above) = self.node(parent) {
                    (index, node) = (parent, above);
                }
            }
            let is_below_cut = node.cut != NONE && !(node.cut == index && qtype == rtype::DS);
            return Some(match is_below_cut {
                true => Found { node: node.cut, how: Match::Referral },
                false => Found { node: index, how: Match::Here },
            });
        }
        let index = self.closest_encloser(name)?;
        let node = self.node(index)?;
        Some(if node.cut != NONE {
            Found { node: node.cut, how: Match::Referral }
        } else if node.wildcard != NONE {
            // RFC 4592 3.3.1: the source of synthesis is the wildcard right below the closest encloser, no other.
            Found { node: node.wildcard, how: Match::Here }
        } else {
            Found { node: index, how: Match::Missing }
        })
    }

    /// The longest existing ancestor of `name`, which does not exist itself, in the zone that it belongs to.
    fn closest_encloser(&self, name: &Name) -> Option<u32> {
        let (mut hit, mut encloser) = self.apex_above(name)?;
        let mut miss = 0;
        while hit - miss > 1 {
            let middle = miss + (hit - miss) / 2;
            match self.lookup(name.without(middle)) {
                Some(node) => (hit, encloser) = (middle, node),
                None => miss = middle,
            }
        }
        Some(encloser)
    }

    /// The longest apex above `name`: how many labels of the name are below it, and its node.
    fn apex_above(&self, name: &Name) -> Option<(usize, u32)> {
        self.apex_labels.iter().find_map(|&labels| {
            let below = name.labels().checked_sub(usize::from(labels)).filter(|below| *below > 0)?;
            let index = self.lookup(name.without(below))?;
            self.node(index)?.is_apex.then_some((below, index))
        })
    }
}
