//! `nty perf` between two stacks, with the kernel as the router between their links.

use crate::world::{Link, Nty, in_namespace};
use std::fs;

const SERVER: Link<'static> =
    Link { tap: "ntyserver", ours: "10.0.0.2/24", host: "10.0.0.1/24", more: &["--gateway", "10.0.0.1"] };
const CLIENT: Link<'static> =
    Link { tap: "ntyclient", ours: "10.0.1.2/24", host: "10.0.1.1/24", more: &["--gateway", "10.0.1.1"] };

#[test]
fn bulk_data_goes_both_ways_between_two_stacks() {
    in_namespace(|| {
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let server = Nty::serve_on(&SERVER, &["perf", "--server"]);
        for direction in [&[][..], &["--reverse"], &["--bidir", "--parallel", "4"]] {
            let args = [&["perf", "--client", "10.0.0.2", "--bytes", "20M"], direction].concat();
            let output = CLIENT.command(&args).output().unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{direction:?}: {output:?}");
        }
        let counters = server.stop();
        assert!(counters.get("rx-bytes") > 60 << 20 && counters.get("tx-bytes") > 60 << 20, "{counters:?}");
    });
}
