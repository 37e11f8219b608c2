//! What the flags about sharing an interface with the kernel have to agree on.

use super::stack::{StackArgs, StackConfig, StackError};
use super::{App, Protocol};
use crate::run::owned_claims;
use ntytcp::owned::{Claim, MAX_RANGES, Ownership};
use ntytcp::wire::IpProtocol;

/// Checks what the flags say without opening anything.
///
/// # Errors
/// The first setting that contradicts another, and the remedy.
pub(super) fn check(args: &StackArgs, device: &str) -> Result<(), StackError> {
    let error = |key, what: String| Err(StackError { key, what });
    let xdp = device.starts_with("xdp:");
    let owns_arp = args.own.iter().any(|claim| claim.0 == Claim::Arp);
    if args.own.len() > MAX_RANGES {
        return error(
            "own",
            format!("own names {} kinds of packets: give {MAX_RANGES} at most", args.own.len()),
        );
    }
    if !args.own.is_empty() && !xdp && args.exception.is_none() {
        return error(
            "own",
            format!(
                "device {device} cannot leave a part of its frames to the kernel, which would answer what is ours as well: give --exception \
                 tap:NAME, or use xdp:IFACE"
            ),
        );
    }
    if let Some(exception) = &args.exception {
        if !exception.strip_prefix("tap:").is_some_and(|name| !name.is_empty() && !name.contains('%')) {
            return error(
                "exception",
                format!("exception {exception:?}: the kernel's side is a TAP: give tap:NAME"),
            );
        }
        if xdp {
            let what =
                format!("device {device} leaves the rest to the kernel by itself: leave exception out");
            return error("exception", what);
        }
        if args.own.is_empty() {
            let what =
                "exception without own: nothing is left for the kernel: say what is ours, as --own tcp/80";
            return error("exception", what.to_owned());
        }
        if owns_arp {
            let what = "own arp: the kernel has our addresses on the exception TAP and resolves nothing without ARP: leave arp out";
            return error("own", what.to_owned());
        }
    } else if args.exception_rate.is_some() {
        return error("exception-rate", "exception-rate without exception: leave it out".to_owned());
    }
    if args.mirror_kernel {
        if !xdp && args.exception.is_none() {
            let what = format!(
                "device {device} has no kernel's interface beside it to mirror: use xdp:IFACE, or --own with --exception tap:NAME"
            );
            return error("mirror-kernel", what);
        }
        if xdp && !args.addr.is_empty() || !args.gateway.is_empty() {
            let what = "mirror-kernel takes addresses and routes from the kernel: leave addr and gateway out";
            return error("mirror-kernel", what.to_owned());
        }
        if owns_arp {
            let what = "mirror-kernel with own arp: the kernel has the addresses and answers for them: leave one out";
            return error("mirror-kernel", what.to_owned());
        }
    }
    if xdp && (args.mirror_kernel || !args.own.is_empty()) && args.mac.is_some() {
        let what = "mac: the stack shares the kernel's interface and its Ethernet address: leave mac out";
        return error("mac", what.to_owned());
    }
    let foreign = args.own_addr.iter().find(|own| !args.addr.iter().any(|a| a.addr == **own));
    if args.own.is_empty() && !args.own_addr.is_empty() {
        return error(
            "own-addr",
            "own-addr without own: say which packets are ours, as --own tcp/80".to_owned(),
        );
    }
    if let Some(foreign) = foreign.filter(|_| !args.mirror_kernel) {
        return error(
            "own-addr",
            format!("own-addr {foreign} is none of our addresses: give one that addr has"),
        );
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
            ("nty http --device xdp:e0 --addr 10.0.0.2/24 --own tcp/8080", "add tcp/80 to own"),
            ("nty ping --device xdp:e0 --addr 10.0.0.2/24 --own tcp 10.0.0.1", "add icmp to own"),
            ("nty http --device xdp:e0 --addr 10.0.0.2/24 --own http", "give tcp/80, udp/53"),
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
