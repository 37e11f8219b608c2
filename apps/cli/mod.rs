//! The command line of `nty`: from arguments to a [`Plan`], or to one line that says what to do instead.

pub mod config;
pub mod dns;
mod sharing;
pub mod stack;

use crate::{capture, devices, echo, fwd, http, perf, ping, pktgen, replay};
use clap::{CommandFactory as _, Parser};
use config::{ConfigError, ConfigFile};
pub use stack::{Idle, StackArgs, StackConfig, StackError};
use std::collections::HashMap;
use std::path::PathBuf;

/// The version with the facts of the build.
const VERSION: &str = env!("NTY_VERSION");

const EXAMPLES: &str = "\
Examples (as root, or in a user namespace of one's own: unshare -Urn):
  nty echo --device tap:nty0 --addr 10.0.0.2/24 --host-addr 10.0.0.1/24
  nty http --device tap:nty0 --addr 10.0.0.2/24 --host-addr 10.0.0.1/24 --root .
  nty run demo.toml          several programs on one stack; see nty run --help

In the same namespace: ping 10.0.0.2, nc 10.0.0.2 7, curl http://10.0.0.2/

TIME is a number with us, ms, s, m or h; without one, of seconds. SIZE is a number of bytes, or one with k, M or G.

Exit status: 0 all went well, 1 something failed while running or a file cannot be read, 2 wrong arguments or configuration.";

const RUN_EXAMPLE: &str = "\
The file has one [stack] table and one [[app]] table per program, with the names of the flags:

  [stack]
  device = \"tap:nty0\"
  addr = [\"10.0.0.2/24\"]
  host-addr = \"10.0.0.1/24\"

  [[app]]
  kind = \"dns\"                               # dns, http, echo or perf
  zone = [\"example.org=example.org.zone\"]

  [[app]]
  kind = \"http\"
  root = \"/srv/www\"
  upload = true

Flags given beside the file win over its [stack]. Relative paths start at the working directory.";

const CAPTURE_FILTERS: &str = "\
Filters are a part of tcpdump's, with the same meaning:
  ip, ip6, arp, tcp, udp, icmp, icmp6                          what the frame holds
  [ip|ip6|arp] [src|dst|src or dst|src and dst] host ADDRESS   \"host\" may be left out
  [ip|ip6|arp] [src|...] net PREFIX                            as 10.0.0.0/8, 10/8, 2001:db8::/32
  [tcp|udp] [src|...] port N, portrange N-M                    numbers only
  ether [src|...] host MAC, ether broadcast, ether multicast
  vlan [ID]                                                    what follows looks behind the tag
  less LENGTH, greater LENGTH                                  these included
  not, and, or, (, )                                           and, or: of equal rank, from left to right

Examples:
  nty capture --device packet:eth0 --out web.pcapng --filter 'tcp port 80 and host 10.0.0.2'
  nty capture --device packet:eth0 --out - --filter 'vlan 7 and udp' | tcpdump -n -r -
  nty capture --device pcap:day.pcapng --out dns.pcapng --filter 'port 53'

Ctrl-C ends it with a summary. The file is whole up to the last second, also after kill -9.";

const PKTGEN_EXAMPLES: &str = "\
Examples:
  nty pktgen --device packet:eth0 --src-ip 10.0.0.9 --dst-ip 10.0.0.2 --pps 10000 --seconds 5     to an echo server
  nty pktgen --device xdp:eth0 --back xdp:eth1 --src-ip 10.0.0.9 --dst-ip 10.1.0.0-10.1.0.255 --via 10.0.0.1 --size imix \\
      --fast --count 1000000 --json                                       through a forwarder, from one port to the other
  nty pktgen --device xdp:eth1 --receive --src-ip 10.1.0.9                 count what another pktgen sends; answer its ARP

The pace is --pps 1000 if none is given. With -v, a line per second. Exit status: 0 when all was sent, and no more was lost than --max-loss; 1 otherwise.";

const FWD_EXAMPLES: &str = "\
Rules: permit|deny ip|tcp|udp|icmp|NUMBER from any|ADDRESS|PREFIX [port N|N-M] to any|ADDRESS|PREFIX [port N|N-M]
The first that fits decides, what none fits passes. Ports are those of tcp and udp, and not of later fragments.

Examples:
  nty fwd --device packet:eth0 --device packet:eth1                            a wire between the two
  nty fwd --device xdp:eth0 --mac-swap                                         send everything back
  nty fwd --mode l3 --device xdp:eth0 --device xdp:eth1 --addr 0=10.0.0.1/24 --addr 1=10.0.1.1/24 \\
      --route '0.0.0.0/0=1,via 10.0.1.254' --acl 'deny udp from any to 10.0.1.0/24 port 53'

A router answers ARP and ping, and tells senders by ICMP of packets that cannot go on. It prints its counters at Ctrl-C; with -v, a line per second.";

/// A TCP/IP stack in user space, and programs that run on it
#[derive(Debug, Parser)]
#[command(name = "nty", version = VERSION, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    /// Say more on standard error; repeat for still more
    #[arg(short, long, action = clap::ArgAction::Count, global = true, display_order = 900)]
    pub verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Send back what comes, over TCP and UDP
    #[command(
        after_help = "Example:\n  nty echo --device tap:nty0 --addr 10.0.0.2/24 --host-addr 10.0.0.1/24 --mode et"
    )]
    Echo(WithStack<echo::Options>),
    /// Serve files over HTTP/1.1
    #[command(after_help = "Examples:
  nty http --device tap:nty0 --addr 10.0.0.2/24 --host-addr 10.0.0.1/24 --root /srv/www
  nty http --device tap:nty0 --addr 10.0.0.2/24 --host-addr 10.0.0.1/24 --root . --upload
