//! Reading queries, strictly: what cannot be read is a 400, and nothing is done.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use multiaddr::Protocol;

use crate::api::error::ApiError;
use crate::cluster::Scope;
use crate::types::{
    Cid, Multiaddr, PeerId, PinOptions, PinTypeFilter, StatusFilter, Timestamp, parse_cid, parse_go_duration,
    parse_multiaddr, parse_peer,
};

/// What clients write when a pin shall not expire.
const NEVER: &str = "0001-01-01T00:00:00Z";
/// Shortest time that `expire-in` takes.
const EXPIRE_IN_MIN: Duration = Duration::from_secs(1);

/// The parameters of a request, decoded. An absent one reads as empty, as in the reference. One that is there twice with
/// different values is a 400, where the reference takes the first: no client of it sends that, and whoever does would
/// have something done that is only half of what was asked.
#[derive(Debug)]
pub(super) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Splits and decodes a query string.
    pub(super) fn parse(text: Option<&'a str>) -> Result<Self, ApiError> {
        let text = text.unwrap_or_default();
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(key, true)?, decode(value, true)?))
        });
        Ok(Self(pairs.collect::<Result<_, ApiError>>()?))
    }

    pub(super) fn get(&self, name: &str) -> Result<&str, ApiError> {
        note(name);
        let mut values = self.pairs().filter(|(key, _)| *key == name).map(|(_, value)| value);
        let first = values.next().unwrap_or_default();
        if values.any(|other| other != first) {
            return Err(ambiguous(name));
        }
        Ok(first)
    }

    /// The value of a parameter that is there.
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        note(name);
        self.pairs().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Every value of a parameter.
    pub(super) fn values(&self, name: &'static str) -> impl Iterator<Item = &str> {
        note(name);
        self.pairs().filter(move |(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The rest of the names that begin so, and their values.
    pub(super) fn family(&self, prefix: &'static str) -> impl Iterator<Item = (&str, &str)> {
        note(&format_args!("{prefix}*"));
        self.pairs().filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value)))
    }

    /// All parameters as they came.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// `local`: this peer alone, or all.
    pub(super) fn scope(&self) -> Result<Scope, ApiError> {
        Ok(if self.flag("local")? { Scope::Local } else { Scope::Global })
    }

    /// Something that is `true` or `false`; absent is `false`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name)? {
            "true" => Ok(true),
            "" | "false" => Ok(false),
            other => Err(ApiError::bad_request(format!(
                "parameter {name} invalid: {other:?}, expected true or false"
            ))),
        }
    }

    /// Something that is true or false in any of the ways that Go knows; None when it is not said.
    #[cfg(feature = "add")]
    pub(super) fn go_flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name)? {
            "" => Ok(None),
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
            _ => Err(ApiError::bad_request(format!("parameter {name} invalid"))),
        }
    }

    /// `filter` of statuses.
    pub(super) fn status_filter(&self) -> Result<StatusFilter, ApiError> {
        self.get("filter")?.parse().map_err(refused)
    }

    /// `filter` of pin types.
    pub(super) fn type_filter(&self) -> Result<PinTypeFilter, ApiError> {
        self.get("filter")?.parse().map_err(refused)
    }

    /// `cids`, a comma list.
    pub(super) fn cids(&self) -> Result<Vec<Cid>, ApiError> {
        items(self.get("cids")?).map(cid).collect()
    }

    /// What is asked of a pin; `now` is what `expire-in` counts from.
    pub(super) fn pin_options(&self, now: impl FnOnce() -> Timestamp) -> Result<PinOptions, ApiError> {
        let mode = match self.get("mode")? {
            "" => crate::types::PinMode::default(),
            text => text.parse().map_err(refused)?,
        };
        let both = self.get("replication")?;
        let factor = |name: &str| {
            let text = if both.is_empty() { self.get(name)? } else { both };
            if text.is_empty() { Ok(0) } else { number(text, || format!("parameter {name} invalid")) }
        };
        let shard_size = match self.get("shard-size")? {
            "" => 0,
            text => number(text, || "parameter shard_size is invalid".to_owned())?,
        };
        Ok(PinOptions {
            replication_factor_min: factor("replication-min")?,
            replication_factor_max: factor("replication-max")?,
            name: self.get("name")?.to_owned(),
            mode,
            shard_size,
            user_allocations: self.user_allocations()?,
            expire_at: self.expire_at(now)?,
            metadata: self.metadata()?,
            pin_update: self.pin_update()?,
            origins: items(self.get("origins")?).map(origin).collect::<Result<_, _>>()?,
        })
    }

    fn user_allocations(&self) -> Result<Vec<PeerId>, ApiError> {
        items(self.get("user-allocations")?)
            .map(|text| {
                parse_peer(text).map_err(|error| {
                    ApiError::bad_request(format!("parameter user-allocations invalid: {}", error.message()))
                })
            })
            .collect()
    }

    fn expire_at(&self, now: impl FnOnce() -> Timestamp) -> Result<Option<Timestamp>, ApiError> {
        let unreadable = |name: &str, error: crate::Error| {
            ApiError::bad_request(format!("{name} cannot be parsed: {}", error.message()))
        };
        match (self.get("expire-at")?, self.get("expire-in")?) {
            (NEVER, _) | ("", "") => Ok(None),
            ("", text) => {
                let duration = parse_go_duration(text).map_err(|error| unreadable("expire-in", error))?;
                if duration < EXPIRE_IN_MIN {
                    return Err(ApiError::bad_request("expire-in duration too short"));
                }
                Ok(Some(now() + duration))
            }
            (text, _) => text.parse().map(Some).map_err(|error| unreadable("expire-at", error)),
        }
    }

    fn metadata(&self) -> Result<BTreeMap<String, String>, ApiError> {
        let mut metadata = BTreeMap::new();
        for (key, value) in self.family("meta-").filter(|(key, _)| !key.is_empty()) {
            let first = metadata.entry(key.to_owned()).or_insert_with(|| value.to_owned());
            if first != value {
                return Err(ambiguous(&format!("meta-{key}")));
            }
        }
        Ok(metadata)
    }

    fn pin_update(&self) -> Result<Option<Cid>, ApiError> {
        match self.get("pin-update")? {
            "" => Ok(None),
            text => parse_cid(text).map(Some).map_err(|error| {
                ApiError::bad_request(format!("error decoding update option parameter: {}", error.message()))
            }),
        }
    }
}

