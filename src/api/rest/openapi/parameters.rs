//! The parameters of paths and queries.

use serde_json::{Value, json};

use super::super::{find, routes};
use super::schemas::{list, named};
use crate::cluster::WATCH_CIDS_MAX;
use crate::state::PAGE_LIMIT_MAX;
use crate::types::{EventKind, PinMode, PinType, TrackerStatus};

/// What a family of parameters is called here, whose names all begin so.
pub(super) const METADATA: &str = "meta-*";

fn parameter(place: &str, name: &str, description: &str, schema: Value) -> Value {
    json!({ "in": place, "name": name, "description": description, "schema": schema })
}

fn query(name: &str, description: &str, schema: Value) -> Value {
    parameter("query", name, description, schema)
}

/// Several values with commas between them.
fn comma_list(name: &str, description: &str, items: Value) -> Value {
    let mut parameter = query(name, description, list(items));
    parameter["explode"] = false.into();
    parameter
}

/// What a path captures.
pub(super) fn captured(name: &str, description: &str, schema: Value) -> Value {
    let mut parameter = parameter("path", name, description, schema);
    parameter["required"] = true.into();
    parameter
}

pub(super) fn cid() -> Value {
    captured("cid", "The CID", named("Cid"))
}

/// The two that make an IPFS path.
pub(super) fn ipfs_path() -> Vec<Value> {
    let namespace = json!({ "type": "string", "enum": routes::NAMESPACES });
    vec![
        captured("namespace", "How the path begins", namespace),
        captured(
            "path",
            "What follows: a CID, or a name in ipns, and below it any number of segments. Their slashes may stand as they \
             are or percent-encoded.",
            json!({ "type": "string", "format": "ipfs-path", "minLength": 1 }),
        ),
    ]
}

pub(super) fn local() -> Value {
    let schema = json!({ "type": "boolean", "default": false });
    or_empty(query("local", "Only the peer that is asked, not all of the cluster", schema))
}

pub(super) fn all_tokens() -> Value {
    let schema = json!({ "type": "boolean", "default": false });
    or_empty(query("all", "All tokens of the user, not only the one that came with the request", schema))
}

pub(super) fn type_filter() -> Value {
    let names: Vec<_> = ["all"].into_iter().chain(PinType::ALL.map(PinType::as_str)).collect();
    or_empty(comma_list("filter", "Only pins of these types", json!({ "type": "string", "enum": names })))
}

pub(super) fn status_filter() -> Value {
    let names: Vec<_> =
        ["error", "queued"].into_iter().chain(TrackerStatus::ALL.map(TrackerStatus::as_str)).collect();
    let description = "Only CIDs that a peer reports one of these statuses of. error stands for cluster_error, pin_error and \
                       unpin_error, queued for pin_queued and unpin_queued.";
    or_empty(comma_list("filter", description, json!({ "type": "string", "enum": names })))
}

pub(super) fn cids() -> Value {
    let description =
        "Only these; then filter counts for nothing. Not beside limits, other filters and orders.";
    or_empty(comma_list("cids", description, named("Cid")))
}

fn time(name: &str, description: &str) -> Value {
    query(name, description, json!({ "type": "string", "format": "date-time" }))
}

/// An empty value is the same as none; clients of the reference write one for what they do not use.
fn or_empty(mut parameter: Value) -> Value {
    parameter["allowEmptyValue"] = true.into();
    parameter
}

fn metadata(description: &str) -> Value {
    query(
        METADATA,
        description,
        json!({
            "type": "object",
            "propertyNames": { "pattern": "^meta-.+" },
            "additionalProperties": { "type": "string" },
        }),
    )
}

/// Those of [`find`].
pub(super) fn finding() -> Vec<Value> {
    let words = |words: &[&str]| json!({ "type": "string", "enum": words });
    let name =
        |minimum: u32| json!({ "type": "string", "minLength": minimum, "maxLength": find::VALUE_BYTES_MAX });
    let cursor = json!({ "type": "string", "format": "cursor", "minLength": 1 });
    let mut metadata = metadata(
        "Only pins with this value in their metadata: meta-KEY=VALUE. Several keys must all be there.",
    );
    metadata["schema"]["maxProperties"] = find::METADATA_KEYS_MAX.into();
    vec![
        query(
            "limit",
            "A page of so many lines at most. The header X-Next-Cursor says where the next one begins; without it \
             there is none.",
            json!({ "type": "integer", "minimum": 1, "maximum": PAGE_LIMIT_MAX }),
        ),
        query("after", "The page behind this cursor, of the same question. Needs limit.", cursor),
        query("name", "Only pins of this name", name(0)),
        query("name-prefix", "Only pins whose name begins so", name(1)),
        metadata,
        time("created-after", "Only pins made at this time or later"),
        time("created-before", "Only pins made before this time"),
        query("peer", "Only pins that this peer must hold", named("PeerId")),
        query(
            "sort",
            "The order of the lines; with - in front the last one first",
            words(&["cid", "name", "created", "-cid", "-name", "-created"]),
        ),
        query("order", "desc turns round what sort says", words(&["asc", "desc"])),
    ]
}

