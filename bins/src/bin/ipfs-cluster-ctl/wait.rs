//! When a pin has been waited for long enough.

use ipfs_cluster::types::{GlobalPinInfo, TrackerStatus};

/// What the statuses of all peers mean to somebody who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Reached,
    NotYet,
    /// A peer failed, so that waiting on is of no use.
    Failed,
}

/// Judges statuses, with the reference's rules:
/// - any error is a failure, also on a peer that is not needed;
/// - with a positive limit, that many peers (or all, if there are fewer) must have the target;
/// - otherwise all must, and peers that need not hold a pin do not count.
pub(crate) fn verdict(statuses: &[TrackerStatus], target: TrackerStatus, limit: i32) -> Verdict {
    use TrackerStatus::{ClusterError, PinError, UnpinError};

    if statuses.iter().any(|status| matches!(status, ClusterError | PinError | UnpinError)) {
        return Verdict::Failed;
    }
    let (done, needed) = count(statuses, target, limit);
    // Without any peer, nobody has said anything yet.
    if !statuses.is_empty() && done >= needed { Verdict::Reached } else { Verdict::NotYet }
}

/// How many peers are done, and how many have to be.
pub(crate) fn count(statuses: &[TrackerStatus], target: TrackerStatus, limit: i32) -> (usize, usize) {
    let done = statuses.iter().filter(|status| **status == target).count();
    let limit = usize::try_from(limit).unwrap_or(0).min(statuses.len());
    if limit > 0 {
        return (done, limit);
    }
    let does_not_count =
        |status: &&TrackerStatus| target == TrackerStatus::Pinned && **status == TrackerStatus::Remote;
    (done, statuses.len() - statuses.iter().filter(does_not_count).count())
}

/// The statuses in an answer.
pub(crate) fn statuses(info: &GlobalPinInfo) -> Vec<TrackerStatus> {
    info.peer_map.values().map(|peer| peer.status).collect()
}

#[cfg(test)]
mod tests {
    use super::TrackerStatus::*;
    use super::Verdict::*;
    use super::*;

    #[test]
    fn the_verdict_follows_the_references_rules() {
        let cases: &[(&[TrackerStatus], TrackerStatus, i32, Verdict)] = &[
            (&[Pinned, Pinned], Pinned, 0, Reached),
            (&[Pinned, Pinning], Pinned, 0, NotYet),
            (&[Pinned, Remote], Pinned, 0, Reached),
            (&[Pinned, Remote], Pinned, -1, Reached),
            (&[Remote, Remote], Pinned, 0, Reached),
            (&[Pinning, Remote], Pinned, -1, NotYet),
            (&[Pinned, PinQueued, Pinning], Pinned, 1, Reached),
            (&[Pinned, PinQueued, Pinning], Pinned, 2, NotYet),
            (&[Pinned, Remote], Pinned, 2, NotYet),
            (&[Pinned, Pinned], Pinned, 5, Reached),
            (&[Pinned, UnexpectedlyUnpinned], Pinned, 0, NotYet),
            (&[Pinned, PinError], Pinned, 1, Failed),
            (&[Pinned, ClusterError], Pinned, 1, Failed),
            (&[UnpinError], Unpinned, 0, Failed),
            (&[Unpinned, Unpinned], Unpinned, 0, Reached),
            (&[Unpinned, Unpinning], Unpinned, 0, NotYet),
            (&[Unpinned, UnpinQueued], Unpinned, 0, NotYet),
            (&[Unpinned, Remote], Unpinned, 0, NotYet),
            (&[Unpinned, Unpinning], Unpinned, 1, Reached),
            (&[], Pinned, 0, NotYet),
            (&[], Pinned, 1, NotYet),
        ];
        for (statuses, target, limit, wanted) in cases {
            assert_eq!(verdict(statuses, *target, *limit), *wanted, "{statuses:?} {target} {limit}");
        }
    }
}
