//! Giving up on who says nothing.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;

use crate::error::{Error, ErrorKind, Result};
use crate::types::PeerId;

/// The same pages, with an error in place of what does not come within `limit` of being asked for.
pub(super) fn until_silent<T: Send + 'static>(
    mut pages: BoxStream<'static, Result<T>>,
    peer: PeerId,
    limit: Duration,
) -> BoxStream<'static, Result<T>> {
    let stream = async_stream::stream! {
        loop {
            match tokio::time::timeout(limit, pages.next()).await {
                Ok(Some(page)) => {
                    let failed = page.is_err();
                    yield page;
                    if failed {
                        return;
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    yield Err(silent(&peer, limit));
                    return;
                }
            }
        }
    };
    stream.boxed()
}

pub(super) fn silent(peer: &PeerId, limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("{peer} was silent for {limit:?}")).component("cluster")
}
