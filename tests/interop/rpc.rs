//! Calls between peers, both ways: every method that peers of the reference call, and how it refuses the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use ipfs_cluster::ErrorKind;
use ipfs_cluster::rpc::PeerClient;
use ipfs_cluster::transport::PeerTransport;
use ipfs_cluster::types::{
    Block, Cid, IpfsId, PeerInfo, Pin, PinInfo, PinStatus, RepoGcKey, RepoStat, StatusFilter, Timestamp,
    TrackerStatus,
};
use serde_json::{Value, json};

use crate::gopeer::{GoConfig, GoPeer, everywhere, until};
use crate::ours::{Table, Trust, address, host, keypair};
use crate::program;

/// More than a page of ours, and than what the reference buffers.
const MANY: usize = 3_000;

fn cid(number: usize) -> Cid {
    Block::raw(format!("content {number}")).cid
}

/// Everything of a status that travels.
fn full_info(transport: &dyn PeerTransport, number: usize) -> PinInfo {
    let peer = transport.local_peer();
    let daemon = keypair("daemon").public().to_peer_id();
    PinInfo {
        cid: cid(number),
        name: format!("pin {number} äöü"),
        allocations: vec![peer, daemon],
        origins: vec![format!("/ip4/10.0.0.1/tcp/4001/p2p/{daemon}").parse().unwrap()],
        created: Some(Timestamp::from_unix_seconds(1_700_000_000)),
        metadata: BTreeMap::from([
            ("key".to_owned(), "value".to_owned()),
            ("empty".to_owned(), String::new()),
        ]),
        peer,
        status: PinStatus {
            peername: "ours".to_owned(),
            ipfs_peer_id: Some(daemon),
            ipfs_peer_addresses: vec!["/ip4/10.0.0.2/tcp/4001".parse().unwrap()],
            status: if number.is_multiple_of(3) { TrackerStatus::PinError } else { TrackerStatus::Pinned },
            timestamp: Some(Timestamp::from_unix_nanoseconds(1_700_000_001_500_000_000)),
            error: if number.is_multiple_of(3) { "an error".to_owned() } else { String::new() },
            attempt_count: 300,
            priority_pin: true,
        },
    }
}

/// The reference's JSON of a `PinInfo`.
fn json_of(info: &PinInfo) -> Value {
    let mut value = serde_json::to_value(&info.status).unwrap();
    value["cid"] = json!(info.cid.to_string());
    value["name"] = json!(info.name);
    value["peer"] = json!(info.peer.to_string());
    value["allocations"] = json!(info.allocations.iter().map(ToString::to_string).collect::<Vec<_>>());
    value["origins"] = json!(info.origins);
    value["created"] = json!(info.created);
    value["metadata"] = json!(info.metadata);
    value
}

async fn pair(seed: &str) -> Option<(GoPeer, Arc<dyn PeerTransport>)> {
    let program = crate::gopeer::program()?;
    let go = GoPeer::start(program, GoConfig::new(&format!("{seed} go"))).await;
    let ours = host(&format!("{seed} ours")).await;
    Some((go, ours))
}

