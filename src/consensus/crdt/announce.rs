//! Telling others about our heads, and hearing about theirs.
//!
//! Three tasks: one publishes what the committer cuts, one listens and fills the [`Inbox`] that the
//! walker empties, one says our heads again when nobody has said them for a while. Every loss is healed by the last.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::broadcast;
use super::key::{Digest, block_digest};
use super::ledger::{Head, Ledger};
use super::trust::Trust;
use crate::error::ErrorKind;
use crate::random::SplitMix64;
use crate::transport::{GossipMessage, MessageValidator, PeerTransport, Topic, Verdict};
use crate::types::{Cid, PeerId};

/// Heads in one message: far below what gossip carries, so that the message gets through everywhere.
const MESSAGE_HEADS_MAX: usize = 1024;
/// Heads of one announcer that wait for the walker.
const INBOX_HEADS_MAX: usize = 1024;
/// Announcers whose heads wait for the walker.
const INBOX_SIGNERS_MAX: usize = 256;
/// Heads that are remembered as said by somebody.
const SEEN_HEADS_MAX: usize = 65_536;
/// How far a rebroadcast may come before or after its time, in percent of the interval, as in the reference.
const JITTER_PERCENT: u64 = 30;

/// Lets only messages of trusted signers pass, and only those that can be read.
#[derive(Debug)]
pub(super) struct Validator {
    trust: Arc<Trust>,
}

impl Validator {
    /// A validator for the topic of the cluster.
    pub(super) fn new(trust: Arc<Trust>) -> Self {
        Self { trust }
    }
}

impl MessageValidator for Validator {
    fn validate(&self, signer: &PeerId, data: &[u8]) -> Verdict {
        if !self.trust.is_trusted(signer) {
            debug!(%signer, "an announcement of a peer that is not trusted");
            return Verdict::Reject;
        }
        match broadcast::decode(data) {
            Ok(_) => Verdict::Accept,
            Err(error) => {
                debug!(%signer, %error, "an announcement that cannot be read");
                Verdict::Reject
            }
        }
    }
}

/// A head that somebody announced and that is not merged here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) head: Digest,
    pub(super) signer: PeerId,
    /// We had no heads at all when it came, so it becomes ours as soon as it is here.
    pub(super) at_once: bool,
}

/// What waits for the walker: each announcer has its own queue, so that none keeps others from being heard.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    queues: Mutex<Queues>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queues {
    by_signer: BTreeMap<PeerId, VecDeque<Announced>>,
    queued: BTreeSet<Digest>,
    /// Those who keep all of it from being taken.
    holds: usize,
    /// Who was served last.
    served: Option<PeerId>,
}

impl Inbox {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues heads. What is queued already or does not fit is dropped: it will be announced again.
    pub(super) fn push(&self, heads: impl IntoIterator<Item = Announced>) {
        let mut queues = self.queues();
        for announced in heads {
            if queues.queued.contains(&announced.head) {
                continue;
            }
            let signers = queues.by_signer.len();
            let queue = match queues.by_signer.get_mut(&announced.signer) {
                Some(queue) => queue,
                None if signers >= INBOX_SIGNERS_MAX => continue,
                None => queues.by_signer.entry(announced.signer).or_default(),
            };
            if queue.len() < INBOX_HEADS_MAX {
                queue.push_back(announced);
                queues.queued.insert(announced.head);
            }
        }
        drop(queues);
        self.filled.notify_one();
    }

    /// The next head, of announcers in turn; only of those that are allowed.
    pub(super) fn take(&self, is_allowed: impl Fn(&PeerId) -> bool) -> Option<Announced> {
        let mut queues = self.queues();
        if queues.holds > 0 {
            return None;
        }
        let after = queues.served;
        let later = queues.by_signer.keys().filter(|signer| after.is_some_and(|after| **signer > after));
        let turns = later.chain(queues.by_signer.keys());
        let signer = turns.copied().find(|signer| is_allowed(signer))?;
        let queue = queues.by_signer.get_mut(&signer)?;
        let announced = queue.pop_front();
        if queue.is_empty() {
            queues.by_signer.remove(&signer);
        }
        queues.served = Some(signer);
        if let Some(announced) = &announced {
            queues.queued.remove(&announced.head);
        }
        announced
    }

