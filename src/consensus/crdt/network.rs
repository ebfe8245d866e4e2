//! The tasks that deal with other peers, as one thing that starts and stops.
//!
//! | task | wakes up for | does |
//! |---|---|---|
//! | publish | a new head of ours | says it |
//! | listen | a message of a trusted peer | puts its heads into the inbox |
//! | rebroadcast | its interval, 30 % more or less | says heads of ours that nobody said |
//! | walk | the inbox, blocks, merges | see `walk.rs` |
//! | catch up | a peer that connects, and an interval | see `catchup` |
//! | repair | the start and its interval, when the store is dirty | see `repair.rs` |

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::announce::{Announcing, Inbox, Validator};
use super::catchup::{CatchUp, CatchUpParts};
use super::ledger::{Head, Ledger};
use super::repair::RepairContext;
use super::trust::Trust;
use super::walk::{DirtyCount, REQUESTS_MAX, Walker, WalkerContext};
use crate::exchange::BlockExchange;
use crate::transport::{PeerTransport, Topic};

/// What the tasks are made of.
#[derive(Clone, Debug)]
pub(super) struct NetworkParts {
    pub(super) transport: Arc<dyn PeerTransport>,
    pub(super) exchange: Arc<dyn BlockExchange>,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) trust: Arc<Trust>,
    /// The newest head of ours.
    pub(super) cut: watch::Receiver<Option<Head>>,
    pub(super) topic: Topic,
    pub(super) rebroadcast_interval: Duration,
    /// Zero: at the start only.
    pub(super) repair_interval: Duration,
    pub(super) seed: u64,
    /// None where only walks get what is missing.
    pub(super) catch_up: Option<CatchUpParts>,
}

/// The tasks, running. They stop when this is dropped, and have stopped after [`Network::shutdown`].
#[derive(Debug)]
pub(super) struct Network {
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Network {
    /// Subscribes, and starts the tasks.
    pub(super) fn start(parts: NetworkParts) -> Self {
        let NetworkParts { transport, exchange, ledger, trust, cut, topic, .. } = parts;
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (walker, requests) = mpsc::channel(REQUESTS_MAX);
        let (inbox, dirty) = (Arc::<Inbox>::default(), Arc::<DirtyCount>::default());
        let catch_up = parts.catch_up.map(|CatchUpParts { ledger, state }| CatchUp {
            ledger,
            state,
            transport: transport.clone(),
            exchange: exchange.clone(),
            trust: trust.clone(),
            inbox: inbox.clone(),
            walker: walker.clone(),
            interval: parts.rebroadcast_interval,
            seed: parts.seed,
        });

        // Before anything runs, so that nothing is missed.
        let connections = transport.events();
        let messages = transport.subscribe(&topic, Arc::new(Validator::new(trust.clone())));
        let announcing = Announcing::new(transport, topic, ledger.clone(), inbox.clone());
        let announcing = Arc::new(announcing);
        let spawn = |task: futures::future::BoxFuture<'static, ()>| {
            let cancel = cancel.clone();
            tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => {}
                    () = task => {}
                }
            });
        };
        let (publishing, listening, repeating) = (announcing.clone(), announcing.clone(), announcing);
        spawn(Box::pin(async move { publishing.publish(cut).await }));
        spawn(Box::pin(async move { listening.listen(messages).await }));
        let (every, seed) = (parts.rebroadcast_interval, parts.seed);
        spawn(Box::pin(async move { repeating.rebroadcast(every, seed).await }));
        if let Some(catch_up) = catch_up {
            spawn(Box::pin(catch_up.run(connections)));
        }
        let repair = RepairContext {
            ledger: ledger.clone(),
            exchange: exchange.clone(),
            walker,
            dirty: dirty.clone(),
        };
        let every = parts.repair_interval;
        spawn(Box::pin(async move { repair.run(every).await }));
        // It stops by itself: a merge that has begun is waited for.
        let cancelled = cancel.clone();
        tasks.spawn(
            Walker::new(WalkerContext { ledger, exchange, trust, inbox, requests, dirty, cancel: cancelled })
                .run(),
        );
        tasks.close();
        Self { cancel, tasks }
    }

    /// Stops the tasks and returns when they have. What was being merged is on disk then. Idempotent.
    pub(super) async fn shutdown(&self) {
        self.cancel.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
