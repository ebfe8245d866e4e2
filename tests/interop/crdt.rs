//! One pinset of peers of both kinds: what either writes appears identical on the other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipfs_cluster::storage::{FjallConfig, FjallStorage};
use ipfs_cluster::types::{Block, Cid, MAX_DEPTH_DIRECT, Pin, PinMode, PinType, Timestamp};

use crate::gopeer::{GoConfig, GoPeer, everywhere, until, until_or};
use crate::ours::{OurConfig, OurPeer, keypair};
use crate::program;

/// Pins of each side that are named when a pinset is not what it should be.
const DIFFERENCES_SHOWN: usize = 10;
const BATCH_AGE: Duration = Duration::from_millis(200);

fn cid(number: usize) -> Cid {
    Block::raw(format!("content {number}")).cid
}

fn pin(number: usize, name: &str) -> Pin {
    everywhere(&cid(number).to_string(), name)
}

fn pins(numbers: std::ops::Range<usize>, name: &str) -> Vec<Pin> {
    numbers.map(|number| pin(number, name)).collect()
}

/// Waits until both have exactly these pins.
async fn agree(go: &GoPeer, ours: &OurPeer, wanted: &[Pin]) {
    let mut wanted = wanted.to_vec();
    wanted.sort_by_key(|pin| pin.cid.to_string());
    let look = async || (go.state().await == wanted && ours.state().await == wanted).then_some(());
    until_or("the wanted pinset on both", look, async || {
        format!("{}\n{} pins are wanted", standing(go, ours).await, wanted.len())
    })
    .await;
}

/// What each of them has and the other has not, for people.
async fn standing(go: &GoPeer, ours: &OurPeer) -> String {
    let (there, here) = (go.state().await, ours.state().await);
    let lines = |pins: &[Pin], others: &[Pin]| -> Vec<String> {
        let differs = |pin: &&Pin| !others.contains(pin);
        let lines = pins.iter().filter(differs).map(|pin| format!("{} {}", pin.cid, pin.options.name));
        lines.take(DIFFERENCES_SHOWN).collect()
    };
    format!(
        "{} pins on the Go peer, of which only there: {:?}\n{} on ours, of which only here: {:?}\nconnected there: \
         {:?}\nconnected here: {:?}\nheads there: {:?}",
        there.len(),
        lines(&there, &here),
        here.len(),
        lines(&here, &there),
        go.peers().await,
        ours.transport.peers(),
        go.heads().await,
    )
}

/// Waits until both have the same pinset and it is what is wanted, and gives it. If it never comes, what each has is said.
async fn same(go: &GoPeer, ours: &OurPeer, what: &str, is_wanted: impl Fn(&[Pin]) -> bool) -> Vec<Pin> {
    let look = async || {
        // Neither dials again by itself here.
        if go.peers().await.is_empty() {
            go.connect(&ours.address()).await.unwrap();
        }
        let (there, here) = (go.state().await, ours.state().await);
        (there == here && is_wanted(&here)).then_some(here)
    };
    until_or(what, look, async || standing(go, ours).await).await
}

/// Pins with everything that is stored, of every type.
fn rich_pins(from: usize) -> Vec<Pin> {
    let peers = ["one", "two"].map(|seed| keypair(seed).public().to_peer_id());
    let mut full = pin(from, "äöü and all");
    full.options.metadata =
        BTreeMap::from([("key".to_owned(), "value".to_owned()), ("another".to_owned(), String::new())]);
    full.options.expire_at = Some(Timestamp::from_unix_seconds(4_000_000_000));
    full.options.pin_update = Some(cid(from + 1));
    full.options.origins = vec![format!("/ip4/10.0.0.1/tcp/4001/p2p/{}", peers[0]).parse().unwrap()];
    full.options.replication_factor_min = 1;
    full.options.replication_factor_max = 2;
    full.options.shard_size = 1 << 40;
    full.allocations = peers.to_vec();
    full.timestamp = Some(Timestamp::from_unix_seconds(1_700_000_000));
    let mut direct = pin(from + 1, "direct");
    direct.options.mode = PinMode::Direct;
    direct.max_depth = MAX_DEPTH_DIRECT;
    let mut meta = pin(from + 2, "meta");
    (meta.pin_type, meta.reference) = (PinType::Meta, Some(cid(from + 3)));
    let mut dag = pin(from + 3, "dag");
    (dag.pin_type, dag.max_depth) = (PinType::ClusterDag, MAX_DEPTH_DIRECT);
    dag.options.mode = PinMode::Direct;
    let mut shard = pin(from + 4, "shard");
    (shard.pin_type, shard.max_depth, shard.reference) = (PinType::Shard, 2, Some(cid(from)));
    let old = Cid::new_v0(*Block::raw(format!("version 0 of {from}")).cid.hash()).unwrap();
    vec![full, direct, meta, dag, shard, everywhere(&old.to_string(), "version 0")]
}

