mod directory;

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use self::directory::WithDirectory;
use super::link::{IDLE_TIMEOUT, MESSAGE_ANSWERS, MESSAGE_BLOCK_BYTES, MESSAGE_ENTRIES, SMALL_BLOCK_BYTES};
use super::message::{Entry, EntryKind, MESSAGE_BYTES_MAX, Message, MessageReader, Payload};
use super::*;
use crate::transport::{MemoryNetwork, MemoryTransport, PeerStream, StreamHandler};

#[derive(Debug, Default)]
struct Blocks {
    blocks: Mutex<BTreeMap<Cid, Bytes>>,
    reads: AtomicUsize,
}

impl Blocks {
    fn put(&self, block: &Block) {
        self.blocks.lock().unwrap().insert(block.cid, block.data.clone());
    }
}

impl BlockSource for Blocks {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(self.blocks.lock().unwrap().get(cid).cloned())
    }
}

struct Member {
    peer: PeerId,
    transport: Arc<MemoryTransport>,
    blocks: Arc<Blocks>,
    exchange: Bitswap,
}

fn peer(number: u8) -> PeerId {
    PeerId::from_bytes(&[0, 1, number]).unwrap()
}

fn member(network: &MemoryNetwork, number: u8) -> Member {
    let transport = Arc::new(network.join(peer(number)).unwrap());
    let blocks = Arc::new(Blocks::default());
    let exchange = Bitswap::new(transport.clone(), blocks.clone()).unwrap();
    Member { peer: peer(number), transport, blocks, exchange }
}

async fn connect(one: &MemoryTransport, other: &MemoryTransport) {
    one.connect(&other.listen_addresses()[0]).await.unwrap();
}

/// A peer that says what the test says, and to whom everything is shown.
struct Scripted {
    transport: MemoryTransport,
    heard: mpsc::Receiver<Message>,
    protocol: &'static str,
    stream: Option<PeerStream>,
}

#[derive(Debug)]
struct Hears(mpsc::Sender<Message>);

#[async_trait]
impl StreamHandler for Hears {
    async fn handle(&self, _: PeerId, stream: PeerStream) {
        let room = Semaphore::new(1);
        let mut messages = MessageReader::new(stream, &room);
        while let Ok(Some(message)) = messages.next().await {
            if self.0.send(message).await.is_err() {
                return;
            }
        }
    }
}

fn scripted(network: &MemoryNetwork, number: u8, protocol: &'static str) -> Scripted {
    let transport = network.join(peer(number)).unwrap();
    let (sender, heard) = mpsc::channel(1_000);
    transport.accept(Protocol::new(protocol), Arc::new(Hears(sender))).unwrap();
    Scripted { transport, heard, protocol, stream: None }
}

impl Scripted {
    async fn says(&mut self, to: &Member, message: &Message) {
        let mut bytes = BytesMut::new();
        let dialect = DIALECTS[BITSWAP_PROTOCOLS.iter().position(|name| *name == self.protocol).unwrap()];
        message.write(dialect, &mut bytes);
        if self.stream.is_none() {
            let protocol = Protocol::new(self.protocol);
            self.stream = Some(self.transport.open(&to.peer, &protocol).await.unwrap());
        }
        self.stream.as_mut().unwrap().write_all(&bytes).await.unwrap();
    }

    async fn asks(&mut self, of: &Member, entries: &[(Cid, EntryKind)]) {
        let entry = |(cid, kind): &(Cid, EntryKind)| Entry { cid: *cid, priority: 1, kind: *kind };
        let entries = entries.iter().map(entry).collect();
        self.says(of, &Message { entries, ..Message::default() }).await;
    }

    async fn sends(&mut self, to: &Member, blocks: &[Block]) {
        let blocks = blocks.iter().map(Payload::of).collect();
        self.says(to, &Message { blocks, ..Message::default() }).await;
    }

    async fn answers(&mut self, to: &Member, cid: Cid, has: bool) {
        self.says(to, &Message { presences: vec![(cid, has)], ..Message::default() }).await;
    }

    async fn hears(&mut self) -> Message {
        timeout(Duration::from_secs(20), self.heard.recv()).await.expect("nothing was said").unwrap()
    }

    /// The wantlist of the next message, which has nothing else.
    async fn is_asked(&mut self) -> Vec<(Cid, EntryKind)> {
        let message = self.hears().await;
        assert!(message.blocks.is_empty() && message.presences.is_empty(), "{message:?}");
        message.entries.into_iter().map(|entry| (entry.cid, entry.kind)).collect()
    }

