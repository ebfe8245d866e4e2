//! Sections of parts that this version does not have.
//!
//! They stay in the file as they are. What is wrong in them is an error all the same, because a mistake that nobody
//! reads today is one that somebody meets after an upgrade. The reference's default says which keys a section has and
//! of what type.

use std::sync::LazyLock;

use serde_json::Value;

use super::json::Json;
use super::overlay::Environment;
use super::service_json::ServiceJson;
use crate::error::{Error, Result};
use crate::types::{parse_go_duration, parse_multiaddr};

/// Each section as the `init` of Go ipfs-cluster 1.1.6 writes it.
const DEFAULTS: &str = include_str!("kept/defaults.json");

/// Keys that the reference knows and leaves out of its default, with an example of their type.
const OPTIONAL_KEYS: &[(&str, &str, &str)] = &[
    ("consensus.raft", "data_folder", "\"\""),
    ("consensus.raft", "datastore_namespace", "\"\""),
    ("api.ipfsproxy", "node_https", "false"),
    ("api.ipfsproxy", "extract_headers_extra", "[]"),
    ("api.ipfsproxy", "extract_headers_path", "\"\""),
    ("api.ipfsproxy", "extract_headers_ttl", "\"5m\""),
    ("api.pinsvcapi", "ssl_cert_file", "\"\""),
    ("api.pinsvcapi", "ssl_key_file", "\"\""),
    ("api.pinsvcapi", "libp2p_listen_multiaddress", "\"/ip4/127.0.0.1/tcp/1\""),
    ("api.pinsvcapi", "id", "\"\""),
    ("api.pinsvcapi", "private_key", "\"\""),
    ("datastore.pebble", "folder", "\"\""),
    ("datastore.badger", "folder", "\"\""),
    ("datastore.badger3", "folder", "\"\""),
    ("datastore.leveldb", "folder", "\"\""),
];

/// A section, whether it does anything where it is served, and what then is missing.
struct Part {
    path: &'static str,
    /// The key that switches it on; none = the section itself does.
    switch: Option<&'static str>,
    /// The key that says where it is met, and what is to be said of that address.
    address: Option<(&'static str, &'static str)>,
}

const PARTS: &[Part] = &[
    #[cfg(not(feature = "consensus-raft"))]
    Part { path: "consensus.raft", switch: None, address: None },
    Part {
        path: "api.ipfsproxy",
        switch: None,
        address: Some(("listen_multiaddress", "nothing listens on")),
    },
    Part {
        path: "api.pinsvcapi",
        switch: None,
        address: Some(("http_listen_multiaddress", "nothing listens on")),
    },
    Part {
        path: "observations.metrics",
        switch: Some("enable_stats"),
        address: Some(("prometheus_endpoint", "nothing listens on")),
    },
    Part {
        path: "observations.tracing",
        switch: Some("enable_tracing"),
        address: Some(("jaeger_agent_endpoint", "no traces are sent to")),
    },
    Part { path: "datastore.pebble", switch: None, address: None },
    Part { path: "datastore.badger", switch: None, address: None },
    Part { path: "datastore.badger3", switch: None, address: None },
    Part { path: "datastore.leveldb", switch: None, address: None },
];

/// Where the stores of the reference keep their data: the section, and the folder unless it names another.
pub const REFERENCE_STORES: [(&str, &str, &str); 5] = [
    ("datastore.pebble", "folder", "pebble"),
    ("datastore.badger", "folder", "badger"),
    ("datastore.badger3", "folder", "badger3"),
    ("datastore.leveldb", "folder", "leveldb"),
    ("consensus.raft", "data_folder", "raft"),
];

/// A section of the file that is kept and not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptSection {
    /// Where it is, for example `api.ipfsproxy`.
    pub path: &'static str,
    /// Full paths of keys that the reference does not know either.
    pub unknown_keys: Vec<String>,
    /// What somebody would look for in vain, with the address. None where the section is switched off, or says
    /// how data is stored.
    pub missing: Option<String>,
}

