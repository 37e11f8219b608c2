//! The ping program: requests at their times, replies as lines.
//!
//! Echo sockets belong to the stack and are in no epoll, so while replies are due the program asks to be called every
//! [`POLL`]. That delays lines, not measurements: the stack notes when a reply arrived.

use super::Options;
use super::report::Tally;
use crate::run::{Outcome, Printout, Program, ProgramError};
use nty_epoll::{Epoll, Runtime};
use ntytcp::stack::{EchoArrival, EchoOutcome, SocketError, SocketId};
use std::fmt::Display;
use std::io::Write;
use std::time::{Duration, Instant};

const NAME: &str = "ping";
/// How often to look for replies while some are due.
const POLL: Duration = Duration::from_millis(2);
/// Requests that one call catches up with, when it comes late.
const CATCH_UP: usize = 16;

/// Prepares to ask `options.target`; the first request leaves with the first call of [`Program::ready`].
///
/// # Errors
/// [`ProgramError::Socket`] when the stack has no echo socket left, [`ProgramError::Peer`] for an address of a family that
/// it has no protocol for, or without a route.
pub fn open(options: &Options, runtime: &mut Runtime) -> Result<Box<dyn Program>, ProgramError> {
    Ok(Box::new(Ping::new(options, runtime, Box::new(std::io::stdout()))?))
}

/// A run of requests.
struct Ping {
    options: Options,
    epoll: Epoll,
    socket: SocketId,
    payload: Vec<u8>,
    tally: Tally,
    /// When the next request is due; `None` when all were sent.
    next: Option<Instant>,
    /// By the stack's clock: the last time that we were called.
    seen: ntytcp::time::Instant,
    deadline: Option<Instant>,
    printout: Printout,
}

impl Ping {
    fn new(options: &Options, runtime: &mut Runtime, out: Box<dyn Write>) -> Result<Self, ProgramError> {
        let failed = |source| ProgramError::Socket { program: NAME, source };
        let epoll = Epoll::new()?;
        let socket = runtime.stack().echo_open().map_err(failed)?;
        let seen = runtime.shard().now();
        Ok(Self {
            epoll,
            socket,
            payload: (0..options.size).map(|i| i as u8).collect(),
            tally: Tally::new(options.target, options.timeout.duration(), seen),
            next: Some(Instant::now()),
            seen,
            deadline: Some(Instant::now()),
            printout: Printout::new(out),
            options: options.clone(),
        })
    }

    /// Prints a line, unless only the summary is wanted.
    fn say(&mut self, line: impl Display) {
        if !self.options.quiet {
            self.printout.say(line);
        }
    }

    /// Sends the requests that are due.
    fn send(&mut self, runtime: &mut Runtime, now: Instant) -> Result<(), ProgramError> {
        for _ in 0..CATCH_UP {
            let Some(due) = self.next.filter(|due| *due <= now) else { return Ok(()) };
            let seq = self.tally.sent(self.seen);
            let target = self.options.target;
            match runtime.stack().echo_send(self.socket, target, seq as u16, &self.payload) {
                Ok(()) => {}
                Err(source @ (SocketError::FamilyNotSupported | SocketError::BadSocket)) => {
                    return Err(ProgramError::Peer { program: NAME, peer: target, source });
                }
                Err(error) => {
                    self.tally.not_sent(seq);
                    self.say(format_args!("seq={seq}: not sent: {error}"));
                }
            }
            let all = self.options.count.is_some_and(|count| seq + 1 >= count);
            // Time is not made up for beyond what one call sends.
            let interval = self.options.interval.duration().max(Duration::from_micros(10));
            let earliest = now.checked_sub(interval * CATCH_UP as u32).unwrap_or(now);
            self.next = if all { None } else { Some((due + interval).max(earliest)) };
        }
        Ok(())
    }

    /// Prints what came back.
    fn receive(&mut self, runtime: &mut Runtime) {
        while let Ok(EchoArrival { at, from, seq, outcome, .. }) = runtime.stack().echo_recv(self.socket) {
            match outcome {
                EchoOutcome::Reply { ttl, payload_len } => {
                    if let Some(reply) = self.tally.reply(at, from, seq, payload_len, ttl) {
                        self.say(reply);
                    }
                }
                EchoOutcome::TimeExceeded => {
                    self.tally.error();
                    self.say(format_args!("from {from}: seq={seq} time to live exceeded"));
                }
                EchoOutcome::Failed(error) => {
                    self.tally.error();
                    self.say(format_args!("from {from}: seq={seq} {error}"));
                }
                _ => {}
            }
        }
    }

    /// Prints the summary and ends.
    fn finish(&mut self) {
        if self.outcome().is_none() {
            self.printout.say(self.tally.summary(self.seen));
            self.printout.end(if self.tally.is_complete() { Outcome::Done } else { Outcome::Failed });
        }
    }
}

