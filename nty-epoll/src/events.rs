//! The words of an epoll: what can be asked for and what is reported.

use bitflags::bitflags;

bitflags! {
    /// Conditions of a source and the modes of a registration, with the numbers of Linux's `<sys/epoll.h>`.
    ///
    /// The first eight are conditions: a source has them, a registration asks for them, [`Event::events`] reports
    /// them. [`Events::ERR`] and [`Events::HUP`] are reported whether asked for or not. The others are modes and
    /// only have a meaning in [`Epoll::add`](crate::Epoll::add) and [`Epoll::modify`](crate::Epoll::modify).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Events: u32 {
        /// A read will not block: data, a connection to accept, the end of the stream, or an error to fetch.
        const IN = 0x001;
        /// Urgent data.
        const PRI = 0x002;
        /// A write will not block: there is room, or an error to fetch.
        const OUT = 0x004;
        /// The source has failed. Always reported.
        const ERR = 0x008;
        /// Both directions are closed. Always reported.
        const HUP = 0x010;
        /// Normal data can be read; the same as [`Events::IN`] for every source of this crate.
        const RDNORM = 0x040;
        /// Normal data can be written; the same as [`Events::OUT`] for every source of this crate.
        const WRNORM = 0x100;
        /// The peer will send no more: the end of the stream follows what is buffered.
        const RDHUP = 0x2000;
        /// Of several epolls that wait for the same source, wake one. Only in `add`, only with IN, OUT, ERR, HUP and ET.
        const EXCLUSIVE = 1 << 28;
        /// Report once, then stay silent until `modify`.
        const ONESHOT = 1 << 30;
        /// Report each edge once, rather than the level at every wait.
        const ET = 1 << 31;
    }
}

impl Events {
    /// The modes; everything else is a condition.
    pub(crate) const MODES: Self = Self::EXCLUSIVE.union(Self::ONESHOT).union(Self::ET);
    /// What is reported even to those who did not ask.
    pub(crate) const ALWAYS: Self = Self::ERR.union(Self::HUP);
    /// What may stand beside `EXCLUSIVE`, as on Linux.
    pub(crate) const WITH_EXCLUSIVE: Self =
        Self::IN.union(Self::OUT).union(Self::ALWAYS).union(Self::ET).union(Self::EXCLUSIVE);

    /// The conditions with the POSIX synonyms that follow from them.
    pub(crate) const fn with_synonyms(self) -> Self {
        let mut all = self;
        if self.contains(Self::IN) {
            all = all.union(Self::RDNORM);
        }
        if self.contains(Self::OUT) {
            all = all.union(Self::WRNORM);
        }
        all
    }
}

/// One line of the answer of [`Epoll::wait`](crate::Epoll::wait).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Event {
    /// The conditions that hold and were asked for.
    pub events: Events,
    /// What the caller registered the source under.
    pub data: u64,
}

/// Why an operation on an epoll failed; each has exactly one errno, given in its documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EpollError {
    /// The source is registered already (EEXIST).
    #[error("the source is already registered with this epoll; use modify")]
    Exists,
    /// The source is not registered (ENOENT).
    #[error("the source is not registered with this epoll; use add")]
    NotFound,
    /// Modes that do not go together or not with this operation, an epoll added to itself, or room for no event (EINVAL).
    #[error("invalid events, target or buffer")]
    Invalid,
    /// The epoll would wait for itself, or epolls are nested more than five deep (ELOOP).
    #[error("epolls nested in a circle or too deep")]
    Loop,
    /// The source or descriptor is closed (EBADF).
    #[error("the source is closed")]
    Closed,
    /// More registrations than an epoll can hold (ENOSPC).
    #[error("too many registrations")]
    NoSpace,
    /// A signal arrived while waiting (EINTR).
    #[error("interrupted by a signal")]
    Interrupted,
    /// The operating system refused, with its errno.
    #[error("system call failed: {}", std::io::Error::from_raw_os_error(*.0))]
    Os(i32),
}
