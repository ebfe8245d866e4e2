//! Conformance suite of [`IpfsConnector`].
//!
//! Cases run on real time, because most connectors talk to a daemon over sockets: a fixture sets timeouts of at most
//! some seconds.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A case fails by panicking.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use multihash_codetable::{Code, MultihashDigest as _};

use crate::error::{Error, ErrorKind, Result};
use crate::ipfs_connector::{
    Availability, IpfsConnector, Reference, lease_block, sample_directory, sample_file,
    sample_file_with_chunks,
};
use crate::types::{AddLayout, Block, Cid, Pin, PinMode, PinOptions};

/// What the suite needs of an implementation.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// Keeps the daemon behind a connector alive, and cleans up.
    type Guard: Send + Sync;

    /// A connector to a daemon of its own that holds nothing (pins its set-up made are left alone). A pin without
    /// progress, and a read of a block that nobody has, give up within 5 s.
    async fn connector(&self) -> (Self::Guard, Arc<dyn IpfsConnector>);

    /// Returns once the daemon works on no request any more: what a dropped call leaves behind.
    async fn wait_idle(&self, guard: &Self::Guard);

    /// Whether paths with names (`/ipfs/<cid>/name`) can be resolved.
    fn resolves_names(&self) -> bool;
}

/// A fixture whose connectors stand behind one more `Arc`.
#[derive(Debug)]
pub struct Forwarded<F>(pub F);

#[async_trait]
impl<F: Fixture> Fixture for Forwarded<F> {
    type Guard = F::Guard;

    async fn connector(&self) -> (Self::Guard, Arc<dyn IpfsConnector>) {
        let (guard, connector) = self.0.connector().await;
        (guard, Arc::new(connector))
    }

    async fn wait_idle(&self, guard: &Self::Guard) {
        self.0.wait_idle(guard).await;
    }

    fn resolves_names(&self) -> bool {
        self.0.resolves_names()
    }
}

conformance_suite!(
    $ ipfs_suite,
    ipfs_conformance,
    run_case,
    [
        a_daemon_says_who_it_is,
        a_connector_is_up_once_ready,
        pinning_twice_is_ok,
        unpinning_what_is_not_pinned_is_ok,
        a_pin_has_the_mode_it_was_asked_for,
        a_recursive_pin_replaces_a_direct_one_and_refuses_it,
        an_indirect_pin_is_not_a_pin,
        a_pin_of_limited_depth_counts_as_recursive,
        an_update_keeps_the_old_pin,
        origins_that_do_not_answer_do_not_fail_a_pin,
        many_pins_at_a_time_all_succeed,
        missing_content_is_an_error_and_is_not_pinned,
        a_pin_that_is_dropped_is_not_finished_later,
        listings_are_complete_and_in_pages,
        blocks_come_back_as_they_were_put,
        no_blocks_are_put_without_error,
        a_damaged_block_is_refused,
        one_damaged_block_among_many_is_refused,
        an_error_among_the_blocks_fails_the_put,
        a_block_that_nobody_has_is_an_error,
        paths_resolve_to_what_they_name,
        a_path_that_is_none_is_invalid_input,
        disk_use_grows_with_blocks,
        garbage_collection_spares_what_is_pinned,
        garbage_collection_spares_what_is_held,
        a_collection_while_held_blocks_are_put_takes_none,
        holding_and_releasing_twice_is_ok,
        references_are_kept_or_never_taken,
        shutdown_ends_a_running_pin,
        calls_after_shutdown_are_refused,
    ]
);

/// Time in which whatever should happen has happened.
const PATIENCE: Duration = Duration::from_secs(60);

fn pin_of(cid: Cid, mode: PinMode) -> Pin {
    Pin::new(cid, PinOptions { mode, ..PinOptions::default() })
}

fn bytes_of(seed: u32, length: usize) -> Vec<u8> {
    // Xorshift: content that differs everywhere and is the same in every run.
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        })
        .collect()
}

