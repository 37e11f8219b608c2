//! What the flags about sharing an interface with the kernel have to agree on.

use super::stack::{StackArgs, StackConfig, StackError};
use super::{App, Protocol};
use crate::run::owned_claims;
use ntytcp::device::exception::ExceptionConfig;
use ntytcp::owned::{Claim, MAX_RANGES, Ownership};
use ntytcp::wire::IpProtocol;

/// Checks what the flags say without opening anything.
///
/// # Errors
/// The first setting that contradicts another, and the remedy.
pub(super) fn check(args: &StackArgs, device: &str) -> Result<(), StackError> {
    let xdp = device.starts_with("xdp:");
    let owns_arp = args.own.iter().any(|claim| claim.0 == Claim::Arp);
    check_own(args, device, xdp)?;
    check_exception(args, device, xdp, owns_arp)?;
    check_mirror(args, device, xdp, owns_arp)?;
    if xdp && (args.mirror_kernel || !args.own.is_empty()) && args.mac.is_some() {
        return refuse(
            "mac",
            "mac: the stack shares the kernel's interface and its Ethernet address: leave mac out",
        );
    }
    Ok(())
}

fn refuse(key: &'static str, what: impl Into<String>) -> Result<(), StackError> {
    Err(StackError { key, what: what.into() })
}

fn check_own(args: &StackArgs, device: &str, xdp: bool) -> Result<(), StackError> {
    let kinds = args.own.len();
    if kinds > MAX_RANGES {
        return refuse("own", format!("own names {kinds} kinds of packets: give {MAX_RANGES} at most"));
    }
    if kinds > 0 && !xdp && args.exception.is_none() {
        let what = format!(
            "device {device} cannot leave a part of its frames to the kernel, which would answer what is ours as well: give --exception \
             tap:NAME, or use xdp:IFACE"
        );
        return refuse("own", what);
    }
    if kinds == 0 && !args.own_addr.is_empty() {
        return refuse("own-addr", "own-addr without own: say which packets are ours, as --own tcp/80");
    }
    let foreign = args.own_addr.iter().find(|own| !args.addr.iter().any(|a| a.addr == **own));
    match foreign {
        Some(foreign) if !args.mirror_kernel => {
            refuse("own-addr", format!("own-addr {foreign} is none of our addresses: give one that addr has"))
        }
        _ => Ok(()),
    }
}

fn check_exception(args: &StackArgs, device: &str, xdp: bool, owns_arp: bool) -> Result<(), StackError> {
    let Some(exception) = &args.exception else {
        return match args.exception_rate {
            Some(_) => refuse("exception-rate", "exception-rate without exception: leave it out"),
            None => Ok(()),
        };
    };
    if !exception.strip_prefix("tap:").is_some_and(|name| !name.is_empty() && !name.contains('%')) {
        let what =
            format!("exception {exception:?}: the kernel's side is a TAP of a name without %: give tap:NAME");
        return refuse("exception", what);
    }
    if xdp {
        let what = format!("device {device} leaves the rest to the kernel by itself: leave exception out");
        return refuse("exception", what);
    }
    let most = ExceptionConfig::MAX_RATE;
    if let Some(rate) = args.exception_rate.filter(|rate| rate.get() > most) {
        return refuse("exception-rate", format!("exception-rate is {rate}: give 1 to {most}"));
    }
    if args.own.is_empty() {
        let what = "exception without own: nothing is left for the kernel: say what is ours, as --own tcp/80";
        return refuse("exception", what);
    }
    if owns_arp {
        let what = "own arp: the kernel has our addresses on the exception TAP and resolves nothing without ARP: leave arp out";
        return refuse("own", what);
    }
    Ok(())
}

fn check_mirror(args: &StackArgs, device: &str, xdp: bool, owns_arp: bool) -> Result<(), StackError> {
    if !args.mirror_kernel {
        return Ok(());
    }
    if !xdp && args.exception.is_none() {
        let what = format!(
            "device {device} has no kernel's interface beside it to mirror: use xdp:IFACE, or --own with --exception tap:NAME"
        );
        return refuse("mirror-kernel", what);
    }
    if xdp && !args.addr.is_empty() || !args.gateway.is_empty() {
        let what = "mirror-kernel takes addresses and routes from the kernel: leave addr and gateway out";
        return refuse("mirror-kernel", what);
    }
    if owns_arp {
        let what =
            "mirror-kernel with own arp: the kernel has the addresses and answers for them: leave one out";
        return refuse("mirror-kernel", what);
    }
    Ok(())
}

