//! The wire under both stacks: two ports in one thread, joined by queues of recycled buffers.
//!
//! It is what [`ntytcp::device::mem`] is, without threads and so without atomics: a frame is a boxed slice that changes hands. The same
//! port is a device to our stack and a device to smoltcp, so that the link costs both the same. Buffers come from one pile (the
//! last used first) and stay in the cache. Nothing is offloaded: both stacks compute and verify every checksum.

use arrayvec::ArrayVec;
use ntytcp::device::{self, BURST, Caps, DeviceError, RxFrame, RxMeta, TxMeta, TxQueue, Verdict};
use smoltcp::phy::{DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// The longest Ethernet frame at an MTU of 1500.
const FRAME: usize = 1514;

struct Frame {
    bytes: Box<[u8]>,
    len: usize,
}

/// Frames under way to a port, oldest first.
type Inbox = Rc<RefCell<VecDeque<Frame>>>;

/// Buffers that nobody uses.
type Free = Rc<RefCell<Vec<Box<[u8]>>>>;

/// One end of a cable.
pub(crate) struct Port {
    inbox: Inbox,
    peer: Inbox,
    free: Free,
    caps: Caps,
    /// What our stack is writing.
    open: Option<Frame>,
}

/// A cable that holds `ring` frames.
pub(crate) fn pair(ring: usize) -> (Port, Port) {
    let inbox = || Rc::new(RefCell::new(VecDeque::with_capacity(ring)));
    let (a, b) = (inbox(), inbox());
    let free: Free = Rc::new(RefCell::new((0..ring).map(|_| vec![0; FRAME].into()).collect()));
    let port = |inbox: &Inbox, peer: &Inbox| Port {
        inbox: Rc::clone(inbox),
        peer: Rc::clone(peer),
        free: Rc::clone(&free),
        caps: Caps::plain(1500),
        open: None,
    };
    (port(&a, &b), port(&b, &a))
}

impl smoltcp::phy::Device for Port {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Sending<'_>)> {
        if self.free.borrow().is_empty() {
            return None;
        }
        let frame = self.inbox.borrow_mut().pop_front()?;
        Some((Received { frame, free: &self.free }, Sending { peer: &self.peer, free: &self.free }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        (!self.free.borrow().is_empty()).then_some(Sending { peer: &self.peer, free: &self.free })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = FRAME;
        caps
    }
}

/// A frame that arrived.
pub(crate) struct Received<'a> {
    frame: Frame,
    free: &'a Free,
}

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let result = f(&self.frame.bytes[..self.frame.len]);
        self.free.borrow_mut().push(self.frame.bytes);
        result
    }
}

/// Room for a frame to be sent.
pub(crate) struct Sending<'a> {
    peer: &'a Inbox,
    free: &'a Free,
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = self.free.borrow_mut().pop().unwrap_or_else(|| vec![0; FRAME].into());
        let result = f(&mut bytes[..len]);
        self.peer.borrow_mut().push_back(Frame { bytes, len });
        result
    }
}

impl TxQueue for Port {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    #[inline]
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        let bytes = match self.open.take() {
            Some(frame) => frame.bytes,
            None => self.free.borrow_mut().pop()?,
        };
        self.open.insert(Frame { bytes, len }).bytes.get_mut(..len)
    }

    #[inline]
    fn commit(&mut self, _: TxMeta) {
        if let Some(frame) = self.open.take() {
            self.peer.borrow_mut().push_back(frame);
        }
    }
}

impl device::Device for Port {
    #[inline]
    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        let mut inbox = self.inbox.borrow_mut();
        let count = inbox.len().min(BURST);
        if count == 0 {
            return Ok(0);
        }
        // The stack does not come back to the link while it looks at the frames.
        let mut frames = ArrayVec::<RxFrame<'_>, BURST>::new();
        for Frame { bytes, len } in inbox.iter_mut().take(count) {
            frames.push(RxFrame::new(bytes, 0, *len, RxMeta::default()));
        }
        sink(&mut frames);
        let is_reply = |frame: &RxFrame<'_>| matches!(frame.verdict, Verdict::Reply(_));
        let mut free = self.free.borrow_mut();
        if !frames.iter().any(is_reply) {
            drop(frames);
            free.extend(inbox.drain(..count).map(|frame| frame.bytes));
            return Ok(count);
        }
        // The length of an answer, or 0.
        let mut replies = ArrayVec::<usize, BURST>::new();
        for frame in &frames {
            replies.push(if is_reply(frame) { frame.len() } else { 0 });
        }
        drop(frames);
        let mut peer = self.peer.borrow_mut();
        for (Frame { bytes, .. }, &len) in inbox.drain(..count).zip(&replies) {
            match len {
                0 => free.push(bytes),
                len => peer.push_back(Frame { bytes, len }),
            }
        }
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}
