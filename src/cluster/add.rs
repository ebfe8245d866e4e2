//! Adding content: destinations, blocks, and then the pins.

mod again;
mod by_reference;
mod interrupted;
mod resume;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use self::by_reference::Referring;
#[cfg(feature = "api-rest")]
pub(crate) use self::by_reference::options as reference_options;
pub use self::interrupted::{INTERRUPTED_ADD_TTL, INTERRUPTED_ADDS_MAX};
use self::resume::Resumable;
pub(super) use self::resume::{BrokenAdds, task};
use super::rules::Prepared;
use super::{Cluster, Inner};
use crate::adder::destinations::{Choice, Placement};
use crate::adder::shard::{Pinned, ShardHost, ShardSink};
use crate::adder::{self, AddEvent, BlockSink, Content, Lines, Root};
use crate::consensus::OPERATIONS_MAX;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Storage;
use crate::types::{
    AddOptions, Added, Block, Cid, PeerId, Pin, PinMode, PinOperation, PinOptions, ReplicationFactor,
};

/// Most adds of one peer at a time.
pub const ADDS_MAX: usize = 64;
/// Lines that wait for whoever listens.
const LINES_MAX: usize = 256;

const COMPONENT: &str = "adder";

/// Makes blocks of content.
type Import = for<'a> fn(
    &'a mut (dyn Content + 'static),
    &'a AddOptions,
    &'a mut (dyn BlockSink + 'static),
    &'a Lines,
) -> BoxFuture<'a, Result<Vec<Root>>>;

/// The adds of a peer.
#[derive(Debug)]
pub(super) struct Adds {
    room: Arc<Semaphore>,
    resumable: Resumable,
}

impl Adds {
    /// Finds what is known of earlier adds.
    pub(super) async fn open(storage: Arc<dyn Storage>) -> Result<(Self, BrokenAdds)> {
        let (resumable, broken) = Resumable::open(storage).await?;
        Ok((Self { room: Arc::new(Semaphore::new(ADDS_MAX)), resumable }, broken))
    }
}

/// One add on its way.
struct Adding {
    inner: Arc<Inner>,
    lines: mpsc::Receiver<Added>,
    work: BoxFuture<'static, Result<Vec<Pin>>>,
    /// How the work ended, until all lines are told.
    ended: Option<Result<std::vec::IntoIter<Pin>>>,
}

