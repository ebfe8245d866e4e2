//! Who is in, who is connected to whom, and what is broken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use super::pipe::Delay;
use super::trace::{Noted, Trace};
use super::{COMPONENT, NETWORK_PEERS_MAX, gossip, unavailable};
use crate::error::{Error, ErrorKind, Result};
use crate::random::SplitMix64;
use crate::transport::TransportEvent;
use crate::types::PeerId;

/// Lock order: this state before a node's, and no outside code (handlers, validators) under either.
pub(super) struct Network {
    state: Mutex<State>,
    pub(super) trace: Arc<Trace>,
}

pub(super) struct State {
    nodes: BTreeMap<PeerId, Arc<Node>>,
    /// Of everybody who ever joined, so that who comes back has its address.
    numbers: BTreeMap<PeerId, u64>,
    links: BTreeMap<Pair, Link>,
    partitions: BTreeSet<Pair>,
    delay: Duration,
    delays: BTreeMap<Pair, Duration>,
    pub(super) gossip_loss: f64,
    pub(super) random: SplitMix64,
    pub(super) messages_sent: u64,
    /// Messages sent over one connection.
    pub(super) hops: u64,
}

/// Two peers, the lesser first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair(PeerId, PeerId);

impl Pair {
    fn new(one: PeerId, other: PeerId) -> Self {
        Self(one.min(other), one.max(other))
    }

    fn other(self, peer: &PeerId) -> Option<PeerId> {
        match peer {
            peer if *peer == self.0 => Some(self.1),
            peer if *peer == self.1 => Some(self.0),
            _ => None,
        }
    }
}

/// A connection.
#[derive(Clone)]
pub(super) struct Link {
    /// Cancelled when it breaks.
    pub(super) token: CancellationToken,
    pub(super) delay: Delay,
}

/// True with this probability.
pub(super) fn happens(random: &mut SplitMix64, share: f64) -> bool {
    // 53 bits, which a float holds exactly: in [0, 1).
    share > 0.0 && ((random.next() >> 11) as f64) / ((1u64 << 53) as f64) < share
}

impl Network {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            trace: Arc::default(),
            state: Mutex::new(State {
                nodes: BTreeMap::new(),
                numbers: BTreeMap::new(),
                links: BTreeMap::new(),
                partitions: BTreeSet::new(),
                delay: Duration::ZERO,
                delays: BTreeMap::new(),
                gossip_loss: 0.0,
                random: SplitMix64::new(seed),
                messages_sent: 0,
                hops: 0,
            }),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn join(self: &Arc<Self>, peer: PeerId) -> Result<Arc<Node>> {
        let runtime = Handle::try_current().map_err(|source| {
            Error::internal("joining a network needs a tokio runtime")
                .component(COMPONENT)
                .with_source(source)
        })?;
        let node = {
            let mut state = self.state();
            if state.nodes.contains_key(&peer) {
                let text = format!("{peer} is in this network already: shut it down first");
                return Err(Error::new(ErrorKind::Conflict, text).component(COMPONENT));
            }
            let next = state.numbers.len() as u64 + 1;
            if !state.numbers.contains_key(&peer) && state.numbers.len() >= NETWORK_PEERS_MAX {
                let text = format!("{NETWORK_PEERS_MAX} peers joined this network, make another one");
                return Err(Error::new(ErrorKind::QueueFull, text).component(COMPONENT));
            }
            let number = *state.numbers.entry(peer).or_insert(next);
            let node = Node::new(peer, number, runtime);
            state.nodes.insert(peer, node.clone());
            self.trace.note(Noted::JOIN, &[number], &[]);
            node
        };
        node.spawn(gossip::deliver(self.clone(), node.clone()));
        Ok(node)
    }

    /// Takes a peer out. Who is out already is fine.
    pub(super) fn leave(&self, node: &Arc<Node>) {
        {
            let mut state = self.state();
            // Somebody else may have joined under this id since.
            if state.nodes.get(&node.peer).is_some_and(|present| Arc::ptr_eq(present, node)) {
                state.nodes.remove(&node.peer);
                self.trace.note(Noted::LEAVE, &[node.number], &[]);
                for other in state.neighbours(&node.peer) {
                    state.cut(Pair::new(node.peer, other));
                }
            }
        }
        node.leave();
    }

