//! The metrics that are known: the last few of each peer and name.
//!
//! Metrics come from the network, so everything here has a bound.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use crate::error::{Error, ErrorKind, Result};
use crate::types::{Metric, PeerId, Timestamp};

/// Most metrics that are kept of one peer under one name.
pub const WINDOW_METRICS_MAX: usize = 25;
/// Most bytes of names and values that are kept of one peer under one name; the latest metric is always kept.
pub const WINDOW_BYTES_MAX: usize = 16 * 1024;
/// Longest name of a metric, in bytes.
pub const METRIC_NAME_BYTES_MAX: usize = 256;
/// Longest value of a metric, in bytes (a ping carries the addresses of a daemon).
pub const METRIC_VALUE_BYTES_MAX: usize = 16 * 1024;
/// Most peers whose metrics are kept.
pub const PEERS_MAX: usize = 1_024;
/// Most names of metrics.
pub const NAMES_MAX: usize = 256;
/// Most pairs of peer and name.
pub const SERIES_MAX: usize = 16_384;

/// The last metrics of one peer under one name, oldest first. Never empty.
#[derive(Debug, Default)]
struct Window {
    metrics: VecDeque<Metric>,
    bytes: usize,
}

impl Window {
    fn push(&mut self, metric: Metric) {
        self.bytes += size(&metric);
        self.metrics.push_back(metric);
        while self.metrics.len() > WINDOW_METRICS_MAX
            || (self.bytes > WINDOW_BYTES_MAX && self.metrics.len() > 1)
        {
            self.bytes -= self.metrics.pop_front().as_ref().map_or(0, size);
        }
    }
}

fn size(metric: &Metric) -> usize {
    metric.name.len() + metric.value.len()
}

/// The windows of all peers and names.
#[derive(Debug, Default)]
pub(super) struct Windows {
    by_name: BTreeMap<String, BTreeMap<PeerId, Window>>,
    /// Under how many names each peer is known.
    names_of: BTreeMap<PeerId, usize>,
    series: usize,
}

impl Windows {
    /// Takes a metric in as the latest of its peer and name.
    ///
    /// # Errors
    /// `InvalidInput` for one that can never be taken in; `QueueFull` for a new peer or name too many.
    pub(super) fn add(&mut self, metric: Metric) -> Result<()> {
        validate(&metric)?;
        if let Some(window) = self.by_name.get_mut(&metric.name).and_then(|peers| peers.get_mut(&metric.peer))
        {
            window.push(metric);
            return Ok(());
        }
        let full = |what: &str, max: usize| {
            Err(Error::new(
                ErrorKind::QueueFull,
                format!(
                    "metric {:?} of {} dropped: {max} {what} are known already, as many as are kept; forget peers that left",
                    metric.name, metric.peer
                ),
            )
            .component("monitor"))
        };
        if self.series >= SERIES_MAX {
            return full("pairs of peer and metric", SERIES_MAX);
        }
        if self.names_of.len() >= PEERS_MAX && !self.names_of.contains_key(&metric.peer) {
            return full("peers", PEERS_MAX);
        }
        if self.by_name.len() >= NAMES_MAX && !self.by_name.contains_key(&metric.name) {
            return full("metrics", NAMES_MAX);
        }
        self.series += 1;
        *self.names_of.entry(metric.peer).or_default() += 1;
        let peers = self.by_name.entry(metric.name.clone()).or_default();
        peers.entry(metric.peer).or_default().push(metric);
        Ok(())
    }

    /// The latest of each peer under a name, those that are usable, in order of peers.
    pub(super) fn usable(&self, name: &str, now: Timestamp) -> Vec<Metric> {
        let peers = self.by_name.get(name).into_iter().flat_map(BTreeMap::values);
        let latest = peers.filter_map(|window| window.metrics.back());
        latest.filter(|metric| metric.is_usable(now)).cloned().collect()
    }

    pub(super) fn latest_for(&self, name: &str, peer: &PeerId) -> Option<&Metric> {
        self.by_name.get(name)?.get(peer)?.metrics.back()
    }

