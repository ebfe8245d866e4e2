//! Messages that spread from subscriber to subscriber along the connections.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::network::{Network, happens};
use super::node::Node;
use super::trace::Noted;
use crate::transport::{GOSSIP_PROTOCOL, GossipMessage, Topic, Verdict};

/// Gossip under way to one peer; more is lost.
const INBOX_MESSAGES_MAX: usize = 4_096;
/// Messages a peer remembers to have had.
const SEEN_MESSAGES_MAX: usize = 8_192;

/// A message on its way over one connection.
#[derive(Clone)]
pub(super) struct Envelope {
    /// Ascending in the whole network.
    number: u64,
    topic: Topic,
    message: GossipMessage,
}

impl Network {
    pub(super) fn publish(&self, node: &Arc<Node>, topic: Topic, data: Bytes) {
        let number = {
            let mut state = self.state();
            state.messages_sent += 1;
            state.messages_sent
        };
        let message = GossipMessage { signer: node.peer, from: node.peer, data };
        remember(node, number);
        // What we say ourselves is not for us to judge.
        for subscription in node.subscriptions(&topic) {
            let _ = subscription.messages.send(message.clone());
        }
        self.pass_on(node, Envelope { number, topic, message });
    }

    /// To all neighbours but the one it came from and the one who made it.
    fn pass_on(&self, node: &Arc<Node>, envelope: Envelope) {
        let (came_from, signer) = (envelope.message.from, envelope.message.signer);
        let mut state = self.state();
        let now = Instant::now();
        for (neighbour, delay) in state.neighbour_nodes(&node.peer) {
            let knows_it = neighbour.peer == came_from || neighbour.peer == signer;
            if knows_it || !neighbour.is_subscribed(&envelope.topic) {
                continue;
            }
            let loss = state.gossip_loss;
            if happens(&mut state.random, loss) {
                continue;
            }
            state.hops += 1;
            let key = (now + delay, state.hops);
            let route = [envelope.number, node.number, neighbour.number];
            node.traffic.of(GOSSIP_PROTOCOL).sent(envelope.message.data.len());
            self.trace.note(Noted::GOSSIP, &route, &envelope.message.data);
            let message = GossipMessage { from: node.peer, ..envelope.message.clone() };
            let mut served = neighbour.served();
            if served.inbox.len() < INBOX_MESSAGES_MAX {
                served.inbox.insert(key, Envelope { message, ..envelope.clone() });
                neighbour.mail.notify_one();
            }
        }
    }

    /// Judges a message that arrived, gives it to the subscriptions, and passes it on.
    fn arrived(&self, node: &Arc<Node>, envelope: Envelope) {
        let GossipMessage { from, signer, data } = &envelope.message;
        if !self.state().are_connected(from, &node.peer) {
            return;
        }
        node.traffic.of(GOSSIP_PROTOCOL).received(data.len());
        if !remember(node, envelope.number) {
            return;
        }
        let subscriptions = node.subscriptions(&envelope.topic);
        let verdicts: Vec<_> = subscriptions
            .iter()
            .map(|subscription| (subscription.validator.validate(signer, data), subscription))
            .collect();
        let says = |verdict| verdicts.iter().any(|(said, _)| *said == verdict);
        if says(Verdict::Reject) {
            tracing::debug!(peer = %node.peer, %signer, %from, topic = %envelope.topic, "gossip rejected");
            return;
        }
        for (_, subscription) in verdicts.iter().filter(|(said, _)| *said == Verdict::Accept) {
            let _ = subscription.messages.send(envelope.message.clone());
        }
        if says(Verdict::Accept) && !says(Verdict::Ignore) {
            self.pass_on(node, envelope);
        }
    }
}

/// Whether the message is new to this peer.
fn remember(node: &Node, number: u64) -> bool {
    let mut served = node.served();
    let seen = &mut served.seen;
    // What is older than all we remember, once some were dropped, we had or missed.
    let too_old = seen.len() >= SEEN_MESSAGES_MAX && seen.first().is_some_and(|oldest| number < *oldest);
    if too_old || !seen.insert(number) {
        return false;
    }
    if seen.len() > SEEN_MESSAGES_MAX {
        seen.pop_first();
    }
    true
}

/// A peer's task that takes messages out of its inbox when they have travelled long enough.
pub(super) async fn deliver(network: Arc<Network>, node: Arc<Node>) {
    loop {
        let next = node.served().inbox.first_key_value().map(|((arrival, _), _)| *arrival);
        match next {
            None => node.mail.notified().await,
            Some(arrival) => {
                tokio::select! {
                    biased;
                    // A later message may take a shorter way.
                    () = node.mail.notified() => continue,
                    () = sleep_until(arrival) => {}
                }
            }
        }
        loop {
            let now = Instant::now();
            let envelope = {
                let mut served = node.served();
                match served.inbox.first_entry() {
                    Some(entry) if entry.key().0 <= now => entry.remove(),
                    _ => break,
                }
            };
            network.arrived(&node, envelope);
        }
    }
}
