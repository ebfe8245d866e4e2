//! A connector: one peer, two IPFS daemons.
//!
//! The cluster talks to one daemon, so a connector to two of them has to behave like one. For each method the question is
//! what the answer of one daemon is worth alone:
//!
//! | needs both | one is enough |
//! |---|---|
//! | `ready`, `id`, `pin`, `unpin`, `is_pinned`, `list_pins`, `put_blocks`, `hold`, `release`, `repo_gc`, `swarm_connect` | `get_block`, `resolve` |
//!
//! So the peer reports `pinned` only when both daemons hold the content. A daemon that loses a pin shows at the next sync
//! as `unexpectedly_unpinned`, and recovering pins it again where it is missing: the other daemon answers at once.

use std::collections::BTreeSet;
use std::future::ready;
use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;
use futures::channel::mpsc;
use futures::future::{join, select_ok, try_join};
use futures::stream::{self, BoxStream};
use futures::{SinkExt as _, StreamExt as _, TryStreamExt as _};
use ipfs_cluster::ipfs_connector::{Availability, IpfsConnector, IpfsPin};
use ipfs_cluster::types::{Block, Cid, IpfsId, Multiaddr, PeerId, Pin, PinMode, RepoGcKey, RepoStat};
use ipfs_cluster::{Error, ErrorKind, Result};
use multihash_codetable::{Code, MultihashDigest as _};

/// Blocks that the quicker daemon may be ahead of the slower one.
const BLOCKS_AHEAD_MAX: usize = 8;

/// Pins of one mode that the second daemon may list. A comparison needs 16 bytes of memory for each.
const LISTED_PINS_MAX: usize = 1 << 24;

/// Two IPFS daemons that hold the same pins and look like one.
///
/// Anything can be mirrored, another `MirroredIpfs` included. Who it is and how full it is, is what the first daemon and
/// the fuller daemon say.
#[derive(Clone, Debug)]
pub struct MirroredIpfs {
    first: Arc<dyn IpfsConnector>,
    second: Arc<dyn IpfsConnector>,
}

impl MirroredIpfs {
    /// Takes two connectors, and shuts both down when it is shut down.
    pub fn new(first: impl IpfsConnector, second: impl IpfsConnector) -> Self {
        Self { first: Arc::new(first), second: Arc::new(second) }
    }
}

#[async_trait]
impl IpfsConnector for MirroredIpfs {
    async fn ready(&self) -> Result<()> {
        // An error says that it will never be: no reason to go on waiting for the other.
        try_join(self.first.ready(), self.second.ready()).await.map(drop)
    }

    async fn id(&self) -> Result<IpfsId> {
        let (mut id, second) = both(join(self.first.id(), self.second.id()).await)?;
        // Other daemons are told where both can be reached.
        id.addresses.get_or_insert_default().extend(second.addresses.into_iter().flatten());
        Ok(id)
    }

    async fn pin(&self, pin: &Pin) -> Result<()> {
        // Both are waited for, also when one has failed: what the other has then need not be fetched again. Dropping this
        // call drops both.
        both(join(self.first.pin(pin), self.second.pin(pin)).await).map(drop)
    }

    async fn unpin(&self, cid: &Cid) -> Result<()> {
        both(join(self.first.unpin(cid), self.second.unpin(cid)).await).map(drop)
    }

    async fn is_pinned(&self, cid: &Cid, mode: PinMode) -> Result<bool> {
        let (first, second) =
            both(join(self.first.is_pinned(cid, mode), self.second.is_pinned(cid, mode)).await)?;
        Ok(first && second)
    }

