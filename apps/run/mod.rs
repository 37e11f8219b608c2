//! Runs the programs of a plan on one stack.

mod program;

pub use program::{Outcome, Program, ProgramError};

use crate::cli::Plan;

/// Why running stopped. The message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// This build cannot run the program.
    #[error("{0}: not wired to a stack yet")]
    NotWired(&'static str),
}

/// Runs until the programs are done or a signal comes.
///
/// # Errors
/// [`RunError`]; the command ends with status 1.
pub fn run(plan: &Plan) -> Result<(), RunError> {
    match plan.apps.first() {
        Some(app) => Err(RunError::NotWired(app.name())),
        None => Ok(()),
    }
}
