//! Sockets and a custom epoll over [`ntytcp`].

mod doorbell;
mod epoll;
mod errno;
mod events;
mod parking;
mod ready;
mod registration;
mod set;
mod source;

pub use epoll::Epoll;
pub use errno::{errno, io_error};
pub use events::{EpollError, Event, Events};
pub use source::{AsPollable, Pollable, Source, Waker};
