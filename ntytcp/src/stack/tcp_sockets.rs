//! The TCP calls of a [`Stack`].
//!
//! Sockets are named by [`SocketId`]. None of the calls blocks: what is not possible now is
//! [`SocketError::WouldBlock`], and an [`Event`](super::Event) tells when to try again. Bytes are taken and given through
//! [`Stack::tcp_send`] and [`Stack::tcp_recv`], in place by [`Stack::tcp_send_with`] and [`Stack::tcp_recv_with`], or through the connection's FIFOs after [`Stack::tcp_split`].

use super::demux::FlowKey;
use super::{Cx, SocketError, SocketId, Stack};
use crate::fifo::{Consumer, Producer};
use crate::placement::{Place, Transport};
use crate::tcp::{KeepAlive, ListenOptions, State, Tcp, TcpInfo, TcpSocketOptions};
use crate::time::{Duration, Instant};
use core::net::{IpAddr, SocketAddr};

impl Stack {
    /// Listens on an address and port; any address of ours when unspecified.
    ///
    /// # Errors
    /// `AddressInUse`, `AddressNotAvailable` when the address is none of ours, `Invalid` for port 0 and for options out of their ranges.
    pub fn tcp_listen(&mut self, local: SocketAddr, options: ListenOptions) -> Result<SocketId, SocketError> {
        if local.port() == 0 {
            return Err(SocketError::Invalid);
        }
        self.check_local(local.ip())?;
        let address = (!local.ip().is_unspecified()).then_some(local.ip());
        let listener = self.tcp.listen(address, local.port(), options)?;
        self.open_port(Transport::Tcp, local.port());
        Ok(listener)
    }

    /// Takes the oldest connection that waits at a listener, with the peer's address.
    ///
    /// # Errors
    /// `WouldBlock` when none waits, `BadSocket`.
    pub fn tcp_accept(
        &mut self,
        now: Instant,
        listener: SocketId,
    ) -> Result<(SocketId, SocketAddr), SocketError> {
        let (tcp, mut cx) = self.tcp_cx(now);
        tcp.accept(&mut cx, listener)
    }

    /// Opens a connection; WRITABLE tells that it is established, ERROR that it failed. Without `local`, or with its port 0, the
    /// stack chooses (RFC 6056).
    ///
    /// # Errors
    /// `NetworkUnreachable`, `AddressNotAvailable` when `local` is none of ours, has a port whose flow lives on another shard, or no port
    /// is left, `AddressInUse`,
    /// `NoBufferSpace`, `Invalid` for a remote that no connection can have and for options out of their ranges.
    pub fn tcp_connect(
        &mut self,
        now: Instant,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        options: Option<TcpSocketOptions>,
    ) -> Result<SocketId, SocketError> {
        // RFC 1122 4.2.3.10: "A TCP implementation MUST reject as an error a local OPEN call for an invalid remote IP address (e.g., a
        // broadcast or multicast address)."
        if remote.port() == 0 || !is_unicast(remote.ip()) || self.is_subnet_broadcast(remote.ip()) {
            return Err(SocketError::Invalid);
        }
        let (source, interface) = self.select_source(remote.ip())?;
        if let Some(local) = local {
            self.check_local(local.ip())?;
        }
        let address = local.map(|local| local.ip()).filter(|ip| !ip.is_unspecified());
        let found = match local.map_or(0, |local| local.port()) {
            0 => {
                let mut picked = self.pick_flow(address.unwrap_or(source), remote);
                if picked.is_none() && address.is_none() {
                    let others = self.other_sources(interface, source);
                    picked = others.into_iter().find_map(|other| self.pick_flow(other, remote));
                }
                picked.ok_or(SocketError::AddressNotAvailable)?
            }
            port => {
                let flow = flow(address.unwrap_or(source), port, remote);
                if !is_home(self.config.place.as_ref(), &flow) {
                    return Err(SocketError::AddressNotAvailable);
                }
                (flow, self.tcp.vacancy(&flow).ok_or(SocketError::AddressInUse)?)
            }
        };
        let mtu = self.interface_mtu(interface);
        let (tcp, mut cx) = self.tcp_cx(now);
        tcp.connect(&mut cx, found, interface, mtu, options)
    }

