//! Noting leases before they are made: those that wait share one sync of the disk.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Mutex as Turn, oneshot};

use super::{Held, StreamKey, records};
use crate::error::Result;
use crate::storage::{self, Storage};

/// Leases that are to be noted. As many as are being made, of all streams.
#[derive(Debug, Default)]
pub(super) struct Notes {
    waiting: Mutex<Vec<Note>>,
    /// Whoever has it writes for all that wait.
    turn: Turn<()>,
}

#[derive(Debug)]
struct Note {
    stream: StreamKey,
    lease: Held,
    done: oneshot::Sender<Result<()>>,
}

impl Notes {
    /// Ok when it is on disk. Dropping it leaves open whether it is noted.
    pub(super) async fn put(&self, storage: &Arc<dyn Storage>, stream: StreamKey, lease: Held) -> Result<()> {
        loop {
            let (done, mut told) = oneshot::channel();
            self.waiting().push(Note { stream, lease: lease.clone(), done });
            let _turn = self.turn.lock().await;
            match told.try_recv() {
                Ok(written) => return written,
                // Who wrote it was dropped meanwhile.
                Err(TryRecvError::Closed) => continue,
                Err(TryRecvError::Empty) => {}
            }
            let mut notes = std::mem::take(&mut *self.waiting());
            notes.retain(|note| !note.done.is_closed());
            let leases: Vec<_> = notes.iter().map(|note| (note.stream, note.lease.clone())).collect();
            let write = move |storage: &dyn Storage| records::put_leases(storage, &leases);
            let written = storage::run(Arc::clone(storage), write).await;
            for note in notes {
                // One that has stopped to wait does not mind.
                let _ = note.done.send(written.clone());
            }
            return written;
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Note>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use futures::future::join_all;

    use super::*;
    use crate::error::Error;
    use crate::storage::MemoryStorage;
    use crate::testing::faulty_storage::{FaultyStorage, StorageCall};
    use crate::types::{Block, Timestamp};

    fn lease(number: u32) -> (StreamKey, Held) {
        let cid = Block::raw(number.to_string()).cid;
        let stream = StreamKey::new(Timestamp::from_unix_seconds(1_700_000_000), (number % 3).into());
        (stream, Held { number, cid, blocks: 1, bytes: 2 })
    }

    #[tokio::test]
    async fn leases_that_wait_share_one_write_and_its_answer() {
        let faulty = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
        let storage: Arc<dyn Storage> = faulty.clone();
        let notes = Notes::default();
        let put = |number| {
            let (stream, lease) = lease(number);
            notes.put(&storage, stream, lease)
        };
        let turn = notes.turn.lock().await;
        let waiting = async { join_all((0..6).map(put)).await };
        let release = async {
            while notes.waiting().len() < 6 {
                tokio::task::yield_now().await;
            }
            drop(turn);
        };
        let (written, ()) = futures::join!(waiting, release);
        assert!(written.iter().all(Result::is_ok), "{written:?}");
        assert_eq!(faulty.calls(StorageCall::Write), 1);
        let noted: usize = records::load(&*storage).unwrap().values().map(|stream| stream.leases.len()).sum();
        assert_eq!(noted, 6);
        faulty.fail(StorageCall::Write, 0, Error::internal("told to fail"));
        assert!(join_all((6..9).map(put)).await.iter().all(Result::is_err));
        faulty.heal();
        put(9).await.unwrap();
        assert!(notes.waiting().is_empty());
    }

    #[tokio::test]
    async fn who_is_dropped_takes_nobody_along() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let notes = Notes::default();
        let turn = notes.turn.lock().await;
        let (stream, gone) = lease(0);
        let mut dropped = Box::pin(notes.put(&storage, stream, gone));
        assert!(futures::poll!(&mut dropped).is_pending());
        let (stream, kept) = lease(1);
        let mut waits = Box::pin(notes.put(&storage, stream, kept));
        assert!(futures::poll!(&mut waits).is_pending());
        drop(dropped);
        drop(turn);
        waits.await.unwrap();
        let noted = records::load(&*storage).unwrap();
        assert_eq!(noted.values().map(|stream| stream.leases.len()).sum::<usize>(), 1);
    }
}
