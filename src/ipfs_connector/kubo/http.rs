//! Requests to the daemon: one way out, with its errors told apart, its answers bounded and its health noted.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Client, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::Answer;
use super::health::Health;
use super::limit::Limit;
use super::{COMPONENT, KuboConfig};
use crate::config::duration;
use crate::error::{Error, ErrorKind, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that are kept for the next request.
const CONNECTIONS_IDLE_MAX: usize = 64;
/// Time between two questions to a daemon that does not answer.
const PROBE_PAUSE: Duration = Duration::from_secs(1);
/// How long the daemon may take for such a question.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that are read of an answer that says an error.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// Bytes of it that become part of our error.
const ERROR_TEXT_BYTES_MAX: usize = 2 * 1024;
/// Bytes of an answer that is read as a whole.
pub(super) const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a request may say about the daemon's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judge {
    /// It needs neither network nor much disk: a late answer means a busy daemon.
    Latency,
    /// It may rightly take long.
    Nothing,
}

/// A body to send.
pub(super) struct Upload {
    pub(super) content_type: String,
    /// Bytes of the body where they are known: a length costs the daemon less than chunks, and tells it a body that broke off.
    pub(super) length: Option<u64>,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    url: String,
    shown_url: String,
    dial_text: String,
    pub(super) health: Health,
    pub(super) stopped: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Http {
    pub(super) fn new(config: &KuboConfig) -> Result<Self> {
        let address = &config.node_multiaddress;
        let mut builder = Client::builder()
            // The daemon is named by its address; a proxy from the environment is for the world outside.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(CONNECTIONS_IDLE_MAX)
            .tcp_nodelay(true)
            .user_agent(concat!("ipfs-cluster/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = address.unix_path() {
            builder = with_unix_socket(builder, path)?;
        }
        // The daemon is talked to in the clear, so nobody needs what the system believes, which takes time to read and may
        // not be there. Without this feature there may be no TLS, and then nothing is read.
        #[cfg(feature = "client")]
        let builder = builder.tls_certs_only([]);
        let client = builder.build().map_err(|error| {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(next) = cause.source() {
                cause = next;
            }
            Error::internal(format!("cannot make an HTTP client: {cause}"))
                .component(COMPONENT)
                .with_source(error)
        })?;
        Ok(Self {
            client,
            url: address.url(),
            shown_url: address.shown_url(),
            dial_text: address.dial_text(),
            health: Health::new(Limit::new(config.concurrent_pins_max)),
            stopped: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// Runs something until it ends, the time is over, or the connector stops.
    pub(super) async fn within<T>(
        self: &Arc<Self>,
        timeout: Duration,
        key: &'static str,
        path: &str,
        judge: Judge,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match self.open(tokio::time::timeout(timeout, call)).await? {
            Ok(answer) => answer,
            Err(_) => {
                if judge == Judge::Latency {
                    self.health.on_overload();
                    self.suspect();
                }
                Err(Error::new(
                    ErrorKind::Timeout,
                    format!(
                        "the IPFS daemon did not finish {path} within {} (ipfshttp.{key})",
                        duration::to_text(timeout)
                    ),
                )
                .component(COMPONENT))
            }
        }
    }

    /// Runs something until it ends or the connector stops.
    pub(super) async fn open<T>(&self, call: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.stopped.cancelled() => Err(Error::shut_down(COMPONENT)),
            answer = call => Ok(answer),
        }
    }

    /// A request and its answer from the first byte on, once the daemon's back-off lets it out.
    pub(super) async fn post(
        self: &Arc<Self>,
        path: &str,
        judge: Judge,
        upload: Option<Upload>,
    ) -> Result<Answer> {
        self.health.turn().await?;
        self.post_now(path, judge, upload).await
    }

    /// A request whose whole answer is one JSON document, with a time limit.
    pub(super) async fn ask<T: DeserializeOwned>(
        self: &Arc<Self>,
        timeout: Duration,
        path: &str,
        judge: Judge,
    ) -> Result<T> {
        let call = async {
            let body = self.post(path, judge, None).await?.bytes(ANSWER_BYTES_MAX).await?;
            super::answer::parse(path, &body)
        };
        self.within(timeout, "ipfs_request_timeout", path, judge, call).await
    }

    async fn post_now(
        self: &Arc<Self>,
        path: &str,
        judge: Judge,
        mut upload: Option<Upload>,
    ) -> Result<Answer> {
        let url = Url::parse(&format!("{}{path}", self.url))
            .map_err(|error| Error::internal(format!("request {path:?} is not a URL: {error}")))?;
        let can_repeat = upload.is_none();
        let mut repeated = false;
        let (response, latency) = loop {
            let mut request = self.client.post(url.clone());
            if let Some(Upload { content_type, length, body }) = upload.take() {
                request = request.header(CONTENT_TYPE, content_type);
                if let Some(length) = length {
                    request = request.header(CONTENT_LENGTH, length);
                }
                request = request.body(body);
            }
            let sent = Instant::now();
            match request.send().await {
                Ok(response) => break (response, sent.elapsed()),
                // A kept connection that the daemon closed in the moment we wrote to it. Every request here may be
                // repeated; one that breaks again was not that.
                Err(error) if can_repeat && !repeated && !error.is_connect() => repeated = true,
                Err(error) => {
                    let failure = self.transport_error(path, error);
                    return Err(failure);
                }
            }
        };
        let status = response.status();
        if status == StatusCode::OK {
            self.health.on_answer((judge == Judge::Latency).then_some(latency));
            return Ok(Answer::new(Arc::clone(self), path, response));
        }
        let body = Answer::new(Arc::clone(self), path, response).excerpt(ERROR_BYTES_MAX).await;
        let refusal = Refusal::read(path, status, &body);
        match refusal.health {
            RefusalHealth::Well => self.health.on_answer((judge == Judge::Latency).then_some(latency)),
            RefusalHealth::Busy => {
                self.health.on_answer(None);
                self.health.on_overload();
            }
            RefusalHealth::Gone => {
                self.health.on_unreachable(&refusal.error);
                self.probe(PROBE_PAUSE);
            }
        }
        Err(refusal.error)
    }

    /// No answer at all.
    fn transport_error(self: &Arc<Self>, path: &str, error: reqwest::Error) -> Error {
        let is_connect = error.is_connect();
        let cause = transport_cause(&self.dial_text, &error);
        let failure =
            Error::new(ErrorKind::Unavailable, format!("Post \"{}{path}\": {cause}", self.shown_url))
                .component(COMPONENT)
                .with_source(error.without_url());
        self.health.on_unreachable(&failure);
        // A broken connection may have been one accident, so ask again at once; a refused one will not be better now.
        self.probe(if is_connect { PROBE_PAUSE } else { Duration::ZERO });
        failure
    }

    /// Something is wrong with the daemon: find out whether it still answers.
    pub(super) fn suspect(self: &Arc<Self>) {
        self.probe(Duration::ZERO);
    }

    /// Asks the daemon in the background until it answers, so that its return is noticed when nobody else asks. There is
    /// one such task at most.
    fn probe(self: &Arc<Self>, first_pause: Duration) {
        if self.stopped.is_cancelled() || !self.health.begin_probe() {
            return;
        }
        let stopped = self.stopped.clone();
        let http = Arc::downgrade(self);
        self.tasks.spawn(async move {
            let mut pause = first_pause;
            loop {
                tokio::select! {
                    biased;
                    () = stopped.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                // Not held while waiting: a connector that was dropped must not live on for its probe.
                let Some(http) = http.upgrade() else { return };
                let answers = tokio::select! {
                    biased;
                    () = stopped.cancelled() => return,
                    answer = http.answers() => answer.is_ok(),
                };
                if answers {
                    http.health.end_probe();
                    return;
                }
                pause = PROBE_PAUSE;
            }
        });
    }

    /// Asks who the daemon is, out of turn.
    pub(super) async fn answers(self: &Arc<Self>) -> Result<Bytes> {
        let call = async {
            let answer = self.post_now("id", Judge::Latency, None).await?;
            answer.bytes(ANSWER_BYTES_MAX).await
        };
        match tokio::time::timeout(PROBE_TIMEOUT, call).await {
            Ok(answer) => answer,
            Err(_) => {
                let failure = Error::new(
                    ErrorKind::Timeout,
                    format!(
                        "the IPFS daemon at {} did not answer for {}",
                        self.shown_url,
                        duration::to_text(PROBE_TIMEOUT)
                    ),
                )
                .component(COMPONENT);
                self.health.on_unreachable(&failure);
                self.probe(PROBE_PAUSE);
                Err(failure)
            }
        }
    }

    /// Makes sure that the availability becomes known.
    pub(super) fn learn_availability(self: &Arc<Self>) {
        if !self.health.is_known() {
            self.probe(Duration::ZERO);
        }
    }
}

#[cfg(unix)]
fn with_unix_socket(
    builder: reqwest::ClientBuilder,
    path: &std::path::Path,
) -> Result<reqwest::ClientBuilder> {
    Ok(builder.unix_socket(path))
}

#[cfg(not(unix))]
fn with_unix_socket(_: reqwest::ClientBuilder, path: &std::path::Path) -> Result<reqwest::ClientBuilder> {
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("this system has no unix sockets, so the IPFS daemon cannot be at {}", path.display()),
    ))
}

/// Why there was no answer, in Go's words, which operators know.
fn transport_cause(dial_text: &str, error: &reqwest::Error) -> String {
    let mut innermost: &(dyn StdError + 'static) = error;
    let mut io_error = None;
    while let Some(source) = innermost.source() {
        innermost = source;
        io_error = innermost.downcast_ref::<io::Error>().or(io_error);
    }
    let reason = match io_error.map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        Some(io::ErrorKind::ConnectionReset) => "connection reset by peer".to_owned(),
        Some(io::ErrorKind::NotFound) => "no such file or directory".to_owned(),
        Some(io::ErrorKind::PermissionDenied) => "permission denied".to_owned(),
        Some(io::ErrorKind::HostUnreachable) => "no route to host".to_owned(),
        Some(io::ErrorKind::NetworkUnreachable) => "network is unreachable".to_owned(),
        _ if error.is_timeout() => "i/o timeout".to_owned(),
        _ => innermost.to_string(),
    };
    if error.is_connect() { format!("{dial_text}: {reason}") } else { reason }
}

/// An answer that is not 200.
struct Refusal {
    error: Error,
    health: RefusalHealth,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RefusalHealth {
    /// The daemon answered and would not.
    Well,
    /// It has too much to do.
    Busy,
    /// Something in front of it says that it is not there.
    Gone,
}

/// What the daemon says when it refuses.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RemoteError {
    pub(super) message: String,
}

/// The daemon's own words, kept as the source of the error so that callers need not take its text apart.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct RemoteMessage(pub(super) String);

/// A refusal that is not in an IPFS daemon's form.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("HTTP status {code}")]
struct NotADaemon {
    code: u16,
}

/// Whether what is at the address cannot be an IPFS daemon, now or later.
pub(super) fn is_no_daemon(error: &Error) -> bool {
    error.kind() == ErrorKind::Corrupt
        || error
            .downcast_source::<NotADaemon>()
            .is_some_and(|refusal| (400..500).contains(&refusal.code) && refusal.code != 429)
}

/// What operating systems say when a disk or a quota is full; the daemon hands it on, after what it wanted to write.
const NO_SPACE_TEXTS: [&str; 3] =
    ["no space left on device", "disk quota exceeded", "not enough space on the disk"];

/// What kind of refusal the daemon's words are.
fn kind_of(message: &str) -> ErrorKind {
    if NO_SPACE_TEXTS.iter().any(|text| message.contains(text)) {
        ErrorKind::StorageFull
    } else {
        ErrorKind::Remote
    }
}

pub(super) fn remote_error(path: &str, code: u16, message: String) -> Error {
    Error::new(kind_of(&message), format!("IPFS error ({path}). Code: {code}. Message: {message}"))
        .component(COMPONENT)
        .with_source(RemoteMessage(message))
}

impl Refusal {
    fn read(path: &str, status: StatusCode, body: &[u8]) -> Self {
        let code = status.as_u16();
        let (kind, health) = match code {
            429 => (ErrorKind::Unavailable, RefusalHealth::Busy),
            502..=504 => (ErrorKind::Unavailable, RefusalHealth::Gone),
            _ => (ErrorKind::Remote, RefusalHealth::Well),
        };
        if kind == ErrorKind::Remote
            && let Ok(RemoteError { message }) = serde_json::from_slice(body)
        {
            return Self { error: remote_error(path, code, message), health };
        }
        let text = String::from_utf8_lossy(&body[..body.len().min(ERROR_TEXT_BYTES_MAX)]);
        let error = Error::new(
            kind,
            format!("IPFS request failed (is it running?) ({path}). Code {code}: {}", text.trim_end()),
        )
        .component(COMPONENT)
        .with_source(NotADaemon { code });
        Self { error, health }
    }
}

/// The message of the daemon, when the error is its refusal.
pub(super) fn remote_message(error: &Error) -> Option<&str> {
    error.downcast_source::<RemoteMessage>().map(|message| message.0.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_worded_as_the_reference_words_them() {
        let html = "<html>not here</html>\n";
        let message = r#"{"Message":"pin: nothing","Code":0,"Type":"error"}"#;
        for (status, body, kind, health, text) in [
            (
                500,
                message,
                ErrorKind::Remote,
                RefusalHealth::Well,
                "IPFS error (pin/add?arg=x). Code: 500. Message: pin: nothing",
            ),
            (
                404,
                html,
                ErrorKind::Remote,
                RefusalHealth::Well,
                "IPFS request failed (is it running?) (pin/add?arg=x). Code 404: <html>not here</html>",
            ),
            (
                500,
                "{\"Message\":5}",
                ErrorKind::Remote,
                RefusalHealth::Well,
                "IPFS request failed (is it running?) (pin/add?arg=x). Code 500: {\"Message\":5}",
            ),
            (
                502,
                message,
                ErrorKind::Unavailable,
                RefusalHealth::Gone,
                "IPFS request failed (is it running?) (pin/add?arg=x). Code 502: {\"Message\":\"pin: nothing\",\"Code\":0,\"Type\":\"error\"}",
            ),
            (
                429,
                "",
                ErrorKind::Unavailable,
                RefusalHealth::Busy,
                "IPFS request failed (is it running?) (pin/add?arg=x). Code 429: ",
            ),
        ] {
            let refusal =
                Refusal::read("pin/add?arg=x", StatusCode::from_u16(status).unwrap(), body.as_bytes());
            assert_eq!((refusal.error.kind(), refusal.health), (kind, health), "{status}");
            assert_eq!(refusal.error.message(), text);
        }
    }

    #[test]
    fn a_daemon_whose_disk_is_full_is_told_from_one_that_refuses() {
        for (message, kind) in [
            // Kubo 0.39 on a full file system.
            (
                "pin: write /repo/blocks/.temp/temp-4026046189: no space left on device",
                ErrorKind::StorageFull,
            ),
            ("pin: write /repo/datastore/000002.log: disk quota exceeded", ErrorKind::StorageFull),
            ("pin: context canceled", ErrorKind::Remote),
        ] {
            let error = remote_error("pin/add?arg=x", 500, message.to_owned());
            assert_eq!((error.kind(), remote_message(&error)), (kind, Some(message)));
        }
    }

    #[test]
    fn a_refusal_of_any_size_makes_a_short_error() {
        let refusal = Refusal::read("id", StatusCode::NOT_FOUND, &[b'x'; ERROR_BYTES_MAX]);
        assert!(refusal.error.message().len() < ERROR_TEXT_BYTES_MAX + 100);
    }
}
