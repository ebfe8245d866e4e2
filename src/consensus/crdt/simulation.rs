//! Tests: a ledger in memory, DAGs made by hand, and peers on a network in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::broadcast;
use super::delta::{Delta, Element};
use super::ledger::{Branch, Head, HeadChange, Ledger};
use super::network::{Network, NetworkParts};
use super::node::Node;
use super::trust::Trust;
use crate::error::{Error, ErrorKind, Result};
use crate::exchange::{BlockExchange, BlockSource, StreamExchange};
use crate::transport::{MemoryNetwork, MemoryTransport, PeerTransport, Topic};
use crate::types::{Block, Cid, PeerId};

/// A peer id for each number.
pub(super) fn peer(number: u64) -> PeerId {
    let mut bytes = [0; 38];
    bytes[..6].copy_from_slice(&[0x00, 36, 0x08, 0x01, 0x12, 32]);
    bytes[30..].copy_from_slice(&number.to_be_bytes());
    PeerId::from_bytes(&bytes).unwrap()
}

/// A block with one element whose pin and value are made of `name`.
pub(super) fn node(name: &str, links: &[&Node]) -> Node {
    let height = 1 + links.iter().map(|link| link.delta.priority).max().unwrap_or_default();
    node_of_height(name, links, height)
}

pub(super) fn node_of_height(name: &str, links: &[&Node], priority: u64) -> Node {
    let element = Element { pin: Block::raw(name.to_owned()).cid, value: Bytes::from(name.to_owned()) };
    let mut links: Vec<Cid> = links.iter().map(|link| link.cid).collect();
    links.sort();
    Node::build(links, Delta { elements: vec![element], tombstones: Vec::new(), priority })
}

/// Blocks each on top of the one before.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) nodes: Vec<Node>,
}

impl Chain {
    pub(super) fn new(length: usize, name: &str) -> Self {
        Self::on(&[], length, name)
    }

    pub(super) fn on(bottom: &[&Node], length: usize, name: &str) -> Self {
        let mut nodes: Vec<Node> = vec![node(&format!("{name}-0"), bottom)];
        for number in 1..length {
            nodes.push(node(&format!("{name}-{number}"), &[&nodes[number - 1]]));
        }
        Self { nodes }
    }

    pub(super) fn tip(&self) -> &Node {
        self.nodes.last().unwrap()
    }
}

/// A store of the DAG in memory.
#[derive(Debug, Default)]
pub(super) struct TestLedger {
    state: Mutex<TestState>,
}

#[derive(Debug, Default)]
pub(super) struct TestState {
    pub(super) heads: BTreeMap<Cid, u64>,
    pub(super) blocks: BTreeMap<Cid, Bytes>,
    pub(super) processed: BTreeSet<Cid>,
    pub(super) dirty: bool,
    pub(super) progress: Vec<Branch>,
    pub(super) merges: usize,
    /// Every merge takes as long.
    pub(super) delay: Duration,
    /// The next merges fail.
    pub(super) failures: usize,
    /// Blocks that cannot be merged.
    pub(super) poison: BTreeSet<Cid>,
    pub(super) is_shut_down: bool,
}

impl TestLedger {
    pub(super) fn state(&self) -> MutexGuard<'_, TestState> {
        self.state.lock().unwrap()
    }

    /// Has these blocks, merged or not.
    pub(super) fn put<'a>(&self, nodes: impl IntoIterator<Item = &'a Node>, processed: bool) {
        let mut state = self.state();
        for node in nodes {
            state.blocks.insert(node.cid, node.block.clone());
            if processed {
                state.processed.insert(node.cid);
            }
        }
    }

    pub(super) fn set_heads(&self, heads: impl IntoIterator<Item = Node>) {
        self.state().heads = heads.into_iter().map(|node| (node.cid, node.delta.priority)).collect();
    }

    /// A store that has what this one has, as after a restart.
    pub(super) fn reopened(&self) -> Self {
        let state = self.state();
        let (heads, blocks, processed) = (state.heads.clone(), state.blocks.clone(), state.processed.clone());
        let (dirty, progress) = (state.dirty, state.progress.clone());
        let state = TestState { heads, blocks, processed, dirty, progress, ..Default::default() };
        Self { state: Mutex::new(state) }
    }
}

