//! Every way a zone can be wrong has its line, and what is unusual but right is read.

use hickory_proto::rr::RecordType;

use super::{Dir, UDP, ask, line, query, zone};
use crate::dns::ZoneSpec;

const HEAD: &str = "$TTL 60\n@ SOA ns host 1 2 3 4 5\n@ NS ns\n";

#[test]
fn every_rejected_file_names_its_line() {
    #[rustfmt::skip]
    let cases: &[(&str, &str)] = &[
        ("www A 1.2.3\n", "z:4: A: "),
        ("www A\n", "z:4: A: unexpected end of entry"),
        ("www A 192.0.2.1 extra\n", "z:4: A: trailing tokens"),
        ("www\n", "z:4: record without a type"),
        ("www MX ten mail\n", "z:4: MX: "),
        ("\n\nwww TXT (\n \"a\"\n \"b\n", "z:8: \" is not closed"),
        ("a A 192.0.2.1\nwww TXT ( a b\nc\n", "z:5: ( is not closed"),
        ("www TXT a )\n", "z:4: ) without ("),
        ("www TXT a\\\n", "z:4: nothing follows the backslash"),
        ("a..b A 192.0.2.1\n", "z:4: empty label in a..b"),
        ("a CNAME b..c\n", "z:4: empty label in b..c"),
        ("www BOGUS x\n", "z:4: unknown record type BOGUS; write TYPEnnn \\# LENGTH HEX for one without a name"),
        ("www 5x A 192.0.2.1\n", "z:4: 5x is not a time in seconds below 2^31, nor one like 1h30m"),
        ("www 2147483648 A 192.0.2.1\n", "z:4: 2147483648 is not a time in seconds below 2^31, nor one like 1h30m"),
        ("www CH TXT x\n", "z:4: class CH: only IN is served"),
        ("www CLASS32 TXT x\n", "z:4: class CLASS32: only IN is served"),
        ("www ANY \\# 0\n", "z:4: ANY records cannot be in a zone"),
        ("www A \\# 3 010203\n", "z:4: A: malformed data"),
        ("www NS \\# 2 C00C\n", "z:4: NS: malformed data"),
        ("www.example.net. A 192.0.2.1\n", "z:4: www.example.net. is outside the zone test."),
        ("$ORIGIN net.\nwww A 192.0.2.1\n", "z:5: www.net. is outside the zone test."),
        ("nottest. A 192.0.2.1\n", "z:4: nottest. is outside the zone test."),
        ("\n@ SOA a b 1 2 3 4 6\n", "z:5: second SOA record; the first is in line 2"),
        ("sub SOA a b 1 2 3 4 5\n", "z:4: SOA record of sub.test. below the top of the zone test."),
        ("a CNAME b\nb A 192.0.2.1\na TXT x\n", "z:6: a.test. has a CNAME and other data (line 4)"),
        ("a TXT x\na CNAME b\n", "z:5: a.test. has a CNAME and other data (line 4)"),
        ("@ CNAME b\n", "z:4: test. has a CNAME and other data (line 2)"),
        ("a CNAME b\na CNAME c\n", "z:5: a.test. has a second CNAME; the first is in line 4"),
        ("a DNAME b\n", "z:4: DNAME records are not supported"),
        ("*.a NS b\n", "z:4: NS records are not supported at a wildcard"),
        ("$GENERATE 1-9 a$ A 192.0.2.$\n", "z:4: unknown directive $GENERATE; known are $ORIGIN, $TTL and $INCLUDE"),
        ("$TTL\n", "z:4: $TTL with 0 arguments"),
        ("$TTL soon\n", "z:4: soon is not a time in seconds below 2^31, nor one like 1h30m"),
        ("$ORIGIN a b\n", "z:4: $ORIGIN with 2 arguments"),
        ("$INCLUDE none\n", "z:4: cannot read the included file none: No such file or directory (os error 2)"),
        ("$INCLUDE z\n", "z:4: $INCLUDE nested deeper than 8 files"),
        ("a\n$INCLUDE bad\n", "z:4: record without a type"),
        ("$INCLUDE bad\n", "bad:2: unknown record type WHAT; write TYPEnnn \\# LENGTH HEX for one without a name"),
        ("$INCLUDE indented\n", "indented:1: A: missing last owner"),
    ];
    for (text, expected) in cases {
        let dir = Dir::new(&[
            ("z", &format!("{HEAD}{text}")),
            ("bad", "a A 192.0.2.1\nb WHAT 1\n"),
            ("indented", " A 192.0.2.1\n"),
        ]);
        let error = dir.error(&["test=z"]);
        // What the library says about data may change; what we say may not.
        let exact = if expected.ends_with(": ") { error.get(..expected.len()) } else { Some(error.as_str()) };
        assert_eq!(exact, Some(*expected), "{text:?} gave {error}");
        assert!(!error.contains('\n'));
    }
}

