//! Making a client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Client;
use super::credentials::Credentials;
use super::host::{Host, https_unsupported};
use super::transport::{Endpoint, Transport};
use crate::error::{Error, ErrorKind, Result};

/// Where a peer serves its API unless told otherwise.
pub const DEFAULT_HOST: &str = "/ip4/127.0.0.1/tcp/9094";

/// Most hosts of one client.
pub const HOSTS_MAX: usize = 64;

/// How long one host may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a silent connection may be idle before the other machine is probed. With the probes below, a machine
/// that vanished is noticed within a minute, also by calls that have no timeout.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// Redirects that are followed: servers redirect paths that end in a slash, once.
const REDIRECTS_MAX: usize = 3;

/// Settings of a [`Client`]; get one from [`Client::builder`].
#[derive(Clone, Default)]
#[must_use = "a builder does nothing until build()"]
pub struct ClientBuilder {
    hosts: Vec<String>,
    timeout: Option<Duration>,
    credentials: Option<Credentials>,
    https: bool,
}

impl ClientBuilder {
    /// Adds an API address: a multiaddress (`/ip4/127.0.0.1/tcp/9094`, `/dns4/example.com/tcp/9094`), `host:port`,
    /// or a host whose port is 9094. Names are resolved for each connection and all of their addresses tried.
    ///
    /// Call it again for more: they are tried in this order, each once for each call, and only when no answer
    /// comes from the one before. Without any, [`DEFAULT_HOST`] is used.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.hosts.push(host.into());
        self
    }

    /// How long each attempt of a call may take, from the first byte sent to the last received; zero, the
    /// default, is as long as it takes. Listings of many pins and garbage collection can take minutes.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout).filter(|timeout| !timeout.is_zero());
        self
    }

    /// Sends a name and password with every call. They travel readable for everybody on the way, since
    /// addresses are plain http. An empty user sends none.
    pub fn basic_auth(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        let (user, password) = (user.into(), password.into());
        self.credentials =
            Some(user).filter(|user| !user.is_empty()).map(|user| Credentials::Basic { user, password });
        self
    }

    /// Sends a token with every call, as [`Client::token`] gives one, instead of a name and password. It travels as
    /// readable as they do. An empty one is none.
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.credentials = Some(token.into()).filter(|token| !token.is_empty()).map(Credentials::Bearer);
        self
    }

    /// Asks for https on every host. [`build`](Self::build) refuses it until this crate can speak it, so that
    /// nobody sends in the clear what was meant to be hidden.
    pub fn https(mut self, https: bool) -> Self {
        self.https = https;
        self
    }

    /// Makes the client. Nothing is sent yet.
    ///
    /// # Errors
    /// `InvalidInput` for an address that cannot be parsed or too many of them, and for credentials that cannot be sent;
    /// `Unsupported` for one that needs
    /// https, libp2p or a unix socket; both name it.
    pub fn build(self) -> Result<Client> {
        let texts = if self.hosts.is_empty() { vec![DEFAULT_HOST.to_owned()] } else { self.hosts };
        if texts.len() > HOSTS_MAX {
            let message = format!("{} hosts were given, at most {HOSTS_MAX} are possible", texts.len());
            return Err(Error::invalid_input(message).component("client"));
        }
        let mut endpoints = Vec::with_capacity(texts.len());
        for text in texts {
            let host = Host::parse(&text)?;
            if self.https {
                return Err(https_unsupported(&text));
            }
            let http = http_client(&host)?;
            endpoints.push(Endpoint { host, http });
        }
        let credentials = self.credentials.as_ref().map(Credentials::header).transpose()?;
        let transport = Transport { endpoints, timeout: self.timeout, credentials };
        Ok(Client { transport: Arc::new(transport) })
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("hosts", &self.hosts)
            .field("timeout", &self.timeout)
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

fn http_client(host: &Host) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("ipfs-cluster/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(KEEPALIVE_AFTER)
        .tcp_keepalive_interval(KEEPALIVE_INTERVAL)
        .tcp_keepalive_retries(KEEPALIVE_PROBES)
        .redirect(reqwest::redirect::Policy::limited(REDIRECTS_MAX));
    if host.is_loopback() {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|source| {
        Error::new(ErrorKind::Internal, format!("making the http client failed: {source}"))
            .component("client")
            .with_source(source)
    })
}
