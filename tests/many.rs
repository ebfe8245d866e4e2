//! Clusters of several whole peers in one process, on paused time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod parts;
mod standing;

mod lists;
mod repinning;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use ipfs_cluster::cluster::{Cluster, ClusterConfig, Scope, StopReason, Until, presets};
use ipfs_cluster::ipfs_connector::IpfsConnector as _;
use ipfs_cluster::rpc::{Method, PeerClient, RPC_PROTOCOL};
use ipfs_cluster::state::{StateOrder, StateQuery};
use ipfs_cluster::storage::{MemoryStorage, Storage as _};
use ipfs_cluster::testing::faulty_ipfs::IpfsCall;
use ipfs_cluster::testing::peer;
use ipfs_cluster::transport::{PeerStream, PeerTransport as _, Protocol, StreamHandler};
use ipfs_cluster::types::{
    Block, Cid, GlobalPinInfo, PeerId, Pin, PinInfo, PinMode, PinOperation, PinOptions, PinStatus,
    StatusFilter, TrackerStatus, parse_multiaddr,
};
use ipfs_cluster::{Error, ErrorKind};
use parts::{Foreign, Peers, config, today, until};
use tokio::time::Instant;

use TrackerStatus::{ClusterError, PinError, Pinned, Remote};

fn replicas(min: i32, max: i32) -> PinOptions {
    PinOptions { replication_factor_min: min, replication_factor_max: max, ..PinOptions::default() }
}

fn statuses(info: &GlobalPinInfo) -> BTreeMap<PeerId, TrackerStatus> {
    info.peer_map.iter().map(|(peer, status)| (*peer, status.status)).collect()
}

async fn lines(cluster: &Cluster, filter: StatusFilter) -> Vec<GlobalPinInfo> {
    cluster.status_all(filter, Scope::Global).map(|page| page.unwrap()).concat().await
}

async fn pinset(cluster: &Cluster) -> Vec<Pin> {
    cluster.pins(StateQuery::default()).map(|page| page.unwrap()).concat().await
}

/// Pins so many samples with two replicas through the first peer.
async fn pin_many(peers: &Peers, count: u8, options: PinOptions) -> Vec<Cid> {
    let mut cids = Vec::new();
    for number in 0..count {
        let cid = Block::raw(vec![number]).cid;
        for member in &peers.members {
            member.ipfs.put(Block::raw(vec![number])).unwrap();
        }
        // Spread over everybody, not only those with the most room.
        let prefer = |step: usize| peers.members[(usize::from(number) + step) % peers.members.len()].id;
        let user_allocations = vec![prefer(0), prefer(1)];
        let options = PinOptions { user_allocations, ..options.clone() };
        peers.members[0].cluster.pin(cid, options).await.unwrap();
        cids.push(cid);
    }
    for cid in &cids {
        peers.members[0].cluster.wait(*cid).await.unwrap();
    }
    cids
}

async fn holds(cluster: &Cluster, id: PeerId) -> usize {
    pinset(cluster).await.iter().filter(|pin| pin.allocations.contains(&id)).count()
}

