//! The REST API of a peer, compatible with that of Go ipfs-cluster 1.1.6.
//!
//! [`RestApi`] serves it on sockets of its own (TCP with TLS or without, Unix sockets, a libp2p host) and on streams of
//! any transport ([`RestApi::serve_on`]); [`router`] gives it to applications that have a server already.
//!
//! | request | answer |
//! |---|---|
//! | `GET /health`, `GET /version`, `GET /id` | 204, the version, this peer |
//! | `POST /add` | adds content, and tells of it as lines (feature `add`) |
//! | `GET /add/{key}` | where an upload broke off that can go on (feature `add`) |
//! | `GET /leases`, `DELETE /leases/{cid}` | blocks that are kept for adds until they are pinned, as lines; releases some |
//! | `GET /peers`, `POST /peers`, `DELETE /peers/{peer}` | members, as lines; adds one; removes one |
//! | `GET /allocations[?filter]`, `GET /allocations/{cid}` | the pinset, as lines; one entry |
//! | `GET /pins[?local&filter&cids]`, `GET /pins/{cid}[?local]` | statuses, as lines; one status |
//! | `POST`, `DELETE /pins/{cid}`, and `/pins/{ipfs,ipns,ipld}/{path…}` | pins, unpins |
//! | `POST /pins/recover[?local]`, `POST /pins/{cid}/recover[?local]` | retries what failed |
//! | `POST /pins/sync[?local]`, `POST /pins/{cid}/sync[?local]` | makes statuses match the IPFS daemon |
//! | `GET /monitor/metrics`, `GET /monitor/metrics/{name}` | names of metrics, latest values |
//! | `GET /health/graph`, `GET /health/alerts`, `GET /health/bandwidth` | connections, alerts, traffic |
//! | `POST /ipfs/gc[?local]` | collects garbage |
//! | `POST /token`, `DELETE /token[?all]` | a token for who asks; revokes the one that is sent, or all of its user |
//! | `GET /events[?after&kind&cid&heartbeat]` | what happens, as lines or server-sent events, until the caller has enough |
//! | `GET /openapi.json` | all of this as an OpenAPI 3.1 document, with schemas |
//!
//! `GET /allocations` and `GET /pins` also take `limit`, `after`, `name`, `name-prefix`, `meta-<key>`, `created-after`,
//! `created-before` (RFC 3339; the first second that counts, the first that does not), `peer` (that must hold it), `sort`
//! (`cid`, `name`, `created`, with `-` in front backwards) and `order` (`asc`, `desc`), in any combination. Without `sort`
//! lines come by CID; by name with `name-prefix` and no `name`; by time with times alone. With `limit` the header `X-Next-Cursor`
//! is the `after` of the next page, with the same other parameters; no header, no next page. A page may have fewer lines
//! than its limit, or none, and not be the last: the work for one request is bounded. `sort=created` leaves out pins that
//! do not say when they were made. Pages of `GET /pins` are of the pinset; with a `filter` of operations alone (`queued`,
//! `pinning`, `unpinning`, `pin_error`, `unpin_error`) and by CID they are of what the peers have in hand.
//!
//! `GET /events` tells what this peer notices: `pinned` and `unpinned` (with the `pin`), `status` (of a CID on this peer, its
//! `info` as in `GET /pins`), `peer` (`subject` `appeared` or `expired`) and `alert`. Each has `cursor`, `time`, `type`, `peer`
//! (who tells) and, if it is about one, `cid`. `kind` is a comma list of these names, `cid` one of CIDs, both may be
//! repeated; with `cid` and no `kind`, events without a CID are left out. `after` is the cursor to go on from: nothing
//! is lost then and nothing comes twice. Where that cannot be had (another start, another peer, too much or too long ago)
//! an event `resync` says why: list again what matters. It also comes to callers that read too slowly. Lines are
//! `application/x-ndjson`; `heartbeat=true` adds one of type `heartbeat` after 15 s of silence, and at once when
//! there is nothing to tell; its cursor is how far the watch is. With `Accept: text/event-stream` they are server-sent events with the cursor as `id`;
//! `Last-Event-ID` counts as `after` and before it, and heartbeats are comments. The answer ends when the peer or its API
//! stops. 256 callers may watch at a time; others get 503.
//!
//! `POST /add?format=car&resume=KEY&offset=N` is an upload of a CAR that can go on where it breaks off. The caller chooses the
//! key (1 to 64 of the letters `A-Z`, `a-z`, `0-9`, `_`, `-`) and begins with offset 0. When an upload broke off, for whatever
//! reason but that the peer was killed, `GET /add/{key}` says for 20 hours where it goes on (`offset`, with `blocks` and `bytes`
//! that arrived, `digest`, `root`, `since`, `expires`, `allocations`), and the form of the next request has a file with the
//! CAR from this byte on. Its lines and pins are those of the whole. 404: begin at 0, which is always allowed and replaces
//! what was there before. 409: an add with this key runs or is being ended (ask again), the offset is another one, or the add
//! began with another `replication-min`, `replication-max`, `user-allocations` or `local`; all other options count as the last
//! request says. `digest` says what the CAR has before the offset ([`CarDigest`](crate::types::CarDigest)): a file
//! with another one is not the one whose upload broke off, and has to begin at 0.
//!
//! `GET /leases` lists what this peer's daemon keeps for adds: `peer`, `cid` (pinned on the daemon), `since`, `blocks`, `bytes`,
//! `state` (`running`, `waiting` for `roots` to be pinned, `failed`: about to be released) and `roots`. `DELETE /leases/{cid}`
//! releases one now; 409 while its blocks still come.
//!
//! Lines are one JSON document each. No line and no error is 204; an error before the first line is an error document;
//! one behind it is in the trailer `X-Stream-Error`, which is there and empty when all went well.
//!
//! # Who may call
//!
//! Without [`RestConfig::authentication`] everybody. With it, every request but `OPTIONS` and `GET /health` has to bring
//! a password (basic) or a token (bearer), or is a 401 that tells nothing else. Credentials in the configuration may be
//! passwords, or hashes of them ([`hash_password`]). Users with a hash have tokens that expire and can be revoked, those
//! with a password have the reference's, which are good as long as the password. [`Security::Strict`] takes hashes only,
//! and refuses to listen for other machines without users.
//!
//! # Where it differs from the reference, on purpose
//!
//! `tests/rest_vectors` compares the rest with recorded answers, to the byte but for times and addresses.
//!
//! - A query that cannot be read is a 400 and nothing else happens; the reference pins all the same, with what it could
//!   read, and sends two documents. So is a parameter that is there twice with different values, of which the reference
//!   takes the first.
//! - Unknown names in `filter` and `mode`, other values of `local` than `true` and `false`, peer ids in
//!   `user-allocations` that are none, and broken percent-encoding are 400, with the valid names; the reference ignores
//!   them.
//! - `mode=direct` on `/pins/{cid}` pins directly; the reference says so but pins recursively.
//! - `GET /allocations` and `GET /pins` take filters, orders and pages, see above. With any of these parameters, one that
//!   is unknown, repeated or empty is a 400; without them everything unknown is ignored, as in the reference. A page has
//!   a length and no trailer.
//! - `POST /pins/sync`, `POST /pins/{cid}/sync` and `GET /openapi.json` exist, and `GET /events`, which refuses
//!   parameters that it does not know; `GET /leases`, `DELETE /leases/{cid}` and `GET /add/{key}`, too.
//! - Error texts are the reference's, and some go on with the valid values; what is wrong with a CID, a peer id or an
//!   address is said in our parsers' words.
//! - Empty lists in statuses are always `[]`, where the reference sometimes has `null`, and `created` of what is not
//!   pinned is no time, where the reference has the time of the answer.
//! - Direct pins are listed as `pinned`, and `POST /pins/recover` leaves them alone; `filter` selects by the real status.
//! - While the IPFS daemon is down, listings of statuses have every pin with `cluster_error`; the reference's are empty,
//!   or an error when they are local. A failed unpin is shown, and can be recovered, after the pin left the pinset.
//! - `GET /health/alerts` has every metric that expired, and `GET /peers` says how pinsets compare.
//! - `POST /add` without the feature `add` is 501. An empty form is an error, where the reference drops the connection, and
//!   so are paths with `..`, empty names or a slash in front, which the reference bends, and more than one CAR, of which
//!   it takes the first. An upload of which nothing comes for `stall_timeout` ends, and so does one that would be one too
//!   many (64, with 503).
//! - `X-Stream-Error` of a listing over HTTP/1.0 is a broken connection.
//! - A peer that is stopping, or whose queues are full, answers 503. So does one that checks too many passwords.
//! - Pages of other origins that may read an answer may also read its `X-Next-Cursor`, whatever headers are listed.
//! - `DELETE /token` exists. More than one header `Authorization` is 400.
//! - Lines of the access log have the user's name, and times in UTC. Configured headers that no header can be, or that
//!   say how an answer travels, are errors.
//! - TLS is for TCP: Unix sockets stay in the clear, where the reference encrypts them and its own client cannot follow.
//!   What rustls offers is spoken, without the reference's CBC and RSA suites.
//! - A Unix socket that a dead process left behind is replaced, and never open to others than its owner and group.
//! - All listeners share one number of connections; when it is reached, those that are idle for longest are closed.
//!   Where an answer breaks off on a Unix socket, callers of HTTP/1.0 cannot tell.

