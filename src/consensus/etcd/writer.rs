//! Taking calls, and writing what they want: many calls in one transaction, several transactions at a time.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;

use super::COMPONENT;
use super::batch;
use super::gateway::Failure;
use super::keys::decode_pin;
use super::lane::{self, Done, Lane, value_at};
use super::plan::{Chunk, Write, fits};
use super::shared::Shared;
use super::wire::{Compare, Op, OpAnswer};
use crate::consensus::group::{Call, Inbox, Reply};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Cid, Pin};

/// Transactions under way at a time.
const LANES: usize = 4;
/// Groups of calls that wait until the copy shows what they wrote.
const WAITING_GROUPS_MAX: usize = 64;

/// What a call wants.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) what: What,
    /// When it is too late.
    pub(super) deadline: Instant,
}

#[derive(Debug)]
pub(super) enum What {
    /// The pinset changes.
    Write(Vec<Write>),
    /// Something else does, if this holds.
    Other { compare: Vec<Compare>, ops: Vec<Op> },
}

/// What a call gets.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Whether what was asked held.
    pub(super) is_met: bool,
    /// The entry that was there before, for a single write that removes one.
    pub(super) before: Option<Arc<Pin>>,
}

pub(super) type Calls = Inbox<Work, Answer>;

/// A call that is part of a group.
struct Member {
    reply: Reply<Answer>,
    /// The entry that it wants to know about.
    removes: Option<Cid>,
}

struct Group {
    members: Vec<Member>,
    deadline: Instant,
    what: Wanted,
}

enum Wanted {
    Chunk(Chunk),
    Batch(Vec<Write>),
    Other { compare: Vec<Compare>, ops: Vec<Op> },
}

/// Works until the calls end, and returns what kept some of those that were accepted from being done.
pub(super) async fn run(shared: &Shared, mut inbox: Calls) -> Result<()> {
    let mut free: Vec<Lane> = (1..=LANES).map(Lane::new).collect();
    let mut running: FuturesUnordered<BoxFuture<'_, (Lane, Group, Result<Written>)>> =
        FuturesUnordered::new();
    let mut waiting: FuturesUnordered<BoxFuture<'_, Result<()>>> = FuturesUnordered::new();
    let (mut is_closing, mut is_drained) = (false, false);
    let mut result = Ok(());
    loop {
        let takes = !free.is_empty() && waiting.len() < WAITING_GROUPS_MAX && !is_drained;
        tokio::select! {
            biased;
            Some((lane, group, written)) = running.next(), if !running.is_empty() => {
                free.push(lane);
                waiting.push(answer(shared, group, written).boxed());
            }
            Some(answered) = waiting.next(), if !waiting.is_empty() => {
                // Before the end, its own caller is told.
                if is_closing {
                    result = result.and(answered);
                }
            }
            call = next(&mut inbox, is_closing), if takes => match call {
                Some(call) => {
                    let group = gather(shared, &mut inbox, call);
                    if let Some(mut lane) = free.pop() {
                        running.push(async move {
                            let mut group = group;
                            let written = write(shared, &mut lane, &mut group).await;
                            (lane, group, written)
                        }.boxed());
                    }
                }
                None if is_closing => is_drained = true,
                None => {
                    is_closing = true;
                    inbox.close();
                }
            },
            else => return result,
        }
    }
}

async fn next(inbox: &mut Calls, is_closing: bool) -> Option<Call<Work, Answer>> {
    if is_closing { inbox.drain().await } else { inbox.take().await }
}

