//! Zones as they are asked for (`ORIGIN=FILE`), loaded, checked as wholes, and compiled.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::str::FromStr;

use super::compile::{Builder, TooLarge};
use super::master::{self, Records, shown};
use super::store::Zones;
use super::wire::{Name, rtype};
use crate::values::from_text;

/// One zone to serve: its name and its master file. Parsed from `ORIGIN=FILE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneSpec {
    /// Lower-cased wire form.
    origin: Vec<u8>,
    file: PathBuf,
}

impl ZoneSpec {
    /// The name of the zone, with the final dot.
    pub fn origin(&self) -> String {
        shown(&self.origin)
    }

    /// The master file.
    pub fn file(&self) -> &std::path::Path {
        &self.file
    }
}

impl FromStr for ZoneSpec {
    type Err = ZoneError;

    fn from_str(text: &str) -> Result<Self, ZoneError> {
        let bad = |why: &'static str| ZoneError::Spec { text: text.into(), why };
        let (origin, file) = text.split_once('=').ok_or_else(|| bad("there is no '='"))?;
        if origin.is_empty() {
            return Err(bad("the zone's name is empty (the root zone is '.')"));
        }
        if file.is_empty() {
            return Err(bad("the file's name is empty"));
        }
        let name = domain::base::Name::<Vec<u8>>::from_str(origin);
        let name = name.map_err(|_| bad("the zone's name is not a domain name"))?;
        let (name, _) =
            Name::parse(name.as_slice(), 0).ok_or_else(|| bad("the zone's name is not a domain name"))?;
        Ok(Self { origin: name.wire().to_vec(), file: file.into() })
    }
}

from_text!(ZoneSpec, "a zone such as \"example.org=example.org.zone\"", |_: i64| None);

/// What is wrong with a zone.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The file cannot be read; the text is the system's.
    #[error("cannot read: {0}")]
    Unreadable(String),
    /// An included file cannot be read.
    #[error("cannot read the included file {0}: {1}")]
    Include(String, String),
    /// Included files nest too deeply, or include each other.
    #[error("$INCLUDE nested deeper than {0} files")]
    IncludeDepth(usize),
    /// An entry that cannot be read.
    #[error("{0}")]
    Syntax(String),
    /// A parenthesis or quotation mark that is opened only.
    #[error("{0} is not closed")]
    NotClosed(&'static str),
    /// A parenthesis that is closed only.
    #[error(") without (")]
    ClosedTooOften,
    /// A name with two dots in a row.
    #[error("empty label in {0}")]
    EmptyLabel(String),
    /// A line that begins with `$` and is none of `$ORIGIN`, `$TTL`, `$INCLUDE`.
    #[error("unknown directive {0}; known are $ORIGIN, $TTL and $INCLUDE")]
    NotADirective(String),
    /// Not a time to live.
    #[error("{0} is not a time in seconds below 2^31, nor one like 1h30m")]
    Ttl(String),
    /// A class other than IN.
    #[error("class {0}: only IN is served")]
    Class(String),
    /// No type, class or TTL where one is due.
    #[error("unknown record type {0}; write TYPEnnn \\# LENGTH HEX for one without a name")]
    Type(String),
    /// A type that cannot be data.
    #[error("{0} records cannot be in a zone")]
    MetaType(String),
    /// An owner that is not in the zone.
    #[error("{0} is outside the zone {1}")]
    OutsideZone(String, String),
    /// No SOA.
    #[error("no SOA record for {0}")]
    NoSoa(String),
    /// More than one SOA.
    #[error("second SOA record; the first is in line {0}")]
    SecondSoa(u32),
    /// An SOA elsewhere than at the apex.
    #[error("SOA record of {0} below the top of the zone {1}")]
    SoaBelowApex(String, String),
    /// CNAME beside other data, RFC 2181 10.1.
    #[error("{0} has a CNAME and other data (line {1})")]
    CnameAndOther(String, u32),
    /// Two CNAMEs of one name.
    #[error("{0} has a second CNAME; the first is in line {1}")]
    SecondCname(String, u32),
    /// A type that needs more of a server than to be looked up.
    #[error("{0} records are not supported{1}")]
    Unsupported(&'static str, &'static str),
    /// The same zone twice.
    #[error("the zone {0} is given twice")]
    Duplicate(String),
    /// An RRset that fits no DNS message.
    #[error("the {0} records of {1} do not fit a DNS message")]
    RrSetTooLarge(String, String),
    /// More than 32-bit offsets can address.
    #[error("the zones together exceed 4 GiB")]
    StoreTooLarge,
}

