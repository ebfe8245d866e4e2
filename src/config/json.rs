//! JSON that keeps the order of its keys and the spelling of its values, so that a file which is read and saved
//! changes only where somebody changed it.

use std::collections::HashMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::error::{Error, Result};

/// Objects and lists inside each other, at most.
const DEPTH_MAX: usize = 64;

#[derive(Clone, Debug)]
pub(super) enum Json {
    Object(Vec<(String, Json)>),
    List(Vec<Json>),
    /// A number, string, boolean or null, as it was written.
    Leaf(Box<RawValue>),
}

impl Json {
    /// Parses a text. Errors have line and column and no "config" prefix of their own.
    pub(super) fn parse(text: &str) -> Result<Self> {
        // The whole text first: an error found later, in a part, would count lines from there.
        let raw: &RawValue = serde_json::from_str(text).map_err(|source| wrong(&source))?;
        Self::from_raw(raw, DEPTH_MAX)
    }

    /// The JSON of anything that has one.
    pub(super) fn of(value: &impl Serialize) -> Result<Self> {
        let text = serde_json::to_string(value)
            .map_err(|source| Error::internal(format!("a section cannot be written as JSON: {source}")))?;
        Self::parse(&text)
    }

    fn from_raw(raw: &RawValue, depth_left: usize) -> Result<Self> {
        let text = raw.get();
        let deeper = || {
            depth_left.checked_sub(1).ok_or_else(|| {
                Error::invalid_input(format!("objects and lists are nested more than {DEPTH_MAX} deep"))
            })
        };
        match text.as_bytes().first() {
            Some(b'{') => {
                let left = deeper()?;
                let entries: Entries<'_> = serde_json::from_str(text).map_err(|source| wrong(&source))?;
                let parse = |(key, raw): (String, &RawValue)| Ok((key, Self::from_raw(raw, left)?));
                entries.0.into_iter().map(parse).collect::<Result<_>>().map(Self::Object)
            }
            Some(b'[') => {
                let left = deeper()?;
                let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|source| wrong(&source))?;
                items.into_iter().map(|raw| Self::from_raw(raw, left)).collect::<Result<_>>().map(Self::List)
            }
            _ => Ok(Self::Leaf(raw.to_owned())),
        }
    }

    /// The value of a key, if this is an object that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(entries) = self else { return None };
        entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Leaf(raw) if raw.get() == "null")
    }

    /// The same as a plain value, for the parts that are understood.
    pub(super) fn to_value(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(|source| wrong(&source))
    }
}

fn wrong(source: &serde_json::Error) -> Error {
    Error::invalid_input(format!("not valid JSON: {source}")).component("config")
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Object(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
            Self::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Self::Leaf(raw) => raw.serialize(serializer),
        }
    }
}

struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Entries<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries: Vec<Option<(String, &'de RawValue)>> = Vec::new();
                let mut places: HashMap<String, usize> = HashMap::new();
                while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                    // Of two equal keys the last counts, as everywhere else.
                    if let Some(earlier) = places.insert(key.clone(), entries.len()) {
                        entries[earlier] = None;
                    }
                    entries.push(Some((key, value)));
                }
                Ok(Entries(entries.into_iter().flatten().collect()))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_spelling_survive() {
        let text = r#"{"z":1.50,"a":[12345678901234567890123,{"y":null,"b":"\u00e9"}],"m":{}}"#;
        assert_eq!(serde_json::to_string(&Json::parse(text).unwrap()).unwrap(), text);
    }

    #[test]
    fn the_last_of_equal_keys_counts_however_many_there_are() {
        let text = r#"{"a":1,"b":2,"a":3,"c":4,"b":5,"a":6}"#;
        assert_eq!(serde_json::to_string(&Json::parse(text).unwrap()).unwrap(), r#"{"c":4,"b":5,"a":6}"#);

        // About as many as the largest file has. Compared with each other they would take minutes.
        let begun = std::time::Instant::now();
        let once: Vec<String> = (0..150_000).map(|key| format!("\"{key:x}\":0")).collect();
        let text = format!("{{{},{}}}", once.join(","), once.join(","));
        let Json::Object(entries) = Json::parse(&text).unwrap() else { panic!("no object") };
        assert_eq!(entries.len(), once.len());
        assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
    }

    #[test]
    fn wrong_text_is_an_error_with_its_place() {
        let error = Json::parse("{\n \"a\": 1,\n}").unwrap_err().to_string();
        assert!(error.contains("line 3 column 1"), "{error}");
        assert!(Json::parse("").unwrap_err().to_string().contains("EOF"));
        assert!(Json::parse(&"[".repeat(100_000)).is_err());
        let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
        assert!(Json::parse(&deep).unwrap_err().to_string().contains("more than 64 deep"));
    }
}
