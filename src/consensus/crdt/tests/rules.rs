//! Who wins, and what is told.

use futures::FutureExt as _;
use futures::StreamExt as _;

use super::super::batching::DELTA_BYTES;
use super::super::delta::HEIGHT_MAX;
use super::super::ledger::Branch;
use super::*;
use crate::consensus::StateEvent;
use crate::error::ErrorKind;
use crate::testing::state_suite::cid;
use crate::types::PinOperation;

/// Events that came already.
fn seen(events: &mut futures::stream::BoxStream<'static, StateEvent>) -> Vec<StateEvent> {
    std::iter::from_fn(|| events.next().now_or_never().flatten()).collect()
}

fn pinned(pin: &Pin) -> StateEvent {
    StateEvent::Pinned(Arc::new(pin.clone()))
}

fn unpinned(pin: &Pin) -> StateEvent {
    StateEvent::Unpinned(Arc::new(pin.clone()))
}

#[tokio::test]
async fn events_tell_what_other_peers_changed_and_nothing_else() {
    let crdt = memory(AT_ONCE).await;
    let mut events = crdt.events();
    let (old, new) = (named(1, "old"), named(1, "new"));
    let first = node(&[], &[&old], &[]);
    let second = node(&[&first], &[&new], &[]);
    merge(&crdt, &[&second], HeadChange::none()).await;
    assert_eq!(seen(&mut events), [pinned(&new)]);
    // Late, and below.
    merge(&crdt, &[&first], tip(&second)).await;
    merge(&crdt, &[&first, &second], HeadChange::none()).await;
    assert_eq!(seen(&mut events), []);
    // The removal of what lost already.
    let third = node(&[&second], &[], &[(&old, &first)]);
    merge(&crdt, &[&third], tip(&third)).await;
    assert_eq!(seen(&mut events), []);
    assert_eq!(crdt.state.get(&cid(1)).await.unwrap(), Some(new.clone()));
    let fourth = node(&[&third], &[], &[(&new, &second)]);
    merge(&crdt, &[&fourth], tip(&fourth)).await;
    assert_eq!(seen(&mut events), [unpinned(&new)]);
    // The removed element again, from a branch that came late.
    let late = node(&[], &[&named(2, "late")], &[(&old, &first)]);
    merge(&crdt, &[&late], HeadChange::none()).await;
    assert_eq!(seen(&mut events), [pinned(&named(2, "late"))]);
}

#[tokio::test]
async fn a_tombstone_that_comes_before_its_element_holds() {
    let crdt = memory(AT_ONCE).await;
    let added = node(&[], &[&pin(1)], &[]);
    let removed = node(&[&added], &[], &[(&pin(1), &added)]);
    let mut events = crdt.events();
    merge(&crdt, &[&removed], HeadChange::none()).await;
    merge(&crdt, &[&added], tip(&removed)).await;
    assert_eq!(seen(&mut events), []);
    assert!(pinset(&crdt).await.is_empty());
}

#[tokio::test]
async fn when_the_best_is_removed_the_next_best_is_seen() {
    let crdt = memory(AT_ONCE).await;
    let (low, best) = (named(1, "low"), named(1, "best"));
    let one = node(&[], &[&low], &[]);
    let other = node(&[], &[&named(9, "other")], &[]);
    let two = node(&[&other], &[&best], &[]);
    merge(&crdt, &[&one, &two, &other], HeadChange::none()).await;
    assert_eq!(crdt.state.get(&cid(1)).await.unwrap(), Some(best.clone()));
    let mut events = crdt.events();
    // It had not seen the other.
    let removed = node(&[&two], &[], &[(&best, &two)]);
    merge(&crdt, &[&removed], HeadChange::none()).await;
    assert_eq!(seen(&mut events), [pinned(&low)]);
}

#[tokio::test]
async fn of_equal_heights_the_greater_bytes_win() {
    let (low, high) = (named(1, "a"), named(1, "b"));
    let (one, other) = (node(&[], &[&low], &[]), node(&[], &[&high], &[]));
    for order in [[&one, &other], [&other, &one]] {
        let crdt = memory(AT_ONCE).await;
        for node in order {
            merge(&crdt, &[node], HeadChange::none()).await;
        }
        assert_eq!(crdt.state.get(&cid(1)).await.unwrap(), Some(high.clone()));
    }
}

