//! Our types as the reference shows them in JSON.

use super::*;

/// What [`Wire`] types lack to stand in a map.
macro_rules! item {
    ($name:ident($inner:ty)) => {
        #[derive(Clone, Debug, Default, PartialEq)]
        pub(in crate::rpc) struct $name($inner);
        impl crate::rpc::msgpack::Item for $name {
            fn read_item(input: &mut Input<'_>) -> Result<Option<Self>> {
                <$inner>::read(input).map(|inner| Some(Self(inner)))
            }
            fn write_item(&self, to: &mut Vec<u8>) {
                self.0.write(to);
            }
        }
    };
}
item!(PeerList(List<PeerId>));
item!(Flag(bool));

pub(super) trait Json {
    fn json(&self) -> Value;
}

macro_rules! json_by_display {
    ($($type:ty),*) => {$(impl Json for $type {
        fn json(&self) -> Value {
            json!(self.to_string())
        }
    })*};
}
json_by_display!(PeerId, Cid, Multiaddr, Timestamp, String);

macro_rules! json_as_is {
    ($($type:ty),*) => {$(impl Json for $type {
        fn json(&self) -> Value {
            json!(self)
        }
    })*};
}
json_as_is!(i64, u64, f64, bool);

impl<T: Json> Json for Option<T> {
    fn json(&self) -> Value {
        self.as_ref().map_or(Value::Null, Json::json)
    }
}
impl<T: Json> Json for List<T> {
    fn json(&self) -> Value {
        self.0.as_ref().map_or(Value::Null, |items| items.iter().map(Json::json).collect())
    }
}
impl<T: Json> Json for BTreeMap<String, T> {
    fn json(&self) -> Value {
        self.iter().map(|(key, value)| (key.clone(), value.json())).collect()
    }
}
impl Json for Empty {
    fn json(&self) -> Value {
        json!({})
    }
}
impl Json for PeerList {
    fn json(&self) -> Value {
        self.0.json()
    }
}
impl Json for Flag {
    fn json(&self) -> Value {
        self.0.json()
    }
}

pub(super) struct Status(pub(super) i64);
impl Json for Status {
    fn json(&self) -> Value {
        if self.0 == i64::from(StatusFilter::QUEUED.bits()) {
            return json!("queued");
        }
        let name = TrackerStatus::ALL.into_iter().find(|status| i64::from(status.bit()) == self.0);
        json!(name.map_or("undefined", |status| status.as_str()))
    }
}

fn mode(mode: i64) -> &'static str {
    ["recursive", "direct"][mode as usize]
}

