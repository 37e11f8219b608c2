//! No octets harm: neither requests nor zone files. What comes out is read by a second library.

use std::sync::LazyLock;

use domain::base::rdata::ComposeRecordData as _;
use domain::base::{Message, ParsedName, Rtype, ToName as _};
use domain::rdata::AllRecordData;
use hickory_proto::rr::RecordType;
use proptest::prelude::*;

use super::{Dir, KEY, UDP, example, query, raw};
use crate::dns::{Transport, Zones, master, wire::Name};

static EXAMPLE: LazyLock<Zones> = LazyLock::new(example);

/// Owner (lower-cased wire form), type, TTL and uncompressed data of a record.
type Plain = (Vec<u8>, u16, u32, Vec<u8>);

/// Every record of a message but OPT, by section; fails when any part cannot be read.
fn records(octets: &[u8]) -> Result<[Vec<Plain>; 3], domain::base::wire::ParseError> {
    let message = Message::from_octets(octets).map_err(|_| domain::base::wire::ParseError::ShortInput)?;
    for question in message.question() {
        question?;
    }
    let (_, answer, authority, additional) = message.sections()?;
    let mut sections = [const { Vec::new() }; 3];
    for (to, section) in sections.iter_mut().zip([answer, authority, additional]) {
        for record in section {
            let record = record?;
            let Some(record) = record.to_record::<AllRecordData<_, ParsedName<_>>>()? else { continue };
            if record.rtype() == Rtype::OPT {
                continue;
            }
            let mut rdata = Vec::new();
            let _ = record.data().compose_rdata(&mut rdata);
            let owner = record.owner().to_vec().as_slice().to_ascii_lowercase();
            to.push((owner, record.rtype().to_int(), record.ttl().as_secs(), rdata));
        }
    }
    Ok(sections)
}

