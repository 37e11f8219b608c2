//! Every interleaving of the two halves that loom can find: attach, rebase, release, close and drop.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p ntytcp --lib --release fifo::`

use super::page::Page;
use super::{Consumer, Home, PagePool, Producer, fifo};
use loom::thread;

const HOMES: [Home; 2] = [Home::Producer, Home::Consumer];

/// Pages of two data bytes.
fn tiny_pages(max: usize) -> PagePool {
    PagePool::with_page_size(max, size_of::<Page>() + 2)
}

/// Explores every interleaving of `test` in which a thread is interrupted three times at most (`LOOM_MAX_PREEMPTIONS` says
/// otherwise): the number of all is out of reach, and no bug of two threads is known to need more.
fn explore(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(test);
}

/// Explores `test` for either home.
fn model(test: fn(Home)) {
    HOMES.into_iter().for_each(|home| explore(move || test(home)));
}

/// Reads what is there and checks that it goes on from `next`.
fn read_on(rx: &mut Consumer, next: &mut u8) {
    let mut out = [0; 8];
    let n = rx.read(&mut out);
    for &byte in &out[..n] {
        assert_eq!(byte, *next);
        *next += 1;
    }
}

/// Releases a drained FIFO whose halves are at rest and checks that no page is left.
fn release(home: Home, pool: &PagePool, tx: &mut Producer, rx: &mut Consumer) {
    match home {
        Home::Producer => assert!(!tx.release()),
        Home::Consumer => rx.release(),
    }
    assert_eq!(pool.pages_in_use(), 0);
}

#[test]
fn each_write_meets_each_stage_of_reading_dry() {
    model(|home| {
        let pool = tiny_pages(4);
        let (mut tx, mut rx) = fifo(&pool, 8, home);
        let writer = thread::spawn(move || {
            assert_eq!(tx.write(&[0]), 1);
            assert_eq!(tx.write(&[1, 2]), 2);
            tx
        });
        let mut next = 0;
        read_on(&mut rx, &mut next);
        read_on(&mut rx, &mut next);
        let mut tx = writer.join().unwrap();
        read_on(&mut rx, &mut next);
        assert_eq!(next, 3);
        assert!(tx.drained() && pool.pages_in_use() == 1);
        release(home, &pool, &mut tx, &mut rx);
    });
}

#[test]
fn a_drained_page_is_written_from_its_beginning_while_its_reader_looks() {
    model(|home| {
        let pool = tiny_pages(2);
        let (mut tx, mut rx) = fifo(&pool, 8, home);
        assert!(tx.write_record([0], &[1]));
        let writer = thread::spawn(move || {
            // Into the same page if the reader was fast enough, else into the next.
            assert!(tx.write_record([2], &[3]));
            tx
        });
        let mut next = 0;
        read_on(&mut rx, &mut next);
        read_on(&mut rx, &mut next);
        let mut tx = writer.join().unwrap();
        read_on(&mut rx, &mut next);
        assert_eq!(next, 4);
        release(home, &pool, &mut tx, &mut rx);
    });
}

#[test]
fn the_home_producer_releases_while_the_last_byte_is_read() {
    explore(|| {
        let pool = tiny_pages(2);
        let (mut tx, mut rx) = fifo(&pool, 8, Home::Producer);
        tx.write(&[0]);
        let writer = thread::spawn(move || {
            let again = tx.release();
            (tx, again)
        });
        let mut next = 0;
        read_on(&mut rx, &mut next);
        let (mut tx, again) = writer.join().unwrap();
        assert!(again || pool.pages_in_use() == 0);
        release(Home::Producer, &pool, &mut tx, &mut rx);
        assert_eq!(next, 1);
    });
}

#[test]
fn the_home_producer_writes_again_what_it_has_released() {
    explore(|| {
        let pool = tiny_pages(2);
        let (mut tx, mut rx) = fifo(&pool, 8, Home::Producer);
        tx.write(&[0]);
        let writer = thread::spawn(move || {
            tx.release();
            assert_eq!(tx.write(&[1]), 1);
            tx.release();
            tx
        });
        let mut next = 0;
        read_on(&mut rx, &mut next);
        read_on(&mut rx, &mut next);
        let mut tx = writer.join().unwrap();
        read_on(&mut rx, &mut next);
        release(Home::Producer, &pool, &mut tx, &mut rx);
        assert_eq!(next, 2);
    });
}

#[test]
fn the_home_consumer_releases_while_more_is_written() {
    explore(|| {
        let pool = tiny_pages(2);
        let (mut tx, mut rx) = fifo(&pool, 8, Home::Consumer);
        tx.write(&[0]);
        let writer = thread::spawn(move || {
            assert_eq!(tx.write(&[1]), 1);
            tx
        });
        let mut next = 0;
        read_on(&mut rx, &mut next);
        rx.release();
        read_on(&mut rx, &mut next);
        rx.release();
        let mut tx = writer.join().unwrap();
        read_on(&mut rx, &mut next);
        release(Home::Consumer, &pool, &mut tx, &mut rx);
        assert_eq!(next, 2);
    });
}

