//! `nty dns` with dig and dnsperf as its clients.

use crate::world::{Nty, in_namespace, run};
use std::fmt::Write as _;
use std::fs;
use tempfile::TempDir;

const QUERIES: usize = 10_000;

/// A zone with `hosts` names and one answer that does not fit a plain datagram.
pub(crate) struct Zone(TempDir);

impl Zone {
    pub(crate) fn new(hosts: usize) -> Self {
        let mut text =
            String::from("$TTL 60\n@ IN SOA ns1 hostmaster 1 2h 15m 2w 5m\n  NS ns1\nns1 A 192.0.2.53\n");
        for n in 0..40 {
            let _ = writeln!(text, "big TXT \"{n:0>100}\"");
        }
        for n in 0..hosts {
            let _ = writeln!(text, "h{n} A 192.0.2.{}", n % 256);
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("zone"), text).unwrap();
        Self(dir)
    }

    /// As `nty dns --zone` wants it.
    pub(crate) fn spec(&self) -> String {
        format!("example.test={}", self.0.path().join("zone").display())
    }

    fn serve(&self) -> Nty {
        Nty::serve(&["dns", "--zone", &self.spec()])
    }
}

fn dig(args: &[&str]) -> String {
    run("dig", &[&["@10.0.0.2", "+tries=3", "+time=5"], args].concat())
}

/// Asks for a name of a zone of ten and for one that there is not.
pub(crate) fn dig_over_udp_and_tcp() {
    for transport in ["+notcp", "+tcp"] {
        assert_eq!(dig(&[transport, "+short", "h7.example.test", "A"]), "192.0.2.7\n");
        let none = dig(&[transport, "nothing.example.test", "A"]);
        assert!(none.contains("status: NXDOMAIN") && none.contains("AUTHORITY: 1"), "{none}");
    }
}

#[test]
fn dig_asks_over_udp_and_tcp() {
    in_namespace(|| {
        let zone = Zone::new(10);
        let nty = zone.serve();
        dig_over_udp_and_tcp();
        let counters = nty.stop();
        assert_eq!(counters.get("tcp-passive-opens"), 2, "{counters:?}");
    });
}

#[test]
fn answer_that_is_too_long_is_truncated_and_asked_again_over_tcp() {
    in_namespace(|| {
        let zone = Zone::new(0);
        let nty = zone.serve();
        let cut = dig(&["+noedns", "+ignore", "big.example.test", "TXT"]);
        assert!(cut.contains(" tc") && cut.contains("status: NOERROR"), "{cut}");
        assert_eq!(nty.counters().get("tcp-passive-opens"), 0);
        let whole = dig(&["+noedns", "+short", "big.example.test", "TXT"]);
        assert_eq!(whole.lines().filter(|l| l.starts_with('"')).count(), 40);
        assert_eq!(nty.stop().get("tcp-passive-opens"), 1);
    });
}

#[test]
fn dnsperf_loses_no_query() {
    in_namespace(|| {
        let zone = Zone::new(1_000);
        let nty = zone.serve();
        let mut list = String::new();
        for n in 0..QUERIES {
            // One in four does not exist.
            let prefix = if n % 4 == 3 { 'x' } else { 'h' };
            let _ = writeln!(list, "{prefix}{}.example.test A", n % 1_000);
        }
        let queries = zone.0.path().join("queries");
        fs::write(&queries, list).unwrap();
        let queries = queries.to_str().unwrap();
        for mode in ["udp", "tcp"] {
            let said = run(
                "dnsperf",
                &["-s", "10.0.0.2", "-m", mode, "-d", queries, "-n", "1", "-c", "4", "-q", "100"],
            );
            assert!(said.contains("Queries lost:         0 "), "{mode}: {said}");
            assert!(said.contains("Queries completed:    10000 (100.00%)"), "{mode}: {said}");
            assert!(said.contains("NOERROR 7500 (75.00%), NXDOMAIN 2500 (25.00%)"), "{mode}: {said}");
        }
        nty.stop();
    });
}