    /// Keeps everything in it for as long as the answer lives.
    pub(super) fn hold(self: &Arc<Self>) -> Hold {
        self.queues().holds += 1;
        Hold(self.clone())
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queues().by_signer.is_empty()
    }

    /// Returns when something came in, at once if it did since the last call. Cancel-safe.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }
}

/// Keeps what is in an inbox there.
#[derive(Debug)]
pub(super) struct Hold(Arc<Inbox>);

impl Drop for Hold {
    fn drop(&mut self) {
        let mut queues = self.0.queues();
        queues.holds = queues.holds.saturating_sub(1);
        // Since they came there may be heads.
        for announced in queues.by_signer.values_mut().flatten() {
            announced.at_once = false;
        }
        drop(queues);
        self.0.filled.notify_one();
    }
}

/// What the three tasks share.
#[derive(Debug)]
pub(super) struct Announcing {
    pub(super) transport: Arc<dyn PeerTransport>,
    pub(super) topic: Topic,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) inbox: Arc<Inbox>,
    /// Heads that anybody said since our last rebroadcast, us included.
    seen: Mutex<BTreeSet<Digest>>,
}

impl Announcing {
    pub(super) fn new(
        transport: Arc<dyn PeerTransport>,
        topic: Topic,
        ledger: Arc<dyn Ledger>,
        inbox: Arc<Inbox>,
    ) -> Self {
        Self { transport, topic, ledger, inbox, seen: Mutex::default() }
    }

    fn saw(&self, heads: &[Cid]) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let room = SEEN_HEADS_MAX.saturating_sub(seen.len());
        seen.extend(heads.iter().filter_map(block_digest).take(room));
    }

    /// Publishes each new head of ours, until the committer is gone.
    pub(super) async fn publish(&self, mut cut: watch::Receiver<Option<Head>>) {
        while cut.changed().await.is_ok() {
            let head = *cut.borrow_and_update();
            // One that came and went in between is below this one.
            if let Some(head) = head
                && !self.say(&[head.cid]).await
            {
                return;
            }
        }
    }

    /// Whether the transport still works.
    async fn say(&self, heads: &[Cid]) -> bool {
        for heads in heads.chunks(MESSAGE_HEADS_MAX) {
            self.saw(heads);
            match self.transport.publish(&self.topic, Bytes::from(broadcast::encode(heads))).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::ShutDown => return false,
                Err(error) => warn!(%error, "new heads were not published; they will be said again"),
            }
        }
        true
    }

    /// Listens until the subscription ends.
    pub(super) async fn listen(&self, mut messages: BoxStream<'static, GossipMessage>) {
        while let Some(message) = messages.next().await {
            // It was readable for the validator.
            let Ok(heads) = broadcast::decode(&message.data) else { continue };
            self.saw(&heads);
            if message.signer == self.transport.local_peer() {
                continue;
            }
            // Merged ones too: only the walker knows whether all below them is here.
            let at_once = self.ledger.heads().is_empty();
            let signer = message.signer;
            let announced = |head| Announced { head, signer, at_once };
            self.inbox.push(heads.iter().filter_map(block_digest).map(announced));
        }
    }

    /// Says those of our heads that nobody said for an interval, for ever.
    pub(super) async fn rebroadcast(&self, interval: Duration, seed: u64) {
        let mut random = SplitMix64::new(seed);
        loop {
            sleep(jittered(interval, random.next())).await;
            let heads = self.ledger.heads();
            let unsaid: Vec<Cid> = {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let seen = std::mem::take(&mut *seen);
                let is_unsaid = |head: &Cid| block_digest(head).is_some_and(|digest| !seen.contains(&digest));
                heads.into_iter().map(|head| head.cid).filter(is_unsaid).collect()
            };
            // This counts for the next round, as in the reference, which hears itself.
            if !self.say(&unsaid).await {
                return;
            }
        }
    }
}

