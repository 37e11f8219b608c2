//! The verbs of UDP sockets, as the application calls them on the shard's thread, and the half of a socket that may live on
//! another one.

use core::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use super::Stack;
use super::records::{RecordReader, RecordV4, RecordWriter, records};
use super::socket::{Readiness, SocketError, SocketId};
use super::udp::{MAX_UDP_PAYLOAD, Responder, UdpSocket, UdpStats, unspecified};
use crate::fifo::Home;
use crate::placement::Transport;

/// A datagram that was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Bytes copied to the caller.
    pub len: usize,
    /// Bytes of the datagram; when that is more than `len`, the rest is lost.
    pub full_len: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// Which of our addresses it was sent to; unspecified when it was broadcast.
    pub to: IpAddr,
}

/// The application's half of a UDP socket, which may be used on a thread of its own. Its owner is told of new datagrams by the
/// socket's events, and tells the shard by [`Stack::udp_poke`] that there is something to send.
#[derive(Debug)]
pub struct UdpHalf {
    tx: RecordWriter,
    rx: RecordReader,
    family: IpAddr,
}

impl UdpHalf {
    /// Queues a datagram to `to`.
    ///
    /// # Errors
    /// [`SocketError::WouldBlock`] when the queue is full, [`SocketError::MessageTooLong`] for more than [`MAX_UDP_PAYLOAD`]
    /// bytes or than the queue ever holds, [`SocketError::Invalid`] for port 0, [`SocketError::FamilyNotSupported`] for
    /// another address family than the socket's, [`SocketError::BadSocket`] after the socket was closed.
    pub fn send_to(&mut self, payload: &[u8], to: SocketAddr) -> Result<(), SocketError> {
        check(payload.len(), to, self.family)?;
        if self.tx.push(to, self.family, payload) { Ok(()) } else { Err(why_full(&self.tx, payload.len())) }
    }

    /// Takes the datagram that has waited longest and copies it into `buf`.
    ///
    /// # Errors
    /// [`SocketError::WouldBlock`] when there is none.
    pub fn recv_from(&mut self, buf: &mut [u8]) -> Result<Received, SocketError> {
        pop(&mut self.rx, buf)
    }

    /// Whether a datagram waits.
    pub fn can_recv(&self) -> bool {
        !self.rx.is_empty()
    }

    /// Whether a datagram with `len` bytes of payload could be queued.
    pub fn can_send(&self, len: usize) -> bool {
        self.tx.can_push(len)
    }

    /// Whether the queue has room for such a datagram. If it was refused all the same, the stack has no pages, and
    /// [`Stack::await_pages`] sees to it that it is told when there are.
    pub fn has_room(&self, len: usize) -> bool {
        self.tx.has_room(len)
    }
}

/// Whether a datagram of `len` bytes to `to` may be queued at a socket of the family of `from`.
fn check(len: usize, to: SocketAddr, from: IpAddr) -> Result<(), SocketError> {
    if len > MAX_UDP_PAYLOAD {
        return Err(SocketError::MessageTooLong);
    }
    if to.port() == 0 {
        return Err(SocketError::Invalid);
    }
    if to.is_ipv4() != from.is_ipv4() {
        return Err(SocketError::FamilyNotSupported);
    }
    Ok(())
}

/// Why a datagram with `len` bytes was refused.
#[cold]
fn why_full(tx: &RecordWriter, len: usize) -> SocketError {
    if !tx.can_hold(len) {
        SocketError::MessageTooLong
    } else if !tx.is_reader_alive() {
        SocketError::BadSocket
    } else {
        SocketError::WouldBlock
    }
}

fn pop(rx: &mut RecordReader, buf: &mut [u8]) -> Result<Received, SocketError> {
    let cut = |payload: &[u8], got: Received| {
        let len = payload.len().min(buf.len());
        if let (Some(buf), Some(payload)) = (buf.get_mut(..len), payload.get(..len)) {
            crate::fifo::copy(buf, payload);
        }
        Received { len, ..got }
    };
    match pop_whole(rx, cut) {
        Ok(got) => Ok(got),
        Err(_) => pop_any(rx, buf),
    }
}

