//! Data: order, windows, Nagle, duplicate ACKs, SACK, PAWS.

use crate::{accepted, script};

#[test]
fn every_second_full_segment_is_acknowledged() {
    accepted(
        "
        < . 1:1001(1000) ack 1 win 65535
        < . 1001:2001(1000) ack 1 win 65535
        > . 1:1(0) ack 2001
        recv 2000
        ",
    );
}

#[test]
fn out_of_order_data_is_acknowledged_at_once_and_kept() {
    accepted(
        "
        < . 1001:2001(1000) ack 1 win 65535
        > . 1:1(0) ack 1
        recv error WouldBlock
        < . 1:1001(1000) ack 1 win 65535
        > . 1:1(0) ack 2001
        recv 2000
        ",
    );
}

#[test]
fn sack_blocks_name_what_is_there_most_recent_first() {
    script(
        "
        listen
        < S 0:0(0) win 65535 <mss 1000,sackOK>
        > S. 0:0(0) ack 1 <mss 1460,sackOK>
        < . 1:1(0) ack 1 win 65535
        accept
        < . 1001:2001(1000) ack 1 win 65535
        > . 1:1(0) ack 1 <sack 1001:2001>
        < . 3001:4001(1000) ack 1 win 65535
        > . 1:1(0) ack 1 <sack 3001:4001 1001:2001>
        < . 2001:3001(1000) ack 1 win 65535
        > . 1:1(0) ack 1 <sack 1001:4001>
        < . 1:1001(1000) ack 1 win 65535
        > . 1:1(0) ack 4001 <>
        recv 4000
        ",
    );
}

#[test]
fn old_data_is_acknowledged_and_not_delivered_twice() {
    accepted(
        "
        < P. 1:101(100) ack 1 win 65535
        +0.04 > . 1:1(0) ack 101
        < P. 1:101(100) ack 1 win 65535
        > . 1:1(0) ack 101
        < P. 51:151(100) ack 1 win 65535
        > . 1:1(0) ack 151
        recv 150
        ",
    );
}

#[test]
fn nagle_holds_a_small_segment_back_while_data_is_in_flight() {
    accepted(
        "
        send 10
        > P. 1:11(10) ack 1
        send 10
        send 10
        +0.01 < . 1:1(0) ack 11 win 65535
        > P. 11:31(20) ack 1
        ",
    );
}

#[test]
fn nodelay_sends_at_once() {
    accepted(
        "
        nodelay
        send 10
        > P. 1:11(10) ack 1
        send 10
        > P. 11:21(10) ack 1
        ",
    );
}

#[test]
fn the_initial_window_is_ten_segments() {
    accepted(
        "
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
        +0.05 wait
        ",
    );
}

#[test]
fn the_peers_window_bounds_what_is_in_flight() {
    accepted(
        "
        < . 1:1(0) ack 1 win 2500
        send 5000
        > . 1:1001(1000) ack 1
        > . 1001:2001(1000) ack 1
        +0.01 < . 1:1(0) ack 1001 win 2500
        > . 2001:3001(1000) ack 1
        +0.01 wait
        ",
    );
}

#[test]
fn three_duplicate_acks_resend_the_first_segment() {
    accepted(
        "
        send 5000
        > . 1:1001(1000) ack 1
        > . 1001:2001(1000) ack 1
        > . 2001:3001(1000) ack 1
        > . 3001:4001(1000) ack 1
        > P. 4001:5001(1000) ack 1
        +0.01 < . 1:1(0) ack 1001 win 65535
        < . 1:1(0) ack 1001 win 65535
        < . 1:1(0) ack 1001 win 65535
        < . 1:1(0) ack 1001 win 65535
        > . 1001:2001(1000) ack 1
        // A partial ACK: the next hole goes out at once (RFC 6582).
        +0.01 < . 1:1(0) ack 3001 win 65535
        > . 3001:4001(1000) ack 1
        +0.01 < . 1:1(0) ack 5001 win 65535
        +10 wait
        ",
    );
}