    async fn hears_nothing(&mut self) {
        let heard = timeout(Duration::from_secs(5), self.heard.recv()).await;
        assert!(heard.is_err(), "{heard:?}");
    }
}

const GO: &str = BITSWAP_PROTOCOLS[0];
const HAVE: EntryKind = EntryKind::Have { send_dont_have: false };
const HAVE_OR_NOT: EntryKind = EntryKind::Have { send_dont_have: true };
const BLOCK: EntryKind = EntryKind::Block { send_dont_have: true };
const BLOCK_ONLY: EntryKind = EntryKind::Block { send_dont_have: false };

fn small() -> Block {
    Block::raw("small")
}

fn large(number: u8) -> Block {
    Block::raw(vec![number; SMALL_BLOCK_BYTES + 1])
}

fn blocks_of(message: Message) -> Vec<Block> {
    message.blocks.into_iter().map(|block| block.block().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_go_peer_that_asks_before_we_have_a_block_is_answered_when_it_comes() {
    let network = MemoryNetwork::new(0);
    let one = member(&network, 1);
    let mut go = scripted(&network, 2, GO);
    go.asks(
        &one,
        &[(small().cid, HAVE), (large(1).cid, HAVE), (large(2).cid, HAVE), (large(3).cid, BLOCK_ONLY)],
    )
    .await;
    go.hears_nothing().await;
    go.asks(&one, &[(large(2).cid, EntryKind::Cancel)]).await;
    go.hears_nothing().await;
    let all = [small(), large(1), large(2), large(3)];
    all.iter().for_each(|block| one.blocks.put(block));
    one.exchange.announce(&all.map(|block| block.cid)).await.unwrap();
    let answer = go.hears().await;
    assert_eq!(answer.presences, [(large(1).cid, true)], "too large to be sent without being asked for");
    assert_eq!(blocks_of(answer), [small(), large(3)]);
    go.asks(&one, &[(large(1).cid, BLOCK)]).await;
    assert_eq!(blocks_of(go.hears().await), [large(1)]);
    one.exchange.announce(&[small().cid, large(1).cid]).await.unwrap();
    go.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn who_asks_to_hear_that_a_block_is_not_there_hears_it_and_is_remembered() {
    let network = MemoryNetwork::new(0);
    let one = member(&network, 1);
    let mut go = scripted(&network, 2, GO);
    one.blocks.put(&large(1));
    let absent = [large(2).cid, large(3).cid];
    go.asks(&one, &[(large(1).cid, HAVE_OR_NOT), (absent[0], HAVE_OR_NOT), (absent[1], BLOCK)]).await;
    let answer = go.hears().await;
    assert_eq!(answer.presences, [(large(1).cid, true), (absent[0], false), (absent[1], false)]);
    for number in [2, 3] {
        one.blocks.put(&large(number));
    }
    one.exchange.announce(&absent).await.unwrap();
    let answer = go.hears().await;
    assert_eq!(answer.presences, [(absent[0], true)]);
    assert_eq!(blocks_of(answer), [large(3)]);
}

#[tokio::test(start_paused = true)]
async fn a_full_wantlist_and_a_disconnect_replace_what_was_wanted() {
    let network = MemoryNetwork::new(0);
    let one = member(&network, 1);
    let mut go = scripted(&network, 2, GO);
    go.asks(&one, &[(small().cid, HAVE)]).await;
    let entries = vec![Entry { cid: large(1).cid, priority: 1, kind: HAVE }];
    go.says(&one, &Message { full: true, entries, ..Message::default() }).await;
    go.hears_nothing().await;
    assert_eq!(one.exchange.inner.state().ledgers.wants(&peer(2)), 1);
    go.transport.disconnect(&one.peer).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(one.exchange.inner.state().ledgers.wants(&peer(2)), 0);
    assert!(one.exchange.inner.incoming.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn we_ask_as_go_expects_it() {
    let network = MemoryNetwork::new(0);
    let one = member(&network, 1);
    let (mut hint, mut other, mut third) =
        (scripted(&network, 2, GO), scripted(&network, 3, GO), scripted(&network, 4, GO));
    for go in [&hint, &other, &third] {
        connect(&one.transport, &go.transport).await;
    }
    let wanted = large(1);
    let talk = async {
        assert_eq!(hint.is_asked().await, [(wanted.cid, BLOCK)]);
        hint.answers(&one, wanted.cid, false).await;
        assert_eq!(other.is_asked().await, [(wanted.cid, HAVE)]);
        assert_eq!(third.is_asked().await, [(wanted.cid, HAVE)]);
        other.answers(&one, wanted.cid, true).await;
        assert_eq!(other.is_asked().await, [(wanted.cid, BLOCK)]);
        other.sends(&one, std::slice::from_ref(&wanted)).await;
        assert_eq!(hint.is_asked().await, [(wanted.cid, EntryKind::Cancel)]);
        assert_eq!(third.is_asked().await, [(wanted.cid, EntryKind::Cancel)]);
        other.hears_nothing().await;
    };
    let (got, ()) = tokio::join!(one.exchange.get(&wanted.cid, Some(peer(2))), talk);
    assert_eq!(got.unwrap(), wanted);

    // Nobody waits any more: it is taken back.
    let dropped = timeout(Duration::from_millis(100), one.exchange.get(&small().cid, Some(peer(2)))).await;
    assert!(dropped.is_err());
    assert_eq!(hint.is_asked().await, [(small().cid, BLOCK)]);
    assert_eq!(hint.is_asked().await, [(small().cid, EntryKind::Cancel)]);
}

#[tokio::test(start_paused = true)]
async fn peers_that_speak_only_older_versions_give_and_get_blocks() {
    for protocol in &BITSWAP_PROTOCOLS[1..] {
        let network = MemoryNetwork::new(0);
        let one = member(&network, 1);
        let mut old = scripted(&network, 2, protocol);
        let silent = scripted(&network, 3, GO);
        connect(&one.transport, &old.transport).await;
        connect(&one.transport, &silent.transport).await;
        one.blocks.put(&large(1));
        old.asks(&one, &[(large(1).cid, BLOCK_ONLY), (large(2).cid, BLOCK)]).await;
        assert_eq!(old.hears().await.blocks[0].data, large(1).data, "{protocol}");
        let talk = async {
            assert_eq!(old.is_asked().await, [(large(3).cid, BLOCK_ONLY)], "{protocol}");
            old.sends(&one, &[large(3)]).await;
        };
        let cid = large(3).cid;
        let (got, ()) = tokio::join!(one.exchange.get(&cid, None), talk);
        assert_eq!(got.unwrap(), large(3), "{protocol}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_for_everything_and_reads_nothing_costs_little_and_disturbs_nobody() {
    /// Keeps streams and reads nothing.
    #[derive(Debug)]
    struct Deaf;

    #[async_trait]
    impl StreamHandler for Deaf {
        async fn handle(&self, _: PeerId, _stream: PeerStream) {
            std::future::pending().await
        }
    }

    let network = MemoryNetwork::new(0);
    let (one, other) = (member(&network, 1), member(&network, 2));
    let transport = network.join(peer(3)).unwrap();
    transport.accept(Protocol::new(GO), Arc::new(Deaf)).unwrap();
    let (_, heard) = mpsc::channel(1);
    let mut deaf = Scripted { transport, heard, protocol: GO, stream: None };
    let all: Vec<Block> = (0..1_000_u32)
        .map(|number| {
            let mut data = vec![0; 64 * 1024];
            data[..4].copy_from_slice(&number.to_be_bytes());
            Block::raw(data)
        })
        .collect();
    all.iter().for_each(|block| one.blocks.put(block));
    let everything: Vec<(Cid, EntryKind)> = all.iter().map(|block| (block.cid, BLOCK)).collect();
    for _ in 0..10 {
        deaf.asks(&one, &everything).await;
    }
    sleep(Duration::from_secs(1)).await;
    let read = one.blocks.reads.load(Ordering::Relaxed);
    assert!(read * 64 * 1024 <= 2 * MESSAGE_BLOCK_BYTES, "{read} blocks were read for nobody");
    connect(&one.transport, &other.transport).await;
    let cids = all.iter().map(|block| block.cid).collect();
    let got = timeout(Duration::from_secs(1), other.exchange.get_many(cids, None).count()).await;
    assert_eq!(got.unwrap(), 1_000);
    sleep(10 * PATIENCE_WITH_STREAMS).await;
    assert_eq!(one.exchange.inner.state().ledgers.wants(&peer(3)), 0, "given up");
}

#[tokio::test(start_paused = true)]
async fn many_blocks_are_wanted_a_window_at_a_time() {
    let network = MemoryNetwork::new(0);
    let one = member(&network, 1);
    let mut go = scripted(&network, 2, GO);
    connect(&one.transport, &go.transport).await;
    let all: Vec<Block> = (0..10_000_u32).map(|number| Block::raw(number.to_be_bytes().to_vec())).collect();
    let by_cid: BTreeMap<Cid, Block> = all.iter().map(|block| (block.cid, block.clone())).collect();
    let talk = async {
        let (mut answered, mut most) = (0, 0);
        while answered < all.len() {
            let mut asked = go.is_asked().await;
            // What the other side is still to say comes at once.
            while let Ok(message) = timeout(Duration::from_millis(1), go.heard.recv()).await {
                asked.extend(message.unwrap().entries.into_iter().map(|entry| (entry.cid, entry.kind)));
            }
            assert!(asked.iter().all(|(_, kind)| *kind == BLOCK));
            most = most.max(asked.len());
            answered += asked.len();
            let blocks: Vec<Block> = asked.iter().map(|(cid, _)| by_cid[cid].clone()).collect();
            go.sends(&one, &blocks).await;
        }
        most
    };
    let cids = all.iter().map(|block| block.cid).collect();
    let (got, most) = tokio::join!(one.exchange.get_many(cids, Some(peer(2))).count(), talk);
    assert_eq!((got, most), (10_000, WINDOW_BLOCKS_MAX));
}

#[test]
fn the_window_follows_the_size_of_blocks() {
    let mut window = Window::new();
    assert_eq!(window.blocks(), WINDOW_BLOCKS_FIRST);
    (0..1_000).for_each(|_| window.came(100));
    assert_eq!(window.blocks(), WINDOW_BLOCKS_MAX);
    window.came(BITSWAP_BLOCK_BYTES_MAX);
    assert_eq!(window.blocks(), WINDOW_BLOCKS_MIN);
    (0..100).for_each(|_| window.came(0));
    assert_eq!(window.blocks(), WINDOW_BLOCKS_MAX);
}

#[tokio::test(start_paused = true)]
async fn peers_that_have_the_same_blocks_share_the_work() {
    let network = MemoryNetwork::new(0);
    network.set_delay(Duration::from_millis(10));
    let members: Vec<Member> = (1..=4).map(|number| member(&network, number)).collect();
    let all: Vec<Block> = (0..2_000_u32).map(|number| Block::raw(number.to_be_bytes().repeat(500))).collect();
    for other in &members[1..] {
        connect(&members[0].transport, &other.transport).await;
        all.iter().for_each(|block| other.blocks.put(block));
    }
    let cids = all.iter().map(|block| block.cid).collect();
    assert_eq!(members[0].exchange.get_many(cids, Some(peer(2))).count().await, all.len());
    let reads: Vec<usize> =
        members[1..].iter().map(|member| member.blocks.reads.load(Ordering::Relaxed)).collect();
    assert!(reads.iter().all(|reads| *reads >= 400), "{reads:?}");
    // All are asked now and then about one block, to learn who else has them.
    assert!(reads.iter().sum::<usize>() <= all.len() + 20, "asked for twice: {reads:?}");
}

#[tokio::test(start_paused = true)]
async fn wrong_blocks_are_passed_over_and_their_sender_is_not_asked_any_more() {
    let network = MemoryNetwork::new(0);
    let (one, honest) = (member(&network, 1), member(&network, 2));
    let mut liar = scripted(&network, 3, GO);
    connect(&one.transport, &liar.transport).await;
    honest.blocks.put(&small());
    let talk = async {
        assert_eq!(liar.is_asked().await, [(small().cid, BLOCK)]);
        for number in 0..10 {
            liar.sends(&one, &[large(number)]).await;
        }
        sleep(Duration::from_millis(100)).await;
        connect(&one.transport, &honest.transport).await;
    };
    let cid = small().cid;
    let (got, ()) = tokio::join!(one.exchange.get(&cid, Some(peer(3))), talk);
    assert_eq!(got.unwrap(), small());
    honest.blocks.put(&large(100));
    assert_eq!(one.exchange.get(&large(100).cid, Some(peer(3))).await.unwrap(), large(100));
    while let Ok(message) = liar.heard.try_recv() {
        assert!(message.entries.iter().all(|entry| entry.kind == EntryKind::Cancel), "{message:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nonsense_ends_its_stream_and_nothing_else() {
    let network = MemoryNetwork::new(0);
    let (one, other) = (member(&network, 1), member(&network, 2));
    connect(&one.transport, &other.transport).await;
    let nonsense = network.join(peer(3)).unwrap();
    connect(&one.transport, &nonsense).await;
    for bytes in [vec![255; 1_000], vec![5, 0x0a, 0x7f, 0, 0, 0], vec![4, 0x0a, 2, 0x0a, 0]] {
        let mut stream = nonsense.open(&one.peer, &Protocol::new(GO)).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
    }
    other.blocks.put(&small());
    assert_eq!(one.exchange.get(&small().cid, Some(peer(3))).await.unwrap(), small());
}

#[tokio::test(start_paused = true)]
async fn a_want_survives_a_partition() {
    let network = MemoryNetwork::new(0);
    let (one, other) = (member(&network, 1), member(&network, 2));
    connect(&one.transport, &other.transport).await;
    let breaking = async {
        sleep(Duration::from_secs(3)).await;
        network.partition(one.peer, other.peer);
        other.blocks.put(&small());
        other.exchange.announce(&[small().cid]).await.unwrap();
        sleep(Duration::from_secs(60)).await;
        network.heal(one.peer, other.peer);
        connect(&one.transport, &other.transport).await;
        Instant::now()
    };
    let got = async { (one.exchange.get(&small().cid, Some(other.peer)).await, Instant::now()) };
    let ((got, at), healed) = tokio::join!(got, breaking);
    assert_eq!(got.unwrap(), small());
    assert!(at < healed + TICK / 2, "asked at once when it connected");
}

#[tokio::test(start_paused = true)]
async fn a_want_that_was_never_heard_is_said_again() {
    let network = MemoryNetwork::new(0);
    let one = member(&network, 1);
    let mut go = scripted(&network, 2, GO);
    connect(&one.transport, &go.transport).await;
    let talk = async {
        // As if it were lost.
        assert_eq!(go.is_asked().await, [(small().cid, BLOCK)]);
        assert_eq!(go.is_asked().await, [(small().cid, HAVE)]);
        go.sends(&one, &[small()]).await;
    };
    let start = Instant::now();
    let cid = small().cid;
    let (got, ()) = tokio::join!(one.exchange.get(&cid, Some(peer(2))), talk);
    assert_eq!(got.unwrap(), small());
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn dropped_calls_are_forgotten_on_both_sides_and_idle_streams_are_closed() {
    let network = MemoryNetwork::new(0);
    let (one, other) = (member(&network, 1), member(&network, 2));
    connect(&one.transport, &other.transport).await;
    let cids: Vec<Cid> = (0..100_u8).map(|number| Block::raw(vec![number]).cid).collect();
    let many = one.exchange.get_many(cids, Some(other.peer)).collect::<Vec<_>>();
    assert!(timeout(Duration::from_secs(60), many).await.is_err());
    sleep(Duration::from_secs(1)).await;
    assert!(one.exchange.inner.state().wants.is_idle());
    assert_eq!(other.exchange.inner.state().ledgers.wants(&one.peer), 0);
    assert_eq!(one.exchange.inner.room.available_permits(), BITSWAP_WANTS_MAX);
    sleep(2 * IDLE_TIMEOUT).await;
    for member in [&one, &other] {
        assert!(member.exchange.inner.state().links.is_empty());
        assert!(member.exchange.inner.incoming.lock().unwrap().is_empty());
    }
    other.blocks.put(&small());
    assert_eq!(one.exchange.get(&small().cid, None).await.unwrap(), small(), "a new stream is opened");
}

#[tokio::test(start_paused = true)]
async fn blocks_of_any_possible_size_travel_and_larger_ones_do_not() {
    let network = MemoryNetwork::new(0);
    let (one, other) = (member(&network, 1), member(&network, 2));
    connect(&one.transport, &other.transport).await;
    let sizes =
        [0, 1, SMALL_BLOCK_BYTES, MESSAGE_BLOCK_BYTES - 1, MESSAGE_BLOCK_BYTES, BITSWAP_BLOCK_BYTES_MAX];
    let all: Vec<Block> = sizes.iter().map(|size| Block::raw(vec![1; *size])).collect();
    all.iter().for_each(|block| other.blocks.put(block));
    let too_large = Block::raw(vec![1; BITSWAP_BLOCK_BYTES_MAX + 1]);
    other.blocks.put(&too_large);
    for block in &all {
        assert!(one.exchange.get(&block.cid, Some(other.peer)).await.unwrap() == *block);
    }
    let got = timeout(Duration::from_secs(60), one.exchange.get(&too_large.cid, Some(other.peer))).await;
    assert!(got.is_err());
}

#[test]
fn the_longest_message_is_one_that_others_read() {
    let longest = cid::multihash::Multihash::wrap(u64::MAX >> 1, &[7; 64]).unwrap();
    let cid = Cid::new_v1(u64::MAX >> 1, longest);
    let entry = Entry { cid, priority: -1, kind: HAVE_OR_NOT };
    let message = Message {
        full: true,
        entries: vec![entry; MESSAGE_ENTRIES],
        blocks: vec![Payload::of(&Block { cid, data: vec![1; BITSWAP_BLOCK_BYTES_MAX].into() })],
        presences: vec![(cid, false); MESSAGE_ANSWERS],
        pending_bytes: i32::MAX,
    };
    let mut bytes = BytesMut::new();
    message.write(Dialect::Presences, &mut bytes);
    assert!(bytes.len() <= MESSAGE_BYTES_MAX, "{}", bytes.len());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_could_check_is_refused_and_what_is_in_its_cid_is_there_at_once() {
    let network = MemoryNetwork::new(0);
    let one = member(&network, 1);
    let cid = |code, digest: &[u8]| Cid::new_v1(0x55, cid::multihash::Multihash::wrap(code, digest).unwrap());
    // Hash function 0x300001 belongs to nobody; 20 bytes of SHA-256 are not what the hasher here makes.
    for strange in [cid(0x30_0001, &[7; 32]), cid(0x12, &[7; 20])] {
        let error = one.exchange.get(&strange, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    let inline = one.exchange.get(&cid(0, b"hello"), None).await.unwrap();
    assert_eq!(inline.data.as_ref(), b"hello");
}

#[tokio::test(start_paused = true)]
async fn one_transport_has_one_bitswap_and_dropping_it_lets_go_of_everything() {
    let network = MemoryNetwork::new(0);
    let (one, other) = (member(&network, 1), member(&network, 2));
    connect(&one.transport, &other.transport).await;
    let second = Bitswap::new(one.transport.clone(), one.blocks.clone()).unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Conflict);

    let many = one.exchange.get_many(vec![small().cid], Some(other.peer));
    assert!(timeout(Duration::from_secs(5), one.exchange.get(&small().cid, None)).await.is_err());
    let (transport, blocks, tasks) =
        (Arc::downgrade(&one.transport), Arc::downgrade(&one.blocks), one.exchange.inner.tasks.clone());
    drop(one);
    tasks.ended().await;
    let ended = many.collect::<Vec<_>>().await;
    assert!(ended.iter().all(|got| got.as_ref().is_err_and(|error| error.kind() == ErrorKind::ShutDown)));
    assert!(transport.upgrade().is_none() && blocks.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_block_that_nobody_connected_has_is_got_from_who_provides_it() {
    let network = MemoryNetwork::new(0);
    let (empty, provider) = (member(&network, 1), member(&network, 2));
    provider.blocks.put(&small());
    let transport = Arc::new(network.join(peer(3)).unwrap());
    connect(&transport, &empty.transport).await;
    let with_directory = Arc::new(WithDirectory(transport, provider.peer));
    let one = Bitswap::new(with_directory, Arc::new(Blocks::default())).unwrap();
    let start = Instant::now();
    assert_eq!(one.get(&small().cid, Some(empty.peer)).await.unwrap(), small());
    assert!((wants::PATIENCE..3 * wants::PATIENCE).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_same_talk_gives_the_same_order() {
    async fn order() -> Vec<Vec<Cid>> {
        let network = MemoryNetwork::new(0);
        network.set_delay(Duration::from_millis(3));
        let members: Vec<Member> = (1..=4).map(|number| member(&network, number)).collect();
        let all: Vec<Block> =
            (0..500_u32).map(|number| Block::raw(number.to_be_bytes().repeat(400))).collect();
        for (number, block) in all.iter().enumerate() {
            members[number % 4].blocks.put(block);
            members[number / 7 % 4].blocks.put(block);
        }
        for (number, one) in members.iter().enumerate() {
            for other in &members[..number] {
                connect(&one.transport, &other.transport).await;
            }
        }
        let cids: Vec<Cid> = all.iter().map(|block| block.cid).collect();
        join_all(members.iter().map(|member| async {
            member.exchange.get_many(cids.clone(), None).map(|block| block.unwrap().cid).collect().await
        }))
        .await
    }
    assert_eq!(order().await, order().await);
}
