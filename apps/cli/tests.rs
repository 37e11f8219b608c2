//! Command lines as a user types them.

use super::*;

const STACK: &str = "--device tap:t0 --addr 10.0.0.2/24";

fn task(line: &str) -> Result<Task, String> {
    let words = || line.split_whitespace();
    let cli = Cli::try_parse_from(words()).map_err(|error| usage_line(&error, words()))?;
    cli.task().map_err(|error| error.to_string())
}

fn app(line: &str) -> App {
    match task(&format!("{line} {STACK}")) {
        Ok(Task::Run(mut plan)) => plan.apps.remove(0),
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn definition_has_no_contradictions() {
    Cli::command().debug_assert();
}

#[test]
fn flags_and_files_have_the_same_defaults() {
    assert_eq!(app("nty echo"), App::Echo(echo::Options::default()));
    let http = http::Options { hello: true, ..http::Options::default() };
    assert_eq!(app("nty http --hello"), App::Http(http));
    let zone = vec!["a=b".parse().unwrap()];
    assert_eq!(app("nty dns --zone a=b"), App::Dns(dns::Options { zone, ..dns::Options::default() }));
    let perf = perf::Options { server: true, ..perf::Options::default() };
    assert_eq!(app("nty perf --server"), App::Perf(perf));
    let App::Ping(ping) = app("nty ping 10.0.0.1 -c 3 -i 200ms -s 0 -q") else { panic!("no ping") };
    assert_eq!((ping.count, ping.size, ping.quiet), (Some(3), 0, true));
}

#[test]
fn a_long_argument_is_not_repeated_whole() {
    let error = task(&format!("nty capture --device tap:t0 x{}", "y".repeat(100_000))).unwrap_err();
    assert!(error.len() < 600 && error.ends_with("(see nty capture --help)"), "{error}");
}

#[test]
fn every_wrong_command_line_is_one_line() {
    for (line, word) in [
        ("nty ech", "'ech'; a similar subcommand exists: 'echo'"),
        ("nty echo", "no device"),
        ("nty echo --device tap:t0", "no address"),
        ("nty echo --device tap:t0 --addr 10.0.0.2", "no prefix length"),
        ("nty echo --device tap:t0 --addr 10.0.0.2/24 --gateway x", "--gateway"),
        ("nty echo --device tap:t0 --addr 10.0.0.2/24 --mac x", "MAC"),
        ("nty echo --device tap:t0 --addr 10.0.0.2/24 --mtu 70000", "--mtu"),
        ("nty echo --port 0", "1 to 65535"),
        ("nty echo --mode xt", "[possible values: lt, et]"),
        ("nty echo --config /nonexistent.toml", "/nonexistent.toml"),
        ("nty http", "--root"),
        ("nty http --root / --hello", "--hello"),
        ("nty http --hello --upload", "--root"),
        ("nty http --root / --max-upload 5", "--upload"),
        ("nty http --root / --idle-timeout 0", "no time"),
        ("nty dns", "--zone"),
        ("nty dns --zone example.org", "ORIGIN=FILE"),
        ("nty perf http 10.0.0.1 -P 0", "0 is not in 1..=28232 (see nty perf http --help)"),
        ("nty echo --shards 65", "65 is not in 1..=64 (see nty echo --help)"),
        ("nty ping", "TARGET"),
        ("nty ping host", "TARGET"),
        ("nty ping ::1", "give an IPv4 address"),
        ("nty perf --client ::1", "give an IPv4 address"),
        ("nty ping 10.0.0.1 --count 0", "--count"),
        ("nty ping 10.0.0.1 --size 65508", "--size"),
        ("nty perf", "--server"),
        ("nty perf --server --client 10.0.0.1", "--client"),
        ("nty perf --server --udp", "the client's to choose"),
        ("nty perf --client 10.0.0.1 --reverse --bidir", "--bidir"),
        ("nty perf --client 10.0.0.1 --time 1s --bytes 1M", "--bytes"),
        ("nty perf --client 10.0.0.1 --udp --len 5", "len is 5"),
        ("nty perf --client 10.0.0.1 --parallel 0", "--parallel"),
        ("nty perf http", "TARGET"),
        ("nty perf http host", "[http://]ADDRESS[:PORT][/PATH]"),
        ("nty perf http https://10.0.0.1/", "TLS"),
        ("nty perf http [fd00::1]", "give an IPv4 address"),
        ("nty perf http 10.0.0.1 --time 1s --requests 5", "--requests"),
        ("nty perf http 10.0.0.1 --requests 0", "--requests"),
        ("nty perf http 10.0.0.1 --parallel 0", "--parallel"),
        ("nty perf http 10.0.0.1 --parallel 30000", "30000 is not in 1..=28232"),
        ("nty perf http 10.0.0.1 --pipeline 1025", "1025 is not in 1..=1024"),
        ("nty perf http 10.0.0.1 --pipeline 2 --close", "--close"),
        ("nty perf http 10.0.0.1 --device tap:t0", "no address"),
        ("nty perf --server http 10.0.0.1", "http"),
        ("nty capture", "--device"),
        ("nty capture --device packet:x --filter prt", "'--filter <EXPR>': column 1: \"prt\" stands where"),
        ("nty capture --device packet:x --snaplen 0", "--snaplen"),
        ("nty capture --device packet:x --count 0", "--count"),
        ("nty pktgen --device mem: --src-ip 10.0.0.1 --dst-ip 10.0.0.2 --rate 0", "a number above 0"),
        ("nty pktgen --device mem: --src-ip 10.0.0.1", "--dst-ip"),
        ("nty pktgen --device mem: --src-ip 10.0.0.1 --dst-ip 10.0.0.2 --size 1", "too short"),
        ("nty fwd", "--device"),
        ("nty fwd --device mem: --acl permit", "'--acl <RULE>': the rule ends behind"),
        ("nty fwd --device mem: --route 10.0.0.0/8", "no \"=\""),
        ("nty run", "FILE"),
        ("nty run /nonexistent.toml", "/nonexistent.toml"),
    ] {
        let error = task(line).expect_err(line);
        assert!(error.contains(word) && !error.contains('\n'), "{line}: {error}");
        assert!(!error.starts_with("error"), "{line}: {error}");
    }
}

#[test]
fn help_has_a_line_or_two_per_flag() {
    let help = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap_err().to_string();
    let all = help("nty --help");
    assert!(all.contains("TIME is a number with us, ms, s, m or h; without one, of seconds."), "{all}");
    for name in ["echo", "http", "dns", "ping", "perf", "perf http", "run", "capture", "pktgen", "fwd"] {
        // Where something has more to say than fits there, every flag takes three lines.
        let help = help(&format!("nty {name} --help"));
        assert!(!help.contains("see a summary"), "{help}");
    }
}

#[test]
fn file_fills_in_what_the_flags_leave_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.toml");
    std::fs::write(&path, "[stack]\ndevice = \"tap:t1\"\naddr = \"10.0.0.9/24\"\n[[app]]\nkind = \"echo\"\n")
        .unwrap();
    let Ok(Task::Run(plan)) = task(&format!("nty echo --device tap:t0 --config {}", path.display())) else {
        panic!("no plan")
    };
    assert_eq!(
        (plan.stack.device.as_str(), plan.stack.addrs[0].to_string().as_str()),
        ("tap:t0", "10.0.0.9/24")
    );
    let Ok(Task::Run(plan)) = task(&format!("nty run {} --device mem:", path.display())) else {
        panic!("no plan")
    };
    assert_eq!((plan.stack.device.as_str(), plan.apps.len()), ("mem:", 1));
}

#[test]
fn two_programs_on_one_port_are_refused_where_the_second_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.toml");
    let run = |apps: &str| {
        std::fs::write(&path, format!("[stack]\ndevice = \"mem:\"\naddr = \"10.0.0.9/24\"\n{apps}")).unwrap();
        task(&format!("nty run {}", path.display())).map(|_| ())
    };
    let clash =
        run("[[app]]\nkind = \"echo\"\nport = 80\n[[app]]\nkind = \"http\"\nhello = true\n").unwrap_err();
    assert!(clash.contains("f.toml:7:1: http wants TCP port 80, which echo has: "), "{clash}");
    let udp_only =
        "[[app]]\nkind = \"echo\"\nport = 80\ntransport = \"udp\"\n[[app]]\nkind = \"http\"\nhello = true\n";
    assert_eq!(run(udp_only), Ok(()));
    assert!(run("").unwrap_err().contains("f.toml:1:1: no [[app]]"));
}

#[test]
fn manual_and_completions_are_printed() {
    for line in ["nty man", "nty completions bash", "nty completions zsh", "nty completions fish"] {
        assert!(matches!(task(line), Ok(Task::Print(text)) if text.len() > 500), "{line}");
    }
}
