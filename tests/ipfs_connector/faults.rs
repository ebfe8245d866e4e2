//! A daemon in Kubo's form that fails, stalls, goes away and comes back.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use ipfs_cluster::ipfs_connector::{Availability, IpfsConnector, IpfsPin, KuboConfig, KuboConnector};
use ipfs_cluster::testing::fake_kubo::{FakeKubo, FakeKuboConfig, LeanIpfs};
use ipfs_cluster::testing::faulty_ipfs::{FaultyIpfs, IpfsCall};
use ipfs_cluster::types::{Block, Cid, Pin, PinMode, PinOptions};
use ipfs_cluster::{Error, ErrorKind};
use tokio::net::TcpSocket;

use super::{PIN_TIMEOUT, kubo_config, patient_memory};

/// Time in which whatever should happen has happened.
const PATIENCE: Duration = Duration::from_secs(120);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it ends")
}

fn cid(number: usize) -> Cid {
    Block::raw(format!("content {number}")).cid
}

fn pin(cid: Cid) -> Pin {
    Pin::new(cid, PinOptions::default())
}

async fn fake(ipfs: impl IpfsConnector, pin_delay: Duration) -> (FakeKubo, KuboConnector) {
    let config = FakeKuboConfig { pin_delay, ..FakeKuboConfig::default() };
    let kubo = FakeKubo::start(ipfs, config).await.unwrap();
    let connector = KuboConnector::with_config(kubo_config(&kubo.multiaddress())).unwrap();
    (kubo, connector)
}

/// A port that nobody listens on, and that nobody else is given meanwhile.
fn closed_port() -> (TcpSocket, u16) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

#[tokio::test]
async fn a_daemon_that_is_down_is_unavailable_in_the_words_operators_know() {
    let (_held, port) = closed_port();
    let ipfs = KuboConnector::new(format!("/ip4/127.0.0.1/tcp/{port}")).unwrap();
    let error = ipfs.id().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        error.message(),
        format!(
            "Post \"http://127.0.0.1:{port}/api/v0/id\": dial tcp 127.0.0.1:{port}: connect: connection refused"
        )
    );
    let ipfs = KuboConnector::new("/unix/nowhere/ipfs.sock").unwrap();
    let error = ipfs.id().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        error.message(),
        "Post \"http+unix://ipfs/api/v0/id\": dial unix /nowhere/ipfs.sock: connect: no such file or directory"
    );
}

#[tokio::test]
async fn availability_follows_a_daemon_that_goes_and_comes_back() {
    let (kubo, ipfs) = fake(patient_memory(), Duration::ZERO).await;
    let mut availability = ipfs.availability();
    assert!(matches!(within(availability.next()).await, Some(Availability::Up)));

    let pinning = tokio::spawn({
        let ipfs = ipfs.clone();
        async move { ipfs.pin(&pin(cid(1))).await }
    });
    within(kubo.wait_requests(|requests| requests.pins_running == 1)).await;
    let listen = kubo.address();
    within(kubo.stop()).await;
    let error = within(pinning).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let Some(Availability::Down(error)) = within(availability.next()).await else { panic!("still up") };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(ipfs.pin_concurrency(), Some(NonZeroUsize::MIN));

    // Nobody asks, and still its return is noticed.
    let config = FakeKuboConfig { listen, ..FakeKuboConfig::default() };
    let _kubo = FakeKubo::start(LeanIpfs::default(), config).await.unwrap();
    assert!(matches!(within(availability.next()).await, Some(Availability::Up)));
    ipfs.pin(&pin(cid(1))).await.unwrap();

    ipfs.shutdown().await.unwrap();
    assert!(within(availability.next()).await.is_none());
}

