//! The FIFO against a plain queue, and what it does with its pages.

use super::{Consumer, DEFAULT_PAGE_SIZE, Home, PagePool, Producer, copy, fifo};
use proptest::prelude::*;
use std::collections::VecDeque;

/// Pages of 64 data bytes, so that every test crosses pages.
fn small_pages(max: usize) -> PagePool {
    PagePool::with_page_size(max, 128)
}

const HOMES: [Home; 2] = [Home::Producer, Home::Consumer];

/// What the home of an idle FIFO does.
fn release(home: Home, tx: &mut Producer, rx: &mut Consumer) {
    match home {
        Home::Producer => {
            tx.release();
        }
        Home::Consumer => rx.release(),
    }
}

/// Bytes that say at which position of which stream they belong.
fn pattern(stream: u8, from: u64, len: usize) -> Vec<u8> {
    (from..from + len as u64).map(|pos| (pos.wrapping_mul(31) as u8) ^ stream).collect()
}

fn peeked(rx: &mut Consumer, offset: usize, len: usize) -> Vec<u8> {
    rx.peek(offset, len).flatten().copied().collect()
}

#[test]
fn bytes_come_out_as_they_went_in_and_pages_go_back() {
    for home in HOMES {
        let pool = small_pages(8);
        let (mut tx, mut rx) = fifo(&pool, 300, home);
        let data: Vec<u8> = (0..=255).collect();
        assert_eq!(tx.write(&data), 256);
        assert_eq!(tx.write(&data), 44);
        assert_eq!((rx.len(), tx.free(), pool.pages_in_use()), (300, 0, 5));
        let mut out = [0; 300];
        assert_eq!(rx.read(&mut out), 300);
        assert_eq!((&out[..256], &out[256..]), (&data[..], &data[..44]));
        assert_eq!(pool.pages_in_use(), 1, "the last page stays for what comes next");
        release(home, &mut tx, &mut rx);
        assert_eq!(pool.pages_in_use(), 0);
    }
}

#[test]
fn can_write_says_what_write_does() {
    for home in HOMES {
        let pool = small_pages(2);
        let (mut tx, mut rx) = fifo(&pool, 100, home);
        let (mut other, mut reader) = fifo(&pool, 100, home);
        let expect = |tx: &mut Producer, fits: usize| {
            assert_eq!([fits, fits + 1].map(|len| tx.can_write(len)), [true, false], "{fits}");
        };
        expect(&mut tx, 100);
        assert_eq!(other.write(&[1; 60]), 60);
        expect(&mut tx, 64);
        expect(&mut other, 40);
        assert_eq!(tx.write(&[2; 60]), 60);
        expect(&mut tx, 4);
        expect(&mut other, 4);
        // More than fits is cut to what does; nothing is left of the page and there is no other.
        assert_eq!(tx.write(&[2; 200]), 4);
        expect(&mut tx, 0);
        // What was read dry begins its page anew, however much is to be written.
        assert_eq!(rx.read(&mut [0; 100]), 64);
        expect(&mut tx, 64);
        assert_eq!(tx.write(&[3; 200]), 64);
        rx.consume(64);
        release(home, &mut tx, &mut rx);
        assert_eq!(pool.available(2), 1);
        expect(&mut tx, 64);
        expect(&mut other, 40);
        assert_eq!(reader.read(&mut [0; 100]), 60);
        expect(&mut other, 100);
        tx.close();
        expect(&mut tx, 0);
    }
}

#[test]
fn a_restarted_fifo_is_as_good_as_new_whatever_was_left_in_it() {
    for home in HOMES {
        for (left, stored, closed) in
            [(0, 0, false), (0, 0, true), (5, 0, true), (200, 0, false), (3, 100, true)]
        {
            let pool = small_pages(8);
            let (mut tx, mut rx) = fifo(&pool, 300, home);
            tx.write(b"first");
            assert_eq!(rx.read(&mut [0; 5]), 5);
            tx.write(&vec![1; left]);
            tx.write_at(stored, &vec![2; stored]);
            if closed {
                tx.close();
            }
            let (mut other_tx, mut other_rx) = fifo(&pool, 300, home);
            assert!(!tx.restart(&mut other_rx) && !other_tx.restart(&mut rx));
            assert!(tx.restart(&mut rx));
            assert_eq!((pool.pages_in_use(), rx.len(), tx.stored(), tx.free()), (0, 0, 0, 300));
            assert!(!tx.is_closed() && !rx.is_closed() && !rx.is_finished() && tx.is_consumer_alive());
            assert_eq!(tx.write(&[7; 150]), 150);
            let mut out = [0; 200];
            assert_eq!((rx.read(&mut out), &out[..150]), (150, &[7; 150][..]));
            tx.close();
            assert!(rx.is_finished());
        }
    }
}

