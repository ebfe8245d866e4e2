//! Followers: peers of clusters that others write, each in a folder of its own below one base folder.
//!
//! | what | where |
//! |---|---|
//! | names, folders, addresses | [`folder`] |
//! | where a configuration is, and getting it | [`source`] |
//! | what a configuration must be, and the copy for when it is out of reach | [`template`] |
//! | the IPFS daemon: waiting for it, its version | [`ipfs`] |
//! | running one follower, or several in one process | [`run`] |
//! | how they are, on the terminal or in the log | [`screen`] |
//! | the pinset of a follower that does not run | [`pinset`] |
//! | ending it, with its pins or without | [`leave`] |

pub mod folder;
pub mod init;
pub mod ipfs;
pub mod leave;
pub mod pinset;
pub mod run;
pub mod screen;
pub mod source;
pub mod template;

use std::fmt;

use ipfs_cluster::Error;

use crate::service::Failure;

/// Name of the program, in texts that tell the user what to run.
pub const PROGRAM: &str = "ipfs-cluster-follow";

/// Why a command gave up: what is printed to standard error, as the reference prints it. It is empty when all was said
/// already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble(String);

impl Trouble {
    /// A text for the user.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// All was said.
    pub fn said() -> Self {
        Self(String::new())
    }

    /// The error, and on the next line what was being done, as the reference has it.
    pub fn of(error: &Error, doing: impl fmt::Display) -> Self {
        Self(format!("{error}\n{doing}"))
    }

    /// Whether there is nothing to print.
    pub fn is_said(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self(failure.to_string())
    }
}

/// A text of others, without anything that a terminal obeys.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            control if control.is_control() => shown.extend(control.escape_default()),
            other => shown.push(other),
        }
    }
    shown
}
