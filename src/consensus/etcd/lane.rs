//! Writing once, although answers get lost.
//!
//! A *lane* is a key that every transaction which goes its way writes, too, if the key is as the transaction before left
//! it. So a transaction that is sent twice happens once, and who sends it the second time finds its own mark in the lane.
//! And each has a revision that the watch shows, whatever else it did.
//!
//! Lanes end with the lease of the peer. Only one transaction at a time goes through one.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};

use super::COMPONENT;
use super::batch;
use super::gateway::{Failure, Reason, refused};
use super::shared::{Shared, removed};
use super::wire::{Compare, KeyValue, Op, OpAnswer, RangeAsked, Txn, TxnAnswer};
use crate::error::{Error, ErrorKind};

/// A batch of somebody else that makes no progress for so long is finished by whoever waits for it.
const HELP_AFTER: Duration = Duration::from_secs(2);
/// Between two looks at a batch.
const BATCH_POLL: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Lane {
    number: usize,
    lease: i64,
    /// The revision that wrote it last; 0 is never.
    revision: i64,
    /// Transactions so far.
    count: u64,
}

/// What is done if all of this holds; more than that is asked of every transaction.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) compare: Vec<Compare>,
    pub(super) ops: Vec<Op>,
    /// The lease that is in the operations; none where any will do.
    pub(super) lease: Option<i64>,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Done {
    Committed {
        revision: i64,
        /// What etcd said to each operation; none if that was lost.
        answers: Option<Vec<OpAnswer>>,
    },
    /// Nothing, because a comparison of its own did not hold.
    Unmet,
}

impl Lane {
    pub(super) fn new(number: usize) -> Self {
        Self { number, lease: 0, revision: 0, count: 0 }
    }

    /// A name that nobody else has.
    pub(super) fn unique(&mut self, lease: i64) -> String {
        self.count += 1;
        format!("{lease:x}-{}-{}", self.number, self.count)
    }

