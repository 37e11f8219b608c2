//! What an application does with TCP sockets: the user calls of RFC 9293 3.10.1 to 3.10.6.

use super::config::{KeepAlive, TcpSocketOptions, check_user_timeout};
use super::listener::{ListenOptions, Listener};
use super::opening::Opening;
use super::table::{Slot, Tcp};
use super::tcb::{State, Tcb};
use super::timers::TimerKind;
use crate::fifo::{Consumer, Home, Producer};
use crate::stack::cx::{Cx, Pending};
use crate::stack::demux::FlowKey;
use crate::stack::{InterfaceId, SocketError, SocketId, SocketKind, TcpPopulation};
use crate::time::Duration;
use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;

/// What a connection is doing, as far as the application may want to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TcpInfo {
    /// The state.
    pub state: State,
    /// Smoothed round-trip time, once measured.
    pub srtt: Option<Duration>,
    /// Its mean deviation.
    pub rttvar: Duration,
    /// The retransmission timeout, backoff included.
    pub rto: Duration,
    /// Congestion window in bytes.
    pub cwnd: u32,
    /// Slow-start threshold in bytes.
    pub ssthresh: u32,
    /// Payload bytes of a full segment that we send.
    pub mss: u16,
    /// Bytes sent and not acknowledged.
    pub flight: u32,
    /// The peer's window in bytes.
    pub send_window: u32,
    /// Our window in bytes, as the peer knows it.
    pub recv_window: u32,
    /// Bytes that wait to be sent or acknowledged.
    pub send_queue: usize,
    /// Bytes that wait to be read.
    pub recv_queue: usize,
    /// Timeouts in a row without progress.
    pub timeouts: u8,
    /// Whether lost data is being repaired.
    pub in_recovery: bool,
}

impl Tcp {
    /// LISTEN on a port of one address, or of all.
    ///
    /// # Errors
    /// `AddressInUse` when another listener has the port, `Invalid` for options out of their ranges.
    pub(crate) fn listen(
        &mut self,
        local: Option<IpAddr>,
        port: u16,
        options: ListenOptions,
    ) -> Result<SocketId, SocketError> {
        let socket = options.socket.unwrap_or(self.config.socket);
        socket.check().map_err(|_| SocketError::Invalid)?;
        if self.bound.is_taken(local, port) {
            return Err(SocketError::AddressInUse);
        }
        let slot = self.listeners.insert(Listener {
            local,
            port,
            backlog: options.backlog.max(1),
            socket,
            half_open: 0,
            accept: VecDeque::new(),
            pending: Pending::default(),
        });
        self.bound.insert(local, port, slot);
        Ok(SocketId { kind: SocketKind::Listener, index: slot, generation: self.listeners.generation(slot) })
    }

    /// Takes the oldest finished connection of a listener.
    ///
    /// # Errors
    /// `WouldBlock` when there is none, `BadSocket`.
    pub(crate) fn accept(
        &mut self,
        cx: &mut Cx<'_>,
        id: SocketId,
    ) -> Result<(SocketId, SocketAddr), SocketError> {
        while let Some((conn, generation)) = self.listener(id)?.accept.pop_front() {
            let Some(tcb) = self.conns.get_mut(conn, generation) else { continue };
            tcb.flags.unaccepted = false;
            let peer = SocketAddr::new(tcb.key.remote, tcb.key.remote_port);
            self.settle(cx, conn);
            return Ok((SocketId { kind: SocketKind::Stream, index: conn, generation }, peer));
        }
        Err(SocketError::WouldBlock)
    }

    /// OPEN, active: sends a SYN on the next egress. `tag` is what [`Tcp::vacancy`] gave for the flow.
    ///
    /// # Errors
    /// `NoBufferSpace` at the limit of connections, `Invalid` for options out of their ranges.
    pub(crate) fn connect(
        &mut self,
        cx: &mut Cx<'_>,
        (key, tag): (FlowKey, u32),
        interface: InterfaceId,
        mtu: usize,
        options: Option<TcpSocketOptions>,
    ) -> Result<SocketId, SocketError> {
        if self.conns.len() + self.syns.len() >= self.config.max_connections {
            return Err(SocketError::NoBufferSpace);
        }
        let origin = self.isn.origin(cx.now, &key);
        // The stack's own were checked when it was made.
        if options.is_some_and(|options| options.check().is_err()) {
            return Err(SocketError::Invalid);
        }
        let options = options.unwrap_or(self.config.socket);
        let opening = Opening { key, tag, interface, mtu, origin, options };
        let conn = self.conns.reuse(|_, _, slot| {
            Tcb::open(slot, &self.pool, cx.now, &opening, &self.config);
        });
        self.flows.insert(tag, Slot::Conn(conn).pack());
        let generation = self.begin(conn);
        if let Some(tcb) = self.conns.at_mut(conn) {
            // Whether or not the SYN can leave now, trying ends some time.
            tcb.timers.arm(TimerKind::Retransmit, tcb.rtt.deadline(cx.now, self.config.max_rto));
        }
        self.settle(cx, conn);
        Ok(SocketId { kind: SocketKind::Stream, index: conn, generation })
    }