#[tokio::test(start_paused = true)]
async fn peers_see_each_other_and_say_who_they_are() {
    let peers = Peers::start(3).await;
    for member in &peers.members {
        let infos = member.cluster.peers().await.unwrap();
        assert_eq!(
            infos.iter().map(|info| info.peername.as_str()).collect::<BTreeSet<_>>(),
            ["peer-0", "peer-1", "peer-2"].into()
        );
        assert!(infos.is_sorted_by_key(|info| info.id));
        for info in infos {
            assert_eq!((info.error.as_str(), info.rpc_protocol_version.as_str()), ("", RPC_PROTOCOL));
            assert_eq!(info.cluster_peers.unwrap().len(), 3);
            assert_eq!(info.cluster_peers_addresses.unwrap().len(), 2);
            assert!(info.ipfs.id.is_some());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pin_goes_to_the_peers_with_the_most_room_and_is_remote_for_the_others() {
    let peers = Peers::start(4).await;
    let [a, b, c, d] = &peers.members[..] else { unreachable!() };
    let cid = d.ipfs.add_sample("content");
    let pin = d.cluster.pin(cid, replicas(2, 2)).await.unwrap();
    assert_eq!(pin.allocations, [a.id, b.id]);
    let info = c.cluster.wait(cid).until(Until::PinnedEverywhere).await.unwrap();
    assert_eq!(statuses(&info), [(a.id, Pinned), (b.id, Pinned), (c.id, Remote), (d.id, Remote)].into());
    let names: BTreeSet<_> = info.peer_map.values().map(|status| status.peername.clone()).collect();
    assert_eq!(names.len(), 4, "also those that were not asked have names: {names:?}");
    assert!(info.peer_map.values().all(|status| status.ipfs_peer_id.is_some()));
    assert_eq!(statuses(&lines(&c.cluster, StatusFilter::ALL).await[0]), statuses(&info));
    c.cluster.unpin(&cid).await.unwrap();
    let info = b.cluster.wait(cid).until(Until::Gone).await.unwrap();
    assert_eq!(info.peer_map.len(), 4);
    until("nobody holds it", || async { !a.ipfs.is_pinned(&cid, PinMode::Recursive).await.unwrap() }).await;
}

#[tokio::test(start_paused = true)]
async fn what_failed_on_one_peer_is_recovered_and_synced_through_another() {
    let peers = Peers::start(3).await;
    let [a, b, c] = &peers.members[..] else { unreachable!() };
    let refused = || Error::new(ErrorKind::Remote, "the daemon has a bad day");
    b.faults.fail_next(IpfsCall::Pin, 1_000_000, refused());
    let (one, two) = (a.ipfs.add_sample("one"), a.ipfs.add_sample("two"));
    for cid in [one, two] {
        a.cluster.pin(cid, PinOptions::default()).await.unwrap();
        let error = c.cluster.wait(cid).await.unwrap_err();
        assert!(error.to_string().contains("bad day"), "{error}");
    }
    let failed = lines(&c.cluster, StatusFilter::ERROR).await;
    assert_eq!(failed.len(), 2);
    assert!(failed.iter().all(|line| statuses(line) == [(b.id, PinError)].into()), "{failed:?}");
    b.faults.stop_failing(IpfsCall::Pin);
    let info = c.cluster.recover(&one, Scope::Global).await.unwrap();
    assert_eq!(info.peer_map.len(), 3);
    assert_ne!(info.peer_map[&b.id].status, PinError);
    a.cluster.wait(one).past_errors().await.unwrap();
    let recovered: Vec<_> = c.cluster.recover_all(Scope::Global).map(|page| page.unwrap()).concat().await;
    assert_eq!(recovered.iter().map(|line| line.cid).collect::<Vec<_>>(), [two]);
    assert_eq!(recovered[0].peer_map.keys().collect::<Vec<_>>(), [&b.id]);
    a.cluster.wait(two).past_errors().await.unwrap();
    // Behind our back.
    b.ipfs.unpin(&two).await.unwrap();
    let changed: Vec<_> = a.cluster.sync_all(Scope::Global).map(|page| page.unwrap()).concat().await;
    assert_eq!(changed.len(), 1);
    assert_eq!(statuses(&changed[0]), [(b.id, TrackerStatus::UnexpectedlyUnpinned)].into());
    let synced = a.cluster.sync(&two, Scope::Global).await.unwrap();
    assert_eq!(synced.peer_map[&b.id].status, TrackerStatus::UnexpectedlyUnpinned);
}

#[tokio::test(start_paused = true)]
async fn each_expired_pin_is_removed_by_one_peer() {
    let peers = Peers::start(3).await;
    let [a, ..] = &peers.members[..] else { unreachable!() };
    let mut cids = BTreeSet::new();
    for number in 0..30u8 {
        let cid = a.ipfs.add_sample(vec![number]);
        let expire_at = Some(today() + Duration::from_secs(600));
        a.cluster.pin(cid, PinOptions { expire_at, ..PinOptions::default() }).await.unwrap();
        cids.insert(cid);
    }
    peers.log.take();
    until("the pinset is empty", || async { pinset(&a.cluster).await.is_empty() }).await;
    tokio::time::sleep(Duration::from_secs(900)).await;
    let mut by = BTreeMap::<PeerId, usize>::new();
    let mut removed = Vec::new();
    for (peer, operation) in peers.log.take() {
        let PinOperation::Revise(revision) = operation else { panic!("{operation:?}") };
        assert!(revision.now().is_none(), "{revision:?}");
        *by.entry(peer).or_default() += 1;
        removed.push(revision.seen().cid);
    }
    assert_eq!(removed.len(), 30, "each once");
    assert_eq!(removed.into_iter().collect::<BTreeSet<_>>(), cids);
    assert_eq!(by.len(), 3, "everybody has a share: {by:?}");
}

#[tokio::test(start_paused = true)]
async fn the_health_graph_shows_whom_each_peer_and_its_daemon_sees() {
    let peers = Peers::start(3).await;
    let [a, b, c] = &peers.members[..] else { unreachable!() };
    c.faults.down("off");
    let graph = a.cluster.connect_graph().await.unwrap();
    assert_eq!(graph.cluster_id, Some(a.id));
    assert_eq!(graph.cluster_links[&b.id].iter().collect::<BTreeSet<_>>(), [&a.id, &c.id].into());
    assert_eq!(graph.id_to_peername[&c.id], "peer-2");
    assert_eq!(graph.cluster_trust_links, [(a.id, true), (b.id, true), (c.id, true)].into());
    assert_eq!(graph.cluster_to_ipfs, [(a.id, a.ipfs.peer()), (b.id, b.ipfs.peer())].into());
    assert_eq!(graph.ipfs_links[&b.ipfs.peer()].len(), 2);
    assert!(!graph.ipfs_links.contains_key(&c.ipfs.peer()), "its daemon is off");
    peers.kill(1).await;
    let graph = a.cluster.connect_graph().await.unwrap();
    assert_eq!(graph.cluster_links[&b.id], []);
    assert_eq!(graph.cluster_links[&a.id], [c.id]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_joins_is_a_member_at_once_and_daemons_find_each_other() {
    let mut peers = Peers::none();
    let (a, b) = (peers.add(config()).await, peers.add(config()).await);
    assert_eq!(b.cluster.peers().await.unwrap().len(), 1);
    let nowhere = parse_multiaddr("/memory/77").unwrap();
    let error = b.cluster.join(std::slice::from_ref(&nowhere)).await.unwrap_err();
    assert!(error.to_string().contains("joining through /memory/77"), "{error}");
    let own = b.cluster.id().await.addresses.unwrap();
    assert_eq!(b.cluster.join(&own).await.unwrap(), []);
    let mut addresses = a.cluster.id().await.addresses.unwrap();
    addresses.insert(0, nowhere);
    assert_eq!(b.cluster.join(&addresses).await.unwrap(), [a.id]);
    assert_eq!(b.cluster.peers().await.unwrap().len(), 2, "for the one who joins at once");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(a.cluster.peers().await.unwrap().len(), 2, "for the others with its first ping");
    assert!(!a.cluster.metrics("freespace").iter().all(|metric| metric.peer != b.id));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(b.cluster.metrics("freespace").len(), 2, "who lets it in says how much room there is");
    // Two daemons that were strangers.
    let cid = a.ipfs.add_sample("only here");
    b.cluster.pin(cid, PinOptions::default()).await.unwrap();
    b.cluster.wait(cid).past_errors().timeout(Duration::from_secs(1200)).await.unwrap();
    assert!(b.ipfs.is_pinned(&cid, PinMode::Recursive).await.unwrap());
    let info = a.cluster.add_peer(&b.id).await.unwrap();
    assert_eq!((info.id, info.peername.as_str()), (b.id, "peer-1"));
    assert_eq!(a.cluster.remove_peer(&b.id).await.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn a_follower_writes_nothing_and_answers_for_itself_alone() {
    let peers = Peers::start_with(3, |number| ClusterConfig { follower_mode: number == 2, ..config() }).await;
    let [a, _, follower] = &peers.members[..] else { unreachable!() };
    let cid = a.ipfs.add_sample("content");
    a.cluster
        .pin(cid, PinOptions { expire_at: Some(today() + Duration::from_secs(300)), ..replicas(-1, -1) })
        .await
        .unwrap();
    let info = follower.cluster.wait(cid).await.unwrap();
    assert_eq!(statuses(&info), [(follower.id, Pinned)].into());
    assert_eq!(lines(&follower.cluster, StatusFilter::ALL).await[0].peer_map.len(), 1);
    assert_eq!(a.cluster.wait(cid).await.unwrap().peer_map.len(), 3, "others ask it all the same");
    assert_eq!(follower.cluster.peers().await.unwrap().len(), 3);
    assert_eq!(follower.cluster.unpin(&cid).await.unwrap_err().kind(), ErrorKind::ReadOnly);
    peers.log.take();
    peers.kill(0).await;
    peers.kill(1).await;
    until("the pin has expired", || async { follower.cluster.peers().await.unwrap().len() == 1 }).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!peers.log.take().iter().any(|(by, _)| *by == follower.id));
    assert!(follower.cluster.alerts().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_is_not_trusted_gets_no_answers_and_is_nobodys_choice() {
    let peers = Peers::start(3).await;
    let [a, _, stranger] = &peers.members[..] else { unreachable!() };
    let cid = a.ipfs.add_sample("content");
    a.cluster.pin(cid, PinOptions::default()).await.unwrap();
    a.cluster.wait(cid).await.unwrap();
    peers.log.distrust(stranger.id);
    let info = stranger.cluster.status(&cid, Scope::Global).await.unwrap();
    assert_eq!(statuses(&info), [(stranger.id, Pinned)].into(), "who does not trust us is left out");
    assert_eq!(lines(&stranger.cluster, StatusFilter::ALL).await[0].peer_map.len(), 1);
    assert_eq!(stranger.cluster.peers().await.unwrap().len(), 3, "everybody may ask who they are");
    assert!(!a.cluster.connect_graph().await.unwrap().cluster_trust_links[&stranger.id]);
    assert_eq!(a.cluster.status(&cid, Scope::Global).await.unwrap().peer_map.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_made_to_call_whom_a_stranger_names() {
    let peers = Peers::start(2).await;
    let [a, b] = &peers.members[..] else { unreachable!() };
    let stranger = Arc::new(peers.network.join(peer(50)).unwrap());
    peers.log.distrust(peer(50));
    let client = PeerClient::new(stranger.clone());
    let error = client.peer_add(&a.id, &b.id).await.unwrap_err();
    assert!(error.to_string().contains("may add itself"), "{error}");
    assert_eq!(client.status(&a.id, &Block::raw("x").cid).await.unwrap_err().kind(), ErrorKind::Unauthorized);
    assert_eq!(client.version(&a.id).await.unwrap().version, "1.1.6");
    stranger.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_cannot_serve_calls_is_undone_and_one_that_stopped_comes_back() {
    let mut peers = Peers::none();
    let first = peers.add(config()).await;
    assert!(matches!(first.cluster.shutdown().await, StopReason::Requested));
    peers.members.clear();
    let again = peers.add(config()).await;
    assert_eq!(again.id, first.id);

    // Somebody else serves the calls already.
    let transport = Arc::new(peers.network.join(peer(60)).unwrap());
    #[derive(Debug)]
    struct Nothing;
    #[async_trait::async_trait]
    impl StreamHandler for Nothing {
        async fn handle(&self, _: PeerId, _: PeerStream) {}
    }
    transport.accept(Protocol::new(RPC_PROTOCOL), Arc::new(Nothing)).unwrap();
    let storage = Arc::new(MemoryStorage::new());
    let started = Cluster::builder()
        .preset(presets::InMemory)
        .transport(Arc::clone(&transport))
        .storage(Arc::clone(&storage))
        .start()
        .await;
    assert_eq!(started.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(storage.approximate_bytes().unwrap_err().kind(), ErrorKind::ShutDown);
    let port = transport.accept(Protocol::new("/other"), Arc::new(Nothing));
    assert_eq!(port.unwrap_err().kind(), ErrorKind::ShutDown);
}

#[tokio::test(start_paused = true)]
async fn equal_pinsets_have_equal_digests() {
    let peers = Peers::start(3).await;
    let [a, b, c] = &peers.members[..] else { unreachable!() };
    for member in [a, b, c] {
        member.cluster.pin(member.ipfs.add_sample("x"), PinOptions::default()).await.unwrap();
    }
    let stranger = Arc::new(peers.network.join(peer(50)).unwrap());
    let client = PeerClient::new(stranger);
    let digests = [client.pinset_digest(&a.id).await, client.pinset_digest(&b.id).await];
    let [one, other] = digests.map(|digest| digest.unwrap());
    assert_eq!((one.count, one.hash), (other.count, other.hash));
    assert_eq!(one.hash, a.cluster.state().counts().sum.to_be_bytes());
}

#[tokio::test(start_paused = true)]
async fn where_members_are_removed_their_pins_go_first_and_then_they_stop() {
    let leaving = |number| ClusterConfig { leave_on_shutdown: number == 2, ..config() };
    let mut peers = Peers::none();
    peers.log.call_the_roll((0..4).map(peer));
    for number in 0..4 {
        peers.add(leaving(number)).await;
    }
    peers.meet().await;
    let first = peers.members[0].cluster.clone();
    pin_many(&peers, 20, replicas(2, 2)).await;
    let removed = &peers.members[3];
    assert_eq!(holds(&first, removed.id).await, 10);
    first.remove_peer(&removed.id).await.unwrap();
    assert_eq!(holds(&first, removed.id).await, 0, "while it still could be asked");
    assert!(matches!(removed.cluster.stopped().await, StopReason::Removed));
    assert_eq!(first.peers().await.unwrap().len(), 3);

    peers.members[2].cluster.shutdown().await;
    assert_eq!(first.peers().await.unwrap().len(), 2, "it left");
    peers.members[1].cluster.shutdown().await;
    assert_eq!(first.peers().await.unwrap().len(), 2, "it only stopped");
}

#[tokio::test(start_paused = true)]
async fn a_peer_refuses_the_calls_it_was_told_to() {
    let mut peers = Peers::none();
    let first = peers.add(config()).await;
    let closed = peers.add_built(config(), |builder| builder.refuse_calls([Method::RepoGcLocal])).await;
    peers.meet().await;
    let gc = first.cluster.repo_gc(Scope::Global).await.unwrap();
    assert_eq!(gc.peer_map.keys().collect::<Vec<_>>(), [&first.id], "left out as who does not trust us");
    assert_eq!(closed.cluster.repo_gc(Scope::Global).await.unwrap().peer_map.len(), 2);
}
