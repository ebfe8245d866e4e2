//! A broad DAG, as many clients of one peer of the reference make it without batching, walked over bitswap.

use super::super::super::key;
use super::super::super::simulation::{Served, TestLedger, node, peer};
use super::super::*;
use super::{DELAY, slow_network};
use crate::exchange::Bitswap;
use crate::transport::PeerTransport as _;

/// What so many clients that write at the same time make of a peer of the reference: each block links to the heads there
/// were when it was begun, and replaces them when it is done. Then a block on top of all.
fn written_by(writers: usize, blocks: usize) -> Vec<Node> {
    let (mut nodes, mut heads) = (Vec::<Node>::new(), BTreeSet::<usize>::new());
    let mut writing = vec![(0, Vec::new()); writers];
    for time in 0_usize.. {
        for (writer, (done_at, links)) in writing.iter_mut().enumerate().filter(|(_, (at, _))| *at == time) {
            if time > 0 {
                let above: Vec<&Node> = links.iter().map(|link| &nodes[*link]).collect();
                let made = node(&nodes.len().to_string(), &above);
                heads.retain(|head| !links.contains(head));
                heads.insert(nodes.len());
                nodes.push(made);
            }
            *links = heads.iter().copied().collect();
            *done_at = time + 7 + (time * 31 + writer * 17) % 7;
        }
        if nodes.len() >= blocks {
            break;
        }
    }
    let top = node("top", &heads.iter().map(|head| &nodes[*head]).collect::<Vec<_>>());
    nodes.push(top);
    nodes
}

/// How many times something has to be asked for, one after the other, to get all from the last one down.
fn steps_down(nodes: &[Node]) -> u32 {
    let by_cid: BTreeMap<Cid, &Node> = nodes.iter().map(|node| (node.cid, node)).collect();
    let (mut seen, mut step, mut steps) = (BTreeSet::new(), vec![nodes[nodes.len() - 1].cid], 0);
    while !step.is_empty() {
        steps += 1;
        let links = step.iter().flat_map(|cid| &by_cid[cid].links);
        step = links.filter(|link| seen.insert(**link)).copied().collect();
    }
    steps
}

#[tokio::test(start_paused = true)]
async fn a_broad_dag_takes_little_more_than_a_round_trip_a_step() {
    let nodes = written_by(10, 4_000);
    let links: usize = nodes.iter().map(|node| node.links.len()).sum();
    assert!(links > 6 * nodes.len(), "it is not broad: {links} links");
    let network = slow_network();
    let side = |number: u64, ledger: TestLedger| {
        let (transport, ledger) = (Arc::new(network.join(peer(number)).unwrap()), Arc::new(ledger));
        let source = Arc::new(Served(ledger.clone()));
        (transport.clone(), Arc::new(Bitswap::new(transport, source).unwrap()), ledger)
    };
    let has_all = TestLedger::default();
    has_all.put(&nodes, true);
    let (one, exchange, ledger) = side(1, TestLedger::default());
    let (other, _served, _) = side(2, has_all);
    one.connect(&other.listen_addresses()[0]).await.unwrap();
    let (_walker, requests) = mpsc::channel(REQUESTS_MAX);
    let inbox = Arc::new(Inbox::default());
    let cx = WalkerContext {
        ledger: ledger.clone(),
        exchange,
        trust: Arc::new(Trust::new(peer(1), true, [])),
        inbox: inbox.clone(),
        requests,
        dirty: Arc::default(),
        cancel: CancellationToken::new(),
    };
    tokio::spawn(Walker::new(cx).run());
    let start = Instant::now();
    let head = key::block_digest(&nodes[nodes.len() - 1].cid).unwrap();
    inbox.push([Announced { head, signer: peer(2), at_once: false }]);
    while ledger.heads().is_empty() {
        sleep(DELAY).await;
    }
    assert_eq!(ledger.state().processed.len(), nodes.len());
    let steps = steps_down(&nodes);
    let ideal = steps * 2 * DELAY;
    // Streams are opened first, and the last merge comes after all.
    let elapsed = start.elapsed() - MERGE_LINGER;
    assert!(elapsed < ideal * 12 / 10, "{elapsed:?} for {steps} steps of {:?}", 2 * DELAY);
}
