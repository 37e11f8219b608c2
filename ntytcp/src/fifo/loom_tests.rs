//! Every interleaving of the two halves that loom can find: attach, detach, close and drop.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p ntytcp --lib fifo --release`

use super::page::Page;
use super::{PagePool, fifo};
use loom::thread;

/// Pages of two data bytes.
fn tiny_pages(max: usize) -> PagePool {
    PagePool::with_page_size(max, size_of::<Page>() + 2)
}

/// Reads what is there and checks that it goes on from `next`.
fn read_on(rx: &mut super::Consumer, next: &mut u8) {
    let mut out = [0; 8];
    let n = rx.read(&mut out);
    for &byte in &out[..n] {
        assert_eq!(byte, *next);
        *next += 1;
    }
}

#[test]
fn each_write_meets_each_stage_of_reading_dry() {
    loom::model(|| {
        let pool = tiny_pages(4);
        let (mut tx, mut rx) = fifo(&pool, 8);
        let writer = thread::spawn(move || {
            assert_eq!(tx.write(&[0]), 1);
            assert_eq!(tx.write(&[1, 2]), 2);
            tx
        });
        let mut next = 0;
        read_on(&mut rx, &mut next);
        read_on(&mut rx, &mut next);
        let tx = writer.join().unwrap();
        read_on(&mut rx, &mut next);
        assert_eq!((next, pool.pages_in_use()), (3, 0));
        assert!(tx.drained());
    });
}

#[test]
fn close_meets_detach_and_ends_the_stream_once() {
    loom::model(|| {
        let pool = tiny_pages(4);
        let (mut tx, mut rx) = fifo(&pool, 8);
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
        assert_eq!((next, pool.pages_in_use()), (2, 0));
    });
}

#[test]
fn bytes_out_of_order_are_not_detached_under_the_producer() {
    loom::model(|| {
        let pool = tiny_pages(4);
        let (mut tx, mut rx) = fifo(&pool, 8);
        tx.write(&[0]);
        let writer = thread::spawn(move || {
            assert_eq!(tx.write_at(1, &[2, 3]), 2);
            assert_eq!(tx.write(&[1]), 1);
            tx.advance(2);
            tx
        });
        let mut next = 0;
        read_on(&mut rx, &mut next);
        read_on(&mut rx, &mut next);
        let _tx = writer.join().unwrap();
        read_on(&mut rx, &mut next);
        assert_eq!((next, pool.pages_in_use()), (4, 0));
    });
}

#[test]
fn rollback_meets_reading_and_no_page_is_lost() {
    loom::model(|| {
        let pool = tiny_pages(4);
        let (mut tx, mut rx) = fifo(&pool, 8);
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
        let _tx = writer.join().unwrap();
        read_on(&mut rx, &mut next);
        assert_eq!((next, pool.pages_in_use()), (2, 0));
    });
}

#[test]
fn both_halves_drop_at_once_and_every_page_goes_back() {
    loom::model(|| {
        let pool = tiny_pages(4);
        let (mut tx, rx) = fifo(&pool, 8);
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
    loom::model(|| {
        let pool = tiny_pages(4);
        let (mut tx, rx) = fifo(&pool, 8);
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
fn pages_change_threads_without_being_given_out_twice() {
    loom::model(|| {
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
