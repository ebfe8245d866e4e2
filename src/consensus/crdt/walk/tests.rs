//! Walks of whole peers on a network in memory.

mod broad;
mod records;

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::super::key;
use super::super::ledger::Head;
use super::super::node::BLOCK_BYTES_MAX;
use super::super::simulation::{Chain, Member, TestLedger, node, node_of_height, peer};
use super::*;
use crate::transport::MemoryNetwork;

const DELAY: Duration = Duration::from_millis(1);

fn slow_network() -> MemoryNetwork {
    let network = MemoryNetwork::new(1);
    network.set_delay(DELAY);
    network
}

/// One that has nothing, connected to one that has these blocks.
async fn pair<'a>(nodes: impl IntoIterator<Item = &'a Node>, head: &Node) -> (MemoryNetwork, Member, Member) {
    let network = slow_network();
    let one = Member::start(&network, 1, TestLedger::default());
    let other = Member::having(&network, 2, nodes, &[head]);
    one.connect(&other).await;
    (network, one, other)
}

#[tokio::test(start_paused = true)]
async fn a_chain_is_merged_at_a_round_trip_a_block_with_few_merges() {
    const LENGTH: usize = 5_000;
    let chain = Chain::new(LENGTH, "x");
    let (_network, one, other) = pair(&chain.nodes, chain.tip()).await;
    one.ledger.state().delay = Duration::from_millis(15);
    let start = Instant::now();
    other.say(chain.tip()).await;
    one.until_heads(&[chain.tip()]).await;
    assert!(chain.nodes.iter().all(|node| one.has(node)));
    assert_eq!(one.exchange.fetched(), LENGTH);
    // A disk that takes 15 ms for a sync costs nothing but the last ones.
    let round_trips = LENGTH as u32 * 2 * DELAY;
    assert!(start.elapsed() < round_trips + Duration::from_secs(1), "{:?}", start.elapsed());
    let merges = one.ledger.state().merges;
    assert!(merges < LENGTH / 5, "{merges} merges");
    assert!(!one.ledger.state().dirty);
}

