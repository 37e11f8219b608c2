//! Opening: passive, active, simultaneous, refused, repeated.

use crate::{accepted, script};

#[test]
fn passive_open_negotiates_every_option() {
    script(
        "
        listen
        < S 0:0(0) win 65535 <mss 1400,sackOK,TS val 100 ecr 0,nop,wscale 7>
        > S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK,TS ecr 100,wscale 3>
        +0.01 < . 1:1(0) ack 1 win 512 <TS val 110 ecr last>
        accept
        state ESTABLISHED
        < P. 1:11(10) ack 1 win 512 <TS val 120 ecr last>
        +0.04 > . 1:1(0) ack 11 <TS ecr 120>
        recv 10
        ",
    );
}

#[test]
fn an_option_that_the_peer_does_not_offer_is_not_used() {
    script(
        "
        listen
        < S 0:0(0) win 1000 <>
        > S. 0:0(0) ack 1 win 65535 <mss 1460>
        < . 1:1(0) ack 1 win 1000
        accept
        send 600
        > . 1:537(536) ack 1 <>
        ",
    );
}

#[test]
fn nothing_is_accepted_before_the_third_segment() {
    script(
        "
        listen
        < S 0:0(0) win 1000
        > S. 0:0(0) ack 1
        accept nothing
        population 1 0 0
        < . 1:1(0) ack 1 win 1000
        population 0 1 0
        accept
        ",
    );
}

#[test]
fn data_on_the_third_segment_is_delivered() {
    script(
        "
        listen
        < S 0:0(0) win 1000
        > S. 0:0(0) ack 1
        < P. 1:101(100) ack 1 win 1000
        accept
        recv 100
        +0.04 > . 1:1(0) ack 101
        ",
    );
}

#[test]
fn a_repeated_syn_is_answered_again() {
    script(
        "
        listen
        < S 0:0(0) win 1000
        > S. 0:0(0) ack 1
        +0.5 < S 0:0(0) win 1000
        > S. 0:0(0) ack 1
        population 1 0 0
        ",
    );
}

#[test]
fn syn_ack_is_repeated_with_backoff_and_then_forgotten() {
    script(
        "
        listen
        < S 0:0(0) win 1000
        > S. 0:0(0) ack 1
        +1 > S. 0:0(0) ack 1
        +2 > S. 0:0(0) ack 1
        +4 > S. 0:0(0) ack 1
        +8 > S. 0:0(0) ack 1
        +16 > S. 0:0(0) ack 1
        population 1 0 0
        +33 wait
        population 0 0 0
        ",
    );
}

#[test]
fn an_ack_of_anything_but_our_syn_gets_a_reset() {
    script(
        "
        listen
        < S 0:0(0) win 1000
        > S. 0:0(0) ack 1
        < . 1:1(0) ack 5 win 1000
        > R 5:5(0)
        population 1 0 0
        ",
    );
}

#[test]
fn reset_in_syn_received_returns_to_listen() {
    script(
        "
        listen
        < S 0:0(0) win 1000
        > S. 0:0(0) ack 1
        < R 1:1(0)
        population 0 0 0
        +10 wait
        ",
    );
}

#[test]
fn reset_in_the_window_but_not_exact_is_challenged_in_syn_received() {
    script(
        "
        listen
        < S 0:0(0) win 1000
        > S. 0:0(0) ack 1
        < R 50:50(0)
        > . 1:1(0) ack 1
        population 1 0 0
        ",
    );
}

#[test]
fn an_ack_to_a_listener_is_reset() {
    script(
        "
        listen
        < . 1:1(0) ack 0 win 1000
        > R 0:0(0)
        ",
    );
}

#[test]
fn a_syn_to_a_closed_port_is_refused() {
    script(
        "
        < S 0:0(0) win 1000
        > R. 0:0(0) ack 1
        ",
    );
}

#[test]
fn a_reset_to_a_closed_port_is_not_answered() {
    script(
        "
        < R 0:0(0)
        < R. 0:0(0) ack 1
        ",
    );
}

#[test]
fn backlog_bounds_finished_handshakes() {
    script(
        "
        listen backlog 1
        < S 0:0(0) win 1000
        > S. 0:0(0) ack 1
        < . 1:1(0) ack 1 win 1000
        population 0 1 0
        accept
        accept nothing
        ",
    );
}

