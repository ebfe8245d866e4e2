use futures::FutureExt as _;

use super::*;
use crate::clock::TokioClock;
use crate::types::{Block, Metric, Pin, PinInfo, PinOptions, PinStatus, Timestamp, TrackerStatus};

fn hub() -> Arc<Hub> {
    let clock = Arc::new(TokioClock::starting_at(Timestamp::from_unix_seconds(1_800_000_000)));
    Arc::new(Hub::new(PeerId::random(), 7, clock))
}

fn silence() -> Sources {
    Sources {
        state: stream::pending().boxed(),
        tracker: stream::pending().boxed(),
        monitor: stream::pending().boxed(),
        living: BTreeMap::new(),
    }
}

fn watch(hub: &Arc<Hub>, query: WatchQuery) -> Watcher {
    hub.enter(query, silence).unwrap()
}

fn after(cursor: EventCursor) -> WatchQuery {
    WatchQuery { after: Some(cursor), ..WatchQuery::default() }
}

fn pinned(number: usize) -> Happening {
    let cid = Block::raw(number.to_be_bytes().to_vec()).cid;
    Happening::Pinned(Arc::new(Pin::new(cid, PinOptions::default())))
}

fn note(hub: &Hub, numbers: std::ops::Range<usize>) {
    // So small that their number counts and not their size.
    for _ in numbers {
        let what = Happening::Peer { subject: hub.peer, peername: String::new(), is_alive: true };
        hub.note(EventKind::Peer.into(), what);
    }
}

/// What has come so far.
fn ready(watcher: &mut Watcher) -> Vec<Event> {
    std::iter::from_fn(|| watcher.next().now_or_never()).collect()
}

fn is_resync(event: &Event) -> bool {
    matches!(event.what, Happening::Resync(_))
}

