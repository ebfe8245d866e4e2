//! From a request to an answer: read strictly, call the cluster, write.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Duration;

use axum::extract::NestedPath;
use bytes::{Buf as _, Bytes};
use futures::FutureExt as _;
use hyper::body::Body;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use serde::Deserialize;

#[cfg(feature = "add")]
use super::add::{self, Adding};
use super::answer::{self, Answer, Listing};
use super::auth::Identity;
use super::caller::Caller;
use super::events;
use super::find::{self, Find};
use super::gate::{Decision, Gate};
use super::leases;
use super::lines::Lines;
use super::openapi;
use super::query::{self, Query};
use super::routes::{self, Endpoint, Target};
use super::tokens::Revoke;
use crate::api::error::ApiError;
use crate::api::json::{self, Shape};
use crate::cluster::{Cluster, Scope};
use crate::state::StateQuery;
use crate::types::{
    GlobalPinInfo, IpfsPath, PeerId, PeerInfo, Pin as PinEntry, PinOptions, PinTypeFilter, StatusFilter,
    Timestamp, Version, parse_peer,
};

/// What is read of request bodies.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimits {
    /// Most bytes.
    pub(super) bytes: usize,
    /// For the whole body.
    pub(super) timeout: Duration,
    /// For anything more of a body that has no limit (uploads); zero is no limit.
    #[cfg_attr(not(feature = "add"), allow(dead_code))]
    pub(super) stall: Duration,
}

/// The API over one cluster peer.
#[derive(Debug)]
pub(super) struct Api {
    cluster: Cluster,
    limits: BodyLimits,
    gate: Gate,
    #[cfg(feature = "add")]
    adding: Adding,
}

#[derive(Deserialize)]
struct AddPeerBody {
    peer_id: String,
}

impl Api {
    pub(super) fn new(cluster: Cluster, limits: BodyLimits, gate: Gate) -> Self {
        #[cfg(feature = "add")]
        let adding = Adding::new(std::sync::Arc::new(cluster.clone()), limits.stall);
        Self {
            cluster,
            limits,
            gate,
            #[cfg(feature = "add")]
            adding,
        }
    }