#[test]
fn files_that_are_wrong_as_a_whole_are_named() {
    let dir = Dir::new(&[("z", HEAD), ("empty", ""), ("nosoa", "$TTL 1\n@ NS ns\n")]);
    assert_eq!(dir.error(&["test=empty"]), "empty: no SOA record for test.");
    assert_eq!(dir.error(&["test=nosoa"]), "nosoa: no SOA record for test.");
    assert_eq!(dir.error(&["test=none"]), "none: cannot read: No such file or directory (os error 2)");
    assert_eq!(dir.error(&["test=z", "TEST.=z"]), "z: the zone test. is given twice");
    let mut large = String::from(HEAD);
    for i in 0..700 {
        large += &format!("a TXT {i:0>100}\n");
    }
    dir.write("large", large.as_bytes());
    let error = dir.error(&["test=large"]);
    assert!(
        error.starts_with("large:")
            && error.ends_with(": the TXT records of a.test. do not fit a DNS message")
    );
    dir.write("latin1", b"$TTL 1\n@ SOA ns h 1 1 1 1 1\n\na\xe9 A 192.0.2.1\n");
    let error = dir.error(&["test=latin1"]);
    assert!(error.starts_with("latin1:4: A: "), "{error}");
}

#[test]
fn spec_is_origin_and_file() {
    let error = |text: &str| text.parse::<ZoneSpec>().unwrap_err().to_string();
    let tail = "; expected ORIGIN=FILE, as in example.org=example.org.zone";
    assert_eq!(error("example.org"), format!("zone \"example.org\": there is no '='{tail}"));
    assert_eq!(error("=f"), format!("zone \"=f\": the zone's name is empty (the root zone is '.'){tail}"));
    assert_eq!(error("a="), format!("zone \"a=\": the file's name is empty{tail}"));
    for bad in ["a..b=f", &format!("{}=f", "a".repeat(64)), "\u{e9}=f"] {
        assert_eq!(error(bad), format!("zone {bad:?}: the zone's name is not a domain name{tail}"));
    }
    let spec: ZoneSpec = "Example.ORG=dir/a=b.zone".parse().unwrap();
    assert_eq!((spec.origin().as_str(), spec.file().to_str()), ("example.org.", Some("dir/a=b.zone")));
    assert_eq!(".=f".parse::<ZoneSpec>().unwrap().origin(), ".");
}

/// The lines of the answer to `name`.
fn answers(zones: &crate::dns::Zones, name: &str, rtype: RecordType) -> Vec<String> {
    ask(zones, &query(name, rtype, None), UDP).answers.iter().map(line).collect()
}

#[test]
fn includes_are_relative_to_their_file_and_leave_the_origin_alone() {
    let dir = Dir::new(&[("z", HEAD)]);
    std::fs::create_dir(dir.0.join("d")).unwrap();
    dir.write("z", format!("{HEAD}$INCLUDE d/one sub\nwww A 192.0.2.1\n").as_bytes());
    dir.write("d/one", b"www A 192.0.2.2\n$INCLUDE two\n$ORIGIN else.test.\n$TTL 5\n@ A 192.0.2.4\n");
    dir.write("d/two", b"@ A 192.0.2.3\n");
    let zones = dir.load(&["test=z"]).unwrap();
    assert_eq!(answers(&zones, "www.sub.test.", RecordType::A), ["www.sub.test. 60 A 192.0.2.2"]);
    assert_eq!(answers(&zones, "sub.test.", RecordType::A), ["sub.test. 60 A 192.0.2.3"]);
    assert_eq!(answers(&zones, "else.test.", RecordType::A), ["else.test. 5 A 192.0.2.4"]);
    assert_eq!(answers(&zones, "www.test.", RecordType::A), ["www.test. 60 A 192.0.2.1"]);
}

#[test]
fn origin_sign_units_classes_and_duplicates_are_understood() {
    let zones = zone(
        "test",
        "\u{feff}@\tIN\tSOA ns host 1 1w1d 1h30m 30 1D\r\n  IN 5m NS @\r\n\r\n\
         a 1h in a 192.0.2.1\r\na IN 30m A 192.0.2.1\r\na A 192.0.2.2\nt TXT @ ( \"x\" ; c\n \"y\" )\nlast A 192.0.2.9",
    );
    assert_eq!(answers(&zones, "test.", RecordType::NS), ["test. 300 NS test."]);
    assert_eq!(
        answers(&zones, "test.", RecordType::SOA),
        ["test. 3600 SOA ns.test. host.test. 1 691200 5400 30 86400"]
    );
    // RFC 2181 5.2: one RRset, one TTL.
    assert_eq!(
        answers(&zones, "a.test.", RecordType::A),
        ["a.test. 1800 A 192.0.2.1", "a.test. 1800 A 192.0.2.2"]
    );
    assert_eq!(answers(&zones, "t.test.", RecordType::TXT), ["t.test. 1800 TXT @|x|y|"]);
    assert_eq!(answers(&zones, "last.test.", RecordType::A), ["last.test. 1800 A 192.0.2.9"]);
}
