//! A device of one's own: frames travel as datagrams of a Unix socket pair, and a stack at either end neither knows nor
//! cares. `cargo run -p ntytcp --example own_device` pings through it.

use ntytcp::device::{
    Caps, Device, DeviceError, HEADROOM, MAX_L2_HEADER, RxFrame, RxMeta, TxMeta, TxQueue, Verdict,
};
use ntytcp::shard::Shard;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

const MTU: usize = 1500;
const RING: usize = 64;

/// One end of the wire.
struct Wire {
    caps: Caps,
    socket: UnixDatagram,
    /// The frame that was received, with room in front for an answer that is longer.
    buffer: [u8; HEADROOM + MAX_L2_HEADER + MTU],
    /// The frame that is being written.
    open: Option<Vec<u8>>,
    /// Frames that wait for the next flush.
    ring: VecDeque<Vec<u8>>,
}

impl Wire {
    fn pair() -> io::Result<(Self, Self)> {
        let end = |socket: UnixDatagram| -> io::Result<Self> {
            socket.set_nonblocking(true)?;
            let buffer = [0; HEADROOM + MAX_L2_HEADER + MTU];
            // No offloads: the stack completes every checksum and cuts every segment itself.
            Ok(Self { caps: Caps::plain(MTU), socket, buffer, open: None, ring: VecDeque::new() })
        };
        let (a, b) = UnixDatagram::pair()?;
        Ok((end(a)?, end(b)?))
    }
}

impl TxQueue for Wire {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    /// A full ring is no error: the stack keeps what it has and comes back.
    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        let fits = self.ring.len() < RING && len <= MAX_L2_HEADER + MTU;
        fits.then(|| self.open.insert(vec![0; len]).as_mut_slice())
    }

    fn commit(&mut self, _: TxMeta) {
        self.ring.extend(self.open.take());
    }
}

impl Device for Wire {
    /// Hands over what has arrived, then does as the verdicts say. A burst of one is the simplest.
    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        let len = match self.socket.recv(&mut self.buffer[HEADROOM..]) {
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(_) => return Err(DeviceError::Gone("wire".into())),
        };
        let mut burst = [RxFrame::new(&mut self.buffer, HEADROOM, len, RxMeta::default())];
        sink(&mut burst);
        let [frame] = burst;
        // An answer in place goes out like any frame; one that finds the ring full is lost, as on a wire.
        if matches!(frame.verdict, Verdict::Reply(_)) && self.ring.len() < RING {
            self.ring.push_back(frame.bytes().to_vec());
        }
        Ok(1)
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        while let Some(frame) = self.ring.front() {
            match self.socket.send(frame) {
                Ok(_) => drop(self.ring.pop_front()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Err(DeviceError::Gone("wire".into())),
            }
        }
        Ok(())
    }

    /// With a descriptor to sleep on, an idle shard costs nothing.
    fn poll_fd(&self) -> Option<i32> {
        Some(self.socket.as_raw_fd())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (left, right) = Wire::pair()?;
    let mut us = Shard::with_device(Box::new(left), vec!["10.0.0.1/24".parse()?])?;
    let mut peer = Shard::with_device(Box::new(right), vec!["10.0.0.2/24".parse()?])?;
    let echo = us.stack_mut().echo_open()?;
    for seq in 1..=3 {
        us.turn()?;
        let sent = us.now();
        us.stack_mut().echo_send(echo, "10.0.0.2".parse()?, seq, b"through a device of our own")?;
        let reply = loop {
            us.turn()?;
            peer.turn()?;
            if let Ok(reply) = us.stack_mut().echo_recv(echo) {
                break reply;
            }
            us.wait(Some(Duration::from_millis(1)), &[])?;
        };
        println!("{} seq {seq}: {:?} in {:?}", reply.from, reply.outcome, reply.at.since(sent));
    }
    let counters = us.stack().counters();
    println!("{} frames received, {} sent", counters.rx_frames, counters.tx_frames);
    Ok(())
}
