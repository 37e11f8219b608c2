//! How long connections keep their pages of payload memory.

use crate::{ACCEPTED, accepted, runner};
use ntytcp::stack::StackConfig;

#[test]
fn a_connection_keeps_its_pages_in_a_conversation_and_gives_them_back_in_silence() {
    accepted(
        "
        pages 0
        < P. 1:101(100) ack 1 win 65535
        recv 100
        send 50
        > P. 1:51(50) ack 101
        +0.03 < P. 101:201(100) ack 51 win 65535
        recv 100
        send 50
        > P. 51:101(50) ack 201
        +0.03 < . 201:201(0) ack 101 win 65535
        +0.03 wait
        pages 2
        +0.1 wait
        pages 0
        // And again.
        send 50
        > P. 101:151(50) ack 201
        < . 201:201(0) ack 151 win 65535
        pages 1
        +0.2 wait
        pages 0
        +60 at-rest
        ",
    );
}

#[test]
fn data_that_waits_keeps_its_page_and_no_timer() {
    accepted(
        "
        < P. 1:101(100) ack 1 win 65535
        +0.04 > . 1:1(0) ack 101
        +60 at-rest
        pages 1
        recv 100
        pages 0
        // What the peer has not acknowledged stays too.
        send 50
        > P. 1:51(50) ack 101
        +0.15 wait
        pages 1
        < . 101:101(0) ack 51 win 65535
        +0.2 wait
        pages 0
        +60 at-rest
        ",
    );
}

#[test]
fn bytes_out_of_order_keep_their_page() {
    accepted(
        "
        < P. 101:201(100) ack 1 win 65535
        > . 1:1(0) ack 1
        +0.2 wait
        pages 1
        < P. 1:101(100) ack 1 win 65535
        > . 1:1(0) ack 201
        recv 200
        +0.2 wait
        pages 0
        ",
    );
}

#[test]
fn the_last_page_serves_both_directions_in_turn() {
    let config = StackConfig { pages: 1, ..StackConfig::default() };
    let text = "
        < P. 1:101(100) ack 1 win 65535
        recv 100
        pages 1
        send 50
        > P. 1:51(50) ack 101
        < . 101:101(0) ack 51 win 65535
        // Only the page of what was sent is left, and it is not needed any more. That pages are scarce is answered at once.
        < P. 101:201(100) ack 51 win 65535
        > . 51:51(0) ack 201
        recv 100
        send 50
        > P. 51:101(50) ack 201
        // Now it is taken, and the peer must send again.
        < P. 201:301(100) ack 51 win 65535
        > . 101:101(0) ack 201
        // It goes back as soon as what was sent is acknowledged, so this finds it free.
        < P. 201:301(100) ack 101 win 65535
        +0.04 > . 101:101(0) ack 301
        recv 100
    ";
    runner::run(config, &format!("{ACCEPTED}\n{text}"));
}

#[test]
fn who_found_no_page_to_send_from_is_told_when_there_is_one() {
    let config = StackConfig { pages: 1, ..StackConfig::default() };
    let text = "
        < P. 1:101(100) ack 1 win 65535
        event READABLE
        send error WouldBlock
        +0.04 > . 1:1(0) ack 101
        // As long as it is taken nothing is said.
        +5 wait
        event
        recv 100
        +0.1 wait
        event WRITABLE
        send 50
        > P. 1:51(50) ack 101
        < . 101:101(0) ack 51 win 65535
        event WRITABLE
        +60 at-rest
    ";
    runner::run(config, &format!("{ACCEPTED}\n{text}"));
}