async fn put(ipfs: &dyn IpfsConnector, blocks: Vec<Block>) {
    ipfs.put_blocks(stream::iter(blocks).map(Ok).boxed()).await.expect("good blocks are stored");
}

/// A file of one block, stored.
async fn stored_leaf(ipfs: &dyn IpfsConnector, seed: u32) -> Cid {
    let (cid, blocks) = sample_file(bytes_of(seed, 100));
    put(ipfs, blocks).await;
    cid
}

/// A file of a root and three leaves, stored; its blocks, the root last.
async fn stored_tree(ipfs: &dyn IpfsConnector, seed: u32) -> (Cid, Vec<Block>) {
    let (cid, blocks) = sample_file_with_chunks(bytes_of(seed, 3000), 1000);
    put(ipfs, blocks.clone()).await;
    (cid, blocks)
}

async fn listed(ipfs: &dyn IpfsConnector, mode: PinMode) -> Vec<Cid> {
    let mut cids = Vec::new();
    let mut pages = ipfs.list_pins(mode);
    while let Some(page) = pages.next().await {
        let page = page.expect("a listing of a healthy daemon");
        assert!((1..=1_024).contains(&page.len()), "a page of {} pins", page.len());
        assert!(page.iter().all(|pin| pin.mode == mode));
        cids.extend(page.iter().map(|pin| pin.cid));
    }
    cids
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not end within {PATIENCE:?}"),
    }
}

/// `ready` returns, and `id` names a peer.
pub async fn a_daemon_says_who_it_is(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    within("ready", ipfs.ready()).await.unwrap();
    let id = ipfs.id().await.unwrap();
    assert!(id.id.is_some());
    assert_eq!(id.error, "");
}

/// What is known comes first, without waiting for a change.
pub async fn a_connector_is_up_once_ready(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    within("ready", ipfs.ready()).await.unwrap();
    for _ in 0..2 {
        let first = within("the first item", ipfs.availability().next()).await;
        assert!(matches!(first, Some(Availability::Up)), "{first:?}");
    }
}

/// Recovery and repeated requests pin what is pinned already.
pub async fn pinning_twice_is_ok(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    for (seed, mode) in (1..).zip(PinMode::ALL) {
        let pin = pin_of(stored_leaf(&*ipfs, seed).await, mode);
        for _ in 0..2 {
            ipfs.pin(&pin).await.unwrap();
            assert!(ipfs.is_pinned(&pin.cid, mode).await.unwrap());
        }
    }
}

/// Unpin is idempotent, also for what was never there.
pub async fn unpinning_what_is_not_pinned_is_ok(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    ipfs.unpin(&Block::raw("never stored").cid).await.unwrap();
    let cid = stored_leaf(&*ipfs, 1).await;
    for mode in PinMode::ALL {
        ipfs.pin(&pin_of(cid, mode)).await.unwrap();
        for _ in 0..2 {
            ipfs.unpin(&cid).await.unwrap();
            assert!(!ipfs.is_pinned(&cid, mode).await.unwrap());
        }
    }
}

/// A pin of one mode is not one of the other.
pub async fn a_pin_has_the_mode_it_was_asked_for(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    for (seed, mode, other) in
        [(1, PinMode::Recursive, PinMode::Direct), (2, PinMode::Direct, PinMode::Recursive)]
    {
        let (cid, _) = stored_tree(&*ipfs, seed).await;
        assert!(!ipfs.is_pinned(&cid, mode).await.unwrap());
        ipfs.pin(&pin_of(cid, mode)).await.unwrap();
        assert!(ipfs.is_pinned(&cid, mode).await.unwrap());
        assert!(!ipfs.is_pinned(&cid, other).await.unwrap());
        assert!(listed(&*ipfs, mode).await.contains(&cid));
        assert!(!listed(&*ipfs, other).await.contains(&cid));
    }
}