#[tokio::test]
async fn what_either_side_writes_changes_and_removes_is_identical_on_the_other() {
    let program = program!();
    let go = GoPeer::start(program, GoConfig::new("both go")).await;
    let ours = OurPeer::start(OurConfig::new("both ours")).await;
    ours.cluster.join(&[go.address()]).await.unwrap();

    let (theirs, mine) = (rich_pins(0), rich_pins(10));
    go.log_pins(&theirs).await;
    ours.log_pins(&mine).await;
    let mut all = [theirs.clone(), mine.clone()].concat();
    agree(&go, &ours, &all).await;

    // Each changes and removes what the other wrote.
    all[0].options.name = "renamed by ours".to_owned();
    all[6].options.name = "renamed by go".to_owned();
    all[6].options.metadata.clear();
    ours.log_pins(&all[..1]).await;
    go.log_pins(&all[6..7]).await;
    agree(&go, &ours, &all).await;
    ours.log_unpins(&[all[1].cid]).await;
    go.log_unpins(&[all[7].cid]).await;
    all.remove(7);
    all.remove(1);
    agree(&go, &ours, &all).await;
    // A pin that was removed can come back.
    go.log_pins(&mine[1..2]).await;
    ours.log_pins(&theirs[1..2]).await;
    all.extend([mine[1].clone(), theirs[1].clone()]);
    agree(&go, &ours, &all).await;
    assert!(!go.heads().await.dirty);
    ours.stop().await;
    go.stop().await;
}

#[tokio::test]
async fn batches_of_both_sides_written_at_the_same_time_meet() {
    let program = program!();
    let go = GoPeer::start(program, GoConfig::new("batch go").batching(100, "200ms")).await;
    let ours = OurPeer::start(OurConfig::new("batch ours").batching(100, BATCH_AGE)).await;
    ours.cluster.join(&[go.address()]).await.unwrap();
    let (theirs, mine) = (pins(0..1_000, "theirs"), pins(1_000..2_000, "ours"));
    tokio::join!(go.log_pins(&theirs), ours.log_pins(&mine));
    agree(&go, &ours, &[theirs, mine].concat()).await;
    // Removed in batches too, each what the other wrote, and a batch that pins what it unpins.
    let (first, second): (Vec<Cid>, Vec<Cid>) =
        ((0..900).map(cid).collect(), (1_100..2_000).map(cid).collect());
    tokio::join!(ours.log_unpins(&first), go.log_unpins(&second));
    go.log_pins(&pins(1_999..2_000, "again")).await;
    let left = [pins(900..1_000, "theirs"), pins(1_000..1_100, "ours"), pins(1_999..2_000, "again")].concat();
    agree(&go, &ours, &left).await;
    ours.stop().await;
    go.stop().await;
}

#[tokio::test]
async fn late_joiners_of_either_kind_get_everything_also_from_the_other_kind() {
    let program = program!();
    let writer = GoPeer::start(program, GoConfig::new("late writer").batching(50, "100ms")).await;
    let (first, second) = (pins(0..600, "first"), pins(600..1_000, "second"));
    writer.log_pins(&first).await;
    until("the first written", async || (writer.state().await.len() == 600).then_some(())).await;
    let gone: Vec<Cid> = (0..100).map(cid).collect();
    writer.log_unpins(&gone).await;
    until("some removed", async || (writer.state().await.len() == 500).then_some(())).await;

    let ours = OurPeer::start(OurConfig::new("late ours")).await;
    ours.cluster.join(&[writer.address()]).await.unwrap();
    agree(&writer, &ours, &first[100..]).await;
    ours.log_pins(&second).await;
    let all = [&first[100..], &second].concat();
    agree(&writer, &ours, &all).await;
    writer.kill().await;

    // The Go peer that comes now has nobody but ours.
    let late = GoPeer::start(program, GoConfig::new("late go")).await;
    late.join(&ours.address()).await.unwrap();
    agree(&late, &ours, &all).await;
    late.log_pins(&pins(2_000..2_001, "last")).await;
    agree(&late, &ours, &[all, pins(2_000..2_001, "last")].concat()).await;
    ours.stop().await;
    late.stop().await;
}

