//! Putting a list that comes in any order into order: in memory while it is short, else in a temporary file.
//!
//! Peers of the reference list their pins in the order of their stores. Of all listings of a peer one at a time may
//! have temporary files, and they take at most [`SPOOL_BYTES_MAX`].

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, ErrorKind, Result};
use crate::rpc;
use crate::state::sort::{Sorted, Sorter};
use crate::storage::{self, Storage};
use crate::tracker::key::CidKey;
use crate::types::{PeerId, PinInfo};

/// Most bytes of the lists of one listing.
pub(super) const SPOOL_BYTES_MAX: u64 = 1 << 30;
/// Bytes of one list that are sorted in memory; more goes to a file in runs of this size.
const RUN_BYTES_MAX: usize = 8 << 20;
/// How long one listing waits for another to be done with its files.
const ROOM_TIMEOUT: Duration = Duration::from_secs(15);
/// Items in one page of a sorted list.
const PAGE_ITEMS: usize = 1024;

/// What all listings of one peer share.
#[derive(Clone, Debug)]
pub(super) struct SpoolRoom {
    storage: Arc<dyn Storage>,
    folder: PathBuf,
    files: Arc<Semaphore>,
}

impl SpoolRoom {
    /// Files go to the system's folder for temporary files. On a store that never blocks there are none, and lists stay
    /// in memory within the same limit.
    pub(super) fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, folder: std::env::temp_dir(), files: Arc::new(Semaphore::new(1)) }
    }

    /// The lists of one listing.
    pub(super) fn listing(&self) -> Arc<Spools> {
        Arc::new(Spools {
            room: self.clone(),
            permit: OnceCell::new(),
            bytes: AtomicU64::new(0),
            bytes_max: SPOOL_BYTES_MAX,
            run_bytes_max: RUN_BYTES_MAX,
        })
    }
}

/// The lists of one listing, which share files and their limit.
#[derive(Debug)]
pub(super) struct Spools {
    room: SpoolRoom,
    /// Held from the first file to the end of the listing.
    permit: OnceCell<OwnedSemaphorePermit>,
    bytes: AtomicU64,
    bytes_max: u64,
    run_bytes_max: usize,
}

impl Spools {
    /// The same items in ascending order of the binary CID, of equal ones the last, once all have come. An error of
    /// the list is all there is: what came before it cannot be told from what is missing.
    pub(super) fn sorted(
        self: &Arc<Self>,
        peer: PeerId,
        unsorted: BoxStream<'static, Result<Vec<PinInfo>>>,
    ) -> BoxStream<'static, Result<Vec<PinInfo>>> {
        let spools = Arc::clone(self);
        let stream = async_stream::stream! {
            let mut sorted = match spools.fill(peer, unsorted).await {
                Ok(sorted) => sorted,
                Err(error) => {
                    yield Err(error);
                    return;
                }
            };
            loop {
                let page = spools.run(move || {
                    let items = sorted.by_ref().take(PAGE_ITEMS);
                    let page = items.map(|item| decode(&peer, &item?.1)).collect::<Result<Vec<_>>>()?;
                    Ok((page, sorted))
                });
                match page.await {
                    Ok((page, rest)) => {
                        if page.is_empty() {
                            return;
                        }
                        sorted = rest;
                        yield Ok(page);
                    }
                    Err(error) => {
                        yield Err(error);
                        return;
                    }
                }
            }
        };
        stream.boxed()
    }

    async fn fill(
        &self,
        peer: PeerId,
        mut unsorted: BoxStream<'static, Result<Vec<PinInfo>>>,
    ) -> Result<Sorted> {
        let to_disk = self.room.storage.blocks();
        let mut sorter = if to_disk {
            Sorter::on_disk(&self.room.folder, self.run_bytes_max)
        } else {
            Sorter::in_memory()
        };
        let mut own_bytes = 0;
        while let Some(page) = unsorted.next().await {
            let records: Vec<_> = page?.iter().map(encode).collect();
            let bytes: usize = records.iter().map(|(key, record)| key.as_bytes().len() + record.len()).sum();
            own_bytes += bytes;
            let all = self.bytes.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
            if all > self.bytes_max {
                return Err(Error::new(
                    ErrorKind::QueueFull,
                    format!(
                        "the lists of peers that do not sort them take more than {} bytes; ask for single pins, or with a filter",
                        self.bytes_max
                    ),
                )
                .component("cluster"));
            }
            // The sorter counts a little more for each entry than its bytes.
            if to_disk && own_bytes >= self.run_bytes_max / 2 {
                self.permit().await?;
            }
            let push = move || {
                for (key, record) in &records {
                    sorter.push(key.as_bytes(), record)?;
                }
                Ok(sorter)
            };
            sorter = self.run(push).await?;
        }
        tracing::debug!(%peer, bytes = own_bytes, "put a list in order");
        self.run(move || sorter.into_sorted()).await
    }

    async fn permit(&self) -> Result<()> {
        let acquire = async {
            let waited =
                tokio::time::timeout(ROOM_TIMEOUT, Arc::clone(&self.room.files).acquire_owned()).await;
            waited.ok().and_then(Result::ok).ok_or_else(|| {
                Error::new(ErrorKind::QueueFull, "another listing is being sorted: try again when it is done")
                    .component("cluster")
            })
        };
        self.permit.get_or_try_init(|| acquire).await.map(|_| ())
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        storage::run(Arc::clone(&self.room.storage), |_| work()).await
    }
}