#[tokio::test]
async fn of_several_values_in_one_block_the_greatest_bytes_count() {
    let (low, high) = (named(1, "a"), named(1, "b"));
    for pins in [[low.clone(), high.clone()], [high.clone(), low.clone()]] {
        let twice = node(&[], &pins.each_ref(), &[]);
        let crdt = memory(AT_ONCE).await;
        merge(&crdt, &[&twice], HeadChange::none()).await;
        assert_eq!(crdt.state.get(&cid(1)).await.unwrap(), Some(high.clone()));
        // And when they are read from the block later, because something above it went.
        let above = node(&[&twice], &[&named(1, "above")], &[]);
        let removed = node(&[&above], &[], &[(&low, &above)]);
        merge(&crdt, &[&above], HeadChange::none()).await;
        merge(&crdt, &[&removed], tip(&removed)).await;
        assert_eq!(crdt.state.get(&cid(1)).await.unwrap(), Some(high.clone()));
    }
}

#[tokio::test]
async fn a_value_that_counts_and_is_no_pin_is_no_entry() {
    let crdt = memory(AT_ONCE).await;
    let good = node(&[], &[&pin(1)], &[]);
    let broken = Element { pin: cid(1), value: Bytes::from_static(b"\xff\xff") };
    let delta = Delta { elements: vec![broken], tombstones: Vec::new(), priority: 2 };
    let bad = Node::build(vec![good.cid], delta);
    merge(&crdt, &[&good], tip(&good)).await;
    let mut events = crdt.events();
    merge(&crdt, &[&bad], tip(&bad)).await;
    assert_eq!(seen(&mut events), [unpinned(&pin(1))]);
    assert!(pinset(&crdt).await.is_empty());
    // It can be removed like any other, and what is under it too.
    assert_eq!(crdt.log_unpin(&cid(1)).await.unwrap(), None);
    let last = nodes(storage(&crdt)).pop().unwrap();
    assert_eq!(last.delta.tombstones.len(), 2);
    crdt.log_pin(pin(1)).await.unwrap();
    assert_eq!(pinset(&crdt).await.len(), 1);
}

#[tokio::test]
async fn what_nobody_has_is_not_removed() {
    let crdt = memory(AT_ONCE).await;
    assert_eq!(crdt.log_unpin(&cid(1)).await.unwrap(), None);
    crdt.log_many(vec![PinOperation::Pin(pin(2).into()), PinOperation::Unpin(cid(2))]).await.unwrap();
    assert!(nodes(storage(&crdt)).is_empty() && crdt.parts.ledger.heads().is_empty());
    assert!(entries(storage(&crdt), SET).is_empty());
}

#[tokio::test]
async fn heads_stay_when_a_group_comes_to_nothing() {
    let crdt = memory(AT_ONCE).await;
    crdt.log_pin(pin(1)).await.unwrap();
    let heads = crdt.parts.ledger.heads();
    crdt.log_many(vec![PinOperation::Pin(pin(2).into()), PinOperation::Unpin(cid(2))]).await.unwrap();
    assert_eq!((heads.len(), crdt.parts.ledger.heads()), (1, heads));
}

#[tokio::test]
async fn a_group_of_operations_is_one_delta_on_top_of_all_heads() {
    let crdt = memory(AT_ONCE).await;
    let (one, other) = (node(&[], &[&pin(1)], &[]), node(&[], &[&pin(2)], &[]));
    merge(&crdt, &[&one], tip(&one)).await;
    merge(&crdt, &[&other], tip(&other)).await;
    let mut cut = crdt.parts.cut.clone();
    let operations = vec![
        PinOperation::Pin(named(3, "first").into()),
        PinOperation::Unpin(cid(1)),
        PinOperation::Pin(named(3, "last").into()),
        PinOperation::Pin(named(1, "again").into()),
    ];
    crdt.log_many(operations).await.unwrap();
    let made = nodes(storage(&crdt)).pop().unwrap();
    let mut links = vec![one.cid, other.cid];
    links.sort_by_key(Cid::to_bytes);
    assert_eq!((made.links.clone(), made.delta.priority), (links, 2));
    assert_eq!(made.delta.tombstones, [Tombstone { pin: cid(1), block: digest(&one) }]);
    let mut values: Vec<Bytes> = made.delta.elements.iter().map(|element| element.value.clone()).collect();
    values.sort();
    let mut expected =
        [named(3, "last"), named(1, "again")].map(|pin| Bytes::from(encode_pin_protobuf(&pin)));
    expected.sort();
    assert_eq!(values, expected);
    let head = Head { cid: made.cid, height: 2 };
    assert_eq!(crdt.parts.ledger.heads(), [head]);
    assert_eq!(*cut.borrow_and_update(), Some(head));
}

