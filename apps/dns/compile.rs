//! Compiles the records of zones into the [`Zones`] store: nodes with their delegations and wildcards, encoded
//! RRsets, and the hash table over all names.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::rdata::{is_well_formed, layout};
use super::store::{Host, NONE, Node, RrSet, Slot, Zone, Zones};
use super::wire::{CLASS_IN, HEADER, Name, OPT_LEN, be32, rtype};

/// The blank where a compression pointer is filled in.
const BLANK: [u8; 2] = [0xC0, 0];
/// The largest encoded RRset: what fits a TCP message behind the longest question and an OPT record.
const RRSET_MAX: usize = u16::MAX as usize - HEADER - (255 + 4) - OPT_LEN;

/// A record on its way into the store.
pub(super) struct Record {
    /// Lower-cased wire form.
    pub(super) owner: Vec<u8>,
    pub(super) rtype: u16,
    pub(super) ttl: u32,
    pub(super) rdata: Vec<u8>,
}

/// Why zones cannot be compiled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TooLarge {
    /// The RRset of the record with this index does not fit any message.
    RrSet(usize),
    /// All zones together exceed what 32-bit offsets can address.
    Store,
}

/// One zone's names on their way into the store: lower-cased wire name to the indices of its records, by type.
type Names<'a> = HashMap<&'a [u8], BTreeMap<u16, Vec<usize>>>;

/// Compiles zones, one by one.
pub(super) struct Builder {
    store: Zones,
    /// Nodes of each zone by name.
    by_name: Vec<HashMap<Box<[u8]>, u32>>,
    /// Zones by apex.
    apexes: HashMap<Box<[u8]>, u32>,
}

impl Builder {
    pub(super) fn new(key: [u64; 2]) -> Self {
        let store = Zones {
            key,
            slots: Vec::new(),
            nodes: Vec::new(),
            rrsets: Vec::new(),
            zones: Vec::new(),
            hosts: Vec::new(),
            fixups: Vec::new(),
            arena: Vec::new(),
            apex_labels: Vec::new(),
        };
        Self { store, by_name: Vec::new(), apexes: HashMap::new() }
    }

    /// Adds the zone `apex` (lower-cased wire form). Its records are inside the zone, well-formed, and exactly one is an
    /// SOA at the apex; the loader has seen to that.
    pub(super) fn zone(&mut self, apex: &[u8], records: &[Record]) -> Result<(), TooLarge> {
        let mut names = Names::new();
        for (i, record) in records.iter().enumerate() {
            debug_assert!(is_well_formed(record.rtype, &record.rdata));
            names.entry(&record.owner).or_default().entry(record.rtype).or_default().push(i);
            // RFC 4592 2.2.2: empty non-terminals exist.
            let mut ancestor = record.owner.as_slice();
            while ancestor != apex {
                let Some(parent) = parent(ancestor) else { break };
                names.entry(parent).or_default();
                ancestor = parent;
            }
        }
        let by_name = self.nodes(apex, &names)?;
        let mut negative_soa = None;
        for (name, sets) in &names {
            let Some(&index) = by_name.get(*name) else { continue };
            let first = offset(self.store.rrsets.len())?;
            for indices in sets.values() {
                let set = self.rrset(apex, records, indices, None, &by_name)?;
                self.store.rrsets.push(set);
            }
            if let Some(node) = self.store.nodes.get_mut(index as usize) {
                node.first_rrset = first;
                // There are no more than 65,536 types, and a few of them cannot be stored.
                node.rrset_count = sets.len() as u16;
            }
            if let Some(soa) = sets.get(&rtype::SOA) {
                let ttl = soa.first().and_then(|i| records.get(*i)).map_or(0, negative_ttl);
                negative_soa = Some(self.rrset(apex, records, soa, Some(ttl), &by_name)?);
            }
        }
        if let (Some(&node), Some(negative_soa)) = (by_name.get(apex), negative_soa) {
            self.apexes.insert(apex.into(), offset(self.store.zones.len())?);
            self.store.zones.push(Zone { apex: node, negative_soa, parent: NONE });
            self.by_name.push(by_name);
        }
        Ok(())
    }

