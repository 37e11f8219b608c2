//! Closing: each order of FINs, half-close, resets, TIME-WAIT.

use crate::{accepted, script};

#[test]
fn active_close_ends_in_time_wait() {
    accepted(
        "
        close
        > F. 1:1(0) ack 1
        population 0 1 0
        +0.01 < . 1:1(0) ack 2 win 65535
        +0.01 < F. 1:1(0) ack 2 win 65535
        > . 2:2(0) ack 2
        population 0 0 1
        +59 wait
        population 0 0 1
        +2 wait
        population 0 0 0
        ",
    );
}

#[test]
fn the_last_ack_goes_back_in_the_frame_of_the_fin() {
    accepted(
        "
        close
        > F. 1:1(0) ack 1
        +0.01 < . 1:1(0) ack 2 win 65535
        ring full
        +0.01 < F. 1:1(0) ack 2 win 65535
        > . 2:2(0) ack 2
        population 0 0 1
        ring free
        +0.01 < F. 1:1(0) ack 2 win 65535
        > . 2:2(0) ack 2
        ",
    );
}

#[test]
fn passive_close_goes_through_last_ack() {
    accepted(
        "
        < F. 1:1(0) ack 1 win 65535
        > . 1:1(0) ack 2
        event READABLE READ_CLOSED
        state CLOSE-WAIT
        recv end
        shutdown
        > F. 1:1(0) ack 2
        state LAST-ACK
        < . 2:2(0) ack 2 win 65535
        state CLOSED
        population 0 1 0
        close
        population 0 0 0
        ",
    );
}

#[test]
fn simultaneous_close_goes_through_closing() {
    accepted(
        "
        shutdown
        > F. 1:1(0) ack 1
        state FIN-WAIT-1
        < F. 1:1(0) ack 1 win 65535
        > . 2:2(0) ack 2
        state CLOSING
        < . 2:2(0) ack 2 win 65535
        state TIME-WAIT
        population 0 1 1
        close
        population 0 0 1
        ",
    );
}

#[test]
fn fin_and_ack_of_our_fin_in_one_segment() {
    accepted(
        "
        shutdown
        > F. 1:1(0) ack 1
        < F. 1:1(0) ack 2 win 65535
        > . 2:2(0) ack 2
        state TIME-WAIT
        ",
    );
}

#[test]
fn half_close_still_receives() {
    accepted(
        "
        shutdown
        > F. 1:1(0) ack 1
        < . 1:1(0) ack 2 win 65535
        state FIN-WAIT-2
        < P. 1:101(100) ack 2 win 65535
        +0.04 > . 2:2(0) ack 101
        recv 100
        send error BrokenPipe
        ",
    );
}

#[test]
fn close_wait_still_sends() {
    accepted(
        "
        < F. 1:1(0) ack 1 win 65535
        > . 1:1(0) ack 2
        send 100
        > P. 1:101(100) ack 2
        < . 2:2(0) ack 101 win 65535
        close
        > F. 101:101(0) ack 2
        < . 2:2(0) ack 102 win 65535
        population 0 0 0
        ",
    );
}

#[test]
fn fin_rides_on_the_last_data() {
    accepted(
        "
        send 100
        > P. 1:101(100) ack 1
        send 50
        close
        > FP. 101:151(50) ack 1
        ",
    );
}

#[test]
fn an_early_fin_waits_for_the_missing_data() {
    accepted(
        "
        < F. 101:151(50) ack 1 win 65535
        > . 1:1(0) ack 1
        state ESTABLISHED
        < . 1:101(100) ack 1 win 65535
        > . 1:1(0) ack 152
        state CLOSE-WAIT
        recv 150
        recv end
        ",
    );
}

#[test]
fn exact_reset_ends_the_connection() {
    accepted(
        "
        < R 1:1(0)
        event READABLE WRITABLE READ_CLOSED HANGUP ERROR
        state CLOSED
        recv error ConnectionReset
        recv end
        ",
    );
}

#[test]
fn data_before_a_reset_stays_readable() {
    accepted(
        "
        < P. 1:11(10) ack 1 win 65535
        < R 11:11(0)
        recv 10
        recv error ConnectionReset
        ",
    );
}

#[test]
fn inexact_reset_is_challenged_once_per_half_second() {
    accepted(
        "
        < R 100:100(0)
        > . 1:1(0) ack 1
        < R 100:100(0)
        +0.5 < R 100:100(0)
        > . 1:1(0) ack 1
        state ESTABLISHED
        ",
    );
}

#[test]
fn reset_outside_the_window_is_ignored() {
    accepted(
        "
        < R 1000000:1000000(0)
        state ESTABLISHED
        ",
    );
}

#[test]
fn abort_sends_a_reset() {
    accepted(
        "
        send 10
        > P. 1:11(10) ack 1
        abort
        > R. 11:11(0) ack 1
        population 0 0 0
        ",
    );
}

