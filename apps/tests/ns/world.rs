//! Where a test takes place: namespaces of its own, `nty` behind a TAP in them, and the kernel at the other end.

use std::any::type_name;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Our address, and the kernel's on the same link.
pub(crate) const OURS: &str = "10.0.0.2";
pub(crate) const HOST: &str = "10.0.0.1";
/// Both with the prefix of their network.
pub(crate) const OURS_NET: &str = "10.0.0.2/24";
pub(crate) const HOST_NET: &str = "10.0.0.1/24";
/// The command under test.
pub(crate) const NTY: &str = env!("CARGO_BIN_EXE_nty");

/// How long anything may take that should happen at once: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const INSIDE: &str = "NTY_NS_TEST_INSIDE";
/// Seconds after which a test that hangs is killed with all that it started.
const LIMIT: &str = "120";
/// More than the connections of any test.
const OPEN_FILES: &str = "--nofile=8192:8192";

/// Runs the body of the test that calls it in fresh namespaces, as process 1 of them: whatever the body starts ends with it.
/// Fails if the body leaves a process or an interface behind.
pub(crate) fn in_namespace<F: FnOnce()>(body: F) {
    let test = test_name::<F>();
    if std::env::var_os(INSIDE).is_some() {
        body();
        assert_eq!(processes(), [1], "processes were left behind");
        assert_eq!(interfaces(), ["lo"], "interfaces were left behind");
        return;
    }
    if let Err(reason) = possible() {
        println!("skipped: {test} {reason}");
        return;
    }
    let mut command = Command::new("timeout");
    command.args([
        "--signal=KILL",
        LIMIT,
        "unshare",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    command.args(["prlimit", OPEN_FILES]).arg(std::env::current_exe().unwrap());
    let output = command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("1 passed"), "{test} names no test");
}

/// The path of the test whose closure has this type, as the test harness knows it.
fn test_name<F>() -> &'static str {
    let path = type_name::<F>().trim_end_matches("::{{closure}}");
    path.split_once("::").map_or(path, |(_, test)| test)
}

/// Why there can be no namespace here.
fn possible() -> Result<(), &'static str> {
    let output = Command::new("id").arg("-u").output().unwrap();
    if output.stdout != b"0\n" {
        return Err("needs root");
    }
    if !Path::new("/dev/net/tun").exists() {
        return Err("needs /dev/net/tun");
    }
    Ok(())
}

/// The processes of the namespace.
fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap();
    let mut all: Vec<u32> = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect();
    all.sort_unstable();
    all
}

/// The interfaces of the namespace, but for tunnels that every new one has on some kernels.
pub(crate) fn interfaces() -> Vec<String> {
    let table = fs::read_to_string("/proc/net/dev").unwrap();
    let names = table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    names.filter(|name| !name.ends_with('0')).collect()
}

/// Runs a program that must succeed; what it said on standard output.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = try_run(program, args);
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program to its end.
pub(crate) fn try_run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{program}: {error} (scripts/test installs what the tests need)"))
}

/// Waits until `done`; fails, naming `what`, if that takes too long.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "in vain: waited until {what}");
        sleep(Duration::from_millis(20));
    }
}

/// Bytes that look random, the same for the same seed (xorshift64*).
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        bytes.extend(x.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A kernel TCP connection to a port of ours, none of whose calls blocks for ever.
pub(crate) fn connect(port: u16) -> TcpStream {
    let to = SocketAddr::new(OURS.parse().unwrap(), port);
    let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A link between `nty` and the kernel.
#[derive(Clone, Copy)]
pub(crate) struct Link<'a> {
    pub(crate) tap: &'a str,
    pub(crate) ours: &'a str,
    pub(crate) host: &'a str,
    /// Further flags.
    pub(crate) more: &'a [&'a str],
}

/// What most tests use; the namespace is the test's own, and so is the name.
pub(crate) const LINK: Link<'static> = Link { tap: "ntytest", ours: OURS_NET, host: HOST_NET, more: &[] };

impl Link<'_> {
    /// `nty` with these programs' arguments on this link.
    pub(crate) fn command(&self, app: &[&str]) -> Command {
        let mut command = Command::new(NTY);
        let device = format!("tap:{}", self.tap);
        command.args(app).args(["--device", &device, "--addr", self.ours, "--host-addr", self.host]);
        command.args(self.more).stdin(Stdio::null());
        command
    }
}

/// A running program that says when it is ready, killed with the test if it was not stopped.
pub(crate) struct Program {
    child: Child,
    stdout: RefCell<BufReader<ChildStdout>>,
    dir: TempDir,
}

