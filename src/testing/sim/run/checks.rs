//! What must be true of the peers once they are quiet, and what tells that they are not.

use super::*;

impl Run<'_> {
    pub(super) async fn noise(&self) -> Option<String> {
        for (index, cluster) in self.peers.running() {
            let counts = cluster.tracker().counts();
            if counts.queued() + counts.pinning + counts.unpinning > 0 {
                return Some(format!("the tracker of peer {index} works: {counts:?}"));
            }
        }
        if !self.peers.is_converged() {
            let mut text = "pinsets differ:".to_owned();
            for (index, cluster) in self.peers.running() {
                let pins = pinset(cluster).await.unwrap_or_default();
                let pins: Vec<String> = pins.iter().map(|pin| self.shown(pin)).collect();
                text.push_str(&format!(" peer {index} has [{}]", pins.join(", ")));
            }
            return Some(text);
        }
        #[cfg(feature = "consensus-raft")]
        if self.is_by_raft
            && let Some(text) = self.different_progress()
        {
            return Some(text);
        }
        if let Some(text) = self.different_dags() {
            return Some(text);
        }
        let waits = |index: &usize| {
            let page = self
                .peers
                .storage(*index)
                .snapshot()
                .and_then(|disk| disk.scan(CRDT_LOG, KeyRange::all(), Direction::Forward, 1));
            page.is_ok_and(|page| !page.entries.is_empty())
        };
        if let Some(index) = (0..self.peers.len()).find(waits) {
            return Some(format!("operations of peer {index} wait for their batch"));
        }
        let (_, first) = self.peers.running().next()?;
        let pins = pinset(first).await.unwrap_or_default();
        let expiring = pins.iter().find(|pin| pin.options.expire_at.is_some())?;
        Some(format!("{} has not been removed since it expired", self.shown(expiring)))
    }

    /// How the peers' DAGs differ. Those who have the same pinset may still be fetching what changes nothing.
    pub(super) fn different_dags(&self) -> Option<String> {
        let keys = |index: usize, space: Space| -> BTreeSet<Bytes> {
            let snapshot = self.peers.storage(index).snapshot();
            let page =
                snapshot.and_then(|disk| disk.scan(space, KeyRange::all(), Direction::Forward, usize::MAX));
            page.map(|page| page.entries.into_iter().map(|(key, _)| key).collect()).unwrap_or_default()
        };
        for (what, space) in [("heads", CRDT_HEADS), ("blocks", CRDT_BLOCKS)] {
            let of_first = keys(0, space);
            for index in 1..self.peers.len() {
                let others = keys(index, space);
                if others != of_first {
                    let shown = |keys: BTreeSet<&Bytes>| {
                        keys.iter().map(|key| hex::encode(&key[..key.len().min(4)])).collect::<Vec<_>>()
                    };
                    let missing = shown(of_first.difference(&others).collect());
                    let more = shown(others.difference(&of_first).collect());
                    return Some(format!(
                        "peer {index} lacks the {what} {missing:?} of peer 0 and has {more:?} that it has not"
                    ));
                }
            }
        }
        None
    }

    pub(super) fn shown(&self, pin: &Pin) -> String {
        let cid = self
            .cids
            .iter()
            .position(|cid| *cid == pin.cid)
            .map_or_else(|| pin.cid.to_string(), |c| format!("c{c}"));
        format!("{cid}: {}", pin.options.name)
    }

    /// Whether every peer knows of every pin what a walk over all blocks gives, and shows what that comes to.
    #[cfg(feature = "consensus-crdt")]
    pub(super) async fn check_knowledge(&mut self) {
        let mut wrong = Vec::new();
        for (index, cluster) in self.peers.running() {
            let storage = self.peers.storage(index);
            let (known, dag) = match (dag::known(&*storage), dag::Dag::of(&*storage)) {
                (Ok(known), Ok(dag)) => (known, dag),
                (Err(error), _) | (_, Err(error)) => {
                    wrong.push(format!("what peer {index} knows cannot be read: {error}"));
                    continue;
                }
            };
            if known != dag.known() {
                wrong.push(format!(
                    "peer {index} knows\n    {known:?}\n  and a walk gives\n    {:?}",
                    dag.known()
                ));
            }
            let shown = pinset(cluster).await.unwrap_or_default();
            let shown: BTreeMap<Cid, Pin> = shown.into_iter().map(|pin| (pin.cid, pin)).collect();
            if shown != dag.pins() {
                wrong.push(format!(
                    "peer {index} shows\n    {shown:?}\n  and a walk gives\n    {:?}",
                    dag.pins()
                ));
            }
        }
        self.violations.extend(wrong);
    }

    pub(super) async fn check_pinset(&mut self) {
        let Some((_, first)) = self.peers.running().next() else { return };
        let pins = match pinset(first).await {
            Ok(pins) => pins,
            Err(error) => return self.violations.push(format!("the pinset cannot be read: {error}")),
        };
        let mut found: BTreeMap<usize, &Pin> = BTreeMap::new();
        for pin in &pins {
            match self.cids.iter().position(|cid| *cid == pin.cid) {
                Some(cid) => drop(found.insert(cid, pin)),
                None => self.violations.push(format!("nobody pinned {}", pin.cid)),
            }
        }
        let now = (0..self.peers.len()).map(|peer| self.peers.clock(peer).now());
        let skew = if self.is_by_raft { peers::JUMP_MAX } else { peers::SKEW_MAX };
        let all = Circumstances {
            latest_now: now.clone().max().unwrap_or(Timestamp::UNIX_EPOCH) + skew,
            expired_before: now.min().unwrap_or(Timestamp::UNIX_EPOCH),
            rewrites: Vec::new(),
            there_is_rewrite: false,
        };
        #[cfg(feature = "consensus-crdt")]
        let dag = dag::Dag::of(&*self.peers.storage(0)).unwrap_or_default();
        let history = lock(&self.history);
        for cid in 0..self.cids.len() {
            let pin = found.get(&cid);
            let there = match pin.map(|pin| tag_of(pin)) {
                Some(None) => {
                    self.violations.push(format!("the entry of c{cid} has lost its name"));
                    continue;
                }
                Some(Some(tag)) => Some((tag, pin.and_then(|pin| pin.options.expire_at))),
                None => None,
            };
            #[allow(unused_mut)] // Without the CRDT nobody writes anything once more.
            let mut circumstances = all.clone();
            #[cfg(feature = "consensus-crdt")]
            if !self.is_by_raft {
                let findings = dag.findings(&self.cids[cid], tag_of);
                circumstances.rewrites = findings.rewrites;
                circumstances.there_is_rewrite = findings.winner_is_rewrite;
                self.violations.extend(findings.wrong.into_iter().map(|what| format!("c{cid}: {what}")));
            }
            let wrong = model::check(&history.operations, cid, there, &circumstances);
            self.violations.extend(wrong.into_iter().map(|what| format!("c{cid}: {what}")));
            if let (Some(pin), Some((tag, _))) = (pin, there)
                && let Some(told) = history.answers.get(&tag)
                && !self.is_as_told(pin, told)
            {
                self.violations
                    .push(format!("c{cid}: op-{tag} was told\n    {told:?}\n  but there is\n    {pin:?}"));
            }
        }
    }

    /// Whether the entry is what the caller was told, but for what is never stored and for what repinning changes.
    pub(super) fn is_as_told(&self, pin: &Pin, told: &Pin) -> bool {
        let mut told = told.clone();
        told.options.user_allocations.clear();
        told.timestamp = told.timestamp.map(|time| time.truncated_to_seconds());
        told.options.expire_at = told.options.expire_at.map(|time| time.truncated_to_seconds());
        if self.plan.repinning {
            told.allocations.clone_from(&pin.allocations);
            told.timestamp = pin.timestamp;
        }
        *pin == told
    }

    /// Whether each daemon holds the peer's share and nothing else, or its tracker says what went wrong. Once `all` was
    /// recovered nothing may have gone wrong.
    pub(super) async fn check_daemons(&mut self, all: bool) {
        let mut wrong = Vec::new();
        for (index, cluster) in self.peers.running() {
            for (number, cid) in self.cids.iter().enumerate() {
                let pin = cluster.state().get(cid).await.ok().flatten();
                let wanted = pin.as_ref().filter(|pin| !pin.is_remote_for(&cluster.peer_id())).map(Pin::mode);
                let mut held = Vec::new();
                for mode in PinMode::ALL {
                    if self.peers.daemon(index).ipfs().is_pinned(cid, mode).await.unwrap_or(false) {
                        held.push(mode);
                    }
                }
                if held.as_slice() == wanted.as_slice() {
                    continue;
                }
                let status = cluster.tracker().status(cid).await.map(|info| info.status.status);
                // What failed to be unpinned because others hold it is shown as `remote`, as in the reference.
                let admitted = match status {
                    Ok(TrackerStatus::PinError) => !all || is_refused_downgrade(wanted, &held),
                    Ok(TrackerStatus::UnpinError | TrackerStatus::Remote) => !all,
                    Ok(_) | Err(_) => false,
                };
                // Nobody remembers over a restart that the daemon was still to let go of something: the tracker stores
                // nothing, and what else the daemon holds may be its user's own.
                let is_left_over = wanted.is_none() && self.restarted.contains(&index);
                if !admitted && !is_left_over {
                    wrong.push(format!(
                        "c{number} should be {wanted:?} on the daemon of peer {index}, is {held:?}, and its status is {status:?}{}",
                        if all { " after recovering" } else { "" }
                    ));
                }
            }
        }
        self.violations.extend(wrong);
        self.check_allocations().await;
    }

    pub(super) async fn check_allocations(&mut self) {
        let Some((_, first)) = self.peers.running().next() else { return };
        for pin in pinset(first).await.unwrap_or_default() {
            // More than the most there should be are possible, as in the reference: a pin with a lower factor keeps
            // its allocations when so many of their peers were dead that the living ones were few enough.
            let min = pin.options.replication_factor_min;
            let copies = i32::try_from(pin.allocations.len()).unwrap_or(i32::MAX);
            let fits = if min == -1 { copies == 0 } else { copies >= min };
            let known = pin
                .allocations
                .iter()
                .all(|peer| (0..self.peers.len()).any(|index| self.peers.id(index) == *peer));
            if !fits || !known {
                self.violations.push(format!("{} is allocated to {:?}", self.shown(&pin), pin.allocations));
            }
        }
    }
}
