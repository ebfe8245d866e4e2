//! Sending a request and reading what comes back: the only place that touches the network.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use http_body_util::BodyExt as _;
use reqwest::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::de::DeserializeOwned;
use tokio_rustls::rustls;

use super::add::Outgoing;
use super::error::ApiError;
use super::find::Page;
use super::host::{Host, Via, authority};
use super::lines::{LINE_BYTES_MAX, Lines, Splitter};
use super::request::Request;
use crate::error::{Error, ErrorKind, Result};

/// Longest answer that is one document, in bytes. The longest are those of garbage collection, about 80 bytes
/// for each removed block.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Longest part of an error answer that is read, in bytes.
const ERROR_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Most errors a listing may end with that are reported; the rest say nothing new.
const STREAM_ERRORS_MAX: usize = 64;
/// The trailer in which a listing tells that it is not complete.
const STREAM_ERROR: &str = "x-stream-error";

/// How long an answer without an end may take to begin.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What comes within the limit.
async fn begun<T>(sent: impl Future<Output = T>, limit: Option<Duration>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, sent).await.ok(),
        None => Some(sent.await),
    }
}

fn silent(limit: Option<Duration>) -> Error {
    let limit = go_duration(limit.unwrap_or_default());
    let text = format!("request canceled (no answer within the timeout of {limit})");
    Error::new(ErrorKind::Timeout, text).component("client")
}

/// One API address, with the connections to it.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) host: Host,
    pub(super) http: reqwest::Client,
}

/// Everything a client knows.
pub(super) struct Transport {
    /// At least one, in the order in which they are tried.
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) timeout: Option<Duration>,
    /// The header that says who we are.
    pub(super) credentials: Option<(HeaderName, HeaderValue)>,
    #[cfg(feature = "transport-libp2p")]
    pub(super) peers: super::peers::Peers,
}

/// An answer whose status was read and whose body was not.
pub(super) struct Answer {
    /// `Get "http://…"`, for errors.
    label: String,
    timeout: Option<Duration>,
    status: StatusCode,
    /// Where the next page begins, if this is one.
    next: Option<String>,
    body: Body,
}

/// What is read of an answer.
enum Body {
    Http(reqwest::Body),
    #[cfg(feature = "transport-libp2p")]
    Peer(super::peers::Body),
}

/// How reading an answer ended early.
pub(super) struct Broken {
    pub(super) is_timeout: bool,
    pub(super) source: Box<dyn StdError + Send + Sync>,
}

impl Transport {
    /// Asks one host after the other, each once, until one answers: with anything, also with a refusal. A host with a
    /// name is asked at each address of the name.
    pub(super) async fn send(&self, request: &Request) -> Result<Answer> {
        self.send_with(request, None).await
    }

    /// As [`send`](Self::send), with a body, which is sent while the answer is read. The next host is asked only when
    /// the body can be had from its beginning.
    pub(super) async fn upload(&self, request: &Request, body: &Outgoing) -> Result<Answer> {
        self.send_with(request, Some(body)).await
    }

