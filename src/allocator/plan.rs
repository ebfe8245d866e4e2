//! Who keeps a pin, who is dropped, and among whom new holders are looked for.

use std::collections::{BTreeMap, BTreeSet};

use super::{Candidates, NotEnoughPeers, PeerMetrics};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Metric, PeerId, ReplicationFactor};

/// Whether trust decides who may be a candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrustRule {
    /// It does not.
    #[default]
    Everybody,
    /// Only trusted peers get pins (`pin_only_on_trusted_peers`).
    OnlyTrusted,
    /// Only peers that are not trusted get pins (`pin_only_on_untrusted_peers`).
    OnlyUntrusted,
}

impl TrustRule {
    /// The rule of the two configuration keys.
    ///
    /// # Errors
    /// `InvalidInput` when both are set, because then nobody could get a pin.
    pub fn new(only_on_trusted: bool, only_on_untrusted: bool) -> Result<Self> {
        match (only_on_trusted, only_on_untrusted) {
            (false, false) => Ok(Self::Everybody),
            (true, false) => Ok(Self::OnlyTrusted),
            (false, true) => Ok(Self::OnlyUntrusted),
            (true, true) => Err(Error::invalid_input(
                "cluster.pin_only_on_trusted_peers and cluster.pin_only_on_untrusted_peers cannot both be true",
            )),
        }
    }

    fn admits(self, trusted: impl FnOnce() -> bool) -> bool {
        match self {
            Self::Everybody => true,
            Self::OnlyTrusted => trusted(),
            Self::OnlyUntrusted => !trusted(),
        }
    }
}

/// What [`plan`] decides from.
#[derive(Clone, Debug)]
pub struct PlanInput<'a> {
    /// Allocations of the entry as it is in the pinset now; empty when there is none or when it was everywhere.
    pub existing: &'a [PeerId],
    /// How many peers should hold it.
    pub factor: ReplicationFactor,
    /// Names of the metrics a peer must have, all of them ([`PinAllocator::metrics`](super::PinAllocator::metrics)).
    /// With none, every peer that has any metric here can be chosen.
    pub names: &'a [String],
    /// Usable metrics as the monitor gives them, for the names above and any other (`ping`, for allocators that
    /// need no metric).
    pub metrics: Vec<Metric>,
    /// Peers the user prefers. Best effort: one that cannot be chosen is passed over.
    pub user_allocations: &'a [PeerId],
    /// Peers that must not count nor be chosen, because they are failing or leaving.
    pub blacklist: &'a [PeerId],
    /// What trust has to do with it.
    pub trust: TrustRule,
}

/// What becomes of the allocations of a pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// They stay as they are, failing peers included. Empty for a pin that is everywhere.
    Keep(Vec<PeerId>),
    /// These stay, the others are dropped.
    Shrink(Vec<PeerId>),
    /// More are needed: ask the allocator to order the candidates, then [`Need::fill`].
    Need(Need, Candidates),
}

/// How many more peers a pin needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// At least so many more, one or more.
    pub min: usize,
    /// At most so many more.
    pub max: usize,
    /// Peers that hold it and stay, in the order of the existing allocations.
    pub current: Vec<PeerId>,
    eligible: BTreeSet<PeerId>,
}

impl Need {
    /// The allocations: those that stay, then as many of `ordered` as are wanted.
    ///
    /// # Errors
    /// `NotEnoughPeers` when the allocator left too few; `Internal` when it chose somebody twice or somebody who
    /// is no candidate.
    pub fn fill(self, ordered: Vec<PeerId>) -> Result<Vec<PeerId>> {
        let broken = |peer: &PeerId, how: &str| {
            Error::internal(format!("the allocator chose {peer}, {how}")).component("allocator")
        };
        let mut seen = BTreeSet::new();
        for peer in &ordered {
            if !self.eligible.contains(peer) {
                return Err(broken(peer, "who is no candidate"));
            }
            if !seen.insert(peer) {
                return Err(broken(peer, "twice"));
            }
        }
        if ordered.len() < self.min {
            return Err(not_enough(self.min, self.max, ordered.len()));
        }
        let mut allocations = self.current;
        allocations.extend(ordered.into_iter().take(self.max));
        Ok(allocations)
    }
}

