//! Calls to other peers: one stream each, with a deadline, and dropped means reset.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_stream::try_stream;
use bytes::Bytes;
use futures::future::Either;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use tokio::io::{AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::time::timeout;

use super::frame::ObjectReader;
use super::method::Method;
use super::msgpack::{Empty, List, Wire, decode, decode_large, malformed};
use super::request::{PinsetDigest, Request, encode_block, encode_service};
use super::server::BLOCK_BYTES_MAX;
use super::wire;
use crate::error::{Error, ErrorKind, Result};
use crate::transport::{PeerStream, PeerTransport};
use crate::types::{Block, Cid, PeerId, PeerInfo, Pin, PinInfo, RepoGc, RepoStat, StatusFilter, Version};

/// How long a call may take, and how long a stream of answers may be silent.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How long logging may take on the other side, which may have to agree with others.
pub const LOG_TIMEOUT: Duration = Duration::from_secs(60);
/// How long collecting garbage may take: one answer at the end, and daemons have much.
pub const REPO_GC_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long the other side may take none of the blocks we send: its daemon has to store them.
pub const BLOCKS_SILENCE_TIMEOUT: Duration = Duration::from_secs(300);
/// Most items in a page of answers.
pub const PAGE_ITEMS_MAX: usize = 1024;
/// Most peers that are asked at a time.
pub const FAN_OUT_PEERS_MAX: usize = 64;
/// Most peers in one answer of [`PeerClient::peers`].
const PEERS_MAX: usize = 10_000;
/// Longest reply, in bytes.
const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest list of blocks that garbage collection removed, in bytes: it comes in one piece.
const REPO_GC_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most blocks and their fields in that list.
const REPO_GC_ITEMS_MAX: usize = 2 * 1024 * 1024;
/// Longest item of a stream of replies, in bytes.
const ITEM_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest header of a reply, in bytes: it has the text of an error.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Longest text of an error that is kept, in characters.
const ERROR_CHARACTERS_MAX: usize = 4096;
/// How long the other side gets to say why it takes no more, and how long our end of a finished call may take.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes that are written at once while blocks are sent.
const WRITE_BYTES: usize = 64 * 1024;

const COMPONENT: &str = "rpc";

/// The calls that a peer can make to another.
///
/// Every call is cancel-safe: dropping it resets its stream, and the other side stops working on it. Kinds of errors,
/// for all of them: `Unavailable` (cannot be reached, or broke off), `Timeout`, `Unauthorized` (the other side does not
/// trust us: callers leave it out), `Unsupported` (it lacks the call, as Go peers lack ours), `Remote` with the text of
/// the other side, `Corrupt` (an answer that is none), `ShutDown`.
#[derive(Clone, Debug)]
pub struct PeerClient {
    transport: Arc<dyn PeerTransport>,
}

impl PeerClient {
    /// A client over a transport.
    pub fn new(transport: Arc<dyn PeerTransport>) -> Self {
        Self { transport }
    }

    /// Who a peer is, after [`CALL_TIMEOUT`] at most.
    ///
    /// # Errors
    /// As at the type; `Corrupt` when it says that it is another.
    pub async fn id(&self, peer: &PeerId) -> Result<PeerInfo> {
        let info: wire::Peer = self.call(peer, Request::Id, CALL_TIMEOUT).await?;
        is_itself(peer, info.try_into()?)
    }

    /// The same by the call that Go peers use for `peers ls`.
    ///
    /// # Errors
    /// As [`Self::id`].
    pub async fn id_stream(&self, peer: &PeerId) -> Result<PeerInfo> {
        let mut pages = self.pages::<wire::Peer, _>(peer, Request::IdStream, PeerInfo::try_from);
        let page = pages.next().await.transpose()?.unwrap_or_default();
        let info = page.into_iter().next();
        is_itself(peer, info.ok_or_else(|| malformed(format!("{peer} did not say who it is")))?)
    }

    /// Joins through a peer: gives what it now knows of us, with itself among the cluster peers. It calls
    /// [`Request::Id`] back meanwhile.
    ///
    /// # Errors
    /// As at the type.
    pub async fn peer_add(&self, peer: &PeerId, own_id: &PeerId) -> Result<PeerInfo> {
        self.call::<wire::Peer>(peer, Request::PeerAdd(*own_id), CALL_TIMEOUT).await?.try_into()
    }

    /// The version a peer runs.
    ///
    /// # Errors
    /// As at the type.
    pub async fn version(&self, peer: &PeerId) -> Result<Version> {
        let version: wire::Version = self.call(peer, Request::Version, CALL_TIMEOUT).await?;
        Ok(Version { version: version.version })
    }

    /// The members a peer sees, with what they say of themselves; one that could not be asked has an error. Ends after
    /// its first error.
    pub fn peers(&self, peer: &PeerId) -> BoxStream<'static, Result<PeerInfo>> {
        let pages = self.pages::<wire::Peer, _>(peer, Request::Peers, PeerInfo::try_from);
        let items = pages.flat_map(|page| match page {
            Ok(items) => Either::Left(stream::iter(items.into_iter().map(Ok))),
            Err(error) => Either::Right(stream::iter([Err(error)])),
        });
        let peer = *peer;
        let bounded = items.enumerate().map(move |(index, item)| {
            if index < PEERS_MAX {
                item
            } else {
                Err(malformed(format!("{peer} lists over {PEERS_MAX} peers")))
            }
        });
        bounded.take(PEERS_MAX + 1).boxed()
    }

    /// Where a CID stands on a peer.
    ///
    /// # Errors
    /// As at the type.
    pub async fn status(&self, peer: &PeerId, cid: &Cid) -> Result<PinInfo> {
        self.pin_info(peer, Request::Status(*cid)).await
    }

    /// Where everything stands on a peer, in no promised order, in pages of 1 to [`PAGE_ITEMS_MAX`] as they arrive. Ends
    /// after its first error, with `Timeout` after [`CALL_TIMEOUT`] of silence.
    pub fn status_all(
        &self,
        peer: &PeerId,
        filter: StatusFilter,
    ) -> BoxStream<'static, Result<Vec<PinInfo>>> {
        self.pin_infos(peer, Request::StatusAll(filter))
    }

    /// As [`Self::status_all`], in ascending order of the binary CID and only what comes after `after`; an answer in
    /// another order is `Corrupt`. Only our own peers have it: `Unsupported` else.
    pub fn status_all_sorted(
        &self,
        peer: &PeerId,
        filter: StatusFilter,
        after: Option<Cid>,
    ) -> BoxStream<'static, Result<Vec<PinInfo>>> {
        let mut last = after.map(|cid| cid.to_bytes());
        let asked = *peer;
        let pages = self.pin_infos(peer, Request::StatusAllSorted { filter, after });
        let checked = pages.map(move |page| {
            let page = page?;
            for info in &page {
                let key = Some(info.cid.to_bytes());
                if key <= last {
                    return Err(malformed(format!("{asked} lists {} out of order", info.cid)));
                }
                last = key;
            }
            Ok(page)
        });
        until_error(checked).boxed()
    }

    /// Where these CIDs stand on a peer, in their order, at most [`STATUS_OF_CIDS_MAX`](super::STATUS_OF_CIDS_MAX), in
    /// pages as they arrive; an answer about others, or about fewer, is `Corrupt`. Ends after its first error. Only our
    /// own peers have it: `Unsupported` else.
    pub fn status_of(&self, peer: &PeerId, cids: Vec<Cid>) -> BoxStream<'static, Result<Vec<PinInfo>>> {
        let asked = *peer;
        let mut pages = self.pin_infos(peer, Request::StatusOf(cids.clone()));
        let checked = try_stream! {
            let mut left = cids.into_iter();
            while let Some(page) = pages.next().await {
                let page = page?;
                if page.iter().any(|info| left.next() != Some(info.cid)) {
                    Err(malformed(format!("{asked} answers about other cids than it was asked about")))?;
                }
                yield page;
            }
            if left.len() > 0 {
                Err(malformed(format!("{asked} says nothing about {} cids it was asked about", left.len())))?;
            }
        };
        checked.boxed()
    }

    /// Retries a CID on a peer and gives its status after queueing.
    ///
    /// # Errors
    /// As at the type.
    pub async fn recover(&self, peer: &PeerId, cid: &Cid) -> Result<PinInfo> {
        self.pin_info(peer, Request::Recover(*cid)).await
    }

    /// Retries everything that failed on a peer, as [`Self::status_all`] gives what was queued again.
    pub fn recover_all_local(&self, peer: &PeerId) -> BoxStream<'static, Result<Vec<PinInfo>>> {
        self.pin_infos(peer, Request::RecoverAllLocal)
    }

    /// Makes what a peer reports of a CID match its daemon. Only our own peers have it: `Unsupported` else.
    ///
    /// # Errors
    /// As at the type.
    pub async fn sync(&self, peer: &PeerId, cid: &Cid) -> Result<PinInfo> {
        self.pin_info(peer, Request::Sync(*cid)).await
    }

    /// The same for everything: gives the items whose status changed. Only our own peers have it.
    pub fn sync_all(&self, peer: &PeerId) -> BoxStream<'static, Result<Vec<PinInfo>>> {
        self.pin_infos(peer, Request::SyncAll)
    }

    /// A peer's pinset in short. Only our own peers have it: `Unsupported` else.
    ///
    /// # Errors
    /// As at the type.
    pub async fn pinset_digest(&self, peer: &PeerId) -> Result<PinsetDigest> {
        self.call::<wire::Digest>(peer, Request::PinsetDigest, CALL_TIMEOUT).await?.try_into()
    }

    /// Collects garbage on a peer's daemon; waits for it [`REPO_GC_TIMEOUT`].
    ///
    /// # Errors
    /// As at the type.
    pub async fn repo_gc(&self, peer: &PeerId) -> Result<RepoGc> {
        let gc = self.reply(peer, Request::RepoGcLocal, REPO_GC_TIMEOUT, REPO_GC_BYTES_MAX).await?;
        Ok(decode_large::<wire::RepoGc>(&gc, REPO_GC_ITEMS_MAX)?.said_by(*peer))
    }

    /// Disk use of a peer's daemon.
    ///
    /// # Errors
    /// As at the type.
    pub async fn repo_stat(&self, peer: &PeerId) -> Result<RepoStat> {
        let stat: wire::RepoStat = self.call(peer, Request::RepoStat, CALL_TIMEOUT).await?;
        Ok(RepoStat { repo_size: stat.repo_size, storage_max: stat.storage_max })
    }

    /// Daemons that a peer's daemon is connected to.
    ///
    /// # Errors
    /// As at the type.
    pub async fn swarm_peers(&self, peer: &PeerId) -> Result<Vec<PeerId>> {
        Ok(self.call::<List<PeerId>>(peer, Request::SwarmPeers, CALL_TIMEOUT).await?.into_vec())
    }

    /// Stores blocks on a peer; Ok when its daemon has all of them. They are taken from the stream as fast as the other
    /// side stores them: whoever feeds several peers from one source goes at the pace of the slowest. The source may be
    /// silent for as long as it likes; the peer for [`BLOCKS_SILENCE_TIMEOUT`].
    ///
    /// # Errors
    /// As at the type; `InvalidInput` for a block over [`BLOCK_BYTES_MAX`]; the error of the source.
    pub async fn put_blocks(&self, peer: &PeerId, blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
        let call = Call { peer: *peer, method: Method::BlockStream };
        let (mut write, mut replies) =
            call.within(CALL_TIMEOUT, self.begin(call, &Request::BlockStream)).await?;
        let sending = send_blocks(call, &mut write, blocks);
        let answer = replies.end();
        tokio::pin!(sending, answer);
        let sent = tokio::select! {
            biased;
            answer = &mut answer => {
                answer?;
                return Err(call.error(ErrorKind::Remote, "it ended the call before it had all blocks"));
            }
            sent = &mut sending => sent,
        };
        match sent {
            Ok(()) => call.within(BLOCKS_SILENCE_TIMEOUT, answer).await,
            // What we notice first is that nothing can be written; the reason may be on its way.
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                match timeout(LAST_WORDS_TIMEOUT, answer).await {
                    Ok(Err(reason)) => Err(reason),
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Has a peer log a pin, for consensus with a leader; after [`LOG_TIMEOUT`] at most.
    ///
    /// # Errors
    /// As at the type.
    pub async fn log_pin(&self, peer: &PeerId, pin: Pin) -> Result<()> {
        self.done(peer, Request::LogPin(Box::new(pin))).await
    }

    /// Has a peer log an unpin, as [`Self::log_pin`].
    ///
    /// # Errors
    /// As at the type.
    pub async fn log_unpin(&self, peer: &PeerId, cid: &Cid) -> Result<()> {
        self.done(peer, Request::LogUnpin(*cid)).await
    }

    /// Has a peer add a member to the consensus, as [`Self::log_pin`].
    ///
    /// # Errors
    /// As at the type.
    pub async fn add_peer(&self, peer: &PeerId, member: &PeerId) -> Result<()> {
        self.done(peer, Request::AddPeer(*member)).await
    }

    /// Has a peer remove a member from the consensus, as [`Self::log_pin`].
    ///
    /// # Errors
    /// As at the type.
    pub async fn rm_peer(&self, peer: &PeerId, member: &PeerId) -> Result<()> {
        self.done(peer, Request::RmPeer(*member)).await
    }

    async fn done(&self, peer: &PeerId, request: Request) -> Result<()> {
        self.call::<Empty>(peer, request, LOG_TIMEOUT).await.map(drop)
    }

    async fn pin_info(&self, peer: &PeerId, request: Request) -> Result<PinInfo> {
        self.call::<wire::PinInfo>(peer, request, CALL_TIMEOUT).await?.said_by(*peer)
    }

    fn pin_infos(&self, peer: &PeerId, request: Request) -> BoxStream<'static, Result<Vec<PinInfo>>> {
        let asked = *peer;
        self.pages(peer, request, move |info: wire::PinInfo| info.said_by(asked))
    }

    /// Opens a stream and writes the header and the argument.
    async fn begin(&self, call: Call, request: &Request) -> Result<(WriteHalf<PeerStream>, Replies)> {
        let stream = self.transport.open(&call.peer, &call.method.protocol()).await?;
        let (read, mut write) = split(stream);
        let mut bytes = encode_service(call.method);
        bytes.extend(request.encode_argument().unwrap_or_default());
        let written = async {
            write.write_all(&bytes).await?;
            write.flush().await
        };
        written.await.map_err(|error| call.broke(error))?;
        Ok((
            write,
            Replies { call, reader: ObjectReader::new(read), header_read: false, fine_header: Vec::new() },
        ))
    }

    async fn call<T: Wire>(&self, peer: &PeerId, request: Request, limit: Duration) -> Result<T> {
        decode(&self.reply(peer, request, limit, REPLY_BYTES_MAX).await?)
    }

    /// The bytes that answer a call.
    async fn reply(
        &self,
        peer: &PeerId,
        request: Request,
        limit: Duration,
        bytes_max: usize,
    ) -> Result<Bytes> {
        let call = Call { peer: *peer, method: request.method() };
        let (mut write, reply) = call
            .within(limit, async {
                let (write, mut replies) = self.begin(call, &request).await?;
                let reply = replies.next(bytes_max).await?;
                Ok((write, reply))
            })
            .await?;
        // Not before the reply is here: a half-closed stream cancels the method on the other side.
        let _ = timeout(LAST_WORDS_TIMEOUT, write.shutdown()).await;
        reply.ok_or_else(|| call.error(ErrorKind::Unavailable, "it ended the call without a reply"))
    }

    fn pages<T, U>(
        &self,
        peer: &PeerId,
        request: Request,
        convert: impl Fn(T) -> Result<U> + Send + Sync + 'static,
    ) -> BoxStream<'static, Result<Vec<U>>>
    where
        T: Wire + Send,
        U: Send + 'static,
    {
        let (client, call) = (self.clone(), Call { peer: *peer, method: request.method() });
        let read = move |item: &[u8]| convert(decode(item)?);
        let pages = try_stream! {
            let mut replies = call
                .within(CALL_TIMEOUT, async {
                    let (mut write, replies) = client.begin(call, &request).await?;
                    // There are no more arguments. Streams, unlike single calls, go on after that.
                    write.shutdown().await.map_err(|error| call.broke(error))?;
                    Ok(replies)
                })
                .await?;
            while let Some(first) = call.within(CALL_TIMEOUT, replies.next(ITEM_BYTES_MAX)).await? {
                let first = read(&first)?;
                let mut page = vec![first];
                let mut failed = None;
                while page.len() < PAGE_ITEMS_MAX {
                    match replies.next_arrived(ITEM_BYTES_MAX).and_then(|item| item.map(|item| read(&item)).transpose()) {
                        Ok(Some(item)) => page.push(item),
                        Ok(None) => break,
                        Err(error) => {
                            failed = Some(error);
                            break;
                        }
                    }
                }
                yield page;
                if let Some(error) = failed {
                    Err(error)?;
                }
            }
        };
        pages.boxed()
    }
}

/// Asks many peers, at most [`FAN_OUT_PEERS_MAX`] at a time, and gives what each said as it comes.
pub fn fan_out<T, F>(
    peers: impl IntoIterator<Item = PeerId>,
    mut call: impl FnMut(PeerId) -> F,
) -> impl Stream<Item = (PeerId, T)>
where
    F: Future<Output = T>,
{
    let asked = peers.into_iter().map(move |peer| {
        let answer = call(peer);
        async move { (peer, answer.await) }
    });
    stream::iter(asked).buffer_unordered(FAN_OUT_PEERS_MAX)
}

/// What is called where, for errors.
#[derive(Clone, Copy, Debug)]
struct Call {
    peer: PeerId,
    method: Method,
}

impl Call {
    fn error(&self, kind: ErrorKind, why: &str) -> Error {
        Error::new(kind, format!("calling {} of {}: {why}", self.method, self.peer)).component(COMPONENT)
    }

    fn broke(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::InvalidData => {
                self.error(ErrorKind::Corrupt, &error.to_string()).with_source(error)
            }
            _ => {
                self.error(ErrorKind::Unavailable, &format!("the stream broke ({error})")).with_source(error)
            }
        }
    }

    async fn within<T>(&self, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
        timeout(limit, work).await.unwrap_or_else(|_| {
            Err(self.error(ErrorKind::Timeout, &format!("no answer within {}s", limit.as_secs())))
        })
    }

    /// What a header says.
    fn check(&self, header: &[u8]) -> Result<()> {
        const SERVER_ERROR: i64 = 1;
        const AUTHORIZATION_ERROR: i64 = 3;
        let header: wire::Response = decode(header)?;
        if header.error.is_empty() && header.error_type == 0 {
            return Ok(());
        }
        let kind = match header.error_type {
            AUTHORIZATION_ERROR => ErrorKind::Unauthorized,
            SERVER_ERROR if header.error.starts_with("rpc: can't find ") => ErrorKind::Unsupported,
            _ => ErrorKind::Remote,
        };
        let text: String = header.error.chars().take(ERROR_CHARACTERS_MAX).collect();
        Err(Error::new(kind, text).component(COMPONENT))
    }
}

