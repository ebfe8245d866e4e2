//! Serving calls of other peers.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::frame::ObjectReader;
use super::method::{Access, EXTRA_PROTOCOL, Found, Method, RPC_PROTOCOL, SMALL_BYTES_MAX, Shape, find};
use super::msgpack::{decode, encode, malformed};
use super::request::{Reply, Request, service_id};
use super::wire;
use super::{Authorizer, RequestHandler};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::{PeerStream, PeerTransport, Protocol, StreamHandler};
use crate::types::{Block, PeerId};

/// How long a caller may take to send a header and its argument.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Most calls of peers that are not trusted that are served at a time.
pub const OPEN_CALLS_MAX: usize = 256;
/// Most calls of trusted peers that are served at a time.
pub const TRUSTED_CALLS_MAX: usize = 1024;
/// Longest data of a block that is sent or taken, in bytes.
pub const BLOCK_BYTES_MAX: usize = 15 * 1024 * 1024;
/// How long a call waits for its turn when too many are served.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a caller may take nothing of what we write. It may be passing a listing on to somebody slow.
const WRITE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a listing may be silent: whoever asked for it left long before, which shows only when it is written to.
const LISTING_SILENCE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a sender of blocks may send nothing. It may be reading them from somebody slow.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(600);
/// How long the caller gets to read the end of what we wrote before the stream is dropped, which may reset it.
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes that a caller sends us while that lasts.
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most bytes after the argument of a call that are ignored.
const STRAY_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a listing that are written at once, and at most one item more.
const WRITE_BYTES: usize = 64 * 1024;

const COMPONENT: &str = "rpc";

/// Serves calls. Cloning gives another handle.
///
/// As a [`StreamHandler`] it serves the reference's calls ([`RPC_PROTOCOL`]); [`RpcServer::accept_on`] adds ours.
#[derive(Clone)]
pub struct RpcServer {
    inner: Arc<Inner>,
}

struct Inner {
    handler: Arc<dyn RequestHandler>,
    authorizer: Arc<dyn Authorizer>,
    refused: Vec<Method>,
    open_calls: Semaphore,
    trusted_calls: Semaphore,
}

impl RpcServer {
    /// A server that answers what the authorizer lets through.
    pub fn new(handler: Arc<dyn RequestHandler>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self::refusing(handler, authorizer, [])
    }

    /// The same, and `refused` are closed to everybody (a follower's daemon collects no garbage for others).
    pub fn refusing(
        handler: Arc<dyn RequestHandler>,
        authorizer: Arc<dyn Authorizer>,
        refused: impl IntoIterator<Item = Method>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                handler,
                authorizer,
                refused: refused.into_iter().collect(),
                open_calls: Semaphore::new(OPEN_CALLS_MAX),
                trusted_calls: Semaphore::new(TRUSTED_CALLS_MAX),
            }),
        }
    }

    /// Serves [`RPC_PROTOCOL`] and [`EXTRA_PROTOCOL`] on a transport from now on.
    ///
    /// # Errors
    /// `Conflict` when one of them is served already; `ShutDown`.
    pub fn accept_on(&self, transport: &dyn PeerTransport) -> Result<()> {
        transport.accept(Protocol::new(RPC_PROTOCOL), Arc::new(self.clone()))?;
        transport.accept(Protocol::new(EXTRA_PROTOCOL), Arc::new(Extra(self.clone())))
    }
}

impl fmt::Debug for RpcServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcServer").field("handler", &self.inner.handler).finish_non_exhaustive()
    }
}

#[async_trait]
impl StreamHandler for RpcServer {
    async fn handle(&self, from: PeerId, stream: PeerStream) {
        self.inner.serve(from, stream, false).await;
    }
}

/// Serves the calls that are ours.
#[derive(Debug)]
struct Extra(RpcServer);

#[async_trait]
impl StreamHandler for Extra {
    async fn handle(&self, from: PeerId, stream: PeerStream) {
        self.0.inner.serve(from, stream, true).await;
    }
}

