//! What runs on the shard's thread: the table of sockets, the work that applications ask for, and the way of the stack's
//! events into epolls.

use super::mailbox::Mailbox;
use crate::events::Events;
use crate::socket::shared::{ABORTED, CONNECTED, DROPPED, conditions};
use crate::socket::{READY, Shared, TcpListener, TcpStream, UdpSocket, reset};
use crate::source::Waker;
use crossbeam_queue::ArrayQueue;
use ntytcp::fifo::{Consumer, Producer};
use ntytcp::stack::{Event, Readiness, SocketError, SocketId, SocketKind, Stack};
use ntytcp::tcp::{ListenOptions, State, TcpSocketOptions};
use ntytcp::time::Instant;
use std::net::SocketAddr;
use std::sync::Arc;

/// The kinds of sockets that there are tables for.
const KINDS: usize = 4;

/// One socket that has a handle.
struct Entry {
    waker: Waker<Shared>,
    /// Of a listener: what the application may take.
    ready: Option<Arc<ArrayQueue<TcpStream>>>,
}

/// The sockets that have a handle.
pub(super) struct Table {
    mailbox: Arc<Mailbox>,
    /// By kind, then by slot of the stack.
    kinds: [Vec<Option<Entry>>; KINDS],
    len: usize,
    /// Datagram sockets without a handle, whose last datagrams leave with this turn.
    leaving: Vec<SocketId>,
}

impl Table {
    pub(super) fn new(mailbox: Arc<Mailbox>) -> Self {
        Self { mailbox, kinds: [const { Vec::new() }; KINDS], len: 0, leaving: Vec::new() }
    }

    fn entry(&mut self, id: SocketId) -> Option<&mut Entry> {
        let entry = self.kinds.get_mut(id.kind as usize)?.get_mut(id.index as usize)?.as_mut()?;
        (entry.waker.id == id).then_some(entry)
    }

    fn insert(&mut self, entry: Entry) -> Result<(), SocketError> {
        let id = entry.waker.id;
        if !self.mailbox.reserve(self.len + 1) {
            return Err(SocketError::NoBufferSpace);
        }
        let slots = self.kinds.get_mut(id.kind as usize).ok_or(SocketError::Invalid)?;
        let index = id.index as usize;
        if slots.len() <= index {
            slots.resize_with(index + 1, || None);
        }
        if let Some(slot) = slots.get_mut(index)
            && slot.replace(entry).is_none()
        {
            self.len += 1;
        }
        Ok(())
    }

    fn remove(&mut self, id: SocketId) {
        if self.entry(id).is_some()
            && let Some(slot) =
                self.kinds.get_mut(id.kind as usize).and_then(|t| t.get_mut(id.index as usize))
        {
            *slot = None;
            self.len -= 1;
        }
    }
}

/// The table and its stack, for the length of one call.
pub(crate) struct Inner<'a> {
    pub(crate) stack: &'a mut Stack,
    /// The time to tell the stack.
    pub(crate) now: Instant,
    pub(super) table: &'a mut Table,
}

