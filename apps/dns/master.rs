//! Reads a zone from master files: RFC 1035 5, with `$TTL` (RFC 2308 4) and the generic notation of RFC 3597.
//!
//! The `domain` library reads names and data. In front of it each entry is put into one canonical line, which adds
//! what zone files in the field rely on and the library does not read: `@` inside data, and TTLs with units (`1h30m`).
//! Knowing the line of every entry is what gives errors their place.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;

use domain::base::RecordData as _;
use domain::base::iana::{Class, Rtype};
use domain::base::name::ToName;
use domain::base::rdata::ComposeRecordData as _;
use domain::zonefile::inplace::{self, ScannedRecord, Zonefile};

use super::compile::Record;
use super::lexer::{Entry, Lexer, Token, printable};
use super::rdata::{is_well_formed, layout};
use super::wire::{Name, rtype};
use super::zone::{Problem, ZoneError};
use crate::textfile;

/// How deep `$INCLUDE` may nest: enough for any layout of files, and an end to a file that includes itself.
const INCLUDE_DEPTH: usize = 8;
/// RFC 2181 8: a TTL is an unsigned number below 2^31.
const TTL_MAX: u32 = 0x7FFF_FFFF;
/// The largest file read, so that a pipe cannot fill the memory.
const FILE_MAX: u64 = 2 << 30;

/// Where a record was written.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) file: Arc<Path>,
    pub(super) line: u32,
}

impl Place {
    /// The error `what` at this place.
    pub(super) fn error(&self, what: Problem) -> ZoneError {
        ZoneError::At { file: self.file.to_path_buf(), line: self.line, what }
    }
}

/// The records of one zone, in the order of the files, and where each was written.
#[derive(Default)]
pub(super) struct Records {
    pub(super) records: Vec<Record>,
    pub(super) places: Vec<Place>,
}

/// Reads the zone `apex` (lower-cased wire form) from `file` and all that it includes.
pub(super) fn read(apex: &[u8], file: &Path) -> Result<Records, ZoneError> {
    let file_error = |what| ZoneError::File { file: file.into(), what };
    let mut zonefile = Zonefile::new();
    let origin = domain::base::Name::from_octets(apex.to_vec().into());
    zonefile.set_origin(origin.map_err(|_| file_error(Problem::Syntax("bad origin".into())))?);
    let text = load(file).map_err(file_error)?;
    let mut records = Records::default();
    Source::new(apex, zonefile, file, None, 0).read(&text, &mut records)?;
    Ok(records)
}

/// One file that is being read.
struct Source<'a> {
    apex: &'a [u8],
    zonefile: Zonefile,
    file: Arc<Path>,
    /// What `$TTL` said last.
    ttl: Option<u32>,
    depth: usize,
}

impl<'a> Source<'a> {
    fn new(apex: &'a [u8], mut zonefile: Zonefile, file: &Path, ttl: Option<u32>, depth: usize) -> Self {
        zonefile.set_default_class(Class::IN);
        if let Some(ttl) = ttl {
            zonefile.extend_from_slice(format!("$TTL {ttl}\n").as_bytes());
        }
        Self { apex, zonefile, file: file.into(), ttl, depth }
    }

    fn read(&mut self, text: &[u8], out: &mut Records) -> Result<(), ZoneError> {
        let mut lexer = Lexer::new(text);
        loop {
            let entry = match lexer.entry() {
                Ok(Some(entry)) => entry,
                Ok(None) => return Ok(()),
                Err((line, what)) => return Err(Place { file: Arc::clone(&self.file), line }.error(what)),
            };
            let place = Place { file: Arc::clone(&self.file), line: entry.line };
            self.entry(&entry, &place, out)?;
        }
    }

    /// Hands one entry to the library and takes in what comes out.
    fn entry(&mut self, entry: &Entry<'_>, place: &Place, out: &mut Records) -> Result<(), ZoneError> {
        let (line, what) = self.canonical(entry).map_err(|what| place.error(what))?;
        self.zonefile.extend_from_slice(&line);
        match self.zonefile.next_entry() {
            // A directive that the library keeps to itself.
            Ok(None) => Ok(()),
            Ok(Some(inplace::Entry::Record(record))) => {
                out.records.push(self.record(&record).map_err(|what| place.error(what))?);
                out.places.push(place.clone());
                Ok(())
            }
            Ok(Some(inplace::Entry::Include { path, origin })) => {
                let mut zonefile = Zonefile::new();
                let origin = origin.map_or_else(|| self.zonefile.origin(), Ok);
                zonefile.set_origin(origin.map_err(|e| place.error(Problem::Syntax(e.to_string())))?);
                self.include(path.as_ref(), zonefile, place, out)
            }
            Err(error) => Err(place.error(Problem::Syntax(format!("{what}: {}", without_position(&error))))),
        }
    }

