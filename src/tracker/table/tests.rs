//! Every way through the table, and random ones.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::types::{Cid, PinMode, PinOptions, parse_cid};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn table(queue_items_max: usize) -> Table {
    Table::new(queue_items_max, 1_000, PriorityRule { age_max: Duration::from_secs(60), attempts_max: 5 })
}

fn cid(number: u64) -> Cid {
    use multihash_codetable::MultihashDigest as _;
    Cid::new_v1(0x55, multihash_codetable::Code::Sha2_256.digest(&number.to_be_bytes()))
}

fn pin(number: u64) -> (CidKey, Pin) {
    let pin = Pin { timestamp: Some(NOW), ..Pin::new(cid(number), PinOptions::default()) };
    (CidKey::from(&pin.cid), pin)
}

fn start(table: &mut Table, lane: Lane) -> Option<Started> {
    table.start_next(lane, NOW, &CancellationToken::new())
}

#[test]
fn an_operation_takes_ninety_bytes_with_its_cid() {
    assert!(size_of::<CidKey>() + size_of::<Operation>() <= 88);
}

#[test]
fn a_pin_goes_through_its_phases_and_is_forgotten() {
    let mut table = table(10);
    let (key, pin) = pin(1);
    assert_eq!(table.request(&key, Kind::Pin, Some(&pin), NOW), Requested::Changed);
    assert_eq!(table.request(&key, Kind::Pin, Some(&pin), NOW), Requested::Kept);
    assert_eq!(table.get(&key).unwrap().status(), TrackerStatus::PinQueued);
    assert!(table.get(&key).unwrap().priority);
    let started = start(&mut table, Lane::Pin).unwrap();
    let view = table.get(&key).unwrap();
    assert_eq!((view.status(), view.attempts), (TrackerStatus::Pinning, 1));
    assert!(table.finish(&key, started.ticket, Ending::Done, NOW));
    assert_eq!(table.get(&key), None);
    assert_eq!(table.counts(), TrackerCounts::default());
}

#[test]
fn attempts_are_carried_over_failures_until_the_pin_loses_its_priority() {
    let mut table = table(10);
    let (key, pin) = pin(1);
    for attempt in 1..=7 {
        table.request(&key, Kind::Pin, Some(&pin), NOW);
        let view = table.get(&key).unwrap();
        assert_eq!(view.attempts, attempt - 1, "a queued retry shows what was tried");
        assert_eq!(view.priority, attempt <= 6);
        let started = start(&mut table, Lane::Pin).unwrap();
        table.finish(&key, started.ticket, Ending::Failed("no".into()), NOW);
        let view = table.get(&key).unwrap();
        assert_eq!((view.status(), view.attempts), (TrackerStatus::PinError, attempt));
    }
    table.request(&key, Kind::Unpin, None, NOW);
    assert_eq!(table.get(&key).unwrap().attempts, 0, "another kind counts anew");
}

#[test]
fn what_could_not_be_tried_waits_behind_the_others_and_counts_no_attempt() {
    let mut table = table(2);
    let keys = [1, 2, 3].map(pin);
    for (key, pin) in &keys[..2] {
        table.request(key, Kind::Pin, Some(pin), NOW);
    }
    let started = start(&mut table, Lane::Pin).unwrap();
    // Another takes its place in the queue.
    assert_eq!(table.request(&keys[2].0, Kind::Pin, Some(&keys[2].1), NOW), Requested::Changed);
    assert!(table.finish(&started.key, started.ticket, Ending::Waits, NOW));
    let view = table.get(&keys[0].0).unwrap();
    assert_eq!((view.status(), view.attempts, view.priority), (TrackerStatus::PinQueued, 0, false));
    assert_eq!(table.counts(), TrackerCounts { pin_queued: 3, ..TrackerCounts::default() });
    let order: Vec<_> = std::iter::from_fn(|| start(&mut table, Lane::Pin)).map(|next| next.key).collect();
    assert_eq!(order, [keys[1].0.clone(), keys[2].0.clone(), keys[0].0.clone()]);
}

