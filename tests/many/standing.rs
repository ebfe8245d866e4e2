//! Whether pinsets are in sync, as peers say it of each other.

use std::sync::Arc;
use std::time::Duration;

use ipfs_cluster::cluster::Cluster;
use ipfs_cluster::rpc::EXTRA_PROTOCOL;
use ipfs_cluster::transport::{PeerStream, PeerTransport as _, Protocol, StreamHandler};
use ipfs_cluster::types::{Block, PeerId, Pin, PinOptions, PinsetStanding};
use tokio::time::Instant;

use super::parts::{Foreign, Peers, SharedLog, config};

/// Takes streams and says nothing.
#[derive(Debug)]
struct Silent;

#[async_trait::async_trait]
impl StreamHandler for Silent {
    async fn handle(&self, _: PeerId, _stream: PeerStream) {
        std::future::pending().await
    }
}

fn pin(number: u8) -> Pin {
    let everywhere =
        PinOptions { replication_factor_min: -1, replication_factor_max: -1, ..PinOptions::default() };
    Pin::new(Block::raw(vec![number]).cid, everywhere)
}

async fn listed(cluster: &Cluster, peer: &PeerId) -> PinsetStanding {
    let infos = cluster.peers().await.unwrap();
    let own = infos.iter().find(|info| info.id == cluster.peer_id()).unwrap();
    assert_eq!(own.pinset, PinsetStanding::Unknown, "it is what the others are compared with");
    let asked = cluster.pinset_standings().await.unwrap();
    assert_eq!(asked.len(), infos.len() - 1);
    let info = infos.into_iter().find(|info| info.id == *peer).unwrap();
    assert_eq!(info.error, "");
    assert_eq!(asked[peer], info.pinset);
    info.pinset
}

#[tokio::test(start_paused = true)]
async fn peers_say_of_each_other_whether_they_are_in_sync_or_how_far_behind() {
    let mut peers = Peers::none();
    let a = peers.add(config()).await;
    let b = peers.add(config()).await;
    // This one hears nothing of what the others log.
    let own_log = SharedLog::default();
    let apart = peers.add_built(config(), |builder| builder.consensus_with(move |cx| own_log.open(cx))).await;
    peers.meet().await;
    assert_eq!(listed(&a.cluster, &apart.id).await, PinsetStanding::InSync, "nobody has a pin");
    for number in 0..3 {
        a.cluster.consensus().log_pin(pin(number)).await.unwrap();
    }
    assert_eq!(listed(&a.cluster, &b.id).await, PinsetStanding::InSync);
    assert_eq!(listed(&a.cluster, &apart.id).await, PinsetStanding::Behind(3));
    assert_eq!(listed(&apart.cluster, &a.id).await, PinsetStanding::Ahead(3));
    for number in [9, 1, 2] {
        apart.cluster.consensus().log_pin(pin(number)).await.unwrap();
    }
    assert_eq!(listed(&a.cluster, &apart.id).await, PinsetStanding::Diverged, "as many, but others");
    apart.cluster.consensus().log_unpin(&pin(9).cid).await.unwrap();
    apart.cluster.consensus().log_pin(pin(0)).await.unwrap();
    assert_eq!(listed(&apart.cluster, &b.id).await, PinsetStanding::InSync, "in whatever order");

    peers.kill(1).await;
    assert_eq!(a.cluster.pinset_standings().await.unwrap()[&b.id], PinsetStanding::Unknown);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_of_the_pins_of_a_go_peer_and_nobody_waits_long_for_who_does_not_tell() {
    let peers = Peers::start(2).await;
    let [a, b] = &peers.members[..] else { unreachable!() };
    let foreign = ipfs_cluster::testing::peer(77);
    let (transport, _monitor) = Foreign::new(foreign, Vec::new()).start(&peers).await;
    let begin = Instant::now();
    assert_eq!(listed(&a.cluster, &foreign).await, PinsetStanding::Unknown);
    let ordinary = begin.elapsed();
    assert!(ordinary < Duration::from_millis(500), "{ordinary:?}");
    let infos = a.cluster.peers().await.unwrap();
    for info in &infos {
        let json = serde_json::to_value(info).unwrap();
        let expected = (info.id == b.id).then(|| "in sync".into());
        assert_eq!(json.get("pinset").cloned(), expected, "left out where nothing is known");
    }

    transport.accept(Protocol::new(EXTRA_PROTOCOL), Arc::new(Silent)).unwrap();
    let begin = Instant::now();
    let infos = a.cluster.peers().await.unwrap();
    assert!(infos.iter().all(|info| info.error.is_empty()), "{infos:?}");
    assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());
}
