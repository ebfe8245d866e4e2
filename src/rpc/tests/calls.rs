//! Calls that come back with what they ask for, and how they end.

use super::*;

#[tokio::test(start_paused = true)]
async fn every_single_call_comes_back_with_its_answer() {
    let peers = peers();
    let (client, one) = (peers.client(), peer(1));
    assert_eq!(client.id(&one).await.unwrap(), peer_info(one));
    assert_eq!(client.id_stream(&one).await.unwrap(), peer_info(one));
    assert_eq!(client.peer_add(&one, &peer(2)).await.unwrap(), peer_info(peer(2)));
    assert_eq!(client.version(&one).await.unwrap().version, "1.1.6");
    assert_eq!(client.status(&one, &cid(4)).await.unwrap(), info(cid(4)));
    assert_eq!(client.sync(&one, &cid(4)).await.unwrap(), info(cid(4)));
    assert_eq!(client.repo_gc(&one).await.unwrap().keys[0].key, Some(cid(1)));
    assert_eq!(client.swarm_peers(&one).await.unwrap(), [peer(5), peer(6)]);
    let digest = client.pinset_digest(&one).await.unwrap();
    assert_eq!((digest.count, digest.hash, digest.heads), (7, [9; 16], vec![(cid(1), 300)]));
    let mut pin = Pin::new(cid(8), PinOptions { name: "ü".repeat(40), ..Default::default() });
    pin.options.metadata.insert("key".to_owned(), "value".to_owned());
    client.log_pin(&one, pin.clone()).await.unwrap();
    client.log_unpin(&one, &cid(8)).await.unwrap();
    client.add_peer(&one, &peer(9)).await.unwrap();
    let calls = peers.handler.calls.lock().unwrap();
    let last = calls.iter().rev().take(3).rev().cloned().collect::<Vec<_>>();
    assert_eq!(last, [Request::LogPin(Box::new(pin)), Request::LogUnpin(cid(8)), Request::AddPeer(peer(9))]);
}

#[tokio::test(start_paused = true)]
async fn listings_come_in_pages_and_end_where_they_break() {
    let peers = peers();
    let (client, one) = (peers.client(), peer(1));
    let (items, error) = collect(client.status_all(&one, TrackerStatus::Pinned.into())).await;
    assert_eq!((items.len(), error.is_none()), (ITEMS as usize, true));
    assert!(items.into_iter().enumerate().all(|(index, item)| item == info(cid(index as u32))));

    let (items, error) = collect(client.status_all(&one, StatusFilter::ERROR)).await;
    assert_eq!(items.len(), 10, "what came before the error counts");
    let error = error.unwrap();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Remote, "it broke"));

    let (items, error) = collect(client.recover_all_local(&one)).await;
    assert_eq!((items.len(), error.unwrap().message()), (0, "not now"));

    let members: Vec<_> = client.peers(&one).map(|item| item.unwrap().id).collect().await;
    assert_eq!(members, [peer(1), peer(2), peer(3)]);
}

#[tokio::test(start_paused = true)]
async fn a_sorted_listing_goes_on_where_it_stopped_and_must_be_sorted() {
    let peers = peers();
    let (client, one) = (peers.client(), peer(1));
    let (all, error) = collect(client.status_all_sorted(&one, StatusFilter::ALL, None)).await;
    assert_eq!((all.len(), error.is_none()), (ITEMS as usize, true));
    let (rest, _) = collect(client.status_all_sorted(&one, StatusFilter::ALL, Some(all[2000].cid))).await;
    assert_eq!(rest, all[2001..]);
    let (_, error) = collect(client.status_all_sorted(&one, StatusFilter::ERROR, None)).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::Corrupt);
}

