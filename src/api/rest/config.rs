//! What the REST API may be told.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::access_log::{AccessLog, Log};
use super::activity::TimeLimits;
use super::auth::{Authentication, Security, Users};
use super::connection::Limits;
use super::cors::{Cors, CorsConfig};
use super::gate::{Gate, check_exposed, custom_headers};
use super::handlers::BodyLimits;
use super::section::{HEADER_BYTES_MIN, RestApiSection};
use super::tls::RestTls;
use super::tokens::TOKEN_FILE;
use crate::config::{Identity, Secret};
use crate::error::{Error, Result};
use crate::transport::PeerTransport;
use crate::types::Multiaddr;

/// The reference reads so many bytes more than it is told.
const HEADER_BYTES_SLOP: usize = 4096;
/// Most that `max_header_bytes` may be.
const HEADER_BYTES_MAX: usize = 1024 * 1024;

/// Settings of the REST API. `Default` is what the reference's `init` writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestConfig {
    /// Where it listens: `/ip4/…/tcp/…`, `/ip6/…/tcp/…`, `/dns4/…/tcp/…`, `/unix/…`.
    pub http_listen_multiaddress: Vec<Multiaddr>,
    /// Encrypts what goes over TCP; relative names are below the working folder, or [`RestConfig::in_folder`].
    pub tls: Option<RestTls>,
    /// A libp2p host of its own, on which it is served as well.
    pub libp2p: Option<RestLibp2p>,
    /// For reading the head of a request; zero is no limit.
    pub read_header_timeout: Duration,
    /// For the next request on a connection; zero is no limit.
    pub idle_timeout: Duration,
    /// For a caller to take anything of an answer, however slowly it takes the rest; zero is no limit.
    pub stall_timeout: Duration,
    /// Most bytes of a request's head; 4096 more are allowed, as in the reference. From 4096 to 1 MiB.
    pub max_header_bytes: usize,
    /// Most bytes of a request's body.
    pub max_body_bytes: usize,
    /// For reading a request's body.
    pub body_timeout: Duration,
    /// Most connections at the same time; further callers wait.
    pub connections_max: usize,
    /// For requests in hand, when the API is shut down.
    pub shutdown_timeout: Duration,
    /// What of all this may be unsafe.
    pub security: Security,
    /// Who may call; none is everybody.
    pub authentication: Option<Authentication>,
    /// From which pages browsers may call.
    pub cors: CorsConfig,
    /// Headers that every answer of an endpoint has, also errors and refusals; not 405, redirects and preflights.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Where requests are logged.
    pub access_log: AccessLog,
}

impl Default for RestConfig {
    fn default() -> Self {
        let address = Multiaddr::from(std::net::Ipv4Addr::LOCALHOST).with(multiaddr::Protocol::Tcp(9094));
        Self {
            http_listen_multiaddress: vec![address],
            tls: None,
            libp2p: None,
            read_header_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(2 * 60),
            stall_timeout: Duration::from_secs(10 * 60),
            max_header_bytes: HEADER_BYTES_MIN,
            max_body_bytes: 64 * 1024,
            body_timeout: Duration::from_secs(30),
            connections_max: 4096,
            shutdown_timeout: Duration::from_secs(5),
            security: Security::Compatible,
            authentication: None,
            cors: CorsConfig::default(),
            headers: BTreeMap::new(),
            access_log: AccessLog::Events,
        }
    }
}

impl RestConfig {
    /// The same on other addresses.
    #[must_use]
    pub fn listen(mut self, addresses: impl IntoIterator<Item = Multiaddr>) -> Self {
        self.http_listen_multiaddress = addresses.into_iter().collect();
        self
    }

    /// The same with relative names of files meant as below a folder, the configuration's: the certificate, the access
    /// log, and the file of the tokens, which is [`TOKEN_FILE`] there unless it is set.
    #[must_use]
    pub fn in_folder(mut self, folder: &Path) -> Self {
        if let Some(tls) = &mut self.tls {
            tls.cert_file = folder.join(&tls.cert_file);
            tls.key_file = folder.join(&tls.key_file);
        }
        if let AccessLog::File(path) = &mut self.access_log {
            *path = folder.join(&path);
        }
        if let Some(authentication) = &mut self.authentication {
            let file = authentication.token_file.take().unwrap_or_else(|| TOKEN_FILE.into());
            authentication.token_file = Some(folder.join(file));
        }
        self
    }