#[async_trait]
impl Ledger for TestLedger {
    fn heads(&self) -> Vec<Head> {
        self.state().heads.iter().map(|(cid, height)| Head { cid: *cid, height: *height }).collect()
    }

    async fn is_processed(&self, ids: &[Cid]) -> Result<Vec<bool>> {
        let state = self.state();
        if state.is_shut_down {
            return Err(Error::shut_down("test"));
        }
        Ok(ids.iter().map(|id| state.processed.contains(id)).collect())
    }

    async fn block(&self, cid: &Cid) -> Result<Option<Bytes>> {
        Ok(self.state().blocks.get(cid).cloned())
    }

    async fn merge_on_walks(
        &self,
        nodes: Vec<Node>,
        heads: HeadChange,
        walks: Option<Vec<Branch>>,
    ) -> Result<()> {
        let delay = self.state().delay;
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let mut state = self.state();
        if state.is_shut_down {
            return Err(Error::shut_down("test"));
        }
        if state.failures > 0 {
            state.failures -= 1;
            return Err(Error::new(ErrorKind::StorageFull, "no space in a test"));
        }
        if nodes.iter().any(|node| state.poison.contains(&node.cid)) {
            return Err(Error::invalid_input("poison in a test"));
        }
        state.merges += 1;
        for node in nodes {
            state.blocks.insert(node.cid, node.block);
            state.processed.insert(node.cid);
        }
        for head in heads.remove.iter().filter(|cid| !heads.add.iter().any(|add| add.cid == **cid)) {
            state.heads.remove(head);
        }
        for head in heads.add {
            assert!(head.height > 0, "a head without a height");
            state.heads.insert(head.cid, head.height);
        }
        if let Some(walks) = walks {
            state.progress = walks;
        }
        Ok(())
    }

    async fn dirty(&self) -> Result<bool> {
        Ok(self.state().dirty)
    }

    async fn set_dirty(&self, dirty: bool) -> Result<()> {
        self.state().dirty = dirty;
        Ok(())
    }

    async fn progress(&self) -> Result<Vec<Branch>> {
        Ok(self.state().progress.clone())
    }

    async fn set_progress(&self, branches: Vec<Branch>) -> Result<()> {
        self.state().progress = branches;
        Ok(())
    }
}

/// Serves what a ledger has, and counts.
#[derive(Debug)]
pub(super) struct Served(pub(super) Arc<TestLedger>);

impl BlockSource for Served {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>> {
        Ok(self.0.state().blocks.get(cid).cloned())
    }
}

/// A peer: transport, exchange, ledger, and the tasks of the network side where it is a member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) peer: PeerId,
    pub(super) transport: Arc<MemoryTransport>,
    pub(super) exchange: Arc<Counting>,
    pub(super) ledger: Arc<TestLedger>,
    pub(super) network: Network,
}

/// Counts blocks that came from others.
#[derive(Debug)]
pub(super) struct Counting {
    exchange: StreamExchange,
    ledger: Arc<TestLedger>,
    fetched: Mutex<Vec<Cid>>,
}

impl Counting {
    pub(super) fn fetched(&self) -> usize {
        self.fetched.lock().unwrap().len()
    }
}

#[async_trait]
impl BlockExchange for Counting {
    async fn get(&self, cid: &Cid, hint: Option<PeerId>) -> Result<Block> {
        let is_ours = self.ledger.state().blocks.contains_key(cid);
        let block = self.exchange.get(cid, hint).await?;
        if !is_ours {
            self.fetched.lock().unwrap().push(*cid);
        }
        Ok(block)
    }