/// The replies of a call: pairs of a header and an item.
struct Replies {
    call: Call,
    reader: ObjectReader<ReadHalf<PeerStream>>,
    header_read: bool,
    /// The last header that was fine: in a listing they are all alike.
    fine_header: Vec<u8>,
}

impl Replies {
    fn check(&mut self, header: &[u8]) -> Result<()> {
        if header != self.fine_header {
            self.call.check(header)?;
            self.fine_header = header.to_vec();
        }
        self.header_read = true;
        Ok(())
    }

    /// The next item; none at the end. Cancel-safe.
    async fn next(&mut self, bytes_max: usize) -> Result<Option<Bytes>> {
        let call = self.call;
        if !self.header_read {
            let header = self.reader.next(HEADER_BYTES_MAX).await.map_err(|error| call.broke(error))?;
            let Some(header) = header else { return Ok(None) };
            self.check(&header)?;
        }
        let item = self.reader.next(bytes_max).await.map_err(|error| call.broke(error))?;
        let item = item.ok_or_else(|| call.error(ErrorKind::Unavailable, "it broke off within a reply"))?;
        self.header_read = false;
        Ok(Some(item))
    }

    /// The next item, if all of it is here.
    fn next_arrived(&mut self, bytes_max: usize) -> Result<Option<Bytes>> {
        let call = self.call;
        if !self.header_read {
            let header = self.reader.next_arrived(HEADER_BYTES_MAX).map_err(|error| call.broke(error))?;
            let Some(header) = header else { return Ok(None) };
            self.check(&header)?;
        }
        let item = self.reader.next_arrived(bytes_max).map_err(|error| call.broke(error))?;
        let Some(item) = item else { return Ok(None) };
        self.header_read = false;
        Ok(Some(item))
    }