/// Why zones cannot be served: one line that names the place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZoneError {
    /// The text is not `ORIGIN=FILE`.
    #[error("zone {text:?}: {why}; expected ORIGIN=FILE, as in example.org=example.org.zone")]
    Spec {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file as a whole is wrong.
    #[error("{}: {what}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        what: Problem,
    },
    /// A line is wrong.
    #[error("{}:{line}: {what}", file.display())]
    At {
        /// The file, which may be an included one.
        file: PathBuf,
        /// The line that the entry begins in, from 1.
        line: u32,
        /// What is wrong.
        what: Problem,
    },
}

impl Zones {
    /// Loads and compiles zones. `key` is a secret that keeps the hash table safe from chosen names.
    ///
    /// # Errors
    /// The first thing that is wrong, in the order of `specs` and of their files.
    pub fn load(specs: &[ZoneSpec], key: [u64; 2]) -> Result<Self, ZoneError> {
        let mut builder = Builder::new(key);
        let mut origins = HashSet::new();
        for spec in specs {
            let file_error = |what| ZoneError::File { file: spec.file.clone(), what };
            if !origins.insert(spec.origin.as_slice()) {
                return Err(file_error(Problem::Duplicate(spec.origin())));
            }
            let zone = master::read(&spec.origin, &spec.file)?;
            check_soa(spec, &zone)?;
            check_names(&zone)?;
            builder.zone(&spec.origin, &zone.records).map_err(|too_large| match too_large {
                TooLarge::Store => file_error(Problem::StoreTooLarge),
                TooLarge::RrSet(i) => at(&zone, i, |zone| {
                    let Some(record) = zone.records.get(i) else { return Problem::StoreTooLarge };
                    Problem::RrSetTooLarge(type_shown(record.rtype), shown(&record.owner))
                }),
            })?;
        }
        Ok(builder.finish())
    }
}

/// The error at the place of the record `i`.
fn at(zone: &Records, i: usize, what: impl FnOnce(&Records) -> Problem) -> ZoneError {
    match zone.places.get(i) {
        Some(place) => place.error(what(zone)),
        None => ZoneError::File { file: PathBuf::new(), what: what(zone) },
    }
}

fn type_shown(rtype: u16) -> String {
    domain::base::Rtype::from_int(rtype).to_string()
}

/// RFC 1035 5.2: exactly one SOA, at the top of the zone.
fn check_soa(spec: &ZoneSpec, zone: &Records) -> Result<(), ZoneError> {
    let mut first = None;
    for (record, place) in zone.records.iter().zip(&zone.places).filter(|(r, _)| r.rtype == rtype::SOA) {
        if record.owner != spec.origin {
            return Err(place.error(Problem::SoaBelowApex(shown(&record.owner), spec.origin())));
        }
        if let Some(line) = first {
            return Err(place.error(Problem::SecondSoa(line)));
        }
        first = Some(place.line);
    }
    match first {
        Some(_) => Ok(()),
        None => Err(ZoneError::File { file: spec.file.clone(), what: Problem::NoSoa(spec.origin()) }),
    }
}

/// What records of one name say about each other, and what we cannot serve.
fn check_names(zone: &Records) -> Result<(), ZoneError> {
    // For each name the first CNAME and the first record that may not be beside one.
    let mut seen: HashMap<&[u8], (Option<usize>, Option<usize>)> = HashMap::new();
    for (i, record) in zone.records.iter().enumerate() {
        let unsupported = match record.rtype {
            // RFC 6672: would need CNAMEs made up for every name below.
            rtype::DNAME => Some(Problem::Unsupported("DNAME", "")),
            // RFC 4592 4.2: what a delegation by wildcard means is not defined.
            rtype::NS if record.owner.starts_with(b"\x01*") => {
                Some(Problem::Unsupported("NS", " at a wildcard"))
            }
            _ => None,
        };
        if let Some(what) = unsupported {
            return Err(at(zone, i, |_| what));
        }
        // RFC 4034 3 and 4: signatures and NSEC are beside everything.
        if matches!(record.rtype, rtype::RRSIG | rtype::NSEC) {
            continue;
        }
        let (cname, other) = seen.entry(&record.owner).or_default();
        let line = |i: usize| zone.places.get(i).map_or(0, |place| place.line);
        if record.rtype == rtype::CNAME {
            if let Some(first) = *cname
                && zone.records.get(first).is_some_and(|first| first.rdata != record.rdata)
            {
                return Err(at(zone, i, |_| Problem::SecondCname(shown(&record.owner), line(first))));
            }
            cname.get_or_insert(i);
        } else {
            other.get_or_insert(i);
        }
        if let (Some(cname), Some(other)) = (*cname, *other) {
            let elsewhere = line(cname.min(other));
            return Err(at(zone, i, |_| Problem::CnameAndOther(shown(&record.owner), elsewhere)));
        }
    }
    Ok(())
}
