//! A bad link by text: `loss=1%,delay=20ms,out.rate=100M,...`.

use crate::values::Span;
use ntytcp::device::fault::{FaultConfig, Faults};

/// What may be said, for messages.
const GRAMMAR: &str = "loss, corrupt, duplicate or reorder as 1%, delay or jitter as 20ms, rate in bits per second as 100M, each with in. or out. in front for one direction, seed as a number";

/// The faults of a link, and the seed that makes them repeatable.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct FaultSpec {
    /// Received is `in`, sent is `out`.
    pub(crate) config: FaultConfig,
    /// Default 0.
    pub(crate) seed: u64,
}

/// Reads a list of `KEY=VALUE`.
///
/// # Errors
/// One line that names the item, what is wrong with it and what may be said.
pub(crate) fn parse(text: &str) -> Result<FaultSpec, String> {
    let (mut faults, mut seed, mut seen) = ([Faults::default(), Faults::default()], 0, Vec::new());
    for item in text.split(',').map(str::trim) {
        let bad = |why: &str| format!("fault {item:?} {why}: give {GRAMMAR}");
        let (key, value) = item.split_once('=').ok_or_else(|| bad("is no KEY=VALUE"))?;
        if seen.contains(&key) {
            return Err(bad("is given twice"));
        }
        seen.push(key);
        if key == "seed" {
            seed = value.parse().map_err(|_| bad("is no number"))?;
            continue;
        }
        let [rx, tx] = &mut faults;
        let (sides, name) = match key.split_once('.') {
            Some(("in", name)) => ([Some(rx), None], name),
            Some(("out", name)) => ([None, Some(tx)], name),
            _ => ([Some(rx), Some(tx)], key),
        };
        for side in sides.into_iter().flatten() {
            set(side, name, value).map_err(bad)?;
        }
    }
    let [rx, tx] = faults;
    let mut config = FaultConfig::default();
    (config.rx, config.tx) = (rx, tx);
    Ok(FaultSpec { config, seed })
}

/// Sets one fault of one direction, or says what is wrong.
fn set(faults: &mut Faults, name: &str, value: &str) -> Result<(), &'static str> {
    let probability =
        || probability(value).ok_or("is no probability (from 0% to 100%, or a fraction below 1)");
    let span = || value.parse::<Span>().map(Span::duration).map_err(|_| "is no time");
    match name {
        "loss" => faults.loss = probability()?,
        "corrupt" => faults.corrupt = probability()?,
        "duplicate" => faults.duplicate = probability()?,
        "reorder" => faults.reorder = probability()?,
        "delay" => faults.delay = span()?,
        "jitter" => faults.jitter = span()?,
        "rate" => faults.rate = Some(bit_rate(value).ok_or("is no rate above 0")?),
        _ => return Err("names no fault"),
    }
    Ok(())
}

/// `1%`, or `0.01`. A plain 1 could be meant as either, and is neither.
fn probability(text: &str) -> Option<f64> {
    let p = match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().ok()? / 100.0,
        None => text.parse().ok().filter(|&fraction| fraction < 1.0)?,
    };
    (0.0..=1.0).contains(&p).then_some(p)
}

/// `100M`: bits per second with k, M or G for powers of ten; not 0.
pub(crate) fn bit_rate(text: &str) -> Option<u64> {
    let (digits, factor) = match text.chars().last()? {
        'k' => (text.strip_suffix('k')?, 1_000),
        'M' => (text.strip_suffix('M')?, 1_000_000),
        'G' => (text.strip_suffix('G')?, 1_000_000_000),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor).filter(|&rate| rate > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_fault_can_be_named() {
        let spec = parse("loss=1%,corrupt=0.5,duplicate=2%,reorder=3%,delay=20ms,jitter=1ms,rate=1M,seed=7")
            .unwrap();
        let faults = spec.config.tx;
        assert_eq!((faults.loss, faults.corrupt, faults.duplicate, faults.reorder), (0.01, 0.5, 0.02, 0.03));
        assert_eq!((faults.delay, faults.jitter), (Duration::from_millis(20), Duration::from_millis(1)));
        assert_eq!((faults.rate, spec.seed), (Some(1_000_000), 7));
    }

    #[test]
    fn directions_can_differ() {
        let spec = parse("in.loss=1%,out.loss=100%,delay=1ms").unwrap();
        assert_eq!((spec.config.rx.loss, spec.config.tx.loss), (0.01, 1.0));
        assert_eq!(
            (spec.config.rx.delay, spec.config.tx.delay),
            (Duration::from_millis(1), Duration::from_millis(1))
        );
    }

    #[test]
    fn nonsense_is_named_and_why() {
        for (text, why) in [
            ("", "is no KEY=VALUE"),
            ("loss=1%,", "\"\" is no KEY=VALUE"),
            ("loss", "is no KEY=VALUE"),
            ("loss=1", "is no probability"),
            ("loss=101%", "is no probability"),
            ("loss=-1%", "is no probability"),
            ("loss=NaN", "is no probability"),
            ("loss=1%,loss=2%", "\"loss=2%\" is given twice"),
            ("delay=fast", "is no time"),
            ("wind=1%", "names no fault"),
            ("up.loss=1%", "names no fault"),
            ("rate=x", "is no rate"),
            ("seed=-1", "is no number"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(why) && message.contains(": give loss"), "{text}: {message}");
        }
    }
}
