//! Catching up without the history gives what a walk gives.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::super::catchup::client::{Outcome, session};
use super::super::catchup::message::{Chunk, Message, Messages, Table};
use super::super::catchup::{CatchUp, PROTOCOL, blocks};
use super::super::records::{META, META_LACKING, SET, VALUES};
use super::super::walk::Request;
use super::convergence::{Random, act, give_all, give_some, operations};
use super::durability::Liar as LyingDisk;
use super::*;
use crate::error::{ErrorKind, Result};
use crate::testing::CrashStorage;
use crate::transport::{PeerStream, PeerTransport, Protocol, StreamHandler};
use crate::types::{PeerId, PinOperation};

/// A component whose network side does nothing by itself.
struct Quiet {
    number: u64,
    transport: Arc<MemoryTransport>,
    crdt: Crdt,
    catch_up: CatchUp,
}

impl Quiet {
    async fn start(
        network: &MemoryNetwork,
        number: u64,
        storage: Arc<dyn Storage>,
        batching: (usize, Duration),
    ) -> Self {
        let transport = Arc::new(network.join(peer(number)).unwrap());
        let (crdt, seed) = (open_on(transport.clone(), number, storage, batching).await, number);
        if let Some(network) = crdt.network.lock().await.take() {
            network.shutdown().await;
        }
        let (walker, mut requests) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                if let Request::Take { walks, taken } = request {
                    let _ = taken.send(walks);
                }
            }
        });
        let catch_up = CatchUp {
            ledger: crdt.parts.ledger.clone(),
            state: crdt.state.clone(),
            transport: transport.clone(),
            exchange: crdt.exchange.clone(),
            trust: crdt.trust.clone(),
            inbox: Arc::default(),
            walker,
            interval: Duration::from_secs(60),
            seed,
        };
        Self { number, transport, crdt, catch_up }
    }

    /// Catches up, also where little is missing.
    async fn catch_up(&self, with: &Self) -> Result<Outcome> {
        let heads: BTreeSet<Digest> =
            with.crdt.parts.ledger.heads().iter().filter_map(|head| key::block_digest(&head.cid)).collect();
        session(&self.catch_up, peer(with.number), &heads).await
    }
}

async fn run(seed: u64) -> usize {
    let random = &mut Random(seed);
    let network = MemoryNetwork::new(seed);
    network.set_delay(Duration::from_millis(1));
    let mut peers = Vec::new();
    for number in 1..=4 {
        let batching =
            if (seed + number).is_multiple_of(3) { (7, Duration::from_millis(50)) } else { AT_ONCE };
        peers.push(Quiet::start(&network, number, Arc::new(MemoryStorage::new()), batching).await);
    }
    let mut caught_up = 0;
    for _ in 0..70 {
        let (one, other) = (random.below(4), random.below(4));
        match random.below(9) {
            0 if one != other => give_all(&peers[one].crdt, &peers[other].crdt, random).await,
            1 if one != other => give_some(&peers[one].crdt, &peers[other].crdt, random).await,
            2 | 3 if one != other => {
                // Both go on meanwhile.
                let busy = async {
                    for _ in 0..random.below(10) {
                        peers[other].crdt.log_many(operations(random)).await.unwrap();
                        sleep(Duration::from_millis(random.below(8) as u64)).await;
                        if random.below(3) == 0 {
                            peers[one].crdt.log_many(operations(random)).await.unwrap();
                        }
                    }
                };
                let (outcome, ()) = join(peers[one].catch_up(&peers[other]), busy).await;
                caught_up += usize::from(outcome.unwrap() == Outcome::CaughtUp);
            }
            4 => sleep(Duration::from_millis(30)).await,
            5 if one != other && caught_up > 0 => {
                // Not all of it may be there.
                drop(
                    timeout(
                        Duration::from_secs(5),
                        blocks::fetch(&peers[one].catch_up, peer(peers[other].number)),
                    )
                    .await,
                );
            }
            _ => act(&peers[one].crdt, random).await,
        }
    }
    sleep(Duration::from_secs(1)).await;
    for _ in 0..2 {
        for one in 0..4 {
            for other in 0..4 {
                give_all(&peers[one].crdt, &peers[other].crdt, random).await;
            }
        }
    }
    let walked = Quiet::start(&network, 9, Arc::new(MemoryStorage::new()), AT_ONCE).await;
    give_all(&peers[0].crdt, &walked.crdt, random).await;
    let expected = seen(&walked.crdt).await;
    for peer in &peers {
        assert_eq!(seen(&peer.crdt).await, expected, "seed {seed}, peer {}", peer.number);
    }
    caught_up
}

