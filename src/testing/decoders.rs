//! Every decoder of bytes from outside, in one table: what tests and the fuzzer feed.
//!
//! `tests/decoders.rs` runs each on stable over its corpus and 10,000 mutations of it; `cargo xtask fuzz` hands each to
//! libFuzzer. What is in a function of a module `decoders` beside the code is checked wherever it is fed.

use serde::Deserialize;

use crate::allocator::BalancedConfig;
use crate::config::{ServiceJson, decoders as config};
use crate::exchange::{bitswap_decoders as bitswap, stream_decoders as stream};
use crate::informer::{FreeSpaceConfig, NumPinsConfig, PinQueueConfig, TagsConfig};
use crate::monitor::MonitorConfig;
use crate::rpc::decoders as rpc;
use crate::state::decoders as state;
use crate::tracker::StatelessConfig;
use crate::types::EventCursor;

/// A decoder of bytes from outside.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// What it is called, in letters and underscores.
    pub name: &'static str,
    /// Bytes to begin with: what the reference wrote, and samples of our own. Most can be read.
    pub corpus: fn() -> Vec<Vec<u8>>,
    /// Reads the bytes, and says whether they were what they should be.
    ///
    /// It panics when what was read does not hold: above all when it reads differently once it was written.
    pub decode: fn(&[u8]) -> bool,
}