    fn list_pins(&self, mode: PinMode) -> BoxStream<'static, Result<Vec<IpfsPin>>> {
        // Daemons list in any order, so one listing has to be known before the other can be compared with it.
        let (first, second) = (Arc::clone(&self.first), Arc::clone(&self.second));
        let in_both = async move {
            let held = Arc::new(Held::read(second.list_pins(mode)).await?);
            let pages = first.list_pins(mode).map_err(|error| error.context(FIRST));
            Ok(pages.try_filter_map(move |mut page| {
                page.retain(|pin| held.contains(&pin.cid));
                // A page has at least one pin.
                ready(Ok((!page.is_empty()).then_some(page)))
            }))
        };
        stream::once(in_both).try_flatten().boxed()
    }

    fn pin_concurrency(&self) -> Option<NonZeroUsize> {
        // Every pin is work for both.
        self.first.pin_concurrency().into_iter().chain(self.second.pin_concurrency()).min()
    }

    async fn repo_stat(&self) -> Result<RepoStat> {
        let (first, second) = both(join(self.first.repo_stat(), self.second.repo_stat()).await)?;
        // There is room for what fits into both.
        Ok(if first.free_bytes() <= second.free_bytes() { first } else { second })
    }

    fn repo_gc(&self) -> BoxStream<'static, Result<RepoGcKey>> {
        // A block that both remove is named twice: it was removed twice.
        let removed = self.first.repo_gc().chain(self.second.repo_gc());
        // No item comes after an error, so a failed first collection is not followed by a second.
        removed
            .scan(false, |failed, item| {
                let item = (!*failed).then_some(item);
                *failed = matches!(item, Some(Err(_)));
                ready(item)
            })
            .boxed()
    }

    async fn resolve(&self, path: &str) -> Result<Cid> {
        select_ok([self.first.resolve(path), self.second.resolve(path)]).await.map(|(cid, _)| cid)
    }

    async fn put_blocks(&self, mut blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
        let (mut to_first, for_first) = mpsc::channel(BLOCKS_AHEAD_MAX);
        let (mut to_second, for_second) = mpsc::channel(BLOCKS_AHEAD_MAX);
        let feed = async move {
            while let Some(block) = blocks.next().await {
                let failure = block.as_ref().err().cloned();
                // A daemon that gave up takes no more; what it says of that is the answer.
                let taken = to_first.send(block.clone()).await.and(to_second.send(block).await);
                match (failure, taken) {
                    (Some(failure), _) => return Err(failure),
                    (None, Err(_)) => return Ok(()),
                    (None, Ok(())) => {}
                }
            }
            Ok(())
        };
        let put = join(self.first.put_blocks(for_first.boxed()), self.second.put_blocks(for_second.boxed()));
        let (fed, put) = join(feed, put).await;
        // Who streams blocks hears its own error as it was, not what two daemons make of it.
        fed.and(both(put).map(drop))
    }

    async fn hold(&self, lease: Block) -> Result<()> {
        both(join(self.first.hold(lease.clone()), self.second.hold(lease)).await).map(drop)
    }

    async fn release(&self, leases: &[Cid]) -> Result<()> {
        both(join(self.first.release(leases), self.second.release(leases)).await).map(drop)
    }

    async fn get_block(&self, cid: &Cid) -> Result<Block> {
        select_ok([self.first.get_block(cid), self.second.get_block(cid)]).await.map(|(block, _)| block)
    }

    async fn swarm_peers(&self) -> Result<Vec<PeerId>> {
        let (first, second) = both(join(self.first.swarm_peers(), self.second.swarm_peers()).await)?;
        let peers: BTreeSet<PeerId> = first.into_iter().chain(second).collect();
        Ok(peers.into_iter().collect())
    }

    async fn swarm_connect(&self, address: &Multiaddr) -> Result<()> {
        both(join(self.first.swarm_connect(address), self.second.swarm_connect(address)).await).map(drop)
    }

    fn availability(&self) -> BoxStream<'static, Availability> {
        let first = self.first.availability().map(|now| (0, now));
        let second = self.second.availability().map(|now| (1, now));
        stream::select(first, second)
            .scan(Known::default(), |known, (daemon, now)| ready(Some(known.learn(daemon, now))))
            .filter_map(ready)
            .boxed()
    }

    async fn shutdown(&self) -> Result<()> {
        both(join(self.first.shutdown(), self.second.shutdown()).await).map(drop)
    }
}

const FIRST: &str = "first IPFS daemon";
const SECOND: &str = "second IPFS daemon";

/// Both answers, or the first error, which says whose it is.
fn both<T>((first, second): (Result<T>, Result<T>)) -> Result<(T, T)> {
    let first = first.map_err(|error| error.context(FIRST))?;
    let second = second.map_err(|error| error.context(SECOND))?;
    Ok((first, second))
}