impl Program for Ping {
    fn name(&self) -> &'static str {
        NAME
    }

    fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    fn ready(&mut self, runtime: &mut Runtime, now: Instant) -> Result<(), ProgramError> {
        if self.outcome().is_some() {
            return Ok(());
        }
        self.seen = runtime.shard().now();
        self.receive(runtime);
        for seq in self.tally.give_up(self.seen) {
            self.say(format_args!("seq={seq}: no reply"));
        }
        self.send(runtime, now)?;
        let waiting = self.tally.next_give_up();
        let is_read = self.printout.is_read(NAME)?;
        if !is_read || self.next.is_none() && waiting.is_none() {
            self.finish();
            self.printout.is_read(NAME)?;
            // The socket is ours alone: closing it cannot fail.
            let _ = runtime.stack().echo_close(self.socket);
        }
        let poll = waiting.map(|_| now + POLL);
        self.deadline = [self.next, poll].into_iter().flatten().min();
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline.filter(|_| self.outcome().is_none())
    }

    fn outcome(&self) -> Option<Outcome> {
        self.printout.outcome()
    }

    fn stop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testnet::{Net, Output, SERVER};
    use crate::values::Span;
    use std::net::IpAddr;

    fn options(target: IpAddr, count: Option<u64>) -> Options {
        Options {
            target,
            count,
            interval: "1ms".parse().unwrap(),
            size: 56,
            timeout: Span::from_secs(5),
            quiet: false,
        }
    }

    /// What is printed until the program ends, and how it ends.
    fn run(options: &Options, stop_after: Option<usize>) -> (String, Outcome) {
        run_on(Net::bare(), options, stop_after)
    }

    fn run_on(mut net: Net, options: &Options, stop_after: Option<usize>) -> (String, Outcome) {
        let out = Output::default();
        let mut ping = Ping::new(options, &mut net.client, Box::new(out.clone())).unwrap();
        let start = Instant::now();
        while ping.outcome().is_none() {
            assert!(start.elapsed() < Duration::from_secs(60), "{}", out.text());
            ping.ready(&mut net.client, Instant::now()).unwrap();
            net.step();
            if stop_after.is_some_and(|lines| out.text().lines().count() >= lines) {
                ping.stop();
            }
        }
        assert_eq!(ping.deadline(), None);
        (out.text(), ping.outcome().unwrap())
    }

    #[test]
    fn every_request_gets_its_line_and_the_summary_follows() {
        let (text, outcome) = run(&options(SERVER, Some(5)), None);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 7, "{text}");
        for (i, line) in lines.iter().take(5).enumerate() {
            assert!(line.starts_with(&format!("56 bytes from 10.0.0.2: seq={i} ttl=64 time=")), "{line}");
        }
        assert!(lines[5].starts_with("10.0.0.2: 5 sent, 5 received, 0 lost (0.0 %), "), "{text}");
        assert!(lines[6].starts_with("rtt min/avg/max/mdev = "), "{text}");
        assert_eq!(outcome, Outcome::Done);
    }

    #[test]
    fn data_beyond_the_mtu_comes_back_whole() {
        let (text, outcome) = run(&Options { size: 20_000, ..options(SERVER, Some(2)) }, None);
        assert!(text.starts_with("20000 bytes from 10.0.0.2: seq=0 "), "{text}");
        assert_eq!(outcome, Outcome::Done);
    }

    #[test]
    fn stop_prints_the_summary_of_an_endless_run() {
        let (text, outcome) = run(&options(SERVER, None), Some(3));
        assert!(text.contains("rtt min/avg/max/mdev"), "{text}");
        assert_eq!(outcome, Outcome::Done);
    }

    #[test]
    fn quiet_run_prints_the_summary_only() {
        let (text, _) = run(&Options { quiet: true, ..options(SERVER, Some(2)) }, None);
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn one_lost_reply_of_many_is_a_failure() {
        // The link loses one frame in five of what we send, with this seed some of ten and not all.
        let lossy = Net::with_faults(|faults| faults.loss = 0.2);
        let options = Options { timeout: "200ms".parse().unwrap(), ..options(SERVER, Some(10)) };
        let (text, outcome) = run_on(lossy, &options, None);
        let (lost, got) = (text.matches(": no reply\n").count(), text.matches("bytes from").count());
        assert!(lost > 0 && got > 0 && lost + got == 10, "{text}");
        assert_eq!(outcome, Outcome::Failed);
    }

    #[test]
    fn duplicate_replies_are_said_and_no_failure() {
        let doubling = Net::with_faults(|faults| faults.duplicate = 1.0);
        let (text, outcome) = run_on(doubling, &options(SERVER, Some(5)), None);
        assert!(text.contains(" (duplicate)\n") && text.contains(" duplicate, "), "{text}");
        assert!(text.contains("5 sent, 5 received, 0 lost"), "{text}");
        assert_eq!(outcome, Outcome::Done);
    }

    #[test]
    fn nobody_there_is_a_failure_with_its_reasons() {
        let timeout = "20ms".parse().unwrap();
        let (text, outcome) =
            run(&Options { timeout, ..options(IpAddr::from([10, 0, 0, 77]), Some(2)) }, None);
        assert!(text.contains("seq=0: no reply\n"), "{text}");
        assert!(text.contains("10.0.0.77: 2 sent, 0 received, 2 lost (100.0 %)"), "{text}");
        assert_eq!(outcome, Outcome::Failed);
    }

    #[test]
    fn destination_without_a_route_is_said_per_request() {
        let timeout = Span::from_secs(3_600);
        let (text, outcome) =
            run(&Options { timeout, ..options(IpAddr::from([192, 0, 2, 1]), Some(1)) }, None);
        assert!(text.starts_with("seq=0: not sent: network unreachable\n"), "{text}");
        assert_eq!(outcome, Outcome::Failed);
    }

    #[test]
    fn address_without_a_protocol_is_refused() {
        let mut net = Net::bare();
        let options = options("fe80::1".parse().unwrap(), Some(1));
        let mut ping = Ping::new(&options, &mut net.client, Box::new(Output::default())).unwrap();
        let error = ping.ready(&mut net.client, Instant::now()).unwrap_err();
        assert!(error.to_string().starts_with("ping: cannot reach fe80::1: "), "{error}");
    }
}
