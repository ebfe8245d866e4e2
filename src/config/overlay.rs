//! Loads a section: its JSON value with `CLUSTER_*` variables laid over it.
//!
//! The reference's rule for names: `CLUSTER_<SECTION>_<KEY without underscores>`, one more `_<NAME>` for each
//! nested object; lists are comma separated, maps are `key:value,key:value`. No key is listed here: the section's
//! own serde form says which keys it has and of what type, so a new key gets its variable by being declared.
//!
//! - A key that is missing or `null` takes what its struct says. So does text that is empty.
//! - An empty variable empties a list, a map or the secret, is an error for a number or boolean, and leaves text
//!   as the file has it.
//! - Unknown keys are listed, not refused.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::{StrDeserializer, StringDeserializer};
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

use super::ConfigSection;
use super::secret::SECRET;
use super::strings::ONE_OR_MANY;
use crate::error::{Error, Result};

/// Looks up an environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process. What is not UTF-8 in a value is replaced, and then fails to parse.
pub fn process_environment(variable: &str) -> Option<String> {
    std::env::var_os(variable).map(|value| value.to_string_lossy().into_owned())
}

/// A section, and what was in the file that it does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded<T> {
    /// The section, validated.
    pub section: T,
    /// Full paths of keys that are ignored, for example `cluster.peer_name`.
    pub unknown_keys: Vec<String>,
}

/// Reads a section from its value in the file, or its default if it has none, and the environment.
///
/// # Errors
/// `InvalidInput` naming the key with its full path and, if the value came from one, the variable; `<section>.<key> not
/// set` for one of [`ConfigSection::REQUIRED_KEYS`]; or what [`ConfigSection::validate`] says.
pub fn load<T: ConfigSection>(file: Option<&Value>, environment: Environment<'_>) -> Result<Loaded<T>> {
    let default = serde_json::to_value(T::default()).map_err(|source| {
        Error::internal(format!("the default of section {} cannot be written", T::PATH)).with_source(source)
    })?;
    let cx = Context { environment, accepted: T::ACCEPTED_KEYS, unknown: RefCell::default() };
    let node = Node {
        cx: &cx,
        path: T::PATH.to_owned(),
        variable: T::ENV_PREFIX.trim_end_matches('_').to_owned(),
        from_environment: None,
        value: Some(file.unwrap_or(&default)),
        default: Some(&default),
    };
    if let Some(key) = T::REQUIRED_KEYS.iter().find(|key| node.is_object() && node.child(key).is_none()) {
        let name = T::PATH.rsplit('.').next().unwrap_or(T::PATH);
        return Err(Error::invalid_input(format!("{name}.{key} not set")).component("config"));
    }
    let section = T::deserialize(node).map_err(|error| error.located(T::PATH, None).into_error())?;
    section.validate().map_err(|error| error.component("config"))?;
    Ok(Loaded { section, unknown_keys: cx.unknown.into_inner() })
}

struct Context<'a> {
    environment: Environment<'a>,
    /// Keys of the section that older versions wrote and nobody needs to hear about.
    accepted: &'static [&'static str],
    unknown: RefCell<Vec<String>>,
}

/// One value: what the file has, what the environment says, what the default looks like.
struct Node<'a, 'de> {
    cx: &'a Context<'a>,
    path: String,
    variable: String,
    from_environment: Option<String>,
    value: Option<&'de Value>,
    default: Option<&'de Value>,
}

impl<'a, 'de> Node<'a, 'de> {
    /// The node of a key, or none if neither the file nor the environment has anything for it.
    fn child(&self, key: &'static str) -> Option<Self> {
        let variable = format!("{}_{}", self.variable, key.replace('_', "").to_ascii_uppercase());
        let default = self.default.and_then(|value| value.get(key));
        let default_is_text = matches!(default, None | Some(Value::String(_)));
        let mut value = self.value.and_then(|value| value.get(key)).filter(|value| match value {
            Value::Null => false,
            Value::String(text) => !(text.is_empty() && default_is_text),
            _ => true,
        });
        let mut from_environment = (self.cx.environment)(&variable);
        if value.is_none() && default_is_text {
            from_environment = from_environment.filter(|text| !text.is_empty());
        }
        if value.is_none() && from_environment.is_none() {
            // A missing object of which only one key is in the environment: the others keep their defaults.
            let object = default.and_then(Value::as_object)?;
            let any_set = object.keys().any(|inner| {
                let inner = inner.replace('_', "").to_ascii_uppercase();
                (self.cx.environment)(&format!("{variable}_{inner}")).is_some()
            });
            if !any_set {
                return None;
            }
            value = default;
        }
        let path = format!("{}.{key}", self.path);
        Some(Self { cx: self.cx, path, variable, from_environment, value, default })
    }