    /// Has somebody else add content.
    #[cfg(all(test, feature = "add"))]
    pub(super) fn adding(mut self, adds: std::sync::Arc<dyn super::add::Adds>) -> Self {
        self.adding = Adding::new(adds, self.limits.stall);
        self
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The time of day.
    pub(super) fn now(&self) -> Timestamp {
        self.cluster.clock().now()
    }

    /// Answers a request, if the [gate](Gate) lets it pass. A panic on the way becomes a 500, so that the connection and
    /// its other requests live on.
    pub(super) async fn answer<B>(&self, request: Request<B>, caller: &Caller) -> Answer
    where
        B: Body + Send + Unpin + 'static,
        B::Data: Send,
    {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        let now = self.now();
        let mut record = self.gate.log().begin(caller, method, uri, request.version(), now);
        let decision = match self.gate.admit(method, uri.path(), headers, now) {
            Decision::Check(login) => self.gate.check(login, method, headers).await,
            decided => decided,
        };
        let pass = match decision {
            Decision::Pass(pass) => pass,
            Decision::Answer(response) => return Answer::Whole(response).noted(record),
            Decision::Check(_) => {
                return Answer::from(ApiError::new(500, "a check of a check")).noted(record);
            }
        };
        let identity = pass.identity;
        if let (Some(record), Some(identity)) = (&mut record, &identity) {
            record.user(&identity.user);
        }
        let handled = AssertUnwindSafe(self.handle(request, identity.as_ref())).catch_unwind().await;
        let mut answer = match handled {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => error.into(),
            Err(_) => {
                ApiError::new(500, "the request failed because of a bug; the log has the details").into()
            }
        };
        self.gate.finish(&mut answer, pass.cors);
        answer.noted(record)
    }

    async fn handle<B>(&self, request: Request<B>, identity: Option<&Identity>) -> Result<Answer, ApiError>
    where
        B: Body + Send + Unpin + 'static,
        B::Data: Send,
    {
        let (head, mut body) = request.into_parts();
        let is_nested = head.extensions.get::<NestedPath>().is_some();
        if head.uri.path().ends_with('/') && !(is_nested && head.uri.path() == "/") {
            return Ok(Answer::Bare(without_slash(&head.method, &head.uri, is_nested)));
        }
        let path = query::decode(head.uri.path(), false)?;
        let (endpoint, captured) = match routes::target(&head.method, &path) {
            Target::Endpoint(endpoint, captured) => (endpoint, captured),
            Target::WrongMethod => return Ok(Answer::Bare(answer::bare(StatusCode::METHOD_NOT_ALLOWED))),
            Target::Unknown => return Err(ApiError::not_found()),
        };
        let query = Query::parse(head.uri.query())?;
        match endpoint {
            Endpoint::Token => self.token(identity),
            Endpoint::RevokeToken => self.revoke_token(identity, query.flag("all")?).await,
            Endpoint::Events => self.events(&query, &head.headers, &mut body).await,
            #[cfg(feature = "add")]
            Endpoint::AddContent => self.adding.answer(&query, &head.headers, body, || self.now()).await,
            other => self.call(other, captured, &query, &mut body).await,
        }
    }

    async fn call<B>(
        &self,
        endpoint: Endpoint,
        captured: &str,
        query: &Query<'_>,
        body: &mut B,
    ) -> Result<Answer, ApiError>
    where
        B: Body + Unpin,
    {
        let cluster = &self.cluster;
        Ok(match endpoint {
            Endpoint::Pin => {
                let cid = query::cid(captured)?;
                let options = self.pin_options(query)?;
                let shape = shape(&options, &cid);
                pin_answer(&cluster.pin(cid, options).await?, shape)
            }
            Endpoint::PinPath => {
                let path = ipfs_path(captured)?;
                let options = self.pin_options(query)?;
                let update = options.pin_update;
                let pin = cluster.pin_path(&path, options).await?;
                let shape =
                    if update.is_some_and(|from| from != pin.cid) { Shape::Stored } else { Shape::Submitted };
                pin_answer(&pin, shape)
            }
            Endpoint::Unpin => pin_answer(&cluster.unpin(&query::cid(captured)?).await?, Shape::Stored),
            Endpoint::UnpinPath => {
                // Options mean nothing here, but wrong ones are still wrong.
                self.pin_options(query)?;
                pin_answer(&cluster.unpin_path(&ipfs_path(captured)?).await?, Shape::Stored)
            }
            Endpoint::Status => {
                let (cid, scope) = (query::cid(captured)?, query.scope()?);
                info_answer(&cluster.status(&cid, scope).await?)
            }
            Endpoint::Recover => {
                let (cid, scope) = (query::cid(captured)?, query.scope()?);
                info_answer(&cluster.recover(&cid, scope).await?)
            }
            Endpoint::Sync => {
                let (cid, scope) = (query::cid(captured)?, query.scope()?);
                info_answer(&cluster.sync(&cid, scope).await?)
            }
            Endpoint::StatusAll => {
                let (cids, filter, scope) = (query.cids()?, query.status_filter()?, query.scope()?);
                if let Some(find) = Find::read(query, PinTypeFilter::ALL, find::BESIDE_STATUSES)? {
                    return self.find_statuses(find, filter, scope, body).await;
                }
                let pages = if cids.is_empty() {
                    cluster.status_all(filter, scope)
                } else {
                    cluster.status_many(cids, scope)
                };
                self.listing(Lines::of(pages), body).await?
            }
            Endpoint::RecoverAll => {
                let scope = query.scope()?;
                self.listing(Lines::of(cluster.recover_all(scope)), body).await?
            }
            Endpoint::SyncAll => {
                let scope = query.scope()?;
                self.listing(Lines::of(cluster.sync_all(scope)), body).await?
            }
            Endpoint::Allocations => {
                let types = query.type_filter()?;
                if let Some(find) = Find::read(query, types, find::BESIDE_PINS)? {
                    return self.find_pins(find, body).await;
                }
                let pages = cluster.pins(StateQuery { types, ..StateQuery::default() });
                self.listing(Lines::of(pages), body).await?
            }
            Endpoint::Allocation => {
                pin_answer(&cluster.pin_get(&query::cid(captured)?).await?, Shape::Stored)
            }
            Endpoint::Peers => {
                let mut page = Vec::new();
                for peer in cluster.peers().await? {
                    json::value(&mut page, &peer).map_err(unwritable)?;
                    page.push(b'\n');
                }
                self.listing(Lines::of_page(page), body).await?
            }
            Endpoint::AddPeer => self.add_peer(body).await?,
            Endpoint::RemovePeer => {
                let peer = parse_peer(captured).map_err(|error| {
                    ApiError::bad_request(format!("error decoding Peer ID: {}", error.message()))
                })?;
                cluster.remove_peer(&peer).await?;
                answer::no_content()
            }
            Endpoint::Id => answer::json(&cluster.id().await),
            Endpoint::Version => answer::json(&Version { version: crate::COMPATIBLE_VERSION.to_owned() }),
            Endpoint::Health => answer::no_content(),
            Endpoint::OpenApi => Answer::Whole(answer::document(
                StatusCode::OK,
                openapi::document(self.gate.users().is_some()),
            )),
            Endpoint::Leases => self.listing(leases::lines(cluster), body).await?,
            Endpoint::ReleaseLease => leases::release(cluster, &query::cid(captured)?).await?,
            #[cfg(feature = "add")]
            Endpoint::InterruptedAdd => {
                let key = add::resume_key(captured)?;
                match cluster.interrupted_add(&key).map_err(add::not_resumed)? {
                    Some(add) => answer::json(&add),
                    None => {
                        let text = format!("no add {key} that broke off is known here; begin at offset 0");
                        return Err(ApiError::new(404, text));
                    }
                }
            }
            Endpoint::Graph => answer::json(&cluster.connect_graph().await?),
            Endpoint::Alerts => answer::json(&cluster.alerts()),
            Endpoint::Bandwidth => answer::json(&cluster.bandwidth()),
            Endpoint::MetricNames => answer::json(&cluster.metric_names()),
            Endpoint::Metrics => answer::json(&cluster.metrics(captured)),
            Endpoint::RepoGc => answer::json(&cluster.repo_gc(query.scope()?).await?),
            // Answered by who knows the caller and the headers.
            Endpoint::Token | Endpoint::RevokeToken | Endpoint::Events => {
                return Err(ApiError::new(401, "unauthorized"));
            }
            #[cfg(not(feature = "add"))]
            Endpoint::InterruptedAdd => return Err(cannot_add()),
            Endpoint::AddContent => return Err(cannot_add()),
        })
    }

    async fn find_pins<B: Body + Unpin>(&self, find: Find, body: &mut B) -> Result<Answer, ApiError> {
        let Some(limit) = find.limit else {
            return self.listing(Lines::of(self.cluster.pins(find.query)), body).await;
        };
        let page = self.cluster.pins_page(find.query, limit).await.map_err(find::refused)?;
        find::page(page.pins, page.next).await
    }

    async fn find_statuses<B: Body + Unpin>(
        &self,
        find: Find,
        filter: StatusFilter,
        scope: Scope,
        body: &mut B,
    ) -> Result<Answer, ApiError> {
        let Some(limit) = find.limit else {
            let pages = self.cluster.status_of(find.query, filter, scope);
            return self.listing(Lines::of(pages), body).await;
        };
        let page = self.cluster.status_page(find.query, filter, limit, scope).await.map_err(find::refused)?;
        find::page(page.infos, page.next).await
    }

    /// Without configured users nobody can have a token.
    fn token(&self, identity: Option<&Identity>) -> Result<Answer, ApiError> {
        #[derive(serde::Serialize)]
        struct Token {
            token: String,
        }
        let unauthorized = || ApiError::new(401, "unauthorized");
        let (Some(users), Some(identity)) = (self.gate.users(), identity) else {
            return Err(unauthorized());
        };
        let token = users.issue(identity, self.now()).ok_or_else(unauthorized)?;
        Ok(answer::json(&Token { token }))
    }

    async fn revoke_token(&self, identity: Option<&Identity>, all: bool) -> Result<Answer, ApiError> {
        let (Some(users), Some(identity)) = (self.gate.users(), identity) else {
            return Err(ApiError::new(401, "unauthorized"));
        };
        let Some(tokens) = users.revocable(identity) else {
            return Err(ApiError::new(
                501,
                "tokens of a user with a plain password cannot be revoked: they count as long as the password; set \
                 restapi.security to \"strict\", or store a hash of the password",
            ));
        };
        let what = match (&identity.token, all) {
            (_, true) => Revoke::All,
            (Some(token), false) => Revoke::One(token),
            (None, false) => {
                return Err(ApiError::bad_request(
                    "the request came with a password, not with a token that could be revoked; DELETE /token?all=true \
                     revokes all of the user",
                ));
            }
        };
        tokens.revoke(&identity.user, what, self.now()).await?;
        Ok(answer::no_content())
    }

    fn pin_options(&self, query: &Query<'_>) -> Result<PinOptions, ApiError> {
        query.pin_options(|| self.now())
    }

    async fn add_peer<B: Body + Unpin>(&self, body: &mut B) -> Result<Answer, ApiError> {
        let body = self.read(body).await?;
        let asked: AddPeerBody = serde_json::from_slice(&body)
            .map_err(|_| ApiError::bad_request("error decoding request body"))?;
        let peer = parse_peer(&asked.peer_id).map_err(|_| ApiError::bad_request("error decoding peer_id"))?;
        // A member is not added again: some kinds of consensus cannot add any.
        let info = match self.member(&peer).await? {
            Some(info) => info,
            None => self.cluster.add_peer(&peer).await?,
        };
        Ok(answer::json(&info))
    }

    async fn member(&self, peer: &PeerId) -> Result<Option<PeerInfo>, ApiError> {
        Ok(self.cluster.peers().await?.into_iter().find(|info| info.id == *peer))
    }

    async fn events<B: Body + Unpin>(
        &self,
        query: &Query<'_>,
        headers: &HeaderMap,
        body: &mut B,
    ) -> Result<Answer, ApiError> {
        let asked = events::read(query, headers)?;
        if !body.is_end_stream() {
            self.read(body).await?;
        }
        Ok(Answer::Listing(events::listing(&self.cluster, asked)?))
    }

    /// A listing takes the connection over, so nothing of the request may be left in it.
    async fn listing<B: Body + Unpin>(&self, lines: Lines, body: &mut B) -> Result<Answer, ApiError> {
        if !body.is_end_stream() {
            self.read(body).await?;
        }
        Ok(Answer::Listing(Listing::of(lines).await))
    }

    /// Reads a body whole.
    async fn read<B: Body + Unpin>(&self, body: &mut B) -> Result<Vec<u8>, ApiError> {
        let BodyLimits { bytes, timeout, .. } = self.limits;
        let too_large = || ApiError::new(413, format!("the request body is larger than {bytes} bytes"));
        if body.size_hint().lower() > bytes as u64 {
            return Err(too_large());
        }
        let read = async {
            let mut whole = Vec::new();
            while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
                let frame = frame.map_err(|_| {
                    ApiError::bad_request("the request body broke off or is not encoded as its headers say")
                })?;
                let Ok(mut data) = frame.into_data() else { continue };
                if whole.len() + data.remaining() > bytes {
                    return Err(too_large());
                }
                while data.has_remaining() {
                    let chunk = data.chunk();
                    let length = chunk.len();
                    whole.extend_from_slice(chunk);
                    data.advance(length);
                }
            }
            Ok(whole)
        };
        tokio::time::timeout(timeout, read)
            .await
            .map_err(|_| ApiError::new(408, format!("the request body did not come within {timeout:?}")))?
    }
}

