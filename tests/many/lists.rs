//! What all peers say of many pins, in pages and in lists.

use super::*;

#[tokio::test(start_paused = true)]
async fn pages_of_statuses_say_what_all_peers_say_of_the_pins_of_the_page() {
    let peers = Peers::start(3).await;
    let [a, b, c] = &peers.members[..] else { unreachable!() };
    let mut cids = Vec::new();
    for number in 0..20 {
        let cid = a.ipfs.add_sample(format!("content {number}"));
        let name = format!("{:02}", 19 - number);
        a.cluster.pin(cid, PinOptions { name, ..replicas(1, 1 + number % 2) }).await.unwrap();
        cids.push(cid);
    }
    for cid in &cids {
        c.cluster.wait(*cid).until(Until::PinnedEverywhere).await.unwrap();
    }
    let by_name = StateQuery { order: Some(StateOrder::Name), ..StateQuery::default() };
    let mut seen = Vec::new();
    let mut query = by_name.clone();
    loop {
        let page = c.cluster.status_page(query.clone(), StatusFilter::ALL, 6, Scope::Global).await.unwrap();
        assert!(page.infos.len() <= 6);
        seen.extend(page.infos);
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert!(seen.is_sorted_by_key(|info| info.name.clone()) && seen.len() == 20);
    let stable = |info: &GlobalPinInfo| (info.cid, info.name.clone(), statuses(info));
    for info in lines(&a.cluster, StatusFilter::ALL).await {
        assert!(seen.iter().any(|other| stable(other) == stable(&info)), "{info:?}");
    }
    // What a page cannot tell of a peer, it says.
    let held_by_b = StateQuery { peer: Some(b.id), ..by_name };
    let page = a.cluster.pins_page(held_by_b.clone(), 100).await.unwrap();
    assert!(page.pins.iter().all(|pin| pin.allocations.contains(&b.id)) && page.next.is_none());
    assert!(!page.pins.is_empty() && page.pins.len() < 20);
    let moved = a.cluster.bandwidth();
    assert!(moved[RPC_PROTOCOL].total_in > 0 && moved[RPC_PROTOCOL].total_out > 0, "{moved:?}");
    let id = b.id;
    peers.kill(1).await;
    let a = &peers.members[0];
    let failed = a.cluster.status_page(held_by_b, ClusterError.into(), 100, Scope::Global).await.unwrap();
    assert_eq!(failed.infos.len(), page.pins.len());
    assert!(failed.infos.iter().all(|info| statuses(info) == [(id, ClusterError)].into()), "{failed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_cannot_be_reached_is_an_entry_with_its_error_until_it_is_no_member() {
    let peers = Peers::start(3).await;
    let [a, b, c] = &peers.members[..] else { unreachable!() };
    let cids = ["one", "two", "three"].map(|text| a.ipfs.add_sample(text));
    for cid in cids {
        a.cluster.pin(cid, PinOptions::default()).await.unwrap();
        a.cluster.wait(cid).await.unwrap();
    }
    peers.kill(2).await;
    let begin = Instant::now();
    let info = a.cluster.status(&cids[0], Scope::Global).await.unwrap();
    assert_eq!(statuses(&info), [(a.id, Pinned), (b.id, Pinned), (c.id, ClusterError)].into());
    let failed = &info.peer_map[&c.id];
    assert!(failed.error.contains("cannot reach") && failed.peername == "peer-2", "{failed:?}");
    let all = lines(&b.cluster, StatusFilter::ALL).await;
    assert_eq!(all.len(), 3);
    for line in all {
        assert_eq!(statuses(&line), [(a.id, Pinned), (b.id, Pinned), (c.id, ClusterError)].into());
    }
    let infos = a.cluster.peers().await.unwrap();
    let dead = infos.iter().find(|info| info.id == c.id).unwrap();
    assert!(dead.error.contains("cannot reach") && dead.addresses.is_none(), "{dead:?}");
    let gc = a.cluster.repo_gc(Scope::Global).await.unwrap();
    assert_eq!(gc.peer_map[&c.id].peername, "peer-2");
    assert!(gc.peer_map[&c.id].error.contains("cannot reach") && gc.peer_map[&b.id].error.is_empty());
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    until("it is no member any more", || async { a.cluster.peers().await.unwrap().len() == 2 }).await;
    assert_eq!(lines(&a.cluster, StatusFilter::ALL).await[0].peer_map.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn long_lists_of_all_peers_are_merged_in_order() {
    const PINS: u32 = 3_000;
    let peers = Peers::start(3).await;
    let operations = (0..PINS)
        .map(|number| {
            let block = Block::raw(number.to_be_bytes().to_vec());
            for member in &peers.members {
                member.ipfs.put(block.clone()).unwrap();
            }
            let mut pin = Pin::new(block.cid, PinOptions::default());
            pin.options.name = format!("pin {number}");
            pin.options.replication_factor_min = -1;
            pin.options.replication_factor_max = -1;
            pin.timestamp = Some(today());
            PinOperation::Pin(pin.into())
        })
        .collect();
    peers.members[0].cluster.consensus().log_many(operations).await.unwrap();
    let all = || lines(&peers.members[1].cluster, TrackerStatus::Pinned.into());
    until("all are pinned everywhere", || async {
        let all = all().await;
        all.len() == PINS as usize && all.iter().all(|line| line.peer_map.len() == 3)
    })
    .await;
    let all = all().await;
    assert!(all.iter().map(|line| line.cid.to_bytes()).is_sorted());
    assert!(all.iter().all(|line| line.name.starts_with("pin ") && line.created == Some(today())));
}

#[tokio::test(start_paused = true)]
async fn a_list_in_another_order_is_put_in_order_and_what_the_peer_cannot_do_is_said() {
    let peers = Peers::start(2).await;
    let [a, b] = &peers.members[..] else { unreachable!() };
    let foreign = peer(9);
    let mut infos = Vec::new();
    for number in 0..100u8 {
        let cid = a.ipfs.add_sample(vec![number]);
        a.cluster.pin(cid, PinOptions::default()).await.unwrap();
        infos.push(PinInfo::of_cid(cid, foreign, PinStatus::new(Pinned, today())));
    }
    infos.sort_by_key(|info| std::cmp::Reverse(info.cid.to_bytes()));
    for info in &infos {
        b.cluster.wait(info.cid).await.unwrap();
    }
    let (transport, _monitor) = Foreign::new(foreign, infos).start(&peers).await;
    let all = lines(&a.cluster, StatusFilter::ALL).await;
    assert_eq!(all.len(), 100);
    assert!(all.iter().map(|line| line.cid.to_bytes()).is_sorted());
    for line in &all {
        assert_eq!(statuses(line), [(a.id, Pinned), (b.id, Pinned), (foreign, Pinned)].into());
        assert!(line.created.is_some());
    }
    let synced = a.cluster.sync(&all[0].cid, Scope::Global).await.unwrap();
    assert_eq!(synced.peer_map[&foreign].status, ClusterError);
    assert!(synced.peer_map[&foreign].error.contains("cannot sync"), "{synced:?}");
    assert_eq!((synced.peer_map[&b.id].status, synced.peer_map[&a.id].status), (Pinned, Pinned));
    let recovered: Vec<_> = b.cluster.recover_all(Scope::Global).map(|page| page.unwrap()).concat().await;
    assert_eq!(recovered.len(), 100, "what the foreign peer says it does");
    transport.shutdown().await.unwrap();
    let all = lines(&a.cluster, StatusFilter::ALL).await;
    assert!(all.iter().all(|line| line.peer_map[&foreign].status == ClusterError));
    assert_eq!(all[0].peer_map[&foreign].peername, "foreign");
}

#[tokio::test(start_paused = true)]
async fn a_page_of_statuses_is_one_call_for_each_peer_of_ours_and_one_for_each_pin_for_others() {
    const PINS: usize = 200;
    let peers = Peers::start(1).await;
    let [a] = &peers.members[..] else { unreachable!() };
    let (ours, other) = (peer(8), peer(9));
    let mut cids = Vec::new();
    for number in 0..PINS {
        let cid = a.ipfs.add_sample(format!("content {number}"));
        a.cluster.pin(cid, PinOptions::default()).await.unwrap();
        cids.push(cid);
    }
    for cid in &cids {
        a.cluster.wait(*cid).await.unwrap();
    }
    let pins =
        |id| cids.iter().map(|cid| PinInfo::of_cid(*cid, id, PinStatus::new(Pinned, today()))).collect();
    let (of_ours, of_other) = (Arc::<Mutex<BTreeMap<Method, usize>>>::default(), Arc::default());
    let foreign = |id, knows_ours, calls: &Arc<_>| Foreign {
        knows_ours,
        calls: Arc::clone(calls),
        ..Foreign::new(id, pins(id))
    };
    let first = foreign(ours, true, &of_ours).start(&peers).await;
    let second = foreign(other, false, &of_other).start(&peers).await;
    let page = async |limit| {
        let query = StateQuery::default();
        a.cluster.status_page(query, StatusFilter::ALL, limit, Scope::Global).await.unwrap().infos
    };
    let infos = page(1_000).await;
    assert_eq!(infos.len(), PINS);
    for info in &infos {
        assert_eq!(statuses(info), [(a.id, Pinned), (ours, Pinned), (other, Pinned)].into());
    }
    let calls = |calls: &Arc<Mutex<BTreeMap<Method, usize>>>, method| {
        calls.lock().unwrap().get(&method).copied().unwrap_or(0)
    };
    let counts =
        [Method::StatusOf, Method::Status].map(|method| (calls(&of_ours, method), calls(&of_other, method)));
    assert_eq!(counts, [(1, 0), (0, PINS)]);

    // One line is one call of the old kind; a peer that breaks off has said what it has said.
    page(1).await;
    assert_eq!(calls(&of_ours, Method::Status), 1);
    drop((first, second));
    let unknown = infos[PINS / 2].cid;
    let mut third = Foreign { knows_ours: true, ..Foreign::new(peer(7), pins(peer(7))) };
    third.pins.retain(|info| info.cid != unknown);
    let _third = third.start(&peers).await;
    let said: Vec<_> = page(1_000).await.iter().map(|info| statuses(info)[&peer(7)]).collect();
    assert!(said[..PINS / 2].iter().all(|status| *status == Pinned), "{said:?}");
    assert!(said[PINS / 2..].iter().all(|status| *status == ClusterError), "{said:?}");
}