macro_rules! json_fields {
    ($($type:ty { $($field:ident $key:literal)* } $($extra:expr)?;)*) => {$(impl Json for $type {
        fn json(&self) -> Value {
            let mut fields = serde_json::Map::new();
            $(fields.insert($key.to_owned(), self.$field.json());)*
            $({
                let extra: fn(&Self, &mut serde_json::Map<String, Value>) = $extra;
                extra(self, &mut fields);
            })?
            Value::Object(fields)
        }
    })*};
}
json_fields! {
    ServiceId { service "Name" method "Method" };
    Response { service "Service" error "Error" error_type "ErrType" };
    Pin {
        replication_factor_min "replication_factor_min" replication_factor_max "replication_factor_max" name "name"
        shard_size "shard_size" user_allocations "user_allocations" expire_at "expire_at" metadata "metadata"
        pin_update "pin_update" origins "origins" cid "cid" allocations "allocations" max_depth "max_depth"
        reference "reference" timestamp "timestamp"
    } |pin, fields| {
        fields.insert("mode".to_owned(), json!(mode(pin.mode)));
        let name = match pin.pin_type {
            0 => "bad-type",
            2 => PinType::Data.as_str(),
            4 => PinType::Meta.as_str(),
            other => panic!("pin type {other}"),
        };
        fields.insert("type".to_owned(), json!(name));
    };
    PinPath {
        replication_factor_min "replication_factor_min" replication_factor_max "replication_factor_max" name "name"
        shard_size "shard_size" user_allocations "user_allocations" expire_at "expire_at" metadata "metadata"
        pin_update "pin_update" origins "origins" path "path"
    } |pin, fields| {
        fields.insert("mode".to_owned(), json!(mode(pin.mode)));
    };
    PinInfoShort {
        peername "peername" ipfs "ipfs_peer_id" ipfs_addresses "ipfs_peer_addresses" timestamp "timestamp"
        error "error" attempt_count "attempt_count" priority_pin "priority_pin"
    } |info, fields| {
        fields.insert("status".to_owned(), Status(info.status).json());
    };
    PinInfo {
        cid "cid" name "name" peer "peer" allocations "allocations" origins "origins" created "created"
        metadata "metadata" peername "peername" ipfs "ipfs_peer_id" ipfs_addresses "ipfs_peer_addresses"
        timestamp "timestamp" error "error" attempt_count "attempt_count" priority_pin "priority_pin"
    } |info, fields| {
        fields.insert("status".to_owned(), Status(info.status).json());
    };
    GlobalPinInfo {
        cid "cid" name "name" allocations "allocations" origins "origins" created "created" metadata "metadata"
        peer_map "peer_map"
    };
    IpfsId { id "id" addresses "addresses" error "error" };
    Peer {
        id "id" addresses "addresses" cluster_peers "cluster_peers"
        cluster_peers_addresses "cluster_peers_addresses" version "version" commit "commit"
        rpc_protocol_version "rpc_protocol_version" error "error" ipfs "ipfs" peername "peername"
    };
    Metric {
        name "name" peer "peer" value "value" expire "expire" valid "valid" weight "weight"
        partitionable "partitionable" received_at "received_at"
    };
    Alert {
        name "name" peer "peer" value "value" expire "expire" valid "valid" weight "weight"
        partitionable "partitionable" received_at "received_at" triggered_at "triggered_at"
    };
    Version { version "version" };
    ApiError { code "code" message "message" };
    ConnectGraph {
        cluster_id "cluster_id" names "id_to_peername" ipfs_links "ipfs_links" cluster_links "cluster_links"
        trust "cluster_trust_links" cluster_to_ipfs "cluster_to_ipfs"
    };
    RepoStat { repo_size "RepoSize" storage_max "StorageMax" };
    RepoGcKey { key "key" error "error" };
    RepoGc { peer "peer" peername "peername" keys "keys" error "error" };
    GlobalRepoGc { peer_map "peer_map" };
    Node { cid "Cid" cumulative_size "CumSize" } |node, fields| {
        use base64::Engine as _;
        let data = base64::engine::general_purpose::STANDARD.encode(&node.data);
        fields.insert("Data".to_owned(), json!(data));
    };
    IpfsPinInfo { cid "Cid" } |info, fields| {
        assert_eq!(info.status, 3);
        fields.insert("Type".to_owned(), json!("recursive"));
    };
    Bandwidth { total_in "total_in" total_out "total_out" rate_in "rate_in" rate_out "rate_out" };
}

/// Leaves out what is nothing: absent, nil, empty and zero are one.
pub(super) fn essence(value: &Value) -> Value {
    const NOTHING: [&str; 4] = ["", "0001-01-01T00:00:00Z", "undefined", "bad-type"];
    match value {
        Value::Object(fields) => {
            let fields: serde_json::Map<_, _> = fields
                .iter()
                .map(|(key, value)| (key.clone(), essence(value)))
                .filter(|(_, value)| !value.is_null())
                .collect();
            if fields.is_empty() { Value::Null } else { Value::Object(fields) }
        }
        Value::Array(items) if items.is_empty() => Value::Null,
        Value::Array(items) => items.iter().map(essence).collect(),
        Value::String(text) if NOTHING.contains(&text.as_str()) => Value::Null,
        Value::Bool(false) => Value::Null,
        Value::Number(number) if number.as_f64() == Some(0.0) => Value::Null,
        other => other.clone(),
    }
}

// ---- The vectors.