fn cannot_add() -> ApiError {
    ApiError::new(501, "this peer does not add content; add it to an IPFS daemon and pin its CID here")
}

/// A pin that continues another is answered as the pinset has that one.
fn shape(options: &PinOptions, cid: &crate::types::Cid) -> Shape {
    if options.pin_update.is_some_and(|from| from != *cid) { Shape::Stored } else { Shape::Submitted }
}

fn ipfs_path(text: &str) -> Result<IpfsPath, ApiError> {
    text.parse().map_err(|error: crate::Error| {
        ApiError::bad_request(format!("error parsing path: {}", error.message()))
    })
}

fn pin_answer(pin: &PinEntry, shape: Shape) -> Answer {
    let mut body = Vec::with_capacity(<PinEntry as json::Line>::BYTES);
    json::pin(&mut body, pin, shape);
    body.push(b'\n');
    Answer::Whole(answer::document(StatusCode::OK, body))
}

fn info_answer(info: &GlobalPinInfo) -> Answer {
    let mut body = Vec::with_capacity(<GlobalPinInfo as json::Line>::BYTES);
    json::global_pin_info(&mut body, info);
    body.push(b'\n');
    Answer::Whole(answer::document(StatusCode::OK, body))
}

fn unwritable(error: serde_json::Error) -> ApiError {
    ApiError::new(500, format!("the answer cannot be written: {error}"))
}

