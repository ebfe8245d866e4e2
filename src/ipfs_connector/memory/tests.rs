use super::*;
use crate::types::PinOptions;

fn pin_of(cid: Cid, mode: PinMode) -> Pin {
    Pin::new(cid, PinOptions { mode, ..PinOptions::default() })
}

/// Daemons that can find each other, and are not connected.
fn two_of_a_swarm() -> [MemoryIpfs; 2] {
    let swarm = MemorySwarm::default();
    [1, 2].map(|number| {
        let swarm = swarm.clone();
        MemoryIpfs::with_config(MemoryIpfsConfig { number, swarm, ..MemoryIpfsConfig::default() })
    })
}

fn file(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index / 251) as u8 ^ index as u8).collect()
}

#[tokio::test(start_paused = true)]
async fn missing_content_times_out_after_the_last_new_block() {
    let ipfs = MemoryIpfs::new();
    let (root, blocks) = sample::sample_file_with_chunks("abcdef", 2);
    let started = tokio::time::Instant::now();
    let pinning = tokio::spawn({
        let ipfs = ipfs.clone();
        async move { ipfs.pin(&pin_of(root, PinMode::Recursive)).await }
    });
    tokio::time::sleep(Duration::from_secs(100)).await;
    ipfs.put(blocks[3].clone()).unwrap();
    // Of another file: no progress of this one.
    tokio::time::sleep(Duration::from_secs(100)).await;
    ipfs.add_sample("else");
    let error = pinning.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert_eq!(started.elapsed().as_secs(), 220);
    assert!(!ipfs.is_pinned(&root, PinMode::Recursive).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_waiting_pin_ends_when_its_blocks_arrive() {
    let ipfs = MemoryIpfs::new();
    let (root, blocks) = sample::sample_file_with_chunks("abcdef", 2);
    let pinning = tokio::spawn({
        let ipfs = ipfs.clone();
        async move { ipfs.pin(&pin_of(root, PinMode::Recursive)).await }
    });
    for block in blocks.into_iter().rev() {
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!pinning.is_finished());
        ipfs.put(block).unwrap();
    }
    pinning.await.unwrap().unwrap();
    assert!(ipfs.is_pinned(&root, PinMode::Recursive).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn connected_daemons_give_each_other_their_blocks() {
    let [a, b] = two_of_a_swarm();
    let cid = a.add_sample(file(600_000));
    let pinning = tokio::spawn({
        let b = b.clone();
        async move { b.pin(&pin_of(cid, PinMode::Recursive)).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!pinning.is_finished());
    b.swarm_connect(a.address()).await.unwrap();
    pinning.await.unwrap().unwrap();
    assert!(b.has_block(&cid));
    assert_eq!(a.swarm_peers().await.unwrap(), [b.peer()]);
    assert_eq!(b.swarm_peers().await.unwrap(), [a.peer()]);
    assert_eq!(b.repo_stat().await.unwrap().repo_size, a.repo_stat().await.unwrap().repo_size);

    let nobody = MemoryIpfs::with_config(MemoryIpfsConfig { number: 3, ..MemoryIpfsConfig::default() });
    assert_eq!(a.swarm_connect(nobody.address()).await.unwrap_err().kind(), ErrorKind::Remote);
}

#[tokio::test(start_paused = true)]
async fn origins_are_connected_before_a_pin() {
    let [a, b] = two_of_a_swarm();
    let mut pin = pin_of(a.add_sample("far away"), PinMode::Recursive);
    pin.options.origins = vec!["/ip4/1.2.3.4/tcp/1".parse().unwrap(), a.address().clone()];
    b.pin(&pin).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cid_has_one_pin_and_recursive_wins_as_in_kubo() {
    let ipfs = MemoryIpfs::new();
    let cid = ipfs.add_sample("x");
    ipfs.pin(&pin_of(cid, PinMode::Direct)).await.unwrap();
    ipfs.pin(&pin_of(cid, PinMode::Recursive)).await.unwrap();
    assert!(!ipfs.is_pinned(&cid, PinMode::Direct).await.unwrap());
    assert!(ipfs.is_pinned(&cid, PinMode::Recursive).await.unwrap());
    let error = ipfs.pin(&pin_of(cid, PinMode::Direct)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote);
    assert_eq!(error.message(), format!("pin: {cid} already pinned recursively"));
}

#[tokio::test(start_paused = true)]
async fn garbage_is_what_no_pin_reaches() {
    let ipfs = MemoryIpfs::new();
    let (root, blocks) = sample::sample_file_with_chunks(file(1000), 100);
    for block in &blocks {
        ipfs.put(block.clone()).unwrap();
    }
    let loose = ipfs.add_sample("loose");
    let mut shallow = pin_of(root, PinMode::Recursive);
    shallow.max_depth = 1;
    ipfs.pin(&shallow).await.unwrap();
    let removed: Vec<_> = ipfs.repo_gc().map(|item| item.unwrap().key.unwrap()).collect().await;
    assert_eq!(removed, [loose]);

    ipfs.unpin(&root).await.unwrap();
    ipfs.pin(&pin_of(root, PinMode::Direct)).await.unwrap();
    assert_eq!(ipfs.repo_gc().count().await, blocks.len() - 1);
    assert_eq!(ipfs.repo_stat().await.unwrap().repo_size, blocks.last().unwrap().data.len() as u64);
    ipfs.unpin(&root).await.unwrap();
    assert_eq!(ipfs.repo_gc().count().await, 1);
    assert_eq!(ipfs.repo_stat().await.unwrap().repo_size, 0);
}

#[tokio::test(start_paused = true)]
async fn a_pin_survives_garbage_collection_while_it_waits() {
    let ipfs = MemoryIpfs::new();
    let (root, blocks) = sample::sample_file_with_chunks("abcd", 2);
    ipfs.put(blocks[2].clone()).unwrap();
    ipfs.put(blocks[0].clone()).unwrap();
    let pinning = tokio::spawn({
        let ipfs = ipfs.clone();
        async move { ipfs.pin(&pin_of(root, PinMode::Recursive)).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ipfs.repo_gc().count().await, 2);
    ipfs.put(blocks[1].clone()).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!pinning.is_finished(), "it must not be pinned without its root");
    ipfs.put(blocks[2].clone()).unwrap();
    ipfs.put(blocks[0].clone()).unwrap();
    pinning.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_block_that_is_no_node_fails_the_pin_at_once() {
    let ipfs = MemoryIpfs::new();
    let raw = Block::raw("<html>");
    let cid = Cid::new_v1(dag::CODEC_DAG_PB, *raw.cid.hash());
    ipfs.put(raw).unwrap();
    let error = ipfs.pin(&pin_of(cid, PinMode::Recursive)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote, "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn names_are_followed_through_directories() {
    let ipfs = MemoryIpfs::new();
    let file = ipfs.add_sample("text");
    let inner = sample::sample_directory([("file", file)]);
    let root = sample::sample_directory([("inner", inner.cid)]);
    let (inner_cid, root_cid) = (inner.cid, root.cid);
    ipfs.put(inner).unwrap();
    ipfs.put(root).unwrap();
    for (path, expected) in [
        (format!("/ipfs/{root_cid}"), root_cid),
        (format!("/ipfs/{root_cid}/inner/"), inner_cid),
        (format!("{root_cid}/inner/file"), file),
    ] {
        assert_eq!(ipfs.resolve(&path).await.unwrap(), expected, "{path}");
    }
    let error = ipfs.resolve(&format!("/ipfs/{root_cid}/other")).await.unwrap_err();
    assert_eq!(error.message(), format!("no link named \"other\" under {root_cid}"));
    assert_eq!(ipfs.resolve("/ipns/example.org").await.unwrap_err().kind(), ErrorKind::Remote);
    assert_eq!(ipfs.resolve("nonsense").await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test(start_paused = true)]
async fn unpinning_can_be_switched_off() {
    let ipfs =
        MemoryIpfs::with_config(MemoryIpfsConfig { unpin_disable: true, ..MemoryIpfsConfig::default() });
    let error = ipfs.unpin(&ipfs.add_sample("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.message(), "ipfs unpinning is disallowed by configuration on this peer");
}