    /// What is kept of one peer under one name, latest first.
    pub(super) fn history(&self, name: &str, peer: &PeerId) -> Vec<Metric> {
        let window = self.by_name.get(name).and_then(|peers| peers.get(peer));
        window.into_iter().flat_map(|window| window.metrics.iter().rev()).cloned().collect()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.by_name.keys().cloned().collect()
    }

    /// The latest of every peer and name.
    pub(super) fn all_latest(&self) -> impl Iterator<Item = &Metric> {
        self.by_name.values().flat_map(BTreeMap::values).filter_map(|window| window.metrics.back())
    }

    pub(super) fn forget(&mut self, peer: &PeerId) {
        if let Some(names) = self.names_of.remove(peer) {
            self.series -= names;
            self.by_name.retain(|_, peers| {
                peers.remove(peer);
                !peers.is_empty()
            });
        }
    }

    /// The peer that is the longest gone, of those that have only metrics that pass `is_gone`.
    pub(super) fn longest_gone(&self, is_gone: impl Fn(&Metric) -> bool) -> Option<PeerId> {
        // For each peer, when it last was true; none once something of it is not gone.
        let mut gone: BTreeMap<PeerId, Option<i64>> = BTreeMap::new();
        for metric in self.all_latest() {
            let expire = is_gone(metric).then_some(metric.expire);
            match gone.entry(metric.peer) {
                Entry::Vacant(entry) => {
                    entry.insert(expire);
                }
                Entry::Occupied(mut entry) => {
                    let known = entry.get_mut();
                    *known = known.zip(expire).map(|(one, other)| one.max(other));
                }
            }
        }
        let candidates = gone.into_iter().filter_map(|(peer, expire)| Some((expire?, peer)));
        candidates.min().map(|(_, peer)| peer)
    }
}

