//! Hosts that are peers of libp2p: each request is a stream, as the reference's `libp2p-http` has it.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use reqwest::{Method, StatusCode, Url};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::builder;
use super::host::peer_name;
use super::transport::{Broken, go_duration};
use crate::config::{Identity, Secret};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::{Libp2pConfig, Libp2pTransport, PeerStream, PeerTransport as _, Protocol};
use crate::types::{Multiaddr, PeerId};

/// The protocol of a stream that carries HTTP.
const PROTOCOL: &str = "/libp2p-http";

/// Our side of libp2p: made when it is first needed, without an identity that anybody could know again, and nothing
/// listens.
pub(super) struct Peers {
    secret: Secret,
    host: OnceCell<Libp2pTransport>,
}

/// The body of an answer, and the connection that it comes over.
pub(super) struct Body {
    incoming: Incoming,
    deadline: Option<Instant>,
    _connection: AbortOnDropHandle<()>,
}

impl Peers {
    pub(super) fn new(secret: Secret) -> Self {
        Self { secret, host: OnceCell::new() }
    }

    /// Sends a request, if need be with a body of a type, and returns with the head of its answer, while the body may
    /// still be on its way. The timeout is for the answer's body too.
    ///
    /// # Errors
    /// `Unavailable` and `Timeout`.
    pub(super) async fn send(
        &self,
        address: &Multiaddr,
        method: Method,
        url: &Url,
        credentials: Option<&(HeaderName, HeaderValue)>,
        body: Option<(String, reqwest::Body)>,
        timeout: Option<Duration>,
    ) -> Result<(StatusCode, HeaderMap, Body)> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let sent = self.exchange(address, method, url, credentials, body);
        let (status, headers, incoming, connection) = match (deadline, timeout) {
            (Some(deadline), Some(timeout)) => {
                tokio::time::timeout_at(deadline, sent).await.unwrap_or_else(|_| {
                    let timeout = go_duration(timeout);
                    let text = format!("request canceled (no answer within the timeout of {timeout})");
                    Err(Error::new(ErrorKind::Timeout, text).component("client"))
                })?
            }
            _ => sent.await?,
        };
        Ok((status, headers, Body { incoming, deadline, _connection: connection }))
    }

    async fn exchange(
        &self,
        address: &Multiaddr,
        method: Method,
        url: &Url,
        credentials: Option<&(HeaderName, HeaderValue)>,
        body: Option<(String, reqwest::Body)>,
    ) -> Result<(StatusCode, HeaderMap, Incoming, AbortOnDropHandle<()>)> {
        let stream = self.open(address).await?;
        let broken = |error: hyper::Error| {
            Error::new(ErrorKind::Unavailable, error.to_string()).component("client").with_source(error)
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a stream to a peer ended");
            }
        }));
        let path =
            url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let mut request = hyper::Request::builder()
            .method(method.clone())
            .uri(path)
            .header(HOST, peer_name(address))
            .header(USER_AGENT, builder::USER_AGENT);
        let body = match body {
            Some((content_type, body)) => {
                request = request.header(CONTENT_TYPE, content_type);
                body
            }
            None if method == Method::POST => {
                request = request.header(CONTENT_LENGTH, "0");
                reqwest::Body::default()
            }
            None => reqwest::Body::default(),
        };
        if let Some((name, value)) = credentials {
            request = request.header(name, value);
        }
        let request = request.body(body).map_err(|source| {
            Error::invalid_input(format!("the request cannot be sent: {source}"))
                .component("client")
                .with_source(source)
        })?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let (head, incoming) = response.into_parts();
        Ok((head.status, head.headers, incoming, connection))
    }

    async fn open(&self, address: &Multiaddr) -> Result<PeerStream> {
        let failed = |error: Error| {
            let name = peer_name(address);
            let kind =
                if error.kind() == ErrorKind::Timeout { ErrorKind::Timeout } else { ErrorKind::Unavailable };
            let text = format!("failed to dial: failed to dial {name}: {}", error.message());
            Error::new(kind, text).component("client").with_source(error)
        };
        let start = || async {
            Libp2pTransport::start(&Identity::generate(), Libp2pConfig::dialing(self.secret.clone())).await
        };
        let host = self.host.get_or_try_init(start).await?;
        let known: Option<PeerId> = peer_name(address).parse().ok();
        let peer = match known.filter(|peer| host.peers().contains(peer)) {
            Some(peer) => peer,
            None => host.connect(address).await.map_err(failed)?,
        };
        host.open(&peer, &Protocol::new(PROTOCOL)).await.map_err(failed)
    }
}

impl Body {
    pub(super) async fn frame(&mut self) -> Option<std::result::Result<Frame<Bytes>, Broken>> {
        let frame = pin!(self.incoming.frame());
        let frame = match self.deadline {
            Some(deadline) => match tokio::time::timeout_at(deadline, frame).await {
                Ok(frame) => frame,
                Err(_) => {
                    let source = Box::new(io::Error::from(io::ErrorKind::TimedOut));
                    return Some(Err(Broken { is_timeout: true, source }));
                }
            },
            None => frame.await,
        };
        frame.map(|frame| frame.map_err(|error| Broken { is_timeout: false, source: Box::new(error) }))
    }
}