/// Checks the sections of the file that are of parts which this version does not have.
///
/// # Errors
/// `InvalidInput` naming the key with its full path, and the variable if the value came from one.
pub fn kept_sections(file: &ServiceJson, environment: Environment<'_>) -> Result<Vec<KeptSection>> {
    let mut kept = Vec::new();
    for part in PARTS {
        let Some(value) = file.section(part.path)? else { continue };
        let default = default_value(part.path)?;
        let name = part.path.rsplit('.').next().unwrap_or(part.path);
        let prefix = format!("CLUSTER_{}", name.to_ascii_uppercase());
        let mut check = Check { environment, unknown_keys: Vec::new() };
        check.value(part.path, &prefix, &default, Some(&value))?;
        let text = |key: &str| {
            let variable = environment(&variable(&prefix, key)).filter(|text| !text.is_empty());
            variable.or_else(|| shown(value.get(key)?)).or_else(|| shown(default.get(key)?))
        };
        let is_on = part.switch.is_none_or(|key| text(key).is_some_and(|text| go_bool(&text) == Some(true)));
        let missing = part.address.filter(|_| is_on).map(|(key, says)| {
            let address = text(key).unwrap_or_default();
            format!("{says} {address}")
        });
        kept.push(KeptSection { path: part.path, unknown_keys: check.unknown_keys, missing });
    }
    Ok(kept)
}

/// Puts a section into a file as the reference's `init` writes it; none if it has no such section.
///
/// # Errors
/// As [`ServiceJson::set`].
pub fn write_default(file: &mut ServiceJson, path: &str) -> Result<bool> {
    let mut keys = path.split('.');
    let found = keys.try_fold(&*DEFAULT, |json, key| json.get(key));
    match found {
        Some(json) if PARTS.iter().any(|part| part.path == path) => file.set(path, json).map(|()| true),
        _ => Ok(false),
    }
}

static DEFAULT: LazyLock<Json> =
    LazyLock::new(|| Json::parse(DEFAULTS).unwrap_or_else(|_| Json::Object(Vec::new())));

/// The default with the keys that it leaves out.
fn default_value(path: &str) -> Result<Value> {
    let found = path.split('.').try_fold(&*DEFAULT, |json, key| json.get(key));
    let mut value = found.map(Json::to_value).transpose()?.unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        for (_, key, example) in OPTIONAL_KEYS.iter().filter(|(section, ..)| *section == path) {
            object.insert((*key).to_owned(), serde_json::from_str(example).unwrap_or_default());
        }
    }
    Ok(value)
}

fn variable(prefix: &str, key: &str) -> String {
    format!("{prefix}_{}", key.replace('_', "").to_ascii_uppercase())
}

/// A value in a line for people.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => (!text.is_empty()).then(|| text.clone()),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().filter_map(shown).collect();
            (!items.is_empty()).then(|| items.join(", "))
        }
        other => Some(other.to_string()),
    }
}

struct Check<'a> {
    environment: Environment<'a>,
    unknown_keys: Vec<String>,
}

impl Check<'_> {
    /// Whether a value is of the type of the example, and so is the variable that replaces it.
    fn value(&mut self, path: &str, variable_name: &str, like: &Value, found: Option<&Value>) -> Result<()> {
        let found = found.filter(|value| !value.is_null());
        match like {
            Value::Object(keys) if !keys.is_empty() => return self.object(path, variable_name, keys, found),
            Value::Array(items) if items.first().is_some_and(Value::is_object) => {
                for (index, item) in list(path, found)?.iter().enumerate() {
                    // Items have no variables.
                    self.value(&format!("{path}[{index}]"), "", &items[0], Some(item))?;
                }
                return Ok(());
            }
            _ => {}
        }
        if let Some(text) = Some(variable_name).filter(|name| !name.is_empty()).and_then(self.environment) {
            variable_like(like, path, &text)
                .map_err(|text| wrong(path, &format!("{text} (from {variable_name})")))?;
        }
        found.map_or(Ok(()), |found| value_like(like, path, found).map_err(|text| wrong(path, &text)))
    }

    fn object(
        &mut self,
        path: &str,
        variable_name: &str,
        keys: &serde_json::Map<String, Value>,
        found: Option<&Value>,
    ) -> Result<()> {
        let found = match found {
            None => None,
            Some(Value::Object(found)) => Some(found),
            Some(_) => return Err(wrong(path, "it is not an object")),
        };
        for key in found.into_iter().flat_map(|found| found.keys()).filter(|key| !keys.contains_key(*key)) {
            self.unknown_keys.push(format!("{path}.{key}"));
        }
        for (key, like) in keys {
            let variable_name =
                if variable_name.is_empty() { String::new() } else { variable(variable_name, key) };
            self.value(
                &format!("{path}.{key}"),
                &variable_name,
                like,
                found.and_then(|found| found.get(key)),
            )?;
        }
        Ok(())
    }
}