    async fn send_with(&self, request: &Request, body: Option<&Outgoing>) -> Result<Answer> {
        let mut last = Error::internal("the client has no host").component("client");
        for endpoint in &self.endpoints {
            let addresses = match endpoint.host.addresses().await {
                Ok(addresses) => addresses,
                Err(error) => {
                    let label = label(request.method(), &endpoint.host, &request.url(&endpoint.host.url));
                    last = error.context(label);
                    continue;
                }
            };
            for address in addresses {
                match self.send_to(endpoint, &address, request, body).await {
                    Ok(answer) => return Ok(answer),
                    Err(error)
                        if body.is_some_and(|body| body.failure().is_some() || !body.is_complete()) =>
                    {
                        return Err(error);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "no answer, trying the next host if there is one");
                        last = error;
                    }
                }
            }
        }
        Err(last)
    }

    async fn send_to(
        &self,
        endpoint: &Endpoint,
        address: &Url,
        request: &Request,
        body: Option<&Outgoing>,
    ) -> Result<Answer> {
        let url = request.url(address);
        let label = label(request.method(), &endpoint.host, &url);
        tracing::debug!(request = label, "sending");
        // An answer without an end only has to begin in time.
        let (whole, limit) = match request.is_endless {
            false => (self.timeout, None),
            true => (None, Some(self.timeout.unwrap_or(ANSWER_TIMEOUT))),
        };
        #[cfg(feature = "transport-libp2p")]
        if let Via::Peer(peer) = &endpoint.host.via {
            let (method, credentials) = (request.method().clone(), self.credentials.as_ref());
            let body = body.map(|body| (body.content_type(), body.open()));
            let sent = self.peers.send(peer, method, &url, credentials, body, whole);
            let answer = begun(sent, limit).await.unwrap_or_else(|| Err(silent(limit)));
            let (status, headers, body) = answer.map_err(|error| error.context(&label))?;
            tracing::debug!(request = label, %status, "answered");
            let (next, body) = (next_cursor(&headers), Body::Peer(body));
            return Ok(Answer { label, timeout: whole, status, next, body });
        }
        let mut builder = endpoint.http.request(request.method().clone(), url);
        if address.host() != endpoint.host.url.host() {
            // The server knows itself by its name.
            let host = &endpoint.host.url;
            let port = host.port().map(|port| format!(":{port}")).unwrap_or_default();
            builder = builder.header(HOST, format!("{}{port}", host.host_str().unwrap_or_default()));
        }
        if let Some(body) = body {
            builder = builder.header(CONTENT_TYPE, body.content_type()).body(body.open());
        } else if request.method() == Method::POST {
            // Calls have no body, and some proxies refuse a POST that does not say so.
            builder = builder.header("content-length", "0");
        }
        if let Some(timeout) = whole {
            builder = builder.timeout(timeout);
        }
        if let Some((name, value)) = &self.credentials {
            builder = builder.header(name, value);
        }
        let Some(sent) = begun(builder.send(), limit).await else {
            return Err(silent(limit).context(label));
        };
        match sent {
            Ok(response) => {
                let status = response.status();
                tracing::debug!(request = label, %status, "answered");
                let next = next_cursor(response.headers());
                let body = Body::Http(response.into());
                Ok(Answer { label, timeout: whole, status, next, body })
            }
            Err(error) => {
                let reason = reason(&error, &endpoint.host, address, self.timeout);
                let kind = if error.is_timeout() { ErrorKind::Timeout } else { ErrorKind::Unavailable };
                Err(Error::new(kind, format!("{label}: {reason}")).component("client").with_source(error))
            }
        }
    }

    /// Sends a request whose answer is one document.
    pub(super) async fn fetch<T: DeserializeOwned>(&self, request: &Request) -> Result<T> {
        let answer = self.send(request).await?.or_refusal().await?;
        let (status, label) = (answer.status, answer.label.clone());
        let body = answer.read(ANSWER_BYTES_MAX).await?;
        serde_json::from_slice(&body).map_err(|source| {
            // The reference's client reports this as an answer of the API, with the status as code.
            let message = format!("{label}: the answer is not what was expected: {source}");
            ApiError { code: status.as_u16(), message }.into_error()
        })
    }

    /// Sends a request whose answer says nothing but that it worked.
    pub(super) async fn call(&self, request: &Request) -> Result<()> {
        self.send(request).await?.or_refusal().await.map(drop)
    }
}

/// Most items of a page that was asked for without a limit.
const PAGE_ITEMS_MAX: usize = 100_000;
/// The header that says where the next page begins.
const NEXT_CURSOR: &str = "x-next-cursor";

fn next_cursor(headers: &HeaderMap) -> Option<String> {
    headers.get(NEXT_CURSOR).and_then(|next| next.to_str().ok()).map(str::to_owned)
}

impl Transport {
    /// Sends a request whose answer is a page of a listing.
    pub(super) async fn page<T: DeserializeOwned + Send + 'static>(
        &self,
        request: &Request,
    ) -> Result<Page<T>> {
        let answer = self.send(request).await?.or_refusal().await?;
        let (next, host) = (answer.next.clone(), answer.label.clone());
        let mut items = answer.items();
        let mut page = Page { items: Vec::new(), next };
        let limit = request.limit().unwrap_or(PAGE_ITEMS_MAX);
        while let Some(item) = items.next().await {
            if page.items.len() >= limit {
                let message = format!("{host} gave more than the {limit} items of a page: it knows no pages");
                return Err(Error::new(ErrorKind::Unsupported, message).component("client"));
            }
            page.items.push(item?);
        }
        Ok(page)
    }
}

