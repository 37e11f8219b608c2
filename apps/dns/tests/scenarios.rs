//! A question to the sample zone, and all that must be in its answer.

use hickory_proto::op::{MessageType, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use super::{Dir, UDP, ask, example, line, query, raw, zone};
use crate::dns::{ANSWER_MAX, Transport, answer_stream};

const SOA: &str =
    "example.test. 300 SOA ns1.example.test. hostmaster.example.test. 2026010101 7200 900 1209600 300";

/// Name, type, response code with `aa`, and the lines of answer, authority and additional section.
type Scenario<'a> = (&'a str, u16, &'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str]);

#[rustfmt::skip]
const SCENARIOS: &[Scenario<'_>] = &[
    // Data.
    ("example.test.", 1, "NoError aa", &["example.test. 3600 A 192.0.2.1"], &[], &[]),
    ("example.test.", 28, "NoError aa", &["example.test. 3600 AAAA 2001:db8::1"], &[], &[]),
    ("www.example.test.", 1, "NoError aa",
        &["www.example.test. 3600 A 192.0.2.80", "www.example.test. 3600 A 192.0.2.81"], &[], &[]),
    ("mail.example.test.", 1, "NoError aa", &["mail.example.test. 300 A 192.0.2.25"], &[], &[]),
    ("example.test.", 16, "NoError aa", &["example.test. 3600 TXT v=spf1 mx -all|"], &[], &[]),
    ("quoted.example.test.", 16, "NoError aa",
        &["quoted.example.test. 3600 TXT semi;colon|quo\"te|back\\slash|ABC|"], &[], &[]),
    ("1.2.0.192.rev.example.test.", 12, "NoError aa",
        &["1.2.0.192.rev.example.test. 3600 PTR www.example.test."], &[], &[]),
    ("example.test.", 257, "NoError aa", &["example.test. 3600 CAA 0 issue \"ca.example.net\""], &[], &[]),
    ("dotted\\.label.example.test.", 1, "NoError aa", &["dotted\\.label.example.test. 3600 A 192.0.2.77"], &[], &[]),
    // The SOA itself has its own TTL, the one in negative answers the lesser.
    ("example.test.", 6, "NoError aa",
        &["example.test. 3600 SOA ns1.example.test. hostmaster.example.test. 2026010101 7200 900 1209600 300"], &[], &[]),
    // Hosts in the data bring their addresses.
    ("example.test.", 2, "NoError aa",
        &["example.test. 3600 NS ns1.example.test.", "example.test. 3600 NS ns2.example.test."], &[],
        &["ns1.example.test. 3600 A 192.0.2.53", "ns1.example.test. 3600 AAAA 2001:db8::53",
          "ns2.example.test. 3600 A 192.0.2.54"]),
    ("example.test.", 15, "NoError aa",
        &["example.test. 3600 MX 10 mail.example.test.", "example.test. 3600 MX 20 mail.example.net."], &[],
        &["mail.example.test. 300 A 192.0.2.25"]),
    ("_http._tcp.example.test.", 33, "NoError aa",
        &["_http._tcp.example.test. 3600 SRV 0 5 80 www.example.test."], &[],
        &["www.example.test. 3600 A 192.0.2.80", "www.example.test. 3600 A 192.0.2.81"]),
    // Nothing.
    ("www.example.test.", 28, "NoError aa", &[], &[SOA], &[]),
    ("nope.example.test.", 1, "NXDomain aa", &[], &[SOA], &[]),
    ("a.b.c.d.nope.example.test.", 1, "NXDomain aa", &[], &[SOA], &[]),
    ("www.www.example.test.", 1, "NXDomain aa", &[], &[SOA], &[]),
    // RFC 4592 2.2.2: empty non-terminals exist.
    ("_tcp.example.test.", 1, "NoError aa", &[], &[SOA], &[]),
    ("0.192.rev.example.test.", 12, "NoError aa", &[], &[SOA], &[]),
    // Chains.
    ("alias2.example.test.", 1, "NoError aa",
        &["alias2.example.test. 3600 CNAME alias.example.test.", "alias.example.test. 3600 CNAME www.example.test.",
          "www.example.test. 3600 A 192.0.2.80", "www.example.test. 3600 A 192.0.2.81"], &[], &[]),
    ("alias.example.test.", 5, "NoError aa", &["alias.example.test. 3600 CNAME www.example.test."], &[], &[]),
    ("alias.example.test.", 28, "NoError aa",
        &["alias.example.test. 3600 CNAME www.example.test."], &[SOA], &[]),
    ("star.example.test.", 1, "NoError aa",
        &["star.example.test. 3600 CNAME host7.wild.example.test.", "host7.wild.example.test. 3600 A 192.0.2.99"],
        &[], &[]),
    ("away.example.test.", 1, "NoError aa", &["away.example.test. 3600 CNAME www.example.net."], &[], &[]),
    ("broken.example.test.", 1, "NXDomain aa",
        &["broken.example.test. 3600 CNAME nowhere.example.test."], &[SOA], &[]),
    ("loop1.example.test.", 1, "NoError aa",
        &["loop1.example.test. 3600 CNAME loop2.example.test.", "loop2.example.test. 3600 CNAME loop1.example.test."],
        &[], &[]),
    ("home.example.test.", 1, "NoError aa",
        &["home.example.test. 3600 CNAME example.test.", "example.test. 3600 A 192.0.2.1"], &[], &[]),
    ("home.example.test.", 33, "NoError aa", &["home.example.test. 3600 CNAME example.test."], &[SOA], &[]),
    // Wildcards.
    ("x.wild.example.test.", 1, "NoError aa", &["x.wild.example.test. 3600 A 192.0.2.99"], &[], &[]),
    ("x.y.z.wild.example.test.", 16, "NoError aa", &["x.y.z.wild.example.test. 3600 TXT any name|"], &[], &[]),
    ("x.wild.example.test.", 15, "NoError aa", &["x.wild.example.test. 3600 MX 10 mail.example.test."], &[],
        &["mail.example.test. 300 A 192.0.2.25"]),
    ("x.wild.example.test.", 28, "NoError aa", &[], &[SOA], &[]),
    ("*.wild.example.test.", 1, "NoError aa", &["*.wild.example.test. 3600 A 192.0.2.99"], &[], &[]),
    ("exact.wild.example.test.", 16, "NoError aa", &[], &[SOA], &[]),
    ("x.exact.wild.example.test.", 1, "NXDomain aa", &[], &[SOA], &[]),
    ("hidden.wild.example.test.", 1, "NoError aa", &[], &[SOA], &[]),
    ("x.hidden.wild.example.test.", 1, "NXDomain aa", &[], &[SOA], &[]),
    ("wild.example.test.", 1, "NoError aa", &[], &[SOA], &[]),
    ("x.cwild.example.test.", 1, "NoError aa",
        &["x.cwild.example.test. 3600 CNAME www.example.test.",
          "www.example.test. 3600 A 192.0.2.80", "www.example.test. 3600 A 192.0.2.81"], &[], &[]),
    // Referrals, with the addresses below the cut and of our own name server.
    ("x.sub.example.test.", 1, "NoError", &[],
        &["sub.example.test. 3600 NS ns.sub.example.test.", "sub.example.test. 3600 NS ns1.example.test."],
        &["ns.sub.example.test. 3600 A 192.0.2.153", "ns.sub.example.test. 3600 AAAA 2001:db8::153",
          "ns1.example.test. 3600 A 192.0.2.53", "ns1.example.test. 3600 AAAA 2001:db8::53"]),
    ("ns.sub.example.test.", 1, "NoError", &[],
        &["sub.example.test. 3600 NS ns.sub.example.test.", "sub.example.test. 3600 NS ns1.example.test."],
        &["ns.sub.example.test. 3600 A 192.0.2.153", "ns.sub.example.test. 3600 AAAA 2001:db8::153",
          "ns1.example.test. 3600 A 192.0.2.53", "ns1.example.test. 3600 AAAA 2001:db8::53"]),
    ("far.example.test.", 2, "NoError", &[], &["far.example.test. 3600 NS ns.example.net."], &[]),
    ("a.b.far.example.test.", 255, "NoError", &[], &["far.example.test. 3600 NS ns.example.net."], &[]),
    // RFC 4035 3.1.4.1: DS is on our side of the cut.
    ("far.example.test.", 43, "NoError aa", &[], &[SOA], &[]),
    // Not ours.
    ("example.net.", 1, "Refused", &[], &[], &[]),
    ("test.", 1, "Refused", &[], &[], &[]),
    (".", 2, "Refused", &[], &[], &[]),
    ("example.test.", 252, "Refused", &[], &[], &[]),
    ("example.test.", 251, "Refused", &[], &[], &[]),
    // RFC 8482 4.1: one RRset, the smallest.
    ("www.example.test.", 255, "NoError aa",
        &["www.example.test. 3600 A 192.0.2.80", "www.example.test. 3600 A 192.0.2.81"], &[], &[]),
    ("ns1.example.test.", 255, "NoError aa", &["ns1.example.test. 3600 A 192.0.2.53"], &[], &[]),
    ("alias.example.test.", 255, "NoError aa", &["alias.example.test. 3600 CNAME www.example.test."], &[], &[]),
    ("_tcp.example.test.", 255, "NoError aa", &[], &[SOA], &[]),
];

#[test]
fn every_scenario_is_answered_exactly() {
    let zones = example();
    for &(name, rtype, rcode, answer, authority, additional) in SCENARIOS {
        for (payload, transport) in [(None, UDP), (Some(1232), UDP), (Some(512), Transport::Tcp)] {
            let request = query(name, RecordType::from(rtype), payload);
            let reply = ask(&zones, &request, transport);
            let what = format!("{name} {rtype} {payload:?}");
            let meta = &reply.metadata;
            let aa = if meta.authoritative { " aa" } else { "" };
            assert_eq!(format!("{:?}{aa}", meta.response_code), rcode, "{what}");
            let lines = |records: &[_]| records.iter().map(line).collect::<Vec<_>>();
            assert_eq!(lines(&reply.answers), answer, "answer of {what}");
            assert_eq!(lines(&reply.authorities), authority, "authority of {what}");
            assert_eq!(lines(&reply.additionals), additional, "additional of {what}");
            assert_eq!(meta.id, 0x1234);
            assert_eq!(meta.message_type, MessageType::Response);
            assert!(meta.recursion_desired && !meta.recursion_available && !meta.truncation, "{what}");
            assert_eq!(reply.queries[0].name().to_string(), name);
            assert_eq!(reply.edns.as_ref().map(|e| e.max_payload()), payload.map(|_| 1232), "{what}");
        }
    }
}

#[test]
fn spelling_of_the_question_comes_back() {
    let zones = example();
    let mut request = query("www.example.test.", RecordType::A, None);
    request[12..].iter_mut().step_by(2).for_each(|octet| octet.make_ascii_uppercase());
    let reply = raw(&zones, &request, UDP).unwrap();
    assert_eq!(reply[12..request.len()], request[12..]);
    // Both records point at it.
    assert_eq!(reply[request.len()..request.len() + 2], [0xC0, 12]);
    assert_eq!(reply.len(), request.len() + 2 * 16);
}

#[test]
fn names_of_the_zone_are_compressed_to_the_question() {
    let zones = example();
    let request = query("alias.example.test.", RecordType::CNAME, None);
    // Pointer to the question, ten octets, then "www" and a pointer to "example.test." in the question.
    let reply = raw(&zones, &request, UDP).unwrap();
    assert_eq!(reply[request.len() + 12..], *b"\x03www\xc0\x12");
}

#[test]
fn chain_across_zones_of_ours_is_followed() {
    let parent = "@ SOA ns h 1 1 1 1 1\n@ NS ns\nns A 192.0.2.1\nkid NS ns.kid\nns.kid A 192.0.2.2\n\
                  into CNAME www.kid\nover CNAME www.other.example.\ntop CNAME kid\nds.kid A 192.0.2.66\n";
    let kid =
        "@ SOA ns h 2 2 2 2 2\n@ NS ns\nns A 192.0.2.3\nwww A 192.0.2.4\nback CNAME ns.test.\nup CNAME @\n";
    let other = "@ SOA ns h 3 3 3 3 3\n@ NS ns\nwww CNAME mx\nmx MX 5 mx\nmx A 192.0.2.5\n";
    let dir = Dir::new(&[("p", parent), ("k", kid), ("o", other)]);
    // The order of the zones does not matter.
    for order in [["test=p", "kid.test=k", "other.example=o"], ["other.example=o", "kid.test=k", "test=p"]] {
        let zones = dir.load(&order).unwrap();
        let answers = |name: &str, rtype| {
            let reply = ask(&zones, &query(name, rtype, None), UDP);
            assert!(reply.metadata.authoritative);
            let all = reply.answers.iter().chain(&reply.authorities).chain(&reply.additionals);
            all.map(line).collect::<Vec<_>>()
        };
        assert_eq!(
            answers("into.test.", RecordType::A),
            ["into.test. 3600 CNAME www.kid.test.", "www.kid.test. 3600 A 192.0.2.4"]
        );
        assert_eq!(
            answers("over.test.", RecordType::MX),
            [
                "over.test. 3600 CNAME www.other.example.",
                "www.other.example. 3600 CNAME mx.other.example.",
                "mx.other.example. 3600 MX 5 mx.other.example.",
                "mx.other.example. 3600 A 192.0.2.5",
            ]
        );
        assert_eq!(
            answers("back.kid.test.", RecordType::A),
            ["back.kid.test. 3600 CNAME ns.test.", "ns.test. 3600 A 192.0.2.1"]
        );
        assert_eq!(
            answers("top.test.", RecordType::TXT),
            ["top.test. 3600 CNAME kid.test.", "kid.test. 2 SOA ns.kid.test. h.kid.test. 2 2 2 2 2"]
        );
        // DS is answered by the parent, also at the end of a chain that began in the child.
        let soa = "test. 1 SOA ns.test. h.test. 1 1 1 1 1";
        assert_eq!(answers("kid.test.", RecordType::DS), [soa]);
        assert_eq!(answers("up.kid.test.", RecordType::DS), ["up.kid.test. 3600 CNAME kid.test.", soa]);
        // What the parent has below the child's apex is not the child's.
        assert_eq!(
            answers("ds.kid.test.", RecordType::A),
            ["kid.test. 2 SOA ns.kid.test. h.kid.test. 2 2 2 2 2"]
        );
    }
}

#[test]
fn root_zone_is_served() {
    let zones = zone(
        ".",
        "@ SOA a. b. 1 1 1 1 1\n@ NS a.\na. A 192.0.2.1\ntest. NS ns.test.\nns.test. A 192.0.2.2\n",
    );
    let reply = ask(&zones, &query(".", RecordType::NS, None), UDP);
    assert_eq!(line(&reply.answers[0]), ". 3600 NS a.");
    assert_eq!(line(&reply.additionals[0]), "a. 3600 A 192.0.2.1");
    let reply = ask(&zones, &query("x.y.test.", RecordType::A, None), UDP);
    assert_eq!(line(&reply.authorities[0]), "test. 3600 NS ns.test.");
    assert_eq!(line(&reply.additionals[0]), "ns.test. 3600 A 192.0.2.2");
    let reply = ask(&zones, &query("x.y.", RecordType::A, None), UDP);
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(line(&reply.authorities[0]), ". 1 SOA a. b. 1 1 1 1 1");
}

#[test]
fn long_chain_ends_without_harm() {
    let mut text = String::from("@ SOA ns h 1 1 1 1 1\n@ NS ns\n");
    for i in 0..40 {
        text += &format!("c{i} CNAME c{}\n", i + 1);
    }
    let reply = ask(&zone("test", &text), &query("c0.test.", RecordType::A, None), Transport::Tcp);
    assert_eq!((reply.answers.len(), reply.metadata.response_code), (12, ResponseCode::NoError));
}

/// A query with one octet pattern changed.
fn patched(at: usize, octets: &[u8]) -> Vec<u8> {
    let mut request = query("www.example.test.", RecordType::A, Some(1232));
    request[at..at + octets.len()].copy_from_slice(octets);
    request
}

#[test]
fn what_is_no_plain_query_gets_the_code_for_it() {
    let zones = example();
    let code = |request: &[u8]| {
        let reply = ask(&zones, request, UDP);
        assert!(reply.answers.is_empty() && !reply.metadata.authoritative);
        reply.metadata.response_code
    };
    let plain = patched(0, &[]);
    let (class, opt) = (plain.len() - 11 - 2, plain.len() - 11);
    assert_eq!(code(&patched(2, &[0x28])), ResponseCode::NotImp, "UPDATE");
    assert_eq!(code(&patched(2, &[0x20])), ResponseCode::NotImp, "NOTIFY");
    assert_eq!(code(&patched(4, &[0, 2])), ResponseCode::FormErr, "two questions");
    assert_eq!(code(&patched(4, &[0, 0])), ResponseCode::FormErr, "no question");
    assert_eq!(code(&plain[..20]), ResponseCode::FormErr, "cut question");
    assert_eq!(code(&plain[..plain.len() - 1]), ResponseCode::FormErr, "cut OPT");
    assert_eq!(code(&[&plain[..], b"x"].concat()), ResponseCode::FormErr, "trailing octet");
    assert_eq!(code(&patched(class, &[0, 3])), ResponseCode::Refused, "CHAOS");
    assert_eq!(code(&patched(class, &[0, 255])), ResponseCode::Refused, "class ANY");
    assert_eq!(code(&patched(class - 2, &[0, 41])), ResponseCode::FormErr, "type OPT");
    assert_eq!(code(&patched(class - 2, &[0, 249])), ResponseCode::NotImp, "type TKEY");
    assert_eq!(code(&patched(12, &[0xC0, 12])), ResponseCode::FormErr, "pointer in the question");
    let two = [&plain[..], &plain[opt..]].concat();
    let mut two_opts = two.clone();
    two_opts[11] = 2;
    assert_eq!(code(&two_opts), ResponseCode::FormErr, "two OPT records");
    let options = [&plain[..plain.len() - 1], &[6, 0, 10, 0, 9, 1, 2]].concat();
    assert_eq!(code(&options), ResponseCode::FormErr, "option longer than the OPT");
    assert_eq!(raw(&zones, &patched(2, &[0x81]), UDP), None, "a response is not answered");
    assert_eq!(raw(&zones, &plain[..11], UDP), None, "shorter than a header");
    assert_eq!(zones.answer(&mut [0; 12], 13, UDP), None, "request longer than its buffer");
}

#[test]
fn edns_version_flags_and_options() {
    let zones = example();
    let plain = patched(0, &[]);
    let opt = plain.len() - 11;
    let reply = ask(&zones, &patched(opt + 6, &[1]), UDP);
    // BADVERS; the library calls the same number BADSIG.
    assert_eq!(u16::from(reply.metadata.response_code), 16);
    assert_eq!(reply.edns.unwrap().version(), 0);
    assert!(reply.answers.is_empty());
    // An unknown option is ignored and not sent back; DO is.
    let mut request = patched(opt + 7, &[0x80]);
    *request.last_mut().unwrap() = 6;
    request.extend_from_slice(&[0xFD, 0xE9, 0, 2, 7, 7]);
    let reply = ask(&zones, &request, UDP);
    let edns = reply.edns.unwrap();
    assert!(edns.flags().dnssec_ok && edns.options().as_ref().is_empty());
    assert_eq!(reply.answers.len(), 2);
    // AD and CD are cleared.
    let reply = ask(&zones, &patched(3, &[0x30]), UDP);
    assert!(!reply.metadata.authentic_data && !reply.metadata.checking_disabled);
}

/// A zone with an RRset of `n` TXT records of 100 octets.
fn large(n: usize) -> crate::dns::Zones {
    let mut text = String::from("@ SOA ns h 1 1 1 1 1\n@ NS ns\nto CNAME big\n");
    for i in 0..n {
        text += &format!("big TXT \"{i:0>100}\"\n");
    }
    zone("test", &text)
}

#[test]
fn too_large_an_rrset_is_cut_whole_and_comes_complete_over_tcp() {
    for n in [5, 12, 100, 500] {
        let zones = large(n);
        for (payload, max, limit) in
            [(None, 1232, 512), (Some(100), 1232, 512), (Some(4096), 1232, 1232), (Some(4096), 600, 600)]
        {
            let request = query("to.test.", RecordType::TXT, payload);
            let octets = raw(&zones, &request, Transport::Udp { max }).unwrap();
            assert!(octets.len() <= limit);
            let reply = ask(&zones, &request, Transport::Udp { max });
            // Question 12 + 9 + 4, CNAME 12 + 4 + 2, n times 12 + 101 and the OPT.
            let full = 25 + 18 + n * 113 + payload.map_or(0, |_| 11);
            assert_eq!(reply.metadata.truncation, full > limit, "{n} {payload:?}");
            assert_eq!(reply.answers.len(), if full > limit { 1 } else { n + 1 });
            assert_eq!(reply.edns.is_some(), payload.is_some());
            let over_tcp = ask(&zones, &request, Transport::Tcp);
            assert!(!over_tcp.metadata.truncation);
            assert_eq!(over_tcp.answers.len(), n + 1);
        }
    }
}

#[test]
fn additional_data_is_left_out_but_glue_sets_tc() {
    let mut text = String::from("@ SOA ns h 1 1 1 1 1\n@ NS ns\n");
    for i in 0..15 {
        text += &format!("@ MX {i} host{i}\nhost{i} A 192.0.2.{i}\nhost{i} AAAA 2001:db8::{i}\n");
        text += &format!("sub NS ns{i}.sub\nns{i}.sub A 192.0.2.{i}\nns{i}.sub AAAA 2001:db8::{i}\n");
    }
    let zones = zone("test", &text);
    let reply = ask(&zones, &query("test.", RecordType::MX, None), UDP);
    assert_eq!(reply.answers.len(), 15);
    assert!(!reply.metadata.truncation && reply.additionals.len() < 30);
    let request = query("x.sub.test.", RecordType::A, None);
    let reply = ask(&zones, &request, UDP);
    assert!(reply.metadata.truncation && reply.authorities.len() == 15);
    let reply = ask(&zones, &request, Transport::Tcp);
    assert_eq!((reply.metadata.truncation, reply.additionals.len()), (false, 30));
}

#[test]
fn small_buffer_limits_the_answer() {
    let zones = large(3);
    let request = query("big.test.", RecordType::TXT, Some(1232));
    for capacity in request.len()..600 {
        let mut frame = vec![0; capacity];
        frame[..request.len()].copy_from_slice(&request);
        let len = zones.answer(&mut frame, request.len(), UDP).unwrap();
        let reply = hickory_proto::op::Message::from_vec(&frame[..len]).unwrap();
        assert_eq!(reply.metadata.truncation, reply.answers.is_empty());
    }
}

#[test]
fn pipelined_queries_are_answered_in_order_as_far_as_there_is_room() {
    let zones = large(500);
    let mut input = Vec::new();
    for name in ["to.test.", "nope.test.", "test."] {
        let query = query(name, RecordType::TXT, None);
        input.extend_from_slice(&(query.len() as u16).to_be_bytes());
        input.extend_from_slice(&query);
    }
    // The output has room for two answers of the largest size, but not for a third.
    let mut output = vec![0; ANSWER_MAX + 60_000];
    let done = answer_stream(&zones, &input[..input.len() - 1], &mut output);
    assert!(!done.close && done.consumed < input.len() - 20);
    let mut names = Vec::new();
    let mut collect = |output: &[u8]| {
        names.extend(crate::dns::frames(output).map(|octets| {
            let reply = hickory_proto::op::Message::from_vec(octets).unwrap();
            (Name::to_string(reply.queries[0].name()), reply.answers.len())
        }));
    };
    collect(&output[..done.produced]);
    let rest = answer_stream(&zones, &input[done.consumed..], &mut output);
    assert_eq!(done.consumed + rest.consumed, input.len());
    collect(&output[..rest.produced]);
    assert_eq!(names, [("to.test.".into(), 501), ("nope.test.".into(), 0), ("test.".into(), 0)]);
    let garbage = answer_stream(&zones, b"\x00\x03abc", &mut output);
    assert!(garbage.close && garbage.produced == 0);
}
