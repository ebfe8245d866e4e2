//! Talking to etcd's JSON gateway: several endpoints, one of them at a time, until a deadline.
//!
//! Everything that is sent can be sent twice: reading, what says the same again, and transactions that find out whether
//! they have been here before (see `lane`). So an endpoint that does not answer is passed over, whatever became of the
//! request.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

use super::wire::{Line, Login, LoginAnswer, RangeAnswer, RangeAsked, Refusal, Txn, TxnAnswer};
use super::{COMPONENT, EtcdConfig};
use crate::config::Hidden;
use crate::error::{Error, ErrorKind, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one endpoint may take to answer while there are others.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// At the first attempt: a member whose leader dies loses what it passed on to it, and says so only after seven seconds.
const FIRST_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two rounds through all endpoints.
const ROUND_PAUSE: Duration = Duration::from_millis(250);
/// Longest answer that is read as a whole, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Longest answer that says no.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// Longest piece of a text of etcd's in an error, in bytes.
const TEXT_BYTES_MAX: usize = 500;

/// Codes of gRPC.
mod code {
    pub(super) const INVALID_ARGUMENT: u32 = 3;
    pub(super) const DEADLINE_EXCEEDED: u32 = 4;
    pub(super) const NOT_FOUND: u32 = 5;
    pub(super) const PERMISSION_DENIED: u32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: u32 = 8;
    pub(super) const OUT_OF_RANGE: u32 = 11;
    pub(super) const UNAVAILABLE: u32 = 14;
    pub(super) const UNAUTHENTICATED: u32 = 16;
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) reason: Reason,
    pub(super) error: Error,
    /// An endpoint that did not answer may have done it all the same.
    pub(super) is_open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Nobody answered in time.
    Down,
    /// The history does not reach back so far.
    Compacted,
    /// There is no such lease.
    NoLease,
    /// The answer is longer than we read.
    TooLong,
    /// Etcd does not know us. A new token may help, once.
    Token,
    /// It will not do that.
    Refused,
}

impl Failure {
    // Not `From`: a second way to make an error by `?` would leave the compiler in doubt elsewhere.
    pub(super) fn into_error(self) -> Error {
        self.error
    }
}

#[derive(Debug)]
pub(super) struct Gateway {
    client: Client,
    endpoints: Vec<String>,
    /// The one that answered last.
    current: AtomicUsize,
    username: String,
    password: Hidden<String>,
    token: Mutex<Option<Hidden<HeaderValue>>>,
    line_bytes_max: usize,
}