mod access_log;
mod activity;
#[cfg(feature = "add")]
mod add;
mod answer;
mod auth;
mod caller;
mod config;
mod connection;
mod cors;
#[cfg(feature = "testing")]
pub(crate) mod decoders;
mod drain;
mod ear;
mod events;
mod find;
mod gate;
mod handlers;
mod io;
mod jwt;
mod leases;
mod libp2p_http;
mod lines;
mod listen;
mod listing;
mod openapi;
mod outlet;
mod passwords;
mod query;
mod room;
mod routes;
mod section;
mod server;
mod tls;
mod tokens;
#[cfg(unix)]
mod unix;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue, TE, TRAILER};

pub use self::access_log::AccessLog;
use self::answer::{Answer, Content, Listing};
pub use self::auth::{Authentication, Security};
use self::caller::Caller;
pub use self::config::{RestConfig, RestLibp2p};
pub use self::cors::CorsConfig;
use self::gate::Gate;
use self::handlers::Api;
use self::lines::LinesBody;
pub use self::passwords::{hash_password, is_password_hash};
pub use self::section::RestApiSection;
pub use self::server::RestApi;
pub use self::tls::RestTls;
pub use self::tokens::TOKEN_FILE;
use crate::cluster::Cluster;
use crate::error::Result;