/// What the second half of an error's header says.
#[derive(Clone, Copy)]
enum ErrorType {
    Method = 0,
    Server = 1,
    Authorization = 3,
}

type Reader = ObjectReader<ReadHalf<PeerStream>>;

/// A stream whose header was read.
struct Call {
    from: PeerId,
    service: wire::ServiceId,
    reader: Reader,
    write: WriteHalf<PeerStream>,
}

impl Inner {
    /// Serves one call to its end. What goes wrong on the way is the caller's, and costs one line at debug level.
    async fn serve(&self, from: PeerId, stream: PeerStream, extra: bool) {
        let (read, write) = split(stream);
        let mut reader = ObjectReader::new(read);
        let service = match timeout(REQUEST_TIMEOUT, read_header(&mut reader)).await {
            Ok(Ok(service)) => service,
            Ok(Err(error)) => return tracing::debug!(%from, %error, "no call could be read"),
            Err(_) => return tracing::debug!(%from, "a call did not come in time"),
        };
        let call = Call { from, service, reader, write };
        let name = format!("{}.{}", call.service.service, call.service.method);
        if let Err(error) = self.answer(call, extra).await {
            tracing::debug!(%from, method = name, %error, "a call broke off");
        }
    }

    async fn answer(&self, call: Call, extra: bool) -> io::Result<()> {
        let nil = vec![0xc0];
        let from = call.from;
        let wire::ServiceId { service, method: name } = call.service.clone();
        // In this order: exists, may be called, can be read.
        let found = find(&service, &name, extra);
        let access = match found {
            Found::NoService => {
                let text = format!("rpc: can't find service {service}");
                return call.refuse(ErrorType::Server, &text, nil).await;
            }
            Found::NoMethod => {
                let text = format!("rpc: can't find method {name}");
                return call.refuse(ErrorType::Server, &text, nil).await;
            }
            Found::Local => Access::Local,
            Found::Method(method) if self.refused.contains(&method) => Access::Local,
            Found::Method(method) => method.access(),
        };
        // Strangers take turns among themselves, so that no number of them keeps out those who are trusted.
        let calls = match access {
            Access::Open | Access::Trusted if self.authorizer.is_trusted(&from) => Some(&self.trusted_calls),
            Access::Open => Some(&self.open_calls),
            Access::Trusted | Access::Local => None,
        };
        let (Some(calls), Found::Method(method)) = (calls, found) else {
            let text = format!("client does not have permissions to call {service}.{name}");
            return call.refuse(ErrorType::Authorization, &text, nil).await;
        };
        let Some(_turn) = turn(calls).await else {
            let text = "too many calls at a time, try later";
            return call.refuse(ErrorType::Server, text, Reply::encode_zero(method)).await;
        };
        match method.shape() {
            Shape::Unary => self.unary(call, method).await,
            Shape::Stream => self.stream(call, method).await,
            Shape::BlockStream => self.blocks(call).await,
        }
    }

    async fn unary(&self, mut call: Call, method: Method) -> io::Result<()> {
        let argument = call.argument(method).await?;
        let Some(argument) = argument else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        let zero = || Reply::encode_zero(method);
        let request = match Request::decode(method, Some(&argument)) {
            Ok(request) => request,
            Err(error) => return call.refuse(ErrorType::Server, error.message(), zero()).await,
        };
        let reply = tokio::select! {
            biased;
            reply = self.handler.call(call.from, request) => reply,
            // The reference's callers keep their half open until they have the reply. One that ends it has left.
            end = call.reader.drain(STRAY_BYTES_MAX) => {
                end?;
                Err(Error::new(ErrorKind::Cancelled, "context canceled"))
            }
        };
        match reply {
            Ok(reply) => match reply.encode(method) {
                Some(body) => call.reply(body).await,
                None => {
                    tracing::error!(%method, "the handler of calls gave the answer of another call");
                    call.refuse(ErrorType::Server, "internal error", zero()).await
                }
            },
            Err(error) => call.refuse(ErrorType::Method, error.message(), zero()).await,
        }
    }