    /// RFC 1035 5.1: the file is taken in here; its `$ORIGIN`, `$TTL` and last owner end with it.
    fn include(
        &mut self,
        path: &str,
        zonefile: Zonefile,
        place: &Place,
        out: &mut Records,
    ) -> Result<(), ZoneError> {
        if self.depth >= INCLUDE_DEPTH {
            return Err(place.error(Problem::IncludeDepth(INCLUDE_DEPTH)));
        }
        let file: PathBuf = self.file.parent().unwrap_or(Path::new("")).join(path);
        let text = load(&file).map_err(|what| match what {
            Problem::Unreadable(why) => place.error(Problem::Include(printable(path), why)),
            other => place.error(other),
        })?;
        Source::new(self.apex, zonefile, &file, self.ttl, self.depth + 1).read(&text, out)
    }

    /// The entry as one line in the form that the library reads, and what it is, for messages.
    fn canonical(&mut self, entry: &Entry<'_>) -> Result<(Vec<u8>, String), Problem> {
        match entry.tokens.first() {
            Some(first) if !entry.indented && first.text.starts_with(b"$") => self.directive(&entry.tokens),
            _ => self.record_line(entry),
        }
    }

    fn directive(&mut self, tokens: &[Token<'_>]) -> Result<(Vec<u8>, String), Problem> {
        let (name, arguments) = tokens.split_first().ok_or(Problem::NotADirective(String::new()))?;
        let what = name.shown().to_ascii_uppercase();
        let counts = match what.as_str() {
            "$TTL" | "$ORIGIN" => 1..=1,
            "$INCLUDE" => 1..=2,
            _ => return Err(Problem::NotADirective(name.shown())),
        };
        if !counts.contains(&arguments.len()) {
            return Err(Problem::Syntax(format!("{what} with {} arguments", arguments.len())));
        }
        let mut line = what.clone().into_bytes();
        for (i, token) in arguments.iter().enumerate() {
            line.push(b' ');
            if what == "$TTL" {
                let ttl = ttl(token)?;
                self.ttl = Some(ttl);
                line.extend_from_slice(ttl.to_string().as_bytes());
                continue;
            }
            if what == "$ORIGIN" || i == 1 {
                no_empty_label(token)?;
            }
            line.extend_from_slice(token.text);
        }
        line.push(b'\n');
        Ok((line, what))
    }

    /// `[owner] [ttl] [class] type data...` with class dropped, TTLs in seconds and `@` in names written out.
    fn record_line(&self, entry: &Entry<'_>) -> Result<(Vec<u8>, String), Problem> {
        let mut tokens = entry.tokens.iter();
        let mut line = Vec::new();
        if !entry.indented
            && let Some(owner) = tokens.next()
        {
            no_empty_label(owner)?;
            line.extend_from_slice(owner.text);
        }
        let (mut has_ttl, mut has_class) = (false, false);
        let rtype = loop {
            let token = tokens.next().ok_or(Problem::Syntax("record without a type".into()))?;
            let text = token.shown();
            if !has_ttl && text.starts_with(|c: char| c.is_ascii_digit()) {
                has_ttl = true;
                line.extend_from_slice(format!(" {}", ttl(token)?).as_bytes());
            } else if let Ok(rtype) = Rtype::from_str(&text) {
                break rtype;
            } else if let (false, Ok(class)) = (has_class, Class::from_str(&text)) {
                has_class = true;
                if class != Class::IN {
                    return Err(Problem::Class(text));
                }
            } else {
                return Err(Problem::Type(text));
            }
        };
        // RFC 6895 3.1: these types are questions or parts of messages, never data.
        if matches!(rtype.to_int(), 0 | rtype::OPT | 128..=255) {
            return Err(Problem::MetaType(rtype.to_string()));
        }
        line.extend_from_slice(format!(" {rtype}").as_bytes());
        for (i, token) in tokens.enumerate() {
            if !token.glued || i == 0 {
                line.push(b' ');
            }
            self.datum(rtype.to_int(), i, token, &mut line)?;
        }
        line.push(b'\n');
        Ok((line, rtype.to_string()))
    }

    /// Appends the `i`th token of the data of a record.
    fn datum(&self, rtype: u16, i: usize, token: &Token<'_>, line: &mut Vec<u8>) -> Result<(), Problem> {
        let has_names = layout(rtype).is_some() || matches!(rtype, rtype::NAPTR | rtype::RRSIG | rtype::NSEC);
        if has_names && !token.is_quoted() {
            no_empty_label(token)?;
        }
        if has_names && token.text == b"@" {
            let origin = self.zonefile.origin().map_err(|e| Problem::Syntax(e.to_string()))?;
            line.extend_from_slice(origin.fmt_with_dot().to_string().as_bytes());
        } else if rtype == rtype::SOA && (3..=6).contains(&i) {
            line.extend_from_slice(ttl(token)?.to_string().as_bytes());
        } else {
            line.extend_from_slice(token.text);
        }
        Ok(())
    }

    /// A record in wire form, checked as far as it can be on its own.
    fn record(&self, record: &ScannedRecord) -> Result<Record, Problem> {
        let mut owner = Vec::new();
        // Writing to a vector cannot fail.
        let _ = record.owner().compose(&mut owner);
        let name = Name::parse(&owner, 0).filter(|(_, end)| *end == owner.len()).map(|(name, _)| name);
        let name = name.ok_or(Problem::Syntax("bad owner name".into()))?;
        let inside = (0..=name.labels()).any(|n| name.without(n) == self.apex);
        if !inside {
            return Err(Problem::OutsideZone(shown(name.wire()), shown(self.apex)));
        }
        let rtype = record.data().rtype().to_int();
        let mut rdata = Vec::new();
        let _ = record.data().compose_rdata(&mut rdata);
        if rdata.len() > usize::from(u16::MAX) || !is_well_formed(rtype, &rdata) {
            return Err(Problem::Syntax(format!("{}: malformed data", record.data().rtype())));
        }
        Ok(Record { owner: name.wire().to_vec(), rtype, ttl: record.ttl().as_secs(), rdata })
    }
}

/// A name in wire form as a person writes it.
pub(super) fn shown(name: &[u8]) -> String {
    domain::base::Name::from_octets(name).map_or_else(|_| "?".into(), |name| name.fmt_with_dot().to_string())
}

/// The library's message; its position is one in the canonical lines and means nothing to anyone.
fn without_position(error: &inplace::Error) -> String {
    let text = error.to_string();
    printable(text.splitn(3, ':').nth(2).unwrap_or(&text).trim())
}

/// A number of seconds, or numbers with the units of BIND: `1w2d3h4m5s`.
fn ttl(token: &Token<'_>) -> Result<u32, Problem> {
    let bad = || Problem::Ttl(token.shown());
    let (mut total, mut number, mut has_number) = (0_u32, 0_u32, false);
    for octet in token.text {
        if octet.is_ascii_digit() {
            let digit = u32::from(octet - b'0');
            number = number.checked_mul(10).and_then(|n| n.checked_add(digit)).ok_or_else(bad)?;
            has_number = true;
            continue;
        }
        let unit = match octet.to_ascii_lowercase() {
            b's' => 1,
            b'm' => 60,
            b'h' => 3_600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return Err(bad()),
        };
        if !has_number {
            return Err(bad());
        }
        total = number.checked_mul(unit).and_then(|n| n.checked_add(total)).ok_or_else(bad)?;
        (number, has_number) = (0, false);
    }
    let sum = total.checked_add(number).filter(|sum| *sum <= TTL_MAX).ok_or_else(bad)?;
    // Nothing at all is no TTL; digits behind the last unit (`1h30`) are seconds.
    if token.text.is_empty() { Err(bad()) } else { Ok(sum) }
}

/// The library lets an empty label inside a name pass, which would end the name there.
fn no_empty_label(token: &Token<'_>) -> Result<(), Problem> {
    let (mut previous, mut escaped) = (b'.', false);
    for &octet in token.text {
        if octet == b'.' && previous == b'.' && !escaped && token.text.len() > 1 {
            return Err(Problem::EmptyLabel(token.shown()));
        }
        // What an escape leaves behind is part of a label, whatever it is.
        (previous, escaped) = match (escaped, octet) {
            (false, b'\\') => (b'x', true),
            (true, _) => (b'x', false),
            (false, octet) => (octet, false),
        };
    }
    Ok(())
}

/// The contents of a file.
fn load(file: &Path) -> Result<Vec<u8>, Problem> {
    let unreadable = |error: std::io::Error| Problem::Unreadable(error.to_string());
    textfile::read(file, FILE_MAX).map_err(unreadable)
}