#[test]
fn every_rrset_comes_back_as_the_file_has_it() {
    let dir = Dir::new(&[("z", include_str!("../example.zone"))]);
    let origin = b"\x07example\x04test\x00";
    let zone = master::read(origin, &dir.0.join("z")).unwrap();
    let plain: Vec<Plain> =
        zone.records.iter().map(|r| (r.owner.clone(), r.rtype, r.ttl, r.rdata.clone())).collect();
    assert!(plain.len() > 40);
    let cuts = [&b"\x03sub\x07example\x04test\x00"[..], b"\x03far\x07example\x04test\x00"];
    for (owner, rtype, ..) in &plain {
        let is_cut = |name: &[u8]| cuts.contains(&name);
        let (name, _) = Name::parse(owner, 0).unwrap();
        let below_cut = (0..name.labels()).any(|n| is_cut(name.without(n))) && *rtype != 43;
        let mut request = vec![0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        request.extend_from_slice(owner);
        request.extend_from_slice(&rtype.to_be_bytes());
        request.extend_from_slice(&[0, 1]);
        let [answer, authority, _] = records(&raw(&EXAMPLE, &request, Transport::Tcp).unwrap()).unwrap();
        let got = if below_cut { authority } else { answer };
        // Below a cut the delegation answers, whatever was asked for.
        let (owner, rtype) = match (0..name.labels()).map(|n| name.without(n)).find(|name| is_cut(name)) {
            Some(cut) if below_cut => (cut.to_vec(), 2),
            _ => (owner.clone(), *rtype),
        };
        let expected: Vec<Plain> = plain.iter().filter(|r| r.0 == owner && r.1 == rtype).cloned().collect();
        let fold = |records: Vec<Plain>| {
            // The end of a name in the data takes its spelling from the question.
            let lower = |(o, t, ttl, d): Plain| (o, t, ttl, if t == 16 { d } else { d.to_ascii_lowercase() });
            records.into_iter().map(lower).collect::<Vec<_>>()
        };
        assert_eq!(fold(got), fold(expected));
    }
}

/// A query for a name made of labels that the sample zone has, or does not.
fn valid_queries() -> impl Strategy<Value = Vec<u8>> {
    let label = proptest::sample::select(vec![
        "example", "test", "www", "Alias", "alias2", "loop1", "wild", "hidden", "sub", "ns", "*", "_tcp",
        "x", "far", "cwild", "home", "mail", "opaque", "svc",
    ]);
    let types =
        proptest::sample::select(vec![1_u16, 2, 5, 6, 12, 15, 16, 28, 33, 43, 65, 257, 255, 65_280, 99]);
    (proptest::collection::vec(label, 0..8), types, proptest::option::of(0..5_000_u16)).prop_map(
        |(labels, rtype, payload)| {
            let name: String = labels.iter().map(|label| format!("{label}.")).collect();
            query(&format!("{name}example.test."), RecordType::from(rtype), payload)
        },
    )
}

/// The answer fits and can be read, and belongs to the request.
fn check(request: &[u8], transport: Transport, limit: usize) -> Result<(), TestCaseError> {
    let Some(reply) = raw(&EXAMPLE, request, transport) else {
        prop_assert!(request.len() < 12 || request[2] & 0x80 != 0);
        return Ok(());
    };
    prop_assert!((12..=limit).contains(&reply.len()), "{} octets", reply.len());
    prop_assert_eq!(&reply[..2], &request[..2]);
    prop_assert_eq!(reply[2] & 0xF9, 0x80 | request[2] & 0x79, "QR, opcode and RD");
    prop_assert_eq!(reply[3] & 0xF0, 0, "RA, Z, AD and CD");
    prop_assert!(records(&reply).is_ok(), "{:?}", reply);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_octets_are_survived(octets in proptest::collection::vec(any::<u8>(), 0..700)) {
        check(&octets, UDP, 1232)?;
        check(&octets, Transport::Tcp, 65_535)?;
    }

    #[test]
    fn any_octets_behind_a_query_header_are_survived(
        counts in [0..3_u8, 0..3_u8, 0..3_u8, 0..3_u8],
        octets in proptest::collection::vec(prop_oneof![0..4_u8, any::<u8>()], 0..200),
    ) {
        let [qd, an, ns, ar] = counts;
        let request = [&[1, 2, 1, 0, 0, qd, 0, an, 0, ns, 0, ar][..], &octets].concat();
        check(&request, UDP, 1232)?;
    }

    #[test]
    fn valid_queries_give_answers_that_parse(request in valid_queries(), max in 0..3_000_usize) {
        check(&request, Transport::Udp { max }, max.clamp(512, 1232))?;
        check(&request, Transport::Tcp, 65_535)?;
    }

    #[test]
    fn damaged_queries_are_survived(
        mut request in valid_queries(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<proptest::sample::Index>(),
    ) {
        for (at, octet) in damage {
            let at = at.index(request.len());
            request[at] = octet;
        }
        check(&request, UDP, 1232)?;
        request.truncate(cut.index(request.len()));
        check(&request, UDP, 1232)?;
    }
}

/// Text that looks enough like a zone file to get far.
fn zone_texts() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => proptest::sample::select(vec![
            "a", "*", "@", "\n", "\n", "\n", " ", "\t", "(", ")", "\"", "\"\"", ";", "\\", "\\065", "\\.", ".", "..",
            "$ORIGIN", "$TTL", "$INCLUDE", "IN", "CH", "A", "AAAA", "NS", "SOA", "CNAME", "MX", "TXT", "SRV", "CAA",
            "TYPE99", "\\#", "1", "1h", "192.0.2.1", "::1", "ns", "issue", "HTTPS", "alpn=", "key1=", "DS", "NSEC",
            "NAPTR", "RRSIG", "\r\n", "4", "AB==", "2001:db8::1", "test.", "LOC", "NSEC3", "TLSA", "SSHFP", "OPENPGPKEY",
        ]).prop_map(|word| word.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 1..3),
        1 => Just(b"a".repeat(70)),
        1 => Just(b"a.".repeat(130)),
    ];
    let glue = proptest::sample::select(vec![&b" "[..], b" ", b" ", b""]);
    proptest::collection::vec((piece, glue), 0..40)
        .prop_map(|pieces| pieces.into_iter().flat_map(|(piece, glue)| [&piece, glue].concat()).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_zone_file_is_read_or_refused_in_one_line(text in zone_texts()) {
        let dir = Dir::new(&[("a", "b TXT x\n")]);
        let head = b"$TTL 1\n@ SOA ns h 1 1 1 1 1\n";
        dir.write("z", &[&head[..], &text].concat());
        match dir.load(&["test=z"]) {
            Ok(zones) => prop_assert_eq!(zones.zone_count(), 1),
            Err(error) => {
                let shown = error.to_string();
                prop_assert!(!shown.chars().any(|c| c.is_control()), "{shown:?}");
            }
        }
    }
}

#[test]
fn two_keys_give_the_same_answers() {
    let dir = Dir::new(&[("z", include_str!("../example.zone"))]);
    let spec = format!("example.test={}", dir.0.join("z").display()).parse().unwrap();
    let other = Zones::load(&[spec], [!KEY[0], !KEY[1]]).unwrap();
    for name in ["www.example.test.", "x.wild.example.test.", "a.b.c.example.test.", "x.sub.example.test."] {
        let request = query(name, RecordType::A, None);
        assert_eq!(raw(&other, &request, UDP), raw(&EXAMPLE, &request, UDP));
    }
}