/// Decides what becomes of the allocations of a pin. Pure: the same input gives the same answer on every peer.
///
/// A peer counts when it has a metric under every name, is not on the blacklist and passes the trust rule. Let
/// *valid* be the existing allocations that count:
///
/// | case | result |
/// |---|---|
/// | everywhere | `Keep`, no allocations |
/// | more valid than `max` | `Shrink` to the first `max` valid ones |
/// | `min` valid or more | `Keep` the existing allocations as they are, user allocations or not |
/// | fewer candidates than are missing to `min` | error |
/// | else | `Need` |
///
/// Order: what stays keeps the order of the existing allocations, so the replicas that are dropped are the ones
/// added last.
///
/// # Errors
/// `NotEnoughPeers`, with a [`NotEnoughPeers`] as its source.
pub fn plan(input: PlanInput<'_>, is_trusted: impl Fn(&PeerId) -> bool) -> Result<Plan> {
    let ReplicationFactor::Between { min, max } = input.factor else {
        return Ok(Plan::Keep(Vec::new()));
    };
    let (min, max) = (min.get() as usize, max.get() as usize);

    let mut candidates = Candidates::new();
    for (peer, metrics) in by_peer(input.metrics) {
        let counts = input.names.iter().all(|name| metrics.contains_key(name))
            && !input.blacklist.contains(&peer)
            && input.trust.admits(|| is_trusted(&peer));
        if !counts {
            continue;
        }
        let class = if input.existing.contains(&peer) {
            &mut candidates.current
        } else if input.user_allocations.contains(&peer) {
            &mut candidates.priority
        } else {
            &mut candidates.candidates
        };
        class.insert(peer, metrics);
    }

    let mut current = Vec::with_capacity(candidates.current.len());
    for peer in input.existing {
        // An imported entry may name a peer twice; it still holds one copy.
        if candidates.current.contains_key(peer) && !current.contains(peer) {
            current.push(*peer);
        }
    }
    if current.len() > max {
        current.truncate(max);
        return Ok(Plan::Shrink(current));
    }
    if current.len() >= min {
        return Ok(Plan::Keep(input.existing.to_vec()));
    }
    let need = Need {
        min: min - current.len(),
        max: max - current.len(),
        current,
        eligible: candidates.priority.keys().chain(candidates.candidates.keys()).copied().collect(),
    };
    if need.eligible.len() < need.min {
        return Err(not_enough(need.min, need.max, need.eligible.len()));
    }
    Ok(Plan::Need(need, candidates))
}

fn by_peer(metrics: Vec<Metric>) -> BTreeMap<PeerId, PeerMetrics> {
    let mut peers: BTreeMap<PeerId, PeerMetrics> = BTreeMap::new();
    for metric in metrics {
        peers.entry(metric.peer).or_default().insert(metric.name.clone(), metric);
    }
    peers
}

