//! What the simulation of lossy links found.

use crate::{accepted, script};

#[test]
fn ack_just_at_the_edge_of_the_window_is_taken() {
    // The peer has filled our window, its first segments are lost, and our data is acknowledged from beyond the gap.
    accepted(
        "send 100
        > P. 1:101(100) ack 1
        +0.01 < . 65536:65536(0) ack 101 win 65535
        +2 wait
        +0 < . 65537:65537(0) ack 101 win 65535
        > . 101:101(0) ack 1",
    );
}

#[test]
fn retransmission_that_acknowledges_more_brings_its_window() {
    // The segment that fills the gap is older than SND.WL1, but its window belongs to its acknowledgment.
    accepted(
        "< . 1001:2001(1000) ack 1 win 4000
        > . 1:1(0) ack 1
        send 6000
        > . 1:1001(1000) ack 1
        > . 1001:2001(1000) ack 1
        > . 2001:3001(1000) ack 1
        > . 3001:4001(1000) ack 1
        +0.01 < . 1:1001(1000) ack 4001 win 1000
        > . 4001:5001(1000) ack 2001
        event READABLE WRITABLE",
    );
}

#[test]
fn after_a_lost_syn_one_segment_is_sent_first() {
    script(
        "connect
        > S 0:0(0)
        +1 > S 0:0(0)
        < S. 0:0(0) ack 1 win 65535 <mss 1000>
        > . 1:1(0) ack 1
        event WRITABLE
        send 8000
        > . 1:1001(1000) ack 1
        +0.1 < . 1:1(0) ack 1001 win 65535
        > . 1001:2001(1000) ack 1
        > . 2001:3001(1000) ack 1",
    );
}