impl Program {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(command: Command) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), command)
    }

    fn start_in(dir: TempDir, mut command: Command) -> Self {
        let stderr = fs::File::create(dir.path().join("stderr")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let stdout = RefCell::new(BufReader::new(child.stdout.take().unwrap()));
        let program = Self { child, stdout, dir };
        let mut line = String::new();
        program.stdout.borrow_mut().read_line(&mut line).unwrap();
        assert!(line.starts_with("ready: "), "{command:?} said {line:?} and {:?}", program.stderr());
        program
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.dir.path().join("stderr")).unwrap()
    }

    /// Ends it as Ctrl-C does: what it said after it was ready.
    pub(crate) fn interrupt(self) -> String {
        run("sh", &["-c", &format!("kill -INT {}", self.pid())]);
        self.wait()
    }

    /// What it says until it ends, which must be with status 0 and without a complaint.
    pub(crate) fn wait(self) -> String {
        let (text, complaints) = self.finish();
        assert_eq!(complaints, "", "nty complained");
        text
    }

    /// What it says until it ends, which must be with status 0, and what it complained of.
    fn finish(mut self) -> (String, String) {
        let mut text = String::new();
        self.stdout.borrow_mut().read_to_string(&mut text).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {text}{}", self.stderr());
        (text, self.stderr())
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let mut text = String::new();
            let _ = self.stdout.borrow_mut().read_to_string(&mut text);
            let _ = write!(text, "{}", self.stderr());
            let _ = writeln!(std::io::stderr(), "nty said:\n{text}");
        }
    }
}

/// A running `nty` with a stack.
pub(crate) struct Nty(Program);

impl Nty {
    /// Starts servers on the usual link and waits until they can be reached.
    pub(crate) fn serve(app: &[&str]) -> Self {
        Self::serve_on(&LINK, app)
    }

    /// The same on another link.
    pub(crate) fn serve_on(link: &Link<'_>, app: &[&str]) -> Self {
        Self::start(link.command(app))
    }

    /// Starts servers by this command, and waits until they can be reached.
    pub(crate) fn start(mut command: Command) -> Self {
        let dir = tempfile::tempdir().unwrap();
        command.arg("--stats-socket").arg(dir.path().join("stats"));
        Self(Program::start_in(dir, command))
    }

    /// Several programs, as `[[app]]` tables say.
    pub(crate) fn run(apps: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nty.toml");
        fs::write(&file, apps).unwrap();
        Self::serve(&["run", file.to_str().unwrap()])
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// The counters at this moment.
    pub(crate) fn counters(&self) -> Counters {
        let mut text = String::new();
        let mut socket = UnixStream::connect(self.0.dir.path().join("stats")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.read_to_string(&mut text).unwrap();
        Counters::parse(&text)
    }

    /// Waits until a counter satisfies `wanted`.
    pub(crate) fn wait_for(&self, counter: &str, wanted: impl Fn(u64) -> bool) {
        let mut last = Counters::default();
        let start = Instant::now();
        while !wanted(last.get(counter)) || last.0.is_empty() {
            assert!(start.elapsed() < PATIENCE, "{counter} never became what it should: {last:?}");
            sleep(Duration::from_millis(20));
            last = self.counters();
        }
    }

    /// Ends it as Ctrl-C does: it must do so at once, with status 0, its counters, and without a complaint.
    pub(crate) fn stop(self) -> Counters {
        let (counters, complaints) = self.end();
        assert_eq!(complaints, "", "nty complained");
        counters
    }

    /// The same for one under which others may complain, such as drivers; what was said.
    pub(crate) fn end(self) -> (Counters, String) {
        run("sh", &["-c", &format!("kill -INT {}", self.pid())]);
        let (text, complaints) = self.0.finish();
        let counters = Counters::parse(&text);
        assert!(counters.get("rx-frames") > 0, "no counters at the end: {text}");
        (counters, complaints)
    }

    /// `kill -9`.
    pub(crate) fn kill(self) {
        self.0.kill();
    }
}

/// What `nty` counted, by name.
#[derive(Debug, Default)]
pub(crate) struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Reads lines of `name value`; others are what the programs had to say.
    fn parse(text: &str) -> Self {
        let counter = |line: &str| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Self(text.lines().filter_map(counter).collect())
    }

    /// A counter; 0 if it was not shown.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

/// A directory that `nty http` serves.
pub(crate) struct Site(TempDir);

impl Site {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn root(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    /// Puts a file there.
    pub(crate) fn add(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }
}
