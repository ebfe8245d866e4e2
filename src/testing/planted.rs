//! Bugs put in on purpose, to see that the simulator finds them.
//!
//! The switch belongs to the thread, because a simulation is one thread, and is off everywhere else. Nothing of this is
//! compiled without the feature `testing`.

use std::cell::Cell;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Planted {
    /// A removal makes the daemon let go of the CID though another element keeps it in the set.
    LateRemovalUntracks,
    /// What was acknowledged and not yet cut into a delta is forgotten when the peer starts again.
    LogNotReplayed,
    /// Of two values of equal priority the one that came last wins, instead of the greater.
    LastArrivalWins,
    /// A peer that pins elsewhere what a dead one held does not look whether a user changed the pin meanwhile.
    RevisionIsBlind,
    /// A raft peer answers for a vote that is not on its disk yet.
    VoteNotSynced,
    /// A raft peer answers for entries of the log that are not on its disk yet.
    EntriesNotSynced,
    /// What a raft peer asked for again, because it got no answer, is applied again.
    RetryAppliedTwice,
    /// A raft peer that leads answers reads without asking whether it still does.
    StaleLeaderAnswers,
    /// A raft peer that takes over a pinset does not take over which requests are in it.
    SnapshotForgetsRequests,
    /// A raft peer removes entries of its log that its pinset does not have yet.
    PurgedBeforeApplied,
    /// A raft peer that led leads on when it is started again, as if it knew what it acknowledged.
    LeaderStaysLeader,
    /// A raft peer that leads takes entries for written that are not on its own disk: it counts itself among those who have
    /// them, applies them, and tells others that they are agreed on.
    LeaderCountsUnwritten,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::LateRemovalUntracks,
        Self::LogNotReplayed,
        Self::LastArrivalWins,
        Self::RevisionIsBlind,
        Self::VoteNotSynced,
        Self::EntriesNotSynced,
        Self::RetryAppliedTwice,
        Self::StaleLeaderAnswers,
        Self::SnapshotForgetsRequests,
        Self::PurgedBeforeApplied,
        Self::LeaderStaysLeader,
        Self::LeaderCountsUnwritten,
    ];

    /// Its name, for a command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LateRemovalUntracks => "late-removal-untracks",
            Self::LogNotReplayed => "log-not-replayed",
            Self::LastArrivalWins => "last-arrival-wins",
            Self::RevisionIsBlind => "revision-is-blind",
            Self::VoteNotSynced => "vote-not-synced",
            Self::EntriesNotSynced => "entries-not-synced",
            Self::RetryAppliedTwice => "retry-applied-twice",
            Self::StaleLeaderAnswers => "stale-leader-answers",
            Self::SnapshotForgetsRequests => "snapshot-forgets-requests",
            Self::PurgedBeforeApplied => "purged-before-applied",
            Self::LeaderStaysLeader => "leader-stays-leader",
            Self::LeaderCountsUnwritten => "leader-counts-unwritten",
        }
    }
}

thread_local! {
    static PLANTED: Cell<Option<Planted>> = const { Cell::new(None) };
}

/// Whether this thread runs with this bug.
pub(crate) fn is_planted(bug: Planted) -> bool {
    PLANTED.get() == Some(bug)
}

/// Puts a bug into everything that this thread runs, until the answer is dropped.
#[must_use = "the bug is taken out when this is dropped"]
pub fn plant(bug: Option<Planted>) -> Uproot {
    Uproot(PLANTED.replace(bug))
}

/// Takes a planted bug out when it is dropped.
#[derive(Debug)]
pub struct Uproot(Option<Planted>);

impl Drop for Uproot {
    fn drop(&mut self) {
        PLANTED.set(self.0);
    }
}
