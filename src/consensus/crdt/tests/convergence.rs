//! Peers that do as they like and exchange blocks in whatever order.

use super::*;
use crate::types::PinOperation;

/// A generator that anybody can repeat.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for place in (1..items.len()).rev() {
            items.swap(place, self.below(place + 1));
        }
    }
}

/// Few, so that they meet.
const PINS: usize = 12;

pub(super) fn operations(random: &mut Random) -> Vec<PinOperation> {
    let mut operations = Vec::new();
    for _ in 0..=random.below(4) {
        let number = random.below(PINS) as u64;
        if random.below(3) == 0 {
            operations.push(PinOperation::Unpin(pin(number).cid));
        } else {
            operations.push(PinOperation::Pin(named(number, &random.below(1_000).to_string()).into()));
        }
    }
    operations
}

pub(super) async fn act(crdt: &Crdt, random: &mut Random) {
    let operations = operations(random);
    crdt.log_many(operations.clone()).await.unwrap();
    // What was acknowledged is seen, whatever of other peers' was merged.
    let mut last: BTreeMap<Cid, Option<Pin>> = BTreeMap::new();
    for operation in operations {
        let now = match &operation {
            PinOperation::Pin(pin) => Some(Pin::clone(pin)),
            PinOperation::Unpin(_) => None,
            PinOperation::Revise(_) => continue,
        };
        last.insert(*operation.cid(), now);
    }
    for (cid, expected) in last {
        assert_eq!(crdt.state.get(&cid).await.unwrap(), expected);
    }
}

/// Gives some blocks of one peer to another, in any order, without a word of heads, as a walk does.
pub(super) async fn give_some(from: &Crdt, to: &Crdt, random: &mut Random) {
    let mut some = nodes(storage(from));
    random.shuffle(&mut some);
    some.truncate(random.below(some.len() + 1));
    while !some.is_empty() {
        let part: Vec<Node> = some.drain(..1 + random.below(some.len())).collect();
        to.parts.ledger.merge(part, HeadChange::none()).await.unwrap();
    }
}

/// Gives everything, and makes heads of what nothing links to.
pub(super) async fn give_all(from: &Crdt, to: &Crdt, random: &mut Random) {
    let mut all = nodes(storage(from));
    random.shuffle(&mut all);
    to.parts.ledger.merge(all, HeadChange::none()).await.unwrap();
    let here = nodes(storage(to));
    let linked: Vec<Cid> = here.iter().flat_map(|node| node.links.clone()).collect();
    let (tops, below): (Vec<&Node>, Vec<&Node>) = here.iter().partition(|node| !linked.contains(&node.cid));
    let add = tops.iter().map(|node| Head { cid: node.cid, height: node.delta.priority }).collect();
    let remove = below.iter().map(|node| node.cid).collect();
    to.parts.ledger.merge(Vec::new(), HeadChange { add, remove }).await.unwrap();
}

/// Runs three peers on a seed and gives what they all have at the end.
async fn run(seed: u64) -> (BTreeMap<Vec<u8>, Pin>, BTreeMap<Cid, Known>, Vec<Head>) {
    let random = &mut Random(seed);
    let mut peers = Vec::new();
    for number in 0..3 {
        peers.push(
            memory(if (seed + number).is_multiple_of(3) { (7, Duration::from_millis(50)) } else { AT_ONCE })
                .await,
        );
    }
    for _ in 0..60 {
        let (one, other) = (random.below(3), random.below(3));
        match random.below(8) {
            0 if one != other => give_all(&peers[one], &peers[other], random).await,
            1 | 2 if one != other => give_some(&peers[one], &peers[other], random).await,
            3 => tokio::time::sleep(Duration::from_millis(30)).await,
            _ => act(&peers[one], random).await,
        }
    }
    // Whatever waits is cut.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for one in 0..3 {
        for other in 0..3 {
            give_all(&peers[one], &peers[other], random).await;
        }
    }
    give_all(&peers[2], &peers[0], random).await;
    give_all(&peers[2], &peers[1], random).await;
    // One that has seen nothing of all this.
    let late = memory(AT_ONCE).await;
    give_all(&peers[0], &late, random).await;
    peers.push(late);
    let mut all = Vec::new();
    for peer in &peers {
        assert!(entries(storage(peer), LOG).is_empty());
        let mut known = known(storage(peer));
        // Whatever of equal values counts.
        let pins = pinset(peer).await;
        for (pin, (live, _, value)) in &mut known {
            assert_eq!(live.is_empty(), value.is_none());
            let shown = pins.get(&pin.to_bytes()).map(|pin| Bytes::from(encode_pin_protobuf(pin)));
            assert_eq!(shown, *value);
        }
        all.push((pins, known, peer.parts.ledger.heads()));
    }
    for other in &all[1..] {
        assert_eq!(all[0], *other, "seed {seed}");
    }
    all.swap_remove(0)
}

#[tokio::test(start_paused = true)]
async fn peers_that_have_the_same_blocks_have_the_same_pinset() {
    let mut pins = 0;
    for seed in 0..40 {
        pins += run(seed).await.0.len();
    }
    assert!(pins > 40, "the peers have hardly any pins to agree on");
}

#[test]
fn the_same_seed_gives_the_same_blocks() {
    let once = || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(1_000))
    };
    assert_eq!(once(), once());
}
