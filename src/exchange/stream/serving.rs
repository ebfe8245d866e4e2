//! What others asked us for and we did not have. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::types::Cid;

/// Most wants that are remembered for one session; who asks for more asks again.
pub(super) const WANTS_PER_SESSION_MAX: usize = 16_384;

/// One stream that another peer opened to us.
pub(super) type SessionId = u64;

/// What is wanted of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// To be told that it is there.
    Have,
    /// The block itself.
    Block,
}

#[derive(Debug, Default)]
pub(super) struct Serving {
    sessions: BTreeMap<SessionId, Session>,
    /// Who wants a block.
    wanted: BTreeMap<Cid, BTreeSet<SessionId>>,
    next: SessionId,
}

#[derive(Debug, Default)]
struct Session {
    wants: BTreeMap<Cid, Wanted>,
    /// Those that were announced since.
    ready: BTreeSet<Cid>,
    notify: Arc<Notify>,
}

impl Serving {
    /// A new session, and what wakes it when something it wants was announced.
    pub(super) fn begin(&mut self) -> (SessionId, Arc<Notify>) {
        self.next += 1;
        let session = self.sessions.entry(self.next).or_default();
        (self.next, session.notify.clone())
    }

    /// Remembers a want; a later one of the same CID replaces it.
    pub(super) fn remember(&mut self, id: SessionId, cid: Cid, wanted: Wanted) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.wants.len() < WANTS_PER_SESSION_MAX || session.wants.contains_key(&cid) {
            session.wants.insert(cid, wanted);
            self.wanted.entry(cid).or_default().insert(id);
        }
    }

    /// Forgets a want, and says what it was.
    pub(super) fn forget(&mut self, id: SessionId, cid: &Cid) -> Option<Wanted> {
        let session = self.sessions.get_mut(&id)?;
        session.ready.remove(cid);
        let wanted = session.wants.remove(cid)?;
        self.remove_from_wanted(id, cid);
        Some(wanted)
    }

    /// Wakes the sessions that want this block.
    pub(super) fn announce(&mut self, cid: &Cid) {
        for id in self.wanted.get(cid).into_iter().flatten() {
            if let Some(session) = self.sessions.get_mut(id) {
                session.ready.insert(*cid);
                session.notify.notify_one();
            }
        }
    }

    /// Something the session wants and that was announced; it is forgotten.
    pub(super) fn next_ready(&mut self, id: SessionId) -> Option<(Cid, Wanted)> {
        let cid = *self.sessions.get(&id)?.ready.first()?;
        Some((cid, self.forget(id, &cid)?))
    }

    pub(super) fn end(&mut self, id: SessionId) {
        for cid in self.sessions.remove(&id).into_iter().flat_map(|session| session.wants.into_keys()) {
            self.remove_from_wanted(id, &cid);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    #[cfg(test)]
    pub(super) fn wants_nothing(&self) -> bool {
        self.wanted.is_empty() && self.sessions.values().all(|session| session.wants.is_empty())
    }

    fn remove_from_wanted(&mut self, id: SessionId, cid: &Cid) {
        if let Some(sessions) = self.wanted.get_mut(cid) {
            sessions.remove(&id);
            if sessions.is_empty() {
                self.wanted.remove(cid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Block;

    fn cid(number: u32) -> Cid {
        Block::raw(number.to_be_bytes().to_vec()).cid
    }

    #[test]
    fn an_announced_block_is_ready_for_who_wants_it_once() {
        let mut serving = Serving::default();
        let (one, other) = (serving.begin().0, serving.begin().0);
        serving.remember(one, cid(1), Wanted::Have);
        serving.remember(one, cid(1), Wanted::Block);
        serving.remember(other, cid(2), Wanted::Have);
        serving.announce(&cid(1));
        serving.announce(&cid(1));
        serving.announce(&cid(9));
        assert_eq!(
            serving.next_ready(one),
            Some((cid(1), Wanted::Block)),
            "the later one replaced the first"
        );
        assert_eq!(serving.next_ready(one), None);
        assert_eq!(serving.next_ready(other), None);
    }

    #[test]
    fn what_is_taken_back_or_ended_leaves_nothing() {
        let mut serving = Serving::default();
        let (one, other) = (serving.begin().0, serving.begin().0);
        for id in [one, other] {
            serving.remember(id, cid(1), Wanted::Block);
            serving.remember(id, cid(2), Wanted::Block);
        }
        serving.announce(&cid(1));
        assert_eq!(serving.forget(one, &cid(1)), Some(Wanted::Block));
        assert_eq!(serving.forget(one, &cid(1)), None);
        assert_eq!(serving.next_ready(one), None, "taken back after it was announced");
        serving.end(other);
        serving.end(other);
        assert_eq!(serving.next_ready(other), None);
        serving.forget(one, &cid(2));
        assert!(serving.wanted.is_empty(), "{serving:?}");
        serving.remember(other, cid(3), Wanted::Have);
        assert!(serving.wanted.is_empty(), "an ended session wants nothing");
    }

    #[test]
    fn a_session_is_remembered_only_so_many_wants() {
        let mut serving = Serving::default();
        let (id, _) = serving.begin();
        for number in 0..WANTS_PER_SESSION_MAX as u32 + 10 {
            serving.remember(id, cid(number), Wanted::Have);
        }
        serving.remember(id, cid(1), Wanted::Block);
        assert_eq!(serving.sessions[&id].wants.len(), WANTS_PER_SESSION_MAX);
        assert_eq!(serving.wanted.len(), WANTS_PER_SESSION_MAX);
        assert_eq!(serving.forget(id, &cid(1)), Some(Wanted::Block));
    }
}
