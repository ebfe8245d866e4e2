//! What a program does to the process that it is.

use std::fmt;
use std::io::Write as _;

use ipfs_cluster::{Error, Result};

/// Prints to standard output, at once. If nobody reads it there is nobody to tell.
pub fn print(text: impl fmt::Display) {
    let mut output = std::io::stdout().lock();
    let _ = write!(output, "{text}").and_then(|()| output.flush());
}

/// Runs what is asynchronous to its end, on all cores.
///
/// # Errors
/// `Io` where the system gives no threads; then none of the work was done.
pub fn block_on<F: Future>(work: F) -> Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    Ok(runtime.map_err(|source| Error::io("starting the runtime", source))?.block_on(work))
}