async fn seen(crdt: &Crdt) -> (BTreeMap<Vec<u8>, Pin>, BTreeMap<Cid, Known>, Vec<Head>) {
    assert!(entries(storage(crdt), LOG).is_empty());
    let (pins, known) = (pinset(crdt).await, known(storage(crdt)));
    for (pin, (_, _, value)) in &known {
        let shown = pins.get(&pin.to_bytes()).map(|pin| Bytes::from(encode_pin_protobuf(pin)));
        assert_eq!(shown, *value);
    }
    (pins, known, crdt.parts.ledger.heads())
}

#[tokio::test(start_paused = true)]
async fn whoever_catches_up_and_then_walks_has_what_whoever_walks_has() {
    let mut caught_up = 0;
    for seed in 0..40 {
        caught_up += run(seed).await;
    }
    assert!(caught_up > 100, "{caught_up}");
}

/// A peer with pins that were changed and removed.
async fn busy(network: &MemoryNetwork, pins: u64) -> Quiet {
    let busy = Quiet::start(network, 1, Arc::new(MemoryStorage::new()), AT_ONCE).await;
    for start in (0..pins).step_by(10) {
        let pin = |number| PinOperation::Pin(named(number, "first").into());
        busy.crdt.log_many((start..start + 10).map(pin).collect()).await.unwrap();
    }
    for number in (0..pins).step_by(7) {
        busy.crdt.log_pin(named(number, "second")).await.unwrap();
    }
    for number in (0..pins).step_by(11) {
        busy.crdt.log_unpin(&pin(number).cid).await.unwrap();
    }
    busy
}

#[tokio::test(start_paused = true)]
async fn a_new_peer_gets_everything_and_the_blocks_after_it() {
    let network = MemoryNetwork::new(0);
    let old = busy(&network, 200).await;
    let new = Quiet::start(&network, 2, Arc::new(MemoryStorage::new()), AT_ONCE).await;
    assert_eq!(new.catch_up(&old).await.unwrap(), Outcome::CaughtUp);
    assert_eq!(pinset(&new.crdt).await, pinset(&old.crdt).await);
    assert_eq!(new.crdt.parts.ledger.heads(), old.crdt.parts.ledger.heads());
    assert!(nodes(storage(&new.crdt)).is_empty());
    assert!(!entries(storage(&new.crdt), VALUES).is_empty());
    // Nothing is missing, on either side.
    assert_eq!(new.catch_up(&old).await.unwrap(), Outcome::Equal);
    assert_eq!(old.catch_up(&new).await.unwrap(), Outcome::Equal);
    // It can be caught up with, though it has no block, and what it says is built upon what it got.
    let third = Quiet::start(&network, 3, Arc::new(MemoryStorage::new()), AT_ONCE).await;
    assert_eq!(third.catch_up(&new).await.unwrap(), Outcome::CaughtUp);
    assert_eq!(pinset(&third.crdt).await, pinset(&old.crdt).await);
    third.crdt.log_pin(named(1, "third")).await.unwrap();
    third.crdt.log_unpin(&pin(7).cid).await.unwrap();
    assert_eq!(old.catch_up(&third).await.unwrap(), Outcome::CaughtUp);
    assert_eq!(pinset(&third.crdt).await, pinset(&old.crdt).await);
    assert_eq!(third.crdt.parts.ledger.heads(), old.crdt.parts.ledger.heads());
    blocks::fetch(&new.catch_up, peer(1)).await.unwrap();
    blocks::fetch(&third.catch_up, peer(2)).await.unwrap();
    blocks::fetch(&old.catch_up, peer(3)).await.unwrap();
    for peer in [&new, &third, &old] {
        let store = storage(&peer.crdt);
        assert!(entries(store, VALUES).is_empty() && store.get(META, META_LACKING).unwrap().is_none());
    }
    assert_eq!(nodes(storage(&third.crdt)), nodes(storage(&old.crdt)));
    assert_eq!(seen(&third.crdt).await, seen(&old.crdt).await);
}