#[test]
fn an_idle_fifo_holds_no_page_and_few_words() {
    for home in HOMES {
        let pool = small_pages(8);
        let (mut tx, mut rx) = fifo(&pool, 300, home);
        assert_eq!((pool.pages_made(), tx.holds_pages(), rx.holds_pages()), (0, false, false));
        for _ in 0..100 {
            tx.write(b"request");
            assert!(tx.holds_pages() && rx.holds_pages());
            release(home, &mut tx, &mut rx);
            assert_eq!((rx.consume(7), rx.len()), (7, 0));
            release(home, &mut tx, &mut rx);
            assert_eq!((pool.pages_in_use(), rx.holds_pages()), (0, false));
        }
        assert_eq!(pool.pages_made(), 1, "the page freed last is used again");
    }
    assert!(size_of::<super::Shared>() <= 32);
    assert!(size_of::<Producer>() <= 48 && size_of::<Consumer>() <= 40);
}

#[test]
fn a_conversation_stays_at_the_beginning_of_one_page() {
    for home in HOMES {
        let pool = small_pages(8);
        let (mut tx, mut rx) = fifo(&pool, 300, home);
        let mut places = Vec::new();
        for round in 0..100u8 {
            assert_eq!(tx.write(&[round; 50]), 50);
            places.push(rx.peek(0, 50).first().as_ptr());
            assert_eq!(peeked(&mut rx, 0, 50), [round; 50]);
            rx.consume(50);
        }
        assert!(places.iter().all(|place| *place == places[0]));
        assert_eq!(pool.pages_made(), 1);
    }
}

#[test]
fn bytes_left_unread_are_given_back_by_whoever_reads_them() {
    let pool = small_pages(8);
    let (mut tx, mut rx) = fifo(&pool, 300, Home::Producer);
    tx.write(b"unread");
    assert!(tx.release(), "once more, as the reader may have looked just before");
    assert!(!tx.release(), "it knows by now");
    assert_eq!((rx.consume(5), pool.pages_in_use()), (5, 1));
    assert_eq!((rx.consume(1), pool.pages_in_use()), (1, 0));
    assert!(!tx.release());
    // A producer that has more to say is back where it was.
    tx.write(b"more");
    assert!(tx.release());
    tx.write(b" of it");
    assert_eq!((rx.consume(10), pool.pages_in_use()), (10, 1));
    assert!(!tx.release());
    assert_eq!(pool.pages_in_use(), 0);

    let (mut tx, mut rx) = fifo(&pool, 300, Home::Consumer);
    tx.write(b"unread");
    rx.release();
    assert_eq!((rx.consume(6), pool.pages_in_use()), (6, 1));
    rx.release();
    assert_eq!(pool.pages_in_use(), 0);
}

#[test]
fn bytes_stored_out_of_order_keep_the_pages() {
    let pool = small_pages(8);
    let (mut tx, mut rx) = fifo(&pool, 300, Home::Producer);
    tx.write_at(10, b"later");
    assert!(!tx.release());
    assert_eq!(tx.write(&[b' '; 10]), 10);
    tx.advance(5);
    assert_eq!(peeked(&mut rx, 0, 300), b"          later");
}

#[test]
fn a_record_is_published_whole_or_not_at_all() {
    for home in HOMES {
        let pool = small_pages(2);
        let (mut tx, mut rx) = fifo(&pool, 150, home);
        assert!(tx.write_record(*b"head", b"payload"));
        assert_eq!(peeked(&mut rx, 0, 300), b"headpayload");
        assert!(tx.write_record(*b"head", &[1; 100]), "over two pages");
        assert!(!tx.write_record(*b"head", &[2; 32]), "more than the capacity");
        rx.consume(11);
        assert!(!tx.write_record(*b"head", &[3; 30]), "more than the pages");
        assert_eq!((rx.len(), tx.stored()), (104, 0));
        assert!(tx.write_record(*b"", b"!") && tx.write_record(*b"!", b""));
        rx.consume(4);
        assert_eq!(peeked(&mut rx, 0, 300), [[1; 100].as_slice(), b"!!"].concat());
        rx.discard_all();
        tx.close();
        assert!(!tx.write_record(*b"head", b"payload"));
    }
}