fn not_enough(needed: usize, wanted: usize, available: usize) -> Error {
    let detail = NotEnoughPeers { needed, wanted, available };
    Error::new(ErrorKind::NotEnoughPeers, detail.to_string()).component("allocator").with_source(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::test_peers::{metric, peer};

    const NAMES: [&str; 2] = ["tag:group", "freespace"];

    fn peers(numbers: &[u8]) -> Vec<PeerId> {
        numbers.iter().copied().map(peer).collect()
    }

    /// Metrics of both names for each of these peers.
    fn metrics_of(numbers: &[u8]) -> Vec<Metric> {
        numbers
            .iter()
            .flat_map(|&number| NAMES.map(|name| metric(peer(number), name, "1", 1, false)))
            .collect()
    }

    struct Row {
        case: &'static str,
        existing: &'static [u8],
        factor: (i32, i32),
        /// Peers with both metrics.
        alive: &'static [u8],
        user: &'static [u8],
        blacklist: &'static [u8],
        expected: Expected,
    }

    enum Expected {
        Keep(&'static [u8]),
        Shrink(&'static [u8]),
        Need {
            min: usize,
            max: usize,
            current: &'static [u8],
            priority: &'static [u8],
            others: &'static [u8],
        },
        NotEnough(usize, usize, usize),
    }

    use Expected::{Keep, Need as More, NotEnough, Shrink};

    const ROWS: &[Row] = &[
        Row {
            case: "everywhere clears allocations",
            existing: &[1, 2],
            factor: (-1, -1),
            alive: &[1, 2, 3],
            user: &[],
            blacklist: &[],
            expected: Keep(&[]),
        },
        Row {
            case: "a new pin",
            existing: &[],
            factor: (2, 3),
            alive: &[1, 2, 3],
            user: &[],
            blacklist: &[],
            expected: More { min: 2, max: 3, current: &[], priority: &[], others: &[1, 2, 3] },
        },
        Row {
            case: "a new pin with user allocations, one of them dead",
            existing: &[],
            factor: (1, 2),
            alive: &[1, 2, 3],
            user: &[3, 9],
            blacklist: &[],
            expected: More { min: 1, max: 2, current: &[], priority: &[3], others: &[1, 2] },
        },
        Row {
            case: "above max: the first of the existing order stay",
            existing: &[4, 2, 3, 1],
            factor: (1, 2),
            alive: &[1, 2, 3, 4],
            user: &[],
            blacklist: &[],
            expected: Shrink(&[4, 2]),
        },
        Row {
            case: "above max: peers that are dead go first",
            existing: &[4, 2, 3, 1],
            factor: (1, 2),
            alive: &[1, 2, 3],
            user: &[],
            blacklist: &[],
            expected: Shrink(&[2, 3]),
        },
        Row {
            case: "exactly max: nothing changes",
            existing: &[3, 1],
            factor: (1, 2),
            alive: &[1, 2, 3],
            user: &[2],
            blacklist: &[],
            expected: Keep(&[3, 1]),
        },
        Row {
            case: "between min and max: nothing changes, dead peers stay, user allocations are ignored",
            existing: &[3, 9, 1],
            factor: (2, 4),
            alive: &[1, 2, 3, 4],
            user: &[2],
            blacklist: &[],
            expected: Keep(&[3, 9, 1]),
        },
        Row {
            case: "below min: the living stay and more are looked for, up to max",
            existing: &[3, 9],
            factor: (2, 3),
            alive: &[1, 2, 3],
            user: &[2],
            blacklist: &[],
            expected: More { min: 1, max: 2, current: &[3], priority: &[2], others: &[1] },
        },
        Row {
            case: "a blacklisted holder does not count and is not chosen again",
            existing: &[1, 2],
            factor: (2, 2),
            alive: &[1, 2, 3],
            user: &[1],
            blacklist: &[1],
            expected: More { min: 1, max: 1, current: &[2], priority: &[], others: &[3] },
        },
        Row {
            case: "a blacklisted holder that is not needed changes nothing",
            existing: &[1, 2, 3],
            factor: (2, 3),
            alive: &[1, 2, 3],
            user: &[],
            blacklist: &[1],
            expected: Keep(&[1, 2, 3]),
        },
        Row {
            case: "too few candidates",
            existing: &[1],
            factor: (4, 5),
            alive: &[1, 2, 3],
            user: &[2],
            blacklist: &[],
            expected: NotEnough(3, 4, 2),
        },
        Row {
            case: "nobody at all",
            existing: &[],
            factor: (1, 1),
            alive: &[],
            user: &[1],
            blacklist: &[],
            expected: NotEnough(1, 1, 0),
        },
        Row {
            case: "a holder named twice is one copy",
            existing: &[1, 1],
            factor: (2, 2),
            alive: &[1, 2],
            user: &[],
            blacklist: &[],
            expected: More { min: 1, max: 1, current: &[1], priority: &[], others: &[2] },
        },
    ];

    #[test]
    fn each_case_of_the_rules_gives_its_plan() {
        let names = NAMES.map(str::to_owned);
        for row in ROWS {
            let (existing, user, blacklist) = (peers(row.existing), peers(row.user), peers(row.blacklist));
            let outcome = plan(
                PlanInput {
                    existing: &existing,
                    factor: ReplicationFactor::new(row.factor.0, row.factor.1).unwrap(),
                    names: &names,
                    metrics: metrics_of(row.alive),
                    user_allocations: &user,
                    blacklist: &blacklist,
                    trust: TrustRule::Everybody,
                },
                |_| panic!("trust is not asked for when it does not matter"),
            );
            match &row.expected {
                Keep(expected) => assert_eq!(outcome.unwrap(), Plan::Keep(peers(expected)), "{}", row.case),
                Shrink(expected) => {
                    assert_eq!(outcome.unwrap(), Plan::Shrink(peers(expected)), "{}", row.case);
                }
                More { min, max, current, priority, others } => {
                    let Plan::Need(need, candidates) = outcome.unwrap() else { panic!("{}", row.case) };
                    assert_eq!((need.min, need.max), (*min, *max), "{}", row.case);
                    assert_eq!(need.current, peers(current), "{}", row.case);
                    let names_of =
                        |class: &BTreeMap<PeerId, PeerMetrics>| class.keys().copied().collect::<Vec<_>>();
                    assert_eq!(names_of(&candidates.priority), peers(priority), "{}", row.case);
                    assert_eq!(names_of(&candidates.candidates), peers(others), "{}", row.case);
                }
                NotEnough(needed, wanted, available) => {
                    let error = outcome.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::NotEnoughPeers, "{}", row.case);
                    assert_eq!(
                        error.downcast_source::<NotEnoughPeers>(),
                        Some(&NotEnoughPeers { needed: *needed, wanted: *wanted, available: *available }),
                        "{}",
                        row.case
                    );
                }
            }
        }
    }

    fn planned(
        metrics: Vec<Metric>,
        names: &[&str],
        trust: TrustRule,
        trusted: &[u8],
    ) -> Result<(Need, Candidates)> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let trusted = peers(trusted);
        let input = PlanInput {
            existing: &[],
            factor: ReplicationFactor::new(1, 2).unwrap(),
            names: &names,
            metrics,
            user_allocations: &[],
            blacklist: &[],
            trust,
        };
        match plan(input, |peer| trusted.contains(peer))? {
            Plan::Need(need, candidates) => Ok((need, candidates)),
            other => panic!("{other:?}"),
        }
    }

    fn chosen_from((_, candidates): (Need, Candidates)) -> Vec<PeerId> {
        candidates.candidates.into_keys().collect()
    }

    #[test]
    fn a_peer_that_lacks_one_metric_is_no_candidate() {
        let mut metrics = metrics_of(&[1]);
        metrics.push(metric(peer(2), "freespace", "1", 1, false));
        metrics.push(metric(peer(3), "tag:group", "1", 1, true));
        metrics.push(metric(peer(3), "ping", "", 0, false));
        assert_eq!(
            chosen_from(planned(metrics, &NAMES, TrustRule::Everybody, &[]).unwrap()),
            peers(&[1]),
            "two metrics are not enough when one has another name"
        );
    }

    #[test]
    fn an_allocator_without_metrics_chooses_from_all_that_have_any() {
        let metrics = vec![metric(peer(2), "ping", "", 0, false), metric(peer(1), "ping", "", 0, false)];
        assert_eq!(chosen_from(planned(metrics, &[], TrustRule::Everybody, &[]).unwrap()), peers(&[1, 2]));
    }

    #[test]
    fn trust_decides_where_the_configuration_says_so() {
        for (trust, expected) in [
            (TrustRule::Everybody, peers(&[1, 2, 3])),
            (TrustRule::OnlyTrusted, peers(&[2])),
            (TrustRule::OnlyUntrusted, peers(&[1, 3])),
        ] {
            assert_eq!(
                chosen_from(planned(metrics_of(&[1, 2, 3]), &NAMES, trust, &[2]).unwrap()),
                expected,
                "{trust:?}"
            );
        }
        assert!(planned(metrics_of(&[1]), &NAMES, TrustRule::OnlyTrusted, &[]).is_err());
        assert_eq!(TrustRule::new(true, true).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(TrustRule::new(true, false).unwrap(), TrustRule::OnlyTrusted);
    }

    fn need(min: usize, max: usize) -> Need {
        Need { min, max, current: peers(&[7]), eligible: peers(&[1, 2, 3]).into_iter().collect() }
    }

    #[test]
    fn filling_takes_the_best_after_those_that_stay() {
        assert_eq!(need(1, 2).fill(peers(&[3, 1, 2])).unwrap(), peers(&[7, 3, 1]));
        assert_eq!(need(1, 5).fill(peers(&[3])).unwrap(), peers(&[7, 3]));
    }

    #[test]
    fn an_allocator_that_leaves_too_few_is_told_with_the_references_text() {
        let error = need(2, 3).fill(peers(&[1])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotEnoughPeers);
        assert_eq!(
            error.to_string(),
            "not enough peers to allocate CID. Needed at least: 2. Wanted at most: 3. Available candidates: 1. See logs for more info."
        );
    }

    #[test]
    fn an_allocator_that_breaks_its_contract_is_an_internal_error() {
        for (ordered, says) in [(peers(&[1, 1]), "twice"), (peers(&[1, 9]), "no candidate")] {
            let error = need(1, 2).fill(ordered).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Internal);
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
