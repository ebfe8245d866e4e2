//! Content in: made into blocks in this process, through the REST API, and from the command line into real daemons.
//!
//! MB are millions of bytes, MiB are not.

mod command;
mod content;
mod hashing;
mod upload;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::daemon::Subject;
use crate::report::Row;

/// What is measured with.
pub(crate) struct Adding<'a> {
    pub(crate) ours: &'a Subject,
    pub(crate) ctl: &'a Path,
    /// The reference's service and ctl.
    pub(crate) reference: Option<(&'a Subject, &'a Path)>,
    pub(crate) fake_kubo: &'a Path,
    /// What only hands on.
    pub(crate) forward: &'a Path,
    /// A real Kubo.
    pub(crate) kubo: Option<&'a Path>,
    pub(crate) folder: PathBuf,
    pub(crate) mib: u64,
    pub(crate) files: u64,
}

/// Rows of ours and of the reference.
pub(crate) async fn add(adding: &Adding<'_>) -> Result<(Vec<Row>, Vec<Row>)> {
    let mut ours = Vec::new();
    eprintln!("add: in this process …");
    let mib = adding.mib;
    ours.extend(tokio::task::spawn_blocking(move || hashing::in_process(mib)).await?.context("in process")?);
    eprintln!("add: through the REST API …");
    ours.extend(upload::one(adding).await.context("through the REST API")?);
    eprintln!("add: to three peers …");
    ours.extend(upload::three(adding).await.context("to three peers")?);
    let mut reference = Vec::new();
    match adding.kubo {
        None => eprintln!("add: no real Kubo, what needs one is skipped: set IPFS_CLUSTER_TEST_KUBO"),
        Some(kubo) => {
            eprintln!("add: a large file from the command line …");
            let (more, theirs) = command::large(adding, kubo).await.context("a large file")?;
            ours.extend(more);
            reference.extend(theirs);
        }
    }
    eprintln!("add: many small files from the command line …");
    let (more, theirs) = command::small(adding).await.context("small files")?;
    ours.extend(more);
    reference.extend(theirs);
    Ok((ours, reference))
}

fn megabytes_per_second(bytes: u64, elapsed: std::time::Duration) -> f64 {
    bytes as f64 / 1e6 / elapsed.as_secs_f64()
}
