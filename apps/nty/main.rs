//! The `nty` command.

use clap::Parser as _;
use nty_apps::cli::{Cli, Task, usage_line};
use nty_apps::replay;
use nty_apps::run::{self, RunError};
use nty_apps::{capture, fwd, pktgen};
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::filter::LevelFilter;

/// Something failed while running.
const FAILED: u8 = 1;
/// The arguments or the configuration are wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            // Help and version. Whoever closes the pipe has read enough.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            return ExitCode::from(USAGE);
        }
        Err(error) => {
            let args: Vec<_> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
            return fail(USAGE, &usage_line(&error, args.iter().map(String::as_str)));
        }
    };
    let _log = start_logging(cli.verbose);
    match cli.task() {
        Ok(Task::Print(text)) => match io::stdout().write_all(&text) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                fail(FAILED, &format!("standard output: {error}"))
            }
            _ => ExitCode::SUCCESS,
        },
        Ok(Task::Run(plan)) => ended(run::run(&plan)),
        Ok(Task::Capture(options)) => ended(capture::run(&options)),
        Ok(Task::Fwd(options)) => ended(fwd::run(&options)),
        Ok(Task::Pktgen(options)) => ended(pktgen::run(&options)),
        Ok(Task::Replay(options)) => ended(replay::run(&options)),
        Err(error) if error.is_unreadable_file() => fail(FAILED, &error),
        Err(error) => fail(USAGE, &error),
    }
}

fn ended(result: Result<(), RunError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ RunError::Usage(_)) => fail(USAGE, &error),
        Err(error) => fail(FAILED, &error),
    }
}

fn fail(status: u8, error: &dyn std::fmt::Display) -> ExitCode {
    let what = error.to_string();
    // EMFILE, whatever it was that needed a descriptor: the system's own words name no remedy.
    let remedy =
        if what.contains("(os error 24)") { ": raise the limit of open files (ulimit -n)" } else { "" };
    // Without a standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "nty: {what}{remedy}");
    ExitCode::from(status)
}

/// Warnings and errors on standard error; more with each `-v`. A thread of its own writes them, so that a reader who does not read
/// stops the log and not the stack; what is left is written when the guard is dropped.
fn start_logging(verbose: u8) -> WorkerGuard {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        3.. => LevelFilter::TRACE,
    };
    let (writer, guard) = tracing_appender::non_blocking(io::stderr());
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(writer)
        .with_ansi(io::stderr().is_terminal())
        .with_target(verbose > 1)
        .init();
    guard
}
