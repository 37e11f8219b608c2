//! What the application side of the core deals in: socket names, readiness, events and errors.

use bitflags::bitflags;

/// Which kind of socket a [`SocketId`] names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum SocketKind {
    /// A TCP connection.
    Stream = 0,
    /// A TCP listener.
    Listener = 1,
    /// A UDP socket.
    Datagram = 2,
    /// A socket for ICMP echo.
    Echo = 3,
}

/// The name of a socket of one stack: kind, slot and the generation of that slot, so that a stale name never reaches a
/// newer socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SocketId {
    /// What it names.
    pub kind: SocketKind,
    /// Slot in the table of that kind.
    pub index: u32,
    /// How often the slot was used before.
    pub generation: u32,
}

bitflags! {
    /// What may have changed at a socket since it was last looked at. A hint, as an edge: the truth is what the calls answer.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Readiness: u8 {
        /// Data, a connection to accept, or the end of the stream.
        const READABLE = 1;
        /// Room to send, or the connection was established.
        const WRITABLE = 1 << 1;
        /// The peer will send no more (FIN).
        const READ_CLOSED = 1 << 2;
        /// Both directions are closed.
        const HANGUP = 1 << 3;
        /// The connection failed, or an ICMP error concerns the socket.
        const ERROR = 1 << 4;
    }
}

/// Something happened at a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Where.
    pub socket: SocketId,
    /// What may have changed.
    pub readiness: Readiness,
}

/// Why a socket's operation failed or its connection ended. Each has exactly one errno, given in its documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Nothing to read, no room to write, or nothing to accept now (EAGAIN).
    #[error("operation would block")]
    WouldBlock,
    /// The id names no open socket (EBADF).
    #[error("no such socket")]
    BadSocket,
    /// The operation does not fit the state or kind of the socket (EINVAL).
    #[error("invalid argument or state")]
    Invalid,
    /// The address and port are taken (EADDRINUSE).
    #[error("address in use")]
    AddressInUse,
    /// The address is none of the stack's (EADDRNOTAVAIL), or no ephemeral port is left.
    #[error("cannot assign requested address")]
    AddressNotAvailable,
    /// Not connected (ENOTCONN).
    #[error("not connected")]
    NotConnected,
    /// Already connected, or connecting (EISCONN).
    #[error("already connected")]
    AlreadyConnected,
    /// No destination was given (EDESTADDRREQ).
    #[error("destination address required")]
    DestinationRequired,
    /// The peer refused: RST to a SYN, or ICMP port unreachable (ECONNREFUSED).
    #[error("connection refused")]
    ConnectionRefused,
    /// The peer sent RST (ECONNRESET).
    #[error("connection reset by peer")]
    ConnectionReset,
    /// We aborted the connection (ECONNABORTED).
    #[error("connection aborted")]
    ConnectionAborted,
    /// The peer stopped answering (ETIMEDOUT).
    #[error("connection timed out")]
    TimedOut,
    /// Sending after shutdown (EPIPE).
    #[error("broken pipe")]
    BrokenPipe,
    /// No route, or ICMP network unreachable (ENETUNREACH).
    #[error("network unreachable")]
    NetworkUnreachable,
    /// The next hop does not answer, or ICMP host unreachable (EHOSTUNREACH).
    #[error("no route to host")]
    HostUnreachable,
    /// ICMP protocol unreachable (ENOPROTOOPT on Linux).
    #[error("protocol not available")]
    ProtocolUnreachable,
    /// The datagram is too large (EMSGSIZE).
    #[error("message too long")]
    MessageTooLong,
    /// A limit of the stack was reached (ENOBUFS).
    #[error("no buffer space available")]
    NoBufferSpace,
    /// The address family has no protocol behind it yet (EAFNOSUPPORT).
    #[error("address family not supported")]
    FamilyNotSupported,
}