    async fn stream(&self, mut call: Call, method: Method) -> io::Result<()> {
        let nil = vec![0xc0];
        let argument = match method {
            Method::StatusAll | Method::StatusAllSorted | Method::StatusOf => call.argument(method).await?,
            // These have none, and a caller that says nothing more is not waited for.
            _ => None,
        };
        let request = match Request::decode(method, argument.as_deref()) {
            Ok(request) => request,
            Err(error) => return call.refuse(ErrorType::Server, error.message(), nil).await,
        };
        let header = encode(&wire::Response { service: service_id(method), ..Default::default() });
        let Call { from, reader, write, .. } = &mut call;
        let replies = async {
            let begun = timeout(LISTING_SILENCE_TIMEOUT, self.handler.stream(*from, request));
            let mut pages = match begun.await.map_err(io::Error::from)? {
                Ok(pages) => pages,
                Err(error) => return Ok(Some(error)),
            };
            let mut bytes = Vec::new();
            while let Some(page) =
                timeout(LISTING_SILENCE_TIMEOUT, pages.next()).await.map_err(io::Error::from)?
            {
                let page = match page {
                    Ok(page) => page,
                    Err(error) => return Ok(Some(error)),
                };
                for index in 0..page.len() {
                    bytes.extend_from_slice(&header);
                    if !page.write_item(index, method, &mut bytes) {
                        tracing::error!(%method, "the handler of calls gave the answer of another call");
                        return Ok(Some(Error::internal("internal error")));
                    }
                    if bytes.len() >= WRITE_BYTES {
                        send(write, &bytes).await?;
                        bytes.clear();
                    }
                }
                // A page may be long in coming: nothing that is known waits for it.
                send(write, &bytes).await?;
                bytes.clear();
            }
            io::Result::Ok(None)
        };
        let mut replies = Box::pin(replies);
        let ended = tokio::select! {
            biased;
            ended = &mut replies => ended?,
            end = reader.drain(STRAY_BYTES_MAX) => {
                // A clean end only says that there are no more arguments; an error that the caller is gone.
                end?;
                replies.as_mut().await?
            }
        };
        drop(replies);
        match ended {
            None => call.finish().await,
            Some(error) => call.refuse(ErrorType::Method, error.message(), nil).await,
        }
    }

    async fn blocks(&self, call: Call) -> io::Result<()> {
        let Call { from, service, reader, mut write } = call;
        let (lend, lent) = tokio::sync::oneshot::channel();
        let stored = self.handler.put_blocks(from, incoming_blocks(reader, lend)).await;
        // Whoever stores the blocks may hold the stream of them a little longer than its answer took.
        let reader = timeout(LINGER_TIMEOUT, lent).await.ok().and_then(std::result::Result::ok);
        let Some(reader) = reader else {
            // Nobody can wait for the caller's end then, but it can be told.
            if let Err(error) = stored {
                send(&mut write, &failure(service, ErrorType::Method, error.message(), vec![0xc0])).await?;
            }
            return write.shutdown().await;
        };
        let call = Call { from, service, reader, write };
        match stored {
            Ok(()) => call.finish().await,
            Err(error) => call.refuse(ErrorType::Method, error.message(), vec![0xc0]).await,
        }
    }
}

async fn read_header(reader: &mut Reader) -> Result<wire::ServiceId> {
    match reader.next(SMALL_BYTES_MAX).await {
        Ok(Some(header)) => decode(&header),
        Ok(None) => Err(malformed("the stream ended before a call")),
        Err(error) => Err(Error::io("reading a call", error)),
    }
}

async fn turn(calls: &Semaphore) -> Option<SemaphorePermit<'_>> {
    timeout(TURN_TIMEOUT, calls.acquire()).await.ok()?.ok()
}

/// Writes, as long as the caller takes something.
async fn send(write: &mut WriteHalf<PeerStream>, bytes: &[u8]) -> io::Result<()> {
    for part in bytes.chunks(WRITE_BYTES) {
        timeout(WRITE_TIMEOUT, write.write_all(part)).await.map_err(io::Error::from)??;
    }
    timeout(WRITE_TIMEOUT, write.flush()).await.map_err(io::Error::from)?
}

