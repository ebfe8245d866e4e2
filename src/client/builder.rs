//! Making a client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Client;
use super::credentials::Credentials;
use super::host::{Host, Via};
use super::transport::{Endpoint, Transport};
use crate::config::Secret;
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
/// What a client calls itself.
pub(super) const USER_AGENT: &str = concat!("ipfs-cluster/", env!("CARGO_PKG_VERSION"));

/// Settings of a [`Client`]; get one from [`Client::builder`].
#[derive(Clone, Default)]
#[must_use = "a builder does nothing until build()"]
pub struct ClientBuilder {
    hosts: Vec<String>,
    timeout: Option<Duration>,
    credentials: Option<Credentials>,
    https: bool,
    no_check_certificate: bool,
    authorities: Vec<u8>,
    secret: Secret,
}

impl ClientBuilder {
    /// Adds an API address:
    ///
    /// | address | how it is talked to |
    /// |---|---|
    /// | `/ip4/127.0.0.1/tcp/9094`, `/dns4/example.com/tcp/9094`, `host:port`, a host whose port is 9094 | HTTP |
    /// | the same with `/https` or `/tls/http` behind it, `https://…`, or [`https`](Self::https) | HTTPS |
    /// | `/unix/run/cluster/api.sock` | HTTP over a Unix socket |
    /// | `/ip4/127.0.0.1/tcp/9096/p2p/12D3…`, `/dnsaddr/example.com` | HTTP over libp2p, with the [`secret`](Self::secret); needs the feature `transport-libp2p` |
    ///
    /// A name stands for each of its addresses, asked for with every call.
    ///
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

    /// Sends a name and password with every call. Without https they travel readable for everybody on the way. An
    /// empty user sends none.
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

    /// Asks for https on every host that goes over TCP. Unix sockets and libp2p are protected in their own ways.
    pub fn https(mut self, https: bool) -> Self {
        self.https = https;
        self
    }

    /// Takes any certificate of an https host. Then anybody on the way can read and change everything.
    pub fn no_check_certificate(mut self, no_check: bool) -> Self {
        self.no_check_certificate = no_check;
        self
    }

    /// Believes also certificates that one of these vouches for (PEM), beside those that the system believes.
    pub fn certificate_authorities(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities = pem.into();
        self
    }

    /// The secret of the private network that libp2p hosts are in; none is the default. For an API with a host of its
    /// own the reference has none, for one that is served on the peer's host it is the cluster's.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secret = secret;
        self
    }

    /// Makes the client. Nothing is sent yet.
    ///
    /// # Errors
    /// `InvalidInput` for an address that cannot be parsed or too many of them, for certificates that are none, and for
    /// credentials that cannot be sent;
    /// `Unsupported` for an address that needs what this build or system lacks (libp2p, Unix sockets), naming it;
    /// `Internal` when the system's certificates cannot be read, which only https needs.
    pub fn build(mut self) -> Result<Client> {
        let mut texts = std::mem::take(&mut self.hosts);
        if texts.is_empty() {
            texts.push(DEFAULT_HOST.to_owned());
        }
        if texts.len() > HOSTS_MAX {
            let message = format!("{} hosts were given, at most {HOSTS_MAX} are possible", texts.len());
            return Err(Error::invalid_input(message).component("client"));
        }
        let mut endpoints = Vec::with_capacity(texts.len());
        for text in texts {
            let host = Host::parse(&text, self.https)?;
            let http = self.http_client(&host)?;
            endpoints.push(Endpoint { host, http });
        }
        let credentials = self.credentials.as_ref().map(Credentials::header).transpose()?;
        let transport = Transport {
            endpoints,
            timeout: self.timeout,
            credentials,
            #[cfg(feature = "transport-libp2p")]
            peers: super::peers::Peers::new(self.secret),
        };
        Ok(Client { transport: Arc::new(transport) })
    }

    fn http_client(&self, host: &Host) -> Result<reqwest::Client> {
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE_AFTER)
            .tcp_keepalive_interval(KEEPALIVE_INTERVAL)
            .tcp_keepalive_retries(KEEPALIVE_PROBES)
            .redirect(reqwest::redirect::Policy::limited(REDIRECTS_MAX));
        if host.is_loopback() {
            builder = builder.no_proxy();
        }
        #[cfg(unix)]
        if let Via::Unix(path) = &host.via {
            builder = builder.unix_socket(path.as_path());
        }
        if !host.is_https() || self.no_check_certificate {
            // Reading what the system believes takes time that nobody needs here.
            builder = builder.tls_certs_only([]).tls_danger_accept_invalid_certs(self.no_check_certificate);
        } else if !self.authorities.is_empty() {
            let authorities = reqwest::Certificate::from_pem_bundle(&self.authorities).map_err(|source| {
                let text = format!("the certificate authorities cannot be read: {source}");
                Error::invalid_input(text).component("client").with_source(source)
            })?;
            if authorities.is_empty() {
                let text =
                    "the certificate authorities cannot be read: there is no certificate, expected PEM";
                return Err(Error::invalid_input(text).component("client"));
            }
            builder = builder.tls_certs_merge(authorities);
        }
        builder.build().map_err(|source| {
            let mut cause: &dyn std::error::Error = &source;
            while let Some(next) = cause.source() {
                cause = next;
            }
            Error::new(ErrorKind::Internal, format!("making the http client failed: {cause}"))
                .component("client")
                .with_source(source)
        })
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