#[test]
fn a_record_is_made_in_place_if_the_longest_would_lie_together() {
    for home in HOMES {
        let (mut tx, mut rx) = fifo(&small_pages(4), 1_000, home);
        assert_eq!(tx.write_record_with(4, |_| [0; 2], |_| panic!("no page yet")), None);
        assert_eq!(tx.write(b"...."), 4);
        let write = |to: &mut [u8]| {
            assert_eq!(to.len(), 10);
            to[..3].copy_from_slice(b"abc");
            3
        };
        assert_eq!(tx.write_record_with(10, |len| [b'0' + len as u8, b':'], write), Some(3));
        assert_eq!(tx.write_record_with(1, |len| [b'0' + len as u8, b':'], |to| to.len() + 9), Some(1));
        assert_eq!(&peeked(&mut rx, 0, 100)[..11], b"....3:abc1:");
        for max in [64, usize::MAX] {
            assert_eq!(tx.write_record_with(max, |_| [0; 2], |_| panic!("it turns the page")), None);
        }
        rx.discard_all();
        assert_eq!(tx.write_record_with(62, |_| [0; 2], |to| to.len()), Some(62), "a page begun anew");
        tx.close();
        assert_eq!(tx.write_record_with(1, |_| [0; 2], |_| panic!("closed")), None);
    }
}

#[test]
fn whoever_is_at_home_gives_the_pages_back() {
    let pool = small_pages(4);
    let (mut tx, mut rx) = fifo(&pool, 1_000, Home::Producer);
    for (home, kept) in [(Home::Producer, true), (Home::Consumer, false), (Home::Producer, true)] {
        tx.set_home(home);
        assert_eq!(tx.write(b"hello"), 5);
        assert_eq!(peeked(&mut rx, 0, 10), b"hello");
        rx.discard_all();
        rx.release();
        assert_eq!(rx.holds_pages(), kept);
    }
    // What was written at home is read, and goes back, away from it.
    tx.set_home(Home::Consumer);
    rx.release();
    assert!(!rx.holds_pages());
}

#[test]
fn an_exhausted_pool_is_back_pressure_and_recovers() {
    for home in HOMES {
        let pool = small_pages(2);
        let (mut tx1, mut rx1) = fifo(&pool, 1_000, home);
        let (mut tx2, mut rx2) = fifo(&pool, 1_000, home);
        assert_eq!((tx1.write(&[1; 100]), pool.is_exhausted()), (100, true));
        assert_eq!(tx2.write(b"x"), 0);
        assert_eq!(tx2.write_at(10, b"x"), 0);
        assert_eq!(tx2.write_with(10, |_| panic!("no room to write to")), None);
        assert_eq!(tx1.write(&[1; 100]), 28);
        assert_eq!(tx1.write_with(10, |_| panic!("no room to write to")), None);
        assert_eq!((rx1.consume(64), pool.is_exhausted()), (64, false));
        assert_eq!(tx2.write(&[2; 100]), 64);
        assert_eq!(peeked(&mut rx2, 0, 100), [2; 64]);
        rx1.discard_all();
        rx2.discard_all();
        release(home, &mut tx1, &mut rx1);
        release(home, &mut tx2, &mut rx2);
        assert_eq!(pool.pages_in_use(), 0);
    }
}

#[test]
fn retransmission_reads_again_what_was_sent() {
    let pool = small_pages(16);
    let (mut tx, mut rx) = fifo(&pool, 1_000, Home::Producer);
    let data = pattern(0, 0, 700);
    tx.write(&data);
    for offset in (0..700).step_by(100) {
        assert_eq!(peeked(&mut rx, offset, 100), data[offset..offset + 100]);
    }
    assert_eq!(rx.consume(150), 150);
    assert_eq!(peeked(&mut rx, 0, 100), data[150..250]);
    assert_eq!(peeked(&mut rx, 500, 100), data[650..]);
    assert_eq!(peeked(&mut rx, 550, 1), []);
    assert_eq!(peeked(&mut rx, usize::MAX, usize::MAX), []);
}