    /// Gives the application its ends of the FIFOs: it writes into the producer and reads from the consumer, and calls
    /// [`Tcp::wake`] after either. `None` when they were taken before.
    pub(crate) fn split(&mut self, id: SocketId) -> Option<(Producer, Consumer)> {
        let (mut tx, rx) = self.conn(id).ok()?.half.take()?;
        tx.set_home(Home::Consumer);
        Some((tx, rx))
    }

    /// SEND: takes as many bytes as the send buffer has room for.
    ///
    /// # Errors
    /// `WouldBlock` without room, `BrokenPipe` after shutdown, or why the connection ended.
    #[inline]
    pub(crate) fn send(&mut self, cx: &mut Cx<'_>, id: SocketId, data: &[u8]) -> Result<usize, SocketError> {
        self.send_by(cx, id, |tx| match tx.write(data) {
            0 if !data.is_empty() => None,
            written => Some(written),
        })
    }

    /// SEND by `write`, which puts bytes into the FIFO and says how many, or that there was no room.
    ///
    /// # Errors
    /// As [`Tcp::send`].
    #[inline]
    pub(crate) fn send_by(
        &mut self,
        cx: &mut Cx<'_>,
        id: SocketId,
        write: impl FnOnce(&mut Producer) -> Option<usize>,
    ) -> Result<usize, SocketError> {
        let tcb = self.conn(id)?;
        if let Some(error) = tcb.error.take() {
            return Err(error);
        }
        let Some((tx, _)) = &mut tcb.half else { return Err(SocketError::Invalid) };
        if tcb.state == State::Closed || tx.is_closed() {
            return Err(SocketError::BrokenPipe);
        }
        let written = write(tx).ok_or(SocketError::WouldBlock)?;
        tcb.flags.output = true;
        if !(tcb.flags.dirty && tcb.flags.warm) {
            self.settle(cx, id.index);
        }
        Ok(written)
    }

    /// RECEIVE: 0 bytes at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there, `NotConnected` before the handshake, or why the connection ended.
    #[inline]
    pub(crate) fn recv(
        &mut self,
        cx: &mut Cx<'_>,
        id: SocketId,
        buf: &mut [u8],
    ) -> Result<usize, SocketError> {
        if buf.is_empty() {
            return self.conn(id)?.half.as_ref().map(|_| 0).ok_or(SocketError::Invalid);
        }
        self.recv_by(cx, id, |rx| match rx.read(buf) {
            0 => None,
            read => Some(read),
        })
    }

    /// RECEIVE by `read`, which takes bytes from the FIFO and says how many, or that there were none.
    ///
    /// # Errors
    /// As [`Tcp::recv`].
    #[inline]
    pub(crate) fn recv_by(
        &mut self,
        cx: &mut Cx<'_>,
        id: SocketId,
        read: impl FnOnce(&mut Consumer) -> Option<usize>,
    ) -> Result<usize, SocketError> {
        let tcb = self.conn(id)?;
        let Some((_, rx)) = &mut tcb.half else { return Err(SocketError::Invalid) };
        if let Some(read) = read(rx) {
            tcb.on_app_read();
            // As a rule reading changes nothing for others.
            if tcb.flags.output || !tcb.flags.warm {
                self.settle(cx, id.index);
            }
            return Ok(read);
        }
        if let Some(error) = tcb.error.take() {
            return Err(error);
        }
        match tcb.state {
            State::SynSent | State::SynReceived => Err(SocketError::NotConnected),
            _ if rx.is_finished() => Ok(0),
            _ => Err(SocketError::WouldBlock),
        }
    }

