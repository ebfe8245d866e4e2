//! Metrics by gossip, both ways, and what becomes of peers whose metrics stop.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use ipfs_cluster::clock::{SystemClock, WallClock as _};
use ipfs_cluster::monitor::{Monitor as _, MonitorConfig, MonitorContext, MonitorEvent, PubSubMonitor};
use ipfs_cluster::transport::PeerTransport;
use ipfs_cluster::types::{Metric, PeerId, PeerInfo};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::gopeer::{FACT_TIMEOUT, GoConfig, GoPeer, until};
use crate::ours::{Table, Trust, host};
use crate::program;

fn monitor(transport: &Arc<dyn PeerTransport>) -> PubSubMonitor {
    let config = MonitorConfig { check_interval: Duration::from_millis(500) };
    let cx = MonitorContext::new(transport.local_peer(), transport.clone(), Arc::new(SystemClock));
    PubSubMonitor::new(config, cx).unwrap()
}

fn metric(peer: PeerId, name: &str, value: &str, ttl: Duration) -> Metric {
    let expires = SystemClock.now().unix_nanoseconds() + i64::try_from(ttl.as_nanos()).unwrap();
    Metric {
        name: name.to_owned(),
        peer,
        value: value.to_owned(),
        expire: expires,
        valid: true,
        weight: 0,
        partitionable: false,
        received_at: 0,
    }
}

/// What travels of a metric.
fn sent(metric: &Metric) -> Metric {
    Metric { received_at: 0, ..metric.clone() }
}

#[tokio::test]
async fn metrics_of_go_peers_arrive_whole_and_alerts_say_when_they_stop() {
    let program = program!();
    let go =
        GoPeer::start(program, GoConfig::new("metrics go").with("tags.tags", json!({ "region": "north" })))
            .await;
    let ours = host("metrics ours").await;
    let monitor = monitor(&ours);
    let mut events = monitor.events();
    ours.connect(&go.address()).await.unwrap();

    for name in ["ping", "freespace", "pinqueue", "tag:region"] {
        // What the sender has of itself is what it sent; it renews some of them while we look.
        until(&format!("the same {name} on both"), async || {
            let here = monitor.latest_for(name, &go.id()).map(|metric| sent(&metric));
            let there = go.metrics(name).await;
            let there = there.iter().find(|metric| metric.peer == go.id()).map(sent);
            (here.is_some() && here == there).then_some(())
        })
        .await;
    }
    let ping = monitor.latest_for("ping", &go.id()).unwrap();
    let value: Value = serde_json::from_str(&ping.value).unwrap();
    assert_eq!(value["peer_name"], "metrics go");
    assert_eq!(monitor.latest_for("freespace", &go.id()).unwrap().weight, 999_000);
    assert!(monitor.latest_for("tag:region", &go.id()).unwrap().partitionable);

    // Nobody believes a metric of another peer; one of its own that comes after it is believed.
    let liar = metric(ours.local_peer(), "liar", "1", Duration::from_secs(60));
    go.run("publish", json!(liar)).await.unwrap();
    let honest = metric(go.id(), "honest", "1", Duration::from_secs(60));
    go.run("publish", json!(honest)).await.unwrap();
    let names =
        until("the honest metric", async || monitor.latest_for("honest", &go.id()).map(|_| monitor.names()))
            .await;
    assert!(!names.iter().any(|name| name == "liar"), "{names:?}");

    let id = go.id();
    go.kill().await;
    let alert = timeout(FACT_TIMEOUT, async {
        loop {
            if let MonitorEvent::Alert(alert) = events.next().await.unwrap()
                && alert.metric.name == "ping"
            {
                return alert;
            }
        }
    });
    assert_eq!(alert.await.expect("an alert for the ping that stopped").metric.peer, id);
    assert!(monitor.latest("ping").is_empty());
}

#[tokio::test]
async fn our_metrics_make_us_a_member_for_go_peers_until_they_stop() {
    let program = program!();
    let config = GoConfig::new("members go").with("pubsubmon.check_interval", "500ms");
    let go = GoPeer::start(program, config).await;
    let ours = host("members ours").await;
    let table = Table::new(&ours, "members ours").serve(&ours, Trust(None));
    let monitor = monitor(&ours);
    ours.connect(&go.address()).await.unwrap();

    let mut weighty = metric(ours.local_peer(), "freespace", "12345", Duration::from_secs(60));
    weighty.weight = -12_345;
    let mut tag = metric(ours.local_peer(), "tag:region", "south", Duration::from_secs(60));
    tag.partitionable = true;
    for published in [&weighty, &tag] {
        // Gossip has no memory: what is published before the topic's mesh is there is lost.
        let got = until(&published.name, async || {
            monitor.publish(published.clone()).await.unwrap();
            let metrics = go.metrics(&published.name).await;
            metrics.into_iter().find(|metric| metric.peer == ours.local_peer())
        })
        .await;
        assert_eq!(sent(&got), *published);
        assert!(got.received_at > 0);
    }

    let info = until("a member for the Go peer", async || {
        // It does not last, and may be over before somebody looks.
        let value = r#"{"peer_name":"members ours"}"#;
        let ping = metric(ours.local_peer(), "ping", value, Duration::from_secs(2));
        monitor.publish(ping).await.unwrap();
        let members: Vec<PeerInfo> = go.rpc(None, "Cluster.Peers", vec![]).await.unwrap();
        members.into_iter().find(|member| member.id == ours.local_peer() && member.error.is_empty())
    })
    .await;
    assert_eq!(info, table.info);

    until("an alert for our silence", async || {
        let alerts = go.run("alerts", Value::Null).await.unwrap();
        let alerts = alerts.as_array().cloned().unwrap_or_default();
        let ours = json!(ours.local_peer().to_string());
        alerts.into_iter().find(|alert| alert["name"] == "ping" && alert["peer"] == ours)
    })
    .await;
    let members: Vec<PeerInfo> = go.rpc(None, "Cluster.Peers", vec![]).await.unwrap();
    assert!(!members.iter().any(|member| member.id == ours.local_peer()), "{members:?}");
    go.stop().await;
}
