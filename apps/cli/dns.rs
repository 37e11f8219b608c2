//! The options of `nty dns`.

use crate::dns::ZoneSpec;
use crate::values::{Port, one_or_more};
use serde::Deserialize;

/// What `nty dns` is asked to do.
#[derive(Clone, PartialEq, Eq, Debug, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Zone to answer for and its master file, as example.org=example.org.zone; repeat for more
    #[arg(long, value_name = "ORIGIN=FILE", required = true)]
    #[serde(deserialize_with = "one_or_more")]
    pub zone: Vec<ZoneSpec>,
    /// UDP and TCP port to listen on
    #[arg(long, value_name = "PORT", default_value = "53")]
    pub port: Port,
}

impl Default for Options {
    fn default() -> Self {
        Self { zone: Vec::new(), port: Port::new(53) }
    }
}

impl Options {
    /// What the values have to agree on among themselves.
    ///
    /// # Errors
    /// What is wrong, with the remedy.
    pub fn check(&self) -> Result<(), String> {
        if self.zone.is_empty() {
            return Err("dns without a zone: give zone = [\"ORIGIN=FILE\"] (--zone ORIGIN=FILE)".into());
        }
        Ok(())
    }
}