#[test]
fn bytes_out_of_order_stay_hidden_until_the_gap_is_filled() {
    let pool = small_pages(16);
    let (mut tx, mut rx) = fifo(&pool, 500, Home::Producer);
    assert_eq!(tx.write_at(100, &[b'c'; 100]), 100);
    assert_eq!((rx.len(), tx.stored(), tx.free()), (0, 200, 500));
    assert_eq!(tx.write(&[b'a'; 50]), 50);
    assert_eq!((rx.len(), tx.stored()), (50, 150));
    assert_eq!(rx.consume(50), 50);
    assert_ne!(pool.pages_in_use(), 0, "the page holds bytes that are still to come");
    assert_eq!(tx.write(&[b'b'; 50]), 50);
    tx.advance(100);
    assert_eq!(tx.stored(), 0);
    assert_eq!(peeked(&mut rx, 0, 200), [[b'b'; 50].as_slice(), &[b'c'; 100]].concat());
    rx.discard_all();
    assert!(!tx.release());
    assert_eq!(pool.pages_in_use(), 0);
}

#[test]
fn writes_are_bounded_by_the_capacity_wherever_they_are() {
    let pool = small_pages(16);
    let (mut tx, mut rx) = fifo(&pool, 100, Home::Producer);
    assert_eq!(tx.write_at(90, &[1; 20]), 10);
    assert_eq!(tx.write_at(100, &[1]), 0);
    assert_eq!(tx.write_at(usize::MAX, &[1]), 0);
    tx.advance(usize::MAX);
    assert_eq!((rx.len(), tx.free()), (100, 0));
    tx.set_capacity(50);
    assert_eq!((tx.free(), tx.write(&[1])), (0, 0));
    rx.consume(60);
    assert_eq!((tx.free(), tx.write(&[1; 20])), (10, 10));
    tx.set_capacity(usize::MAX);
    assert_eq!(tx.capacity(), u32::MAX as usize);
}

#[test]
fn an_earlier_connection_shows_nowhere() {
    let pool = PagePool::new(4);
    let (mut tx, mut rx) = fifo(&pool, 1 << 16, Home::Producer);
    tx.write(&[0xEE; 30_000]);
    rx.discard_all();
    drop((tx, rx));

    let (mut tx, mut rx) = fifo(&pool, 1 << 16, Home::Producer);
    // Neither more claimed than written, nor a gap shows old bytes.
    assert_eq!(tx.write(&[0; 100]), 100);
    assert_eq!(tx.write_at(20_000, b"end"), 3);
    tx.advance(usize::MAX);
    assert_eq!(rx.len(), 20_103);
    let all = peeked(&mut rx, 0, usize::MAX);
    assert!(all[..20_100].iter().all(|&b| b == 0) && &all[20_100..] == b"end");
    assert_eq!(pool.pages_made(), 2, "the pages are used ones");
}

#[test]
fn rollback_forgets_what_was_stored_and_keeps_what_was_published() {
    let pool = small_pages(16);
    let (mut tx, mut rx) = fifo(&pool, 1_000, Home::Producer);
    tx.write(b"kept");
    tx.write_at(0, &[1; 300]);
    assert_eq!(pool.pages_in_use(), 5);
    tx.rollback();
    assert_eq!((tx.stored(), pool.pages_in_use()), (0, 1));
    tx.advance(300);
    assert_eq!(peeked(&mut rx, 0, 300), b"kept");
    tx.write(b" too");
    assert_eq!(peeked(&mut rx, 0, 300), b"kept too");
}

#[test]
fn close_comes_after_the_last_byte_and_a_drop_without_it_is_a_break() {
    let pool = small_pages(16);
    let (mut tx, mut rx) = fifo(&pool, 1_000, Home::Producer);
    tx.write(b"last");
    tx.write_at(1, b"never");
    tx.close();
    assert_eq!((tx.write(b"more"), tx.write_at(0, b"more"), tx.write_with(4, |b| b.len())), (0, 0, None));
    assert!(rx.is_closed() && !rx.is_finished() && rx.is_producer_alive());
    drop(tx);
    assert!(!rx.is_producer_alive());
    assert_eq!((peeked(&mut rx, 0, 100).as_slice(), rx.discard_all()), (b"last".as_slice(), 4));
    assert!(rx.is_finished());
    assert_eq!(pool.pages_in_use(), 0);

    let (mut tx, mut rx) = fifo(&pool, 1_000, Home::Producer);
    tx.write(b"cut");
    drop(tx);
    assert!(!rx.is_closed() && !rx.is_producer_alive());
    assert_eq!(rx.discard_all(), 3);
    assert!(!rx.is_finished());
}

