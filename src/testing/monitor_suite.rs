//! Conformance suite of [`Monitor`].
//!
//! ```text
//! struct Mine;
//! #[async_trait]
//! impl monitor_suite::Fixture for Mine {
//!     type Guard = ();
//!     async fn monitor(&self, clock: Arc<dyn WallClock>) -> ((), Arc<dyn Monitor>) { … }
//! }
//! ipfs_cluster::monitor_conformance!(mine, Mine);
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used)] // A case fails by panicking.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::BoxStream;
use tokio::time::{sleep, timeout};

use super::peer;
use crate::clock::{TokioClock, WallClock};
use crate::error::ErrorKind;
use crate::monitor::{Monitor, MonitorEvent};
use crate::types::{Alert, Metric, Timestamp};

/// Makes the monitor under test.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// Cleans up when it is dropped at the end of a case.
    type Guard: Send;

    /// A monitor that knows nothing yet, and looks for expired metrics at least once in [`CHECK_INTERVAL_MAX`].
    async fn monitor(&self, clock: Arc<dyn WallClock>) -> (Self::Guard, Arc<dyn Monitor>);
}

/// The same implementation behind one more `Arc`.
#[derive(Debug)]
pub struct Forwarded<F>(pub F);

#[async_trait]
impl<F: Fixture> Fixture for Forwarded<F> {
    type Guard = F::Guard;

    async fn monitor(&self, clock: Arc<dyn WallClock>) -> (F::Guard, Arc<dyn Monitor>) {
        let (guard, monitor) = self.0.monitor(clock).await;
        (guard, Arc::new(monitor))
    }
}

conformance_suite!($ monitor_suite, monitor_conformance, run_paused_case, [
    a_published_metric_is_known_here,
    a_recorded_metric_says_when_it_came,
    latest_gives_one_usable_metric_of_each_peer_in_order,
    an_expired_metric_is_not_among_the_latest_but_known,
    an_invalid_metric_hides_the_valid_one_before_it,
    the_last_one_taken_in_is_the_latest,
    names_are_given_in_order,
    what_nobody_measured_is_an_empty_answer,
    a_metric_without_a_name_is_refused,
    a_metric_that_expires_is_alerted_once,
    after_a_valid_metric_the_next_silence_is_alerted_again,
    a_metric_that_keeps_coming_is_never_alerted,
    every_reader_gets_every_alert,
    alerts_begin_with_the_reader,
    a_reader_that_does_not_read_holds_nobody_up,
    a_forgotten_peer_raises_no_alert,
    a_flood_of_unknown_peers_does_not_silence_known_ones,
    alerts_end_with_the_shutdown,
    every_shutdown_returns_and_calls_after_it_are_refused,
]);

/// Longest time between two looks for expired metrics.
pub const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// On paused time this is only reached by what will never happen.
const WAIT: Duration = Duration::from_secs(600);
const TTL: Duration = Duration::from_secs(30);
const UNKNOWN_PEERS: u64 = 5_000;
const UNREAD_ALERTS: u64 = 1_000;

async fn monitor<F: Fixture>(fixture: &F) -> (F::Guard, Arc<dyn Monitor>, Arc<dyn WallClock>) {
    let start = Timestamp::from_unix_seconds(1_700_000_000);
    let clock: Arc<dyn WallClock> = Arc::new(TokioClock::starting_at(start));
    let (guard, monitor) = fixture.monitor(clock.clone()).await;
    (guard, monitor, clock)
}

/// A valid metric that expires in [`TTL`].
fn metric(clock: &Arc<dyn WallClock>, name: &str, number: u64, value: &str) -> Metric {
    Metric {
        name: name.to_owned(),
        peer: peer(number),
        value: value.to_owned(),
        expire: (clock.now() + TTL).unix_nanoseconds(),
        valid: true,
        weight: 1,
        partitionable: false,
        received_at: 0,
    }
}