    /// Notes keys of the file that the struct does not have.
    fn note_unknown(&self, fields: &[&str]) {
        let Some(object) = self.value.and_then(Value::as_object) else { return };
        for key in object.keys().map(String::as_str) {
            if !fields.contains(&key) && !self.cx.accepted.contains(&key) {
                self.cx.unknown.borrow_mut().push(format!("{}.{key}", self.path));
            }
        }
    }

    fn is_object(&self) -> bool {
        self.value.is_some_and(Value::is_object)
    }

    fn file_value(&self) -> &'de Value {
        self.value.unwrap_or(&Value::Null)
    }
}

/// Has another macro make a method for each kind of number and for booleans, which are parsed in Go's forms.
macro_rules! each_scalar {
    ($methods:ident) => {
        $methods! {
            deserialize_bool => visit_bool,
            deserialize_i8 => visit_integer, deserialize_i16 => visit_integer, deserialize_i32 => visit_integer,
            deserialize_i64 => visit_integer, deserialize_i128 => visit_integer,
            deserialize_u8 => visit_integer, deserialize_u16 => visit_integer, deserialize_u32 => visit_integer,
            deserialize_u64 => visit_integer, deserialize_u128 => visit_integer,
            deserialize_f32 => visit_float, deserialize_f64 => visit_float,
        }
    };
}

