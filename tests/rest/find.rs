//! Finding pins: pages, filters, orders.

use std::collections::BTreeSet;

use ipfs_cluster::types::{Cid, PinOptions};

use super::caller::{Caller, Received};
use super::{Peer, soon};

const PINS: u32 = 30;

/// A peer with pins of several names and groups.
async fn filled() -> (Peer, Vec<Cid>) {
    let peer = Peer::start().await;
    let mut cids = Vec::new();
    for number in 0..PINS {
        let cid = peer.ipfs.add_sample(format!("content {number}"));
        let options = PinOptions {
            name: format!("pin {:02}", number % 10),
            metadata: [("group".to_owned(), (number % 3).to_string())].into(),
            ..PinOptions::default()
        };
        peer.cluster.pin(cid, options).await.unwrap();
        cids.push(cid);
    }
    for cid in &cids {
        soon(peer.cluster.wait(*cid).into_future()).await.unwrap();
    }
    (peer, cids)
}

fn cids_of(received: &Received) -> Vec<String> {
    received.lines().iter().map(|line| line["cid"].as_str().unwrap().to_owned()).collect()
}

/// The documents of a listing, without the times at which peers were asked.
fn lines_of(received: &Received) -> Vec<serde_json::Value> {
    let mut lines = received.lines();
    for line in &mut lines {
        if let Some(peers) = line["peer_map"].as_object_mut() {
            peers.values_mut().for_each(|status| status["timestamp"] = "then".into());
        }
    }
    lines
}