impl Cluster {
    /// Adds content: makes blocks of it, puts them on the daemons of the peers that are to have it, and pins what came
    /// of it, all roots.
    ///
    /// The stream gives a line for each thing that is done, and then each root as it is pinned; it ends with the first
    /// error. Nothing happens unless it is polled: whoever stops taking events stops the add. Dropping it before its end
    /// gives the add up: blocks that arrived are let go of by the daemons, and nothing is pinned, unless it was about to
    /// be at that moment.
    ///
    /// A peer that fails or takes nothing for [`STALL_TIMEOUT`](crate::adder::destinations::STALL_TIMEOUT) is replaced
    /// where the replication factor allows it, or goes without; one that has everything is enough. The pins keep the
    /// allocations of the add, also where the content was pinned elsewhere. When nobody is left who has the beginning, which
    /// is kept for [`WINDOW_BYTES_MAX`](crate::adder::destinations::WINDOW_BYTES_MAX), content that can be read again
    /// ([`Content::rewind`]) is added once more without those who failed, and no line is told twice.
    ///
    /// With `no_copy` the daemon beside this peer, which is then one of those that pin, refers to files where they lie
    /// ([`Entry::origin`](crate::adder::Entry::origin)) instead of copying them; others get copies. What comes from an address is copied everywhere, as by
    /// the reference, which copies all. Daemon and peer have to see
    /// the files by the same paths, and each is read once more before anything is pinned.
    ///
    /// With `local` blocks go to this peer's daemon alone. With `shard` content of one root is split by
    /// `pin.shard_size`, `local` means nothing, and what was pinned goes again when a later step fails.
    ///
    /// With `resume` a CAR that breaks off can go on later: what arrived stays on its destinations, and
    /// [`Cluster::interrupted_add`] says where the CAR goes on. The content of the next add with this key is the rest of it,
    /// and its lines and pins are those of the whole. It goes on with the destinations that it had; a daemon that lost blocks
    /// meanwhile gets them from the others when it pins. It goes on as well when the peer was stopped meanwhile, and begins
    /// anew when it was killed.
    ///
    /// # Errors
    /// `QueueFull` when [`ADDS_MAX`] adds run, `ReadOnly` in follower mode, `NotEnoughPeers` before the first block,
    /// `Unavailable` when no destination has all blocks, `InvalidInput` for content and options that mean nothing, `Conflict`
    /// for an add that cannot go on there, or runs; `ShutDown`; as [`Cluster::pin`]. With `no_copy` also `Unsupported` when
    /// the daemon keeps no references, and `InvalidInput` for files that it cannot refer to, or that are no longer what was
    /// added.
    pub fn add(
        &self,
        content: impl Content + 'static,
        options: AddOptions,
    ) -> BoxStream<'static, Result<AddEvent>> {
        let import: Import =
            |content, options, sink, lines| Box::pin(adder::import(content, options, sink, lines));
        self.inner.adding(content, options, import)
    }

    /// Adds content as [`Cluster::add`] does, and returns when all roots are pinned, with their pins; with none when
    /// `no_pin` is set. Dropping it gives the add up.
    ///
    /// # Errors
    /// As [`Cluster::add`].
    pub async fn add_all(&self, content: impl Content + 'static, options: AddOptions) -> Result<Vec<Pin>> {
        let mut events = self.add(content, options);
        let mut pins = Vec::new();
        while let Some(event) = events.try_next().await? {
            if let AddEvent::Pinned(pin) = event {
                pins.push(*pin);
            }
        }
        Ok(pins)
    }
}

impl Inner {
    /// The stream of one add. Nothing happens before it is polled.
    fn adding(
        self: &Arc<Self>,
        content: impl Content + 'static,
        options: AddOptions,
        import: Import,
    ) -> BoxStream<'static, Result<AddEvent>> {
        let inner = Arc::clone(self);
        stream::once(async move {
            inner.check_writable()?;
            let turn = Arc::clone(&inner.adds.room).try_acquire_owned().map_err(|_| {
                let text = format!("{ADDS_MAX} adds are running on this peer; try again later");
                Error::new(ErrorKind::QueueFull, text).component(COMPONENT)
            })?;
            let (tell, lines) = Lines::new(LINES_MAX);
            let peer = Arc::clone(&inner);
            let work =
                Box::pin(async move { peer.add(Box::new(content), options, tell, import, turn).await });
            Ok(stream::try_unfold(Adding { inner, lines, work, ended: None }, Adding::next))
        })
        .try_flatten()
        .boxed()
    }

    async fn add(
        self: &Arc<Self>,
        mut content: Box<dyn Content>,
        mut options: AddOptions,
        lines: Lines,
        import: Import,
        turn: OwnedSemaphorePermit,
    ) -> Result<Vec<Pin>> {
        if options.no_copy {
            options = by_reference::options(&options)?;
        }
        if let Some(resume) = options.resume.clone() {
            return self.add_resumable(content, options, resume, lines, turn).await;
        }
        let _turn = turn;
        let host = Arc::new(Host::new(self, &options)?);
        if options.shard {
            if options.no_pin {
                let text = "shard and no-pin exclude each other: shards are found by their pins alone";
                return Err(Error::invalid_input(text).component(COMPONENT));
            }
            let pin = host.pin.clone();
            let mut sink = ShardSink::new(Arc::clone(&host) as _, host, pin, lines.clone());
            let sharded = async {
                let roots = import(&mut *content, &options, &mut sink, &lines).await?;
                sink.finish(&only_root(&roots)?).await
            };
            return match sharded.await {
                Ok(meta) => Ok(vec![meta]),
                Err(error) => {
                    sink.give_up().await;
                    Err(error)
                }
            };
        }
        let (roots, allocations) = if options.no_copy {
            by_reference::add(self, content, &options, &host, &lines, import).await?
        } else {
            again::add(&mut *content, &options, &host, &lines, import).await?
        };
        if options.no_pin {
            return Ok(Vec::new());
        }
        self.pin_roots(&roots, &host.pin, &allocations).await
    }

    /// Pins all roots, or as far as one batch goes none.
    async fn pin_roots(
        &self,
        roots: &[Root],
        options: &PinOptions,
        allocations: &[PeerId],
    ) -> Result<Vec<Pin>> {
        let mut pins: Vec<Pin> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for root in roots.iter().filter(|root| seen.insert(root.cid)) {
            let mut pin = Pin::new(root.cid, options.clone());
            pin.allocations = allocations.to_vec();
            let existing = self.state.get(&root.cid).await?;
            pins.push(self.prepare(pin, existing.as_ref())?.pin);
        }
        if let [pin] = &pins[..] {
            self.log_pin(pin.clone()).await?;
            return Ok(pins);
        }
        for batch in pins.chunks(OPERATIONS_MAX) {
            let batch = batch.iter().map(|pin| PinOperation::Pin(Arc::new(pin.clone()))).collect();
            self.log_many(batch).await?;
        }
        Ok(pins)
    }
}

