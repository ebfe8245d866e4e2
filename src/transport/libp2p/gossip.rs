//! Gossip: settings as the reference has them, who subscribes here, and what becomes of a message.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use libp2p::gossipsub::{
    Behaviour, Config, ConfigBuilder, IdentTopic, Message, MessageAcceptance, MessageAuthenticity, MessageId,
    PublishError, ValidationMode,
};
use libp2p_identity::Keypair;
use tokio::sync::broadcast;
use tracing::{debug, warn};

use super::{COMPONENT, Libp2pConfig};
use crate::error::{Error, Result};
use crate::transport::received::SUBSCRIPTION_MESSAGES_MAX;
use crate::transport::{GOSSIP_BYTES_MAX, GossipMessage, MessageValidator, Topic, Verdict};
use crate::types::PeerId;

/// Bytes of the signer that begin a message's id.
const ID_SIGNER_BYTES: usize = 16;
/// Ids in one announcement, as the reference sends them.
const IHAVE_IDS_MAX: usize = 10_000;
/// Messages that wait for a slow peer, more are lost to it; each may have [`GOSSIP_BYTES_MAX`].
const PEER_QUEUE_MESSAGES: usize = 256;

/// The id by which peers speak of a message: it has to be the same everywhere.
pub(super) fn message_id(message: &Message) -> MessageId {
    let signer = message.source.map(|peer| peer.to_bytes()).unwrap_or_default();
    let mut id = signer[..signer.len().min(ID_SIGNER_BYTES)].to_vec();
    id.extend(message.sequence_number.unwrap_or_default().to_be_bytes());
    MessageId::from(id)
}

fn settings(config: &Libp2pConfig) -> Result<Config> {
    let gossip = &config.gossip;
    let factor = gossip.d_factor;
    let mut builder = ConfigBuilder::default();
    builder
        .validation_mode(ValidationMode::Strict)
        .message_id_fn(message_id)
        .validate_messages()
        .max_transmit_size(GOSSIP_BYTES_MAX)
        .max_control_message_size(GOSSIP_BYTES_MAX)
        .max_control_messages_sent(IHAVE_IDS_MAX)
        // Not the configured time, because the reference has it fixed.
        .duplicate_cache_time(std::time::Duration::from_secs(30 * 60))
        .heartbeat_interval(gossip.heartbeat_interval)
        .history_length(gossip.history_length)
        .history_gossip(gossip.history_gossip)
        .mesh_n(6 * factor)
        .mesh_n_low(5 * factor)
        .mesh_n_high(12 * factor)
        .mesh_outbound_min(2 * factor)
        .retain_scores(4 * factor)
        .gossip_lazy(6 * factor)
        .flood_publish(gossip.flood_publish)
        .connection_handler_queue_len(PEER_QUEUE_MESSAGES);
    if config.peer_exchange {
        builder.do_px();
    }
    builder.build().map_err(|source| {
        Error::invalid_input(format!("cluster.pubsub is invalid: {source}"))
            .component(COMPONENT)
            .with_source(source)
    })
}

pub(super) fn behaviour(keypair: &Keypair, config: &Libp2pConfig) -> Result<Behaviour> {
    Behaviour::new(MessageAuthenticity::Signed(keypair.clone()), settings(config)?).map_err(|text| {
        Error::invalid_input(format!("cluster.pubsub is invalid: {text}")).component(COMPONENT)
    })
}

pub(super) fn topic(topic: &Topic) -> IdentTopic {
    IdentTopic::new(topic.as_str())
}

/// What a publisher is told. Nobody there, or only peers that are too slow, is fine: gossip is a hint.
pub(super) fn published(result: Result<MessageId, PublishError>) -> Result<()> {
    match result {
        Ok(_) | Err(PublishError::NoPeersSubscribedToTopic | PublishError::Duplicate) => Ok(()),
        Err(PublishError::AllQueuesFull(peers)) => {
            debug!(peers, "no peer took a message, because all have too many to take");
            Ok(())
        }
        Err(error @ PublishError::MessageTooLarge) => {
            let text = format!(
                "a message is too long to be published: {error}, at most {GOSSIP_BYTES_MAX} bytes are possible"
            );
            Err(Error::invalid_input(text).component(COMPONENT))
        }
        Err(error) => {
            let text = format!("a message cannot be published: {error}");
            Err(Error::internal(text).component(COMPONENT).with_source(error))
        }
    }
}

/// Who subscribes here.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    topics: BTreeMap<Topic, Vec<Subscription>>,
}

#[derive(Clone, Debug)]
struct Subscription {
    validator: Arc<dyn MessageValidator>,
    messages: broadcast::Sender<GossipMessage>,
}

impl Subscriptions {
    pub(super) fn add(
        &mut self,
        topic: &Topic,
        validator: Arc<dyn MessageValidator>,
    ) -> broadcast::Receiver<GossipMessage> {
        let (messages, receiver) = broadcast::channel(SUBSCRIPTION_MESSAGES_MAX);
        let subscriptions = self.topics.entry(topic.clone()).or_default();
        subscriptions.retain(|subscription| subscription.messages.receiver_count() > 0);
        subscriptions.push(Subscription { validator, messages });
        receiver
    }

    /// Forgets who stopped listening.
    pub(super) fn prune(&mut self) {
        self.topics.retain(|_, subscriptions| {
            subscriptions.retain(|subscription| subscription.messages.receiver_count() > 0);
            !subscriptions.is_empty()
        });
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.keys()
    }

    /// Those of a topic, to be asked without holding the lock that these are under.
    pub(super) fn of(&self, topic: &str) -> Judges {
        Judges(self.topics.get(&Topic::new(topic)).cloned().unwrap_or_default())
    }
}

/// The subscriptions of one topic.
pub(super) struct Judges(Vec<Subscription>);

impl Judges {
    /// Our own message, which is not for us to judge.
    pub(super) fn deliver_own(&self, peer: PeerId, data: &Bytes) {
        let message = GossipMessage { signer: peer, from: peer, data: data.clone() };
        for subscription in &self.0 {
            // Who stopped listening is pruned later.
            let _ = subscription.messages.send(message.clone());
        }
    }

    /// Asks the validators, gives the message to who may have it, and says what is to be done with it.
    pub(super) fn deliver(&self, message: &GossipMessage) -> MessageAcceptance {
        let verdicts: Vec<Verdict> =
            self.0.iter().map(|subscription| ask(&*subscription.validator, message)).collect();
        let together = together(&verdicts);
        if together != Verdict::Reject {
            for (subscription, verdict) in self.0.iter().zip(&verdicts) {
                if *verdict == Verdict::Accept {
                    let _ = subscription.messages.send(message.clone());
                }
            }
        }
        match together {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        }
    }
}

/// A validator that panics must not take the host down.
fn ask(validator: &dyn MessageValidator, message: &GossipMessage) -> Verdict {
    catch_unwind(AssertUnwindSafe(|| validator.validate(&message.signer, &message.data))).unwrap_or_else(
        |_| {
            warn!(signer = %message.signer, "a validator of gossip panicked, message dropped");
            Verdict::Ignore
        },
    )
}

/// One rejection is enough for nobody to get it; one that ignores it, or nobody, for it not to be passed on.
fn together(verdicts: &[Verdict]) -> Verdict {
    if verdicts.contains(&Verdict::Reject) {
        Verdict::Reject
    } else if verdicts.is_empty() || verdicts.contains(&Verdict::Ignore) {
        Verdict::Ignore
    } else {
        Verdict::Accept
    }
}

#[cfg(test)]
#[path = "gossip_tests.rs"]
mod tests;
