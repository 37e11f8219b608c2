//! Configuration files: `[stack]` with the names of the flags, and one `[[app]]` per program.
//!
//! ```toml
//! [stack]
//! device = "tap:nty0"
//! addr = "10.0.0.2/24"
//!
//! [[app]]
//! kind = "http"
//! root = "/srv/www"
//! ```

use super::{App, StackArgs, StackConfig, StackError, dns, one_line};
use crate::{echo, http, perf, textfile};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IntoDeserializer as _};
use std::fmt;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The longest file.
const FILE_MAX: u64 = 1 << 20;

/// What a file says, each part with its place in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigFile {
    /// The settings of `[stack]`.
    pub stack: StackArgs,
    /// The programs, in the order of the file.
    pub apps: Vec<(App, Place)>,
    path: PathBuf,
    stack_place: Place,
    /// Where each setting of `[stack]` stands.
    key_places: Vec<(String, Place)>,
}

/// A place in a file, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    line: usize,
    column: usize,
}

impl Place {
    /// The first character.
    pub(super) const BEGINNING: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Why a file was refused: `file:line:column: what`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source} (give a TOML file that can be read)", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A part of it makes no sense.
    #[error("{}:{place}: {what}", path.display())]
    At {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// What, and the remedy.
        what: String,
    },
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`], with the place of the first mistake.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let bytes = textfile::read(path, FILE_MAX)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        // A file of zeros is in UTF-8 too.
        let good = match std::str::from_utf8(&bytes) {
            Ok(text) => text.find('\0'),
            Err(error) => Some(error.valid_up_to()),
        };
        let text = String::from_utf8_lossy(bytes.get(..good.unwrap_or(bytes.len())).unwrap_or_default());
        match good {
            None => Self::parse(path, &text),
            Some(end) => {
                let what = "this is no text: give a TOML file, in UTF-8".to_owned();
                Err(Source { path, text: &text }.error(end, what))
            }
        }
    }

    /// Reads the text of the file named `path`.
    ///
    /// # Errors
    /// [`ConfigError::At`], with the place of the first mistake.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source { path, text };
        let mut config = Self {
            stack: StackArgs::default(),
            apps: Vec::new(),
            path: path.to_owned(),
            stack_place: Place::BEGINNING,
            key_places: Vec::new(),
        };
        let root = DeTable::parse(text).map_err(|error| source.toml(&error, 0))?;
        for (key, value) in root.into_inner() {
            match key.get_ref().as_ref() {
                "stack" => config.take_stack(&source, value)?,
                "app" => config.take_apps(&source, value)?,
                other => {
                    let what =
                        format!("unknown part {other:?}: a file has one [stack] and any number of [[app]]");
                    return Err(source.error(key.span().start, what));
                }
            }
        }
        Ok(config)
    }

    /// The error of a setting that this file may have given, with its place if it did.
    pub fn locate(&self, error: &StackError) -> ConfigError {
        let given = self.key_places.iter().find(|(key, _)| key == error.key);
        let place = given.map_or(self.stack_place, |&(_, place)| place);
        ConfigError::At { path: self.path.clone(), place, what: error.to_string() }
    }

    /// The error of the program at `place`.
    pub fn app_error(&self, place: Place, what: String) -> ConfigError {
        ConfigError::At { path: self.path.clone(), place, what }
    }

    /// Checks the stack, with `flags` before the file.
    ///
    /// # Errors
    /// The first setting that is missing or contradicts another.
    pub fn stack_config(&self, flags: StackArgs) -> Result<StackConfig, ConfigError> {
        flags.or(self.stack.clone()).check().map_err(|error| self.locate(&error))
    }

    fn take_stack(&mut self, source: &Source<'_>, value: Spanned<DeValue<'_>>) -> Result<(), ConfigError> {
        let start = value.span().start;
        self.stack_place = source.place(start);
        let Some(table) = value.get_ref().as_table() else {
            return Err(source.error(start, "stack is a table: write [stack] in a line of its own".into()));
        };
        self.key_places = table
            .iter()
            .map(|(key, _)| (key.get_ref().to_string(), source.place(key.span().start)))
            .collect();
        self.stack =
            StackArgs::deserialize(value.into_deserializer()).map_err(|error| source.toml(&error, start))?;
        Ok(())
    }

    fn take_apps(&mut self, source: &Source<'_>, value: Spanned<DeValue<'_>>) -> Result<(), ConfigError> {
        let start = value.span().start;
        let DeValue::Array(items) = value.into_inner() else {
            return Err(source.error(start, "app is a list: write [[app]], with two brackets".into()));
        };
        for item in items {
            let start = item.span().start;
            let place = source.place(start);
            let span = item.span();
            let DeValue::Table(table) = item.into_inner() else {
                return Err(
                    source.error(start, "an app is a table: write [[app]] in a line of its own".into())
                );
            };
            let app = source.app(Spanned::new(span, table))?;
            self.apps.push((app, place));
        }
        Ok(())
    }
}

/// The text that places are counted in.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    /// One `[[app]]`: its kind says which program's options the rest is.
    fn app(&self, mut table: Spanned<DeTable<'_>>) -> Result<App, ConfigError> {
        const KINDS: &str = "\"dns\", \"http\", \"echo\" or \"perf\"";
        let start = table.span().start;
        let Some(kind) = table.get_mut().remove("kind") else {
            return Err(self.error(start, format!("an app without a kind: give kind = {KINDS}")));
        };
        let kind_at = kind.span().start;
        let app = match kind.get_ref().as_str() {
            Some("dns") => App::Dns(self.options::<dns::Options>(table)?),
            Some("http") => App::Http(self.options::<http::Options>(table)?),
            Some("echo") => App::Echo(self.options::<echo::Options>(table)?),
            Some("perf") => App::Perf(self.options::<perf::Options>(table)?),
            _ => return Err(self.error(kind_at, format!("unknown kind of app: give {KINDS}"))),
        };
        app.check().map_err(|what| self.error(start, what))?;
        Ok(app)
    }

    fn options<T: DeserializeOwned>(&self, table: Spanned<DeTable<'_>>) -> Result<T, ConfigError> {
        let start = table.span().start;
        T::deserialize(table.into_deserializer()).map_err(|error| self.toml(&error, start))
    }

    /// What the TOML reader says, at its place, or at `start` if it knows none.
    fn toml(&self, error: &toml::de::Error, start: usize) -> ConfigError {
        self.error(error.span().map_or(start, |span| span.start), in_words(&one_line(error.message())))
    }

    fn error(&self, at: usize, what: String) -> ConfigError {
        ConfigError::At { path: self.path.to_owned(), place: self.place(at), what }
    }

    /// Line and column, in characters, of byte `at`.
    fn place(&self, at: usize) -> Place {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        Place { line: before.matches('\n').count() + 1, column }
    }
}

/// What the reader says of a value of the wrong type or out of range, in the words of who writes files.
fn in_words(message: &str) -> String {
    let (wrong, rest) = message.split_once(": ").unwrap_or_default();
    let Some((what, expected)) =
        rest.rsplit_once(", expected ").filter(|_| matches!(wrong, "invalid type" | "invalid value"))
    else {
        return message.to_owned();
    };
    let expected = match expected {
        "a boolean" => "true or false, without quotes",
        "u8" => "a whole number from 0 to 255, without quotes",
        "u16" => "a whole number from 0 to 65535, without quotes",
        "u32" | "u64" | "usize" => "a whole number, without quotes",
        "a nonzero u8" => "a whole number from 1 to 255, without quotes",
        "path string" => "a path in quotes",
        "a string" | "string or table" => "a text in quotes",
        "a sequence" => "a list in brackets",
        // Whatever Rust's name of it is.
        other if other.starts_with("struct ") || other == "a map" => "a table of NAME = VALUE",
        other => other,
    };
    format!("{what} does not fit here: write {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Idle;
    use crate::values::{Port, Size};

    const GOOD: &str = r#"
[stack]
device = "tap:nty0"
addr = ["10.0.0.2/24", "fd00::2/64"]
gateway = "10.0.0.1"
mac = "02:00:00:00:00:01"
host-addr = "10.0.0.1/24"
mtu = 1500
busy-poll = true

[[app]]
kind = "dns"
zone = ["example.org=example.org.zone"]

[[app]]
kind = "http"
root = "/srv"
port = 8080
upload = true
max-upload = "200M"

[[app]]
kind = "echo"
mode = "et"

[[app]]
kind = "perf"
server = true
"#;

    fn parse(text: &str) -> Result<ConfigFile, ConfigError> {
        ConfigFile::parse(Path::new("f.toml"), text)
    }

    #[test]
    fn file_says_the_same_as_flags() {
        let config = parse(GOOD).unwrap();
        let stack = config.stack_config(StackArgs::default()).unwrap();
        assert_eq!((stack.addrs.len(), stack.mtu, stack.idle), (2, Some(1_500), Idle::Busy));
        let [(App::Dns(dns), _), (App::Http(http), http_at), (App::Echo(echo), _), (App::Perf(perf), _)] =
            config.apps.as_slice()
        else {
            panic!("{:?}", config.apps)
        };
        assert_eq!((dns.zone.len(), dns.port), (1, Port::new(53)));
        assert_eq!((http.port, http.max_upload), (Port::new(8_080), Size::from_bytes(200 << 20)));
        assert_eq!((echo.mode, perf.server), (echo::Mode::Et, true));
        assert_eq!(http_at.to_string(), "15:1");
    }

    #[test]
    fn every_mistake_is_one_line_with_its_place() {
        for (text, place, word) in [
            ("[stack", "1:7", ""),
            ("[stack]\ndevice = tap", "2:10", ""),
            ("stack = 1", "1:9", "[stack]"),
            ("[stacks]", "1:2", "unknown part"),
            ("[stack]\ndevices = \"mem:\"", "2:1", "unknown field `devices`"),
            ("[stack]\ndevice = 5", "2:10", "write a text in quotes"),
            ("[stack]\n\naddr = \"10.0.0.2\"", "3:8", "prefix length"),
            ("[stack]\naddr = [\n  \"10.0.0.2/24\",\n  \"10.0.0.2/33\",\n]", "4:3", "prefix length"),
            ("[stack]\naddr = 5", "2:8", "a list of them"),
            ("[stack]\ngateway = \"router\"", "2:11", "IP address"),
            ("[stack]\nmac = \"01:00:00:00:00:00\"", "2:7", "group address"),
            ("[stack]\nmtu = 70000", "2:7", "a whole number from 0 to 65535"),
            ("[stack]\nmtu = -1", "2:7", "a whole number from 0 to 65535"),
            ("[stack]\nmtu = \"big\"", "2:7", "string \"big\" does not fit here: write a whole number"),
            ("[stack]\nbusy-poll = \"yes\"", "2:13", "string \"yes\" does not fit here: write true or false"),
            ("[stack]\nbusy-poll = 1", "2:13", "write true or false"),
            ("[app]\nkind = \"echo\"", "1:1", "[[app]]"),
            ("app = [1]", "1:8", "[[app]]"),
            ("[[app]]\nport = 7", "1:1", "without a kind"),
            ("[[app]]\nkind = \"ftp\"", "2:8", "give \"dns\""),
            ("[[app]]\nkind = 7", "2:8", "give \"dns\""),
            ("[[app]]\nkind = \"echo\"\nport = 0", "3:8", "1 to 65535"),
            ("[[app]]\nkind = \"echo\"\nport = 65536", "3:8", "1 to 65535"),
            ("[[app]]\nkind = \"echo\"\nport = true", "3:8", "1 to 65535"),
            ("[[app]]\nkind = \"echo\"\nmode = \"xt\"", "3:8", "`lt` or `et`"),
            ("[[app]]\nkind = \"echo\"\ntransport = \"sctp\"", "3:13", "`both`"),
            ("[[app]]\nkind = \"echo\"\nroot = \"/\"", "3:1", "unknown field `root`"),
            ("[[app]]\nkind = \"http\"", "1:1", "root"),
            ("[[app]]\nkind = \"http\"\nroot = \"/\"\nhello = true", "1:1", "hello"),
            ("[[app]]\nkind = \"http\"\nhello = true\nupload = true", "1:1", "upload"),
            ("[[app]]\nkind = \"http\"\nroot = \"/\"\nmax-upload = \"lots\"", "4:14", "no size"),
            ("[[app]]\nkind = \"http\"\nroot = \"/\"\nidle-timeout = \"0s\"", "4:16", "no time"),
            ("[[app]]\nkind = \"dns\"", "1:1", "zone"),
            ("[[app]]\nkind = \"dns\"\nzone = [\"example.org\"]", "3:9", "ORIGIN=FILE"),
            ("[[app]]\nkind = \"dns\"\nzone = \"example.org\"", "3:8", "ORIGIN=FILE"),
            ("[[app]]\nkind = \"dns\"\nzone = 5", "3:8", "a list of them"),
            ("[[app]]\nkind = \"dns\"\n[app.zone]\nexample = \"f\"", "3:1", "a list of them"),
            ("[[app]]\nkind = \"http\"\nroot = 5", "3:8", "write a path in quotes"),
            ("[[app]]\nkind = \"perf\"\nclient = \"10.0.0.1\"\nparallel = 0", "4:12", "number from 1 to 255"),
            ("[[app]]\nkind = \"http\"\nhello = \"yes\"", "3:9", "write true or false"),
            ("[[app]]\nkind = \"perf\"", "1:1", "server"),
            ("[[app]]\nkind = \"perf\"\nserver = true\nudp = true", "1:1", "client's"),
            ("[[app]]\nkind = \"perf\"\nclient = \"host\"", "3:10", "IP address"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.starts_with(&format!("f.toml:{place}: ")), "{error:?} for {text:?}");
            assert!(error.contains(word) && !error.contains('\n'), "{error:?} for {text:?}");
        }
    }

    #[test]
    fn contradiction_in_the_stack_is_shown_where_it_was_written() {
        let config = parse("[stack]\ndevice = \"mem:\"\naddr = \"10.0.0.2/24\"\n mtu = 20").unwrap();
        let error = config.stack_config(StackArgs::default()).unwrap_err().to_string();
        assert_eq!(error, "f.toml:4:2: mtu 20 is too small: give 68 to 65535");
        for (line, word) in [
            ("device = \"pigeon:x\"\naddr = \"10.0.0.2/24\"", "f.toml:2:1: unknown device"),
            ("device = \"mem:\"\naddr = \"10.0.0.0/24\"", "f.toml:3:1: address 10.0.0.0/24: "),
            (
                "device = \"mem:\"\naddr = \"10.0.0.2/24\"\nfault = \"x\"",
                "f.toml:4:1: fault \"x\" is no KEY=VALUE",
            ),
        ] {
            let config = parse(&format!("[stack]\n{line}")).unwrap();
            let error = config.stack_config(StackArgs::default()).unwrap_err().to_string();
            assert!(error.starts_with(word), "{error}");
        }
        let none = parse("\n[stack]\ndevice = \"mem:\"").unwrap();
        let error = none.stack_config(StackArgs::default()).unwrap_err().to_string();
        assert!(error.starts_with("f.toml:2:1: no address: "), "{error}");
    }

    #[test]
    fn one_zone_needs_no_brackets() {
        let config = parse("[[app]]\nkind = \"dns\"\nzone = \"example.org=f\"").unwrap();
        assert!(matches!(config.apps.as_slice(), [(App::Dns(dns), _)] if dns.zone.len() == 1));
    }

    #[test]
    fn a_file_that_is_no_text_is_refused_where_that_begins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.toml");
        std::fs::write(&path, b"[stack]\ndevice = \xff\xfe\0").unwrap();
        let error = ConfigFile::read(&path).unwrap_err().to_string();
        assert!(error.ends_with("f.toml:2:10: this is no text: give a TOML file, in UTF-8"), "{error}");
        std::fs::write(&path, b"\x7fELF\x01\0\0").unwrap();
        let error = ConfigFile::read(&path).unwrap_err().to_string();
        assert!(error.ends_with("f.toml:1:6: this is no text: give a TOML file, in UTF-8"), "{error}");
        let error = ConfigFile::read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.starts_with("/dev/zero: it is a device"), "{error}");
    }

    #[test]
    fn unreadable_file_is_named() {
        let error = ConfigFile::read(Path::new("/nonexistent/f.toml")).unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/f.toml: "), "{error}");
    }
}
