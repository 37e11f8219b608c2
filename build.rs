//! Build facts for `nty --version`: the commit if there is one, and the features.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CARGO_FEATURE_DPDK");
    // Grows with every commit and checkout. Absent in a source archive, and then there is no commit to name either.
    if let Some(log) =
        git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|path| std::path::Path::new(path).exists())
    {
        println!("cargo::rerun-if-changed={log}");
    }
    let mut facts = Vec::new();
    facts.extend(git(&["describe", "--always", "--tags", "--dirty"]));
    if std::env::var_os("CARGO_FEATURE_DPDK").is_some() {
        facts.push("dpdk".into());
    }
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
    println!("cargo::rustc-env=NTY_VERSION={version}{facts}");
}

/// The first line that git prints, if it can.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    let line = String::from_utf8(output.stdout).ok()?.lines().next()?.trim().to_owned();
    (!line.is_empty()).then_some(line)
}