/// A path that ends in a slash is redirected to the one without, keeping method and query. Where an application serves the
/// API below a path of its own, which is not known here, only the end of it is said.
fn without_slash(method: &Method, uri: &Uri, is_nested: bool) -> Response<Bytes> {
    // One slash at most in front, and none that lean back, or browsers would go to another host.
    let path = uri.path().trim_start_matches('/');
    let path = path.strip_suffix('/').unwrap_or(path).replace('\\', "%5C");
    let mut location = match is_nested {
        false => format!("/{path}"),
        true => format!("../{}", path.rsplit('/').next().unwrap_or_default()),
    };
    if let Some(query) = uri.query() {
        location.push('?');
        location.push_str(query);
    }
    let mut response = answer::bare(StatusCode::TEMPORARY_REDIRECT);
    if matches!(*method, Method::GET | Method::HEAD) {
        let html =
            location.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
        *response.body_mut() = format!("<a href=\"{html}\">Temporary Redirect</a>.\n\n").into();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    }
    // A request's path and query are visible ASCII, and so is what is made of them.
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_slash_is_redirected_and_never_to_another_host() {
        for (path, location) in [
            ("/pins/?local=true", "/pins?local=true"),
            ("/", "/"),
            ("//evil.example/", "/evil.example"),
            ("/\\evil.example/", "/%5Cevil.example"),
            ("/a//", "/a/"),
        ] {
            let response = without_slash(&Method::GET, &path.parse().unwrap(), false);
            assert_eq!(response.status(), 307);
            assert_eq!(response.headers()[header::LOCATION], location, "{path}");
        }
        let response = without_slash(&Method::GET, &"/pins/?a=1&b=2".parse().unwrap(), false);
        assert_eq!(response.body(), "<a href=\"/pins?a=1&amp;b=2\">Temporary Redirect</a>.\n\n");
        assert!(without_slash(&Method::POST, &"/pins/".parse().unwrap(), false).body().is_empty());
        for (path, location) in
            [("/pins/?a=b", "../pins?a=b"), ("//evil.example/", "../evil.example"), ("/a/b/", "../b")]
        {
            let response = without_slash(&Method::GET, &path.parse().unwrap(), true);
            assert_eq!(response.headers()[header::LOCATION], location, "{path}");
        }
    }
}
