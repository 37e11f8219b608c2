//! The whole path, from a master file to an answer that other libraries read.

mod model;
mod robust;
mod scenarios;
mod serve;
mod zonefiles;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::{Transport, ZoneError, ZoneSpec, Zones};

pub(super) const KEY: [u64; 2] = [1, 2];
pub(super) const UDP: Transport = Transport::Udp { max: 1232 };

/// A directory of zone files that goes away with the value.
pub(super) struct Dir(PathBuf);

impl Dir {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = Self(std::env::temp_dir().join(format!("nty-dns-{}-{n}", std::process::id())));
        std::fs::create_dir_all(&dir.0).unwrap();
        for (name, text) in files {
            dir.write(name, text.as_bytes());
        }
        dir
    }

    pub(super) fn write(&self, name: &str, text: &[u8]) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    /// Loads `ORIGIN=FILE` pairs with files of this directory.
    pub(super) fn load(&self, zones: &[&str]) -> Result<Zones, ZoneError> {
        let spec = |text: &&str| {
            let (origin, file) = text.split_once('=').unwrap();
            format!("{origin}={}", self.0.join(file).display()).parse::<ZoneSpec>()
        };
        let specs = zones.iter().map(spec).collect::<Result<Vec<_>, _>>()?;
        Zones::load(&specs, KEY)
    }

    /// An error's text with this directory taken out.
    pub(super) fn error(&self, zones: &[&str]) -> String {
        let text = self.load(zones).unwrap_err().to_string();
        text.replace(&format!("{}/", self.0.display()), "")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One zone from text.
pub(super) fn zone(origin: &str, text: &str) -> Zones {
    Dir::new(&[("z", text)]).load(&[&format!("{origin}=z")]).unwrap()
}

/// The sample zone.
pub(super) fn example() -> Zones {
    zone("example.test", include_str!("../example.zone"))
}

/// A query, with an OPT record if `payload` is given.
pub(super) fn query(name: &str, rtype: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 0x1234;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

/// The octets of the answer to `request`.
pub(super) fn raw(zones: &Zones, request: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let mut frame = vec![0xAA; 65_535.max(request.len())];
    frame[..request.len()].copy_from_slice(request);
    let len = zones.answer(&mut frame, request.len(), transport)?;
    frame.truncate(len);
    Some(frame)
}

/// The decoded answer to `request`.
pub(super) fn ask(zones: &Zones, request: &[u8], transport: Transport) -> Message {
    Message::from_vec(&raw(zones, request, transport).unwrap()).unwrap()
}

/// A record as one line: `owner ttl type data`.
pub(super) fn line(record: &Record) -> String {
    let data = match &record.data {
        RData::TXT(txt) => {
            txt.txt_data.iter().map(|t| String::from_utf8_lossy(t).into_owned() + "|").collect()
        }
        data => data.to_string(),
    };
    format!("{} {} {} {data}", record.name, record.ttl, record.record_type())
}