    async fn fetch(&self, cid: &Cid, hint: Option<PeerId>) -> Result<Block> {
        let block = self.exchange.fetch(cid, hint).await?;
        self.fetched.lock().unwrap().push(*cid);
        Ok(block)
    }

    fn get_many(
        &self,
        cids: Vec<Cid>,
        hint: Option<PeerId>,
    ) -> futures::stream::BoxStream<'static, Result<Block>> {
        self.exchange.get_many(cids, hint)
    }

    async fn announce(&self, cids: &[Cid]) -> Result<()> {
        self.exchange.announce(cids).await
    }

    async fn shutdown(&self) -> Result<()> {
        self.exchange.shutdown().await
    }
}

pub(super) fn topic() -> Topic {
    Topic::new("heads")
}

impl Member {
    /// A member that trusts everybody.
    pub(super) fn start(network: &MemoryNetwork, number: u64, ledger: TestLedger) -> Self {
        let transport = Arc::new(network.join(peer(number)).unwrap());
        let ledger = Arc::new(ledger);
        let exchange = StreamExchange::new(transport.clone(), Arc::new(Served(ledger.clone()))).unwrap();
        let exchange = Counting { exchange, ledger: ledger.clone(), fetched: Mutex::default() };
        let exchange = Arc::new(exchange);
        let network = Network::start(NetworkParts {
            transport: transport.clone(),
            exchange: exchange.clone(),
            ledger: ledger.clone(),
            trust: Arc::new(Trust::new(peer(number), true, [])),
            cut: watch::channel(None).1,
            topic: topic(),
            rebroadcast_interval: Duration::from_secs(60),
            repair_interval: Duration::from_secs(3_600),
            seed: number,
            catch_up: None,
        });
        Self { peer: peer(number), transport, exchange, ledger, network }
    }

    /// A member that has these blocks below this head already.
    pub(super) fn having<'a>(
        network: &MemoryNetwork,
        number: u64,
        nodes: impl IntoIterator<Item = &'a Node>,
        heads: &[&Node],
    ) -> Self {
        let ledger = TestLedger::default();
        ledger.put(nodes, true);
        ledger.set_heads(heads.iter().map(|node| (*node).clone()));
        Self::start(network, number, ledger)
    }

    pub(super) async fn connect(&self, other: &Self) {
        self.transport.connect(&other.transport.listen_addresses()[0]).await.unwrap();
    }

    /// Says a head, whatever it may be.
    pub(super) async fn say(&self, head: &Node) {
        self.transport.publish(&topic(), broadcast::encode(&[head.cid]).into()).await.unwrap();
    }

    pub(super) fn heads(&self) -> Vec<Cid> {
        self.ledger.heads().into_iter().map(|head| head.cid).collect()
    }

    pub(super) fn has(&self, node: &Node) -> bool {
        self.ledger.state().processed.contains(&node.cid)
    }

    /// Waits until the store is as told.
    pub(super) async fn until(&self, what: &str, is_so: impl Fn(&TestState) -> bool) {
        let start = Instant::now();
        while !is_so(&self.ledger.state()) {
            assert!(start.elapsed() < Duration::from_secs(7_200), "never: {what}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn until_heads(&self, heads: &[&Node]) {
        let heads: BTreeSet<Cid> = heads.iter().map(|node| node.cid).collect();
        self.until("these heads", |state| {
            state.heads.keys().copied().collect::<BTreeSet<_>>() == heads && state.progress.is_empty()
        })
        .await;
    }

    /// Stops it, and gives its store as it is on disk.
    pub(super) async fn stop(self) -> TestLedger {
        self.network.shutdown().await;
        self.exchange.shutdown().await.unwrap();
        self.transport.shutdown().await.unwrap();
        self.ledger.reopened()
    }
}
