//! What each endpoint is: the `match` makes the compiler ask whoever adds one.

use serde_json::{Value, json};

use super::super::routes::Endpoint;
use super::answers::{self, a, document, lines, no_lines, nothing, pages};
use super::parameters as p;
use super::schemas::{CID, PEER, map, named};

/// An endpoint, but for its method and path, which the table of routes has.
pub(super) struct Operation {
    pub(super) id: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    /// What the path captures, in order.
    pub(super) captured: Vec<Value>,
    pub(super) query: Vec<Value>,
    pub(super) body: Option<Value>,
    pub(super) answers: Vec<(u16, Value)>,
    /// Nobody is asked who they are.
    pub(super) open: bool,
}

impl Operation {
    fn new(tag: &'static str, id: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            tag,
            summary,
            description: "",
            captured: Vec::new(),
            query: Vec::new(),
            body: None,
            answers: Vec::new(),
            open: false,
        }
    }

    fn about(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    fn captures(mut self, parameters: impl IntoIterator<Item = Value>) -> Self {
        self.captured.extend(parameters);
        // A value with slashes makes another path.
        self.answers(404, a("NotFound"))
    }

    fn asks(mut self, parameters: impl IntoIterator<Item = Value>) -> Self {
        self.query.extend(parameters);
        self
    }

    fn takes(mut self, body: Value) -> Self {
        self.body = Some(body);
        self.answers(413, a("TooLarge"))
    }

    #[cfg(feature = "add")]
    fn takes_form(mut self) -> Self {
        self.body = Some(json!({
            "required": true,
            "content": { "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": { "type": "array", "items": { "type": "string", "format": "binary" }, "minItems": 1 },
                    },
                    "required": ["file"],
                },
            } },
        }));
        self
    }

    fn answers(mut self, status: u16, answer: Value) -> Self {
        self.answers.push((status, answer));
        self
    }

    /// It does more than tell what is known.
    fn may_fail(self) -> Self {
        self.answers(500, a("Failed"))
    }

    /// A listing that nobody can ask for pages of.
    fn lists(self, description: &str, item: &str) -> Self {
        self.answers(200, lines(description, item)).answers(204, no_lines(false)).reads_body()
    }

    /// A listing that takes the parameters of finding.
    fn finds(self, description: &str, item: &str) -> Self {
        self.asks(p::finding())
            .answers(200, pages(description, item))
            .answers(204, no_lines(true))
            .reads_body()
    }

    /// A listing waits for the end of a body that nobody needs.
    fn reads_body(self) -> Self {
        self.answers(413, a("TooLarge")).may_fail()
    }
}

const PINS: &str = "pins";
const PEERS: &str = "peers";
const HEALTH: &str = "health";
const TOKENS: &str = "tokens";