fn ambiguous(name: &str) -> ApiError {
    let text = format!("parameter {} invalid: given more than once with different values", shown(name));
    ApiError::bad_request(text)
}

/// A name as a message shows it: as it is where that is harmless.
fn shown(name: &str) -> Cow<'_, str> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    if name.len() <= 64 && name.chars().all(is_plain) { name.into() } else { quoted(name).into() }
}

/// A key as a message shows it: not all of a long one, and nothing but printable characters.
pub(super) fn quoted(key: &str) -> String {
    const SHOWN_CHARACTERS: usize = 64;
    let shown: String = key.chars().take(SHOWN_CHARACTERS).collect();
    format!("{shown:?}")
}

/// Keeps what was asked for, for the test that the document describes what handlers read.
fn note(_name: &(impl std::fmt::Display + ?Sized)) {
    #[cfg(test)]
    READ.with_borrow_mut(|read| read.insert(_name.to_string()));
}

#[cfg(test)]
thread_local! {
    /// The names that were read on this thread.
    pub(super) static READ: std::cell::RefCell<std::collections::BTreeSet<String>> = const {
        std::cell::RefCell::new(std::collections::BTreeSet::new())
    };
}

/// A CID from a path or a list.
pub(super) fn cid(text: &str) -> Result<Cid, ApiError> {
    parse_cid(text).map_err(|error| ApiError::bad_request(format!("error decoding Cid: {}", error.message())))
}

/// Undoes percent-encoding; in queries a plus is a space.
pub(super) fn decode(text: &str, plus_is_space: bool) -> Result<Cow<'_, str>, ApiError> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| *byte == b'%' || (plus_is_space && *byte == b'+')) {
        return Ok(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'+' if plus_is_space => decoded.push(b' '),
            b'%' => {
                let value = after.get(..2).and_then(|pair| {
                    let half = |byte: u8| char::from(byte).to_digit(16);
                    Some((half(pair[0])? << 4 | half(pair[1])?) as u8)
                });
                let Some(value) = value else {
                    return Err(ApiError::bad_request(format!("invalid percent-encoding in {text:?}")));
                };
                decoded.push(value);
                rest = &after[2..];
            }
            _ => decoded.push(byte),
        }
    }
    match String::from_utf8(decoded) {
        Ok(decoded) => Ok(Cow::Owned(decoded)),
        Err(_) => Err(ApiError::bad_request(format!("invalid percent-encoding in {text:?}: not UTF-8"))),
    }
}

