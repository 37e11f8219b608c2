//! One receive and one transmit queue of a port.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use super::Port;
use crate::{Burst, Errno, raw};

/// A receive queue and the transmit queue of the same number, which nobody else uses.
#[derive(Debug)]
pub struct Queue {
    port: Arc<Port>,
    index: u16,
    /// An epoll of EAL's, in which the queue's interrupt is.
    interrupt: Option<OwnedFd>,
    /// It tells for as long as there is something to receive, and is neither armed nor disarmed.
    always_tells: bool,
}

impl Queue {
    pub(super) fn new(port: Arc<Port>, index: u16, interrupts: bool) -> Queue {
        let interrupt = if interrupts { epoll(&port, index) } else { None };
        Queue { port, index, interrupt, always_tells: false }
    }

    /// The port.
    pub fn port(&self) -> &Port {
        &self.port
    }

    /// The number of the queue.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Adds what has arrived to the burst, as much as there is room for. Returns how many frames. Some
    /// drivers receive nothing when asked for less than 4 or 32, so give it an empty burst. Never waits.
    pub fn rx_burst<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        let (id, queue) = (self.port.id(), self.index);
        // SAFETY: the port runs, and self is the only user of its queue; the driver writes at most `room`
        // mbufs of its pool.
        unsafe { burst.extend(N, |place, room| usize::from(raw::rte_eth_rx_burst(id, queue, place, room))) }
    }

    /// Makes the packets behind the first `ready` fit for sending: what a driver wants changed for its
    /// offloads. Returns how many are fit from the start; one that is not cannot be sent as it is.
    pub fn tx_prepare<const N: usize>(&mut self, burst: &mut Burst<N>, ready: usize) -> usize {
        let (id, queue) = (self.port.id(), self.index);
        // SAFETY: the port runs, and self is the only user of its queue; the packets stay the burst's.
        burst.visit(ready, |mbufs, count| unsafe {
            ready + usize::from(raw::rte_eth_tx_prepare(id, queue, mbufs, count))
        })
    }

    /// Sends from the front of the burst. What the port does not accept, because its queue is full, stays
    /// there in order. Returns how many frames were accepted. Never waits.
    pub fn tx_burst<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        let (id, queue) = (self.port.id(), self.index);
        // SAFETY: the port runs, and self is the only user of its queue; the driver owns what it accepts.
        unsafe {
            burst.take_front(|mbufs, count| usize::from(raw::rte_eth_tx_burst(id, queue, mbufs, count)))
        }
    }

    /// A descriptor that polls readable when a packet arrives after [`Queue::arm`], if the driver has
    /// interrupts.
    pub fn interrupt(&self) -> Option<BorrowedFd<'_>> {
        self.interrupt.as_ref().map(AsFd::as_fd)
    }

    /// Has the driver tell of the next packet. Whether it will; packets that have arrived it may not tell of,
    /// so receive once more before sleeping. One that cannot is not asked again.
    pub fn arm(&mut self) -> bool {
        let Some(epoll) = &self.interrupt else { return false };
        if self.always_tells {
            return true;
        }
        // SAFETY: the port runs, and self is the only user of its queue.
        let status = unsafe { raw::rte_eth_dev_rx_intr_enable(self.port.id(), self.index) };
        // A driver that has a descriptor and nothing to arm: packets are read from that.
        if Errno(-status) == Errno::ENOTSUP {
            // SAFETY: the port runs, and the epoll is one, with the queue's descriptor in it.
            let kept = unsafe { raw::nty_rx_intr_stays(self.port.id(), self.index, epoll.as_raw_fd()) };
            self.always_tells = kept == 0;
        }
        let armed = status == 0 || self.always_tells;
        if !armed {
            self.forget_interrupt();
        }
        armed
    }

    /// Has the driver no longer tell, and forgets what it has told. Two system calls.
    pub fn disarm(&mut self) {
        let Some(epoll) = self.interrupt.as_ref().filter(|_| !self.always_tells) else { return };
        let mut event = std::mem::MaybeUninit::<raw::rte_epoll_event>::uninit();
        // SAFETY: the port runs, and self is the only user of its queue; the epoll is one, and there is room
        // for the one event.
        unsafe {
            raw::rte_eth_dev_rx_intr_disable(self.port.id(), self.index);
            raw::rte_epoll_wait(epoll.as_raw_fd(), event.as_mut_ptr(), 1, 0);
        }
    }

    /// Takes the interrupt out of its epoll. Drivers that end close their descriptors first, and would not find
    /// what to take out.
    fn forget_interrupt(&mut self) {
        if let Some(epoll) = self.interrupt.take() {
            // SAFETY: the port runs.
            unsafe { raw::nty_rx_intr(self.port.id(), self.index, epoll.as_raw_fd(), 0) };
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.forget_interrupt();
    }
}

/// An epoll with the interrupt of the queue, if it has one.
fn epoll(port: &Port, queue: u16) -> Option<OwnedFd> {
    // SAFETY: no pointer, and the descriptor is new.
    let epoll = unsafe {
        let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    }?;
    // SAFETY: the port runs.
    let status = unsafe { raw::nty_rx_intr(port.id(), queue, epoll.as_raw_fd(), 1) };
    (status == 0).then_some(epoll)
}