/// The daemon keeps one pin for each CID; making it weaker needs an unpin first.
pub async fn a_recursive_pin_replaces_a_direct_one_and_refuses_it(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    let (cid, _) = stored_tree(&*ipfs, 1).await;
    ipfs.pin(&pin_of(cid, PinMode::Direct)).await.unwrap();
    ipfs.pin(&pin_of(cid, PinMode::Recursive)).await.unwrap();
    assert!(ipfs.is_pinned(&cid, PinMode::Recursive).await.unwrap());
    assert!(!ipfs.is_pinned(&cid, PinMode::Direct).await.unwrap());
    let error = ipfs.pin(&pin_of(cid, PinMode::Direct)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote, "{error:?}");
    assert!(error.message().contains("already pinned recursively"), "{error}");
    assert!(ipfs.is_pinned(&cid, PinMode::Recursive).await.unwrap());
}

/// What is kept only because something above it is pinned was not pinned by anybody.
pub async fn an_indirect_pin_is_not_a_pin(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    let (root, blocks) = stored_tree(&*ipfs, 1).await;
    ipfs.pin(&pin_of(root, PinMode::Recursive)).await.unwrap();
    let leaf = blocks[0].cid;
    for mode in PinMode::ALL {
        assert!(!ipfs.is_pinned(&leaf, mode).await.unwrap());
        assert!(!listed(&*ipfs, mode).await.contains(&leaf));
    }
    ipfs.unpin(&leaf).await.unwrap();
    assert!(ipfs.is_pinned(&root, PinMode::Recursive).await.unwrap());
}

/// Shards are pinned to a depth; the daemon lists them as recursive.
pub async fn a_pin_of_limited_depth_counts_as_recursive(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    let (cid, _) = stored_tree(&*ipfs, 1).await;
    let mut pin = pin_of(cid, PinMode::Recursive);
    pin.max_depth = 1;
    ipfs.pin(&pin).await.unwrap();
    assert!(ipfs.is_pinned(&cid, PinMode::Recursive).await.unwrap());
    assert!(!ipfs.is_pinned(&cid, PinMode::Direct).await.unwrap());
}

/// An update only helps the daemon; who no longer wants the old content unpins it.
pub async fn an_update_keeps_the_old_pin(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    let (old, _) = stored_tree(&*ipfs, 1).await;
    let (new, _) = stored_tree(&*ipfs, 2).await;
    let update = |from, to| {
        let mut pin = pin_of(to, PinMode::Recursive);
        pin.options.pin_update = Some(from);
        pin
    };
    ipfs.pin(&pin_of(old, PinMode::Recursive)).await.unwrap();
    ipfs.pin(&update(old, new)).await.unwrap();
    ipfs.pin(&update(old, new)).await.unwrap();
    for cid in [old, new] {
        assert!(ipfs.is_pinned(&cid, PinMode::Recursive).await.unwrap());
    }
    let from_unpinned = stored_leaf(&*ipfs, 3).await;
    ipfs.pin(&update(Block::raw("never stored").cid, from_unpinned)).await.unwrap();
    assert!(ipfs.is_pinned(&from_unpinned, PinMode::Recursive).await.unwrap());
}

/// Origins are hints.
pub async fn origins_that_do_not_answer_do_not_fail_a_pin(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    let mut pin = pin_of(stored_leaf(&*ipfs, 1).await, PinMode::Recursive);
    pin.options.origins = (1..=12)
        .map(|port| {
            let text =
                format!("/ip4/127.0.0.1/tcp/{port}/p2p/12D3KooWApga4bncThrVGQKb7k52uMR3amfGvaAZ8dm6jDN85nAj");
            text.parse().unwrap()
        })
        .collect();
    ipfs.pin(&pin).await.unwrap();
    assert!(ipfs.is_pinned(&pin.cid, PinMode::Recursive).await.unwrap());
}