#[test]
fn nothing_is_kept_for_a_consumer_that_is_gone() {
    let pool = small_pages(16);
    let (mut tx, mut rx) = fifo(&pool, 1_000, Home::Producer);
    tx.write(&[1; 200]);
    rx.consume(10);
    assert!(tx.is_consumer_alive());
    drop(rx);
    assert!(!tx.is_consumer_alive() && tx.drained() && !tx.release());
    assert_eq!(pool.pages_in_use(), 0);
    assert_eq!((tx.write(b"x"), pool.pages_in_use()), (0, 0));
}

#[test]
fn a_panic_while_writing_in_place_publishes_nothing() {
    let pool = small_pages(16);
    let (mut tx, mut rx) = fifo(&pool, 1_000, Home::Producer);
    for _ in 0..2 {
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            tx.write_with(9, |_| panic!("on purpose"))
        }));
        assert!(unwound.is_err());
        assert_eq!(rx.consume(1), 0);
        assert_eq!(tx.write(b"ok"), 2);
        assert_eq!(peeked(&mut rx, 0, 9), b"ok");
        rx.discard_all();
    }
    assert!(!tx.release());
    assert_eq!(pool.pages_in_use(), 0);
}

#[derive(Clone, Debug)]
enum Op {
    Write(usize),
    WriteRecord(usize),
    WriteWith(usize, usize),
    Store(usize, usize),
    FillGap,
    Rollback,
    Capacity(usize),
    Read(usize),
    Consume(usize),
    Peek(usize, usize),
    Release,
    Close,
    DropProducer,
    DropConsumer,
}

fn op() -> impl Strategy<Value = Op> {
    let n = || prop_oneof![4 => 0..100usize, 1 => 0..500usize];
    prop_oneof![
        8 => n().prop_map(Op::Write),
        4 => n().prop_map(Op::WriteRecord),
        3 => (n(), n()).prop_map(|(max, n)| Op::WriteWith(max, n)),
        6 => (n(), n()).prop_map(|(offset, n)| Op::Store(offset, n)),
        4 => Just(Op::FillGap),
        1 => Just(Op::Rollback),
        1 => n().prop_map(Op::Capacity),
        6 => n().prop_map(Op::Read),
        6 => n().prop_map(Op::Consume),
        8 => (n(), n()).prop_map(|(offset, n)| Op::Peek(offset, n)),
        3 => Just(Op::Release),
        1 => (0..8u8).prop_map(|n| if n == 0 { Op::Close } else { Op::FillGap }),
        1 => (0..30u8).prop_map(|n| match n { 0 => Op::DropProducer, 1 => Op::DropConsumer, _ => Op::FillGap }),
    ]
}

/// What the FIFO should hold.
struct Model {
    queue: VecDeque<u8>,
    /// Bytes stored beyond the tail, `None` in gaps.
    beyond: VecDeque<Option<u8>>,
    capacity: usize,
    closed: bool,
    stream: u8,
    tail: u64,
}

impl Model {
    fn room(&self) -> usize {
        if self.closed { 0 } else { self.capacity.saturating_sub(self.queue.len()) }
    }

    fn store(&mut self, offset: usize, bytes: &[u8]) {
        if !bytes.is_empty() && self.beyond.len() < offset + bytes.len() {
            self.beyond.resize(offset + bytes.len(), None);
        }
        for (i, &b) in bytes.iter().enumerate() {
            self.beyond[offset + i] = Some(b);
        }
    }

    fn publish(&mut self, n: usize) {
        self.tail += n as u64;
        self.queue.extend(self.beyond.drain(..n).map(|b| b.unwrap_or(0)));
    }
}