#[tokio::test]
async fn every_method_that_go_peers_call_is_answered_as_they_would() {
    let Some((go, ours)) = pair("go calls").await else { return };
    let mut table = Table::new(&ours, "ours");
    let daemon = keypair("daemon").public().to_peer_id();
    table.info.ipfs = IpfsId { id: Some(daemon), addresses: Some(vec![]), error: String::new() };
    table.pins = (0..MANY).map(|number| full_info(&ours, number)).collect();
    table.repo_gc.keys = vec![
        RepoGcKey { key: Some(cid(1)), error: String::new() },
        RepoGcKey { key: None, error: "not that one".to_owned() },
    ];
    table.swarm_peers = vec![daemon, go.id()];
    let table = table.serve(&ours, Trust(None));
    go.connect(&address(&ours)).await.unwrap();
    let to = Some(ours.local_peer());

    let info: PeerInfo = go.rpc(to, "Cluster.ID", vec![]).await.unwrap();
    assert_eq!(info, table.info);
    for method in ["Cluster.IDStream", "Cluster.Peers"] {
        let answer: Vec<PeerInfo> = go.rpc(to, method, vec![]).await.unwrap();
        assert_eq!(answer, std::slice::from_ref(&table.info), "{method}");
    }
    let version: Value = go.rpc(to, "Cluster.Version", vec![]).await.unwrap();
    assert_eq!(version, json!({ "version": "1.1.6" }));
    let added: PeerInfo = go.rpc(to, "Cluster.PeerAdd", vec![json!(go.id().to_string())]).await.unwrap();
    assert_eq!((added.id, added.ipfs.error.as_str()), (go.id(), ""));
    assert!(added.cluster_peers.unwrap().contains(&ours.local_peer()));

    for method in ["PinTracker.Status", "PinTracker.Recover", "Cluster.RecoverLocal"] {
        let answer: Value = go.rpc(to, method, vec![json!(cid(3).to_string())]).await.unwrap();
        assert_eq!(answer, json_of(&table.pins[3]), "{method}");
    }
    for (filter, count) in
        [("undefined", MANY), ("pinned", MANY - MANY.div_ceil(3)), ("error", MANY.div_ceil(3))]
    {
        let filter_json = json!(filter);
        let answer: Vec<Value> = go.rpc(to, "PinTracker.StatusAll", vec![filter_json]).await.unwrap();
        assert_eq!(answer.len(), count, "{filter}");
        let wanted = answer
            .iter()
            .all(|info| filter == "undefined" || (info["status"] == "pinned") == (filter == "pinned"));
        assert!(wanted, "{filter}");
    }
    let recovered: Vec<Value> = go.rpc(to, "Cluster.RecoverAllLocal", vec![]).await.unwrap();
    assert_eq!(recovered, table.pins.iter().map(json_of).collect::<Vec<_>>());

    assert_eq!(go.rpc::<RepoStat>(to, "IPFSConnector.RepoStat", vec![]).await.unwrap(), table.repo_stat);
    let peers: Vec<String> = go.rpc(to, "IPFSConnector.SwarmPeers", vec![]).await.unwrap();
    assert_eq!(peers, [daemon.to_string(), go.id().to_string()]);
    let gc: Value = go.rpc(to, "Cluster.RepoGCLocal", vec![]).await.unwrap();
    assert_eq!(gc["peer"], ours.local_peer().to_string());
    assert_eq!(
        (&gc["keys"][0]["key"], &gc["keys"][1]["error"]),
        (&json!(cid(1).to_string()), &json!("not that one"))
    );

    let blocks = [Block::raw("small"), Block::raw(vec![7; 262_144]), Block::raw(vec![8; 1 << 20])];
    let nodes = blocks.iter().map(|block| {
        let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &block.data);
        json!({ "Data": data, "Cid": block.cid.to_string(), "CumSize": block.data.len() })
    });
    let answer: Vec<Value> = go.rpc(to, "IPFSConnector.BlockStream", nodes.collect()).await.unwrap();
    assert!(answer.is_empty(), "{answer:?}");
    assert_eq!(*table.blocks.lock().unwrap(), blocks);
    go.stop().await;
}

#[tokio::test]
async fn go_peers_get_the_reasons_of_what_fails_and_of_what_is_refused() {
    let Some((go, ours)) = pair("go refused").await else { return };
    let _table = Table::new(&ours, "ours").serve(&ours, Trust(Some(BTreeSet::new())));
    go.connect(&address(&ours)).await.unwrap();
    let to = Some(ours.local_peer());
    go.rpc::<PeerInfo>(to, "Cluster.ID", vec![]).await.unwrap();
    go.rpc::<PeerInfo>(to, "Cluster.PeerAdd", vec![json!(go.id().to_string())]).await.unwrap();
    go.rpc::<Vec<PeerInfo>>(to, "Cluster.IDStream", vec![]).await.unwrap();
    let one = json!(cid(1).to_string());
    for (method, args) in [
        ("PinTracker.Status", vec![one.clone()]),
        ("PinTracker.StatusAll", vec![json!("undefined")]),
        ("Cluster.Peers", vec![]),
        ("Cluster.RecoverAllLocal", vec![]),
        ("IPFSConnector.RepoStat", vec![]),
        // Closed to everybody.
        ("Cluster.Pins", vec![]),
        ("Cluster.Pin", vec![json!(everywhere(&cid(1).to_string(), ""))]),
        ("PinTracker.Track", vec![json!(everywhere(&cid(1).to_string(), ""))]),
        ("PeerMonitor.MetricNames", vec![]),
    ] {
        let refused = go.rpc::<Value>(to, method, args).await.unwrap_err();
        assert_eq!(refused.kind, "authorization", "{method}: {refused:?}");
        assert!(refused.message.contains(method), "{refused:?}");
    }
    for (method, text) in [
        ("Cluster.Nonsense", "rpc: can't find method Nonsense"),
        ("Nonsense.ID", "rpc: can't find service Nonsense"),
    ] {
        let refused = go.rpc::<Value>(to, method, vec![]).await.unwrap_err();
        assert_eq!((refused.kind.as_str(), refused.message.as_str()), ("server", text));
    }

    let trusting = host("go refused, trusting").await;
    let _table = Table::new(&trusting, "trusting").serve(&trusting, Trust(None));
    go.connect(&address(&trusting)).await.unwrap();
    let to = Some(trusting.local_peer());
    let failed = go.rpc::<Value>(to, "PinTracker.Status", vec![one]).await.unwrap_err();
    assert_eq!(
        (failed.kind.as_str(), failed.message.contains("is not in the table")),
        ("plain", true),
        "{failed:?}"
    );
    go.stop().await;
}