Then: curl -O http://10.0.0.2/FILE    curl -T FILE http://10.0.0.2/")]
    Http(WithStack<http::Options>),
    /// Answer DNS queries from zone files, over UDP and TCP
    #[command(after_help = "Example:
  nty dns --device tap:nty0 --addr 10.0.0.2/24 --host-addr 10.0.0.1/24 --zone example.org=FILE
Then: dig @10.0.0.2 www.example.org    dig +tcp @10.0.0.2 example.org SOA")]
    Dns(WithStack<dns::Options>),
    /// Send ICMP echo requests and time the replies
    #[command(
        after_help = "Example:\n  nty ping --device tap:nty0 --addr 10.0.0.2/24 --host-addr 10.0.0.1/24 10.0.0.1 -c 5
Exit status: 0 when every request was answered in time, 1 otherwise."
    )]
    Ping(WithStack<ping::Options>),
    /// Measure how fast bulk data goes, over TCP or UDP, either way
    #[command(after_help = "Examples:
  nty perf --device tap:nty0 --addr 10.0.0.2/24 --host-addr 10.0.0.1/24 --gateway 10.0.0.1 --server
  nty perf --device tap:nty1 --addr 10.0.1.2/24 --host-addr 10.0.1.1/24 --gateway 10.0.1.1 --client 10.0.0.2 --time 5s --bidir
Between the two on one host the kernel is the router: sysctl -w net.ipv4.ip_forward=1")]
    Perf(PerfArgs),
    /// Run several programs on one stack, as a file says
    #[command(after_help = RUN_EXAMPLE)]
    Run(RunArgs),
    /// Send a capture through a device, and look at what comes back
    #[command(after_help = "Examples:
  nty replay queries.pcap --device packet:eth0 --to-mac 02:00:00:00:00:02 --pps 10000 --expect dns
  nty replay day.pcapng --device xdp:eth1 --speed 10 --loops 3
Exit status: 0 when all was sent, and answered if that is expected; 1 otherwise.")]
    Replay(replay::Options),
    /// Generate frames at a rate, and measure what comes back
    #[command(after_help = PKTGEN_EXAMPLES)]
    Pktgen(Box<pktgen::Options>),
    /// Forward frames between devices, as a wire, a mirror or a router
    #[command(after_help = FWD_EXAMPLES)]
    Fwd(Box<fwd::Options>),
    /// Write the frames of a device to a file, those that a filter takes
    #[command(after_help = CAPTURE_FILTERS)]
    Capture(capture::Options),
    /// List the interfaces of this machine, and the flag to type for each
    Devices,
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    #[command(hide = true)]
    Man,
}