#[test]
fn close_with_unread_data_resets() {
    accepted(
        "
        < P. 1:11(10) ack 1 win 65535
        close
        > R. 1:1(0) ack 11
        population 0 0 0
        ",
    );
}

#[test]
fn data_after_close_resets() {
    accepted(
        "
        close
        > F. 1:1(0) ack 1
        < . 1:1(0) ack 2 win 65535
        < P. 1:11(10) ack 2 win 65535
        > R. 2:2(0) ack 1
        population 0 0 0
        ",
    );
}

#[test]
fn fin_wait_2_of_a_closed_socket_does_not_last_for_ever() {
    accepted(
        "
        close
        > F. 1:1(0) ack 1
        < . 1:1(0) ack 2 win 65535
        +59 wait
        population 0 1 0
        +2 wait
        population 0 0 0
        ",
    );
}

#[test]
fn a_repeated_fin_in_time_wait_is_acknowledged_and_restarts_the_wait() {
    accepted(
        "
        close
        > F. 1:1(0) ack 1
        < F. 1:1(0) ack 2 win 65535
        > . 2:2(0) ack 2
        +50 < F. 1:1(0) ack 2 win 65535
        > . 2:2(0) ack 2
        +50 wait
        population 0 0 1
        +70 wait
        population 0 0 0
        ",
    );
}

#[test]
fn a_newer_syn_reopens_a_connection_in_time_wait() {
    accepted(
        "
        close
        > F. 1:1(0) ack 1
        < F. 1:1(0) ack 2 win 65535
        > . 2:2(0) ack 2
        population 0 0 1
        < S 10000:10000(0) win 65535
        > S. 0:0(0) ack 10001
        population 1 0 0
        ",
    );
}

#[test]
fn an_older_syn_in_time_wait_is_only_acknowledged() {
    accepted(
        "
        close
        > F. 1:1(0) ack 1
        < F. 1:1(0) ack 2 win 65535
        > . 2:2(0) ack 2
        < S 0:0(0) win 65535
        > . 2:2(0) ack 2
        population 0 0 1
        ",
    );
}

#[test]
fn a_fin_that_leaves_before_the_shard_is_woken_is_known_to_be_sent() {
    accepted(
        "
        split
        < F. 1:1(0) ack 1 win 65535
        > . 1:1(0) ack 2
        write 6
        wake
        > P. 1:7(6) ack 2
        // Other output takes the FIN along before the word of the application's arrives.
        end
        < . 2:2(0) ack 7 win 65535
        > F. 7:7(0) ack 2
        state LAST-ACK
        < . 2:2(0) ack 8 win 65535
        state CLOSED
        wake
        close
        population 0 0 0
        +600 at-rest
        ",
    );
}

#[test]
fn a_fin_that_leaves_before_the_shard_is_woken_opens_fin_wait_1() {
    accepted(
        "
        split
        write 6
        wake
        > P. 1:7(6) ack 1
        end
        < . 1:1(0) ack 7 win 65535
        > F. 7:7(0) ack 1
        state FIN-WAIT-1
        < . 1:1(0) ack 8 win 65535
        state FIN-WAIT-2
        wake
        state FIN-WAIT-2
        close
        population 0 1 0
        +61 wait
        population 0 0 0
        ",
    );
}

#[test]
fn close_in_close_wait_with_unread_data_resets() {
    accepted(
        "
        < P. 1:101(100) ack 1 win 65535
        < F. 101:101(0) ack 1 win 65535
        > . 1:1(0) ack 102
        close
        > R. 1:1(0) ack 102
        population 0 0 0
        ",
    );
}

#[test]
fn close_in_syn_received_waits_for_the_acknowledgment_of_our_syn() {
    script(
        "
        connect
        > S 0:0(0)
        < S 0:0(0) win 65535 <mss 1000>
        > S. 0:0(0) ack 1
        close
        // It was lost. Without it no FIN means anything to the peer.
        +1 > S. 0:0(0) ack 1
        < . 1:1(0) ack 1 win 65535
        > F. 1:1(0) ack 1
        < . 1:1(0) ack 2 win 65535
        +61 wait
        population 0 0 0
        ",
    );
}

#[test]
fn a_reset_with_text_must_hit_rcv_nxt_with_its_own_sequence_number() {
    accepted(
        "
        < P. 1:101(100) ack 1 win 65535
        +0.04 > . 1:1(0) ack 101
        < R 51:151(100)
        > . 1:1(0) ack 101
        state ESTABLISHED
        ",
    );
}

#[test]
fn only_an_exact_reset_ends_time_wait() {
    accepted(
        "
        close
        > F. 1:1(0) ack 1
        < F. 1:1(0) ack 2 win 65535
        > . 2:2(0) ack 2
        < R 100:100(0)
        population 0 0 1
        < R 2:2(0)
        population 0 0 0
        ",
    );
}
