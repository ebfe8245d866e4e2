//! The suite, over a cluster of one on every kind of store, and what of it holds for a member of three.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipfs_cluster::consensus::{Consensus, RaftConfig};
use ipfs_cluster::testing::consensus_suite::{self, Fixture};
use ipfs_cluster::testing::{CrashStorage, peer, run_case};
use ipfs_cluster::types::PeerId;

use crate::world::World;

const EVENTS: usize = 64;

fn config(peers: u64) -> RaftConfig {
    let mut config = RaftConfig::default();
    config.max_buffered_events = EVENTS;
    config.init_peerset = (1..=peers).map(peer).collect();
    config.heartbeat_timeout = Duration::from_millis(200);
    config.election_timeout = Duration::from_millis(200);
    config
}

/// A member of a cluster of that many.
struct OneOf(u64);

#[async_trait]
impl Fixture for OneOf {
    type Guard = World;

    async fn create(&self) -> (World, Arc<dyn Consensus>) {
        let world = World::start_with(1, self.0, config(self.0)).await;
        let raft = world.raft(1).clone();
        (world, raft)
    }

    async fn reopen(&self, world: &mut World, _: Arc<dyn Consensus>) -> Option<Arc<dyn Consensus>> {
        let disk = world.stop(1).await;
        world.open(1, disk, world.config.clone()).await;
        Some(world.raft(1).clone())
    }

    async fn crash(&self, world: &mut World, _: Arc<dyn Consensus>) -> Option<Arc<dyn Consensus>> {
        let disk: Arc<CrashStorage> = world.kill(1);
        world.open(1, disk, world.config.clone()).await;
        Some(world.raft(1).clone())
    }

    fn peer(&self) -> PeerId {
        peer(1)
    }

    fn buffered_events(&self) -> usize {
        EVENTS
    }
}

ipfs_cluster::consensus_conformance!(alone, OneOf(1));

/// The cases that say nothing of being alone, for one of three.
macro_rules! one_of_three {
    ($($case:ident),+ $(,)?) => {
        mod one_of_three {
            use super::*;

            $(
                #[test]
                fn $case() {
                    run_case(consensus_suite::$case(OneOf(3)));
                }
            )+

            /// A case that is new has to be put in one of the two lists.
            #[test]
            fn every_case_is_looked_at() {
                let alone = [
                    // In a cluster of others it is not allowed.
                    "cleaning_forgets_everything",
                    // They say so.
                    "this_peer_is_a_member_and_trusted",
                    "only_with_a_leader_there_is_one",
                    "only_with_membership_changes_members_change",
                ];
                let mut all: Vec<&str> = [$(stringify!($case)),+].into_iter().chain(alone).collect();
                let mut cases = consensus_suite::CASES.to_vec();
                all.sort_unstable();
                cases.sort_unstable();
                assert_eq!(all, cases);
            }
        }
    };
}

one_of_three!(
    it_becomes_ready,
    a_logged_pin_is_in_the_state,
    a_logged_pin_replaces_the_one_before,
    unpinning_gives_the_entry_as_it_was,
    unpinning_an_absent_cid_is_fine,
    many_operations_are_applied_in_order,
    many_operations_may_be_none,
    what_was_changed_meanwhile_is_not_revised,
    too_many_operations_are_refused_whole,
    a_read_after_synchronizing_sees_what_was_acknowledged,
    every_change_is_an_event,
    an_event_comes_when_the_state_shows_it,
    an_event_comes_before_its_call_returns,
    events_begin_with_the_reader,
    every_reader_gets_every_event,
    a_reader_that_missed_events_is_told_to_compare,
    a_slow_reader_does_not_hold_up_others,
    many_callers_are_all_acknowledged,
    callers_get_their_own_answers,
    a_dropped_call_harms_nobody,
    everything_is_there_after_a_restart,
    a_crash_loses_nothing_that_was_acknowledged,
    a_shutdown_finishes_what_was_accepted,
    everybody_waits_for_the_same_shutdown,
    after_a_shutdown_calls_fail_and_the_state_is_readable,
    a_shutdown_ends_the_events,
    only_with_trust_others_are_trusted,
);

/// On engines that keep their store in a folder.
#[cfg(any(feature = "storage-fjall", feature = "storage-redb"))]
mod on_disk {
    use std::path::Path;

    use ipfs_cluster::clock::SystemClock;
    use ipfs_cluster::consensus::{ConsensusContext, Raft};
    use ipfs_cluster::state::StoreState;
    use ipfs_cluster::storage::Storage;
    use ipfs_cluster::transport::MemoryNetwork;
    use tempfile::TempDir;

    use super::*;

    struct OnDisk(fn(&Path) -> Arc<dyn Storage>);

    impl OnDisk {
        async fn open(&self, storage: Arc<dyn Storage>) -> Arc<dyn Consensus> {
            let transport = MemoryNetwork::new(0).join(peer(1)).unwrap();
            let state = Arc::new(StoreState::open(Arc::clone(&storage)).await.unwrap());
            let cx =
                ConsensusContext::new(peer(1), storage, state, Arc::new(transport), Arc::new(SystemClock));
            Arc::new(Raft::open(config(1), cx).await.unwrap())
        }
    }

    #[async_trait]
    impl Fixture for OnDisk {
        type Guard = (Arc<dyn Storage>, TempDir);

        async fn create(&self) -> (Self::Guard, Arc<dyn Consensus>) {
            let folder = TempDir::new().unwrap();
            let storage = (self.0)(&folder.path().join("store"));
            ((storage.clone(), folder), self.open(storage).await)
        }

        async fn reopen(
            &self,
            (storage, folder): &mut Self::Guard,
            _: Arc<dyn Consensus>,
        ) -> Option<Arc<dyn Consensus>> {
            storage.close().unwrap();
            *storage = (self.0)(&folder.path().join("store"));
            Some(self.open(storage.clone()).await)
        }

        fn peer(&self) -> PeerId {
            peer(1)
        }

        fn buffered_events(&self) -> usize {
            EVENTS
        }
    }

    #[cfg(feature = "storage-fjall")]
    ipfs_cluster::consensus_conformance!(
        alone_on_fjall,
        OnDisk(|path| Arc::new(ipfs_cluster::storage::FjallStorage::open(path, Default::default()).unwrap()))
    );
    #[cfg(feature = "storage-redb")]
    ipfs_cluster::consensus_conformance!(
        alone_on_redb,
        OnDisk(|path| Arc::new(ipfs_cluster::storage::RedbStorage::open(path, Default::default()).unwrap()))
    );
}
