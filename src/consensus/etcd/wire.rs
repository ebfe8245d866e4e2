//! What etcd's JSON gateway is sent and what it answers: protobuf's JSON, where bytes are base64, 64-bit numbers are text,
//! and what has its default value is left out.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes, which are base64 in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Blob(pub(super) Bytes);

impl<T: Into<Bytes>> From<T> for Blob {
    fn from(bytes: T) -> Self {
        Self(bytes.into())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(&self.0, &STANDARD))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Self::from).map_err(D::Error::custom)
    }
}

/// A number, which is text in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Int(pub(super) i64);

impl Serialize for Int {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Int;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a 64-bit number, as text or not")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Int, E> {
                // Ids are unsigned; they only have to be the same again.
                text.parse::<i64>()
                    .or_else(|_| text.parse::<u64>().map(u64::cast_signed))
                    .map(Int)
                    .map_err(E::custom)
            }
            fn visit_i64<E>(self, number: i64) -> Result<Int, E> {
                Ok(Int(number))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Int, E> {
                Ok(Int(number.cast_signed()))
            }
        }
        deserializer.deserialize_any(Number)
    }
}

// ---- What is asked

/// `/v3/kv/txn`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Txn {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) compare: Vec<Compare>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) success: Vec<Op>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) failure: Vec<Op>,
}

/// What must be equal.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "target")]
pub(super) enum Compare {
    /// How often the key was written since it is there; 0 is absent.
    #[serde(rename = "VERSION")]
    Version { key: Blob, version: Int },
    /// The revision that wrote it last; 0 is absent.
    #[serde(rename = "MOD")]
    Mod { key: Blob, mod_revision: Int },
    #[serde(rename = "VALUE")]
    Value { key: Blob, value: Blob },
    /// Written at least once since it is there.
    #[serde(rename = "CREATE")]
    Present { key: Blob, result: &'static str, create_revision: Int },
}

impl Compare {
    pub(super) fn absent(key: impl Into<Blob>) -> Self {
        Self::Version { key: key.into(), version: Int(0) }
    }

    pub(super) fn present(key: impl Into<Blob>) -> Self {
        Self::Present { key: key.into(), result: "GREATER", create_revision: Int(0) }
    }

    pub(super) fn revision(key: impl Into<Blob>, revision: i64) -> Self {
        Self::Mod { key: key.into(), mod_revision: Int(revision) }
    }

    pub(super) fn value(key: impl Into<Blob>, value: impl Into<Blob>) -> Self {
        Self::Value { key: key.into(), value: value.into() }
    }
}

/// What a transaction does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) enum Op {
    #[serde(rename = "request_put")]
    Put(Put),
    #[serde(rename = "request_delete_range")]
    Delete(Delete),
    #[serde(rename = "request_range")]
    Range(RangeAsked),
    #[serde(rename = "request_txn")]
    Txn(Txn),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Put {
    pub(super) key: Blob,
    #[serde(skip_serializing_if = "is_empty")]
    pub(super) value: Blob,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) lease: Int,
    /// The value stays.
    #[serde(skip_serializing_if = "is_false")]
    pub(super) ignore_value: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Delete {
    pub(super) key: Blob,
    #[serde(skip_serializing_if = "is_empty")]
    pub(super) range_end: Blob,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) prev_kv: bool,
}

/// `/v3/kv/range`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct RangeAsked {
    pub(super) key: Blob,
    #[serde(skip_serializing_if = "is_empty")]
    pub(super) range_end: Blob,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) limit: Int,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) revision: Int,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) keys_only: bool,
}

impl Op {
    pub(super) fn put(key: impl Into<Blob>, value: impl Into<Blob>) -> Self {
        Self::Put(Put { key: key.into(), value: value.into(), ..Put::default() })
    }

    pub(super) fn put_leased(key: impl Into<Blob>, value: impl Into<Blob>, lease: i64) -> Self {
        Self::Put(Put { key: key.into(), value: value.into(), lease: Int(lease), ..Put::default() })
    }

