//! The DAG in the peer's store: [`Ledger`] over the committer, and the blocks that others may have.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::commit::Work;
use super::heads::Heads;
use super::key;
use super::ledger::{Branch, Head, HeadChange, Ledger};
use super::node::Node;
use super::records::{self, BLOCKS, META, META_DIRTY, META_PROGRESS};
use crate::consensus::group::Desk;
use crate::error::Result;
use crate::exchange::BlockSource;
use crate::state::StateChange;
use crate::storage::{self, Batch, Storage};
use crate::types::Cid;

/// Up to so many blocks are looked up where the question is asked. A walk asks at every step of its way, and a question that
/// is handed to another thread comes back much later than it takes to answer; the exchange looks for the same blocks in
/// the same way.
const LOOK_UP_AT_ONCE: usize = 64;

/// The ledger of a running component. A handle; it does not keep the component alive.
#[derive(Clone, Debug)]
pub(super) struct StoreLedger {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) heads: Heads,
    pub(super) desk: Desk<Work, Vec<StateChange>>,
}

impl StoreLedger {
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Storage) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.desk.check_open()?;
        storage::run(self.storage.clone(), read).await
    }

    async fn write(&self, batch: Batch) -> Result<()> {
        self.desk.call(Work::Write(batch)).await.map(drop)
    }
}

#[async_trait]
impl Ledger for StoreLedger {
    fn heads(&self) -> Vec<Head> {
        self.heads.list()
    }

    async fn is_processed(&self, ids: &[Cid]) -> Result<Vec<bool>> {
        let digests: Vec<_> = ids.iter().map(key::block_digest).collect();
        let look_up = move |storage: &dyn Storage| {
            let is_processed = |digest: &Option<key::Digest>| match digest {
                None => Ok(false),
                Some(digest) => Ok(records::block_id(storage, digest)?.is_some_and(|id| id.is_processed)),
            };
            digests.iter().map(is_processed).collect()
        };
        if ids.len() <= LOOK_UP_AT_ONCE {
            self.desk.check_open()?;
            return look_up(&*self.storage);
        }
        self.read(look_up).await
    }

    async fn block(&self, cid: &Cid) -> Result<Option<Bytes>> {
        let Some(digest) = key::block_digest(cid) else { return Ok(None) };
        self.read(move |storage| storage.get(BLOCKS, &digest)).await
    }

    async fn merge_on_walks(
        &self,
        nodes: Vec<Node>,
        heads: HeadChange,
        walks: Option<Vec<Branch>>,
    ) -> Result<()> {
        self.desk.call(Work::Merge(nodes, heads, walks)).await.map(drop)
    }

    async fn dirty(&self) -> Result<bool> {
        self.read(|storage| Ok(storage.get(META, META_DIRTY)?.is_some())).await
    }

    async fn set_dirty(&self, dirty: bool) -> Result<()> {
        let mut batch = Batch::new();
        if dirty {
            batch.put(META, META_DIRTY, Bytes::new());
        } else {
            batch.delete(META, META_DIRTY);
        }
        self.write(batch).await
    }

    async fn progress(&self) -> Result<Vec<Branch>> {
        self.read(|storage| match storage.get(META, META_PROGRESS)? {
            Some(record) => records::decode_progress(&record),
            None => Ok(Vec::new()),
        })
        .await
    }

    async fn set_progress(&self, branches: Vec<Branch>) -> Result<()> {
        let mut batch = Batch::new();
        records::put_progress(&mut batch, branches)?;
        self.write(batch).await
    }
}

/// The blocks that others may have: all there are.
#[derive(Debug)]
pub(super) struct StoredBlocks(pub(super) Arc<dyn Storage>);

impl BlockSource for StoredBlocks {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>> {
        key::block_digest(cid).map_or(Ok(None), |digest| self.0.get(BLOCKS, &digest))
    }
}

#[cfg(all(test, feature = "storage-fjall"))]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::consensus::group;
    use crate::storage::{FjallConfig, FjallStorage};

    #[tokio::test]
    async fn what_a_few_blocks_link_to_is_looked_up_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> =
            Arc::new(FjallStorage::open(folder.path(), FjallConfig::default()).unwrap());
        assert!(storage.blocks());
        let (desk, _inbox) = group::desk("test", 1);
        let ledger = StoreLedger { storage: storage.clone(), heads: Heads::default(), desk };
        let few: Vec<Cid> = (0..LOOK_UP_AT_ONCE as u8).map(|number| key::block_cid(&[number; 32])).collect();
        let found = ledger.is_processed(&few).now_or_never();
        assert_eq!(found.unwrap().unwrap(), vec![false; few.len()]);
        let many = [few.clone(), few].concat();
        assert!(ledger.is_processed(&many).now_or_never().is_none());
        assert_eq!(ledger.is_processed(&many).await.unwrap(), vec![false; many.len()]);
        storage.close().unwrap();
    }
}
