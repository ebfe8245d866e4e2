//! A peer as a process: its folder, its configuration, its log, its state on disk and its run. What the programs that
//! run peers share.

pub mod config;
pub mod daemon;
pub mod etcd;
pub mod folder;
pub mod logging;
pub mod memory;
pub mod open_files;
pub mod output;
pub mod ports;
pub mod prompt;
pub mod reference_data;
pub mod running;
pub mod signals;
pub mod source;
pub mod state;
pub mod storage;

use std::fmt;

use ipfs_cluster::Error;

/// Why a command gave up. Printed as the reference prints it: `error <doing>: <text>`.
#[derive(Debug)]
pub struct Failure {
    doing: String,
    error: Error,
}

impl Failure {
    /// A failure of what was being done, in the reference's words where it has some (`loading configurations`).
    pub fn new(doing: impl Into<String>, error: Error) -> Self {
        Self { doing: doing.into(), error }
    }

    /// The error.
    pub fn error(&self) -> &Error {
        &self.error
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}: {}", self.doing, self.error)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Says what was being done when a result is an error.
pub trait Doing<T> {
    /// Turns the error into a [`Failure`].
    ///
    /// # Errors
    /// The same error, with what was being done.
    fn doing(self, doing: &str) -> Result<T, Failure>;
}

impl<T> Doing<T> for ipfs_cluster::Result<T> {
    fn doing(self, doing: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(doing, error))
    }
}
