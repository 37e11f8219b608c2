//! The FIFO against a plain queue, and what it does with its pages.

use super::{PagePool, fifo};

/// Pages of 64 data bytes, so that every test crosses pages.
fn small_pages(max: usize) -> PagePool {
    PagePool::with_page_size(max, 128)
}

#[test]
fn bytes_come_out_as_they_went_in_and_pages_go_back() {
    let pool = small_pages(8);
    let (mut tx, mut rx) = fifo(&pool, 300);
    let data: Vec<u8> = (0..=255).collect();
    assert_eq!(tx.write(&data), 256);
    assert_eq!(tx.write(&data), 44);
    assert_eq!((rx.len(), tx.free(), pool.pages_in_use()), (300, 0, 5));
    let mut out = [0; 300];
    assert_eq!(rx.read(&mut out), 300);
    assert_eq!((&out[..256], &out[256..]), (&data[..], &data[..44]));
    assert_eq!(pool.pages_in_use(), 0);
}