/// The root of sharded content. One, because unpinning it unpins all shards.
fn only_root(roots: &[Root]) -> Result<Cid> {
    match roots {
        [root] => Ok(root.cid),
        roots => Err(Error::invalid_input(format!(
            "sharded content has one root and not {}: wrap it in a directory",
            roots.len()
        ))
        .component(COMPONENT)),
    }
}

impl Adding {
    async fn next(mut self) -> Result<Option<(AddEvent, Self)>> {
        if self.ended.is_none() {
            let cancel = self.inner.life.cancel.clone();
            let ended = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Error::shut_down("cluster")),
                Some(line) = self.lines.recv() => return Ok(Some((AddEvent::Line(line), self))),
                ended = &mut self.work => ended,
            };
            // What it held is let go of, also by who asks for no more.
            self.work = Box::pin(async { Ok(Vec::new()) });
            self.ended = Some(ended.map(Vec::into_iter));
        }
        if let Ok(line) = self.lines.try_recv() {
            return Ok(Some((AddEvent::Line(line), self)));
        }
        match self.ended.take() {
            None => Ok(None),
            Some(Err(error)) => Err(error),
            Some(Ok(mut pins)) => Ok(pins.next().map(|pin| {
                self.ended = Some(Ok(pins));
                (AddEvent::Pinned(Box::new(pin)), self)
            })),
        }
    }
}

/// What one add needs of this peer.
struct Host {
    inner: Arc<Inner>,
    /// How roots and shards are pinned, with what this peer's configuration says where the caller said nothing.
    pin: PinOptions,
    factor: ReplicationFactor,
    local: bool,
    /// Peers that failed when the content was added before.
    avoided: Mutex<Vec<PeerId>>,
    /// The daemon here is to refer to files.
    no_copy: bool,
    referring: Arc<Referring>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("peer", &self.inner.peer)
            .field("factor", &self.factor)
            .finish_non_exhaustive()
    }
}

/// Stands for a CID that nobody knows yet: that of no bytes at all.
fn no_cid() -> Cid {
    const IDENTITY: u64 = 0x00;
    const CODEC_RAW: u64 = 0x55;
    Cid::new_v1(CODEC_RAW, ::cid::multihash::Multihash::wrap(IDENTITY, &[]).unwrap_or_default())
}