impl Gateway {
    /// # Errors
    /// `InvalidInput` for certificates that are none.
    pub(super) fn new(config: &EtcdConfig) -> Result<Self> {
        let pem = |what: &'static str| {
            move |source: reqwest::Error| {
                let text = format!("the {what} for etcd cannot be read, expected PEM: {}", cause(&source));
                Error::invalid_input(text).component(COMPONENT).with_source(source)
            }
        };
        let mut builder = Client::builder()
            // Etcd is named by its address; a proxy from the environment is for the world outside.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http1_only()
            .user_agent(concat!("ipfs-cluster/", env!("CARGO_PKG_VERSION")));
        let tls = &config.tls;
        if !tls.authorities.is_empty() {
            let authorities = reqwest::Certificate::from_pem_bundle(tls.authorities.as_bytes())
                .map_err(pem("certificate authorities"))?;
            if authorities.is_empty() {
                return Err(Error::invalid_input(
                    "there is no certificate in the certificate authorities for etcd, expected PEM",
                )
                .component(COMPONENT));
            }
            builder = builder.tls_certs_only(authorities);
        } else if !config.endpoints.iter().any(|endpoint| endpoint.starts_with("https")) {
            // Reading what the system believes takes time that nobody needs here.
            builder = builder.tls_certs_only([]);
        }
        if !tls.certificate.is_empty() {
            let both = format!("{}\n{}", tls.certificate, tls.key.0);
            let identity =
                reqwest::Identity::from_pem(both.as_bytes()).map_err(pem("certificate and key"))?;
            builder = builder.identity(identity);
        }
        let client = builder.build().map_err(|source| {
            let text = format!("making the http client for etcd failed: {}", cause(&source));
            Error::internal(text).component(COMPONENT).with_source(source)
        })?;
        Ok(Self {
            client,
            endpoints: config.endpoints.iter().map(|url| url.trim_end_matches('/').to_owned()).collect(),
            current: AtomicUsize::new(0),
            username: config.username.clone(),
            password: config.password.clone(),
            token: Mutex::new(None),
            line_bytes_max: config.line_bytes_max(),
        })
    }

    pub(super) async fn txn(&self, txn: &Txn, deadline: Instant) -> Result<TxnAnswer, Failure> {
        self.call("/v3/kv/txn", txn, deadline).await
    }

    pub(super) async fn range(&self, range: &RangeAsked, deadline: Instant) -> Result<RangeAnswer, Failure> {
        self.call("/v3/kv/range", range, deadline).await
    }

    /// Asks until somebody answers. Cancel-safe; what was dropped may still be done.
    ///
    /// # Errors
    /// See [`Reason`].
    pub(super) async fn call<A: DeserializeOwned>(
        &self,
        path: &str,
        question: &(impl Serialize + Sync),
        deadline: Instant,
    ) -> Result<A, Failure> {
        let body = encode(question).map_err(refused)?;
        let mut rounds = Rounds::new(self, deadline);
        loop {
            let failure = match self.attempt(path, body.clone(), rounds.attempt_deadline()).await {
                Ok(answer) => return decode(&answer).map_err(|error| rounds.refused(error)),
                Err(failure) => failure,
            };
            rounds.failed(failure).await?;
        }
    }

    /// Asks for an answer without an end.
    ///
    /// # Errors
    /// See [`Reason`].
    pub(super) async fn stream(
        &self,
        path: &str,
        question: &(impl Serialize + Sync),
        deadline: Instant,
    ) -> Result<Lines, Failure> {
        let body = encode(question).map_err(refused)?;
        let mut rounds = Rounds::new(self, deadline);
        loop {
            match self.send(path, body.clone(), rounds.attempt_deadline()).await {
                Ok(response) => {
                    return Ok(Lines {
                        response,
                        buffer: BytesMut::new(),
                        scanned: 0,
                        max: self.line_bytes_max,
                    });
                }
                Err(failure) => rounds.failed(failure).await?,
            }
        }
    }

    /// The endpoint in use does not do what it should: use another one from now on.
    pub(super) fn pass_over(&self, endpoint: usize) {
        let next = (endpoint + 1) % self.endpoints.len();
        // Somebody else may have noticed before.
        let _ = self.current.compare_exchange(endpoint, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The number of the endpoint in use.
    pub(super) fn endpoint(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// All of them, for errors.
    fn shown(&self) -> String {
        self.endpoints.join(", ")
    }

    async fn attempt(&self, path: &str, body: Bytes, deadline: Instant) -> Result<BytesMut, Failure> {
        let response = self.send(path, body, deadline).await?;
        match timeout_at(deadline, read(response, ANSWER_BYTES_MAX)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Unread::TooLong)) => Err(Failure {
                reason: Reason::TooLong,
                error: Error::new(
                    ErrorKind::Remote,
                    format!("an answer of etcd is longer than {ANSWER_BYTES_MAX} bytes"),
                )
                .component(COMPONENT),
                is_open: true,
            }),
            Ok(Err(Unread::Broken(source))) => Err(down(format!("the answer broke off: {}", cause(&source)))),
            Err(_) => Err(down("no answer in time".to_owned())),
        }
    }

    /// Sends once, with a token if there is one to be had, and returns a response that says yes.
    async fn send(&self, path: &str, body: Bytes, deadline: Instant) -> Result<Response, Failure> {
        match self.send_with_token(path, body.clone(), deadline).await {
            Err(failure) if failure.reason == Reason::Token && !self.username.is_empty() => {
                // It was one of long ago.
                *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
                self.send_with_token(path, body, deadline).await
            }
            sent => sent,
        }
    }

    async fn send_with_token(&self, path: &str, body: Bytes, deadline: Instant) -> Result<Response, Failure> {
        let token = self.token(deadline).await?;
        self.post(path, body, token, deadline).await
    }

    /// What says who we are, asked for when there is none.
    async fn token(&self, deadline: Instant) -> Result<Option<HeaderValue>, Failure> {
        if self.username.is_empty() {
            return Ok(None);
        }
        let known = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(Hidden(token)) = known {
            return Ok(Some(token));
        }
        let login = encode(&Login { name: &self.username, password: &self.password.0 }).map_err(refused)?;
        let response = self.post("/v3/auth/authenticate", login, None, deadline).await;
        let response = match response {
            // Then nobody is asked who they are.
            Err(failure) if failure.error.message().contains("authentication is not enabled") => {
                return Ok(None);
            }
            response => response?,
        };
        let answer = match timeout_at(deadline, read(response, REFUSAL_BYTES_MAX)).await {
            Ok(Ok(answer)) => decode::<LoginAnswer>(&answer).map_err(refused)?,
            _ => return Err(down("no answer in time".to_owned())),
        };
        let mut token = HeaderValue::from_str(&answer.token)
            .map_err(|_| refused(Error::new(ErrorKind::Remote, "etcd gave a token that cannot be sent")))?;
        token.set_sensitive(true);
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(Hidden(token.clone()));
        Ok(Some(token))
    }

    async fn post(
        &self,
        path: &str,
        body: Bytes,
        token: Option<HeaderValue>,
        deadline: Instant,
    ) -> Result<Response, Failure> {
        let endpoint = &self.endpoints[self.endpoint() % self.endpoints.len()];
        let mut request = self
            .client
            .post(format!("{endpoint}{path}"))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(body);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let response = match timeout_at(deadline, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(source)) => {
                let is_open = !source.is_connect();
                return Err(Failure { is_open, ..down(format!("{endpoint}: {}", cause(&source))) });
            }
            Err(_) => return Err(down(format!("{endpoint}: no answer in time"))),
        };
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response);
        }
        let text = match timeout_at(deadline, read(response, REFUSAL_BYTES_MAX)).await {
            Ok(Ok(text)) => text,
            _ => return Err(down(format!("{endpoint}: it answered {status} and broke off"))),
        };
        Err(match serde_json::from_slice::<Refusal>(&text) {
            Ok(refusal) if refusal.code != 0 => refusal_failure(&refusal),
            // Not etcd, or something between us.
            _ => down(format!("{endpoint}: it answered {status}; is this etcd?")),
        })
    }
}