    /// The connection between a peer and another, made if there is none.
    pub(super) fn connect(&self, node: &Arc<Node>, to: &PeerId) -> Result<Link> {
        let mut state = self.state();
        if node.has_left() {
            return Err(Error::shut_down(COMPONENT));
        }
        let pair = Pair::new(node.peer, *to);
        if let Some(link) = state.links.get(&pair) {
            return Ok(link.clone());
        }
        let other = state.nodes.get(to).ok_or_else(|| unavailable(to, "it is not in the network"))?.clone();
        if state.partitions.contains(&pair) {
            return Err(unavailable(to, "the network is partitioned"));
        }
        let delay = Delay::new(state.delay(pair), &self.trace);
        let link = Link { token: CancellationToken::new(), delay };
        self.trace.note(Noted::CONNECT, &[node.number, other.number], &[]);
        state.links.insert(pair, link.clone());
        node.tell(TransportEvent::Connected(*to));
        other.tell(TransportEvent::Connected(node.peer));
        Ok(link)
    }

    pub(super) fn link(&self, one: &PeerId, other: &PeerId) -> Option<Link> {
        self.state().links.get(&Pair::new(*one, *other)).cloned()
    }

    pub(super) fn cut(&self, one: &PeerId, other: &PeerId) {
        self.state().cut(Pair::new(*one, *other));
        self.trace.note(Noted::CUT, &[], &[]);
    }

    pub(super) fn node(&self, peer: &PeerId) -> Option<Arc<Node>> {
        self.state().nodes.get(peer).cloned()
    }

    pub(super) fn present(&self) -> Vec<PeerId> {
        self.state().nodes.keys().copied().collect()
    }

    pub(super) fn neighbours(&self, peer: &PeerId) -> Vec<PeerId> {
        self.state().neighbours(peer)
    }

    pub(super) fn number_of(&self, peer: &PeerId) -> Option<u64> {
        self.state().numbers.get(peer).copied()
    }

    /// Who has or had this number.
    pub(super) fn peer_at(&self, number: u64) -> Option<PeerId> {
        let state = self.state();
        state.numbers.iter().find(|(_, known)| **known == number).map(|(peer, _)| *peer)
    }

    pub(super) fn delay(&self, one: &PeerId, other: &PeerId) -> Duration {
        self.state().delay(Pair::new(*one, *other))
    }

    pub(super) fn set_delay(&self, delay: Duration) {
        let mut state = self.state();
        state.delay = delay;
        for (pair, link) in &state.links {
            link.delay.set(state.delay(*pair));
        }
    }

    pub(super) fn set_delay_between(&self, one: PeerId, other: PeerId, delay: Duration) {
        let mut state = self.state();
        let pair = Pair::new(one, other);
        state.delays.insert(pair, delay);
        if let Some(link) = state.links.get(&pair) {
            link.delay.set(delay);
        }
    }

    pub(super) fn set_gossip_loss(&self, share: f64) {
        self.state().gossip_loss = share;
    }

    pub(super) fn partition(&self, one: PeerId, other: PeerId) {
        let mut state = self.state();
        let pair = Pair::new(one, other);
        if one != other {
            state.partitions.insert(pair);
            state.cut(pair);
        }
    }

    pub(super) fn heal(&self, one: PeerId, other: PeerId) {
        self.state().partitions.remove(&Pair::new(one, other));
    }

    pub(super) fn heal_all(&self) {
        self.state().partitions.clear();
    }
}

impl State {
    fn delay(&self, pair: Pair) -> Duration {
        self.delays.get(&pair).copied().unwrap_or(self.delay)
    }

    pub(super) fn neighbours(&self, peer: &PeerId) -> Vec<PeerId> {
        self.links.keys().filter_map(|pair| pair.other(peer)).collect()
    }

    /// Those a peer is connected to, with how long a message to them takes.
    pub(super) fn neighbour_nodes(&self, peer: &PeerId) -> Vec<(Arc<Node>, Duration)> {
        let links = self.links.iter();
        let neighbours = links.filter_map(|(pair, link)| Some((pair.other(peer)?, link.delay.get())));
        neighbours.filter_map(|(peer, delay)| Some((self.nodes.get(&peer)?.clone(), delay))).collect()
    }

    pub(super) fn are_connected(&self, one: &PeerId, other: &PeerId) -> bool {
        self.links.contains_key(&Pair::new(*one, *other))
    }

    fn cut(&mut self, pair: Pair) {
        if let Some(link) = self.links.remove(&pair) {
            link.token.cancel();
            for (peer, other) in [(pair.0, pair.1), (pair.1, pair.0)] {
                if let Some(node) = self.nodes.get(&peer) {
                    node.tell(TransportEvent::Disconnected(other));
                }
            }
        }
    }
}
