//! The schemas of what travels: one for each JSON type, and those of values in parameters.

use serde_json::{Value, json};

use crate::types::{PinMode, PinType, TrackerStatus};

/// Every named schema.
pub(super) fn all() -> Value {
    let named = [
        ("Cid", text("cid", "A content identifier: version 0 in base 58, version 1 in base 32", CID)),
        ("PeerId", text("peer-id", "The id of a peer or of an IPFS daemon, in base 58", PEER)),
        ("Multiaddr", text("multiaddr", "Where something can be reached", ADDRESS)),
        (
            "Timestamp",
            json!({
                "type": "string",
                "format": "date-time",
                "description": "RFC 3339 with up to nine digits behind the second. 0001-01-01T00:00:00Z stands for none.",
                "examples": ["2026-01-31T12:00:00Z"],
            }),
        ),
        ("Error", error()),
        ("Version", object("The version that peers and clients compare", &[("version", string("1.1.6"))])),
        (
            "Token",
            object("A token for the header Authorization, behind Bearer", &[("token", string("a.b.c"))]),
        ),
        ("AddPeer", object("The peer to add", &[("peer_id", named("PeerId"))])),
        ("Ipfs", ipfs()),
        ("Peer", peer()),
        ("Pin", pin()),
        ("PinInfo", pin_info()),
        ("PinStatus", pin_status()),
        ("Metric", object("What a peer says of itself", &metric())),
        ("Alert", alert()),
        ("Bandwidth", bandwidth()),
        ("ConnectGraph", graph()),
        ("RepoGc", gc()),
        ("PeerGc", peer_gc()),
        ("RemovedBlock", removed_block()),
        ("AddedOutput", added_output()),
        #[cfg(feature = "add")]
        ("InterruptedAdd", interrupted_add()),
        ("ResumeKey", resume_key()),
        ("Lease", lease()),
        ("Event", event()),
    ];
    Value::Object(named.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect())
}

pub(super) const CID: &str = "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o";
pub(super) const PEER: &str = "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK";
const ADDRESS: &str = "/ip4/192.0.2.1/tcp/9096/p2p/12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK";

