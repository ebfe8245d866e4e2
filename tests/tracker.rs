//! The stateless tracker: its conformance suite, its limits, and what happens at the same time.
#![cfg(feature = "testing")]

use std::sync::Arc;

use async_trait::async_trait;
use ipfs_cluster::testing::tracker_suite;
use ipfs_cluster::tracker::{PinTracker, StatelessConfig, StatelessTracker, TrackerContext};

struct Stateless(StatelessConfig);

#[async_trait]
impl tracker_suite::Fixture for Stateless {
    type Guard = ();

    async fn tracker(&self, cx: TrackerContext) -> ((), Arc<dyn PinTracker>) {
        ((), Arc::new(StatelessTracker::new(self.0.clone(), cx).unwrap()))
    }
}

fn stateless() -> Stateless {
    Stateless(StatelessConfig::default())
}

ipfs_cluster::tracker_conformance!(stateless_tracker, stateless());
