//! Two peers of the reference with each other: that the other side of all these tests does what it should.

use serde_json::{Value, json};

use crate::gopeer::{GoConfig, GoPeer, everywhere, until};
use crate::program;

const CIDS: [&str; 2] = [
    "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn",
    "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq",
];

#[tokio::test]
async fn two_peers_of_the_reference_agree_and_answer_each_other() {
    let program = program!();
    let one = GoPeer::start(program, GoConfig::new("reference one")).await;
    let two = GoPeer::start(program, GoConfig::new("reference two").batching(10, "100ms")).await;
    two.join(&one.address()).await.unwrap();

    let pins = CIDS.map(|cid| everywhere(cid, "reference"));
    one.log_pins(&pins[..1]).await;
    two.log_pins(&pins[1..]).await;
    for peer in [&one, &two] {
        until("both pins on both", async || (peer.state().await.len() == 2).then_some(())).await;
        until("both pings on both", async || (peer.metrics("ping").await.len() == 2).then_some(())).await;
    }

    let status = until("pinned", async || {
        let info: Value = two.rpc(Some(one.id()), "PinTracker.Status", vec![json!(CIDS[1])]).await.unwrap();
        (info["status"] == "pinned").then_some(info)
    })
    .await;
    assert_eq!((&status["name"], &status["peer"]), (&json!("reference"), &json!(one.id().to_string())));
    let refused = two.rpc::<Value>(Some(one.id()), "Cluster.Pins", vec![]).await.unwrap_err();
    assert_eq!(refused.kind, "authorization", "{refused:?}");

    two.log_unpins(&[pins[0].cid]).await;
    until("one pin left", async || (one.state().await.len() == 1).then_some(())).await;
    assert_eq!(one.heads().await, two.heads().await);
    one.stop().await;
    two.kill().await;
}
