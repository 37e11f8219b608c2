//! Data: order, windows, Nagle, duplicate ACKs, SACK, PAWS.

use crate::{accepted, runner, script};
use ntytcp::stack::StackConfig;

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

const SACK: &str = "
    listen
    < S 0:0(0) win 65535 <mss 1000,sackOK>
    > S. 0:0(0) ack 1 <mss 1460,sackOK>
    < . 1:1(0) ack 1 win 65535
    accept
";

#[test]
fn text_is_kept_up_to_the_edge_of_the_window_and_no_further() {
    script(&format!(
        "{SACK}
        < . 65001:66001(1000) ack 1 win 65535
        > . 1:1(0) ack 1 <sack 65001:65536>
        "
    ));
}

#[test]
fn a_gap_beyond_the_allowed_number_is_not_opened() {
    let mut config = StackConfig::default();
    config.tcp.max_gaps = 1;
    let text = format!(
        "{SACK}
        < . 1001:2001(1000) ack 1 win 65535
        > . 1:1(0) ack 1 <sack 1001:2001>
        < . 3001:4001(1000) ack 1 win 65535
        > . 1:1(0) ack 1 <sack 1001:2001>
        < . 2001:3001(1000) ack 1 win 65535
        > . 1:1(0) ack 1 <sack 1001:3001>
        "
    );
    runner::run(config, &text);
}

#[test]
fn after_an_idle_time_the_initial_window_is_sent() {
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
        +0.01 < . 1:1(0) ack 10001 win 65535
        > . 10001:11001(1000) ack 1
        > . 11001:12001(1000) ack 1
        > . 12001:13001(1000) ack 1
        > . 13001:14001(1000) ack 1
        > . 14001:15001(1000) ack 1
        > . 15001:16001(1000) ack 1
        > . 16001:17001(1000) ack 1
        > . 17001:18001(1000) ack 1
        > . 18001:19001(1000) ack 1
        > P. 19001:20001(1000) ack 1
        +0.01 < . 1:1(0) ack 20001 win 65535
        // The window was twenty segments. RFC 5681 4.1: no more than the initial one after an RTO of silence.
        +5 wait
        send 30000
        > . 20001:21001(1000) ack 1
        > . 21001:22001(1000) ack 1
        > . 22001:23001(1000) ack 1
        > . 23001:24001(1000) ack 1
        > . 24001:25001(1000) ack 1
        > . 25001:26001(1000) ack 1
        > . 26001:27001(1000) ack 1
        > . 27001:28001(1000) ack 1
        > . 28001:29001(1000) ack 1
        > . 29001:30001(1000) ack 1
        +0.05 wait
        ",
    );
}

#[test]
fn a_window_that_the_application_does_not_fill_does_not_grow() {
    let mut text = String::new();
    for i in 0..20 {
        let (start, end) = (1 + 1_000 * i, 1_001 + 1_000 * i);
        text += &format!("send 1000\n> P. {start}:{end}(1000) ack 1\n+0.01 < . 1:1(0) ack {end} win 65535\n");
    }
    text += "send 30000\n";
    for i in 20..30 {
        text += &format!("> . {}:{}(1000) ack 1\n", 1 + 1_000 * i, 1_001 + 1_000 * i);
    }
    accepted(&(text + "+0.05 wait\n"));
}

#[test]
fn an_ack_older_than_any_window_is_challenged() {
    // RFC 5961 5.2: the largest window was 1000 bytes, so nothing below SND.UNA - 1000 can be under way.
    script(
        "
        listen
        < S 0:0(0) win 1000 <mss 1000>
        > S. 0:0(0) ack 1
        < . 1:1(0) ack 1 win 1000
        accept
        send 2000
        > . 1:1001(1000) ack 1
        +0.01 < . 1:1(0) ack 1001 win 1000
        > P. 1001:2001(1000) ack 1
        +0.01 < . 1:1(0) ack 2001 win 1000
        < . 1:1(0) ack 1001 win 1000
        < . 1:1(0) ack 1000 win 1000
        > . 2001:2001(0) ack 1
        ",
    );
}

#[test]
fn the_window_of_an_older_segment_is_not_taken() {
    accepted(
        "
        < P. 101:201(100) ack 1 win 3000
        > . 1:1(0) ack 1
        < P. 1:101(100) ack 1 win 500
        > . 1:1(0) ack 201
        send 3000
        > . 1:1001(1000) ack 201
        > . 1001:2001(1000) ack 201
        > P. 2001:3001(1000) ack 201
        ",
    );
}

#[test]
fn an_ack_with_another_window_is_no_duplicate() {
    accepted(
        "
        send 5000
        > . 1:1001(1000) ack 1
        > . 1001:2001(1000) ack 1
        > . 2001:3001(1000) ack 1
        > . 3001:4001(1000) ack 1
        > P. 4001:5001(1000) ack 1
        < . 1:1(0) ack 1 win 65534
        < . 1:1(0) ack 1 win 65533
        < . 1:1(0) ack 1 win 65532
        < . 1:1(0) ack 1 win 65531
        +0.1 wait
        ",
    );
}

#[test]
fn duplicate_acks_in_recovery_let_new_data_out() {
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
        < . 1:1(0) ack 1 win 65535
        < . 1:1(0) ack 1 win 65535
        < . 1:1(0) ack 1 win 65535
        > . 1:1001(1000) ack 1
        // Half of ten segments, and one more for each duplicate ACK: six of them make eleven.
        < . 1:1(0) ack 1 win 65535
        < . 1:1(0) ack 1 win 65535
        < . 1:1(0) ack 1 win 65535
        > . 10001:11001(1000) ack 1
        ",
    );
}

#[test]
fn a_closed_window_opens_by_a_segment_at_least() {
    let mut config = StackConfig::default();
    config.tcp.socket.recv_buffer = 4_000;
    let text = "
        listen
        < S 0:0(0) win 65535 <mss 1000>
        > S. 0:0(0) ack 1 win 4000
        < . 1:1(0) ack 1 win 65535
        accept
        < . 1:1001(1000) ack 1 win 65535
        < . 1001:2001(1000) ack 1 win 65535
        > . 1:1(0) ack 2001 win 2000
        < . 2001:3001(1000) ack 1 win 65535
        < . 3001:4001(1000) ack 1 win 65535
        > . 1:1(0) ack 4001 win 0
        recv 500
        +1 wait
        // An answer does not say that there are 500 bytes of room either.
        send 10
        > P. 1:11(10) ack 4001 win 0
        < . 4001:4001(0) ack 11 win 65535
        recv 500
        > . 11:11(0) ack 4001 win 1000
    ";
    runner::run(config, text);
}