#[tokio::test]
async fn every_method_of_a_go_peer_can_be_called() {
    let Some((go, ours)) = pair("we call").await else { return };
    let _table = Table::new(&ours, "ours").serve(&ours, Trust(None));
    ours.connect(&go.address()).await.unwrap();
    let client = PeerClient::new(ours.clone());
    let to = go.id();

    let info = client.id(&to).await.unwrap();
    assert_eq!((info.id, info.peername.as_str(), info.version.as_str()), (to, "we call go", "1.1.6"));
    assert!(info.ipfs.id.is_some() && info.ipfs.error.is_empty(), "{info:?}");
    assert!(info.addresses.as_ref().unwrap().contains(&go.address()), "{info:?}");
    assert_eq!(client.id_stream(&to).await.unwrap().ipfs, info.ipfs);
    assert_eq!(client.version(&to).await.unwrap().version, "1.1.6");
    let added = client.peer_add(&to, &ours.local_peer()).await.unwrap();
    assert_eq!((added.id, added.peername.as_str()), (ours.local_peer(), "ours"));
    let members: Vec<PeerInfo> = client.peers(&to).try_collect().await.unwrap();
    assert!(members.iter().any(|member| member.id == to), "{members:?}");

    let mut pins: Vec<Pin> = (0..MANY).map(|number| everywhere(&cid(number).to_string(), "many")).collect();
    pins[3].options.metadata = BTreeMap::from([("key".to_owned(), "value".to_owned())]);
    pins[3].timestamp = Some(Timestamp::from_unix_seconds(1_700_000_000));
    let broken = cid(3).to_string();
    go.set_ipfs(json!({ "pin_errors": { broken.as_str(): "this one is broken" } })).await;
    go.log_pins(&pins).await;
    let status = until("the broken pin in error", async || {
        let status = client.status(&to, &cid(3)).await.unwrap();
        (status.status.status == TrackerStatus::PinError).then_some(status)
    })
    .await;
    assert_eq!(
        (status.peer, status.name.as_str(), status.status.peername.as_str()),
        (to, "many", "we call go")
    );
    assert_eq!((&status.metadata, status.created), (&pins[3].options.metadata, pins[3].timestamp));
    assert!(status.status.error.contains("this one is broken"), "{status:?}");
    assert!(status.status.attempt_count >= 1, "{status:?}");

    let list = async |filter: StatusFilter| -> Vec<PinInfo> {
        let pages: Vec<Vec<PinInfo>> = client.status_all(&to, filter).try_collect().await.unwrap();
        pages.concat()
    };
    until("all others pinned", async || {
        (list("pinned".parse().unwrap()).await.len() == MANY - 1).then_some(())
    })
    .await;
    assert_eq!(list(StatusFilter::default()).await.len(), MANY);
    assert_eq!(list("error".parse().unwrap()).await.len(), 1);

    go.set_ipfs(json!({ "pin_errors": { broken.as_str(): "" } })).await;
    client.recover(&to, &cid(3)).await.unwrap();
    until("the broken pin pinned", async || {
        (client.status(&to, &cid(3)).await.unwrap().status.status == TrackerStatus::Pinned).then_some(())
    })
    .await;
    go.set_ipfs(json!({ "forget": [cid(4).to_string()] })).await;
    let pages: Vec<Vec<PinInfo>> = client.recover_all_local(&to).try_collect().await.unwrap();
    assert_eq!(pages.concat().iter().map(|info| info.cid).collect::<Vec<_>>(), [cid(4)]);

    let daemon = keypair("daemon").public().to_peer_id();
    go.set_ipfs(json!({
        "repo_stat": { "RepoSize": 5, "StorageMax": u64::MAX },
        "swarm_peers": [daemon.to_string()],
        "collected": [{ "key": cid(9).to_string() }, { "error": "not that one" }],
    }))
    .await;
    let stat = client.repo_stat(&to).await.unwrap();
    assert_eq!(stat, RepoStat { repo_size: 5, storage_max: u64::MAX });
    assert_eq!(client.swarm_peers(&to).await.unwrap(), [daemon]);
    let gc = client.repo_gc(&to).await.unwrap();
    assert_eq!((gc.peer, gc.keys.len()), (to, 2));
    assert_eq!((gc.keys[0].key, gc.keys[1].error.as_str()), (Some(cid(9)), "not that one"));

    let blocks = [Block::raw("small"), Block::raw(vec![7; 262_144]), Block::raw(vec![8; 1 << 20])];
    client.put_blocks(&to, stream::iter(blocks.clone().map(Ok)).boxed()).await.unwrap();
    let held = go.ipfs().await;
    for block in &blocks {
        assert_eq!(held["blocks"][block.cid.to_string()], block.data.len());
    }

    go.set_ipfs(json!({ "down": true })).await;
    let failed = client.repo_stat(&to).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Remote, "{failed}");
    assert!(failed.to_string().contains("the IPFS daemon does not answer"), "{failed}");
    let info = client.id(&to).await.unwrap();
    assert_eq!((info.ipfs.id, info.ipfs.error.as_str()), (None, "the IPFS daemon does not answer"));
    let pages: Result<Vec<_>, _> = client.status_all(&to, StatusFilter::default()).try_collect().await;
    assert!(pages.is_err(), "{pages:?}");
    // Ours alone, and said so at once.
    assert_eq!(client.pinset_digest(&to).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(client.sync(&to, &cid(1)).await.unwrap_err().kind(), ErrorKind::Unsupported);
    go.stop().await;
}

