//! Followers: they do what trusted peers say, and what nobody else says, in any number.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use ipfs_cluster::cluster::{Cluster, ClusterConfig, Scope, presets};
use ipfs_cluster::consensus::CrdtSection;
use ipfs_cluster::ipfs_connector::{IpfsConnector as _, MemoryIpfs};
use ipfs_cluster::rpc::PeerClient;
use ipfs_cluster::storage::MemoryStorage;
use ipfs_cluster::testing::cluster::{TestCluster, TestClusterConfig};
use ipfs_cluster::testing::peer;
use ipfs_cluster::transport::PeerTransport as _;
use ipfs_cluster::types::{
    Block, Cid, Multiaddr, PeerId, Pin, PinMode, PinOptions, StatusFilter, TrackerStatus,
};
use ipfs_cluster::{Error, ErrorKind, Result};

const PUBLISHER: usize = 0;
const FOLLOWER: usize = 1;
/// Those who are not trusted come after.
const FIRST_STRANGER: usize = 2;
const STRANGERS: usize = 5;

/// A publisher, a follower of it, and peers that trust everybody and are trusted by nobody.
async fn world(strangers: usize) -> TestCluster {
    let publisher = peer(PUBLISHER as u64 + 1);
    let config = TestClusterConfig {
        peers: FIRST_STRANGER + strangers,
        assemble: Arc::new(move |index, builder| {
            let builder = builder.no_informers();
            match index {
                PUBLISHER => builder.preset(presets::Collaborative::trusting([])),
                FOLLOWER => builder.preset(presets::Follower::of([publisher])),
                _ => builder.preset(presets::Collaborative::default()),
            }
        }),
        ..TestClusterConfig::default()
    };
    let peers = TestCluster::with_config(config).await.unwrap();
    assert_eq!(peers.id(PUBLISHER), publisher);
    peers
}

async fn pinset(cluster: &Cluster) -> BTreeSet<Cid> {
    let pages: Vec<Vec<Pin>> = cluster.pins(Default::default()).try_collect().await.unwrap();
    pages.into_iter().flatten().map(|pin| pin.cid).collect()
}

async fn wait_pinset(peers: &TestCluster, index: usize, expected: &BTreeSet<Cid>) {
    let what = format!("peer {index} has these {} pins, and its daemon too", expected.len());
    let holds = async |peers: &TestCluster| {
        let ipfs = peers.daemon(index).ipfs();
        let pinned = stream::iter(expected).all(|cid| async move {
            ipfs.is_pinned(cid, PinMode::Recursive).await.is_ok_and(|is_pinned| is_pinned)
        });
        pinset(peers.peer(index)).await == *expected && pinned.await
    };
    peers.wait_until(&what, holds).await.unwrap();
}

async fn wait_unpinned(peers: &TestCluster, index: usize, cid: &Cid) {
    let gone = async |peers: &TestCluster| {
        let pinned = peers.daemon(index).ipfs().is_pinned(cid, PinMode::Recursive).await;
        pinned.is_ok_and(|is_pinned| !is_pinned)
    };
    peers.wait_until("the daemon let go of it", gone).await.unwrap();
}

