//! Pins through the API, on an embedded daemon.

use ipfs_cluster::api::rest::RestApiSection;
use ipfs_cluster::cluster::{Scope, Until};
use ipfs_cluster::ipfs_connector::IpfsConnector as _;
use ipfs_cluster::types::{PinMode, TrackerStatus};

use super::{Peer, soon};

#[tokio::test]
async fn a_pin_lives_from_post_to_delete() {
    let peer = Peer::start().await;
    let mut caller = peer.caller().await;
    let cid = peer.ipfs.add_sample("content");

    let pinned = soon(caller.call("POST", &format!("/pins/{cid}?name=first&meta-a=b"))).await;
    assert_eq!(pinned.status, 200, "{}", pinned.text());
    assert_eq!(pinned.json()["metadata"]["a"], "b");
    soon(peer.cluster.wait(cid).into_future()).await.unwrap();

    let status = soon(caller.call("GET", &format!("/pins/{cid}"))).await.json();
    assert_eq!(status["peer_map"][peer.cluster.peer_id().to_string()]["status"], "pinned");
    assert_eq!(soon(caller.call("GET", "/pins?local=true&filter=pinned")).await.lines().len(), 1);
    assert_eq!(soon(caller.call("GET", "/pins?filter=queued,error")).await.status, 204);
    let stored = soon(caller.call("GET", &format!("/allocations/{cid}"))).await.json();
    assert_eq!(
        soon(caller.call("GET", "/allocations?filter=all")).await.lines(),
        std::slice::from_ref(&stored)
    );
    assert_eq!(soon(caller.call("GET", "/allocations?filter=shard-pin")).await.status, 204);

    assert_eq!(soon(caller.call("DELETE", &format!("/pins/{cid}"))).await.json(), stored);
    let gone = soon(caller.call("DELETE", &format!("/pins/{cid}"))).await;
    assert_eq!(
        (gone.status, gone.text().as_str()),
        (404, "{\"code\":404,\"message\":\"pin is not part of the pinset\"}\n")
    );
    soon(peer.cluster.wait(cid).until(Until::Gone).into_future()).await.unwrap();
}

#[tokio::test]
async fn direct_by_cid_is_really_direct() {
    let peer = Peer::start().await;
    let cid = peer.ipfs.add_sample("content");
    let pinned = soon(peer.caller().await.call("POST", &format!("/pins/{cid}?mode=direct"))).await.json();
    assert_eq!((pinned["mode"].as_str(), pinned["max_depth"].as_i64()), (Some("direct"), Some(0)));
    soon(peer.cluster.wait(cid).into_future()).await.unwrap();
    assert!(peer.ipfs.is_pinned(&cid, PinMode::Direct).await.unwrap());
}

#[tokio::test]
async fn nothing_is_pinned_when_the_query_cannot_be_read() {
    let peer = Peer::start().await;
    let mut caller = peer.caller().await;
    let cid = peer.ipfs.add_sample("content");
    for query in ["replication-min=abc", "mode=weird", "user-allocations=x", "expire-in=1ms", "name=%zz"] {
        for path in [format!("/pins/{cid}?{query}"), format!("/pins/ipfs/{cid}?{query}")] {
            let received = soon(caller.call("POST", &path)).await;
            assert_eq!((received.status, received.json()["code"].as_u64()), (400, Some(400)), "{path}");
        }
    }
    assert_eq!(soon(caller.call("GET", &format!("/allocations/{cid}"))).await.status, 404);
}

#[tokio::test]
async fn sync_tells_of_a_manual_unpin_and_recover_mends_it() {
    let peer = Peer::start().await;
    let mut caller = peer.caller().await;
    let cid = peer.ipfs.add_sample("content");
    let me = peer.cluster.peer_id().to_string();
    assert_eq!(soon(caller.call("POST", &format!("/pins/{cid}"))).await.status, 200);
    soon(peer.cluster.wait(cid).into_future()).await.unwrap();
    assert_eq!(soon(caller.call("POST", "/pins/sync")).await.status, 204);

    peer.ipfs.unpin(&cid).await.unwrap();
    let changed = soon(caller.call("POST", "/pins/sync?local=true")).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert_eq!(changed.lines()[0]["peer_map"][&me]["status"], "unexpectedly_unpinned");
    assert_eq!(changed.stream_errors(), [""]);
    let one = soon(caller.call("POST", &format!("/pins/{cid}/sync"))).await.json();
    assert_eq!(one["peer_map"][&me]["status"], "unexpectedly_unpinned");
    assert!(!peer.ipfs.is_pinned(&cid, PinMode::Recursive).await.unwrap(), "sync pins nothing");

    assert_eq!(soon(caller.call("POST", "/pins/recover")).await.lines().len(), 1);
    soon(peer.cluster.wait(cid).past_errors().into_future()).await.unwrap();
    let status = peer.cluster.status(&cid, Scope::Local).await.unwrap();
    assert_eq!(status.peer_map[&peer.cluster.peer_id()].status, TrackerStatus::Pinned);

    let other = peer.ipfs.add_sample("other");
    for action in ["sync", "recover"] {
        assert_eq!(
            soon(caller.call("POST", &format!("/pins/{other}/{action}?local=true"))).await.status,
            404
        );
        assert_eq!(soon(caller.call("POST", &format!("/pins/{other}/{action}"))).await.status, 200);
    }
}

#[tokio::test]
async fn garbage_is_collected() {
    let peer = Peer::start().await;
    let cid = peer.ipfs.add_sample("content");
    let me = peer.cluster.peer_id().to_string();
    let collected = soon(peer.caller().await.call("POST", "/ipfs/gc")).await.json();
    let keys = collected["peer_map"][&me]["keys"].as_array().unwrap().clone();
    assert!(keys.iter().any(|key| key["key"] == cid.to_string()), "{collected}");
}

#[tokio::test]
async fn a_section_of_a_configuration_file_serves() {
    let section: RestApiSection =
        serde_json::from_str(r#"{"http_listen_multiaddress":"/ip4/127.0.0.1/tcp/0"}"#).unwrap();
    let peer = Peer::with((&section).try_into().unwrap(), |builder| builder).await;
    assert_eq!(soon(peer.caller().await.call("GET", "/health")).await.status, 204);
}