/// The items of a comma list, without empty ones.
pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn number<T: std::str::FromStr>(text: &str, wrong: impl FnOnce() -> String) -> Result<T, ApiError> {
    text.parse().map_err(|_| ApiError::bad_request(wrong()))
}

fn origin(text: &str) -> Result<Multiaddr, ApiError> {
    let address = parse_multiaddr(text).map_err(|error| {
        ApiError::bad_request(format!("error decoding multiaddress: {}", error.message()))
    })?;
    if address.iter().any(|part| matches!(part, Protocol::P2p(_))) {
        Ok(address)
    } else {
        Err(ApiError::bad_request("multiaddress does not contain peer ID: protocol not found in multiaddr"))
    }
}

fn refused(error: crate::Error) -> ApiError {
    ApiError::bad_request(error.message())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PinMode, PinType, TrackerStatus};

    const CID: &str = "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o";
    const PEER: &str = "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK";

    fn options(query: &str) -> Result<PinOptions, ApiError> {
        Query::parse(Some(query))?.pin_options(|| Timestamp::from_unix_seconds(1_000))
    }

    #[test]
    fn options_are_read_as_clients_of_the_reference_write_them() {
        let sent = format!(
            "expire-at=2030-01-02T03%3A04%3A05.5%2B01%3A00&meta-a=1&meta-b=x+y&meta-=no&mode=direct&name=two%20words\
             &origins=%2Fip4%2F127.0.0.1%2Ftcp%2F1%2Fp2p%2F{PEER}&pin-update={CID}&replication-max=3\
             &replication-min=2&shard-size=100&user-allocations={PEER}"
        );
        let read = options(&sent).unwrap();
        assert_eq!((read.replication_factor_min, read.replication_factor_max), (2, 3));
        assert_eq!((read.name.as_str(), read.mode, read.shard_size), ("two words", PinMode::Direct, 100));
        assert_eq!(read.user_allocations, [PEER.parse().unwrap()]);
        assert_eq!(read.expire_at, Some("2030-01-02T02:04:05.5Z".parse().unwrap()));
        assert_eq!(read.metadata, [("a", "1"), ("b", "x y")].map(|(k, v)| (k.into(), v.into())).into());
        assert_eq!(read.pin_update, Some(CID.parse().unwrap()));
        assert_eq!(read.origins.len(), 1);

        let empty = "mode=recursive&name=&replication-max=0&replication-min=0&shard-size=0&user-allocations=";
        assert_eq!(options(empty).unwrap(), PinOptions::default());
        assert_eq!(options("").unwrap(), PinOptions::default());
        assert_eq!(options("expire-at=0001-01-01T00%3A00%3A00Z").unwrap().expire_at, None);
    }

    #[test]
    fn some_options_win_over_others() {
        let both = options("replication=5&replication-min=1&replication-max=2").unwrap();
        assert_eq!((both.replication_factor_min, both.replication_factor_max), (5, 5));
        let expiry = options("expire-in=1m&expire-at=2030-01-01T00%3A00%3A00Z").unwrap();
        assert_eq!(expiry.expire_at, Some("2030-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!(options("expire-in=1m").unwrap().expire_at, Some(Timestamp::from_unix_seconds(1_060)));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_the_references_text() {
        for (query, text) in [
            ("replication-min=abc", "parameter replication-min invalid"),
            ("replication-max=1.5", "parameter replication-max invalid"),
            ("replication=x", "parameter replication-min invalid"),
            ("replication-min=99999999999", "parameter replication-min invalid"),
            ("shard-size=-1", "parameter shard_size is invalid"),
            ("expire-in=10ms", "expire-in duration too short"),
            ("pin-update=xx", "error decoding update option parameter: invalid cid: "),
            ("expire-in=abc", "expire-in cannot be parsed: time: invalid duration \"abc\""),
            ("expire-at=yesterday", "expire-at cannot be parsed: parsing time \"yesterday\""),
            ("origins=/bad/addr", "error decoding multiaddress: failed to parse multiaddr \"/bad/addr\": "),
            (
                "origins=/ip4/127.0.0.1/tcp/1234",
                "multiaddress does not contain peer ID: protocol not found in multiaddr",
            ),
            ("mode=weird", "unknown pin mode \"weird\", expected recursive or direct"),
            ("user-allocations=badpeer", "parameter user-allocations invalid: invalid peer id \"badpeer\""),
            ("name=%zz", "invalid percent-encoding in \"%zz\""),
            ("name=%4", "invalid percent-encoding in \"%4\""),
            ("name=%ff", "invalid percent-encoding in \"%ff\": not UTF-8"),
        ] {
            let error = options(query).unwrap_err();
            assert_eq!(error.status, 400, "{query}");
            assert!(error.message.starts_with(text), "{query}: {}", error.message);
        }
    }

    #[test]
    fn what_is_there_twice_must_say_the_same() {
        for query in [
            "name=a&name=a&meta-k=1&meta-k=1",
            "mode=direct&mode=%64irect",
            "name=&name=&unknown=1&unknown=2&meta-=1&meta-=2",
        ] {
            options(query).unwrap();
        }
        for (query, name) in [
            ("name=a&name=b", "name"),
            ("name=a&name=", "name"),
            ("name=&name=a", "name"),
            ("mode=direct&x=1&mode=recursive", "mode"),
            ("replication=1&replication=2", "replication"),
            ("replication-min=1&replication-min=2", "replication-min"),
            ("replication-max=1&replication-max=", "replication-max"),
            ("shard-size=1&shard-size=2", "shard-size"),
            ("expire-in=1m&expire-in=2m", "expire-in"),
            ("expire-at=0001-01-01T00:00:00Z&expire-at=2030-01-01T00:00:00Z", "expire-at"),
            ("meta-k=1&meta-j=1&meta-k=2", "meta-k"),
            ("meta-%0a=1&meta-%0a=2", "\"meta-\\n\""),
            ("pin-update=a&pin-update=b", "pin-update"),
            ("origins=a&origins=b", "origins"),
            ("user-allocations=a&user-allocations=b", "user-allocations"),
        ] {
            let error = options(query).unwrap_err();
            let wanted = format!("parameter {name} invalid: given more than once with different values");
            assert_eq!((error.status, error.message), (400, wanted), "{query}");
        }
        let long = format!("meta-{}", "k".repeat(5_000));
        assert!(options(&format!("{long}=1&{long}=2")).unwrap_err().message.len() < 200);
        let twice = Query::parse(Some("local=true&local=false&filter=all&filter=pin&cids=a&cids=b")).unwrap();
        assert!(twice.scope().unwrap_err().message.starts_with("parameter local invalid: given more"));
        assert!(twice.type_filter().unwrap_err().message.starts_with("parameter filter invalid: given more"));
        assert!(
            twice.status_filter().unwrap_err().message.starts_with("parameter filter invalid: given more")
        );
        assert!(twice.cids().unwrap_err().message.starts_with("parameter cids invalid: given more"));
    }

    #[test]
    fn filters_scopes_and_lists_are_read_strictly() {
        fn query(text: &str) -> Query<'_> {
            Query::parse(Some(text)).unwrap()
        }
        let empty = query("local=false&filter=&cids=");
        assert_eq!((empty.scope().unwrap(), empty.cids().unwrap()), (Scope::Global, vec![]));
        assert_eq!(empty.status_filter().unwrap(), StatusFilter::ALL);
        assert_eq!(query("local=true").scope().unwrap(), Scope::Local);
        assert!(query("local=1").scope().unwrap_err().message.starts_with("parameter local invalid"));
        assert!(
            query("filter=pin_error,%20queued").status_filter().unwrap().matches(TrackerStatus::PinQueued)
        );
        assert!(query("filter=pin,meta-pin").type_filter().unwrap().matches(PinType::Meta));
        for text in ["filter=nope", "filter=undefined", "filter=nope,remote"] {
            let error = query(text).status_filter().unwrap_err();
            assert!(error.message.starts_with("invalid filter value") && error.message.contains("pinned"));
        }
        let cids = format!("cids={CID},%20{CID},");
        assert_eq!(query(&cids).cids().unwrap().len(), 2);
        assert!(
            query("cids=zzz").cids().unwrap_err().message.starts_with("error decoding Cid: invalid cid: ")
        );
    }
}