/// More calls than a daemon works on at a time wait; they do not fail.
pub async fn many_pins_at_a_time_all_succeed(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    let blocks: Vec<Block> = (0..100u32).map(|number| Block::raw(format!("number {number}"))).collect();
    put(&*ipfs, blocks.clone()).await;
    let pins = blocks.iter().map(|block| {
        let (ipfs, pin) = (Arc::clone(&ipfs), pin_of(block.cid, PinMode::Recursive));
        async move { ipfs.pin(&pin).await }
    });
    for answer in within("all pins", futures::future::join_all(pins)).await {
        answer.unwrap();
    }
    let pinned: BTreeSet<Cid> = listed(&*ipfs, PinMode::Recursive).await.into_iter().collect();
    assert!(blocks.iter().all(|block| pinned.contains(&block.cid)));
}

/// `Timeout` when nobody has it, or at once the refusal of a daemon that can ask nobody.
pub async fn missing_content_is_an_error_and_is_not_pinned(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    let (root, mut blocks) = sample_file_with_chunks(bytes_of(1, 3000), 1000);
    blocks.remove(0);
    put(&*ipfs, blocks).await;
    for (cid, mode) in [
        (root, PinMode::Recursive),
        (Block::raw("missing").cid, PinMode::Recursive),
        (Block::raw("missing too").cid, PinMode::Direct),
    ] {
        let error = within("the pin", ipfs.pin(&pin_of(cid, mode))).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Remote), "{error:?}");
        assert!(!ipfs.is_pinned(&cid, mode).await.unwrap());
    }
}

/// Dropping a call drops the request to the daemon.
pub async fn a_pin_that_is_dropped_is_not_finished_later(fixture: impl Fixture) {
    let (guard, ipfs) = fixture.connector().await;
    let block = Block::raw("comes late");
    let pin = pin_of(block.cid, PinMode::Recursive);
    // Long enough to reach the daemon; when it does not, the case is still true.
    let _ = tokio::time::timeout(Duration::from_millis(200), ipfs.pin(&pin)).await;
    within("the daemon's work", fixture.wait_idle(&guard)).await;
    put(&*ipfs, vec![block]).await;
    assert!(!ipfs.is_pinned(&pin.cid, PinMode::Recursive).await.unwrap());
    ipfs.pin(&pin).await.unwrap();
}

/// Every pin once, in pages, by mode.
pub async fn listings_are_complete_and_in_pages(fixture: impl Fixture) {
    const RECURSIVE: u32 = 1_100;
    const DIRECT: u32 = 30;
    const AT_A_TIME: usize = 32;
    let (_guard, ipfs) = fixture.connector().await;
    let mut before = Vec::new();
    for mode in PinMode::ALL {
        before.push(listed(&*ipfs, mode).await.into_iter().collect::<BTreeSet<_>>());
    }
    let pins: Vec<(Block, PinMode)> = (0..RECURSIVE + DIRECT)
        .map(|number| {
            let mode = if number < RECURSIVE { PinMode::Recursive } else { PinMode::Direct };
            (Block::raw(format!("pin {number}")), mode)
        })
        .collect();
    put(&*ipfs, pins.iter().map(|(block, _)| block.clone()).collect()).await;
    let all: Vec<Result<()>> = stream::iter(&pins)
        .map(|(block, mode)| {
            let (ipfs, pin) = (Arc::clone(&ipfs), pin_of(block.cid, *mode));
            async move { ipfs.pin(&pin).await }
        })
        .buffer_unordered(AT_A_TIME)
        .collect()
        .await;
    all.into_iter().collect::<Result<Vec<()>>>().unwrap();
    for (mode, before) in PinMode::ALL.into_iter().zip(before) {
        let cids = listed(&*ipfs, mode).await;
        let set: BTreeSet<Cid> = cids.iter().copied().collect();
        assert_eq!(cids.len(), set.len(), "every pin is listed once");
        let expected: BTreeSet<Cid> =
            pins.iter().filter(|pin| pin.1 == mode).map(|pin| pin.0.cid).chain(before).collect();
        assert_eq!(set, expected);
    }
}

