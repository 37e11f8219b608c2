//! The store against the plainest reading of RFC 1034 4.3.2 and RFC 4592: a list of names, searched from end to end.

use std::collections::BTreeMap;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use proptest::prelude::*;

use super::{UDP, ask, query, zone};

/// Labels from the leaf up, relative to the zone.
type Labels = Vec<&'static str>;

#[derive(Clone, Debug)]
enum Kind {
    Address,
    Text,
    Delegation,
    Alias(Option<Labels>),
}

type Model = BTreeMap<Labels, Kind>;

/// What the model says: response code, AA, owners and types of the answer, owner and type of the authority section.
type Outcome = (ResponseCode, bool, Vec<(String, RecordType)>, Option<(String, RecordType)>);

fn absolute(name: &[&str]) -> String {
    name.iter().chain(&["test"]).map(|label| format!("{label}.")).collect()
}

fn exists(model: &Model, name: &[&str]) -> bool {
    name.is_empty() || model.keys().any(|owner| owner.ends_with(name))
}

/// The name that answers for `name` if one does: itself, or a wildcard.
fn source(model: &Model, name: &[&'static str]) -> Option<Labels> {
    if exists(model, name) {
        return Some(name.to_vec());
    }
    let encloser = (1..=name.len()).map(|i| &name[i..]).find(|ancestor| exists(model, ancestor))?;
    let wildcard = [&["*"], encloser].concat();
    exists(model, &wildcard).then_some(wildcard)
}

fn resolve(model: &Model, question: &[&'static str], qtype: RecordType) -> Outcome {
    let (mut name, mut answer, mut visited) = (question.to_vec(), Vec::new(), Vec::new());
    for _ in 0..12 {
        let cut = (0..name.len()).rev().map(|i| &name[i..]);
        if let Some(cut) = cut.into_iter().find(|cut| matches!(model.get(*cut), Some(Kind::Delegation))) {
            let aa = !answer.is_empty();
            return (ResponseCode::NoError, aa, answer, Some((absolute(cut), RecordType::NS)));
        }
        let soa = Some((absolute(&[]), RecordType::SOA));
        let Some(source) = source(model, &name) else {
            return (ResponseCode::NXDomain, true, answer, soa);
        };
        let owner = absolute(&name);
        let target = match (model.get(&source), qtype) {
            (Some(Kind::Address), RecordType::A)
            | (Some(Kind::Text), RecordType::TXT)
            | (Some(Kind::Alias(_)), RecordType::CNAME) => {
                answer.push((owner, qtype));
                return (ResponseCode::NoError, true, answer, None);
            }
            (Some(Kind::Alias(target)), _) => target,
            _ => return (ResponseCode::NoError, true, answer, soa),
        };
        if visited.contains(&source) {
            break;
        }
        visited.push(source);
        answer.push((owner, RecordType::CNAME));
        match target {
            Some(target) => name = target.clone(),
            None => break,
        }
    }
    (ResponseCode::NoError, true, answer, None)
}

fn labels(depth: usize) -> impl Strategy<Value = Labels> {
    proptest::collection::vec(prop_oneof![4 => Just("a"), 3 => Just("b"), 2 => Just("*")], 1..=depth)
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::Address),
        1 => Just(Kind::Text),
        1 => Just(Kind::Delegation),
        2 => proptest::option::weighted(0.9, labels(4)).prop_map(Kind::Alias),
    ]
}

fn models() -> impl Strategy<Value = Model> {
    proptest::collection::btree_map(labels(4), kind(), 0..12).prop_map(|mut model| {
        // Refused at load: a delegation by wildcard.
        model.retain(|name, kind| name[0] != "*" || !matches!(kind, Kind::Delegation));
        model
    })
}

fn text(model: &Model) -> String {
    let mut text = String::from("$TTL 1\n@ SOA ns h 1 1 1 1 1\n");
    for (name, kind) in model {
        let data = match kind {
            Kind::Address => "A 192.0.2.1".into(),
            Kind::Text => "TXT x".into(),
            Kind::Delegation => "NS ns.example.net.".into(),
            Kind::Alias(Some(target)) => format!("CNAME {}", absolute(target)),
            Kind::Alias(None) => "CNAME www.example.net.".into(),
        };
        text += &format!("{} {data}\n", absolute(name));
    }
    text
}

proptest! {
    #[test]
    fn answers_are_those_of_the_model(
        model in models(),
        questions in proptest::collection::vec((labels(6), 0..3_usize), 40),
    ) {
        let text = text(&model);
        let zones = zone("test", &text);
        for (name, qtype) in questions {
            let qtype = [RecordType::A, RecordType::TXT, RecordType::CNAME][qtype];
            let reply = ask(&zones, &query(&absolute(&name), qtype, Some(1232)), UDP);
            prop_assert!(!reply.metadata.truncation);
            let brief = |r: &hickory_proto::rr::Record| (r.name.to_string(), r.record_type());
            let got: Outcome = (
                reply.metadata.response_code,
                reply.metadata.authoritative,
                reply.answers.iter().map(brief).collect(),
                reply.authorities.first().map(brief),
            );
            prop_assert_eq!(got, resolve(&model, &name, qtype), "{} {:?} in\n{}", absolute(&name), qtype, &text);
        }
    }
}
