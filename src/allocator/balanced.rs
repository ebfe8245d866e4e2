//! Spreading over groups first, then by weight.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use multihash_codetable::{Code, MultihashDigest};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Candidates, PeerMetrics, PinAllocator};
use crate::config::ConfigSection;
use crate::error::{Error, Result};
use crate::types::{Cid, Metric, PeerId};

/// Most metrics that candidates are sorted by.
pub const ALLOCATE_BY_METRICS_MAX: usize = 16;

/// `allocator.balanced` of `service.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BalancedConfig {
    /// Metrics to sort by, the most important first. An empty list takes the default, as in the reference.
    #[serde(deserialize_with = "metrics_or_default")]
    pub allocate_by: Vec<String>,
}

impl Default for BalancedConfig {
    fn default() -> Self {
        Self { allocate_by: vec!["tag:group".to_owned(), "freespace".to_owned()] }
    }
}

fn metrics_or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let metrics = Vec::deserialize(deserializer)?;
    Ok(if metrics.is_empty() { BalancedConfig::default().allocate_by } else { metrics })
}

impl ConfigSection for BalancedConfig {
    const PATH: &'static str = "allocator.balanced";
    const ENV_PREFIX: &'static str = "CLUSTER_BALANCED_";

    fn validate(&self) -> Result<()> {
        let wrong = |why: String| {
            Err(Error::invalid_input(format!("metricalloc.allocate_by is invalid: {why}"))
                .component("allocator"))
        };
        if self.allocate_by.is_empty() {
            return wrong("name at least one metric, for example \"freespace\"".to_owned());
        }
        if self.allocate_by.len() > ALLOCATE_BY_METRICS_MAX {
            return wrong(format!("name at most {ALLOCATE_BY_METRICS_MAX} metrics"));
        }
        if self.allocate_by.iter().any(String::is_empty) {
            return wrong("a metric has an empty name".to_owned());
        }
        Ok(())
    }
}

/// Sorts candidates so that copies land in different groups where they can, and with the heaviest peers.
///
/// Peers are partitioned by the first metric: equal values are one partition when the metric is partitionable
/// (tags), otherwise each peer is its own. Each partition is sorted by the remaining metrics in the same way. Peers
/// are then taken one from each partition in turn, heaviest partition first, passing over those that are used up.
///
/// A partition's weight is the sum of its peers' weights. Among equal ones comes first the one whose own and
/// sub-partitions' weights add up to more, then the lower value. What is still equal is ordered by a hash of CID and
/// peer, so that peers that are alike share the pins.
#[derive(Clone, Debug)]
pub struct BalancedAllocator {
    by: Vec<String>,
}

impl BalancedAllocator {
    /// From configuration.
    ///
    /// # Errors
    /// `InvalidInput` naming the key.
    pub fn new(config: BalancedConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self::by(config.allocate_by))
    }

    /// By these metrics, the most important first. With none, the order is by hash alone.
    pub fn by<I>(metrics: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        // A second mention of a metric has nothing left to decide.
        let mut seen = BTreeSet::new();
        let by =
            metrics.into_iter().map(Into::into).filter(|name: &String| seen.insert(name.clone())).collect();
        Self { by }
    }

    /// The order of one class of peers. Peers that lack a metric are left out.
    fn sorted(&self, cid: &Cid, class: &BTreeMap<PeerId, PeerMetrics>) -> Vec<PeerId> {
        let peers: Vec<Entry<'_>> = class
            .iter()
            .filter_map(|(&peer, metrics)| {
                let metrics = self.by.iter().map(|name| metrics.get(name)).collect::<Option<_>>()?;
                Some(Entry { peer, lot: lot(cid, &peer), metrics })
            })
            .collect();
        round_robin(peers, 0).1
    }
}

impl Default for BalancedAllocator {
    fn default() -> Self {
        Self::by(BalancedConfig::default().allocate_by)
    }
}

#[async_trait]
impl PinAllocator for BalancedAllocator {
    fn metrics(&self) -> &[String] {
        &self.by
    }

    async fn allocate(&self, cid: &Cid, candidates: Candidates) -> Result<Vec<PeerId>> {
        let mut order = self.sorted(cid, &candidates.priority);
        order.extend(self.sorted(cid, &candidates.candidates));
        Ok(order)
    }
}

/// Decides between peers that are alike; another order for each CID.
type Lot = [u8; 8];

