use openraft::CommittedLeaderId;

use super::super::types::Command;
use super::pieces::{PIECE_BYTES_MAX, key};
use super::*;
use crate::storage::MemoryStorage;
use crate::testing::{FaultyStorage, StorageCall};
use crate::types::PeerId;

fn id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, Node::default()), index)
}

fn entry(index: u64, bytes: usize) -> Entry {
    Entry { log_id: id(index), payload: EntryPayload::Normal(Command(vec![index as u8; bytes].into())) }
}

fn indexes(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.log_id.index).collect()
}

async fn try_log_on(storage: &Arc<dyn Storage>) -> Result<LogStore> {
    let trim = Arc::new(Trim::new(1 << 20));
    LogStore::open(Node::default(), storage.clone(), Failure::default(), trim).await
}

async fn log_on(storage: &Arc<dyn Storage>) -> LogStore {
    try_log_on(storage).await.unwrap()
}

/// Appends entries, which are on disk then.
async fn put(log: &LogStore, entries: Vec<Entry>) {
    log.take_in(entries).await.unwrap();
    log.until_all_written().await.unwrap();
}

/// Notes that the pinset is that far.
fn set_applied(storage: &dyn Storage, index: u64) {
    let mut batch = Batch::new();
    records::put(&mut batch, APPLIED, &written(|writer| writer.log_id(&id(index))));
    storage.write(batch, Durability::Buffered).unwrap();
}

/// A store with entries 0 to 9.
async fn ten() -> Arc<dyn Storage> {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    put(&log_on(&storage).await, (0..10).map(|index| entry(index, 100)).collect()).await;
    storage
}

#[tokio::test]
async fn what_was_appended_is_there_after_a_restart_and_large_entries_are_whole() {
    let storage = ten().await;
    let log = log_on(&storage).await;
    put(&log, vec![entry(10, 3 * PIECE_BYTES_MAX + 5), entry(11, 0)]).await;
    for log in [log, log_on(&storage).await] {
        let all = log.entries(0, 100, true).await.unwrap();
        assert_eq!(indexes(&all), (0..12).collect::<Vec<_>>());
        assert_eq!(size(&all[10]), 256 + 3 * PIECE_BYTES_MAX + 5);
        assert_eq!(log.last(), Some(id(11)));
        // Never nothing, and not everything at once.
        assert_eq!(indexes(&log.entries(9, 12, false).await.unwrap()), [9]);
        assert_eq!(indexes(&log.entries(10, 12, false).await.unwrap()), [10]);
        assert_eq!(indexes(&log.entries(12, 20, false).await.unwrap()), [0; 0]);
    }
}