impl Host {
    /// Checks what can be checked before there is a CID.
    fn new(inner: &Arc<Inner>, options: &AddOptions) -> Result<Self> {
        let mut pin = options.pin.clone();
        pin.mode = PinMode::Recursive;
        pin.pin_update = None;
        let Prepared { factor, pin } = inner.prepare(Pin::new(no_cid(), pin), None)?;
        Ok(Self {
            inner: Arc::clone(inner),
            pin: pin.options,
            factor,
            // A shard is too large for one daemon, or it would be none.
            local: options.local && !options.shard,
            avoided: Mutex::default(),
            no_copy: options.no_copy,
            referring: Arc::default(),
        })
    }

    async fn allocate(&self, factor: ReplicationFactor, blacklist: &[PeerId]) -> Result<Vec<PeerId>> {
        let mut pin = Pin::new(no_cid(), self.pin.clone());
        if self.refers() {
            // Nobody else can refer to the files.
            pin.options.user_allocations.insert(0, self.inner.peer);
        }
        let metrics = self.inner.allocation_metrics().await?;
        let avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let blacklist = [blacklist, &avoided].concat();
        self.inner.allocate(&pin, factor, &[], &blacklist, &metrics).await
    }

    /// Whether the daemon beside this peer is to refer to files.
    fn refers(&self) -> bool {
        self.no_copy && !self.referring.is_copying()
    }

    /// Chooses none of these peers from now on.
    fn avoid(&self, peers: Vec<PeerId>) {
        self.avoided.lock().unwrap_or_else(PoisonError::into_inner).extend(peers);
    }
}

#[async_trait]
impl Placement for Host {
    async fn choose(&self) -> Result<Choice> {
        let me = self.inner.peer;
        let (mut peers, min) = match self.factor {
            ReplicationFactor::Everywhere => {
                let mut peers = self.inner.consensus.peers().await?;
                // Where there are more than are streamed to, this one is among them.
                peers.sort_by_key(|peer| (*peer != me, *peer));
                (peers, 1)
            }
            ReplicationFactor::Between { min, .. } => {
                (self.allocate(self.factor, &[]).await?, min.get() as usize)
            }
        };
        if self.refers() && !peers.contains(&me) {
            let text = "nocopy: files can be referred to by the IPFS daemon beside this peer alone, which is not among those \
                        that may pin the content";
            return Err(Error::new(ErrorKind::NotEnoughPeers, text).component(COMPONENT));
        }
        if !self.local {
            let replaceable = self.factor != ReplicationFactor::Everywhere && !self.refers();
            return Ok(Choice { destinations: peers, allocations: None, min, replaceable });
        }
        if !peers.contains(&me) && self.pin.user_allocations.is_empty() {
            peers.pop();
            peers.push(me);
        }
        Ok(Choice { destinations: vec![me], allocations: Some(peers), min, replaceable: false })
    }

    async fn another(&self, tried: &[PeerId]) -> Result<Option<PeerId>> {
        let one = ReplicationFactor::new(1, 1)?;
        match self.allocate(one, tried).await {
            Ok(peers) => Ok(peers.first().copied()),
            Err(error) if error.kind() == ErrorKind::NotEnoughPeers => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn put_blocks(&self, peer: &PeerId, blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
        if *peer == self.inner.peer {
            if self.refers() {
                Arc::clone(&self.inner).store_nodes(blocks).await?;
                self.referring.is_stored_here();
                return Ok(());
            }
            Arc::clone(&self.inner).store_blocks(blocks).await
        } else {
            self.inner.client.put_blocks(peer, blocks).await
        }
    }
}

#[async_trait]
impl ShardHost for Host {
    fn local_peer(&self) -> PeerId {
        self.inner.peer
    }

    async fn prepare(&self, pin: Pin) -> Result<Pinned> {
        let before = self.inner.state.get(&pin.cid).await?;
        let now = self.inner.prepare(pin, before.as_ref())?.pin;
        Ok(Pinned { now, before })
    }

    async fn log(&self, operations: Vec<PinOperation>) -> Result<()> {
        self.inner.log_many(operations).await
    }
}

impl fmt::Debug for Adding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adding").field("ended", &self.ended).finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "testing", feature = "consensus-crdt"))]
mod tests;
