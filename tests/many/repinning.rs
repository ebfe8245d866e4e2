//! Pins of peers that die.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_pins_of_a_peer_that_dies_go_elsewhere_and_those_of_the_next_one_too() {
    let peers = Peers::start(5).await;
    let first = peers.members[0].cluster.clone();
    let cids = pin_many(&peers, 40, replicas(2, 2)).await;
    for (dead, left) in [(4, 4), (3, 3)] {
        let id = peers.members[dead].id;
        let affected = holds(&first, id).await;
        assert!(affected > 5, "{affected}");
        peers.log.take();
        peers.kill(dead).await;
        until("nothing is allocated to the dead", || async { holds(&first, id).await == 0 }).await;
        let logged = peers.log.take();
        assert_eq!(logged.len(), affected, "each pin once, by one peer");
        let by: BTreeSet<_> = logged.iter().map(|(peer, _)| *peer).collect();
        assert!(by.len() > 1 && !by.contains(&id), "{by:?}");
        for pin in pinset(&first).await {
            assert_eq!(pin.allocations.iter().collect::<BTreeSet<_>>().len(), 2, "{pin:?}");
        }
        for cid in &cids {
            let info = first.wait(*cid).timeout(Duration::from_secs(60)).await.unwrap();
            assert_eq!(info.peer_map.len(), left);
        }
    }
    let alerts: BTreeSet<_> = first.alerts().into_iter().map(|alert| alert.metric.peer).collect();
    assert_eq!(alerts, [peers.members[3].id, peers.members[4].id].into());
}

#[tokio::test(start_paused = true)]
async fn two_that_die_together_leave_nothing_behind() {
    let peers = Peers::start(5).await;
    let first = peers.members[0].cluster.clone();
    pin_many(&peers, 40, replicas(2, 2)).await;
    let dead = [peers.members[1].id, peers.members[2].id];
    peers.kill(1).await;
    // The first alert of one comes while the other still seems to live.
    tokio::time::sleep(Duration::from_secs(7)).await;
    peers.kill(2).await;
    until("nothing is allocated to the dead", || async {
        holds(&first, dead[0]).await + holds(&first, dead[1]).await == 0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pins_that_have_enough_living_holders_stay_as_they_are() {
    let peers = Peers::start(4).await;
    let first = peers.members[0].cluster.clone();
    pin_many(&peers, 20, replicas(1, 2)).await;
    let everywhere = peers.members[0].ipfs.add_sample("everywhere");
    first.pin(everywhere, PinOptions::default()).await.unwrap();
    let before = pinset(&first).await;
    peers.log.take();
    peers.kill(3).await;
    until("it is alerted", || async { !first.alerts().is_empty() }).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(peers.log.take(), []);
    assert_eq!(pinset(&first).await, before);
}

#[tokio::test(start_paused = true)]
async fn what_has_nowhere_to_go_is_tried_again_when_there_is_room() {
    let mut peers = Peers::start(2).await;
    let first = peers.members[0].cluster.clone();
    pin_many(&peers, 10, replicas(2, 2)).await;
    let dead = peers.members[1].id;
    peers.kill(1).await;
    until("it is alerted", || async { !first.alerts().is_empty() }).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(holds(&first, dead).await, 10, "there is nobody else");
    let newcomer = peers.add(config()).await;
    let address = first.id().await.addresses.unwrap();
    newcomer.cluster.join(&address).await.unwrap();
    let begin = Instant::now();
    until("the newcomer has them", || async { holds(&first, dead).await == 0 }).await;
    // Waits grow from the interval of pings to that of state syncs.
    assert!(begin.elapsed() < Duration::from_secs(70), "{:?}", begin.elapsed());
    assert_eq!(holds(&first, newcomer.id).await, 10);
}

#[tokio::test(start_paused = true)]
async fn with_repinning_disabled_pins_stay_and_alerts_go_on() {
    let peers = Peers::start_with(3, |_| ClusterConfig::default()).await;
    let first = peers.members[0].cluster.clone();
    pin_many(&peers, 10, replicas(2, 2)).await;
    peers.log.take();
    for dead in [2, 1] {
        peers.kill(dead).await;
        let id = peers.members[dead].id;
        until("it is alerted", || async { first.alerts().iter().any(|alert| alert.metric.peer == id) }).await;
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(peers.log.take(), []);
    // Every metric of both, not only the first ping.
    assert!(first.alerts().len() >= 6, "{:?}", first.alerts());
}