    /// Writes, once there is no batch to wait for. A dropped call may still have written.
    ///
    /// # Errors
    /// `Conflict` for a peer that was removed; else see [`Reason`].
    pub(super) async fn commit(
        &mut self,
        shared: &Shared,
        work: Work,
        deadline: Instant,
    ) -> Result<Done, Failure> {
        let Work { compare, ops, lease: needed } = work;
        let keys = &shared.keys;
        let has_conditions = !compare.is_empty();
        let (batch_key, removed_key) = (keys.batch(), keys.removed(&shared.peer));
        let mut all = vec![
            Compare::revision(Vec::new(), 0),
            Compare::absent(batch_key.clone()),
            Compare::absent(removed_key.clone()),
        ];
        all.extend(compare);
        let mut txn = Txn { compare: all, success: ops, failure: Vec::new() };
        txn.success.push(Op::put(Vec::new(), Vec::new()));
        // The same for all attempts: each of them may come through late.
        self.count += 1;
        let mark = Bytes::from(self.count.to_string());
        loop {
            let lease = match needed {
                Some(lease) => lease,
                None => current_lease(shared, deadline).await?,
            };
            if lease != self.lease {
                (self.lease, self.revision) = (lease, 0);
            }
            let lane_key = keys.lane(lease, self.number);
            if let (Some(compare), Some(put)) = (txn.compare.first_mut(), txn.success.last_mut()) {
                *compare = Compare::revision(lane_key.clone(), self.revision);
                *put = Op::put_leased(lane_key.clone(), mark.clone(), lease);
            }
            txn.failure = vec![Op::get(lane_key), Op::get(batch_key.clone()), Op::get(removed_key.clone())];
            let answer = match shared.gateway.txn(&txn, deadline).await {
                Ok(answer) => answer,
                Err(failure) if failure.reason == Reason::NoLease => {
                    shared.lapsed.notify_one();
                    if needed.is_some() || failure.is_open {
                        return Err(lapsed());
                    }
                    wait_for_other_lease(shared, lease, deadline).await?;
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            if answer.succeeded {
                self.revision = answer.header.revision.0;
                return Ok(Done::Committed { revision: self.revision, answers: Some(answer.responses) });
            }
            let found = |number: usize| first(&answer, number);
            let lane = found(0);
            let lane_revision = lane.map_or(0, |lane| lane.mod_revision.0);
            if lane.is_some_and(|lane| lane.value.0 == mark) {
                // An earlier attempt whose answer was lost.
                self.revision = lane_revision;
                return Ok(Done::Committed { revision: lane_revision, answers: None });
            }
            if found(2).is_some() {
                return Err(refused(removed(&shared.peer)));
            }
            if let Some(batch) = found(1) {
                self.revision = lane_revision;
                wait_for_batch(shared, batch.value.0.clone(), deadline).await?;
            } else if lane_revision != self.revision {
                // A call that was given up has come through since.
                self.revision = lane_revision;
            } else if has_conditions {
                return Ok(Done::Unmet);
            }
            if Instant::now() >= deadline {
                return Err(in_time("etcd is busy with other writes"));
            }
        }
    }
}

/// What a range among the operations gave.
fn first(answer: &TxnAnswer, number: usize) -> Option<&KeyValue> {
    answer.responses.get(number)?.kvs().first()
}

/// The first key at an earlier revision, where history reaches back so far.
pub(super) async fn value_at(
    shared: &Shared,
    key: Vec<u8>,
    revision: i64,
    deadline: Instant,
) -> Option<Bytes> {
    let asked = RangeAsked { key: key.into(), revision: super::wire::Int(revision), ..RangeAsked::default() };
    let mut answer = shared.gateway.range(&asked, deadline).await.ok()?;
    Some(answer.kvs.drain(..).next()?.value.0)
}

/// The lease of this peer, once it has one.
pub(super) async fn current_lease(shared: &Shared, deadline: Instant) -> Result<i64, Failure> {
    wait_for_other_lease(shared, 0, deadline).await
}

/// A lease other than this one.
async fn wait_for_other_lease(shared: &Shared, lease: i64, deadline: Instant) -> Result<i64, Failure> {
    let mut leases = shared.lease.subscribe();
    let other = leases.wait_for(|known| known.is_some_and(|known| known != lease));
    match timeout_at(deadline, other).await {
        Ok(Ok(lease)) => Ok(lease.unwrap_or_default()),
        Ok(Err(_)) => Err(refused(Error::shut_down(COMPONENT))),
        Err(_) => {
            let standing = shared.standing.borrow().clone();
            Err(match standing {
                super::shared::Standing::Refused(error) => refused(error),
                _ => in_time("etcd does not answer, or has no quorum; the pinset can still be read"),
            })
        }
    }
}

/// Returns when no batch is being written, after writing it if nobody else does.
async fn wait_for_batch(shared: &Shared, batch: Bytes, deadline: Instant) -> Result<(), Failure> {
    let (mut seen, mut since) = (batch, Instant::now());
    while Instant::now() < deadline {
        sleep(BATCH_POLL).await;
        match batch::current(shared, deadline).await? {
            None => return Ok(()),
            Some(batch) if batch != seen => (seen, since) = (batch, Instant::now()),
            Some(_) if since.elapsed() >= HELP_AFTER => return batch::finish(shared, deadline).await,
            Some(_) => {}
        }
    }
    Err(in_time("a large batch is being written"))
}

fn in_time(why: &str) -> Failure {
    let error = Error::new(ErrorKind::Unavailable, why.to_owned()).component(COMPONENT);
    Failure { reason: Reason::Down, error, is_open: false }
}

fn lapsed() -> Failure {
    let text = "etcd gave up the lease of this peer meanwhile; whether it happened is unknown, do it again";
    let error = Error::new(ErrorKind::Unavailable, text).component(COMPONENT);
    Failure { reason: Reason::NoLease, error, is_open: true }
}
