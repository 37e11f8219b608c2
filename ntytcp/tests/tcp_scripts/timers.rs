//! The four timers: retransmission, persist, TIME-WAIT (see `close.rs`) and keepalive, and the delayed ACK.

use crate::{accepted, script};

#[test]
fn lost_data_is_sent_again_with_backoff_until_acknowledged() {
    accepted(
        "
        send 100
        > P. 1:101(100) ack 1
        +1 > P. 1:101(100) ack 1
        +2 > P. 1:101(100) ack 1
        +4 > P. 1:101(100) ack 1
        +0.01 < . 1:1(0) ack 101 win 65535
        +120 wait
        ",
    );
}

#[test]
fn rto_follows_the_measured_round_trip() {
    accepted(
        "
        send 100
        > P. 1:101(100) ack 1
        +0.1 < . 1:1(0) ack 101 win 65535
        send 100
        // SRTT 100 ms, RTTVAR 50 ms: RTO = 300 ms.
        > P. 101:201(100) ack 1
        +0.3 > P. 101:201(100) ack 1
        ",
    );
}

#[test]
fn rto_is_never_below_200_ms() {
    accepted(
        "
        send 100
        > P. 1:101(100) ack 1
        +0.001 < . 1:1(0) ack 101 win 65535
        send 100
        > P. 101:201(100) ack 1
        +0.2 > P. 101:201(100) ack 1
        ",
    );
}

#[test]
fn a_retransmitted_segment_gives_no_sample() {
    accepted(
        "
        send 100
        > P. 1:101(100) ack 1
        +1 > P. 1:101(100) ack 1
        // Karn: this ACK may belong to either; the backed-off RTO stays until a segment is timed that was sent once.
        +0.01 < . 1:1(0) ack 101 win 65535
        send 100
        > P. 101:201(100) ack 1
        +2 > P. 101:201(100) ack 1
        ",
    );
}

#[test]
fn timeout_sends_one_segment_then_slow_starts() {
    accepted(
        "
        send 4000
        > . 1:1001(1000) ack 1
        > . 1001:2001(1000) ack 1
        > . 2001:3001(1000) ack 1
        > P. 3001:4001(1000) ack 1
        +1 > . 1:1001(1000) ack 1
        +0.01 < . 1:1(0) ack 1001 win 65535
        > . 1001:2001(1000) ack 1
        > . 2001:3001(1000) ack 1
        < . 1:1(0) ack 4001 win 65535
        +100 wait
        ",
    );
}

#[test]
fn user_timeout_ends_the_connection() {
    accepted(
        "
        user-timeout 5
        send 100
        > P. 1:101(100) ack 1
        +1 > P. 1:101(100) ack 1
        +2 > P. 1:101(100) ack 1
        +4 > R. 101:101(0) ack 1
        error TimedOut
        ",
    );
}

#[test]
fn a_closed_window_is_probed_with_backoff() {
    accepted(
        "
        < . 1:1(0) ack 1 win 0
        send 100
        +1 > . 1:2(1) ack 1
        < . 1:1(0) ack 1 win 0
        +2 > . 1:2(1) ack 1
        < . 1:1(0) ack 1 win 0
        +4 > . 1:2(1) ack 1
        < . 1:1(0) ack 1 win 1000
        > P. 1:101(100) ack 1
        < . 1:1(0) ack 101 win 1000
        +200 wait
        ",
    );
}

#[test]
fn a_closed_socket_is_reset_when_the_window_stays_closed_for_twelve_probes() {
    let probes: String = [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60]
        .map(|wait| format!("+{wait} > . 1:2(1) ack 1\n< . 1:1(0) ack 1 win 0\n"))
        .concat();
    accepted(&format!(
        "
        < . 1:1(0) ack 1 win 0
        send 100
        close
        {probes}
        +60 > R. 2:2(0) ack 1
        population 0 0 0
        "
    ));
}