fn lot(cid: &Cid, peer: &PeerId) -> Lot {
    let digest = Code::Blake2b256.digest(&[cid.to_bytes(), peer.to_bytes()].concat());
    let mut lot = Lot::default();
    lot.copy_from_slice(&digest.digest()[..size_of::<Lot>()]);
    lot
}

struct Entry<'a> {
    peer: PeerId,
    lot: Lot,
    /// In the order of the allocator's metrics.
    metrics: Vec<&'a Metric>,
}

struct Partition<'a> {
    value: &'a str,
    peers: Vec<Entry<'a>>,
}

/// Sums of weights do not overflow in these.
type Weight = i128;

/// The order of these peers by the metrics from `level` on, and their added-up weights of all these levels.
fn round_robin(mut peers: Vec<Entry<'_>>, level: usize) -> (Weight, Vec<PeerId>) {
    if peers.first().is_none_or(|entry| level == entry.metrics.len()) {
        peers.sort_unstable_by_key(|entry| (entry.lot, entry.peer));
        return (0, peers.into_iter().map(|entry| entry.peer).collect());
    }

    let mut total = 0;
    let mut sorted: Vec<_> = partitions(peers, level)
        .into_iter()
        .map(|partition| {
            let weight: Weight =
                partition.peers.iter().map(|entry| Weight::from(entry.metrics[level].weight)).sum();
            let lot = partition.peers.iter().map(|entry| (entry.lot, entry.peer)).min();
            let (below, order) = round_robin(partition.peers, level + 1);
            total += weight + below;
            ((Reverse(weight), Reverse(weight + below), partition.value, lot), order.into_iter())
        })
        .collect();
    sorted.sort_unstable_by_key(|(key, _)| *key);

    let mut turns: Vec<_> = sorted.into_iter().map(|(_, order)| order).collect();
    let mut order = Vec::with_capacity(turns.iter().map(ExactSizeIterator::len).sum());
    while !turns.is_empty() {
        turns.retain_mut(|peers| peers.next().map(|peer| order.push(peer)).is_some());
    }
    (total, order)
}