    /// Refuses to let callers from other machines in without asking who they are, where security is strict.
    ///
    /// # Errors
    /// `InvalidInput`, naming the address and the ways out.
    pub(super) fn check_exposed(&self, address: &dyn fmt::Display) -> Result<()> {
        check_exposed(self.security, self.authentication.is_some(), address)
    }

    /// What is unsafe about it, for a warning; `exposed` when callers of other machines reach it.
    pub(super) fn risks(&self, exposed: bool) -> Vec<&'static str> {
        let nobody_is_asked = self.authentication.is_none();
        [
            (
                nobody_is_asked && exposed,
                "everybody who reaches it from the network can change the pinset: there are no users",
            ),
            (
                nobody_is_asked && self.cors.is_open_to_all(),
                "every page in a browser on this machine can read from it: cors_allowed_origins allows all",
            ),
            (
                self.authentication.as_ref().is_some_and(Authentication::has_plain_passwords),
                "passwords can be read in the configuration, and tokens made of them never end",
            ),
        ]
        .into_iter()
        .filter_map(|(is_so, text)| (is_so && self.security == Security::Compatible).then_some(text))
        .collect()
    }

    /// Checks values that cannot work.
    ///
    /// # Errors
    /// `InvalidInput` and `Unsupported`, naming the key.
    pub fn validate(&self) -> Result<()> {
        let check = |holds: bool, text: String| {
            if holds { Ok(()) } else { Err(Error::invalid_input(text).component("restapi")) }
        };
        check(
            !self.http_listen_multiaddress.is_empty() || self.libp2p.is_some(),
            "restapi.http_listen_multiaddress: no address to listen on: neither the libp2p nor the HTTP endpoints are \
             enabled"
                .to_owned(),
        )?;
        check(
            self.libp2p.as_ref().is_none_or(|libp2p| !libp2p.listen_multiaddress.is_empty()),
            "restapi.libp2p_listen_multiaddress: no address to listen on".to_owned(),
        )?;
        for address in &self.http_listen_multiaddress {
            super::listen::Listen::parse(address)?;
            if is_exposed(address) {
                self.check_exposed(address)?;
            }
        }
        for address in self.libp2p.iter().flat_map(|libp2p| &libp2p.listen_multiaddress) {
            // Also on loopback: streams are relayed from anywhere.
            self.check_exposed(address)?;
        }
        if let Some(authentication) = &self.authentication {
            authentication.validate(self.security)?;
        }
        Cors::new(&self.cors)?;
        custom_headers(&self.headers)?;
        check(
            self.max_header_bytes >= HEADER_BYTES_MIN,
            format!("restapi.max_header_bytes must be not less then {HEADER_BYTES_MIN}"),
        )?;
        check(
            self.max_header_bytes <= HEADER_BYTES_MAX,
            format!("restapi.max_header_bytes must be at most {HEADER_BYTES_MAX}"),
        )?;
        check(!self.body_timeout.is_zero(), "restapi.body_timeout must be more than 0".to_owned())?;
        check(
            (1..=tokio::sync::Semaphore::MAX_PERMITS).contains(&self.connections_max),
            format!("restapi.connections_max must be from 1 to {}", tokio::sync::Semaphore::MAX_PERMITS),
        )
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            time: TimeLimits {
                head: self.read_header_timeout,
                idle: self.idle_timeout,
                stall: self.stall_timeout,
            },
            head_bytes: self.max_header_bytes + HEADER_BYTES_SLOP,
        }
    }

    /// Reads or makes the key of the tokens, and opens the log. Blocks.
    ///
    /// # Errors
    /// As [`RestConfig::validate`], and those of the two files.
    pub(super) fn open_gate(&self) -> Result<Gate> {
        let users =
            self.authentication.as_ref().map(|users| Users::open(users, self.security)).transpose()?;
        let (cors, headers) = (Cors::new(&self.cors)?, custom_headers(&self.headers)?);
        Ok(Gate::new(self.security, users, cors, headers, Log::open(&self.access_log)?))
    }

    pub(super) fn body_limits(&self) -> BodyLimits {
        BodyLimits { bytes: self.max_body_bytes, timeout: self.body_timeout, stall: self.stall_timeout }
    }
}

