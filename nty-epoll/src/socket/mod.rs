//! The sockets of the application: handles that live on any one thread and share atomics with their shard.
//!
//! ```text
//!             bytes: SPSC FIFOs, straight into the protocol's buffers
//!   TcpStream ------------------------------------------------------- connection
//!        \--- Shared: level, marks, dirty --> mailbox ring --> shard turn /
//!             Waker <-- edges --------------------------------- events --/
//! ```

mod datagram;
mod listener;
pub(crate) mod shared;
mod stream;

pub use datagram::UdpSocket;
pub use listener::TcpListener;
pub(crate) use listener::{READY, reset};
pub(crate) use shared::Shared;
pub use stream::TcpStream;