/// Any codec and known hash, mixed in one stream, small and large.
pub async fn blocks_come_back_as_they_were_put(fixture: impl Fixture) {
    const CODEC_DAG_CBOR: u64 = 0x71;
    let (_guard, ipfs) = fixture.connector().await;
    // Of a codec that few know, and of one that the bytes are not.
    const CODEC_JSON: u64 = 0x0200;
    const CODEC_DAG_PB: u64 = 0x70;
    let (_, mut blocks) = sample_file_with_chunks(bytes_of(1, 3000), 1000);
    for (codec, text) in [(CODEC_JSON, "{}"), (CODEC_DAG_PB, "no node"), (CODEC_DAG_CBOR, "no item")] {
        let cid = Cid::new_v1(codec, Code::Sha2_256.digest(text.as_bytes()));
        blocks.push(Block { cid, data: Bytes::from_static(text.as_bytes()) });
    }
    let empty_cbor_map = Bytes::from_static(&[0xa0]);
    let old_style = sample_directory([("a", blocks[0].cid)]);
    let large = Bytes::from(bytes_of(2, 1_500_000));
    blocks.extend([
        Block::raw(""),
        Block {
            cid: Cid::new_v1(CODEC_DAG_CBOR, Code::Sha2_256.digest(&empty_cbor_map)),
            data: empty_cbor_map,
        },
        Block { cid: Cid::new_v0(*old_style.cid.hash()).unwrap(), data: old_style.data },
        Block {
            cid: Cid::new_v1(0x55, Code::Blake2b256.digest(b"blake")),
            data: Bytes::from_static(b"blake"),
        },
        Block { cid: Cid::new_v1(0x55, Code::Sha2_512.digest(b"sha")), data: Bytes::from_static(b"sha") },
        Block::raw("\r\n--\r\nContent-Disposition: form-data\r\n\r\n"),
        Block::raw(large),
        Block::raw(bytes_of(3, 9_000_000)),
    ]);
    put(&*ipfs, blocks.clone()).await;
    for block in blocks {
        assert_eq!(ipfs.get_block(&block.cid).await.unwrap(), block);
    }
}

/// Nothing to store is stored.
pub async fn no_blocks_are_put_without_error(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    put(&*ipfs, Vec::new()).await;
}

/// Bytes that are not those of their CID must not be acknowledged under it.
pub async fn a_damaged_block_is_refused(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    let good = Block::raw("good");
    let damaged = Block { cid: Block::raw("what it should be").cid, data: Bytes::from_static(b"damaged") };
    let blocks = stream::iter([Ok(good), Ok(damaged)]).boxed();
    let error = within("the put", ipfs.put_blocks(blocks)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
}

/// Also where much is sent after it, which the daemon may not even read.
pub async fn one_damaged_block_among_many_is_refused(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    let damaged = Block { cid: Block::raw("what it should be").cid, data: Bytes::from_static(b"damaged") };
    let good = (0..100u32).map(|seed| Block::raw(bytes_of(seed, 250_000)));
    let blocks = stream::iter([damaged].into_iter().chain(good)).map(Ok).boxed();
    let error = within("the put", ipfs.put_blocks(blocks)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    put(&*ipfs, vec![Block::raw("the daemon is fine")]).await;
}

/// Who streams blocks hears its own error again.
pub async fn an_error_among_the_blocks_fails_the_put(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    let failure = Error::new(ErrorKind::StorageFull, "the source broke");
    let blocks = stream::iter([Ok(Block::raw("first")), Err(failure), Ok(Block::raw("never"))]).boxed();
    let error = within("the put", ipfs.put_blocks(blocks)).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::StorageFull, "the source broke"));
    put(&*ipfs, vec![Block::raw("the daemon is fine")]).await;
}