#[tokio::test(start_paused = true)]
async fn a_wide_dag_is_fetched_many_blocks_at_a_time() {
    let bottom = Chain::new(1, "bottom");
    let wide: Vec<Node> = (0..4_000).map(|number| node(&number.to_string(), &[bottom.tip()])).collect();
    let top = node("top", &wide.iter().collect::<Vec<_>>());
    let (_network, one, other) = pair(wide.iter().chain(&bottom.nodes).chain([&top]), &top).await;
    let start = Instant::now();
    other.say(&top).await;
    one.until_heads(&[&top]).await;
    assert_eq!(one.exchange.fetched(), 4_002);
    assert!(wide.iter().all(|node| one.has(node)));
    let windows = 4_000_u32.div_ceil(WINDOW_BLOCKS as u32);
    assert!(start.elapsed() < 4 * windows * DELAY, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_diamond_is_fetched_once_and_has_one_head() {
    let bottom = Chain::new(20, "bottom");
    let left = Chain::on(&[bottom.tip()], 7, "left");
    let right = Chain::on(&[bottom.tip()], 30, "right");
    let top = node("top", &[left.tip(), right.tip()]);
    let all: Vec<Node> =
        [bottom.nodes, left.nodes, right.nodes, vec![top.clone()]].into_iter().flatten().collect();
    let (_network, one, other) = pair(&all, &top).await;
    other.say(&top).await;
    one.until_heads(&[&top]).await;
    assert_eq!(one.exchange.fetched(), all.len());
    assert!(all.iter().all(|node| one.has(node)));
}

#[tokio::test(start_paused = true)]
async fn two_heads_share_what_is_below_them_and_their_join_replaces_both() {
    let bottom = Chain::new(500, "bottom");
    let left = Chain::on(&[bottom.tip()], 3, "left");
    let right = Chain::on(&[bottom.tip()], 9, "right");
    let join = node("join", &[left.tip(), right.tip()]);
    let all: Vec<Node> = [&bottom.nodes[..], &left.nodes, &right.nodes].concat();
    let (_network, one, other) = pair(all.iter().chain([&join]), &join).await;
    other.say(left.tip()).await;
    other.say(right.tip()).await;
    one.until_heads(&[left.tip(), right.tip()]).await;
    assert_eq!(one.exchange.fetched(), all.len(), "some came twice");
    other.say(&join).await;
    one.until_heads(&[&join]).await;
    assert_eq!(one.exchange.fetched(), all.len() + 1);
}

#[tokio::test(start_paused = true)]
async fn a_head_on_top_of_one_that_is_being_walked_covers_it() {
    let chain = Chain::new(2_000, "x");
    let (_network, one, other) = pair(&chain.nodes, chain.tip()).await;
    // So that nothing becomes a head before its time.
    let own = Chain::new(1, "own");
    one.ledger.put(&own.nodes, true);
    one.ledger.set_heads([own.tip().clone()]);
    other.say(&chain.nodes[1_900]).await;
    one.until("half of it", |state| state.processed.len() > 900).await;
    other.say(chain.tip()).await;
    one.until_heads(&[own.tip(), chain.tip()]).await;
    assert_eq!(one.exchange.fetched(), 2_000);
    // In the other order: an old head that comes late changes nothing.
    other.say(&chain.nodes[1_000]).await;
    sleep(Duration::from_secs(10)).await;
    one.until_heads(&[own.tip(), chain.tip()]).await;
    assert_eq!(one.exchange.fetched(), 2_000);
}

#[tokio::test(start_paused = true)]
async fn an_old_branch_that_is_announced_late_is_merged_and_becomes_a_head_of_its_own() {
    let bottom = Chain::new(10, "bottom");
    let new = Chain::on(&[bottom.tip()], 300, "new");
    let old = Chain::on(&[&bottom.nodes[4]], 40, "old");
    let (network, one, other) = pair(bottom.nodes.iter().chain(&new.nodes), new.tip()).await;
    other.say(new.tip()).await;
    one.until_heads(&[new.tip()]).await;
    let late = Member::having(&network, 3, bottom.nodes.iter().chain(&old.nodes), &[old.tip()]);
    one.connect(&late).await;
    late.say(old.tip()).await;
    one.until_heads(&[new.tip(), old.tip()]).await;
    assert!(old.nodes.iter().all(|node| one.has(node)));
    // And one on top of ours replaces ours alone.
    let next = node("next", &[new.tip()]);
    other.ledger.put([&next], true);
    other.say(&next).await;
    one.until_heads(&[&next, old.tip()]).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_has_no_heads_builds_upon_the_first_one_at_once() {
    let chain = Chain::new(1_000, "x");
    let (_network, one, other) = pair(&chain.nodes, chain.tip()).await;
    other.say(chain.tip()).await;
    one.until("a head", |state| !state.heads.is_empty()).await;
    assert_eq!(one.heads(), [chain.tip().cid]);
    assert!(one.ledger.state().processed.len() < 100, "it was not at once");
    // A block of ours on top of it is not joined by what it covers.
    let ours = node("ours", &[chain.tip()]);
    one.ledger.put([&ours], true);
    one.ledger.set_heads([ours.clone()]);
    one.until("all of it", |state| state.processed.len() == 1_001 && state.progress.is_empty()).await;
    assert_eq!(one.heads(), [ours.cid]);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_nobody_has_is_forgotten_and_got_when_it_can_be() {
    let chain = Chain::new(3, "x");
    let (_network, one, other) = pair(&[], Chain::new(1, "other").tip()).await;
    other.say(chain.tip()).await;
    sleep(STALL_TIMEOUT + Duration::from_secs(30)).await;
    assert!(one.heads().is_empty() && !one.ledger.state().dirty);
    other.ledger.put(&chain.nodes, true);
    other.say(chain.tip()).await;
    one.until_heads(&[chain.tip()]).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_announcer_dies_half_way_another_serves_the_rest() {
    let chain = Chain::new(3_000, "x");
    let (network, one, other) = pair(&chain.nodes, chain.tip()).await;
    let another = Member::having(&network, 3, &chain.nodes, &[]);
    one.connect(&another).await;
    other.say(chain.tip()).await;
    one.until("half of it", |state| state.processed.len() > 1_500).await;
    network.crash(other.peer);
    one.until_heads(&[chain.tip()]).await;
    assert!(chain.nodes.iter().all(|node| one.has(node)));
    assert!(!one.ledger.state().dirty);
}

#[tokio::test(start_paused = true)]
async fn a_walk_that_nobody_can_go_on_with_is_remembered_until_somebody_can() {
    let chain = Chain::new(1_000, "x");
    let (network, one, other) = pair(&chain.nodes[200..], chain.tip()).await;
    let own = Chain::new(1, "own");
    one.ledger.put(&own.nodes, true);
    one.ledger.set_heads([own.tip().clone()]);
    other.say(chain.tip()).await;
    one.until("dirty", |state| state.dirty).await;
    assert_eq!(one.heads(), [own.tip().cid], "half a branch became a head");
    assert!(one.has(chain.tip()));
    let another = Member::having(&network, 3, &chain.nodes[..200], &[]);
    one.connect(&another).await;
    other.say(chain.tip()).await;
    one.until_heads(&[own.tip(), chain.tip()]).await;
    assert_eq!(one.exchange.fetched(), 1_000, "some came twice");
    // The repair finds nothing to do.
    one.until("clean", |state| !state.dirty).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_half_way_goes_on_without_getting_anything_twice() {
    let chain = Chain::new(3_000, "x");
    let side = Chain::on(&[&chain.nodes[100]], 200, "side");
    let top = node("top", &[chain.tip(), side.tip()]);
    let all: Vec<&Node> = chain.nodes.iter().chain(&side.nodes).chain([&top]).collect();
    let (network, mut one, other) = pair(all.iter().copied(), &top).await;
    other.say(&top).await;
    let mut fetched = 0;
    for stop in [10, 700, 2_500] {
        one.until("some", |state| state.processed.len() > stop).await;
        let before = one.exchange.fetched();
        let merged = one.ledger.state().processed.len();
        let ledger = one.stop().await;
        let kept = ledger.state().processed.len();
        assert!(kept >= merged);
        // What had come and was not merged yet comes again, and nothing else.
        fetched += before;
        assert!(fetched >= kept);
        fetched = kept;
        assert!(!ledger.state().progress.is_empty());
        one = Member::start(&network, 1, ledger);
        one.connect(&other).await;
    }
    // Nobody announces anything: it goes on by itself.
    one.until_heads(&[&top]).await;
    assert_eq!(fetched + one.exchange.fetched(), all.len());
    assert!(all.iter().all(|node| one.has(node)));
}

#[tokio::test(start_paused = true)]
async fn a_walk_that_is_covered_stays_so_over_a_restart() {
    let chain = Chain::new(1_000, "x");
    let (network, one, other) = pair(&chain.nodes, chain.tip()).await;
    let own = Chain::new(1, "own");
    one.ledger.put(&own.nodes, true);
    one.ledger.set_heads([own.tip().clone()]);
    other.say(&chain.nodes[998]).await;
    one.until("some", |state| state.processed.len() > 100).await;
    other.say(chain.tip()).await;
    one.until("the upper head", |state| state.heads.contains_key(&chain.tip().cid)).await;
    let ledger = one.stop().await;
    assert!(ledger.state().processed.len() < 900);
    let one = Member::start(&network, 1, ledger);
    one.connect(&other).await;
    one.until_heads(&[own.tip(), chain.tip()]).await;
    assert!(chain.nodes.iter().all(|node| one.has(node)));
}

#[tokio::test(start_paused = true)]
async fn a_walk_taken_from_a_peer_makes_a_head_of_what_was_not_merged_here_and_of_nothing_else() {
    let chain = Chain::new(10, "x");
    let side = Chain::on(&[&chain.nodes[5]], 3, "side");
    let network = slow_network();
    let one = Member::having(&network, 1, &chain.nodes, &[chain.tip()]);
    let other = Member::having(&network, 2, &side.nodes, &[]);
    one.connect(&other).await;
    let (walker, requests) = mpsc::channel(REQUESTS_MAX);
    let cx = WalkerContext {
        ledger: one.ledger.clone(),
        exchange: one.exchange.clone(),
        trust: Arc::new(Trust::new(one.peer, true, [])),
        inbox: Arc::default(),
        requests,
        dirty: Arc::default(),
        cancel: CancellationToken::new(),
    };
    tokio::spawn(Walker::new(cx).run());
    let walk_from = |tip: &Node, open: &[&Node]| Branch {
        tip: Head { cid: tip.cid, height: tip.delta.priority },
        open: open.iter().map(|node| node.cid).collect(),
        met: Vec::new(),
    };
    // The peer is half way down from what was a head of ours once.
    let old = &chain.nodes[7];
    let walks = vec![walk_from(old, &[&chain.nodes[3], old]), walk_from(side.tip(), &[side.tip()])];
    let (taken, take) = oneshot::channel();
    walker.send(Request::Take { walks, taken }).await.unwrap();
    let met: Vec<_> = take.await.unwrap().into_iter().map(|walk| walk.met).collect();
    assert_eq!(met, [vec![old.cid], vec![]]);
    walker.send(Request::Resume).await.unwrap();
    one.until_heads(&[chain.tip(), side.tip()]).await;
    sleep(STALL_TIMEOUT).await;
    one.until_heads(&[chain.tip(), side.tip()]).await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_full_for_a_while_loses_nothing() {
    let chain = Chain::new(400, "x");
    let (_network, one, other) = pair(&chain.nodes, chain.tip()).await;
    one.ledger.state().failures = 3;
    other.say(chain.tip()).await;
    one.until_heads(&[chain.tip()]).await;
    assert!(chain.nodes.iter().all(|node| one.has(node)));
}

#[tokio::test(start_paused = true)]
async fn a_block_that_cannot_be_merged_ends_its_walk_and_no_other() {
    let (bad, good) = (Chain::new(200, "bad"), Chain::new(200, "good"));
    let (_network, one, other) = pair(bad.nodes.iter().chain(&good.nodes), good.tip()).await;
    one.ledger.state().poison.insert(bad.nodes[150].cid);
    other.say(bad.tip()).await;
    other.say(good.tip()).await;
    one.until("the good head", |state| {
        state.heads.contains_key(&good.tip().cid) && state.progress.is_empty()
    })
    .await;
    one.until("dirty", |state| state.dirty).await;
    assert!(good.nodes.iter().all(|node| one.has(node)));
    assert!(!one.has(&bad.nodes[150]));
}

#[tokio::test(start_paused = true)]
async fn a_shut_down_store_ends_the_walk() {
    let chain = Chain::new(1_000, "x");
    let (_network, one, other) = pair(&chain.nodes, chain.tip()).await;
    other.say(chain.tip()).await;
    one.until("some", |state| state.processed.len() > 100).await;
    one.ledger.state().is_shut_down = true;
    sleep(Duration::from_secs(1)).await;
    let fetched = one.exchange.fetched();
    sleep(Duration::from_secs(100)).await;
    assert_eq!(one.exchange.fetched(), fetched);
    one.network.shutdown().await;
}

/// Bytes under the name they have as a block, linked to by a block of this height.
fn above(data: Vec<u8>, height: u64) -> (Cid, Bytes, Node) {
    let mut parent = node_of_height("parent", &[], height);
    let cid = key::cid_of(&data);
    parent = Node::build(vec![cid], parent.delta);
    (cid, data.into(), parent)
}

/// A hostile announcer's blocks go with an honest one's, at the same time.
async fn is_survived(blocks: Vec<(Cid, Bytes)>, tip: &Node) -> (MemoryNetwork, Member) {
    let honest = Chain::new(300, "honest");
    let (network, one, other) = pair(&honest.nodes, honest.tip()).await;
    let own = Chain::new(1, "own");
    one.ledger.put(&own.nodes, true);
    one.ledger.set_heads([own.tip().clone()]);
    let hostile = Member::having(&network, 3, [], &[]);
    hostile.ledger.state().blocks.extend(blocks);
    hostile.ledger.put([tip], false);
    one.connect(&hostile).await;
    let start = Instant::now();
    hostile.say(tip).await;
    sleep(Duration::from_millis(20)).await;
    other.say(honest.tip()).await;
    one.until("the honest head", |state| state.heads.contains_key(&honest.tip().cid)).await;
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    one.until("the end of the hostile walk", |state| state.dirty || state.processed.len() == 301).await;
    sleep(STALL_TIMEOUT).await;
    assert!(!one.heads().contains(&tip.cid), "half a branch became a head");
    (network, one)
}

#[tokio::test(start_paused = true)]
async fn garbage_below_a_head_ends_its_walk() {
    let (cid, data, tip) = above(b"garbage".to_vec(), 7);
    let (_network, one) = is_survived(vec![(cid, data)], &tip).await;
    // What can never be finished is not remembered.
    one.until("no walks", |state| state.progress.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_walk_that_can_never_be_finished_is_not_gone_on_with_after_a_restart() {
    let (cid, data, bottom) = above(b"garbage".to_vec(), 7);
    let chain = Chain::on(&[&bottom], 300, "x");
    let (_network, one, other) = pair(chain.nodes.iter().chain([&bottom]), chain.tip()).await;
    other.ledger.state().blocks.insert(cid, data);
    other.say(chain.tip()).await;
    one.until("dirty", |state| state.dirty).await;
    sleep(Duration::from_secs(1)).await;
    assert!(one.ledger.state().progress.is_empty());
    assert!(one.has(chain.tip()));
}

#[tokio::test(start_paused = true)]
async fn a_head_of_garbage_is_forgotten() {
    let network = slow_network();
    let (one, hostile) = (
        Member::start(&network, 1, TestLedger::default()),
        Member::start(&network, 2, TestLedger::default()),
    );
    one.connect(&hostile).await;
    let mut tip = node("x", &[]);
    tip.block = b"garbage".to_vec().into();
    tip.cid = key::cid_of(&tip.block);
    hostile.ledger.put([&tip], false);
    hostile.say(&tip).await;
    sleep(Duration::from_secs(10)).await;
    assert!(one.heads().is_empty() && one.ledger.state().processed.is_empty());
    assert!(!one.ledger.state().dirty);
}

#[tokio::test(start_paused = true)]
async fn heights_that_do_not_fall_end_a_walk() {
    let below = node_of_height("below", &[], 9);
    for height in [9, 3] {
        let (_, _, tip) = above(below.block.to_vec(), height);
        let (_network, one) = is_survived(vec![(below.cid, below.block.clone())], &tip).await;
        assert!(!one.has(&below));
    }
}

#[tokio::test(start_paused = true)]
async fn a_block_that_is_too_large_or_has_too_many_links_ends_its_walk() {
    let links: Vec<Cid> = (0..5_000_u32).map(|number| key::cid_of(&number.to_be_bytes())).collect();
    let many = Node::build(links, node("x", &[]).delta);
    let large = vec![0; BLOCK_BYTES_MAX + 1];
    for data in [many.block.to_vec(), large] {
        let (cid, data, tip) = above(data, 7);
        is_survived(vec![(cid, data)], &tip).await;
    }
}

#[tokio::test(start_paused = true)]
async fn links_to_what_nobody_has_keep_nobody_from_anything() {
    let links: Vec<Cid> = (0..4_096_u32).map(|number| key::cid_of(&number.to_be_bytes())).collect();
    let tip = Node::build(links, node_of_height("x", &[], 7).delta);
    let (_network, one) = is_survived(Vec::new(), &tip).await;
    assert_eq!(one.ledger.state().progress.len(), 1, "it may go on one day");
    assert_eq!(one.ledger.state().progress[0].open.len(), 4_096);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_heads_that_nobody_has_keeps_nobody_from_anything() {
    let honest = Chain::new(100, "honest");
    let (network, one, other) = pair(&honest.nodes, honest.tip()).await;
    let mut hostile = Vec::new();
    for number in 10..16 {
        let member = Member::start(&network, number, TestLedger::default());
        one.connect(&member).await;
        for head in 0..40 {
            member.say(&node(&format!("{number} {head}"), &[])).await;
        }
        hostile.push(member);
    }
    sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    other.say(honest.tip()).await;
    one.until("the honest head", |state| state.processed.len() == 100).await;
    assert!(start.elapsed() < 2 * STALL_TIMEOUT_WHEN_FULL, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn repairs_fill_every_hole_below_the_heads_and_clear_the_mark() {
    let chain = Chain::new(600, "x");
    let network = slow_network();
    let other = Member::having(&network, 2, &chain.nodes, &[chain.tip()]);
    let ledger = TestLedger::default();
    let is_missing = |number: usize| (100..120).contains(&number) || number == 300 || number == 0;
    for (number, node) in chain.nodes.iter().enumerate() {
        // The last one before the lower hole has its block, but was never merged: it is got again.
        if number == 99 {
            ledger.put([node], false);
        } else if !is_missing(number) {
            ledger.put([node], true);
        }
    }
    ledger.set_heads([chain.tip().clone()]);
    ledger.state().dirty = true;
    let one = Member::start(&network, 1, ledger);
    one.connect(&other).await;
    one.until("clean", |state| !state.dirty).await;
    assert!(chain.nodes.iter().all(|node| one.has(node)));
    assert_eq!(one.exchange.fetched(), 23);
    assert_eq!(one.heads(), [chain.tip().cid]);
    one.until("no walks", |state| state.progress.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_repair_that_lacks_a_block_is_tried_again() {
    let chain = Chain::new(100, "x");
    let network = slow_network();
    let ledger = TestLedger::default();
    ledger.put(&chain.nodes[51..], true);
    ledger.put(&chain.nodes[..50], true);
    ledger.set_heads([chain.tip().clone()]);
    ledger.state().dirty = true;
    let one = Member::start(&network, 1, ledger);
    sleep(2 * STALL_TIMEOUT).await;
    assert!(one.ledger.state().dirty);
    let other = Member::having(&network, 2, &chain.nodes, &[chain.tip()]);
    one.connect(&other).await;
    let start = Instant::now();
    one.until("clean", |state| !state.dirty).await;
    assert!(start.elapsed() < Duration::from_secs(3_700));
    assert!(one.has(&chain.nodes[50]));
}

#[tokio::test(start_paused = true)]
async fn heads_of_peers_that_are_not_trusted_are_not_walked() {
    let chain = Chain::new(3, "x");
    let (_network, one, other) = pair(&chain.nodes, chain.tip()).await;
    let trust = Arc::new(Trust::new(one.peer, false, []));
    let inbox = Arc::<Inbox>::default();
    let (_requests, requests) = mpsc::channel(1);
    let cancel = CancellationToken::new();
    let cx = WalkerContext {
        ledger: one.ledger.clone(),
        exchange: one.exchange.clone(),
        trust: trust.clone(),
        inbox: inbox.clone(),
        requests,
        dirty: Arc::default(),
        cancel: cancel.clone(),
    };
    let walker = tokio::spawn(Walker::new(cx).run());
    let head = key::block_digest(&chain.tip().cid).unwrap();
    let announced = Announced { head, signer: other.peer, at_once: false };
    inbox.push([announced]);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(one.exchange.fetched(), 0);
    trust.trust(&peer(2)).unwrap();
    inbox.push([announced]);
    one.until_heads(&[chain.tip()]).await;
    cancel.cancel();
    walker.await.unwrap();
}

#[test]
fn complaints_do_not_flood_the_log() {
    let mut complaints = Complaints::default();
    let now = Instant::now();
    assert!(complaints.may_complain([0; 32], now));
    assert!(!complaints.may_complain([0; 32], now + Duration::from_secs(600)));
    assert!(complaints.may_complain([0; 32], now + COMPLAINT_MEMORY));
    let said = |seconds, complaints: &mut Complaints| {
        let now = now + COMPLAINT_MEMORY + Duration::from_secs(seconds);
        (0..100).filter(|number| complaints.may_complain([100 + number; 32], now)).count()
    };
    assert_eq!(said(120, &mut complaints), COMPLAINTS_PER_MINUTE as usize);
    assert_eq!(said(130, &mut complaints), 0);
    assert_eq!(said(190, &mut complaints), COMPLAINTS_PER_MINUTE as usize);
}

#[test]
fn a_dag_of_any_width_keeps_to_its_bound_of_memory() {
    // Each block links to 4,096 others, down and down, and all of them come.
    let mut frontier = Frontier::default();
    let now = Instant::now();
    let digest = |number: u32| {
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&number.to_le_bytes());
        digest
    };
    let mut named = 0;
    let mut height = 1 << 47;
    let mut wide = |block: &Digest| {
        height -= 1;
        named += 4_096;
        let links = (named - 4_096..named).map(|number| key::block_cid(&digest(number)));
        let delta = super::super::delta::Delta { priority: height, ..Default::default() };
        Node { cid: key::block_cid(block), links: links.collect(), delta, block: Bytes::new() }
    };
    frontier.begin([7; 32], None, false, false, now);
    let (mut widest, mut given_up) = (0, None);
    let mut folded = wide(&[7; 32]);
    while given_up.is_none() {
        let mut group = Vec::new();
        while group.len() < 16 * WINDOW_BLOCKS && given_up.is_none() {
            let asks = frontier.asks(WINDOW_BLOCKS, 0);
            if asks.is_empty() {
                break;
            }
            for ask in asks {
                folded.delta.priority -= 1;
                // The links of those that are folded do not matter.
                let listed = (frontier.open() < 60_000).then(|| wide(&ask.block));
                let arrival =
                    frontier.arrived(&ask.block, listed.as_ref().unwrap_or(&folded), |_| false, now);
                for block in arrival.check {
                    frontier.checked(&block, false, false);
                }
                given_up = given_up.or(arrival.failed.into_iter().next());
                group.push(ask.block);
            }
        }
        let outcome = frontier.merging(&group);
        frontier.merged(&group, &outcome, now);
        for block in frontier.unfold() {
            for block in frontier.unfolded(&wide(&block), |_| false) {
                frontier.checked(&block, false, false);
            }
        }
        widest = widest.max(frontier.open());
        assert!(!group.is_empty() || given_up.is_some());
    }
    assert!(given_up.unwrap().1.contains("too wide"));
    assert!((131_072..=131_072 + 8 * 4_096).contains(&widest), "{widest}");
}

#[test]
fn a_record_says_what_a_walk_still_needs() {
    let chain = Chain::new(3, "x");
    let digest = |node: &Node| key::block_digest(&node.cid).unwrap();
    let now = Instant::now();
    let mut frontier = Frontier::default();
    let tip = digest(chain.tip());
    frontier.begin(tip, None, false, false, now);
    assert_eq!(frontier.asks(9, 1).len(), 1);
    assert!(frontier.arrived(&tip, chain.tip(), |_| false, now).wanted);
    let outcome = frontier.merging(&[tip]);
    let head = Head { cid: chain.tip().cid, height: 3 };
    let record = Branch { tip: head, open: vec![chain.nodes[1].cid], met: Vec::new() };
    assert_eq!(outcome.unfinished, std::slice::from_ref(&record));
    assert!(outcome.done.is_empty() && outcome.heads.is_empty());
    frontier.merged(&[tip], &outcome, now);

    // Gone on with elsewhere: the middle one was merged in the meantime, and is read for what it links to.
    let mut frontier = Frontier::default();
    let (_, check) = frontier.resume(&record, None, now).unwrap();
    assert_eq!(check, [digest(&chain.nodes[1])]);
    frontier.checked(&check[0], true, false);
    assert_eq!(frontier.unfold(), check);
    for block in frontier.unfolded(&chain.nodes[1], |_| false) {
        frontier.checked(&block, false, false);
    }
    assert_eq!(frontier.asks(9, 1)[0].block, digest(&chain.nodes[0]));
    let last = digest(&chain.nodes[0]);
    assert!(frontier.arrived(&last, &chain.nodes[0], |_| false, now).wanted);
    let outcome = frontier.merging(&[last]);
    assert_eq!(outcome.heads.add, [head]);
    assert!(outcome.unfinished.is_empty());
    assert_eq!(frontier.merged(&[last], &outcome, now).len(), 1);
    assert_eq!(frontier.open() + frontier.len(), 0);
}