#[derive(Debug, clap::Args)]
struct WithStack<A: clap::Args> {
    #[command(flatten)]
    app: A,
    #[command(flatten)]
    stack: StackArgs,
    /// Take the [stack] table of this file for what the flags leave open; its [[app]] tables are for nty run
    #[arg(long, value_name = "FILE", help_heading = "Stack")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct PerfArgs {
    #[command(flatten)]
    bulk: WithStack<perf::Options>,
    #[command(subcommand)]
    other: Option<PerfCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum PerfCommand {
    /// Measure how fast an HTTP server answers: requests and connections per second, latencies, failures by kind
    #[command(after_help = "Examples:
  nty perf http 10.0.0.2 --device packet:eth1 --addr 10.0.0.3/24 --parallel 500
  nty perf http 10.0.0.2:8080/page --device xdp:eth1 --addr 10.0.0.3/24 --close --parallel 100 --time 30s
  nty perf http 10.0.0.2 --device tap:nty1 --addr 10.0.0.3/24 --host-addr 10.0.0.1/24 -n 100000 --pipeline 16 --json
--parallel and --time are nty perf's; --requests stands for --bytes, as requests are what is counted; --close because a server's
connections per second are another figure than its requests; --pipeline because without it one connection measures the round trip.
Each connection asks again when it was answered (a closed loop): a slow server is asked less often.
Failed: refused, reset, unreachable; timed out; closed before an answer; cut off in one; malformed: no HTTP/1; unasked: longer than
its Content-Length; exhausted: no port or memory of ours. A place whose connection failed stays empty for 100 ms.
Exit status: 0 when every request was answered by a status of 2xx, 1 otherwise.")]
    Http(Box<WithStack<perf::http::Options>>),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The configuration (TOML)
    file: PathBuf,
    #[command(flatten)]
    stack: StackArgs,
}

/// One program with its options.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum App {
    /// `nty echo`
    Echo(echo::Options),
    /// `nty http`
    Http(http::Options),
    /// `nty dns`
    Dns(dns::Options),
    /// `nty ping`
    Ping(ping::Options),
    /// `nty perf`
    Perf(perf::Options),
    /// `nty perf http`
    PerfHttp(perf::http::Options),
}

/// What a port is taken for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Protocol {
    Tcp,
    Udp,
}

impl App {
    /// The name of the subcommand.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Echo(_) => "echo",
            Self::Http(_) => "http",
            Self::Dns(_) => "dns",
            Self::Ping(_) => "ping",
            Self::Perf(_) => "perf",
            Self::PerfHttp(_) => "perf http",
        }
    }

    /// Whether it waits for others, until it is told to stop.
    pub fn is_server(&self) -> bool {
        match self {
            Self::Echo(_) | Self::Http(_) | Self::Dns(_) => true,
            Self::Ping(_) | Self::PerfHttp(_) => false,
            Self::Perf(options) => options.client.is_none(),
        }
    }

    /// What the options have to agree on among themselves.
    ///
    /// # Errors
    /// What is wrong, with the remedy.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Http(options) => options.check().map_err(|error| error.to_string()),
            Self::Dns(options) => options.check(),
            Self::Perf(options) => options.check(),
            Self::PerfHttp(options) => options.check(),
            Self::Ping(options) => options.check(),
            Self::Echo(_) => Ok(()),
        }
    }

    /// The ports that the program listens on.
    fn ports(&self) -> Vec<(Protocol, u16)> {
        let both = |port| vec![(Protocol::Tcp, port), (Protocol::Udp, port)];
        match self {
            Self::Echo(o) => {
                let wanted = |&(protocol, _): &(Protocol, u16)| match protocol {
                    Protocol::Tcp => o.transport.has_tcp(),
                    Protocol::Udp => o.transport.has_udp(),
                };
                both(o.port.get()).into_iter().filter(wanted).collect()
            }
            Self::Http(o) => vec![(Protocol::Tcp, o.port.get())],
            Self::Dns(o) => both(o.port.get()),
            Self::Perf(o) if o.server => both(o.port.get()),
            Self::Perf(_) | Self::PerfHttp(_) | Self::Ping(_) => Vec::new(),
        }
    }
}

/// What is to be run: one stack, and the programs on it, no two of which listen on the same port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The stack.
    pub stack: StackConfig,
    /// The programs, at least one.
    pub apps: Vec<App>,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Task {
    /// Run programs.
    Run(Box<Plan>),
    /// Send a capture.
    Replay(replay::Options),
    /// Generate frames.
    Pktgen(Box<pktgen::Options>),
    /// Forward frames.
    Fwd(Box<fwd::Options>),
    /// Capture frames.
    Capture(capture::Options),
    /// Print this on standard output.
    Print(Vec<u8>),
}

/// Why there is nothing to run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// The configuration file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The flags are wrong, or not enough.
    #[error("{0}")]
    Flags(String),
}

impl UsageError {
    /// Whether there is nothing wrong with what was asked for, only a file that cannot be read.
    pub fn is_unreadable_file(&self) -> bool {
        matches!(self, Self::Config(ConfigError::Read { .. }))
    }
}

