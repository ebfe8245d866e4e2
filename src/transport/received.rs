//! Bounded channels as streams.

use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::broadcast::{self, error::RecvError};

/// Gossip messages that wait for a slow reader of a subscription; the oldest are dropped.
pub(super) const SUBSCRIPTION_MESSAGES_MAX: usize = 1024;
/// Events that wait for a slow reader; then it gets a `Resync`.
pub(super) const EVENTS_BUFFERED_MAX: usize = 256;

/// What a bounded channel gives, with `missed` in place of what its reader was too slow for, until it is closed.
pub(super) fn received<T: Clone + Send + 'static>(
    receiver: Option<broadcast::Receiver<T>>,
    missed: impl Fn() -> Option<T> + Clone + Send + Sync + 'static,
) -> BoxStream<'static, T> {
    let Some(receiver) = receiver else { return stream::empty().boxed() };
    let next = move |mut receiver: broadcast::Receiver<T>| {
        let missed = missed.clone();
        async move {
            loop {
                match receiver.recv().await {
                    Ok(item) => return Some((item, receiver)),
                    Err(RecvError::Lagged(_)) => {
                        if let Some(item) = missed() {
                            return Some((item, receiver));
                        }
                    }
                    Err(RecvError::Closed) => return None,
                }
            }
        }
    };
    stream::unfold(receiver, next).boxed()
}