#[tokio::test]
async fn what_was_written_apart_has_the_same_winner_on_both_sides() {
    let program = program!();
    let go = GoPeer::start(program, GoConfig::new("apart go")).await;
    let ours = OurPeer::start(OurConfig::new("apart ours")).await;
    ours.cluster.join(&[go.address()]).await.unwrap();
    let common = pins(0..20, "common");
    go.log_pins(&common).await;
    agree(&go, &ours, &common).await;

    for round in 0..2 {
        ours.transport.disconnect(&go.id()).await.unwrap();
        go.disconnect(ours.id()).await;
        until("apart", async || {
            (go.peers().await.is_empty() && ours.transport.peers().is_empty()).then_some(())
        })
        .await;
        // Equal heights and unequal ones, the greater value on this side and on that, removed here and changed there.
        let (theirs, mine) = (format!("{round} theirs"), format!("{round} ours"));
        go.log_pins(&pins(0..5, &theirs)).await;
        ours.log_pins(&pins(0..5, &mine)).await;
        ours.log_pins(&pins(5..8, &mine)).await;
        ours.log_unpins(&(8..11).map(cid).collect::<Vec<_>>()).await;
        go.log_pins(&pins(8..11, &theirs)).await;
        go.log_unpins(&(11..14).map(cid).collect::<Vec<_>>()).await;
        ours.log_pins(&pins(11..14, &mine)).await;
        go.log_unpins(&(14..16).map(cid).collect::<Vec<_>>()).await;
        ours.log_unpins(&(14..16).map(cid).collect::<Vec<_>>()).await;
        go.connect(&ours.address()).await.unwrap();

        let agreed = same(&go, &ours, "the same pinset on both", |pins| {
            let names: BTreeSet<&str> = pins.iter().map(|pin| pin.options.name.as_str()).collect();
            names.contains(theirs.as_str()) && names.contains(mine.as_str()) && pins.len() == 18
        })
        .await;
        let name = |number: usize| {
            let found = agreed.iter().find(|pin| pin.cid == cid(number));
            found.map(|pin| pin.options.name.as_str())
        };
        // Whoever adds wins over who removes without having seen it.
        assert_eq!((name(8), name(11), name(14)), (Some(theirs.as_str()), Some(mine.as_str()), None));
        // What is written next is on top of both branches, and clears up after the round.
        go.log_pins(&pins(14..16, "common")).await;
        same(&go, &ours, "the same whole pinset on both", |pins| pins.len() == 20).await;
    }
    ours.stop().await;
    go.stop().await;
}

#[tokio::test]
async fn peers_that_were_killed_or_stopped_go_on_where_they_were() {
    let program = program!();
    let (go_folder, our_folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let go_config = || GoConfig::new("restart go").in_folder(go_folder.path());
    let open = || FjallStorage::open(our_folder.path(), FjallConfig::default()).unwrap();
    let mut go = GoPeer::start(program, go_config()).await;
    let mut ours = OurPeer::start_on(OurConfig::new("restart ours"), open()).await;
    ours.cluster.join(&[go.address()]).await.unwrap();
    let mut all = pins(0..50, "before");
    go.log_pins(&all[..25]).await;
    ours.log_pins(&all[25..]).await;
    agree(&go, &ours, &all).await;

    go.kill().await;
    let more = pins(50..80, "while go was dead");
    ours.log_pins(&more).await;
    ours.log_unpins(&[all.remove(0).cid]).await;
    all.extend(more);
    go = GoPeer::start(program, go_config()).await;
    go.join(&ours.address()).await.unwrap();
    agree(&go, &ours, &all).await;

    ours.stop().await;
    let more = pins(80..110, "while ours was stopped");
    go.log_pins(&more).await;
    go.log_unpins(&[all.remove(0).cid]).await;
    all.extend(more);
    ours = OurPeer::start_on(OurConfig::new("restart ours"), open()).await;
    ours.cluster.join(&[go.address()]).await.unwrap();
    agree(&go, &ours, &all).await;
    ours.log_pins(&pins(110..111, "after")).await;
    all.extend(pins(110..111, "after"));
    agree(&go, &ours, &all).await;
    ours.stop().await;
    go.stop().await;
}

#[tokio::test]
async fn two_go_peers_that_know_only_ours_agree_through_it() {
    let program = program!();
    let ours = OurPeer::start(OurConfig::new("between ours")).await;
    let one = GoPeer::start(program, GoConfig::new("between one")).await;
    let two = GoPeer::start(program, GoConfig::new("between two")).await;
    one.join(&ours.address()).await.unwrap();
    two.join(&ours.address()).await.unwrap();
    let (first, second, third) = (pins(0..50, "one"), pins(50..100, "two"), pins(100..150, "ours"));
    tokio::join!(one.log_pins(&first), two.log_pins(&second), ours.log_pins(&third));
    let all = [first, second, third].concat();
    agree(&one, &ours, &all).await;
    agree(&two, &ours, &all).await;
    until("everybody's ping everywhere", async || {
        (one.metrics("ping").await.len() == 3 && two.metrics("ping").await.len() == 3).then_some(())
    })
    .await;
    ours.stop().await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn the_words_of_peers_that_are_not_trusted_count_nowhere() {
    let program = program!();
    let mut config = OurConfig::new("trust ours");
    config.crdt.trust_all = false;
    let ours = OurPeer::start(config).await;
    let go = GoPeer::start(program, GoConfig::new("trust go").trusting(&[])).await;
    ours.cluster.join(&[go.address()]).await.unwrap();
    go.log_pins(&pins(0..1, "theirs")).await;
    ours.log_pins(&pins(1..2, "ours")).await;
    // Several rebroadcasts, which would have told everything.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((go.state().await, ours.state().await), (pins(0..1, "theirs"), pins(1..2, "ours")));
    // From now on they do.
    ours.cluster.consensus().trust(&go.id()).await.unwrap();
    go.run("trust", serde_json::json!(ours.id().to_string())).await.unwrap();
    agree(&go, &ours, &[pins(0..1, "theirs"), pins(1..2, "ours")].concat()).await;
    ours.stop().await;
    go.stop().await;
}