/// The publisher unpins something, and the follower does so too and keeps the rest.
async fn the_follower_lets_go(peers: &TestCluster, of: &Cid, rest: &BTreeSet<Cid>) {
    peers.peer(PUBLISHER).unpin(of).await.unwrap();
    wait_pinset(peers, FOLLOWER, rest).await;
    wait_unpinned(peers, FOLLOWER, of).await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_pins_what_the_publisher_pins_and_lets_go_of_what_it_unpins() {
    let peers = world(0).await;
    let (first, second) = (peers.add(b"first"), peers.add(b"second"));
    let publisher = peers.peer(PUBLISHER);
    for cid in [first, second] {
        publisher.pin(cid, PinOptions::default()).await.unwrap();
    }
    wait_pinset(&peers, FOLLOWER, &[first, second].into()).await;
    let is_told = async |peers: &TestCluster| {
        let status = peers.peer(PUBLISHER).status(&first, Scope::Global).await.unwrap();
        let of_follower = status.peer_map.get(&peers.id(FOLLOWER));
        of_follower.is_some_and(|of_follower| of_follower.status == TrackerStatus::Pinned)
    };
    peers.wait_until("the publisher is told, who may ask", is_told).await.unwrap();

    the_follower_lets_go(&peers, &first, &[second].into()).await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_writes_nothing_and_speaks_for_itself_alone() {
    let peers = world(1).await;
    let (cid, other) = (peers.add(b"content"), peers.add(b"other"));
    peers.peer(PUBLISHER).pin(cid, PinOptions::default()).await.unwrap();
    wait_pinset(&peers, FOLLOWER, &[cid].into()).await;

    let follower = peers.peer(FOLLOWER);
    assert!(follower.config().follower_mode);
    let path = format!("/ipfs/{other}").parse().unwrap();
    let update = PinOptions { pin_update: Some(cid), ..PinOptions::default() };
    for refused in [
        follower.pin(other, PinOptions::default()).await.map(drop),
        follower.pin(other, update).await.map(drop),
        follower.pin_path(&path, PinOptions::default()).await.map(drop),
        follower.unpin(&cid).await.map(drop),
        follower.unpin_path(&format!("/ipfs/{cid}").parse().unwrap()).await.map(drop),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ReadOnly);
    }
    assert_eq!(pinset(follower).await, [cid].into());

    let only_itself: BTreeSet<PeerId> = [peers.id(FOLLOWER)].into();
    let of =
        |info: &ipfs_cluster::types::GlobalPinInfo| info.peer_map.keys().copied().collect::<BTreeSet<_>>();
    assert_eq!(of(&follower.status(&cid, Scope::Global).await.unwrap()), only_itself);
    assert_eq!(of(&follower.recover(&cid, Scope::Global).await.unwrap()), only_itself);
    let all: Vec<_> = follower.status_all(StatusFilter::ALL, Scope::Global).try_collect().await.unwrap();
    let all = all.concat();
    assert!(all.len() == 1 && of(&all[0]) == only_itself, "{all:?}");
    // Lost at its daemon: it gets its own back, and nobody else's.
    for index in [PUBLISHER, FOLLOWER] {
        peers.daemon(index).ipfs().unpin(&cid).await.unwrap();
    }
    follower.sync(&cid, Scope::Global).await.unwrap();
    let recovered: Vec<_> = follower.recover_all(Scope::Global).try_collect().await.unwrap();
    assert_eq!(recovered.concat().iter().map(of).collect::<Vec<_>>(), [only_itself]);
    wait_pinset(&peers, FOLLOWER, &[cid].into()).await;
}

#[tokio::test(start_paused = true)]
async fn writers_that_are_not_trusted_change_nothing_in_any_number() {
    let peers = world(STRANGERS).await;
    let ours = peers.add(b"published");
    let publisher = peers.peer(PUBLISHER);
    publisher.pin(ours, PinOptions::default()).await.unwrap();
    for index in 0..peers.len() {
        wait_pinset(&peers, index, &[ours].into()).await;
    }

    // They write, unpin what is not theirs, and join whoever lets them; all of it is gossiped and served.
    let mut theirs = BTreeSet::new();
    for number in 0..STRANGERS {
        let stranger = peers.peer(FIRST_STRANGER + number);
        if pinset(stranger).await.contains(&ours) {
            stranger.unpin(&ours).await.unwrap();
        }
        for content in 0..20 {
            let cid = peers.add(format!("of stranger {number}: {content}").as_bytes());
            stranger.pin(cid, PinOptions::default()).await.unwrap();
            theirs.insert(cid);
        }
        stranger.add_peer(&peers.id(FOLLOWER)).await.unwrap();
    }
    // It has come everywhere where it is taken, and some heads were told again.
    for number in 0..STRANGERS {
        wait_pinset(&peers, FIRST_STRANGER + number, &theirs).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(30 * 60)).await;
    for index in [PUBLISHER, FOLLOWER] {
        wait_pinset(&peers, index, &[ours].into()).await;
        for cid in &theirs {
            wait_unpinned(&peers, index, cid).await;
        }
    }
    assert_eq!(peers.peer(FOLLOWER).state().counts(), peers.peer(PUBLISHER).state().counts());
    assert!(!peers.peer(FOLLOWER).consensus().is_trusted(&peers.id(FIRST_STRANGER)));

    // The publisher is followed as before, also while those write who are nearer.
    let more = peers.add(b"published later");
    publisher.pin(more, PinOptions::default()).await.unwrap();
    wait_pinset(&peers, FOLLOWER, &[ours, more].into()).await;
    the_follower_lets_go(&peers, &ours, &[more].into()).await;
}

#[tokio::test(start_paused = true)]
async fn strangers_carry_what_a_publisher_out_of_reach_says_and_nothing_of_their_own() {
    let peers = world(2).await;
    peers.partition(PUBLISHER, FOLLOWER);
    let mut expected = BTreeSet::new();
    for number in 0..3 {
        let ours = peers.add(format!("published {number}").as_bytes());
        peers.peer(PUBLISHER).pin(ours, PinOptions::default()).await.unwrap();
        expected.insert(ours);
        let theirs = peers.add(format!("smuggled {number}").as_bytes());
        peers.peer(FIRST_STRANGER).pin(theirs, PinOptions::default()).await.unwrap();
        wait_pinset(&peers, FOLLOWER, &expected).await;
    }
    assert!(!peers.neighbours(FOLLOWER).contains(&peers.id(PUBLISHER)));
}

#[tokio::test(start_paused = true)]
async fn strangers_may_not_call_what_is_for_trusted_peers_and_nobody_collects_garbage() {
    let peers = world(1).await;
    let (cid, unpinned) = (peers.add(b"content"), peers.add(b"not pinned"));
    peers.peer(PUBLISHER).pin(cid, PinOptions::default()).await.unwrap();
    wait_pinset(&peers, FOLLOWER, &[cid].into()).await;
    let follower = peers.id(FOLLOWER);
    let follower_address: Multiaddr =
        Multiaddr::empty().with(multiaddr::Protocol::Memory(FOLLOWER as u64 + 1));

    for number in 0..STRANGERS as u64 {
        let stranger = Arc::new(peers.network().join(peer(100 + number)).unwrap());
        assert_eq!(stranger.connect(&follower_address).await.unwrap(), follower);
        let client = PeerClient::new(stranger.clone());
        // What anybody may ask.
        assert_eq!(client.id(&follower).await.unwrap().id, follower);
        client.peer_add(&follower, &peer(100 + number)).await.unwrap_err(); // It calls back, and finds nobody there.
        client.version(&follower).await.unwrap();

        let pin = Pin::new(unpinned, PinOptions::default());
        let blocks = stream::iter([Ok(Block::raw("unasked for"))]).boxed();
        let first = |answer: Option<Result<_>>| answer.map_or(Ok(()), |item| item.map(drop));
        let refused = [
            ("status", client.status(&follower, &cid).await.map(drop)),
            ("recover", client.recover(&follower, &cid).await.map(drop)),
            ("sync", client.sync(&follower, &cid).await.map(drop)),
            ("repo_gc", client.repo_gc(&follower).await.map(drop)),
            ("repo_stat", client.repo_stat(&follower).await.map(drop)),
            ("swarm_peers", client.swarm_peers(&follower).await.map(drop)),
            ("log_pin", client.log_pin(&follower, pin).await),
            ("log_unpin", client.log_unpin(&follower, &cid).await),
            ("add_peer", client.add_peer(&follower, &peer(100)).await),
            ("rm_peer", client.rm_peer(&follower, &peers.id(PUBLISHER)).await),
            ("put_blocks", client.put_blocks(&follower, blocks).await),
            ("status_all", first(client.status_all(&follower, StatusFilter::ALL).next().await)),
            (
                "status_all_sorted",
                first(client.status_all_sorted(&follower, StatusFilter::ALL, None).next().await),
            ),
            ("recover_all", first(client.recover_all_local(&follower).next().await)),
            ("sync_all", first(client.sync_all(&follower).next().await)),
            ("peers", client.peers(&follower).next().await.map_or(Ok(()), |item| item.map(drop))),
        ];
        for (call, answer) in refused {
            let kind = answer.as_ref().err().map(Error::kind);
            assert_eq!(kind, Some(ErrorKind::Unauthorized), "{call}: {answer:?}");
        }
        stranger.shutdown().await.unwrap();
    }

    // The publisher may ask, but its garbage is all that it collects.
    let collected = peers.peer(PUBLISHER).repo_gc(Scope::Global).await.unwrap();
    assert!(!collected.peer_map.contains_key(&follower), "{collected:?}");
    assert!(collected.peer_map.contains_key(&peers.id(PUBLISHER)));
    assert!(peers.daemon(FOLLOWER).ipfs().repo_stat().await.unwrap().repo_size > 0);
    assert_eq!(pinset(peers.peer(FOLLOWER)).await, [cid].into());
    let own = peers.peer(FOLLOWER).repo_gc(Scope::Local).await.unwrap();
    assert!(own.peer_map[&follower].keys.iter().any(|key| key.key == Some(unpinned)), "its own operator may");
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_was_away_goes_on_where_the_publisher_is_now() {
    let mut peers = world(2).await;
    let cids: Vec<Cid> = (0..4).map(|number| peers.add(format!("content {number}").as_bytes())).collect();
    for cid in &cids[..2] {
        peers.peer(PUBLISHER).pin(*cid, PinOptions::default()).await.unwrap();
    }
    wait_pinset(&peers, FOLLOWER, &cids[..2].iter().copied().collect()).await;

    let mut expected: BTreeSet<Cid> = cids[..2].iter().copied().collect();
    for (round, crash) in [(2, false), (3, true)] {
        if crash {
            peers.crash(FOLLOWER);
        } else {
            peers.stop(FOLLOWER).await;
        }
        let gone = cids[round - 2];
        peers.peer(PUBLISHER).pin(cids[round], PinOptions::default()).await.unwrap();
        peers.peer(PUBLISHER).unpin(&gone).await.unwrap();
        let unwelcome = peers.add(format!("meanwhile {round}").as_bytes());
        peers.peer(FIRST_STRANGER).pin(unwelcome, PinOptions::default()).await.unwrap();
        expected.insert(cids[round]);
        expected.remove(&gone);
        peers.restart(FOLLOWER).await.unwrap();
        wait_pinset(&peers, FOLLOWER, &expected).await;
        wait_unpinned(&peers, FOLLOWER, &gone).await;
        assert!(peers.peer(FOLLOWER).config().follower_mode);
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_of_nobody_does_not_start() {
    for list in [vec![], vec![peer(1)]] {
        let error = Cluster::builder()
            .preset(presets::Follower::of(list))
            .peer(peer(1))
            .storage(MemoryStorage::new())
            .ipfs(MemoryIpfs::new())
            .start()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("name at least one trusted peer"), "{error}");
    }
}

#[test]
fn a_published_configuration_says_whom_to_follow_and_never_everybody() {
    let section = |trusted: &[&str]| CrdtSection {
        trusted_peers: trusted.iter().map(|text| (*text).to_owned()).collect(),
        ..CrdtSection::default()
    };
    let named = peer(3).to_string();
    presets::Follower::try_from(&section(&[&named])).unwrap();
    for (bad, text) in
        [(&[named.as_str(), "*"][..], "everybody"), (&["nobody"], "error parsing trusted peers")]
    {
        let error = presets::Follower::try_from(&section(bad)).unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidInput && error.to_string().contains(text), "{error}");
    }
}

#[test]
fn the_example_of_a_follower_in_an_application_is_as_short_as_promised() {
    let source = include_str!("../examples/follower.rs");
    let (imports, code): (Vec<&str>, Vec<&str>) = source
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .partition(|line| line.starts_with("use ") && line.ends_with(';'));
    assert!(!imports.is_empty() && code.len() <= 25, "{} lines of code: {code:#?}", code.len());
}

#[tokio::test(start_paused = true)]
async fn what_is_configured_after_the_preset_makes_no_writer_of_a_follower() {
    let cluster = Cluster::builder()
        .preset(presets::Follower::of([peer(2)]).cluster_name("theirs"))
        .config(ClusterConfig { peername: "follower".into(), ..ClusterConfig::default() })
        .storage(MemoryStorage::new())
        .ipfs(MemoryIpfs::new())
        .start()
        .await
        .unwrap();
    assert!(cluster.config().follower_mode);
    assert_eq!(cluster.config().peername, "follower");
    let refused = cluster.pin(Block::raw("x").cid, PinOptions::default()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ReadOnly);
    assert!(cluster.consensus().is_trusted(&peer(2)) && !cluster.consensus().is_trusted(&peer(3)));
    cluster.shutdown().await;
}