/// Applies one operation to a producer and to the model.
fn produce(tx: &mut Producer, m: &mut Model, op: &Op) -> Result<(), TestCaseError> {
    match *op {
        Op::Write(n) => {
            let data = pattern(m.stream, m.tail, n);
            let n = n.min(m.room());
            prop_assert_eq!(tx.write(&data), n);
            m.store(0, &data[..n]);
            m.publish(n);
        }
        Op::WriteRecord(n) => {
            let data = pattern(m.stream, m.tail, n + 7);
            let (header, payload) = data.split_at(7);
            let header: [u8; 7] = core::array::from_fn(|i| header[i]);
            let fits = data.len() <= m.room() && m.beyond.is_empty();
            prop_assert_eq!(tx.write_record(header, payload), fits);
            if fits {
                m.store(0, &data);
                m.publish(data.len());
            }
        }
        Op::WriteWith(max, n) => {
            let (stream, tail) = (m.stream, m.tail);
            let mut given = 0;
            let wrote = tx.write_with(max, |to| {
                given = to.len();
                let n = n.min(given);
                to[..n].copy_from_slice(&pattern(stream, tail, n));
                n
            });
            let may = max.min(m.room()) > 0 && m.beyond.is_empty();
            prop_assert_eq!(wrote, may.then_some(n.min(given)));
            prop_assert!((given > 0) == may && given <= max.min(m.room()));
            let wrote = wrote.unwrap_or(0);
            m.store(0, &pattern(stream, tail, wrote));
            m.publish(wrote);
        }
        Op::Store(offset, n) => {
            let data = pattern(m.stream, m.tail + offset as u64, n);
            let n = n.min(m.room().saturating_sub(offset));
            prop_assert_eq!(tx.write_at(offset, &data), n);
            m.store(offset, &data[..n]);
        }
        Op::FillGap => {
            let gap = m.beyond.iter().take_while(|b| b.is_none()).count();
            let data = pattern(m.stream, m.tail, gap);
            let n = gap.min(m.room());
            prop_assert_eq!(tx.write(&data), n);
            m.store(0, &data[..n]);
            m.publish(n);
            let ready = m.beyond.iter().take_while(|b| b.is_some()).count();
            tx.advance(ready);
            m.publish(ready);
        }
        Op::Rollback => {
            tx.rollback();
            m.beyond.clear();
        }
        Op::Capacity(n) => {
            tx.set_capacity(n + 1);
            m.capacity = n + 1;
        }
        Op::Close => {
            tx.close();
            m.beyond.clear();
            m.closed = true;
        }
        _ => {}
    }
    prop_assert_eq!((tx.unread(), tx.stored(), tx.tail()), (m.queue.len(), m.beyond.len(), m.tail));
    prop_assert_eq!(tx.free(), m.capacity.saturating_sub(m.queue.len()));
    Ok(())
}

/// Applies one operation to a consumer and to the model.
fn consume(rx: &mut Consumer, m: &mut Model, op: &Op) -> Result<(), TestCaseError> {
    match *op {
        Op::Read(n) => {
            let mut out = vec![0; n];
            let n = rx.read(&mut out);
            prop_assert!(out[..n].iter().copied().eq(m.queue.drain(..n)));
            prop_assert!(n == out.len() || m.queue.is_empty());
        }
        Op::Consume(n) => {
            let n = n.min(m.queue.len());
            prop_assert_eq!(rx.consume(n), n);
            m.queue.drain(..n);
        }
        Op::Peek(offset, n) => {
            let want: Vec<u8> = m.queue.iter().skip(offset).take(n).copied().collect();
            prop_assert_eq!(peeked(rx, offset, n), want);
        }
        _ => {}
    }
    prop_assert_eq!((rx.len(), rx.is_empty()), (m.queue.len(), m.queue.is_empty()));
    prop_assert_eq!((rx.is_closed(), rx.is_finished()), (m.closed, m.closed && m.queue.is_empty()));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Several streams one after the other on one pool, so that pages are used ones.
    #[test]
    fn it_behaves_as_a_queue(streams in prop::collection::vec(prop::collection::vec(op(), 1..80), 1..4)) {
        for home in HOMES {
            let pool = small_pages(1_000);
            for (stream, ops) in streams.iter().enumerate() {
                let mut m = Model {
                    queue: VecDeque::new(),
                    beyond: VecDeque::new(),
                    capacity: 400,
                    closed: false,
                    stream: stream as u8,
                    tail: 0,
                };
                run_stream(home, &pool, &mut m, ops)?;
                prop_assert_eq!(pool.pages_in_use(), 0);
            }
        }
    }
}