/// What a daemon listed, in 16 bytes a pin.
struct Held(Vec<[u8; 16]>);

impl Held {
    async fn read(mut pages: BoxStream<'static, Result<Vec<IpfsPin>>>) -> Result<Self> {
        let mut held = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| error.context(SECOND))?;
            held.extend(page.iter().map(|pin| Self::key(&pin.cid)));
            if held.len() > LISTED_PINS_MAX {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("{SECOND} lists more than the {LISTED_PINS_MAX} pins that can be compared"),
                )
                .component("mirrored-ipfs"));
            }
        }
        held.sort_unstable();
        Ok(Self(held))
    }

    fn contains(&self, cid: &Cid) -> bool {
        self.0.binary_search(&Self::key(cid)).is_ok()
    }

    /// Hashed once more: the bytes of a CID are chosen by whoever made the content, and may well begin alike.
    fn key(cid: &Cid) -> [u8; 16] {
        let digest = Code::Sha2_256.digest(&cid.to_bytes());
        let mut key = [0; 16];
        for (to, from) in key.iter_mut().zip(digest.digest()) {
            *to = *from;
        }
        key
    }
}

/// What was last said of each daemon, and whether we told the world that both are up.
#[derive(Default)]
struct Known {
    daemons: [Option<Availability>; 2],
    told_up: bool,
}