    /// The application's halves have changed: look for data to send, the end of the stream and room to announce.
    ///
    /// # Errors
    /// `BadSocket`.
    pub(crate) fn wake(&mut self, cx: &mut Cx<'_>, id: SocketId) -> Result<(), SocketError> {
        let tcb = self.conn(id)?;
        if tcb.sending_ended() {
            tcb.on_app_closed();
        }
        tcb.on_app_read();
        tcb.flags.output = true;
        self.settle(cx, id.index);
        Ok(())
    }

    /// Closes the sending side: the peer sees the end of the stream after what was sent (RFC 9293 3.10.4).
    ///
    /// # Errors
    /// `NotConnected` before the handshake and after the end, `BadSocket`; `Invalid` when the FIFOs were split off (close the producer, then
    /// [`Tcp::wake`]).
    pub(crate) fn shutdown(&mut self, cx: &mut Cx<'_>, id: SocketId) -> Result<(), SocketError> {
        let tcb = self.conn(id)?;
        if !tcb.state.is_synchronized() {
            return Err(SocketError::NotConnected);
        }
        let Some((tx, _)) = &mut tcb.half else { return Err(SocketError::Invalid) };
        tx.close();
        self.wake(cx, id)
    }

    /// CLOSE: the application is done with the socket. What was sent is still delivered; unread data makes it a RST (RFC 1122 4.2.2.13).
    ///
    /// # Errors
    /// `BadSocket`.
    pub(crate) fn close(&mut self, cx: &mut Cx<'_>, id: SocketId) -> Result<(), SocketError> {
        if id.kind == SocketKind::Listener {
            return self.close_listener(cx, id);
        }
        let delay = self.config.fin_wait_2;
        let tcb = self.conn(id)?;
        // RFC 1122 4.2.2.13: "If such a host issues a CLOSE call while received data is still pending in TCP, ... its TCP SHOULD send a
        // RST to show that data was lost", whether or not the peer has closed meanwhile.
        let unread = tcb.rx.unread() > 0;
        tcb.hang_up();
        match tcb.state {
            State::SynSent => tcb.finish(None),
            State::Closed | State::TimeWait => {}
            _ if unread => tcb.abort(None),
            State::FinWait2 => tcb.timers.arm(TimerKind::FinWait2, cx.now + delay),
            _ => tcb.on_app_closed(),
        }
        tcb.flags.output |= tcb.state.is_synchronized();
        if !tcb.flags.in_demux {
            self.retire(id.index);
        }
        self.settle(cx, id.index);
        Ok(())
    }

    /// ABORT: the peer gets a RST, what was not delivered is lost (RFC 9293 3.10.5).
    ///
    /// # Errors
    /// `BadSocket`.
    pub(crate) fn abort(&mut self, cx: &mut Cx<'_>, id: SocketId) -> Result<(), SocketError> {
        if id.kind == SocketKind::Listener {
            return self.close_listener(cx, id);
        }
        let tcb = self.conn(id)?;
        tcb.abort(Some(SocketError::ConnectionAborted));
        self.settle(cx, id.index);
        self.close(cx, id)
    }

    fn close_listener(&mut self, cx: &mut Cx<'_>, id: SocketId) -> Result<(), SocketError> {
        self.listener(id)?;
        let Some(listener) = self.listeners.remove_at(id.index) else { return Err(SocketError::BadSocket) };
        self.bound.remove(id.index);
        let half_open: Vec<u32> =
            self.syns.iter().filter(|(_, entry)| entry.listener == id.index).map(|(slot, _)| slot).collect();
        for slot in half_open {
            self.remove_half_open(slot);
        }
        for (conn, generation) in listener.accept {
            if let Some(tcb) = self.conns.get_mut(conn, generation) {
                tcb.flags.unaccepted = false;
                tcb.hang_up();
                tcb.abort(None);
                self.settle(cx, conn);
            }
        }
        Ok(())
    }

    /// Takes why the connection ended (SO_ERROR).
    pub(crate) fn take_error(&mut self, id: SocketId) -> Option<SocketError> {
        self.conn(id).ok()?.error.take()
    }

    /// Our address and the peer's.
    pub(crate) fn addresses(&mut self, id: SocketId) -> Result<(SocketAddr, SocketAddr), SocketError> {
        let key = self.conn(id)?.key;
        Ok((SocketAddr::new(key.local, key.local_port), SocketAddr::new(key.remote, key.remote_port)))
    }