/// An item in a file, as it travels between peers.
fn encode(info: &PinInfo) -> (CidKey, Bytes) {
    (CidKey::from(&info.cid), rpc::encode_pin_info(info))
}

fn decode(peer: &PeerId, item: &Bytes) -> Result<PinInfo> {
    rpc::decode_pin_info(item, *peer)
        .map_err(|error| error.context("an item of a temporary file is damaged").component("cluster"))
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;
    use crate::storage::MemoryStorage;
    use crate::types::{Block, PinStatus, Timestamp, TrackerStatus, parse_multiaddr};

    /// A store that counts as one that blocks, so that files are used.
    #[derive(Debug, Default)]
    struct Blocking(MemoryStorage);

    impl Storage for Blocking {
        fn get(&self, space: storage::Space, key: &[u8]) -> Result<Option<bytes::Bytes>> {
            self.0.get(space, key)
        }
        fn write(&self, batch: storage::Batch, durability: storage::Durability) -> Result<()> {
            self.0.write(batch, durability)
        }
        fn snapshot(&self) -> Result<Arc<dyn storage::Snapshot>> {
            self.0.snapshot()
        }
        fn bulk_load(
            &self,
            space: storage::Space,
            entries: &mut dyn Iterator<Item = Result<(bytes::Bytes, bytes::Bytes)>>,
        ) -> Result<u64> {
            self.0.bulk_load(space, entries)
        }
        fn remove_space(&self, space: storage::Space) -> Result<()> {
            self.0.remove_space(space)
        }
        fn approximate_bytes(&self) -> Result<u64> {
            self.0.approximate_bytes()
        }
        fn blocks(&self) -> bool {
            true
        }
        fn close(&self) -> Result<()> {
            self.0.close()
        }
    }

    fn room(storage: impl Storage) -> SpoolRoom {
        SpoolRoom::new(Arc::new(storage))
    }

    /// A listing with these limits.
    fn listing(room: &SpoolRoom, run_bytes_max: usize, bytes_max: u64) -> Arc<Spools> {
        let bytes = AtomicU64::new(0);
        Arc::new(Spools { room: room.clone(), permit: OnceCell::new(), bytes, bytes_max, run_bytes_max })
    }

    fn info(peer: PeerId, number: u32) -> PinInfo {
        let at = Timestamp::from_unix_seconds(-7) + Duration::from_nanos(3);
        let mut status = PinStatus::new(TrackerStatus::PinError, at);
        status.peername = "peer".into();
        status.error = "why".into();
        status.ipfs_peer_id = Some(peer);
        status.ipfs_peer_addresses = vec![parse_multiaddr("/ip4/1.2.3.4/tcp/4001").unwrap()];
        status.attempt_count = 3;
        status.priority_pin = true;
        let mut info = PinInfo::of_cid(Block::raw(number.to_be_bytes().to_vec()).cid, peer, status);
        info.name = format!("pin {number}");
        info.allocations = vec![peer];
        info.origins = info.status.ipfs_peer_addresses.clone();
        info.created = Some(Timestamp::from_unix_seconds(1_700_000_000));
        info.metadata.insert("key".into(), "value".into());
        info
    }

    fn pages(infos: &[PinInfo]) -> BoxStream<'static, Result<Vec<PinInfo>>> {
        stream::iter(infos.chunks(100).map(|page| Ok(page.to_vec())).collect::<Vec<_>>()).boxed()
    }

    #[tokio::test]
    async fn a_list_in_any_order_comes_whole_and_in_order_from_memory_and_from_files() {
        let peer = PeerId::random();
        let infos: Vec<_> = (0..2_500).map(|number| info(peer, number)).collect();
        let mut expected = infos.clone();
        expected.sort_by_key(|info| CidKey::from(&info.cid));
        for spools in [
            listing(&room(Blocking::default()), RUN_BYTES_MAX, SPOOL_BYTES_MAX),
            listing(&room(Blocking::default()), 4_096, SPOOL_BYTES_MAX),
            room(MemoryStorage::new()).listing(),
        ] {
            let sorted: Vec<_> = spools.sorted(peer, pages(&infos)).map(|page| page.unwrap()).concat().await;
            assert_eq!(sorted.len(), expected.len());
            assert_eq!(sorted, expected);
        }
    }

    #[tokio::test]
    async fn lists_over_the_limit_and_lists_that_break_off_are_errors() {
        let peer = PeerId::random();
        let infos: Vec<_> = (0..200).map(|number| info(peer, number)).collect();
        let spools = listing(&room(Blocking::default()), 1_000, 30_000);
        let first: Vec<_> = spools.sorted(peer, pages(&infos[..50])).collect().await;
        assert!(matches!(&first[..], [Ok(page)] if page.len() == 50));
        let all: Vec<_> = spools.sorted(peer, pages(&infos)).collect().await;
        assert!(matches!(&all[..], [Err(error)] if error.kind() == ErrorKind::QueueFull), "{all:?}");
        let broken = pages(&infos).chain(stream::iter([Err(Error::not_found("gone"))])).boxed();
        let spools = listing(&room(Blocking::default()), 1_000, SPOOL_BYTES_MAX);
        let broken: Vec<_> = spools.sorted(peer, broken).collect().await;
        assert!(matches!(&broken[..], [Err(error)] if error.kind() == ErrorKind::NotFound), "{broken:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_listing_at_a_time_has_files_and_short_lists_need_none() {
        let peer = PeerId::random();
        let infos: Vec<_> = (0..200).map(|number| info(peer, number)).collect();
        let room = room(MemoryStorage::new());
        let held = listing(&room, 1_000, SPOOL_BYTES_MAX);
        held.permit().await.unwrap();
        held.permit().await.unwrap();
        let other = listing(&room, 1_000, SPOOL_BYTES_MAX);
        assert_eq!(other.permit().await.unwrap_err().kind(), ErrorKind::QueueFull);
        let short: Vec<_> = other.sorted(peer, pages(&infos[..1])).collect().await;
        assert!(short[0].is_ok());
        drop(held);
        other.permit().await.unwrap();
    }
}
