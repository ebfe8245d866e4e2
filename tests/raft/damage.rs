//! Stores that were damaged or cut: a peer says so and what to do, and never shows or spreads what is wrong.

use std::sync::Arc;

use ipfs_cluster::ErrorKind;
use ipfs_cluster::consensus::{Consensus, RaftConfig, RaftStore};
use ipfs_cluster::storage::{Space, Storage};
use ipfs_cluster::testing::state_suite::{cid, pin};
use ipfs_cluster::testing::{CrashStorage, peer};

use crate::store::{OURS, copy, records, write};
use crate::world::{World, pins};

/// Three peers, of which one was stopped in the middle of it all, and its store. All have removed entries of their logs.
async fn one_of_three_away(seed: u64) -> (World, u64, Arc<CrashStorage>) {
    let mut config = RaftConfig::default();
    config.init_peerset = (1..=3).map(peer).collect();
    config.trailing_logs = 8;
    config.snapshot_threshold = 16;
    let mut world = World::start_with(seed, 3, config).await;
    for number in 0..40 {
        world.raft(number % 3 + 1).log_pin(pin(number)).await.unwrap();
        world.raft(number % 3 + 1).log_unpin(&cid(number / 2)).await.unwrap();
    }
    let away = world.follower().await;
    let disk = world.kill(away);
    let there = *world.members.keys().next().unwrap();
    world.raft(there).log_pin(pin(1_000)).await.unwrap();
    (world, away, disk)
}

#[tokio::test(start_paused = true)]
async fn whatever_record_is_damaged_or_missing_a_peer_says_so_or_is_whole() {
    let (mut world, away, disk) = one_of_three_away(1).await;
    let all = records(&*disk, &OURS);
    assert!(all.len() > 15, "{}", all.len());
    let (mut refused, mut whole) = (Vec::new(), Vec::new());
    // Of the log both ends, and some in the middle.
    let entries = all.iter().filter(|(space, ..)| *space == Space::new("raft-log")).count();
    for (index, (space, key, value)) in all.iter().enumerate() {
        if (2..entries - 2).contains(&index) && index % 4 != 0 {
            continue;
        }
        let name = format!("{space} {}", key.escape_ascii());
        let middle = value.len() / 2;
        let damages: Vec<Option<Vec<u8>>> = [0, middle, value.len().saturating_sub(1)]
            .into_iter()
            .filter(|at| *at < value.len())
            .map(|at| {
                let mut value = value.to_vec();
                value[at] ^= 0x10;
                Some(value)
            })
            .chain([None, Some(value[..middle].to_vec())])
            .collect();
        for damage in damages {
            let disk = copy(&*disk);
            let is_gone = damage.is_none();
            write(&*disk, |batch| match damage {
                Some(value) => batch.put(*space, key.clone(), value),
                None => batch.delete(*space, key.clone()),
            });
            // What an operator asks for says it, too, or does not look at it.
            if let Err(error) = RaftStore::open(disk.clone()).and_then(|store| store.info()) {
                assert!(
                    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported),
                    "{name}: {error}"
                );
            }
            match world.try_open(away, disk, world.config.clone()).await {
                Err(error) => {
                    let kind = error.kind();
                    assert!(
                        matches!(kind, ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::Conflict),
                        "{name}: {error}"
                    );
                    if kind == ErrorKind::Corrupt {
                        assert!(error.to_string().contains("let it join again"), "{name}: {error}");
                    }
                    refused.push(name.clone());
                }
                Ok(()) => {
                    let there = world.agreed().await;
                    assert!(pins(&*world.raft(away).state()).await == there, "{name}, gone: {is_gone}");
                    whole.push(name.clone());
                    // It must not be older than it was the next time.
                    (world, ..) = one_of_three_away(1).await;
                }
            }
        }
    }
    for vital in ["applied", "cluster", "last", "members", "purged", "vote"] {
        let name = format!("raft-meta {vital}");
        assert!(refused.contains(&name) && !whole.contains(&name), "{name}");
    }
    assert_eq!(world.agreed().await.len(), 21);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_was_cut_is_refused() {
    let (mut world, away, disk) = one_of_three_away(2).await;
    let log = records(&*disk, &OURS[..1]);
    for gone in [0..1, 0..3, 3..5, log.len() - 3..log.len(), 0..log.len()] {
        let disk = copy(&*disk);
        write(&*disk, |batch| {
            log[gone.clone()].iter().for_each(|(space, key, _)| batch.delete(*space, key.clone()));
        });
        let error = world.try_open(away, disk, world.config.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{gone:?}: {error}");
        assert!(error.to_string().contains("let it join again"), "{gone:?}: {error}");
    }
    // Older than what was removed from the log, not what was agreed on, or from another time.
    for (from, to) in [
        ("purged", "applied"),
        ("applied", "purged"),
        ("last", "purged"),
        ("purged", "vote"),
        ("committed", "last"),
    ] {
        let disk = copy(&*disk);
        let value = disk.get(Space::new("raft-meta"), from.as_bytes()).unwrap().unwrap();
        write(&*disk, |batch| batch.put(Space::new("raft-meta"), to.as_bytes(), value));
        let error = world.try_open(away, disk, world.config.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{from} as {to}: {error}");
    }
}

/// Nobody needs them before some peer is far behind, which would then find out that they are gone.
#[tokio::test(start_paused = true)]
async fn an_entry_that_is_in_the_pinset_already_is_damaged_and_found_at_the_start() {
    let (mut world, away, disk) = one_of_three_away(4).await;
    let applied = RaftStore::open(disk.clone()).unwrap().info().unwrap().applied_index.unwrap();
    let log = records(&*disk, &OURS[..1]);
    let index = |key: &[u8]| u64::from_be_bytes(key[..8].try_into().unwrap());
    let in_pinset: Vec<_> = log.iter().filter(|(_, key, _)| index(key) < applied).collect();
    assert!(in_pinset.len() > 5, "{}", in_pinset.len());
    for (space, key, value) in in_pinset {
        let disk = copy(&*disk);
        let mut value = value.to_vec();
        *value.last_mut().unwrap() ^= 1;
        write(&*disk, |batch| batch.put(*space, key.clone(), value));
        let error = world.try_open(away, disk, world.config.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let (named, way_out) = (format!("entry {} is not what was written", index(key)), "let it join again");
        assert!(error.to_string().contains(&named) && error.to_string().contains(way_out), "{error}");
    }
    assert_eq!(world.agreed().await.len(), 21);
}

#[tokio::test(start_paused = true)]
async fn a_peer_whose_store_is_damaged_is_removed_cleaned_and_joins_again() {
    let (mut world, away, disk) = one_of_three_away(3).await;
    write(&*disk, |batch| batch.delete(Space::new("raft-meta"), &b"vote"[..]));
    let error = world.try_open(away, disk, world.config.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let there = *world.members.keys().next().unwrap();
    world.raft(there).remove_peer(&peer(away)).await.unwrap();
    world.open_to_join(away).await;
    world.raft(there).add_peer(&peer(away)).await.unwrap();
    world.raft(away).ready().await.unwrap();
    world.raft(away).log_pin(pin(2_000)).await.unwrap();
    let there = world.agreed().await;
    assert_eq!(there.len(), 22);
    assert!(pins(&*world.raft(away).state()).await == there, "another pinset");
}