#[tokio::test]
async fn both_ends_can_be_taken_away() {
    let storage = ten().await;
    let log = log_on(&storage).await;
    log.cut(8).await.unwrap();
    log.cut(8).await.unwrap();
    set_applied(&*storage, 5);
    log.drop_until(id(3)).await.unwrap();
    for log in [log.clone(), log_on(&storage).await] {
        assert_eq!(indexes(&log.entries(0, 100, true).await.unwrap()), [4, 5, 6, 7]);
        assert_eq!(log.last(), Some(id(7)));
    }
    // What is sent must not have a gap before it; what is read for all else may begin later.
    let error = log.entries(3, 6, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    put(&log, vec![entry(8, 1)]).await;
    // Beyond the end, as after a snapshot.
    set_applied(&*storage, 20);
    log.drop_until(id(20)).await.unwrap();
    for log in [log.clone(), log_on(&storage).await] {
        assert_eq!(indexes(&log.entries(0, 100, true).await.unwrap()), [0; 0]);
        assert_eq!(log.last(), Some(id(20)));
    }
    put(&log, vec![entry(21, 1)]).await;
    log.cut(21).await.unwrap();
    assert_eq!(log_on(&storage).await.last(), Some(id(20)));
}

#[tokio::test]
async fn a_removal_that_was_interrupted_is_finished_at_the_next_start() {
    let storage = ten().await;
    let mut batch = Batch::new();
    records::put(&mut batch, PURGED, &written(|writer| writer.log_id(&id(4))));
    storage.write(batch, Durability::Synced).unwrap();
    assert_eq!(indexes(&log_on(&storage).await.entries(0, 100, true).await.unwrap()), [5, 6, 7, 8, 9]);
}

#[tokio::test]
async fn a_log_that_was_damaged_or_cut_is_refused_with_the_way_out() {
    type Damage = fn(&mut Batch);
    let cases: [(&str, Damage); 5] = [
        ("it should have entries 0 to 9", |batch| batch.delete(LOG, key(9, 0))),
        ("it should have entries 0 to 9", |batch| batch.delete(LOG, key(0, 0))),
        ("it should have entries 0 to 9", |batch| batch.delete(META, LAST)),
        ("entry 9 is not what was written", |batch| {
            batch.put(LOG, key(9, 0), [&[1, 0, 1][..], &[7; 60]].concat())
        }),
        ("entry 9 has the unknown version", |batch| batch.put(LOG, key(9, 0), [0; 80].to_vec())),
    ];
    for (text, damage) in cases {
        let storage = ten().await;
        let mut batch = Batch::new();
        damage(&mut batch);
        storage.write(batch, Durability::Synced).unwrap();
        let error = try_log_on(&storage).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        // Without the end it is known only that there should be none.
        assert!(
            error.to_string().contains(text) || error.to_string().contains("should have no entries"),
            "{error}"
        );
        assert!(error.to_string().contains("let it join again"), "{error}");
    }
    // What is in the middle is found when all of it is read, or just that.
    for middle in [None, Some(vec![1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 7])] {
        let storage = ten().await;
        let mut batch = Batch::new();
        match middle {
            None => batch.delete(LOG, key(5, 0)),
            Some(record) => batch.put(LOG, key(5, 0), record),
        }
        storage.write(batch, Durability::Synced).unwrap();
        let log = log_on(&storage).await;
        assert_eq!(log.check().await.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(log.entries(4, 6, true).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_removed_before_the_pinset_has_it() {
    let storage = ten().await;
    let log = log_on(&storage).await;
    set_applied(&*storage, 5);
    let removing = tokio::spawn({
        let log = log.clone();
        async move { log.drop_until(id(12)).await }
    });
    sleep(Duration::from_secs(60)).await;
    assert!(!removing.is_finished());
    assert_eq!(log_on(&storage).await.last(), Some(id(9)));
    set_applied(&*storage, 12);
    removing.await.unwrap().unwrap();
    assert_eq!(log_on(&storage).await.last(), Some(id(12)));
    // What installs it fails.
    let error = Error::new(ErrorKind::Io, "the disk does not write");
    drop(log.failure.tell(error, StorageIOError::write_state_machine));
    assert_eq!(log.drop_until(id(30)).await.unwrap_err().kind(), ErrorKind::Io);
}

#[tokio::test]
async fn a_leader_that_was_started_again_does_not_lead() {
    let storage = ten().await;
    let (own, other) = (Node::of(PeerId::random()), Node::of(PeerId::random()));
    let vote = Vote::new_committed(3, own);
    log_on(&storage).await.save_vote(&vote).await.unwrap();
    let mut log = LogStore { node: other, ..log_on(&storage).await };
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    log.node = own;
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote { committed: false, ..vote }));
}

/// A log on a disk that takes a second for everything.
async fn slow() -> (Arc<FaultyStorage>, LogStore) {
    let faulty = Arc::new(FaultyStorage::new(ten().await));
    let storage: Arc<dyn Storage> = faulty.clone();
    let log = log_on(&storage).await;
    faulty.slow(Duration::from_secs(1));
    (faulty, log)
}

#[tokio::test(start_paused = true)]
async fn entries_can_be_sent_before_they_are_on_disk_and_nobody_answers_for_them_until_then() {
    let (_, log) = slow().await;
    let began = tokio::time::Instant::now();
    log.take_in(vec![entry(10, 1)]).await.unwrap();
    tokio::task::yield_now().await;
    log.take_in(vec![entry(11, 1)]).await.unwrap();
    log.take_in(vec![entry(12, 1)]).await.unwrap();
    assert_eq!(log.last(), Some(id(12)));
    assert_eq!(indexes(&log.entries(10, 13, false).await.unwrap()), [10, 11, 12]);
    assert_eq!(log.written(), Some(id(9)));
    log.until_safe(Some(id(9))).await.unwrap();
    assert!(began.elapsed().is_zero(), "somebody waited for the disk: {:?}", began.elapsed());
    log.until_written(10).await.unwrap();
    assert_eq!((log.written(), began.elapsed()), (Some(id(10)), Duration::from_secs(1)));
    // What is on disk is read from there, what is not is not.
    assert_eq!(indexes(&log.entries(8, 13, true).await.unwrap()), [8, 9, 10, 11, 12]);
    // What gathered meanwhile is one write.
    log.until_safe(Some(id(12))).await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    log.until_written(12).await.unwrap();
    assert_eq!(log.written(), Some(id(12)));
    assert_eq!(began.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn what_is_noted_of_the_log_comes_to_the_disk_after_the_log() {
    let vote = Vote::new(2, Node::default());
    for step in 0..3 {
        let (faulty, mut log) = slow().await;
        set_applied(&*faulty, 10);
        log.take_in(vec![entry(10, 1)]).await.unwrap();
        match step {
            0 => log.cut(11).await.unwrap(),
            1 => log.save_vote(&vote).await.unwrap(),
            _ => log.drop_until(id(3)).await.unwrap(),
        }
        assert_eq!(log.written(), Some(id(10)), "step {step}");
    }
    let (faulty, log) = slow().await;
    log.take_in(vec![entry(10, 1), entry(11, 1)]).await.unwrap();
    log.cut(10).await.unwrap();
    assert_eq!((log.last(), log.written()), (Some(id(9)), Some(id(9))));
    log.take_in(vec![entry(10, 2)]).await.unwrap();
    log.until_safe(Some(id(10))).await.unwrap();
    let storage: Arc<dyn Storage> = faulty.clone();
    assert_eq!(log_on(&storage).await.last(), Some(id(10)));
}

#[tokio::test(start_paused = true)]
async fn nobody_answers_for_entries_that_could_not_be_written() {
    let (faulty, log) = slow().await;
    log.take_in(vec![entry(10, 1)]).await.unwrap();
    faulty.fail(StorageCall::Write, 0, Error::new(ErrorKind::StorageFull, "no space left on device"));
    log.take_in(vec![entry(11, 1)]).await.unwrap();
    for answered in [log.until_safe(Some(id(10))).await, log.until_written(10).await] {
        assert_eq!(answered.unwrap_err().kind(), ErrorKind::StorageFull);
    }
    faulty.heal();
    let error = log.take_in(vec![entry(12, 1)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "there would be a gap: {error}");
    assert_eq!(log.failed().map(|error| error.kind()), Some(ErrorKind::StorageFull));
    let storage: Arc<dyn Storage> = faulty.clone();
    assert_eq!(log_on(&storage).await.last(), Some(id(9)));
}

#[tokio::test(start_paused = true)]
async fn what_others_agreed_on_before_it_is_on_disk_here_is_not_said_to_be_in_the_log() {
    let (faulty, mut log) = slow().await;
    log.take_in(vec![entry(10, 1)]).await.unwrap();
    // Two others have the next one, which waits for this disk.
    log.save_committed(Some(id(11))).await.unwrap();
    log.until_all_written().await.unwrap();
    let storage: Arc<dyn Storage> = faulty.clone();
    assert_eq!(log_on(&storage).await.committed(), Some(id(10)));
}
