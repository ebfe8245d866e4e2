//! Connections: private networks, securities, transports, and finding peers.

use ipfs_cluster::config::Secret;
use ipfs_cluster::rpc::RPC_PROTOCOL;
use ipfs_cluster::transport::{PeerTransport as _, Protocol};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::gopeer::{FACT_TIMEOUT, GoConfig, GoPeer, until};
use crate::ours::{Table, Trust, address, host, host_with};
use crate::program;

#[tokio::test]
async fn peers_of_one_private_network_connect_both_ways_and_know_what_the_other_speaks() {
    let program = program!();
    let go = GoPeer::start(program, GoConfig::new("hosts go")).await;
    for (name, we_dial) in [("hosts dialling", true), ("hosts dialled", false)] {
        let ours = host(name).await;
        let _table = Table::new(&ours, name).serve(&ours, Trust(None));
        if we_dial {
            assert_eq!(ours.connect(&go.address()).await.unwrap(), go.id());
        } else {
            go.connect(&address(&ours)).await.unwrap();
        }
        until("connected on both sides", async || {
            let known = go.peers().await.contains_key(&ours.local_peer().to_string());
            (known && ours.peers().contains(&go.id())).then_some(())
        })
        .await;
        let peers = go.peers().await;
        let how = &peers[&ours.local_peer().to_string()][0];
        assert!(how.ends_with("/noise /yamux/1.0.0"), "{how}");
        until("our protocols on the other side", async || {
            let known = go.run("protocols", json!(ours.local_peer().to_string())).await.unwrap();
            let known: Vec<String> = serde_json::from_value(known).unwrap_or_default();
            let all = [RPC_PROTOCOL, "/meshsub/1.2.0", "/ipfs/ping/1.0.0", "/ipfs/id/push/1.0.0"];
            all.iter().all(|protocol| known.iter().any(|name| name == protocol)).then_some(())
        })
        .await;
        ours.open(&go.id(), &Protocol::new(RPC_PROTOCOL)).await.unwrap();
        ours.disconnect(&go.id()).await.unwrap();
        until("disconnected on the other side", async || {
            (!go.peers().await.contains_key(&ours.local_peer().to_string())).then_some(())
        })
        .await;
        ours.shutdown().await.unwrap();
    }
    go.stop().await;
}

#[tokio::test]
async fn peers_of_another_private_network_or_of_none_stay_out() {
    let program = program!();
    let go = GoPeer::start(program, GoConfig::new("private go")).await;
    for (seed, secret) in [("other network", Secret::from_bytes([0x22; 32])), ("no network", Secret::NONE)] {
        let ours = host_with(seed, |config| config.secret = secret).await;
        let refused = timeout(FACT_TIMEOUT, ours.connect(&go.address())).await.unwrap();
        assert!(refused.is_err(), "{seed}: {refused:?}");
        go.connect(&address(&ours)).await.unwrap_err();
        assert!(ours.peers().is_empty() && go.peers().await.is_empty(), "{seed}");
    }
    // And they did it no harm.
    let ours = host("right network").await;
    ours.connect(&go.address()).await.unwrap();
    go.stop().await;
}

#[tokio::test]
async fn web_sockets_carry_the_private_network_both_ways() {
    let program = program!();
    let config =
        GoConfig::new("ws go").with("cluster.listen_multiaddress", json!(["/ip4/127.0.0.1/tcp/0/ws"]));
    let go = GoPeer::start(program, config).await;
    let ours = host_with("ws ours", |config| {
        config.listen = vec!["/ip4/127.0.0.1/tcp/0/ws".parse().unwrap()];
    })
    .await;
    ours.connect(&go.address()).await.unwrap();
    ours.disconnect(&go.id()).await.unwrap();
    until("disconnected", async || go.peers().await.is_empty().then_some(())).await;
    go.connect(&address(&ours)).await.unwrap();
    let peers = go.peers().await;
    assert!(peers[&ours.local_peer().to_string()][0].contains("/ws"), "{peers:?}");
    go.stop().await;
}

#[tokio::test]
async fn a_go_peer_with_an_rsa_key_is_a_peer_like_others() {
    let program = program!();
    let go = GoPeer::start(program, GoConfig::new("rsa go").with("rsa", 2048)).await;
    let ours = host("rsa ours").await;
    let _table = Table::new(&ours, "rsa ours").serve(&ours, Trust(None));
    assert_eq!(ours.connect(&go.address()).await.unwrap(), go.id());
    // Whoever dials is connected a little earlier than whoever is dialled.
    until("connected on the other side", async || (go.peers().await.len() == 1).then_some(())).await;
    go.rpc::<Value>(Some(ours.local_peer()), "Cluster.ID", vec![]).await.unwrap();
    // Its gossip carries the key beside the signature.
    let mut messages = ours.subscribe(
        &ipfs_cluster::transport::Topic::new("monitor.metrics"),
        std::sync::Arc::new(crate::ours::TakeAll),
    );
    let message = timeout(FACT_TIMEOUT, futures::StreamExt::next(&mut messages)).await.unwrap().unwrap();
    assert_eq!(message.signer, go.id());
    go.stop().await;
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_go_peer_connects_by_noise_also_where_tls_is_possible() {
    let program = program!();
    let go = GoPeer::start(program, GoConfig::new("tls go")).await;
    let ours = host("tls ours").await;
    go.connect(&address(&ours)).await.unwrap();
    let peers = go.peers().await;
    assert!(peers[&ours.local_peer().to_string()][0].contains("/noise"), "{peers:?}");
    go.stop().await;
}
