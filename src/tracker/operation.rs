//! The operation state machine: what a request does to the operation that is there, what a started operation does
//! given the pinset, and which status all of it shows. Pure; no clock, no daemon.
//!
//! | operation, phase | status |
//! |---|---|
//! | pin: queued, in progress, failed | `pin_queued`, `pinning`, `pin_error` |
//! | unpin: queued, in progress, failed | `unpin_queued`, `unpinning`, `unpin_error` |
//! | remote: any | `remote` |

use std::sync::Arc;

use crate::types::{PeerId, Pin, PinMode, PinType, TrackerStatus};

/// Shown for an item that the daemon should hold and does not.
pub(crate) const UNEXPECTEDLY_UNPINNED: &str = "the item should be pinned but it is not";

/// What an operation wants of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Hold it, as the pinset says.
    Pin,
    /// Let go of what left the pinset.
    Unpin,
    /// Let go of what other peers hold.
    Remote,
}

impl Kind {
    /// Whether the daemon is asked to unpin.
    pub(crate) const fn unpins(self) -> bool {
        matches!(self, Self::Unpin | Self::Remote)
    }
}

/// How far an operation is. One that is done is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Queued,
    InProgress,
    Failed,
}

/// The status an operation shows.
pub(crate) const fn status(kind: Kind, phase: Phase) -> TrackerStatus {
    match (kind, phase) {
        (Kind::Pin, Phase::Queued) => TrackerStatus::PinQueued,
        (Kind::Pin, Phase::InProgress) => TrackerStatus::Pinning,
        (Kind::Pin, Phase::Failed) => TrackerStatus::PinError,
        (Kind::Unpin, Phase::Queued) => TrackerStatus::UnpinQueued,
        (Kind::Unpin, Phase::InProgress) => TrackerStatus::Unpinning,
        (Kind::Unpin, Phase::Failed) => TrackerStatus::UnpinError,
        (Kind::Remote, _) => TrackerStatus::Remote,
    }
}

/// What a request does to the operation that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The operation that waits or runs will do: it reads the pinset when it starts.
    Keep,
    /// The same work under another name.
    Convert,
    /// A new operation takes its place.
    Replace {
        /// The new one counts on from the old one's attempts.
        carry_attempts: bool,
        /// The old one runs and has to be stopped first.
        cancel: bool,
    },
}

/// Decides on a request for `wanted`. `outdated` says that a running pin pins something else than is wanted now
/// (another depth, other origins).
pub(crate) fn decide(existing: Option<(Kind, Phase)>, wanted: Kind, outdated: bool) -> Decision {
    let Some((kind, phase)) = existing else {
        return Decision::Replace { carry_attempts: false, cancel: false };
    };
    match phase {
        Phase::Failed => Decision::Replace { carry_attempts: kind == wanted, cancel: false },
        Phase::Queued if kind == wanted => Decision::Keep,
        Phase::InProgress if kind == wanted && !(outdated && kind == Kind::Pin) => Decision::Keep,
        Phase::Queued | Phase::InProgress if kind.unpins() && wanted.unpins() => Decision::Convert,
        Phase::Queued | Phase::InProgress => {
            Decision::Replace { carry_attempts: false, cancel: phase == Phase::InProgress }
        }
    }
}

/// What the pinset wants of this peer for one CID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Hold it.
    Held(PinMode),
    /// Others hold it.
    Remote,
    /// Nobody pins it: its shards are pinned instead.
    Sharded,
    /// It is not in the pinset.
    Absent,
}

impl Wish {
    pub(crate) fn of(pin: Option<&Pin>, peer: &PeerId) -> Self {
        match pin {
            None => Self::Absent,
            Some(pin) if pin.pin_type == PinType::Meta => Self::Sharded,
            Some(pin) if pin.is_remote_for(peer) => Self::Remote,
            Some(pin) => Self::Held(pin.mode()),
        }
    }

    /// The operation that brings the daemon there; none where the tracker leaves things alone.
    pub(crate) const fn operation(self) -> Option<Kind> {
        match self {
            Self::Held(_) => Some(Kind::Pin),
            Self::Remote => Some(Kind::Remote),
            Self::Absent => Some(Kind::Unpin),
            Self::Sharded => None,
        }
    }

    /// Whether a daemon that holds these modes is where the pinset wants it.
    pub(crate) const fn is_satisfied(self, holds_recursive: bool, holds_direct: bool) -> bool {
        match self {
            Self::Held(PinMode::Recursive) => holds_recursive,
            Self::Held(PinMode::Direct) => holds_direct,
            Self::Remote | Self::Absent | Self::Sharded => !holds_recursive && !holds_direct,
        }
    }
}