/// Numbers and booleans: the variable parsed in Go's forms, else the file's value.
macro_rules! scalars {
    ($($method:ident => $parse:ident),* $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            match &self.from_environment {
                Some(text) => $parse(text, visitor),
                None => self.file_value().$method(visitor).map_err(Problem::from_json),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Node<'_, 'de> {
    type Error = Problem;

    each_scalar!(scalars);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.from_environment {
            // An empty variable leaves text as the file has it.
            Some(text) if !(text.is_empty() && self.value.is_some()) => visitor.visit_string(text),
            _ => self.file_value().deserialize_any(visitor).map_err(Problem::from_json),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        // Null and missing keys never get here.
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match (name, &self.from_environment) {
            (ONE_OR_MANY, Some(text)) => visitor.visit_newtype_struct(TextList(text)),
            (SECRET, _) => {
                let result = match &self.from_environment {
                    Some(text) => visitor.visit_newtype_struct(StrDeserializer::<Problem>::new(text)),
                    None => visitor.visit_newtype_struct(self),
                };
                result.map_err(|problem| problem.whole("error loading cluster secret from config"))
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.from_environment {
            Some(text) => TextList(text).deserialize_any(visitor),
            None => self.file_value().deserialize_seq(visitor).map_err(Problem::from_json),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.from_environment {
            Some(text) => visitor.visit_map(TextMap::parse(text)?),
            None => self.file_value().deserialize_map(visitor).map_err(Problem::from_json),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match self.from_environment {
            Some(text) if !text.is_empty() => {
                let text: StringDeserializer<Problem> = text.into_deserializer();
                text.deserialize_enum(name, variants, visitor)
            }
            _ => self.file_value().deserialize_enum(name, variants, visitor).map_err(Problem::from_json),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        if !self.is_object() {
            return self.file_value().deserialize_map(visitor).map_err(Problem::from_json);
        }
        self.note_unknown(fields);
        visitor.visit_map(Fields { node: &self, keys: fields.iter(), next: None })
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// The keys of a struct that have a value, in the struct's order.
struct Fields<'n, 'a, 'de> {
    node: &'n Node<'a, 'de>,
    keys: std::slice::Iter<'static, &'static str>,
    next: Option<Node<'a, 'de>>,
}

impl<'de> MapAccess<'de> for Fields<'_, '_, 'de> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Problem> {
        for &key in self.keys.by_ref() {
            if let Some(node) = self.node.child(key) {
                self.next = Some(node);
                return seed.deserialize(StrDeserializer::new(key)).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Problem> {
        let Some(node) = self.next.take() else {
            return Err(Problem::new("a value was asked for before its key"));
        };
        let path = node.path.clone();
        let variable = node.from_environment.is_some().then(|| node.variable.clone());
        seed.deserialize(node).map_err(|problem| problem.located(&path, variable))
    }
}

/// Text of a variable as one item of a list or map.
struct Text<'t>(&'t str);

macro_rules! text_scalars {
    ($($method:ident => $parse:ident),* $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            $parse(self.0, visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Text<'_> {
    type Error = Problem;

    each_scalar!(text_scalars);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_str(self.0)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        TextList(self.0).deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf option unit unit_struct newtype_struct tuple tuple_struct map struct
        enum identifier ignored_any
    }
}

/// A comma separated list. Blanks around an item are no part of it.
struct TextList<'t>(&'t str);

impl<'de> Deserializer<'de> for TextList<'_> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let items = (!self.0.trim().is_empty()).then(|| self.0.split(','));
        visitor.visit_seq(TextItems(items.into_iter().flatten()))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct TextItems<I>(I);

impl<'de, 't, I: Iterator<Item = &'t str>> SeqAccess<'de> for TextItems<I> {
    type Error = Problem;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Problem> {
        self.0.next().map(|item| seed.deserialize(Text(item.trim()))).transpose()
    }
}

/// `key:value,key:value`.
struct TextMap<'t> {
    pairs: std::vec::IntoIter<(&'t str, &'t str)>,
    value: &'t str,
}

impl<'t> TextMap<'t> {
    fn parse(text: &'t str) -> Result<Self, Problem> {
        let mut pairs = Vec::new();
        if !text.trim().is_empty() {
            for (index, item) in text.split(',').enumerate() {
                let pair = item.split_once(':').filter(|(_, value)| !value.contains(':'));
                // The item itself stays out of the message: maps of credentials are read here too.
                pairs.push(pair.ok_or_else(|| {
                    Problem::new(format!("invalid map item {}: expected key:value", index + 1))
                })?);
            }
        }
        Ok(Self { pairs: pairs.into_iter(), value: "" })
    }
}

impl<'de> MapAccess<'de> for TextMap<'_> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Problem> {
        let Some((key, value)) = self.pairs.next() else { return Ok(None) };
        self.value = value;
        seed.deserialize(Text(key)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Problem> {
        seed.deserialize(Text(self.value))
    }
}

fn visit_bool<'de, V: Visitor<'de>>(text: &str, visitor: V) -> Result<V::Value, Problem> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => visitor.visit_bool(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => visitor.visit_bool(false),
        _ => Err(Problem::new(format!("{text:?} is neither \"true\" nor \"false\""))),
    }
}

fn visit_integer<'de, V: Visitor<'de>>(text: &str, visitor: V) -> Result<V::Value, Problem> {
    let wrong = || Problem::new(format!("{text:?} is not a whole number in range"));
    let number = parse_integer(text).ok_or_else(wrong)?;
    match (i64::try_from(number), u64::try_from(number)) {
        (Ok(number), _) => visitor.visit_i64(number),
        (_, Ok(number)) => visitor.visit_u64(number),
        _ => Err(wrong()),
    }
}

fn visit_float<'de, V: Visitor<'de>>(text: &str, visitor: V) -> Result<V::Value, Problem> {
    let number = text.parse().map_err(|_| Problem::new(format!("{text:?} is not a number")))?;
    visitor.visit_f64(number)
}

/// Decimal, or with Go's prefixes `0x`, `0o`, `0b` and plain `0` for octal.
fn parse_integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    // from_str_radix takes a second sign.
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).ok()?;
    Some(if negative { -number } else { number })
}

/// What is wrong, and where, once that is known.
#[derive(Debug)]
struct Problem {
    message: String,
    /// What stands before the message; the innermost value that failed names itself.
    place: Option<String>,
    variable: Option<String>,
}

impl Problem {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: None, variable: None }
    }

    fn from_json(error: serde_json::Error) -> Self {
        Self::new(error.to_string())
    }

    /// The reference has a text of its own for this value, without path and variable.
    fn whole(mut self, place: &str) -> Self {
        self.place.get_or_insert_with(|| place.to_owned());
        self
    }

    fn located(mut self, path: &str, variable: Option<String>) -> Self {
        if self.place.is_none() {
            self.place = Some(format!("error parsing {path}"));
            self.variable = variable;
        }
        self
    }

    fn into_error(self) -> Error {
        Error::invalid_input(self.to_string()).component("config")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.variable {
            Some(variable) => write!(f, " (from {variable})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

impl serde::de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }
}

#[cfg(test)]
mod tests;
