//! Values that the reference writes as one string or as a list.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeSeq as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Result;
use crate::types::{Multiaddr, parse_multiaddr};

/// The name under which the [overlay](super::overlay) knows these values: a variable for one is a list.
pub(super) const ONE_OR_MANY: &str = "ipfs_cluster::OneOrMany";

/// A JSON string or a list of them; written as a plain string when it has one element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOrMany<T>(pub Vec<T>);

/// Texts, one or many.
pub type Strings = OneOrMany<String>;
/// Addresses, one or many, parsed strictly.
pub type Addresses = OneOrMany<Multiaddr>;

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Deref for OneOrMany<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> FromIterator<T> for OneOrMany<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

/// What such a value can hold. Our own parsers, because their errors name the text.
pub trait FromText: Sized {
    /// Parses one element.
    ///
    /// # Errors
    /// `InvalidInput` naming the text.
    fn from_text(text: &str) -> Result<Self>;
}

impl FromText for String {
    fn from_text(text: &str) -> Result<Self> {
        Ok(text.to_owned())
    }
}

impl FromText for Multiaddr {
    fn from_text(text: &str) -> Result<Self> {
        parse_multiaddr(text)
    }
}

/// Serde form of a plain list of addresses: `#[serde(with = "address_list")]`.
pub(super) mod address_list {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(
        addresses: &[Multiaddr],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(addresses)
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Multiaddr>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| parse_multiaddr(text).map_err(D::Error::custom)).collect()
    }
}

impl<T: Serialize> Serialize for OneOrMany<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let [only] = self.0.as_slice() {
            return only.serialize(serializer);
        }
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for item in &self.0 {
            list.serialize_element(item)?;
        }
        list.end()
    }
}

impl<'de, T: FromText> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(ONE_OR_MANY, StringOrList(PhantomData)).map(Self)
    }
}

struct StringOrList<T>(PhantomData<T>);

impl<'de, T: FromText> Visitor<'de> for StringOrList<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<T>, E> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![T::from_text(text).map_err(E::custom)?])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(text) = list.next_element::<String>()? {
            items.push(T::from_text(&text).map_err(A::Error::custom)?);
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_or_a_list_reads_and_writes_as_in_the_reference() {
        for (read, items, written) in [
            (r#""a""#, vec!["a"], r#""a""#),
            (r#"["a"]"#, vec!["a"], r#""a""#),
            (r#"["a","b"]"#, vec!["a", "b"], r#"["a","b"]"#),
            (r#""""#, vec![], "[]"),
            ("[]", vec![], "[]"),
        ] {
            let value: Strings = serde_json::from_str(read).unwrap();
            assert_eq!(value.0, items, "{read}");
            assert_eq!(serde_json::to_string(&value).unwrap(), written, "{read}");
        }
        for wrong in ["1", "{}", "[1]", "null"] {
            assert!(serde_json::from_str::<Strings>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_named() {
        let value: Addresses = serde_json::from_str(r#""/ip4/127.0.0.1/udp/9096/quic""#).unwrap();
        assert_eq!(value[0].to_string(), "/ip4/127.0.0.1/udp/9096/quic");
        let error = serde_json::from_str::<Addresses>(r#"["/ip4/127.0.0.1/tcp/1", "x"]"#).unwrap_err();
        assert!(error.to_string().contains("failed to parse multiaddr \"x\": must begin with /"), "{error}");
    }
}