#[test]
fn the_probes_of_a_closed_socket_begin_anew_when_the_window_opens() {
    let probes: String = [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]
        .map(|wait| format!("+{wait} > . 1:2(1) ack 1\n< . 1:1(0) ack 1 win 0\n"))
        .concat();
    accepted(&format!(
        "
        < . 1:1(0) ack 1 win 0
        send 1100
        close
        {probes}
        < . 1:1(0) ack 1 win 1000
        > . 1:1001(1000) ack 1
        < . 1:1(0) ack 1001 win 0
        +1 > . 1001:1002(1) ack 1
        < . 1:1(0) ack 1001 win 0
        +2 > . 1001:1002(1) ack 1
        < . 1:1(0) ack 1001 win 1000
        > FP. 1001:1101(100) ack 1
        "
    ));
}

#[test]
fn a_socket_in_use_probes_on() {
    let probes: String = [1, 2, 4, 8, 16, 32]
        .into_iter()
        .chain([60; 20])
        .map(|wait| format!("+{wait} > . 1:2(1) ack 1\n< . 1:1(0) ack 1 win 0\n"))
        .collect();
    accepted(&format!("< . 1:1(0) ack 1 win 0\nsend 100\n{probes}\nstate ESTABLISHED"));
}

#[test]
fn a_probed_byte_that_is_taken_counts() {
    accepted(
        "
        < . 1:1(0) ack 1 win 0
        send 100
        +1 > . 1:2(1) ack 1
        < . 1:1(0) ack 2 win 1000
        > P. 2:101(99) ack 1
        ",
    );
}

#[test]
fn a_peer_that_never_answers_probes_is_given_up() {
    accepted(
        "
        user-timeout 10
        < . 1:1(0) ack 1 win 0
        send 100
        +1 > . 1:2(1) ack 1
        +2 > . 1:2(1) ack 1
        +4 > . 1:2(1) ack 1
        +8 > R. 2:2(0) ack 1
        error TimedOut
        ",
    );
}

#[test]
fn a_window_below_a_segment_is_used_after_the_persist_time() {
    accepted(
        "
        < . 1:1(0) ack 1 win 100
        send 500
        // Silly window avoidance holds it back; the persist timer overrides that.
        +1 > . 1:101(100) ack 1
        < . 1:1(0) ack 101 win 1000
        > P. 101:501(400) ack 1
        ",
    );
}

#[test]
fn keepalive_probes_an_idle_peer() {
    accepted(
        "
        keepalive 10 2 3
        +9.99 > . 0:0(0) ack 1
        < . 1:1(0) ack 1 win 65535
        +10 > . 0:0(0) ack 1
        < . 1:1(0) ack 1 win 65535
        state ESTABLISHED
        ",
    );
}

#[test]
fn keepalive_gives_up_on_a_silent_peer() {
    accepted(
        "
        keepalive 10 2 3
        +9.99 > . 0:0(0) ack 1
        +2 > . 0:0(0) ack 1
        +2 > . 0:0(0) ack 1
        +2 > R. 1:1(0) ack 1
        error TimedOut
        ",
    );
}

#[test]
fn a_keepalive_probe_of_the_peer_is_answered() {
    accepted(
        "
        < . 0:0(0) ack 1 win 65535
        > . 1:1(0) ack 1
        ",
    );
}

#[test]
fn a_single_segment_is_acknowledged_after_40_ms() {
    accepted(
        "
        < P. 1:101(100) ack 1 win 65535
        +0.04 > . 1:1(0) ack 101
        ",
    );
}

#[test]
fn an_ack_rides_on_data() {
    accepted(
        "
        < P. 1:101(100) ack 1 win 65535
        recv 100
        send 10
        > P. 1:11(10) ack 101
        < . 101:101(0) ack 11 win 65535
        +1 wait
        ",
    );
}

#[test]
fn data_after_a_lost_syn_is_sent_again_after_three_seconds() {
    // RFC 6298 5.7: "If the timer expires awaiting the ACK of a SYN segment and the TCP implementation is using an RTO less than 3
    // seconds, the RTO MUST be re-initialized to 3 seconds when data transmission begins".
    script(
        "
        connect
        > S 0:0(0)
        +1 > S 0:0(0)
        +0.01 < S. 0:0(0) ack 1 win 65535 <mss 1000>
        > . 1:1(0) ack 1
        send 100
        > P. 1:101(100) ack 1
        +3 > P. 1:101(100) ack 1
        ",
    );
}