#[tokio::test(start_paused = true)]
async fn statuses_of_many_come_in_the_order_they_were_asked_for_or_not_at_all() {
    let peers = peers();
    let (client, one) = (peers.client(), peer(1));
    let asked = |count: u32| (0..count).rev().map(cid).collect::<Vec<_>>();
    for count in [0, 1, 2, STATUS_OF_CIDS_MAX as u32] {
        let (infos, error) = collect(client.status_of(&one, asked(count))).await;
        assert!(error.is_none(), "{count}: {error:?}");
        assert_eq!(infos.iter().map(|info| info.cid).collect::<Vec<_>>(), asked(count));
    }
    for count in [3, 4, 5] {
        let (_, error) = collect(client.status_of(&one, asked(count))).await;
        assert_eq!(error.unwrap().kind(), ErrorKind::Corrupt, "{count}");
    }
    let too_many = asked(STATUS_OF_CIDS_MAX as u32 + 1);
    let (_, error) = collect(client.status_of(&one, too_many)).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::Remote);
}

#[tokio::test(start_paused = true)]
async fn errors_of_methods_arrive_as_their_text_and_are_followed_by_nothing_in_particular() {
    let peers = peers();
    let error = peers.client().repo_stat(&peer(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Remote, "the daemon is down"));
    let raw = exchange(&peers.trusted, &[header("IPFSConnector", "RepoStat"), vec![0x80]].concat()).await;
    let zero = [0x81, 0xa1, b's', 0x00];
    assert_eq!(raw, answer("IPFSConnector", "RepoStat", "the daemon is down", 0, &zero));
    // A handler that answers something else is a bug here, and told as such.
    let error = peers.client().rm_peer(&peer(1), &peer(4)).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Remote, "internal error"));
}

#[tokio::test(start_paused = true)]
async fn dropping_a_call_cancels_its_method_on_the_other_side() {
    let peers = peers();
    let client = peers.client();
    let calling = tokio::spawn(async move { client.recover(&peer(1), &cid(1)).await });
    peers.handler.work.wait(1).await;
    let start = Instant::now();
    calling.abort();
    peers.handler.work.wait(0).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());

    // A listing too, by what can no longer be written.
    let mut pages = peers.client().status_all(&peer(1), StatusFilter::QUEUED);
    pages.next().await.unwrap().unwrap();
    peers.handler.work.wait(1).await;
    drop(pages);
    peers.handler.work.wait(0).await;
}

#[tokio::test(start_paused = true)]
async fn an_endless_listing_is_taken_as_slowly_as_its_reader_reads() {
    let peers = peers();
    let mut pages = peers.client().status_all(&peer(1), StatusFilter::QUEUED);
    for _ in 0..10 {
        let page = pages.next().await.unwrap().unwrap();
        assert!(page.len() <= PAGE_ITEMS_MAX);
        // Longer than any silence may be: this side is silent, not the other.
        sleep(Duration::from_secs(60)).await;
    }
    drop(pages);
    peers.handler.work.wait(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_ends_its_half_has_left_unless_the_answer_is_there_already() {
    let peers = peers();
    for (service, method, argument, expected) in [
        ("Cluster", "Version", encode(&msgpack::Empty), None),
        ("PinTracker", "Recover", encode(&Some(cid(1))), Some("context canceled")),
    ] {
        let mut stream = open(&peers.trusted).await;
        stream.write_all(&[header(service, method), argument].concat()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let response: wire::Response = msgpack::decode(&bytes).unwrap();
        assert_eq!(response.error, expected.unwrap_or_default(), "{method}");
        peers.handler.work.wait(0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_a_timeout_and_ends_the_work() {
    let peers = peers();
    let start = Instant::now();
    let error = peers.client().recover(&peer(1), &cid(1)).await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed()), (ErrorKind::Timeout, CALL_TIMEOUT));
    assert!(error.message().contains("PinTracker.Recover"), "{error}");
    peers.handler.work.wait(0).await;

    let mut pages = peers.client().sync_all(&peer(1));
    assert_eq!(pages.next().await.unwrap().unwrap().len(), 1);
    let start = Instant::now();
    let error = pages.next().await.unwrap().unwrap_err();
    assert_eq!((error.kind(), start.elapsed()), (ErrorKind::Timeout, CALL_TIMEOUT));
    assert!(pages.next().await.is_none());
    peers.handler.work.wait(0).await;
}
