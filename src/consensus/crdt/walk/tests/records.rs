//! What is remembered of walks suffices to go on with them after a crash at any time, and is little.

use super::super::super::key;
use super::super::super::simulation::node;
use super::*;

/// A generator of the numbers that decide.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

fn digest(node: &Node) -> Digest {
    key::block_digest(&node.cid).unwrap()
}

/// Blocks that link to the one before and some of the few before that, and two tips on top.
fn tangle(blocks: usize, dice: &mut Dice) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 0..blocks {
        let links: BTreeSet<usize> =
            [0, dice.below(6), dice.below(6)].iter().map(|back| number.wrapping_sub(1 + back)).collect();
        let links: Vec<&Node> = links.iter().filter_map(|link| nodes.get(*link)).collect();
        nodes.push(node(&number.to_string(), &links));
    }
    for (tip, below) in [("one", 4), ("two", 2)] {
        let links: Vec<&Node> = nodes[blocks - below..blocks].iter().collect();
        let tip = node(tip, &links);
        nodes.push(tip);
    }
    nodes
}

/// All that walks from these records merge, if whatever they ask for comes.
fn gone_on_with(
    records: &[Branch],
    merged: &BTreeSet<Digest>,
    nodes: &BTreeMap<Digest, Node>,
) -> BTreeSet<Digest> {
    let (mut frontier, mut merged, now) = (Frontier::default(), merged.clone(), Instant::now());
    let mut check: Vec<Digest> = Vec::new();
    for record in records {
        check.extend(frontier.resume(record, None, now).unwrap().1);
    }
    loop {
        for block in std::mem::take(&mut check) {
            frontier.checked(&block, merged.contains(&block), false);
        }
        for block in frontier.unfold() {
            check.extend(frontier.unfolded(&nodes[&block], |_| false));
        }
        let mut group = Vec::new();
        for ask in frontier.asks(WINDOW_BLOCKS, 0) {
            let arrival = frontier.arrived(&ask.block, &nodes[&ask.block], |_| false, now);
            assert!(arrival.failed.is_empty());
            check.extend(arrival.check);
            group.push(ask.block);
        }
        if group.is_empty() && check.is_empty() {
            return merged;
        }
        let outcome = frontier.merging(&group);
        frontier.merged(&group, &outcome, now);
        merged.extend(group);
    }
}

#[test]
fn walks_go_on_to_their_end_after_a_crash_at_any_time() {
    for seed in 0..60 {
        let dice = &mut Dice(seed);
        let all = tangle(120, dice);
        let nodes: BTreeMap<Digest, Node> = all.iter().map(|node| (digest(node), node.clone())).collect();
        let everything: BTreeSet<Digest> = nodes.keys().copied().collect();
        let [one, two] = [digest(&all[120]), digest(&all[121])];
        let (mut frontier, now) = (Frontier::default(), Instant::now());
        frontier.begin(one, None, false, false, now);
        let (mut merged, mut ready) = (BTreeSet::new(), VecDeque::new());
        let mut both = false;
        while merged.len() < everything.len() {
            if !both && (ready.len() + merged.len() > 10 + dice.below(40)) {
                // Announced when the other has come far.
                frontier.begin(two, None, false, false, now);
                both = true;
            }
            for ask in frontier.asks(1 + dice.below(8), 0) {
                let arrival = frontier.arrived(&ask.block, &nodes[&ask.block], |_| false, now);
                for block in arrival.check {
                    frontier.checked(&block, merged.contains(&block), false);
                }
                ready.push_back(ask.block);
            }
            if dice.below(3) > 0 {
                continue;
            }
            let most = ready.len().min(1 + dice.below(20));
            let group: Vec<Digest> = ready.drain(..most).collect();
            let outcome = frontier.merging(&group);
            if dice.below(4) == 0 {
                frontier.not_merged(&group);
                continue;
            }
            frontier.merged(&group, &outcome, now);
            merged.extend(group);
            let records = &outcome.unfinished;
            let tips: BTreeSet<Digest> =
                records.iter().filter_map(|walk| key::block_digest(&walk.tip.cid)).collect();
            let gone_on_with = gone_on_with(records, &merged, &nodes);
            for (number, node) in all.iter().enumerate() {
                // The second one begins anew when none of it is merged.
                let is_below = number < 120 && tips.contains(&one) || tips.contains(&digest(node));
                assert!(
                    !is_below || gone_on_with.contains(&digest(node)),
                    "seed {seed}: {number} is forgotten"
                );
            }
        }
        assert_eq!(frontier.len(), 0, "seed {seed}");
    }
}

#[test]
fn what_waits_to_be_merged_is_not_in_a_record() {
    let chain = Chain::new(100, "x");
    let (mut frontier, now) = (Frontier::default(), Instant::now());
    frontier.begin(digest(chain.tip()), None, false, false, now);
    let mut ready = Vec::new();
    for node in chain.nodes[10..].iter().rev() {
        assert_eq!(frontier.asks(9, 1)[0].block, digest(node));
        for block in frontier.arrived(&digest(node), node, |_| false, now).check {
            frontier.checked(&block, false, false);
        }
        ready.push(digest(node));
    }
    let outcome = frontier.merging(&ready[..20]);
    assert_eq!(frontier.open(), 91);
    // All else is below it.
    assert_eq!(outcome.unfinished[0].open, [chain.nodes[79].cid]);
    // What did not work is tried again, and is named as long.
    frontier.not_merged(&ready[..20]);
    let outcome = frontier.merging(&[]);
    assert!(outcome.unfinished.is_empty(), "it has not begun");
}