/// What an operation does when its turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask the daemon to pin.
    Pin,
    /// Ask the daemon to unpin.
    Unpin,
    /// The pinset changed meanwhile: another operation is due.
    Become(Kind),
    /// The pinset changed meanwhile: nothing is left to do.
    Nothing,
}

/// Compares an operation whose turn came with what the pinset says by then.
pub(crate) const fn step(kind: Kind, wish: Wish) -> Step {
    match (kind, wish) {
        (Kind::Pin, Wish::Held(_)) => Step::Pin,
        (Kind::Pin, Wish::Remote) => Step::Become(Kind::Remote),
        (Kind::Pin, Wish::Absent) => Step::Become(Kind::Unpin),
        (Kind::Pin, Wish::Sharded) => Step::Nothing,
        // A late removal never unpins what the pinset has.
        (Kind::Unpin | Kind::Remote, Wish::Held(_)) => Step::Become(Kind::Pin),
        (Kind::Unpin, Wish::Remote) => Step::Become(Kind::Remote),
        (Kind::Remote, Wish::Absent) => Step::Become(Kind::Unpin),
        (Kind::Unpin, Wish::Absent | Wish::Sharded) | (Kind::Remote, Wish::Remote | Wish::Sharded) => {
            Step::Unpin
        }
    }
}

/// What is due after a pin of this mode succeeded, given the pinset by then.
pub(crate) fn follow_up(pinned: PinMode, wish: Wish) -> Option<Kind> {
    match wish {
        Wish::Held(mode) if mode == pinned => None,
        Wish::Held(_) | Wish::Remote | Wish::Absent => wish.operation(),
        Wish::Sharded => None,
    }
}

/// Whether the daemon holds an item in the mode the pinset wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    Held,
    Missing,
    /// It cannot be said, and why.
    Unknown(Arc<str>),
}