    /// How many more connections to `remote` there are ports for, on all addresses of ours that lead there: those whose flow is not
    /// in use, TIME-WAIT included, and lives on this shard. Looks at each port; not for every connection.
    ///
    /// # Errors
    /// `NetworkUnreachable`, `FamilyNotSupported`.
    pub fn tcp_ports_left(&self, remote: SocketAddr) -> Result<usize, SocketError> {
        let (source, interface) = self.select_source(remote.ip())?;
        let sources = core::iter::once(source).chain(self.other_sources(interface, source));
        let range = self.ports.range();
        let free = |source| {
            let ports = range.first()..=range.last();
            let is_vacant = |port: &u16| {
                vacancy(&self.tcp, self.config.place.as_ref(), &flow(source, *port, remote)).is_some()
            };
            ports.filter(is_vacant).count()
        };
        Ok(sources.map(free).sum())
    }

    /// A flow from `source` to `remote` that does not exist, with its tag.
    fn pick_flow(&mut self, source: IpAddr, remote: SocketAddr) -> Option<(FlowKey, u32)> {
        let Self { ports, tcp, config, .. } = self;
        let mut found = None;
        ports.pick(source, remote.ip(), remote.port(), |port| {
            found = vacancy(tcp, config.place.as_ref(), &flow(source, port, remote));
            found.is_none()
        });
        found
    }

    /// Takes the application's ends of a connection's FIFOs, for use on any thread: what is written into the producer is sent, what
    /// arrives can be read from the consumer, whose end is the peer's FIN; closing the producer sends ours. After writing,
    /// closing, or reading much, [`Stack::tcp_wake`] must be called. `None` when they were taken before.
    pub fn tcp_split(&mut self, id: SocketId) -> Option<(Producer, Consumer)> {
        self.tcp.split(id)
    }

    /// Looks at the FIFOs of a split connection: is there data or the end of the stream to send, or room to announce?
    ///
    /// # Errors
    /// `BadSocket`.
    pub fn tcp_wake(&mut self, now: Instant, id: SocketId) -> Result<(), SocketError> {
        let (tcp, mut cx) = self.tcp_cx(now);
        tcp.wake(&mut cx, id)
    }

    /// Sends as many bytes as there is room for and says how many.
    ///
    /// # Errors
    /// `WouldBlock` without room, `BrokenPipe` after shutdown, `Invalid` when the connection was split, or why it ended.
    pub fn tcp_send(&mut self, now: Instant, id: SocketId, data: &[u8]) -> Result<usize, SocketError> {
        let (tcp, mut cx) = self.tcp_cx(now);
        let result = tcp.send(&mut cx, id, data);
        // Less than all: it may be the pool that has no room, not the buffer.
        let sent = match result {
            Ok(sent) if sent < data.len() => sent,
            Err(SocketError::WouldBlock) => 0,
            _ => return result,
        };
        let more = if self.reclaim_pages() {
            let (tcp, mut cx) = self.tcp_cx(now);
            tcp.send(&mut cx, id, data.get(sent..).unwrap_or_default()).unwrap_or(0)
        } else {
            0
        };
        if sent + more < data.len() && self.tcp.has_room(id) {
            self.await_pages(id, 1);
        }
        if more > 0 { Ok(sent + more) } else { result }
    }

    /// Reads what has arrived; 0 bytes at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has, `NotConnected`, `Invalid` when the connection was split, or why it ended.
    pub fn tcp_recv(&mut self, now: Instant, id: SocketId, buf: &mut [u8]) -> Result<usize, SocketError> {
        let (tcp, mut cx) = self.tcp_cx(now);
        tcp.recv(&mut cx, id, buf)
    }

