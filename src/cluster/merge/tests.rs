use std::time::Duration;

use futures::stream;
use tokio::time::Instant;

use super::*;
use crate::types::{Block, Cid, Timestamp, TrackerStatus};

/// CIDs in order.
fn cids(count: u32) -> Vec<Cid> {
    let mut cids: Vec<_> = (0..count).map(|number| Block::raw(number.to_be_bytes().to_vec()).cid).collect();
    cids.sort_by_key(|cid| CidKey::from(cid));
    cids
}

/// Peers in order.
fn peers(count: usize) -> Vec<PeerId> {
    let mut peers: Vec<_> = (0..count).map(|_| PeerId::random()).collect();
    peers.sort();
    peers
}

fn info(cid: Cid, peer: PeerId, name: &str) -> PinInfo {
    let mut info = PinInfo::of_cid(cid, peer, PinStatus::new(TrackerStatus::Pinned, Timestamp::UNIX_EPOCH));
    info.name = name.to_owned();
    info
}

fn page(peer: PeerId, cids: &[Cid]) -> Result<Vec<PinInfo>> {
    Ok(cids.iter().map(|cid| info(*cid, peer, &peer.to_string())).collect())
}

fn member(peer: PeerId, pages: Vec<Result<Vec<PinInfo>>>) -> Member {
    Member { peer, pages: stream::iter(pages).boxed() }
}

fn down(what: &str) -> Error {
    Error::new(ErrorKind::Unavailable, what.to_owned())
}

fn failed_status(_: &PeerId, error: &Error) -> PinStatus {
    PinStatus::cluster_error(error, Timestamp::UNIX_EPOCH)
}

/// As a client reads: an error in place of what does not come in time.
fn until_silent(
    pages: BoxStream<'static, Result<Vec<PinInfo>>>,
    limit: Duration,
) -> BoxStream<'static, Result<Vec<PinInfo>>> {
    let stream = async_stream::stream! {
        let mut pages = pages;
        loop {
            match tokio::time::timeout(limit, pages.next()).await {
                Ok(Some(page)) => yield page,
                Ok(None) => return,
                Err(_) => {
                    yield Err(Error::new(ErrorKind::Timeout, format!("silent for {limit:?}")));
                    return;
                }
            }
        }
    };
    stream.boxed()
}

async fn merged(members: Vec<Member>) -> Vec<GlobalPinInfo> {
    merge(members, failed_status).map(|page| page.unwrap()).concat().await
}

fn who(line: &GlobalPinInfo) -> Vec<(PeerId, TrackerStatus)> {
    line.peer_map.iter().map(|(peer, status)| (*peer, status.status)).collect()
}

use TrackerStatus::{ClusterError, Pinned};

#[tokio::test(start_paused = true)]
async fn lines_come_in_order_and_carry_everybody_who_has_the_cid() {
    let (cids, peers) = (cids(6), peers(3));
    let lines = merged(vec![
        member(peers[2], vec![page(peers[2], &[cids[0], cids[5]])]),
        member(peers[0], vec![page(peers[0], &cids[..2]), Ok(Vec::new()), page(peers[0], &[cids[5]])]),
        member(peers[1], vec![]),
    ])
    .await;
    assert_eq!(lines.iter().map(|line| line.cid).collect::<Vec<_>>(), [cids[0], cids[1], cids[5]]);
    assert_eq!(who(&lines[0]), [(peers[0], Pinned), (peers[2], Pinned)]);
    assert_eq!(who(&lines[1]), [(peers[0], Pinned)]);
    // Whoever was named first, the last in order of the peers has the say about the header.
    assert_eq!(lines[0].name, peers[2].to_string());
}

#[tokio::test(start_paused = true)]
async fn pages_are_full_but_the_last() {
    let (cids, peers) = (cids(3_000), peers(2));
    let pages = |peer| cids.chunks(700).map(|cids| page(peer, cids)).collect();
    let pages =
        merge(vec![member(peers[0], pages(peers[0])), member(peers[1], pages(peers[1]))], failed_status);
    let lines: Vec<_> =
        pages.map(|page| page.unwrap()).inspect(|page| assert!(page.len() <= PAGE_LINES_MAX)).concat().await;
    assert_eq!(lines.iter().map(|line| line.cid).collect::<Vec<_>>(), cids);
    assert!(lines.iter().all(|line| line.peer_map.len() == 2));
}