/// Whether callers of other machines reach it, as far as the address tells: what a name stands for is not known.
fn is_exposed(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(multiaddr::Protocol::Ip4(ip)) => !ip.is_loopback(),
        Some(multiaddr::Protocol::Ip6(ip)) => !ip.is_loopback(),
        _ => false,
    }
}

/// From `api.restapi` of a configuration file; files are as it names them, see [`RestConfig::in_folder`]. A `read_timeout` is taken for a request's body, a `write_timeout`
/// as the time in which a caller must take something of an answer.
///
/// # Errors
/// `InvalidInput` as [`RestConfig::validate`].
impl TryFrom<&RestApiSection> for RestConfig {
    type Error = Error;

    fn try_from(section: &RestApiSection) -> Result<Self> {
        let given =
            |timeout: Duration, otherwise: Duration| if timeout.is_zero() { otherwise } else { timeout };
        let own = Self::default();
        let config = Self {
            http_listen_multiaddress: section.http_listen_multiaddress.to_vec(),
            tls: tls(section),
            libp2p: RestLibp2p::of(section)?,
            read_header_timeout: given(section.read_header_timeout, section.read_timeout),
            idle_timeout: section.idle_timeout,
            stall_timeout: given(section.write_timeout, own.stall_timeout),
            max_header_bytes: section.max_header_bytes,
            body_timeout: given(section.read_timeout, own.body_timeout),
            connections_max: match section.connections_max {
                0 => own.connections_max,
                given => given,
            },
            security: section.security,
            authentication: section.basic_auth_credentials.clone().map(|users| Authentication {
                users,
                token_file: None,
                token_lifetime: given(section.token_lifetime, Authentication::TOKEN_LIFETIME),
            }),
            cors: CorsConfig {
                allowed_origins: section.cors_allowed_origins.clone(),
                allowed_methods: section.cors_allowed_methods.clone(),
                allowed_headers: section.cors_allowed_headers.clone(),
                exposed_headers: section.cors_exposed_headers.clone(),
                allow_credentials: section.cors_allow_credentials,
                max_age: section.cors_max_age,
                closed: section.security == Security::Strict,
            },
            headers: section.headers.clone(),
            access_log: match section.http_log_file.as_str() {
                "" => AccessLog::Events,
                path => AccessLog::File(path.into()),
            },
            ..own
        };
        config.validate()?;
        Ok(config)
    }
}

fn tls(section: &RestApiSection) -> Option<RestTls> {
    let is_asked = !section.ssl_cert_file.is_empty() || !section.ssl_key_file.is_empty();
    is_asked.then(|| RestTls {
        cert_file: PathBuf::from(&section.ssl_cert_file),
        key_file: PathBuf::from(&section.ssl_key_file),
    })
}

/// A libp2p host of the API's own. It is not the peer's: it has its own identity, and nobody finds it who is not told
/// where it is.
#[derive(Clone, Debug)]
pub struct RestLibp2p {
    /// Where it listens.
    pub listen_multiaddress: Vec<Multiaddr>,
    /// Who it is there.
    pub identity: Identity,
    /// Only callers that have it can connect; none lets anybody, as in the reference.
    pub secret: Secret,
}

impl PartialEq for RestLibp2p {
    fn eq(&self, other: &Self) -> bool {
        self.listen_multiaddress == other.listen_multiaddress
            && self.identity.id() == other.identity.id()
            && self.secret == other.secret
    }
}

impl Eq for RestLibp2p {}

