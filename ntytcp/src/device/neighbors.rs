//! A wrapper for a stack that shares its addresses with the kernel: the kernel speaks ARP for both, the stack asks it for neighbors.
//!
//! The stack goes on as with any device: it sends an ARP request for a next hop and gets a reply. But the request never reaches the
//! wire. It is answered from what the kernel knows of the neighbors of its own interface, or the kernel is told to find out
//! (`NTF_USE`), and the reply is made when rtnetlink brings the news. That another station has the address now is told as a reply that
//! nobody asked for. What else the stack says by ARP, such as the announcement of an address, is the kernel's to say and goes nowhere.
//!
//! ```text
//!   stack  -- ARP request -->  | here |  -- RTM_NEWNEIGH, NTF_USE -->  kernel  -- ARP -->  wire
//!          <-- ARP reply ----  |      |  <-- RTNLGRP_NEIGH ---------           <-- ARP --
//! ```

use core::net::Ipv4Addr;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use arrayvec::ArrayVec;

use super::netdev::facts;
use super::netlink::{Netlink, News, Station, Sure, Table};
use super::sys;
use super::{BURST, Caps, Device, DeviceError, HEADROOM, RxFrame, RxMeta, TxMeta, TxQueue};
use crate::time::{Duration, Instant};
use crate::wire::{ArpOperation, ArpPacket, EtherType, EthernetHeader, MacAddr, VlanTags};

/// How often it is looked for news.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// An ARP packet in its frame.
const ARP_FRAME: usize = EthernetHeader::LEN + ArpPacket::LEN;

/// As many neighbors as a stack asks for are remembered, then all is forgotten: they are asked for again.
const MAX_ASKED: usize = 4_096;

/// A device whose ARP is the kernel's. See the module documentation.
#[derive(Debug)]
pub struct KernelNeighbors<D> {
    inner: D,
    interface: String,
    index: u32,
    netlink: Netlink,
    poll: Option<OwnedFd>,
    /// Whom the kernel knows.
    known: HashMap<Ipv4Addr, Station>,
    /// Whom the stack has asked for, and as whom.
    asked: HashMap<Ipv4Addr, (MacAddr, Ipv4Addr)>,
    /// What the stack is to be told.
    replies: VecDeque<(MacAddr, ArpPacket)>,
    /// The reservation, if it is as long as an ARP packet.
    open: Option<[u8; ARP_FRAME]>,
    /// Where a burst of replies is written.
    burst: Box<[[u8; HEADROOM + ARP_FRAME]]>,
    now: Instant,
    look_at: Instant,
    stats: Stats,
}

#[derive(Clone, Copy, Debug, Default)]
struct Stats {
    asked: u64,
    answered: u64,
    refused: u64,
}

impl<D: Device> KernelNeighbors<D> {
    /// Asks the kernel about the neighbors of its interface `interface` instead of sending ARP through `inner`.
    ///
    /// # Errors
    /// There is no such interface, or rtnetlink does not answer.
    pub fn new(inner: D, interface: &str) -> Result<Self, DeviceError> {
        let failed = |source| failed(interface, "follow its neighbors", source);
        let index = facts(interface).map_err(failed)?.index;
        let mut known = HashMap::new();
        let netlink = begin(index, &mut known).map_err(failed)?;
        let fds: Option<ArrayVec<_, 2>> = inner.poll_fd().map(|fd| [fd, netlink.fd()].into());
        let poll = fds.map(|fds| sys::either_readable(&fds)).transpose().map_err(failed)?;
        Ok(Self {
            inner,
            interface: interface.to_owned(),
            index,
            netlink,
            poll,
            known,
            asked: HashMap::new(),
            replies: VecDeque::new(),
            open: None,
            burst: vec![[0; HEADROOM + ARP_FRAME]; BURST].into(),
            now: Instant::ZERO,
            look_at: Instant::ZERO,
            stats: Stats::default(),
        })
    }

    /// Takes a frame of the stack's that may be ARP; whether it was.
    fn take(&mut self, frame: &[u8]) -> bool {
        let Ok((header, payload)) = EthernetHeader::parse(frame) else { return false };
        if header.ethertype != EtherType::ARP {
            return false;
        }
        let Ok(packet) = ArpPacket::parse(payload) else { return true };
        let question = packet.operation == ArpOperation::Request
            && !packet.sender_ip.is_unspecified()
            && packet.sender_ip != packet.target_ip;
        if question {
            if self.asked.len() >= MAX_ASKED {
                self.asked.clear();
            }
            self.asked.insert(packet.target_ip, (packet.sender_mac, packet.sender_ip));
            self.ask(packet.target_ip);
        }
        true
    }

    /// Answers, or has the kernel find out, or both if it is not sure.
    fn ask(&mut self, ip: Ipv4Addr) {
        self.stats.asked += 1;
        let known = self.known.get(&ip).copied();
        if let Some((mac, _)) = known {
            self.tell(ip, mac);
        }
        if known.is_none_or(|(_, sure)| sure == Sure::No) && self.netlink.ask_neighbor(ip).is_err() {
            self.stats.refused += 1;
        }
    }

    /// Tells the stack who has an address, if it ever asked.
    fn tell(&mut self, ip: Ipv4Addr, mac: MacAddr) {
        if let Some(&(target_mac, target_ip)) = self.asked.get(&ip) {
            let operation = ArpOperation::Reply;
            let reply = ArpPacket { operation, sender_mac: mac, sender_ip: ip, target_mac, target_ip };
            self.replies.push_back((target_mac, reply));
        }
    }