/// It is an error in bounded time, never other bytes.
pub async fn a_block_that_nobody_has_is_an_error(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    let error = within("the read", ipfs.get_block(&Block::raw("missing").cid)).await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Remote | ErrorKind::NotFound),
        "{error:?}"
    );
}

/// A CID, with and without `/ipfs/`, and names below it.
pub async fn paths_resolve_to_what_they_name(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    let (file, mut blocks) = sample_file(bytes_of(1, 10));
    let inner = sample_directory([("file with space", file)]);
    let root = sample_directory([("inner", inner.cid)]);
    let (inner_cid, root_cid) = (inner.cid, root.cid);
    blocks.extend([inner, root]);
    put(&*ipfs, blocks).await;
    let mut paths = vec![(format!("/ipfs/{root_cid}"), root_cid), (root_cid.to_string(), root_cid)];
    if fixture.resolves_names() {
        paths.push((format!("/ipfs/{root_cid}/inner"), inner_cid));
        paths.push((format!("/ipfs/{root_cid}/inner/file with space"), file));
        let missing = ipfs.resolve(&format!("/ipfs/{root_cid}/other")).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Remote, "{missing:?}");
        assert!(missing.message().contains("no link named \"other\""), "{missing}");
    }
    for (path, expected) in paths {
        assert_eq!(ipfs.resolve(&path).await.unwrap(), expected, "{path}");
    }
}

/// The caller's mistake is told apart from the daemon's refusal.
pub async fn a_path_that_is_none_is_invalid_input(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    for path in ["", "/", "/ipfs/", "/ipfs/nonsense", "/what/ever"] {
        assert_eq!(ipfs.resolve(path).await.unwrap_err().kind(), ErrorKind::InvalidInput, "{path:?}");
    }
}

/// The allocator asks it for free space.
pub async fn disk_use_grows_with_blocks(fixture: impl Fixture) {
    const BYTES: usize = 900_000;
    let (_guard, ipfs) = fixture.connector().await;
    let before = ipfs.repo_stat().await.unwrap();
    put(&*ipfs, vec![Block::raw(bytes_of(1, BYTES))]).await;
    let after = ipfs.repo_stat().await.unwrap();
    assert!(after.repo_size >= before.repo_size + BYTES as u64, "{before:?} {after:?}");
    assert!(after.storage_max > 0);
}

/// Unpinned blocks go and are named, pinned ones stay.
pub async fn garbage_collection_spares_what_is_pinned(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    let (kept, kept_blocks) = stored_tree(&*ipfs, 1).await;
    let (loose, loose_blocks) = stored_tree(&*ipfs, 2).await;
    let direct = stored_leaf(&*ipfs, 3).await;
    ipfs.pin(&pin_of(kept, PinMode::Recursive)).await.unwrap();
    ipfs.pin(&pin_of(direct, PinMode::Direct)).await.unwrap();
    let mut removed = BTreeSet::new();
    let mut items = ipfs.repo_gc();
    while let Some(item) = items.next().await {
        let item = item.unwrap();
        assert_eq!(item.error, "");
        removed.insert(*item.key.unwrap().hash());
    }
    for block in &loose_blocks {
        assert!(removed.contains(block.cid.hash()));
    }
    for block in &kept_blocks {
        assert!(!removed.contains(block.cid.hash()));
        assert_eq!(ipfs.get_block(&block.cid).await.unwrap(), *block);
    }
    assert!(!removed.contains(direct.hash()));
    within("the read", ipfs.get_block(&loose)).await.unwrap_err();
}

/// Removes what is garbage; the hashes of what was removed.
async fn collected(ipfs: &dyn IpfsConnector) -> BTreeSet<Vec<u8>> {
    let mut removed = BTreeSet::new();
    let mut items = ipfs.repo_gc();
    while let Some(item) = items.next().await {
        let item = item.expect("a collection of a healthy daemon");
        assert_eq!(item.error, "");
        removed.insert(item.key.expect("a removed block has a name").hash().to_bytes());
    }
    removed
}

