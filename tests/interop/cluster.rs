//! Whole peers: each kind lists, asks, allocates to and misses the other as its own kind.

use ipfs_cluster::cluster::Scope;
use ipfs_cluster::types::{
    Block, ConnectGraph, GlobalPinInfo, PeerId, PeerInfo, Pin, PinOptions, TrackerStatus,
};
use serde_json::{Value, json};

use crate::gopeer::{GoConfig, GoPeer, everywhere, until};
use crate::ours::{OurConfig, OurPeer};
use crate::program;

/// The status of each peer that is listed, if these are all.
fn statuses(info: &GlobalPinInfo, peers: &[PeerId]) -> Option<Vec<TrackerStatus>> {
    let all = peers.iter().map(|peer| info.peer_map.get(peer).map(|status| status.status));
    all.collect::<Option<Vec<_>>>().filter(|_| info.peer_map.len() == peers.len())
}

/// Both peers, each a member for the other.
pub(crate) async fn members(program: &std::path::Path, seed: &str, we_join: bool) -> (GoPeer, OurPeer) {
    let config = GoConfig::new(&format!("{seed} go")).with("pubsubmon.check_interval", "500ms");
    let go = GoPeer::start(program, config).await;
    let ours = OurPeer::start(OurConfig::new(&format!("{seed} ours"))).await;
    if we_join {
        ours.cluster.join(&[go.address()]).await.unwrap();
    } else {
        go.join(&ours.address()).await.unwrap();
    }
    until("members for each other, with all their metrics", async || {
        let there: Vec<PeerInfo> = go.rpc(None, "Cluster.Peers", vec![]).await.unwrap();
        let here = ours.cluster.peers().await.unwrap();
        let mut known = true;
        for name in ["freespace", "tag:group"] {
            known &= go.metrics(name).await.len() == 2 && ours.cluster.metrics(name).len() == 2;
        }
        (there.len() == 2 && here.len() == 2 && known).then_some(())
    })
    .await;
    (go, ours)
}

#[tokio::test]
async fn each_kind_lists_the_other_and_draws_it() {
    let program = program!();
    for (seed, we_join) in [("we join", true), ("go joins", false)] {
        let (go, ours) = members(program, seed, we_join).await;
        let there: Vec<PeerInfo> = go.rpc(None, "Cluster.Peers", vec![]).await.unwrap();
        let here = ours.cluster.peers().await.unwrap();
        for list in [&there, &here] {
            let names: Vec<&str> = list.iter().map(|info| info.peername.as_str()).collect();
            assert!(names.contains(&format!("{seed} go").as_str()), "{names:?}");
            assert!(names.contains(&format!("{seed} ours").as_str()), "{names:?}");
            for info in list {
                assert_eq!((info.error.as_str(), info.ipfs.error.as_str()), ("", ""), "{info:?}");
                assert_eq!(info.cluster_peers.as_ref().unwrap().len(), 2, "{info:?}");
            }
        }
        let drawn: Value = go.rpc(None, "Cluster.ConnectGraph", vec![]).await.unwrap();
        let graph: ConnectGraph = ours.cluster.connect_graph().await.unwrap();
        let own = serde_json::to_value(&graph).unwrap();
        for name in ["id_to_peername", "cluster_links", "cluster_trust_links", "cluster_to_ipfs"] {
            assert_eq!(drawn[name], own[name], "{name}");
        }
        ours.stop().await;
        go.stop().await;
    }
}

