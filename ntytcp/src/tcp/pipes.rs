//! The FIFOs of connections, and those of connections that are over, kept for the next.
//!
//! A pair costs two allocations, and as many atomic counts as halves. Who opens and closes connections by the thousand uses
//! the same few pairs again and again, as their memory is in the cache.

use crate::fifo::{Consumer, Home, PagePool, Producer, fifo};

/// Both FIFOs of a connection.
#[derive(Debug)]
pub(crate) struct Pipes {
    /// What the application sends.
    pub(crate) tx: Consumer,
    /// What arrives.
    pub(crate) rx: Producer,
    /// The application's ends of both.
    pub(crate) half: (Producer, Consumer),
}

/// How many pairs are kept: 300 bytes each.
const SPARES: usize = 1_024;

/// Makes pairs. See the module documentation.
#[derive(Debug)]
pub(crate) struct PipeStock {
    pool: PagePool,
    spare: Vec<Pipes>,
}

impl PipeStock {
    pub(crate) fn new(pool: PagePool) -> Self {
        Self { pool, spare: Vec::new() }
    }

    /// A pair without bytes in it.
    #[inline]
    pub(crate) fn take(&mut self, send_buffer: usize, recv_buffer: usize) -> Pipes {
        let mut pipes = self.spare.pop().unwrap_or_else(|| self.make());
        pipes.half.0.set_capacity(send_buffer);
        pipes.rx.set_capacity(recv_buffer);
        pipes
    }

    #[cold]
    fn make(&self) -> Pipes {
        let (app_tx, tx) = fifo(&self.pool, 0, Home::Consumer);
        let (rx, app_rx) = fifo(&self.pool, 0, Home::Producer);
        Pipes { tx, rx, half: (app_tx, app_rx) }
    }

    /// Takes back a pair, whatever is in it.
    #[inline]
    pub(crate) fn give_back(&mut self, mut pipes: Pipes) {
        let Pipes { tx, rx, half: (app_tx, app_rx) } = &mut pipes;
        if app_tx.restart(tx) && rx.restart(app_rx) && self.spare.len() < SPARES {
            self.spare.push(pipes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_that_comes_back_is_given_out_again_without_its_bytes_and_pages() {
        let pool = PagePool::new(4);
        let mut stock = PipeStock::new(pool.clone());
        let mut pipes = stock.take(10, 20);
        assert_eq!((pipes.half.0.write(&[1; 30]), pipes.rx.write(&[2; 30])), (10, 20));
        pipes.half.0.close();
        stock.give_back(pipes);
        assert_eq!((stock.spare.len(), pool.pages_in_use()), (1, 0));
        let mut pipes = stock.take(7, 8);
        assert_eq!((stock.spare.len(), pipes.tx.len(), pipes.half.1.len()), (0, 0, 0));
        assert_eq!((pipes.half.0.write(&[1; 30]), pipes.rx.write(&[2; 30])), (7, 8));
    }
}