/// All decoders that are part of this build, in order of their names.
pub fn all() -> Vec<Decoder> {
    macro_rules! decoders {
        ($($(#[$condition:meta])* $name:ident: $decode:expr, $corpus:expr;)*) => {
            vec![$($(#[$condition])* Decoder { name: stringify!($name), corpus: || $corpus, decode: $decode },)*]
        };
    }
    #[cfg(feature = "add")]
    use crate::adder::decoders as adder;
    #[cfg(feature = "api-rest")]
    use crate::api::rest_decoders as rest;
    #[cfg(feature = "consensus-crdt")]
    use crate::consensus::crdt_decoders as crdt;
    #[cfg(feature = "consensus-raft")]
    use crate::consensus::raft_decoders as raft;
    #[cfg(feature = "transport-libp2p")]
    use crate::transport::libp2p_decoders as libp2p;
    decoders! {
        #[cfg(feature = "add")]
        add_car: adder::cars, adder::car_samples();
        #[cfg(feature = "add")]
        add_form: adder::forms, adder::form_samples();
        bitswap_message: bitswap::messages, without_length(chain(vectors("bitswap/", ""), bitswap::stream_samples()));
        bitswap_stream: bitswap::streams, chain(vectors("bitswap/", ""), bitswap::stream_samples());
        #[cfg(feature = "consensus-crdt")]
        crdt_block: crdt::blocks, vectors("crdt/", "/block");
        #[cfg(feature = "consensus-crdt")]
        crdt_block_id: crdt::block_ids, crdt::block_id_samples();
        #[cfg(feature = "consensus-crdt")]
        crdt_broadcast: crdt::broadcasts, chain(vectors("crdt/", "/broadcast"), vectors("crdt/broadcast", ""));
        #[cfg(feature = "consensus-crdt")]
        crdt_catchup: crdt::catchup_messages, crdt::catchup_samples();
        #[cfg(feature = "consensus-crdt")]
        crdt_delta: crdt::deltas, vectors("crdt/", "/delta");
        #[cfg(feature = "consensus-crdt")]
        crdt_elements: crdt::elements, crdt::element_samples();
        #[cfg(feature = "consensus-crdt")]
        crdt_key: crdt::keys, chain(vectors("dskey/", ""), crdt::key_samples());
        #[cfg(feature = "consensus-crdt")]
        crdt_log: crdt::logs, crdt::log_samples();
        #[cfg(feature = "consensus-crdt")]
        crdt_walks: crdt::walks, crdt::walk_samples();
        event_cursor: event_cursors, vec![b"00000000000000ab-17".to_vec(), b"ffffffffffffffff-18446744073709551615".to_vec()];
        identity: config::identities, config::identity_samples();
        import_lines: state::import_lines, vectors("state/export-json", "");
        #[cfg(feature = "transport-libp2p")]
        mdns_packet: libp2p::mdns_packets, libp2p::mdns_samples();
        metric: rpc::metrics, with_old_prefix(vectors("msgpack/metric", ""));
        page_cursor: state::cursors, state::cursor_samples();
        peerstore: config::peerstores, peerstore_samples();
        pin_record: state::pin_records, vectors("protobuf/", "").iter().map(|value| state::record_of(value)).collect();
        pin_value: state::pin_values, vectors("protobuf/", "");
        #[cfg(feature = "consensus-raft")]
        raft_answer: raft::answers, raft::answer_samples();
        #[cfg(feature = "consensus-raft")]
        raft_entry: raft::entries, raft::entry_samples();
        #[cfg(feature = "consensus-raft")]
        raft_part: raft::parts, raft::part_samples();
        #[cfg(feature = "consensus-raft")]
        raft_question: raft::questions, raft::question_samples();
        #[cfg(feature = "consensus-raft")]
        raft_seen: raft::seen, raft::seen_samples();
        #[cfg(feature = "api-rest")]
        rest_query: rest::queries, rest::query_samples();
        rpc_block: rpc::blocks, chain(vectors("msgpack/nodewithmeta", ""), rpc::block_samples());
        rpc_header: rpc::headers, chain(objects(&["rpc-"]), vectors("msgpack/gorpc", ""));
        rpc_reply: rpc::replies, chain(objects(&["msgpack/", "rpc-response/"]), rpc::reply_samples());
        rpc_request: rpc::requests, chain(objects(&["rpc-request/", "msgpack/", "raft/"]), rpc::request_samples());
        rpc_stream: rpc::objects, chain(vectors("rpc-", ""), vectors("msgpack/pin", ""));
        rpc_value: rpc::values, vectors("msgpack/", "");
        service_json: service_file, config::service_file_samples();
        state_head: state::heads, state::head_samples();
        stream_frame: stream::frames, stream::frame_samples();
    }
}

/// The decoder of this name.
pub fn find(name: &str) -> Option<Decoder> {
    all().into_iter().find(|decoder| decoder.name == name)
}

#[derive(Deserialize)]
struct Vectors {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    hex: String,
}

/// What the reference wrote, by the beginning and the end of the names.
fn vectors(prefix: &str, suffix: &str) -> Vec<Vec<u8>> {
    let file = include_str!("../../tests/data/wire-vectors.json");
    let file: Vectors = serde_json::from_str(file).unwrap_or_else(|error| panic!("wire vectors: {error}"));
    let chosen = file.vectors.into_iter().filter(|vector| {
        vector.name.starts_with(prefix) && vector.name.ends_with(suffix) && !vector.hex.is_empty()
    });
    let chosen: Vec<_> = chosen.filter_map(|vector| hex::decode(vector.hex).ok()).collect();
    assert!(!chosen.is_empty(), "no vectors {prefix}…{suffix}");
    chosen
}

/// The objects that the streams of these groups are made of.
fn objects(prefixes: &[&str]) -> Vec<Vec<u8>> {
    prefixes.iter().flat_map(|prefix| vectors(prefix, "")).flat_map(|bytes| rpc::cut(&bytes)).collect()
}

fn chain(one: Vec<Vec<u8>>, other: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    [one, other].concat()
}

/// Messages of bitswap without the varint before them.
fn without_length(streams: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let body = |bytes: Vec<u8>| {
        let length = bytes.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
        bytes.into_iter().skip(length).collect()
    };
    streams.into_iter().map(body).collect()
}

fn with_old_prefix(metrics: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let old: Vec<_> = metrics.iter().map(|metric| rpc::old_metric(metric)).collect();
    chain(metrics, old)
}

fn event_cursors(bytes: &[u8]) -> bool {
    let cursor = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<EventCursor>().ok());
    let Some(cursor) = cursor else { return false };
    assert_eq!(cursor.to_string().as_bytes(), bytes);
    true
}

fn peerstore_samples() -> Vec<Vec<u8>> {
    const PEER: &str = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5";
    let lines = [
        format!("/ip4/127.0.0.1/tcp/9096/p2p/{PEER}\n/dns4/peer.example/tcp/9096/p2p/{PEER}\n"),
        format!("# comment\n/ip6/::1/tcp/9096/ws/p2p/{PEER}\r\n\n/ip4/10.0.0.1/udp/1/quic-v1"),
    ];
    lines.map(String::into_bytes).into()
}

/// The file, with the sections of every component that has one.
fn service_file(bytes: &[u8]) -> bool {
    let known = config::service_files(bytes);
    let file = std::str::from_utf8(bytes).ok().and_then(|text| ServiceJson::parse(text).ok());
    let Some(file) = file else { return known };
    let mut read = config::read_section::<BalancedConfig>(&file);
    read |= config::read_section::<FreeSpaceConfig>(&file);
    read |= config::read_section::<NumPinsConfig>(&file);
    read |= config::read_section::<PinQueueConfig>(&file);
    read |= config::read_section::<TagsConfig>(&file);
    read |= config::read_section::<MonitorConfig>(&file);
    read |= config::read_section::<StatelessConfig>(&file);
    #[cfg(feature = "consensus-crdt")]
    {
        read |= config::read_section::<crate::consensus::CrdtSection>(&file);
    }
    #[cfg(feature = "connector-kubo")]
    {
        read |= config::read_section::<crate::ipfs_connector::KuboConfig>(&file);
    }
    #[cfg(feature = "api-rest")]
    {
        read |= config::read_section::<crate::api::rest::RestApiSection>(&file);
    }
    known | read
}
