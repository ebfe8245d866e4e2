//! The section `api.restapi`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::auth::Security;
use crate::config::{Addresses, ConfigSection, Hidden, check, duration, number};
use crate::error::Result;

/// Least that `max_header_bytes` may be, and its default.
pub(super) const HEADER_BYTES_MIN: usize = 4096;

/// `api.restapi`. A missing CORS key is an empty list or `false`, not the default; see [`CorsConfig`](super::CorsConfig)
/// for what an empty list means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestApiSection {
    /// Where it listens; none takes the default.
    #[serde(deserialize_with = "none_is_default_listen")]
    pub http_listen_multiaddress: Addresses,
    /// Certificate for TLS, relative to the configuration folder.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ssl_cert_file: String,
    /// Its key, relative to the configuration folder.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ssl_key_file: String,
    /// For reading a whole request; 0 = no limit.
    #[serde(with = "duration")]
    pub read_timeout: Duration,
    /// For reading a request's headers; 0 = no limit.
    #[serde(with = "duration")]
    pub read_header_timeout: Duration,
    /// For writing a whole answer; 0 = no limit.
    #[serde(with = "duration")]
    pub write_timeout: Duration,
    /// For the next request on a connection; 0 = no limit.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// At least 4096 once validated; 0 takes the default.
    #[serde(deserialize_with = "number::zero_is::<_, HEADER_BYTES_MIN>")]
    pub max_header_bytes: usize,
    /// Where it listens for HTTP over libp2p; with `id` and `private_key`, or none of the three.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub libp2p_listen_multiaddress: Addresses,
    /// Its own peer id there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Its own key there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<Hidden<String>>,
    /// Ours: `strict`, or as the reference does when it is missing.
    #[serde(skip_serializing_if = "is_default")]
    pub security: Security,
    /// Passwords by user, or hashes of them (`$argon2id$…`, not in a variable: they have commas); none = no
    /// authentication.
    pub basic_auth_credentials: Option<Hidden<BTreeMap<String, String>>>,
    /// Ours: how long tokens count that expire; 0 = 24 hours.
    #[serde(with = "duration", skip_serializing_if = "is_default")]
    pub token_lifetime: Duration,
    /// Ours: most connections at the same time; 0 = 4096.
    #[serde(skip_serializing_if = "is_default")]
    pub connections_max: usize,
    /// Where requests are logged, relative to the configuration folder; empty = with everything else.
    pub http_log_file: String,
    /// Headers added to every answer.
    #[serde(default)]
    pub headers: BTreeMap<String, Vec<String>>,
    /// Origins that browsers may call from.
    #[serde(default)]
    pub cors_allowed_origins: Vec<String>,
    /// Methods that they may use.
    #[serde(default)]
    pub cors_allowed_methods: Vec<String>,
    /// Headers that they may send.
    #[serde(default)]
    pub cors_allowed_headers: Vec<String>,
    /// Headers that they may read.
    #[serde(default)]
    pub cors_exposed_headers: Vec<String>,
    /// Whether they may send credentials.
    #[serde(default)]
    pub cors_allow_credentials: bool,
    /// How long they may remember all that; 0 = not said.
    #[serde(with = "duration")]
    pub cors_max_age: Duration,
}

impl Default for RestApiSection {
    fn default() -> Self {
        let texts = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect();
        Self {
            http_listen_multiaddress: default_listen(),
            ssl_cert_file: String::new(),
            ssl_key_file: String::new(),
            read_timeout: Duration::ZERO,
            read_header_timeout: Duration::from_secs(5),
            write_timeout: Duration::ZERO,
            idle_timeout: Duration::from_secs(120),
            max_header_bytes: HEADER_BYTES_MIN,
            libp2p_listen_multiaddress: Addresses::default(),
            id: String::new(),
            private_key: None,
            security: Security::Compatible,
            basic_auth_credentials: None,
            token_lifetime: Duration::ZERO,
            connections_max: 0,
            http_log_file: String::new(),
            headers: BTreeMap::new(),
            cors_allowed_origins: texts(&["*"]),
            cors_allowed_methods: texts(&["GET"]),
            cors_allowed_headers: Vec::new(),
            cors_exposed_headers: texts(&[
                "Content-Type",
                "X-Stream-Output",
                "X-Chunked-Output",
                "X-Content-Length",
            ]),
            cors_allow_credentials: true,
            cors_max_age: Duration::ZERO,
        }
    }
}