/// A reference to a named schema.
pub(super) fn named(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

pub(super) fn list(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

pub(super) fn map(values: Value) -> Value {
    json!({ "type": "object", "additionalProperties": values })
}

fn or_null(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

fn string(example: &str) -> Value {
    json!({ "type": "string", "examples": [example] })
}

fn text(format: &str, description: &str, example: &str) -> Value {
    json!({
        "type": "string", "format": format, "minLength": 1, "description": description, "examples": [example],
    })
}

fn words(words: impl IntoIterator<Item = &'static str>) -> Value {
    json!({ "type": "string", "enum": words.into_iter().collect::<Vec<_>>() })
}

fn said(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}

fn any_string(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn integer(format: &str, description: &str) -> Value {
    json!({ "type": "integer", "format": format, "description": description })
}

fn count(description: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": description })
}

fn truth(description: &str) -> Value {
    json!({ "type": "boolean", "description": description })
}

/// An object that always has these members. More may come with later versions.
fn object(description: &str, members: &[(&str, Value)]) -> Value {
    let required: Vec<_> = members.iter().map(|(name, _)| *name).collect();
    let members: serde_json::Map<_, _> =
        members.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({ "type": "object", "description": description, "required": required, "properties": members })
}

/// The same, with members that may be left out.
fn and_maybe(mut object: Value, members: &[(&str, Value)]) -> Value {
    for (name, schema) in members {
        object["properties"][*name] = schema.clone();
    }
    object
}

fn event() -> Value {
    let always = object(
        "Something that happened. Kinds that only later versions know may come",
        &[
            ("cursor", text("event-cursor", "What after takes to go on behind it", "00c0ffee00c0ffee-7")),
            ("time", named("Timestamp")),
            ("type", string("pinned")),
            ("peer", said(named("PeerId"), "The peer that tells")),
        ],
    );
    and_maybe(
        always,
        &[
            ("cid", said(named("Cid"), "pinned, unpinned, status")),
            ("pin", said(named("Pin"), "pinned: the entry; unpinned: the entry as it was")),
            ("name", any_string("status: the name of the pin")),
            ("info", said(named("PinStatus"), "status: how it stands on the peer that tells")),
            ("subject", said(named("PeerId"), "peer: which")),
            ("peername", any_string("peer: its name")),
            ("state", said(words(["appeared", "expired"]), "peer: what became of it")),
            ("alert", said(named("Alert"), "alert: the metric that stopped coming")),
            ("reason", any_string("resync: why events may have been missed")),
        ],
    )
}

fn error() -> Value {
    object(
        "What went wrong",
        &[
            (
                "code",
                json!({ "type": "integer", "minimum": 400, "maximum": 599, "description": "The status" }),
            ),
            ("message", string("pin is not part of the pinset")),
        ],
    )
}

fn ipfs() -> Value {
    let always = object(
        "The IPFS daemon of a peer",
        &[
            ("addresses", or_null(list(named("Multiaddr")))),
            ("error", any_string("Why it could not be asked; empty otherwise")),
        ],
    );
    and_maybe(always, &[("id", named("PeerId"))])
}

fn peer() -> Value {
    let always = object(
        "A peer. One that could not be asked has its id, an error, and null for lists",
        &[
            ("id", named("PeerId")),
            ("addresses", or_null(list(named("Multiaddr")))),
            (
                "cluster_peers",
                said(or_null(list(named("PeerId"))), "The members that it knows, itself among them"),
            ),
            ("cluster_peers_addresses", or_null(list(named("Multiaddr")))),
            ("version", any_string("The version that peers compare")),
            ("commit", any_string("Always empty")),
            ("rpc_protocol_version", string("/ipfscluster/1.0/rpc")),
            ("error", any_string("Why it could not be asked; empty otherwise")),
            ("ipfs", named("Ipfs")),
            ("peername", any_string("Its name")),
        ],
    );
    let standing = json!({
        "type": "string",
        "description": "How its pinset stands to that of the peer that was asked; left out where that is not known",
        "examples": ["in sync", "about 120 behind", "about 3 ahead", "diverged"],
    });
    and_maybe(always, &[("pinset", standing)])
}

fn metadata() -> Value {
    json!({ "type": ["object", "null"], "additionalProperties": { "type": "string" } })
}

fn pin() -> Value {
    let factor = |word: &str| integer("int32", &format!("{word} so many peers hold it; -1 is all of them"));
    object(
        "An entry of the pinset",
        &[
            ("replication_factor_min", factor("At least")),
            ("replication_factor_max", factor("At most")),
            ("name", any_string("Its name")),
            ("mode", words(PinMode::ALL.map(PinMode::as_str))),
            ("shard_size", count("In bytes")),
            ("user_allocations", or_null(list(named("PeerId")))),
            ("expire_at", named("Timestamp")),
            ("metadata", metadata()),
            ("pin_update", or_null(named("Cid"))),
            ("origins", or_null(list(named("Multiaddr")))),
            ("cid", named("Cid")),
            ("type", words(PinType::ALL.map(PinType::as_str))),
            ("allocations", said(list(named("PeerId")), "The peers that hold it; none is all of them")),
            ("max_depth", integer("int32", "-1: with everything below it; 0: alone")),
            ("reference", or_null(named("Cid"))),
            ("timestamp", named("Timestamp")),
        ],
    )
}

fn pin_info() -> Value {
    object(
        "What all peers say of one CID",
        &[
            ("cid", named("Cid")),
            ("name", any_string("The name of the pin")),
            ("allocations", list(named("PeerId"))),
            ("origins", list(named("Multiaddr"))),
            ("created", named("Timestamp")),
            ("metadata", metadata()),
            ("peer_map", said(map(named("PinStatus")), "By the id of the peer")),
        ],
    )
}

fn pin_status() -> Value {
    let always = object(
        "What one peer says of one CID",
        &[
            ("peername", any_string("The name of the peer")),
            ("status", words(TrackerStatus::ALL.map(TrackerStatus::as_str))),
            ("timestamp", named("Timestamp")),
            ("error", any_string("The reason of an error; empty otherwise")),
            ("attempt_count", count("How often the operation in hand was tried")),
            ("priority_pin", truth("Whether it is in the queue that goes first")),
        ],
    );
    and_maybe(always, &[("ipfs_peer_id", named("PeerId")), ("ipfs_peer_addresses", list(named("Multiaddr")))])
}

fn metric() -> Vec<(&'static str, Value)> {
    vec![
        ("name", string("freespace")),
        ("peer", named("PeerId")),
        ("value", any_string("The value; of some metrics a JSON document")),
        ("expire", integer("int64", "When it ends, in nanoseconds since 1970")),
        ("valid", truth("Whether the peer could measure it")),
        ("weight", integer("int64", "What an allocator sorts by")),
        ("partitionable", truth("Whether an allocator groups by the value")),
        ("received_at", integer("int64", "When it came, in nanoseconds since 1970")),
    ]
}

fn alert() -> Value {
    let mut members = metric();
    members.push(("triggered_at", named("Timestamp")));
    object("A metric that was not renewed", &members)
}

fn bandwidth() -> Value {
    let rate = |description: &str| json!({ "type": "number", "description": description });
    object(
        "What one protocol has moved between peers",
        &[
            ("total_in", integer("int64", "Bytes received since the peer started")),
            ("total_out", integer("int64", "Bytes sent since the peer started")),
            ("rate_in", rate("Bytes received each second, lately")),
            ("rate_out", rate("Bytes sent each second, lately")),
        ],
    )
}

fn graph() -> Value {
    let links = || map(list(named("PeerId")));
    object(
        "Who is connected to whom. The keys are ids of peers, those of ipfs_links of IPFS daemons",
        &[
            ("cluster_id", or_null(named("PeerId"))),
            ("id_to_peername", map(json!({ "type": "string" }))),
            ("ipfs_links", links()),
            ("cluster_links", links()),
            ("cluster_trust_links", map(json!({ "type": "boolean" }))),
            ("cluster_to_ipfs", map(named("PeerId"))),
        ],
    )
}

fn gc() -> Value {
    object("What garbage collection did, by the id of the peer", &[("peer_map", map(named("PeerGc")))])
}

fn peer_gc() -> Value {
    let always = object(
        "What it did on one peer's daemon",
        &[
            ("peer", named("PeerId")),
            ("peername", any_string("Its name")),
            ("keys", list(named("RemovedBlock"))),
        ],
    );
    and_maybe(always, &[("error", any_string("Why it failed as a whole"))])
}

fn removed_block() -> Value {
    let always = object("A block that was removed", &[("key", or_null(named("Cid")))]);
    and_maybe(always, &[("error", any_string("Why it was not"))])
}

fn resume_key() -> Value {
    json!({
        "type": "string",
        "format": "resume-key",
        "pattern": "^[A-Za-z0-9_-]{1,64}$",
        "description": "What an upload is called that can go on where it broke off",
        "examples": ["backup-2026-01-31"],
    })
}

#[cfg(feature = "add")]
fn interrupted_add() -> Value {
    let digest = json!({
        "type": "string",
        "pattern": "^[0-9a-f]{64}$",
        "description": "What the CAR has before the offset: the sha2-256 of the end of the header (eight bytes, big-endian) and \
                        its root's binary CID; then for each block that of the digest before it, the position of its end, and \
                        its binary CID",
    });
    object(
        "An upload that broke off and can go on",
        &[
            ("key", named("ResumeKey")),
            ("root", said(named("Cid"), "The root in the header of the CAR")),
            ("offset", count("The byte of the CAR that the next request begins with")),
            ("blocks", count("So many blocks arrived")),
            ("bytes", count("Their bytes")),
            ("digest", digest),
            ("since", said(named("Timestamp"), "When it broke off for the first time")),
            ("expires", said(named("Timestamp"), "When it is forgotten")),
            ("allocations", said(list(named("PeerId")), "The peers that have the blocks")),
        ],
    )
}

fn lease() -> Value {
    object(
        "Blocks that a daemon keeps for an add",
        &[
            ("peer", said(named("PeerId"), "The peer beside the daemon")),
            ("cid", said(named("Cid"), "What is pinned on the daemon; it links to the blocks")),
            ("since", said(named("Timestamp"), "When the stream began that brought them")),
            ("blocks", count("How many")),
            ("bytes", count("Their bytes")),
            ("state", said(words(["running", "waiting", "failed"]), "waiting: for the roots to be pinned")),
            ("roots", said(list(named("Cid")), "Blocks of the stream that no other one of it links to")),
        ],
    )
}

fn added_output() -> Value {
    let always = object(
        "A line of the answer of a peer that adds content",
        &[("name", any_string("Where it is in what was added")), ("cid", or_null(named("Cid")))],
    );
    and_maybe(
        always,
        &[
            ("bytes", count("So many were read")),
            ("size", count("Bytes of the DAG")),
            ("allocations", list(named("PeerId"))),
        ],
    )
}
