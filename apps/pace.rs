//! When frames are sent, by those who send without a stack.

use crate::run::fault::bit_rate;
use std::time::Duration;

/// The flags of [`Pace`].
#[derive(Clone, Copy, PartialEq, Default, Debug, clap::Args)]
#[command(next_help_heading = "Pace")]
#[group(id = "pace", multiple = false)]
pub(crate) struct Options {
    /// So many times as fast as it was captured [default: 1]
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    pub speed: Option<f64>,
    /// So many frames a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub pps: Option<u64>,
    /// So many bits of frames a second: 10M, 1G
    #[arg(long, value_name = "BITS", value_parser = bits)]
    pub rate: Option<u64>,
    /// As fast as it goes
    #[arg(long)]
    pub fast: bool,
}

fn factor(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "no number".to_owned())?;
    if factor.is_finite() && factor > 0.0 { Ok(factor) } else { Err("give a number above 0".to_owned()) }
}

pub(crate) fn bits(text: &str) -> Result<u64, &'static str> {
    bit_rate(text).ok_or("give a number above 0, in powers of ten with k, M or G, as 10M")
}

/// When a frame is due, from the first of all on.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Pace {
    /// As captured, so many times as fast.
    Captured(f64),
    /// Frames a second.
    Frames(u64),
    /// Bits a second.
    Bits(u64),
    /// At once.
    Fast,
}

impl From<Options> for Pace {
    fn from(options: Options) -> Self {
        match options {
            Options { fast: true, .. } => Self::Fast,
            Options { pps: Some(pps), .. } => Self::Frames(pps),
            Options { rate: Some(rate), .. } => Self::Bits(rate),
            Options { speed, .. } => Self::Captured(speed.unwrap_or(1.0)),
        }
    }
}

/// What was sent before a frame, and when it was captured, counted through all loops.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Place {
    pub frames: u64,
    pub bytes: u64,
    pub captured: Duration,
}

impl Pace {
    #[inline]
    pub(crate) fn due(self, place: Place) -> Duration {
        let seconds = match self {
            // What is as fast as it goes has no time for the rest.
            Self::Fast => return Duration::ZERO,
            Self::Captured(factor) => place.captured.as_secs_f64() / factor,
            Self::Frames(pps) => place.frames as f64 / pps as f64,
            Self::Bits(rate) => place.bytes as f64 * 8.0 / rate as f64,
        };
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pace_has_its_own_clock() {
        let place = Place { frames: 10, bytes: 1_000, captured: Duration::from_secs(3) };
        let due = |options: Options| Pace::from(options).due(place);
        assert_eq!(due(Options::default()), Duration::from_secs(3));
        assert_eq!(due(Options { speed: Some(1.5), ..Options::default() }), Duration::from_secs(2));
        assert_eq!(due(Options { pps: Some(100), ..Options::default() }), Duration::from_millis(100));
        let rate = Some(8_000);
        assert_eq!(due(Options { rate, ..Options::default() }), Duration::from_secs(1));
        assert_eq!(due(Options { fast: true, ..Options::default() }), Duration::ZERO);
    }

    #[test]
    fn a_factor_is_a_number_above_zero() {
        assert_eq!(factor("0.5"), Ok(0.5));
        for bad in ["", "x", "0", "-1", "inf", "NaN"] {
            assert!(factor(bad).is_err(), "{bad}");
        }
    }
}