    /// Sends what `write` puts into the send buffer itself, without a copy, and says how much that was. `write` is given at most
    /// `max` bytes that lie together, fewer where the buffer's memory or room ends, and answers how many of them, from the first on, it
    /// has set. What they hold before is left over from earlier.
    ///
    /// # Errors
    /// Those of [`Stack::tcp_send`]; then `write` was not called.
    pub fn tcp_send_with(
        &mut self,
        now: Instant,
        id: SocketId,
        max: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<usize, SocketError> {
        let mut write = Some(write);
        let mut attempt = |stack: &mut Self| {
            let (tcp, mut cx) = stack.tcp_cx(now);
            tcp.send_by(&mut cx, id, |tx| tx.write_with(max, |to| write.take().map_or(0, |write| write(to))))
        };
        let mut result = attempt(self);
        // It may be the pool that has no room, not the buffer.
        if result == Err(SocketError::WouldBlock) && self.reclaim_pages() {
            result = attempt(self);
        }
        if result == Err(SocketError::WouldBlock) && self.tcp.has_room(id) {
            self.await_pages(id, 1);
        }
        result
    }

    /// Shows `read` what has arrived where it lies, without a copy: bytes that lie together, perhaps not all that there are. `read`
    /// answers how many of them, from the first on, it is done with; the others stay. Says how many that were; 0 at the end
    /// of the stream too, where `read` is not called.
    ///
    /// # Errors
    /// Those of [`Stack::tcp_recv`]; then `read` was not called.
    pub fn tcp_recv_with(
        &mut self,
        now: Instant,
        id: SocketId,
        read: impl FnOnce(&[u8]) -> usize,
    ) -> Result<usize, SocketError> {
        let (tcp, mut cx) = self.tcp_cx(now);
        tcp.recv_by(&mut cx, id, |rx| {
            let bytes = rx.front();
            if bytes.is_empty() {
                return None;
            }
            let done = read(bytes).min(bytes.len());
            Some(rx.consume(done))
        })
    }

    /// Sends FIN after everything that was sent; receiving goes on.
    ///
    /// # Errors
    /// `NotConnected`, `BadSocket`, `Invalid` when the connection was split (close the producer instead).
    pub fn tcp_shutdown(&mut self, now: Instant, id: SocketId) -> Result<(), SocketError> {
        let (tcp, mut cx) = self.tcp_cx(now);
        tcp.shutdown(&mut cx, id)
    }

    /// Closes a connection or a listener; the name is void from now on. What was sent is still delivered, but unread data makes it a
    /// RST (RFC 1122 4.2.2.13). Connections that nobody accepted are reset with their listener.
    ///
    /// # Errors
    /// `BadSocket`.
    pub fn tcp_close(&mut self, now: Instant, id: SocketId) -> Result<(), SocketError> {
        let listened = self.tcp.listener_address(id).ok().map(|(_, port)| port);
        let (tcp, mut cx) = self.tcp_cx(now);
        tcp.close(&mut cx, id)?;
        if let Some(port) = listened.filter(|&port| !self.tcp.is_listened(port)) {
            self.stop_listening_on(port);
        }
        Ok(())
    }

    /// Ends a connection with a RST; the name is void from now on.
    ///
    /// # Errors
    /// `BadSocket`.
    pub fn tcp_abort(&mut self, now: Instant, id: SocketId) -> Result<(), SocketError> {
        let (tcp, mut cx) = self.tcp_cx(now);
        tcp.abort(&mut cx, id)
    }

    /// Takes the error that ended a connection (SO_ERROR).
    pub fn tcp_take_error(&mut self, id: SocketId) -> Option<SocketError> {
        self.tcp.take_error(id)
    }

    /// The address and port of our end; of a listener, unspecified if it takes connections to any address of ours.
    ///
    /// # Errors
    /// `BadSocket`.
    pub fn tcp_local_addr(&mut self, id: SocketId) -> Result<SocketAddr, SocketError> {
        match self.tcp.listener_address(id) {
            Ok((address, port)) => {
                Ok(SocketAddr::new(address.unwrap_or(IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED)), port))
            }
            Err(_) => self.tcp.addresses(id).map(|(local, _)| local),
        }
    }