#[test]
fn what_replaces_a_running_operation_starts_when_that_has_stopped() {
    let mut table = table(10);
    let (key, pin) = pin(1);
    table.request(&key, Kind::Pin, Some(&pin), NOW);
    let running = start(&mut table, Lane::Pin).unwrap();
    table.request(&key, Kind::Unpin, None, NOW);
    assert!(running.cancel.is_cancelled());
    assert!(start(&mut table, Lane::Unpin).is_none(), "the pin has not stopped yet");
    // And changed again meanwhile.
    table.request(&key, Kind::Pin, Some(&pin), NOW);
    assert_eq!(table.get(&key).unwrap().status(), TrackerStatus::PinQueued);
    assert!(start(&mut table, Lane::Pin).is_none());
    assert!(!table.finish(&key, running.ticket, Ending::Failed("too late".into()), NOW));
    let started = start(&mut table, Lane::Pin).unwrap();
    assert!(started.unpin_first, "an unpin was overtaken");
    assert!(start(&mut table, Lane::Unpin).is_none());
}

#[test]
fn a_repin_in_another_mode_restarts_a_running_pin_and_the_same_does_not() {
    let mut table = table(10);
    let (key, pin) = pin(1);
    let direct = Pin { max_depth: PinMode::Direct.max_depth(), ..pin.clone() };
    table.request(&key, Kind::Pin, Some(&direct), NOW);
    let running = start(&mut table, Lane::Pin).unwrap();
    table.set_running_pin(&key, running.ticket, Arc::new(direct.clone()));
    assert_eq!(table.request(&key, Kind::Pin, Some(&direct), NOW), Requested::Kept);
    assert_eq!(table.request(&key, Kind::Pin, Some(&pin), NOW), Requested::Changed);
    assert!(running.cancel.is_cancelled());
}

#[test]
fn pins_beyond_what_is_remembered_are_counted_and_found_again() {
    let mut table = Table::new(5, 2, PriorityRule { age_max: Duration::from_secs(60), attempts_max: 5 });
    let pins: Vec<_> = (0..7).map(pin).collect();
    let requested: Vec<_> =
        pins.iter().map(|(key, pin)| table.request(key, Kind::Pin, Some(pin), NOW)).collect();
    use Requested::{Backlog, Changed, Full};
    assert_eq!(requested, [Changed, Changed, Backlog, Backlog, Backlog, Full, Full]);
    let counts = TrackerCounts { pin_queued: 5, pin_error: 2, ..TrackerCounts::default() };
    assert_eq!((table.counts(), table.get(&pins[2].0)), (counts, None));
    assert!(!table.wants_refill() && !table.refill(&pins[2].0, Some(&pins[2].1), NOW));
    // One that is known is retried however many wait.
    assert_eq!(table.request(&pins[6].0, Kind::Pin, Some(&pins[6].1), NOW), Changed);
    for _ in 0..2 {
        let started = start(&mut table, Lane::Pin).unwrap();
        table.finish(&started.key, started.ticket, Ending::Done, NOW);
    }
    assert!(table.wants_refill());
    assert!(table.refill(&pins[2].0, Some(&pins[2].1), NOW));
    assert!(!table.refill(&pins[3].0, Some(&pins[3].1), NOW));
    table.set_backlog(2);
    assert_eq!(table.counts().pin_queued, 4);
}

#[test]
fn a_full_queue_leaves_the_item_in_error_and_recovers() {
    let mut table = table(1);
    let (first, pin_1) = pin(1);
    let (second, pin_2) = pin(2);
    table.request(&first, Kind::Pin, Some(&pin_1), NOW);
    assert_eq!(table.request(&second, Kind::Pin, Some(&pin_2), NOW), Requested::Full);
    let view = table.get(&second).unwrap();
    assert_eq!((view.status(), view.failure.as_deref()), (TrackerStatus::PinError, Some(QUEUE_FULL)));
    assert_eq!(table.request(&second, Kind::Pin, Some(&pin_2), NOW), Requested::Full);
    // The other queue has room.
    assert_eq!(table.request(&second, Kind::Unpin, None, NOW), Requested::Changed);
    start(&mut table, Lane::Pin).unwrap();
    assert_eq!(table.request(&second, Kind::Pin, Some(&pin_2), NOW), Requested::Changed);
    assert_eq!(table.counts(), TrackerCounts { pin_queued: 1, pinning: 1, ..TrackerCounts::default() });
}

