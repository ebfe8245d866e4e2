//! What is done and checked where the peers agree by Raft.

use super::*;
use crate::consensus::{Consensus as _, Raft};
use crate::testing::sim::linear::{self, Call, Happened, Verdict};

/// How much longer than promised an answer may take: nothing takes time here but what waits.
const SLACK: Duration = Duration::from_secs(1);
/// How long a quorum may take to work when everything works.
const MEMBERS_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How often it is looked whether members still change.
const SETTLE_ROUNDS: usize = 20;
/// How long a peer that was removed may take to notice when everything works.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// How often a peer is added when everything works.
const ADD_TRIES: usize = 5;
/// How long it is waited for a vote, and how often it is looked for one.
const VOTE_TIMEOUT: Duration = Duration::from_secs(20);
const VOTE_POLL: Duration = Duration::from_millis(1);
/// Of the component, and not of the CRDT.
const LOG: Space = Space::new("raft-log");
/// What a peer says that stops because it is no member any more.
pub(super) const REMOVED: &str = "removed from";
const SEEN: Space = Space::new("raft-seen");
const META: Space = Space::new("raft-meta");

/// What is known of who the members are.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// Peers that somebody wanted to remove since they joined.
    removing: BTreeSet<usize>,
    /// Peers that were removed, as somebody was told, and that nobody added since.
    removed: BTreeSet<usize>,
    /// Peers that somebody wanted to remove at any time: one that joins again may replay that.
    ever_removing: BTreeSet<usize>,
    /// Peers that removed themselves, as somebody was told: they stop, whoever adds them meanwhile.
    left: BTreeSet<usize>,
    /// Peers that founded the cluster or were added to it, as somebody was told.
    joined: BTreeSet<usize>,
    /// How often somebody wanted to add each peer, and was told that it worked.
    adds: BTreeMap<usize, (u64, u64)>,
}

impl Members {
    pub(super) fn founded_by(founders: impl Iterator<Item = usize>) -> Self {
        Self { joined: founders.collect(), ..Self::default() }
    }

    pub(super) fn may_be_gone(&self, peer: usize) -> bool {
        self.ever_removing.contains(&peer)
    }

    fn adding(&mut self, peer: usize) -> &mut (u64, u64) {
        self.adds.entry(peer).or_default()
    }

    /// How often a peer was to be added, when nobody is about to add it. One who was not told what became of that may be.
    fn added(&mut self, peer: usize) -> Option<u64> {
        let (begun, ended) = *self.adding(peer);
        (begun == ended).then_some(begun)
    }
}

/// Reads what everybody agreed on.
pub(super) async fn read(cluster: &Cluster, raft: &Raft, cid: &Cid) -> Result<Option<Pin>> {
    raft.synchronize().await?;
    cluster.state().get(cid).await
}

/// What is wrong with an answer, whatever was asked.
pub(super) fn wrong_answer(error: Option<&Error>, took: Duration, patience: Duration) -> Option<String> {
    if took > patience + SLACK {
        return Some(format!("took {took:?}, with {patience:?} to wait for a leader"));
    }
    let error = error?;
    match error.kind() {
        ErrorKind::Unavailable
        | ErrorKind::Remote
        | ErrorKind::Unauthorized
        | ErrorKind::ShutDown
        | ErrorKind::StorageFull
        | ErrorKind::Io
        | ErrorKind::NotEnoughPeers
        | ErrorKind::NotFound
        | ErrorKind::InvalidInput
        | ErrorKind::Conflict => None,
        kind => Some(format!("failed with {kind:?}: {error}")),
    }
}

