//! How many files may be open at once. Each download holds one descriptor, each upload two.

use super::status::Status;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Arc;

/// Descriptors that are left to everything else: the stack, its devices and epolls, and the other programs on it.
const RESERVED: u64 = 64;

/// The files that are open, and how many may be.
#[derive(Debug)]
pub(super) struct OpenFiles {
    most: usize,
    /// Held by every [`Permit`] too: they are counted by this.
    count: Arc<()>,
}

/// Leave to have a file open, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    _count: Arc<()>,
}

impl OpenFiles {
    /// As many as the process may have, once it has asked for all that it can get.
    pub(super) fn of_process() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, ..limit };
        let descriptors =
            if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
        let most = descriptors.map_or(u64::MAX, |n| n.saturating_sub(RESERVED) / 2);
        Self::at_most(usize::try_from(most).unwrap_or(usize::MAX).max(1))
    }

    pub(super) fn at_most(most: usize) -> Self {
        Self { most, count: Arc::default() }
    }

    /// Leave to open one more.
    ///
    /// # Errors
    /// 503 when there are as many as there may be.
    pub(super) fn permit(&self) -> Result<Permit, Status> {
        if Arc::strong_count(&self.count) > self.most {
            return Err(Status::ServiceUnavailable);
        }
        Ok(Permit { _count: self.count.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_permits_as_descriptors_and_no_more() {
        let files = OpenFiles::at_most(2);
        let (first, _second) = (files.permit().unwrap(), files.permit().unwrap());
        assert_eq!(files.permit().unwrap_err(), Status::ServiceUnavailable);
        drop(first);
        assert!(files.permit().is_ok());
        assert!(OpenFiles::of_process().most >= 1);
    }
}