/// The API as a router, for applications that serve other things on the same socket, or with layers of their own.
///
/// It answers every path, so nest it under one, or merge it where nothing else answers the rest. Limits for heads and connections are the server's.
/// Who calls is known to it where the server says so (axum's `into_make_service_with_connect_info::<SocketAddr>()`).
/// Servers made with hyper send trailers only to callers that ask for them (`TE: trailers`). For others, a listing that
/// fails behind its first line breaks the connection off instead; [`RestApi`] has no such limit.
///
/// Nobody is asked who they are, and no page of another origin may call; [`router_with`] can do both.
pub fn router(cluster: Cluster) -> axum::Router {
    route(Api::new(cluster, RestConfig::default().body_limits(), Gate::plain()))
}

/// As [`router`], with users, CORS, headers and an access log. What a configuration says of sockets means nothing
/// here. Reads the token file and opens the log file, and blocks meanwhile.
///
/// # Errors
/// `InvalidInput` for a configuration that cannot work, naming the setting; `Io` for one of the files.
pub fn router_with(config: &RestConfig, cluster: Cluster) -> Result<axum::Router> {
    Ok(route(Api::new(cluster, config.body_limits(), config.open_gate()?)))
}

fn route(api: Api) -> axum::Router {
    let api = Arc::new(api);
    axum::Router::new().fallback(move |request: Request| {
        let api = Arc::clone(&api);
        async move {
            let trailers = request.headers().get_all(TE).iter().any(|value| {
                value.to_str().is_ok_and(|value| value.split(',').any(|word| word.trim() == "trailers"))
            });
            let caller = match request.extensions().get() {
                Some(ConnectInfo(address)) => Caller::Tcp(*address),
                None::<&ConnectInfo<SocketAddr>> => Caller::Unknown,
            };
            response(api.answer(request, &caller).await, trailers)
        }
    })
}

fn response(answer: Answer, trailers: bool) -> Response<Body> {
    let listing = match answer {
        Answer::Whole(response) | Answer::Bare(response) => return response.map(Body::from),
        Answer::Listing(listing) => listing,
    };
    let status = listing.status();
    let Listing { content, headers, mut record, content_type, flow } = listing;
    let mut response = Response::new(match content {
        Content::Lines(lines) => Body::new(LinesBody::new(lines, trailers, flow, record)),
        Content::Empty => Body::empty(),
        Content::Failed(error) => {
            let body = answer::error_body(&error);
            if let Some(record) = &mut record {
                record.sent(body.len());
            }
            Body::from(body)
        }
    });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().append(CONTENT_TYPE, content_type);
    response.headers_mut().insert(TRAILER, HeaderValue::from_static("X-Stream-Error"));
    response
}
