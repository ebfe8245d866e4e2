//! The body of an upload as a stream: made of the sources one after the other, and never more of it in memory than is
//! on its way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use reqwest::Url;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::transport::innermost;
use super::encode::{self, Encoder, PartKind, Stamp};
use super::walk::{self, CHUNK_BYTES, Named, Out, Which};
use super::{OneReader, Sent, Source, resume};
use crate::error::{Error, ErrorKind, Result};

/// Chunks that were read and wait for the connection.
const CHUNKS_WAITING: usize = 4;
/// How long the server of a URL may take to accept a connection.
const URL_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the server of a URL may be silent.
const URL_READ_TIMEOUT: Duration = Duration::from_secs(300);

/// What is uploaded, for as many hosts as have to be asked.
#[derive(Debug)]
pub(in super::super) struct Outgoing {
    sources: Arc<[Source]>,
    which: Which,
    boundary: String,
    state: Arc<State>,
    ended: CancellationToken,
}

#[derive(Debug)]
struct State {
    sent: Sent,
    is_whole: AtomicBool,
    failure: std::sync::Mutex<Option<Error>>,
}

impl Outgoing {
    pub(super) fn new(sources: Vec<Source>, which: Which, sent: Sent) -> Self {
        let state = State { sent, is_whole: AtomicBool::new(false), failure: std::sync::Mutex::default() };
        Self {
            sources: sources.into(),
            which,
            boundary: encode::boundary(),
            state: Arc::new(state),
            ended: CancellationToken::new(),
        }
    }

    pub(in super::super) fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    /// The body from its beginning. Files are opened when their turn comes.
    pub(in super::super) fn open(&self) -> reqwest::Body {
        self.state.sent.restart();
        let chunks = chunks(Arc::clone(&self.sources), self.which, &self.boundary, Arc::clone(&self.state));
        let (state, ended) = (Arc::clone(&self.state), self.ended.clone());
        reqwest::Body::wrap_stream(async_stream::stream! {
            let mut chunks = std::pin::pin!(chunks);
            loop {
                let chunk = tokio::select! {
                    biased;
                    () = ended.cancelled() => Some(Err(given_up())),
                    chunk = chunks.next() => chunk,
                };
                match chunk {
                    Some(Ok(chunk)) => {
                        yield Ok(chunk);
                        // A connection that can always send more would never look at what comes back.
                        tokio::task::yield_now().await;
                    }
                    Some(Err(error)) => {
                        // The connection knows only that it broke.
                        *state.failure() = Some(error.clone());
                        yield Err(error);
                        return;
                    }
                    None => return,
                }
            }
        })
    }

    /// Whether nothing that cannot be read again was read.
    pub(in super::super) fn is_complete(&self) -> bool {
        self.sources.iter().all(|source| match source {
            Source::Reader { reader, .. } => reader.is_unread(),
            Source::Path(_) | Source::Url(..) | Source::Bytes { .. } | Source::Rest { .. } => true,
        })
    }

    /// Why the body ended early, if it did.
    pub(in super::super) fn failure(&self) -> Option<Error> {
        self.state.failure().clone()
    }

    /// Whether the last body was handed over to its end.
    pub(super) fn is_whole(&self) -> bool {
        self.state.is_whole.load(Ordering::Acquire)
    }

    /// Ends the bodies when it is dropped, and so the connections that are in the middle of one.
    pub(super) fn guard(&self) -> DropGuard {
        self.ended.clone().drop_guard()
    }
}

