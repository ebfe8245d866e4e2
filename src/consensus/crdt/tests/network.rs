//! Whole components on a network in memory.

use std::collections::BTreeSet;

use tokio::time::{Instant, sleep};

use super::super::ledger::Ledger as _;
use super::*;
use crate::testing::CrashStorage;
use crate::transport::PeerTransport as _;
use crate::types::PinOperation;

/// A peer that can be stopped in any way and started again.
struct Peer {
    number: u64,
    storage: Arc<CrashStorage>,
    transport: Arc<MemoryTransport>,
    crdt: Crdt,
}

impl Peer {
    async fn start(network: &MemoryNetwork, number: u64, storage: Arc<CrashStorage>) -> Self {
        let transport = Arc::new(network.join(peer(number)).unwrap());
        let state = Arc::new(StoreState::open(storage.clone()).await.unwrap());
        let mut cx = ConsensusContext::new(
            peer(number),
            storage.clone(),
            state,
            transport.clone(),
            Arc::new(SystemClock),
        );
        let blocks = transport.clone();
        cx.exchange =
            ExchangeMaker::new(move |source| Ok(Arc::new(StreamExchange::new(blocks.clone(), source)?)));
        cx.seed = number;
        let mut config = CrdtConfig::default();
        if number.is_multiple_of(2) {
            config.batching.max_batch_size = 5;
            config.batching.max_batch_age = Duration::from_millis(200);
        }
        let crdt = Crdt::open(config, cx).await.unwrap();
        Self { number, storage, transport, crdt }
    }

    async fn new(network: &MemoryNetwork, number: u64) -> Self {
        Self::start(network, number, Arc::new(CrashStorage::new())).await
    }

    async fn connect(&self, other: &Self) {
        // Unless they are partitioned.
        drop(self.transport.connect(&other.transport.listen_addresses()[0]).await);
    }

    /// Stops as a power cut does, and starts on what was on disk.
    async fn crash(self, network: &MemoryNetwork) -> Self {
        network.crash(peer(self.number));
        let left = Arc::new(self.storage.crash());
        drop(self.crdt);
        sleep(Duration::from_millis(1)).await;
        Self::start(network, self.number, left).await
    }

    async fn restart(self, network: &MemoryNetwork) -> Self {
        self.crdt.shutdown().await.unwrap();
        self.transport.shutdown().await.unwrap();
        Self::start(network, self.number, self.storage).await
    }
}

async fn connect_all(peers: &[Peer]) {
    for one in peers {
        for other in peers {
            if one.number < other.number {
                one.connect(other).await;
            }
        }
    }
}

async fn until_equal(peers: &[Peer]) {
    let start = Instant::now();
    loop {
        let mut all = BTreeSet::new();
        for peer in peers {
            let names: Vec<_> =
                pinset(&peer.crdt).await.into_iter().map(|(key, pin)| (key, pin.options.name)).collect();
            all.insert((names, peer.crdt.parts.ledger.heads()));
        }
        let mut is_walking = false;
        for peer in peers {
            is_walking |= !peer.crdt.parts.ledger.progress().await.unwrap().is_empty();
        }
        if all.len() == 1 && !is_walking {
            return;
        }
        if start.elapsed() >= Duration::from_secs(1_800) {
            for peer in peers {
                let ledger = &peer.crdt.parts.ledger;
                let dirty = ledger.dirty().await.unwrap();
                let (heads, walks) = (ledger.heads(), ledger.progress().await.unwrap());
                eprintln!("peer {}: dirty {dirty}, heads {heads:?}, walks {walks:?}", peer.number);
            }
            panic!("still {} opinions", all.len());
        }
        sleep(Duration::from_millis(500)).await;
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }
}