    /// The key loses its lease and keeps its value; the transaction is refused if there is no such key.
    pub(super) fn unlease(key: impl Into<Blob>) -> Self {
        Self::Put(Put { key: key.into(), ignore_value: true, ..Put::default() })
    }

    pub(super) fn delete(key: impl Into<Blob>) -> Self {
        Self::Delete(Delete { key: key.into(), ..Delete::default() })
    }

    pub(super) fn delete_range(range: Range<Vec<u8>>) -> Self {
        Self::Delete(Delete { key: range.start.into(), range_end: range.end.into(), prev_kv: false })
    }

    pub(super) fn get(key: impl Into<Blob>) -> Self {
        Self::Range(RangeAsked { key: key.into(), ..RangeAsked::default() })
    }

    /// The names in a range.
    pub(super) fn names(range: Range<Vec<u8>>, limit: usize) -> Self {
        Self::range(range, limit, true)
    }

    /// The names and values in a range.
    pub(super) fn entries(range: Range<Vec<u8>>, limit: usize) -> Self {
        Self::range(range, limit, false)
    }

    fn range(range: Range<Vec<u8>>, limit: usize, keys_only: bool) -> Self {
        Self::Range(RangeAsked {
            key: range.start.into(),
            range_end: range.end.into(),
            limit: Int(limit.try_into().unwrap_or(i64::MAX)),
            keys_only,
            ..RangeAsked::default()
        })
    }
}

/// `/v3/watch`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct WatchAsked {
    pub(super) create_request: WatchCreate,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct WatchCreate {
    pub(super) key: Blob,
    pub(super) range_end: Blob,
    pub(super) start_revision: Int,
    pub(super) progress_notify: bool,
    /// Answers are cut in pieces that are not larger than a request may be.
    pub(super) fragment: bool,
}

/// `/v3/lease/grant`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Grant {
    #[serde(rename = "TTL")]
    pub(super) ttl: Int,
}

/// `/v3/lease/keepalive`, `/v3/lease/revoke`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LeaseId {
    #[serde(rename = "ID")]
    pub(super) id: Int,
}

/// `/v3/auth/authenticate`.
#[derive(Clone, Serialize)]
pub(super) struct Login<'a> {
    pub(super) name: &'a str,
    pub(super) password: &'a str,
}

fn is_empty(blob: &Blob) -> bool {
    blob.0.is_empty()
}