/// All pages of a listing.
async fn pages(caller: &mut Caller, path: &str) -> Vec<Received> {
    let mut pages = Vec::new();
    let mut next = String::new();
    loop {
        let page = soon(caller.call("GET", &format!("{path}{next}"))).await;
        assert!(matches!(page.status, 200 | 204), "{path}: {} {}", page.status, page.text());
        let cursor = page.header("x-next-cursor").map(str::to_owned);
        pages.push(page);
        match cursor {
            Some(cursor) => next = format!("&after={cursor}"),
            None => return pages,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_make_the_listing_in_every_order() {
    let (peer, _) = filled().await;
    let mut caller = peer.caller().await;
    for list in ["/allocations", "/pins", "/pins?local=true&filter=pinned,pinning"] {
        let join = if list.contains('?') { '&' } else { '?' };
        for find in [
            "sort=cid",
            "order=desc",
            "sort=name",
            "sort=-name",
            "sort=created",
            "name=pin%2003",
            "name-prefix=pin%200",
            "meta-group=1",
            "meta-group=1&name-prefix=pin&sort=-created",
            "created-after=2020-01-01T00:00:00Z",
            "created-before=2020-01-01T00:00:00Z",
            &format!("peer={}", peer.cluster.peer_id()),
        ] {
            let whole = soon(caller.call("GET", &format!("{list}{join}{find}"))).await;
            assert_eq!(whole.header("x-next-cursor"), None);
            assert_eq!(whole.header("trailer"), Some("X-Stream-Error"), "{find}");
            for limit in [1, 7, 1000] {
                let pages = pages(&mut caller, &format!("{list}{join}{find}&limit={limit}")).await;
                assert!(pages.iter().all(|page| page.lines().len() <= limit));
                let lines: Vec<_> = pages.iter().flat_map(lines_of).collect();
                assert_eq!(lines, lines_of(&whole), "{list} {find} by {limit}");
                assert_eq!(pages[0].header("content-type"), Some("application/json"));
                assert_eq!(pages[0].chunks, None);
            }
        }
    }
    let all = soon(caller.call("GET", "/allocations")).await;
    let by_cid = soon(caller.call("GET", "/allocations?sort=cid")).await;
    assert_eq!(all.body, by_cid.body);
    let names = soon(caller.call("GET", "/allocations?sort=-name")).await;
    let names: Vec<_> = names.lines().iter().map(|line| line["name"].to_string()).collect();
    assert!(names.iter().rev().is_sorted() && names.len() == PINS as usize);
    assert_eq!(
        soon(caller.call("GET", "/allocations?name-prefix=pin%200&meta-group=2")).await.lines().len(),
        10
    );
    assert_eq!(soon(caller.call("GET", "/pins?name=nothing&limit=5")).await.status, 204);
}

#[tokio::test]
async fn what_is_unpinned_between_pages_breaks_nothing() {
    let (peer, _) = filled().await;
    let mut caller = peer.caller().await;
    for (find, left) in [("sort=cid", PINS as usize), ("sort=name", 23), ("sort=-created", 16)] {
        let whole = cids_of(&soon(caller.call("GET", &format!("/allocations?{find}"))).await);
        assert_eq!(whole.len(), left);
        let first = soon(caller.call("GET", &format!("/allocations?{find}&limit=7"))).await;
        let read = cids_of(&first);
        for cid in &read {
            assert_eq!(soon(caller.call("DELETE", &format!("/pins/{cid}"))).await.status, 200);
        }
        let next = first.header("x-next-cursor").unwrap();
        let rest = soon(caller.call("GET", &format!("/allocations?{find}&limit=100&after={next}"))).await;
        assert_eq!([read, cids_of(&rest)].concat(), whole, "{find}");
    }
}

#[tokio::test]
async fn failed_pins_are_found_page_by_page_also_those_that_left_the_pinset() {
    let (peer, cids) = filled().await;
    let mut caller = peer.caller().await;
    // Nobody has these, so they go on being pinned.
    let mut missing = BTreeSet::new();
    for number in 0..5u8 {
        let cid = ipfs_cluster::types::Block::raw(vec![number; 9]).cid;
        let group = number % 2;
        let path = format!("/pins/{cid}?name=missing&meta-group={group}");
        assert_eq!(soon(caller.call("POST", &path)).await.status, 200);
        missing.insert(cid.to_string());
    }
    let found = pages(&mut caller, "/pins?filter=pinning,queued,pin_error&limit=2").await;
    assert_eq!(found.len(), 3);
    assert_eq!(found.iter().flat_map(cids_of).collect::<BTreeSet<_>>(), missing);
    let found =
        pages(&mut caller, "/pins?filter=pinning,queued,pin_error&limit=1&meta-group=1&name=missing").await;
    assert_eq!(found.iter().flat_map(cids_of).count(), 2);
    let whole = soon(caller.call("GET", "/pins?filter=pinning,queued,pin_error&meta-group=1")).await;
    assert_eq!((whole.lines().len(), whole.stream_errors()), (2, vec![""]));
    let by_name = pages(&mut caller, "/pins?filter=pinning,queued,pin_error&limit=3&sort=name").await;
    assert_eq!(by_name.iter().flat_map(cids_of).collect::<BTreeSet<_>>(), missing);
    let pinned = pages(&mut caller, "/pins?filter=pinned&limit=4").await;
    let pinned: BTreeSet<_> = pinned.iter().flat_map(cids_of).collect();
    assert_eq!(pinned, cids.iter().map(Cid::to_string).collect());
}

#[tokio::test]
async fn what_is_wrong_is_one_400_and_the_connection_lives() {
    let (peer, _) = filled().await;
    let mut caller = peer.caller().await;
    let first = soon(caller.call("GET", "/allocations?limit=3&name-prefix=pin")).await;
    let cursor = first.header("x-next-cursor").unwrap().to_owned();
    let statuses = soon(caller.call("GET", "/pins?limit=3&name-prefix=pin")).await;
    let status_cursor = statuses.header("x-next-cursor").unwrap().to_owned();
    for path in [
        "/allocations?limit=0".to_owned(),
        "/allocations?limit=2&limit=2".to_owned(),
        "/allocations?limit=2&nmae=x".to_owned(),
        "/allocations?name=%ff".to_owned(),
        "/allocations?name=%zz".to_owned(),
        "/pins?limit=2&cids=QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o".to_owned(),
        "/pins?limit=2&filter=nope".to_owned(),
        "/pins?sort=size".to_owned(),
        "/allocations?limit=3&after=garbage".to_owned(),
        format!("/allocations?name-prefix=pin&after={cursor}"),
        format!("/allocations?limit=3&after={cursor}"),
        format!("/allocations?limit=3&name-prefix=pi&after={cursor}"),
        format!("/allocations?limit=3&name-prefix=pin&sort=-name&after={cursor}"),
        format!("/allocations?limit=3&name-prefix=pin&filter=pin&after={cursor}"),
        format!("/pins?limit=3&name-prefix=pin&after={cursor}"),
        format!("/allocations?limit=3&name-prefix=pin&after={status_cursor}"),
        format!("/pins?limit=3&name-prefix=pin&filter=pinned&after={status_cursor}"),
        format!("/pins?limit=3&name-prefix=pin&local=true&after={status_cursor}"),
        format!("/allocations?limit=3&name-prefix=pin&after={}x", &cursor[..cursor.len() - 1]),
    ] {
        let received = soon(caller.call("GET", &path)).await;
        assert_eq!(received.status, 400, "{path}: {}", received.text());
        assert_eq!(received.json()["code"], 400, "{path}");
        assert_eq!(received.header("x-next-cursor"), None);
    }
    // Saying the order that it has anyway, and another limit, is the same query.
    let rest = format!("/allocations?limit=100&sort=name&name-prefix=pin&after={cursor}");
    assert_eq!(soon(caller.call("GET", &rest)).await.lines().len(), PINS as usize - 3);
    let rest = format!("/pins?limit=100&name-prefix=pin&after={status_cursor}");
    assert_eq!(soon(caller.call("GET", &rest)).await.lines().len(), PINS as usize - 3);
}

#[tokio::test]
async fn without_these_parameters_everything_unknown_is_ignored_as_in_the_reference() {
    let (peer, _) = filled().await;
    let mut caller = peer.caller().await;
    let plain = soon(caller.call("GET", "/allocations")).await;
    for query in ["filter=all&names=x", "limits=3&filter=all&filter=all", "cursor=x&pretty="] {
        let mut same = soon(caller.call("GET", &format!("/allocations?{query}"))).await;
        same.headers = plain.headers.clone();
        assert_eq!(same, plain, "{query}");
    }
    assert!(plain.chunks.is_some() && plain.stream_errors() == [""]);
    let names: BTreeSet<_> = plain.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
    let expected = ["content-type", "trailer", "vary", "date", "transfer-encoding"];
    assert_eq!(names, expected.map(str::to_owned).into());
    assert_eq!(soon(caller.call("GET", "/health/bandwidth")).await.text(), "{}\n");
}