/// Peers pin, unpin, are cut off, restart and crash. What it all comes to.
async fn converge(seed: u64) -> Vec<String> {
    let random = &mut Random(seed);
    let network = MemoryNetwork::new(seed);
    network.set_delay(Duration::from_millis(2));
    network.set_gossip_loss(0.2);
    let count = 2 + random.below(3);
    let mut peers = Vec::new();
    for number in 1..=count as u64 {
        peers.push(Peer::new(&network, number).await);
    }
    connect_all(&peers).await;
    for round in 0..40 {
        let place = random.below(peers.len());
        match random.below(14) {
            0 => {
                let other = random.below(peers.len());
                network.partition(peer(peers[place].number), peer(peers[other].number));
            }
            1 => {
                network.heal_all();
                connect_all(&peers).await;
            }
            2 | 3 => {
                let one = peers.remove(place);
                let acknowledged = pinset(&one.crdt).await;
                let one = if random.below(2) == 0 {
                    one.crash(&network).await
                } else {
                    one.restart(&network).await
                };
                assert_eq!(pinset(&one.crdt).await, acknowledged, "seed {seed}: something was lost");
                peers.push(one);
                connect_all(&peers).await;
            }
            4 => sleep(Duration::from_millis(random.below(3_000) as u64)).await,
            _ => {
                let mut operations = Vec::new();
                for _ in 0..=random.below(6) {
                    let number = random.below(15) as u64;
                    operations.push(match random.below(3) {
                        0 => PinOperation::Unpin(pin(number).cid),
                        _ => PinOperation::Pin(named(number, &format!("{round}")).into()),
                    });
                }
                peers[place].crdt.log_many(operations).await.unwrap();
            }
        }
    }
    network.heal_all();
    connect_all(&peers).await;
    until_equal(&peers).await;
    // One that has seen nothing of all this.
    peers.push(Peer::new(&network, 9).await);
    connect_all(&peers).await;
    until_equal(&peers).await;
    let pins = pinset(&peers[0].crdt).await;
    let mut trace: Vec<String> =
        pins.into_values().map(|pin| format!("{} {}", pin.cid, pin.options.name)).collect();
    trace.extend(peers[0].crdt.parts.ledger.heads().iter().map(|head| format!("{head:?}")));
    for peer in &peers {
        assert!(peer.crdt.parts.ledger.progress().await.unwrap().is_empty());
        peer.crdt.shutdown().await.unwrap();
    }
    trace
}

#[tokio::test(start_paused = true)]
async fn peers_that_are_cut_off_and_crash_come_to_the_same_pinset() {
    for seed in 0..12 {
        converge(seed).await;
    }
}

#[test]
fn the_same_seed_comes_to_the_same_pinset_and_the_same_heads() {
    let run = |seed| {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(converge(seed))
    };
    for seed in [3, 77] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pin_is_everywhere_in_a_moment() {
    let network = MemoryNetwork::new(0);
    network.set_delay(Duration::from_millis(1));
    let mut peers = Vec::new();
    for number in 1..=3 {
        peers.push(Peer::new(&network, 2 * number - 1).await);
    }
    connect_all(&peers).await;
    for number in 0..20 {
        let start = Instant::now();
        peers[number as usize % 3].crdt.log_pin(pin(number)).await.unwrap();
        while peers[(number as usize + 1) % 3].crdt.state.get(&pin(number).cid).await.unwrap().is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(start.elapsed() < Duration::from_millis(50), "{:?}", start.elapsed());
    }
    until_equal(&peers).await;
    assert_eq!(peers[0].crdt.parts.ledger.heads().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_comes_late_takes_no_pin_that_was_added_again() {
    let network = MemoryNetwork::new(0);
    let (one, two, three) =
        (Peer::new(&network, 1).await, Peer::new(&network, 3).await, Peer::new(&network, 5).await);
    one.connect(&two).await;
    one.crdt.log_pin(named(7, "first")).await.unwrap();
    let names = |crdt: &Crdt| {
        let got = crdt.state.clone();
        async move { got.get(&pin(7).cid).await.unwrap().map(|pin| pin.options.name.clone()) }
    };
    while names(&two.crdt).await.is_none() {
        sleep(Duration::from_millis(1)).await;
    }
    // Both go on alone: one removes it, the other one changes it, so it stays.
    network.partition(peer(1), peer(3));
    one.crdt.log_unpin(&pin(7).cid).await.unwrap();
    two.crdt.log_pin(named(7, "second")).await.unwrap();
    // The third hears of the change first, and of the removal late.
    three.connect(&two).await;
    while names(&three.crdt).await.is_none() {
        sleep(Duration::from_millis(1)).await;
    }
    let mut events = three.crdt.events();
    let told = tokio::spawn(async move {
        let mut unpinned = 0;
        while let Some(event) = futures::StreamExt::next(&mut events).await {
            unpinned += usize::from(matches!(event, crate::consensus::StateEvent::Unpinned(_)));
        }
        unpinned
    });
    network.heal_all();
    let peers = [one, two, three];
    connect_all(&peers).await;
    until_equal(&peers).await;
    assert_eq!(names(&peers[2].crdt).await.as_deref(), Some("second"));
    for peer in &peers {
        peer.crdt.shutdown().await.unwrap();
    }
    drop(peers);
    assert_eq!(told.await.unwrap(), 0, "it was untracked");
}

#[tokio::test(start_paused = true)]
async fn a_cleaned_peer_gets_everything_again() {
    let network = MemoryNetwork::new(0);
    let peers = [Peer::new(&network, 1).await, Peer::new(&network, 3).await];
    connect_all(&peers).await;
    for number in 0..50 {
        peers[0].crdt.log_pin(pin(number)).await.unwrap();
    }
    until_equal(&peers).await;
    peers[1].crdt.clean().await.unwrap();
    assert!(pinset(&peers[1].crdt).await.is_empty());
    until_equal(&peers).await;
    assert_eq!(pinset(&peers[1].crdt).await.len(), 50);
}