fn wrong(path: &str, text: &str) -> Error {
    Error::invalid_input(format!("error parsing {path}: {text}")).component("config")
}

fn list<'v>(path: &str, found: Option<&'v Value>) -> Result<&'v [Value]> {
    match found {
        None => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(wrong(path, "it is not a list")),
    }
}

/// What text has to be, by the key that has it and an example.
enum Kind {
    Any,
    Duration,
    Address,
}

fn kind(path: &str, like: &str) -> Kind {
    if path.ends_with("multiaddress") || path.ends_with("_endpoint") {
        Kind::Address
    } else if !like.is_empty() && parse_go_duration(like).is_ok() {
        Kind::Duration
    } else {
        Kind::Any
    }
}

fn text_like(kind: &Kind, text: &str) -> Result<(), String> {
    let checked = match kind {
        _ if text.is_empty() => Ok(()),
        Kind::Any => Ok(()),
        Kind::Duration => parse_go_duration(text).map(drop),
        Kind::Address => parse_multiaddr(text).map(drop),
    };
    checked.map_err(|error| error.to_string())
}

fn value_like(like: &Value, path: &str, found: &Value) -> Result<(), String> {
    let expected = |what: &str| Err(format!("expected {what}"));
    match (like, found) {
        // Where the default is null, the reference takes more than one type.
        (Value::Null, _) | (Value::Bool(_), Value::Bool(_)) | (Value::Object(_), Value::Object(_)) => Ok(()),
        (Value::Number(like), Value::Number(found)) if like.is_f64() || !found.is_f64() => Ok(()),
        (Value::Number(like), _) => expected(if like.is_f64() { "a number" } else { "a whole number" }),
        (Value::String(like), Value::String(found)) => text_like(&kind(path, like), found),
        (Value::String(like), Value::Array(items)) if matches!(kind(path, like), Kind::Address) => {
            items.iter().try_for_each(|item| match item {
                Value::String(text) => text_like(&Kind::Address, text),
                _ => expected("addresses"),
            })
        }
        (Value::Array(_), Value::Array(items)) if items.iter().all(Value::is_string) => Ok(()),
        (Value::Bool(_), _) => expected("true or false"),
        (Value::String(_), _) => expected("text"),
        (Value::Array(_), _) => expected("a list of texts"),
        (Value::Object(_), _) => expected("an object"),
    }
}

fn variable_like(like: &Value, path: &str, text: &str) -> Result<(), String> {
    match like {
        Value::Bool(_) if go_bool(text).is_none() => Err(format!("{text:?} is neither true nor false")),
        Value::Number(like) if like.is_f64() => {
            text.parse::<f64>().map(drop).map_err(|_| format!("{text:?} is not a number"))
        }
        Value::Number(_) => {
            text.parse::<i128>().map(drop).map_err(|_| format!("{text:?} is not a whole number in range"))
        }
        Value::String(like) => {
            let kind = kind(path, like);
            text.split(',').try_for_each(|item| text_like(&kind, item.trim()))
        }
        _ => Ok(()),
    }
}