/// A reply that is an error, and what stands in place of the answer.
fn failure(service: wire::ServiceId, error_type: ErrorType, text: &str, body: Vec<u8>) -> Vec<u8> {
    let error = if text.is_empty() { "unknown error" } else { text }.to_owned();
    let mut bytes = encode(&wire::Response { service, error, error_type: error_type as i64 });
    bytes.extend(body);
    bytes
}

impl Call {
    /// The argument; none at the end of a stream of them.
    async fn argument(&mut self, method: Method) -> io::Result<Option<bytes::Bytes>> {
        let argument = self.reader.next(method.argument_bytes_max());
        timeout(REQUEST_TIMEOUT, argument).await.map_err(io::Error::from)?
    }

    async fn reply(mut self, body: Vec<u8>) -> io::Result<()> {
        let mut bytes = encode(&wire::Response { service: self.service.clone(), ..Default::default() });
        bytes.extend(body);
        send(&mut self.write, &bytes).await?;
        self.finish().await
    }

    async fn refuse(mut self, error_type: ErrorType, text: &str, body: Vec<u8>) -> io::Result<()> {
        tracing::debug!(
            from = %self.from,
            method = format!("{}.{}", self.service.service, self.service.method),
            error = text,
            "a call failed"
        );
        let bytes = failure(self.service.clone(), error_type, text, body);
        send(&mut self.write, &bytes).await?;
        self.finish().await
    }

    /// Ends our half, and waits a little for the other: dropping the stream before could take back what was written.
    async fn finish(mut self) -> io::Result<()> {
        timeout(WRITE_TIMEOUT, self.write.shutdown()).await.map_err(io::Error::from)??;
        // How the other side ends does not matter any more.
        let _ = timeout(LINGER_TIMEOUT, self.reader.drain(LINGER_BYTES_MAX)).await;
        Ok(())
    }
}

/// Gives the reader back when the stream of blocks is dropped.
struct Lent {
    reader: Option<Reader>,
    back: Option<tokio::sync::oneshot::Sender<Reader>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(reader), Some(back)) = (self.reader.take(), self.back.take()) {
            let _ = back.send(reader);
        }
    }
}

fn incoming_blocks(
    reader: Reader,
    back: tokio::sync::oneshot::Sender<Reader>,
) -> BoxStream<'static, Result<Block>> {
    let lent = Lent { reader: Some(reader), back: Some(back) };
    stream::unfold((lent, false), |(mut lent, ended)| async move {
        let reader = lent.reader.as_mut().filter(|_| !ended)?;
        match next_block(reader).await.transpose()? {
            Ok(block) => Some((Ok(block), (lent, false))),
            Err(error) => Some((Err(error), (lent, true))),
        }
    })
    // Connectors look for more after the end.
    .fuse()
    .boxed()
}

async fn next_block(reader: &mut Reader) -> Result<Option<Block>> {
    let node = timeout(BLOCK_TIMEOUT, reader.next(Method::BlockStream.argument_bytes_max())).await;
    let node = node.map_err(|_| {
        let text = format!("no block came within {}s", BLOCK_TIMEOUT.as_secs());
        Error::new(ErrorKind::Timeout, text).component(COMPONENT)
    })?;
    let node = node.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => malformed(error.to_string()).with_source(error),
        _ => Error::new(ErrorKind::Cancelled, "who sent the blocks broke off")
            .component(COMPONENT)
            .with_source(error),
    })?;
    let Some(node) = node else { return Ok(None) };
    let node: wire::Node = decode(&node)?;
    let cid = node.cid.ok_or_else(|| malformed("a block without a cid"))?;
    const IDENTITY: u64 = 0;
    if cid.hash().code() == IDENTITY && cid.hash().digest() == node.data {
        return Ok(Some(Block { cid, data: node.data }));
    }
    match Block::verified(cid, node.data.clone()) {
        // A hash function that is not known here: the daemon, which has to store it, hashes it again.
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(Some(Block { cid, data: node.data })),
        checked => checked.map(Some),
    }
}