fn lease_of(blocks: &[Block], holder: &[u8]) -> Block {
    lease_block(blocks.iter().map(|block| &block.cid), holder)
}

/// Whether the daemon has a block before it is held or gets it afterwards; until the last lease on it is released.
pub async fn garbage_collection_spares_what_is_held(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    let (_, blocks) = stored_tree(&*ipfs, 1).await;
    // A node whose children are not held, so that nothing below it is.
    let (_, below) = stored_tree(&*ipfs, 2).await;
    let (root, children) = below.split_last().unwrap();
    let later = Block::raw("comes later");
    let never = Block::raw("never comes");
    let mut all = blocks.clone();
    all.extend([root.clone(), later.clone(), never]);
    let (first, second) = (lease_of(&all, b"first"), lease_of(&blocks, b"second"));
    for lease in [&first, &second] {
        within("the lease", ipfs.hold(lease.clone())).await.unwrap();
        assert!(ipfs.is_pinned(&lease.cid, PinMode::Recursive).await.unwrap());
    }
    put(&*ipfs, vec![later.clone()]).await;
    let is_removed =
        |removed: &BTreeSet<Vec<u8>>, block: &Block| removed.contains(&block.cid.hash().to_bytes());
    let removed = collected(&*ipfs).await;
    let held = blocks.iter().chain([root, &later]);
    assert!(held.clone().all(|block| !is_removed(&removed, block)));
    assert!(children.iter().all(|block| is_removed(&removed, block)));
    for block in held {
        assert_eq!(ipfs.get_block(&block.cid).await.unwrap(), *block);
    }
    ipfs.release(&[first.cid]).await.unwrap();
    let removed = collected(&*ipfs).await;
    assert!(blocks.iter().all(|block| !is_removed(&removed, block)));
    assert!([root, &later, &first].into_iter().all(|block| is_removed(&removed, block)));
    ipfs.release(&[second.cid]).await.unwrap();
    let removed = collected(&*ipfs).await;
    assert!(blocks.iter().chain([&second]).all(|block| is_removed(&removed, block)));
}

/// The whole of an add: leases first, blocks after them, garbage collected all the time, the root pinned at the end.
pub async fn a_collection_while_held_blocks_are_put_takes_none(fixture: impl Fixture) {
    const CHUNK_BYTES: usize = 10_000;
    const HELD_TOGETHER: usize = 16;
    let (_guard, ipfs) = fixture.connector().await;
    let (root, blocks) = sample_file_with_chunks(bytes_of(1, 1_000_000), CHUNK_BYTES);
    let mut leases = Vec::new();
    let mut removed = BTreeSet::new();
    for segment in blocks.chunks(HELD_TOGETHER) {
        let lease = lease_of(segment, b"the add");
        let collect = collected(&*ipfs);
        let store = async {
            ipfs.hold(lease.clone()).await.unwrap();
            put(&*ipfs, segment.to_vec()).await;
        };
        let (more, ()) = within("the segment", futures::future::join(collect, store)).await;
        removed.extend(more);
        leases.push(lease.cid);
    }
    removed.extend(collected(&*ipfs).await);
    assert!(blocks.iter().all(|block| !removed.contains(&block.cid.hash().to_bytes())));
    ipfs.pin(&pin_of(root, PinMode::Recursive)).await.unwrap();
    ipfs.release(&leases).await.unwrap();
    let removed = collected(&*ipfs).await;
    assert!(leases.iter().all(|lease| removed.contains(&lease.hash().to_bytes())));
    assert!(blocks.iter().all(|block| !removed.contains(&block.cid.hash().to_bytes())));
}

