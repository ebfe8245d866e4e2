//! Which connections go when there are too many. Pure.

use std::time::Duration;

use crate::config::ConnectionManagerConfig;
use crate::types::PeerId;

/// A peer we are connected to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) peer: PeerId,
    /// How long we have been connected.
    pub(super) age: Duration,
    pub(super) is_protected: bool,
}

/// Above the high water, whoever is beyond the low water goes, the newest first: who stayed for long is worth more, and
/// nobody can push old friends out by coming in numbers. New ones are left alone for the grace period.
pub(super) fn surplus(mut candidates: Vec<Candidate>, limits: &ConnectionManagerConfig) -> Vec<PeerId> {
    let count = candidates.len();
    if count <= limits.high_water {
        return Vec::new();
    }
    candidates.retain(|candidate| !candidate.is_protected && candidate.age >= limits.grace_period);
    candidates.sort_by_key(|candidate| (candidate.age, candidate.peer));
    candidates.into_iter().take(count - limits.low_water).map(|candidate| candidate.peer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn above_the_high_water_the_newest_go_that_are_neither_protected_nor_in_grace() {
        let peer = |number: u8| PeerId::from_bytes(&[0, 1, number]).unwrap();
        let limits = |high_water, low_water| ConnectionManagerConfig {
            high_water,
            low_water,
            grace_period: Duration::from_secs(20),
        };
        // Ages 10, 20, 30, 40 and 50 s; the fourth is protected.
        let candidates: Vec<_> = (1..=5)
            .map(|number| Candidate {
                peer: peer(number),
                age: Duration::from_secs(10 * u64::from(number)),
                is_protected: number == 4,
            })
            .collect();
        for (high, low, expected) in [
            (5, 1, vec![]),
            (4, 4, vec![2]),
            (4, 3, vec![2, 3]),
            (4, 2, vec![2, 3, 5]),
            (1, 1, vec![2, 3, 5]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(peer).collect();
            assert_eq!(surplus(candidates.clone(), &limits(high, low)), expected, "{high} {low}");
        }
    }
}
