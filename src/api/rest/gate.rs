//! What every request passes before it is looked at: access log, authentication, CORS, in this order.
//!
//! ```text
//! request -> access log -> authentication -> CORS -> trailing slash -> router
//!                              | 401            | 204 to a preflight
//! ```
//!
//! So a refused caller learns nothing, not even whether there is something at the path, and its answer has no header
//! for browsers. `OPTIONS` and `GET /health` are never refused.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Method, Response, StatusCode};

use super::access_log::Log;
use super::answer::{self, Answer};
use super::auth::{Checked, Claim, Identity, Login, Security, Users};
use super::cors::{self, Cors};
use crate::api::error::ApiError;
use crate::error::{Error, Result};
use crate::types::Timestamp;

const BASIC: HeaderValue = HeaderValue::from_static("Basic realm=\"Restricted IPFS Cluster API\"");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"Restricted IPFS Cluster API\"");
const BAD_TOKEN: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"Restricted IPFS Cluster API\", error=\"invalid_token\"");
/// When somebody who found too many others shall come again, in seconds.
const COME_AGAIN: HeaderValue = HeaderValue::from_static("1");

/// Headers that say how an answer travels, so that nobody else can.
const OF_THE_SERVER: &[HeaderName] = &[
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::DATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The gate of one API.
#[derive(Debug)]
pub(super) struct Gate {
    security: Security,
    users: Option<Arc<Users>>,
    cors: Cors,
    /// What every answer of a handler has.
    headers: HeaderMap,
    log: Log,
}

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Decision {
    /// It goes on.
    Pass(Pass),
    /// Its password has to be checked first.
    Check(Login),
    /// This is the answer, complete.
    Answer(Response<Bytes>),
}

/// A request that goes on.
#[derive(Debug)]
pub(super) struct Pass {
    /// Who sent it; none where nobody asks.
    pub(super) identity: Option<Identity>,
    /// What CORS adds to the answer.
    pub(super) cors: HeaderMap,
}

impl Gate {
    /// One of its parts.
    pub(super) fn new(
        security: Security,
        users: Option<Users>,
        cors: Cors,
        headers: HeaderMap,
        log: Log,
    ) -> Self {
        Self { security, users: users.map(Arc::new), cors, headers, log }
    }

    /// One that lets everybody pass, and no page of another origin call.
    pub(super) fn plain() -> Self {
        Self {
            security: Security::Compatible,
            users: None,
            cors: Cors::closed(),
            headers: HeaderMap::new(),
            log: Log::Events,
        }
    }

    /// Refuses to let callers from elsewhere in without asking who they are, where security is strict.
    ///
    /// # Errors
    /// `InvalidInput`, naming the place and the ways out.
    pub(super) fn check_exposed(&self, place: &dyn fmt::Display) -> Result<()> {
        check_exposed(self.security, self.users.is_some(), place)
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    pub(super) fn users(&self) -> Option<&Users> {
        self.users.as_deref()
    }

    /// Decides about a request. Pure, but for the memory of logins that were right.
    pub(super) fn admit(&self, method: &Method, path: &str, headers: &HeaderMap, now: Timestamp) -> Decision {
        let open = *method == Method::OPTIONS || (*method == Method::GET && path == "/health");
        let Some(users) = self.users.as_ref().filter(|_| !open) else {
            return self.pass(None, method, headers);
        };
        match users.claim(headers, now) {
            Claim::Right(identity) => self.pass(Some(identity), method, headers),
            Claim::Unchecked(login) => Decision::Check(login),
            Claim::BadPassword => self.unauthorized("unauthorized: access denied", &[BASIC]),
            Claim::BadToken => self.unauthorized("unauthorized: invalid token", &[BAD_TOKEN]),
            Claim::None => self.unauthorized("unauthorized: no auth provided", &[BEARER, BASIC]),
            Claim::Several => Decision::Answer(
                self.refusal(&ApiError::bad_request("the header Authorization is there more than once")),
            ),
        }
    }

    /// Decides about a request whose password had to be checked.
    pub(super) async fn check(&self, login: Login, method: &Method, headers: &HeaderMap) -> Decision {
        let checked = match &self.users {
            Some(users) => users.check(login).await,
            None => Checked::Wrong,
        };
        match checked {
            Checked::Right(identity) => self.pass(Some(identity), method, headers),
            Checked::Wrong => self.unauthorized("unauthorized: access denied", &[BASIC]),
            Checked::Busy => {
                let busy = ApiError::new(503, "too many passwords are being checked; try again");
                let mut response = self.refusal(&busy);
                response.headers_mut().insert(RETRY_AFTER, COME_AGAIN);
                Decision::Answer(response)
            }
        }
    }

    fn pass(&self, identity: Option<Identity>, method: &Method, headers: &HeaderMap) -> Decision {
        match self.cors.preflight(method, headers) {
            None => Decision::Pass(Pass { identity, cors: self.cors.simple(method, headers) }),
            Some(headers) => {
                let mut response = answer::bare(StatusCode::NO_CONTENT);
                *response.headers_mut() = headers;
                Decision::Answer(response)
            }
        }
    }

    fn unauthorized(&self, message: &str, challenges: &[HeaderValue]) -> Decision {
        let mut response = self.refusal(&ApiError::new(401, message));
        for challenge in challenges {
            response.headers_mut().append(WWW_AUTHENTICATE, challenge.clone());
        }
        Decision::Answer(response)
    }

    fn refusal(&self, error: &ApiError) -> Response<Bytes> {
        let mut response = answer::error_response(error);
        add(response.headers_mut(), &self.headers);
        response
    }

    /// Adds to the answer of a request that went on what it has to have.
    pub(super) fn finish(&self, answer: &mut Answer, mut cors: HeaderMap) {
        match answer {
            Answer::Whole(response) => {
                add(response.headers_mut(), &self.headers);
                cors::expose_cursor(response.headers(), &mut cors);
                response.headers_mut().extend(cors);
            }
            Answer::Bare(response) => response.headers_mut().extend(cors),
            Answer::Listing(listing) => {
                add(&mut listing.headers, &self.headers);
                listing.headers.extend(cors);
            }
        }
    }
}

/// As [`Gate::check_exposed`].
pub(super) fn check_exposed(security: Security, has_users: bool, place: &dyn fmt::Display) -> Result<()> {
    if security == Security::Strict && !has_users {
        return Err(Error::invalid_input(format!(
            "restapi would be reachable on {place} without authentication, which \"security\": \"strict\" does not allow; \
             run `ipfs-cluster-service users add NAME`, or listen on /ip4/127.0.0.1/… or /unix/…"
        ))
        .component("restapi"));
    }
    Ok(())
}

/// Adds the configured headers, before others of the same name, as the reference does.
fn add(headers: &mut HeaderMap, custom: &HeaderMap) {
    for name in custom.keys() {
        let own: Vec<_> = match headers.entry(name) {
            header::Entry::Occupied(entry) => entry.remove_entry_mult().1.collect(),
            header::Entry::Vacant(_) => Vec::new(),
        };
        for value in custom.get_all(name).iter().chain(&own) {
            headers.append(name, value.clone());
        }
    }
}

/// Reads the configured headers.
///
/// # Errors
/// `InvalidInput`, naming the header.
pub(super) fn custom_headers(config: &BTreeMap<String, Vec<String>>) -> Result<HeaderMap> {
    let wrong = |text: String| Error::invalid_input(format!("restapi.headers: {text}")).component("restapi");
    let mut headers = HeaderMap::new();
    for (text, values) in config {
        let name: HeaderName = text.parse().map_err(|_| wrong(format!("{text:?} is no name of a header")))?;
        if OF_THE_SERVER.contains(&name) {
            return Err(wrong(format!("{text} is the server's to set")));
        }
        for value in values {
            let value = HeaderValue::from_str(value)
                .map_err(|_| wrong(format!("a value of {text} has characters that no header may have")))?;
            headers.append(name.clone(), value);
        }
    }
    Ok(headers)
}