#[tokio::test]
async fn a_pin_of_ours_is_above_what_it_replaced_even_below_no_head_yet() {
    let crdt = memory(AT_ONCE).await;
    // The top of a long branch, whose walk is not done.
    let mut far = node(&[], &[&named(1, "theirs")], &[]);
    far.delta.priority = 90;
    let far = Node::build(Vec::new(), far.delta);
    merge(&crdt, &[&far], HeadChange::none()).await;
    crdt.log_pin(named(1, "ours")).await.unwrap();
    assert_eq!(crdt.state.get(&cid(1)).await.unwrap(), Some(named(1, "ours")));
    crdt.log_pin(pin(2)).await.unwrap();
    let other = memory(AT_ONCE).await;
    other.parts.ledger.merge(nodes(storage(&crdt)), HeadChange::none()).await.unwrap();
    assert_eq!(pinset(&other).await, pinset(&crdt).await);
}

#[tokio::test]
async fn a_block_of_the_greatest_height_stops_nobody() {
    let crdt = memory(AT_ONCE).await;
    let mut top = node(&[], &[&named(1, "a")], &[]);
    top.delta.priority = HEIGHT_MAX;
    let top = Node::build(Vec::new(), top.delta);
    merge(&crdt, &[&top], tip(&top)).await;
    crdt.log_pin(named(1, "b")).await.unwrap();
    crdt.log_pin(pin(2)).await.unwrap();
    assert_eq!(pinset(&crdt).await.len(), 2);
    let other = memory(AT_ONCE).await;
    other.parts.ledger.merge(nodes(storage(&crdt)), HeadChange::none()).await.unwrap();
    assert_eq!(pinset(&other).await, pinset(&crdt).await);
}

#[tokio::test]
async fn many_operations_are_several_deltas_each_on_top_of_the_last() {
    let crdt = memory(AT_ONCE).await;
    let long = "x".repeat(1_000);
    let operations = (0..3_000).map(|number| PinOperation::Pin(named(number, &long).into())).collect();
    crdt.log_many(operations).await.unwrap();
    let made = nodes(storage(&crdt));
    assert!(made.len() >= 3, "{}", made.len());
    for (below, above) in made.iter().zip(&made[1..]) {
        assert_eq!(above.links, [below.cid]);
    }
    assert!(made.iter().all(|node| node.block.len() <= DELTA_BYTES + 100));
    assert_eq!(crdt.parts.ledger.heads().len(), 1);
    let other = memory(AT_ONCE).await;
    other.parts.ledger.merge(made, HeadChange::none()).await.unwrap();
    assert_eq!(pinset(&other).await, pinset(&crdt).await);
}