/// The interval, 30 % more or less.
fn jittered(interval: Duration, random: u64) -> Duration {
    let permille = 1000 - 10 * JITTER_PERCENT + random % (20 * JITTER_PERCENT);
    interval.mul_f64(permille as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::super::simulation::{Chain, TestLedger, peer};
    use super::*;
    use crate::transport::MemoryNetwork;
    use tokio::time::{Instant, timeout};

    fn announced(signer: u64, head: u8) -> Announced {
        Announced { head: [head; 32], signer: peer(signer), at_once: false }
    }

    #[test]
    fn announcers_are_heard_in_turn_and_nothing_waits_twice() {
        let inbox = Inbox::default();
        inbox.push([announced(1, 1), announced(1, 2), announced(1, 1), announced(2, 3), announced(2, 1)]);
        let heads =
            || std::iter::from_fn(|| inbox.take(|_| true)).map(|next| next.head[0]).collect::<Vec<_>>();
        assert_eq!(heads(), [1, 3, 2]);
        assert!(inbox.is_empty());
        inbox.push([announced(1, 1), announced(2, 2)]);
        assert_eq!(inbox.take(|signer| *signer == peer(2)), Some(announced(2, 2)));
        assert_eq!(inbox.take(|signer| *signer == peer(2)), None);
        assert_eq!(heads(), [1]);
    }

    #[test]
    fn a_flood_of_heads_or_announcers_is_dropped_beyond_the_bound() {
        let inbox = Inbox::default();
        let head = |number: u64| {
            let mut head = [0; 32];
            head[..8].copy_from_slice(&number.to_be_bytes());
            head
        };
        let flood = |signer, count| (0..count).map(move |number| (signer, number));
        for (signer, number) in flood(1, 5_000).chain((2..1_000).map(|signer| (signer, 10_000 + signer))) {
            inbox.push([Announced { head: head(number), signer: peer(signer), at_once: false }]);
        }
        let mut taken = 0;
        while inbox.take(|_| true).is_some() {
            taken += 1;
        }
        assert_eq!(taken, INBOX_HEADS_MAX + INBOX_SIGNERS_MAX - 1);
    }

    #[test]
    fn rebroadcasts_are_spread_by_thirty_percent() {
        let mut random = SplitMix64::new(7);
        let spread: Vec<_> =
            (0..10_000).map(|_| jittered(Duration::from_secs(60), random.next()).as_secs_f64()).collect();
        assert!(spread.iter().all(|seconds| (42.0..78.0).contains(seconds)));
        assert!(spread.iter().any(|seconds| *seconds < 43.0) && spread.iter().any(|seconds| *seconds > 77.0));
    }

    #[tokio::test]
    async fn only_readable_messages_of_trusted_signers_pass() {
        let transport = Arc::new(MemoryNetwork::new(0).join(peer(1)).unwrap());
        let validator = Validator::new(Arc::new(Trust::new(transport.local_peer(), false, [peer(2)])));
        let message = broadcast::encode(&[Chain::new(1, "x").tip().cid]);
        assert_eq!(validator.validate(&peer(2), &message), Verdict::Accept);
        assert_eq!(validator.validate(&peer(1), &message), Verdict::Accept);
        assert_eq!(validator.validate(&peer(3), &message), Verdict::Reject);
        assert_eq!(validator.validate(&peer(2), b"garbage"), Verdict::Reject);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_head_is_published_at_once_and_heads_that_nobody_says_are_said_again() {
        let network = MemoryNetwork::new(0);
        let (one, two) = (Arc::new(network.join(peer(1)).unwrap()), network.join(peer(2)).unwrap());
        one.connect(&two.listen_addresses()[0]).await.unwrap();
        let topic = Topic::new("heads");
        let trust = Arc::new(Trust::new(one.local_peer(), true, []));
        let mut heard = two.subscribe(&topic, Arc::new(Validator::new(trust.clone())));
        let ledger = Arc::new(TestLedger::default());
        let announcing = Announcing::new(one.clone(), topic.clone(), ledger.clone(), Arc::default());
        let messages = one.subscribe(&topic, Arc::new(Validator::new(trust)));
        let chain = Chain::new(3, "x");
        let interval = Duration::from_secs(60);
        let (cut, cuts) = watch::channel(None);
        let tasks = async {
            tokio::join!(
                announcing.listen(messages),
                announcing.publish(cuts),
                announcing.rebroadcast(interval, 1)
            );
        };
        let script = async {
            let start = Instant::now();
            ledger.set_heads([chain.nodes[1].clone()]);
            cut.send_replace(Some(Head { cid: chain.nodes[1].cid, height: 2 }));
            let next = heard.next().await.unwrap();
            assert_eq!(broadcast::decode(&next.data).unwrap(), [chain.nodes[1].cid]);
            assert!(start.elapsed() < Duration::from_millis(10));
            // Ours counts as said in the first round, and not in the second.
            let next = heard.next().await.unwrap();
            assert_eq!(broadcast::decode(&next.data).unwrap(), [chain.nodes[1].cid]);
            assert!(start.elapsed() > interval && start.elapsed() < 2 * interval + interval / 2);
            // As long as somebody else says it, we do not.
            for _ in 0..20 {
                let said = broadcast::encode(&[chain.nodes[1].cid]).into();
                two.publish(&topic, said).await.unwrap();
                let ours =
                    timeout(interval / 2, async { while heard.next().await.unwrap().signer == peer(2) {} });
                assert!(ours.await.is_err());
            }
            let announced = announcing.inbox.take(|_| true).unwrap();
            assert_eq!((announced.signer, announced.at_once), (peer(2), false));
            // No heads: nothing to say.
            ledger.set_heads([]);
            assert!(timeout(10 * interval, heard.next()).await.is_err());
            two.publish(&topic, broadcast::encode(&[chain.tip().cid]).into()).await.unwrap();
            let at_once = loop {
                announcing.inbox.filled().await;
                if let Some(announced) = std::iter::from_fn(|| announcing.inbox.take(|_| true)).last() {
                    break announced.at_once;
                }
            };
            assert!(at_once);
        };
        tokio::select! {
            () = tasks => panic!("the tasks ended"),
            () = script => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_heads_are_said_in_several_messages() {
        let network = MemoryNetwork::new(0);
        let one = Arc::new(network.join(peer(1)).unwrap());
        let topic = Topic::new("heads");
        let trust = Arc::new(Trust::new(one.local_peer(), true, []));
        let mut heard = one.subscribe(&topic, Arc::new(Validator::new(trust)));
        let ledger = Arc::new(TestLedger::default());
        let heads: Vec<_> =
            (0..2_500).map(|number| Chain::new(1, &number.to_string()).tip().clone()).collect();
        ledger.set_heads(heads);
        let announcing = Announcing::new(one, topic, ledger.clone(), Arc::default());
        let mut said = Vec::new();
        tokio::select! {
            () = announcing.rebroadcast(Duration::from_secs(60), 1) => panic!("it ended"),
            () = async {
                while said.len() < 2_500 {
                    let heads = broadcast::decode(&heard.next().await.unwrap().data).unwrap();
                    assert!(heads.len() <= MESSAGE_HEADS_MAX);
                    said.extend(heads);
                }
            } => {}
        }
        let ours: Vec<_> = ledger.heads().into_iter().map(|head| head.cid).collect();
        assert_eq!(said, ours);
    }
}