impl Inner<'_> {
    /// Does what applications have asked for.
    pub(super) fn take_mail(&mut self) {
        while let Some(call) = self.table.mailbox.next_call() {
            // A socket that was dropped before the call was made is gone when it runs: its port is free.
            self.look_at_touched();
            call(self);
        }
        self.look_at_touched();
    }

    fn look_at_touched(&mut self) {
        // What is touched meanwhile comes with the next turn; a drop of ours (unaccepted connections) too.
        for _ in 0..self.table.mailbox.dirty_count() {
            let Some(id) = self.table.mailbox.next_dirty() else { break };
            self.look(id);
        }
    }

    /// Passes on what happened at the sockets.
    pub(super) fn pass_events(&mut self) {
        while let Some(event) = self.stack.poll_event() {
            self.on_event(event);
        }
        while let Some(id) = self.table.leaving.pop() {
            self.table.remove(id);
            let _ = self.stack.udp_close(id);
        }
    }

    /// A handle touched its socket.
    fn look(&mut self, id: SocketId) {
        let Some(entry) = self.table.entry(id) else { return };
        entry.waker.untouch();
        let (dropped, aborted) = (entry.waker.has_mark(DROPPED), entry.waker.has_mark(ABORTED));
        let starved = entry.waker.take_starved();
        match id.kind {
            SocketKind::Datagram => {
                let _ = self.stack.udp_poke(id);
                if dropped {
                    self.table.leaving.push(id);
                }
            }
            SocketKind::Listener if !dropped => self.fill(id),
            // The stack knows the name as long as the entry stands, so none of these can fail.
            _ if !dropped => {
                let _ = self.stack.tcp_wake(self.now, id);
            }
            _ => {
                // What was put there after the handle had looked.
                entry.ready.as_deref().into_iter().for_each(reset);
                self.table.remove(id);
                let _ = if aborted {
                    self.stack.tcp_abort(self.now, id)
                } else {
                    self.stack.tcp_close(self.now, id)
                };
            }
        }
        if let Some(len) = starved.filter(|_| !dropped) {
            self.stack.await_pages(id, len);
        }
    }

    fn on_event(&mut self, event: Event) {
        let id = event.socket;
        if id.kind == SocketKind::Listener {
            return self.fill(id);
        }
        let error = if event.readiness.contains(Readiness::ERROR) { self.take_error(id) } else { None };
        let Some(entry) = self.table.entry(id) else { return };
        let mut raised = conditions(event.readiness);
        match error {
            Some(error) => entry.waker.set_error(error),
            // Someone took it already.
            None => raised.remove(Events::ERR),
        }
        let failed_to_connect = event.readiness.contains(Readiness::HANGUP);
        if id.kind == SocketKind::Stream && !failed_to_connect && raised.contains(Events::OUT) {
            entry.waker.set_mark(CONNECTED);
        }
        announce(entry, raised);
    }

    fn take_error(&mut self, id: SocketId) -> Option<SocketError> {
        match id.kind {
            SocketKind::Datagram => self.stack.udp_take_error(id).ok().flatten(),
            _ => self.stack.tcp_take_error(id),
        }
    }

    /// Puts established connections where the listener's handle takes them.
    fn fill(&mut self, id: SocketId) {
        let Some(ready) = self.table.entry(id).and_then(|entry| entry.ready.clone()) else { return };
        let mut some = false;
        while !ready.is_full() {
            let Ok((stream, peer)) = self.stack.tcp_accept(self.now, id) else { break };
            if let Some(stream) = self.accepted(stream, peer) {
                // Only this thread pushes, and there was room.
                some |= ready.push(stream).is_ok();
            }
        }
        if some && let Some(entry) = self.table.entry(id) {
            announce(entry, Events::IN);
        }
    }

    fn accepted(&mut self, id: SocketId, peer: SocketAddr) -> Option<TcpStream> {
        let local = self.stack.tcp_local_addr(id).ok()?;
        let (halves, error) = (self.stack.tcp_split(id)?, self.stack.tcp_take_error(id));
        // Its events so far went to nobody: the level starts from what is there.
        let ended = self.stack.tcp_info(id).map_or(true, |info| info.state == State::Closed);
        let mut level = Events::OUT;
        level.set(Events::IN, !halves.1.is_empty());
        if halves.1.is_closed() {
            level |= Events::IN | Events::RDHUP;
        }
        if ended {
            level |= Events::IN | Events::RDHUP | Events::HUP;
        }
        level.set(Events::ERR, error.is_some());
        let stream = self.open_stream(id, halves, (local, peer), level, CONNECTED).ok()?;
        if let (Some(error), Some(entry)) = (error, self.table.entry(id)) {
            entry.waker.set_error(error);
        }
        Some(stream)
    }

    fn open_stream(
        &mut self,
        id: SocketId,
        halves: (Producer, Consumer),
        addresses: (SocketAddr, SocketAddr),
        level: Events,
        marks: u32,
    ) -> Result<TcpStream, SocketError> {
        let shared = Arc::new(Shared::new(id, self.table.mailbox.clone(), level, marks));
        let entry = Entry { waker: Waker::new(shared.clone()), ready: None };
        if let Err(error) = self.table.insert(entry) {
            let _ = self.stack.tcp_abort(self.now, id);
            return Err(error);
        }
        Ok(TcpStream::new(shared, halves, addresses))
    }

    pub(super) fn listen(
        &mut self,
        local: SocketAddr,
        options: ListenOptions,
    ) -> Result<TcpListener, SocketError> {
        let ready = Arc::new(ArrayQueue::new(options.backlog.clamp(1, READY)));
        let id = self.stack.tcp_listen(local, options)?;
        let local = self.stack.tcp_local_addr(id)?;
        let shared = Arc::new(Shared::new(id, self.table.mailbox.clone(), Events::empty(), 0));
        let entry = Entry { waker: Waker::new(shared.clone()), ready: Some(ready.clone()) };
        if let Err(error) = self.table.insert(entry) {
            let _ = self.stack.tcp_close(self.now, id);
            return Err(error);
        }
        Ok(TcpListener::new(shared, ready, local))
    }

    pub(super) fn connect(
        &mut self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        options: Option<TcpSocketOptions>,
    ) -> Result<TcpStream, SocketError> {
        let id = self.stack.tcp_connect(self.now, local, remote, options)?;
        let halves = self.stack.tcp_split(id).ok_or(SocketError::BadSocket)?;
        let local = self.stack.tcp_local_addr(id)?;
        self.open_stream(id, halves, (local, remote), Events::empty(), 0)
    }

    pub(super) fn bind_udp(
        &mut self,
        local: SocketAddr,
        peer: Option<SocketAddr>,
    ) -> Result<UdpSocket, SocketError> {
        let id = self.stack.udp_bind(local)?;
        let opened = self.open_udp(id, peer);
        if opened.is_err() {
            self.table.remove(id);
            let _ = self.stack.udp_close(id);
        }
        opened
    }

    fn open_udp(&mut self, id: SocketId, peer: Option<SocketAddr>) -> Result<UdpSocket, SocketError> {
        if peer.is_some() {
            self.stack.udp_connect(id, peer)?;
        }
        let local = self.stack.udp_local_addr(id)?;
        let half = self.stack.udp_split(id)?;
        let mut level = Events::OUT;
        level.set(Events::IN, half.can_recv());
        let shared = Arc::new(Shared::new(id, self.table.mailbox.clone(), level, CONNECTED));
        self.table.insert(Entry { waker: Waker::new(shared.clone()), ready: None })?;
        Ok(UdpSocket::new(shared, half, local, peer))
    }

    /// Connects the socket anew: answers its new addresses.
    pub(super) fn connect_udp(
        &mut self,
        id: SocketId,
        peer: Option<SocketAddr>,
    ) -> Result<SocketAddr, SocketError> {
        self.stack.udp_connect(id, peer)?;
        self.stack.udp_local_addr(id)
    }
}

/// The shard ends: whoever still holds a socket finds the connection aborted.
impl Drop for Table {
    fn drop(&mut self) {
        self.mailbox.close();
        for entry in self.kinds.iter_mut().flatten().flatten() {
            entry.waker.set_error(SocketError::ConnectionAborted);
            announce(entry, Events::IN | Events::OUT | Events::RDHUP | Events::ERR | Events::HUP);
        }
    }
}

/// Raises conditions at a socket and tells its epolls.
fn announce(entry: &mut Entry, conditions: Events) {
    let edges = entry.waker.raise(conditions);
    if !edges.is_empty() {
        entry.waker.wake(edges);
    }
}