#[tokio::test]
async fn ready_waits_for_the_daemon_to_start() {
    let (held, port) = closed_port();
    let ipfs = KuboConnector::new(format!("http://127.0.0.1:{port}")).unwrap();
    let ready = tokio::spawn({
        let ipfs = ipfs.clone();
        async move { ipfs.ready().await }
    });
    let mut availability = ipfs.availability();
    assert!(matches!(within(availability.next()).await, Some(Availability::Down(_))));
    assert!(!ready.is_finished());
    let listen = format!("127.0.0.1:{port}").parse().unwrap();
    let config = FakeKuboConfig { listen, ..FakeKuboConfig::default() };
    drop(held);
    let _kubo = FakeKubo::start(LeanIpfs::default(), config).await.unwrap();
    within(ready).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_daemon_that_is_down_gets_one_request_a_second() {
    let (_held, port) = closed_port();
    let ipfs = KuboConnector::new(format!("/ip4/127.0.0.1/tcp/{port}")).unwrap();
    let started = Instant::now();
    for _ in 0..11 {
        ipfs.id().await.unwrap_err();
    }
    ipfs.id().await.unwrap_err();
    let free = started.elapsed();
    let started = Instant::now();
    ipfs.id().await.unwrap_err();
    ipfs.id().await.unwrap_err();
    let spared = started.elapsed();
    // A second each would be twelve.
    assert!(free < Duration::from_secs(6), "{free:?}");
    // The first of them waits for the rest of a second that has begun, which may be none on a busy machine.
    assert!(spared > Duration::from_millis(950), "{spared:?}");
    // Many at a time do not wait for ever.
    let calls = (0..50).map(|_| async { ipfs.id().await.unwrap_err().kind() });
    let started = Instant::now();
    let kinds = within(futures::future::join_all(calls)).await;
    assert!(kinds.into_iter().all(|kind| kind == ErrorKind::Unavailable));
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
}

#[tokio::test]
async fn progress_keeps_a_pin_alive_longer_than_its_timeout() {
    let (_kubo, ipfs) = fake(LeanIpfs::default(), 2 * PIN_TIMEOUT).await;
    let started = Instant::now();
    ipfs.pin(&pin(cid(1))).await.unwrap();
    assert!(started.elapsed() > PIN_TIMEOUT);
}

#[tokio::test]
async fn a_pin_without_progress_is_cancelled_at_the_daemon_too() {
    let (kubo, ipfs) = fake(patient_memory(), Duration::ZERO).await;
    let error = within(ipfs.pin(&pin(cid(1)))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(
        error.message(),
        format!("pinning {} made no progress for 2s, so it was cancelled (ipfshttp.pin_timeout)", cid(1))
    );
    within(kubo.wait_requests(|requests| requests.pins_running == 0)).await;
}

#[tokio::test]
async fn a_dropped_pin_is_dropped_at_the_daemon() {
    let (kubo, ipfs) = fake(patient_memory(), Duration::ZERO).await;
    for wait in [Duration::ZERO, Duration::from_millis(700)] {
        let pinning = tokio::spawn({
            let ipfs = ipfs.clone();
            async move { ipfs.pin(&pin(cid(1))).await }
        });
        within(kubo.wait_requests(|requests| requests.pins_running == 1)).await;
        // Before and after the answer has begun.
        tokio::time::sleep(wait).await;
        pinning.abort();
        within(kubo.wait_requests(|requests| requests.pins_running == 0)).await;
    }
}

#[tokio::test]
async fn a_pin_that_fails_halfway_tells_the_daemon_s_reason() {
    let faulty = FaultyIpfs::new(LeanIpfs::default());
    let (_kubo, ipfs) = fake(faulty.clone(), Duration::from_millis(700)).await;
    faulty.fail_next(IpfsCall::Pin, 1, Error::new(ErrorKind::Remote, "pin: the disk is gone"));
    let error = ipfs.pin(&pin(cid(1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote);
    assert!(error.message().ends_with("Message: pin: the disk is gone"), "{error}");
}

#[tokio::test]
async fn a_listing_that_breaks_off_is_an_error() {
    // So many that some have been sent before the end: a request that breaks before its answer is just sent again.
    const PINS: usize = 100_000;
    let pins = (0..PINS).map(|number| IpfsPin { cid: cid(number), mode: PinMode::Recursive });
    let faulty = FaultyIpfs::new(LeanIpfs::with_pins(pins));
    let (_kubo, ipfs) = fake(faulty.clone(), Duration::ZERO).await;
    faulty.break_next(IpfsCall::ListPins, 90, Error::new(ErrorKind::Io, "disk"));
    let list = || ipfs.list_pins(PinMode::Recursive).map(|page| page.map(|page| page.len()));
    let mut pages: Vec<_> = list().collect().await;
    let last = pages.pop().unwrap().unwrap_err();
    assert_eq!(last.kind(), ErrorKind::Unavailable, "{last:?}");
    assert!(last.message().contains("broke off its answer to pin/ls"), "{last}");
    assert!(pages.iter().all(|page| page.is_ok()));
    let whole: Vec<_> = list().map(Result::unwrap).collect().await;
    assert_eq!(whole.iter().sum::<usize>(), PINS);
}

#[tokio::test]
async fn a_listing_that_is_dropped_frees_the_daemon() {
    let pins = (0..200_000).map(|number| IpfsPin { cid: cid(number), mode: PinMode::Recursive });
    let (kubo, ipfs) = fake(LeanIpfs::with_pins(pins), Duration::ZERO).await;
    let mut pages = ipfs.list_pins(PinMode::Recursive);
    assert_eq!(pages.next().await.unwrap().unwrap().len(), 1_024);
    drop(pages);
    within(kubo.wait_requests(|requests| requests.running == 0)).await;
}

#[tokio::test]
async fn a_daemon_that_hangs_times_out() {
    let faulty = FaultyIpfs::new(LeanIpfs::default());
    for call in [IpfsCall::Id, IpfsCall::RepoStat, IpfsCall::ListPins, IpfsCall::IsPinned, IpfsCall::Unpin] {
        faulty.stall(call);
    }
    let kubo = FakeKubo::start(faulty, FakeKuboConfig::default()).await.unwrap();
    let ipfs = KuboConnector::with_config(KuboConfig {
        ipfs_request_timeout: Duration::from_millis(300),
        unpin_timeout: Duration::from_millis(300),
        ..kubo_config(&kubo.multiaddress())
    })
    .unwrap();
    let mut errors = vec![
        ipfs.id().await.unwrap_err(),
        ipfs.repo_stat().await.unwrap_err(),
        ipfs.is_pinned(&cid(1), PinMode::Direct).await.unwrap_err(),
        ipfs.pin(&pin(cid(1))).await.unwrap_err(),
        ipfs.unpin(&cid(1)).await.unwrap_err(),
    ];
    errors.extend(ipfs.list_pins(PinMode::Recursive).map(Result::unwrap_err).collect::<Vec<_>>().await);
    assert_eq!(errors.len(), 6);
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    }
}

/// Starts pins as the tracker does, as many as the connector says, until a condition holds.
async fn pin_until(ipfs: &Arc<KuboConnector>, condition: impl Fn(usize) -> bool) -> usize {
    let mut running = tokio::task::JoinSet::new();
    let mut started = 0;
    let concurrency = || ipfs.pin_concurrency().map_or(usize::MAX, NonZeroUsize::get);
    while !condition(concurrency()) {
        while running.len() < concurrency() {
            let (ipfs, pin) = (Arc::clone(ipfs), pin(cid(started)));
            running.spawn(async move { ipfs.pin(&pin).await });
            started += 1;
        }
        let _ = running.join_next().await;
    }
    started
}

#[tokio::test]
async fn a_healthy_daemon_whose_pins_take_long_gets_the_full_concurrency() {
    const MAX: usize = 100;
    let (kubo, ipfs) = fake(LeanIpfs::default(), Duration::from_millis(100)).await;
    let config = KuboConfig { concurrent_pins_max: MAX.try_into().unwrap(), ..ipfs.config().clone() };
    let ipfs = Arc::new(KuboConnector::with_config(config).unwrap());
    let pins = within(pin_until(&ipfs, |concurrency| concurrency == MAX)).await;
    assert!(pins < 10 * MAX, "it took {pins} pins");
    assert!(kubo.requests().pins_running_max <= MAX as u64);
}

#[tokio::test]
async fn a_daemon_whose_api_is_slow_gets_fewer_pins() {
    let faulty = FaultyIpfs::new(LeanIpfs::default());
    let (_kubo, ipfs) = fake(faulty.clone(), Duration::ZERO).await;
    let ipfs = Arc::new(ipfs);
    let before = ipfs.pin_concurrency().unwrap().get();
    faulty.slow(IpfsCall::IsPinned, Duration::from_millis(2_200));
    within(pin_until(&ipfs, |concurrency| concurrency < before)).await;
    assert_eq!(ipfs.pin_concurrency().unwrap().get(), before / 2);
}

#[tokio::test]
async fn unpinning_can_be_switched_off() {
    let (kubo, ipfs) = fake(LeanIpfs::default(), Duration::ZERO).await;
    ipfs.pin(&pin(cid(1))).await.unwrap();
    let config = KuboConfig { unpin_disable: true, ..kubo_config(&kubo.multiaddress()) };
    let without = KuboConnector::with_config(config).unwrap();
    let error = without.unpin(&cid(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.message(), "ipfs unpinning is disallowed by configuration on this peer");
    assert!(ipfs.is_pinned(&cid(1), PinMode::Recursive).await.unwrap());
}

#[tokio::test]
async fn a_daemon_without_space_left_is_told_from_one_that_refuses() {
    let faulty = FaultyIpfs::new(patient_memory());
    let (_kubo, connector) = fake(faulty.clone(), Duration::ZERO).await;
    for (text, kind) in [
        ("pin: write /repo/blocks/.temp/temp-1: no space left on device", ErrorKind::StorageFull),
        ("pin: there is no space for this", ErrorKind::Remote),
    ] {
        faulty.fail_next(IpfsCall::Pin, 1, Error::new(ErrorKind::Remote, text));
        let error = within(connector.pin(&pin(cid(1)))).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().ends_with(text), "{error}");
    }
}

#[tokio::test]
async fn pins_in_progress_are_known_for_as_long_as_they_run() {
    // Content that nobody has: the daemon looks for it, and says so twice a second.
    let (_kubo, connector) = fake(patient_memory(), Duration::ZERO).await;
    assert_eq!(connector.pins_in_progress(), []);
    let (first, second) = (pin(cid(1)), pin(cid(2)));
    let both = async { futures::join!(connector.pin(&first), connector.pin(&second)) };
    let seen = async {
        loop {
            let mut cids: Vec<_> = connector.pins_in_progress().iter().map(|pin| pin.cid).collect();
            cids.sort();
            if cids.len() == 2 {
                break cids;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let seen = tokio::select! {
        ended = both => panic!("{ended:?}"),
        seen = within(seen) => seen,
    };
    let mut expected = vec![first.cid, second.cid];
    expected.sort();
    assert_eq!(seen, expected);
    // They were given up.
    assert_eq!(connector.pins_in_progress(), []);
}