/// Describes an endpoint.
pub(super) fn operation(endpoint: Endpoint) -> Operation {
    let op = Operation::new;
    match endpoint {
        Endpoint::Id => {
            op(PEERS, "id", "This peer").answers(200, document("The peer", named("Peer"))).may_fail()
        }
        Endpoint::Version => {
            op(PEERS, "version", "The version of this peer").answers(200, document("It", named("Version")))
        }
        Endpoint::Peers => op(PEERS, "listPeers", "The members of the cluster").lists("The members.", "Peer"),
        Endpoint::AddPeer => op(PEERS, "addPeer", "Adds a member")
            .about("With CRDT consensus peers become members by themselves; then this only asks the peer.")
            .takes(json!({
                "required": true,
                "content": { "application/json": { "schema": named("AddPeer"), "example": { "peer_id": PEER } } },
            }))
            .answers(200, document("The peer", named("Peer")))
            .may_fail(),
        Endpoint::RemovePeer => op(PEERS, "removePeer", "Removes a member")
            .about("With CRDT consensus members leave when they stop; then this is an error.")
            .captures([p::captured("peer", "The peer", named("PeerId"))])
            .answers(204, nothing("It is none any more"))
            .may_fail(),
        Endpoint::AddContent => add(op("content", "add", "Adds content")),
        Endpoint::Allocations => op(PINS, "listPins", "The pinset, or what is looked for in it")
            .about(
                "Without any of the parameters but filter, unknown ones are ignored; with any of them one that is unknown, \
                 repeated or empty is a 400.",
            )
            .asks([p::type_filter()])
            .finds("Its entries.", "Pin"),
        Endpoint::Allocation => op(PINS, "getPin", "One entry of the pinset")
            .captures([p::cid()])
            .answers(200, document("The entry", named("Pin")))
            .may_fail(),
        Endpoint::StatusAll => op(PINS, "listStatuses", "Where all CIDs stand, or those looked for")
            .about(
                "Without any of the parameters but local, filter and cids, unknown ones are ignored; with any of them one \
                 that is unknown, repeated or empty is a 400.",
            )
            .asks([p::local(), p::status_filter(), p::cids()])
            .finds("What the peers say of each.", "PinInfo"),
        Endpoint::Status => info(op(PINS, "getStatus", "Where a CID stands"))
            .about("A CID that is not in the pinset is unpinned on every peer."),
        Endpoint::Recover => info(op(PINS, "recover", "Retries what failed for a CID"))
            .about("What is not in the pinset is a 404 with local alone."),
        Endpoint::RecoverAll => op(PINS, "recoverAll", "Retries everything that failed")
            .asks([p::local()])
            .lists("What is tried again.", "PinInfo"),
        Endpoint::Sync => info(op(PINS, "sync", "Makes the status of a CID match its IPFS daemon"))
            .about("Pins and unpins nothing. What is not in the pinset is a 404 with local alone."),
        Endpoint::SyncAll => op(PINS, "syncAll", "Makes all statuses match the IPFS daemons")
            .about("Pins and unpins nothing.")
            .asks([p::local()])
            .lists("What has another status now.", "PinInfo"),
        Endpoint::Pin => pinned(op(PINS, "pin", "Pins a CID").captures([p::cid()])).asks(p::pin_options()),
        Endpoint::PinPath => by_path(pinned(op(PINS, "pinPath", "Pins what a path leads to"))),
        Endpoint::Unpin => op(PINS, "unpin", "Unpins a CID")
            .captures([p::cid()])
            .answers(200, document("The entry as it was", named("Pin")))
            .may_fail(),
        Endpoint::UnpinPath => by_path(
            op(PINS, "unpinPath", "Unpins what a path leads to")
                .about("Options of a pin mean nothing here, but wrong ones are a 400.")
                .answers(200, document("The entry as it was", named("Pin")))
                .may_fail(),
        ),
        Endpoint::RepoGc => op("ipfs", "collectGarbage", "Collects garbage on the IPFS daemons")
            .asks([p::local()])
            .answers(200, document("What was removed", named("RepoGc")))
            .may_fail(),
        Endpoint::Graph => op(HEALTH, "connectGraph", "Who is connected to whom")
            .answers(200, document("The graph", named("ConnectGraph")))
            .may_fail(),
        Endpoint::Alerts => op(HEALTH, "alerts", "Metrics that were not renewed, the newest first")
            .answers(200, answers::array("The alerts", named("Alert"))),
        Endpoint::Bandwidth => op(HEALTH, "bandwidth", "How much travelled between peers")
            .answers(200, document("By protocol", map(named("Bandwidth")))),
        Endpoint::Metrics => op(HEALTH, "metrics", "The latest values of a metric")
            .captures([p::captured(
                "name",
                "The name of the metric",
                json!({ "type": "string", "minLength": 1, "examples": ["ping", "freespace", "tag:group"] }),
            )])
            .answers(200, answers::array("One value a peer, none for an unknown name", named("Metric"))),
        Endpoint::MetricNames => op(HEALTH, "metricNames", "The names of metrics")
            .answers(200, answers::array("The names", json!({ "type": "string" }))),
        Endpoint::Token => op(TOKENS, "issueToken", "Makes a token for who calls")
            .answers(200, document("The token", named("Token")))
            .answers(401, a("Unauthorized")),
        Endpoint::RevokeToken => op(TOKENS, "revokeToken", "Makes tokens of who calls worthless")
            .asks([p::all_tokens()])
            .answers(204, nothing("They are"))
            .answers(401, a("Unauthorized"))
            .answers(501, a("NotServed"))
            .may_fail(),
        Endpoint::OpenApi => op(HEALTH, "openapi", "This document")
            .about("It asks for credentials where the peer has users, as everything but /health does.")
            .answers(200, document("OpenAPI 3.1", json!({ "type": "object", "required": ["openapi", "info"] }))),
        Endpoint::Events => op(HEALTH, "watch", "What happens from now on, or behind a cursor")
            .about(
                "An event resync says that some may have been missed: list again what matters. It comes first behind a \
                 cursor that is too old or of another start of the peer. The header Last-Event-ID wins over after. Unknown \
                 parameters, and after or heartbeat twice, are a 400.",
            )
            .asks(p::events())
            .answers(200, answers::events())
            .reads_body(),
        Endpoint::InterruptedAdd => interrupted_add(op("content", "interruptedAdd", "Where an upload broke off"))
            .captures([p::captured("key", "The resume of the upload", named("ResumeKey"))]),
        Endpoint::Leases => op("content", "leases", "Blocks that the IPFS daemon of this peer keeps for adds")
            .about("Until their root is pinned, the add has failed, or a day has passed.")
            .lists("The leases, oldest add first.", "Lease"),
        Endpoint::ReleaseLease => op("content", "releaseLease", "Lets go of blocks that are kept for an add")
            .about("What nothing that is pinned links to is garbage then.")
            .captures([p::cid()])
            .answers(204, nothing("They are not kept any more"))
            .answers(409, a("Conflict"))
            .may_fail(),
        Endpoint::Health => {
            let mut health = op(HEALTH, "health", "Whether the peer serves").answers(204, nothing("It does"));
            health.open = true;
            health
        }
    }
}