/// The items of the answers to `requests`, one request after the other, each sent when its turn comes.
pub(super) fn stream<T: DeserializeOwned + Send + 'static>(
    transport: Arc<Transport>,
    requests: Vec<Request>,
) -> BoxStream<'static, Result<T>> {
    until_error(one_after_the_other(transport, requests, Answer::items))
}

/// As [`stream`], with the items that came together in one.
pub(super) fn lines(transport: Arc<Transport>, requests: Vec<Request>) -> BoxStream<'static, Result<Lines>> {
    until_error(one_after_the_other(transport, requests, |answer| answer.lines().boxed()))
}

fn one_after_the_other<T: Send + 'static>(
    transport: Arc<Transport>,
    requests: Vec<Request>,
    read: fn(Answer) -> BoxStream<'static, Result<T>>,
) -> BoxStream<'static, Result<T>> {
    let answers = futures::stream::iter(requests).then(move |request| {
        let transport = Arc::clone(&transport);
        async move { Ok(read(transport.send(&request).await?.or_refusal().await?)) }
    });
    answers.try_flatten().boxed()
}

/// The same stream up to its first error: what comes after one would be taken for the whole.
fn until_error<T: Send + 'static>(mut items: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
    let mut has_failed = false;
    let next = move |cx: &mut Context<'_>| {
        if has_failed {
            return Poll::Ready(None);
        }
        let item = ready!(items.poll_next_unpin(cx));
        has_failed = matches!(item, Some(Err(_)));
        Poll::Ready(item)
    };
    futures::stream::poll_fn(next).boxed()
}

/// One piece of a body.
enum Frame {
    Data(Bytes),
    /// The values of the error trailer that say something.
    StreamErrors(Vec<String>),
}

impl Answer {
    /// This answer, unless it is a refusal.
    pub(super) async fn or_refusal(mut self) -> Result<Self> {
        if !self.status.is_client_error() && !self.status.is_server_error() {
            return Ok(self);
        }
        let mut body = Vec::new();
        // A refusal that breaks off is still a refusal: what came of it is the message.
        while let Ok(Some(frame)) = self.frame().await {
            if let Frame::Data(chunk) = frame {
                body.extend_from_slice(&chunk);
            }
            if body.len() >= ERROR_ANSWER_BYTES_MAX {
                body.truncate(ERROR_ANSWER_BYTES_MAX);
                break;
            }
        }
        Err(ApiError::from_answer(self.status, &body).into_error())
    }

    /// The items of a listing.
    pub(super) fn items<T: DeserializeOwned + Send + 'static>(self) -> BoxStream<'static, Result<T>> {
        let mut portions = self.lines().boxed();
        let mut lines: Option<Lines> = None;
        // Read as items only here, at the end: they are large, and each step that they pass copies them.
        let next = move |cx: &mut Context<'_>| loop {
            if let Some(item) = lines.as_mut().and_then(Lines::next_item) {
                return Poll::Ready(Some(item));
            }
            match ready!(portions.poll_next_unpin(cx)) {
                Some(Ok(more)) => lines = Some(more),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        };
        futures::stream::poll_fn(next).boxed()
    }

    /// The lines of a listing, as they come together.
    fn lines(mut self) -> impl Stream<Item = Result<Lines>> + Send {
        async_stream::try_stream! {
            if !matches!(self.status, StatusCode::OK | StatusCode::NO_CONTENT) {
                let message = "expected streaming response with code 200/204".to_owned();
                Err(ApiError { code: self.status.as_u16(), message }.into_error())?;
            }
            let mut splitter = Splitter::new(&self.label, LINE_BYTES_MAX);
            let mut errors: Vec<String> = Vec::new();
            while let Some(frame) = self.frame().await? {
                match frame {
                    Frame::Data(chunk) => {
                        if let Some(lines) = splitter.push(&chunk)? {
                            yield lines;
                        }
                    }
                    Frame::StreamErrors(more) => errors.extend(more),
                }
            }
            if let Some(lines) = splitter.finish() {
                yield lines;
            }
            if !errors.is_empty() {
                errors.truncate(STREAM_ERRORS_MAX);
                let code = StatusCode::INTERNAL_SERVER_ERROR.as_u16();
                Err(ApiError { code, message: errors.join("; ") }.into_error())?;
            }
        }
    }