/// Shows the first datagram to `read` and takes it, if it lies together and is of IPv4; else gives `read` back.
#[inline(always)]
fn pop_whole<R, F: FnOnce(&[u8], Received) -> R>(rx: &mut RecordReader, read: F) -> Result<R, F> {
    let Some(record) = RecordV4::parse(rx.front()) else { return Err(read) };
    let from = SocketAddr::V4(SocketAddrV4::new(record.remote(), record.port));
    let (len, to) = (record.payload.len(), record.local().into());
    let whole = record.len();
    let result = read(record.payload, Received { len, full_len: len, from, to });
    rx.drop_first(1, whole);
    Ok(result)
}

/// A datagram that turns a page, or is not of IPv4; or there is none.
#[inline(never)]
fn pop_any(rx: &mut RecordReader, buf: &mut [u8]) -> Result<Received, SocketError> {
    let (head, payload) = rx.first().ok_or(SocketError::WouldBlock)?;
    let len = payload.copy_to(buf);
    rx.consume(&head);
    Ok(Received { len, full_len: usize::from(head.len), from: head.remote, to: head.local })
}

impl Stack {
    /// Opens a UDP socket at `local`. The unspecified address stands for all addresses, port 0 for an ephemeral port.
    ///
    /// # Errors
    /// [`SocketError::AddressNotAvailable`] for an address that the stack does not have or when no port is left,
    /// [`SocketError::AddressInUse`], [`SocketError::NoBufferSpace`] at the limit of sockets,
    /// [`SocketError::FamilyNotSupported`] for IPv6.
    pub fn udp_bind(&mut self, local: SocketAddr) -> Result<SocketId, SocketError> {
        self.check_local(local.ip())?;
        if self.udp.len() >= self.config.udp_sockets {
            return Err(SocketError::NoBufferSpace);
        }
        let local = match local.port() {
            0 => {
                let at = |port| SocketAddr::new(local.ip(), port);
                // Nobody else on this host may have it: what is sent there is to arrive here.
                let claim =
                    |port| self.config.place.as_ref().is_none_or(|place| place.claim(Transport::Udp, port));
                let port = self.ports.pick_random(|port| !self.udp.is_free(at(port)) || !claim(port));
                at(port.ok_or(SocketError::AddressNotAvailable)?)
            }
            _ if self.udp.is_free(local) => local,
            _ => return Err(SocketError::AddressInUse),
        };
        self.open_port(Transport::Udp, local.port());
        let limit = self.config.udp_datagrams;
        let rx = records(&self.pool, self.config.udp_rx_bytes, limit, Home::Producer);
        // Without a thread between them, the application's half is at home too, and writes without a locked instruction.
        let tx = records(&self.pool, self.config.udp_tx_bytes, limit, Home::Producer);
        Ok(self.udp.insert(local, self.config.udp_ttl, rx, tx))
    }

    /// Connects a socket: it sends to `remote` where no destination is given, hears nobody else, and is told of ICMP errors.
    /// `None` undoes that. A socket that was bound to no address is given the one that leads to `remote`.
    ///
    /// # Errors
    /// [`SocketError::BadSocket`], [`SocketError::Invalid`] for port 0, [`SocketError::NetworkUnreachable`] without a route,
    /// [`SocketError::FamilyNotSupported`].
    pub fn udp_connect(&mut self, id: SocketId, remote: Option<SocketAddr>) -> Result<(), SocketError> {
        let local = self.udp_socket(id)?.local;
        let Some(remote) = remote else { return self.udp.set_peer(id, local, None) };
        if remote.port() == 0 {
            return Err(SocketError::Invalid);
        }
        if remote.is_ipv4() != local.is_ipv4() {
            return Err(SocketError::FamilyNotSupported);
        }
        let source = match local.ip() {
            ip if ip.is_unspecified() => self.select_source(remote.ip())?.0,
            ip => ip,
        };
        self.udp.set_peer(id, SocketAddr::new(source, local.port()), Some(remote))
    }