impl RestLibp2p {
    /// From `libp2p_listen_multiaddress`, `id` and `private_key`, which come together.
    fn of(section: &RestApiSection) -> Result<Option<Self>> {
        let key = section.private_key.as_ref().map_or("", |key| key.0.as_str());
        let (listen, id) = (&section.libp2p_listen_multiaddress, section.id.as_str());
        if listen.is_empty() && id.is_empty() && key.is_empty() {
            return Ok(None);
        }
        if listen.is_empty() || id.is_empty() || key.is_empty() {
            let text = "all ID, private_key and libp2p_listen_multiaddress should be set";
            return Err(Error::invalid_input(text).component("restapi"));
        }
        let identity = Identity::from_json(&serde_json::json!({"id": id, "private_key": key}).to_string())
            .map_err(|error| {
                let text = if error.message().contains("does not match") {
                    "restapi.ID does not match private_key".to_owned()
                } else {
                    format!("restapi: {}", error.message())
                };
                Error::new(error.kind(), text).component("restapi")
            })?;
        Ok(Some(Self { listen_multiaddress: listen.to_vec(), identity, secret: Secret::NONE }))
    }

    #[cfg(feature = "transport-libp2p")]
    pub(super) async fn start(&self) -> Result<Arc<dyn PeerTransport>> {
        use crate::transport::{Libp2pConfig, Libp2pTransport};

        let config = Libp2pConfig {
            listen: self.listen_multiaddress.clone(),
            ..Libp2pConfig::loopback(self.secret.clone())
        };
        let host = Libp2pTransport::start(&self.identity, config).await;
        Ok(Arc::new(host.map_err(|error| error.context("restapi.libp2p_listen_multiaddress"))?))
    }

