//! Shards on threads of their own.

use crate::pin::pin_to;
use std::any::Any;
use std::io;
use std::thread::{Builder, JoinHandle};

/// A thread that lives a shard's life: it makes its runtime, opens its sockets, and takes turns until it is told to end.
///
/// Shards share nothing, so a panic in one ends that one alone: its connections fall silent, what is handed over to it is lost and
/// counted, and [`ShardThread::join`] tells.
#[derive(Debug)]
pub struct ShardThread<R> {
    shard: usize,
    thread: JoinHandle<Result<R, ShardError>>,
}

/// Why a shard has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// It ended in a panic.
    #[error("shard {shard} panicked: {what}")]
    Panic {
        /// Which one.
        shard: usize,
        /// What it said.
        what: String,
    },
    /// It could not be bound to its core, and never lived.
    #[error(
        "shard {shard} cannot run on core {core}: {source}: give one that this machine has and this process may use"
    )]
    Pin {
        /// Which one.
        shard: usize,
        /// Where it was to run.
        core: usize,
        /// What the system says.
        source: io::Error,
    },
}

impl<R: Send + 'static> ShardThread<R> {
    /// Starts the thread, bound to the core `cpu` if given. `life` already runs there, so that the memory it touches first is near.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn spawn(
        shard: usize,
        cpu: Option<usize>,
        life: impl FnOnce() -> R + Send + 'static,
    ) -> io::Result<Self> {
        let on_its_core = move || match cpu {
            Some(core) => {
                pin_to(core).map_err(|source| ShardError::Pin { shard, core, source }).map(|()| life())
            }
            None => Ok(life()),
        };
        let thread = Builder::new().name(format!("shard {shard}")).spawn(on_its_core)?;
        Ok(Self { shard, thread })
    }

    /// Which shard.
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// Whether it has ended, so that [`ShardThread::join`] does not wait.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end of the thread, and gives what `life` did.
    ///
    /// # Errors
    /// [`ShardError`].
    pub fn join(self) -> Result<R, ShardError> {
        let shard = self.shard;
        match self.thread.join() {
            Ok(lived) => lived,
            Err(panic) => Err(ShardError::Panic { shard, what: message(panic.as_ref()) }),
        }
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no reason given").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_and_others_live_on() {
        let bad = ShardThread::spawn(1, None, || panic!("no {}", "luck")).unwrap();
        let good = ShardThread::spawn(2, None, || std::thread::current().name().map(str::to_owned)).unwrap();
        assert_eq!(good.join().unwrap().as_deref(), Some("shard 2"));
        let bad: Result<(), _> = bad.join();
        assert_eq!(bad.unwrap_err().to_string(), "shard 1 panicked: no luck");
    }

    #[test]
    fn a_core_that_does_not_exist_is_named() {
        let thread = ShardThread::spawn(3, Some(1_000_000), || unreachable!("it never lives")).unwrap();
        let lived: Result<(), _> = thread.join();
        assert!(lived.unwrap_err().to_string().starts_with("shard 3 cannot run on core 1000000: "));
    }
}
