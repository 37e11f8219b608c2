//! `nty capture`: the frames of a device in a file, those that a filter takes.
//!
//! Nothing is disturbed: of `packet:` the kernel and everybody else get what they would have got, and both directions are
//! seen, each frame with the kernel's time. The file is whole up to the last moment without work, or the last second, however the
//! program ends. Frames are written as a wire would show them: with their tag, and with their checksum completed.

mod filter;
mod run;

pub use filter::{Filter, FilterError};
pub use run::run;

use crate::values::Span;
use ntytcp::device::spec::DeviceSpec;
use std::io::IsTerminal as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What `nty capture` is asked to do.
#[derive(Clone, PartialEq, Eq, Debug, clap::Args)]
pub struct Options {
    /// Device whose frames to capture: packet:IFACE looks on and sees both directions; tap:NAME is the other end of the link; pcap:IN reads
    /// a capture
    #[arg(long, value_name = "DEVICE")]
    pub device: DeviceSpec,
    /// File to write, pcapng if its name ends so, else pcap; - is pcapng on standard output; without it frames are only counted
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Capture only what this takes, in the language of tcpdump as far as described below
    #[arg(long, value_name = "EXPR", default_value = "", hide_default_value = true)]
    pub filter: Filter,
    /// End after so many frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this time
    #[arg(long, value_name = "TIME")]
    pub seconds: Option<Span>,
    /// Keep so many bytes of each frame at most
    #[arg(long, value_name = "BYTES", default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1..=262_144))]
    pub snaplen: u32,
}

impl Options {
    /// What the values have to agree on among themselves.
    ///
    /// # Errors
    /// What is wrong, with the remedy.
    pub fn check(&self) -> Result<(), String> {
        if self.device.kind() == "xdp" {
            let interface = self.device.argument();
            return Err(format!(
                "{} would take the frames away from the kernel: give packet:{interface}",
                self.device
            ));
        }
        if self.is_on_stdout() && std::io::stdout().is_terminal() {
            return Err(
                "a capture is nothing to read on a terminal: give --out FILE, or pipe it into a program"
                    .to_owned(),
            );
        }
        if let Some(out) = self.out.as_deref().filter(|out| self.device.kind() == "pcap" && self.reads(out)) {
            return Err(format!("{} would be read and written over: give another --out", out.display()));
        }
        Ok(())
    }

    /// Whether `out` is one of the files of the device.
    fn reads(&self, out: &Path) -> bool {
        let identity = |path: &Path| path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
        let ours = identity(out);
        ours.is_some() && self.device.argument().split(',').any(|file| identity(Path::new(file)) == ours)
    }

    /// Whether the capture goes to standard output.
    fn is_on_stdout(&self) -> bool {
        self.out.as_deref() == Some(Path::new("-"))
    }
}