#[test]
fn active_open_offers_every_option() {
    script(
        "
        connect
        > S 0:0(0) win 65535 <mss 1460,sackOK,TS ecr 0,wscale 3>
        +0.02 < S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK,TS val 50 ecr last,nop,wscale 7>
        > . 1:1(0) ack 1 <TS ecr 50>
        state ESTABLISHED
        event WRITABLE
        ",
    );
}

#[test]
fn refused_connect_reports_it() {
    script(
        "
        connect
        > S 0:0(0)
        < R. 0:0(0) ack 1
        event READABLE WRITABLE READ_CLOSED HANGUP ERROR
        error ConnectionRefused
        state CLOSED
        ",
    );
}

#[test]
fn a_reset_without_a_matching_ack_does_not_refuse_a_connect() {
    script(
        "
        connect
        > S 0:0(0)
        < R. 0:0(0) ack 9
        < R 0:0(0)
        state SYN-SENT
        ",
    );
}

#[test]
fn a_syn_ack_of_something_else_is_reset() {
    script(
        "
        connect
        > S 0:0(0)
        < S. 0:0(0) ack 9 win 1000
        > R 9:9(0)
        > S 0:0(0)
        state SYN-SENT
        ",
    );
}

#[test]
fn a_peer_that_still_has_an_old_connection_gets_the_syn_again_at_once_but_once() {
    script(
        "
        connect
        > S 0:0(0)
        +0.1 < . 70000:70000(0) ack 9 win 65535
        > R 9:9(0)
        > S 0:0(0)
        +0.1 < . 70000:70000(0) ack 9 win 65535
        > R 9:9(0)
        +0.1 < . 70000:70000(0) ack 9 win 65535
        > R 9:9(0)
        +0.7 > S 0:0(0)
        +0.1 < S. 0:0(0) ack 1 win 65535 <mss 1000>
        > . 1:1(0) ack 1
        state ESTABLISHED
        ",
    );
    // Nothing was lost: ten segments at once, and one that is is sent again after a second.
    script(
        "
        connect
        > S 0:0(0)
        +0.1 < . 70000:70000(0) ack 9 win 65535
        > R 9:9(0)
        > S 0:0(0)
        +0.1 < S. 0:0(0) ack 1 win 65535 <mss 1000>
        > . 1:1(0) ack 1
        state ESTABLISHED
        send 20000
        > . 1:1001(1000) ack 1
        > . 1001:2001(1000) ack 1
        > . 2001:3001(1000) ack 1
        > . 3001:4001(1000) ack 1
        > . 4001:5001(1000) ack 1
        > . 5001:6001(1000) ack 1
        > . 6001:7001(1000) ack 1
        > . 7001:8001(1000) ack 1
        > . 8001:9001(1000) ack 1
        > . 9001:10001(1000) ack 1
        +1 > . 1:1001(1000) ack 1
        ",
    );
}

#[test]
fn simultaneous_open() {
    script(
        "
        connect
        > S 0:0(0)
        < S 0:0(0) win 1000 <mss 1000>
        > S. 0:0(0) ack 1
        state SYN-RECEIVED
        < S. 0:0(0) ack 1 win 1000 <mss 1000>
        state ESTABLISHED
        ",
    );
}

#[test]
fn connect_gives_up_after_six_retransmissions() {
    script(
        "
        connect
        > S 0:0(0)
        +1 > S 0:0(0)
        +2 > S 0:0(0)
        +4 > S 0:0(0)
        +8 > S 0:0(0)
        +16 > S 0:0(0)
        +32 > S 0:0(0)
        +61 wait
        error TimedOut
        state CLOSED
        ",
    );
}

#[test]
fn a_syn_in_an_established_connection_is_challenged() {
    accepted(
        "
        < S 500:500(0) win 1000
        > . 1:1(0) ack 1
        state ESTABLISHED
        ",
    );
}

#[test]
fn a_syn_without_timestamps_is_challenged_where_they_are_in_use() {
    script(
        "
        listen
        < S 0:0(0) win 65535 <mss 1012,TS val 1000 ecr 0>
        > S. 0:0(0) ack 1 <mss 1460,TS ecr 1000>
        < . 1:1(0) ack 1 win 65535 <TS val 1010 ecr last>
        accept
        < S 500:500(0) win 1000
        > . 1:1(0) ack 1 <TS ecr 1010>
        state ESTABLISHED
        ",
    );
}

#[test]
fn a_syn_that_hides_in_front_of_new_text_is_challenged() {
    accepted(
        "
        < S. 0:100(100) ack 1 win 1000
        > . 1:1(0) ack 1
        recv error WouldBlock
        ",
    );
}