#[tokio::test(start_paused = true)]
async fn who_fails_at_first_is_an_error_on_every_line_and_who_fails_later_on_those_that_follow() {
    let (cids, peers) = (cids(4), peers(3));
    let lines = merged(vec![
        member(peers[0], vec![page(peers[0], &cids)]),
        member(peers[1], vec![page(peers[1], &cids[..2]), Err(down("broke off"))]),
        member(peers[2], vec![Err(down("no way"))]),
    ])
    .await;
    assert_eq!(who(&lines[1]), [(peers[0], Pinned), (peers[1], Pinned), (peers[2], ClusterError)]);
    assert_eq!(who(&lines[2]), [(peers[0], Pinned), (peers[1], ClusterError), (peers[2], ClusterError)]);
    assert_eq!(lines[3].peer_map[&peers[1]].error, "broke off");
    assert_eq!(lines[3].name, peers[0].to_string(), "an error knows no header");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_to_us_is_left_out() {
    let (cids, peers) = (cids(1), peers(2));
    let refused = Error::new(ErrorKind::Unauthorized, "client does not have permissions");
    let lines =
        merged(vec![member(peers[0], vec![page(peers[0], &cids)]), member(peers[1], vec![Err(refused)])])
            .await;
    assert_eq!(who(&lines[0]), [(peers[0], Pinned)]);
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_that_is_the_answer_and_when_one_lists_nothing_it_is_not() {
    let peers = peers(2);
    let failing = |number: usize| member(peers[number], vec![Err(down(&format!("down {number}")))]);
    let pages: Vec<_> = merge(vec![failing(0), failing(1)], failed_status).collect().await;
    assert!(matches!(&pages[..], [Err(error)] if error.to_string().starts_with("down")), "{pages:?}");
    let pages: Vec<_> = merge(vec![failing(0), member(peers[1], vec![])], failed_status).collect().await;
    assert!(pages.is_empty(), "{pages:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_speaks_for_others_and_nobody_repeats_himself() {
    let (cids, peers) = (cids(3), peers(2));
    let lines = merged(vec![
        member(peers[0], vec![page(peers[1], &cids)]),
        member(peers[1], vec![page(peers[1], &[cids[1], cids[1]])]),
    ])
    .await;
    assert_eq!(who(&lines[0]), [(peers[0], Pinned)]);
    assert_eq!(who(&lines[1]), [(peers[0], Pinned), (peers[1], Pinned)]);
    assert_eq!(who(&lines[2]), [(peers[0], Pinned), (peers[1], ClusterError)]);
    assert!(lines[2].peer_map[&peers[1]].error.contains("in order"));
}

#[tokio::test(start_paused = true)]
async fn who_is_silent_is_an_error_after_the_limit_and_what_is_known_comes_before() {
    let (cids, peers) = (cids(3), peers(3));
    let silent = |number: usize| Member {
        peer: peers[number],
        pages: until_silent(
            stream::iter([page(peers[number], &cids[..1])]).chain(stream::pending()).boxed(),
            Duration::from_secs(15),
        ),
    };
    let begin = Instant::now();
    let mut pages =
        merge(vec![member(peers[0], vec![page(peers[0], &cids)]), silent(1), silent(2)], failed_status);
    let first = pages.next().await.unwrap().unwrap();
    assert_eq!((first.len(), begin.elapsed()), (1, Duration::ZERO));
    let rest: Vec<_> = pages.map(|page| page.unwrap()).concat().await;
    assert_eq!(rest.len(), 2);
    // Two that are silent at the same time are waited for at the same time.
    assert_eq!(begin.elapsed(), Duration::from_secs(15));
    assert_eq!(who(&rest[0]), [(peers[0], Pinned), (peers[1], ClusterError), (peers[2], ClusterError)]);
    assert!(rest[0].peer_map[&peers[1]].error.contains("15s"), "{:?}", rest[0]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_its_time_makes_nobody_silent() {
    let (cids, peers) = (cids(5_000), peers(2));
    let pages = |peer| {
        let pages: Vec<_> = cids.chunks(10).map(|cids| page(peer, cids)).collect();
        Member { peer, pages: until_silent(stream::iter(pages).boxed(), Duration::from_secs(15)) }
    };
    let mut merged = merge(vec![pages(peers[0]), pages(peers[1])], failed_status);
    let mut lines = 0;
    while let Some(page) = merged.next().await {
        let page = page.unwrap();
        assert!(page.iter().all(|line| line.peer_map.values().all(|status| status.status == Pinned)));
        lines += page.len();
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    assert_eq!(lines, 5_000);
}