fn partitions(peers: Vec<Entry<'_>>, level: usize) -> Vec<Partition<'_>> {
    let mut alone = Vec::new();
    let mut shared: BTreeMap<&str, Vec<Entry<'_>>> = BTreeMap::new();
    for entry in peers {
        let metric = entry.metrics[level];
        if metric.partitionable {
            shared.entry(&metric.value).or_default().push(entry);
        } else {
            alone.push(Partition { value: &metric.value, peers: vec![entry] });
        }
    }
    alone.extend(shared.into_iter().map(|(value, peers)| Partition { value, peers }));
    alone
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::allocator::test_peers::{metric, peer};
    use crate::config::testing::{assert_default_reads_back, section, with};
    use crate::types::Block;

    fn cid(number: u32) -> Cid {
        Block::raw(number.to_be_bytes().to_vec()).cid
    }

    fn metrics(list: &[(&str, &str, i64, bool)], of: PeerId) -> PeerMetrics {
        list.iter()
            .map(|&(name, value, weight, partitionable)| {
                (name.to_owned(), metric(of, name, value, weight, partitionable))
            })
            .collect()
    }

    /// Peers of one class with their tags and free space.
    fn class(peers: &[(u8, &[&str], i64)]) -> BTreeMap<PeerId, PeerMetrics> {
        peers
            .iter()
            .map(|&(number, tags, free)| {
                let names = ["tag:region", "tag:zone"];
                let free_text = free.to_string();
                let mut list: Vec<_> =
                    names.into_iter().zip(tags).map(|(name, &tag)| (name, tag, 0, true)).collect();
                list.push(("freespace", &free_text, free, false));
                (peer(number), metrics(&list, peer(number)))
            })
            .collect()
    }

    fn allocate(by: &[&str], cid: &Cid, candidates: Candidates) -> Vec<PeerId> {
        BalancedAllocator::by(by.iter().copied()).allocate(cid, candidates).now_or_never().unwrap().unwrap()
    }

    fn numbers(order: &[PeerId]) -> Vec<u8> {
        order.iter().map(|found| (0..60).find(|&number| peer(number) == *found).unwrap()).collect()
    }

    #[test]
    fn each_arrangement_gives_its_order() {
        struct Row {
            case: &'static str,
            by: &'static [&'static str],
            peers: &'static [(u8, &'static [&'static str], i64)],
            order: &'static [u8],
        }
        for row in [
            Row { case: "nobody", by: &["freespace"], peers: &[], order: &[] },
            Row {
                case: "by weight alone, most first",
                by: &["freespace"],
                peers: &[(1, &[], 10), (2, &[], 30), (3, &[], 20)],
                order: &[2, 3, 1],
            },
            Row {
                case: "equal values of a metric that is not partitionable do not add up",
                by: &["freespace"],
                peers: &[(1, &[], 200), (2, &[], 101), (3, &[], 100), (4, &[], 101)],
                order: &[1, 2, 4, 3],
            },
            Row {
                case: "regions in turn, the one with most space first, its roomiest peer first",
                by: &["tag:region", "freespace"],
                peers: &[
                    (1, &["eu"], 10),
                    (2, &["eu"], 30),
                    (3, &["us"], 25),
                    (4, &["us"], 5),
                    (5, &["eu"], 20),
                ],
                order: &[2, 3, 5, 4, 1],
            },
            Row {
                case: "a region that is used up is passed over",
                by: &["tag:region", "freespace"],
                peers: &[
                    (1, &["as"], 1),
                    (2, &["eu"], 30),
                    (3, &["eu"], 29),
                    (4, &["eu"], 28),
                    (5, &["us"], 20),
                ],
                order: &[2, 5, 1, 3, 4],
            },
            Row {
                case: "regions of equal space go by name",
                by: &["tag:region", "freespace"],
                peers: &[(1, &["us"], 9), (2, &["eu"], 10), (3, &["us"], 6), (4, &["eu"], 5)],
                order: &[2, 1, 4, 3],
            },
            Row {
                case: "zones inside of regions",
                by: &["tag:region", "tag:zone", "freespace"],
                peers: &[
                    (1, &["eu", "a"], 50),
                    (2, &["eu", "a"], 40),
                    (3, &["eu", "b"], 30),
                    (4, &["us", "a"], 20),
                    (5, &["us", "b"], 25),
                    (6, &["us", "b"], 10),
                ],
                order: &[1, 5, 3, 4, 2, 6],
            },
            Row {
                case: "the order of metrics matters",
                by: &["freespace", "tag:region"],
                peers: &[(1, &["eu"], 50), (2, &["eu"], 40), (3, &["us"], 30)],
                order: &[1, 2, 3],
            },
            Row {
                case: "negative weights (repository sizes, queues)",
                by: &["freespace"],
                peers: &[(1, &[], -10), (2, &[], -30), (3, &[], 0)],
                order: &[3, 1, 2],
            },
            Row {
                case: "weights whose sum is over 64 bits",
                by: &["tag:region", "freespace"],
                peers: &[(1, &["eu"], i64::MAX), (2, &["eu"], i64::MAX - 1), (3, &["us"], i64::MAX - 2)],
                order: &[1, 3, 2],
            },
        ] {
            let mut candidates = Candidates::new();
            candidates.candidates = class(row.peers);
            let order = numbers(&allocate(row.by, &cid(1), candidates));
            // Peers of equal weight come in an order of their own for each CID; here only their place counts.
            let by_rank = |order: &[u8]| -> Vec<i64> {
                let free = |number: &u8| row.peers.iter().find(|peer| peer.0 == *number).unwrap().2;
                order.iter().map(free).collect()
            };
            if row.peers.iter().map(|peer| peer.2).collect::<BTreeSet<_>>().len() == row.peers.len() {
                assert_eq!(order, row.order, "{}", row.case);
            } else {
                assert_eq!(by_rank(&order), by_rank(row.order), "{}: {order:?}", row.case);
            }
        }
    }

    #[test]
    fn peers_the_user_asked_for_come_first_and_each_class_is_sorted_by_itself() {
        let mut candidates = Candidates::new();
        candidates.priority = class(&[(1, &["eu"], 1), (2, &["us"], 2)]);
        candidates.candidates = class(&[(3, &["eu"], 30), (4, &["eu"], 40), (5, &["us"], 50)]);
        candidates.current = class(&[(6, &["as"], 60)]);
        assert_eq!(numbers(&allocate(&["tag:region", "freespace"], &cid(1), candidates)), [2, 1, 4, 5, 3]);
    }

    #[test]
    fn a_peer_that_lacks_a_metric_is_left_out() {
        let mut candidates = Candidates::new();
        candidates.candidates = class(&[(1, &["eu"], 1), (2, &[], 2)]);
        assert_eq!(numbers(&allocate(&["tag:region", "freespace"], &cid(1), candidates)), [1]);
    }

    #[test]
    fn peers_that_are_alike_share_the_pins() {
        const PINS: u32 = 300;
        let peers: Vec<_> = (1..=5).map(|number| (number, ["eu"].as_slice(), 10)).collect();
        let mut firsts = BTreeMap::<u8, u32>::new();
        for number in 0..PINS {
            let mut candidates = Candidates::new();
            candidates.candidates = class(&peers);
            *firsts
                .entry(numbers(&allocate(&["tag:region", "freespace"], &cid(number), candidates))[0])
                .or_default() += 1;
        }
        // 60 each on average; the hash is fixed, so this cannot fail by chance later.
        assert!(firsts.len() == 5 && firsts.values().all(|&pins| pins > 30), "{firsts:?}");
    }

    #[test]
    fn configuration_defaults_and_refusals_are_the_references() {
        assert_eq!(BalancedConfig::default().allocate_by, ["tag:group", "freespace"]);
        assert_default_reads_back::<BalancedConfig>();
        for file in [json!({}), json!({"allocate_by": []}), json!({"allocate_by": null})] {
            assert_eq!(section::<BalancedConfig>(file), BalancedConfig::default());
        }
        let variable = ("CLUSTER_BALANCED_ALLOCATEBY", "freespace");
        let balanced = with::<BalancedConfig>(json!(null), &[variable]).unwrap().section;
        assert_eq!(balanced.allocate_by, ["freespace"]);
        for metrics in [vec![], vec![String::new()], vec!["x".to_owned(); ALLOCATE_BY_METRICS_MAX + 1]] {
            let error = BalancedAllocator::new(BalancedConfig { allocate_by: metrics }).unwrap_err();
            assert!(error.to_string().starts_with("metricalloc.allocate_by is invalid: "), "{error}");
        }
        assert_eq!(BalancedAllocator::default().metrics(), ["tag:group", "freespace"]);
        assert_eq!(BalancedAllocator::by(["a", "b", "a"]).metrics(), ["a", "b"]);
    }

    type Shape = Vec<(u8, u8, i64, bool)>;

    fn shaped(shape: &Shape, first: u8) -> BTreeMap<PeerId, PeerMetrics> {
        shape
            .iter()
            .zip(first..)
            .map(|(&(region, value, weight, partitionable), number)| {
                let (region, value) = (region.to_string(), value.to_string());
                let list =
                    [("tag:region", region.as_str(), 0, true), ("x", value.as_str(), weight, partitionable)];
                (peer(number), metrics(&list, peer(number)))
            })
            .collect()
    }

    fn shape() -> impl Strategy<Value = Shape> {
        proptest::collection::vec((0u8..4, 0u8..4, -3i64..3, any::<bool>()), 0..12)
    }

    proptest! {
        #[test]
        fn any_candidates_are_all_given_once_priority_first_and_always_alike(
            current in shape(), priority in shape(), others in shape(), number in any::<u32>(),
        ) {
            let mut candidates = Candidates::new();
            candidates.current = shaped(&current, 0);
            candidates.priority = shaped(&priority, 20);
            candidates.candidates = shaped(&others, 40);
            let order = allocate(&["tag:region", "x"], &cid(number), candidates.clone());
            prop_assert_eq!(&order, &allocate(&["tag:region", "x"], &cid(number), candidates.clone()));

            let (first, rest) = order.split_at(candidates.priority.len());
            let same = |given: &[PeerId], class: &BTreeMap<PeerId, PeerMetrics>| {
                given.len() == class.len() && given.iter().collect::<BTreeSet<_>>() == class.keys().collect()
            };
            prop_assert!(same(first, &candidates.priority));
            prop_assert!(same(rest, &candidates.candidates));

            // As many different regions as there are, before any comes twice.
            let region = |peer: &PeerId| candidates.candidates[peer]["tag:region"].value.clone();
            let regions = candidates.candidates.keys().map(region).collect::<BTreeSet<_>>().len();
            prop_assert_eq!(rest.iter().take(regions).map(region).collect::<BTreeSet<_>>().len(), regions);
        }
    }
}
