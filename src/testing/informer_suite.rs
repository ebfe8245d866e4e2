//! Conformance suite of [`Informer`].
//!
//! ```text
//! struct Mine;
//! #[async_trait]
//! impl informer_suite::Fixture for Mine {
//!     type Guard = ();
//!     async fn informer(&self, peer: PeerId, clock: Arc<dyn WallClock>) -> ((), Arc<dyn Informer>) {
//!         ((), Arc::new(MyInformer::new(InformerContext::new(peer, my_daemon(), clock))))
//!     }
//! }
//! ipfs_cluster::informer_conformance!(mine, Mine);
//! ```

#![allow(clippy::unwrap_used)] // A case fails by panicking.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;

use super::peer;
use crate::clock::{TokioClock, WallClock};
use crate::informer::Informer;
use crate::types::{Metric, PeerId, Timestamp};

/// Makes the informer under test.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// Cleans up when it is dropped at the end of a case.
    type Guard: Send;

    /// An informer of this peer in a state in which measuring works.
    async fn informer(&self, peer: PeerId, clock: Arc<dyn WallClock>) -> (Self::Guard, Arc<dyn Informer>);
}

/// The same implementation behind one more `Arc`.
#[derive(Debug)]
pub struct Forwarded<F>(pub F);

#[async_trait]
impl<F: Fixture> Fixture for Forwarded<F> {
    type Guard = F::Guard;

    async fn informer(&self, peer: PeerId, clock: Arc<dyn WallClock>) -> (F::Guard, Arc<dyn Informer>) {
        let (guard, informer) = self.0.informer(peer, clock).await;
        (guard, Arc::new(informer))
    }
}

conformance_suite!($ informer_suite, informer_conformance, run_paused_case, [
    it_has_a_name_and_a_time_to_live_that_never_change,
    metrics_have_names_and_none_comes_twice,
    metrics_are_of_this_peer_and_usable,
    metrics_expire_after_the_time_to_live,
    measuring_again_moves_the_expiry,
    concurrent_calls_all_answer,
]);

async fn informer<F: Fixture>(fixture: &F) -> (F::Guard, Arc<dyn Informer>, Arc<dyn WallClock>) {
    let start = Timestamp::from_unix_seconds(1_700_000_000);
    let clock: Arc<dyn WallClock> = Arc::new(TokioClock::starting_at(start));
    let (guard, informer) = fixture.informer(peer(1), clock.clone()).await;
    (guard, informer, clock)
}

async fn measured(informer: &Arc<dyn Informer>) -> Vec<Metric> {
    informer.metrics().await.unwrap()
}

/// Tasks and logs are named by it, and the cluster paces itself by it.
pub async fn it_has_a_name_and_a_time_to_live_that_never_change(fixture: impl Fixture) {
    let (_guard, informer, _) = informer(&fixture).await;
    let (name, ttl) = (informer.name().to_owned(), informer.ttl());
    assert!(!name.is_empty());
    assert!(!ttl.is_zero());
    measured(&informer).await;
    assert_eq!((informer.name(), informer.ttl()), (name.as_str(), ttl));
}

/// A monitor refuses metrics without a name, and keeps one of each name.
pub async fn metrics_have_names_and_none_comes_twice(fixture: impl Fixture) {
    let (_guard, informer, _) = informer(&fixture).await;
    let metrics = measured(&informer).await;
    let names: BTreeSet<_> = metrics.iter().map(|metric| metric.name.as_str()).collect();
    assert_eq!(names.len(), metrics.len(), "{metrics:?}");
    assert!(!names.contains(""));
}

/// Others take a metric for what the peer in it says.
pub async fn metrics_are_of_this_peer_and_usable(fixture: impl Fixture) {
    let (_guard, informer, clock) = informer(&fixture).await;
    for metric in measured(&informer).await {
        assert_eq!(metric.peer, peer(1));
        assert!(metric.is_usable(clock.now()), "{metric:?}");
    }
}

/// No sooner, or the peer would seem to fail between two measurements; no later, or a dead one would seem alive.
pub async fn metrics_expire_after_the_time_to_live(fixture: impl Fixture) {
    let (_guard, informer, clock) = informer(&fixture).await;
    let before = clock.now();
    let metrics = measured(&informer).await;
    for metric in metrics {
        assert!(!metric.is_expired(before + informer.ttl()), "{metric:?}");
        assert!(metric.is_expired(clock.now() + informer.ttl() + Duration::from_millis(1)), "{metric:?}");
    }
}

/// An answer that is remembered must not keep its old expiry.
pub async fn measuring_again_moves_the_expiry(fixture: impl Fixture) {
    let (_guard, informer, clock) = informer(&fixture).await;
    for _ in 0..3 {
        tokio::time::sleep(informer.ttl() / 2).await;
        let now = clock.now();
        for metric in measured(&informer).await {
            assert!(metric.expires_at() >= now + informer.ttl(), "{metric:?}");
        }
    }
}

/// A trigger may ask while the regular turn is asking.
pub async fn concurrent_calls_all_answer(fixture: impl Fixture) {
    let (_guard, informer, _) = informer(&fixture).await;
    let names = |metrics: Vec<Metric>| metrics.into_iter().map(|metric| metric.name).collect::<Vec<_>>();
    let alone = names(measured(&informer).await);
    for together in join_all((0..8).map(|_| measured(&informer))).await {
        assert_eq!(names(together), alone);
    }
}