impl Known {
    /// What to tell the world now.
    fn learn(&mut self, daemon: usize, now: Availability) -> Option<Availability> {
        self.daemons[daemon] = Some(now);
        let told_up = std::mem::take(&mut self.told_up);
        for (known, name) in self.daemons.iter().zip([FIRST, SECOND]) {
            if let Some(Availability::Down(error)) = known {
                return Some(Availability::Down(error.clone().context(name)));
            }
        }
        self.told_up = self.daemons.iter().all(Option::is_some);
        (self.told_up && !told_up).then_some(Availability::Up)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ipfs_cluster::Cluster;
    use ipfs_cluster::cluster::{Scope, Until, presets};
    use ipfs_cluster::ipfs_connector::{MemoryIpfs, MemoryIpfsConfig, sample_file};
    use ipfs_cluster::testing::faulty_ipfs::FaultyIpfs;
    use ipfs_cluster::testing::ipfs_suite;
    use ipfs_cluster::types::{PinOptions, TrackerStatus};

    use super::*;

    /// Two daemons, numbered so that they have ids of their own.
    fn daemons(timeout: Duration) -> [MemoryIpfs; 2] {
        [1, 2].map(|number| {
            MemoryIpfs::with_config(MemoryIpfsConfig {
                number,
                pin_timeout: timeout,
                request_timeout: timeout,
                ..MemoryIpfsConfig::default()
            })
        })
    }

    struct Mirrored;

    #[async_trait]
    impl ipfs_suite::Fixture for Mirrored {
        type Guard = ();

        async fn connector(&self) -> ((), Arc<dyn IpfsConnector>) {
            let [first, second] = daemons(Duration::from_millis(300));
            ((), Arc::new(MirroredIpfs::new(first, second)))
        }

        async fn wait_idle(&self, (): &()) {
            // The daemons in memory do nothing on their own.
        }

        fn resolves_names(&self) -> bool {
            true
        }
    }

    ipfs_cluster::ipfs_conformance!(mirrored_ipfs, Mirrored);

    async fn peer(ipfs: MirroredIpfs) -> Cluster {
        Cluster::builder().preset(presets::InMemory).ipfs(ipfs).start().await.unwrap()
    }

    async fn status(cluster: &Cluster, cid: &Cid) -> TrackerStatus {
        cluster.status(cid, Scope::Local).await.unwrap().peer_map[&cluster.peer_id()].status
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_reports_pinned_only_when_both_daemons_hold_it() {
        let [first, second] = daemons(Duration::from_secs(600));
        let cluster = peer(MirroredIpfs::new(first.clone(), second.clone())).await;
        let cid = first.add_sample("only the first has it");
        cluster.pin(cid, PinOptions::default()).await.unwrap();
        while !first.is_pinned(&cid, PinMode::Recursive).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(status(&cluster, &cid).await, TrackerStatus::Pinning);
        second.add_sample("only the first has it");
        cluster.wait(cid).until(Until::PinnedEverywhere).await.unwrap();
        assert!(second.is_pinned(&cid, PinMode::Recursive).await.unwrap());
        cluster.unpin(&cid).await.unwrap();
        cluster.wait(cid).until(Until::Gone).await.unwrap();
        for daemon in [first, second] {
            assert!(!daemon.is_pinned(&cid, PinMode::Recursive).await.unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pin_that_one_daemon_lost_is_seen_and_pinned_again() {
        let daemons = daemons(Duration::from_secs(600));
        let cluster = peer(MirroredIpfs::new(daemons[0].clone(), daemons[1].clone())).await;
        for lost in daemons.clone() {
            let cid = daemons.each_ref().map(|daemon| daemon.add_sample("content"))[0];
            cluster.pin(cid, PinOptions::default()).await.unwrap();
            cluster.wait(cid).until(Until::PinnedEverywhere).await.unwrap();
            lost.unpin(&cid).await.unwrap();
            let changed: Vec<_> = cluster.sync_all(Scope::Local).try_concat().await.unwrap();
            assert_eq!(changed.len(), 1, "the comparison of both listings shows it");
            assert_eq!(status(&cluster, &cid).await, TrackerStatus::UnexpectedlyUnpinned);
            cluster.recover(&cid, Scope::Local).await.unwrap();
            cluster.wait(cid).until(Until::PinnedEverywhere).past_errors().await.unwrap();
            assert!(lost.is_pinned(&cid, PinMode::Recursive).await.unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_daemon_that_is_down_is_named_and_does_not_hold_up_the_other() {
        let [first, second] = daemons(Duration::from_secs(600));
        let second = FaultyIpfs::new(second);
        let ipfs = MirroredIpfs::new(first.clone(), second.clone());
        let mut availability = ipfs.availability();
        assert!(matches!(availability.next().await, Some(Availability::Up)));
        second.down("no answer");
        let told = availability.next().await;
        let Some(Availability::Down(error)) = told else { panic!("{told:?} while one is down") };
        assert_eq!(error.message(), "second IPFS daemon: no answer");

        let cid = first.add_sample("content");
        let error = ipfs.pin(&Pin::new(cid, PinOptions::default())).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.message()),
            (ErrorKind::Unavailable, "second IPFS daemon: no answer")
        );
        assert!(first.is_pinned(&cid, PinMode::Recursive).await.unwrap());
        assert!(ipfs.get_block(&cid).await.is_ok(), "reading needs only one");
        second.up();
        assert!(matches!(availability.next().await, Some(Availability::Up)));
    }

    #[tokio::test(start_paused = true)]
    async fn blocks_reach_both_daemons_whichever_is_slower() {
        let [first, second] = daemons(Duration::from_secs(600));
        for slow_first in [true, false] {
            let slow = FaultyIpfs::new(if slow_first { first.clone() } else { second.clone() });
            slow.slow(ipfs_cluster::testing::faulty_ipfs::IpfsCall::PutBlocks, Duration::from_secs(5));
            let ipfs = if slow_first {
                MirroredIpfs::new(slow, second.clone())
            } else {
                MirroredIpfs::new(first.clone(), slow)
            };
            let blocks: Vec<Block> =
                (0..100u8).map(|number| Block::raw(vec![number, u8::from(slow_first)])).collect();
            ipfs.put_blocks(stream::iter(blocks.clone()).map(Ok).boxed()).await.unwrap();
            for block in blocks {
                assert!(first.has_block(&block.cid) && second.has_block(&block.cid));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_room_for_what_fits_into_both() {
        let [first, second] = daemons(Duration::from_secs(600));
        let ipfs = MirroredIpfs::new(first.clone(), second.clone());
        let empty = ipfs.repo_stat().await.unwrap().free_bytes();
        for (daemon, bytes) in [(&second, 1000), (&first, 5000)] {
            for block in sample_file(vec![0; bytes]).1 {
                daemon.put(block).unwrap();
            }
            assert_eq!(empty - ipfs.repo_stat().await.unwrap().free_bytes(), bytes as u64);
        }
    }
}