/// One that answers with the status of a CID.
fn info(operation: Operation) -> Operation {
    operation
        .captures([p::cid()])
        .asks([p::local()])
        .answers(200, document("What the peers say of it", named("PinInfo")))
        .may_fail()
}

/// The one that takes content.
#[cfg(feature = "add")]
fn add(operation: Operation) -> Operation {
    operation
        .about(
            "Each part of the form is a file, whose path is its filename, URL-encoded; a directory with the content type \
             application/x-directory and no bytes; or a symbolic link with application/symlink and its target. Directories \
             may be left out, and come before what is in them otherwise. The name of the field does not matter, but \
             mode, mtime and mtime-nsecs may follow it behind a question mark. Lines come while the form is read. An error \
             behind the head of the answer is in the trailer X-Stream-Error, which is not there when all went well; then \
             everything is in the pinset. The connection is closed at the end. With resume, of a CAR that breaks off what arrived \
             is kept, and a later request goes on with the rest. mode and pin-update must be readable and mean \
             nothing: what is added is pinned recursively.",
        )
        .asks(p::adding())
        .asks(p::pin_options())
        .takes_form()
        .answers(200, answers::added())
        .answers(409, a("Conflict"))
        .may_fail()
}

/// The one that says where an upload goes on.
#[cfg(feature = "add")]
fn interrupted_add(operation: Operation) -> Operation {
    operation
        .about(
            "For 20 hours, of an upload with resume that broke off; it goes on with the same resume and this offset. When              nothing is known of it (404), it begins at offset 0.",
        )
        .answers(200, document("Where it goes on", named("InterruptedAdd")))
        .answers(409, a("Conflict"))
}

#[cfg(not(feature = "add"))]
fn interrupted_add(operation: Operation) -> Operation {
    operation.about("Not served by this build.").answers(501, a("NotServed"))
}

#[cfg(not(feature = "add"))]
fn add(operation: Operation) -> Operation {
    operation
        .about("Not served by this build; what other peers of a cluster answer is a stream of AddedOutput.")
        .answers(501, a("NotServed"))
}

/// One that makes a pin.
fn pinned(operation: Operation) -> Operation {
    operation.answers(200, document("The pin", named("Pin"))).may_fail().about(
        "What cannot be read is a 400. What can be read but is not allowed is a 500: replication factors without sense, \
         too few peers, an end that has passed, another mode than it is pinned with, a peer that only follows.",
    )
}

/// One whose pin a path names.
fn by_path(mut operation: Operation) -> Operation {
    let mut path = p::ipfs_path();
    path[1]["example"] = CID.into();
    operation = operation.captures(path).asks(p::pin_options());
    operation.answers(307, redirect())
}

fn redirect() -> Value {
    json!({
        "description": "The path ends in a slash; here is the one without",
        "headers": { "Location": { "required": true, "schema": { "type": "string" } } },
    })
}