#[test]
fn an_unpin_and_a_remote_become_each_other_in_place() {
    let mut table = table(10);
    let (key, _) = pin(1);
    table.request(&key, Kind::Unpin, None, NOW);
    assert_eq!(table.request(&key, Kind::Remote, None, NOW), Requested::Changed);
    assert_eq!(table.get(&key).unwrap().status(), TrackerStatus::Remote);
    let running = start(&mut table, Lane::Unpin).unwrap();
    assert_eq!(table.request(&key, Kind::Unpin, None, NOW), Requested::Changed);
    assert!(!running.cancel.is_cancelled());
    assert!(table.finish(&key, running.ticket, Ending::Done, NOW));
}

#[test]
fn ranges_are_in_cid_order_and_limited() {
    let mut table = table(100);
    let mut keys: Vec<_> = (0..10).map(|number| pin(number).0).collect();
    for key in &keys {
        table.request(key, Kind::Unpin, None, NOW);
    }
    keys.sort();
    let listed = |after, upto, limit| -> Vec<CidKey> {
        table.range(after, upto, limit).into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(listed(None, None, 100), keys);
    assert_eq!(listed(Some(&keys[2]), Some(&keys[5]), 100), &keys[3..=5]);
    assert_eq!(listed(Some(&keys[2]), None, 2), &keys[3..5]);
    assert_eq!(listed(Some(&keys[2]), Some(&keys[2]), 100), []);
    assert!(parse_cid(&format!("{:?}", keys[0])).is_ok());
}

/// What is done to the table in the test below.
#[derive(Clone, Copy, Debug)]
enum Act {
    Request(u64, Kind),
    Start(Lane),
    Finish(usize, Option<bool>),
}

fn act() -> impl Strategy<Value = Act> {
    let kind = prop_oneof![Just(Kind::Pin), Just(Kind::Unpin), Just(Kind::Remote)];
    prop_oneof![
        (0u64..6, kind).prop_map(|(number, kind)| Act::Request(number, kind)),
        prop_oneof![Just(Lane::Pin), Just(Lane::Unpin)].prop_map(Act::Start),
        (0usize..4, any::<Option<bool>>()).prop_map(|(index, fails)| Act::Finish(index, fails)),
    ]
}

proptest! {
    #[test]
    fn no_cid_is_worked_on_twice_and_nothing_queued_is_lost(acts in prop::collection::vec(act(), 0..200)) {
        let mut table = table(4);
        let mut running: Vec<Started> = Vec::new();
        for act in acts {
            match act {
                Act::Request(number, kind) => {
                    let (key, pin) = pin(number);
                    table.request(&key, kind, Some(&pin), NOW);
                }
                Act::Start(lane) => {
                    if let Some(started) = start(&mut table, lane) {
                        prop_assert!(running.iter().all(|other| other.key != started.key));
                        running.push(started);
                    }
                }
                Act::Finish(index, fails) if index < running.len() => {
                    let started = running.swap_remove(index);
                    let ending = match fails {
                        None => Ending::Done,
                        Some(true) => Ending::Failed("no".into()),
                        Some(false) => Ending::Waits,
                    };
                    table.finish(&started.key, started.ticket, ending, NOW);
                }
                Act::Finish(..) => {}
            }
        }
        // Drain: everything that was accepted gets its turn, and the numbers add up.
        for started in running.drain(..) {
            table.finish(&started.key, started.ticket, Ending::Done, NOW);
        }
        for lane in [Lane::Pin, Lane::Unpin] {
            while let Some(started) = start(&mut table, lane) {
                table.finish(&started.key, started.ticket, Ending::Done, NOW);
            }
        }
        let counts = table.counts();
        prop_assert_eq!(counts.queued() + counts.pinning + counts.unpinning, 0);
        let left = table.range(None, None, usize::MAX);
        prop_assert!(left.iter().all(|(_, view)| view.phase == Phase::Failed));
        prop_assert_eq!(counts.pin_error + counts.unpin_error, left.len() as u64);
    }
}