fn run_stream(home: Home, pool: &PagePool, m: &mut Model, ops: &[Op]) -> Result<(), TestCaseError> {
    let (tx, rx) = fifo(pool, 400, home);
    let (mut tx, mut rx) = (Some(tx), Some(rx));
    for op in ops {
        match op {
            Op::DropProducer => {
                tx = None;
                m.beyond.clear();
            }
            Op::DropConsumer => rx = None,
            _ => {}
        }
        // What a producer is told once its consumer is gone is left open.
        if let (Some(tx), true) = (&mut tx, rx.is_some()) {
            produce(tx, m, op)?;
        }
        if let Some(rx) = &mut rx {
            prop_assert_eq!(rx.is_producer_alive(), tx.is_some());
            consume(rx, m, op)?;
        }
        if matches!(op, Op::Release) {
            match (home, &mut tx, &mut rx) {
                (Home::Producer, Some(tx), _) => {
                    tx.release();
                }
                (Home::Consumer, _, Some(rx)) => rx.release(),
                _ => {}
            }
            if m.queue.is_empty() && m.beyond.is_empty() && (rx.is_some() || home == Home::Producer) {
                prop_assert_eq!(pool.pages_in_use(), 0);
            }
        }
        if rx.is_some() {
            let bytes = m.queue.len() + m.beyond.len();
            prop_assert!(pool.pages_in_use() <= bytes.div_ceil(64) + 2);
            prop_assert!(bytes > 0 || pool.pages_in_use() <= 1);
        }
    }
    Ok(())
}

/// Two threads, a megabyte through two pages: every byte in order, nothing left.
#[test]
fn two_threads_pass_every_byte_in_order() {
    HOMES.into_iter().for_each(pass_every_byte);
}

fn pass_every_byte(home: Home) {
    const TOTAL: u64 = 2 << 20;
    let pool = PagePool::with_page_size(4, 1_024);
    let (mut tx, mut rx) = fifo(&pool, 3_000, home);
    let writer = std::thread::spawn(move || {
        let mut seed = 1u32;
        while tx.tail() < TOTAL {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let n = (seed >> 20) as usize % 700 + 1;
            let n = n.min((TOTAL - tx.tail()) as usize);
            let (from, half) = (tx.tail(), n / 2);
            if seed & 1 << 16 == 0 {
                tx.write(&pattern(0, from, n));
            } else {
                // The second half first; what the pool refuses comes again.
                let stored = tx.write_at(half, &pattern(0, from + half as u64, n - half));
                if tx.write(&pattern(0, from, half)) == half {
                    tx.advance(stored);
                }
                tx.rollback();
            }
            if home == Home::Producer && seed & 7 << 12 == 0 {
                tx.release();
            }
            if tx.free() == 0 {
                std::thread::yield_now();
            }
        }
        tx.close();
    });
    let mut out = [0; 500];
    while !rx.is_finished() {
        let from = rx.head();
        let n = rx.read(&mut out);
        assert_eq!(out[..n], pattern(0, from, n));
        if home == Home::Consumer && from & 7 == 0 {
            rx.release();
        }
        if n == 0 {
            std::thread::yield_now();
        }
    }
    assert_eq!(rx.head(), TOTAL);
    assert!(writer.join().is_ok());
    rx.release();
    assert_eq!(pool.pages_in_use(), 0);
}

#[test]
fn a_default_page_is_sixteen_kibibytes_with_its_header() {
    assert_eq!(PagePool::new(1).page_data(), DEFAULT_PAGE_SIZE - 64);
    assert_eq!(PagePool::with_page_size(1, 0).page_data(), 1);
    let none = PagePool::new(0);
    let (mut tx, _rx) = fifo(&none, 10, Home::Producer);
    assert_eq!((tx.write(b"x"), none.max_pages()), (0, 0));
}

#[test]
fn copies_of_every_length_are_whole() {
    let from: Vec<u8> = (1..=200).collect();
    for len in 0..=200 {
        let mut to = [0; 201];
        copy(&mut to[..len], &from[..len]);
        assert_eq!((&to[..len], to[len]), (&from[..len], 0));
    }
}