#[tokio::test]
async fn a_go_peer_that_does_not_trust_us_answers_only_what_is_open() {
    let program = program!();
    let go = GoPeer::start(program, GoConfig::new("untrusting go").trusting(&[])).await;
    let ours = host("untrusting ours").await;
    let _table = Table::new(&ours, "ours").serve(&ours, Trust(None));
    ours.connect(&go.address()).await.unwrap();
    let client = PeerClient::new(ours.clone());
    client.id(&go.id()).await.unwrap();
    client.peer_add(&go.id(), &ours.local_peer()).await.unwrap();
    assert_eq!(client.status(&go.id(), &cid(1)).await.unwrap_err().kind(), ErrorKind::Unauthorized);
    assert_eq!(client.repo_stat(&go.id()).await.unwrap_err().kind(), ErrorKind::Unauthorized);
    let pages: Result<Vec<_>, _> = client.status_all(&go.id(), StatusFilter::default()).try_collect().await;
    assert_eq!(pages.unwrap_err().kind(), ErrorKind::Unauthorized);
    let blocks = stream::iter([Ok(Block::raw("block"))]).boxed();
    assert_eq!(client.put_blocks(&go.id(), blocks).await.unwrap_err().kind(), ErrorKind::Unauthorized);
    go.run("trust", json!(ours.local_peer().to_string())).await.unwrap();
    client.repo_stat(&go.id()).await.unwrap();
    go.stop().await;
}

#[tokio::test]
async fn a_go_peer_bootstraps_from_ours() {
    let Some((go, ours)) = pair("bootstrap").await else { return };
    let table = Table::new(&ours, "ours").serve(&ours, Trust(None));
    go.join(&address(&ours)).await.unwrap();
    let methods: BTreeSet<_> =
        table.calls.lock().unwrap().iter().map(|call| call.method().to_string()).collect();
    assert!(methods.contains("Cluster.PeerAdd"), "{methods:?}");
    let members: Vec<PeerInfo> = go.rpc(None, "Cluster.Peers", vec![]).await.unwrap();
    assert!(members.iter().any(|member| *member == table.info), "{members:?}");
    go.stop().await;
}