/// Attempts of one call, endpoint after endpoint.
struct Rounds<'a> {
    gateway: &'a Gateway,
    deadline: Instant,
    attempts: usize,
    endpoint: usize,
    is_open: bool,
}

impl<'a> Rounds<'a> {
    fn new(gateway: &'a Gateway, deadline: Instant) -> Self {
        Self { gateway, deadline, attempts: 0, endpoint: gateway.endpoint(), is_open: false }
    }

    fn attempt_deadline(&mut self) -> Instant {
        self.endpoint = self.gateway.endpoint();
        let timeout = if self.attempts == 0 { FIRST_ATTEMPT_TIMEOUT } else { ATTEMPT_TIMEOUT };
        self.deadline.min(Instant::now() + timeout)
    }

    fn refused(&self, error: Error) -> Failure {
        Failure { is_open: self.is_open, ..refused(error) }
    }

    /// Returns when it is time for another attempt.
    async fn failed(&mut self, failure: Failure) -> Result<(), Failure> {
        self.is_open |= failure.is_open;
        if failure.reason != Reason::Down {
            return Err(Failure { is_open: self.is_open, ..failure });
        }
        self.attempts += 1;
        self.gateway.pass_over(self.endpoint);
        let pause = if self.attempts.is_multiple_of(self.gateway.endpoints.len()) {
            ROUND_PAUSE
        } else {
            Duration::ZERO
        };
        if Instant::now() + pause >= self.deadline {
            let error = failure.error.context(format_args!(
                "etcd at {} does not answer, or has no quorum; the pinset can still be read",
                self.gateway.shown()
            ));
            return Err(Failure { reason: Reason::Down, error, is_open: self.is_open });
        }
        sleep(pause).await;
        Ok(())
    }
}