#[test]
fn two_duplicate_acks_do_nothing() {
    accepted(
        "
        send 3000
        > . 1:1001(1000) ack 1
        > . 1001:2001(1000) ack 1
        > P. 2001:3001(1000) ack 1
        < . 1:1(0) ack 1 win 65535
        < . 1:1(0) ack 1 win 65535
        +0.5 wait
        ",
    );
}

#[test]
fn reading_opens_a_closed_window() {
    let mut text = String::new();
    // 256 KiB of buffer, 65,535 of window without scaling: fill it four times over.
    for i in 0..4 {
        let base = 1 + i * 65_000;
        for j in 0..65 {
            let seq = base + j * 1000;
            text += &format!("< . {seq}:{}(1000) ack 1 win 65535\n", seq + 1000);
            if j % 2 == 1 {
                text += &format!("> . 1:1(0) ack {}\n", seq + 1000);
            }
        }
        text += &format!("+0.04 > . 1:1(0) ack {}\n", base + 65_000);
    }
    text += "recv 200000\n> . 1:1(0) ack 260001 win 65535\n";
    accepted(&text);
}

#[test]
fn data_beyond_the_window_is_cut_off() {
    accepted(
        "
        < . 65001:66001(1000) ack 1 win 65535
        > . 1:1(0) ack 1
        < . 70001:71001(1000) ack 1 win 65535
        > . 1:1(0) ack 1
        recv error WouldBlock
        ",
    );
}

#[test]
fn an_ack_of_what_was_never_sent_is_challenged() {
    accepted(
        "
        < . 1:1(0) ack 500 win 65535
        > . 1:1(0) ack 1
        state ESTABLISHED
        ",
    );
}

#[test]
fn a_segment_without_ack_is_dropped() {
    accepted(
        "
        < P 1:11(10) win 65535
        recv error WouldBlock
        ",
    );
}

const TIMESTAMPS: &str = "
    listen
    < S 0:0(0) win 65535 <mss 1012,TS val 1000 ecr 0>
    > S. 0:0(0) ack 1 <mss 1460,TS ecr 1000>
    < . 1:1(0) ack 1 win 65535 <TS val 1010 ecr last>
    accept
";

#[test]
fn paws_drops_a_segment_with_an_old_timestamp() {
    script(&format!(
        "{TIMESTAMPS}
        < P. 1:11(10) ack 1 win 65535 <TS val 900 ecr last>
        > . 1:1(0) ack 1 <TS ecr 1010>
        recv error WouldBlock
        < P. 1:11(10) ack 1 win 65535 <TS val 1020 ecr last>
        +0.04 > . 1:1(0) ack 11 <TS ecr 1020>
        recv 10
        "
    ));
}

#[test]
fn a_segment_without_its_timestamps_is_dropped() {
    script(&format!(
        "{TIMESTAMPS}
        < P. 1:11(10) ack 1 win 65535
        recv error WouldBlock
        "
    ));
}

#[test]
fn the_echoed_timestamp_is_that_of_the_segment_that_moved_the_window() {
    script(&format!(
        "{TIMESTAMPS}
        < . 1001:2001(1000) ack 1 win 65535 <TS val 1020 ecr last>
        // Out of order: RFC 7323 4.3 keeps echoing the last in order.
        > . 1:1(0) ack 1 <TS ecr 1010>
        < . 1:1001(1000) ack 1 win 65535 <TS val 1015 ecr last>
        > . 1:1(0) ack 2001 <TS ecr 1015>
        "
    ));
}

#[test]
fn urgent_data_stays_in_line() {
    accepted(
        "
        < U. 1:11(10) ack 1 win 65535
        +0.04 > . 1:1(0) ack 11
        recv 10
        ",
    );
}

#[test]
fn ts_recent_of_24_idle_days_is_void_and_replaced() {
    script(&format!(
        "{TIMESTAMPS}
        +2160000 < P. 1:11(10) ack 1 win 65535 <TS val 900 ecr last>
        +0.04 > . 1:1(0) ack 11 <TS ecr 900>
        < P. 11:21(10) ack 1 win 65535 <TS val 901 ecr last>
        +0.04 > . 1:1(0) ack 21 <TS ecr 901>
        "
    ));
}