impl State {
    fn failure(&self) -> std::sync::MutexGuard<'_, Option<Error>> {
        self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn given_up() -> Error {
    Error::new(ErrorKind::Cancelled, "the upload was given up").component("client")
}

fn chunks(
    sources: Arc<[Source]>,
    which: Which,
    boundary: &str,
    state: Arc<State>,
) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
    let mut encoder = Encoder::new(boundary);
    state.is_whole.store(false, Ordering::Release);
    async_stream::try_stream! {
        for source in sources.iter() {
            let mut head = Vec::new();
            match source {
                Source::Path(named) => {
                    let (chunks, mut waiting) = mpsc::channel(CHUNKS_WAITING);
                    let out = Out::new(chunks);
                    let walked = tokio::task::spawn_blocking(walk_of(named.clone(), which, encoder, out));
                    while let Some(chunk) = waiting.recv().await {
                        state.sent.add(chunk.content);
                        yield chunk.bytes;
                    }
                    encoder = walked.await.map_err(|error| {
                        Error::internal(format!("reading files ended: {error}")).component("client")
                    })??;
                }
                Source::Bytes { name, bytes } => {
                    encoder.part(&mut head, name, PartKind::File { origin: b"" }, Stamp::default());
                    yield Bytes::from(head);
                    for at in (0..bytes.len()).step_by(CHUNK_BYTES) {
                        let chunk = bytes.slice(at..bytes.len().min(at + CHUNK_BYTES));
                        state.sent.add(chunk.len() as u64);
                        yield chunk;
                    }
                }
                Source::Rest { named, from, to } => {
                    encoder.part(&mut head, &named.name, PartKind::File { origin: b"" }, Stamp::default());
                    yield Bytes::from(head);
                    let (chunks, mut waiting) = mpsc::channel(CHUNKS_WAITING);
                    let (path, from, to) = (named.path.clone(), *from, *to);
                    let sent = tokio::task::spawn_blocking(move || resume::send(&path, from, to, &chunks));
                    while let Some(chunk) = waiting.recv().await {
                        state.sent.add(chunk.len() as u64);
                        yield chunk;
                    }
                    sent.await.map_err(|error| {
                        Error::internal(format!("reading a file ended: {error}")).component("client")
                    })??;
                }
                Source::Reader { name, reader } => {
                    encoder.part(&mut head, name, PartKind::File { origin: b"" }, Stamp::default());
                    yield Bytes::from(head);
                    let mut reader = reader.take().ok_or_else(given_up)?;
                    loop {
                        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
                        let read = reader.read_buf(&mut chunk).await;
                        let read = read.map_err(|error| {
                            let name = String::from_utf8_lossy(name);
                            Error::new(ErrorKind::Io, format!("read {name}: {error}"))
                                .component("client")
                                .with_source(error)
                        })?;
                        if read == 0 {
                            break;
                        }
                        state.sent.add(read as u64);
                        yield chunk.freeze();
                    }
                }
                Source::Url(url, name) => {
                    let mut answer = fetch(url).await?;
                    let origin = url.as_str().as_bytes();
                    encoder.part(&mut head, name, PartKind::File { origin }, Stamp::default());
                    yield Bytes::from(head);
                    while let Some(chunk) = answer.chunk().await.map_err(|error| url_failed(url, error))? {
                        state.sent.add(chunk.len() as u64);
                        yield chunk;
                    }
                }
            }
        }
        state.is_whole.store(true, Ordering::Release);
        state.sent.finish();
        yield Bytes::from(encoder.end());
    }
}

fn walk_of(
    named: Named,
    which: Which,
    mut encoder: Encoder,
    mut out: Out,
) -> impl FnOnce() -> Result<Encoder> + Send {
    move || walk::send(&named, which, &mut encoder, &mut out).map(|()| encoder)
}

/// Asks for what a URL leads to.
///
/// # Errors
/// `Unavailable` and `Timeout` would look as if the cluster were silent, so everything is `Io`, and `NotFound`.
async fn fetch(url: &Url) -> Result<reqwest::Response> {
    let client = reqwest::Client::builder()
        .user_agent(super::super::builder::USER_AGENT)
        .connect_timeout(URL_CONNECT_TIMEOUT)
        .read_timeout(URL_READ_TIMEOUT)
        .build()
        .map_err(|error| url_failed(url, error))?;
    let answer = client.get(url.clone()).send().await.map_err(|error| url_failed(url, error))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let kind = if status == reqwest::StatusCode::NOT_FOUND { ErrorKind::NotFound } else { ErrorKind::Io };
    let text = format!("got non-2XX status code {}: {url}", status.as_u16());
    Err(Error::new(kind, text).component("client"))
}

fn url_failed(url: &Url, error: reqwest::Error) -> Error {
    let text = format!("Get \"{url}\": {}", innermost(&error));
    Error::new(ErrorKind::Io, text).component("client").with_source(error)
}

impl OneReader {
    fn is_unread(&self) -> bool {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some()
    }

    fn take(&self) -> Option<super::Reader> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}