    #[cfg(not(feature = "transport-libp2p"))]
    pub(super) async fn start(&self) -> Result<Arc<dyn PeerTransport>> {
        let text = "restapi.libp2p_listen_multiaddress: this program was built without libp2p; take it out of the \
                    configuration, or build with the feature transport-libp2p";
        Err(Error::new(crate::error::ErrorKind::Unsupported, text).component("restapi"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(json: &str) -> Result<RestConfig> {
        RestConfig::try_from(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn what_the_reference_writes_by_default_is_our_default() {
        assert_eq!(RestConfig::try_from(&RestApiSection::default()).unwrap(), RestConfig::default());
    }

    #[test]
    fn the_keys_of_a_section_mean_what_they_mean_in_the_reference() {
        let config =
            section(r#"{"read_timeout":"7s","write_timeout":"8s","read_header_timeout":"0s"}"#).unwrap();
        assert_eq!((config.body_timeout.as_secs(), config.stall_timeout.as_secs()), (7, 8));
        assert_eq!(config.read_header_timeout.as_secs(), 7);
        let error = section(r#"{"max_header_bytes":-1}"#).unwrap_err();
        assert!(error.message().contains("max_header_bytes"), "{error}");
    }

    #[test]
    fn files_of_the_certificate_are_in_the_folder_unless_they_say_where_they_are() {
        let config = section(r#"{"ssl_cert_file":"a.pem","ssl_key_file":"/keys/b.pem"}"#).unwrap();
        let tls = config.in_folder(Path::new("/cluster")).tls.unwrap();
        assert_eq!((tls.cert_file, tls.key_file), ("/cluster/a.pem".into(), "/keys/b.pem".into()));
    }

    #[test]
    fn a_libp2p_host_takes_all_three_keys_and_they_have_to_fit() {
        let own = Identity::generate();
        let key = serde_json::from_str::<serde_json::Value>(&own.to_json().unwrap()).unwrap()["private_key"]
            .clone();
        let read = |id: &str| {
            let listen = "/ip4/127.0.0.1/tcp/1";
            let json =
                serde_json::json!({"libp2p_listen_multiaddress": listen, "id": id, "private_key": key});
            section(&json.to_string())
        };
        let libp2p = read(&own.id().to_string()).unwrap().libp2p.unwrap();
        assert_eq!(libp2p.identity.id(), own.id());
        assert!(!libp2p.secret.is_set(), "as in the reference");
        assert!(!format!("{libp2p:?}").contains(key.as_str().unwrap()));
        let error = read(&Identity::generate().id().to_string()).unwrap_err();
        assert_eq!(error.message(), "restapi.ID does not match private_key");
        let error = read("").unwrap_err();
        assert_eq!(error.message(), "all ID, private_key and libp2p_listen_multiaddress should be set");
    }

    #[test]
    fn users_headers_and_logs_are_taken_from_the_section_and_files_are_in_the_folder() {
        let config = section(
            r#"{"basic_auth_credentials":{"ann":"hunter2"},"headers":{"X-A":["b"]},"http_log_file":"rest.log"}"#,
        )
        .unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(config.cors.is_open_to_all(), "missing keys allow all, as in the reference");
        assert_eq!(config.headers["X-A"], ["b"]);
        let config = config.in_folder(Path::new("/cluster"));
        assert_eq!(config.access_log, AccessLog::File("/cluster/rest.log".into()));
        let users = config.authentication.unwrap();
        assert_eq!(users.token_file.as_deref(), Some(Path::new("/cluster/api-tokens.json")));
        assert_eq!(users.token_lifetime, Authentication::TOKEN_LIFETIME);

        assert_eq!(config.connections_max, 4096);
        let strict = section(r#"{"security":"strict","token_lifetime":"1h","connections_max":9}"#).unwrap();
        assert_eq!(strict.connections_max, 9);
        assert_eq!(strict.security, Security::Strict);
        assert!(!strict.cors.is_open_to_all());
        for (json, part) in [
            (r#"{"basic_auth_credentials":{}}"#, "at least one entry"),
            (r#"{"security":"strict","basic_auth_credentials":{"ann":"hunter2"}}"#, "users add ann"),
            (r#"{"basic_auth_credentials":{"ann":"$argon2id$hunter2"}}"#, "hash cannot be used"),
            (r#"{"security":"strict","http_listen_multiaddress":"/ip4/0.0.0.0/tcp/1"}"#, "users add NAME"),
            (r#"{"headers":{"Content-Length":["1"]}}"#, "Content-Length"),
        ] {
            let error = section(json).unwrap_err();
            assert!(error.message().contains(part) && !error.message().contains("hunter2"), "{error}");
        }
        assert!(serde_json::from_str::<RestApiSection>(r#"{"security":"strickt"}"#).is_err());
    }

    #[test]
    fn what_is_unsafe_is_named_unless_it_is_asked_to_be_safe() {
        let default = RestConfig::default;
        let with = |credential: &str| RestConfig {
            authentication: Some(Authentication::new([("ann".to_owned(), credential.to_owned())])),
            ..default()
        };
        for (config, exposed, parts) in [
            (default(), false, &["cors_allowed_origins"][..]),
            (default(), true, &["no users", "cors_allowed_origins"]),
            (RestConfig { cors: CorsConfig::closed(), ..default() }, false, &[]),
            (with("secret"), true, &["passwords"]),
            (with("$argon2id$v=19$"), true, &[]),
            (RestConfig { security: Security::Strict, ..default() }, false, &[]),
        ] {
            let risks = config.risks(exposed);
            assert_eq!(risks.len(), parts.len(), "{risks:?}");
            assert!(risks.iter().zip(parts).all(|(risk, part)| risk.contains(part)), "{risks:?}");
        }
    }

    #[test]
    fn a_setting_that_cannot_work_is_named() {
        assert!(RestConfig::default().validate().is_ok());
        let default = RestConfig::default;
        for (config, key) in [
            (default().listen([]), "http_listen_multiaddress"),
            (default().listen(["/unix/api.sock/tcp/1".parse().unwrap()]), "http_listen_multiaddress"),
            (RestConfig { max_header_bytes: 100, ..default() }, "max_header_bytes"),
            (RestConfig { max_header_bytes: usize::MAX, ..default() }, "max_header_bytes"),
            (RestConfig { body_timeout: Duration::ZERO, ..default() }, "body_timeout"),
            (RestConfig { connections_max: 0, ..default() }, "connections_max"),
        ] {
            let error = config.validate().unwrap_err();
            assert!(error.message().contains(key), "{error}");
        }
    }
}