    async fn read(mut self, bytes_max: usize) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(frame) = self.frame().await? {
            if let Frame::Data(chunk) = frame {
                if body.len() + chunk.len() > bytes_max {
                    let message = format!("{}: the answer is longer than {bytes_max} bytes", self.label);
                    return Err(Error::new(ErrorKind::Corrupt, message).component("client"));
                }
                body.extend_from_slice(&chunk);
            }
        }
        Ok(body)
    }

    async fn frame(&mut self) -> Result<Option<Frame>> {
        let frame = match &mut self.body {
            Body::Http(body) => body.frame().await.map(|frame| {
                frame.map_err(|error| Broken { is_timeout: error.is_timeout(), source: Box::new(error) })
            }),
            #[cfg(feature = "transport-libp2p")]
            Body::Peer(body) => body.frame().await,
        };
        let Some(frame) = frame else { return Ok(None) };
        let frame = frame.map_err(|error| self.broken(error))?;
        Ok(Some(match frame.into_data() {
            Ok(chunk) => Frame::Data(chunk),
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                let texts = trailers.get_all(STREAM_ERROR).iter();
                let texts = texts.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
                Frame::StreamErrors(texts.filter(|text| !text.is_empty()).collect())
            }
        }))
    }

    fn broken(&self, error: Broken) -> Error {
        let (kind, reason) = match self.timeout {
            Some(timeout) if error.is_timeout => {
                (ErrorKind::Timeout, format!("it took longer than {}", go_duration(timeout)))
            }
            _ => (ErrorKind::Unavailable, innermost(&*error.source).to_string()),
        };
        let message = format!("{}: the answer broke off: {reason}", self.label);
        Error::new(kind, message).component("client").with_source(error.source)
    }
}

/// How the reference names a request in its errors: `Get "http://…"`.
fn label(method: &Method, host: &Host, url: &Url) -> String {
    let method = method.as_str();
    let (first, rest) = method.split_at(1);
    format!("{first}{} \"{}\"", rest.to_ascii_lowercase(), host.shown(url))
}

/// Why nothing came back, in the reference's words where it has some, because scripts look for them.
fn reason(error: &reqwest::Error, host: &Host, address: &Url, timeout: Option<Duration>) -> String {
    let cause = innermost(error);
    if let Some(error) = tls_error(error) {
        return match error {
            rustls::Error::InvalidMessage(_) => "http: server gave HTTP response to HTTPS client".to_owned(),
            rustls::Error::InvalidCertificate(_) => format!("tls: failed to verify certificate: {error}"),
            error => format!("tls: {error}"),
        };
    }
    if error.is_connect() {
        let why = match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => "connect: connection refused".to_owned(),
            Some(io::ErrorKind::ConnectionReset) => "read: connection reset by peer".to_owned(),
            Some(io::ErrorKind::NetworkUnreachable) => "connect: network is unreachable".to_owned(),
            Some(io::ErrorKind::HostUnreachable) => "connect: no route to host".to_owned(),
            Some(io::ErrorKind::TimedOut) => "i/o timeout".to_owned(),
            Some(io::ErrorKind::NotFound) => "connect: no such file or directory".to_owned(),
            Some(io::ErrorKind::PermissionDenied) => "connect: permission denied".to_owned(),
            _ if error.is_timeout() => "i/o timeout".to_owned(),
            _ => cause.to_string(),
        };
        return match &host.via {
            Via::Unix(path) => format!("dial unix {}: {why}", path.display()),
            Via::Tcp(_) | Via::Peer(_) => format!("dial tcp {}: {why}", authority(address)),
        };
    }
    match timeout {
        Some(timeout) if error.is_timeout() => {
            format!("request canceled (no answer within the timeout of {})", go_duration(timeout))
        }
        _ => cause.to_string(),
    }
}

/// What went wrong with TLS, which hides inside of an error of the connection.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // What is inside of an error of the system is not its source, but the same error.
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    None
}

pub(super) fn go_duration(duration: Duration) -> String {
    crate::config::duration::to_text(duration)
}

/// The cause of the cause: the outer layers only repeat the address.
pub(super) fn innermost<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause
}