    /// The address and port of the peer.
    ///
    /// # Errors
    /// `BadSocket`.
    pub fn tcp_peer_addr(&mut self, id: SocketId) -> Result<SocketAddr, SocketError> {
        self.tcp.addresses(id).map(|(_, remote)| remote)
    }

    /// The state of a connection.
    ///
    /// # Errors
    /// `BadSocket`.
    pub fn tcp_state(&mut self, id: SocketId) -> Result<State, SocketError> {
        self.tcp.info(id).map(|info| info.state)
    }

    /// The state and the measurements of a connection.
    ///
    /// # Errors
    /// `BadSocket`.
    pub fn tcp_info(&mut self, id: SocketId) -> Result<TcpInfo, SocketError> {
        self.tcp.info(id)
    }

    /// TCP_NODELAY: `true` sends small segments at once (no Nagle).
    ///
    /// # Errors
    /// `BadSocket`.
    pub fn tcp_set_nodelay(&mut self, now: Instant, id: SocketId, nodelay: bool) -> Result<(), SocketError> {
        let (tcp, mut cx) = self.tcp_cx(now);
        tcp.set_nodelay(&mut cx, id, nodelay)
    }

    /// SO_KEEPALIVE, TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT in one.
    ///
    /// # Errors
    /// `BadSocket`, `Invalid` for times of zero.
    pub fn tcp_set_keepalive(
        &mut self,
        now: Instant,
        id: SocketId,
        keepalive: Option<KeepAlive>,
    ) -> Result<(), SocketError> {
        let (tcp, mut cx) = self.tcp_cx(now);
        tcp.set_keepalive(&mut cx, id, keepalive)
    }

    /// TCP_USER_TIMEOUT (RFC 5482): how long data may stay unacknowledged.
    ///
    /// # Errors
    /// `BadSocket`, `Invalid` for zero.
    pub fn tcp_set_user_timeout(&mut self, id: SocketId, limit: Option<Duration>) -> Result<(), SocketError> {
        self.tcp.set_user_timeout(id, limit)
    }

    /// IP_TTL: the TTL of what a connection sends.
    ///
    /// # Errors
    /// `BadSocket`, `Invalid` for 0.
    pub fn tcp_set_ttl(&mut self, id: SocketId, ttl: u8) -> Result<(), SocketError> {
        self.tcp.set_ttl(id, ttl)
    }

    /// How many connections exist: being opened, open, and in TIME-WAIT.
    pub fn tcp_connections(&self) -> TcpPopulation {
        self.tcp.population()
    }

    fn tcp_cx(&mut self, now: Instant) -> (&mut Tcp, Cx<'_>) {
        let (counters, events) = (&mut self.counters, &mut self.events);
        (&mut self.tcp, Cx { now, counters, events })
    }
}

/// The flow, with its tag, if it does not exist, is home at this place, and nobody listens on its port.
fn vacancy(tcp: &Tcp, place: Option<&Place>, flow: &FlowKey) -> Option<(FlowKey, u32)> {
    if !is_home(place, flow) || tcp.is_listening(flow.local, flow.local_port) {
        return None;
    }
    Some((*flow, tcp.vacancy(flow)?))
}

/// Whether what the peer of a flow sends arrives here.
fn is_home(place: Option<&Place>, flow: &FlowKey) -> bool {
    let (local, remote) = ((flow.local, flow.local_port), (flow.remote, flow.remote_port));
    place.is_none_or(|place| place.is_home(Transport::Tcp, local, remote))
}

fn flow(local: IpAddr, local_port: u16, remote: SocketAddr) -> FlowKey {
    FlowKey { local, remote: remote.ip(), local_port, remote_port: remote.port() }
}

/// How many connections there are, by how much each costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpPopulation {
    /// Handshakes that peers began.
    pub half_open: usize,
    /// Connections with a TCB.
    pub connections: usize,
    /// Connections in TIME-WAIT.
    pub time_wait: usize,
}

/// Whether a connection can lead there.
fn is_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_broadcast() && !ip.is_multicast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    }
}