impl Cli {
    /// Finds out what to do.
    ///
    /// # Errors
    /// [`UsageError`], in one line.
    pub fn task(self) -> Result<Task, UsageError> {
        let plan = match self.command {
            Command::Echo(args) => args.plan(App::Echo)?,
            Command::Http(args) => args.plan(App::Http)?,
            Command::Dns(args) => args.plan(App::Dns)?,
            Command::Ping(args) => args.plan(App::Ping)?,
            Command::Perf(args) => args.plan()?,
            Command::Run(args) => args.plan()?,
            Command::Replay(options) => return Ok(Task::Replay(options)),
            Command::Capture(options) => return Ok(Task::Capture(options)),
            Command::Pktgen(options) => return Ok(Task::Pktgen(options)),
            Command::Fwd(options) => return Ok(Task::Fwd(options)),
            Command::Devices => return Ok(Task::Print(devices::list().into_bytes())),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "nty", &mut script);
                return Ok(Task::Print(script));
            }
            Command::Man => {
                let mut page = Vec::new();
                let rendered = clap_mangen::Man::new(Self::command()).render(&mut page);
                return rendered.map(|()| Task::Print(page)).map_err(|e| UsageError::Flags(e.to_string()));
            }
        };
        Ok(Task::Run(Box::new(plan)))
    }
}

impl<A: clap::Args> WithStack<A> {
    fn plan(self, app: impl FnOnce(A) -> App) -> Result<Plan, UsageError> {
        let app = app(self.app);
        app.check().map_err(|what| UsageError::Flags(format!("{}: {what}", app.name())))?;
        let stack = match self.config {
            Some(path) => ConfigFile::read(&path)?.stack_config(self.stack)?,
            None => self.stack.check().map_err(|error| UsageError::Flags(error.to_string()))?,
        };
        sharing::check_app(&stack, &app).map_err(UsageError::Flags)?;
        Ok(Plan { stack, apps: vec![app] })
    }
}

impl PerfArgs {
    fn plan(self) -> Result<Plan, UsageError> {
        match self.other {
            None => self.bulk.plan(App::Perf),
            Some(PerfCommand::Http(args)) => args.plan(App::PerfHttp),
        }
    }
}

impl RunArgs {
    fn plan(self) -> Result<Plan, UsageError> {
        let file = ConfigFile::read(&self.file)?;
        let stack = file.stack_config(self.stack)?;
        if file.apps.is_empty() {
            let what = "no [[app]]: add at least one, as [[app]] with kind = \"echo\"".to_owned();
            return Err(file.app_error(config::Place::BEGINNING, what).into());
        }
        let mut taken = HashMap::new();
        for (app, place) in &file.apps {
            sharing::check_app(&stack, app).map_err(|what| file.app_error(*place, what))?;
            for (protocol, port) in app.ports() {
                if let Some(other) = taken.insert((protocol, port), app.name()) {
                    let (name, protocol) =
                        (app.name(), if protocol == Protocol::Tcp { "TCP" } else { "UDP" });
                    let what = format!(
                        "{name} wants {protocol} port {port}, which {other} has: give one another port"
                    );
                    return Err(file.app_error(*place, what).into());
                }
            }
        }
        Ok(Plan { stack, apps: file.apps.into_iter().map(|(app, _)| app).collect() })
    }
}

/// What clap has to say about wrong arguments, as one line. `args` are the words of the command line.
pub fn usage_line<'a>(error: &clap::Error, args: impl IntoIterator<Item = &'a str>) -> String {
    let text = error.to_string();
    let what = text.split("\n\nUsage:").next().unwrap_or_default();
    let what = what.split("\n\nFor more").next().unwrap_or_default();
    let what = shortened(one_line(&what.replace("\n\n  tip: ", "; ")));
    format!("{} (see {} --help)", what.strip_prefix("error: ").unwrap_or(&what), command_of(args))
}

/// The command that a line names, as `nty perf http`.
fn command_of<'a>(args: impl IntoIterator<Item = &'a str>) -> String {
    let root = Cli::command();
    let (mut command, mut name) = (&root, root.get_name().to_owned());
    for word in args.into_iter().skip(1) {
        let Some(found) = command.find_subcommand(word) else { break };
        command = found;
        name = format!("{name} {word}");
    }
    name
}

/// A message that repeats what somebody wrote, without the middle if that was much.
fn shortened(message: String) -> String {
    const ENDS: usize = 200;
    let place = |n: usize| message.char_indices().map(|(at, _)| at).nth(n);
    let length = message.chars().count();
    match (place(ENDS), place(length.saturating_sub(ENDS))) {
        (Some(head), Some(tail)) if head < tail => {
            format!(
                "{} ... {}",
                message.get(..head).unwrap_or_default(),
                message.get(tail..).unwrap_or_default()
            )
        }
        _ => message,
    }
}

/// A message of several lines in one.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
