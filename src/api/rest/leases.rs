//! Blocks that are kept for adds, as lines, and letting go of them.

use futures::StreamExt as _;
use futures::stream;

use super::answer::{self, Answer};
use super::lines::Lines;
use crate::api::error::ApiError;
use crate::api::json;
use crate::cluster::Cluster;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Cid, Lease};

/// The leases of this peer. There may be very many, with many roots each, so they are written as they are sent.
pub(super) fn lines(cluster: &Cluster) -> Lines {
    Lines::of_fallible(stream::iter(cluster.leases()).map(|lease| encoded(&lease)).boxed())
}

fn encoded(lease: &Lease) -> Result<Vec<u8>> {
    let mut line = Vec::with_capacity(256);
    json::value(&mut line, lease)
        .map_err(|source| Error::internal("a lease cannot be written").with_source(source))?;
    line.push(b'\n');
    Ok(line)
}

/// Releases one.
pub(super) async fn release(cluster: &Cluster, cid: &Cid) -> Result<Answer, ApiError> {
    match cluster.release_lease(cid).await {
        Ok(()) => Ok(answer::no_content()),
        Err(error) => Err(match error.kind() {
            ErrorKind::NotFound => ApiError::new(404, error.message()),
            ErrorKind::Conflict => ApiError::new(409, error.message()),
            _ => error.into(),
        }),
    }
}