#[tokio::test(start_paused = true)]
async fn a_value_that_no_block_here_has_outlives_what_lies_over_it() {
    let network = MemoryNetwork::new(0);
    let old = busy(&network, 10).await;
    let new = Quiet::start(&network, 2, Arc::new(MemoryStorage::new()), BATCHED).await;
    new.catch_up(&old).await.unwrap();
    // The first value lives on below ours; then ours goes, by a tombstone of somebody who knows only ours.
    new.crdt.log_pin(named(1, "over it")).await.unwrap();
    new.crdt.shutdown().await.unwrap();
    let ours = nodes(storage(&new.crdt)).pop().unwrap();
    let remover = node(&[&ours], &[], &[(&pin(1), &ours)]);
    let again = Quiet::start(&network, 3, new.crdt.parts.ledger.storage.clone(), AT_ONCE).await;
    merge(&again.crdt, &[&remover], tip(&remover)).await;
    let name = again.crdt.state.get(&pin(1).cid).await.unwrap().unwrap().options.name;
    assert_eq!(name, "first");
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_on_disk_is_given_to_nobody() {
    let network = MemoryNetwork::new(0);
    let disk = Arc::new(LyingDisk { inner: MemoryStorage::new(), lies: AtomicBool::new(false) });
    let old = Quiet::start(&network, 1, disk.clone(), AT_ONCE).await;
    old.crdt.log_pin(pin(1)).await.unwrap();
    disk.lies.store(true, Ordering::Relaxed);
    assert_eq!(old.crdt.log_pin(pin(2)).await.unwrap_err().kind(), ErrorKind::Io);
    let new = Quiet::start(&network, 2, Arc::new(MemoryStorage::new()), AT_ONCE).await;
    assert_eq!(new.catch_up(&old).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(entries(storage(&new.crdt), SET).is_empty());
    // The next write finds out.
    old.crdt.log_pin(pin(3)).await.unwrap();
    assert_eq!(new.catch_up(&old).await.unwrap(), Outcome::CaughtUp);
    assert_eq!(pinset(&new.crdt).await, pinset(&old.crdt).await);
    assert_eq!(pinset(&new.crdt).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_breaks_anywhere_is_gone_on_with() {
    let network = MemoryNetwork::new(0);
    network.set_delay(Duration::from_millis(1));
    let old = busy(&network, 60).await;
    let mut finished = 0;
    for broken_after in 0..60 {
        let number = 100 + broken_after;
        let disk = Arc::new(CrashStorage::new());
        let new = Quiet::start(&network, number, disk.clone(), AT_ONCE).await;
        let got = timeout(Duration::from_millis(broken_after * 3), new.catch_up(&old)).await;
        finished += u64::from(got.is_ok());
        network.crash(peer(number));
        let left = Arc::new(disk.crash());
        drop(new);
        let new = Quiet::start(&network, number, left, AT_ONCE).await;
        new.catch_up(&old).await.unwrap();
        assert_eq!(pinset(&new.crdt).await, pinset(&old.crdt).await, "broken after {broken_after}");
        assert_eq!(new.crdt.parts.ledger.heads(), old.crdt.parts.ledger.heads());
        blocks::fetch(&new.catch_up, peer(1)).await.unwrap();
        assert_eq!(seen(&new.crdt).await, seen(&old.crdt).await);
        new.crdt.shutdown().await.unwrap();
        network.crash(peer(number));
    }
    assert!((1..59).contains(&finished), "{finished}");
}

#[tokio::test(start_paused = true)]
async fn little_is_left_to_the_walk_once() {
    let network = MemoryNetwork::new(0);
    let (old, new) =
        (busy(&network, 10).await, Quiet::start(&network, 2, Arc::new(MemoryStorage::new()), AT_ONCE).await);
    new.catch_up(&old).await.unwrap();
    old.crdt.log_pin(pin(99)).await.unwrap();
    let Outcome::LeftToWalk(left) = session(&new.catch_up, peer(1), &BTreeSet::new()).await.unwrap() else {
        panic!("not left to the walk");
    };
    assert!(!new.catch_up.inbox.is_empty());
    assert_eq!(session(&new.catch_up, peer(1), &left).await.unwrap(), Outcome::CaughtUp);
    assert_eq!(pinset(&new.crdt).await, pinset(&old.crdt).await);
}

#[tokio::test(start_paused = true)]
async fn askers_that_break_the_rules_are_sent_away_and_others_served() {
    let network = MemoryNetwork::new(0);
    let (old, bad) = (busy(&network, 10).await, Arc::new(network.join(peer(5)).unwrap()));
    let protocol = Protocol::new(PROTOCOL);
    let part = |to: &'static [u8]| Chunk { to: Bytes::from_static(to), count: 1, sum: 1 };
    let hello = Message::Hello(Vec::new());
    let disorder =
        Message::Compare { table: Table::Pins, after: Bytes::new(), chunks: vec![part(b"b"), part(b"a")] };
    let early = Message::Compare { table: Table::Pins, after: Bytes::new(), chunks: Vec::new() };
    let framed = |message: &Message| {
        let message = message.encode();
        let mut bytes = Vec::new();
        super::super::wire::put_varint(&mut bytes, message.len() as u64);
        bytes.into_iter().chain(message).collect::<Vec<u8>>()
    };
    for words in [
        vec![0xff; 20],
        vec![0x80, 0x80, 0x80, 0x80, 0x10, 1, 2, 3],
        framed(&early),
        [framed(&hello), framed(&disorder)].concat(),
        [framed(&hello), framed(&Message::Done)].concat(),
        vec![2, 1],
    ] {
        let mut stream = bad.open(&peer(1), &protocol).await.unwrap();
        stream.write_all(&words).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        // Ended or reset, soon.
        drop(timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await.unwrap());
    }
    // As many as are served say nothing, and one more comes.
    let worse = Arc::new(network.join(peer(6)).unwrap());
    let mut silent = Vec::new();
    for (who, is_served) in [(&bad, true), (&bad, true), (&bad, false), (&worse, true), (&worse, true)] {
        let mut messages = Messages::new(who.open(&peer(1), &protocol).await.unwrap());
        messages.send(&hello).await.unwrap();
        assert_eq!(messages.answer().await.is_ok(), is_served);
        silent.push(messages);
    }
    let new = Quiet::start(&network, 2, Arc::new(MemoryStorage::new()), AT_ONCE).await;
    assert_eq!(new.catch_up(&old).await.unwrap_err().kind(), ErrorKind::Unavailable);
    sleep(Duration::from_secs(200)).await;
    new.catch_up(&old).await.unwrap();
}

/// Answers with whatever it was told to say, and then nothing.
#[derive(Debug)]
struct Liar(Vec<Message>);

#[async_trait::async_trait]
impl StreamHandler for Liar {
    async fn handle(&self, _: PeerId, stream: PeerStream) {
        let mut messages = Messages::new(stream);
        for message in &self.0 {
            drop(messages.next().await);
            drop(messages.send(message).await);
        }
        std::future::pending::<()>().await;
    }
}

#[tokio::test(start_paused = true)]
async fn servers_that_break_the_rules_end_their_session_and_change_nothing() {
    use super::super::catchup::message::Welcome;
    let head = Head { cid: key::block_cid(&[1; 32]), height: 5_000 };
    let welcome = || Message::Welcome(Welcome { heads: vec![head], is_whole: true, ..Default::default() });
    let wrong = Message::Welcome(Welcome { merged: vec![true], ..Default::default() });
    for (number, (words, kind)) in [
        (vec![], ErrorKind::Timeout),
        (vec![Message::Done], ErrorKind::Corrupt),
        (vec![wrong], ErrorKind::Corrupt),
        (vec![welcome(), Message::Differing(vec![0; 9])], ErrorKind::Corrupt),
        (vec![welcome(), Message::Records(Bytes::from_static(b"garbage"))], ErrorKind::Corrupt),
        (vec![welcome(), Message::Merged(vec![([2; 32], 1)])], ErrorKind::Corrupt),
        (vec![welcome(), Message::Expired], ErrorKind::Unavailable),
        (vec![welcome()], ErrorKind::Timeout),
    ]
    .into_iter()
    .enumerate()
    {
        let network = MemoryNetwork::new(0);
        let liar = network.join(peer(7)).unwrap();
        liar.accept(Protocol::new(PROTOCOL), Arc::new(Liar(words))).unwrap();
        let new = Quiet::start(&network, 2, Arc::new(MemoryStorage::new()), AT_ONCE).await;
        let error = session(&new.catch_up, peer(7), &BTreeSet::new()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{number}: {error}");
        assert!(new.crdt.parts.ledger.heads().is_empty() && pinset(&new.crdt).await.is_empty());
        let plain = network.join(peer(8)).unwrap();
        let _plain = plain;
        let error = session(&new.catch_up, peer(8), &BTreeSet::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(new.transport.local_peer(), peer(2));
    }
}
