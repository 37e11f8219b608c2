//! The one place where errors become errno.

use crate::events::EpollError;
use ntytcp::stack::SocketError;
use std::io;

/// The errno of a socket's error, as Linux has it.
pub fn errno(error: SocketError) -> i32 {
    match error {
        SocketError::WouldBlock => libc::EAGAIN,
        SocketError::BadSocket => libc::EBADF,
        SocketError::Invalid => libc::EINVAL,
        SocketError::AddressInUse => libc::EADDRINUSE,
        SocketError::AddressNotAvailable => libc::EADDRNOTAVAIL,
        SocketError::NotConnected => libc::ENOTCONN,
        SocketError::AlreadyConnected => libc::EISCONN,
        SocketError::DestinationRequired => libc::EDESTADDRREQ,
        SocketError::ConnectionRefused => libc::ECONNREFUSED,
        SocketError::ConnectionReset => libc::ECONNRESET,
        SocketError::ConnectionAborted => libc::ECONNABORTED,
        SocketError::TimedOut => libc::ETIMEDOUT,
        SocketError::BrokenPipe => libc::EPIPE,
        SocketError::NetworkUnreachable => libc::ENETUNREACH,
        SocketError::HostUnreachable => libc::EHOSTUNREACH,
        SocketError::ProtocolUnreachable => libc::ENOPROTOOPT,
        SocketError::MessageTooLong => libc::EMSGSIZE,
        SocketError::NoBufferSpace => libc::ENOBUFS,
        SocketError::FamilyNotSupported => libc::EAFNOSUPPORT,
        // The enum may grow; what is not known here is at least not a success.
        _ => libc::EIO,
    }
}

/// A socket's error as the standard library's, with the errno and the kind that follows from it.
pub fn io_error(error: SocketError) -> io::Error {
    io::Error::from_raw_os_error(errno(error))
}

impl EpollError {
    /// The errno, as `epoll_ctl(2)` and `epoll_wait(2)` have it.
    pub const fn errno(self) -> i32 {
        match self {
            Self::Exists => libc::EEXIST,
            Self::NotFound => libc::ENOENT,
            Self::Invalid => libc::EINVAL,
            Self::Loop => libc::ELOOP,
            Self::Closed => libc::EBADF,
            Self::NoSpace => libc::ENOSPC,
            Self::Interrupted => libc::EINTR,
            Self::Os(code) => code,
        }
    }
}

impl From<EpollError> for io::Error {
    fn from(error: EpollError) -> Self {
        Self::from_raw_os_error(error.errno())
    }
}