#[tokio::test(start_paused = true)]
async fn a_resumed_watch_gives_what_follows_once() {
    let hub = hub();
    let mut whole = watch(&hub, WatchQuery::default());
    for number in 0..10 {
        hub.note(EventKind::Pinned.into(), pinned(number));
    }
    let events = ready(&mut whole);
    assert_eq!(events.len(), 10);
    for (index, event) in events.iter().enumerate() {
        assert_eq!(ready(&mut watch(&hub, after(event.cursor))), events[index + 1..]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cursor_of_what_is_no_longer_kept_gives_one_resync_and_then_what_follows_it() {
    let hub = hub();
    let mut early = watch(&hub, WatchQuery::default());
    note(&hub, 0..1);
    let first = ready(&mut early)[0].cursor;
    note(&hub, 0..WATCH_EVENTS_MAX);
    // Just enough.
    let mut in_time = watch(&hub, after(first));
    assert!(!is_resync(&in_time.next().await));
    note(&hub, 0..1);
    let mut late = watch(&hub, after(first));
    note(&hub, 0..2);
    let events = ready(&mut late);
    assert!(is_resync(&events[0]) && events.len() == 1, "{events:?}");
    note(&hub, 0..2);
    let events = ready(&mut late);
    assert_eq!(events.len(), 2);
    assert!(!events.iter().any(is_resync));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_holds_nobody_up_and_is_told() {
    let hub = hub();
    let mut slow = watch(&hub, WatchQuery::default());
    note(&hub, 0..1);
    assert!(!is_resync(&slow.next().await));
    note(&hub, 0..WATCH_EVENTS_MAX + 1);
    let resync = slow.next().await;
    assert_eq!(resync.what, Happening::Resync(BEHIND.into()));
    // Its cursor is a good one.
    assert_eq!(ready(&mut watch(&hub, after(resync.cursor))), []);
    note(&hub, 0..3);
    assert_eq!(ready(&mut slow), ready(&mut watch(&hub, after(resync.cursor))));
}

#[tokio::test(start_paused = true)]
async fn cursors_of_other_starts_give_a_resync_and_those_of_the_future_are_refused() {
    let (first, second) = (hub(), hub());
    let mut watcher = watch(&first, WatchQuery::default());
    note(&first, 0..1);
    let cursor = ready(&mut watcher)[0].cursor;
    let mut elsewhere = watch(&second, after(cursor));
    assert_eq!(elsewhere.next().await.what, Happening::Resync(ELSEWHERE.into()));
    note(&second, 0..1);
    assert_eq!(ready(&mut elsewhere).len(), 1);

    // The same peer with the same seed, started later.
    let again = Hub::new(first.peer, 7, Arc::clone(&first.clock));
    assert_eq!(again.epoch, first.epoch);
    tokio::time::advance(Duration::from_millis(1)).await;
    let again = Hub::new(first.peer, 7, Arc::clone(&first.clock));
    assert_ne!(again.epoch, first.epoch);

    for number in [2, u64::MAX] {
        let error = first.enter(after(EventCursor::new(first.epoch, number)), silence).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

#[tokio::test(start_paused = true)]
async fn only_so_many_watch_and_a_place_is_free_again_when_one_leaves() {
    let hub = hub();
    let mut watchers: Vec<_> = (0..WATCHERS_MAX).map(|_| watch(&hub, WatchQuery::default())).collect();
    let refused = || hub.enter(WatchQuery::default(), silence).err().map(|error| error.kind());
    assert_eq!(refused(), Some(ErrorKind::QueueFull));
    watchers.pop();
    assert_eq!(refused(), None);
    let cids = vec![Block::raw("x").cid; WATCH_CIDS_MAX + 1];
    watchers.pop();
    let query = WatchQuery { cids, ..WatchQuery::default() };
    assert_eq!(hub.enter(query, silence).err().unwrap().kind(), ErrorKind::InvalidInput);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_comes_in_silence_also_when_others_have_events_and_says_how_far_the_watch_is() {
    let hub = hub();
    let every = Duration::from_secs(15);
    let query =
        WatchQuery { kinds: EventKind::Alert.into(), heartbeat: Some(every), ..WatchQuery::default() };
    let started = Instant::now();
    let mut watcher = watch(&hub, query);
    let first = watcher.next().await;
    assert_eq!((first.what, started.elapsed()), (Happening::Heartbeat, Duration::ZERO));
    let noting = async {
        loop {
            note(&hub, 0..1);
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    };
    let beat = tokio::select! {
        () = noting => unreachable!(),
        beat = watcher.next() => beat,
    };
    assert_eq!((&beat.what, started.elapsed()), (&Happening::Heartbeat, every));
    assert_eq!(beat.cursor.number(), 22);
    assert_eq!(ready(&mut watch(&hub, after(beat.cursor))), []);
}

#[derive(Debug)]
struct Nobody;

#[async_trait::async_trait]
impl Monitor for Nobody {
    async fn publish(&self, _: Metric) -> Result<()> {
        Ok(())
    }
    async fn record(&self, _: Metric) -> Result<()> {
        Ok(())
    }
    fn latest(&self, _: &str) -> Vec<Metric> {
        Vec::new()
    }
    fn latest_for(&self, _: &str, _: &PeerId) -> Option<Metric> {
        None
    }
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
    fn events(&self) -> BoxStream<'static, MonitorEvent> {
        stream::empty().boxed()
    }
    fn forget(&self, _: &PeerId) {}
    async fn shutdown(&self) -> Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_noted_for_a_while_after_the_last_watcher_left_and_then_no_longer() {
    let hub = hub();
    let (tell, told) = futures::channel::mpsc::channel(16);
    let mut told = Some(told);
    let mut tell = tell;
    let mut subscribe = || Sources { state: told.take().unwrap().boxed(), ..silence() };
    let mut first = hub.enter(WatchQuery::default(), &mut subscribe).unwrap();
    let noting = tokio::spawn({
        let hub = Arc::clone(&hub);
        async move { hub.run(&Nobody).await }
    });
    let pin = || StateEvent::Pinned(Arc::new(Pin::new(Block::raw("x").cid, PinOptions::default())));
    tell.try_send(pin()).unwrap();
    let cursor = first.next().await.cursor;
    drop(first);
    tokio::time::sleep(LINGER / 2).await;
    tell.try_send(pin()).unwrap();
    let mut back = watch(&hub, after(cursor));
    let missed = back.next().await;
    assert!(!is_resync(&missed));
    drop(back);
    tokio::time::sleep(LINGER + LOOK_INTERVAL * 2).await;
    assert!(tell.is_closed(), "what is not needed is no longer subscribed to");
    let mut too_late = watch(&hub, after(missed.cursor));
    assert!(is_resync(&too_late.next().await));
    noting.abort();
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_told_before_its_status_also_when_both_come_at_once() {
    let hub = hub();
    let (mut tell, told) = futures::channel::mpsc::channel(1);
    let pin = Pin::new(Block::raw("x").cid, PinOptions::default());
    let status = PinStatus::new(TrackerStatus::Pinned, Timestamp::UNIX_EPOCH);
    let info = Arc::new(PinInfo::of_pin(&pin, hub.peer, status));
    // As from another thread: after the pinset was looked at, and before the tracker is.
    let tracker = stream::once(async move {
        tell.try_send(StateEvent::Pinned(Arc::new(pin))).unwrap();
        tell.disconnect();
        TrackerEvent::StatusChanged(info)
    });
    let subscribe = || Sources { state: told.boxed(), tracker: tracker.boxed(), ..silence() };
    let mut watcher = hub.enter(WatchQuery::default(), subscribe).unwrap();
    let noting = tokio::spawn({
        let hub = Arc::clone(&hub);
        async move { hub.run(&Nobody).await }
    });
    assert!(matches!(watcher.next().await.what, Happening::Pinned(_)));
    assert!(matches!(watcher.next().await.what, Happening::Status(_)));
    noting.abort();
}

#[tokio::test(start_paused = true)]
async fn who_watches_alerts_is_told_when_some_were_lost() {
    let hub = hub();
    let kinds = |kind: EventKind| WatchQuery { kinds: kind.into(), ..WatchQuery::default() };
    let subscribe = || Sources { monitor: stream::iter([MonitorEvent::Resync]).boxed(), ..silence() };
    let mut alerts = hub.enter(kinds(EventKind::Alert), subscribe).unwrap();
    let mut pins = watch(&hub, kinds(EventKind::Pinned));
    let noting = tokio::spawn({
        let hub = Arc::clone(&hub);
        async move { hub.run(&Nobody).await }
    });
    let told = tokio::time::timeout(Duration::from_secs(60), alerts.next()).await;
    assert!(is_resync(&told.expect("it is told")));
    assert_eq!(ready(&mut pins), [], "it is no news for who does not want alerts");
    noting.abort();
}

#[test]
fn peers_come_and_go_by_their_pings() {
    let peers: Vec<_> = (0..3).map(|_| PeerId::random()).collect();
    let living = |these: &[usize]| -> BTreeMap<PeerId, String> {
        these.iter().map(|index| (peers[*index], index.to_string())).collect()
    };
    let peer = |index: usize, is_alive| Happening::Peer {
        subject: peers[index],
        peername: index.to_string(),
        is_alive,
    };
    assert_eq!(differences(&living(&[0, 1]), &living(&[1, 2])), [peer(0, false), peer(2, true)]);
    assert_eq!(differences(&living(&[0, 1]), &living(&[0, 1])), []);
}