/// What can be asked of the events.
pub(super) fn events() -> Vec<Value> {
    let cursor = json!({ "type": "string", "format": "event-cursor" });
    let kinds: Vec<_> = EventKind::ALL.map(EventKind::as_str).into();
    let words = json!({ "type": "string", "enum": kinds });
    let mut cids = comma_list("cid", "Only events of these; may be there several times", named("Cid"));
    cids["schema"]["maxItems"] = WATCH_CIDS_MAX.into();
    vec![
        or_empty(query("after", "Go on behind the event that carried this cursor", cursor)),
        or_empty(comma_list("kind", "Only events of these kinds; may be there several times", words)),
        or_empty(cids),
        or_empty(query(
            "heartbeat",
            "Say every 15 s that nothing happened; server-sent events always do",
            json!({ "type": "boolean", "default": false }),
        )),
    ]
}

/// How content is added.
#[cfg(feature = "add")]
pub(super) fn adding() -> Vec<Value> {
    let words = |words: &[&str]| json!({ "type": "string", "enum": words, "default": words[0] });
    let flag = |name: &str, description: &str, default: bool| {
        query(name, description, json!({ "type": "boolean", "default": default }))
    };
    let options = vec![
        query("layout", "How the leaves of a file hang together", words(&["balanced", "trickle"])),
        query(
            "chunker",
            "Where files are cut: size-N (bytes), rabin-MIN-AVG-MAX, rabin-AVG, rabin, buzhash or default",
            json!({ "type": "string", "default": "size-262144" }),
        ),
        query("hash", "Name of a hash function", json!({ "type": "string", "default": "sha2-256" })),
        query(
            "format",
            "unixfs makes a DAG of files; car takes the blocks of one CARv1",
            words(&["unixfs", "car"]),
        ),
        flag(
            "local",
            "The blocks go to the daemon of the peer that is asked; those that pin fetch them from it",
            false,
        ),
        flag("recursive", "Means nothing here: who sends decides", false),
        flag("hidden", "Means nothing here: who sends decides", false),
        flag("wrap-with-directory", "Everything becomes an entry of one more directory", false),
        flag("shard", "The DAG is split over peers, in shards of shard-size bytes", false),
        flag("progress", "Lines tell of bytes read as well", false),
        query("cid-version", "0 or 1", json!({ "type": "integer", "format": "int64", "default": 0 })),
        query(
            "raw-leaves",
            "Leaves are bytes and nothing else; without it they are where cid-version is above 0",
            json!({ "type": "boolean" }),
        ),
        flag("stream-channels", "Lines as they come; false is one document at the end", true),
        flag(
            "nocopy",
            "The daemon of the peer that is asked refers to files where they lie, which each part says in Abspath-Encoded; \
             it needs its filestore, and the peer the same paths",
            false,
        ),
        flag("preserve-mode", "The permission bits in the form go into the DAG", false),
        flag("preserve-mtime", "The times in the form go into the DAG", false),
        flag("no-pin", "Blocks are stored and not pinned", false),
        query(
            "resume",
            "What the upload of a CAR is called, so that it can go on where it breaks off; GET /add/{key} says where",
            named("ResumeKey"),
        ),
        query(
            "offset",
            "The byte of the CAR that the upload begins with; goes with resume",
            json!({ "type": "integer", "format": "int64", "minimum": 0, "default": 0 }),
        ),
    ];
    options.into_iter().map(or_empty).collect()
}

/// What can be asked of a pin.
pub(super) fn pin_options() -> Vec<Value> {
    let factor = || json!({ "type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX });
    let modes = PinMode::ALL.map(PinMode::as_str);
    let options = vec![
        query("name", "A name for people", json!({ "type": "string" })),
        query(
            "mode",
            "recursive keeps what it links to as well, direct keeps it alone",
            json!({ "type": "string", "enum": modes, "default": PinMode::default().as_str() }),
        ),
        query("replication", "Wins over the two below", factor()),
        query(
            "replication-min",
            "Fewer peers are an error; 0 is what the peer is configured for, -1 is all",
            factor(),
        ),
        query("replication-max", "Never more peers; 0 and -1 as above", factor()),
        query(
            "shard-size",
            "Kept with the pin",
            json!({ "type": "integer", "format": "int64", "minimum": 0, "maximum": u64::MAX }),
        ),
        comma_list("user-allocations", "Peers that shall hold it", named("PeerId")),
        time("expire-at", "When it ends. 0001-01-01T00:00:00Z is never."),
        query(
            "expire-in",
            "When it ends, from now, at least 1s; means nothing beside expire-at",
            json!({
                "type": "string", "format": "go-duration", "minLength": 1, "examples": ["36h", "1h30m"],
            }),
        ),
        metadata("What is kept with the pin: meta-KEY=VALUE"),
        query(
            "pin-update",
            "The pin that this one continues: its allocations and options are taken, and the daemons fetch only what \
             differs",
            named("Cid"),
        ),
        comma_list(
            "origins",
            "Where IPFS daemons can fetch it, each with /p2p/ and a peer id",
            named("Multiaddr"),
        ),
    ];
    options.into_iter().map(or_empty).collect()
}