/// The status of an item no operation works on.
pub(crate) fn resting_status(wish: Wish, holding: &Holding) -> (TrackerStatus, String) {
    match (wish, holding) {
        (Wish::Absent, _) => (TrackerStatus::Unpinned, String::new()),
        (Wish::Sharded, _) => (TrackerStatus::Sharded, String::new()),
        (Wish::Remote, _) => (TrackerStatus::Remote, String::new()),
        (Wish::Held(_), Holding::Held) => (TrackerStatus::Pinned, String::new()),
        (Wish::Held(_), Holding::Missing) => {
            (TrackerStatus::UnexpectedlyUnpinned, UNEXPECTEDLY_UNPINNED.to_owned())
        }
        (Wish::Held(_), Holding::Unknown(reason)) => (TrackerStatus::ClusterError, reason.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Kind::{Pin as P, Remote as R, Unpin as U};
    use Phase::{Failed, InProgress, Queued};

    #[test]
    fn a_request_keeps_converts_or_replaces_what_is_there() {
        let new = |carry_attempts, cancel| Decision::Replace { carry_attempts, cancel };
        for (existing, wanted, expected) in [
            (None, P, new(false, false)),
            (None, U, new(false, false)),
            (None, R, new(false, false)),
            (Some((P, Queued)), P, Decision::Keep),
            (Some((P, Queued)), U, new(false, false)),
            (Some((P, Queued)), R, new(false, false)),
            (Some((P, InProgress)), P, Decision::Keep),
            (Some((P, InProgress)), U, new(false, true)),
            (Some((P, InProgress)), R, new(false, true)),
            (Some((P, Failed)), P, new(true, false)),
            (Some((P, Failed)), U, new(false, false)),
            (Some((P, Failed)), R, new(false, false)),
            (Some((U, Queued)), P, new(false, false)),
            (Some((U, Queued)), U, Decision::Keep),
            (Some((U, Queued)), R, Decision::Convert),
            (Some((U, InProgress)), P, new(false, true)),
            (Some((U, InProgress)), U, Decision::Keep),
            (Some((U, InProgress)), R, Decision::Convert),
            (Some((U, Failed)), P, new(false, false)),
            (Some((U, Failed)), U, new(true, false)),
            (Some((U, Failed)), R, new(false, false)),
            (Some((R, Queued)), P, new(false, false)),
            (Some((R, Queued)), U, Decision::Convert),
            (Some((R, Queued)), R, Decision::Keep),
            (Some((R, InProgress)), P, new(false, true)),
            (Some((R, InProgress)), U, Decision::Convert),
            (Some((R, InProgress)), R, Decision::Keep),
            (Some((R, Failed)), P, new(false, false)),
            (Some((R, Failed)), U, new(false, false)),
            (Some((R, Failed)), R, new(true, false)),
        ] {
            assert_eq!(decide(existing, wanted, false), expected, "{existing:?} asked for {wanted:?}");
        }
    }

    #[test]
    fn only_a_running_pin_can_be_outdated() {
        assert_eq!(
            decide(Some((P, InProgress)), P, true),
            Decision::Replace { carry_attempts: false, cancel: true }
        );
        assert_eq!(decide(Some((P, Queued)), P, true), Decision::Keep);
        assert_eq!(decide(Some((U, InProgress)), U, true), Decision::Keep);
    }

    #[test]
    fn an_operation_whose_turn_comes_does_what_the_pinset_says_by_then() {
        let held = Wish::Held(PinMode::Recursive);
        for (kind, wish, expected) in [
            (P, held, Step::Pin),
            (P, Wish::Remote, Step::Become(R)),
            (P, Wish::Absent, Step::Become(U)),
            (P, Wish::Sharded, Step::Nothing),
            (U, held, Step::Become(P)),
            (U, Wish::Remote, Step::Become(R)),
            (U, Wish::Absent, Step::Unpin),
            (U, Wish::Sharded, Step::Unpin),
            (R, held, Step::Become(P)),
            (R, Wish::Remote, Step::Unpin),
            (R, Wish::Absent, Step::Become(U)),
            (R, Wish::Sharded, Step::Unpin),
        ] {
            assert_eq!(step(kind, wish), expected, "{kind:?} with {wish:?}");
        }
    }

    #[test]
    fn what_became_is_a_step_that_runs() {
        for kind in [P, U, R] {
            for wish in [Wish::Held(PinMode::Direct), Wish::Remote, Wish::Absent, Wish::Sharded] {
                if let Step::Become(next) = step(kind, wish) {
                    assert!(
                        !matches!(step(next, wish), Step::Become(_)),
                        "{kind:?} with {wish:?} would go round"
                    );
                }
            }
        }
    }

    #[test]
    fn a_finished_pin_is_followed_by_what_the_pinset_wants_by_then() {
        use PinMode::{Direct, Recursive};
        for (pinned, wish, expected) in [
            (Recursive, Wish::Held(Recursive), None),
            (Direct, Wish::Held(Recursive), Some(P)),
            (Recursive, Wish::Absent, Some(U)),
            (Recursive, Wish::Remote, Some(R)),
            (Recursive, Wish::Sharded, None),
        ] {
            assert_eq!(follow_up(pinned, wish), expected);
        }
    }

    #[test]
    fn a_wish_is_satisfied_by_its_mode_or_by_no_pin_at_all() {
        let (recursive, direct) = (Wish::Held(PinMode::Recursive), Wish::Held(PinMode::Direct));
        for (wish, holds_recursive, holds_direct, expected) in [
            (recursive, true, false, true),
            (recursive, false, true, false),
            (direct, true, false, false),
            (direct, false, true, true),
            (Wish::Absent, false, false, true),
            (Wish::Absent, false, true, false),
            (Wish::Remote, true, false, false),
            (Wish::Remote, false, false, true),
        ] {
            assert_eq!(wish.is_satisfied(holds_recursive, holds_direct), expected, "{wish:?}");
        }
    }

    #[test]
    fn every_operation_shows_its_status_and_every_resting_item_its_own() {
        use TrackerStatus as S;
        for (kind, phase, expected) in [
            (P, Queued, S::PinQueued),
            (P, InProgress, S::Pinning),
            (P, Failed, S::PinError),
            (U, Queued, S::UnpinQueued),
            (U, InProgress, S::Unpinning),
            (U, Failed, S::UnpinError),
            (R, Queued, S::Remote),
            (R, InProgress, S::Remote),
            (R, Failed, S::Remote),
        ] {
            assert_eq!(status(kind, phase), expected);
        }
        let held = Wish::Held(PinMode::Recursive);
        let unknown = Holding::Unknown("it is down".into());
        for (wish, holding, expected, error) in [
            (held, &Holding::Held, S::Pinned, ""),
            (held, &Holding::Missing, S::UnexpectedlyUnpinned, UNEXPECTEDLY_UNPINNED),
            (held, &unknown, S::ClusterError, "it is down"),
            (Wish::Remote, &unknown, S::Remote, ""),
            (Wish::Sharded, &Holding::Missing, S::Sharded, ""),
            (Wish::Absent, &Holding::Held, S::Unpinned, ""),
        ] {
            assert_eq!(resting_status(wish, holding), (expected, error.to_owned()));
        }
    }
}