/// An answer of lines, one after the other.
#[derive(Debug)]
pub(super) struct Lines {
    response: Response,
    buffer: BytesMut,
    /// Bytes of the buffer that have no end of line in them.
    scanned: usize,
    max: usize,
}

impl Lines {
    /// The next line. Cancel-safe.
    ///
    /// # Errors
    /// `Down` where the stream ends, and what etcd says.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        loop {
            if let Some(line) = self.take()? {
                if line.is_empty() {
                    continue;
                }
                return match decode::<Line<T>>(&line) {
                    Ok(Line::Result(result)) => Ok(result),
                    Ok(Line::Error(refusal)) => Err(refusal_failure(&refusal)),
                    Err(error) => Err(refused(error)),
                };
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Ok(None) => return Err(down("the watch ended".to_owned())),
                Err(source) => return Err(down(format!("the watch broke off: {}", cause(&source)))),
            }
        }
    }

    fn take(&mut self) -> Result<Option<BytesMut>, Failure> {
        let end = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n');
        let Some(end) = end.map(|end| self.scanned + end) else {
            self.scanned = self.buffer.len();
            if self.scanned > self.max {
                let max = self.max;
                let text = format!(
                    "a line of etcd is longer than {max} bytes; does etcd.max_request_bytes say what etcd's \
                     --max-request-bytes says?"
                );
                return Err(refused(Error::new(ErrorKind::Remote, text)));
            }
            return Ok(None);
        };
        let line = self.buffer.split_to(end);
        // The end of the line itself.
        let _ = self.buffer.split_to(1);
        self.scanned = 0;
        Ok(Some(line))
    }
}

enum Unread {
    TooLong,
    Broken(reqwest::Error),
}

async fn read(mut response: Response, max: usize) -> Result<BytesMut, Unread> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(Unread::Broken)? {
        if body.len() + chunk.len() > max {
            return Err(Unread::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn encode(question: &impl Serialize) -> Result<Bytes> {
    serde_json::to_vec(question).map(Bytes::from).map_err(|source| {
        Error::internal("a question to etcd cannot be written").component(COMPONENT).with_source(source)
    })
}

fn decode<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|source| {
        Error::new(ErrorKind::Remote, "an answer of etcd cannot be read; is this etcd 3.4 or newer?")
            .component(COMPONENT)
            .with_source(source)
    })
}

/// The innermost source, which says what it was.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn StdError = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn down(text: String) -> Failure {
    let error = Error::new(ErrorKind::Unavailable, text).component(COMPONENT);
    Failure { reason: Reason::Down, error, is_open: true }
}

pub(super) fn refused(error: Error) -> Failure {
    Failure { reason: Reason::Refused, error: error.component(COMPONENT), is_open: false }
}

