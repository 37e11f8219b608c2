//! What a program prints that ends by itself, and how it ended.

use super::{Outcome, ProgramError};
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Lines on their way to whoever started the program, and then the outcome.
///
/// Failed writes are noted, and nothing more is written after the first: the program asks [`Printout::is_read`] when it is
/// done with a call.
pub(crate) struct Printout {
    out: Box<dyn Write>,
    error: Option<io::Error>,
    outcome: Option<Outcome>,
}

impl Printout {
    /// Nothing was printed yet.
    pub(crate) fn new(out: Box<dyn Write>) -> Self {
        Self { out, error: None, outcome: None }
    }

    /// Prints a line.
    pub(crate) fn say(&mut self, line: impl Display) {
        if self.error.is_none() {
            self.error = writeln!(self.out, "{line}").err();
        }
    }

    /// The last line was said. `Failed` in any case when the lines did not get to where they should; a reader that went away
    /// has read enough.
    pub(crate) fn end(&mut self, outcome: Outcome) {
        if self.error.is_none() {
            self.error = self.out.flush().err();
        }
        let is_lost = self.error.as_ref().is_some_and(|error| error.kind() != ErrorKind::BrokenPipe);
        self.outcome.get_or_insert(if is_lost { Outcome::Failed } else { outcome });
    }

    /// How it ended, if it has.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// Whether there is a reader. Without one there is no reason to go on.
    ///
    /// # Errors
    /// [`ProgramError::Output`] when lines were lost for another reason; said once.
    pub(crate) fn is_read(&mut self, program: &'static str) -> Result<bool, ProgramError> {
        match self.error.take() {
            None => Ok(true),
            Some(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.error = Some(error);
                Ok(false)
            }
            Some(source) => Err(ProgramError::Output { program, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn reader_that_has_gone_is_no_failure_and_a_full_disk_is_one() {
        let mut gone = Printout::new(Box::new(Broken(ErrorKind::BrokenPipe)));
        assert!(gone.is_read("x").unwrap());
        gone.say("line");
        assert!(!gone.is_read("x").unwrap() && !gone.is_read("x").unwrap());
        gone.end(Outcome::Done);
        assert_eq!(gone.outcome(), Some(Outcome::Done));

        let mut full = Printout::new(Box::new(Broken(ErrorKind::StorageFull)));
        full.say("line");
        full.end(Outcome::Done);
        assert_eq!(full.outcome(), Some(Outcome::Failed));
        assert!(full.is_read("x").unwrap_err().to_string().starts_with("x: cannot print: "));
    }
}