    /// Lays out the nodes of a zone, ancestors first, with their delegations and wildcards.
    fn nodes(&mut self, apex: &[u8], names: &Names<'_>) -> Result<HashMap<Box<[u8]>, u32>, TooLarge> {
        let mut order: Vec<&[u8]> = names.keys().copied().collect();
        // A fixed order makes two loads of one zone the same; shorter names come before those below them.
        order.sort_unstable_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
        let zone = offset(self.store.zones.len())?;
        let mut by_name: HashMap<Box<[u8]>, u32> = HashMap::with_capacity(order.len());
        for name in order {
            let index = offset(self.store.nodes.len())?;
            let is_apex = name == apex;
            let above = parent(name).filter(|_| !is_apex).and_then(|p| by_name.get(p).copied());
            let mut cut = above.and_then(|p| self.store.node(p)).map_or(NONE, |node| node.cut);
            if cut == NONE && !is_apex && names.get(name).is_some_and(|sets| sets.contains_key(&rtype::NS)) {
                cut = index;
            }
            if name.starts_with(b"\x01*")
                && let Some(node) = above.and_then(|p| self.store.nodes.get_mut(p as usize))
            {
                node.wildcard = index;
            }
            let at = offset(self.store.arena.len())?;
            self.store.arena.extend_from_slice(name);
            self.store.nodes.push(Node {
                name: at,
                name_len: name.len() as u8,
                is_apex,
                rrset_count: 0,
                first_rrset: 0,
                cut,
                wildcard: NONE,
                zone,
            });
            by_name.insert(name.into(), index);
        }
        Ok(by_name)
    }

    /// Encodes one RRset. RFC 2181 5.2: its TTL is one; where the file gives several, the least.
    fn rrset(
        &mut self,
        apex: &[u8],
        records: &[Record],
        indices: &[usize],
        ttl: Option<u32>,
        by_name: &HashMap<Box<[u8]>, u32>,
    ) -> Result<RrSet, TooLarge> {
        let members = || indices.iter().filter_map(|i| records.get(*i));
        let ttl = ttl.or_else(|| members().map(|r| r.ttl).min()).unwrap_or(0);
        let rtype = members().next().map_or(0, |r| r.rtype);
        let mut encoded = Encoded::default();
        // RFC 2181 5: an RRset holds no duplicates.
        let mut seen = HashSet::new();
        for (index, record) in indices.iter().filter_map(|i| Some((*i, records.get(*i)?))) {
            if seen.insert(record.rdata.as_slice()) {
                encoded.record(apex, record, ttl, by_name).ok_or(TooLarge::RrSet(index))?;
            }
        }
        let store = &mut self.store;
        let set = RrSet {
            rtype,
            count: encoded.records.len() as u16,
            octets: offset(store.arena.len())?,
            len: encoded.octets.len() as u16,
            apex_blanks: encoded.blanks.len() as u16,
            fixups: offset(store.fixups.len())?,
            first_host: offset(store.hosts.len())?,
            hosts: encoded.hosts.len() as u16,
        };
        store.arena.extend_from_slice(&encoded.octets);
        if rtype == rtype::CNAME {
            store.arena.extend(members().take(1).flat_map(|r| r.rdata.to_ascii_lowercase()));
        }
        store.fixups.extend_from_slice(&encoded.records);
        store.fixups.extend_from_slice(&encoded.blanks);
        store.hosts.extend_from_slice(&encoded.hosts);
        Ok(set)
    }

    /// Ties the zones together and builds the table.
    pub(super) fn finish(mut self) -> Zones {
        self.link_apexes();
        let store = &mut self.store;
        let slots = store.nodes.len().saturating_mul(2).next_power_of_two().max(16);
        store.slots = vec![Slot { tag: 0, node: NONE }; slots];
        for (name, index) in self.by_name.iter().flatten() {
            let Some(node) = store.node(*index) else { continue };
            // At and below the apex of a zone of ours, the enclosing zone has nothing to say (DS excepted).
            if deepest_zone(&self.apexes, name) != Some(node.zone) {
                continue;
            }
            let hash = store.hash(name);
            let mut at = hash as usize & (slots - 1);
            while store.slots.get(at).is_some_and(|slot| slot.node != NONE) {
                at = (at + 1) & (slots - 1);
            }
            if let Some(slot) = store.slots.get_mut(at) {
                *slot = Slot { tag: (hash >> 32) as u32, node: *index };
            }
        }
        self.store
    }

    /// Notes the numbers of labels of the apexes, and for each apex the node of the same name one zone up.
    fn link_apexes(&mut self) {
        let store = &mut self.store;
        for i in 0..store.zones.len() {
            let Some(node) = store.zones.get(i).and_then(|zone| store.node(zone.apex)) else { continue };
            let name: Box<[u8]> = store.name_of(node).into();
            let labels = Name::parse(&name, 0).map_or(0, |(name, _)| name.labels() as u8);
            store.apex_labels.push(labels);
            let above = parent(&name).and_then(|up| deepest_zone(&self.apexes, up));
            let twin = above.and_then(|zone| self.by_name.get(zone as usize)?.get(&name).copied());
            if let Some(zone) = store.zones.get_mut(i) {
                zone.parent = twin.unwrap_or(NONE);
            }
        }
        store.apex_labels.sort_unstable_by(|a, b| b.cmp(a));
        store.apex_labels.dedup();
    }
}