/// What etcd's no means for us.
fn refusal_failure(refusal: &Refusal) -> Failure {
    let message = refusal.message.trim_start_matches("etcdserver: ");
    let message: String =
        message.char_indices().take_while(|(at, _)| *at < TEXT_BYTES_MAX).map(|(_, char)| char).collect();
    let has = |text: &str| message.contains(text);
    let (reason, kind, advice) = match refusal.code {
        code::INVALID_ARGUMENT if has("invalid user ID or password") => {
            (Reason::Refused, ErrorKind::Unauthorized, "; check etcd.username and etcd.password")
        }
        code::INVALID_ARGUMENT if has("user name is empty") => {
            (Reason::Refused, ErrorKind::Unauthorized, "; etcd wants to know who asks: set etcd.username")
        }
        code::INVALID_ARGUMENT if has("auth: revision in header is old") => {
            (Reason::Token, ErrorKind::Unauthorized, "")
        }
        code::INVALID_ARGUMENT if has("too many operations") => (
            Reason::Refused,
            ErrorKind::InvalidInput,
            "; does etcd.max_txn_operations say what etcd's --max-txn-ops says?",
        ),
        code::INVALID_ARGUMENT if has("request is too large") => (
            Reason::Refused,
            ErrorKind::InvalidInput,
            "; does etcd.max_request_bytes say what etcd's --max-request-bytes says?",
        ),
        code::INVALID_ARGUMENT => (Reason::Refused, ErrorKind::InvalidInput, ""),
        code::NOT_FOUND if has("lease not found") => (Reason::NoLease, ErrorKind::NotFound, ""),
        code::OUT_OF_RANGE if has("compacted") => (Reason::Compacted, ErrorKind::NotFound, ""),
        code::UNAUTHENTICATED => (Reason::Token, ErrorKind::Unauthorized, ""),
        code::PERMISSION_DENIED => (
            Reason::Refused,
            ErrorKind::Unauthorized,
            "; the user needs a role that may read and write below etcd.prefix",
        ),
        code::RESOURCE_EXHAUSTED if has("space") => (
            Reason::Refused,
            ErrorKind::StorageFull,
            "; compact and defragment etcd, raise its quota, then disarm its alarm",
        ),
        code::RESOURCE_EXHAUSTED | code::UNAVAILABLE | code::DEADLINE_EXCEEDED => {
            (Reason::Down, ErrorKind::Unavailable, "")
        }
        _ => (Reason::Refused, ErrorKind::Remote, ""),
    };
    let error = Error::new(kind, format!("etcd says: {message}{advice}")).component(COMPONENT);
    Failure { reason, error, is_open: reason == Reason::Down }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_says_is_told_apart() {
        use ErrorKind::{InvalidInput, NotFound, Remote, StorageFull, Unauthorized, Unavailable};
        for (code, message, reason, kind) in [
            (
                3,
                "etcdserver: authentication failed, invalid user ID or password",
                Reason::Refused,
                Unauthorized,
            ),
            (3, "etcdserver: user name is empty", Reason::Refused, Unauthorized),
            (3, "etcdserver: too many operations in txn request", Reason::Refused, InvalidInput),
            (3, "etcdserver: request is too large", Reason::Refused, InvalidInput),
            (3, "auth: revision in header is old", Reason::Token, Unauthorized),
            (5, "etcdserver: requested lease not found", Reason::NoLease, NotFound),
            (7, "etcdserver: permission denied", Reason::Refused, Unauthorized),
            (8, "etcdserver: mvcc: database space exceeded", Reason::Refused, StorageFull),
            (8, "etcdserver: too many requests", Reason::Down, Unavailable),
            (11, "etcdserver: mvcc: required revision has been compacted", Reason::Compacted, NotFound),
            (14, "etcdserver: leader changed", Reason::Down, Unavailable),
            (16, "etcdserver: invalid auth token", Reason::Token, Unauthorized),
            (99, "a new one", Reason::Refused, Remote),
        ] {
            let failure = refusal_failure(&Refusal { code, message: message.to_owned() });
            assert_eq!((failure.reason, failure.error.kind()), (reason, kind), "{message}");
            let error = failure.error.to_string();
            assert!(error.contains(message.trim_start_matches("etcdserver: ")), "{error}");
        }
        let endless = Refusal { code: 99, message: "é".repeat(100_000) };
        assert!(refusal_failure(&endless).error.message().len() < 2 * TEXT_BYTES_MAX);
    }

    #[test]
    fn certificates_that_are_none_are_refused() {
        for (tls, text) in [
            (super::super::EtcdTls { authorities: "x".into(), ..Default::default() }, "authorities"),
            (
                super::super::EtcdTls {
                    certificate: "x".into(),
                    key: Hidden("y".into()),
                    ..Default::default()
                },
                "certificate and key",
            ),
        ] {
            let error = Gateway::new(&EtcdConfig { tls, ..Default::default() }).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