fn values(metrics: &[Metric]) -> Vec<&str> {
    metrics.iter().map(|metric| metric.value.as_str()).collect()
}

async fn next_event(events: &mut BoxStream<'static, MonitorEvent>) -> MonitorEvent {
    timeout(WAIT, events.next()).await.expect("no alert came").expect("the alerts ended")
}

async fn next_alert(events: &mut BoxStream<'static, MonitorEvent>) -> Alert {
    match next_event(events).await {
        MonitorEvent::Alert(alert) => alert,
        MonitorEvent::Resync => panic!("alerts were dropped for a reader that reads"),
    }
}

/// Long enough for every expired metric to be alerted.
async fn no_alert_comes(alerts: &mut BoxStream<'static, MonitorEvent>) {
    if let Ok(alert) = timeout(3 * CHECK_INTERVAL_MAX, alerts.next()).await {
        panic!("{alert:?}");
    }
}

/// Whatever way it travels, a peer counts itself.
pub async fn a_published_metric_is_known_here(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    let sent = metric(&clock, "x", 1, "7");
    monitor.publish(sent.clone()).await.unwrap();
    let known = timeout(WAIT, async {
        loop {
            if let Some(known) = monitor.latest_for("x", &peer(1)) {
                return known;
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    let known = known.await.expect("a published metric came back");
    assert_eq!(Metric { received_at: 0, ..known }, sent);
}

/// The time is the receiver's; what the sender says is ignored.
pub async fn a_recorded_metric_says_when_it_came(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    let sent = Metric { received_at: 42, ..metric(&clock, "x", 1, "7") };
    monitor.record(sent.clone()).await.unwrap();
    let known = monitor.latest_for("x", &peer(1)).unwrap();
    assert_eq!(known.received_at, clock.now().unix_nanoseconds());
    assert_eq!(Metric { received_at: 42, ..known.clone() }, sent);
    assert_eq!(monitor.latest("x"), [known]);
}

/// Allocation and membership rely on the order being the same everywhere.
pub async fn latest_gives_one_usable_metric_of_each_peer_in_order(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    for round in ["old", "new"] {
        for number in (0..20).rev() {
            monitor.record(metric(&clock, "x", number, round)).await.unwrap();
        }
    }
    monitor.record(metric(&clock, "y", 99, "other")).await.unwrap();
    let latest = monitor.latest("x");
    assert_eq!(values(&latest), ["new"; 20]);
    assert!(latest.is_sorted_by_key(|metric| metric.peer));
    for metric in latest {
        assert_eq!(monitor.latest_for("x", &metric.peer), Some(metric));
    }
}

/// Who is silent is no candidate, but one can still see what it last said.
pub async fn an_expired_metric_is_not_among_the_latest_but_known(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    monitor.record(metric(&clock, "x", 1, "7")).await.unwrap();
    sleep(TTL).await;
    assert_eq!(values(&monitor.latest("x")), ["7"], "true until its time has passed");
    sleep(Duration::from_secs(1)).await;
    assert!(monitor.latest("x").is_empty());
    assert_eq!(monitor.latest_for("x", &peer(1)).unwrap().value, "7");
}

/// A peer that says it cannot measure is no candidate, even if it could a moment ago.
pub async fn an_invalid_metric_hides_the_valid_one_before_it(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    monitor.record(metric(&clock, "x", 1, "7")).await.unwrap();
    monitor.record(Metric { valid: false, ..metric(&clock, "x", 1, "?") }).await.unwrap();
    assert!(monitor.latest("x").is_empty());
    assert_eq!(monitor.latest_for("x", &peer(1)).unwrap().value, "?");
}

/// A restarted peer may have a shorter time to live, or a clock that was set back.
pub async fn the_last_one_taken_in_is_the_latest(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    let first = metric(&clock, "x", 1, "first");
    let last = Metric { expire: first.expire - 1_000, ..metric(&clock, "x", 1, "last") };
    monitor.record(first).await.unwrap();
    monitor.record(last).await.unwrap();
    assert_eq!(values(&monitor.latest("x")), ["last"]);
}

/// Shown to operators.
pub async fn names_are_given_in_order(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    for name in ["tag:b", "ping", "tag:a", "ping", "freespace"] {
        monitor.record(metric(&clock, name, 1, "")).await.unwrap();
    }
    assert_eq!(monitor.names(), ["freespace", "ping", "tag:a", "tag:b"]);
}

/// Not an error: the peer that measures may join later.
pub async fn what_nobody_measured_is_an_empty_answer(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    assert!(monitor.names().is_empty());
    monitor.record(metric(&clock, "x", 1, "")).await.unwrap();
    assert!(monitor.latest("y").is_empty());
    assert_eq!(monitor.latest_for("y", &peer(1)), None);
    assert_eq!(monitor.latest_for("x", &peer(2)), None);
    monitor.forget(&peer(3));
}

/// It could never be asked for.
pub async fn a_metric_without_a_name_is_refused(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    let nameless = metric(&clock, "", 1, "");
    assert_eq!(monitor.record(nameless.clone()).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(monitor.publish(nameless).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(monitor.names().is_empty());
}

/// One peer, one name, one alert; each name for itself.
pub async fn a_metric_that_expires_is_alerted_once(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    let mut alerts = monitor.events();
    for (name, number) in [("ping", 1), ("ping", 2), ("x", 1)] {
        monitor.record(metric(&clock, name, number, "last words")).await.unwrap();
    }
    let mut found = Vec::new();
    for _ in 0..3 {
        let alert = next_alert(&mut alerts).await;
        assert_eq!(alert.metric.value, "last words");
        assert!(alert.triggered_at > alert.metric.expires_at() && alert.triggered_at <= clock.now());
        found.push((alert.metric.name, alert.metric.peer));
    }
    found.sort();
    let mut expected =
        vec![("ping".to_owned(), peer(1)), ("ping".to_owned(), peer(2)), ("x".to_owned(), peer(1))];
    expected.sort();
    assert_eq!(found, expected);
    no_alert_comes(&mut alerts).await;
}

/// An invalid or late metric is no sign of health.
pub async fn after_a_valid_metric_the_next_silence_is_alerted_again(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    let mut alerts = monitor.events();
    monitor.record(metric(&clock, "x", 1, "first")).await.unwrap();
    assert_eq!(next_alert(&mut alerts).await.metric.value, "first");

    monitor.record(Metric { valid: false, ..metric(&clock, "x", 1, "invalid") }).await.unwrap();
    no_alert_comes(&mut alerts).await;
    monitor.record(Metric { expire: 1, ..metric(&clock, "x", 1, "late") }).await.unwrap();
    no_alert_comes(&mut alerts).await;

    monitor.record(metric(&clock, "x", 1, "second")).await.unwrap();
    assert_eq!(next_alert(&mut alerts).await.metric.value, "second");
}

/// As long as the next one comes in time.
pub async fn a_metric_that_keeps_coming_is_never_alerted(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    let mut alerts = monitor.events();
    for _ in 0..40 {
        monitor.record(metric(&clock, "x", 1, "alive")).await.unwrap();
        sleep(TTL / 2).await;
    }
    let alert = timeout(Duration::ZERO, alerts.next()).await;
    assert!(alert.is_err(), "{alert:?}");
}

/// The cluster and its users each have a stream.
pub async fn every_reader_gets_every_alert(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    let (mut one, mut other) = (monitor.events(), monitor.events());
    drop(monitor.events());
    for number in 0..5 {
        monitor.record(metric(&clock, "x", number, "")).await.unwrap();
    }
    for _ in 0..5 {
        assert_eq!(next_alert(&mut one).await, next_alert(&mut other).await);
    }
}

/// Nothing is repeated for those who come later.
pub async fn alerts_begin_with_the_reader(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    let mut first = monitor.events();
    monitor.record(metric(&clock, "x", 1, "")).await.unwrap();
    next_alert(&mut first).await;
    no_alert_comes(&mut monitor.events()).await;
}

/// More alerts than any buffer holds: some are lost to who does not read, who is told; nothing else stops.
pub async fn a_reader_that_does_not_read_holds_nobody_up(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    let mut unread = monitor.events();
    for number in 0..UNREAD_ALERTS {
        // As many as are taken in: the number of peers is bounded.
        if monitor.record(metric(&clock, "x", number, "")).await.is_err() {
            break;
        }
    }
    sleep(TTL + 2 * CHECK_INTERVAL_MAX).await;
    let mut read = monitor.events();
    monitor.record(metric(&clock, "x", 0, "after")).await.unwrap();
    assert_eq!(next_alert(&mut read).await.metric.value, "after");
    let mut is_told = false;
    loop {
        match next_event(&mut unread).await {
            MonitorEvent::Resync => is_told = true,
            MonitorEvent::Alert(alert) if alert.metric.value == "after" => break,
            MonitorEvent::Alert(_) => {}
        }
    }
    assert!(is_told, "who missed alerts has to know");
}

/// A peer that left is not a peer that fails.
pub async fn a_forgotten_peer_raises_no_alert(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    let mut alerts = monitor.events();
    for (name, number) in [("x", 1), ("y", 1), ("x", 2)] {
        monitor.record(metric(&clock, name, number, "")).await.unwrap();
    }
    monitor.forget(&peer(1));
    assert_eq!(monitor.latest_for("x", &peer(1)), None);
    assert_eq!(monitor.latest("x").len(), 1);
    assert_eq!(next_alert(&mut alerts).await.metric.peer, peer(2));
    no_alert_comes(&mut alerts).await;

    // It may come back.
    monitor.record(metric(&clock, "x", 1, "")).await.unwrap();
    assert_eq!(next_alert(&mut alerts).await.metric.peer, peer(1));
}

/// Anybody in the network can make up peers; who is known must still be heard.
pub async fn a_flood_of_unknown_peers_does_not_silence_known_ones(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    monitor.record(metric(&clock, "ping", 0, "before")).await.unwrap();
    for number in 1..UNKNOWN_PEERS {
        if let Err(error) = monitor.record(metric(&clock, "ping", number, "")).await {
            assert_eq!(error.kind(), ErrorKind::QueueFull, "{error}");
        }
    }
    monitor.record(metric(&clock, "ping", 0, "after")).await.unwrap();
    assert_eq!(monitor.latest_for("ping", &peer(0)).unwrap().value, "after");
}

/// Who waits for alerts is not left waiting.
pub async fn alerts_end_with_the_shutdown(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    let mut alerts = monitor.events();
    monitor.record(metric(&clock, "x", 1, "")).await.unwrap();
    monitor.shutdown().await.unwrap();
    assert_eq!(timeout(WAIT, alerts.next()).await.expect("the alerts ended"), None);
    assert_eq!(timeout(WAIT, monitor.events().next()).await.expect("no alerts after the end"), None);
}

/// Also several at once.
pub async fn every_shutdown_returns_and_calls_after_it_are_refused(fixture: impl Fixture) {
    let (_guard, monitor, clock) = monitor(&fixture).await;
    let together = join_all((0..3).map(|_| monitor.shutdown()));
    for result in timeout(WAIT, together).await.expect("every caller returns") {
        result.unwrap();
    }
    monitor.shutdown().await.unwrap();
    let late = metric(&clock, "x", 1, "");
    assert_eq!(monitor.record(late.clone()).await.unwrap_err().kind(), ErrorKind::ShutDown);
    assert_eq!(monitor.publish(late).await.unwrap_err().kind(), ErrorKind::ShutDown);
}
