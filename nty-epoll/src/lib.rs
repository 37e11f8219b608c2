//! Sockets and a custom epoll over [`ntytcp`].
//!
//! # Readiness
//!
//! An [`Epoll`] watches *sources*: sockets of this crate, other epolls, anything that implements [`Pollable`], and (through
//! [`Epoll::add_fd`]) descriptors of the kernel. The contract is that of Linux's `epoll(7)`, and it is tested against the
//! kernel, operation by operation, down to the order of the reports.
//!
//! A source has a **level**, the conditions that hold now, and **edges**, moments at which something happened:
//!
//! | condition | a stream | a listener | a UDP socket | edge |
//! |---|---|---|---|---|
//! | [`Events::IN`] | data, end of stream, failure | a connection to accept | a datagram, an error | each arrival of data, whether there was some already or not |
//! | [`Events::OUT`] | room to write, established, or a write would fail | - | room for a datagram | when there is room again, and memory of the stack for it, after a write fell short |
//! | [`Events::RDHUP`] | the peer has sent its FIN | - | - | the FIN |
//! | [`Events::HUP`] | both directions are closed, or the connection failed | - | - | once |
//! | [`Events::ERR`] | an error waits to be taken | - | an ICMP error waits | each error |
//! | [`Events::PRI`] | never (urgent data is read in line, RFC 6093) | - | - | - |
//!
//! Edges only put a registration into the ready ring; what is reported is the level at the moment of the wait, cut to what
//! was asked for. So a report is never stale: a source that was drained, modified, deleted or dropped between the edge
//! and the wait is not reported for it, and user data always belongs to the mask it is reported with.
//!
//! **Level-triggered** (the default): reported by every wait while the level holds. Sources that were reported go behind
//! those that were not, so a small buffer starves nobody.
//!
//! **Edge-triggered** ([`Events::ET`]): reported by one wait after each edge, if the level holds then. Several edges before
//! the wait make one report. The draining rule follows: after a report go on until the call answers `WouldBlock` (or, for a
//! stream, until a read or write falls short), because what is left behind makes no edge of its own.
//!
//! **[`Events::ONESHOT`]**: after one report silent until [`Epoll::modify`]; of several threads that wait, one gets it.
//!
//! **[`Events::EXCLUSIVE`]**: an edge that several epolls wait for wakes the first sleeper among the exclusive ones, not all
//! of them. Failures and hang-ups are told to everybody.
//!
//! What holds already when a source is added or modified is reported by the next wait, edge-triggered or not. `ERR` and
//! `HUP` are always reported.
//!
//! **Spurious reports** are possible, as everywhere: between the report and the call another thread may have taken what was
//! there, and a report of `IN` may follow a read that just emptied the buffer. Calls never block, so the cost is one
//! `WouldBlock`. What never happens is the opposite: that a wait sleeps although a level holds. (A wait with a timeout of 0
//! may leave a source to the next one while another thread is in the middle of announcing its edge.)
//!
//! # Where the shard runs
//!
//! A [`Runtime`] owns one shard. On the application's own thread [`Runtime::wait`] takes turns and reports events (run to
//! completion); on a thread of its own [`Runtime::run`] does, and applications elsewhere open sockets through a
//! [`RuntimeHandle`] and sleep in [`Epoll::wait`]. Sockets and epolls are the same either way, and so is the path:
//!
//! ```text
//!   app                                                    shard
//!   write: bytes -> FIFO, name -> mailbox (once) --------> turn: segments
//!   wait <- ready ring <- (doorbell if parked) <---------- turn: level, then edge
//!   read: bytes <- FIFO, name -> mailbox (once) ---------> turn: window
//! ```
//!
//! Nothing of this takes a lock; the doorbells are written only for someone who sleeps. A runtime without work polls
//! for a moment and then sleeps on its devices, its next timer and its doorbell ([`ntytcp::shard::IdlePolicy`]).
//!
//! # What is supported
//!
//! | option | where | |
//! |---|---|---|
//! | `TCP_NODELAY`, `SO_KEEPALIVE` with its times, `TCP_USER_TIMEOUT` | [`TcpStream`] | at the next turn |
//! | `SO_RCVBUF`, `SO_SNDBUF` | `TcpSocketOptions` at `listen` and `connect` | fixed afterwards |
//! | `IP_TTL` | `TcpSocketOptions` at `listen` and `connect`, [`TcpStream::set_ttl`] | at the next turn |
//! | `SO_ERROR` | `take_error` | |
//! | everything else | | there is no function for it: nothing succeeds without effect |
//!
//! [`errno`] gives every error its Linux number.

mod epoll;
mod errno;
mod events;
mod kernel;
mod pin;
mod ready;
mod registration;
mod runtime;
mod set;
mod socket;
mod source;
mod thread;

pub use epoll::Epoll;
pub use errno::{errno, io_error};
pub use events::{EpollError, Event, Events};
pub use pin::pin_to;
pub use runtime::{Runtime, RuntimeError, RuntimeHandle};
pub use socket::{TcpListener, TcpStream, UdpSocket};
pub use source::{AsPollable, Pollable, Source, Waker};
pub use thread::{ShardError, ShardThread};
