//! What the connectors of this crate share.

use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Availability;
use crate::error::{Error, ErrorKind};

/// What is known now (or what comes to be known first), then every change, until the connector stops or is gone. The last change is never missed.
pub(crate) fn availability_stream(
    changes: watch::Receiver<Option<Availability>>,
    stopped: CancellationToken,
) -> BoxStream<'static, Availability> {
    stream::unfold((changes, stopped, true), |(mut changes, stopped, mut first)| async move {
        loop {
            if !std::mem::replace(&mut first, false) {
                tokio::select! {
                    biased;
                    () = stopped.cancelled() => return None,
                    changed = changes.changed() => changed.ok()?,
                }
            }
            let now = changes.borrow_and_update().clone();
            if let Some(now) = now {
                return Some((now, (changes, stopped, false)));
            }
        }
    })
    .boxed()
}

/// The refusal of an unpin where unpinning is switched off, in the reference's words.
pub(crate) fn unpin_disabled() -> Error {
    Error::new(ErrorKind::Unsupported, "ipfs unpinning is disallowed by configuration on this peer")
}
