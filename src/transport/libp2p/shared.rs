//! What the transport's methods and its task both see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::book::Book;
use super::gossip::Subscriptions;
use super::streams::Registry;
use crate::transport::TransportEvent;
use crate::transport::received::EVENTS_BUFFERED_MAX;
use crate::types::{Multiaddr, PeerId};

/// No outside code (handlers, validators) is called under its lock.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) peer: PeerId,
    pub(super) cancel: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) registry: Arc<Registry>,
    /// Subscriptions or protections changed.
    pub(super) changed: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) connected: BTreeSet<PeerId>,
    pub(super) book: Book,
    pub(super) listen: BTreeSet<Multiaddr>,
    /// What others are told.
    pub(super) announced: Vec<Multiaddr>,
    pub(super) subscriptions: Subscriptions,
    pub(super) protected: BTreeSet<PeerId>,
    /// Protections that the swarm was not told yet.
    pub(super) protections: BTreeMap<PeerId, bool>,
    /// None once the transport is shut down, which ends the streams.
    pub(super) events: Option<broadcast::Sender<TransportEvent>>,
}

impl Shared {
    pub(super) fn new(peer: PeerId) -> Arc<Self> {
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        Arc::new(Self {
            peer,
            registry: Arc::new(Registry::new(tasks.clone(), cancel.clone())),
            cancel,
            tasks,
            changed: Notify::new(),
            state: Mutex::new(State {
                connected: BTreeSet::new(),
                book: Book::default(),
                listen: BTreeSet::new(),
                announced: Vec::new(),
                subscriptions: Subscriptions::default(),
                protected: BTreeSet::new(),
                protections: BTreeMap::new(),
                events: Some(broadcast::channel(EVENTS_BUFFERED_MAX).0),
            }),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Ends everything without waiting for it.
    pub(super) fn stop(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.registry.clear();
        let subscriptions = {
            let mut state = self.state();
            state.events = None;
            state.connected.clear();
            std::mem::take(&mut state.subscriptions)
        };
        // Validators may do anything when they are dropped.
        drop(subscriptions);
    }
}

impl State {
    pub(super) fn tell(&self, event: TransportEvent) {
        if let Some(events) = &self.events {
            // Nobody listening is fine.
            let _ = events.send(event);
        }
    }
}