fn is_zero(number: &Int) -> bool {
    number.0 == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde wants it.
fn is_false(flag: &bool) -> bool {
    !*flag
}

// ---- What is answered

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Header {
    pub(super) cluster_id: Int,
    pub(super) revision: Int,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct KeyValue {
    pub(super) key: Blob,
    pub(super) value: Blob,
    pub(super) mod_revision: Int,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct TxnAnswer {
    pub(super) header: Header,
    pub(super) succeeded: bool,
    pub(super) responses: Vec<OpAnswer>,
}

/// Only what somebody looks at.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct OpAnswer {
    pub(super) response_range: Option<RangeAnswer>,
    pub(super) response_delete_range: Option<DeleteAnswer>,
}

impl OpAnswer {
    /// What a range gave.
    pub(super) fn kvs(&self) -> &[KeyValue] {
        self.response_range.as_ref().map(|range| &range.kvs[..]).unwrap_or_default()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct RangeAnswer {
    pub(super) header: Header,
    pub(super) kvs: Vec<KeyValue>,
    pub(super) more: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct DeleteAnswer {
    pub(super) prev_kvs: Vec<KeyValue>,
}

/// A line of a stream.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Line<T> {
    Result(T),
    Error(Refusal),
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct WatchAnswer {
    pub(super) header: Header,
    pub(super) created: bool,
    pub(super) canceled: bool,
    pub(super) compact_revision: Int,
    pub(super) cancel_reason: String,
    /// More of the same answer follows.
    pub(super) fragment: bool,
    pub(super) events: Vec<Event>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Event {
    #[serde(rename = "type")]
    pub(super) kind: EventKind,
    pub(super) kv: KeyValue,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum EventKind {
    #[default]
    Put,
    Delete,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct LeaseAnswer {
    #[serde(rename = "ID")]
    pub(super) id: Int,
    /// Seconds; 0 where there is no such lease.
    #[serde(rename = "TTL")]
    pub(super) ttl: Int,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct LoginAnswer {
    pub(super) token: String,
}

/// How etcd says no: a code of gRPC and a text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Refusal {
    pub(super) code: u32,
    pub(super) message: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn a_transaction_is_what_the_gateway_reads() {
        let txn = Txn {
            compare: vec![
                Compare::absent("a"),
                Compare::present("b"),
                Compare::revision("c", 7),
                Compare::value("d", "x"),
            ],
            success: vec![
                Op::put("a", "1"),
                Op::put_leased("b", "", -3),
                Op::unlease("c"),
                Op::delete("d"),
                Op::Txn(Txn::default()),
            ],
            failure: vec![Op::get("a"), Op::names(b"a".to_vec()..b"b".to_vec(), 5)],
        };
        let expected = json!({
            "compare": [
                {"target": "VERSION", "key": "YQ==", "version": "0"},
                {"target": "CREATE", "key": "Yg==", "result": "GREATER", "create_revision": "0"},
                {"target": "MOD", "key": "Yw==", "mod_revision": "7"},
                {"target": "VALUE", "key": "ZA==", "value": "eA=="},
            ],
            "success": [
                {"request_put": {"key": "YQ==", "value": "MQ=="}},
                {"request_put": {"key": "Yg==", "lease": "-3"}},
                {"request_put": {"key": "Yw==", "ignore_value": true}},
                {"request_delete_range": {"key": "ZA=="}},
                {"request_txn": {}},
            ],
            "failure": [
                {"request_range": {"key": "YQ=="}},
                {"request_range": {"key": "YQ==", "range_end": "Yg==", "limit": "5", "keys_only": true}},
            ],
        });
        assert_eq!(to_value(&txn).unwrap(), expected);
    }

    #[test]
    fn answers_are_read_with_and_without_what_is_left_out() {
        let answer: TxnAnswer = from_value(json!({
            "header": {"cluster_id": "14841639068965178418", "revision": "12"},
            "succeeded": true,
            "responses": [
                {"response_put": {"header": {}}},
                {"response_delete_range": {"deleted": "1", "prev_kvs": [{"key": "YQ==", "value": "Yg=="}]}},
                {"response_range": {"kvs": [{"key": "YQ==", "mod_revision": 3}], "count": "1"}},
                {"response_txn": {}},
            ],
        }))
        .unwrap();
        assert_eq!(answer.header.revision, Int(12));
        assert_eq!(answer.header.cluster_id.0.cast_unsigned(), 14_841_639_068_965_178_418);
        assert_eq!(answer.responses[1].response_delete_range.as_ref().unwrap().prev_kvs[0].value, "b".into());
        assert_eq!(answer.responses[2].kvs()[0].mod_revision, Int(3));
        assert_eq!(from_value::<TxnAnswer>(json!({})).unwrap(), TxnAnswer::default());
        let line = json!({"result": {"events": [{"type": "DELETE", "kv": {"key": "YQ=="}}, {"kv": {}}]}});
        let Line::Result(watched) = from_value::<Line<WatchAnswer>>(line).unwrap() else {
            panic!("a result")
        };
        assert_eq!(watched.events[0].kind, EventKind::Delete);
        assert_eq!(watched.events[1].kind, EventKind::Put);
        let line = json!({"error": {"code": 14, "message": "no", "details": []}});
        assert!(
            matches!(from_value::<Line<WatchAnswer>>(line), Ok(Line::Error(refusal)) if refusal.code == 14)
        );
        for wrong in [json!({"header": {"revision": "x"}}), json!({"responses": 3}), json!("x")] {
            assert!(from_value::<TxnAnswer>(wrong).is_err());
        }
    }
}