/// Whoever does not know whether it was done does it again.
pub async fn holding_and_releasing_twice_is_ok(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    ipfs.release(&[]).await.unwrap();
    let lease = lease_of(&[Block::raw("held")], b"me");
    for _ in 0..2 {
        ipfs.hold(lease.clone()).await.unwrap();
    }
    assert!(ipfs.is_pinned(&lease.cid, PinMode::Recursive).await.unwrap());
    for _ in 0..2 {
        ipfs.release(&[lease.cid, Block::raw("never held").cid]).await.unwrap();
        assert!(!ipfs.is_pinned(&lease.cid, PinMode::Recursive).await.unwrap());
    }
}

/// A connector that keeps no references to files says so when it is asked, and when it is given one.
pub async fn references_are_kept_or_never_taken(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    let Err(error) = within("the question", ipfs.reference_root()).await else { return };
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let file = Reference {
        origin: "/nowhere/file".to_owned(),
        cid: Block::raw("referred to").cid,
        layout: AddLayout::Balanced,
        chunker: "size-262144".to_owned(),
        cid_version: 1,
        hash: "sha2-256".to_owned(),
    };
    let bytes = stream::iter([Ok(Bytes::from_static(b"referred to"))]).boxed();
    let error = within("the file", ipfs.put_reference(&file, bytes)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

/// A stopping peer does not wait for the daemon.
pub async fn shutdown_ends_a_running_pin(fixture: impl Fixture) {
    let (_guard, ipfs) = fixture.connector().await;
    let pin = pin_of(Block::raw("missing").cid, PinMode::Recursive);
    let pinning = tokio::spawn({
        let ipfs = Arc::clone(&ipfs);
        async move { ipfs.pin(&pin).await }
    });
    tokio::task::yield_now().await;
    within("shutdown", ipfs.shutdown()).await.unwrap();
    let error = within("the pin", pinning).await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ShutDown | ErrorKind::Remote), "{error:?}");
}

/// Shutting down twice is fine, everything else after it is `ShutDown`.
pub async fn calls_after_shutdown_are_refused(fixture: impl Fixture) {
    fn assert_refused<T: std::fmt::Debug>(what: &str, answer: Result<T>) {
        match answer {
            Err(error) => assert_eq!(error.kind(), ErrorKind::ShutDown, "{what}: {error:?}"),
            Ok(value) => panic!("{what} still answered {value:?}"),
        }
    }
    let (_guard, ipfs) = fixture.connector().await;
    let pin = pin_of(stored_leaf(&*ipfs, 1).await, PinMode::Recursive);
    let cid = &pin.cid;
    for _ in 0..2 {
        within("shutdown", ipfs.shutdown()).await.unwrap();
    }
    let calls = async {
        assert_refused("ready", ipfs.ready().await);
        assert_refused("id", ipfs.id().await);
        assert_refused("pin", ipfs.pin(&pin).await);
        assert_refused("unpin", ipfs.unpin(cid).await);
        assert_refused("is_pinned", ipfs.is_pinned(cid, PinMode::Recursive).await);
        assert_refused("repo_stat", ipfs.repo_stat().await);
        assert_refused("resolve", ipfs.resolve(&format!("/ipfs/{cid}")).await);
        assert_refused("get_block", ipfs.get_block(cid).await);
        assert_refused("swarm_peers", ipfs.swarm_peers().await);
        assert_refused("swarm_connect", ipfs.swarm_connect(&"/ip4/127.0.0.1/tcp/1".parse().unwrap()).await);
        let blocks = stream::iter([Ok(Block::raw("late"))]).boxed();
        assert_refused("put_blocks", ipfs.put_blocks(blocks).await);
        assert_refused("hold", ipfs.hold(lease_of(&[], b"late")).await);
        assert_refused("release", ipfs.release(&[*cid]).await);
        let mut pins = ipfs.list_pins(PinMode::Recursive);
        assert_refused("list_pins", pins.next().await.expect("an error, not an empty listing"));
        assert!(pins.next().await.is_none());
        let mut removed = ipfs.repo_gc();
        assert_refused("repo_gc", removed.next().await.expect("an error, not an empty collection"));
        assert!(removed.next().await.is_none());
    };
    within("every call", calls).await;
}