#[tokio::test]
async fn a_pin_that_no_block_can_hold_is_refused() {
    let crdt = memory(BATCHED).await;
    let error = crdt.log_pin(named(1, &"x".repeat(DELTA_BYTES))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(pinset(&crdt).await.is_empty());
}

/// What waits is cut.
async fn wait() {
    tokio::time::sleep(2 * BATCHED.1).await;
}

#[tokio::test(start_paused = true)]
async fn a_pin_that_waits_beats_whatever_other_peers_bring() {
    let crdt = memory(BATCHED).await;
    crdt.log_pin(named(1, "ours")).await.unwrap();
    let mut events = crdt.events();
    let theirs = node(&[], &[&named(1, "theirs")], &[]);
    let above = node(&[&theirs], &[&named(1, "theirs, z")], &[(&pin(1), &theirs)]);
    merge(&crdt, &[&theirs, &above], tip(&above)).await;
    let expected = Some(named(1, "ours"));
    assert_eq!((seen(&mut events), crdt.state.get(&cid(1)).await.unwrap()), (vec![], expected.clone()));
    wait().await;
    assert_eq!((seen(&mut events), crdt.state.get(&cid(1)).await.unwrap()), (vec![], expected));
    assert_eq!(nodes(storage(&crdt)).pop().unwrap().delta.priority, 3);
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_does_by_itself_does_not_wait_and_is_below_what_comes_then() {
    use crate::types::{PinOperation, Revision};
    let crdt = memory(BATCHED).await;
    crdt.log_pin(named(1, "user")).await.unwrap();
    wait().await;
    let first = nodes(storage(&crdt)).pop().unwrap();
    let revision = Revision::replace(named(1, "user"), named(1, "revised"));
    crdt.log_many(vec![PinOperation::Revise(revision.clone())]).await.unwrap();
    let second = nodes(storage(&crdt)).pop().unwrap();
    assert_eq!((second.delta.priority, second.delta.elements.len()), (2, 1));
    // A user elsewhere had seen what was there before, and others built upon that.
    let theirs = node(&[&first], &[&named(1, "user again")], &[]);
    let above = node(&[&theirs], &[&named(2, "theirs")], &[]);
    let top = node(&[&above], &[&named(1, "user again")], &[]);
    merge(&crdt, &[&theirs, &above, &top], tip(&top)).await;
    assert_eq!(crdt.state.get(&cid(1)).await.unwrap(), Some(named(1, "user again")));
    crdt.log_many(vec![PinOperation::Revise(revision)]).await.unwrap();
    assert_eq!(crdt.state.get(&cid(1)).await.unwrap(), Some(named(1, "user again")));
    assert!(entries(storage(&crdt), LOG).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_does_by_itself_is_not_above_what_comes_while_it_is_written() {
    use crate::types::{PinOperation, Revision};
    let crdt = memory(AT_ONCE).await;
    crdt.log_pin(named(1, "user")).await.unwrap();
    let first = nodes(storage(&crdt)).pop().unwrap();
    let theirs = node(&[&first], &[&named(1, "user again")], &[]);
    let revision = PinOperation::Revise(Revision::replace(named(1, "user"), named(1, "revised")));
    // Both wait for the committer before it takes either.
    let (revised, merged) = futures::future::join(
        crdt.log_many(vec![revision]),
        crdt.parts.ledger.merge(vec![theirs.clone()], tip(&theirs)),
    )
    .await;
    revised.and(merged).unwrap();
    let heights: Vec<_> = nodes(storage(&crdt)).iter().map(|node| node.delta.priority).collect();
    assert_eq!(heights, [1, 2, 2]);
}

#[tokio::test(start_paused = true)]
async fn an_unpin_that_waits_hides_what_it_saw_and_nothing_else() {
    let crdt = memory(BATCHED).await;
    let (first, second) = (named(1, "first"), named(1, "second"));
    let known = node(&[], &[&first], &[]);
    merge(&crdt, &[&known], tip(&known)).await;
    assert_eq!(crdt.log_unpin(&cid(1)).await.unwrap(), Some(first.into()));
    merge(&crdt, &[&known], HeadChange::none()).await;
    assert!(pinset(&crdt).await.is_empty());
    // Added by one who has not heard of it.
    let unseen = node(&[&known], &[&second], &[]);
    merge(&crdt, &[&unseen], tip(&unseen)).await;
    assert_eq!(crdt.state.get(&cid(1)).await.unwrap(), Some(second.clone()));
    wait().await;
    let made = nodes(storage(&crdt)).pop().unwrap();
    assert_eq!(made.delta.tombstones, [Tombstone { pin: cid(1), block: digest(&known) }]);
    assert_eq!(crdt.state.get(&cid(1)).await.unwrap(), Some(second));
}

#[tokio::test(start_paused = true)]
async fn an_unpin_takes_back_a_pin_that_waits() {
    let crdt = memory(BATCHED).await;
    crdt.log_pin(named(1, "a")).await.unwrap();
    assert_eq!(crdt.log_unpin(&cid(1)).await.unwrap(), Some(named(1, "a").into()));
    wait().await;
    assert!(nodes(storage(&crdt)).is_empty() && entries(storage(&crdt), LOG).is_empty());
    // And a pin after an unpin keeps the removal of what was there.
    let known = node(&[], &[&named(1, "old")], &[]);
    merge(&crdt, &[&known], tip(&known)).await;
    crdt.log_unpin(&cid(1)).await.unwrap();
    crdt.log_pin(named(1, "new")).await.unwrap();
    wait().await;
    let made = nodes(storage(&crdt)).pop().unwrap();
    assert_eq!((made.delta.tombstones.len(), made.delta.elements.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_delta_is_cut_at_its_size_before_its_age() {
    let crdt = memory(BATCHED).await;
    crdt.log_many((0..999).map(|number| PinOperation::Pin(pin(number).into())).collect()).await.unwrap();
    assert!(nodes(storage(&crdt)).is_empty());
    crdt.log_pin(pin(999)).await.unwrap();
    assert_eq!(nodes(storage(&crdt)).len(), 1);
    assert!(entries(storage(&crdt), LOG).is_empty());
}

#[tokio::test]
async fn the_ledger_answers_from_the_store() {
    let crdt = memory(AT_ONCE).await;
    let ledger = &crdt.parts.ledger;
    let (known, unknown) = (node(&[], &[&pin(1)], &[]), node(&[], &[&pin(2)], &[]));
    // Named by a tombstone alone.
    let naming = node(&[], &[], &[(&pin(2), &unknown)]);
    merge(&crdt, &[&known, &naming], tip(&known)).await;
    let raw = Cid::new_v1(0x55, *known.cid.hash());
    let ids = [known.cid, unknown.cid, raw, naming.cid];
    assert_eq!(ledger.is_processed(&ids).await.unwrap(), [true, false, false, true]);
    assert_eq!(ledger.block(&known.cid).await.unwrap(), Some(known.block.clone()));
    assert_eq!(ledger.block(&unknown.cid).await.unwrap(), None);
    assert_eq!(ledger.block(&raw).await.unwrap(), None);
    // Removed and added at once: it stays.
    let head = Head { cid: known.cid, height: 1 };
    let change = HeadChange { add: vec![head], remove: vec![known.cid, unknown.cid] };
    ledger.merge(Vec::new(), change).await.unwrap();
    assert_eq!(ledger.heads(), [head]);
    let bad = HeadChange { add: vec![Head { cid: raw, height: 1 }], remove: Vec::new() };
    assert_eq!(ledger.merge(Vec::new(), bad).await.unwrap_err().kind(), ErrorKind::InvalidInput);

    assert!(!ledger.dirty().await.unwrap());
    ledger.set_dirty(true).await.unwrap();
    assert!(ledger.dirty().await.unwrap());
    ledger.set_dirty(false).await.unwrap();
    assert!(!ledger.dirty().await.unwrap());
    let branch = |head: Head| Branch { tip: head, open: vec![known.cid], met: vec![head.cid] };
    let branches =
        vec![branch(Head { cid: known.cid, height: 1 }), branch(Head { cid: naming.cid, height: 7 })];
    ledger.set_progress(branches.iter().rev().cloned().collect()).await.unwrap();
    let mut expected = branches;
    expected.sort_by_key(|branch| branch.tip);
    assert_eq!(ledger.progress().await.unwrap(), expected);
    ledger.set_dirty(true).await.unwrap();
    crdt.clean().await.unwrap();
    assert!(ledger.progress().await.unwrap().is_empty() && !ledger.dirty().await.unwrap());
    assert_eq!(ledger.is_processed(&[known.cid]).await.unwrap(), [false]);
    crdt.shutdown().await.unwrap();
    assert_eq!(ledger.is_processed(&[known.cid]).await.unwrap_err().kind(), ErrorKind::ShutDown);
    assert_eq!(ledger.set_dirty(true).await.unwrap_err().kind(), ErrorKind::ShutDown);
}

#[tokio::test]
async fn blocks_are_served_to_others() {
    let network = MemoryNetwork::new(0);
    let join = |number| Arc::new(network.join(peer(number)).unwrap());
    let (ours, theirs) = (join(1), join(2));
    let storage_of: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let state = Arc::new(StoreState::open(storage_of.clone()).await.unwrap());
    let mut cx = ConsensusContext::new(peer(1), storage_of, state, ours.clone(), Arc::new(SystemClock));
    cx.exchange = ExchangeMaker::new(move |source| Ok(Arc::new(StreamExchange::new(ours.clone(), source)?)));
    let crdt = Crdt::open(CrdtConfig::default(), cx).await.unwrap();
    crdt.log_pin(pin(1)).await.unwrap();
    let made = nodes(storage(&crdt)).pop().unwrap();
    let address = crdt.transport.listen_addresses().swap_remove(0);
    crate::transport::PeerTransport::connect(&*theirs, &address).await.unwrap();
    let empty: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let exchange = StreamExchange::new(theirs, Arc::new(super::super::store::StoredBlocks(empty))).unwrap();
    let get = crate::exchange::BlockExchange::get(&exchange, &made.cid, Some(peer(1)));
    let block = tokio::time::timeout(Duration::from_secs(10), get).await.unwrap().unwrap();
    assert_eq!(block.data, made.block);
}
