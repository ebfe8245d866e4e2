//! Telling readers what changed, for every implementation that writes its state itself.

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::sync::broadcast::{self, error::RecvError};

use super::StateEvent;
use crate::state::StateChange;

/// The side that tells. Streams end when it is dropped, so whoever writes the state has it.
#[derive(Debug)]
pub(super) struct EventSender(broadcast::Sender<StateEvent>);

/// The side that readers come to.
#[derive(Clone, Debug)]
pub(super) struct EventSource(broadcast::WeakSender<StateEvent>);

/// Both sides. A reader that has not taken `buffered` events is told to compare.
pub(super) fn channel(buffered: usize) -> (EventSender, EventSource) {
    let (sender, _) = broadcast::channel(buffered);
    let source = EventSource(sender.downgrade());
    (EventSender(sender), source)
}

impl EventSender {
    /// Tells one event.
    pub(super) fn tell(&self, event: StateEvent) {
        // Nobody listening is fine.
        let _ = self.0.send(event);
    }

    /// Tells what a batch did, in order; what changed nothing is no event.
    pub(super) fn tell_changes(&self, changes: &[StateChange]) {
        for change in changes {
            match change {
                StateChange::Pinned(pin) => self.tell(StateEvent::Pinned(pin.clone())),
                StateChange::Unpinned(pin) => self.tell(StateEvent::Unpinned(pin.clone())),
                StateChange::Replaced => self.tell(StateEvent::Resync),
                StateChange::Unchanged => {}
            }
        }
    }
}

impl EventSource {
    /// Events from now on.
    pub(super) fn stream(&self) -> BoxStream<'static, StateEvent> {
        let Some(events) = self.0.upgrade() else { return stream::empty().boxed() };
        stream::unfold(events.subscribe(), |mut events| async move {
            match events.recv().await {
                Ok(event) => Some((event, events)),
                Err(RecvError::Lagged(_)) => Some((StateEvent::Resync, events)),
                Err(RecvError::Closed) => None,
            }
        })
        .boxed()
    }
}
