//! A bad link by text: `loss=1%,delay=20ms,...`.

use crate::values::Span;
use ntytcp::device::fault::{FaultConfig, Faults};

/// What may be said, for messages and help.
const GRAMMAR: &str = "loss, corrupt, duplicate or reorder as 1%, delay or jitter as 20ms, rate in bits per second as 100M, seed as a number";

/// The faults of a link, and the seed that makes them repeatable.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct FaultSpec {
    /// The same in both directions.
    pub(crate) config: FaultConfig,
    /// Default 0.
    pub(crate) seed: u64,
}

/// Reads a list of `KEY=VALUE`.
///
/// # Errors
/// One line that names the item and what may be said.
pub(crate) fn parse(text: &str) -> Result<FaultSpec, String> {
    let mut faults = Faults::default();
    let mut seed = 0;
    for item in text.split(',').map(str::trim) {
        let bad = || format!("fault {item:?} makes no sense: give {GRAMMAR}");
        let (key, value) = item.split_once('=').ok_or_else(bad)?;
        let span = || value.parse::<Span>().map(|span| span.duration()).map_err(|_| bad());
        match key {
            "loss" => faults.loss = probability(value).ok_or_else(bad)?,
            "corrupt" => faults.corrupt = probability(value).ok_or_else(bad)?,
            "duplicate" => faults.duplicate = probability(value).ok_or_else(bad)?,
            "reorder" => faults.reorder = probability(value).ok_or_else(bad)?,
            "delay" => faults.delay = span()?,
            "jitter" => faults.jitter = span()?,
            "rate" => faults.rate = Some(bit_rate(value).ok_or_else(bad)?),
            "seed" => seed = value.parse().map_err(|_| bad())?,
            _ => return Err(bad()),
        }
    }
    Ok(FaultSpec { config: FaultConfig::both(faults), seed })
}

/// `1%` or `0.01`, from 0 to 1.
fn probability(text: &str) -> Option<f64> {
    let p = match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().ok()? / 100.0,
        None => text.parse().ok()?,
    };
    (0.0..=1.0).contains(&p).then_some(p)
}

/// `100M`: bits per second with k, M or G for powers of ten; not 0.
fn bit_rate(text: &str) -> Option<u64> {
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
    fn nonsense_is_named() {
        for text in
            ["", "loss", "loss=2", "loss=-1%", "delay=fast", "wind=1%", "rate=x", "seed=-1", "loss=NaN"]
        {
            let message = parse(text).unwrap_err();
            assert!(message.contains("give loss"), "{text}: {message}");
        }
    }
}