impl Run<'_> {
    /// Lets a member add a peer, which starts with an empty disk if it was removed before.
    pub(super) async fn join(&mut self, peer: usize, through: usize) {
        let found_out = self.reap(peer).await;
        let is_removed = lock(&self.history).members.removed.contains(&peer);
        if is_removed || found_out {
            if let Some(reason) = self.peers.stop(peer).await {
                let reason = reason.to_string();
                self.check_reason(peer, &reason);
            }
            self.wipe(peer);
        }
        self.start(peer).await;
        let Some(cluster) = self.peers.get(through).cloned() else { return };
        let (history, id) = (Arc::clone(&self.history), self.peers.id(peer));
        if peer != through {
            let members = &mut lock(&history).members;
            members.adding(peer).0 += 1;
            // From now on nobody knows, and it may be a member with what it has.
            members.removed.remove(&peer);
        }
        self.calls.spawn(async move {
            let answer = cluster.add_peer(&id).await;
            let mut history = lock(&history);
            // A peer that is asked to add itself only says who it is.
            if answer.is_ok() && peer != through {
                history.members.joined.insert(peer);
                history.members.adding(peer).1 += 1;
            } else {
                // It may be in the list of those that only listen, where others know it and it waits.
                history.members.joined.remove(&peer);
            }
            let told = answer.map_or_else(|error| error.to_string(), |_| "ok".to_owned());
            history.note(&format!("    adding peer {peer} through peer {through}: {told}"));
        });
    }

    /// Crashes the next one that votes for another, and leaves the latter alone.
    pub(super) async fn crash_voter(&mut self, after: Duration, keep_some: bool) {
        let before: Vec<Option<Bytes>> = (0..self.peers.len()).map(|peer| self.vote(peer)).collect();
        let deadline = Instant::now() + VOTE_TIMEOUT;
        while Instant::now() < deadline {
            tokio::time::sleep(VOTE_POLL).await;
            let vote = self.peers.running().find_map(|(voter, _)| {
                let vote = self.vote(voter).filter(|vote| before[voter].as_ref() != Some(vote))?;
                let is_for = |peer: usize| {
                    let id = self.peers.id(peer).to_bytes();
                    vote.windows(id.len()).any(|bytes| bytes == id)
                };
                let candidate = (0..self.peers.len()).find(|peer| *peer != voter && is_for(*peer))?;
                Some((voter, candidate))
            });
            let Some((voter, candidate)) = vote else { continue };
            tokio::time::sleep(after).await;
            lock(&self.history).note(&format!("    peer {voter} voted for peer {candidate}, and crashes"));
            self.crash(voter, keep_some);
            self.peers.heal();
            self.isolate(candidate);
            return;
        }
    }

    fn vote(&self, peer: usize) -> Option<Bytes> {
        self.peers.storage(peer).get(META, b"vote").ok().flatten()
    }

    /// A peer that stopped by itself is started again, as by a supervisor.
    /// Gives whether it found out that it was removed.
    pub(super) async fn reap(&mut self, peer: usize) -> bool {
        let Some(cluster) = self.peers.get(peer).cloned() else { return false };
        if cluster.stopped().now_or_never().is_some()
            && let Some(reason) = self.peers.stop(peer).await
        {
            let reason = reason.to_string();
            self.check_reason(peer, &reason);
            return reason.contains(REMOVED);
        }
        false
    }

    fn wipe(&mut self, peer: usize) {
        self.peers.wipe(peer);
        let mut history = lock(&self.history);
        history.note(&format!("    peer {peer} forgets everything"));
        let members = &mut history.members;
        members.removing.remove(&peer);
        members.removed.remove(&peer);
        members.left.remove(&peer);
        members.joined.remove(&peer);
    }

    /// Lets a member remove a peer.
    pub(super) fn remove(&mut self, peer: usize, through: usize) {
        let Some(cluster) = self.peers.get(through).cloned() else { return };
        let added = {
            let members = &mut lock(&self.history).members;
            members.removing.insert(peer);
            members.ever_removing.insert(peer);
            members.added(peer)
        };
        let (history, id) = (Arc::clone(&self.history), self.peers.id(peer));
        self.calls.spawn(async move {
            let answer = cluster.remove_peer(&id).await;
            let mut history = lock(&history);
            // Who is added while somebody removes it may be a member afterwards: nobody knows what happened first.
            let is_last = added.is_some() && history.members.added(peer) == added;
            if answer.is_ok() && is_last && history.members.removing.contains(&peer) {
                history.members.removed.insert(peer);
            }
            if answer.is_ok() && peer == through {
                history.members.left.insert(peer);
            }
            let told = answer.map_or_else(|error| error.to_string(), |()| "ok".to_owned());
            history.note(&format!("    removing peer {peer} through peer {through}: {told}"));
        });
    }

    /// Who the members are, as a peer says that knows everything that was agreed on.
    async fn members(&self) -> Option<BTreeSet<usize>> {
        let deadline = Instant::now() + MEMBERS_TIMEOUT;
        while Instant::now() < deadline {
            for (peer, _) in self.peers.running() {
                let Some(raft) = self.peers.raft(peer) else { continue };
                if raft.synchronize().await.is_err() {
                    continue;
                }
                if let Ok(members) = raft.peers().await {
                    let indices = 0..self.peers.len();
                    return Some(indices.filter(|index| members.contains(&self.peers.id(*index))).collect());
                }
            }
            tokio::time::sleep(QUIET_POLL).await;
        }
        None
    }

    /// The same once no change is under way that was begun and not ended.
    async fn settled_members(&self) -> Option<BTreeSet<usize>> {
        let is_changing = |step: &Step| matches!(step.what, What::Join { .. } | What::Remove { .. });
        let mut members = self.members().await?;
        if !self.plan.steps.iter().any(is_changing) {
            return Some(members);
        }
        let pause = self.plan.raft.map_or(QUIET_POLL, |raft| raft.heartbeat * 5);
        for _ in 0..SETTLE_ROUNDS {
            tokio::time::sleep(pause).await;
            let now = self.members().await?;
            if now == members {
                break;
            }
            members = now;
        }
        Some(members)
    }

    /// Makes members of all: who was removed has to notice, and joins again.
    pub(super) async fn gather_members(&mut self) {
        let Some(members) = self.settled_members().await else {
            return self.violations.push(format!("no quorum within {MEMBERS_TIMEOUT:?} after healing"));
        };
        lock(&self.history).note(&format!("members are {members:?}"));
        // Who removed itself, and was added before it had stopped, is a member that does not run.
        let mut gone = BTreeSet::new();
        for member in &members {
            if lock(&self.history).members.left.contains(member) && self.reap(*member).await {
                gone.insert(*member);
            }
        }
        let Some(through) = members.iter().copied().find(|member| self.peers.get(*member).is_some()) else {
            return self.violations.push("no member runs".to_owned());
        };
        for peer in (0..self.peers.len()).filter(|peer| !members.contains(peer) || gone.contains(peer)) {
            if gone.contains(&peer)
                && let Err(error) = self.peers.peer(through).remove_peer(&self.peers.id(peer)).await
            {
                self.violations.push(format!("peer {peer} cannot be removed: {error}"));
            }
            if let Some(cluster) = self.peers.get(peer).cloned()
                && lock(&self.history).members.joined.contains(&peer)
                && self.knows_one_of(peer, &members).await
                && tokio::time::timeout(NOTICE_TIMEOUT, cluster.stopped()).await.is_err()
            {
                self.violations.push(format!("peer {peer} did not notice that it was removed"));
            }
            if let Some(reason) = self.peers.stop(peer).await {
                let reason = reason.to_string();
                self.check_reason(peer, &reason);
            }
            self.wipe(peer);
            self.start(peer).await;
            let id = self.peers.id(peer);
            let mut result = Ok(());
            for _ in 0..ADD_TRIES {
                result = self.peers.peer(through).add_peer(&id).await.map(drop);
                if result.is_ok() {
                    break;
                }
                tokio::time::sleep(QUIET_POLL).await;
            }
            if let Err(error) = result {
                self.violations.push(format!("peer {peer} cannot be added again: {error}"));
            }
        }
    }

    /// Whether a peer takes one of these for a member. Who was away while all that it knew were replaced cannot find out
    /// anything: they are gone.
    async fn knows_one_of(&self, peer: usize, members: &BTreeSet<usize>) -> bool {
        let Some(raft) = self.peers.raft(peer) else { return false };
        let known = raft.peers().await.unwrap_or_default();
        members.iter().any(|member| known.contains(&self.peers.id(*member)))
    }

    fn records(&self, peer: usize, space: Space) -> BTreeMap<Bytes, Bytes> {
        let view = self.peers.storage(peer).snapshot();
        let page = view.and_then(|view| view.scan(space, KeyRange::all(), Direction::Forward, usize::MAX));
        page.map(|page| page.entries.into_iter().collect()).unwrap_or_default()
    }

    /// Whether some are still behind, or remember other things.
    pub(super) fn different_progress(&self) -> Option<String> {
        let (applied, seen) = (|peer| self.records(peer, META).remove(&b"applied"[..]), SEEN);
        let (first, first_seen) = (applied(0), self.records(0, seen));
        for peer in 1..self.peers.len() {
            if applied(peer) != first {
                return Some(format!("peer {peer} has not applied as much as peer 0"));
            }
            if self.records(peer, seen) != first_seen {
                return Some(format!("peer {peer} remembers other requests than peer 0"));
            }
        }
        None
    }

    /// Whether all have the same log, and what callers saw could have happened.
    pub(super) async fn check_agreement(&mut self) {
        let first = self.records(0, LOG);
        for peer in 1..self.peers.len() {
            let other = self.records(peer, LOG);
            if first.iter().any(|(key, entry)| other.get(key).is_some_and(|other| other != entry)) {
                self.violations.push(format!("the log of peer {peer} is not that of peer 0"));
            }
        }
        let Some((_, first)) = self.peers.running().next() else { return };
        let mut last = Vec::new();
        for cid in &self.cids {
            match first.state().get(cid).await {
                Ok(pin) => last.push(pin.as_ref().and_then(tag_of)),
                Err(error) => return self.violations.push(format!("the pinset cannot be read: {error}")),
            }
        }
        let history = lock(&self.history);
        for (cid, last) in last.into_iter().enumerate() {
            let mut calls: Vec<Happened> = Vec::new();
            for (tag, operation) in history.operations.iter().enumerate() {
                if operation.cid == cid {
                    calls.extend(happened(tag, operation));
                }
            }
            let end = history.time + 1;
            calls.push(Happened { call: Call::Read(last.map(name)), began: end, ended: Some(end + 1) });
            let verdict = linear::check(&calls);
            if verdict != Verdict::Linearizable {
                calls.sort_by_key(|call| call.began);
                let calls: Vec<String> = calls.iter().map(|call| format!("\n    {call:?}")).collect();
                self.violations.push(format!("c{cid}: {verdict:?}:{}", calls.concat()));
            }
        }
    }
}

fn name(tag: Tag) -> u64 {
    tag as u64
}

/// What an operation says of its pin.
fn happened(tag: Tag, operation: &Operation) -> Option<Happened> {
    let Operation { kind, began, ended, answer, .. } = operation;
    let call = match (kind, answer) {
        (_, Answer::Refused) => return None,
        (Kind::Pin, Answer::Pinned { expires: None }) => Call::Pin(name(tag)),
        // One of which nobody knows may be one that expires.
        (Kind::Pin, _) => Call::PinThatExpires(name(tag)),
        (Kind::Read | Kind::Unpin, Answer::Was { value }) => Call::Read(value.map(name)),
        (Kind::Unpin, Answer::Unpinned { removed }) => Call::Unpin(removed.map(|tag| Some(name(tag)))),
        (Kind::Unpin, _) => Call::Unpin(None),
        (Kind::Read, _) => return None,
    };
    Some(Happened { call, began: *began, ended: ended.filter(|_| *answer != Answer::Unknown) })
}