/// As Go's `strconv.ParseBool`.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::testing::none;

    fn kept(file: Value) -> Result<Vec<KeptSection>> {
        kept_sections(&ServiceJson::parse(&file.to_string()).unwrap(), &none)
    }

    #[test]
    fn sections_of_the_reference_are_complete_and_what_is_missing_is_named_with_its_address() {
        let file = ServiceJson::parse(DEFAULTS).unwrap();
        let kept = kept_sections(&file, &none).unwrap();
        assert_eq!(kept.len(), PARTS.len());
        assert!(kept.iter().all(|section| section.unknown_keys.is_empty()));
        let missing: Vec<_> = kept.iter().filter_map(|section| section.missing.as_deref()).collect();
        assert_eq!(
            missing,
            ["nothing listens on /ip4/127.0.0.1/tcp/9095", "nothing listens on /ip4/127.0.0.1/tcp/9097"]
        );
    }

    #[test]
    fn what_is_switched_on_by_the_file_or_a_variable_is_missing() {
        let file = json!({"observations": {"metrics": {"enable_stats": true}, "tracing": {}},
            "api": {"ipfsproxy": {"listen_multiaddress": ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2"]}}});
        let file = ServiceJson::parse(&file.to_string()).unwrap();
        let on = |name: &str| match name {
            "CLUSTER_TRACING_ENABLETRACING" => Some("1".to_owned()),
            "CLUSTER_TRACING_JAEGERAGENTENDPOINT" => Some("/ip4/127.0.0.1/udp/7".to_owned()),
            _ => None,
        };
        let missing: Vec<_> =
            kept_sections(&file, &on).unwrap().into_iter().filter_map(|section| section.missing).collect();
        assert_eq!(
            missing,
            [
                "nothing listens on /ip4/127.0.0.1/tcp/1, /ip4/127.0.0.1/tcp/2",
                "nothing listens on /ip4/127.0.0.1/tcp/8888",
                "no traces are sent to /ip4/127.0.0.1/udp/7"
            ]
        );
    }

    #[test]
    fn unknown_keys_are_listed_and_known_ones_need_not_be_there() {
        let file = json!({"api": {"ipfsproxy": {"listen": "x", "node_https": true}},
            "datastore": {"pebble": {"folder": "p", "pebble_options": {"levels": [{"size": 1}], "x": 1}}}});
        let kept = kept(file).unwrap();
        assert_eq!(kept[0].unknown_keys, ["api.ipfsproxy.listen"]);
        let mut keys = kept[1].unknown_keys.clone();
        keys.sort_unstable();
        assert_eq!(
            keys,
            ["datastore.pebble.pebble_options.levels[0].size", "datastore.pebble.pebble_options.x"]
        );
    }

    #[test]
    fn values_that_cannot_be_are_refused_with_their_path() {
        for (file, text) in [
            (json!({"api": {"ipfsproxy": 1}}), "error parsing api.ipfsproxy: it is not an object"),
            (
                json!({"api": {"ipfsproxy": {"max_header_bytes": "x"}}}),
                "error parsing api.ipfsproxy.max_header_bytes: expected a whole number",
            ),
            (
                json!({"api": {"pinsvcapi": {"http_listen_multiaddress": ["x"]}}}),
                "error parsing api.pinsvcapi.http_listen_multiaddress: failed to parse multiaddr \"x\": must begin \
                 with /",
            ),
            (
                json!({"datastore": {"badger": {"gc_discard_ratio": true}}}),
                "error parsing datastore.badger.gc_discard_ratio: expected a number",
            ),
            (
                json!({"observations": {"metrics": {"enable_stats": "yes"}}}),
                "error parsing observations.metrics.enable_stats: expected true or false",
            ),
            (
                json!({"datastore": {"pebble": {"pebble_options": {"levels": 7}}}}),
                "error parsing datastore.pebble.pebble_options.levels: it is not a list",
            ),
        ] {
            assert_eq!(kept(file).unwrap_err().to_string(), text);
        }
        let error = kept(json!({"api": {"ipfsproxy": {"idle_timeout": "soon"}}})).unwrap_err().to_string();
        assert!(error.starts_with("error parsing api.ipfsproxy.idle_timeout: "), "{error}");
    }

    #[test]
    fn variables_that_cannot_be_are_refused_with_their_name() {
        let file = ServiceJson::parse(DEFAULTS).unwrap();
        for (variable, value) in [
            ("CLUSTER_PEBBLE_PEBBLEOPTIONS_CACHESIZEBYTES", "many"),
            ("CLUSTER_IPFSPROXY_LISTENMULTIADDRESS", "/ip4/127.0.0.1/tcp/1,x"),
            ("CLUSTER_METRICS_ENABLESTATS", "maybe"),
            ("CLUSTER_TRACING_SAMPLINGPROB", "half"),
            #[cfg(not(feature = "consensus-raft"))]
            ("CLUSTER_RAFT_COMMITRETRYDELAY", "long"),
        ] {
            let environment = |name: &str| (name == variable).then(|| value.to_owned());
            let error = kept_sections(&file, &environment).unwrap_err().to_string();
            assert!(error.contains(&format!("(from {variable})")), "{error}");
        }
    }

    #[test]
    fn a_default_is_written_as_the_reference_writes_it() {
        let mut file = ServiceJson::new();
        assert!(write_default(&mut file, "datastore.pebble").unwrap());
        assert!(!write_default(&mut file, "datastore.own").unwrap());
        let text = file.to_text().unwrap();
        assert!(text.contains("\"cache_size_bytes\": 1073741824,\n        \"bytes_per_sync\""), "{text}");
        assert!(!text.contains("folder"));
    }
}