impl RestApiSection {
    /// What our `init` writes: strict, and closed to pages of other origins.
    #[must_use]
    pub fn strict() -> Self {
        Self {
            security: Security::Strict,
            cors_allowed_origins: Vec::new(),
            cors_allow_credentials: false,
            ..Self::default()
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl ConfigSection for RestApiSection {
    const PATH: &'static str = "api.restapi";
    const ENV_PREFIX: &'static str = "CLUSTER_RESTAPI_";

    fn validate(&self) -> Result<()> {
        check(
            self.max_header_bytes >= HEADER_BYTES_MIN,
            "restapi.max_header_bytes must be not less then 4096",
        )?;
        check(
            self.basic_auth_credentials.as_ref().is_none_or(|users| !users.0.is_empty()),
            "restapi.basic_auth_creds should be null or have at least one entry",
        )?;
        check(
            self.ssl_cert_file.is_empty() == self.ssl_key_file.is_empty(),
            "restapi: missing TLS configuration",
        )?;
        let libp2p =
            [self.id.is_empty(), self.private_key.is_none(), self.libp2p_listen_multiaddress.is_empty()];
        check(
            libp2p.iter().all(|missing| *missing) || libp2p.iter().all(|missing| !missing),
            "all ID, private_key and libp2p_listen_multiaddress should be set",
        )
    }
}

fn default_listen() -> Addresses {
    "/ip4/127.0.0.1/tcp/9094".parse().into_iter().collect()
}

fn none_is_default_listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Addresses, D::Error> {
    let addresses = Addresses::deserialize(deserializer)?;
    Ok(if addresses.is_empty() { default_listen() } else { addresses })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::testing::{assert_default_reads_back, refusal, section, text_of, with};

    #[test]
    fn the_default_reads_back() {
        assert_default_reads_back::<RestApiSection>();
    }

    #[test]
    fn missing_and_empty_values_take_what_the_reference_takes() {
        let rest: RestApiSection = section(json!({"max_header_bytes": 0, "http_listen_multiaddress": []}));
        assert_eq!(rest.max_header_bytes, 4096);
        assert_eq!(rest.http_listen_multiaddress, RestApiSection::default().http_listen_multiaddress);
        assert!(rest.cors_allowed_origins.is_empty() && !rest.cors_allow_credentials);
        assert_eq!(rest.idle_timeout, Duration::from_secs(120));
    }

    #[test]
    fn variables_are_laid_over_lists_and_maps() {
        let rest = with::<RestApiSection>(
            json!({"http_listen_multiaddress": "/ip4/127.0.0.1/tcp/9094", "headers": {"A": ["b"]}}),
            &[
                ("CLUSTER_RESTAPI_BASICAUTHCREDENTIALS", "a:b,c:d"),
                ("CLUSTER_RESTAPI_CORSALLOWEDORIGINS", "x,y"),
            ],
        )
        .unwrap()
        .section;
        let users = BTreeMap::from([("a".to_owned(), "b".to_owned()), ("c".to_owned(), "d".to_owned())]);
        assert_eq!(rest.basic_auth_credentials.as_ref().unwrap().0, users);
        assert!(!format!("{rest:?}").contains("\"d\""), "passwords do not show");
        assert_eq!(rest.cors_allowed_origins, ["x", "y"]);
        assert_eq!(rest.headers["A"], ["b"]);
    }

    #[test]
    fn the_keys_of_ours_are_written_only_where_they_say_something() {
        let written = serde_json::to_value(RestApiSection::default()).unwrap();
        let ours = ["security", "token_lifetime", "connections_max"];
        assert!(ours.iter().all(|key| written.get(key).is_none()));
        let written = serde_json::to_value(RestApiSection::strict()).unwrap();
        assert_eq!((&written["security"], &written["cors_allowed_origins"]), (&json!("strict"), &json!([])));
        let read: RestApiSection = section(written);
        assert_eq!(read, RestApiSection::strict());
        let strict = [("CLUSTER_RESTAPI_SECURITY", "strict")];
        assert_eq!(with::<RestApiSection>(Value::Null, &strict).unwrap().section.security, Security::Strict);
        assert!(with::<RestApiSection>(json!({"security": "lax"}), &[]).is_err());
        let few = section::<RestApiSection>(json!({"connections_max": 7}));
        assert_eq!(
            (few.connections_max, &serde_json::to_value(&few).unwrap()["connections_max"]),
            (7, &json!(7))
        );
        assert_eq!(
            with::<RestApiSection>(Value::Null, &[("CLUSTER_RESTAPI_CONNECTIONSMAX", "20000")])
                .unwrap()
                .section
                .connections_max,
            20_000
        );
        for wrong in [json!(-1), json!("many"), json!(1.5)] {
            assert!(with::<RestApiSection>(json!({"connections_max": wrong}), &[]).is_err());
        }
    }

    #[test]
    fn credentials_stay_out_of_errors() {
        let variable = ("CLUSTER_RESTAPI_BASICAUTHCREDENTIALS", "u:p,root:hunter2:x");
        let found = text_of(with::<RestApiSection>(Value::Null, &[variable]));
        assert!(found.contains("invalid map item 2") && !found.contains("hunter2"), "{found}");
    }

    #[test]
    fn refusals_have_the_texts_of_the_reference() {
        let header_bytes = "restapi.max_header_bytes must be not less then 4096";
        for (file, text) in [
            (json!({"max_header_bytes": 10}), header_bytes),
            (json!({"max_header_bytes": -1}), header_bytes),
            (
                json!({"basic_auth_credentials": {}}),
                "restapi.basic_auth_creds should be null or have at least one entry",
            ),
            (json!({"ssl_cert_file": "x"}), "restapi: missing TLS configuration"),
            (json!({"id": "x"}), "all ID, private_key and libp2p_listen_multiaddress should be set"),
        ] {
            assert_eq!(refusal::<RestApiSection>(file), text);
        }
    }
}
