//! What a program on the stack looks like to the loop that runs it.

use nty_epoll::{Epoll, EpollError, Runtime, RuntimeError};
use ntytcp::stack::SocketError;
use std::net::IpAddr;
use std::time::Instant;

/// A program that shares the stack, and its thread, with others.
///
/// Each has an [`Epoll`] of its own; the loop waits on all of them at once (an epoll can be in an epoll) and calls
/// [`Program::ready`] of those at which something happened. Nothing in a program may block.
pub trait Program {
    /// What it is called in messages.
    fn name(&self) -> &'static str;

    /// Where its sockets are registered.
    fn epoll(&self) -> &Epoll;

    /// Handles what its epoll reports, until that reports nothing more or for one batch at least. Also called once at the start, and
    /// whenever [`Program::deadline`] has passed.
    ///
    /// # Errors
    /// What it cannot go on after.
    fn ready(&mut self, runtime: &mut Runtime, now: Instant) -> Result<(), ProgramError>;

    /// When to call [`Program::ready`] at the latest even if nothing happens.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// How it ended, for a program that ends by itself (`ping`, `perf` as client). The loop ends when every program has.
    fn outcome(&self) -> Option<Outcome> {
        None
    }

    /// The loop is to end: no new clients from now on, and whoever has nothing under way is let go. The loop goes on until
    /// [`Program::is_drained`], for a while.
    fn drain(&mut self) {}

    /// Whether everything is done that was under way when [`Program::drain`] was called. Default yes: nothing of the program is a
    /// whole that could be cut off.
    fn is_drained(&self) -> bool {
        true
    }

    /// The loop is being stopped by a signal, and the program is dropped next: print a summary, if there is one to print, and
    /// abort what would look complete without being so.
    fn stop(&mut self) {}
}

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It did what it was asked to.
    Done,
    /// It has said why not; the command ends with status 1.
    Failed,
}

/// Why a program cannot go on. The message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// The port cannot be listened on.
    #[error("{program}: cannot use {transport} port {port}: {source} (choose another with --port)")]
    Port {
        /// Which program.
        program: &'static str,
        /// TCP or UDP.
        transport: &'static str,
        /// The port.
        port: u16,
        /// Why.
        source: SocketError,
    },
    /// A peer cannot be reached.
    #[error("{program}: cannot reach {peer}: {source}")]
    Peer {
        /// Which program.
        program: &'static str,
        /// The peer.
        peer: IpAddr,
        /// Why.
        source: SocketError,
    },
    /// A socket failed in a way that no peer can cause.
    #[error("{program}: {source}")]
    Socket {
        /// Which program.
        program: &'static str,
        /// Why.
        source: SocketError,
    },
    /// What it has to say cannot be written.
    #[error("{program}: cannot print: {source}")]
    Output {
        /// Which program.
        program: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// An epoll failed.
    #[error(transparent)]
    Epoll(#[from] EpollError),
    /// The stack failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Anything else, with the program's name in front.
    #[error("{0}")]
    Other(String),
}