/// Refuses what can never be taken in.
pub(super) fn validate(metric: &Metric) -> Result<()> {
    let wrong = |text: String| Err(Error::invalid_input(text).component("monitor"));
    if metric.name.is_empty() {
        return wrong(format!("a metric of {} has no name", metric.peer));
    }
    if metric.name.len() > METRIC_NAME_BYTES_MAX {
        return wrong(format!(
            "a metric of {} has a name of {} bytes, at most {METRIC_NAME_BYTES_MAX} are possible",
            metric.peer,
            metric.name.len()
        ));
    }
    if metric.value.len() > METRIC_VALUE_BYTES_MAX {
        return wrong(format!(
            "metric {:?} of {} has a value of {} bytes, at most {METRIC_VALUE_BYTES_MAX} are possible",
            metric.name,
            metric.peer,
            metric.value.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use libp2p_identity::PeerId;

    use super::*;

    /// Peers in the order of their numbers, cheaply.
    pub(in super::super) fn peer(number: u32) -> PeerId {
        // Multihash "identity" over 4 bytes: a valid id, though nobody has its key.
        let bytes = [[0, 4].as_slice(), &number.to_be_bytes()].concat();
        PeerId::from_bytes(&bytes).unwrap()
    }

    pub(in super::super) fn metric(name: &str, number: u32, value: &str, expire: i64) -> Metric {
        Metric {
            name: name.to_owned(),
            peer: peer(number),
            value: value.to_owned(),
            expire,
            valid: true,
            weight: 0,
            partitionable: false,
            received_at: 0,
        }
    }

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn values(metrics: Vec<Metric>) -> Vec<String> {
        metrics.into_iter().map(|metric| metric.value).collect()
    }

    #[test]
    fn the_last_25_are_kept_and_the_last_one_counts() {
        let mut windows = Windows::default();
        for number in 0..100 {
            windows.add(metric("x", 1, &number.to_string(), 100 - number)).unwrap();
        }
        let history = windows.history("x", &peer(1));
        assert_eq!(history.len(), WINDOW_METRICS_MAX);
        assert_eq!((history[0].value.as_str(), history[24].value.as_str()), ("99", "75"));
        assert_eq!(values(windows.usable("x", NOW)), ["99"]);
        assert_eq!(windows.latest_for("x", &peer(1)).unwrap().value, "99");
        assert!(windows.history("x", &peer(2)).is_empty() && windows.history("y", &peer(1)).is_empty());
    }

    #[test]
    fn long_values_shorten_the_window_but_never_take_the_latest() {
        let mut windows = Windows::default();
        let long = "v".repeat(METRIC_VALUE_BYTES_MAX);
        for value in ["short", &long, "short", &long] {
            windows.add(metric("x", 1, value, 1)).unwrap();
        }
        assert_eq!(values(windows.history("x", &peer(1))), [long]);
    }

    #[test]
    fn only_usable_metrics_are_given_in_order_of_peers() {
        let mut windows = Windows::default();
        let mut invalid = metric("x", 4, "invalid", 10);
        invalid.valid = false;
        for metric in
            [metric("x", 3, "three", 10), metric("x", 1, "one", 10), metric("x", 2, "old", -1), invalid]
        {
            windows.add(metric).unwrap();
        }
        assert_eq!(values(windows.usable("x", NOW)), ["one", "three"]);
        assert_eq!(windows.latest_for("x", &peer(2)).unwrap().value, "old");
        assert_eq!(windows.all_latest().count(), 4);
    }

    #[test]
    fn what_can_never_be_kept_is_refused_by_name() {
        let mut windows = Windows::default();
        for (bad, says) in [
            (metric("", 1, "", 1), "no name"),
            (metric(&"n".repeat(METRIC_NAME_BYTES_MAX + 1), 1, "", 1), "257 bytes"),
            (metric("x", 1, &"v".repeat(METRIC_VALUE_BYTES_MAX + 1), 1), "16385 bytes"),
        ] {
            let error = windows.add(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(says), "{error}");
        }
        assert_eq!(windows.all_latest().count(), 0);
    }

    fn refused(windows: &mut Windows, metric: Metric) -> bool {
        windows.add(metric).is_err_and(|error| error.kind() == ErrorKind::QueueFull)
    }

    #[test]
    fn peers_names_and_pairs_are_bounded_and_known_ones_still_get_through() {
        let mut windows = Windows::default();
        for number in 0..PEERS_MAX as u32 {
            windows.add(metric("x", number, "", 1)).unwrap();
        }
        assert!(refused(&mut windows, metric("x", u32::MAX, "", 1)));
        windows.add(metric("x", 7, "still heard", 1)).unwrap();
        windows.forget(&peer(8));
        windows.add(metric("x", u32::MAX, "", 1)).unwrap();

        let mut windows = Windows::default();
        for number in 0..NAMES_MAX {
            windows.add(metric(&number.to_string(), 1, "", 1)).unwrap();
        }
        assert!(refused(&mut windows, metric("x", 1, "", 1)));
        windows.add(metric("7", 2, "", 1)).unwrap();

        let mut windows = Windows::default();
        for number in 0..SERIES_MAX as u32 {
            windows.add(metric(&(number % 64).to_string(), number / 64, "", 1)).unwrap();
        }
        assert!(refused(&mut windows, metric("64", 1, "", 1)));
        assert_eq!(windows.series, windows.all_latest().count());
        windows.forget(&peer(0));
        assert_eq!(windows.series, windows.all_latest().count());
    }

    #[test]
    fn forgetting_a_peer_leaves_nothing_of_it() {
        let mut windows = Windows::default();
        for (name, number) in [("x", 1), ("x", 2), ("y", 1)] {
            windows.add(metric(name, number, "", 1)).unwrap();
        }
        windows.forget(&peer(1));
        windows.forget(&peer(9));
        assert_eq!(windows.names(), ["x"]);
        assert_eq!(windows.all_latest().count(), 1);
    }

    #[test]
    fn the_peer_that_is_longest_gone_has_nothing_that_lives() {
        let mut windows = Windows::default();
        for (name, number, expire) in
            [("x", 1, -50), ("y", 1, 10), ("x", 2, -40), ("y", 2, -20), ("x", 3, -30), ("x", 4, 10)]
        {
            windows.add(metric(name, number, "", expire)).unwrap();
        }
        assert_eq!(windows.longest_gone(|metric| metric.is_expired(NOW)), Some(peer(3)));
        windows.forget(&peer(3));
        assert_eq!(windows.longest_gone(|metric| metric.is_expired(NOW)), Some(peer(2)));
        windows.forget(&peer(2));
        assert_eq!(windows.longest_gone(|metric| metric.is_expired(NOW)), None);
    }
}