/// A call, and those that wait and fit into one transaction with it.
fn gather(shared: &Shared, inbox: &mut Calls, first: Call<Work, Answer>) -> Group {
    let Call { work: Work { what, deadline }, reply } = first;
    let writes = match what {
        What::Write(writes) => writes,
        What::Other { compare, ops } => {
            let members = vec![Member { reply, removes: None }];
            return Group { members, deadline, what: Wanted::Other { compare, ops } };
        }
    };
    let removes = removed(&writes);
    let members = vec![Member { reply, removes }];
    if !fits(&writes, shared.limits) {
        return Group { members, deadline, what: Wanted::Batch(writes) };
    }
    let mut chunk = Chunk::new(shared.limits);
    for write in &writes {
        chunk.push(write);
    }
    let mut group = Group { members, deadline, what: Wanted::Chunk(Chunk::new(shared.limits)) };
    while let Some(call) = inbox.take_now() {
        match &call.work.what {
            // Each entry belongs to one call, so that each call gets its own answer.
            What::Write(more)
                if chunk.has_room(more) && !more.iter().any(|write| chunk.touches(&write.cid)) =>
            {
                for write in more {
                    chunk.push(write);
                }
                group.deadline = group.deadline.min(call.work.deadline);
                let removes = removed(more);
                group.members.push(Member { reply: call.reply, removes });
            }
            _ => {
                inbox.put_back(call);
                break;
            }
        }
    }
    group.what = Wanted::Chunk(chunk);
    group
}

/// The entry that somebody wants to know about.
fn removed(writes: &[Write]) -> Option<Cid> {
    match writes {
        [Write { cid, seen: None, now: None }] => Some(*cid),
        _ => None,
    }
}

/// What a group wrote.
struct Written {
    /// None where nothing was, because a comparison did not hold.
    revision: Option<i64>,
    /// What etcd said for each entry; none if that was lost.
    answers: Option<Vec<(Cid, OpAnswer)>>,
}

async fn write(shared: &Shared, lane: &mut Lane, group: &mut Group) -> Result<Written> {
    let deadline = group.deadline;
    if Instant::now() >= deadline {
        return Err(too_late());
    }
    let (compare, ops, cids) = match &mut group.what {
        Wanted::Batch(writes) => {
            let lease = lane::current_lease(shared, deadline).await.map_err(Failure::into_error)?;
            let revision = batch::write(shared, lane, writes, lease, deadline).await;
            let revision = revision.map_err(Failure::into_error)?;
            return Ok(Written { revision: Some(revision), answers: None });
        }
        Wanted::Chunk(chunk) => {
            let (cids, ops) = chunk.ops(&shared.keys).into_iter().unzip();
            (Vec::new(), ops, cids)
        }
        Wanted::Other { compare, ops } => (std::mem::take(compare), std::mem::take(ops), Vec::new()),
    };
    let work = lane::Work { compare, ops, lease: None };
    Ok(match lane.commit(shared, work, deadline).await.map_err(Failure::into_error)? {
        Done::Unmet => Written { revision: None, answers: None },
        Done::Committed { revision, answers } => Written {
            revision: Some(revision),
            answers: answers.map(|answers| cids.into_iter().zip(answers).collect()),
        },
    })
}

fn too_late() -> Error {
    Error::new(ErrorKind::Unavailable, "etcd does not answer, or has no quorum; the pinset can still be read")
        .component(COMPONENT)
}

/// Waits until the copy shows what a group wrote, and answers its calls.
async fn answer(shared: &Shared, group: Group, written: Result<Written>) -> Result<()> {
    let Group { members, deadline, what } = group;
    drop(what);
    let written = match written {
        Ok(written) => written,
        Err(error) => {
            for member in members {
                member.reply.send(Err(error.clone()));
            }
            return Err(error);
        }
    };
    let shown = match written.revision {
        Some(revision) => shared.wait_applied(revision, deadline).await,
        None => Ok(()),
    };
    for Member { reply, removes } in members {
        let before = match (removes, &written.answers, written.revision) {
            (Some(cid), Some(answers), _) => {
                let answer = answers.iter().find(|(of, _)| *of == cid);
                let answer = answer.and_then(|(_, answer)| answer.response_delete_range.as_ref());
                answer.and_then(|answer| answer.prev_kvs.first()).map(|before| before.value.0.clone())
            }
            (Some(cid), None, Some(revision)) => {
                value_at(shared, shared.keys.pin(&cid), revision - 1, deadline).await
            }
            _ => None,
        };
        let before = removes.zip(before).and_then(|(cid, value)| decoded(&cid, &value));
        let answer = Answer { is_met: written.revision.is_some(), before };
        reply.send(shown.clone().map(|()| answer));
    }
    shown
}

/// An entry that cannot be read is none: nobody here ever saw it.
fn decoded(cid: &Cid, value: &Bytes) -> Option<Arc<Pin>> {
    decode_pin(cid, value).ok().map(Arc::new)
}