    /// Queues a datagram to `to`, or to the connected peer.
    ///
    /// # Errors
    /// As [`UdpHalf::send_to`], and [`SocketError::DestinationRequired`] when neither is given, [`SocketError::NetworkUnreachable`]
    /// without a route, or an error that an ICMP message reported since the last call, which is thereby told.
    pub fn udp_send_to(
        &mut self,
        id: SocketId,
        payload: &[u8],
        to: Option<SocketAddr>,
    ) -> Result<(), SocketError> {
        let len = payload.len();
        let put = |tx: &mut RecordWriter, to: SocketAddrV4, from| {
            tx.push_v4(*to.ip(), to.port(), from, payload).then_some(())
        };
        match self.send_as_before(id, to, len, put) {
            Some(()) => Ok(()),
            None => self.send_anywhere(id, to, len, |tx, to, from| tx.push(to, from, payload).then_some(())),
        }
    }

    /// Queues a datagram to `to`, or to the connected peer, that `write` composes in the send queue itself, without a copy. `write`
    /// is given `max` bytes, whose contents are left over from earlier, and answers how many of them, from the first on, are
    /// the datagram. Says how many that were.
    ///
    /// A datagram for which the queue has no memory that lies together is composed elsewhere and copied after all. This happens to few
    /// that are much shorter than a page of 16 KiB, and allocates.
    ///
    /// # Errors
    /// Those of [`Stack::udp_send_to`] for a datagram of `max` bytes; then `write` was not called.
    pub fn udp_send_with(
        &mut self,
        id: SocketId,
        to: Option<SocketAddr>,
        max: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<usize, SocketError> {
        let mut write = Some(write);
        let mut once = |to: &mut [u8]| write.take().map_or(0, |write| write(to));
        let put = |tx: &mut RecordWriter, to, from| tx.push_v4_with(to, from, max, &mut once);
        match self.send_as_before(id, to, max, put) {
            Some(len) => Ok(len),
            None => self.send_anywhere(id, to, max, |tx, to, from| tx.push_with(to, from, max, &mut once)),
        }
    }

    /// Queues a datagram of up to `len` bytes by `put` if the way to the same address as before is known, there is room, and nothing
    /// is wrong.
    #[inline(always)]
    fn send_as_before<R>(
        &mut self,
        id: SocketId,
        to: Option<SocketAddr>,
        len: usize,
        put: impl FnOnce(&mut RecordWriter, SocketAddrV4, Ipv4Addr) -> Option<R>,
    ) -> Option<R> {
        let Some(SocketAddr::V4(to)) = to else { return None };
        let socket = self.udp.get_mut(id)?;
        let (from, interface) = socket.way_to_v4(*to.ip(), self.routes.generation())?;
        let (tx, _) = socket.app.as_mut()?;
        if socket.error.is_some() || to.port() == 0 || len > MAX_UDP_PAYLOAD {
            return None;
        }
        let done = put(tx, to, from)?;
        if !socket.is_dirty() {
            self.udp.mark_dirty(id, interface);
        }
        Some(done)
    }

    #[inline(never)]
    fn send_anywhere<R>(
        &mut self,
        id: SocketId,
        to: Option<SocketAddr>,
        len: usize,
        mut put: impl FnMut(&mut RecordWriter, SocketAddr, IpAddr) -> Option<R>,
    ) -> Result<R, SocketError> {
        let socket = self.udp.get_mut(id).ok_or(SocketError::BadSocket)?;
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        let to = to.or(socket.remote).ok_or(SocketError::DestinationRequired)?;
        let from = socket.local.ip();
        let (interface, _) = self.route_to(to.ip(), from)?;
        let generation = self.routes.generation();
        let socket = self.udp.get_mut(id).ok_or(SocketError::BadSocket)?;
        socket.set_way_to(to.ip(), generation, interface);
        let (tx, _) = socket.app.as_mut().ok_or(SocketError::Invalid)?;
        check(len, to, from)?;
        let Some(done) = put(tx, to, from) else {
            let error = why_full(tx, len);
            return self.send_again(error, id, len, |tx, from| put(tx, to, from));
        };
        self.udp.mark_dirty(id, interface);
        Ok(done)
    }

    /// Takes the datagram that has waited longest and copies it into `buf`.
    ///
    /// # Errors
    /// [`SocketError::WouldBlock`] when there is none, [`SocketError::BadSocket`], [`SocketError::Invalid`] after
    /// [`Stack::udp_split`], or an error that an ICMP message reported since the last call, which is thereby told.
    pub fn udp_recv_from(&mut self, id: SocketId, buf: &mut [u8]) -> Result<Received, SocketError> {
        let socket = self.udp.get_mut(id).ok_or(SocketError::BadSocket)?;
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        let (_, rx) = socket.app.as_mut().ok_or(SocketError::Invalid)?;
        pop(rx, buf)
    }

    /// Shows `read` the datagram that has waited longest where it lies in the receive queue, without a copy, and takes it. Answers
    /// what `read` does.
    ///
    /// A datagram that does not lie together is gathered first. This happens to few that are much shorter than a page of 16 KiB, and
    /// allocates.
    ///
    /// # Errors
    /// Those of [`Stack::udp_recv_from`]; then `read` was not called.
    pub fn udp_recv_with<R>(
        &mut self,
        id: SocketId,
        read: impl FnOnce(&[u8], Received) -> R,
    ) -> Result<R, SocketError> {
        let socket = self.udp.get_mut(id).ok_or(SocketError::BadSocket)?;
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        let (_, rx) = socket.app.as_mut().ok_or(SocketError::Invalid)?;
        pop_whole(rx, read).or_else(|read| {
            let mut payload = vec![0; rx.first().map_or(0, |(head, _)| usize::from(head.len))];
            let got = pop_any(rx, &mut payload)?;
            Ok(read(&payload, got))
        })
    }

    /// What a call would find at the socket now.
    ///
    /// # Errors
    /// [`SocketError::BadSocket`].
    pub fn udp_readiness(&self, id: SocketId) -> Result<Readiness, SocketError> {
        let socket = self.udp_socket(id)?;
        let mut readiness = Readiness::empty();
        if let Some((tx, rx)) = &socket.app {
            readiness.set(Readiness::READABLE, !rx.is_empty());
            readiness.set(Readiness::WRITABLE, tx.can_push(1));
        }
        readiness.set(Readiness::ERROR, socket.error.is_some());
        Ok(readiness)
    }

    /// Closes a socket. Datagrams in its queues are lost, as are those still to be sent.
    ///
    /// # Errors
    /// [`SocketError::BadSocket`].
    pub fn udp_close(&mut self, id: SocketId) -> Result<(), SocketError> {
        let port = self.udp_socket(id)?.local.port();
        self.udp.remove(id).ok_or(SocketError::BadSocket)?;
        if !self.udp.is_bound(port) {
            self.close_port(Transport::Udp, port);
        }
        Ok(())
    }

    /// The pending error of a socket, which is thereby told (SO_ERROR).
    ///
    /// # Errors
    /// [`SocketError::BadSocket`].
    pub fn udp_take_error(&mut self, id: SocketId) -> Result<Option<SocketError>, SocketError> {
        Ok(self.udp.get_mut(id).ok_or(SocketError::BadSocket)?.error.take())
    }

    /// The address that a socket is bound to.
    ///
    /// # Errors
    /// [`SocketError::BadSocket`].
    pub fn udp_local_addr(&self, id: SocketId) -> Result<SocketAddr, SocketError> {
        Ok(self.udp_socket(id)?.local)
    }

    /// The peer that a socket is connected to.
    ///
    /// # Errors
    /// [`SocketError::BadSocket`], [`SocketError::NotConnected`].
    pub fn udp_peer_addr(&self, id: SocketId) -> Result<SocketAddr, SocketError> {
        self.udp_socket(id)?.remote.ok_or(SocketError::NotConnected)
    }

    /// What a socket counted.
    ///
    /// # Errors
    /// [`SocketError::BadSocket`].
    pub fn udp_stats(&self, id: SocketId) -> Result<UdpStats, SocketError> {
        Ok(self.udp_socket(id)?.stats)
    }

    /// Sets the TTL of what a socket sends. Default [`StackConfig::udp_ttl`](super::StackConfig::udp_ttl).
    ///
    /// # Errors
    /// [`SocketError::BadSocket`], [`SocketError::Invalid`] for 0.
    pub fn udp_set_ttl(&mut self, id: SocketId, ttl: u8) -> Result<(), SocketError> {
        let socket = self.udp.get_mut(id).ok_or(SocketError::BadSocket)?;
        if ttl == 0 {
            return Err(SocketError::Invalid);
        }
        socket.ttl = ttl;
        Ok(())
    }

    /// Lets `responder` answer all that arrives at a socket, in place of the receive queue; `None` undoes that.
    ///
    /// # Errors
    /// [`SocketError::BadSocket`].
    pub fn udp_set_responder(
        &mut self,
        id: SocketId,
        responder: Option<Box<dyn Responder + Send>>,
    ) -> Result<(), SocketError> {
        self.udp.get_mut(id).ok_or(SocketError::BadSocket)?.responder = responder;
        Ok(())
    }

    /// Hands out the application's half of a socket, after which sending and receiving go through it alone.
    ///
    /// # Errors
    /// [`SocketError::BadSocket`], [`SocketError::Invalid`] when it was handed out before.
    pub fn udp_split(&mut self, id: SocketId) -> Result<UdpHalf, SocketError> {
        let socket = self.udp.get_mut(id).ok_or(SocketError::BadSocket)?;
        let (mut tx, rx) = socket.app.take().ok_or(SocketError::Invalid)?;
        tx.leave_home();
        Ok(UdpHalf { tx, rx, family: unspecified(socket.local.ip()) })
    }

    /// The owner of a [`UdpHalf`] has queued something to send.
    ///
    /// # Errors
    /// [`SocketError::BadSocket`].
    pub fn udp_poke(&mut self, id: SocketId) -> Result<(), SocketError> {
        let socket = self.udp_socket(id)?;
        // Where each datagram really goes is found when it is sent.
        let from = socket.local.ip();
        let to = socket.remote.map_or(from, |remote| remote.ip());
        let interface = self.route_to(to, from).map(|(interface, _)| interface).unwrap_or_default();
        self.udp.mark_dirty(id, interface);
        Ok(())
    }

    /// A datagram of up to `len` bytes was refused with `error`. Tries once more if it was the pool that had no room, else notes that
    /// the socket waits for some.
    #[cold]
    fn send_again<R>(
        &mut self,
        error: SocketError,
        id: SocketId,
        len: usize,
        put: impl FnOnce(&mut RecordWriter, IpAddr) -> Option<R>,
    ) -> Result<R, SocketError> {
        if error != SocketError::WouldBlock {
            return Err(error);
        }
        let reclaimed = self.reclaim_pages();
        let socket = self.udp.get_mut(id).ok_or(SocketError::BadSocket)?;
        let from = socket.local.ip();
        let (tx, _) = socket.app.as_mut().ok_or(SocketError::Invalid)?;
        if reclaimed && let Some(done) = put(tx, from) {
            self.udp_poke(id)?;
            return Ok(done);
        }
        socket.wants_room = true;
        if tx.has_room(len) {
            self.await_pages(id, len);
        }
        Err(error)
    }

    fn udp_socket(&self, id: SocketId) -> Result<&UdpSocket, SocketError> {
        self.udp.get(id).ok_or(SocketError::BadSocket)
    }
}