/// Checks that a program gets the packets that it waits for.
///
/// # Errors
/// What it would wait for in vain, and the remedy.
pub(super) fn check_app(stack: &StackConfig, app: &App) -> Result<(), String> {
    if stack.own.is_empty() {
        return Ok(());
    }
    let owned = Ownership::new(&owned_claims(stack), []);
    let add = |what: &str| {
        format!("{} waits for packets that own leaves to the kernel: add {what} to own", app.name())
    };
    for (protocol, port) in app.ports() {
        let (number, name) = match protocol {
            Protocol::Tcp => (IpProtocol::TCP, "tcp"),
            Protocol::Udp => (IpProtocol::UDP, "udp"),
        };
        if !owned.has_port(number, port) {
            return Err(add(&format!("{name}/{port}")));
        }
    }
    if matches!(app, App::Ping(_)) && !owned.icmp() {
        return Err(add("icmp"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Task};
    use clap::Parser as _;

    /// What becomes of a command line.
    fn outcome(line: &str) -> Result<(), String> {
        let line = line.replace("nty http", "nty http --root .");
        match Cli::try_parse_from(line.split_whitespace()).map(Cli::task) {
            Ok(Ok(Task::Run(_))) => Ok(()),
            Ok(Ok(other)) => Err(format!("{other:?}")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(super::super::usage_line(&error, line.split_whitespace())),
        }
    }

    #[test]
    fn what_cannot_be_shared_is_refused_with_the_remedy() {
        for (line, remedy) in [
            (
                "nty http --device packet:e0 --addr 10.0.0.2/24 --own tcp/80",
                "give --exception tap:NAME, or use xdp:IFACE",
            ),
            (
                "nty http --device xdp:e0 --addr 10.0.0.2/24 --own tcp/80 --exception tap:x",
                "leave exception out",
            ),
            ("nty http --device packet:e0 --addr 10.0.0.2/24 --exception tap:x", "as --own tcp/80"),
            ("nty http --device packet:e0 --addr 10.0.0.2/24 --own tcp --exception eth1", "give tap:NAME"),
            (
                "nty http --device packet:e0 --addr 10.0.0.2/24 --own tcp,arp --exception tap:x",
                "leave arp out",
            ),
            ("nty http --device packet:e0 --mirror-kernel", "use xdp:IFACE, or --own with --exception"),
            ("nty http --device xdp:e0 --addr 10.0.0.2/24 --mirror-kernel", "leave addr and gateway out"),
            ("nty http --device xdp:e0 --mirror-kernel --own tcp,arp", "leave one out"),
            (
                "nty http --device xdp:e0 --addr 10.0.0.2/24 --own tcp --mac 02:00:00:00:00:01",
                "leave mac out",
            ),
            ("nty http --device xdp:e0 --addr 10.0.0.2/24 --own-addr 10.0.0.2", "as --own tcp/80"),
            (
                "nty http --device xdp:e0 --addr 10.0.0.2/24 --own tcp --own-addr 10.0.0.3",
                "give one that addr has",
            ),
            ("nty http --device xdp:e0 --addr 10.0.0.2/24 --exception-rate 5", "leave it out"),
            (
                "nty http --device xdp:e0 --addr 10.0.0.2/24 --exception-rate 10000001",
                "is not in 1..=10000000",
            ),
            ("nty http --device xdp:e0 --addr 10.0.0.2/24 --own tcp/8080", "add tcp/80 to own"),
            ("nty ping --device xdp:e0 --addr 10.0.0.2/24 --own tcp 10.0.0.1", "add icmp to own"),
            ("nty http --device xdp:e0 --addr 10.0.0.2/24 --own http", "give tcp/80, udp/53"),
            ("nty http --device xdp:e0 --addr 10.0.0.2/24 --source-ports 9", "give FIRST-LAST"),
            ("nty http --device xdp:e0 --addr 10.0.0.2/24 --source-ports 0-9", "give FIRST-LAST"),
        ] {
            let said = outcome(line).unwrap_err();
            assert!(said.contains(remedy), "{line}: {said}");
        }
        for line in [
            "nty http --device xdp:e0 --addr 10.0.0.2/24 --own tcp/80,udp/53",
            "nty http --device xdp:e0 --own tcp/80-90 --mirror-kernel --own-addr 10.0.0.2",
            "nty http --device xdp:e0 --mirror-kernel --shards 2",
            "nty http --device packet:e0 --own tcp/80 --exception tap:x --exception-rate 9 --mirror-kernel --addr 10.0.0.2/24 --shards 3",
            "nty ping --device xdp:e0 --addr 10.0.0.2/24 --own icmp,arp 10.0.0.1 --source-ports 50000-50009",
        ] {
            assert_eq!(outcome(line), Ok(()), "{line}");
        }
    }
}