    /// Waits for the end of a call without replies.
    async fn end(&mut self) -> Result<()> {
        match self.next(HEADER_BYTES_MAX).await? {
            None => Ok(()),
            Some(_) => Err(self.call.error(ErrorKind::Corrupt, "a reply where there is none")),
        }
    }
}

fn is_itself(peer: &PeerId, info: PeerInfo) -> Result<PeerInfo> {
    if info.id == *peer { Ok(info) } else { Err(malformed(format!("{peer} says that it is {}", info.id))) }
}

/// The stream up to its first error.
fn until_error<T>(items: impl Stream<Item = Result<T>>) -> impl Stream<Item = Result<T>> {
    items.scan(false, |failed, item| {
        let ended = *failed;
        *failed = item.is_err();
        futures::future::ready(if ended { None } else { Some(item) })
    })
}

async fn send_blocks(
    call: Call,
    write: &mut WriteHalf<PeerStream>,
    mut blocks: BoxStream<'static, Result<Block>>,
) -> Result<()> {
    while let Some(block) = blocks.next().await {
        let block = block?;
        if block.data.len() > BLOCK_BYTES_MAX {
            let text = format!(
                "block {} of {} bytes, at most {BLOCK_BYTES_MAX} can be sent",
                block.cid,
                block.data.len()
            );
            return Err(Error::invalid_input(text).component(COMPONENT));
        }
        let bytes = encode_block(&block);
        for part in bytes.chunks(WRITE_BYTES) {
            call.within(BLOCKS_SILENCE_TIMEOUT, write_part(call, write, part)).await?;
        }
    }
    call.within(BLOCKS_SILENCE_TIMEOUT, async { write.shutdown().await.map_err(|error| call.broke(error)) })
        .await
}

async fn write_part(call: Call, write: &mut (impl AsyncWrite + Unpin), part: &[u8]) -> Result<()> {
    let written = async {
        write.write_all(part).await?;
        write.flush().await
    };
    written.await.map_err(|error| call.broke(error))
}