    /// Takes in the kernel's news, if it is time to.
    fn look(&mut self) -> Result<(), DeviceError> {
        if self.now < self.look_at {
            return Ok(());
        }
        self.look_at = self.now + LOOK_EVERY;
        let mut news = Vec::new();
        let complete = self.netlink.receive(&mut |item| {
            if let News::Neighbor { ip, known } = item {
                news.push((ip, known));
            }
        });
        match complete {
            Ok(true) => {}
            // A question that was refused, as the kernel has no room; the stack asks again.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ENOBUFS | libc::EINVAL | libc::ENETDOWN | libc::EPERM)
                ) =>
            {
                self.stats.refused += 1;
            }
            Ok(false) => news = self.begin_anew()?,
            Err(e) => return Err(failed(&self.interface, "follow its neighbors", e)),
        }
        for (ip, known) in news {
            let before = match known {
                Some(known) => self.known.insert(ip, known),
                None => self.known.remove(&ip),
            };
            // To be sure is worth a word too: somebody may wait for it.
            if let Some((mac, sure)) = known
                && (sure == Sure::Yes || before.is_none_or(|(before, _)| before != mac))
            {
                self.tell(ip, mac);
            }
        }
        Ok(())
    }

    /// Some news were lost: asks for everything, and says what differs.
    #[cold]
    fn begin_anew(&mut self) -> Result<Vec<(Ipv4Addr, Option<Station>)>, DeviceError> {
        let mut known = HashMap::new();
        self.netlink =
            begin(self.index, &mut known).map_err(|e| failed(&self.interface, "follow its neighbors", e))?;
        if let Some(fd) = self.inner.poll_fd() {
            let poll = sys::either_readable(&[fd, self.netlink.fd()]);
            self.poll = Some(poll.map_err(|e| failed(&self.interface, "follow its neighbors", e))?);
        }
        let gone: Vec<_> =
            self.known.keys().filter(|ip| !known.contains_key(*ip)).map(|ip| (*ip, None)).collect();
        Ok(known.into_iter().map(|(ip, known)| (ip, Some(known))).chain(gone).collect())
    }

    /// Hands over a burst of what the stack is to be told.
    fn deliver(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> usize {
        let mut frames = ArrayVec::<RxFrame<'_>, BURST>::new();
        for buf in &mut self.burst {
            let Some((dst, reply)) = self.replies.pop_front() else { break };
            let ethertype = EtherType::ARP;
            let header = EthernetHeader { dst, src: reply.sender_mac, vlan: VlanTags::NONE, ethertype };
            let written = buf
                .get_mut(HEADROOM..)
                .and_then(|frame| Some((header.emit(frame)?, frame)))
                .and_then(|(len, frame)| reply.emit(frame.get_mut(len..)?));
            if written.is_some() {
                frames.push(RxFrame::new(buf, HEADROOM, ARP_FRAME, RxMeta::default()));
            }
        }
        let count = frames.len();
        if count > 0 {
            sink(&mut frames);
        }
        self.stats.answered += count as u64;
        count
    }
}

fn failed(interface: &str, what: &str, source: io::Error) -> DeviceError {
    DeviceError::Io { what: format!("{interface}: cannot {what}"), source, remedy: "" }
}

/// Follows the neighbors from now on, beginning with those that there are.
fn begin(index: u32, known: &mut HashMap<Ipv4Addr, Station>) -> io::Result<Netlink> {
    let mut netlink = Netlink::open(index, &[Table::Neighbors])?;
    netlink.dump(Table::Neighbors, &mut |news| {
        if let News::Neighbor { ip, known: Some(station) } = news {
            known.insert(ip, station);
        }
    })?;
    Ok(netlink)
}

impl<D: Device> TxQueue for KernelNeighbors<D> {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.open = None;
        if len != ARP_FRAME {
            return self.inner.reserve(len);
        }
        // Whether it would be taken; it is reserved again once it is known what it is.
        self.inner.reserve(len)?;
        Some(self.open.insert([0; ARP_FRAME]))
    }

    fn commit(&mut self, meta: TxMeta) {
        let Some(frame) = self.open.take() else { return self.inner.commit(meta) };
        if !self.take(&frame)
            && let Some(room) = self.inner.reserve(ARP_FRAME)
        {
            room.copy_from_slice(&frame);
            self.inner.commit(meta);
        }
    }
}

impl<D: Device> Device for KernelNeighbors<D> {
    fn inner(&self) -> Option<&dyn Device> {
        Some(&self.inner)
    }

    fn inner_mut(&mut self) -> Option<&mut dyn Device> {
        Some(&mut self.inner)
    }

    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        self.look()?;
        Ok(self.deliver(sink) + self.inner.rx_burst(sink)?)
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        self.inner.flush()
    }

    fn poll_fd(&self) -> Option<i32> {
        // The device may be one that can only be polled from now on.
        self.inner.poll_fd().and(self.poll.as_ref().map(AsRawFd::as_raw_fd))
    }

    fn set_now(&mut self, now: Instant) {
        self.now = now;
        self.inner.set_now(now);
    }

    fn next_deadline(&self) -> Option<Instant> {
        // An answer that is known already is due at once.
        let reply = (!self.replies.is_empty()).then_some(self.now);
        [reply, self.inner.next_deadline()].into_iter().flatten().min()
    }

    fn stats(&self) -> Vec<(&'static str, u64)> {
        let Stats { asked, answered, refused } = self.stats;
        let mut stats = self.inner.stats();
        stats.extend([
            ("neighbors-asked", asked),
            ("neighbors-answered", answered),
            ("neighbors-refused", refused),
        ]);
        stats
    }
}
