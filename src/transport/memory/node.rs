//! One peer in the network: what it serves, what it subscribes to, and its tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, broadcast};
use tokio::time::Instant;

use super::COMPONENT;
use super::gossip::Envelope;
use crate::error::{Error, ErrorKind, Result};
use crate::tasks::Tasks;
use crate::transport::received::{EVENTS_BUFFERED_MAX, SUBSCRIPTION_MESSAGES_MAX};
use crate::transport::traffic::Traffic;
use crate::transport::{
    GossipMessage, MessageValidator, Protocol, STREAMS_PER_PEER_MAX, StreamHandler, Topic, TransportEvent,
};
use crate::types::PeerId;

pub(super) struct Node {
    pub(super) peer: PeerId,
    /// Its address is `/memory/<number>`.
    pub(super) number: u64,
    tasks: Tasks,
    served: Mutex<Served>,
    /// Something came into the inbox.
    pub(super) mail: Notify,
    pub(super) traffic: Traffic,
}

pub(super) struct Served {
    protocols: BTreeMap<Protocol, Arc<dyn StreamHandler>>,
    slots: BTreeMap<PeerId, Arc<Semaphore>>,
    subscriptions: BTreeMap<Topic, Vec<Subscription>>,
    /// None once the peer left, which ends the streams.
    events: Option<broadcast::Sender<TransportEvent>>,
    /// Gossip under way to us, by arrival and then in the order it was sent.
    pub(super) inbox: BTreeMap<(Instant, u64), Envelope>,
    /// Messages we had already, by their ascending numbers.
    pub(super) seen: BTreeSet<u64>,
}

#[derive(Clone)]
pub(super) struct Subscription {
    pub(super) validator: Arc<dyn MessageValidator>,
    pub(super) messages: broadcast::Sender<GossipMessage>,
}

impl Node {
    pub(super) fn new(peer: PeerId, number: u64, runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            peer,
            number,
            tasks: Tasks::on(runtime),
            served: Mutex::new(Served {
                protocols: BTreeMap::new(),
                slots: BTreeMap::new(),
                subscriptions: BTreeMap::new(),
                events: Some(broadcast::channel(EVENTS_BUFFERED_MAX).0),
                inbox: BTreeMap::new(),
                seen: BTreeSet::new(),
            }),
            mail: Notify::new(),
            traffic: Traffic::default(),
        })
    }

    pub(super) fn served(&self) -> MutexGuard<'_, Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_left(&self) -> bool {
        self.tasks.is_stopped()
    }

    pub(super) async fn left(&self) {
        self.tasks.stopped().await;
    }

    /// Runs a task of this peer, which is dropped when the peer leaves.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Forgets everything and drops the tasks, without waiting for them.
    pub(super) fn leave(&self) {
        self.tasks.stop();
        let mut served = self.served();
        let Served { protocols, slots, subscriptions, events, inbox, seen } = &mut *served;
        let handlers = std::mem::take(protocols);
        let subscriptions = std::mem::take(subscriptions);
        slots.clear();
        *events = None;
        inbox.clear();
        seen.clear();
        // Handlers and validators may do anything when they are dropped, also ask this peer.
        drop(served);
        drop((handlers, subscriptions));
    }

    /// Returns once the tasks have ended.
    pub(super) async fn stopped(&self) {
        self.tasks.ended().await;
    }

    pub(super) fn accept(&self, protocol: Protocol, handler: Arc<dyn StreamHandler>) -> Result<()> {
        let mut served = self.served();
        if self.has_left() {
            return Err(Error::shut_down(COMPONENT));
        }
        if served.protocols.contains_key(&protocol) {
            let text = format!("{protocol} has a handler already, and a protocol has one");
            return Err(Error::new(ErrorKind::Conflict, text).component(COMPONENT));
        }
        served.protocols.insert(protocol, handler);
        Ok(())
    }

    pub(super) fn handler(&self, protocol: &Protocol) -> Option<Arc<dyn StreamHandler>> {
        self.served().protocols.get(protocol).cloned()
    }

    pub(super) fn slots_for(&self, peer: &PeerId) -> Arc<Semaphore> {
        let mut served = self.served();
        served.slots.entry(*peer).or_insert_with(|| Arc::new(Semaphore::new(STREAMS_PER_PEER_MAX))).clone()
    }

    pub(super) fn events(&self) -> Option<broadcast::Receiver<TransportEvent>> {
        self.served().events.as_ref().map(broadcast::Sender::subscribe)
    }

    pub(super) fn tell(&self, event: TransportEvent) {
        if let Some(events) = &self.served().events {
            // Nobody listening is fine.
            let _ = events.send(event);
        }
    }

    pub(super) fn subscribe(
        &self,
        topic: &Topic,
        validator: Arc<dyn MessageValidator>,
    ) -> Option<broadcast::Receiver<GossipMessage>> {
        let mut served = self.served();
        if self.has_left() {
            return None;
        }
        let (messages, receiver) = broadcast::channel(SUBSCRIPTION_MESSAGES_MAX);
        let subscriptions = served.subscriptions.entry(topic.clone()).or_default();
        subscriptions.retain(Subscription::is_read);
        subscriptions.push(Subscription { validator, messages });
        Some(receiver)
    }

    /// Subscriptions whose streams are still there.
    pub(super) fn subscriptions(&self, topic: &Topic) -> Vec<Subscription> {
        let served = self.served();
        let subscriptions = served.subscriptions.get(topic).into_iter().flatten();
        subscriptions.filter(|subscription| subscription.is_read()).cloned().collect()
    }

    pub(super) fn is_subscribed(&self, topic: &Topic) -> bool {
        let served = self.served();
        served.subscriptions.get(topic).is_some_and(|list| list.iter().any(Subscription::is_read))
    }
}

impl Subscription {
    fn is_read(&self) -> bool {
        self.messages.receiver_count() > 0
    }
}