#[tokio::test]
async fn pins_are_held_by_both_kinds_and_each_merges_what_the_other_says() {
    let program = program!();
    let (go, ours) = members(program, "status", true).await;
    let both = [go.id(), ours.id()];
    let cids = ["one", "two", "three"].map(|text| ours.ipfs.add_sample(text));

    let [everyone, allocated, mine] = cids;
    let _: Pin =
        go.rpc(None, "Cluster.Pin", vec![json!(everywhere(&everyone.to_string(), "by go"))]).await.unwrap();
    let mut to_ours = everywhere(&allocated.to_string(), "allocated by go");
    to_ours.options.replication_factor_min = 1;
    to_ours.options.replication_factor_max = 1;
    to_ours.options.user_allocations = vec![ours.id()];
    let pinned: Pin = go.rpc(None, "Cluster.Pin", vec![json!(to_ours)]).await.unwrap();
    assert_eq!(pinned.allocations, [ours.id()]);
    let options = PinOptions {
        replication_factor_min: 1,
        replication_factor_max: 1,
        user_allocations: vec![go.id()],
        ..PinOptions::default()
    };
    assert_eq!(ours.cluster.pin(mine, options).await.unwrap().allocations, [go.id()]);

    use TrackerStatus::{Pinned, Remote};
    for (cid, wanted) in
        [(everyone, [Pinned, Pinned]), (allocated, [Remote, Pinned]), (mine, [Pinned, Remote])]
    {
        until("the same status from both", async || {
            let there: GlobalPinInfo =
                go.rpc(None, "Cluster.Status", vec![json!(cid.to_string())]).await.unwrap();
            let here = ours.cluster.status(&cid, Scope::Global).await.ok()?;
            (statuses(&there, &both)? == wanted && statuses(&here, &both)? == wanted).then_some(())
        })
        .await;
    }
    let all: Vec<GlobalPinInfo> = go.rpc(None, "Cluster.StatusAll", vec![json!("undefined")]).await.unwrap();
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|info| statuses(info, &both).is_some()), "{all:?}");

    // What fails on one side is seen, and recovered, from the other.
    go.set_ipfs(json!({ "forget": [mine.to_string()] })).await;
    let lost = ours.cluster.status(&mine, Scope::Global).await.unwrap();
    assert_ne!(statuses(&lost, &both).unwrap()[0], Pinned, "{lost:?}");
    ours.cluster.recover(&mine, Scope::Global).await.unwrap();
    until("recovered by ours", async || {
        let here = ours.cluster.status(&mine, Scope::Global).await.unwrap();
        (statuses(&here, &both)?[0] == Pinned).then_some(())
    })
    .await;

    // An addition of the Go peer ends on our daemon.
    let block = Block::raw("added through go");
    let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &block.data);
    let node = json!({ "Data": data, "Cid": block.cid.to_string(), "CumSize": block.data.len() });
    let _: Value = go.rpc(Some(ours.id()), "IPFSConnector.BlockStream", vec![node]).await.unwrap();
    assert!(ours.ipfs.has_block(&block.cid));

    let _: Pin =
        go.rpc(None, "Cluster.Unpin", vec![json!(everywhere(&everyone.to_string(), ""))]).await.unwrap();
    ours.cluster.unpin(&mine).await.unwrap();
    until("one pin left on both", async || {
        (go.state().await.len() == 1 && ours.state().await.len() == 1).then_some(())
    })
    .await;
    ours.stop().await;
    go.stop().await;
}

#[tokio::test]
async fn each_kind_misses_the_other_when_it_is_gone() {
    let program = program!();
    let (go, ours) = members(program, "gone one", true).await;
    let id = go.id();
    go.kill().await;
    until("an alert on ours, and one member left", async || {
        let alerts = ours.cluster.alerts();
        let alert = alerts.iter().any(|alert| alert.metric.name == "ping" && alert.metric.peer == id);
        (alert && ours.cluster.peers().await.unwrap().len() == 1).then_some(())
    })
    .await;
    ours.stop().await;

    let (go, ours) = members(program, "gone two", false).await;
    let id = ours.id().to_string();
    ours.stop().await;
    until("an alert on the Go peer, and one member left", async || {
        let alerts = go.run("alerts", Value::Null).await.unwrap();
        let alert =
            alerts.as_array()?.iter().any(|alert| alert["name"] == "ping" && alert["peer"] == id.as_str());
        let members: Vec<PeerInfo> = go.rpc(None, "Cluster.Peers", vec![]).await.unwrap();
        (alert && members.len() == 1).then_some(())
    })
    .await;
    go.stop().await;
}