    /// The port of a listener and its address, if it has one.
    pub(crate) fn listener_address(&mut self, id: SocketId) -> Result<(Option<IpAddr>, u16), SocketError> {
        self.listener(id).map(|listener| (listener.local, listener.port))
    }

    /// Whether a listener takes connections on the port of that address.
    pub(crate) fn is_listening(&self, local: IpAddr, port: u16) -> bool {
        self.bound.find(local, port).is_some()
    }

    /// Whether a listener takes connections on the port, of whichever address.
    pub(crate) fn is_listened(&self, port: u16) -> bool {
        self.bound.is_taken(None, port)
    }

    /// How many of each there are.
    pub(crate) fn population(&self) -> TcpPopulation {
        TcpPopulation {
            half_open: self.syns.len(),
            connections: self.conns.len(),
            time_wait: self.waits.len(),
        }
    }

    /// The connection's state and measurements.
    ///
    /// # Errors
    /// `BadSocket`.
    pub(crate) fn info(&mut self, id: SocketId) -> Result<TcpInfo, SocketError> {
        let max_rto = self.config.max_rto;
        let tcb = self.conn(id)?;
        Ok(TcpInfo {
            state: tcb.state,
            srtt: tcb.rtt.srtt(),
            rttvar: tcb.rtt.rttvar(),
            rto: tcb.rtt.rto(max_rto),
            cwnd: tcb.cc.cwnd(),
            ssthresh: tcb.cc.ssthresh(),
            mss: tcb.send_mss(),
            flight: tcb.flight(),
            send_window: tcb.snd.wnd,
            recv_window: tcb.rcv.wnd(),
            send_queue: tcb.tx.len(),
            recv_queue: tcb.rx.unread(),
            timeouts: tcb.timeouts,
            in_recovery: tcb.recovery.is_active(),
        })
    }

    /// TCP_NODELAY.
    ///
    /// # Errors
    /// `BadSocket`.
    pub(crate) fn set_nodelay(
        &mut self,
        cx: &mut Cx<'_>,
        id: SocketId,
        nodelay: bool,
    ) -> Result<(), SocketError> {
        let tcb = self.conn(id)?;
        tcb.options.nodelay = nodelay;
        tcb.flags.output = true;
        self.settle(cx, id.index);
        Ok(())
    }

    /// SO_KEEPALIVE with its times.
    ///
    /// # Errors
    /// `BadSocket`, `Invalid` for times of zero.
    pub(crate) fn set_keepalive(
        &mut self,
        cx: &mut Cx<'_>,
        id: SocketId,
        keepalive: Option<KeepAlive>,
    ) -> Result<(), SocketError> {
        if keepalive.is_some_and(|times| times.check().is_err()) {
            return Err(SocketError::Invalid);
        }
        let tcb = self.conn(id)?;
        tcb.options.keepalive = keepalive;
        tcb.start_keepalive();
        self.settle(cx, id.index);
        Ok(())
    }

    /// TCP_USER_TIMEOUT.
    ///
    /// # Errors
    /// `BadSocket`, `Invalid` for zero.
    pub(crate) fn set_user_timeout(
        &mut self,
        id: SocketId,
        limit: Option<Duration>,
    ) -> Result<(), SocketError> {
        check_user_timeout(limit).map_err(|_| SocketError::Invalid)?;
        self.conn(id)?.options.user_timeout = limit;
        Ok(())
    }

    /// IP_TTL.
    ///
    /// # Errors
    /// `BadSocket`, `Invalid` for 0.
    pub(crate) fn set_ttl(&mut self, id: SocketId, ttl: u8) -> Result<(), SocketError> {
        let tcb = self.conn(id)?;
        let options = TcpSocketOptions { ttl, ..tcb.options };
        options.check().map_err(|_| SocketError::Invalid)?;
        tcb.options = options;
        Ok(())
    }

    #[inline]
    fn conn(&mut self, id: SocketId) -> Result<&mut Tcb, SocketError> {
        let tcb = self.conns.get_mut(id.index, id.generation).filter(|_| id.kind == SocketKind::Stream);
        tcb.filter(|tcb| !tcb.flags.unaccepted).ok_or(SocketError::BadSocket)
    }

    fn listener(&mut self, id: SocketId) -> Result<&mut Listener, SocketError> {
        let listener = self.listeners.get_mut(id.index, id.generation);
        listener.filter(|_| id.kind == SocketKind::Listener).ok_or(SocketError::BadSocket)
    }
}
