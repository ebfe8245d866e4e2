//! When a metric that stopped coming becomes an alert. Pure: no clock, no tasks.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{Alert, Metric, PeerId, Timestamp};

/// Which peers and names were alerted and not heard of since.
#[derive(Debug, Default)]
pub(super) struct Failures {
    alerted: BTreeMap<PeerId, BTreeSet<String>>,
}

impl Failures {
    /// Alerts for those latest metrics that expired and were not alerted yet.
    pub(super) fn check<'a>(
        &mut self,
        latest: impl IntoIterator<Item = &'a Metric>,
        now: Timestamp,
    ) -> Vec<Alert> {
        let mut alerts = Vec::new();
        for metric in latest {
            if metric.is_expired(now) && !self.has_alerted(metric) {
                self.alerted.entry(metric.peer).or_default().insert(metric.name.clone());
                alerts.push(Alert { metric: metric.clone(), triggered_at: now });
            }
        }
        alerts
    }

    /// A usable metric ends the silence; one that is invalid or came too late does not.
    pub(super) fn received(&mut self, metric: &Metric, now: Timestamp) {
        if !metric.is_usable(now) {
            return;
        }
        if let Some(names) = self.alerted.get_mut(&metric.peer) {
            names.remove(&metric.name);
            if names.is_empty() {
                self.alerted.remove(&metric.peer);
            }
        }
    }

    /// Whether the silence of this metric's peer and name was alerted.
    pub(super) fn has_alerted(&self, metric: &Metric) -> bool {
        self.alerted.get(&metric.peer).is_some_and(|names| names.contains(&metric.name))
    }

    pub(super) fn forget(&mut self, peer: &PeerId) {
        self.alerted.remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::super::window::tests::{metric, peer};
    use super::*;

    fn at(nanoseconds: i64) -> Timestamp {
        Timestamp::from_unix_nanoseconds(nanoseconds)
    }

    fn alerted(failures: &mut Failures, latest: &[Metric], now: i64) -> Vec<(String, PeerId)> {
        let alerts = failures.check(latest, at(now)).into_iter();
        alerts.map(|alert| (alert.metric.name, alert.metric.peer)).collect()
    }

    #[test]
    fn a_silence_is_alerted_once_until_a_usable_metric_comes() {
        let mut failures = Failures::default();
        let ping = |expire| metric("ping", 1, "", expire);
        let found = vec![("ping".to_owned(), peer(1))];
        let none = Vec::new();

        assert_eq!(alerted(&mut failures, &[ping(10)], 10), none, "true until its time has passed");
        assert_eq!(alerted(&mut failures, &[ping(10)], 11), found);
        assert_eq!(alerted(&mut failures, &[ping(10)], 12), none);

        failures.received(&ping(11), at(12));
        assert_eq!(alerted(&mut failures, &[ping(11)], 12), none, "it came too late to count");
        let mut invalid = ping(20);
        invalid.valid = false;
        failures.received(&invalid, at(12));
        assert_eq!(alerted(&mut failures, &[invalid], 21), none, "an invalid one does not count");

        failures.received(&ping(30), at(22));
        assert_eq!(alerted(&mut failures, &[ping(30)], 25), none);
        assert_eq!(alerted(&mut failures, &[ping(30)], 31), found);
        assert_eq!(failures.alerted.len(), 1);
    }

    #[test]
    fn each_peer_and_name_is_alerted_for_itself() {
        let mut failures = Failures::default();
        let latest = [metric("ping", 1, "", 10), metric("ping", 2, "", 20), metric("x", 1, "", 20)];
        assert_eq!(alerted(&mut failures, &latest, 11), [("ping".to_owned(), peer(1))]);
        assert_eq!(
            alerted(&mut failures, &latest, 21),
            [("ping".to_owned(), peer(2)), ("x".to_owned(), peer(1))]
        );
        failures.received(&metric("ping", 1, "", 99), at(22));
        assert!(!failures.has_alerted(&latest[0]) && failures.has_alerted(&latest[2]));
        failures.forget(&peer(1));
        assert!(!failures.has_alerted(&latest[2]) && failures.has_alerted(&latest[1]));
    }

    #[test]
    fn an_alert_carries_the_last_metric_and_the_time() {
        let last = metric("ping", 1, "last words", 10);
        let alerts = Failures::default().check([&last], at(11));
        assert_eq!(alerts, [Alert { metric: last, triggered_at: at(11) }]);
    }
}