#[test]
fn close_meets_the_last_read_and_ends_the_stream_once() {
    model(|home| {
        let pool = tiny_pages(4);
        let (mut tx, mut rx) = fifo(&pool, 8, home);
        tx.write(&[0]);
        let writer = thread::spawn(move || {
            tx.write(&[1]);
            tx.close();
            assert_eq!(tx.write(&[9]), 0);
        });
        let mut next = 0;
        read_on(&mut rx, &mut next);
        if rx.is_finished() {
            assert_eq!(next, 2);
        }
        writer.join().unwrap();
        read_on(&mut rx, &mut next);
        assert!(rx.is_finished() && !rx.is_producer_alive());
        // Who reads on finds the end, and that the pages were left to it.
        read_on(&mut rx, &mut next);
        assert_eq!((next, pool.pages_in_use()), (2, 0));
    });
}

#[test]
fn bytes_out_of_order_are_not_detached_under_the_producer() {
    model(|home| {
        let pool = tiny_pages(4);
        let (mut tx, mut rx) = fifo(&pool, 8, home);
        tx.write(&[0]);
        let writer = thread::spawn(move || {
            assert_eq!(tx.write_at(1, &[2, 3]), 2);
            assert!(!tx.release());
            assert_eq!(tx.write(&[1]), 1);
            tx.advance(2);
            tx
        });
        let mut next = 0;
        read_on(&mut rx, &mut next);
        rx.release();
        read_on(&mut rx, &mut next);
        let mut tx = writer.join().unwrap();
        read_on(&mut rx, &mut next);
        assert_eq!(next, 4);
        release(home, &pool, &mut tx, &mut rx);
    });
}

#[test]
fn rollback_meets_reading_and_no_page_is_lost() {
    model(|home| {
        let pool = tiny_pages(4);
        let (mut tx, mut rx) = fifo(&pool, 8, home);
        tx.write(&[0]);
        let writer = thread::spawn(move || {
            tx.write_at(0, &[7, 7, 7]);
            tx.rollback();
            tx.write(&[1]);
            tx
        });
        let mut next = 0;
        read_on(&mut rx, &mut next);
        read_on(&mut rx, &mut next);
        let mut tx = writer.join().unwrap();
        read_on(&mut rx, &mut next);
        assert_eq!(next, 2);
        release(home, &pool, &mut tx, &mut rx);
    });
}

#[test]
fn both_halves_drop_at_once_and_every_page_goes_back() {
    model(|home| {
        let pool = tiny_pages(4);
        let (mut tx, rx) = fifo(&pool, 8, home);
        tx.write(&[0]);
        let writer = thread::spawn(move || {
            tx.write_at(1, &[2, 3]);
        });
        drop(rx);
        writer.join().unwrap();
        assert_eq!(pool.pages_in_use(), 0);
    });
}

#[test]
fn consumer_drops_while_the_producer_attaches() {
    model(|home| {
        let pool = tiny_pages(4);
        let (mut tx, rx) = fifo(&pool, 8, home);
        let writer = thread::spawn(move || {
            tx.write(&[1]);
            tx.write(&[2, 3]);
            drop(tx);
        });
        drop(rx);
        writer.join().unwrap();
        assert_eq!(pool.pages_in_use(), 0);
    });
}

#[test]
fn a_release_finds_that_the_consumer_has_gone() {
    explore(|| {
        let pool = tiny_pages(4);
        let (mut tx, rx) = fifo(&pool, 8, Home::Producer);
        tx.write(&[1]);
        let writer = thread::spawn(move || {
            tx.write(&[2, 3]);
            tx.release();
            tx
        });
        drop(rx);
        let mut tx = writer.join().unwrap();
        assert!(!tx.release());
        assert_eq!(pool.pages_in_use(), 0);
    });
}

#[test]
fn pages_change_threads_without_being_given_out_twice() {
    explore(|| {
        let pool = tiny_pages(2);
        let take = |pool: &PagePool| {
            let page = pool.alloc(0).unwrap();
            // SAFETY: just allocated; loom reports it if another thread holds it too.
            unsafe { Page::bytes_mut(page, 0, 1).write(1) };
            // SAFETY: ours, and not used after.
            unsafe { pool.free(page) };
        };
        take(&pool);
        let other = {
            let pool = pool.clone();
            thread::spawn(move || take(&pool))
        };
        take(&pool);
        other.join().unwrap();
        assert_eq!(pool.pages_in_use(), 0);
    });
}