/// The zone with the longest apex at or above `name`.
fn deepest_zone(apexes: &HashMap<Box<[u8]>, u32>, name: &[u8]) -> Option<u32> {
    let mut at = Some(name);
    while let Some(name) = at {
        if let Some(&zone) = apexes.get(name) {
            return Some(zone);
        }
        at = parent(name);
    }
    None
}

/// The name without its first label, or `None` for the root.
fn parent(name: &[u8]) -> Option<&[u8]> {
    let n = usize::from(*name.first()?);
    if n == 0 { None } else { name.get(1 + n..) }
}

/// RFC 2308 3 and 5: the TTL of a negative answer.
fn negative_ttl(soa: &Record) -> u32 {
    let minimum = soa.rdata.len().checked_sub(4).and_then(|at| be32(&soa.rdata, at));
    soa.ttl.min(minimum.unwrap_or(0))
}

fn offset(n: usize) -> Result<u32, TooLarge> {
    u32::try_from(n).ok().filter(|n| *n != NONE).ok_or(TooLarge::Store)
}

/// One RRset while it is encoded.
#[derive(Default)]
struct Encoded {
    octets: Vec<u8>,
    records: Vec<u16>,
    blanks: Vec<u16>,
    hosts: Vec<Host>,
}

impl Encoded {
    /// Appends one record, or `None` when the RRset becomes too large.
    fn record(
        &mut self,
        apex: &[u8],
        record: &Record,
        ttl: u32,
        by_name: &HashMap<Box<[u8]>, u32>,
    ) -> Option<()> {
        self.records.push(u16::try_from(self.octets.len()).ok()?);
        self.octets.extend_from_slice(&BLANK);
        self.octets.extend_from_slice(&record.rtype.to_be_bytes());
        self.octets.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.octets.extend_from_slice(&ttl.to_be_bytes());
        let length_at = self.octets.len();
        self.octets.extend_from_slice(&[0, 0]);
        self.rdata(apex, record, by_name)?;
        let rdlen = u16::try_from(self.octets.len() - length_at - 2).ok()?;
        self.octets.get_mut(length_at..length_at + 2)?.copy_from_slice(&rdlen.to_be_bytes());
        (self.octets.len() <= RRSET_MAX).then_some(())
    }

    fn rdata(&mut self, apex: &[u8], record: &Record, by_name: &HashMap<Box<[u8]>, u32>) -> Option<()> {
        let Some((layout, places)) =
            layout(record.rtype).and_then(|layout| Some((layout, layout.names(&record.rdata)?)))
        else {
            self.octets.extend_from_slice(&record.rdata);
            return Some(());
        };
        let mut copied = 0;
        for (i, place) in places.into_iter().filter(|place| !place.is_empty()).enumerate() {
            self.octets.extend_from_slice(record.rdata.get(copied..place.start)?);
            copied = place.end;
            let name = record.rdata.get(place)?;
            if i == 0 && layout.addresses {
                self.host(name, by_name);
            }
            match name_below(name, apex).filter(|_| layout.compress) {
                Some(own) => {
                    self.octets.extend_from_slice(own);
                    self.blanks.push(u16::try_from(self.octets.len()).ok()?);
                    self.octets.extend_from_slice(&BLANK);
                }
                None => self.octets.extend_from_slice(name),
            }
        }
        self.octets.extend_from_slice(record.rdata.get(copied..)?);
        Some(())
    }

    /// Remembers a host of this zone, once. Hosts of other zones are not added to answers.
    fn host(&mut self, name: &[u8], by_name: &HashMap<Box<[u8]>, u32>) {
        let Some(&node) = by_name.get(name.to_ascii_lowercase().as_slice()) else { return };
        let Ok(name_at) = u16::try_from(self.octets.len()) else { return };
        if self.hosts.iter().all(|host| host.node != node) {
            self.hosts.push(Host { name_at, node });
        }
    }
}

/// The labels of `name` in front of `apex`, when it ends with `apex` and a pointer is shorter than that.
fn name_below<'a>(name: &'a [u8], apex: &[u8]) -> Option<&'a [u8]> {
    if apex.len() <= BLANK.len() {
        return None;
    }
    let mut at = name;
    while at.len() > apex.len() {
        at = parent(at)?;
    }
    at.eq_ignore_ascii_case(apex).then(|| name.get(..name.len() - at.len())).flatten()
}
